/* Building, sealing and handing over frames. Frames are staged in a session's
 * out queue with their records in the core's seal batch; the order of both is
 * the order on the wire, so record numbers fit. Nothing staged is handed to the
 * stream before it is sealed. */
#include "session/session_int.h"

static void tx_list_add(struct np_sess *s) {
  if ((s->flags & NP_SF_TXLIST) != 0) return;
  s->flags |= NP_SF_TXLIST;
  s->tx_next = s->owner->tx_list;
  s->owner->tx_list = s;
}

void np_npro_seal_batch(struct np_sessions *ss) {
  if (ss->tx_n == 0) return;
  np_record_seal(ss->env.crypto, ss->tx_rec, ss->tx_n);
  for (uint32_t i = 0; i < ss->tx_n; i++) ss->tx_sess[i]->flags &= ~NP_SF_UNSEALED;
  ss->tx_n = 0;
}

/* Adds the record of a frame whose bytes lie in s->out; header: its 16 bytes there. */
static void add_record(struct np_sess *s, const struct np_frame *f, struct np_buf *b, uint32_t body_off, uint8_t *header) {
  struct np_sessions *ss = s->owner;
  if (ss->tx_n == NP_RECORD_BATCH) np_npro_seal_batch(ss);
  uint32_t body_bytes = f->length - NP_RECORD_TAG;
  struct np_record *r = &ss->tx_rec[ss->tx_n];
  r->dir = &s->tx_dir;
  r->buf = b;
  r->body_off = body_off;
  r->body_bytes = body_bytes;
  np_frame_encode(f, r->header);
  memcpy(header, r->header, NP_NPRO_HEADER);
  ss->tx_sess[ss->tx_n++] = s;
  s->flags |= NP_SF_UNSEALED;
  s->key_records++;
  s->key_bytes += body_bytes;
  s->frames_tx++;
  s->last_tx_ns = ss->now_ns;
  ss->env.counters->counter[NP_C_NPRO_FRAMES_TX]++;
  ss->env.counters->counter[NP_C_NPRO_BYTES_TX] += body_bytes;
  tx_list_add(s);
}

/* A piece at the end of the out queue with need bytes contiguous; piece_bytes is
 * how long a piece may get. NULL: pool empty. */
static struct np_buf *out_piece(struct np_sess *s, uint32_t need, uint32_t piece_bytes) {
  struct np_buf *b = s->out.tail;
  if (b != NULL && np_buf_tailroom(b) >= need && b->len + need <= piece_bytes) return b;
  b = np_pool_get(s->owner->env.pool);
  if (b == NULL) return NULL;
  np_bufq_add(&s->out, b);
  return b;
}

static void rekey_if_due(struct np_sess *s) {
  if (NP_UNLIKELY(s->key_records >= s->lim.rekey_records || s->key_bytes >= s->lim.rekey_bytes)) (void)np_npro_rekey_tx(s);
}

/* The part of np_npro_tx_small that REKEY itself uses. */
static uint8_t *tx_small(struct np_sess *s, struct np_frame *f, uint32_t body_bytes) {
  uint32_t total = NP_NPRO_HEADER + body_bytes + NP_RECORD_TAG;
  f->length = body_bytes + NP_RECORD_TAG;
  f->flags |= NP_NPRO_F_ENC;
  struct np_buf *b = out_piece(s, total, np_sess_piece_bytes(s));
  if (b == NULL) return NULL;
  uint32_t at = b->len;
  uint8_t *p = np_buf_append(b, total);
  s->out.bytes += total;
  add_record(s, f, b, at + NP_NPRO_HEADER, p);
  return p + NP_NPRO_HEADER;
}

uint8_t *np_npro_tx_small(struct np_sess *s, struct np_frame *f, uint32_t body_bytes) {
  rekey_if_due(s);
  return tx_small(s, f, body_bytes);
}

