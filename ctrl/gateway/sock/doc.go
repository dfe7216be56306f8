// Package sock reads connections without a buffer while there is nothing to be read, and
// looks at those that are idle. Both need a descriptor ([syscall.Conn]); where there is
// none, or something is between, it does what can be done without.
//
// It must not know: protocols, what the bytes are for.
package sock
