/* Single-producer single-consumer ring of fixed-size items, between a core and
 * Go or between two cores. Header in include/np/ring.h, because Go maps it. */
#ifndef NP_BASE_RING_H
#define NP_BASE_RING_H

#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "np/ring.h"

/* Bytes for a ring of count items (power of two) of item_bytes. */
NP_INLINE size_t np_ring_bytes(uint32_t count, uint32_t item_bytes) {
  return sizeof(struct np_ring) + (size_t)count * item_bytes;
}

/* mem: np_ring_bytes, cache-line aligned. count: power of two, 2 to 2^24. */
void np_ring_init(struct np_ring *ring, uint32_t count, uint32_t item_bytes);

/* Producer: slots free now, looking at the consumer's index only when the
 * cached one says fewer than want. */
NP_INLINE uint32_t np_ring_room(struct np_ring *r, uint32_t want) {
  uint32_t used = r->prod_head - r->prod_cached_cons;
  if (r->count - used < want) {
    /* acquire pairs with the consumer's release in np_ring_consume */
    r->prod_cached_cons = __atomic_load_n(&r->cons, __ATOMIC_ACQUIRE);
    used = r->prod_head - r->prod_cached_cons;
  }
  return r->count - used;
}
/* Producer: slot i (0 based) of those not yet published. */
NP_INLINE void *np_ring_slot(struct np_ring *r, uint32_t i) {
  return (uint8_t *)(r + 1) + (size_t)((r->prod_head + i) & (r->count - 1)) * r->item_bytes;
}
/* Producer: publishes the next n slots. */
NP_INLINE void np_ring_publish(struct np_ring *r, uint32_t n) {
  r->prod_head += n;
  /* release pairs with the consumer's acquire in np_ring_avail */
  __atomic_store_n(&r->prod, r->prod_head, __ATOMIC_RELEASE);
}
/* Consumer: items readable now. */
NP_INLINE uint32_t np_ring_avail(struct np_ring *r) {
  uint32_t n = r->cons_cached_prod - r->cons_head;
  if (n == 0) {
    r->cons_cached_prod = __atomic_load_n(&r->prod, __ATOMIC_ACQUIRE);
    n = r->cons_cached_prod - r->cons_head;
  }
  return n;
}
/* Consumer: item i (0 based) of those readable. */
NP_INLINE void *np_ring_item(struct np_ring *r, uint32_t i) {
  return (uint8_t *)(r + 1) + (size_t)((r->cons_head + i) & (r->count - 1)) * r->item_bytes;
}
/* Consumer: gives n items back to the producer. */
NP_INLINE void np_ring_consume(struct np_ring *r, uint32_t n) {
  r->cons_head += n;
  __atomic_store_n(&r->cons, r->cons_head, __ATOMIC_RELEASE);
}

#endif
