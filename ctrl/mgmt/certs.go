package mgmt

import (
	"net/http"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

func (s *Server) certs(*http.Request) (any, error) {
	out := api.Certificates{Schema: api.Schema, Certificates: []api.Certificate{}}
	for _, c := range s.cfg.Daemon.Certificates() {
		out.Certificates = append(out.Certificates, api.Certificate{CertFile: c.Files.Cert, KeyFile: c.Files.Key, Names: c.Names,
			Subject: c.Subject, Issuer: c.Issuer, Serial: c.Serial, NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
			SecondsLeft: int64(c.NotAfter.Sub(s.cfg.Now()).Seconds()), KeyType: c.KeyType, Pin: c.Pin})
	}
	return out, nil
}

func (s *Server) reloadCerts(r *http.Request) (any, error) {
	if err := s.cfg.Daemon.ReloadCertificates(); err != nil {
		return nil, failf(api.KindConflict, "certificates not loaded, the old ones stay in force: %v", err)
	}
	return s.certs(r)
}
