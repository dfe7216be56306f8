package target

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Policy is what is done where more than one treatment is right. The zero value is the
// strict one.
type Policy struct {
	KeepEncodedSlash  bool // pass %2F on, as a character of its segment; else refuse it
	RefuseDoubleSlash bool // else slashes that follow each other become one
	RefuseParameters  bool // refuse ; in paths
}

// Path is a path in the form that goes to the backend and in the form that is matched.
type Path struct {
	Wire  string // escaped
	Plain string // decoded, but for %2F and %25
}

// Error is why a path is refused, in words for the client.
type Error string

func (e Error) Error() string { return "path: " + string(e) }

// What is wrong with a path.
const (
	errRelative   = Error("it does not begin with a slash")
	errEscape     = Error("an escape is not % and two hexadecimal digits")
	errControl    = Error("it has a control character")
	errBackslash  = Error("it has a backslash")
	errSlash      = Error("it has an encoded slash")
	errUTF8       = Error("it is not UTF-8")
	errAboveRoot  = Error("it goes above the root")
	errDotParam   = Error("it has a dot segment with parameters")
	errParameters = Error("it has parameters")
	errDouble     = Error("it has an empty segment")
	errOpaque     = Error("the target is a URI without a path")
	errConnect    = Error("CONNECT without one is for proxies, which this is not")
)

// classes of the bytes of a path.
const (
	unreserved = 1 << iota // RFC 3986 §2.3
	pchar                  // may stand in a segment as it is (§3.3)
)

func class(c byte) int {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return unreserved | pchar
	}
	switch c {
	case '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@':
		return pchar
	}
	return 0
}

// Clean brings a path, escaped as a request has it, into its one form. It allocates only
// where it changes or decodes something.
func (p Policy) Clean(escaped string) (Path, error) {
	if escaped == "" {
		return Path{"/", "/"}, nil
	}
	if escaped[0] != '/' {
		return Path{}, errRelative
	}
	if p.clean(escaped) {
		return Path{escaped, escaped}, nil
	}
	b := builder{policy: p, wire: make([]byte, 0, len(escaped)+16), plain: make([]byte, 0, len(escaped))}
	for i := 1; i <= len(escaped); { // bound: the path
		end := strings.IndexByte(escaped[i:], '/')
		last := end < 0
		if last {
			end = len(escaped) - i
		}
		if err := b.segment(escaped[i:i+end], last); err != nil {
			return Path{}, err
		}
		i += end + 1
	}
	if !utf8.Valid(b.plain) {
		return Path{}, errUTF8
	}
	return Path{string(b.wire), string(b.plain)}, nil
}

// clean says whether a path has its one form, which is the same escaped and decoded.
func (p Policy) clean(s string) bool {
	for i := 1; i < len(s); i++ { // s[0] is a slash
		c := s[i]
		switch {
		case c == '/' || c == '.':
			if s[i-1] == '/' {
				return false // an empty segment, or perhaps one of dots
			}
		case c == ';' || class(c) == 0:
			return false
		}
	}
	return true
}

// builder collects the segments of a path, both forms side by side: their slashes are as
// many.
type builder struct {
	policy      Policy
	wire, plain []byte
}

// segment adds one, without its slashes. last: the path ends with it.
func (b *builder) segment(s string, last bool) error {
	if s == "" && !last {
		if b.policy.RefuseDoubleSlash {
			return errDouble
		}
		return nil
	}
	w, p := len(b.wire), len(b.plain)
	b.wire, b.plain = append(b.wire, '/'), append(b.plain, '/')
	if err := b.decode(s); err != nil {
		return err
	}
	name := string(b.plain[p+1:])
	if dots, _, has := strings.Cut(name, ";"); has {
		if b.policy.RefuseParameters {
			return errParameters
		}
		if dots == "." || dots == ".." {
			return errDotParam
		}
	}
	switch name {
	case ".":
		b.wire, b.plain = b.wire[:w], b.plain[:p]
	case "..":
		b.wire, b.plain = b.wire[:w], b.plain[:p]
		if w == 0 {
			return errAboveRoot
		}
		b.wire, b.plain = parent(b.wire), parent(b.plain)
	default:
		return nil
	}
	if last { // RFC 3986 §5.2.4: what is left is a folder
		b.wire, b.plain = append(b.wire, '/'), append(b.plain, '/')
	}
	return nil
}

