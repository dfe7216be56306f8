package filter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// DecompressOptions is which requests' bodies are decompressed, and how far.
type DecompressOptions struct {
	Encodings []string // of "gzip" and "zstd"; none: both
	Max       int64    // bytes of a body when it is decompressed; 0: 8 MiB
	Ratio     int      // what comes out at most of a byte, after the first 64 KiB; 0: 100
	MaxActive int      // bodies decompressed at a time, which bounds the decoders' memory; 0: 256
}

const (
	defaultMaxOut = 8 << 20
	defaultRatio  = 100
	ratioSlack    = 64 << 10
	zstdMaxWindow = 8 << 20 // RFC 9659 §3
)

// decompressor is the stage's part that all requests share.
type decompressor struct {
	o      DecompressOptions
	takes  [numCodings]bool
	accept string
	gzips  sync.Pool // *gzip.Reader
	zstds  sync.Pool // *zstd.Decoder
	active atomic.Int64
}

// NewDecompress makes the stage that decompresses bodies of requests (Content-Encoding),
// for upstreams that take them plain. One whose encoding is not taken, or that has several,
// is refused with 415 and the encodings that are (RFC 9110 §15.5.16); one that gets too long, as
// a whole or for what was sent, with 413, and one that is none with 400, as far as the
// answer has not begun. Fields that speak of the encoded bytes are taken out. gRPC has
// encodings of its own and passes, as tunnels do.
func NewDecompress(o DecompressOptions) (Stage, error) {
	var check checker
	d := &decompressor{}
	if len(o.Encodings) == 0 {
		o.Encodings = []string{"gzip", "zstd"}
	}
	for i, s := range o.Encodings {
		k, ok := parseCoding(s)
		if !ok || k == identity || k.String() != s {
			check.badAt("encodings", i, "%q: expected gzip or zstd", s)
			continue
		}
		d.takes[k] = true
	}
	if o.Max == 0 {
		o.Max = defaultMaxOut
	}
	if o.Ratio == 0 {
		o.Ratio = defaultRatio
	}
	if o.MaxActive == 0 {
		o.MaxActive = defaultMaxActive
	}
	if o.Max < 0 {
		check.bad("max", "%d: expected 1 byte or more", o.Max)
	}
	if o.Ratio < 0 {
		check.bad("ratio", "%d: expected 1 or more", o.Ratio)
	}
	if o.MaxActive < 0 {
		check.bad("max_active", "%d: expected 1 or more", o.MaxActive)
	}
	if err := check.err(); err != nil {
		return nil, err
	}
	d.o, d.accept = o, strings.Join(o.Encodings, ", ")
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(next, w, r) })
	}, nil
}

func (d *decompressor) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	values := r.Header["Content-Encoding"]
	if len(values) == 0 || r.Method == http.MethodConnect || exchange.IsGRPC(r) {
		next.ServeHTTP(w, r)
		return
	}
	k, ok := bodyCoding(values)
	switch {
	case !ok || k != identity && !d.takes[k]:
		w.Header().Set("Accept-Encoding", d.accept)
		exchange.Refuse(w, r, exchange.UnsupportedMedia, "content-encoding that is not taken here, expected one of "+d.accept)
		return
	case k == identity || r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		next.ServeHTTP(w, r)
		return
	}
	if d.active.Add(1) > int64(d.o.MaxActive) {
		d.active.Add(-1)
		exchange.Refuse(w, r, exchange.Overloaded, "too many bodies are being decompressed")
		return
	}
	plain := &plainBody{d: d, coding: k, src: r.Body}
	defer plain.release()
	body := &limitedBody{ReadCloser: plain, left: d.o.Max, limit: d.o.Max}
	plain.limited = body
	out := new(http.Request)
	*out = *r
	out.Header = maps.Clone(r.Header)
	for _, name := range [...]string{"Content-Encoding", "Content-Length", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		delete(out.Header, name)
	}
	out.Body, out.ContentLength, out.GetBody = body, -1, nil
	lw := &limitWriter{through: through{w}, r: r, body: body, before: maps.Clone(w.Header())}
	next.ServeHTTP(lw, out)
	if !lw.begun && body.over.Load() {
		refuseBody(w, r, d.o.Max)
	}
}

