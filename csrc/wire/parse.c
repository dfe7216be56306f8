/* One pass over a received packet's headers. The order is the usual packet's:
 * untagged, IPv4 without options or plain IPv6, TCP. */
#include "base/chain.h"
#include "base/cksum.h"
#include "wire/hdr.h"
#include "wire/pkt.h"

/* The upper-layer part of a packet. */
struct l4 {
  const struct np_buf *buf;
  const uint8_t *p;
  uint32_t len;   /* bytes as the IP header says */
  uint32_t first; /* of them in the first piece, where the header must be */
  bool sum_ok;
};

static uint16_t l4_sum(const struct l4 *l, uint32_t len, uint64_t sum) {
  if (NP_LIKELY(l->buf->next == NULL)) return np_cksum_fold(np_cksum_add(sum, l->p, len));
  return np_cksum_fold(np_buf_cksum(sum, l->buf, (uint32_t)(l->p - np_buf_cdata(l->buf)), len));
}

static enum np_drop parse_tcp(const struct l4 *l, struct np_pkt *out) {
  if (NP_UNLIKELY(l->first < NP_TCP_BYTES)) return NP_DROP_TCP_SHORT;
  uint32_t header = (uint32_t)(l->p[NP_TCP_DOFF] >> 4) * 4;
  if (NP_UNLIKELY(header < NP_TCP_BYTES || header > l->first)) return NP_DROP_TCP_OFFSET;
  if (!l->sum_ok) {
    uint64_t pseudo = np_cksum_pseudo(&out->flow.local, &out->flow.remote, NP_PROTO_TCP, l->len);
    if (NP_UNLIKELY(l4_sum(l, l->len, pseudo) != 0xffff)) return NP_DROP_TCP_CHECKSUM;
  }
  out->flow.remote_port = np_load_be16(l->p);
  out->flow.local_port = np_load_be16(l->p + 2);
  out->tcp_flags = l->p[NP_TCP_FLAGS];
  out->payload_off = (uint16_t)(out->l4_off + header);
  return NP_WIRE_OK;
}

static enum np_drop parse_udp(const struct l4 *l, bool v6, struct np_pkt *out) {
  if (l->first < NP_UDP_BYTES) return NP_DROP_UDP_SHORT;
  uint32_t udp_len = np_load_be16(l->p + NP_UDP_LEN);
  if (udp_len < NP_UDP_BYTES || udp_len > l->len) return NP_DROP_UDP_SHORT;
  /* A zero checksum means none, which IPv6 forbids (RFC 8200 §8.1). */
  bool none = np_load_16(l->p + NP_UDP_CKSUM) == 0;
  if (none && v6) return NP_DROP_UDP_CHECKSUM;
  if (!none && !l->sum_ok) {
    /* The pseudo header has the UDP length, not the IP payload's (RFC 768). */
    uint64_t pseudo = np_cksum_pseudo(&out->flow.local, &out->flow.remote, NP_PROTO_UDP, 0);
    uint64_t sum = np_cksum_add64(pseudo, __builtin_bswap32(udp_len));
    if (l4_sum(l, udp_len, sum) != 0xffff) return NP_DROP_UDP_CHECKSUM;
  }
  out->flow.remote_port = np_load_be16(l->p);
  out->flow.local_port = np_load_be16(l->p + 2);
  out->l4_len = (uint16_t)udp_len;
  out->payload_off = (uint16_t)(out->l4_off + NP_UDP_BYTES);
  return NP_WIRE_OK;
}

static void set_l4(struct np_buf *buf, uint32_t proto, uint32_t len, struct np_pkt *out) {
  out->l4_proto = (uint16_t)proto;
  out->l4_len = (uint16_t)len;
  out->payload_off = out->l4_off;
  buf->l4_off = (uint16_t)(buf->data_off + out->l4_off);
  buf->l4_proto = (uint16_t)proto;
}

