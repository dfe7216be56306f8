/* Addresses of an interface and their states: duplicate address detection for
 * IPv6 (RFC 4862 §5.4, RFC 7527), conflict detection for IPv4 (RFC 5227),
 * announcements, defence. One timer per interface serves all of it. */
#include "ip/internal.h"

#define NS_PER_S UINT64_C(1000000000)
#define FIRST_DELAY_NS NS_PER_S /* random up to this: RFC 4862 §5.4.2, RFC 5227 PROBE_WAIT */
#define ACD_PROBES 3u           /* RFC 5227 §1.1: PROBE_NUM, PROBE_MIN, PROBE_MAX, ANNOUNCE_WAIT */
#define ACD_GAP_NS NS_PER_S
#define ACD_WAIT_NS (2 * NS_PER_S)
#define ANNOUNCE_GAP_NS (2 * NS_PER_S) /* ANNOUNCE_INTERVAL; over RetransTimer for RFC 4861 §7.2.6 */
#define DEFEND_GAP_NS (10 * NS_PER_S)  /* RFC 5227 DEFEND_INTERVAL, for both families */

uint32_t np_addr_index(const struct np_iface *ifc, const struct np_addr *addr) {
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    if (np_addr_eq(&ifc->addr[i].addr, addr)) return i;
  }
  return NP_ADDR_NONE;
}

/* Not for what the caller did itself: adding and removing. */
static void changed(struct np_ip *ip, const struct np_iface *ifc) {
  np_ip_invalidate(ip);
  if (ip->env.addr_changed != NULL) ip->env.addr_changed(ip->env.ctx, ifc->index);
}

static uint32_t probes_of(const struct np_iface *ifc, const struct np_addr *addr) {
  if (np_addr_is_v4(addr)) return ifc->acd ? ACD_PROBES : 0;
  return ifc->dad_transmits;
}

static void announce(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  if (ip->config.silent) return;
  if (np_addr_is_v4(addr)) {
    np_arp_announce(ip, ifc, addr);
  } else {
    np_nd_announce(ip, ifc, addr);
  }
}

static void probe(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  if (ip->config.silent) return;
  if (np_addr_is_v4(addr)) {
    np_arp_probe(ip, ifc, addr);
  } else {
    np_nd_probe(ip, ifc, addr);
  }
}

enum np_err np_addr_insert(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr, uint8_t bits,
                           enum np_addr_origin origin) {
  if (ifc->addr_count == NP_IFACE_ADDR_MAX) return NP_ERR_FULL;
  enum np_err err = np_route_insert(ip, addr, bits, &(struct np_addr){{0}}, ifc->index, true);
  if (err != NP_ERR_OK) return err;
  uint8_t state = probes_of(ifc, addr) == 0 ? NP_ADDR_PREFERRED : NP_ADDR_TENTATIVE;
  ifc->addr[ifc->addr_count] = (struct np_iface_addr){.addr = *addr, .bits = bits, .state = state, .origin = (uint8_t)origin};
  ifc->life[ifc->addr_count] = (struct np_addr_life){.preferred_ns = UINT64_MAX, .valid_ns = UINT64_MAX};
  ifc->addr_count++;
  np_ip_invalidate(ip);
  return NP_ERR_OK;
}

void np_addr_remove(struct np_ip *ip, struct np_iface *ifc, uint32_t at) {
  struct np_iface_addr gone = ifc->addr[at];
  uint32_t behind = --ifc->addr_count - at;
  memmove(&ifc->addr[at], &ifc->addr[at + 1], behind * sizeof ifc->addr[0]);
  memmove(&ifc->life[at], &ifc->life[at + 1], behind * sizeof ifc->life[0]);
  np_route_remove_connected(ip, &gone.addr, gone.bits, ifc->index);
  np_mld_left(ip, ifc, &gone.addr);
  np_ip_invalidate(ip);
}

/* The first announcement goes at once, the others from the timer. */
static void announce_first(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t now_ns) {
  struct np_addr_life *l = &ifc->life[at];
  announce(ip, ifc, &ifc->addr[at].addr);
  l->sent = 1;
  l->due_ns = l->sent < ifc->announces ? now_ns + ANNOUNCE_GAP_NS : 0;
}

