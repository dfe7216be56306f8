/* Path MTUs by destination (RFC 1191, RFC 8201), as far as packet-too-big messages told them. An entry
 * is made only for a message that TCP vouched for: it quoted data in flight of a connection of ours.
 * So nobody who does not see our packets can fill the table, and it does not grow: a full set gives up
 * its oldest. What it says is believed for ten minutes (RFC 8201 §4), then tried anew. */
#include "ip/internal.h"

static struct np_pmtu *set_of(struct np_ip *ip, const struct np_addr *dst) {
  uint64_t h = np_hash_addr(dst, &ip->hash_key);
  return &ip->pmtu[(uint32_t)(h ^ h >> 32) % NP_PMTU_SETS * NP_PMTU_WAYS];
}

void np_ip_pmtu_learn(struct np_ip *ip, const struct np_addr *dst, uint32_t mtu_bytes, uint64_t now_ns) {
  uint32_t least = np_addr_is_v4(dst) ? NP_PMTU_MIN_V4 : NP_PMTU_MIN_V6;
  mtu_bytes = np_max_u32(mtu_bytes, least);
  if (mtu_bytes >= np_ip_mtu(ip, dst)) return;
  struct np_pmtu *set = set_of(ip, dst);
  struct np_pmtu *to = &set[0];
  for (uint32_t i = 0; i < NP_PMTU_WAYS; i++) {
    struct np_pmtu *e = &set[i];
    if (e->mtu_bytes != 0 && np_addr_eq(&e->dst, dst)) {
      /* Never up, but for what is too old to count; and what is new counts from now. */
      bool old = now_ns - e->learned_ns >= NP_PMTU_AGE_NS;
      e->mtu_bytes = old ? mtu_bytes : np_min_u32(e->mtu_bytes, mtu_bytes);
      e->learned_ns = now_ns;
      return;
    }
    if (e->mtu_bytes == 0 || (to->mtu_bytes != 0 && e->learned_ns < to->learned_ns)) to = e;
  }
  if (to->mtu_bytes == 0) ++*np_ip_counter(ip, NP_C_PMTU_ENTRIES);
  *to = (struct np_pmtu){.dst = *dst, .mtu_bytes = mtu_bytes, .learned_ns = now_ns};
}

uint32_t np_ip_pmtu(struct np_ip *ip, const struct np_addr *dst, uint64_t now_ns) {
  uint32_t mtu = np_ip_mtu(ip, dst);
  struct np_pmtu *set = set_of(ip, dst);
  for (uint32_t i = 0; i < NP_PMTU_WAYS; i++) {
    struct np_pmtu *e = &set[i];
    if (e->mtu_bytes == 0 || !np_addr_eq(&e->dst, dst)) continue;
    if (now_ns - e->learned_ns < NP_PMTU_AGE_NS) return np_min_u32(mtu, e->mtu_bytes);
    e->mtu_bytes = 0;
    --*np_ip_counter(ip, NP_C_PMTU_ENTRIES);
  }
  return mtu;
}