static enum np_drop parse_l4(struct np_buf *buf, uint32_t proto, uint32_t len, bool v6, struct np_pkt *out) {
  const struct l4 l = {
      .buf = buf,
      .p = np_buf_cdata(buf) + out->l4_off,
      .len = len,
      .first = buf->len - out->l4_off,
      .sum_ok = (buf->flags & NP_BUF_L4_CSUM_OK) != 0,
  };
  set_l4(buf, proto, len, out);
  if (NP_LIKELY(proto == NP_PROTO_TCP)) return parse_tcp(&l, out);
  if (proto == NP_PROTO_UDP) return parse_udp(&l, v6, out);
  if (proto == (v6 ? NP_PROTO_ICMPV6 : NP_PROTO_ICMP)) {
    if (l.first < NP_ICMP_BYTES) return NP_DROP_ICMP_SHORT;
    uint64_t sum = v6 ? np_cksum_pseudo(&out->flow.local, &out->flow.remote, NP_PROTO_ICMPV6, len) : 0;
    if (!l.sum_ok && l4_sum(&l, len, sum) != 0xffff) return NP_DROP_ICMP_CHECKSUM;
    out->payload_off = (uint16_t)(out->l4_off + NP_ICMP_BYTES);
  }
  return NP_WIRE_OK;
}

/* Drops what follows the packet in its frame (Ethernet's padding). */
NP_INLINE void trim(struct np_buf *buf, uint32_t len) {
  if (NP_LIKELY(buf->next == NULL)) {
    buf->len = len;
  } else {
    np_buf_trim(buf, len);
  }
}

/* Sources no host may have: 0/8, 127/8, 224/4 and above (RFC 1122 §3.2.1.3). */
static bool ip4_source_bad(const uint8_t *src) { return (uint8_t)(src[0] - 1) >= 223 || src[0] == 127; }

/* Options are skipped, known or not (RFC 1122 §3.2.1.8), as long as their lengths are right; source
 * routes are refused (RFC 7126 §4.3, §4.4): whoever sends them wants to seem elsewhere than he is. */
static enum np_drop check_ip4_options(const uint8_t *p, uint32_t len) {
  for (uint32_t i = 0; i < len && p[i] != NP_IP4_OPT_END;) { /* bound: each round moves on by one byte at least */
    if (p[i] == NP_IP4_OPT_NOP) {
      i++;
      continue;
    }
    if (len - i < 2 || p[i + 1] < 2 || p[i + 1] > len - i) return NP_DROP_IP_OPTIONS;
    if (p[i] == NP_IP4_OPT_LSRR || p[i] == NP_IP4_OPT_SSRR) return NP_DROP_IP_SOURCE_ROUTE;
    i += p[i + 1];
  }
  return NP_WIRE_OK;
}

/* What follows the look at the first byte. header: bytes, options included; it is a constant where there are none. */
NP_INLINE enum np_drop parse_ip4_rest(struct np_buf *buf, uint32_t off, uint32_t header, struct np_pkt *out) {
  const uint8_t *ip = np_buf_cdata(buf) + off;
  uint32_t total = np_load_be16(ip + NP_IP4_LEN);
  if (NP_UNLIKELY(total < header || total > np_buf_total(buf) - off)) return NP_DROP_IP_SHORT;
  uint64_t sum = np_cksum_ip4(ip);
  if (header != NP_IP4_BYTES) sum = np_cksum_add(sum, ip + NP_IP4_BYTES, header - NP_IP4_BYTES);
  if (NP_UNLIKELY(np_cksum_fold(sum) != 0xffff)) return NP_DROP_IP_CHECKSUM;
  if (NP_UNLIKELY(ip4_source_bad(ip + NP_IP4_SRC))) return NP_DROP_IP_SRC;
  if (header != NP_IP4_BYTES) {
    enum np_drop why = check_ip4_options(ip + NP_IP4_BYTES, header - NP_IP4_BYTES);
    if (why != NP_WIRE_OK) return why;
  }
  out->flow.remote = np_addr_from_v4_be(ip + NP_IP4_SRC);
  out->flow.local = np_addr_from_v4_be(ip + NP_IP4_DST);
  if (NP_UNLIKELY(np_addr_eq(&out->flow.remote, &out->flow.local))) return NP_DROP_IP_SRC;
  out->tos = ip[NP_IP4_TOS];
  out->ttl = ip[NP_IP4_TTL];
  trim(buf, off + total);
  out->l4_off = (uint16_t)(off + header);
  if (NP_UNLIKELY((np_load_be16(ip + NP_IP4_FRAG) & (NP_IP4_MF | NP_IP4_OFFSET_MASK)) != 0)) {
    set_l4(buf, NP_PROTO_FRAGMENT, total - header, out);
    return NP_WIRE_OK;
  }
  return parse_l4(buf, ip[NP_IP4_PROTO], total - header, false, out);
}

