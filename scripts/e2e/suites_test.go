//go:build e2e

package e2e

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Programs of others against npd: nmap, scapy, tcpreplay, hping3, tcpkill. iperf3 is not among them: it talks only to its own
// server. Each test is skipped, and says so, where its program is not installed (scripts/bootstrap.sh installs them).
// `make suites` runs them alone, with more seeds.

// suiteSeeds is how many seeds the random ones try.
func suiteSeeds(t *testing.T) int {
	s := os.Getenv("NP_SUITE_SEEDS")
	if s == "" {
		return 4
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("NP_SUITE_SEEDS=%q: want a number", s)
	}
	return n
}

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("%s is not installed: run scripts/bootstrap.sh", n)
		}
	}
}

type nmapRun struct {
	Hosts []struct {
		Ports []struct {
			ID    int `xml:"portid,attr"`
			State struct {
				State string `xml:"state,attr"`
			} `xml:"state"`
		} `xml:"ports>port"`
		OS struct {
			Fingerprint []struct {
				Text string `xml:"fingerprint,attr"`
			} `xml:"osfingerprint"`
		} `xml:"os"`
		Sequence struct {
			Index int `xml:"index,attr"`
		} `xml:"tcpsequence"`
		IPID struct {
			Class string `xml:"class,attr"`
		} `xml:"ipidsequence"`
		Timestamps struct {
			Class string `xml:"class,attr"`
		} `xml:"tcptssequence"`
	} `xml:"host"`
}

func (w *world) nmap(args ...string) nmapRun {
	w.t.Helper()
	cmd := w.in("c", "nmap", append([]string{"-n", "-Pn", "-oX", w.path("nmap.xml")}, args...)...)
	w.must(cmd)
	text, err := os.ReadFile(w.path("nmap.xml"))
	if err != nil {
		w.t.Fatal(err)
	}
	var r nmapRun
	if err := xml.Unmarshal(text, &r); err != nil || len(r.Hosts) != 1 {
		w.t.Fatalf("nmap %v: %v, %d hosts", args, err, len(r.Hosts))
	}
	return r
}

// What each kind of scan sees of open and closed ports follows from RFC 9293 §3.10.7.1 and §3.10.7.2.
func TestSuiteNmapScans(t *testing.T) {
	t.Parallel()
	needTools(t, "nmap")
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	open := map[int]bool{7: true, 9: true, 19: true, 7700: true}
	for _, family := range [][]string{{server4}, {"-6", server6}} {
		for scan, want := range map[string][2]string{ // open, closed
			"-sS": {"open", "closed"},
			"-sT": {"open", "closed"},
			"-sA": {"unfiltered", "unfiltered"},
			"-sW": {"closed", "closed"}, // no window in a reset tells which
			"-sM": {"closed", "closed"},
			"-sF": {"open|filtered", "closed"},
			"-sN": {"open|filtered", "closed"},
			"-sX": {"open|filtered", "closed"},
		} {
			r := w.nmap(append([]string{scan, "--max-retries", "1", "--initial-rtt-timeout", "300ms", "-p", "5-10,18-20,7700"}, family...)...)
			if len(r.Hosts[0].Ports) != 10 {
				t.Errorf("%s %v: %d ports, want 10", scan, family, len(r.Hosts[0].Ports))
			}
			for _, p := range r.Hosts[0].Ports {
				is := want[1]
				if open[p.ID] {
					is = want[0]
				}
				if p.State.State != is {
					t.Errorf("%s %v: port %d is %q, want %q", scan, family, p.ID, p.State.State, is)
				}
			}
		}
	}
	w.restful(free)
}

