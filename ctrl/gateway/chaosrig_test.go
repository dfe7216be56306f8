package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/pipes"
	"github.com/np-appliance/np/ctrl/secure"
)

// fault is what is wrong with a backend.
type fault int32

const (
	faultNone      fault = iota
	faultDead            // nobody listens, connections are cut
	faultStall           // takes requests and does not answer
	faultSlow            // answers late, but in time
	faultGarbage         // answers what is no HTTP
	faultHalfClose       // ends its side instead of an answer, and keeps the other open
	faultReset           // resets the connection instead of an answer
	faultStatus          // answers 503
	faultTruncate        // ends its answer early
	faultExpired         // shows a certificate past its date; only with TLS
	faultLost            // its network is gone: no answer, and no connection, not even a refused one
)

var faultNames = [...]string{"none", "dead", "stall", "slow", "garbage", "half-close", "reset", "503", "truncate", "expired", "lost"}

func (f fault) String() string { return faultNames[f] }

// chaosBackend is a server of net/http that can be made to fail in each way.
type chaosBackend struct {
	index   int
	address string
	listen  func(address string) (net.Listener, string, error)
	fault   atomic.Int32
	certs   [2]*tls.Certificate // good, expired; nil without TLS
	served  atomic.Int64        // answered well
	log     *chaosLog

	mu     sync.Mutex
	server *http.Server
	done   chan error
	conns  map[net.Conn]bool
}

// chaosLog is which backend saw which request, of all backends.
type chaosLog struct {
	mu   sync.Mutex
	seen map[string][]int // by ID: backends; those that were failing count as -1-index
}

func (l *chaosLog) saw(id string, index int, f fault) {
	if f != faultNone && f != faultSlow {
		index = -1 - index
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[id] = append(l.seen[id], index)
}

func (l *chaosLog) of(id string) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[id]
}

func (l *chaosLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = map[string][]int{}
}

type rawConn struct{}

func (b *chaosBackend) start(t *testing.T) {
	t.Helper()
	l, address, err := b.listen(b.address)
	if err != nil {
		t.Fatal(err)
	}
	if b.address == "" {
		b.address = address
	}
	s := &http.Server{
		Handler:  http.HandlerFunc(b.serve),
		ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			return context.WithValue(ctx, rawConn{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if s == http.StateNew {
				b.conns[c] = true
			} else if s == http.StateClosed || s == http.StateHijacked {
				delete(b.conns, c)
			}
		},
		Protocols: new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	if b.certs[0] != nil {
		s.TLSConfig = &tls.Config{SessionTicketsDisabled: true, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if fault(b.fault.Load()) == faultExpired {
				return b.certs[1], nil
			}
			return b.certs[0], nil
		}}
	}
	done := make(chan error, 1)
	b.mu.Lock()
	b.server, b.done, b.conns = s, done, map[net.Conn]bool{}
	b.mu.Unlock()
	go func() {
		if s.TLSConfig != nil {
			done <- s.ServeTLS(l, "", "")
		} else {
			done <- s.Serve(l)
		}
	}()
}

// stop is sudden: connections are reset.
func (b *chaosBackend) stop(t *testing.T) {
	b.cut()
	b.server.Close()
	if err := <-b.done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func (b *chaosBackend) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		raw := c
		if t, ok := c.(*tls.Conn); ok {
			raw = t.NetConn()
		}
		reset(raw)
	}
}

// lost holds up a dial to the backend while its network is gone.
func (b *chaosBackend) lost(ctx context.Context) error {
	if fault(b.fault.Load()) != faultLost {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// set makes the backend fail, or be well again.
func (b *chaosBackend) set(t *testing.T, f fault) {
	before := fault(b.fault.Swap(int32(f)))
	switch {
	case f == faultDead:
		b.stop(t)
	case before == faultDead:
		b.start(t)
	case f == faultExpired:
		b.cut() // new connections alone see the certificate
	}
}

// serve answers with the request's ID, or fails.
func (b *chaosBackend) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	f := fault(b.fault.Load())
	id := r.Header.Get("X-Id")
	b.log.saw(id, b.index, f)
	if err != nil {
		return
	}
	raw := r.Context().Value(rawConn{}).(net.Conn)
	switch f {
	case faultStall, faultLost:
		<-r.Context().Done()
		return
	case faultSlow:
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	case faultGarbage:
		io.WriteString(raw, strings.Repeat("\x00garbage\xff\r\n", 1000))
		panic(http.ErrAbortHandler)
	case faultHalfClose:
		raw.(interface{ CloseWrite() error }).CloseWrite()
		<-r.Context().Done()
		return
	case faultReset:
		reset(raw)
		return
	case faultStatus:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case faultTruncate:
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 1000))
		panic(http.ErrAbortHandler)
	}
	time.Sleep(2 * time.Millisecond) // so that some are in flight whenever it breaks
	b.served.Add(1)
	fmt.Fprintf(w, "%s %s", id, body)
}

