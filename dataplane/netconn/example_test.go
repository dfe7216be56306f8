package netconn_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"

	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/fake"
	"github.com/np-appliance/np/dataplane/netconn"
)

// Whatever takes a net.Listener or a dial function runs on a plane. Here it is one in
// memory; npc.New makes a real one.
func Example() {
	plane := fake.New(fake.Options{})
	reader := events.New(plane)
	transport, err := netconn.New(plane, reader, netconn.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reader.Run(ctx) }()

	l, err := transport.Listen(ctx, "tcp", "198.18.0.1:80")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from", r.Host) })}
	go func() { _ = server.Serve(l) }()

	client := &http.Client{Transport: &http.Transport{DialContext: transport.Dial}}
	resp, err := client.Get("http://198.18.0.1/")
	if err != nil {
		log.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Print(string(body))

	client.CloseIdleConnections()
	_ = server.Close()
	_ = transport.Close()
	stop()
	if err := <-done; err != nil {
		log.Fatal(err)
	}
	_ = plane.Close()
	// Output: hello from 198.18.0.1
}