bool np_npro_tx_control(struct np_sess *s, uint8_t type, uint32_t stream, const void *body, uint32_t body_bytes) {
  struct np_frame f = {.type = type, .stream = stream, .priority = 7};
  uint8_t *p = np_npro_tx_small(s, &f, body_bytes);
  if (p == NULL) return false;
  if (body_bytes > 0) memcpy(p, body, body_bytes);
  return true;
}

bool np_npro_rekey_tx(struct np_sess *s) {
  struct np_frame f = {.type = NP_NPRO_REKEY, .priority = 7};
  if (tx_small(s, &f, 0) == NULL) return false; /* the next frame asks again */
  np_npro_seal_batch(s->owner);
  np_record_dir_rekey(s->owner->env.crypto, &s->tx_dir);
  s->key_records = 0;
  s->key_bytes = 0;
  s->key_ns = s->owner->now_ns;
  s->owner->env.counters->counter[NP_C_NPRO_REKEYS]++;
  return true;
}

/* True when the pool holds what total bytes in pieces need. */
static bool pieces_ok(const struct np_sess *s, uint32_t total, uint32_t piece_bytes) {
  return np_pool_avail(s->owner->env.pool) >= total / piece_bytes + 2;
}

/* Appends n bytes (zeros when src is NULL: room for a tag) over as many pieces as
 * needed; pieces_ok was asked. */
static void out_write(struct np_sess *s, const uint8_t *src, uint32_t n, uint32_t piece_bytes) {
  while (n > 0) { /* bound: the pieces of n bytes */
    struct np_buf *b = out_piece(s, 1, piece_bytes);
    np_assert(b != NULL);
    uint32_t step = np_min_u32(n, np_min_u32(np_buf_tailroom(b), piece_bytes - b->len));
    uint8_t *p = np_buf_append(b, step);
    if (src != NULL) {
      memcpy(p, src, step);
      src += step;
    }
    s->out.bytes += step;
    n -= step;
  }
}

/* Opens a frame of any size: header written later by add_record. */
static uint8_t *begin(struct np_sess *s, uint32_t piece_bytes, struct np_buf **out_b, uint32_t *out_off) {
  struct np_buf *b = out_piece(s, NP_NPRO_HEADER + NP_RECORD_TAG, piece_bytes);
  if (b == NULL) return NULL;
  uint8_t *header = np_buf_append(b, NP_NPRO_HEADER);
  s->out.bytes += NP_NPRO_HEADER;
  *out_b = b;
  *out_off = b->len;
  return header;
}

bool np_npro_tx_copy(struct np_sess *s, struct np_frame *f, const uint8_t *body, uint32_t n) {
  uint32_t piece_bytes = np_sess_piece_bytes(s);
  struct np_buf *b;
  uint32_t off;
  if (!pieces_ok(s, n + 2 * NP_RECORD_TAG, piece_bytes)) return false;
  rekey_if_due(s);
  f->length = n + NP_RECORD_TAG;
  f->flags |= NP_NPRO_F_ENC;
  uint8_t *header = begin(s, piece_bytes, &b, &off);
  if (header == NULL) return false;
  out_write(s, body, n, piece_bytes);
  out_write(s, NULL, NP_RECORD_TAG, piece_bytes);
  add_record(s, f, b, off, header);
  return true;
}

bool np_npro_tx_fragment(struct np_sess *s, struct np_frame *f, struct np_buf *from, uint32_t n) {
  uint32_t piece_bytes = np_sess_piece_bytes(s);
  struct np_buf *b;
  uint32_t off;
  if (!pieces_ok(s, n + 2 * NP_RECORD_TAG, piece_bytes)) return false;
  rekey_if_due(s);
  f->length = n + NP_RECORD_TAG;
  f->flags |= NP_NPRO_F_ENC;
  uint8_t *header = begin(s, piece_bytes, &b, &off);
  if (header == NULL) return false;
  for (uint32_t left = n; left > 0; from = from->next) { /* bound: the item's pieces */
    uint32_t step = np_min_u32(left, from->len);
    out_write(s, np_buf_cdata(from), step, piece_bytes);
    left -= step;
  }
  out_write(s, NULL, NP_RECORD_TAG, piece_bytes);
  add_record(s, f, b, off, header);
  return true;
}

