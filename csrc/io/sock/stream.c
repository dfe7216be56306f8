/* The stream side of a kernel socket (base/stream.h), and the flush that calls sessions. */
#include <errno.h>
#include <sys/socket.h>

#include "io/sock/internal.h"

static struct np_sock_conn *conn_of(struct np_stream *s) { return NP_CONTAINER_OF(s, struct np_sock_conn, stream); }

enum np_err np_sock_err(int sys) {
  switch (sys) {
    case ECONNRESET:
    case EPIPE:
      return NP_ERR_RESET;
    case ECONNREFUSED:
    case ENOENT: /* a Unix socket's path */
      return NP_ERR_REFUSED;
    case ETIMEDOUT:
      return NP_ERR_TIMEDOUT;
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case EPROTO:
      return NP_ERR_UNREACHABLE;
    case ENETUNREACH:
      return NP_ERR_NOROUTE;
    case EADDRINUSE:
      return NP_ERR_ADDRINUSE;
    case EADDRNOTAVAIL:
      return NP_ERR_ADDRNOTAVAIL;
    case EACCES:
    case EPERM:
      return NP_ERR_PERM;
    case ENOBUFS:
    case ENOMEM:
      return NP_ERR_NOMEM;
    default:
      return NP_ERR_SYS;
  }
}

/* ---- receiving ---- */

bool np_sock_pool_low(const struct np_sock *s) { return np_pool_avail(s->env.pool) <= s->env.pool->count / 8u; }

uint32_t np_sock_rx_room(struct np_sock *s, struct np_sock_conn *c) {
  uint32_t have = c->unconsumed_bytes + c->rcvq_bytes;
  bool crowded = c->held_pieces + c->rcvq_pieces >= s->rx_pieces_max && !(c->flags & NP_SK_CROWDED);
  if (NP_LIKELY(have < s->config.rcv_buf_bytes && !crowded)) {
    c->flags &= ~NP_SK_CROWDED;
    return s->config.rcv_buf_bytes - have;
  }
  c->flags |= NP_SK_PAUSED;
  np_sock_count(s, NP_C_SOCK_RX_PAUSED, 1);
  if (have < s->config.rcv_buf_bytes) { /* until then the kernel joins what comes byte by byte */
    c->flags |= NP_SK_CROWDED;
    s->crowded = true;
    np_sock_need_tick(s);
  }
  return 0;
}

void np_sock_received(struct np_sock *s, struct np_sock_conn *c, struct np_buf *first, struct np_buf *last,
                      uint32_t pieces, uint32_t bytes) {
  c->bytes_rx += bytes;
  c->last_rx_ns = s->now_ns;
  np_sock_count(s, NP_C_SOCK_BYTES_RX, bytes);
  if (NP_UNLIKELY(c->state != NP_SOCK_OPEN || (c->flags & NP_SK_DETACHED))) {
    np_sock_count(s, NP_C_SOCK_BYTES_DROPPED, bytes);
    np_buf_put_chain(first);
    return;
  }
  if (c->rcvq_tail == NULL) {
    c->rcvq_head = first;
  } else {
    c->rcvq_tail->next = first;
  }
  c->rcvq_tail = last;
  c->rcvq_bytes += bytes;
  c->rcvq_pieces += pieces;
  np_sock_dirty(s, c);
}

/* Both sides said their last byte. */
static void end_if_done(struct np_sock *s, struct np_sock_conn *c) {
  if ((c->flags & NP_SK_EOF) && (c->flags & NP_SK_FIN_SENT)) np_sock_end(s, c, NP_ERR_EOF);
}

void np_sock_eof(struct np_sock *s, struct np_sock_conn *c) {
  if (c->flags & NP_SK_EOF) return;
  c->flags |= NP_SK_EOF | NP_SK_EV_EOF;
  end_if_done(s, c);
  np_sock_dirty(s, c);
}

