package server

//lint:file-ignore SA1019 net/http's own engine takes no connection of ours, and no scheduler

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// benchHead is what a browser sends, about.
const benchHead = "GET /api/v1/things?page=2&per_page=50 HTTP/1.1\r\n" +
	"Host: api.example.test\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Connection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"

func BenchmarkHead(b *testing.B) {
	s, err := New(Config{Handler: http.NotFoundHandler()})
	if err != nil {
		b.Fatal(err)
	}
	h := &h1conn{conn: &Conn{server: s}, s: s}
	h.ctx.Init(b.Context())
	q := []byte(benchHead)
	b.SetBytes(int64(len(q)))
	b.ReportAllocs()
	for b.Loop() {
		h.h.reset()
		n, no := h.h.scan(q, &s.heads)
		if n != len(q) || no.set() {
			b.Fatal(n, no)
		}
		x, no := h.newExchange(q)
		if no.set() {
			b.Fatal(no)
		}
		x.ctx.Cancel(nil)
	}
}

// BenchmarkRequest is one request and answer over loopback: net/http alone and with what
// this package puts before it. The client's work is in both.
func BenchmarkRequest(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	b.Run("net/http", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s := &http.Server{Handler: handler}
		go func() { _ = s.Serve(l) }()
		defer s.Close()
		benchConn(b, l.Addr().String())
	})
	b.Run("server", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s, err := New(Config{Handler: handler})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, l) }()
		benchConn(b, l.Addr().String())
		cancel()
		<-done
	})
}

func benchConn(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	b.ReportAllocs()
	defer cpuTime(b)()
	for b.Loop() {
		if _, err := io.WriteString(c, benchHead); err != nil {
			b.Fatal(err)
		}
		for { // the head, then five bytes
			line, err := br.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := br.Discard(5); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkH2 is one request and answer of HTTP/2 at a time: its engine alone and with
// what this package puts around it.
func BenchmarkH2(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	b.Run("http2", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err == nil {
				new(http2.Server).ServeConn(c, &http2.ServeConnOpts{Handler: handler})
			}
		}()
		benchH2(b, l.Addr().String())
	})
	b.Run("server", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s, err := New(Config{Handler: handler})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, l) }()
		benchH2(b, l.Addr().String())
		cancel()
		<-done
	})
}

func benchH2(b *testing.B, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, bufio.NewReader(c))
	_ = f.WriteSettings()
	_ = f.WriteSettingsAck()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	id := uint32(1)
	b.ReportAllocs()
	defer cpuTime(b)()
	for b.Loop() {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "api.example.test"}, {":path", "/api/v1/things?page=2"},
			{"user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}, {"accept", "*/*"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
			b.Fatal(err)
		}
		for ended := false; !ended; {
			fr, err := f.ReadFrame()
			if err != nil {
				b.Fatal(err)
			}
			if d, ok := fr.(*http2.DataFrame); ok {
				ended = d.StreamEnded()
			}
		}
		if id%1000 == 1 {
			_ = f.WriteWindowUpdate(0, 100_000)
		}
		id += 2
	}
}

// cpuTime reports the processor's time that the process took: on a machine that does other
// things too it says more than the clock.
func cpuTime(b *testing.B) func() {
	now := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	from := now()
	return func() { b.ReportMetric(float64(now()-from)/float64(b.N), "cpu-ns/op") }
}
