package daemon

import (
	"context"
	"net"
	"reflect"
	"slices"
	"sync"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/mgmt"
)

// handover is a listener that one service after the other accepts from, while it stays
// open: no connection meets a closed port, and none that a service accepted is touched.
type handover struct {
	net.Listener

	mu     sync.Mutex
	tap    *tap
	closed bool
	end    func() error // closes Listener, once: who accepts from the tap closes as well
}

// tap is a service's end of a handover.
type tap struct {
	h    *handover
	take chan accepted
	gone chan struct{} // closed when another tap has taken its place, or the listener is closed
	once sync.Once
}

type accepted struct {
	c   net.Conn
	err error
}

func newHandover(l net.Listener) *handover {
	h := &handover{Listener: l, end: sync.OnceValue(l.Close)}
	h.tap = h.newTap()
	return h
}

func (h *handover) newTap() *tap {
	return &tap{h: h, take: make(chan accepted), gone: make(chan struct{})}
}

// next makes a tap that takes the place of the one before; that one's Accept ends as if
// the listener were closed.
func (h *handover) next() *tap {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.tap
	h.tap = h.newTap()
	if h.closed {
		h.tap.end()
	}
	before.end()
	return h.tap
}

// run accepts until the listener is closed or fails.
func (h *handover) run() {
	for {
		c, err := h.Listener.Accept()
		if !h.give(accepted{c, err}) {
			if c != nil {
				c.Close()
			}
			return
		}
	}
}

// give hands a connection, or an error, to the tap that is there; false: it is closed.
func (h *handover) give(a accepted) bool {
	for {
		h.mu.Lock()
		t, closed := h.tap, h.closed
		h.mu.Unlock()
		if closed {
			return false
		}
		select {
		case t.take <- a:
			return true
		case <-t.gone: // another is there, or it is closed
		}
	}
}

// Close closes the listener and ends the tap.
func (h *handover) Close() error {
	h.mu.Lock()
	h.closed = true
	t := h.tap
	h.mu.Unlock()
	t.end()
	return h.end()
}

func (t *tap) end() { t.once.Do(func() { close(t.gone) }) }

// Accept implements [net.Listener].
func (t *tap) Accept() (net.Conn, error) {
	select {
	case a := <-t.take:
		return a.c, a.err
	case <-t.gone:
		return nil, net.ErrClosed
	}
}

// Addr implements [net.Listener].
func (t *tap) Addr() net.Addr { return t.h.Listener.Addr() }

// Close implements [net.Listener]. It closes the listener, unless another tap has it.
func (t *tap) Close() error {
	t.h.mu.Lock()
	mine := t.h.tap == t
	t.h.mu.Unlock()
	if !mine {
		t.end()
		return nil
	}
	return t.h.Close()
}

// swappable says whether a listener of protocol http can go from one configuration to
// another while it is open: they differ in [listener.http] alone, and in how many connections
// there may be where no plane counts them. One that gives HTTP/3 up closes that socket.
func swappable(old, next *config.Listener, byNet bool) bool {
	if old.Protocol != "http" || slices.Contains(old.HTTP.Versions, "3") && !slices.Contains(next.HTTP.Versions, "3") {
		return false
	}
	o, n := *old, *next
	if byNet {
		o.MaxConnections, n.MaxConnections = 0, 0
	}
	o.HTTP, n.HTTP = config.HTTP{}, config.HTTP{}
	o.Authz, n.Authz = config.ListenerAuthz{}, config.ListenerAuthz{} // the gateway's matter
	return reflect.DeepEqual(o, n)
}

