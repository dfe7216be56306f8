package config

import (
	"net/netip"
	"slices"
	"time"
)

// Size is a number of bytes, written "16MiB", "64KiB" or a bare integer.
type Size int64

// CPUs are the CPUs of the poll cores, written as a list ("2-3", [2, 3]) or a count
// (2), which is a list of AnyCPU: as many of those that the process may use.
type CPUs []int

// AnyCPU stands for a CPU that Place chooses.
const AnyCPU = -1

// Config is everything npd can be told. Field tags are the schema: key is the
// TOML key, default its default, oneof the words it may be, min and max its
// bounds, doc one line for the example and the manual. Treat it as immutable.
type Config struct {
	Server     Server      `key:"server" doc:"what holds for all listeners"`
	Client     Client      `key:"client" doc:"defaults for programs that use the Go SDK with this file; npd itself does not use them"`
	Transport  Transport   `key:"transport" doc:"messages"`
	Logging    Logging     `key:"logging" doc:"logs"`
	Dataplane  Dataplane   `key:"dataplane" doc:"poll cores and how packets reach them"`
	Interfaces []Interface `key:"interface" doc:"a network interface the appliance speaks by"`
	Exception  Exception   `key:"exception" doc:"what the kernel gets of the appliance's devices: what is not for the appliance's addresses goes to it in any case"`
	Routes     []Route     `key:"route_ip" doc:"an IP route of the appliance's own stack"`
	TCP        TCP         `key:"tcp" doc:"the TCP stack; 0 means the stack's own default"`
	Listeners  []Listener  `key:"listener" doc:"an address and what answers there"`
	RDMA       RDMA        `key:"rdma" doc:"streams over RDMA devices"`
	TLS        TLS         `key:"tls" doc:"TLS of listeners that ask for it"`
	Certs      []Cert      `key:"certificate" doc:"a certificate of the TLS listeners; a client's server name picks one, the first is for all others"`
	Upstreams  []Upstream  `key:"upstream" doc:"endpoints that do the same, for routes"`
	Pool       Pool        `key:"pool" doc:"connections to endpoints of upstreams that say nothing else"`
	HTTPRoutes []HTTPRoute `key:"route" doc:"which requests go where"`
	Auths      []Auth      `key:"auth" doc:"somebody who can tell who asks"`
	Rates      []RateLimit `key:"rate_limit" doc:"requests in a time, counted over all routes that use it"`
	Shedders   []Shedder   `key:"load_shedding" doc:"a limit on requests at a time that follows latency, over all routes that use it"`
	AccessLog  AccessLog   `key:"access_log" doc:"requests of HTTP"`
	Tracing    Tracing     `key:"tracing" doc:"spans of requests"`
	Protocol   Protocol    `key:"protocol" doc:"NPRO version 2: identity, encryption, flow control"`
	Handshake  Handshake   `key:"handshake" doc:"limits of handshakes"`
	Peers      []Peer      `key:"peer" doc:"a peer by its public key, and what it may call"`
	Management Management  `key:"management" doc:"the sockets npctl talks to"`
	Metrics    Metrics     `key:"metrics" doc:"Prometheus metrics; always at /metrics of the management sockets too"`
	Limits     Limits      `key:"limits" doc:"what bounds memory and work"`

	main    Source         // the first file
	origins map[string]Pos // value path -> where it was set; absent: default
	places  map[string]Pos // key or header path -> where it stands
}

// Server is [server].
type Server struct {
	Address           netip.AddrPort `key:"address" default:":7700" doc:"NPRO listener used when there is no [[listener]]"`
	BackpressureLimit int            `key:"backpressure_limit" default:"32" min:"1" max:"65536" doc:"requests of one connection with handlers at a time; more wait unread"`
	ConnectionTimeout time.Duration  `key:"connection_timeout" default:"5s" min:"10ms" doc:"longest pause inside a message sent in several frames"`
	HeartbeatInterval time.Duration  `key:"heartbeat_interval" default:"15s" doc:"PING after this long without sending; three without receiving end a connection; 0 off"`
	ShutdownTimeout   time.Duration  `key:"shutdown_timeout" default:"10s" doc:"how long SIGTERM waits for requests in flight"`
	MaxConnections    int            `key:"max_connections" default:"1000" min:"1" max:"8388608" doc:"connections at a time on one listener, unless it says otherwise"`
}

