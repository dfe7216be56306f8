/* A small generator (xoshiro256**) for jitter, port choice and simulation:
 * deterministic from its seed, never for secrets. */
#ifndef NP_BASE_RNG_H
#define NP_BASE_RNG_H

#include <stdint.h>

#include "base/compiler.h"

struct np_rng {
  uint64_t s[4];
};

/* splitmix64: one step of state, one well-mixed number; also turns one seed into many. */
NP_INLINE uint64_t np_splitmix64(uint64_t *state) {
  uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

NP_INLINE void np_rng_init(struct np_rng *r, uint64_t seed) {
  for (uint32_t i = 0; i < 4; i++) r->s[i] = np_splitmix64(&seed);
}

NP_INLINE uint64_t np_rng_u64(struct np_rng *r) {
  uint64_t x = r->s[1] * 5;
  uint64_t out = (x << 7 | x >> 57) * 9;
  uint64_t t = r->s[1] << 17;
  r->s[2] ^= r->s[0];
  r->s[3] ^= r->s[1];
  r->s[1] ^= r->s[2];
  r->s[0] ^= r->s[3];
  r->s[2] ^= t;
  r->s[3] = r->s[3] << 45 | r->s[3] >> 19;
  return out;
}

NP_INLINE uint32_t np_rng_u32(struct np_rng *r) { return (uint32_t)(np_rng_u64(r) >> 32); }

/* 0..n-1, n > 0. The bias of at most n / 2^32 does not matter here. */
NP_INLINE uint32_t np_rng_below(struct np_rng *r, uint32_t n) {
  return (uint32_t)(((np_rng_u64(r) >> 32) * n) >> 32);
}

#endif
