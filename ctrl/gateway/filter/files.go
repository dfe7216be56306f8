package filter

import (
	"errors"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// FilesOptions is a folder whose files are served.
type FilesOptions struct {
	Root         string            // the folder
	StripPrefix  string            // that paths begin with and names of files don't; "": none
	Index        string            // file that stands for its folder; "": index.html
	Fallback     string            // file, below Root, that is served where there is none; "": 404
	Precompress  bool              // serve NAME.zst or NAME.gz to clients that take it, if it is not older than NAME
	Types        map[string]string // media types by extension (".md"), before those that are known
	CacheControl string            // field of answers with a file; "": none
}

// Files serves a folder. It has to be closed.
type Files struct {
	o FilesOptions

	mu     sync.Mutex
	root   *os.Root
	users  int // requests under way
	closed bool
}

// NewFiles opens the folder. Whatever a path says and wherever symbolic links lead,
// nothing outside of it is opened. What a path of a folder names is its index; without
// one it is not there: names are never listed. Names that begin with a dot are not there,
// but for .well-known at the top; nor is what is no regular file.
//
// Ranges and conditions are answered (RFC 9110 §13, §14); entity tags are made of size and time.
func NewFiles(o FilesOptions) (*Files, error) {
	var c checker
	if o.Root == "" {
		c.bad("root", "expected a folder")
	}
	if o.StripPrefix != "" {
		p, err := target.Policy{}.Clean(o.StripPrefix)
		if err != nil {
			c.bad("strip_prefix", `%q: expected a path that begins with "/": %w`, o.StripPrefix, err)
		}
		o.StripPrefix = strings.TrimSuffix(p.Plain, "/")
	}
	if o.Index == "" {
		o.Index = "index.html"
	}
	if !fs.ValidPath(o.Index) || strings.Contains(o.Index, "/") || hidden(o.Index) {
		c.bad("index", "%q: expected the name of a file", o.Index)
	}
	if o.Fallback != "" && (!fs.ValidPath(o.Fallback) || hidden(o.Fallback)) {
		c.bad("fallback", "%q: expected the name of a file below the folder, without a slash before it", o.Fallback)
	}
	for ext, t := range o.Types {
		if !strings.HasPrefix(ext, ".") || strings.Contains(ext, "/") || !validValue(t) || !strings.Contains(t, "/") {
			c.bad("types", `%q = %q: expected an extension with its dot and a media type`, ext, t)
		}
	}
	if !validValue(o.CacheControl) {
		c.bad("cache_control", "%q: expected the value of a header field", o.CacheControl)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		c.add("root", err)
		return nil, c.err()
	}
	return &Files{o: o, root: root}, nil
}

// Close closes the folder once the requests under way have ended. One that comes later (it
// found its route before the routes changed) opens the folder for itself.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if f.users > 0 {
		return nil // the last one closes
	}
	return f.root.Close()
}

// acquire returns the folder and what has to be called when it is not needed any more.
func (f *Files) acquire() (*os.Root, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		root, err := os.OpenRoot(f.o.Root)
		if err != nil {
			return nil, nil, err
		}
		return root, func() { _ = root.Close() }, nil // read only
	}
	f.users++
	return f.root, f.release, nil
}

func (f *Files) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.closed && f.users == 0 {
		_ = f.root.Close() // read only
	}
}

// hidden says whether a part of a name begins with a dot, .well-known at the top left
// aside (RFC 8615).
func hidden(name string) bool {
	name = strings.TrimPrefix(name, ".well-known/")
	return strings.HasPrefix(name, ".") && name != "." || strings.Contains(name, "/.")
}

var errNoFile = errors.New("no regular file")

// open opens a regular file; a folder gives its information alone.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	// a named pipe must not block the goroutine until somebody writes
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		_ = file.Close() // it was only looked at
		if info.IsDir() {
			return nil, info, nil
		}
		return nil, nil, errNoFile
	}
	if err != nil {
		_ = file.Close() // the first error tells more
		return nil, nil, err
	}
	return file, info, nil
}

func (f *Files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		exchange.Refuse(w, r, exchange.MethodNotAllowed, "")
		return
	}
	name, ok := f.name(r.URL)
	if !ok {
		exchange.Refuse(w, r, exchange.NotFound, "")
		return
	}
	root, release, err := f.acquire()
	if err != nil {
		f.refuse(w, r, err)
		return
	}
	defer release()
	f.serve(w, r, root, name)
}

