package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

func backendCmd(a *app) *cobra.Command {
	show := get(a, "show", "Requested, actual, and why each rung was left", api.PathBackend, a.backendPrint)
	return noun("backend", "How packets come in and leave", show, backendSetCmd(a))
}

func backendSetCmd(a *app) *cobra.Command {
	var device string
	c := &cobra.Command{Use: "set IF BACKEND", Short: "Give an interface another backend until npd ends: auto, dpdk, af_xdp, af_packet", Args: exact(2, "an interface and a backend"),
		Long: "Connections stay while the queues are closed and opened again. The same backend again is a new try, after a cause that is gone. What is refused leaves the interface as it was; " +
			"[[interface]] backend in the configuration makes it last."}
	c.Flags().StringVar(&device, "device", "", "for dpdk: a PCI address, or a virtual device with its arguments")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Backend
			in := api.BackendRequest{Schema: api.Schema, Interface: args[0], Backend: args[1], Device: device}
			if err := cl.Post(ctx, api.PathBackend, in, &v); err != nil {
				return err
			}
			return a.backendPrint(&v)
		})
	}
	return c
}

func (a *app) backendPrint(b *api.Backend) error {
	use := newTable("kind", "name", "requested", "actual", "reason")
	for _, u := range b.Backends {
		use.row(u.Kind, u.Name, u.Requested, u.Actual, u.Reason)
	}
	rungs := newTable("kind", "name", "rung", "chosen", "reason", "cure")
	for _, r := range b.Ladder {
		kind, name := "interface", r.Interface
		if r.Listener != "" {
			kind, name = "listener", r.Listener
		}
		rungs.row(kind, name, r.Backend, chosenText(&r), r.Reason, r.Cure)
	}
	return a.print(b, anys(b.Backends), use, rungs)
}

func chosenText(r *api.Rung) string {
	switch {
	case r.Chosen:
		return "yes"
	case r.Skipped:
		return "not here"
	}
	return "no"
}
