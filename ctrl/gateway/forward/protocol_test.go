package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/upstream"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// echoTo answers with what it saw and the body, and a trailer.
func echoTo(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hint" {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
	}
	w.Header().Set("Trailer", "Sum")
	w.Header().Set("Seen", fmt.Sprintf("%d %s %s %s", r.ProtoMajor, r.Method, r.RequestURI, r.Host))
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Write(b)
	w.Header().Set("Sum", fmt.Sprint(len(b), r.Trailer.Get("In")))
}

// tlsServer starts a server with TLS that speaks the protocols named.
func tlsServer(t *testing.T, h2, h1 bool, h http.HandlerFunc) (addr string, client *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = h2
	s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	if h2 {
		s.TLS.NextProtos = []string{"h2"}
		if h1 {
			s.TLS.NextProtos = []string{"h2", "http/1.1"}
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), trust(s)
}

// trust is what a client of a server is made of.
func trust(s *httptest.Server) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// backendOf starts a backend for each way of speaking, and says how to be spoken to.
func backendOf(t *testing.T, kind string, h http.HandlerFunc) (addr string, change func(*upstream.Config, *Config)) {
	t.Helper()
	switch kind {
	case "http1":
		return backend(t, h), func(*upstream.Config, *Config) {}
	case "http1 over TLS":
		addr, c := tlsServer(t, false, true, h)
		return addr, func(_ *upstream.Config, cc *Config) { cc.TLS = c }
	case "auto to http1":
		addr, c := tlsServer(t, false, true, h)
		return addr, func(_ *upstream.Config, cc *Config) { cc.TLS, cc.Protocol = c, Auto }
	case "auto to h2":
		addr, c := tlsServer(t, true, true, h)
		return addr, func(_ *upstream.Config, cc *Config) { cc.TLS, cc.Protocol = c, Auto }
	case "h2":
		addr, c := tlsServer(t, true, false, h)
		return addr, func(_ *upstream.Config, cc *Config) { cc.TLS, cc.Protocol = c, H2 }
	case "h2c":
		s := httptest.NewUnstartedServer(h)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String(), func(_ *upstream.Config, cc *Config) { cc.Protocol = H2C }
	case "h3":
		return h3Server(t, h)
	case "unix":
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(h)
		s.Listener.Close()
		s.Listener = l
		s.Start()
		t.Cleanup(s.Close)
		return "unix:" + path, func(*upstream.Config, *Config) {}
	}
	panic(kind)
}

func h3Server(t *testing.T, h http.HandlerFunc) (string, func(*upstream.Config, *Config)) {
	return h3Limited(t, h, 0)
}

// h3Limited serves HTTP/3 with at most so many requests at a time; 0: the library's limit.
func h3Limited(t *testing.T, h http.Handler, streams int64) (string, func(*upstream.Config, *Config)) {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	pair, client := cert.TLS.Certificates[0], trust(cert)
	cert.Close()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}), QUICConfig: &quic.Config{MaxIncomingStreams: streams}}
	done := make(chan struct{})
	go func() { _ = s.Serve(pc); close(done) }()
	t.Cleanup(func() { s.Close(); pc.Close(); <-done })
	return pc.LocalAddr().String(), over3(client)
}

// over3 speaks HTTP/3 from sockets of loopback.
func over3(client *tls.Config) func(*upstream.Config, *Config) {
	return func(_ *upstream.Config, cc *Config) {
		cc.Protocol, cc.TLS = H3, client
		cc.Packet = func(_ context.Context, address string) (net.PacketConn, net.Addr, error) {
			to, err := net.ResolveUDPAddr("udp", address)
			if err != nil {
				return nil, nil, err
			}
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			return pc, to, err
		}
	}
}

// limited is a backend whose connections take so many requests at a time.
func limited(t *testing.T, kind string, streams int, h http.Handler) (string, func(*upstream.Config, *Config)) {
	t.Helper()
	if kind == "h3" {
		return h3Limited(t, h, int64(streams))
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), func(_ *upstream.Config, cc *Config) { cc.Protocol = H2C }
}

var kinds = []string{"http1", "http1 over TLS", "auto to http1", "auto to h2", "h2", "h2c", "h3", "unix"}

