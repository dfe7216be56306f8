package discovery

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const zoneHead = `$ORIGIN example.
@ 1 IN SOA ns.example. admin.example. %d 7200 3600 1209600 1
@ 1 IN NS ns.example.
ns 1 IN A 198.18.0.53
`

// startCoreDNS serves a zone on a port, until the returned peer is killed.
func startCoreDNS(t *testing.T, dir string, port int, records string) *peer {
	t.Helper()
	writeFile(t, filepath.Join(dir, "zone"), fmt.Sprintf(zoneHead, time.Now().UnixNano()/1e6%1e9)+records)
	conf := writeFile(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`.:%d {
	bind 127.0.0.1
	errors
	template ANY ANY broken.example {
		rcode SERVFAIL
	}
	file %s example
}
`, port, filepath.Join(dir, "zone")))
	p := startPeer(t, "coredns", "-conf", conf)
	await(t, "CoreDNS", func() string {
		m := new(dns.Msg)
		m.SetQuestion("ns.example.", dns.TypeA)
		c := dns.Client{Timeout: 100 * time.Millisecond}
		if a, _, err := c.Exchange(m, fmt.Sprint("127.0.0.1:", port)); err != nil {
			return err.Error()
		} else if len(a.Answer) != 1 {
			return a.String()
		}
		return ""
	})
	return p
}

const zone = `api 0 IN A 198.18.0.1
api 0 IN A 198.18.0.2
api 0 IN AAAA 2001:db8::1
alias 0 IN CNAME alias2
alias2 0 IN CNAME api
_http._tcp.api 0 IN SRV 10 3 8080 api
_http._tcp.api 0 IN SRV 20 5000 8081 b
_http._tcp.api 0 IN SRV 20 0 8082 b
b 0 IN A 198.18.0.3
text 0 IN TXT "no address"
_gone._tcp 0 IN SRV 0 0 0 .
`

// coreSource asks CoreDNS on a port.
func coreSource(port int, name string) *DNS {
	return &DNS{Name: name, Port: 80, TTLMin: 20 * time.Millisecond, Timeout: 500 * time.Millisecond,
		Resolvers: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))}}
}

// TestCoreDNS asks a real server for everything that names can say.
func TestCoreDNS(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	var many strings.Builder
	var all []string
	for i := range 200 { // more than 1232 bytes: TCP
		fmt.Fprintf(&many, "many 1 IN A 198.18.1.%d\n", i)
		all = append(all, fmt.Sprintf("198.18.1.%d:80", i))
	}
	slices.Sort(all)
	startCoreDNS(t, t.TempDir(), port, zone+many.String())
	source := func(name string) *DNS { return coreSource(port, name) }
	runSource(t, source("alias.example.")).awaitList(t, "198.18.0.1:80", "198.18.0.2:80", "[2001:db8::1]:80")
	v4 := source("API.example")
	v4.Family = IPv4
	runSource(t, v4).awaitList(t, "198.18.0.1:80", "198.18.0.2:80")
	v6 := source("api.example")
	v6.Family = IPv6
	runSource(t, v6).awaitList(t, "[2001:db8::1]:80")
	runSource(t, source("many.example")).awaitList(t, all...)
	srv := source("_http._tcp.api.example")
	srv.SRV, srv.Family = true, IPv4
	// Weights above 1000 are scaled with the others, 0 is 1.
	runSource(t, srv).awaitList(t, "198.18.0.1:8080", "198.18.0.2:8080", "198.18.0.3:8081 weight=1000 priority=1", "198.18.0.3:8082 priority=1")
	gone := source("_gone._tcp.example")
	gone.SRV = true
	for name, s := range map[string]*DNS{"NXDOMAIN": source("nobody.example"), "NODATA": source("text.example"), "not available": gone} {
		r := runSource(t, s)
		r.awaitList(t)
		await(t, name, func() string {
			if told := r.reports(); len(told) == 0 || !strings.Contains(told[0], name) {
				return fmt.Sprintf("told %q", told)
			}
			return ""
		})
	}
}

