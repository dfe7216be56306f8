package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/forward"
)

// stage is something around what becomes of a request.
type stage func(next http.Handler) http.Handler

// handler is what becomes of a route's requests: the stages, outermost first, and the action.
func (b *builder) handler(i int, r *config.HTTPRoute) http.Handler {
	at := fmt.Sprintf("route[%d]", i)
	corsMark, corsPreflight := b.cors(at, r)
	stages := slices.Concat(
		b.believing(r),
		b.answers(at, r), // refusals below too
		corsMark,         // these too: a page can't read them without
		b.limits(at, r),  // before it is known who asks: what a flood meets first must cost least
		corsPreflight,    // before credentials: such a request has none
		b.auth(at, r),
		b.limitsByIdentity(at, r),
		b.authz(at, r),
		b.edits(at, r),
		b.compression(at, r),
		b.bodyLimit(at, r),
		b.decompression(at, r),
		b.grpc(at, r),
	)
	h := b.action(at, r)
	for _, s := range slices.Backward(stages) {
		h = s(h)
	}
	return h
}

// action is the end of a route.
func (b *builder) action(at string, r *config.HTTPRoute) http.Handler {
	if len(r.Upgrades) > 0 && (len(r.Parts) > 0 || r.NPROOpcode != "" || r.Upstream == "" && len(r.Split) == 0) {
		b.failf(at+".upgrades", "route.upgrades: expected an upstream that speaks HTTP, which such streams go to")
	}
	switch {
	case len(r.Parts) > 0:
		return b.aggregate(at, r)
	case r.NPROOpcode != "":
		return b.npro(at, r)
	case r.Upstream != "" || len(r.Split) > 0:
		return b.forward(at, r)
	}
	return b.answer(at, r)
}

// forward sends a route's requests to its upstreams.
func (b *builder) forward(at string, r *config.HTTPRoute) http.Handler {
	o := forward.Options{Sticky: r.SplitSticky, Timeout: r.Timeout, Rand: b.g.o.Rand, Now: b.g.o.Now}
	first := r.Upstream
	b.speaksHTTP(at+".upstream", r.Upstream)
	if c := b.next.clusters[r.Upstream]; c != nil {
		o.Targets = []forward.Target{{Cluster: c.fwd, Own: b.manner(r.Upstream)}}
	}
	for i, s := range r.Split {
		name, weight, ok := strings.Cut(s, "=")
		n, err := strconv.Atoi(weight)
		if !ok || err != nil || n < 0 || n > 1_000_000 {
			b.failf(fmt.Sprintf("%s.split[%d]", at, i), "route.split: got %q, expected an upstream and its weight, 0 to 1000000, such as \"api=90\"", s)
			continue
		}
		if i == 0 {
			first = name
		}
		b.speaksHTTP(fmt.Sprintf("%s.split[%d]", at, i), name)
		if c := b.next.clusters[name]; c != nil {
			o.Targets = append(o.Targets, forward.Target{Cluster: c.fwd, Weight: n, Own: b.manner(name)})
		}
	}
	if len(o.Targets) == 0 {
		return http.NotFoundHandler() // its upstreams are wrong, which was said
	}
	if u := b.cfg.UpstreamNamed(first); u != nil && r.SplitSticky {
		o.Hash = hashKey(u) // which of them, before there is one
	}
	if r.WebSocket.Mode == "proxy" {
		o.Upgrades = []string{"websocket"}
	}
	for i, p := range r.Upgrades {
		if p = strings.ToLower(p); upgradeOK(p) {
			o.Upgrades = append(o.Upgrades, p)
			continue
		}
		b.failf(fmt.Sprintf("%s.upgrades[%d]", at, i), "route.upgrades: got %q, expected a protocol's name such as \"connect-udp\"; WebSockets are passed on by websocket.mode, and what becomes of h2c, http and tls the listener says", p)
	}
	o.Mirror = b.mirror(at, r)
	h, err := forward.New(o)
	if err != nil {
		b.fail(at, err)
		return http.NotFoundHandler()
	}
	if o.Mirror != nil { // else nothing goes on beyond a request
		b.next.closers = append(b.next.closers, h.Close)
	}
	return h
}

// upgradeOK says whether a protocol, in small letters, is one that a route may pass on:
// not one that says how requests are framed, which would get behind all that the gateway
// looks at.
func upgradeOK(p string) bool {
	switch p {
	case "", "h2c", "h2", "http", "tls", "websocket":
		return false
	}
	for _, c := range []byte(p) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

// manner is how requests are forwarded to an upstream, as it says itself.
func (b *builder) manner(name string) *forward.Options {
	o := &forward.Options{Hash: b.hashing(name)}
	forwardOptions(o, b.cfg.UpstreamNamed(name))
	return o
}

// mirror is where a route's requests are copied to.
func (b *builder) mirror(at string, r *config.HTTPRoute) *forward.Mirror {
	if len(r.Mirror) == 0 {
		return nil
	}
	if len(r.Mirror) > 1 {
		b.failf(at+".mirror[1]", "route.mirror: %d upstreams, expected one", len(r.Mirror))
	}
	name, part, has := strings.Cut(r.Mirror[0], "=")
	n, err := strconv.Atoi(part)
	if has && (err != nil || n < 1 || n > 100) {
		b.failf(at+".mirror[0]", "route.mirror: got %q, expected an upstream, or one with 1 to 100 percent of the requests such as \"shadow=10\"", r.Mirror[0])
		return nil
	}
	c := b.next.clusters[name]
	if c == nil {
		return nil
	}
	b.speaksHTTP(at+".mirror[0]", name)
	return &forward.Mirror{Cluster: c.fwd, Percent: float64(n)}
}

// closer ends what a route started.
type closer func(context.Context)
