package forward

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// nowhere takes an answer as a server's writer does, without its cost.
type nowhere struct {
	h http.Header
	n int
}

func (w *nowhere) Header() http.Header         { return w.h }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Write(p []byte) (int, error) { w.n += len(p); return len(p), nil }

// BenchmarkHandler is forwarding over loopback to a server that does next to nothing,
// beside net/http/httputil's proxy. What a server does is not in it.
func BenchmarkHandler(b *testing.B) {
	addr, _ := raw(b, func(nc net.Conn, _ int32) {
		r := bufio.NewReader(nc)
		answer := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nDate: Thu, 26 Nov 2026 05:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				if _, err := nc.Write(answer); err != nil {
					return
				}
			}
		}
	})
	u, err := url.Parse("http://" + addr)
	if err != nil {
		b.Fatal(err)
	}
	for name, h := range map[string]http.Handler{"forward": handler(b, Options{Targets: []Target{{Cluster: cluster(b, nil, addr)}}}), "httputil": httputil.NewSingleHostReverseProxy(u)} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/path?query", nil)
			r.Header = http.Header{"User-Agent": {"bench"}, "Accept": {"*/*"}}
			x := &exchange.Exchange{ID: "0123456789abcdef", Start: time.Now(), Peer: netip.MustParseAddrPort("198.18.0.1:1234"), Client: netip.MustParseAddrPort("198.18.0.1:1234")}
			r = r.WithContext(exchange.With(b.Context(), x))
			b.ReportAllocs()
			for b.Loop() {
				w := &nowhere{h: http.Header{}}
				h.ServeHTTP(w, r)
				if w.n != 5 {
					b.Fatal(w.n)
				}
			}
		})
	}
}
