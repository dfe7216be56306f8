// Package pool keeps things that are dear to open and can be used again, one
// borrower at a time: connections of HTTP, NPRO or a database to one
// destination. [Pool] is generic over what is pooled; a function opens, one
// validates and one closes an item.
//
//	p, err := pool.New(pool.Options[net.Conn]{Name: "api", Open: dial, Close: hangUp}, pool.DefaultConfig())
//	l, err := p.Acquire(ctx)
//	_, err = l.Value().Write(request)
//	if err != nil { l.Discard() } else { l.Return() }
//
// # Rules
//
// Idle items are lent last in, first out, so that those nobody needs grow old
// and end first. Who finds none waits in one queue, first come, first served,
// whatever shard it asked for, and gets what comes first: an item returned or
// one newly opened. Nobody overtakes: while one waits, a later Acquire queues.
// A waiter that gives up at the moment it is served puts the item back.
//
// Items are opened in the background, at most MaxConnecting at a time and
// OpenRate a second, for those who wait and to keep Min. After a failure there
// is a pause, doubled with each failure in a row and shortened at random, and
// then one attempt at a time until one succeeds: a dead destination gets a few
// attempts a minute however many wait.
//
// Validation comes before a lease, on the borrower's goroutine, for items unused
// for ValidateAfter, and in the background every ValidateEvery. A borrower whose
// item proves bad goes on to the next without losing its turn.
//
// Max holds at each moment, items in the course of being opened or closed
// included. Only lowering it leaves more open for as long as they are borrowed.
//
// # Owner and goroutines
//
// The pool belongs to who called New, who calls Close. It runs one janitor and,
// while items are being opened, at most MaxConnecting openers; Close waits for
// all of them. No goroutine belongs to an item. Close functions run on the
// goroutine that found the item's end: of the janitor, of who returns or
// discards it, of who calls Flush, SetConfig or Close, and now and then of who
// acquires. They should not block for long.
//
// # What it must not know
//
// What an item is, what is spoken over it, and which destinations there are. An
// item has one borrower: who carries many requests over one connection, as
// HTTP/2 does, shares a lease among them. One pool is one destination, and
// choosing among them is the caller's (ctrl/upstream's). It reads no
// configuration file and exports no metrics; it offers [Config] and [Stats] to
// those who do.
package pool
