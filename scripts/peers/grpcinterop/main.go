// Command grpcinterop is grpc-go's interop server and client: the cases of
// grpc/doc/interop-test-descriptions.md that need neither credentials nor a cloud.
//
//	grpcinterop serve              serves on loopback and prints the address
//	grpcinterop cases              lists the cases
//	grpcinterop run ADDRESS CASE   runs one; the exit status says how it went
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

type testCase func(context.Context, *grpc.ClientConn)

func on(f func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) testCase {
	return func(ctx context.Context, cc *grpc.ClientConn) { f(ctx, testgrpc.NewTestServiceClient(cc)) }
}

func cases() map[string]testCase {
	return map[string]testCase{
		"empty_unary":                 on(interop.DoEmptyUnaryCall),
		"large_unary":                 on(interop.DoLargeUnaryCall),
		"client_streaming":            on(interop.DoClientStreaming),
		"server_streaming":            on(interop.DoServerStreaming),
		"ping_pong":                   on(interop.DoPingPong),
		"empty_stream":                on(interop.DoEmptyStream),
		"timeout_on_sleeping_server":  on(interop.DoTimeoutOnSleepingServer),
		"cancel_after_begin":          on(interop.DoCancelAfterBegin),
		"cancel_after_first_response": on(interop.DoCancelAfterFirstResponse),
		"custom_metadata":             on(interop.DoCustomMetadata),
		"status_code_and_message":     on(interop.DoStatusCodeAndMessage),
		"special_status_message":      on(interop.DoSpecialStatusMessage),
		"unimplemented_method":        interop.DoUnimplementedMethod,
		"unimplemented_service": func(ctx context.Context, cc *grpc.ClientConn) {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
		},
		"rpc_soak":     func(ctx context.Context, cc *grpc.ClientConn) { soak(ctx, cc.Target(), cc) },
		"channel_soak": func(ctx context.Context, cc *grpc.ClientConn) { soak(ctx, cc.Target(), nil) },
	}
}

// soak makes a thousand large calls of ten workers, on one connection or on one for each.
func soak(ctx context.Context, target string, one *grpc.ClientConn) {
	interop.DoSoakTest(ctx, interop.SoakTestConfig{RequestSize: 27182, ResponseSize: 31415, PerIterationMaxAcceptableLatency: 10 * time.Second,
		OverallTimeout: 2 * time.Minute, ServerAddr: target, NumWorkers: 10, Iterations: 1000, MaxFailures: 0,
		ChannelForTest: func() (*grpc.ClientConn, func()) {
			if one != nil {
				return one, func() {}
			}
			cc := dial(target)
			return cc, func() { _ = cc.Close() }
		}})
}

func dial(target string) *grpc.ClientConn {
	cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fail(err)
	}
	return cc
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "grpcinterop:", err)
	os.Exit(1)
}

func serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	fmt.Println(l.Addr())
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	fail(s.Serve(l))
}

func main() {
	all := cases()
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "serve":
		serve()
	case len(args) == 1 && args[0] == "cases":
		var names []string
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Println(name)
		}
	case len(args) == 3 && args[0] == "run" && all[args[2]] != nil:
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		cc := dial("passthrough:///" + args[1])
		defer func() { _ = cc.Close() }()
		all[args[2]](ctx, cc) // ends the program if it fails
	default:
		fail(fmt.Errorf("expected serve, cases, or run ADDRESS CASE, got %q", args))
	}
}
