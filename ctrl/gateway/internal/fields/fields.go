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
	if f.out(r.Trailer) {
		r.Body = &trailers{r.Body, r.Trailer, f}
	}
}

// out takes the fields out of h, and says whether there were any.
func (f Names) out(h http.Header) bool {
	any := false
	for name := range h { // bound: the server's limit on fields
		if _, is := f[Fold(name)]; is {
			delete(h, name)
			any = true
		}
	}
	return any
}

// trailers are taken out when they have come, which is at the body's end: some servers make
// header fields of them.
type trailers struct {
	io.ReadCloser
	h http.Header
	f Names
}

// Read implements io.Reader.
func (t *trailers) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err != nil {
		t.f.out(t.h)
	}
	return n, err
}
