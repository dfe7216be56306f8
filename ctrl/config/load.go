package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// Source is one configuration file.
type Source struct {
	Name string
	Data []byte
}

// Setting is a value given by a flag.
type Setting struct {
	Flag  string // as the user typed it, such as "--log-level"
	Path  string // such as "logging.log_level"
	Value string
}

// Input is all that a configuration is made of.
type Input struct {
	Files []Source // the main file, then conf.d in order; later ones win
	Env   []string // KEY=VALUE; NP_SECTION_KEY and NETWORK_PROTOCOL_SECTION_KEY count
	Flags []Setting
}

// Error is one thing wrong, with its place.
type Error struct {
	Pos  Pos
	What string // what is wrong, what was expected
}

// Error gives "place: what is wrong, what was expected" on one line.
func (e *Error) Error() string { return e.Pos.String() + ": " + e.What }

// Errors are all that is wrong with a configuration, in reading order.
type Errors []*Error

// Error joins the errors, one a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// maxFile bounds one file; a configuration is kilobytes.
const maxFile = 4 << 20

// maxErrors bounds what is reported; the rest follows from these anyway.
const maxErrors = 100

// Load makes a configuration. The error, when not nil, is an [Errors] with
// everything that is wrong.
func Load(in Input) (*Config, error) {
	l := &loader{cfg: &Config{origins: map[string]Pos{}, places: map[string]Pos{}}}
	setDefaults(reflect.ValueOf(l.cfg).Elem())
	if len(in.Files) > 0 {
		l.cfg.main = in.Files[0]
	}
	for _, f := range in.Files {
		l.file(f)
	}
	l.environment(in.Env)
	for _, s := range in.Flags {
		l.text(Pos{Kind: Flag, Source: s.Flag}, s.Path, s.Value)
	}
	l.needed()
	if len(l.errs) == 0 {
		l.validate()
	}
	if len(l.errs) == 0 {
		return l.cfg, nil
	}
	sort.SliceStable(l.errs, func(i, j int) bool {
		a, b := l.errs[i].Pos, l.errs[j].Pos
		return a.Kind == File && b.Kind == File && a.Source == b.Source &&
			(a.Line < b.Line || a.Line == b.Line && a.Col < b.Col)
	})
	return nil, Errors(l.errs[:min(len(l.errs), maxErrors)])
}

type loader struct {
	cfg  *Config
	errs []*Error
	// of the file being read
	name string
	scan *scanner
	base map[string]int // arrays of tables: entries that earlier files made
}

func (l *loader) fail(at Pos, format string, args ...any) {
	l.errs = append(l.errs, &Error{Pos: at, What: fmt.Sprintf(format, args...)})
}

// later are sections that the product has and this version does not.
var later = [...]string{"cluster"}

func (l *loader) file(f Source) {
	l.name = f.Name
	if len(f.Data) > maxFile {
		l.fail(Pos{Kind: File, Source: f.Name, Line: 1, Col: 1}, "file of %d bytes, expected at most %d", len(f.Data), maxFile)
		return
	}
	text := string(f.Data)
	var doc map[string]any
	if _, err := toml.Decode(text, &doc); err != nil {
		at := Pos{Kind: File, Source: f.Name, Line: 1, Col: 1}
		what := err.Error()
		var pe toml.ParseError
		if errors.As(err, &pe) {
			// its line and column are off by one at line ends; the offset is right
			at = newScanner(text).at(f.Name, min(max(pe.Position.Start, 0), len(text)))
			what = strings.TrimSuffix(oneLine(pe.Message), ".")
		}
		l.fail(at, "not TOML: %s, expected sections of `key = value` lines", what)
		return
	}
	l.scan = scan(text)
	root := reflect.ValueOf(l.cfg).Elem()
	l.base = map[string]int{}
	for i := range root.NumField() {
		if root.Type().Field(i).IsExported() && root.Field(i).Kind() == reflect.Slice {
			l.base[root.Type().Field(i).Tag.Get("key")] = root.Field(i).Len()
		}
	}
	l.table("", doc, root)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// place is where a key stands in the file; value picks the value's place.
func (l *loader) place(path string, value bool) Pos {
	for p := path; p != ""; p = parent(p) {
		if off, ok := l.scan.values[p]; ok && value {
			return l.scan.at(l.name, off)
		}
		for _, k := range [...]string{p, p + "[0]"} { // an array of tables stands where its first one does
			if off, ok := l.scan.keys[k]; ok {
				return l.scan.at(l.name, off)
			}
		}
	}
	return Pos{Kind: File, Source: l.name, Line: 1, Col: 1}
}

// final turns a path of the file into one of the configuration: arrays of
// tables go on where the file before ended.
func (l *loader) final(path string) string {
	head, rest, ok := strings.Cut(path, "[")
	if n := l.base[head]; ok && n > 0 {
		num, tail, _ := strings.Cut(rest, "]")
		if i, err := strconv.Atoi(num); err == nil {
			return fmt.Sprintf("%s[%d]%s", head, i+n, tail)
		}
	}
	return path
}

// fields maps the keys of a struct.
func fields(t reflect.Type) map[string]int {
	m := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if k := t.Field(i).Tag.Get("key"); k != "" {
			m[k] = i
		}
	}
	return m
}

