/* Cutting frames out of what arrived, opening them in batches, handling them.
 *
 * Frames stay where they arrived until they are handled: a record names a piece
 * and an offset, so frames that share pieces are opened in place side by side.
 * Handling goes in order and always looks at the front of the session's queue. */
#include "session/session_int.h"

struct cursor {
  struct np_buf *b;
  uint32_t off;
  uint32_t left; /* bytes from here to the end of the queue */
};

static void advance(struct cursor *c, uint32_t n) {
  c->left -= n;
  c->off += n;
  while (c->off >= c->b->len && c->b->next != NULL) { /* bound: the pieces of n bytes */
    c->off -= c->b->len;
    c->b = c->b->next;
  }
}

static void peek(const struct cursor *c, uint8_t *dst, uint32_t n) {
  const struct np_buf *b = c->b;
  uint32_t off = c->off;
  if (NP_LIKELY(b->len - off >= n)) {
    memcpy(dst, np_buf_cdata(b) + off, n);
    return;
  }
  while (n > 0) { /* bound: n, pieces are not empty */
    uint32_t step = np_min_u32(n, b->len - off);
    memcpy(dst, np_buf_cdata(b) + off, step);
    dst += step;
    n -= step;
    off = 0;
    b = b->next;
  }
}

static bool is_body_type(uint8_t type) { return type >= NP_NPRO_REQUEST && type <= NP_NPRO_DATA; }

/* What a header may say before any keys. */
static enum np_drop judge_clear(const struct np_sess *s, const struct np_frame *f) {
  if (f->type < NP_NPRO_HANDSHAKE_1 || f->type > NP_NPRO_HANDSHAKE_3) return NP_DROP_NPRO_EARLY;
  if (f->flags != 0) return NP_DROP_NPRO_FLAGS;
  if (f->stream != 0) return NP_DROP_NPRO_STREAM;
  if (f->length == 0 || f->length > s->owner->config.handshake_frame_bytes) return NP_DROP_NPRO_LENGTH;
  return NP_FRAME_OK;
}

/* What it may say after. Nothing here has been authenticated yet; each answer but
 * OK ends the connection, so a liar gains nothing. */
static enum np_drop judge_sealed(const struct np_sess *s, const struct np_frame *f) {
  if ((f->flags & NP_NPRO_F_ENC) == 0) return NP_DROP_NPRO_CLEAR;
  if (f->type >= NP_NPRO_HANDSHAKE_1 && f->type <= NP_NPRO_HANDSHAKE_3) return NP_DROP_NPRO_TYPE;
  if (f->length < NP_RECORD_TAG) return NP_DROP_NPRO_LENGTH;
  uint32_t body = f->length - NP_RECORD_TAG;
  if (!is_body_type(f->type)) {
    if (f->flags != NP_NPRO_F_ENC) return NP_DROP_NPRO_FLAGS;
    if (!np_npro_control_size_ok(f->type, body)) return NP_DROP_NPRO_LENGTH;
    bool wants = f->type == NP_NPRO_RESET;
    bool may = wants || f->type == NP_NPRO_WINDOW;
    if (f->stream != 0 ? !may : wants) return NP_DROP_NPRO_STREAM;
    return NP_FRAME_OK;
  }
  if (f->stream == 0) return NP_DROP_NPRO_STREAM;
  if ((f->flags & NP_NPRO_F_END) != 0 && (f->flags & NP_NPRO_F_MORE) != 0) return NP_DROP_NPRO_FLAGS;
  uint8_t packed = f->flags & (NP_NPRO_F_LZ4 | NP_NPRO_F_ZSTD);
  if (packed != 0) {
    uint32_t which = packed == NP_NPRO_F_LZ4 ? NP_COMPRESSION_LZ4 : NP_COMPRESSION_ZSTD;
    if ((s->lim.compression_rx >> which & 1u) == 0) return NP_DROP_NPRO_FLAGS;
  }
  /* WIRE: nothing is held for a length beyond the credit that is left */
  if (body > s->rx_credit) return NP_DROP_NPRO_FLOW;
  return NP_FRAME_OK;
}

static enum np_drop judge(const struct np_sess *s, const uint8_t header[NP_NPRO_HEADER], struct np_frame *f) {
  bool open = np_npro_is_open(s);
  uint32_t length_max = open ? s->lim.max_frame_rx : NP_NPRO_WINDOW_MAX;
  enum np_drop why = np_frame_decode(header, length_max, f);
  if (why != NP_FRAME_OK) return why;
  return open ? judge_sealed(s, f) : judge_clear(s, f);
}

