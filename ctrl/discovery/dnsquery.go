package discovery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/np-appliance/np/ctrl/upstream"
)

const (
	ednsSize  = 1232 // RFC 9715: no fragments on ordinary paths
	udpBuffer = 4096
	maxStray  = 64 // datagrams that are no answer to the question, before a resolver is given up
	rounds    = 2  // each resolver is asked so often
)

// silentError: not one resolver answered.
type silentError struct{ error }

func (e *silentError) Unwrap() error { return e.error }

// failureError is an answer that says nothing of the name: SERVFAIL, REFUSED and such.
type failureError struct{ rcode int }

func (e *failureError) Error() string {
	if s, ok := dns.RcodeToString[e.rcode]; ok {
		return s
	}
	return fmt.Sprintf("RCODE %d", e.rcode)
}

var (
	errTimeout  = errors.New("no answer in time")
	errLame     = errors.New("an answer without data or authority: expected a resolver that recurses")
	errMismatch = errors.New("the answer is to another question")
)

// resolve asks for one type of one name and follows CNAMEs, over several answers if it
// must.
func (d *DNS) resolve(ctx context.Context, name string, kind uint16) (answer, error) {
	a := answer{ttl: d.TTLMax}
	for links := 0; ; {
		m, err := d.ask(ctx, name, kind)
		if err != nil {
			return answer{}, err
		}
		next, err := a.read(m, name, kind, &links)
		if err != nil {
			return answer{}, err
		}
		if next == "" {
			return a, nil
		}
		name = next
	}
}

// ask asks the resolvers in turn until one answers about the name.
func (d *DNS) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	servers, err := d.resolvers()
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(servers))
	silent := true
	for range rounds {
		first := d.best
		for i := range servers {
			n := (first + i) % len(servers)
			m, err := d.exchange(ctx, servers[n].String(), name, kind)
			if err == nil {
				d.best = n
				return m, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			var failure *failureError
			if errors.As(err, &failure) {
				silent = false
			}
			errs[n] = fmt.Errorf("resolver %s: %w", servers[n], err)
		}
	}
	err = joined(errs)
	if silent {
		return nil, &silentError{err}
	}
	return nil, err
}

// joined is errors.Join on one line.
func joined(errs []error) error {
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}

// resolvers returns those given, or those of the system's file, read each time: it
// changes as hosts move.
func (d *DNS) resolvers() ([]netip.AddrPort, error) {
	if len(d.Resolvers) > 0 {
		return d.Resolvers, nil
	}
	f, err := os.Open(d.ResolvConf)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conf, err := dns.ClientConfigFromReader(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.ResolvConf, err)
	}
	var out []netip.AddrPort
	for _, s := range conf.Servers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%s: nameserver %q: expected an address", d.ResolvConf, s)
		}
		if len(out) < maxResolvers {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: expected a line nameserver ADDRESS", d.ResolvConf)
	}
	return out, nil
}

// exchange asks one resolver: by UDP, by TCP when the answer was cut, and without EDNS
// when it does not know that.
func (d *DNS) exchange(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(ednsSize, false)
	m, err := d.transact(ctx, "udp", server, q)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		q.Extra = nil // RFC 6891 §7
		m, err = d.transact(ctx, "udp", server, q)
	}
	if err == nil && m.Truncated {
		m, err = d.transact(ctx, "tcp", server, q)
	}
	if err != nil {
		return nil, err
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, &failureError{m.Rcode}
	}
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && !m.Authoritative && !m.RecursionAvailable {
		return nil, errLame
	}
	return m, nil
}

// transact sends one message and waits for its answer. Each question has a socket and so
// a port of its own, and an ID of its own (RFC 5452 §9).
func (d *DNS) transact(ctx context.Context, network, server string, q *dns.Msg) (*dns.Msg, error) {
	q.Id = uint16(d.Rand())
	out, err := q.Pack()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	conn, err := d.Dial(ctx, network, server)
	if err != nil {
		return nil, timedOut(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var m *dns.Msg
	if network == "tcp" {
		m, err = overTCP(conn, out, q)
	} else {
		m, err = overUDP(conn, out, q)
	}
	return m, timedOut(err)
}

func timedOut(err error) error {
	var n net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout() {
		return errTimeout
	}
	return err
}

// overUDP passes over datagrams that answer something else, or nothing: another's forgery
// must not end the wait for the right one.
func overUDP(conn net.Conn, out []byte, q *dns.Msg) (*dns.Msg, error) {
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	b := make([]byte, udpBuffer)
	for range maxStray {
		n, err := conn.Read(b)
		if err != nil {
			return nil, err
		}
		m, err := parse(b[:n], q)
		if errors.Is(err, errMismatch) {
			continue
		}
		if err != nil && m != nil && m.Truncated {
			return m, nil // cut in the middle of a record
		}
		return m, err
	}
	return nil, fmt.Errorf("%d datagrams, none of them an answer", maxStray)
}

func overTCP(conn net.Conn, out []byte, q *dns.Msg) (*dns.Msg, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:])) // 64 KiB at most
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	return parse(b, q)
}

