package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/pipes"
)

// inBubble runs a test with a server on a clock that stands still while anybody has
// something to do: limits of time are exact there, whatever the machine does. The rig's
// connections are in memory. configure is called in the bubble.
func inBubble(t *testing.T, configure func() Config, run func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // for what takes its time to end, when all else has
		c := configure()
		r := &rig{t: t, pipes: pipes.Listen()}
		if c.Handler == nil {
			c.Handler = r.handler()
		}
		s, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		r.s, r.addr = s, r.pipes.Addr().String()
		r.serve(func(ctx context.Context) error { return s.Serve(ctx, r.pipes) })
		run(r)
	})
}

// closedAfter waits for the connection's end, and wants it to come after d, or a little
// later: engines need not look at each connection all the time.
func (r *rig) closedAfter(c net.Conn, d time.Duration) []byte {
	r.t.Helper()
	began := time.Now()
	_ = c.SetDeadline(began.Add(time.Hour))
	b, err := io.ReadAll(c)
	if took := time.Since(began); isTimeout(err) || took < d || took > d+d/4 {
		r.t.Errorf("%v after %v, expected the end after %v", err, took, d)
	}
	return b
}

func TestSlowHead(t *testing.T) {
	const head = 100 * time.Millisecond
	inBubble(t, func() Config { return Config{NoHTTP2: true, Limits: Limits{Head: head}} }, func(r *rig) {
		for name, send := range map[string]string{
			"nothing":  "",
			"method":   "GE",
			"fields":   "GET /a HTTP/1.1\r\nHost: a\r\nX: ",
			"the next": "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HT",
		} {
			c := r.dial()
			go func() { _, _ = io.WriteString(c, send) }()
			got := string(r.closedAfter(c, head))
			if n := strings.Count(got, "HTTP/1.1 408 "); n != 1 && send != "" || n != 0 && send == "" {
				r.t.Errorf("%s: %q", name, got)
			}
		}
		// A byte at a time keeps no connection open.
		c := r.dial()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for _, b := range []byte("GET /" + strings.Repeat("a", 5000)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		r.closedAfter(c, head)
		<-ended
		synctest.Wait()
		if st := r.s.Stats(); st.Conns[CutHead] != 5 || st.Refusals[exchange.RequestTimeout] != 4 {
			r.t.Errorf("%+v", st)
		}
		r.unharmed()
	})
}

// TestSlowHead2: a head whose CONTINUATION never comes ends the connection.
func TestSlowHead2(t *testing.T) {
	inBubble(t, func() Config { return Config{Limits: Limits{Head: 100 * time.Millisecond}} }, func(r *rig) {
		f := r.frames()
		began := time.Now()
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(":method", "GET")})
		f.over()
		if took := time.Since(began); took < 100*time.Millisecond || took > 125*time.Millisecond {
			r.t.Errorf("after %v", took)
		}
		f.Conn.Close()
		synctest.Wait()
		if n := r.s.Stats().Conns[CutHead]; n != 1 {
			r.t.Errorf("%d counted", n)
		}
	})
}

// slowly gives n bytes, one each pause.
func slowly(n int, pause time.Duration) io.ReadCloser {
	read, write := io.Pipe()
	go func() {
		for range n {
			if _, err := write.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(pause)
		}
		_ = write.Close()
	}()
	return read
}

func TestSlowBody(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	for _, protocol := range []string{HTTP1, HTTP2} {
		inBubble(t, func() Config {
			return Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Limits: Limits{BodyStall: 150 * time.Millisecond, BodyRate: 1000}}
		}, func(r *rig) {
			c := client(r.t, pool, protocol)
			tr := c.Transport.(*http.Transport)
			tr.DialContext, c.Timeout = r.pipes.Dial, 0
			tr.TLSClientConfig.Time = func() time.Time { return cert.Leaf.NotAfter } // a bubble's clock begins in 2000
			slow := slowly(1_000_000, 10*time.Millisecond)                           // 100 bytes/s: each buys a tenth of its pause
			q, _ := http.NewRequest("POST", "https://"+r.addr+"/slow", slow)
			began := time.Now()
			if resp, err := c.Do(q); err == nil {
				resp.Body.Close()
			}
			_ = slow.Close()
			if took := time.Since(began); took < 150*time.Millisecond || took > 500*time.Millisecond {
				r.t.Errorf("%s: ended after %v", protocol, took)
			}
			// 2,000 bytes/s are quick enough, for longer than the stall.
			if resp, text := get(r.t, c, "POST", "https://"+r.addr+"/quick", slowly(1200, 500*time.Microsecond)); resp.StatusCode != 200 || text != "/quick 1200" {
				r.t.Errorf("%s: %s %q", protocol, resp.Status, text)
			}
			tr.CloseIdleConnections()
			synctest.Wait()
			got := r.requests()
			if len(got) != 2 || got[0].err == nil || !isTimeout(got[0].err) || got[1].err != nil {
				r.t.Fatalf("%+v", got)
			}
			var e *BodyError
			if !errors.As(got[0].err, &e) || e.Reason() != exchange.RequestTimeout {
				r.t.Errorf("%v", got[0].err)
			}
			if st := r.s.Stats(); st.Conns[CutBody] != 1 {
				r.t.Errorf("%+v", st)
			}
		})
	}
}

