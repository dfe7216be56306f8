//go:build cgo

package npc

// #cgo CFLAGS: -I${SRCDIR}/../../csrc/include
// #cgo LDFLAGS: -L${SRCDIR}/../../build/release -lnpdpdk -lnp -lIPSec_MB -lcrypto -llz4 -lzstd -lpcap -lpthread -lm
// #include "npc.h"
import "C"

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/np-appliance/np/dataplane"
)

// Plane implements [dataplane.Plane].
type Plane struct {
	c     *C.struct_np_plane
	chunk int
	cores []*core
	info  dataplane.Info

	closed atomic.Bool
	stop   chan struct{} // closed by Close
	setup  chan struct{} // holds one token: set-up calls run one at a time

	// life keeps the C memory alive under calls that only read it.
	life sync.RWMutex
	dead bool

	// By setup's owner; queues also under life, for QueueStats.
	ifaces [ifacesMax]*iface
	routes []dataplane.Route
	lost   []*C.struct_np_port_queue // a failed call could not close these

	lmu       sync.RWMutex
	listeners map[uint64]dataplane.ListenerID // by a core's handle; kept after Unlisten for the connections
	handles   map[dataplane.ListenerID][]uint64
	nextLis   dataplane.ListenerID

	nextCore atomic.Uint32 // that gets the next connection of ours

	rdma *rdma // of OpenRDMA; changes once, under life

	capturing atomic.Bool
	capture   *capture // under life
}

var _ dataplane.Plane = (*Plane)(nil)

// New makes a plane and starts its cores. They spin or sleep as cfg says until
// Close. The caller's Secret is not kept; a zero one is replaced by a random one.
func New(cfg *dataplane.Config) (dataplane.Plane, error) {
	var cc C.struct_np_plane_config
	var detail C.struct_np_err_detail
	if err := encodeConfig(&cc, cfg); err != nil {
		return nil, fmt.Errorf("start data plane: %w", err)
	}
	p := &Plane{stop: make(chan struct{}), setup: make(chan struct{}, 1),
		listeners: map[uint64]dataplane.ListenerID{}, handles: map[dataplane.ListenerID][]uint64{}}
	code := C.np_plane_create(&cc, &p.c, &detail)
	clear(bytesOf(&cc.secret))
	if code != C.NP_ERR_OK {
		return nil, failure("create data plane", code, &detail)
	}
	for i := range int(cc.cores) {
		c, err := p.newCore(i, int(cc.bufs_per_core), int(cc.loans_per_core))
		if err != nil {
			p.Close()
			return nil, err
		}
		p.cores = append(p.cores, c)
		p.info.CPUs = append(p.info.CPUs, int(cc.cpu[i]))
	}
	p.chunk = int(cc.chunk_bytes)
	p.info.Backend, p.info.Steering = "af_xdp", cfg.Steering
	p.info.CryptoEngine = C.GoString(C.np_plane_crypto_engine(p.c))
	p.info.HugePage = uint64(C.np_plane_huge_page_bytes(p.c))
	if code := C.np_plane_start(p.c, &detail); code != C.NP_ERR_OK {
		p.Close()
		return nil, failure("start data plane", code, &detail)
	}
	return p, nil
}

