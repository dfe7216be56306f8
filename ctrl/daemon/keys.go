package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/np-appliance/np/ctrl/handshake"
)

// keyFileMax bounds a key file; a key is 44 characters.
const keyFileMax = 4096

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("read %s: others may read it, expected mode 0600 (chmod 600 %s)", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, keyFileMax))
	if err != nil {
		return "", err
	}
	defer clear(b)
	return strings.TrimSpace(string(b)), nil
}

// LoadKey reads the private key; when the file does not exist it makes one.
// made says so.
func LoadKey(path string) (key handshake.PrivateKey, made bool, err error) {
	text, err := readSecret(path)
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
	text, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("pre-shared key: %w", err)
	}
	psk, err := handshake.ParsePSK(text)
	if err != nil {
		return nil, fmt.Errorf("pre-shared key %s: %w", path, err)
	}
	return &psk, nil
}
