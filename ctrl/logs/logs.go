package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Options of New.
type Options struct {
	App     string
	Level   slog.Level
	Console io.Writer // nil: none
	File    string    // path to append to; "": none
	JSON    bool
}

// Log is a logger that can be told things while it runs.
type Log struct {
	*slog.Logger
	level slog.LevelVar
	out   *output
}

// New opens the log file, if any, and makes the logger.
func New(o Options) (*Log, error) {
	l := &Log{out: &output{console: o.Console}}
	if o.File != "" {
		f, err := Open(o.File)
		if err != nil {
			return nil, err
		}
		l.out.file = f
	}
	l.level.Set(o.Level)
	opts := &slog.HandlerOptions{Level: &l.level, ReplaceAttr: rename}
	var h slog.Handler = slog.NewTextHandler(l.out, opts)
	if o.JSON {
		h = slog.NewJSONHandler(l.out, opts)
	}
	l.Logger = slog.New(h)
	if o.App != "" && o.JSON {
		l.Logger = l.Logger.With("app", o.App)
	}
	return l, nil
}

// rename gives the time its name in our logs, in UTC.
func rename(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String("ts", a.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	return a
}

// SetLevel changes what is written from now on.
func (l *Log) SetLevel(level slog.Level) { l.level.Set(level) }

// Level returns what is written now.
func (l *Log) Level() slog.Level { return l.level.Level() }

// Reopen opens the file again, after it was moved away.
func (l *Log) Reopen() error {
	if l.out.file == nil {
		return nil
	}
	return l.out.file.Reopen()
}

// Close closes the file.
func (l *Log) Close() error {
	if l.out.file == nil {
		return nil
	}
	return l.out.file.Close()
}

// ParseLevel reads a level's name in configuration.
func ParseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("log level %q: expected debug, info, warn or error", s)
	}
	return l, nil
}

// output writes each line to the console and the file.
type output struct {
	mu      sync.Mutex
	console io.Writer
	file    *File // nil: none
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	if o.console != nil {
		_, err := o.console.Write(b)
		errs = append(errs, err)
	}
	if o.file != nil {
		_, err := o.file.Write(b)
		errs = append(errs, err)
	}
	return len(b), errors.Join(errs...)
}

// Limiter lets through so many lines a second for each reason, and counts what
// it holds back; the next line that passes says how many.
type Limiter struct {
	log       *slog.Logger
	perSecond atomic.Int64
	now       func() time.Time

	mu      sync.Mutex
	reasons map[string]*window
	total   atomic.Uint64
}

type window struct {
	start time.Time
	used  int64
	held  uint64
}

// maxReasons bounds the table; reasons are words of ours, so it never fills.
const maxReasons = 1024

// NewLimiter makes a limiter in front of log.
func NewLimiter(log *slog.Logger, perSecond int, now func() time.Time) *Limiter {
	l := &Limiter{log: log, now: now, reasons: map[string]*window{}}
	l.perSecond.Store(int64(perSecond))
	return l
}

// SetRate changes the lines per second.
func (l *Limiter) SetRate(perSecond int) { l.perSecond.Store(int64(perSecond)) }

// Held counts the lines held back so far.
func (l *Limiter) Held() uint64 { return l.total.Load() }

// Log writes a line about something a peer did. reason is a word of ours, never
// the peer's. Args are not evaluated further when the line is held back.
func (l *Limiter) Log(level slog.Level, reason, msg string, args ...any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	held, ok := l.pass(reason)
	if !ok {
		l.total.Add(1)
		return
	}
	args = append(args, "reason", reason)
	if held > 0 {
		args = append(args, "held_back", held)
	}
	l.log.Log(context.Background(), level, msg, args...)
}

func (l *Limiter) pass(reason string) (held uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.reasons[reason]
	if w == nil {
		if len(l.reasons) >= maxReasons {
			return 0, false
		}
		w = &window{}
		l.reasons[reason] = w
	}
	if now := l.now(); now.Sub(w.start) >= time.Second {
		w.start, w.used = now, 0
	}
	if w.used >= l.perSecond.Load() {
		w.held++
		return 0, false
	}
	w.used++
	held, w.held = w.held, 0
	return held, true
}
