// Command soak sends a gateway a steady mix of requests for a long time and tells each
// minute how much memory it has: one that keeps a byte of each request shows it. The mix
// is GET and POST, bodies from none to 64 KiB and some of unknown length, new and
// old connections, requests broken off in the middle, and paths without a route.
//
//	soak -pid PID -minutes 60 -rate 500 -insecure http://127.0.0.1:8080 https://127.0.0.1:8443
//
// It exits with 1 when a request that was not broken off failed.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// line is what is told each minute.
type line struct {
	Minute   int     `json:"minute"`
	Requests int64   `json:"requests"`
	Failed   int64   `json:"failed"`
	Broken   int64   `json:"broken_off"`
	RSSMiB   float64 `json:"rss_mib"`
	Threads  int     `json:"threads"`
	Files    int     `json:"files"`
}

type soak struct {
	urls                     []string
	clients                  []*http.Client
	requests, failed, broken atomic.Int64
	body                     []byte
	first                    sync.Once
}

func main() {
	pid := flag.Int("pid", 0, "process whose memory is told")
	minutes := flag.Int("minutes", 60, "how long, 1 to 1440")
	rate := flag.Int("rate", 500, "requests a second, 1 to 100000")
	workers := flag.Int("workers", 32, "requests at a time")
	insecure := flag.Bool("insecure", false, "take any certificate")
	flag.Parse()
	if *pid <= 0 || *minutes < 1 || *minutes > 1440 || *rate < 1 || *rate > 100_000 || *workers < 1 || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	s := &soak{urls: flag.Args(), body: bytes.Repeat([]byte("0123456789abcdef"), 4096)}
	for _, h2 := range []bool{false, true} {
		t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: *insecure}, ForceAttemptHTTP2: h2, MaxIdleConnsPerHost: *workers}
		s.clients = append(s.clients, &http.Client{Transport: t, Timeout: 20 * time.Second})
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Duration(*minutes)*time.Minute)
	defer stop()
	tokens := make(chan struct{}, *workers)
	var wg sync.WaitGroup
	for i := range *workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range tokens {
				s.one(ctx, r)
			}
		})
	}
	wg.Go(func() { s.tell(ctx, *pid) })
	t := time.NewTicker(time.Second / time.Duration(*rate))
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case <-t.C:
			select {
			case tokens <- struct{}{}:
			default: // the gateway is behind: it is not pressed further
			}
		case <-ctx.Done():
		}
	}
	close(tokens)
	wg.Wait()
	if s.failed.Load() > 0 {
		os.Exit(1)
	}
}

// one sends one request of the mix.
func (s *soak) one(ctx context.Context, r *rand.Rand) {
	method, path, body, breakOff := http.MethodGet, "/soak", io.Reader(http.NoBody), false
	n := int64(0)
	switch k := r.IntN(100); {
	case k < 50:
	case k < 80:
		n = r.Int64N(int64(len(s.body)))
		method, body = http.MethodPost, bytes.NewReader(s.body[:n])
	case k < 90: // of unknown length
		n = r.Int64N(int64(len(s.body)))
		method, body = http.MethodPost, io.MultiReader(bytes.NewReader(s.body[:n]))
	case k < 95:
		path = fmt.Sprintf("/none/%d", r.IntN(1_000_000))
	default:
		breakOff = true
	}
	url := s.urls[r.IntN(len(s.urls))] + path
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if breakOff {
		time.AfterFunc(time.Duration(r.IntN(2000))*time.Microsecond, cancel)
	}
	q, err := http.NewRequestWithContext(rctx, method, url, body)
	if err != nil {
		panic(err)
	}
	q.Close = r.IntN(50) == 0
	s.requests.Add(1)
	res, err := s.clients[r.IntN(len(s.clients))].Do(q)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err == nil && (res.StatusCode >= 500 || (res.StatusCode == 404) != strings.HasPrefix(path, "/none/")) {
			err = errors.New(res.Status)
		}
	}
	switch {
	case breakOff && err != nil:
		s.broken.Add(1)
	case err != nil && ctx.Err() == nil:
		s.failed.Add(1)
		s.first.Do(func() { fmt.Fprintln(os.Stderr, "soak: first failure:", method, url, err) })
	}
}

// tell prints a line each minute, and one at the end.
func (s *soak) tell(ctx context.Context, pid int) {
	out := json.NewEncoder(os.Stdout)
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for minute := 0; ; minute++ {
		l := line{Minute: minute, Requests: s.requests.Load(), Failed: s.failed.Load(), Broken: s.broken.Load()}
		l.RSSMiB, l.Threads = status(pid)
		if d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
			l.Files = len(d)
		}
		if err := out.Encode(l); err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// status reads resident memory in MiB and the threads of a process.
func status(pid int) (rss float64, threads int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 0, 0
	}
	for l := range strings.Lines(string(b)) {
		var n int
		if _, err := fmt.Sscanf(l, "VmRSS: %d kB", &n); err == nil {
			rss = float64(n) / 1024
		}
		if _, err := fmt.Sscanf(l, "Threads: %d", &n); err == nil {
			threads = n
		}
	}
	return rss, threads
}
