// Package grpcgw is what the gateway does for gRPC beyond forwarding it: it takes
// gRPC-Web and plain HTTP with JSON and makes gRPC of them, makes HTTP with JSON of gRPC for
// upstreams that speak none, holds deadlines and message
// sizes within bounds, and answers reflection and health in the place of backends.
//
// Each part is a stage in front of a handler that forwards to a cluster speaking HTTP/2;
// [New] puts them together in this order:
//
//	Web        gRPC-Web, binary and text → gRPC
//	Transcoder JSON over HTTP by google.api.http → gRPC
//	Guard      grpc-timeout read strictly and lowered, messages' lengths checked
//	Local      grpc.reflection and grpc.health, when asked for
//	REST       gRPC → JSON over HTTP by google.api.http, in the place of the Transcoder
//
// # JSON
//
// What a method is reached by comes from a file descriptor set (protoc
// --descriptor_set_out --include_imports) or from a backend's reflection service. Paths,
// body, response_body, additional bindings and query parameters are those of
// google/api/http.proto; messages are JSON as protojson has it.
//
// A method that streams its answer sends one JSON value for each message: lines
// (application/x-ndjson), server-sent events (text/event-stream) or the elements of one
// array (application/json), as the Accept field asks. A method that takes a stream reads
// the values of one array, or one after the other; variables of the path and the query
// belong to the first message. google.api.HttpBody is the body itself.
//
// Errors are google.rpc.Status as JSON with the HTTP status that belongs to the code.
// Once a stream has begun its error is a last value {"error": status} (an event named
// error in server-sent events), and the fields Grpc-Status and Grpc-Message of the
// trailer.
//
// # REST
//
// A call becomes the request of its rule, or of the first additional binding whose path its
// fields fill: path, body and query are made as google/api/http.proto says that clients
// make them. Segments of dots, which lead elsewhere, are refused. Answers are JSON, or
// data where the message is a google.api.HttpBody; streams may be any of the three that the
// Transcoder writes, and may end with the same error. What an upstream answers is bounded: a
// message by the limits, an error's body by 16 KiB, of which 1 KiB of text and 4 KiB of
// details are passed on. A method that takes a stream has no request that is made of it.
//
// # Reflection
//
// Without Local it is a gRPC service like any other, and whatever backend the route leads
// to answers. With it the gateway answers for the services of its descriptors, so that
// clients see what the gateway serves and no more.
//
// # Goroutines and memory
//
// Everything runs on the request's goroutine and on the one that sends its body. Of a
// gRPC message only its prefix is looked at; of a JSON message one at a time is held,
// within the limits. It must not know: configuration files, how requests are forwarded.
package grpcgw
