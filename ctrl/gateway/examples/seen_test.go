package examples_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/np-appliance/np/ctrl/gateway"
)

// spanKeeper is a collector that remembers spans by the service that sent them.
type spanKeeper struct {
	mu    sync.Mutex
	spans map[string][]*tracepb.Span
}

func (k *spanKeeper) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return
	}
	var m collectorpb.ExportTraceServiceRequest
	if data, err := io.ReadAll(z); err != nil || proto.Unmarshal(data, &m) != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, rs := range m.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				name := a.Value.GetStringValue()
				k.spans[name] = append(k.spans[name], rs.ScopeSpans[0].Spans...)
			}
		}
	}
}

// wait returns a service's hop and its try.
func (k *spanKeeper) wait(t *testing.T, service string) (hop, try *tracepb.Span) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		for _, s := range k.spans[service] {
			if s.Kind == tracepb.Span_SPAN_KIND_SERVER {
				hop = s
			} else {
				try = s
			}
		}
		k.mu.Unlock()
		if hop != nil && try != nil {
			return hop, try
		}
	}
	t.Fatalf("no spans of %s", service)
	return nil, nil
}

// lines waits for n lines of a log.
func lines(t *testing.T, path string, n int) (out []map[string]any) {
	t.Helper()
	var data []byte
	for end := time.Now().Add(time.Minute); bytes.Count(data, []byte{'\n'}) < n && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		data, _ = os.ReadFile(path)
	}
	for line := range bytes.Lines(data) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

// TestSeen chains two gateways of seen.toml: one trace goes through both and the backend,
// each hop below the one before; both logs have its ID. Then a weight is changed live.
func TestSeen(t *testing.T) {
	k := &spanKeeper{spans: map[string][]*tracepb.Span{}}
	collector := httptest.NewServer(k)
	t.Cleanup(collector.Close)
	parents := make(chan string, 1000)
	var hits [2]int
	var mu sync.Mutex
	var backends []string
	for i := range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			hits[i]++
			mu.Unlock()
			parents <- r.Header.Get("Traceparent")
			if r.URL.Path == "/slow" {
				time.Sleep(20 * time.Millisecond)
			}
			_, _ = io.WriteString(w, "ok")
		}))
		t.Cleanup(s.Close)
		backends = append(backends, strings.TrimPrefix(s.URL, "http://"))
	}
	dir := t.TempDir()
	gate := func(name string, one, two string) (string, *gateway.Gateway) {
		return start(t, "seen.toml", map[string]string{"127.0.0.1:9001": one, "127.0.0.1:9002": two}, "/var/log/np", dir, "access.log", name+".log", "slow.log", name+"-slow.log",
			"http://127.0.0.1:4318", collector.URL, `"edge"`, `"`+name+`"`, `slow = "500ms"`, `slow = "20ms"`)
	}
	url, g := gate("inner", backends[0], backends[1])
	inner := strings.TrimPrefix(url, "http://")
	outer, _ := gate("outer", inner, inner)

	const id = "0af7651916cd43dd8448eb211c80319c"
	if res, body := askFor(t, "GET", outer+"/slow", "", "traceparent", "00-"+id+"-b7ad6b7169203331-01"); res.StatusCode != 200 || body != "ok" {
		t.Fatalf("%d %q", res.StatusCode, body)
	}
	hop1, try1 := k.wait(t, "outer")
	hop2, try2 := k.wait(t, "inner")
	chain := []string{"b7ad6b7169203331"}
	for i, s := range []*tracepb.Span{hop1, try1, hop2, try2} {
		if hex.EncodeToString(s.TraceId) != id || hex.EncodeToString(s.ParentSpanId) != chain[i] {
			t.Errorf("span %d: %v, want a child of %s", i, s, chain[i])
		}
		chain = append(chain, hex.EncodeToString(s.SpanId))
	}
	if got, want := <-parents, fmt.Sprintf("00-%s-%s-01", id, chain[4]); got != want {
		t.Errorf("the backend's parent is %s, want %s", got, want)
	}
	for _, name := range []string{"outer", "inner"} {
		all, slow := lines(t, filepath.Join(dir, name+".log"), 1), lines(t, filepath.Join(dir, name+"-slow.log"), 1)
		if len(all) != 1 || len(slow) != 1 || all[0]["trace_id"] != id || all[0]["slow"] != true || slow[0]["request_id"] != all[0]["request_id"] {
			t.Errorf("%s: %v, slow %v", name, all, slow)
		}
	}
	if res, _ := askFor(t, "GET", outer+"/x", ""); res.StatusCode != 200 {
		t.Errorf("%d", res.StatusCode)
	}
	if p := <-parents; strings.Contains(p, id) || len(p) != 55 {
		t.Errorf("a request without a trace has %q", p)
	}

	if err := g.SetWeight("web", "127.0.0.1:9002", 20); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	hits = [2]int{}
	mu.Unlock()
	for range 84 {
		askFor(t, "GET", outer+"/x", "")
	}
	if mu.Lock(); hits[0] != 4 || hits[1] != 80 {
		t.Errorf("with weights 1 and 20: %v", hits)
	}
	mu.Unlock()
}
