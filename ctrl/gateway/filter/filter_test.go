package filter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// request makes one with an exchange, as the gateway's entry does.
func request(method, uri string, header ...string) (*http.Request, *exchange.Exchange) {
	r := httptest.NewRequest(method, uri, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	x := &exchange.Exchange{
		ID: "id-1", Client: netip.MustParseAddrPort("[::ffff:192.0.2.7]:4711"), Peer: netip.MustParseAddrPort("192.0.2.8:1"),
		Listener: "web", Route: "main", Protocol: "h2",
		Vars:     []exchange.Var{{Name: "id", Value: "a%2Fb ü"}, {Name: "rest", Value: "x/y"}, {Name: "dot", Value: "."}},
		Identity: &exchange.Identity{Provider: "p", Subject: "u/1"},
	}
	return r.WithContext(exchange.With(r.Context(), x)), x
}

func vars() []string { return []string{"id", "rest", "dot"} }

// optionErrors wants an error of each field named, and no other.
func optionErrors(t *testing.T, err error, fields ...string) {
	t.Helper()
	var got []string
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range list.Unwrap() {
			var o *OptionError
			if !errors.As(e, &o) {
				t.Errorf("%v is no option's error", e)
				continue
			}
			got = append(got, o.Field)
		}
	}
	if strings.Join(got, " ") != strings.Join(fields, " ") {
		t.Errorf("errors of %v, want %v: %v", got, fields, err)
	}
}

