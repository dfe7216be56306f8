package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

// get makes a command that reads one path and prints it.
func get[T any](a *app, use, short, path string, show func(v *T) error) *cobra.Command {
	return a.watched(&cobra.Command{Use: use, Short: short, Args: exact(0, "no arguments"), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var v T
			if err := c.Get(ctx, path, nil, &v); err != nil {
				return err
			}
			return show(&v)
		})
	}})
}

func statusCmd(a *app) *cobra.Command {
	return get(a, "status", "The daemon at a glance; exit 1 when something is wrong", api.PathStatus, func(s *api.Status) error {
		if err := a.print(s, nil, statusTables(a, s)...); err != nil {
			return err
		}
		if a.output == "table" || a.output == "wide" {
			for _, p := range s.Problems {
				fmt.Fprintf(a.err, "npctl: %s\n", p)
			}
		}
		if len(s.Problems) > 0 {
			return quietError{exitFailed}
		}
		return nil
	})
}

func statusTables(a *app, s *api.Status) []*table {
	top := newTable("state", "uptime", "backend", "crypto", ">conns", ">sessions", ">streams", ">buffers free", ">rx packets", ">tx packets", ">dropped")
	top.row(s.State, ago(time.Duration(s.UptimeSeconds*float64(time.Second))), s.Backend, s.CryptoEngine, s.Connections, s.Sessions, s.Streams,
		fmt.Sprintf("%d/%d", s.BuffersFree, s.Buffers), s.RxPackets, s.TxPackets, s.Dropped)
	cores := newTable("core", "cpu", ">busy", ">turns", ">sleeps", "memory", ">sending", ">received", ">out of order", ">short for")
	for _, c := range s.Cores {
		cpu := fmt.Sprint(c.CPU)
		if c.CPU < 0 {
			cpu = "any"
		}
		m := &c.Memory
		cores.row(c.Core, cpu, fmt.Sprintf("%.1f%%", 100*c.BusyRatio), c.Turns, c.Sleeps, m.State, bytesText(m.SendBytes), bytesText(m.ReceiveBytes),
			bytesText(m.OutOfOrderBytes), ago(time.Duration(m.PressureNanoseconds)))
	}
	tables := []*table{top, cores, interfaceTable(s.Interfaces, false)}
	if a.output == "wide" {
		id := newTable("version", "public key", "started", "huge pages")
		huge := "no"
		if s.HugePageBytes > 0 {
			huge = bytesText(s.HugePageBytes)
		}
		id.row(s.Version, s.PublicKey, s.StartedAt.UTC().Format(time.RFC3339), huge)
		tables = append(tables, id)
	}
	return tables
}

// interfaceTable has columns for device and VLAN when there are VLANs. Packets
// and queues are the device's, with the first interface on it.
func interfaceTable(list []api.Interface, wide bool) *table {
	vlans := slices.ContainsFunc(list, func(i api.Interface) bool { return i.VLAN != 0 })
	cols := []string{"interface", "state", "mac", ">mtu", "mode", ">queues", ">rx packets", ">tx packets", ">to kernel", "addresses"}
	if vlans {
		cols = slices.Insert(cols, 1, "device", ">vlan")
	}
	if wide {
		cols = append(cols, ">rx bytes", ">tx bytes", ">rx dropped", ">rx ring full", ">fill empty", ">wakeups")
	}
	t := newTable(cols...)
	for _, i := range list {
		mode := i.XDPMode
		if i.Backend != "" && !strings.HasPrefix(i.Backend, "af_xdp") {
			mode = i.Backend
		} else if i.ZeroCopy {
			mode += "/zero-copy"
		} else if mode != "" {
			mode += "/copy"
		}
		var q api.Queue
		for _, one := range i.Queues {
			q.RxPackets += one.RxPackets
			q.TxPackets += one.TxPackets
			q.RxBytes += one.RxBytes
			q.TxBytes += one.TxBytes
			q.RxDropped += one.RxDropped
			q.RxRingFull += one.RxRingFull
			q.FillEmpty += one.FillEmpty
			q.Wakeups += one.Wakeups
		}
		cells := []any{i.Name, i.State, i.MAC, i.MTUBytes, mode, len(i.Queues), q.RxPackets, q.TxPackets, i.PassedKernel, addressText(&i, wide),
			q.RxBytes, q.TxBytes, q.RxDropped, q.RxRingFull, q.FillEmpty, q.Wakeups}
		if vlans {
			vlan := ""
			if i.VLAN != 0 {
				vlan = strconv.Itoa(int(i.VLAN))
			}
			cells = slices.Insert(cells, 1, any(i.Device), any(vlan))
		}
		t.row(cells...)
	}
	return t
}

