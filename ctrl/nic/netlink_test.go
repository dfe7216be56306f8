package nic

import (
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/host"
)

func TestSession(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("198.18.0.5"), netip.MustParseAddr("2001:db8::5")}
	head := "  sl  local_address rem_address   st\n"
	// As a little-endian kernel prints them.
	v4 := "   0: 050012C6:0016 020012C6:C000 01 00000000:00000000\n"
	v6 := "   0: B80D0120000000000000000005000000:0016 B80D0120000000000000000002000000:C000 01\n"
	for _, tt := range []struct {
		name, env, tcp, tcp6, want string
	}{
		{"none", "", head, head, ""},
		{"environment", "198.18.0.2 50000 198.18.0.5 22", "", "", "this SSH session comes by it"},
		{"another address", "198.18.0.2 50000 198.18.9.5 22", head, "", ""},
		{"table", "", head + v4, "", "an SSH session comes by it"},
		{"IPv6", "", "", head + v6, "an SSH session comes by it"},
		{"listening", "", head + strings.Replace(v4, " 01 ", " 0A ", 1), "", ""},
		{"another port", "", head + strings.Replace(v4, ":0016", ":0017", 1), "", ""},
		{"nonsense", "a b c d", head + "   0: 05:16 zz 01\n   1: 050012CG:0016 x 01\n   2\n", "", ""},
	} {
		f := fstest.MapFS{"proc/net/tcp": &fstest.MapFile{Data: []byte(tt.tcp)}, "proc/net/tcp6": &fstest.MapFile{Data: []byte(tt.tcp6)}}
		if got := session(f, tt.env, own); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestNetlink saves what an interface has, takes all away and gives it back to one
// with another name and index.
func TestNetlink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here, and its namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error("unshare:", err)
			return
		}
		ip := func(args string) string {
			t.Helper()
			out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
			if err != nil {
				t.Errorf("ip %s: %v: %s", args, err, out)
			}
			return string(out)
		}
		pair := func(name string) {
			ip("link add " + name + " type veth peer name p" + name)
			ip("link set p" + name + " up")
		}
		pair("npn0")
		for _, c := range []string{"link set npn0 mtu 1400", "link set npn0 up", "addr add 198.18.0.5/24 dev npn0", "addr add 2001:db8::5/64 dev npn0 nodad",
			"route add 198.19.0.0/16 via 198.18.0.1 metric 7", "route add default via 198.18.0.1", "-6 route add 2001:db8:9::/48 via 2001:db8::1"} {
			ip(c)
		}
		show := func() string {
			a := ip("addr show dev npn0 scope global") + ip("route show dev npn0") + ip("-6 route show dev npn0 scope global")
			a = strings.ReplaceAll(strings.ReplaceAll(a, "@pnpn0", ""), "@pnpn9", "")
			return regexp.MustCompile(`(?m)^\d+: |state \w+ | linkdown|LOWER_UP|NO-CARRIER`).ReplaceAllString(a, "")
		}
		mac := strings.Fields(ip("-br link show dev npn0"))[2]
		before := show()
		k := Netlink{Files: host.OS("/")}
		if why, err := k.Carries("npn0"); err != nil || why != "it carries the default route" {
			t.Error(why, err)
		}
		l, err := k.Save("npn0")
		if err != nil || l.MTU != 1400 || !l.Up || len(l.Addrs) != 3 || len(l.Addresses) != 3 || len(l.Routes) != 3 {
			t.Errorf("%+v, %v", l, err)
			return
		}
		ip("link del npn0")
		pair("npn8")
		pair("npn9")
		ip("link set npn9 address " + mac)
		if err := k.Restore("npn9", "npn0", &l); err != nil {
			t.Error(err)
		}
		if after := show(); after != before {
			t.Errorf("was:\n%s\nis:\n%s", before, after)
		}
		if why, err := k.Carries("npn8"); err != nil || why != "" {
			t.Error(why, err)
		}
		l.Routes[0] = l.Routes[0][:5]
		if err := k.Restore("npn0", "npn0", &l); err == nil || !strings.Contains(err.Error(), "cut short") {
			t.Error(err)
		}
	}()
	<-done
}