func TestTemplate(t *testing.T) {
	r, _ := request("PUT", "http://h.example/p%20q?x=1", "X-A", "one")
	for _, one := range []struct{ text, want string }{
		{"", ""}, {"plain", "plain"}, {"a {{b}} c", "a {b} c"},
		{"{client_ip}:{client_port} {peer_ip}", "192.0.2.7:4711 192.0.2.8"},
		{"{request_id}{method}{scheme}{host}", "id-1PUThttph.example"},
		{"{path}?{query}", "/p%20q?x=1"}, {"{protocol} {listener} {route} {sni}", "h2 web main "},
		{"{identity}@{identity_provider}", "u/1@p"}, {"{var:id}", "a%2Fb ü"}, {"{rest}", "x/y"}, {"{header:x-a}{header:x-b}", "one"},
	} {
		p, err := parseTemplate(one.text, vars())
		if err != nil {
			t.Errorf("%q: %v", one.text, err)
			continue
		}
		if got := p.text(r, nil); got != one.want {
			t.Errorf("%q: %q, want %q", one.text, got, one.want)
		}
	}
	for _, bad := range []string{"{", "}", "{x", "x}", "{}", "{nothing}", "{var:other}", "{var:}", "{header:}", "{header:a b}", strings.Repeat("{host}", maxParts+1)} {
		if p, err := parseTemplate(bad, vars()); err == nil {
			t.Errorf("%q is taken: %+v", bad, p)
		}
	}
	bare := httptest.NewRequest("GET", "/", nil) // nothing is known
	for _, name := range []string{"client_ip", "client_port", "peer_ip", "identity", "identity_provider", "sni", "request_id"} {
		if p, err := parseTemplate("{"+name+"}", nil); err != nil || p.text(bare, nil) != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHeaders(t *testing.T) {
	stage, err := NewHeaders(HeaderOptions{
		Request: []HeaderEdit{
			{SetHeader, "x-client", "{client_ip}"}, {AddHeader, "X-Many", "new"}, {AppendHeader, "X-List", "c"}, {AppendHeader, "X-New", "n"},
			{RemoveHeader, "X-Gone", ""}, {RemoveHeader, "X-Internal-*", ""}, {SetHeader, "X-Evil", "a{header:X-Bytes}b"},
		},
		Response: []HeaderEdit{{RemoveHeader, "Server", ""}, {SetHeader, "X-Id", "{request_id}"}, {AddHeader, "Set-Cookie", "b=2"}, {SetHeader, "X-Asked", "{header:X-Gone}"}},
	}, vars())
	if err != nil {
		t.Fatal(err)
	}
	r, _ := request("GET", "/", "X-Many", "old", "X-List", "a, b", "X-Gone", "g", "X-Internal-User", "root", "X-Bytes", "\r\nSet-Cookie: x\x00")
	before := fmt.Sprint(r.Header)
	var seen http.Header
	h := stage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		w.Header().Set("Server", "secret")
		w.Header().Set("Set-Cookie", "a=1")
		w.WriteHeader(http.StatusTeapot)
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	want := http.Header{"X-Client": {"192.0.2.7"}, "X-Many": {"old", "new"}, "X-List": {"a, b, c"}, "X-New": {"n"}, "X-Evil": {"aSet-Cookie: xb"}, "X-Bytes": {"\r\nSet-Cookie: x\x00"}}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("request %v, want %v", seen, want)
	}
	if fmt.Sprint(r.Header) != before {
		t.Errorf("the caller's request changed: %v", r.Header)
	}
	want = http.Header{"X-Id": {"id-1"}, "Set-Cookie": {"a=1", "b=2"}, "X-Asked": {"g"}}
	if w.Code != http.StatusTeapot || fmt.Sprint(w.Header()) != fmt.Sprint(want) {
		t.Errorf("%d, %v, want %v", w.Code, w.Header(), want)
	}
}

func TestHeadersOfEmptyAnswer(t *testing.T) {
	stage, err := NewHeaders(HeaderOptions{Response: []HeaderEdit{{SetHeader, "X-A", "1"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	stage(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Result().Header.Get("X-A") != "1" {
		t.Errorf("%v", w.Header())
	}
}

func TestHeaderErrors(t *testing.T) {
	_, err := NewHeaders(HeaderOptions{
		Request:  []HeaderEdit{{SetHeader, "transfer-encoding", "x"}, {RemoveHeader, "Connection", ""}, {SetHeader, "host", "x"}, {SetHeader, "a b", ""}, {SetHeader, "X*", ""}, {RemoveHeader, "*", ""}},
		Response: []HeaderEdit{{9, "A", ""}, {RemoveHeader, "A", "x"}, {SetHeader, "A", "a\r\nb"}, {SetHeader, "A", " a"}, {SetHeader, "A", "{var:x}"}, {AddHeader, "Content-Length", "1"}, {AppendHeader, "set-cookie", "a=1"}},
	}, vars())
	optionErrors(t, err, append(strings.Fields(strings.Repeat("request ", 6)), strings.Fields(strings.Repeat("response ", 7))...)...)
}

func TestRewrite(t *testing.T) {
	keep := target.Policy{KeepEncodedSlash: true}
	for _, one := range []struct {
		name    string
		o       RewriteOptions
		uri     string
		want    string // "": refused
		forHost string
	}{
		{name: "prefix", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api", "/v2/x"}}}, uri: "/api/a?q=1", want: "/v2/x/a?q=1"},
		{name: "prefix alone", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api/", "/v2/"}}}, uri: "/api", want: "/v2"},
		{name: "prefix of folder", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api", "/v2"}}}, uri: "/api/", want: "/v2/"},
		{name: "prefix away", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api", "/"}}}, uri: "/api", want: "/"},
		{name: "prefix away before more", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/a/b", "/"}}}, uri: "/a/b/c", want: "/c"},
		{name: "prefix from the root", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/", "/sub"}}}, uri: "/c", want: "/sub/c"},
		{name: "prefix is of segments", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api", "/v2"}}}, uri: "/apix", want: "/apix"},
		{name: "prefix in escapes", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/größe", "/g"}}}, uri: "/gr%C3%B6%C3%9Fe/%3B%20", want: "/g/%3B%20"},
		{name: "encoded slash stays", o: RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api", "/v2"}}, Policy: keep}, uri: "/api/a%2Fb", want: "/v2/a%2Fb"},
		{name: "text", o: RewriteOptions{Path: PathChange{Text: "/u/{var:rest}/{method}"}}, uri: "/x?q", want: "/u/x/y/GET?q"},
		{name: "text with encoded slash", o: RewriteOptions{Path: PathChange{Text: "/u/{var:id}"}, Policy: keep}, uri: "/x", want: "/u/a%2Fb%20%C3%BC"},
		{name: "text with refused slash", o: RewriteOptions{Path: PathChange{Text: "/u/{var:id}"}}, uri: "/x"},
		{name: "slash of an identity is no slash", o: RewriteOptions{Path: PathChange{Text: "/u/{identity}"}, Policy: keep}, uri: "/x", want: "/u/u%2F1"},
		{name: "dots put together", o: RewriteOptions{Path: PathChange{Text: "/u/{var:dot}{var:dot}/admin"}}, uri: "/x"},
		{name: "text with the path", o: RewriteOptions{Path: PathChange{Text: "/new{path}"}}, uri: "/a%20b/c%25", want: "/new/a%20b/c%25"},
		{name: "regexp", o: RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"^/v([0-9]+)/(.*)$", "/${2}/v$1"}}}, uri: "/v3/a%20b", want: "/a%20b/v3"},
		{name: "regexp without a slash", o: RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"^/a", ""}}}, uri: "/ab", want: "/b"},
		{name: "regexp makes slashes", o: RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"^/a", "/"}}}, uri: "/a/evil.example/", want: "/evil.example/"},
		{name: "regexp makes dots", o: RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"x", "."}}}, uri: "/xx/a"},
		{name: "host", o: RewriteOptions{Host: "{header:X-H}.b.example:8080"}, uri: "/x", want: "/x", forHost: "a.b.example:8080"},
		{name: "host from a bad value", o: RewriteOptions{Host: "{header:X-Bad}"}, uri: "/x"},
	} {
		t.Run(one.name, func(t *testing.T) {
			stage, err := NewRewrite(one.o, vars())
			if err != nil {
				t.Fatal(err)
			}
			r, _ := request("GET", one.uri, "X-H", "a", "X-Bad", "a/b@c")
			before := r.URL.String() + r.Host
			var seen *http.Request
			w := httptest.NewRecorder()
			stage(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r })).ServeHTTP(w, r)
			switch {
			case one.want == "" && (seen != nil || w.Code != http.StatusBadRequest):
				t.Errorf("not refused: %d, %+v", w.Code, seen)
			case one.want == "":
			case seen == nil:
				t.Errorf("refused: %s", w.Body)
			case seen.URL.RequestURI() != one.want || one.forHost != "" && seen.Host != one.forHost:
				t.Errorf("%s at %s, want %s at %s", seen.URL.RequestURI(), seen.Host, one.want, one.forHost)
			}
			if r.URL.String()+r.Host != before {
				t.Errorf("the caller's request changed")
			}
		})
	}
}

func TestRewriteErrors(t *testing.T) {
	for _, one := range []struct {
		o      RewriteOptions
		fields string
	}{
		{RewriteOptions{}, "rewrite"},
		{RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"a", ""}}}, "prefix replacement"},
		{RewriteOptions{Path: PathChange{Text: "a"}}, "path"},
		{RewriteOptions{Path: PathChange{Text: "/a?b"}}, "path"},
		{RewriteOptions{Path: PathChange{Text: "/a%20"}}, "path"},
		{RewriteOptions{Path: PathChange{Text: "/{var:no}"}}, "path"},
		{RewriteOptions{Path: PathChange{Text: "/a", Prefix: &PrefixChange{"/a", "/b"}}}, "path"},
		{RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"(", ""}}}, "expression"},
		{RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"(a)", "$2"}}}, "replacement"},
		{RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"(a)", "$1x"}}}, "replacement"},
		{RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"(?P<n>a)", "${n"}}}, "replacement"},
		{RewriteOptions{Path: PathChange{Regexp: &RegexpChange{"(?P<n>a)", "$n $$ ${1}"}}}, ""},
		{RewriteOptions{Host: "a/b"}, "host"},
		{RewriteOptions{Host: "{no}"}, "host"},
	} {
		_, err := NewRewrite(one.o, vars())
		optionErrors(t, err, strings.Fields(one.fields)...)
	}
}

