package authz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// authServer decides by the path that it is asked about.
type authServer struct {
	*httptest.Server
	asked atomic.Int64
	seen  atomic.Pointer[http.Header]
	gate  chan struct{}
}

func newAuthServer(t *testing.T) *authServer {
	a := &authServer{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		h := r.Header.Clone()
		a.seen.Store(&h)
		if a.gate != nil {
			<-a.gate
		}
		switch r.Header.Get("X-Forwarded-Uri") {
		case "/ok", "/ok?q=1":
			w.Header().Set("X-User", "ann")
			w.Header().Set("X-Secret", "not copied")
			w.WriteHeader(204)
		case "/nostore":
			w.Header().Set("Cache-Control", "no-store")
		case "/short":
			w.Header().Set("Cache-Control", "max-age=5")
		case "/login":
			w.Header().Set("Location", "https://login.example/")
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(302)
		case "/who":
			w.Header().Set("WWW-Authenticate", `Bearer realm="x"`)
			w.WriteHeader(401)
		case "/no":
			w.Header().Set("X-Reason", "why")
			http.Error(w, "secret detail", http.StatusForbidden)
		default:
			w.WriteHeader(500)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *authServer) checker(t *testing.T, change func(*HTTPConfig)) *HTTP {
	t.Helper()
	c := a.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg := HTTPConfig{URL: a.URL + "/check", Doer: c, Copy: []string{"x-user"}, Redirects: true}
	if change != nil {
		change(&cfg)
	}
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newExternal(t *testing.T, cfg ExternalConfig) *External {
	t.Helper()
	e, err := NewExternal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func serve(e *External, x *exchange.Exchange, method, target string, change func(*http.Request)) (*httptest.ResponseRecorder, *http.Request) {
	var passed *http.Request
	h := Stage(Config{External: e})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { passed = r }))
	r := ask(method, target, x)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w, passed
}

func TestHTTPExternal(t *testing.T) {
	a := newAuthServer(t)
	e := newExternal(t, ExternalConfig{Checker: a.checker(t, nil), Headers: []string{"authorization"}})
	w, passed := serve(e, ann(), "POST", "http://h/ok?q=1", func(r *http.Request) {
		r.Header.Set("X-User", "root")
		r.Header.Set("Authorization", "Bearer t")
		r.Header.Set("Cookie", "private")
		r.Header.Set("X-Auth-Subject", "root")
		r.Header.Set("X-Forwarded-For", "1.2.3.4")
	})
	if passed == nil || passed.Header.Get("X-User") != "ann" || passed.Header.Get("X-Secret") != "" || w.Code != 200 {
		t.Fatalf("%d %v", w.Code, passed)
	}
	seen := *a.seen.Load()
	for name, want := range map[string]string{"X-Forwarded-Method": "POST", "X-Forwarded-Uri": "/ok?q=1", "X-Forwarded-Host": "h", "X-Forwarded-Proto": "http", "X-Forwarded-For": "198.18.0.9", "Authorization": "Bearer t",
		"Cookie": "", "X-Auth-Subject": "ann", "X-Auth-Scopes": "orders.read a b", "X-Auth-Groups": "staff,team-x"} {
		if got := strings.Join(seen[name], "|"); got != want {
			t.Errorf("%s: %q, expected %q", name, got, want)
		}
	}
	for target, want := range map[string]struct {
		status int
		field  string
	}{"/who": {401, "Www-Authenticate"}, "/no": {403, ""}, "/login": {302, "Location"}, "/broken": {503, "Retry-After"}} {
		x := ann()
		w, passed := serve(e, x, "GET", target, nil)
		if w.Code != want.status || passed != nil || want.field != "" && w.Header().Get(want.field) == "" || w.Header().Get("X-Reason") != "" || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %v %s", target, w.Code, w.Header(), w.Body)
		}
		if len(x.Notes()) != 1 {
			t.Errorf("%s: notes %v", target, x.Notes())
		}
	}
	open := newExternal(t, ExternalConfig{Checker: a.checker(t, nil), FailOpen: true})
	if _, passed := serve(open, ann(), "GET", "/broken", nil); passed == nil {
		t.Error("no answer refuses though it is to pass")
	}
	if s := open.Stats(); s.Failed != 1 || s.Passed != 1 {
		t.Errorf("%+v", s)
	}
	strict := newExternal(t, ExternalConfig{Checker: a.checker(t, func(c *HTTPConfig) { c.Redirects = false })})
	if w, _ := serve(strict, ann(), "GET", "/login", nil); w.Code != 503 {
		t.Errorf("a redirect that is not expected: %d", w.Code)
	}
	// gRPC gets its own form
	w, _ = serve(e, ann(), "POST", "/no", func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc") })
	if w.Code != 200 || w.Header().Get("Grpc-Status") != "7" {
		t.Errorf("gRPC: %d %v", w.Code, w.Header())
	}
}

func TestExternalCache(t *testing.T) {
	now := time.Unix(1000, 0)
	a := newAuthServer(t)
	e := newExternal(t, ExternalConfig{Checker: a.checker(t, nil), Headers: []string{"X-Key"}, Remember: time.Minute, CacheSize: 32, Now: func() time.Time { return now }})
	count := func(want int64, target string, change func(*http.Request, *exchange.Exchange)) {
		t.Helper()
		before := a.asked.Load()
		for range 2 {
			x := ann()
			serve(e, x, "GET", target, func(r *http.Request) {
				if change != nil {
					change(r, x)
				}
			})
		}
		if got := a.asked.Load() - before; got != want {
			t.Errorf("%s: asked %d times, expected %d", target, got, want)
		}
	}
	count(1, "/ok", nil)
	count(0, "/ok", nil)
	count(1, "/no", nil) // refusals too
	count(2, "/broken", nil)
	count(2, "/nostore", nil)
	count(1, "/short", nil)
	now = now.Add(6 * time.Second)
	count(1, "/short", nil)
	count(0, "/ok", nil)
	count(1, "/ok", func(r *http.Request, _ *exchange.Exchange) { r.Header.Set("X-Key", "1") })
	count(1, "/ok", func(r *http.Request, _ *exchange.Exchange) { r.Method = "PUT" })
	count(1, "/ok", func(_ *http.Request, x *exchange.Exchange) { x.Identity = nil })
	count(1, "/ok", func(_ *http.Request, x *exchange.Exchange) { x.Client = netip.MustParseAddrPort("198.18.0.10:1") })
	count(0, "/ok", func(_ *http.Request, x *exchange.Exchange) { x.ID = "other" })
	count(0, "/ok", func(_ *http.Request, x *exchange.Exchange) { x.Client = netip.MustParseAddrPort("198.18.0.9:77") })
	now = now.Add(time.Minute)
	count(1, "/ok", nil)
	for n := range 200 {
		serve(e, ann(), "GET", "/ok", func(r *http.Request) { r.Header.Set("X-Key", fmt.Sprint(n)) })
	}
	if s := e.Stats(); s.Cache.Entries > 32 {
		t.Errorf("%+v", s.Cache)
	}
}

// TestKeyParts: parts of a question don't run into each other.
func TestKeyParts(t *testing.T) {
	seen := map[[32]byte]int{}
	for i, q := range []Question{{Subject: "ab", Provider: "c"}, {Subject: "a", Provider: "bc"}, {Scopes: []string{"a", "b"}}, {Scopes: []string{"ab"}}, {Groups: []string{"a", "b"}},
		{Header: http.Header{"A": {"b", "c"}}}, {Header: http.Header{"A": {"b"}, "C": nil}}, {Header: http.Header{"A": {"bc"}}}, {Method: "A"}, {Scheme: "A"}, {Host: "A"}} {
		k := q.key()
		if j, dup := seen[k]; dup {
			t.Errorf("questions %d and %d have the same key", i, j)
		}
		seen[k] = i
	}
}

func TestExternalSingleFlight(t *testing.T) {
	a := newAuthServer(t)
	a.gate = make(chan struct{})
	e := newExternal(t, ExternalConfig{Checker: a.checker(t, nil), Remember: time.Minute, Timeout: 5 * time.Second, Concurrency: 1})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		x := ann()
		serve(e, x, "GET", "/ok", func(r *http.Request) { *r = *r.WithContext(exchange.With(ctx, x)) })
		if x.Reason != exchange.ClientGone {
			t.Errorf("who left: %s", x.Reason)
		}
	})
	for a.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 10 {
		wg.Go(func() {
			if _, passed := serve(e, ann(), "GET", "/ok", nil); passed == nil {
				t.Error("refused")
			}
		})
	}
	cancel()
	if w, _ := serve(e, ann(), "GET", "/ok?q=1", nil); w.Code != 503 {
		t.Errorf("a question beyond the limit: %d", w.Code)
	}
	close(a.gate)
	wg.Wait()
	if n := a.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestExternalTimeout(t *testing.T) {
	a := newAuthServer(t)
	a.gate = make(chan struct{})
	defer close(a.gate)
	e := newExternal(t, ExternalConfig{Checker: a.checker(t, nil), Timeout: 20 * time.Millisecond})
	if w, _ := serve(e, ann(), "GET", "/ok", nil); w.Code != 503 {
		t.Errorf("%d", w.Code)
	}
}

// grpcAuth is a server of the gRPC service.
type grpcAuth struct {
	authv3.UnimplementedAuthorizationServer
	asked  atomic.Pointer[authv3.CheckRequest]
	answer func(*authv3.CheckRequest) *authv3.CheckResponse
}

func (g *grpcAuth) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	g.asked.Store(r)
	return g.answer(r), nil
}

