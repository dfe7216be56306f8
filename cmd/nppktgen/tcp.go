package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/loadgen/stack"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/npc"
)

// tcpOptions are the flags of nppktgen tcp.
type tcpOptions struct {
	iface, address, gateway, target, mode, output string
	conns, depth, size, cpu, mtu                  int
	duration, warmup                              time.Duration
	spin, progress, verbose, noVerify             bool
}

const (
	tcpConnsMax = 4 << 20
	tcpSizeMax  = 1 << 20
	tcpDepthMax = 256
)

func tcpCmd(stdout, stderr io.Writer) *cobra.Command {
	var o tcpOptions
	c := &cobra.Command{
		Use: "tcp --interface IF --address ADDR/LEN --target ADDR:PORT", Short: "Plain TCP from a stack of our own, over AF_XDP",
		Long: "Loads any TCP server from np's own stack on a poll core: the kernel keeps the interface, but must not have --address. Needs root, as npd does.\n\n" +
			"  echo     closed loop: --depth messages in flight on each connection, compared when they come back\n" +
			"  send     as fast as the server takes it (discard, RFC 863)\n" +
			"  receive  as fast as the server sends (chargen, RFC 864); compared\n" +
			"  connect  open, one message and its echo, close, open again: connections per second\n" +
			"  hold     open connections and say nothing\n\n" +
			"Latency is from handing a message to the stack to its last byte's arrival, by the clock of the core's turn. Busy time is that of turns that found work.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, stdout, stderr) },
	}
	f := c.Flags()
	f.StringVar(&o.iface, "interface", "", "interface to send by (required)")
	f.StringVar(&o.address, "address", "", "our address with its prefix length, such as 198.18.0.2/24 (required)")
	f.StringVar(&o.gateway, "gateway", "", "next hop, when the target is not on the link")
	f.StringVar(&o.target, "target", "", "server, address:port (required)")
	f.StringVar(&o.mode, "mode", "echo", "echo, send, receive, connect or hold")
	f.IntVarP(&o.conns, "conns", "c", 1, "connections")
	f.IntVar(&o.depth, "depth", 1, "messages in flight on each connection")
	f.IntVar(&o.size, "size", 64, "bytes of a message")
	f.IntVar(&o.cpu, "cpu", -1, "CPU of the poll core; -1: not pinned")
	f.IntVar(&o.mtu, "mtu", 0, "0: the device's")
	f.BoolVar(&o.spin, "spin", false, "the poll core never sleeps")
	f.DurationVarP(&o.duration, "duration", "d", 10*time.Second, "how long to measure")
	f.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "not measured, before that")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.BoolVar(&o.noVerify, "no-verify", false, "do not compare what comes back; for sources that are not chargen")
	f.BoolVar(&o.progress, "progress", false, "a line each second even when standard error is no terminal")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say what becomes of the interface")
	return c
}

func loadMode(s string) (dataplane.LoadMode, error) {
	switch s {
	case "echo":
		return dataplane.LoadEcho, nil
	case "send":
		return dataplane.LoadSend, nil
	case "receive":
		return dataplane.LoadReceive, nil
	case "connect":
		return dataplane.LoadConnect, nil
	case "hold":
		return dataplane.LoadHold, nil
	}
	return 0, fmt.Errorf("--mode %q: want echo, send, receive, connect or hold", s)
}

func inRange(flag string, v, least, most int) error {
	if v < least || v > most {
		return fmt.Errorf("--%s %d: want %d to %d", flag, v, least, most)
	}
	return nil
}

func (o *tcpOptions) options(stderr io.Writer) (so stack.Options, err error) {
	for _, need := range []struct{ flag, value string }{{"interface", o.iface}, {"address", o.address}, {"target", o.target}} {
		if need.value == "" {
			return so, fmt.Errorf("--%s is missing", need.flag)
		}
	}
	if so.Mode, err = loadMode(o.mode); err != nil {
		return so, err
	}
	address, err := netip.ParsePrefix(o.address)
	if err != nil {
		return so, fmt.Errorf("--address %q: want an address with its prefix length, such as 198.18.0.2/24", o.address)
	}
	if so.Target, err = netip.ParseAddrPort(o.target); err != nil || so.Target.Port() == 0 {
		return so, fmt.Errorf("--target %q: want a numeric address and port, such as 198.18.0.1:7 or [2001:db8::1]:7", o.target)
	}
	if address.Addr().Is4() != so.Target.Addr().Unmap().Is4() {
		return so, fmt.Errorf("--address %s and --target %s: want the same family", address, so.Target)
	}
	if o.gateway != "" {
		if so.Gateway, err = netip.ParseAddr(o.gateway); err != nil {
			return so, fmt.Errorf("--gateway %q: want an address", o.gateway)
		}
	} else if !address.Contains(so.Target.Addr().Unmap()) {
		return so, fmt.Errorf("--target %s is not in %s: want --gateway", so.Target.Addr(), address.Masked())
	}
	for _, r := range []struct {
		flag        string
		v, min, max int
	}{{"conns", o.conns, 1, tcpConnsMax}, {"depth", o.depth, 1, tcpDepthMax}, {"size", o.size, 1, tcpSizeMax}, {"cpu", o.cpu, -1, 1023}} {
		if err := inRange(r.flag, r.v, r.min, r.max); err != nil {
			return so, err
		}
	}
	if o.output != "table" && o.output != "json" {
		return so, fmt.Errorf("--output %q: want table or json", o.output)
	}
	if o.duration <= 0 || o.warmup < 0 {
		return so, fmt.Errorf("--duration %s, --warmup %s: want more than 0, and 0 or more", o.duration, o.warmup)
	}
	level := slog.LevelError
	if o.verbose {
		level = slog.LevelInfo
	}
	so.Interface = ports.Interface{Name: o.iface, Addresses: []netip.Prefix{address}, MTU: o.mtu, Queues: 1, Backend: "af_xdp", Quiet: true}
	so.Conns, so.Depth, so.Size, so.CPU, so.Spin = o.conns, o.depth, o.size, o.cpu, o.spin
	so.Warmup, so.Duration, so.Blind = o.warmup, o.duration, o.noVerify
	so.NewPlane, so.System = npc.New, ports.Linux{}
	so.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	return so, nil
}

