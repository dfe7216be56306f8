/* A core's buffers: a last-in first-out stack of np_buf over memory the caller
 * took at start. Owner: one core. Thread: that core only. Never blocks, never
 * allocates. An empty pool is counted and the caller goes on. */
#ifndef NP_BASE_POOL_H
#define NP_BASE_POOL_H

#include "base/compiler.h"
#include "np/buf.h"
#include "np/counter.h"

struct np_pool {
  struct np_buf **free;  /* stack, free_count entries used */
  uint32_t free_count;
  uint32_t count;        /* buffers in all */
  uint32_t chunk_bytes;  /* power of two, 2,048 or 4,096 */
  uint32_t low_count;    /* fewest free ever */
  uint32_t reserve_count; /* of the free ones, left to np_pool_get_rx: what ports lack for receiving */
  uint8_t *mem;          /* count * chunk_bytes, chunk-aligned */
  struct np_counters *counters;
};

/* Bytes np_pool_init needs for its stack. */
size_t np_pool_stack_bytes(uint32_t count);

/* Owner: caller keeps mem and stack alive as long as the pool.
 * mem: count * chunk_bytes bytes, aligned to chunk_bytes. */
void np_pool_init(struct np_pool *pool, void *mem, uint32_t count, uint32_t chunk_bytes,
                  void *stack, struct np_counters *counters);

/* Where a buffer's data starts when it was just taken: room for every header. */
#define NP_BUF_DATA_OFF (NP_BUF_HDR + NP_BUF_HEADROOM)

/* One buffer with refs 1, no data, NP_BUF_DATA_OFF; the pool is not empty. */
NP_INLINE struct np_buf *np_pool_pop(struct np_pool *pool) {
  struct np_buf *b = pool->free[--pool->free_count];
  if (pool->free_count < pool->low_count) pool->low_count = pool->free_count;
  b->next = NULL;
  b->data_off = NP_BUF_DATA_OFF;
  b->len = 0;
  b->refs = 1;
  b->flags = 0;
  return b;
}

/* How many np_pool_get would give. */
NP_INLINE uint32_t np_pool_avail(const struct np_pool *pool) {
  return pool->free_count > pool->reserve_count ? pool->free_count - pool->reserve_count : 0;
}

/* One buffer as np_pool_pop gives; NULL (counted) when nothing is left beyond the reserve. */
NP_INLINE struct np_buf *np_pool_get(struct np_pool *pool) {
  if (NP_UNLIKELY(pool->free_count <= pool->reserve_count)) {
    pool->counters->counter[NP_C_BUF_EMPTY]++;
    return NULL;
  }
  return np_pool_pop(pool);
}

/* For what is sent at once, takes a header's room and makes others give buffers back: an acknowledgment, a
 * question for a neighbor's address. It may have half the reserve. NULL (counted) when that is gone too. */
NP_INLINE struct np_buf *np_pool_get_control(struct np_pool *pool) {
  if (NP_UNLIKELY(pool->free_count <= pool->reserve_count / 2)) {
    pool->counters->counter[NP_C_BUF_EMPTY]++;
    return NULL;
  }
  return np_pool_pop(pool);
}

/* For a port's receive side, which may have the reserve too: when all else is held by data on its
 * way, what comes in (acknowledgments) is what gives buffers back. NULL when empty. */
NP_INLINE struct np_buf *np_pool_get_rx(struct np_pool *pool) {
  return NP_LIKELY(pool->free_count > 0) ? np_pool_pop(pool) : NULL;
}

/* Drops one reference of this piece (not of what follows in the chain). */
NP_INLINE void np_buf_put(struct np_buf *b) {
  np_assert(b->refs > 0);
  if (--b->refs == 0) {
    struct np_pool *pool = b->pool;
    np_assert(pool->free_count < pool->count);
    pool->free[pool->free_count++] = b;
  }
}

/* Drops one reference of every piece of a chain. Bound: the pool's count. */
void np_buf_put_chain(struct np_buf *b);

NP_INLINE uint8_t *np_buf_data(struct np_buf *b) { return (uint8_t *)b + b->data_off; }
NP_INLINE const uint8_t *np_buf_cdata(const struct np_buf *b) { return (const uint8_t *)b + b->data_off; }
NP_INLINE uint32_t np_buf_headroom(const struct np_buf *b) { return b->data_off - NP_BUF_HDR; }
NP_INLINE uint32_t np_buf_tailroom(const struct np_buf *b) { return b->cap_bytes - b->data_off - b->len; }

/* Moves the start of data back by n bytes (n at most the headroom). */
NP_INLINE uint8_t *np_buf_push(struct np_buf *b, uint32_t n) {
  np_assert(n <= np_buf_headroom(b));
  b->data_off -= n;
  b->len += n;
  return np_buf_data(b);
}
/* Moves the start of data forward by n bytes (n at most len). */
NP_INLINE uint8_t *np_buf_pull(struct np_buf *b, uint32_t n) {
  np_assert(n <= b->len);
  b->data_off += n;
  b->len -= n;
  return np_buf_data(b);
}
/* Appends n uninitialised bytes and returns where they start (n at most the tailroom). */
NP_INLINE uint8_t *np_buf_append(struct np_buf *b, uint32_t n) {
  np_assert(n <= np_buf_tailroom(b));
  uint8_t *p = np_buf_data(b) + b->len;
  b->len += n;
  return p;
}
/* The buffer whose chunk holds address offset off of the pool's memory. */
NP_INLINE struct np_buf *np_pool_at(struct np_pool *pool, uint64_t off) {
  return (struct np_buf *)(void *)(pool->mem + (off & ~((uint64_t)pool->chunk_bytes - 1)));
}
/* Cuts a chain to its bytes [off, off + len); pieces that lie outside go back. len is not 0, and
 * off + len not beyond the chain's end. Return: the piece that is first now. Bound: the chain. */
struct np_buf *np_buf_chain_trim(struct np_buf *b, uint32_t off, uint32_t len);
/* Total bytes of a chain. */
uint32_t np_buf_chain_len(const struct np_buf *b);

#endif
