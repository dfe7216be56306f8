package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/nic"
)

// codedError is an error with the exit code it asks for.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// nicError gives errors of package nic their exit codes.
func nicError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nic.ErrRefused):
		return codedError{err, exitConflict}
	case errors.Is(err, fs.ErrPermission):
		return codedError{err, exitPermission}
	case errors.Is(err, nic.ErrNotFound):
		return codedError{err, exitNotFound}
	}
	return err
}

// expired restores what nobody confirmed; it says so and goes on.
func (a *app) expired() {
	done, err := nic.System(a.nicDir).RestoreExpired()
	for _, s := range done {
		fmt.Fprintf(a.err, "npctl: %s (%s) was not confirmed in time: restored to %s\n", s.Name, s.PCI, s.Driver)
	}
	if err != nil {
		fmt.Fprintf(a.err, "npctl: %v\n", err)
	}
}

// nicListCmd lists npd's devices, or with --all the machine's.
func nicListCmd(a *app, list *cobra.Command) *cobra.Command {
	var all bool
	list.Flags().BoolVarP(&all, "all", "a", false, "every card of this machine, those of other drivers too; needs no npd")
	daemons := list.RunE
	list.RunE = func(cmd *cobra.Command, args []string) error {
		if !all {
			return daemons(cmd, args)
		}
		a.expired()
		cards, err := nic.List(nic.System(a.nicDir).Files, a.nicDir)
		if err != nil {
			return nicError(err)
		}
		v := api.HostNICs{Schema: api.Schema, NICs: []api.HostNIC{}}
		for i := range cards {
			v.NICs = append(v.NICs, hostNIC(&cards[i]))
		}
		return a.print(v, anys(v.NICs), hostNICTable(v.NICs, a.output == "wide"))
	}
	return list
}

func hostNIC(n *nic.NIC) api.HostNIC {
	h := api.HostNIC{Name: n.Label(), Kernel: n.Name != "", PCI: n.PCI, Driver: n.Driver, PCIID: n.ID, NUMANode: n.NUMANode, RXQueues: n.RXQueues,
		TXQueues: n.TXQueues, State: n.State, MAC: n.MAC, MTUBytes: n.MTU, IOMMUGroup: n.IOMMUGroup, Upper: n.Upper}
	if n.SpeedMbps > 0 {
		bps := uint64(n.SpeedMbps) * 1_000_000
		h.SpeedBps = &bps
	}
	if h.State == "" {
		h.State = "not the kernel's"
	}
	return h
}

func hostNICTable(list []api.HostNIC, wide bool) *table {
	cols := []string{"nic", "state", "driver", "pci", ">node", ">queues", ">speed", "mac", ">mtu"}
	if wide {
		cols = append(cols, "id", "iommu group", "part of")
	}
	t := newTable(cols...)
	for _, n := range list {
		node, speed, queues := "-", "-", "-"
		if n.NUMANode >= 0 {
			node = fmt.Sprint(n.NUMANode)
		}
		if n.SpeedBps != nil {
			speed = fmt.Sprintf("%gG", float64(*n.SpeedBps)/1e9)
		}
		if n.RXQueues > 0 {
			queues = fmt.Sprintf("%d/%d", n.RXQueues, n.TXQueues)
		}
		mtu := ""
		if n.MTUBytes > 0 {
			mtu = fmt.Sprint(n.MTUBytes)
		}
		t.row(n.Name, n.State, n.Driver, n.PCI, node, queues, speed, n.MAC, mtu, n.PCIID, n.IOMMUGroup, n.Upper)
	}
	return t
}

// ask asks a yes-or-no question on standard error.
func (a *app) ask(cmd *cobra.Command, question string) bool {
	fmt.Fprintf(a.err, "npctl: %s [y/N] ", question)
	line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}

