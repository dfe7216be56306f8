package filter

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/np-appliance/np/ctrl/gateway/exchange"
)

// CompressOptions is which answers are compressed and how.
type CompressOptions struct {
	Encodings []string // of "zstd" and "gzip", the preferred one first; none: both so
	Types     []string // media types, "type/*" or "*/*+suffix"; none: DefaultTypes
	MinSize   int      // bytes from which it is worth it; 0: 1,024
	Level     int      // 1 (fast) to 3 (small); 0: 1
	MaxActive int      // answers compressed at a time, which bounds the encoders' memory; about 1 MiB each; more go uncompressed; 0: 256
}

// DefaultTypes are the media types that get smaller.
func DefaultTypes() []string {
	return []string{
		"text/*", "application/json", "*/*+json", "application/xml", "*/*+xml", "application/javascript", "application/x-javascript",
		"application/wasm", "application/x-ndjson", "application/graphql", "application/yaml", "application/toml", "application/manifest+json",
		"font/ttf", "font/otf", "application/vnd.ms-fontobject", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon",
	}
}

const (
	defaultMinSize   = 1024
	maxMinSize       = 1 << 20
	defaultMaxActive = 256       // at about 1 MiB each
	zstdWindow       = 256 << 10 // browsers take 8 MiB (RFC 9659), but each open stream holds one
)

// compressor is the stage's part that all requests share.
type compressor struct {
	o       CompressOptions
	offered []coding
	types   []string
	pools   [numCodings]sync.Pool
	active  atomic.Int64
}

// encoder is what both libraries have.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// NewCompress makes the stage that compresses answers for clients that ask for it. These
// go as they are: answers to HEAD and to requests for ranges, partial ones, those that
// have an encoding, a digest of their content or no-transform, small ones, and media
// types that are not listed. A client that refuses the unencoded form (identity;q=0) gets
// small and unlisted ones compressed too, or 406 if it takes no encoding that is offered.
//
// Answers that are flushed (server-sent events) are compressed from the first flush on
// and flushed through. Strong entity tags become weak: the bytes are others.
//
// Answers that mix secrets with what a client sent in let both be guessed from their
// size (BREACH): leave such routes without compression.
func NewCompress(o CompressOptions) (Stage, error) {
	c, err := newCompressor(o)
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(next, w, r) })
	}, nil
}

func newCompressor(o CompressOptions) (*compressor, error) {
	var check checker
	c := &compressor{}
	if len(o.Encodings) == 0 {
		o.Encodings = []string{"zstd", "gzip"}
	}
	for i, s := range o.Encodings {
		k, ok := parseCoding(s)
		if !ok || k == identity || k.String() != s {
			check.badAt("encodings", i, `%q: expected "zstd" or "gzip"`, s)
			continue
		}
		c.offered = append(c.offered, k)
	}
	if len(o.Encodings) == 2 && o.Encodings[0] == o.Encodings[1] {
		check.badAt("encodings", 1, "%q: expected once", o.Encodings[1])
	}
	if len(o.Types) == 0 {
		o.Types = DefaultTypes()
	}
	for i, s := range o.Types {
		a, b, ok := strings.Cut(s, "/")
		if !ok || !isToken(a) || !isToken(b) || a == "*" && !strings.HasPrefix(b, "*+") || strings.Contains(b, "*") && b[0] != '*' {
			check.badAt("types", i, `%q: expected a media type such as "text/html", "text/*" or "*/*+json"`, s)
		}
		c.types = append(c.types, strings.ToLower(s))
	}
	if o.MinSize == 0 {
		o.MinSize = defaultMinSize
	}
	if o.MinSize < 1 || o.MinSize > maxMinSize {
		check.bad("min_size", "%d: expected 1 to %d bytes", o.MinSize, maxMinSize)
	}
	if o.Level == 0 {
		o.Level = 1
	}
	if o.Level < 1 || o.Level > 3 {
		check.bad("level", "%d: expected 1 (fast) to 3 (small)", o.Level)
	}
	if o.MaxActive == 0 {
		o.MaxActive = defaultMaxActive
	}
	if o.MaxActive < 1 {
		check.bad("max_active", "%d: expected 1 or more", o.MaxActive)
	}
	c.o = o
	return c, check.err()
}