func TestProtocols(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			addr, change := backendOf(t, kind, echoTo)
			c := cluster(t, change, addr)
			s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}}))
			major := "1"
			if strings.Contains(kind, "h2") {
				major = "2"
			} else if kind == "h3" {
				major = "3"
			}
			host := strings.TrimPrefix(s.URL, "http://")
			for _, path := range []string{"/a%2fb?c=d", "//x", "/?", "/hint"} {
				for _, body := range []io.Reader{nil, strings.NewReader("hello"), strings.NewReader(strings.Repeat("x", 200_000)), io.MultiReader(strings.NewReader("chunked"))} {
					n := 0
					switch b := body.(type) {
					case *strings.Reader:
						n = b.Len()
					case nil:
					default:
						n = 7
					}
					r := request(t, "PUT", s.URL, body, "Te", "trailers")
					r.URL.Opaque = "//" + host + path
					resp, got := fetch(t, r)
					if want := major + " PUT " + path + " " + host; resp.StatusCode != 200 || resp.Header.Get("Seen") != want || len(got) != n || resp.Trailer.Get("Sum") != fmt.Sprint(n) {
						t.Errorf("%d, %d bytes, %q, expected %q; trailer %v", resp.StatusCode, len(got), resp.Header.Get("Seen"), want, resp.Trailer)
					}
				}
			}
			r := request(t, "POST", s.URL, io.MultiReader(strings.NewReader("hi")), "Te", "trailers")
			r.Trailer = http.Header{"In": {" t"}}
			if resp, _ := fetch(t, r); resp.Trailer.Get("Sum") != "2 t" && resp.Trailer.Get("Sum") != "2t" {
				t.Errorf("request's trailer: %v", resp.Trailer)
			}
			if resp, got := fetch(t, request(t, "HEAD", s.URL, nil)); resp.StatusCode != 200 || got != "" {
				t.Error(resp)
			}
			p := c.Pools()
			if len(p) != 1 || p[0].Endpoint != addr || p[0].Pool.Opened()+p[0].Opened != 1 || p[0].Pool.Acquired+p[0].Requests == 0 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// TestAnyToAny: each protocol in, each out; requests without a body stay so.
func TestAnyToAny(t *testing.T) {
	for _, in := range []string{"http1", "h2c", "h3"} {
		for _, out := range []string{"http1", "h2c", "h3"} {
			t.Run(in+" to "+out, func(t *testing.T) {
				addr, change := backendOf(t, out, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", "Sum")
					w.Header().Set("Seen", fmt.Sprint(r.Method, " ", len(r.TransferEncoding), r.Header.Get("Content-Length")))
					b, _ := io.ReadAll(r.Body)
					w.Write(b)
					http.NewResponseController(w).Flush()
					w.Header().Set("Sum", fmt.Sprint(len(b)))
				})
				front, config := backendOf(t, in, enter(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, change, addr)}}}), nil).ServeHTTP)
				cl := cluster(t, config, front) // a client for each protocol
				for _, one := range []struct{ method, body, seen string }{{"GET", "", "GET 0"}, {"DELETE", "", "DELETE 0"}, {"GET", "odd", ""}, {"POST", "hello", ""}, {"PUT", strings.Repeat("x", 100_000), ""}} {
					for _, chunked := range []bool{false, true} {
						var body io.Reader
						if one.body != "" {
							if body = strings.NewReader(one.body); chunked {
								body = io.MultiReader(body)
							}
						}
						r := request(t, one.method, "http://a/", body, "Te", "trailers")
						resp, err := cl.Do(r)
						if err != nil {
							t.Fatal(err)
						}
						b, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || string(b) != one.body || one.seen != "" && resp.Header.Get("Seen") != one.seen || resp.Trailer.Get("Sum") != fmt.Sprint(len(one.body)) {
							t.Errorf("%s %.10q chunked %v: %d %.30q %q, trailer %v, %v", one.method, one.body, chunked, resp.StatusCode, b, resp.Header.Get("Seen"), resp.Trailer, err)
						}
					}
				}
			})
		}
	}
}

