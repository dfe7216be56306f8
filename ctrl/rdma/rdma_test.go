package rdma

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/np-appliance/np/dataplane"
)

var (
	away = netip.MustParseAddrPort("198.18.0.9:7")
	here = netip.MustParseAddrPort("198.18.0.1:7")
)

// manager plays the kernel's connection manager: it notes what is called and says what the test wants.
type manager struct {
	events  chan dataplane.RDMAEvent
	retired chan []dataplane.RDMAID

	mu      sync.Mutex
	next    dataplane.RDMAID
	calls   []string
	live    map[dataplane.RDMAID]bool
	answer  func(step string, id dataplane.RDMAID) // called without mu
	prepare error
	adopt   error
	listen  error
}

func newKernel() *manager {
	return &manager{events: make(chan dataplane.RDMAEvent, 1000), retired: make(chan []dataplane.RDMAID, 10), live: map[dataplane.RDMAID]bool{}}
}

func (k *manager) note(step string, id dataplane.RDMAID) {
	k.mu.Lock()
	k.calls = append(k.calls, step)
	f := k.answer
	k.mu.Unlock()
	if f != nil {
		f(step, id)
	}
}

func (k *manager) fresh() dataplane.RDMAID {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	k.live[k.next] = true
	return k.next
}

func (k *manager) alive() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.live)
}

func (k *manager) NextEvent(ctx context.Context) (dataplane.RDMAEvent, error) {
	select {
	case ev := <-k.events:
		return ev, nil
	case <-ctx.Done():
		return dataplane.RDMAEvent{}, ctx.Err()
	}
}

func (k *manager) WaitRetired(ctx context.Context) ([]dataplane.RDMAID, error) {
	select {
	case ids := <-k.retired:
		return ids, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *manager) Listen(local netip.AddrPort, _ int) (dataplane.RDMAID, netip.AddrPort, error) {
	k.mu.Lock()
	err := k.listen
	k.mu.Unlock()
	if err != nil {
		return 0, local, err
	}
	id := k.fresh()
	k.note("listen", id)
	return id, local, nil
}
func (k *manager) Resolve(netip.Addr, netip.AddrPort, time.Duration) (dataplane.RDMAID, error) {
	id := k.fresh()
	k.note("resolve", id)
	return id, nil
}
func (k *manager) Route(id dataplane.RDMAID, _ time.Duration) error { k.note("route", id); return nil }
func (k *manager) Prepare(id dataplane.RDMAID, _ int) (int, error) {
	k.note("prepare", id)
	return 5, k.prepare
}
func (k *manager) Connect(id dataplane.RDMAID) error { k.note("connect", id); return nil }
func (k *manager) Accept(id dataplane.RDMAID) error  { k.note("accept", id); return nil }
func (k *manager) Adopt(id dataplane.RDMAID, _ dataplane.ListenerID) error {
	k.note("adopt", id)
	return k.adopt
}
func (k *manager) end(step string, id dataplane.RDMAID) {
	k.mu.Lock()
	delete(k.live, id)
	k.mu.Unlock()
	k.note(step, id)
}
func (k *manager) Reject(id dataplane.RDMAID)                      { k.end("reject", id) }
func (k *manager) Drop(id dataplane.RDMAID)                        { k.end("drop", id) }
func (k *manager) Find(dataplane.Handle) (dataplane.RDMAID, error) { return 1, nil }
func (k *manager) Region(dataplane.RDMAID, int, dataplane.RDMAAccess) (dataplane.RDMARegion, error) {
	return nil, dataplane.CodeUnsupported
}
func (k *manager) Transfer(context.Context, *dataplane.RDMATransfer) error {
	return dataplane.CodeUnsupported
}

// plane notes connections and listeners; nothing else of it is called.
type plane struct {
	dataplane.Plane
	mu        sync.Mutex
	connects  []dataplane.ConnectConfig
	listeners int
	refuse    error
}

type core struct{ dataplane.Core }

func (p *plane) Cores() []dataplane.Core { return []dataplane.Core{core{}, core{}} }
func (p *plane) Connect(_ context.Context, cfg *dataplane.ConnectConfig) (dataplane.Handle, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connects = append(p.connects, *cfg)
	return 77, p.refuse
}
func (p *plane) Listen(_ context.Context, cfg *dataplane.ListenConfig) (dataplane.ListenerID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners++
	return dataplane.ListenerID(p.listeners), nil
}
func (p *plane) Unlisten(context.Context, dataplane.ListenerID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners--
	return nil
}

// obliging says yes to each step.
func (k *manager) obliging(step string, id dataplane.RDMAID) {
	op, ok := map[string]dataplane.RDMAEventOp{"resolve": dataplane.RDMAAddress, "route": dataplane.RDMARoute, "connect": dataplane.RDMAEstablished,
		"accept": dataplane.RDMAEstablished}[step]
	if ok {
		k.events <- dataplane.RDMAEvent{Op: op, ID: id, Remote: away}
	}
}

func start(t *testing.T, k *manager, cfg Config) (*Manager, *plane, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	p := &plane{}
	m := New(p, k, cfg)
	t.Cleanup(m.Stop)
	return m, p, log
}

func TestDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.answer = k.obliging
		m, p, _ := start(t, k, Config{})
		h, err := m.Dial(t.Context(), &dataplane.ConnectConfig{Remote: away, Kind: dataplane.SessionPipe, Core: 1})
		if err != nil || h != 77 {
			t.Fatal(h, err)
		}
		if want := []string{"resolve", "route", "prepare", "connect"}; !slices.Equal(k.calls, want) {
			t.Errorf("%v, want %v", k.calls, want)
		}
		c := p.connects[0]
		if c.Carrier != dataplane.CarrierRDMA || c.Socket != 5 || c.Core != 1 {
			t.Errorf("%+v", c)
		}
		if m.Stats().Dialled != 1 || len(m.dials) != 0 {
			t.Errorf("%+v", m.Stats())
		}
		// Its session ends: the id is dropped.
		k.retired <- []dataplane.RDMAID{1}
		synctest.Wait()
		if k.alive() != 0 {
			t.Error("the id is still there")
		}
		m.Stop()
	})
}