// swap gives a listener that is open to a new service, made of c. Connections that the one
// before accepted end as it serves them.
func (d *Daemon) swap(c *config.Config, l *config.Listener) error {
	s, err := d.newService(c, l)
	if err != nil {
		return err
	}
	d.mu.Lock()
	var g *goListener
	for i := range d.listeners {
		if d.listeners[i].Name == l.Name {
			g = d.goListeners[d.listeners[i].ID]
		}
	}
	d.mu.Unlock()
	h, ok := g.service.(*httpService)
	next, ok2 := s.(*httpService)
	if !ok || !ok2 || g.handover == nil {
		panic("daemon: a listener that is none of protocol http")
	}
	if err := d.swapPackets(c, l, g, next.Server); err != nil {
		return err
	}
	next.inherit(h)
	tap := g.handover.next()
	d.mu.Lock()
	g.service = next
	for i := range d.listeners {
		if d.listeners[i].Name == l.Name {
			d.listeners[i].MaxConns = c.ListenerLimit(l)
		}
	}
	d.mu.Unlock()
	d.wg.Go(func() {
		if err := next.Serve(d.serving, tap); err != nil {
			d.o.Log.Error("listener ended", "component", "listener", "listener", l.Name, "err", err)
		}
	})
	return nil
}

// swapPackets gives the socket of HTTP/3 to a new service, or opens it. One that the new
// service does not have was opened by a change that is being taken back.
func (d *Daemon) swapPackets(c *config.Config, l *config.Listener, g *goListener, next *server.Server) error {
	has := slices.Contains(l.HTTP.Versions, "3")
	switch {
	case has && g.packets == nil:
		p, err := d.listenPackets(context.Background(), c, l, next)
		if err != nil {
			return err
		}
		g.packets = p
	case !has && g.packets != nil:
		err := g.packets.Close()
		g.packets = nil
		return err
	}
	if has {
		d.servePackets(l, next, g.packets)
	}
	return nil
}

// byNet says whether the listener of a name runs on Go's own sockets.
func (d *Daemon) byNet(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.listeners, func(o mgmt.Listener) bool { return o.Name == name && o.ID&netListenerBit != 0 })
}

// httpService is the gateway's side of a listener.
type httpService struct {
	*server.Server
	before []*server.Server // had the listener, and may have connections
	past   server.Stats     // of those that have none any more
}

// inherit takes over what a service before counted, and its connections' end.
func (h *httpService) inherit(o *httpService) {
	h.past = o.past
	for _, s := range append(o.before, o.Server) {
		st := s.Stats()
		if s != o.Server && st.Open == 0 && st.Running == 0 { // o.Server may be accepting still
			h.past.Add(&st)
		} else {
			h.before = append(h.before, s)
		}
	}
}

// counted sums up what all services of the listener counted.
func (h *httpService) counted() server.Stats {
	st := h.Server.Stats()
	for _, s := range h.before {
		b := s.Stats()
		st.Add(&b)
	}
	st.Add(&h.past)
	return st
}

// Shutdown ends the connections of all services of the listener in good order.
func (h *httpService) Shutdown(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(h.before)+1)
	for i, s := range append(slices.Clone(h.before), h.Server) {
		wg.Go(func() { errs[i] = s.Shutdown(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pairs takes the listeners that are swapped out of what is to be closed and opened, and
// those that move: their new address is opened before the old one is closed, which nobody
// else may be waiting for.
func pairs(del, add []config.Listener, byNet func(name string) bool) (restDel, restAdd []config.Listener, swaps, moves [][2]config.Listener) {
	taken := map[string]bool{}
	for _, n := range add {
		i := slices.IndexFunc(del, func(o config.Listener) bool { return o.Name == n.Name })
		switch {
		case i >= 0 && swappable(&del[i], &n, byNet(n.Name)):
			swaps = append(swaps, [2]config.Listener{del[i], n})
		case i >= 0 && !slices.ContainsFunc(del, func(o config.Listener) bool { return samePlace(&o, &n) }) &&
			!slices.ContainsFunc(add, func(o config.Listener) bool { return samePlace(&o, &del[i]) }):
			moves = append(moves, [2]config.Listener{del[i], n})
		default:
			restAdd = append(restAdd, n)
			continue
		}
		taken[n.Name] = true
	}
	for _, o := range del {
		if !taken[o.Name] {
			restDel = append(restDel, o)
		}
	}
	return restDel, restAdd, swaps, moves
}

// samePlace says whether two listeners can't be open at the same time.
func samePlace(a, b *config.Listener) bool {
	if a.Address.Path() != "" || b.Address.Path() != "" {
		return a.Address.Path() == b.Address.Path()
	}
	return a.Address.AddrPort().Port() == b.Address.AddrPort().Port()
}
