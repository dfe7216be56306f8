package auth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Source is where a request shows a credential. One of the names is set.
type Source struct {
	Header string
	Scheme string // that stands before it in the header, such as Bearer; "": none
	Query  string // proxies and browsers log these: only for what can't do otherwise
	Cookie string
}

// check tells what is wrong with a source.
func (s Source) check() error {
	n := 0
	for _, name := range [...]string{s.Header, s.Query, s.Cookie} {
		if name != "" {
			n++
			if !httpguts.ValidHeaderFieldName(name) { // the same letters are fit for all three
				return fmt.Errorf("credential in %q, expected a name of letters, digits and \"-\"", name)
			}
		}
	}
	if n != 1 || s.Scheme != "" && s.Header == "" {
		return errors.New("expected one header (with or without a scheme), query parameter or cookie that holds the credential")
	}
	return nil
}

// String says where it is.
func (s Source) String() string {
	switch {
	case s.Query != "":
		return "query parameter " + s.Query
	case s.Cookie != "":
		return "cookie " + s.Cookie
	case s.Scheme != "":
		return "header " + s.Header + " with scheme " + s.Scheme
	}
	return "header " + s.Header
}

// get returns the credential; ErrNone without one. More than one is a *Denied: which of them
// would the next server look at?
func (s Source) get(r *http.Request, maxLen int) (string, error) {
	var values []string
	switch {
	case s.Header != "":
		values = s.fromHeader(r.Header)
	case s.Query != "":
		values = queryValues(r.URL.RawQuery, s.Query)
	default:
		for _, c := range r.CookiesNamed(s.Cookie) {
			values = append(values, c.Value)
		}
	}
	if len(values) == 0 {
		return "", ErrNone
	}
	if len(values) > 1 {
		return "", &Denied{Code: InvalidRequest, Public: "more than one credential in " + s.String()}
	}
	if values[0] == "" {
		return "", ErrNone
	}
	if len(values[0]) > maxLen {
		return "", deny("the credential is too long", fmt.Errorf("%d bytes, %d are allowed", len(values[0]), maxLen))
	}
	return values[0], nil
}

func (s Source) fromHeader(h http.Header) []string {
	all := h[http.CanonicalHeaderKey(s.Header)]
	if s.Scheme == "" {
		return all
	}
	var values []string
	for _, v := range all { // bound: the server's limit on fields
		scheme, rest, ok := strings.Cut(v, " ")
		if ok && strings.EqualFold(scheme, s.Scheme) {
			values = append(values, strings.Trim(rest, " "))
		}
	}
	return values
}

// strip takes the credential out.
func (s Source) strip(r *http.Request) {
	switch {
	case s.Header != "":
		if s.Scheme == "" || len(s.fromHeader(r.Header)) > 0 {
			r.Header.Del(s.Header)
		}
	case s.Query != "":
		if kept, changed := withoutQuery(r.URL.RawQuery, s.Query); changed {
			u := *r.URL
			u.RawQuery = kept
			r.URL, r.RequestURI = &u, u.RequestURI()
		}
	default:
		if kept, changed := withoutCookie(r.Header["Cookie"], s.Cookie); changed {
			if r.Header.Del("Cookie"); len(kept) > 0 {
				r.Header["Cookie"] = kept
			}
		}
	}
}

// isParam says whether one part of a query is of a name, and returns its raw value.
func isParam(part, name string) (string, bool) {
	k, v, _ := strings.Cut(part, "=")
	if u, err := url.QueryUnescape(k); err == nil {
		k = u
	}
	return v, k == name
}

func queryValues(raw, name string) []string {
	var out []string
	for part := range strings.SplitSeq(raw, "&") { // bound: the server's limit on targets
		if v, ok := isParam(part, name); ok {
			u, err := url.QueryUnescape(v)
			if err != nil {
				u = v
			}
			out = append(out, u)
		}
	}
	return out
}

// withoutQuery leaves the other parameters as they are written.
func withoutQuery(raw, name string) (string, bool) {
	var kept []string
	changed := false
	for part := range strings.SplitSeq(raw, "&") {
		if _, ok := isParam(part, name); ok {
			changed = true
		} else {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&"), changed
}

// withoutCookie leaves the other cookies as they are written.
func withoutCookie(lines []string, name string) ([]string, bool) {
	var out []string
	changed := false
	for _, line := range lines {
		var kept []string
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			if k, _, _ := strings.Cut(part, "="); strings.TrimSpace(k) == name {
				changed = true
			} else if part != "" {
				kept = append(kept, part)
			}
		}
		if len(kept) > 0 {
			out = append(out, strings.Join(kept, "; "))
		}
	}
	return out, changed
}
