/* ICMP and ICMPv6: echo, errors out, errors in. Answers go back to the MAC the
 * packet came from, not through the neighbor table: nobody can fill the table
 * with made-up sources by sending us pings. */
#include "ip/internal.h"

#define NS_PER_S UINT64_C(1000000000)
#define ICMP4_PACKET_MAX 576u  /* RFC 1812 §4.3.2.3 */
#define ICMP6_PACKET_MAX 1280u /* RFC 4443 §2.4 (c) */
#define NP_ECHO_CHARGE_BYTES 1500u /* a large echo is worth as many small ones */
#define QUOTE_L4_BYTES 8u      /* of the quoted packet's transport header, always there */

void np_rate_init(struct np_rate *rate, uint32_t per_s) {
  np_assert(per_s > 0);
  rate->gap_ns = NS_PER_S / per_s;
  rate->burst_ns = NS_PER_S / 10; /* a tenth of a second's worth at once, one at least */
  rate->full_ns = 0;
}

bool np_rate_take(struct np_rate *rate, uint64_t now_ns) {
  uint64_t from = np_max_u64(rate->full_ns, now_ns);
  if (from - now_ns > rate->burst_ns) return false;
  rate->full_ns = from + rate->gap_ns;
  return true;
}

void np_rate_charge(struct np_rate *rate, uint32_t n) { rate->full_ns += n * rate->gap_ns; }

/* The checksum of a whole message, buf's data. */
static void fill_sum(struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst, bool v4) {
  uint8_t *p = np_buf_data(buf);
  uint32_t len = np_buf_total(buf);
  np_store_16(p + NP_ICMP_CKSUM, 0);
  uint64_t sum = v4 ? 0 : np_cksum_pseudo(src, dst, NP_PROTO_ICMPV6, len);
  np_store_16(p + NP_ICMP_CKSUM, np_cksum_finish(np_buf_cksum(sum, buf, 0, len)));
}

static enum np_drop echo(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, bool v4, uint64_t now_ns) {
  struct np_addr dst = pkt->flow.remote;
  struct np_addr src = pkt->flow.local;
  if (!np_addr_is_host(&dst) || np_ip_source_bad(ip, &dst)) return NP_DROP_IP_SRC;
  /* A ping to a group is answered from our own address (RFC 4443 §4.2). */
  bool group = np_addr_is_multicast(&src);
  if (group && !np_iface_source(ifc, &dst, &src)) return NP_DROP_IP_DST;
  if (!np_rate_take(&ip->echo_rate, now_ns)) return NP_DROP_ICMP_LIMITED;
  np_rate_charge(&ip->echo_rate, pkt->l4_len / NP_ECHO_CHARGE_BYTES);
  struct np_buf *buf = pkt->buf;
  struct np_mac to = pkt->src_mac;
  uint8_t tos = pkt->tos;
  uint8_t *p = np_buf_pull(buf, pkt->l4_off);
  np_buf_trim(buf, pkt->l4_len);
  uint16_t before = np_load_16(p);
  p[0] = v4 ? NP_ICMP_ECHO_REPLY : NP_ICMP6_ECHO_REPLY;
  if (group || (buf->flags & NP_BUF_L4_CSUM_OK) != 0) {
    fill_sum(buf, &src, &dst, v4);
  } else { /* only the type changed; the pseudo header is the same both ways */
    np_store_16(p + NP_ICMP_CKSUM, np_cksum_update16(np_load_16(p + NP_ICMP_CKSUM), before, np_load_16(p)));
  }
  ++*np_ip_counter(ip, NP_C_ICMP_ECHO);
  np_ip_send_to(ip, ifc, buf, &to, &src, &dst, v4 ? NP_PROTO_ICMP : NP_PROTO_ICMPV6, tos, NP_IP_TTL);
  return NP_WIRE_OK;
}

/* What an error says to TCP. */
struct meaning {
  enum np_err err;
  bool soft;
  bool used;
  bool too_big;
};