// Client is [client].
type Client struct {
	Address              string        `key:"address" default:"" doc:"host:port of the server"`
	ConnectionTimeout    time.Duration `key:"connection_timeout" default:"5s" doc:"TCP connect and handshake"`
	OperationTimeout     time.Duration `key:"operation_timeout" default:"3s" doc:"one send"`
	ResponseTimeout      time.Duration `key:"response_timeout" default:"30s" doc:"one request until its response"`
	HeartbeatInterval    time.Duration `key:"heartbeat_interval" default:"15s" doc:"as in [server]"`
	AutoReconnect        bool          `key:"auto_reconnect" default:"true" doc:"connect again when the connection breaks"`
	MaxReconnectAttempts int           `key:"max_reconnect_attempts" default:"3" min:"0" doc:"in a row"`
	ReconnectDelay       time.Duration `key:"reconnect_delay" default:"1s" doc:"before the first attempt; doubles"`
}

// Transport is [transport].
type Transport struct {
	CompressionEnabled bool `key:"compression_enabled" default:"false" doc:"compressing secrets beside text an attacker chose leaks them"`
	EncryptionEnabled  bool `key:"encryption_enabled" default:"true" doc:"cannot be switched off in this version"`
	MaxPayloadSize     Size `key:"max_payload_size" default:"16MiB" min:"1KiB" max:"1GiB" doc:"of one message, after decompression"`
	CompressionLevel   int  `key:"compression_level" default:"1" min:"1" max:"19" doc:"zstd's; LZ4 has none"`
}

// Logging is [logging].
type Logging struct {
	AppName      string `key:"app_name" default:"npd" doc:"field app of each line"`
	LogLevel     string `key:"log_level" default:"info" oneof:"debug|info|warn|error" doc:"least severe that is written"`
	LogToConsole bool   `key:"log_to_console" default:"true" doc:"standard error"`
	LogToFile    bool   `key:"log_to_file" default:"false" doc:"append to log_file_path; USR1 opens it again"`
	LogFilePath  string `key:"log_file_path" default:"/var/log/np/npd.log" doc:""`
	JSONFormat   bool   `key:"json_format" default:"false" doc:"JSON lines instead of text"`
}

// Dataplane is [dataplane].
type Dataplane struct {
	Backend        string `key:"backend" default:"auto" oneof:"auto|dpdk|af_xdp|af_packet|tap" doc:"of interfaces that don't say: auto tries dpdk (with a device), af_xdp zero-copy, af_xdp copy, af_packet; another word begins there"`
	OnFallback     string `key:"on_fallback" default:"warn" oneof:"allow|warn|fail" doc:"when an interface or listener gets a lower backend than it asked for"`
	Cores          CPUs   `key:"cores" default:"1" doc:"CPUs of the poll cores: a list (\"1-3\", [2, 3]), or a count (2: the first two that npd may use; more cores than CPUs take turns on them)"`
	Steering       string `key:"steering" default:"auto" oneof:"auto|device|software" doc:"which core gets a flow: device: the one whose queue the device picks; software: by a hash, handed on by the core that received it; auto: software where an interface has fewer queues than there are cores"`
	Hugepages      string `key:"hugepages" default:"auto" oneof:"auto|off|must|reserve" doc:"2 MiB pages for packet memory: auto when there are any; reserve makes npd reserve them on the cores' NUMA nodes while it runs"`
	Crypto         string `key:"crypto" default:"auto" oneof:"auto|portable" doc:"portable: libcrypto even where libipsec-mb works"`
	GRO            bool   `key:"gro" default:"true" doc:"join received TCP segments of a burst that continue each other"`
	Idle           Idle   `key:"idle" doc:""`
	UDPEchoPort    int    `key:"udp_echo_port" default:"0" min:"0" max:"65535" doc:"UDP port that echoes; 0 none"`
	UDPDiscardPort int    `key:"udp_discard_port" default:"0" min:"0" max:"65535" doc:"UDP port that swallows; 0 none"`
}