func option(name, value string, append bool) *corev3.HeaderValueOption {
	o := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
	if append {
		//lint:ignore SA1019 what older servers send
		o.Append = wrapperspb.Bool(true)
	}
	return o
}

// TestGRPCExternal: over a connection of its own, and by requests to somebody who sends them.
func TestGRPCExternal(t *testing.T) {
	t.Run("connection", func(t *testing.T) {
		testGRPCExternal(t, func(target string) GRPCConfig { return GRPCConfig{Target: target} })
	})
	t.Run("requests", func(t *testing.T) {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(tr.CloseIdleConnections)
		testGRPCExternal(t, func(target string) GRPCConfig {
			return GRPCConfig{Target: target, Doer: &http.Client{Transport: tr}}
		})
	})
}

func testGRPCExternal(t *testing.T, config func(target string) GRPCConfig) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	auth := &grpcAuth{}
	authv3.RegisterAuthorizationServer(s, auth)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	c, err := NewGRPC(config(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	e := newExternal(t, ExternalConfig{Checker: c, Headers: []string{"X-Key"}, Timeout: 5 * time.Second})
	ok := func(r *authv3.OkHttpResponse) *authv3.CheckResponse {
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: r}}
	}
	auth.answer = func(*authv3.CheckRequest) *authv3.CheckResponse {
		return ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("x-user", "ann", false), option("x-role", "b", true)}, HeadersToRemove: []string{"x-key"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{option("x-seen", "1", false)}})
	}
	w, passed := serve(e, ann(), "GET", "http://h/a?b=c", func(r *http.Request) {
		r.Header.Set("X-Key", "k")
		r.Header.Set("X-User", "root")
		r.Header.Set("X-Role", "a")
	})
	if passed == nil || passed.Header.Get("X-User") != "ann" || !slices.Equal(passed.Header["X-Role"], []string{"a", "b"}) || passed.Header.Get("X-Key") != "" || w.Header().Get("X-Seen") != "1" {
		t.Fatalf("%d %v %v", w.Code, passed, w.Header())
	}
	h := auth.asked.Load().GetAttributes()
	if q := h.GetRequest().GetHttp(); q.GetMethod() != "GET" || q.GetPath() != "/a?b=c" || q.GetHost() != "h" || q.GetHeaders()["x-key"] != "k" || len(q.GetHeaders()) != 1 || h.GetSource().GetPrincipal() != "ann" ||
		h.GetSource().GetAddress().GetSocketAddress().GetAddress() != "198.18.0.9" || h.GetContextExtensions()["route"] != "orders" {
		t.Errorf("asked %v", h)
	}
	for name, one := range map[string]struct {
		answer *authv3.CheckResponse
		status int
	}{
		"allowed with nothing":   {&authv3.CheckResponse{Status: &status.Status{}}, 200},
		"allowed with no status": {&authv3.CheckResponse{}, 200},
		"denied with nothing":    {&authv3.CheckResponse{Status: &status.Status{Code: 7}}, 403},
		"denied as 401": {&authv3.CheckResponse{Status: &status.Status{Code: 16}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: 401}, Headers: []*corev3.HeaderValueOption{option("www-authenticate", "Bearer", false)}}}}, 401},
		"denied as 418": {&authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 418}, Body: "tea"}}}, 418},
		"denied as 200": {&authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 200}}}}, 503},
		"both":          {&authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}}}, 503},
		"query":         {ok(&authv3.OkHttpResponse{QueryParametersToRemove: []string{"b"}}), 503},
		"framing":       {ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("content-length", "0", false)}}), 503},
		"pseudo":        {ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option(":path", "/", false)}}), 503},
		"line end":      {ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("x-a", "a\r\nb: c", false)}}), 503},
		"removes host":  {ok(&authv3.OkHttpResponse{HeadersToRemove: []string{"host"}}), 503},
		"huge":          {ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{option("x-a", strings.Repeat("x", maxMessage), false)}}), 503},
	} {
		auth.answer = func(*authv3.CheckRequest) *authv3.CheckResponse { return one.answer }
		x := ann()
		w, passed := serve(e, x, "GET", "/a", nil)
		if w.Code != one.status || (passed != nil) != (one.status == 200) {
			t.Errorf("%s: %d, %v", name, w.Code, x.Notes())
		}
	}
	s.Stop()
	if w, _ := serve(e, ann(), "GET", "/a", nil); w.Code != 503 {
		t.Errorf("with the server down: %d", w.Code)
	}
}

