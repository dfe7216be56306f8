/* The Internet checksum (RFC 1071). Sums are kept as they come from memory, in
 * the host's byte order: RFC 1071 §2(B) makes the folded result right when it is
 * stored the same way. So a 16-bit result here is stored with np_store_16 and
 * never swapped. */
#ifndef NP_BASE_CKSUM_H
#define NP_BASE_CKSUM_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/bytes.h"
#include "base/compiler.h"

/* Adds len bytes to a running sum (0 to begin with). Where a packet is summed
 * in pieces, each piece but the last has an even number of bytes. */
uint64_t np_cksum_add(uint64_t sum, const void *data, size_t len);

/* The same while copying len bytes to dst, which must not overlap: each byte is read once. */
uint64_t np_cksum_copy(uint64_t sum, void *dst, const void *src, size_t len);

/* A sum of bytes that turn out to begin at an odd offset: RFC 1071 §2(B). */
NP_INLINE uint16_t np_cksum_swap(uint16_t folded) { return __builtin_bswap16(folded); }

/* End-around carry addition of 64-bit words. */
NP_INLINE uint64_t np_cksum_add64(uint64_t sum, uint64_t v) {
  sum += v;
  return sum + (sum < v);
}

/* Folds to 16 bits, not complemented: 0xffff over data with a right checksum in it. */
NP_INLINE uint16_t np_cksum_fold(uint64_t sum) {
  sum = (sum >> 32) + (sum & 0xffffffffu);
  sum = (sum >> 32) + (sum & 0xffffffffu);
  uint32_t s = (uint32_t)sum;
  s = (s >> 16) + (s & 0xffffu);
  s = (s >> 16) + (s & 0xffffu);
  return (uint16_t)s;
}

/* The value for the checksum field. */
NP_INLINE uint16_t np_cksum_finish(uint64_t sum) { return (uint16_t)~np_cksum_fold(sum); }

/* Pseudo header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1). No branch
 * on the family: the prefix ::ffff of an IPv4 address held in 16 bytes adds
 * 0xffff, which is nothing in one's complement. */
NP_INLINE uint64_t np_cksum_pseudo(const struct np_addr *a, const struct np_addr *b, uint8_t proto, uint32_t l4_len) {
  uint64_t sum = np_load_64(a->b);
  sum = np_cksum_add64(sum, np_load_64(a->b + 8));
  sum = np_cksum_add64(sum, np_load_64(b->b));
  sum = np_cksum_add64(sum, np_load_64(b->b + 8));
  return np_cksum_add64(sum, (uint64_t)__builtin_bswap32(l4_len) + ((uint64_t)proto << 8));
}

/* Twenty bytes, an IPv4 header without options. */
NP_INLINE uint64_t np_cksum_ip4(const void *hdr) {
  const uint8_t *p = hdr;
  uint64_t sum = np_load_64(p);
  sum = np_cksum_add64(sum, np_load_64(p + 8));
  return np_cksum_add64(sum, np_load_32(p + 16));
}

/* The checksum field after one 16-bit word of the packet changed (RFC 1624 §3,
 * equation 3). All three as they lie in memory. */
NP_INLINE uint16_t np_cksum_update16(uint16_t cksum, uint16_t from, uint16_t to) {
  uint32_t s = (uint32_t)(uint16_t)~cksum + (uint16_t)~from + to;
  s = (s >> 16) + (s & 0xffffu);
  s = (s >> 16) + (s & 0xffffu);
  return (uint16_t)~s;
}

#endif
