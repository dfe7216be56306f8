package filter

import (
	"net/http"
	"net/url"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// RewriteOptions is what the backend sees otherwise than the client asked.
type RewriteOptions struct {
	Path   PathChange
	Host   string        // with variables; "": as it is
	Policy target.Policy // of the gateway's paths: what was written anew is cleaned once more
}

// NewRewrite makes the stage that rewrites. A path or host that the variables of a
// request make invalid is refused (400), as is a path with dot segments that came about
// by them.
func NewRewrite(o RewriteOptions, vars []string) (Stage, error) {
	var c checker
	path := c.pathChange(o.Path, vars, o.Policy)
	host := c.host(o.Host, vars)
	if path == nil && o.Host == "" {
		c.bad("rewrite", "expected a path or a host")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out := new(http.Request)
			*out = *r
			if path != nil {
				wire, err := path.change(r)
				if err == nil && wire != r.URL.EscapedPath() {
					out.URL = new(url.URL)
					*out.URL = *r.URL
					err = o.Policy.Set(out.URL, wire)
					out.RequestURI = out.URL.RequestURI()
				}
				if err != nil {
					exchange.From(r.Context()).Note(err)
					exchange.Refuse(w, r, exchange.BadRequest, "the target can't be rewritten")
					return
				}
			}
			if host != nil {
				out.Host = host.text(r, nil)
				if !validHost(out.Host) {
					exchange.Refuse(w, r, exchange.BadRequest, "the host can't be rewritten")
					return
				}
			}
			next.ServeHTTP(w, out)
		})
	}, nil
}

// host checks a host with variables. "" gives nil.
func (c *checker) host(text string, vars []string) *template {
	if text == "" {
		return nil
	}
	t, err := parseTemplate(text, vars)
	switch {
	case err != nil:
		c.bad("host", "%q: %w", text, err)
	case !t.check(validHost):
		c.bad("host", "%q: expected a host name or an address, perhaps with a port", text)
	}
	return t
}
