package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

func configCmd(a *app) *cobra.Command {
	return noun("config", "Configuration: what is in force, and changing it", configShowCmd(a), configListCmd(a), configDiffCmd(a), configApplyCmd(a), configRollbackCmd(a))
}

func configShowCmd(a *app) *cobra.Command {
	var origin bool
	show := get(a, "show", "The configuration in force", api.PathConfig, func(v *api.Config) error {
		cols := []string{"key", "value"}
		if origin {
			cols = append(cols, "origin")
		}
		t := newTable(cols...)
		for _, e := range v.Values {
			t.row(e.Key, e.Value, e.Origin)
		}
		return a.print(v, anys(v.Values), t)
	})
	show.Flags().BoolVar(&origin, "origin", false, "where each value came from")
	return show
}

func configListCmd(a *app) *cobra.Command {
	return get(a, "list", "Configurations that were in force, the newest first", api.PathConfigHistory, func(v *api.ConfigHistory) error {
		cols := []string{">number", "applied", "by", ">size", "in force"}
		if a.output == "wide" {
			cols = append(cols, "file")
		}
		t := newTable(cols...)
		for _, e := range v.Entries {
			t.row(e.Number, e.AppliedAt.UTC().Format(time.RFC3339), e.Reason, bytesText(uint64(e.SizeBytes)), map[bool]string{true: "yes"}[e.InForce], e.File)
		}
		return a.print(v, anys(v.Entries), t)
	})
}

// maxConfig bounds a configuration file, as npd does.
const maxConfig = 4 << 20

// candidate reads the file that an argument names, - for standard input.
func candidate(cmd *cobra.Command, path string) (api.ConfigCandidate, error) {
	in, name := cmd.InOrStdin(), "standard input"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return api.ConfigCandidate{}, err
		}
		defer f.Close()
		in, name = f, path
	}
	data, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	switch {
	case err != nil:
		return api.ConfigCandidate{}, fmt.Errorf("read %s: %w", name, err)
	case len(data) > maxConfig:
		return api.ConfigCandidate{}, fmt.Errorf("%s: more than 4 MiB, expected a configuration", name)
	case len(data) == 0:
		return api.ConfigCandidate{}, fmt.Errorf("%s: empty, expected a configuration", name)
	}
	return api.ConfigCandidate{Name: name, Content: string(data)}, nil
}

func changeTable(list []api.ConfigChange) *table {
	t := newTable("key", "in force", "new", "takes effect")
	for _, c := range list {
		t.row(c.Key, c.Old, c.New, map[bool]string{true: "by a restart", false: "at once"}[c.Restart])
	}
	return t
}

func configDiffCmd(a *app) *cobra.Command {
	var number int
	c := &cobra.Command{Use: "diff [FILE]", Short: "What FILE, or without one npd's files as they are now, would change; exit 7 when that needs a restart",
		Args: atMost(1, "one file at most"),
		Long: "Compares the configuration in force with FILE (- for standard input), with npd's own files as they are on the disk now, or with one that is kept (--number).\nNothing is changed. Lines say whether a change takes effect at once or by a restart only; with one of the latter the exit code is 7."}
	c.Flags().IntVarP(&number, "number", "n", 0, "compare with a configuration that npctl config list shows")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var in any
		switch {
		case number != 0 && len(args) > 0:
			return usageError{errors.New("diff: FILE or --number, one of them")}
		case number != 0:
			in = api.ConfigCandidate{Number: number}
		case len(args) > 0:
			cand, err := candidate(cmd, args[0])
			if err != nil {
				return err
			}
			in = cand
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.ConfigDiff
			if err := cl.Post(ctx, api.PathConfigDiff, in, &v); err != nil {
				return err
			}
			if err := a.printChanges(&v, v.Changes); err != nil {
				return err
			}
			if v.Restart {
				return quietError{exitConflict}
			}
			return nil
		})
	}
	return c
}

// printChanges prints an answer with changes, or that there are none.
func (a *app) printChanges(v any, list []api.ConfigChange) error {
	if len(list) == 0 && (a.output == "table" || a.output == "wide") {
		fmt.Fprintln(a.err, "npctl: nothing changes")
		return nil
	}
	return a.print(v, anys(list), changeTable(list))
}

func configApplyCmd(a *app) *cobra.Command {
	var temporary bool
	c := &cobra.Command{Use: "apply FILE", Short: "Bring FILE into force: all of it or nothing, and no connection is dropped", Args: exact(1, "one file"),
		Long: "Sends FILE (- for standard input) to npd, which checks it as a whole and takes it over in the place of its main file; conf.d, environment and flags stay.\n" +
			"When anything is wrong, or needs a restart (exit 7), nothing is changed. npd saves it as its main file, unless --temporary, and keeps it for npctl config rollback."}
	c.Flags().BoolVar(&temporary, "temporary", false, "do not save it: it lasts until npd reads its files again")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		in, err := candidate(cmd, args[0])
		if err != nil {
			return err
		}
		in.Temporary = temporary
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.ConfigApplied
			if err := cl.Post(ctx, api.PathConfigApply, in, &v); err != nil {
				return err
			}
			return a.printApplied(&v)
		})
	}
	return c
}

func configRollbackCmd(a *app) *cobra.Command {
	var temporary bool
	c := &cobra.Command{Use: "rollback [NUMBER]", Short: "Bring a configuration that was in force before into force again", Args: atMost(1, "one number at most"),
		Long: "Takes the configuration of that number, as npctl config list shows, or without one the last that was another than the one in force. It is applied and saved as by npctl config apply."}
	c.Flags().BoolVar(&temporary, "temporary", false, "do not save it: it lasts until npd reads its files again")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		in := api.ConfigRollback{Temporary: temporary}
		if len(args) == 1 {
			n, err := strconv.Atoi(args[0])
			if err != nil || n <= 0 {
				return usageError{fmt.Errorf("rollback %q: want a number as npctl config list shows", args[0])}
			}
			in.Number = n
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.ConfigApplied
			if err := cl.Post(ctx, api.PathConfigRollback, in, &v); err != nil {
				return err
			}
			return a.printApplied(&v)
		})
	}
	return c
}

func (a *app) printApplied(v *api.ConfigApplied) error {
	if err := a.printChanges(v, v.Changes); err != nil {
		return err
	}
	for _, w := range v.Warnings {
		fmt.Fprintf(a.err, "npctl: %s\n", w)
	}
	if a.output != "table" && a.output != "wide" || a.quiet {
		return nil
	}
	what := "applied"
	if v.From != 0 {
		what = fmt.Sprintf("rolled back to %d", v.From)
	}
	if v.Number != 0 {
		what += fmt.Sprintf(", kept as %d", v.Number)
	}
	if v.Saved != "" {
		what += ", saved as " + v.Saved
	} else {
		what += ", not saved"
	}
	fmt.Fprintf(a.err, "npctl: %s\n", what)
	return nil
}
