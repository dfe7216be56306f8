/* Loads and stores of network-order integers at any alignment, and small
 * integer helpers. Packet memory is never cast to a wider type. */
#ifndef NP_BASE_BYTES_H
#define NP_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

#include "base/compiler.h"

NP_INLINE uint16_t np_load_be16(const void *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return __builtin_bswap16(v);
}
NP_INLINE uint32_t np_load_be32(const void *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return __builtin_bswap32(v);
}
NP_INLINE uint64_t np_load_be64(const void *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return __builtin_bswap64(v);
}
NP_INLINE void np_store_be16(void *p, uint16_t v) {
  v = __builtin_bswap16(v);
  memcpy(p, &v, sizeof v);
}
NP_INLINE void np_store_be32(void *p, uint32_t v) {
  v = __builtin_bswap32(v);
  memcpy(p, &v, sizeof v);
}
NP_INLINE void np_store_be64(void *p, uint64_t v) {
  v = __builtin_bswap64(v);
  memcpy(p, &v, sizeof v);
}
/* Host-order fields of our own structures, at any alignment. */
NP_INLINE uint16_t np_load_16(const void *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
NP_INLINE uint32_t np_load_32(const void *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
NP_INLINE uint64_t np_load_64(const void *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
NP_INLINE void np_store_16(void *p, uint16_t v) { memcpy(p, &v, sizeof v); }
NP_INLINE void np_store_32(void *p, uint32_t v) { memcpy(p, &v, sizeof v); }
NP_INLINE void np_store_64(void *p, uint64_t v) { memcpy(p, &v, sizeof v); }

NP_INLINE uint32_t np_min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
NP_INLINE uint32_t np_max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
NP_INLINE uint64_t np_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
NP_INLINE uint64_t np_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian hosts only");

#endif