// encoder takes one from the pool; nil: as many as may be are in use.
func (c *compressor) encoder(k coding, w io.Writer) encoder {
	if c.active.Add(1) > int64(c.o.MaxActive) {
		c.active.Add(-1)
		return nil
	}
	e, ok := c.pools[k].Get().(encoder)
	if !ok {
		e = c.open(k)
	}
	e.Reset(w)
	return e
}

func (c *compressor) open(k coding) encoder {
	if k == gzipped {
		e, err := gzip.NewWriterLevel(io.Discard, [...]int{gzip.BestSpeed, 5, 8}[c.o.Level-1])
		if err != nil { // the levels are ours
			panic(err)
		}
		return e
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(false), zstd.WithEncoderLevel([...]zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression}[c.o.Level-1]))
	if err != nil {
		panic(err)
	}
	return e
}

func (c *compressor) release(k coding, e encoder) {
	e.Reset(io.Discard) // holds no writer of a request
	c.pools[k].Put(e)
	c.active.Add(-1)
}

func (c *compressor) listed(mediaType string) bool {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	mediaType = strings.ToLower(trim(mediaType))
	kind, sub, ok := strings.Cut(mediaType, "/")
	if !ok {
		return false
	}
	for _, t := range c.types {
		a, b, _ := strings.Cut(t, "/")
		switch {
		case t == mediaType, b == "*" && a == kind:
			return true
		case strings.HasPrefix(b, "*+") && (a == "*" || a == kind) && strings.HasSuffix(sub, b[1:]):
			return true
		}
	}
	return false
}

func (c *compressor) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	accept := parseAccept(r.Header["Accept-Encoding"])
	best, ok := accept.choose(c.offered)
	if !ok {
		addVary(w.Header(), "Accept-Encoding")
		exchange.Refuse(w, r, exchange.NotAcceptable, "expected an Accept-Encoding with identity, "+strings.Join(c.o.Encodings, " or "))
		return
	}
	if r.Method == http.MethodConnect || len(r.Header["Upgrade"]) > 0 {
		next.ServeHTTP(w, r)
		return
	}
	cw := &compressWriter{through: through{w}, c: c, coding: best, have: r.Header["If-None-Match"]}
	cw.never = r.Method == http.MethodHead || len(r.Header["Range"]) > 0 || hasToken(r.Header["Cache-Control"], "no-transform")
	cw.force = best != identity && accept[identity] == 0
	done := false
	defer func() {
		if !done {
			cw.abandon()
		}
	}()
	next.ServeHTTP(cw, r)
	done = true
	if err := cw.finish(); err != nil {
		exchange.From(r.Context()).Note(err)
	}
}

type compressState uint8

// States of a compressWriter.
const (
	headUnsent compressState = iota
	gathering                // until it is known to be long enough; the head waits
	passing                  // as it is
	encoding
)

// compressWriter is one answer.
type compressWriter struct {
	through
	c      *compressor
	coding coding
	never  bool // the request is of a kind that gets no encoded answer
	force  bool // the client refuses the unencoded form
	state  compressState
	status int
	begin  []byte
	enc    encoder
	have   []string // entity tags that the client has
}

// eligible says whether an answer of this head can be compressed, for some client.
func (w *compressWriter) eligible(status int, h http.Header) bool {
	if status == http.StatusNoContent || status == http.StatusPartialContent || status == http.StatusNotModified || status == http.StatusSwitchingProtocols {
		return false
	}
	for _, name := range [...]string{"Content-Range", "Content-Digest", "Repr-Digest", "Digest"} {
		if len(h[name]) > 0 {
			return false
		}
	}
	if t := h["Content-Type"]; len(t) > 0 && strings.HasPrefix(strings.ToLower(t[0]), "application/grpc") {
		return false // it has compression of its own, and clients that know no other
	}
	if e := h["Content-Encoding"]; len(e) > 0 && (len(e) > 1 || !strings.EqualFold(trim(e[0]), "identity")) {
		return false
	}
	return !hasToken(h["Cache-Control"], "no-transform") && (w.force || len(h["Content-Type"]) == 1 && w.c.listed(h["Content-Type"][0]))
}

