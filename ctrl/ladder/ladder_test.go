package ladder_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/ladder"
)

var errNo = errors.New("no driver")

func step(name string, err error) ladder.Step {
	return ladder.Step{Backend: name, Try: func(context.Context) error { return err }, Cure: func(error) string { return "modprobe " + name }}
}

// TestClimb: which rung is taken under which policy, what the error says, and that
// each refusal is one line with its reason and cure.
func TestClimb(t *testing.T) {
	skip := ladder.Step{Backend: "c", Skip: "no device", SkipCure: "buy one"}
	last := step("a", errNo)
	last.Final = func(err error) bool { return errors.Is(err, errNo) }
	for _, tt := range []struct {
		name   string
		policy ladder.Policy
		steps  []ladder.Step
		want   string // backend, or the error
		why    string
		lines  []string
	}{
		{"first", ladder.Warn, []ladder.Step{step("a", nil), step("b", errNo)}, "a", "", nil},
		{"second", ladder.Warn, []ladder.Step{step("a", errNo), step("b", nil)}, "b", "a: no driver",
			[]string{`level=WARN msg="backend refused" interface=x backend=a reason="no driver" cure="modprobe a"`}},
		{"allowed", ladder.Allow, []ladder.Step{step("a", errNo), step("b", nil)}, "b", "a: no driver", []string{"level=INFO"}},
		{"forbidden", ladder.Fail, []ladder.Step{step("a", errNo), step("b", nil)}, "interface x: a refused: no driver", "a: no driver", []string{"level=WARN"}},
		{"passed over", ladder.Fail, []ladder.Step{skip, step("b", nil)}, "b", "", []string{`level=INFO msg="backend refused" interface=x backend=c reason="no device" cure="buy one"`}},
		{"final", ladder.Warn, []ladder.Step{last, step("b", nil)}, "interface x: a refused: no driver", "a: no driver", []string{"backend=a"}},
		{"all", ladder.Warn, []ladder.Step{step("a", errNo), step("b", errNo), step("d", errors.New("full"))},
			"interface x: a refused: no driver; d refused: full", "a: no driver; b: no driver; d: full", []string{"backend=a", "backend=b", "backend=d"}},
		{"none", ladder.Warn, nil, "interface x: no backend applies", "", nil},
		{"none applies", ladder.Warn, []ladder.Step{skip}, "interface x: c: no device", "", []string{"backend=c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			l := ladder.Ladder{Kind: "interface", Name: "x", Policy: tt.policy}
			for range 2 { // a second climb says nothing new
				err := l.Climb(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), tt.steps)
				got := ladder.Actual(l.Rungs())
				if err != nil {
					if got != ladder.None {
						t.Errorf("%s is chosen beside an error", got)
					}
					got = err.Error()
				}
				if got != tt.want || ladder.Why(l.Rungs()) != tt.why {
					t.Errorf("got %q, %q, want %q, %q", got, ladder.Why(l.Rungs()), tt.want, tt.why)
				}
			}
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			if log.Len() == 0 {
				lines = nil
			}
			if len(lines) != len(tt.lines) {
				t.Fatalf("logged %q, want %d lines", lines, len(tt.lines))
			}
			for i, want := range tt.lines {
				if !strings.Contains(lines[i], want) {
					t.Errorf("logged %s, want %s", lines[i], want)
				}
			}
		})
	}
}

// TestErrorIs: the reasons stay what they are for callers that look at them.
func TestErrorIs(t *testing.T) {
	other := errors.New("other")
	l := ladder.Ladder{Kind: "listener", Name: "x"}
	err := l.Climb(t.Context(), slog.New(slog.DiscardHandler), []ladder.Step{step("a", errNo), step("b", other)})
	if !errors.Is(err, errNo) || !errors.Is(err, other) {
		t.Error(err)
	}
	if _, err := ladder.ParsePolicy("never"); err == nil {
		t.Error("a policy that there is not")
	}
}
