package filter

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/np-appliance/np/ctrl/gateway/target"
)

// folder makes files, all of one time: in which order a map gives them must not matter.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir, made := t.TempDir(), time.Now()
	for name, body := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, made, made); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func zip(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFiles(t *testing.T) {
	outside := folder(t, map[string]string{"secret.txt": "secret"})
	page := strings.Repeat("page ", 100)
	dir := folder(t, map[string]string{
		"index.html": "home", "a/index.html": "a's index", "b/file.txt": "0123456789", "page.html": page, "page.html.gz": zip(t, page),
		"old.html": "new text", "old.html.gz": "stale", ".env": "secret", "b/.git/config": "secret", ".well-known/security.txt": "contact",
		"x.md": "text", "ü ö.txt": "umlauts", "bin": "\x00",
	})
	past := time.Now().Add(-time.Hour)
	for _, err := range []error{
		os.Symlink(filepath.Join(outside, "secret.txt"), filepath.Join(dir, "out.txt")),
		os.Symlink(outside, filepath.Join(dir, "outdir")),
		os.Symlink("b/file.txt", filepath.Join(dir, "in.txt")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644),
		os.Chtimes(filepath.Join(dir, "old.html.gz"), past, past),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := NewFiles(FilesOptions{Root: dir, StripPrefix: "/static", Precompress: true, Types: map[string]string{".md": "text/markdown"}, CacheControl: "max-age=60"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, one := range []struct {
		name, method, path, header string
		status                     int
		body, field                string // field: "Name: value" of the answer
	}{
		{"index", "GET", "/static/", "", 200, "home", "Content-Type: text/html; charset=utf-8"},
		{"root without a slash", "GET", "/static?q", "", 301, "", "Location: ./static/?q"},
		{"folder", "GET", "/static/a/", "", 200, "a's index", "X-Content-Type-Options: nosniff"},
		{"folder without a slash", "GET", "/static/a?q=1", "", 301, "", "Location: ./a/?q=1"},
		{"folder without an index", "GET", "/static/b/", "", 404, "", ""},
		{"folder without both", "GET", "/static/b", "", 404, "", ""},
		{"file", "GET", "/static/b/file.txt", "", 200, "0123456789", "Content-Length: 10"},
		{"head", "HEAD", "/static/b/file.txt", "", 200, "", "Content-Length: 10"},
		{"file as a folder", "GET", "/static/b/file.txt/", "", 404, "", ""},
		{"range", "GET", "/static/b/file.txt", "Range: bytes=2-4", 206, "234", "Content-Range: bytes 2-4/10"},
		{"range beyond", "GET", "/static/b/file.txt", "Range: bytes=20-", 416, "*", ""},
		{"not modified", "GET", "/static/b/file.txt", "If-None-Match: *", 304, "", ""},
		{"not modified since", "GET", "/static/b/file.txt", "If-Modified-Since: " + time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), 304, "", ""},
		{"condition fails", "GET", "/static/b/file.txt", `If-Match: "x"`, 412, "*", ""},
		{"escaped", "GET", "/static/%C3%BC%20%C3%B6.txt", "", 200, "umlauts", ""},
		{"own type", "GET", "/static/x.md", "", 200, "text", "Content-Type: text/markdown"},
		{"unknown type", "GET", "/static/bin", "", 200, "\x00", "Content-Type: application/octet-stream"},
		{"cache", "GET", "/static/bin", "", 200, "\x00", "Cache-Control: max-age=60"},
		{"not there", "GET", "/static/none", "", 404, "", ""},
		{"link inside", "GET", "/static/in.txt", "", 200, "0123456789", ""},
		{"link outside", "GET", "/static/out.txt", "", 404, "", ""},
		{"folder linked outside", "GET", "/static/outdir/secret.txt", "", 404, "", ""},
		{"dots", "GET", "/static/../secret.txt", "", 404, "", ""},
		{"escaped dots", "GET", "/static/%2e%2e/secret.txt", "", 404, "", ""},
		{"encoded slash", "GET", "/static/b%2Ffile.txt", "", 404, "", ""},
		{"dot file", "GET", "/static/.env", "", 404, "", ""},
		{"dot folder", "GET", "/static/b/.git/config", "", 404, "", ""},
		{"well known", "GET", "/static/.well-known/security.txt", "", 200, "contact", ""},
		{"dot file in well known", "GET", "/static/.well-known/.env", "", 404, "", ""},
		{"named pipe", "GET", "/static/pipe", "", 404, "", ""},
		{"NUL", "GET", "/static/a%00b", "", 404, "", ""},
		{"another prefix", "GET", "/staticx/", "", 404, "", ""},
		{"post", "POST", "/static/", "", 405, "", "Allow: GET, HEAD"},
		{"compressed", "GET", "/static/page.html", "Accept-Encoding: gzip", 200, zip(t, page), "Content-Encoding: gzip"},
		{"compressed has a length", "GET", "/static/page.html", "Accept-Encoding: zstd, gzip", 200, "*", "Content-Type: text/html; charset=utf-8"},
		{"compressed range", "GET", "/static/page.html", "Accept-Encoding: gzip\nRange: bytes=0-1", 206, "\x1f\x8b", "Content-Encoding: gzip"},
		{"not asked for", "GET", "/static/page.html", "", 200, page, "Vary: Accept-Encoding"},
		{"older", "GET", "/static/old.html", "Accept-Encoding: gzip", 200, "new text", ""},
		{"none that is taken", "GET", "/static/old.html", "Accept-Encoding: gzip, identity;q=0", 406, "", ""},
	} {
		t.Run(one.name, func(t *testing.T) {
			r, _ := request(one.method, one.path)
			for l := range strings.SplitSeq(one.header, "\n") {
				if k, v, ok := strings.Cut(l, ": "); ok {
					r.Header.Set(k, v)
				}
			}
			w := httptest.NewRecorder()
			f.ServeHTTP(w, r)
			if w.Code != one.status || w.Code < 300 && one.body != "*" && w.Body.String() != one.body || strings.Contains(w.Body.String(), "secret") {
				t.Fatalf("%d, %q, %v", w.Code, w.Body, w.Header())
			}
			if k, v, ok := strings.Cut(one.field, ": "); ok && w.Header().Get(k) != v {
				t.Errorf("%v, want %s", w.Header(), one.field)
			}
			if one.status == 200 && (w.Header().Get("Etag") == "" || w.Header().Get("Last-Modified") == "" || w.Header().Get("Content-Length") == "") {
				t.Errorf("%v", w.Header())
			}
		})
	}
}

func TestFilesFallback(t *testing.T) {
	f, err := NewFiles(FilesOptions{Root: folder(t, map[string]string{"app.html": "app", "x.js": "js"}), Index: "app.html", Fallback: "app.html"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for path, want := range map[string]string{"/": "app", "/x.js": "js", "/some/view": "app"} {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
}

// TestFilesClose: requests under way and those that come late are served, and the last closes.
func TestFilesClose(t *testing.T) {
	f, err := NewFiles(FilesOptions{Root: folder(t, map[string]string{"a": "text"})})
	if err != nil {
		t.Fatal(err)
	}
	root, release, err := f.acquire()
	if err != nil || f.Close() != nil || f.Close() != nil {
		t.Fatal(err)
	}
	if _, err := root.Stat("a"); err != nil {
		t.Errorf("closed under a request: %v", err)
	}
	release()
	if _, err := root.Stat("a"); err == nil {
		t.Error("not closed")
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest("GET", "/a", nil))
	if w.Code != 200 || w.Body.String() != "text" {
		t.Errorf("late: %d %q", w.Code, w.Body)
	}
}

func TestFilesErrors(t *testing.T) {
	for _, one := range []struct {
		o      FilesOptions
		fields string
	}{
		{FilesOptions{}, "root"},
		{FilesOptions{Root: filepath.Join(t.TempDir(), "none")}, "root"},
		{FilesOptions{Root: ".", StripPrefix: "x"}, "strip_prefix"},
		{FilesOptions{Root: ".", Index: "a/b", Fallback: "/x", CacheControl: "a\n"}, "index fallback cache_control"},
		{FilesOptions{Root: ".", Types: map[string]string{"md": "x"}}, "types"},
	} {
		_, err := NewFiles(one.o)
		optionErrors(t, err, strings.Fields(one.fields)...)
	}
}

// FuzzFiles: no path gets out of the folder, or at what is hidden.
func FuzzFiles(f *testing.F) {
	outside := folder(f, map[string]string{"secret": "secret", "in/.hidden": "secret", "in/ok": "fine", "in/.well-known/ok": "fine"})
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(outside, "in", "link")); err != nil {
		f.Fatal(err)
	}
	files, err := NewFiles(FilesOptions{Root: filepath.Join(outside, "in"), Precompress: true})
	if err != nil {
		f.Fatal(err)
	}
	defer files.Close()
	for _, s := range []string{"/ok", "/../secret", "/.hidden", "/link", "/.well-known/../.hidden", "/%2e%2e/secret", "//secret", "/.well-known/ok"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, path string, clean bool) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		if clean {
			if err := (target.Policy{KeepEncodedSlash: true}).Set(r.URL, path); err != nil {
				return
			}
		}
		w := httptest.NewRecorder()
		files.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), "secret\n") || w.Body.String() == "secret" || w.Code == 200 && w.Body.String() != "fine" {
			t.Fatalf("%q: %d %q", path, w.Code, w.Body)
		}
	})
}
