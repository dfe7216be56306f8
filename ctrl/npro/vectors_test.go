package npro

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write csrc/test/vectors/npro.txt again")

const vectorsFile = "../../csrc/test/vectors/npro.txt"

// block is one vector: the names and values of its lines.
type block struct {
	names  []string
	values map[string]string
}

func (b *block) set(name, value string) {
	b.names = append(b.names, name)
	b.values[name] = value
}

func (b *block) bytes(t *testing.T, name string) []byte {
	t.Helper()
	v, ok := b.values[name]
	out, err := hex.DecodeString(v)
	if !ok || err != nil {
		t.Fatalf("vector %s: %s: %v %v", b.values["name"], name, ok, err)
	}
	return out
}

func (b *block) num(t *testing.T, name string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(b.values[name], 10, 64)
	if err != nil {
		t.Fatalf("vector %s: %s: %v", b.values["name"], name, err)
	}
	return n
}

func readVectors(t *testing.T) []*block {
	t.Helper()
	raw, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var out []*block
	var cur *block
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if line == "" {
			cur = nil
			continue
		}
		name, value, ok := strings.Cut(line, " =")
		if !ok {
			t.Fatalf("line %q", line)
		}
		if cur == nil {
			cur = &block{values: map[string]string{}}
			out = append(out, cur)
		}
		cur.set(name, strings.TrimPrefix(value, " "))
	}
	return out
}

// text makes a file from pairs of name and value: []byte as hex, numbers in decimal.
type text struct{ strings.Builder }

func (w *text) block(pairs ...any) {
	for i := 0; i < len(pairs); i += 2 {
		var v string
		switch x := pairs[i+1].(type) {
		case []byte:
			v = hex.EncodeToString(x)
		default:
			v = fmt.Sprint(x)
		}
		fmt.Fprintf(w, "%s = %s\n", pairs[i], v)
	}
	w.WriteByte('\n')
}

// pattern gives n bytes that repeat with no period of a power of two.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}

func testKey(seed byte) (k [KeySize]byte) {
	for i := range k {
		k[i] = seed + byte(i)*3
	}
	return k
}

func reason(err error) string {
	for name, e := range map[string]error{"magic": ErrMagic, "version": ErrVersion, "flags": ErrFlags, "type": ErrType, "reserved": ErrReserved, "length": ErrLength} {
		if errors.Is(err, e) {
			return name
		}
	}
	return "none"
}

