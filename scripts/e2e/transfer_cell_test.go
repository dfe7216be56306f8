//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// outcome of one transfer.
type outcome struct {
	Cell    string        `json:"cell"`
	Bytes   int64         `json:"bytes"`
	Seconds float64       `json:"seconds"`
	Mbps    float64       `json:"mbps"` // each way, where both send
	Retrans uint64        `json:"retrans"`
	Relay   [2]relayStats `json:"relay"`
	Error   string        `json:"error,omitempty"`
}

// chargenPeriod is what a chargen server repeats (RFC 864: lines of 72 of the 95 printable characters).
func chargenPeriod() []byte {
	var b []byte
	for line := range 95 {
		for column := range 72 {
			b = append(b, byte(' '+(line+column)%95))
		}
		b = append(b, '\r', '\n')
	}
	return b
}

// transfer is one connection's work, with its progress for whoever watches.
type transfer struct {
	conn     net.Conn
	size     int64
	seed     uint64
	sent     atomic.Int64
	received atomic.Int64
}

const chunk = 256 << 10

// write sends size random bytes, half-closes and returns their hash.
func (x *transfer) write() ([]byte, error) {
	h := sha256.New()
	rng := rand.NewChaCha8([32]byte{byte(x.seed), byte(x.seed >> 8), byte(x.seed >> 16)})
	buf := make([]byte, chunk)
	for left := x.size; left > 0; {
		b := buf[:min(left, chunk)]
		_, _ = rng.Read(b)
		_, _ = h.Write(b)
		n, err := x.conn.Write(b)
		x.sent.Add(int64(n))
		if err != nil {
			return nil, fmt.Errorf("sending: %w", err)
		}
		left -= int64(n)
	}
	return h.Sum(nil), nil
}

func (x *transfer) closeWrite() error { return x.conn.(*net.TCPConn).CloseWrite() }

// read counts as it goes; f sees each piece.
func (x *transfer) read(f func([]byte) error) error {
	buf := make([]byte, chunk)
	for {
		n, err := x.conn.Read(buf)
		x.received.Add(int64(n))
		if n > 0 {
			if err := f(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
	}
}

// both: an echo server returns every byte; the hashes prove each way.
func (x *transfer) both() error {
	type wrote struct {
		hash []byte
		err  error
	}
	done := make(chan wrote, 1)
	go func() {
		h, err := x.write()
		done <- wrote{h, errors.Join(err, x.closeWrite())}
	}()
	got := sha256.New()
	err := x.read(func(b []byte) error { _, _ = got.Write(b); return nil })
	if err != nil {
		_ = x.conn.SetDeadline(time.Now()) // frees the writer
	}
	w := <-done
	if err := errors.Join(err, w.err); err != nil {
		return err
	}
	if x.received.Load() != x.size || !bytes.Equal(w.hash, got.Sum(nil)) {
		return fmt.Errorf("%d of %d bytes came back, or the hash differs", x.received.Load(), x.size)
	}
	return nil
}

// up: a discard server takes all; taken says when it has.
func (x *transfer) up(taken func() error) error {
	if _, err := x.write(); err != nil {
		return err
	}
	if err := taken(); err != nil {
		return err
	}
	if err := x.closeWrite(); err != nil {
		return err
	}
	return x.read(func([]byte) error { return errors.New("a discard server sent something") })
}

// down: a chargen server's pattern, compared byte by byte, until it was long enough; then what is left to the orderly end.
func (x *transfer) down() error {
	period := chargenPeriod()
	pattern := bytes.Repeat(period, chunk/len(period)+2)
	at := 0
	var begun, closed bool
	return x.read(func(b []byte) error {
		begun = true
		if !bytes.Equal(b, pattern[at:at+len(b)]) {
			return fmt.Errorf("the pattern breaks within %d bytes before the %dth", len(b), x.received.Load())
		}
		at = (at + len(b)) % len(period)
		if !closed && begun && x.received.Load() >= x.size {
			closed = true
			return x.closeWrite()
		}
		return nil
	})
}

// dialWith connects with the kernel's congestion control of that name.
func (w *world) dialWith(addr, congestion string, limit time.Duration) (net.Conn, error) {
	var conn net.Conn
	err := w.inClient(func() error {
		d := net.Dialer{Timeout: limit, FallbackDelay: -1, Control: setCongestion(congestion)}
		var err error
		conn, err = d.DialContext(context.Background(), "tcp", addr)
		return err
	})
	return conn, err
}

func setCongestion(name string) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		})
		return errors.Join(err, set)
	}
}

// peer is what is at the other end of the relay: npd, or the kernel with servers of our own.
type peer struct {
	w     *world
	isNpd bool
}

// transferCell runs one cell. The relay must be up.
func (p *peer) transferCell(ds []dim, c cell, size int64) outcome {
	out := outcome{Cell: c.name(ds), Bytes: size}
	if err := p.w.setFeatures(ds, c); err != nil {
		out.Error = err.Error()
		return out
	}
	addr := map[string]func(int) string{"4": addr4, "6": addr6}[c.get(ds, "ip")]
	dir := c.get(ds, "dir")
	port := servicePorts(c.get(ds, "own"))[dir]
	limit := c.limit(ds, size)
	before := p.retransmits()
	begin := time.Now()
	conn, err := p.w.dialWith(addr(port), c.get(ds, "cc"), limit)
	if err != nil {
		out.Error = fmt.Sprintf("connect: %v%s", err, p.inside())
		return out
	}
	defer conn.Close()
	_ = conn.SetDeadline(begin.Add(limit))
	x := &transfer{conn: conn, size: size, seed: c.seed(ds)}
	switch dir {
	case "both":
		err = x.both()
	case "up":
		err = x.up(func() error { return p.taken(conn, size, begin.Add(limit)) })
	case "down":
		err = x.down()
	}
	took := time.Since(begin).Seconds()
	if err != nil {
		out.Error = fmt.Sprintf("%v; after %.1f s: sent %d of %d bytes, received %d%s", err, took, x.sent.Load(), size, x.received.Load(), p.inside())
		return out
	}
	_ = conn.Close()
	if err := p.settled(); err != nil {
		out.Error = err.Error()
		return out
	}
	out.Bytes = max(x.sent.Load(), x.received.Load())
	out.Seconds = took
	out.Mbps = float64(out.Bytes) * 8 / 1e6 / took
	out.Retrans = p.retransmits() - before
	return out
}