func names(m map[string]int) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (l *loader) table(path string, doc map[string]any, out reflect.Value) {
	known := fields(out.Type())
	keys := make([]string, 0, len(doc))
	for k := range doc {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		p := join(path, k)
		i, ok := known[k]
		if !ok {
			l.unknown(p, k, path, names(known))
			continue
		}
		f := out.Type().Field(i)
		l.cfg.places[l.final(p)] = l.place(p, false)
		l.field(p, doc[k], out.Field(i), f.Tag)
	}
}

func (l *loader) unknown(p, k, path string, known []string) {
	at := l.place(p, false)
	if path == "" && slices.Contains(later[:], k) {
		l.fail(at, "this version has no section [%s], expected it left out", k)
		return
	}
	what, in := "key", "["+path+"]"
	if path == "" {
		what, in = "section", "the file"
	}
	hint := "expected one of " + strings.Join(known, ", ")
	if n := nearest(k, known); n != "" {
		hint = fmt.Sprintf("expected a known one (did you mean %q?)", n)
	}
	l.fail(at, "unknown %s %q in %s, %s", what, k, in, hint)
}

func (l *loader) field(p string, v any, out reflect.Value, tag reflect.StructTag) {
	switch {
	case out.Type() == reflect.TypeFor[CPUs]():
		c, err := parseCPUs(v, false)
		if err != nil {
			l.fail(l.place(p, true), "%s: %v", p, err)
			return
		}
		out.Set(reflect.ValueOf(c))
	case tables(out.Type(), reflect.TypeFor[Config]()):
		l.tables(p, v, out)
		return
	case out.Kind() == reflect.Slice:
		if !l.list(p, v, out, tag) {
			return
		}
	case out.Kind() == reflect.Struct && out.Type().PkgPath() == reflect.TypeFor[Config]().PkgPath():
		m, ok := v.(map[string]any)
		if !ok {
			l.fail(l.place(p, true), "%s: got %s, expected a table [%s]", p, describe(v), p)
			return
		}
		l.table(p, m, out)
		return
	default:
		if err := setScalar(out, v, false); err != nil {
			l.fail(l.place(p, true), "%s: %v", p, err)
			return
		}
		if err := checkRange(out, tag); err != nil {
			l.fail(l.place(p, true), "%s: %v", p, err)
			return
		}
	}
	l.cfg.origins[l.final(p)] = l.place(p, true)
}

// tables reads an array of tables, appending to what earlier files gave.
func (l *loader) tables(p string, v any, out reflect.Value) {
	list, ok := v.([]map[string]any)
	if !ok {
		l.fail(l.place(p, true), "%s: got %s, expected [[%s]]", p, describe(v), p)
		return
	}
	for i, m := range list {
		e := reflect.New(out.Type().Elem()).Elem()
		setDefaults(e)
		at := fmt.Sprintf("%s[%d]", p, i)
		l.cfg.places[l.final(at)] = l.place(at, false)
		l.table(at, m, e)
		out.Set(reflect.Append(out, e))
	}
}

// list reads a list; a single value stands for a list of one.
func (l *loader) list(p string, v any, out reflect.Value, tag reflect.StructTag) bool {
	items, ok := v.([]any)
	if !ok {
		items = []any{v}
	}
	s := reflect.MakeSlice(out.Type(), 0, len(items))
	good := true
	for i, item := range items {
		e := reflect.New(out.Type().Elem()).Elem()
		err := setScalar(e, item, false)
		if err == nil {
			err = checkRange(e, tag)
		}
		if err != nil {
			at := p
			if ok {
				at = fmt.Sprintf("%s[%d]", p, i)
			}
			l.fail(l.place(at, true), "%s: %v", p, err)
			good = false
			continue
		}
		l.cfg.places[fmt.Sprintf("%s[%d]", l.final(p), i)] = l.place(fmt.Sprintf("%s[%d]", p, i), true)
		s = reflect.Append(s, e)
	}
	if good {
		out.Set(s)
	}
	return good
}

// text sets a plain value from the environment or a flag.
func (l *loader) text(at Pos, path, value string) {
	out := reflect.ValueOf(l.cfg).Elem()
	var tag reflect.StructTag
	for _, k := range strings.Split(path, ".") {
		i, ok := fields(out.Type())[k]
		if !ok {
			l.fail(at, "sets unknown key %s, expected a key of the configuration", path)
			return
		}
		tag = out.Type().Field(i).Tag
		out = out.Field(i)
	}
	if err := setText(out, tag, value); err != nil {
		l.fail(at, "%s: %v", path, err)
		return
	}
	l.cfg.origins[path] = at
	l.cfg.places[path] = at
}

