package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
)

// selfSigned makes a certificate for names.
func selfSigned(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// secureRig is a gateway whose listener "web" has TLS, on loopback.
func secureRig(t *testing.T, cert tls.Certificate, listener, text string) (g *Gateway, addr string, apply func(string)) {
	t.Helper()
	load := func(text string) *config.Config {
		c, err := config.Load(config.Input{Files: []config.Source{{Name: "np.toml", Data: []byte("[[certificate]]\ncert_file = \"c\"\nkey_file = \"k\"\n[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:8443\"\nprotocol = \"http\"\ntls = true\n" + listener + text)}}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	g = New(Options{Dial: dialNet})
	t.Cleanup(g.Close)
	apply = func(text string) {
		gen, err := g.Prepare(load(text))
		if err != nil {
			t.Fatal(err)
		}
		g.Commit(gen)
	}
	apply(text)
	c := load(text)
	s, err := g.Server(c, &c.Listeners[0], &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	addr, _ = servertest.Start(t, s, 0)
	return g, addr, apply
}

func clientFor(t *testing.T, addr, sni string, pool *x509.CertPool, h2 bool) *http.Client {
	tr := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: sni},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// TestPassthrough: connections go on unopened by name and protocol, a PROXY header before
// them says for whom, and what no such route takes is served here.
func TestPassthrough(t *testing.T) {
	here, pool := selfSigned(t, "here.test")
	there, otherPool := selfSigned(t, "there.test", "a.wild.test")
	heads := make(chan string, 16)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var line []byte
				for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\r\n")); line = append(line, b[0]) {
					if _, err := c.Read(b); err != nil {
						return
					}
				}
				heads <- string(line)
				s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{there}})
				_, _ = io.WriteString(s, "from there")
				_ = s.Close()
			}()
		}
	}()
	text := fmt.Sprintf("[[upstream]]\nname = \"there\"\nendpoints = [%q]\nprotocol = \"tcp\"\nproxy_protocol = \"v1\"\n", l.Addr()) + `
[[route]]
name = "all"
path_prefix = "/"
body = "from here"
`
	g, addr, apply := secureRig(t, here, "", text)
	ask := func() string {
		res, err := clientFor(t, addr, "here.test", pool, true).Get("https://here.test/")
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		return fmt.Sprint(res.StatusCode)
	}
	before := ask()
	apply(text + "[[route]]\nname = \"raw\"\npassthrough = true\nsni = [\"there.test\", \"*.wild.test\"]\nalpn = [\"x\"]\nupstream = \"there\"\n")
	for _, name := range []string{"there.test", "a.wild.test"} {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.SetDeadline(time.Now().Add(time.Minute))
		b, err := io.ReadAll(tls.Client(raw, &tls.Config{RootCAs: otherPool, ServerName: name, NextProtos: []string{"y", "x"}}))
		if err == nil || string(b) != "" { // the backend offers no ALPN: crypto/tls minds only where it has some
			if string(b) != "from there" {
				t.Fatalf("%q, %v", b, err)
			}
		}
		port := raw.LocalAddr().(*net.TCPAddr).Port
		if head := <-heads; head != fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", port, raw.RemoteAddr().(*net.TCPAddr).Port) {
			t.Errorf("%q", head)
		}
		raw.Close()
	}
	if got := ask(); got != before {
		t.Errorf("%s, before %s", got, before)
	}
	snap := g.gen.Load().clusters["there"].up.Snapshot()
	for deadline := time.Now().Add(time.Minute); snap.Endpoints[0].InFlight != 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		snap = g.gen.Load().clusters["there"].up.Snapshot()
	}
	if e := snap.Endpoints[0]; e.InFlight != 0 {
		t.Errorf("%+v", e)
	}
}

// TestMisdirected: over TLS a request for a host that the certificate is not for gets 421.
func TestMisdirected(t *testing.T) {
	cert, pool := selfSigned(t, "here.test", "*.here.test")
	b := strings.TrimPrefix(httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})).URL, "http://")
	text := upstreamOf("u", b) + "[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n"
	for _, one := range []struct {
		key  string
		want int
	}{{"", 421}, {"http.check_host = false\n", 200}} {
		_, addr, _ := secureRig(t, cert, one.key, text)
		for _, h2 := range []bool{false, true} {
			c := clientFor(t, addr, "here.test", pool, h2)
			for host, want := range map[string]int{"here.test": 200, "sub.here.test": 200, "other.test": one.want, "here.test:8443": 200} {
				q, _ := http.NewRequest("GET", "https://here.test/", nil)
				q.Host = host
				res, err := c.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != want {
					t.Errorf("%q %s over h2 %v: %d, expected %d", one.key, host, h2, res.StatusCode, want)
				}
			}
		}
	}
}

// TestProxyIn: the client that a PROXY header or a trusted proxy's X-Forwarded-For says is
// the one that backends hear of.
func TestProxyIn(t *testing.T) {
	text := "http.proxy_protocol = \"require\"\nhttp.trusted = [\"127.0.0.0/8\", \"198.18.7.0/24\"]\n" +
		upstreamOf("a", backend(t, "a")) + "[[route]]\nname = \"a\"\npath_prefix = \"/\"\nupstream = \"a\"\n"
	r := newRig(t, text)
	for head, want := range map[string]string{
		"GET / HTTP/1.0\r\nHost: a\r\n\r\n":                                            "198.18.7.1",
		"GET / HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: 198.18.9.9, 198.18.9.8\r\n\r\n": "198.18.9.9, 198.18.9.8, 198.18.7.1",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, "PROXY TCP4 198.18.7.1 198.18.7.2 1000 80\r\n"+head)
		b, err := io.ReadAll(c)
		if err != nil || !strings.HasSuffix(string(b), "a GET / "+want) {
			t.Errorf("%q, %v; expected %s", b, err, want)
		}
		c.Close()
	}
}
