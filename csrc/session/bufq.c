/* Queues of buffer pieces: cutting frames out of received chains. */
#include "session/session_int.h"

void np_bufq_add(struct np_bufq *q, struct np_buf *chain) {
  if (chain == NULL) return;
  if (q->tail != NULL) {
    q->tail->next = chain;
  } else {
    q->head = chain;
  }
  for (struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: the pool's count */
    q->bytes += b->len;
    q->tail = b;
  }
}

/* Unlinks the first piece. */
static struct np_buf *pop(struct np_bufq *q) {
  struct np_buf *b = q->head;
  q->head = b->next;
  if (q->head == NULL) q->tail = NULL;
  q->bytes -= b->len;
  b->next = NULL;
  return b;
}

void np_bufq_drop(struct np_bufq *q, uint32_t n) {
  np_assert(n <= q->bytes);
  while (n > 0) { /* bound: the pieces of n bytes */
    struct np_buf *b = q->head;
    if (b->len <= n) {
      n -= b->len;
      np_buf_put(pop(q));
    } else {
      np_buf_pull(b, n);
      q->bytes -= n;
      n = 0;
    }
  }
}

void np_bufq_copy(const struct np_bufq *q, uint32_t off, void *dst, uint32_t n) {
  np_assert(off <= q->bytes);
  np_assert(n <= q->bytes - off);
  uint8_t *d = dst;
  const struct np_buf *b = q->head;
  while (n > 0) { /* bound: the pieces of off + n bytes */
    if (off >= b->len) {
      off -= b->len;
      b = b->next;
      continue;
    }
    uint32_t step = np_min_u32(n, b->len - off);
    memcpy(d, np_buf_cdata(b) + off, step);
    d += step;
    n -= step;
    off = 0;
    b = b->next;
  }
}

void np_bufq_move(struct np_bufq *q, struct np_bufq *out) {
  struct np_buf *b = pop(q);
  if (out->tail != NULL) {
    out->tail->next = b;
  } else {
    out->head = b;
  }
  out->tail = b;
  out->bytes += b->len;
}

/* A buffer with a copy of n bytes; the reserve in front is NP_BUF_HEADROOM. */
static struct np_buf *copy_of(struct np_pool *pool, const uint8_t *p, uint32_t n) {
  struct np_buf *b = np_pool_get(pool);
  if (b == NULL) return NULL;
  memcpy(np_buf_append(b, n), p, n);
  return b;
}

bool np_bufq_take(struct np_bufq *q, uint32_t n, struct np_pool *pool, struct np_bufq *out) {
  np_assert(n > 0);
  np_assert(n <= q->bytes);
  /* find the piece the cut falls into, and split it first: then nothing can fail */
  uint32_t left = n;
  struct np_buf *prev = NULL;
  struct np_buf *b = q->head;
  while (b->len < left) { /* bound: the pieces of n bytes */
    left -= b->len;
    prev = b;
    b = b->next;
  }
  if (left < b->len) {
    uint32_t rest = b->len - left;
    if (left <= rest || rest > b->cap_bytes - NP_BUF_DATA_OFF) { /* the front side moves out */
      if (left > b->cap_bytes - NP_BUF_DATA_OFF) return false;
      struct np_buf *front = copy_of(pool, np_buf_cdata(b), left);
      if (front == NULL) return false;
      np_buf_pull(b, left);
      front->next = b;
      if (prev != NULL) prev->next = front;
      else q->head = front;
    } else {
      struct np_buf *back = copy_of(pool, np_buf_cdata(b) + left, rest);
      if (back == NULL) return false;
      b->len = left;
      back->next = b->next;
      b->next = back;
      if (q->tail == b) q->tail = back;
    }
  }
  *out = (struct np_bufq){0};
  while (out->bytes < n) np_bufq_move(q, out); /* bound: the pieces of n bytes */
  return true;
}

void np_bufq_free(struct np_bufq *q) {
  np_buf_put_chain(q->head);
  *q = (struct np_bufq){0};
}

/* Two pieces in a row that are not packed have more than pack_bytes together. */
static bool pack(struct np_bufq *q, const struct np_buf *b, uint32_t pack_bytes) {
  struct np_buf *tail = q->tail;
  if (tail == NULL || b->len > pack_bytes || tail->len > pack_bytes - b->len || np_buf_tailroom(tail) < b->len) return false;
  memcpy(np_buf_append(tail, b->len), np_buf_cdata(b), b->len);
  q->bytes += b->len;
  return true;
}

bool np_bufq_intake(struct np_bufq *q, struct np_buf *chain, struct np_pool *pool, uint32_t pack_bytes) {
  while (chain != NULL) { /* bound: the pool's count */
    struct np_buf *b = chain;
    chain = b->next;
    b->next = NULL;
    if (NP_UNLIKELY(b->len == 0) || pack(q, b, pack_bytes)) {
      np_buf_put(b);
      continue;
    }
    if (NP_UNLIKELY(b->refs != 1)) {
      uint32_t fit = b->cap_bytes - NP_BUF_DATA_OFF;
      /* a piece too long for the default headroom is copied as two */
      uint32_t first = np_min_u32(fit, b->len);
      struct np_buf *one = copy_of(pool, np_buf_cdata(b), first);
      struct np_buf *two = first < b->len ? copy_of(pool, np_buf_cdata(b) + first, b->len - first) : NULL;
      bool failed = one == NULL || (first < b->len && two == NULL);
      np_buf_put(b);
      if (failed) {
        np_buf_put_chain(one);
        np_buf_put_chain(two);
        np_buf_put_chain(chain);
        return false;
      }
      one->next = two;
      b = one;
    }
    np_bufq_add(q, b);
  }
  return true;
}
