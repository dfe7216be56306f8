// Package discovery keeps an upstream's list of endpoints as others publish it. Each type
// here is a [upstream.Source]: [DNS], [Etcd], [Consul] and [Kubernetes]; [Open] makes one
// of a text.
//
// # What all sources share
//
// A source runs on its caller's goroutine (etcd's client has its own, which end with it)
// and ends with its context. The list given last stays while the other side fails or can't
// be reached, however long that takes; each error is told once, until it changes, with the
// age of that list. Status tells the same at any time. A list that comes again unchanged
// is not applied again. After errors the other side is asked ever more seldom, at
// intervals that differ by chance, up to half a minute.
//
// An answer that there are no endpoints is no failure, but often a mistake. DNS empties
// the list after three such answers in a row, or as many as Empty says; the others do at
// once, unless KeepLast.
//
// All that comes from the network is bounded: bytes, records, endpoints
// ([upstream.MaxEndpoints]; of more, the first by address are used and the rest is told).
// An entry that can't be an endpoint is left out and told; those beside it are used.
//
// # Texts
//
//	dns:///NAME:PORT                      or dns://RESOLVER,…/NAME:PORT, a resolver being ADDRESS or ADDRESS:PORT
//	srv:///_SERVICE._tcp.NAME             likewise; ports, priorities and weights come from the records
//	   family=any|4|6  ttl_min=5s  ttl_max=5m  timeout=2s  empty=3|keep
//	etcd://HOST:PORT,…/FOLDER             keys that begin with /FOLDER/
//	   prefix=TEXT (instead of a folder)  user=NAME  password_file=PATH  empty=apply|keep  check=10s  timeout=5s  TLS
//	consul://HOST:PORT/SERVICE
//	   tag=TAG (all of several)  dc=NAME  token=PATH  warning=no|yes  wait=55s  empty=apply|keep  TLS
//	kubernetes:///NAMESPACE/SERVICE:PORT  in a pod; with kubernetes://HOST:PORT/… elsewhere. PORT is a name or a
//	                                      number, left out when there is one; no NAMESPACE: the service account's
//	   token=PATH  family=any|4|6  watch=5m  empty=apply|keep  TLS, which is on unless tls=no
//	file:/PATH                            lines as [upstream.Parse] reads them
//	   every=1s
//	TLS: tls=yes|no  ca=PATH  cert=PATH  key=PATH  server_name=NAME
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
// answer wrong. Of SRV records priorities keep their order and become 0, 1, 2 …, and
// weights above 1,000 their proportion.
//
// # What was tested against what
//
// DNS against CoreDNS and etcd against etcd's own server (make peers). Neither Consul nor
// a Kubernetes API server can be had as a Go module or a Debian package: those two run in
// the tests against stand-ins that follow the published APIs, never against the real ones.
//
// It must not know: what the endpoints speak, configuration files, metrics.
package discovery
