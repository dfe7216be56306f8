/* Interfaces, VLAN sub-interfaces and addresses. */
#include "ip/internal.h"

#define MTU_MIN 1280u
#define MTU_MAX 9000u
#define VID_MAX 4094u
#define V4_PREFIX 96u

void np_ip_invalidate(struct np_ip *ip) {
  ip->generation++;
  if (ip->generation == 0) ip->generation = 1;
}

struct np_iface *np_iface_find(struct np_ip *ip, uint16_t port, uint16_t vlan) {
  uint32_t key = (uint32_t)port << 16 | vlan;
  for (uint32_t i = 0; i < ip->iface_end; i++) {
    if (ip->iface_key[i] == key) return &ip->iface[i];
  }
  return NULL;
}

bool np_iface_has(const struct np_iface *ifc, const struct np_addr *addr) {
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    if (np_addr_eq(&ifc->addr[i].addr, addr)) return np_addr_is_usable(&ifc->addr[i]);
  }
  return false;
}

bool np_ip_is_local(const struct np_ip *ip, const struct np_addr *addr) {
  for (uint32_t i = 0; i < ip->iface_end; i++) {
    if (ip->iface[i].used && np_iface_has(&ip->iface[i], addr)) return true;
  }
  return false;
}

bool np_ip_owns(const struct np_ip *ip, const struct np_addr *addr) {
  for (uint32_t i = 0; i < ip->iface_end; i++) { /* bound: NP_IFACE_MAX */
    if (ip->iface[i].used && np_addr_index(&ip->iface[i], addr) != NP_ADDR_NONE) return true;
  }
  return false;
}

uint32_t np_addr_common_bits(const struct np_addr *a, const struct np_addr *b) {
  uint64_t high = np_load_be64(a->b) ^ np_load_be64(b->b);
  if (high != 0) return (uint32_t)__builtin_clzll(high);
  uint64_t low = np_load_be64(a->b + 8) ^ np_load_be64(b->b + 8);
  return low == 0 ? 128 : 64 + (uint32_t)__builtin_clzll(low);
}

bool np_addr_is_host(const struct np_addr *a) {
  if (np_addr_is_v4(a)) return a->b[12] != 0 && a->b[12] != 127 && a->b[12] < 224;
  if (a->b[0] == 0xff) return false;
  return np_load_64(a->b) != 0 || np_load_be64(a->b + 8) > 1; /* neither :: nor ::1 */
}

bool np_iface_joined(const struct np_iface *ifc, const struct np_addr *group) {
  static const struct np_addr all_nodes = {{0xff, 0x02, [15] = 1}};
  if (np_addr_eq(group, &all_nodes)) return true;
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    if (np_addr_is_v4(&ifc->addr[i].addr)) continue;
    struct np_addr own = np_nd_solicited_node(&ifc->addr[i].addr);
    if (np_addr_eq(group, &own)) return true;
  }
  return false;
}

/* RFC 6724 §2.1, the default policy table's labels. */
static uint32_t label(const struct np_addr *a) {
  static const struct {
    struct np_addr prefix;
    uint8_t bits;
    uint8_t label;
  } table[] = { /* longest first */
      {{{[10] = 0xff, [11] = 0xff}}, 96, 4}, {{{0x20, 0x01}}, 32, 5}, {{{0x20, 0x02}}, 16, 2},
      {{{0x3f, 0xfe}}, 16, 12},              {{{0xfe, 0xc0}}, 10, 11}, {{{0xfc}}, 7, 13},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(table); i++) { /* bound: the table */
    if (np_addr_common_bits(a, &table[i].prefix) >= table[i].bits) return table[i].label;
  }
  return 1;
}

/* RFC 6724 §5: same family, then rule 2 (scope), 3 (not deprecated), 6 (label), 8 (longest match, up
 * to the source's own prefix). Rules 1, 4 and 7 have nothing to choose from here; rule 5 is the
 * caller's. 0: not usable. */
