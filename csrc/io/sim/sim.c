/* See sim.h. Packets on the wire sit in fixed slots; a binary heap orders them
 * by arrival, ties by the order they were sent, so a run depends on nothing
 * but its seed and calls. */
#include "io/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/chain.h"
#include "base/cksum.h"
#include "base/compiler.h"
#include "base/rng.h"
#include "io/sim/offload.h"

#define BURST_NS 100000000u /* longest burst of losses */
#define BAD_NS 1000000000u /* longest bad state */
#define ETH_BYTES 14u
#define FLAT_BYTES 65536u
#define SLOT_SLACK 32u /* Ethernet, VLAN and a little */

struct entry {
  uint64_t at_ns;
  uint64_t order;
  uint32_t slot;
  uint32_t len;
};

struct end {
  struct np_port_queue q; /* first: the vtable hands it back */
  struct np_sim_link *link;
  struct np_pool *pool;
  uint32_t index;
};

struct direction {
  struct np_sim_params params;
  struct np_sim_stats stats;
  uint64_t wire_free_ns; /* when the rate lets the next packet start */
  uint64_t last_at_ns;   /* arrival of the last packet kept in order */
  uint32_t burst_left;
  uint64_t burst_end_ns; /* a burst is short in time, too: else it would eat a quiet link's every packet */
  uint64_t bad_end_ns; /* 0: good */
  struct entry *heap;
  uint32_t heap_count;
};

struct np_sim_link {
  struct end end[2];
  struct direction dir[2];
  uint64_t now_ns;
  uint64_t order;
  struct np_rng rng;
  uint32_t mtu_bytes;
  uint32_t slot_bytes;
  uint32_t slot_count;
  uint32_t free_count;
  uint32_t *free_slot;
  uint8_t *mem;
  uint32_t caps;
  uint8_t *flat; /* a packet as the port puts it together, FLAT_BYTES */
  np_sim_tap tap;
  void *tap_ctx;
  np_sim_filter filter;
  void *filter_ctx;
  np_sim_too_big too_big;
  void *too_big_ctx;
};

