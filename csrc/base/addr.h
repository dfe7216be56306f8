/* Addresses are 16 bytes inside, whatever the family: IPv4 is held as
 * ::ffff:a.b.c.d (RFC 4291 §2.5.5.2), so one code path serves both. */
#ifndef NP_BASE_ADDR_H
#define NP_BASE_ADDR_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/compiler.h"

struct np_addr {
  uint8_t b[16];
};

struct np_mac {
  uint8_t b[6];
};

/* A connection's four-tuple, seen from here. */
struct np_flow {
  struct np_addr local;
  struct np_addr remote;
  uint16_t local_port; /* host order */
  uint16_t remote_port;
};
_Static_assert(sizeof(struct np_flow) == 36, "np_flow has no padding and is compared as bytes");

NP_INLINE bool np_addr_eq(const struct np_addr *a, const struct np_addr *b) {
  return ((np_load_64(a->b) ^ np_load_64(b->b)) | (np_load_64(a->b + 8) ^ np_load_64(b->b + 8))) == 0;
}
NP_INLINE bool np_addr_is_v4(const struct np_addr *a) {
  return np_load_64(a->b) == 0 && np_load_be32(a->b + 8) == 0x0000ffffu;
}
NP_INLINE bool np_addr_is_zero(const struct np_addr *a) {
  return (np_load_64(a->b) | np_load_64(a->b + 8)) == 0;
}
NP_INLINE struct np_addr np_addr_from_v4_be(const void *p) {
  struct np_addr a; /* two wide stores, because it is soon read in wide loads */
  np_store_64(a.b, 0);
  np_store_64(a.b + 8, UINT64_C(0xffff0000) | (uint64_t)np_load_32(p) << 32);
  return a;
}
NP_INLINE struct np_addr np_addr_from_v6(const void *p) {
  struct np_addr a;
  memcpy(a.b, p, 16);
  return a;
}
NP_INLINE bool np_flow_eq(const struct np_flow *a, const struct np_flow *b) {
  return memcmp(a, b, sizeof *a) == 0;
}

#endif
