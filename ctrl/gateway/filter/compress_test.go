package filter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decoder reads an answer's body as its encoding says. A zstd window above what browsers take fails.
func decoder(t testing.TB, res *http.Response) io.Reader {
	t.Helper()
	switch res.Header.Get("Content-Encoding") {
	case "gzip":
		r, err := gzip.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	case "zstd":
		r, err := zstd.NewReader(res.Body, zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	return res.Body
}

func TestParseAccept(t *testing.T) {
	both, gz := []coding{zstandard, gzipped}, []coding{gzipped}
	for _, one := range []struct {
		lines   []string
		offered []coding
		want    string // "": not acceptable
	}{
		{nil, both, "identity"},
		{[]string{""}, both, "identity"},
		{[]string{"gzip"}, both, "gzip"},
		{[]string{"zstd"}, gz, "identity"},
		{[]string{"gzip, zstd"}, both, "zstd"},
		{[]string{"gzip", "zstd"}, both, "zstd"},
		{[]string{"gzip;q=1, zstd;q=0.9"}, both, "gzip"},
		{[]string{"GZIP ; Q=0.5"}, both, "gzip"},
		{[]string{"x-gzip"}, both, "gzip"},
		{[]string{"*"}, both, "zstd"},
		{[]string{"*;q=0.1, gzip;q=0"}, both, "zstd"},
		{[]string{"gzip;q=0.5, identity"}, both, "identity"},
		{[]string{"gzip, identity"}, both, "gzip"},
		{[]string{"gzip;q=0"}, both, "identity"},
		{[]string{"identity;q=0"}, both, ""},
		{[]string{"*;q=0"}, both, ""},
		{[]string{"br, *;q=0"}, both, ""},
		{[]string{"identity;q=0, gzip;q=0.001"}, both, "gzip"},
		{[]string{"*;q=0, identity;q=0.1"}, both, "identity"},
		{[]string{"gzip;q=0.1234, zstd;q=2, br;q=x"}, both, "identity"},
		{[]string{"gzip;q=, zstd;q=1.001"}, both, "identity"},
		{[]string{"gzip;level=1"}, both, "identity"},
		{[]string{",;,=,q=1,;q=0,"}, both, "identity"},
		{[]string{"gzip;q=0, gzip"}, both, "identity"},
		{[]string{"gzip;q=1.000;"}, both, "identity"},
		{[]string{strings.Repeat("br,", maxAccept) + "gzip"}, both, "identity"},
	} {
		got := ""
		if c, ok := parseAccept(one.lines).choose(one.offered); ok {
			got = c.String()
		}
		if got != one.want {
			t.Errorf("%q: %q, want %q", one.lines, got, one.want)
		}
	}
}

func FuzzAccept(f *testing.F) {
	for _, s := range []string{"gzip;q=0.5, *;q=0", "identity;q=0,zstd", ";;,=", "gzip;q=1.0000", "*"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		accept := parseAccept([]string{a, b})
		for c, q := range accept {
			if q < unsaid || q > 1000 {
				t.Fatalf("%s: weight %d", coding(c), q)
			}
		}
		if c, ok := accept.choose([]coding{zstandard, gzipped}); ok && c != identity && !strings.ContainsAny(a+b, "gGzZ*") {
			t.Fatalf("%q %q: %s", a, b, c)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{client_ip}", "{{}}", "{var:id}x{header:A}", "{", "}{", "{var:\x00}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseTemplate(s, vars())
		if err != nil {
			return
		}
		r, _ := request("GET", "/")
		if got := p.text(r, nil); !strings.ContainsAny(s, "{}") && got != s {
			t.Fatalf("%q gives %q", s, got)
		}
	})
}

// FuzzOrigin: hostile values of what the stages read of requests.
func FuzzOrigin(f *testing.F) {
	cors, err := NewCORS(CORSOptions{Origins: []string{"https://a.example", "https://*.b.example"}, Methods: []string{"PUT"}, Headers: []string{"x"}})
	if err != nil {
		f.Fatal(err)
	}
	h := cors(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	f.Add("https://a.example", "PUT", "x,y", true)
	f.Add("https://.b.example", "", ",", false)
	f.Add("https://x:1@y.b.example", "\x00", "x", true)
	f.Fuzz(func(t *testing.T, origin, asked, fields string, preflight bool) {
		r := httptest.NewRequest("GET", "/", nil)
		if preflight {
			r.Method = "OPTIONS"
		}
		r.Header = http.Header{"Origin": {origin}, "Access-Control-Request-Method": {asked}, "Access-Control-Request-Headers": {fields}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := w.Header().Get("Access-Control-Allow-Origin")
		host, ok := strings.CutPrefix(got, "https://")
		if got != "" && (got != origin || !ok || !validHost(host) || host != "a.example" && (!strings.HasSuffix(host, ".b.example") || strings.ContainsAny(host, ":"))) {
			t.Fatalf("%q is allowed as %q", origin, got)
		}
	})
}

func FuzzGroups(f *testing.F) {
	for _, s := range []string{"$1", "${n}$$", "${", "$", "$1x", "${99999999999999999999}"} {
		f.Add(s)
	}
	c := checker{}
	f.Fuzz(func(t *testing.T, s string) {
		c.errs = nil
		p := c.pathChange(PathChange{Regexp: &RegexpChange{"^/(?P<n>a)(b)?", s}}, nil, (RewriteOptions{}).Policy)
		if len(c.errs) > 0 {
			return
		}
		r := httptest.NewRequest("GET", "/ab/c", nil)
		wire, err := p.change(r)
		if err == nil && (!strings.HasPrefix(wire, "/") || strings.HasPrefix(wire, "//") || strings.Contains(wire, "/../")) {
			t.Fatalf("%q gives %q", s, wire)
		}
	})
}

const long = 5000

// answers writes what the request's query asks for.
func answers(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	h := w.Header()
	for k, v := range q {
		if k[0] >= 'A' && k[0] <= 'Z' {
			h[k] = v
		}
	}
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil {
		n = long
	}
	if q.Has("length") {
		h.Set("Content-Length", strconv.Itoa(n))
	}
	if s, err := strconv.Atoi(q.Get("status")); err == nil {
		w.WriteHeader(s)
	}
	if r.Method == http.MethodHead || q.Get("status") == "304" || q.Get("status") == "204" {
		return
	}
	for n > 0 {
		part := min(n, 300)
		if _, err := io.WriteString(w, strings.Repeat("a", part)); err != nil {
			return
		}
		n -= part
	}
}

func TestCompress(t *testing.T) {
	stage, err := NewCompress(CompressOptions{})
	s := serveOver(t, stageOf(t, stage, err)(http.HandlerFunc(answers)))
	s.Client().Transport.(*http.Transport).DisableCompression = true
	text := "Content-Type=text/plain%3b+charset=utf-8"
	for _, one := range []struct {
		name, query, accept string
		header              string // "Name: value" of the request
		encoding            string
		vary                bool
		status              int
	}{
		{"zstd", text, "gzip, deflate, br, zstd", "", "zstd", true, 200},
		{"gzip", text + "&length", "gzip", "", "gzip", true, 200},
		{"not asked for", text, "", "", "", true, 200},
		{"identity", text, "identity", "", "", true, 200},
		{"json", "Content-Type=application/vnd.x%2bjson", "zstd", "", "zstd", true, 200},
		{"svg", "Content-Type=image/svg%2bxml", "zstd", "", "zstd", true, 200},
		{"image", "Content-Type=image/png", "zstd", "", "", false, 200},
		{"no type", "X=1", "zstd", "", "", false, 200},
		{"grpc", "Content-Type=application/grpc", "gzip", "", "", false, 200},
		{"grpc in JSON", "Content-Type=application/grpc%2bjson", "gzip", "", "", false, 200},
		{"grpc, forced", "Content-Type=application/grpc-web", "gzip, *;q=0", "", "", false, 200},
		{"small", text + "&n=100", "zstd", "", "", true, 200},
		{"small and told", text + "&n=100&length", "zstd", "", "", false, 200},
		{"empty", text + "&n=0", "zstd", "", "", true, 200},
		{"encoded", text + "&Content-Encoding=br", "zstd", "", "", false, 200},
		{"encoded as identity", text + "&Content-Encoding=identity", "zstd", "", "zstd", true, 200},
		{"no-transform", text + "&Cache-Control=public,+No-Transform", "zstd", "", "", false, 200},
		{"asked not to transform", text, "zstd", "Cache-Control: no-transform", "", true, 200},
		{"partial", text + "&status=206", "zstd", "Range: bytes=0-", "", false, 206},
		{"range not honoured", text, "zstd", "Range: bytes=0-", "", true, 200},
		{"digest", text + "&Repr-Digest=x", "zstd", "", "", false, 200},
		{"error", text + "&status=500", "zstd", "", "zstd", true, 500},
		{"nothing new", text + "&status=304", "zstd", "", "", true, 304},
		{"nothing new of what was compressed", text + "&status=304", "zstd", `If-None-Match: "y", W/"x"`, "", true, 304},
		{"nothing new of what was not", text + "&status=304", "zstd", `If-None-Match: "x"`, "", true, 304},
		{"no content", text + "&status=204", "zstd", "", "", false, 204},
		{"forced: small", text + "&n=100", "gzip, identity;q=0", "", "gzip", true, 200},
		{"forced: type", "Content-Type=image/png", "zstd, *;q=0", "", "zstd", true, 200},
		{"forced: nothing to take", text, "br, identity;q=0", "", "", true, 406},
	} {
		t.Run(one.name, func(t *testing.T) {
			req, _ := http.NewRequest("GET", s.URL+"/?Etag=%22x%22&"+one.query, nil)
			req.Header["Accept-Encoding"] = []string{one.accept}
			if k, v, ok := strings.Cut(one.header, ": "); ok {
				req.Header.Set(k, v)
			}
			res, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got := res.Header.Get("Content-Encoding")
			if got == "br" || got == "identity" {
				got = ""
			}
			if res.StatusCode != one.status || got != one.encoding || hasToken(res.Header["Vary"], "accept-encoding") != one.vary {
				t.Fatalf("%d, %v", res.StatusCode, res.Header)
			}
			tag := `"x"`
			if one.encoding != "" {
				tag = `W/"x"`
				if res.ContentLength >= 0 && res.ContentLength > 200 {
					t.Errorf("length %d", res.ContentLength)
				}
			}
			if strings.Contains(one.header, "W/") {
				tag = `W/"x"`
			}
			if one.status < 400 && res.Header.Get("Etag") != tag {
				t.Errorf("tag %s, want %s", res.Header.Get("Etag"), tag)
			}
			body, err := io.ReadAll(decoder(t, res))
			if err != nil {
				t.Fatal(err)
			}
			want := long
			for k, n := range map[string]int{"n=100": 100, "n=0": 0, "status=304": 0, "status=204": 0} {
				if strings.Contains(one.query, k) {
					want = n
				}
			}
			if one.status != 406 && len(body) != want {
				t.Errorf("%d bytes, want %d", len(body), want)
			}
		})
	}
}

func TestCompressHead(t *testing.T) {
	stage, err := NewCompress(CompressOptions{})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("HEAD", "/?Content-Type=text/html&length", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	stageOf(t, stage, err)(http.HandlerFunc(answers)).ServeHTTP(w, r)
	if w.Header().Get("Content-Encoding") != "" || w.Header().Get("Content-Length") != "5000" || w.Header().Get("Vary") != "Accept-Encoding" {
		t.Errorf("%v", w.Header())
	}
}

// TestCompressFull: beyond what may be compressed at a time answers go as they are.
func TestCompressFull(t *testing.T) {
	c, err := newCompressor(CompressOptions{MaxActive: 1})
	if err != nil {
		t.Fatal(err)
	}
	inner := 0
	var outer http.Handler
	outer = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, strings.Repeat("a", long))
		if inner == 0 {
			inner = 1
			second := httptest.NewRecorder()
			c.serve(outer, second, r)
			if second.Header().Get("Content-Encoding") != "" || second.Body.Len() != long {
				t.Errorf("the second: %v, %d bytes", second.Header(), second.Body.Len())
			}
		}
	})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "zstd")
	for range 2 {
		w := httptest.NewRecorder()
		c.serve(outer, w, r)
		if w.Header().Get("Content-Encoding") != "zstd" || c.active.Load() != 0 {
			t.Errorf("%v, %d active", w.Header(), c.active.Load())
		}
	}
}

// broken fails after some bytes, as a client does that goes away.
type broken struct {
	http.ResponseWriter
	left int
}

func (w *broken) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("gone")
	}
	return len(p), nil
}

