package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// ValueChange is one value that two configurations have differently.
type ValueChange struct {
	Key     string // entries of arrays of tables by their name: upstream[users].balance
	Old     string // as in TOML; "": there was none
	New     string // "": there is none any more
	Restart bool   // a running npd can't take it over
}

// keyed is one value with its key.
type keyed struct{ key, value string }

// Changes lists what differs, in the order of the schema. Of an entry that only one of
// the two has, what is not the default is listed.
func Changes(old, next *Config) []ValueChange {
	was, is := named(old), named(next)
	before := make(map[string]string, len(was))
	for _, k := range was {
		before[k.key] = k.value
	}
	after := make(map[string]string, len(is))
	restart := Diff(old, next).Restart
	var out []ValueChange
	for _, k := range is {
		after[k.key] = k.value
		if o, ok := before[k.key]; !ok || o != k.value {
			out = append(out, ValueChange{Key: k.key, Old: o, New: k.value, Restart: needsRestart(restart, k.key)})
		}
	}
	for _, k := range was {
		if _, ok := after[k.key]; !ok {
			out = append(out, ValueChange{Key: k.key, Old: k.value, Restart: needsRestart(restart, k.key)})
		}
	}
	return out
}

// needsRestart looks a key up in what Diff says: paths, or "interface np0" and "interface np0 mtu".
func needsRestart(restart []string, key string) bool {
	return slices.ContainsFunc(restart, func(r string) bool {
		rest, ok := strings.CutPrefix(r, "interface ")
		if !ok {
			return r == key
		}
		name, of, one := strings.Cut(rest, " ")
		at := "interface[" + name + "]"
		if one {
			return key == at+"."+of
		}
		return strings.HasPrefix(key, at+".")
	})
}

// named lists a configuration's values, without the defaults of entries of arrays of tables.
func named(c *Config) []keyed {
	var out []keyed
	var walk func(v, def reflect.Value, path string)
	walk = func(v, def reflect.Value, path string) {
		for i := range v.NumField() {
			f, x := v.Type().Field(i), v.Field(i)
			p := join(path, f.Tag.Get("key"))
			switch {
			case !f.IsExported():
			case f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == v.Type().PkgPath():
				var d reflect.Value
				if def.IsValid() {
					d = def.Field(i)
				}
				walk(x, d, p)
			case tables(f.Type, v.Type()):
				d := reflect.New(f.Type.Elem()).Elem()
				setDefaults(d)
				var order []string
				seen := map[string]int{}
				for n := range x.Len() {
					name := entryName(x.Index(n), n)
					if seen[name]++; seen[name] > 1 {
						name = fmt.Sprintf("%s#%d", name, seen[name])
					}
					order = append(order, name)
					walk(x.Index(n), d, fmt.Sprintf("%s[%s]", p, name))
				}
				if len(order) > 0 {
					out = append(out, keyed{p, strings.Join(order, ", ")})
				}
			default:
				if text := format(x); !def.IsValid() || text != format(def.Field(i)) {
					out = append(out, keyed{p, text})
				}
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), reflect.Value{}, "")
	return out
}

// entryName is what an entry is called by: its name, or what else tells it from others.
func entryName(v reflect.Value, n int) string {
	if it, ok := v.Interface().(Interface); ok {
		return it.Label()
	}
	for i := range v.NumField() {
		switch v.Type().Field(i).Tag.Get("key") {
		case "name", "cert_file", "prefix":
			if s := fmt.Sprint(v.Field(i).Interface()); s != "" {
				return s
			}
		}
	}
	return fmt.Sprint(n)
}

// Entry lists what the entry of an array of tables says beyond the defaults, its keys
// without the entry's own: section is "route", i the entry.
func (c *Config) Entry(section string, i int) []Value {
	root := reflect.ValueOf(c).Elem()
	at, ok := fields(root.Type())[section]
	if !ok || root.Field(at).Kind() != reflect.Slice || i < 0 || i >= root.Field(at).Len() {
		return nil
	}
	prefix := fmt.Sprintf("%s[%s].", section, entryName(root.Field(at).Index(i), i))
	var out []Value
	for _, k := range named(c) {
		if key, ok := strings.CutPrefix(k.key, prefix); ok {
			out = append(out, Value{Path: key, Value: k.value, Origin: c.Pos(fmt.Sprintf("%s[%d].%s", section, i, key)).String()})
		}
	}
	return out
}
