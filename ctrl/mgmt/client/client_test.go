package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// socket serves f on a Unix socket and returns its path.
func socket(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "np.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: f}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	return path
}

func open(t *testing.T, path string) *Client {
	t.Helper()
	c := New(path)
	t.Cleanup(c.Close)
	return c
}

func TestGetAndRefusal(t *testing.T) {
	c := open(t, socket(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"schema":"np/v1","kind":"conflict","error":"draining already"}`)
			return
		}
		fmt.Fprintf(w, `{"schema":"np/v1","version":%q}`, r.URL.Query().Get("say"))
	}))
	var v api.Version
	if err := c.Get(context.Background(), api.PathVersion, map[string][]string{"say": {"a b&c"}}, &v); err != nil || v.Version != "a b&c" {
		t.Errorf("%+v, %v", v, err)
	}
	var refused *APIError
	err := c.Post(context.Background(), api.PathDrain, nil, &v)
	if !errors.As(err, &refused) || refused.Kind != api.KindConflict || refused.Text != "draining already" {
		t.Errorf("%v", err)
	}
}

// What listens on the socket need not be npd.
func TestRubbish(t *testing.T) {
	for name, f := range map[string]http.HandlerFunc{
		"no JSON":            func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello</html>") },
		"cut JSON":           func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"schema":"np/v1","ver`) },
		"wrong type":         func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":[1,2]}`) },
		"nothing":            func(http.ResponseWriter, *http.Request) {},
		"error without text": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"error page":         func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("x", 1<<21), 404) },
	} {
		var v api.Version
		err := open(t, socket(t, f)).Get(context.Background(), api.PathVersion, nil, &v)
		if err == nil || !strings.Contains(err.Error(), api.PathVersion) || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	err := open(t, path).Get(context.Background(), api.PathStatus, nil, &api.Status{})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	slow := open(t, socket(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := slow.Get(ctx, api.PathStatus, nil, &api.Status{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestStream(t *testing.T) {
	c := open(t, socket(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", api.CaptureLostName)
		fmt.Fprint(w, "packets")
		w.Header().Set(api.CaptureLostName, "3")
	}))
	var b bytes.Buffer
	trailer, err := c.Stream(context.Background(), api.PathCapture, nil, &b)
	if err != nil || b.String() != "packets" || trailer.Get(api.CaptureLostName) != "3" {
		t.Errorf("%q, %v, %v", b.String(), trailer, err)
	}
}
