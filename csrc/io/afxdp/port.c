/* The hot side of an AF_XDP queue: rings in, rings out, one kick per turn. */
#include <errno.h>
#include <sys/socket.h>

#include "io/afxdp/internal.h"

#define KICKS_PER_FLUSH_MAX 128u /* copy mode sends 32 a call: 4,096 descriptors */

static struct np_afxdp *of(struct np_port_queue *q) { return NP_CONTAINER_OF(q, struct np_afxdp, port); }

static uint64_t offset_of(const struct np_afxdp *x, const struct np_buf *b) {
  return (uint64_t)b->index * x->pool->chunk_bytes;
}

/* The buffer at addr, if addr lies in the pool and its data area; the kernel is
 * trusted not to lie, but a driver's mistake must not become a wild write here. */
static struct np_buf *buf_at(const struct np_afxdp *x, uint64_t addr) {
  uint64_t index = addr / x->pool->chunk_bytes;
  if (NP_UNLIKELY(index >= x->pool->count)) return NULL;
  return np_pool_at(x->pool, addr);
}

/* ---- receiving ---- */

/* Keeps the pool's reserve at what is lacking here. */
static void note_lack(struct np_afxdp *x) {
  uint32_t posted = x->port.posted_count;
  uint32_t lack = NP_UNLIKELY(posted < x->post_min) ? x->post_min - posted : 0;
  x->pool->reserve_count += lack - x->lack_count;
  x->lack_count = lack;
}

/* The rest of a frame, up to its end, is thrown away with what came of it. */
static NP_COLD void rx_bad(struct np_afxdp *x, bool more) {
  np_port_count(&x->port.stats.rx_dropped, 1);
  np_buf_put_chain(x->rx_head);
  x->rx_head = x->rx_tail = NULL;
  x->rx_bad = more;
}

/* One piece of a frame in several. Return: the frame when it is whole. */
static NP_COLD struct np_buf *rx_piece(struct np_afxdp *x, struct np_buf *b, bool more) {
  if (x->rx_bad) {
    np_buf_put(b);
    x->rx_bad = more;
    return NULL;
  }
  if (x->rx_head == NULL) {
    x->rx_head = b;
    x->rx_pieces = 1;
  } else {
    x->rx_tail->next = b;
    x->rx_pieces++;
  }
  x->rx_tail = b;
  if (x->rx_pieces > NP_AFXDP_PIECES_MAX) {
    rx_bad(x, more);
    return NULL;
  }
  if (more) return NULL;
  b = x->rx_head;
  x->rx_head = x->rx_tail = NULL;
  return b;
}

static uint32_t afxdp_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct np_afxdp *x = of(q);
  struct np_afxdp_ring *r = &x->rx;
  uint32_t ready = r->cached_prod - r->cached_cons;
  if (ready == 0) {
    /* acquire pairs with the kernel's release when it publishes descriptors */
    r->cached_prod = __atomic_load_n(r->prod, __ATOMIC_ACQUIRE);
    ready = r->cached_prod - r->cached_cons;
    if (ready == 0) return 0;
  }
  uint32_t take = ready < max ? ready : max;
  uint32_t n = 0;
  uint32_t used = 0;
  uint64_t bytes = 0;
  const struct xdp_desc *desc = r->desc;
  for (uint32_t i = 0; i < take; i++) {
    const struct xdp_desc *d = &desc[(r->cached_cons + i) & r->mask];
    struct np_buf *b = buf_at(x, d->addr);
    uint32_t off = (uint32_t)(d->addr & (x->pool->chunk_bytes - 1));
    if (NP_UNLIKELY(b == NULL || off < NP_BUF_HDR || d->len > x->pool->chunk_bytes - off ||
                    (x->held[b->index] & NP_AFXDP_POSTED) == 0)) {
      if (x->rx_bad) {
        x->rx_bad = (d->options & NP_XDP_PKT_CONTD) != 0;
      } else {
        rx_bad(x, (d->options & NP_XDP_PKT_CONTD) != 0);
      }
      continue;
    }
    used++;
    x->held[b->index] &= (uint8_t)~NP_AFXDP_POSTED;
    b->data_off = off;
    b->len = d->len;
    bytes += d->len;
    NP_PREFETCH((const uint8_t *)b + off);
    bool more = (d->options & NP_XDP_PKT_CONTD) != 0;
    if (NP_UNLIKELY(more || x->rx_head != NULL || x->rx_bad)) {
      b = rx_piece(x, b, more);
      if (b == NULL) continue;
    }
    out[n++] = b;
  }
  r->cached_cons += take;
  __atomic_store_n(r->cons, r->cached_cons, __ATOMIC_RELEASE);
  q->posted_count -= used;
  note_lack(x);
  np_port_count(&q->stats.rx_pkts, n);
  np_port_count(&q->stats.rx_bytes, bytes);
  return n;
}

