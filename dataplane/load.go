package dataplane

import (
	"context"
	"net/netip"
	"time"
)

// LoadMode says what the load generator does; the numbers are those of csrc/include/np/load.h.
type LoadMode uint8

// Modes of the load generator.
const (
	LoadNone    LoadMode = iota
	LoadEcho             // closed loop: Depth messages in flight on each connection, compared when they come back
	LoadSend             // as fast as the stream takes it
	LoadReceive          // takes chargen's lines and compares them
	LoadConnect          // open, one message and its echo, close, open again
	LoadHold             // open and say nothing
)

// LoadConfig is one run of the load generator.
type LoadConfig struct {
	Mode   LoadMode
	Local  netip.Addr     // invalid: chosen
	Remote netip.AddrPort // what is loaded
	Conns  int            // kept open at a time on each core
	Size   int            // bytes of a message
	Depth  int            // messages in flight per connection
	Blind  bool           // what comes back is counted, not compared
}

// LoadStats is what a run has measured so far, over all cores. Latency counts
// messages by duration; [LoadLatency] tells a bucket's bounds.
type LoadStats struct {
	Opening, Open          uint64 // now
	Opened, Failed, Closed uint64
	Messages, Mismatches   uint64
	BytesTx, BytesRx       uint64
	LatencyMax             time.Duration
	Latency                []uint64
}

// loadSubBits as NP_LOAD_SUB_BITS.
const loadSubBits = 5

// LoadLatency returns the shortest duration that bucket i counts; the next
// bucket's is where it ends.
func LoadLatency(i int) time.Duration {
	if i < 2<<loadSubBits {
		return time.Duration(i)
	}
	shift := i>>loadSubBits - 1
	return time.Duration((1<<loadSubBits | i&(1<<loadSubBits-1)) << shift)
}

// Loader is a Plane that can load others over its own TCP, made with
// Config.LoadConns. Safe for concurrent use.
type Loader interface {
	// StartLoad ends what runs and begins anew; counts start at 0.
	StartLoad(ctx context.Context, cfg *LoadConfig) error
	// StopLoad aborts the connections; the counts are gone.
	StopLoad(ctx context.Context) error
	LoadStats() LoadStats
}
