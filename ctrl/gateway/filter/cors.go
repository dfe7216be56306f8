package filter

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CORSOptions is which pages of other origins may read answers (the CORS protocol of the
// Fetch standard).
type CORSOptions struct {
	Origins     []string      // "https://a.example", "https://*.a.example" (one label or more), "null", or "*" alone: every one
	Methods     []string      // beyond GET, HEAD and POST, which need no permission; "*": every one
	Headers     []string      // fields that requests may have; "*": every one
	Expose      []string      // fields of the answer that pages may read; "*": every one
	Credentials bool          // with cookies and certificates; then "*" stands for nothing and is refused
	MaxAge      time.Duration // that a browser may remember a permission; 0: as long as it does by itself (5 s)
}

// MaxCORSAge is the longest MaxAge.
const MaxCORSAge = 24 * time.Hour

type cors struct {
	any         bool
	origins     []string
	wild        []wildOrigin
	anyMethod   bool
	methods     []string
	anyHeader   bool
	headers     []string // small letters
	credentials bool
	expose      string
	allow       string // of methods
	maxAge      string
}

// wildOrigin is an origin whose host begins with any labels.
type wildOrigin struct{ begin, end string }

// NewCORS makes the stage that answers preflight requests and marks answers. What a
// backend says of CORS by itself is taken out: two answers are none to a browser.
func NewCORS(o CORSOptions) (Stage, error) {
	mark, preflight, err := SplitCORS(o)
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler { return mark(preflight(next)) }, nil
}

// SplitCORS makes NewCORS's stage in two parts: mark marks answers, those of whoever refuses
// between the two as well, since a page can't read a refusal without that; preflight answers
// preflight requests, behind whoever may refuse them.
func SplitCORS(o CORSOptions) (mark, preflight Stage, err error) {
	var c checker
	s := &cors{credentials: o.Credentials}
	c.origins(s, o.Origins)
	s.methods, s.anyMethod = c.starList("methods", o.Methods, o.Credentials)
	s.headers, s.anyHeader = c.starList("headers", o.Headers, o.Credentials)
	expose, anyExpose := c.starList("expose", o.Expose, o.Credentials)
	if s.expose = strings.Join(expose, ", "); anyExpose {
		s.expose = "*"
	}
	for i := range s.headers {
		s.headers[i] = strings.ToLower(s.headers[i])
	}
	if o.Credentials && s.any {
		c.bad("credentials", `expected false with the origin "*": no browser takes both, and every site could act for its visitors`)
	}
	if o.MaxAge < 0 || o.MaxAge > MaxCORSAge {
		c.bad("max_age", "%v: expected 0s to %v", o.MaxAge, MaxCORSAge)
	}
	if o.MaxAge > 0 {
		s.maxAge = strconv.Itoa(int((o.MaxAge + time.Second - 1) / time.Second))
	}
	s.allow = strings.Join(s.methods, ", ")
	if err := c.err(); err != nil {
		return nil, nil, err
	}
	return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.mark(next, w, r) })
		}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if origin := originOf(r); asksPermission(r, origin) {
					s.preflight(w, r, origin, r.Header["Access-Control-Request-Method"])
					return
				}
				next.ServeHTTP(w, r)
			})
		}, nil
}

// originOf is the page's that asks; empty: none says so, or several do.
func originOf(r *http.Request) string {
	if o := r.Header["Origin"]; len(o) == 1 {
		return o[0]
	}
	return ""
}

// asksPermission says whether it is a preflight request.
func asksPermission(r *http.Request, origin string) bool {
	return r.Method == http.MethodOptions && origin != "" && len(r.Header["Access-Control-Request-Method"]) > 0
}

func (c *checker) origins(s *cors, list []string) {
	if len(list) == 0 {
		c.bad("origins", `expected an origin such as "https://a.example", or "*"`)
	}
	for i, o := range list {
		switch {
		case o == "*":
			s.any = true
			if len(list) > 1 {
				c.badAt("origins", i, `"*": expected it alone`)
			}
			continue
		case o == "null":
			s.origins = append(s.origins, o)
			continue
		}
		o = strings.ToLower(o)
		u, err := url.Parse(strings.Replace(o, "://*.", "://", 1))
		if err != nil || u.Scheme == "" || !validHost(u.Host) || u.Scheme+"://"+u.Host != strings.Replace(o, "://*.", "://", 1) {
			c.badAt("origins", i, `%q: expected scheme and host as in "https://a.example", without a path or a slash`, list[i])
			continue
		}
		if begin, end, wild := strings.Cut(o, "://*."); wild {
			s.wild = append(s.wild, wildOrigin{begin + "://", "." + end})
		} else {
			s.origins = append(s.origins, o)
		}
	}
}

