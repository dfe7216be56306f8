package mgmt

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/dataplane"
)

// backend tells what was asked for and what is, for the whole and for each
// interface and listener.
func (s *Server) backend(*http.Request) (any, error) {
	out := api.Backend{Schema: api.Schema, Requested: s.cfg.Daemon.Config().Dataplane.Backend, Backends: []api.BackendUse{}, Ladder: []api.Rung{}}
	var reasons []string
	for _, p := range s.cfg.Ports.Status() {
		use := api.BackendUse{Kind: "interface", Name: p.Config.Label(), Device: p.Config.Device, Requested: p.Config.Backend, Actual: ladder.None, Reason: p.Reason}
		if p.Shared {
			continue // its device's first interface says it
		}
		if p.Attached {
			use.Actual, use.Reason = ladder.Actual(p.Ladder), ladder.Why(p.Ladder)
		}
		out.Backends = append(out.Backends, use)
		if use.Reason != "" {
			reasons = append(reasons, use.Name+": "+use.Reason)
		}
		for _, r := range p.Ladder {
			out.Ladder = append(out.Ladder, api.Rung{Interface: p.Config.Name, Backend: r.Backend, Chosen: r.Chosen && p.Attached, Skipped: r.Skipped, Reason: r.Reason, Cure: r.Cure})
		}
	}
	for _, l := range s.cfg.Daemon.Listeners() {
		if l.Requested == "" {
			continue
		}
		out.Backends = append(out.Backends, api.BackendUse{Kind: "listener", Name: l.Name, Requested: l.Requested, Actual: ladder.Actual(l.Ladder), Reason: ladder.Why(l.Ladder)})
		for _, r := range l.Ladder {
			out.Ladder = append(out.Ladder, api.Rung{Listener: l.Name, Backend: r.Backend, Chosen: r.Chosen, Skipped: r.Skipped, Reason: r.Reason, Cure: r.Cure})
		}
	}
	out.Actual, out.Reason = s.backends(), strings.Join(reasons, "; ")
	return out, nil
}

// backends names all backends in use: of interfaces, then of listeners on kernel sockets.
func (s *Server) backends() string {
	var out []string
	if a := s.cfg.Ports.Actual(netip.Addr{}); a != ladder.None {
		out = append(out, a)
	}
	for _, l := range s.cfg.Daemon.Listeners() {
		if a := ladder.Actual(l.Ladder); a != ladder.Stack && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return ladder.None
	}
	return strings.Join(out, ", ")
}

// connBackend is what brings a connection's bytes: the rung of its interface, or the
// kernel's sockets.
func (s *Server) connBackend(c *dataplane.Conn) string {
	if c.Carrier != dataplane.CarrierStack {
		return c.Carrier.String()
	}
	return s.cfg.Ports.Actual(c.Local.Addr().Unmap().WithZone(""))
}

func (s *Server) setBackend(r *http.Request) (any, error) {
	var in api.BackendRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if err := s.cfg.Ports.SetBackend(r.Context(), in.Interface, in.Backend, in.Device); err != nil {
		return nil, err
	}
	return s.backend(r)
}
