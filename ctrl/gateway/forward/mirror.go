package forward

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
)

// mirror sends copies of requests.
type mirror struct {
	o     *Mirror
	slots chan struct{}
	wg    sync.WaitGroup
	ctx   context.Context
	stop  context.CancelFunc

	sent, failed, full, skipped atomic.Uint64
}

// MirrorStats counts copies.
type MirrorStats struct {
	Sent    uint64 // to their end
	Failed  uint64
	Full    uint64 // left out: Concurrency were on their way
	Skipped uint64 // left out: their body is longer than MaxBody, or of unknown length
}

// MirrorStats returns the counts; all 0 without a mirror.
func (h *Handler) MirrorStats() MirrorStats {
	m := h.mirror
	if m == nil {
		return MirrorStats{}
	}
	return MirrorStats{m.sent.Load(), m.failed.Load(), m.full.Load(), m.skipped.Load()}
}

func newMirror(o *Mirror) *mirror {
	m := &mirror{o: o, slots: make(chan struct{}, o.Concurrency)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// send copies a request that is about to be forwarded, and sends the copy on a goroutine.
func (m *mirror) send(f *flight) {
	if m.o.Percent < 100 && float64(f.o.Rand()>>11)/(1<<53)*100 >= m.o.Percent {
		return
	}
	if f.body != nil || f.out.Upgrade != "" || int64(len(f.out.Content)) > m.o.MaxBody {
		m.skipped.Add(1)
		return
	}
	select {
	case m.slots <- struct{}{}:
	default:
		m.full.Add(1)
		return
	}
	u := new(url.URL)
	if setTarget(u, f.out.Target) != nil {
		<-m.slots // the request itself will be refused for it
		return
	}
	r := &http.Request{Method: f.out.Method, URL: u, Host: f.out.Host, Header: f.out.Fields()}
	if len(f.out.Content) > 0 {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(f.out.Content)), int64(len(f.out.Content))
	}
	m.wg.Go(func() {
		defer func() { <-m.slots }()
		ctx, cancel := context.WithTimeout(m.ctx, m.o.Timeout)
		defer cancel()
		if m.one(r.WithContext(ctx)) != nil {
			m.failed.Add(1)
			return
		}
		m.sent.Add(1)
	})
}

func (m *mirror) one(r *http.Request) error {
	resp, err := m.o.Cluster.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if e := resp.Body.Close(); err == nil {
		err = e
	}
	return err
}

func (m *mirror) close(ctx context.Context) {
	unhook := context.AfterFunc(ctx, m.stop)
	m.wg.Wait()
	unhook()
	m.stop()
}
