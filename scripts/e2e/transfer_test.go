//go:build e2e

package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// transferBytes is the size of the big transfers: 1 GiB, or NP_E2E_BYTES.
func transferBytes(t *testing.T) int64 {
	if s := os.Getenv("NP_E2E_BYTES"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			t.Fatalf("NP_E2E_BYTES=%q: want a number of bytes", s)
		}
		return n
	}
	return 1 << 30
}

// through sends n bytes from a seed to an echo server and checks, by hash, what comes back: n bytes each way.
func through(c net.Conn, n int64, seed uint64) error {
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	sent, got := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	go func() {
		rng := rand.NewChaCha8([32]byte{byte(seed)})
		buf := make([]byte, 256<<10)
		for left := n; left > 0; {
			b := buf[:min(left, int64(len(buf)))]
			_, _ = rng.Read(b)
			_, _ = sent.Write(b)
			if _, err := c.Write(b); err != nil {
				wrote <- err
				return
			}
			left -= int64(len(b))
		}
		wrote <- c.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.Copy(got, c)
	if err := errors.Join(err, <-wrote); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", back, n, err)
	}
	if back != n || string(sent.Sum(nil)) != string(got.Sum(nil)) {
		return fmt.Errorf("%d of %d bytes came back, or the hash differs", back, n)
	}
	return nil
}

// One GiB there and back under 1 % random loss each way, intact by hash.
func TestGigabyteUnderLoss(t *testing.T) {
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	lossy(w, 100)
	c := w.mustDial(addr4(7))
	begin := time.Now()
	n := transferBytes(t)
	if err := through(c, n, 1); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB there and back in %v, %d segments sent again by npd", n>>20, time.Since(begin).Round(time.Millisecond), w.stat("tcp_retransmits_total"))
	if w.stat("tcp_retransmits_total") == 0 {
		t.Error("nothing was retransmitted: the loss program does not work")
	}
	_ = c.Close()
	w.restful(free)
}

func TestTransferWithoutLossIPv6(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	if err := through(w.mustDial(addr6(7)), min(transferBytes(t), 256<<20), 2); err != nil {
		t.Fatal(err)
	}
	w.restful(free)
}
