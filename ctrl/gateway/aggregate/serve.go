package aggregate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/pool"
	"github.com/np-appliance/np/ctrl/upstream"
)

// result is what became of a part.
type result struct {
	done   chan struct{} // closed once the rest is set
	value  json.RawMessage
	header http.Header
	why    exchange.Reason // None: it is there
	err    error
	notes  []error
	tries  int
}

// failed is the reason and error of a part.
func (r *result) failed(why exchange.Reason, err error) { r.why, r.err = why, err }

// ServeHTTP implements http.Handler.
func (a *Aggregate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange.From(r.Context())
	body, ok := a.readBody(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.opts.Timeout)
	defer cancel()
	results := make([]result, len(a.parts))
	for i := range results {
		results[i].done = make(chan struct{})
	}
	var wg sync.WaitGroup
	for i := range a.parts {
		wg.Go(func() {
			res := &results[i]
			defer close(res.done)
			a.run(ctx, i, r, *x, body, results)
			if res.why != exchange.None && a.parts[i].Required {
				cancel() // nobody needs the others any more
			}
		})
	}
	wg.Wait()
	for i := range results {
		for _, err := range results[i].notes {
			x.Note(err)
		}
		if err := results[i].err; err != nil {
			x.Note(fmt.Errorf("part %s: %w", a.parts[i].Name, err))
		}
		x.Tries += results[i].tries
	}
	a.answer(w, r, results)
}

// readBody reads the client's body if a part is to be sent it.
func (a *Aggregate) readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if !a.body || r.Body == nil {
		return nil, true
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(a.opts.MaxRequestBody)+1))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit), len(body) > a.opts.MaxRequestBody:
		exchange.Refuse(w, r, exchange.BodyTooLarge, "")
		return nil, false
	case err != nil:
		exchange.From(r.Context()).Note(err)
		exchange.Refuse(w, r, exchange.ClientGone, "")
		return nil, false
	}
	return body, true
}

// run asks for one part once those that it needs are there. It has a copy of the
// exchange, which belongs to the request's goroutine.
func (a *Aggregate) run(ctx context.Context, i int, r *http.Request, x exchange.Exchange, body []byte, results []result) {
	p, res := &a.parts[i], &results[i]
	for _, n := range p.needs {
		select {
		case <-results[n].done:
		case <-ctx.Done():
			res.failed(ended(ctx), ctx.Err())
			return
		}
		if results[n].why != exchange.None {
			res.failed(results[n].why, fmt.Errorf("part %s, whose answer it needs, is missing", a.parts[n].Name))
			return
		}
	}
	path, err := expand(p.pieces, r, &x, func(name string) json.RawMessage {
		for _, n := range p.needs {
			if a.parts[n].Name == name {
				return results[n].value
			}
		}
		return nil
	})
	if err != nil {
		res.failed(exchange.BadRequest, err)
		return
	}
	if p.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.Timeout)
		defer cancel()
	}
	own := &exchange.Exchange{ID: x.ID, Start: x.Start, Listener: x.Listener, Protocol: x.Protocol, Peer: x.Peer, Client: x.Client, TLS: x.TLS,
		Route: x.Route, Vars: x.Vars, Identity: x.Identity, TraceID: x.TraceID, SpanID: x.SpanID, Sampled: x.Sampled, Spans: x.Spans}
	req, err := p.request(exchange.With(ctx, own), r, path, body)
	if err != nil {
		res.failed(exchange.BadRequest, err)
		return
	}
	p.ask(ctx, req, res)
	res.notes, res.tries = own.Notes(), own.Tries
	if res.why != exchange.None && own.Reason != exchange.None && ctx.Err() == nil {
		res.why = own.Reason // whoever sent it knows better
	}
}

// request makes a part's request.
func (p *part) request(ctx context.Context, r *http.Request, path string, body []byte) (*http.Request, error) {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = "http", p.Host
	if u.Host == "" {
		u.Host = r.Host
	}
	var in io.Reader
	if p.SendBody {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, p.Method, u.String(), in)
	if err != nil {
		return nil, err
	}
	if x := exchange.From(ctx); x.ID != "" { // the gateway's, not what anybody sent
		req.Header.Set("X-Request-Id", x.ID)
	}
	for _, name := range append([]string{"Traceparent", "Tracestate"}, p.RequestFields...) {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[http.CanonicalHeaderKey(name)] = slices.Clone(v)
		}
	}
	if t := r.Header.Get("Content-Type"); p.SendBody && t != "" {
		req.Header.Set("Content-Type", t)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	for name, v := range p.SetFields {
		req.Header.Set(name, v)
	}
	return req, nil
}

