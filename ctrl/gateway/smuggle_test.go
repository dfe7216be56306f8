package gateway

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/np-appliance/np/ctrl/gateway/hostile"
	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/gateway/server/servertest"
	"github.com/np-appliance/np/ctrl/gateway/target"
)

// sight is a request as a backend saw it.
type backendSight struct {
	id, method, target string
	body               int // bytes
}

// sights collects them.
type sights struct {
	mu  sync.Mutex
	all []backendSight
}

func (s *sights) add(one backendSight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, one)
}

// goBackend is net/http's server.
func goBackend(t *testing.T, s *sights) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			s.add(backendSight{r.Header.Get("X-Request-Id"), r.Method, r.RequestURI, int(n)})
		}
		_, _ = io.WriteString(w, "ok")
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// laxBackend is a server that takes nearly anything for a request, as some have been found
// to: lines that end in LF, names with white space, lengths with signs, whatever holds
// "chunked". byLength says which of Content-Length and Transfer-Encoding it believes.
func laxBackend(t *testing.T, s *sights, byLength bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for br := bufio.NewReader(c); ; {
					one, err := laxRequest(br, byLength)
					if err != nil {
						return
					}
					s.add(one)
					answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
					if one.method == "HEAD" {
						answer = answer[:len(answer)-2]
					}
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func laxRequest(br *bufio.Reader, byLength bool) (one backendSight, err error) {
	line := ""
	for strings.TrimSpace(line) == "" {
		if line, err = br.ReadString('\n'); err != nil {
			return one, err
		}
	}
	parts := strings.Fields(line)
	one.method = parts[0]
	if len(parts) > 1 {
		one.target = parts[1]
	}
	length, chunked := 0, false
	for {
		if line, err = br.ReadString('\n'); err != nil {
			return one, err
		}
		if strings.TrimSpace(line) == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-") {
		case "x-request-id":
			one.id = value
		case "content-length":
			length, _ = strconv.Atoi(strings.Split(strings.TrimLeft(value, "+"), ",")[0])
			if byLength {
				chunked = false
			}
		case "transfer-encoding":
			chunked = strings.Contains(strings.ToLower(value), "chunked") && !(byLength && length > 0)
		}
	}
	if !chunked {
		one.body = length
		_, err = br.Discard(length)
		return one, err
	}
	for {
		if line, err = br.ReadString('\n'); err != nil {
			return one, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(strings.TrimPrefix(strings.TrimSpace(size), "0x"), 16, 32)
		if err != nil {
			return one, err
		}
		if n == 0 {
			break
		}
		one.body += int(n)
		if _, err := br.Discard(int(n)); err != nil {
			return one, err
		}
		if _, err := br.ReadString('\n'); err != nil {
			return one, err
		}
	}
	for strings.TrimSpace(line) != "" || line == "" {
		if line, err = br.ReadString('\n'); err != nil {
			return one, err
		}
	}
	return one, nil
}

// nginxBackend is Debian's nginx, with a server of Go's behind it that sees what nginx
// reads for a body. It returns nginx's own list when the test asks for it.
func nginxBackend(t *testing.T, s *sights) (addr string, own func() []backendSight) {
	program := "/usr/sbin/nginx"
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("NP_PEERS") != "" {
			t.Fatalf("NP_PEERS is set: %v", err)
		}
		t.Skipf("%v; apt-get install nginx-light", err)
	}
	dir := t.TempDir()
	behind := goBackend(t, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	conf := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 512; }
http {
 log_format one escape=json '{"id":"$http_x_request_id","method":"$request_method","target":"$request_uri","status":$status,"line":"$request"}';
 access_log %[1]s/access.log one;
 client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
 keepalive_requests 100000;
 server { listen %[2]s; location / { proxy_pass http://%[3]s; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
`, dir, addr, behind)
	if err := os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", dir+"/nginx.conf", "-p", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		} else if time.Now().After(deadline) {
			b, _ := os.ReadFile(dir + "/error.log")
			t.Fatalf("nginx does not listen: %v\n%s", err, b)
		}
	}
	return addr, func() []backendSight {
		b, err := os.ReadFile(dir + "/access.log")
		if err != nil {
			t.Fatal(err)
		}
		var list []backendSight
		for line := range bytes.Lines(b) {
			var one struct {
				ID, Method, Target, Line string
				Status                   int
			}
			if err := json.Unmarshal(line, &one); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if method, _, _ := strings.Cut(one.Line, " "); one.ID == "" && one.Status == 400 && strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != "" {
				continue // it takes methods of capitals alone
			}
			list = append(list, backendSight{id: one.ID, method: one.Method, target: one.Target, body: -1})
		}
		return list
	}
}

// loggedLine is a line of the gateway's access log.
type loggedLine struct {
	ID       string `json:"request_id"`
	Method   string
	Path     string
	Status   int
	Reason   string
	Upstream string
	Tries    int
	Received int `json:"received_bytes"`
}

// smuggler is a gateway in front of one backend.
type smuggler struct {
	t    *testing.T
	addr string
	end  func() map[string]loggedLine // ends the gateway and returns what it served
}

func newSmuggler(t *testing.T, backend string) *smuggler {
	t.Helper()
	return smugglerOf(t, backend, "", "", nil, func(s *server.Server) (string, func()) { return servertest.Start(t, s, 10*time.Second) })
}

// smugglerOf is one whose listener has more keys, and is served by start; more is of the
// configuration.
func smugglerOf(t *testing.T, backend, keys, more string, tc *tls.Config, start func(*server.Server) (addr string, stop func())) *smuggler {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.json")
	text := keys + "http.body_timeout = \"200ms\"\nhttp.max_control = 0\nhttp.max_resets = 0\n" + fmt.Sprintf("[access_log]\nfile = %q\n", file) +
		upstreamOf("u", backend) + "retry.attempts = 1\noutlier.consecutive_failures = 0\nbreaker.consecutive_failures = 0\n[[route]]\nname = \"all\"\npath_prefix = \"/\"\nupstream = \"u\"\n" + more
	g := New(Options{Dial: dialNet})
	c := load(t, text)
	(&rig{Gateway: g}).apply(t, c)
	s, err := g.Server(c, &c.Listeners[0], tc)
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := start(s)
	end := sync.OnceValue(func() map[string]loggedLine {
		stop()
		g.Close()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		served := map[string]loggedLine{}
		for line := range bytes.Lines(b) {
			var one loggedLine
			if err := json.Unmarshal(line, &one); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if _, twice := served[one.ID]; twice {
				t.Errorf("%s is there twice", one.ID)
			}
			served[one.ID] = one
		}
		return served
	})
	t.Cleanup(func() { end() })
	return &smuggler{t, addr, end}
}

// send sends bytes on a connection of its own, in pieces, and waits until it ends or
// nothing comes any more. Which answers there are is not looked at: backends tell.
func (m *smuggler) send(b []byte, piece int) {
	c, err := net.Dial("tcp", m.addr)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	go func() {
		for at := 0; at < len(b); at += piece {
			if _, err := c.Write(b[at:min(len(b), at+piece)]); err != nil {
				return
			}
		}
	}()
	_, _ = io.Copy(io.Discard, c)
}

// compare wants each request that a backend saw to be one that the gateway sent there, once
// and with the same method, target and body, and each that the gateway got an answer for to
// be one that the backend saw.
func compare(t *testing.T, served map[string]loggedLine, seen []backendSight, answered bool) {
	t.Helper()
	ids := map[string]bool{}
	for _, one := range seen {
		g, known := served[one.id]
		path, _, _ := strings.Cut(one.target, "?")
		sent, err := target.Policy{}.Clean(g.Path) // the log has the path as it came
		switch {
		case !known:
			t.Errorf("the backend saw what the gateway did not send: %+v", one)
		case ids[one.id]:
			t.Errorf("the backend saw it twice: %+v", one)
		case g.Tries != 1 || g.Method != one.method || err != nil || sent.Wire != path || one.body >= 0 && g.Received != one.body:
			t.Errorf("the backend saw %+v, the gateway sent %+v", one, g)
		}
		ids[one.id] = true
	}
	for id, g := range served {
		if answered && g.Tries > 0 && g.Status == 200 && !ids[id] {
			t.Errorf("the gateway got an answer to what no backend saw: %+v", g)
		}
	}
	t.Logf("%d requests at the gateway, %d at the backend", len(served), len(seen))
}

// mangle changes a few bytes, lines or chunks of what is sent.
func mangle(rnd *rand.Rand, seeds []string) []byte {
	b := []byte(seeds[rnd.IntN(len(seeds))])
	words := []string{"\r\n", "\n", "\r", " ", "\t", "\x00", ":", ";", ",", "0", "1", "0x", "+", "chunked", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
		"Host: b\r\n", "\r\n\r\n", "HTTP/1.1", "HTTP/1.0", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "\x0b", "\xff", "#", "..", "%00"}
	for range 1 + rnd.IntN(3) {
		at := rnd.IntN(len(b) + 1)
		switch rnd.IntN(4) {
		case 0:
			b = slices.Insert(b, at, []byte(words[rnd.IntN(len(words))])...)
		case 1:
			b = slices.Delete(b, at, min(len(b), at+1+rnd.IntN(3)))
		case 2:
			other := seeds[rnd.IntN(len(seeds))]
			b = append(b[:at:at], other[rnd.IntN(len(other)):]...)
		case 3:
			if lines := bytes.SplitAfter(b, []byte("\n")); len(lines) > 1 {
				i, j := rnd.IntN(len(lines)), rnd.IntN(len(lines))
				lines[i], lines[j] = lines[j], lines[i]
				b = bytes.Join(lines, nil)
			}
		}
		if len(b) == 0 {
			b = []byte("G")
		}
	}
	return b
}

// attack sends everything: what is known to be read in more than one way, what is right
// and seldom, and both mangled, each between ordinary requests.
func (m *smuggler) attack(mangled int) {
	const before, after = "GET /before HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /after HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
	var list [][]byte
	var seeds []string
	for _, q := range hostile.Requests() {
		list = append(list, []byte(before+q+after))
		seeds = append(seeds, q)
	}
	for _, q := range hostile.Right() {
		list = append(list, []byte(before+q+after), []byte(q+q+before+after))
		seeds = append(seeds, q, q, q)
	}
	slices.Sort(seeds)
	rnd := rand.New(rand.NewPCG(7, 7))
	for range mangled {
		list = append(list, append(append([]byte(before), mangle(rnd, seeds)...), after...))
	}
	work := make(chan []byte)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for b := range work {
				m.send(b, []int{1 << 20, 1 << 20, 64, 7}[i%4])
			}
		})
	}
	for _, b := range list {
		work <- b
	}
	close(work)
	wg.Wait()
}

// streams is a client of HTTP/2 that sends what it likes, so many requests at a time.
type streams struct {
	m     *smuggler
	f     *http2.Framer
	room  chan struct{}
	over  chan struct{} // closed when the connection ends
	id    uint32
	block bytes.Buffer
	enc   *hpack.Encoder
	ended int // connections that the gateway ended
}

func (s *streams) dial() {
	c, err := net.Dial("tcp", s.m.addr)
	if err != nil {
		s.m.t.Fatal(err)
	}
	s.m.t.Cleanup(func() { c.Close() })
	_, _ = io.WriteString(c, http2.ClientPreface)
	s.f, s.id, s.room, s.over, s.enc = http2.NewFramer(c, c), 1, make(chan struct{}, 4), make(chan struct{}), hpack.NewEncoder(&s.block)
	_ = s.f.WriteSettings()
	go func(f *http2.Framer, room, over chan struct{}) {
		defer close(over)
		for {
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			fr, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch fr := fr.(type) {
			case *http2.GoAwayFrame: // for the body of a request whose head was refused
				return
			case *http2.RSTStreamFrame:
				<-room
			case *http2.HeadersFrame:
				if fr.StreamEnded() {
					<-room
				}
			case *http2.DataFrame:
				if fr.StreamEnded() {
					<-room
				}
			}
		}
	}(s.f, s.room, s.over)
}

// request sends one, on another connection if this one has ended.
func (s *streams) request(body string, fields ...string) {
	select {
	case s.room <- struct{}{}:
	case <-s.over:
		s.ended++
		s.dial()
		s.room <- struct{}{}
	}
	s.block.Reset()
	all := append([]string{":scheme", "http", ":authority", "a.test"}, fields...)
	for i := 0; i < len(all); i += 2 {
		_ = s.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	_ = s.f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: s.block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = s.f.WriteData(s.id, true, []byte(body))
	}
	s.id += 2
}

// finish waits for the answers that are not there yet.
func (s *streams) finish() {
	for range cap(s.room) {
		select {
		case s.room <- struct{}{}:
		case <-s.over:
			return
		}
	}
}

// inner is a request in another's body or field.
const inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// oddFields are such as would end a head, or say where a body ends, in HTTP/1.1.
func oddFields(body string) [][]string {
	return [][]string{
		{"content-length", "5"}, {"content-length", "0"}, {"content-length", strconv.Itoa(len(body))}, {"content-length", "+5"}, {"content-length", "5", "content-length", "6"},
		{"transfer-encoding", "chunked"}, {"transfer_encoding", "chunked"}, {"te", "trailers"}, {"connection", "transfer-encoding"}, {"upgrade", "h2c"},
		{"x", "y\r\nTransfer-Encoding: chunked"}, {"x", "y\r\n\r\n" + inner}, {"x: y\r\nz", "a"}, {"x ", "y"}, {"host", "b"}, {"trailer", "content-length"},
		{"expect", "100-continue"}, {"expect", "other"}, {"x-request-id", "forged"}, {"content_length", "5"}, {"transfer-encoding ", "chunked"},
	}
}

// oddPaths are such as would end a line in HTTP/1.1, or be another's.
func oddPaths() []string {
	return []string{"/a b", "/a\r\nX: y", "/a HTTP/1.1\r\nHost: b\r\n\r\n", "/a#b", "http://b/", "*", "/a\tb", "/%0d%0a", "//b/c", "/..;/x"}
}

// down sends over HTTP/2 what would be more than one request in HTTP/1.1.
func (m *smuggler) down() {
	s := &streams{m: m}
	s.dial()
	defer func() {
		s.finish()
		m.t.Logf("%d requests on the last connection, %d ended before", s.id/2, s.ended)
	}()
	request := s.request
	for _, method := range []string{"GET", "POST", "HEAD", "G T", "GET /x HTTP/1.1\r\nX: y", "get"} {
		for _, body := range []string{"", "hello", inner, "0\r\n\r\n" + inner} {
			base := []string{":method", method, ":path", "/two"}
			request(body, base...)
			for _, more := range oddFields(body) {
				request(body, append(slices.Clone(base), more...)...)
			}
			for _, path := range oddPaths() {
				request(body, ":method", method, ":path", path)
			}
		}
	}
}

// TestSmuggling: whatever a client sends, no request is seen differently by the gateway and
// by what is behind it. Each backend's list and the gateway's log are compared, one for one.
func TestSmuggling(t *testing.T) {
	const mangled = 1500
	run := func(name string, start func(*testing.T, *sights) (string, func() []backendSight)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s sights
			addr, own := start(t, &s)
			m := newSmuggler(t, addr)
			m.attack(mangled)
			m.down()
			served := m.end()
			if len(served) < mangled || len(s.all) < mangled/2 {
				t.Errorf("only %d requests at the gateway, %d at the backend", len(served), len(s.all))
			}
			compare(t, served, s.all, true)
			if own != nil {
				compare(t, served, own(), true)
			}
		})
	}
	plain := func(f func(*testing.T, *sights) string) func(*testing.T, *sights) (string, func() []backendSight) {
		return func(t *testing.T, s *sights) (string, func() []backendSight) { return f(t, s), nil }
	}
	run("net/http", plain(goBackend))
	run("nginx", nginxBackend)
	run("lax, by length", plain(func(t *testing.T, s *sights) string { return laxBackend(t, s, true) }))
	run("lax, by coding", plain(func(t *testing.T, s *sights) string { return laxBackend(t, s, false) }))
}
