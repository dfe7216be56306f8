//go:build e2e

package e2e

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
)

// raw is an NPRO client made by hand, so that it can break every rule.
type raw struct {
	net.Conn
	seal *npro.Sealer
	open *npro.Opener
	done *handshake.Result
}

// header of a frame with body of n bytes in the clear.
func clear(typ npro.Type, n int) npro.Header { return npro.Header{Type: typ, Length: uint32(n)} }

// clientHandshake makes an XX initiator without an expectation of the server's key.
func clientHandshake(t *testing.T) *handshake.Machine {
	t.Helper()
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, err := handshake.NewInitiator(&handshake.Config{Static: key, Patterns: []handshake.Pattern{handshake.PatternXX}, Hybrid: true,
		Trust: func(handshake.PublicKey) error { return nil }, Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func readFrame(c net.Conn) (npro.Header, []byte, error) {
	var b [16]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return npro.Header{}, nil, err
	}
	h, err := npro.ParseHeader(b[:], 1<<24)
	if err != nil {
		return h, nil, err
	}
	body := make([]byte, h.Length)
	_, err = io.ReadFull(c, body)
	return h, body, err
}

// openRaw connects and ends the handshake.
func (w *world) openRaw() *raw {
	w.t.Helper()
	r := &raw{Conn: w.mustDial(addr4(7700))}
	_ = r.SetDeadline(time.Now().Add(time.Minute))
	m := clientHandshake(w.t)
	step, err := m.Start(time.Now())
	for err == nil {
		if step.Reply != nil {
			if _, err = r.Write(append(clear(npro.Type(step.ReplyType), len(step.Reply)).Append(nil), step.Reply...)); err != nil {
				break
			}
		}
		if step.Done != nil {
			r.done = step.Done
			if r.seal, err = npro.NewSealer(step.Done.AEAD, &step.Done.Tx); err != nil {
				break
			}
			r.open, err = npro.NewOpener(step.Done.AEAD, &step.Done.Rx)
			break
		}
		var h npro.Header
		var body []byte
		if h, body, err = readFrame(r); err != nil {
			break
		}
		step, err = m.Receive(uint8(h.Type), body, time.Now())
	}
	if err != nil {
		w.t.Fatalf("handshake: %v", err)
	}
	return r
}

// frame seals one frame.
func (r *raw) frame(h npro.Header, body []byte) []byte {
	h.Flags |= npro.FlagEnc
	h.Length = uint32(len(body) + 16)
	return r.seal.Seal(append(h.Append(nil), body...), 0)
}

// gone waits until the other side has closed, and closes this one.
func gone(c net.Conn) error {
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("still open after 30 s")
	}
	return nil
}

func request(opcode string, payload []byte) []byte {
	b, err := npro.AppendRequest(nil, opcode, payload)
	if err != nil {
		panic(err)
	}
	return b
}

// TestViolations breaks each rule of the wire format's last table with a raw client: the reason is counted, the connection
// closed, and an honest connection lives on.
func TestViolations(t *testing.T) {
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	honest := w.openRaw()
	ping := func() {
		t.Helper()
		if _, err := honest.Write(honest.frame(npro.Header{Type: npro.TypePing}, []byte("are you well"))); err != nil {
			t.Fatal(err)
		}
		h, body, err := readFrame(honest)
		if err != nil || h.Type != npro.TypePong {
			t.Fatalf("honest connection: %v %v", h, err)
		}
		hdr := h.Append(nil)
		if plain, err := honest.open.Open(hdr, body); err != nil || string(plain) != "are you well" {
			t.Fatalf("honest connection: %q %v", plain, err)
		}
	}
	ping()
	patch := func(at int, v byte) []byte { // a handshake header with one byte changed
		b := append(clear(npro.TypeHandshake1, 100).Append(nil), make([]byte, 100)...)
		b[at] = v
		return b
	}
	before := []struct {
		name, reason string
		bytes        []byte
	}{
		{"wrong magic", "npro_bad_magic", []byte("GET / HTTP/1.1\r\n\r\n")},
		{"wrong magic, one byte", "npro_bad_magic", []byte("X")},
		{"unknown version", "npro_bad_version", patch(4, 9)},
		{"version 1, not allowed", "npro_bad_version", patch(4, 1)},
		{"unknown flag", "npro_bad_flags", patch(5, 0x40)},
		{"LZ4 and zstd", "npro_bad_flags", patch(5, 0x06)},
		{"unknown type", "npro_bad_type", patch(10, 0x7f)},
		{"reserved priority bits", "npro_reserved_bits", patch(11, 0x80)},
		{"length over the limit", "npro_bad_length", patch(6, 0xff)},
		{"request before the handshake", "npro_before_handshake", append(npro.Header{Type: npro.TypeRequest, Flags: npro.FlagEnc, Length: 30, Stream: 1}.Append(nil), make([]byte, 30)...)},
		{"ping before the handshake", "npro_before_handshake", append(clear(npro.TypePing, 4).Append(nil), "ping"...)},
	}
	for _, c := range before {
		n := w.drop(c.reason)
		conn := w.mustDial(addr4(7700))
		if _, err := conn.Write(c.bytes); err != nil {
			t.Fatal(err)
		}
		if err := gone(conn); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := w.drop(c.reason); got != n+1 {
			t.Errorf("%s: %s went from %d to %d", c.name, c.reason, n, got)
		}
		ping()
	}
	after := []struct {
		name, reason string
		bytes        func(r *raw) []byte
	}{
		{"unencrypted frame", "npro_not_encrypted", func(*raw) []byte { return append(clear(npro.TypePing, 4).Append(nil), "ping"...) }},
		{"handshake after it ended", "npro_not_encrypted", func(*raw) []byte { return append(clear(npro.TypeHandshake1, 60).Append(nil), make([]byte, 60)...) }},
		{"flipped bit", "npro_bad_record", func(r *raw) []byte {
			b := r.frame(npro.Header{Type: npro.TypePing}, []byte("ping"))
			b[18] ^= 1
			return b
		}},
		{"replayed record", "npro_bad_record", func(r *raw) []byte {
			b := r.frame(npro.Header{Type: npro.TypeMessage, Stream: 1, Flags: npro.FlagEnd}, request("DISCARD", nil))
			return append(append([]byte{}, b...), b...)
		}},
		{"record shorter than its tag", "npro_bad_length", func(*raw) []byte {
			return append(npro.Header{Type: npro.TypePing, Flags: npro.FlagEnc, Length: 5}.Append(nil), "short"...)
		}},
		{"even stream from a client", "npro_bad_stream", func(r *raw) []byte {
			return r.frame(npro.Header{Type: npro.TypeRequest, Stream: 2, Flags: npro.FlagEnd}, request("ECHO", nil))
		}},
		{"request on stream 0", "npro_bad_stream", func(r *raw) []byte {
			return r.frame(npro.Header{Type: npro.TypeRequest, Flags: npro.FlagEnd}, request("ECHO", nil))
		}},
		{"opcode longer than the body", "npro_bad_body", func(r *raw) []byte {
			return r.frame(npro.Header{Type: npro.TypeRequest, Stream: 1, Flags: npro.FlagEnd}, []byte{63, 'E'})
		}},
		{"context block longer than the body", "npro_bad_body", func(r *raw) []byte {
			return r.frame(npro.Header{Type: npro.TypeRequest, Stream: 1, Flags: npro.FlagEnd | npro.FlagCtx}, []byte{0xff, 0xff, 1, 2})
		}},
		{"ping over 64 bytes", "", func(r *raw) []byte { return r.frame(npro.Header{Type: npro.TypePing}, make([]byte, 65)) }},
		{"compression not agreed", "", func(r *raw) []byte {
			return r.frame(npro.Header{Type: npro.TypeRequest, Stream: 1, Flags: npro.FlagEnd | npro.FlagLZ4}, []byte{0xff, 0xff, 0xff, 0xff, 0})
		}},
		{"more than the stream's window at once", "", func(r *raw) []byte {
			h := npro.Header{Type: npro.TypeData, Stream: 1, Flags: npro.FlagEnc, Length: r.done.StreamWindowTx + 17}
			return h.Append(nil)
		}},
	}
	for _, c := range after {
		r := w.openRaw()
		var n uint64
		if c.reason != "" {
			n = w.drop(c.reason)
		}
		if _, err := r.Write(c.bytes(r)); err != nil {
			t.Fatal(err)
		}
		if err := gone(r); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.reason != "" {
			if got := w.drop(c.reason); got != n+1 {
				t.Errorf("%s: %s went from %d to %d", c.name, c.reason, n, got)
			}
		}
		ping()
	}
	_ = honest.Close()
	w.restful(free)
}

// A header split over any number of segments waits.
func TestSplitHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.openRaw()
	b := r.frame(npro.Header{Type: npro.TypeRequest, Stream: 1, Flags: npro.FlagEnd}, request("ECHO", []byte("slowly")))
	for i := range b {
		if _, err := r.Write(b[i : i+1]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	h, body, err := readFrame(r)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := r.open.Open(h.Append(nil), body)
	if err != nil {
		t.Fatal(err)
	}
	if code, payload, err := npro.ParseResponse(plain); err != nil || code != npro.CodeOK || string(payload) != "slowly" {
		t.Errorf("answer %v %q %v", code, payload, err)
	}
}

// A handshake that does not end in time is ended, however slowly its bytes drip.
func TestHandshakeTimeout(t *testing.T) {
	w := newWorld(t, options{env: []string{"NP_HANDSHAKE_TIMEOUT=1s"}})
	free := w.status().BuffersFree
	silent := w.mustDial(addr4(7700))
	dripping := w.mustDial(addr4(7700))
	go func() {
		for _, b := range clear(npro.TypeHandshake1, 200).Append(nil) {
			if _, err := dripping.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	for _, c := range []net.Conn{silent, dripping} {
		if err := gone(c); err != nil { // 200 bytes would drip for 40 s
			t.Error(err)
		}
	}
	if n := w.stat("npro_handshakes_failed_total"); n != 2 {
		t.Errorf("%d handshakes failed, want 2", n)
	}
	w.restful(free)
}

// Over the limit of connections, new ones are refused while the others go on.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{env: []string{"NP_SERVER_MAX_CONNECTIONS=8"}})
	var open []net.Conn
	for range 8 {
		c := w.mustDial(addr4(7))
		if err := echo(c, 10); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := w.dial("tcp", addr4(7)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a ninth connection: %v, want refused", err)
	}
	// NPRO says why
	var sessions []*raw
	for range 8 {
		sessions = append(sessions, w.openRaw())
	}
	ninth := w.mustDial(addr4(7700))
	_ = ninth.SetDeadline(time.Now().Add(time.Minute))
	h, body, err := readFrame(ninth)
	if err != nil || h.Type != npro.TypeDisconnect {
		t.Fatalf("a ninth session: %v, %v", h, err)
	}
	if code, reason, err := npro.ParseDisconnect(body); err != nil || code != npro.CodeConnectionLimit || reason == "" {
		t.Errorf("a ninth session: code %v, reason %q, %v", code, reason, err)
	}
	if err := gone(ninth); err != nil {
		t.Error(err)
	}
	for _, r := range sessions {
		if _, err := r.Write(r.frame(npro.Header{Type: npro.TypePing}, []byte("still here"))); err != nil {
			t.Fatal(err)
		}
		if h, _, err := readFrame(r); err != nil || h.Type != npro.TypePong {
			t.Errorf("a session within the limit: %v, %v", h, err)
		}
	}
	for _, c := range open {
		if err := echo(c, 1000); err != nil {
			t.Error(err)
		}
	}
}

// Random bytes into every port, many times: counted or ended, never a crash.
func TestRandomBytes(t *testing.T) {
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	for i := range 200 {
		c, err := w.dial("tcp", addr4(7700))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1+i*13)
		_, _ = rand.Read(b)
		if i%2 == 0 {
			copy(b, "NPRO\x02")
		}
		_, _ = c.Write(b)
		_ = c.Close()
	}
	if out, code := w.npctl("status"); code != 0 {
		t.Errorf("status: %s", out)
	}
	w.restful(free)
	if strings.Count(w.logTail(1000), "\n") > 300 {
		t.Errorf("200 bad connections made %d log lines", strings.Count(w.logTail(1000), "\n"))
	}
}
