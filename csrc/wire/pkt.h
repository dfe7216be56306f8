/* What one pass over a received packet's headers finds. Parsing checks every
 * length before it reads, and every checksum; what it could not accept has a
 * drop reason. */
#ifndef NP_WIRE_PKT_H
#define NP_WIRE_PKT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "np/buf.h"
#include "np/counter.h"

#define NP_PROTO_ICMP 1u
#define NP_PROTO_TCP 6u
#define NP_PROTO_UDP 17u
#define NP_PROTO_ICMPV6 58u
/* Our own, for what has no IP header */
#define NP_PROTO_ARP 0x100u
/* A fragment that is not a whole packet: l4_off is behind the IPv4 header or the IPv6 fragment header,
 * l4_len what the fragment carries, checksums of the upper layer unseen. */
#define NP_PROTO_FRAGMENT 0x101u

/* Result of np_wire_parse, one per packet of a burst (one cache line and a bit). */
struct np_pkt {
  struct np_buf *buf;   /* first piece, with all headers; what follows by np_buf.next is payload */
  struct np_flow flow;  /* local = destination, remote = source; ports 0 when none */
  uint16_t vlan;        /* 0 untagged, else VID 1..4094 */
  uint16_t l4_proto;    /* NP_PROTO_* */
  uint16_t l3_off;      /* from buf's data at the Ethernet header */
  uint16_t l4_off;
  uint16_t payload_off; /* first byte behind the TCP or UDP header, same base */
  uint16_t l4_len;      /* bytes from l4_off to the end as the IP header says, over all pieces of buf */
  uint32_t hash;        /* of the flow, set by the flow lookup stage */
  uint8_t tos;          /* DSCP and ECN */
  uint8_t ttl;
  uint8_t tcp_flags;
  uint8_t link_dst;     /* enum np_link_dst */
  struct np_mac src_mac;
  uint16_t merged;      /* segments behind this one that were joined to it (tcp/gro.c); 0 from parsing */
  uint8_t fragmented;   /* it had an IPv6 fragment header, or was reassembled */
  uint16_t seg_bytes;   /* with merged: payload of the largest of them */
  uint32_t slot;        /* with hash: where the lookup stage expects its connection; has to be looked at */
  const uint8_t *last_tcp; /* with merged: TCP header of the last one */
};

enum np_link_dst { NP_LINK_UNICAST, NP_LINK_MULTICAST, NP_LINK_BROADCAST };

#define NP_WIRE_OK NP_DROP_COUNT

/* Parses Ethernet, VLAN, ARP/IPv4/IPv6 and TCP/UDP/ICMP headers of buf (data
 * at the Ethernet header) into out. buf may be a chain (base/chain.h): every header, TCP's options
 * among them, is in the first piece or the packet is refused; lengths and sums are over all of it.
 * Trims Ethernet padding: buf's length becomes what the IP header says. Verifies IPv4 header and, unless
 * NP_BUF_L4_CSUM_OK, TCP, UDP and ICMP checksums. Touches nothing past the headers
 * except for those sums. Fragments are accepted as NP_PROTO_FRAGMENT.
 * Return: NP_WIRE_OK, or the reason to drop it. Cannot fail otherwise. */
enum np_drop np_wire_parse(struct np_buf *buf, struct np_pkt *out);

/* Whether a packet that np_wire_parse refused may have to be answered (np_ip_problem); out is then
 * filled up to the network header. */
NP_INLINE bool np_wire_has_problem(enum np_drop why) {
  return why == NP_DROP_IP_OPTIONS || why == NP_DROP_IP_ROUTING || why == NP_DROP_IP_HEADER;
}

/* Follows IPv6 extension headers in data[0..end) from *next and *off; both end at the upper layer, or at
 * a fragment header that is not atomic. *fragments: fragment headers met so far, one at most.
 * Return: NP_WIRE_OK, or why a packet that has them is dropped (NP_DROP_IP_HEADER also when they are cut short). */
enum np_drop np_wire_walk_ip6(const uint8_t *data, uint32_t end, uint32_t *next, uint32_t *off, uint32_t *fragments);

#endif
