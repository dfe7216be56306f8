package filter

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// pack compresses a body.
func pack(t testing.TB, encoding string, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if encoding == "zstd" {
		z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// echoBody answers with what it got of the body and of its fields.
func echoBody(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) {
		http.Error(w, err.Error(), 400)
		return
	}
	w.Header().Set("Seen", r.Header.Get("Content-Encoding")+r.Header.Get("Content-Length")+r.Header.Get("Content-Digest"))
	_, _ = w.Write(b)
}

// TestDecompress: bodies come plain, over a connection that goes on.
func TestDecompress(t *testing.T) {
	stage, err := NewDecompress(DecompressOptions{Max: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(stage(http.HandlerFunc(echoBody)))
	defer s.Close()
	noise := make([]byte, 300_000)
	_, _ = rand.Read(noise)
	ask := func(t *testing.T, encoding string, body io.Reader) (int, string, http.Header) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Encoding", encoding)
		r.Header.Set("Content-Digest", "sha-256=:x:")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b), resp.Header
	}
	for _, encoding := range []string{"gzip", "zstd", "x-gzip", "identity, GZIP"} {
		kind := strings.TrimPrefix(strings.ToLower(encoding), "identity, ")
		kind = strings.TrimPrefix(kind, "x-")
		for _, body := range [][]byte{nil, []byte("a"), []byte(strings.Repeat("json ", 10_000)), noise} {
			for _, in := range []io.Reader{bytes.NewReader(pack(t, kind, body)), io.MultiReader(bytes.NewReader(pack(t, kind, body)))} { // of known length, and not
				status, got, h := ask(t, encoding, in)
				if status != 200 || got != string(body) || h.Get("Seen") != "" {
					t.Errorf("%s, %d bytes: %d, %d bytes, saw %q", encoding, len(body), status, len(got), h.Get("Seen"))
				}
			}
		}
		twice := append(pack(t, kind, []byte("one ")), pack(t, kind, []byte("two"))...)
		if status, got, _ := ask(t, encoding, bytes.NewReader(twice)); status != 200 || got != "one two" {
			t.Errorf("%s, two members: %d, %q", encoding, status, got)
		}
		whole := pack(t, kind, []byte(strings.Repeat("text", 100)))
		for name, bad := range map[string][]byte{"cut": whole[:len(whole)-3], "garbage": []byte("garbage that is none"), "more": append(bytes.Clone(whole), "garbage"...), "one byte": whole[:1]} {
			if status, got, _ := ask(t, encoding, bytes.NewReader(bad)); status != 400 || !strings.Contains(got, "the body is not "+kind) {
				t.Errorf("%s, %s: %d, %q", encoding, name, status, got)
			}
		}
		bomb := pack(t, kind, make([]byte, 900_000)) // below the limit, but out of a kilobyte
		if status, got, _ := ask(t, encoding, bytes.NewReader(bomb)); status != 413 || !strings.Contains(got, "body_too_large") {
			t.Errorf("%s, bomb of %d bytes: %d, %.80q", encoding, len(bomb), status, got)
		}
		large := pack(t, kind, bytes.Repeat(noise, 4))
		if status, got, _ := ask(t, encoding, bytes.NewReader(large)); status != 413 || !strings.Contains(got, "more than 1048576 bytes") {
			t.Errorf("%s, large: %d, %.80q", encoding, status, got)
		}
	}
	for _, encoding := range []string{"br", "gzip, zstd", "gzip, gzip", "deflate", "gzip;q=1"} {
		if status, _, h := ask(t, encoding, strings.NewReader("x")); status != 415 || h.Get("Accept-Encoding") != "gzip, zstd" {
			t.Errorf("%s: %d, %v", encoding, status, h)
		}
	}
	if status, got, h := ask(t, "identity", strings.NewReader("plain")); status != 200 || got != "plain" || h.Get("Seen") == "" {
		t.Errorf("%d, %q", status, got)
	}
}

// TestDecompressShared: many at a time have a decoder each, beyond MaxActive none, and who
// reads after the handler's end gets an error.
func TestDecompressShared(t *testing.T) {
	stage, err := NewDecompress(DecompressOptions{MaxActive: 3})
	if err != nil {
		t.Fatal(err)
	}
	arrived, leave := make(chan io.Reader, 3), make(chan struct{})
	s := stage(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Body; <-leave }))
	send := func(encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(pack(t, encoding, []byte(encoding))))
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	var all sync.WaitGroup
	for _, encoding := range []string{"gzip", "zstd", "gzip"} {
		all.Go(func() { send(encoding) })
	}
	bodies := []io.Reader{<-arrived, <-arrived, <-arrived}
	if w := send("gzip"); w.Code != 503 {
		t.Errorf("%d", w.Code)
	}
	close(leave)
	all.Wait()
	for _, b := range bodies {
		if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errOver) {
			t.Errorf("%d, %v", n, err)
		}
	}
	for _, o := range []DecompressOptions{{Encodings: []string{"br"}}, {Max: -1}, {Ratio: -1}, {MaxActive: -1}} {
		if _, err := NewDecompress(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// FuzzDecompress sends any bytes as a compressed body: what comes out stays within the
// limits, whatever it is.
func FuzzDecompress(f *testing.F) {
	for _, encoding := range []string{"gzip", "zstd"} {
		f.Add(encoding == "zstd", pack(f, encoding, []byte("text text text")), uint16(3))
		f.Add(encoding == "zstd", pack(f, encoding, make([]byte, 200_000)), uint16(100))
	}
	const most, ratio = 150_000, 2
	stage, err := NewDecompress(DecompressOptions{Max: most, Ratio: ratio})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, zst bool, body []byte, piece uint16) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.Header.Set("Content-Encoding", map[bool]string{false: "gzip", true: "zstd"}[zst])
		total, w := 0, httptest.NewRecorder()
		stage(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			buf := make([]byte, int(piece)+1)
			for {
				n, err := r.Body.Read(buf)
				total += n
				if err != nil {
					break
				}
			}
		})).ServeHTTP(w, r)
		if total > most || total > ratio*len(body)+ratioSlack {
			t.Fatalf("%d bytes of %d", total, len(body))
		}
	})
}
