package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/doctor"
	"github.com/np-appliance/np/ctrl/host"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/nic"
)

func doctorCmd(a *app) *cobra.Command {
	var file, root string
	var fix, yes, all bool
	c := &cobra.Command{Use: "doctor", Short: "What keeps np from running, or from running well, and the commands that cure it; exit 1 when something fails", Args: exact(0, "no arguments"),
		Long: "Looks at this machine and the configuration; needs no npd. 'fail': what the configuration asks for will not run. 'warn': it runs, not as well as it could. " +
			"--fix does the cures that are safe and can be taken back, asks before each, and prints the command that takes it back; what it sets lasts until the next boot.",
		Example: "  npctl doctor\n  npctl doctor --fix --yes\n  npctl doctor -o json | jq '.results[] | select(.result == \"fail\")'"}
	f := c.Flags()
	f.StringVarP(&file, "config", "c", doctor.DefaultFile, "npd's configuration")
	f.BoolVar(&fix, "fix", false, "do the cures that are safe and can be taken back")
	f.BoolVar(&yes, "yes", false, "with --fix: do not ask")
	f.BoolVarP(&all, "all", "a", false, "print what is well, too")
	f.StringVar(&root, "root", "/", "look at another tree of /sys and /proc")
	_ = f.MarkHidden("root") // there is such a flag
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		m := &doctor.Machine{Files: host.OS(root), Probes: doctor.Linux{}, NICState: nic.Dir}
		if err := m.Load(file, os.Environ()); err != nil {
			return err
		}
		list := doctor.Run(m)
		var done []doctor.Fixed
		if fix {
			done = doctor.Apply(list, func(x *doctor.Fix) bool { return yes || a.ask(cmd, x.What+"?") })
			for _, d := range done {
				switch {
				case !d.Agreed:
				case d.Err != nil:
					fmt.Fprintf(a.err, "npctl: not done: %s: %v\n", d.Result.Fix.What, d.Err)
				default:
					fmt.Fprintf(a.err, "npctl: done: %s (back: %s)\n", d.Result.Fix.What, d.Result.Fix.Back)
				}
			}
			list = doctor.Run(m)
		}
		if err := a.doctorPrint(list, done, all); err != nil {
			return err
		}
		if doctor.Count(list, doctor.Fail) > 0 {
			return quietError{exitFailed}
		}
		return nil
	}
	return c
}

func (a *app) doctorPrint(list []doctor.Result, done []doctor.Fixed, all bool) error {
	v := api.Doctor{Schema: api.Schema, OK: doctor.Count(list, doctor.OK), Warn: doctor.Count(list, doctor.Warn), Fail: doctor.Count(list, doctor.Fail),
		Results: []api.Finding{}, Fixed: []api.Fixed{}}
	t := newTable("check", "on", "result", "found", "costs", "cure")
	for _, r := range list {
		v.Results = append(v.Results, api.Finding{Check: r.Check, On: r.On, Result: r.Level.String(), Found: r.Found, Cost: r.Cost, Cure: r.Cure, Fixable: r.Fix != nil})
		if r.Level != doctor.OK || all || a.output == "wide" {
			t.row(r.Check, r.On, r.Level, r.Found, r.Cost, r.Cure)
		}
	}
	for _, d := range done {
		if !d.Agreed {
			continue
		}
		x := api.Fixed{Check: d.Result.Check, On: d.Result.On, What: d.Result.Fix.What, Back: d.Result.Fix.Back, Done: d.Err == nil}
		if d.Err != nil {
			x.Error = d.Err.Error()
		}
		v.Fixed = append(v.Fixed, x)
	}
	sum := newTable(">ok", ">warn", ">fail")
	sum.row(v.OK, v.Warn, v.Fail)
	if len(t.rows) == 0 {
		return a.print(v, anys(v.Results), sum)
	}
	return a.print(v, anys(v.Results), t, sum)
}
