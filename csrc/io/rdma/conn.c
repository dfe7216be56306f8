/* One connection: what completions mean for it, and what a flush does. */
#include <string.h>

#include "base/bytes.h"
#include "io/rdma/internal.h"

struct np_rdma_conn *np_rdma_of(struct np_stream *s) { return NP_CONTAINER_OF(s, struct np_rdma_conn, stream); }

struct np_rdma *np_rdma_owner(struct np_rdma_conn *c) {
  return NP_CONTAINER_OF(c - c->slot, struct np_rdma, conn);
}

void np_rdma_fail(struct np_rdma *r, struct np_rdma_conn *c, enum np_err err) {
  if (c->state == NP_RDMA_CLOSED || c->state == NP_RDMA_FREE) return;
  c->state = NP_RDMA_CLOSED;
  c->err = (uint8_t)err;
  c->flags |= NP_RF_EV_CLOSED;
  c->flags &= ~(NP_RF_EV_ACCEPT | NP_RF_EV_ESTABLISHED | NP_RF_EV_WRITABLE);
  np_rdma_sendq_free(c); /* nothing of it was posted */
  if (err == NP_ERR_PROTOCOL || err == NP_ERR_FLOW) np_rdma_count(r, NP_C_RDMA_PROTOCOL);
  np_rdma_dirty(r, c);
}

/* Room came back: the session hears of it when it had been told that there was little. */
static void room_back(struct np_rdma *r, struct np_rdma_conn *c) {
  if ((c->flags & NP_RF_ROOM_SAID_NO) == 0) return;
  uint32_t limit = r->config.base.snd_buf_bytes;
  if (c->sendq_bytes + c->flight_bytes >= limit - limit / 4) return;
  c->flags &= ~NP_RF_ROOM_SAID_NO;
  c->flags |= NP_RF_EV_WRITABLE;
  np_rdma_dirty(r, c);
}

static void sent(struct np_rdma *r, struct np_rdma_conn *c, const struct np_rv_wc *wc) {
  np_rdma_sq_done(r, c, (uint16_t)wc->wr_id, (enum np_err)wc->err);
  if (c->state == NP_RDMA_CLOSED) return;
  if (wc->err != NP_ERR_OK) {
    np_rdma_count(r, NP_C_RDMA_ERRORS);
    np_rdma_gone(r, c->slot, (enum np_err)wc->err);
    return;
  }
  room_back(r, c);
  if (c->sendq_head != NULL || (c->flags & NP_RF_FIN_QUEUED)) np_rdma_dirty(r, c);
}

void np_rdma_completed(struct np_rdma *r, struct np_rdma_conn *c, const struct np_rv_wc *wc) {
  if (wc->kind == NP_RV_SENT) {
    sent(r, c, wc);
    return;
  }
  if (c->state == NP_RDMA_CLOSED) return;
  if (wc->err != NP_ERR_OK) { /* receives fail only with their queue pair */
    if ((c->flags & NP_RF_GONE) == 0) np_rdma_count(r, NP_C_RDMA_ERRORS);
    np_rdma_gone(r, c->slot, (enum np_err)wc->err);
    return;
  }
  enum np_err err = NP_ERR_PROTOCOL;
  /* Before the peer's word came nothing that it returns can be right: the control side hands it over first. */
  if (wc->kind == NP_RV_CAME) err = np_link_input(&c->link, wc->imm, wc->bytes);
  if (err != NP_ERR_OK) {
    np_rdma_fail(r, c, err);
    return;
  }
  c->last_rx_ns = r->now_ns;
  c->msgs_rx++;
  c->bytes_rx += wc->bytes;
  np_rdma_count(r, NP_C_RDMA_MSGS_RX);
  np_rdma_dirty(r, c);
}

/* ---- up ---- */

/* A session that consumes nothing while the peer sends a byte at a time would come to hold a
 * buffer for each. Once it holds many, what comes waits in the ring, at most NP_RDMA_HOLD_NS. */