/* RFC 1122 §4.2.3.9; source quench (RFC 6633) and redirects are ignored. */
static struct meaning meaning_v4(uint8_t type, uint8_t code) {
  struct meaning m = {.err = NP_ERR_UNREACHABLE, .soft = true, .used = true};
  if (type == NP_ICMP_UNREACH && (code == NP_ICMP_UNREACH_PROTO || code == NP_ICMP_UNREACH_PORT)) {
    m.err = NP_ERR_REFUSED;
    m.soft = false;
  } else if (type == NP_ICMP_UNREACH) {
    m.too_big = code == NP_ICMP_UNREACH_FRAG;
  } else {
    m.used = type == NP_ICMP_TIME_EXCEEDED || type == NP_ICMP_PARAM;
  }
  return m;
}

static struct meaning meaning_v6(uint8_t type, uint8_t code) {
  struct meaning m = {.err = NP_ERR_UNREACHABLE, .soft = true, .used = true};
  bool port = type == NP_ICMP6_UNREACH && code == NP_ICMP6_UNREACH_PORT;
  if (port || (type == NP_ICMP6_PARAM && code == NP_ICMP6_PARAM_NEXT)) {
    m.err = NP_ERR_REFUSED;
    m.soft = false;
  }
  m.too_big = type == NP_ICMP6_TOO_BIG;
  m.used = type >= NP_ICMP6_UNREACH && type <= NP_ICMP6_PARAM;
  return m;
}

/* Reads the start of a packet of ours, TCP or UDP as proto says: flow (local = its source) and TCP sequence
 * number. Return: false when it is another's packet, or too short. */
static bool read_quote(const uint8_t *q, uint32_t len, bool v4, uint8_t proto, struct np_flow *flow, uint32_t *seq) {
  uint32_t header = NP_IP6_BYTES;
  if (len < (v4 ? NP_IP4_BYTES : NP_IP6_BYTES)) return false;
  if (v4) {
    header = (uint32_t)(q[0] & 0x0f) * 4;
    if (q[0] >> 4 != 4 || header < NP_IP4_BYTES || q[NP_IP4_PROTO] != proto) return false;
    if ((np_load_be16(q + NP_IP4_FRAG) & NP_IP4_OFFSET_MASK) != 0) return false;
    flow->local = np_addr_from_v4_be(q + NP_IP4_SRC);
    flow->remote = np_addr_from_v4_be(q + NP_IP4_DST);
  } else {
    if (q[0] >> 4 != 6 || q[NP_IP6_NEXT] != proto) return false; /* we send no extension headers */
    flow->local = np_addr_from_v6(q + NP_IP6_SRC);
    flow->remote = np_addr_from_v6(q + NP_IP6_DST);
    if (np_addr_is_v4(&flow->local) || np_addr_is_v4(&flow->remote)) return false;
  }
  if (len - np_min_u32(len, header) < QUOTE_L4_BYTES) return false;
  flow->local_port = np_load_be16(q + header);
  flow->remote_port = np_load_be16(q + header + 2);
  *seq = np_load_be32(q + header + 4);
  return true;
}

/* What a router that does not say its MTU (RFC 1191 §5) may carry of a packet of len bytes: the next
 * lower of the usual ones (§7.1). */
static uint32_t plateau(uint32_t len) {
  static const uint16_t usual[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006, 508};
  for (uint32_t i = 0; i < NP_COUNT_OF(usual); i++) {
    if (usual[i] < len) return usual[i];
  }
  return NP_PMTU_MIN_V4;
}

/* Counted, and no more: nothing in it proves that it is about a datagram that we sent, and UDP has its
 * users' timeouts (RFC 8085 §5.2). */
static enum np_drop error_in_udp(struct np_ip *ip, struct np_pkt *pkt, const struct np_flow *flow) {
  if (np_udp_find(ip, &flow->local, flow->local_port) == NP_UDP_NONE) return NP_DROP_ICMP_UNMATCHED;
  ++*np_ip_counter(ip, NP_C_UDP_ERRORS);
  ++*np_ip_counter(ip, NP_C_ICMP_ERR_RX);
  np_buf_put_chain(pkt->buf);
  return NP_WIRE_OK;
}

