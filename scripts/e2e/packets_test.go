//go:build e2e

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// wire sends raw Ethernet frames from the client's interface.
type wire struct {
	w      *world
	fd     int
	ifi    *net.Interface
	to     net.HardwareAddr
	client net.HardwareAddr
}

func newWire(w *world) *wire {
	w.t.Helper()
	r := &wire{w: w}
	err := w.inClient(func() error {
		var err error
		if r.ifi, err = net.InterfaceByName("c0"); err != nil {
			return err
		}
		r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = unix.Close(r.fd) })
	r.client = r.ifi.HardwareAddr
	if r.to, err = net.ParseMAC(w.status().Interfaces[0].MAC); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (r *wire) send(frame []byte) {
	r.w.t.Helper()
	if err := unix.Sendto(r.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: r.ifi.Index, Halen: 6}); err != nil {
		r.w.t.Fatal(err)
	}
}

func sum16(b []byte, sum uint32) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// tcp4 builds a right Ethernet, IPv4 and TCP frame from the client to a port of the appliance.
func (r *wire) tcp4(src, dst uint16, seq, ack uint32, flags byte, options, payload []byte) []byte {
	f := append(append([]byte{}, r.to...), r.client...)
	f = append(f, 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(options)+len(payload)))
	copy(ip[12:], []byte{198, 18, 0, 2, 198, 18, 0, 1})
	binary.BigEndian.PutUint16(ip[10:], fold(sum16(ip, 0)))
	t := make([]byte, 20)
	binary.BigEndian.PutUint16(t[0:], src)
	binary.BigEndian.PutUint16(t[2:], dst)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = byte((20+len(options))/4<<4), flags
	binary.BigEndian.PutUint16(t[14:], 65535)
	t = append(append(t, options...), payload...)
	binary.BigEndian.PutUint16(t[16:], fold(sum16(t, sum16(ip[12:], uint32(6+len(t))))))
	return append(append(f, ip...), t...)
}

// TestBadPackets sends what no stack should send: each is counted for its reason, an open connection does not notice.
func TestBadPackets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	c := w.mustDial(addr4(7))
	if err := echo(c, 100); err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(c.LocalAddr().String()).Port()
	r := newWire(w)
	flip := func(f []byte, at int, x byte) []byte { f[at] ^= x; return f }
	ipsum := func(f []byte) []byte {
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], fold(sum16(f[14:34], 0)))
		return f
	}
	set := func(f []byte, at int, v ...byte) []byte { copy(f[at:], v); return f }
	withOptions := func(f []byte, o ...byte) []byte {
		f = slices.Insert(f, 34, o...)
		f[14] += byte(len(o) / 4)
		binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], fold(sum16(f[14:34+len(o)], 0)))
		return f
	}
	syn := func() []byte { return r.tcp4(5555, 7, 1, 0, 2, nil, nil) }
	wild := func(seq uint32) []byte { return r.tcp4(port, 7, seq, 1, 16, nil, []byte("wild")) }
	// Options that are neither malformed nor a source route change nothing (RFC 1122 §3.2.1.8).
	r.send(withOptions(r.tcp4(port, 9999, 1, 0, 2, nil, nil), 148, 4, 0, 0))
	w.eventually(time.Minute, "SYN with a router alert", func() error {
		if w.drop("tcp_no_listener") == 0 {
			return errors.New("not taken as one without")
		}
		return nil
	})
	for _, k := range []struct {
		name, reason string
		frame        []byte
	}{
		{"IPv4 header checksum", "ip_bad_checksum", flip(syn(), 24, 0x55)},
		{"IPv4 option of length 0", "ip_options", withOptions(syn(), 222, 0, 0, 0)},
		{"IPv4 source route", "ip_source_route", withOptions(syn(), 131, 7, 4, 198, 18, 0, 9, 0)},
		{"SYN from our own address", "ip_bad_source", r.fixTCP(ipsum(set(syn(), 26, syn()[30:34]...)))},
		{"IPv4 header length below 5", "ip_bad_header", ipsum(set(syn(), 14, 0x43))},
		{"IPv4 total length beyond the frame", "ip_too_short", ipsum(set(syn(), 16, 0x10, 0))},
		{"IPv4 fragment of odd length", "ip_bad_fragment", ipsum(set(syn(), 20, 0x20, 0))},
		{"TCP checksum", "tcp_bad_checksum", flip(syn(), 14+20+16, 0x55)},
		{"TCP data offset beyond the segment", "tcp_bad_offset", r.fixTCP(set(syn(), 46, 0xf0))},
		{"TCP data offset below 5", "tcp_bad_offset", r.fixTCP(set(syn(), 46, 0x40))},
		{"TCP option of length 0", "tcp_bad_options", r.tcp4(5555, 7, 1, 0, 2, []byte{2, 0, 0, 0}, nil)},
		{"SYN and FIN", "tcp_bad_flags", r.tcp4(5555, 7, 1, 0, 3, nil, nil)},
		{"no flags", "tcp_bad_flags", r.tcp4(5555, 7, 1, 0, 0, nil, nil)},
		{"no timestamp where they were agreed on", "tcp_paws", wild(0x12345678)},
		{"truncated TCP header", "tcp_too_short", ipsum(set(syn()[:14+20+12], 16, 0, 32))},
		{"unknown protocol", "ip_unknown_protocol", ipsum(set(syn(), 23, 200))},
		{"UDP without a service", "udp_no_port", r.udp4(9999)},
	} {
		n := w.drop(k.reason)
		r.send(k.frame)
		w.eventually(time.Minute, k.name, func() error {
			if got := w.drop(k.reason); got != n+1 {
				return fmt.Errorf("%s went from %d to %d", k.reason, n, got)
			}
			return nil
		})
	}
	if err := echo(c, 100_000); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	_ = c.Close()
	w.restful(free)
}

