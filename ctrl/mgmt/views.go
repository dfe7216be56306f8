package mgmt

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// connsDefault is how many connections a list has unless the query says.
const connsDefault = 1000

func (s *Server) version(*http.Request) (any, error) {
	v := s.cfg.Version
	v.Schema = api.Schema
	return v, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// wall turns a time of the data plane into one of the calendar.
func (s *Server) wall(at time.Duration) time.Time {
	return s.cfg.Now().Add(at - s.cfg.Mono()).UTC()
}

// totals sums the counters of all cores, and gives each core's.
func (s *Server) totals() (sum dataplane.Counters, per []dataplane.Counters) {
	per = make([]dataplane.Counters, len(s.cfg.Plane.Cores()))
	for i := range per {
		per[i] = s.cfg.Plane.Counters(i)
		sum.Add(&per[i])
	}
	return sum, per
}

// packetDrops are the drops of received packets, frameDrops of NPRO frames.
func dropSums(c *dataplane.Counters) (packets, frames, tx uint64) {
	for i, n := range c.Drop {
		switch dataplane.Drop(i).Meta().Layer {
		case "npro":
			frames += n
		case "tx":
			tx += n
		default:
			packets += n
		}
	}
	return packets, frames, tx
}

func (s *Server) status(r *http.Request) (any, error) {
	sum, per := s.totals()
	packets, _, _ := dropSums(&sum)
	info, st := s.cfg.Plane.Info(), s.cfg.Sessions.Stats()
	now := s.cfg.Now()
	out := api.Status{Schema: api.Schema, State: s.cfg.Daemon.State(), Problems: []string{}, Version: s.cfg.Version.Version,
		StartedAt: s.cfg.Start.UTC(), UptimeSeconds: now.Sub(s.cfg.Start).Seconds(), Backend: s.backends(), CryptoEngine: info.CryptoEngine,
		HugePageBytes: info.HugePage, PublicKey: s.cfg.PublicKey, Cores: s.cores(info.CPUs, per), Interfaces: s.interfaceList(r.Context()),
		Connections: sum.Counter[dataplane.CounterTCPConns] + sum.Counter[dataplane.CounterSockConns], Sessions: sum.Counter[dataplane.CounterNPROSessions],
		Streams: sum.Counter[dataplane.CounterNPROStreams], Handshakes: uint64(max(st.HandshakesInFlight, 0)),
		BuffersFree: sum.Counter[dataplane.CounterBufFree], Buffers: sum.Counter[dataplane.CounterBufTotal],
		RxPackets: sum.Counter[dataplane.CounterRXPkts], TxPackets: sum.Counter[dataplane.CounterTXPkts], Dropped: packets}
	worse := out.State
	for _, i := range out.Interfaces {
		for _, a := range i.AddressStates {
			switch a.State {
			case dataplane.AddressDuplicate.String():
				out.Problems = append(out.Problems, fmt.Sprintf("address %s on %s is in use by %s", a.Address, i.Name, a.Rival))
				worse = stateDegraded
			case dataplane.AddressTentative.String():
				if i.State != "up" {
					continue // the link is the problem
				}
				out.Problems = append(out.Problems, fmt.Sprintf("address %s on %s is being looked for on the link", a.Address, i.Name))
				if worse == StateReady {
					worse = StateStarting
				}
			}
		}
		if i.State == "up" {
			continue
		}
		out.Problems = append(out.Problems, fmt.Sprintf("interface %s is %s: %s", i.Name, i.State, i.Reason))
		if i.State != StateStarting {
			worse = stateDegraded
		} else if worse == StateReady {
			worse = StateStarting
		}
	}
	if out.State == StateReady {
		out.State = worse
	}
	return out, nil
}

func memory(c *dataplane.Counters) api.Memory {
	states := [...]string{"ample", "pressure", "maximum", "exhausted"}
	return api.Memory{State: states[min(c.Counter[dataplane.CounterTCPMemLevel], uint64(len(states)-1))], SendBytes: c.Counter[dataplane.CounterTCPMemSend],
		ReceiveBytes: c.Counter[dataplane.CounterTCPMemRecv], OutOfOrderBytes: c.Counter[dataplane.CounterTCPMemOOO],
		ShedBytes: c.Counter[dataplane.CounterTCPMemShed], Pressures: c.Counter[dataplane.CounterTCPMemPressures],
		PressureNanoseconds: c.Counter[dataplane.CounterTCPMemPressureNS]}
}

func (s *Server) cores(cpus []int, per []dataplane.Counters) []api.Core {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Mono()
	out := make([]api.Core, len(per))
	for i := range per {
		c := &per[i].Counter
		out[i] = api.Core{Core: i, CPU: -1, BusyNanoseconds: c[dataplane.CounterBusyNS], Turns: c[dataplane.CounterTurns], Sleeps: c[dataplane.CounterIdleSleeps]}
		out[i].Memory = memory(&per[i])
		if i < len(cpus) {
			out[i].CPU = cpus[i]
		}
		last := s.busy[i]
		if last.at == 0 {
			last.at = now - s.cfg.Now().Sub(s.cfg.Start)
		}
		if d := now - last.at; d > 0 && out[i].BusyNanoseconds >= last.busy {
			out[i].BusyRatio = min(float64(out[i].BusyNanoseconds-last.busy)/float64(d), 1)
		}
		s.busy[i] = busyMark{now, out[i].BusyNanoseconds}
	}
	return out
}

var originNames = [...]string{dataplane.AddressConfigured: "configured", dataplane.AddressLinkLocal: "link-local", dataplane.AddressSLAAC: "router"}

func addressView(a *dataplane.Address) api.Address {
	left := func(d time.Duration) *int64 {
		if d < 0 {
			return nil
		}
		n := int64(d / time.Second)
		return &n
	}
	v := api.Address{Address: a.Prefix.String(), State: a.State.String(), Origin: "unknown", Conflicts: a.Conflicts, Valid: left(a.Valid), Preferred: left(a.Preferred)}
	if int(a.Origin) < len(originNames) {
		v.Origin = originNames[a.Origin]
	}
	if a.Rival != nil {
		v.Rival = a.Rival.String()
	}
	return v
}

func (s *Server) interfaceList(ctx context.Context) []api.Interface {
	out := []api.Interface{}
	addrs, err := s.cfg.Plane.Addresses(ctx)
	if err != nil {
		s.cfg.Log.Debug("addresses not listed", "err", err) // the rest is worth showing
	}
	for _, p := range s.cfg.Ports.Status() {
		i := api.Interface{Name: p.Config.Label(), Device: p.Config.Name, VLAN: p.Config.VLAN, State: "down", Reason: p.Reason, MAC: p.Device.MAC.String(), MTUBytes: p.MTU,
			Addresses: []string{}, AddressStates: []api.Address{}, Queues: []api.Queue{}, ZeroCopy: p.ZeroCopy,
			Redirected: p.Program.Redirected, PassedKernel: p.Program.Passed, XDPDropped: p.Program.Dropped}
		if p.Attached {
			i.Backend = p.Backend
		}
		switch {
		case p.Up:
			i.State = "up"
			if p.Mode != xdp.ModeAuto {
				i.XDPMode = p.Mode.String()
			}
		case p.Starting:
			i.State = StateStarting
		}
		for _, a := range p.Config.Addresses {
			i.Addresses = append(i.Addresses, a.String())
		}
		if p.Added {
			for n := range addrs {
				if addrs[n].Interface == p.ID {
					i.AddressStates = append(i.AddressStates, addressView(&addrs[n]))
				}
			}
			for _, q := range s.queueStats(&p) {
				i.Queues = append(i.Queues, api.Queue{Queue: q.Queue, Core: q.Core, RxPackets: q.RxPackets, RxBytes: q.RxBytes,
					TxPackets: q.TxPackets, TxBytes: q.TxBytes, RxDropped: q.RxDropped, RxRingFull: q.RxRingFull,
					FillEmpty: q.FillEmpty, TxInvalid: q.TxInvalid, Wakeups: q.Wakeups})
			}
		}
		out = append(out, i)
	}
	return out
}

// queueStats are those of an interface that has queues of its own.
func (s *Server) queueStats(p *ports.Status) []dataplane.QueueStats {
	if p.Shared {
		return nil
	}
	return s.cfg.Plane.QueueStats(p.ID)
}

func (s *Server) interfaces(r *http.Request) (any, error) {
	return api.Interfaces{Schema: api.Schema, Interfaces: s.interfaceList(r.Context())}, nil
}

func protocol(k dataplane.SessionKind) string {
	switch k {
	case dataplane.SessionEcho:
		return "echo"
	case dataplane.SessionDiscard:
		return "discard"
	case dataplane.SessionChargen:
		return "chargen"
	case dataplane.SessionPipe:
		return "pipe"
	case dataplane.SessionNPRO:
		return "npro"
	}
	return "none"
}

func aead(n uint8) string {
	switch n {
	case npro.AEADXChaCha20Poly1305:
		return "xchacha20-poly1305"
	case npro.AEADAES256GCM:
		return "aes-256-gcm"
	}
	return ""
}

func compression(n uint8) string {
	switch n {
	case npro.CompressionLZ4:
		return "lz4"
	case npro.CompressionZstd:
		return "zstd"
	}
	return ""
}

// view is a connection as the API shows it; names of listeners by ID.
func (s *Server) view(c *dataplane.Conn, names map[dataplane.ListenerID]string) api.Conn {
	v := api.Conn{ID: strconv.FormatUint(uint64(c.Handle), 16), Listener: names[c.Listener], Protocol: protocol(c.Kind),
		Local: c.Local.String(), Remote: c.Remote.String(), State: c.State, SessionState: c.SessionState, AEAD: aead(c.AEAD),
		Compression: compression(c.Compression), Core: c.Core, Backend: s.connBackend(c), Outgoing: c.Outgoing,
		CreatedAt: s.wall(c.Created), BytesReceived: c.BytesRx, BytesSent: c.BytesTx, BytesRetrans: c.BytesRetrans,
		SegmentsReceived: c.SegsRx, SegmentsSent: c.SegsTx, FramesReceived: c.FramesRx, FramesSent: c.FramesTx, Streams: c.Streams,
		SendQueueBytes: c.SendQ, ReceiveQueueBytes: c.RecvQ,
		TCP: api.TCP{MSSBytes: c.MSS, PMTUBytes: c.PathMTU, CwndBytes: c.Cwnd, SsthreshBytes: c.Ssthresh, SndWndBytes: c.SndWnd, RcvWndBytes: c.RcvWnd,
			WscaleSnd: c.WscaleSnd, WscaleRcv: c.WscaleRcv, Timestamps: c.Timestamps, SACK: c.SACK, RTTMs: ms(c.SRTT), RTTVarMs: ms(c.RTTVar),
			RTOMs: ms(c.RTO), MinRTTMs: ms(c.MinRTT), InflightBytes: c.Inflight, SackedBytes: c.Sacked, LostBytes: c.Lost,
			OutOfOrderBytes: c.OutOfOrder, Retrans: c.Retrans, Timeouts: c.Timeouts, Limited: c.Limited,
			CAState: c.CAState, Backoff: c.Backoff, ReoWndMs: ms(c.ReoWnd), DSACKs: c.DSACKs, Reordering: c.Reordering,
			TailProbes: c.TailProbes, Undos: c.Undos, UserTimeoutMs: ms(c.UserTimeout), UnackedMs: ms(c.Unacked),
			CongestionControl: c.CongestionControl.String(), ECN: c.ECN, CESeen: c.CESeen, ECESeen: c.ECESeen,
			PacingBps: c.PacingRate * 8, DeliveryBps: c.DeliveryRate * 8}}
	if u := c.Unix; u != nil {
		v.Unix, v.Local, v.Remote = &api.UnixPeer{PID: u.PID, UID: u.UID, GID: u.GID}, "unix", fmt.Sprintf("pid:%d uid:%d", u.PID, u.UID)
	}
	if b := c.BBR; b != nil {
		v.TCP.BBR = &api.BBR{Phase: b.Phase, BandwidthBps: b.Bandwidth * 8, MinRTTMs: ms(b.MinRTT), PacingGain: b.PacingGain, CwndGain: b.CwndGain,
			InflightHiBytes: b.InflightHi, InflightLoBytes: b.InflightLo}
	}
	v.TCP.RcvRTTMs, v.TCP.RcvSpaceBytes, v.TCP.RcvBufBytes, v.TCP.SndBufBytes = ms(c.RcvRTT), c.RcvSpace, c.RcvBuf, c.SndBuf
	if c.LastRx > 0 {
		v.LastReceivedMs = ms(max(s.cfg.Mono()-c.LastRx, 0))
	}
	if c.ConnID != [8]byte{} {
		v.ConnectionID = hex.EncodeToString(c.ConnID[:])
	}
	if i, ok := s.cfg.Sessions.Lookup(c.Handle); ok {
		v.Peer, v.PeerKey, v.Pattern = i.Peer.Name, i.Peer.Key, i.Pattern
		if i.Hybrid && i.Pattern != "" {
			v.Pattern += "+mlkem768"
		}
	}
	return v
}

func (s *Server) listenerNames() map[dataplane.ListenerID]string {
	m := map[dataplane.ListenerID]string{}
	for _, l := range s.cfg.Daemon.Listeners() {
		m[l.ID] = l.Name
	}
	return m
}

func (s *Server) conns(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit := connsDefault
	if t := q.Get("limit"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil || n < 0 {
			return nil, failf(api.KindUsage, "limit %q: expected a number", t)
		}
		limit = n
	}
	list, err := s.cfg.Plane.Connections(r.Context())
	if err != nil {
		return nil, err
	}
	names := s.listenerNames()
	out := api.Conns{Schema: api.Schema, Connections: []api.Conn{}}
	for i := range list {
		v := s.view(&list[i], names)
		if !fits(q.Get("state"), v.State) || !fits(q.Get("listener"), v.Listener) || !fits(q.Get("peer"), v.Peer) || !fits(q.Get("protocol"), v.Protocol) {
			continue
		}
		out.Total++
		if len(out.Connections) < limit {
			out.Connections = append(out.Connections, v)
		}
	}
	return out, nil
}

func fits(want, have string) bool { return want == "" || want == have }

// handle reads a connection's ID.
func handle(id string) (dataplane.Handle, error) {
	h, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return 0, failf(api.KindUsage, "connection ID %q: expected hexadecimal digits as conn list shows", id)
	}
	return dataplane.Handle(h), nil
}