func setText(out reflect.Value, tag reflect.StructTag, value string) error {
	if out.Type() == reflect.TypeFor[CPUs]() {
		c, err := parseCPUs(value, true)
		if err == nil {
			out.Set(reflect.ValueOf(c))
		}
		return err
	}
	if out.Kind() != reflect.Slice {
		if err := setScalar(out, value, true); err != nil {
			return err
		}
		return checkRange(out, tag)
	}
	s := reflect.MakeSlice(out.Type(), 0, 1)
	for _, f := range strings.Split(value, ",") {
		if f = strings.TrimSpace(f); f == "" {
			continue
		}
		e := reflect.New(out.Type().Elem()).Elem()
		if err := setScalar(e, f, true); err != nil {
			return err
		}
		if err := checkRange(e, tag); err != nil {
			return err
		}
		s = reflect.Append(s, e)
	}
	out.Set(s)
	return nil
}

// prefixes of environment variables; the shorter one wins where both are set.
var prefixes = [...]string{"NETWORK_PROTOCOL_", "NP_"}

func (l *loader) environment(env []string) {
	paths := map[string]string{} // SECTION_KEY -> path
	sections := map[string]bool{}
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for i := range t.NumField() {
			f := t.Field(i)
			k := f.Tag.Get("key")
			switch {
			case k == "":
			case f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == t.PkgPath():
				if path == "" {
					sections[strings.ToUpper(k)] = true
				}
				walk(f.Type, join(path, k))
			case path != "":
				p := join(path, k)
				paths[strings.ToUpper(strings.ReplaceAll(p, ".", "_"))] = p
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	for _, prefix := range prefixes {
		for _, kv := range env {
			name, value, _ := strings.Cut(kv, "=")
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			section, _, _ := strings.Cut(rest, "_")
			at := Pos{Kind: Environment, Source: name}
			if p, ok := paths[rest]; ok {
				l.text(at, p, value)
			} else if sections[section] {
				// other NP_ variables are somebody else's; a section's name makes it ours
				all := make([]string, 0, len(paths))
				for k := range paths {
					all = append(all, k)
				}
				slices.Sort(all)
				hint := ""
				if n := nearest(rest, all); n != "" {
					hint = fmt.Sprintf(" (did you mean %q?)", prefix+n)
				}
				l.fail(at, "names no key of [%s], expected a known one%s", strings.ToLower(section), hint)
			}
		}
	}
}

func setDefaults(out reflect.Value) {
	for i := range out.NumField() {
		f := out.Type().Field(i)
		tag, ok := f.Tag.Lookup("default")
		switch {
		case !f.IsExported():
		case ok && tag == "" && f.Type.Kind() == reflect.Slice:
		case ok:
			if err := setText(out.Field(i), f.Tag, tag); err != nil {
				panic("config: schema: " + f.Name + ": " + err.Error())
			}
		case f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == out.Type().PkgPath():
			setDefaults(out.Field(i))
		}
	}
}

// needed reports keys without a default that a table leaves out.
func (l *loader) needed() { l.neededIn("", "", reflect.ValueOf(l.cfg).Elem()) }

// neededIn looks into the arrays of tables below v; header is what such a table begins with.
func (l *loader) neededIn(path, header string, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() || !tables(f.Type, v.Type()) {
			continue
		}
		key := f.Tag.Get("key")
		for n := range v.Field(i).Len() {
			at := fmt.Sprintf("%s[%d]", join(path, key), n)
			l.neededKeys(at, join(header, key), v.Field(i).Index(n))
			l.neededIn(at, join(header, key), v.Field(i).Index(n))
		}
	}
}

func (l *loader) neededKeys(at, header string, e reflect.Value) {
	for j := range e.NumField() {
		g := e.Type().Field(j)
		need := g.Tag.Get("need")
		_, given := l.cfg.places[join(at, g.Tag.Get("key"))]
		empty := e.Field(j).IsZero() || e.Field(j).Kind() == reflect.Slice && e.Field(j).Len() == 0
		if need == "" || given && (!empty || g.Name == "Allow") {
			continue
		}
		word := "has no"
		if given {
			if l.failedAt(join(at, g.Tag.Get("key"))) {
				continue
			}
			word = "has an empty"
		}
		l.fail(l.cfg.Pos(at), "[[%s]] %s %s, expected %s", header, word, g.Tag.Get("key"), need)
	}
}

// failedAt says whether the value of a key has been complained about.
func (l *loader) failedAt(path string) bool {
	at := l.cfg.places[path]
	return slices.ContainsFunc(l.errs, func(e *Error) bool { return e.Pos.Source == at.Source && e.Pos.Line >= at.Line })
}

// nearest finds the known word that s was probably meant to be.
func nearest(s string, known []string) string {
	best, dist := "", len(s)/2+1
	for _, k := range known {
		if d := distance(s, k); d < dist {
			best, dist = k, d
		}
	}
	return best
}

// distance is Levenshtein's, on at most 64 bytes of each.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}
