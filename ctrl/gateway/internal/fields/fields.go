package fields

import (
	"io"
	"net/http"
	"strings"
)

// Names are fields' names, as Fold writes them.
type Names map[string]struct{}

// Fold writes a field's name so that those are the same which some servers can't tell
// apart: in small letters, with "-" for "_".
func Fold(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

// Of returns a set of names.
func Of(names ...string) Names {
	out := Names{}
	for _, n := range names {
		out[Fold(n)] = struct{}{}
	}
	return out
}

// From takes the fields out of a request, its trailer's too.
func (f Names) From(r *http.Request) {
	if len(f) == 0 {
		return
	}
	f.out(r.Header)
	f.out(r.Trailer)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &trailers{r.Body, r, f}
	}
}

// out takes the fields out of h.
func (f Names) out(h http.Header) {
	for name := range h { // bound: the server's limit on fields
		if _, is := f[Fold(name)]; is {
			delete(h, name)
		}
	}
}

// trailers are taken out when they have come, which is at the body's end, announced or not:
// some servers make header fields of them.
type trailers struct {
	io.ReadCloser
	r *http.Request
	f Names
}

// Read implements io.Reader.
func (t *trailers) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err != nil {
		t.f.out(t.r.Trailer)
	}
	return n, err
}
