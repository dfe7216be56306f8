package mgmt

import (
	"context"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// Candidate is a main file of configuration that somebody sent.
type Candidate struct {
	Name      string
	Data      []byte
	Temporary bool // it isn't saved
}

// Applied is what came of it.
type Applied struct {
	Changes  []config.ValueChange
	Number   int // under which it is kept; 0: it is not
	From     int // of a rollback
	Saved    string
	Warnings []string
}

// Configurer changes the configuration. A configuration that is not good is a
// [config.Errors].
type Configurer interface {
	// Diff says what a candidate would change; nil: what the files would.
	Diff(c *Candidate) ([]config.ValueChange, error)
	// Apply brings a candidate into force, or changes nothing.
	Apply(ctx context.Context, c *Candidate) (Applied, error)
	// Rollback does the same with one that is kept; 0: the last that was another.
	Rollback(ctx context.Context, number int, temporary bool) (Applied, error)
	// History lists those that are kept, the newest first.
	History() ([]api.ConfigEntry, error)
	// Kept returns one of them.
	Kept(number int) (*Candidate, error)
}

type peerKey struct{}

// withPeer remembers which user is at the other end.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if s, ok := c.(*slotConn); ok {
		c = s.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			ctx = context.WithValue(ctx, peerKey{}, cred.Uid)
		}
	})
	return ctx
}

// owner refuses everybody but root and who npd runs as: a configuration names files that
// npd reads and writes with its own rights, which the group of the socket has not.
func owner(r *http.Request) error {
	uid, ok := r.Context().Value(peerKey{}).(uint32)
	if ok && (uid == 0 || int64(uid) == int64(os.Geteuid())) {
		return nil
	}
	return failf(api.KindPermission, "only root, and the user that npd runs as, may change the configuration: it names files that npd opens with its own rights")
}

func (s *Server) configurer(r *http.Request) (Configurer, error) {
	if s.cfg.Configurer == nil {
		return nil, failf(api.KindUnavailable, "this npd's configuration can't be changed")
	}
	return s.cfg.Configurer, owner(r)
}

func changes(list []config.ValueChange) (out []api.ConfigChange, restart bool) {
	out = make([]api.ConfigChange, 0, len(list))
	for _, c := range list {
		out = append(out, api.ConfigChange{Key: c.Key, Old: c.Old, New: c.New, Restart: c.Restart})
		restart = restart || c.Restart
	}
	return out, restart
}

func (s *Server) configHistory(*http.Request) (any, error) {
	out := api.ConfigHistory{Schema: api.Schema, Entries: []api.ConfigEntry{}}
	if s.cfg.Configurer == nil {
		return out, nil
	}
	list, err := s.cfg.Configurer.History()
	if err != nil {
		return nil, err
	}
	out.Entries = append(out.Entries, list...)
	return out, nil
}

func (s *Server) diffConfig(r *http.Request) (any, error) {
	c, err := s.configurer(r)
	if err != nil {
		return nil, err
	}
	var candidate *Candidate
	if r.ContentLength != 0 {
		var in api.ConfigCandidate
		if err := body(r, &in); err != nil {
			return nil, err
		}
		switch {
		case in.Number != 0 && in.Content != "":
			return nil, failf(api.KindUsage, "number or content, one of them")
		case in.Number != 0:
			if candidate, err = c.Kept(in.Number); err != nil {
				return nil, err
			}
		default:
			candidate = &Candidate{Name: in.Name, Data: []byte(in.Content)}
		}
	}
	list, err := c.Diff(candidate)
	if err != nil {
		return nil, err
	}
	out := api.ConfigDiff{Schema: api.Schema}
	out.Changes, out.Restart = changes(list)
	return out, nil
}

func (s *Server) applyConfig(r *http.Request) (any, error) {
	c, err := s.configurer(r)
	if err != nil {
		return nil, err
	}
	var in api.ConfigCandidate
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if in.Number != 0 || in.Content == "" {
		return nil, failf(api.KindUsage, "content is missing (one that is kept comes back by rollback)")
	}
	a, err := c.Apply(r.Context(), &Candidate{Name: in.Name, Data: []byte(in.Content), Temporary: in.Temporary})
	return applied(a), err
}

func (s *Server) rollbackConfig(r *http.Request) (any, error) {
	c, err := s.configurer(r)
	if err != nil {
		return nil, err
	}
	var in api.ConfigRollback
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if in.Number < 0 {
		return nil, failf(api.KindUsage, "number %d: expected one that npctl config list shows, or 0 for the last", in.Number)
	}
	a, err := c.Rollback(r.Context(), in.Number, in.Temporary)
	return applied(a), err
}

func applied(a Applied) api.ConfigApplied {
	out := api.ConfigApplied{Schema: api.Schema, Number: a.Number, From: a.From, Saved: a.Saved, Warnings: append([]string{}, a.Warnings...)}
	out.Changes, _ = changes(a.Changes)
	return out
}
