/* Neighbor discovery (RFC 4861 §7): solicitations and advertisements. Router
 * discovery is in ra.c; redirects are not followed. */
#include "ip/internal.h"

#define ND_FLAGS 4u   /* of an advertisement */
#define ND_TARGET 8u
#define ND_BYTES 24u  /* up to the options */
#define ND_OPT_BYTES 8u
#define ND_HOPS 255u
#define ND_RS_BYTES 8u

struct np_addr np_nd_solicited_node(const struct np_addr *addr) {
  return (struct np_addr){{0xff, 0x02, [11] = 1, [12] = 0xff, [13] = addr->b[13], [14] = addr->b[14], [15] = addr->b[15]}};
}

/* RFC 2464 §7 */
static struct np_mac multicast_mac(const struct np_addr *group) {
  return (struct np_mac){{0x33, 0x33, group->b[12], group->b[13], group->b[14], group->b[15]}};
}

/* The message with one link-layer address option (or none) at the buffer's data. */
static void put_nd(uint8_t *p, uint8_t type, uint8_t flags, const struct np_addr *target, uint8_t opt, const struct np_mac *mac) {
  memset(p, 0, ND_BYTES);
  p[0] = type;
  p[ND_FLAGS] = flags;
  memcpy(p + ND_TARGET, target->b, 16);
  p[ND_BYTES] = opt;
  p[ND_BYTES + 1] = 1; /* in units of eight bytes */
  memcpy(p + ND_BYTES + 2, mac->b, 6);
}

static void send_nd(struct np_ip *ip, struct np_iface *ifc, struct np_buf *buf, const struct np_mac *mac,
                    const struct np_addr *src, const struct np_addr *dst) {
  uint8_t *p = np_buf_data(buf);
  np_store_16(p + NP_ICMP_CKSUM, 0);
  uint64_t sum = np_cksum_pseudo(src, dst, NP_PROTO_ICMPV6, buf->len);
  np_store_16(p + NP_ICMP_CKSUM, np_cksum_finish(np_cksum_add(sum, p, buf->len)));
  np_ip_send_to(ip, ifc, buf, mac, src, dst, NP_PROTO_ICMPV6, 0, ND_HOPS);
}

void np_nd_solicit(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *target, const struct np_mac *to) {
  struct np_addr src;
  if (!ifc->up || !np_iface_ask_source(ifc, target, &src)) return;
  struct np_buf *buf = np_pool_get_control(ip->env.pool);
  if (buf == NULL) return; /* asked again by the timer */
  struct np_addr dst = to == NULL ? np_nd_solicited_node(target) : *target;
  struct np_mac mac = to == NULL ? multicast_mac(&dst) : *to;
  put_nd(np_buf_append(buf, ND_BYTES + ND_OPT_BYTES), NP_ICMP6_NS, 0, target, NP_ND_OPT_SLLA, &ifc->mac);
  send_nd(ip, ifc, buf, &mac, &src, &dst);
}

static const struct np_addr all_nodes = {{0xff, 0x02, [15] = 1}};

void np_nd_router_solicit(struct np_ip *ip, struct np_iface *ifc) {
  static const struct np_addr all_routers = {{0xff, 0x02, [15] = 2}};
  if (!ifc->up) return;
  struct np_buf *buf = np_pool_get(ip->env.pool);
  if (buf == NULL) return; /* asked again by the timer */
  struct np_addr src = {{0}};
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    if (np_addr_is_usable(&ifc->addr[i]) && np_addr_is_link_local(&ifc->addr[i].addr)) src = ifc->addr[i].addr;
  }
  bool none = np_addr_is_zero(&src);
  uint8_t *p = np_buf_append(buf, none ? ND_RS_BYTES : ND_RS_BYTES + ND_OPT_BYTES);
  memset(p, 0, buf->len);
  p[0] = NP_ICMP6_RS;
  if (!none) { /* RFC 4861 §4.1: no such option without an address to it */
    p[ND_RS_BYTES] = NP_ND_OPT_SLLA;
    p[ND_RS_BYTES + 1] = 1;
    memcpy(p + ND_RS_BYTES + 2, ifc->mac.b, 6);
  }
  struct np_mac mac = multicast_mac(&all_routers);
  ++*np_ip_counter(ip, NP_C_ND_RS_TX);
  send_nd(ip, ifc, buf, &mac, &src, &all_routers);
}

/* Six bytes for this address that nobody else knows before they were sent: who sends them back is
 * an echo of ours on the link, not a rival (RFC 7527 §4). The same on all cores of the host. */
