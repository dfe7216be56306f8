package discovery

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/np-appliance/np/ctrl/secure"
)

// startEtcd starts a server with a folder of its own; extra are further flags.
func startEtcd(t *testing.T, dir string, port int, scheme string, extra ...string) *peer {
	t.Helper()
	client, other := fmt.Sprintf("%s://127.0.0.1:%d", scheme, port), fmt.Sprint("http://127.0.0.1:", freePort(t))
	return startPeer(t, "etcd", append([]string{"--data-dir", dir, "--log-level", "error", "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", other, "--initial-advertise-peer-urls", other, "--initial-cluster", "default=" + other}, extra...)...)
}

// etcdClient returns a client of the test's own.
func etcdClient(t *testing.T, port int) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{fmt.Sprint("http://127.0.0.1:", port)}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	await(t, "etcd", func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := c.Get(ctx, "x"); err != nil {
			return err.Error()
		}
		return ""
	})
	return c
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// gate passes connections on to a server, unless it is shut.
type gate struct {
	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]bool
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return nil, fmt.Errorf("gate: %w", io.ErrClosedPipe)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		g.conns[c] = true
	}
	return c, err
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for c := range g.conns {
		if shut {
			c.Close()
			delete(g.conns, c)
		}
	}
}

func etcdSource(port int, prefix string) *Etcd {
	return &Etcd{Addresses: []string{fmt.Sprint("127.0.0.1:", port)}, Prefix: prefix, Check: 100 * time.Millisecond, Timeout: time.Second}
}

// TestEtcd follows a real server through values right and wrong, and compaction.
func TestEtcd(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	startEtcd(t, t.TempDir(), port, "http")
	c := etcdClient(t, port)
	put(t, c, "/api/1", "198.18.0.1:80")
	put(t, c, "/api/2", `{"address": "[2001:db8::2]:80", "weight": 7, "priority": 1, "locality": "a", "drain": true}`)
	put(t, c, "/api/3", `{"Op": 0, "Addr": "198.18.0.3:80", "Metadata": {"x": [1]}}`)
	put(t, c, "/api2/1", "198.18.0.9:80")
	for i := range 1200 { // three pages
		put(t, c, fmt.Sprintf("/many/%04d", i), fmt.Sprintf("198.18.%d.%d:80", i/250, i%250))
	}
	many := runSource(t, etcdSource(port, "/many/"))
	await(t, "three pages", func() string {
		if n := len(many.list()); n != 1200 {
			return fmt.Sprint(n, many.reports())
		}
		return ""
	})
	r := runSource(t, etcdSource(port, "/api/"))
	r.awaitList(t, "198.18.0.1:80", "198.18.0.3:80", "[2001:db8::2]:80 weight=7 priority=1 locality=a drain")
	put(t, c, "/api/1", "198.18.0.1:80 weight=3")
	put(t, c, "/api/2", "nonsense")
	if _, err := c.Delete(t.Context(), "/api/3"); err != nil {
		t.Fatal(err)
	}
	r.awaitList(t, "198.18.0.1:80 weight=3", "[2001:db8::2]:80 weight=7 priority=1 locality=a drain")
	toldLast := func(r *running, n int, want string) {
		t.Helper()
		await(t, want, func() string {
			if got := r.reports(); len(got) != n || !strings.Contains(got[n-1], want) {
				return fmt.Sprintf("told %q, want %d", got, n)
			}
			return ""
		})
	}
	toldLast(r, 1, `etcd /api/: key "/api/2": value:1: address "nonsense"`)
	put(t, c, "/api/2", "198.18.0.1:80")
	toldLast(r, 2, `address 198.18.0.1:80 is also of key "/api/1"`)
	r.awaitList(t, "198.18.0.1:80 weight=3")
	// Cut off while the history it would need is thrown away.
	g := &gate{conns: map[net.Conn]bool{}}
	cut := etcdSource(port, "/api/")
	cut.Dial, cut.Check = g.dial, time.Hour
	cutRun := runSource(t, cut)
	cutRun.awaitList(t, "198.18.0.1:80 weight=3")
	g.set(true)
	put(t, c, "/api/2", "198.18.0.2:80")
	res, err := c.Delete(t.Context(), "/api/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(t.Context(), res.Header.Revision); err != nil {
		t.Fatal(err)
	}
	g.set(false)
	cutRun.awaitList(t, "198.18.0.2:80")
	r.awaitList(t, "198.18.0.2:80")
}