// addressText lists the addresses, with the state of those that are not simply
// in use; wide lists those that make themselves too.
func addressText(i *api.Interface, wide bool) string {
	if len(i.AddressStates) == 0 {
		return strings.Join(i.Addresses, ",")
	}
	var out []string
	for _, a := range i.AddressStates {
		usual := a.State == "preferred"
		if a.Origin == "link-local" && usual && !wide {
			continue
		}
		text := a.Address
		switch {
		case !usual && a.Rival != "":
			text += "(" + a.State + ": " + a.Rival + ")"
		case !usual:
			text += "(" + a.State + ")"
		case a.Conflicts > 0:
			text += "(claimed by " + a.Rival + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

func interfaceCmd(a *app) *cobra.Command {
	return noun("interface", "Interfaces of the appliance", get(a, "list", "Interfaces with their packets", api.PathInterfaces, func(v *api.Interfaces) error {
		return a.print(v, anys(v.Interfaces), interfaceTable(v.Interfaces, a.output == "wide"))
	}))
}

func dropsCmd(a *app) *cobra.Command {
	var all bool
	c := get(a, "drops", "Dropped packets and frames by reason, and whether the ledger sums", api.PathDrops, func(d *api.Drops) error {
		t := newTable("reason", "layer", ">count", "help")
		for _, r := range d.Drops {
			if r.Value > 0 || all {
				t.row(r.Name, r.Layer, r.Value, r.Help)
			}
		}
		l := newTable("ledger", ">received", ">delivered", ">passed", ">held", ">dropped", "balanced")
		balanced := map[bool]string{true: "yes", false: "no (exact only when idle)"}[d.Ledger.Balanced]
		l.row("packets", d.Ledger.RxPackets, d.Ledger.Delivered, d.Ledger.Passed, d.Ledger.Held, d.Ledger.Dropped, balanced)
		l.row("npro frames", d.Ledger.FramesReceived, d.Ledger.FramesDelivered, 0, 0, d.Ledger.FramesDropped, balanced)
		if len(t.rows) == 0 {
			return a.print(d, anys(d.Drops), l)
		}
		return a.print(d, anys(d.Drops), t, l)
	})
	c.Flags().BoolVarP(&all, "all", "a", false, "reasons that never happened, too")
	return c
}

func statsCmd(a *app) *cobra.Command {
	return get(a, "stats", "Every counter", api.PathStats, func(s *api.Stats) error {
		cols := []string{"counter", ">value"}
		if a.output == "wide" {
			for _, c := range s.Cores {
				cols = append(cols, fmt.Sprintf(">core %d", c.Core))
			}
		}
		t := newTable(append(cols, "help")...)
		for i, n := range s.Counters {
			cells := []any{n.Name, n.Value}
			if a.output == "wide" {
				for _, c := range s.Cores {
					cells = append(cells, c.Values[i])
				}
			}
			t.row(append(cells, n.Help)...)
		}
		return a.print(s, anys(s.Counters), t)
	})
}

func neighborCmd(a *app) *cobra.Command {
	return noun("neighbor", "ARP and ND table", get(a, "list", "Neighbors of every core", api.PathNeighbors, func(n *api.Neighbors) error {
		t := newTable("address", "mac", "interface", "state", ">age", ">core")
		for _, e := range n.Neighbors {
			t.row(e.Address, e.MAC, e.Interface, e.State, ago(time.Duration(e.AgeSeconds*float64(time.Second))), e.Core)
		}
		return a.print(n, anys(n.Neighbors), t)
	}))
}

func listenerCmd(a *app) *cobra.Command {
	return noun("listener", "Listeners", get(a, "list", "Listeners and their connections", api.PathListeners, func(l *api.Listeners) error {
		cols := []string{"name", "address", "protocol", "backend", ">connections", ">limit", ">accepted", ">failed", "version 1"}
		if a.output == "wide" {
			cols = append(cols, "congestion control", ">refused", ">bad handshakes")
		}
		http := newTable("http listener", ">requests", ">in flight", "by protocol", ">refused", "because", "connections broken off")
		for _, e := range l.Listeners {
			if h := e.HTTP; h != nil {
				http.row(e.Name, h.Total, h.InFlight, tally(h.Requests), h.Refused, tally(h.Refusals), tally(h.Broken))
			}
		}
		t := newTable(cols...)
		for _, e := range l.Listeners {
			limit := "none"
			if e.MaxConnections > 0 {
				limit = fmt.Sprint(e.MaxConnections)
			}
			accepted, failed, refused, unshaken := "-", "-", "-", "-" // not counted by listener
			if e.Protocol == "npro" || e.Service != nil {
				accepted = fmt.Sprint(e.Accepted)
			}
			if s := e.Service; s != nil {
				failed, refused, unshaken = fmt.Sprint(s.Failed), fmt.Sprint(s.Refused), fmt.Sprint(s.FailedHandshakes)
			}
			v1 := map[bool]string{true: "allowed", false: "refused"}[e.AllowV1]
			if e.Protocol != "npro" {
				v1 = "-"
			}
			t.row(e.Name, e.Address, withTLS(e.Protocol, e.TLS), e.Backend, e.Connections, limit, accepted, failed, v1, e.CongestionControl, refused, unshaken)
		}
		if len(http.rows) == 0 {
			return a.print(l, anys(l.Listeners), t)
		}
		return a.print(l, anys(l.Listeners), t, http)
	}))
}

// tally prints counts by name, those that are not zero.
func tally(counts map[string]uint64) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		if counts[k] > 0 {
			out = append(out, fmt.Sprintf("%s %d", k, counts[k]))
		}
	}
	return strings.Join(out, ", ")
}

func peerCmd(a *app) *cobra.Command {
	return noun("peer", "Configured identities", get(a, "list", "Peers and what each may call", api.PathPeers, func(p *api.Peers) error {
		t := newTable("name", "public key", "may call", ">connections")
		for _, e := range p.Peers {
			t.row(e.Name, e.PublicKey, strings.Join(e.Allow, ","), e.Connections)
		}
		if p.AllowAny && (a.output == "table" || a.output == "wide") {
			fmt.Fprintln(a.err, "npctl: any identity may connect ([protocol] allow_any_peer = true)")
		}
		return a.print(p, anys(p.Peers), t)
	}))
}

func versionCmd(a *app) *cobra.Command {
	var daemon bool
	c := &cobra.Command{Use: "version", Short: "Version of npctl and, with --daemon, of npd", Args: exact(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := newTable("program", "version", "commit", "go")
			own := ownVersion()
			t.row("npctl", own.Version, own.Commit, own.Go)
			if !daemon {
				return a.print(own, nil, t)
			}
			return a.each(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				var v api.Version
				if err := c.Get(ctx, api.PathVersion, nil, &v); err != nil {
					return err
				}
				t.row("npd", v.Version, v.Commit, v.Go)
				return a.print(v, nil, t)
			})
		}}
	c.Flags().BoolVar(&daemon, "daemon", false, "ask the running npd, too")
	return c
}
