// Package filter is what a route does around forwarding, or instead of it: paths and
// hosts written anew ([NewRewrite]), header fields edited ([NewHeaders]), CORS
// ([NewCORS]), answers compressed ([NewCompress]), bodies bounded ([NewBodyLimit]) and
// decompressed ([NewDecompress]); and redirects ([NewRedirect]), fixed answers ([NewRespond]) and files ([NewFiles]).
//
// A filter is a [Stage] around the next handler, or a handler by itself. It is made once
// of its options, which tell everything that is wrong with them as joined [OptionError]s,
// and holds no state of requests: stages and handlers are safe for concurrent use.
//
// # What stays as it is
//
// Every writer that a stage puts around the server's flushes, hijacks, takes deadlines and
// unwraps for [http.ResponseController], lets interim answers (1xx) and trailers through
// and hands bodies that it does not change to the server's own ReadFrom. A stage that
// changes a request hands a copy on; its caller still has the request as it came.
//
// Bodies of requests go to the backend as they came unless a route asks for plain ones.
// NewBodyLimit counts what was sent, NewDecompress what came of it.
//
// # Texts with variables
//
// Values of header fields, paths, hosts may have {client_ip}, {client_port}, {peer_ip},
// {request_id}, {method}, {scheme}, {host}, {path}, {query}, {protocol}, {sni},
// {listener}, {route}, {identity} (its subject), {identity_provider}, {header:NAME} (the
// first value of the request's field) and {var:NAME} (a variable of the route's pattern; {NAME}
// alone, where it is none of these words). What is not known is empty. "{{" and "}}" stand for braces. They are of the request as
// it is at this stage.
package filter
