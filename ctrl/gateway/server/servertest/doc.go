// Package servertest starts servers of the gateway for tests. Its functions are called on
// the test's goroutine. It must not know: configuration files, gateways.
package servertest
