/* Sending bodies: items queued per stream, cut into frames as the peer's windows
 * and the stream's room allow. The highest priority first, streams of equal
 * priority in turn, by bytes and not by frames, because little room makes small
 * frames. Lent buffers are copied into buffers of ours,
 * where the record is sealed in place, and go back to Go at once. */
#include "session/session_int.h"

#define ROOM_MIN 1024u /* less room than that is not worth a frame of its own */

static void release_piece(struct np_sess *s, struct np_buf *b, bool lent) {
  struct np_sessions *ss = s->owner;
  b->next = NULL;
  if (lent) ss->env.loan_return(ss->env.ctx, b);
  else np_buf_put(b);
}

void np_item_release(struct np_sess *s, struct np_buf *chain) {
  struct np_sessions *ss = s->owner;
  struct np_send_item it = *np_item_of(chain);
  if (it.lent) ss->env.loan_return(ss->env.ctx, chain);
  else np_buf_put_chain(chain);
  if (it.credit > 0) np_npro_credit_conn(s, it.credit);
}

uint32_t np_npro_head_bytes(const struct np_buf *body, uint32_t body_bytes, uint8_t type, uint8_t flags, bool *ok) {
  struct np_cursor at = {.buf = body, .off = 0, .left = body_bytes};
  struct np_context ctx;
  struct np_request request;
  uint8_t status;
  *ok = true;
  if ((flags & NP_NPRO_F_CTX) != 0 && np_body_context(&at, &ctx) != NP_FRAME_OK) *ok = false;
  else if (type == NP_NPRO_REQUEST || type == NP_NPRO_MESSAGE) *ok = np_body_request(&at, &request) == NP_FRAME_OK;
  else if (type == NP_NPRO_RESPONSE) *ok = np_body_response(&at, &status) == NP_FRAME_OK;
  return *ok ? body_bytes - at.left : 0;
}

enum np_err np_npro_enqueue(struct np_sess *s, struct np_nstream *st, const struct np_send_item *item, struct np_buf *body) {
  bool over = s->sendq_items >= NP_NPRO_SENDQ_ITEMS || s->sendq_bytes >= NP_NPRO_SENDQ_BYTES;
  if (item->from_go && over) return NP_ERR_FULL; /* the core's own answers are bounded by the receive window */
  struct np_send_item *it = np_item_of(body);
  *it = *item;
  it->next = NULL;
  if (st->q_tail != NULL) np_item_of(st->q_tail)->next = body;
  else st->q_head = body;
  st->q_tail = body;
  s->sendq_items++;
  s->sendq_bytes += item->left_bytes;
  if ((item->flags & NP_NPRO_F_END) != 0) st->flags |= NP_STF_TX_ENDQ;
  np_nstream_ready(s, st);
  np_sess_dirty(s);
  return NP_ERR_OK;
}

/* Gives back the pieces of the first n bytes of the stream's first item; the item's
 * description moves to the piece that is first then. */
static void consume(struct np_sess *s, struct np_nstream *st, uint32_t n) {
  while (n > 0) { /* bound: the pieces of n bytes */
    struct np_buf *b = st->q_head;
    struct np_send_item it = *np_item_of(b);
    if (b->len > n) {
      np_buf_pull(b, n);
      return;
    }
    n -= b->len;
    if (b->next == NULL) return; /* the last piece holds the description until the item is done */
    *np_item_of(b->next) = it;
    if (st->q_tail == b) st->q_tail = b->next;
    st->q_head = b->next;
    release_piece(s, b, it.lent);
  }
}

static void item_done(struct np_sess *s, struct np_nstream *st) {
  struct np_buf *b = st->q_head;
  struct np_send_item it = *np_item_of(b);
  st->q_head = it.next;
  if (it.next == NULL) st->q_tail = NULL;
  s->sendq_items--;
  np_item_release(s, b);
  if ((it.flags & NP_NPRO_F_END) == 0) return;
  st->flags |= NP_STF_TX_END;
  if ((st->flags & NP_STF_ONE_WAY) != 0 || it.type == NP_NPRO_RESPONSE) st->flags |= NP_STF_RX_END;
}

enum sent { SENT, STREAM_BLOCKED, CONN_BLOCKED };

