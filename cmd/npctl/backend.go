package main

import (
	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

func backendCmd(a *app) *cobra.Command {
	show := get(a, "show", "Requested, actual, and why each rung was left", api.PathBackend, func(b *api.Backend) error {
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
	})
	return noun("backend", "How packets come in and leave", show)
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
