package handshake

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/npro"
)

var testNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var errStranger = errors.New("stranger")

// pair is both sides' configurations, which agree until a test changes them.
type pair struct {
	i, r       Config
	iPub, rPub PublicKey
}

func newPair(t testing.TB, p Pattern, hybrid bool) *pair {
	t.Helper()
	is, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pr := &pair{iPub: is.Public(), rPub: rs.Public()}
	psk := [32]byte{1, 2, 3}
	pr.i = Config{Static: is, Patterns: []Pattern{p}, Hybrid: hybrid, PSK: &psk, Remote: &pr.rPub, Random: rand.Reader,
		Params: Params{Name: "client-1", Heartbeat: 10 * time.Second, StreamWindow: 1 << 16, ConnWindow: 1 << 20, MaxFrame: 1 << 15,
			AEADs: []uint8{2, 1}, Compressions: []uint8{1, 2}}}
	pr.r = Config{Static: rs, Patterns: []Pattern{PatternXX, PatternIK, PatternNX, PatternNNpsk0}, Hybrid: hybrid, PSK: &psk, Random: rand.Reader,
		Replay: NewReplayWindow(0),
		Trust: func(k PublicKey) error {
			if k != pr.iPub {
				return errStranger
			}
			return nil
		},
		Params: Params{Heartbeat: 15 * time.Second, AEADs: []uint8{2, 1}, Compressions: []uint8{2}}}
	return pr
}

// alter sees each frame and may change it; index counts from 0.
type alter func(index int, body []byte) []byte

// run plays a handshake and returns both results, and the error of the side
// that ended it.
func (p *pair) run(t testing.TB, change alter) (ri, rr *Result, err error) {
	t.Helper()
	mi, err := NewInitiator(&p.i)
	if err != nil {
		return nil, nil, err
	}
	mr, err := NewResponder(&p.r)
	if err != nil {
		return nil, nil, err
	}
	step, err := mi.Start(testNow)
	if err != nil {
		return nil, nil, err
	}
	for index := 0; step.Reply != nil; index++ {
		to := mr
		if index%2 == 1 {
			to = mi
		}
		if step.Done != nil {
			if index%2 == 1 {
				rr = step.Done
			} else {
				ri = step.Done
			}
		}
		body := step.Reply
		if change != nil {
			body = change(index, body)
		}
		if step, err = to.Receive(step.ReplyType, body, testNow); err != nil {
			if _, again := to.Receive(0x10, body, testNow); !errors.Is(again, ErrFinished) {
				t.Fatalf("after an error: %v, expected ErrFinished", again)
			}
			return nil, nil, err
		}
		if step.Done != nil && step.Reply == nil {
			if to == mi {
				ri = step.Done
			} else {
				rr = step.Done
			}
		}
	}
	return ri, rr, nil
}

func everyPattern(t *testing.T, f func(t *testing.T, p *pair, pattern Pattern)) {
	for pattern := PatternXX; pattern <= PatternNNpsk0; pattern++ {
		for _, hybrid := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/hybrid=%v", pattern, hybrid), func(t *testing.T) { f(t, newPair(t, pattern, hybrid), pattern) })
		}
	}
}

