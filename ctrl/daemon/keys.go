package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/secure"
)

// LoadKey reads the private key; when the file does not exist it makes one.
// made says so.
func LoadKey(path string) (key handshake.PrivateKey, made bool, err error) {
	text, err := secure.ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return key, false, fmt.Errorf("private key: %w", err)
	}
	if key, err = handshake.ParsePrivateKey(text); err != nil {
		return key, false, fmt.Errorf("private key %s: %w", path, err)
	}
	return key, false, nil
}

// loadKey is the key of this npd. Where nothing speaks NPRO it is one for the moment, and
// no file is needed.
func (d *Daemon) loadKey(c *config.Config) (handshake.PrivateKey, error) {
	if !c.SpeaksNPRO() {
		return handshake.GenerateKey(rand.Reader)
	}
	key, made, err := LoadKey(c.Protocol.PrivateKeyFile)
	if err != nil {
		return key, err
	}
	msg := "private key loaded"
	if made {
		msg = "private key made"
	}
	d.o.Log.Info(msg, "file", c.Protocol.PrivateKeyFile, "public_key", key.Public().String())
	return key, nil
}

// makeKey writes a new key under another name first, so that a crash leaves
// either no key or a whole one.
func makeKey(path string) (key handshake.PrivateKey, made bool, err error) {
	if key, err = handshake.GenerateKey(rand.Reader); err != nil {
		return key, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return key, false, fmt.Errorf("make private key: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return key, false, fmt.Errorf("make private key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = fmt.Fprintln(f, key.Encode())
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // unlike rename, never over a key that came meanwhile
	}
	if err != nil {
		return key, false, fmt.Errorf("make private key %s: %w", path, err)
	}
	return key, true, nil
}

// loadPSK reads the pre-shared key; nil when none is configured.
func loadPSK(path string) (*[handshake.KeySize]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := secure.ReadSecret(path)
	if err != nil {
		return nil, fmt.Errorf("pre-shared key: %w", err)
	}
	psk, err := handshake.ParsePSK(text)
	if err != nil {
		return nil, fmt.Errorf("pre-shared key %s: %w", path, err)
	}
	return &psk, nil
}
