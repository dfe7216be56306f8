package accesslog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

func sample() (*exchange.Exchange, *Entry) {
	x := &exchange.Exchange{ID: "0123456789abcdef", Start: time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.FixedZone("", 3600)), Listener: "web", Protocol: "h2",
		Peer: netip.MustParseAddrPort("198.18.0.1:4711"), Client: netip.MustParseAddrPort("[2001:db8::7]:0"), Route: "api", Identity: &exchange.Identity{Provider: "staff", Subject: "ann"},
		Upstream: "backend", Endpoint: "198.18.0.9:80", Tries: 2, TraceID: [16]byte{1, 0xab}, Sampled: true, Status: 200, Received: 7, Sent: 1234, FirstByte: 1500 * time.Microsecond}
	return x, &Entry{Method: "GET", Host: "example.com", Path: "/a b", Query: "token=s3cret", UserAgent: "curl/8", Duration: 2*time.Second + 3*time.Microsecond}
}

// lines reads a log's file.
func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range bytes.Lines(data) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b map[string]any) int { return strings.Compare(a["time"].(string), b["time"].(string)) })
	return out
}

func open(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, Config{File: path})
	x, e := sample()
	l.Write(x, e)
	x2 := &exchange.Exchange{Start: x.Start.Add(time.Hour), Reason: exchange.ConnectFailed, Status: 502}
	x2.Note(errors.New("dial: refused"))
	x2.Note(errors.New(strings.Repeat("é", 400)))
	l.Write(x2, &Entry{Path: strings.Repeat("/ü", 1000)})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := lines(t, path)
	want := []map[string]any{{
		"time": "2026-01-02T02:04:05.678901Z", "listener": "web", "protocol": "h2", "client": "2001:db8::7", "peer": "198.18.0.1:4711", "method": "GET", "host": "example.com", "path": "/a b",
		"status": 200.0, "reason": "none", "route": "api", "upstream": "backend", "endpoint": "198.18.0.9:80", "tries": 2.0, "provider": "staff", "subject": "ann",
		"request_id": "0123456789abcdef", "trace_id": "01ab0000000000000000000000000000", "sampled": true, "duration_seconds": 2.000003, "first_byte_seconds": 0.0015, "received_bytes": 7.0, "sent_bytes": 1234.0,
	}, {
		"time": "2026-01-02T03:04:05.678901Z", "listener": "", "protocol": "", "method": "", "host": "", "path": strings.Repeat("/ü", 682) + "/", "path_bytes": 3000.0, "status": 502.0, "reason": "connect_failed",
		"duration_seconds": 0.0, "received_bytes": 0.0, "sent_bytes": 0.0, "errors": []any{"dial: refused", strings.Repeat("é", 256) + "..."},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestGRPC(t *testing.T) {
	x, e := sample()
	for code, want := range map[string]any{"": nil, "0": 0.0, "14": 14.0, "01": nil, "7x": nil, "-1": nil, "123": nil, "\"": nil} {
		e.GRPC = code
		var m map[string]any
		if err := json.Unmarshal(appendLine(nil, &stamp{}, &Config{}, x, e, false, 1), &m); err != nil || m["grpc_status"] != want {
			t.Errorf("%q: %v, %v", code, m["grpc_status"], err)
		}
	}
}

func TestQueryAndUserAgentOnRequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, Config{File: path, Query: true, UserAgent: true})
	l.Write(sample())
	l.Close()
	if m := lines(t, path)[0]; m["query"] != "token=s3cret" || m["user_agent"] != "curl/8" {
		t.Error(m)
	}
}

func TestSlowAndSampling(t *testing.T) {
	dir := t.TempDir()
	all, slow := filepath.Join(dir, "all"), filepath.Join(dir, "slow")
	var turn uint64
	l := open(t, Config{File: all, SlowFile: slow, SlowAfter: time.Second, Sample: map[int]float64{2: 0.25, 4: 0},
		Rand: func() uint64 { turn++; return turn << 62 }})
	x, e := sample()
	e.Duration = time.Millisecond
	for _, status := range []int{200, 404, 500} {
		x.Status = status
		for range 8 {
			l.Write(x, e)
		}
	}
	x.Status, e.Duration = 404, time.Second
	l.Write(x, e) // slow, though none of 4xx is written
	e.Stream = true
	l.Write(x, e) // a stream whose head came soon
	x.FirstByte = time.Second
	l.Write(x, e)
	l.Close()
	counts := map[float64]int{}
	for _, m := range lines(t, all) {
		counts[m["status"].(float64)]++
		if (m["status"] == 200.0) != (m["sample"] == 0.25) || (m["status"] == 404.0) != (m["slow"] == true) {
			t.Error(m)
		}
	}
	if want := map[float64]int{200: 2, 404: 2, 500: 8}; !reflect.DeepEqual(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
	if got := lines(t, slow); len(got) != 2 || got[0]["slow"] != true {
		t.Errorf("slow: %v", got)
	}
	if s := l.Stats(); s.All.Lines != 12 || s.All.Sampled != 6+8+1 || s.Slow.Lines != 2 || s.All.Full+s.All.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, Config{File: path, FlushEvery: time.Hour})
	l.Write(sample())
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Write(sample())
	l.Close()
	if a, b := len(lines(t, path+".1")), len(lines(t, path)); a != 1 || b != 1 {
		t.Errorf("%d and %d lines", a, b)
	}
}

func TestMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := open(t, Config{File: path, FlushEvery: time.Millisecond, Buffer: MinBuffer})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				l.Write(sample())
			}
		})
	}
	wg.Wait()
	l.Close()
	l.Write(sample())
	s := l.Stats().All
	if got := uint64(len(lines(t, path))); got != s.Lines || s.Lines+s.Full != 40001 || s.Full == 0 {
		t.Errorf("%d lines, %+v", got, s)
	}
}

// TestFullDisk has a device that takes nothing.
func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	var out bytes.Buffer
	l := open(t, Config{File: "/dev/full", Log: slog.New(slog.NewTextHandler(&out, nil))})
	l.Write(sample())
	l.Write(sample())
	l.Close()
	if s := l.Stats().All; s.Lines != 0 || s.Failed != 2 || s.WriteErrors == 0 || !strings.Contains(out.String(), "/dev/full") {
		t.Errorf("%+v\n%s", s, out.String())
	}
}

// TestCutLine has a pipe that ends in the middle of a line, and a file after it.
func TestCutLine(t *testing.T) {
	s := &stream{broken: true}
	path := filepath.Join(t.TempDir(), "f")
	l := open(t, Config{File: path})
	s.file = l.all.file
	s.put([]byte("{}\n"), 1)
	if b, _ := os.ReadFile(path); string(b) != "\n{}\n" || s.broken {
		t.Errorf("%q", b)
	}
}

func TestConfig(t *testing.T) {
	for text, cfg := range map[string]Config{
		"slow after -1s":      {SlowAfter: -time.Second},
		"the time from which": {SlowFile: "a"},
		"another file":        {File: "a", SlowFile: "a", SlowAfter: 1},
		"status 6xx":          {Sample: map[int]float64{6: 1}},
		"between 0 and 1":     {Sample: map[int]float64{2: 2}},
		"65536 or more":       {Buffer: 1},
		"flush every":         {FlushEvery: -1},
		"no such file":        {File: filepath.Join(t.TempDir(), "none", "f")},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want %q", cfg, err, text)
		}
	}
	var none *Log
	none.Write(sample())
	if none.Close() != nil || none.Reopen() != nil || none.Stats() != (Stats{}) {
		t.Error("no log does something")
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c/\n\r\t\x00\x1b[31m\x7f", "\u0085\u009b31m \u2028\u2029 é 漢 😀", "\xff\xc3\x28\xed\xa0\x80\xf4\x90\x80\x80", "<script>&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ours := appendString(nil, s)
		theirs, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var a, b string
		if err := json.Unmarshal(ours, &a); err != nil {
			t.Fatalf("%q: %s: %v", s, ours, err)
		}
		if err := json.Unmarshal(theirs, &b); err != nil || a != b {
			t.Fatalf("%q: %q, want %q (%v)", s, a, b, err)
		}
		for _, r := range string(ours) {
			if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
				t.Fatalf("%q: %q has %U", s, ours, r)
			}
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add("GET", "host", "/path", "q=1", "subject", "id", int64(12), 200)
	f.Add("\"", "\n", strings.Repeat("é", 2000), "\xff", "\\", "\u2028", int64(-5), -7)
	f.Fuzz(func(t *testing.T, method, host, path, query, subject, id string, took int64, status int) {
		x, e := sample()
		x.ID, x.Identity.Subject, x.Status, x.Reason = id, subject, status, exchange.Reason(uint(status)%uint(exchange.NumReasons))
		x.Note(errors.New(query))
		e.Method, e.Host, e.Path, e.Query, e.Duration = method, host, path, query, time.Duration(took)
		line := appendLine(nil, &stamp{}, &Config{Query: true, UserAgent: true}, x, e, true, 0.5)
		r := bufio.NewReader(bytes.NewReader(line))
		d := json.NewDecoder(r)
		var m map[string]any
		if err := d.Decode(&m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if rest, _ := io.ReadAll(d.Buffered()); string(rest) != "\n" || bytes.Count(line, []byte{'\n'}) != 1 {
			t.Fatalf("%q", line)
		}
		if m["status"] != float64(status) || len(path) <= maxPath && m["path"] != strings.ToValidUTF8(path, m["path"].(string)) && strings.ToValidUTF8(path, "") == path {
			t.Fatalf("%s", line)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	for _, procs := range []bool{false, true} {
		b.Run(fmt.Sprintf("parallel=%v", procs), func(b *testing.B) {
			l, err := New(Config{File: "/dev/null"})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			x, e := sample()
			b.ReportAllocs()
			b.SetBytes(int64(len(appendLine(nil, &stamp{}, &l.cfg, x, e, false, 1))))
			if procs {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						l.Write(x, e)
					}
				})
			} else {
				for b.Loop() {
					l.Write(x, e)
				}
			}
			s := l.Stats().All
			b.ReportMetric(float64(s.Full)/float64(s.Full+s.Lines)*100, "%dropped")
		})
	}
}

func BenchmarkEncodingJSON(b *testing.B) {
	x, e := sample()
	line := appendLine(nil, &stamp{}, &Config{}, x, e, false, 1)
	var m struct {
		Time, Listener, Protocol, Client, Peer, Method, Host, Path, Reason, Route, Upstream, Endpoint string
		Status, Tries                                                                                 int
	}
	if err := json.Unmarshal(line, &m); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(&m); err != nil {
			b.Fatal(err)
		}
	}
}
