// Package discovery keeps an upstream's list of endpoints as others publish it. Each type
// here is a [upstream.Source]: [DNS] asks for a name's addresses and times to live.
//
// # What all sources share
//
// A source runs on its caller's goroutine and ends with its context. The list given last
// stays while the other side fails or can't be reached, however long that takes; each
// error is told once, until it changes, with the age of that list. Status tells the same
// at any time. A list that comes again unchanged is not applied again.
//
// An answer that there are no endpoints is no failure. As it is more often a mistake than
// meant, Empty says how many such answers in a row empty the list, or that none does.
//
// All that comes from the network is bounded: bytes, records, endpoints
// ([upstream.MaxEndpoints]; of more, the first by address are used and the rest is told).
//
// # DNS
//
// The name is taken as it is; there is no search list. /etc/hosts goes before DNS, and
// localhost is loopback (RFC 6761). Resolvers are those given or those of
// /etc/resolv.conf, asked from the one that answered last, by UDP with EDNS and by TCP when
// an answer was cut. SERVFAIL, REFUSED, answers of who does not recurse and silence are
// failures: the next resolver is asked, and when all fail, again later and ever more
// slowly. NXDOMAIN and NODATA are answers. When one type of address can't be asked for,
// those known stay beside the new ones of the other. CNAMEs are followed, eight at most.
// An address that stands for this host or for many (0.0.0.0, multicast) makes its whole
// answer wrong.
//
// It must not know: what the endpoints speak, configuration files, metrics.
package discovery
