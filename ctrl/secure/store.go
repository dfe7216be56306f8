package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// fileMax bounds a PEM file; a chain with its key is a few kilobytes, all roots of a system 300.
const fileMax = 1 << 20

// chainMax bounds what each handshake sends, bytes of DER: OpenSSL's clients take 100 KiB, Go's 256.
const chainMax = 100 << 10

// Errors that callers branch on.
var (
	// ErrExpired: a certificate's time is over.
	ErrExpired = errors.New("certificate has expired")
	// ErrNotYetValid: a certificate's time has not begun.
	ErrNotYetValid = errors.New("certificate is not valid yet")
	// ErrNoCertificate: no certificate for the name that a client asked for.
	ErrNoCertificate = errors.New("no certificate for this server name")
)

// Files names a certificate chain and its key.
type Files struct {
	Cert  string   // PEM: the leaf first, then what leads to the root
	Key   string   // PEM, mode 0600 or 0640
	Names []string // server names it answers for; none: those in the certificate
}

// Certificate is one of a Store, as listings show it.
type Certificate struct {
	Files     Files
	Names     []string // that select it
	Subject   string
	Issuer    string
	Serial    string
	NotBefore time.Time
	NotAfter  time.Time
	KeyType   string // "ECDSA", "RSA", "Ed25519"
	Pin       string // base64 SHA-256 of the SubjectPublicKeyInfo (RFC 7469 §2.4)

	tls *tls.Certificate
}

// Store holds certificates and picks one by server name (RFC 6066 §3).
type Store struct {
	now  func() time.Time
	live atomic.Pointer[table]
}

type table struct {
	all    []*Certificate
	exact  map[string]*Certificate
	wild   map[string]*Certificate // by what follows "*"
	strict bool
}

// Load reads all files and makes a store. strict: a name that no certificate has is refused
// (ErrNoCertificate); else the first certificate answers, and the client decides. A certificate
// past its date is an error that says since when; nothing is half loaded.
func Load(files []Files, strict bool, now func() time.Time) (*Store, error) {
	s := &Store{now: now}
	t, err := s.read(files, strict)
	if err != nil {
		return nil, err
	}
	s.live.Store(t)
	return s, nil
}

// Reload reads the given files and puts them in force for handshakes to come, or leaves
// everything as it was and says why. Connections stay.
func (s *Store) Reload(files []Files, strict bool) error {
	t, err := s.read(files, strict)
	if err != nil {
		return err
	}
	s.live.Store(t)
	return nil
}

// Certificates lists what is in force.
func (s *Store) Certificates() []Certificate {
	t := s.live.Load()
	out := make([]Certificate, len(t.all))
	for i, c := range t.all {
		out[i] = *c
	}
	return out
}

