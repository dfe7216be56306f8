package daemon

import (
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/np-appliance/np/ctrl/config"
)

// TestHandover: connections go to the tap that is there, none is lost between two, and
// only the last one closes the listener.
func TestHandover(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := newHandover(l)
	var wg sync.WaitGroup
	wg.Go(h.run)
	got := make(chan int, 1000)
	serve := func(n int, tap *tap) {
		wg.Go(func() {
			for {
				c, err := tap.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					if err := tap.Close(); err != nil && n != 9 {
						t.Error(err)
					}
					return
				}
				c.Close()
				got <- n
			}
		})
	}
	serve(0, h.tap)
	const each = 20
	for n := 1; n < 10; n++ {
		for range each {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		serve(n, h.next())
	}
	seen, last := 0, 0
	for seen < 9*each {
		n := <-got
		seen++
		last = max(last, n)
	}
	if last == 0 {
		t.Error("all connections went to the first")
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := h.next().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	wg.Wait()
}

func TestSwappable(t *testing.T) {
	base := config.Listener{Name: "a", Address: ":80", Protocol: "http"}
	with := func(change func(*config.Listener)) *config.Listener {
		l := base
		change(&l)
		return &l
	}
	for name, one := range map[string]struct {
		next *config.Listener
		want bool
	}{
		"limits":      {with(func(l *config.Listener) { l.HTTP.MaxFields = 9 }), true},
		"address":     {with(func(l *config.Listener) { l.Address = ":81" }), false},
		"TLS":         {with(func(l *config.Listener) { l.TLS = true }), false},
		"HTTP/3":      {with(func(l *config.Listener) { l.HTTP.Versions = []string{"1.1", "3"} }), true},
		"connections": {with(func(l *config.Listener) { l.MaxConnections = 7 }), true},
	} {
		if got := swappable(&base, one.next, true); got != one.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if swappable(&base, with(func(l *config.Listener) { l.MaxConnections = 7 }), false) {
		t.Error("connections that a plane counts")
	}
	if swappable(with(func(l *config.Listener) { l.HTTP.Versions = []string{"3"} }), &base, true) {
		t.Error("without HTTP/3 any more")
	}
	echo := config.Listener{Name: "e", Address: ":7", Protocol: "echo"}
	moved := *with(func(l *config.Listener) { l.Name, l.Address = "m", ":90" })
	there := moved
	there.Address = ":91"
	byNet := func(string) bool { return true }
	del, add, swaps, moves := pairs([]config.Listener{base, echo, moved}, []config.Listener{*with(func(l *config.Listener) { l.HTTP.MaxFields = 9 }), echo, there}, byNet)
	if len(del) != 1 || len(add) != 1 || len(swaps) != 1 || len(moves) != 1 || del[0].Name != "e" || swaps[0][1].HTTP.MaxFields != 9 || moves[0][1].Address != ":91" {
		t.Errorf("%v\n%v\n%v\n%v", del, add, swaps, moves)
	}
	there.Address = "127.0.0.1:80" // which is base's until it is closed
	if del, add, _, moves = pairs([]config.Listener{base, moved}, []config.Listener{there}, byNet); len(del) != 2 || len(add) != 1 || len(moves) != 0 {
		t.Errorf("%v\n%v\n%v", del, add, moves)
	}
	there.Address = ":91" // and somebody new wants to be where it was
	other := *with(func(l *config.Listener) { l.Name, l.Address = "o", "127.0.0.1:90" })
	if del, add, _, moves = pairs([]config.Listener{moved}, []config.Listener{other, there}, byNet); len(del) != 1 || len(add) != 2 || len(moves) != 0 {
		t.Errorf("%v\n%v\n%v", del, add, moves)
	}
}
