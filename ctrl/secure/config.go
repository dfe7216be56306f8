package secure

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ClientAuth says whether a server asks for client certificates.
type ClientAuth uint8

// Choices for client certificates.
const (
	ClientAuthNone    ClientAuth = iota
	ClientAuthRequest            // asked for; one that is sent must verify
	ClientAuthRequire
)

// PostQuantum says how the hybrid key exchange X25519MLKEM768 is used (TLS 1.3 only).
type PostQuantum uint8

// Choices for post-quantum key exchange.
const (
	PostQuantumAuto    PostQuantum = iota // preferred, classical curves beside it
	PostQuantumOff                        // classical curves only
	PostQuantumRequire                    // nothing else
)

// Common is what server and client settings share.
type Common struct {
	MinVersion  uint16   // tls.VersionTLS12 (0 means that) or tls.VersionTLS13
	MaxVersion  uint16   // 0: TLS 1.3
	ALPN        []string // protocols offered or taken, the best first (RFC 7301)
	PostQuantum PostQuantum
	Pins        []string // the peer's leaf must have one of these (see [Pin]); none: any
	Now         func() time.Time
}

// Server are a server's settings.
type Server struct {
	Common
	Store            *Store
	ClientAuth       ClientAuth
	ClientCA         []byte // PEM: who may issue client certificates; needed unless ClientAuthNone
	NoSessionTickets bool   // every handshake is a full one
}

// Client are a client's settings.
type Client struct {
	Common
	ServerName string // verified, and sent as SNI; "" with [Transport]: the host of the address
	CA         []byte // PEM; nil: the system's roots
	Store      *Store // what the client shows when asked; nil: nothing
	Sessions   int    // resumable sessions remembered; 0: 64, negative: none
}

// Pin returns the base64 SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469 §2.4).
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// checkPins returns decoded pins, or which one is none.
func checkPins(pins []string) (map[string]bool, error) {
	out := map[string]bool{}
	for _, p := range pins {
		p = strings.TrimPrefix(p, "sha256/")
		if b, err := base64.StdEncoding.DecodeString(p); err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("pin %q: expected base64 of 32 bytes, as npctl cert show prints", p)
		}
		out[p] = true
	}
	return out, nil
}

func (c *Common) apply(t *tls.Config) error {
	t.MinVersion, t.MaxVersion = c.MinVersion, c.MaxVersion
	if t.MinVersion == 0 {
		t.MinVersion = tls.VersionTLS12
	}
	if t.MaxVersion == 0 {
		t.MaxVersion = tls.VersionTLS13
	}
	if t.MinVersion < tls.VersionTLS12 || t.MaxVersion > tls.VersionTLS13 || t.MinVersion > t.MaxVersion {
		return fmt.Errorf("TLS versions %s to %s, expected 1.2 to 1.3", tls.VersionName(t.MinVersion), tls.VersionName(t.MaxVersion))
	}
	switch c.PostQuantum {
	case PostQuantumOff:
		t.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	case PostQuantumRequire:
		if t.MaxVersion < tls.VersionTLS13 {
			return errors.New("post-quantum key exchange is required but TLS 1.3 is not allowed, expected max_version 1.3")
		}
		t.MinVersion = tls.VersionTLS13
		t.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	}
	t.NextProtos = slices.Clone(c.ALPN)
	t.Time = c.Now
	pins, err := checkPins(c.Pins)
	if err != nil {
		return err
	}
	if len(pins) > 0 {
		// VerifyConnection runs on resumed sessions too, unlike VerifyPeerCertificate.
		t.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the peer showed no certificate, expected one of the pinned ones")
			}
			if got := Pin(s.PeerCertificates[0]); !pins[got] {
				return fmt.Errorf("the peer's key has pin %s, expected one of the %d pinned ones", got, len(pins))
			}
			return nil
		}
	}
	return nil
}

// pool reads PEM certificates. what names them in errors. One that can't be read is an
// error, where x509 would leave it out without a word.
func pool(text []byte, what string) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) { // bound: fileMax
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate number %d: %w", what, n, err)
		}
		p.AddCert(c)
	}
	if n == 0 {
		return nil, fmt.Errorf("%s: no certificate found, expected PEM blocks of type CERTIFICATE", what)
	}
	return p, nil
}

// ReadCA reads a file of PEM certificates for ClientCA or CA.
func ReadCA(path string) ([]byte, error) {
	b, err := readFile(path, "CA file", false)
	if err != nil {
		return nil, err
	}
	_, err = pool(b, "CA file "+path)
	return b, err
}

// Config makes the server side's tls.Config. It follows the store's reloads.
func (s *Server) Config() (*tls.Config, error) {
	if s.Store == nil {
		return nil, errors.New("a TLS server needs a certificate")
	}
	t := &tls.Config{GetCertificate: s.Store.pick, SessionTicketsDisabled: s.NoSessionTickets}
	if err := s.apply(t); err != nil {
		return nil, err
	}
	if s.ClientAuth == ClientAuthNone {
		if len(s.Pins) > 0 {
			return nil, errors.New("pins of clients are given but client_auth is none, expected request or require")
		}
		return t, nil
	}
	if s.ClientCA == nil {
		return nil, errors.New("client_auth asks for certificates but there is no client_ca_file, expected who issues them")
	}
	var err error
	if t.ClientCAs, err = pool(s.ClientCA, "client_ca_file"); err != nil {
		return nil, err
	}
	t.ClientAuth = tls.VerifyClientCertIfGiven
	if s.ClientAuth == ClientAuthRequire {
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return t, nil
}

// Config makes the client side's tls.Config.
func (c *Client) Config() (*tls.Config, error) {
	t := &tls.Config{ServerName: c.ServerName}
	if err := c.apply(t); err != nil {
		return nil, err
	}
	if c.CA != nil {
		p, err := pool(c.CA, "ca_file")
		if err != nil {
			return nil, err
		}
		t.RootCAs = p
	}
	if c.Store != nil {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.Store.live.Load().all[0].tls, nil
		}
	}
	if c.Sessions >= 0 {
		n := c.Sessions
		if n == 0 {
			n = 64
		}
		t.ClientSessionCache = tls.NewLRUClientSessionCache(n)
	}
	return t, nil
}

// Explain puts a handshake's error into words that say what to do; other errors stay as they are.
func Explain(err error) error {
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("%w (the server's certificate is for other names: set server_name, or have it issued for this one)", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w (the peer's certificate, or this machine's clock)", err)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (set ca_file to who issued the peer's certificate)", err)
	}
	return err
}
