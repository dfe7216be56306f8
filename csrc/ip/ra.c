/* Router discovery of a host: solicitations (RFC 4861 §6.3.7, RFC 7559),
 * advertisements with default routers, prefixes on link and addresses made from
 * them (RFC 4861 §6.3, RFC 4862 §5.5, RFC 4191 preferences). Whoever is on the
 * link can send these: they are taken only where the operator says so, and all
 * they can make is bounded (NP_ROUTERS_MAX and its neighbors). */
#include "ip/internal.h"

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
#define SOLICIT_DELAY_NS NS_PER_S        /* RFC 4861 §10 */
#define SOLICIT_GAP_NS (4 * NS_PER_S)    /* RFC 7559 §2.1: the first pause, and the longest */
#define SOLICIT_GAP_MAX_NS (3600 * NS_PER_S)
#define TWO_HOURS_NS (7200 * NS_PER_S)   /* RFC 4862 §5.5.3 (e) */
#define RA_BYTES 16u
#define RA_HOPS 4u
#define RA_FLAGS 5u
#define RA_LIFETIME 6u
#define RA_REACHABLE 8u
#define RA_RETRANS 12u
#define OPT_BYTES 8u
#define PREFIX_BYTES 32u
#define PREFIX_ON_LINK 0x80u
#define PREFIX_AUTO 0x40u
#define ID_BITS 64u                      /* of an interface identifier on Ethernet (RFC 2464 §4) */
#define MTU_MIN 1280u
/* A value that a router may set wrongly, or on purpose, must not end all traffic. */
#define HOPS_MIN 32u
#define REACHABLE_MIN_NS NS_PER_S
#define REACHABLE_MAX_NS (3600 * NS_PER_S) /* RFC 4861 §6.2.1 */
#define RETRANS_MIN_NS (100 * NS_PER_MS)
#define RETRANS_MAX_NS (10 * NS_PER_S)

static const struct np_addr any = {{0}};

static uint64_t until(uint32_t seconds, uint64_t now_ns) {
  return seconds == UINT32_MAX ? UINT64_MAX : now_ns + seconds * NS_PER_S;
}

static bool answers(struct np_ip *ip, const struct np_iface *ifc, const struct np_router *r) {
  const struct np_neigh *n = np_neigh_find(ip, ifc->index, &r->addr);
  return n == NULL || n->state != NP_NEIGH_FAILED;
}

/* The best router: one that may answer, then by preference, then the one in use (RFC 4861 §6.3.6,
 * RFC 4191 §3.2). The default route is moved only when that is another. */
static void choose(struct np_ip *ip, struct np_iface *ifc) {
  struct np_ra *ra = &ifc->ra;
  uint32_t best = NP_ROUTERS_MAX;
  int best_score = -1;
  for (uint32_t i = 0; i < NP_ROUTERS_MAX; i++) {
    const struct np_router *r = &ra->router[i];
    if (r->until_ns == 0) continue;
    int score = (answers(ip, ifc, r) ? 8 : 0) + 2 * (r->preference + 1) + (i == ra->current ? 1 : 0);
    if (score <= best_score) continue;
    best = i;
    best_score = score;
  }
  if (best == ra->current) return;
  if (ra->current != NP_ROUTERS_MAX) np_route_unlearn(ip, &any, 0, &ra->router[ra->current].addr, ifc->index);
  ra->current = best;
  if (best != NP_ROUTERS_MAX) (void)np_route_learn(ip, &any, 0, &ra->router[best].addr, ifc->index); /* one per interface: fits */
}

static void forget_router(struct np_ip *ip, struct np_iface *ifc, uint32_t at) {
  struct np_ra *ra = &ifc->ra;
  if (ra->current == at) {
    np_route_unlearn(ip, &any, 0, &ra->router[at].addr, ifc->index);
    ra->current = NP_ROUTERS_MAX;
  }
  ra->router[at].until_ns = 0;
}

static uint32_t router_index(const struct np_ra *ra, const struct np_addr *addr) {
  for (uint32_t i = 0; i < NP_ROUTERS_MAX; i++) {
    if (ra->router[i].until_ns != 0 && np_addr_eq(&ra->router[i].addr, addr)) return i;
  }
  return NP_ROUTERS_MAX;
}

