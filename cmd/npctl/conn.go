package main

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

// connKeys are what `conn list --sort` understands; the larger or later comes first but for names.
var connKeys = map[string]func(x, y *api.Conn) int{
	"id":       func(x, y *api.Conn) int { return strings.Compare(x.ID, y.ID) },
	"remote":   func(x, y *api.Conn) int { return strings.Compare(x.Remote, y.Remote) },
	"state":    func(x, y *api.Conn) int { return strings.Compare(x.State, y.State) },
	"peer":     func(x, y *api.Conn) int { return strings.Compare(x.Peer, y.Peer) },
	"core":     func(x, y *api.Conn) int { return x.Core - y.Core },
	"rtt":      func(x, y *api.Conn) int { return more(x.TCP.RTTMs, y.TCP.RTTMs) },
	"cwnd":     func(x, y *api.Conn) int { return more(x.TCP.CwndBytes, y.TCP.CwndBytes) },
	"retrans":  func(x, y *api.Conn) int { return more(x.TCP.Retrans, y.TCP.Retrans) },
	"received": func(x, y *api.Conn) int { return more(x.BytesReceived, y.BytesReceived) },
	"sent":     func(x, y *api.Conn) int { return more(x.BytesSent, y.BytesSent) },
	"sendq":    func(x, y *api.Conn) int { return more(x.SendQueueBytes, y.SendQueueBytes) },
	"age":      func(x, y *api.Conn) int { return x.CreatedAt.Compare(y.CreatedAt) },
}

func more[T float64 | uint32 | uint64](x, y T) int {
	switch {
	case x > y:
		return -1
	case x < y:
		return 1
	}
	return 0
}

func connCmd(a *app) *cobra.Command {
	c := noun("connection", "Connections", connListCmd(a), connShowCmd(a), connCloseCmd(a), connSetCmd(a))
	c.Aliases = []string{"conn"}
	return c
}

func connListCmd(a *app) *cobra.Command {
	var sortBy, state, listener, peer, protocol string
	var limit int
	c := a.watched(&cobra.Command{Use: "list", Short: "Connections, sortable by any column", Args: exact(0, "no arguments")})
	f := c.Flags()
	f.StringVar(&sortBy, "sort", "id", "id, remote, state, peer, core, rtt, cwnd, retrans, received, sent, sendq or age")
	f.StringVar(&state, "state", "", "only this state, e.g. established")
	f.StringVar(&listener, "listener", "", "only of this listener")
	f.StringVar(&peer, "peer", "", "only of this peer")
	f.StringVar(&protocol, "protocol", "", "only npro, echo, ...")
	f.IntVar(&limit, "limit", 1000, "at most so many")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		less, ok := connKeys[sortBy]
		if !ok {
			return usageError{fmt.Errorf("--sort %q: want one of id, remote, state, peer, core, rtt, cwnd, retrans, received, sent, sendq, age", sortBy)}
		}
		q := url.Values{"limit": {fmt.Sprint(limit)}}
		for k, v := range map[string]string{"state": state, "listener": listener, "peer": peer, "protocol": protocol} {
			if v != "" {
				q.Set(k, v)
			}
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Conns
			if err := cl.Get(ctx, api.PathConns, q, &v); err != nil {
				return err
			}
			slices.SortStableFunc(v.Connections, func(x, y api.Conn) int { return less(&x, &y) })
			if n := v.Total - len(v.Connections); n > 0 {
				fmt.Fprintf(a.err, "npctl: %d more; raise --limit\n", n)
			}
			return a.print(v, anys(v.Connections), connTable(v.Connections, a.output == "wide"))
		})
	}
	return c
}