void np_afxdp_plan(struct np_afxdp *x, struct np_pool *pool, uint32_t ring) {
  x->pool = pool;
  x->spare_count = pool->count / 8u;
  x->post_max = np_min_u32(ring, pool->count / 4u);
  x->post_min = np_min_u32(x->post_max, np_max_u32(pool->count / 64u, 8u));
}

/* How many empty buffers to post: many, but leaving the pool what sending and sessions
 * need; below post_min all there are. */
static uint32_t refill_count(const struct np_afxdp *x) {
  uint32_t posted = x->port.posted_count;
  uint32_t free_count = x->pool->free_count;
  if (posted >= x->post_max) return 0;
  uint32_t n = free_count > x->spare_count ? free_count - x->spare_count : 0;
  n = np_min_u32(n, x->post_max - posted);
  if (NP_UNLIKELY(posted + n < x->post_min)) return np_min_u32(x->post_min - posted, free_count);
  return n < NP_BURST && posted > x->post_max / 2 ? 0 : n; /* in bulks, while there are plenty */
}

static void refill(struct np_afxdp *x) {
  struct np_afxdp_ring *r = &x->fill;
  uint32_t n = refill_count(x);
  if (n == 0) return;
  r->cached_cons = __atomic_load_n(r->cons, __ATOMIC_ACQUIRE);
  n = np_min_u32(n, r->count - (r->cached_prod - r->cached_cons));
  uint64_t *desc = r->desc;
  for (uint32_t i = 0; i < n; i++) {
    struct np_buf *b = np_pool_get_rx(x->pool);
    np_assert(b != NULL); /* free_count was asked */
    np_assert((x->held[b->index] & NP_AFXDP_POSTED) == 0);
    x->held[b->index] |= NP_AFXDP_POSTED;
    desc[(r->cached_prod + i) & r->mask] = offset_of(x, b);
  }
  r->cached_prod += n;
  x->port.posted_count += n;
  note_lack(x);
  __atomic_store_n(r->prod, r->cached_prod, __ATOMIC_RELEASE);
}

/* ---- sending ---- */

static void put_desc(struct np_afxdp *x, uint32_t at, const struct np_buf *b, uint32_t options) {
  struct xdp_desc *desc = x->tx.desc;
  x->held[b->index]++;
  desc[(x->tx.cached_prod + at) & x->tx.mask] =
      (struct xdp_desc){.addr = offset_of(x, b) + b->data_off, .len = b->len, .options = options};
}

/* Descriptors that a frame in several pieces takes; 0: no room for all of it now. */
static NP_COLD uint32_t tx_pieces(struct np_afxdp *x, const struct np_buf *b, uint32_t room) {
  uint32_t n = 0;
  for (; b != NULL; b = b->next, n++) { /* bound: NP_AFXDP_PIECES_MAX */
    np_assert(n < NP_AFXDP_PIECES_MAX);
    np_assert(b->pool == x->pool);
    if ((x->held[b->index] & NP_AFXDP_TX_MAX) == NP_AFXDP_TX_MAX) return 0;
  }
  if (n > room) { /* asked for one each before */
    struct np_afxdp_ring *r = &x->tx;
    uint32_t seen = r->cached_cons;
    r->cached_cons = __atomic_load_n(r->cons, __ATOMIC_ACQUIRE);
    if (n > room + (r->cached_cons - seen)) return 0;
  }
  return n;
}

