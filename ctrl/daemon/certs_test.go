package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
	"github.com/np-appliance/np/ctrl/secure"
)

// issue writes a certificate for name into dir and returns its [[certificate]].
func issue(t *testing.T, dir, name string, now time.Time) string {
	t.Helper()
	g, err := secure.Generate(secure.Request{Names: []string{name}, Valid: 24 * time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("\n[[certificate]]\ncert_file = %q\nkey_file = %q\n", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, config.Example()+issue(t, dir, "a.example", time.Now()))
	w.start()
	defer func() { w.end(syscall.SIGTERM) }()
	if !strings.Contains(w.logged(), "certificate ends soon") {
		t.Error("a certificate of a day gave no warning")
	}
	names := func() string {
		c := get[api.Certificates](w, api.PathCerts, nil).Certificates
		if len(c) != 1 || len(c[0].Names) != 1 || c[0].SecondsLeft <= 0 || c[0].Pin == "" {
			t.Fatalf("%+v", c)
		}
		return c[0].Names[0]
	}
	if n := names(); n != "a.example" {
		t.Errorf("for %s", n)
	}
	// Its files are replaced: in force once asked for, one with another's key never.
	issue(t, dir, "b.example", time.Now())
	if n := names(); n != "a.example" {
		t.Errorf("for %s before the reload", n)
	}
	var out api.Certificates
	if err := w.cl.Post(t.Context(), api.PathCertsReload, nil, &out); err != nil || out.Certificates[0].Names[0] != "b.example" {
		t.Errorf("reload: %v %+v", err, out)
	}
	issue(t, dir, "c.example", time.Now())
	w.signals <- syscall.SIGHUP // takes them too
	w.eventually("c.example in force", func() bool { return names() == "c.example" })
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	var refused *client.APIError
	if err := w.cl.Post(t.Context(), api.PathCertsReload, nil, &out); !errors.As(err, &refused) || refused.Kind != api.KindConflict || !strings.Contains(err.Error(), "stay in force") {
		t.Errorf("bad key: %v", err)
	}
	if err := w.ro.Post(t.Context(), api.PathCertsReload, nil, &out); !errors.As(err, &refused) || refused.Kind != api.KindPermission {
		t.Errorf("on the read-only socket: %v", err)
	}
	if n := names(); n != "c.example" {
		t.Errorf("after a failed reload %s is in force", n)
	}
	text := w.fetch(api.PathMetrics)
	if !strings.Contains(text, `np_certificate_not_after_timestamp_seconds{file="`+filepath.Join(dir, "cert.pem")+`"}`) {
		t.Error("no metric of the certificate")
	}
}

func TestCertificateRefused(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, config.Example()+issue(t, dir, "a.example", time.Now().Add(-72*time.Hour)))
	o, err := w.options(nil)
	if err != nil {
		t.Fatal(err)
	}
	err = Run(t.Context(), o, nil)
	if !errors.Is(err, secure.ErrExpired) || !strings.Contains(err.Error(), "np.toml:") {
		t.Errorf("an expired certificate: %v", err)
	}
}
