package accesslog

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/logs"
)

// Bounds of Config.Buffer.
const (
	DefaultBuffer = 4 << 20
	MinBuffer     = 64 << 10
)

// DefaultFlushEvery is how long a line waits for others at most.
const DefaultFlushEvery = 100 * time.Millisecond

// classes of status: 1xx to 5xx, and what has none.
const classes = 6

// Config is what a log is made of.
type Config struct {
	File      string        // path, "-" for standard output; "": requests are not logged, but for slow ones
	SlowFile  string        // path; "": slow requests are in File alone
	SlowAfter time.Duration // 0: none is slow

	// Sample is the part of the lines that is written, 0 to 1, by class of status (2 for
	// 2xx); what is absent is written whole. Slow requests are always written.
	Sample map[int]float64

	Query     bool // write the query
	UserAgent bool // write the User-Agent

	Buffer     int           // bytes in memory at most, of each file; 0: DefaultBuffer
	FlushEvery time.Duration // 0: DefaultFlushEvery

	Rand func() uint64 // nil: math/rand/v2's
	Log  *slog.Logger  // told when a file can't be written; nil: nobody is
	Now  func() time.Time
}

// Check tells everything that is wrong with a configuration, and opens nothing.
func (c *Config) Check() error {
	var errs []error
	if c.SlowAfter < 0 {
		errs = append(errs, fmt.Errorf("slow after %v: expected 0 for never, or more", c.SlowAfter))
	}
	if c.SlowFile != "" && c.SlowAfter == 0 {
		errs = append(errs, errors.New("a file of slow requests: expected the time from which they are slow as well"))
	}
	if c.SlowFile != "" && c.SlowFile == c.File {
		errs = append(errs, fmt.Errorf("slow requests go to %s, and so do all: expected another file, or none", c.File))
	}
	for class, part := range c.Sample {
		if class < 1 || class > 5 {
			errs = append(errs, fmt.Errorf("sample of status %dxx: expected 1xx to 5xx", class))
		} else if !(part >= 0 && part <= 1) { // NaN is neither
			errs = append(errs, fmt.Errorf("sample of status %dxx is %v: expected a part between 0 and 1", class, part))
		}
	}
	if c.Buffer != 0 && c.Buffer < MinBuffer {
		errs = append(errs, fmt.Errorf("buffer of %d bytes: expected %d or more", c.Buffer, MinBuffer))
	}
	if c.FlushEvery < 0 {
		errs = append(errs, fmt.Errorf("flush every %v: expected more than 0", c.FlushEvery))
	}
	return errors.Join(errs...)
}

// Entry is what a line says beyond the exchange: the request as it came.
type Entry struct {
	Method    string
	Host      string
	Path      string
	Query     string // without "?"
	UserAgent string
	GRPC      string // the code of an answer of gRPC, digits; else it is not written
	Duration  time.Duration
	Stream    bool // it lasts by its nature (an upgrade, a stream of events): slow is who answers late, not who goes on
}

// Log is an access log.
type Log struct {
	cfg    Config
	all    *stream // nil: none
	slow   *stream // nil: none
	limit  [classes]uint64
	sample [classes]float64
}

// New opens the files and starts writing.
func New(cfg Config) (*Log, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = DefaultBuffer
	}
	if cfg.FlushEvery == 0 {
		cfg.FlushEvery = DefaultFlushEvery
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{cfg: cfg}
	for i := range l.sample {
		l.sample[i], l.limit[i] = 1, math.MaxUint64
		if part, ok := cfg.Sample[i]; ok {
			l.sample[i] = part
			if part < 1 {
				l.limit[i] = uint64(part * (1 << 63) * 2)
			}
		}
	}
	var err error
	limiter := logs.NewLimiter(cfg.Log, 1, cfg.Now)
	open := func(path string) *stream {
		if path == "" || err != nil {
			return nil
		}
		f, oerr := logs.Open(path)
		if oerr != nil {
			err = fmt.Errorf("access log: %w", oerr)
			return nil
		}
		return newStream(f, cfg.Buffer, cfg.FlushEvery, limiter)
	}
	l.all = open(cfg.File)
	l.slow = open(cfg.SlowFile)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Write logs one exchange, which must be over. A nil Log writes nothing.
func (l *Log) Write(x *exchange.Exchange, e *Entry) {
	if l == nil {
		return
	}
	slow := l.isSlow(x, e)
	class := x.Status / 100
	if class < 1 || class >= classes {
		class = 0
	}
	r := l.cfg.Rand()
	if l.all != nil {
		sample := l.sample[class]
		if slow {
			sample = 1
		}
		// The lower bits choose a buffer, the whole decides, so that neither leans on the other's luck.
		if sample == 1 || r < l.limit[class] {
			l.all.write(l, r, x, e, slow, sample)
		} else {
			l.all.skip(r)
		}
	}
	if slow && l.slow != nil {
		l.slow.write(l, r, x, e, true, 1)
	}
}

func (l *Log) isSlow(x *exchange.Exchange, e *Entry) bool {
	if l.cfg.SlowAfter == 0 {
		return false
	}
	if e.Stream && x.FirstByte > 0 {
		return x.FirstByte >= l.cfg.SlowAfter
	}
	return e.Duration >= l.cfg.SlowAfter
}

// Reopen opens the files again, after they were moved away; lines of before are in the
// old ones. With an error those that
// could not be opened stay as they are.
func (l *Log) Reopen() error {
	if l == nil {
		return nil
	}
	return l.each((*stream).reopen)
}

// Close writes what is left, ends the goroutines and closes the files. Lines that come
// later are dropped and counted.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	return l.each((*stream).close)
}

func (l *Log) each(f func(*stream) error) error {
	var errs []error
	for _, s := range [...]*stream{l.all, l.slow} {
		if s != nil {
			errs = append(errs, f(s))
		}
	}
	return errors.Join(errs...)
}

// FileStats is what one file of a log counted.
type FileStats struct {
	Lines       uint64 // written, or about to be
	Bytes       uint64 // written
	Sampled     uint64 // left out by Config.Sample
	Full        uint64 // dropped: the buffers were full, or the log is closed
	Failed      uint64 // dropped: the file could not be written
	WriteErrors uint64
}

// Stats is what a log counted.
type Stats struct{ All, Slow FileStats }

// Stats returns what was counted.
func (l *Log) Stats() Stats {
	var s Stats
	if l == nil {
		return s
	}
	if l.all != nil {
		s.All = l.all.stats()
	}
	if l.slow != nil {
		s.Slow = l.slow.stats()
	}
	return s
}