static void stream_consumed(struct np_stream *stream, uint32_t bytes) {
  struct np_sock_conn *c = conn_of(stream);
  struct np_sock *s = c->sock;
  np_assert(bytes <= c->unconsumed_bytes);
  uint32_t left = c->unconsumed_bytes - bytes;
  if (NP_LIKELY(left == 0)) {
    c->held_pieces = 0;
  } else { /* as if all pieces were of one length */
    c->held_pieces = (uint32_t)((uint64_t)c->held_pieces * left / c->unconsumed_bytes) + 1u;
  }
  c->unconsumed_bytes = left;
  if (NP_LIKELY(!(c->flags & NP_SK_PAUSED)) || c->state != NP_SOCK_OPEN) return;
  /* Not for every few bytes: a read that brings little costs as much as one that brings a lot. */
  if (left + c->rcvq_bytes > s->config.rcv_buf_bytes / 2u || c->held_pieces > s->rx_pieces_max / 2u) return;
  c->flags &= ~(NP_SK_PAUSED | NP_SK_CROWDED);
  s->engine->resume(s, c);
}

/* ---- sending ---- */

void np_sock_connected(struct np_sock *s, struct np_sock_conn *c, int sys) {
  if (c->state != NP_SOCK_CONNECTING) return;
  if (sys != 0) {
    np_sock_end(s, c, np_sock_err(sys));
    return;
  }
  c->state = NP_SOCK_OPEN;
  c->flags |= NP_SK_EV_ESTABLISHED;
  np_sock_count(s, NP_C_SOCK_CONNECTED, 1);
  np_sock_dirty(s, c);
}

/* While buffers are short a stream queues no more than this: what it has queued has to leave first. */
#define PRESSED_BYTES 16384u

static uint32_t snd_limit(const struct np_sock *s) {
  uint32_t most = s->config.snd_buf_bytes;
  if (NP_LIKELY(np_pool_avail(s->env.pool) >= s->env.pool->count / 4u)) return most;
  return np_min_u32(most, PRESSED_BYTES);
}

/* Once the queue is three quarters full the session is told when it is no longer, also when what
 * room said was more than nothing: it may have been too little. */
static uint32_t stream_room(struct np_stream *stream) {
  struct np_sock_conn *c = conn_of(stream);
  struct np_sock *s = c->sock;
  if (c->state != NP_SOCK_OPEN || (c->flags & NP_SK_FIN_QUEUED)) return 0;
  uint32_t most = snd_limit(s);
  uint32_t room = c->sndq_bytes < most ? most - c->sndq_bytes : 0;
  if (room < most / 4u) c->flags |= NP_SK_ROOM_NO;
  return room;
}

static enum np_err stream_send(struct np_stream *stream, struct np_buf *chain, uint32_t flags) {
  struct np_sock_conn *c = conn_of(stream);
  struct np_sock *s = c->sock;
  (void)flags; /* all that a turn queues leaves in one call anyway */
  if (c->state != NP_SOCK_OPEN || (c->flags & NP_SK_FIN_QUEUED)) {
    np_buf_put_chain(chain);
    return NP_ERR_STATE;
  }
  while (chain != NULL) { /* bound: the pool's count */
    struct np_buf *b = chain;
    chain = b->next;
    b->next = NULL;
    if (NP_UNLIKELY(b->len == 0)) {
      np_buf_put(b);
      continue;
    }
    if (c->sndq_tail == NULL) {
      c->sndq_head = b;
    } else {
      c->sndq_tail->next = b;
    }
    c->sndq_tail = b;
    c->sndq_bytes += b->len;
  }
  np_assert(c->sndq_bytes <= s->config.snd_buf_bytes);
  if (c->sndq_bytes > s->config.snd_buf_bytes / 4u * 3u) c->flags |= NP_SK_ROOM_NO;
  np_sock_dirty(s, c);
  return NP_ERR_OK;
}

void np_sock_sent(struct np_sock *s, struct np_sock_conn *c, uint32_t bytes) {
  np_assert(bytes <= c->sndq_bytes);
  c->sndq_bytes -= bytes;
  c->bytes_tx += bytes;
  np_sock_count(s, NP_C_SOCK_BYTES_TX, bytes);
  while (bytes > 0) { /* bound: the pieces of bytes */
    struct np_buf *b = c->sndq_head;
    if (b->len > bytes) {
      np_buf_pull(b, bytes);
      break;
    }
    bytes -= b->len;
    c->sndq_head = b->next;
    np_buf_put(b);
  }
  if (c->sndq_head == NULL) c->sndq_tail = NULL;
  if (!(c->flags & NP_SK_ROOM_NO)) return;
  if (c->sndq_bytes > snd_limit(s) / 4u * 3u || c->state != NP_SOCK_OPEN) return;
  c->flags &= ~NP_SK_ROOM_NO;
  c->flags |= NP_SK_EV_WRITABLE;
  np_sock_dirty(s, c);
}

