// Package secure is TLS 1.2 and 1.3 over any transport: settings in the operator's words
// become crypto/tls configurations, certificates are chosen by server name and loaded again
// without a restart, and [Transport] wraps a dataplane.Transport.
//
// Go's crypto/tls does handshakes and records. Keys and certificates are read from files;
// nothing here logs, and errors never carry key material.
//
// A [Store] belongs to whoever loads it; everything is safe for concurrent use. Nothing here
// starts a goroutine.
package secure
