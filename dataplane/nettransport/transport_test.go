package nettransport

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/transporttest"
)

func TestConformance(t *testing.T) {
	tr := New(Options{})
	for _, b := range []transporttest.Backend{
		{Name: "tcp", Network: "tcp", Listen: "127.0.0.1:0", Packet: "udp", PacketListen: "127.0.0.1:0", PacketMax: 60_000, Refused: "127.0.0.1:1", BufferMax: 16 << 20},
		{Name: "tcp6", Network: "tcp6", Listen: "[::1]:0", Packet: "udp6", PacketListen: "[::1]:0", Refused: "[::1]:1", BufferMax: 16 << 20},
		{Name: "unix", Network: "unix", Listen: filepath.Join(t.TempDir(), "s"), Refused: "@np-nobody", BufferMax: 1 << 20, NoReset: true},
	} {
		b.Client, b.Server = tr, tr
		transporttest.Run(t, b, transporttest.Options{Conns: 200})
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for _, mode := range []os.FileMode{0o600, 0o666, 0o660} {
		tr := New(Options{UnixMode: mode})
		l, err := tr.Listen(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("mode %v, expected %v: %v", fi.Mode(), mode, err)
		}
		if _, err := tr.Listen(t.Context(), "unix", path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Error("where somebody listens:", err)
		}
		c, err := tr.Dial(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		sv, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		p := sv.(dataplane.StreamConn).Properties().Unix
		if p == nil || p.PID != uint32(os.Getpid()) || p.UID != uint32(os.Getuid()) || p.GID != uint32(os.Getgid()) {
			t.Errorf("peer %+v", p)
		}
		if err := sv.(dataplane.StreamConn).SetNoDelay(false); !errors.Is(err, dataplane.CodeUnsupported) {
			t.Error(err)
		}
		c.Close()
		sv.Close()
		l.Close()
	}
	// What a process that was killed left behind is replaced; a file is not.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	tr := New(Options{})
	again, err := tr.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal("a stale socket:", err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Listen(t.Context(), "unix", path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("over a file:", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Error("the file is gone")
	}
}
