package forward

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/upstream"
)

// maxContent bounds a body that Do reads to be able to send it again.
const maxContent = 64 << 10

// Do sends a request of the gateway's own to an endpoint, with the upstream's retries, and
// returns the answer. Of its URL only path and query count; Host is the endpoint's where
// the request names none. The caller closes the answer's body; until then the upstream's
// time for one try, and the request's context, go on.
func (c *Cluster) Do(r *http.Request) (*http.Response, error) {
	q := &h1.Request{Method: r.Method, Target: r.URL.RequestURI(), Header: r.Header, Repeat: true}
	if q.Method == "" {
		q.Method = http.MethodGet
	}
	if err := takeContent(q, r); err != nil {
		return nil, err
	}
	t := c.own(exchange.From(r.Context()), q)
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	var resp *http.Response
	err := c.up.Do(r.Context(), upstream.Call{
		Hash:   ownHash(exchange.From(r.Context())),
		Repeat: func(upstream.Outcome, error) bool { return q.Body == nil && safeToRepeat(q.Method) },
		Try: t.traced(func(ctx context.Context, t upstream.Try) (upstream.Outcome, error) {
			l, err := c.link(t.Endpoint)
			if err != nil {
				return upstream.ConnectFailed, err
			}
			if q.Host = c.hostFor(t.Endpoint, host); q.Host == "" {
				q.Host = authority(t.Endpoint, c.cfg.TLS != nil)
			}
			got, err := l.send(ctx, q)
			if err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return outcomeOf(err), err
			}
			outcome, _ := judge(false, got)
			got.Body = &ownBody{ReadCloser: got.Body, outcome: outcome, done: t.Detach()}
			resp = got
			return upstream.Success, nil
		}, func() int {
			if resp == nil {
				return 0
			}
			return resp.StatusCode
		}),
	})
	if err != nil {
		return nil, err
	}
	resp.Request = r
	return resp, nil
}

// ownHash keeps requests that are sent for a client's sake at the client's endpoint, and
// spreads others, where the upstream balances by a key.
func ownHash(x *exchange.Exchange) uint64 {
	if a := x.Client.Addr(); a.IsValid() {
		b := a.As16()
		return fnv(string(b[:]))
	}
	return rand.Uint64()
}

// takeContent reads a body that is short, and streams another.
func takeContent(q *h1.Request, r *http.Request) error {
	q.Trailers = strings.EqualFold(r.Header.Get("Te"), "trailers")
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if r.ContentLength > 0 && r.ContentLength <= maxContent {
		q.Content = make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, q.Content)
		_ = r.Body.Close() // what was to be read was
		return err
	}
	q.Body, q.Length = r.Body, r.ContentLength
	if q.Length <= 0 {
		q.Length = -1
	}
	q.Abort = func() { _ = r.Body.Close() }
	return nil
}

// ownBody ends a request's lease with the answer's body.
type ownBody struct {
	io.ReadCloser
	once    sync.Once
	outcome upstream.Outcome
	done    func(upstream.Outcome)
}

// Read reads the answer.
func (b *ownBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.outcome == upstream.Success {
		b.outcome = outcomeOf(err)
	}
	return n, err
}

// Close ends the request.
func (b *ownBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(func() { b.done(b.outcome) })
	return err
}
