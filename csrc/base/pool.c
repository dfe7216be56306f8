#include "base/pool.h"

#include <string.h>

size_t np_pool_stack_bytes(uint32_t count) { return (size_t)count * sizeof(struct np_buf *); }

void np_pool_init(struct np_pool *pool, void *mem, uint32_t count, uint32_t chunk_bytes,
                  void *stack, struct np_counters *counters) {
  np_assert(chunk_bytes == 2048 || chunk_bytes == 4096);
  np_assert(((uintptr_t)mem & (chunk_bytes - 1)) == 0);
  *pool = (struct np_pool){
      .free = stack,
      .free_count = count,
      .count = count,
      .chunk_bytes = chunk_bytes,
      .low_count = count,
      .mem = mem,
      .counters = counters,
  };
  for (uint32_t i = 0; i < count; i++) {
    struct np_buf *b = (struct np_buf *)(void *)(pool->mem + (size_t)i * chunk_bytes);
    memset(b, 0, sizeof *b);
    b->pool = pool;
    b->data_off = NP_BUF_DATA_OFF;
    b->cap_bytes = chunk_bytes;
    b->index = i;
    pool->free[count - 1 - i] = b; /* the first one taken is the first in memory */
  }
}

void np_buf_put_chain(struct np_buf *b) {
  if (b == NULL) return;
  uint32_t bound = b->pool->count;
  while (b != NULL) {
    np_assert(bound > 0);
    bound--;
    struct np_buf *next = b->next;
    np_buf_put(b);
    b = next;
  }
}

struct np_buf *np_buf_chain_trim(struct np_buf *b, uint32_t off, uint32_t len) {
  np_assert(len > 0);
  while (off >= b->len) { /* bound: the chain, which holds off + len bytes */
    struct np_buf *next = b->next;
    off -= b->len;
    np_buf_put(b);
    np_assert(next != NULL);
    b = next;
  }
  np_buf_pull(b, off);
  struct np_buf *last = b;
  while (last->len < len) { /* bound: the same */
    len -= last->len;
    last = last->next;
    np_assert(last != NULL);
  }
  last->len = len;
  np_buf_put_chain(last->next);
  last->next = NULL;
  return b;
}

uint32_t np_buf_chain_len(const struct np_buf *b) {
  uint32_t len = 0;
  for (; b != NULL; b = b->next) len += b->len; /* bound: the pool's count */
  return len;
}
