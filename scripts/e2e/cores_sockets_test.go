//go:build e2e

package e2e

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/np-appliance/np/ctrl/mgmt/api"
)

// Listeners on kernel sockets, TCP and Unix, with four cores: every connection is served,
// and TCP's are on each core, by the kernel's hash.
func TestFourCoresOnKernelSockets(t *testing.T) {
	var w *world
	w = newWorld(t, options{noNpd: true})
	text := strings.Replace(w.must(w.in("s", w.bin+"/npd", "config", "example")), "\ncores = 1 ", "\ncores = 4 ", 1)
	w.write("np.toml", text+"\n[[listener]]\nname = \"k\"\naddress = \"127.0.0.1:7777\"\nprotocol = \"echo\"\n\n[[listener]]\nname = \"u\"\naddress = \"unix:"+w.path("e.sock")+"\"\nprotocol = \"echo\"\n")
	w.start()
	w.ready()
	free := w.status().BuffersFree
	for _, where := range []struct{ network, addr string }{{"tcp", "127.0.0.1:7777"}, {"unix", w.path("e.sock")}} {
		const conns = 120
		var list []net.Conn
		for range conns {
			var c net.Conn
			if err := w.inSide("s", func() (err error) {
				c, err = new(net.Dialer).DialContext(context.Background(), where.network, where.addr)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			list = append(list, c)
		}
		var wg sync.WaitGroup
		for i, c := range list {
			wg.Go(func() {
				if err := talk(c, i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		perCore := map[int]int{}
		for _, c := range query[api.Conns](w, "conn", "list").Connections {
			perCore[c.Core]++
		}
		t.Logf("%s: connections of the cores: %v", where.network, perCore)
		if where.network == "tcp" && len(perCore) != 4 {
			t.Errorf("want some on each of four")
		}
		for _, c := range list {
			_ = c.Close()
		}
		w.restful(free)
	}
}