static enum np_drop error_in(struct np_ip *ip, struct np_pkt *pkt, bool v4) {
  const uint8_t *p = np_buf_cdata(pkt->buf) + pkt->l4_off;
  struct meaning m = v4 ? meaning_v4(p[0], p[1]) : meaning_v6(p[0], p[1]);
  if (!m.used) return NP_DROP_ICMP_TYPE;
  struct np_flow flow;
  uint32_t seq;
  uint32_t len = np_min_u32(pkt->l4_len, pkt->buf->len - pkt->l4_off); /* what is in a chain's first piece is enough */
  bool udp = read_quote(p + NP_ICMP_BYTES, len - NP_ICMP_BYTES, v4, NP_PROTO_UDP, &flow, &seq);
  if (!udp && !read_quote(p + NP_ICMP_BYTES, len - NP_ICMP_BYTES, v4, NP_PROTO_TCP, &flow, &seq)) return NP_DROP_ICMP_UNMATCHED;
  /* An error about a packet of ours comes to where that packet came from. */
  if (!np_addr_eq(&flow.local, &pkt->flow.local)) return NP_DROP_ICMP_UNMATCHED;
  if (udp) return error_in_udp(ip, pkt, &flow);
  uint32_t mtu = 0;
  if (m.too_big) mtu = v4 ? np_load_be16(p + 6) : np_load_be32(p + 4);
  if (m.too_big && v4 && mtu == 0) mtu = plateau(np_load_be16(p + NP_ICMP_BYTES + NP_IP4_LEN));
  if (m.too_big && !v4 && mtu < NP_PMTU_MIN_V6) return NP_DROP_ICMP_MTU; /* RFC 8201 §4; nor does it ask for atomic fragments (RFC 8021) */
  if (ip->env.l4_error == NULL || !ip->env.l4_error(ip->env.ctx, &flow, seq, m.err, m.soft, mtu)) return NP_DROP_ICMP_UNMATCHED;
  ++*np_ip_counter(ip, NP_C_ICMP_ERR_RX);
  np_buf_put_chain(pkt->buf);
  return NP_WIRE_OK;
}

void np_icmp_local_unreachable(struct np_ip *ip, const struct np_buf *buf) {
  struct np_flow flow;
  uint32_t seq;
  const uint8_t *p = np_buf_cdata(buf);
  if (ip->env.l4_error == NULL || !read_quote(p, buf->len, p[0] >> 4 == 4, NP_PROTO_TCP, &flow, &seq)) return;
  ip->env.l4_error(ip->env.ctx, &flow, seq, NP_ERR_UNREACHABLE, true, 0);
}

enum np_drop np_icmp_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  uint8_t type = np_buf_cdata(pkt->buf)[pkt->l4_off];
  if (np_addr_is_v4(&pkt->flow.local)) {
    if (type == NP_ICMP_ECHO) return echo(ip, ifc, pkt, true, now_ns);
    if (type == NP_ICMP_REDIRECT) return NP_DROP_ND_IGNORED; /* not followed in either family, see README */
    return error_in(ip, pkt, true);
  }
  bool mld = type >= NP_ICMP6_MLD_FIRST && type <= NP_ICMP6_MLD_LAST;
  bool nd = mld || (type >= NP_ICMP6_RS && type <= NP_ICMP6_REDIRECT);
  if (nd && (pkt->fragmented || pkt->buf->next != NULL)) return NP_DROP_ND_MALFORMED; /* RFC 6980 §5 */
  if (type == NP_ICMP6_NS || type == NP_ICMP6_NA) return np_nd_input(ip, ifc, pkt, now_ns);
  if (mld) return np_mld_input(ip, ifc, pkt, now_ns);
  if (type == NP_ICMP6_RA) return np_ra_input(ip, ifc, pkt, now_ns);
  if (type == NP_ICMP6_REDIRECT) return NP_DROP_ND_IGNORED;
  if (type == NP_ICMP6_ECHO) return echo(ip, ifc, pkt, false, now_ns);
  if (type >= NP_ICMP6_INFO) return NP_DROP_ICMP_TYPE;
  return np_addr_is_multicast(&pkt->flow.local) ? NP_DROP_ICMP_UNMATCHED : error_in(ip, pkt, false);
}