#define SCORE_SCOPE 1024u
#define SCORE_FRESH 512u
#define SCORE_LABEL 256u
static uint32_t source_score(const struct np_iface_addr *own, const struct np_addr *remote) {
  if (!np_addr_is_usable(own) || np_addr_is_v4(&own->addr) != np_addr_is_v4(remote)) return 0;
  uint32_t score = 1 + np_min_u32(np_addr_common_bits(&own->addr, remote), own->bits);
  if (np_addr_is_link_local(&own->addr) == np_addr_is_link_local(remote)) score += SCORE_SCOPE;
  if (own->state != NP_ADDR_DEPRECATED) score += SCORE_FRESH;
  if (label(&own->addr) == label(remote)) score += SCORE_LABEL;
  return score;
}

static uint32_t best_source(const struct np_iface *ifc, const struct np_addr *remote, bool wide, struct np_addr *out) {
  uint32_t best = 0;
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    if (wide && np_addr_is_link_local(&ifc->addr[i].addr)) continue;
    uint32_t score = source_score(&ifc->addr[i], remote);
    if (score <= best) continue;
    best = score;
    *out = ifc->addr[i].addr;
  }
  return best;
}

bool np_iface_source(const struct np_iface *ifc, const struct np_addr *remote, struct np_addr *out) {
  return best_source(ifc, remote, false, out) != 0;
}

bool np_iface_ask_source(const struct np_iface *ifc, const struct np_addr *target, struct np_addr *out) {
  return best_source(ifc, target, true, out) != 0 || np_iface_source(ifc, target, out);
}

enum np_err np_ip_source(const struct np_ip *ip, const struct np_addr *remote, struct np_addr *out) {
  const struct np_route *route = np_route_find(ip, remote);
  if (route == NULL || !np_addr_is_host(remote)) return NP_ERR_NOROUTE;
  uint32_t best = best_source(&ip->iface[route->iface], remote, false, out);
  if (best > SCORE_SCOPE) return NP_ERR_OK;
  /* Nothing of that scope on the way out: a wider address of another interface is ours as well. */
  for (uint32_t i = 0; i < ip->iface_end && !np_addr_is_link_local(remote); i++) {
    struct np_addr addr;
    if (!ip->iface[i].used) continue;
    uint32_t score = best_source(&ip->iface[i], remote, false, &addr);
    if (score <= SCORE_SCOPE || score <= best) continue;
    best = score;
    *out = addr;
  }
  return best > SCORE_SCOPE ? NP_ERR_OK : NP_ERR_NOROUTE;
}

static struct np_iface *iface_at(struct np_ip *ip, uint16_t iface) {
  if (iface >= NP_IFACE_MAX || !ip->iface[iface].used) return NULL;
  return &ip->iface[iface];
}

enum np_err np_ip_iface_add(struct np_ip *ip, uint16_t iface, const struct np_iface_config *config) {
  if (iface >= NP_IFACE_MAX || config->vlan > VID_MAX || config->port == UINT16_MAX) return NP_ERR_INVALID;
  if (config->mtu_bytes < MTU_MIN || config->mtu_bytes > MTU_MAX) return NP_ERR_INVALID;
  if (!np_mac_is_station(&config->mac)) return NP_ERR_INVALID;
  if (ip->iface[iface].used || np_iface_find(ip, config->port, config->vlan) != NULL) return NP_ERR_EXISTS;
  struct np_iface *ifc = &ip->iface[iface];
  *ifc = (struct np_iface){
      .index = iface,
      .vlan = config->vlan,
      .port = config->port,
      .mtu_bytes = (uint16_t)config->mtu_bytes,
      .mac = config->mac,
      .used = true,
      .dad_transmits = config->dad_transmits,
      .announces = config->announces == 0 ? 1 : config->announces,
      .acd = config->acd,
      .opaque = config->opaque,
      .mld = {.on = config->mld},
      .ra = {.on = config->accept_ra, .current = NP_ROUTERS_MAX},
  };
  struct np_addr own = np_addr_make(ifc, &(struct np_addr){{0xfe, 0x80}});
  enum np_err err = np_addr_insert(ip, ifc, &own, 64, NP_ADDR_LINK_LOCAL);
  if (err != NP_ERR_OK) {
    ifc->used = false;
    return err;
  }
  ip->iface_key[iface] = (uint32_t)config->port << 16 | config->vlan;
  ip->iface_end = np_max_u32(ip->iface_end, (uint32_t)iface + 1);
  return NP_ERR_OK;
}