// TestCoreDNSAway: a real server fails, goes, and comes back with another zone.
func TestCoreDNSAway(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	server := startCoreDNS(t, dir, port, zone)
	api := runSource(t, coreSource(port, "api.example"))
	api.awaitList(t, "198.18.0.1:80", "198.18.0.2:80", "[2001:db8::1]:80")
	broken := runSource(t, coreSource(port, "broken.example"))
	await(t, "SERVFAIL", func() string {
		if told := broken.reports(); len(told) != 1 || !strings.Contains(told[0], "SERVFAIL") {
			return fmt.Sprintf("told %q", told)
		}
		return ""
	})
	if got := broken.list(); !slices.Equal(got, []string{"never"}) {
		t.Errorf("SERVFAIL gave a list %q", got)
	}
	server.kill() // the list stays, and the loss is told once
	await(t, "resolver away", func() string {
		if told := api.reports(); len(told) != 1 || !strings.Contains(told[0], "refused") || !strings.Contains(told[0], " ago stays") {
			return fmt.Sprintf("told %q", told)
		}
		return ""
	})
	startCoreDNS(t, dir, port, "api 0 IN A 198.18.0.9\n")
	api.awaitList(t, "198.18.0.9:80")
	if told := api.reports(); len(told) != 1 {
		t.Errorf("told %q, want one error", told)
	}
}

// resolver is a DNS server whose answers a test writes.
type resolver struct {
	addr netip.AddrPort
	mu   sync.Mutex
	do   func(w net.PacketConn, to net.Addr, q *dns.Msg)
}

func (r *resolver) set(do func(w net.PacketConn, to net.Addr, q *dns.Msg)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.do = do
}

func newResolver(t *testing.T) *resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{addr: c.LocalAddr().(*net.UDPAddr).AddrPort(), do: func(net.PacketConn, net.Addr, *dns.Msg) {}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if err := q.Unpack(b[:n]); err != nil {
				t.Errorf("question: %v", err)
				continue
			}
			r.mu.Lock()
			do := r.do
			r.mu.Unlock()
			do(c, from, q)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return r
}

// reply is an answer to q with records in the text form of zone files.
func reply(q *dns.Msg, rcode int, records ...string) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func send(w net.PacketConn, to net.Addr, m *dns.Msg) {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	w.WriteTo(b, to)
}

// answers makes a handler of one answer for every question.
func answers(rcode int, records ...string) func(net.PacketConn, net.Addr, *dns.Msg) {
	return func(w net.PacketConn, to net.Addr, q *dns.Msg) { send(w, to, reply(q, rcode, records...)) }
}

func v4Source(rs ...*resolver) *DNS {
	d := &DNS{Name: "api.test", Port: 80, Family: IPv4, TTLMin: 10 * time.Millisecond, TTLMax: 50 * time.Millisecond, Timeout: 100 * time.Millisecond}
	for _, r := range rs {
		d.Resolvers = append(d.Resolvers, r.addr)
	}
	return d
}

// TestResolverFails: failures keep the list and are told once with its age; only answers
// without addresses empty it, after as many as were asked for.
func TestResolverFails(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	good := answers(dns.RcodeSuccess, "api.test. 0 IN A 198.18.0.1")
	r.set(good)
	d, forever := v4Source(r), v4Source(r)
	forever.Empty = -1
	run, never := runSource(t, d), runSource(t, forever)
	run.awaitList(t, "198.18.0.1:80")
	never.awaitList(t, "198.18.0.1:80")
	told := func(who *running, n int, want string) {
		t.Helper()
		await(t, want, func() string {
			got := who.reports()
			if len(got) != n || !strings.Contains(got[n-1], want) || !strings.Contains(got[n-1], "dns api.test: ") {
				return fmt.Sprintf("told %q, want %d", got, n)
			}
			return ""
		})
	}
	r.set(answers(dns.RcodeServerFailure))
	told(run, 1, "SERVFAIL; the list of 1 from")
	if st := d.Status(); st.Endpoints != 1 || st.Good.IsZero() || st.Err == nil {
		t.Errorf("%+v", st)
	}
	r.set(func(net.PacketConn, net.Addr, *dns.Msg) {})
	told(run, 2, "no answer in time; the list of 1 from")
	run.awaitList(t, "198.18.0.1:80")
	r.set(good)
	await(t, "well again", func() string {
		if err := d.Status().Err; err != nil {
			return err.Error()
		}
		return ""
	})
	r.set(answers(dns.RcodeNameError))
	run.awaitList(t)
	got := run.reports()
	for i, want := range []string{"NXDOMAIN, answer 1 of the 3", "NXDOMAIN, answer 2 of the 3", "NXDOMAIN"} {
		if len(got) != 5 || !strings.Contains(got[i+2], want) {
			t.Errorf("told %q", got)
		}
	}
	never.awaitList(t, "198.18.0.1:80")
	r.set(good)
	run.awaitList(t, "198.18.0.1:80")
}

