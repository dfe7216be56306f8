// Command nppktgen loads a server and measures it, NPRO over the kernel's TCP
// or plain TCP from a stack of its own: messages per second, bits per second,
// latency percentiles.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"crypto/rand"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/loadgen"
	"github.com/np-appliance/np/ctrl/npro"
)

// Exit codes, as npctl's.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitTimeout     = 6
	exitRefused     = 7
)

type usageError struct{ error }

// errFailures ends a run that measured, but not only good answers; the result has said so.
var errFailures = errors.New("some requests failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use: "nppktgen PROTOCOL", Short: "Load a server and measure it", SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown protocol %q: want npro or tcp", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usageError{errors.New("which protocol?")}
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(nproCmd(stdout, stderr), tcpCmd(stdout, stderr))
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	code := exitCode(err)
	if err != nil && !errors.Is(err, errFailures) {
		fmt.Fprintf(stderr, "nppktgen: %v\n", err)
	}
	if code == exitUsage {
		fmt.Fprintln(stderr, "nppktgen: try 'nppktgen --help', 'nppktgen npro --help' or 'nppktgen tcp --help'")
	}
	return code
}

func exitCode(err error) int {
	var usage usageError
	var said *client.DisconnectError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errFailures):
		return exitFailed
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitFailed // before there was anything to print
	case errors.As(err, &said), handshake.Failed(err), errors.Is(err, io.EOF):
		return exitRefused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	return exitUnreachable
}

// options are the flags of nppktgen npro.
type options struct {
	addr, key, identity, psk, pattern, aead, opcode, output string
	noHybrid, progress, noVerify                            bool
	conns, depth, size                                      int
	rate                                                    float64
	duration, warmup                                        time.Duration
	requests                                                int64
}

func nproCmd(stdout, stderr io.Writer) *cobra.Command {
	var o options
	c := &cobra.Command{
		Use: "npro --addr HOST:PORT", Short: "Encrypted NPRO requests over the kernel's TCP",
		Long: "Closed loop: each connection keeps --depth requests in flight. Open loop (--rate): requests leave at fixed moments whatever the server does, and\n" +
			"latency counts from the moment each should have left (no coordinated omission). An ECHO answer must equal its request.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, stdout, stderr) },
	}
	f := c.Flags()
	f.StringVar(&o.addr, "addr", "198.18.0.1:7700", "server, host:port or unix:PATH")
	f.StringVar(&o.key, "key", "", "the server's public key (base64); without it XX takes any server, which is for tests only")
	f.StringVar(&o.identity, "identity", "", "file with our private key; without it a new one each run")
	f.StringVar(&o.psk, "psk-file", "", "file with the pre-shared key (base64), for nnpsk0")
	f.StringVar(&o.pattern, "pattern", "xx", "xx, ik, nx or nnpsk0")
	f.BoolVar(&o.noHybrid, "no-hybrid", false, "without ML-KEM-768; the server must do the same")
	f.StringVar(&o.aead, "aead", "auto", "auto, gcm or xchacha")
	f.IntVarP(&o.conns, "conns", "c", 1, "connections")
	f.IntVar(&o.depth, "depth", 0, "most requests in flight on each connection (default 1; with --rate 1024)")
	f.Float64Var(&o.rate, "rate", 0, "requests a second over all connections (open loop)")
	f.IntVar(&o.size, "size", 64, "payload bytes")
	f.StringVar(&o.opcode, "opcode", "ECHO", "what to call")
	f.BoolVar(&o.noVerify, "no-verify", false, "do not compare ECHO answers")
	f.DurationVarP(&o.duration, "duration", "d", 10*time.Second, "how long to measure")
	f.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "not measured, before that")
	f.Int64VarP(&o.requests, "requests", "n", 0, "end after so many instead")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.BoolVar(&o.progress, "progress", false, "a line each second even when standard error is no terminal")
	return c
}

// openDepth lets the server, not the generator, be the limit of an open loop.
const openDepth = 1024

