package limit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Class is how much a request matters.
type Class uint8

// Classes, from what is shed first to what is shed last.
const (
	Low Class = iota
	Normal
	High
	Critical
	numClasses
)

// String returns the class as it is written.
func (c Class) String() string {
	return [...]string{"low", "normal", "high", "critical"}[min(c, Critical)]
}

// ParseClass reads a class, whatever its letters' case.
func ParseClass(s string) (Class, error) {
	for c := range numClasses {
		if strings.EqualFold(s, c.String()) {
			return c, nil
		}
	}
	return Normal, fmt.Errorf("priority %q, expected low, normal, high or critical", s)
}

// part is the share of the limit that a class may fill, percent.
func (c Class) part() int64 { return [...]int64{50, 75, 90, 100}[min(c, Critical)] }

// ShedderConfig says when answers are slow.
type ShedderConfig struct {
	Name       string
	Target     time.Duration // latency that is wanted; 0: Tolerance times the lowest seen
	Tolerance  float64       // 0: 2
	Percentile int           // of a window's latencies that counts; 0: 50
	Min, Max   int           // of the limit; 0: 8 and 65536
	Initial    int           // 0: 64
	Window     time.Duration // 0: a second
	Samples    int           // that a window has at least; 0: 20
	Now        func() time.Time
}

func (c *ShedderConfig) defaults() {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Percentile, 50)
	set(&c.Min, 8)
	set(&c.Max, 65536)
	set(&c.Initial, min(max(64, c.Min), c.Max))
	set(&c.Samples, 20)
	if c.Tolerance == 0 {
		c.Tolerance = 2
	}
	if c.Window == 0 {
		c.Window = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

func (c *ShedderConfig) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" || !isToken(c.Name) {
		bad("name %q, expected letters, digits, \"-\", \"_\" and \".\"", c.Name)
	}
	if c.Target < 0 || c.Window < time.Millisecond {
		bad("target %s and window %s, expected positive ones, the window of a millisecond at least", c.Target, c.Window)
	}
	if c.Tolerance < 1.1 || c.Tolerance > 100 {
		bad("tolerance %g, expected 1.1 to 100", c.Tolerance)
	}
	if c.Percentile < 1 || c.Percentile > 99 {
		bad("percentile %d, expected 1 to 99", c.Percentile)
	}
	if c.Min < 1 || c.Max < c.Min || c.Max > 1<<24 || c.Initial < c.Min || c.Initial > c.Max {
		bad("limit of %d to %d beginning with %d, expected 1 or more, in this order, at most %d", c.Min, c.Max, c.Initial, 1<<24)
	}
	if c.Samples < 1 {
		bad("%d samples, expected 1 at least", c.Samples)
	}
	return errors.Join(errs...)
}

// history is how many windows the lowest latency is looked for in.
const history = 600

// buckets of latencies: eight to a doubling, from 1 µs on.
const buckets = 8 * 36

// Shedder is a limit on requests at a time that finds itself. See the package's text.
type Shedder struct {
	cfg      ShedderConfig
	start    time.Time
	inFlight atomic.Int64
	peak     atomic.Int64 // of inFlight in this window
	limit    atomic.Int64
	ends     atomic.Int64 // this window's, ns since start
	count    atomic.Int64 // latencies in it
	usual    atomic.Int64 // latency of the last window, ns; 0: there was none
	seen     [buckets]atomic.Uint32
	admitted [numClasses]atomic.Uint64
	shed     [numClasses]atomic.Uint64

	mu       sync.Mutex // of what follows: a window's end
	lows     [history]time.Duration
	windows  int
	latency  time.Duration // the last window's
	baseline time.Duration
}

// ShedderStats are what a shedder found out, and its counters since it began.
type ShedderStats struct {
	Name     string             `json:"name"`
	Limit    int64              `json:"limit"`
	Waiting  int64              `json:"waiting"`     // for the head of their answer
	Latency  time.Duration      `json:"latency_ns"`  // of the last window, at the percentile
	Baseline time.Duration      `json:"baseline_ns"` // the lowest of the windows remembered
	Admitted [numClasses]uint64 `json:"admitted"`    // by class, low first
	Shed     [numClasses]uint64 `json:"shed"`
}

