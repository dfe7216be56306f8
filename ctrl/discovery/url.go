package discovery

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Options are what sources take from their surroundings; the zero value is sane.
type Options struct {
	Dial  upstream.DialFunc // nil: the kernel's sockets
	Clock upstream.Clock
	Rand  func() uint64
}

// Schemes that [Open] knows.
const schemes = "dns, srv, etcd, consul, kubernetes or file"

// Check says what is wrong with the text that names a source, and touches nothing.
func Check(text string) error {
	_, err := Open(text, Options{})
	return err
}

// Open makes a source of the text that names it (see the package's documentation). It
// reads no file and connects to nobody: that is Run's.
func Open(text string, o Options) (upstream.Source, error) {
	if len(text) > 4096 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("source %.60q: expected up to 4096 bytes without blanks", text)
	}
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok {
		return nil, fmt.Errorf("source %q: expected SCHEME:…, SCHEME one of %s", text, schemes)
	}
	rest, query, _ := strings.Cut(rest, "?")
	p, err := newParams(query)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", text, err)
	}
	var s upstream.Source
	switch scheme {
	case "dns", "srv":
		s, err = openDNS(scheme, rest, p, o)
	case "etcd":
		s, err = openEtcd(rest, p, o)
	case "consul":
		s, err = openConsul(rest, p, o)
	case "kubernetes":
		s, err = openKubernetes(rest, p, o)
	case "file":
		s, err = openFile(rest, p, o)
	default:
		err = fmt.Errorf("scheme %q: expected %s", scheme, schemes)
	}
	if err == nil {
		err = p.done()
	}
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", text, err)
	}
	return s, nil
}

// params are what follows the question mark. Each key is asked for once; done tells those
// that nobody asked for. Only the first mistake is kept.
type params struct {
	values url.Values
	known  []string
	err    error
}

func newParams(query string) (*params, error) {
	v, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("after the ?: %w", err)
	}
	return &params{values: v}, nil
}

func (p *params) all(key string) []string {
	p.known = append(p.known, key)
	return p.values[key]
}

func (p *params) wrong(key, value, expected string) {
	if p.err == nil {
		p.err = fmt.Errorf("%s=%s: expected %s", key, value, expected)
	}
}

func (p *params) text(key string) string {
	v := p.all(key)
	if len(v) > 1 {
		p.wrong(key, v[1], "it once")
	}
	if len(v) == 0 {
		return ""
	}
	if v[0] == "" {
		p.wrong(key, "", "a value")
	}
	return v[0]
}

func (p *params) span(key string) time.Duration {
	s := p.text(key)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Millisecond {
		p.wrong(key, s, "a time such as 500ms or 30s, at least 1ms")
	}
	return d
}

func (p *params) choice(key string, of ...string) string {
	s := p.text(key)
	if s != "" && !slices.Contains(of, s) {
		p.wrong(key, s, strings.Join(of, " or "))
	}
	return s
}

func (p *params) family() Family {
	switch p.choice("family", "any", "4", "6") {
	case "4":
		return IPv4
	case "6":
		return IPv6
	}
	return AnyFamily
}

// tls reads the keys of TLS; byDefault: what a source without them has.
func (p *params) tls(byDefault bool) *TLS {
	t := &TLS{CAFile: p.text("ca"), CertFile: p.text("cert"), KeyFile: p.text("key"), ServerName: p.text("server_name")}
	on := p.choice("tls", "yes", "no")
	given := *t != TLS{}
	if (t.CertFile == "") != (t.KeyFile == "") {
		p.wrong("cert", t.CertFile, "cert and key together")
	}
	if on == "no" && given {
		p.wrong("tls", "no", "it without ca, cert, key and server_name")
	}
	if on == "yes" || on == "" && (byDefault || given) {
		return t
	}
	return nil
}

func (p *params) keep() bool { return p.choice("empty", "apply", "keep") == "keep" }

func (p *params) done() error {
	if p.err != nil {
		return p.err
	}
	slices.Sort(p.known)
	for _, k := range slices.Sorted(maps.Keys(p.values)) {
		if !slices.Contains(p.known, k) {
			return fmt.Errorf("%s: unknown key, expected %s", k, strings.Join(p.known, ", "))
		}
	}
	return nil
}

// authority cuts //AUTHORITY/PATH.
func authority(rest string) (hosts []string, path string, ok bool) {
	rest, ok = strings.CutPrefix(rest, "//")
	if !ok {
		return nil, "", false
	}
	a, path, ok := strings.Cut(rest, "/")
	if a != "" {
		hosts = strings.Split(a, ",")
	}
	return hosts, path, ok
}

