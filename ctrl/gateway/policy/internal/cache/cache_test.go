package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"testing"
	"time"
)

func key(n int) Key {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	return sha256.Sum256(b[:])
}

func TestBounds(t *testing.T) {
	now := time.Unix(1000, 0)
	c := New[int](160)
	for n := range 10_000 {
		c.Put(key(n), n, now, now.Add(time.Minute))
	}
	s := c.Stats()
	if s.Entries > 160 || s.Entries < 100 || s.Evicted != uint64(10_000-s.Entries) {
		t.Errorf("%+v", s)
	}
	if v, ok := c.Get(key(9_999), now); !ok || v != 9_999 {
		t.Error("the newest is gone")
	}
	if _, ok := c.Get(key(9_999), now.Add(time.Minute)); ok {
		t.Error("an entry outlives its time")
	}
	c.Clear()
	if s := c.Stats(); s.Entries != 0 {
		t.Errorf("after Clear: %+v", s)
	}
}

func TestUse(t *testing.T) {
	now := time.Unix(1000, 0)
	until := now.Add(time.Hour)
	c := New[int](16) // one a shard
	k := key(1)
	c.Put(k, 1, now, until)
	c.Put(k, 2, now, until)
	if v, _ := c.Get(k, now); v != 2 {
		t.Errorf("got %d", v)
	}
	c.Put(key(2), 3, now, now)
	if _, ok := c.Get(key(2), now); ok {
		t.Error("kept what was over already")
	}
	none := New[int](0)
	none.Put(k, 1, now, until)
	if _, ok := none.Get(k, now); ok {
		t.Error("a cache of no entries kept one")
	}
}

func TestConcurrent(t *testing.T) {
	now := time.Unix(1000, 0)
	c := New[int](64)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 2000 {
				k := key(n % 100)
				if v, ok := c.Get(k, now); ok && v != n%100 {
					t.Errorf("key %d has %d", n%100, v)
				}
				c.Put(k, n%100, now, now.Add(time.Minute))
				if n%500 == g {
					c.Clear()
				}
			}
		})
	}
	wg.Wait()
}
