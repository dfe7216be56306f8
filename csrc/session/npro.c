/* An NPRO session's life: begin, end, and what the stream tells it. */
#include "session/session_int.h"

void np_npro_start(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  ss->env.counters->counter[NP_C_NPRO_SESSIONS]++;
  s->close_err = NP_ERR_OK;
  s->deadline_ns = ss->now_ns + (uint64_t)ss->config.handshake_ms * 1000000u;
  if ((s->flags & NP_SF_OUTGOING) != 0) {
    s->state = NP_NPRO_AWAIT_CONTROL; /* Go sends the first handshake frame */
    return;
  }
  s->state = NP_NPRO_AWAIT_HANDSHAKE;
  s->flags |= NP_SF_OPEN_DUE;
  np_npro_arm(s);
  np_sess_dirty(s);
}

bool np_npro_send_open(struct np_sess *s) {
  if (!np_sess_send_open(s)) return false;
  s->deadline_ns = s->owner->now_ns + (uint64_t)s->owner->config.handshake_ms * 1000000u;
  np_npro_arm(s);
  return true;
}

static void npro_established(struct np_session *base) {
  struct np_sess *s = np_sess_of(base);
  np_sess_set_handle(s);
  s->flags |= NP_SF_OPEN_DUE; /* the run that follows tells Go and starts the handshake's limit */
  np_sess_dirty(s);
}

static void npro_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  struct np_sess *s = np_sess_of(base);
  if (s->state >= NP_NPRO_CLOSING) { /* nobody reads any more */
    np_buf_put_chain(chain);
    base->stream->ops->consumed(base->stream, bytes);
    return;
  }
  s->flags |= NP_SF_HEARD; /* the run that follows knows the time */
  /* Behind what waits for its rest, for Go or for room there may be any number of segments,
   * of one byte each if the peer likes: what is held is to be near what came. Otherwise the
   * run handles them at once and in place. */
  bool waits = !np_npro_is_open(s) || (s->flags & (NP_SF_PARTIAL | NP_SF_STALLED)) != 0;
  uint32_t pack_bytes = waits ? np_min_u32(NP_NPRO_PACK_BYTES, np_sess_piece_bytes(s)) : 0;
  if (!np_bufq_intake(&s->rx, chain, s->owner->env.pool, pack_bytes)) {
    /* bytes of an ordered stream are gone: there is no way on */
    np_npro_abort(s, NP_ERR_NOBUF);
    return;
  }
  np_sess_dirty(s);
}

static void npro_writable(struct np_session *base) { np_sess_dirty(np_sess_of(base)); }

static void npro_eof(struct np_session *base) {
  struct np_sess *s = np_sess_of(base);
  s->flags |= NP_SF_EOF; /* what came before it is handled first */
  np_sess_dirty(s);
}

static void npro_closed(struct np_session *base, enum np_err err) {
  struct np_sess *s = np_sess_of(base);
  enum np_err why = s->state == NP_NPRO_CLOSING ? (enum np_err)s->close_err : err;
  if (s->handle == 0) np_sess_set_handle(s);
  s->state = NP_NPRO_CLOSING;
  np_sess_end(s, why);
}

const struct np_session_ops np_npro_ops = {
    .data = npro_data,
    .writable = npro_writable,
    .eof = npro_eof,
    .closed = npro_closed,
    .established = npro_established,
};

/* A frame whose header was judged whole and whose rest never came. */
static void count_truncated(struct np_sess *s) {
  if ((s->flags & NP_SF_PARTIAL) == 0) return;
  s->flags &= ~NP_SF_PARTIAL;
  if (s->rx.bytes >= NP_NPRO_HEADER) np_npro_frame_drop(s, NP_DROP_NPRO_CLOSED);
}

static void stop_reading(struct np_sess *s) {
  count_truncated(s);
  np_bufq_free(&s->rx);
  s->rx_ahead = 0;
  s->rx_due = 0;
  s->flags &= ~(NP_SF_STALLED | NP_SF_WINDOW_DUE | NP_SF_OPEN_DUE);
  np_nstream_free_all(s);
}

void np_npro_close(struct np_sess *s, uint32_t code, enum np_err err) {
  if (s->state >= NP_NPRO_CLOSING) return;
  if (np_npro_is_open(s)) {
    uint8_t body[4];
    np_store_be32(body, code);
    (void)np_npro_tx_control(s, NP_NPRO_DISCONNECT, 0, body, sizeof body);
  }
  np_npro_close_quietly(s, err);
}

void np_npro_close_quietly(struct np_sess *s, enum np_err err) {
  s->state = NP_NPRO_CLOSING; /* first: what is freed below says nothing any more */
  stop_reading(s);
  s->close_err = (uint16_t)err;
  s->deadline_ns = s->owner->now_ns + NP_NPRO_CLOSE_NS;
  np_npro_arm(s);
  np_npro_stage_again(s);
  np_sess_dirty(s);
}

void np_npro_abort(struct np_sess *s, enum np_err err) {
  if (s->state == NP_NPRO_CLOSED) return;
  s->state = NP_NPRO_CLOSING;
  stop_reading(s);
  s->close_err = (uint16_t)err;
  struct np_stream *stream = s->base.stream;
  if (stream != NULL) stream->ops->abort(stream); /* calls closed from inside */
  else np_sess_end(s, err);
}

void np_npro_finish(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if (stream != NULL) {
    stream->ops->shutdown(stream);
    stream->ops->detach(stream);
  }
  np_sess_end(s, (enum np_err)s->close_err);
}

static uint32_t code_of(enum np_drop why) {
  if (why == NP_DROP_NPRO_FLOW) return NP_CODE_FLOW_ERROR;
  return NP_CODE_PROTOCOL_ERROR;
}

void np_npro_violation(struct np_sess *s, enum np_drop why) {
  np_npro_frame_drop(s, why);
  s->flags &= ~NP_SF_PARTIAL;
  if (!np_npro_is_open(s)) { /* no keys, nobody we owe a word: and no state is kept for it */
    np_npro_abort(s, NP_ERR_PROTOCOL);
    return;
  }
  if (why == NP_DROP_NPRO_AUTH) {
    np_npro_abort(s, NP_ERR_AUTH); /* WIRE: at once, with no further word */
    return;
  }
  np_npro_close(s, code_of(why), why == NP_DROP_NPRO_FLOW ? NP_ERR_FLOW : NP_ERR_PROTOCOL);
}

void np_npro_release(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  if ((s->flags & NP_SF_UNSEALED) != 0) np_npro_seal_batch(ss); /* its records point into what goes now */
  stop_reading(s);
  np_timer_cancel(ss->env.wheel, &s->timer);
  if ((s->flags & NP_SF_KEYED) != 0) {
    np_record_dir_wipe(ss->env.crypto, &s->rx_dir);
    np_record_dir_wipe(ss->env.crypto, &s->tx_dir);
  } else if ((s->flags & NP_SF_HS_STARTED) != 0) {
    ss->env.counters->counter[NP_C_NPRO_HS_FAILED]++;
  }
  ss->env.counters->counter[NP_C_NPRO_SESSIONS]--;
}