// TestOneOfTwo: while one type can't be asked, its addresses stay beside the other's new
// ones; a resolver that fails is passed over.
func TestOneOfTwo(t *testing.T) {
	t.Parallel()
	bad, r := newResolver(t), newResolver(t)
	bad.set(answers(dns.RcodeRefused))
	handler := func(v4, v6 func(net.PacketConn, net.Addr, *dns.Msg)) func(net.PacketConn, net.Addr, *dns.Msg) {
		return func(w net.PacketConn, to net.Addr, q *dns.Msg) {
			if q.Question[0].Qtype == dns.TypeAAAA {
				v6(w, to, q)
			} else {
				v4(w, to, q)
			}
		}
	}
	six := answers(dns.RcodeSuccess, "api.test. 0 IN AAAA 2001:db8::1")
	r.set(handler(answers(dns.RcodeSuccess, "api.test. 0 IN A 198.18.0.1"), six))
	d := v4Source(bad, r)
	d.Family = AnyFamily
	run := runSource(t, d)
	run.awaitList(t, "198.18.0.1:80", "[2001:db8::1]:80")
	r.set(handler(answers(dns.RcodeSuccess, "api.test. 0 IN A 198.18.0.2"), answers(dns.RcodeServerFailure)))
	run.awaitList(t, "198.18.0.2:80", "[2001:db8::1]:80")
	await(t, "told", func() string {
		if got := run.reports(); len(got) != 1 || !strings.Contains(got[0], "AAAA: resolver") || !strings.Contains(got[0], "what was known of it") {
			return fmt.Sprintf("told %q", got)
		}
		return ""
	})
	r.set(handler(answers(dns.RcodeSuccess), six)) // no A any more: an answer
	run.awaitList(t, "[2001:db8::1]:80")
}

