package mgmt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/mgmt/api"
	"github.com/np-appliance/np/ctrl/pcapng"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/dataplane"
)

// captureFlush is how long a captured packet may lie here while others come.
const captureFlush = 50 * time.Millisecond

// captureWrite bounds one write to a reader that takes nothing.
const captureWrite = 10 * time.Second

// captureArgs reads the query; everything is checked before the capture opens.
func (s *Server) captureArgs(r *http.Request, ports []ports.Status) (*dataplane.CaptureConfig, int, error) {
	q := r.URL.Query()
	cfg := &dataplane.CaptureConfig{Filter: q.Get(api.CaptureFilter), Interface: -1}
	number := func(name string) (int, error) {
		t := q.Get(name)
		if t == "" {
			return 0, nil
		}
		n, err := strconv.Atoi(t)
		if err != nil || n < 0 {
			return 0, failf(api.KindUsage, "%s %q: expected a number", name, t)
		}
		return n, nil
	}
	count, err := number(api.CaptureCount)
	if err != nil {
		return nil, 0, err
	}
	if cfg.Snap, err = number(api.CaptureSnap); err != nil {
		return nil, 0, err
	}
	for _, d := range strings.Split(q.Get(api.CaptureDir), ",") {
		switch d {
		case "":
		case "rx":
			cfg.Dirs |= dataplane.CaptureRx
		case "tx":
			cfg.Dirs |= dataplane.CaptureTx
		case "drop":
			cfg.Dirs |= dataplane.CaptureDrop
		default:
			return nil, 0, failf(api.KindUsage, "dir %q: expected rx, tx, drop", d)
		}
	}
	if cfg.Dirs == 0 {
		cfg.Dirs = dataplane.CaptureRx | dataplane.CaptureTx | dataplane.CaptureDrop
	}
	if name := q.Get(api.CaptureInterface); name != "" {
		if !captureOn(cfg, ports, name) {
			return nil, 0, failf(api.KindNotFound, "interface %q: not found", name)
		}
	}
	if id := q.Get(api.CaptureConn); id != "" {
		if cfg.Conn, err = handle(id); err != nil {
			return nil, 0, err
		}
	}
	if l := q.Get(api.CaptureListener); l != "" {
		if cfg.Port, err = s.listenerPort(l); err != nil {
			return nil, 0, err
		}
	}
	return cfg, count, nil
}

// captureOn restricts a capture to an interface: a device with all its VLANs
// (np0), or one VLAN (np0.100) by way of the filter, which counts bytes from
// behind the tag. Return: whether there is such an interface.
func captureOn(cfg *dataplane.CaptureConfig, list []ports.Status, name string) bool {
	for i := range list {
		p := &list[i]
		device, label := p.Config.Name == name, p.Config.Label() == name
		if !p.Added || !device && !label {
			continue
		}
		cfg.Interface = int(p.Port)
		if !device {
			rest := cfg.Filter
			cfg.Filter = fmt.Sprintf("vlan %d", p.Config.VLAN)
			if rest != "" {
				cfg.Filter += " and (" + rest + ")"
			}
		}
		return true
	}
	return false
}

// listenerPort finds a listener by name or port.
func (s *Server) listenerPort(name string) (uint16, error) {
	for _, l := range s.cfg.Daemon.Listeners() {
		if l.Name == name || strconv.Itoa(int(l.Port)) == name {
			return l.Port, nil
		}
	}
	return 0, failf(api.KindNotFound, "listener %q: not found", name)
}

// capture streams pcapng until the client goes, the count is reached or npd
// ends. What found no room is told in a trailer.
func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	status := s.cfg.Ports.Status()
	cfg, count, err := s.captureArgs(r, status)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	c, err := s.cfg.Plane.Capture(r.Context(), cfg)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	defer c.Close()
	w.Header().Set("Content-Type", "application/x-pcapng")
	w.Header().Set("Trailer", api.CaptureLostName)
	out := &flushWriter{ResponseController: http.NewResponseController(w), w: w}
	if err := s.packets(r.Context(), c, out, cfg, status, count); err != nil && r.Context().Err() == nil {
		s.cfg.Log.Debug("capture ended", "component", "mgmt", "err", err)
	}
	w.Header().Set(api.CaptureLostName, strconv.FormatUint(c.Lost(), 10))
}

// flushWriter hands everything on at once and gives up on a client that hangs.
type flushWriter struct {
	*http.ResponseController
	w http.ResponseWriter
}

func (f *flushWriter) Write(b []byte) (int, error) {
	if err := f.SetWriteDeadline(time.Now().Add(captureWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return f.w.Write(b)
}

func (s *Server) packets(ctx context.Context, c dataplane.Capture, out *flushWriter, cfg *dataplane.CaptureConfig, status []ports.Status, count int) error {
	index := map[dataplane.InterfaceID]int{}
	var ifs []pcapng.Interface
	for _, p := range status {
		if p.Added && !p.Shared { // packets are known by the device
			index[p.ID] = len(ifs)
			ifs = append(ifs, pcapng.Interface{Name: p.Config.Name, Filter: cfg.Filter, Snap: cfg.Snap})
		}
	}
	if len(ifs) == 0 {
		ifs = []pcapng.Interface{{Name: "none"}}
	}
	w, err := pcapng.NewWriter(out, ifs)
	if err != nil {
		return err
	}
	flush := func() error { return errors.Join(w.Flush(), out.Flush()) }
	if err := flush(); err != nil { // the reader sees at once that it runs
		return err
	}
	run := &captureRun{c: c, w: w, count: count, index: index, offset: s.cfg.Now().Add(-s.cfg.Mono())}
	for more := true; more && err == nil; {
		if more, err = run.burst(ctx); err == nil || ctx.Err() == nil {
			err = errors.Join(err, flush())
		}
	}
	return err
}

type captureRun struct {
	c      dataplane.Capture
	w      *pcapng.Writer
	count  int // 0: no limit
	n      int
	index  map[dataplane.InterfaceID]int
	offset time.Time
}

// burst waits for a packet, then writes what comes within captureFlush, so
// that a busy capture is not flushed packet by packet and a quiet one shows
// each at once. more: the count is not reached.
func (r *captureRun) burst(ctx context.Context) (more bool, err error) {
	if more, err = r.next(ctx); !more || err != nil {
		return more, err
	}
	end, cancel := context.WithTimeout(ctx, captureFlush)
	defer cancel()
	for more && err == nil {
		more, err = r.next(end)
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return true, nil
	}
	return more, err
}

func (r *captureRun) next(ctx context.Context) (bool, error) {
	p, err := r.c.Next(ctx)
	if err != nil {
		return false, err
	}
	r.n++
	return r.n != r.count, r.w.Write(packet(&p, r.offset, r.index))
}

// packet names what the data plane says by numbers.
func packet(p *dataplane.Packet, offset time.Time, index map[dataplane.InterfaceID]int) pcapng.Packet {
	out := pcapng.Packet{At: offset.Add(p.At), Interface: index[p.Interface], Inbound: p.Dir != dataplane.CaptureTx, Orig: p.Orig, Data: p.Data}
	if p.Dir == dataplane.CaptureDrop {
		meta := p.Drop.Meta()
		out.Inbound = meta.Layer != "tx"
		out.Comment = "dropped: " + meta.Reason + " (" + meta.Help + ")"
	}
	return out
}
