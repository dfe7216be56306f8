package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/mgmt"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/wholefile"
)

// Origin is where the configuration comes from.
type Origin struct {
	// Path is the main file; "": it is none that can be written.
	Path string
	// Load reads the files, the environment and the flags.
	Load func() (*config.Config, error)
	// With does the same with something else for the main file.
	With func(main config.Source) (*config.Config, error)
}

// history is what was in force.
func (d *Daemon) history() *history {
	m := &d.Config().Management
	dir := m.HistoryDir
	if dir == "" {
		dir = filepath.Join(filepath.Dir(d.Config().Protocol.PrivateKeyFile), "config")
	}
	return &history{dir: dir, max: m.History}
}

// remember keeps the configuration in force. That it can't is no reason to go back.
func (d *Daemon) remember(reason string) (number int, warning string) {
	n, err := d.history().add(d.Config().Main().Data, reason, d.o.Now())
	if err != nil {
		d.o.Log.Warn("configuration not kept, there is no way back to it", "err", err)
		return n, fmt.Sprintf("not kept for npctl config rollback: %v", err)
	}
	return n, ""
}

// load makes a configuration of a candidate; nil: of the files.
func (d *Daemon) load(c *mgmt.Candidate) (*config.Config, error) {
	if c == nil {
		return d.o.Origin.Load()
	}
	if d.o.Origin.With == nil {
		return nil, errors.New("this npd takes no configuration but its own")
	}
	return d.o.Origin.With(config.Source{Name: c.Name, Data: c.Data})
}

// Diff implements [mgmt.Configurer].
func (d *Daemon) Diff(c *mgmt.Candidate) ([]config.ValueChange, error) {
	next, err := d.load(c)
	if err != nil {
		return nil, err
	}
	if err := gateway.Check(next); err != nil {
		return nil, err
	}
	return config.Changes(d.Config(), next), nil
}

// Apply implements [mgmt.Configurer].
func (d *Daemon) Apply(ctx context.Context, c *mgmt.Candidate) (mgmt.Applied, error) {
	return d.apply(ctx, c, "apply")
}

func (d *Daemon) apply(ctx context.Context, c *mgmt.Candidate, reason string) (out mgmt.Applied, err error) {
	ctx = context.WithoutCancel(ctx) // who asked may be gone: half a change is none
	d.changing.Lock()
	defer d.changing.Unlock()
	if s := d.State(); s != mgmt.StateReady {
		return out, mgmt.Failf(api.KindConflict, "npd is %s: the configuration stays as it is", s)
	}
	next, err := d.load(c)
	if err != nil {
		return out, err
	}
	file, staged := "", ""
	if !c.Temporary {
		if file, err = d.mainFile(); err != nil {
			return out, err
		}
		if staged, err = stageLike(file, c.Data); err != nil {
			return out, fmt.Errorf("not applied, because it could not be saved (to apply it until the next start: --temporary): %w", err)
		}
		defer os.Remove(staged) // once it has its name there is nothing to remove
		// Values come from the file from now on.
		if next, err = d.o.Origin.With(config.Source{Name: d.o.Origin.Path, Data: c.Data}); err != nil {
			return out, err
		}
	}
	out.Changes = config.Changes(d.Config(), next)
	if err := d.take(ctx, next); err != nil {
		relabel(err, d.o.Origin.Path, c.Name)
		return mgmt.Applied{}, err
	}
	if !c.Temporary {
		if err := wholefile.Commit(staged, file); err != nil {
			d.o.Log.Error("configuration applied and not saved", "file", file, "err", err)
			out.Warnings = append(out.Warnings, fmt.Sprintf("applied, but not saved: %v", err))
		} else {
			out.Saved = d.o.Origin.Path
		}
	}
	n, warning := d.remember(reason)
	if warning != "" {
		out.Warnings = append(out.Warnings, warning)
	}
	out.Number = n
	d.o.Log.Info("configuration applied", "reason", reason, "source", c.Name, "changes", len(out.Changes), "number", n, "saved", out.Saved)
	return out, nil
}

