// Package aggregate answers one request with what several upstreams say.
//
// An [Aggregate] is a set of parts, each a request to a cluster of its own. Parts run at
// the same time; one whose path has a value of another's answer waits for that one alone.
// Their answers are JSON and make one JSON object.
//
// # Paths
//
// A part's path is a template. {id} is a variable of the route, {query.page} the first
// parameter of that name, {header.X-Tenant} a field of the request, {user/id} a value of
// the answer of the part user, by JSON pointer (RFC 6901). Values are escaped for where
// they stand; one that is missing, that is no string, number or boolean, or that would be
// a dot segment, fails the part before it is sent. A parameter of the query may end with a
// question mark, {query.page?}: missing, it is empty.
//
// # Merging
//
// The answer is the object of the fields. A field has a key, whose dots nest, and a
// source, a part's name with or without a JSON pointer into its answer:
//
//	"user"         = "user"
//	"orders.items" = "orders/items"
//	"orders.total" = "orders/page/total"
//
// There is no template language: what comes from an upstream is data, is checked to be
// JSON, and lands whole where its key says. Without fields each part has its own name.
//
// # Failing
//
// A part that fails (no answer in time, a status other than 2xx, no JSON, too large, too
// deep, a source that points to nothing) is missing. A required one fails the whole
// request at once, and what the others do is broken off. The default of an optional one
// takes the place of its answer (where a source points to nothing in it, null), and the
// answer says so in the field Aggregate-Missing and, if configured, under a key
// of the object. Circuit breakers, limits and retries are those of each part's cluster.
//
// # Goroutines
//
// One for each part, all over when the handler returns. It must not know: configuration
// files, how requests are sent.
package aggregate
