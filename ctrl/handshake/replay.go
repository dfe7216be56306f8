package handshake

import "sync"

// DefaultReplayWindow is how many nonces a listener remembers.
const DefaultReplayWindow = 10_000

// NonceSize is the size of the initiator's nonce in bytes.
const NonceSize = 16

type nonce [NonceSize]byte

// ReplayWindow remembers the last nonces of a listener's initiators: a map to
// find one, a ring to know the oldest, both O(1) and of fixed size. Safe for
// concurrent use. Initiators that proved an identity and those that did not have
// a ring each, so that strangers can neither push out the nonces of peers nor
// spend one they have seen before the peer's handshake ends.
type ReplayWindow struct {
	mu            sync.Mutex
	authenticated nonceRing
	anonymous     nonceRing
}

type nonceRing struct {
	seen map[nonce]struct{}
	ring []nonce
	next int
	size int
}

// NewReplayWindow makes a window of size nonces (DefaultReplayWindow if not
// positive). Memory grows with use, to about 64 bytes a nonce and ring.
func NewReplayWindow(size int) *ReplayWindow {
	if size <= 0 {
		size = DefaultReplayWindow
	}
	mk := func() nonceRing { return nonceRing{seen: make(map[nonce]struct{}), size: size} }
	return &ReplayWindow{authenticated: mk(), anonymous: mk()}
}

// has tells whether n was used by an initiator that proved an identity.
func (w *ReplayWindow) has(n nonce) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.authenticated.has(n)
}

// add remembers n; false when it is known already.
func (w *ReplayWindow) add(n nonce, authenticated bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.authenticated.has(n) || !authenticated && w.anonymous.has(n) {
		return false
	}
	if authenticated {
		w.authenticated.add(n)
	} else {
		w.anonymous.add(n)
	}
	return true
}

// Len returns how many nonces are remembered.
func (w *ReplayWindow) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.authenticated.seen) + len(w.anonymous.seen)
}

func (r *nonceRing) has(n nonce) bool {
	_, ok := r.seen[n]
	return ok
}

func (r *nonceRing) add(n nonce) {
	if len(r.ring) < r.size {
		r.ring = append(r.ring, n)
	} else {
		delete(r.seen, r.ring[r.next])
		r.ring[r.next] = n
	}
	r.next = (r.next + 1) % r.size
	r.seen[n] = struct{}{}
}
