// Package upstream is what every protocol needs that sends requests to several endpoints
// that do the same: which there are, which are well, which is next, and what to do when
// one fails. It knows no protocol; whoever speaks one asks for an endpoint, sends, and
// tells how it went ([Upstream.Acquire], [Lease.Done]), or leaves the tries to
// [Upstream.Do].
//
// # Choosing
//
// What lists, operator, checks and the outlier detector say together is one immutable
// view, replaced as a whole. Choosing takes no lock and allocates nothing: it reads the
// view, one [Policy]'s structure in it and the endpoints' atomics (requests in flight,
// breaker). Consistent policies (RingHash, Maglev) go by the key and ignore slow start;
// an endpoint without room passes its keys on to the next.
//
// Endpoints of priority 0 take all requests while at least FailoverAt percent of them are
// healthy; below, a share goes on to the next priority. When all levels together can't
// take everything, a level with fewer healthy endpoints than PanicPercent uses all of its
// endpoints: then the checks are more likely wrong, and few endpoints would fall under the
// load of all.
//
// # Leaving endpoints out
//
// Three judges, from slow to fast: checks ([HealthConfig]), the outlier detector
// ([OutlierConfig], which compares endpoints and never leaves out more than a part of
// them) and each endpoint's circuit breaker ([BreakerConfig]). A panic overrules the first
// two, never the breaker or the limits. Drained and disabled endpoints are never used.
// Each refusal is a [Refusal] with its reason in words.
//
// # Repeating
//
// A request is repeated only when its caller says that it may be, or nothing of it was
// sent; within Attempts, the total time and the budget of retries.
//
// # Goroutines and time
//
// [Upstream.Run] is one goroutine, with at most HealthConfig.Concurrency checks beside it;
// it ends with its context and waits for them. [Source.Run] is the caller's goroutine.
// All other methods are safe for concurrent use. Time comes from a [Clock], randomness
// from Config.Rand; deadlines are those of contexts.
//
// It must not know: protocols, transports (a [DialFunc] is all), configuration files.
package upstream