static void stall(struct np_sess *s) {
  if (!np_sess_event_ok(s->owner)) {
    /* nothing wakes the core when Go has drained the ring: it looks again */
    if ((s->flags & NP_SF_STALLED) == 0) s->owner->env.counters->counter[NP_C_EVENT_RING_FULL]++;
    s->owner->work_left = true;
  }
  s->flags |= NP_SF_STALLED;
  s->part_due_ns = 0; /* it is whole */
  np_sess_dirty(s);
}

/* True when handling the frame may stage an answer at once, without asking whether
 * the peer reads: PONG, the answer of an ECHO, RESET for a stream that is refused. */
static bool answers(struct np_sess *s, const struct np_frame *f) {
  if (f->type == NP_NPRO_PING || f->type == NP_NPRO_REQUEST) return true;
  return is_body_type(f->type) && np_nstream_find(s, f->stream) == NULL;
}

/* True when the frame may be opened now: opening happens once, so everything its
 * handling could need has to be there. */
static bool may_take(struct np_sess *s, const struct np_frame *f) {
  struct np_sessions *ss = s->owner;
  /* two buffers per frame: a split and an answer */
  if (np_pool_avail(ss->env.pool) < 2 * (ss->rx_n + 1) + 2) return false;
  if (NP_UNLIKELY(!np_npro_stage_ok(s)) && answers(s, f)) return false;
  if (is_body_type(f->type) && np_sess_holds_many(s, s->lim.conn_window_rx - s->rx_credit - s->rx_freed)) return false;
  if (f->type == NP_NPRO_PING || f->type == NP_NPRO_WINDOW || f->type == NP_NPRO_REKEY) return true;
  return np_sess_event_ok(ss);
}

static void add_to_batch(struct np_sess *s, const struct np_frame *f, const uint8_t *header, struct cursor *c) {
  struct np_sessions *ss = s->owner;
  uint32_t body = f->length - NP_RECORD_TAG;
  advance(c, NP_NPRO_HEADER);
  ss->rx_slot[ss->rx_n] = (struct np_rx_slot){.sess = s, .frame = *f};
  struct np_record *r = &ss->rx_rec[ss->rx_n++];
  r->dir = &s->rx_dir;
  r->buf = c->b;
  r->body_off = c->off;
  r->body_bytes = body;
  memcpy(r->header, header, NP_NPRO_HEADER);
  r->ok = false;
  ss->reserved++;
  s->rx_batched++;
  s->part_due_ns = 0;
  if (is_body_type(f->type)) s->rx_credit -= body;
  advance(c, f->length);
}

/* The rest of the queue is the beginning of one frame whose length is within
 * every limit: its bytes count as consumed at once. They are bounded by the
 * window the peer was given, and a frame longer than the stream's own window
 * could not arrive otherwise. Under pressure the window stays shut instead. */
static void take_ahead(struct np_sess *s) {
  if ((s->flags & NP_SF_PARTIAL) == 0 || s->rx_batched > 0) return;
  if (s->owner->pressure) {
    np_sess_dirty(s);
    return;
  }
  s->rx_due += s->rx.bytes - s->rx_ahead;
  s->rx_ahead = s->rx.bytes;
}

/* What is here is less than a header, or less than the frame. bytes: its length, once that
 * is known. */
static bool partial(struct np_sess *s, uint32_t left, bool header_whole, uint32_t bytes) {
  /* with its header whole the frame's limit begins anew, as its length is known then */
  bool begins = s->part_due_ns == 0 || (header_whole && (s->flags & NP_SF_PARTIAL) == 0);
  s->flags &= ~(NP_SF_PARTIAL | NP_SF_STALLED);
  if (left > 0 && begins && np_npro_is_open(s)) np_npro_frame_began(s, bytes);
  if (header_whole) {
    s->flags |= NP_SF_PARTIAL;
    take_ahead(s);
  }
  if ((s->flags & NP_SF_EOF) == 0) return false;
  if (s->rx_batched > 0) return true;
  np_npro_close(s, NP_CODE_NORMAL, np_npro_is_open(s) ? NP_ERR_EOF : NP_ERR_HANDSHAKE);
  return false;
}