// TestTrailerBesideLength: a client of HTTP/1.1 is told of a trailer where one will come,
// which is after chunks alone.
func TestTrailerBesideLength(t *testing.T) {
	addr, change := backendOf(t, "h2c", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "hi")
		w.Header().Set("Sum", "2")
		w.Header().Set(http.TrailerPrefix+"Su", "1") // a part of one that was announced
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, change, addr)}}}))
	for _, te := range []string{"", "trailers"} {
		resp, body := fetch(t, request(t, "GET", s.URL, nil, "Te", te))
		want, length, say := http.Header(nil), int64(2), "nothing"
		if te != "" {
			want, length, say = http.Header{"Sum": {"2"}, "Su": {"1"}}, -1, "Sum and Su"
		}
		if body != "hi" || resp.ContentLength != length || !reflect.DeepEqual(resp.Trailer, want) {
			t.Errorf("TE %q: %q, length %d, trailer %v; want %s", te, body, resp.ContentLength, resp.Trailer, say)
		}
	}
}

// TestProtocolFailures: each way of speaking tells the same of the same failure.
func TestProtocolFailures(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			stall := make(chan struct{})
			addr, change := backendOf(t, kind, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/abort":
					panic(http.ErrAbortHandler)
				case "/half":
					w.Write([]byte("half"))
					http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				case "/stall":
					select {
					case <-r.Context().Done():
					case <-stall:
					}
				}
			})
			patient := cluster(t, change, addr)
			hasty := cluster(t, func(u *upstream.Config, cc *Config) { // of which others than the stalled would be a matter of luck
				change(u, cc)
				u.Timeouts.Request = 300 * time.Millisecond
			}, addr)
			seen := make(chan *exchange.Exchange, 1)
			h, stalled := handler(t, Options{Targets: []Target{{Cluster: patient}}}), handler(t, Options{Targets: []Target{{Cluster: hasty}}})
			s := httptest.NewServer(enter(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/stall" {
					stalled.ServeHTTP(w, r)
					return
				}
				h.ServeHTTP(w, r)
			}), seen))
			defer s.Close()
			defer close(stall)
			// On a connection that was used before net/http asks again where nothing of an answer came.
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for path, want := range map[string]exchange.Reason{"/": exchange.None, "/abort": exchange.UpstreamReset, "/half": exchange.UpstreamReset, "/stall": exchange.UpstreamTimeout} {
				resp, err := client.Get(s.URL + path)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				x := <-seen
				late := path == "/half" && !(kind == "h3" && resp.StatusCode == 502) // whose reset overtakes what was sent
				if x.Reason != want || late != (err != nil) || err == nil && resp.StatusCode != want.Status() {
					t.Errorf("%s: %s, %v, %v", path, x.Reason, err, x.Notes())
				}
			}
		})
	}
}

func TestTLSRefused(t *testing.T) {
	addr, good := tlsServer(t, true, true, echoTo)
	h1addr, h1good := tlsServer(t, false, true, echoTo)
	for name, one := range map[string]struct {
		addr     string
		tls      *tls.Config
		protocol Protocol
	}{
		"unknown CA":       {addr, &tls.Config{ServerName: "example.com", RootCAs: x509.NewCertPool()}, HTTP1},
		"another name":     {addr, &tls.Config{ServerName: "other.example", RootCAs: good.RootCAs}, Auto},
		"name of endpoint": {strings.Replace(addr, "127.0.0.1", "127.0.0.2", 1), &tls.Config{RootCAs: good.RootCAs}, H2},
		"no h2":            {h1addr, h1good, H2},
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster(t, func(_ *upstream.Config, cc *Config) {
				cc.TLS, cc.Protocol = one.tls, one.protocol
				cc.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
					return dial(ctx, n, strings.Replace(a, "127.0.0.2", "127.0.0.1", 1))
				}
			}, one.addr)
			seen := make(chan *exchange.Exchange, 1)
			w := httptest.NewRecorder()
			enter(t, handler(t, Options{Targets: []Target{{Cluster: c}}}), seen).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if x := <-seen; w.Code != 502 || x.Reason != exchange.ConnectFailed {
				t.Errorf("%d, %s, %v", w.Code, x.Reason, x.Notes())
			}
		})
	}
}

