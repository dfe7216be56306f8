package aggregate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// backend answers by path and remembers what it was asked.
type backend struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]*http.Request
	body  map[string]string
	gone  chan string // paths whose request was given up
	block chan struct{}
}

func newBackend(t *testing.T) *backend {
	b := &backend{asked: map[string]*http.Request{}, body: map[string]string{}, gone: make(chan string, 16), block: make(chan struct{})}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.asked[r.URL.Path], b.body[r.URL.Path] = r, string(body)
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Cost", r.URL.Path)
	switch {
	case r.URL.Path == "/user/7":
		_, _ = io.WriteString(w, `{ "id": 7, "name": "A \"b\" {", "address": {"zip~code/x": "0123", "n": 12345678901234567890} }`)
	case strings.HasPrefix(r.URL.Path, "/orders/"):
		_, _ = io.WriteString(w, `{"items":[{"a":1},{"a":2}],"page":{"total":2}}`)
	case strings.HasPrefix(r.URL.Path, "/status/"):
		var code int
		_ = json.Unmarshal([]byte(r.URL.Path[8:]), &code)
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(code)
	case r.URL.Path == "/html":
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `{}`)
	case r.URL.Path == "/bad":
		_, _ = io.WriteString(w, `{"a":1} {`)
	case r.URL.Path == "/large":
		_, _ = io.WriteString(w, `"`+strings.Repeat("x", 2000)+`"`)
	case r.URL.Path == "/deep":
		_, _ = io.WriteString(w, strings.Repeat("[", 65)+strings.Repeat("]", 65))
	case r.URL.Path == "/cut":
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{`)
	case r.URL.Path == "/hang":
		<-r.Context().Done()
		b.gone <- r.URL.Path
	default:
		_, _ = io.WriteString(w, `{"path":"`+r.URL.Path+`"}`)
	}
}

// to sends to the backend.
type to struct{ b *backend }

func (d to) Do(r *http.Request) (*http.Response, error) {
	r.URL.Host = strings.TrimPrefix(d.b.URL, "http://")
	return d.b.Client().Do(r)
}

func ask(t *testing.T, o Options, method, target, body string) (*httptest.ResponseRecorder, *exchange.Exchange) {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange.Exchange{ID: "id", Vars: []exchange.Var{{Name: "id", Value: "7"}, {Name: "odd", Value: "a%2Fb?c"}, {Name: "dots", Value: ".."}}}
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("X-Tenant", "t 1")
	r.Header.Set("Authorization", "secret")
	r.Header.Set("Traceparent", "00-1-2-3")
	r.Header.Set("X-Request-Id", "forged")
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r.WithContext(exchange.With(r.Context(), x)))
	return w, x
}

func TestMerge(t *testing.T) {
	b := newBackend(t)
	w, _ := ask(t, Options{
		Parts: []Part{
			{Name: "orders", Do: to{b}, Path: "/orders/{user/address/zip~0code~1x}?limit={query.limit}&n={user/address/n}&no={query.no?}&t={header.x-tenant}", Required: true, AnswerFields: []string{"x-cost"}},
			{Name: "user", Do: to{b}, Path: "/user/{id}", RequestFields: []string{"authorization"}, SetFields: map[string]string{"X-From": "gateway"}},
			{Name: "odd", Do: to{b}, Path: "/x/{odd}", Method: "POST", SendBody: true},
		},
		Fields: []Field{{"profile.name", "user/name"}, {"profile.whole", "user"}, {"orders.items", "orders/items"}, {"orders.second", "orders/items/1/a"}, {"odd", "odd/path"}},
	}, "POST", "/?limit=a%26b", `{"client":1}`)
	want := `{"profile":{"name":"A \"b\" {","whole":{"id":7,"name":"A \"b\" {","address":{"zip~code/x":"0123","n":12345678901234567890}}},"orders":{"items":[{"a":1},{"a":2}],"second":2},"odd":"/x/a/b?c"}` + "\n"
	if w.Code != 200 || w.Body.String() != want || w.Header().Get("Aggregate-Missing") != "" || w.Header().Get("X-Cost") != "/orders/0123" {
		t.Fatalf("%d, %v, %s", w.Code, w.Header(), w.Body)
	}
	if q := b.asked["/orders/0123"].URL.RawQuery; q != "limit=a%26b&n=12345678901234567890&no=&t=t+1" {
		t.Errorf("query %s", q)
	}
	if r := b.asked["/orders/0123"]; r.Header.Get("Authorization") != "" || r.Header.Get("Traceparent") != "00-1-2-3" || r.Header.Get("X-Request-Id") != "id" {
		t.Errorf("fields %v", r.Header)
	}
	if r := b.asked["/user/7"]; r.Header.Get("Authorization") != "secret" || r.Header.Get("X-From") != "gateway" {
		t.Errorf("fields %v", r.Header)
	}
	if b.asked["/x/a/b?c"].URL.EscapedPath() != "/x/a%2Fb%3Fc" || b.body["/x/a/b?c"] != `{"client":1}` {
		t.Errorf("%s, %q", b.asked["/x/a/b?c"].URL.EscapedPath(), b.body["/x/a/b?c"])
	}
}

func TestMissing(t *testing.T) {
	b := newBackend(t)
	dead := httptest.NewServer(nil)
	dead.Close()
	for _, one := range []struct{ path, reason string }{
		{"/status/404", "not_found"}, {"/status/500", "upstream_protocol"}, {"/status/503", "overloaded"}, {"/html", "upstream_protocol"}, {"/bad", "upstream_protocol"},
		{"/large", "upstream_protocol"}, {"/deep", "upstream_protocol"}, {"/cut", "upstream_reset"}, {"/hang", "upstream_timeout"}, {"/x/{query.none}", "bad_request"},
		{"/x/{dots}", "bad_request"}, {"/x/{user/address}", "bad_request"}, {"/x/{user/none}", "bad_request"}, {"/x/{fails/id}", "not_found"},
	} {
		t.Run(one.path, func(t *testing.T) {
			parts := []Part{
				{Name: "user", Do: to{b}, Path: "/user/{id}"},
				{Name: "fails", Do: to{b}, Path: "/status/404"},
				{Name: "part", Do: to{b}, Path: one.path, Timeout: 100 * time.Millisecond, MaxBody: 1000, Default: json.RawMessage(`{"list": []}`)},
			}
			o := Options{Parts: parts, Fields: []Field{{"user", "user/id"}, {"list", "part/list"}, {"more", "part/more"}}, MissingKey: "missing"}
			w, x := ask(t, o, "GET", "/", "")
			want := `{"user":7,"list":[],"more":null,"missing":{"fails":"not_found","part":"` + one.reason + `"}}` + "\n"
			if w.Code != 200 || w.Body.String() != want || w.Header().Get("Aggregate-Missing") != "fails;reason=not_found, part;reason="+one.reason || len(x.Notes()) == 0 {
				t.Errorf("%d, %v, %s, %v", w.Code, w.Header(), w.Body, x.Notes())
			}
			o.Parts[2].Required, o.Parts[2].Default = true, nil
			w, x = ask(t, o, "GET", "/", "")
			if w.Code < 400 || x.Reason.String() != one.reason || !strings.Contains(w.Body.String(), "part part") {
				t.Errorf("required: %d, %s, %v", w.Code, w.Body, x.Reason)
			}
		})
	}
}

// TestWhatToDo: a refusal for a part's sake says of it what its client has to do (RFC 9110
// §11.6.1: 401 never comes without).
func TestWhatToDo(t *testing.T) {
	b := newBackend(t)
	for status, want := range map[int][2]string{401: {"Bearer", "7"}, 429: {"Bearer", "7"}, 503: {"Bearer", "7"}, 404: {}} {
		w, _ := ask(t, Options{Parts: []Part{{Name: "part", Do: to{b}, Path: fmt.Sprint("/status/", status), Required: true}}, Fields: []Field{{"a", "part"}}}, "GET", "/", "")
		if got := [2]string{w.Header().Get("WWW-Authenticate"), w.Header().Get("Retry-After")}; w.Code != status || got != want {
			t.Errorf("%d: %d %q, want %q", status, w.Code, got, want)
		}
	}
}

// TestRequiredEndsOthers: what hangs is given up once a required part failed.
func TestRequiredEndsOthers(t *testing.T) {
	b := newBackend(t)
	w, x := ask(t, Options{Parts: []Part{{Name: "slow", Do: to{b}, Path: "/hang", Required: true}, {Name: "bad", Do: to{b}, Path: "/status/403", Required: true}}}, "GET", "/", "")
	if w.Code != 403 || x.Reason != exchange.Forbidden || !strings.Contains(w.Body.String(), "part bad") {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
	b.mu.Lock()
	r := b.asked["/hang"]
	b.mu.Unlock()
	if r != nil { // it may not have been sent at all
		<-b.gone
	}
}

func TestTotalTimeout(t *testing.T) {
	b := newBackend(t)
	w, _ := ask(t, Options{Timeout: 50 * time.Millisecond, Parts: []Part{{Name: "slow", Do: to{b}, Path: "/hang"}, {Name: "user", Do: to{b}, Path: "/user/7"}}, Fields: []Field{{"n", "user/id"}, {"s", "slow"}}}, "GET", "/", "")
	if w.Code != 200 || w.Body.String() != `{"n":7,"s":null}`+"\n" {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
}

func TestClientGone(t *testing.T) {
	b := newBackend(t)
	a, err := New(Options{Parts: []Part{{Name: "slow", Do: to{b}, Path: "/hang"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x := &exchange.Exchange{}
	time.AfterFunc(20*time.Millisecond, cancel)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(exchange.With(ctx, x)))
	if x.Reason != exchange.ClientGone || w.Body.Len() != 0 {
		t.Errorf("%v, %s", x.Reason, w.Body)
	}
}

func TestBodies(t *testing.T) {
	b := newBackend(t)
	o := Options{MaxRequestBody: 10, Parts: []Part{{Name: "a", Do: to{b}, Path: "/a", Method: "POST", SendBody: true}}}
	if w, _ := ask(t, o, "POST", "/", strings.Repeat("x", 11)); w.Code != 413 {
		t.Errorf("%d", w.Code)
	}
	if w, _ := ask(t, o, "HEAD", "/", ""); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "" {
		t.Errorf("%d, %v, %s", w.Code, w.Header(), w.Body)
	}
}

type nobody struct{}

func (nobody) Do(*http.Request) (*http.Response, error) { return nil, errors.New("nobody there") }

func TestConnectFailed(t *testing.T) {
	w, x := ask(t, Options{Parts: []Part{{Name: "a", Do: nobody{}, Path: "/a", Required: true}}}, "GET", "/", "")
	if w.Code != 502 || x.Reason != exchange.ConnectFailed || strings.Contains(w.Body.String(), "nobody") {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
}

func TestOptions(t *testing.T) {
	ok := func(change func(*Options)) Options {
		o := Options{Parts: []Part{{Name: "a", Do: nobody{}, Path: "/a"}, {Name: "b", Do: nobody{}, Path: "/b/{a/id}"}}}
		change(&o)
		return o
	}
	for want, change := range map[string]func(*Options){
		"0 parts":                        func(o *Options) { o.Parts = nil },
		`two parts are named "a"`:        func(o *Options) { o.Parts[1].Name = "a" },
		"expected a name":                func(o *Options) { o.Parts[0].Name = "query" },
		"no upstream":                    func(o *Options) { o.Parts[0].Do = nil },
		`method "G T"`:                   func(o *Options) { o.Parts[0].Method = "G T" },
		"can't be negative":              func(o *Options) { o.Parts[0].Timeout = -1 },
		"default is not JSON":            func(o *Options) { o.Parts[0].Default = json.RawMessage("{") },
		"a required part has no default": func(o *Options) { o.Parts[0].Default, o.Parts[0].Required = json.RawMessage("1"), true },
		`field "Content-Length"`:         func(o *Options) { o.Parts[0].RequestFields = []string{"Content-Length"} },
		`can't be set to "a\nb"`:         func(o *Options) { o.Parts[0].SetFields = map[string]string{"X": "a\nb"} },
		"expected a slash first":         func(o *Options) { o.Parts[0].Path = "a" },
		"a brace that is not closed":     func(o *Options) { o.Parts[0].Path = "/{a" },
		"a closing brace":                func(o *Options) { o.Parts[0].Path = "/a}" },
		"expected a variable":            func(o *Options) { o.Parts[0].Path = "/{}" },
		"only a value of the query":      func(o *Options) { o.Parts[0].Path = "/{a?}" },
		`there is no part "c"`:           func(o *Options) { o.Parts[0].Path = "/{c/id}" },
		"needs its own answer":           func(o *Options) { o.Parts[0].Path = "/{b/id}" },
		"~ is not followed":              func(o *Options) { o.Fields = []Field{{"x", "a/~2"}} },
		`source "c": there is no part`:   func(o *Options) { o.Fields = []Field{{"x", "c"}} },
		"the key is taken":               func(o *Options) { o.Fields = []Field{{"x", "a"}, {"x.y", "b"}} },
		"expected names with dots":       func(o *Options) { o.Fields = []Field{{"x.", "a"}} },
		`missing_key "a"`:                func(o *Options) { o.MissingKey = "a" },
	} {
		if _, err := New(ok(change)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := New(ok(func(*Options) {})); err != nil {
		t.Error(err)
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/a/{id}/{user/x~1y}?q={query.q?}&h={header.H}", "a/b", `{"x/y":"v"}`)
	f.Add("/{user/0}", "", `["a"]`)
	f.Fuzz(func(t *testing.T, path, value, raw string) {
		pieces, err := parsePath(path, map[string]int{"user": 0})
		if err != nil {
			return
		}
		answer, err := checkJSON([]byte(raw), maxDepth)
		if err != nil {
			answer = nil
		}
		x := &exchange.Exchange{Vars: []exchange.Var{{Name: "id", Value: value}}}
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = "q=" + value
		out, err := expand(pieces, r, x, func(string) json.RawMessage { return answer })
		if err != nil {
			return
		}
		if !strings.HasPrefix(out, "/") || strings.ContainsAny(out, " \r\n#") {
			t.Fatalf("%q", out)
		}
		if strings.Count(out, "/") != strings.Count(litOnly(pieces), "/") {
			t.Fatalf("a value brought a slash: %q", out)
		}
	})
}

func litOnly(pieces []piece) string {
	var b strings.Builder
	for _, p := range pieces {
		if p.kind == litText {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

func FuzzJSON(f *testing.F) {
	f.Add(`{"a":["\"]",{"b":1}]}`, "/a/1/b")
	f.Add(strings.Repeat("[", 65)+strings.Repeat("]", 65), "")
	f.Fuzz(func(t *testing.T, raw, pointer string) {
		v, err := checkJSON([]byte(raw), maxDepth)
		if err != nil {
			return
		}
		if !json.Valid([]byte(raw)) || !json.Valid(v) {
			t.Fatalf("%q was taken", raw)
		}
		p, err := parsePointer(pointer)
		if err != nil {
			return
		}
		if found, ok := follow(v, p); ok && !json.Valid(found) {
			t.Fatalf("%q of %q is %q", pointer, v, found)
		}
	})
}