/* Anything but version 4 with 20 bytes of header. */
static NP_COLD enum np_drop parse_ip4_unusual(struct np_buf *buf, uint32_t off, struct np_pkt *out) {
  const uint8_t *ip = np_buf_cdata(buf) + off;
  if (ip[0] >> 4 != 4) return NP_DROP_IP_VERSION;
  uint32_t header = (uint32_t)(ip[0] & 0x0f) * 4;
  if (header < NP_IP4_BYTES) return NP_DROP_IP_HEADER;
  if (header > buf->len - off) return NP_DROP_IP_SHORT;
  return parse_ip4_rest(buf, off, header, out);
}

static enum np_drop parse_ip4(struct np_buf *buf, uint32_t off, struct np_pkt *out) {
  if (NP_UNLIKELY(buf->len - off < NP_IP4_BYTES)) return NP_DROP_IP_SHORT;
  if (NP_UNLIKELY(np_buf_cdata(buf)[off] != 0x45)) return parse_ip4_unusual(buf, off, out);
  return parse_ip4_rest(buf, off, NP_IP4_BYTES, out);
}

/* The options of a hop-by-hop or destination options header: an unknown one may
 * ask for the packet to be dropped (RFC 8200 §4.2). */
static enum np_drop check_ip6_options(const uint8_t *p, uint32_t len) {
  uint32_t options = 0;
  for (uint32_t i = 2; i < len;) { /* bound: each round moves on by one byte at least */
    uint8_t type = p[i];
    if (type == 0) { /* Pad1 */
      i++;
      continue;
    }
    if (len - i < 2 || len - i - 2 < p[i + 1]) return NP_DROP_IP_HEADER;
    if ((type & 0xc0) != 0) return NP_DROP_IP_OPTIONS;
    if (type != 1 && ++options > NP_IP6_OPTIONS_MAX) return NP_DROP_IP_EXT_LIMIT; /* PadN is none */
    i += 2 + (uint32_t)p[i + 1];
  }
  return NP_WIRE_OK;
}

/* A fragment header with neither offset nor more to come is a whole packet (RFC 6946). */
static bool is_atomic(const uint8_t *h) { return (np_load_be16(h + 2) & ~0x0006u) == 0; }

enum np_drop np_wire_walk_ip6(const uint8_t *data, uint32_t end, uint32_t *next, uint32_t *off, uint32_t *fragments) {
  uint32_t bytes = 0;
  for (uint32_t i = 0; i <= NP_IP6_EXT_MAX; i++) {
    bool hop = *next == NP_IP6_HOP;
    bool fragment = *next == NP_IP6_FRAGMENT;
    if (!hop && !fragment && *next != NP_IP6_ROUTING && *next != NP_IP6_DEST) return NP_WIRE_OK;
    if (hop && i != 0) return NP_DROP_IP_HEADER; /* only first: RFC 8200 §4.1 */
    if (end - *off < 8) return NP_DROP_IP_HEADER;
    const uint8_t *h = data + *off;
    if (fragment) {
      if ((*fragments)++ != 0) return NP_DROP_IP_HEADER;
      if (!is_atomic(h)) return NP_WIRE_OK;
    }
    uint32_t len = fragment ? 8 : ((uint32_t)h[1] + 1) * 8;
    if (len > end - *off) return NP_DROP_IP_HEADER;
    bytes += len;
    if (bytes > NP_IP6_EXT_BYTES_MAX) return NP_DROP_IP_EXT_LIMIT;
    if (*next == NP_IP6_ROUTING) {
      if (h[3] != 0) return NP_DROP_IP_ROUTING; /* segments left, and we are no router; type 0: RFC 5095 */
    } else if (!fragment) {
      enum np_drop why = check_ip6_options(h, len);
      if (why != NP_WIRE_OK) return why;
    }
    *next = h[0];
    *off += len;
  }
  return NP_DROP_IP_EXT_LIMIT;
}

