package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/np-appliance/np/ctrl/config"
)

// DefaultFile is where npd looks for its configuration.
const DefaultFile = "/etc/np/np.toml"

// defaults are what the checks look at when there is no configuration: the defaults,
// with no interface and no listener.
func defaults() *config.Config {
	c := *must(config.Load(config.Input{Files: []config.Source{{Name: "defaults", Data: []byte(config.Example())}}}))
	c.Interfaces, c.Listeners = nil, nil
	return &c
}

// must: the example loads, a test of package config sees to it.
func must(c *config.Config, err error) *config.Config {
	if err != nil {
		panic("example configuration: " + err.Error())
	}
	return c
}

// Load reads a configuration as npd would, into m. One that is wrong is a finding, not
// an error; so is a default file that is not there.
func (m *Machine) Load(file string, environ []string) error {
	m.Config = defaults()
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == DefaultFile {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	m.File = file
	in := config.Input{Env: environ, Files: []config.Source{{Name: file, Data: data}}}
	more, err := filepath.Glob(filepath.Join(filepath.Dir(file), "conf.d", "*.toml"))
	if err != nil {
		return fmt.Errorf("read conf.d: %w", err)
	}
	slices.Sort(more)
	for _, f := range more {
		if data, err = os.ReadFile(f); err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		in.Files = append(in.Files, config.Source{Name: f, Data: data})
	}
	c, err := config.Load(in)
	var list config.Errors
	switch {
	case errors.As(err, &list):
		for _, e := range list {
			m.Errors = append(m.Errors, e.Error())
		}
	case err != nil:
		m.Errors = []string{err.Error()}
	default:
		m.Config = c
	}
	return nil
}
