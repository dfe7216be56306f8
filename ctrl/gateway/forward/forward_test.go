package forward

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestForward(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Seen", r.Method+" "+r.RequestURI+" "+r.Host+" "+r.Header.Get("X-Forwarded-For"))
		w.Write(body)
	})
	s := front(t, handler(t, Options{Targets: []Target{{Cluster: cluster(t, nil, b)}}}))
	for range 3 {
		resp, err := http.Post(s.URL+"/a%2fb?c=d", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(body) != "hello" {
			t.Fatal(resp, string(body), err)
		}
		if want := "POST /a%2fb?c=d " + strings.TrimPrefix(s.URL, "http://") + " 127.0.0.1"; resp.Header.Get("Seen") != want {
			t.Errorf("%q, expected %q", resp.Header.Get("Seen"), want)
		}
	}
}