// mainFile is where the main file really is.
func (d *Daemon) mainFile() (string, error) {
	if d.o.Origin.Path == "" {
		return "", mgmt.Failf(api.KindConflict, "npd was not started with a file that it could save to (to apply it until the next start: --temporary)")
	}
	p, err := filepath.EvalSymlinks(d.o.Origin.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return d.o.Origin.Path, nil
	}
	return p, err
}

// stageLike stages data beside path, with the mode and owner that path has.
func stageLike(path string, data []byte) (string, error) {
	mode := fs.FileMode(0o640)
	info, err := os.Stat(path)
	if err == nil {
		mode = info.Mode().Perm()
	}
	tmp, err := wholefile.Stage(path, data, mode)
	if err != nil {
		return "", err
	}
	if info != nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if err := os.Chown(tmp, int(st.Uid), int(st.Gid)); err != nil && os.Geteuid() == 0 {
				return "", errors.Join(err, os.Remove(tmp))
			}
		}
	}
	return tmp, nil
}

// relabel names the file that the operator gave in what is wrong with it.
func relabel(err error, from, to string) {
	switch e := err.(type) {
	case config.Errors:
		for _, one := range e {
			relabel(one, from, to)
		}
	case *config.Error:
		if e.Pos.Source == from {
			e.Pos.Source = to
		}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			relabel(one, from, to)
		}
	case interface{ Unwrap() error }:
		relabel(e.Unwrap(), from, to)
	}
}

func noEntry(number int) error {
	return mgmt.Failf(api.KindNotFound, "configuration %d is not kept (npctl config list shows those that are)", number)
}

// Rollback implements [mgmt.Configurer].
func (d *Daemon) Rollback(ctx context.Context, number int, temporary bool) (mgmt.Applied, error) {
	h := d.history()
	if number == 0 {
		list, err := h.list()
		if err != nil {
			return mgmt.Applied{}, err
		}
		for _, e := range slices.Backward(list) {
			data, err := os.ReadFile(e.path)
			if err != nil {
				return mgmt.Applied{}, fmt.Errorf("history of configurations: %w", err)
			}
			if !bytes.Equal(data, d.Config().Main().Data) {
				number = e.number
				break
			}
		}
		if number == 0 {
			return mgmt.Applied{}, mgmt.Failf(api.KindNotFound, "no configuration but the one in force is kept")
		}
	}
	e, data, err := h.read(number)
	if errors.Is(err, errNoEntry) {
		return mgmt.Applied{}, noEntry(number)
	}
	if err != nil {
		return mgmt.Applied{}, err
	}
	out, err := d.apply(ctx, &mgmt.Candidate{Name: e.path, Data: data, Temporary: temporary}, "rollback")
	out.From = number
	return out, err
}

// History implements [mgmt.Configurer].
func (d *Daemon) History() ([]api.ConfigEntry, error) {
	list, err := d.history().list()
	if err != nil {
		return nil, err
	}
	now := d.Config().Main().Data
	out := []api.ConfigEntry{}
	force := false
	for _, e := range slices.Backward(list) {
		v := api.ConfigEntry{Number: e.number, Reason: e.reason, AppliedAt: e.at.UTC(), SizeBytes: e.size, File: e.path}
		if data, err := os.ReadFile(e.path); err == nil && !force && bytes.Equal(data, now) {
			v.InForce, force = true, true
		}
		out = append(out, v)
	}
	return out, nil
}

// Kept implements [mgmt.Configurer].
func (d *Daemon) Kept(number int) (*mgmt.Candidate, error) {
	e, data, err := d.history().read(number)
	if errors.Is(err, errNoEntry) {
		return nil, noEntry(number)
	}
	if err != nil {
		return nil, err
	}
	return &mgmt.Candidate{Name: e.path, Data: data}, nil
}