func TestRedirect(t *testing.T) {
	for _, one := range []struct {
		name   string
		o      RedirectOptions
		uri    string
		status int
		want   string
	}{
		{"https", RedirectOptions{Scheme: "https", Status: 301}, "http://a.example:8080/x%20y?q=1", 301, "https://a.example/x%20y?q=1"},
		{"port", RedirectOptions{Scheme: "https", Port: 8443}, "http://a.example/x", 307, "https://a.example:8443/x"},
		{"default port", RedirectOptions{Port: 80}, "http://a.example:8080/x", 307, "http://a.example/x"},
		{"host", RedirectOptions{Host: "www.{host}", Status: 308}, "http://a.example:8080/x", 308, "http://www.a.example/x"},
		{"IPv6", RedirectOptions{Scheme: "https"}, "http://[2001:db8::1]:80/x", 307, "https://[2001:db8::1]/x"},
		{"path", RedirectOptions{Path: PathChange{Text: "/new/{var:rest}"}, Status: 302}, "http://a.example/x?q", 302, "/new/x/y?q"},
		{"no query", RedirectOptions{Path: PathChange{Text: "/new"}, Status: 303, DropQuery: true}, "http://a.example/x?q", 303, "/new"},
		{"prefix", RedirectOptions{Path: PathChange{Prefix: &PrefixChange{"/old", "/"}}}, "http://a.example/old//evil.example/", 307, "/evil.example/"},
		{"prefix with encoded slash", RedirectOptions{Path: PathChange{Prefix: &PrefixChange{"/old", "/"}}}, "http://a.example/old/%2Fevil.example/", 400, ""},
		{"backslash", RedirectOptions{Path: PathChange{Prefix: &PrefixChange{"/old", "/"}}}, "http://a.example/old/%5Cevil.example/", 400, ""},
		{"regexp", RedirectOptions{Path: PathChange{Regexp: &RegexpChange{"^/go/(.*)$", "//$1"}}}, "http://a.example/go/evil.example", 307, "/evil.example"},
	} {
		t.Run(one.name, func(t *testing.T) {
			h, err := NewRedirect(one.o, vars())
			if err != nil {
				t.Fatal(err)
			}
			r, _ := request("GET", one.uri)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != one.status || w.Header().Get("Location") != one.want {
				t.Errorf("%d %q, want %d %q", w.Code, w.Header().Get("Location"), one.status, one.want)
			}
		})
	}
	h, err := NewRedirect(RedirectOptions{Scheme: "https"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a/b", "", "a@b", "a.example:x", "a.example\r\n"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if l := w.Header().Get("Location"); w.Code != http.StatusBadRequest && l != "https://a.example/" {
			t.Errorf("host %q: %d %q", host, w.Code, l)
		}
	}
	for _, one := range []struct {
		o      RedirectOptions
		fields string
	}{
		{RedirectOptions{}, "redirect"}, {RedirectOptions{Status: 300, Scheme: "ftp"}, "status scheme"}, {RedirectOptions{Port: 70000}, "port"},
		{RedirectOptions{Host: "a:80"}, "host"}, {RedirectOptions{Host: "//a"}, "host"},
	} {
		_, err := NewRedirect(one.o, nil)
		optionErrors(t, err, strings.Fields(one.fields)...)
	}
}

