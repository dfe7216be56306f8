package claim

import (
	"math"
	"strconv"
	"strings"
)

// maxDepth bounds how deep a path goes.
const maxDepth = 16

// Lookup returns the member that path names: names with dots between them, such as
// "realm_access.roles". A name that has dots itself, as namespaced claims have, is found
// as it is: at each level the longest name counts that is there.
func Lookup(claims map[string]any, path string) (any, bool) { return lookup(claims, path, maxDepth) }

func lookup(m map[string]any, path string, depth int) (any, bool) {
	if v, ok := m[path]; ok {
		return v, true
	}
	if depth == 0 {
		return nil, false
	}
	for end := strings.LastIndexByte(path, '.'); end > 0; end = strings.LastIndexByte(path[:end], '.') { // bound: dots of a configured path
		if inner, ok := m[path[:end]].(map[string]any); ok {
			if v, ok := lookup(inner, path[end+1:], depth-1); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// maxValues bounds the values of one list that are looked at.
const maxValues = 1024

// Strings returns a claim's values as text: of a string, a number or a boolean the one, of
// a list each that is one of these. Anything else has none.
func Strings(v any) []string {
	if list, ok := v.([]any); ok {
		out := make([]string, 0, min(len(list), maxValues))
		for _, e := range list[:min(len(list), maxValues)] {
			if s, ok := Text(e); ok {
				out = append(out, s)
			}
		}
		return out
	}
	if s, ok := Text(v); ok {
		return []string{s}
	}
	return nil
}

// Text writes a string, a number or a boolean down; integers as integers. Numbers of 2^53
// and more have no text.
func Text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		if math.Abs(v) >= 1<<53 {
			return "", false // several integers are this number: it names nobody
		}
		if v == math.Trunc(v) {
			return strconv.FormatInt(int64(v), 10), true
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	}
	return "", false
}
