// Package authz says whether a request may do what it asks for: by [Rules], and by asking
// somebody else ([External]) over HTTP or gRPC.
//
// # Rules
//
// A rule is a line of conditions with blanks between them, all of which must hold:
//
//	allow = ["group:admins", "scope:orders.write method:POST,PUT path:/orders/{id}", "claim:tenant={tenant} path:/t/{tenant}/{rest...}"]
//	deny  = ["client:198.18.6.0/24 !group:admins"]
//
//	*                    anything
//	authenticated        somebody is known to ask; anonymous: nobody is
//	subject:V provider:V group:V scope:V
//	claim:PATH=V         a claim of the token, or one value of its list; claim:PATH: it is there
//	cert:V               a name (SAN or CN) of the connection's verified client certificate
//	client:PREFIX        the client's address
//	listener:V sni:V     where and by what server name it came; tls: by TLS at all
//	alpn:V               the protocol that TLS negotiated: h2, http/1.1, h3
//	host:V method:V      GET means HEAD too
//	path:PATTERN         {name} stands for one segment, {name...} for the rest; a slash at the end counts for nothing
//	grpc:SERVICE/METHOD  such as grpc:shop.Orders/Get or grpc:shop.Orders/*
//	header:NAME=V        which clients choose themselves
//	var:NAME=V           a variable of the route's pattern
//
// V may be several with commas between them, of which one must fit; it may have a "*" at
// its beginning or end, and stand in quotes ("a b", with \" and \\). {NAME} in it is the
// value of a variable, of the rule's own path first, then of the route's; {subject} and
// {claim:PATH} are the identity's. "!" before a condition turns it around.
//
// Deny comes first, then allow; what no rule allows is refused.
//
// Some conditions can't be told: of a path in which other servers might see another one
// (encoded slashes, empty or dot segments, backslashes, semicolons), of a value whose
// variable is not there or empty. Such a condition holds for deny and does not for allow,
// turned around or not.
//
// Rules about connections ([ParseConnection]) have only conditions that a connection tells
// before its first request. They are asked as it goes on ([Rules.Connection]), and refuse it
// as soon as nothing that is still to be told could let it in.
//
// # Asking
//
// Over HTTP a GET carries X-Forwarded-Method, -Proto, -Host, -Uri and -For, X-Request-Id,
// chosen fields of the request, and the identity as X-Auth-Subject, -Provider, -Scopes and
// -Groups. 2xx lets the request pass, 401 and 403 refuse it (and 3xx, where that is
// configured), anything else is no answer. Over gRPC it is envoy.service.auth.v3.Authorization/Check,
// which existing servers answer; dynamic metadata of its answer is not used, and an answer
// that changes query parameters is taken for none. No answer refuses with 503, or passes,
// as configured. Answers can be remembered, under a hash of all that was sent but the
// request's ID.
//
// # Owner and goroutines
//
// Everything belongs to who makes it and is safe for concurrent use. A question runs on a
// goroutine of its own, at most its timeout long, when several requests can wait for its
// answer. It must not know configuration files, listeners or upstreams.
package authz