func TestRespond(t *testing.T) {
	for _, one := range []struct {
		o                RespondOptions
		method           string
		status           int
		body, kind, size string
	}{
		{RespondOptions{}, "GET", 200, "", "", "0"},
		{RespondOptions{Body: "no\n", Status: 503}, "GET", 503, "no\n", "text/plain; charset=utf-8", "3"},
		{RespondOptions{Body: "{}", Type: "application/json"}, "HEAD", 200, "", "application/json", "2"},
		{RespondOptions{Status: 204}, "GET", 204, "", "", ""},
	} {
		h, err := NewRespond(one.o)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(one.method, "/", nil))
		if w.Code != one.status || w.Body.String() != one.body || w.Header().Get("Content-Type") != one.kind || w.Header().Get("Content-Length") != one.size {
			t.Errorf("%+v: %d, %q, %v", one.o, w.Code, w.Body, w.Header())
		}
	}
	for fields, o := range map[string]RespondOptions{
		"status": {Status: 100}, "body": {Status: 204, Body: "x"}, "type": {Type: "text/html"}, "body type": {Body: strings.Repeat("x", MaxRespond+1), Type: "x"},
	} {
		_, err := NewRespond(o)
		optionErrors(t, err, strings.Fields(fields)...)
	}
}

// serveOver runs a handler on a real server and returns where it is.
func serveOver(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func stageOf(t testing.TB, s Stage, err error) Stage {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBodyLimit(t *testing.T) {
	limit, err := NewBodyLimit(10)
	stage := stageOf(t, limit, err)
	var read error
	s := serveOver(t, stage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Inner", "1")
		var b []byte
		if b, read = io.ReadAll(r.Body); read != nil {
			http.Error(w, "backend is unhappy", http.StatusBadGateway)
			return
		}
		_, _ = w.Write(b)
	})))
	for _, one := range []struct {
		name    string
		body    io.Reader
		status  int
		closes  bool
		reached bool
	}{
		{"fits", strings.NewReader("0123456789"), 200, false, true},
		{"told to be long", strings.NewReader("0123456789x"), 413, true, false},
		{"fits, not told", io.MultiReader(strings.NewReader("0123456789")), 200, false, true},
		{"long, not told", io.MultiReader(strings.NewReader("01234567"), strings.NewReader("89x")), 413, true, true},
		{"none", nil, 200, false, true},
	} {
		t.Run(one.name, func(t *testing.T) {
			read = errors.New("not reached")
			req, _ := http.NewRequest("POST", s.URL, one.body)
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != one.status || res.Close != one.closes || (read == nil || errors.As(read, new(*http.MaxBytesError))) != one.reached {
				t.Errorf("%d, close %v, %q; handler: %v", res.StatusCode, res.Close, body, read)
			}
			if one.status == 413 && (res.Header.Get("X-Inner") != "" || res.Header.Get("Content-Type") != "application/problem+json") {
				t.Errorf("%v", res.Header)
			}
		})
	}
	if _, err := NewBodyLimit(-1); err == nil {
		t.Error("-1 is taken")
	}
}