// ask sends a part's request and reads the answer.
func (p *part) ask(ctx context.Context, req *http.Request, res *result) {
	resp, err := p.Do.Do(req)
	if err != nil {
		why := ended(ctx)
		if ctx.Err() == nil {
			why = unsent(err)
		}
		res.failed(why, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if why := judge(resp.StatusCode); why != exchange.None {
		res.header = resp.Header
		res.failed(why, fmt.Errorf("answer is %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
		return
	}
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || t != "application/json" && !strings.HasSuffix(t, "+json") {
		res.failed(exchange.UpstreamProtocol, fmt.Errorf("answer is %q, expected application/json", resp.Header.Get("Content-Type")))
		return
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		res.failed(exchange.UpstreamProtocol, fmt.Errorf("answer is encoded as %q, which was not asked for", e))
		return
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, int64(p.MaxBody)+1))
	switch {
	case err != nil && ctx.Err() != nil:
		res.failed(ended(ctx), err)
		return
	case err != nil:
		res.failed(exchange.UpstreamReset, err)
		return
	case len(raw) > p.MaxBody:
		res.failed(exchange.UpstreamProtocol, fmt.Errorf("answer has more than %d bytes", p.MaxBody))
		return
	}
	if res.value, err = checkJSON(raw, maxDepth); err != nil {
		res.failed(exchange.UpstreamProtocol, err)
		return
	}
	res.header = resp.Header
}

// unsent is the reason of a request that got no answer.
func unsent(err error) exchange.Reason {
	var refusal *upstream.Refusal
	var acquire *pool.AcquireError
	switch {
	case errors.As(err, &refusal):
		return exchange.OfRefusal(refusal.Reason)
	case errors.As(err, &acquire) && acquire.Full():
		return exchange.UpstreamFull
	case errors.Is(err, upstream.ErrTryTimeout), errors.Is(err, context.DeadlineExceeded):
		return exchange.UpstreamTimeout
	}
	return exchange.ConnectFailed
}

// ended is the reason of a context that is over.
func ended(ctx context.Context) exchange.Reason {
	if errors.Is(ctx.Err(), context.Canceled) {
		return exchange.ClientGone
	}
	return exchange.UpstreamTimeout
}

// judge is the reason of a status other than 2xx.
func judge(status int) exchange.Reason {
	switch {
	case status >= 200 && status < 300:
		return exchange.None
	case status == http.StatusBadRequest:
		return exchange.BadRequest
	case status == http.StatusUnauthorized:
		return exchange.Unauthenticated
	case status == http.StatusForbidden:
		return exchange.Forbidden
	case status == http.StatusNotFound:
		return exchange.NotFound
	case status == http.StatusTooManyRequests:
		return exchange.RateLimited
	case status == http.StatusServiceUnavailable:
		return exchange.Overloaded
	case status == http.StatusGatewayTimeout:
		return exchange.UpstreamTimeout
	}
	return exchange.UpstreamProtocol
}

// answer merges the parts.
func (a *Aggregate) answer(w http.ResponseWriter, r *http.Request, results []result) {
	if err := r.Context().Err(); errors.Is(err, context.Canceled) {
		exchange.Refuse(w, r, exchange.ClientGone, "")
		return
	}
	values := make([]json.RawMessage, len(a.fields)+1)
	for i, f := range a.fields {
		res := &results[f.part]
		if res.why != exchange.None {
			continue
		}
		v, ok := follow(res.value, f.pointer)
		if !ok {
			err := fmt.Errorf("part %s: its answer has no /%s", a.parts[f.part].Name, strings.Join(f.pointer, "/"))
			exchange.From(r.Context()).Note(err)
			res.failed(exchange.UpstreamProtocol, err)
			continue
		}
		values[i] = v
	}
	missing := map[string]string{}
	first := -1
	for i := range results {
		why := results[i].why
		if why == exchange.None {
			continue
		}
		missing[a.parts[i].Name] = why.String()
		// What was broken off because another part failed is not the cause.
		if a.parts[i].Required && (first < 0 || results[first].why == exchange.ClientGone) {
			first = i
		}
	}
	if first >= 0 {
		switch results[first].why {
		case exchange.Unauthenticated, exchange.RateLimited, exchange.Overloaded: // what to do about it, the part says
			for _, name := range [...]string{"Www-Authenticate", "Retry-After"} {
				if v := results[first].header[name]; len(v) > 0 {
					w.Header()[name] = v
				}
			}
		}
		exchange.Refuse(w, r, results[first].why, "part "+a.parts[first].Name)
		return
	}
	for i, f := range a.fields {
		if results[f.part].why != exchange.None {
			// The default for all of a part's fields, so that they fit together.
			v, ok := follow(a.parts[f.part].Default, f.pointer)
			if !ok {
				v = json.RawMessage("null")
			}
			values[i] = v
		}
	}
	values[len(a.fields)], _ = json.Marshal(missing) // of strings: it can't fail
	a.write(w, r, values, missing, results)
}

func (a *Aggregate) write(w http.ResponseWriter, r *http.Request, values []json.RawMessage, missing map[string]string, results []result) {
	h := w.Header()
	var names []string
	for i := range results {
		if why, is := missing[a.parts[i].Name]; is {
			names = append(names, a.parts[i].Name+";reason="+why)
			continue
		}
		for _, name := range a.parts[i].AnswerFields {
			for _, v := range results[i].header.Values(name) {
				h.Add(name, v)
			}
		}
	}
	if len(names) > 0 {
		h.Set("Aggregate-Missing", strings.Join(names, ", "))
		h.Set("Cache-Control", "no-store") // the next answer may be whole
	}
	var b bytes.Buffer
	a.tree.write(&b, values)
	b.WriteByte('\n')
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // the client is gone if it fails
	}
}
