/* REQUEST, RESPONSE, MESSAGE and DATA: which stream they belong to, whether it
 * may carry them, and on to Go as a chain of buffers. */
#include "session/session_int.h"

enum verdict { TAKE, IGNORE, REFUSE, BREACH };

void np_npro_refuse(struct np_sess *s, uint32_t stream, uint32_t code) {
  uint8_t body[4];
  np_store_be32(body, code);
  (void)np_npro_tx_control(s, NP_NPRO_RESET, stream, body, sizeof body);
}

/* A stream the table does not know. */
static enum verdict admit_new(struct np_sess *s, const struct np_frame *f, struct np_nstream **out, uint32_t *code) {
  if (!np_npro_peer_id(s, f->stream)) {
    /* ours: one that ended here while this was on its way, or one that never was */
    return f->stream <= s->local_highest ? IGNORE : BREACH;
  }
  if (f->stream <= s->peer_highest) return IGNORE;
  if (f->type == NP_NPRO_RESPONSE) return BREACH;
  s->peer_highest = f->stream;
  *code = NP_CODE_SHUTTING_DOWN;
  if (s->state == NP_NPRO_DRAINING) return REFUSE;
  *code = NP_CODE_STREAM_LIMIT;
  *out = np_nstream_open(s, f->stream, false);
  if (*out == NULL) return REFUSE;
  if (f->type == NP_NPRO_MESSAGE) (*out)->flags |= NP_STF_ONE_WAY;
  return TAKE;
}

static enum verdict admit(struct np_sess *s, const struct np_frame *f, struct np_nstream **out, uint32_t *code) {
  struct np_nstream *st = np_nstream_find(s, f->stream);
  *out = st;
  if (st == NULL) return admit_new(s, f, out, code);
  if ((st->flags & NP_STF_RX_END) != 0) return IGNORE;
  bool local = (st->flags & NP_STF_LOCAL) != 0;
  if (f->type == (local ? NP_NPRO_REQUEST : NP_NPRO_RESPONSE)) return BREACH;
  return TAKE;
}

/* The body as a chain of its own; header and tag are gone from the queue afterwards
 * whatever the answer. */
static enum np_drop extract(struct np_sess *s, const struct np_frame *f, struct np_bufq *body) {
  uint32_t wire = f->length - NP_RECORD_TAG;
  enum np_drop why = NP_FRAME_OK;
  uint32_t before = s->rx.bytes;
  np_npro_rx_drop(s, NP_NPRO_HEADER);
  if ((f->flags & (NP_NPRO_F_LZ4 | NP_NPRO_F_ZSTD)) != 0) {
    why = np_npro_inflate(s, f, body);
  } else if (wire > 0 && !np_npro_rx_take(s, wire, body)) {
    why = NP_DROP_NPRO_NO_BUFFER;
  }
  np_npro_rx_drop(s, NP_NPRO_HEADER + f->length - (before - s->rx.bytes));
  return why;
}

/* What the body must begin with when it begins a message. */
static bool form_ok(const struct np_frame *f, const struct np_bufq *body) {
  struct np_cursor at = {.buf = body->head, .off = 0, .left = body->bytes};
  struct np_context ctx;
  struct np_request request;
  uint8_t status;
  if ((f->flags & NP_NPRO_F_CTX) != 0 && np_body_context(&at, &ctx) != NP_FRAME_OK) return false;
  switch (f->type) {
    case NP_NPRO_REQUEST:
    case NP_NPRO_MESSAGE: return np_body_request(&at, &request) == NP_FRAME_OK;
    case NP_NPRO_RESPONSE: return np_body_response(&at, &status) == NP_FRAME_OK;
    default: return true;
  }
}

/* Windows count raw bytes: what compression saved is charged as well, and a body
 * that compression made longer gives the difference back. */
static bool charge(struct np_sess *s, struct np_nstream *st, uint32_t wire, uint32_t raw) {
  if (raw > wire) {
    if (raw - wire > s->rx_credit) return false;
    s->rx_credit -= raw - wire;
  } else {
    s->rx_credit += wire - raw;
  }
  if (raw > st->rx_window) return false;
  st->rx_window -= raw;
  return true;
}

