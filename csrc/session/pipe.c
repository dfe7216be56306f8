/* pipe: a stream's bytes to Go and back; what a net.Conn is made of.
 *
 * Received pieces go to Go where they lie, one event per turn. Only what Go gave credit for counts
 * as consumed, so that a reader that stops closes the peer's window, and the window bounds what is
 * held in bytes. Credit does not bound buffers (a peer may send a byte in each): Go gets no more
 * of them than np_sess_holds_many allows, and what waits here is packed.
 *
 * What Go sends comes in lent buffers, which are the stream's from then on: no byte is copied but to
 * join small pieces. The core lends Go others in their place (env->loan_replace), so that a peer
 * that does not read holds the pool's buffers and not those that Go needs to talk to everybody else. */
#include "session/session_int.h"

void np_pipe_start(struct np_sess *s) {
  s->owner->env.counters->counter[NP_C_PIPES]++;
  if ((s->flags & NP_SF_OUTGOING) != 0) return; /* told when it is established */
  s->flags |= NP_SF_OPEN_DUE;
  np_sess_dirty(s);
}

/* Buffers in the queue now, at least as many as there are; and in all of the core's. */
static void set_queued(struct np_sess *s, uint32_t bufs) {
  s->owner->pipe_queued += bufs - s->sendq_items;
  s->sendq_items = bufs;
}

void np_pipe_release(struct np_sess *s) {
  s->owner->env.counters->counter[NP_C_PIPES]--;
  set_queued(s, 0);
  np_timer_cancel(s->owner->env.wheel, &s->timer);
}

/* ---- to Go ---- */

/* No room in the event ring. Nothing wakes the core when Go has drained it: it looks again. */
static void wait_for_ring(struct np_sess *s) {
  s->owner->work_left = true;
  np_sess_dirty(s);
}

/* What is received becomes one event. Return: nothing waits any more. */
static bool deliver(struct np_sess *s) {
  if (s->rx.head == NULL) return true;
  /* Of a stream that is gone nothing more comes to be packed, and the next connection with its slot waits. */
  if ((s->flags & NP_SF_GONE) == 0 && np_sess_holds_many(s, s->rx_ahead)) {
    np_sess_dirty(s); /* NP_CMD_FREE makes a turn in which it is looked at again */
    return false;
  }
  if (!np_sess_event_ok(s->owner)) {
    wait_for_ring(s);
    return false;
  }
  struct np_event ev = {.op = NP_EV_DATA, .body = s->rx.head, .body_bytes = s->rx.bytes};
  np_sess_charge(s, s->rx.head);
  s->rx_ahead += s->rx.bytes;
  s->owner->env.counters->counter[NP_C_PIPE_BYTES_RX] += s->rx.bytes;
  s->rx = (struct np_bufq){0};
  np_sess_event(s, &ev);
  return true;
}

/* Return: the end needs no telling, or was told. */
static bool tell_eof(struct np_sess *s) {
  if ((s->flags & (NP_SF_EOF | NP_SF_EOF_TOLD | NP_SF_CLOSING)) != NP_SF_EOF) return true;
  if (!np_sess_event_ok(s->owner)) {
    wait_for_ring(s);
    return false;
  }
  struct np_event ev = {.op = NP_EV_EOF};
  np_sess_event(s, &ev);
  s->flags |= NP_SF_EOF_TOLD;
  return true;
}

static void tell_sent(struct np_sess *s) {
  if (s->sent_due == 0 || (s->flags & NP_SF_CLOSING) != 0) return;
  if (!np_sess_event_ok(s->owner)) {
    wait_for_ring(s);
    return;
  }
  struct np_event ev = {.op = NP_EV_SENT, .arg = s->sent_due, .stream = np_sess_piece_bytes(s)};
  np_sess_event(s, &ev);
  s->sent_due = 0;
}

/* ---- from Go ---- */

/* Hands over as many whole pieces as there is room for, as one chain. */
static void pump(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if (s->out.head == NULL) return;
  uint32_t room = stream->ops->room(stream);
  struct np_bufq out = s->out;
  if (NP_LIKELY(s->out.bytes <= room)) {
    s->out = (struct np_bufq){0};
    set_queued(s, 0);
  } else {
    out = (struct np_bufq){0};
    uint32_t moved = 0;
    for (; s->out.head != NULL && s->out.head->len <= room - out.bytes; moved++) { /* bound: the queue's pieces */
      np_bufq_move(&s->out, &out);
    }
    set_queued(s, s->sendq_items - moved);
    if (room > 0) np_sess_dirty(s); /* with none at all the stream says when there is some */
    if (out.head == NULL) return;
  }
  s->sent_due += out.bytes;
  s->owner->env.counters->counter[NP_C_PIPE_BYTES_TX] += out.bytes;
  (void)stream->ops->send(stream, out.head, 0); /* one that is closed for sending frees it, and ends soon */
}

