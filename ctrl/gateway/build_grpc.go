package gateway

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/aggregate"
	"github.com/np-appliance/np/ctrl/gateway/grpcgw"
	"github.com/np-appliance/np/ctrl/upstream"
)

// grpc is what a route does for gRPC before it is forwarded.
func (b *builder) grpc(at string, r *config.HTTPRoute) []stage {
	if r.Upstream == "" && len(r.Split) == 0 {
		return nil // the gateway's own answers, none of which is gRPC
	}
	g, log, name := &r.GRPC, b.g.o.Log, r.Name
	o := grpcgw.Options{
		Limits: grpcgw.Limits{RequestMessage: int(g.MaxMessage), ResponseMessage: int(g.MaxMessage), DefaultTimeout: g.DefaultTimeout, MaxTimeout: g.MaxTimeout},
		Web:    g.Web, Refresh: g.Refresh, Services: g.Services, AutoBind: g.AutoBind, PassUnmatched: g.PassUnmatched, Reflection: g.Reflection, REST: g.REST, RESTPrefix: g.RESTPrefix,
		JSONOptions: grpcgw.JSONOptions{IgnoreUnknown: g.IgnoreUnknown, IgnoreQuery: g.IgnoreQuery, EmitDefaults: g.EmitDefaults, ProtoNames: g.ProtoNames, EnumNumbers: g.EnumNumbers},
		Note:        func(err error) { log.Warn("descriptors not read", "route", name, "err", err) },
	}
	o.JSONOptions.Stream = map[string]grpcgw.Stream{"lines": grpcgw.StreamLines, "events": grpcgw.StreamEvents, "array": grpcgw.StreamArray}[g.Stream]
	c := b.next.clusters[r.Upstream]
	if !b.descriptors(at, r, c, &o) {
		return nil
	}
	if g.Health {
		o.Health = b.health(r, c)
	}
	gw, err := grpcgw.New(o)
	if err != nil {
		each(err, func(err error) { b.failf(at+".grpc", "route.grpc: %w", err) })
		return nil
	}
	if o.Reflect != nil && !b.g.dry {
		key := r.Name + "\x00" + r.Upstream
		if old := b.old.reflected[key]; old != nil {
			_ = gw.Adopt(old) // other services than before: it begins without
		}
		if b.next.reflected == nil {
			b.next.reflected = map[string]*grpcgw.Gateway{}
		}
		b.next.reflected[key] = gw
		gw.Start()
	}
	b.next.closers = append(b.next.closers, gw.Close)
	return []stage{gw.Handler}
}

// descriptors finds where a route's descriptors come from; false: nowhere, which was said.
func (b *builder) descriptors(at string, r *config.HTTPRoute, c *cluster, o *grpcgw.Options) bool {
	switch name := r.GRPC.Descriptors; name {
	case "":
	case "reflection":
		if c == nil {
			return false
		}
		o.JSON, o.Reflect = true, c.fwd
		if o.REST {
			b.failf(at+".grpc.descriptors", "route.grpc.descriptors: an upstream that speaks JSON (rest) has no reflection, expected a file")
			return false
		}
	default:
		raw, err := os.ReadFile(name)
		if err == nil {
			o.Schema, err = grpcgw.ParseSchema(raw)
		}
		if err != nil {
			b.failf(at+".grpc.descriptors", "route.grpc.descriptors: %w", err)
			return false
		}
		o.JSON = !o.REST
	}
	return true
}

// health answers for an upstream: it serves while an endpoint can take a request. Known
// services are those of the configuration, and "" for all.
func (b *builder) health(r *config.HTTPRoute, c *cluster) func(string) (bool, bool) {
	var ups []*upstream.Upstream
	if c != nil {
		ups = append(ups, c.up)
	}
	for _, s := range r.Split {
		name, _, _ := strings.Cut(s, "=")
		if c := b.next.clusters[name]; c != nil {
			ups = append(ups, c.up)
		}
	}
	return func(service string) (serving, known bool) {
		if service != "" && service != r.GRPCService && !slices.Contains(r.GRPC.Services, service) {
			return false, false
		}
		return slices.ContainsFunc(ups, func(u *upstream.Upstream) bool { return u.Pick(upstream.Query{}) != nil }), true
	}
}

// aggregate answers with one document of several upstreams' answers.
func (b *builder) aggregate(at string, r *config.HTTPRoute) http.Handler {
	o := aggregate.Options{Timeout: r.Aggregate.Timeout, MissingKey: r.Aggregate.MissingKey, MaxRequestBody: int(r.Aggregate.MaxRequestBody)}
	for i := range r.Parts {
		if p, ok := b.part(fmt.Sprintf("%s.part[%d]", at, i), &r.Parts[i]); ok {
			o.Parts = append(o.Parts, p)
		}
	}
	for i, m := range r.Aggregate.Merge {
		key, source, ok := strings.Cut(m, "=")
		if !ok || key == "" || source == "" {
			b.failf(fmt.Sprintf("%s.aggregate.merge[%d]", at, i), "route.aggregate.merge: got %q, expected \"key=part\" or \"key=part/json/pointer\"", m)
			continue
		}
		o.Fields = append(o.Fields, aggregate.Field{Key: strings.TrimSpace(key), Source: strings.TrimSpace(source)})
	}
	if len(o.Parts) < len(r.Parts) {
		return http.NotFoundHandler() // what is wrong was said
	}
	h, err := aggregate.New(o)
	if err != nil {
		each(err, func(err error) { b.failf(at+".part", "[[route]] %q: %w", r.Name, err) })
		return http.NotFoundHandler()
	}
	return h
}

func (b *builder) part(at string, p *config.Part) (aggregate.Part, bool) {
	c := b.next.clusters[p.Upstream]
	if c == nil {
		return aggregate.Part{}, false
	}
	out := aggregate.Part{Name: p.Name, Do: c.fwd, Method: p.Method, Path: p.Path, Host: p.Host, Timeout: p.Timeout, Required: !p.Optional,
		RequestFields: p.RequestFields, AnswerFields: p.AnswerFields, SendBody: p.SendBody, MaxBody: int(p.MaxBody)}
	switch {
	case p.Optional:
		out.Default = []byte(p.Default)
	case p.Default != "null":
		b.failf(at+".default", "route.part.default: a part that is not optional has no use for it, expected optional = true with it")
	}
	for i, f := range p.SetFields {
		name, value, ok := strings.Cut(f, ":")
		if !ok {
			b.failf(fmt.Sprintf("%s.set_fields[%d]", at, i), "route.part.set_fields: got %q, expected \"Name: value\"", f)
			continue
		}
		if out.SetFields == nil {
			out.SetFields = map[string]string{}
		}
		out.SetFields[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return out, true
}
