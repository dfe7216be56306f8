package h1

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// benchServer answers each request head, found by its empty line, with fixed bytes, so
// that what is measured is the client.
func benchServer(b *testing.B) string {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nDate: Thu, 26 Nov 2026 05:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 128\r\nEtag: \"5f\"\r\n\r\n" + string(bytes.Repeat([]byte("x"), 128)))
	return server(b, func(c net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		n := 0
		for {
			k, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += k
			if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				n = 0
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
	})
}

var benchHeader = http.Header{"User-Agent": {"bench"}, "Accept": {"*/*"}, "X-Request-Id": {"0123456789abcdef"}}

func BenchmarkDo(b *testing.B) {
	c := client(b, benchServer(b), nil)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Do(ctx, &Request{Method: "GET", Target: "/", Host: "example.com", Header: benchHeader, Repeat: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{resp.Body}, buf); err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

func BenchmarkTransport(b *testing.B) {
	addr := benchServer(b)
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr+"/", nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header = benchHeader
		resp, err := tr.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{resp.Body}, buf); err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}

func BenchmarkParseHead(b *testing.B) {
	s := "HTTP/1.1 200 OK\r\nServer: x\r\nDate: Thu, 26 Nov 2026 05:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 128\r\nEtag: \"5f\"\r\n\r\n"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseHead(s, 100); err != nil {
			b.Fatal(err)
		}
	}
}
