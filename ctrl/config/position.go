package config

import (
	"fmt"
	"sort"
	"strings"
)

// Pos is where a value was written. The zero Pos is a default.
type Pos struct {
	Kind      Kind
	Source    string // file, environment variable or flag
	Line, Col int    // of files, from 1; columns count bytes
}

// Kind of a source, in rising precedence.
type Kind uint8

// Sources of values.
const (
	Default Kind = iota
	File
	Environment
	Flag
)

// String gives file:line:column, or the variable's or flag's name.
func (p Pos) String() string {
	switch p.Kind {
	case File:
		if p.Line == 0 {
			return p.Source
		}
		return fmt.Sprintf("%s:%d:%d", p.Source, p.Line, p.Col)
	case Environment:
		return "environment " + p.Source
	case Flag:
		return "flag " + p.Source
	}
	return "default"
}

// parent cuts the last component off a path: a.b[1] -> a.b -> a.
func parent(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// scanner finds where the keys and values of a TOML document stand. The
// document has passed the parser before, so the scanner only has to find its
// way: on anything unexpected it stops, and the rest has no position.
type scanner struct {
	text   string
	i      int
	lines  []int // offset of each line
	depth  int
	keys   map[string]int // path -> offset of the key or header
	values map[string]int // path -> offset of the value
	count  map[string]int // arrays of tables: elements so far
}

// scanDepth bounds the nesting that is followed.
const scanDepth = 64

func scan(text string) *scanner {
	s := newScanner(text)
	s.document()
	return s
}

func newScanner(text string) *scanner {
	s := &scanner{text: text, keys: map[string]int{}, values: map[string]int{}, count: map[string]int{}, lines: []int{0}}
	for i := range len(text) {
		if text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// at turns an offset into a position.
func (s *scanner) at(file string, off int) Pos {
	line := sort.SearchInts(s.lines, off+1) // first line that begins behind off
	return Pos{Kind: File, Source: file, Line: line, Col: off - s.lines[line-1] + 1}
}

func (s *scanner) peek() byte {
	if s.i < len(s.text) {
		return s.text[s.i]
	}
	return 0
}

// space skips blanks, and with lines newlines and comments too.
func (s *scanner) space(lines bool) {
	for s.i < len(s.text) {
		switch c := s.text[s.i]; {
		case c == ' ' || c == '\t' || c == '\r':
			s.i++
		case lines && c == '\n':
			s.i++
		case lines && c == '#':
			s.i += len(s.text[s.i:]) - len(strings.TrimLeftFunc(s.text[s.i:], func(r rune) bool { return r != '\n' }))
		default:
			return
		}
	}
}

func (s *scanner) document() {
	if strings.HasPrefix(s.text, "\ufeff") {
		s.i = len("\ufeff")
	}
	table := ""
	for {
		s.space(true)
		if s.i >= len(s.text) {
			return
		}
		if s.peek() != '[' {
			if !s.pair(table) {
				return
			}
			continue
		}
		start := s.i
		double := strings.HasPrefix(s.text[s.i:], "[[")
		s.i++
		if double {
			s.i++
		}
		parts, ok := s.key()
		if !ok {
			return
		}
		table = s.resolve(parts, double)
		if _, seen := s.keys[table]; !seen {
			s.keys[table] = start
		}
		for s.peek() == ']' || s.peek() == ' ' {
			s.i++
		}
	}
}

// resolve makes a header's parts a path with the indices of arrays of tables.
func (s *scanner) resolve(parts []string, double bool) string {
	path := ""
	for n, p := range parts {
		path = join(path, p)
		if double && n == len(parts)-1 {
			s.count[path]++
		}
		if c := s.count[path]; c > 0 {
			path = fmt.Sprintf("%s[%d]", path, c-1)
		}
	}
	return path
}

// key reads a dotted key.
func (s *scanner) key() ([]string, bool) {
	var parts []string
	for {
		s.space(false)
		start := s.i
		switch c := s.peek(); {
		case c == '"' || c == '\'':
			if !s.str() {
				return nil, false
			}
			parts = append(parts, s.text[start+1:max(start+1, s.i-1)])
		default:
			for s.i < len(s.text) && isBare(s.text[s.i]) {
				s.i++
			}
			if s.i == start {
				return nil, false
			}
			parts = append(parts, s.text[start:s.i])
		}
		s.space(false)
		if s.peek() != '.' {
			return parts, true
		}
		if len(parts) == scanDepth {
			return nil, false
		}
		s.i++
	}
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c >= 0x80
}

// pair reads key = value.
func (s *scanner) pair(table string) bool {
	start := s.i
	parts, ok := s.key()
	if !ok || s.peek() != '=' {
		return false
	}
	s.i++
	path := table
	for _, p := range parts {
		path = join(path, p)
		if _, seen := s.keys[path]; !seen {
			s.keys[path] = start
		}
	}
	s.space(false)
	return s.value(path)
}

func (s *scanner) value(path string) bool {
	s.depth++
	defer func() { s.depth-- }()
	if s.depth > scanDepth {
		return false
	}
	s.values[path] = s.i
	switch s.peek() {
	case '"', '\'':
		return s.str()
	case '[':
		return s.list(']', func(n int) bool { return s.value(fmt.Sprintf("%s[%d]", path, n)) })
	case '{':
		return s.list('}', func(int) bool { return s.pair(path) })
	}
	start := s.i
	for s.i < len(s.text) && !strings.ContainsRune(",]}#\n", rune(s.text[s.i])) {
		s.i++
	}
	return s.i > start
}

// list reads what stands between a bracket and its end, separated by commas.
func (s *scanner) list(end byte, item func(int) bool) bool {
	s.i++
	for n := 0; ; n++ {
		s.space(true)
		if s.peek() == end {
			s.i++
			return true
		}
		if !item(n) {
			return false
		}
		s.space(true)
		if s.peek() == ',' {
			s.i++
		} else if s.peek() != end {
			return false
		}
	}
}

// str skips a string in any of the four forms.
func (s *scanner) str() bool {
	q := s.text[s.i : s.i+1]
	long := strings.Repeat(q, 3)
	end := q
	if strings.HasPrefix(s.text[s.i:], long) {
		end = long
	}
	for s.i += len(end); s.i < len(s.text); s.i++ {
		if q == `"` && s.text[s.i] == '\\' {
			s.i++
			continue
		}
		if strings.HasPrefix(s.text[s.i:], end) {
			s.i += len(end)
			// a multi-line string may end in one or two quotes of its own
			for len(end) == 3 && s.i < len(s.text) && s.text[s.i] == q[0] {
				s.i++
			}
			return true
		}
	}
	return false
}
