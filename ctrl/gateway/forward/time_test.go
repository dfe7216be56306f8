package forward

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/pipes"
	"github.com/np-appliance/np/ctrl/upstream"
)

// bubble is a gateway and its backend on a clock that stands still while anybody has
// something to do: time-outs are exact there, whatever the machine does.
type bubble struct {
	t       *testing.T
	client  *http.Transport
	front   *pipes.Listener
	cluster *Cluster
	seen    chan *exchange.Exchange // of requests that ended
}

// inBubble runs a test with a gateway in a bubble of its own. h2: of the client and the
// backend, in the clear.
func inBubble(t *testing.T, h2 bool, h http.HandlerFunc, change func(*upstream.Config, *Options), run func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // for what takes its time to end, when all else has
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!h2)
		protocols.SetUnencryptedHTTP2(h2)
		serve := func(h http.Handler) *pipes.Listener {
			l := pipes.Listen()
			s := &http.Server{Handler: h, Protocols: protocols}
			done := make(chan struct{})
			go func() { _ = s.Serve(l); close(done) }()
			t.Cleanup(func() { _ = s.Close(); <-done })
			return l
		}
		back := serve(h)
		b := &bubble{t: t, seen: make(chan *exchange.Exchange, 10)}
		o := Options{}
		b.cluster = cluster(t, func(u *upstream.Config, c *Config) {
			change(u, &o)
			c.Dial = back.Dial
			if h2 {
				c.Protocol = H2C
			}
		}, "198.18.0.1:80")
		o.Targets = []Target{{Cluster: b.cluster}}
		b.front = serve(enter(t, handler(t, o), b.seen))
		b.client = &http.Transport{DialContext: b.front.Dial, Protocols: protocols}
		t.Cleanup(b.client.CloseIdleConnections)
		run(b)
	})
}

// ask sends a request, and returns the answer with how long its head and all of it took.
func (b *bubble) ask(r *http.Request) (resp *http.Response, body string, head, whole time.Duration, err error) {
	b.t.Helper()
	began := time.Now()
	resp, err = b.client.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	head = time.Since(began)
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return resp, string(text), head, time.Since(began), err
}

func TestDeadlines(t *testing.T) {
	got := make(chan http.Header, 1)
	slow := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server doesn't see its client go
		got <- r.Header.Clone()
		<-r.Context().Done()
	}
	inBubble(t, false, slow, func(_ *upstream.Config, o *Options) {
		o.Deadlines = []DeadlineField{{Name: "x-timeout-ms", Unit: time.Millisecond}}
	}, func(b *bubble) {
		resp, _, took, _, _ := b.ask(request(b.t, "GET", "http://a/slow", nil, "X-Timeout-Ms", "60"))
		if h := <-got; resp.StatusCode != 504 || took != 60*time.Millisecond || h.Get("X-Timeout-Ms") != "60" {
			b.t.Errorf("%d after %v, %q", resp.StatusCode, took, h.Get("X-Timeout-Ms"))
		}
		if x := <-b.seen; x.Reason != exchange.DeadlineExceeded {
			b.t.Errorf("%s", x.Reason)
		}
		resp, _, took, _, _ = b.ask(request(b.t, "POST", "http://a/slow", strings.NewReader("x"), "Grpc-Timeout", "50m", "Content-Type", "application/grpc", "Te", "trailers"))
		if h := <-got; resp.StatusCode != 200 || took != 50*time.Millisecond || resp.Header.Get("Grpc-Status") != "4" || h.Get("Grpc-Timeout") != "50000000n" {
			b.t.Errorf("%d after %v, %v, %q", resp.StatusCode, took, resp.Header, h.Get("Grpc-Timeout"))
		}
	})
}