/* The pieces' references go to the ring one by one, and come back one by one. Return: bytes. */
static NP_COLD uint32_t tx_chain(struct np_afxdp *x, const struct np_buf *b, uint32_t at) {
  uint32_t bytes = 0;
  for (; b != NULL; b = b->next) { /* bound: NP_AFXDP_PIECES_MAX */
    put_desc(x, at++, b, b->next != NULL ? NP_XDP_PKT_CONTD : 0);
    bytes += b->len;
  }
  return bytes;
}

static uint32_t afxdp_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct np_afxdp *x = of(q);
  struct np_afxdp_ring *r = &x->tx;
  if (NP_UNLIKELY(q->down)) return 0;
  if (r->count - (r->cached_prod - r->cached_cons) < n) r->cached_cons = __atomic_load_n(r->cons, __ATOMIC_ACQUIRE);
  uint32_t room = r->count - (r->cached_prod - r->cached_cons);
  uint32_t sent = 0;
  uint32_t used = 0;
  uint64_t bytes = 0;
  for (; sent < n; sent++) {
    struct np_buf *b = bufs[sent];
    np_assert(b->pool == x->pool);
    if (NP_UNLIKELY(x->sg && b->next != NULL)) {
      uint32_t pieces = tx_pieces(x, b, room - used);
      if (pieces == 0) break;
      room = r->count - (r->cached_prod - r->cached_cons);
      bytes += tx_chain(x, b, used);
      used += pieces;
      continue;
    }
    if (NP_UNLIKELY(used == room || (x->held[b->index] & NP_AFXDP_TX_MAX) == NP_AFXDP_TX_MAX)) break;
    put_desc(x, used++, b, 0);
    bytes += b->len;
  }
  /* Published at once: the kernel looks at it when it is kicked, in flush. */
  r->cached_prod += used;
  __atomic_store_n(r->prod, r->cached_prod, __ATOMIC_RELEASE);
  x->tx_held += used;
  np_port_count(&q->stats.tx_pkts, sent);
  np_port_count(&q->stats.tx_bytes, bytes);
  return sent;
}

static void reap(struct np_afxdp *x) {
  struct np_afxdp_ring *r = &x->comp;
  if (x->tx_held == 0) return;
  r->cached_prod = __atomic_load_n(r->prod, __ATOMIC_ACQUIRE);
  uint32_t n = r->cached_prod - r->cached_cons;
  if (n == 0) return;
  const uint64_t *desc = r->desc;
  for (uint32_t i = 0; i < n; i++) {
    struct np_buf *b = buf_at(x, desc[(r->cached_cons + i) & r->mask]);
    if (NP_UNLIKELY(b == NULL || (x->held[b->index] & NP_AFXDP_TX_MAX) == 0)) {
      np_port_count(&x->port.stats.tx_invalid, 1);
      continue;
    }
    x->held[b->index]--;
    x->tx_held--;
    np_buf_put(b);
  }
  r->cached_cons += n;
  __atomic_store_n(r->cons, r->cached_cons, __ATOMIC_RELEASE);
}

static bool tx_pending(struct np_afxdp *x) {
  x->tx.cached_cons = __atomic_load_n(x->tx.cons, __ATOMIC_ACQUIRE);
  return x->tx.cached_cons != x->tx.cached_prod;
}

/* ENETDOWN: the link is down, or the device is being removed. ENXIO: the socket
 * lost its device for good. */
static void note_error(struct np_afxdp *x, int error) {
  if (error == ENXIO || error == ENODEV || error == EBADF) x->gone = true;
  if (x->gone || error == ENETDOWN) x->port.down = true;
}

/* In copy mode a call sends a batch of 32 and says EAGAIN when more is left; EBUSY
 * means that the device dropped one, which is gone from the ring too. So it is the
 * ring that says when to stop, and no progress means that the kernel waits for completions. */