// NewShedder makes a shedder.
func NewShedder(cfg ShedderConfig) (*Shedder, error) {
	cfg.defaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("load shedding %s: %w", cfg.Name, err)
	}
	s := &Shedder{cfg: cfg, start: cfg.Now()}
	s.limit.Store(int64(cfg.Initial))
	s.ends.Store(int64(cfg.Window))
	return s, nil
}

// Name returns the shedder's name.
func (s *Shedder) Name() string { return s.cfg.Name }

// Enter asks for room for a request of a class. When it says true the caller calls Leave.
func (s *Shedder) Enter(c Class) bool {
	n := s.inFlight.Add(1)
	// one request at a time is always let in: nothing else would find out that all is well again
	if room := max(s.limit.Load()*c.part()/100, 1); n > room {
		s.inFlight.Add(-1)
		s.shed[c].Add(1)
		return false
	}
	s.admitted[c].Add(1)
	for old := s.peak.Load(); n > old && !s.peak.CompareAndSwap(old, n); old = s.peak.Load() { // ends: peak only grows
	}
	return true
}

// Leave ends what Enter began: the head of the answer came after latency, at now. 0: no
// answer came that says anything, as when the client broke off.
func (s *Shedder) Leave(latency time.Duration, now time.Time) {
	s.inFlight.Add(-1)
	if latency > 0 {
		s.seen[bucketOf(latency)].Add(1)
		s.count.Add(1)
	}
	at := int64(now.Sub(s.start))
	if at < s.ends.Load() || s.count.Load() < int64(s.cfg.Samples) || !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if at >= s.ends.Load() {
		s.turn(at)
	}
}

// turn ends a window. Latencies that come while it works count for one window or the next.
func (s *Shedder) turn(at int64) {
	var counts [buckets]uint32
	total := uint64(0)
	for i := range counts {
		counts[i] = s.seen[i].Swap(0)
		total += uint64(counts[i])
	}
	s.count.Add(-int64(total))
	peak := s.peak.Swap(s.inFlight.Load())
	s.ends.Store(at + int64(s.cfg.Window))
	if total == 0 {
		return
	}
	rank, sum := (total*uint64(s.cfg.Percentile)+99)/100, uint64(0)
	for i := range counts {
		if sum += uint64(counts[i]); sum >= rank {
			s.latency = bucketEnd(i)
			break
		}
	}
	s.usual.Store(int64(s.latency))
	s.lows[s.windows%history] = s.latency
	s.windows++
	s.baseline = s.latency
	for _, l := range s.lows[:min(s.windows, history)] {
		s.baseline = min(s.baseline, l)
	}
	target := s.cfg.Target
	if target == 0 {
		target = time.Duration(float64(s.baseline) * s.cfg.Tolerance)
	}
	limit := s.limit.Load()
	switch {
	case s.latency > target:
		limit = int64(float64(limit) * max(float64(target)/float64(s.latency), 0.5))
	case peak*2 >= limit:
		limit += int64(math.Sqrt(float64(limit)))
	}
	s.limit.Store(min(max(limit, int64(s.cfg.Min)), int64(s.cfg.Max)))
}

// bucketOf picks a bucket: the power of two of the microseconds, and three bits below it.
func bucketOf(d time.Duration) int {
	us := max(uint64(d/time.Microsecond), 1)
	exp := bits.Len64(us) - 1
	frac := (us << 3 >> exp) & 7
	return min(exp*8+int(frac), buckets-1)
}

// bucketEnd is the longest latency of a bucket.
func bucketEnd(i int) time.Duration {
	exp, frac := i/8, i%8
	return time.Duration(float64(uint64(1)<<exp) * (1 + float64(frac+1)/8) * float64(time.Microsecond))
}

