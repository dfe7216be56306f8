// Package portstest plays the machine in tests: interfaces that come, go and
// refuse, and XDP programs that only remember.
//
// It must not know the data plane's implementations.
package portstest
