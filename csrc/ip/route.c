/* The routing table: sorted by prefix length, so that the first match is the
 * longest. Looked at when a path is made, not per packet, which is why a scan
 * of at most a few hundred entries is good enough. */
#include "ip/internal.h"

#define V4_PREFIX 96u

static bool matches(const struct np_route *r, const struct np_addr *dst, bool v4) {
  if (v4 && r->bits < V4_PREFIX) return false; /* ::/0 holds no IPv4 address */
  return np_addr_common_bits(&r->prefix, dst) >= r->bits;
}

static struct np_addr masked(const struct np_addr *addr, uint8_t bits) {
  struct np_addr out = *addr;
  for (uint32_t i = 0; i < 16; i++) {
    uint32_t keep = bits > i * 8 ? np_min_u32(bits - i * 8, 8) : 0;
    out.b[i] &= (uint8_t)(0xff00u >> keep);
  }
  return out;
}

/* All ones or all zeros behind an IPv4 prefix of up to 30 bits: no host (RFC 1122
 * §3.2.1.3, RFC 3021 for longer ones). */
static bool is_subnet_broadcast(const struct np_route *r, const struct np_addr *dst) {
  if (!r->connected || r->bits < V4_PREFIX || r->bits > V4_PREFIX + 30) return false;
  uint32_t host = UINT32_MAX >> (r->bits - V4_PREFIX);
  uint32_t low = np_load_be32(dst->b + 12) & host;
  return low == 0 || low == host;
}

const struct np_route *np_route_find(const struct np_ip *ip, const struct np_addr *dst) {
  bool v4 = np_addr_is_v4(dst);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    if (!matches(r, dst, v4) || !ip->iface[r->iface].up) continue;
    return v4 && is_subnet_broadcast(r, dst) ? NULL : r;
  }
  return NULL;
}

const struct np_route *np_route_find_from(const struct np_ip *ip, const struct np_addr *dst, const struct np_addr *src) {
  const struct np_route *first = np_route_find(ip, dst);
  if (first == NULL || !first->connected) return first;
  const struct np_route *end = ip->route + ip->route_count;
  for (const struct np_route *r = first; r < end && r->connected && r->bits == first->bits; r++) { /* bound: the table */
    bool same = np_addr_eq(&r->prefix, &first->prefix) && ip->iface[r->iface].up;
    if (same && np_iface_has(&ip->iface[r->iface], src)) return r;
  }
  return first;
}

bool np_route_is_down(const struct np_ip *ip, const struct np_addr *dst) {
  bool v4 = np_addr_is_v4(dst);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    if (matches(r, dst, v4) && !ip->iface[r->iface].up) return true;
  }
  return false;
}

bool np_route_on_link(const struct np_ip *ip, const struct np_addr *addr, uint16_t iface) {
  bool v4 = np_addr_is_v4(addr);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    if (r->iface != iface || !matches(r, addr, v4)) continue;
    return np_addr_is_zero(&r->via) && !(v4 && is_subnet_broadcast(r, addr));
  }
  return false;
}

/* Of routes with the same prefix length: connected ones first, then configured, then learned. */
static uint32_t rank(bool connected, bool learned) { return connected ? 0 : learned ? 2 : 1; }

static enum np_err insert(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via, uint16_t iface,
                          bool connected, bool learned) {
  static const uint32_t max[] = {NP_CONNECTED_MAX, NP_ROUTE_MAX, NP_LEARNED_MAX};
  struct np_addr base = masked(prefix, bits);
  uint32_t at = ip->route_count;
  uint32_t others = 0;
  uint32_t own = rank(connected, learned);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    uint32_t theirs = rank(r->connected, r->learned);
    others += theirs == own;
    bool before = bits > r->bits || (bits == r->bits && own < theirs);
    if (before && at == ip->route_count) at = i;
    /* Two addresses of one subnet make two connected routes, so that removing one keeps the other;
     * two interfaces may hear of one prefix. */
    if (own == 1 && theirs == 1 && r->bits == bits && np_addr_eq(&r->prefix, &base)) return NP_ERR_EXISTS;
  }
  if (others == max[own]) return NP_ERR_FULL;
  memmove(&ip->route[at + 1], &ip->route[at], (ip->route_count - at) * sizeof ip->route[0]);
  ip->route[at] =
      (struct np_route){.prefix = base, .via = *via, .iface = iface, .bits = bits, .connected = connected, .learned = learned};
  ip->route_count++;
  np_ip_invalidate(ip);
  return NP_ERR_OK;
}