func writeFrames(w *text) {
	add := func(name string, raw []byte, limit uint32) {
		h, err := ParseHeader(raw, limit)
		if err != nil {
			w.block("kind", "frame", "name", name, "header", raw, "limit", limit, "error", reason(err))
			return
		}
		w.block("kind", "frame", "name", name, "header", raw, "limit", limit, "error", "none",
			"flags", h.Flags, "length", h.Length, "type", uint8(h.Type), "priority", h.Priority, "stream", h.Stream)
	}
	for t := range 256 {
		if Type(t).Known() {
			add(Type(t).String(), Header{Type: Type(t), Length: uint32(t), Stream: 7, Flags: FlagEnc}.Append(nil), MaxFrame)
		}
	}
	base := Header{Type: TypeRequest, Flags: FlagEnc | FlagEnd, Length: 1000, Stream: 1}
	change := func(at int, v byte) []byte { b := base.Append(nil); b[at] = v; return b }
	for f := uint8(1); f != 0; f <<= 1 {
		add(fmt.Sprintf("flag %#02x", f), change(5, f), MaxFrame)
	}
	add("every lawful flag with LZ4", change(5, flagAll&^FlagZstd), MaxFrame)
	add("both compressions", change(5, FlagEnc|FlagLZ4|FlagZstd), MaxFrame)
	add("priority 7", change(11, 7), MaxFrame)
	add("priority 8", change(11, 8), MaxFrame)
	add("priority high bit", change(11, 0x80), MaxFrame)
	add("largest stream", Header{Type: TypeData, Stream: 1<<32 - 1}.Append(nil), MaxFrame)
	add("largest length", Header{Type: TypeData, Length: MaxFrame}.Append(nil), MaxFrame)
	add("length over by one", Header{Type: TypeData, Length: MaxFrame + 1}.Append(nil), MaxFrame)
	add("length of all ones", Header{Type: TypeData, Length: 1<<32 - 1}.Append(nil), MaxFrame)
	add("length at a lower limit", Header{Type: TypeData, Length: 4096}.Append(nil), 4096)
	add("length over a lower limit", Header{Type: TypeData, Length: 4097}.Append(nil), 4096)
	add("length zero", Header{Type: TypeRekey}.Append(nil), MaxFrame)
	for i := range 4 {
		add(fmt.Sprintf("magic byte %d", i), change(i, 'x'), MaxFrame)
	}
	for _, v := range []byte{0, 1, 3, 255} {
		add(fmt.Sprintf("version %d", v), change(4, v), MaxFrame)
	}
	for _, v := range []byte{0, 0x08, 0x0f, 0x13, 0x1f, 0x24, 0x80, 0xff} {
		add(fmt.Sprintf("unknown type %#02x", v), change(10, v), MaxFrame)
	}
	// Several faults: the first in this order is told: magic, version, flags, type, reserved, length.
	add("all wrong", bytes.Repeat([]byte{0xff}, 16), MaxFrame)
	add("version before flags", append([]byte{'N', 'P', 'R', 'O'}, bytes.Repeat([]byte{0xff}, 12)...), MaxFrame)
	add("flags before type", append([]byte{'N', 'P', 'R', 'O', 2}, bytes.Repeat([]byte{0xff}, 11)...), MaxFrame)
	add("type before reserved", append([]byte{'N', 'P', 'R', 'O', 2, 0}, bytes.Repeat([]byte{0xff}, 10)...), MaxFrame)
	add("reserved before length", append([]byte{'N', 'P', 'R', 'O', 2, 0, 0xff, 0xff, 0xff, 0xff, 1}, bytes.Repeat([]byte{0xff}, 5)...), MaxFrame)
}

func writeRecords(t *testing.T, w *text) {
	for seed := byte(0); seed < 3; seed++ {
		key := testKey(seed)
		rk, base := DeriveRecordKeys(&key)
		next := NextKey(&key)
		w.block("kind", "keys", "name", fmt.Sprintf("key %d", seed), "key", key[:], "record_key", rk[:], "nonce_base", base[:], "next_key", next[:])
	}
	for _, aead := range []uint8{AEADXChaCha20Poly1305, AEADAES256GCM} {
		key := testKey(aead * 16)
		s, err := NewSealer(aead, &key)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range []int{0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 1400} {
			h := Header{Type: TypeRequest, Flags: FlagEnd, Priority: uint8(i % 8), Stream: uint32(2*i + 1)}
			body := pattern(n)
			seq := s.n
			sealed := s.Seal(append(h.Append(nil), body...), 0)
			w.block("kind", "record", "name", fmt.Sprintf("%s %d bytes", AEADName(aead), n), "aead", aead, "key", key[:], "n", seq,
				"header", sealed[:HeaderSize], "body", body, "sealed", sealed[HeaderSize:])
		}
		for _, n := range []uint64{255, 256, 1<<24 - 1, 1 << 32, maxRecords - 1} {
			s.n = n
			h := Header{Type: TypeData, Stream: 3}
			sealed := s.Seal(append(h.Append(nil), pattern(40)...), 0)
			w.block("kind", "record", "name", fmt.Sprintf("%s record %d", AEADName(aead), n), "aead", aead, "key", key[:], "n", n,
				"header", sealed[:HeaderSize], "body", pattern(40), "sealed", sealed[HeaderSize:])
		}
		// REKEY under the old key, then a record under the next, whose n is 0 again.
		s, _ = NewSealer(aead, &key)
		first := s.Seal(Header{Type: TypeRekey, Priority: 7}.Append(nil), 0)
		s.Rekey()
		second := s.Seal(append(Header{Type: TypePing, Priority: 7}.Append(nil), "after"...), 0)
		w.block("kind", "rekey", "name", AEADName(aead), "aead", aead, "key", key[:], "rekey_frame", first, "next_frame", second, "next_body", []byte("after"))
	}
}

