/* The way out. With a valid path: one comparison, two headers, transmit. */
#include "base/port.h"
#include "ip/internal.h"

/* What somebody else holds as well is one piece, unless it says otherwise: its link may be in use for something else. */
static uint32_t packet_bytes(const struct np_buf *buf) {
  return NP_LIKELY(buf->refs != 1 && !(buf->flags & NP_BUF_GATHERED)) ? buf->len : np_buf_total(buf);
}

void np_ip_drop(struct np_ip *ip, struct np_buf *buf, enum np_drop why) {
  ip->env.counters->drop[why]++;
  if (ip->env.drop != NULL) ip->env.drop(ip->env.ctx, buf, why);
  if (buf->refs == 1 || (buf->flags & NP_BUF_GATHERED) != 0) {
    np_buf_put_chain(buf);
  } else {
    np_buf_put(buf);
  }
}

static void transmit(struct np_ip *ip, uint16_t port, struct np_buf *buf) {
  buf->iface = port;
  ip->env.xmit(ip->env.ctx, port, buf);
}

static void push_ip(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst, uint8_t proto,
                    uint8_t tos, uint8_t hops, bool v4, uint32_t label) {
  uint32_t len = packet_bytes(buf);
  if (v4) {
    uint8_t *p = np_buf_push(buf, NP_IP4_BYTES);
    /* A packet that may not be fragmented can have any identification (RFC 6864 §4.1). A random
     * one does not tell how much we send, and serves where DF is cleared on the way. */
    np_wire_put_ip4_ttl(p, src, dst, proto, tos, hops, (uint16_t)np_rng_u64(&ip->rng), (uint16_t)(len + NP_IP4_BYTES));
  } else {
    uint8_t *p = np_buf_push(buf, NP_IP6_BYTES);
    np_wire_put_ip6(p, src, dst, proto, tos, hops, (uint16_t)len);
    np_store_be32(p, np_load_be32(p) | label);
  }
}

NP_INLINE uint32_t label_of(const struct np_path *path) { return path != NULL ? path->flow_label : 0; }

void np_ip_send_frame(struct np_ip *ip, const struct np_iface *ifc, struct np_buf *buf, const struct np_mac *dst, uint16_t type) {
  uint8_t eth[NP_ETH_BYTES + NP_VLAN_BYTES];
  uint32_t len = np_wire_put_eth(eth, dst, &ifc->mac, ifc->vlan, type);
  memcpy(np_buf_push(buf, len), eth, len);
  transmit(ip, ifc->port, buf);
}

/* A packet in pieces as ports take it. What stays in pieces is longer than a buffer: a port with such an MTU
 * sends pieces. NULL: dropped for lack of buffers, and counted. */
static NP_COLD struct np_buf *few_pieces(struct np_ip *ip, struct np_buf *buf) {
  buf = np_buf_linear(buf);
  if (buf->next == NULL) return buf;
  bool fits = np_buf_total(buf) <= ip->env.pool->chunk_bytes - NP_BUF_DATA_OFF; /* one, if there had been one */
  struct np_buf *out = buf;
  if (fits) out = NULL;
  else if (np_buf_pieces(buf) > NP_PORT_PIECES_MAX) out = np_buf_pack(buf); /* of many small fragments */
  if (out != NULL) return out;
  ip->env.counters->drop[NP_DROP_TX_NO_BUFFER]++;
  np_buf_put_chain(buf);
  return NULL;
}