func (s *Server) conn(r *http.Request) (any, error) {
	h, err := handle(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	list, err := s.cfg.Plane.Connections(r.Context())
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(list, func(c dataplane.Conn) bool { return c.Handle == h })
	if at < 0 {
		return nil, failf(api.KindNotFound, "connection %s: not found", r.PathValue("id"))
	}
	return api.ConnAnswer{Schema: api.Schema, Connection: s.view(&list[at], s.listenerNames())}, nil
}

func (s *Server) drops(*http.Request) (any, error) {
	sum, _ := s.totals()
	out := api.Drops{Schema: api.Schema}
	for i, n := range sum.Drop {
		meta := dataplane.Drop(i).Meta()
		out.Drops = append(out.Drops, api.Counter{Name: meta.Reason, Layer: meta.Layer, Value: n, Help: meta.Help})
	}
	out.Drops = append(out.Drops, s.xdpDrops()...)
	packets, frames, _ := dropSums(&sum)
	l := api.Ledger{RxPackets: sum.Counter[dataplane.CounterRXPkts], Delivered: sum.Counter[dataplane.CounterDeliveredPkts], Dropped: packets,
		Passed: sum.Counter[dataplane.CounterPassedPkts],
		Held:   sum.Counter[dataplane.CounterIPFragsHeld], FramesReceived: sum.Counter[dataplane.CounterNPROFramesRX], FramesDelivered: sum.Counter[dataplane.CounterNPROFramesDelivered], FramesDropped: frames}
	l.Balanced = l.RxPackets == l.Delivered+l.Passed+l.Held+l.Dropped && l.FramesReceived == l.FramesDelivered+l.FramesDropped
	out.Ledger = l
	return out, nil
}

func (s *Server) stats(*http.Request) (any, error) {
	sum, per := s.totals()
	out := api.Stats{Schema: api.Schema, Cores: make([]api.CoreStats, len(per))}
	for i, n := range sum.Counter {
		meta := dataplane.Counter(i).Meta()
		out.Counters = append(out.Counters, api.Counter{Name: meta.Name, Value: n, Help: meta.Help})
	}
	for i := range per {
		out.Cores[i] = api.CoreStats{Core: i, Values: per[i].Counter[:]}
	}
	return out, nil
}

func (s *Server) neighbors(r *http.Request) (any, error) {
	list, err := s.cfg.Plane.Neighbors(r.Context())
	if err != nil {
		return nil, err
	}
	names := map[dataplane.InterfaceID]string{}
	for _, p := range s.cfg.Ports.Status() {
		if p.Added {
			names[p.ID] = p.Config.Label()
		}
	}
	out := api.Neighbors{Schema: api.Schema, Neighbors: []api.Neighbor{}}
	for _, n := range list {
		out.Neighbors = append(out.Neighbors, api.Neighbor{Address: n.Addr.String(), MAC: n.MAC.String(), Interface: names[n.Interface],
			State: n.State, AgeSeconds: n.Age.Seconds(), Core: n.Core})
	}
	return out, nil
}

func (s *Server) listeners(r *http.Request) (any, error) {
	list, err := s.cfg.Plane.Connections(r.Context())
	if err != nil {
		return nil, err
	}
	count := map[dataplane.ListenerID]int{}
	for i := range list {
		count[list[i].Listener]++
	}
	out := api.Listeners{Schema: api.Schema, Listeners: []api.Listener{}}
	for _, l := range s.cfg.Daemon.Listeners() {
		v := api.Listener{Name: l.Name, Address: l.Address, Protocol: l.Protocol, TLS: l.TLS, Connections: count[l.ID],
			MaxConnections: l.MaxConns, Accepted: s.cfg.Sessions.Accepted(l.ID), Backend: ladder.Actual(l.Ladder),
			CongestionControl: l.CongestionControl}
		if s := l.Service; s != nil {
			v.Accepted = s.Accepted
			v.Service = &api.ListenerService{Refused: s.Refused, Failed: s.Failed, FailedHandshakes: s.Handshakes}
		}
		if l.HTTP != nil {
			v.HTTP, v.Connections = httpView(l.HTTP), l.HTTP.Open
		}
		out.Listeners = append(out.Listeners, v)
	}
	return out, nil
}

func (s *Server) peers(*http.Request) (any, error) {
	cfg, use := s.cfg.Daemon.Config(), s.cfg.Sessions.Peers()
	out := api.Peers{Schema: api.Schema, AllowAny: cfg.Protocol.AllowAnyPeer, Peers: []api.Peer{}}
	for _, p := range cfg.Peers {
		out.Peers = append(out.Peers, api.Peer{Name: p.Name, PublicKey: p.PublicKey, Allow: append([]string{}, p.Allow...), Connections: use[p.PublicKey].Connections})
	}
	return out, nil
}

func (s *Server) config(*http.Request) (any, error) {
	out := api.Config{Schema: api.Schema}
	for _, v := range s.cfg.Daemon.Config().Values() {
		out.Values = append(out.Values, api.ConfigValue{Key: v.Path, Value: v.Value, Origin: v.Origin})
	}
	return out, nil
}

func (s *Server) logLevel(*http.Request) (any, error) {
	return api.LogLevel{Schema: api.Schema, Level: s.cfg.Daemon.LogLevel()}, nil
}

func (s *Server) setLogLevel(r *http.Request) (any, error) {
	var in api.LogLevel
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if err := s.cfg.Daemon.SetLogLevel(in.Level); err != nil {
		return nil, failf(api.KindUsage, "%v", err)
	}
	return s.logLevel(r)
}

func (s *Server) drain(r *http.Request) (any, error) {
	if err := s.cfg.Daemon.Refuse(r.Context()); err != nil {
		return nil, err
	}
	return api.Done{Schema: api.Schema, Done: true}, nil
}

func (s *Server) setConn(r *http.Request) (any, error) {
	var in api.SetRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	h, err := handle(in.ID)
	if err != nil {
		return nil, err
	}
	if (in.CongestionControl == "") == (in.UserTimeoutMs == nil) {
		return nil, failf(api.KindUsage, "congestion_control or user_timeout_ms, one of them")
	}
	if t := in.UserTimeoutMs; t != nil {
		if *t != 0 && (*t < 1000 || *t > 86400000) {
			return nil, failf(api.KindUsage, "user_timeout_ms %d: 1000 to 86400000, or 0 for none", *t)
		}
		err = s.cfg.Plane.SetUserTimeout(r.Context(), h, time.Duration(*t)*time.Millisecond)
	} else {
		cc, perr := dataplane.ParseCongestionControl(in.CongestionControl)
		if perr != nil {
			return nil, failf(api.KindUsage, "%s", perr)
		}
		err = s.cfg.Plane.SetCongestionControl(r.Context(), h, cc)
	}
	if err != nil {
		return nil, fmt.Errorf("connection %s: %w", in.ID, err)
	}
	return api.Done{Schema: api.Schema, Done: true}, nil
}

func (s *Server) closeConn(r *http.Request) (any, error) {
	var in api.CloseRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	h, err := handle(in.ID)
	if err != nil {
		return nil, err
	}
	cores := s.cfg.Plane.Cores()
	if h.Core() >= len(cores) {
		return nil, failf(api.KindNotFound, "connection %s: not found", in.ID)
	}
	core := cores[h.Core()]
	if in.Abort {
		err = core.Abort(h)
	} else {
		err = core.CloseConn(h, uint32(npro.CodeNormal), "closed by the operator")
	}
	if err != nil {
		return nil, fmt.Errorf("connection %s: %w", in.ID, err)
	}
	core.Flush()
	return api.Done{Schema: api.Schema, Done: true}, nil
}