void np_sock_send_fin(struct np_sock *s, struct np_sock_conn *c) {
  if (c->flags & NP_SK_FIN_SENT) return;
  c->flags |= NP_SK_FIN_SENT;
  /* close says it too, and that is next when the peer said its last byte */
  if (!(c->flags & NP_SK_EOF)) (void)shutdown(c->fd, SHUT_WR); /* fails where the peer is gone: reading tells */
  end_if_done(s, c);
}

static void stream_shutdown(struct np_stream *stream) {
  struct np_sock_conn *c = conn_of(stream);
  if (c->flags & NP_SK_FIN_QUEUED) return;
  c->flags |= NP_SK_FIN_QUEUED;
  c->flags &= ~(NP_SK_ROOM_NO | NP_SK_EV_WRITABLE);
  np_sock_dirty(c->sock, c);
}

static void stream_abort(struct np_stream *stream) {
  struct np_sock_conn *c = conn_of(stream);
  struct np_sock *s = c->sock;
  c->flags |= NP_SK_RESET;
  np_sock_end(s, c, NP_ERR_ABORTED);
  struct np_session *session = stream->session;
  if (session == NULL) return;
  stream->session = NULL;
  session->ops->closed(session, NP_ERR_ABORTED);
}

static void stream_detach(struct np_stream *stream) {
  struct np_sock_conn *c = conn_of(stream);
  struct np_sock *s = c->sock;
  if (stream->session != NULL) stream->session->stream = NULL;
  stream->session = NULL;
  c->flags |= NP_SK_DETACHED;
  c->unconsumed_bytes = 0;
  c->held_pieces = 0;
  np_sock_count(s, NP_C_SOCK_BYTES_DROPPED, c->rcvq_bytes);
  np_buf_put_chain(c->rcvq_head);
  c->rcvq_head = c->rcvq_tail = NULL;
  c->rcvq_bytes = c->rcvq_pieces = 0;
  np_sock_dirty(s, c);
  if (c->state == NP_SOCK_CONNECTING) {
    np_sock_end(s, c, NP_ERR_ABORTED);
    return;
  }
  if (c->state != NP_SOCK_OPEN) return;
  stream_shutdown(stream);
  np_sock_linger(s, c);
  if (!(c->flags & NP_SK_PAUSED)) return;
  c->flags &= ~(NP_SK_PAUSED | NP_SK_CROWDED);
  s->engine->resume(s, c); /* what comes is read and dropped, so that the peer's end is seen */
}

const struct np_stream_ops np_sock_stream_ops = {
    .room = stream_room,
    .send = stream_send,
    .consumed = stream_consumed,
    .shutdown = stream_shutdown,
    .abort = stream_abort,
    .detach = stream_detach,
    .info = np_sock_info,
};

/* ---- flush ---- */

static void tell_accept(struct np_sock *s, struct np_sock_conn *c) {
  c->flags &= ~NP_SK_EV_ACCEPT;
  struct np_session *session = NULL;
  if (c->listener != NP_SOCK_NIL && c->state == NP_SOCK_OPEN) {
    session = s->env.accept(s->env.ctx, s->listener[c->listener].args.ctx, &c->stream, s->now_ns);
  }
  if (session == NULL) {
    np_sock_count(s, NP_C_SOCK_REFUSED, 1);
    c->flags |= NP_SK_RESET;
    np_sock_end(s, c, NP_ERR_REFUSED);
    return;
  }
  c->stream.session = session;
  session->stream = &c->stream;
  np_sock_count(s, NP_C_SOCK_ACCEPTED, 1);
}

