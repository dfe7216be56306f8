package forward

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Target is a cluster with its share of a route's requests.
type Target struct {
	Cluster *Cluster
	Weight  int // 0 to 1,000,000; with one target it says nothing
	// Own is how requests are forwarded to it, for what is the upstream's matter: Hash (by
	// which its endpoint is chosen), BufferBody, the Retry fields, StreamIdle, Deadlines,
	// XForwarded, Forwarded, ForwardedOn and Via. nil: as the handler's options say.
	Own *Options
}

// HashFrom is where a part of a hash key comes from.
type HashFrom uint8

// Sources of hash keys.
const (
	HashClient HashFrom = iota // the client's address
	HashHeader
	HashCookie
	HashQuery
	HashPath
)

// HashKey is a source of the key by which requests stay with an endpoint (policies
// ring_hash and maglev) and with a target (Options.Sticky).
type HashKey struct {
	From HashFrom
	Name string // of the field, cookie or parameter
}

// Spoken says what is told to endpoints of the client.
type Spoken uint8

// Choices for what endpoints are told of the client.
const (
	SpokenSet     Spoken = iota // added to what a trusted peer said, in place of what another said
	SpokenReplace               // in place of what anybody said
	SpokenKeep                  // as the peer said it, whoever it is
	SpokenRemove                // nothing
)

// Mirror sends copies of requests to another cluster; the answers are read and ignored.
type Mirror struct {
	Cluster     *Cluster
	Percent     float64       // of requests, 0 to 100; 0 is 100
	MaxBody     int64         // bytes; requests with more, or with a body of unknown length, aren't mirrored; 0: 64 KiB
	Concurrency int           // copies at a time; those beyond are left out; 0: 64
	Timeout     time.Duration // of one copy; 0: 5 s
}

// DeadlineField is a request field that carries how long its sender waits.
type DeadlineField struct {
	Name string
	Unit time.Duration // of its number; 0: seconds, that may have a fraction, or a number with a unit as "1.5s" has
}

// Options is what a Handler is made of. Only Targets is required.
type Options struct {
	Targets []Target
	Sticky  bool // the target goes by the hash key too, where there is one
	Hash    []HashKey
	Mirror  *Mirror

	// BufferBody bounds bodies of known length that are read before they are sent, so
	// that they can be sent again; 0: 32 KiB, negative: none.
	BufferBody int64
	// RetryStatus are statuses that are tried again as failures are, where it is safe.
	RetryStatus []int
	// RetryAfterMax bounds a wait that an endpoint asks for (Retry-After) before it is
	// tried again; 0: 1 s. One that asks for more is not tried again.
	RetryAfterMax time.Duration
	// RetryUnsafe: methods that aren't idempotent are repeated too.
	RetryUnsafe bool

	// Timeout bounds a request with all its tries, up to the answer's end but for streams,
	// in place of the upstream's Total; 0: that.
	Timeout time.Duration
	// StreamIdle ends a stream (gRPC, events, upgrades) that carries nothing for so long; 0: never.
	StreamIdle time.Duration
	// Deadlines are fields that carry the client's deadline, beside Grpc-Timeout, which
	// always does for gRPC. They are passed on with what is left.
	Deadlines []DeadlineField

	XForwarded Spoken // X-Forwarded-For, -Proto, -Host
	Forwarded  Spoken // Forwarded (RFC 7239); SpokenSet only adds one if ForwardedOn
	// ForwardedOn: Forwarded is sent even if the client sent none.
	ForwardedOn bool
	// Via is the name that the gateway has in Via (RFC 9110 §7.6.3); "": no Via.
	Via string
	// NoRequestID: X-Request-Id isn't sent.
	NoRequestID bool

	// Upgrades are the protocols that clients may upgrade to, in small letters; nil: none.
	Upgrades []string

	// Rand returns random bits; nil: math/rand/v2.
	Rand func() uint64
	Now  func() time.Time // nil: time.Now
}

const maxTargets = 256