void np_addr_start(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t now_ns) {
  struct np_iface_addr *a = &ifc->addr[at];
  struct np_addr_life *l = &ifc->life[at];
  np_mld_joined(ifc, now_ns); /* before the first probe: RFC 4862 §5.4.2 */
  if (np_addr_is_usable(a)) {
    announce_first(ip, ifc, at, now_ns);
    return;
  }
  a->state = NP_ADDR_TENTATIVE; /* a duplicate gets another chance when the link comes back */
  l->sent = 0;
  l->due_ns = now_ns + 1 + np_rng_u64(&ip->rng) % FIRST_DELAY_NS;
  changed(ip, ifc);
}

void np_addr_stop(struct np_ip *ip, struct np_iface *ifc) {
  for (uint32_t i = 0; i < ifc->addr_count; i++) ifc->life[i].due_ns = 0;
  np_iface_arm(ip, ifc);
}

/* One probe more, or the end of the wait for an answer to the last. */
static void step_tentative(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t now_ns) {
  struct np_iface_addr *a = &ifc->addr[at];
  struct np_addr_life *l = &ifc->life[at];
  bool v4 = np_addr_is_v4(&a->addr);
  uint32_t probes = probes_of(ifc, &a->addr);
  if (l->sent < probes) {
    probe(ip, ifc, &a->addr);
    l->sent++;
    if (!v4) {
      l->due_ns = now_ns + NP_NEIGH_RETRANS_NS;
    } else {
      l->due_ns = now_ns + (l->sent < probes ? ACD_GAP_NS + np_rng_u64(&ip->rng) % ACD_GAP_NS : ACD_WAIT_NS);
    }
    return;
  }
  a->state = l->preferred_ns > now_ns ? NP_ADDR_PREFERRED : NP_ADDR_DEPRECATED;
  changed(ip, ifc);
  announce_first(ip, ifc, at, now_ns);
}

static void step_usable(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t now_ns) {
  struct np_addr_life *l = &ifc->life[at];
  announce(ip, ifc, &ifc->addr[at].addr);
  l->sent++;
  l->due_ns = l->sent < ifc->announces ? now_ns + ANNOUNCE_GAP_NS : 0;
}

void np_addr_conflict(struct np_ip *ip, struct np_iface *ifc, uint32_t at, const struct np_mac *rival, uint64_t now_ns) {
  struct np_iface_addr *a = &ifc->addr[at];
  struct np_addr_life *l = &ifc->life[at];
  if (a->state == NP_ADDR_DUPLICATE) return; /* it is theirs */
  l->rival = *rival;
  if (l->conflicts != UINT32_MAX) l->conflicts++;
  if (a->state == NP_ADDR_TENTATIVE) {
    a->state = NP_ADDR_DUPLICATE;
    l->due_ns = 0;
    ++*np_ip_counter(ip, NP_C_ADDR_DUPLICATE);
    changed(ip, ifc);
    np_iface_arm(ip, ifc);
    return;
  }
  ++*np_ip_counter(ip, NP_C_ADDR_CONFLICT);
  if (ip->env.addr_changed != NULL) ip->env.addr_changed(ip->env.ctx, ifc->index);
  /* RFC 5227 §2.4 (c): a server keeps its address and says so, but two that both do must not
   * fill the link with it. RFC 4862 §5.4.4 leaves IPv6 to us: the same. */
  if (l->conflict_ns != 0 && now_ns - l->conflict_ns < DEFEND_GAP_NS) return;
  l->conflict_ns = now_ns;
  if (ip->config.silent) return;
  announce(ip, ifc, &a->addr);
  ++*np_ip_counter(ip, NP_C_ADDR_DEFENDED);
}

/* RFC 8064 wants identifiers that tell nothing of the MAC; ours has another reason: the kernel makes
 * addresses from the same MAC. The same on each start, another for each prefix and VLAN. */
static void opaque_id(const struct np_iface *ifc, const struct np_addr *prefix, uint8_t out[8]) {
  static const struct np_hash_key key = {{UINT64_C(0x6e702d6f70617175), UINT64_C(0x652d69645f5f3031)}};
  struct np_addr seed = *prefix;
  memcpy(seed.b + 8, ifc->mac.b, 6);
  np_store_be16(seed.b + 14, ifc->vlan);
  np_store_64(out, np_hash_addr(&seed, &key));
  out[0] = (uint8_t)((out[0] & ~1u) | 2u); /* none of RFC 5453's reserved ones begins so: 00 and fd */
}

struct np_addr np_addr_make(const struct np_iface *ifc, const struct np_addr *prefix) {
  const uint8_t *m = ifc->mac.b;
  const uint8_t eui[8] = {m[0] ^ 0x02, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}; /* RFC 4291 appendix A */
  struct np_addr out = *prefix;
  if (ifc->opaque) {
    opaque_id(ifc, prefix, out.b + 8);
  } else {
    memcpy(out.b + 8, eui, sizeof eui);
  }
  return out;
}