// TestBodyLimitAfterHead: an answer that has begun stays what it is.
func TestBodyLimitAfterHead(t *testing.T) {
	limit, err := NewBodyLimit(3)
	var read error
	s := httptest.NewUnstartedServer(stageOf(t, limit, err)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush()
		_, read = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "end")
	})))
	s.EnableHTTP2 = true // HTTP/1 reads first
	s.StartTLS()
	defer s.Close()
	res, err := s.Client().Post(s.URL, "", io.MultiReader(strings.NewReader("0123456789")))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusAccepted || string(body) != "end" || !errors.As(read, new(*http.MaxBytesError)) {
		t.Errorf("%d, %q, %v", res.StatusCode, body, read)
	}
}

// all is every stage that puts a writer around the server's.
func all(t testing.TB, step <-chan struct{}) http.Handler {
	t.Helper()
	next := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { exercise(w, r, step) }))
	limit, err := NewBodyLimit(1 << 20)
	next = stageOf(t, limit, err)(next)
	compress, err := NewCompress(CompressOptions{})
	next = stageOf(t, compress, err)(next)
	headers, err := NewHeaders(HeaderOptions{Response: []HeaderEdit{{SetHeader, "X-Edit", "1"}}}, nil)
	next = stageOf(t, headers, err)(next)
	rewrite, err := NewRewrite(RewriteOptions{Host: "b.example"}, nil)
	next = stageOf(t, rewrite, err)(next)
	cors, err := NewCORS(CORSOptions{Origins: []string{"*"}})
	return stageOf(t, cors, err)(next)
}

