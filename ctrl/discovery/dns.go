package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Family is which addresses of a name are wanted.
type Family uint8

// Families.
const (
	AnyFamily Family = iota
	IPv4
	IPv6
)

// Bounds of what DNS may answer.
const (
	maxTargets   = 1_000 // of an SRV answer
	maxChain     = 8     // CNAMEs, over all questions for one name
	maxResolvers = 8
	maxFailures  = 8 // of one round's questions, each of which may have waited for all resolvers
)

// DNS is a [upstream.Source] of the addresses of a name, or of an SRV record's targets.
// The zero values of its fields are sane, Name is required, and Port unless SRV is set.
//
// An answer is asked for again when its time to live ends. When no resolver answers, or
// all answer with failures, the addresses known stay and the name is asked for again ever
// more slowly. A name that does not exist, or has no addresses, is an answer: it empties
// the list when it came Empty times in a row.
type DNS struct {
	Name      string // taken as it is: no search list
	Port      uint16
	SRV       bool // Name has SRV records; their ports, priorities and weights count
	Family    Family
	Resolvers []netip.AddrPort // asked in this order, from the one that answered last; none: of ResolvConf
	TTLMin    time.Duration    // times to live below are taken for it; 5 s
	TTLMax    time.Duration    // those above too; 5 min
	Timeout   time.Duration    // of one question to one resolver; 2 s
	Empty     int              // 0: 3; negative: the list is never emptied

	ResolvConf string // "/etc/resolv.conf" when empty
	Hosts      string // asked before DNS; "/etc/hosts" when empty
	Dial       upstream.DialFunc
	Clock      upstream.Clock
	Rand       func() uint64 // random bits: IDs of questions, jitter; nil: crypto/rand

	feed
	known map[question]*known
	best  int // index of the resolver that answered last
}

type question struct {
	name string // lower case, with the final dot
	kind uint16 // dns.TypeA, TypeAAAA, TypeSRV
}

// known is what the last answer to a question was.
type known struct {
	answer
	until  time.Time // when to ask again
	failed backoff
	used   bool // in this round
	had    bool // it was answered
}

// answer is what a message says: addresses or targets, neither when none is set.
type answer struct {
	addrs []netip.Addr
	srvs  []target
	ttl   time.Duration
	none  string // "NXDOMAIN" or "NODATA"
}

type target struct {
	host     string
	port     uint16
	priority uint16
	weight   uint16
}

func (d *DNS) defaults() error {
	defaultTo(&d.TTLMin, 5*time.Second)
	defaultTo(&d.TTLMax, max(5*time.Minute, d.TTLMin))
	defaultTo(&d.Timeout, 2*time.Second)
	defaultTo(&d.Empty, 3)
	defaultTo(&d.ResolvConf, "/etc/resolv.conf")
	defaultTo(&d.Hosts, "/etc/hosts")
	if d.Dial == nil {
		d.Dial = (&net.Dialer{}).DialContext
	}
	if d.Clock == nil {
		d.Clock = upstream.SystemClock{}
	}
	if d.Rand == nil {
		d.Rand = randomBits
	}
	switch {
	case checkName(d.Name) != nil:
		return checkName(d.Name)
	case !d.SRV && d.Port == 0:
		return fmt.Errorf("dns %s: expected a port from 1 to 65535", d.Name)
	case d.TTLMin < time.Millisecond || d.TTLMax < d.TTLMin:
		return fmt.Errorf("dns %s: ttl_min %v, ttl_max %v: expected 1ms ≤ ttl_min ≤ ttl_max", d.Name, d.TTLMin, d.TTLMax)
	case d.Timeout < time.Millisecond:
		return fmt.Errorf("dns %s: timeout %v: expected at least 1ms", d.Name, d.Timeout)
	case len(d.Resolvers) > maxResolvers:
		return fmt.Errorf("dns %s: %d resolvers: expected at most %d", d.Name, len(d.Resolvers), maxResolvers)
	}
	return nil
}

// checkName says what is wrong with a DNS name.
func checkName(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%q: expected a name, an address needs no DNS", name)
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" || name == "." || strings.ContainsAny(name, " \t/\\:") {
		return fmt.Errorf("%q: expected a DNS name", name)
	}
	return nil
}

// Run implements [upstream.Source].
func (d *DNS) Run(ctx context.Context, apply func([]upstream.Spec) error, report func(error)) error {
	if err := d.defaults(); err != nil {
		return err
	}
	d.begin(d.Clock, max(0, d.Empty), apply, func(err error) { report(fmt.Errorf("dns %s: %w", d.Name, err)) })
	d.known = map[question]*known{}
	for {
		r := &lookups{d: d, ctx: ctx, none: "no addresses"}
		specs := d.round(r)
		switch {
		case ctx.Err() != nil:
			return nil
		case r.err != nil && (r.answered == 0 || len(specs) == 0):
			d.fail(r.err)
		case r.err == nil && len(specs) == 0:
			d.put(nil, false, errors.New(r.none))
		default:
			d.put(specs, r.err != nil, r.err)
		}
		if !sleep(ctx, d.Clock, d.wait()) {
			return nil
		}
	}
}