// Stats returns what it found out, and the counters.
func (s *Shedder) Stats() ShedderStats {
	out := ShedderStats{Name: s.cfg.Name, Limit: s.limit.Load(), Waiting: s.inFlight.Load()}
	for c := range numClasses {
		out.Admitted[c], out.Shed[c] = s.admitted[c].Load(), s.shed[c].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Latency, out.Baseline = s.latency, s.baseline
	return out
}

// Priority says how much a route's requests matter.
type Priority struct {
	Class  Class
	Header string         // field of the request whose word (low, normal, high, critical) counts instead; "": none
	From   []netip.Prefix // clients whose field counts; none: all, so that each can claim to be critical
}

func (p *Priority) of(r *http.Request) Class {
	v := r.Header[p.Header]
	if p.Header == "" || len(v) == 0 {
		return p.Class
	}
	if len(p.From) > 0 {
		a := exchange.From(r.Context()).Client.Addr().Unmap()
		if !slices.ContainsFunc(p.From, func(f netip.Prefix) bool { return f.Contains(a) }) {
			return p.Class
		}
	}
	if c, err := ParseClass(v[0]); err == nil {
		return c
	}
	return p.Class
}

// Stage is a stage that sheds requests by their priority.
func (s *Shedder) Stage(p Priority) func(http.Handler) http.Handler {
	p.Header = http.CanonicalHeaderKey(p.Header)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := p.of(r)
			if !s.Enter(c) {
				exchange.From(r.Context()).Note(fmt.Errorf("load shedding %s: %d requests wait, the limit is %d", s.cfg.Name, s.inFlight.Load(), s.limit.Load()))
				w.Header().Set("Retry-After", "1")
				exchange.Refuse(w, r, exchange.Overloaded, "load shedding "+s.cfg.Name)
				return
			}
			hw := &headWriter{ResponseWriter: w, shedder: s, x: exchange.From(r.Context()), began: s.cfg.Now()}
			defer hw.end(r)
			next.ServeHTTP(hw, r)
		})
	}
}

// headWriter leaves the shedder when the head of the answer is written.
type headWriter struct {
	http.ResponseWriter
	shedder *Shedder
	x       *exchange.Exchange
	began   time.Time
	left    bool
}

// Unwrap is for http.ResponseController.
func (w *headWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// leave takes the time to an answer of a status.
func (w *headWriter) leave(status int) {
	if w.left {
		return
	}
	w.left = true
	now := w.shedder.cfg.Now()
	latency := max(now.Sub(w.began), 1)
	if !w.telling(status, latency) {
		latency = 0
	}
	w.shedder.Leave(latency, now)
}

// telling says whether the time that an answer took says something of the load. What the
// gateway refuses, and what fails, is quick whatever the load is: it would pass for the
// lowest latency, beside which every good answer is slow, and whoever likes can send for
// refusals. A failure that took longer than what is usual counts all the same.
func (w *headWriter) telling(status int, latency time.Duration) bool {
	switch why := w.x.Reason; {
	case why == exchange.None && status < http.StatusInternalServerError, why == exchange.UpstreamTimeout, why == exchange.DeadlineExceeded:
		return true
	case why != exchange.None && w.x.Tries == 0:
		return false
	}
	usual := w.shedder.usual.Load()
	return usual > 0 && int64(latency) > usual
}

// end leaves without a latency when nobody waited for the answer any more.
func (w *headWriter) end(r *http.Request) {
	if !w.left && r.Context().Err() != nil {
		w.left = true
		w.shedder.Leave(0, w.shedder.cfg.Now())
	}
	w.leave(http.StatusOK)
}

// WriteHeader implements http.ResponseWriter.
func (w *headWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.leave(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *headWriter) Write(b []byte) (int, error) {
	w.leave(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom: the writer below may send a file without copying it.
func (w *headWriter) ReadFrom(r io.Reader) (int64, error) {
	w.leave(http.StatusOK)
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
}

// Flush implements http.Flusher, which libraries ask for instead of a controller.
func (w *headWriter) Flush() { _ = w.FlushError() }

// FlushError flushes.
func (w *headWriter) FlushError() error {
	w.leave(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker.
func (w *headWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.leave(http.StatusOK)
	}
	return c, rw, err
}