func (f *Files) serve(w http.ResponseWriter, r *http.Request, root *os.Root, name string) {
	if name == "." && !strings.HasSuffix(r.URL.Path, "/") {
		f.toFolder(w, r)
		return
	}
	folder := name == "." || strings.HasSuffix(r.URL.Path, "/")
	if folder {
		name = path.Join(name, f.o.Index)
	}
	file, info, err := open(root, name)
	if err == nil && file == nil && !folder {
		if index, _, err := open(root, path.Join(name, f.o.Index)); err == nil && index != nil {
			_ = index.Close() // only looked for
			f.toFolder(w, r)
			return
		}
	}
	if (err != nil || file == nil) && f.o.Fallback != "" && !gone(err) {
		name = f.o.Fallback
		file, info, err = open(root, name)
	}
	if err != nil || file == nil {
		f.refuse(w, r, err)
		return
	}
	defer func() { _ = file.Close() }() // read only
	f.send(w, r, root, name, file, info)
}

// name makes a file's name of a path.
func (f *Files) name(u *url.URL) (string, bool) {
	if strings.Contains(u.RawPath, "%2F") || strings.Contains(u.RawPath, "%2f") {
		return "", false // no slash between folders
	}
	rest, ok := strings.CutPrefix(u.Path, f.o.StripPrefix)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	name := strings.Trim(rest, "/")
	if name == "" {
		return ".", true
	}
	return name, fs.ValidPath(name) && !hidden(name) && !strings.ContainsAny(name, "\\\x00")
}

// gone says whether an error is more than that the file is not there.
func gone(err error) bool {
	return err != nil && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EIO))
}

func (f *Files) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		exchange.From(r.Context()).Note(err)
	}
	if gone(err) {
		exchange.Refuse(w, r, exchange.Internal, "")
		return
	}
	exchange.Refuse(w, r, exchange.NotFound, "")
}

// toFolder sends the client to the path with a slash, by a location that is right
// wherever this handler was put and can't name another host.
func (f *Files) toFolder(w http.ResponseWriter, r *http.Request) {
	last := path.Base(r.URL.EscapedPath())
	location := "./" + last + "/"
	if r.URL.RawQuery != "" {
		location += "?" + escapeQuery(r.URL.RawQuery)
	}
	w.Header()["Location"] = []string{location}
	w.Header()["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusMovedPermanently)
}

func (f *Files) send(w http.ResponseWriter, r *http.Request, root *os.Root, name string, file *os.File, info fs.FileInfo) {
	h := w.Header()
	tag := strconv.FormatInt(info.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(info.Size(), 36)
	size := info.Size()
	if f.o.Precompress {
		addVary(h, "Accept-Encoding")
		other, k, length, ok := compressed(r, root, name, info.ModTime())
		if !ok {
			exchange.Refuse(w, r, exchange.NotAcceptable, "")
			return
		}
		if other != nil {
			defer func() { _ = other.Close() }() // read only
			file, size, tag = other, length, tag+"-"+k.String()
			h["Content-Encoding"] = []string{k.String()}
		}
	}
	h["Content-Type"] = []string{f.mediaType(name)}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Etag"] = []string{`"` + tag + `"`}
	if f.o.CacheControl != "" {
		h["Cache-Control"] = []string{f.o.CacheControl}
	}
	hook := func(h http.Header, status int) {
		if status == http.StatusOK { // ServeContent leaves it out where there is an encoding
			h["Content-Length"] = []string{strconv.FormatInt(size, 10)}
		}
	}
	http.ServeContent(&hookWriter{through: through{w}, hook: hook}, r, "", info.ModTime(), file)
}

// compressed finds the form of a file that the client likes best. nil: the file itself;
// false: it takes none that there is.
func compressed(r *http.Request, root *os.Root, name string, notBefore time.Time) (*os.File, coding, int64, bool) {
	accept := parseAccept(r.Header["Accept-Encoding"])
	offered := []coding{zstandard, gzipped}
	for len(offered) > 0 { // bound: the codings
		k, ok := accept.choose(offered)
		if !ok || k == identity {
			return nil, identity, 0, ok
		}
		ext := map[coding]string{zstandard: ".zst", gzipped: ".gz"}[k]
		if file, info, err := open(root, name+ext); err == nil && file != nil {
			if !info.ModTime().Before(notBefore) {
				return file, k, info.Size(), true
			}
			_ = file.Close() // older than what it was made of
		}
		if offered[0] == k {
			offered = offered[1:]
		} else {
			offered = offered[:1]
		}
	}
	return nil, identity, 0, accept[identity] != 0
}

func (f *Files) mediaType(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t, ok := f.o.Types[ext]; ok {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}
