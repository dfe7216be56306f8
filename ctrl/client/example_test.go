package client_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/np-appliance/np/ctrl/client"
	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/handshake"
)

// server stands for npd: an address and the public key to pin.
func server() (addr string, pub handshake.PublicKey, stop func()) {
	srv, pub, err := clienttest.NewServer()
	if err != nil {
		panic(err)
	}
	srv.Streams = true
	if addr, err = srv.Listen(); err != nil {
		panic(err)
	}
	return addr, pub, srv.Close
}

func ExampleDial() {
	addr, pub, stop := server()
	defer stop()
	key, err := handshake.GenerateKey(rand.Reader) // or handshake.ParsePrivateKey of a file
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Address: addr, Static: key, Remote: &pub, Name: "example"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()
	reply, err := c.Request(ctx, "ECHO", []byte("hello"))
	fmt.Printf("%s %v\n", reply, err)
	// Output: hello <nil>
}

func ExampleClient_Start() {
	addr, pub, stop := server()
	defer stop()
	key, _ := handshake.GenerateKey(rand.Reader)
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Config{Address: addr, Static: key, Remote: &pub})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()
	got := make(chan int, 3)
	for n := range 3 {
		err := c.Start(ctx, &client.Request{Opcode: "ECHO", Payload: make([]byte, n)}, func(r client.Response, err error) {
			got <- len(r.Payload) // r.Payload is only valid here
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(<-got + <-got + <-got)
	// Output: 3
}

func ExampleClient_OpenStream() {
	addr, pub, stop := server()
	defer stop()
	key, _ := handshake.GenerateKey(rand.Reader)
	ctx := context.Background()
	c, err := client.Dial(ctx, client.Config{Address: addr, Static: key, Remote: &pub})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close(ctx) }()
	s, err := c.OpenStream(ctx, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = s.Close() }()
	_, _ = io.WriteString(s, "there and back")
	_ = s.CloseWrite()
	back, err := io.ReadAll(s)
	fmt.Printf("%s %v\n", back, err)
	// Output: there and back <nil>
}
