package auth

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// authority answers questions about tokens.
type authority struct {
	*httptest.Server
	asked atomic.Int64
	down  atomic.Bool
	gate  chan struct{}
}

func newAuthority(t testing.TB, answers map[string]string) *authority {
	a := &authority{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		if a.gate != nil {
			<-a.gate
		}
		id, secret, ok := r.BasicAuth()
		if a.down.Load() || r.Method != "POST" || !ok || id != "gate+way" || secret != "s%3A" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			http.Error(w, "no", 500)
			return
		}
		answer, ok := answers[r.PostFormValue("token")]
		if !ok {
			answer = `{"active":false}`
		}
		if kind, rest, ok := strings.Cut(answer, "|"); ok {
			w.Header().Set("Content-Type", kind)
			answer = rest
		} else {
			w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(a.Close)
	return a
}

func newIntrospection(t testing.TB, a *authority, clock *testClock, change func(*IntrospectionConfig)) *Introspection {
	t.Helper()
	cfg := IntrospectionConfig{Name: "oauth", URL: a.URL, Doer: a.Client(), ClientID: "gate way", ClientSecret: "s:", Now: clock.now, Rules: TokenRules{Audiences: []string{"orders"}}}
	if change != nil {
		change(&cfg)
	}
	i, err := NewIntrospection(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestIntrospection(t *testing.T) {
	clock := newClock()
	exp := epoch.Add(30 * time.Second).Unix()
	a := newAuthority(t, map[string]string{
		"good":   `{"active":true,"sub":"alice","aud":["orders"],"scope":"read write","exp":` + itoa(exp) + `}`,
		"aud":    `{"active":true,"sub":"alice","aud":"other"}`,
		"over":   `{"active":true,"sub":"alice","aud":"orders","exp":1}`,
		"nobody": `{"active":true,"aud":"orders"}`,
		"noexp":  `{"active":true,"sub":"a","aud":"orders"}`,
		"silent": `{"sub":"alice","aud":"orders"}`,
		"text":   `{"active":"true","sub":"alice","aud":"orders"}`,
		"twice":  `{"active":false,"active":true,"sub":"alice","aud":"orders"}`,
		"html":   `text/html|<html>`,
		"list":   `[]`,
		"huge":   `{"active":true,"pad":"` + strings.Repeat("x", maxAnswer) + `"}`,
		"deep":   `{"active":true,"p":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		"signed": `application/token-introspection+jwt|a.b.c`,
	})
	i := newIntrospection(t, a, clock, func(c *IntrospectionConfig) { c.Rules.Skew = -1 })
	id, err := i.Authenticate(bearer("good"))
	if err != nil || id.Subject != "alice" || strings.Join(id.Scopes, " ") != "read write" {
		t.Fatalf("%+v, %v", id, err)
	}
	for _, token := range []string{"aud", "over", "nobody", "unknown"} {
		_, err := i.Authenticate(bearer(token))
		wantDenied(t, token, err)
	}
	if _, err := i.Authenticate(bearer("noexp")); err != nil {
		t.Errorf("without exp: %v", err)
	}
	for _, token := range []string{"silent", "text", "twice", "html", "list", "huge", "deep", "signed"} {
		_, err := i.Authenticate(bearer(token))
		var u *Unavailable
		if !errors.As(err, &u) {
			t.Errorf("%s: got %v, expected it unavailable", token, err)
		}
	}
	// remembered, at most until the token ends
	before := a.asked.Load()
	for range 10 {
		_, _ = i.Authenticate(bearer("good"))
		_, _ = i.Authenticate(bearer("unknown"))
	}
	if n := a.asked.Load() - before; n != 0 {
		t.Errorf("asked %d times about what is known", n)
	}
	clock.move(30 * time.Second)
	_, err = i.Authenticate(bearer("good"))
	wantDenied(t, "a token that ended while it was remembered", err)
	_, _ = i.Authenticate(bearer("unknown"))
	if n := a.asked.Load() - before; n != 2 {
		t.Errorf("asked %d times, expected 2", n)
	}
	if _, err := i.Authenticate(bearer("bad token")); err == nil {
		t.Error("a token with a blank is taken")
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// TestIntrospectionDown: whoever can't be asked about is nobody.
func TestIntrospectionDown(t *testing.T) {
	clock := newClock()
	a := newAuthority(t, map[string]string{"good": `{"active":true,"sub":"alice","aud":"orders"}`})
	i := newIntrospection(t, a, clock, nil)
	a.down.Store(true)
	_, err := i.Authenticate(bearer("good"))
	var u *Unavailable
	if !errors.As(err, &u) {
		t.Errorf("got %v, expected it unavailable", err)
	}
	if s := i.Stats(); s.Failures != 1 || s.LastError == "" || s.Unavailable != 1 {
		t.Errorf("%+v", s)
	}
	a.down.Store(false)
	if _, err := i.Authenticate(bearer("good")); err != nil {
		t.Errorf("a failure was remembered: %v", err)
	}
	a.down.Store(true)
	if _, err := i.Authenticate(bearer("good")); err != nil {
		t.Errorf("what is remembered does not need it: %v", err)
	}
	a.Close()
	if _, err := i.Authenticate(bearer("other")); !errors.As(err, &u) {
		t.Errorf("got %v, expected it unavailable", err)
	}
}

func TestIntrospectionSingleFlight(t *testing.T) {
	clock := newClock()
	a := newAuthority(t, map[string]string{"good": `{"active":true,"sub":"alice","aud":"orders"}`})
	a.gate = make(chan struct{})
	i := newIntrospection(t, a, clock, func(c *IntrospectionConfig) { c.Concurrency = 1 })
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { _, _ = i.Authenticate(bearer("good").WithContext(ctx)) })
	for a.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		wg.Go(func() {
			if _, err := i.Authenticate(bearer("good")); err != nil {
				t.Error(err)
			}
		})
	}
	cancel() // the first one's going doesn't end it for the others
	_, err := i.Authenticate(bearer("second"))
	var u *Unavailable
	if !errors.As(err, &u) {
		t.Errorf("a question beyond the limit: %v", err)
	}
	close(a.gate)
	wg.Wait()
	if n := a.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestIntrospectionBounds(t *testing.T) {
	clock := newClock()
	a := newAuthority(t, nil)
	i := newIntrospection(t, a, clock, func(c *IntrospectionConfig) { c.CacheSize = 32 })
	for n := range 200 {
		_, _ = i.Authenticate(bearer("t" + itoa(int64(n))))
	}
	if s := i.Stats(); s.Cache.Entries > 32 || s.Denied != 200 {
		t.Errorf("%+v", s)
	}
}

func TestIntrospectionTimeout(t *testing.T) {
	clock := newClock()
	a := newAuthority(t, nil)
	a.gate = make(chan struct{})
	defer close(a.gate)
	i := newIntrospection(t, a, clock, func(c *IntrospectionConfig) { c.Timeout = 20 * time.Millisecond })
	_, err := i.Authenticate(bearer("x"))
	var u *Unavailable
	if !errors.As(err, &u) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
