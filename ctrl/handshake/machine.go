package handshake

import (
	"crypto/ecdh"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/npro"
)

// MaxFrameBytes is the longest body of a HANDSHAKE frame. The longest that is
// ever sent, IK's first with hybrid, has some 1,500 bytes.
const MaxFrameBytes = 8192

// DefaultClockSkew is how far an initiator's timestamp may be from now.
const DefaultClockSkew = 5 * time.Second

// Prologue goes into the transcript before anything else.
const Prologue = "NPRO/2"

const hybridBit = 0x80

// Pattern is a Noise handshake pattern, as numbered on the wire.
type Pattern uint8

// The patterns of version 2.
const (
	PatternXX     Pattern = 1 // both by static key, 3 messages
	PatternIK     Pattern = 2 // both by static key, the initiator knows the responder's
	PatternNX     Pattern = 3 // the responder by static key, the initiator stays anonymous
	PatternNNpsk0 Pattern = 4 // both by a pre-shared key
)

func (p Pattern) String() string {
	if d, ok := p.noise(); ok {
		return d.name
	}
	return fmt.Sprintf("pattern %d", uint8(p))
}

// ParsePattern reads a pattern's name; upper and lower case are the same.
func ParsePattern(s string) (Pattern, error) {
	for p := PatternXX; p <= PatternNNpsk0; p++ {
		if strings.EqualFold(s, p.String()) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("pattern %q: expected XX, IK, NX or NNpsk0: %w", s, ErrPattern)
}

func (p Pattern) noise() (noisePattern, bool) {
	switch p {
	case PatternXX:
		return patternXX(), true
	case PatternIK:
		return patternIK(), true
	case PatternNX:
		return patternNX(), true
	case PatternNNpsk0:
		return patternNNpsk0(), true
	}
	return noisePattern{}, false
}

// Config is what a Machine needs. NewResponder and NewInitiator keep the
// pointer and do not write through it; one Config may serve many machines.
type Config struct {
	Static   PrivateKey // not used by NX initiators and NNpsk0
	Patterns []Pattern  // responder: the allowed ones; initiator: exactly one
	Hybrid   bool       // ML-KEM-768 beside X25519; both sides must agree
	PSK      *[KeySize]byte
	// Remote is the responder's key, pinned by an initiator: required for IK and NX,
	// checked in XX when set.
	Remote *PublicKey
	// Trust judges a key that was proven: nil error accepts it. Responders need it
	// for XX and IK, initiators for XX without Remote.
	Trust  func(remote PublicKey) error
	Params Params
	Random io.Reader // crypto/rand.Reader outside of tests
	// ClockSkew is how far an initiator's timestamp may be away; 0: 5 s.
	ClockSkew time.Duration
	// Replay is shared by a listener's responders; required there.
	Replay *ReplayWindow
}

// Step is what a frame led to.
type Step struct {
	Reply     []byte  // body of the frame to send; nil: nothing to send
	ReplyType uint8   // its type, 0x10 to 0x12
	Done      *Result // set when the handshake is complete, once Reply is sent
}

// Result is what a handshake settled. Rx and Tx are secret: call Wipe when they
// are installed.
type Result struct {
	Rx, Tx    [32]byte
	Remote    PublicKey
	HasRemote bool
	Pattern   Pattern
	Hybrid    bool
	ConnID    [8]byte

	AEAD          uint8
	Compression   uint8 // what we may send, 0 none
	CompressionRx uint8 // what the peer may send: bit 1 << compression

	MaxFrameTx, MaxFrameRx         uint32
	StreamWindowTx, StreamWindowRx uint32
	ConnWindowTx, ConnWindowRx     uint32
	Heartbeat                      time.Duration
	PeerName                       string // responder: what the initiator calls itself; unverified text
	HandshakeHash                  [32]byte
}

// Wipe overwrites the keys.
func (r *Result) Wipe() {
	clear(r.Rx[:])
	clear(r.Tx[:])
}

// Machine is one side of one handshake.
type Machine struct {
	cfg       *Config
	params    Params
	initiator bool
	over      bool
	hs        *handshakeState
	pattern   Pattern
	awaits    npro.Type
	offer     *offer // responder: the initiator's, initiator: what we sent
	result    *Result
}

// NewResponder checks cfg and makes the side that accepts.
func NewResponder(cfg *Config) (*Machine, error) {
	if len(cfg.Patterns) == 0 {
		return nil, fmt.Errorf("handshake responder: %w: no pattern allowed", ErrParams)
	}
	if cfg.Replay == nil {
		return nil, fmt.Errorf("handshake responder: %w: no replay window", ErrParams)
	}
	for _, p := range cfg.Patterns {
		if err := checkPattern(cfg, p, false); err != nil {
			return nil, fmt.Errorf("handshake responder: %w", err)
		}
	}
	m := &Machine{cfg: cfg, awaits: npro.TypeHandshake1}
	return m, m.init("responder")
}

// NewInitiator checks cfg and makes the side that connects.
func NewInitiator(cfg *Config) (*Machine, error) {
	if len(cfg.Patterns) != 1 {
		return nil, fmt.Errorf("handshake initiator: %w: %d patterns, expected one", ErrParams, len(cfg.Patterns))
	}
	if err := checkPattern(cfg, cfg.Patterns[0], true); err != nil {
		return nil, fmt.Errorf("handshake initiator: %w", err)
	}
	m := &Machine{cfg: cfg, initiator: true, pattern: cfg.Patterns[0]}
	return m, m.init("initiator")
}

func (m *Machine) init(role string) error {
	var err error
	if m.params, err = m.cfg.Params.withDefaults(); err != nil {
		return fmt.Errorf("handshake %s: %w", role, err)
	}
	if m.cfg.Random == nil {
		return fmt.Errorf("handshake %s: %w: no source of random bytes", role, ErrParams)
	}
	if m.cfg.ClockSkew < 0 {
		return fmt.Errorf("handshake %s: %w: negative clock skew", role, ErrParams)
	}
	return nil
}

// checkPattern finds what pattern p needs and cfg lacks.
func checkPattern(cfg *Config, p Pattern, initiator bool) error {
	var lacks string
	switch p {
	case PatternXX, PatternIK:
		switch {
		case cfg.Static.IsZero():
			lacks = "a static key"
		case !initiator && cfg.Trust == nil:
			lacks = "trust in peers"
		case initiator && p == PatternIK && cfg.Remote == nil:
			lacks = "the responder's public key"
		case initiator && cfg.Remote == nil && cfg.Trust == nil:
			lacks = "the responder's public key or trust in it"
		}
	case PatternNX:
		if initiator && cfg.Remote == nil {
			lacks = "the responder's public key"
		}
		if !initiator && cfg.Static.IsZero() {
			lacks = "a static key"
		}
	case PatternNNpsk0:
		// A key of zeros is an unset one, and everybody knows it.
		if cfg.PSK == nil || *cfg.PSK == [KeySize]byte{} {
			lacks = "a pre-shared key"
		}
	default:
		return fmt.Errorf("%w: %v", ErrPattern, p)
	}
	if lacks != "" {
		return fmt.Errorf("%w: pattern %v needs %s", ErrParams, p, lacks)
	}
	return nil
}

// Start makes the initiator's first frame. now is the wall clock.
func (m *Machine) Start(now time.Time) (Step, error) {
	if !m.initiator || m.hs != nil || m.over {
		return Step{}, m.end(ErrFinished)
	}
	step, err := m.start(now)
	if err != nil {
		return Step{}, m.end(fmt.Errorf("start %v handshake: %w", m.pattern, err))
	}
	return step, nil
}

func (m *Machine) start(now time.Time) (Step, error) {
	if err := m.begin(); err != nil {
		return Step{}, err
	}
	o := m.own()
	o.has |= 1<<keyTimestamp | 1<<keyNonce
	o.timestamp = uint64(now.UnixMilli())
	if _, err := io.ReadFull(m.cfg.Random, o.nonce[:]); err != nil {
		return Step{}, fmt.Errorf("draw nonce: %w", err)
	}
	o.aeads, o.compressions = m.params.AEADs, m.params.Compressions
	if m.params.Name != "" && m.firstIsEncrypted() {
		o.has |= 1 << keyName
	}
	m.offer = o
	m.awaits = npro.TypeHandshake2
	return m.write(npro.TypeHandshake1, o.append(nil))
}

// own is what both payloads have: our limits, and room for offer or choice.
func (m *Machine) own() *offer {
	return &offer{
		has:          1<<keyAEADs | 1<<keyCompressions | 1<<keyMaxFrame | 1<<keyWindows | 1<<keyHeartbeat,
		maxFrame:     m.params.MaxFrame,
		streamWindow: m.params.StreamWindow,
		connWindow:   m.params.ConnWindow,
		heartbeat:    m.params.Heartbeat,
		name:         m.params.Name,
	}
}

func (m *Machine) firstIsEncrypted() bool {
	return m.pattern == PatternIK || m.pattern == PatternNNpsk0
}

// begin builds the Noise state once the pattern is known.
func (m *Machine) begin() error {
	def, _ := m.pattern.noise()
	nc := &noiseConfig{pattern: def, hybrid: m.cfg.Hybrid, initiator: m.initiator,
		prologue: []byte(Prologue), psk: m.cfg.PSK, random: m.cfg.Random}
	needsStatic := m.pattern == PatternXX || m.pattern == PatternIK || m.pattern == PatternNX && !m.initiator
	var err error
	if needsStatic {
		if nc.static, err = ecdh.X25519().NewPrivateKey(m.cfg.Static[:]); err != nil {
			return fmt.Errorf("static key: %w", err)
		}
	}
	if m.initiator && m.pattern == PatternIK {
		if nc.remote, err = ecdh.X25519().NewPublicKey(m.cfg.Remote[:]); err != nil {
			return fmt.Errorf("responder's key: %w", err)
		}
	}
	m.hs, err = newHandshakeState(nc)
	return err
}

func (m *Machine) write(t npro.Type, payload []byte) (Step, error) {
	head := uint8(m.pattern)
	if m.cfg.Hybrid {
		head |= hybridBit
	}
	b, err := m.hs.writeMessage(append(make([]byte, 0, 2048), head), payload)
	return Step{Reply: b, ReplyType: uint8(t)}, err
}

// Receive takes the body of the peer's next HANDSHAKE frame. now is the wall
// clock. Any error ends the handshake; body is not kept.
func (m *Machine) Receive(frameType uint8, body []byte, now time.Time) (Step, error) {
	if m.over || m.initiator && m.hs == nil {
		return Step{}, m.end(ErrFinished)
	}
	step, err := m.receive(npro.Type(frameType), body, now)
	if err != nil {
		return Step{}, m.end(fmt.Errorf("receive handshake message: %w", err))
	}
	if step.Done != nil {
		m.over = true
		m.wipe()
	}
	return step, nil
}

func (m *Machine) receive(t npro.Type, body []byte, now time.Time) (Step, error) {
	if t != m.awaits {
		return Step{}, fmt.Errorf("%w: %v where %v was expected", ErrMalformed, t, m.awaits)
	}
	if len(body) < 1 || len(body) > MaxFrameBytes {
		return Step{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(body))
	}
	if err := m.acceptPattern(Pattern(body[0]&^hybridBit), body[0]&hybridBit != 0); err != nil {
		return Step{}, err
	}
	if m.hs == nil {
		if err := m.begin(); err != nil {
			return Step{}, err
		}
	}
	payload, err := m.hs.readMessage(body[1:])
	if err != nil {
		return Step{}, err
	}
	switch t {
	case npro.TypeHandshake1:
		return m.answer(payload, now)
	case npro.TypeHandshake2:
		return m.choice(payload)
	default:
		return m.third(payload)
	}
}

// acceptPattern judges a frame's first byte.
func (m *Machine) acceptPattern(p Pattern, hybrid bool) error {
	if m.hs == nil && !slices.Contains(m.cfg.Patterns, p) || m.hs != nil && p != m.pattern {
		return fmt.Errorf("%w: %v", ErrPattern, p)
	}
	if hybrid != m.cfg.Hybrid {
		return fmt.Errorf("%w: peer has it %s, we have it %s", ErrHybrid, onOff(hybrid), onOff(m.cfg.Hybrid))
	}
	m.pattern = p
	return nil
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// answer is the responder's reaction to the first message.
func (m *Machine) answer(payload []byte, now time.Time) (Step, error) {
	const required = 1<<keyTimestamp | 1<<keyNonce | 1<<keyAEADs | 1<<keyMaxFrame | 1<<keyWindows
	if m.pattern == PatternIK {
		if err := m.trust(); err != nil {
			return Step{}, err
		}
	}
	o, err := parseOffer(payload, required)
	if err != nil {
		return Step{}, err
	}
	if err := m.checkClock(o.timestamp, now); err != nil {
		return Step{}, err
	}
	m.offer = o
	if m.pattern == PatternXX {
		// The initiator is nobody yet: look, and remember after the third message.
		if m.cfg.Replay.has(o.nonce) {
			return Step{}, ErrReplay
		}
	} else if !m.cfg.Replay.add(o.nonce, m.pattern != PatternNX) {
		return Step{}, ErrReplay
	}
	c := m.own()
	aead := chooseAEAD(o.aeads, m.params.AEADs)
	if aead == 0 {
		return Step{}, fmt.Errorf("%w: no common aead", ErrParams)
	}
	c.has |= 1 << keyConnID
	c.aeads = []uint8{aead}
	c.compressions = []uint8{firstCommon(o.compressions, m.params.Compressions)}
	c.heartbeat = chooseHeartbeat(o.heartbeat, m.params.Heartbeat)
	if _, err := io.ReadFull(m.cfg.Random, c.connID[:]); err != nil {
		return Step{}, fmt.Errorf("draw connection id: %w", err)
	}
	step, err := m.write(npro.TypeHandshake2, c.append(nil))
	if err != nil {
		return Step{}, err
	}
	m.settle(o, c)
	m.result.PeerName = o.name
	if m.hs.done() {
		step.Done = m.finish()
	} else {
		m.awaits = npro.TypeHandshake3
	}
	return step, nil
}

// choice is the initiator's reaction to the second message.
func (m *Machine) choice(payload []byte) (Step, error) {
	const required = 1<<keyAEADs | 1<<keyCompressions | 1<<keyMaxFrame | 1<<keyWindows | 1<<keyHeartbeat | 1<<keyConnID
	if m.pattern == PatternXX || m.pattern == PatternNX {
		if err := m.trust(); err != nil {
			return Step{}, err
		}
	}
	c, err := parseOffer(payload, required)
	if err != nil {
		return Step{}, err
	}
	if len(c.aeads) != 1 || !contains(m.offer.aeads, c.aeads[0]) {
		return Step{}, fmt.Errorf("%w: chosen aead was not offered", ErrParams)
	}
	if len(c.compressions) != 1 || c.compressions[0] != 0 && !contains(m.offer.compressions, c.compressions[0]) {
		return Step{}, fmt.Errorf("%w: chosen compression was not offered", ErrParams)
	}
	m.settle(c, c)
	if m.hs.done() {
		return Step{Done: m.finish()}, nil
	}
	last := &offer{name: m.params.Name}
	if last.name != "" {
		last.has = 1 << keyName
	}
	step, err := m.write(npro.TypeHandshake3, last.append(nil))
	if err != nil {
		return Step{}, err
	}
	step.Done = m.finish()
	return step, nil
}

// third is the responder's reaction to the third message.
func (m *Machine) third(payload []byte) (Step, error) {
	if err := m.trust(); err != nil {
		return Step{}, err
	}
	name, err := parseName(payload)
	if err != nil {
		return Step{}, err
	}
	if !m.cfg.Replay.add(m.offer.nonce, true) {
		return Step{}, ErrReplay
	}
	m.result.PeerName = name
	return Step{Done: m.finish()}, nil
}

// parseName reads a payload that needs to have nothing in it.
func parseName(payload []byte) (string, error) {
	o := &offer{maxFrame: MinFrame, streamWindow: MinWindow, connWindow: MinWindow}
	if err := o.parse(payload); err != nil {
		return "", err
	}
	return o.name, o.check()
}

// trust judges the static key that the peer has just sent under a key that
// only its owner can finish the handshake with.
func (m *Machine) trust() error {
	remote := PublicKey(m.hs.rs.Bytes())
	if m.initiator && m.cfg.Remote != nil {
		if subtle.ConstantTimeCompare(remote[:], m.cfg.Remote[:]) != 1 {
			return fmt.Errorf("%w: key is not the pinned one", ErrUntrusted)
		}
		return nil
	}
	if err := m.cfg.Trust(remote); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return nil
}

func (m *Machine) checkClock(ms uint64, now time.Time) error {
	skew := m.cfg.ClockSkew
	if skew == 0 {
		skew = DefaultClockSkew
	}
	// Compared in ms: a timestamp of 2^64-1 must not overflow a Duration.
	own, limit := uint64(max(now.UnixMilli(), 0)), uint64(skew.Milliseconds())
	away := max(ms, own) - min(ms, own)
	if away > limit {
		return fmt.Errorf("%w: %d ms away, %d allowed", ErrClock, away, limit)
	}
	return nil
}

// settle fills the result from the peer's limits and the choice made.
func (m *Machine) settle(peer, choice *offer) {
	r := &Result{
		Pattern: m.pattern, Hybrid: m.cfg.Hybrid, ConnID: choice.connID,
		AEAD: choice.aeads[0], Compression: choice.compressions[0],
		MaxFrameTx: peer.maxFrame, MaxFrameRx: m.params.MaxFrame,
		StreamWindowTx: peer.streamWindow, StreamWindowRx: m.params.StreamWindow,
		ConnWindowTx: peer.connWindow, ConnWindowRx: m.params.ConnWindow,
		Heartbeat: choice.heartbeat,
	}
	if r.Compression != 0 {
		r.CompressionRx = 1 << r.Compression
	}
	m.result = r
}

// finish splits the keys.
func (m *Machine) finish() *Result {
	r := m.result
	i2r, r2i := m.hs.sym.split()
	r.HandshakeHash = m.hs.sym.h
	if m.hs.rs != nil {
		r.Remote, r.HasRemote = PublicKey(m.hs.rs.Bytes()), true
	}
	if m.initiator {
		r.Tx, r.Rx = i2r, r2i
	} else {
		r.Tx, r.Rx = r2i, i2r
	}
	clear(i2r[:])
	clear(r2i[:])
	return r
}

// Wipe ends the handshake, if it has not ended, and overwrites its keys.
func (m *Machine) Wipe() {
	m.over = true
	m.wipe()
}

func (m *Machine) wipe() {
	if m.hs != nil {
		m.hs.wipe()
	}
	m.result = nil // its keys are the caller's once it was handed out
}

// end closes the machine with err.
func (m *Machine) end(err error) error {
	m.Wipe()
	return err
}

// Failed tells whether err came from a handshake that a peer or a setting ended,
// as opposed to a failing random source.
func Failed(err error) bool {
	for _, e := range []error{ErrMalformed, ErrPattern, ErrHybrid, ErrAuth, ErrUntrusted, ErrClock, ErrReplay, ErrParams, ErrFinished} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