static struct np_mac probe_nonce(const struct np_ip *ip, const struct np_addr *addr) {
  struct np_hash_key key = {{ip->config.nonce, ~ip->config.nonce}};
  uint64_t h = np_hash_addr(addr, &key);
  struct np_mac nonce;
  memcpy(nonce.b, &h, sizeof nonce.b);
  return nonce;
}

void np_nd_probe(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  static const struct np_addr none = {{0}};
  if (!ifc->up) return;
  struct np_buf *buf = np_pool_get(ip->env.pool);
  if (buf == NULL) return; /* as if lost on the wire */
  struct np_addr dst = np_nd_solicited_node(addr);
  struct np_mac mac = multicast_mac(&dst);
  struct np_mac nonce = probe_nonce(ip, addr);
  put_nd(np_buf_append(buf, ND_BYTES + ND_OPT_BYTES), NP_ICMP6_NS, 0, addr, NP_ND_OPT_NONCE, &nonce);
  send_nd(ip, ifc, buf, &mac, &none, &dst);
}

/* RFC 4861 §7.2.6 */
void np_nd_announce(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  if (!ifc->up) return;
  struct np_buf *buf = np_pool_get(ip->env.pool);
  if (buf == NULL) return;
  struct np_mac mac = multicast_mac(&all_nodes);
  put_nd(np_buf_append(buf, ND_BYTES + ND_OPT_BYTES), NP_ICMP6_NA, NP_ND_NA_OVERRIDE, addr, NP_ND_OPT_TLLA, &ifc->mac);
  send_nd(ip, ifc, buf, &mac, addr, &all_nodes);
}

/* Walks the options; *found tells whether one of type want was there. Return:
 * false when one has length 0 or does not fit (RFC 4861 §7.1.1). */
static bool find_option(const uint8_t *icmp, uint32_t len, uint8_t want, struct np_mac *mac, bool *found) {
  *found = false;
  for (uint32_t at = ND_BYTES; at < len;) { /* bound: each option is eight bytes at least */
    if (len - at < ND_OPT_BYTES) return false;
    uint32_t bytes = (uint32_t)icmp[at + 1] * 8;
    if (bytes == 0 || bytes > len - at) return false;
    if (icmp[at] == want && !*found) {
      memcpy(mac->b, icmp + at + 2, 6);
      if (want != NP_ND_OPT_NONCE && !np_mac_is_station(mac)) return false;
      *found = true;
    }
    at += bytes;
  }
  return true;
}

/* Answers in the buffer that asked. dad: the asker has no address yet (RFC 4861 §7.2.4). */
static void advertise(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, const struct np_addr *target,
                      const struct np_mac *to, bool dad) {
  struct np_buf *buf = pkt->buf;
  struct np_addr dst = dad ? all_nodes : pkt->flow.remote;
  struct np_mac mac = dad ? multicast_mac(&all_nodes) : *to;
  struct np_addr src = *target;
  np_buf_pull(buf, pkt->l4_off);
  buf->len = 0;
  uint8_t flags = (uint8_t)(NP_ND_NA_OVERRIDE | (dad ? 0 : NP_ND_NA_SOLICITED));
  put_nd(np_buf_append(buf, ND_BYTES + ND_OPT_BYTES), NP_ICMP6_NA, flags, &src, NP_ND_OPT_TLLA, &ifc->mac);
  send_nd(ip, ifc, buf, &mac, &src, &dst);
}

/* Somebody looks for a duplicate of an address that we look for ourselves: neither may have it
 * (RFC 4862 §5.4.3), unless it is our own question come back (RFC 7527 §4.2). */
static enum np_drop rival_probe(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint32_t at, uint64_t now_ns) {
  struct np_mac nonce;
  struct np_mac own = probe_nonce(ip, &ifc->addr[at].addr);
  bool has_nonce;
  const uint8_t *icmp = np_buf_cdata(pkt->buf) + pkt->l4_off;
  (void)find_option(icmp, pkt->l4_len, NP_ND_OPT_NONCE, &nonce, &has_nonce); /* well formed: looked at before */
  bool looped = has_nonce ? np_mac_eq(&nonce, &own) : np_mac_eq(&pkt->src_mac, &ifc->mac);
  if (looped) return NP_DROP_ND_LOOPED;
  np_addr_conflict(ip, ifc, at, &pkt->src_mac, now_ns);
  ++*np_ip_counter(ip, NP_C_ND_RX);
  np_buf_put(pkt->buf);
  return NP_WIRE_OK;
}

