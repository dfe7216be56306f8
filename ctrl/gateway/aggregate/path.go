package aggregate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Kinds of what a path's template is made of.
const (
	litText = iota
	litVar
	litQuery
	litHeader
	litPart
)

// piece is some text of a path, or what stands in braces.
type piece struct {
	kind     int
	text     string // text, or the name
	pointer  []string
	inQuery  bool
	optional bool
}

// Bounds of templates and of what comes into them.
const (
	maxPath  = 2048
	maxValue = 1024
)

// parsePath reads a path's template. parts are the names of all parts.
func parsePath(s string, parts map[string]int) ([]piece, error) {
	if !strings.HasPrefix(s, "/") || len(s) > maxPath {
		return nil, fmt.Errorf("expected a slash first, and at most %d bytes", maxPath)
	}
	var out []piece
	inQuery := false
	for s != "" { // bound: each turn takes at least a byte
		open := strings.IndexByte(s, '{')
		text := s
		if open >= 0 {
			text = s[:open]
		}
		if strings.ContainsAny(text, "}#\\ \x7f") || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("%q: a closing brace, space, fragment or control that does not belong there", text)
		}
		inQuery = inQuery || strings.Contains(text, "?")
		if text != "" {
			out = append(out, piece{kind: litText, text: text})
		}
		if open < 0 {
			break
		}
		end := strings.IndexByte(s, '}')
		if end < open {
			return nil, errors.New("a brace that is not closed")
		}
		p, err := parsePiece(s[open+1:end], inQuery, parts)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
		s = s[end+1:]
	}
	return out, nil
}

func parsePiece(s string, inQuery bool, parts map[string]int) (piece, error) {
	p := piece{inQuery: inQuery}
	name, optional := strings.CutSuffix(s, "?")
	if p.optional = optional; optional && !inQuery {
		return p, fmt.Errorf("{%s}: only a value of the query may be missing", s)
	}
	if rest, ok := strings.CutPrefix(name, "query."); ok {
		p.kind, p.text = litQuery, rest
	} else if rest, ok := strings.CutPrefix(name, "header."); ok {
		p.kind, p.text = litHeader, http.CanonicalHeaderKey(rest)
	} else if part, pointer, ok := strings.Cut(name, "/"); ok {
		if _, known := parts[part]; !known {
			return p, fmt.Errorf("{%s}: there is no part %q", s, part)
		}
		var err error
		p.kind, p.text = litPart, part
		if p.pointer, err = parsePointer("/" + pointer); err != nil {
			return p, fmt.Errorf("{%s}: %w", s, err)
		}
	} else {
		p.kind, p.text = litVar, name
	}
	if p.text == "" || strings.ContainsAny(p.text, "{} ") {
		return p, fmt.Errorf("{%s}: expected a variable, query.NAME, header.NAME or PART/POINTER", s)
	}
	return p, nil
}

// parsePointer reads a JSON pointer (RFC 6901 §3); "" is the whole.
func parsePointer(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return nil, fmt.Errorf("JSON pointer %q does not begin with a slash", s)
	}
	out := strings.Split(rest, "/")
	if len(out) > maxDepth {
		return nil, fmt.Errorf("JSON pointer of more than %d names", maxDepth)
	}
	for i, name := range out {
		for j := range len(name) {
			if name[j] == '~' && (j+1 == len(name) || name[j+1] != '0' && name[j+1] != '1') {
				return nil, fmt.Errorf("JSON pointer %q: ~ is not followed by 0 or 1", s)
			}
		}
		out[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
	}
	return out, nil
}

// errMissing: a value that a path needs is not there, or can't stand there.
var errMissing = errors.New("a value of the path is missing")

// expand makes the path of a part. results has the parts it depends on.
func expand(pieces []piece, r *http.Request, x *exchange.Exchange, results func(string) json.RawMessage) (string, error) {
	var b strings.Builder
	query := r.URL.Query()
	for _, p := range pieces {
		if p.kind == litText {
			b.WriteString(p.text)
			continue
		}
		value, ok := p.value(r, query, x, results)
		switch {
		case !ok && p.optional:
		case !ok || value == "" && !p.inQuery:
			return "", fmt.Errorf("%w: %s", errMissing, p.text)
		case len(value) > maxValue:
			return "", fmt.Errorf("%w: %s has more than %d bytes", errMissing, p.text, maxValue)
		}
		if p.inQuery {
			b.WriteString(url.QueryEscape(value))
			continue
		}
		if strings.Trim(value, ".") == "" {
			return "", fmt.Errorf("%w: %s is %q", errMissing, p.text, value)
		}
		b.WriteString(url.PathEscape(value))
	}
	return b.String(), nil
}

// plainVar decodes what variables of routes keep escaped.
var plainVar = strings.NewReplacer("%2F", "/", "%25", "%")

func (p *piece) value(r *http.Request, query url.Values, x *exchange.Exchange, results func(string) json.RawMessage) (string, bool) {
	switch p.kind {
	case litVar:
		v, ok := x.Var(p.text)
		return plainVar.Replace(v), ok
	case litQuery:
		return query.Get(p.text), query.Has(p.text)
	case litHeader:
		return r.Header.Get(p.text), len(r.Header.Values(p.text)) > 0
	}
	raw, ok := follow(results(p.text), p.pointer)
	if !ok || len(raw) == 0 {
		return "", false
	}
	switch raw[0] {
	case '{', '[', 'n':
		return "", false
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err == nil
	}
	return string(raw), true
}
