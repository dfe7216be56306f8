package examples_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/gateway/message/bhttp"
	"github.com/np-appliance/np/ctrl/gateway/message/wstest"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	_ "github.com/np-appliance/np/ctrl/gateway/server/xconnect" // extended CONNECT in net/http, for the backend
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// start serves the first listener of a file, whose endpoints are where the map says.
func start(t *testing.T, file string, endpoints map[string]string, replace ...string) (url string, g *gateway.Gateway) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Input{Files: []config.Source{{Name: file, Data: []byte(strings.NewReplacer(replace...).Replace(string(text)))}}})
	if err != nil {
		t.Fatal(err)
	}
	g = gateway.New(gateway.Options{Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
		to, ok := endpoints[address]
		if !ok {
			return nil, fmt.Errorf("no endpoint %s in this test", address)
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}})
	t.Cleanup(g.Close)
	gen, err := g.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	g.Commit(gen)
	s, err := g.Server(c, &c.Listeners[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := servertest.Start(t, s, 0) // WebSockets that a test left open
	return "http://" + addr, g
}

func askFor(t *testing.T, method, url, body string, fields ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(raw)
}

// shop is a backend of gRPC that answers with what it was asked.
type shop struct {
	files   *protoregistry.Files
	address string
}

const shopDescriptors = "../grpcgw/testdata/shop.pb"

func newShop(t *testing.T) *shop {
	t.Helper()
	raw, err := os.ReadFile(shopDescriptors)
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	s := &shop{}
	if s.files, err = protodesc.NewFiles(&set); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(s.serve))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	s.address = l.Addr().String()
	return s
}

func (s *shop) message(name string) *dynamicpb.Message {
	d, err := s.files.FindDescriptorByName(protoreflect.FullName("np.shop.v1." + name))
	if err != nil {
		panic(err)
	}
	return dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
}

func (s *shop) serve(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	name := path[strings.LastIndex(path, "/")+1:]
	md, _ := metadata.FromIncomingContext(stream.Context())
	in := map[string]string{"SetPrice": "Price", "GetItem": "GetItemRequest", "WatchItems": "ListItemsRequest", "Chat": "Note"}[name]
	if in == "" {
		return status.Error(codes.Unimplemented, path)
	}
	q := s.message(in)
	if err := stream.RecvMsg(q); err != nil {
		return err
	}
	switch name {
	case "GetItem":
		out := s.message("Item")
		text := q.Get(q.Descriptor().Fields().ByName("name")).String()
		if strings.HasSuffix(text, "/none") {
			return status.Error(codes.NotFound, "no such item")
		}
		out.Set(out.Descriptor().Fields().ByName("title"), protoreflect.ValueOfString(text+" for "+strings.Join(md.Get("x-user"), ",")))
		return stream.SendMsg(out)
	case "WatchItems":
		for i := range 3 {
			out := s.message("Item")
			out.Set(out.Descriptor().Fields().ByName("name"), protoreflect.ValueOfString(fmt.Sprint(i)))
			if err := stream.SendMsg(out); err != nil {
				return err
			}
		}
		return nil
	case "Chat":
		for {
			if err := stream.SendMsg(q); err != nil {
				return err
			}
			if err := stream.RecvMsg(q); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
		}
	}
	return stream.SendMsg(q)
}

