/* Once per turn: what input, timers and sessions left to be done, connection by
 * connection: hand up, then send. Sessions are called from here and nowhere else,
 * but for closed from inside abort. A callback may do anything to any stream:
 * after each one the connection's state is looked at again. Slots are freed only
 * here, so that no pointer dies in the middle of something. */
#include "tcp/tcp_int.h"

static void accept_session(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->flags &= ~NP_TF_EV_ACCEPT;
  void *listener_ctx = c->listener == NP_TCP_NIL ? NULL : tcp->listeners[c->listener].args.ctx;
  struct np_session *session = NULL;
  if (c->listener != NP_TCP_NIL) session = tcp->env.accept(tcp->env.ctx, listener_ctx, &c->stream, tcp->now_ns);
  if (session == NULL) {
    np_tcp_send_rst(tcp, c);
    np_tcp_close(tcp, c, NP_ERR_REFUSED);
    return;
  }
  c->stream.session = session;
  session->stream = &c->stream;
  np_tcp_count(tcp, NP_C_TCP_OPEN_PASSIVE);
}

/* A session that consumes nothing while a peer sends a byte at a time would come to
 * hold a buffer for each. Once it holds many, what comes is kept here until a
 * buffer is full, at most the delayed-ACK time, in which small pieces join. */
static bool crowded(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (NP_LIKELY(np_tcp_handed(c) < np_tcp_rcv_segs(tcp, c))) return false;
  if (c->rcvq_due) {
    c->rcvq_due = false;
    return false;
  }
  if (c->rcvq_segs > 1 || c->rcvq_bytes >= 1024 || (c->flags & NP_TF_EV_EOF) || c->state == NP_TCP_CLOSED) return false;
  np_tcp_delack_arm(tcp, c);
  return true;
}

static void hand_up(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->stream.session != NULL && crowded(tcp, c)) return;
  struct np_buf *chain = c->rcvq_head;
  uint32_t bytes = c->rcvq_bytes;
  uint32_t segs = c->rcvq_segs;
  c->rcvq_head = c->rcvq_tail = NULL;
  c->rcvq_bytes = c->rcvq_segs = 0;
  struct np_session *session = c->stream.session;
  if (session == NULL) {
    np_buf_put_chain(chain);
    return;
  }
  c->unconsumed += bytes;
  np_tcp_mem_hand(tcp, c, segs);
  tcp->env.counters->counter[NP_C_TCP_BYTES_RX] += bytes;
  session->ops->data(session, chain, bytes);
}

/* Established, data, end, room: in this order, as long as there is a session. */
static void tell_session(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->flags & NP_TF_EV_ACCEPT) accept_session(tcp, c);
  struct np_session *s = c->stream.session;
  if (s != NULL && (c->flags & NP_TF_EV_ESTABLISHED)) {
    c->flags &= ~NP_TF_EV_ESTABLISHED;
    if (s->ops->established != NULL) s->ops->established(s);
  }
  if (c->rcvq_head != NULL) hand_up(tcp, c);
  s = c->stream.session;
  if (s != NULL && (c->flags & NP_TF_EV_EOF)) {
    c->flags &= ~NP_TF_EV_EOF;
    c->flags |= NP_TF_EOF_TOLD;
    s->ops->eof(s);
  }
  s = c->stream.session;
  if (s != NULL && (c->flags & NP_TF_EV_WRITABLE)) {
    c->flags &= ~NP_TF_EV_WRITABLE;
    s->ops->writable(s);
  }
  if (c->stream.session == NULL) c->flags &= ~(NP_TF_EV_ESTABLISHED | NP_TF_EV_EOF | NP_TF_EV_WRITABLE);
}

static void tell_closed(struct np_tcp_conn *c) {
  c->flags &= ~NP_TF_EV_CLOSED;
  struct np_session *s = c->stream.session;
  if (s == NULL) return;
  c->stream.session = NULL;
  s->ops->closed(s, (enum np_err)c->err);
}

#define EVENTS (NP_TF_EV_ACCEPT | NP_TF_EV_ESTABLISHED | NP_TF_EV_EOF | NP_TF_EV_WRITABLE)

/* c's DIRTY flag stays set meanwhile, so that what callbacks and output note goes
 * to the checks at the end. */
static bool flush_one(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->rcvq_head != NULL || (c->flags & EVENTS)) tell_session(tcp, c);
  bool again = false;
  if (c->state == NP_TCP_TIME_WAIT) {
    if (c->flags & NP_TF_ACK_NOW) np_tcp_send_empty(tcp, c, NP_TCP_ACK, c->snd_nxt);
    c->flags &= ~(NP_TF_ACK_NOW | NP_TF_NO_BUF); /* the peer asks again if this one was lost */
  } else if (c->state != NP_TCP_CLOSED) {
    c->flags &= ~NP_TF_AGAIN;
    np_tcp_output(tcp, c);
    again = (c->flags & NP_TF_AGAIN) != 0;
    if (c->flags & NP_TF_MORE) { /* held back once; what is there goes with the next flush */
      c->flags &= ~NP_TF_MORE;
      again = true;
    }
  }
  if (c->flags & NP_TF_EV_CLOSED) tell_closed(c);
  if (c->state == NP_TCP_CLOSED) {
    np_assert(c->rcvq_head == NULL);
    c->flags &= ~NP_TF_DIRTY;
    np_tcp_conn_free(tcp, c);
    return false;
  }
  return again || (c->flags & EVENTS) != 0;
}

/* Asks for what sending touches, and input did not. Return: who is next. */
static uint32_t prefetch_next(struct np_tcp *tcp, uint32_t slot) {
  if (slot == NP_TCP_NIL) return slot;
  struct np_tcp_conn *c = np_tcp_at(tcp, slot);
  if (c->stream.session != NULL) NP_PREFETCH(c->stream.session);
  np_tcp_prefetch(c, NP_TCP_INPUT_BYTES, NP_TCP_HOT_BYTES);
  return c->dirty_next;
}

bool np_tcp_flush(struct np_tcp *tcp, uint64_t now_ns) {
  np_tcp_set_now(tcp, now_ns);
  if (NP_UNLIKELY(np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE) || tcp->mem.level != NP_TCP_MEM_EASY)) np_tcp_mem_pressed(tcp);
  if (NP_UNLIKELY(tcp->pace_mask != 0)) np_tcp_pace_run(tcp);
  /* Those noted while this runs wait for the next call. */
  uint32_t n = np_min_u32(tcp->dirty_count, NP_TCP_FLUSH_BUDGET);
  uint32_t ahead = tcp->dirty_head; /* none leaves the list but from its head, here */
  for (uint32_t i = 0; i < NP_TCP_AHEAD; i++) ahead = prefetch_next(tcp, ahead);
  while (n-- > 0) {
    struct np_tcp_conn *c = np_tcp_at(tcp, tcp->dirty_head);
    tcp->dirty_head = c->dirty_next;
    if (tcp->dirty_head == NP_TCP_NIL) tcp->dirty_tail = NP_TCP_NIL;
    ahead = prefetch_next(tcp, ahead);
    tcp->dirty_count--;
    bool again = flush_one(tcp, c);
    if (c->state == NP_TCP_CLOSED) continue;
    c->flags &= ~NP_TF_DIRTY;
    if (again) np_tcp_dirty(tcp, c);
  }
  return tcp->dirty_count != 0;
}
