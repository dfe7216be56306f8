package secure

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// secretMax bounds a file with a secret; a key is 44 characters.
const secretMax = 4096

// ReadSecret reads a file that nobody else may read, such as a private or a pre-shared
// key, without the space around it.
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("read %s: others may read it, expected mode 0600 (chmod 600 %s)", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, secretMax))
	if err != nil {
		return "", err
	}
	defer clear(b)
	return strings.TrimSpace(string(b)), nil
}
