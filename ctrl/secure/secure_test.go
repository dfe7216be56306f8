package secure

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
)

// loopback is the smallest transport there is.
type loopback struct{}

func (loopback) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}
func (loopback) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.ListenConfig
	return l.Listen(ctx, network, address)
}
func (loopback) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var l net.ListenConfig
	return l.ListenPacket(ctx, network, address)
}
func (loopback) Properties() dataplane.Properties {
	return dataplane.Properties{Backend: "net", Networks: []string{"tcp", "udp"}, ZeroCopy: true}
}

type issued struct {
	Files
	ca string
}

// issue makes a certificate in a directory of its own. by: its authority, zero a new one.
func issue(t *testing.T, by issued, r Request) issued {
	t.Helper()
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	if r.Valid == 0 {
		r.Valid = time.Hour
	}
	if by.ca != "" {
		var err error
		if r.CA, err = os.ReadFile(by.ca); err != nil {
			t.Fatal(err)
		}
		if r.CAKey, err = os.ReadFile(filepath.Join(filepath.Dir(by.ca), "ca-key.pem")); err != nil {
			t.Fatal(err)
		}
	}
	g, err := Generate(r)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := g.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	out := issued{Files: Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}, ca: filepath.Join(dir, "ca.pem")}
	if by.ca != "" {
		out.ca = by.ca
	}
	return out
}

func load(t *testing.T, f ...Files) *Store {
	t.Helper()
	s, err := Load(f, false, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readCA(t *testing.T, path string) []byte {
	t.Helper()
	b, err := ReadCA(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// meet dials srv with cli and echoes a message. It returns both ends' states or the dialer's error.
func meet(t *testing.T, srv *Server, cli *Client) (server, client tls.ConnectionState, err error) {
	t.Helper()
	sc, err := srv.Config()
	if err != nil {
		t.Fatal(err)
	}
	cc, err := cli.Config()
	if err != nil {
		t.Fatal(err)
	}
	return meetWith(t, sc, cc)
}

func meetWith(t *testing.T, sc, cc *tls.Config) (server, client tls.ConnectionState, err error) {
	t.Helper()
	tr := &Transport{Under: loopback{}, Server: sc, Client: cc, HandshakeTimeout: 5 * time.Second}
	l, err := tr.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := io.Copy(c, c); err != nil {
			return
		}
		server = c.(*Conn).ConnectionState()
	})
	c, err := tr.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		return server, client, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	want := bytes.Repeat([]byte("np"), 20000)
	go func() {
		_, _ = c.(dataplane.StreamConn).WriteBuffers(net.Buffers{want[:10], want[10:30000], want[30000:]})
		_ = c.(dataplane.StreamConn).CloseWrite()
	}()
	var got []byte
	for {
		b, err := c.(dataplane.StreamConn).ReadBuffers()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return server, client, err
		}
		for _, p := range b.Bytes() {
			got = append(got, p...)
		}
		b.Release()
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("echo: %d bytes, want %d", len(got), len(want))
	}
	client = c.(*Conn).ConnectionState()
	c.Close()
	wg.Wait()
	return server, client, nil
}

func TestVersionsAndKeyExchange(t *testing.T) {
	id := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	for _, c := range []struct {
		name    string
		common  Common
		version uint16
		curve   tls.CurveID
	}{
		{"default", Common{}, tls.VersionTLS13, tls.X25519MLKEM768},
		{"1.2", Common{MaxVersion: tls.VersionTLS12}, tls.VersionTLS12, tls.X25519},
		{"classical", Common{PostQuantum: PostQuantumOff}, tls.VersionTLS13, tls.X25519},
		{"hybrid only", Common{PostQuantum: PostQuantumRequire}, tls.VersionTLS13, tls.X25519MLKEM768},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.common.ALPN = []string{"np", "http/1.1"}
			s, cl, err := meet(t, &Server{Common: c.common, Store: load(t, id.Files)},
				&Client{Common: Common{ALPN: []string{"h2", "http/1.1"}}, CA: readCA(t, id.ca)})
			if err != nil {
				t.Fatal(err)
			}
			if s.Version != c.version || s.CurveID != c.curve || cl.NegotiatedProtocol != "http/1.1" {
				t.Errorf("version %x, curve %v, ALPN %q", s.Version, s.CurveID, cl.NegotiatedProtocol)
			}
		})
	}
}