// fixTCP makes the checksum right again after a change of the header.
func (r *wire) fixTCP(f []byte) []byte {
	t := f[34:]
	t[16], t[17] = 0, 0
	binary.BigEndian.PutUint16(t[16:], fold(sum16(t, sum16(f[26:34], uint32(6+len(t))))))
	return f
}

func (r *wire) udp4(port uint16) []byte {
	f := r.tcp4(5555, port, 0, 0, 0, nil, nil)[:14+20+8]
	f[23] = 17
	binary.BigEndian.PutUint16(f[16:], 28)
	f[24], f[25] = 0, 0
	binary.BigEndian.PutUint16(f[24:], fold(sum16(f[14:34], 0)))
	binary.BigEndian.PutUint16(f[34+4:], 8)
	f[34+6], f[34+7] = 0, 0 // no checksum
	return f
}

// Random bytes behind right headers of every layer, from a fixed seed.
func TestRandomPackets(t *testing.T) {
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	c := w.mustDial(addr4(7))
	r := newWire(w)
	rng := rand.New(rand.NewPCG(1, 2))
	garbage := func(b []byte) {
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	for i := range 6000 {
		f := r.tcp4(uint16(rng.Uint32()), 7, rng.Uint32(), rng.Uint32(), byte(rng.Uint32()), nil, make([]byte, rng.IntN(200)))
		switch i % 6 {
		case 0:
			garbage(f[12:])
		case 1: // IPv4 to us, the rest random
			garbage(f[34:])
			f[23] = []byte{1, 6, 17, 58}[rng.IntN(4)]
			f[24], f[25] = 0, 0
			binary.BigEndian.PutUint16(f[24:], fold(sum16(f[14:34], 0)))
		case 2: // right checksums, random flags, numbers and options
			garbage(f[34+4 : 34+16])
			f = r.fixTCP(f)
		case 3: // ARP for us, the rest random
			f = append(f[:12], 8, 6)
			f = append(f, make([]byte, 28)...)
			garbage(f[14:])
			copy(f[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1})
			copy(f[38:], []byte{198, 18, 0, 1})
		case 4: // IPv6 to us with random next headers
			f = append(f[:12], 0x86, 0xdd)
			f = append(f, make([]byte, 40+rng.IntN(100))...)
			garbage(f[14:])
			f[14] = 0x60
			binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
			f[20] = []byte{0, 6, 17, 43, 44, 58, 60, 59}[rng.IntN(8)]
			copy(f[38:], netip.MustParseAddr(server6).AsSlice())
		case 5: // cut anywhere
			f = f[:14+rng.IntN(len(f)-14)]
		}
		r.send(f)
	}
	if err := echo(c, 200_000); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	if out, code := w.npctl("status"); code != 0 {
		t.Errorf("status: exit %d: %s", code, out)
	}
	_ = c.Close()
	w.restful(free)
}

// lossy drops packets at random, one in every n, both ways on the client's interface.
func lossy(w *world, n int32) {
	w.t.Helper()
	prog := func() *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			asm.Mod.Imm(asm.R0, n),
			asm.JEq.Imm(asm.R0, 0, "drop"),
			asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
			asm.Return(),
			asm.Mov.Imm(asm.R0, 2).WithSymbol("drop"), // TCX_DROP
			asm.Return(),
		}})
		if err != nil {
			w.t.Fatalf("loss program: %v", err)
		}
		return p
	}
	err := w.inClient(func() error {
		ifi, err := net.InterfaceByName("c0")
		if err != nil {
			return err
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			p := prog()
			l, err := link.AttachTCX(link.TCXOptions{Interface: ifi.Index, Program: p, Attach: at})
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { _ = l.Close(); _ = p.Close() })
		}
		return nil
	})
	if err != nil {
		w.t.Fatalf("loss program: %v", err)
	}
}
