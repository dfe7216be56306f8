/* Which core has a flow. Where devices steer, a SYN sent again may come to another core than the first (a peer's
 * kernel picks the queue anew after a timeout, RSS is set up anew), and each would make a connection of its own:
 * what one sent the other resets. So whoever makes one that a peer opens takes a claim on its flow first, and a
 * segment that finds nothing but a listener goes to the core that has the claim.
 *
 * Claims are words in a table of which each core's memory has a part: the flow's hash, keyed by the plane's secret,
 * says which part, and which 16 slots of it may hold the claim. They are taken and dropped once in a connection's
 * life and read when a SYN or a stray segment comes; a hash of 56 bits stands for the flow. Where all slots are
 * taken, which the number of connections makes very rare, the flow goes without, and is counted. */
#include "core/internal.h"

#define SLOTS 16u
#define CORE_BITS 8u
_Static_assert(NP_CORES_MAX < 1u << CORE_BITS, "a claim names a core");

/* A quarter full with as many connections as there can be. */
static uint32_t buckets(const struct np_plane_config *c) {
  uint32_t n = 2;
  while (n < c->conns_max / (SLOTS / 4)) n *= 2;
  return n;
}

size_t np_claim_bytes(const struct np_plane_config *c) {
  return c->cores < 2 ? 0 : (size_t)buckets(c) * SLOTS * sizeof(uint64_t);
}

void np_claim_init(struct np_core *core, void *mem, const struct np_plane_config *c) {
  if (c->cores < 2) return;
  core->claims = mem;
  core->claim_mask = buckets(c) - 1;
  memset(mem, 0, np_claim_bytes(c));
}

static uint64_t *slots_of(const struct np_core *core, uint64_t hash) {
  const struct np_core *home = core->peer[(hash >> 32) * core->peer_count >> 32];
  return home->claims + (size_t)(hash >> CORE_BITS & home->claim_mask) * SLOTS;
}

static uint64_t claim_of(const struct np_core *core, uint64_t hash) { return hash >> CORE_BITS << CORE_BITS | (core->index + 1); }

/* Who has the flow by that word, or NP_CLAIM_NONE. */
static uint32_t owner(uint64_t word, uint64_t hash) {
  uint32_t core = (uint32_t)word & ((1u << CORE_BITS) - 1);
  return core != 0 && (word ^ hash) >> CORE_BITS == 0 ? core - 1 : NP_CLAIM_NONE;
}

uint32_t np_claim_look(const struct np_core *core, const struct np_flow *flow) {
  uint64_t hash = np_tcp_flow_hash64(core->tcp, flow);
  const uint64_t *slot = slots_of(core, hash);
  for (uint32_t i = 0; i < SLOTS; i++) {
    /* relaxed: the word is all that is told */
    uint32_t who = owner(__atomic_load_n(&slot[i], __ATOMIC_RELAXED), hash);
    if (who != NP_CLAIM_NONE) return who;
  }
  return NP_CLAIM_NONE;
}

/* Somebody's claim in a slot other than mine; NP_CLAIM_NONE: there is none. *room: the first that is free, SLOTS: none. */
static uint32_t others(const uint64_t *slot, uint64_t hash, uint32_t mine, uint32_t *room) {
  *room = SLOTS;
  for (uint32_t i = 0; i < SLOTS; i++) {
    uint64_t word = __atomic_load_n(&slot[i], __ATOMIC_SEQ_CST);
    if (i == mine) continue;
    uint32_t who = owner(word, hash);
    if (who != NP_CLAIM_NONE) return who;
    if (word == 0 && *room == SLOTS) *room = i;
  }
  return NP_CLAIM_NONE;
}

/* Two that take one flow at once may write to different slots. Each looks once more when its own is written, and gives
 * way to whatever it sees: of two writes in one order the later one's writer sees the earlier, so never do both
 * keep theirs. Both may give way; then each hands the segment to the other, where it is taken in. */
uint32_t np_claim_take(struct np_core *core, const struct np_flow *flow) {
  uint64_t hash = np_tcp_flow_hash64(core->tcp, flow);
  uint64_t *slot = slots_of(core, hash);
  uint64_t mine = claim_of(core, hash);
  for (uint32_t tries = 0; tries < SLOTS; tries++) {
    uint32_t at;
    uint32_t who = others(slot, hash, SLOTS, &at);
    if (who != NP_CLAIM_NONE) return who;
    if (at == SLOTS) break;
    uint64_t empty = 0;
    if (!__atomic_compare_exchange_n(&slot[at], &empty, mine, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    uint32_t room;
    who = others(slot, hash, at, &room);
    if (who == NP_CLAIM_NONE) return core->index;
    __atomic_store_n(&slot[at], 0, __ATOMIC_SEQ_CST);
    return who;
  }
  core->counters->counter[NP_C_UNCLAIMED]++; /* all are taken, or were by others meanwhile */
  return core->index;
}

void np_claim_drop(struct np_core *core, const struct np_flow *flow) {
  uint64_t hash = np_tcp_flow_hash64(core->tcp, flow);
  uint64_t *slot = slots_of(core, hash);
  uint64_t mine = claim_of(core, hash);
  for (uint32_t i = 0; i < SLOTS; i++) {
    if (__atomic_load_n(&slot[i], __ATOMIC_RELAXED) != mine) continue;
    __atomic_store_n(&slot[i], 0, __ATOMIC_SEQ_CST);
    return;
  }
}
