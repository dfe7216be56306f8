/* Set-up, and the way in. */
#include "ip/internal.h"

#define NEIGH_DEFAULT 1024u
#define NEIGH_MIN 16u
#define NEIGH_MAX 65536u
#define QUEUE_DEFAULT 8u
#define ERRORS_DEFAULT 1000u
#define ECHOES_DEFAULT 10000u
#define V4_PREFIX 96u
#define V4_BROADCAST_BITS_MAX (V4_PREFIX + 30) /* RFC 3021: longer prefixes have no broadcast address */
#define TCP_ACK 0x10u
#define TCP_CONTROL 0x37u /* URG, ACK, RST, SYN, FIN */

static uint32_t neigh_count(const struct np_ip_config *config) {
  uint32_t n = config->neigh_max == 0 ? NEIGH_DEFAULT : config->neigh_max;
  return np_min_u32(np_max_u32(n, NEIGH_MIN), NEIGH_MAX);
}

static uint32_t bucket_count(uint32_t neighs) {
  uint32_t n = NEIGH_MIN;
  while (n < neighs) n *= 2; /* bound: NEIGH_MAX */
  return n;
}

static size_t line_up(size_t bytes) { return (bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1); }

size_t np_ip_bytes(const struct np_ip_config *config) {
  uint32_t n = neigh_count(config);
  return line_up(sizeof(struct np_ip)) + line_up(n * sizeof(struct np_neigh)) + line_up(bucket_count(n) * sizeof(uint32_t)) +
         np_reass_bytes(config);
}

struct np_ip *np_ip_init(void *mem, const struct np_ip_config *config, const struct np_ip_env *env, uint64_t now_ns) {
  (void)now_ns;
  np_assert(((uintptr_t)mem & (NP_CACHE_LINE - 1)) == 0);
  struct np_ip *ip = mem;
  memset(ip, 0, np_ip_bytes(config));
  ip->env = *env;
  ip->config = *config;
  struct np_ip_config *c = &ip->config;
  c->neigh_max = neigh_count(config);
  if (c->neigh_queue_pkts == 0) c->neigh_queue_pkts = QUEUE_DEFAULT;
  if (c->icmp_rate_per_s == 0) c->icmp_rate_per_s = ERRORS_DEFAULT;
  if (c->icmp_echo_per_s == 0) c->icmp_echo_per_s = ECHOES_DEFAULT;
  np_rate_init(&ip->error_rate, c->icmp_rate_per_s);
  np_rate_init(&ip->echo_rate, c->icmp_echo_per_s);
  for (uint32_t i = 0; i < NP_ERROR_DESTS && c->icmp_dest_per_s > 0; i++) np_rate_init(&ip->error_dest[i], c->icmp_dest_per_s);
  np_rng_init(&ip->rng, c->seed);
  ip->hash_key.k[0] = np_rng_u64(&ip->rng);
  ip->hash_key.k[1] = np_rng_u64(&ip->rng);
  ip->generation = 1;
  ip->ttl = c->ttl != 0 ? c->ttl : NP_IP_TTL;
  for (uint32_t i = 0; i < NP_IFACE_MAX; i++) ip->iface_key[i] = NP_IFACE_KEY_NONE;
  uint8_t *at = (uint8_t *)mem + line_up(sizeof *ip);
  ip->neigh = (struct np_neigh *)(void *)at;
  ip->bucket = (uint32_t *)(void *)(at + line_up(c->neigh_max * sizeof(struct np_neigh)));
  ip->neigh_mask = bucket_count(c->neigh_max) - 1;
  np_neigh_init(ip);
  np_addr_init(ip);
  np_udp_init(ip);
  np_reass_init(ip, at + line_up(c->neigh_max * sizeof(struct np_neigh)) + line_up((ip->neigh_mask + 1) * sizeof(uint32_t)));
  return ip;
}

void np_ip_fini(struct np_ip *ip) {
  for (uint16_t i = 0; i < NP_IFACE_MAX; i++) {
    if (ip->iface[i].used) np_ip_iface_del(ip, i);
  }
}