static bool before(const struct entry *a, const struct entry *b) {
  return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void heap_push(struct direction *d, struct entry e) {
  uint32_t i = d->heap_count++;
  while (i > 0) {
    uint32_t up = (i - 1) / 2;
    if (!before(&e, &d->heap[up])) break;
    d->heap[i] = d->heap[up];
    i = up;
  }
  d->heap[i] = e;
}

static struct entry heap_pop(struct direction *d) {
  struct entry top = d->heap[0];
  struct entry e = d->heap[--d->heap_count];
  uint32_t i = 0;
  for (;;) {
    uint32_t c = 2 * i + 1;
    if (c >= d->heap_count) break;
    if (c + 1 < d->heap_count && before(&d->heap[c + 1], &d->heap[c])) c++;
    if (!before(&d->heap[c], &e)) break;
    d->heap[i] = d->heap[c];
    i = c;
  }
  if (d->heap_count > 0) d->heap[i] = e;
  return top;
}

static bool chance(struct np_sim_link *l, uint32_t ppm) {
  return ppm != 0 && np_rng_u64(&l->rng) % 1000000u < ppm;
}

/* Rate and queue: when the packet's last bit has left and what waited before it, or false when the queue is full. */
static bool serialise(const struct np_sim_link *l, struct direction *d, uint32_t len, uint64_t *left_ns, uint64_t *waiting) {
  const struct np_sim_params *p = &d->params;
  uint64_t start = np_max_u64(l->now_ns, d->wire_free_ns);
  *waiting = 0;
  if (p->rate_bps == 0) {
    *left_ns = start;
    return true;
  }
  uint64_t kbps = np_max_u64(p->rate_bps / 1000u, 1);
  uint64_t limit = p->queue_bytes ? p->queue_bytes : 262144u;
  *waiting = (start - l->now_ns) / 1000u * kbps / 8000u;
  if (*waiting + len > limit) return false;
  d->wire_free_ns = start + (uint64_t)len * 8000000u / kbps;
  *left_ns = d->wire_free_ns;
  return true;
}

static bool lost_in_bad_state(struct np_sim_link *l, struct direction *d) {
  const struct np_sim_params *p = &d->params;
  if (p->bad_enter_ppm == 0) return false;
  if (d->bad_end_ns != 0 && (l->now_ns > d->bad_end_ns || chance(l, p->bad_leave_ppm))) d->bad_end_ns = 0;
  if (d->bad_end_ns == 0 && chance(l, p->bad_enter_ppm)) d->bad_end_ns = l->now_ns + BAD_NS;
  return d->bad_end_ns != 0 && chance(l, p->bad_loss_ppm);
}

/* Why the packet is lost before it gets to the queue; NULL: it is not. */
static const char *why_lost(struct np_sim_link *l, struct direction *d, uint32_t dir, const uint8_t *bytes, uint32_t len) {
  const struct np_sim_params *p = &d->params;
  if (p->cut) return "lost: link down";
  if (len > l->slot_bytes) return "lost: too long for the link";
  if (l->filter && l->filter(l->filter_ctx, dir, bytes, len)) return "lost: chosen";
  if (p->mtu_bytes != 0 && len > p->mtu_bytes + ETH_BYTES) return "lost: over the path's MTU";
  if (d->burst_left > 0 && l->now_ns <= d->burst_end_ns) {
    d->burst_left--;
    return "lost: burst";
  }
  if (chance(l, p->burst_loss_ppm)) {
    d->burst_left = (p->burst_pkts ? p->burst_pkts : 8) - 1;
    d->burst_end_ns = l->now_ns + BURST_NS;
    return "lost: burst";
  }
  if (lost_in_bad_state(l, d)) return "lost: bad state";
  return chance(l, p->loss_ppm) ? "lost" : NULL;
}

static uint64_t arrival(struct np_sim_link *l, struct direction *d, uint64_t left_ns, const char **fate) {
  const struct np_sim_params *p = &d->params;
  uint64_t at = left_ns + p->delay_ns;
  if (p->jitter_ns) at += np_rng_u64(&l->rng) % (p->jitter_ns + 1);
  if (chance(l, p->reorder_ppm)) {
    d->stats.reordered_pkts++;
    *fate = "overtaken";
    return at + 1 + np_rng_u64(&l->rng) % (p->reorder_ns ? p->reorder_ns : 1000000u);
  }
  at = np_max_u64(at, d->last_at_ns);
  d->last_at_ns = at;
  return at;
}

/* Sets CE on an ECN-capable packet (RFC 3168 §5). Return: false when it is none. */
static bool mark(uint8_t *frame, uint32_t len) {
  uint8_t *l3 = frame + ETH_BYTES;
  if (len < ETH_BYTES + 20u) return false;
  uint32_t type = np_load_be16(frame + 12);
  if (type == 0x0800) {
    uint32_t ecn = l3[1] & 3u;
    if (ecn == 0 || ecn == 3) return false;
    uint16_t from = np_load_16(l3);
    l3[1] |= 3u;
    np_store_16(l3 + 10, np_cksum_update16(np_load_16(l3 + 10), from, np_load_16(l3)));
    return true;
  }
  uint32_t ecn = (uint32_t)l3[1] >> 4 & 3u;
  if (type != 0x86dd || ecn == 0 || ecn == 3) return false;
  l3[1] |= 0x30u;
  return true;
}

/* Two bytes to something else that their sum tells apart: 0x0000 and 0xffff are the same to it. */
static void garble(struct np_sim_link *l, uint8_t *frame, uint32_t len) {
  uint64_t r = np_rng_u64(&l->rng);
  uint8_t *p = frame + (r & 0xffffffffu) % (len / 2) * 2;
  uint16_t to = (uint16_t)(r >> 32);
  uint16_t from = np_load_16(p);
  if (to % 0xffffu == from % 0xffffu) to = (uint16_t)(to ^ 0x0100u);
  np_store_16(p, to);
}

/* Spoils the packet as the parameters say. Return: its length now. */
static uint32_t spoil(struct np_sim_link *l, struct direction *d, uint8_t *mem, uint32_t len, const char **fate) {
  const struct np_sim_params *p = &d->params;
  /* not ARP: it has no checksum, and what Ethernet's own lets through is rare enough */
  if (len <= ETH_BYTES || np_load_be16(mem + 12) == 0x0806) return len;
  if (chance(l, p->corrupt_ppm)) {
    uint64_t r = np_rng_u64(&l->rng);
    mem[ETH_BYTES + (r & 0xffffffffu) % (len - ETH_BYTES)] ^= (uint8_t)(1u << ((r >> 32) & 7));
    d->stats.corrupted_pkts++;
    *fate = "a bit flipped";
  } else if (chance(l, p->garble_ppm)) {
    garble(l, mem, len);
    d->stats.corrupted_pkts++;
    *fate = "two bytes garbled";
  } else if (chance(l, p->truncate_ppm)) {
    len = ETH_BYTES + (uint32_t)(np_rng_u64(&l->rng) % (len - ETH_BYTES));
    d->stats.corrupted_pkts++;
    *fate = "cut short";
  }
  return len;
}

/* Return: a slot with the packet in it, UINT32_MAX: none free. */
static uint32_t fill_slot(struct np_sim_link *l, const uint8_t *bytes, uint32_t len) {
  if (l->free_count == 0) return UINT32_MAX;
  uint32_t slot = l->free_slot[--l->free_count];
  uint8_t *mem = l->mem + (size_t)slot * l->slot_bytes;
  memcpy(mem, bytes, len);
  return slot;
}

static bool put_on_wire(struct np_sim_link *l, struct direction *d, const uint8_t *bytes, uint32_t len, uint64_t left_ns,
                        bool may_mark, const char **fate) {
  uint32_t slot = fill_slot(l, bytes, len);
  if (slot == UINT32_MAX) {
    d->stats.queue_pkts++;
    *fate = "lost: no room on the wire";
    return false;
  }
  uint8_t *mem = l->mem + (size_t)slot * l->slot_bytes;
  uint64_t at = arrival(l, d, left_ns, fate);
  if (may_mark && mark(mem, len)) {
    d->stats.marked_pkts++;
    *fate = "marked CE";
  }
  len = spoil(l, d, mem, len, fate);
  heap_push(d, (struct entry){at, l->order++, slot, len});
  return true;
}

/* Sends the packet on its way, or not. Return: whether it is lost. */
static bool decide(struct np_sim_link *l, struct direction *d, uint32_t dir, const uint8_t *bytes, uint32_t len,
                   const char **fate) {
  uint64_t left_ns = 0;
  uint64_t waiting = 0;
  *fate = why_lost(l, d, dir, bytes, len);
  if (*fate) {
    d->stats.lost_pkts++;
    return true;
  }
  if (!serialise(l, d, len, &left_ns, &waiting)) {
    d->stats.queue_pkts++;
    *fate = "lost: queue full";
    return true;
  }
  bool ce = (d->params.mark_bytes != 0 && waiting > d->params.mark_bytes) || chance(l, d->params.mark_ppm);
  bool sent = put_on_wire(l, d, bytes, len, left_ns, ce, fate);
  if (chance(l, d->params.duplicate_ppm)) {
    const char *again = NULL;
    if (put_on_wire(l, d, bytes, len, left_ns, ce, &again)) {
      d->stats.duplicated_pkts++;
      if (!*fate) *fate = "duplicated";
    }
  }
  return !sent;
}

static void send_one(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len) {
  struct np_sim_link *l = ctx;
  struct direction *d = &l->dir[dir];
  const char *fate = NULL;
  d->stats.sent_pkts++;
  uint32_t mtu = d->params.mtu_bytes;
  bool lost = decide(l, d, dir, bytes, len, &fate);
  if (l->tap) l->tap(l->tap_ctx, dir, bytes, len, l->now_ns, lost, fate);
  if (mtu != 0 && len > mtu + ETH_BYTES && l->too_big && !d->params.cut) l->too_big(l->too_big_ctx, dir, bytes, len, mtu);
}

static void transmit(struct end *e, const struct np_buf *b, uint32_t len) {
  struct np_sim_link *l = e->link;
  if (NP_LIKELY(b->next == NULL && (b->flags & (NP_BUF_TX_CSUM | NP_BUF_GSO)) == 0)) {
    send_one(l, e->index, np_buf_cdata(b), len);
    return;
  }
  np_assert(len <= FLAT_BYTES);
  np_assert((b->flags & NP_BUF_GSO) != 0 || np_buf_pieces(b) <= NP_PORT_PIECES_MAX);
  uint32_t at = 0;
  for (const struct np_buf *piece = b; piece; piece = piece->next) {
    memcpy(l->flat + at, np_buf_cdata(piece), piece->len);
    at += piece->len;
  }
  struct np_sim_offload o = {.l4_off = (uint32_t)b->l4_off - b->data_off, .dir = e->index, .send = send_one, .ctx = l};
  if (b->flags & NP_BUF_GSO) {
    np_assert((l->caps & NP_PORT_TSO) != 0);
    np_sim_segment(&o, l->flat, len, b->gso_bytes);
    return;
  }
  if (b->flags & NP_BUF_TX_CSUM) {
    np_assert((l->caps & NP_PORT_TX_CSUM) != 0);
    np_sim_fill_sum(&o, l->flat, len);
  }
  send_one(l, e->index, l->flat, len);
}

void np_sim_inject(struct np_sim_link *link, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t delay_ns) {
  if (link->free_count == 0 || len > link->slot_bytes) {
    link->dir[dir].stats.queue_pkts++;
    return;
  }
  uint32_t slot = link->free_slot[--link->free_count];
  memcpy(link->mem + (size_t)slot * link->slot_bytes, bytes, len);
  heap_push(&link->dir[dir], (struct entry){link->now_ns + delay_ns, link->order++, slot, len});
}

static uint32_t sim_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct end *e = (struct end *)(void *)q;
  if (q->down) return 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t len = np_buf_chain_len(bufs[i]);
    q->stats.tx_pkts++;
    q->stats.tx_bytes += len;
    transmit(e, bufs[i], len);
    np_buf_put_chain(bufs[i]);
  }
  return n;
}

