//go:build cgo

package npc

// #include "npc.h"
import "C"

import (
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// Addresses are 16 bytes in C, IPv4 as ::ffff:a.b.c.d, and unmapped in Go.

func addrOf(a *[16]C.uint8_t) netip.Addr {
	return netip.AddrFrom16(*(*[16]byte)(unsafe.Pointer(a))).Unmap()
}

func addrPort(a *[16]C.uint8_t, port C.uint16_t) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(a), uint16(port))
}

// setAddr writes an address; an invalid one is all zero.
func setAddr(to *[16]C.uint8_t, a netip.Addr) {
	if a.IsValid() {
		*(*[16]byte)(unsafe.Pointer(to)) = a.As16()
	}
}

// bytesOf views a C structure, to be copied into a lent buffer.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

func flag(b bool) C.uint8_t {
	if b {
		return 1
	}
	return 0
}

// millis rounds up, so that a short time does not become 0, which is "default".
func millis(d time.Duration) C.uint32_t {
	if d <= 0 {
		return 0
	}
	return C.uint32_t(min((d+time.Millisecond-1)/time.Millisecond, 1<<32-1))
}

func encodeKeys(to *C.struct_np_npro_keys, k *dataplane.Keys) {
	*to = C.struct_np_npro_keys{
		aead: C.uint8_t(k.AEAD), compression: C.uint8_t(k.Compression), compression_rx: C.uint8_t(k.CompressionRx),
		is_client:          flag(k.IsClient),
		max_frame_tx_bytes: C.uint32_t(k.MaxFrameTx), max_frame_rx_bytes: C.uint32_t(k.MaxFrameRx),
		stream_window_tx_bytes: C.uint32_t(k.StreamWindowTx), conn_window_tx_bytes: C.uint32_t(k.ConnWindowTx),
		stream_window_rx_bytes: C.uint32_t(k.StreamWindowRx), conn_window_rx_bytes: C.uint32_t(k.ConnWindowRx),
		heartbeat_ms:                millis(k.Heartbeat),
		compression_threshold_bytes: C.uint32_t(k.CompressionThreshold), compression_level: C.int32_t(k.CompressionLevel),
		max_streams: C.uint32_t(k.MaxStreams), max_payload_bytes: C.uint32_t(k.MaxPayload),
		rekey_records: C.uint64_t(k.RekeyRecords), rekey_bytes: C.uint64_t(k.RekeyBytes), rekey_ns: C.uint64_t(k.RekeyAfter),
	}
	if k.AllowEcho {
		to.features |= C.NP_NPRO_ALLOW_ECHO
	}
	*(*[32]byte)(unsafe.Pointer(&to.rx_key)) = k.Rx
	*(*[32]byte)(unsafe.Pointer(&to.tx_key)) = k.Tx
	*(*[8]byte)(unsafe.Pointer(&to.conn_id)) = k.ConnID
}

// failure joins the code of a C call with what it wrote into detail.
func failure(action string, code C.enum_np_err, detail *C.struct_np_err_detail) error {
	if code == C.NP_ERR_OK {
		return nil
	}
	if text := C.GoString(&detail.text[0]); text != "" {
		return fmt.Errorf("%s: %w (%s)", action, dataplane.Code(code), text)
	}
	return fmt.Errorf("%s: %w", action, dataplane.Code(code))
}

// States in the words of `ss`, by enum np_conn_state.
func connState(s C.uint8_t) string {
	switch s {
	case C.NP_TCP_CLOSED:
		return "closed"
	case C.NP_TCP_LISTEN:
		return "listen"
	case C.NP_TCP_SYN_SENT:
		return "syn-sent"
	case C.NP_TCP_SYN_RECEIVED:
		return "syn-recv"
	case C.NP_TCP_ESTABLISHED:
		return "established"
	case C.NP_TCP_FIN_WAIT_1:
		return "fin-wait-1"
	case C.NP_TCP_FIN_WAIT_2:
		return "fin-wait-2"
	case C.NP_TCP_CLOSE_WAIT:
		return "close-wait"
	case C.NP_TCP_CLOSING:
		return "closing"
	case C.NP_TCP_LAST_ACK:
		return "last-ack"
	case C.NP_TCP_TIME_WAIT:
		return "time-wait"
	}
	return fmt.Sprintf("state %d", s)
}

