package auth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
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

type forwarder struct {
	Forward
	folded map[string]struct{} // all fields, small, with "-"
}

func fold(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

// notForIdentity are fields that mean something to everybody on the way.
var notForIdentity = map[string]bool{"host": true, "content-length": true, "transfer-encoding": true, "connection": true, "te": true, "trailer": true, "upgrade": true,
	"content-type": true, "content-encoding": true, "expect": true, "via": true, "forwarded": true, "x-forwarded-for": true, "x-request-id": true}

func newForwarder(f Forward) (*forwarder, error) {
	out := &forwarder{Forward: f, folded: map[string]struct{}{}}
	var errs []error
	add := func(name string) {
		if name == "" {
			return
		}
		k := fold(name)
		if !httpguts.ValidHeaderFieldName(name) || notForIdentity[k] {
			errs = append(errs, fmt.Errorf("identity field %q, expected the name of a header field of its own, such as X-Auth-Subject", name))
		}
		if _, twice := out.folded[k]; twice {
			errs = append(errs, fmt.Errorf("identity field %q is used twice, expected once", name))
		}
		out.folded[k] = struct{}{}
	}
	for _, name := range [...]string{f.Subject, f.Provider, f.Scopes, f.Groups} {
		add(name)
	}
	for name, path := range f.Claims {
		add(name)
		if path == "" || name == "" {
			errs = append(errs, fmt.Errorf("claim %q for field %q, expected both", path, name))
		}
	}
	return out, errors.Join(errs...)
}

// write puts the identity's fields in place of the client's.
func (f *forwarder) write(h http.Header, id *exchange.Identity) error {
	if len(f.folded) == 0 {
		return nil
	}
	for name := range h { // bound: the server's limit on fields
		if _, ours := f.folded[fold(name)]; ours {
			delete(h, name)
		}
	}
	if id == nil {
		return nil
	}
	groups := make([]string, 0, len(id.Groups))
	for g := range id.Groups {
		groups = append(groups, g)
	}
	slices.Sort(groups)
	err := errors.Join(set(h, f.Subject, "", id.Subject), set(h, f.Provider, "", id.Provider), set(h, f.Scopes, " ", id.Scopes...), set(h, f.Groups, ",", groups...))
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
