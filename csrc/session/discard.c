/* discard: every byte is taken and dropped (RFC 863); TCP's counters count them. */
#include "session/session_int.h"

static void discard_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  np_buf_put_chain(chain);
  base->stream->ops->consumed(base->stream, bytes);
}

static void discard_writable(struct np_session *base) { (void)base; }

static void discard_eof(struct np_session *base) { base->stream->ops->shutdown(base->stream); }

static void discard_closed(struct np_session *base, enum np_err err) {
  np_sess_end(np_sess_of(base), err);
}

static void discard_established(struct np_session *base) { np_sess_set_handle(np_sess_of(base)); }

const struct np_session_ops np_discard_ops = {
    .data = discard_data,
    .writable = discard_writable,
    .eof = discard_eof,
    .closed = discard_closed,
    .established = discard_established,
};