static void tell_data(struct np_sock *s, struct np_sock_conn *c) {
  struct np_buf *chain = c->rcvq_head;
  uint32_t bytes = c->rcvq_bytes;
  uint32_t pieces = c->rcvq_pieces;
  c->rcvq_head = c->rcvq_tail = NULL;
  c->rcvq_bytes = c->rcvq_pieces = 0;
  struct np_session *session = c->stream.session;
  if (session == NULL) {
    np_sock_count(s, NP_C_SOCK_BYTES_DROPPED, bytes);
    np_buf_put_chain(chain);
    return;
  }
  c->unconsumed_bytes += bytes;
  c->held_pieces += pieces;
  session->ops->data(session, chain, bytes);
}

/* Established, data, end, room: in this order, as long as there is a session. */
static void tell_session(struct np_sock *s, struct np_sock_conn *c) {
  if (c->flags & NP_SK_EV_ACCEPT) tell_accept(s, c);
  struct np_session *session = c->stream.session;
  if (session != NULL && (c->flags & NP_SK_EV_ESTABLISHED)) {
    c->flags &= ~NP_SK_EV_ESTABLISHED;
    if (session->ops->established != NULL) session->ops->established(session);
  }
  if (c->rcvq_head != NULL) tell_data(s, c);
  session = c->stream.session;
  if (session != NULL && (c->flags & NP_SK_EV_EOF)) {
    c->flags &= ~NP_SK_EV_EOF;
    session->ops->eof(session);
  }
  session = c->stream.session;
  if (session != NULL && (c->flags & NP_SK_EV_WRITABLE)) {
    c->flags &= ~NP_SK_EV_WRITABLE;
    session->ops->writable(session);
  }
  if (c->stream.session == NULL) c->flags &= ~(NP_SK_EV_ESTABLISHED | NP_SK_EV_EOF | NP_SK_EV_WRITABLE);
}

static void tell_closed(struct np_sock *s, struct np_sock_conn *c) {
  c->flags &= ~NP_SK_EV_CLOSED;
  struct np_session *session = c->stream.session;
  c->stream.session = NULL;
  if (session != NULL) session->ops->closed(session, (enum np_err)c->err);
  /* Nothing of it is flushed any more: what the engine still hears of it must not put it into the list, where the
   * slot's next owner would meet it. */
  c->flags |= NP_SK_DIRTY;
  s->engine->drop(s, c); /* c may be gone now */
}

#define EVENTS (NP_SK_EV_ACCEPT | NP_SK_EV_ESTABLISHED | NP_SK_EV_EOF | NP_SK_EV_WRITABLE)

/* c's DIRTY flag stays set meanwhile, so that what callbacks note goes to the checks at the end.
 * Return: true when it is to be looked at again. */
static bool flush_one(struct np_sock *s, struct np_sock_conn *c) {
  if (c->rcvq_head != NULL || (c->flags & EVENTS)) tell_session(s, c);
  bool again = false;
  if (c->state == NP_SOCK_OPEN && !(c->flags & NP_SK_TX_WAIT)) {
    if (c->sndq_head != NULL) again = s->engine->tx(s, c);
    if (c->sndq_head == NULL && (c->flags & NP_SK_FIN_QUEUED) && c->state == NP_SOCK_OPEN) np_sock_send_fin(s, c);
  }
  if (c->rcvq_head != NULL || (c->flags & EVENTS)) return true;
  c->flags &= ~NP_SK_DIRTY;
  if (c->flags & NP_SK_EV_CLOSED) {
    tell_closed(s, c);
    return false;
  }
  return again;
}

bool np_sock_flush(struct np_carrier *base, uint64_t now_ns) {
  struct np_sock *s = np_sock_of(base);
  s->now_ns = now_ns;
  /* Those noted while this runs wait for the next call. */
  uint32_t n = np_min_u32(s->dirty_count, NP_SOCK_FLUSH_BUDGET);
  while (n-- > 0) {
    struct np_sock_conn *c = &s->conn[s->dirty_head];
    s->dirty_head = c->dirty_next;
    if (s->dirty_head == NP_SOCK_NIL) {
      s->dirty_tail = NP_SOCK_NIL;
    } else {
      NP_PREFETCH_W(&s->conn[s->dirty_head]);
    }
    s->dirty_count--;
    if (flush_one(s, c)) {
      c->flags &= ~NP_SK_DIRTY;
      np_sock_dirty(s, c);
    }
  }
  return s->dirty_count != 0;
}
