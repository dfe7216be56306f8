/* TCP sequence numbers: a type whose only comparisons survive wrap-around
 * (RFC 9293 §3.4). Distances are at most 2^31 - 1. */
#ifndef NP_BASE_SEQ_H
#define NP_BASE_SEQ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

typedef struct {
  uint32_t v;
} np_seq;

NP_INLINE np_seq np_seq_of(uint32_t v) { return (np_seq){v}; }
NP_INLINE np_seq np_seq_add(np_seq a, uint32_t n) { return (np_seq){a.v + n}; }
NP_INLINE np_seq np_seq_sub(np_seq a, uint32_t n) { return (np_seq){a.v - n}; }
/* Signed distance from b to a: positive when a is later. */
NP_INLINE int32_t np_seq_diff(np_seq a, np_seq b) { return (int32_t)(a.v - b.v); }
NP_INLINE bool np_seq_eq(np_seq a, np_seq b) { return a.v == b.v; }
NP_INLINE bool np_seq_lt(np_seq a, np_seq b) { return np_seq_diff(a, b) < 0; }
NP_INLINE bool np_seq_le(np_seq a, np_seq b) { return np_seq_diff(a, b) <= 0; }
NP_INLINE bool np_seq_gt(np_seq a, np_seq b) { return np_seq_diff(a, b) > 0; }
NP_INLINE bool np_seq_ge(np_seq a, np_seq b) { return np_seq_diff(a, b) >= 0; }
NP_INLINE np_seq np_seq_max(np_seq a, np_seq b) { return np_seq_gt(a, b) ? a : b; }
NP_INLINE np_seq np_seq_min(np_seq a, np_seq b) { return np_seq_lt(a, b) ? a : b; }
/* a in [lo, hi) */
NP_INLINE bool np_seq_in(np_seq a, np_seq lo, np_seq hi) { return a.v - lo.v < hi.v - lo.v; }

#endif