// Every step that fails ends the attempt, says why and leaves nothing.
func TestDialFails(t *testing.T) {
	say := func(op dataplane.RDMAEventOp, err dataplane.Code) func(k *manager, id dataplane.RDMAID) {
		return func(k *manager, id dataplane.RDMAID) { k.events <- dataplane.RDMAEvent{Op: op, ID: id, Err: err} }
	}
	for _, c := range []struct {
		name, step string
		do         func(k *manager, id dataplane.RDMAID)
		want       error
	}{
		{"no device", "resolve", say(dataplane.RDMAFailed, dataplane.CodeNodev), dataplane.CodeNodev},
		{"no route", "route", say(dataplane.RDMAFailed, dataplane.CodeNoroute), dataplane.CodeNoroute},
		{"refused", "connect", say(dataplane.RDMARefused, dataplane.CodeRefused), dataplane.CodeRefused},
		{"another version", "connect", say(dataplane.RDMAEstablished, dataplane.CodeUnsupported), dataplane.CodeUnsupported},
		{"gone", "connect", say(dataplane.RDMADisconnected, dataplane.CodeOK), dataplane.CodeReset},
		{"silent", "connect", func(*manager, dataplane.RDMAID) {}, dataplane.CodeTimedout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel()
				k.answer = func(step string, id dataplane.RDMAID) {
					if step == c.step {
						c.do(k, id)
						return
					}
					k.obliging(step, id)
				}
				m, p, _ := start(t, k, Config{})
				_, err := m.Dial(t.Context(), &dataplane.ConnectConfig{Remote: away, Core: -1})
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if k.alive() != 0 || len(m.dials) != 0 || len(p.connects) != 0 || m.Stats().Failed != 1 {
					t.Errorf("left: %d ids, %d attempts, %d connections; %+v", k.alive(), len(m.dials), len(p.connects), m.Stats())
				}
				m.Stop()
			})
		})
	}
}

func TestAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.answer = k.obliging
		m, p, _ := start(t, k, Config{})
		id, at, err := m.Listen(t.Context(), &dataplane.ListenConfig{Address: here, Kind: dataplane.SessionEcho})
		if err != nil || at != here {
			t.Fatal(at, err)
		}
		conn := k.fresh()
		k.events <- dataplane.RDMAEvent{Op: dataplane.RDMARequest, ID: conn, Listener: 1, Remote: away}
		synctest.Wait()
		if want := []string{"listen", "prepare", "accept", "adopt"}; !slices.Equal(k.calls, want) {
			t.Errorf("%v, want %v", k.calls, want)
		}
		if s := m.Stats(); s.Accepted != 1 || s.Pending != 0 || s.Listeners != 1 {
			t.Errorf("%+v", s)
		}
		if known, err := m.Unlisten(t.Context(), id); !known || err != nil || p.listeners != 0 {
			t.Error(known, err, p.listeners)
		}
		if known, _ := m.Unlisten(t.Context(), id); known {
			t.Error("ended twice")
		}
		m.Stop()
	})
}

func TestRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		m, _, log := start(t, k, Config{Pending: 2})
		if _, _, err := m.Listen(t.Context(), &dataplane.ListenConfig{Address: here}); err != nil {
			t.Fatal(err)
		}
		request := func(listener dataplane.RDMAID, err dataplane.Code) {
			k.events <- dataplane.RDMAEvent{Op: dataplane.RDMARequest, ID: k.fresh(), Listener: listener, Err: err, Remote: away}
			synctest.Wait()
		}
		request(9, dataplane.CodeOK)          // nobody listens
		request(1, dataplane.CodeProtocol)    // not our private data
		request(1, dataplane.CodeUnsupported) // another version
		if s := m.Stats(); s.Refused != 3 || k.alive() != 1 {
			t.Errorf("%+v, %d ids", s, k.alive())
		}
		for range 3 { // none of them ever becomes established
			request(1, dataplane.CodeOK)
		}
		if s := m.Stats(); s.Refused != 4 || s.Pending != 2 {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(log.String(), "2 are being made") {
			t.Error(log.String())
		}
		time.Sleep(2 * timeoutDefault)
		if s := m.Stats(); s.Refused != 6 || s.Pending != 0 || k.alive() != 1 {
			t.Errorf("%+v, %d ids", s, k.alive())
		}
		k.prepare = dataplane.CodeFull
		request(1, dataplane.CodeOK)
		k.prepare, k.adopt = nil, dataplane.CodeLimit
		k.answer = k.obliging
		request(1, dataplane.CodeOK)
		if s := m.Stats(); s.Refused != 8 || s.Accepted != 0 || s.Pending != 0 || k.alive() != 1 {
			t.Errorf("%+v, %d ids", s, k.alive())
		}
		m.Stop()
		if k.alive() != 0 {
			t.Error("the listener is still there")
		}
	})
}

// A connection that may go either way: RDMA, then TCP with a line that says why, then for a while TCP at once.
func TestFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.answer = func(step string, id dataplane.RDMAID) {
			if step == "resolve" {
				k.events <- dataplane.RDMAEvent{Op: dataplane.RDMAFailed, ID: id, Err: dataplane.CodeNodev}
			}
		}
		m, p, log := start(t, k, Config{Prefer: func(to netip.AddrPort) bool { return to == away }})
		pl := m.Plane()
		dial := func(cfg dataplane.ConnectConfig) error {
			_, err := pl.Connect(t.Context(), &cfg)
			return err
		}
		for range 3 {
			if err := dial(dataplane.ConnectConfig{Remote: away}); err != nil {
				t.Fatal(err)
			}
		}
		if s := m.Stats(); s.FellBack != 1 || s.Failed != 1 || len(p.connects) != 3 || p.connects[0].Carrier != dataplane.CarrierStack {
			t.Errorf("%+v, %+v", s, p.connects)
		}
		if n := strings.Count(log.String(), "falling back"); n != 1 {
			t.Errorf("%d lines: %s", n, log)
		}
		time.Sleep(2 * retryDefault)
		if err := dial(dataplane.ConnectConfig{Remote: away}); err != nil {
			t.Fatal(err)
		}
		if s := m.Stats(); s.Failed != 2 {
			t.Errorf("not asked again: %+v", s)
		}
		if err := dial(dataplane.ConnectConfig{Remote: here}); err != nil { // not preferred
			t.Fatal(err)
		}
		if err := dial(dataplane.ConnectConfig{Remote: away, Carrier: dataplane.CarrierRDMA}); !errors.Is(err, dataplane.CodeNodev) { // nothing else was asked for
			t.Errorf("%v", err)
		}
		m.Stop()
	})
}