// TestEtcdAway: a real server goes, comes back, and is replaced by another with an empty
// store.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	port, dir := freePort(t), t.TempDir()
	server := startEtcd(t, dir, port, "http")
	put(t, etcdClient(t, port), "/api/2", "198.18.0.2:80")
	keep := etcdSource(port, "/api/")
	keep.KeepLast = true
	r, kept := runSource(t, etcdSource(port, "/api/")), runSource(t, keep)
	r.awaitList(t, "198.18.0.2:80")
	kept.awaitList(t, "198.18.0.2:80")
	server.kill()
	await(t, "server away", func() string {
		if got := r.reports(); len(got) < 1 || !strings.Contains(got[0], "the list of 1 from") {
			return fmt.Sprintf("told %q", got)
		}
		return ""
	})
	r.awaitList(t, "198.18.0.2:80")
	server = startEtcd(t, dir, port, "http")
	put(t, etcdClient(t, port), "/api/4", "198.18.0.4:80")
	r.awaitList(t, "198.18.0.2:80", "198.18.0.4:80")
	kept.awaitList(t, "198.18.0.2:80", "198.18.0.4:80")
	server.kill()
	startEtcd(t, t.TempDir(), port, "http")
	etcdClient(t, port)
	r.awaitList(t)
	await(t, "replaced", func() string {
		if got := kept.reports(); len(got) == 0 || !strings.Contains(got[len(got)-1], "no endpoints; the list of 2 from") {
			return fmt.Sprintf("told %q", got)
		}
		return ""
	})
	kept.awaitList(t, "198.18.0.2:80", "198.18.0.4:80")
}

// TestEtcdSecured: TLS with certificates of both sides, and a user.
func TestEtcdSecured(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g, err := secure.Generate(secure.Request{Names: []string{"localhost"}, Valid: 24 * time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	cert := writeFile(t, filepath.Join(dir, "cert"), string(g.Cert))
	key := writeFile(t, filepath.Join(dir, "key"), string(g.Key))
	ca := writeFile(t, filepath.Join(dir, "ca"), string(g.CA))
	port, plain := freePort(t), freePort(t)
	both := fmt.Sprintf("https://127.0.0.1:%d,http://127.0.0.1:%d", port, plain)
	startEtcd(t, filepath.Join(dir, "data"), port, "https", "--cert-file", cert, "--key-file", key, "--listen-client-urls", both)
	c := etcdClient(t, plain)
	put(t, c, "/api/1", "198.18.0.1:80")
	ctx := t.Context()
	if _, err := c.UserAdd(ctx, "root", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RoleAdd(ctx, "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UserGrantRole(ctx, "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	password := writeFile(t, filepath.Join(dir, "password"), "secret\n")
	address := fmt.Sprint("localhost:", port)
	runSource(t, &Etcd{Addresses: []string{address}, Prefix: "/api/", TLS: &TLS{CAFile: ca}, User: "root", PasswordFile: password}).awaitList(t, "198.18.0.1:80")
	wrong := writeFile(t, filepath.Join(dir, "wrong"), "wrong\n")
	cases := map[string]*Etcd{
		"authentication failed":          {TLS: &TLS{CAFile: ca}, User: "root", PasswordFile: wrong},
		"user name is empty":             {TLS: &TLS{CAFile: ca}},
		"unknown authority":              {TLS: &TLS{}, User: "root", PasswordFile: password},
		"expected PEM blocks":            {TLS: &TLS{CAFile: password}, User: "root", PasswordFile: password},
		"no such file":                   {TLS: &TLS{CAFile: ca}, User: "root", PasswordFile: filepath.Join(dir, "nothing")},
		"valid for localhost, not other": {TLS: &TLS{CAFile: ca, ServerName: "other"}, User: "root", PasswordFile: password},
	}
	runs := map[string]*running{}
	for want, s := range cases {
		s.Addresses, s.Prefix, s.Timeout = []string{address}, "/api/", 500*time.Millisecond
		runs[want] = runSource(t, s)
	}
	for want, r := range runs {
		await(t, want, func() string {
			if got := r.reports(); len(got) == 0 || !strings.Contains(got[0], want) {
				return fmt.Sprintf("told %q, list %q", got, r.list())
			}
			return ""
		})
	}
}

// TestEtcdWrong: what an Etcd can't be made of.
func TestEtcdWrong(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]*Etcd{
		"0 addresses":          {Prefix: "/"},
		`address "x"`:          {Addresses: []string{"x"}, Prefix: "/"},
		"expected a prefix":    {Addresses: []string{"a:1"}},
		"expected a user":      {Addresses: []string{"a:1"}, Prefix: "/", User: "u"},
		"timeout 1ns":          {Addresses: []string{"a:1"}, Prefix: "/", Timeout: 1},
		`address "a:0"`:        {Addresses: []string{"a:0"}, Prefix: "/"},
		`address "0.0.0.0:80"`: {Addresses: []string{"0.0.0.0:80"}, Prefix: "/"},
	} {
		if err := s.Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzValue: a value is an endpoint that a list takes, or an error.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"a:1", "a:1 weight=2 drain", "none", `{"address":"a:1","weight":1000}`, `{"Addr":"a:1","Op":0,"Metadata":null}`, `{"address":"a:1"}{}`, `{"x":1}`, "a:1\nb:1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseValue(b)
		if err != nil {
			return
		}
		checkSpec(t, s)
	})
}
