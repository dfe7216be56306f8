package h2

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// script is a connection whose client has sent everything already, in pieces, and takes
// all that it is sent.
type script struct {
	net.Conn
	b     []byte
	piece int
	mu    sync.Mutex
	sent  bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b[:min(len(s.b), s.piece)])
	s.b = s.b[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent.Write(p)
}

func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// seeds are connections that are right, more or less.
func seeds() [][]byte {
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	head := func(id uint32, end bool, fields ...string) {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true})
	}
	var all [][]byte
	for i := range 4 {
		b.Reset()
		block.Reset()
		enc = hpack.NewEncoder(&block)
		_, _ = io.WriteString(&b, http2.ClientPreface)
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(100 * i)}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(50 * i)})
		_ = f.WriteSettingsAck()
		head(1, false, ":method", "POST", ":scheme", "http", ":authority", "a.test", ":path", "/a?b", "trailer", "x", "cookie", "a", "cookie", "b", "priority", "u=1, i")
		_ = f.WriteDataPadded(1, false, []byte("hello"), make([]byte, 3))
		head(3, true, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/large")
		_ = f.WriteWindowUpdate(0, 100_000)
		_ = f.WriteWindowUpdate(3, 100_000)
		_ = f.WriteRawFrame(typePriorityUpdate, 0, 0, append(binary.BigEndian.AppendUint32(nil, 5), "u=7"...))
		head(1, true, "x", "y")
		head(5, true, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a.test", ":path", "/")
		_ = f.WritePing(false, [8]byte{1})
		_ = f.WriteRSTStream(5, http2.ErrCodeCancel)
		if i == 3 {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
		}
		all = append(all, bytes.Clone(b.Bytes()))
	}
	return all
}

// FuzzConn: whatever a client sends and however it is cut, what it is sent are frames that
// its own side of the protocol allows, within the windows it gave, and nothing is left over
// afterwards.
func FuzzConn(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s, 4096)
		f.Add(s[len(http2.ClientPreface):], 7)
	}
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		if !bytes.HasPrefix(sent, []byte(http2.ClientPreface)) {
			sent = append([]byte(http2.ClientPreface), sent...)
		}
		var wrong atomic.Pointer[string]
		e, err := New(Config{
			Handler: fuzzHandler(&wrong), HeadBytes: 1 << 10, Streams: 8, StreamBytes: 1 << 10, ConnBytes: minWindow, Requests: 50, Resets: 10, Control: 50,
			Head: time.Second, Idle: time.Second, BodyStall: time.Second, SendStall: time.Second, Now: func() int64 { return 1 },
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &script{b: sent, piece: max(1, piece)}
		c := e.NewConn(context.Background(), s, nil)
		c.Serve()
		e.End()
		if len(c.streams) != 0 || c.running != 0 || c.flushing || c.out != nil || c.spare != nil {
			t.Fatalf("%d streams, %d handlers, flushing %v", len(c.streams), c.running, c.flushing)
		}
		if name := wrong.Load(); name != nil {
			t.Fatalf("a handler got what can't be: %q", *name)
		}
		checkSent(t, &s.sent)
	})
}

func fuzzHandler(wrong *atomic.Pointer[string]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if name != ":protocol" && (strings.ContainsAny(name, ": \r\n") || strings.ContainsAny(strings.Join(values, ""), "\r\n\x00")) {
				wrong.Store(&name)
			}
		}
		if r.Method == "" || r.RequestURI == "" || strings.ContainsAny(r.Method+r.RequestURI+r.Host, "\r\n\x00") {
			wrong.Store(&r.RequestURI)
		}
		if r.URL.Path == "/large" {
			_, _ = w.Write(make([]byte, 40_000))
			return
		}
		w.Header().Set("Trailer", "X")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X", "y")
	}
}

// checkSent reads what the client was sent as a strict client would.
func checkSent(t *testing.T, b *bytes.Buffer) {
	f := http2.NewFramer(io.Discard, b)
	dec := hpack.NewDecoder(4096, nil)
	ended := map[uint32]bool{}
	for {
		fr, err := f.ReadFrame()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("sent: %v", err)
		}
		id := fr.Header().StreamID
		switch fr := fr.(type) {
		case *http2.HeadersFrame:
			if ended[id] {
				t.Fatalf("HEADERS on stream %d after its end", id)
			}
			ended[id] = fr.StreamEnded()
			if _, err := dec.DecodeFull(fr.HeaderBlockFragment()); err != nil {
				t.Fatalf("sent: %v", err)
			}
		case *http2.DataFrame:
			if ended[id] {
				t.Fatalf("DATA on stream %d after its end", id)
			}
			ended[id] = fr.StreamEnded()
		case *http2.RSTStreamFrame:
			if id == 0 {
				t.Fatal("RST_STREAM without a stream")
			}
			ended[id] = true
		}
	}
}
