package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Value is one value as `npctl config show` prints it.
type Value struct {
	Path   string `json:"path"`
	Value  string `json:"value"`  // as in TOML
	Origin string `json:"origin"` // file:line:column, a variable, a flag, or "default"
}

// Values lists every value in the order of the schema. Secrets are in files
// of their own, so there is none among them.
func (c *Config) Values() []Value {
	var out []Value
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f, x := v.Type().Field(i), v.Field(i)
			p := join(path, f.Tag.Get("key"))
			own := f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == v.Type().PkgPath()
			switch {
			case !f.IsExported():
			case own:
				walk(x, p)
			case tables(f.Type, v.Type()):
				for n := range x.Len() {
					walk(x.Index(n), fmt.Sprintf("%s[%d]", p, n))
				}
			default:
				out = append(out, Value{Path: p, Value: format(x), Origin: c.origins[p].String()})
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return out
}

// tables says whether a field of struct in is an array of tables.
func tables(field, in reflect.Type) bool {
	return field.Kind() == reflect.Slice && field.Elem().Kind() == reflect.Struct && field.Elem().PkgPath() == in.PkgPath()
}

// exampleSet are the values the example states rather than mentions.
var exampleSet = map[string]string{
	"dataplane.cores":            "1",
	"dataplane.udp_echo_port":    "7",
	"dataplane.udp_discard_port": "9",
	"protocol.allow_any_peer":    "true",
}

// exampleTables are the entries of arrays of tables in the example: key,
// value pairs of each; a key that starts with # is only mentioned.
var exampleTables = map[string][][]string{
	"interface": {{"name", `"np0"`, "addresses", `["198.18.0.1/24", "2001:db8::1/64"]`, "#gateway", `["198.18.0.254"]`}},
	"route_ip":  {{"#prefix", `"203.0.113.0/24"`, "#via", `"198.18.0.253"`}},
	"listener": {
		{"name", `"npro"`, "address", `":7700"`},
		{"name", `"echo"`, "address", `":7"`, "protocol", `"echo"`},
		{"name", `"discard"`, "address", `":9"`, "protocol", `"discard"`},
		{"name", `"chargen"`, "address", `":19"`, "protocol", `"chargen"`},
	},
	"certificate": {{"#cert_file", `"/etc/np/tls/cert.pem"`, "#key_file", `"/etc/np/tls/key.pem"`}},
	"upstream":    {{"#name", `"users"`, "#endpoints", `["198.18.0.10:8080", "198.18.0.11:8080 weight=2"]`}},
	"route":       {{"#name", `"users"`, "#path_prefix", `"/users"`, "#upstream", `"users"`}},
	"auth":        {{"#name", `"staff"`, "#kind", `"basic"`, "#file", `"/etc/np/staff"`}},
	"peer":        {{"#name", `"reports"`, "#public_key", `"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="`, "#allow", `["ECHO", "INFO"]`}},
}

// Example is a commented configuration that works as it is for an interface
// np0: all keys, with their defaults behind a #.
func Example() string {
	var b strings.Builder
	b.WriteString("# npd's configuration. A value behind a # is the default.\n" +
		"# Durations \"5s\", sizes \"16MiB\"; precedence: flag > environment (NP_SECTION_KEY) > conf.d/*.toml > this file.\n" +
		"# Check with: npd check -c FILE\n")
	cfg := Config{}
	setDefaults(reflect.ValueOf(&cfg).Elem())
	root := reflect.ValueOf(cfg)
	for i := range root.NumField() {
		f := root.Type().Field(i)
		key := f.Tag.Get("key")
		switch {
		case key == "":
		case f.Type.Kind() == reflect.Struct:
			fmt.Fprintf(&b, "\n# %s\n[%s]\n", f.Tag.Get("doc"), key)
			exampleSection(&b, root.Field(i), key, "")
		default:
			exampleEntries(&b, f, key)
		}
	}
	return b.String()
}

func exampleSection(b *strings.Builder, v reflect.Value, path, prefix string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		p := join(path, f.Tag.Get("key"))
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == v.Type().PkgPath() {
			exampleSection(b, v.Field(i), p, prefix+f.Tag.Get("key")+".")
			continue
		}
		line := "#" + prefix + f.Tag.Get("key") + " = " + format(v.Field(i))
		if set, ok := exampleSet[p]; ok {
			line = prefix + f.Tag.Get("key") + " = " + set
		}
		b.WriteString(line + remark(f.Tag, line) + "\n")
	}
}

func remark(tag reflect.StructTag, line string) string {
	doc := tag.Get("doc")
	if words := tag.Get("oneof"); words != "" && !strings.HasPrefix(doc, strings.SplitN(words, "|", 2)[0]+" ") {
		doc = strings.TrimSuffix(strings.ReplaceAll(words, "|", ", ")+"; "+doc, "; ")
	}
	if doc == "" {
		return ""
	}
	return strings.Repeat(" ", max(1, 40-len(line))) + "# " + doc
}

// exampleEntries writes an array of tables: the keys each entry states, and in
// the first entry the others as remarks.
func exampleEntries(b *strings.Builder, f reflect.StructField, key string) {
	def := reflect.New(f.Type.Elem()).Elem()
	setDefaults(def)
	for n, entry := range exampleTables[key] {
		off := ""
		if strings.HasPrefix(entry[0], "#") {
			off = "#"
		}
		if n == 0 {
			fmt.Fprintf(b, "\n# %s\n", f.Tag.Get("doc"))
		} else {
			b.WriteString("\n")
		}
		fmt.Fprintf(b, "%s[[%s]]\n", off, key)
		stated := map[string]string{}
		for i := 0; i < len(entry); i += 2 {
			stated[strings.TrimPrefix(entry[i], "#")] = entry[i] + " = " + entry[i+1]
		}
		exampleFields(b, def, "", stated, n == 0)
	}
}

// exampleFields writes the keys of an entry: those stated, and with remarks all.
func exampleFields(b *strings.Builder, v reflect.Value, prefix string, stated map[string]string, all bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := prefix + f.Tag.Get("key")
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == v.Type().PkgPath() {
			exampleFields(b, v.Field(i), key+".", stated, all)
			continue
		}
		if tables(f.Type, v.Type()) {
			continue // README.md tells of them
		}
		line, ok := stated[key]
		if !ok {
			if !all {
				continue
			}
			line = "#" + key + " = " + format(v.Field(i))
		}
		b.WriteString(line)
		if all {
			b.WriteString(remark(f.Tag, line))
		}
		b.WriteString("\n")
	}
}
