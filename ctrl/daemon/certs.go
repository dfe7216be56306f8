package daemon

import (
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

// loadCerts makes the store; nil when the configuration has no certificate.
func (d *Daemon) loadCerts(c *config.Config) error {
	if len(c.Certs) == 0 {
		return nil
	}
	s, err := secure.Load(certFiles(c), c.TLS.StrictNames, d.o.Now)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Pos("certificate[0]"), err)
	}
	d.certs = s
	d.sayCerts()
	return nil
}

// sayCerts tells the operator what is in force and what ends soon.
func (d *Daemon) sayCerts() {
	for _, c := range d.certs.Certificates() {
		left := c.NotAfter.Sub(d.o.Now())
		if left < expirySoon {
			d.o.Log.Warn("certificate ends soon", "file", c.Files.Cert, "names", c.Names, "not_after", c.NotAfter.UTC(), "left", left.Round(time.Minute))
			continue
		}
		d.o.Log.Info("certificate loaded", "file", c.Files.Cert, "names", c.Names, "not_after", c.NotAfter.UTC())
	}
}

// ReloadCertificates reads the files in force again; on an error the old ones stay.
func (d *Daemon) ReloadCertificates() error { return d.takeCerts(d.Config()) }

// takeCerts puts another configuration's certificates in force, or none of them.
func (d *Daemon) takeCerts(c *config.Config) error {
	switch {
	case d.certs == nil && len(c.Certs) == 0:
		return errNoCertificates
	case d.certs == nil:
		return errors.New("the first [[certificate]] needs a restart")
	case len(c.Certs) == 0:
		return errors.New("taking away the last [[certificate]] needs a restart")
	}
	if err := d.certs.Reload(certFiles(c), c.TLS.StrictNames); err != nil {
		return err
	}
	d.sayCerts()
	return nil
}

// Certificates lists what is in force.
func (d *Daemon) Certificates() []secure.Certificate {
	if d.certs == nil {
		return nil
	}
	return d.certs.Certificates()
}