func connTable(list []api.Conn, wide bool) *table {
	cols := []string{"id", "protocol", "backend", "state", "remote", "local", "peer", ">core", ">rtt ms", ">cwnd", ">received", ">sent", ">retrans"}
	if wide {
		cols = append(cols, "aead", "pattern", ">streams", ">frames in", ">frames out", ">sendq", ">recvq", ">age", "limited")
	}
	t := newTable(cols...)
	for i := range list {
		c := &list[i]
		peer := c.Peer
		if peer == "" && c.PeerKey != "" {
			peer = c.PeerKey
			if !wide {
				peer = peer[:min(10, len(peer))] + "…"
			}
		}
		t.row(c.ID, c.Protocol, c.Backend, c.State, c.Remote, c.Local, peer, c.Core, fmt.Sprintf("%.3f", c.TCP.RTTMs), bytesText(uint64(c.TCP.CwndBytes)),
			bytesText(c.BytesReceived), bytesText(c.BytesSent), c.TCP.Retrans,
			c.AEAD, c.Pattern, c.Streams, c.FramesReceived, c.FramesSent, c.SendQueueBytes, c.ReceiveQueueBytes, ago(time.Since(c.CreatedAt)), c.TCP.Limited)
	}
	return t
}

func connShowCmd(a *app) *cobra.Command {
	var info bool
	c := a.watched(&cobra.Command{Use: "show ID", Short: "One connection; -i adds the transport's inside", Args: exact(1, "one connection ID")})
	c.Flags().BoolVarP(&info, "info", "i", false, "transport state, in the words of ss -ti")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.ConnAnswer
			if err := cl.Get(ctx, api.PathConn+url.PathEscape(args[0]), nil, &v); err != nil {
				return err
			}
			if err := a.print(v, nil, connTable([]api.Conn{v.Connection}, true)); err != nil {
				return err
			}
			if info && (a.output == "table" || a.output == "wide") {
				fmt.Fprintln(a.out, "\t"+transportInfo(&v.Connection))
			}
			return nil
		})
	}
	return c
}

// transportInfo is what is known below the session.
func transportInfo(c *api.Conn) string {
	if u := c.Unix; u != nil {
		return fmt.Sprintf("unix pid:%d uid:%d gid:%d bytes_sent:%d bytes_received:%d lastrcv:%.0f skmem:(r%d,rb%d,w%d,tb%d)", u.PID, u.UID, u.GID,
			c.BytesSent, c.BytesReceived, c.LastReceivedMs, c.ReceiveQueueBytes, c.TCP.RcvBufBytes, c.SendQueueBytes, c.TCP.SndBufBytes)
	}
	return tcpInfo(c)
}