/* IPv6 multicast: only ICMPv6, only groups of ours. IPv4 multicast and
 * broadcast: nothing here listens to them. */
static enum np_drop input_multicast(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  const struct np_addr *dst = &pkt->flow.local;
  if (np_addr_is_v4(dst) || !np_iface_joined(ifc, dst)) return NP_DROP_IP_DST;
  if (pkt->l4_proto != NP_PROTO_ICMPV6) return NP_DROP_IP_DST;
  return np_icmp_input(ip, ifc, pkt, now_ns);
}

static enum np_drop input_unicast(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  bool v4 = np_addr_is_v4(&pkt->flow.local);
  if (pkt->l4_proto == NP_PROTO_UDP) return np_udp_input(ip, ifc, pkt, now_ns);
  if (pkt->l4_proto == (v4 ? NP_PROTO_ICMP : NP_PROTO_ICMPV6)) return np_icmp_input(ip, ifc, pkt, now_ns);
  if (v4) {
    np_ip_send_error(ip, pkt, NP_ICMP_UNREACH, NP_ICMP_UNREACH_PROTO, now_ns);
  } else if (pkt->l4_proto != NP_IP6_NONE) { /* "no next header" asks for no answer */
    np_ip_send_error(ip, pkt, NP_ICMP6_PARAM, NP_ICMP6_PARAM_NEXT, now_ns);
  }
  return NP_DROP_IP_PROTO;
}

bool np_ip_source_bad(const struct np_ip *ip, const struct np_addr *src) {
  bool v4 = np_addr_is_v4(src);
  for (uint32_t i = 0; i < ip->iface_end; i++) { /* bound: NP_IFACE_MAX, and NP_IFACE_ADDR_MAX each */
    const struct np_iface *ifc = &ip->iface[i];
    for (uint32_t j = 0; j < ifc->addr_count; j++) {
      const struct np_iface_addr *own = &ifc->addr[j];
      if (!np_addr_is_usable(own)) continue;
      if (np_addr_eq(&own->addr, src)) return true;
      if (!v4 || !np_addr_is_v4(&own->addr) || own->bits > V4_BROADCAST_BITS_MAX) continue;
      uint32_t host = UINT32_MAX >> (own->bits - V4_PREFIX);
      uint32_t diff = np_load_be32(own->addr.b + 12) ^ np_load_be32(src->b + 12);
      uint32_t rest = np_load_be32(src->b + 12) & host;
      if ((diff & ~host) == 0 && (rest == 0 || rest == host)) return true;
    }
  }
  return false;
}

/* Segments that a connection's life begins or ends with; the others find no connection with such a
 * source, because none can begin. */
static bool tcp_source_bad(const struct np_ip *ip, const struct np_pkt *pkt) {
  if (NP_LIKELY((pkt->tcp_flags & TCP_CONTROL) == TCP_ACK)) return false;
  return np_ip_source_bad(ip, &pkt->flow.remote);
}

/* Whether a packet to a host's address is for us. */
static enum np_drop check_for_us(const struct np_ip *ip, const struct np_iface *ifc, const struct np_pkt *pkt) {
  const struct np_addr *dst = &pkt->flow.local;
  /* A group frame around a unicast packet is for nobody (RFC 1122 §3.3.6). */
  if (pkt->link_dst != NP_LINK_UNICAST) return NP_DROP_LINK_DST;
  /* Addresses are the host's, not the interface's (RFC 1122 §3.3.4.2, weak model), but a
   * link-local one means its own link only. */
  if (!np_iface_has(ifc, dst) && (np_addr_is_link_local(dst) || !np_ip_is_local(ip, dst))) return NP_DROP_IP_DST;
  return NP_WIRE_OK;
}

