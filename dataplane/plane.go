package dataplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Handle names a connection or listener: generation, core, slot. A stale
// handle is an error (CodeStale), never another connection. 0 is no handle.
type Handle uint64

// Core returns the index of the core that owns the handle.
func (h Handle) Core() int { return int(h>>24) & 0xff }

// SessionKind says what a listener does with its streams.
type SessionKind uint8

// Session kinds; the numbers are those of csrc/include/np/info.h.
const (
	SessionNone SessionKind = iota
	SessionEcho
	SessionDiscard
	SessionNPRO
	SessionChargen
	SessionLoad // of a [Loader]
	SessionPipe // bytes to Go and back
)

// Carrier says what brings a connection's bytes; the numbers are those of enum
// np_carrier_kind in csrc/include/np/info.h.
type Carrier uint8

// Carriers.
const (
	CarrierStack Carrier = iota // the appliance's own TCP over its interfaces
	CarrierEpoll                // kernel sockets on the poll cores, TCP or Unix
	CarrierUring                // the same by io_uring
	CarrierRDMA
)

// String returns the carrier's name as a rung of the ladder and in listings.
func (c Carrier) String() string {
	switch c {
	case CarrierStack:
		return "stack"
	case CarrierEpoll:
		return "epoll"
	case CarrierUring:
		return "io_uring"
	case CarrierRDMA:
		return "rdma"
	}
	return fmt.Sprintf("Carrier(%d)", uint8(c))
}

// Config is what a Plane is made from. Zero values mean defaults.
type Config struct {
	CPUs           []int // one core per entry; -1: not pinned. Cores that share a CPU take turns
	Steering       Steering
	BuffersPerCore int
	ChunkBytes     int // 2048 or 4096
	LoansPerCore   int
	MaxConns       int           // per core
	MaxStreams     int           // NPRO streams per core
	IdleSpin       time.Duration // negative: never sleep
	HandshakeLimit time.Duration
	HugePages      HugePages
	PortableCrypto bool // libcrypto even where libipsec-mb would do
	NoGRO          bool // received TCP segments are not joined
	UDPEchoPort    uint16
	UDPDiscardPort uint16
	TCP            TCPConfig
	Exception      ExceptionConfig
	LoadConns      int // connections of the load generator per core; 0: none
	LoadDepth      int // its messages in flight per connection at most

	Carriers     []Carrier // besides CarrierStack; what is asked for has to work
	RDMAConns    int       // sessions per core for connections of OpenRDMA, which has to be called with as many; 0: none
	SocketConns  int       // connections of each of them, per core; 0: 1,024
	SocketRcvBuf int       // of a connection, received and not consumed; 0: 256 KiB
	SocketSndBuf int       // of a connection, queued and not yet the kernel's; 0: 256 KiB

	Secret [64]byte // random: sequence numbers, cookies, hash keys
}

// ExceptionConfig says what the kernel gets of devices that the appliance owns, beside
// what is not for its addresses.
type ExceptionConfig struct {
	Rate      int      // packets per second to the kernel, all cores; 0 no limit
	TCPPorts  []uint16 // on any address; one below 1024 also at the peer's end
	UDPPorts  []uint16
	Protocols []uint8 // IP protocols, neither TCP nor UDP
}

// Limits of ExceptionConfig's lists.
const (
	ExceptionPortsMax     = 32
	ExceptionProtocolsMax = 16
)

// Steering says what decides which core a flow's packets go to.
type Steering uint8

// Choices for steering.
const (
	SteeringAuto     Steering = iota // the cores where a device has fewer queues than there are cores, else the device
	SteeringDevice                   // cores without a queue of an interface get nothing of it, and can't send by it
	SteeringSoftware                 // the cores, on every interface: a flow keeps its core whatever the device does
)

// By returns what steers the flows of an interface with so many queues: "device" or
// "software".
func (s Steering) By(queues, cores int) string {
	if cores > 1 && (s == SteeringSoftware || s == SteeringAuto && queues < cores) {
		return "software"
	}
	return "device"
}

// HugePages says whether memory comes from huge pages.
type HugePages uint8

// Choices for huge pages.
const (
	HugePagesAuto HugePages = iota // when there are any
	HugePagesOff
	HugePagesMust
)

