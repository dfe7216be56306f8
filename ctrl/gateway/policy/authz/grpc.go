package authz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// GRPCConfig is a server of envoy.service.auth.v3.Authorization that is asked.
type GRPCConfig struct {
	Target string      // host:port
	TLS    *tls.Config // nil: none
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Doer   Doer // nil: a connection by Dial; else it is asked by this, which speaks HTTP/2, and Target is the authority, with a port or without
	Now    func() time.Time
}

// GRPC asks over gRPC. Close ends its connection.
type GRPC struct {
	cfg    GRPCConfig
	conn   *grpc.ClientConn // nil: by Doer
	client authv3.AuthorizationClient
}

// maxMessage bounds an answer.
const maxMessage = 256 << 10

// NewGRPC makes a Checker. It connects when it is asked first.
func NewGRPC(cfg GRPCConfig) (*GRPC, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Doer != nil {
		return &GRPC{cfg: cfg, client: authv3.NewAuthorizationClient(&unary{cfg.Doer, cfg.Target})}, nil
	}
	if _, _, err := net.SplitHostPort(cfg.Target); err != nil {
		return nil, fmt.Errorf("target %q, expected HOST:PORT: %w", cfg.Target, err)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	conn, err := grpc.NewClient("passthrough:///"+cfg.Target, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return cfg.Dial(ctx, "tcp", address) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	return &GRPC{cfg: cfg, conn: conn, client: authv3.NewAuthorizationClient(conn)}, nil
}

// Close ends the connection and questions that are being asked.
func (g *GRPC) Close() error {
	if g.conn == nil {
		return nil
	}
	return g.conn.Close()
}

// Check implements Checker.
func (g *GRPC) Check(ctx context.Context, q *Question) (*Verdict, error) {
	res, err := g.client.Check(ctx, g.request(q))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", g.cfg.Target, err)
	}
	v, err := verdictOf(res)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", g.cfg.Target, err)
	}
	return v, nil
}

func (g *GRPC) request(q *Question) *authv3.CheckRequest {
	now := g.cfg.Now()
	path, query, _ := strings.Cut(q.URI, "?")
	headers := make(map[string]string, len(q.Header))
	for name, values := range q.Header {
		headers[strings.ToLower(name)] = strings.ToValidUTF8(strings.Join(values, ","), "\ufffd")
	}
	text := func(s string) string { return strings.ToValidUTF8(s, "\ufffd") } // proto3 strings are UTF-8
	a := &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: text(q.Subject)},
		Request: &authv3.AttributeContext_Request{Time: timestamppb.New(now), Http: &authv3.AttributeContext_HttpRequest{
			Id: q.ID, Method: text(q.Method), Headers: headers, Path: text(q.URI), Host: text(q.Host), Scheme: q.Scheme, Query: text(query), Protocol: q.Protocol}},
		ContextExtensions: map[string]string{"route": q.Route, "listener": q.Listener, "plain_path": text(path), "provider": q.Provider,
			"scopes": text(strings.Join(q.Scopes, " ")), "groups": text(strings.Join(q.Groups, ","))},
	}
	if q.Client.IsValid() {
		a.Source.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: q.Client.Unmap().String()}}}
	}
	if q.SNI != "" {
		a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: text(q.SNI)}
	}
	return &authv3.CheckRequest{Attributes: a}
}

func verdictOf(res *authv3.CheckResponse) (*Verdict, error) {
	if res.GetStatus().GetCode() == 0 {
		if res.GetDeniedResponse() != nil {
			return nil, errors.New("an answer that allows and denies")
		}
		return allowed(res.GetOkResponse())
	}
	if res.GetOkResponse() != nil {
		return nil, errors.New("an answer that denies and allows")
	}
	return denied(res.GetDeniedResponse())
}

func allowed(ok *authv3.OkHttpResponse) (*Verdict, error) {
	v := &Verdict{Allow: true, Set: http.Header{}, Add: http.Header{}, Answer: http.Header{}, Remove: ok.GetHeadersToRemove()}
	if len(ok.GetQueryParametersToSet()) > 0 || len(ok.GetQueryParametersToRemove()) > 0 {
		return nil, errors.New("an answer that changes query parameters, which is not supported")
	}
	for _, o := range ok.GetHeaders() {
		name, value := field(o)
		switch o.GetAppendAction() {
		case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			//lint:ignore SA1019 servers set the older append; without it a request's field is replaced
			if o.GetAppend().GetValue() {
				v.Add.Add(name, value)
			} else {
				v.Set.Set(name, value)
			}
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			v.Set.Set(name, value)
		default:
			return nil, fmt.Errorf("an answer that sets the field %.128q by %s, which is not supported", name, o.GetAppendAction())
		}
	}
	for _, o := range ok.GetResponseHeadersToAdd() {
		v.Answer.Add(field(o))
	}
	return v, nil
}

func denied(d *authv3.DeniedHttpResponse) (*Verdict, error) {
	v := &Verdict{Status: http.StatusForbidden, Answer: http.Header{}, Body: []byte(d.GetBody())}
	if s := d.GetStatus().GetCode(); s != 0 {
		v.Status = int(s)
	}
	for _, o := range d.GetHeaders() {
		v.Answer.Add(field(o))
	}
	return v, nil
}

func field(o *corev3.HeaderValueOption) (name, value string) {
	value = o.GetHeader().GetValue()
	if value == "" {
		value = string(o.GetHeader().GetRawValue())
	}
	return http.CanonicalHeaderKey(o.GetHeader().GetKey()), value
}
