/* The send queue: buffers as the session handed them over, each one segment or
 * less. They are cut and joined by copying only where a size does not fit. */
#include "tcp/tcp_int.h"

static void append(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  s->seq = c->snd_end;
  s->len = b->len;
  s->off = b->data_off;
  s->sum = 0;
  s->sent_ns = 0;
  s->next = NULL;
  s->flags = 0;
  s->link_prev = s->link_next = 0;
  c->snd_end = np_seq_add(c->snd_end, b->len);
  if (c->sndq_tail == NULL) {
    c->sndq_head = b;
  } else {
    np_txseg(c->sndq_tail)->next = b;
  }
  c->sndq_tail = b;
  if (c->sndq_next == NULL) c->sndq_next = b;
  c->snd_segs++;
}

/* Small writes join the last piece that was never sent, so that each does not
 * cost a segment and a buffer. A piece never sent is nobody else's: it may be written. */
static bool joined(struct np_tcp_conn *c, const struct np_buf *b) {
  struct np_buf *tail = c->sndq_tail;
  if (c->sndq_next == NULL || tail->refs != 1) return false;
  struct np_tcp_txseg *s = np_txseg(tail);
  if (s->len + b->len > c->mss || s->off + s->len + b->len > tail->cap_bytes) return false;
  memcpy((uint8_t *)tail + s->off + s->len, np_buf_cdata(b), b->len);
  s->len += b->len;
  s->flags &= ~NP_TXS_SUM; /* what a cut left behind has one */
  c->snd_end = np_seq_add(c->snd_end, b->len);
  return true;
}

void np_tcp_sendq_add(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *chain) {
  uint32_t before = c->snd_segs;
  while (chain != NULL) { /* bound: the chain, which send's caller keeps within room */
    struct np_buf *b = chain;
    chain = b->next;
    b->next = NULL;
    np_assert(b->refs == 1);
    if (b->len == 0 || joined(c, b)) {
      np_buf_put(b);
      continue;
    }
    append(c, b);
  }
  if (c->sndq_tail != NULL) np_txseg(c->sndq_tail)->flags |= NP_TXS_PSH;
  tcp->mem.send += c->snd_segs - before;
}

void np_tcp_sendq_free(struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  while (b != NULL) { /* bound: snd_segs */
    struct np_buf *next = np_txnext(b);
    np_buf_put(b);
    b = next;
  }
  c->sndq_head = c->sndq_tail = c->sndq_next = NULL;
  c->rack_next = c->sack_hint = NULL;
  if (c->snd_segs != 0) np_tcp_owner(c)->mem.send -= c->snd_segs;
  c->snd_segs = 0;
  c->sacked_segs = c->sacked_bytes = 0;
  c->lost_bytes = c->lost_due = c->rtx_bytes = c->reno_bytes = 0;
  c->rack.due = c->rack.rtx = (struct np_tcp_seglist){0, 0};
  c->rack.due_hint = c->rack.run_first = 0;
}

/* Of two sums that make one, the second beginning after first_len bytes. */
static uint16_t sum_both(uint16_t first, uint32_t first_len, uint16_t second) {
  return np_cksum_fold((uint64_t)first + (first_len & 1 ? np_cksum_swap(second) : second));
}

/* What is left of a sum when the first n bytes' is taken away. */
static uint16_t sum_rest(uint16_t whole, uint16_t first, uint32_t n) {
  uint16_t rest = np_cksum_fold((uint64_t)whole + (uint16_t)~first);
  return n & 1 ? np_cksum_swap(rest) : rest;
}

uint16_t np_tcp_sendq_sum(struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (!(s->flags & NP_TXS_SUM)) {
    s->sum = np_cksum_fold(np_cksum_add(0, (const uint8_t *)b + s->off, s->len));
    s->flags |= NP_TXS_SUM;
  }
  return (uint16_t)s->sum;
}

/* Takes n bytes off the front of piece b; all of it: its place in the queue too. */
static void taken(struct np_tcp_conn *c, struct np_buf *before, struct np_buf *b, uint32_t n, uint16_t sum) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (n == s->len) {
    np_txseg(before)->next = s->next;
    if (c->sndq_tail == b) c->sndq_tail = before;
    np_txseg(before)->flags |= s->flags & NP_TXS_PSH;
    c->snd_segs--;
    np_tcp_owner(c)->mem.send--;
    np_buf_put(b);
    return;
  }
  if (s->flags & NP_TXS_SUM) s->sum = sum_rest((uint16_t)s->sum, sum, n);
  s->seq = np_seq_add(s->seq, n);
  s->off += n;
  s->len -= n;
}

