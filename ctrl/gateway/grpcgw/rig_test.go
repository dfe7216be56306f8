package grpcgw

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// rig is grpc-go's server behind the gateway's stages, which net/http serves and
// forwards.
type rig struct {
	t       *testing.T
	schema  *Schema
	gateway *Gateway
	backend string // host:port
	front   *httptest.Server
	client  *http.Client // HTTP/1.1
	client2 *http.Client // h2c
	asked   chan context.Context
	last    *exchange.Exchange
}

func readSchema(t testing.TB) *Schema {
	t.Helper()
	raw, err := os.ReadFile("testdata/shop.pb")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSchema(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func h2c() *http.Transport {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: &p, DisableCompression: true}
}

func newRig(t *testing.T, change func(*Options, *rig)) *rig {
	t.Helper()
	r := &rig{t: t, schema: readSchema(t), asked: make(chan context.Context, 16)}
	r.serveBackend()
	o := Options{Schema: r.schema, JSON: true, Web: true, AutoBind: true, PassUnmatched: false}
	if change != nil {
		change(&o, r)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.gateway = g
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // streams of Watch go on as long as somebody looks
		g.Close(ctx)
	})
	target := &url.URL{Scheme: "http", Host: r.backend}
	transport := h2c()
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			why := exchange.ConnectFailed
			if errors.Is(r.Context().Err(), context.DeadlineExceeded) {
				why = exchange.DeadlineExceeded
			}
			exchange.Refuse(w, r, why, "")
		},
	}
	h := g.Handler(proxy)
	r.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		x := &exchange.Exchange{ID: "test"}
		r.last = x
		h.ServeHTTP(w, req.WithContext(exchange.With(req.Context(), x)))
	}))
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true)
	r.front.Config.Protocols = &p
	r.front.Start()
	t.Cleanup(r.front.Close)
	t2 := h2c()
	t.Cleanup(t2.CloseIdleConnections)
	r.client, r.client2 = r.front.Client(), &http.Client{Transport: t2}
	return r
}

// serveBackend serves np.shop.v1.Shop and reflection.
func (r *rig) serveBackend() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(r.shop))
	opts := reflection.ServerOptions{Services: shopOnly{}, DescriptorResolver: r.schema.files}
	reflectionv1.RegisterServerReflectionServer(s, reflection.NewServerV1(opts))
	go func() { _ = s.Serve(ln) }()
	r.t.Cleanup(s.Stop)
	r.backend = ln.Addr().String()
}

type shopOnly struct{}

func (shopOnly) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{"np.shop.v1.Shop": {}}
}

// value reads a message of the schema from JSON.
func (r *rig) value(name, json string) *dynamicpb.Message {
	d, err := r.schema.files.FindDescriptorByName(protoreflect.FullName("np.shop.v1." + name))
	if err != nil {
		panic(err)
	}
	m := dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
	if err := (protojson.UnmarshalOptions{Resolver: r.schema.types}).Unmarshal([]byte(json), m); err != nil {
		panic(err)
	}
	return m
}

func text(m *dynamicpb.Message, field string) string {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(field))).String()
}

func number(m *dynamicpb.Message, field string) int64 {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(field))).Int()
}

// shop is the backend: it answers with what it was asked, so that tests see it.
func (r *rig) shop(_ any, s grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(s)
	m := r.schema.methods[path]
	if m == nil {
		return status.Error(codes.Unimplemented, path)
	}
	select {
	case r.asked <- s.Context():
	default:
	}
	md, _ := metadata.FromIncomingContext(s.Context())
	_ = s.SetHeader(metadata.Pairs("shop-asked", path, "shop-user", strings.Join(md.Get("user"), ",")))
	s.SetTrailer(metadata.Pairs("shop-cost", "3"))
	if m.desc.IsStreamingClient() {
		return r.notes(m, s)
	}
	in := dynamicpb.NewMessage(m.desc.Input())
	if err := s.RecvMsg(in); err != nil {
		return err
	}
	echo, err := protojson.MarshalOptions{Resolver: r.schema.types}.Marshal(in)
	if err != nil {
		return err
	}
	quoted := fmt.Sprintf("%q", strings.ReplaceAll(string(echo), " ", ""))
	switch m.desc.Name() {
	case "ListItems":
		return s.SendMsg(r.value("ListItemsResponse", `{"items":[{"name":"one","title":`+quoted+`}]}`))
	case "WatchItems":
		return r.watch(in, s)
	case "GetFile":
		f := dynamicpb.NewMessage(m.desc.Output())
		f.Set(f.Descriptor().Fields().ByName("content_type"), protoreflect.ValueOfString("image/x-test"))
		f.Set(f.Descriptor().Fields().ByName("data"), protoreflect.ValueOfBytes([]byte("file "+text(in, "name"))))
		return s.SendMsg(f)
	case "Fail":
		st, _ := status.New(codes.Code(number(in, "number")), text(in, "text")).WithDetails(&errdetails.ErrorInfo{Reason: "BECAUSE", Domain: "shop"})
		return st.Err()
	case "PutFile":
		return s.SendMsg(r.value("Note", `{"text":`+quoted+`}`))
	case "DeleteItem":
		return s.SendMsg(dynamicpb.NewMessage(m.desc.Output()))
	case "GetItem", "CreateItem":
		return s.SendMsg(r.value("Item", `{"name":"an item","title":`+quoted+`,"kind":"KIND_TOY"}`))
	}
	return s.SendMsg(in) // SetPrice, Plain
}

// watch sends page_size items; by says how the stream ends, "hang" that it does not.
func (r *rig) watch(in *dynamicpb.Message, s grpc.ServerStream) error {
	for i := range number(in, "page_size") {
		if err := s.SendMsg(r.value("Item", fmt.Sprintf(`{"name":"item %d"}`, i))); err != nil {
			return err
		}
	}
	switch text(in, "by") {
	case "hang":
		<-s.Context().Done()
		return s.Context().Err()
	case "fail":
		return status.Error(codes.DataLoss, "100 % lost")
	}
	return nil
}

func (r *rig) notes(m *method, s grpc.ServerStream) error {
	var all []string
	for {
		in := dynamicpb.NewMessage(m.desc.Input())
		err := s.RecvMsg(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		all = append(all, text(in, "text"))
		if m.desc.IsStreamingServer() {
			if err := s.SendMsg(r.value("Note", fmt.Sprintf(`{"text":"re: %s","number":%d}`, text(in, "text"), len(all)))); err != nil {
				return err
			}
		}
	}
	if m.desc.IsStreamingServer() {
		return nil
	}
	return s.SendMsg(r.value("Total", fmt.Sprintf(`{"count":%d,"texts":["%s"]}`, len(all), strings.Join(all, `","`))))
}

// do sends a request over HTTP/1.1 and reads the answer.
func (r *rig) do(method, path, body string, fields ...string) (*http.Response, string) {
	r.t.Helper()
	return r.with(r.client, method, path, body, fields...)
}

func (r *rig) with(c *http.Client, method, path, body string, fields ...string) (*http.Response, string) {
	r.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.front.URL+path, in)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v after %q", method, path, err, raw)
	}
	return resp, string(raw)
}

// dial is a grpc-go client of the gateway.
func (r *rig) dial(opts ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(r.front.URL, "http://"), append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func (r *rig) context(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	r.t.Cleanup(cancel)
	return ctx
}