// Idle is [dataplane.idle].
type Idle struct {
	Spin  time.Duration `key:"spin" default:"50us" doc:"a core without work spins this long before it sleeps"`
	Sleep bool          `key:"sleep" default:"true" doc:"false: cores spin for ever"`
}

// Interface is one [[interface]].
type Interface struct {
	Name         string         `key:"name" need:"an interface name such as \"np0\"" doc:"the kernel's name"`
	Addresses    []netip.Prefix `key:"addresses" need:"at least one address with prefix length, such as \"198.18.0.1/24\"" doc:"the appliance's own; the kernel must not have them, but for ports of [exception]"`
	MTU          int            `key:"mtu" default:"0" min:"0" max:"9000" doc:"0: the device's, at most 9000; above 3506 a frame takes several buffers (native mode, Linux 6.6)"`
	Queues       int            `key:"queues" default:"0" min:"0" max:"64" doc:"receive queues to open; 0: all the device has"`
	ZeroCopy     string         `key:"zero_copy" default:"auto" oneof:"auto|off|must" doc:"AF_XDP zero-copy"`
	XDPMode      string         `key:"xdp_mode" default:"auto" oneof:"auto|native|generic" doc:"how the XDP program is attached"`
	VLAN         int            `key:"vlan" default:"0" min:"0" max:"4094" doc:"0: untagged; further entries of the same name and other VLANs share the device"`
	DADTransmits int            `key:"dad_transmits" default:"1" min:"0" max:"16" doc:"probes, a second each, before an IPv6 address is used (RFC 4862); 0: used at once"`
	ACD          bool           `key:"acd" default:"false" doc:"probe before an IPv4 address is used (RFC 5227): six seconds"`
	AcceptRA     bool           `key:"accept_ra" default:"false" doc:"take IPv6 addresses and default routes from routers (RFC 4861, RFC 4862)"`
	Backend      string         `key:"backend" default:"inherit" oneof:"inherit|auto|dpdk|af_xdp|af_packet|tap" doc:"inherit: [dataplane] backend; tap makes a device of that name"`
	Device       string         `key:"device" default:"" doc:"for dpdk: a PCI address such as \"0000:00:04.0\", or a virtual device with its arguments such as \"net_memif0,role=client\""`
	ExceptionTAP string         `key:"exception_tap" default:"" doc:"the TAP of [exception]; by default the name with x behind it (np0x)"`
	Gateway      []netip.Addr   `key:"gateway" default:"" doc:"default routes, one IPv4 and one IPv6 at most"`
	Filter       Filter         `key:"filter" doc:"of the device, so only its first [[interface]] may have one"`
}

// Filter is [interface.filter]: what the XDP program drops by source.
type Filter struct {
	Deny      []netip.Prefix `key:"deny" default:"" doc:"sources whose packets are dropped; of all entries that hold a source the longest decides"`
	Allow     []netip.Prefix `key:"allow" default:"" doc:"sources that pass though a shorter deny holds them, and that no rate limits"`
	RatePPS   int            `key:"rate_pps" default:"0" min:"0" max:"10000000" doc:"packets a second from one source, an IPv4 address or an IPv6 /64; 0 no limit"`
	RateBurst int            `key:"rate_burst" default:"0" min:"0" max:"1000000" doc:"packets at once after a pause; 0: rate_pps of them"`
	RateSYN   int            `key:"rate_syn" default:"0" min:"0" max:"10000000" doc:"TCP connection attempts a second from one source; 0 no limit"`
	SYNBurst  int            `key:"syn_burst" default:"0" min:"0" max:"1000000" doc:"attempts at once after a pause; 0: rate_syn of them"`
	ApplyTo   string         `key:"apply_to" default:"own" oneof:"own|all" doc:"own: to packets for the appliance; all: to the kernel's, SSH to this host among them, as well"`
}

// Route is one [[route_ip]].
type Route struct {
	Prefix    netip.Prefix `key:"prefix" need:"a prefix such as \"203.0.113.0/24\"" doc:"destination"`
	Via       netip.Addr   `key:"via" default:"" doc:"next hop; without it the prefix is on link"`
	Interface string       `key:"interface" default:"" doc:"an [[interface]]: its name, or np0.100 for VLAN 100 of np0; may be left out when via tells it"`
}

