package daemon

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// From the words of the configuration to the values of the packages below.

// timeWaitRoom is how many connections beyond the listeners' limits a core has
// room for: those in TIME-WAIT count too.
const timeWaitRoom = 1024

func planeConfig(c *config.Config, mtu int) *dataplane.Config {
	p := &dataplane.Config{CPUs: c.Dataplane.Cores, BuffersPerCore: c.Limits.BuffersPerCore, ChunkBytes: 2048, LoansPerCore: c.Limits.LoansPerCore,
		MaxConns: c.Limits.ConnectionsPerCore, MaxStreams: c.Limits.StreamsPerCore, IdleSpin: c.Dataplane.Idle.Spin, HandshakeLimit: c.Handshake.Timeout,
		PortableCrypto: c.Dataplane.Crypto == "portable", NoGRO: !c.Dataplane.GRO, UDPEchoPort: uint16(c.Dataplane.UDPEchoPort), UDPDiscardPort: uint16(c.Dataplane.UDPDiscardPort),
		TCP: dataplane.TCPConfig{RcvBuf: int(c.TCP.ReceiveBuffer), SndBuf: int(c.TCP.SendBuffer), KeepaliveIdle: c.TCP.KeepaliveIdle,
			UserTimeout: c.TCP.UserTimeout, TimeWait: c.TCP.TimeWait, MinRTO: c.TCP.MinRTO, DelayedAck: c.TCP.DelayedAck, QuickAcks: c.TCP.QuickAcks, Nagle: c.TCP.Nagle,
			NoSACK: !c.TCP.SACK, NoTimestamps: !c.TCP.Timestamps, NoWindowScaling: !c.TCP.WindowScaling}}
	p.TCP.CongestionControl = congestion(c.TCP.CongestionControl)
	switch c.TCP.ECN {
	case "request":
		p.TCP.ECN = dataplane.ECNRequest
	case "off":
		p.TCP.ECN = dataplane.ECNOff
	}
	switch c.TCP.Pacing {
	case "on":
		p.TCP.Pacing = dataplane.PacingOn
	case "off":
		p.TCP.Pacing = dataplane.PacingOff
	}
	if c.TCP.QuickAcks == 0 {
		p.TCP.QuickAcks = -1
	}
	p.TCP.NoAutoTuning = !c.TCP.AutoTuning
	switch c.TCP.MTUProbing {
	case "off":
		p.TCP.MTUProbing = dataplane.MTUProbingOff
	case "always":
		p.TCP.MTUProbing = dataplane.MTUProbingAlways
	}
	p.TCP.Resets = c.TCP.Resets
	p.TCP.PersistTimeout, p.TCP.ChallengeAcks, p.TCP.MinSndMSS, p.TCP.TTL = c.TCP.PersistLimit, c.TCP.ChallengeAcks, c.TCP.MinSendMSS, c.TCP.TTL
	p.TCP.ConnsPerSource = c.Limits.ConnsPerSource
	p.TCP.MemPressure, p.TCP.MemMax, p.TCP.MaxOOORuns = c.Limits.MemoryPressure, c.Limits.MemoryMax, c.TCP.OOORuns
	p.TCP.RcvStart = int(c.TCP.InitialWindow)
	p.Exception = dataplane.ExceptionConfig{Rate: c.Exception.Rate, TCPPorts: narrow[uint16](c.Exception.TCPPorts),
		UDPPorts: narrow[uint16](c.Exception.UDPPorts), Protocols: narrow[uint8](c.Exception.Protocols)}
	switch c.Dataplane.Steering {
	case "device":
		p.Steering = dataplane.SteeringDevice
	case "software":
		p.Steering = dataplane.SteeringSoftware
	}
	if mtu > ports.MTUSmall {
		p.ChunkBytes = 4096
	}
	if !c.Dataplane.Idle.Sleep {
		p.IdleSpin = -1
	}
	switch c.Dataplane.Hugepages {
	case "off":
		p.HugePages = dataplane.HugePagesOff
	case "must":
		p.HugePages = dataplane.HugePagesMust
	}
	if p.MaxConns == 0 {
		p.MaxConns = timeWaitRoom
		for _, l := range c.Listen() {
			if !c.OnKernel(&l) {
				p.MaxConns += c.ListenerLimit(&l)
			}
		}
	}
	if c.RDMA.Enabled {
		p.RDMAConns = c.RDMA.MaxConnections
	}
	_, _ = rand.Read(p.Secret[:]) // never fails
	return p
}

