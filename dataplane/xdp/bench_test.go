package xdp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// BenchmarkProgram measures one run of the program on a 64-byte frame for the
// appliance, on a queue without a socket (the redirect itself costs the same always).
// The cases are interleaved and each reports its fastest round: what else runs only adds.
func BenchmarkProgram(b *testing.B) {
	many := make([]Entry, 0, EntriesMax)
	for i := range EntriesMax {
		many = append(many, Entry{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Deny})
	}
	syn := frame4(to4(own4, 6, 0, tcpTo(7, 0x02), make([]byte, 10)))
	ack := frame4(to4(own4, 6, 0, tcpTo(7, 0x10), make([]byte, 10)))
	listed := frame4(from(netip.MustParseAddr("10.3.3.1"), to4(own4, 6, 0, tcpTo(7, 0x10), make([]byte, 10))))
	ack6 := frame6(to6(6, tcpTo(7, 0x10)))
	cases := []struct {
		name  string
		f     Filter
		ports Ports
		frame []byte
	}{
		{"off", Filter{}, Ports{}, ack}, {"off-v6", Filter{}, Ports{}, ack6},
		{"one-entry-miss", Filter{Entries: many[:1]}, Ports{}, ack}, {"8192-entries-miss", Filter{Entries: many}, Ports{}, ack},
		{"8192-entries-denied", Filter{Entries: many}, Ports{}, listed}, {"limit-packets", Filter{Limits: Limits{Packets: RateMax, PacketBurst: BurstMax}}, Ports{}, ack},
		{"limit-packets-over", Filter{Limits: Limits{Packets: 1}}, Ports{}, ack}, {"limit-syns-ack", Filter{Limits: Limits{SYNs: 1}}, Ports{}, ack},
		{"limit-syns-over", Filter{Limits: Limits{SYNs: 1}}, Ports{}, syn}, {"kernel-ports", Filter{}, Ports{TCP: []PortRange{{22, 22}}}, ack},
		{"all", Filter{Entries: many, Limits: Limits{Packets: RateMax, PacketBurst: BurstMax, SYNs: 10}}, Ports{TCP: []PortRange{{22, 22}}}, ack},
	}
	programs := make([]*Program, len(cases))
	best := make([]time.Duration, len(cases))
	for i, c := range cases {
		programs[i] = ownProgram(b)
		set(b, programs[i], c.f)
		if err := programs[i].SetKernelPorts(c.ports); err != nil {
			b.Fatal(err)
		}
	}
	run := func(p *ebpf.Program, frame []byte, best *time.Duration) {
		_, took, err := p.Benchmark(frame, 50000, nil)
		if err != nil {
			b.Fatal(err)
		}
		if *best == 0 || took < *best {
			*best = took
		}
	}
	for b.Loop() {
		for i, c := range cases {
			run(programs[i].prog, c.frame, &best[i])
		}
	}
	var out strings.Builder
	for i, c := range cases {
		fmt.Fprintf(&out, "\n%-20s %4d ns", c.name, best[i].Nanoseconds())
	}
	b.Log(out.String())
}