// TCP is [tcp].
type TCP struct {
	ReceiveBuffer Size          `key:"receive_buffer" default:"0" min:"0" max:"64MiB" doc:"per connection at most"`
	SendBuffer    Size          `key:"send_buffer" default:"0" min:"0" max:"64MiB" doc:"per connection at most"`
	AutoTuning    bool          `key:"auto_tuning" default:"true" doc:"buffers begin small and grow to what the path needs; false: as large as they may be from the start"`
	InitialWindow Size          `key:"initial_receive_window" default:"64KiB" min:"4KiB" max:"1MiB" doc:"what the receive buffer begins with, and a peer may send unasked; of more than 64 KiB it hears after the handshake"`
	KeepaliveIdle time.Duration `key:"keepalive_idle" default:"0" doc:"silence before keep-alive probes"`
	UserTimeout   time.Duration `key:"user_timeout" default:"0" doc:"unacknowledged data older than this ends a connection"`
	TimeWait      time.Duration `key:"time_wait" default:"0" doc:"length of TIME-WAIT"`
	MinRTO        time.Duration `key:"min_rto" default:"0" doc:"shortest retransmission timeout"`
	DelayedAck    time.Duration `key:"delayed_ack" default:"0" max:"500ms" doc:"longest delay of an acknowledgment"`
	QuickAcks     int           `key:"quick_acks" default:"16" min:"0" max:"256" doc:"full segments at a connection's begin that are acknowledged each"`
	Nagle         bool          `key:"nagle" default:"false" doc:"collect small segments (RFC 9293 §3.7.4)"`
	SACK          bool          `key:"sack" default:"true" doc:"RFC 2018"`
	Timestamps    bool          `key:"timestamps" default:"true" doc:"RFC 7323"`
	WindowScaling bool          `key:"window_scaling" default:"true" doc:"RFC 7323"`
	PersistLimit  time.Duration `key:"persist_timeout" default:"0" doc:"a peer that keeps its window shut this long is reset though it answers; 0 never, but ten seconds will do while buffers are short"`
	ChallengeAcks int           `key:"challenge_acks" default:"0" min:"0" max:"1000000" doc:"challenge ACKs of one core in a second, about (RFC 5961 §7); 1000 by default"`
	Resets        int           `key:"resets" default:"0" min:"0" max:"1000000" doc:"resets of one core in a second, about, to segments that belong to no connection; 10000 by default"`
	MinSendMSS    int           `key:"min_send_mss" default:"0" min:"0" max:"1220" doc:"payload bytes of a full segment at least, whatever a peer asks for; 216 by default"`
	TTL           int           `key:"ttl" default:"0" min:"0" max:"255" doc:"time to live and IPv6 hop limit of what TCP sends; 0: 64, and for IPv6 what a router says (accept_ra)"`
	OOORuns       int           `key:"out_of_order_runs" default:"128" min:"8" max:"4096" doc:"pieces of out-of-order data with holes between them that a connection holds; more where each is a segment on the average"`
	SYNCookies    bool          `key:"syn_cookies" default:"true" doc:"when a backlog is full (RFC 4987)"`

	CongestionControl string `key:"congestion_control" default:"cubic" oneof:"cubic|newreno|bbr" doc:"RFC 9438; RFC 5681 and 6582; BBR version 3"`
	Pacing            string `key:"pacing" default:"auto" oneof:"auto|on|off" doc:"on: cubic and newreno send at a rate too; BBR always does"`
	MTUProbing        string `key:"mtu_probing" default:"blackhole" oneof:"off|blackhole|always" doc:"RFC 4821, 8899: find the path's MTU without ICMP, when full-sized segments vanish or on each connection"`
	ECN               string `key:"ecn" default:"accept" oneof:"off|accept|request" doc:"RFC 3168: accept when the peer asks, request in our own SYNs too"`
}

