//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// TestGateway: the same routes on every way into the appliance. Its own TCP over AF_XDP, io_uring,
// epoll and Go's sockets; HTTP/1.1, HTTP/2 with and without TLS, HTTP/3; clients that others wrote;
// the endpoints are the kernel's in the client's namespace, reached by the appliance's own TCP.
func TestGateway(t *testing.T) {
	w := newWorld(t, options{noNpd: true})
	blob := make([]byte, 8<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(blob); i += 8 {
		for j, v := 0, r.Uint64(); j < 8; j++ {
			blob[i+j] = byte(v >> (8 * j))
		}
	}
	w.write("blob", string(blob))
	hash := sha256.Sum256(blob)
	want := hex.EncodeToString(hash[:])
	w.gatewayBackends(blob)
	if out, code := w.npctl("cert", "generate", "--dir", w.path("tls"), "gw.example", server4, "127.0.0.1"); code != 0 {
		t.Fatal(out)
	}
	example, err := os.ReadFile(w.path("np.toml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(example) + fmt.Sprintf("[[certificate]]\ncert_file = %q\nkey_file = %q\n", w.path("tls/cert.pem"), w.path("tls/key.pem"))
	ways := []struct{ backend, host, side string }{{"stack", server4, "c"}, {"io_uring", "127.0.0.1", "s"}, {"epoll", "127.0.0.1", "s"}, {"net", "127.0.0.1", "s"}}
	for i, way := range ways {
		for _, tls := range []bool{false, true} {
			port := 8000 + 10*i
			versions := `["1.1", "2"]`
			if tls {
				port++
				if way.backend == "stack" || way.backend == "net" {
					versions = `["1.1", "2", "3"]`
				}
			}
			text += fmt.Sprintf("[[listener]]\nname = \"%s-%v\"\naddress = \"%s:%d\"\nprotocol = \"http\"\nbackend = %q\ntls = %v\nhttp.versions = %s\n", way.backend, tls, way.host, port, way.backend, tls, versions)
		}
	}
	text += `[[upstream]]
name = "blobs"
endpoints = ["198.18.0.2:8080", "198.18.0.2:8081"]
retry.attempts = 2
health.kind = "http"
health.path = "/well"
[[route]]
name = "blobs"
path_prefix = "/"
upstream = "blobs"
`
	w.write("np.toml", text)
	w.start()
	w.ready()
	for i, way := range ways {
		t.Run(way.backend, func(t *testing.T) {
			plain, secure := fmt.Sprintf("http://%s:%d", way.host, 8000+10*i), fmt.Sprintf("https://%s:%d", way.host, 8001+10*i)
			curl := func(args ...string) string {
				t.Helper()
				cmd := w.in(way.side, "curl", append([]string{"-sS", "--fail", "--max-time", "60", "--cacert", w.path("tls/ca.pem")}, args...)...)
				var errs bytes.Buffer
				cmd.Stderr = &errs
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("curl %v: %v %s", args, err, errs.String())
				}
				return string(out)
			}
			for _, one := range [][]string{{"--http1.1", plain}, {"--http2-prior-knowledge", plain}, {"--http1.1", secure}, {"--http2", secure}} {
				if got := sha256.Sum256([]byte(curl(one[0], one[1]+"/blob"))); hex.EncodeToString(got[:]) != want {
					t.Errorf("%v: another blob came", one)
				}
				if got := curl(one[0], "--data-binary", "@"+w.path("blob"), one[1]+"/sum"); got != want {
					t.Errorf("%v: the endpoint got %s", one, got)
				}
				version := curl(one[0], "-o", "/dev/null", "-w", "%{http_version}", one[1]+"/well")
				if wantVersion := map[bool]string{true: "2", false: "1.1"}[strings.HasPrefix(one[0], "--http2")]; version != wantVersion {
					t.Errorf("%v: HTTP/%s", one, version)
				}
			}
			if way.backend == "stack" || way.backend == "net" {
				w.http3(t, way.side, way.host, 8001+10*i, blob)
			}
		})
	}
	answer := query[api.UpstreamAnswer](w, "upstream", "show", "blobs")
	for _, e := range answer.Endpoints {
		if e.Requests == 0 || e.Health != "healthy" {
			t.Errorf("%+v", e)
		}
	}
}

// http3 downloads by ngtcp2's client.
func (w *world) http3(t *testing.T, side, host string, port int, blob []byte) {
	t.Helper()
	dir := t.TempDir()
	cmd := w.in(side, "gtlsclient", "-q", "--exit-on-all-streams-close", "--timeout=30s", "--download="+dir, host, fmt.Sprint(port), fmt.Sprintf("https://%s:%d/blob", host, port))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("gtlsclient: %v\n%s", err, out)
		return
	}
	got, err := os.ReadFile(dir + "/blob")
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("HTTP/3: %d bytes, %v", len(got), err)
	}
}

// gatewayBackends serves a blob, and hashes what it gets, from two ports of the client's namespace.
func (w *world) gatewayBackends(blob []byte) {
	w.t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /well", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "well") })
	mux.HandleFunc("GET /blob", func(rw http.ResponseWriter, q *http.Request) {
		http.ServeContent(rw, q, "blob", time.Time{}, bytes.NewReader(blob))
	})
	mux.HandleFunc("POST /sum", func(rw http.ResponseWriter, q *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, q.Body); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(rw, hex.EncodeToString(h.Sum(nil)))
	})
	for _, addr := range []string{"198.18.0.2:8080", "198.18.0.2:8081"} {
		var l net.Listener
		if err := w.inClient(func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
			w.t.Fatal(err)
		}
		s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(l)
		}()
		w.t.Cleanup(func() { _ = s.Close(); <-done })
	}
}