func TestRESTToGRPC(t *testing.T) {
	s := newShop(t)
	path, err := filepath.Abs(shopDescriptors)
	if err != nil {
		t.Fatal(err)
	}
	url, _ := start(t, "rest-grpc.toml", map[string]string{"127.0.0.1:9001": s.address}, "/etc/np/shop.pb", path)
	if resp, body := askFor(t, "GET", url+"/v1/shelves/1/items/2?utm_source=x", "", "X-User", "ann"); resp.StatusCode != 200 || body != `{"title":"shelves/1/items/2 for ann"}` {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if resp, body := askFor(t, "GET", url+"/v1/items/none?x=1", ""); resp.StatusCode != 400 || !strings.Contains(body, "has no field") {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if resp, body := askFor(t, "GET", url+"/v1/shelves/1/items/none", ""); resp.StatusCode != 404 || body != `{"code":5,"message":"no such item","details":[]}` {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	if resp, body := askFor(t, "GET", url+"/v1/shelves/1/items:watch", "", "Accept", "text/event-stream"); resp.StatusCode != 200 || body != "data: {\"name\":\"0\"}\n\ndata: {\"name\":\"1\"}\n\ndata: {\"name\":\"2\"}\n\n" {
		t.Errorf("%d, %q", resp.StatusCode, body)
	}
	// gRPC-Web from a page.
	price := s.message("Price")
	if err := protojson.Unmarshal([]byte(`{"currency":"EUR","units":"7"}`), price); err != nil {
		t.Fatal(err)
	}
	raw, _ := proto.Marshal(price)
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)
	resp, body := askFor(t, "POST", url+"/np.shop.v1.Shop/SetPrice", string(frame), "Content-Type", "application/grpc-web+proto", "Origin", "https://shop.example")
	back := s.message("Price") // its fields may come in another order
	if len(body) < len(frame) || body[:5] != string(frame[:5]) || proto.Unmarshal([]byte(body[5:len(frame)]), back) != nil || !proto.Equal(back, price) {
		t.Errorf("another price came: %q", body)
	}
	if resp.StatusCode != 200 || !strings.Contains(body, "grpc-status: 0\r\n") || resp.Header.Get("Access-Control-Allow-Origin") != "https://shop.example" {
		t.Errorf("%d, %q, %v", resp.StatusCode, body, resp.Header)
	}
	// gRPC itself, both ways at a time; reflection and health.
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	chat, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/np.shop.v1.Shop/Chat")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := chat.SendMsg(s.message("Note")); err != nil {
			t.Fatal(err)
		}
		if err := chat.RecvMsg(s.message("Note")); err != nil {
			t.Fatal(err)
		}
	}
	_ = chat.CloseSend()
	if err := chat.RecvMsg(s.message("Note")); err != io.EOF {
		t.Errorf("%v", err)
	}
	r, err := reflectionpb.NewServerReflectionClient(cc).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "np.shop.v1.Shop"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Recv(); err != nil || len(got.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("%v, %v", got, err)
	}
	_ = r.CloseSend()
	if got, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: "np.shop.v1.Shop"}); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", got, err)
	}
}

