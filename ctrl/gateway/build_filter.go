package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/filter"
	"github.com/np-appliance/np/ctrl/gateway/route"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// filterFailed tells what is wrong with a filter's options. key gives the key of the
// configuration for an option, "" for the route as a whole.
func (b *builder) filterFailed(at string, r *config.HTTPRoute, err error, key func(field string, index int) string) {
	each(err, func(err error) {
		var o *filter.OptionError
		if !errors.As(err, &o) {
			b.failf(at, "[[route]] %q: %w", r.Name, err)
			return
		}
		k := key(o.Field, o.At)
		if k == "" {
			b.failf(at, "[[route]] %q: %w", r.Name, o.Err)
			return
		}
		name, _, _ := strings.Cut(k, "[")
		b.failf(at+"."+k, "route.%s: %w", name, o.Err)
	})
}

// indexed is a key, and its place in a list where there is one.
func indexed(key string, index int) string {
	if index < 0 {
		return key
	}
	return key + "[" + strconv.Itoa(index) + "]"
}

func (b *builder) cors(at string, r *config.HTTPRoute) (mark, preflight []stage) {
	c := &r.CORS
	if len(c.Origins) == 0 {
		return nil, nil
	}
	m, p, err := filter.SplitCORS(filter.CORSOptions{Origins: c.Origins, Methods: c.Methods, Headers: c.Headers, Expose: c.Expose, Credentials: c.Credentials, MaxAge: c.MaxAge})
	b.filterFailed(at, r, err, func(field string, i int) string { return indexed("cors."+field, i) })
	return stageList(m, err), stageList(p, err)
}

func stageList(s filter.Stage, err error) []stage {
	if err != nil {
		return nil
	}
	return []stage{s}
}

// patternVars are the variables that texts of a route may have; a bad pattern is told of
// by the table.
func patternVars(r *config.HTTPRoute) []string {
	if r.PathPattern == "" {
		return nil
	}
	vars, _ := route.VarsOf(route.Path{Kind: route.Pattern, Value: r.PathPattern})
	return vars
}

// policyOf is what a listener does with paths that can be treated in more than one way.
func policyOf(l *config.Listener) target.Policy {
	return target.Policy{
		KeepEncodedSlash:  l.HTTP.EncodedSlash == "keep",
		RefuseDoubleSlash: l.HTTP.DoubleSlash == "refuse",
		RefuseParameters:  l.HTTP.PathParams == "refuse",
	}
}

// rewritePolicy is that of paths which a route made. What came in was let in by its
// listener; what was let in by any may pass.
func (b *builder) rewritePolicy() target.Policy {
	for i := range b.cfg.Listeners {
		if policyOf(&b.cfg.Listeners[i]).KeepEncodedSlash {
			return target.Policy{KeepEncodedSlash: true}
		}
	}
	return target.Policy{}
}

// headers reads edits of header fields, those of requests or of answers.
func (b *builder) headers(at string, r *config.HTTPRoute, answers bool) []stage {
	var keys []string
	var list []filter.HeaderEdit
	add := func(op filter.HeaderOp, key string, values []string) {
		for i, v := range values {
			e := filter.HeaderEdit{Op: op, Name: v}
			if op != filter.RemoveHeader {
				name, value, ok := strings.Cut(v, ":")
				if !ok {
					b.failf(at+"."+indexed(key, i), "route.%s: got %q, expected \"Name: value\"", key, v)
					continue
				}
				e.Name, e.Value = strings.TrimSpace(name), strings.TrimSpace(value)
			}
			list, keys = append(list, e), append(keys, indexed(key, i))
		}
	}
	var o filter.HeaderOptions
	if answers {
		add(filter.RemoveHeader, "response_remove", r.ResponseRemove)
		add(filter.SetHeader, "response_set", r.ResponseSet)
		add(filter.AddHeader, "response_add", r.ResponseAdd)
		add(filter.AppendHeader, "response_append", r.ResponseAppend)
		o.Response = list
	} else {
		add(filter.RemoveHeader, "request_remove", r.RequestRemove)
		add(filter.SetHeader, "request_set", r.RequestSet)
		add(filter.AddHeader, "request_add", r.RequestAdd)
		add(filter.AppendHeader, "request_append", r.RequestAppend)
		o.Request = list
	}
	if len(list) == 0 {
		return nil
	}
	s, err := filter.NewHeaders(o, patternVars(r))
	b.filterFailed(at, r, err, func(_ string, i int) string { return keys[i] })
	return stageList(s, err)
}

