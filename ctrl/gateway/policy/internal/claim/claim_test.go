package claim

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	var m map[string]any
	if err := json.Unmarshal([]byte(`{"sub":"a","realm":{"roles":["x",1,true,{}],"a.b":{"c":2.5}},"https://ex.am/ten.ant":"t","n":1e3,"big":9007199254740993}`), &m); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"sub":                   {"a"},
		"realm.roles":           {"x", "1", "true"},
		"realm.a.b.c":           {"2.5"},
		"https://ex.am/ten.ant": {"t"},
		"n":                     {"1000"},
		"realm":                 nil,
		"big":                   nil,
		"sub.more":              nil,
		"":                      nil,
		"..":                    nil,
	} {
		v, _ := Lookup(m, path)
		if got := Strings(v); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, expected %q", path, got, want)
		}
	}
}

func TestLookupDepth(t *testing.T) {
	m := map[string]any{"a": "leaf"}
	for range 40 {
		m = map[string]any{"a": m}
	}
	if _, ok := Lookup(m, strings.Repeat("a.", 40)+"a"); ok {
		t.Error("found below the bound")
	}
	if _, ok := Lookup(m, strings.Repeat("a.", 10)+"a"); !ok {
		t.Error("not found above the bound")
	}
}
