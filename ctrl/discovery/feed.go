package discovery

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Status is what a source knows of itself.
type Status struct {
	Endpoints int       // of the list applied last
	Good      time.Time // when all of that list was last confirmed; zero: never
	Err       error     // what is wrong now; nil: nothing
}

// feed is between a source and its upstream: it applies lists that differ from the one
// before, keeps that one on errors, and tells each error once until it changes.
type feed struct {
	clock  upstream.Clock
	apply  func([]upstream.Spec) error
	report func(error)
	empty  int // answers without endpoints in a row that empty the list; 0: none does

	told    string
	empties int
	list    []upstream.Spec
	applied bool

	mu     sync.Mutex
	status Status
}

// Status returns what the source knows of itself; safe for concurrent use.
func (f *feed) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *feed) begin(c upstream.Clock, empty int, apply func([]upstream.Spec) error, report func(error)) {
	f.clock, f.empty, f.apply, f.report = c, empty, apply, report
}

// put applies a list that the other side gave. An error beside it says that a part of it
// was wrong, or why it is empty; stale: that it is about a part that could not be had,
// where specs holds what was known before.
func (f *feed) put(specs []upstream.Spec, stale bool, wrong error) {
	specs, many := tidy(specs)
	if wrong == nil {
		wrong = many
	}
	if len(specs) == 0 {
		if wrong == nil {
			wrong = errNone
		}
		if len(f.list) > 0 && f.keeps(wrong) {
			return
		}
	}
	f.empties = 0
	if !f.applied || !slices.Equal(specs, f.list) {
		if err := f.apply(specs); err != nil {
			f.fail(err)
			return
		}
		f.list, f.applied = specs, true
	}
	kept := ""
	f.mu.Lock()
	if stale {
		kept = f.age("what was known of it %v ago stays")
	} else {
		f.status.Good = f.clock.Now()
	}
	f.status.Endpoints, f.status.Err = len(specs), wrong
	f.mu.Unlock()
	f.tell(wrong, kept)
}

var errNone = errors.New("no endpoints")

// keeps says whether the list survives one more answer without endpoints.
func (f *feed) keeps(why error) bool {
	f.empties++
	switch {
	case f.empty == 0:
		f.fail(why)
	case f.empties < f.empty:
		f.fail(fmt.Errorf("%w, answer %d of the %d in a row that empty the list", why, f.empties, f.empty))
	default:
		return false
	}
	return true
}

// age is under mu.
func (f *feed) age(format string) string {
	if f.status.Good.IsZero() {
		return ""
	}
	return fmt.Sprintf(format, f.clock.Now().Sub(f.status.Good).Round(time.Millisecond))
}

// fail keeps the list as it is and tells why, with its age.
func (f *feed) fail(err error) {
	f.mu.Lock()
	f.status.Err = err
	kept := f.age(fmt.Sprintf("the list of %d from %%v ago stays", f.status.Endpoints))
	f.mu.Unlock()
	f.tell(err, kept)
}

// ephemeral finds our own end of a connection in an error's text, which differs each time.
var ephemeral = regexp.MustCompile(`[0-9.:\[\]a-f%]+->`)

func (f *feed) tell(err error, kept string) {
	if err == nil {
		f.told = ""
		return
	}
	key := ephemeral.ReplaceAllString(err.Error(), "")
	if key == f.told {
		return
	}
	f.told = key
	if kept != "" {
		err = fmt.Errorf("%w; %s", err, kept)
	}
	f.report(err)
}

// tidy sorts a list, so that the same endpoints are the same list, and takes each address
// once. Of too many the first stay.
func tidy(specs []upstream.Spec) ([]upstream.Spec, error) {
	specs = slices.Clone(specs)
	slices.SortStableFunc(specs, func(a, b upstream.Spec) int { return strings.Compare(a.Address, b.Address) })
	specs = slices.CompactFunc(specs, func(a, b upstream.Spec) bool { return a.Address == b.Address })
	if n := len(specs); n > upstream.MaxEndpoints {
		return specs[:upstream.MaxEndpoints:upstream.MaxEndpoints], fmt.Errorf("%d endpoints: expected at most %d, the first of them by address are used", n, upstream.MaxEndpoints)
	}
	return specs, nil
}

// backoff is the time before a source tries again: doubled with each failure, of which
// the upper half is random so that many gateways do not come back together.
type backoff struct {
	min, max time.Duration
	failures int
}

func (b *backoff) next(r uint64) time.Duration {
	d := b.min
	for i := 0; i < b.failures && d < b.max; i++ {
		d *= 2
	}
	d = min(d, b.max)
	b.failures++
	return d - time.Duration(r%uint64(d/2+1))
}

// settled is how long a session with a server must last to count as a success: one that
// breaks off each time right after its beginning must not be begun without end.
const settled = 5 * time.Second

func (b *backoff) ok() { b.failures = 0 }

// sleep waits for d, and says whether ctx is still there.
func sleep(ctx context.Context, c upstream.Clock, d time.Duration) bool {
	t, stop := c.Timer(d)
	defer stop()
	select {
	case <-t:
		return true
	case <-ctx.Done():
		return false
	}
}