// answers are the edits of what clients get, refusals of the stages inside included.
func (b *builder) answers(at string, r *config.HTTPRoute) []stage { return b.headers(at, r, true) }

// edits are those of what is seen behind, and after them the changes of path and host: the
// variables of fields are the client's.
func (b *builder) edits(at string, r *config.HTTPRoute) []stage {
	return append(b.headers(at, r, false), b.rewrite(at, r, patternVars(r))...)
}

func rewrites(r *config.HTTPRoute) bool {
	return r.RewritePath != "" || r.RewritePrefix != "" || r.RewriteRegexp != ""
}

func (b *builder) rewrite(at string, r *config.HTTPRoute, vars []string) []stage {
	if !rewrites(r) && r.RewriteHost == "" {
		return nil
	}
	o := filter.RewriteOptions{Host: r.RewriteHost, Policy: b.rewritePolicy()}
	replacement := "rewrite_to"
	switch {
	case r.RewritePath != "":
		o.Path.Text = r.RewritePath
	case r.RewritePrefix != "":
		o.Path.Prefix = &filter.PrefixChange{From: r.PathPrefix, To: r.RewritePrefix}
		replacement = "rewrite_prefix"
	case r.RewriteRegexp != "":
		o.Path.Regexp = &filter.RegexpChange{Expression: r.RewriteRegexp, Replacement: r.RewriteTo}
	}
	s, err := filter.NewRewrite(o, vars)
	b.filterFailed(at, r, err, func(field string, _ int) string {
		return map[string]string{"path": "rewrite_path", "prefix": "path_prefix", "replacement": replacement, "expression": "rewrite_regexp", "host": "rewrite_host"}[field]
	})
	return stageList(s, err)
}

func (b *builder) compression(at string, r *config.HTTPRoute) []stage {
	if len(r.Compress) == 0 {
		return nil
	}
	s, err := filter.NewCompress(filter.CompressOptions{Encodings: r.Compress, Types: r.CompressTyp, MinSize: int(r.CompressMin), Level: r.CompressLev})
	b.filterFailed(at, r, err, func(field string, i int) string {
		if field == "encodings" {
			return indexed("compress", i)
		}
		return indexed("compress_"+strings.TrimSuffix(field, "_size"), i)
	})
	return stageList(s, err)
}

// decompression makes requests' bodies plain.
func (b *builder) decompression(at string, r *config.HTTPRoute) []stage {
	if len(r.Decompress) == 0 {
		return nil
	}
	s, err := filter.NewDecompress(filter.DecompressOptions{Encodings: r.Decompress, Max: int64(r.DecompMax), Ratio: r.DecompRatio})
	b.filterFailed(at, r, err, func(field string, i int) string {
		if field == "encodings" {
			return indexed("decompress", i)
		}
		return indexed("decompress_"+field, i)
	})
	return stageList(s, err)
}

