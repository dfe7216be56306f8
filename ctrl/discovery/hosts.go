package discovery

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// hosts returns the addresses that a file like /etc/hosts gives a name; localhost and
// names below it have theirs without any file (RFC 6761 §6.3).
func hosts(path, name string) (addrs []netip.Addr, ok bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	f, err := os.Open(path)
	if err == nil { // hosts without such a file ask DNS
		defer f.Close()
		addrs = readHosts(f, name)
	}
	if len(addrs) == 0 && (name == "localhost" || strings.HasSuffix(name, ".localhost")) {
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return addrs, len(addrs) > 0
}

// readHosts reads lines of an address and its names, up to 1 MiB; others are passed over,
// as everybody who reads this file does.
func readHosts(r io.Reader, name string) []netip.Addr {
	var out []netip.Addr
	s := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.ContainsFunc(fields[1:], func(f string) bool {
			return strings.EqualFold(strings.TrimSuffix(f, "."), name)
		}) {
			continue
		}
		if a, err := netip.ParseAddr(fields[0]); err == nil && !a.IsUnspecified() && !a.IsMulticast() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// randomBits is crypto/rand, since IDs of questions must not be guessed.
func randomBits() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

func defaultTo[T int | time.Duration | string](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