/* How many bytes the next fragment may have. */
static enum sent fragment_bytes(struct np_sess *s, const struct np_nstream *st, const struct np_send_item *it, uint32_t *out) {
  uint32_t want = np_min_u32(it->left_bytes, np_min_u32(NP_NPRO_FRAGMENT, s->lim.max_frame_tx - NP_RECORD_TAG));
  uint32_t least = want == 0 ? 0 : np_max_u32(1, it->head_bytes);
  uint32_t n = np_min_u32(want, st->tx_window);
  if (n < least) return STREAM_BLOCKED;
  n = np_min_u32(n, s->tx_window);
  if (n < least) return CONN_BLOCKED;
  const uint32_t frame = NP_NPRO_HEADER + NP_RECORD_TAG;
  uint32_t room = np_npro_room(s);
  if (room < frame + n) {
    least = np_max_u32(least, np_min_u32(n, ROOM_MIN));
    if (room < frame + least) {
      /* writable signals room only after none at all: until then each run looks again */
      np_sess_dirty(s);
      return CONN_BLOCKED;
    }
    n = room - frame;
  }
  *out = n;
  return SENT;
}

static bool emit(struct np_sess *s, struct np_frame *f, struct np_buf *from, uint32_t n) {
  struct np_sessions *ss = s->owner;
  if (s->lim.compression != NP_COMPRESSION_NONE && n >= s->lim.compression_threshold && n > 0) {
    uint32_t done = 0;
    for (struct np_buf *b = from; done < n; b = b->next) { /* bound: the item's pieces */
      uint32_t step = np_min_u32(n - done, b->len);
      memcpy(ss->scratch_raw + done, np_buf_cdata(b), step);
      done += step;
    }
    uint8_t flag = 0;
    uint32_t packed = np_npro_deflate(s, n, &flag);
    if (packed > 0) {
      f->flags |= flag;
      return np_npro_tx_copy(s, f, ss->scratch_wire, packed);
    }
  }
  return np_npro_tx_fragment(s, f, from, n);
}

static enum sent send_fragment(struct np_sess *s, struct np_nstream *st) {
  struct np_buf *b = st->q_head;
  struct np_send_item *it = np_item_of(b);
  uint32_t n = 0;
  enum sent can = fragment_bytes(s, st, it, &n);
  if (can != SENT) return can;
  bool last = n == it->left_bytes;
  struct np_frame f = {.type = it->type, .stream = st->id, .priority = it->priority};
  f.flags = it->flags & NP_NPRO_F_CTX;
  f.flags |= last ? it->flags & (NP_NPRO_F_END | NP_NPRO_F_MORE) : NP_NPRO_F_MORE;
  if (!emit(s, &f, b, n)) {
    np_sess_dirty(s); /* no buffers: again at the next run */
    return CONN_BLOCKED;
  }
  np_nstream_opened(s, st);
  bool from_go = it->from_go;
  s->tx_window -= n;
  st->tx_window -= n;
  st->turn_bytes += n;
  s->sendq_bytes -= n;
  it->left_bytes -= n;
  it->head_bytes = 0;
  it->flags &= (uint8_t)~NP_NPRO_F_CTX;
  consume(s, st, n);
  struct np_event ev = {.op = NP_EV_SENT, .stream = st->id, .arg = n};
  if (last) item_done(s, st);
  if (from_go) np_sess_event(s, &ev); /* a bare END too: Go counts bodies as well as bytes */
  return SENT;
}

/* The stream at the front of its ring sent a frame: to the end of the ring, or out of it. */
static void rotate(struct np_sess *s, struct np_nstream *st) {
  if (st->q_head == NULL) {
    np_nstream_unready(s, st);
    np_nstream_maybe_free(s, st);
  } else if ((np_item_of(st->q_head)->priority & 7u) != st->priority) {
    np_nstream_unready(s, st);
    np_nstream_ready(s, st);
  } else if (st->turn_bytes >= NP_NPRO_FRAGMENT) {
    st->turn_bytes = 0;
    s->ready_tail[st->priority] = (uint32_t)(st - s->owner->stream);
  }
}

void np_npro_pump(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  for (uint32_t budget = NP_SESS_PUMP_BUDGET; s->ready_mask != 0; budget--) {
    if (budget == 0) {
      np_sess_dirty(s);
      ss->work_left = true;
      return;
    }
    if (!np_sess_event_ok(ss)) { /* SENT would not fit */
      np_sess_dirty(s);
      ss->work_left = true;
      return;
    }
    uint32_t p = 31u - (uint32_t)__builtin_clz(s->ready_mask);
    struct np_nstream *tail = &ss->stream[s->ready_tail[p]];
    struct np_nstream *st = &ss->stream[tail->ready_next];
    /* numbers rise on the wire: a peer takes a lower one for a stream that ended */
    if ((st->flags & NP_STF_UNOPENED) != 0 && s->unopened > 1) st = np_nstream_first_unopened(s);
    switch (send_fragment(s, st)) {
      case SENT: rotate(s, st); break;
      case STREAM_BLOCKED: np_nstream_unready(s, st); break; /* its WINDOW makes it ready again */
      case CONN_BLOCKED: return;
    }
  }
}
