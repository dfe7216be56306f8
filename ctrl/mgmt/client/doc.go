// Package client speaks to the management socket: HTTP/1.1 with JSON over a Unix
// socket (see ctrl/mgmt/api). npctl is built on it; other Go programs may be too.
package client