func TestExternalConfig(t *testing.T) {
	for name, err := range map[string]error{
		"URL":      second(NewHTTP(HTTPConfig{URL: "auth.example", Doer: http.DefaultClient})),
		"user":     second(NewHTTP(HTTPConfig{URL: "http://u:p@h/", Doer: http.DefaultClient})),
		"nobody":   second(NewHTTP(HTTPConfig{URL: "http://h/"})),
		"copy":     second(NewHTTP(HTTPConfig{URL: "http://h/", Doer: http.DefaultClient, Copy: []string{"Content-Length"}})),
		"target":   second(NewGRPC(GRPCConfig{Target: "host"})),
		"headers":  second(NewExternal(ExternalConfig{Headers: []string{"Transfer-Encoding"}})),
		"timeout":  second(NewExternal(ExternalConfig{Timeout: -1})),
		"remember": second(NewExternal(ExternalConfig{Remember: -1})),
	} {
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s is taken", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzFreshness(f *testing.F) {
	f.Add("max-age=5, no-store")
	f.Add("max-age=99999999999999")
	f.Fuzz(func(t *testing.T, s string) {
		if _, age := freshness(s); age < 0 {
			t.Errorf("%q: %s", s, age)
		}
	})
}

// TestOwnFields: fields that only an answer sets can't come from a client, whether there is
// an answer or not, and however it writes their names.
func TestOwnFields(t *testing.T) {
	a := newAuthServer(t)
	e := newExternal(t, ExternalConfig{Checker: a.checker(t, nil), Own: []string{"x-user"}, FailOpen: true})
	for target, want := range map[string]string{"/ok": "ann", "/broken": ""} {
		_, passed := serve(e, ann(), "GET", target, func(r *http.Request) {
			r.Header.Set("X-User", "root")
			r.Header["X_user"] = []string{"root"}
			r.Trailer = http.Header{"X-User": nil}
		})
		if passed == nil {
			t.Fatalf("%s: refused", target)
		}
		if got := passed.Header.Get("X-User"); got != want || len(passed.Header["X_user"]) > 0 || len(passed.Trailer) > 0 {
			t.Errorf("%s: X-User %q, want %q; X_user %q, trailer %v", target, got, want, passed.Header["X_user"], passed.Trailer)
		}
	}
}

// TestUnaryAnswers: what is no answer of gRPC is none.
func TestUnaryAnswers(t *testing.T) {
	allow := "\x00\x00\x00\x00\x00"
	for name, one := range map[string]struct {
		status              int
		kind, body, trailer string
		want                string // "": it is taken
	}{
		"good":          {200, "application/grpc", allow, "0", ""},
		"with a codec":  {200, "application/grpc+proto", allow, "0", ""},
		"another kind":  {200, "text/html", allow, "0", "expected application/grpc"},
		"status":        {503, "application/grpc", allow, "0", "status 503"},
		"no status":     {200, "application/grpc", allow, "", "without a status"},
		"odd status":    {200, "application/grpc", allow, "-1", "without a status"},
		"an error":      {200, "application/grpc", "", "14", "Unavailable"},
		"no message":    {200, "application/grpc", "", "0", "not one message"},
		"cut off":       {200, "application/grpc", "\x00\x00\x00\x00\x05ab", "0", "not one message"},
		"two messages":  {200, "application/grpc", allow + allow, "0", "not one message"},
		"compressed":    {200, "application/grpc", "\x01\x00\x00\x00\x00", "0", "compressed"},
		"not a message": {200, "application/grpc", "\x00\x00\x00\x00\x02\xff\xff", "0", "proto"},
		"too long":      {200, "application/grpc", "\x00\x00\x10\x00\x00" + strings.Repeat("x", 1<<20), "0", "more than"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", one.kind)
			if one.trailer != "" {
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", one.trailer)
			}
			w.WriteHeader(one.status)
			_, _ = w.Write([]byte(one.body))
			_ = http.NewResponseController(w).Flush()
		}))
		u := &unary{s.Client(), strings.TrimPrefix(s.URL, "http://")}
		err := u.Invoke(t.Context(), "/a.B/C", &authv3.CheckRequest{}, &authv3.CheckResponse{})
		if one.want == "" && err != nil || one.want != "" && (err == nil || !strings.Contains(err.Error(), one.want)) {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}