// TestForgery: what answers another question is passed over, what is hostile is refused.
func TestForgery(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	r.set(func(w net.PacketConn, to net.Addr, q *dns.Msg) {
		w.WriteTo([]byte("garbage"), to)
		m := reply(q, dns.RcodeSuccess, "api.test. 0 IN A 198.18.6.6")
		m.Id++
		send(w, to, m)
		m = reply(q, dns.RcodeSuccess, "api.test. 0 IN A 198.18.6.7")
		m.Question[0].Name = "evil.test."
		send(w, to, m)
		m = reply(q, dns.RcodeSuccess, "api.test. 0 IN A 198.18.6.8")
		m.Question[0].Qtype = dns.TypeAAAA
		send(w, to, m)
		m = reply(q, dns.RcodeSuccess, "api.test. 0 IN A 198.18.6.9")
		m.Response = false
		send(w, to, m)
		// Upper case, records of others and of other types beside.
		m = reply(q, dns.RcodeSuccess, "other.test. 0 IN A 198.18.6.10", "API.test. 0 IN A 198.18.0.1", "api.test. 0 CH A 198.18.6.11", "api.test. 0 IN TXT x")
		m.Question[0].Name = "aPI.tesT."
		send(w, to, m)
	})
	run := runSource(t, v4Source(r))
	run.awaitList(t, "198.18.0.1:80")
	chain := []string{}
	for i := range 20 {
		chain = append(chain, fmt.Sprintf("c%d.test. 0 IN CNAME c%d.test.", i, i+1))
	}
	chain = append(chain, "api.test. 0 IN CNAME c0.test.", "c20.test. 0 IN A 198.18.6.6")
	for i, step := range []struct {
		do   func(net.PacketConn, net.Addr, *dns.Msg)
		want string
	}{
		{answers(dns.RcodeSuccess, "api.test. 0 IN CNAME api.test."), "more than 8 CNAMEs"},
		{answers(dns.RcodeSuccess, chain...), "more than 8 CNAMEs"},
		{answers(dns.RcodeSuccess, "api.test. 0 IN A 0.0.0.0"), "address 0.0.0.0: expected one of a host"},
		{answers(dns.RcodeSuccess, "api.test. 0 IN A 224.0.0.1"), "address 224.0.0.1: expected one of a host"},
		{func(w net.PacketConn, to net.Addr, q *dns.Msg) {
			m := reply(q, dns.RcodeSuccess)
			m.RecursionAvailable = false
			send(w, to, m)
		}, "expected a resolver that recurses"},
		{func(w net.PacketConn, to net.Addr, q *dns.Msg) {
			for range 100 {
				w.WriteTo([]byte("flood"), to)
			}
		}, "64 datagrams, none of them an answer"},
		{func(w net.PacketConn, to net.Addr, q *dns.Msg) {
			b, _ := reply(q, dns.RcodeSuccess, "api.test. 0 IN A 198.18.0.1").Pack()
			w.WriteTo(b[:len(b)-2], to)
		}, "unreadable answer"},
	} {
		r.set(step.do)
		await(t, step.want, func() string {
			if got := run.reports(); len(got) == 0 || !strings.Contains(got[len(got)-1], step.want) {
				return fmt.Sprintf("step %d: told %q", i, got)
			}
			return ""
		})
	}
	run.awaitList(t, "198.18.0.1:80")
	r.set(func(w net.PacketConn, to net.Addr, q *dns.Msg) { // one that does not know EDNS
		if q.IsEdns0() != nil {
			send(w, to, &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeFormatError}})
			return
		}
		send(w, to, reply(q, dns.RcodeSuccess, "api.test. 0 IN A 198.18.0.2"))
	})
	run.awaitList(t, "198.18.0.2:80")
}

// TestHosts: /etc/hosts goes before DNS, localhost needs neither; resolv.conf's mistakes
// are told.
func TestHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "hosts"), "# none\n198.18.0.7 other API.test # x\n2001:db8::7 api.test.\nbad api.test\n0.0.0.0 api.test\n198.18.0.7 api.test\n")
	d := &DNS{Name: "api.test", Port: 80, Hosts: file, ResolvConf: filepath.Join(dir, "none")}
	runSource(t, d).awaitList(t, "198.18.0.7:80", "[2001:db8::7]:80")
	for _, name := range []string{"localhost", "db.localhost."} {
		d := &DNS{Name: name, Port: 80, Hosts: file, ResolvConf: filepath.Join(dir, "none")}
		runSource(t, d).awaitList(t, "127.0.0.1:80", "[::1]:80")
	}
	for text, want := range map[string]string{"": "expected a line nameserver", "nameserver x\n": `nameserver "x": expected an address`} {
		d := &DNS{Name: "b.test", Port: 80, Hosts: file, ResolvConf: writeFile(t, filepath.Join(dir, "resolv.conf"), text)}
		run := runSource(t, d)
		await(t, want, func() string {
			if got := run.reports(); len(got) != 1 || !strings.Contains(got[0], want) {
				return fmt.Sprintf("told %q", got)
			}
			return ""
		})
		run.end()
	}
	d = &DNS{ResolvConf: writeFile(t, filepath.Join(dir, "resolv.conf"), "search x\nnameserver 198.18.0.53\noptions ndots:5\nnameserver fe80::1%lo\n")}
	got, err := d.resolvers()
	if want := "[198.18.0.53:53 [fe80::1%lo]:53]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}