func TestServerName(t *testing.T) {
	first := issue(t, issued{}, Request{Names: []string{"a.example", "127.0.0.1"}})
	second := issue(t, first, Request{Names: []string{"b.example"}})
	wild := issue(t, first, Request{Names: []string{"*.c.example"}})
	store := load(t, first.Files, second.Files, wild.Files)
	for name, want := range map[string]string{"a.example": "a.example", "b.example": "b.example", "B.Example": "b.example", "x.c.example": "*.c.example"} {
		_, cl, err := meet(t, &Server{Store: store}, &Client{CA: readCA(t, first.ca), ServerName: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := cl.PeerCertificates[0].DNSNames[0]; got != want {
			t.Errorf("%s: certificate of %s, want %s", name, got, want)
		}
	}
	_, _, err := meet(t, &Server{Store: store}, &Client{CA: readCA(t, first.ca), ServerName: "x.y.c.example"})
	var host x509.HostnameError
	if !errors.As(err, &host) || !strings.Contains(err.Error(), "set server_name") {
		t.Errorf("wrong name: %v", err)
	}
	strict, err := Load([]Files{first.Files}, true, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := meet(t, &Server{Store: strict}, &Client{CA: readCA(t, first.ca), ServerName: "nobody.example"}); err == nil {
		t.Error("strict store served an unknown name")
	}
}

func TestTrust(t *testing.T) {
	id := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	other := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	store := load(t, id.Files)
	_, _, err := meet(t, &Server{Store: store}, &Client{CA: readCA(t, other.ca)})
	if err == nil || !strings.Contains(err.Error(), "set ca_file") {
		t.Errorf("unknown authority: %v", err)
	}
	pin := store.Certificates()[0].Pin
	if _, _, err := meet(t, &Server{Store: store}, &Client{Common: Common{Pins: []string{pin}}, CA: readCA(t, id.ca)}); err != nil {
		t.Errorf("pinned: %v", err)
	}
	bad := load(t, other.Files).Certificates()[0].Pin
	if _, _, err := meet(t, &Server{Store: store}, &Client{Common: Common{Pins: []string{bad}}, CA: readCA(t, id.ca)}); err == nil || !strings.Contains(err.Error(), pin) {
		t.Errorf("other pin: %v", err)
	}
	if _, err := (&Client{Common: Common{Pins: []string{"abc"}}}).Config(); err == nil {
		t.Error("a pin of three characters was taken")
	}
}

func TestClientCertificates(t *testing.T) {
	id := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	user := issue(t, id, Request{Names: []string{"alice"}, Client: true})
	stranger := issue(t, issued{}, Request{Names: []string{"mallory"}, Client: true})
	ca := readCA(t, id.ca)
	for _, c := range []struct {
		name string
		auth ClientAuth
		show *issued
		ok   bool
		who  string
	}{
		{"required and shown", ClientAuthRequire, &user, true, "alice"},
		{"required, none", ClientAuthRequire, nil, false, ""},
		{"required, stranger's", ClientAuthRequire, &stranger, false, ""},
		{"requested, none", ClientAuthRequest, nil, true, ""},
		{"requested, stranger's", ClientAuthRequest, &stranger, false, ""},
		{"server's used by a client", ClientAuthRequire, &id, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := &Client{CA: ca}
			if c.show != nil {
				cl.Store = load(t, c.show.Files)
			}
			s, _, err := meet(t, &Server{Store: load(t, id.Files), ClientAuth: c.auth, ClientCA: ca}, cl)
			if (err == nil) != c.ok {
				t.Fatalf("err %v, want ok %v", err, c.ok)
			}
			if c.who != "" && (len(s.PeerCertificates) == 0 || s.PeerCertificates[0].Subject.CommonName != c.who) {
				t.Errorf("server saw %v", s.PeerCertificates)
			}
		})
	}
	if _, err := (&Server{Store: load(t, id.Files), ClientAuth: ClientAuthRequire}).Config(); err == nil || !strings.Contains(err.Error(), "client_ca_file") {
		t.Errorf("no CA: %v", err)
	}
}

func TestResumption(t *testing.T) {
	id := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	for _, off := range []bool{false, true} {
		srv := &Server{Store: load(t, id.Files), NoSessionTickets: off}
		cl := &Client{CA: readCA(t, id.ca)}
		sc, err := srv.Config()
		if err != nil {
			t.Fatal(err)
		}
		cc, err := cl.Config()
		if err != nil {
			t.Fatal(err)
		}
		cc.ServerName = "127.0.0.1" // the session's key, whatever the port
		for i := range 2 {
			_, c, err := meetWith(t, sc, cc)
			if err != nil {
				t.Fatal(err)
			}
			if want := i == 1 && !off; c.DidResume != want {
				t.Errorf("tickets off %v, connection %d: resumed %v", off, i, c.DidResume)
			}
		}
	}
}

func TestReload(t *testing.T) {
	old := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	store := load(t, old.Files)
	srv := &Server{Store: store}
	sc, err := srv.Config()
	if err != nil {
		t.Fatal(err)
	}
	fresh := issue(t, old, Request{Names: []string{"127.0.0.1", "new.example"}})
	if err := store.Reload([]Files{{Cert: fresh.Cert, Key: old.Key}}, false); err == nil {
		t.Error("a certificate with another's key was taken")
	}
	if got := store.Certificates()[0].Files.Cert; got != old.Cert {
		t.Errorf("after a failed reload %s is in force", got)
	}
	if err := store.Reload([]Files{fresh.Files}, false); err != nil {
		t.Fatal(err)
	}
	cc, err := (&Client{CA: readCA(t, old.ca)}).Config()
	if err != nil {
		t.Fatal(err)
	}
	_, c, err := meetWith(t, sc, cc)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.PeerCertificates[0].DNSNames) != 1 {
		t.Error("the old certificate was served after a reload")
	}
}

func TestBadFiles(t *testing.T) {
	good := issue(t, issued{}, Request{Names: []string{"a.example"}})
	past := issue(t, issued{}, Request{Names: []string{"a.example"}, Now: time.Now().Add(-48 * time.Hour), Valid: time.Hour})
	future := issue(t, issued{}, Request{Names: []string{"a.example"}, Now: time.Now().Add(48 * time.Hour), Valid: time.Hour})
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.pem")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open.pem")
	key, err := os.ReadFile(good.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(open, key, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	fifo, rubbish, bundle := filepath.Join(dir, "fifo.pem"), filepath.Join(dir, "rubbish.pem"), filepath.Join(dir, "bundle.pem")
	cert, err := os.ReadFile(good.Cert)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	noise := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("noise")})
	many := bytes.Repeat(cert, chainMax/len(block.Bytes)+1)
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.WriteFile(rubbish, append(bytes.Clone(cert), noise...), 0o600), os.WriteFile(bundle, many, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCA(rubbish); err == nil || !strings.Contains(err.Error(), "certificate number 2") {
		t.Errorf("a CA file with rubbish: %v", err)
	}
	wild := issue(t, issued{}, Request{Names: []string{"*.c.example"}})
	for _, c := range []struct {
		name  string
		files []Files
		is    error
		says  string
	}{
		{"none", nil, nil, "npctl cert generate"},
		{"missing", []Files{{Cert: dir + "/no.pem", Key: good.Key}}, os.ErrNotExist, "does not exist"},
		{"no PEM", []Files{{Cert: junk, Key: good.Key}}, nil, "expected a PEM chain"},
		{"key everybody reads", []Files{{Cert: good.Cert, Key: open}}, nil, "chmod 600"},
		{"expired", []Files{past.Files}, ErrExpired, "since"},
		{"not yet", []Files{future.Files}, ErrNotYetValid, "clock"},
		{"wrong name", []Files{{Cert: good.Cert, Key: good.Key, Names: []string{"b.example"}}}, nil, "a.example"},
		{"both", []Files{past.Files, {Cert: junk, Key: good.Key}}, ErrExpired, "expected a PEM chain"},
		{"fifo", []Files{{Cert: fifo, Key: good.Key}}, nil, "no regular file"},
		{"rubbish in the chain", []Files{{Cert: rubbish, Key: good.Key}}, nil, "number 2 of the chain"},
		{"bundle", []Files{{Cert: bundle, Key: good.Key}}, nil, "not a bundle of roots"},
		{"name in part", []Files{{Cert: wild.Cert, Key: wild.Key, Names: []string{"a*b.c.example"}}}, nil, "expected a DNS name"},
		{"name with NUL", []Files{{Cert: wild.Cert, Key: wild.Key, Names: []string{"a\x00b.c.example"}}}, nil, "expected a DNS name"},
		{"empty name", []Files{{Cert: wild.Cert, Key: wild.Key, Names: []string{""}}}, nil, "expected a DNS name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(c.files, false, time.Now)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v, want something with %q", err, c.says)
			}
			if err != nil && bytes.Contains([]byte(err.Error()), bytes.TrimSpace(key[40:80])) {
				t.Error("the error shows key bytes")
			}
		})
	}
	if block, _ = pem.Decode(key); block == nil || block.Type != "PRIVATE KEY" {
		t.Error("generated key is no PKCS #8")
	}
}

