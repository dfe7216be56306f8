/* Sending: what is queued becomes messages, and what messages hold comes back. */
#include "base/bytes.h"
#include "io/rdma/internal.h"

#define SQ_MASK (NP_RDMA_SQ_DEPTH - 1u)
_Static_assert((NP_RDMA_SQ_DEPTH & SQ_MASK) == 0, "positions wrap");

uint32_t np_rdma_sq_room(const struct np_rdma_conn *c) {
  return NP_RDMA_SQ_DEPTH - (uint16_t)(c->sq_tail - c->sq_head);
}

uint64_t np_rdma_sq_take(struct np_rdma_conn *c, struct np_buf *bufs, uint32_t bytes, uint32_t op) {
  np_assert(np_rdma_sq_room(c) > 0);
  if (c->sq_head == c->sq_tail) c->progress_ns = np_rdma_owner(c)->now_ns;
  c->sq[c->sq_tail & SQ_MASK] = (struct np_rdma_sq){.bufs = bufs, .bytes = bytes, .op = op};
  c->flight_bytes += bytes;
  uint64_t wr = (uint64_t)c->generation << 32 | (uint64_t)c->slot << 16 | c->sq_tail;
  c->sq_tail++;
  return wr;
}

static void give_back(struct np_rdma *r, struct np_rdma_conn *c, enum np_err err) {
  if (c->link.fin_sent && c->sq_head == c->fin_at && err == NP_ERR_OK) c->flags |= NP_RF_FIN_ACKED;
  struct np_rdma_sq *q = &c->sq[c->sq_head++ & SQ_MASK];
  np_buf_put_chain(q->bufs);
  c->flight_bytes -= q->bytes;
  if (q->op != NP_RDMA_NIL) np_rdma_op_end(r, q->op, err);
  *q = (struct np_rdma_sq){.op = NP_RDMA_NIL};
}

void np_rdma_sq_done(struct np_rdma *r, struct np_rdma_conn *c, uint16_t position, enum np_err err) {
  /* Our own device names it; one that is not in flight is a device's mistake, and nothing is done with it. */
  uint32_t count = (uint16_t)(position - c->sq_head) + 1u;
  if (count > NP_RDMA_SQ_DEPTH - np_rdma_sq_room(c)) return;
  while (count-- > 0) give_back(r, c, count == 0 ? err : NP_ERR_OK); /* bound: the send queue */
  c->flags &= ~NP_RF_ASKED;
  c->progress_ns = r->now_ns;
}

void np_rdma_sq_drop(struct np_rdma *r, struct np_rdma_conn *c, enum np_err err) {
  while (c->sq_head != c->sq_tail) give_back(r, c, err); /* bound: the send queue */
}

void np_rdma_sendq_free(struct np_rdma_conn *c) {
  np_buf_put_chain(c->sendq_head);
  c->sendq_head = c->sendq_tail = NULL;
  c->sendq_bytes = 0;
}

static void unlink_head(struct np_rdma_conn *c) {
  c->head_split = false;
  c->sendq_head = c->sendq_head->next;
  if (c->sendq_head == NULL) c->sendq_tail = NULL;
}

/* Up to span bytes of the queue as pieces of post. A buffer that is sent in parts belongs to the message
 * with its last one. Return: bytes; *whole are the buffers that end in this message. */
static uint32_t gather(struct np_rdma_conn *c, uint32_t span, struct np_rv_post *post, struct np_buf **whole) {
  struct np_buf **tail = whole;
  uint32_t bytes = 0;
  *whole = NULL;
  while (c->sendq_head != NULL && bytes < span && post->sge_count < c->sge_max) { /* bound: sge_max */
    struct np_buf *b = c->sendq_head;
    uint32_t n = np_min_u32(b->len, span - bytes);
    if (n > 0) {
      post->sge[post->sge_count++] =
          (struct np_rv_sge){.addr = (uint64_t)(uintptr_t)np_buf_data(b), .bytes = n, .lkey = c->pool_lkey};
    }
    bytes += n;
    if (n < b->len) {
      np_buf_pull(b, n);
      c->head_split = true;
      break;
    }
    unlink_head(c);
    b->next = NULL;
    *tail = b;
    tail = &b->next;
  }
  c->sendq_bytes -= bytes;
  return bytes;
}