// TCPConfig sets the stack's defaults; zero values mean the stack's own.
type TCPConfig struct {
	RcvBuf, SndBuf  int
	KeepaliveIdle   time.Duration
	UserTimeout     time.Duration
	TimeWait        time.Duration
	MinRTO          time.Duration
	DelayedAck      time.Duration
	QuickAcks       int // full segments at a connection's begin that are acknowledged each; -1: none
	Nagle           bool
	NoSACK          bool
	NoTimestamps    bool
	NoWindowScaling bool
	NoAutoTuning    bool
	PersistTimeout  time.Duration // 0: none
	ChallengeAcks   int           // per second and core
	Resets          int           // to segments of no connection, per second and core
	ConnsPerSource  int           // 0: no limit
	MinSndMSS       int
	TTL             int // and IPv6 hop limit; 0: 64, or what a router says
	MemPressure     int // percent of a core's buffers held, from which they are short
	MemMax          int
	MaxOOORuns      int
	RcvStart        int // bytes the receive buffer begins with

	CongestionControl CongestionControl // CongestionDefault: CUBIC
	ECN               ECN
	Pacing            Pacing
	MTUProbing        MTUProbing
}

// Info describes a running plane.
type Info struct {
	Backend      string // "af_xdp", "fake"
	CryptoEngine string // "ipsec-mb avx512", "libcrypto"
	HugePage     uint64 // bytes per huge page in use, 0 ordinary pages
	CPUs         []int
	Steering     Steering
}

// InterfaceConfig adds a network interface by which the appliance speaks. Of BackendDPDK
// and BackendTAP an empty MAC and an MTU of 0 are the device's own, and of every backend
// but BackendAFXDP 0 queues are as many as suit it; AddInterface and ReattachInterface
// write what they took into the caller's MAC, MTU and Queues.
type InterfaceConfig struct {
	Name      string
	Index     int // the kernel's ifindex
	MAC       net.HardwareAddr
	MTU       int
	VLAN      uint16 // 0 untagged
	Queues    int    // RX queues to open; queue i goes to core i modulo cores
	ZeroCopy  ZeroCopy
	Native    bool // the XDP program is attached in native mode
	Addresses []netip.Prefix

	DADTransmits int     // probes before an IPv6 address is used (RFC 4862), 0 none
	ACD          bool    // probe before an IPv4 address is used (RFC 5227)
	Backend      Backend // what opens its queues
	Device       string  // BackendDPDK: a PCI address, or a virtual device with its arguments
	Exception    string  // a TAP of this name is made, by which the kernel gets what is not ours; "" none

	AcceptRA  bool // take addresses and default routes from routers (RFC 4861, RFC 4862)
	MLD       bool // report the groups of IPv6 addresses (RFC 3810)
	Opaque    bool // IPv6 addresses of the stack's own making differ from those the kernel makes of the MAC
	Announces int  // announcements of an address that came up; 0 means 1
}

// Backend says what opens an interface's queues.
type Backend uint8

// Backends of interfaces.
const (
	BackendAFXDP    Backend = iota
	BackendAFPacket         // AF_PACKET sockets with TPACKET_V3 rings
	BackendTAP              // a TAP device that the plane makes
	BackendDPDK
)

// String returns the backend's name as the configuration and listings have it.
func (b Backend) String() string {
	switch b {
	case BackendAFXDP:
		return "af_xdp"
	case BackendAFPacket:
		return "af_packet"
	case BackendTAP:
		return "tap"
	case BackendDPDK:
		return "dpdk"
	}
	return fmt.Sprintf("Backend(%d)", uint8(b))
}

// ZeroCopy says how AF_XDP binds.
type ZeroCopy uint8

// Choices for zero-copy.
const (
	ZeroCopyAuto ZeroCopy = iota // try, fall back to copy
	ZeroCopyOff
	ZeroCopyMust
)

// Queue is an open port queue; FD goes into the XSKMAP of the XDP program.
type Queue struct {
	Queue    int
	Core     int
	FD       int
	ZeroCopy bool
}

// InterfaceID names an added interface, 0 to 31.
type InterfaceID uint16

// Route sends Prefix by Via (invalid Addr: on link) out of Interface.
type Route struct {
	Prefix    netip.Prefix
	Via       netip.Addr
	Interface InterfaceID
}