func TestSlowReader(t *testing.T) {
	var ended chan error
	inBubble(t, func() Config {
		var h http.Handler
		h, ended = endless(t)
		return Config{Handler: h, Limits: Limits{SendStall: 200 * time.Millisecond}}
	}, func(r *rig) {
		c := r.dial()
		began := time.Now()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") // and reads nothing
		if err := <-ended; err == nil || time.Since(began) < 200*time.Millisecond || time.Since(began) > 250*time.Millisecond {
			r.t.Errorf("%v after %v: all of it was sent to somebody who reads nothing?", err, time.Since(began))
		}
		synctest.Wait()
		if st := r.s.Stats(); st.Conns[CutAnswer] != 1 || st.Open != 0 {
			r.t.Errorf("%+v", st)
		}
	})
}

// TestLateBeginnings: who says nothing, or never ends what comes before HTTP.
func TestLateBeginnings(t *testing.T) {
	cert, _ := certificate(t, "one.test")
	for _, one := range []struct {
		name, send string
		c          Config
		why        Refused
	}{
		{"TLS", "", Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, RefusedHandshakeLate},
		{"half a ClientHello", "\x16\x03\x01\x02\x00\x01\x00", Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, RefusedHandshakeLate},
		{"PROXY", "PROXY TCP4 ", Config{Proxy: ProxyRequire, ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, RefusedProxy},
	} {
		one.c.Limits.Handshake = 200 * time.Millisecond
		inBubble(t, func() Config { return one.c }, func(r *rig) {
			c := r.dial()
			go func() { _, _ = io.WriteString(c, one.send) }()
			r.closedAfter(c, 200*time.Millisecond)
			synctest.Wait()
			if st := r.s.Stats(); st.Conns[one.why] != 1 || st.Open != 0 {
				r.t.Errorf("%s: %+v", one.name, st)
			}
		})
	}
}

// TestPassthroughIdle: a connection passed through on which nothing moves ends, one on
// which something does stays.
func TestPassthroughIdle(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "one.test"})
	var back *pipes.Listener
	inBubble(t, func() Config {
		back = pipes.Listen()
		return Config{NoHTTP1: true, NoHTTP2: true, Limits: Limits{PassIdle: 150 * time.Millisecond},
			Passthrough: func(Hello) (func(context.Context) (net.Conn, error), bool) {
				return func(ctx context.Context) (net.Conn, error) { return back.Dial(ctx, "tcp", "") }, true
			}}
	}, func(r *rig) {
		c := r.dial()
		if _, err := c.Write(hello); err != nil {
			r.t.Fatal(err)
		}
		behind, err := back.Accept()
		if err != nil {
			r.t.Fatal(err)
		}
		defer behind.Close()
		got := make([]byte, len(hello))
		if _, err := io.ReadFull(behind, got); err != nil || !bytes.Equal(got, hello) {
			r.t.Fatalf("%x, %v", got, err)
		}
		for range 3 {
			time.Sleep(140 * time.Millisecond)
			if _, err := behind.Write([]byte("x")); err != nil {
				r.t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				r.t.Fatal(err)
			}
		}
		r.closedAfter(c, 150*time.Millisecond)
		synctest.Wait()
		if n := r.s.Stats().Conns[CutIdle]; n != 1 {
			r.t.Errorf("%d counted", n)
		}
	})
}
