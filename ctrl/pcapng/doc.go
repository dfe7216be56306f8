// Package pcapng writes captures that Wireshark and tcpdump read: nanosecond
// times, one entry per interface of the appliance, direction flags, and the
// reason of a drop as the packet's comment. It wraps gopacket's writer, so the
// format itself is not ours to keep.
//
// A Writer belongs to one goroutine.
package pcapng
