package server

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestPacketsHandedOver: servers take the place of each other at a socket while requests
// come on old connections, on new ones and on ones that are being opened: none fails, each
// connection stays with one server, and the servers before end when their connections do.
func TestPacketsHandedOver(t *testing.T) {
	cert, pool := certificate(t, "one.test")
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var p *Packets
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var ended []chan error
	var servers []*Server
	swap := func() {
		n := strconv.Itoa(len(servers))
		s, err := New(Config{Name: n, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, n)
		})})
		if err != nil {
			t.Fatal(err)
		}
		var before *taker
		if p == nil {
			if p, err = NewPackets(socket, s); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.Close() })
		} else {
			before = p.takes.Load()
		}
		done := make(chan error, 1)
		go func() { done <- s.ServePackets(ctx, p) }()
		until(t, "its turn", func() bool { return p.takes.Load() != before })
		servers, ended = append(servers, s), append(ended, done)
	}
	swap()
	url := "https://" + socket.LocalAddr().String() + "/"
	get := func(c *http.Client) (string, error) {
		res, err := c.Get(url)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
	newClient := func() (*http.Client, *http3.Transport) {
		tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "one.test"}, QUICConfig: &quic.Config{}}
		return &http.Client{Transport: tr, Timeout: time.Minute}, tr
	}
	held, heldTransport := newClient()
	if got, err := get(held); err != nil || got != "0" {
		t.Fatalf("%q, %v", got, err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	var news atomic.Int64
	for range 2 {
		wg.Go(func() {
			for !stop.Load() {
				c, tr := newClient()
				if got, err := get(c); err != nil {
					t.Errorf("a new connection: %v", err)
				} else if again, err := get(c); err != nil || again != got {
					t.Errorf("a connection went from %q to %q, %v", got, again, err)
				}
				_ = tr.Close()
				news.Add(1)
			}
		})
	}
	for range 10 {
		at := news.Load()
		swap()
		if got, err := get(held); err != nil || got != "0" {
			t.Errorf("the connection that is held: %q, %v", got, err)
		}
		until(t, "connections after it", func() bool { return news.Load() >= at+2 || t.Failed() })
	}
	stop.Store(true)
	wg.Wait()
	for n := 1; n < len(ended)-1; n++ {
		select {
		case err := <-ended[n]:
			if err != nil {
				t.Errorf("server %d: %v", n, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("server %d does not end", n)
		}
	}
	if st := servers[0].Stats(); st.Open != 1 {
		t.Errorf("the first server: %+v", st)
	}
	_ = heldTransport.Close()
	if err := <-ended[0]; err != nil {
		t.Errorf("the first server: %v", err)
	}
	cancel()
	if err := <-ended[len(ended)-1]; err != nil {
		t.Errorf("the last server: %v", err)
	}
	if c, tr := newClient(); true {
		c.Timeout = 300 * time.Millisecond
		if got, err := get(c); err == nil {
			t.Errorf("after the end %q answers", got)
		}
		_ = tr.Close()
	}
}
