// Package dispatch maps opcodes to handlers. ctrl/session calls it with
// messages whose sender is known and may call the opcode; handlers know
// neither connections nor the data plane.
//
// A handler answers with a payload or an error; an [npro.Code] in the error's
// chain becomes the status the peer sees, any other error is INTERNAL and its
// text stays here. Handlers run on goroutines of ctrl/session, as many at a
// time as it is configured for, except those marked Inline, which run on the
// goroutine that reads a core's events and must not block.
package dispatch
