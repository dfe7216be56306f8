// Package e2e tests npd as its users run it: the real program on AF_XDP in one
// network namespace, the Linux kernel's TCP in another, a veth pair between
// them. `make e2e` runs it as root; every test makes its own namespaces
// (scripts/netns.sh) and removes them. Addresses come from 198.18.0.0/15 and
// 2001:db8::/32 only.
//
// The interop tests put np-relay (scripts/relay) between the two and vary what
// the kernel offers and what the wire does: `make e2e` runs a pairwise covering
// and every combination over a perfect wire, `make interop` every cell. The
// suites are other people's tools against npd; `make suites` runs them alone.
package e2e
