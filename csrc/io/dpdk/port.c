/* The hot side of a DPDK queue: bursts in, bursts out. */
#include <string.h>

#include "base/bytes.h"
#include "base/chain.h"
#include "base/cksum.h"
#include "io/dpdk/internal.h"

#define ETH_BYTES 14u
#define ETH_TYPE_IP4 0x0800u
#define ETH_TYPE_VLAN 0x8100u
#define REDIAL_TICKS 10u
#define REARM_REST (UINT64_C(1) << 16 | UINT64_C(1) << 32 | (uint64_t)RTE_MBUF_PORT_INVALID << 48) /* refcnt 1, one segment */

static struct np_dpdk_queue *of(struct np_port_queue *q) { return NP_CONTAINER_OF(q, struct np_dpdk_queue, port); }

/* Around every call into the driver: see quiet.c, whose fence this one pairs with. */
static void burst_begin(struct np_dpdk_queue *x) {
  if (NP_LIKELY(!x->guard)) return;
  __atomic_store_n(&x->in_burst, 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static void burst_end(struct np_dpdk_queue *x) {
  if (NP_UNLIKELY(x->guard)) __atomic_store_n(&x->in_burst, 0, __ATOMIC_RELEASE);
}

/* ---- receiving ---- */

/* Keeps the pool's reserve at what the driver lacks of empty buffers; a driver that copies holds none. What was sent counts
 * as posted too: drivers give it back when they send more, which is no news to anybody. */
static void note_lack(struct np_dpdk_queue *x) {
  const struct np_dpdk_hdrs *h = &x->rx;
  uint32_t posted = h->count - h->free_count;
  uint32_t lack = posted < h->post_min ? h->post_min - posted : 0;
  uint32_t sent = x->tx.count - x->tx.free_count;
  x->port.posted_count = posted + (sent > x->pend_count ? sent - x->pend_count : 0);
  if (NP_LIKELY(lack == x->lack_count)) return;
  x->rx.pool->reserve_count += lack - x->lack_count;
  x->lack_count = lack;
}

/* The buffer of a received header, which is free from now on. */
static struct np_buf *detach(struct np_dpdk_hdrs *h, struct rte_mbuf *m) {
  struct np_buf *b = np_dpdk_buf(h, m);
  np_assert(m->pool == h->mp);
  b->data_off = NP_DPDK_BUF_OFF + m->data_off;
  b->len = m->data_len;
  m->buf_addr = NULL;
  h->free[h->free_count++] = m;
  return b;
}

/* What follows the first piece; headers that go back to the free list link nothing. */
static NP_COLD void detach_rest(struct np_dpdk_hdrs *h, struct np_buf *b, struct rte_mbuf *first) {
  struct rte_mbuf *m = first->next;
  first->next = NULL;
  first->nb_segs = 1;
  while (m != NULL) { /* bound: the headers of the queue */
    struct rte_mbuf *next = m->next;
    m->next = NULL;
    m->nb_segs = 1;
    b->next = detach(h, m);
    b = b->next;
    m = next;
  }
}

static uint32_t take(struct np_dpdk_queue *x, struct rte_mbuf **ms, uint32_t n, struct np_buf **out) {
  struct np_dpdk_hdrs *h = &x->rx;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < n; i++) {
    struct rte_mbuf *m = ms[i];
    if (i + 4 < n) NP_PREFETCH_W(np_dpdk_buf(h, ms[i + 4]));
    bytes += m->pkt_len;
    struct np_buf *b = detach(h, m);
    /* "none" sets this bit too: never summed on its way, because it did not leave the machine */
    b->flags = (m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_GOOD) != 0 ? NP_BUF_L4_CSUM_OK : 0;
    if (NP_UNLIKELY(m->nb_segs > 1)) detach_rest(h, b, m);
    NP_PREFETCH(np_buf_cdata(b));
    out[i] = b;
  }
  np_port_count(&x->port.stats.rx_pkts, n);
  np_port_count(&x->port.stats.rx_bytes, bytes);
  return n;
}

/* A packet in the driver's own memory, in as many buffers as it needs. NULL: the pool has not so many. */
static struct np_buf *copy_in(struct np_pool *pool, const struct rte_mbuf *m) {
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  for (; m != NULL; m = m->next) { /* bound: the segments of a packet */
    const uint8_t *from = rte_pktmbuf_mtod(m, const uint8_t *);
    for (uint32_t left = m->data_len; left > 0;) {
      if (tail == NULL || np_buf_tailroom(tail) == 0) {
        struct np_buf *b = np_pool_get_rx(pool);
        if (b == NULL) {
          np_buf_put_chain(head);
          return NULL;
        }
        if (tail != NULL) tail->next = b;
        if (head == NULL) head = b;
        tail = b;
      }
      uint32_t n = np_min_u32(left, np_buf_tailroom(tail));
      memcpy(np_buf_append(tail, n), from, n);
      from += n;
      left -= n;
    }
  }
  return head;
}

static uint32_t take_copies(struct np_dpdk_queue *x, struct rte_mbuf **ms, uint32_t n, struct np_buf **out) {
  uint32_t got = 0;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < n; i++) {
    struct np_buf *b = copy_in(x->rx.pool, ms[i]);
    if (b != NULL) {
      if ((ms[i]->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_GOOD) != 0) b->flags = NP_BUF_L4_CSUM_OK;
      bytes += ms[i]->pkt_len;
      out[got++] = b;
    } else {
      np_port_count(&x->port.stats.fill_empty, 1);
    }
  }
  rte_pktmbuf_free_bulk(ms, n);
  np_port_count(&x->port.stats.rx_pkts, got);
  np_port_count(&x->port.stats.rx_bytes, bytes);
  return got;
}