func openDNS(scheme, rest string, p *params, o Options) (upstream.Source, error) {
	hosts, path, ok := authority(rest)
	if !ok || path == "" || strings.Contains(path, "/") {
		if scheme == "srv" {
			return nil, fmt.Errorf("expected srv:///_SERVICE._tcp.NAME, or srv://RESOLVER,…/_SERVICE._tcp.NAME")
		}
		return nil, fmt.Errorf("expected dns:///NAME:PORT, or dns://RESOLVER,…/NAME:PORT")
	}
	d := &DNS{Name: path, SRV: scheme == "srv", Family: p.family(), TTLMin: p.span("ttl_min"), TTLMax: p.span("ttl_max"),
		Timeout: p.span("timeout"), Dial: o.Dial, Clock: o.Clock, Rand: o.Rand}
	for _, h := range hosts {
		r, err := resolverAddress(h)
		if err != nil {
			return nil, err
		}
		d.Resolvers = append(d.Resolvers, r)
	}
	if !d.SRV {
		host, port, err := net.SplitHostPort(path)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 {
			return nil, fmt.Errorf("%q: expected NAME:PORT with a port from 1 to 65535", path)
		}
		d.Name, d.Port = host, uint16(n)
	}
	if s := p.text("empty"); s == "keep" {
		d.Empty = -1
	} else if s != "" {
		n, err := strconv.Atoi(s)
		if d.Empty = n; err != nil || n < 1 || n > 1000 {
			p.wrong("empty", s, "keep, or how many answers without addresses in a row empty the list, 1 to 1000")
		}
	}
	return d, orParams(p, d.defaults)
}

// orParams checks a source when its parameters are right.
func orParams(p *params, check func() error) error {
	if p.err != nil {
		return p.err
	}
	return check()
}

// resolverAddress reads ADDRESS or ADDRESS:PORT.
func resolverAddress(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		return a, fmt.Errorf("resolver %q: expected ADDRESS or ADDRESS:PORT", s)
	}
	return a, nil
}

func openEtcd(rest string, p *params, o Options) (upstream.Source, error) {
	hosts, path, _ := authority(rest)
	if len(hosts) == 0 {
		return nil, fmt.Errorf("expected etcd://HOST:PORT,…/PREFIX")
	}
	e := &Etcd{Addresses: hosts, Prefix: p.text("prefix"), TLS: p.tls(false), User: p.text("user"), PasswordFile: p.text("password_file"),
		KeepLast: p.keep(), Check: p.span("check"), Timeout: p.span("timeout"), Dial: o.Dial, Clock: o.Clock, Rand: o.Rand}
	switch path, err := url.PathUnescape(path); {
	case err != nil:
		return nil, fmt.Errorf("prefix: %w", err)
	case e.Prefix != "" && path != "":
		return nil, fmt.Errorf("prefix=%s: expected it, or a path /%s, not both", e.Prefix, path)
	case e.Prefix == "" && path == "":
		return nil, fmt.Errorf("expected etcd://HOST:PORT,…/PREFIX, or prefix=PREFIX for one that does not begin with /")
	case e.Prefix == "":
		// A folder, as it reads: /services/api must not bring in /services/api2.
		e.Prefix = "/" + strings.TrimSuffix(path, "/") + "/"
	}
	return e, orParams(p, e.defaults)
}

func openConsul(rest string, p *params, o Options) (upstream.Source, error) {
	hosts, path, ok := authority(rest)
	service, err := url.PathUnescape(path)
	if !ok || len(hosts) != 1 || service == "" || err != nil {
		return nil, fmt.Errorf("expected consul://HOST:PORT/SERVICE")
	}
	c := &Consul{Address: hosts[0], Service: service, TLS: p.tls(false), TokenFile: p.text("token"), Tags: p.all("tag"), Datacenter: p.text("dc"),
		Warning: p.choice("warning", "yes", "no") == "yes", KeepLast: p.keep(), Wait: p.span("wait"), Dial: o.Dial, Clock: o.Clock, Rand: o.Rand}
	return c, orParams(p, c.defaults)
}

func openKubernetes(rest string, p *params, o Options) (upstream.Source, error) {
	hosts, path, ok := authority(rest)
	namespace, service, two := strings.Cut(path, "/")
	service, port, _ := strings.Cut(service, ":")
	if !ok || !two || len(hosts) > 1 {
		return nil, fmt.Errorf("expected kubernetes:///NAMESPACE/SERVICE:PORT in a pod, or kubernetes://HOST:PORT/NAMESPACE/SERVICE:PORT")
	}
	k := &Kubernetes{Namespace: namespace, Service: service, Port: port, TokenFile: p.text("token"), Family: p.family(), KeepLast: p.keep(),
		Watch: p.span("watch"), Dial: o.Dial, Clock: o.Clock, Rand: o.Rand}
	if len(hosts) == 1 {
		k.Address, k.TLS = hosts[0], p.tls(true)
		if k.TLS == nil && k.TokenFile != "" {
			p.wrong("token", k.TokenFile, "TLS: without it everybody on the way can read the token")
		}
	}
	return k, orParams(p, k.check)
}

func openFile(rest string, p *params, o Options) (upstream.Source, error) {
	path := strings.TrimPrefix(rest, "//")
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("expected file:/PATH")
	}
	return &upstream.File{Path: path, Every: p.span("every"), Clock: o.Clock}, nil
}
