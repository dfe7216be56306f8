/* chargen: printable lines as fast as the stream takes them, whatever comes in is
 * dropped (RFC 864, TCP). Line n is 72 characters of the ring of 95 printable ones
 * from the n-th on, then CR LF; after 95 lines it begins again. The lines lie ready
 * in memory, so that a segment costs one copy. */
#include "session/session_int.h"

#define CHARS 95u
#define LINE_CHARS 72u
#define LINE_BYTES (LINE_CHARS + 2)
#define PERIOD (CHARS * LINE_BYTES)
#define SEGS_PER_PUMP 64u /* then the other sessions have their turn */

_Static_assert(PERIOD == NP_CHARGEN_PERIOD, "whole lines");
_Static_assert(NP_CHARGEN_BYTES >= PERIOD + 4096, "a chunk's data from any place of the period");

void np_chargen_fill(uint8_t *lines) {
  for (uint32_t i = 0; i < NP_CHARGEN_BYTES; i++) {
    uint32_t at = i % PERIOD;
    uint32_t column = at % LINE_BYTES;
    uint32_t c = ' ' + (at / LINE_BYTES + column) % CHARS;
    if (column == LINE_CHARS) c = '\r';
    if (column == LINE_CHARS + 1) c = '\n';
    lines[i] = (uint8_t)c;
  }
}

static void pump(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if (stream == NULL || (s->flags & NP_SF_EOF) != 0) return;
  struct np_pool *pool = s->owner->env.pool;
  /* what is left belongs to receiving and to sessions that answer */
  uint32_t reserve = pool->count / 4;
  uint32_t piece = np_sess_piece_bytes(s);
  uint32_t room = stream->ops->room(stream);
  struct np_bufq out = {0};
  for (uint32_t i = 0; i < SEGS_PER_PUMP && room >= piece && np_pool_avail(pool) > reserve; i++) {
    struct np_buf *b = np_pool_get(pool);
    memcpy(np_buf_append(b, piece), s->owner->chargen + s->chargen_at, piece);
    s->chargen_at = (s->chargen_at + piece) % PERIOD;
    room -= piece;
    np_bufq_add(&out, b);
  }
  if (out.head != NULL && stream->ops->send(stream, out.head, 0) != NP_ERR_OK) return;
  if (room < piece) return; /* the stream calls writable when three quarters are less than full */
  np_sess_dirty(s);
  /* with the pool at its reserve nothing can be done before an ACK frees buffers, and that is a turn of its own */
  if (np_pool_avail(pool) > reserve) s->owner->work_left = true;
}

static void chargen_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  np_buf_put_chain(chain);
  base->stream->ops->consumed(base->stream, bytes);
}

static void chargen_writable(struct np_session *base) { pump(np_sess_of(base)); }

static void chargen_eof(struct np_session *base) {
  np_sess_of(base)->flags |= NP_SF_EOF;
  base->stream->ops->shutdown(base->stream);
}

static void chargen_closed(struct np_session *base, enum np_err err) { np_sess_end(np_sess_of(base), err); }

static void chargen_established(struct np_session *base) {
  np_sess_set_handle(np_sess_of(base));
  pump(np_sess_of(base));
}

const struct np_session_ops np_chargen_ops = {
    .data = chargen_data,
    .writable = chargen_writable,
    .eof = chargen_eof,
    .closed = chargen_closed,
    .established = chargen_established,
};
