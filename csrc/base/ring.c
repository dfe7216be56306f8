#include "base/ring.h"

void np_ring_init(struct np_ring *ring, uint32_t count, uint32_t item_bytes) {
  np_assert(((uintptr_t)ring & (NP_CACHE_LINE - 1)) == 0);
  np_assert(count >= 2 && count <= UINT32_C(1) << 24);
  np_assert((count & (count - 1)) == 0);
  np_assert(item_bytes > 0);
  memset(ring, 0, np_ring_bytes(count, item_bytes));
  ring->count = count;
  ring->item_bytes = item_bytes;
}
