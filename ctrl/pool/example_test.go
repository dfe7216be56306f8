package pool_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/np-appliance/np/ctrl/pool"
)

func Example() {
	// A destination: whatever connects, somebody answers there.
	dial := func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			b := make([]byte, 16)
			for {
				n, err := far.Read(b)
				if err != nil {
					return
				}
				far.Write(b[:n])
			}
		}()
		return near, nil
	}
	p, err := pool.New(pool.Options[net.Conn]{
		Name:  "echo",
		Open:  dial,
		Close: func(c net.Conn, _ pool.Reason) { c.Close() },
	}, pool.DefaultConfig())
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		l, err := p.Acquire(context.Background())
		if err != nil {
			fmt.Println(err) // says how many have one, how many wait, and why none could be opened
			return
		}
		b := make([]byte, 16)
		l.Value().Write([]byte("hello"))
		n, err := l.Value().Read(b)
		fmt.Println(string(b[:n]), l.Reused())
		if err != nil {
			l.Discard()
		} else {
			l.Return()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	fmt.Println(p.Close(ctx))
	// Output:
	// hello false
	// hello true
	// <nil>
}
