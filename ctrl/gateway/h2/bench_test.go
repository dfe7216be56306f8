package h2

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// BenchmarkConn is a request and its answer, of 32 that are asked for at once over loopback.
// The client's work is in it, and little.
func BenchmarkConn(b *testing.B) {
	type1, date := []string{"text/plain"}, []string{"Fri, 27 Nov 2026 09:00:00 GMT"}
	server, length := []string{"backend/1.0"}, []string{"5"}
	e, err := New(Config{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h["Content-Type"], h["Date"], h["Server"], h["Content-Length"] = type1, date, server, length
			_, _ = w.Write([]byte("hello"))
		}),
		HeadBytes: 32 << 10, Streams: 100, StreamBytes: 64 << 10, ConnBytes: 256 << 10, Head: time.Minute, Now: func() int64 { return 1 },
	})
	if err != nil {
		b.Fatal(err)
	}
	defer e.End()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.NewConn(context.Background(), far, nil).Serve()
	}()
	defer func() {
		near.Close()
		<-done
	}()
	var send, block bytes.Buffer
	f := http2.NewFramer(&send, bufio.NewReaderSize(near, 64<<10))
	f.SetReuseFrames()
	enc := hpack.NewEncoder(&block)
	send.WriteString(http2.ClientPreface)
	_ = f.WriteSettings()
	id := uint32(1)
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= 32 {
		for range 32 {
			block.Reset()
			for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "api.example.test"}, {":path", "/api/v1/things?page=2"}, {"user-agent", "h2load nghttp2/1.52.0"}} {
				_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			id += 2
		}
		_ = f.WriteWindowUpdate(0, 1000)
		if _, err := io.Copy(near, &send); err != nil {
			b.Fatal(err)
		}
		for ended := 0; ended < 32; {
			fr, err := f.ReadFrame()
			if err != nil {
				b.Fatal(err)
			}
			if d, ok := fr.(*http2.DataFrame); ok && d.StreamEnded() {
				ended++
			}
		}
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	b.ReportMetric(float64(after.Utime.Nano()+after.Stime.Nano()-before.Utime.Nano()-before.Stime.Nano())/float64(b.N), "cpu-ns/op")
}