/* The bytes in as many buffers as they need; NULL when the pool has not as many. */
static struct np_buf *receive(struct np_pool *pool, const uint8_t *bytes, uint32_t len) {
  struct np_buf *head = NULL;
  struct np_buf **link = &head;
  do {
    struct np_buf *b = np_pool_get_rx(pool);
    if (!b) {
      np_buf_put_chain(head);
      return NULL;
    }
    uint32_t n = np_min_u32(len, np_buf_tailroom(b));
    memcpy(np_buf_append(b, n), bytes, n);
    bytes += n;
    len -= n;
    *link = b;
    link = &b->next;
  } while (len > 0);
  return head;
}

static uint32_t sim_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct end *e = (struct end *)(void *)q;
  struct np_sim_link *l = e->link;
  struct direction *d = &l->dir[e->index ^ 1u];
  uint32_t n = 0;
  while (n < max && d->heap_count > 0 && d->heap[0].at_ns <= l->now_ns) {
    struct entry it = heap_pop(d);
    l->free_slot[l->free_count++] = it.slot;
    struct np_buf *b = q->down ? NULL : receive(e->pool, l->mem + (size_t)it.slot * l->slot_bytes, it.len);
    if (!b) {
      d->stats.nobuf_pkts++;
      continue;
    }
    b->rx_ns = l->now_ns;
    b->iface = q->iface;
    q->stats.rx_pkts++;
    q->stats.rx_bytes += it.len;
    d->stats.delivered_pkts++;
    out[n++] = b;
  }
  return n;
}

