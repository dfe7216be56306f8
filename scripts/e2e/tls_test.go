//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// TestTLS terminates TLS on our own TCP over AF_XDP, for clients of the kernel's: versions, names,
// client certificates, a reload under load.
func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	generate := func(args ...string) {
		t.Helper()
		if out, code := w.npctl(append([]string{"cert", "generate"}, args...)...); code != 0 {
			t.Fatalf("%v: %s", args, out)
		}
	}
	generate("--dir", w.path("tls"), "a.example", server4)
	generate("--dir", w.path("tls2"), "--ca", w.path("tls/ca.pem"), "--ca-key", w.path("tls/ca-key.pem"), "b.example")
	generate("--dir", w.path("user"), "--client", "--ca", w.path("tls/ca.pem"), "--ca-key", w.path("tls/ca-key.pem"), "alice")
	example, err := os.ReadFile(w.path("np.toml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(example) + "\n[[listener]]\nname = \"tls\"\naddress = \":8443\"\nprotocol = \"echo\"\ntls = true\n"
	for _, d := range []string{"tls", "tls2"} {
		text += fmt.Sprintf("[[certificate]]\ncert_file = %q\nkey_file = %q\n", w.path(d+"/cert.pem"), w.path(d+"/key.pem"))
	}
	text = strings.Replace(text, "[tls]\n", fmt.Sprintf("[tls]\nclient_auth = \"request\"\nclient_ca_file = %q\n", w.path("tls/ca.pem")), 1)
	w.write("np.toml", text)
	w.start()
	w.ready()
	ca, err := os.ReadFile(w.path("tls/ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	user, err := tls.LoadX509KeyPair(w.path("user/cert.pem"), w.path("user/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	echo := func(addr string, cfg *tls.Config) (tls.ConnectionState, error) {
		raw, err := w.dial("tcp", addr)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		c := tls.Client(raw, cfg)
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if err := c.Handshake(); err != nil {
			return tls.ConnectionState{}, err
		}
		go func() {
			_, _ = c.Write(want)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%d bytes came back of %d", len(got), len(want))
		}
		return c.ConnectionState(), err
	}
	for _, c := range []struct {
		name    string
		addr    string
		cfg     *tls.Config
		version uint16
	}{
		{"1.3 and X25519MLKEM768", addr4(8443), &tls.Config{ServerName: "a.example"}, tls.VersionTLS13},
		{"1.2", addr4(8443), &tls.Config{ServerName: "a.example", MaxVersion: tls.VersionTLS12}, tls.VersionTLS12},
		{"second name, IPv6", addr6(8443), &tls.Config{ServerName: "b.example"}, tls.VersionTLS13},
		{"by address", addr4(8443), &tls.Config{ServerName: server4}, tls.VersionTLS13},
		{"with a client certificate", addr4(8443), &tls.Config{ServerName: "a.example", Certificates: []tls.Certificate{user}}, tls.VersionTLS13},
	} {
		c.cfg.RootCAs = roots
		st, err := echo(c.addr, c.cfg)
		if err != nil || st.Version != c.version {
			t.Errorf("%s: version %x, %v", c.name, st.Version, err)
		}
		if c.version == tls.VersionTLS13 && st.CurveID != tls.X25519MLKEM768 {
			t.Errorf("%s: key exchange %v", c.name, st.CurveID)
		}
	}
	if _, err := echo(addr4(8443), &tls.Config{ServerName: "a.example"}); err == nil {
		t.Error("a certificate that nobody trusts was taken")
	}
	if out, code := w.npctl("cert", "reload"); code != 0 || !strings.Contains(out, "b.example") {
		t.Errorf("reload: %d %s", code, out)
	}
	if err := os.WriteFile(w.path("tls2/cert.pem"), []byte("gone"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := w.npctl("cert", "reload"); code != 7 {
		t.Errorf("reload of a broken file: %d %s", code, out)
	}
	if _, err := echo(addr4(8443), &tls.Config{ServerName: "b.example", RootCAs: roots}); err != nil {
		t.Errorf("after a reload that failed: %v", err)
	}
	if out, _ := w.npctl("listener", "list"); !strings.Contains(out, "echo/tls") {
		t.Errorf("listener list: %s", out)
	}
}