// What nmap's OS detection finds hard to predict, and which of its odd segments are answered.
func TestSuiteNmapFingerprint(t *testing.T) {
	needTools(t, "nmap")
	w := newWorld(t, options{})
	r := w.nmap("-O", "-d", "--max-os-tries", "1", "-p", "7,10", server4).Hosts[0]
	if r.Sequence.Index < 200 {
		t.Errorf("sequence numbers: difficulty %d, want 200 at least", r.Sequence.Index)
	}
	if r.IPID.Class != "Randomized" && r.IPID.Class != "All zeros" {
		t.Errorf("IP identification is %q", r.IPID.Class)
	}
	if r.Timestamps.Class != "other" {
		t.Errorf("timestamps over connections are %q: they tell the uptime", r.Timestamps.Class)
	}
	if len(r.OS.Fingerprint) == 0 {
		t.Fatal("no fingerprint")
	}
	text := regexp.MustCompile(`\s*\n?OS:`).ReplaceAllString(r.OS.Fingerprint[0].Text, "")
	for _, c := range []struct{ probe, want, why string }{
		{"T1", "R=Y%DF=Y", "SYN to an open port"},
		{"T2", "R=N", "no flag, open port: LISTEN drops it"},
		{"T3", "R=N", "SYN and FIN, open port"},
		{"T4", "R=Y%DF=Y%T=40%W=0%S=A%A=Z%F=R", "ACK, open port"},
		{"T5", "R=Y%DF=Y%T=40%W=0%S=Z%A=S+%F=AR", "SYN, closed port"},
		{"T6", "R=Y%DF=Y%T=40%W=0%S=A%A=Z%F=R", "ACK, closed port"},
		{"T7", "R=Y%DF=Y%T=40%W=0%S=Z%A=S+%F=AR", "FIN, PSH and URG, closed port"},
		{"U1", "R=Y", "UDP, closed port"},
		{"IE", "R=Y", "ICMP echo with odd codes"},
	} {
		m := regexp.MustCompile(c.probe + `\(([^)]*)\)`).FindStringSubmatch(text)
		if m == nil || !strings.HasPrefix(m[1], c.want) {
			t.Errorf("%s (%s): %v, want %s...", c.probe, c.why, m, c.want)
		}
	}
	t.Log(strings.TrimSpace(text))
}

// Segments that scapy builds, from an address that the client's kernel does not have: suites/probe.py.
func TestSuiteScapy(t *testing.T) {
	python := "/usr/bin/python3" // Debian's, which has Debian's scapy
	if err := exec.Command(python, "-c", "import scapy").Run(); err != nil {
		t.Skip("python3-scapy is not installed: run scripts/bootstrap.sh")
	}
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	cmd := w.in("c", python, "suites/probe.py", "c0", w.status().Interfaces[0].MAC)
	cmd.Env = append(cmd.Env, "PYTHONDONTWRITEBYTECODE=1", "HOME="+w.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "ok   IPv"); err == nil && n < 40 {
		t.Errorf("only %d cases ran:\n%s", n, out)
	}
	w.restful(free)
}

// stranger gives the client's interface a second address whose kernel never answers: everything from it is dropped where routes are
// chosen, so nobody resets what a flood in its name has half opened.
func (w *world) stranger() string {
	w.t.Helper()
	const addr = "198.18.0.99"
	w.must(exec.Command("ip", "-n", w.name+"-c", "addr", "add", addr+"/32", "dev", "c0"))
	w.must(exec.Command("ip", "-n", w.name+"-c", "rule", "add", "from", addr, "blackhole"))
	return addr
}

// A flood of SYNs from a host that never answers: cookies are sent, and a good client is served all the while.
func TestSuiteHping(t *testing.T) {
	needTools(t, "hping3")
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	standing := w.mustDial(addr4(7))
	if err := echo(standing, 100); err != nil {
		t.Fatal(err)
	}
	stranger := w.stranger()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	flood := exec.CommandContext(ctx, "ip", "netns", "exec", w.name+"-c", "hping3", "-q", "-I", "c0", "-S", "-p", "7", "-a", stranger, "-i", "u20", server4)
	var said strings.Builder
	flood.Stdout, flood.Stderr = &said, &said
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	served := 0
	var slowest time.Duration
	for time.Since(begin) < 3*time.Second {
		at := time.Now()
		c, err := w.dial("tcp", addr4(7))
		if err != nil {
			t.Fatalf("during the flood: %v", err)
		}
		if err := errors.Join(echo(c, 2000), echo(standing, 2000)); err != nil {
			t.Errorf("during the flood: %v", err)
		}
		_ = c.Close()
		served++
		slowest = max(slowest, time.Since(at))
	}
	cancel()
	_ = flood.Wait()
	cookies := w.stat("tcp_syn_cookies_sent_total")
	t.Logf("%d cookies sent, %d connections served, slowest %v", cookies, served, slowest.Round(time.Millisecond))
	if cookies < 1000 {
		t.Errorf("%d SYN cookies sent: the flood did not reach the listener\n%s", cookies, &said)
	}
	_ = standing.Close()
	// now the stranger answers: a reset for the next SYN-ACK ends each half-open connection
	w.must(exec.Command("ip", "-n", w.name+"-c", "rule", "del", "from", stranger, "blackhole"))
	w.restful(free)
}

