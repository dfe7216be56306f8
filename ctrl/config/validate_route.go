package config

import (
	"reflect"
	"strings"
)

// routeCompanions finds keys that say nothing without another: they would be ignored in
// silence.
func (l *loader) routeCompanions(r, defaults *HTTPRoute, at string) {
	for _, c := range [...]struct {
		has  bool
		want string
		keys string
	}{
		{r.Redirect != "", "redirect", "redirect_drop_query"},
		{r.Body != "", "body", "body_type"},
		{r.Redirect != "" || r.Body != "" || !r.acts(), "redirect or body, or no other action", "status"},
		{r.StaticDir != "", "static_dir", "index static_fallback static_precompressed static_types"},
		{len(r.Split) > 0, "split", "split_sticky"},
		{r.Upstream != "" || len(r.Split) > 0, "upstream or split", "mirror"},
		{r.PathPrefix != "", "path_prefix", "rewrite_prefix"},
		{r.RewriteRegexp != "", "rewrite_regexp", "rewrite_to"},
		{len(r.Compress) > 0, "compress", "compress_min compress_level compress_types"},
		{len(r.CORS.Origins) > 0, "cors.origins", "cors.methods cors.headers cors.expose cors.credentials cors.max_age"},
	} {
		if c.has {
			continue
		}
		for key := range strings.FieldsSeq(c.keys) {
			if differs(r, defaults, key) {
				l.fail(l.cfg.Pos(at+"."+key), "route.%s: it says nothing by itself, expected %s with it", key, c.want)
			}
		}
	}
	n := 0
	for _, s := range [...]string{r.RewritePath, r.RewritePrefix, r.RewriteRegexp} {
		if s != "" {
			n++
		}
	}
	if n > 1 {
		l.fail(l.cfg.Pos(at), "[[route]] %q has more than one of rewrite_path, rewrite_prefix and rewrite_regexp, expected one", r.Name)
	}
}

// differs says whether a key has another value than its default.
func differs(r, defaults *HTTPRoute, key string) bool {
	return format(valueOf(reflect.ValueOf(r).Elem(), key)) != format(valueOf(reflect.ValueOf(defaults).Elem(), key))
}

// valueOf is the value of a key, or of a table's "table.key".
func valueOf(v reflect.Value, key string) reflect.Value {
	table, rest, nested := strings.Cut(key, ".")
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("key") != table {
			continue
		}
		if nested {
			return valueOf(v.Field(i), rest)
		}
		return v.Field(i)
	}
	panic("config: no key " + key)
}

// acts says whether a route does something besides answering with a status.
func (r *HTTPRoute) acts() bool {
	return r.Upstream != "" || len(r.Split) > 0 || r.StaticDir != "" || len(r.Parts) > 0
}