// check sets defaults and tells everything that is wrong.
func (o *Options) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(o.Targets) == 0 || len(o.Targets) > maxTargets {
		bad("%d targets, expected 1 to %d", len(o.Targets), maxTargets)
	}
	sum := 0
	for i, t := range o.Targets {
		if t.Cluster == nil {
			bad("target %d without a cluster", i+1)
		}
		if t.Weight < 0 || t.Weight > 1_000_000 {
			bad("target %d: weight %d, expected 0 to 1000000", i+1, t.Weight)
		}
		sum += t.Weight
	}
	if len(o.Targets) > 1 && sum <= 0 {
		bad("all targets have weight 0, expected one with more")
	}
	for i, k := range o.Hash {
		named := k.From == HashHeader || k.From == HashCookie || k.From == HashQuery
		if k.From > HashPath || named == (k.Name == "") {
			bad("hash key %d: expected client or path, or header, cookie or query with a name", i+1)
		}
		if k.From == HashHeader {
			o.Hash[i].Name = http.CanonicalHeaderKey(k.Name)
		}
	}
	if o.Sticky && len(o.Hash) == 0 {
		bad("sticky without a hash key")
	}
	for _, s := range o.RetryStatus {
		if s < 400 || s > 599 {
			bad("retry status %d, expected 400 to 599", s)
		}
	}
	for i, d := range o.Deadlines {
		if d.Name == "" || d.Unit < 0 {
			bad("deadline field %d: expected a name", i+1)
		}
		o.Deadlines[i].Name = http.CanonicalHeaderKey(d.Name)
	}
	if o.Timeout < 0 || o.StreamIdle < 0 || o.RetryAfterMax < 0 {
		bad("timeout %v, stream_idle %v, retry_after_max %v: expected 0 or more", o.Timeout, o.StreamIdle, o.RetryAfterMax)
	}
	if o.XForwarded > SpokenRemove || o.Forwarded > SpokenRemove {
		bad("x_forwarded %d, forwarded %d: expected set, replace, keep or remove", o.XForwarded, o.Forwarded)
	}
	if m := o.Mirror; m != nil {
		if m.Cluster == nil {
			bad("mirror without a cluster")
		}
		if !(m.Percent >= 0 && m.Percent <= 100) || m.MaxBody < 0 || m.Concurrency < 0 || m.Timeout < 0 {
			bad("mirror: percent %v, body %d, concurrency %d, timeout %v: expected 0 to 100, and 0 or more", m.Percent, m.MaxBody, m.Concurrency, m.Timeout)
		}
	}
	o.defaults()
	return errors.Join(errs...)
}

// of is how requests are forwarded to one of the targets.
func (o *Options) of(t Target) Options {
	out := *o
	out.Hash, out.Deadlines = slices.Clone(o.Hash), slices.Clone(o.Deadlines)
	if own := t.Own; own != nil {
		out.Hash, out.BufferBody, out.StreamIdle = slices.Clone(own.Hash), own.BufferBody, own.StreamIdle
		out.RetryStatus, out.RetryAfterMax, out.RetryUnsafe = own.RetryStatus, own.RetryAfterMax, own.RetryUnsafe
		out.Deadlines, out.XForwarded, out.Forwarded, out.ForwardedOn, out.Via = slices.Clone(own.Deadlines), own.XForwarded, own.Forwarded, own.ForwardedOn, own.Via
		out.Sticky = false // what is chosen already, by the handler's own key
	}
	return out
}

func (o *Options) defaults() {
	if o.BufferBody == 0 {
		o.BufferBody = 32 << 10
	}
	if o.RetryAfterMax == 0 {
		o.RetryAfterMax = time.Second
	}
	o.Upgrades = slices.Clone(o.Upgrades)
	for i, u := range o.Upgrades {
		o.Upgrades[i] = strings.ToLower(u)
	}
	if o.Mirror == nil {
		return
	}
	m := *o.Mirror
	o.Mirror = &m
	if m.Percent == 0 {
		m.Percent = 100
	}
	if m.MaxBody == 0 {
		m.MaxBody = 64 << 10
	}
	if m.Concurrency == 0 {
		m.Concurrency = 64
	}
	if m.Timeout == 0 {
		m.Timeout = 5 * time.Second
	}
	*o.Mirror = m
}
