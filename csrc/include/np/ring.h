/* Layout of a single-producer single-consumer ring shared with Go. Items follow
 * the header. Indices run freely and wrap at 2^32; slot = index & (count - 1). */
#ifndef NP_RING_H
#define NP_RING_H

#include <stdint.h>

struct np_ring {
  /* producer's line */
  _Alignas(64) uint32_t prod; /* published; atomic */
  uint32_t prod_head;         /* producer's own copy */
  uint32_t prod_cached_cons;
  /* consumer's line */
  _Alignas(64) uint32_t cons; /* consumed; atomic */
  uint32_t cons_head;
  uint32_t cons_cached_prod;
  uint32_t cons_sleeping;     /* atomic: 1 when the consumer sleeps and wants the eventfd written */
  /* read-only after init */
  _Alignas(64) uint32_t count;
  uint32_t item_bytes;
};
_Static_assert(sizeof(struct np_ring) == 192, "np_ring is three cache lines");

#endif
