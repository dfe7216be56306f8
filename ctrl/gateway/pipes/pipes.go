package pipes

import (
	"context"
	"net"
	"sync"
)

// Listener is a [net.Listener] that Dial connects to. Its connections hold 64 KiB each
// way, as those of a kernel do, and have CloseWrite and Reset.
type Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	port int // of the last client
}

// Listen makes a listener. Its owner ends it with Close.
func Listen() *Listener {
	return &Listener{conns: make(chan net.Conn), closed: make(chan struct{}), port: 40000}
}

// Dial connects to the listener, whatever the address; it waits for an Accept.
func (l *Listener) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	l.mu.Lock()
	l.port++
	client := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.port}
	l.mu.Unlock()
	near, far := pair(client, l.Addr())
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close implements [net.Listener]. Connections are left as they are.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener]. Nobody listens there outside of this process.
func (l *Listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }
