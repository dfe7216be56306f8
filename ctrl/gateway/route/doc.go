// Package route finds the rule that a request belongs to.
//
// Rules are compiled once ([Compile]) into an immutable [Table]: a map of hosts, and for
// each host a tree of path segments. [Table.Match] walks no list of all rules, takes no
// lock and allocates nothing where the caller lends room for the variables.
//
// # Which rule
//
// All conditions of a rule hold, and of several values of one condition (hosts, paths,
// methods, …) any. Where several rules match, the first of these that differs decides:
//
//  1. The host: a name before a wildcard ("*.example.com", which stands for one label or
//     more), a longer wildcard before a shorter one, no host last.
//  2. The path, segment by segment from the left: a literal before a {variable}, a
//     variable before the end of what the rule says (a prefix, {rest...}), {rest...} and
//     "/a/" as a prefix before the prefix "/a". So an exact path comes before every prefix,
//     and a longer prefix before a shorter one.
//  3. The number of other conditions: listeners, methods, SNI, ALPN and gRPC count one
//     each, headers and query parameters one for each of them.
//  4. The order in which the rules stand.
//
// A rule with a better host or path that fails for another condition leaves the request
// to the next; the rule of another, less exact host may be it. Who wants a host for
// itself gives it a rule for the prefix "/".
//
// Rules that have host and path in common are tried one by one: at most [MaxAlike] may.
//
// # Paths
//
// The path that is matched is the plain form of ctrl/gateway/target; a table is asked
// with nothing else. A prefix ends on a segment: "/a" matches /a and /a/b but not /ab, "/a/"
// matches /a/b and /a/ but not /a. A {variable} is one segment that is not empty,
// {rest...} all that follows, which may be empty (the slash before it may not be missing).
// Values have everything decoded but %2F and %25 (package target says why).
//
// # Methods
//
// A rule for GET matches HEAD too (RFC 9110 §9.3.2), and the extended CONNECT
// of WebSocket over HTTP/2 and 3, which is a GET over HTTP/1.1. TRACE, whose answer shows all
// that the gateway added, cookies and identities (RFC 9110 §9.3.8), is matched by rules that
// name it alone. Where rules match but for the method the outcome is [MethodNotAllowed] with
// what is allowed. Of rules with Preflight the preflight request of CORS (OPTIONS with Origin
// and Access-Control-Request-Method) is one of the method that it asks for, whatever its
// header fields: browsers send none of those that the request itself will have.
//
// # Header fields, parameters, names
//
// A condition on a field that comes several times holds if one of its values meets it;
// lists with commas are not taken apart. Parameters of the query are decoded before they
// are compared; those with bad escapes are left out. Regular expressions (RE2) have to
// match a whole value. Hosts and SNI are compared without regard to case, port and one
// dot at the end; names beyond ASCII have to be written as requests have them ("xn--…").
//
// The package must not know: connections, configuration files, what a rule does.
package route