// bodyLimit is the route's, or the one of the listener that a request came by.
func (b *builder) bodyLimit(at string, r *config.HTTPRoute) []stage {
	if r.MaxBody > 0 {
		s, err := filter.NewBodyLimit(int64(r.MaxBody))
		b.filterFailed(at, r, err, indexed)
		return stageList(s, err)
	}
	limits := map[string]filter.Stage{}
	for i := range b.cfg.Listeners {
		l := &b.cfg.Listeners[i]
		if l.Protocol != "http" || l.HTTP.MaxBody == 0 {
			continue
		}
		s, err := filter.NewBodyLimit(int64(l.HTTP.MaxBody))
		if err != nil {
			b.fail(fmt.Sprintf("listener[%d].http.max_body", i), err)
			continue
		}
		limits[l.Name] = s
	}
	if len(limits) == 0 {
		return nil
	}
	return []stage{func(next http.Handler) http.Handler {
		by := map[string]http.Handler{}
		for name, s := range limits {
			by[name] = s(next)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h := by[exchange.From(r.Context()).Listener]; h != nil {
				h.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}}
}

// answer is a route's own answer: a redirect, a text, files.
func (b *builder) answer(at string, r *config.HTTPRoute) http.Handler {
	var h http.Handler
	var err error
	switch {
	case r.Redirect != "":
		return b.redirect(at, r)
	case r.StaticDir != "":
		return b.files(at, r)
	case r.Body != "":
		h, err = filter.NewRespond(filter.RespondOptions{Status: r.Status, Body: r.Body, Type: r.BodyType})
	default:
		h, err = filter.NewRespond(filter.RespondOptions{Status: r.Status})
	}
	b.filterFailed(at, r, err, func(field string, _ int) string {
		return map[string]string{"status": "status", "body": "body", "type": "body_type"}[field]
	})
	return h
}

func (b *builder) files(at string, r *config.HTTPRoute) http.Handler {
	o := filter.FilesOptions{Root: r.StaticDir, Index: r.Index, Fallback: r.Fallback, Precompress: r.Precompress, Types: map[string]string{}}
	if !rewrites(r) {
		o.StripPrefix = r.PathPrefix
	}
	for i, s := range r.StaticTypes {
		ext, kind, ok := strings.Cut(s, "=")
		if !ok || !strings.HasPrefix(ext, ".") || !strings.Contains(kind, "/") {
			b.failf(at+"."+indexed("static_types", i), "route.static_types: got %q, expected an extension and a media type such as \".md=text/markdown\"", s)
			continue
		}
		o.Types[strings.ToLower(ext)] = kind
	}
	f, err := filter.NewFiles(o)
	b.filterFailed(at, r, err, func(field string, _ int) string {
		return map[string]string{"root": "static_dir", "strip_prefix": "path_prefix", "index": "index", "fallback": "static_fallback", "types": "static_types"}[field]
	})
	if err != nil {
		return nil
	}
	b.next.closers = append(b.next.closers, func(context.Context) { _ = f.Close() }) // read only
	return f
}

func (b *builder) redirect(at string, r *config.HTTPRoute) http.Handler {
	o, err := parseRedirect(r.Redirect)
	if err != nil {
		b.failf(at+".redirect", "route.redirect: got %q, %w", r.Redirect, err)
		return nil
	}
	o.Status, o.DropQuery, o.Policy, o.Rewritten = r.Status, r.DropQuery, b.rewritePolicy(), rewrites(r)
	h, err := filter.NewRedirect(o, patternVars(r))
	b.filterFailed(at, r, err, func(field string, _ int) string {
		if field == "status" {
			return "status"
		}
		return "redirect"
	})
	return h
}

// parseRedirect takes a URL with variables apart. What is not there stays as it was asked.
func parseRedirect(s string) (filter.RedirectOptions, error) {
	var o filter.RedirectOptions
	rest := s
	if before, after, ok := strings.Cut(s, "://"); ok {
		switch before {
		case "http", "https":
			o.Scheme = before
		case "{scheme}":
		default:
			return o, fmt.Errorf(`expected http, https or {scheme} before "://"`)
		}
		end := len(after)
		for _, sep := range []string{"/", "?", "{path}"} {
			if i := strings.Index(after, sep); i >= 0 {
				end = min(end, i)
			}
		}
		o.Host, rest = after[:end], after[end:]
		if i := strings.LastIndexByte(o.Host, ':'); i > strings.LastIndexAny(o.Host, "]}") {
			n, err := strconv.ParseUint(o.Host[i+1:], 10, 16)
			if err != nil || n == 0 {
				return o, fmt.Errorf("expected a port from 1 to 65535 after the host")
			}
			o.Host, o.Port = o.Host[:i], int(n)
		}
		if o.Host == "" {
			return o, fmt.Errorf(`expected a host or {host} after "://"`)
		}
		if o.Host == "{host}" {
			o.Host = ""
		}
	}
	rest = strings.TrimSuffix(rest, "?{query}") // it is kept anyway
	switch {
	case strings.Contains(rest, "?"):
		return o, fmt.Errorf("expected no query: that of the request is kept, or dropped by redirect_drop_query")
	case rest == "" && rest != s, rest == "{path}":
	case strings.HasPrefix(rest, "/"):
		o.Path.Text = rest
	default:
		return o, fmt.Errorf(`expected a URL such as "https://{host}{path}", or a path that begins with "/"`)
	}
	return o, nil
}
