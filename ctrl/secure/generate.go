package secure

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/wholefile"
)

// Generated is what [Generate] made, PEM.
type Generated struct {
	CA, CAKey []byte // nil when an authority was given
	Cert, Key []byte
}

// Request says what certificate is wanted.
type Request struct {
	Names  []string // DNS names and IP addresses; the first is the common name
	Client bool     // for client authentication rather than a server
	Valid  time.Duration
	CA     []byte // PEM of an authority; nil: a new one is made
	CAKey  []byte
	Now    time.Time
}

// backdate lets clocks that are a little behind accept a new certificate.
const backdate = 5 * time.Minute

// Generate makes an ECDSA P-256 certificate for development and tests. Real ones come from a
// real authority: nobody else trusts this one.
func Generate(r Request) (*Generated, error) {
	if len(r.Names) == 0 {
		return nil, errors.New("no name, expected a DNS name or an IP address")
	}
	if r.Valid <= 0 {
		return nil, fmt.Errorf("valid for %s, expected more than 0", r.Valid)
	}
	out := &Generated{}
	ca, caKey, err := r.authority(out)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(r.Names[0], r.Now, r.Valid)
	if err != nil {
		return nil, err
	}
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if r.Client {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, n := range r.Names {
		if err := checkName(n); err != nil {
			return nil, err
		}
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	out.Cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	out.Key, err = keyPEM(key)
	return out, err
}

// authority reads the given one or makes one that lives as long as the certificate.
func (r *Request) authority(out *Generated) (*x509.Certificate, any, error) {
	if r.CA == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		t, err := template("np development CA", r.Now, r.Valid)
		if err != nil {
			return nil, nil, err
		}
		t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
		if err != nil {
			return nil, nil, fmt.Errorf("make CA: %w", err)
		}
		out.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if out.CAKey, err = keyPEM(key); err != nil {
			return nil, nil, err
		}
		ca, err := x509.ParseCertificate(der)
		return ca, key, err
	}
	block, _ := pem.Decode(r.CA)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, errors.New("CA: no PEM block of type CERTIFICATE")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("CA: %w", err)
	}
	if !ca.IsCA {
		return nil, nil, fmt.Errorf("CA: %s is no authority (basicConstraints CA:TRUE is missing)", ca.Subject)
	}
	if err := valid(ca, r.Now); err != nil {
		return nil, nil, fmt.Errorf("CA: %w", err)
	}
	if block, _ = pem.Decode(r.CAKey); block == nil {
		return nil, nil, errors.New("CA key: no PEM block")
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("CA key: %w", err)
	}
	return ca, key, nil
}

// parseKey takes PKCS #8, SEC 1 and PKCS #1.
func parseKey(der []byte) (any, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, err
}

func template(name string, now time.Time, valid time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: name, Organization: []string{"np"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(valid)}, nil
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Save writes cert.pem and key.pem, and ca.pem and ca-key.pem when an authority was made, into
// dir, which it makes. Keys get mode 0600. A file that is there is an error unless overwrite;
// then nothing is written at all. The names of what was written are returned.
func (g *Generated) Save(dir string, overwrite bool) ([]string, error) {
	files := []struct {
		name string
		data []byte
		mode os.FileMode
	}{{"ca.pem", g.CA, 0o644}, {"ca-key.pem", g.CAKey, 0o600}, {"cert.pem", g.Cert, 0o644}, {"key.pem", g.Key, 0o600}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var there []string
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err == nil && f.data != nil {
			there = append(there, f.name)
		}
	}
	if len(there) > 0 && !overwrite {
		return nil, fmt.Errorf("%s already has %s, expected none of them: choose another directory or --force", dir, strings.Join(there, ", "))
	}
	var wrote []string
	for _, f := range files {
		if f.data == nil {
			continue
		}
		path := filepath.Join(dir, f.name)
		if err := wholefile.Replace(path, f.data, f.mode); err != nil {
			return wrote, err
		}
		wrote = append(wrote, path)
	}
	return wrote, nil
}