// TestRouteTimeout bounds all tries together, and counts against the endpoint.
func TestRouteTimeout(t *testing.T) {
	inBubble(t, false, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(u *upstream.Config, o *Options) {
		u.Retry = upstream.RetryPolicy{Attempts: 3, Backoff: upstream.BackoffNone, PerTry: 40 * time.Millisecond}
		o.Timeout = 60 * time.Millisecond
	}, func(b *bubble) {
		if resp, _, took, _, _ := b.ask(request(b.t, "GET", "http://a/", nil)); resp.StatusCode != 504 || took != 60*time.Millisecond {
			b.t.Errorf("%d after %v", resp.StatusCode, took)
		}
		x, e := <-b.seen, b.cluster.Upstream().Snapshot().Endpoints[0]
		if x.Reason != exchange.UpstreamTimeout || x.Tries != 2 || e.Timeouts != 2 {
			b.t.Errorf("%s, %d tries, %+v", x.Reason, x.Tries, e)
		}
	})
}

// events answers with one event, and another after each pause.
func events(pauses ...time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Accept"))
		for i, pause := range append(pauses, 0) {
			fmt.Fprintf(w, "%d ", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	}
}

func TestStreamIdle(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		inBubble(t, h2, events(40*time.Millisecond, 45*time.Millisecond, time.Hour), func(_ *upstream.Config, o *Options) {
			o.StreamIdle = 50 * time.Millisecond
		}, func(b *bubble) {
			_, text, head, whole, err := b.ask(request(b.t, "GET", "http://a/", nil, "Accept", "text/event-stream"))
			if err == nil || text != "0 1 2 " || head != 0 || whole != 135*time.Millisecond {
				b.t.Errorf("HTTP/2 %v: %q, %v after %v and %v", h2, text, err, head, whole)
			}
			if x := <-b.seen; x.Reason != exchange.UpstreamTimeout || !errors.Is(x.Notes()[0], errIdle) {
				b.t.Errorf("%s %v", x.Reason, x.Notes())
			}
		})
	}
}

// TestStreamsOutlast: the time of a request bounds answers, but not events, nor calls of
// gRPC.
func TestStreamsOutlast(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		inBubble(t, h2, events(40*time.Millisecond, 40*time.Millisecond), func(u *upstream.Config, _ *Options) {
			u.Timeouts.Request = 50 * time.Millisecond
		}, func(b *bubble) {
			for kind, want := range map[string]string{"text/event-stream": "0 1 2 ", "text/plain": "0 1 "} {
				_, text, _, whole, err := b.ask(request(b.t, "GET", "http://a/", nil, "Accept", kind))
				if text != want || (err == nil) != (want == "0 1 2 ") || err != nil && whole != 50*time.Millisecond {
					b.t.Errorf("HTTP/2 %v, %s: %q, %v after %v", h2, kind, text, err, whole)
				}
			}
			if !h2 {
				return
			}
			_, text, _, _, err := b.ask(request(b.t, "POST", "http://a/s.S/M", http.NoBody, "Content-Type", "application/grpc", "Te", "trailers", "Accept", "application/grpc"))
			if text != "0 1 2 " || err != nil {
				b.t.Errorf("gRPC: %q, %v", text, err)
			}
		})
	}
}

// TestUpgradeOutlasts: nor does it bound an upgraded connection, which ends when nothing
// moves on it for StreamIdle.
func TestUpgradeOutlasts(t *testing.T) {
	inBubble(t, false, webSockets(t), func(u *upstream.Config, o *Options) {
		u.Timeouts.Request = 50 * time.Millisecond
		o.StreamIdle, o.Upgrades = 70*time.Millisecond, []string{"websocket"}
	}, func(b *bubble) {
		d := websocket.Dialer{NetDialContext: b.front.Dial}
		ws, _, err := d.Dial("ws://a/", nil)
		if err != nil {
			b.t.Fatal(err)
		}
		began := time.Now()
		for i := range 3 {
			time.Sleep(60 * time.Millisecond)
			if err := ws.WriteMessage(websocket.TextMessage, []byte(strconv.Itoa(i))); err != nil {
				b.t.Fatal(err)
			}
			if _, got, err := ws.ReadMessage(); err != nil || string(got) != strconv.Itoa(i) {
				b.t.Fatalf("%q, %v", got, err)
			}
		}
		if _, _, err := ws.ReadMessage(); err == nil || time.Since(began) != 250*time.Millisecond {
			b.t.Errorf("%v after %v", err, time.Since(began))
		}
		ws.Close()
	})
}