// TestDNSWrong: what a DNS can't be made of.
func TestDNSWrong(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]*DNS{
		"expected a DNS name":        {Port: 80},
		"an address needs no DNS":    {Name: "198.18.0.1", Port: 80},
		`"a b": expected a DNS name`: {Name: "a b", Port: 80},
		"expected a port":            {Name: "a"},
		"ttl_min 1h0m0s":             {Name: "a", Port: 80, TTLMin: time.Hour, TTLMax: time.Minute},
		"timeout 1ns":                {Name: "a", Port: 80, Timeout: 1},
		"9 resolvers":                {Name: "a", Port: 80, Resolvers: make([]netip.AddrPort, 9)},
	} {
		if err := d.Run(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzAnswer: no message makes more of itself than its bytes, and all it gives is usable.
func FuzzAnswer(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("api.test.", dns.TypeA)
	q.Id = 7
	for _, m := range []*dns.Msg{
		reply(q, dns.RcodeSuccess, "api.test. 5 IN CNAME b.test.", "b.test. 7 IN A 198.18.0.1"),
		reply(q, dns.RcodeSuccess, "api.test. 5 IN A 198.18.0.1", "api.test. 5 IN SRV 1 2 3 b.test."),
		reply(q, dns.RcodeNameError, "api.test. 5 IN CNAME api.test."),
		reply(q, dns.RcodeSuccess, "api.test. 5 IN AAAA ::ffff:198.18.0.1"),
	} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-3])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 1<<16-1)]
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV} {
			q := new(dns.Msg)
			q.SetQuestion("api.test.", kind)
			q.Id = 7
			if len(b) > 1 {
				b = bytes.Clone(b)
				b[0], b[1] = 0, 7
			}
			m, err := parse(b, q)
			if err != nil {
				continue
			}
			a := answer{ttl: time.Minute}
			links := 0
			next, err := a.read(m, "api.test.", kind, &links)
			if err != nil {
				continue
			}
			if links > maxChain || a.ttl < 0 || a.ttl > time.Minute || len(a.srvs) > maxTargets || len(a.addrs)*4 > len(b) {
				t.Fatalf("links %d, ttl %v, %d targets, %d addresses of %d bytes", links, a.ttl, len(a.srvs), len(a.addrs), len(b))
			}
			if next != "" && (len(a.addrs) > 0 || links == 0) {
				t.Fatalf("next %q with %d addresses after %d links", next, len(a.addrs), links)
			}
			for _, s := range a.srvs {
				if checkName(s.host) != nil || s.port == 0 {
					t.Fatalf("%+v", s)
				}
			}
		}
	})
}

// TestNegativeTTL: that a name has nothing holds for as long as the zone's SOA says, and
// without one for no time at all (RFC 2308 §5): a resolver that loses its zone for a
// moment must not keep endpoints away for longer.
func TestNegativeTTL(t *testing.T) {
	t.Parallel()
	q := new(dns.Msg).SetQuestion("api.test.", dns.TypeA)
	for _, rcode := range []int{dns.RcodeSuccess, dns.RcodeNameError} {
		for authority, want := range map[string]time.Duration{
			"": 0,
			"test. 300 IN SOA ns.test. admin.test. 1 7200 3600 1209600 7": 7 * time.Second,
			"test. 4 IN SOA ns.test. admin.test. 1 7200 3600 1209600 60":  4 * time.Second,
		} {
			m := new(dns.Msg).SetRcode(q, rcode)
			if authority != "" {
				rr, err := dns.NewRR(authority)
				if err != nil {
					t.Fatal(err)
				}
				m.Ns = []dns.RR{rr}
			}
			a, links := answer{ttl: time.Hour}, 0
			next, err := a.read(m, "api.test.", dns.TypeA, &links)
			if err != nil || next != "" || a.none == "" || a.ttl != want {
				t.Errorf("%s with authority %q: none %q for %v, next %q, %v; expected %v", dns.RcodeToString[rcode], authority, a.none, a.ttl, next, err, want)
			}
		}
	}
}