// ListenConfig opens a listener on every core.
type ListenConfig struct {
	Address  netip.AddrPort // unspecified address: any of ours; of a Unix socket: invalid
	Kind     SessionKind
	Backlog  int
	MaxConns int // over all cores
	Cookies  bool

	CongestionControl CongestionControl // of its connections; CongestionDefault: TCPConfig's
	DSCP              int               // of what its connections send, 0 to 63

	Carrier Carrier
	// Sockets are listening kernel sockets of a carrier other than CarrierStack, one per
	// core and in their order. The plane owns them from the call on, on errors too.
	Sockets []int
}

// ConnectConfig opens a connection.
type ConnectConfig struct {
	Local, Remote netip.AddrPort // Local may be invalid, or have port 0: chosen
	Kind          SessionKind

	CongestionControl CongestionControl

	Carrier Carrier
	// Socket is a kernel socket on which connect was called, with CarrierEpoll or
	// CarrierUring. The plane owns it from the call on, on errors too.
	Socket int
	Core   int // that gets it; -1: the plane chooses
}

// ListenerID names a listener on all cores.
type ListenerID uint32

// Event kinds; the numbers are those of csrc/include/np/abi.h.
type EventOp uint8

// Events that a core reports.
const (
	EventOpen      EventOp = iota + 1 // an NPRO session or pipe exists; Conn, Listener, Info. A pipe: Stream is how long pieces of Write are best
	EventClosed                       // last event of Conn; Err says why, Code what the peer said
	EventHandshake                    // Type, Body
	EventMessage                      // Stream, Type, Flags, Priority, Body
	EventReset                        // Stream, Code
	EventSent                         // Stream, Bytes: budget of Send returns; Err: the frame was not sent, its stream is broken
	EventPong                         // Body
	EventGoAway                       // Stream: last one the peer serves
	EventPort                         // Interface, Err: CodePortdown when its device is gone or its link down, CodeOK when it is back, CodeNodev when it won't be back by itself
	EventAddresses                    // Interface: its addresses changed by themselves (state, conflict); Addresses tells
	EventData                         // a pipe: Body. Room returns to the peer by Credit
	EventEOF                          // a pipe: the peer sent its last byte; sending may go on
	EventDatagram                     // Conn: the socket of BindUDP, Local, Remote, Body; Flags: ECN bits
)

// Event is one thing that happened on a core. Body is valid until Release is
// called for the event; it lies in the core's memory and must not be written.
type Event struct {
	Op        EventOp
	Kind      SessionKind // of Conn
	Type      uint8       // NPRO frame type
	Flags     uint8       // NPRO flags
	Priority  uint8
	Conn      Handle
	Listener  ListenerID
	Stream    uint32
	Code      uint32
	Bytes     uint32
	Interface InterfaceID
	Err       Code
	At        time.Duration  // CLOCK_MONOTONIC
	Incoming  bool           // EventOpen: accepted rather than dialled
	Local     netip.AddrPort // EventOpen
	Remote    netip.AddrPort // EventOpen
	Unix      *UnixPeer      // EventOpen: who is at the other end of a Unix socket
	// Body is the frame body in one or more pieces, in order.
	Body [][]byte
	// Token is the implementation's; Release needs it.
	Token uintptr
}

// Len returns the bytes of the event's body.
func (e *Event) Len() int {
	n := 0
	for _, b := range e.Body {
		n += len(b)
	}
	return n
}

// Keys is what a handshake settled; InstallKeys hands it to the session and
// wipes the caller's copy.
type Keys struct {
	Rx, Tx               [32]byte
	ConnID               [8]byte
	AEAD                 uint8 // 1 XChaCha20-Poly1305, 2 AES-256-GCM
	Compression          uint8 // what we send: 0 none, 1 LZ4, 2 zstd
	CompressionRx        uint8 // mask 1<<n of what the peer may send
	IsClient             bool
	AllowEcho            bool // ECHO answered on the core
	MaxFrameTx           uint32
	MaxFrameRx           uint32
	StreamWindowTx       uint32
	ConnWindowTx         uint32
	StreamWindowRx       uint32
	ConnWindowRx         uint32
	Heartbeat            time.Duration
	CompressionThreshold uint32
	CompressionLevel     int32
	MaxStreams           uint32
	MaxPayload           uint32
	RekeyRecords         uint64
	RekeyBytes           uint64
	RekeyAfter           time.Duration
}

