package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/np-appliance/np/ctrl/gateway/server"
)

// newSmuggler3 is a smuggler whose gateway is reached by HTTP/3.
func newSmuggler3(t *testing.T, backend string) *smuggler {
	cert, _ := selfSigned(t, "a.test")
	keys := "tls = true\nhttp.versions = [\"3\"]\nhttp.check_host = false\n"
	return smugglerOf(t, backend, keys, "[[certificate]]\ncert_file = \"c\"\nkey_file = \"k\"\n", &tls.Config{Certificates: []tls.Certificate{cert}}, func(s *server.Server) (string, func()) {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.ServePacket(context.Background(), p) }()
		return p.LocalAddr().String(), func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := s.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			_ = p.Close()
		}
	})
}

// streams3 is a client of HTTP/3 that sends what it likes.
type streams3 struct {
	m     *smuggler
	conn  *quic.Conn
	sent  int
	ended int // connections that the gateway ended
}

func (s *streams3) dial() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	s.conn, err = quic.DialAddr(ctx, s.m.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", NextProtos: []string{"h3"}}, nil)
	if err != nil {
		s.m.t.Fatal(err)
	}
	control, err := s.conn.OpenUniStream()
	if err != nil {
		s.m.t.Fatal(err)
	}
	_, _ = control.Write([]byte{0x00, 0x04, 0x00}) // a control stream with SETTINGS that set nothing
}

// Types of frames (RFC 9114 §7.2).
const (
	frameData    = 0x0
	frameHeaders = 0x1
)

func frame3(kind uint64, payload []byte) []byte {
	return append(quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(payload))), payload...)
}

func section3(fields ...string) []byte {
	var b bytes.Buffer
	e := qpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// raw sends bytes on a stream of their own and waits for its end; reset: they are not all
// that was to come.
func (s *streams3) raw(b []byte, reset bool) {
	s.sent++
	if s.conn == nil || s.conn.Context().Err() != nil {
		if s.conn != nil {
			s.ended++
		}
		s.dial()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return // the connection has ended just now
	}
	_ = st.SetDeadline(time.Now().Add(time.Minute))
	_, _ = st.Write(b)
	if reset {
		st.CancelWrite(0x10c) // H3_REQUEST_CANCELLED
	} else {
		_ = st.Close()
	}
	_, _ = io.Copy(io.Discard, st)
	st.CancelRead(0x10c)
}

// request sends one, its body in frames of a few bytes.
func (s *streams3) request(body string, fields ...string) {
	b := frame3(frameHeaders, section3(append([]string{":scheme", "https", ":authority", "a.test"}, fields...)...))
	for piece := range slices.Chunk([]byte(body), 7) {
		b = append(b, frame3(frameData, piece)...)
	}
	s.raw(b, false)
}

// down3 sends over HTTP/3 what would be more than one request in HTTP/1.1, and what is
// none in HTTP/3.
func (m *smuggler) down3(part, parts int) {
	s := &streams3{m: m}
	defer func() {
		m.t.Logf("%d requests, %d connections ended by the gateway", s.sent, s.ended)
		if s.conn != nil {
			_ = s.conn.CloseWithError(0x100, "")
		}
	}()
	n := 0
	for _, method := range []string{"GET", "POST", "HEAD", "G T", "GET /x HTTP/1.1\r\nX: y", "get"} {
		for _, body := range []string{"", "hello", inner, "0\r\n\r\n" + inner} {
			if n++; n%parts != part {
				continue
			}
			base := []string{":method", method, ":path", "/three"}
			s.request(body, base...)
			for _, more := range oddFields(body) {
				s.request(body, append(slices.Clone(base), more...)...)
			}
			for _, path := range oddPaths() {
				s.request(body, ":method", method, ":path", path)
			}
			s.framing(base, body)
		}
	}
}

// framing sends a request in ways that are wrong as HTTP/3, or right and seldom.
func (s *streams3) framing(base []string, body string) {
	all := append([]string{":scheme", "https", ":authority", "a.test"}, base...)
	head := frame3(frameHeaders, section3(all...))
	data := frame3(frameData, []byte(body))
	trailer := frame3(frameHeaders, section3("x-trailer", "y"))
	for _, b := range [][]byte{
		slices.Concat(head, data, trailer),
		slices.Concat(head, trailer),
		slices.Concat(head, data, trailer, data),                                         // a body behind the trailer
		slices.Concat(head, data, frame3(frameHeaders, section3("content-length", "0"))), // a length behind the body
		slices.Concat(head, data, frame3(frameHeaders, section3(":path", "/smuggled"))),  // a pseudo field in a trailer
		slices.Concat(head, data, head),
		slices.Concat(data, head), // a body before the head
		slices.Concat(frame3(0x21, []byte("reserved")), head, frame3(0x40, nil), data),
		slices.Concat(head, frame3(0x4, nil)),              // SETTINGS on a stream of a request
		slices.Concat(head, []byte{frameData, 0x3f}, data), // a frame longer than what comes
		head[:len(head)-1],
		frame3(frameHeaders, section3(append([]string{":path", "/again"}, all...)...)),
		frame3(frameHeaders, section3(append(slices.Clone(all), ":method", "POST")...)),
		frame3(frameHeaders, section3(":method", "GET", ":path", "/three")),
		frame3(frameHeaders, []byte{0x02, 0x00, 0x80}), // refers to a table that is not there
		frame3(frameHeaders, nil),
		nil,
	} {
		s.raw(b, false)
	}
	s.raw(slices.Concat(head, data), true)
	s.raw(slices.Concat(frame3(frameHeaders, section3(append(slices.Clone(all), "content-length", strconv.Itoa(len(body)+1))...)), data), true)
	rnd := rand.New(rand.NewPCG(uint64(len(body)), 3))
	for range 20 { // frames with a few bytes changed
		b := slices.Concat(head, data, trailer)
		for range 1 + rnd.IntN(3) {
			b[rnd.IntN(len(b))] = byte(rnd.Uint32())
		}
		s.raw(b, false)
	}
}

// TestSmuggling3 is TestSmuggling for clients of HTTP/3.
func TestSmuggling3(t *testing.T) {
	for name, backend := range map[string]func(*testing.T, *sights) string{
		"net/http":       goBackend,
		"lax by length":  func(t *testing.T, s *sights) string { return laxBackend(t, s, true) },
		"lax by chunked": func(t *testing.T, s *sights) string { return laxBackend(t, s, false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s sights
			m := newSmuggler3(t, backend(t, &s))
			const parts = 12
			var wg sync.WaitGroup
			for part := range parts {
				wg.Go(func() { m.down3(part, parts) })
			}
			wg.Wait()
			served := m.end()
			if len(served) < 300 || len(s.all) < 100 {
				t.Errorf("only %d requests at the gateway, %d at the backend", len(served), len(s.all))
			}
			compare(t, served, s.all, true)
		})
	}
}
