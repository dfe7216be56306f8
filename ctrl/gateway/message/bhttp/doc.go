// Package bhttp reads and writes HTTP messages as bytes, as RFC 9292 has them: what a
// payload of NPRO holds when a whole request or answer travels in it.
//
// Messages whose end is known have the known-length form (§3.1), streams the one of
// indeterminate length (§3.2). A [Reader] takes both, of any reader, and holds no more
// than one section of fields at a time; what it takes is bounded by [Limits]. Informational
// answers are skipped (§3.5.1), padding must be zeros (§3.8), a message may end early where
// the RFC lets it (§3.8). Fields that describe a connection are refused: they have no
// meaning here, and a gateway must not pass them on.
package bhttp
