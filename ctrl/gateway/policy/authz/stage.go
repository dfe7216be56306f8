package authz

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Config is what a route's requests have to pass.
type Config struct {
	Rules      *Rules    // nil: none
	External   *External // nil: nobody is asked
	Challenges []string  // WWW-Authenticate of an answer to nobody, whom more might be allowed; none: they get 403 like everybody
}

// Stage is the stage that authorizes.
func Stage(cfg Config) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		if cfg.Rules == nil && cfg.External == nil {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := exchange.From(r.Context())
			if cfg.Rules != nil {
				if d := cfg.Rules.Check(r, x); !d.Allowed {
					cfg.refuse(w, r, d)
					return
				}
			}
			if cfg.External != nil && !cfg.External.pass(w, r, x) {
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func (c *Config) refuse(w http.ResponseWriter, r *http.Request, d Decision) {
	x := exchange.From(r.Context())
	if d.Rule != "" {
		x.Note(fmt.Errorf("denied by %q", d.Rule))
	} else {
		x.Note(errors.New("no rule allows it"))
	}
	if x.Identity == nil && len(c.Challenges) > 0 {
		for _, v := range c.Challenges {
			w.Header().Add("WWW-Authenticate", v)
		}
		exchange.Refuse(w, r, exchange.Unauthenticated, "")
		return
	}
	public := ""
	if len(d.Scopes) > 0 && x.Identity != nil {
		scopes := strings.Join(d.Scopes, " ")
		for _, v := range c.Challenges { // RFC 6750 §3.1
			if strings.HasPrefix(v, "Bearer ") && !strings.ContainsAny(scopes, "\"\\") {
				w.Header().Add("WWW-Authenticate", v+`, error="insufficient_scope", scope="`+scopes+`"`)
			}
		}
		public = "a scope is missing: " + scopes
	}
	exchange.Refuse(w, r, exchange.Forbidden, public)
}
