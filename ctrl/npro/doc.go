// Package npro is NPRO version 2 in Go: frame headers, AEAD records, message
// bodies, context blocks and compression. The SDK, the load generator and the
// tests use it; the data plane has its own implementation in C, and both are
// held to csrc/test/vectors/npro.txt.
//
// Nothing here does input or output or reads a clock. A Sealer and an Opener
// belong to one direction of one connection and to one goroutine at a time.
// Everything that is parsed is taken to be hostile: lengths are checked before
// they are read, limits before memory is taken.
package npro