void np_ra_neighbor_failed(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  if (ifc->ra.current != NP_ROUTERS_MAX && router_index(&ifc->ra, addr) == ifc->ra.current) choose(ip, ifc);
}

void np_ra_no_router(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  uint32_t at = router_index(&ifc->ra, addr);
  if (at == NP_ROUTERS_MAX) return;
  forget_router(ip, ifc, at);
  choose(ip, ifc);
}

/* Return: false when there are as many already. */
static bool take_router(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *src, const uint8_t *p, uint64_t now_ns) {
  static const int8_t preference[4] = {0, 1, 0, -1}; /* RFC 4191 §2.1; 10 is reserved and means 00 */
  struct np_ra *ra = &ifc->ra;
  uint32_t lifetime_s = np_load_be16(p + RA_LIFETIME);
  uint32_t at = router_index(ra, src);
  if (lifetime_s == 0) {
    if (at != NP_ROUTERS_MAX) forget_router(ip, ifc, at);
  } else {
    for (uint32_t i = 0; at == NP_ROUTERS_MAX && i < NP_ROUTERS_MAX; i++) {
      if (ra->router[i].until_ns == 0) at = i;
    }
    if (at == NP_ROUTERS_MAX) return false;
    ra->router[at] = (struct np_router){
        .addr = *src, .until_ns = until(lifetime_s, now_ns), .preference = preference[p[RA_FLAGS] >> 3 & 3]};
  }
  choose(ip, ifc);
  return true;
}

static void on_link(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *prefix, uint8_t bits, uint32_t valid_s,
                    uint64_t now_ns) {
  struct np_prefix *free = NULL;
  for (uint32_t i = 0; i < NP_PREFIXES_MAX; i++) {
    struct np_prefix *x = &ifc->ra.prefix[i];
    if (x->until_ns == 0) {
      if (free == NULL) free = x;
      continue;
    }
    if (x->bits != bits || np_addr_common_bits(&x->prefix, prefix) < bits) continue;
    x->until_ns = valid_s == 0 ? 0 : until(valid_s, now_ns);
    if (valid_s == 0) np_route_unlearn(ip, &x->prefix, bits, &any, ifc->index);
    return;
  }
  if (valid_s == 0 || free == NULL) return; /* more than we keep: those come by the router */
  if (np_route_learn(ip, prefix, bits, &any, ifc->index) != NP_ERR_OK) return;
  *free = (struct np_prefix){.prefix = *prefix, .bits = bits, .until_ns = until(valid_s, now_ns)};
}

/* RFC 4862 §5.5.3 (d) */
static void make_address(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *own, uint64_t preferred_ns, uint64_t valid_ns,
                         uint64_t now_ns) {
  uint32_t made = 0;
  for (uint32_t i = 0; i < ifc->addr_count; i++) made += ifc->addr[i].origin == NP_ADDR_SLAAC;
  /* Half of the room at most: the operator's own addresses must still fit. */
  if (made >= NP_SLAAC_MAX || np_ip_is_local(ip, own)) return;
  /* 128 bits: which prefixes are on link is told apart (RFC 5942 §4). */
  if (np_addr_insert(ip, ifc, own, 128, NP_ADDR_SLAAC) != NP_ERR_OK) return;
  uint32_t at = ifc->addr_count - 1;
  np_addr_set_life(ip, ifc, at, preferred_ns, valid_ns, now_ns);
  if (ifc->up) np_addr_start(ip, ifc, at, now_ns);
  if (ip->env.addr_changed != NULL) ip->env.addr_changed(ip->env.ctx, ifc->index);
}

