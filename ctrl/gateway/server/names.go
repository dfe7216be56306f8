package server

import (
	"crypto/tls"
	"crypto/x509"
)

// covers says whether the certificate for one server name is good for another host. It is
// asked for again, not kept from the handshake: resumed sessions show none.
func (s *Server) covers(serverName, host string) bool {
	cert := certificateFor(s.c.TLS, serverName)
	if cert == nil {
		return false
	}
	leaf := cert.Leaf
	if leaf == nil && len(cert.Certificate) > 0 {
		leaf, _ = x509.ParseCertificate(cert.Certificate[0])
	}
	return leaf != nil && leaf.VerifyHostname(host) == nil
}

// certificateFor asks a configuration as a client that can do all would.
func certificateFor(t *tls.Config, serverName string) *tls.Certificate {
	hello := &tls.ClientHelloInfo{
		ServerName: serverName, SupportedVersions: []uint16{tls.VersionTLS13}, CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256},
		SupportedCurves: []tls.CurveID{tls.X25519, tls.CurveP256}, SupportedPoints: []uint8{0},
		SignatureSchemes: []tls.SignatureScheme{
			tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512, tls.Ed25519,
			tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PSSWithSHA512,
		},
	}
	if t.GetConfigForClient != nil {
		if c, err := t.GetConfigForClient(hello); err == nil && c != nil {
			t = c
		}
	}
	if t.GetCertificate != nil {
		if c, err := t.GetCertificate(hello); err == nil && c != nil {
			return c
		}
	}
	for i := range t.Certificates { // bound: the configuration
		if hello.SupportsCertificate(&t.Certificates[i]) == nil {
			return &t.Certificates[i]
		}
	}
	if len(t.Certificates) > 0 {
		return &t.Certificates[0]
	}
	return nil
}