// congestion translates a word the configuration has checked; inherit is the plane's default.
func congestion(name string) dataplane.CongestionControl {
	cc, err := dataplane.ParseCongestionControl(name)
	if err != nil {
		return dataplane.CongestionDefault
	}
	return cc
}

// listenerCongestion is the word for what a listener's connections get.
func listenerCongestion(c *config.Config, l *config.Listener) string {
	if l.CongestionControl != "inherit" {
		return l.CongestionControl
	}
	return c.TCP.CongestionControl
}

// Interfaces are the interfaces of a configuration as package ports has them.
func Interfaces(c *config.Config) []ports.Interface {
	out := make([]ports.Interface, len(c.Interfaces))
	for i := range out {
		out[i] = portConfig(c, &c.Interfaces[i])
	}
	return out
}

func portConfig(c *config.Config, i *config.Interface) ports.Interface {
	p := ports.Interface{Name: i.Name, Addresses: i.Addresses, MTU: i.MTU, Queues: i.Queues, VLAN: uint16(i.VLAN), DADTransmits: i.DADTransmits, ACD: i.ACD, AcceptRA: i.AcceptRA, Backend: c.InterfaceBackend(i), Device: i.Device,
		Strict: c.Dataplane.OnFallback == "fail", Quiet: c.Dataplane.OnFallback == "allow"}
	p.Filter = *filterConfig(&i.Filter)
	if c.Exception.Enabled {
		p.Exception = i.TAP()
	}
	if first := slices.IndexFunc(c.Interfaces, func(o config.Interface) bool { return o.Name == i.Name }); &c.Interfaces[first] == i {
		p.KernelPorts = kernelPorts(&c.Exception)
	}
	switch i.ZeroCopy {
	case "off":
		p.ZeroCopy = dataplane.ZeroCopyOff
	case "must":
		p.ZeroCopy = dataplane.ZeroCopyMust
	}
	switch i.XDPMode {
	case "native":
		p.Mode = xdp.ModeNative
	case "generic":
		p.Mode = xdp.ModeGeneric
	}
	return p
}

// kernelPorts are what XDP programs leave to the kernel.
func kernelPorts(x *config.Exception) xdp.Ports {
	k := xdp.Ports{Rate: x.KernelRate, Protocols: narrow[uint8](x.Protocols)}
	for _, n := range narrow[uint16](x.TCPPorts) {
		k.TCP = append(k.TCP, xdp.PortRange{First: n, Last: n})
	}
	for _, n := range narrow[uint16](x.UDPPorts) {
		k.UDP = append(k.UDP, xdp.PortRange{First: n, Last: n})
	}
	return k
}

// narrow turns numbers whose range the configuration checked into smaller ones.
func narrow[T uint8 | uint16](list []int) []T {
	var out []T
	for _, n := range list {
		out = append(out, T(n))
	}
	return out
}

func filterConfig(f *config.Filter) *xdp.Filter {
	out := &xdp.Filter{All: f.ApplyTo == "all",
		Limits: xdp.Limits{Packets: f.RatePPS, PacketBurst: f.RateBurst, SYNs: f.RateSYN, SYNBurst: f.SYNBurst}}
	for _, p := range f.Deny {
		out.Entries = append(out.Entries, xdp.Entry{Prefix: p, Action: xdp.Deny})
	}
	for _, p := range f.Allow {
		out.Entries = append(out.Entries, xdp.Entry{Prefix: p, Action: xdp.Allow})
	}
	return out
}

