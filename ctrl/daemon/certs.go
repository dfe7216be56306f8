package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/secure"
)

// expirySoon is when a certificate's end is worth a warning each time it is loaded.
const expirySoon = 14 * 24 * time.Hour

// errNoCertificates: there is nothing to load.
var errNoCertificates = errors.New("there is no [[certificate]] in the configuration")

func certFiles(c *config.Config) []secure.Files {
	out := make([]secure.Files, len(c.Certs))
	for i, f := range c.Certs {
		out[i] = secure.Files{Cert: f.CertFile, Key: f.KeyFile, Names: f.Names}
	}
	return out
}

// ending is what listeners end TLS with.
type ending struct {
	certs *secure.Store // nil: no certificates
	tls   *tls.Config   // nil: likewise
}

// newEnding makes it of a configuration; empty when that has no certificate.
func (d *Daemon) newEnding(c *config.Config) (*ending, error) {
	if len(c.Certs) == 0 {
		return &ending{}, nil
	}
	s, err := secure.Load(certFiles(c), c.TLS.StrictNames, d.o.Now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Pos("certificate[0]"), err)
	}
	t, err := d.tlsConfig(c, s)
	return &ending{s, t}, err
}

// loadCerts loads the certificates at the start.
func (d *Daemon) loadCerts(c *config.Config) error {
	e, err := d.newEnding(c)
	if err != nil {
		return err
	}
	d.ending.Store(e)
	d.sayCerts()
	return nil
}

// tls is what listeners are served with; nil without certificates.
func (d *Daemon) tls() *tls.Config { return d.ending.Load().tls }

// sayCerts tells the operator what is in force and what ends soon.
func (d *Daemon) sayCerts() {
	for _, c := range d.Certificates() {
		left := c.NotAfter.Sub(d.o.Now())
		if left < expirySoon {
			d.o.Log.Warn("certificate ends soon", "file", c.Files.Cert, "names", c.Names, "not_after", c.NotAfter.UTC(), "left", left.Round(time.Minute))
			continue
		}
		d.o.Log.Info("certificate loaded", "file", c.Files.Cert, "names", c.Names, "not_after", c.NotAfter.UTC())
	}
}

// ReloadCertificates reads the files in force again; on an error the old ones stay.
func (d *Daemon) ReloadCertificates() error {
	if d.ending.Load().certs == nil {
		return errNoCertificates
	}
	return d.takeCerts(d.Config())
}

// takeCerts puts another configuration's certificates in force, or none of them. The first
// come before listeners that need them, the last go after those that did: their
// connections go on with what they have.
func (d *Daemon) takeCerts(c *config.Config) error {
	now := d.ending.Load()
	switch {
	case now.certs == nil || len(c.Certs) == 0:
		e, err := d.newEnding(c)
		if err != nil {
			return err
		}
		d.ending.Store(e)
	default:
		if err := now.certs.Reload(certFiles(c), c.TLS.StrictNames); err != nil {
			return err
		}
	}
	d.sayCerts()
	return nil
}

// Certificates lists what is in force.
func (d *Daemon) Certificates() []secure.Certificate {
	e := d.ending.Load()
	if e == nil || e.certs == nil {
		return nil
	}
	return e.certs.Certificates()
}
