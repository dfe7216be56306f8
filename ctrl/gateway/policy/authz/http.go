package authz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Doer sends requests: an http.Client that follows no redirects, or an upstream.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// HTTPConfig is a server that is asked over HTTP.
type HTTPConfig struct {
	URL       string
	Doer      Doer
	Copy      []string // fields of an answer that upstreams get; the client's own are taken out
	Answer    []string // fields of a refusal that the client gets; none: WWW-Authenticate, Location, Set-Cookie, Retry-After
	Redirects bool     // 3xx is a refusal that the client gets, as for a login page
}

// HTTP asks over HTTP.
type HTTP struct{ cfg HTTPConfig }

// NewHTTP makes a Checker.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("URL %q, expected https://HOST/PATH without user and fragment", cfg.URL)
	}
	if cfg.Doer == nil {
		return nil, errors.New("a URL to ask and nobody to ask it")
	}
	if len(cfg.Answer) == 0 {
		cfg.Answer = []string{"WWW-Authenticate", "Location", "Set-Cookie", "Retry-After"}
	}
	for _, list := range [...][]string{cfg.Copy, cfg.Answer} {
		for i, name := range list {
			if !httpguts.ValidHeaderFieldName(name) || !editable(name) {
				return nil, fmt.Errorf("field %q can't be copied, expected the name of a header field that is about the message and not its connection or body", name)
			}
			list[i] = http.CanonicalHeaderKey(name)
		}
	}
	return &HTTP{cfg}, nil
}

// maxIgnored bounds what is read of an answer's body, for the connection's sake.
const maxIgnored = 64 << 10

// Check implements Checker.
func (h *HTTP) Check(ctx context.Context, q *Question) (*Verdict, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.cfg.URL, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range q.Header {
		req.Header[name] = values
	}
	for name, v := range map[string]string{"X-Forwarded-Method": q.Method, "X-Forwarded-Proto": q.Scheme, "X-Forwarded-Host": q.Host, "X-Forwarded-Uri": q.URI, "X-Request-Id": q.ID,
		"X-Auth-Subject": q.Subject, "X-Auth-Provider": q.Provider, "X-Auth-Scopes": strings.Join(q.Scopes, " "), "X-Auth-Groups": strings.Join(q.Groups, ",")} {
		req.Header.Del(name)
		if !httpguts.ValidHeaderFieldValue(v) {
			return nil, fmt.Errorf("%q can't be sent as %s", v, name)
		}
		if v != "" {
			req.Header.Set(name, v)
		}
	}
	if req.Header.Del("X-Forwarded-For"); q.Client.IsValid() {
		req.Header.Set("X-Forwarded-For", q.Client.Unmap().String())
	}
	res, err := h.cfg.Doer.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", h.cfg.URL, err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxIgnored) // what is longer ends the connection
	return h.verdict(res)
}

func (h *HTTP) verdict(res *http.Response) (*Verdict, error) {
	v := &Verdict{Status: res.StatusCode, Answer: http.Header{}}
	v.NoStore, v.MaxAge = freshness(res.Header.Get("Cache-Control"))
	switch s := res.StatusCode; {
	case s >= 200 && s < 300:
		v.Allow, v.Set, v.Remove = true, http.Header{}, h.cfg.Copy
		for _, name := range h.cfg.Copy {
			if values := res.Header[name]; len(values) > 0 {
				v.Set[name] = values
			}
		}
		return v, nil
	case s == http.StatusUnauthorized || s == http.StatusForbidden || h.cfg.Redirects && s >= 300 && s < 400 && s != http.StatusNotModified && res.Header.Get("Location") != "":
		for _, name := range h.cfg.Answer {
			if values := res.Header[name]; len(values) > 0 {
				v.Answer[name] = values
			}
		}
		return v, nil
	}
	return nil, fmt.Errorf("ask %s: status %d, expected 2xx, 401 or 403", h.cfg.URL, res.StatusCode)
}

// freshness reads no-store, no-cache and max-age of a Cache-Control field (RFC 9111 §5.2.2).
func freshness(field string) (noStore bool, maxAge time.Duration) {
	for d := range strings.SplitSeq(field, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			noStore = true
		case "max-age":
			n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err == nil && n == 0 {
				noStore = true
			} else if err == nil {
				maxAge = time.Duration(n) * time.Second
			}
		}
	}
	return noStore, maxAge
}