// TestGRPCToREST drives grpc-rest.toml with a service that knows no gRPC.
func TestGRPCToREST(t *testing.T) {
	s := newShop(t) // of which only the descriptors are used
	path, err := filepath.Abs(shopDescriptors)
	if err != nil {
		t.Fatal(err)
	}
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.Method + " " + r.RequestURI {
		case "GET /api/health":
		case "GET /api/v1/shelves/1/items/2?mask=title":
			_, _ = fmt.Fprintf(w, `{"name":"shelves/1/items/2","title":"for %s","stock":7}`, r.Header.Get("X-User"))
		case "POST /api/v1/shelves/1/items?requestId=r1":
			_, _ = io.Copy(w, r.Body)
		case "GET /api/v1/shelves/1/items:watch?pageSize=2":
			w.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = io.WriteString(w, "{\"name\":\"0\"}\n{\"name\":\"1\"}\n")
		default:
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"message":"no such thing"}`)
		}
	}))
	defer shop.Close()
	url, _ := start(t, "grpc-rest.toml", map[string]string{"127.0.0.1:9001": strings.TrimPrefix(shop.URL, "http://")}, "/etc/np/shop.pb", path)
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-user", "ann"), time.Minute)
	defer cancel()
	message := func(name, text string) *dynamicpb.Message {
		m := s.message(name)
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, one := range []struct{ method, in, req, out, want string }{
		{"GetItem", "GetItemRequest", `{"name":"shelves/1/items/2","mask":"title"}`, "Item", `{"name":"shelves/1/items/2","title":"for ann"}`},
		{"CreateItem", "CreateItemRequest", `{"parent":"shelves/1","requestId":"r1","item":{"title":"new","kind":"KIND_TOY"}}`, "Item", `{"title":"new","kind":"KIND_TOY"}`},
	} {
		got, want := s.message(one.out), message(one.out, one.want)
		if err := cc.Invoke(ctx, "/np.shop.v1.Shop/"+one.method, message(one.in, one.req), got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v", one.method, got, err)
		}
	}
	if err := cc.Invoke(ctx, "/np.shop.v1.Shop/GetItem", message("GetItemRequest", `{"name":"none"}`), s.message("Item")); status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no such thing" {
		t.Errorf("%v", err)
	}
	watch, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/np.shop.v1.Shop/WatchItems")
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.SendMsg(message("ListItemsRequest", `{"parent":"shelves/1","pageSize":2}`)); err != nil {
		t.Fatal(err)
	}
	_ = watch.CloseSend()
	for i := range 2 {
		got := s.message("Item")
		if err := watch.RecvMsg(got); err != nil || !proto.Equal(got, message("Item", fmt.Sprintf(`{"name":"%d"}`, i))) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if err := watch.RecvMsg(s.message("Item")); err != io.EOF {
		t.Error(err)
	}
	if resp, body := askFor(t, "GET", url+"/api/v1/shelves/1/items/2?mask=title", ""); resp.StatusCode != 200 || !strings.Contains(body, `"stock":7`) {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	r, err := reflectionpb.NewServerReflectionClient(cc).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Recv(); err != nil || len(got.GetListServicesResponse().GetService()) != 3 { // with reflection's own two
		t.Errorf("%v, %v", got, err)
	}
	_ = r.CloseSend()
}

func TestAggregation(t *testing.T) {
	broken := make(chan bool, 100)
	users := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"7"`)
		if r.Header.Get("Authorization") != "Bearer x" || r.URL.Path == "/users/8" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"name":"ann","segment":"gold"}`)
	}))
	defer users.Close()
	orders := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-broken:
			w.WriteHeader(http.StatusInternalServerError)
			return
		default:
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"items":["of %s"],"page":{"total":1}}`, r.URL.RawQuery)
	}))
	defer orders.Close()
	advice := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"list":[%q]}`, r.URL.Path+" "+r.Header.Get("X-Caller"))
	}))
	defer advice.Close()
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	url, _ := start(t, "aggregation.toml", map[string]string{"127.0.0.1:9001": at(users), "127.0.0.1:9002": at(orders), "127.0.0.1:9003": at(advice)})
	get := func(path string) (*http.Response, string) {
		return askFor(t, "GET", url+path, "", "Authorization", "Bearer x")
	}
	want := `{"user":{"name":"ann","segment":"gold"},"orders":["of user=7&limit=3"],"total":1,"advice":{"for_you":["/advice/gold page"]},"missing":{}}` + "\n"
	if resp, body := get("/page/7?limit=3"); resp.StatusCode != 200 || body != want || resp.Header.Get("Etag") != `"7"` {
		t.Errorf("%d, %s, %v", resp.StatusCode, body, resp.Header)
	}
	if resp, body := get("/page/8"); resp.StatusCode != 403 || !strings.Contains(body, "part users") {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	// Orders fail: three times by themselves, then the breaker answers for them.
	for range 50 {
		broken <- true
	}
	reasons := map[string]int{}
	for range 10 {
		resp, body := get("/page/7")
		if resp.StatusCode != 200 || !strings.Contains(body, `"orders":[],"total":0`) {
			t.Fatalf("%d, %s", resp.StatusCode, body)
		}
		reasons[resp.Header.Get("Aggregate-Missing")]++
	}
	if reasons["orders;reason=breaker_open"] == 0 || len(broken) < 40 { // a try or two once it is half-open
		t.Errorf("%v, %d of 50 failures used up", reasons, 50-len(broken))
	}
}

// nproServer is a service that speaks NPRO.
func nproServer(t *testing.T, entries ...dispatch.Entry) (address, key string) {
	t.Helper()
	s, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	reg, err := dispatch.New(slog.New(slog.DiscardHandler), append(entries, dispatch.Builtin("t", "1", time.Now(), time.Now)...)...)
	if err != nil {
		t.Fatal(err)
	}
	answerBy(s, reg)
	s.Accept = func(*clienttest.Request) npro.Code { return npro.CodeOK }
	if address, err = s.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return address, pub.String()
}

// answerBy answers a server's requests by a registry, as npd's sessions do.
func answerBy(s *clienttest.Server, reg *dispatch.Registry) {
	s.Handle = func(c *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
		go func() {
			q := &dispatch.Request{Opcode: r.Opcode, Payload: r.Payload, Context: r.Context, Peer: dispatch.Peer{Name: "billing"}}
			e := reg.Lookup(r.Opcode)
			if e == nil {
				c.Reply(r.Stream, clienttest.Reply{Status: npro.CodeUnknownOpcode})
				return
			}
			code, payload := reg.Call(context.Background(), e, q)
			c.Reply(r.Stream, clienttest.Reply{Status: code, Payload: payload, Context: &q.Reply})
		}()
		return clienttest.Reply{}, false
	}
}

func newKey(t *testing.T) handshake.PrivateKey {
	t.Helper()
	k, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNPRO(t *testing.T) {
	var tenant string
	ledger, key := nproServer(t,
		dispatch.Entry{Opcode: "BOOK", Handle: func(_ context.Context, q *dispatch.Request) ([]byte, error) {
			tenant = q.Context.Tenant
			return append([]byte(`{"booked":`), append(q.Payload, '}')...), nil
		}},
		dispatch.Entry{Opcode: "LEDGER", Handle: func(_ context.Context, q *dispatch.Request) ([]byte, error) {
			r, err := bhttp.ParseRequest(q.Payload, bhttp.Limits{})
			if err != nil {
				return nil, npro.CodeBadRequest
			}
			return bhttp.AppendResponse(nil, &bhttp.Response{Status: 203, Header: http.Header{"X-Asked": {r.Method + " " + r.Path}}, Body: r.Body})
		}})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%s %s for %s of %s", r.Method, r.RequestURI, r.Header.Get("X-Peer"), r.Header.Get("X-Tenant"))
	}))
	defer site.Close()
	s := newShop(t)
	file := filepath.Join(t.TempDir(), "gateway.key")
	own, peer := newKey(t), newKey(t)
	if err := os.WriteFile(file, []byte(own.Encode()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, g := start(t, "npro.toml", map[string]string{"127.0.0.1:7701": ledger, "127.0.0.1:9001": strings.TrimPrefix(site.URL, "http://"), "127.0.0.1:9002": s.address},
		"PEER_KEY", peer.Public().String(), "LEDGER_KEY", key, "/etc/np/gateway.key", file)
	if resp, body := askFor(t, "POST", url+"/book/1", `{"sum":7}`, "X-Tenant", "t1"); resp.StatusCode != 200 || body != `{"booked":{"sum":7}}` || tenant != "t1" || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d, %s, tenant %s", resp.StatusCode, body, tenant)
	}
	if resp, body := askFor(t, "PUT", url+"/ledger/a?b", "body"); resp.StatusCode != 203 || body != "body" || resp.Header.Get("X-Asked") != "PUT /ledger/a?b" {
		t.Errorf("%d, %s, %v", resp.StatusCode, body, resp.Header)
	}
	events := append([]byte{1, 0, 0, 0, 3}, "one"...)
	if resp, body := askFor(t, "POST", url+"/entries", string(events)); resp.StatusCode != 200 || body != "data: one\n\n" {
		t.Errorf("%d, %q", resp.StatusCode, body)
	}
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	feed, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/np.ledger.v1.Feed/Follow")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		note, back := s.message("Note"), s.message("Note")
		if err := protojson.Unmarshal(fmt.Appendf(nil, `{"number":%d}`, i+1), note); err != nil {
			t.Fatal(err)
		}
		if err := feed.SendMsg(note); err != nil {
			t.Fatal(err)
		}
		if err := feed.RecvMsg(back); err != nil || !proto.Equal(note, back) {
			t.Fatalf("%v, %v", back, err)
		}
	}
	_ = feed.CloseSend()
	if err := feed.RecvMsg(s.message("Note")); err != io.EOF {
		t.Error(err)
	}

	// The other way: what the gateway registers answers a client of NPRO.
	reg, err := dispatch.New(slog.New(slog.DiscardHandler), g.Opcodes()...)
	if err != nil {
		t.Fatal(err)
	}
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	answerBy(srv, reg)
	address, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	cl, err := client.Dial(t.Context(), client.Config{Address: address, Static: peer, Remote: &pub})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close(context.Background()) }()
	raw, err := bhttp.AppendRequest(nil, &bhttp.Request{Method: "GET", Scheme: "http", Authority: "site", Path: "/a?b=c"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cl.Do(t.Context(), &client.Request{Opcode: "HTTP", Payload: raw, Context: npro.Context{Tenant: "t2"}})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := bhttp.ParseResponse(resp.Payload, bhttp.Limits{}); err != nil || a.Status != 200 || string(a.Body) != "GET /a?b=c for billing of t2" {
		t.Errorf("%+v, %v", a, err)
	}
	price := s.message("Price")
	if err := protojson.Unmarshal([]byte(`{"currency":"EUR","units":"7"}`), price); err != nil {
		t.Fatal(err)
	}
	raw, _ = proto.Marshal(price)
	got, err := cl.Request(t.Context(), "PRICE", raw)
	if back := s.message("Price"); err != nil || proto.Unmarshal(got, back) != nil || !proto.Equal(back, price) {
		t.Errorf("%x, %v", got, err)
	}
	if seen := g.Seen(); len(seen.Requests) < 5 {
		t.Errorf("%+v", seen.Requests)
	}
}

func TestWebSocket(t *testing.T) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		for {
			kind, m, err := ws.ReadMessage()
			if err != nil || ws.WriteMessage(kind, append([]byte("chat: "), m...)) != nil {
				return
			}
		}
	}))
	defer chat.Close()
	talk, key := nproServer(t)
	chat2 := httptest.NewUnstartedServer(wstest.Echo())
	chat2.Config.Protocols = new(http.Protocols)
	chat2.Config.Protocols.SetUnencryptedHTTP2(true)
	chat2.Start()
	defer chat2.Close()
	url, _ := start(t, "websocket.toml", map[string]string{"127.0.0.1:9001": strings.TrimPrefix(chat.URL, "http://"), "127.0.0.1:9002": strings.TrimPrefix(chat2.URL, "http://"), "127.0.0.1:7701": talk}, "TALK_KEY", key)
	base := "ws" + strings.TrimPrefix(url, "http")
	for path, want := range map[string]string{"/chat": "chat: hello", "/chat2": "hello", "/talk": "hello", "/ask": "hello"} {
		ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), base+path, http.Header{"Origin": {"https://app.example"}, "Sec-WebSocket-Protocol": {"talk.v1"}})
		if err != nil {
			t.Fatalf("%s: %v, %v", path, err, resp)
		}
		if path == "/talk" && ws.Subprotocol() != "talk.v1" {
			t.Errorf("subprotocol %q", ws.Subprotocol())
		}
		for range 3 {
			if err := ws.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, m, err := ws.ReadMessage(); err != nil || string(m) != want {
				t.Errorf("%s: %q, %v", path, m, err)
			}
		}
		_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) && path != "/chat" {
			t.Errorf("%s: %v", path, err)
		}
		_ = ws.Close()
	}
	for path, origin := range map[string]string{"/talk": "https://evil.example", "/rest": "https://app.example"} {
		if _, resp, err := websocket.DefaultDialer.DialContext(t.Context(), base+path, http.Header{"Origin": {origin}}); err == nil || resp.StatusCode < 400 && resp.StatusCode != 200 {
			t.Errorf("%s from %s: %v", path, origin, err)
		}
	}
}
