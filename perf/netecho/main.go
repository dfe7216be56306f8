// Command netecho is an echo server as Go programs write them, a goroutine for each
// connection, on Go's net or on our own TCP over AF_XDP by dataplane/netconn:
//
//	netecho -backend net    -addr 198.18.0.1:7000
//	netecho -backend af_xdp -addr 198.18.0.1:7000 -interface np0 -cpu 0
//
// With -tls it serves TLS 1.3. It runs until SIGTERM and then prints the CPU time it took.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/events"
	"github.com/np-appliance/np/dataplane/netconn"
	"github.com/np-appliance/np/dataplane/nettransport"
	"github.com/np-appliance/np/dataplane/npc"
	"github.com/np-appliance/np/dataplane/xdp"
)

type options struct {
	backend, addr, device string
	cpu                   int
	spin                  time.Duration
	tls                   bool
}

func main() {
	var o options
	flag.StringVar(&o.backend, "backend", "net", "net or af_xdp")
	flag.StringVar(&o.addr, "addr", "198.18.0.1:7000", "where to listen")
	flag.StringVar(&o.device, "interface", "np0", "device of af_xdp")
	flag.IntVar(&o.cpu, "cpu", -1, "CPU of the poll core, -1 not pinned")
	flag.DurationVar(&o.spin, "spin", 0, "how long an idle poll core spins: 0 the plane's default, negative for ever")
	flag.BoolVar(&o.tls, "tls", false, "TLS 1.3")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "netecho:", err)
		os.Exit(1)
	}
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		fmt.Printf("cpu_ns=%d\n", time.Duration(u.Utime.Nano()+u.Stime.Nano()).Nanoseconds())
	}
}

func run(ctx context.Context, o *options) error {
	var tr dataplane.Transport
	switch o.backend {
	case "net":
		tr = nettransport.New(nettransport.Options{})
	case "af_xdp":
		t, end, err := own(ctx, o)
		if err != nil {
			return err
		}
		defer end()
		tr = t
	default:
		return fmt.Errorf("backend %q: want net or af_xdp", o.backend)
	}
	l, err := tr.Listen(ctx, "tcp", o.addr)
	if err != nil {
		return err
	}
	if o.tls {
		cert, err := certificate()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		go echo(c)
	}
}

// echo writes back what comes, as it comes.
func echo(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// own makes a plane with one core on the device, and a transport over it.
func own(ctx context.Context, o *options) (tr dataplane.Transport, end func(), err error) {
	at, err := netip.ParseAddrPort(o.addr)
	if err != nil {
		return nil, nil, err
	}
	p, err := npc.New(&dataplane.Config{CPUs: []int{o.cpu}, BuffersPerCore: 32768, LoansPerCore: 4096, MaxConns: 8192, MaxStreams: 1, ChunkBytes: 2048, IdleSpin: o.spin})
	if err != nil {
		return nil, nil, err
	}
	r := events.New(p)
	n, err := netconn.New(p, r, netconn.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, p.Close())
	}
	inner, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(inner) }()
	var prog *xdp.Program
	end = func() {
		err := n.Close()
		cancel()
		err = errors.Join(err, <-done)
		if prog != nil {
			err = errors.Join(err, prog.Close())
		}
		if err = errors.Join(err, p.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "netecho:", err)
		}
	}
	prog, err = attach(ctx, p, o.device, at.Addr())
	if err != nil {
		end()
		return nil, nil, err
	}
	return n, end, nil
}

func attach(ctx context.Context, p dataplane.Plane, device string, addr netip.Addr) (*xdp.Program, error) {
	i, err := xdp.Inspect(device)
	if err != nil {
		return nil, err
	}
	prog, err := xdp.Attach(device, xdp.Options{})
	if err != nil {
		return nil, err
	}
	_, qs, err := p.AddInterface(ctx, &dataplane.InterfaceConfig{Name: device, Index: i.Index, MAC: i.MAC, MTU: i.MTU, Queues: i.RXQueues,
		Native: prog.Mode() == xdp.ModeNative, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}})
	if err == nil {
		err = prog.SetAddresses([]xdp.Address{{Addr: addr}})
	}
	for _, q := range qs {
		if err == nil {
			err = prog.SetSocket(q.Queue, q.FD)
		}
	}
	if err != nil {
		return nil, errors.Join(err, prog.Close())
	}
	return prog, nil
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"netecho"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
