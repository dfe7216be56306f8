// Package xdp loads the XDP program of csrc/bpf, attaches it to an interface
// and steers it: which addresses are the appliance's own, and which AF_XDP
// socket takes the frames of which queue, and what is dropped by source before
// that ([Filter]). It also says what set-up must know
// of an interface ([Inspect]) and reports when one vanishes or returns
// ([Watch]).
//
// All of it is set-up; no packet passes through Go. The program hangs on a BPF
// link, so it goes with the process, even a killed one, and the kernel has the
// interface to itself again.
//
// A note on kernel peers: the other end of a veth pair sends TCP and UDP with
// partial checksums, because the pair never puts them on a wire, and our stack
// drops what does not verify. `ethtool -K PEER tx off` on that end cures it.
// Real network cards need nothing.
//
// A note on VLANs: a card that strips tags in hardware hides them from XDP;
// `ethtool -K IF rxvlan off` before using a VLAN of its.
//
// It must not know: the Plane, configuration.
package xdp