func TestEveryPattern(t *testing.T) {
	everyPattern(t, func(t *testing.T, p *pair, pattern Pattern) {
		ri, rr, err := p.run(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ri.Tx != rr.Rx || ri.Rx != rr.Tx || ri.Tx == ri.Rx || ri.Tx == [32]byte{} {
			t.Error("keys do not meet")
		}
		if ri.HandshakeHash != rr.HandshakeHash || ri.ConnID != rr.ConnID || ri.ConnID == [8]byte{} {
			t.Error("transcript or connection ID differs")
		}
		mutual := pattern == PatternXX || pattern == PatternIK
		if ri.HasRemote != (pattern != PatternNNpsk0) || ri.HasRemote && ri.Remote != p.rPub {
			t.Errorf("initiator sees %v %v", ri.HasRemote, ri.Remote)
		}
		if rr.HasRemote != mutual || mutual && rr.Remote != p.iPub {
			t.Errorf("responder sees %v %v", rr.HasRemote, rr.Remote)
		}
		wantName := "client-1"
		if pattern == PatternNX {
			wantName = ""
		}
		if rr.PeerName != wantName {
			t.Errorf("name %q, expected %q", rr.PeerName, wantName)
		}
		for _, r := range []*Result{ri, rr} {
			if r.AEAD != npro.AEADAES256GCM || r.Compression != 2 || r.CompressionRx != 4 || r.Heartbeat != 10*time.Second || r.Pattern != pattern || r.Hybrid != p.i.Hybrid {
				t.Errorf("settled %+v", r)
			}
		}
		if rr.MaxFrameTx != 1<<15 || ri.MaxFrameTx != npro.MaxFrame || ri.MaxFrameRx != 1<<15 ||
			rr.StreamWindowTx != 1<<16 || rr.ConnWindowTx != 1<<20 || ri.StreamWindowTx != DefaultStreamWindow || ri.ConnWindowTx != DefaultConnWindow ||
			rr.StreamWindowRx != DefaultStreamWindow || ri.ConnWindowRx != 1<<20 {
			t.Errorf("limits crossed: initiator %+v responder %+v", ri, rr)
		}
		ri.Wipe()
		if ri.Tx != [32]byte{} || ri.Rx != [32]byte{} {
			t.Error("Wipe left a key")
		}
	})
}

func TestTruncatedAtEveryByte(t *testing.T) {
	everyPattern(t, func(t *testing.T, p *pair, _ Pattern) {
		// Cut points of a 1,200-byte KEM key all run the same check: hybrid samples them.
		stride := 1
		if p.i.Hybrid {
			stride = 97
		}
		for message := range 3 {
			length := 0
			if _, _, err := p.run(t, func(i int, b []byte) []byte {
				if i == message {
					length = len(b)
				}
				return b
			}); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < length; n += stride {
				if _, _, err := p.run(t, func(i int, b []byte) []byte {
					if i == message {
						return b[:n]
					}
					return b
				}); !Failed(err) {
					t.Fatalf("message %d cut to %d of %d: %v", message, n, length, err)
				}
			}
		}
	})
}

func TestBitFlips(t *testing.T) {
	everyPattern(t, func(t *testing.T, p *pair, pattern Pattern) {
		stride := 1
		if p.i.Hybrid {
			stride = 89
		}
		for message := range 3 {
			length := 1
			for at := 0; at < length; at += stride {
				_, _, err := p.run(t, func(i int, b []byte) []byte {
					if i == message {
						length = len(b)
						b[at] ^= 1 << (at % 8)
					}
					return b
				})
				if length > 1 && !Failed(err) {
					// X25519 ignores the top bit of a public key (RFC 7748 §5), but the
					// transcript does not: this may never pass.
					t.Fatalf("message %d byte %d flipped: %v", message, at, err)
				}
			}
		}
	})
}

func TestTrailingBytes(t *testing.T) {
	everyPattern(t, func(t *testing.T, p *pair, pattern Pattern) {
		for message := range 2 {
			if _, _, err := p.run(t, func(i int, b []byte) []byte {
				if i == message {
					return append(b, 0)
				}
				return b
			}); !Failed(err) {
				t.Fatalf("message %d with a byte more: %v", message, err)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	low := PublicKey{} // the point of order 1
	other := PublicKey{9}
	cases := []struct {
		name    string
		pattern Pattern
		change  func(p *pair)
		alter   alter
		want    error
	}{
		{"hybrid only at the initiator", PatternXX, func(p *pair) { p.i.Hybrid = true }, nil, ErrHybrid},
		{"hybrid only at the responder", PatternIK, func(p *pair) { p.r.Hybrid = true }, nil, ErrHybrid},
		{"pattern not allowed", PatternNX, func(p *pair) { p.r.Patterns = []Pattern{PatternXX} }, nil, ErrPattern},
		{"pattern unknown", PatternXX, nil, func(i int, b []byte) []byte { b[0] = 9; return b }, ErrPattern},
		{"answer in another pattern", PatternXX, nil, func(i int, b []byte) []byte {
			if i == 1 {
				b[0] = byte(PatternNX)
			}
			return b
		}, ErrPattern},
		{"answer in hybrid", PatternXX, nil, func(i int, b []byte) []byte {
			if i == 1 {
				b[0] |= hybridBit
			}
			return b
		}, ErrHybrid},
		{"wrong psk", PatternNNpsk0, func(p *pair) { p.i.PSK = &[32]byte{7} }, nil, ErrAuth},
		{"untrusted initiator XX", PatternXX, func(p *pair) { p.iPub = PublicKey{} }, nil, ErrUntrusted},
		{"untrusted initiator IK", PatternIK, func(p *pair) { p.iPub = PublicKey{} }, nil, errStranger},
		{"pinned key differs XX", PatternXX, func(p *pair) { p.i.Remote = &other }, nil, ErrUntrusted},
		{"pinned key differs NX", PatternNX, func(p *pair) { p.i.Remote = &other }, nil, ErrUntrusted},
		{"pinned key differs IK", PatternIK, func(p *pair) { p.i.Remote = &other }, nil, ErrAuth},
		{"low-order responder key IK", PatternIK, func(p *pair) { p.i.Remote = &low }, nil, ErrAuth},
		{"low-order ephemeral", PatternXX, nil, func(i int, b []byte) []byte {
			if i == 0 {
				clear(b[1:33])
			}
			return b
		}, ErrAuth},
		{"no common aead", PatternXX, func(p *pair) { p.i.Params.AEADs = []uint8{1}; p.r.Params.AEADs = []uint8{2} }, nil, ErrParams},
		{"too long", PatternXX, nil, func(i int, b []byte) []byte { return append(b, make([]byte, MaxFrameBytes)...) }, ErrMalformed},
		{"empty", PatternXX, nil, func(i int, b []byte) []byte { return nil }, ErrMalformed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, c.pattern, false)
			if c.change != nil {
				c.change(p)
			}
			_, _, err := p.run(t, c.alter)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, expected %v", err, c.want)
			}
		})
	}
}

func TestClockSkew(t *testing.T) {
	for _, c := range []struct {
		away time.Duration
		want error
	}{{0, nil}, {5 * time.Second, nil}, {-5 * time.Second, nil}, {5001 * time.Millisecond, ErrClock}, {-5001 * time.Millisecond, ErrClock}, {-60 * 365 * 24 * time.Hour, ErrClock}} {
		for pattern := PatternXX; pattern <= PatternNNpsk0; pattern++ {
			p := newPair(t, pattern, false)
			mi, _ := NewInitiator(&p.i)
			mr, _ := NewResponder(&p.r)
			step, err := mi.Start(testNow.Add(c.away))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = mr.Receive(step.ReplyType, step.Reply, testNow); !errors.Is(err, c.want) {
				t.Errorf("%v %v away: %v, expected %v", pattern, c.away, err, c.want)
			}
		}
	}
	m := &Machine{cfg: &Config{}}
	if err := m.checkClock(^uint64(0), testNow); !errors.Is(err, ErrClock) {
		t.Errorf("timestamp of 2^64-1: %v", err)
	}
}

// A recorded first message is refused; in XX as soon as the first use of it was
// authenticated, before that it may be looked at again but leads nowhere.
func TestReplay(t *testing.T) {
	everyPattern(t, func(t *testing.T, p *pair, pattern Pattern) {
		var first []byte
		if _, _, err := p.run(t, func(i int, b []byte) []byte {
			if i == 0 {
				first = bytes.Clone(b)
			}
			return b
		}); err != nil {
			t.Fatal(err)
		}
		mr, err := NewResponder(&p.r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mr.Receive(0x10, first, testNow); !errors.Is(err, ErrReplay) {
			t.Fatalf("second use: %v", err)
		}
		if n := p.r.Replay.Len(); n != 1 {
			t.Errorf("%d nonces remembered, expected 1", n)
		}
	})
}

func TestStrangersDoNotFillReplayWindow(t *testing.T) {
	for _, pattern := range []Pattern{PatternXX, PatternIK} {
		p := newPair(t, pattern, false)
		p.iPub = PublicKey{}
		if _, _, err := p.run(t, nil); !errors.Is(err, ErrUntrusted) {
			t.Fatal(err)
		}
		if n := p.r.Replay.Len(); n != 0 {
			t.Errorf("%v: %d nonces of strangers remembered", pattern, n)
		}
	}
}

func TestReplayWindowBounds(t *testing.T) {
	w := NewReplayWindow(100)
	mk := func(i int) (n nonce) { copy(n[:], fmt.Sprintf("%016d", i)); return n }
	for i := range 1000 {
		if !w.add(mk(i), true) || w.add(mk(i), true) || w.add(mk(i), false) {
			t.Fatalf("nonce %d", i)
		}
	}
	if w.Len() != 100 || len(w.authenticated.ring) != 100 {
		t.Fatalf("%d nonces, ring of %d", w.Len(), len(w.authenticated.ring))
	}
	if w.has(mk(899)) || !w.has(mk(900)) || !w.has(mk(999)) {
		t.Error("not the oldest went out")
	}
	for i := range 1000 {
		w.add(mk(10_000+i), false)
	}
	if !w.has(mk(900)) {
		t.Error("anonymous nonces pushed an authenticated one out")
	}
}

// XX's nonce travels in clear: a stranger who sees it and offers it in NX first
// must not get the peer's handshake refused.
func TestStrangersDoNotSpendNonces(t *testing.T) {
	for at := range 3 { // before the first message comes, or one of the others
		p := newPair(t, PatternXX, false)
		var first *offer
		if _, _, err := p.run(t, func(i int, b []byte) []byte {
			if i == 0 {
				first, _ = parseOffer(b[1+KeySize:], 0)
			}
			if i == at {
				p.r.Replay.add(first.nonce, false)
			}
			return b
		}); err != nil {
			t.Errorf("nonce spent before message %d: %v", at+1, err)
		}
	}
}

func TestReplayWindowConcurrent(t *testing.T) {
	w := NewReplayWindow(0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	wins := 0
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				if w.add(nonce{byte(i), byte(i >> 8)}, true) {
					mu.Lock()
					wins++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if wins != 500 {
		t.Errorf("%d first uses of 500 nonces", wins)
	}
}

func TestChoices(t *testing.T) {
	for _, c := range []struct {
		offered, own []uint8
		want         uint8
	}{
		{[]uint8{2, 1}, []uint8{2, 1}, 2}, {[]uint8{1, 2}, []uint8{2, 1}, 1}, {[]uint8{2, 1}, []uint8{1, 2}, 1},
		{[]uint8{2}, []uint8{1, 2}, 2}, {[]uint8{9, 2}, []uint8{1, 2}, 2}, {[]uint8{9}, []uint8{1, 2}, 0}, {[]uint8{1}, []uint8{1}, 1},
	} {
		if got := chooseAEAD(c.offered, c.own); got != c.want {
			t.Errorf("offered %v own %v: %d, expected %d", c.offered, c.own, got, c.want)
		}
	}
	const s, ms = time.Second, time.Millisecond
	for _, c := range [][3]time.Duration{{0, 0, 0}, {0, 5 * s, 5 * s}, {5 * s, 0, 5 * s}, {3 * s, 5 * s, 3 * s}, {5 * s, 3 * s, 3 * s},
		{ms, 15 * s, s}, {ms, 0, s}, {ms, 200 * ms, 200 * ms}, {15 * s, 200 * ms, 200 * ms}} {
		if got := chooseHeartbeat(c[0], c[1]); got != c[2] {
			t.Errorf("heartbeat of %v and %v: %v", c[0], c[1], got)
		}
	}
}

func TestEntries(t *testing.T) {
	base := func() *offer {
		return &offer{has: 0x1fe, timestamp: 1, aeads: []uint8{1}, maxFrame: MinFrame, streamWindow: MinWindow, connWindow: MinWindow, name: "a"}
	}
	good := base().append(nil)
	if _, err := parseOffer(good, 0x1fe); err != nil {
		t.Fatal(err)
	}
	if o, err := parseOffer(appendEntry(bytes.Clone(good), 0x77, []byte("later")), 0x1fe); err != nil || o.name != "a" {
		t.Errorf("unknown entry: %v", err)
	}
	for n := 1; n < len(good); n++ {
		if _, err := parseOffer(good[:n], 0x1fe); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	if _, err := parseOffer(append(bytes.Clone(good), appendEntry(nil, keyName, nil)...), 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("entry twice: %v", err)
	}
	for name, change := range map[string]func(o *offer){
		"small frame": func(o *offer) { o.maxFrame = MinFrame - 1 }, "no window": func(o *offer) { o.streamWindow = 0 },
		"huge window": func(o *offer) { o.connWindow = 1 << 31 }, "long heartbeat": func(o *offer) { o.heartbeat = 2 * time.Hour },
		"long name": func(o *offer) { o.name = strings.Repeat("x", 65) }, "escape in name": func(o *offer) { o.name = "\x1b[2J" },
		"not utf-8": func(o *offer) { o.name = "\xff" },
	} {
		o := base()
		change(o)
		if _, err := parseOffer(o.append(nil), 0); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for name, c := range map[string]struct {
		pattern   Pattern
		initiator bool
		change    func(p *pair)
	}{
		"xx without key":        {PatternXX, true, func(p *pair) { p.i.Static = PrivateKey{} }},
		"xx without trust":      {PatternXX, true, func(p *pair) { p.i.Remote = nil }},
		"ik without remote":     {PatternIK, true, func(p *pair) { p.i.Remote = nil; p.i.Trust = func(PublicKey) error { return nil } }},
		"nx without remote":     {PatternNX, true, func(p *pair) { p.i.Remote = nil }},
		"psk missing":           {PatternNNpsk0, true, func(p *pair) { p.i.PSK = nil }},
		"psk of zeros":          {PatternNNpsk0, true, func(p *pair) { p.i.PSK = new([32]byte) }},
		"two patterns":          {PatternXX, true, func(p *pair) { p.i.Patterns = append(p.i.Patterns, PatternIK) }},
		"no random":             {PatternXX, true, func(p *pair) { p.i.Random = nil }},
		"unknown aead":          {PatternXX, true, func(p *pair) { p.i.Params.AEADs = []uint8{3} }},
		"responder no patterns": {PatternXX, false, func(p *pair) { p.r.Patterns = nil }},
		"responder no trust":    {PatternXX, false, func(p *pair) { p.r.Trust = nil }},
		"responder no replay":   {PatternXX, false, func(p *pair) { p.r.Replay = nil }},
		"responder no key":      {PatternNX, false, func(p *pair) { p.r.Static = PrivateKey{} }},
		"responder no psk":      {PatternNNpsk0, false, func(p *pair) { p.r.PSK = nil }},
		"big frame":             {PatternXX, false, func(p *pair) { p.r.Params.MaxFrame = npro.MaxFrame + 1 }},
	} {
		p := newPair(t, c.pattern, false)
		c.change(p)
		var err error
		if c.initiator {
			_, err = NewInitiator(&p.i)
		} else {
			_, err = NewResponder(&p.r)
		}
		if !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOutOfTurn(t *testing.T) {
	p := newPair(t, PatternXX, false)
	mi, _ := NewInitiator(&p.i)
	if _, err := mi.Receive(0x11, []byte{1}, testNow); !errors.Is(err, ErrFinished) {
		t.Errorf("receive before start: %v", err)
	}
	mr, _ := NewResponder(&p.r)
	if _, err := mr.Start(testNow); !errors.Is(err, ErrFinished) {
		t.Errorf("responder started: %v", err)
	}
	mr, _ = NewResponder(&p.r)
	if _, err := mr.Receive(0x12, []byte{1}, testNow); !errors.Is(err, ErrMalformed) {
		t.Errorf("third message first: %v", err)
	}
	mi, _ = NewInitiator(&p.i)
	if _, err := mi.Start(testNow); err != nil {
		t.Fatal(err)
	}
	if _, err := mi.Start(testNow); !errors.Is(err, ErrFinished) {
		t.Errorf("second start: %v", err)
	}
}

func TestWipe(t *testing.T) {
	p := newPair(t, PatternNNpsk0, true)
	mi, _ := NewInitiator(&p.i)
	if _, err := mi.Start(testNow); err != nil {
		t.Fatal(err)
	}
	hs := mi.hs
	mi.Wipe()
	if hs.sym.ck != [32]byte{} || *hs.psk != [32]byte{} || hs.e != nil || hs.e1 != nil {
		t.Error("Wipe left secrets")
	}
	if *p.i.PSK == [32]byte{} {
		t.Error("Wipe took the configuration's key")
	}
}

func TestKeys(t *testing.T) {
	k, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParsePrivateKey(k.Encode())
	if err != nil || back != k {
		t.Fatalf("private key: %v", err)
	}
	pub, err := ParsePublicKey(k.Public().String())
	if err != nil || pub != k.Public() {
		t.Fatalf("public key: %v", err)
	}
	js, err := json.Marshal(struct {
		A PrivateKey
		B *PrivateKey
	}{k, &k})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%x %v %+v %#v %s %d", k, &k, k, k, k, k), k.LogValue().String(), string(js)} {
		if strings.Contains(s, k.Encode()) || !strings.Contains(s, "(private key)") || strings.Contains(s, fmt.Sprintf("%x", k[:4])) {
			t.Errorf("key printed: %s", s)
		}
	}
	for _, s := range []string{"", "x", strings.Repeat("A", 44), strings.Repeat("A", 43) + "\n", strings.Repeat("!", 44), k.Encode() + "="} {
		if _, err := ParsePrivateKey(s); err == nil {
			t.Errorf("accepted %q", s)
		} else if len(s) > 1 && strings.Contains(err.Error(), s) {
			t.Errorf("error quotes the key: %v", err)
		}
	}
	var u PublicKey
	text, _ := pub.MarshalText()
	if err := u.UnmarshalText(text); err != nil || u != pub {
		t.Errorf("text form: %v", err)
	}
	for _, s := range []string{"xx", "IK", "Nx", "nnPSK0"} {
		if p, err := ParsePattern(s); err != nil || !strings.EqualFold(p.String(), s) {
			t.Errorf("pattern %q: %v %v", s, p, err)
		}
	}
	if _, err := ParsePattern("KK"); !errors.Is(err, ErrPattern) {
		t.Errorf("pattern KK: %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	var seeds [][]byte
	for pattern := PatternXX; pattern <= PatternNNpsk0; pattern++ {
		for _, hybrid := range []bool{false, true} {
			p := newPair(f, pattern, hybrid)
			if _, _, err := p.run(f, func(i int, b []byte) []byte { seeds = append(seeds, bytes.Clone(b)); return b }); err != nil {
				f.Fatal(err)
			}
		}
	}
	for i, s := range seeds {
		f.Add(uint8(i), s)
	}
	psk := [32]byte{1}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		pattern := Pattern(kind%4) + 1
		p := newPair(t, pattern, kind&4 != 0)
		p.r.PSK, p.i.PSK = &psk, &psk
		mr, err := NewResponder(&p.r)
		if err != nil {
			t.Fatal(err)
		}
		step, err := mr.Receive(0x10, body, testNow)
		if err == nil && step.Reply == nil {
			t.Fatal("neither answer nor error")
		}
		if err == nil && step.Done == nil {
			if _, err = mr.Receive(0x12, body, testNow); err == nil {
				t.Fatal("forged third message accepted")
			}
		}
		if err != nil && !Failed(err) {
			t.Fatalf("error without a kind: %v", err)
		}
		mi, err := NewInitiator(&p.i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mi.Start(testNow); err != nil {
			t.Fatal(err)
		}
		if _, err := mi.Receive(0x11, body, testNow); err == nil || !Failed(err) {
			t.Fatalf("forged answer: %v", err)
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	for _, hybrid := range []bool{false, true} {
		b.Run(fmt.Sprintf("XX/hybrid=%v", hybrid), func(b *testing.B) {
			p := newPair(b, PatternXX, hybrid)
			for b.Loop() {
				if _, _, err := p.run(b, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
