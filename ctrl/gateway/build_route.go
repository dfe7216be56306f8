package gateway

import (
	"errors"
	"fmt"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/route"
)

// routes compiles the rules, and for each what becomes of its requests.
func (b *builder) routes() {
	var rules []route.Rule
	var at []int // which [[route]] a rule is
	for i := range b.cfg.HTTPRoutes {
		r := &b.cfg.HTTPRoutes[i]
		if r.Opcode != "" {
			b.opcode(i, r)
			continue
		}
		if r.Passthrough {
			continue // not requests of HTTP
		}
		rules, at = append(rules, b.rule(i, r)), append(at, i)
		b.next.routes = append(b.next.routes, action{r.Name, r.EarlyData, b.handler(i, r)})
	}
	table, err := route.Compile(rules)
	b.next.table = table
	each(err, func(err error) {
		var re *route.RuleError
		if !errors.As(err, &re) {
			b.fail("route", err)
			return
		}
		r := &b.cfg.HTTPRoutes[at[re.Index]]
		key := re.Field
		switch {
		case key == "paths" && r.Path != "":
			key = "path"
		case key == "paths" && r.PathPrefix != "":
			key = "path_prefix"
		case key == "paths":
			key = "path_pattern"
		case key == "grpc":
			key = "grpc_service"
		}
		path := fmt.Sprintf("route[%d]", at[re.Index])
		if key != "" {
			path += "." + key
			if re.At >= 0 && re.Field != "paths" && re.Field != "grpc" {
				path += fmt.Sprintf("[%d]", re.At)
			}
		}
		b.failf(path, "[[route]] %q: %s%w", r.Name, prefix(key, ": "), re.Err)
	})
}

func prefix(s, sep string) string {
	if s == "" {
		return ""
	}
	return s + sep
}

// rule translates the conditions of a [[route]].
func (b *builder) rule(i int, r *config.HTTPRoute) route.Rule {
	out := route.Rule{Name: r.Name, Listeners: r.Listeners, Hosts: r.Hosts, Methods: r.Methods, SNI: r.SNI, ALPN: r.ALPN, Preflight: len(r.CORS.Origins) > 0}
	switch {
	case r.Path != "":
		out.Paths = []route.Path{{Kind: route.Exact, Value: r.Path}}
	case r.PathPrefix != "":
		out.Paths = []route.Path{{Kind: route.Prefix, Value: r.PathPrefix}}
	case r.PathPattern != "":
		out.Paths = []route.Path{{Kind: route.Pattern, Value: r.PathPattern}}
	}
	if r.GRPCService != "" || r.GRPCMethod != "" {
		out.GRPC = &route.GRPC{Service: r.GRPCService, Method: r.GRPCMethod}
	}
	at := fmt.Sprintf("route[%d]", i)
	for j, f := range r.Headers {
		out.Headers = append(out.Headers, b.field(at, indexed("headers", j), f))
	}
	for j, f := range r.Query {
		out.Query = append(out.Query, b.field(at, indexed("query", j), f))
	}
	return out
}

// field reads a condition. There is none for what must not be: "X!=v" would be one on a field X!.
func (b *builder) field(at, key, s string) route.Field {
	f := field(s)
	if strings.HasSuffix(f.Name, "!") {
		name, _, _ := strings.Cut(key, "[")
		b.failf(at+"."+key, "route.%s: got %q, expected what must hold, not what must not: a route for %q before this one takes those requests", name, s, strings.TrimSuffix(f.Name, "!")+"="+f.Value)
	}
	return f
}

// field reads "Name", "Name=value", "Name^=prefix" or "Name~=expression".
func field(s string) route.Field {
	name, value, has := strings.Cut(s, "=")
	if !has {
		return route.Field{Name: s, Test: route.Present}
	}
	if n, ok := strings.CutSuffix(name, "^"); ok {
		return route.Field{Name: n, Test: route.Begins, Value: value}
	}
	if n, ok := strings.CutSuffix(name, "~"); ok {
		return route.Field{Name: n, Test: route.Matches, Value: value}
	}
	return route.Field{Name: name, Test: route.Equal, Value: value}
}
