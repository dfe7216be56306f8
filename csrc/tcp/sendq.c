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
  c->snd_end = np_seq_add(c->snd_end, b->len);
  return true;
}

void np_tcp_sendq_add(struct np_tcp_conn *c, struct np_buf *chain) {
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
  c->snd_segs = 0;
  c->sacked_segs = c->sacked_bytes = 0;
  c->lost_bytes = c->lost_due = c->rtx_bytes = c->reno_bytes = 0;
  c->rack.due = c->rack.rtx = (struct np_tcp_seglist){0, 0};
  c->rack.due_hint = c->rack.run_first = 0;
}

static void link_before(struct np_tcp_conn *c, struct np_buf *nb, struct np_buf *b) {
  np_txseg(nb)->next = b;
  if (c->sndq_head == b) {
    c->sndq_head = nb;
    return;
  }
  /* Cut pieces are the first unsent or lie near the head: a short walk. */
  struct np_buf *p = c->sndq_head;
  while (np_txnext(p) != b) p = np_txnext(p);
  np_txseg(p)->next = nb;
}

struct np_buf *np_tcp_sendq_cut(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  np_assert(n > 0 && n < s->len);
  struct np_buf *nb = np_pool_get(tcp->env.pool);
  if (nb == NULL) return NULL;
  memcpy(np_buf_append(nb, n), (const uint8_t *)b + s->off, n);
  struct np_tcp_txseg *ns = np_txseg(nb);
  *ns = *s;
  ns->off = nb->data_off;
  ns->len = n;
  ns->flags &= ~(NP_TXS_SUM | NP_TXS_PSH);
  link_before(c, nb, b);
  s->off += n;
  s->len -= n;
  s->seq = np_seq_add(s->seq, n);
  s->flags &= ~NP_TXS_SUM;
  c->snd_segs++;
  if (c->sndq_next == b) c->sndq_next = nb;
  np_tcp_seg_cut(c, nb, b);
  return nb;
}

/* Moves n bytes from the front of the pieces behind b to its end; there is room for them, and none was sent. */
static void take_behind(struct np_tcp_conn *c, struct np_buf *b, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  while (n > 0) { /* bound: the pieces queued */
    struct np_buf *from = s->next;
    struct np_tcp_txseg *f = np_txseg(from);
    uint32_t take = np_min_u32(n, f->len);
    memcpy((uint8_t *)b + s->off + s->len, (const uint8_t *)from + f->off, take);
    s->len += take;
    n -= take;
    f->off += take;
    f->len -= take;
    f->seq = np_seq_add(f->seq, take);
    f->flags &= ~NP_TXS_SUM;
    if (f->len != 0) continue;
    s->flags |= f->flags & NP_TXS_PSH;
    s->next = f->next;
    if (c->sndq_tail == from) c->sndq_tail = b;
    c->snd_segs--;
    np_buf_put(from);
  }
  s->flags &= ~NP_TXS_SUM;
}

struct np_buf *np_tcp_sendq_join(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t n) {
  struct np_buf *b = c->sndq_next;
  const struct np_tcp_txseg *s = np_txseg(b);
  np_assert((uint32_t)np_seq_diff(c->snd_end, s->seq) >= n);
  if (s->len == n) return b;
  if (s->len > n) return np_tcp_sendq_cut(tcp, c, b, n);
  if (b->refs != 1 || s->off + n > b->cap_bytes) {
    /* Another buffer, with more room: cut off as much as can be, so that it takes b's place. */
    if (s->len < 2 || n > tcp->env.pool->chunk_bytes - NP_BUF_DATA_OFF) return NULL;
    b = np_tcp_sendq_cut(tcp, c, b, s->len - 1);
    if (b == NULL) return NULL;
  }
  take_behind(c, b, n - np_txseg(b)->len);
  return b;
}