func TestCompressClientGone(t *testing.T) {
	c, err := newCompressor(CompressOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, encoding := range []string{"gzip", "zstd"} {
		r, x := request("GET", "/", "Accept-Encoding", encoding)
		noise := make([]byte, 4<<20)
		for i := range noise {
			noise[i] = byte(i * i >> 3)
		}
		c.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write(noise)
		}), &broken{httptest.NewRecorder(), 100}, r)
		if len(x.Notes()) == 0 || c.active.Load() != 0 {
			t.Errorf("%s: notes %v, %d active", encoding, x.Notes(), c.active.Load())
		}
		w := httptest.NewRecorder() // and the encoder is good for the next
		c.serve(http.HandlerFunc(answers), w, httptest.NewRequest("GET", "/?Content-Type=text/plain", nil))
		if w.Body.Len() != long {
			t.Errorf("%d bytes", w.Body.Len())
		}
	}
}

func TestCompressErrors(t *testing.T) {
	for _, one := range []struct {
		o      CompressOptions
		fields string
	}{
		{CompressOptions{Encodings: []string{"br", "identity", "x-gzip"}}, "encodings encodings encodings"},
		{CompressOptions{Encodings: []string{"gzip", "gzip"}}, "encodings"},
		{CompressOptions{Types: []string{"text", "*/*", "text/a*", "a b/c"}}, "types types types types"},
		{CompressOptions{MinSize: -1, Level: 9, MaxActive: -1}, "min_size level max_active"},
	} {
		_, err := NewCompress(one.o)
		optionErrors(t, err, strings.Fields(one.fields)...)
	}
}

