package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

func nicCmd(a *app) *cobra.Command {
	return a.nicFlags(noun("nic", "Network devices, and what is done with packets before they reach a core",
		nicListCmd(a, get(a, "list", "Devices, and how the XDP program is attached", api.PathNICs, func(v *api.NICs) error {
			return a.print(v, anys(v.NICs), nicTable(v.NICs))
		})), nicShowCmd(a), nicBindCmd(a), nicConfirmCmd(a), nicUnbindCmd(a), nicGuardCmd(a),
		noun("filter", "Sources whose packets are dropped", filterListCmd(a), filterAddCmd(a), filterDeleteCmd(a)),
		noun("limit", "Packets and connection attempts a second from one source", limitShowCmd(a), limitSetCmd(a))))
}

func nicTable(list []api.NIC) *table {
	t := newTable("nic", "state", "driver", "backend", "xdp mode", ">seen", ">to appliance", ">to kernel", ">dropped", ">list", "limits", "interfaces")
	for i := range list {
		n := &list[i]
		p := &n.Packets
		t.row(n.Name, n.State, n.Driver, n.Backend, n.XDPMode, p.Seen, p.Redirected, p.Passed+p.Steered+p.Malformed,
			p.NoSocket+p.Denied+p.RateLimited+p.SYNLimited+p.KernelLimited, n.ListEntries, limitsText(&n.Limits), strings.Join(n.Interfaces, ","))
	}
	return t
}

func limitsText(l *api.Limits) string {
	var out []string
	if l.Packets > 0 {
		out = append(out, fmt.Sprintf("%d/s", l.Packets))
	}
	if l.SYNs > 0 {
		out = append(out, fmt.Sprintf("%d SYN/s", l.SYNs))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ",")
}

func portsText(list []api.PortRange) string {
	var out []string
	for _, r := range list {
		if r.First == r.Last {
			out = append(out, fmt.Sprint(r.First))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return strings.Join(out, ",")
}

func nicShowCmd(a *app) *cobra.Command {
	var sources int
	c := a.watched(&cobra.Command{Use: "show IF", Short: "One device: mode and why, packets by what became of them, sources that exceed the limits", Args: exact(1, "one device")})
	c.Flags().IntVar(&sources, "sources", 10, "list so many limited sources")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.NICAnswer
			if err := cl.Get(ctx, api.PathNIC+url.PathEscape(args[0]), url.Values{api.NICSources: {fmt.Sprint(sources)}}, &v); err != nil {
				return err
			}
			return a.print(v, nil, nicTables(&v.NIC)...)
		})
	}
	return c
}

func nicTables(n *api.NIC) []*table {
	why := newTable("xdp mode", "why not native", "mac", ">queues", ">numa node", "down because")
	node := ""
	if n.NUMANode >= 0 {
		node = fmt.Sprint(n.NUMANode)
	}
	why.row(n.XDPMode, n.XDPReason, n.MAC, n.RxQueues, node, n.Reason)
	packets := newTable("packets", ">count", "end")
	p := &n.Packets
	for _, r := range []struct {
		name  string
		count uint64
		end   string
	}{{"redirected", p.Redirected, "to the appliance"}, {"passed", p.Passed, "to the kernel"}, {"steered", p.Steered, "to the kernel, for a port of its"},
		{"malformed", p.Malformed, "to the kernel, too short to judge"}, {"no_socket", p.NoSocket, "dropped"}, {"denied", p.Denied, "dropped"},
		{"rate_limited", p.RateLimited, "dropped"}, {"syn_limited", p.SYNLimited, "dropped"}, {"kernel_rate_limited", p.KernelLimited, "dropped"}, {"seen", p.Seen, "all of these"}} {
		packets.row(r.name, r.count, r.end)
	}
	out := []*table{nicTable([]api.NIC{*n}), why, packets}
	if len(n.KernelTCP)+len(n.KernelUDP) > 0 {
		kernel := newTable("kernel's tcp ports", "kernel's udp ports")
		kernel.row(portsText(n.KernelTCP), portsText(n.KernelUDP))
		out = append(out, kernel)
	}
	if len(n.Limited) > 0 {
		limited := newTable("limited source", ">packets", ">syns")
		for _, l := range n.Limited {
			limited.row(l.Source, l.Packets, l.SYNs)
		}
		out = append(out, limited)
	}
	return out
}

// filterOf reads the filter of a device.
func filterOf(ctx context.Context, cl *client.Client, nic string) (v api.FilterAnswer, err error) {
	err = cl.Get(ctx, api.PathNIC+url.PathEscape(nic)+api.NICFilter, nil, &v)
	return v, err
}

func origin(live bool) string {
	if live {
		return "live"
	}
	return "config"
}

