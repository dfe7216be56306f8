package fake

import (
	"bytes"
	"context"
	"slices"

	"github.com/np-appliance/np/dataplane"
)

// captureRoom bounds the packets a capture holds; more are lost.
const captureRoom = 1024

type capture struct {
	p      *Plane
	cfg    dataplane.CaptureConfig
	notify chan struct{}

	// guarded by p.mu
	packets []dataplane.Packet
	lost    uint64
	closed  bool
}

// Capture implements [dataplane.Plane]. The filter is not run; directions,
// interface and snap length are.
func (p *Plane) Capture(ctx context.Context, cfg *dataplane.CaptureConfig) (dataplane.Capture, error) {
	c := &capture{p: p, cfg: *cfg, notify: make(chan struct{}, 1)}
	err := p.change(ctx, "Capture", func() error {
		p.captures = append(p.captures, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Packet gives a packet to every open capture that wants it.
func (p *Plane) Packet(pkt dataplane.Packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pkt.At = p.now()
	for _, c := range p.captures {
		if c.cfg.Dirs != 0 && c.cfg.Dirs&pkt.Dir == 0 || c.cfg.Interface >= 0 && c.cfg.Interface != int(pkt.Interface) {
			continue
		}
		if len(c.packets) == captureRoom {
			c.lost++
			continue
		}
		cp := pkt
		cp.Orig = max(pkt.Orig, len(pkt.Data))
		cp.Data = bytes.Clone(pkt.Data)
		if c.cfg.Snap > 0 && len(cp.Data) > c.cfg.Snap {
			cp.Data = cp.Data[:c.cfg.Snap]
		}
		c.packets = append(c.packets, cp)
		c.wake()
	}
}

// Captures counts the open captures.
func (p *Plane) Captures() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.captures)
}

func (c *capture) wake() {
	select {
	case c.notify <- struct{}{}:
	default:
	}
}

// Next implements [dataplane.Capture].
func (c *capture) Next(ctx context.Context) (dataplane.Packet, error) {
	for {
		c.p.mu.Lock()
		if len(c.packets) > 0 {
			pkt := c.packets[0]
			c.packets = c.packets[1:]
			c.p.mu.Unlock()
			return pkt, nil
		}
		over := c.closed || c.p.closed
		c.p.mu.Unlock()
		if over {
			return dataplane.Packet{}, dataplane.CodeShutdown
		}
		select {
		case <-c.notify:
		case <-ctx.Done():
			return dataplane.Packet{}, ctx.Err()
		}
	}
}

// Lost implements [dataplane.Capture].
func (c *capture) Lost() uint64 {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.lost
}

// Close implements [dataplane.Capture].
func (c *capture) Close() error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.closed = true
	c.p.captures = slices.DeleteFunc(c.p.captures, func(o *capture) bool { return o == c })
	c.wake()
	return nil
}