// TestAutoChanges: an endpoint that speaks something else after a restart is asked again.
func TestAutoChanges(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	pair := cert.TLS.Certificates[0]
	roots := x509.NewCertPool()
	roots.AddCert(cert.Certificate())
	cert.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	c := cluster(t, func(_ *upstream.Config, cc *Config) {
		cc.TLS, cc.Protocol = &tls.Config{RootCAs: roots, ServerName: "example.com"}, Auto
		cc.Pool = DefaultPool()
		cc.Pool.BackoffMin, cc.Pool.BackoffMax = time.Millisecond, time.Millisecond
	}, addr)
	h := enter(t, handler(t, Options{Targets: []Target{{Cluster: c}}}), nil)
	for i, protos := range [][]string{{"h2"}, {"http/1.1"}} {
		if i > 0 {
			if l, err = net.Listen("tcp", addr); err != nil {
				t.Skip("the port was taken meanwhile: ", err)
			}
		}
		s := &http.Server{Handler: http.HandlerFunc(echoTo), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protos}, ErrorLog: log.New(io.Discard, "", 0)}
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(protos[0] == "http/1.1")
		s.Protocols.SetHTTP2(protos[0] == "h2")
		done := make(chan struct{})
		go func() { _ = s.ServeTLS(l, "", ""); close(done) }()
		ok := false
		for range 5 { // the first finds out
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			ok = ok || w.Code == 200 && strings.HasPrefix(w.Header().Get("Seen"), map[string]string{"h2": "2", "http/1.1": "1"}[protos[0]])
		}
		if !ok {
			t.Errorf("%v: not spoken", protos)
		}
		s.Close()
		<-done
	}
}

func TestProxyProtocol(t *testing.T) {
	for version, want := range map[int]string{1: "PROXY TCP4 198.18.0.1 127.0.0.1 1234 ", 2: proxySignature + "\x21\x11\x00\x0c\xc6\x12\x00\x01\x7f\x00\x00\x01\x04\xd2"} {
		heads := make(chan string, 3)
		addr, count := raw(t, func(nc net.Conn, _ int32) {
			r := bufio.NewReader(nc)
			var b []byte
			if version == 1 {
				b, _ = r.ReadBytes('\n')
			} else {
				b = make([]byte, 28)
				io.ReadFull(r, b)
			}
			if _, err := http.ReadRequest(r); err == nil {
				heads <- string(b)
				io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		c := cluster(t, func(_ *upstream.Config, cc *Config) { cc.ProxyProtocol = version }, addr)
		h := handler(t, Options{Targets: []Target{{Cluster: c}}})
		s := front(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			exchange.From(r.Context()).Client = netip.MustParseAddrPort("198.18.0.1:1234")
			h.ServeHTTP(w, r)
		}))
		for range 3 {
			fetch(t, request(t, "GET", s.URL, nil))
			if got := <-heads; !strings.HasPrefix(got, want) {
				t.Errorf("%q, expected %q", got, want)
			}
		}
		if n := count.Load(); n != 3 {
			t.Errorf("%d connections for 3 requests", n)
		}
	}
}

func TestProxyHeader(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("198.18.0.1:1"), netip.MustParseAddrPort("[2001:db8::1]:65535")
	for _, one := range []struct {
		version  int
		src, dst netip.AddrPort
		want     string
	}{
		{1, v4, v4, "PROXY TCP4 198.18.0.1 198.18.0.1 1 1\r\n"},
		{1, v6, v6, "PROXY TCP6 2001:db8::1 2001:db8::1 65535 65535\r\n"},
		{1, v4, v6, "PROXY TCP6 ::ffff:198.18.0.1 2001:db8::1 1 65535\r\n"},
		{1, netip.MustParseAddrPort("[::ffff:198.18.0.1]:1"), v4, "PROXY TCP4 198.18.0.1 198.18.0.1 1 1\r\n"},
		{1, netip.AddrPort{}, v4, "PROXY UNKNOWN\r\n"},
		{2, netip.AddrPort{}, v4, proxySignature + "\x20\x00\x00\x00"},
		{2, v4, v4, proxySignature + "\x21\x11\x00\x0c\xc6\x12\x00\x01\xc6\x12\x00\x01\x00\x01\x00\x01"},
		{2, v6, v6, proxySignature + "\x21\x21\x00\x24 \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01 \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff"},
	} {
		if got := string(proxyHeader(one.version, one.src, one.dst)); got != one.want {
			t.Errorf("%d %v %v: %q, expected %q", one.version, one.src, one.dst, got, one.want)
		}
	}
}
