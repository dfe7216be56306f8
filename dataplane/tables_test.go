package dataplane

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
)

// The tables that C and Go share name each thing once, in the form Prometheus wants.
func TestTables(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	seen := map[string]bool{}
	for c := Counter(0); c < CounterCount; c++ {
		m := c.Meta()
		if !name.MatchString(m.Name) || m.Help == "" || seen[m.Name] {
			t.Errorf("counter %d: %+v (seen before: %v)", c, m, seen[m.Name])
		}
		seen[m.Name] = true
	}
	layers := map[string]bool{"link": true, "ip": true, "icmp": true, "udp": true, "tcp": true, "npro": true, "tx": true}
	for d := Drop(0); d < DropCount; d++ {
		m := d.Meta()
		if !name.MatchString(m.Reason) || m.Help == "" || !layers[m.Layer] || seen[m.Reason] {
			t.Errorf("drop %d: %+v (seen before: %v)", d, m, seen[m.Reason])
		}
		seen[m.Reason] = true
	}
}

func TestCodes(t *testing.T) {
	if CodeOK.Err() != nil || !errors.Is(fmt.Errorf("close: %w", CodeStale.Err()), CodeStale) {
		t.Error("codes do not work as errors")
	}
	if CodeStale.Error() == "" || Code(9999).Error() == "" || CodeStale.Error() == Code(9999).Error() {
		t.Errorf("texts: %q, %q", CodeStale, Code(9999))
	}
}

func TestCountersAdd(t *testing.T) {
	var a, b Counters
	a.Counter[CounterRXPkts], b.Counter[CounterRXPkts] = 2, 3
	b.Drop[DropTCPChecksum] = 7
	a.Add(&b)
	if a.Counter[CounterRXPkts] != 5 || a.Drop[DropTCPChecksum] != 7 || b.Counter[CounterRXPkts] != 3 {
		t.Errorf("sum %d, %d", a.Counter[CounterRXPkts], a.Drop[DropTCPChecksum])
	}
}

func TestHandleCore(t *testing.T) {
	if c := Handle(0x0000000103000007).Core(); c != 3 {
		t.Errorf("core %d, want 3", c)
	}
	e := Event{Body: [][]byte{make([]byte, 3), nil, make([]byte, 4)}}
	if e.Len() != 7 {
		t.Errorf("length %d, want 7", e.Len())
	}
}
