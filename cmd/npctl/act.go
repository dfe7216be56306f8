package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/np-appliance/np/ctrl/handshake"
	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/mgmt/client"
)

func captureCmd(a *app) *cobra.Command {
	var iface, conn, listener, filter, dir, file string
	var count, snap int
	c := &cobra.Command{Use: "capture [-w FILE|-]", Short: "Packets of the bypass path as pcapng: received, sent and dropped", Args: exact(0, "no arguments"),
		Long: "Writes pcapng, which Wireshark and tcpdump read, until interrupted or --count packets. A dropped packet carries its reason as a comment.\nExample: npctl capture -f 'tcp port 7700' -c 100 -w np.pcapng"}
	f := c.Flags()
	f.StringVar(&iface, "interface", "", "only this interface")
	f.StringVar(&conn, "conn", "", "only this connection (ID)")
	f.StringVar(&listener, "listener", "", "only this listener (name or port)")
	f.StringVarP(&filter, "filter", "f", "", "only what matches, in tcpdump's language")
	f.StringVar(&dir, "dir", "rx,tx,drop", "rx, tx, drop")
	f.IntVarP(&count, "count", "c", 0, "end after so many packets")
	f.IntVar(&snap, "snaplen", 0, "bytes kept of each packet, 0 all")
	f.StringVarP(&file, "write", "w", "", "file to write, - for standard output")
	c.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if file == "" {
			return usageError{errors.New("capture: -w FILE or -w - is missing (-w - | tcpdump -r - shows packets live)")}
		}
		q := url.Values{api.CaptureDir: {dir}}
		for k, v := range map[string]string{api.CaptureInterface: iface, api.CaptureConn: conn, api.CaptureListener: listener, api.CaptureFilter: filter} {
			if v != "" {
				q.Set(k, v)
			}
		}
		if count > 0 {
			q.Set(api.CaptureCount, fmt.Sprint(count))
		}
		if snap > 0 {
			q.Set(api.CaptureSnap, fmt.Sprint(snap))
		}
		dst := a.out
		if file != "-" {
			out, err := os.Create(file)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, out.Close()) }()
			dst = out
		}
		cl := client.New(a.socket)
		defer cl.Close()
		trailer, err := cl.Stream(cmd.Context(), api.PathCapture, q, dst)
		if lost := trailer.Get(api.CaptureLostName); lost != "" && lost != "0" {
			fmt.Fprintf(a.err, "npctl: %s packets matched but found no room; a narrower --filter or --snaplen helps\n", lost)
		}
		if errors.Is(err, context.Canceled) {
			return nil // Ctrl-C is how a capture ends
		}
		return err
	}
	return c
}

func keyCmd(a *app) *cobra.Command {
	var write string
	gen := &cobra.Command{Use: "generate", Short: "A new private key; the public one goes to standard error", Args: exact(0, "no arguments")}
	gen.Flags().StringVar(&write, "write", "", "write the private key to this new file (mode 0600) instead of standard output")
	gen.RunE = func(*cobra.Command, []string) error {
		key, err := handshake.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("generate key: %w", err)
		}
		text := key.Encode()
		defer key.Wipe()
		pub := key.Public()
		if write == "" {
			fmt.Fprintln(a.out, text)
			fmt.Fprintf(a.err, "public key: %s\n", pub)
			return nil
		}
		f, err := os.OpenFile(write, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("write key: %w", err)
		}
		if _, err := io.WriteString(f, text+"\n"); err != nil {
			return errors.Join(fmt.Errorf("write key: %w", err), f.Close())
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("write key: %w", err)
		}
		fmt.Fprintln(a.out, pub)
		return nil
	}
	pub := &cobra.Command{Use: "public [FILE]", Short: "The public key of a private one in FILE or on standard input", Args: cobra.MaximumNArgs(1)}
	pub.RunE = func(cmd *cobra.Command, args []string) error {
		in := cmd.InOrStdin()
		if len(args) == 1 {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read key: %w", err)
		}
		key, err := handshake.ParsePrivateKey(strings.TrimSpace(line))
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, key.Public())
		return nil
	}
	return noun("key", "Static keys", gen, pub)
}

func drainCmd(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "drain", Short: "Refuse new connections and tell clients to go elsewhere", Args: exact(0, "no arguments")}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if !yes {
			if !a.ask(cmd, "drain: new connections will be refused until npd restarts. Go on?") {
				return errors.New("drain: not done")
			}
		}
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.Done
			return cl.Post(ctx, api.PathDrain, nil, &v)
		})
	}
	return c
}

func logCmd(a *app) *cobra.Command {
	show := get(a, "show", "The log level", api.PathLogLevel, func(v *api.LogLevel) error {
		t := newTable("level")
		t.row(v.Level)
		return a.print(v, nil, t)
	})
	set := &cobra.Command{Use: "set LEVEL", Short: "Change the log level: debug, info, warn, error", Args: exact(1, "one level")}
	set.RunE = func(cmd *cobra.Command, args []string) error {
		return a.each(cmd.Context(), func(ctx context.Context, cl *client.Client) error {
			var v api.LogLevel
			return cl.Post(ctx, api.PathLogLevel, api.LogLevel{Schema: api.Schema, Level: args[0]}, &v)
		})
	}
	return noun("log", "Logging", show, set)
}

// ownVersion reads what the linker recorded.
func ownVersion() api.Version {
	v := api.Version{Schema: api.Schema, Version: "devel", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