// exercise uses what a server's writer can do.
func exercise(w http.ResponseWriter, r *http.Request, step <-chan struct{}) {
	rc := http.NewResponseController(w)
	switch r.URL.Path {
	case "/flush":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			if err := rc.Flush(); err != nil {
				panic(err)
			}
			select {
			case <-step: // the client has seen it
			case <-r.Context().Done():
				return
			}
		}
	case "/hijack":
		c, rw, err := rc.Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, line)
	case "/deadline":
		if err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.SetWriteDeadline(time.Now().Add(time.Hour)), rc.EnableFullDuplex()); err != nil {
			panic(err)
		}
	case "/trailer":
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusProcessing)
		_, _ = io.WriteString(w, strings.Repeat("x", 4000))
		w.Header().Set("X-Sum", "4000")
		w.Header().Set(http.TrailerPrefix+"X-More", "1")
	case "/abort":
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("x", 4000))
		_ = rc.Flush()
		_, _ = io.WriteString(w, strings.Repeat("y", 4000))
		panic(http.ErrAbortHandler)
	}
}

func TestStreaming(t *testing.T) {
	step := make(chan struct{})
	s := serveOver(t, all(t, step))
	for _, encoding := range []string{"identity", "zstd", "gzip"} {
		t.Run(encoding, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/flush", nil)
			req.Header.Set("Accept-Encoding", encoding)
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got := res.Header.Get("Content-Encoding"); got != encoding && encoding != "identity" {
				t.Fatalf("encoding %q", got)
			}
			lines := bufio.NewScanner(decoder(t, res))
			for i := 0; i < 3; {
				if !lines.Scan() {
					t.Fatalf("ends after %d: %v", i, lines.Err())
				}
				if lines.Text() == fmt.Sprint("data: ", i) {
					step <- struct{}{}
					i++
				}
			}
			if lines.Scan() && lines.Text() != "" || lines.Err() != nil {
				t.Errorf("more: %q: %v", lines.Text(), lines.Err())
			}
		})
	}
}

func TestUpgrade(t *testing.T) {
	s := serveOver(t, all(t, nil))
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "GET /hijack HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\nAccept-Encoding: gzip\r\n\r\nhello\n")
	b, _ := io.ReadAll(c)
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) || !bytes.HasSuffix(b, []byte("\r\n\r\nhello\n")) {
		t.Errorf("%q", b)
	}
}

func TestControllerAndTrailers(t *testing.T) {
	s := serveOver(t, all(t, nil))
	for _, encoding := range []string{"identity", "zstd", "gzip"} {
		for _, path := range []string{"/deadline", "/trailer", "/abort"} {
			req, _ := http.NewRequest("GET", s.URL+path, nil)
			req.Header.Set("Accept-Encoding", encoding)
			req.Header.Set("Origin", "https://o.example")
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(decoder(t, res))
			res.Body.Close()
			if path == "/abort" {
				if err == nil {
					t.Errorf("%s: an answer that broke off looks complete", encoding)
				}
				continue
			}
			if err != nil || res.StatusCode != 200 || res.Header.Get("X-Edit") != "1" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s: %d %v: %v", encoding, path, res.StatusCode, res.Header, err)
			}
			if path == "/trailer" && (len(body) != 4000 || res.Trailer.Get("X-Sum") != "4000" || res.Trailer.Get("X-More") != "1") {
				t.Errorf("%s: %d bytes, trailers %v", encoding, len(body), res.Trailer)
			}
		}
	}
}