func encodeConfig(cc *C.struct_np_plane_config, cfg *dataplane.Config) error {
	C.np_plane_config_default(cc)
	if len(cfg.CPUs) > C.NP_CORES_MAX {
		return fmt.Errorf("%w: %d cores, at most %d", dataplane.CodeInvalid, len(cfg.CPUs), C.NP_CORES_MAX)
	}
	if len(cfg.CPUs) > 0 {
		cc.cores = C.uint32_t(len(cfg.CPUs))
		for i, cpu := range cfg.CPUs {
			cc.cpu[i] = C.int32_t(cpu)
		}
	}
	for _, f := range []struct {
		name string
		to   *C.uint32_t
		from int
	}{
		{"BuffersPerCore", &cc.bufs_per_core, cfg.BuffersPerCore},
		{"ChunkBytes", &cc.chunk_bytes, cfg.ChunkBytes},
		{"LoansPerCore", &cc.loans_per_core, cfg.LoansPerCore},
		{"MaxConns", &cc.conns_max, cfg.MaxConns},
		{"MaxStreams", &cc.streams_max, cfg.MaxStreams},
		{"LoadConns", &cc.load_conns, cfg.LoadConns},
		{"LoadDepth", &cc.load_depth, cfg.LoadDepth},
		{"TCP.RcvBuf", &cc.tcp_rcv_buf_bytes, cfg.TCP.RcvBuf},
		{"TCP.SndBuf", &cc.tcp_snd_buf_bytes, cfg.TCP.SndBuf},
		{"TCP.ChallengeAcks", &cc.tcp_challenge_per_s, cfg.TCP.ChallengeAcks},
		{"TCP.Resets", &cc.tcp_reset_per_s, cfg.TCP.Resets},
		{"TCP.ConnsPerSource", &cc.tcp_conns_per_source, cfg.TCP.ConnsPerSource},
		{"TCP.MinSndMSS", &cc.tcp_min_snd_mss, cfg.TCP.MinSndMSS},
		{"TCP.TTL", &cc.tcp_ttl, cfg.TCP.TTL},
		{"TCP.MemPressure", &cc.tcp_mem_pressure_pct, cfg.TCP.MemPressure},
		{"TCP.MemMax", &cc.tcp_mem_max_pct, cfg.TCP.MemMax},
		{"TCP.MaxOOORuns", &cc.tcp_ooo_runs_max, cfg.TCP.MaxOOORuns},
		{"TCP.RcvStart", &cc.tcp_rcv_start_bytes, cfg.TCP.RcvStart},
		{"TCP.QuickAcks", &cc.tcp_quick_acks, max(cfg.TCP.QuickAcks, 0)},
	} {
		if f.from < 0 || f.from > math.MaxInt32 {
			return fmt.Errorf("%w: %s is %d", dataplane.CodeInvalid, f.name, f.from)
		}
		if f.from > 0 {
			*f.to = C.uint32_t(f.from)
		}
	}
	if err := encodeRDMA(cc, cfg); err != nil {
		return err
	}
	if err := encodeCarriers(cc, cfg); err != nil {
		return err
	}
	for _, f := range []struct {
		to   *C.uint32_t
		from time.Duration
	}{
		{&cc.handshake_ms, cfg.HandshakeLimit},
		{&cc.tcp_keepalive_idle_ms, cfg.TCP.KeepaliveIdle},
		{&cc.tcp_user_timeout_ms, cfg.TCP.UserTimeout},
		{&cc.tcp_timewait_ms, cfg.TCP.TimeWait},
		{&cc.tcp_rto_ms_min, cfg.TCP.MinRTO},
		{&cc.tcp_delack_ms, cfg.TCP.DelayedAck},
		{&cc.tcp_persist_ms, cfg.TCP.PersistTimeout},
	} {
		if ms := millis(f.from); ms > 0 {
			*f.to = ms
		}
	}
	switch {
	case cfg.IdleSpin < 0:
		cc.idle_spin_ns = math.MaxUint64
	case cfg.IdleSpin > 0:
		cc.idle_spin_ns = C.uint64_t(cfg.IdleSpin)
	}
	switch cfg.HugePages {
	case dataplane.HugePagesAuto:
		cc.huge_pages = 1
	case dataplane.HugePagesOff:
		cc.huge_pages = 0
	case dataplane.HugePagesMust:
		cc.huge_pages = 2
	}
	if err := encodeException(&cc.exception, &cfg.Exception); err != nil {
		return err
	}
	if cfg.Steering > dataplane.SteeringSoftware {
		return fmt.Errorf("%w: Steering is %d", dataplane.CodeInvalid, cfg.Steering)
	}
	if cfg.Steering == dataplane.SteeringDevice {
		cc.steering = C.NP_STEERING_DEVICE
	}
	cc.force_portable_crypto = flag(cfg.PortableCrypto)
	cc.no_gro = flag(cfg.NoGRO)
	cc.udp_echo_port, cc.udp_discard_port = C.uint16_t(cfg.UDPEchoPort), C.uint16_t(cfg.UDPDiscardPort)
	cc.tcp_nagle, cc.tcp_no_sack = flag(cfg.TCP.Nagle), flag(cfg.TCP.NoSACK)
	if cfg.TCP.CongestionControl != dataplane.CongestionDefault {
		cc.tcp_congestion_control = C.uint8_t(cfg.TCP.CongestionControl - 1)
	}
	cc.tcp_ecn, cc.tcp_pacing = C.uint8_t(cfg.TCP.ECN), C.uint8_t(cfg.TCP.Pacing)
	cc.tcp_mtu_probing = C.uint8_t(cfg.TCP.MTUProbing)
	cc.tcp_no_timestamps, cc.tcp_no_wscale = flag(cfg.TCP.NoTimestamps), flag(cfg.TCP.NoWindowScaling)
	cc.tcp_no_quick_acks = flag(cfg.TCP.QuickAcks < 0)
	cc.tcp_no_autotune = flag(cfg.TCP.NoAutoTuning)
	secret := bytesOf(&cc.secret)
	if copy(secret, cfg.Secret[:]); cfg.Secret == [64]byte{} {
		rand.Read(secret) // never fails
	}
	return nil
}