// bodyCoding reads Content-Encoding; false: it is not one that is known, or several.
func bodyCoding(values []string) (coding, bool) {
	found := identity
	for _, v := range values {
		for one := range strings.SplitSeq(v, ",") {
			if one = trim(one); one == "" {
				continue
			}
			k, ok := parseCoding(one)
			if !ok || k != identity && found != identity {
				return 0, false
			}
			found = max(found, k)
		}
	}
	return found, true
}

// plainBody is a body as it is decompressed. One goroutine reads it.
type plainBody struct {
	d       *decompressor
	coding  coding
	src     io.ReadCloser
	limited *limitedBody // around it, which tells the answer's writer

	mu   sync.Mutex // of a Read, and of the decoder's return
	done bool
	in   counted
	gzip *gzip.Reader
	zstd *zstd.Decoder
	out  int64
	err  error
}

// counted counts what is read of the encoded body.
type counted struct {
	r *bufio.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ReadByte implements io.ByteReader: decoders then read no further than they need.
func (c *counted) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// bodyError is a body that is not what its Content-Encoding says.
type bodyError struct {
	coding coding
	err    error
}

func (e *bodyError) Error() string { return fmt.Sprintf("the body is not %s: %v", e.coding, e.err) }
func (e *bodyError) Unwrap() error { return e.err }

// errOver is what is read after the handler's end.
var errOver = errors.New("the request is over")

// Read implements io.Reader.
func (b *plainBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done {
		return 0, errOver
	}
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	src := &sourceError{r: b.src}
	if b.in.r == nil {
		b.in.r = bufio.NewReaderSize(src, 4<<10)
		b.err = b.open()
	}
	var n int
	if b.err == nil {
		n, b.err = b.decode(p)
	}
	b.out += int64(n)
	switch failed := (*sourceFailure)(nil); {
	case errors.As(b.err, &failed):
		b.err = failed.err
	case b.err != nil && b.err != io.EOF:
		b.err = &bodyError{b.coding, b.err}
	}
	if most := int64(b.d.o.Ratio)*b.in.n + ratioSlack; b.out > most {
		b.limited.limit = most
		b.limited.over.Store(true)
		b.err = &http.MaxBytesError{Limit: most}
		return 0, b.err
	}
	return n, b.err
}

// sourceError marks what reading the client met, which is no matter of the encoding.
type sourceError struct{ r io.Reader }

type sourceFailure struct{ err error }

func (e *sourceFailure) Error() string { return e.err.Error() }
func (e *sourceFailure) Unwrap() error { return e.err }

func (s *sourceError) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceFailure{err}
	}
	return n, err
}

// open takes a decoder.
func (b *plainBody) open() error {
	if b.coding == gzipped {
		z, ok := b.d.gzips.Get().(*gzip.Reader)
		if !ok {
			z = new(gzip.Reader)
		}
		b.gzip = z
		return noEnd(z.Reset(&b.in))
	}
	z, ok := b.d.zstds.Get().(*zstd.Decoder)
	if !ok {
		var err error
		if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdMaxWindow)); err != nil {
			return err // the options are right
		}
	}
	b.zstd = z
	return noEnd(z.Reset(&b.in))
}

// noEnd keeps an empty body, which no encoding makes, from being a good end.
func noEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (b *plainBody) decode(p []byte) (int, error) {
	if b.gzip != nil {
		return b.gzip.Read(p)
	}
	n, err := b.zstd.Read(p)
	if err == io.EOF && b.in.n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements io.Closer.
func (b *plainBody) Close() error { return b.src.Close() }

// release gives the decoder back. One that is being used still is left to its reader.
func (b *plainBody) release() {
	defer b.d.active.Add(-1)
	if !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	b.done = true
	if b.gzip != nil {
		b.d.gzips.Put(b.gzip)
	}
	if b.zstd != nil && b.zstd.Reset(nil) == nil {
		b.d.zstds.Put(b.zstd)
	}
}