func (o *options) config(cmd *cobra.Command) (loadgen.Options, error) {
	if o.depth == 0 {
		if o.depth = 1; o.rate > 0 {
			o.depth = openDepth
		}
	}
	cfg := loadgen.Options{Connections: o.conns, Depth: o.depth, Rate: o.rate, Size: o.size, Opcode: o.opcode, Verify: o.opcode == "ECHO" && !o.noVerify,
		Duration: o.duration, Warmup: o.warmup, Requests: o.requests}
	if o.requests > 0 && !cmd.Flags().Changed("duration") {
		cfg.Duration = 0
	}
	// Responses are waited for as long as the measurement lasts, however slow they are.
	cfg.Client = client.Config{Address: o.addr, NoHybrid: o.noHybrid, Name: "nppktgen", ResponseTimeout: -1}
	c := &cfg.Client
	var err error
	if c.Pattern, err = handshake.ParsePattern(o.pattern); err != nil {
		return cfg, fmt.Errorf("--pattern: %w", err)
	}
	switch {
	case o.key == "" && (c.Pattern == handshake.PatternIK || c.Pattern == handshake.PatternNX):
		return cfg, fmt.Errorf("--pattern %s needs --key", o.pattern)
	case o.psk == "" && c.Pattern == handshake.PatternNNpsk0:
		return cfg, fmt.Errorf("--pattern %s needs --psk-file", o.pattern)
	}
	switch o.aead {
	case "auto":
	case "gcm":
		c.AEADs = []uint8{npro.AEADAES256GCM}
	case "xchacha":
		c.AEADs = []uint8{npro.AEADXChaCha20Poly1305}
	default:
		return cfg, fmt.Errorf("--aead %q: want auto, gcm or xchacha", o.aead)
	}
	if o.output != "table" && o.output != "json" {
		return cfg, fmt.Errorf("--output %q: want table or json", o.output)
	}
	if o.key != "" {
		k, err := handshake.ParsePublicKey(o.key)
		if err != nil {
			return cfg, fmt.Errorf("--key: %w", err)
		}
		c.Remote = &k
	} else {
		c.Trust = func(handshake.PublicKey) error { return nil }
	}
	if o.psk != "" {
		b, err := os.ReadFile(o.psk)
		if err != nil {
			return cfg, fmt.Errorf("--psk-file: %w", err)
		}
		raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(b)))
		if err != nil || len(raw) != handshake.KeySize {
			return cfg, fmt.Errorf("--psk-file %s: want %d bytes in base64", o.psk, handshake.KeySize)
		}
		c.PSK = (*[handshake.KeySize]byte)(raw)
	}
	if o.identity != "" {
		b, err := os.ReadFile(o.identity)
		if err != nil {
			return cfg, fmt.Errorf("--identity: %w", err)
		}
		c.Static, err = handshake.ParsePrivateKey(string(bytes.TrimSpace(b)))
		return cfg, err
	}
	c.Static, err = handshake.GenerateKey(rand.Reader)
	return cfg, err
}

func (o *options) run(cmd *cobra.Command, stdout, stderr io.Writer) error {
	ctx := cmd.Context()
	cfg, err := o.config(cmd)
	if err == nil {
		err = cfg.Check()
	}
	if err != nil {
		return usageError{err}
	}
	if o.progress || terminal(stderr) {
		cfg.Progress = func(p loadgen.Progress) { o.line(stderr, p) }
	}
	res, err := loadgen.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if err := o.print(stdout, res); err != nil {
		return err
	}
	if len(res.Errors) > 0 {
		return errFailures
	}
	return nil
}