// round asks what has to be asked and returns the list as far as it is known. What could
// not be asked for, with what was known before, is in r.err.
func (d *DNS) round(r *lookups) []upstream.Spec {
	for _, k := range d.known {
		k.used = false
	}
	var specs []upstream.Spec
	if d.SRV {
		specs = d.fromSRV(r)
	} else {
		for _, a := range r.addresses(d.Name) {
			specs = append(specs, upstream.Spec{Address: netip.AddrPortFrom(a, d.Port).String(), Weight: 1})
		}
	}
	for q, k := range d.known {
		if !k.used {
			delete(d.known, q)
		}
	}
	return specs
}

// wait is the time to the next question, a little earlier than it must be so that
// gateways started together do not ask together.
func (d *DNS) wait() time.Duration {
	now := d.Clock.Now()
	next := now.Add(d.TTLMax)
	for _, k := range d.known {
		if k.until.Before(next) {
			next = k.until
		}
	}
	w := max(next.Sub(now), time.Millisecond)
	return w - time.Duration(d.Rand()%uint64(w/10+1))
}

// lookups is one round's questions.
type lookups struct {
	d        *DNS
	ctx      context.Context
	err      error  // the first
	answered int    // questions answered now or before, and still good
	failures int    // questions that failed now
	dead     bool   // no resolver answers, or too much failed: the round asks no more
	none     string // why there are no addresses
}

// addresses returns a name's addresses, those before when it can't be asked.
func (r *lookups) addresses(name string) []netip.Addr {
	d := r.d
	if addrs, ok := hosts(d.Hosts, name); ok {
		var out []netip.Addr
		for _, a := range addrs {
			if d.Family == AnyFamily || a.Is4() == (d.Family == IPv4) {
				out = append(out, a)
			}
		}
		k := d.entry(question{strings.ToLower(dns.Fqdn(name)), dns.TypeNone})
		k.until = d.Clock.Now().Add(max(d.TTLMin, 5*time.Second)) // a file has no time to live
		r.answered++
		if len(out) == 0 {
			r.none = "no address of the family in " + d.Hosts
		}
		return out
	}
	var out []netip.Addr
	if d.Family != IPv6 {
		out = append(out, r.lookup(name, dns.TypeA).addrs...)
	}
	if d.Family != IPv4 {
		out = append(out, r.lookup(name, dns.TypeAAAA).addrs...)
	}
	return out
}

func (d *DNS) entry(q question) *known {
	k := d.known[q]
	if k == nil {
		k = &known{failed: backoff{min: time.Second, max: max(time.Second, min(d.TTLMax, 30*time.Second))}}
		d.known[q] = k
	}
	k.used = true
	return k
}

// lookup asks one question if its time has come.
func (r *lookups) lookup(name string, kind uint16) answer {
	d := r.d
	k := d.entry(question{strings.ToLower(dns.Fqdn(name)), kind})
	early := d.TTLMin / 10 // what ends within the jitter is asked now, in one round with the rest
	now := d.Clock.Now()
	if k.had && k.failed.failures == 0 && k.until.After(now.Add(early)) {
		r.took(k)
		return k.answer
	}
	if r.dead {
		k.until = now.Add(k.failed.next(d.Rand()))
		return k.answer
	}
	a, err := d.resolve(r.ctx, dns.Fqdn(name), kind)
	now = d.Clock.Now()
	if err != nil {
		if r.err == nil {
			r.err = fmt.Errorf("%s %s: %w", strings.TrimSuffix(name, "."), dns.TypeToString[kind], err)
		}
		var silent *silentError
		r.failures++
		r.dead = errors.As(err, &silent) || r.failures == maxFailures
		k.until = now.Add(k.failed.next(d.Rand()))
		return k.answer
	}
	k.failed.ok()
	k.answer, k.had = a, true
	ttl := a.ttl
	if a.none != "" {
		ttl = min(ttl, 30*time.Second) // who is gone may come back
	}
	k.until = now.Add(min(max(ttl, d.TTLMin), d.TTLMax))
	r.took(k)
	return a
}

func (r *lookups) took(k *known) {
	r.answered++
	if k.none != "" {
		r.none = k.none
	}
}

// fromSRV makes endpoints of an SRV answer. Priorities keep their order and become 0, 1,
// 2 …, weights their proportion; each address of a target has its weight.
func (d *DNS) fromSRV(r *lookups) []upstream.Spec {
	a := r.lookup(d.Name, dns.TypeSRV)
	if len(a.srvs) == 0 && a.none == "" {
		r.none = "not available: the SRV record has no target"
	}
	var specs []upstream.Spec
	rank := ranks(a.srvs)
	var most uint16
	for _, t := range a.srvs {
		most = max(most, t.weight)
	}
	for _, t := range a.srvs {
		if r.ctx.Err() != nil {
			return nil
		}
		w := int(t.weight)
		if most > upstream.MaxWeight {
			w = w * upstream.MaxWeight / int(most)
		}
		for _, addr := range r.addresses(t.host) {
			specs = append(specs, upstream.Spec{
				Address:  netip.AddrPortFrom(addr, t.port).String(),
				Weight:   max(1, w), // RFC 2782: 0 is a small chance, not none
				Priority: rank[t.priority],
			})
		}
		if len(specs) > upstream.MaxEndpoints {
			break // put tells it
		}
	}
	return specs
}