void np_addr_set_life(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t preferred_ns, uint64_t valid_ns, uint64_t now_ns) {
  struct np_iface_addr *a = &ifc->addr[at];
  ifc->life[at].preferred_ns = preferred_ns;
  ifc->life[at].valid_ns = valid_ns;
  if (!np_addr_is_usable(a)) return;
  uint8_t state = preferred_ns > now_ns ? NP_ADDR_PREFERRED : NP_ADDR_DEPRECATED;
  if (a->state == state) return;
  a->state = state;
  changed(ip, ifc);
}

/* Ends what routers gave for a time only. */
static void expire(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns) {
  for (uint32_t i = ifc->addr_count; i > 0; i--) {
    const struct np_addr_life *l = &ifc->life[i - 1];
    if (l->valid_ns <= now_ns) {
      np_addr_remove(ip, ifc, i - 1);
      changed(ip, ifc);
    } else if (l->preferred_ns <= now_ns) {
      np_addr_set_life(ip, ifc, i - 1, l->preferred_ns, l->valid_ns, now_ns);
    }
  }
}

void np_iface_arm(struct np_ip *ip, struct np_iface *ifc) {
  uint64_t due = np_ra_due(ifc);
  if (ifc->mld.due_ns != 0) due = np_min_u64(due, ifc->mld.due_ns);
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    const struct np_addr_life *l = &ifc->life[i];
    if (l->due_ns != 0) due = np_min_u64(due, l->due_ns);
    due = np_min_u64(due, l->valid_ns);
    if (ifc->addr[i].state == NP_ADDR_PREFERRED) due = np_min_u64(due, l->preferred_ns);
  }
  if (due == UINT64_MAX) {
    np_timer_cancel(ip->env.wheel, &ifc->timer);
  } else {
    np_timer_set(ip->env.wheel, &ifc->timer, NP_TIMER_IFACE, due);
  }
}

static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_ip *ip = ctx;
  struct np_iface *ifc = NP_CONTAINER_OF(timer, struct np_iface, timer);
  expire(ip, ifc, now_ns);
  np_ra_timer(ip, ifc, now_ns);
  np_mld_timer(ip, ifc, now_ns);
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    uint64_t due = ifc->life[i].due_ns;
    if (due == 0 || due > now_ns) continue;
    if (ifc->addr[i].state == NP_ADDR_TENTATIVE) {
      step_tentative(ip, ifc, i, now_ns);
    } else {
      step_usable(ip, ifc, i, now_ns);
    }
  }
  np_iface_arm(ip, ifc);
}

void np_addr_init(struct np_ip *ip) { np_wheel_handle(ip->env.wheel, NP_TIMER_IFACE, on_timer, ip); }

static uint32_t left_s(uint64_t until_ns, uint64_t now_ns) {
  if (until_ns == UINT64_MAX) return UINT32_MAX;
  return until_ns <= now_ns ? 0 : (uint32_t)np_min_u64((until_ns - now_ns) / NS_PER_S, UINT32_MAX - 1);
}

uint32_t np_ip_addresses(const struct np_ip *ip, uint32_t *cursor, struct np_addr_info *out, uint32_t max, uint64_t now_ns) {
  uint32_t n = 0;
  uint32_t i = *cursor;
  for (; i < NP_IFACE_MAX * NP_IFACE_ADDR_MAX && n < max; i++) {
    const struct np_iface *ifc = &ip->iface[i / NP_IFACE_ADDR_MAX];
    uint32_t at = i % NP_IFACE_ADDR_MAX;
    if (!ifc->used || at >= ifc->addr_count) continue;
    const struct np_iface_addr *a = &ifc->addr[at];
    const struct np_addr_life *l = &ifc->life[at];
    struct np_addr_info *info = &out[n++];
    *info = (struct np_addr_info){.iface = ifc->index, .state = a->state, .origin = a->origin, .conflicts = l->conflicts};
    info->prefix_bits = (uint8_t)(a->bits - (np_addr_is_v4(&a->addr) ? 96 : 0));
    info->valid_s = left_s(l->valid_ns, now_ns);
    info->preferred_s = left_s(l->preferred_ns, now_ns);
    memcpy(info->addr, a->addr.b, sizeof info->addr);
    memcpy(info->rival, l->rival.b, sizeof info->rival);
  }
  *cursor = i < NP_IFACE_MAX * NP_IFACE_ADDR_MAX ? i : 0;
  return n;
}
