// Package clienttest is a small NPRO server for tests of clients: the real
// protocol over any net.Conn, in Go, without the data plane. It obeys and
// enforces flow control, and lets a test do what a server should not.
//
// Per connection a reader and a writer run; Close waits for them. Handlers run
// on the reader. It must not know ctrl/client.
package clienttest