func parent(path []byte) []byte {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return path[:0]
}

const hexDigits = "0123456789ABCDEF"

// decode adds a segment's characters to both forms.
func (b *builder) decode(s string) error {
	for i := 0; i < len(s); i++ {
		c, escaped := s[i], s[i] == '%'
		if escaped {
			if i+2 >= len(s) || hex(s[i+1]) > 15 || hex(s[i+2]) > 15 {
				return errEscape
			}
			c = hex(s[i+1])<<4 | hex(s[i+2])
			i += 2
		}
		switch {
		case c < ' ' || c == 0x7f:
			return errControl
		case c == '\\':
			return errBackslash
		case c == '/' && !b.policy.KeepEncodedSlash:
			return errSlash
		}
		k := class(c)
		if k&unreserved != 0 || k&pchar != 0 && !escaped {
			b.wire = append(b.wire, c)
		} else {
			b.wire = append(b.wire, '%', hexDigits[c>>4], hexDigits[c&15])
		}
		b.plain = appendPlain(b.plain, c)
	}
	return nil
}

func appendPlain(to []byte, c byte) []byte {
	if c == '/' || c == '%' {
		return append(to, '%', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(to, c)
}

// hex returns a digit's value; above 15: it is none.
func hex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// Encode escapes a plain path, or a part of one. What [Policy.Clean] gave as Plain comes
// back as a path that cleans to the same.
func Encode(plain string) string {
	n := 0
	for i := range len(plain) {
		if !asItIs(plain, i) {
			n++
		}
	}
	if n == 0 {
		return plain
	}
	b := make([]byte, 0, len(plain)+2*n)
	for i := range len(plain) {
		if c := plain[i]; asItIs(plain, i) {
			b = append(b, c)
		} else {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(b)
}

func asItIs(plain string, i int) bool {
	c := plain[i]
	if c == '%' {
		return strings.HasPrefix(plain[i:], "%2F") || strings.HasPrefix(plain[i:], "%25")
	}
	return c == '/' || class(c) != 0
}

// Apply cleans a request's path in place, in its URL and its RequestURI, and returns the
// plain form. The path of an OPTIONS request for the server as a whole is "*". What was
// refused is an [Error].
func (p Policy) Apply(r *http.Request) (string, error) {
	escaped := r.URL.EscapedPath()
	switch {
	case r.URL.Opaque != "": // "http:x": it would be sent on instead of the path
		return "", errOpaque
	case escaped == "*" && r.Method == http.MethodOptions:
		return "*", nil
	case escaped == "" && r.Method == http.MethodConnect:
		return "", errConnect
	}
	c, err := p.Clean(escaped)
	if err != nil {
		return "", err
	}
	if c.Wire != escaped {
		set(r.URL, c.Wire)
	}
	if c.Wire != escaped || r.RequestURI == "" || r.RequestURI[0] != '/' { // the last: absolute form
		r.RequestURI = r.URL.RequestURI()
	}
	return c.Plain, nil
}

// Set cleans a path and puts it into a URL.
func (p Policy) Set(u *url.URL, escaped string) error {
	c, err := p.Clean(escaped)
	if err == nil {
		set(u, c.Wire)
	}
	return err
}

func set(u *url.URL, wire string) {
	path, err := url.PathUnescape(wire)
	if err != nil { // its escapes are ours
		panic("target: " + err.Error())
	}
	u.Path, u.RawPath = path, ""
	if u.EscapedPath() != wire {
		u.RawPath = wire
	}
}