// parse reads an answer to q. errMismatch: it is none. Upper and lower case of the
// question's name are the same: resolvers differ in what they give back.
func parse(b []byte, q *dns.Msg) (*dns.Msg, error) {
	m := new(dns.Msg)
	err := m.Unpack(b)
	if !m.Response || m.Id != q.Id || m.Opcode != dns.OpcodeQuery || len(m.Question) > 1 {
		return nil, errMismatch
	}
	if len(m.Question) == 1 {
		g, w := m.Question[0], q.Question[0]
		if g.Qtype != w.Qtype || g.Qclass != w.Qclass || !strings.EqualFold(g.Name, w.Name) {
			return nil, errMismatch
		}
	} else if m.Rcode != dns.RcodeFormatError && m.Rcode != dns.RcodeNotImplemented {
		return nil, errMismatch // only who can't read a question may leave it out
	}
	if err != nil {
		return m, fmt.Errorf("unreadable answer: %w", err)
	}
	return m, nil
}

// read takes what m says of name. next: the name to ask for instead. links counts CNAMEs.
func (a *answer) read(m *dns.Msg, name string, kind uint16, links *int) (next string, err error) {
	start := name
	for {
		found, cname, err := a.collect(m, name, kind)
		if err != nil {
			return "", err
		}
		if found {
			return "", nil
		}
		if cname == nil {
			break
		}
		if *links++; *links > maxChain {
			return "", fmt.Errorf("more than %d CNAMEs in a row", maxChain)
		}
		a.least(cname.Hdr.Ttl)
		name = cname.Target
	}
	if m.Rcode == dns.RcodeSuccess && !strings.EqualFold(name, start) {
		return name, nil // the resolver leaves the rest of the chain to us
	}
	a.none = "NODATA"
	if m.Rcode == dns.RcodeNameError {
		a.none = "NXDOMAIN"
	}
	told := false
	for _, rr := range m.Ns { // RFC 2308 §5
		if soa, ok := rr.(*dns.SOA); ok {
			a.least(min(soa.Hdr.Ttl, soa.Minttl))
			told = true
		}
	}
	if !told { // nobody says for how long this holds, so it is not to be kept (RFC 2308 §5)
		a.ttl = 0
	}
	return "", nil
}

func (a *answer) least(ttl uint32) {
	if ttl > 1<<31-1 {
		ttl = 0 // RFC 2181 §8
	}
	a.ttl = min(a.ttl, time.Duration(ttl)*time.Second)
}

// collect takes the records of name, or finds its CNAME.
func (a *answer) collect(m *dns.Msg, name string, kind uint16) (found bool, cname *dns.CNAME, err error) {
	for _, rr := range m.Answer { // bound: 64 KiB
		h := rr.Header()
		if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, name) {
			continue
		}
		if c, ok := rr.(*dns.CNAME); ok {
			cname = c
			continue
		}
		if h.Rrtype != kind {
			continue
		}
		found = true
		a.least(h.Ttl)
		switch rr := rr.(type) {
		case *dns.A:
			err = a.address(rr.A)
		case *dns.AAAA:
			err = a.address(rr.AAAA)
		case *dns.SRV:
			err = a.target(rr)
		}
		if err != nil {
			return found, nil, err
		}
	}
	return found, cname, nil
}

// address refuses what would be dialed as this host or as no host.
func (a *answer) address(b []byte) error {
	addr, ok := netip.AddrFromSlice(b)
	if addr = addr.Unmap(); !ok || addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("address %v: expected one of a host", addr)
	}
	if !slices.Contains(a.addrs, addr) {
		a.addrs = append(a.addrs, addr)
	}
	return nil
}

func (a *answer) target(rr *dns.SRV) error {
	if rr.Target == "." {
		return nil // RFC 2782: decidedly not available
	}
	if rr.Port == 0 || checkName(rr.Target) != nil {
		return fmt.Errorf("target %q port %d: expected a host and a port", rr.Target, rr.Port)
	}
	if len(a.srvs) == maxTargets {
		return fmt.Errorf("more than %d targets", maxTargets)
	}
	t := target{host: strings.ToLower(rr.Target), port: rr.Port, priority: rr.Priority, weight: rr.Weight}
	if !slices.Contains(a.srvs, t) {
		a.srvs = append(a.srvs, t)
	}
	return nil
}

// ranks maps priorities to 0, 1, 2 …, as many as an upstream has; those beyond share the
// last.
func ranks(ts []target) map[uint16]int {
	var ps []uint16
	for _, t := range ts {
		ps = append(ps, t.priority)
	}
	slices.Sort(ps)
	rank := map[uint16]int{}
	for _, p := range slices.Compact(ps) {
		rank[p] = min(len(rank), upstream.MaxPriority)
	}
	return rank
}
