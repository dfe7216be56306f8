package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// v2 makes a binary header.
func v2(command, family byte, body ...[]byte) string {
	b := bytes.Join(body, nil)
	h := append([]byte(proxySignature), 0x20|command, family)
	return string(append(binary.BigEndian.AppendUint16(h, uint16(len(b))), b...))
}

func v2Inet() []byte {
	return append([]byte{198, 18, 0, 1, 198, 18, 0, 2}, 0x12, 0x34, 0x00, 0x50)
}

func v2Inet6() []byte {
	a, b := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("2001:db8::2").As16()
	return append(append(a[:], b[:]...), 0x12, 0x34, 0x00, 0x50)
}

// proxies are headers with the client that they say; "": the connection's own.
func proxies() map[string]string {
	return map[string]string{
		"PROXY TCP4 198.18.0.1 198.18.0.2 4660 80\r\n":            "198.18.0.1:4660",
		"PROXY TCP6 2001:db8::1 2001:db8::2 4660 80\r\n":          "[2001:db8::1]:4660",
		"PROXY UNKNOWN\r\n":                                       "",
		"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n":                     "",
		"PROXY TCP4 198.18.0.1 198.18.0.2 0 65535\r\n":            "198.18.0.1:0",
		v2(1, 0x11, v2Inet()):                                     "198.18.0.1:4660",
		v2(1, 0x21, v2Inet6()):                                    "[2001:db8::1]:4660",
		v2(1, 0x11, v2Inet(), []byte{1, 0, 2, 'h', '2', 4, 0, 0}): "198.18.0.1:4660",
		v2(0, 0x00):                     "",
		v2(0, 0x11, v2Inet()):           "",
		v2(1, 0x31, make([]byte, 216)):  "",
		v2(1, 0x00, []byte("anything")): "",
		v2(1, 0x11, v2Inet(), append([]byte{0xee, 0x05, 0xdc}, make([]byte, 1500)...)): "198.18.0.1:4660",
	}
}

// badProxies are no headers, though they begin as such.
func badProxies() []string {
	return []string{
		"PROXY \r\n", "PROXY TCP4\r\n", "PROXY TCP4 198.18.0.1 198.18.0.2 1\r\n", "PROXY TCP4 198.18.0.1 198.18.0.2 1 2 3\r\n",
		"PROXY TCP4  198.18.0.1 198.18.0.2 1 2\r\n", "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", "PROXY TCP6 198.18.0.1 198.18.0.2 1 2\r\n",
		"PROXY TCP4 198.18.0.01 198.18.0.2 1 2\r\n", "PROXY TCP4 198.18.0.1 198.18.0.2 +1 2\r\n", "PROXY TCP4 198.18.0.1 198.18.0.2 01 2\r\n",
		"PROXY TCP4 198.18.0.1 198.18.0.2 65536 2\r\n", "PROXY UDP4 198.18.0.1 198.18.0.2 1 2\r\n", "PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n",
		"PROXY TCP4 198.18.0.1 198.18.0.2 1 2\n" + strings.Repeat("x", 100) + "\r\n", "PROXY " + strings.Repeat("x", 200) + "\r\n", "PROXY unknown\r\n",
		v2(2, 0x11, v2Inet()), v2(1, 0x41, v2Inet()), v2(1, 0x11, v2Inet()[:11]), v2(1, 0x21, v2Inet()), v2(1, 0x31, make([]byte, 215)),
		v2(1, 0x11, v2Inet(), []byte{1, 0}), v2(1, 0x11, v2Inet(), []byte{1, 0, 9, 'x'}), v2(1, 0x11, v2Inet(), make([]byte, 3000)),
		proxySignature + "\x11\x11\x00\x00",
	}
}

func TestProxyHeaders(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	const ask = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for _, policy := range []ProxyPolicy{ProxyAccept, ProxyRequire} {
		r := newRig(t, Config{Proxy: policy, ProxyFrom: loopback})
		for header, want := range proxies() {
			for _, piece := range []int{0, 1} {
				c := r.dial()
				if want == "" {
					want = c.LocalAddr().String()
				}
				own := want
				if piece == 1 {
					c = &pieces{c, 1}
					if strings.HasPrefix(want, "127.") {
						own = c.LocalAddr().String()
					}
				}
				if got := r.exchange(c, header+ask); len(got) != 1 || got[0] != 200 {
					t.Errorf("%q: %v", header, got)
					continue
				}
				if got := r.requests(); got[len(got)-1].client != own {
					t.Errorf("%q: %q, expected %q", header, got[len(got)-1].client, own)
				}
			}
		}
		for _, header := range badProxies() {
			if got := r.exchange(r.dial(), header+ask); len(got) != 0 {
				t.Errorf("%q: %v", header, got)
			}
		}
		if n := r.s.Stats().Conns[RefusedProxy]; n != uint64(len(badProxies())) {
			t.Errorf("%d counted", n)
		}
		served := map[ProxyPolicy]int{ProxyAccept: 1}[policy]
		for _, plain := range []string{ask, strings.Replace(ask, "GET", "PROPFIND", 1), strings.Replace(ask, "GET", "P", 1)} {
			if got := r.exchange(r.dial(), plain); len(got) != served {
				t.Errorf("policy %d, no header: %v", policy, got)
			}
		}
	}
}