func TestCORS(t *testing.T) {
	o := CORSOptions{
		Origins: []string{"https://A.example", "https://*.b.example:8443", "null"}, Methods: []string{"PUT"}, Headers: []string{"X-Token"},
		Expose: []string{"X-Total"}, Credentials: true, MaxAge: 10 * time.Minute,
	}
	anyone := CORSOptions{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}}
	for _, one := range []struct {
		name                          string
		o                             CORSOptions
		method, origin, asked, fields string
		reached                       bool
		want                          string // fields of the answer
	}{
		{"preflight", o, "OPTIONS", "https://a.example", "PUT", "x-token", false, "O=https://a.example C=true M=PUT H=x-token A=600 V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
		{"preflight of a simple method", o, "OPTIONS", "https://a.example", "POST", "", false, "O=https://a.example C=true M=PUT A=600 V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
		{"preflight of another method", o, "OPTIONS", "https://a.example", "DELETE", "", false, "V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
		{"preflight of another field", o, "OPTIONS", "https://a.example", "PUT", "x-token, x-other", false, "V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
		{"preflight of another origin", o, "OPTIONS", "https://evil.example", "PUT", "", false, "V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
		{"options", o, "OPTIONS", "https://a.example", "", "", true, "O=https://a.example C=true E=X-Total V=Origin"},
		{"request", o, "GET", "https://a.example", "", "", true, "O=https://a.example C=true E=X-Total V=Origin"},
		{"wildcard", o, "GET", "https://x.y.b.example:8443", "", "", true, "O=https://x.y.b.example:8443 C=true E=X-Total V=Origin"},
		{"wildcard needs a label", o, "GET", "https://b.example:8443", "", "", true, "V=Origin"},
		{"wildcard ends the host", o, "GET", "https://evil.example/.b.example:8443", "", "", true, "V=Origin"},
		{"another scheme", o, "GET", "http://a.example", "", "", true, "V=Origin"},
		{"name that ends so", o, "GET", "https://xa.example", "", "", true, "V=Origin"},
		{"null", o, "GET", "null", "", "", true, "O=null C=true E=X-Total V=Origin"},
		{"no origin", o, "GET", "", "", "", true, "V=Origin"},
		{"anyone", anyone, "GET", "https://x.example", "", "", true, "O=* E=*"},
		{"anyone's preflight", anyone, "OPTIONS", "null", "PATCH", "Authorization, x-y", false, "O=* M=* H=authorization, x-y V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
		{"preflight with garbage", anyone, "OPTIONS", "https://x.example", "PATCH", "a b", false, "V=Origin,Access-Control-Request-Method,Access-Control-Request-Headers"},
	} {
		t.Run(one.name, func(t *testing.T) {
			stage, err := NewCORS(one.o)
			reached := false
			h := stageOf(t, stage, err)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				reached = true
				w.Header().Set("Access-Control-Allow-Origin", "https://backend.example")
				w.Header().Set("Access-Control-Allow-Credentials", "true")
			}))
			r, _ := request(one.method, "/")
			for name, v := range map[string]string{"Origin": one.origin, "Access-Control-Request-Method": one.asked, "Access-Control-Request-Headers": one.fields} {
				if v != "" {
					r.Header.Set(name, v)
				}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			var got []string
			for _, f := range []struct{ k, name string }{{"O", "Allow-Origin"}, {"C", "Allow-Credentials"}, {"E", "Expose-Headers"}, {"M", "Allow-Methods"}, {"H", "Allow-Headers"}, {"A", "Max-Age"}} {
				if v := w.Header()["Access-Control-"+f.name]; len(v) > 0 {
					got = append(got, f.k+"="+strings.Join(v, "|"))
				}
			}
			if v := w.Header()["Vary"]; len(v) > 0 {
				got = append(got, "V="+strings.Join(v, ","))
			}
			if strings.Join(got, " ") != one.want || reached != one.reached {
				t.Errorf("reached %v, %s\nwant %v, %s", reached, strings.Join(got, " "), one.reached, one.want)
			}
		})
	}
	for _, one := range []struct {
		o      CORSOptions
		fields string
	}{
		{CORSOptions{}, "origins"}, {CORSOptions{Origins: []string{"*"}, Credentials: true}, "credentials"},
		{CORSOptions{Origins: []string{"https://a.example/", "a.example", "*", "https://a.*.example", "https://u@a.example"}}, "origins origins origins origins origins"},
		{CORSOptions{Origins: []string{"https://a.example"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}, Credentials: true}, "methods headers expose"},
		{CORSOptions{Origins: []string{"null"}, Methods: []string{"a b"}, Headers: []string{"*", "x"}, MaxAge: -1}, "methods headers max_age"},
	} {
		_, err := NewCORS(one.o)
		optionErrors(t, err, strings.Fields(one.fields)...)
	}
}

func TestEscapeQuery(t *testing.T) {
	for _, q := range []string{"a=1&b=%20", "a b\r\n<\">\xff#"} {
		got := escapeQuery(q)
		if u, err := url.Parse("/?" + got); err != nil || u.Fragment != "" || strings.ContainsAny(got, " \r\n\"<>#") {
			t.Errorf("%q: %q: %v", q, got, err)
		}
	}
}
