// Package target makes one thing of the many ways in which a request can write the path
// it asks for, before anything is decided by it: what the gateway matches is what the
// backend sees. Without that a rule for /admin is passed by /./admin, /%61dmin, //admin
// or /x/../admin.
//
// # What is done (RFC 3986 §6.2)
//
//   - Escapes of unreserved characters are decoded, others get capital digits; characters
//     that a path can't have as they are get escaped (§6.2.2.1, §6.2.2.2).
//   - Dot segments are resolved, escaped ones (%2e) too (§6.2.2.3, §5.2.4).
//   - Slashes that follow each other become one, or are refused ([Policy.RefuseDoubleSlash]).
//   - An empty path is "/" (§6.2.3).
//
// # What is refused (the gateway answers 400)
//
//   - escapes that are none (%, %1, %zz), control characters and NUL however they are written;
//   - backslashes however they are written, since some servers take them for slashes;
//   - %2F, unless [Policy.KeepEncodedSlash]: then it is a character of its segment, and
//     never a slash for any rule;
//   - bytes that, decoded, are not UTF-8: overlong forms of dots and slashes are among them;
//   - dot segments above the root (/../x), and those with parameters (/..;x/), which servers
//     that know parameters resolve;
//   - parameters (;), where [Policy.RefuseParameters] says so. Set it for backends that
//     cut them off before they look at the path, as Java's servlet containers do: for
//     them /admin;x is /admin.
//
// A path is decoded once. What a backend makes of %252e%252e when it decodes twice can't
// be known here.
//
// # Two forms
//
// [Path.Wire] goes to the backend. In it escapes of reserved characters stay as they came
// (RFC 3986 §2.2: %3B and ; may differ for the backend). [Path.Plain] is what rules are
// compared with and what variables are parts of: everything is decoded in it but %2F and
// %25. So /%40x meets a rule for /@x; a segment's value never holds a slash; and a value
// can be put into a path again without loss ([Encode]).
//
// The package holds no state; everything is safe for concurrent use.
package target
