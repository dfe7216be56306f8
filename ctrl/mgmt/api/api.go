package api

import "time"

// Schema is the value of every answer's schema field.
const Schema = "np/v1"

// Paths. Those with a trailing slash take one more segment.
const (
	PathLive           = "/livez"
	PathReady          = "/readyz"
	PathMetrics        = "/metrics"
	PathVersion        = "/v1/version"
	PathStatus         = "/v1/status"
	PathConns          = "/v1/connections"
	PathConn           = "/v1/connections/" // + ID
	PathDrops          = "/v1/drops"
	PathStats          = "/v1/stats"
	PathBackend        = "/v1/backend"
	PathInterfaces     = "/v1/interfaces"
	PathNeighbors      = "/v1/neighbors"
	PathListeners      = "/v1/listeners"
	PathPeers          = "/v1/peers"
	PathConfig         = "/v1/config" // shown with the origin of each value
	PathConfigHistory  = "/v1/config/history"
	PathConfigDiff     = "/v1/config/diff"     // POST: ConfigCandidate, or nothing for the files of npd
	PathConfigApply    = "/v1/config/apply"    // POST: ConfigCandidate
	PathConfigRollback = "/v1/config/rollback" // POST: ConfigRollback
	PathCapture        = "/v1/capture"         // GET: streams pcapng; query: CaptureQuery
	PathDrain          = "/v1/drain"           // POST
	PathLogLevel       = "/v1/log/level"
	PathCerts          = "/v1/certificates"
	PathCertsReload    = "/v1/certificates/reload" // POST, no body
	PathConnClose      = "/v1/connections/close"   // POST: CloseRequest
	PathConnSet        = "/v1/connections/set"     // POST: SetRequest
	CaptureLostName    = "Np-Capture-Lost"         // trailer of PathCapture: packets that found no room
)

// Error kinds; npctl turns them into its exit codes.
const (
	KindFailed      = "failed"        // 500, exit 1
	KindUsage       = "usage"         // 400, exit 2
	KindNotFound    = "not_found"     // 404, exit 4
	KindPermission  = "not_permitted" // 403, exit 5
	KindTimeout     = "timeout"       // 504, exit 6
	KindConflict    = "conflict"      // 409, exit 7
	KindUnavailable = "unavailable"   // 503, exit 1
	KindInvalid     = "invalid"       // 422, exit 1: a configuration, one error a line
)

// Error is the body of every answer that is not 2xx.
type Error struct {
	Schema string `json:"schema"`
	Kind   string `json:"kind"`
	Text   string `json:"error"`
}

