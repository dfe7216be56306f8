// Package rdma sets RDMA connections up: it listens, resolves, connects and accepts
// through the connection manager of a plane ([dataplane.RDMA]), hands what is made to the
// poll cores, and ends what they are done with. Data never passes here.
//
// # Goroutines
//
// A [Manager] has two of its own: one reads the connection manager's events, one ends
// connections whose sessions are over. Stop ends both and waits.
//
// # Limits
//
// Connections that come in and are not established are bounded by Pending and live for
// Timeout at most; more are refused and counted. What a peer says of itself in its private
// data (version, ring, key: csrc/io/rdma/README.md) is checked before anything is made for it.
//
// # Falling back
//
// [Plane] is a plane whose Connect and Listen go by RDMA where the caller asks for
// CarrierRDMA, and, with Prefer, outgoing ones of the stack first by RDMA, then by TCP.
// Each fallback is logged once per peer and reason: never silent. A peer that refused RDMA
// is asked again after Retry.
//
// # Devices
//
// [Devices] reads what the kernel says of RDMA devices from sysfs: no library and no
// privilege is needed, so that doctor can tell which part is missing.
//
// It must not know: verbs, sessions.
package rdma