static uint32_t dpdk_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct np_dpdk_queue *x = of(q);
  struct rte_mbuf *burst[NP_BURST];
  struct rte_mbuf **ms = burst;
  uint32_t n;
  if (NP_UNLIKELY(q->down)) return 0; /* stopped, perhaps: DPDK wants no bursts then */
  if (NP_UNLIKELY(x->stash_count > 0)) {
    ms = x->stash + x->stash_at;
    n = np_min_u32(x->stash_count, max);
    x->stash_at += n;
    x->stash_count -= n;
  } else {
    burst_begin(x);
    n = rte_eth_rx_burst(x->port_id, x->qid, burst, (uint16_t)np_min_u32(max, NP_BURST));
    burst_end(x);
    if (n == 0) return 0;
  }
  return NP_UNLIKELY(x->bounce) ? take_copies(x, ms, n, out) : take(x, ms, n, out);
}

/* ---- sending ---- */

/* Headers that wait in pend[] are the driver's as far as it takes them. */
static void push_out(struct np_dpdk_queue *x) {
  if (x->pend_count == 0) return;
  burst_begin(x);
  uint32_t sent = rte_eth_tx_burst(x->port_id, x->qid, x->pend, (uint16_t)x->pend_count);
  burst_end(x);
  x->pend_count -= sent;
  if (NP_UNLIKELY(x->pend_count > 0 && sent > 0)) memmove(x->pend, x->pend + sent, x->pend_count * sizeof *x->pend);
}

/* A header that shows a piece: refcnt, nb_segs and port are written with data_off in one store. */
static struct rte_mbuf *show(struct np_dpdk_hdrs *h, struct np_buf *b) {
  struct rte_mbuf *m = h->free[--h->free_count];
  np_dpdk_bind(h, m, b);
  uint64_t rearm = (b->data_off - NP_DPDK_BUF_OFF) | REARM_REST;
  memcpy(&m->rearm_data, &rearm, sizeof rearm);
  m->ol_flags = 0;
  m->data_len = (uint16_t)b->len;
  m->pkt_len = b->len;
  return m;
}

/* What the driver has to know to sum, or to cut and sum, TCP in this frame. A packet that it cuts carries the
 * pseudo header's sum without the length, which differs from segment to segment (DPDK's convention). */
static NP_COLD void ask_offload(struct rte_mbuf *m, struct np_buf *b) {
  uint8_t *frame = np_buf_data(b);
  uint32_t l4 = b->l4_off - b->data_off;
  uint32_t l2 = ETH_BYTES;
  uint32_t type = np_load_be16(frame + 12);
  if (type == ETH_TYPE_VLAN) {
    type = np_load_be16(frame + 16);
    l2 += 4;
  }
  bool v4 = type == ETH_TYPE_IP4;
  m->ol_flags = (v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6) | RTE_MBUF_F_TX_TCP_CKSUM;
  m->tx_offload = 0;
  m->l2_len = l2 & 0x7fu;
  m->l3_len = (l4 - l2) & 0x1ffu;
  if ((b->flags & NP_BUF_GSO) == 0) return;
  m->l4_len = (uint8_t)(frame[l4 + 12] >> 4 << 2);
  m->tso_segsz = b->gso_bytes;
  m->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
  uint32_t l4_bytes = m->pkt_len - l4;
  uint64_t sum = np_load_16(frame + l4 + 16);
  sum = np_cksum_add64(sum, (uint16_t)~__builtin_bswap16((uint16_t)(l4_bytes & 0xffffu)));
  np_store_16(frame + l4 + 16, np_cksum_fold(sum));
  if (!v4) return;
  m->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
  np_store_16(frame + l2 + 10, 0);
}

