package gateway

import (
	"strings"
	"testing"

	"github.com/np-appliance/np/ctrl/client/clienttest"
	"github.com/np-appliance/np/ctrl/gateway/message/wstest"
	"github.com/np-appliance/np/ctrl/npro"
)

// nproEcho is a service that speaks NPRO and sends everything back.
func nproEcho(t *testing.T) (address, key string) {
	t.Helper()
	s, pub, err := clienttest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	s.Accept = func(*clienttest.Request) npro.Code { return npro.CodeOK }
	if address, err = s.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return address, pub.String()
}

// TestWebSocketStrict runs the cases through the gateway as it stands: WebSockets that end
// there, and those that are passed on to another gateway's, over HTTP/1.1 and HTTP/2.
func TestWebSocketStrict(t *testing.T) {
	address, key := nproEcho(t)
	inner := newRig(t, upstreamOf("talk", address)+`protocol = "npro"
npro.pattern = "NX"
npro.keys = ["`+key+`"]
[[route]]
name = "talk"
path = "/talk"
upstream = "talk"
npro_opcode = "TALK"
websocket.mode = "terminate"
websocket.max_message = "100000"
`)
	host := strings.TrimPrefix(inner.url, "http://")
	outer := newRig(t, upstreamOf("chat", host)+"[[route]]\nname = \"chat\"\npath_prefix = \"/\"\nupstream = \"chat\"\n")
	proxy := strings.TrimPrefix(outer.url, "http://")
	for name, open := range map[string]func(*testing.T) *wstest.Conn{
		"ended": wstest.Open1(host, "/talk"), "ended, HTTP/2": wstest.Open2(host, "/talk"),
		"passed on": wstest.Open1(proxy, "/talk"),
	} {
		t.Run(name, func(t *testing.T) { wstest.Run(t, open) })
	}
	t.Run("passed on, HTTP/2", func(t *testing.T) { // each takes a while to end
		wstest.Run(t, wstest.Open2(proxy, "/talk"), "text", "fragments", "ping between fragments", "no UTF-8 in pieces", "RSV1", "without mask", "close 1000", "close 999",
			"65536 bytes", "too large in pieces", "many pings", "something after close")
	})
}