// tcpInfo is one line in the vocabulary of ss -ti.
func tcpInfo(c *api.Conn) string {
	t := &c.TCP
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if t.Timestamps {
		add("ts")
	}
	if t.SACK {
		add("sack")
	}
	if t.ECN {
		add("ecn")
	}
	if t.CESeen {
		add("ecn_ce_seen")
	}
	if t.ECESeen {
		add("ecn_ece_seen")
	}
	add("%s", t.CongestionControl)
	if b := t.BBR; b != nil {
		add("bbr:(%s,bw:%sbps,mrtt:%g,pacing_gain:%g,cwnd_gain:%g%s)", b.Phase, bpsText(b.BandwidthBps), b.MinRTTMs, b.PacingGain, b.CwndGain, bbrBounds(b))
	}
	add("wscale:%d,%d rto:%.3f rtt:%.3f/%.3f", t.WscaleSnd, t.WscaleRcv, t.RTOMs, t.RTTMs, t.RTTVarMs)
	add("mss:%d pmtu:%d cwnd:%d", t.MSSBytes, t.PMTUBytes, t.CwndBytes/max(t.MSSBytes, 1))
	if t.SsthreshBytes > 0 {
		add("ssthresh:%d", t.SsthreshBytes/max(t.MSSBytes, 1))
	}
	add("bytes_sent:%d bytes_received:%d bytes_retrans:%d", c.BytesSent, c.BytesReceived, c.BytesRetrans)
	add("segs_out:%d segs_in:%d", c.SegmentsSent, c.SegmentsReceived)
	add("lastrcv:%.0f snd_wnd:%d rcv_wnd:%d", c.LastReceivedMs, t.SndWndBytes, t.RcvWndBytes)
	for _, e := range []struct {
		name  string
		value uint32
	}{{"unacked_bytes", t.InflightBytes}, {"sacked_bytes", t.SackedBytes}, {"lost_bytes", t.LostBytes}, {"rcv_ooo_bytes", t.OutOfOrderBytes},
		{"retrans", t.Retrans}, {"timeouts", t.Timeouts}, {"backoff", uint32(t.Backoff)}, {"dsack_dups", t.DSACKs},
		{"reord_seen", uint32(t.Reordering)}, {"tail_probes", uint32(t.TailProbes)}, {"undos", uint32(t.Undos)},
		{"user_timeout", uint32(t.UserTimeoutMs)}, {"unacked_ms", uint32(t.UnackedMs)}} {
		if e.value > 0 {
			add("%s:%d", e.name, e.value)
		}
	}
	if t.CAState != "" && t.CAState != "open" {
		add("ca_state:%s", t.CAState)
	}
	if t.Reordering > 0 || t.DSACKs > 0 {
		add("reo_wnd:%.3f", t.ReoWndMs)
	}
	if t.PacingBps > 0 {
		add("pacing_rate %sbps", bpsText(t.PacingBps))
	}
	if t.DeliveryBps > 0 {
		add("delivery_rate %sbps", bpsText(t.DeliveryBps))
	}
	if t.Limited != "" {
		add("%s", t.Limited)
	}
	if t.RcvRTTMs > 0 {
		add("rcv_rtt:%.3f", t.RcvRTTMs)
	}
	add("rcv_space:%d skmem:(r%d,rb%d,w%d,tb%d)", t.RcvSpaceBytes, c.ReceiveQueueBytes, t.RcvBufBytes, c.SendQueueBytes, t.SndBufBytes)
	add("minrtt:%.3f", t.MinRTTMs)
	return strings.Join(w, " ")
}

func bbrBounds(b *api.BBR) string {
	var s string
	if b.InflightHiBytes > 0 {
		s += fmt.Sprintf(",inflight_hi:%d", b.InflightHiBytes)
	}
	if b.InflightLoBytes > 0 {
		s += fmt.Sprintf(",inflight_lo:%d", b.InflightLoBytes)
	}
	return s
}

// bpsText is a rate as ss prints it: 1.25G, 40M, 9600.
func bpsText(v uint64) string {
	for _, u := range []struct {
		of   uint64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= u.of {
			return strconv.FormatFloat(math.Round(float64(v)/float64(u.of)*100)/100, 'f', -1, 64) + u.name
		}
	}
	return strconv.FormatUint(v, 10)
}

func connSetCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "set ID congestion_control|user_timeout VALUE",
		Short: "Change a live connection's congestion control (cubic, newreno, bbr) or user timeout (30s, 2m; 0s: none)",
		Args:  exact(3, "a connection ID, congestion_control or user_timeout, and a value")}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.SetRequest{ID: args[0]}
		switch args[1] {
		case "congestion_control":
			req.CongestionControl = args[2]
		case "user_timeout":
			d, err := time.ParseDuration(args[2])
			if err != nil || d < 0 || d > 24*time.Hour {
				return usageError{fmt.Errorf("connection set user_timeout %q: a duration of 1s to 24h, or 0s", args[2])}
			}
			ms := uint32(d.Milliseconds())
			req.UserTimeoutMs = &ms
		default:
			return usageError{fmt.Errorf("connection set %q: only congestion_control and user_timeout can be set", args[1])}
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Done
			return cl.Post(ctx, api.PathConnSet, req, &v)
		})
	}
	return c
}

func connCloseCmd(a *app) *cobra.Command {
	var abort bool
	c := &cobra.Command{Use: "close ID", Short: "Close a connection in good order, or with --abort at once", Args: exact(1, "one connection ID")}
	c.Flags().BoolVar(&abort, "abort", false, "reset it")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Done
			return cl.Post(ctx, api.PathConnClose, api.CloseRequest{ID: args[0], Abort: abort}, &v)
		})
	}
	return c
}
