package dataplane

import (
	"math/bits"
	"testing"
	"time"
)

// bucket is what csrc/session/load.c does with a duration.
func bucket(ns uint64) int {
	top := max(bits.Len64(ns), 1) - 1
	if top < loadSubBits {
		return int(ns)
	}
	shift := top - loadSubBits
	return shift<<loadSubBits + int(ns>>shift)
}

func TestLoadLatency(t *testing.T) {
	last := -1
	for _, ns := range []uint64{0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 1000, 4096, 4097, 1e6, 123456789, 1 << 39, 1<<40 - 1} {
		i := bucket(ns)
		if lo, hi := LoadLatency(i), LoadLatency(i+1); time.Duration(ns) < lo || time.Duration(ns) >= hi {
			t.Errorf("%d ns: bucket %d is %d to %d", ns, i, lo, hi)
		}
		if i < last {
			t.Errorf("%d ns: bucket %d comes after %d", ns, i, last)
		}
		last = i
	}
}