static void autoconf(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *prefix, uint32_t valid_s, uint32_t preferred_s,
                     uint64_t now_ns) {
  struct np_addr base = *prefix;
  memset(base.b + 8, 0, 8);
  struct np_addr own = np_addr_make(ifc, &base);
  uint64_t preferred_ns = until(preferred_s, now_ns);
  uint64_t valid_ns = until(valid_s, now_ns);
  uint32_t at = np_addr_index(ifc, &own);
  if (at == NP_ADDR_NONE) {
    if (valid_s != 0) make_address(ip, ifc, &own, preferred_ns, valid_ns, now_ns);
    return;
  }
  if (ifc->addr[at].origin != NP_ADDR_SLAAC) return; /* the operator's */
  uint64_t was_ns = ifc->life[at].valid_ns;
  uint64_t left_ns = was_ns == UINT64_MAX ? UINT64_MAX : was_ns - np_min_u64(was_ns, now_ns);
  /* (e): nobody may end our addresses from one moment to the next with a forged message. */
  bool longer = valid_ns == UINT64_MAX || valid_ns - now_ns > TWO_HOURS_NS || valid_ns - now_ns > left_ns;
  if (!longer) valid_ns = left_ns <= TWO_HOURS_NS ? ifc->life[at].valid_ns : now_ns + TWO_HOURS_NS;
  np_addr_set_life(ip, ifc, at, np_min_u64(preferred_ns, valid_ns), valid_ns, now_ns);
}

static void prefix_option(struct np_ip *ip, struct np_iface *ifc, const uint8_t *o, uint64_t now_ns) {
  struct np_addr prefix = np_addr_from_v6(o + 16);
  uint8_t bits = o[2];
  uint32_t valid_s = np_load_be32(o + 4);
  uint32_t preferred_s = np_load_be32(o + 8);
  if (bits > 128 || preferred_s > valid_s) return;
  if (np_addr_is_link_local(&prefix) || !np_addr_is_host(&prefix) || np_addr_is_v4(&prefix)) return;
  /* Shorter would put much of the world on link. */
  if ((o[3] & PREFIX_ON_LINK) != 0 && bits >= 16) on_link(ip, ifc, &prefix, bits, valid_s, now_ns);
  if ((o[3] & PREFIX_AUTO) != 0 && bits + ID_BITS == 128) autoconf(ip, ifc, &prefix, valid_s, preferred_s, now_ns);
}

static void parameters(struct np_ip *ip, struct np_iface *ifc, const uint8_t *p) {
  struct np_ra *ra = &ifc->ra;
  uint64_t reachable_ns = np_load_be32(p + RA_REACHABLE) * NS_PER_MS;
  uint64_t retrans_ns = np_load_be32(p + RA_RETRANS) * NS_PER_MS;
  if (reachable_ns >= REACHABLE_MIN_NS && reachable_ns <= REACHABLE_MAX_NS) ra->reachable_ns = reachable_ns;
  if (retrans_ns >= RETRANS_MIN_NS && retrans_ns <= RETRANS_MAX_NS) ra->retrans_ns = retrans_ns;
  if (p[RA_HOPS] >= HOPS_MIN && p[RA_HOPS] != ra->hops) {
    ra->hops = p[RA_HOPS];
    np_ip_invalidate(ip);
  }
}

static void mtu_option(struct np_ip *ip, struct np_iface *ifc, const uint8_t *o) {
  uint32_t mtu = np_load_be32(o + 4);
  if (mtu < MTU_MIN || mtu > ifc->mtu_bytes || mtu == ifc->ra.mtu_bytes) return;
  ifc->ra.mtu_bytes = (uint16_t)mtu;
  np_ip_invalidate(ip);
}

static bool well_formed(const uint8_t *p, uint32_t len) {
  for (uint32_t at = RA_BYTES; at < len;) { /* bound: each option is eight bytes at least */
    if (len - at < OPT_BYTES) return false;
    uint32_t bytes = (uint32_t)p[at + 1] * 8;
    if (bytes == 0 || bytes > len - at) return false;
    at += bytes;
  }
  return true;
}

static void options(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *src, const uint8_t *p, uint32_t len, uint64_t now_ns) {
  for (uint32_t at = RA_BYTES; at < len; at += (uint32_t)p[at + 1] * 8) { /* bound: well_formed looked at it */
    const uint8_t *o = p + at;
    uint32_t bytes = (uint32_t)o[1] * 8;
    if (o[0] == NP_ND_OPT_PREFIX && bytes == PREFIX_BYTES) {
      prefix_option(ip, ifc, o, now_ns);
    } else if (o[0] == NP_ND_OPT_MTU && bytes == OPT_BYTES) {
      mtu_option(ip, ifc, o);
    } else if (o[0] == NP_ND_OPT_SLLA && bytes == OPT_BYTES) {
      struct np_mac mac;
      memcpy(mac.b, o + 2, 6);
      bool ours = router_index(&ifc->ra, src) != NP_ROUTERS_MAX;
      if (ours && np_mac_is_station(&mac)) np_neigh_learn(ip, ifc, src, &mac, now_ns);
    }
  }
}