func (w *compressWriter) WriteHeader(status int) {
	if !isFinal(status) {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.state != headUnsent {
		return
	}
	w.status = status
	h := w.Header()
	if status == http.StatusNotModified {
		w.confirm(h)
	}
	length := int64(-1)
	if l := h["Content-Length"]; len(l) == 1 {
		if n, err := strconv.ParseInt(l[0], 10, 64); err == nil {
			length = n
		}
	}
	if !w.eligible(status, h) || length >= 0 && length < int64(w.c.o.MinSize) && (!w.force || length == 0) {
		w.pass()
		return
	}
	addVary(h, "Accept-Encoding")
	switch {
	case w.never || w.coding == identity:
		w.pass()
	case length >= 0:
		w.encode()
	default:
		w.state = gathering
	}
}

// confirm makes the head of a 304 that of the answer which it stands for (RFC 9110
// §15.4.5): compressed that had Vary and, where the client shows so, a weak entity tag.
func (w *compressWriter) confirm(h http.Header) {
	addVary(h, "Accept-Encoding")
	tag := h["Etag"]
	if len(tag) != 1 || !strings.HasPrefix(tag[0], `"`) {
		return
	}
	weak := "W/" + tag[0]
	for _, line := range w.have {
		for one := range strings.SplitSeq(line, ",") { // a tag with a comma in it stays as it is
			if trim(one) == weak {
				h["Etag"] = []string{weak}
				return
			}
		}
	}
}

// pass sends the head as it is.
func (w *compressWriter) pass() {
	w.state = passing
	w.ResponseWriter.WriteHeader(w.status)
}

// encode sends the head of a compressed answer.
func (w *compressWriter) encode() {
	w.enc = w.c.encoder(w.coding, w.ResponseWriter)
	if w.enc == nil {
		w.pass()
		return
	}
	w.state = encoding
	h := w.Header()
	h["Content-Encoding"] = []string{w.coding.String()}
	delete(h, "Content-Length")
	delete(h, "Accept-Ranges")
	if tag := h["Etag"]; len(tag) == 1 && strings.HasPrefix(tag[0], `"`) {
		h["Etag"] = []string{"W/" + tag[0]}
	}
	w.ResponseWriter.WriteHeader(w.status)
}

// settle ends the gathering: what is there is sent, encoded or not.
func (w *compressWriter) settle(encode bool) error {
	if encode {
		w.encode()
	} else {
		w.pass()
	}
	begin := w.begin
	w.begin = nil
	if len(begin) == 0 {
		return nil
	}
	_, err := w.Write(begin)
	return err
}

func (w *compressWriter) Write(p []byte) (int, error) {
	if w.state == headUnsent {
		w.WriteHeader(http.StatusOK)
	}
	if w.state == gathering {
		if len(w.begin)+len(p) < w.c.o.MinSize {
			w.begin = append(w.begin, p...)
			return len(p), nil
		}
		if err := w.settle(true); err != nil {
			return 0, err
		}
	}
	if w.state == encoding {
		return w.enc.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

func (w *compressWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.state == headUnsent {
		w.WriteHeader(http.StatusOK)
	}
	if w.state == passing {
		return io.Copy(w.ResponseWriter, r)
	}
	return io.Copy(bare{w}, r)
}

// Flush sends what there is.
func (w *compressWriter) Flush() { _ = w.FlushError() }

// FlushError sends what there is.
func (w *compressWriter) FlushError() error {
	if w.state == headUnsent {
		w.WriteHeader(http.StatusOK)
	}
	if w.state == gathering {
		if err := w.settle(true); err != nil {
			return err
		}
	}
	if w.state == encoding {
		if err := w.enc.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack takes the connection over: what follows is not an answer.
func (w *compressWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.through.Hijack()
	if err == nil {
		w.state = passing
	}
	return c, rw, err
}

// finish ends an answer that is complete.
func (w *compressWriter) finish() error {
	var err error
	if w.state == headUnsent {
		w.WriteHeader(http.StatusOK)
	}
	if w.state == gathering {
		if len(w.Header()["Trailer"]) == 0 && !w.force {
			w.Header()["Content-Length"] = []string{strconv.Itoa(len(w.begin))}
		}
		err = w.settle(w.force && len(w.begin) > 0)
	}
	if w.enc != nil {
		err = errors.Join(err, w.enc.Close())
		w.c.release(w.coding, w.enc)
		w.enc = nil
	}
	return err
}

// abandon ends one that is not, without what would make it look complete.
func (w *compressWriter) abandon() {
	if w.enc != nil {
		w.c.release(w.coding, w.enc)
		w.enc = nil
	}
}