static void sim_flush(struct np_port_queue *q) { (void)q; }
static int sim_fd(struct np_port_queue *q) {
  (void)q;
  return -1;
}
static bool sim_busy(struct np_port_queue *q) {
  struct end *e = (struct end *)(void *)q;
  const struct direction *d = &e->link->dir[e->index ^ 1u];
  return d->heap_count > 0 && d->heap[0].at_ns <= e->link->now_ns;
}

static const struct np_port_ops sim_ops = {
    .name = "sim", .rx = sim_rx, .tx = sim_tx, .flush = sim_flush, .fd = sim_fd, .busy = sim_busy};

struct np_sim_link *np_sim_new(const struct np_sim_config *config) {
  struct np_sim_link *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->mtu_bytes = config->mtu_bytes ? config->mtu_bytes : 1500u;
  l->slot_bytes = (l->mtu_bytes + SLOT_SLACK + 63u) & ~63u;
  l->slot_count = config->inflight_max ? config->inflight_max : 8192u;
  l->mem = malloc((size_t)l->slot_count * l->slot_bytes);
  l->caps = config->caps;
  l->flat = malloc(FLAT_BYTES);
  l->free_slot = malloc(l->slot_count * sizeof *l->free_slot);
  for (uint32_t i = 0; i < 2; i++) {
    l->dir[i].params = config->dir[i];
    l->dir[i].heap = malloc(l->slot_count * sizeof *l->dir[i].heap);
  }
  if (!l->mem || !l->flat || !l->free_slot || !l->dir[0].heap || !l->dir[1].heap) {
    np_sim_free(l);
    return NULL;
  }
  for (uint32_t i = 0; i < l->slot_count; i++) l->free_slot[i] = l->slot_count - 1 - i;
  l->free_count = l->slot_count;
  np_rng_init(&l->rng, config->seed);
  return l;
}

