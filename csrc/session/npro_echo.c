/* ECHO answered on the core: the request's payload is the answer's. Where the
 * request fills its piece the answer is made around the payload where it lies:
 * opcode (5 bytes) and header make room for header and status (17 bytes). */
#include "session/session_int.h"

#define ECHO_OPCODE 5u /* length byte and "ECHO" */
#define ANSWER_HEAD (NP_NPRO_HEADER + 1u)

/* Where the payload begins in a body, or 0 when it is no ECHO. */
static uint32_t payload_off(const struct np_bufq *q, uint32_t at, uint32_t body_bytes, uint8_t flags) {
  uint32_t off = 0;
  if ((flags & NP_NPRO_F_CTX) != 0) {
    uint8_t len[2];
    if (body_bytes < sizeof len) return 0;
    np_bufq_copy(q, at, len, sizeof len);
    off = 2u + np_load_be16(len);
    if (off > body_bytes) return 0;
    struct np_cursor cur = np_cursor_at(q->head, at, body_bytes);
    struct np_context ctx;
    if (np_body_context(&cur, &ctx) != NP_FRAME_OK) return 0;
  }
  if (body_bytes - off < ECHO_OPCODE) return 0;
  uint8_t op[ECHO_OPCODE];
  np_bufq_copy(q, at + off, op, sizeof op);
  return memcmp(op, "\4ECHO", ECHO_OPCODE) == 0 ? off + ECHO_OPCODE : 0;
}

/* The answer goes through the stream's queue: no room, no window, or too long to
 * go in one frame past everybody else. Its credit returns when it has left. */
static void answer_queued(struct np_sess *s, struct np_nstream *st, uint8_t priority, struct np_bufq *body,
                          uint32_t skip, uint32_t credit) {
  struct np_buf *b = NULL;
  np_bufq_drop(body, skip);
  b = body->head;
  if (b != NULL && np_buf_headroom(b) > 0) {
    *np_buf_push(b, 1) = NP_CODE_OK;
  } else {
    b = np_pool_get(s->owner->env.pool);
    if (b == NULL) {
      np_bufq_free(body);
      np_npro_refuse(s, st->id, NP_CODE_OVERLOADED);
      np_nstream_free(s, st);
      np_npro_credit_conn(s, credit);
      return;
    }
    *np_buf_append(b, 1) = NP_CODE_OK;
    b->next = body->head;
  }
  struct np_send_item item = {
      .left_bytes = body->bytes + 1,
      .head_bytes = 1,
      .credit = credit,
      .type = NP_NPRO_RESPONSE,
      .flags = NP_NPRO_F_END,
      .priority = priority,
  };
  *body = (struct np_bufq){0};
  st->flags |= NP_STF_RX_END;
  (void)np_npro_enqueue(s, st, &item, b);
}

/* In one piece, answered where it lies. */
static bool answer_in_place(struct np_sess *s, const struct np_frame *f, struct np_frame *out, uint32_t off, uint32_t n) {
  struct np_buf *b = s->rx.head;
  uint32_t total = NP_NPRO_HEADER + f->length;
  if (b->len != total || np_buf_headroom(b) < NP_BUF_HEADROOM) return false;
  struct np_bufq q;
  if (!np_npro_rx_take(s, total, &q)) return false; /* a whole piece: nothing to split */
  uint8_t *p = np_buf_pull(b, NP_NPRO_HEADER + off - ANSWER_HEAD);
  p[NP_NPRO_HEADER] = NP_CODE_OK;
  q.bytes = b->len;
  np_npro_tx_chain(s, out, &q, n);
  return true;
}

static bool answer_copied(struct np_sess *s, const struct np_frame *f, struct np_frame *out, uint32_t off, uint32_t n) {
  uint8_t *p = np_npro_tx_small(s, out, n);
  if (p == NULL) return false;
  p[0] = NP_CODE_OK;
  if (n > 1) np_bufq_copy(&s->rx, NP_NPRO_HEADER + off, p + 1, n - 1);
  np_npro_rx_drop(s, NP_NPRO_HEADER + f->length);
  return true;
}

/* Over several pieces: they become the answer, cut at both ends. */
static bool answer_chain(struct np_sess *s, struct np_frame *out, uint32_t off, uint32_t n) {
  struct np_bufq q;
  uint32_t total = NP_NPRO_HEADER + n + NP_RECORD_TAG;
  np_npro_rx_drop(s, NP_NPRO_HEADER + off - ANSWER_HEAD);
  if (!np_npro_rx_take(s, total, &q)) return false;
  struct np_buf *b = q.head;
  if (b->len < ANSWER_HEAD || np_buf_headroom(b) < NP_BUF_HEADROOM) {
    b = np_pool_get(s->owner->env.pool);
    if (b == NULL) {
      np_bufq_free(&q);
      return false;
    }
    (void)np_buf_append(b, ANSWER_HEAD);
    np_bufq_drop(&q, ANSWER_HEAD);
    b->next = q.head;
    if (q.tail == NULL) q.tail = b;
    q.head = b;
    q.bytes += ANSWER_HEAD;
  }
  np_buf_data(b)[NP_NPRO_HEADER] = NP_CODE_OK;
  np_npro_tx_chain(s, out, &q, n);
  return true;
}

