package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// DialFunc connects; [dataplane.Transport]'s Dial is one, whatever carries the bytes.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// TCPChecker finds an endpoint well that accepts a connection.
type TCPChecker struct{ Dial DialFunc }

// Check implements [Checker].
func (c *TCPChecker) Check(ctx context.Context, address string) error {
	network, addr := SplitNetwork(address)
	conn, err := c.Dial(ctx, network, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// HTTPChecker finds an endpoint well that answers a GET as expected. Each check has a
// connection of its own, so that it also tells whether connections are accepted.
// Redirects are answers, not followed.
type HTTPChecker struct {
	Dial      DialFunc
	TLS       *tls.Config     // nil: none; an empty ServerName is the endpoint's host
	Protocols *http.Protocols // nil: HTTP/1.1
	Path      string          // "/" when empty
	Host      string          // of the Host header; the endpoint's address when empty
	StatusMin int             // 200 when 0
	StatusMax int             // 299 when 0; StatusMin when only that is set
	Body      string          // has to be part of the answer's body; "": any
	MaxBody   int64           // bytes read to find Body in; 64 KiB when 0
}

// Check implements [Checker].
func (c *HTTPChecker) Check(ctx context.Context, address string) error {
	network, addr := SplitNetwork(address)
	t := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx, network, addr) },
		Protocols:              c.Protocols,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		ResponseHeaderTimeout:  time.Minute, // ctx is shorter; this one only bounds a caller without a deadline
	}
	defer t.CloseIdleConnections()
	if t.Protocols == nil {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	scheme, host, path := "http://", addr, c.Path
	if network == "unix" {
		host = "localhost"
	}
	if path == "" {
		path = "/"
	}
	if c.TLS != nil {
		scheme, t.TLSClientConfig = "https://", c.TLS.Clone()
		t.TLSClientConfig.NextProtos = nil // as Protocols says
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+host+path, nil)
	if err != nil {
		return err
	}
	if c.Host != "" {
		req.Host = c.Host
	}
	req.Header.Set("User-Agent", "np-health-check")
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lo, hi := c.StatusMin, c.StatusMax
	if lo == 0 {
		lo = 200
		if hi == 0 {
			hi = 299
		}
	}
	hi = max(hi, lo)
	if res.StatusCode < lo || res.StatusCode > hi {
		return fmt.Errorf("status %d: expected %d to %d", res.StatusCode, lo, hi)
	}
	if c.Body == "" {
		return nil
	}
	limit := c.MaxBody
	if limit == 0 {
		limit = 64 << 10
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit))
	if bytes.Contains(body, []byte(c.Body)) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("body without %q in its first %d bytes", c.Body, len(body))
}

// CheckFunc makes a [Checker] of a function.
type CheckFunc func(ctx context.Context, address string) error

// Check implements [Checker].
func (f CheckFunc) Check(ctx context.Context, address string) error {
	if f == nil {
		return errors.New("no check")
	}
	return f(ctx, address)
}