// Outgoing is one frame to send on an NPRO session.
type Outgoing struct {
	Conn     Handle
	Stream   uint32
	Type     uint8
	Flags    uint8
	Priority uint8
	// Parts are copied into the core's memory before Send returns.
	Parts [][]byte
}

// Core is one poll core as the control plane sees it. Read side (Poll, Wait,
// Release): one goroutine. Everything else: any goroutine.
type Core interface {
	// Poll fills out and returns how many events there were; never blocks. The
	// slices inside the events belong to the core until Release, which may come
	// later than the next Poll, in any order.
	Poll(out []Event) int
	// Wait sleeps until Poll would find something or ctx ends.
	Wait(ctx context.Context) error
	// Release gives the events' bodies back. Credit for EventMessage is apart.
	Release(events []Event)
	// Credit returns flow-control credit of a stream: body bytes the handler is done with.
	Credit(conn Handle, stream uint32, bytes uint32) error
	// Send queues one frame. CodeFull: no room now, Flush, then wait for EventSent
	// or retry after Wait, which returns soon after a CodeFull; CodeStale: the
	// connection is gone; CodeInvalid: larger than all lent buffers together.
	Send(out *Outgoing) error
	// Handshake sends a handshake frame (type 0x10..0x12); more: another is awaited.
	Handshake(conn Handle, frameType uint8, body []byte, more bool) error
	// InstallKeys ends the handshake. keys is wiped.
	InstallKeys(conn Handle, keys *Keys) error
	Reset(conn Handle, stream uint32, code uint32) error
	Ping(conn Handle, body []byte) error
	Rekey(conn Handle) error
	GoAway(conn Handle) error
	// CloseConn says DISCONNECT with code and reason, then closes in good order.
	CloseConn(conn Handle, code uint32, reason string) error
	Abort(conn Handle) error
	// Write queues bytes on a pipe; parts are copied before it returns. EventSent
	// returns their number to the writer's budget once they left the queue. Errors
	// as Send; all or nothing. CodeFull may also mean that peers who do not read hold too
	// many buffers; then 1 KiB is taken where nothing of the pipe is unsent. A pipe queues up to 1 MiB or 1,024 buffers: a writer whose
	// budget is well below that never meets an EventSent with CodeFull, which breaks its stream.
	Write(conn Handle, parts [][]byte) error
	// CloseWrite half-closes a pipe after what is queued.
	CloseWrite(conn Handle) error
	// SendTo sends one datagram from a socket of BindUDP. An invalid address in
	// local lets the route choose. CodeFull: dropped for lack of room here.
	SendTo(socket Handle, local netip.Addr, remote netip.AddrPort, parts [][]byte) error
	// Flush publishes what was queued since the last Flush and wakes the core.
	Flush()
}

// Conn is a connection as `npctl conn` shows it; the fields are those of
// struct np_conn_info in csrc/include/np/info.h.
type Conn struct {
	Handle        Handle
	Listener      ListenerID
	Local, Remote netip.AddrPort
	State         string // "established", as ss prints it
	Kind          SessionKind
	SessionState  string
	AEAD          uint8
	Compression   uint8
	Limited       string // "", "app_limited", "rwnd_limited", "cwnd_limited"
	Core          int
	WscaleSnd     uint8
	WscaleRcv     uint8
	Timestamps    bool
	SACK          bool
	WindowScaling bool
	Outgoing      bool
	MSS           uint32
	PathMTU       uint32 // bytes of the largest packet sent
	Cwnd          uint32 // bytes
	Ssthresh      uint32 // bytes, 0 not set
	SndWnd        uint32
	RcvWnd        uint32
	SRTT          time.Duration
	RTTVar        time.Duration
	RTO           time.Duration
	MinRTT        time.Duration
	Inflight      uint32
	Sacked        uint32
	Lost          uint32
	SendQ         uint32
	RecvQ         uint32
	OutOfOrder    uint32
	Retrans       uint32
	Timeouts      uint32
	Streams       uint32
	Created       time.Duration // CLOCK_MONOTONIC
	LastRx        time.Duration
	BytesRx       uint64
	BytesTx       uint64
	BytesRetrans  uint64
	SegsRx        uint64
	SegsTx        uint64
	FramesRx      uint64
	FramesTx      uint64
	ConnID        [8]byte
	RcvRTT        time.Duration
	RcvSpace      uint32 // consumed in the last round trip
	RcvBuf        uint32 // as large as they are now
	SndBuf        uint32

	CAState    string        // "open", "disorder", "cwr", "recovery", "loss"
	Backoff    uint8         // times the RTO is doubled
	ReoWnd     time.Duration // RACK's reordering window, 0 without SACK
	DSACKs     uint32        // duplicates that the peer reported
	Reordering uint16        // segments delivered after later ones
	TailProbes uint16
	Undos      uint16 // recoveries and timeouts that were for nothing

	Carrier Carrier
	Unix    *UnixPeer // nil: not a Unix socket

	UserTimeout time.Duration // 0: none
	Unacked     time.Duration // so long nothing of what is in flight was acknowledged

	CongestionControl CongestionControl
	ECN               bool      // agreed in the handshake
	CESeen            bool      // marks came
	ECESeen           bool      // the peer echoed marks
	PacingRate        uint64    // bytes per second, 0 not paced
	DeliveryRate      uint64    // bytes per second, 0 not measured
	BBR               *BBRState // nil: another algorithm
}

