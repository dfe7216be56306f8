package npro

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/chacha20poly1305"
)

// The cached HChaCha20 subkey must give what the textbook XChaCha20-Poly1305 gives.
func TestXChaChaSubkey(t *testing.T) {
	key := testKey(9)
	s, err := NewSealer(AEADXChaCha20Poly1305, &key)
	if err != nil {
		t.Fatal(err)
	}
	rk, base := DeriveRecordKeys(&key)
	x, err := chacha20poly1305.NewX(rk[:])
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		body := pattern(100 * n)
		got := s.Seal(append(Header{Type: TypeData, Stream: 1}.Append(nil), body...), 0)
		nonce := base
		nonce[23] ^= byte(n)
		if want := x.Seal(nil, nonce[:], body, got[:HeaderSize]); !bytes.Equal(got[HeaderSize:], want) {
			t.Errorf("record %d differs", n)
		}
	}
}

func TestRecordsRefuse(t *testing.T) {
	key := testKey(1)
	for _, aead := range []uint8{AEADAES256GCM, AEADXChaCha20Poly1305} {
		var frames [][]byte
		s, _ := NewSealer(aead, &key)
		for i := range 3 {
			frames = append(frames, s.Seal(append(Header{Type: TypeData, Stream: 1}.Append(nil), byte(i)), 0))
		}
		open := func(o *Opener, f []byte) error {
			f = bytes.Clone(f)
			_, err := o.Open(f[:HeaderSize], f[HeaderSize:])
			return err
		}
		fresh := func() *Opener { o, _ := NewOpener(aead, &key); return o }
		o := fresh()
		if open(o, frames[0]) != nil || !errors.Is(open(o, frames[0]), ErrOpen) {
			t.Error("replayed record opened")
		}
		if !errors.Is(open(o, frames[1]), ErrOpen) {
			t.Error("opened after a failure")
		}
		if !errors.Is(open(fresh(), frames[1]), ErrOpen) {
			t.Error("record opened out of order")
		}
		for at := range frames[0] {
			f := bytes.Clone(frames[0])
			f[at] ^= 0x10
			if !errors.Is(open(fresh(), f), ErrOpen) {
				t.Errorf("byte %d altered and opened", at)
			}
		}
		for n := HeaderSize; n < len(frames[0]); n++ {
			if !errors.Is(open(fresh(), frames[0][:n]), ErrOpen) {
				t.Errorf("cut to %d and opened", n)
			}
		}
		o = fresh()
		o.n = maxRecords
		if !errors.Is(open(o, frames[0]), ErrOpen) {
			t.Error("opened beyond the last record number")
		}
		o.Wipe()
		if o.key != [32]byte{} || o.base != [12]byte{} {
			t.Error("Wipe left a key")
		}
	}
	if _, err := NewSealer(0, &key); !errors.Is(err, ErrUnsupportedAEAD) {
		t.Errorf("aead 0: %v", err)
	}
	if len(PreferredAEADs()) != 2 || AEADName(PreferredAEADs()[0]) == AEADName(9) {
		t.Error("preferred aeads")
	}
}

func TestSealWithoutRoom(t *testing.T) {
	key := testKey(1)
	s, _ := NewSealer(AEADAES256GCM, &key)
	o, _ := NewOpener(AEADAES256GCM, &key)
	prefix := []byte("before")
	for _, spare := range []int{0, 8, 15, 16, 17, 100} {
		frame := append(bytes.Clone(prefix), append(Header{Type: TypeData, Stream: 1}.Append(nil), "body"...)...)
		buf := make([]byte, len(frame), len(frame)+spare)
		copy(buf, frame)
		out := s.Seal(buf, len(prefix))
		if !bytes.HasPrefix(out, prefix) || len(out) != len(frame)+TagSize {
			t.Fatalf("spare %d: %d bytes", spare, len(out))
		}
		out = out[len(prefix):]
		h, err := ParseHeader(out, MaxFrame)
		if err != nil || h.Flags != FlagEnc || int(h.Length) != len(out)-HeaderSize {
			t.Fatalf("spare %d: header %+v, %v", spare, h, err)
		}
		if b, err := o.Open(out[:HeaderSize], out[HeaderSize:]); err != nil || string(b) != "body" {
			t.Fatalf("spare %d: %q, %v", spare, b, err)
		}
	}
}

func TestRekeyDue(t *testing.T) {
	key := testKey(1)
	s, _ := NewSealer(AEADAES256GCM, &key)
	if s.RekeyDue() {
		t.Error("due at once")
	}
	s.n = RekeyRecords
	if !s.RekeyDue() {
		t.Error("not due after 2^24 records")
	}
	s.Rekey()
	if s.RekeyDue() || s.n != 0 {
		t.Error("due after rekey")
	}
	s.bytes = RekeyBytes
	if !s.RekeyDue() {
		t.Error("not due after 64 GiB")
	}
}

