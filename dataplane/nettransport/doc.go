// Package nettransport is a [dataplane.Transport] over Go's own net: TCP, UDP and
// Unix sockets of the kernel. It is the rung when nothing else is there or wanted, and
// what the other transports are compared with.
//
// Goroutines and readiness are the runtime's. A connection is safe for concurrent use
// as net's are. Zero-copy there is none: ReadBuffers reads into pooled memory.
//
// Unix sockets get their file mode before anybody can connect, and tell who is at the
// other end ([dataplane.Properties]). A socket's file that nobody listens on any more
// is replaced; any other file in the way is an error.
//
// It must not know: planes, cores, configuration.
package nettransport