// Traffic recorded here, broken by tcprewrite in a way that its seed replays, and sent again: with checksums mended it reaches the
// layers above, without it shows that nothing wrong is taken. A good connection goes on meanwhile.
func TestSuiteTcpreplay(t *testing.T) {
	t.Parallel()
	needTools(t, "tcpdump", "tcprewrite", "tcpreplay")
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	w.record("good.pcap")
	standing := w.mustDial(addr4(7))
	sent := 0
	for seed := 1; seed <= suiteSeeds(t); seed++ {
		for _, mend := range []string{"--fixcsum", ""} {
			out := w.path(fmt.Sprintf("bad%d%s.pcap", seed, mend))
			args := []string{"--infile=" + w.path("good.pcap"), "--outfile=" + out, fmt.Sprintf("--fuzz-seed=%d", seed), "--fuzz-factor=2"}
			if mend != "" {
				args = append(args, mend)
			}
			if text, err := exec.Command("tcprewrite", args...).CombinedOutput(); err != nil {
				// it refuses to mend what it has broken too badly itself
				t.Logf("tcprewrite, seed %d: %v: %s", seed, err, lastLine(string(text)))
				continue
			}
			text := w.must(w.in("c", "tcpreplay", "-q", "-i", "c0", "--topspeed", "--loop=3", out))
			m := regexp.MustCompile(`Successful packets:\s+(\d+)`).FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("tcpreplay said:\n%s", text)
			}
			n, _ := strconv.Atoi(m[1])
			sent += n
			if err := echo(standing, 3000); err != nil {
				t.Fatalf("after seed %d: %v", seed, err)
			}
		}
	}
	if sent < 1000 {
		t.Errorf("%d packets sent, want many", sent)
	}
	_ = standing.Close()
	w.restful(free)
	t.Logf("%d packets sent", sent)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// record writes what the client sends in some connections of each kind.
func (w *world) record(name string) {
	w.t.Helper()
	dump := w.in("c", "tcpdump", "-i", "c0", "-Q", "out", "-U", "-Z", "root", "-w", w.path(name), "ip or ip6 or arp")
	said := &strings.Builder{}
	dump.Stderr = said
	if err := dump.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(time.Minute, "tcpdump ready", func() error {
		if b, err := os.ReadFile(w.path(name)); err != nil || len(b) < 24 {
			return errors.New("no file yet")
		}
		return nil
	})
	for _, addr := range []string{addr4(7), addr6(7), addr4(9), addr6(7700), addr4(7700), addr4(10)} {
		c, err := w.dial("tcp", addr)
		if err != nil {
			continue // nobody listens on 10: a reset belongs to the record
		}
		if strings.HasSuffix(addr, ":7") {
			for n := range 20 {
				if err := echo(c, 1+n*300); err != nil {
					w.t.Fatal(err)
				}
			}
		} else {
			_, _ = c.Write([]byte("NPRO\x02\x00 and something"))
		}
		_ = c.Close()
	}
	for _, addr := range []string{server4, server6} {
		w.must(w.in("c", "ping", "-q", "-c", "3", "-i", "0.1", "-s", "1000", addr))
	}
	_ = dump.Process.Signal(syscall.SIGINT)
	if err := dump.Wait(); err != nil {
		w.t.Fatalf("tcpdump: %v: %s", err, said)
	}
}

// tcpkill sees each segment and resets in its name with the exact number: the connection it aims at ends, at both ends, and
// no other one does.
func TestSuiteTcpkill(t *testing.T) {
	t.Parallel()
	needTools(t, "tcpkill")
	w := newWorld(t, options{})
	free := w.status().BuffersFree
	victim, other := w.mustDial(addr4(7)), w.mustDial(addr4(7))
	for _, c := range []net.Conn{victim, other} {
		if err := echo(c, 100); err != nil {
			t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(victim.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	kill := exec.CommandContext(ctx, "ip", "netns", "exec", w.name+"-c", "tcpkill", "-i", "c0", "-3", "port", port)
	said := &strings.Builder{}
	kill.Stderr = said
	if err := kill.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = kill.Wait() }()
	w.eventually(time.Minute, "the victim's end", func() error {
		_ = victim.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := victim.Write([]byte("x")); err != nil {
			return nil
		}
		if _, err := victim.Read(make([]byte, 10)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return errors.New("still open")
	})
	if err := echo(other, 1000); err != nil {
		t.Errorf("the other connection: %v", err)
	}
	_ = victim.Close()
	_ = other.Close()
	w.restful(free)
}
