package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// post remembers the body of the last request.
func post(last *string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		var v any
		_ = json.NewDecoder(r.Body).Decode(&v)
		b, _ := json.Marshal(v)
		*last = string(b)
		_ = json.NewEncoder(w).Encode(api.Done{Schema: api.Schema, Done: true})
	}
}

func TestNICCommands(t *testing.T) {
	var filter, limit string
	nic := api.NIC{Name: "np0", Driver: "veth", MAC: "02:00:00:00:00:01", RxQueues: 1, NUMANode: -1, State: "up", Backend: "af_xdp copy", XDPMode: "generic",
		XDPReason: "no native mode", Interfaces: []string{"np0", "np0.7"}, ListEntries: 2, Limits: api.Limits{Packets: 5, PacketBurst: 9},
		Packets:   api.XDPPackets{Seen: 36, Redirected: 1, Passed: 2, Steered: 3, Malformed: 4, NoSocket: 5, Denied: 6, RateLimited: 7, SYNLimited: 8},
		KernelTCP: []api.PortRange{{First: 22, Last: 22}, {First: 100, Last: 110}}, Limited: []api.LimitedSource{{Source: "198.18.0.66/32", Packets: 3, SYNs: 4}}}
	list := api.FilterAnswer{Schema: api.Schema, NIC: "np0", ApplyTo: "own", Limits: nic.Limits,
		Entries: []api.ListEntry{{Prefix: "203.0.113.0/24", Action: "deny", Hits: 12}, {Prefix: "203.0.113.7/32", Action: "allow", Live: true}}}
	all := list
	all.ApplyTo = "all"
	sock := daemon(t, map[string]any{api.PathNICs: api.NICs{Schema: api.Schema, NICs: []api.NIC{nic}}, api.PathNIC + "np0": api.NICAnswer{Schema: api.Schema, NIC: nic},
		api.PathNIC + "np0" + api.NICFilter: list, api.PathNIC + "np1" + api.NICFilter: all, "POST " + api.PathNICFilter: post(&filter), "POST " + api.PathNICLimit: post(&limit)})
	want := `NIC  STATE  DRIVER  BACKEND      XDP MODE  SEEN  TO APPLIANCE  TO KERNEL  DROPPED  LIST  LIMITS  INTERFACES
np0  up     veth    af_xdp copy  generic     36             1          9       26     2  5/s     np0,np0.7
`
	if out, errOut, code := npctl("-s", sock, "nic", "list"); out != want || code != exitDone {
		t.Errorf("code %d, stderr %q:\n%s", code, errOut, out)
	}
	out, _, code := npctl("-s", sock, "nic", "show", "np0")
	for _, w := range []string{"generic   no native mode", "syn_limited              8  dropped", "seen                    36  all of these", "22,100-110", "198.18.0.66/32        3     4"} {
		if !strings.Contains(out, w) || code != exitDone {
			t.Errorf("code %d, %q is missing:\n%s", code, w, out)
		}
	}
	want = `PREFIX          ACTION  APPLIES TO  ORIGIN  HITS
203.0.113.0/24  deny    own         config    12
203.0.113.7/32  allow   own         live       0
`
	if out, _, code := npctl("-s", sock, "nic", "filter", "list", "np0"); out != want || code != exitDone {
		t.Errorf("code %d:\n%s", code, out)
	}
	want = `LIMIT    PER SECOND  BURST  APPLIES TO  ORIGIN
packets           5      9  own         config
syns           none      -  own         config
`
	if out, _, code := npctl("-s", sock, "nic", "limit", "show", "np0"); out != want || code != exitDone {
		t.Errorf("code %d:\n%s", code, out)
	}
	for _, c := range []struct {
		args string
		code int
		sent string
		to   *string
	}{
		{"nic filter add np0 203.0.113.9 --deny", exitDone, `{"action":"deny","nic":"np0","op":"add","prefix":"203.0.113.9"}`, &filter},
		{"nic filter add np1 203.0.113.9 --deny --yes", exitDone, `{"action":"deny","nic":"np1","op":"add","prefix":"203.0.113.9"}`, &filter},
		{"nic filter add np1 203.0.113.9 --allow", exitDone, `{"action":"allow","nic":"np1","op":"add","prefix":"203.0.113.9"}`, &filter},
		{"nic filter delete np0 203.0.113.0/24", exitDone, `{"nic":"np0","op":"delete","prefix":"203.0.113.0/24"}`, &filter},
		{"nic filter add np0 203.0.113.9", exitUsage, "", &filter}, {"nic filter add np0 203.0.113.9 --deny --allow", exitUsage, "", &filter},
		{"nic filter add np0", exitUsage, "", &filter}, {"nic filter drop np0", exitUsage, "", &filter},
		{"nic limit set np0 --pps 100 --syn 0", exitDone, `{"nic":"np0","packets_per_second":100,"syns_per_second":0}`, &limit},
		{"nic limit set np0 --syn-burst 7", exitDone, `{"nic":"np0","syn_burst":7}`, &limit},
		{"nic limit set np0", exitUsage, "", &limit}, {"nic limit set np0 --pps x", exitUsage, "", &limit},
	} {
		filter, limit = "", ""
		_, errOut, code := npctl(append([]string{"-s", sock}, strings.Fields(c.args)...)...)
		if code != c.code || *c.to != c.sent {
			t.Errorf("%s: code %d, sent %s: %s", c.args, code, *c.to, errOut)
		}
	}
	// Who might lock himself out is asked, and no answer means no.
	filter = ""
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	stdin := os.Stdin
	os.Stdin = in
	defer func() { os.Stdin = stdin }()
	if _, errOut, code := npctl("-s", sock, "nic", "filter", "add", "np1", "203.0.113.9", "--deny"); code != exitFailed || filter != "" || !strings.Contains(errOut, "SSH") {
		t.Errorf("code %d, sent %q: %s", code, filter, errOut)
	}
}

// TestNICHost: what needs no npd, and the exit codes of what cannot be done.
func TestNICHost(t *testing.T) {
	dir := t.TempDir()
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"nic", "list", "--all", "--state-dir", dir, "-o", "json"}, &out, &errs); code != 0 {
		t.Fatal(code, errs.String())
	}
	var v api.HostNICs
	if err := json.Unmarshal([]byte(out.String()), &v); err != nil || v.Schema != api.Schema || v.NICs == nil {
		t.Errorf("%v, %s", err, &out)
	}
	for _, tt := range []struct {
		code int
		args []string
		want string
	}{
		{exitNotFound, []string{"bind", "npnone", "--yes"}, "network card npnone: not found (there are:"},
		{exitNotFound, []string{"confirm", "npnone"}, "was not bound by npctl"},
		{exitNotFound, []string{"unbind", "npnone"}, "was not bound by npctl"},
		{exitUsage, []string{"bind", "npnone", "--yes", "--confirm", "10ms"}, "want 0, or 1s to 24h"},
		{exitUsage, []string{"bind", "--yes"}, "want one card"},
		{exitFailed, []string{"bind", "npnone"}, "not done"},
	} {
		errs.Reset()
		code := run(t.Context(), append([]string{"nic", "--state-dir", dir}, tt.args...), &out, &errs)
		if code != tt.code || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: exit %d, %q; want %d, %s", tt.args, code, errs.String(), tt.code, tt.want)
		}
	}
}
