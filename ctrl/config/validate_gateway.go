package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// gateway checks that the names in [[upstream]], [[route]] and [[auth]] lead somewhere.
// What a pattern, a rule or a file says is checked by who compiles it.
func (l *loader) gateway() {
	c := l.cfg
	l.upstreams()
	routes := map[string]string{}
	var defaults HTTPRoute
	setDefaults(reflect.ValueOf(&defaults).Elem())
	for i := range c.HTTPRoutes {
		at := fmt.Sprintf("route[%d]", i)
		l.unique(routes, "route", c.HTTPRoutes[i].Name, at+".name")
		l.routeNames(&c.HTTPRoutes[i], at)
		l.routeAction(&c.HTTPRoutes[i], at)
		l.routeCompanions(&c.HTTPRoutes[i], &defaults, at)
		l.routeMessages(&c.HTTPRoutes[i], at)
	}
	l.policies()
	l.httpListeners()
	l.seen()
	l.idle()
}

func either(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// routeNames checks what a route refers to.
func (l *loader) routeNames(r *HTTPRoute, at string) {
	c := l.cfg
	upstream := func(key, name string) {
		if u := c.UpstreamNamed(name); u == nil {
			l.fail(c.Pos(at+"."+key), "route.%s: there is no [[upstream]] %q%s", strings.TrimRight(key, "[]0123456789"), name, l.meant(name, upstreamNames(c)))
		}
	}
	if r.Upstream != "" {
		upstream("upstream", r.Upstream)
	}
	for i, s := range r.Split {
		name, _, _ := strings.Cut(s, "=")
		upstream(fmt.Sprintf("split[%d]", i), name)
	}
	for i, s := range r.Mirror {
		name, _, _ := strings.Cut(s, "=")
		upstream(fmt.Sprintf("mirror[%d]", i), name)
	}
	for i, p := range r.Parts {
		upstream(fmt.Sprintf("part[%d].upstream", i), p.Upstream)
	}
	for i, name := range r.Listeners {
		j := slices.IndexFunc(c.Listeners, func(o Listener) bool { return o.Name == name })
		key := fmt.Sprintf("%s.listeners[%d]", at, i)
		if j < 0 {
			known := make([]string, 0, len(c.Listeners))
			for _, o := range c.Listeners {
				known = append(known, o.Name)
			}
			l.fail(c.Pos(key), "route.listeners: there is no [[listener]] %q%s", name, l.meant(name, known))
		} else if want := either(r.Opcode != "", "npro", "http"); c.Listeners[j].Protocol != want {
			l.fail(c.Pos(key), "route.listeners: listener %q speaks %s, expected one with protocol = %q", name, c.Listeners[j].Protocol, want)
		}
	}
}

func upstreamNames(c *Config) []string {
	out := make([]string, 0, len(c.Upstreams))
	for _, u := range c.Upstreams {
		out = append(out, u.Name)
	}
	return out
}

// meant is the rest of a message about an unknown name.
func (l *loader) meant(name string, known []string) string {
	if n := nearest(name, known); n != "" {
		return fmt.Sprintf(", expected a known one (did you mean %q?)", n)
	}
	if len(known) == 0 {
		return ", expected it to be there"
	}
	return ", expected one of " + strings.Join(known, ", ")
}

// routeAction checks that a route says exactly once what becomes of a request.
func (l *loader) routeAction(r *HTTPRoute, at string) {
	var given []string
	for _, a := range [...]struct {
		key string
		set bool
	}{{"upstream", r.Upstream != ""}, {"split", len(r.Split) > 0}, {"redirect", r.Redirect != ""}, {"body", r.Body != ""},
		{"static_dir", r.StaticDir != ""}, {"part", len(r.Parts) > 0}} {
		if a.set {
			given = append(given, a.key)
		}
	}
	if len(given) == 0 && r.Status != 0 {
		given = append(given, "status")
	}
	switch len(given) {
	case 1:
	case 0:
		l.fail(l.cfg.Pos(at), "[[route]] %q does nothing, expected one of upstream, split, redirect, body, status, static_dir, part", r.Name)
	default:
		l.fail(l.cfg.Pos(at+"."+given[1]), "[[route]] %q has %s, expected one of them", r.Name, strings.Join(given, " and "))
	}
	paths := 0
	for _, p := range [...]string{r.Path, r.PathPrefix, r.PathPattern} {
		if p != "" {
			paths++
		}
	}
	if paths > 1 {
		l.fail(l.cfg.Pos(at), "[[route]] %q has more than one of path, path_prefix and path_pattern, expected one", r.Name)
	}
	if r.Passthrough {
		l.passthrough(r, at)
	}
}

// httpListeners checks listeners of protocol http.
func (l *loader) httpListeners() {
	c := l.cfg
	for i := range c.Listeners {
		li := &c.Listeners[i]
		at := fmt.Sprintf("listener[%d]", i)
		if li.Backend == "net" && li.Protocol != "http" {
			l.fail(c.Pos(at+".backend"), "listener.backend: net is for what is served in Go, expected auto, io_uring or epoll with protocol %s", li.Protocol)
		}
		if plain := li.Protocol == "echo" || li.Protocol == "discard" || li.Protocol == "chargen"; li.IdleTimeout != 0 && (!plain || !li.TLS) {
			l.fail(c.Pos(at+".idle_timeout"), "listener.idle_timeout: expected it only with echo, discard or chargen and tls = true%s", either(li.Protocol == "http", " (of protocol http it is http.idle_timeout)", ""))
		}
		if li.Protocol != "http" {
			var d HTTP
			setDefaults(reflect.ValueOf(&d).Elem())
			if fmt.Sprint(li.HTTP) != fmt.Sprint(d) { // an empty list is as good as none
				l.fail(c.Pos(at+".http"), "listener.http: the listener speaks %s, expected it only with protocol = \"http\"", li.Protocol)
			}
			continue
		}
		if slices.Contains(li.HTTP.Versions, "3") && !li.TLS {
			l.fail(c.Pos(at+".http.versions"), "listener.http.versions: HTTP/3 needs TLS, expected tls = true")
		}
		if slices.Contains(li.HTTP.Versions, "3") && li.Address.Path() != "" {
			l.fail(c.Pos(at+".http.versions"), "listener.http.versions: HTTP/3 runs on UDP, expected an address and a port instead of %s", li.Address)
		}
		if li.HTTP.ProxyProtocol != "off" && len(li.HTTP.Trusted) == 0 && li.Address.Path() == "" {
			l.fail(c.Pos(at+".http.proxy_protocol"), "listener.http.proxy_protocol: nobody is trusted, expected trusted = [...] with the proxies in front")
		}
	}
}

// UpstreamNamed finds an upstream, nil none.
func (c *Config) UpstreamNamed(name string) *Upstream {
	for i := range c.Upstreams {
		if c.Upstreams[i].Name == name {
			return &c.Upstreams[i]
		}
	}
	return nil
}

// PoolOf is the pool of an upstream's endpoints: what it says itself, the rest from [pool].
func (c *Config) PoolOf(u *Upstream) Pool {
	p := c.Pool
	i := slices.IndexFunc(c.Upstreams, func(o Upstream) bool { return o.Name == u.Name })
	out, own := reflect.ValueOf(&p).Elem(), reflect.ValueOf(u.Pool)
	for f := range own.NumField() {
		if _, given := c.places[fmt.Sprintf("upstream[%d].pool.%s", i, own.Type().Field(f).Tag.Get("key"))]; given {
			out.Field(f).Set(own.Field(f))
		}
	}
	return p
}
