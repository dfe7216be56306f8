// Package npc drives the data plane in C: it implements [dataplane.Plane] over
// csrc/include/np/plane.h and np/abi.h, and is the only package with
// import "C". Without cgo New says so and everything else still builds.
//
// # Who does what
//
// C makes the poll threads, one per core, pinned and with all signals blocked;
// they run whether Go does or not. Go calls C only to make, start, stop and
// query; messages travel through three rings per core, in C memory that both
// sides read with atomics (ring.go): commands to the core, events from it, and
// buffers it lends for sending.
//
// # Reading
//
// The event ring has one consumer, and answers to set-up calls (NP_EV_DONE)
// come through it between all other events. The consumer is whoever holds
// core.rmu: normally the goroutine that polls the core. A set-up call whose
// answer does not come (nobody polls yet, or the polling goroutine makes the
// call itself) becomes the consumer for a moment: it takes answers out and
// lays other events aside in core.stash, where Poll finds them first. The stash
// holds two rings' worth; that is more than can lie before the answer to a
// command already queued, because a core answers commands before it makes other
// events in a turn, and stops when its ring is full. Should it fill all the
// same, events stay in the ring, the core's sessions stop reading, TCP's
// windows close, and set-up calls wait until somebody polls or their context
// ends.
//
// An idle reader sleeps on the core's eventfd in the runtime's poller. It sets
// cons_sleeping, looks at the ring once more, and only then sleeps; the core
// writes the eventfd only when that flag is set. The other direction is the
// same with wake_fd.
//
// # Bodies
//
// Event.Body points into the core's buffers until Release, which sends them
// back with NP_CMD_FREE. The slice headers lie in core.views, one per buffer,
// so that events with one piece cost no allocation.
//
// # Pipes and UDP sockets
//
// What Write and SendTo copy into lent buffers leaves in them; the core lends
// others in their place. Write makes pieces as long as the connection's segments,
// and waits (CodeFull) while the pipe has more than its share of buffers, which the
// core sets when peers that do not read hold too many. A datagram's addresses lie in
// front of it in its first buffer and are copied out.
//
// # Building
//
// `make` builds build/release/libnp.a and zz_stamp.h first; `go build` alone
// then works too. Another variant of the library comes first on the path that
// the linker searches with CGO_LDFLAGS, for example after `make V=san lib`:
//
//	CC=clang CGO_LDFLAGS="-L$PWD/build/san -fsanitize=address,undefined" go test -asan ./dataplane/npc
//
// # Ownership
//
// The plane owns every goroutine and descriptor it makes: there is no
// goroutine at all between calls. Close stops the threads first; then nothing
// in C moves, and everything is freed.
package npc