enum np_err np_ip_iface_del(struct np_ip *ip, uint16_t iface) {
  struct np_iface *ifc = iface_at(ip, iface);
  if (ifc == NULL) return NP_ERR_NODEV;
  np_neigh_forget_iface(ip, iface);
  np_reass_forget_iface(ip, iface);
  np_route_remove_iface(ip, iface);
  np_timer_cancel(ip->env.wheel, &ifc->timer);
  memset(ifc, 0, sizeof *ifc);
  ip->iface_key[iface] = NP_IFACE_KEY_NONE;
  while (ip->iface_end > 0 && !ip->iface[ip->iface_end - 1].used) ip->iface_end--;
  np_ip_invalidate(ip);
  return NP_ERR_OK;
}

enum np_err np_ip_iface_up(struct np_ip *ip, uint16_t iface, bool up, uint64_t now_ns) {
  struct np_iface *ifc = iface_at(ip, iface);
  if (ifc == NULL) return NP_ERR_NODEV;
  if (ifc->up == up) return NP_ERR_OK;
  ifc->up = up;
  np_ip_invalidate(ip);
  if (!up) {
    np_neigh_forget_iface(ip, iface);
    np_ra_stop(ip, ifc);
    np_mld_stop(ifc);
    np_addr_stop(ip, ifc);
    np_reass_forget_iface(ip, iface);
    return NP_ERR_OK;
  }
  for (uint32_t i = 0; i < ifc->addr_count; i++) np_addr_start(ip, ifc, i, now_ns);
  np_ra_start(ip, ifc, now_ns);
  np_iface_arm(ip, ifc);
  return NP_ERR_OK;
}

enum np_err np_ip_addr_add(struct np_ip *ip, uint16_t iface, const struct np_addr *addr, uint8_t prefix_bits, uint64_t now_ns) {
  struct np_iface *ifc = iface_at(ip, iface);
  if (ifc == NULL) return NP_ERR_NODEV;
  bool v4 = np_addr_is_v4(addr);
  if (!np_addr_is_host(addr) || prefix_bits > (v4 ? 32 : 128)) return NP_ERR_INVALID;
  for (uint32_t i = 0; i < ip->iface_end; i++) { /* whatever its state there */
    const struct np_iface *other = &ip->iface[i];
    if (!other->used || (other != ifc && np_addr_is_link_local(addr))) continue;
    if (np_addr_index(other, addr) != NP_ADDR_NONE) return NP_ERR_EXISTS;
  }
  enum np_err err = np_addr_insert(ip, ifc, addr, (uint8_t)(prefix_bits + (v4 ? V4_PREFIX : 0)), NP_ADDR_CONFIGURED);
  if (err != NP_ERR_OK || !ifc->up) return err;
  np_addr_start(ip, ifc, ifc->addr_count - 1, now_ns);
  np_iface_arm(ip, ifc);
  return NP_ERR_OK;
}

enum np_err np_ip_addr_del(struct np_ip *ip, uint16_t iface, const struct np_addr *addr) {
  struct np_iface *ifc = iface_at(ip, iface);
  if (ifc == NULL) return NP_ERR_NODEV;
  uint32_t at = np_addr_index(ifc, addr);
  if (at == NP_ADDR_NONE) return NP_ERR_ADDRNOTAVAIL;
  np_addr_remove(ip, ifc, at);
  np_iface_arm(ip, ifc);
  return NP_ERR_OK;
}
