package fake

import (
	"maps"
	"slices"

	"github.com/np-appliance/np/dataplane"
)

// Fail makes the next n calls of a method return err; n -1: until Clear. call
// is the method's name in the interface, such as "Listen" or "Send".
func (p *Plane) Fail(call string, n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail[call] = &failure{err: err, left: n}
}

// Clear ends what Fail began.
func (p *Plane) Clear(call string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.fail, call)
}

// SetSendRoom lets Send take n more frames and answer CodeFull after that; -1
// is no limit. Each EventSent returns one.
func (p *Plane) SetSendRoom(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room = n
}

// HoldSent stops the EventSent that follows a flushed Send by itself; the
// test says it with Peer.Sent.
func (p *Plane) HoldSent(hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holdSent = hold
}

// Commands returns every flushed command so far, in order.
func (p *Plane) Commands() []Command {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.log)
}

// Unreleased counts bodies that the reader polled and has not released.
func (p *Plane) Unreleased() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tokens)
}

// Closed says whether Close was called.
func (p *Plane) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Interfaces returns the interfaces, as they are now.
func (p *Plane) Interfaces() []Interface {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Interface, len(p.ifaces))
	for n, i := range p.ifaces {
		out[n] = *i
		out[n].Addresses = slices.Clone(i.Addresses)
	}
	return out
}

// Routes returns the routes, as they are now.
func (p *Plane) Routes() []dataplane.Route {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.routes)
}

// Listeners returns the listeners, oldest first.
func (p *Plane) Listeners() []Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Listener
	for _, id := range slices.Sorted(maps.Keys(p.listeners)) {
		out = append(out, *p.listeners[id])
	}
	return out
}

// SetCounters sets what Counters answers for a core.
func (p *Plane) SetCounters(core int, c dataplane.Counters) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counters[core] = c
}

// SetQueueStats sets what QueueStats answers.
func (p *Plane) SetQueueStats(id dataplane.InterfaceID, qs []dataplane.QueueStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queues[id] = slices.Clone(qs)
}

// SetConnections sets what Connections answers instead of the open peers.
func (p *Plane) SetConnections(conns []dataplane.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns, p.connsSet = slices.Clone(conns), true
}

// SetNeighbors sets what Neighbors answers.
func (p *Plane) SetNeighbors(n []dataplane.Neighbor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.neighbors = slices.Clone(n)
}

// SetAddresses sets what Addresses answers and reports the change.
func (p *Plane) SetAddresses(id dataplane.InterfaceID, a []dataplane.Address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addresses = slices.Clone(a)
	for _, c := range p.cores {
		c.push(dataplane.Event{Op: dataplane.EventAddresses, Interface: id}, nil)
	}
}

// Observed returns the frames given to Observe.
func (p *Plane) Observed() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.observed)
}

// PortDown reports that an interface's device vanished (EventPort on every
// core); it does not detach it: that is the control plane's answer.
func (p *Plane) PortDown(id dataplane.InterfaceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.cores {
		c.push(dataplane.Event{Op: dataplane.EventPort, Interface: id, Err: dataplane.CodePortdown}, nil)
	}
}

// PortUp reports that the device is back.
func (p *Plane) PortUp(id dataplane.InterfaceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.cores {
		c.push(dataplane.Event{Op: dataplane.EventPort, Interface: id}, nil)
	}
}

// Inject appends any event to a core's queue, its body copied. Peers' methods
// are the usual way; this is for events that no sound core would send.
func (p *Plane) Inject(core int, ev dataplane.Event, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cores[core].push(ev, body)
}