func (o *tcpOptions) run(cmd *cobra.Command, stdout, stderr io.Writer) error {
	so, err := o.options(stderr)
	if err != nil {
		return usageError{err}
	}
	if err := ports.CheckPrivileges([]ports.Interface{so.Interface}); err != nil {
		return err
	}
	if o.progress || terminal(stderr) {
		so.Progress = func(p stack.Progress) { o.line(stderr, p) }
	}
	res, err := stack.Run(cmd.Context(), so)
	if err != nil {
		return err
	}
	if err := o.print(stdout, &so, res); err != nil {
		return err
	}
	if res.Failed > 0 || res.Mismatches > 0 {
		return errFailures
	}
	return nil
}

func (o *tcpOptions) unit() string {
	if o.mode == "connect" || o.mode == "hold" {
		return "connections"
	}
	return "messages"
}

func (o *tcpOptions) line(w io.Writer, p stack.Progress) {
	fmt.Fprintf(w, "%4.0f s %9.0f %s/s  %7.3f Gbit/s out  %7.3f in  %d open  %d failed  %.0f ns busy each\n", p.Elapsed.Seconds(), p.PerSec, o.unit(),
		p.TxBits/1e9, p.RxBits/1e9, p.Open, p.Failed, p.BusyNsPerItem)
}

// tcpReport is the JSON form of a result; bytes are of TCP payload.
type tcpReport struct {
	Schema         string  `json:"schema"`
	Target         string  `json:"target"`
	Backend        string  `json:"backend"`
	Mode           string  `json:"mode"`
	Connections    int     `json:"connections"`
	Depth          int     `json:"depth"`
	SizeBytes      int     `json:"size_bytes"`
	Seconds        float64 `json:"seconds"`
	OpeningSeconds float64 `json:"opening_seconds"`
	Interrupted    bool    `json:"interrupted"`
	Open           int     `json:"open"`
	Opened         int64   `json:"opened"`
	OpenedPerSec   float64 `json:"opened_per_second"`
	Closed         int64   `json:"closed"`
	Failed         int64   `json:"failed"`
	Mismatches     int64   `json:"mismatches"`
	Retransmits    int64   `json:"retransmits"`
	Messages       int64   `json:"messages"`
	MessagesPerSec float64 `json:"messages_per_second"`
	TxGbit         float64 `json:"tx_gbit_per_second"`
	RxGbit         float64 `json:"rx_gbit_per_second"`
	BusyNs         int64   `json:"busy_ns"`
	P50us          float64 `json:"p50_us"`
	P90us          float64 `json:"p90_us"`
	P99us          float64 `json:"p99_us"`
	P999us         float64 `json:"p99_9_us"`
	MaxUs          float64 `json:"max_us"`
}

func (o *tcpOptions) print(w io.Writer, so *stack.Options, res *stack.Result) error {
	secs := max(res.Elapsed.Seconds(), 1e-9)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	q := func(x float64) float64 { return us(res.Latency.Quantile(x)) }
	r := tcpReport{Schema: "np/v1", Target: so.Target.String(), Backend: res.Backend, Mode: o.mode, Connections: o.conns, Depth: o.depth, SizeBytes: o.size,
		Seconds: secs, OpeningSeconds: res.Opening.Seconds(), Interrupted: res.Interrupted, Open: res.Open, Opened: res.Opened, OpenedPerSec: float64(res.Opened) / secs,
		Closed: res.Closed, Failed: res.Failed, Mismatches: res.Mismatches, Retransmits: res.Retransmits, Messages: res.Messages,
		MessagesPerSec: float64(res.Messages) / secs, TxGbit: float64(res.TxBytes) * 8 / secs / 1e9, RxGbit: float64(res.RxBytes) * 8 / secs / 1e9,
		BusyNs: res.Busy.Nanoseconds(), P50us: q(0.5), P90us: q(0.9), P99us: q(0.99), P999us: q(0.999), MaxUs: us(res.Latency.Max())}
	if o.output == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d connections to %s (own stack, %s), %s, depth %d, %d bytes, %.1f s\n", r.Connections, r.Target, r.Backend, r.Mode, r.Depth, r.SizeBytes, r.Seconds)
	items := res.Items(so.Mode)
	fmt.Fprintf(&b, "  %.0f %s/s", float64(items)/secs, o.unit())
	if items > 0 {
		fmt.Fprintf(&b, ", %.0f ns of our core busy each", float64(r.BusyNs)/float64(items))
	}
	fmt.Fprintf(&b, "\n  Gbit/s of payload: %.3f out, %.3f in; %d segments sent again\n", r.TxGbit, r.RxGbit, r.Retransmits)
	if r.P50us > 0 {
		fmt.Fprintf(&b, "  latency µs: p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", r.P50us, r.P90us, r.P99us, r.P999us, r.MaxUs)
	}
	if r.Interrupted {
		b.WriteString("  interrupted: this is what there was until then\n")
	}
	if r.Failed == 0 && r.Mismatches == 0 {
		b.WriteString("  no errors\n")
	} else {
		fmt.Fprintf(&b, "  %d connections failed, %d pieces were not what was expected\n", r.Failed, r.Mismatches)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
