package grpcgw

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// failure is the first error of a body; the goroutine that sends it finds it, the one
// that answers asks for it.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// percentEncode writes a Grpc-Message: printing ASCII but for the percent sign, all else
// as %XX of its UTF-8.
func percentEncode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// percentDecode reads a Grpc-Message. What is no escape stays as it is, as the protocol
// asks: a message is shown to people, and a bad one is better than none.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// takeTrailers removes an answer's trailers from its header fields once its body ended:
// those announced in Trailer, and those with Go's prefix.
func takeTrailers(h http.Header, announced []string) http.Header {
	out := http.Header{}
	for _, name := range announced {
		if v := h.Values(name); len(v) > 0 {
			out[name] = v
			h.Del(name)
		}
	}
	for name, v := range h {
		if bare, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			out[http.CanonicalHeaderKey(bare)] = v
			delete(h, name)
		}
	}
	return out
}

// announcedTrailers reads the Trailer field.
func announcedTrailers(h http.Header) []string {
	var out []string
	for _, line := range h.Values("Trailer") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				out = append(out, http.CanonicalHeaderKey(name))
			}
		}
	}
	return out
}