// settled waits until npd has no connection but in TIME-WAIT: while the relay still runs, for its last segments may be lost.
func (p *peer) settled() error {
	if !p.isNpd {
		return nil
	}
	end := time.Now().Add(30 * time.Second)
	for p.w.stat("tcp_connections") != p.w.stat("tcp_timewait_connections") {
		if time.Now().After(end) {
			return fmt.Errorf("a connection has not ended 30 s after the transfer did%s", p.inside())
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

func (p *peer) retransmits() uint64 {
	if !p.isNpd {
		return 0
	}
	return p.w.stat("tcp_retransmits_total")
}

// taken waits until npd's session has taken all of the bytes, by its own count of the connection.
func (p *peer) taken(conn net.Conn, size int64, end time.Time) error {
	if !p.isNpd {
		return nil // reading its end says so
	}
	for {
		var have uint64
		for _, c := range query[api.Conns](p.w, "conn", "list").Connections {
			if c.Remote == conn.LocalAddr().String() {
				have = c.BytesReceived
			}
		}
		if have == uint64(size) {
			return nil
		}
		if have > uint64(size) || time.Now().After(end) {
			return fmt.Errorf("npd counts %d bytes received, want %d", have, size)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// inside is what both ends say about their connections, for a failure's message.
func (p *peer) inside() string {
	var b strings.Builder
	ss, _ := p.w.in("c", "ss", "-tino").CombinedOutput()
	fmt.Fprintf(&b, "\nclient, ss -tino:\n%s", ss)
	if !p.isNpd {
		return b.String()
	}
	for _, c := range query[api.Conns](p.w, "conn", "list").Connections {
		if c.State != "time-wait" {
			out, _ := p.w.npctl("conn", "show", "-i", c.ID)
			fmt.Fprintf(&b, "npd, conn show -i:\n%s", out)
		}
	}
	return b.String()
}

// setFeatures sets what the kernel's side offers in the next connection.
func (w *world) setFeatures(ds []dim, c cell) error {
	args := []string{"-qw"}
	for key, name := range map[string]string{"ts": "tcp_timestamps", "sack": "tcp_sack", "wscale": "tcp_window_scaling"} {
		value := "0"
		if c.get(ds, key) == "with" {
			value = "1"
		}
		args = append(args, "net.ipv4."+name+"="+value)
	}
	if c.get(ds, "ecn") == "with" {
		args = append(args, "net.ipv4.tcp_ecn=1")
	} else {
		args = append(args, "net.ipv4.tcp_ecn=2")
	}
	// what an earlier cell measured must not begin this one
	args = append(args, "net.ipv4.tcp_no_metrics_save=1")
	out, err := w.in("c", "sysctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sysctl: %w: %s", err, out)
	}
	return nil
}

// kernelPeer gives the appliance's addresses to the kernel of its namespace and serves echo, discard and chargen there.
// The returned function ends the servers.
func (w *world) kernelPeer() (*peer, func()) {
	w.t.Helper()
	for _, args := range [][]string{{"addr", "add", server4 + "/24", "dev", "np0"}, {"addr", "add", server6 + "/64", "dev", "np0", "nodad"}} {
		w.must(exec.Command("ip", append([]string{"-n", w.name + "-s"}, args...)...))
	}
	w.must(w.in("s", "ethtool", "-K", "np0", "tx", "off", "gro", "off", "tso", "off", "gso", "off"))
	w.must(w.in("s", "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"))
	serve := map[string]func(net.Conn){
		"both": func(c net.Conn) { _, _ = io.Copy(c, c) },
		"up":   func(c net.Conn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) },
		"down": func(c net.Conn) {
			pattern := bytes.Repeat(chargenPeriod(), 32)
			var ended atomic.Bool
			go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}); ended.Store(true) }()
			for !ended.Load() {
				if _, err := c.Write(pattern); err != nil {
					return
				}
			}
		},
	}
	var listeners []net.Listener
	var running sync.WaitGroup
	accept := func(l net.Listener, f func(net.Conn)) {
		defer running.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Add(1)
			go func() {
				defer running.Done()
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
				f(c)
			}()
		}
	}
	for own, congestion := range map[string]string{"cubic": "cubic", "newreno": "reno", "bbr": "bbr"} {
		for dir, port := range servicePorts(own) {
			for _, addr := range []string{addr4(port), addr6(port)} {
				var l net.Listener
				err := w.inSide("s", func() error {
					lc := net.ListenConfig{Control: setCongestion(congestion)}
					lc.SetMultipathTCP(false)
					var err error
					l, err = lc.Listen(context.Background(), "tcp", addr)
					return err
				})
				if errors.Is(err, syscall.ENOENT) {
					continue // this kernel lacks it: its cells have no yardstick
				}
				if err != nil {
					w.t.Fatal(err)
				}
				listeners = append(listeners, l)
				running.Add(1)
				go accept(l, serve[dir])
			}
		}
	}
	return &peer{w: w}, func() {
		for _, l := range listeners {
			_ = l.Close()
		}
		running.Wait()
	}
}