static void kick_tx(struct np_afxdp *x) {
  for (uint32_t i = 0; i < KICKS_PER_FLUSH_MAX && tx_pending(x); i++) {
    if ((__atomic_load_n(x->tx.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP) == 0) return;
    uint32_t before = x->tx.cached_cons;
    np_port_count(&x->port.stats.wakeups, 1);
    ssize_t sent = sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
    if (sent < 0 && errno != EAGAIN && errno != EBUSY && errno != ENOBUFS && errno != EINTR) {
      note_error(x, errno);
      return;
    }
    reap(x); /* completions make room for the next batch */
    if (sent < 0 && __atomic_load_n(x->tx.cons, __ATOMIC_ACQUIRE) == before) return;
  }
}

static void afxdp_flush(struct np_port_queue *q) {
  struct np_afxdp *x = of(q);
  reap(x);
  if (NP_UNLIKELY(q->down)) return;
  if (x->tx.cached_prod != x->tx.cached_cons) kick_tx(x);
  refill(x);
  if (NP_UNLIKELY((__atomic_load_n(x->fill.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP) != 0) && x->zero_copy) {
    /* only drivers that take buffers by themselves ask; the copy happens in the sender's softirq */
    np_port_count(&q->stats.wakeups, 1);
    if (recvfrom(x->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0) note_error(x, errno);
  }
}

static int afxdp_poll_fd(struct np_port_queue *q) { return of(q)->fd; }

static bool afxdp_busy(struct np_port_queue *q) {
  struct np_afxdp *x = of(q);
  if (x->rx.cached_cons != __atomic_load_n(x->rx.prod, __ATOMIC_ACQUIRE)) return true;
  return tx_pending(x);
}

/* A kick with nothing to send says whether the device is there: ENXIO after it was
 * unregistered, ENETDOWN while it is down, success or EAGAIN otherwise. */
static void afxdp_check(struct np_port_queue *q) {
  struct np_afxdp *x = of(q);
  if (x->gone) return;
  ssize_t n = sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
  bool there = n >= 0 || errno == EAGAIN || errno == EBUSY || errno == ENOBUFS;
  if (there) {
    q->down = false;
  } else {
    note_error(x, errno);
  }
}

static void port_statistics(struct np_port_queue *q, struct np_queue_stats *out) { np_afxdp_stats(of(q), out); }
static void port_shut(struct np_port_queue *q) { np_afxdp_shut(of(q)); }
static void port_reclaim(struct np_port_queue *q) { np_afxdp_reclaim(of(q)); }
static void port_free(struct np_port_queue *q) { np_afxdp_free(of(q)); }

const struct np_port_ops np_afxdp_ops = {
    .name = "af_xdp",
    .rx = afxdp_rx,
    .tx = afxdp_tx,
    .flush = afxdp_flush,
    .fd = afxdp_poll_fd,
    .busy = afxdp_busy,
    .check = afxdp_check,
    .statistics = port_statistics,
    .shut = port_shut,
    .reclaim = port_reclaim,
    .free = port_free,
};

/* bound: the pool's buffers, each at most 128 references */
void np_afxdp_reclaim(struct np_afxdp *x) {
  for (uint32_t i = 0; i < x->pool->count; i++) {
    uint8_t held = x->held[i];
    if (held == 0) continue;
    struct np_buf *b = np_pool_at(x->pool, (uint64_t)i * x->pool->chunk_bytes);
    if ((held & NP_AFXDP_POSTED) != 0) np_buf_put(b);
    for (uint32_t n = held & NP_AFXDP_TX_MAX; n > 0; n--) np_buf_put(b);
    x->held[i] = 0;
  }
  np_buf_put_chain(x->rx_head);
  x->rx_head = x->rx_tail = NULL;
  x->rx_bad = false;
  x->port.posted_count = 0;
  x->pool->reserve_count -= x->lack_count;
  x->lack_count = 0;
  x->tx_held = 0;
}