// UnixPeer is who is at the other end of a Unix socket.
type UnixPeer struct{ PID, UID, GID uint32 }

// BBRState is what BBR knows of a connection's path.
type BBRState struct {
	Phase      string // "STARTUP", "PROBE_BW_CRUISE", ...
	Bandwidth  uint64 // bytes per second
	MinRTT     time.Duration
	PacingGain float64
	CwndGain   float64
	InflightHi uint32 // bytes, 0 no bound
	InflightLo uint32
}

// Neighbor is an entry of the ARP and ND table.
type Neighbor struct {
	Addr      netip.Addr
	MAC       net.HardwareAddr
	Interface InterfaceID
	State     string // "reachable", "stale", ...
	Age       time.Duration
	Core      int
}

// AddressState is what duplicate address detection says of an address; the
// numbers are those of csrc/include/np/info.h.
type AddressState uint8

// States of an address. Preferred and deprecated ones are in use.
const (
	AddressTentative AddressState = iota
	AddressDuplicate
	AddressPreferred
	AddressDeprecated
)

// String returns the state's name in listings.
func (s AddressState) String() string {
	switch s {
	case AddressTentative:
		return "tentative"
	case AddressDuplicate:
		return "duplicate"
	case AddressPreferred:
		return "preferred"
	case AddressDeprecated:
		return "deprecated"
	}
	return fmt.Sprintf("AddressState(%d)", uint8(s))
}

// AddressOrigin says where an address comes from.
type AddressOrigin uint8

// Origins of addresses.
const (
	AddressConfigured AddressOrigin = iota
	AddressLinkLocal                // made from the MAC
	AddressSLAAC                    // made from a router's prefix
)

// Address is an address of an interface as the stack has it.
type Address struct {
	Prefix    netip.Prefix // the address with its prefix length
	Interface InterfaceID
	State     AddressState
	Origin    AddressOrigin
	Conflicts uint32           // times another host claimed it
	Rival     net.HardwareAddr // the last one that did, nil none
	Valid     time.Duration    // left, negative for ever
	Preferred time.Duration
}

// QueueStats counts one port queue.
type QueueStats struct {
	Queue, Core                      int
	RxPackets, RxBytes               uint64
	TxPackets, TxBytes               uint64
	RxDropped, RxRingFull, FillEmpty uint64
	TxInvalid, Wakeups               uint64
	Down                             bool
}

// CaptureConfig selects what a capture copies.
type CaptureConfig struct {
	Filter    string // tcpdump's language; "" takes all
	Snap      int    // bytes of each packet, 0: all
	Dirs      CaptureDir
	Interface int    // InterfaceID, -1 all
	Conn      Handle // 0 all
	Port      uint16 // listener's port, 0 all
	Ring      int    // bytes per core, 0: 4 MiB
}

// CaptureDir is a mask of directions.
type CaptureDir uint8

// Directions of captured packets.
const (
	CaptureRx CaptureDir = 1 << iota
	CaptureTx
	CaptureDrop
)

