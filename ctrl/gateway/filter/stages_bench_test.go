package filter

import (
	"net/http"
	"testing"
)

// BenchmarkStages is what each stage costs a small answer.
func BenchmarkStages(b *testing.B) {
	headers, err := NewHeaders(HeaderOptions{
		Request:  []HeaderEdit{{RemoveHeader, "X-Internal-*", ""}, {SetHeader, "X-Client", "{client_ip}"}},
		Response: []HeaderEdit{{SetHeader, "Strict-Transport-Security", "max-age=1"}},
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	rewrite, err := NewRewrite(RewriteOptions{Path: PathChange{Prefix: &PrefixChange{"/api", "/v1"}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	cors, err := NewCORS(CORSOptions{Origins: []string{"https://a.example"}})
	if err != nil {
		b.Fatal(err)
	}
	compress, err := NewCompress(CompressOptions{})
	if err != nil {
		b.Fatal(err)
	}
	limit, err := NewBodyLimit(1 << 20)
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"ok":true}`)
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Content-Length"] = []string{"11"}
		_, _ = w.Write(body)
	})
	for _, one := range []struct {
		name  string
		stage Stage
	}{
		{"none", func(next http.Handler) http.Handler { return next }}, {"headers", headers}, {"rewrite", rewrite}, {"cors", cors}, {"compress", compress}, {"limit", limit},
	} {
		b.Run(one.name, func(b *testing.B) {
			h := one.stage(next)
			r, _ := request("GET", "/api/users/7", "Origin", "https://a.example", "Accept-Encoding", "gzip, deflate, br, zstd", "User-Agent", "x")
			w := &counter{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				h.ServeHTTP(w, r)
			}
		})
	}
}
