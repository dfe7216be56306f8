// Package transporttest is the conformance suite of [dataplane.Transport]: what every
// transport must do, whatever carries its bytes.
//
// # How a backend joins
//
// A test makes a [Backend], one line of a table, and calls [Run]:
//
//	transporttest.Run(t, transporttest.Backend{
//		Name: "net", Client: tr, Server: tr, Network: "tcp", Listen: "127.0.0.1:0",
//		Packet: "udp", PacketListen: "127.0.0.1:0", Refused: "127.0.0.1:1", BufferMax: 32 << 20,
//	}, transporttest.Options{})
//
// Client and Server may be the same transport, two of them, or one of them Go's own net
// in another network namespace (dataplane/nettransport). What a backend lacks is left
// empty and skipped by name. In memory the table is in dataplane/netconn, over Go's net in
// dataplane/nettransport, over kernel sockets of the poll cores in dataplane/npc
// (transport_test.go); those that need root and namespaces are in scripts/e2e
// (transport_test.go).
//
// # What it asks
//
// golang.org/x/net/nettest's TestConn; order and content both ways; deadlines past,
// reached and cleared; half-close; abort; bounded buffering behind a reader that
// stopped; zero-copy reads held while others go on; many connections; bulk by hash;
// refused and timed-out dials; peers that reset or vanish; close under load; listeners;
// datagrams. Each also under TLS. After every test the backend's Held must be what it
// was, and no goroutine may be left.
//
// Bulk and the number of connections are small here and come from the environment where
// time allows: NP_TRANSPORT_BYTES, NP_TRANSPORT_CONNS.
package transporttest
