package config

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write README.md again")

// reference is the table of every key, from the schema itself.
func reference() string {
	var b strings.Builder
	cfg := Config{}
	setDefaults(reflect.ValueOf(&cfg).Elem())
	root := reflect.ValueOf(cfg)
	for i := range root.NumField() {
		f := root.Type().Field(i)
		key := f.Tag.Get("key")
		if key == "" {
			continue
		}
		v, head := root.Field(i), "["+key+"]"
		if f.Type.Kind() == reflect.Slice {
			v, head = reflect.New(f.Type.Elem()).Elem(), "[["+key+"]]"
			setDefaults(v)
		}
		fmt.Fprintf(&b, "### `%s`\n\n%s.\n\n| key | default | |\n|---|---|---|\n", head, sentence(f.Tag.Get("doc")))
		rows(&b, v, "")
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func rows(b *strings.Builder, v reflect.Value, prefix string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := prefix + f.Tag.Get("key")
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == v.Type().PkgPath() {
			rows(b, v.Field(i), name+".")
			continue
		}
		if tables(f.Type, v.Type()) {
			one := reflect.New(f.Type.Elem()).Elem()
			setDefaults(one)
			rows(b, one, name+"[].")
			continue
		}
		def := "`" + format(v.Field(i)) + "`"
		if f.Tag.Get("need") != "" {
			def = "required"
		}
		doc := f.Tag.Get("doc")
		if words := f.Tag.Get("oneof"); words != "" {
			doc = strings.TrimSuffix("one of `"+strings.ReplaceAll(words, "|", "`, `")+"`; "+doc, "; ")
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, def, doc)
	}
}

const mark = "<!-- the rest is made by go test ./ctrl/config -run TestReadme -update -->\n"

// TestReadme keeps the table of keys in README.md true.
func TestReadme(t *testing.T) {
	old, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(old), mark)
	if !ok {
		t.Fatal("README.md has lost its mark")
	}
	want := head + mark + "\n" + reference()
	if *update {
		if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(old) != want {
		t.Error("README.md is not what the schema says: go test ./ctrl/config -run TestReadme -update")
	}
}
