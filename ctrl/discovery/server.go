package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/upstream"
)

// TLS is how a server that is asked for endpoints is reached by TLS. Files are read when
// a source begins and after each error, so that renewed ones come into use.
type TLS struct {
	CAFile     string // who issues the server's certificate; "": the system's roots
	CertFile   string // what to show when asked, with KeyFile; "": nothing
	KeyFile    string
	ServerName string // "": the host of the address
}

func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := secure.Client{ServerName: t.ServerName}
	var err error
	if t.CAFile != "" {
		if c.CA, err = secure.ReadCA(t.CAFile); err != nil {
			return nil, err
		}
	}
	if t.CertFile != "" {
		if c.Store, err = secure.Load([]secure.Files{{Cert: t.CertFile, Key: t.KeyFile}}, false, time.Now); err != nil {
			return nil, err
		}
	}
	return c.Config()
}

const maxSecret = 64 << 10 // bytes of a token or a password

// readSecret reads a token or a password, without the line's end.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if s == "" || len(b) > maxSecret || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%s: expected one line of at most %d bytes", path, maxSecret)
	}
	return s, nil
}

// api is a server that is asked by HTTP.
type api struct {
	address   string // host:port
	tls       *TLS
	tokenFile string // read for each request
	header    string // that takes the token, after prefix
	prefix    string
	dial      upstream.DialFunc

	client *http.Client
}

// open makes the client; after an error it is made anew.
func (a *api) open() error {
	if a.client != nil {
		return nil
	}
	conf, err := a.tls.config()
	if err != nil {
		return err
	}
	a.client = &http.Client{
		Transport: &http.Transport{
			DialContext:            a.dial,
			TLSClientConfig:        conf,
			MaxIdleConns:           1,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // what is bounded are the bytes that come
		},
		// A redirect would carry the token to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

func (a *api) close() {
	if a.client != nil {
		a.client.CloseIdleConnections()
		a.client = nil
	}
}

// statusError is an answer with another status than 200.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("status %d", e.code)
	if e.text != "" {
		s += fmt.Sprintf(": %.200q", e.text)
	}
	return s
}

// get sends a request. The caller ends ctx and closes the body.
func (a *api) get(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	if err := a.open(); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "http", Host: a.address, Path: path, RawQuery: query.Encode()}
	if a.tls != nil {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "np-discovery")
	if a.tokenFile != "" {
		token, err := readSecret(a.tokenFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set(a.header, a.prefix+token)
	}
	res, err := a.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its URL differs each time, by the index
			err = u.Err
		}
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 512))
		return nil, &statusError{res.StatusCode, strings.TrimSpace(string(text))}
	}
	return res, nil
}

// limited is a body that is an error when it is longer than left.
type limited struct {
	r    io.Reader
	left int64
	max  int64
}

func limit(r io.Reader, n int64) io.Reader { return &limited{r, n, n} }

func (l *limited) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("answer of more than %d bytes", l.max)
	}
	n, err := l.r.Read(b[:min(int64(len(b)), l.left)])
	l.left -= int64(n)
	return n, err
}

// checkServer says what is wrong with the address of a server.
func checkServer(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || checkHost(host) != nil {
		return fmt.Errorf("address %q: expected HOST:PORT", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %q: expected a port from 1 to 65535", address)
	}
	return nil
}

// checkHost says what is wrong with the name or address of a host.
func checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("host %s: expected an address of a host", host)
		}
		return nil
	}
	if checkName(host) != nil {
		return fmt.Errorf("host %q: expected a name or an address", host)
	}
	return nil
}

// endpointAddress joins what a server said of an endpoint.
func endpointAddress(host string, port int) (string, error) {
	if err := checkHost(host); err != nil {
		return "", err
	}
	if port < 1 || port > 65535 {
		return "", fmt.Errorf("port %d of %s: expected 1 to 65535", port, host)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// faults collects what is wrong with parts of an answer, and remembers the first.
type faults struct {
	n     int
	first error
}

func (f *faults) add(err error) {
	if f.n++; f.n == 1 {
		f.first = err
	}
}

func (f *faults) err() error {
	if f.n > 1 {
		return fmt.Errorf("%w (and %d more that are left out)", f.first, f.n-1)
	}
	return f.first
}
