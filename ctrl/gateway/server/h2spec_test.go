package server

import (
	"crypto/tls"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// peer is a program that `make peers` builds.
func peer(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../../build/peers", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v; make peers PEERS=%s builds it", err, name)
	}
	return path
}

// acceptedFailures are cases of h2spec's that fail, and why that is right.
func acceptedFailures(tls bool) map[string]string {
	m := map[string]string{}
	if !tls {
		m["http2/3.5: Sends invalid connection preface"] = "what is no preface is HTTP/1.1 there, and answered with 400 as such"
	}
	return m
}

// TestH2Spec runs the conformance suite of HTTP/2, its strict cases too.
func TestH2Spec(t *testing.T) {
	if os.Getenv("NP_PEERS") == "" {
		t.Skip("takes 12 s: NP_PEERS=1 runs it")
	}
	t.Parallel()
	program := peer(t, "h2spec")
	cert, _ := certificate(t, "one.test")
	for _, one := range []struct {
		name string
		c    Config
	}{{"h2c", Config{}}, {"tls", Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}}} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			one.c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					panic(http.ErrAbortHandler)
				}
				_, _ = io.WriteString(w, "twelve bytes")
			})
			one.c.Limits.Resets, one.c.Limits.Control = -1, -1 // the cases are not floods, but the server does not know
			r := newRig(t, one.c)
			_, port, _ := net.SplitHostPort(r.addr)
			report := filepath.Join(t.TempDir(), "report.xml")
			args := []string{"-S", "-o", "3", "-j", report, "-p", port}
			if one.c.TLS != nil {
				args = append(args, "-t")
			}
			if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
				t.Logf("%v\n%s", err, out)
			}
			checkReport(t, report, acceptedFailures(one.c.TLS != nil))
		})
	}
}

func checkReport(t *testing.T, path string, accepted map[string]string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Package string  `xml:"package,attr"`
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	passed, failed := 0, 0
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			if c.Failure == nil && c.Error == nil {
				passed++
				continue
			}
			failed++
			if name := c.Package + ": " + c.Name; accepted[name] != "" {
				t.Logf("%s fails as expected: %s", name, accepted[name])
				delete(accepted, name)
			} else {
				t.Errorf("%s", name)
				for _, why := range []*string{c.Failure, c.Error} {
					if why != nil {
						t.Log(*why)
					}
				}
			}
		}
	}
	for name := range accepted {
		t.Errorf("%s passes: take it off the list", name)
	}
	t.Logf("%d cases passed, %d failed", passed, failed)
	if passed < 145 {
		t.Errorf("only %d cases passed", passed)
	}
}