/* Sources no host may have; and addresses that inside this program mean IPv4. */
static enum np_drop check_ip6_addrs(const struct np_addr *src, const struct np_addr *dst, uint32_t next) {
  if (NP_UNLIKELY(src->b[0] == 0xff)) return NP_DROP_IP_SRC;
  if (NP_UNLIKELY(np_load_64(src->b) == 0)) {
    if (np_addr_is_v4(src)) return NP_DROP_IP_SRC;
    if (np_load_be64(src->b + 8) == 1) return NP_DROP_IP_SRC; /* ::1 */
    /* The unspecified address asks about duplicates (RFC 4862 §5.4.2), nothing else. */
    if (np_load_64(src->b + 8) == 0 && next != NP_PROTO_ICMPV6) return NP_DROP_IP_SRC;
  }
  if (NP_UNLIKELY(np_addr_is_v4(dst))) return NP_DROP_IP_DST;
  if (NP_UNLIKELY(np_addr_eq(src, dst))) return NP_DROP_IP_SRC;
  return NP_WIRE_OK;
}

static enum np_drop parse_ip6(struct np_buf *buf, uint32_t off, struct np_pkt *out) {
  const uint8_t *data = np_buf_cdata(buf);
  const uint8_t *ip = data + off;
  uint32_t avail = buf->len - off;
  if (NP_UNLIKELY(avail < NP_IP6_BYTES)) return NP_DROP_IP_SHORT;
  if (NP_UNLIKELY(ip[0] >> 4 != 6)) return NP_DROP_IP_VERSION;
  uint32_t payload = np_load_be16(ip + NP_IP6_LEN);
  if (NP_UNLIKELY(payload > np_buf_total(buf) - off - NP_IP6_BYTES)) return NP_DROP_IP_SHORT;
  uint32_t next = ip[NP_IP6_NEXT];
  uint32_t l4 = off + NP_IP6_BYTES;
  uint32_t end = l4 + payload;
  uint32_t fragments = 0;
  if (NP_UNLIKELY(next != NP_PROTO_TCP)) {
    enum np_drop why = np_wire_walk_ip6(data, np_min_u32(end, buf->len), &next, &l4, &fragments);
    if (why != NP_WIRE_OK) return why;
  }
  out->flow.remote = np_addr_from_v6(ip + NP_IP6_SRC);
  out->flow.local = np_addr_from_v6(ip + NP_IP6_DST);
  enum np_drop why = check_ip6_addrs(&out->flow.remote, &out->flow.local, next);
  if (NP_UNLIKELY(why != NP_WIRE_OK)) return why;
  out->tos = (uint8_t)(ip[0] << 4 | ip[1] >> 4);
  out->ttl = ip[NP_IP6_HOPS];
  trim(buf, end);
  out->fragmented = fragments != 0;
  if (NP_UNLIKELY(next == NP_IP6_FRAGMENT)) {
    out->l4_off = (uint16_t)(l4 + NP_IP6_FRAGMENT_BYTES);
    set_l4(buf, NP_PROTO_FRAGMENT, end - l4 - NP_IP6_FRAGMENT_BYTES, out);
    return NP_WIRE_OK;
  }
  out->l4_off = (uint16_t)l4;
  return parse_l4(buf, next, end - l4, true, out);
}