static bool crowded(struct np_rdma *r, struct np_rdma_conn *c) {
  uint32_t full = r->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t many = 16 + 2 * (c->link.ring_bytes / full);
  if (NP_LIKELY(c->handed_pieces < many) || c->link.rcv_ready >= full || c->link.fin_rcvd) return false;
  if (c->flags & NP_RF_HOLD_DUE) return false;
  if ((c->flags & NP_RF_HELD) == 0) {
    c->flags |= NP_RF_HELD;
    c->hold_until_ns = r->now_ns + NP_RDMA_HOLD_NS;
    if (!r->held) { /* else the timer is near already */
      r->held = true;
      np_rdma_tick_arm(r);
    }
  }
  return true;
}

/* Copies what lies in the ring into buffers: the peer may write into the ring at any time, so that
 * nothing may be looked at there twice. Return: the chain, *bytes of it; NULL without buffers. */
static struct np_buf *take(struct np_rdma *r, struct np_rdma_conn *c, uint32_t *bytes) {
  struct np_buf *head = NULL;
  struct np_buf **tail = &head;
  *bytes = 0;
  for (uint32_t i = 0; i < NP_RDMA_BUFS_PER_FLUSH && c->link.rcv_ready > 0; i++) {
    struct np_buf *b = np_pool_get(r->env.pool);
    if (b == NULL) break;
    b->rx_ns = r->now_ns;
    b->frame_off = b->frame_len = 0;
    while (c->link.rcv_ready > 0 && np_buf_tailroom(b) > 0) { /* bound: two, the ring wraps once */
      uint32_t n = np_min_u32(np_link_ready(&c->link), np_buf_tailroom(b));
      memcpy(np_buf_append(b, n), c->ring + c->link.rcv_at, n);
      np_link_taken(&c->link, n);
      *bytes += n;
    }
    *tail = b;
    tail = &b->next;
    c->handed_pieces++;
  }
  return head;
}

/* Return: true when more is there than could be handed up. */
static bool hand_up(struct np_rdma *r, struct np_rdma_conn *c) {
  struct np_session *s = c->stream.session;
  if (s == NULL) { /* detached: dropped, so that the peer comes to its end */
    while (c->link.rcv_ready > 0) { /* bound: two, the ring wraps once */
      uint32_t n = np_link_ready(&c->link);
      np_link_taken(&c->link, n);
      np_link_consumed(&c->link, n);
    }
    return false;
  }
  if (crowded(r, c)) return false;
  c->flags &= ~(NP_RF_HELD | NP_RF_HOLD_DUE);
  uint32_t bytes;
  struct np_buf *chain = take(r, c, &bytes);
  if (chain == NULL) return true; /* the pool is empty: the ring keeps it */
  r->env.counters->counter[NP_C_RDMA_BYTES_RX] += bytes;
  s->ops->data(s, chain, bytes);
  return c->link.rcv_ready > 0;
}

static void accept_session(struct np_rdma *r, struct np_rdma_conn *c) {
  c->flags &= ~NP_RF_EV_ACCEPT;
  const struct np_rdma_listener *l = &r->listener[c->listener];
  struct np_session *session = NULL;
  if (l->handle != 0) session = r->env.accept(r->env.ctx, l->ctx, &c->stream, r->now_ns);
  if (session == NULL) {
    np_rdma_fail(r, c, NP_ERR_REFUSED);
    return;
  }
  c->stream.session = session;
  session->stream = &c->stream;
  np_rdma_count(r, NP_C_RDMA_ACCEPTED);
}

/* Established, data, end, room, as long as there is a session: a callback may do anything to it. */
static bool tell_session(struct np_rdma *r, struct np_rdma_conn *c) {
  bool again = false;
  if (c->flags & NP_RF_EV_ACCEPT) accept_session(r, c);
  struct np_session *s = c->stream.session;
  if (s != NULL && (c->flags & NP_RF_EV_ESTABLISHED)) {
    c->flags &= ~NP_RF_EV_ESTABLISHED;
    np_rdma_count(r, NP_C_RDMA_OPENED);
    if (s->ops->established != NULL) s->ops->established(s);
  }
  if (c->state == NP_RDMA_OPEN && c->link.rcv_ready > 0) again = hand_up(r, c);
  s = c->stream.session;
  if (c->state == NP_RDMA_OPEN && c->link.fin_rcvd && c->link.rcv_ready == 0 && (c->flags & NP_RF_EOF_TOLD) == 0) {
    c->flags |= NP_RF_EOF_TOLD;
    if (s != NULL) s->ops->eof(s);
  }
  s = c->stream.session;
  if (s != NULL && (c->flags & NP_RF_EV_WRITABLE)) {
    c->flags &= ~NP_RF_EV_WRITABLE;
    s->ops->writable(s);
  }
  return again;
}