// A device that goes away takes its listener with it, and the listener is back when the device is.
func TestDeviceGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		m, p, log := start(t, k, Config{})
		id, _, err := m.Listen(t.Context(), &dataplane.ListenConfig{Address: here})
		if err != nil {
			t.Fatal(err)
		}
		gone := func(id dataplane.RDMAID) {
			k.mu.Lock()
			k.listen = dataplane.CodeNodev
			k.mu.Unlock()
			k.events <- dataplane.RDMAEvent{Op: dataplane.RDMADeviceGone, ID: id, Device: "rxe1"}
			time.Sleep(time.Minute)
			if m.Stats().Listeners != 0 || k.alive() != 0 || p.listeners != 1 || !strings.Contains(log.String(), "rxe1") {
				t.Errorf("%+v %d %d %s", m.Stats(), k.alive(), p.listeners, log)
			}
		}
		gone(1)
		k.mu.Lock()
		k.listen = nil
		k.mu.Unlock()
		time.Sleep(time.Minute)
		if m.Stats().Listeners != 1 || k.alive() != 1 || !strings.Contains(log.String(), "again") {
			t.Errorf("%+v %d %s", m.Stats(), k.alive(), log)
		}
		gone(2)
		if known, err := m.Unlisten(t.Context(), id); !known || err != nil || p.listeners != 0 {
			t.Error(known, err, p.listeners)
		}
		m.Stop()
	})
}

func TestDevices(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	fsys := fstest.MapFS{
		"rxe0/node_guid":                 file("0204:00ff:fe00:0001"),
		"rxe0/ports/1/state":             file("4: ACTIVE"),
		"rxe0/ports/1/phys_state":        file("5: LinkUp"),
		"rxe0/ports/1/link_layer":        file("Ethernet"),
		"rxe0/ports/1/rate":              file("2.5 Gb/sec (1X SDR)"),
		"rxe0/ports/1/gids/0":            file("fe80:0000:0000:0000:0204:00ff:fe00:0001"),
		"rxe0/ports/1/gids/1":            file("0000:0000:0000:0000:0000:ffff:c612:0001"),
		"rxe0/ports/1/gids/2":            file("0000:0000:0000:0000:0000:0000:0000:0000"),
		"rxe0/ports/1/gid_attrs/types/1": file("RoCE v2"),
		"rxe0/ports/1/gid_attrs/ndevs/1": file("v0"),
		"ib0/ports/1/state":              file("1: DOWN"),
	}
	list, err := devices(fsys)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	p := list[1].Ports[0]
	if list[1].Name != "rxe0" || !p.Active() || p.LinkLayer != "Ethernet" || len(p.GIDs) != 2 {
		t.Errorf("%+v", list[1])
	}
	if g := p.GIDs[1]; g.Index != 1 || g.Address != here.Addr() || g.Type != "RoCE v2" || g.Netdev != "v0" {
		t.Errorf("%+v", g)
	}
	if list[0].Ports[0].Active() {
		t.Errorf("%+v", list[0])
	}
	if a, err := Local(list, "rxe0", 1, 1); a != here.Addr() || err != nil {
		t.Error(a, err)
	}
	for _, c := range []struct {
		device string
		index  int
		want   string
	}{{"rxe0", 0, "link-local"}, {"rxe0", 2, "no GID 2"}, {"mlx5_0", 1, "no RDMA device"}} {
		if _, err := Local(list, c.device, 1, c.index); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %d: %v", c.device, c.index, err)
		}
	}
	if list, err := devices(fstest.MapFS{}); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
}

func TestRemote(t *testing.T) {
	want := Remote{Addr: 1<<46 + 4096, Key: 0xdeadbeef, Bytes: 1 << 20}
	b, err := want.MarshalBinary()
	if err != nil || len(b) != RemoteBytes {
		t.Fatal(b, err)
	}
	var got Remote
	if err := got.UnmarshalBinary(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]byte{nil, b[:15], append(slices.Clone(b), 0), bytes.Repeat([]byte{0xff}, RemoteBytes)} {
		if err := got.UnmarshalBinary(bad); !errors.Is(err, dataplane.CodeProtocol) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	m, _, _ := start(t, newKernel(), Config{})
	g := &Region{m: m}
	for _, c := range []struct{ at, bytes int }{{-1, 1}, {0, 0}, {0, -1}, {1 << 20, 1}, {1, 1 << 20}} {
		if err := m.Read(t.Context(), 1, g, 0, want, c.at, c.bytes); !errors.Is(err, dataplane.CodeInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := m.Write(t.Context(), 1, nil, 0, want, 0, 1); !errors.Is(err, dataplane.CodeInvalid) {
		t.Error(err)
	}
}

func FuzzRemote(f *testing.F) {
	f.Add(make([]byte, RemoteBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Remote
		if r.UnmarshalBinary(b) != nil {
			return
		}
		if back, _ := r.MarshalBinary(); !bytes.Equal(back, b) {
			t.Errorf("%x became %x", b, back)
		}
	})
}