func TestBodies(t *testing.T) {
	for _, op := range []string{"", strings.Repeat("x", 64), "\xff"} {
		if _, err := AppendRequest(nil, op, nil); err == nil {
			t.Errorf("opcode %q taken", op)
		}
	}
	if _, err := AppendResponse(nil, CodeNormal, nil); err == nil {
		t.Error("status 256 taken")
	}
	long := strings.Repeat("ä", 300)
	b := AppendDisconnect(nil, CodeProtocolError, long)
	code, text, err := ParseDisconnect(b)
	if err != nil || code != CodeProtocolError || len(b) > MaxReason || !utf8.ValidString(text) || !strings.HasPrefix(long, text) || len(text) < 200 {
		t.Errorf("%v %q %v", code, text, err)
	}
	for _, bad := range [][]byte{nil, {1, 2, 3}, append(make([]byte, 4), 0xff), make([]byte, MaxReason+5)} {
		if _, _, err := ParseDisconnect(bad); !errors.Is(err, ErrBody) {
			t.Errorf("disconnect %x: %v", bad, err)
		}
	}
	if v, err := ParseUint32(AppendUint32(nil, 77)); err != nil || v != 77 {
		t.Error("u32")
	}
	if _, err := ParseUint32(make([]byte, 5)); !errors.Is(err, ErrBody) {
		t.Error("u32 of 5 bytes")
	}
	for _, c := range []Context{{Tenant: strings.Repeat("x", 256)}, {Session: "\xff"}, {Extra: []Entry{{CtxTenant, nil}}}, {Extra: []Entry{{0x40, make([]byte, 256)}}}} {
		if out, err := AppendContext([]byte("x"), &c); err == nil || string(out) != "x" {
			t.Errorf("context %v taken", c)
		}
	}
	big := Context{}
	for range 300 {
		big.Extra = append(big.Extra, Entry{0x40, make([]byte, 250)})
	}
	if _, err := AppendContext(nil, &big); err == nil {
		t.Error("context over 64 KiB taken")
	}
	if b, _ := AppendContext(nil, &Context{HasDeadline: true, Deadline: -time.Second}); !bytes.Equal(b, []byte{0, 6, 2, 4, 0, 0, 0, 0}) {
		t.Errorf("negative deadline: %x", b)
	}
	for _, s := range []string{"", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01"} {
		if _, err := ParseTraceparent(s); err == nil {
			t.Errorf("traceparent %q taken", s)
		}
	}
	const tp = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	if p, err := ParseTraceparent(tp); err != nil || p.String() != tp {
		t.Errorf("traceparent %v %v", p, err)
	}
}

