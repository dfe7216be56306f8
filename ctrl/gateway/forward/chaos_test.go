package forward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// unruly answers each request with its own ID, in one of many ways, some of them wrong.
func unruly(rnd *rand.Rand, mu *sync.Mutex) func(nc net.Conn, _ int32) {
	roll := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	return func(nc net.Conn, _ int32) {
		r := bufio.NewReader(nc)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			id := req.Header.Get("Id")
			plain := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
			out, end := plain, false
			switch roll(12) {
			case 0:
				out = fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(id), id)
			case 1:
				out = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + plain
			case 2: // more than was asked for
				out = plain + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
			case 3: // closed without a word
				end = true
			case 4:
				out, end = strings.Replace(plain, "\r\n", "\r\nConnection: close\r\n", 1), true
			case 5:
				out, end = plain[:len(plain)-1], true
			case 6:
				out, end = plain[:20], true
			case 7:
				out, end = "", true
			case 8:
				out = strings.Replace(plain, "Content-Length", "Transfer-Encoding: chunked\r\nContent-Length", 1)
			case 9:
				out = "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison"
			case 10: // in pieces
				for i := 0; i < len(out); i += 7 {
					if _, err := io.WriteString(nc, out[i:min(i+7, len(out))]); err != nil {
						return
					}
				}
				out = ""
			}
			if _, err := io.WriteString(nc, out); err != nil || end {
				return
			}
		}
	}
}

// TestNoCrossTalk: whatever endpoints do to their connections, a client that gets a whole
// answer gets its own, and all requests end.
func TestNoCrossTalk(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	a, _ := raw(t, unruly(rnd, &mu))
	b, _ := raw(t, unruly(rnd, &mu))
	c := cluster(t, func(u *upstream.Config, _ *Config) {
		u.Retry = upstream.RetryPolicy{Attempts: 3, Backoff: upstream.BackoffNone}
		u.Timeouts.Request = time.Minute
	}, a, b)
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: c}}}))
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var well, failed atomic.Int32
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 100 {
				id := fmt.Sprintf("%d-%d", w, i)
				method, body := "GET", io.Reader(nil)
				switch i % 3 {
				case 1:
					method, body = "POST", strings.NewReader(id)
				case 2:
					method, body = "PUT", io.MultiReader(strings.NewReader(id))
				}
				r := request(t, method, s.URL, body, "Id", id).WithContext(ctx)
				resp, err := tr.RoundTrip(r)
				if err != nil {
					failed.Add(1)
					continue
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				switch {
				case err != nil || resp.StatusCode == 502:
					failed.Add(1)
				case resp.StatusCode == 204 && len(got) == 0:
					well.Add(1)
				case resp.StatusCode != 200 || string(got) != id:
					t.Errorf("seed %d: %s got %d %q", seed, id, resp.StatusCode, got)
				default:
					well.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		t.Errorf("seed %d: requests that did not end", seed)
	}
	if well.Load() < 800 || failed.Load() == 0 {
		t.Errorf("seed %d: %d well, %d failed", seed, well.Load(), failed.Load())
	}
}

// TestEndpointComesBack: killed and started again, an endpoint costs no request while
// another is there, and takes its share again.
func TestEndpointComesBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	var took atomic.Int32
	serve := func(l net.Listener) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { took.Add(1) }))
		s.Listener.Close()
		s.Listener = l
		s.Start()
		return s
	}
	s := serve(l)
	c := cluster(t, func(u *upstream.Config, cc *Config) {
		u.Retry = upstream.RetryPolicy{Attempts: 3, Backoff: upstream.BackoffNone}
		cc.Pool = DefaultPool()
		cc.Pool.BackoffMin, cc.Pool.BackoffMax = time.Millisecond, 10*time.Millisecond
	}, addr, backend(t, func(http.ResponseWriter, *http.Request) {}))
	h := handler(t, Options{Targets: []Target{{Cluster: c}}})
	ask := func(n int) {
		t.Helper()
		for range n {
			w := httptest.NewRecorder()
			enter(t, h, nil).ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader("x")))
			if w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
	}
	for range 3 {
		ask(10)
		if took.Swap(0) == 0 {
			t.Error("took nothing")
		}
		s.CloseClientConnections()
		s.Close()
		ask(10)
		if l, err = net.Listen("tcp", addr); err != nil {
			t.Skip("the port was taken meanwhile: ", err)
		}
		s = serve(l)
		for deadline := time.Now().Add(time.Minute); took.Load() == 0; {
			ask(2)
			if time.Now().After(deadline) {
				t.Fatal("did not come back")
			}
		}
	}
	s.Close()
}