// Listener is one [[listener]].
type Listener struct {
	Name           string  `key:"name" need:"a name such as \"npro\"" doc:""`
	Address        Address `key:"address" need:"an address such as \"198.18.0.1:7700\", \":7700\" for all, or \"unix:/run/np/npro.sock\"" doc:"of an [[interface]], of the kernel, or a Unix socket's path"`
	Protocol       string  `key:"protocol" default:"npro" oneof:"npro|http|echo|discard|chargen" doc:"npro, http (see [[route]]), or plain TCP echo, discard and chargen"`
	Backlog        int     `key:"backlog" default:"512" min:"1" max:"65536" doc:"connections being opened"`
	MaxConnections int     `key:"max_connections" default:"0" min:"0" max:"8388608" doc:"0: [server] max_connections"`

	CongestionControl string `key:"congestion_control" default:"inherit" oneof:"inherit|cubic|newreno|bbr" doc:"inherit: [tcp] congestion_control"`
	Backend           string `key:"backend" default:"auto" oneof:"auto|stack|io_uring|epoll|net|rdma" doc:"auto: the stack for addresses of an [[interface]], else kernel sockets by io_uring or epoll, for http by net: Go's own, without a poll core between; rdma: see [rdma]"`
	TLS               bool   `key:"tls" default:"false" doc:"TLS as [tls] says, with the certificates of [[certificate]]; not for npro, which is encrypted by itself"`
	Mode              string `key:"mode" default:"0660" doc:"of a Unix socket: who may write to it may connect"`
	Owner             string `key:"owner" default:"" doc:"of a Unix socket: a user; none: whom npd runs as"`
	Group             string `key:"group" default:"" doc:"of a Unix socket"`

	IdleTimeout time.Duration `key:"idle_timeout" default:"0" max:"24h" doc:"of echo, discard and chargen with TLS: a connection on which nothing moves so long is ended; 0 never"`

	HTTP  HTTP          `key:"http" doc:"of protocol http"`
	Authz ListenerAuthz `key:"authz" doc:"which connections are let in; of protocol http, npro, or with TLS"`

	DSCP int `key:"dscp" default:"0" min:"0" max:"63" doc:"Differentiated Services code point of what it sends (RFC 2474); 46 is expedited forwarding"`
}

// TLS is [tls].
type TLS struct {
	MinVersion       string        `key:"min_version" default:"1.2" oneof:"1.2|1.3" doc:"oldest version that is spoken"`
	PostQuantum      string        `key:"post_quantum" default:"auto" oneof:"auto|off|require" doc:"X25519MLKEM768: auto prefers it, require allows nothing else (and TLS 1.3 only)"`
	ALPN             []string      `key:"alpn" default:"" doc:"protocols taken, the best first; none: whatever the listener's protocol says"`
	ClientAuth       string        `key:"client_auth" default:"none" oneof:"none|request|require" doc:"certificates of clients: request verifies one that is shown"`
	ClientCAFile     string        `key:"client_ca_file" default:"" doc:"PEM: who issues clients' certificates"`
	ClientPins       []string      `key:"client_pins" default:"" doc:"clients' keys that are let in, as npctl cert show prints; none: any"`
	SessionTickets   bool          `key:"session_tickets" default:"true" doc:"clients may resume; keys of tickets last a day and end with npd"`
	StrictNames      bool          `key:"strict_names" default:"false" doc:"refuse a server name that no certificate has, instead of showing the first"`
	HandshakeTimeout time.Duration `key:"handshake_timeout" default:"10s" min:"100ms" max:"5m" doc:"from accept to keys"`
}

// Cert is one [[certificate]].
type Cert struct {
	CertFile string   `key:"cert_file" need:"a PEM file, leaf first" doc:"loaded again at reload and by npctl cert reload"`
	KeyFile  string   `key:"key_file" need:"a PEM file, mode 0600 or 0640" doc:""`
	Names    []string `key:"names" default:"" doc:"server names it answers for; none: those in it"`
}

