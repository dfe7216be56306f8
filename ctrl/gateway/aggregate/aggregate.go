package aggregate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// Doer sends requests to a cluster.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Part is one request of several.
type Part struct {
	Name     string // letters, digits, _ and -
	Do       Doer
	Method   string // GET
	Path     string // template, see the package
	Host     string // of the request; "": the client's
	Timeout  time.Duration
	Required bool
	Default  json.RawMessage // of an optional one that is missing; null

	RequestFields []string          // of the client's request that are sent along
	SetFields     map[string]string // sent with these values
	AnswerFields  []string          // of the part's answer that the client gets
	SendBody      bool              // the client's body is sent along

	MaxBody int // bytes of its answer; 1 MiB
}

// Field is one value of the answer.
type Field struct {
	Key    string // dots nest
	Source string // a part's name, and a JSON pointer into its answer
}

// Options are what an aggregate is made of.
type Options struct {
	Parts   []Part
	Fields  []Field       // none: one for each part, with its name
	Timeout time.Duration // of all; 10 s
	// MissingKey is the key that the object gets when parts are missing, with why by
	// part's name; "": none, the field Aggregate-Missing alone says it.
	MissingKey string
	// MaxRequestBody bounds the client's body where a part is sent it; 1 MiB.
	MaxRequestBody int
}

// Bounds of the configuration.
const (
	maxParts  = 32
	maxFields = 256
	mebibyte  = 1 << 20
)

// Aggregate is the handler. Immutable; safe for concurrent use.
type Aggregate struct {
	opts   Options
	parts  []part
	fields []field
	tree   *tree
	body   bool
}

type part struct {
	Part
	pieces []piece
	needs  []int // parts whose answers the path has
}

type field struct {
	part    int
	pointer []string
}

// New checks the options and compiles them. Its error lists everything wrong.
func New(o Options) (*Aggregate, error) {
	a := &Aggregate{opts: o, tree: &tree{}}
	var errs []error
	if len(o.Parts) < 1 || len(o.Parts) > maxParts {
		return nil, fmt.Errorf("%d parts, expected 1 to %d", len(o.Parts), maxParts)
	}
	if a.opts.Timeout == 0 {
		a.opts.Timeout = 10 * time.Second
	}
	if a.opts.MaxRequestBody == 0 {
		a.opts.MaxRequestBody = mebibyte
	}
	if a.opts.Timeout < 0 || a.opts.MaxRequestBody < 0 {
		errs = append(errs, errors.New("timeout and max_request_body can't be negative"))
	}
	names := map[string]int{}
	for i, p := range o.Parts {
		if _, dup := names[p.Name]; dup {
			errs = append(errs, fmt.Errorf("two parts are named %q", p.Name))
		}
		names[p.Name] = i
	}
	for _, p := range o.Parts {
		c, err := compilePart(p, names)
		if err != nil {
			errs = append(errs, fmt.Errorf("part %q: %w", p.Name, err))
		}
		a.body = a.body || p.SendBody
		a.parts = append(a.parts, c)
	}
	if len(errs) == 0 {
		errs = append(errs, a.acyclic())
	}
	errs = append(errs, a.compileFields(names)...)
	return a, errors.Join(errs...)
}

var partName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func compilePart(p Part, names map[string]int) (part, error) {
	c := part{Part: p}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !partName.MatchString(p.Name) || p.Name == "query" || p.Name == "header" {
		fail("expected a name of 1 to 64 letters, digits, _ and -, other than query and header")
	}
	if p.Do == nil {
		fail("no upstream")
	}
	if c.Method == "" {
		c.Method = http.MethodGet
	}
	if !httpguts.ValidHeaderFieldName(c.Method) {
		fail("method %q is no token", p.Method)
	}
	if p.Timeout < 0 || p.MaxBody < 0 {
		fail("timeout and max_body can't be negative")
	}
	if c.MaxBody == 0 {
		c.MaxBody = mebibyte
	}
	if c.Default == nil {
		c.Default = json.RawMessage("null")
	} else if compact, err := checkJSON(c.Default, maxDepth); err != nil {
		fail("default is not JSON: %.64s", p.Default)
	} else {
		c.Default = compact
	}
	if p.Required && p.Default != nil {
		fail("a required part has no default")
	}
	for _, list := range [...][]string{p.RequestFields, p.AnswerFields} {
		for _, name := range list {
			if !httpguts.ValidHeaderFieldName(name) || hop(name) {
				fail("field %q can't be passed on", name)
			}
		}
	}
	for name, v := range p.SetFields {
		if !httpguts.ValidHeaderFieldName(name) || hop(name) || !httpguts.ValidHeaderFieldValue(v) {
			fail("field %q can't be set to %q", name, v)
		}
	}
	pieces, err := parsePath(p.Path, names)
	if err != nil {
		fail("path %q: %w", p.Path, err)
	}
	c.pieces = pieces
	for _, one := range pieces {
		if one.kind == litPart {
			c.needs = append(c.needs, names[one.text])
		}
	}
	return c, errors.Join(errs...)
}

// hop says whether a field describes one connection or one body, and so is not passed on.
func hop(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Range", "Accept-Encoding", "Expect", "Host":
		return true
	}
	return exchange.PerConnection(name)
}

// acyclic finds parts that wait for each other.
func (a *Aggregate) acyclic() error {
	const (
		unseen = iota
		open
		done
	)
	state := make([]int, len(a.parts))
	var visit func(i int) error
	visit = func(i int) error { // depth: the number of parts
		switch state[i] {
		case open:
			return fmt.Errorf("part %q needs its own answer", a.parts[i].Name)
		case done:
			return nil
		}
		state[i] = open
		for _, n := range a.parts[i].needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		state[i] = done
		return nil
	}
	for i := range a.parts {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}

func (a *Aggregate) compileFields(names map[string]int) (errs []error) {
	list := a.opts.Fields
	if len(list) == 0 {
		for _, p := range a.opts.Parts {
			list = append(list, Field{Key: p.Name, Source: p.Name})
		}
	}
	if len(list) > maxFields {
		return []error{fmt.Errorf("%d fields, at most %d", len(list), maxFields)}
	}
	for i, f := range list {
		name, pointer, has := strings.Cut(f.Source, "/")
		at, known := names[name]
		if !known {
			errs = append(errs, fmt.Errorf("field %q: source %q: there is no part %q", f.Key, f.Source, name))
		}
		c := field{part: at}
		if has {
			var err error
			if c.pointer, err = parsePointer("/" + pointer); err != nil {
				errs = append(errs, fmt.Errorf("field %q: %w", f.Key, err))
			}
		}
		a.fields = append(a.fields, c)
		key := strings.Split(f.Key, ".")
		for _, k := range key {
			if k == "" || len(key) > maxDepth {
				errs = append(errs, fmt.Errorf("field %q: expected names with dots between them", f.Key))
				break
			}
		}
		if !a.tree.plant(key, i) {
			errs = append(errs, fmt.Errorf("field %q: the key is taken by another field", f.Key))
		}
	}
	if k := a.opts.MissingKey; k != "" && !a.tree.plant([]string{k}, len(list)) {
		errs = append(errs, fmt.Errorf("missing_key %q is the key of a field", k))
	}
	return errs
}
