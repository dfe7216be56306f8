package filter

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// RedirectOptions is where a client is sent. What is empty stays as the client asked.
type RedirectOptions struct {
	Status    int    // 301, 302, 303, 307 or 308; 0: 307, which is not remembered and keeps the method
	Scheme    string // "http" or "https"
	Host      string // with variables, without a port
	Port      int    // 0: as it is, or with another scheme or host its default
	Path      PathChange
	DropQuery bool
	Rewritten bool          // an earlier stage rewrites the path: without another change too it is another place
	Policy    target.Policy // of the gateway's paths
}

// NewRedirect makes the handler that redirects. Where neither scheme, host nor port
// change the location is a path, which begins with one slash and thus never names
// another host.
func NewRedirect(o RedirectOptions, vars []string) (http.Handler, error) {
	var c checker
	switch o.Status {
	case 0:
		o.Status = http.StatusTemporaryRedirect
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		c.bad("status", "%d: expected 301, 302, 303, 307 or 308", o.Status)
	}
	if o.Scheme != "" && o.Scheme != "http" && o.Scheme != "https" {
		c.bad("scheme", `%q: expected "http" or "https"`, o.Scheme)
	}
	if o.Port < 0 || o.Port > 65535 {
		c.bad("port", "%d: expected 1 to 65535", o.Port)
	}
	r := &redirect{o: o, path: c.pathChange(o.Path, vars, o.Policy), host: c.host(o.Host, vars)}
	if r.host != nil && !r.host.check(func(s string) bool { _, port := splitHost(s); return port == "" }) {
		c.bad("host", "%q: expected a host without a port: that has an option of its own", o.Host)
	}
	if o.Scheme == "" && o.Host == "" && o.Port == 0 && r.path == nil && !o.Rewritten {
		c.bad("redirect", "expected another scheme, host, port or path: nothing else changes, clients would come back forever")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return r, nil
}

type redirect struct {
	o    RedirectOptions
	path *pathChange
	host *template
}

func (d *redirect) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	location, err := d.location(r)
	if err != nil {
		exchange.From(r.Context()).Note(err)
		exchange.Refuse(w, r, exchange.BadRequest, "there is no valid target to be redirected to")
		return
	}
	h := w.Header()
	h["Location"] = []string{location}
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(d.o.Status)
}

func (d *redirect) location(r *http.Request) (string, error) {
	wire := r.URL.EscapedPath()
	var err error
	if d.path != nil {
		wire, err = d.path.change(r)
	} else if wire != "*" && wire != "" {
		var clean target.Path
		clean, err = d.o.Policy.Clean(wire)
		wire = clean.Wire
	}
	if err != nil {
		return "", err
	}
	if wire == "*" || wire == "" {
		wire = "/"
	}
	if r.URL.RawQuery != "" && !d.o.DropQuery {
		wire += "?" + escapeQuery(r.URL.RawQuery)
	}
	if d.o.Scheme == "" && d.host == nil && d.o.Port == 0 {
		return wire, nil
	}
	host, port := splitHost(r.Host)
	was := scheme(r, exchange.From(r.Context()))
	as := was
	if d.o.Scheme != "" {
		as = d.o.Scheme
	}
	if d.host != nil {
		host, _ = splitHost(d.host.text(r, nil)) // {host} brings its port along
		port = ""
	}
	if !validHost(host) {
		return "", fmt.Errorf("redirect: host %q", host)
	}
	switch {
	case d.o.Port != 0:
		port = strconv.Itoa(d.o.Port)
	case as != was:
		port = "" // that of the other scheme is another
	}
	if port == "" || as == "http" && port == "80" || as == "https" && port == "443" {
		return as + "://" + host + wire, nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("redirect: port %q", port)
	}
	return as + "://" + host + ":" + port + wire, nil
}

// escapeQuery escapes what a URL can't have as it is; the rest of a query stays.
func escapeQuery(q string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}#", c) >= 0 {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
