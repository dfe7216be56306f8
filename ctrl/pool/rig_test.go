package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// conn is what the tests pool; it knows when it is misused.
type conn struct {
	id     int
	users  atomic.Int32
	closed atomic.Int32
	bad    atomic.Bool // validation fails
	why    Reason
}

// backend opens conns and checks the rules that hold for every test.
type backend struct {
	t    testing.TB
	took time.Duration // an opening takes
	slow time.Duration // a validation takes

	mu     sync.Mutex
	down   error // openings fail with it
	conns  []*conn
	live   int // open or being opened
	most   int // highest live ever
	dials  int // openings at the moment
	busy   int // highest dials ever
	tries  []time.Time
	checks int
}

func (b *backend) open(ctx context.Context) (*conn, error) {
	b.mu.Lock()
	b.live++
	b.dials++
	b.most, b.busy = max(b.most, b.live), max(b.busy, b.dials)
	b.tries = append(b.tries, time.Now())
	b.mu.Unlock()
	var err error
	if b.took > 0 {
		select {
		case <-time.After(b.took):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials--
	if err == nil {
		err = b.down
	}
	if err != nil {
		b.live--
		return nil, err
	}
	c := &conn{id: len(b.conns)}
	b.conns = append(b.conns, c)
	return c, nil
}

func (b *backend) validate(ctx context.Context, c *conn) error {
	b.mu.Lock()
	b.checks++
	b.mu.Unlock()
	if c.closed.Load() != 0 {
		b.t.Errorf("conn %d validated after its end", c.id)
	}
	if b.slow > 0 {
		select {
		case <-time.After(b.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if c.bad.Load() {
		return errors.New("bad")
	}
	return nil
}

func (b *backend) close(c *conn, why Reason) {
	if c.closed.Add(1) != 1 {
		b.t.Errorf("conn %d closed twice, now for %v", c.id, why)
	}
	if c.users.Load() != 0 && why != ReasonForced {
		b.t.Errorf("conn %d closed for %v while borrowed", c.id, why)
	}
	b.mu.Lock()
	c.why = why
	b.live--
	b.mu.Unlock()
}

func (b *backend) set(down error) {
	b.mu.Lock()
	b.down = down
	b.mu.Unlock()
}

func (b *backend) counts() (opened, live, tries, checks int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns), b.live, len(b.tries), b.checks
}

// peak is the highest number open, and in the course of opening, at once.
func (b *backend) peak() (open, opening int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most, b.busy
}

func (b *backend) pool(cfg Config, edit ...func(*Options[*conn])) *Pool[*conn] {
	b.t.Helper()
	o := Options[*conn]{Name: "test", Open: b.open, Validate: b.validate, Close: b.close}
	for _, e := range edit {
		e(&o)
	}
	p, err := New(o, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// quiet is a configuration in which nothing happens by itself.
func quiet(limit int) Config {
	c := DefaultConfig()
	c.Max, c.WarmUp, c.IdleTimeout, c.MaxLifetime, c.LifetimeJitter = limit, false, 0, 0, 0
	c.ValidateAfter, c.MaxConnecting = day, limit
	return c
}

func use(t testing.TB, l Lease[*conn]) *conn {
	c := l.Value()
	if c.users.Add(1) != 1 {
		t.Errorf("conn %d has two borrowers", c.id)
	}
	if c.closed.Load() != 0 {
		t.Errorf("conn %d lent after its end, %v", c.id, c.why)
	}
	return c
}

func acquire(t testing.TB, p *Pool[*conn]) Lease[*conn] {
	t.Helper()
	l, err := p.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	use(t, l)
	return l
}

func giveBack(t testing.TB, l Lease[*conn]) {
	t.Helper()
	l.Value().users.Add(-1)
	if err := l.Return(); err != nil {
		t.Error(err)
	}
}

func discard(t testing.TB, l Lease[*conn]) {
	t.Helper()
	l.Value().users.Add(-1)
	if err := l.Discard(); err != nil {
		t.Error(err)
	}
}

func hold(t testing.TB, p *Pool[*conn], n int) []Lease[*conn] {
	t.Helper()
	list := make([]Lease[*conn], n)
	for i := range list {
		list[i] = acquire(t, p)
	}
	return list
}

func giveAll(t testing.TB, list []Lease[*conn]) {
	t.Helper()
	for _, l := range list {
		giveBack(t, l)
	}
}

// finish closes p and checks the ledger: everything opened is closed, once.
func finish(t testing.TB, b *backend, p *Pool[*conn]) {
	t.Helper()
	if err := p.Close(context.Background()); err != nil {
		t.Error(err)
	}
	ledger(t, b, p)
}

func ledger(t testing.TB, b *backend, p *Pool[*conn]) {
	t.Helper()
	s := p.Stats()
	opened, live, _, _ := b.counts()
	if live != 0 {
		t.Errorf("%d items open after Close", live)
	}
	for _, c := range b.conns {
		if n := c.closed.Load(); n != 1 {
			t.Errorf("conn %d closed %d times", c.id, n)
		}
	}
	if s.Opened() != uint64(opened) || s.ClosedTotal() != uint64(opened) || s.Open != 0 || s.Idle != 0 || s.Borrowed != 0 || s.Waiting != 0 || s.Opening != 0 || s.Closing != 0 {
		t.Errorf("after Close, %d opened: %+v", opened, s)
	}
	if s.Acquired != s.Hold.Total()+s.Closed[ReasonForced] {
		t.Errorf("%d leases, %d ended, %d forced", s.Acquired, s.Hold.Total(), s.Closed[ReasonForced])
	}
}

// bubble runs f in virtual time; synctest fails it if a goroutine is left.
func bubble(t *testing.T, f func(t *testing.T, b *backend)) {
	synctest.Test(t, func(t *testing.T) { f(t, &backend{t: t}) })
}