static enum np_drop input_other(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  if (pkt->l4_proto == NP_PROTO_ARP) return np_arp_input(ip, ifc, pkt, now_ns);
  const struct np_addr *dst = &pkt->flow.local;
  if (!np_addr_is_v4(dst) && dst->b[0] == 0xff) return input_multicast(ip, ifc, pkt, now_ns);
  enum np_drop why = check_for_us(ip, ifc, pkt);
  if (why != NP_WIRE_OK) return why;
  if (pkt->l4_proto == NP_PROTO_TCP) return tcp_source_bad(ip, pkt) ? NP_DROP_IP_SRC : NP_WIRE_OK;
  /* Neighbor discovery has its own idea of somebody who uses an address of ours. */
  if (pkt->l4_proto != NP_PROTO_ICMPV6 && np_ip_source_bad(ip, &pkt->flow.remote)) return NP_DROP_IP_SRC;
  return input_unicast(ip, ifc, pkt, now_ns);
}

/* Fragments to a group are for nobody: what we answer there is never that large. */
static enum np_ip_verdict input_fragment(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns, enum np_drop *why) {
  *why = np_addr_is_host(&pkt->flow.remote) ? check_for_us(ip, ifc, pkt) : NP_DROP_IP_SRC;
  return *why == NP_WIRE_OK ? np_reass_input(ip, ifc, pkt, now_ns, why) : NP_IP_DROP;
}

enum np_ip_verdict np_ip_input(struct np_ip *ip, struct np_pkt *pkt, uint64_t now_ns, enum np_drop *why) {
  struct np_iface *ifc = np_iface_find(ip, pkt->buf->iface, pkt->vlan);
  if (NP_UNLIKELY(ifc == NULL)) {
    *why = NP_DROP_LINK_VLAN;
    return NP_IP_DROP;
  }
  bool ours = pkt->link_dst == NP_LINK_UNICAST;
  if (ours) {
    struct np_mac dst;
    memcpy(dst.b, np_buf_cdata(pkt->buf), sizeof dst.b);
    ours = np_mac_eq(&dst, &ifc->mac);
    if (NP_UNLIKELY(!ours)) {
      *why = NP_DROP_LINK_DST;
      return NP_IP_DROP;
    }
  }
  if (NP_UNLIKELY(!ifc->up)) {
    *why = NP_DROP_LINK_DST;
    return NP_IP_DROP;
  }
  if (NP_UNLIKELY(pkt->l4_proto == NP_PROTO_FRAGMENT)) {
    enum np_ip_verdict verdict = input_fragment(ip, ifc, pkt, now_ns, why);
    if (verdict != NP_IP_DONE) return verdict;
  }
  bool tcp = pkt->l4_proto == NP_PROTO_TCP;
  if (NP_LIKELY(tcp && ours && np_iface_has(ifc, &pkt->flow.local))) {
    if (NP_LIKELY(!tcp_source_bad(ip, pkt))) return NP_IP_TCP;
    *why = NP_DROP_IP_SRC;
    return NP_IP_DROP;
  }
  enum np_drop drop = input_other(ip, ifc, pkt, now_ns);
  if (drop == NP_WIRE_OK) return tcp ? NP_IP_TCP : NP_IP_DONE;
  *why = drop;
  return NP_IP_DROP;
}

uint32_t np_ip_neighbors(const struct np_ip *ip, uint32_t *cursor, struct np_neigh_info *out, uint32_t max, uint64_t now_ns) {
  uint32_t n = 0;
  uint32_t i = *cursor;
  for (; i < ip->config.neigh_max && n < max; i++) {
    const struct np_neigh *e = &ip->neigh[i];
    if (e->state == NP_NEIGH_FREE) continue;
    struct np_neigh_info *info = &out[n++];
    memset(info, 0, sizeof *info);
    memcpy(info->addr, e->addr.b, sizeof info->addr);
    memcpy(info->mac, e->mac.b, sizeof info->mac);
    info->iface = e->iface;
    info->state = e->state;
    info->age_ns = e->confirmed && now_ns > e->confirmed_ns ? now_ns - e->confirmed_ns : 0;
  }
  *cursor = i < ip->config.neigh_max ? i : 0;
  return n;
}
