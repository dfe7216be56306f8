package pool

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
)

func numbers(tb testing.TB, size, shards int) *Pool[int] {
	c := quiet(size)
	c.Shards = shards
	p, err := New(Options[int]{
		Name:     "numbers",
		Open:     func(context.Context) (int, error) { return 1, nil },
		Validate: func(context.Context, int) error { return nil },
		Close:    func(int, Reason) {},
	}, c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return p
}

func borrow(tb testing.TB, p *Pool[int], ctx context.Context, key uint64) {
	l, err := p.AcquireShard(ctx, key)
	if err != nil {
		tb.Error(err)
		return
	}
	if err := l.Return(); err != nil {
		tb.Error(err)
	}
}

func TestBorrowingDoesNotAllocate(t *testing.T) {
	for _, shards := range []int{1, 4} {
		p := numbers(t, 2, shards)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for key := range uint64(2) { // the second takes from the first's shard
			borrow(t, p, ctx, key)
			if n := testing.AllocsPerRun(1000, func() { borrow(t, p, ctx, key) }); n != 0 {
				t.Errorf("%d shards, key %d: %v allocations", shards, key, n)
			}
		}
		if n := testing.AllocsPerRun(1000, func() {
			l, err := p.Acquire(ctx)
			if err != nil || l.Return() != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%d shards, any: %v allocations", shards, n)
		}
	}
}

func BenchmarkBorrow(b *testing.B) {
	p := numbers(b, 1, 1)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		borrow(b, p, ctx, 0)
	}
}

// 64 goroutines, with an item for each and with one for every fourth. Few wait
// even then: an item is back before its borrower is preempted.
func BenchmarkBorrow64(b *testing.B) {
	for _, size := range []int{64, 16} {
		for _, shards := range []int{1, 8} {
			b.Run(fmt.Sprintf("items=%d/shards=%d", size, shards), func(b *testing.B) {
				p := numbers(b, size, shards)
				ctx := context.Background()
				var key atomic.Uint64
				b.ReportAllocs()
				b.SetParallelism(32) // times GOMAXPROCS, which is 2 where this was measured
				b.RunParallel(func(pb *testing.PB) {
					k := key.Add(1)
					for pb.Next() {
						borrow(b, p, ctx, k)
					}
				})
			})
		}
	}
}