// line is one second's progress.
func (o *options) line(w io.Writer, p loadgen.Progress) {
	what := fmt.Sprintf("%4.0f s", p.Elapsed.Seconds())
	if p.Elapsed < 0 {
		what = "warm-up"
	}
	fmt.Fprintf(w, "%-7s %9.0f msg/s  %6.3f Gbit/s out  %6.3f in  %d in flight  %d errors\n", what, p.PerSec, p.TxBits/1e9, p.RxBits/1e9, p.InFlight, p.Errors)
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// report is the JSON form of a result. Gbit/s of payload count what was asked to
// be sent; those of the connection count headers and tags as well, not TCP's.
type report struct {
	Schema         string           `json:"schema"`
	Address        string           `json:"address"`
	Pattern        string           `json:"pattern"`
	Hybrid         bool             `json:"hybrid"`
	AEAD           string           `json:"aead"`
	ServerKey      string           `json:"server_key,omitempty"`
	KeyChecked     bool             `json:"server_key_checked"`
	Connections    int              `json:"connections"`
	Depth          int              `json:"depth"`
	SizeBytes      int              `json:"size_bytes"`
	Opcode         string           `json:"opcode"`
	Loop           string           `json:"loop"`
	TargetRate     float64          `json:"target_rate,omitempty"`
	RateReached    bool             `json:"rate_reached"`
	Interrupted    bool             `json:"interrupted"`
	Seconds        float64          `json:"seconds"`
	Messages       int64            `json:"messages"`
	MessagesPerSec float64          `json:"messages_per_second"`
	PayloadTxGbit  float64          `json:"payload_tx_gbit_per_second"`
	PayloadRxGbit  float64          `json:"payload_rx_gbit_per_second"`
	TxGbit         float64          `json:"tx_gbit_per_second"`
	RxGbit         float64          `json:"rx_gbit_per_second"`
	P50us          float64          `json:"p50_us"`
	P90us          float64          `json:"p90_us"`
	P99us          float64          `json:"p99_us"`
	P999us         float64          `json:"p99_9_us"`
	MaxUs          float64          `json:"max_us"`
	Errors         map[string]int64 `json:"errors"`
}

func (o *options) report(res *loadgen.Result) report {
	us := func(q float64) float64 { return float64(res.Latency.ValueAtQuantile(q)) / 1e3 }
	secs := max(res.Elapsed.Seconds(), 1e-9)
	gbit := func(n int64) float64 { return float64(n) * 8 / secs / 1e9 }
	r := report{Schema: "np/v1", Address: o.addr, Connections: o.conns, Depth: o.depth, SizeBytes: o.size, Opcode: o.opcode, Loop: "closed",
		TargetRate: o.rate, RateReached: o.rate == 0 || res.PerSecond() >= 0.99*o.rate, Interrupted: res.Interrupted,
		Seconds: secs, Messages: res.Messages, MessagesPerSec: res.PerSecond(),
		PayloadTxGbit: gbit(res.TxPayload), PayloadRxGbit: gbit(res.RxPayload), TxGbit: gbit(res.TxBytes), RxGbit: gbit(res.RxBytes),
		P50us: us(50), P90us: us(90), P99us: us(99), P999us: us(99.9), MaxUs: float64(res.Latency.Max()) / 1e3, Errors: res.Errors}
	if o.rate > 0 {
		r.Loop = "open"
	}
	if len(res.Info) > 0 {
		i := res.Info[0]
		r.Pattern, r.Hybrid, r.AEAD = i.Pattern.String(), i.Hybrid, npro.AEADName(i.AEAD)
		if i.HasRemote {
			r.ServerKey, r.KeyChecked = i.Remote.String(), o.key != ""
		}
	}
	return r
}

func (o *options) print(w io.Writer, res *loadgen.Result) error {
	r := o.report(res)
	if o.output == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	var b strings.Builder
	hybrid := ""
	if r.Hybrid {
		hybrid = " with ML-KEM-768"
	}
	fmt.Fprintf(&b, "%d connections (%s%s, %s), %s loop, depth %d, %s of %d bytes, %.1f s\n", r.Connections, r.Pattern, hybrid, r.AEAD, r.Loop, r.Depth, r.Opcode, r.SizeBytes, r.Seconds)
	fmt.Fprintf(&b, "  %.0f messages/s\n", r.MessagesPerSec)
	fmt.Fprintf(&b, "  Gbit/s of payload: %.3f out, %.3f in; with headers and tags %.3f and %.3f\n", r.PayloadTxGbit, r.PayloadRxGbit, r.TxGbit, r.RxGbit)
	fmt.Fprintf(&b, "  latency µs: p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", r.P50us, r.P90us, r.P99us, r.P999us, r.MaxUs)
	if r.ServerKey != "" && !r.KeyChecked {
		fmt.Fprintf(&b, "  the server's key was not checked; --key %s pins it\n", r.ServerKey)
	}
	if !r.RateReached {
		fmt.Fprintf(&b, "  the rate of %.0f/s was not reached\n", r.TargetRate)
	}
	if r.Interrupted {
		b.WriteString("  interrupted: this is what there was until then\n")
	}
	if len(r.Errors) == 0 {
		b.WriteString("  no errors\n")
	}
	for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(&b, "  %d × %s\n", r.Errors[k], k)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
