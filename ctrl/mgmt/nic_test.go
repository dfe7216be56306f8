package mgmt

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// ask sends one request and decodes what comes.
func ask[T any](t *testing.T, s *Server, method, path, body string) (v T, code int, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler(false).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	text = w.Body.String()
	if w.Code == 200 {
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v: %s", path, err, text)
		}
	}
	return v, w.Code, text
}

// TestNIC: lists and limits change live, are shown as live, and what is wrong is said.
func TestNIC(t *testing.T) {
	s := newServer(t)
	for _, tt := range []struct {
		name, path, body string
		code             int
		says             string
	}{
		{"deny", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"203.0.113.0/24","action":"deny"}`, 200, `"done":true`},
		{"allow an address", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"2001:db8::7","action":"allow"}`, 200, `"done":true`},
		{"again", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"203.0.113.0/24","action":"deny"}`, 409, "already exists"},
		{"the other way", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"203.0.113.0/24","action":"allow"}`, 200, `"done":true`},
		{"another", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"198.18.7.7","action":"deny"}`, 200, `"done":true`},
		{"off again", api.PathNICFilter, `{"nic":"np0","op":"delete","prefix":"198.18.7.7/32"}`, 200, `"done":true`},
		{"not there", api.PathNICFilter, `{"nic":"np0","op":"delete","prefix":"198.18.7.7/32"}`, 404, "198.18.7.7/32 is not listed on np0"},
		{"no such device", api.PathNICFilter, `{"nic":"np9","op":"delete","prefix":"198.18.7.7/32"}`, 404, "np9"},
		{"no prefix", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"203.0.113","action":"deny"}`, 400, "expected an address or a prefix"},
		{"host bits", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"203.0.113.1/24","action":"deny"}`, 400, "expected 203.0.113.0/24"},
		{"mapped", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"::ffff:203.0.113.1","action":"deny"}`, 400, "IPv4 as itself"},
		{"zone", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"fe80::1%np0","action":"deny"}`, 400, "without a zone"},
		{"no action", api.PathNICFilter, `{"nic":"np0","op":"add","prefix":"198.18.7.7"}`, 400, "expected add with deny or allow"},
		{"delete with action", api.PathNICFilter, `{"nic":"np0","op":"delete","prefix":"198.18.7.7","action":"deny"}`, 400, "delete without"},
		{"no op", api.PathNICFilter, `{"nic":"np0","prefix":"198.18.7.7"}`, 400, "expected add"},
		{"unknown field", api.PathNICFilter, `{"device":"np0"}`, 400, "device"},
		{"rates", api.PathNICLimit, `{"nic":"np0","packets_per_second":1000,"packet_burst":50,"syns_per_second":10}`, 200, `"done":true`},
		{"burst stays with its rate", api.PathNICLimit, `{"nic":"np0","syn_burst":99}`, 200, `"done":true`},
		{"rate without burst", api.PathNICLimit, `{"nic":"np0","packets_per_second":2000}`, 200, `"done":true`},
		{"burst without rate", api.PathNICLimit, `{"nic":"np0","packets_per_second":0,"packet_burst":5}`, 400, "burst 5 without"},
		{"too fast", api.PathNICLimit, `{"nic":"np0","packets_per_second":10000001}`, 400, "0 to 10000000"},
		{"negative", api.PathNICLimit, `{"nic":"np0","syns_per_second":-1}`, 400, "-1"},
		{"nothing", api.PathNICLimit, `{"nic":"np0"}`, 400, "no limit given"},
		{"limit of no device", api.PathNICLimit, `{"nic":"np9","syns_per_second":1}`, 404, "np9"},
	} {
		if _, code, text := ask[api.Done](t, s, "POST", tt.path, tt.body); code != tt.code || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %d %s", tt.name, code, text)
		}
	}
	f, _, text := ask[api.FilterAnswer](t, s, "GET", api.PathNIC+"np0"+api.NICFilter, "")
	want := []api.ListEntry{{Prefix: "203.0.113.0/24", Action: "allow", Live: true, Hits: 7}, {Prefix: "2001:db8::7/128", Action: "allow", Live: true, Hits: 7}}
	if len(f.Entries) != 2 || f.Entries[0] != want[0] || f.Entries[1] != want[1] || f.ApplyTo != "own" || f.Schema != api.Schema ||
		f.Limits != (api.Limits{Packets: 2000, PacketBurst: 2000, SYNs: 10, SYNBurst: 99, Live: true}) {
		t.Error(text)
	}
	n, _, text := ask[api.NICAnswer](t, s, "GET", api.PathNIC+"np0", "")
	p := n.NIC.Packets
	if n.NIC.XDPMode != "native" || n.NIC.Backend != "af_xdp zero-copy" || n.NIC.State != "up" || n.NIC.ListEntries != 2 || len(n.NIC.Limited) != 1 ||
		n.NIC.Limited[0] != (api.LimitedSource{Source: "198.18.0.66/32", Packets: 3, SYNs: 4}) || len(n.NIC.Interfaces) != 1 {
		t.Error(text)
	}
	if p.Seen != p.Redirected+p.Passed+p.Steered+p.Malformed+p.NoSocket+p.Denied+p.RateLimited+p.SYNLimited+p.KernelLimited || p.Seen != 25 {
		t.Errorf("does not sum: %+v", p)
	}
	if n, _, text := ask[api.NICAnswer](t, s, "GET", api.PathNIC+"np0?sources=0", ""); len(n.NIC.Limited) != 0 {
		t.Error(text)
	}
	for path, code := range map[string]int{api.PathNIC + "np9": 404, api.PathNIC + "np9" + api.NICFilter: 404, api.PathNIC + "np0?sources=-1": 400, api.PathNIC + "np0?sources=1001": 400} {
		if _, got, text := ask[api.NICAnswer](t, s, "GET", path, ""); got != code {
			t.Errorf("%s: %d %s", path, got, text)
		}
	}
	if l, _, text := ask[api.NICs](t, s, "GET", api.PathNICs, ""); len(l.NICs) != 1 || l.NICs[0].Name != "np0" {
		t.Error(text)
	}
	d, _, _ := ask[api.Drops](t, s, "GET", api.PathDrops, "")
	sum := map[string]uint64{}
	for _, r := range d.Drops {
		if r.Layer == "xdp" {
			sum[r.Name] = r.Value
		}
	}
	if len(sum) != 5 || sum["denied"] != 3 || sum["rate_limited"] != 2 || sum["syn_limited"] != 1 {
		t.Errorf("drops of XDP: %v", sum)
	}
	w := httptest.NewRecorder()
	s.Handler(true).ServeHTTP(w, httptest.NewRequest("POST", api.PathNICLimit, strings.NewReader(`{"nic":"np0","syns_per_second":1}`)))
	if w.Code != 403 {
		t.Errorf("read-only socket: %d", w.Code)
	}
}