func encodeException(cc *C.struct_np_exception_config, cfg *dataplane.ExceptionConfig) error {
	if cfg.Rate < 0 || cfg.Rate > math.MaxInt32 || len(cfg.TCPPorts) > len(cc.tcp_port) || len(cfg.UDPPorts) > len(cc.udp_port) ||
		len(cfg.Protocols) > len(cc.proto) || slices.Contains(cfg.TCPPorts, 0) || slices.Contains(cfg.UDPPorts, 0) ||
		slices.ContainsFunc(cfg.Protocols, func(p uint8) bool { return p == 0 || p == syscall.IPPROTO_TCP || p == syscall.IPPROTO_UDP }) {
		return fmt.Errorf("%w: exception %+v", dataplane.CodeInvalid, *cfg)
	}
	cc.rate_per_s = C.uint32_t(cfg.Rate)
	for i, p := range cfg.TCPPorts {
		cc.tcp_port[i] = C.uint16_t(p)
	}
	for i, p := range cfg.UDPPorts {
		cc.udp_port[i] = C.uint16_t(p)
	}
	for i, p := range cfg.Protocols {
		cc.proto[i] = C.uint8_t(p)
	}
	return nil
}

// newCore takes its own copies of the core's descriptors, so that closing here
// and in C are apart.
func (p *Plane) newCore(i, buffers, loans int) (*core, error) {
	sh := C.np_plane_core(p.c, C.uint32_t(i))
	c := &core{p: p, index: i, cmd: newRing(sh.cmd), loan: newRing(sh.loan), event: newRing(sh.event),
		loans: loans, calls: map[uint32]*call{}, views: make([][]byte, buffers), wakeFD: -1, counters: sh.counters}
	binary.NativeEndian.PutUint64(c.wakeup[:], 1)
	c.live.Store(new([]*liveConn))
	for _, r := range []struct {
		ring *ring
		size uintptr
	}{{&c.cmd, C.sizeof_struct_np_cmd}, {&c.event, C.sizeof_struct_np_event}, {&c.loan, C.sizeof_struct_np_loan}} {
		if r.ring.size != r.size {
			return nil, fmt.Errorf("create data plane: %w: ring items of %d bytes, expected %d", dataplane.CodeInvalid, r.ring.size, r.size)
		}
	}
	dup := func(fd C.int32_t) (int, error) {
		n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			return -1, fmt.Errorf("create data plane: duplicate eventfd: %w", errno)
		}
		return int(n), syscall.SetNonblock(int(n), true)
	}
	fd, err := dup(sh.event_fd)
	if err != nil {
		return nil, err
	}
	c.file = os.NewFile(uintptr(fd), fmt.Sprintf("core %d eventfd", i))
	c.look = c.woken
	if c.rest, err = c.file.SyscallConn(); err == nil {
		c.wakeFD, err = dup(sh.wake_fd)
	}
	if err != nil {
		c.file.Close()
		return nil, err
	}
	return c, nil
}

