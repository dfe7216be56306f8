package forward

import (
	"net/http"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// choose takes a target by weight: at random, or by the hash key if it is sticky.
func (h *Handler) choose(f *flight) int {
	if len(h.opts.Targets) == 1 {
		return 0
	}
	w := *h.weights.Load()
	sum := 0
	for _, n := range w {
		sum += n
	}
	bits := uint64(0)
	if h.opts.Sticky {
		bits = mix(f.hash()) // other bits than those that choose the endpoint
	}
	if bits == 0 {
		bits = h.opts.Rand()
	}
	at := int(bits % uint64(sum))
	for i, n := range w {
		if at < n {
			return i
		}
		at -= n
	}
	return len(w) - 1 // not reached: at is below the sum
}

// hash is the request's key by Options.Hash; 0 if there is none.
func (f *flight) hash() uint64 { return hashOf(f.h.opts.Hash, f.r, f.x) }

// balance is the key by which the target's endpoint is chosen; 0 if there is none.
func (f *flight) balance() uint64 { return hashOf(f.o.Hash, f.r, f.x) }

// Hasher returns a function that gives a request's key: of the first source that has one; 0
// if none has.
func Hasher(keys []HashKey) func(*http.Request) uint64 {
	return func(r *http.Request) uint64 { return hashOf(keys, r, exchange.From(r.Context())) }
}

func hashOf(keys []HashKey, r *http.Request, x *exchange.Exchange) uint64 {
	for _, k := range keys { // bound: the configuration
		if s := k.of(r, x); s != "" {
			return fnv(s)
		}
	}
	return 0
}

func (k HashKey) of(r *http.Request, x *exchange.Exchange) string {
	switch k.From {
	case HashClient:
		if a := x.Client.Addr(); a.IsValid() {
			b := a.As16()
			return string(b[:])
		}
	case HashHeader:
		return r.Header.Get(k.Name)
	case HashCookie:
		if c, err := r.Cookie(k.Name); err == nil {
			return c.Value
		}
	case HashQuery:
		return r.URL.Query().Get(k.Name)
	case HashPath:
		return r.URL.Path
	}
	return ""
}

// fnv is FNV-1a with its bits mixed: the same on each gateway and after each start.
func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// mix is the finalizer of MurmurHash3: all bits of the result depend on all of h.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
