package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
	"github.com/np-appliance/np/ctrl/secure"
)

// pemMax bounds a file that cert show reads.
const pemMax = 1 << 20

func certCmd(a *app) *cobra.Command {
	list := get(a, "list", "The certificates in force", api.PathCerts, func(v *api.Certificates) error { return printCerts(a, v) })
	reload := &cobra.Command{Use: "reload", Short: "Read the files of the certificates again; connections stay", Args: exact(0, "no arguments")}
	reload.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Certificates
			if err := cl.Post(ctx, api.PathCertsReload, nil, &v); err != nil {
				return err
			}
			return printCerts(a, &v)
		})
	}
	return noun("cert", "TLS certificates", certGenerate(a), certShow(a), list, reload)
}

func printCerts(a *app, v *api.Certificates) error {
	head := []string{"names", "not_after", ">days_left", "key", "file"}
	if a.output == "wide" {
		head = append(head, "issuer", "serial", "pin_sha256")
	}
	t := newTable(head...)
	for _, c := range v.Certificates {
		t.row(strings.Join(c.Names, ","), c.NotAfter.Format(time.RFC3339), c.SecondsLeft/86400, c.KeyType, c.CertFile, c.Issuer, c.Serial, c.Pin)
	}
	return a.print(v, nil, t)
}

func certGenerate(a *app) *cobra.Command {
	var dir, ca, caKey string
	var days int
	var isClient, force bool
	c := &cobra.Command{Use: "generate NAME...", Short: "A certificate for development, and its own CA unless one is given",
		Long: "Makes an ECDSA P-256 certificate for DNS names and IP addresses, and writes cert.pem and key.pem, and ca.pem and ca-key.pem when it makes a CA.\n" +
			"Nobody trusts that CA until told to: curl --cacert ca.pem. For production have certificates issued by a real one.\n" +
			"Example: npctl cert generate --dir /etc/np/tls api.example 198.18.0.1",
		Args: cobra.MatchAll(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("cert generate: want at least one DNS name or IP address")}
			}
			return nil
		})}
	f := c.Flags()
	f.StringVar(&dir, "dir", ".", "where the files go; made when it is not there")
	f.StringVar(&ca, "ca", "", "certificate of the CA that signs (PEM); with --ca-key")
	f.StringVar(&caKey, "ca-key", "", "its key")
	f.IntVar(&days, "days", 90, "valid for so long, 1 to 3650")
	f.BoolVar(&isClient, "client", false, "for a client (mTLS) instead of a server")
	f.BoolVar(&force, "force", false, "replace files that are there")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if days < 1 || days > 3650 {
			return usageError{fmt.Errorf("--days %d: want 1 to 3650", days)}
		}
		if (ca == "") != (caKey == "") {
			return usageError{errors.New("--ca and --ca-key go together")}
		}
		r := secure.Request{Names: args, Client: isClient, Valid: time.Duration(days) * 24 * time.Hour, Now: time.Now()}
		var err error
		if ca != "" {
			if r.CA, err = readPEM(ca); err != nil {
				return err
			}
			if r.CAKey, err = readPEM(caKey); err != nil {
				return err
			}
		}
		g, err := secure.Generate(r)
		if err != nil {
			return fmt.Errorf("cert generate: %w", err)
		}
		wrote, err := g.Save(dir, force)
		for _, w := range wrote {
			fmt.Fprintln(a.out, w)
		}
		return err
	}
	return c
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, pemMax+1))
	if err != nil {
		return nil, err
	}
	if len(b) > pemMax {
		return nil, fmt.Errorf("%s: longer than %d bytes, expected a PEM file", path, pemMax)
	}
	return b, nil
}

func certShow(a *app) *cobra.Command {
	c := &cobra.Command{Use: "show FILE", Short: "The certificates in a PEM file, with the pin of each key", Args: exact(1, "one file")}
	c.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := readPEM(args[0])
		if err != nil {
			return err
		}
		v := api.Certificates{Schema: api.Schema, Certificates: []api.Certificate{}}
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			x, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			names := append([]string{}, x.DNSNames...)
			for _, ip := range x.IPAddresses {
				names = append(names, ip.String())
			}
			v.Certificates = append(v.Certificates, api.Certificate{CertFile: args[0], Names: names, Subject: x.Subject.String(), Issuer: x.Issuer.String(),
				Serial: x.SerialNumber.Text(16), NotBefore: x.NotBefore.UTC(), NotAfter: x.NotAfter.UTC(),
				SecondsLeft: int64(time.Until(x.NotAfter).Seconds()), KeyType: x.PublicKeyAlgorithm.String(), Pin: secure.Pin(x)})
		}
		if len(v.Certificates) == 0 {
			return fmt.Errorf("%s: no certificate found, expected PEM blocks of type CERTIFICATE", args[0])
		}
		t := newTable("subject", "names", "not_before", "not_after", "issuer", "pin_sha256")
		for _, c := range v.Certificates {
			t.row(c.Subject, strings.Join(c.Names, ","), c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), c.Issuer, c.Pin)
		}
		return a.print(&v, nil, t)
	}
	return c
}

// withTLS names what a listener speaks.
func withTLS(protocol string, on bool) string {
	if on {
		return protocol + "/tls"
	}
	return protocol
}
