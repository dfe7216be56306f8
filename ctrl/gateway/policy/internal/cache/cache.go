package cache

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// shards spread the lock. The key's first byte chooses, so keys must be hashes.
const shards = 16

// Key is the hash of what an entry is about. It must be one that nobody can steer: a
// SHA-256 or an HMAC.
type Key [32]byte

// Cache holds at most a number of entries, the least recently used going first.
type Cache[V any] struct {
	shard   [shards]shard[V]
	hits    atomic.Uint64
	misses  atomic.Uint64
	evicted atomic.Uint64
}

type shard[V any] struct {
	mu    sync.Mutex
	byKey map[Key]*list.Element
	order *list.List // most recently used first
	max   int
}

type entry[V any] struct {
	key   Key
	value V
	until time.Time
}

// Stats are a cache's counters since it began.
type Stats struct {
	Entries int    `json:"entries"`
	Hits    uint64 `json:"hits"`
	Misses  uint64 `json:"misses"`
	Evicted uint64 `json:"evicted"` // before their time
}

// New makes a cache of at most size entries, rounded up to a multiple of 16; 0: it keeps none.
func New[V any](size int) *Cache[V] {
	c := &Cache[V]{}
	for i := range c.shard {
		c.shard[i] = shard[V]{byKey: map[Key]*list.Element{}, order: list.New(), max: (max(size, 0) + shards - 1) / shards}
	}
	return c
}

// Get returns the value under a key unless its time is over.
func (c *Cache[V]) Get(key Key, now time.Time) (V, bool) {
	s := &c.shard[key[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[key]; e != nil {
		if v := e.Value.(*entry[V]); now.Before(v.until) {
			s.order.MoveToFront(e)
			c.hits.Add(1)
			return v.value, true
		}
		s.order.Remove(e)
		delete(s.byKey, key)
	}
	c.misses.Add(1)
	var none V
	return none, false
}

// Put keeps a value until a time; one in the past is not kept.
func (c *Cache[V]) Put(key Key, v V, now, until time.Time) {
	s := &c.shard[key[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.max == 0 || !now.Before(until) {
		return
	}
	if e := s.byKey[key]; e != nil {
		e.Value = &entry[V]{key, v, until}
		s.order.MoveToFront(e)
		return
	}
	if s.order.Len() >= s.max {
		last := s.order.Back()
		old := s.order.Remove(last).(*entry[V])
		delete(s.byKey, old.key)
		if now.Before(old.until) {
			c.evicted.Add(1)
		}
	}
	s.byKey[key] = s.order.PushFront(&entry[V]{key, v, until})
}

// Clear forgets everything.
func (c *Cache[V]) Clear() {
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		s.order.Init()
		clear(s.byKey)
		s.mu.Unlock()
	}
}

// Stats returns the counters.
func (c *Cache[V]) Stats() Stats {
	out := Stats{Hits: c.hits.Load(), Misses: c.misses.Load(), Evicted: c.evicted.Load()}
	for i := range c.shard {
		s := &c.shard[i]
		s.mu.Lock()
		out.Entries += s.order.Len()
		s.mu.Unlock()
	}
	return out
}