static enum np_drop solicitation(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, const uint8_t *icmp, uint64_t now_ns) {
  struct np_mac mac;
  bool has_mac;
  struct np_addr target = np_addr_from_v6(icmp + ND_TARGET);
  const struct np_addr *src = &pkt->flow.remote;
  bool dad = np_addr_is_zero(src);
  if (!find_option(icmp, pkt->l4_len, NP_ND_OPT_SLLA, &mac, &has_mac)) return NP_DROP_ND_MALFORMED;
  if (dad) { /* RFC 4861 §7.1.1 */
    struct np_addr group = np_nd_solicited_node(&target);
    if (has_mac || !np_addr_eq(&pkt->flow.local, &group)) return NP_DROP_ND_MALFORMED;
  }
  uint32_t at = np_addr_index(ifc, &target);
  if (at == NP_ADDR_NONE) return NP_DROP_ND_NOT_FOR_US;
  if (dad && ifc->addr[at].state == NP_ADDR_TENTATIVE) return rival_probe(ip, ifc, pkt, at, now_ns);
  if (!np_addr_is_usable(&ifc->addr[at])) return NP_DROP_ND_NOT_FOR_US; /* RFC 4862 §5.4.3 */
  if (!dad && has_mac && !np_ip_is_local(ip, src) && np_route_on_link(ip, src, ifc->index)) {
    np_neigh_learn(ip, ifc, src, &mac, now_ns);
  }
  if (np_buf_tailroom(pkt->buf) + pkt->buf->len - pkt->l4_off < ND_BYTES + ND_OPT_BYTES) {
    return NP_DROP_NO_BUFFER; /* a port with no room behind the packet */
  }
  ++*np_ip_counter(ip, NP_C_ND_RX);
  if (!has_mac) mac = pkt->src_mac;
  if ((pkt->buf->flags & NP_BUF_COPY) != 0) {
    np_buf_put(pkt->buf);
    return NP_WIRE_OK;
  }
  advertise(ip, ifc, pkt, &target, &mac, dad);
  return NP_WIRE_OK;
}

static enum np_drop advertisement(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, const uint8_t *icmp, uint64_t now_ns) {
  struct np_mac mac;
  bool has_mac;
  struct np_addr target = np_addr_from_v6(icmp + ND_TARGET);
  uint8_t flags = icmp[ND_FLAGS];
  bool solicited = (flags & NP_ND_NA_SOLICITED) != 0;
  if (!find_option(icmp, pkt->l4_len, NP_ND_OPT_TLLA, &mac, &has_mac)) return NP_DROP_ND_MALFORMED;
  if (solicited && np_addr_is_multicast(&pkt->flow.local)) return NP_DROP_ND_MALFORMED; /* RFC 4861 §7.1.2 */
  uint32_t own = np_addr_index(ifc, &target);
  if (own != NP_ADDR_NONE && ifc->addr[own].state != NP_ADDR_DUPLICATE) {
    if (np_mac_eq(&pkt->src_mac, &ifc->mac)) return NP_DROP_ND_LOOPED;
    np_addr_conflict(ip, ifc, own, has_mac ? &mac : &pkt->src_mac, now_ns); /* RFC 4862 §5.4.4 */
    ++*np_ip_counter(ip, NP_C_ND_RX);
    np_buf_put(pkt->buf);
    return NP_WIRE_OK;
  }
  /* An answer nobody waits for makes no entry (RFC 4861 §7.2.5). */
  struct np_neigh *n = np_neigh_find(ip, ifc->index, &target);
  if (n == NULL) return NP_DROP_ND_NOT_FOR_US;
  if ((flags & NP_ND_NA_ROUTER) == 0) np_ra_no_router(ip, ifc, &target);
  np_neigh_advert(ip, n, has_mac ? &mac : NULL, solicited, (flags & NP_ND_NA_OVERRIDE) != 0, now_ns);
  ++*np_ip_counter(ip, NP_C_ND_RX);
  np_buf_put(pkt->buf);
  return NP_WIRE_OK;
}

enum np_drop np_nd_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  const uint8_t *icmp = np_buf_cdata(pkt->buf) + pkt->l4_off;
  /* A hop limit of 255 proves that it was sent on this link; the checksum is verified. */
  if (pkt->ttl != ND_HOPS || icmp[1] != 0 || pkt->l4_len < ND_BYTES) return NP_DROP_ND_MALFORMED;
  struct np_addr target = np_addr_from_v6(icmp + ND_TARGET);
  if (!np_addr_is_host(&target) || np_addr_is_v4(&target)) return NP_DROP_ND_MALFORMED;
  if (icmp[0] == NP_ICMP6_NS) return solicitation(ip, ifc, pkt, icmp, now_ns);
  if (np_addr_is_zero(&pkt->flow.remote)) return NP_DROP_ND_MALFORMED;
  return advertisement(ip, ifc, pkt, icmp, now_ns);
}
