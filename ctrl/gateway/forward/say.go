package forward

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/h1"
)

// say adds what the endpoint is told by the gateway itself.
func (f *flight) say() {
	o, q := f.o, &f.out
	q.Set = append(f.xff[:0], q.Set...)
	f.sayXForwarded(f.x.Trusted)
	f.sayForwarded(f.x.Trusted)
	if o.Via != "" {
		f.set("Via", after(f.r.Header["Via"], viaVersion(f.r)+" "+o.Via))
	}
	if !o.NoRequestID && f.x.ID != "" {
		f.set("X-Request-Id", f.x.ID)
	}
	f.sayTrace()
}

func (f *flight) set(name, value string) {
	f.out.Set = append(f.out.Set, h1.Field{Name: name, Value: value})
}

// after puts one more into a list of values.
func after(values []string, one string) string {
	if len(values) == 0 {
		return one
	}
	return strings.Join(values, ", ") + ", " + one
}

func viaVersion(r *http.Request) string {
	switch {
	case r.ProtoMajor >= 2:
		return string(rune('0' + r.ProtoMajor%10))
	case r.ProtoMinor == 0:
		return "1.0"
	}
	return "1.1"
}

func (f *flight) proto() string {
	if f.r.TLS != nil || f.x.TLS != nil {
		return "https"
	}
	return "http"
}

// askedHost is the host that the client asked for, also where a route rewrote it.
func (f *flight) askedHost() string {
	if f.x.Host != "" {
		return f.x.Host
	}
	return f.r.Host
}

func (f *flight) sayXForwarded(trusted bool) {
	how := f.o.XForwarded
	switch how {
	case SpokenKeep:
		return
	case SpokenRemove:
		f.dropped = append(f.dropped, "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
		return
	}
	keep := trusted && how == SpokenSet
	in := f.r.Header
	peer := "unknown" // of a Unix socket
	if f.x.Peer.IsValid() {
		peer = f.x.Peer.Addr().Unmap().WithZone("").String()
	}
	if keep {
		f.set("X-Forwarded-For", after(in["X-Forwarded-For"], peer))
	} else {
		f.set("X-Forwarded-For", peer)
	}
	if !keep || len(in["X-Forwarded-Proto"]) == 0 {
		f.set("X-Forwarded-Proto", f.proto())
	}
	switch host := f.askedHost(); {
	case keep && len(in["X-Forwarded-Host"]) != 0:
	case host == "": // of HTTP/1.0
		f.dropped = append(f.dropped, "X-Forwarded-Host")
	default:
		f.set("X-Forwarded-Host", host)
	}
}

// sayForwarded sets Forwarded (RFC 7239).
func (f *flight) sayForwarded(trusted bool) {
	in := f.r.Header["Forwarded"]
	switch how := f.o.Forwarded; {
	case how == SpokenKeep:
		return
	case how == SpokenRemove, !f.o.ForwardedOn && (len(in) == 0 || !trusted):
		if len(in) > 0 { // nobody's word that could be believed
			f.dropped = append(f.dropped, "Forwarded")
		}
		return
	case how == SpokenReplace || !trusted:
		in = nil
	}
	var b strings.Builder
	b.WriteString("for=")
	b.WriteString(node(f.x.Peer.Addr()))
	if host := f.askedHost(); host != "" && !strings.ContainsAny(host, "\"\\") {
		b.WriteString(`;host="`)
		b.WriteString(host)
		b.WriteByte('"')
	}
	b.WriteString(";proto=")
	b.WriteString(f.proto())
	f.set("Forwarded", after(in, b.String()))
}

// node is an address as Forwarded has it (RFC 7239 §6).
func node(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return "unknown"
	case a.Is4():
		return a.String()
	}
	return `"[` + a.String() + `]"`
}
