package ladder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Words of the configuration and names of rungs; "af_xdp" has two.
const (
	Auto     = "auto"
	DPDK     = "dpdk"
	AFXDP    = "af_xdp"
	ZeroCopy = "af_xdp zero-copy"
	Copy     = "af_xdp copy"
	AFPacket = "af_packet"
	TAP      = "tap"
	Stack    = "stack" // listeners: the appliance's own TCP over its interfaces
	IOUring  = "io_uring"
	Epoll    = "epoll"
	RDMA     = "rdma"
	Net      = "net"  // listeners served in Go: Go's own sockets, past the poll cores
	None     = "none" // nothing works
)

// Policy says what a fall to a lower rung is.
type Policy uint8

// Policies, on_fallback of [dataplane].
const (
	Warn  Policy = iota // logged as a warning
	Allow               // logged as information
	Fail                // an error
)

// ParsePolicy reads allow, warn or fail.
func ParsePolicy(s string) (Policy, error) {
	switch s {
	case "warn":
		return Warn, nil
	case "allow":
		return Allow, nil
	case "fail":
		return Fail, nil
	}
	return Warn, fmt.Errorf("on_fallback %q: expected allow, warn or fail", s)
}

// Rung is one backend, tried or passed over.
type Rung struct {
	Backend string
	Chosen  bool
	Skipped bool   // it doesn't apply here: leaving it is no fall
	Reason  string // why not
	Cure    string // the command that would help
}

// Step is a rung before it is tried.
type Step struct {
	Backend string
	// Skip says why the rung does not apply, "" it does; SkipCure what would make it.
	Skip, SkipCure string
	// Try takes the backend, or leaves nothing behind.
	Try func(context.Context) error
	// Cure names the command that helps against an error of Try, "" none does. May be nil.
	Cure func(error) string
	// Final says that an error of Try has the same cause further down, or one that no
	// other backend must paper over. May be nil.
	Final func(error) bool
}

// Ladder is what one interface or listener went through.
type Ladder struct {
	Kind   string // "interface" or "listener", for the log
	Name   string
	Policy Policy

	rungs []Rung
	said  map[string]string // backend -> reason last logged
}

// Climb takes the first step that works. The error names what was refused and why.
func (l *Ladder) Climb(ctx context.Context, log *slog.Logger, steps []Step) error {
	l.rungs = nil
	var all error
	var reasons []string
	for i := range steps {
		s := &steps[i]
		if s.Skip != "" {
			l.refuse(ctx, log, Rung{Backend: s.Backend, Skipped: true, Reason: s.Skip, Cure: s.SkipCure})
			continue
		}
		err := s.Try(ctx)
		if err == nil {
			l.rungs = append(l.rungs, Rung{Backend: s.Backend, Chosen: true})
			return nil
		}
		r := Rung{Backend: s.Backend, Reason: err.Error()}
		if s.Cure != nil {
			r.Cure = s.Cure(err)
		}
		l.refuse(ctx, log, r)
		if !slices.Contains(reasons, r.Reason) { // XDP's refusal is that of two rungs
			reasons = append(reasons, r.Reason)
			err = fmt.Errorf("%s refused: %w", s.Backend, err)
			if all == nil {
				all = err
			} else {
				all = fmt.Errorf("%w; %w", all, err)
			}
		}
		if l.Policy == Fail || s.Final != nil && s.Final(err) || ctx.Err() != nil {
			break
		}
	}
	if all == nil {
		all = errors.New("no backend applies")
		if n := len(l.rungs); n > 0 {
			all = fmt.Errorf("%s: %s", l.rungs[n-1].Backend, l.rungs[n-1].Reason)
		}
	}
	return fmt.Errorf("%s %s: %w", l.Kind, l.Name, all)
}

// refuse keeps and logs what was left; the same again is not logged again.
func (l *Ladder) refuse(ctx context.Context, log *slog.Logger, r Rung) {
	l.rungs = append(l.rungs, r)
	if l.said[r.Backend] == r.Reason {
		return
	}
	if l.said == nil {
		l.said = map[string]string{}
	}
	l.said[r.Backend] = r.Reason
	level := slog.LevelWarn
	if r.Skipped || l.Policy == Allow {
		level = slog.LevelInfo
	}
	args := []any{l.Kind, l.Name, "backend", r.Backend, "reason", r.Reason}
	if r.Cure != "" {
		args = append(args, "cure", r.Cure)
	}
	log.Log(ctx, level, "backend refused", args...)
}

// Rungs returns what the last Climb did, in order.
func (l *Ladder) Rungs() []Rung { return slices.Clone(l.rungs) }

// Actual is the backend in use, None without one.
func Actual(rungs []Rung) string {
	for _, r := range rungs {
		if r.Chosen {
			return r.Backend
		}
	}
	return None
}

// Why says why a better backend is not in use, "" when none was refused.
func Why(rungs []Rung) string {
	var out []string
	for _, r := range rungs {
		if !r.Chosen && !r.Skipped {
			out = append(out, r.Backend+": "+r.Reason)
		}
	}
	return strings.Join(out, "; ")
}
