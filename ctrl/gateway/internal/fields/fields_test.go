package fields

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// names are those of a request's header.
func names(h http.Header) []string { return slices.Sorted(maps.Keys(h)) }

// TestFrom: the fields go however a client writes them, and nothing else does.
func TestFrom(t *testing.T) {
	f := Of("X-Auth-Subject", "x_tenant")
	r := &http.Request{
		Header: http.Header{"X-Auth-Subject": {"a", "b"}, "x-auth-subject": {"c"}, "X_auth-SUBJECT": {"d"}, "X-Tenant": {"e"}, "X_Tenant": {"f"},
			"X-Auth-Subjects": {"g"}, "X-Auth": {"h"}, "Xtenant": {"i"}, "Tenant": nil},
	}
	f.From(r)
	if got := names(r.Header); !slices.Equal(got, []string{"Tenant", "X-Auth", "X-Auth-Subjects", "Xtenant"}) {
		t.Errorf("left: %q", got)
	}
	r.Body = http.NoBody
	if f.From(r); r.Body != http.NoBody {
		t.Error("something else is in the place of no body")
	}
	r.Header = http.Header{"X-Tenant": nil}
	Names(nil).From(r)
	if len(r.Header) != 1 {
		t.Error("no names, and a field was taken out")
	}
}

// late is a body behind which a server puts a trailer, as net/http does: at its end.
type late struct {
	*strings.Reader
	r      *http.Request
	closed bool
}

func (l *late) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err != nil {
		if l.r.Trailer == nil {
			l.r.Trailer = http.Header{}
		}
		maps.Copy(l.r.Trailer, http.Header{"X-Tenant": {"late"}, "x_tenant": {"late"}, "X-Other": {"late"}})
	}
	return n, err
}

func (l *late) Close() error { l.closed = true; return nil }

// TestTrailer: what is announced is taken out at once, what comes at the body's end there,
// announced or not.
func TestTrailer(t *testing.T) {
	for _, announced := range []http.Header{{"X-Tenant": nil, "X-Other": nil}, {"X-Other": nil}, {"x_tenant": nil}, nil} {
		_, other := announced["X-Other"]
		r := &http.Request{Header: http.Header{}, Trailer: announced}
		body := &late{Reader: strings.NewReader("text"), r: r}
		r.Body = body
		Of("X-Tenant").From(r)
		if got := names(r.Trailer); len(got) > 0 && (!other || !slices.Equal(got, []string{"X-Other"})) {
			t.Errorf("announced: %q", got)
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != "text" {
			t.Errorf("%q, %v", b, err)
		}
		if got := names(r.Trailer); !slices.Equal(got, []string{"X-Other"}) || r.Trailer.Get("X-Other") != "late" {
			t.Errorf("come: %v", r.Trailer)
		}
		if err := r.Body.Close(); err != nil || !body.closed {
			t.Errorf("%v, closed: %v", err, body.closed)
		}
	}
}
