package aggregate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// maxDepth bounds the nesting of an answer, and how far a pointer goes.
const maxDepth = 64

var (
	errNoJSON = errors.New("the answer is not JSON")
	errDeep   = fmt.Errorf("the answer nests deeper than %d", maxDepth)
)

// checkJSON takes one JSON value that does not nest deeper than depth, and leaves its
// spaces out.
func checkJSON(raw []byte, depth int) (json.RawMessage, error) {
	deep, inside := 0, false
	for i := 0; i < len(raw); i++ { // bound: the body's limit
		switch c := raw[i]; {
		case inside && c == '\\':
			i++
		case c == '"':
			inside = !inside
		case inside:
		case c == '{' || c == '[':
			if deep++; deep > depth {
				return nil, errDeep
			}
		case c == '}' || c == ']':
			deep--
		}
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil || b.Len() == 0 {
		return nil, errNoJSON
	}
	return b.Bytes(), nil
}

// follow finds what a JSON pointer points to in a compact value.
func follow(raw json.RawMessage, pointer []string) (json.RawMessage, bool) {
	for _, name := range pointer {
		if len(raw) == 0 {
			return nil, false
		}
		switch raw[0] {
		case '{':
			var m map[string]json.RawMessage
			if json.Unmarshal(raw, &m) != nil {
				return nil, false
			}
			next, ok := m[name]
			if !ok {
				return nil, false
			}
			raw = next
		case '[':
			i, err := strconv.ParseUint(name, 10, 31)
			if err != nil || len(name) > 1 && name[0] == '0' || name[0] == '+' {
				return nil, false
			}
			var list []json.RawMessage
			if json.Unmarshal(raw, &list) != nil || i >= uint64(len(list)) {
				return nil, false
			}
			raw = list[i]
		default:
			return nil, false
		}
	}
	return raw, len(raw) > 0
}

// tree is the object to come: each key is a field or another tree, in the order of the
// configuration.
type tree struct {
	keys []string
	sub  map[string]*tree
	leaf map[string]int // index of the field
}

// plant puts a field into the tree; false: the key is taken.
func (t *tree) plant(key []string, field int) bool {
	for i, name := range key {
		_, isLeaf := t.leaf[name]
		next := t.sub[name]
		last := i == len(key)-1
		if isLeaf || last && next != nil {
			return false
		}
		if next == nil {
			t.keys = append(t.keys, name)
		}
		if last {
			if t.leaf == nil {
				t.leaf = map[string]int{}
			}
			t.leaf[name] = field
			return true
		}
		if next == nil {
			next = &tree{}
			if t.sub == nil {
				t.sub = map[string]*tree{}
			}
			t.sub[name] = next
		}
		t = next
	}
	return false
}

// write writes the object. values are the fields'. Its depth is that of the keys.
func (t *tree) write(b *bytes.Buffer, values []json.RawMessage) {
	b.WriteByte('{')
	for i, name := range t.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		key, _ := json.Marshal(name) // a string: it can't fail
		b.Write(key)
		b.WriteByte(':')
		if sub := t.sub[name]; sub != nil {
			sub.write(b, values)
		} else {
			b.Write(values[t.leaf[name]])
		}
	}
	b.WriteByte('}')
}
