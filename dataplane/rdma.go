package dataplane

import (
	"context"
	"io"
	"net/netip"
	"time"
)

// RDMAConfig opens RDMA on a plane.
type RDMAConfig struct {
	MaxConns   int           // per core, 1 to 4,096; Config.RDMAConns has to be as many
	RingBytes  int           // of each connection's receive ring: a power of two, 4 KiB to 4 MiB
	SendBuffer int           // bytes queued or in flight, per connection; 0: 256 KiB
	Keepalive  time.Duration // idle so long: the peer's device is asked whether it is there; 0: never
	Device     string        // connections over other devices are refused; "": any
}

// RDMAOpener is a [Plane] that may have RDMA. OpenRDMA may be called once; it ends with the plane.
type RDMAOpener interface {
	// OpenRDMA loads the libraries and takes the rings' memory. CodeUnsupported: built without, or a
	// library is absent. CodeNodev: no device, or no connection manager in the kernel.
	OpenRDMA(cfg *RDMAConfig) (RDMA, error)
}

// RDMAID names a connection that is made or there, or a listener. 0 is none.
type RDMAID uint64

// RDMAEventOp says what an [RDMAEvent] is; the numbers are those of csrc/include/np/rdma.h.
type RDMAEventOp uint8

// Events of the connection manager.
const (
	RDMANone         RDMAEventOp = iota
	RDMAAddress                  // resolved: the device is known
	RDMARoute                    // found
	RDMARequest                  // somebody connects to Listener: ID is new. Err: what it says of itself is no good
	RDMAEstablished              // Err: what the peer says of itself is no good
	RDMARefused                  // Arg: the peer's reason
	RDMAFailed                   // resolving or connecting: Err, Arg
	RDMADisconnected             // the core was told; the session ends, and then ID is retired
	RDMADeviceGone               // the core was told; of a listener: it is no more
)

// String returns the event's name in logs.
func (o RDMAEventOp) String() string {
	names := [...]string{"none", "address", "route", "request", "established", "refused", "failed", "disconnected", "device gone"}
	if int(o) < len(names) {
		return names[o]
	}
	return "unknown"
}

// RDMAEvent is one thing that the connection manager says.
type RDMAEvent struct {
	Op            RDMAEventOp
	Err           Code // CodeOK: none
	Arg           int  // errno, or the manager's status
	ID, Listener  RDMAID
	Local, Remote netip.AddrPort
	Device        string // "" not known yet
}

// RDMA makes and ends RDMA connections of a plane; ctrl/rdma drives it. Calls take their time for
// system calls and none waits for a peer. They may be made from any goroutine; NextEvent and
// WaitRetired from one each. After the plane's Close each is CodeShutdown.
//
// A connection out: Resolve, RDMAAddress, Route, RDMARoute, Prepare, Connect, RDMAEstablished,
// then Plane.Connect with CarrierRDMA, the slot as Socket and the core. One in: RDMARequest,
// Prepare, Accept, RDMAEstablished, Adopt for a listener that Plane.Listen made with CarrierRDMA.
// Whatever an id's end is, Drop ends it.
type RDMA interface {
	// NextEvent waits for the next event.
	NextEvent(ctx context.Context) (RDMAEvent, error)
	// WaitRetired waits for ids whose session ended, which are to be dropped. It also ends the waiting of
	// Transfer, so somebody has to be in it while those are made.
	WaitRetired(ctx context.Context) ([]RDMAID, error)

	// Listen: port 0 is chosen; it returns where it listens.
	Listen(local netip.AddrPort, backlog int) (RDMAID, netip.AddrPort, error)
	// Resolve: an invalid local address is chosen by the route.
	Resolve(local netip.Addr, remote netip.AddrPort, timeout time.Duration) (RDMAID, error)
	Route(id RDMAID, timeout time.Duration) error
	Prepare(id RDMAID, core int) (slot int, err error)
	Connect(id RDMAID) error
	Accept(id RDMAID) error
	Adopt(id RDMAID, listener ListenerID) error
	// Reject refuses a request and drops it.
	Reject(id RDMAID)
	Drop(id RDMAID)
	// Find is the id of a connection that a handle names. CodeStale: gone, or not by RDMA.
	Find(conn Handle) (RDMAID, error)

	// Region takes memory and registers it with the core and device of id's connection.
	Region(id RDMAID, bytes int, access RDMAAccess) (RDMARegion, error)
	// Transfer reads or writes one-sided and waits until it is done. CodeFull: too many at a time. What the
	// peer's device refuses ends the connection. After ctx ended the operation may still be done.
	Transfer(ctx context.Context, t *RDMATransfer) error
}

// RDMAAccess says what peers may do with a region.
type RDMAAccess uint8

// Rights of peers.
const (
	RDMARemoteRead RDMAAccess = 1 << iota
	RDMARemoteWrite
)

// RDMARegion is memory that peers, or we, read and write one-sided. What a peer writes while
// somebody reads comes in any state: the two agree over the stream whose turn it is.
type RDMARegion interface {
	io.ReaderAt
	io.WriterAt
	Len() int
	// Remote is what a peer needs to name it: an address that can't be guessed, and a key.
	Remote() (addr uint64, key uint32)
	// Close gives the memory back. CodeBusy: a Transfer is not done.
	Close() error
}

// RDMATransfer is one one-sided operation: Bytes between Region from Offset on and the peer's
// memory from Addr on.
type RDMATransfer struct {
	ID     RDMAID
	Region RDMARegion
	Offset int
	Bytes  int
	Addr   uint64
	Key    uint32
	Read   bool // from the peer; else to it
}
