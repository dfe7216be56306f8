//go:build cgo

package npc_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/npc"
	"github.com/np-appliance/np/dataplane/transporttest"
)

// TestTransports runs the conformance suite over what needs neither root nor a device.
// A carrier of kernel sockets joins with a line.
func TestTransports(t *testing.T) {
	for _, row := range []struct {
		name    string
		carrier dataplane.Carrier
		cores   int
	}{
		{"epoll", dataplane.CarrierEpoll, 1},
		{"epoll, two cores", dataplane.CarrierEpoll, 2},
		{"io_uring", dataplane.CarrierUring, 1},
		{"io_uring, two cores", dataplane.CarrierUring, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := npc.ProbeUring(); err != nil && row.carrier == dataplane.CarrierUring {
				t.Skip(err)
			}
			tr, held := sockets(t, row.carrier, row.cores)
			tcp := transporttest.Backend{Name: "tcp", Client: tr, Server: tr, Network: "tcp", Listen: "127.0.0.1:0", Refused: "127.0.0.1:1", BufferMax: 16 << 20, Held: held}
			unix := transporttest.Backend{Name: "unix", Client: tr, Server: tr, Network: "unix", Listen: filepath.Join(t.TempDir(), "s"), Refused: "", BufferMax: 4 << 20,
				NoReset: true, Held: held}
			for _, b := range []transporttest.Backend{tcp, unix} {
				// TLS knows nothing of cores.
				transporttest.Run(t, b, transporttest.Options{Conns: 200, NoTLS: row.cores > 1})
			}
		})
	}
}

// sockets is a transport over one carrier of kernel sockets, on a plane of its own.
func sockets(t *testing.T, c dataplane.Carrier, cores int) (tr *netconn.Transport, held func() int) {
	t.Helper()
	cfg := &dataplane.Config{BuffersPerCore: 16384, LoansPerCore: 512, MaxConns: 16, MaxStreams: 1, ChunkBytes: 2048, HugePages: dataplane.HugePagesOff,
		Carriers: []dataplane.Carrier{c}, SocketConns: 1024}
	for range cores {
		cfg.CPUs = append(cfg.CPUs, -1)
	}
	p, err := npc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := events.New(p)
	if tr, err = netconn.New(p, r, netconn.Options{Carrier: c}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr, func() int {
		n := 0
		for i := range p.Cores() {
			k := p.Counters(i)
			n += int(k.Counter[dataplane.CounterBufTotal]) - int(k.Counter[dataplane.CounterBufFree])
		}
		return n
	}
}

// TestUnixPeer: a Unix socket's connection says who is there, and its file has the mode.
func TestUnixPeer(t *testing.T) {
	tr, _ := sockets(t, dataplane.CarrierEpoll, 1)
	path := filepath.Join(t.TempDir(), "s")
	l, err := tr.With(netconn.Options{Carrier: dataplane.CarrierEpoll, UnixMode: 0o620}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o620 {
		t.Error(fi.Mode(), err)
	}
	c, err := tr.Dial(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := s.(dataplane.StreamConn).Properties().Unix
	if p == nil || p.PID != uint32(os.Getpid()) || p.UID != uint32(os.Getuid()) || p.GID != uint32(os.Getgid()) {
		t.Errorf("peer %+v", p)
	}
	if s.LocalAddr().String() != path || c.RemoteAddr().String() != path {
		t.Error(s.LocalAddr(), c.RemoteAddr())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("the file is still there:", err)
	}
}