func nicBindCmd(a *app) *cobra.Command {
	var confirm time.Duration
	var driver string
	var force, yes bool
	c := &cobra.Command{Use: "bind IF", Short: "Take a card from the kernel for DPDK; it comes back unless confirmed in time", Args: exact(1, "one card, by name or PCI address"),
		Long: "Binds the card's PCI device to vfio-pci. Driver, name, MTU, addresses and routes are written down first and come back after --confirm's time, " +
			"unless 'npctl nic confirm IF' says before that this machine can still be reached; when the waiting process is stopped or killed, they come back too " +
			"(at once, or when npctl nic or npd runs next). A confirmed card stays with DPDK until 'npctl nic unbind IF' or a reboot.\n" +
			"A card that carries the default route or an SSH session is refused.",
		Example: "  npctl nic bind eth1 --confirm 60s\n  npctl nic confirm eth1"}
	f := c.Flags()
	f.DurationVar(&confirm, "confirm", time.Minute, "give it back after so long without confirmation; 0: it stays")
	f.StringVar(&driver, "driver", "vfio-pci", "vfio-pci, uio_pci_generic or igb_uio")
	f.BoolVar(&force, "force", false, "even if this machine may become unreachable")
	f.BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if confirm != 0 && confirm < time.Second || confirm > 24*time.Hour {
			return usageError{fmt.Errorf("--confirm %v: want 0, or 1s to 24h", confirm)}
		}
		a.expired()
		if !yes && !a.ask(cmd, fmt.Sprintf("nic bind: the kernel loses %s, its addresses and routes. Go on?", args[0])) {
			return errors.New("nic bind: not done")
		}
		b := nic.System(a.nicDir)
		s, err := b.Bind(args[0], driver, confirm, force)
		if err != nil {
			return nicError(err)
		}
		if confirm > 0 {
			if err := a.startGuard(s); err != nil {
				_, undo := b.Unbind(s.PCI)
				return errors.Join(err, undo)
			}
		}
		t := newTable("nic", "pci", "driver", "had", "comes back")
		until := "npctl nic unbind " + s.Name
		if confirm > 0 {
			until = s.Deadline.Format(time.RFC3339)
			fmt.Fprintf(a.err, "npctl: within %v: npctl nic confirm %s\n", confirm, s.Name)
		}
		t.row(s.Name, s.PCI, s.To, s.Driver, until)
		return a.print(bound(s), nil, t)
	}
	return c
}

func bound(s *nic.State) api.BoundNIC {
	v := api.BoundNIC{Schema: api.Schema, Name: s.Name, PCI: s.PCI, Driver: s.To, HadDriver: s.Driver, HadAddresses: append([]string{}, s.Link.Addresses...), Confirmed: s.Confirmed}
	if !s.Confirmed {
		v.Deadline = &s.Deadline
	}
	return v
}

// startGuard starts the process that gives the card back. It has a session of its own,
// so that the terminal's end is not its end; what it did is in a file beside the state.
func (a *app) startGuard(s *nic.State) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start the guard of %s: %w", s.Name, err)
	}
	out, err := os.OpenFile(filepath.Join(a.nicDir, s.PCI+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start the guard of %s: %w", s.Name, err)
	}
	defer out.Close()
	c := exec.Command(exe, "nic", "guard", s.PCI, "--state-dir", a.nicDir)
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start the guard of %s: %w", s.Name, err)
	}
	return c.Process.Release()
}

func nicGuardCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "guard PCI", Short: "Wait for a confirmation, else give the card back", Hidden: true, Args: exact(1, "one PCI address")}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		restored, err := nic.System(a.nicDir).Guard(ctx, args[0])
		if restored {
			fmt.Fprintf(a.out, "%s %s was not confirmed: restored\n", time.Now().UTC().Format(time.RFC3339), args[0])
		}
		return nicError(err)
	}
	return c
}

func nicConfirmCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "confirm IF", Short: "Keep a card bound that nic bind took", Args: exact(1, "one card")}
	c.RunE = func(_ *cobra.Command, args []string) error {
		a.expired()
		return nicError(nic.System(a.nicDir).Confirm(args[0]))
	}
	return c
}

func nicUnbindCmd(a *app) *cobra.Command {
	c := &cobra.Command{Use: "unbind IF", Short: "Give a bound card back to the kernel, with driver, addresses and routes", Args: exact(1, "one card")}
	c.RunE = func(_ *cobra.Command, args []string) error {
		a.expired()
		s, err := nic.System(a.nicDir).Unbind(args[0])
		if err != nil {
			return nicError(err)
		}
		t := newTable("nic", "pci", "driver", "addresses")
		t.row(s.Name, s.PCI, s.Driver, strings.Join(s.Link.Addresses, ","))
		back := bound(s)
		back.Driver, back.HadDriver, back.Deadline = s.Driver, s.To, nil
		return a.print(back, nil, t)
	}
	return c
}

// nicFlags are of all verbs that change who has a card.
func (a *app) nicFlags(c *cobra.Command) *cobra.Command {
	a.nicDir = nic.Dir
	c.PersistentFlags().StringVar(&a.nicDir, "state-dir", nic.Dir, "where it is written down what a bound card had")
	return c
}
