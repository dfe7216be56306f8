package config

import (
	"fmt"
	"time"
)

// RDMA is [rdma].
type RDMA struct {
	Enabled        bool          `key:"enabled" default:"false" doc:"listeners may have backend \"rdma\""`
	Device         string        `key:"device" default:"" doc:"the only RDMA device that is used (\"mlx5_0\"); none: that of each address"`
	Port           int           `key:"port" default:"1" min:"1" max:"255" doc:"of device, for gid_index"`
	GIDIndex       int           `key:"gid_index" default:"-1" min:"-1" max:"1023" doc:"with device: a listener on all addresses listens on this GID's; -1: on all"`
	RingSize       Size          `key:"ring_size" default:"256KiB" min:"4KiB" max:"4MiB" doc:"of each connection's receive ring, a power of two; how far a sender may be ahead"`
	SendBuffer     Size          `key:"send_buffer" default:"256KiB" min:"64KiB" max:"64MiB" doc:"queued or in flight, per connection"`
	MaxConnections int           `key:"max_connections" default:"64" min:"1" max:"1600" doc:"per core; the rings of all are taken at the start"`
	MaxPending     int           `key:"max_pending" default:"256" min:"1" max:"1024" doc:"connections that come in and are not established; more are refused"`
	Keepalive      time.Duration `key:"keepalive" default:"10s" min:"0s" max:"24h" doc:"idle so long: the peer's device is asked whether it is there; 0 never"`
}

func (l *loader) rdma() {
	c := l.cfg
	r := &c.RDMA
	if r.RingSize&(r.RingSize-1) != 0 {
		l.fail(c.Pos("rdma.ring_size"), "rdma.ring_size: got %d, expected a power of two", r.RingSize)
	}
	if len(r.Device) > 63 {
		l.fail(c.Pos("rdma.device"), "rdma.device: a name of %d characters, expected at most 63", len(r.Device))
	}
	if r.GIDIndex >= 0 && r.Device == "" {
		l.fail(c.Pos("rdma.gid_index"), "rdma.gid_index without device, expected the device it is of")
	}
	for i := range c.Listeners {
		li := &c.Listeners[i]
		if li.Backend != backendRDMA {
			continue
		}
		at := c.Pos(fmt.Sprintf("listener[%d].backend", i))
		if !r.Enabled {
			l.fail(at, "listener %q: backend rdma while rdma.enabled is false, expected it true, or another backend", li.Name)
		}
		if li.Address.Path() != "" {
			l.fail(at, "listener %q: a Unix socket has no backend rdma, expected auto, io_uring or epoll", li.Name)
		}
	}
}

const backendRDMA = "rdma"

// ByRDMA says whether a listener asks for RDMA. Its address is the kernel's, and what it
// falls back to are kernel sockets.
func (l *Listener) ByRDMA() bool { return l.Backend == backendRDMA }