static void to_go(struct np_sess *s, struct np_nstream *st, const struct np_frame *f, struct np_bufq *body) {
  struct np_event ev = {
      .op = NP_EV_MESSAGE,
      .type = f->type,
      .flags = f->flags & (NP_NPRO_F_END | NP_NPRO_F_MORE | NP_NPRO_F_CTX),
      .stream = f->stream,
      .priority = f->priority,
      .body = body->head,
      .body_bytes = body->bytes,
  };
  if ((f->flags & NP_NPRO_F_MORE) != 0) st->flags |= NP_STF_RX_MORE;
  else st->flags &= (uint16_t)~NP_STF_RX_MORE;
  if ((f->flags & NP_NPRO_F_END) != 0) {
    st->flags |= NP_STF_RX_END;
    /* a response ends its stream, whatever of the request is still to be sent */
    if ((st->flags & NP_STF_ONE_WAY) != 0 || f->type == NP_NPRO_RESPONSE) st->flags |= NP_STF_TX_END;
    np_nstream_maybe_free(s, st);
  }
  np_npro_frame_ok(s);
  np_sess_charge(s, body->head);
  np_sess_event(s, &ev);
}

static void skip(struct np_sess *s, const struct np_frame *f, enum np_drop why) {
  np_npro_frame_drop(s, why);
  np_npro_rx_drop(s, NP_NPRO_HEADER + f->length);
  np_npro_credit_conn(s, f->length - NP_RECORD_TAG);
}

static void take(struct np_sess *s, struct np_nstream *st, const struct np_frame *f) {
  struct np_bufq body = {0};
  uint32_t wire = f->length - NP_RECORD_TAG;
  enum np_drop why = extract(s, f, &body);
  if (why == NP_DROP_NPRO_NO_BUFFER) {
    np_npro_frame_drop(s, why);
    np_npro_refuse(s, f->stream, NP_CODE_OVERLOADED);
    np_npro_credit_conn(s, wire);
    struct np_event ev = {.op = NP_EV_RESET, .stream = f->stream, .arg = NP_CODE_OVERLOADED};
    np_nstream_free(s, st);
    np_sess_event(s, &ev); /* Go may hold the beginning of this message */
    return;
  }
  if (why == NP_FRAME_OK && !charge(s, st, wire, body.bytes)) why = NP_DROP_NPRO_FLOW;
  if (why == NP_FRAME_OK && (st->flags & NP_STF_RX_MORE) == 0 && !form_ok(f, &body)) why = NP_DROP_NPRO_BODY;
  if (why == NP_FRAME_OK && (st->flags & NP_STF_RX_MORE) != 0 && (f->flags & NP_NPRO_F_CTX) != 0) why = NP_DROP_NPRO_FLAGS;
  if (why == NP_FRAME_OK && body.bytes > s->lim.max_payload && body.bytes - s->lim.max_payload > NP_OPCODE_MAX + 1 + UINT16_MAX + 2) {
    why = NP_DROP_NPRO_LENGTH;
  }
  if (why != NP_FRAME_OK) {
    np_bufq_free(&body);
    np_npro_violation(s, why);
    return;
  }
  if ((f->flags & (NP_NPRO_F_LZ4 | NP_NPRO_F_ZSTD)) != 0 && np_npro_echo_raw(s, st, f, &body)) return;
  to_go(s, st, f, &body);
}

void np_npro_body(struct np_sess *s, const struct np_frame *f) {
  if (f->type == NP_NPRO_REQUEST && np_npro_echo(s, f)) return;
  struct np_nstream *st;
  uint32_t code = 0;
  switch (admit(s, f, &st, &code)) {
    case TAKE: take(s, st, f); break;
    case IGNORE: skip(s, f, NP_DROP_NPRO_CLOSED); break;
    case REFUSE:
      skip(s, f, code == NP_CODE_STREAM_LIMIT ? NP_DROP_NPRO_STREAM_LIMIT : NP_DROP_NPRO_CLOSED);
      np_npro_refuse(s, f->stream, code);
      break;
    case BREACH: np_npro_violation(s, NP_DROP_NPRO_STREAM); break;
  }
}
