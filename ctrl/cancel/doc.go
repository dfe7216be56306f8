// Package cancel has contexts for hot paths. A [Context] is part of the object whose end
// it tells, so that making it allocates nothing, and it can be waited for without a
// goroutine and without an allocation: by a [Hook], which is part of the object that waits.
// What others derive from such a context by package context works as always.
//
// A [Timers] lends timers that end contexts, and takes them back.
//
// Everything here is safe for concurrent use, but that a Hook belongs to who attached it.
package cancel
