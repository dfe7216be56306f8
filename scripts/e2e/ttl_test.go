//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// RFC 9293 MUST-49: what TCP sends has the configured TTL and hop limit, segments of connections as well as resets.
func TestTTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{env: []string{"NP_TCP_TTL=77"}})
	var fd int
	err := w.inClient(func() (err error) {
		c0, err := net.InterfaceByName("c0")
		if err != nil {
			return err
		}
		const all = 0x0300 // htons(ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: c0.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
	for _, a := range []func(int) string{addr4, addr6} {
		if err := echo(w.mustDial(a(7)), 5000); err != nil {
			t.Fatal(err)
		}
		if c, err := w.dial("tcp", a(9999)); err == nil {
			_ = c.Close()
			t.Error("connected to a closed port")
		}
	}
	seen := map[string]int{}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		f := make([]byte, 2048)
		n, from, err := unix.Recvfrom(fd, f, 0)
		if err != nil {
			break // nothing for a while
		}
		if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Pkttype == unix.PACKET_OUTGOING || n < 14+40 {
			continue
		}
		var ttl, flags byte
		switch {
		case f[12] == 8 && f[13] == 0 && f[23] == 6:
			ttl, flags = f[22], f[14+20+13]
		case f[12] == 0x86 && f[13] == 0xdd && f[20] == 6 && n >= 14+60:
			ttl, flags = f[21], f[14+40+13]
		default:
			continue
		}
		kind := "data"
		if flags&4 != 0 {
			kind = "reset"
		} else if flags&2 != 0 {
			kind = "SYN"
		}
		kind = fmt.Sprintf("%s %02x", kind, f[12])
		seen[kind]++
		if ttl != 77 {
			t.Errorf("%s with TTL %d", kind, ttl)
		}
	}
	for _, k := range []string{"data 08", "data 86", "reset 08", "reset 86", "SYN 08", "SYN 86"} {
		if seen[k] == 0 {
			t.Errorf("no %s among %v", k, seen)
		}
	}
}
