package auth

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/internal/fields"
	"github.com/np-appliance/np/ctrl/gateway/policy/internal/claim"
)

// Forward says in which fields an identity is sent on; "" sends that part not. The fields
// are always taken out of what the client sent, and so are those that some servers can't
// tell from them, with "_" for "-".
type Forward struct {
	Subject  string
	Provider string
	Scopes   string            // with a blank between them
	Groups   string            // with a comma between them, sorted
	Claims   map[string]string // field → path of the claim; of a list all values, with a comma between them
}

// Fields are those that it sets.
func (f *Forward) Fields() []string {
	var out []string
	for _, name := range [...]string{f.Subject, f.Provider, f.Scopes, f.Groups} {
		if name != "" {
			out = append(out, name)
		}
	}
	return slices.AppendSeq(out, maps.Keys(f.Claims))
}

// common says whether a field means something to everybody on the way.
func common(folded string) bool {
	switch folded {
	case "host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "content-type", "content-encoding", "expect", "via", "forwarded", "x-forwarded-for", "x-request-id":
		return true
	}
	return false
}

// Check tells everything that is wrong.
func (f *Forward) Check() error {
	var errs []error
	seen := fields.Names{}
	for _, name := range f.Fields() {
		k := fields.Fold(name)
		if !httpguts.ValidHeaderFieldName(name) || common(k) {
			errs = append(errs, fmt.Errorf("field %q for an identity, expected the name of a header field of its own, such as X-Auth-Subject", name))
		}
		if _, twice := seen[k]; twice {
			errs = append(errs, fmt.Errorf("field %q for an identity is used twice, expected once", name))
		}
		seen[k] = struct{}{}
	}
	for name, path := range f.Claims {
		if path == "" {
			errs = append(errs, fmt.Errorf("no claim for field %q, expected a claim's name", name))
		}
	}
	return errors.Join(errs...)
}

// Remove is a stage for routes that ask nobody: it takes out what other routes set.
func Remove(names []string) func(http.Handler) http.Handler {
	remove := fields.Of(names...)
	return func(next http.Handler) http.Handler {
		if len(remove) == 0 {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			remove.From(r)
			next.ServeHTTP(w, r)
		})
	}
}

// write sets the fields of an identity.
func (f *Forward) write(h http.Header, id *exchange.Identity) error {
	err := errors.Join(set(h, f.Subject, "", id.Subject), set(h, f.Provider, "", id.Provider), set(h, f.Scopes, " ", id.Scopes...))
	if f.Groups != "" {
		err = errors.Join(err, set(h, f.Groups, ",", slices.Sorted(maps.Keys(id.Groups))...))
	}
	for name, path := range f.Claims {
		if v, ok := claim.Lookup(id.Claims, path); ok {
			err = errors.Join(err, set(h, name, ",", claim.Strings(v)...))
		}
	}
	return err
}

// set writes a field. A value that would read differently at the other end is an error:
// what one proved about " admin" or "a,admin" must not be taken for "admin".
func set(h http.Header, name, sep string, values ...string) error {
	if name == "" {
		return nil
	}
	for _, v := range values {
		if !httpguts.ValidHeaderFieldValue(v) || v != strings.TrimSpace(v) || sep != "" && strings.Contains(v, sep) {
			return fmt.Errorf("field %s: the value %q can't be written in it", name, v)
		}
	}
	if joined := strings.Join(values, sep); joined != "" {
		h.Set(name, joined)
	}
	return nil
}