// Protocol is [protocol].
type Protocol struct {
	PrivateKeyFile       string        `key:"private_key_file" default:"/var/lib/np/npd.key" doc:"base64 X25519 key as npctl key generate prints; made at the first start"`
	Patterns             []string      `key:"patterns" default:"XX,IK" oneof:"XX|IK|NX|NNpsk0" doc:"Noise patterns answered: XX, IK, NX (anonymous clients), NNpsk0"`
	Hybrid               bool          `key:"hybrid" default:"true" doc:"ML-KEM-768 beside X25519; both sides must agree"`
	PSKFile              string        `key:"psk_file" default:"" doc:"base64 pre-shared key for NNpsk0"`
	PSKAllow             []string      `key:"psk_allow" default:"*" doc:"opcodes that whoever knows the pre-shared key may call"`
	AEAD                 []string      `key:"aead" default:"aes-256-gcm,xchacha20-poly1305" oneof:"aes-256-gcm|xchacha20-poly1305" doc:"in order of preference"`
	Compression          []string      `key:"compression" default:"lz4,zstd" oneof:"lz4|zstd" doc:"offered when [transport] compression_enabled"`
	CompressionThreshold Size          `key:"compression_threshold" default:"512" doc:"smaller bodies go uncompressed"`
	MaxFrame             Size          `key:"max_frame" default:"256KiB" min:"1KiB" max:"16777232" doc:"longest frame accepted, tag included; longer messages travel in several"`
	StreamWindow         Size          `key:"stream_window" default:"256KiB" min:"4KiB" max:"1GiB" doc:"body bytes a peer may send ahead on a stream"`
	ConnectionWindow     Size          `key:"connection_window" default:"4MiB" min:"4KiB" max:"1GiB" doc:"the same over all streams of a connection"`
	MaxStreams           int           `key:"max_streams" default:"1024" min:"1" max:"65536" doc:"open streams of one connection"`
	RekeyRecords         int           `key:"rekey_records" default:"16777216" min:"1" max:"16777216" doc:"records under one key"`
	RekeyBytes           Size          `key:"rekey_bytes" default:"64GiB" min:"1KiB" doc:"bytes under one key"`
	RekeyInterval        time.Duration `key:"rekey_interval" default:"1h" min:"1s" doc:"time under one key"`
	AllowAnyPeer         bool          `key:"allow_any_peer" default:"false" doc:"also serve peers that no [[peer]] names"`
	AnyPeerAllow         []string      `key:"any_peer_allow" default:"*" doc:"opcodes those may call"`
	AllowV1              bool          `key:"allow_v1" default:"false" doc:"version 1 of the protocol; not in this version"`
}

// Handshake is [handshake].
type Handshake struct {
	Timeout      time.Duration `key:"timeout" default:"5s" min:"10ms" max:"5m" doc:"from accept to keys"`
	ClockSkew    time.Duration `key:"clock_skew" default:"5s" min:"10ms" doc:"how far a client's clock may be off"`
	ReplayWindow int           `key:"replay_window" default:"10000" min:"1" max:"10000000" doc:"nonces remembered per listener"`
	MaxInFlight  int           `key:"max_in_flight" default:"1024" min:"1" max:"1000000" doc:"handshakes at a time; more are refused"`
}

// Peer is one [[peer]].
type Peer struct {
	Name      string   `key:"name" need:"a name" doc:""`
	PublicKey string   `key:"public_key" need:"a base64 X25519 public key as npctl key public prints" doc:""`
	Allow     []string `key:"allow" need:"a list of opcodes such as [\"ECHO\"], or [\"*\"] for all" doc:"opcodes it may call"`
}

// Management is [management].
type Management struct {
	Socket   string `key:"socket" default:"/run/np/np.sock" doc:"reads and changes"`
	ROSocket string `key:"ro_socket" default:"/run/np/ro.sock" doc:"reads only; \"\" for none"`
	Group    string `key:"group" default:"np" doc:"may use the sockets, when it exists"`

	HistoryDir string `key:"history_dir" default:"" doc:"where configurations that were in force are kept, for npctl config rollback; \"\": config beside [protocol] private_key_file, /var/lib/np/config"`
	History    int    `key:"history" default:"20" min:"0" max:"1000" doc:"how many; 0 none"`
}