func sessionState(kind, s C.uint8_t) string {
	if kind != C.NP_SESSION_NPRO {
		return ""
	}
	switch s {
	case C.NP_NPRO_AWAIT_HANDSHAKE:
		return "await_handshake"
	case C.NP_NPRO_AWAIT_CONTROL:
		return "await_control"
	case C.NP_NPRO_OPEN:
		return "open"
	case C.NP_NPRO_DRAINING:
		return "draining"
	case C.NP_NPRO_CLOSING:
		return "closing"
	case C.NP_NPRO_CLOSED:
		return "closed"
	}
	return fmt.Sprintf("state %d", s)
}

func limited(l C.uint8_t) string {
	switch l {
	case C.NP_LIMITED_APP:
		return "app_limited"
	case C.NP_LIMITED_RWND:
		return "rwnd_limited"
	case C.NP_LIMITED_CWND:
		return "cwnd_limited"
	}
	return ""
}

// neighState has the words of `ip neighbor`.
func neighState(s C.uint8_t) string {
	switch s {
	case C.NP_NEIGH_INCOMPLETE:
		return "incomplete"
	case C.NP_NEIGH_REACHABLE:
		return "reachable"
	case C.NP_NEIGH_STALE:
		return "stale"
	case C.NP_NEIGH_DELAY:
		return "delay"
	case C.NP_NEIGH_PROBE:
		return "probe"
	case C.NP_NEIGH_FAILED:
		return "failed"
	}
	return "none"
}

func micros(us C.uint32_t) time.Duration { return time.Duration(us) * time.Microsecond }

func (p *Plane) decodeConn(i *C.struct_np_conn_info) dataplane.Conn {
	c := dataplane.Conn{
		Handle: dataplane.Handle(i.handle), Listener: p.listenerID(uint64(i.listener)),
		Local: addrPort(&i.local, i.local_port), Remote: addrPort(&i.remote, i.remote_port),
		State: connState(i.state), Kind: dataplane.SessionKind(i.session_kind),
		SessionState: sessionState(i.session_kind, i.session_state),
		AEAD:         uint8(i.aead), Compression: uint8(i.compression), Limited: limited(i.limited),
		Core: int(i.core), WscaleSnd: uint8(i.wscale_snd), WscaleRcv: uint8(i.wscale_rcv),
		Timestamps:    i.options&C.NP_CONN_OPT_TIMESTAMPS != 0,
		SACK:          i.options&C.NP_CONN_OPT_SACK != 0,
		WindowScaling: i.options&C.NP_CONN_OPT_WSCALE != 0,
		Outgoing:      i.options&C.NP_CONN_OPT_OUTGOING != 0,
		PathMTU:       uint32(i.pmtu_bytes),
		MSS:           uint32(i.mss_bytes), Cwnd: uint32(i.cwnd_bytes), Ssthresh: uint32(i.ssthresh_bytes),
		SndWnd: uint32(i.snd_wnd_bytes), RcvWnd: uint32(i.rcv_wnd_bytes),
		SRTT: micros(i.srtt_us), RTTVar: micros(i.rttvar_us), RTO: micros(i.rto_us), MinRTT: micros(i.min_rtt_us),
		Inflight: uint32(i.inflight_bytes), Sacked: uint32(i.sacked_bytes), Lost: uint32(i.lost_bytes),
		SendQ: uint32(i.sendq_bytes), RecvQ: uint32(i.recvq_bytes), OutOfOrder: uint32(i.ooo_bytes),
		Retrans: uint32(i.retrans_segs_total), Timeouts: uint32(i.rto_total), Streams: uint32(i.streams),
		Created: time.Duration(i.created_ns), LastRx: time.Duration(i.last_rx_ns),
		BytesRx: uint64(i.bytes_rx), BytesTx: uint64(i.bytes_tx), BytesRetrans: uint64(i.bytes_retrans),
		SegsRx: uint64(i.segs_rx), SegsTx: uint64(i.segs_tx), FramesRx: uint64(i.frames_rx), FramesTx: uint64(i.frames_tx),
		ConnID: *(*[8]byte)(unsafe.Pointer(&i.conn_id)),
		RcvRTT: micros(i.rcv_rtt_us), RcvSpace: uint32(i.rcv_space_bytes), RcvBuf: uint32(i.rcv_buf_bytes), SndBuf: uint32(i.snd_buf_bytes),
	}
	c.CAState, c.Backoff, c.ReoWnd = caState(i.ca_state), uint8(i.backoff), micros(i.reo_wnd_us)
	c.DSACKs, c.Reordering = uint32(i.dsacks_total), uint16(i.reordering_total)
	c.TailProbes, c.Undos = uint16(i.tail_probes_total), uint16(i.undos_total)
	c.UserTimeout, c.Unacked = time.Duration(i.user_timeout_ms)*time.Millisecond, time.Duration(i.unacked_ms)*time.Millisecond
	if i.ssthresh_bytes == 1<<32-1 {
		c.Ssthresh = 0
	}
	c.Carrier = dataplane.Carrier(i.carrier)
	if i.is_unix != 0 {
		c.Local, c.Remote = netip.AddrPort{}, netip.AddrPort{}
		c.Unix = &dataplane.UnixPeer{PID: uint32(i.peer_pid), UID: uint32(i.peer_uid), GID: uint32(i.peer_gid)}
	}
	c.CongestionControl = dataplane.CongestionControl(i.cc + 1)
	c.ECN, c.CESeen, c.ECESeen = i.ecn&C.NP_CONN_ECN_OK != 0, i.ecn&C.NP_CONN_ECN_CE_SEEN != 0, i.ecn&C.NP_CONN_ECN_ECE_SEEN != 0
	c.PacingRate, c.DeliveryRate = uint64(i.pacing_bytes_per_s), uint64(i.delivery_bytes_per_s)
	if i.bbr_phase != 0 {
		bound := func(b C.uint32_t) uint32 {
			if b == C.UINT32_MAX {
				return 0
			}
			return uint32(b)
		}
		c.BBR = &dataplane.BBRState{Phase: bbrPhase(i.bbr_phase - 1), Bandwidth: uint64(i.bbr_bw_bytes_per_s), MinRTT: micros(i.bbr_min_rtt_us),
			PacingGain: float64(i.bbr_pacing_gain_percent) / 100, CwndGain: float64(i.bbr_cwnd_gain_percent) / 100,
			InflightHi: bound(i.bbr_inflight_hi_bytes), InflightLo: bound(i.bbr_inflight_lo_bytes)}
	}
	return c
}

