package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

// getNamed makes a command that reads the resource that its argument names.
func getNamed[T any](a *app, use, short, path string, show func(v *T) error) *cobra.Command {
	return a.watched(&cobra.Command{Use: use, Short: short, Args: exact(1, "one name"), RunE: func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var v T
			if err := c.Get(ctx, path+url.PathEscape(args[0]), nil, &v); err != nil {
				return err
			}
			return show(&v)
		})
	}})
}

// took prints a mean duration.
func took(seconds float64) string {
	switch {
	case seconds == 0:
		return "-"
	case seconds < 0.001:
		return fmt.Sprintf("%.0fµs", seconds*1e6)
	case seconds < 1:
		return fmt.Sprintf("%.1fms", seconds*1e3)
	}
	return fmt.Sprintf("%.2fs", seconds)
}

func span(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return ago(time.Duration(seconds * float64(time.Second)))
}

func any0(list []string) string {
	if len(list) == 0 {
		return "any"
	}
	return strings.Join(list, ",")
}

func routeCmd(a *app) *cobra.Command {
	list := get(a, "list", "Routes, what becomes of their requests, and how many there were", api.PathRoutes, func(v *api.Routes) error {
		return a.print(v, anys(v.Routes), routeTable(a, v.Routes))
	})
	show := getNamed(a, "show NAME", "One route: its configuration, and its requests by outcome", api.PathRoute, func(v *api.RouteAnswer) error {
		conf := newTable("key", "value", "origin")
		for _, e := range v.Values {
			conf.row(e.Key, e.Value, e.Origin)
		}
		tables := []*table{routeTable(a, []api.Route{v.Route}), conf}
		if len(v.Counts) > 0 {
			counts := newTable("listener", "protocol", "status", "reason", ">requests", ">mean")
			for _, c := range v.Counts {
				counts.row(c.Listener, c.Protocol, c.Status, c.Reason, c.Requests, took(c.MeanSeconds))
			}
			tables = append(tables, counts)
		}
		return a.print(v, nil, tables...)
	})
	return noun("route", "Routes of requests", list, show)
}

func routeTable(a *app, list []api.Route) *table {
	cols := []string{"name", "hosts", "methods", "match", "action", ">requests", ">4xx", ">5xx", ">mean"}
	if a.output == "wide" {
		cols = append(cols, "listeners", ">received", ">sent")
	}
	t := newTable(cols...)
	for _, r := range list {
		t.row(r.Name, any0(r.Hosts), any0(r.Methods), r.Match, r.Action, r.Requests, r.ClientErrors, r.ServerErrors, took(r.MeanSeconds), any0(r.Listeners), bytesText(r.ReceivedBytes), bytesText(r.SentBytes))
	}
	return t
}

func upstreamCmd(a *app) *cobra.Command {
	list := get(a, "list", "Upstreams with what their endpoints did", api.PathUpstreams, func(v *api.Upstreams) error {
		return a.print(v, anys(v.Upstreams), upstreamTable(a, v.Upstreams))
	})
	show := getNamed(a, "show NAME", "One upstream and its endpoints", api.PathUpstream, func(v *api.UpstreamAnswer) error {
		tables := []*table{upstreamTable(a, []api.Upstream{v.Upstream}), endpointTable(a, v.Endpoints)}
		if d := v.Discovery; d != nil {
			t, age, last := newTable("discovered by", ">confirmed", ">of the last run", "error"), "", ""
			if d.GoodAt != nil {
				age = ago(time.Since(*d.GoodAt))
			}
			if d.LastKnownAt != nil {
				last = ago(time.Since(*d.LastKnownAt))
			}
			t.row(d.Source, age, last, d.Error)
			tables = append(tables, t)
		}
		if len(v.Levels) > 1 {
			t := newTable(">priority", ">endpoints", ">healthy", ">share", "panic")
			for _, l := range v.Levels {
				t.row(l.Priority, l.Endpoints, l.Healthy, fmt.Sprintf("%d%%", l.Percent), map[bool]string{true: "yes"}[l.Panic])
			}
			tables = append(tables, t)
		}
		if len(v.Refusals) > 0 {
			t := newTable("refused because", ">requests")
			for _, k := range slices.Sorted(maps.Keys(v.Refusals)) {
				t.row(k, v.Refusals[k])
			}
			tables = append(tables, t)
		}
		return a.print(v, anys(v.Endpoints), tables...)
	})
	mode := func(use, short, mode string) *cobra.Command {
		c := &cobra.Command{Use: use + " UPSTREAM ENDPOINT", Short: short, Args: exact(2, "an upstream and an endpoint's address")}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			return a.setUpstream(cmd, api.UpstreamSet{Upstream: args[0], Endpoint: args[1], Mode: mode})
		}
		return c
	}
	return noun("upstream", "Upstreams and their endpoints", list, show,
		mode("drain", "No new requests to an endpoint; those under way end", "drain"),
		mode("disable", "No requests and no checks to an endpoint", "disabled"),
		mode("enable", "Requests to an endpoint, whatever its list says", "enabled"),
		mode("reset", "An endpoint's mode as its list says, as before drain, disable or enable", "list"),
		upstreamSetCmd(a))
}

func upstreamSetCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "set UPSTREAM ENDPOINT weight N", Short: "Change an endpoint's weight until it leaves its list or npd ends; 0: as the list says", Args: exact(4, "an upstream, an endpoint's address, weight and a number")}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if args[2] != "weight" {
			return usageError{fmt.Errorf("upstream set %q: only weight can be set", args[2])}
		}
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return usageError{fmt.Errorf("upstream set weight %q: want a number", args[3])}
		}
		return a.setUpstream(cmd, api.UpstreamSet{Upstream: args[0], Endpoint: args[1], Weight: &n})
	}
	return c
}

func (a *app) setUpstream(cmd *cobra.Command, in api.UpstreamSet) error {
	return a.each(cmd.Context(), func(ctx context.Context, c *client.Client) error {
		var v api.Done
		return c.Post(ctx, api.PathUpstreamSet, in, &v)
	})
}

func upstreamTable(a *app, list []api.Upstream) *table {
	cols := []string{"name", "protocol", "balance", ">taking", ">in flight", ">requests", ">failed", ">timeouts", ">no connection", ">retries", ">refused", ">mean"}
	if a.output == "wide" {
		cols = append(cols, ">waiting", ">canceled", ">retry budget", ">not retried", "panic")
	}
	t := newTable(cols...)
	for _, u := range list {
		t.row(u.Name, u.Protocol, u.Balance, fmt.Sprintf("%d/%d", u.Taking, u.Endpoints), u.InFlight, u.Requests, u.Failures, u.Timeouts, u.ConnectFailed, u.Retries, u.Refused, took(u.MeanSeconds),
			u.Waiting, u.Canceled, u.RetryBudget, u.RetriesRefused, map[bool]string{true: "yes"}[u.Panic])
	}
	return t
}

// stateOf says in one word, or two, why an endpoint takes requests or does not.
func stateOf(e *api.Endpoint) string {
	switch {
	case e.Mode != "enabled" && e.Operator != "list":
		return e.Mode + " (operator)"
	case e.Mode != "enabled":
		return e.Mode
	case e.EjectedSeconds > 0:
		return "ejected " + span(e.EjectedSeconds)
	case e.Health == "unhealthy":
		return "unhealthy"
	case e.Breaker == "open":
		return "breaker open " + span(e.BreakerSeconds)
	case e.Breaker != "closed":
		return "breaker " + e.Breaker
	case e.SlowStart < 100:
		return fmt.Sprintf("slow start %d%%", e.SlowStart)
	case e.Health == "unknown":
		return "not checked"
	}
	return e.Health
}

func endpointTable(a *app, list []api.Endpoint) *table {
	cols := []string{"endpoint", ">priority", ">weight", "takes", "state", ">in flight", ">requests", ">failed", ">timeouts", ">no connection", ">mean", "last error"}
	if a.output == "wide" {
		cols = append(cols, "locality", "breaker", ">trips", ">checks", ">bad checks", ">ejections", ">canceled")
	}
	t := newTable(cols...)
	for i := range list {
		e := &list[i]
		weight := strconv.Itoa(e.Weight)
		if e.ListedWeight != 0 && e.ListedWeight != e.Weight { // an operator's
			weight += fmt.Sprintf(" (list %d)", e.ListedWeight)
		}
		t.row(e.Address, e.Priority, weight, map[bool]string{true: "yes", false: "no"}[e.Takes], stateOf(e), e.InFlight, e.Requests, e.Failures, e.Timeouts, e.ConnectFailed, took(e.MeanSeconds), e.LastError,
			e.Locality, e.Breaker, e.BreakerTrips, e.Checks, e.ChecksFailed, e.Ejections, e.Canceled)
	}
	return t
}

func poolCmd(a *app) *cobra.Command {
	return noun("pool", "Connections to endpoints", get(a, "list", "Pools of connections, one for each endpoint", api.PathPools, func(v *api.Pools) error {
		cols := []string{"upstream", "endpoint", "protocol", ">open", ">max", ">idle", ">in flight", ">waiting", ">requests", ">opened", ">failed", ">closed", ">refused"}
		if a.output == "wide" {
			cols = append(cols, ">wait", ">retry in", "last error")
		}
		t := newTable(cols...)
		for _, p := range v.Pools {
			most, idle := "-", "-"
			if p.Max > 0 {
				most, idle = fmt.Sprint(p.Max), fmt.Sprint(p.Idle)
			}
			t.row(p.Upstream, p.Endpoint, p.Protocol, p.Open, most, idle, p.InFlight, p.Waiting, p.Requests, p.Opened, p.Failed, p.Closed, p.Refused, took(p.WaitMeanSeconds), span(p.RetrySeconds), p.LastError)
		}
		return a.print(v, anys(v.Pools), t)
	}))
}