void np_ip_send_to(struct np_ip *ip, const struct np_iface *ifc, struct np_buf *buf, const struct np_mac *mac,
                   const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t tos, uint8_t hops) {
  bool v4 = np_addr_is_v4(dst);
  uint32_t mtu = np_iface_mtu(ifc, v4);
  if (NP_UNLIKELY(np_buf_total(buf) + (v4 ? NP_IP4_BYTES : NP_IP6_BYTES) > mtu)) {
    const struct np_frag_to to = {.ifc = ifc, .mac = mac};
    (void)np_frag_send(ip, &to, buf, src, dst, proto, tos, v4 ? NP_IP_TTL : hops, mtu);
    return;
  }
  if (NP_UNLIKELY(buf->next != NULL)) buf = few_pieces(ip, buf);
  if (NP_UNLIKELY(buf == NULL)) return;
  push_ip(ip, buf, src, dst, proto, tos, hops, v4, 0);
  np_ip_send_frame(ip, ifc, buf, mac, v4 ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
}

/* Link-local destinations are on every interface; the source says which is meant. */
static const struct np_iface *scoped_iface(const struct np_ip *ip, const struct np_addr *src, const struct np_addr *dst) {
  if (!np_addr_is_link_local(dst)) return NULL;
  for (uint32_t i = 0; i < ip->iface_end; i++) {
    if (ip->iface[i].used && ip->iface[i].up && np_iface_has(&ip->iface[i], src)) return &ip->iface[i];
  }
  return NULL;
}

/* Interface and next hop towards dst; NULL: no route. */
static struct np_iface *route_out(struct np_ip *ip, const struct np_addr *src, const struct np_addr *dst, struct np_addr *hop) {
  *hop = *dst;
  if (!np_addr_is_host(dst) || np_ip_is_local(ip, dst)) return NULL;
  const struct np_iface *scoped = scoped_iface(ip, src, dst);
  if (scoped != NULL) return &ip->iface[scoped->index];
  const struct np_route *route = np_route_find_from(ip, dst, src);
  if (route == NULL) return NULL;
  if (!np_addr_is_zero(&route->via)) *hop = route->via;
  return &ip->iface[route->iface];
}

/* The hop limit that a router told, where nothing was configured (RFC 4861 §6.3.4); 0 none. */
static uint8_t router_hops(const struct np_ip *ip, const struct np_iface *ifc, bool v4) {
  return v4 || ip->config.ttl != 0 ? 0 : ifc->ra.hops;
}

static void fill_path(struct np_ip *ip, const struct np_iface *ifc, struct np_neigh *n, bool v4, struct np_path *path) {
  path->generation = ip->generation;
  path->iface = ifc->index;
  path->mtu_bytes = (uint16_t)np_iface_mtu(ifc, v4);
  path->hops = router_hops(ip, ifc, v4);
  path->is_v4 = v4;
  path->neigh = (uint32_t)(n - ip->neigh);
  path->link_len = (uint8_t)np_wire_put_eth(path->link, &n->mac, &ifc->mac, ifc->vlan, v4 ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
  n->cached = true;
}

/* What waits must be nobody else's: TCP sends a buffer it keeps again, headers and all, while
 * the first sending still waits here. NULL: no buffer for a copy, and buf is gone. */
static struct np_buf *own(struct np_ip *ip, struct np_buf *buf) {
  if (buf->refs == 1) {
    buf = np_buf_linear(buf); /* the queue links what waits by next */
    if (buf->next == NULL) return buf;
    np_ip_drop(ip, buf, NP_DROP_NEIGH_QUEUE);
    return NULL;
  }
  struct np_buf *copy = np_pool_get(ip->env.pool);
  if (copy == NULL || np_buf_tailroom(copy) < buf->len) {
    if (copy != NULL) np_buf_put(copy);
    np_ip_drop(ip, buf, NP_DROP_NEIGH_QUEUE);
    return NULL;
  }
  memcpy(np_buf_append(copy, buf->len), np_buf_cdata(buf), buf->len);
  copy->flags = buf->flags;
  np_buf_put(buf);
  return copy;
}

/* Sends or queues one packet (data at the IP header) by the routing table. */
static enum np_err output_slow(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                               struct np_path *path, uint64_t now_ns) {
  bool v4 = np_addr_is_v4(dst);
  struct np_addr hop;
  if (path != NULL) path->link_len = 0;
  struct np_iface *ifc = route_out(ip, src, dst, &hop);
  if (ifc == NULL || v4 != np_addr_is_v4(src)) {
    bool down = ifc == NULL && np_route_is_down(ip, dst);
    np_ip_drop(ip, buf, down ? NP_DROP_TX_PORT_DOWN : NP_DROP_NO_ROUTE);
    return down ? NP_ERR_PORTDOWN : NP_ERR_NOROUTE;
  }
  if (!np_ip_is_local(ip, src)) { /* deleted, tentative, or found to be somebody else's */
    np_ip_drop(ip, buf, NP_DROP_TX_SOURCE);
    return NP_ERR_ADDRNOTAVAIL;
  }
  uint8_t hops = router_hops(ip, ifc, v4);
  if (hops != 0) np_buf_data(buf)[NP_IP6_HOPS] = hops;
  if (packet_bytes(buf) > np_iface_mtu(ifc, v4)) {
    np_ip_drop(ip, buf, NP_DROP_TX_TOO_BIG);
    return NP_ERR_LIMIT;
  }
  struct np_neigh *n = np_neigh_resolve(ip, ifc, &hop, now_ns);
  if (n == NULL) {
    np_ip_drop(ip, buf, NP_DROP_NEIGH_QUEUE);
    return NP_ERR_FULL;
  }
  if (np_neigh_has_mac(n)) {
    if (path != NULL) fill_path(ip, ifc, n, v4, path);
    np_neigh_used(ip, n, now_ns);
    np_ip_send_frame(ip, ifc, buf, &n->mac, v4 ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
    return NP_ERR_OK;
  }
  buf = own(ip, buf);
  if (buf != NULL) np_neigh_queue(ip, n, buf);
  return NP_ERR_OK;
}

/* TCP gathered it for a port that it asked about. When the way has changed since, within this turn, the
 * new one need not be able to: it is lost, and TCP, whose next question gets another answer, sends it again. */
static NP_COLD enum np_err drop_gathered(struct np_ip *ip, struct np_buf *buf) {
  np_ip_drop(ip, buf, NP_DROP_TX_TOO_BIG);
  return NP_ERR_LIMIT;
}

int32_t np_ip_path_port(const struct np_ip *ip, const struct np_path *path) {
  if (path->link_len == 0 || path->generation != ip->generation) return -1;
  return ip->iface[path->iface].port;
}

NP_INLINE enum np_err pushed(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                             struct np_path *path, uint64_t now_ns) {
  if (NP_UNLIKELY(path == NULL || path->link_len == 0 || path->generation != ip->generation)) {
    if (NP_UNLIKELY(buf->flags & (NP_BUF_GATHERED | NP_BUF_TX_CSUM))) return drop_gathered(ip, buf);
    return output_slow(ip, buf, src, dst, path, now_ns);
  }
  if (NP_UNLIKELY(packet_bytes(buf) > path->mtu_bytes && !(buf->flags & NP_BUF_GSO))) {
    np_ip_drop(ip, buf, NP_DROP_TX_TOO_BIG);
    return NP_ERR_LIMIT;
  }
  if (NP_UNLIKELY(path->hops != 0)) np_buf_data(buf)[NP_IP6_HOPS] = path->hops;
  struct np_neigh *n = &ip->neigh[path->neigh];
  if (NP_UNLIKELY(n->state != NP_NEIGH_REACHABLE)) np_neigh_used(ip, n, now_ns);
  uint8_t *link = np_buf_push(buf, path->link_len);
  if (NP_LIKELY(path->link_len == NP_ETH_BYTES)) {
    memcpy(link, path->link, NP_ETH_BYTES);
  } else {
    memcpy(link, path->link, NP_ETH_BYTES + NP_VLAN_BYTES);
  }
  transmit(ip, ip->iface[path->iface].port, buf);
  return NP_ERR_OK;
}

enum np_err np_ip_output(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                         uint8_t proto, uint8_t tos, struct np_path *path, uint64_t now_ns) {
  push_ip(ip, buf, src, dst, proto, tos, ip->ttl, np_addr_is_v4(dst), label_of(path));
  return pushed(ip, buf, src, dst, path, now_ns);
}

enum np_err np_ip_output_pushed(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                                struct np_path *path, uint64_t now_ns) {
  return pushed(ip, buf, src, dst, path, now_ns);
}

/* IPv4: routers may cut it, which takes an identification of its own (RFC 6864 §4.2). */
static void allow_fragments(struct np_ip *ip, uint8_t *p, const struct np_addr *dst) {
  uint16_t before = np_load_16(p + 4);
  np_store_be16(p + 4, (uint16_t)np_frag_id(ip, dst));
  uint16_t sum = np_cksum_update16(np_load_16(p + NP_IP4_CKSUM), before, np_load_16(p + 4));
  before = np_load_16(p + NP_IP4_FRAG);
  np_store_be16(p + NP_IP4_FRAG, 0);
  np_store_16(p + NP_IP4_CKSUM, np_cksum_update16(sum, before, 0));
}

enum np_err np_ip_output_datagram(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                                  uint8_t proto, uint8_t tos, struct np_path *path, uint64_t now_ns) {
  bool v4 = np_addr_is_v4(dst);
  uint32_t total = np_buf_total(buf) + (v4 ? NP_IP4_BYTES : NP_IP6_BYTES);
  if (total > NP_PMTU_MIN_V6) { /* what is smaller goes whole in any case; an IPv4 link may be narrower, a router's to cut */
    uint32_t mtu = np_ip_pmtu(ip, dst, now_ns);
    if (total > mtu && mtu != 0) { /* without a route it is dropped below */
      const struct np_frag_to to = {.path = path, .now_ns = now_ns};
      return np_frag_send(ip, &to, buf, src, dst, proto, tos, ip->ttl, mtu);
    }
  }
  if (NP_UNLIKELY(buf->next != NULL)) buf = few_pieces(ip, buf);
  if (NP_UNLIKELY(buf == NULL)) return NP_ERR_NOBUF;
  push_ip(ip, buf, src, dst, proto, tos, ip->ttl, v4, label_of(path));
  if (v4) allow_fragments(ip, np_buf_data(buf), dst);
  return pushed(ip, buf, src, dst, path, now_ns);
}