func TestSlowClientHoldsUpNobody(t *testing.T) {
	id := issue(t, issued{}, Request{Names: []string{"127.0.0.1"}})
	sc, err := (&Server{Store: load(t, id.Files)}).Config()
	if err != nil {
		t.Fatal(err)
	}
	tr := &Transport{Under: loopback{}, Server: sc, HandshakeTimeout: 50 * time.Millisecond}
	l, err := tr.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client that says nothing: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	tr := &Transport{Under: loopback{}}
	if _, err := tr.ListenPacket(t.Context(), "udp", "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "tcp") {
		t.Errorf("datagrams: %v", err)
	}
	if _, err := tr.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil {
		t.Error("dialled without settings")
	}
	if _, err := tr.Listen(t.Context(), "tcp", "127.0.0.1:0"); err == nil {
		t.Error("listened without settings")
	}
	if p := tr.Properties(); !p.Secure || p.ZeroCopy || len(p.Networks) != 1 {
		t.Errorf("properties %+v", p)
	}
	if _, err := Generate(Request{Names: []string{"x"}, Valid: -time.Hour}); err == nil {
		t.Error("a certificate of negative age was made")
	}
	g, err := Generate(Request{Names: []string{"x"}, Valid: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if w, err := g.Save(dir, false); err != nil || len(w) != 4 {
		t.Fatalf("%v %v", w, err)
	}
	if _, err := g.Save(dir, false); err == nil || !strings.Contains(err.Error(), "cert.pem") {
		t.Errorf("overwrote: %v", err)
	}
	if _, err := g.Save(dir, true); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key's mode: %v %v", fi.Mode(), err)
	}
	if _, err := Generate(Request{Names: []string{"y"}, Valid: time.Hour, Now: time.Now(), CA: g.Cert, CAKey: g.Key}); err == nil || !strings.Contains(err.Error(), "no authority") {
		t.Errorf("a leaf signed: %v", err)
	}
}

// TestGenerateNames: a certificate for what nobody can ask for is refused.
func TestGenerateNames(t *testing.T) {
	for name, good := range map[string]bool{"a.example": true, "*.example": true, "198.18.0.1": true, "2001:db8::1": true, "localhost": true, "_x.a-b.example": true,
		"": false, "*": false, "a b": false, "a\nb": false, "a\x00.example": false, "a*.example": false, "*.*.example": false, "..": false, ".example": false,
		"-x": false, "x-.example": false, "é.example": false, strings.Repeat("a", 64) + ".example": false, strings.Repeat("a.", 127): false} {
		_, err := Generate(Request{Names: []string{name}, Valid: time.Hour, Now: time.Now()})
		if (err == nil) != good || !good && !strings.Contains(err.Error(), "expected a DNS name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