/* One message with data. */
static void make_data(struct np_rdma *r, struct np_rdma_conn *c, uint32_t span, struct np_rv_post *post) {
  struct np_buf *whole;
  post->remote_addr = c->peer_addr + c->link.snd_at;
  bool split = c->head_split;
  uint32_t bytes = gather(c, span, post, &whole);
  bool fin = (c->flags & NP_RF_FIN_QUEUED) != 0 && c->sendq_head == NULL;
  if (fin) c->fin_at = c->sq_tail;
  post->imm = np_link_sent(&c->link, bytes, fin);
  /* The end of a buffer whose begin the device may still read holds it until both are done. */
  post->is_inline = bytes <= c->inline_bytes && !split;
  post->signaled = fin || !post->is_inline;
  /* Inline bytes are copied by the post; the caller frees their buffers right behind it. */
  post->wr_id = np_rdma_sq_take(c, whole, bytes, NP_RDMA_NIL);
  c->bytes_tx += bytes;
  r->env.counters->counter[NP_C_RDMA_BYTES_TX] += bytes;
  if (post->is_inline) np_rdma_count(r, NP_C_RDMA_INLINE);
}

/* FIN or credits alone. */
static void make_bare(struct np_rdma *r, struct np_rdma_conn *c, bool fin, struct np_rv_post *post) {
  post->remote_addr = c->peer_addr;
  if (fin) c->fin_at = c->sq_tail;
  post->imm = np_link_sent(&c->link, 0, fin);
  post->is_inline = c->inline_bytes > 0;
  post->signaled = fin;
  post->wr_id = np_rdma_sq_take(c, NULL, 0, NP_RDMA_NIL);
  if (!fin) np_rdma_count(r, NP_C_RDMA_CREDITS_TX);
}

/* The next message, when there is one to send and room for it here and there. */
static bool make_next(struct np_rdma *r, struct np_rdma_conn *c, struct np_rv_post *post) {
  if (np_rdma_sq_room(c) == 0) return false;
  *post = (struct np_rv_post){.op = NP_RV_WRITE_IMM, .rkey = c->peer_rkey};
  uint32_t span = np_link_span(&c->link);
  if (c->sendq_head != NULL && span > 0) {
    c->flags &= ~NP_RF_STALLED;
    make_data(r, c, span, post);
  } else if (c->sendq_head == NULL && (c->flags & NP_RF_FIN_QUEUED) && !c->link.fin_sent && np_link_can_tell(&c->link)) {
    make_bare(r, c, true, post);
  } else if (np_link_must_tell(&c->link)) {
    make_bare(r, c, false, post);
  } else {
    if (c->sendq_head != NULL && (c->flags & NP_RF_STALLED) == 0) {
      c->flags |= NP_RF_STALLED;
      np_rdma_count(r, NP_C_RDMA_STALLS);
    }
    return false;
  }
  c->msgs_tx++;
  np_rdma_count(r, NP_C_RDMA_MSGS_TX);
  /* Now and then one that holds nothing, so that places in the send queue come back. */
  if ((uint16_t)(c->sq_tail - c->sq_signaled) >= NP_RDMA_SIGNAL_EVERY || c->user_timeout_ms != 0) post->signaled = true;
  if (post->signaled) c->sq_signaled = c->sq_tail;
  return true;
}

/* What inline messages copied need not wait for its completion. */
static void free_inline(struct np_rdma_conn *c, const struct np_rv_post *posts, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    if (!posts[i].is_inline) continue;
    struct np_rdma_sq *q = &c->sq[posts[i].wr_id & SQ_MASK];
    np_buf_put_chain(q->bufs);
    q->bufs = NULL;
    c->flight_bytes -= q->bytes;
    q->bytes = 0;
  }
}

bool np_rdma_output(struct np_rdma *r, struct np_rdma_conn *c) {
  if ((c->flags & NP_RF_PEER) == 0) return false;
  uint32_t made = 0;
  while (made < NP_RDMA_MSGS_PER_FLUSH) { /* bound: the budget */
    struct np_rv_post posts[NP_RV_POSTS_MAX];
    uint32_t n = 0;
    while (n < NP_RV_POSTS_MAX && make_next(r, c, &posts[n])) n++;
    if (n == 0) return false;
    c->last_tx_ns = r->now_ns;
    made += n;
    uint32_t taken = c->ops->post(c->qp, posts, n);
    free_inline(c, posts, n);
    if (taken != n) { /* its send queue is as long as ours: it is broken or gone */
      np_rdma_fail(r, c, NP_ERR_SYS);
      return false;
    }
    if (n < NP_RV_POSTS_MAX) return false;
  }
  return true;
}
