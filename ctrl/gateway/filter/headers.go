package filter

import (
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// HeaderOp is what is done to a field.
type HeaderOp uint8

// Operations.
const (
	SetHeader    HeaderOp = iota // the one value from now on
	AddHeader                    // one more line
	AppendHeader                 // one more element of the last line's list
	RemoveHeader                 // all lines; a Name that ends in "*" stands for all that begin so
)

// HeaderEdit is one of them. Value may have variables.
type HeaderEdit struct {
	Op    HeaderOp
	Name  string
	Value string
}

// HeaderOptions are edits in the order in which they are made.
type HeaderOptions struct {
	Request  []HeaderEdit // before the next stage
	Response []HeaderEdit // when the answer's head is sent; interim answers and trailers are left alone
}

type edit struct {
	op    HeaderOp
	name  string
	value *template
}

// NewHeaders makes the stage that edits header fields. vars are the variables of the
// route's pattern. Fields of one connection and those that frame a message can't be edited.
func NewHeaders(o HeaderOptions, vars []string) (Stage, error) {
	var c checker
	request := c.edits("request", o.Request, vars)
	response := c.edits("response", o.Response, vars)
	if err := c.err(); err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked := r
			if len(request) > 0 {
				r = withHeader(r, maps.Clone(r.Header))
				apply(request, r.Header, asked)
			}
			if len(response) == 0 {
				next.ServeHTTP(w, r)
				return
			}
			serve(next, w, r, func(h http.Header, _ int) { apply(response, h, asked) })
		})
	}, nil
}

// withHeader is a copy of r with other fields.
func withHeader(r *http.Request, h http.Header) *http.Request {
	c := new(http.Request)
	*c = *r
	if h == nil {
		h = http.Header{}
	}
	c.Header = h
	return c
}

// framing says whether a field belongs to one connection (RFC 9110 §7.6.1) or says where
// a message ends.
func framing(name string) bool {
	return exchange.PerConnection(name) || name == "Content-Length" || name == "Expect"
}

func (c *checker) edits(field string, list []HeaderEdit, vars []string) []edit {
	var out []edit
	for i, e := range list {
		name, glob := strings.CutSuffix(e.Name, "*")
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case e.Op > RemoveHeader:
			c.badAt(field, i, "operation %d: expected set, add, append or remove", e.Op)
		case glob && e.Op == RemoveHeader && name == "":
			c.badAt(field, i, `"*": expected the beginning of a name before the asterisk`)
		case !isToken(name) || glob && e.Op != RemoveHeader:
			c.badAt(field, i, "%q: expected the name of a header field", e.Name)
		case canonical == "Host":
			c.badAt(field, i, "%q: expected another field: the host is changed by a rewrite", e.Name)
		case framing(canonical) && !glob:
			c.badAt(field, i, "%q: expected another field: this one belongs to the connection, or says where a message ends", e.Name)
		case e.Op == AppendHeader && canonical == "Set-Cookie":
			c.badAt(field, i, "%q: expected add: cookies are no list (RFC 6265 §3)", e.Name)
		case e.Op == RemoveHeader && e.Value != "":
			c.badAt(field, i, "%q: expected no value for a field that is removed", e.Value)
		}
		t, err := parseTemplate(e.Value, vars)
		switch {
		case err != nil:
			c.badAt(field, i, "%q: %w", e.Value, err)
			continue
		case !t.check(func(s string) bool { return validValue("x" + s + "x") }) || !validValue(e.Value):
			c.badAt(field, i, "%q: expected a value without control characters and without blanks around it", e.Value)
		}
		if glob {
			canonical += "*"
		}
		out = append(out, edit{e.Op, canonical, t})
	}
	return out
}

// apply makes the edits. The slices of values are never written to: the map may be a
// copy whose slices others read.
func apply(edits []edit, h http.Header, r *http.Request) {
	for i := range edits {
		e := &edits[i]
		if e.op == RemoveHeader {
			remove(h, e.name)
			continue
		}
		value := sanitize(e.value.text(r, nil))
		old := h[e.name]
		switch {
		case e.op == SetHeader || len(old) == 0:
			h[e.name] = []string{value}
		case e.op == AddHeader:
			h[e.name] = append(slices.Clip(old), value)
		case old[len(old)-1] == "":
			h[e.name] = append(slices.Clone(old[:len(old)-1]), value)
		default:
			h[e.name] = append(slices.Clone(old[:len(old)-1]), old[len(old)-1]+", "+value)
		}
	}
}

func remove(h http.Header, name string) {
	begin, glob := strings.CutSuffix(name, "*")
	if !glob {
		delete(h, name)
		return
	}
	for k := range h {
		if strings.HasPrefix(k, begin) && !framing(k) {
			delete(h, k)
		}
	}
}

// sanitize takes out what no field may have: values of variables come from outside.
func sanitize(s string) string {
	if validValue(s) {
		return s
	}
	return strings.Trim(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, s), " \t")
}