enum np_err np_route_insert(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via,
                            uint16_t iface, bool connected) {
  return insert(ip, prefix, bits, via, iface, connected, false);
}

enum np_err np_route_learn(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via, uint16_t iface) {
  return insert(ip, prefix, bits, via, iface, false, true);
}

static void remove_at(struct np_ip *ip, uint32_t at) {
  ip->route_count--;
  memmove(&ip->route[at], &ip->route[at + 1], (ip->route_count - at) * sizeof ip->route[0]);
  np_ip_invalidate(ip);
}

void np_route_unlearn(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via, uint16_t iface) {
  struct np_addr base = masked(prefix, bits);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    bool same = r->learned && r->iface == iface && r->bits == bits && np_addr_eq(&r->prefix, &base) && np_addr_eq(&r->via, via);
    if (!same) continue;
    remove_at(ip, i);
    return;
  }
}

void np_route_remove_connected(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, uint16_t iface) {
  struct np_addr base = masked(prefix, bits);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    if (!r->connected || r->iface != iface || r->bits != bits || !np_addr_eq(&r->prefix, &base)) continue;
    remove_at(ip, i);
    return;
  }
}

void np_route_remove_iface(struct np_ip *ip, uint16_t iface) {
  for (uint32_t i = ip->route_count; i > 0; i--) {
    if (ip->route[i - 1].iface == iface) remove_at(ip, i - 1);
  }
}

/* The prefix length in 128 bits; false when it is too long for the family. */
static bool width(const struct np_addr *prefix, uint8_t prefix_bits, uint8_t *bits) {
  bool v4 = np_addr_is_v4(prefix);
  if (prefix_bits > (v4 ? 32 : 128)) return false;
  *bits = (uint8_t)(prefix_bits + (v4 ? V4_PREFIX : 0));
  return true;
}

enum np_err np_ip_route_add(struct np_ip *ip, const struct np_addr *prefix, uint8_t prefix_bits, const struct np_addr *via, uint16_t iface) {
  uint8_t bits;
  if (!width(prefix, prefix_bits, &bits)) return NP_ERR_INVALID;
  if (iface >= NP_IFACE_MAX || !ip->iface[iface].used) return NP_ERR_NODEV;
  if (!np_addr_is_zero(via)) {
    if (np_addr_is_v4(via) != np_addr_is_v4(prefix) || !np_addr_is_host(via)) return NP_ERR_INVALID;
    if (!np_route_on_link(ip, via, iface) || np_ip_is_local(ip, via)) return NP_ERR_INVALID;
  }
  return np_route_insert(ip, prefix, bits, via, iface, false);
}

enum np_err np_ip_route_del(struct np_ip *ip, const struct np_addr *prefix, uint8_t prefix_bits) {
  uint8_t bits;
  if (!width(prefix, prefix_bits, &bits)) return NP_ERR_INVALID;
  struct np_addr base = masked(prefix, bits);
  for (uint32_t i = 0; i < ip->route_count; i++) {
    const struct np_route *r = &ip->route[i];
    if (r->connected || r->learned || r->bits != bits || !np_addr_eq(&r->prefix, &base)) continue;
    remove_at(ip, i);
    return NP_ERR_OK;
  }
  return NP_ERR_NOTFOUND;
}

int32_t np_ip_route_port(struct np_ip *ip, const struct np_addr *dst) {
  const struct np_route *r = np_addr_is_host(dst) ? np_route_find(ip, dst) : NULL;
  return r == NULL ? -1 : ip->iface[r->iface].port;
}

uint32_t np_ip_mtu(struct np_ip *ip, const struct np_addr *dst) {
  const struct np_route *r = np_addr_is_host(dst) ? np_route_find(ip, dst) : NULL;
  return r == NULL ? 0 : np_iface_mtu(&ip->iface[r->iface], np_addr_is_v4(dst));
}
