package forward

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/h1"
	"github.com/np-appliance/np/ctrl/upstream"
)

// Handler forwards requests. It is safe for concurrent use.
type Handler struct {
	opts    Options
	targets []Options // how requests are forwarded to each
	weights atomic.Pointer[[]int]
	buffers sync.Pool // *[copySize]byte
	mirror  *mirror   // nil: none
	upgrade map[string]bool
}

// New makes a handler. Its owner ends it with Close.
func New(o Options) (*Handler, error) {
	o.Hash = append([]HashKey(nil), o.Hash...)
	o.Deadlines = append([]DeadlineField(nil), o.Deadlines...)
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Handler{opts: o, upgrade: map[string]bool{}}
	for i, t := range o.Targets {
		one := o.of(t)
		if err := one.check(); err != nil {
			return nil, fmt.Errorf("forward: target %d: %w", i+1, err)
		}
		h.targets = append(h.targets, one)
	}
	for _, u := range o.Upgrades {
		h.upgrade[u] = true
	}
	w := make([]int, len(o.Targets))
	for i, t := range o.Targets {
		w[i] = t.Weight
	}
	h.weights.Store(&w)
	if o.Mirror != nil {
		h.mirror = newMirror(o.Mirror)
	}
	return h, nil
}

// Close waits for mirrored requests, and cuts them off when ctx ends.
func (h *Handler) Close(ctx context.Context) {
	if h.mirror != nil {
		h.mirror.close(ctx)
	}
}

// Weights returns the targets' weights in effect, in the order of Options.Targets.
func (h *Handler) Weights() []int { return append([]int(nil), *h.weights.Load()...) }

// SetWeights changes the weights of all targets, in the order of Options.Targets.
func (h *Handler) SetWeights(w []int) error {
	if len(w) != len(h.opts.Targets) {
		return fmt.Errorf("%d weights, expected %d, one for each target", len(w), len(h.opts.Targets))
	}
	sum := 0
	for i, n := range w {
		if n < 0 || n > 1_000_000 {
			return fmt.Errorf("weight %d of %s, expected 0 to 1000000", n, h.opts.Targets[i].Cluster.Name())
		}
		sum += n
	}
	if sum == 0 && len(w) > 1 {
		return fmt.Errorf("all weights are 0, expected one with more")
	}
	w = append([]int(nil), w...)
	h.weights.Store(&w)
	return nil
}

// flight is one request on its way.
type flight struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	x *exchange.Exchange

	o       *Options // how it is forwarded to its target
	cluster *Cluster
	ctx     context.Context // of the request, with its own deadline
	out     h1.Request
	body    *inBody // nil: none that is streamed
	grpc    bool
	trace   int      // where Traceparent is in out.Set; -1: it is not
	dropped []string // fields that Connection names
	xff     [8]h1.Field

	kept    *kept // the answer of the last try, if it might be tried again
	last    *upstream.Endpoint
	notYet  time.Time    // last asked not to be asked before
	started bool         // something of the answer went to the client
	done    bool         // the answer went there as a whole
	tunnel  bool         // an extended CONNECT, which is an upgrade towards HTTP/1.1
	key     string       // Sec-WebSocket-Key of a tunnel
	now     upstream.Try // that is under way
}

// ServeHTTP forwards one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := &flight{h: h, w: w, r: r, x: exchange.From(r.Context()), ctx: r.Context()}
	cancel, err := f.prepare()
	if cancel != nil {
		defer cancel()
	}
	if f.body != nil {
		defer f.body.end()
	}
	if err != nil {
		f.fail(err)
		return
	}
	if h.mirror != nil {
		h.mirror.send(f)
	}
	err = f.cluster.up.Do(f.ctx, upstream.Call{Hash: f.balance(), Total: h.opts.Timeout, Repeat: f.repeat, Try: f.traced})
	switch {
	case f.done:
	case err == nil && f.started:
	case f.kept != nil && !f.started:
		f.passKept()
	default:
		f.fail(err)
	}
}

// prepare makes of the request what is sent.
func (f *flight) prepare() (cancel context.CancelFunc, err error) {
	h, r := f.h, f.r
	target := h.choose(f)
	f.o, f.cluster = &h.targets[target], h.opts.Targets[target].Cluster
	f.x.Upstream = f.cluster.Name()
	f.grpc = exchange.IsGRPC(r)
	q := &f.out
	q.Method, q.Host, q.Header = r.Method, r.Host, r.Header
	q.Target = r.URL.RequestURI()
	q.Omit = f.omit
	q.Repeat = true
	if r.ProtoAtLeast(1, 1) {
		q.Informational = f.informational
	}
	if err := f.connection(); err != nil {
		return nil, err
	}
	cancel = f.deadline()
	if !f.tunnel {
		if err := f.takeBody(); err != nil {
			return cancel, err
		}
	}
	f.say()
	return cancel, nil
}

// connection reads the fields of the client's connection (RFC 9110 §7.6.1).
func (f *flight) connection() error {
	r, q := f.r, &f.out
	if r.Method == http.MethodConnect {
		return f.connect()
	}
	for _, v := range r.Header["Connection"] {
		for option := range strings.SplitSeq(v, ",") {
			switch option = http.CanonicalHeaderKey(strings.Trim(option, " \t")); option {
			case "", "Close", "Keep-Alive", "Te":
			case "Upgrade":
				f.askUpgrade()
			default:
				f.dropped = append(f.dropped, option)
			}
		}
	}
	for _, v := range r.Header["Te"] {
		for coding := range strings.SplitSeq(v, ",") {
			q.Trailers = q.Trailers || strings.EqualFold(strings.Trim(coding, " \t"), "trailers")
		}
	}
	return nil
}

// omit says which of the client's fields aren't passed on, beside those of framing.
func (f *flight) omit(name string) bool {
	switch name {
	case "Proxy-Authorization", "Proxy-Authenticate", "Http2-Settings", ":protocol", "Te", "Upgrade":
		return true
	}
	for _, d := range f.dropped {
		if d == name {
			return true
		}
	}
	return false
}

// fail answers an error in the gateway's own name, or breaks off where an answer began.
func (f *flight) fail(err error) {
	reason, public := reasonOf(f.ctx, err)
	f.x.Note(err)
	if f.started {
		f.x.Fail(reason)
		panic(http.ErrAbortHandler)
	}
	exchange.Refuse(f.w, f.r, reason, public)
	if reason == exchange.ClientGone { // else the server would send an empty 200, which one that is half closed would believe
		panic(http.ErrAbortHandler)
	}
}

// repeat says whether the request may be sent once more.
func (f *flight) repeat(_ upstream.Outcome, err error) bool {
	if f.started || f.ctx.Err() != nil {
		return false
	}
	if f.body != nil && !f.body.untouched() {
		return false
	}
	if outcomeOf(err) == upstream.Canceled {
		return false
	}
	return f.o.RetryUnsafe || safeToRepeat(f.out.Method) // of an extended CONNECT: GET
}

// safeToRepeat: idempotent methods (RFC 9110 §9.2.2).
func safeToRepeat(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