func caState(s C.uint8_t) string {
	switch s {
	case C.NP_CA_OPEN:
		return "open"
	case C.NP_CA_DISORDER:
		return "disorder"
	case C.NP_CA_CWR:
		return "cwr"
	case C.NP_CA_RECOVERY:
		return "recovery"
	case C.NP_CA_LOSS:
		return "loss"
	}
	return "unknown"
}

func bbrPhase(p C.uint8_t) string {
	switch p {
	case C.NP_BBR_STARTUP:
		return "STARTUP"
	case C.NP_BBR_DRAIN:
		return "DRAIN"
	case C.NP_BBR_DOWN:
		return "PROBE_BW_DOWN"
	case C.NP_BBR_CRUISE:
		return "PROBE_BW_CRUISE"
	case C.NP_BBR_REFILL:
		return "PROBE_BW_REFILL"
	case C.NP_BBR_UP:
		return "PROBE_BW_UP"
	case C.NP_BBR_PROBE_RTT:
		return "PROBE_RTT"
	}
	return "UNKNOWN"
}

func decodeNeighbor(core int, i *C.struct_np_neigh_info) dataplane.Neighbor {
	mac := *(*[6]byte)(unsafe.Pointer(&i.mac))
	return dataplane.Neighbor{Addr: addrOf(&i.addr), MAC: net.HardwareAddr(mac[:]), Interface: dataplane.InterfaceID(i.iface),
		State: neighState(i.state), Age: time.Duration(i.age_ns), Core: core}
}

func decodeAddress(i *C.struct_np_addr_info) dataplane.Address {
	left := func(s C.uint32_t) time.Duration {
		if s == C.UINT32_MAX {
			return -1
		}
		return time.Duration(s) * time.Second
	}
	a := dataplane.Address{Prefix: netip.PrefixFrom(addrOf(&i.addr), int(i.prefix_bits)), Interface: dataplane.InterfaceID(i.iface),
		State: dataplane.AddressState(i.state), Origin: dataplane.AddressOrigin(i.origin), Conflicts: uint32(i.conflicts),
		Valid: left(i.valid_s), Preferred: left(i.preferred_s)}
	if mac := *(*[6]byte)(unsafe.Pointer(&i.rival)); mac != [6]byte{} {
		a.Rival = net.HardwareAddr(mac[:])
	}
	return a
}
