// Command tlsecho measures encrypted echo: Go's crypto/tls (1.3) on kernel TCP
// as the server beside npd, and one load for both.
//
//	tlsecho serve -addr :7443 -size 64
//	tlsecho load -addr HOST:7443 -conns 16 -depth 16 -size 64 -duration 3s
//	tlsecho npro -addr HOST:7700 -conns 16 -depth 16 -size 64 -duration 3s
//
// Each connection keeps depth messages of a known length in flight, with one
// goroutine per connection. A message is a record of its own, as in NPRO. With
// -gather, TLS puts what is at hand into one record, which is encryption by the
// batch and not by the message.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "tlsecho: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	addr     string
	size     int
	conns    int
	depth    int
	duration time.Duration
	warmup   time.Duration
	gather   bool
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: tlsecho serve|load|npro [flags]")
	}
	var o options
	fs := flag.NewFlagSet("tlsecho "+args[0], flag.ContinueOnError)
	fs.StringVar(&o.addr, "addr", "127.0.0.1:7443", "address to serve or to load")
	fs.IntVar(&o.size, "size", 64, "bytes of a message, the same on both sides")
	fs.IntVar(&o.conns, "conns", 1, "connections (load)")
	fs.IntVar(&o.depth, "depth", 1, "messages in flight on each connection (load)")
	fs.DurationVar(&o.duration, "duration", 3*time.Second, "how long to measure (load)")
	fs.DurationVar(&o.warmup, "warmup", 300*time.Millisecond, "not measured, before that (load)")
	fs.BoolVar(&o.gather, "gather", false, "put messages that are at hand together into one TLS record (serve and load)")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if o.size < 1 || o.size > 1<<20 || o.conns < 1 || o.depth < 1 || o.depth*o.size > 4<<20 {
		return fmt.Errorf("want size 1 to 1 MiB, conns and depth at least 1, depth times size at most 4 MiB")
	}
	switch args[0] {
	case "serve":
		ln, err := net.Listen("tcp", o.addr)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		return serve(ctx, ln, &o)
	case "load":
		return load(ctx, &o, dialTLS, stdout)
	case "npro":
		return load(ctx, &o, dialNPRO, stdout)
	}
	return fmt.Errorf("unknown mode %q: want serve, load or npro", args[0])
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	t := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &t, &t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// buffered holds what one connection may have in flight, so that neither side
// has to write before it has read all that is there.
func buffered(o *options) int { return max(16<<10, o.size*2) }

// serve closes ln when ctx ends.
func serve(ctx context.Context, ln net.Listener, o *options) error {
	cert, err := certificate()
	if err != nil {
		ln.Close()
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			wg.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		wg.Go(func() {
			defer nc.Close()
			over := context.AfterFunc(ctx, func() { nc.Close() })
			defer over()
			echo(tls.Server(nc, config), o)
		})
	}
}

// flusher is a bufio.Writer, or one that keeps nothing back.
type flusher interface {
	io.Writer
	Flush() error
}

type direct struct{ io.Writer }

func (direct) Flush() error { return nil }

func writer(c io.Writer, o *options) flusher {
	if o.gather {
		return bufio.NewWriterSize(c, buffered(o))
	}
	return direct{c}
}

// echo ends when the client does: a benchmark's server has nobody to tell.
func echo(c *tls.Conn, o *options) {
	r, w := bufio.NewReaderSize(c, buffered(o)), writer(c, o)
	msg := make([]byte, o.size)
	for {
		if _, err := io.ReadFull(r, msg); err != nil {
			return
		}
		if _, err := w.Write(msg); err != nil {
			return
		}
		if r.Buffered() >= o.size {
			continue
		}
		if w.Flush() != nil {
			return
		}
	}
}

// channel is a connection that sends messages and receives their echoes, in
// order. Only one goroutine uses it.
type channel interface {
	send() error    // one message more, perhaps only gathered
	flush() error   // what was gathered leaves
	receive() error // one echo, compared with what was sent
	ready() bool    // the next echo lies here already
	close()
}

// client is one connection of the load; its numbers are read after its
// goroutine ended.
type client struct {
	ch      channel
	samples []time.Duration
	done    uint64 // within the measured time
	all     uint64
	err     error
}

func (k *client) loop(o *options, from, to time.Time) {
	sent := make([]time.Time, o.depth) // ring: echoes come in order
	for n := range o.depth {
		sent[n] = time.Now()
		if k.err = k.ch.send(); k.err != nil {
			return
		}
	}
	if k.err = k.ch.flush(); k.err != nil {
		return
	}
	for n := o.depth; ; n++ {
		if k.err = k.ch.receive(); k.err != nil {
			return
		}
		k.all++
		now := time.Now()
		if now.After(to) {
			return
		}
		if now.After(from) {
			k.done++
			k.samples = append(k.samples, now.Sub(sent[n%o.depth]))
		}
		sent[n%o.depth] = now
		if k.err = k.ch.send(); k.err != nil {
			return
		}
		if k.ch.ready() {
			continue
		}
		if k.err = k.ch.flush(); k.err != nil {
			return
		}
	}
}

func load(ctx context.Context, o *options, dial func(context.Context, *options) (channel, error), stdout io.Writer) error {
	clients := make([]*client, o.conns)
	for i := range clients {
		ch, err := dial(ctx, o)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", o.addr, err)
		}
		defer ch.close()
		clients[i] = &client{ch: ch}
	}
	from := time.Now().Add(o.warmup)
	to := from.Add(o.duration)
	var wg sync.WaitGroup
	for _, k := range clients {
		over := context.AfterFunc(ctx, k.ch.close)
		defer over()
		wg.Go(func() { k.loop(o, from, to) })
	}
	wg.Wait()
	var done, all uint64
	var samples []time.Duration
	for _, k := range clients {
		if k.err != nil {
			return k.err
		}
		done += k.done
		all += k.all
		samples = append(samples, k.samples...)
	}
	if len(samples) == 0 {
		return errors.New("no message was answered")
	}
	slices.Sort(samples)
	at := func(q float64) float64 {
		return float64(samples[int(q*float64(len(samples)-1))]) / float64(time.Microsecond)
	}
	return json.NewEncoder(stdout).Encode(map[string]any{
		"connections": o.conns, "depth": o.depth, "size_bytes": o.size, "messages": done, "messages_all": all,
		"messages_per_second": float64(done) / o.duration.Seconds(),
		"p50_us":              at(0.5), "p99_us": at(0.99),
	})
}
