// Command npd is the appliance: it answers NPRO on its own TCP/IP stack over
// AF_XDP. Flags and wiring only; ctrl/daemon does the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/daemon"
	"github.com/np-appliance/np/ctrl/gateway"
	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/ctrl/logs"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/nic"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane/npc"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in the command line itself.
type usageError struct{ error }

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// app is what the commands share.
type app struct {
	file     string
	level    string
	set      []string
	host     bool
	in       io.Reader
	out, err io.Writer
}

func run(args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := a.command()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.Execute()
	if err == nil {
		return 0
	}
	var list config.Errors
	if errors.As(err, &list) { // one line each, as editors and scripts read them
		fmt.Fprintln(errOut, list)
		return exitFailed
	}
	fmt.Fprintf(errOut, "npd: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintln(errOut, "npd: try 'npd --help'")
		return exitUsage
	}
	return exitFailed
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{Use: "npd", Short: "Answer NPRO on a TCP/IP stack of its own over AF_XDP", SilenceErrors: true, SilenceUsage: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.serve() }}
	root.PersistentFlags().StringVarP(&a.file, "config", "c", "/etc/np/np.toml", "configuration file, - for standard input; conf.d/*.toml beside it are read too")
	root.PersistentFlags().StringVar(&a.level, "log-level", "", "debug, info, warn or error, over the configuration's")
	root.PersistentFlags().StringArrayVar(&a.set, "set", nil, "section.key=value, over the configuration's; may be repeated")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	check := &cobra.Command{Use: "check", Short: "Check the configuration and say everything that is wrong with it", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.check() }}
	check.Flags().BoolVar(&a.host, "host", false, "against this machine too: do its interfaces exist?")
	cfg := &cobra.Command{Use: "config", Short: "About the configuration", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("config: expected example")} }}
	cfg.AddCommand(&cobra.Command{Use: "example", Short: "Print a commented configuration that works for an interface np0", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { _, err := io.WriteString(a.out, config.Example()); return err }})
	root.AddCommand(check, cfg, &cobra.Command{Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := version()
			_, err := fmt.Fprintf(a.out, "npd %s (%s, %s)\n", v.Version, v.Commit, v.Go)
			return err
		}})
	return root
}

// load reads files, environment and flags.
func (a *app) load() (*config.Config, error) {
	name, read := a.file, func() ([]byte, error) { return os.ReadFile(a.file) }
	if a.file == "-" {
		name, read = "standard input", func() ([]byte, error) { return io.ReadAll(a.in) }
	}
	data, err := read()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w (a first one: npd config example)", err)
	}
	return a.with(config.Source{Name: name, Data: data})
}

// with reads what there is beside the main file.
func (a *app) with(main config.Source) (*config.Config, error) {
	in := config.Input{Env: os.Environ(), Files: []config.Source{main}}
	if a.file != "-" {
		more, err := filepath.Glob(filepath.Join(filepath.Dir(a.file), "conf.d", "*.toml"))
		if err != nil {
			return nil, fmt.Errorf("read conf.d: %w", err)
		}
		slices.Sort(more)
		for _, f := range more {
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("read configuration: %w", err)
			}
			in.Files = append(in.Files, config.Source{Name: f, Data: data})
		}
	}
	if a.level != "" {
		in.Flags = append(in.Flags, config.Setting{Flag: "--log-level", Path: "logging.log_level", Value: a.level})
	}
	for _, s := range a.set {
		path, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("--set %q: expected section.key=value", s)}
		}
		in.Flags = append(in.Flags, config.Setting{Flag: "--set " + path, Path: path, Value: value})
	}
	return config.Load(in)
}

// origin is where the daemon finds its configuration again.
func (a *app) origin() daemon.Origin {
	o := daemon.Origin{Load: a.load, With: a.with}
	if a.file == "-" {
		return o
	}
	o.Path = a.file
	if abs, err := filepath.Abs(a.file); err == nil {
		o.Path = abs // what npctl shows is read in another folder
	}
	return o
}

func (a *app) check() error {
	c, err := a.load()
	if err != nil {
		return err
	}
	var errs config.Errors
	for i, it := range c.Interfaces {
		if !a.host {
			break
		}
		if slices.ContainsFunc(c.Interfaces[:i], func(o config.Interface) bool { return o.Name == it.Name }) {
			continue // another VLAN of a device looked at already
		}
		if b := c.InterfaceBackend(&it); b == "tap" || it.Device != "" || nic.Bound(nic.Dir, it.Name) != "" {
			continue // no interface of the kernel's is needed
		}
		if _, err := (ports.Linux{}).Inspect(it.Name); err != nil {
			errs = append(errs, &config.Error{Pos: c.Pos(fmt.Sprintf("interface[%d].name", i)), What: err.Error()})
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if err := gateway.Check(c); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "npd: %s is good\n", a.file)
	return nil
}

// gcPercent is how much the heap grows between two collections, unless GOGC says. npd's
// own is some ten megabytes, and what a request leaves behind is short-lived: collecting a
// fourth as often saves a gateway some 7 % of its time.
const gcPercent = 400

func (a *app) serve() error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	if err := ports.CheckPrivileges(daemon.Interfaces(c)); err != nil {
		return err
	}
	log, err := a.logger(c)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Pos("logging.log_file_path"), err)
	}
	defer log.Close()
	restored, err := nic.System(nic.Dir).RestoreExpired()
	for _, r := range restored {
		log.Warn("network card was not confirmed in time, given back to the kernel", "interface", r.Name, "device", r.PCI, "driver", r.Driver)
	}
	if err != nil {
		log.Error("network card not given back to the kernel", "err", err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	defer signal.Stop(signals)
	return daemon.Run(context.Background(), daemon.Options{Config: c, Origin: a.origin(), NewPlane: npc.New, ProbeUring: npc.ProbeUring, System: ports.Linux{}, Files: host.OS("/"), Log: log,
		Bound:   func(name string) string { return nic.Bound(nic.Dir, name) },
		Version: version(), Now: time.Now, Mono: monotonic}, signals)
}

func (a *app) logger(c *config.Config) (*logs.Log, error) {
	level, err := logs.ParseLevel(c.Logging.LogLevel)
	if err != nil {
		return nil, err
	}
	o := logs.Options{App: c.Logging.AppName, Level: level, JSON: c.Logging.JSONFormat}
	if c.Logging.LogToConsole {
		o.Console = a.err
	}
	if c.Logging.LogToFile {
		o.File = c.Logging.LogFilePath
	}
	return logs.New(o)
}

// monotonic is the clock of the data plane's times.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic("clock_gettime: " + err.Error()) // it cannot fail with these arguments
	}
	return time.Duration(t.Nano())
}

func version() api.Version {
	v := api.Version{Schema: api.Schema, Version: "devel", Commit: "unknown", Go: runtime.Version()}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if b.Main.Version != "" && b.Main.Version != "(devel)" {
		v.Version = b.Main.Version
	}
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value[:min(len(s.Value), 12)]
		}
	}
	return v
}