// TestProxyFrom: who is not trusted is not believed.
func TestProxyFrom(t *testing.T) {
	others := []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")}
	const ask = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for policy, want := range map[ProxyPolicy][]int{ProxyAccept: {400}, ProxyRequire: nil} {
		r := newRig(t, Config{Proxy: policy, ProxyFrom: others})
		if got := r.exchange(r.dial(), "PROXY TCP4 198.18.0.1 198.18.0.2 1 2\r\n"+ask); !slices.Equal(got, want) {
			t.Errorf("%d: %v", policy, got)
		}
		if got := r.exchange(r.dial(), ask); policy == ProxyAccept && len(got) != 1 || policy == ProxyRequire && len(got) != 0 {
			t.Errorf("%d: %v", policy, got)
		}
		if n := r.s.Stats().Conns[RefusedPeer]; policy == ProxyRequire && n != 2 {
			t.Errorf("%d counted", n)
		}
	}
}

// FuzzProxy: what is taken for a header is one by both ways of reading, reads no byte
// beyond it and lies within its bound.
func FuzzProxy(f *testing.F) {
	for h := range proxies() {
		f.Add([]byte(h))
		f.Add([]byte(h + "GET / HTTP/1.1\r\n\r\n"))
	}
	for _, h := range badProxies() {
		f.Add([]byte(h))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := bytes.NewReader(sent)
		h, b, err := readProxy(r, nil)
		if !bytes.HasPrefix(sent, b) || len(b) != len(sent)-r.Len() || len(b) > proxyV2Head+proxyV2Max {
			t.Fatalf("%d bytes read of %d, %d left", len(b), len(sent), r.Len())
		}
		if err != nil {
			if errors.Is(err, errNoProxy) && (bytes.HasPrefix(sent, []byte("PROXY ")) || bytes.HasPrefix(sent, []byte(proxySignature))) {
				t.Fatalf("%q is no header?", sent)
			}
			return
		}
		if !h.local && (!h.client.IsValid() || !h.server.IsValid() || h.client.Addr().Is4In6()) {
			t.Fatalf("%+v", h)
		}
		var again proxyHeader
		if b[0] == 'P' {
			again, err = parseProxyV1(b)
		} else {
			again, err = parseProxyV2(b)
		}
		if err != nil || again != h {
			t.Fatalf("%+v, %+v, %v", h, again, err)
		}
	})
}

func TestClient(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}
	for _, one := range []struct {
		peer   string
		fields []string
		want   string
	}{
		{"198.19.0.1:5", []string{"198.19.0.9"}, "198.19.0.1:5"}, // not trusted: not believed
		{"198.18.0.1:5", nil, "198.18.0.1:5"},
		{"198.18.0.1:5", []string{"198.19.0.9"}, "198.19.0.9:0"},
		{"198.18.0.1:5", []string{"198.19.0.7, 198.19.0.9"}, "198.19.0.9:0"}, // the first is what the client says of itself
		{"198.18.0.1:5", []string{"198.19.0.7, 198.19.0.9, 198.18.0.2"}, "198.19.0.9:0"},
		{"198.18.0.1:5", []string{"198.19.0.7", "198.19.0.9 ,198.18.0.2"}, "198.19.0.9:0"},
		{"198.18.0.1:5", []string{"198.18.0.3, 198.18.0.2"}, "198.18.0.3:0"}, // all trusted: the first
		{"198.18.0.1:5", []string{"junk, 198.18.0.2"}, "198.18.0.2:0"},
		{"198.18.0.1:5", []string{"198.19.0.9, junk"}, "198.18.0.1:5"},
		{"198.18.0.1:5", []string{"198.19.0.9:77"}, "198.19.0.9:77"},
		{"[2001:db8::1]:5", []string{"[2001:db9::9]:77"}, "[2001:db9::9]:77"},
		{"[2001:db8::1]:5", []string{"2001:db9::9"}, "[2001:db9::9]:0"},
		{"[2001:db8::1]:5", []string{"[2001:db9::9]"}, "[2001:db9::9]:0"},
		{"198.18.0.1:5", []string{"::ffff:198.19.0.9"}, "198.19.0.9:0"},
		{"198.18.0.1:5", []string{""}, "198.18.0.1:5"},
		{"", []string{"198.19.0.9"}, "198.19.0.9:0"}, // a Unix socket
	} {
		c := &Conn{server: &Server{c: Config{Forwarded: trusted}}}
		if one.peer != "" {
			c.Client = netip.MustParseAddrPort(one.peer)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["X-Forwarded-For"] = one.fields
		if got := Client(r.WithContext(contextOf(r, c))).String(); got != one.want {
			t.Errorf("%s %q: %s, expected %s", one.peer, one.fields, got, one.want)
		}
	}
	if Client(httptest.NewRequest(http.MethodGet, "/", nil)).IsValid() {
		t.Error("a client without a connection")
	}
}
