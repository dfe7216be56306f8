package client

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
)

// piped runs a client against a server over net.Pipe, which synctest can follow.
func piped(t *testing.T, srv *clienttest.Server, pub handshake.PublicKey, change func(c *Config)) *Client {
	t.Helper()
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: "pipe", Static: key, Remote: &pub, DialContext: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		srv.Serve(b)
		return a, nil
	}}
	if change != nil {
		change(&cfg)
	}
	cl, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		var conn *clienttest.Conn
		srv.OnConn = func(c *clienttest.Conn) { conn = c }
		cl := piped(t, srv, pub, func(c *Config) { c.Heartbeat = 10 * time.Second })
		time.Sleep(65 * time.Second)
		synctest.Wait()
		if pings, _, _, _, _ := conn.Stats(); pings != 6 {
			t.Errorf("%d pings in 65 s", pings)
		}
		if _, err := cl.Request(t.Context(), "ECHO", nil); err != nil {
			t.Error(err)
		}
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		stuck := make(chan struct{})
		srv.Handle = func(*clienttest.Conn, *clienttest.Request) (clienttest.Reply, bool) {
			<-stuck // the reader hangs: no PONG either
			return clienttest.Reply{}, false
		}
		cl := piped(t, srv, pub, func(c *Config) { c.Heartbeat, c.NoReconnect, c.ResponseTimeout = 10*time.Second, true, -1 })
		began := time.Now()
		_, err = cl.Request(t.Context(), "HANG", nil)
		if took := time.Since(began); !errors.Is(err, ErrHeartbeat) || took < 29*time.Second || took > 32*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		close(stuck)
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		var at []time.Time
		down := false
		cl := piped(t, srv, pub, func(c *Config) {
			c.MaxReconnectAttempts, c.MaxReconnectDelay = 6, 8*time.Second
			inner := c.DialContext
			c.DialContext = func(ctx context.Context, n, a string) (net.Conn, error) {
				at = append(at, time.Now())
				if down {
					return nil, errors.New("down")
				}
				return inner(ctx, n, a)
			}
		})
		down, at = true, []time.Time{time.Now()}
		srv.Drop()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(at) != 7 {
			t.Fatalf("%d attempts", len(at)-1)
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 8, 8} {
			if d := at[i+1].Sub(at[i]); d < want*time.Second/2 || d > want*time.Second {
				t.Errorf("attempt %d after %v, expected %v to %v", i+1, d, want*time.Second/2, want*time.Second)
			}
		}
		_ = cl.Close(t.Context())
		srv.Close()
	})
}

func TestRekeyByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, pub, err := clienttest.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		var conn *clienttest.Conn
		srv.OnConn = func(c *clienttest.Conn) { conn = c }
		cl := piped(t, srv, pub, nil)
		time.Sleep(3*time.Hour + time.Minute)
		synctest.Wait()
		if _, rekeys, _, _, _ := conn.Stats(); rekeys != 3 {
			t.Errorf("%d rekeys in 3 h", rekeys)
		}
		if _, err := cl.Request(t.Context(), "ECHO", nil); err != nil {
			t.Error(err)
		}
		_ = cl.Close(t.Context())
		srv.Close()
	})
}
