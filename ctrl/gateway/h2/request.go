package h2

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// request begins a request whose head is there.
func (c *Conn) request() error {
	h := &c.head
	st := &stream{c: c, id: h.id, declared: -1}
	st.length = -1
	st.canRead.L, st.canSend.L = &c.mu, &c.mu
	st.ctx.Init(c.ctx)
	if h.tooLarge {
		st.refusal, st.detail = TooLarge, "head that is too large"
	} else if st.detail = c.build(st); st.detail != "" {
		st.refusal = Malformed
	}
	r := &st.req
	if st.refusal != 0 {
		st.line = h.firstLine()
		*r = http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, RequestURI: "/", Header: http.Header{}, Host: "refused.invalid"}
		if h.method == http.MethodHead { // its answer has no body, whatever else is wrong
			r.Method = h.method
		}
	}
	r.Proto, r.ProtoMajor, r.RemoteAddr, r.TLS = "HTTP/2.0", 2, c.remote, c.tls
	r.Body = http.NoBody
	if !h.end {
		r.Body = (*body)(st)
	}
	*r = *r.WithContext(&st.ctx)
	return c.start(st)
}

// start hands a request to a worker.
func (c *Conn) start(st *stream) error {
	h := &c.head
	now := c.e.now()
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		st.ctx.Cancel(nil)
		return nil
	}
	st.received = h.end
	st.give, st.window = c.first, c.e.c.StreamBytes
	if c.unsettled != 0 { // the client may not know better
		st.window = max(st.window, minWindow)
	}
	st.prio = c.priorityOf(st)
	if len(c.updates) > 0 {
		for id := range c.updates { // bound: maxUpdates
			if id <= h.id {
				delete(c.updates, id)
			}
		}
	}
	c.streams[h.id] = st
	c.running++
	var err error
	if st.refusal == Malformed {
		c.e.c.Fault(st.detail)
		err = c.mistake()
	}
	if c.requests++; c.e.c.Requests > 0 && c.requests >= c.e.c.Requests {
		c.leave(now)
	}
	c.mu.Unlock()
	c.e.workers.run(task{c, st})
	return err
}

// priorityOf is a new stream's. A proxy between says of its clients' requests, which must
// not be able to put back each other's, nothing (RFC 9218 §5). c.mu is held.
func (c *Conn) priorityOf(st *stream) priority {
	h := st.req.Header
	if !c.between && (h["X-Forwarded-For"] != nil || h["Via"] != nil || h["Forwarded"] != nil) {
		c.between = true
	}
	field, has := h["Priority"]
	update, updated := c.updates[st.id]
	if has || updated {
		c.aware = true
	}
	switch {
	case c.between || !c.aware:
		return fairPriority
	case updated:
		return parsePriority(plainPriority, update)
	case has:
		return parsePriority(plainPriority, strings.Join(field, ","))
	}
	return plainPriority
}

// build makes a request of the head, and says why it can't.
func (c *Conn) build(st *stream) (wrong string) {
	h := &c.head
	if wrong = h.judge(); wrong != "" {
		return wrong
	}
	r := &st.req
	r.Method = h.method
	if r.Host = h.authority; h.said&saidAuthority == 0 {
		r.Host = h.host
	}
	r.URL = &st.url
	if h.method == http.MethodConnect && h.said&saidProtocol == 0 {
		r.RequestURI = h.authority
		st.url.Host = h.authority
	} else {
		r.RequestURI = h.path
		if !quickURL(&st.url, h.path) {
			u, err := url.ParseRequestURI(h.path)
			if err != nil {
				return "path that can't be parsed"
			}
			st.url = *u
		}
	}
	return c.fields(st)
}

// quickURL parses a path with nothing in it that has to be decoded, or is written in more
// than one way.
func quickURL(u *url.URL, path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case classes[c]&quick != 0:
		case c == '?' && i+1 < len(path) && strings.IndexByte(path[i+1:], '#') < 0:
			u.Path, u.RawQuery = path[:i], path[i+1:]
			return validQuery(u.RawQuery)
		default:
			return false
		}
	}
	u.Path = path
	return path[0] == '/'
}

// validQuery: what url.Parse refuses anywhere, and what it does not.
func validQuery(q string) bool {
	for i := range len(q) {
		if q[i] <= ' ' || q[i] >= 0x7f {
			return false
		}
	}
	return true
}

// fields makes the header of the list, and says what is wrong with it.
func (c *Conn) fields(st *stream) (wrong string) {
	h, r := &c.head, &st.req
	n := len(h.list)
	if h.cookies > 1 {
		n -= h.cookies - 1
	}
	r.Header = make(http.Header, n+1)
	values := make([]string, n+1)
	for i := range h.list { // bound: HeadBytes
		f := &h.list[i]
		switch f.Name {
		case "cookie":
			if h.cookies > 1 {
				f.Value = h.joinCookies(i)
				h.cookies = 0 // the others are in it
			} else if h.cookies == 0 {
				continue
			}
		case "content-length":
			if st.declared >= 0 {
				return "more than one Content-Length"
			}
			if st.declared = contentLength(f.Value); st.declared < 0 {
				return "Content-Length that is no number"
			}
		case "expect":
			st.expects = strings.EqualFold(f.Value, "100-continue")
		case "trailer":
			st.declareTrailer(f.Value)
			continue
		}
		name := canonical(f.Name)
		if old := r.Header[name]; old != nil {
			r.Header[name] = append(old, f.Value)
			continue
		}
		values[0] = f.Value
		r.Header[name] = values[:1:1]
		values = values[1:]
	}
	if h.said&saidProtocol != 0 {
		values[0] = h.protocol
		r.Header[":protocol"] = values[:1:1] // as net/http's servers tell it
	}
	return c.length(st)
}