static enum np_drop parse_arp(struct np_buf *buf, uint32_t off, struct np_pkt *out) {
  const uint8_t *arp = np_buf_cdata(buf) + off;
  if (buf->len - off < NP_ARP_BYTES) return NP_DROP_ARP_MALFORMED;
  /* Ethernet, IPv4, six and four bytes of address. */
  if (np_load_be64(arp) >> 16 != UINT64_C(0x000108000604)) return NP_DROP_ARP_MALFORMED;
  uint16_t op = np_load_be16(arp + offsetof(struct np_arp_pkt, op_be));
  if (op != NP_ARP_REQUEST && op != NP_ARP_REPLY) return NP_DROP_ARP_MALFORMED;
  if ((arp[offsetof(struct np_arp_pkt, sender_mac)] & 1) != 0) return NP_DROP_ARP_MALFORMED;
  out->flow.local = np_addr_from_v4_be(arp + offsetof(struct np_arp_pkt, target_ip));
  out->flow.remote = np_addr_from_v4_be(arp + offsetof(struct np_arp_pkt, sender_ip));
  out->l4_proto = NP_PROTO_ARP;
  buf->l4_proto = NP_PROTO_ARP;
  out->l4_off = (uint16_t)off;
  out->payload_off = (uint16_t)off;
  out->l4_len = NP_ARP_BYTES;
  buf->l4_off = buf->l3_off;
  buf->len = off + NP_ARP_BYTES;
  return NP_WIRE_OK;
}

static uint8_t link_dst(const uint8_t *dst) {
  if (NP_LIKELY((dst[0] & 1) == 0)) return NP_LINK_UNICAST;
  bool all = np_load_32(dst) == UINT32_MAX && np_load_16(dst + 4) == UINT16_MAX;
  return all ? NP_LINK_BROADCAST : NP_LINK_MULTICAST;
}

enum np_drop np_wire_parse(struct np_buf *buf, struct np_pkt *out) {
  const uint8_t *eth = np_buf_cdata(buf);
  out->buf = buf;
  out->flow.local_port = 0;
  out->flow.remote_port = 0;
  out->vlan = 0;
  out->l4_proto = 0;
  out->hash = 0;
  out->tos = 0;
  out->ttl = 0;
  out->tcp_flags = 0;
  out->merged = 0;
  out->fragmented = 0;
  if (NP_UNLIKELY(buf->len < NP_ETH_BYTES)) return NP_DROP_LINK_SHORT;
  out->link_dst = link_dst(eth);
  memcpy(out->src_mac.b, eth + NP_ETH_SRC, 6);
  if (NP_UNLIKELY((eth[NP_ETH_SRC] & 1) != 0)) return NP_DROP_LINK_SRC;
  uint32_t off = NP_ETH_BYTES;
  uint16_t type = np_load_be16(eth + NP_ETH_TYPE);
  if (NP_UNLIKELY(type == NP_ETHERTYPE_VLAN)) {
    if (buf->len < NP_ETH_BYTES + NP_VLAN_BYTES) return NP_DROP_LINK_SHORT;
    /* VID 0 carries a priority only (IEEE 802.1Q §9.6); 4,095 is reserved. */
    out->vlan = np_load_be16(eth + NP_ETH_BYTES) & 0x0fff;
    if (out->vlan == 0x0fff) return NP_DROP_LINK_VLAN;
    type = np_load_be16(eth + NP_ETH_BYTES + 2);
    off += NP_VLAN_BYTES;
  }
  out->l3_off = (uint16_t)off;
  buf->l3_off = (uint16_t)(buf->data_off + off);
  if (NP_LIKELY(type == NP_ETHERTYPE_IP4)) return parse_ip4(buf, off, out);
  if (NP_LIKELY(type == NP_ETHERTYPE_IP6)) return parse_ip6(buf, off, out);
  if (type == NP_ETHERTYPE_ARP) return parse_arp(buf, off, out);
  return NP_DROP_LINK_TYPE;
}