enum np_drop np_ra_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  const uint8_t *p = np_buf_cdata(pkt->buf) + pkt->l4_off;
  const struct np_addr *src = &pkt->flow.remote;
  /* RFC 4861 §6.1.2 */
  if (pkt->ttl != 255 || !np_addr_is_link_local(src) || pkt->l4_len < RA_BYTES || p[1] != 0) return NP_DROP_ND_MALFORMED;
  if (!well_formed(p, pkt->l4_len)) return NP_DROP_ND_MALFORMED;
  if (!ifc->ra.on) return NP_DROP_ND_IGNORED;
  if (np_addr_index(ifc, src) != NP_ADDR_NONE) return NP_DROP_ND_LOOPED;
  if (!take_router(ip, ifc, src, p, now_ns)) return NP_DROP_ND_LIMIT;
  parameters(ip, ifc, p);
  options(ip, ifc, src, p, pkt->l4_len, now_ns);
  if (np_load_be16(p + RA_LIFETIME) != 0) ifc->ra.solicit_ns = 0; /* RFC 7559 §2: somebody is there */
  np_iface_arm(ip, ifc);
  ++*np_ip_counter(ip, NP_C_ND_RA_RX);
  np_buf_put(pkt->buf);
  return NP_WIRE_OK;
}

void np_ra_start(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns) {
  if (!ifc->ra.on) return;
  ifc->ra.solicit_ns = now_ns + 1 + np_rng_u64(&ip->rng) % SOLICIT_DELAY_NS;
  ifc->ra.solicit_gap_ns = SOLICIT_GAP_NS;
}

void np_ra_stop(struct np_ip *ip, struct np_iface *ifc) {
  (void)ip;
  ifc->ra.solicit_ns = 0;
}

uint64_t np_ra_due(const struct np_iface *ifc) {
  const struct np_ra *ra = &ifc->ra;
  uint64_t due = ra->solicit_ns == 0 ? UINT64_MAX : ra->solicit_ns;
  for (uint32_t i = 0; i < NP_ROUTERS_MAX; i++) {
    if (ra->router[i].until_ns != 0) due = np_min_u64(due, ra->router[i].until_ns);
  }
  for (uint32_t i = 0; i < NP_PREFIXES_MAX; i++) {
    if (ra->prefix[i].until_ns != 0) due = np_min_u64(due, ra->prefix[i].until_ns);
  }
  return due;
}

void np_ra_timer(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns) {
  struct np_ra *ra = &ifc->ra;
  for (uint32_t i = 0; i < NP_ROUTERS_MAX; i++) {
    if (ra->router[i].until_ns == 0 || ra->router[i].until_ns > now_ns) continue;
    forget_router(ip, ifc, i);
    choose(ip, ifc);
  }
  for (uint32_t i = 0; i < NP_PREFIXES_MAX; i++) {
    struct np_prefix *x = &ra->prefix[i];
    if (x->until_ns == 0 || x->until_ns > now_ns) continue;
    np_route_unlearn(ip, &x->prefix, x->bits, &any, ifc->index);
    x->until_ns = 0;
  }
  if (ra->solicit_ns == 0 || ra->solicit_ns > now_ns) return;
  if (!ip->config.silent) np_nd_router_solicit(ip, ifc);
  /* A tenth more or less, so that hosts that lost their router together do not ask in step. */
  uint64_t gap = ra->solicit_gap_ns;
  ra->solicit_ns = now_ns + gap - gap / 10 + np_rng_u64(&ip->rng) % (gap / 5);
  ra->solicit_gap_ns = np_min_u64(2 * gap, SOLICIT_GAP_MAX_NS);
}
