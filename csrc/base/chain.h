/* Data in several pieces: buffers linked by np_buf.next. A received packet is a chain when it is
 * longer than a buffer (jumbo frames, reassembled datagrams, segments put together); its first
 * piece then holds every header, the others payload only.
 *
 * Thread: the core that owns the buffers. Each loop is bound by the chain, and that by its pool. */
#ifndef NP_BASE_CHAIN_H
#define NP_BASE_CHAIN_H

#include "base/pool.h"

/* Bytes in all; quick for the usual single piece. */
NP_INLINE uint32_t np_buf_total(const struct np_buf *b) {
  return NP_LIKELY(b->next == NULL) ? b->len : np_buf_chain_len(b);
}

/* Adds len bytes from byte off of the chain's data on to a running Internet checksum
 * (base/cksum.h). Pieces may be of odd length. The chain has off + len bytes at least. */
uint64_t np_buf_cksum(uint64_t sum, const struct np_buf *b, uint32_t off, uint32_t len);

/* Cuts the chain to its first len bytes; pieces that are left with nothing are given back (all but the
 * first). Nobody else holds them. */
void np_buf_trim(struct np_buf *b, uint32_t len);

/* Copies len bytes from byte off on. The chain has that many. */
void np_buf_copy(const struct np_buf *b, uint32_t off, void *out, uint32_t len);

/* The same bytes in one piece: the first one where they fit behind its data, else a new buffer that
 * leaves the room for headers that np_pool_get does. The new one gets flags, iface, l3_off and l4_off (moved
 * along), and rx_ns of the first. b itself when it is one piece, when they fit nowhere, or without a buffer.
 * Owner: takes over b (refs 1), hands over what it returns. */
struct np_buf *np_buf_linear(struct np_buf *b);
/* Buffers of a chain. */
NP_INLINE uint32_t np_buf_pieces(const struct np_buf *b) {
  uint32_t n = 0;
  for (; b != NULL; b = b->next) n++; /* bound: the chain */
  return n;
}
/* The bytes of chain b, data only, in new buffers, each but the last full; b goes back to the pool.
 * NULL: too few buffers, and b is as it was. */
struct np_buf *np_buf_pack(struct np_buf *b);

#endif