/* The queue is empty: what was to follow it. Return: false when the session is gone. */
static bool after_queue(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if (NP_LIKELY((s->flags & NP_SF_SHUT) == 0) || s->out.head != NULL) return true;
  stream->ops->shutdown(stream); /* a second time does nothing */
  if ((s->flags & NP_SF_CLOSING) == 0) return true;
  stream->ops->detach(stream);
  np_sess_end(s, (enum np_err)s->close_err);
  return false;
}

void np_pipe_run(struct np_sess *s) {
  if ((s->flags & NP_SF_OPEN_DUE) != 0 && !np_sess_send_open(s)) {
    s->owner->work_left = true;
    np_sess_dirty(s);
    return;
  }
  if (NP_UNLIKELY((s->flags & (NP_SF_OPEN_SENT | NP_SF_CLOSING)) == 0)) return; /* its connection is being opened */
  bool all = deliver(s) && tell_eof(s);
  if (NP_UNLIKELY((s->flags & NP_SF_GONE) != 0)) {
    if (all) np_sess_end(s, (enum np_err)s->close_err);
    return;
  }
  pump(s);
  tell_sent(s);
  (void)after_queue(s);
}

/* ---- commands ---- */

static enum np_err cmd_send(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body) {
  struct np_sessions *ss = s->owner;
  if ((s->flags & NP_SF_SHUT) != 0) return NP_ERR_STATE;
  if (s->out.bytes >= NP_PIPE_SENDQ_BYTES || s->sendq_items >= NP_PIPE_SENDQ_BUFS) return NP_ERR_FULL;
  uint32_t bytes = 0;
  uint32_t pieces = 0;
  for (const struct np_buf *b = body; b != NULL; b = b->next) { /* bound: the pool's count */
    if (b->len == 0 || b->len > cmd->body_bytes - bytes || b->refs != 1) return NP_ERR_INVALID;
    if (np_buf_headroom(b) < NP_BUF_HEADROOM || ++pieces > ss->env.pool->count) return NP_ERR_INVALID;
    bytes += b->len;
  }
  if (bytes == 0 || bytes != cmd->body_bytes) return NP_ERR_INVALID;
  bool taken = np_bufq_intake(&s->out, body, ss->env.pool, np_sess_piece_bytes(s));
  np_assert(taken); /* nobody else holds a lent buffer, so that nothing had to be copied */
  set_queued(s, s->out.head == s->out.tail ? 1 : s->sendq_items + pieces); /* more than there are: some were joined */
  ss->env.loan_replace(ss->env.ctx, pieces);
  np_sess_dirty(s);
  return NP_ERR_OK;
}

static enum np_err cmd_credit(struct np_sess *s, const struct np_cmd *cmd) {
  struct np_stream *stream = s->base.stream;
  if ((s->flags & NP_SF_CLOSING) != 0) return NP_ERR_STATE; /* all was consumed when it began */
  if (cmd->arg > s->rx_ahead) return NP_ERR_INVALID;
  s->rx_ahead -= cmd->arg;
  if (cmd->arg > 0) stream->ops->consumed(stream, cmd->arg);
  return NP_ERR_OK;
}

static void arm(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  s->close_left = s->out.bytes;
  np_timer_set(ss->env.wheel, &s->timer, NP_TIMER_SESSION, np_min_u64(ss->now_ns + NP_PIPE_CLOSE_STEP_NS, s->deadline_ns));
}

/* In good order, once what is queued has left. Nobody reads from now on: what the peer sends
 * until then is dropped, and its window kept open, so that it gets to reading ours. */
static enum np_err cmd_close(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if ((s->flags & NP_SF_CLOSING) != 0) return NP_ERR_STATE;
  s->flags |= NP_SF_SHUT | NP_SF_CLOSING;
  uint32_t unread = s->rx.bytes + s->rx_ahead;
  np_bufq_free(&s->rx);
  s->rx_ahead = 0;
  if (unread > 0) stream->ops->consumed(stream, unread);
  s->close_err = NP_ERR_OK;
  s->deadline_ns = s->owner->now_ns + NP_PIPE_CLOSE_NS;
  arm(s);
  np_sess_dirty(s);
  return NP_ERR_OK;
}