// length sets the body's length.
func (c *Conn) length(st *stream) (wrong string) {
	r := &st.req
	r.Trailer = st.trailer
	r.ContentLength = st.declared
	if c.head.end {
		if r.ContentLength = 0; st.declared > 0 {
			return "Content-Length and no body"
		}
	}
	return ""
}

// joinCookies makes one field of all (RFC 9113 §8.2.3).
func (h *head) joinCookies(from int) string {
	n := 0
	for _, f := range h.list[from:] {
		if f.Name == "cookie" {
			n += len(f.Value) + 2
		}
	}
	var b strings.Builder
	b.Grow(n)
	for _, f := range h.list[from:] {
		if f.Name == "cookie" {
			if b.Len() > 0 {
				b.WriteString("; ")
			}
			b.WriteString(f.Value)
		}
	}
	return b.String()
}

// contentLength reads one; -1: it is none.
func contentLength(s string) int64 {
	if len(s) == 0 || len(s) > 18 {
		return -1
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || s[0] == '+' {
		return -1
	}
	return int64(n)
}

// maxTrailers bounds the names that a request may announce.
const maxTrailers = 64

// declareTrailer notes what trailers a request announces.
func (st *stream) declareTrailer(value string) {
	for name := range strings.SplitSeq(value, ",") { // bound: HeadBytes
		name = strings.Trim(name, " \t")
		if !token(name) || len(st.trailer) >= maxTrailers || !mayTrail(name) {
			continue
		}
		if st.trailer == nil {
			st.trailer = http.Header{}
		}
		st.trailer[canonical(strings.ToLower(name))] = nil
	}
}

// mayTrail says whether a field may come after the body (RFC 9110 §6.5.1).
func mayTrail(name string) bool {
	for _, no := range [...]string{"content-length", "transfer-encoding", "host", "trailer", "te", "connection", "upgrade", "expect"} {
		if strings.EqualFold(name, no) {
			return false
		}
	}
	return true
}

// trailer takes the trailers of a request.
func (c *Conn) trailer() error {
	h := &c.head
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.streams[h.id]
	if st == nil { // it has ended while they came
		return nil
	}
	if h.wrong != "" || h.tooLarge {
		why := h.wrong
		if h.tooLarge {
			why = "trailers that are too large"
		}
		return c.refuse(h.id, ProtocolError, why)
	}
	for _, f := range h.list { // bound: HeadBytes
		name := canonical(f.Name)
		if !mayTrail(f.Name) {
			return c.refuse(h.id, ProtocolError, "trailer that says how the message is framed")
		}
		if _, ok := st.trailer[name]; !ok { // a handler that knows of none would not look at them
			continue
		}
		if st.trailed == nil {
			st.trailed = http.Header{}
		}
		st.trailed[name] = append(st.trailed[name], f.Value)
	}
	c.endBody(st)
	return nil
}

// canonical is a field's name as net/http writes it.
func canonical(name string) string {
	if s, ok := canonicalNames[name]; ok {
		return s
	}
	return http.CanonicalHeaderKey(name)
}

// small is the name as HTTP/2 writes it.
func small(name string) string {
	if s, ok := smallNames[name]; ok {
		return s
	}
	return strings.ToLower(name)
}

// Fields that are often sent, both ways, and never changed.
var canonicalNames, smallNames = func() (c, s map[string]string) {
	c, s = map[string]string{}, map[string]string{}
	for _, name := range [...]string{
		"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Accept-Ranges", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers",
		"Access-Control-Allow-Methods", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Access-Control-Max-Age",
		"Access-Control-Request-Headers", "Access-Control-Request-Method", "Age", "Allow", "Alt-Svc", "Authorization", "Cache-Control",
		"Content-Disposition", "Content-Encoding", "Content-Language", "Content-Length", "Content-Location", "Content-Range", "Content-Security-Policy",
		"Content-Type", "Cookie", "Date", "Dnt", "Early-Data", "Etag", "Expect", "Expires", "Forwarded", "From", "Grpc-Accept-Encoding", "Grpc-Encoding",
		"Grpc-Message", "Grpc-Status", "Grpc-Status-Details-Bin", "Grpc-Timeout", "Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
		"If-Unmodified-Since", "Keep-Alive", "Last-Modified", "Link", "Location", "Max-Forwards", "Origin", "Pragma", "Priority", "Proxy-Authenticate",
		"Proxy-Authorization", "Range", "Referer", "Refresh", "Retry-After", "Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest",
		"Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Sec-Websocket-Extensions", "Sec-Websocket-Protocol", "Sec-Websocket-Version", "Server",
		"Server-Timing", "Set-Cookie", "Strict-Transport-Security", "Te", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding",
		"Upgrade-Insecure-Requests", "User-Agent", "Vary", "Via", "Www-Authenticate", "X-Api-Key", "X-Content-Type-Options", "X-Forwarded-For",
		"X-Forwarded-Host", "X-Forwarded-Proto", "X-Frame-Options", "X-Real-Ip", "X-Request-Id", "X-Requested-With", "X-Xss-Protection",
	} {
		l := strings.ToLower(name)
		c[l], s[name] = name, l
	}
	return c, s
}()