// starList checks a list of tokens, which may be "*" alone where there are no credentials.
func (c *checker) starList(field string, list []string, credentials bool) (out []string, any bool) {
	for i, s := range list {
		switch {
		case s == "*" && credentials:
			c.badAt(field, i, `"*": expected names: with credentials it stands for nothing`)
		case s == "*" && len(list) > 1:
			c.badAt(field, i, `"*": expected it alone`)
		case s == "*":
			return nil, true
		case !isToken(s):
			c.badAt(field, i, "%q: expected a name", s)
		default:
			out = append(out, s)
		}
	}
	return out, false
}

func (s *cors) mark(next http.Handler, w http.ResponseWriter, r *http.Request) {
	origin := originOf(r)
	if asksPermission(r, origin) {
		next.ServeHTTP(w, r)
		return
	}
	serve(next, w, r, func(h http.Header, status int) {
		for _, name := range [...]string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"} {
			delete(h, name)
		}
		if !s.any {
			addVary(h, "Origin")
		}
		if status != http.StatusSwitchingProtocols && s.allowed(h, origin) && s.expose != "" {
			h["Access-Control-Expose-Headers"] = []string{s.expose}
		}
	})
}

// allowed says whether an origin is, and puts that into an answer.
func (s *cors) allowed(h http.Header, origin string) bool {
	switch {
	case origin == "":
		return false
	case s.any:
		h["Access-Control-Allow-Origin"] = []string{"*"}
		return true
	case !s.known(origin):
		return false
	}
	h["Access-Control-Allow-Origin"] = []string{origin}
	if s.credentials {
		h["Access-Control-Allow-Credentials"] = []string{"true"}
	}
	return true
}

// known compares as bytes: browsers write origins in small letters.
func (s *cors) known(origin string) bool {
	if slices.Contains(s.origins, origin) {
		return true
	}
	for _, w := range s.wild {
		rest, ok := strings.CutPrefix(origin, w.begin)
		if !ok {
			continue
		}
		if label, ok := strings.CutSuffix(rest, w.end); ok && label != "" && label[0] != '.' && !strings.ContainsAny(label, "/:@[]?#") && validHost(label) {
			return true
		}
	}
	return false
}

// preflight answers in the backend's place. A request that is not permitted gets an
// answer without permission, which the browser reports.
func (s *cors) preflight(w http.ResponseWriter, r *http.Request, origin string, asked []string) {
	h := w.Header()
	addVary(h, "Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
	if fields, ok := s.fields(r.Header["Access-Control-Request-Headers"]); ok && len(asked) == 1 && s.method(asked[0]) && s.allowed(h, origin) {
		switch {
		case s.anyMethod:
			h["Access-Control-Allow-Methods"] = []string{"*"}
		case s.allow != "":
			h["Access-Control-Allow-Methods"] = []string{s.allow}
		}
		if fields != "" {
			h["Access-Control-Allow-Headers"] = []string{fields}
		}
		if s.maxAge != "" {
			h["Access-Control-Max-Age"] = []string{s.maxAge}
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *cors) method(m string) bool {
	return s.anyMethod || m == http.MethodGet || m == http.MethodHead || m == http.MethodPost || slices.Contains(s.methods, m)
}

// maxAskedHeaders bounds the names of one preflight request.
const maxAskedHeaders = 128

// fields says whether all fields that a request will have are permitted, and returns them
// as the answer names them. They are named one by one even where every one is permitted:
// "*" does not stand for Authorization.
func (s *cors) fields(lines []string) (string, bool) {
	var names []string
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.ToLower(trim(name)); name == "" {
				continue
			}
			if len(names) == maxAskedHeaders || !isToken(name) || !s.anyHeader && !slices.Contains(s.headers, name) {
				return "", false
			}
			names = append(names, name)
		}
	}
	return strings.Join(names, ", "), true
}