/* The limit of a close: ended when nothing left within a step, or at the deadline. */
void np_pipe_timer(struct np_sess *s, uint64_t now_ns) {
  struct np_stream *stream = s->base.stream;
  if (stream == NULL || (s->flags & NP_SF_CLOSING) == 0) return;
  if (now_ns < s->deadline_ns && s->out.bytes < s->close_left) {
    arm(s);
    return;
  }
  s->close_err = NP_ERR_TIMEDOUT;
  stream->ops->abort(stream);
}

static enum np_err command(struct np_sess *s, const struct np_cmd *cmd) {
  struct np_stream *stream = s->base.stream;
  switch (cmd->op) {
    case NP_CMD_CREDIT: return cmd_credit(s, cmd);
    case NP_CMD_CLOSE: return cmd_close(s);
    case NP_CMD_SHUTDOWN:
      if ((s->flags & NP_SF_SHUT) != 0) return NP_ERR_STATE;
      s->flags |= NP_SF_SHUT;
      np_sess_dirty(s);
      return NP_ERR_OK;
    case NP_CMD_ABORT: stream->ops->abort(stream); return NP_ERR_OK; /* calls closed from inside */
    default: return NP_ERR_UNSUPPORTED;
  }
}

enum np_err np_pipe_command(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body) {
  struct np_sessions *ss = s->owner;
  enum np_err err = NP_ERR_STALE;
  if (s->base.stream != NULL) err = cmd->op == NP_CMD_SEND ? cmd_send(s, cmd, body) : command(s, cmd);
  if (err == NP_ERR_OK && cmd->op == NP_CMD_SEND) return err; /* body is queued */
  np_sessions_wipe(cmd);
  if (body != NULL) ss->env.loan_return(ss->env.ctx, body);
  return err;
}

/* ---- what the stream tells ---- */

static void pipe_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  struct np_sess *s = np_sess_of(base);
  if (NP_UNLIKELY((s->flags & NP_SF_CLOSING) != 0)) {
    np_buf_put_chain(chain);
    base->stream->ops->consumed(base->stream, bytes);
    return;
  }
  if (NP_UNLIKELY(!np_bufq_intake(&s->rx, chain, s->owner->env.pool, np_min_u32(NP_NPRO_PACK_BYTES, np_sess_piece_bytes(s))))) {
    s->close_err = NP_ERR_NOBUF; /* bytes of an ordered stream are gone: there is no way on */
    base->stream->ops->abort(base->stream);
    return;
  }
  np_sess_dirty(s);
}

static void pipe_writable(struct np_session *base) { np_sess_dirty(np_sess_of(base)); }

static void pipe_eof(struct np_session *base) {
  struct np_sess *s = np_sess_of(base);
  s->flags |= NP_SF_EOF;
  np_sess_dirty(s);
}

/* What came before the end is Go's to read, and told before it: the ring may be full now. */
static void pipe_closed(struct np_session *base, enum np_err err) {
  struct np_sess *s = np_sess_of(base);
  if (s->handle == 0) np_sess_set_handle(s);
  if (s->close_err == NP_ERR_OK) s->close_err = (uint16_t)err;
  bool waits = s->rx.head != NULL || (s->flags & (NP_SF_EOF | NP_SF_EOF_TOLD)) == NP_SF_EOF;
  bool told = (s->flags & (NP_SF_OPEN_SENT | NP_SF_CLOSING)) == NP_SF_OPEN_SENT;
  if (!told || !waits || err == NP_ERR_ABORTED) {
    np_sess_end(s, (enum np_err)s->close_err);
    return;
  }
  s->base.stream = NULL;
  np_bufq_free(&s->out);
  set_queued(s, 0);
  s->sent_due = 0;
  s->flags |= NP_SF_GONE;
  np_sess_linger(s);
  np_sess_dirty(s);
}

static void pipe_established(struct np_session *base) {
  struct np_sess *s = np_sess_of(base);
  np_sess_set_handle(s);
  s->flags |= NP_SF_OPEN_DUE;
  np_sess_dirty(s);
}

const struct np_session_ops np_pipe_ops = {
    .data = pipe_data,
    .writable = pipe_writable,
    .eof = pipe_eof,
    .closed = pipe_closed,
    .established = pipe_established,
};