// Packet is one captured packet; Data is valid until the next call of Next.
type Packet struct {
	At        time.Duration // CLOCK_MONOTONIC
	Interface InterfaceID
	Core      int
	Dir       CaptureDir
	Drop      Drop // when Dir is CaptureDrop
	Orig      int  // bytes on the wire
	Data      []byte
}

// Capture yields packets until closed. One goroutine.
type Capture interface {
	// Next blocks until a packet is there or ctx ends.
	Next(ctx context.Context) (Packet, error)
	// Lost counts packets that matched but found no room.
	Lost() uint64
	io.Closer
}

// Plane is the data plane. Methods are safe for concurrent use unless Core
// says otherwise. Every call that changes something returns after all cores did it.
type Plane interface {
	Info() Info
	Cores() []Core

	// AddInterface opens the queues and attaches them; the caller then points the XDP
	// program at them (Queue.FD). What the device decides (the MAC, MTU and index of one
	// that the plane makes) is written into cfg. On error nothing is left open.
	AddInterface(ctx context.Context, cfg *InterfaceConfig) (InterfaceID, []Queue, error)
	// DetachInterface closes the queues and marks it down (its device vanished);
	// connections stay until they time out.
	DetachInterface(ctx context.Context, id InterfaceID) error
	// ReattachInterface opens the queues again after DetachInterface.
	ReattachInterface(ctx context.Context, id InterfaceID, cfg *InterfaceConfig) ([]Queue, error)
	AddAddress(ctx context.Context, id InterfaceID, p netip.Prefix) error
	DelAddress(ctx context.Context, id InterfaceID, p netip.Prefix) error
	// Addresses lists all addresses of all interfaces, those that make themselves included.
	Addresses(ctx context.Context) ([]Address, error)
	// Observe shows the stack a frame that the kernel got, ARP or ICMPv6: it learns
	// from it (a neighbor's new MAC, a router's prefix) and answers nothing.
	Observe(ctx context.Context, id InterfaceID, frame []byte) error
	AddRoute(ctx context.Context, r Route) error
	DelRoute(ctx context.Context, r Route) error

	Listen(ctx context.Context, cfg *ListenConfig) (ListenerID, error)
	Unlisten(ctx context.Context, id ListenerID) error
	// Connect begins a connection: EventOpen or EventClosed follows for the handle.
	// A refusal known at once (no route, no port left, no room) is the error.
	Connect(ctx context.Context, cfg *ConnectConfig) (Handle, error)
	// BindUDP opens a UDP socket on every core; port 0 chooses one. The handles are
	// by core, local is the address it got. Datagrams come as EventDatagram to the
	// core they arrive on.
	BindUDP(ctx context.Context, local netip.AddrPort, dscp int) (handles []Handle, bound netip.AddrPort, err error)
	CloseUDP(ctx context.Context, handles []Handle) error
	// Drain refuses new connections and says GOAWAY on every NPRO session.
	Drain(ctx context.Context) error

	Counters(core int) Counters
	QueueStats(id InterfaceID) []QueueStats
	Connections(ctx context.Context) ([]Conn, error)
	// SetCongestionControl changes a live connection's. CodeStale: there is no such connection.
	SetCongestionControl(ctx context.Context, conn Handle, cc CongestionControl) error
	// SetUserTimeout sets how long a live connection waits for an acknowledgment before it
	// ends, 1 s to a day; 0: for ever. CodeInvalid, CodeStale.
	SetUserTimeout(ctx context.Context, conn Handle, d time.Duration) error
	// SetKeepAlive sets after how much silence a live connection probes its peer, 1 s to a
	// day; 0: never. CodeInvalid, CodeStale.
	SetKeepAlive(ctx context.Context, conn Handle, idle time.Duration) error
	// SetNoDelay says whether a live connection's small writes go out at once, or wait while
	// others are in flight. CodeStale.
	SetNoDelay(ctx context.Context, conn Handle, on bool) error
	Neighbors(ctx context.Context) ([]Neighbor, error)
	Capture(ctx context.Context, cfg *CaptureConfig) (Capture, error)

	// Close stops the cores, aborts every connection and frees all memory. No
	// Event or Packet may be used afterwards.
	Close() error
}
