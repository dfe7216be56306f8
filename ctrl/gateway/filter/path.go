package filter

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/target"
)

// PrefixChange puts another prefix in the place of one. Prefixes end on a segment;
// a slash at their end changes nothing. A path that does not begin with From stays.
type PrefixChange struct{ From, To string }

// RegexpChange replaces what a regular expression (RE2) matches in the plain path (see
// package target), everywhere. $1 or ${name} in Replacement is what a group matched.
type RegexpChange struct{ Expression, Replacement string }

// PathChange is how a path is written anew: at most one of its fields. All empty: it stays.
type PathChange struct {
	Prefix *PrefixChange
	Text   string // with variables; decoded, without a query
	Regexp *RegexpChange
}

// pathChange is a PathChange that was checked.
type pathChange struct {
	policy     target.Policy
	from       string // plain, without a slash at its end; "": every path begins so
	to         string // wire, likewise
	segments   int    // of from
	prefix     bool
	text       *template
	re         *regexp.Regexp
	substitute string
}

// maxPath bounds what a replacement makes of a path.
const maxPath = 64 << 10

func (c *checker) pathChange(o PathChange, vars []string, policy target.Policy) *pathChange {
	out := &pathChange{policy: policy}
	n := 0
	if p := o.Prefix; p != nil {
		n++
		out.prefix = true
		from, err := policy.Clean(p.From)
		if err != nil || p.From == "" {
			c.bad("prefix", `%q: expected a path that begins with "/"`, p.From)
		}
		to, err := policy.Clean(p.To)
		if err != nil || p.To == "" {
			c.bad("replacement", `%q: expected a path that begins with "/"`, p.To)
		}
		out.from, out.to = strings.TrimSuffix(from.Plain, "/"), strings.TrimSuffix(to.Wire, "/")
		out.segments = strings.Count(out.from, "/")
	}
	if o.Text != "" {
		n++
		t, err := parseTemplate(o.Text, vars)
		switch {
		case err != nil:
			c.bad("path", "%q: %w", o.Text, err)
		case !strings.HasPrefix(o.Text, "/"):
			c.bad("path", `%q: expected a path that begins with "/"`, o.Text)
		case !t.check(func(s string) bool { return !strings.ContainsAny(s, "%?#\\") && validValue("x"+s+"x") }):
			c.bad("path", "%q: expected a path that is not escaped, without a query", o.Text)
		}
		out.text = t
	}
	if e := o.Regexp; e != nil {
		n++
		re, err := regexp.Compile(e.Expression)
		if err != nil {
			c.bad("expression", "%q: expected a regular expression (RE2): %w", e.Expression, err)
		}
		out.re, out.substitute = re, e.Replacement
		if err == nil {
			c.add("replacement", checkGroups(re, e.Replacement))
		}
	}
	if n > 1 {
		c.bad("path", "expected one of prefix, path and regular expression")
	}
	if n == 0 {
		return nil
	}
	return out
}

// checkGroups wants each group that a replacement names to be there: regexp takes a
// missing one for an empty text, and "$1x" for the group "1x".
func checkGroups(re *regexp.Regexp, replacement string) error {
	for i := 0; i < len(replacement); i++ {
		if replacement[i] != '$' {
			continue
		}
		i++
		rest := replacement[i:]
		if strings.HasPrefix(rest, "$") {
			continue
		}
		name := rest
		if strings.HasPrefix(rest, "{") {
			var ok bool
			if name, _, ok = strings.Cut(rest[1:], "}"); !ok {
				return fmt.Errorf(`%q: expected "}" after "${"`, replacement)
			}
		} else if end := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}); end >= 0 {
			name = rest[:end]
		}
		if !hasGroup(re, name) {
			return fmt.Errorf(`%q: the expression has no group %q ("$$" is a dollar sign, "${1}x" the group 1 before an x)`, replacement, name)
		}
	}
	return nil
}

func hasGroup(re *regexp.Regexp, name string) bool {
	if name == "" {
		return false
	}
	if re.SubexpIndex(name) >= 0 {
		return true
	}
	n := 0
	for i := range len(name) {
		if name[i] < '0' || name[i] > '9' || n > re.NumSubexp() {
			return false
		}
		n = n*10 + int(name[i]-'0')
	}
	return n <= re.NumSubexp()
}

var errDots = errors.New("the path that it is rewritten to has a dot segment")

// change returns a request's new path, escaped and clean.
func (p *pathChange) change(r *http.Request) (string, error) {
	wire := r.URL.EscapedPath()
	if wire == "*" || wire == "" { // OPTIONS and CONNECT
		return wire, nil
	}
	var plain string
	switch {
	case p.prefix:
		return p.changePrefix(wire)
	case p.text != nil:
		plain = p.text.text(r, p.escape)
	default:
		now, err := p.policy.Clean(wire)
		if err != nil {
			return "", err
		}
		plain = p.re.ReplaceAllString(now.Plain, p.substitute)
		if !strings.HasPrefix(plain, "/") {
			plain = "/" + plain
		}
	}
	if len(plain) > maxPath {
		return "", errors.New("the path that it is rewritten to is too long")
	}
	for seg := range strings.SplitSeq(plain, "/") { // dots put together of values would lead elsewhere
		if name, _, _ := strings.Cut(seg, ";"); name == "." || name == ".." {
			return "", errDots
		}
	}
	clean, err := p.policy.Clean(target.Encode(plain))
	return clean.Wire, err
}

// escape makes a value a part of a plain path.
func (p *pathChange) escape(v string, kind valueKind) string {
	switch kind {
	case plainPart:
		return v
	case wirePath:
		if c, err := p.policy.Clean(v); err == nil {
			return c.Plain
		}
	}
	return strings.NewReplacer("%", "%25", "/", "%2F").Replace(v)
}

func (p *pathChange) changePrefix(wire string) (string, error) {
	now, err := p.policy.Clean(wire)
	if err != nil {
		return "", err
	}
	rest, ok := strings.CutPrefix(now.Plain, p.from)
	if !ok || rest != "" && rest[0] != '/' {
		return now.Wire, nil
	}
	at := 0 // both forms have the same slashes
	for i := range len(now.Wire) {
		if now.Wire[i] != '/' {
			continue
		}
		if at++; at > p.segments {
			clean, err := p.policy.Clean(p.to + now.Wire[i:])
			return clean.Wire, err
		}
	}
	if p.to == "" {
		return "/", nil
	}
	return p.to, nil
}
