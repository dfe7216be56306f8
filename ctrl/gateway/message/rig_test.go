package message

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/dispatch"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/npro"
	"github.com/np-appliance/np/ctrl/upstream"
)

// backend is a server of NPRO whose opcodes a registry answers; streams come back as they
// are sent.
type backend struct {
	*clienttest.Server
	address string
	key     handshake.PublicKey

	mu    sync.Mutex
	conns int
	asked []clienttest.Request
}

func newBackend(t *testing.T, entries ...dispatch.Entry) *backend {
	t.Helper()
	s, key, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{Server: s, key: key}
	reg, err := dispatch.New(slog.New(slog.DiscardHandler), append(dispatch.Builtin("test", "1", time.Now(), time.Now), entries...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.OnConn = func(*clienttest.Conn) {
		b.mu.Lock()
		b.conns++
		b.mu.Unlock()
	}
	s.Handle = func(c *clienttest.Conn, r *clienttest.Request) (clienttest.Reply, bool) {
		b.mu.Lock()
		b.asked = append(b.asked, *r)
		b.mu.Unlock()
		e := reg.Lookup(r.Opcode)
		if e == nil {
			return clienttest.Reply{Status: npro.CodeUnknownOpcode}, true
		}
		if e.Inline {
			return answer(reg, e, r), true
		}
		go func() { c.Reply(r.Stream, answer(reg, e, r)) }()
		return clienttest.Reply{}, false
	}
	s.Accept = func(r *clienttest.Request) npro.Code {
		b.mu.Lock()
		b.asked = append(b.asked, *r)
		b.mu.Unlock()
		if r.Opcode == "NO" {
			return npro.CodeDenied
		}
		return npro.CodeOK
	}
	if b.address, err = s.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return b
}

func answer(reg *dispatch.Registry, e *dispatch.Entry, r *clienttest.Request) clienttest.Reply {
	ctx := context.Background()
	if r.Context.HasDeadline {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Context.Deadline)
		defer cancel()
	}
	q := &dispatch.Request{Opcode: r.Opcode, Payload: r.Payload, Context: r.Context, Peer: dispatch.Peer{Name: "tester"}}
	code, payload := reg.Call(ctx, e, q)
	reply := clienttest.Reply{Status: code, Payload: payload}
	if !q.Reply.IsZero() {
		reply.Context = &q.Reply
	}
	return reply
}

// last is the request that the backend was asked last.
func (b *backend) last() clienttest.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked[len(b.asked)-1]
}

// newCluster is of some backends, which share a key.
func newCluster(t *testing.T, change func(*upstream.Config, *ClusterConfig), list ...*backend) *Cluster {
	t.Helper()
	key, err := handshake.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uc := upstream.Config{Name: "up"}
	cc := ClusterConfig{Client: client.Config{Static: key, Trust: func(k handshake.PublicKey) error {
		for _, b := range list {
			if b.key == k {
				return nil
			}
		}
		return npro.CodeDenied
	}}}
	if change != nil {
		change(&uc, &cc)
	}
	u, err := upstream.New(uc)
	if err != nil {
		t.Fatal(err)
	}
	var specs []upstream.Spec
	for _, b := range list {
		specs = append(specs, upstream.Spec{Address: b.address})
	}
	if err := u.Set(specs); err != nil {
		t.Fatal(err)
	}
	cc.Upstream = u
	c, err := NewCluster(cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c.Close(ctx)
	})
	return c
}

// front serves a handler over HTTP/1.1 and h2c, each request with an exchange.
func front(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange.Exchange{ID: "id", Identity: &exchange.Identity{Subject: "somebody"}}
		h.ServeHTTP(w, r.WithContext(exchange.With(r.Context(), x)))
	}))
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s.Config.Protocols = &p
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func do(t *testing.T, method, url string, body io.Reader, fields ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(raw)
}
