package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/message/wstest"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	"github.com/np-appliance/np/ctrl/npro"
)

// nproEcho is a service that speaks NPRO and sends everything back.
func nproEcho(t *testing.T) (address, key string) {
	t.Helper()
	s, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	s.Accept = func(*clienttest.Request) npro.Code { return npro.CodeOK }
	if address, err = s.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return address, pub.String()
}

// entries are the addresses of one gateway: without TLS, with it, and for QUIC.
type entries struct {
	plain, secure, quic string
	client              *tls.Config
	ca                  string // PEM file
}

func packetNet(_ context.Context, _, address string) (net.PacketConn, net.Addr, error) {
	to, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, nil, err
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	return c, to, err
}

// serveAll serves one configuration in all ways that there are.
func serveAll(t *testing.T, c *config.Config) *entries {
	t.Helper()
	g := New(Options{Dial: dialNet, Packet: packetNet})
	t.Cleanup(g.Close)
	(&rig{Gateway: g}).apply(t, c)
	own := httptest.NewUnstartedServer(nil)
	own.StartTLS()
	pair, roots := own.TLS.Certificates[0], x509.NewCertPool()
	roots.AddCert(own.Certificate())
	own.Close()
	e := &entries{client: &tls.Config{RootCAs: roots, ServerName: "example.com"}, ca: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(e.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := g.Server(c, &c.Listeners[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	e.plain, _ = servertest.Start(t, plain, 0)
	l := c.Listeners[0]
	l.TLS, l.HTTP.Versions = true, []string{"1.1", "2", "3"}
	secure, err := g.Server(c, &l, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- secure.ServePacket(context.Background(), pc) }()
	e.quic = pc.LocalAddr().String()
	e.secure, _ = servertest.Start(t, secure, 0)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = secure.Shutdown(ctx) // streams that tests left are cut off
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = pc.Close()
	})
	return e
}

// TestWebSocketStrict runs the cases through the gateway as it stands: WebSockets that end
// there, over each HTTP, and those that are passed on to another gateway's, from each HTTP
// to each.
func TestWebSocketStrict(t *testing.T) {
	address, key := nproEcho(t)
	inner := serveAll(t, load(t, upstreamOf("talk", address)+`protocol = "npro"
npro.pattern = "NX"
npro.keys = ["`+key+`"]
[[route]]
name = "talk"
path_prefix = "/"
upstream = "talk"
npro_opcode = "TALK"
websocket.mode = "terminate"
websocket.max_message = "100000"
`))
	secure := fmt.Sprintf("host = \"example.com\"\ntls.enabled = true\ntls.ca_file = %q\ntls.server_name = \"example.com\"\n", inner.ca)
	var text string
	towards := map[string]string{"http1": upstreamOf("http1", inner.plain), "h2c": upstreamOf("h2c", inner.plain) + "protocol = \"h2c\"\n", "h2": upstreamOf("h2", inner.secure) + "protocol = \"h2\"\n" + secure,
		"auto": upstreamOf("auto", inner.secure) + secure, "h3": upstreamOf("h3", inner.quic) + "protocol = \"h3\"\n" + secure}
	for name, up := range towards {
		text += up + fmt.Sprintf("[[route]]\nname = %[1]q\npath_prefix = \"/%[1]s\"\nupstream = %[1]q\n", name)
	}
	outer := serveAll(t, load(t, text))
	some := []string{"text", "fragments", "ping between fragments", "no UTF-8 in pieces", "RSV1", "without mask", "close 1000", "close 999",
		"65536 bytes", "too large in pieces", "many pings", "something after close"}
	for in, at := range map[string]*entries{"ended": inner, "passed on": outer} {
		for name := range towards {
			if in == "ended" && name != "http1" { // one way in is enough
				continue
			}
			path := "/" + name
			for version, open := range map[string]func(*testing.T) *wstest.Conn{"1.1": wstest.Open1(at.plain, path), "2": wstest.Open2(at.plain, path), "3": wstest.Open3(t, at.quic, path, at.client)} {
				only := some
				if in == "ended" || name == "http1" && version != "3" || name == "h2c" && version == "1.1" || name == "h3" && version == "3" {
					only = nil
				}
				t.Run(strings.Join([]string{in, "HTTP/" + version, name}, " "), func(t *testing.T) { wstest.Run(t, open, only...) })
			}
		}
	}
}

// TestTunnelHalfClosed: over HTTP/2 the endpoint's end of an upgraded connection is the
// client's, who may go on for as long as it likes to say something, within reason.
func TestTunnelHalfClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		defer close(got)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := bufio.NewReader(nc)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nbye")
		_ = nc.(*net.TCPConn).CloseWrite()
		rest, _ := io.ReadAll(r)
		got <- string(rest)
	}()
	r := newRig(t, upstreamOf("foo", l.Addr().String())+"[[route]]\nname = \"foo\"\npath = \"/\"\nupstream = \"foo\"\nupgrades = [\"foo\"]\n")
	w := wstest.Connect2(t, strings.TrimPrefix(r.url, "http://"), "/", "foo")
	if b, err := io.ReadAll(w); err != nil || string(b) != "bye" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := io.WriteString(w, "and more"); err != nil {
		t.Fatal(err)
	}
	if err := w.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text := <-got; text != "and more" {
		t.Errorf("the endpoint got %q", text)
	}
}