func writeBodies(t *testing.T, w *text) {
	request := func(name string, body []byte) {
		op, payload, err := ParseRequest(body)
		if err != nil {
			w.block("kind", "request", "name", name, "body", body, "error", "body")
			return
		}
		w.block("kind", "request", "name", name, "body", body, "error", "none", "opcode", []byte(op), "payload", payload)
	}
	long := strings.Repeat("o", MaxOpcode)
	for name, x := range []struct {
		op string
		n  int
	}{{"ECHO", 0}, {"ECHO", 64}, {"x", 1}, {long, 3}, {"größe", 2}} {
		b, err := AppendRequest(nil, x.op, pattern(x.n))
		if err != nil {
			t.Fatal(err)
		}
		request(fmt.Sprintf("request %d", name), b)
	}
	request("empty", nil)
	request("opcode of no bytes", []byte{0, 'x'})
	request("opcode over 63", append([]byte{64}, bytes.Repeat([]byte{'o'}, 64)...))
	request("opcode cut short", []byte{5, 'E', 'C', 'H', 'O'})
	request("opcode not UTF-8", []byte{2, 0xc3, 0x28, 1})

	response := func(name string, body []byte) {
		st, payload, err := ParseResponse(body)
		if err != nil {
			w.block("kind", "response", "name", name, "body", body, "error", "body")
			return
		}
		w.block("kind", "response", "name", name, "body", body, "error", "none", "status", uint32(st), "payload", payload)
	}
	response("ok", append([]byte{0}, pattern(10)...))
	response("no payload", []byte{byte(CodeDenied)})
	response("empty", nil)

	tp, err := ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if err != nil {
		t.Fatal(err)
	}
	context := func(name string, body []byte) {
		c, rest, err := ParseContext(body)
		if err != nil {
			w.block("kind", "context", "name", name, "body", body, "error", "body")
			return
		}
		pairs := []any{"kind", "context", "name", name, "body", body, "error", "none", "rest", rest}
		if c.HasTraceparent {
			pairs = append(pairs, "traceparent", c.Traceparent[:])
		}
		if c.HasDeadline {
			pairs = append(pairs, "deadline_ms", c.Deadline.Milliseconds())
		}
		if c.Tenant != "" {
			pairs = append(pairs, "tenant", []byte(c.Tenant))
		}
		if c.Session != "" {
			pairs = append(pairs, "session", []byte(c.Session))
		}
		for i, e := range c.Extra {
			pairs = append(pairs, fmt.Sprintf("extra_%d", i), append([]byte{e.Key}, e.Value...))
		}
		w.block(pairs...)
	}
	mk := func(c Context) []byte {
		b, err := AppendContext(nil, &c)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, "rest"...)
	}
	context("empty block", mk(Context{}))
	context("all", mk(Context{Traceparent: tp, HasTraceparent: true, Deadline: 1500 * time.Millisecond, HasDeadline: true, Tenant: "blue", Session: "s-1",
		Extra: []Entry{{CtxAppFirst, []byte("meta")}, {CtxAppLast, nil}}}))
	context("deadline of all ones", mk(Context{Deadline: (1<<32 - 1) * time.Millisecond, HasDeadline: true}))
	context("unknown keys kept", []byte{0, 5, 0x99, 1, 'a', 0, 0, 'r'})
	context("no length", []byte{0})
	context("block cut short", []byte{0, 3, 3, 1})
	context("entry cut short", []byte{0, 3, 3, 2, 'a'})
	context("key without length", []byte{0, 1, 3})
	context("traceparent of 25", append([]byte{0, 27, 1, 25}, make([]byte, 25)...))
	context("deadline of 3", []byte{0, 5, 2, 3, 0, 0, 0})
	context("tenant twice", []byte{0, 6, 3, 1, 'a', 3, 1, 'b'})
	context("tenant not UTF-8", []byte{0, 3, 3, 1, 0xff})
}

