//go:build cgo

package npc

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/ksock"
)

// carriers are those of kernel sockets that work here.
func carriers(t testing.TB) []dataplane.Carrier {
	t.Helper()
	if err := ProbeUring(); err != nil {
		t.Logf("io_uring not tested: %v", err)
		return []dataplane.Carrier{dataplane.CarrierEpoll}
	}
	return []dataplane.Carrier{dataplane.CarrierEpoll, dataplane.CarrierUring}
}

func startSockets(t testing.TB, cores int, c dataplane.Carrier) *Plane {
	t.Helper()
	cfg := small(cores)
	cfg.Carriers, cfg.SocketConns = []dataplane.Carrier{c}, 64
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p.(*Plane)
}

// listen serves kind on loopback TCP and on a Unix socket, and returns how to dial them.
func listenBoth(t testing.TB, p *Plane, c dataplane.Carrier, kind dataplane.SessionKind) map[string]string {
	t.Helper()
	fds, bound, err := ksock.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), len(p.cores), &ksock.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Listen(t.Context(), &dataplane.ListenConfig{Address: bound, Kind: kind, Carrier: c, Sockets: fds}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "np.sock")
	u, err := ksock.ListenUnix(path, len(p.cores), &ksock.UnixOptions{Mode: 0o600, UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Listen(t.Context(), &dataplane.ListenConfig{Kind: kind, Carrier: c, Sockets: u.FDs}); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"tcp": bound.String(), "unix": path}
}

// roundTrip writes data and reads it back.
func roundTrip(network, address string, data []byte) error {
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = c.Write(data)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return errors.New("other bytes came back")
	}
	return nil
}

// TestSocketsEcho runs on sleeping cores: each wake-up has to come from the socket.
func TestSocketsEcho(t *testing.T) {
	data := make([]byte, 1<<20)
	rand.Read(data)
	for _, carrier := range carriers(t) {
		for _, cores := range []int{1, 2} {
			p := startSockets(t, cores, carrier)
			for network, address := range listenBoth(t, p, carrier, dataplane.SessionEcho) {
				for _, n := range []int{0, 1, 100, 1 << 20} {
					if err := roundTrip(network, address, data[:n]); err != nil {
						t.Errorf("%s, %d cores, %s, %d bytes: %v", carrier, cores, network, n, err)
					}
					time.Sleep(time.Millisecond) // the cores fall asleep
				}
				var wg sync.WaitGroup
				for range 16 {
					wg.Go(func() {
						for i := range 20 {
							if err := roundTrip(network, address, data[i:i+5000]); err != nil {
								t.Errorf("%s, %d cores, %s: %v", carrier, cores, network, err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			p.Close()
		}
	}
}

func TestSocketsConnections(t *testing.T) {
	for _, carrier := range carriers(t) {
		p := startSockets(t, 1, carrier)
		for network, address := range listenBoth(t, p, carrier, dataplane.SessionDiscard) {
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write(make([]byte, 1000))
			var conns []dataplane.Conn
			for range 12000 { // a minute
				if conns, err = p.Connections(t.Context()); err != nil {
					t.Fatal(err)
				}
				if len(conns) == 1 && conns[0].BytesRx == 1000 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if len(conns) != 1 || conns[0].BytesRx != 1000 {
				t.Fatalf("%s %s: %+v", carrier, network, conns)
			}
			i := &conns[0]
			if i.Carrier != carrier || i.Kind != dataplane.SessionDiscard || i.State != "established" || i.Listener == 0 {
				t.Errorf("%s %s: %+v", carrier, network, i)
			}
			if network == "unix" {
				if i.Unix == nil || int(i.Unix.PID) != os.Getpid() || int(i.Unix.UID) != os.Getuid() || i.Remote.IsValid() {
					t.Errorf("%s: %+v", carrier, i)
				}
			} else if i.Unix != nil || i.Remote.String() != c.LocalAddr().String() || i.Local.String() != address || i.MSS == 0 || i.Cwnd == 0 {
				t.Errorf("%s: %+v", carrier, i)
			}
			if err := p.Cores()[0].Abort(i.Handle); err == nil {
				p.Cores()[0].Flush()
				_ = c.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s %s: after an abort: %v", carrier, network, err)
				}
			}
			c.Close()
			for range 12000 { // a minute
				if conns, err = p.Connections(t.Context()); err != nil || len(conns) == 0 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if len(conns) != 0 {
				t.Errorf("%s %s: %d connections are left", carrier, network, len(conns))
			}
		}
		p.Close()
	}
}

// TestSocketsOwned checks that no descriptor is left, whatever becomes of a call.
func TestSocketsOwned(t *testing.T) {
	start(t, 1).Close() // the runtime's own descriptors exist from here on
	before := descriptors(t)
	sockets := func(n int) []int {
		fds, _, err := ksock.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), n, &ksock.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return fds
	}
	p := startSockets(t, 2, dataplane.CarrierEpoll)
	echo := dataplane.ListenConfig{Kind: dataplane.SessionEcho, Carrier: dataplane.CarrierEpoll}
	for _, c := range []struct {
		name string
		cfg  dataplane.ListenConfig
		n    int
		want dataplane.Code
	}{
		{"a socket too few", echo, 1, dataplane.CodeInvalid},
		{"sockets for the stack", dataplane.ListenConfig{Address: netip.MustParseAddrPort("127.0.0.1:7"), Kind: dataplane.SessionEcho}, 2, dataplane.CodeInvalid},
		{"no kind", dataplane.ListenConfig{Carrier: dataplane.CarrierEpoll}, 2, dataplane.CodeInvalid},
		{"a carrier that is not there", dataplane.ListenConfig{Kind: dataplane.SessionEcho, Carrier: dataplane.CarrierUring}, 2, dataplane.CodeUnsupported},
	} {
		if c.n > 0 {
			c.cfg.Sockets = sockets(c.n)
		}
		if _, err := p.Listen(t.Context(), &c.cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	echo.Sockets = sockets(2)
	id, err := p.Listen(t.Context(), &echo)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Unlisten(t.Context(), id); err != nil {
		t.Error(err)
	}
	echo.Sockets = sockets(2)
	if _, err := p.Listen(t.Context(), &echo); err != nil { // ends with the plane
		t.Error(err)
	}
	connect := func(what string, carrier dataplane.Carrier, want dataplane.Code) {
		cfg := dataplane.ConnectConfig{Kind: dataplane.SessionPipe, Carrier: carrier, Socket: sockets(1)[0], Core: -1}
		if _, err := p.Connect(t.Context(), &cfg); !errors.Is(err, want) {
			t.Errorf("connect, %s: %v, want %v", what, err, want)
		}
	}
	connect("a carrier that is not there", dataplane.CarrierUring, dataplane.CodeUnsupported)
	dead := func(dead bool) {
		for _, c := range p.cores {
			c.rmu.Lock()
			c.mu.Lock()
			c.dead = dead
			c.mu.Unlock()
			c.rmu.Unlock()
		}
	}
	dead(true)
	connect("a core that never saw it", dataplane.CarrierEpoll, dataplane.CodeShutdown)
	dead(false)
	p.Close()
	echo.Sockets = sockets(2)
	if _, err := p.Listen(t.Context(), &echo); !errors.Is(err, dataplane.CodeShutdown) {
		t.Error(err)
	}
	connect("after Close", dataplane.CarrierEpoll, dataplane.CodeShutdown)
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}
