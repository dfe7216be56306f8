// Package limit keeps requests within bounds: how many in a time ([Rate]), how many at a
// time ([Concurrency]), and how many while answers are slow ([Shedder]).
//
// # Rate
//
// A [Rate] is a token bucket per key, kept as one time stamp: the moment at which the
// bucket is full again (the generic cell rate algorithm). Without a key there is one
// bucket, an atomic. With a key they lie in a table of fixed size that is made at start,
// eight buckets to a set; a key's hash, seeded at random, picks the set. A new key takes
// the place of the bucket that is fullest: mostly one that is full, whose loss nobody
// notices. Only when more keys than the table has places are in debt at a time does the
// one with the least debt get its burst again early; Stats.Evicted counts these.
// Deciding allocates nothing and holds at most one set's lock. One Rate that several
// routes and listeners use counts them together.
//
// An answer carries the fields of draft-ietf-httpapi-ratelimit-headers-10,
//
//	RateLimit-Policy: "per-client";q=100;w=60
//	RateLimit: "per-client";r=37;t=12
//
// (100 requests in 60 s; 37 can be sent at once; the bucket is full again in 12 s), or the
// older X-RateLimit-Limit, -Remaining and -Reset, or none. A refusal is 429 with
// Retry-After.
//
// # Concurrency
//
// A [Concurrency] lets Max requests in at a time and PerKey of one key. Who finds no room
// waits its turn, first come, first served, at most Wait long and at most Queue of them;
// those that wait for their own key's sake hold up nobody else. A refusal is 503 with
// Retry-After.
//
// # Shedding
//
// A [Shedder] finds out by itself how many requests at a time the handlers behind it can
// serve without getting slow. It keeps a limit on requests that wait for the head of their
// answer. Once a window (a second, and at least 20 answers) it compares the window's
// latency at a percentile with what it should be: Target, or Tolerance times the lowest
// that any of the last 600 windows saw.
//
//   - Slower: the limit is multiplied with their ratio, by half at least.
//   - Not slower, and at least half of the limit was in use: the limit grows by its square root.
//   - Else it stays: unused room says nothing of how much there is.
//
// A request is let in while fewer are waiting than its class's part of the limit: low half,
// normal three quarters, high nine tenths, critical all of it. So what matters least is
// shed first and what matters most keeps some room to itself. A refusal is 503 with
// Retry-After. Streams count until the head of their answer only. The time of a refusal by a
// stage behind it, or of a failure that was quick, is not taken for a latency: else a flood of
// bad passwords, or a backend that is down, would make the lowest latency of ten minutes.
//
// # Owner and goroutines
//
// Everything belongs to who calls New, is safe for concurrent use and starts no goroutine.
// Time comes from Config.Now, or as an argument. It must not know configuration files,
// listeners or transports.
package limit