// Metrics is [metrics].
type Metrics struct {
	Address netip.AddrPort `key:"address" default:"" doc:"kernel TCP address that also serves /metrics, such as \"127.0.0.1:9700\"; \"\" none"`
}

// Limits is [limits].
type Limits struct {
	BuffersPerCore     int  `key:"buffers_per_core" default:"16384" min:"1024" max:"4194304" doc:"packet buffers of each core"`
	LoansPerCore       int  `key:"loans_per_core" default:"2048" min:"64" max:"1048576" doc:"of these, for messages from Go"`
	MemoryPressure     int  `key:"tcp_memory_pressure" default:"50" min:"10" max:"90" doc:"percent of a core's buffers held from which they are short: each connection keeps to its share"`
	MemoryMax          int  `key:"tcp_memory_max" default:"75" min:"10" max:"95" doc:"percent held from which each keeps to four buffers each way"`
	StreamsPerCore     int  `key:"streams_per_core" default:"65536" min:"64" max:"16777216" doc:"NPRO streams of each core"`
	ConnectionsPerCore int  `key:"connections_per_core" default:"0" min:"0" max:"8388608" doc:"0: the sum of the listeners' max_connections, and room for TIME-WAIT"`
	ConnsPerSource     int  `key:"connections_per_source" default:"0" min:"0" max:"8388608" doc:"accepted connections of one address (IPv6: one /64) on one core at a time; 0 no limit"`
	Workers            int  `key:"workers" default:"256" min:"1" max:"65536" doc:"handlers running at a time"`
	StreamHandlers     int  `key:"stream_handlers" default:"4096" min:"0" max:"1048576" doc:"byte streams with a handler at a time"`
	MessageMemory      Size `key:"message_memory" default:"256MiB" min:"1MiB" doc:"messages in several frames being put together, all connections"`
	ConnectionMemory   Size `key:"connection_memory" default:"32MiB" min:"1KiB" doc:"the same for one connection"`
	LogLines           int  `key:"log_lines" default:"10" min:"1" doc:"log lines per second about peers, for each reason"`
}

// InterfaceBackend is the backend asked for on an interface.
func (c *Config) InterfaceBackend(i *Interface) string {
	if i.Backend != "inherit" {
		return i.Backend
	}
	return c.Dataplane.Backend
}

// PacketMemory is about what one core takes for packets and tables, in bytes, with
// buffers of chunk bytes. What only the data plane knows exactly is a quarter more.
func (c *Config) PacketMemory(chunk int) int {
	n := c.Limits.BuffersPerCore * chunk
	return n + n/4
}

// HugePagesPerCore is how many pages of 2 MiB that is.
func (c *Config) HugePagesPerCore(chunk int) int {
	const page = 2 << 20
	return (c.PacketMemory(chunk) + page - 1) / page
}

// Main returns the main file as it was read.
func (c *Config) Main() Source { return c.main }

// Pos returns where a key or table stands, such as "interface[0].name" or
// "listener[1]"; the nearest enclosing table when the key is not written down.
func (c *Config) Pos(path string) Pos {
	for p := path; p != ""; p = parent(p) {
		if at, ok := c.places[p]; ok {
			return at
		}
	}
	return Pos{}
}

// Listen returns the listeners: those configured, or the one of [server].
func (c *Config) Listen() []Listener {
	if len(c.Listeners) > 0 {
		return slices.Clone(c.Listeners)
	}
	return []Listener{{Name: "npro", Address: AddressOf(c.Server.Address), Protocol: "npro", Backlog: 512, CongestionControl: "inherit", Backend: "auto", Mode: "0660"}}
}

// SpeaksNPRO says whether anything needs npd's key: a listener or an upstream of protocol npro.
func (c *Config) SpeaksNPRO() bool {
	return slices.ContainsFunc(c.Listen(), func(l Listener) bool { return l.Protocol == "npro" }) ||
		slices.ContainsFunc(c.Upstreams, func(u Upstream) bool { return u.Protocol == "npro" })
}

// ListenerLimit is a listener's limit of connections.
func (c *Config) ListenerLimit(l *Listener) int {
	if l.MaxConnections > 0 {
		return l.MaxConnections
	}
	return c.Server.MaxConnections
}
