//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane/transporttest"
)

// pattern is what the server sends: n bytes that differ everywhere.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return b
}

// site answers as servers do: a body of a known length, one in chunks, and what it was sent.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		if _, err := fmt.Sscan(r.PathValue("n"), &n); err != nil || n > 64<<20 {
			http.Error(w, "how many?", http.StatusBadRequest)
			return
		}
		_, _ = w.Write(pattern(n))
	})
	mux.HandleFunc("GET /chunks/{n}", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		_, _ = fmt.Sscan(r.PathValue("n"), &n)
		for range min(n, 1000) {
			_, _ = w.Write(pattern(1000))
			_ = http.NewResponseController(w).Flush()
		}
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Peer", r.RemoteAddr)
		_, _ = w.Write(b)
	})
	return mux
}

// serve runs a server on a listener until the test ends.
func serve(t *testing.T, l net.Listener, cert *tls.Certificate) {
	t.Helper()
	srv := &http.Server{Handler: site(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if cert != nil {
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
	}
	done := make(chan error, 1)
	go func() {
		if cert != nil {
			done <- srv.ServeTLS(l, "", "")
		} else {
			done <- srv.Serve(l)
		}
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Error("serve:", err)
		}
	})
}

// net/http on our own TCP over AF_XDP, as it is: curl on the kernel's TCP is the client.
func TestHTTPServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	us := xdpEnd(t, w, "s", "np0", server4, server6, 1)
	cert, _ := transporttest.Certificate(t, server4, server6)
	w.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	for port, c := range map[int]*tls.Certificate{8080: nil, 8443: &cert} {
		l, err := us.Listen(t.Context(), "tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, c)
	}
	upload := pattern(700_001)
	w.write("upload", string(upload))
	curl := func(args ...string) []byte {
		t.Helper()
		return []byte(w.must(w.in("c", "curl", append([]string{"-sS", "--fail", "--max-time", "20", "--cacert", w.path("ca.pem")}, args...)...)))
	}
	for _, at := range []string{"http://198.18.0.1:8080", "http://[2001:db8::1]:8080", "https://198.18.0.1:8443", "https://[2001:db8::1]:8443"} {
		for _, proto := range []string{"--http1.1", "--http2"} {
			for _, n := range []int{0, 1, 1000, 3_000_000} {
				if got := curl(proto, fmt.Sprintf("%s/bytes/%d", at, n)); sha256.Sum256(got) != sha256.Sum256(pattern(n)) {
					t.Errorf("%s %s: %d bytes of %d, or others", at, proto, len(got), n)
				}
			}
			if got := curl(proto, at+"/chunks/100"); !bytes.Equal(got, bytes.Repeat(pattern(1000), 100)) {
				t.Errorf("%s %s: %d bytes in chunks", at, proto, len(got))
			}
			if got := curl(proto, "--data-binary", "@"+w.path("upload"), at+"/echo"); !bytes.Equal(got, upload) {
				t.Errorf("%s %s: %d bytes came back of %d", at, proto, len(got), len(upload))
			}
		}
	}
	// One connection for many requests, and several at a time.
	var urls []string
	for i := range 50 {
		urls = append(urls, "-o", "/dev/null", fmt.Sprintf("https://198.18.0.1:8443/bytes/%d", i*1000))
	}
	out := string(curl(append([]string{"-Z", "--parallel-max", "10", "-w", "%{http_code} %{http_version}\\n"}, urls...)...))
	if n := strings.Count(out, "200 2\n"); n != 50 {
		t.Errorf("%d of 50 requests over HTTP/2: %s", n, out)
	}
	// A client that goes away in the middle leaves nothing behind.
	for range 5 {
		cmd := w.in("c", "curl", "-sS", "--max-time", "0.05", "-o", "/dev/null", "--limit-rate", "100k", "http://198.18.0.1:8080/bytes/60000000")
		_ = cmd.Run()
	}
	w.eventually(time.Minute, "connections over", func() error {
		conns, err := us.plane.Connections(t.Context())
		for _, c := range conns {
			if c.State != "time-wait" {
				return fmt.Errorf("%s in %s", c.Remote, c.State)
			}
		}
		return err
	})
}

// And the other way: net/http's client on our TCP, a server on the kernel's.
func TestHTTPClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noNpd: true})
	us := xdpEnd(t, w, "s", "np0", server4, server6, 1)
	them := kernelEnd(w)
	cert, pool := transporttest.Certificate(t, "198.18.0.2", "2001:db8::2")
	for port, c := range map[int]*tls.Certificate{8080: nil, 8443: &cert} {
		l, err := them.Listen(t.Context(), "tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, c)
	}
	var dials atomic.Int64
	tr := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return us.Dial(ctx, network, address)
	}, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 8}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	get := func(url string) ([]byte, error) {
		resp, err := client.Get(url)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", url, resp.Status)
		}
		return io.ReadAll(resp.Body)
	}
	var wg sync.WaitGroup
	for _, at := range []string{"http://198.18.0.2:8080", "http://[2001:db8::2]:8080", "https://198.18.0.2:8443", "https://[2001:db8::2]:8443"} {
		for i := range 8 {
			wg.Go(func() {
				for j := range 20 {
					n := (i*20 + j) * 5000
					b, err := get(fmt.Sprintf("%s/bytes/%d", at, n))
					if err != nil || !bytes.Equal(b, pattern(n)) {
						t.Errorf("%s: %d bytes of %d: %v", at, len(b), n, err)
						return
					}
				}
				body := pattern(300_000)
				resp, err := client.Post(at+"/echo", "application/octet-stream", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil || !bytes.Equal(b, body) {
					t.Errorf("%s: echo of %d bytes: %v", at, len(b), err)
				}
				if peer := resp.Header.Get("X-Peer"); !strings.HasPrefix(peer, server4) && !strings.HasPrefix(peer, "["+server6) {
					t.Errorf("the server saw %s", peer)
				}
			})
		}
	}
	wg.Wait()
	if n := dials.Load(); n > 4*8 {
		t.Errorf("%d connections for 4 servers, at most 8 each: they are not used again", n)
	}
	// A certificate of somebody else is refused as anywhere.
	client.Transport = &http.Transport{DialContext: us.Dial, TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}}
	if _, err := get("https://198.18.0.2:8443/bytes/1"); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Error("an unknown authority:", err)
	}
	client.CloseIdleConnections()
}
