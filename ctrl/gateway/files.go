package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"os"

	"github.com/np-appliance/np/ctrl/config"
)

// maxStamped bounds what is read of a file of keys or certificates.
const maxStamped = 4 << 20

// stamp says what files contain, so that a reload sees that one changed whose name did
// not. One that can't be read has no part in it: who needs it says what is wrong.
func stamp(paths ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, p := range paths {
		var n int64 = -1
		if p != "" {
			n = copyFile(h, p)
		}
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(n))
		h.Write(size[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func copyFile(w io.Writer, path string) int64 {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() { // opening a pipe would wait
		return -1
	}
	f, err := os.Open(path)
	if err != nil {
		return -1
	}
	defer f.Close()
	n, err := io.Copy(w, io.LimitReader(f, maxStamped))
	if err != nil {
		return -1
	}
	return n
}

// stampUpstream is of the files that connections of an upstream are made with.
func stampUpstream(u *config.Upstream) [sha256.Size]byte {
	return stamp(u.TLS.CAFile, u.TLS.CertFile, u.TLS.KeyFile, u.NPRO.PrivateKeyFile, u.NPRO.PSKFile)
}