// Version says what runs.
type Version struct {
	Schema  string `json:"schema"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

// Status is the daemon at a glance. State is starting, ready, degraded or draining; Problems
// has a line for each interface that is not up.
type Status struct {
	Schema        string      `json:"schema"`
	State         string      `json:"state"`
	Problems      []string    `json:"problems"`
	Version       string      `json:"version"`
	StartedAt     time.Time   `json:"started_at"`
	UptimeSeconds float64     `json:"uptime_seconds"`
	Backend       string      `json:"backend"`
	CryptoEngine  string      `json:"crypto_engine"`
	HugePageBytes uint64      `json:"huge_page_bytes"` // 0: ordinary pages
	PublicKey     string      `json:"public_key"`
	Cores         []Core      `json:"cores"`
	Interfaces    []Interface `json:"interfaces"`
	Connections   uint64      `json:"connections"`
	Sessions      uint64      `json:"npro_sessions"`
	Streams       uint64      `json:"npro_streams"`
	Handshakes    uint64      `json:"handshakes_in_flight"`
	BuffersFree   uint64      `json:"buffers_free"`
	Buffers       uint64      `json:"buffers"`
	RxPackets     uint64      `json:"rx_packets_total"`
	TxPackets     uint64      `json:"tx_packets_total"`
	Dropped       uint64      `json:"dropped_packets_total"`
}

// Core is one poll core. BusyRatio is over the time since the last status call, 0 to 1.
type Core struct {
	Core            int     `json:"core"`
	CPU             int     `json:"cpu"` // -1: not pinned
	BusyNanoseconds uint64  `json:"busy_nanoseconds_total"`
	Turns           uint64  `json:"turns_total"`
	Sleeps          uint64  `json:"sleeps_total"`
	BusyRatio       float64 `json:"busy_ratio"`
	Memory          Memory  `json:"memory"`
}

// Memory is what TCP holds of a core's buffers, in bytes of whole buffers, and how short they are.
type Memory struct {
	State               string `json:"state"` // ample, pressure, maximum, exhausted
	SendBytes           uint64 `json:"send_bytes"`
	ReceiveBytes        uint64 `json:"receive_bytes"` // handed up and not consumed, at most
	OutOfOrderBytes     uint64 `json:"out_of_order_bytes"`
	ShedBytes           uint64 `json:"shed_bytes_total"` // out-of-order data given up under pressure
	Pressures           uint64 `json:"pressures_total"`
	PressureNanoseconds uint64 `json:"pressure_nanoseconds_total"`
}

// Interface is one interface of the appliance.
type Interface struct {
	Name      string   `json:"name"`   // np0, or np0.100 for VLAN 100 of np0
	Device    string   `json:"device"` // the kernel's
	VLAN      uint16   `json:"vlan"`   // 0: untagged
	State     string   `json:"state"`  // up, starting, down
	Reason    string   `json:"reason,omitempty"`
	MAC       string   `json:"mac"`
	MTUBytes  int      `json:"mtu_bytes"`
	Addresses []string `json:"addresses"`
	// the stack's own view, link-local and learned ones included
	AddressStates []Address `json:"address_states"`
	Backend       string    `json:"backend"`  // the rung it is on, "" while its queues are closed
	XDPMode       string    `json:"xdp_mode"` // native, generic; "": no program
	ZeroCopy      bool      `json:"zero_copy"`
	// of the device: with its first interface, as are the program's counters
	Queues []Queue `json:"queues"`
	// of the XDP program
	Redirected   uint64 `json:"xdp_redirected_packets_total"`
	PassedKernel uint64 `json:"xdp_passed_packets_total"`
	XDPDropped   uint64 `json:"xdp_dropped_packets_total"`
}

// Address is an address as duplicate address detection has it.
type Address struct {
	Address   string `json:"address"`
	State     string `json:"state"`  // tentative, duplicate, preferred, deprecated
	Origin    string `json:"origin"` // configured, link-local, router
	Conflicts uint32 `json:"conflicts_total"`
	Rival     string `json:"rival,omitempty"`         // MAC that claimed it last
	Valid     *int64 `json:"valid_seconds,omitempty"` // left; absent: for ever
	Preferred *int64 `json:"preferred_seconds,omitempty"`
}

// Queue is one port queue.
type Queue struct {
	Queue      int    `json:"queue"`
	Core       int    `json:"core"`
	RxPackets  uint64 `json:"rx_packets_total"`
	RxBytes    uint64 `json:"rx_bytes_total"`
	TxPackets  uint64 `json:"tx_packets_total"`
	TxBytes    uint64 `json:"tx_bytes_total"`
	RxDropped  uint64 `json:"rx_dropped_packets_total"`
	RxRingFull uint64 `json:"rx_ring_full_total"`
	FillEmpty  uint64 `json:"fill_ring_empty_total"`
	TxInvalid  uint64 `json:"tx_invalid_total"`
	Wakeups    uint64 `json:"wakeups_total"`
}

// Interfaces answers PathInterfaces.
type Interfaces struct {
	Schema     string      `json:"schema"`
	Interfaces []Interface `json:"interfaces"`
}

// UnixPeer is who is at the other end of a Unix socket.
type UnixPeer struct {
	PID uint32 `json:"pid"`
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// Conn is a connection, with the vocabulary of `ss -ti`.
type Conn struct {
	ID                string    `json:"id"` // hexadecimal handle
	Listener          string    `json:"listener,omitempty"`
	Protocol          string    `json:"protocol"` // npro, echo, ...
	Local             string    `json:"local"`
	Remote            string    `json:"remote"`
	State             string    `json:"state"`
	SessionState      string    `json:"session_state,omitempty"`
	Peer              string    `json:"peer,omitempty"`        // name of the [[peer]] entry
	PeerKey           string    `json:"peer_key,omitempty"`    // its public key
	Pattern           string    `json:"pattern,omitempty"`     // XX, IK, NX, NNpsk0, with +mlkem768 when hybrid
	AEAD              string    `json:"aead,omitempty"`        // aes-256-gcm, xchacha20-poly1305
	Compression       string    `json:"compression,omitempty"` // lz4, zstd
	ConnectionID      string    `json:"connection_id,omitempty"`
	Core              int       `json:"core"`
	Backend           string    `json:"backend"`
	Outgoing          bool      `json:"outgoing"`
	Unix              *UnixPeer `json:"unix,omitempty"` // of a Unix socket: who is at the other end
	CreatedAt         time.Time `json:"created_at"`
	LastReceivedMs    float64   `json:"last_received_ms"` // ago
	BytesReceived     uint64    `json:"bytes_received"`
	BytesSent         uint64    `json:"bytes_sent"`
	BytesRetrans      uint64    `json:"bytes_retransmitted"`
	SegmentsReceived  uint64    `json:"segments_received"`
	SegmentsSent      uint64    `json:"segments_sent"`
	FramesReceived    uint64    `json:"frames_received"`
	FramesSent        uint64    `json:"frames_sent"`
	Streams           uint32    `json:"streams"`
	SendQueueBytes    uint32    `json:"send_queue_bytes"`
	ReceiveQueueBytes uint32    `json:"receive_queue_bytes"`
	TCP               TCP       `json:"tcp"`
}

// TCP is a connection's transport state.
type TCP struct {
	MSSBytes        uint32  `json:"mss_bytes"`
	PMTUBytes       uint32  `json:"pmtu_bytes"`
	CwndBytes       uint32  `json:"cwnd_bytes"`
	SsthreshBytes   uint32  `json:"ssthresh_bytes,omitempty"`
	SndWndBytes     uint32  `json:"snd_wnd_bytes"`
	RcvWndBytes     uint32  `json:"rcv_wnd_bytes"`
	WscaleSnd       uint8   `json:"wscale_snd"`
	WscaleRcv       uint8   `json:"wscale_rcv"`
	Timestamps      bool    `json:"timestamps"`
	SACK            bool    `json:"sack"`
	RTTMs           float64 `json:"rtt_ms"`
	RTTVarMs        float64 `json:"rttvar_ms"`
	RTOMs           float64 `json:"rto_ms"`
	MinRTTMs        float64 `json:"minrtt_ms"`
	InflightBytes   uint32  `json:"inflight_bytes"`
	SackedBytes     uint32  `json:"sacked_bytes"`
	LostBytes       uint32  `json:"lost_bytes"`
	OutOfOrderBytes uint32  `json:"out_of_order_bytes"`
	Retrans         uint32  `json:"retransmits_total"`
	Timeouts        uint32  `json:"timeouts_total"`
	Limited         string  `json:"limited,omitempty"`
	RcvRTTMs        float64 `json:"rcv_rtt_ms"`
	RcvSpaceBytes   uint32  `json:"rcv_space_bytes"`
	RcvBufBytes     uint32  `json:"rcv_buf_bytes"`
	SndBufBytes     uint32  `json:"snd_buf_bytes"`

	CAState    string  `json:"ca_state,omitempty"` // open, disorder, cwr, recovery, loss
	Backoff    uint8   `json:"backoff,omitempty"`  // times the RTO is doubled
	ReoWndMs   float64 `json:"reo_wnd_ms"`         // RACK's reordering window
	DSACKs     uint32  `json:"dsacks_total"`       // duplicates that the peer reported
	Reordering uint16  `json:"reordering_total"`   // segments delivered after later ones
	TailProbes uint16  `json:"tail_probes_total"`
	Undos      uint16  `json:"undos_total"` // recoveries and timeouts that were for nothing

	UserTimeoutMs float64 `json:"user_timeout_ms"`      // 0: none
	UnackedMs     float64 `json:"unacked_ms,omitempty"` // so long nothing of what is in flight was acknowledged

	CongestionControl string `json:"congestion_control"`
	ECN               bool   `json:"ecn"`                       // agreed (RFC 3168)
	CESeen            bool   `json:"ecn_ce_seen,omitempty"`     // marks came
	ECESeen           bool   `json:"ecn_ece_seen,omitempty"`    // the peer echoed marks
	PacingBps         uint64 `json:"pacing_rate_bps,omitempty"` // bits per second; absent: not paced
	DeliveryBps       uint64 `json:"delivery_rate_bps,omitempty"`
	BBR               *BBR   `json:"bbr,omitempty"`
}

// BBR is the state of a connection under BBR.
type BBR struct {
	Phase           string  `json:"phase"` // STARTUP, DRAIN, PROBE_BW_DOWN, _CRUISE, _REFILL, _UP, PROBE_RTT
	BandwidthBps    uint64  `json:"bandwidth_bps"`
	MinRTTMs        float64 `json:"min_rtt_ms"`
	PacingGain      float64 `json:"pacing_gain"`
	CwndGain        float64 `json:"cwnd_gain"`
	InflightHiBytes uint32  `json:"inflight_hi_bytes,omitempty"` // absent: no bound
	InflightLoBytes uint32  `json:"inflight_lo_bytes,omitempty"`
}

// Conns answers PathConns. Query: state, listener, peer, protocol (exact), limit (default 1000).
type Conns struct {
	Schema      string `json:"schema"`
	Total       int    `json:"total"`
	Connections []Conn `json:"connections"`
}

// ConnAnswer answers PathConn.
type ConnAnswer struct {
	Schema     string `json:"schema"`
	Connection Conn   `json:"connection"`
}

// Counter is one value of the ledger.
type Counter struct {
	Name  string `json:"name"`
	Layer string `json:"layer,omitempty"` // drops
	Value uint64 `json:"value"`
	Help  string `json:"help"`
}

// Drops answers PathDrops: every reason, zero ones too, summed over cores, those of layer xdp
// over devices (packets no core ever received), and the ledger that must sum (see csrc/include/np/np_counter.def).
type Drops struct {
	Schema string    `json:"schema"`
	Drops  []Counter `json:"drops"`
	Ledger Ledger    `json:"ledger"`
}

// Ledger is the packet and frame equation.
type Ledger struct {
	RxPackets       uint64 `json:"rx_packets"`
	Delivered       uint64 `json:"delivered_packets"`
	Passed          uint64 `json:"passed_packets"` // handed to the kernel by a core
	Dropped         uint64 `json:"dropped_packets"`
	Held            uint64 `json:"held_fragments"` // wait for the rest of their datagrams
	FramesReceived  uint64 `json:"npro_frames_received"`
	FramesDelivered uint64 `json:"npro_frames_delivered"`
	FramesDropped   uint64 `json:"npro_frames_dropped"`
	Balanced        bool   `json:"balanced"`
}

// Stats answers PathStats: every counter, summed over cores, and by core.
type Stats struct {
	Schema   string      `json:"schema"`
	Counters []Counter   `json:"counters"`
	Cores    []CoreStats `json:"cores"`
}

// CoreStats is one core's counters, in the order of Stats.Counters.
type CoreStats struct {
	Core   int      `json:"core"`
	Values []uint64 `json:"values"`
}

// Backend answers PathBackend. Backends is each interface's and listener's; Ladder
// says, rung by rung, what was tried. The first three are of [dataplane] and all interfaces.
type Backend struct {
	Schema    string       `json:"schema"`
	Requested string       `json:"requested"`
	Actual    string       `json:"actual"`
	Reason    string       `json:"reason"` // why actual differs, "" when it does not
	Backends  []BackendUse `json:"backends"`
	Ladder    []Rung       `json:"ladder"`
}

// BackendRequest gives an interface another backend until npd ends, or the same one a
// new try; the answer is Backend.
type BackendRequest struct {
	Schema    string `json:"schema"`
	Interface string `json:"interface"`
	Backend   string `json:"backend"` // auto, dpdk, af_xdp, af_packet
	Device    string `json:"device,omitempty"`
}

// BackendUse is what one interface or listener asked for and has.
type BackendUse struct {
	Kind      string `json:"kind"` // interface, listener
	Name      string `json:"name"`
	Device    string `json:"device,omitempty"` // DPDK's
	Requested string `json:"requested"`
	Actual    string `json:"actual"` // a rung, or none
	Reason    string `json:"reason"` // why a better one is not in use, or why none is
}

// Rung is one backend tried on one interface or listener.
type Rung struct {
	Interface string `json:"interface,omitempty"`
	Listener  string `json:"listener,omitempty"`
	Backend   string `json:"backend"` // af_xdp zero-copy, af_xdp copy, ...
	Chosen    bool   `json:"chosen"`
	Skipped   bool   `json:"skipped"` // it does not apply there
	Reason    string `json:"reason,omitempty"`
	Cure      string `json:"cure,omitempty"` // the command that would help
}

// Neighbors answers PathNeighbors.
type Neighbors struct {
	Schema    string     `json:"schema"`
	Neighbors []Neighbor `json:"neighbors"`
}

// Neighbor is an ARP or ND entry of one core.
type Neighbor struct {
	Address    string  `json:"address"`
	MAC        string  `json:"mac"`
	Interface  string  `json:"interface"`
	State      string  `json:"state"`
	AgeSeconds float64 `json:"age_seconds"`
	Core       int     `json:"core"`
}

// Listeners answers PathListeners.
type Listeners struct {
	Schema    string     `json:"schema"`
	Listeners []Listener `json:"listeners"`
}

// Listener is one listener.
type Listener struct {
	Name           string `json:"name"`
	Address        string `json:"address"`
	Protocol       string `json:"protocol"`
	TLS            bool   `json:"tls"`
	Connections    int    `json:"connections"`
	MaxConnections int    `json:"max_connections"` // 0: none of its own
	Accepted       uint64 `json:"accepted_total"`  // of npro and with TLS; else nobody counts them by listener, and it is 0
	AllowV1        bool   `json:"allow_v1"`
	Backend        string `json:"backend"` // stack, io_uring, epoll

	CongestionControl string `json:"congestion_control"`

	Service *ListenerService `json:"service,omitempty"` // of listeners with TLS, and of protocol http
	HTTP    *ListenerHTTP    `json:"http,omitempty"`    // of protocol http
}

// ListenerHTTP counts the requests of a listener of protocol http.
type ListenerHTTP struct {
	Total     uint64            `json:"requests_total"`
	InFlight  int64             `json:"requests_in_flight"`
	Requests  map[string]uint64 `json:"requests_total_by_protocol"`
	Refused   uint64            `json:"refused_total"` // before they were looked at: not valid, too large, too slow
	Refusals  map[string]uint64 `json:"refused_total_by_reason"`
	Broken    map[string]uint64 `json:"connections_broken_off_total_by_reason"` // refused ones too
	Passed    uint64            `json:"passthrough_connections_total"`
	Passing   int64             `json:"passthrough_connections"`
	PassedIn  uint64            `json:"passthrough_received_bytes_total"`
	PassedOut uint64            `json:"passthrough_sent_bytes_total"`
	Panics    uint64            `json:"panics_total"`
}

// ListenerService counts the connections of a listener with TLS.
type ListenerService struct {
	Refused          uint64 `json:"refused_total"`
	Failed           uint64 `json:"failed_total"`            // accepted, and ended otherwise than in good order
	FailedHandshakes uint64 `json:"failed_handshakes_total"` // of those
}

// Peers answers PathPeers.
type Peers struct {
	Schema   string `json:"schema"`
	AllowAny bool   `json:"allow_any_peer"`
	Peers    []Peer `json:"peers"`
}

// Peer is a configured identity.
type Peer struct {
	Name        string   `json:"name"`
	PublicKey   string   `json:"public_key"`
	Allow       []string `json:"allow"`
	Connections int      `json:"connections"`
}

// Config answers PathConfig; secrets are never in it.
type Config struct {
	Schema string        `json:"schema"`
	Values []ConfigValue `json:"values"`
}

// ConfigValue is one key with where its value came from: default, file:line:column,
// environment NAME or flag.
type ConfigValue struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// CaptureQuery names the query parameters of PathCapture.
const (
	CaptureFilter    = "filter"     // tcpdump's language
	CaptureInterface = "interface"  // name
	CaptureConn      = "conn"       // ID
	CaptureListener  = "listener"   // name or port
	CaptureDir       = "dir"        // comma-separated rx, tx, drop; default all
	CaptureCount     = "count"      // packets, then it ends
	CaptureSnap      = "snap_bytes" // of each packet
)

// SetRequest is the body of PathConnSet.
type SetRequest struct {
	ID                string `json:"id"`
	CongestionControl string `json:"congestion_control,omitempty"` // cubic, newreno, bbr
	// How long sent data may stay unacknowledged: 1000 to 86400000, 0 for ever. Absent: as it is.
	UserTimeoutMs *uint32 `json:"user_timeout_ms,omitempty"`
}

// CloseRequest is the body of PathConnClose.
type CloseRequest struct {
	ID    string `json:"id"`
	Abort bool   `json:"abort"`
}

// LogLevel is body and answer of PathLogLevel: debug, info, warn, error.
type LogLevel struct {
	Schema string `json:"schema"`
	Level  string `json:"level"`
}

// Done answers changes that have nothing to tell.
type Done struct {
	Schema string `json:"schema"`
	Done   bool   `json:"done"`
}

// Certificates answers PathCerts and PathCertsReload.
type Certificates struct {
	Schema       string        `json:"schema"`
	Certificates []Certificate `json:"certificates"`
}

// Certificate is one in force; keys are never shown.
type Certificate struct {
	CertFile    string    `json:"cert_file"`
	KeyFile     string    `json:"key_file"`
	Names       []string  `json:"names"` // that select it
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Serial      string    `json:"serial"` // hexadecimal
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	SecondsLeft int64     `json:"seconds_left"`
	KeyType     string    `json:"key_type"`
	Pin         string    `json:"pin_sha256"` // base64, of the SubjectPublicKeyInfo
}

// HostNICs is what npctl nic list --all prints: the machine's cards, npd's or not.
type HostNICs struct {
	Schema string    `json:"schema"`
	NICs   []HostNIC `json:"nics"`
}

// HostNIC is a network card or an interface of the machine.
type HostNIC struct {
	Name       string  `json:"name"`   // the kernel's, or the one before it was bound, or the PCI address
	Kernel     bool    `json:"kernel"` // the kernel has an interface of it
	State      string  `json:"state"`  // up, down, no carrier, not the kernel's
	PCI        string  `json:"pci,omitempty"`
	PCIID      string  `json:"pci_id,omitempty"`
	Driver     string  `json:"driver"`
	NUMANode   int     `json:"numa_node"` // -1 none or unknown
	RXQueues   int     `json:"rx_queues"`
	TXQueues   int     `json:"tx_queues"`
	SpeedBps   *uint64 `json:"speed_bps"` // null unknown
	MAC        string  `json:"mac,omitempty"`
	MTUBytes   int     `json:"mtu_bytes"`
	IOMMUGroup string  `json:"iommu_group,omitempty"`
	Upper      string  `json:"upper,omitempty"` // the bond or bridge it is a part of
}

// BoundNIC is what npctl nic bind and unbind print.
type BoundNIC struct {
	Schema       string     `json:"schema"`
	Name         string     `json:"name"`
	PCI          string     `json:"pci"`
	Driver       string     `json:"driver"`
	HadDriver    string     `json:"had_driver"`
	HadAddresses []string   `json:"had_addresses"`
	Confirmed    bool       `json:"confirmed"`
	Deadline     *time.Time `json:"deadline,omitempty"` // given back then
}

// Doctor is what npctl doctor prints.
type Doctor struct {
	Schema  string    `json:"schema"`
	OK      int       `json:"ok"`
	Warn    int       `json:"warn"`
	Fail    int       `json:"fail"`
	Results []Finding `json:"results"`
	Fixed   []Fixed   `json:"fixed"` // by --fix, before the results
}

// Finding is what one check says of one thing.
type Finding struct {
	Check   string `json:"check"`
	On      string `json:"on,omitempty"` // an interface, a CPU, a node; absent: the machine
	Result  string `json:"result"`       // ok, warn, fail
	Found   string `json:"found"`
	Cost    string `json:"cost,omitempty"`
	Cure    string `json:"cure,omitempty"` // a command
	Fixable bool   `json:"fixable"`        // --fix does it
}

// Fixed is what --fix did.
type Fixed struct {
	Check string `json:"check"`
	On    string `json:"on,omitempty"`
	What  string `json:"what"`
	Back  string `json:"back"` // the command that takes it back
	Done  bool   `json:"done"`
	Error string `json:"error,omitempty"`
}