/* A chain as chained headers; more pieces than the driver takes are put together first, in buffers of
 * their own. NULL: not now, nothing was taken. */
static NP_COLD struct rte_mbuf *show_chain(struct np_dpdk_queue *x, struct np_buf *b) {
  struct np_dpdk_hdrs *h = &x->tx;
  uint32_t pieces = np_buf_pieces(b);
  if (pieces > h->free_count) return NULL;
  struct rte_mbuf *head = show(h, b);
  struct rte_mbuf *tail = head;
  for (struct np_buf *p = b->next; p != NULL; p = p->next) { /* bound: pieces */
    struct rte_mbuf *m = show(h, p);
    head->pkt_len += p->len;
    head->nb_segs++;
    tail->next = m;
    tail = m;
  }
  return head;
}

/* Frees a chain of headers that the driver will not get, and its references or not. */
static NP_COLD void unshow(struct np_dpdk_queue *x, struct rte_mbuf *m, bool put) {
  struct np_dpdk_hdrs *h = &x->tx;
  while (m != NULL) { /* bound: the headers of the queue */
    struct rte_mbuf *next = m->next;
    if (put) np_buf_put(np_dpdk_buf(h, m));
    m->next = NULL;
    m->nb_segs = 1;
    m->buf_addr = NULL;
    h->free[h->free_count++] = m;
    m = next;
  }
}

/* More pieces than the driver takes: the bytes in fewer buffers of their own, in place of the chain. NULL: no
 * room, and the chain is as it was. */
static NP_COLD struct np_buf *packed(const struct np_dpdk_queue *x, struct np_buf *b) {
  uint32_t room = b->pool->chunk_bytes - NP_BUF_DATA_OFF;
  if ((np_buf_chain_len(b) + room - 1) / room > x->tx.free_count) return NULL; /* show_chain would refuse it */
  struct np_buf first = *b;
  struct np_buf *to = np_buf_pack(b);
  if (to == NULL) return NULL;
  to->flags = first.flags;
  to->gso_bytes = first.gso_bytes;
  to->l4_off = (uint16_t)(first.l4_off - first.data_off + to->data_off);
  return to;
}

/* A packet in the driver's own memory. NULL: it has none free, or the packet is too long for it. */
static struct rte_mbuf *copy_out(struct np_dpdk_queue *x, const struct np_buf *b) {
  uint32_t len = np_buf_total(b);
  if (len > x->bounce_bytes) return NULL;
  struct rte_mbuf *m = rte_pktmbuf_alloc(x->own_mp);
  if (m == NULL) return NULL;
  np_buf_copy(b, 0, rte_pktmbuf_append(m, (uint16_t)len), len);
  return m;
}

/* Return: whether the packet was taken; *out is NULL when it was but the driver says that it can't send it. */
static NP_COLD bool show_odd(struct np_dpdk_queue *x, struct np_buf *b, struct rte_mbuf **out) {
  if (x->bounce) {
    *out = copy_out(x, b);
    if (*out != NULL) np_buf_put_chain(b);
    return *out != NULL;
  }
  if (b->next != NULL) {
    uint32_t most = (b->flags & NP_BUF_GSO) != 0 ? x->gso_pieces_max : x->pieces_max;
    if (np_buf_pieces(b) > most) b = packed(x, b);
    if (b == NULL) return false;
  }
  *out = show_chain(x, b);
  if (*out == NULL) return false;
  if ((b->flags & NP_BUF_TX_CSUM) == 0) return true;
  ask_offload(*out, b);
  if (rte_eth_tx_prepare(x->port_id, x->qid, out, 1) == 1) return true;
  unshow(x, *out, true);
  *out = NULL;
  np_port_count(&x->port.stats.tx_invalid, 1);
  return true;
}

