package pipes

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// TestConn lets Go's own conformance test at the connections.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		near, far := pair(&net.TCPAddr{Port: 1}, &net.TCPAddr{Port: 2})
		return near, far, func() { near.Close(); far.Close() }, nil
	})
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); c.Close() }()
			}
		}()
		seen := map[string]bool{}
		for range 3 {
			c, err := l.Dial(t.Context(), "tcp", "198.18.0.1:80")
			if err != nil {
				t.Fatal(err)
			}
			seen[c.LocalAddr().String()] = true
			go func() { _, _ = io.WriteString(c, "hello") }()
			var b [5]byte
			if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
			began := time.Now()
			_ = c.SetReadDeadline(began.Add(time.Hour))
			if _, err := c.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Hour {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			c.Close()
		}
		if len(seen) != 3 {
			t.Errorf("clients %v, expected three", seen)
		}
		l.Close()
		if _, err := l.Dial(t.Context(), "tcp", ""); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Listen().Dial(ctx, "tcp", ""); !errors.Is(err, context.DeadlineExceeded) { // nobody accepts
			t.Error(err)
		}
	})
}
