package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/np-appliance/np/ctrl/config"
	"github.com/np-appliance/np/ctrl/rdma"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/netconn"
)

// openRDMA gives the plane RDMA if the configuration has it and the host can. If not,
// listeners that ask for it fall to kernel sockets, each with this reason.
func (d *Daemon) openRDMA(c *config.Config) {
	d.noRDMA = errors.New("rdma.enabled is false")
	if !c.RDMA.Enabled {
		return
	}
	if d.noRDMA = d.tryRDMA(c); d.noRDMA != nil {
		d.o.Log.Warn("no RDMA", "err", d.noRDMA, "cure", rdmaCure(d.noRDMA))
	}
}

func (d *Daemon) tryRDMA(c *config.Config) error {
	opener, ok := d.plane.(dataplane.RDMAOpener)
	if !ok {
		return fmt.Errorf("open RDMA: %w", dataplane.CodeUnsupported)
	}
	if c.RDMA.GIDIndex >= 0 {
		list, err := rdma.Devices()
		if err == nil {
			d.rdmaLocal, err = rdma.Local(list, c.RDMA.Device, c.RDMA.Port, c.RDMA.GIDIndex)
		}
		if err != nil {
			return err
		}
	}
	r, err := opener.OpenRDMA(&dataplane.RDMAConfig{MaxConns: c.RDMA.MaxConnections, RingBytes: int(c.RDMA.RingSize), SendBuffer: int(c.RDMA.SendBuffer),
		Keepalive: c.RDMA.Keepalive, Device: c.RDMA.Device})
	if err != nil {
		return err
	}
	d.rdma = rdma.New(d.plane, r, rdma.Config{Pending: c.RDMA.MaxPending, Log: d.o.Log.With("component", "rdma")})
	d.later(d.rdma.Stop)
	return nil
}

// listenRDMA opens a listener for RDMA connections.
func (d *Daemon) listenRDMA(ctx context.Context, c *config.Config, l *config.Listener, lc *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	return d.listenBy(ctx, c, l, lc, netconn.Opener{Listen: d.openRDMAListener, Unlisten: d.unlistenCarrier})
}

func (d *Daemon) openRDMAListener(ctx context.Context, lc *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	if d.noRDMA != nil {
		return 0, d.noRDMA
	}
	one := *lc
	if one.Address.Addr().IsUnspecified() && d.rdmaLocal.IsValid() {
		one.Address = netip.AddrPortFrom(d.rdmaLocal, one.Address.Port())
	}
	id, _, err := d.rdma.Listen(ctx, &one)
	return id, err
}

// unlistenCarrier ends a listener of any carrier.
func (d *Daemon) unlistenCarrier(ctx context.Context, id dataplane.ListenerID) error {
	if d.rdma != nil {
		if known, err := d.rdma.Unlisten(ctx, id); known {
			return err
		}
	}
	return d.plane.Unlisten(ctx, id)
}

// rdmaCure is the command that helps against what keeps RDMA from working.
func rdmaCure(err error) string {
	switch {
	case errors.Is(err, dataplane.CodeUnsupported):
		return "apt-get install libibverbs1 librdmacm1 ibverbs-providers"
	case errors.Is(err, dataplane.CodeNodev):
		return "modprobe rdma_ucm; rdma link show"
	case errors.Is(err, dataplane.CodeNomem), errors.Is(err, dataplane.CodePerm):
		return "ulimit -l unlimited, or CAP_IPC_LOCK"
	}
	return ""
}