/* Never about an error, a group or a source that is no host (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)). */
static bool may_complain(const struct np_pkt *about, bool v4) {
  if (about->link_dst != NP_LINK_UNICAST || !np_addr_is_host(&about->flow.local)) return false;
  if (!np_addr_is_host(&about->flow.remote)) return false;
  if (about->l4_proto == NP_PROTO_ARP) return false;
  if (about->l4_proto != (v4 ? NP_PROTO_ICMP : NP_PROTO_ICMPV6)) return true;
  uint8_t type = np_buf_cdata(about->buf)[about->l4_off];
  if (v4) return type == NP_ICMP_ECHO || type == NP_ICMP_ECHO_REPLY;
  return type >= NP_ICMP6_INFO && type != NP_ICMP6_REDIRECT;
}

/* Where in the IPv6 packet the next-header value stands that names the upper layer. */
static uint32_t next_header_at(const struct np_pkt *about) {
  const uint8_t *data = np_buf_cdata(about->buf);
  uint32_t at = about->l3_off + NP_IP6_NEXT;
  uint32_t off = about->l3_off + NP_IP6_BYTES;
  while (off < about->l4_off) { /* bound: parsing followed NP_IP6_EXT_MAX of them at most */
    bool fragment = data[at] == NP_IP6_FRAGMENT; /* its second byte is no length */
    at = off;
    off += fragment ? NP_IP6_FRAGMENT_BYTES : ((uint32_t)data[off + 1] + 1) * 8;
  }
  return at - about->l3_off;
}

void np_ip_send_error(struct np_ip *ip, const struct np_pkt *about, uint8_t type, uint8_t code, uint64_t now_ns) {
  bool next = !np_addr_is_v4(&about->flow.local) && type == NP_ICMP6_PARAM && code == NP_ICMP6_PARAM_NEXT;
  np_icmp_send_error(ip, about, type, code, next ? next_header_at(about) : 0, now_ns);
}

void np_icmp_send_error(struct np_ip *ip, const struct np_pkt *about, uint8_t type, uint8_t code, uint32_t info, uint64_t now_ns) {
  bool v4 = np_addr_is_v4(&about->flow.local);
  const struct np_iface *ifc = np_iface_find(ip, about->buf->iface, about->vlan);
  if (ifc == NULL || !ifc->up || !may_complain(about, v4)) return;
  if (np_ip_is_local(ip, &about->flow.remote)) return; /* who says he is us */
  /* One destination first, so that it alone cannot use up what is for all. */
  struct np_rate *dest = &ip->error_dest[np_hash_addr(&about->flow.remote, &ip->hash_key) % NP_ERROR_DESTS];
  bool one = ip->config.icmp_dest_per_s == 0 || np_rate_take(dest, now_ns);
  if (!one || !np_rate_take(&ip->error_rate, now_ns)) {
    ++*np_ip_counter(ip, NP_C_ICMP_ERR_LIMITED);
    return;
  }
  struct np_buf *buf = np_pool_get(ip->env.pool);
  if (buf == NULL) return;
  uint32_t packet = v4 ? ICMP4_PACKET_MAX - NP_IP4_BYTES : ICMP6_PACKET_MAX - NP_IP6_BYTES;
  uint32_t quote = np_min_u32(about->buf->len - about->l3_off, packet - NP_ICMP_BYTES);
  quote = np_min_u32(quote, np_buf_tailroom(buf) - NP_ICMP_BYTES);
  uint8_t *p = np_buf_append(buf, NP_ICMP_BYTES + quote);
  memset(p, 0, NP_ICMP_BYTES);
  p[0] = type;
  p[1] = code;
  np_store_be32(p + 4, info);
  memcpy(p + NP_ICMP_BYTES, np_buf_cdata(about->buf) + about->l3_off, quote);
  fill_sum(buf, &about->flow.local, &about->flow.remote, v4);
  ++*np_ip_counter(ip, NP_C_ICMP_ERR_TX);
  np_ip_send_to(ip, ifc, buf, &about->src_mac, &about->flow.local, &about->flow.remote, v4 ? NP_PROTO_ICMP : NP_PROTO_ICMPV6, 0,
                NP_IP_TTL);
}
