package forward

// choose takes a target by weight: at random, or by the hash key if it is sticky.
func (h *Handler) choose(f *flight) *Cluster {
	t := h.opts.Targets
	if len(t) == 1 {
		return t[0].Cluster
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
			return t[i].Cluster
		}
		at -= n
	}
	return t[len(t)-1].Cluster // not reached: at is below the sum
}

// hash is the request's key: of the first source that has one; 0 if none has.
func (f *flight) hash() uint64 {
	for _, k := range f.h.opts.Hash {
		if s := f.keyOf(k); s != "" {
			return fnv(s)
		}
	}
	return 0
}

func (f *flight) keyOf(k HashKey) string {
	switch k.From {
	case HashClient:
		if a := f.x.Client.Addr(); a.IsValid() {
			b := a.As16()
			return string(b[:])
		}
	case HashHeader:
		return f.r.Header.Get(k.Name)
	case HashCookie:
		if c, err := f.r.Cookie(k.Name); err == nil {
			return c.Value
		}
	case HashQuery:
		return f.r.URL.Query().Get(k.Name)
	case HashPath:
		return f.r.URL.Path
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