static uint32_t dpdk_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct np_dpdk_queue *x = of(q);
  if (NP_UNLIKELY(q->down)) return 0;
  uint64_t bytes = 0;
  uint32_t taken = 0;
  for (; taken < n; taken++) {
    struct np_buf *b = bufs[taken];
    np_assert(b->pool == x->rx.pool);
    if (NP_UNLIKELY(x->pend_count == NP_BURST)) {
      push_out(x);
      if (x->pend_count == NP_BURST) break;
    }
    struct rte_mbuf *m;
    if (NP_UNLIKELY(b->next != NULL || (b->flags & NP_BUF_TX_CSUM) != 0 || x->bounce)) {
      if (!show_odd(x, b, &m)) break;
      if (m == NULL) continue;
    } else {
      if (NP_UNLIKELY(x->tx.free_count == 0)) break;
      m = show(&x->tx, b);
    }
    bytes += m->pkt_len;
    x->pend[x->pend_count++] = m;
  }
  np_port_count(&q->stats.tx_pkts, taken);
  np_port_count(&q->stats.tx_bytes, bytes);
  return taken;
}

/* What waited when the device went away is lost, as it would be on a wire. */
static NP_COLD void drop_pending(struct np_dpdk_queue *x) {
  if (x->bounce) {
    rte_pktmbuf_free_bulk(x->pend, x->pend_count);
  } else {
    for (uint32_t i = 0; i < x->pend_count; i++) unshow(x, x->pend[i], true);
  }
  np_port_count(&x->port.stats.tx_invalid, x->pend_count);
  x->pend_count = 0;
}

static void dpdk_flush(struct np_port_queue *q) {
  struct np_dpdk_queue *x = of(q);
  if (NP_UNLIKELY(q->down)) {
    if (x->pend_count > 0) drop_pending(x);
  } else {
    push_out(x);
  }
  if (NP_UNLIKELY(x->bounce)) return;
  np_dpdk_hdrs_collect(&x->rx);
  np_dpdk_hdrs_collect(&x->tx);
  note_lack(x);
}

/* ---- idle and link ---- */

static int dpdk_fd(struct np_port_queue *q) {
  (void)q;
  return -1;
}

/* Asks by receiving: no other question is answered by every driver. */
static bool dpdk_busy(struct np_port_queue *q) {
  struct np_dpdk_queue *x = of(q);
  if (x->pend_count > 0 || x->stash_count > 0) return true;
  burst_begin(x);
  x->stash_count = rte_eth_rx_burst(x->port_id, x->qid, x->stash, NP_BURST / 2);
  burst_end(x);
  x->stash_at = 0;
  return x->stash_count > 0;
}

/* Started again a memif client calls its server again. Not in the first second: the driver may be taking the old
 * connection down on its own thread until then. */
static NP_COLD void redial(struct np_dpdk_queue *x) {
  if (x->qid != 0 || ++x->down_ticks % REDIAL_TICKS != 0) return;
  (void)rte_eth_dev_stop(x->port_id); /* either fails while the server is not there: then once more in a second */
  (void)rte_eth_dev_start(x->port_id);
}

/* Ten times a second. Also has what was sent given back when nothing else is sent: drivers do it only
 * before they send more. */
static void dpdk_check(struct np_port_queue *q) {
  struct np_dpdk_queue *x = of(q);
  struct rte_eth_link link;
  memset(&link, 0, sizeof link);
  bool up = rte_eth_link_get_nowait(x->port_id, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
  q->gone = __atomic_load_n(&x->device->gone, __ATOMIC_RELAXED);
  q->down = !up || q->gone;
  if (NP_LIKELY(up)) {
    x->down_ticks = 0;
  } else if (x->device->redial) {
    redial(x);
  }
  if (x->tx_cleanup && q->stats.tx_pkts == x->tx_seen && x->tx.free_count < x->tx.count) {
    burst_begin(x);
    int rc = rte_eth_tx_done_cleanup(x->port_id, x->qid, 0);
    burst_end(x);
    if (rc < 0) x->tx_cleanup = false;
  }
  x->tx_seen = q->stats.tx_pkts;
}

const struct np_port_ops np_dpdk_ops = {
    .name = "dpdk",
    .rx = dpdk_rx,
    .tx = dpdk_tx,
    .flush = dpdk_flush,
    .fd = dpdk_fd,
    .busy = dpdk_busy,
    .check = dpdk_check,
    .statistics = np_dpdk_statistics,
    .shut = np_dpdk_shut,
    .reclaim = np_dpdk_reclaim,
    .free = np_dpdk_free,
};
