/* echo: received pieces go back as they are (RFC 862). What cannot be sent is
 * held unconsumed, so the peer's window closes: at most one receive window of
 * the stream is ever queued here. */
#include "session/session_int.h"

/* The piece as it may be sent: itself when it is ours alone and has the headroom
 * lower layers need, else a copy. NULL: pool empty. */
static struct np_buf *sendable(struct np_sess *s, struct np_buf *b) {
  if (NP_LIKELY(b->refs == 1 && np_buf_headroom(b) >= NP_BUF_HEADROOM)) return b;
  if (b->len > b->cap_bytes - NP_BUF_DATA_OFF) return NULL;
  struct np_buf *copy = np_pool_get(s->owner->env.pool);
  if (copy == NULL) return NULL;
  memcpy(np_buf_append(copy, b->len), np_buf_cdata(b), b->len);
  np_buf_put(b);
  return copy;
}

/* Sends as many whole pieces as there is room for, as one chain. */
static void pump(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if (stream == NULL || s->rx.head == NULL) return;
  uint32_t room = stream->ops->room(stream);
  struct np_bufq out = {0};
  while (s->rx.head != NULL && s->rx.head->len <= room) { /* bound: the queue's pieces */
    struct np_buf *next = s->rx.head->next;
    uint32_t len = s->rx.head->len;
    struct np_buf *b = sendable(s, s->rx.head);
    if (b == NULL) break; /* no buffer: again at the next run */
    b->next = NULL;
    s->rx.head = next;
    if (next == NULL) s->rx.tail = NULL;
    s->rx.bytes -= len;
    room -= len;
    np_bufq_add(&out, b);
  }
  if (out.head != NULL) {
    uint32_t bytes = out.bytes;
    if (stream->ops->send(stream, out.head, 0) != NP_ERR_OK) np_bufq_free(&s->rx);
    stream->ops->consumed(stream, bytes);
  }
  if (s->rx.head != NULL) {
    np_sess_dirty(s);
  } else if ((s->flags & NP_SF_EOF) != 0) {
    stream->ops->shutdown(stream);
  }
}

/* The usual: nothing waits, and all of it may go as it is. Return: false when not. */
NP_INLINE bool straight(struct np_sess *s, struct np_buf *chain, uint32_t bytes) {
  struct np_stream *stream = s->base.stream;
  if (s->rx.head != NULL || (s->flags & NP_SF_EOF) != 0 || stream == NULL) return false;
  for (const struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: the pool's count */
    if (b->refs != 1 || np_buf_headroom(b) < NP_BUF_HEADROOM) return false;
  }
  if (bytes > stream->ops->room(stream)) return false;
  (void)stream->ops->send(stream, chain, 0); /* it frees what it refuses */
  stream->ops->consumed(stream, bytes);
  return true;
}

static void echo_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  struct np_sess *s = np_sess_of(base);
  if (NP_LIKELY(straight(s, chain, bytes))) return;
  np_bufq_add(&s->rx, chain);
  pump(s);
}

static void echo_writable(struct np_session *base) { pump(np_sess_of(base)); }

static void echo_eof(struct np_session *base) {
  struct np_sess *s = np_sess_of(base);
  s->flags |= NP_SF_EOF;
  if (s->rx.head == NULL) base->stream->ops->shutdown(base->stream);
}

static void echo_closed(struct np_session *base, enum np_err err) { np_sess_end(np_sess_of(base), err); }

static void echo_established(struct np_session *base) { np_sess_set_handle(np_sess_of(base)); }

const struct np_session_ops np_echo_ops = {
    .data = echo_data,
    .writable = echo_writable,
    .eof = echo_eof,
    .closed = echo_closed,
    .established = echo_established,
};
