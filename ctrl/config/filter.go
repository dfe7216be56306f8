package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// entriesMax is how many list entries the XDP program holds (dataplane/xdp).
const entriesMax = 8192

// filter checks an interface's filter.
func (l *loader) filter(i int) {
	c := l.cfg
	it, at := &c.Interfaces[i], fmt.Sprintf("interface[%d].filter", i)
	f := &it.Filter
	first := slices.IndexFunc(c.Interfaces, func(o Interface) bool { return o.Name == it.Name })
	none := reflect.New(reflect.TypeFor[Filter]()).Elem()
	setDefaults(none)
	if first != i && !reflect.DeepEqual(*f, none.Interface()) {
		l.fail(c.Pos(at), "interface.filter: given for %s, expected only with the device's first [[interface]], %s (%s)",
			it.Label(), c.Interfaces[first].Label(), c.Pos(fmt.Sprintf("interface[%d].name", first)))
	}
	seen := map[string]string{}
	for _, list := range [...]struct {
		key     string
		entries []netip.Prefix
	}{{"deny", f.Deny}, {"allow", f.Allow}} {
		for j, p := range list.entries {
			place := fmt.Sprintf("%s.%s[%d]", at, list.key, j)
			l.unique(seen, "prefix", p.String(), place)
			if p != p.Masked() {
				l.fail(c.Pos(place), "interface.filter.%s: %s has bits behind its length, expected %s", list.key, p, p.Masked())
			}
		}
	}
	if n := len(f.Deny) + len(f.Allow); n > entriesMax {
		l.fail(c.Pos(at), "interface.filter: %d entries in deny and allow, expected at most %d", n, entriesMax)
	}
	if f.RateBurst > 0 && f.RatePPS == 0 {
		l.fail(c.Pos(at+".rate_burst"), "interface.filter.rate_burst: got %d without a rate, expected rate_pps with it", f.RateBurst)
	}
	if f.SYNBurst > 0 && f.RateSYN == 0 {
		l.fail(c.Pos(at+".syn_burst"), "interface.filter.syn_burst: got %d without a rate, expected rate_syn with it", f.SYNBurst)
	}
}