void np_npro_tx_chain(struct np_sess *s, struct np_frame *f, struct np_bufq *chain, uint32_t body_bytes) {
  rekey_if_due(s);
  f->length = body_bytes + NP_RECORD_TAG;
  f->flags |= NP_NPRO_F_ENC;
  struct np_buf *b = chain->head;
  np_assert(b->len >= NP_NPRO_HEADER);
  uint8_t *header = np_buf_data(b);
  np_bufq_add(&s->out, b);
  *chain = (struct np_bufq){0};
  uint32_t off = NP_NPRO_HEADER;
  if (off == b->len && b->next != NULL) {
    b = b->next;
    off = 0;
  }
  add_record(s, f, b, off, header);
}

bool np_npro_tx_clear(struct np_sess *s, uint8_t type, const struct np_buf *body, uint32_t body_bytes) {
  uint32_t piece_bytes = np_sess_piece_bytes(s);
  if (!pieces_ok(s, body_bytes + NP_NPRO_HEADER, piece_bytes)) return false;
  struct np_frame f = {.type = type, .length = body_bytes};
  uint8_t header[NP_NPRO_HEADER];
  np_frame_encode(&f, header);
  out_write(s, header, sizeof header, piece_bytes);
  for (uint32_t left = body_bytes; left > 0; body = body->next) { /* bound: the body's pieces */
    np_assert(body != NULL);
    uint32_t step = np_min_u32(left, body->len);
    out_write(s, np_buf_cdata(body), step, piece_bytes);
    left -= step;
  }
  s->frames_tx++;
  s->last_tx_ns = s->owner->now_ns;
  s->owner->env.counters->counter[NP_C_NPRO_FRAMES_TX]++;
  tx_list_add(s);
  return true;
}

uint32_t np_npro_room(struct np_sess *s) {
  if (s->base.stream == NULL) return 0;
  uint32_t room = s->base.stream->ops->room(s->base.stream);
  return room > s->out.bytes ? room - s->out.bytes : 0;
}

/* Hands over the staged pieces that fit. */
static void send_one(struct np_sess *s) {
  struct np_stream *stream = s->base.stream;
  if (s->out.head == NULL) return;
  if (stream == NULL) {
    np_bufq_free(&s->out);
    return;
  }
  uint32_t room = stream->ops->room(stream);
  struct np_bufq part = {0};
  if (NP_LIKELY(room >= s->out.bytes)) {
    part = s->out;
    s->out = (struct np_bufq){0};
  } else {
    while (s->out.head != NULL && s->out.head->len <= room) { /* bound: the staged pieces */
      struct np_buf *b = s->out.head;
      s->out.head = b->next;
      s->out.bytes -= b->len;
      room -= b->len;
      b->next = NULL;
      np_bufq_add(&part, b);
    }
    if (s->out.head == NULL) s->out.tail = NULL;
    np_sess_dirty(s); /* room between none and enough has no signal of its own */
  }
  /* a refusal means that sending is over; the stream says so with closed */
  if (part.head != NULL) (void)stream->ops->send(stream, part.head, 0);
}

void np_npro_send_all(struct np_sessions *ss) {
  np_npro_seal_batch(ss);
  while (ss->tx_list != NULL) { /* bound: sessions with something staged */
    struct np_sess *s = ss->tx_list;
    ss->tx_list = s->tx_next;
    s->tx_next = NULL;
    s->flags &= ~NP_SF_TXLIST;
    send_one(s);
    if (s->out.head != NULL) continue; /* stays dirty: the next run tries again */
    if (s->state == NP_NPRO_CLOSING) np_npro_finish(s);
  }
}

void np_npro_stage_again(struct np_sess *s) { tx_list_add(s); }
