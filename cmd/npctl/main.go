// Command npctl shows and steers a running npd over its management socket.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

// Exit codes; scripts rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitNotFound    = 4
	exitPermission  = 5
	exitTimeout     = 6
	exitConflict    = 7
)

const defaultSocket = "/run/np/np.sock"

// usageError is a mistake in the command line itself.
type usageError struct{ error }

// quietError carries an exit code for a command that has said everything already.
type quietError struct{ code int }

func (e quietError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// app is what every command shares.
type app struct {
	socket    string
	output    string
	noHeaders bool
	watch     time.Duration
	quiet     bool
	timeout   time.Duration
	nicDir    string // state of bound cards
	out, err  io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	code := exitCode(err)
	var quiet quietError
	var refused *client.APIError
	if errors.As(err, &refused) && refused.Kind == api.KindInvalid {
		fmt.Fprintln(stderr, refused.Text) // one line each, as editors and scripts read them
	} else if err != nil && !errors.As(err, &quiet) {
		fmt.Fprintf(stderr, "npctl: %v\n", err)
		if code == exitUsage {
			fmt.Fprintln(stderr, "npctl: try 'npctl --help'")
		}
	}
	return code
}

// kindExit maps the daemon's refusals; any other is exitFailed.
func kindExit(kind string) int {
	switch kind {
	case api.KindUsage:
		return exitUsage
	case api.KindNotFound:
		return exitNotFound
	case api.KindPermission:
		return exitPermission
	case api.KindTimeout:
		return exitTimeout
	case api.KindConflict:
		return exitConflict
	}
	return exitFailed
}

func exitCode(err error) int {
	var usage usageError
	var quiet quietError
	var refused *client.APIError
	var coded codedError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &quiet):
		return quiet.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, fs.ErrPermission):
		return exitPermission
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.As(err, &refused):
		return kindExit(refused.Kind)
	}
	return exitFailed
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "npctl NOUN [VERB]",
		Short:         "Show and steer a running npd",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown noun %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usageError{errors.New("which noun?")}
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.check() },
	}
	socket := os.Getenv("NP_MANAGEMENT_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	f := root.PersistentFlags()
	f.StringVarP(&a.socket, "socket", "s", socket, "management socket (environment: NP_MANAGEMENT_SOCKET)")
	f.StringVarP(&a.output, "output", "o", "table", "table, wide, json or jsonl")
	f.BoolVar(&a.noHeaders, "no-headers", false, "tables without their first line")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print nothing, only set the exit code")
	f.DurationVar(&a.timeout, "timeout", 5*time.Second, "give up after so long (a capture only until it starts)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(statusCmd(a), doctorCmd(a), connCmd(a), dropsCmd(a), statsCmd(a), backendCmd(a), interfaceCmd(a), nicCmd(a), neighborCmd(a),
		listenerCmd(a), routeCmd(a), upstreamCmd(a), poolCmd(a), peerCmd(a), configCmd(a), captureCmd(a), keyCmd(a), certCmd(a), drainCmd(a), logCmd(a), versionCmd(a))
	root.AddCommand(manCmd(root))
	return root
}

func (a *app) check() error {
	switch a.output {
	case "table", "wide", "json", "jsonl":
	default:
		return usageError{fmt.Errorf("--output %q: want table, wide, json or jsonl", a.output)}
	}
	if a.watch != 0 && a.watch < 100*time.Millisecond {
		return usageError{fmt.Errorf("--watch %v: want 100ms or more", a.watch)}
	}
	if a.timeout <= 0 {
		return usageError{fmt.Errorf("--timeout %v: want more than 0", a.timeout)}
	}
	if a.quiet {
		a.out = io.Discard
	}
	return nil
}

// noun makes a command that only groups verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("%s: unknown verb %q", use, args[0])}
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return usageError{fmt.Errorf("%s: which verb? See 'npctl %s --help'", cmd.Name(), cmd.Name())}
	}
	c.AddCommand(verbs...)
	return c
}

// watched adds -w/--watch to a command that shows something. It is not global because
// capture's -w, as tcpdump's, names a file.
func (a *app) watched(c *cobra.Command) *cobra.Command {
	c.Flags().DurationVarP(&a.watch, "watch", "w", 0, "repeat every so often, e.g. 1s")
	return c
}

// exact wants n arguments and calls a wrong number a usage error.
func exact(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("want %s, got %d arguments", what, len(args))}
		}
		return nil
	}
}

// atMost wants no more than n arguments.
func atMost(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError{fmt.Errorf("want %s, got %d arguments", what, len(args))}
		}
		return nil
	}
}

// each runs show once, or again and again with --watch until interrupted.
func (a *app) each(ctx context.Context, show func(ctx context.Context, c *client.Client) error) error {
	c := client.New(a.socket)
	defer c.Close()
	for {
		once, cancel := context.WithTimeout(ctx, a.timeout)
		err := show(once, c)
		cancel()
		if err != nil || a.watch == 0 {
			if a.watch != 0 && ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.watch):
		}
	}
}
