package exchange

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
)

func TestReasons(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[string]Reason{}
	for r := range Reason(NumReasons) {
		if !name.MatchString(r.String()) {
			t.Errorf("reason %d is named %q", r, r)
		}
		if other, dup := seen[r.String()]; dup {
			t.Errorf("reasons %d and %d are both named %q", other, r, r)
		}
		seen[r.String()] = r
		if r != None && (r.Status() < 400 || r.GRPC() == 0 || r.Title() == "") {
			t.Errorf("%s: status %d, code %d, title %q", r, r.Status(), r.GRPC(), r.Title())
		}
	}
}

func TestRefuse(t *testing.T) {
	x := &Exchange{ID: "id-1"}
	x.Note(errors.New("secret"))
	for _, one := range []struct {
		name, method, kind string
		why                Reason
		public             string
		status             int
		body               bool
	}{
		{"problem", "GET", "", NoEndpoint, "0 of 3", 503, true},
		{"head", "HEAD", "", NoRoute, "", 404, false},
		{"grpc", "POST", "application/grpc+proto", RateLimited, "100 % of it, \u00fc", 200, false},
		{"not grpc", "POST", "application/grpc-web", RateLimited, "", 429, true},
	} {
		t.Run(one.name, func(t *testing.T) {
			x.Reason = None
			r := httptest.NewRequest(one.method, "/", nil)
			r.Header.Set("Content-Type", one.kind)
			r = r.WithContext(With(r.Context(), x))
			w := httptest.NewRecorder()
			w.Header().Set("Content-Length", "999")
			w.Header().Set("Retry-After", "3")
			Refuse(w, r, one.why, one.public)
			if w.Code != one.status || w.Body.Len() > 0 != one.body || w.Header().Get("Retry-After") != "3" || w.Header().Get("X-Request-Id") != "id-1" {
				t.Fatalf("%d, %q, %v", w.Code, w.Body, w.Header())
			}
			if x.Reason != one.why {
				t.Errorf("reason %s", x.Reason)
			}
			if one.status == 200 {
				if w.Header().Get("Grpc-Status") != "8" || w.Header().Get("Grpc-Message") != "Too many requests: 100 %25 of it, %C3%BC" {
					t.Errorf("%v", w.Header())
				}
				return
			}
			if !one.body {
				return
			}
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != one.status || p.Reason != one.why.String() || p.RequestID != "id-1" || p.Detail != one.public {
				t.Errorf("%s: %v", w.Body, err)
			}
		})
	}
}

func TestRefuseGone(t *testing.T) {
	x := &Exchange{}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w := httptest.NewRecorder()
	Refuse(w, r.WithContext(With(r.Context(), x)), ClientGone, "")
	if x.Reason != ClientGone || x.Status != StatusClientGone || len(w.Header()) != 0 || w.Body.Len() != 0 {
		t.Errorf("%+v, %v", x, w.Header())
	}
}

func TestFirstReasonStays(t *testing.T) {
	x := From(t.Context())
	x.Fail(UpstreamTimeout)
	x.Fail(ClientGone)
	if x.Reason != UpstreamTimeout {
		t.Errorf("reason %s", x.Reason)
	}
	for range 100 {
		x.Note(errors.New("again"))
	}
	if len(x.Notes()) != maxNotes {
		t.Errorf("%d notes", len(x.Notes()))
	}
}

// TestConnects: an extended CONNECT is one whichever server took it, and however its protocol
// is written; nothing else is.
func TestConnects(t *testing.T) {
	for name, c := range map[string]struct {
		method, proto, field string
		protocol, seen       string
	}{
		"HTTP/2":                 {"CONNECT", "HTTP/2.0", "websocket", "websocket", "GET"},
		"HTTP/2, in capitals":    {"CONNECT", "HTTP/2.0", "WebSocket", "websocket", "GET"},
		"HTTP/3":                 {"CONNECT", "websocket", "", "websocket", "GET"},
		"HTTP/3, in capitals":    {"CONNECT", "WebSocket", "", "websocket", "GET"},
		"HTTP/3, another":        {"CONNECT", "connect-udp", "", "connect-udp", "GET"},
		"HTTP/1.1, plain":        {"CONNECT", "HTTP/1.1", "", "", "CONNECT"},
		"HTTP/2, plain":          {"CONNECT", "HTTP/2.0", "", "", "CONNECT"},
		"HTTP/3, plain":          {"CONNECT", "HTTP/3.0", "", "", "CONNECT"},
		"HTTP/3, no CONNECT":     {"POST", "HTTP/3.0", "", "", "POST"},
		"HTTP/2, but no CONNECT": {"POST", "HTTP/2.0", "websocket", "", "POST"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.Proto = c.method, c.proto
		if c.field != "" {
			r.Header[":protocol"] = []string{c.field}
		}
		if p, m := Connects(r), Method(r); p != c.protocol || m != c.seen {
			t.Errorf("%s: %q, %s", name, p, m)
		}
	}
}