/* Fewer than 16 bytes: a wrong magic or version shows already. */
static bool short_header(struct np_sess *s, const struct cursor *c) {
  uint8_t header[NP_NPRO_HEADER];
  if (c->left > 0) {
    peek(c, header, c->left);
    enum np_drop why = np_frame_precheck(header, c->left);
    if (why != NP_FRAME_OK) {
      if (s->rx_batched > 0) return true;
      np_npro_violation(s, why);
      return false;
    }
  }
  return partial(s, c->left, false, 0);
}

bool np_npro_collect(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  if (s->state == NP_NPRO_AWAIT_CONTROL || s->state >= NP_NPRO_CLOSING) return false;
  struct cursor c = {s->rx.head, 0, s->rx.bytes};
  np_assert(s->rx_batched == 0);
  for (;;) { /* bound: the batch */
    struct np_frame f;
    uint8_t header[NP_NPRO_HEADER];
    if (ss->rx_n == NP_RECORD_BATCH) return true;
    if (c.left < NP_NPRO_HEADER) return short_header(s, &c);
    peek(&c, header, NP_NPRO_HEADER);
    enum np_drop why = judge(s, header, &f);
    if (NP_UNLIKELY(why != NP_FRAME_OK)) {
      if (s->rx_batched > 0) return true; /* what came before it first */
      np_npro_violation(s, why);
      return false;
    }
    if (c.left - NP_NPRO_HEADER < f.length) return partial(s, c.left, true, f.length);
    s->flags &= ~NP_SF_PARTIAL;
    if (!may_take(s, &f)) {
      stall(s);
      return s->rx_batched > 0;
    }
    s->flags &= ~NP_SF_STALLED;
    if (!np_npro_is_open(s)) {
      np_npro_handshake_frame(s, &f);
      return false;
    }
    add_to_batch(s, &f, header, &c);
    if (f.type == NP_NPRO_REKEY) return true; /* the next record needs the next key */
  }
}

static void left_queue(struct np_sess *s, uint32_t n) {
  uint32_t ahead = np_min_u32(s->rx_ahead, n);
  s->rx_ahead -= ahead;
  s->rx_due += n - ahead;
}

void np_npro_rx_drop(struct np_sess *s, uint32_t n) {
  np_bufq_drop(&s->rx, n);
  left_queue(s, n);
}

bool np_npro_rx_take(struct np_sess *s, uint32_t n, struct np_bufq *out) {
  if (!np_bufq_take(&s->rx, n, s->owner->env.pool, out)) return false;
  left_queue(s, n);
  return true;
}

void np_npro_tell_consumed(struct np_sess *s) {
  if (s->owner->pressure) {
    np_sess_dirty(s); /* told once the pool has recovered */
    return;
  }
  uint32_t n = s->rx_due;
  s->rx_due = 0;
  if (s->base.stream != NULL) s->base.stream->ops->consumed(s->base.stream, n);
}

static void handle(struct np_sess *s, const struct np_frame *f, bool ok) {
  if (s->state >= NP_NPRO_CLOSING) { /* its bytes went with the queue */
    np_npro_frame_drop(s, NP_DROP_NPRO_CLOSED);
    return;
  }
  if (NP_UNLIKELY(!ok)) {
    np_npro_violation(s, NP_DROP_NPRO_AUTH);
    return;
  }
  s->owner->env.counters->counter[NP_C_NPRO_BYTES_RX] += f->length - NP_RECORD_TAG;
  if (is_body_type(f->type)) np_npro_body(s, f);
  else np_npro_control(s, f);
}

void np_npro_open_batch(struct np_sessions *ss) {
  uint32_t n = ss->rx_n;
  if (n == 0) return;
  np_record_open(ss->env.crypto, ss->rx_rec, n);
  for (uint32_t i = 0; i < n; i++) {
    struct np_sess *s = ss->rx_slot[i].sess;
    ss->reserved--;
    s->rx_batched--;
    handle(s, &ss->rx_slot[i].frame, ss->rx_rec[i].ok);
    if (s->rx_batched > 0 || s->state >= NP_NPRO_CLOSING) continue;
    take_ahead(s);
    if (s->rx_due > 0) np_npro_tell_consumed(s);
    if (np_npro_is_open(s)) np_npro_pump(s); /* a WINDOW may have come */
  }
  ss->rx_n = 0;
}