static void echo_slow(struct np_sess *s, const struct np_frame *f, uint32_t off) {
  uint32_t wire = f->length - NP_RECORD_TAG;
  struct np_nstream *st = np_nstream_open(s, f->stream, false);
  struct np_bufq body = {0};
  np_npro_rx_drop(s, NP_NPRO_HEADER);
  if (st == NULL || !np_npro_rx_take(s, wire, &body)) {
    np_npro_frame_drop(s, st == NULL ? NP_DROP_NPRO_STREAM_LIMIT : NP_DROP_NPRO_NO_BUFFER);
    np_npro_refuse(s, f->stream, st == NULL ? NP_CODE_STREAM_LIMIT : NP_CODE_OVERLOADED);
    if (st != NULL) np_nstream_free(s, st);
    np_npro_rx_drop(s, f->length);
    np_npro_credit_conn(s, wire);
    return;
  }
  np_npro_rx_drop(s, NP_RECORD_TAG);
  np_npro_frame_ok(s);
  s->owner->env.counters->counter[NP_C_NPRO_ECHOES]++;
  answer_queued(s, st, f->priority, &body, off, wire);
}

bool np_npro_echo(struct np_sess *s, const struct np_frame *f) {
  const uint8_t plain = f->flags & (uint8_t)~NP_NPRO_F_CTX;
  if ((s->lim.features & NP_NPRO_ALLOW_ECHO) == 0 || plain != (NP_NPRO_F_ENC | NP_NPRO_F_END)) return false;
  uint32_t wire = f->length - NP_RECORD_TAG;
  if (s->state != NP_NPRO_OPEN || !np_npro_peer_id(s, f->stream) || f->stream <= s->peer_highest) return false;
  if (wire > s->lim.stream_window_rx) return false;
  uint32_t off = payload_off(&s->rx, NP_NPRO_HEADER, wire, f->flags);
  if (off == 0) return false;
  s->peer_highest = f->stream;
  uint32_t n = 1 + wire - off;
  uint32_t total = NP_NPRO_HEADER + n + NP_RECORD_TAG;
  bool direct = n <= s->tx_window && n <= s->lim.stream_window_tx && n + NP_RECORD_TAG <= s->lim.max_frame_tx &&
                n <= NP_NPRO_ECHO_DIRECT && total <= np_npro_room(s);
  if (NP_UNLIKELY(!direct)) {
    echo_slow(s, f, off);
    return true;
  }
  struct np_frame out = {.type = NP_NPRO_RESPONSE, .flags = NP_NPRO_F_END, .stream = f->stream, .priority = f->priority};
  uint32_t frame_bytes = NP_NPRO_HEADER + f->length;
  uint32_t before = s->rx.bytes;
  bool done = answer_in_place(s, f, &out, off, n);
  if (!done) {
    bool copy = total <= NP_NPRO_COPY_BYTES && total <= np_sess_piece_bytes(s);
    done = copy ? answer_copied(s, f, &out, off, n) : answer_chain(s, &out, off, n);
  }
  if (NP_UNLIKELY(!done)) { /* no buffer: what is left of the frame goes, the stream is refused */
    np_npro_rx_drop(s, frame_bytes - (before - s->rx.bytes));
    np_npro_frame_drop(s, NP_DROP_NPRO_NO_BUFFER);
    np_npro_refuse(s, f->stream, NP_CODE_OVERLOADED);
  } else {
    s->tx_window -= n;
    np_npro_frame_ok(s);
    s->owner->env.counters->counter[NP_C_NPRO_ECHOES]++;
  }
  np_npro_credit_conn(s, wire);
  return true;
}

bool np_npro_echo_raw(struct np_sess *s, struct np_nstream *st, const struct np_frame *f, struct np_bufq *body) {
  if ((s->lim.features & NP_NPRO_ALLOW_ECHO) == 0 || f->type != NP_NPRO_REQUEST || body->head == NULL) return false;
  if ((f->flags & NP_NPRO_F_END) == 0 || (st->flags & NP_STF_RX_MORE) != 0) return false;
  uint32_t off = payload_off(body, 0, body->bytes, f->flags);
  if (off == 0) return false;
  np_npro_frame_ok(s);
  s->owner->env.counters->counter[NP_C_NPRO_ECHOES]++;
  answer_queued(s, st, f->priority, body, off, body->bytes);
  return true;
}