func listenConfig(c *config.Config, l *config.Listener) *dataplane.ListenConfig {
	lc := &dataplane.ListenConfig{Address: l.Address.AddrPort(), Kind: dataplane.SessionNPRO, Backlog: l.Backlog, MaxConns: c.ListenerLimit(l), Cookies: c.TCP.SYNCookies,
		CongestionControl: congestion(l.CongestionControl), DSCP: l.DSCP}
	switch l.Protocol {
	case "echo":
		lc.Kind = dataplane.SessionEcho
	case "discard":
		lc.Kind = dataplane.SessionDiscard
	case "chargen":
		lc.Kind = dataplane.SessionChargen
	}
	return lc
}

func policy(c *config.Config) (*session.Policy, error) {
	p := &session.Policy{Peers: map[handshake.PublicKey]*session.Rights{}}
	for i := range c.Peers {
		key, err := handshake.ParsePublicKey(c.Peers[i].PublicKey)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Pos(fmt.Sprintf("peer[%d].public_key", i)), err)
		}
		p.Peers[key] = session.NewRights(c.Peers[i].Name, c.Peers[i].Allow)
	}
	if c.Protocol.AllowAnyPeer {
		p.Any = session.NewRights("", c.Protocol.AnyPeerAllow)
	}
	if slices.Contains(c.Protocol.Patterns, "NNpsk0") {
		p.PSK = session.NewRights("", c.Protocol.PSKAllow)
	}
	return p, nil
}

func aeads(names []string) []uint8 {
	var out []uint8
	for _, n := range names {
		id := npro.AEADAES256GCM
		if n == "xchacha20-poly1305" {
			id = npro.AEADXChaCha20Poly1305
		}
		out = append(out, uint8(id))
	}
	return out
}

func compressions(c *config.Config) []uint8 {
	var out []uint8
	for _, n := range c.Protocol.Compression {
		id := npro.CompressionLZ4
		if n == "zstd" {
			id = npro.CompressionZstd
		}
		if c.Transport.CompressionEnabled {
			out = append(out, uint8(id))
		}
	}
	return out
}

func sessionConfig(c *config.Config, plane dataplane.Plane, reg *dispatch.Registry, log *slog.Logger, limiter *logs.Limiter, now func() time.Time) (session.Config, error) {
	s := session.Config{Plane: plane, Registry: reg, Log: log, Limiter: limiter, Random: rand.Reader, Now: now,
		Hybrid: c.Protocol.Hybrid, ClockSkew: c.Handshake.ClockSkew, ReplayWindow: c.Handshake.ReplayWindow,
		Params: handshake.Params{AEADs: aeads(c.Protocol.AEAD), Compressions: compressions(c), MaxFrame: uint32(c.Protocol.MaxFrame),
			StreamWindow: uint32(c.Protocol.StreamWindow), ConnWindow: uint32(c.Protocol.ConnectionWindow), Heartbeat: c.Server.HeartbeatInterval},
		Keys: dataplane.Keys{CompressionThreshold: uint32(c.Protocol.CompressionThreshold), CompressionLevel: int32(c.Transport.CompressionLevel),
			MaxStreams: uint32(c.Protocol.MaxStreams), MaxPayload: uint32(c.Transport.MaxPayloadSize), RekeyRecords: uint64(c.Protocol.RekeyRecords),
			RekeyBytes: uint64(c.Protocol.RekeyBytes), RekeyAfter: c.Protocol.RekeyInterval},
		HandshakesInFlight: c.Handshake.MaxInFlight, Backpressure: c.Server.BackpressureLimit, Workers: c.Limits.Workers,
		StreamHandlers: c.Limits.StreamHandlers, ConnMemory: int64(c.Limits.ConnectionMemory), MessageMemory: int64(c.Limits.MessageMemory),
		FragmentTimeout: c.Server.ConnectionTimeout, StreamOpcode: "ECHO"}
	for i, name := range c.Protocol.Patterns {
		p, err := handshake.ParsePattern(name)
		if err != nil {
			return s, fmt.Errorf("%s: %w", c.Pos(fmt.Sprintf("protocol.patterns[%d]", i)), err)
		}
		s.Patterns = append(s.Patterns, p)
	}
	var err error
	s.Policy, err = policy(c)
	return s, err
}