void np_sim_free(struct np_sim_link *link) {
  if (!link) return;
  for (uint32_t i = 0; i < 2; i++) free(link->dir[i].heap);
  free(link->free_slot);
  free(link->mem);
  free(link->flat);
  free(link);
}

struct np_port_queue *np_sim_end(struct np_sim_link *link, uint32_t end, struct np_pool *pool,
                                 const struct np_mac *mac, uint16_t iface) {
  struct end *e = &link->end[end];
  e->link = link;
  e->pool = pool;
  e->index = end;
  e->q.ops = &sim_ops;
  e->q.iface = iface;
  e->q.mtu_bytes = link->mtu_bytes;
  e->q.caps = NP_PORT_SG | link->caps;
  e->q.tso_bytes_max = link->caps & NP_PORT_TSO ? FLAT_BYTES - 1 : 0;
  e->q.mac = *mac;
  return &e->q;
}

struct np_port_queue *np_sim_queue(struct np_sim_link *link, uint32_t end) { return &link->end[end].q; }

void np_sim_set_now(struct np_sim_link *link, uint64_t now_ns) {
  np_assert(now_ns >= link->now_ns);
  link->now_ns = now_ns;
}

uint64_t np_sim_next_at_ns(const struct np_sim_link *link, uint32_t end) {
  const struct direction *d = &link->dir[end ^ 1u];
  return d->heap_count > 0 ? d->heap[0].at_ns : UINT64_MAX;
}

uint64_t np_sim_next_ns(const struct np_sim_link *link) {
  return np_min_u64(np_sim_next_at_ns(link, 0), np_sim_next_at_ns(link, 1));
}

void np_sim_discard(struct np_sim_link *link, uint32_t end) {
  struct direction *d = &link->dir[end ^ 1u];
  while (d->heap_count > 0 && d->heap[0].at_ns <= link->now_ns) {
    link->free_slot[link->free_count++] = heap_pop(d).slot;
    d->stats.lost_pkts++;
  }
}

void np_sim_set_too_big(struct np_sim_link *link, np_sim_too_big fn, void *ctx) {
  link->too_big = fn;
  link->too_big_ctx = ctx;
}

void np_sim_set(struct np_sim_link *link, uint32_t dir, const struct np_sim_params *params) {
  link->dir[dir].params = *params;
}
void np_sim_stats(const struct np_sim_link *link, uint32_t dir, struct np_sim_stats *out) {
  *out = link->dir[dir].stats;
}
void np_sim_set_tap(struct np_sim_link *link, np_sim_tap tap, void *ctx) {
  link->tap = tap;
  link->tap_ctx = ctx;
}
void np_sim_set_filter(struct np_sim_link *link, np_sim_filter filter, void *ctx) {
  link->filter = filter;
  link->filter_ctx = ctx;
}