func filterListCmd(a *app) *cobra.Command {
	c := a.watched(&cobra.Command{Use: "list IF", Short: "Deny and allow entries; of those that hold a source the longest decides", Args: exact(1, "one device")})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			v, err := filterOf(ctx, cl, args[0])
			if err != nil {
				return err
			}
			t := newTable("prefix", "action", "applies to", "origin", ">hits")
			for _, e := range v.Entries {
				t.row(e.Prefix, e.Action, v.ApplyTo, origin(e.Live), e.Hits)
			}
			return a.print(v, anys(v.Entries), t)
		})
	}
	return c
}

func filterAddCmd(a *app) *cobra.Command {
	var deny, allow, yes bool
	c := &cobra.Command{Use: "add IF PREFIX --deny|--allow", Short: "List a source, now and until npd ends", Args: exact(2, "a device and an address or prefix"),
		Long: "Lists a source, now and until npd ends; what shall stay belongs into the configuration ([interface.filter]).\nOf all entries that hold a source the longest prefix decides. What is allowed by an entry is not limited either.\nExample: npctl nic filter add np0 203.0.113.0/24 --deny"}
	f := c.Flags()
	f.BoolVar(&deny, "deny", false, "drop its packets")
	f.BoolVar(&allow, "allow", false, "let its packets pass")
	f.BoolVar(&yes, "yes", false, "do not ask where the kernel's packets are dropped too")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if deny == allow {
			return usageError{errors.New("nic filter add: want one of --deny and --allow")}
		}
		req := api.FilterRequest{NIC: args[0], Op: "add", Prefix: args[1], Action: "allow"}
		if deny {
			req.Action = "deny"
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			if deny && !yes {
				if err := a.confirmDeny(ctx, cmd, cl, args); err != nil {
					return err
				}
			}
			var v api.Done
			return cl.Post(cmd.Context(), api.PathNICFilter, req, &v)
		})
	}
	return c
}

// confirmDeny asks before an entry that may lock out whoever makes it.
func (a *app) confirmDeny(ctx context.Context, cmd *cobra.Command, cl *client.Client, args []string) error {
	v, err := filterOf(ctx, cl, args[0])
	if err != nil || v.ApplyTo != "all" {
		return err
	}
	fmt.Fprintf(a.err, "npctl: filter add: on %s lists apply to the kernel's packets too: %s will no longer reach this host, by SSH either. Go on? [y/N] ", v.NIC, args[1])
	line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errors.New("filter add: not done (--yes does not ask)")
	}
	return nil
}

func filterDeleteCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "delete IF PREFIX", Short: "Take an entry off the lists; one of the configuration comes back when npd starts again",
		Args: exact(2, "a device and an address or prefix")}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Done
			return cl.Post(ctx, api.PathNICFilter, api.FilterRequest{NIC: args[0], Op: "delete", Prefix: args[1]}, &v)
		})
	}
	return c
}

func limitShowCmd(a *app) *cobra.Command {
	c := a.watched(&cobra.Command{Use: "show IF", Short: "Limits of each source", Args: exact(1, "one device")})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			v, err := filterOf(ctx, cl, args[0])
			if err != nil {
				return err
			}
			t := newTable("limit", ">per second", ">burst", "applies to", "origin")
			for _, l := range []struct {
				name        string
				rate, burst int
			}{{"packets", v.Limits.Packets, v.Limits.PacketBurst}, {"syns", v.Limits.SYNs, v.Limits.SYNBurst}} {
				rate, burst := "none", ""
				if l.rate > 0 {
					rate, burst = fmt.Sprint(l.rate), fmt.Sprint(l.burst)
				}
				t.row(l.name, rate, burst, v.ApplyTo, origin(v.Limits.Live))
			}
			return a.print(v, nil, t)
		})
	}
	return c
}

func limitSetCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "set IF [--pps N] [--syn N]", Short: "Change the limits of each source, now and until npd ends", Args: exact(1, "one device"),
		Long: "Changes the limits of each source (an IPv4 address or an IPv6 /64), now and until npd ends; 0 ends a limit.\nWhat is not given stays. A rate without its burst may come at once as often as in a second.\nExample: npctl nic limit set np0 --pps 50000 --syn 100 --syn-burst 200"}
	f := c.Flags()
	pps, ppsBurst := f.Int("pps", 0, "packets a second"), f.Int("pps-burst", 0, "packets at once after a pause")
	syn, synBurst := f.Int("syn", 0, "TCP connection attempts a second"), f.Int("syn-burst", 0, "attempts at once after a pause")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.LimitRequest{NIC: args[0]}
		given := false
		for _, o := range []struct {
			name  string
			value *int
			to    **int
		}{{"pps", pps, &req.Packets}, {"pps-burst", ppsBurst, &req.PacketBurst}, {"syn", syn, &req.SYNs}, {"syn-burst", synBurst, &req.SYNBurst}} {
			if f.Changed(o.name) {
				*o.to, given = o.value, true
			}
		}
		if !given {
			return usageError{errors.New("nic limit set: want --pps, --pps-burst, --syn or --syn-burst")}
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Done
			return cl.Post(ctx, api.PathNICLimit, req, &v)
		})
	}
	return c
}
