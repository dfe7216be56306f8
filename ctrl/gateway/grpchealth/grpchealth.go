package grpchealth

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/np-appliance/np/ctrl/upstream"
)

// maxMessage bounds what a server may answer; a health status is 2 bytes.
const maxMessage = 64 << 10

// Checker is a [upstream.Checker] that asks an endpoint for its health. Each check has a
// connection of its own, so that it also tells whether connections are accepted.
type Checker struct {
	Dial      upstream.DialFunc
	Service   string      // as the health service calls it; "": the server as a whole
	TLS       *tls.Config // nil: HTTP/2 without TLS
	Authority string      // of requests; "": TLS's ServerName, or the endpoint's address
}

// Check implements [upstream.Checker].
func (c *Checker) Check(ctx context.Context, address string) error {
	network, addr := upstream.SplitNetwork(address)
	target := addr
	if network == "unix" {
		target = "localhost"
	}
	creds := insecure.NewCredentials()
	if c.TLS != nil {
		creds = credentials.NewTLS(c.TLS)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.Dial(ctx, network, addr) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithMaxHeaderListSize(maxMessage),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithUserAgent("np-health-check"),
	}
	if c.Authority != "" {
		opts = append(opts, grpc.WithAuthority(c.Authority))
	}
	conn, err := grpc.NewClient("passthrough:///"+target, opts...)
	if err != nil {
		return err
	}
	defer conn.Close()
	res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: c.Service})
	if err != nil {
		return c.explain(ctx, err)
	}
	if s := res.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("health of %s is %v: expected SERVING", c.name(), s)
	}
	return nil
}

func (c *Checker) name() string {
	if c.Service == "" {
		return "the server"
	}
	return fmt.Sprintf("service %q", c.Service)
}

// explain says what a status means for a check.
func (c *Checker) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.NotFound:
		return fmt.Errorf("the server's health service does not know %s", c.name())
	case codes.Unimplemented:
		return fmt.Errorf("the server has no health service: expected grpc.health.v1.Health")
	}
	return fmt.Errorf("%v: %.500s", s.Code(), s.Message())
}