func (s *Store) read(files []Files, strict bool) (*table, error) {
	t := &table{exact: map[string]*Certificate{}, wild: map[string]*Certificate{}, strict: strict}
	if len(files) == 0 {
		return nil, errors.New("no certificate, expected at least one cert_file with its key_file (npctl cert generate makes one for development)")
	}
	var errs []error
	for _, f := range files {
		c, err := s.readOne(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := t.add(c); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *table) add(c *Certificate) error {
	for _, n := range c.Names {
		m, key := t.exact, n
		if strings.HasPrefix(n, "*.") {
			m, key = t.wild, n[1:]
		}
		if o := m[key]; o != nil {
			if slices.Contains(o.Files.Names, n) && slices.Contains(c.Files.Names, n) {
				return fmt.Errorf("certificates %s and %s are both given for %q, expected one", o.Files.Cert, c.Files.Cert, n)
			}
			if !slices.Contains(c.Files.Names, n) {
				continue // the first one, or the one that was given the name, keeps it
			}
		}
		m[key] = c
	}
	t.all = append(t.all, c)
	return nil
}

// readFile reads a file of at most fileMax bytes. secret: others must not read it.
func readFile(path, what string, secret bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold up a reload
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s %s does not exist (npctl cert generate makes one for development): %w", what, path, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s %s may not be read by this user (chown or chgrp it to npd's): %w", what, path, fs.ErrPermission)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %s is no regular file, expected a PEM file", what, path)
	} else if secret && fi.Mode().Perm()&0o037 != 0 {
		return nil, fmt.Errorf("%s %s has mode %04o, expected 0600 or 0640 (chmod 600 %s)", what, path, fi.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(b) > fileMax {
		return nil, fmt.Errorf("%s %s is longer than %d bytes, expected a PEM file", what, path, fileMax)
	}
	return b, nil
}

func (s *Store) readOne(f Files) (*Certificate, error) {
	cert, err := readFile(f.Cert, "certificate", false)
	if err != nil {
		return nil, err
	}
	key, err := readFile(f.Key, "private key", true)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w (expected a PEM chain, leaf first, and the key of its leaf)", f.Cert, f.Key, err)
	}
	if err := checkChain(pair.Certificate); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	leaf := pair.Leaf
	if err := valid(leaf, s.now()); err != nil {
		return nil, fmt.Errorf("certificate %s: %w (have it issued again, then npctl cert reload)", f.Cert, err)
	}
	c := &Certificate{Files: f, Subject: leaf.Subject.String(), Issuer: leaf.Issuer.String(), Serial: leaf.SerialNumber.Text(16),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, KeyType: leaf.PublicKeyAlgorithm.String(), Pin: Pin(leaf), tls: &pair}
	if len(f.Names) == 0 {
		c.Names = certificateNames(leaf)
	}
	for _, n := range f.Names {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if err := checkName(n); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.Cert, err)
		}
		if err := leaf.VerifyHostname(strings.Replace(n, "*", "any", 1)); err != nil {
			return nil, fmt.Errorf("certificate %s is given for %q but is for %s, expected one of these names", f.Cert, n, strings.Join(certificateNames(leaf), ", "))
		}
		c.Names = append(c.Names, n)
	}
	return c, nil
}

// checkChain looks at all that a handshake will send; tls.X509KeyPair looks only at the leaf.
func checkChain(chain [][]byte) error {
	sum := 0
	for i, der := range chain { // bound: fileMax
		if sum += len(der); sum > chainMax {
			return fmt.Errorf("the first %d of %d certificates in it are longer than %d bytes, expected the leaf and what leads to its root, not a bundle of roots", i+1, len(chain), chainMax)
		}
		if _, err := x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("number %d of the chain: %w", i+1, err)
		}
	}
	return nil
}

// checkName refuses what no client asks for: n is an IP address, or a DNS name (RFC 1123 §2.1)
// whose first label may be "*".
func checkName(n string) error {
	if _, err := netip.ParseAddr(n); err == nil {
		return nil
	}
	wrong := len(n) > 253
	for label := range strings.SplitSeq(strings.TrimPrefix(n, "*."), ".") {
		wrong = wrong || label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, nameChars) != ""
	}
	if wrong {
		return fmt.Errorf("name %q: expected a DNS name in ASCII (xn--… for others), one such as *.example, or an IP address", n)
	}
	return nil
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func certificateNames(leaf *x509.Certificate) []string {
	var names []string
	for _, n := range leaf.DNSNames {
		names = append(names, strings.ToLower(n))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func valid(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("%w: since %s", ErrExpired, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%w: from %s on; look at this machine's clock", ErrNotYetValid, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// pick implements tls.Config.GetCertificate.
func (s *Store) pick(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t := s.live.Load()
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if c := t.exact[name]; c != nil && name != "" {
		return c.tls, nil
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		if c := t.wild[name[i:]]; c != nil {
			return c.tls, nil
		}
	}
	if name == "" || !t.strict {
		return t.all[0].tls, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrNoCertificate, name)
}
