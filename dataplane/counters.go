package dataplane

// Counter indexes [Counters.Counter].
type Counter int

// Drop indexes [Counters.Drop].
type Drop int

// CounterMeta describes a counter: its Prometheus name without the np_ prefix
// and what it counts.
type CounterMeta struct{ Name, Help string }

// DropMeta describes a drop reason. Layer is one of link, ip, icmp, udp, tcp,
// npro (received) and tx (our own packets).
type DropMeta struct{ Reason, Layer, Help string }

// Meta returns the description of c.
func (c Counter) Meta() CounterMeta { return counterMeta[c] }

// Meta returns the description of d.
func (d Drop) Meta() DropMeta { return dropMeta[d] }

// Counters is a copy of one core's counters. Values of different turns may
// mix while the core is busy; sums are exact once it is quiet.
type Counters struct {
	Counter [CounterCount]uint64
	Drop    [DropCount]uint64
}

// Add adds o to c, counter by counter.
func (c *Counters) Add(o *Counters) {
	for i := range c.Counter {
		c.Counter[i] += o.Counter[i]
	}
	for i := range c.Drop {
		c.Drop[i] += o.Drop[i]
	}
}
