package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// answerMax bounds an answer: a list of a million connections is still smaller.
const answerMax = 1 << 30

// ErrUnreachable is wrapped when nothing answers on the socket.
var ErrUnreachable = errors.New("npd not reachable")

// APIError is what the daemon answered instead of a result.
type APIError struct {
	Kind string // api.Kind...
	Text string
}

// Error returns the daemon's own words.
func (e *APIError) Error() string { return e.Text }

// Client talks to one socket. Safe for concurrent use.
type Client struct {
	socket string
	http   http.Client
}

// New makes a client for the Unix socket at path; nothing is opened yet.
func New(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{socket: path, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get reads path into out.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	body, _, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	return decode(path, body, out)
}

// Post sends in (nil: nothing) to path and reads the answer into out.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request for %s: %w", path, err)
		}
	}
	answer, _, err := c.do(ctx, http.MethodPost, path, nil, body)
	if err != nil {
		return err
	}
	return decode(path, answer, out)
}

// Stream copies the body of path to dst as it comes and returns the trailer.
func (c *Client) Stream(ctx context.Context, path string, query url.Values, dst io.Writer) (http.Header, error) {
	body, resp, err := c.do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if _, err := io.Copy(dst, body); err != nil {
		return resp.Trailer, fmt.Errorf("read %s: %w", path, err)
	}
	return resp.Trailer, nil
}

func decode(path string, body io.ReadCloser, out any) error {
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, answerMax)).Decode(out); err != nil {
		return fmt.Errorf("decode answer of %s: %w", path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) (io.ReadCloser, *http.Response, error) {
	u := url.URL{Scheme: "http", Host: "npd", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("request %s: %w", path, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, resp, nil
	}
	defer resp.Body.Close()
	var e api.Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil || e.Text == "" {
		return nil, nil, fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil, nil, &APIError{Kind: e.Kind, Text: e.Text}
}

// unreachable says why nothing answered, and what to do.
func (c *Client) unreachable(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no answer on %s in time (is npd starting, stopped or overloaded? wait longer: --timeout 30s): %w", c.socket, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on %s (is npd running? another socket: -s PATH)", ErrUnreachable, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s: permission denied (root or group np may use it)", fs.ErrPermission, c.socket)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, c.socket, err)
}
