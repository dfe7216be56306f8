package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
	"github.com/np-appliance/np/ctrl/wholefile"
)

// Kept is a source whose list is kept in a file, so that after a start there is one though
// the source does not answer yet. The file is written when the list changes, at most once a
// second, and once an hour as long as it is confirmed.
type Kept struct {
	upstream.Source
	cfg Keeping

	mu    sync.Mutex
	list  []upstream.Spec
	dirty bool
	saved time.Time // what the file says
	live  bool      // the source has answered
	kick  chan struct{}
}

// Keeping says how.
type Keeping struct {
	Path   string
	Name   string        // of the source: another's list is not taken for its
	MaxAge time.Duration // an older list is not used
	Clock  upstream.Clock
}

// Pace and size of files.
const (
	keepPause = time.Second
	keepFresh = time.Hour
	keepBytes = 8 << 20 // upstream.MaxEndpoints of 400 bytes, as JSON
)

// keptFile is what is in the file.
type keptFile struct {
	Schema    string    `json:"schema"`
	Source    string    `json:"source"`
	GoodAt    time.Time `json:"good_at"` // when the list was last confirmed
	Endpoints []keptOne `json:"endpoints"`
}

type keptOne struct {
	Address  string `json:"address"`
	Weight   int    `json:"weight,omitempty"`
	Priority int    `json:"priority,omitempty"`
	Locality string `json:"locality,omitempty"`
	Drain    bool   `json:"drain,omitempty"`
	Disabled bool   `json:"disabled,omitempty"`
}

const keptSchema = "np/v1"

// Keep puts a file behind a source.
func Keep(s upstream.Source, cfg Keeping) *Kept {
	if cfg.Clock == nil {
		cfg.Clock = upstream.SystemClock{}
	}
	return &Kept{Source: s, cfg: cfg, kick: make(chan struct{}, 1)}
}

// Last reads the list of the last time, and when it was good. No file, and one that is too
// old or another source's, is no error and no list.
func (k *Kept) Last() ([]upstream.Spec, time.Time, error) {
	f, err := os.OpenFile(k.cfg.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, keepBytes+1))
	if err != nil {
		return nil, time.Time{}, err
	}
	specs, at, err := parseKept(b, k.cfg.Name)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", k.cfg.Path, err)
	}
	if age := k.cfg.Clock.Now().Sub(at); len(specs) == 0 || age > k.cfg.MaxAge || age < -time.Minute {
		return nil, time.Time{}, nil
	}
	return specs, at, nil
}

// parseKept reads a file's text; a list of another source is none.
func parseKept(b []byte, source string) ([]upstream.Spec, time.Time, error) {
	if len(b) > keepBytes {
		return nil, time.Time{}, fmt.Errorf("more than %d bytes", keepBytes)
	}
	var file keptFile
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, time.Time{}, fmt.Errorf("expected a list of endpoints as npd writes it: %w", err)
	}
	if file.Schema != keptSchema || file.Source != source {
		return nil, time.Time{}, nil
	}
	specs := make([]upstream.Spec, 0, min(len(file.Endpoints), upstream.MaxEndpoints))
	for i, e := range file.Endpoints {
		s := upstream.Spec(e)
		if err := upstream.CheckSpec(s); err != nil {
			return nil, time.Time{}, fmt.Errorf("endpoint %d: %w", i+1, err)
		}
		specs = append(specs, s)
	}
	specs, err := tidy(specs)
	return specs, file.GoodAt, err
}

// Live says whether the source has answered since Run began.
func (k *Kept) Live() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live
}

// Status is the source's.
func (k *Kept) Status() Status {
	if s, ok := k.Source.(interface{ Status() Status }); ok {
		return s.Status()
	}
	return Status{}
}

// Run implements [upstream.Source]. That the file can't be written is reported, once until
// it can be again.
func (k *Kept) Run(ctx context.Context, apply func([]upstream.Spec) error, report func(error)) error {
	told := ""
	save := func() {
		err := k.save()
		if text := fmt.Sprint(err); err != nil && text != told {
			report(fmt.Errorf("the list is not kept for the next start: %w", err))
			told = text
		} else if err == nil {
			told = ""
		}
	}
	var wg sync.WaitGroup
	stop, done := context.WithCancel(ctx)
	wg.Go(func() { k.write(stop, save) })
	err := k.Source.Run(ctx, func(specs []upstream.Spec) error {
		err := apply(specs)
		if err == nil {
			k.mu.Lock()
			k.list, k.dirty, k.live = specs, true, true
			k.mu.Unlock()
			select {
			case k.kick <- struct{}{}:
			default:
			}
		}
		return err
	}, report)
	done()
	wg.Wait()
	save() // what is left
	return err
}

// write writes the file until ctx ends.
func (k *Kept) write(ctx context.Context, save func()) {
	for ctx.Err() == nil {
		hour, stop := k.cfg.Clock.Timer(keepFresh)
		select {
		case <-k.kick:
		case <-hour:
		case <-ctx.Done():
		}
		stop()
		if ctx.Err() == nil {
			save()
			sleep(ctx, k.cfg.Clock, keepPause)
		}
	}
}

// save writes the file if the list changed, or was confirmed long after it was written.
func (k *Kept) save() error {
	good := k.Status().Good
	k.mu.Lock()
	if !k.live || !k.dirty && good.Sub(k.saved) < keepFresh/2 {
		k.mu.Unlock()
		return nil
	}
	if good.IsZero() || k.dirty && k.cfg.Clock.Now().Sub(good) < keepPause {
		good = k.cfg.Clock.Now()
	}
	file := keptFile{Schema: keptSchema, Source: k.cfg.Name, GoodAt: good.UTC(), Endpoints: []keptOne{}}
	for _, s := range k.list {
		file.Endpoints = append(file.Endpoints, keptOne(s))
	}
	was := k.dirty
	k.dirty = false
	k.mu.Unlock()
	b, err := json.MarshalIndent(&file, "", "  ")
	if err == nil {
		if err = os.MkdirAll(filepath.Dir(k.cfg.Path), 0o700); err == nil {
			err = wholefile.Replace(k.cfg.Path, append(b, '\n'), 0o600)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.dirty = k.dirty || was
		return err
	}
	k.saved = good
	return nil
}