func TestCompression(t *testing.T) {
	random := make([]byte, 4096)
	_, _ = rand.Read(random)
	for _, algo := range []uint8{CompressionLZ4, CompressionZstd} {
		c, err := NewCompressor(algo, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var d Decompressor
		defer d.Close()
		for _, n := range []int{1, 100, 255, 256, 512, 5000, 65536, MaxRaw} {
			raw := compressible(n)
			body, ok := c.Append([]byte("x"), raw)
			if ok != (n >= 100) && n >= 256 {
				t.Errorf("algorithm %d, %d bytes: %v", algo, n, ok)
			}
			if !ok {
				if string(body) != "x" {
					t.Errorf("dst changed")
				}
				continue
			}
			if len(body) > n {
				t.Errorf("grew from %d to %d", n, len(body))
			}
			back, err := d.Append(nil, c.Flag(), body[1:], MaxRaw)
			if err != nil || !bytes.Equal(back, raw) {
				t.Errorf("algorithm %d, %d bytes: %v", algo, n, err)
			}
		}
		if _, ok := c.Append(nil, random); ok {
			t.Error("random bytes compressed")
		}
		if _, ok := c.Append(nil, compressible(MaxRaw+1)); ok {
			t.Error("more than MaxRaw compressed")
		}
		if _, err := d.Append(nil, 0, []byte{0, 0, 0, 1, 1}, 10); !errors.Is(err, ErrCompression) {
			t.Errorf("no flag: %v", err)
		}
	}
	if _, err := NewCompressor(7, 0); err == nil {
		t.Error("compression 7 taken")
	}
}

func TestAllocations(t *testing.T) {
	key := testKey(1)
	s, _ := NewSealer(AEADAES256GCM, &key)
	o, _ := NewOpener(AEADAES256GCM, &key)
	buf := make([]byte, 0, 4096)
	payload := pattern(64)
	if n := testing.AllocsPerRun(100, func() {
		b := Header{Type: TypeRequest, Stream: 1}.Append(buf)
		b, _ = AppendRequest(b, "ECHO", payload)
		b = s.Seal(b, 0)
		h, _ := ParseHeader(b, MaxFrame)
		body, err := o.Open(b[:HeaderSize], b[HeaderSize:HeaderSize+h.Length])
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := SplitRequest(body); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a request sealed and opened", n)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(Header{Type: TypeRequest, Stream: 1}.Append(nil), uint32(MaxFrame))
	f.Fuzz(func(t *testing.T, b []byte, limit uint32) {
		h, err := ParseHeader(b, limit)
		if err == nil && (h.Length > limit || !bytes.Equal(h.Append(nil), b[:HeaderSize])) {
			t.Fatalf("%+v from %x", h, b)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("\x04ECHOpayload"))
	f.Fuzz(func(t *testing.T, b []byte) {
		op, payload, err := ParseRequest(b)
		if err != nil {
			return
		}
		if back, err := AppendRequest(nil, op, payload); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%q %x from %x: %v", op, payload, b, err)
		}
	})
}

func FuzzParseContext(f *testing.F) {
	b, _ := AppendContext(nil, &Context{HasDeadline: true, Tenant: "t", Session: "s", HasTraceparent: true, Extra: []Entry{{0x40, []byte("v")}}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, rest, err := ParseContext(b)
		if err != nil {
			return
		}
		back, err := AppendContext(nil, &c)
		if err != nil {
			t.Fatal(err)
		}
		c2, _, err := ParseContext(back)
		if err != nil || fmt.Sprint(c) != fmt.Sprint(c2) || len(rest) > len(b) {
			t.Fatalf("%v and %v: %v", c, c2, err)
		}
	})
}

func FuzzParseDisconnect(f *testing.F) {
	f.Add(AppendDisconnect(nil, CodeNormal, "bye"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, text, err := ParseDisconnect(b); err == nil && !utf8.ValidString(text) {
			t.Fatal("reason is not UTF-8")
		}
	})
}

func FuzzDecompress(f *testing.F) {
	for _, algo := range []uint8{CompressionLZ4, CompressionZstd} {
		c, _ := NewCompressor(algo, 0)
		b, _ := c.Append(nil, compressible(1000))
		f.Add(c.Flag(), b)
	}
	var d Decompressor
	f.Fuzz(func(t *testing.T, flag uint8, b []byte) {
		const limit = 1 << 16
		out, err := d.Append(nil, flag, b, limit)
		if err == nil && (len(out) == 0 || len(out) > limit) {
			t.Fatalf("%d bytes", len(out))
		}
	})
}

func FuzzOpen(f *testing.F) {
	key := testKey(1)
	s, _ := NewSealer(AEADAES256GCM, &key)
	b := s.Seal(append(Header{Type: TypeData, Stream: 1}.Append(nil), "body"...), 0)
	f.Add(b[:16], b[16:])
	f.Fuzz(func(t *testing.T, header, sealed []byte) {
		if len(header) != HeaderSize {
			return
		}
		o, _ := NewOpener(AEADAES256GCM, &key)
		genuine := bytes.Equal(header, b[:16]) && bytes.Equal(sealed, b[16:])
		if _, err := o.Open(header, bytes.Clone(sealed)); (err == nil) != genuine {
			t.Fatalf("genuine %v: %v", genuine, err)
		}
	})
}

func benchRecords(b *testing.B, f func(b *testing.B, aead uint8, size int)) {
	for _, aead := range []uint8{AEADAES256GCM, AEADXChaCha20Poly1305} {
		for _, size := range []int{64, 256, 1400, 16384} {
			b.Run(fmt.Sprintf("%s/%d", AEADName(aead), size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				f(b, aead, size)
			})
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	benchRecords(b, func(b *testing.B, aead uint8, size int) {
		key := testKey(1)
		s, err := NewSealer(aead, &key)
		if err != nil {
			b.Fatal(err)
		}
		buf := append(Header{Type: TypeData, Stream: 1}.Append(nil), make([]byte, size+TagSize)...)[:HeaderSize+size]
		for b.Loop() {
			s.Seal(buf, 0)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	benchRecords(b, func(b *testing.B, aead uint8, size int) {
		key := testKey(1)
		s, err := NewSealer(aead, &key)
		if err != nil {
			b.Fatal(err)
		}
		o, _ := NewOpener(aead, &key)
		sealed := s.Seal(append(Header{Type: TypeData, Stream: 1}.Append(nil), make([]byte, size)...), 0)
		work := make([]byte, len(sealed))
		for b.Loop() {
			o.n = 0
			copy(work, sealed)
			if _, err := o.Open(work[:HeaderSize], work[HeaderSize:]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
