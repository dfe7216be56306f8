/* Flow table: buckets of one cache line, probed one after another. A lookup
 * reads one line and, on a matching tag, the connection's first. */
#include "tcp/tcp_int.h"

#define LANES 0x0001000100010001u

uint32_t np_tcp_table_buckets(uint32_t conns_max) {
  uint32_t want = conns_max / 6 + 1; /* at most three quarters full */
  uint32_t n = 2;
  while (n < want) n *= 2;
  return n;
}

uint32_t np_tcp_flow_hash(const struct np_tcp *tcp, const struct np_flow *flow) {
  uint32_t h = np_hash_flow(flow, &tcp->flow_key);
  return h == 0 ? 1 : h; /* 0 in np_pkt means not yet computed */
}

uint64_t np_tcp_flow_hash64(const struct np_tcp *tcp, const struct np_flow *flow) { return np_hash_flow64(flow, &tcp->flow_key); }

NP_INLINE uint16_t tag_of(uint32_t hash) {
  uint16_t t = (uint16_t)(hash >> 16);
  return t == 0 ? 1 : t;
}

/* High bit of each 16-bit lane of w that equals tag; lanes above the first hit
 * may lie, which costs a comparison and nothing else. */
NP_INLINE uint64_t lanes_equal(uint64_t w, uint64_t tags) {
  uint64_t x = w ^ tags;
  return (x - LANES) & ~x & (LANES << 15);
}

NP_INLINE struct np_tcp_conn *bucket_find(struct np_tcp *tcp, const struct np_tcp_bucket *b, uint64_t tags,
                                          const struct np_flow *flow) {
  for (uint32_t half = 0; half < 8; half += 4) {
    uint64_t hits = lanes_equal(np_load_64(&b->tag[half]), tags);
    while (hits != 0) {
      uint32_t i = half + (uint32_t)__builtin_ctzll(hits) / 16;
      struct np_tcp_conn *c = np_tcp_at(tcp, b->slot[i]);
      if (b->tag[i] != 0 && np_flow_eq(&c->flow, flow)) return c;
      hits &= hits - 1;
    }
  }
  return NULL;
}

struct np_tcp_conn *np_tcp_find(struct np_tcp *tcp, const struct np_flow *flow, uint32_t hash) {
  uint64_t tags = tag_of(hash) * LANES;
  uint32_t at = hash & tcp->bucket_mask;
  for (uint32_t n = 0; n <= tcp->bucket_mask; n++, at = (at + 1) & tcp->bucket_mask) {
    const struct np_tcp_bucket *b = &tcp->buckets[at];
    struct np_tcp_conn *c = bucket_find(tcp, b, tags, flow);
    if (c != NULL) return c;
    if (b->overflow == 0) return NULL;
  }
  return NULL;
}

void np_tcp_table_add(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t hash) {
  uint32_t at = hash & tcp->bucket_mask;
  for (uint32_t n = 0; n <= tcp->bucket_mask; n++, at = (at + 1) & tcp->bucket_mask) {
    struct np_tcp_bucket *b = &tcp->buckets[at];
    for (uint32_t i = 0; i < 8; i++) {
      if (b->tag[i] != 0) continue;
      b->tag[i] = tag_of(hash);
      b->slot[i] = np_tcp_slot(tcp, c);
      return;
    }
    b->overflow++;
  }
  bool room_for_every_connection = false;
  np_assert(room_for_every_connection);
}

void np_tcp_table_del(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t slot = np_tcp_slot(tcp, c);
  uint32_t at = np_tcp_flow_hash(tcp, &c->flow) & tcp->bucket_mask;
  for (uint32_t n = 0; n <= tcp->bucket_mask; n++, at = (at + 1) & tcp->bucket_mask) {
    struct np_tcp_bucket *b = &tcp->buckets[at];
    for (uint32_t i = 0; i < 8; i++) {
      if (b->tag[i] == 0 || b->slot[i] != slot) continue;
      b->tag[i] = 0;
      return;
    }
    np_assert(b->overflow > 0);
    b->overflow--;
  }
  bool in_table = false;
  np_assert(in_table);
}

uint32_t np_tcp_likely(const struct np_tcp *tcp, uint32_t hash) {
  const struct np_tcp_bucket *b = &tcp->buckets[hash & tcp->bucket_mask];
  uint64_t tags = tag_of(hash) * LANES;
  for (uint32_t half = 0; half < 8; half += 4) {
    uint64_t hits = lanes_equal(np_load_64(&b->tag[half]), tags);
    if (hits != 0) return b->slot[half + (uint32_t)__builtin_ctzll(hits) / 16];
  }
  return NP_TCP_NIL;
}

struct np_tcp_conn *np_tcp_expected(struct np_tcp *tcp, const struct np_pkt *pkt) {
  if (pkt->slot < tcp->config.conns_max) {
    struct np_tcp_conn *c = np_tcp_at(tcp, pkt->slot);
    /* Every connection that is not closed is in the table, and a flow is there once. */
    if (NP_LIKELY(c->state != NP_TCP_CLOSED && np_flow_eq(&c->flow, &pkt->flow))) return c;
  }
  return np_tcp_find(tcp, &pkt->flow, pkt->hash);
}
