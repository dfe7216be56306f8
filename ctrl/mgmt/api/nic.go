package api

// Paths of network devices and what their XDP programs do.
const (
	PathNICs      = "/v1/nics"
	PathNIC       = "/v1/nics/"       // + name: of the device, or of an interface on it; query: NICSources
	NICFilter     = "/filter"         // behind a PathNIC
	PathNICFilter = "/v1/nics/filter" // POST: FilterRequest
	PathNICLimit  = "/v1/nics/limit"  // POST: LimitRequest

	NICSources    = "sources" // how many limited sources to list, 10 by default
	NICSourcesMax = 1000
)

// NICs answers PathNICs, without limited sources.
type NICs struct {
	Schema string `json:"schema"`
	NICs   []NIC  `json:"nics"`
}

// NICAnswer answers PathNIC.
type NICAnswer struct {
	Schema string `json:"schema"`
	NIC    NIC    `json:"nic"`
}

// NIC is a device, with all that is done with packets before they reach a core.
type NIC struct {
	Name       string   `json:"name"`
	Driver     string   `json:"driver"` // "": unknown
	MAC        string   `json:"mac"`
	RxQueues   int      `json:"rx_queues"`
	NUMANode   int      `json:"numa_node"` // -1: unknown, or none
	State      string   `json:"state"`     // up, starting, down
	Reason     string   `json:"reason,omitempty"`
	Backend    string   `json:"backend"`                   // the rung in use; "": none
	XDPMode    string   `json:"xdp_mode"`                  // native, generic; "": no program
	XDPReason  string   `json:"xdp_mode_reason,omitempty"` // why not native
	Interfaces []string `json:"interfaces"`                // of the appliance, on it

	Packets     XDPPackets      `json:"packets"`
	ListEntries int             `json:"list_entries"`
	ApplyTo     string          `json:"apply_to"` // own, all
	Limits      Limits          `json:"limits"`
	KernelTCP   []PortRange     `json:"kernel_tcp_ports"`
	KernelUDP   []PortRange     `json:"kernel_udp_ports"`
	Limited     []LimitedSource `json:"limited_sources"`
}

// XDPPackets are the packets the program has seen; the others sum to that.
type XDPPackets struct {
	Seen        uint64 `json:"seen_packets_total"`
	Redirected  uint64 `json:"redirected_packets_total"` // to the appliance
	Passed      uint64 `json:"passed_packets_total"`     // to the kernel
	Steered     uint64 `json:"steered_packets_total"`    // to the kernel, for a port of its
	Malformed   uint64 `json:"malformed_packets_total"`  // too short to judge; to the kernel
	NoSocket    uint64 `json:"no_socket_packets_total"`  // dropped from here on
	Denied      uint64 `json:"denied_packets_total"`
	RateLimited uint64 `json:"rate_limited_packets_total"`
	SYNLimited  uint64 `json:"syn_limited_packets_total"`

	KernelLimited uint64 `json:"kernel_rate_limited_packets_total"` // over the rate of what the kernel may have
}

// PortRange is first to last.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Limits of each source: rates a second, 0 none; bursts as in force.
type Limits struct {
	Packets     int  `json:"packets_per_second"`
	PacketBurst int  `json:"packet_burst"`
	SYNs        int  `json:"syns_per_second"`
	SYNBurst    int  `json:"syn_burst"`
	Live        bool `json:"live"` // set by an operator; ends with npd
}

// LimitedSource is a source and about what it lost to the limits.
type LimitedSource struct {
	Source  string `json:"source"`
	Packets uint64 `json:"rate_limited_packets_total"`
	SYNs    uint64 `json:"syn_limited_packets_total"`
}

// FilterAnswer answers PathNIC + NICFilter.
type FilterAnswer struct {
	Schema  string      `json:"schema"`
	NIC     string      `json:"nic"`
	ApplyTo string      `json:"apply_to"`
	Limits  Limits      `json:"limits"`
	Entries []ListEntry `json:"entries"` // by address; of those that hold a source the longest decides
}

// ListEntry is an entry of the lists.
type ListEntry struct {
	Prefix string `json:"prefix"`
	Action string `json:"action"` // deny, allow
	Live   bool   `json:"live"`   // made by an operator; ends with npd
	Hits   uint64 `json:"hits_total"`
}

// FilterRequest is the body of PathNICFilter.
type FilterRequest struct {
	NIC    string `json:"nic"`
	Op     string `json:"op"`               // add, delete
	Prefix string `json:"prefix"`           // an address stands for itself alone
	Action string `json:"action,omitempty"` // add: deny, allow
}

// LimitRequest is the body of PathNICLimit. What is absent stays; a rate without its burst
// gets the default one.
type LimitRequest struct {
	NIC         string `json:"nic"`
	Packets     *int   `json:"packets_per_second,omitempty"`
	PacketBurst *int   `json:"packet_burst,omitempty"`
	SYNs        *int   `json:"syns_per_second,omitempty"`
	SYNBurst    *int   `json:"syn_burst,omitempty"`
}
