/* See link.h. A binary heap by arrival, ties by order of coming. */
#include "link.h"

#include <string.h>

#include "base/bytes.h"
#include "base/cksum.h"

#define BURST_NS UINT64_C(100000000)
#define ETH_BYTES 14u
#define ECN_MASK 0x03u
#define ECN_CE 0x03u

static bool before(const struct np_relay_entry *a, const struct np_relay_entry *b) {
  return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void heap_push(struct np_relay_link *l, struct np_relay_entry e) {
  uint32_t i = l->count++;
  while (i > 0) { /* bound: the heap's depth */
    uint32_t up = (i - 1) / 2;
    if (!before(&e, &l->heap[up])) break;
    l->heap[i] = l->heap[up];
    i = up;
  }
  l->heap[i] = e;
}

static struct np_relay_entry heap_pop(struct np_relay_link *l) {
  struct np_relay_entry top = l->heap[0];
  struct np_relay_entry e = l->heap[--l->count];
  uint32_t i = 0;
  for (;;) { /* bound: the heap's depth */
    uint32_t c = 2 * i + 1;
    if (c >= l->count) break;
    if (c + 1 < l->count && before(&l->heap[c + 1], &l->heap[c])) c++;
    if (!before(&l->heap[c], &e)) break;
    l->heap[i] = l->heap[c];
    i = c;
  }
  if (l->count > 0) l->heap[i] = e;
  return top;
}

static bool chance(struct np_relay_link *l, enum np_relay_dice which, uint32_t ppm) {
  return ppm != 0 && np_rng_below(&l->rng[which], 1000000u) < ppm;
}

/* ARP and neighbor discovery are delayed like all else, and never harmed: the kernel tries
 * again after a second, and that second would be all that a short measurement sees. */
static bool is_neighbor(const uint8_t *p, uint32_t len) {
  if (len < ETH_BYTES + 1) return true;
  uint16_t type = np_load_be16(p + 12);
  if (type == 0x0806) return true;
  if (type != 0x86dd || len < ETH_BYTES + 41) return false;
  return p[ETH_BYTES + 6] == 58 && p[ETH_BYTES + 40] >= 133 && p[ETH_BYTES + 40] <= 137;
}

static bool is_lost(struct np_relay_link *l, uint64_t now_ns) {
  bool lost = chance(l, NP_RELAY_LOSS, l->params.loss_ppm);
  bool begins = chance(l, NP_RELAY_BURST, l->params.burst_ppm);
  if (l->burst_left > 0 && now_ns <= l->burst_end_ns) {
    l->burst_left--;
    return true;
  }
  if (begins) {
    l->burst_left = (l->params.burst_pkts ? l->params.burst_pkts : 8) - 1;
    l->burst_end_ns = now_ns + BURST_NS;
    return true;
  }
  return lost;
}

/* CE on an ECN-capable packet; the IPv4 header's checksum follows (RFC 1624). */
static void mark(struct np_relay_link *l, uint8_t *p, uint32_t len) {
  uint16_t type = np_load_be16(p + 12);
  uint8_t *ip = p + ETH_BYTES;
  if (type == 0x0800 && len >= ETH_BYTES + 20) {
    if ((ip[1] & ECN_MASK) == 0 || (ip[1] & ECN_MASK) == ECN_CE) return;
    uint16_t from = np_load_16(ip);
    ip[1] |= ECN_CE;
    np_store_16(ip + 10, np_cksum_update16(np_load_16(ip + 10), from, np_load_16(ip)));
  } else if (type == 0x86dd && len >= ETH_BYTES + 40) {
    uint8_t ecn = (uint8_t)(ip[1] >> 4) & ECN_MASK; /* the class's low bits: RFC 8200 §3 */
    if (ecn == 0 || ecn == ECN_CE) return;
    ip[1] |= (uint8_t)(ECN_CE << 4);
  } else {
    return;
  }
  l->stats.marked_pkts++;
}

/* The rate and its queue: when the last bit has left; false: the queue is full. */
static bool serialise(struct np_relay_link *l, struct np_buf *b, uint32_t len, uint64_t now_ns, uint64_t *left_ns) {
  const struct np_relay_params *p = &l->params;
  bool ce = chance(l, NP_RELAY_CE, p->ce_ppm);
  uint64_t start = np_max_u64(now_ns, l->wire_free_ns);
  *left_ns = start;
  if (p->rate_bps != 0) {
    /* both factors bounded: 2^30 bytes at 8 kbit/s wait for 2^50 ns */
    uint64_t waiting = (uint64_t)(((np_u128)(start - now_ns) * p->rate_bps) / UINT64_C(8000000000));
    if (waiting + len > (p->queue_bytes ? p->queue_bytes : 262144u)) return false;
    if (p->mark_bytes != 0 && waiting > p->mark_bytes) ce = true;
    l->wire_free_ns = start + (uint64_t)len * UINT64_C(8000000000) / p->rate_bps;
    *left_ns = l->wire_free_ns;
  }
  if (ce) mark(l, np_buf_data(b), b->len);
  return true;
}

static uint64_t arrival(struct np_relay_link *l, uint64_t left_ns, bool harm) {
  const struct np_relay_params *p = &l->params;
  uint64_t at = left_ns + p->delay_ns;
  if (p->jitter_ns != 0) at += np_rng_u64(&l->rng[NP_RELAY_TIME]) % (p->jitter_ns + 1);
  if (harm && chance(l, NP_RELAY_ORDER, p->reorder_ppm)) {
    return at + 1 + np_rng_u64(&l->rng[NP_RELAY_ORDER]) % (p->reorder_ns ? p->reorder_ns : 1000000u);
  }
  at = np_max_u64(at, l->last_at_ns);
  l->last_at_ns = at;
  return at;
}

static void add_ref(struct np_buf *b) {
  for (; b != NULL; b = b->next) b->refs++; /* bound: the frame's pieces */
}

static void put_on_way(struct np_relay_link *l, struct np_buf *b, uint64_t left_ns, bool harm) {
  if (l->count == l->max) {
    l->stats.slab_full_pkts++;
    np_buf_put_chain(b);
    return;
  }
  uint64_t at = arrival(l, left_ns, harm);
  heap_push(l, (struct np_relay_entry){at, l->order++, b});
}

static void corrupt(struct np_relay_link *l, struct np_buf *b) {
  uint64_t r = np_rng_u64(&l->rng[NP_RELAY_BITS]);
  np_buf_data(b)[ETH_BYTES + (r & 0xffffffffu) % (b->len - ETH_BYTES)] ^= (uint8_t)(1u << ((r >> 32) & 7));
  l->stats.corrupted_pkts++;
}

void np_relay_push(struct np_relay_link *l, struct np_buf *b, uint64_t now_ns) {
  uint32_t len = np_buf_chain_len(b);
  bool harm = !is_neighbor(np_buf_cdata(b), b->len);
  uint64_t left_ns = 0;
  l->stats.in_pkts++;
  l->stats.in_bytes += len;
  if (harm && is_lost(l, now_ns)) {
    l->stats.lost_pkts++;
    np_buf_put_chain(b);
    return;
  }
  if (!serialise(l, b, len, now_ns, &left_ns)) {
    l->stats.queue_full_pkts++;
    np_buf_put_chain(b);
    return;
  }
  if (harm && chance(l, NP_RELAY_BITS, l->params.corrupt_ppm)) corrupt(l, b);
  bool twice = harm && chance(l, NP_RELAY_COPY, l->params.duplicate_ppm);
  if (twice) add_ref(b);
  put_on_way(l, b, left_ns, harm);
  if (twice) {
    l->stats.duplicated_pkts++;
    put_on_way(l, b, left_ns, harm);
  }
}

uint32_t np_relay_pop(struct np_relay_link *l, struct np_buf **out, uint32_t max, uint64_t now_ns) {
  uint32_t n = 0;
  while (n < max && l->count > 0 && l->heap[0].at_ns <= now_ns) {
    struct np_relay_entry e = heap_pop(l);
    l->stats.out_pkts++;
    l->stats.out_bytes += np_buf_chain_len(e.buf);
    l->stats.late_ns_max = np_max_u64(l->stats.late_ns_max, now_ns - e.at_ns);
    if (e.order < l->left_order) {
      l->stats.reordered_pkts++;
    } else {
      l->left_order = e.order + 1;
    }
    out[n++] = e.buf;
  }
  return n;
}

uint64_t np_relay_next_ns(const struct np_relay_link *l) { return l->count > 0 ? l->heap[0].at_ns : UINT64_MAX; }

void np_relay_drain(struct np_relay_link *l) {
  while (l->count > 0) np_buf_put_chain(l->heap[--l->count].buf);
}

void np_relay_init(struct np_relay_link *l, const struct np_relay_params *params, uint64_t seed,
                   struct np_relay_entry *heap, uint32_t max) {
  memset(l, 0, sizeof *l);
  l->params = *params;
  l->heap = heap;
  l->max = max;
  for (uint32_t i = 0; i < NP_RELAY_DICE; i++) np_rng_init(&l->rng[i], np_splitmix64(&seed));
}