// Info implements [dataplane.Plane].
func (p *Plane) Info() dataplane.Info {
	i := p.info
	i.CPUs = slices.Clone(i.CPUs)
	return i
}

// Cores implements [dataplane.Plane].
func (p *Plane) Cores() []dataplane.Core {
	out := make([]dataplane.Core, len(p.cores))
	for i, c := range p.cores {
		out[i] = c
	}
	return out
}

// Close implements [dataplane.Plane]. Calls in progress end with CodeShutdown;
// a second Close does nothing.
func (p *Plane) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	close(p.stop)
	p.life.RLock()
	rdma := p.rdma
	p.life.RUnlock()
	if rdma != nil {
		rdma.shut()
	}
	C.np_plane_stop(p.c) // joins: from here on nothing in C moves
	for _, c := range p.cores {
		c.bury()
	}
	p.setup <- struct{}{} // the last set-up call has seen CodeShutdown
	p.life.Lock()
	defer p.life.Unlock()
	p.dead = true
	if p.capture != nil {
		p.capture.free()
	}
	for _, i := range p.ifaces {
		if i == nil {
			continue
		}
		for _, q := range i.queues {
			C.np_plane_queue_close(p.c, q.c)
		}
	}
	for _, q := range p.lost {
		C.np_plane_queue_close(p.c, q)
	}
	if p.rdma != nil {
		p.rdma.end()
	}
	C.np_plane_destroy(p.c)
	p.c = nil
	return nil
}

// bury makes every later call on the core fail and ends those that wait.
func (c *core) bury() {
	c.rmu.Lock()
	c.mu.Lock()
	c.dead = true
	calls := c.calls
	c.calls = nil
	_ = syscall.Close(c.wakeFD)
	c.mu.Unlock()
	c.rmu.Unlock()
	c.file.Close() // ends a Wait
	for _, k := range calls {
		k.finish(answer{err: dataplane.CodeShutdown})
	}
}

// enter begins a set-up call; the caller leaves when it is done.
func (p *Plane) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case p.setup <- struct{}{}:
	case <-p.stop:
		return dataplane.CodeShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.closed.Load() {
		<-p.setup
		return dataplane.CodeShutdown
	}
	return nil
}

func (p *Plane) leave() { <-p.setup }

func (p *Plane) listenerID(handle uint64) dataplane.ListenerID {
	p.lmu.RLock()
	defer p.lmu.RUnlock()
	return p.listeners[handle]
}

// Counters implements [dataplane.Plane].
func (p *Plane) Counters(core int) (out dataplane.Counters) {
	p.life.RLock()
	defer p.life.RUnlock()
	if p.dead || core < 0 || core >= len(p.cores) {
		return out
	}
	n := C.np_plane_core(p.c, C.uint32_t(core)).counters
	for i := range out.Counter {
		out.Counter[i] = atomic.LoadUint64((*uint64)(unsafe.Pointer(&n.counter[i])))
	}
	for i := range out.Drop {
		out.Drop[i] = atomic.LoadUint64((*uint64)(unsafe.Pointer(&n.drop[i])))
	}
	return out
}