// chaosCerts are a good and an expired certificate of one authority, and its PEM.
func chaosCerts(t *testing.T) (certs [2]*tls.Certificate, ca []byte) {
	t.Helper()
	r := secure.Request{Names: []string{"backend.test"}, Valid: 24 * time.Hour, Now: time.Now().Add(-time.Hour)}
	g, err := secure.Generate(r)
	if err != nil {
		t.Fatal(err)
	}
	r.CA, r.CAKey, r.Now = g.CA, g.CAKey, time.Now().Add(-30*time.Minute)
	r.Valid = 10 * time.Minute
	old, err := secure.Generate(r)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range []*secure.Generated{g, old} {
		pair, err := tls.X509KeyPair(g.Cert, g.Key)
		if err != nil {
			t.Fatal(err)
		}
		certs[i] = &pair
	}
	block, _ := pem.Decode(old.Cert)
	if c, err := x509.ParseCertificate(block.Bytes); err != nil || c.NotAfter.After(time.Now()) {
		t.Fatalf("%v, valid until %v", err, c.NotAfter)
	}
	return certs, g.CA
}

// chaosNet is a network in memory, whose listeners come and go.
type chaosNet struct {
	mu        sync.Mutex
	listeners map[string]*pipes.Listener
}

// listen takes an address; "" is one that is free.
func (n *chaosNet) listen(address string) (net.Listener, string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if address == "" {
		address = fmt.Sprintf("198.18.0.%d:80", len(n.listeners)+1)
	}
	l := pipes.Listen()
	n.listeners[address] = l
	return l, address, nil
}

// dial connects; nobody listens at an address whose listener was closed.
func (n *chaosNet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.EHOSTUNREACH}
	}
	c, err := l.Dial(ctx, network, address)
	if errors.Is(err, net.ErrClosed) {
		err = &net.OpError{Op: "dial", Net: network, Addr: l.Addr(), Err: syscall.ECONNREFUSED}
	}
	return c, err
}

// listenNet listens on loopback.
func listenNet(address string) (net.Listener, string, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", err
	}
	return l, l.Addr().String(), nil
}

// reset breaks a connection off.
func reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() error }:
		c.Reset()
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	}
}

// result is one request of the load.
type result struct {
	id         string
	method     string
	begin, end time.Time
	err        error // nil: answered as it should be
}

// load sends requests to one route until it is stopped.
type chaosLoad struct {
	url    string
	client *http.Client

	mu      sync.Mutex
	n       int
	failed  []result
	stopped chan struct{}
	wg      sync.WaitGroup
}

func startLoad(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error), url string, methods ...string) *chaosLoad {
	tr := &http.Transport{MaxIdleConnsPerHost: 100, DialContext: dial}
	l := &chaosLoad{url: url, client: &http.Client{Transport: tr, Timeout: time.Minute}, stopped: make(chan struct{})}
	for i, m := range methods {
		l.wg.Go(func() { l.send(fmt.Sprintf("%s/%s/%d", url, m, i), m) })
	}
	t.Cleanup(func() { l.stop(); tr.CloseIdleConnections() })
	return l
}

func (l *chaosLoad) stop() {
	select {
	case <-l.stopped:
	default:
		close(l.stopped)
	}
	l.wg.Wait()
}

func (l *chaosLoad) send(prefix, method string) {
	for i := 0; ; i++ {
		select {
		case <-l.stopped:
			return
		case <-time.After(25 * time.Millisecond):
		}
		r := result{id: fmt.Sprint(prefix, "/", i), method: method, begin: time.Now()}
		r.err = l.one(r.id, method)
		r.end = time.Now()
		l.mu.Lock()
		l.n++
		if r.err != nil {
			l.failed = append(l.failed, r)
		}
		l.mu.Unlock()
	}
}

// unread hides what a body is, so that the client does not send the request again by
// itself where the gateway broke a connection.
type unread struct{ io.Reader }

func (l *chaosLoad) one(id, method string) error {
	body := ""
	if method != http.MethodGet {
		body = strings.Repeat("b", 500)
	}
	req, err := http.NewRequest(method, l.url, unread{strings.NewReader(body)})
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("X-Id", id)
	res, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("status %d, body: %w", res.StatusCode, err)
	}
	if want := id + " " + body; res.StatusCode != 200 || string(b) != want {
		return fmt.Errorf("status %d, %.300q", res.StatusCode, b)
	}
	return nil
}

// await waits until n requests have ended since the last take.
func (l *chaosLoad) await(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(recoverTime); ; time.Sleep(2 * time.Millisecond) {
		l.mu.Lock()
		got := l.n
		l.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %d requests ended within %v", l.url, got, recoverTime)
		}
	}
}

// take returns the requests sent and those failed since the last call.
func (l *chaosLoad) take() (n int, failed []result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, failed = l.n, l.failed
	l.n, l.failed = 0, nil
	return n, failed
}