func BenchmarkCompress(b *testing.B) {
	var doc bytes.Buffer
	for i := range 2000 {
		fmt.Fprintf(&doc, `{"id":%d,"name":"user %d","mail":"user%d@example.com"},`, i, i*7, i)
	}
	body := doc.Bytes()
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(body)
	})
	for level := 1; level <= 3; level++ {
		for _, encoding := range []string{"zstd", "gzip", "identity"} {
			if encoding == "identity" && level > 1 {
				continue
			}
			b.Run(fmt.Sprintf("%s/level%d", encoding, level), func(b *testing.B) {
				c, err := newCompressor(CompressOptions{Level: level})
				if err != nil {
					b.Fatal(err)
				}
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("Accept-Encoding", encoding)
				w := &counter{h: http.Header{}}
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					clear(w.h)
					c.serve(next, w, r)
					n++
				}
				b.ReportMetric(float64(w.n)/float64(n)/float64(len(body))*100, "%size")
			})
		}
	}
	b.Run("memory", func(b *testing.B) { // of an open stream
		for _, encoding := range []coding{zstandard, gzipped} {
			c, err := newCompressor(CompressOptions{})
			if err != nil {
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			open := make([]encoder, 64)
			for i := range open {
				open[i] = c.encoder(encoding, io.Discard)
				_, _ = open[i].Write(body)
				_ = open[i].Flush()
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/64/1024, encoding.String()+"-KiB")
			runtime.KeepAlive(open)
		}
	})
}

type counter struct {
	h http.Header
	n int
}

func (w *counter) Header() http.Header         { return w.h }
func (w *counter) WriteHeader(int)             {}
func (w *counter) Write(p []byte) (int, error) { w.n += len(p); return len(p), nil }