func compressible(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "{\"id\":%d,\"name\":\"host-%d\",\"up\":true}\n", i, i*7919%1000)
	}
	return b.Bytes()[:n]
}

func writeCompressed(t *testing.T, w *text) {
	for _, algo := range []uint8{CompressionLZ4, CompressionZstd} {
		name := map[uint8]string{CompressionLZ4: "lz4", CompressionZstd: "zstd"}[algo]
		c, err := NewCompressor(algo, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var body []byte
		for _, n := range []int{512, 1000, 4096} {
			raw := compressible(n)
			ok := false
			if body, ok = c.Append(nil, raw); !ok {
				t.Fatal("not compressed")
			}
			w.block("kind", name, "name", fmt.Sprintf("%s %d", name, n), "limit", MaxRaw, "body", body, "error", "none", "raw", raw)
		}
		bad := func(what string, limit int, change func(b []byte) []byte) {
			b := change(bytes.Clone(body))
			if raw, err := (&Decompressor{}).Append(nil, c.Flag(), b, limit); err == nil {
				t.Fatalf("%s: %s gave %d bytes", name, what, len(raw))
			}
			w.block("kind", name, "name", name+" "+what, "limit", limit, "body", b, "error", "compression")
		}
		same := func(b []byte) []byte { return b }
		bad("over the limit", 4095, same)
		bad("raw size too small", MaxRaw, func(b []byte) []byte { b[2], b[3] = 0x0f, 0xff; return b })
		bad("raw size too large", MaxRaw, func(b []byte) []byte { b[2], b[3] = 0x10, 0x01; return b })
		bad("raw size huge", MaxRaw, func(b []byte) []byte { b[0] = 0xff; return b })
		bad("raw size zero", MaxRaw, func(b []byte) []byte { clear(b[:4]); return b })
		bad("cut short", MaxRaw, func(b []byte) []byte { return b[:len(b)-1] })
		bad("no block", MaxRaw, func(b []byte) []byte { return b[:4] })
		bad("no raw size", MaxRaw, func(b []byte) []byte { return b[:3] })
		if algo == CompressionZstd {
			bad("two frames", MaxRaw, func(b []byte) []byte { return append(b, b[4:]...) })
			bad("skippable frame behind", MaxRaw, func(b []byte) []byte { return append(b, 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0) })
		}
		bad("a byte behind", MaxRaw, func(b []byte) []byte { return append(b, 0xff) })
	}
}

// TestVectors holds this package to the file that the C side is held to; with
// -update it writes the file.
func TestVectors(t *testing.T) {
	if *update {
		w := &text{}
		w.WriteString("# NPRO version 2 vectors; README.md says how to read them. Made by\n# go test ./ctrl/npro -run TestVectors -update\n\n")
		writeFrames(w)
		writeRecords(t, w)
		writeBodies(t, w)
		writeCompressed(t, w)
		if err := os.MkdirAll(filepath.Dir(vectorsFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorsFile, []byte(strings.TrimSuffix(w.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := map[string]func(*testing.T, *block){"frame": checkFrame, "keys": checkKeys, "record": checkRecord, "rekey": checkRekey,
		"request": checkRequest, "response": checkResponse, "context": checkContext, "lz4": checkCompressed, "zstd": checkCompressed}
	seen := map[string]int{}
	for _, b := range readVectors(t) {
		kind := b.values["kind"]
		seen[kind]++
		f, ok := check[kind]
		if !ok {
			t.Fatalf("kind %q", kind)
		}
		t.Run(kind+"/"+b.values["name"], func(t *testing.T) { f(t, b) })
	}
	for kind := range check {
		if seen[kind] == 0 {
			t.Errorf("no vector of kind %s", kind)
		}
	}
}

func checkFrame(t *testing.T, b *block) {
	raw := b.bytes(t, "header")
	h, err := ParseHeader(raw, uint32(b.num(t, "limit")))
	if reason(err) != b.values["error"] {
		t.Fatalf("%v, expected %s", err, b.values["error"])
	}
	if err != nil {
		return
	}
	want := Header{Flags: uint8(b.num(t, "flags")), Type: Type(b.num(t, "type")), Priority: uint8(b.num(t, "priority")),
		Length: uint32(b.num(t, "length")), Stream: uint32(b.num(t, "stream"))}
	if h != want || !bytes.Equal(want.Append(nil), raw) {
		t.Fatalf("%+v, expected %+v", h, want)
	}
	var put [HeaderSize]byte
	want.Put(put[:])
	if !bytes.Equal(put[:], raw) {
		t.Fatal("Put and Append differ")
	}
}

func checkKeys(t *testing.T, b *block) {
	key := [32]byte(b.bytes(t, "key"))
	rk, base := DeriveRecordKeys(&key)
	next := NextKey(&key)
	if !bytes.Equal(rk[:], b.bytes(t, "record_key")) || !bytes.Equal(base[:], b.bytes(t, "nonce_base")) || !bytes.Equal(next[:], b.bytes(t, "next_key")) {
		t.Fatal("derived differently")
	}
}

func checkRecord(t *testing.T, b *block) {
	key := [32]byte(b.bytes(t, "key"))
	aead, n := uint8(b.num(t, "aead")), b.num(t, "n")
	header, body, sealed := b.bytes(t, "header"), b.bytes(t, "body"), b.bytes(t, "sealed")
	s, err := NewSealer(aead, &key)
	if err != nil {
		t.Fatal(err)
	}
	s.n = n
	if got := s.Seal(append(bytes.Clone(header), body...), 0); !bytes.Equal(got[HeaderSize:], sealed) || !bytes.Equal(got[:HeaderSize], header) {
		t.Fatalf("sealed %x", got)
	}
	o, _ := NewOpener(aead, &key)
	o.n = n
	if got, err := o.Open(header, bytes.Clone(sealed)); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("opened %x, %v", got, err)
	}
}

func checkRekey(t *testing.T, b *block) {
	key := [32]byte(b.bytes(t, "key"))
	o, err := NewOpener(uint8(b.num(t, "aead")), &key)
	if err != nil {
		t.Fatal(err)
	}
	f := b.bytes(t, "rekey_frame")
	if body, err := o.Open(f[:HeaderSize], f[HeaderSize:]); err != nil || len(body) != 0 {
		t.Fatalf("rekey frame: %v", err)
	}
	o.Rekey()
	f = b.bytes(t, "next_frame")
	if body, err := o.Open(f[:HeaderSize], f[HeaderSize:]); err != nil || !bytes.Equal(body, b.bytes(t, "next_body")) {
		t.Fatalf("next frame: %v", err)
	}
}

func wantError(t *testing.T, b *block, err, kind error) bool {
	t.Helper()
	if (err != nil) != (b.values["error"] != "none") || err != nil && !errors.Is(err, kind) {
		t.Fatalf("%v, expected %s", err, b.values["error"])
	}
	return err != nil
}

func checkRequest(t *testing.T, b *block) {
	op, payload, err := ParseRequest(b.bytes(t, "body"))
	if wantError(t, b, err, ErrBody) {
		return
	}
	if op != string(b.bytes(t, "opcode")) || !bytes.Equal(payload, b.bytes(t, "payload")) {
		t.Fatalf("%q %x", op, payload)
	}
	if back, err := AppendRequest(nil, op, payload); err != nil || !bytes.Equal(back, b.bytes(t, "body")) {
		t.Fatalf("built %x, %v", back, err)
	}
}

func checkResponse(t *testing.T, b *block) {
	st, payload, err := ParseResponse(b.bytes(t, "body"))
	if wantError(t, b, err, ErrBody) {
		return
	}
	if uint64(st) != b.num(t, "status") || !bytes.Equal(payload, b.bytes(t, "payload")) {
		t.Fatalf("%v %x", st, payload)
	}
}

func checkContext(t *testing.T, b *block) {
	c, rest, err := ParseContext(b.bytes(t, "body"))
	if wantError(t, b, err, ErrBody) {
		return
	}
	if !bytes.Equal(rest, b.bytes(t, "rest")) {
		t.Fatalf("rest %x", rest)
	}
	if _, ok := b.values["traceparent"]; ok != c.HasTraceparent || ok && !bytes.Equal(c.Traceparent[:], b.bytes(t, "traceparent")) {
		t.Fatalf("traceparent %v", c.Traceparent)
	}
	if _, ok := b.values["deadline_ms"]; ok != c.HasDeadline || ok && uint64(c.Deadline.Milliseconds()) != b.num(t, "deadline_ms") {
		t.Fatalf("deadline %v", c.Deadline)
	}
	if v, err := hex.DecodeString(b.values["tenant"]); err != nil || string(v) != c.Tenant {
		t.Fatalf("tenant %q", c.Tenant)
	}
	if v, err := hex.DecodeString(b.values["session"]); err != nil || string(v) != c.Session {
		t.Fatalf("session %q", c.Session)
	}
	for i, e := range c.Extra {
		if !bytes.Equal(append([]byte{e.Key}, e.Value...), b.bytes(t, fmt.Sprintf("extra_%d", i))) {
			t.Fatalf("extra %d: %v", i, e)
		}
	}
}

func checkCompressed(t *testing.T, b *block) {
	flagOf := map[string]uint8{"lz4": FlagLZ4, "zstd": FlagZstd}[b.values["kind"]]
	d := &Decompressor{}
	defer d.Close()
	raw, err := d.Append([]byte("before"), flagOf, b.bytes(t, "body"), int(b.num(t, "limit")))
	if wantError(t, b, err, ErrCompression) {
		if string(raw) != "before" {
			t.Fatalf("left %d bytes", len(raw))
		}
		return
	}
	if !bytes.Equal(raw[6:], b.bytes(t, "raw")) {
		t.Fatal("raw form differs")
	}
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(t []byte) (err error) {
	*h, err = hex.DecodeString(string(t))
	return err
}

// Wycheproof's files against the AEADs as records use them.
func TestWycheproofAEADs(t *testing.T) {
	dir := os.Getenv("NP_VECTORS")
	if dir == "" {
		t.Skip("NP_VECTORS is not set: outside vectors not checked")
	}
	for _, f := range []struct {
		file   string
		aead   uint8
		ivBits int
	}{{"wycheproof_aes_gcm_test.json", AEADAES256GCM, 96}, {"wycheproof_xchacha20_poly1305_test.json", AEADXChaCha20Poly1305, 192}} {
		var file struct {
			TestGroups []struct {
				IVSize, KeySize int
				Tests           []struct {
					TcID                       int
					Key, IV, AAD, Msg, CT, Tag hexBytes
					Result                     string
				}
			}
		}
		raw, err := os.ReadFile(filepath.Join(dir, f.file))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &file); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, g := range file.TestGroups {
			if g.IVSize != f.ivBits || g.KeySize != 256 {
				continue // sizes records never use
			}
			for _, v := range g.Tests {
				n++
				var base [24]byte
				copy(base[:], v.IV)
				a, nonce, err := newRecordAEAD(f.aead, (*[32]byte)(v.Key), &base)
				if err != nil {
					t.Fatal(err)
				}
				sealed := append(bytes.Clone(v.CT), v.Tag...)
				if v.Result == "valid" && !bytes.Equal(a.Seal(nil, nonce[:], v.Msg, v.AAD), sealed) {
					t.Errorf("%s case %d: sealed differently", f.file, v.TcID)
				}
				got, err := a.Open(nil, nonce[:], sealed, v.AAD)
				if (err == nil) != (v.Result == "valid") || err == nil && !bytes.Equal(got, v.Msg) {
					t.Errorf("%s case %d (%s): %v", f.file, v.TcID, v.Result, err)
				}
			}
		}
		if n == 0 {
			t.Errorf("%s: no case applies", f.file)
		}
		t.Logf("%s: %d cases", f.file, n)
	}
}