void np_tcp_sendq_fill(struct np_tcp_conn *c, struct np_buf *b, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (b->refs != 1) return;
  if (n > b->cap_bytes - s->off && s->off > NP_BUF_DATA_OFF) {
    /* Its own front went to the segment before: room there, which every piece in a row would lack behind. */
    memmove((uint8_t *)b + NP_BUF_DATA_OFF, (const uint8_t *)b + s->off, s->len);
    s->off = NP_BUF_DATA_OFF;
  }
  n = np_min_u32(n, b->cap_bytes - s->off);
  while (s->len < n && s->next != NULL) { /* bound: n bytes, one at least each time */
    struct np_buf *from = s->next;
    struct np_tcp_txseg *f = np_txseg(from);
    uint32_t take = np_min_u32(n - s->len, f->len);
    uint16_t sum = np_tcp_sendq_sum(b);
    uint16_t part = np_cksum_fold(np_cksum_copy(0, (uint8_t *)b + s->off + s->len, (const uint8_t *)from + f->off, take));
    s->sum = sum_both(sum, s->len, part);
    s->len += take;
    taken(c, b, from, take, part);
  }
}

/* The first n bytes of b, never sent, move to nb, which takes the place before it. */
static void cut_front(struct np_tcp_conn *c, struct np_buf *before, struct np_buf *b, struct np_buf *nb, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  struct np_tcp_txseg *ns = np_txseg(nb);
  ns->len = n;
  ns->sum = np_cksum_fold(np_cksum_copy(0, np_buf_append(nb, n), (const uint8_t *)b + s->off, n));
  ns->flags = (ns->flags & ~NP_TXS_PSH) | NP_TXS_SUM;
  ns->next = b;
  if (s->flags & NP_TXS_SUM) s->sum = sum_rest((uint16_t)s->sum, (uint16_t)ns->sum, n);
  s->off += n;
  s->len -= n;
  s->seq = np_seq_add(s->seq, n);
  if (before == NULL) {
    c->sndq_head = nb;
  } else {
    np_txseg(before)->next = nb;
  }
  if (c->sndq_next == b) c->sndq_next = nb;
  if (c->rack_next == b) c->rack_next = nb;
}

/* What follows the first n bytes of b moves to nb, which takes the place behind it. */
static void cut_rest(struct np_tcp_conn *c, struct np_buf *b, struct np_buf *nb, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  struct np_tcp_txseg *ns = np_txseg(nb);
  ns->len = s->len - n;
  ns->seq = np_seq_add(s->seq, n);
  ns->sum = np_cksum_fold(np_cksum_copy(0, np_buf_append(nb, ns->len), (const uint8_t *)b + s->off + n, ns->len));
  ns->flags |= NP_TXS_SUM;
  if (s->flags & NP_TXS_SUM) { /* the rest's, as it counts where it was, off the whole */
    uint16_t rest = n & 1 ? np_cksum_swap((uint16_t)ns->sum) : (uint16_t)ns->sum;
    s->sum = np_cksum_fold((uint64_t)s->sum + (uint16_t)~rest);
  }
  s->flags &= ~NP_TXS_PSH;
  s->len = n;
  s->next = nb;
  if (c->sndq_tail == b) c->sndq_tail = nb;
  np_tcp_seg_cut(c, b, nb);
}

struct np_buf *np_tcp_sendq_cut(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *before, struct np_buf *b, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  np_assert(n > 0 && n < s->len);
  struct np_buf *nb = np_pool_get(tcp->env.pool);
  if (nb == NULL) return NULL;
  *np_txseg(nb) = *s;
  np_txseg(nb)->off = nb->data_off;
  c->snd_segs++;
  tcp->mem.send++;
  /* The smaller end is copied, if the piece before is known: nobody walks to find it. */
  bool front = n < s->len / 2 && np_seq_ge(s->seq, c->snd_nxt) && (before != NULL || b == c->sndq_head);
  if (front) {
    cut_front(c, before, b, nb, n);
    return nb;
  }
  cut_rest(c, b, nb, n);
  return b;
}

struct np_buf *np_tcp_sendq_join(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t n) {
  struct np_buf *b = c->sndq_next;
  const struct np_tcp_txseg *s = np_txseg(b);
  np_assert((uint32_t)np_seq_diff(c->snd_end, s->seq) >= n);
  if (s->len == n) return b;
  if (s->len > n) return np_tcp_sendq_cut(tcp, c, NULL, b, n);
  if (b->refs != 1 || n > b->cap_bytes - NP_BUF_DATA_OFF) return NULL;
  np_tcp_sendq_fill(c, b, n);
  np_assert(np_txseg(b)->len == n);
  return b;
}