void np_rdma_tell_closed(struct np_rdma_conn *c) {
  if ((c->flags & NP_RF_EV_CLOSED) == 0) return;
  c->flags &= ~NP_RF_EV_CLOSED;
  struct np_session *s = c->stream.session;
  if (s == NULL) return;
  c->stream.session = NULL;
  s->ops->closed(s, (enum np_err)c->err);
}

/* ---- down ---- */

static void post_receives(struct np_rdma *r, struct np_rdma_conn *c) {
  uint32_t want = c->link.unposted_msgs;
  if (want == 0 || c->recv_dead) return;
  uint32_t n = c->ops->recv(c->qp, np_rdma_wr_recv(r, c->slot), want);
  np_link_posted(&c->link, n);
  c->recv_dead = n < want; /* its queue is as long as ours: it is broken, which completions tell */
}

void np_rdma_ask(struct np_rdma *r, struct np_rdma_conn *c) {
  if ((c->flags & (NP_RF_PEER | NP_RF_ASKED)) != NP_RF_PEER || np_rdma_sq_room(c) == 0) return;
  struct np_rv_post post = {
      .wr_id = np_rdma_sq_take(c, NULL, 0, NP_RDMA_NIL),
      .remote_addr = c->peer_addr,
      .rkey = c->peer_rkey,
      .op = NP_RV_WRITE,
      .signaled = true,
  };
  c->sq_signaled = c->sq_tail;
  c->flags |= NP_RF_ASKED;
  c->last_tx_ns = r->now_ns;
  np_rdma_count(r, NP_C_RDMA_KEEPALIVES);
  if (c->ops->post(c->qp, &post, 1) != 1) np_rdma_fail(r, c, NP_ERR_SYS);
}

/* Both ends said all, all of it arrived and was read. Credits may still be on their way: nobody needs them. */
static bool finished(const struct np_rdma_conn *c) {
  if (!c->link.fin_sent || !c->link.fin_rcvd || c->link.rcv_ready > 0 || (c->flags & NP_RF_EOF_TOLD) == 0) return false;
  return (c->flags & (NP_RF_FIN_ACKED | NP_RF_GONE)) != 0;
}

/* The peer is gone, and everything that it had sent has been seen. With its FIN among it what lies in
 * the ring is still to be read; without, or with bytes of ours that it may not have, this is no good end. */
static void check_gone(struct np_rdma *r, struct np_rdma_conn *c) {
  if ((c->flags & NP_RF_GONE) == 0 || !r->dry) return;
  if (c->link.fin_rcvd && c->link.fin_sent) return; /* finished() ends it */
  if (c->link.fin_rcvd && c->stream.session != NULL && c->link.rcv_ready > 0) return; /* it reads on first */
  np_rdma_fail(r, c, (enum np_err)c->gone_err);
}

bool np_rdma_flush_one(struct np_rdma *r, struct np_rdma_conn *c) {
  bool again = false;
  if (c->state == NP_RDMA_SETUP || c->state == NP_RDMA_OPEN) post_receives(r, c);
  if (c->state == NP_RDMA_OPEN) again = tell_session(r, c);
  if (c->state == NP_RDMA_SETUP || c->state == NP_RDMA_OPEN) {
    if ((c->flags & NP_RF_GONE) == 0) again |= np_rdma_output(r, c);
    check_gone(r, c);
    if (c->state == NP_RDMA_OPEN && finished(c)) np_rdma_fail(r, c, NP_ERR_EOF);
    if ((c->flags & NP_RF_GONE) && c->state != NP_RDMA_CLOSED && !r->dry) again = true;
  }
  np_rdma_tell_closed(c);
  return again && c->state != NP_RDMA_CLOSED;
}
