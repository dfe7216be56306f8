// Package accesslog writes one JSON line for each exchange of the gateway, at its end.
//
// A line is encoded into a buffer in memory by the goroutine that served the request,
// without reflection, allocation or system call; a goroutine of the log's own writes
// what has gathered, many lines at a time. Buffers are bounded: where they are full, the
// disk is slower than the requests, and a line is dropped and counted. Lines that are
// written in one go may stand in another order than they came in; each has its time.
//
// # What a line says
//
// Fields that say nothing are left out, but for those that scripts rely on: time, listener,
// protocol, method, host, path, status, reason, duration_seconds, received_bytes, sent_bytes
// are in each line.
//
//	time                when the head of the request was read, RFC 3339, UTC
//	listener, protocol  its name; http/1.1, h2, h3 or npro
//	client, peer        for whom; the other end of the connection, where it is another
//	method, host, path  as they came, before any rewriting
//	query               only if Config.Query says so: queries carry secrets
//	user_agent          only if Config.UserAgent says so
//	status, reason      reason is "none" for what went as asked
//	grpc_status         the code of an answer of gRPC, whose status is 200 in any case
//	route, upstream, endpoint, tries
//	provider, subject   who asked, as far as it was proved
//	request_id, trace_id, sampled
//	duration_seconds    from the request's head to the end of the answer
//	first_byte_seconds  to the head of the answer
//	received_bytes, sent_bytes of the bodies
//	slow                true: it took longer than Config.SlowAfter
//	sample              the part of such lines that is written, where that is not all
//	errors              what was noted for the logs, where the reason is not "none"
//	path_bytes, …       the whole size of a field that was too long and was cut
//
// Bodies, header fields and credentials are never written.
//
// # Goroutines
//
// All methods are safe for concurrent use. New starts the goroutines, Close writes what
// is left and waits for them.
package accesslog
