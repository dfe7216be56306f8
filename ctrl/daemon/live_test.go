package daemon

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// liveWorld is a daemon with a listener of NPRO and one of HTTP on loopback.
type liveWorld struct {
	*world
	address string
	roots   *x509.CertPool
	cert    string // the [[certificate]]
}

func newLiveWorld(t *testing.T) *liveWorld {
	l := &liveWorld{address: freePorts(t), roots: x509.NewCertPool()}
	dir := t.TempDir()
	l.cert = issue(t, dir, "a.example", time.Now())
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || !l.roots.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	l.world = newWorld(t, l.config("", ""))
	l.start()
	t.Cleanup(func() { l.end(syscall.SIGTERM) })
	return l
}

// freePorts is an address that nothing has of either TCP or UDP.
func freePorts(t *testing.T) string {
	for range 100 {
		address := freePort(t)
		if c, err := net.ListenPacket("udp", address); err == nil {
			_ = c.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// config has keys for the listener of HTTP, and whatever else.
func (l *liveWorld) config(keys, more string) string {
	return fmt.Sprintf("[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\"]\n[protocol]\nallow_any_peer = true\n[[listener]]\nname = \"peers\"\naddress = \"198.18.0.1:7700\"\n[[listener]]\nname = \"web\"\naddress = %q\nprotocol = \"http\"\n%s"+
		"[[route]]\nname = \"r\"\npath_prefix = \"/\"\nbody = \"ok\"\n", l.address, keys) + more
}

func (l *liveWorld) client(h3 bool) *http.Client {
	t := &tls.Config{RootCAs: l.roots, ServerName: "a.example"}
	if h3 {
		tr := &http3.Transport{TLSClientConfig: t}
		l.t.Cleanup(func() { _ = tr.Close() })
		return &http.Client{Transport: tr, Timeout: time.Minute}
	}
	tr := &http.Transport{TLSClientConfig: t}
	l.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func (l *liveWorld) get(c *http.Client, scheme string) error {
	q, err := http.NewRequestWithContext(l.t.Context(), "GET", scheme+"://"+l.address+"/", nil)
	if err != nil {
		return err
	}
	q.Host = "a.example"
	res, err := c.Do(q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ok" {
		return fmt.Errorf("%d %q, %w", res.StatusCode, b, err)
	}
	return nil
}

// TestReloadLive: the first certificate, HTTP/3, its settings and the last certificate come
// and go by reload; connections of HTTP/3 go on while their listener's settings change.
func TestReloadLive(t *testing.T) {
	l := newLiveWorld(t)
	if err := l.get(l.client(false), "http"); err != nil {
		t.Fatal(err)
	}
	const done = "configuration reloaded"
	const base = "tls = true\nhttp.check_host = false\n"
	l.reload(l.config(base, l.cert+"[tls]\nmin_version = \"1.3\"\n"), done)
	if err := l.get(l.client(false), "https"); err != nil {
		t.Fatalf("with the first certificate: %v", err)
	}
	more := l.cert + "[tls]\nmin_version = \"1.3\"\n"
	l.reload(l.config(base+"http.versions = [\"1.1\", \"2\", \"3\"]\n", more), done)
	held := l.client(true)
	if err := l.get(held, "https"); err != nil {
		t.Fatalf("with HTTP/3: %v", err)
	}
	for n := range 3 {
		l.reload(l.config(fmt.Sprintf("%shttp.versions = [\"1.1\", \"2\", \"3\"]\nhttp.max_fields = %d\nmax_connections = %d\n", base, 100+n, 500+n), more), done)
		if err := l.get(held, "https"); err != nil {
			t.Errorf("a connection of HTTP/3 that is held, change %d: %v", n, err)
		}
		if err := l.get(l.client(true), "https"); err != nil {
			t.Errorf("a new one, change %d: %v", n, err)
		}
	}
	for _, v := range get[api.Listeners](l.world, api.PathListeners, nil).Listeners {
		if v.Name == "web" && (v.HTTP == nil || v.HTTP.Requests["h3"] != 7) {
			t.Errorf("%+v", v.HTTP)
		}
		if v.Name == "web" && v.MaxConnections != 502 {
			t.Errorf("max_connections shows %d", v.MaxConnections)
		}
	}
	l.reload(l.config(base, more), done)
	if c, err := net.ListenPacket("udp", l.address); err != nil {
		l.eventually("the socket of HTTP/3 closes", func() bool { c, err = net.ListenPacket("udp", l.address); return err == nil })
		_ = c.Close()
	} else {
		_ = c.Close()
	}
	l.reload(l.config("", ""), done)
	if err := l.get(l.client(false), "http"); err != nil {
		t.Errorf("without certificates again: %v", err)
	}
}

// TestReloadTakenBack: a later step that fails leaves what there was.
func TestReloadTakenBack(t *testing.T) {
	l := newLiveWorld(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const base = "tls = true\nhttp.check_host = false\n"
	l.reload(l.config(base, l.cert), "configuration reloaded")
	other := fmt.Sprintf("[[listener]]\nname = \"other\"\naddress = %q\nprotocol = \"http\"\n", taken.Addr())
	l.reload(l.config(base+"http.versions = [\"1.1\", \"3\"]\n", l.cert+other), "not reloaded")
	if err := l.get(l.client(false), "https"); err != nil {
		t.Error(err)
	}
	c, err := net.ListenPacket("udp", l.address)
	if err != nil {
		t.Fatalf("the socket of HTTP/3 is left behind: %v", err)
	}
	_ = c.Close()
}

// TestReloadMoves: a listener whose address changes answers at both until the new one is
// there, and at the new one alone after it; a new address that can't be had changes nothing.
func TestReloadMoves(t *testing.T) {
	l := newLiveWorld(t)
	old := l.address
	held, err := net.Dial("tcp", old)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_ = held.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(held)
	ask := func() error {
		if _, err := io.WriteString(held, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l.address = taken.Addr().String()
	l.reload(l.config("", ""), "not reloaded")
	if err := ask(); err != nil {
		t.Errorf("a move that failed broke a connection: %v", err)
	}
	l.address = freePort(t)
	l.reload(l.config("", ""), "configuration reloaded")
	if err := l.get(l.client(false), "http"); err != nil {
		t.Error(err)
	}
	if c, err := new(net.Dialer).DialContext(context.Background(), "tcp", old); err == nil {
		_ = c.Close()
		t.Error("the old address answers")
	}
}

// TestReloadMovesOn: a listener moves away, and another one, new or moved too, takes the
// address that it had.
func TestReloadMovesOn(t *testing.T) {
	l := newLiveWorld(t)
	first, second, third := l.address, freePort(t), freePort(t)
	other := func(address string) string {
		return fmt.Sprintf("[[listener]]\nname = \"other\"\naddress = %q\nprotocol = \"http\"\n", address)
	}
	for _, one := range [][2]string{{second, first}, {first, second}, {second, third}} { // the last: after the other one
		l.address = one[0]
		l.reload(l.config("", other(one[1])), "configuration reloaded")
		for _, at := range one {
			l.address = at
			if err := l.get(l.client(false), "http"); err != nil {
				t.Errorf("%v: %v", one, err)
			}
		}
	}
}

// TestListenersOfBothKinds: what is served on Go's sockets is nobody else's: closing it
// leaves listeners of the plane alone.
func TestListenersOfBothKinds(t *testing.T) {
	l := newLiveWorld(t)
	ids := map[uint32]string{}
	for _, v := range l.plane.Listeners() {
		ids[uint32(v.ID)] = "plane"
	}
	if len(ids) != 1 {
		t.Fatalf("%v", ids)
	}
	rest := "[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\"]\n[protocol]\nallow_any_peer = true\n[[listener]]\nname = \"peers\"\naddress = \"198.18.0.1:7700\"\n"
	l.reload(rest, "configuration reloaded")
	if n := len(l.plane.Listeners()); n != 1 {
		t.Errorf("%d listeners on the plane", n)
	}
	l.reload(l.config("", ""), "configuration reloaded")
	l.reload(fmt.Sprintf("[[interface]]\nname = \"np0\"\naddresses = [\"198.18.0.1/24\"]\n[protocol]\nallow_any_peer = true\n[[listener]]\nname = \"web\"\naddress = %q\nprotocol = \"http\"\n[[route]]\nname = \"r\"\npath_prefix = \"/\"\nbody = \"ok\"\n", l.address), "configuration reloaded")
	if n := len(l.plane.Listeners()); n != 0 {
		t.Errorf("%d listeners on the plane", n)
	}
	if err := l.get(l.client(false), "http"); err != nil {
		t.Error(err)
	}
}
