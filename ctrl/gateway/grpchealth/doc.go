// Package grpchealth checks endpoints by gRPC's health protocol (grpc.health.v1). It is
// apart from ctrl/upstream, whose other checkers it stands beside, because that package
// knows no gRPC.
//
// Each check runs on its caller's goroutine and ends with its context; the connection that
// it makes is closed before it returns. It must not know: routes, configuration.
package grpchealth
