#include "base/cksum.h"

/* Four lanes of 64 bits take the 32-bit halves of what is loaded, so that no
 * carry is lost: 2^32 rounds would be needed to fill one. On a CPU with 256-bit
 * registers that is two additions for 32 bytes. */
static uint64_t add_wide(uint64_t sum, const uint8_t *p, size_t blocks) {
  np_v4u64 low = {0};
  np_v4u64 high = {0};
  for (size_t i = 0; i < blocks; i++, p += 64) {
    np_v4u64 a;
    np_v4u64 b;
    memcpy(&a, p, sizeof a);
    memcpy(&b, p + 32, sizeof b);
    low += (a & 0xffffffffu) + (b & 0xffffffffu);
    high += (a >> 32) + (b >> 32);
  }
  low += high;
  return np_cksum_add64(sum, low[0] + low[1] + low[2] + low[3]);
}

uint64_t np_cksum_add(uint64_t sum, const void *data, size_t len) {
  const uint8_t *p = data;
  if (len >= 64) {
    size_t blocks = len / 64;
    sum = add_wide(sum, p, blocks);
    p += blocks * 64;
    len -= blocks * 64;
  }
  for (; len >= 8; len -= 8, p += 8) sum = np_cksum_add64(sum, np_load_64(p));
  if (len & 4) {
    sum = np_cksum_add64(sum, np_load_32(p));
    p += 4;
  }
  if (len & 2) {
    sum = np_cksum_add64(sum, np_load_16(p));
    p += 2;
  }
  if (len & 1) sum = np_cksum_add64(sum, *p); /* padded with a zero byte behind it */
  return sum;
}

static uint64_t copy_wide(uint64_t sum, uint8_t *d, const uint8_t *p, size_t blocks) {
  np_v4u64 low = {0};
  np_v4u64 high = {0};
  for (size_t i = 0; i < blocks; i++, p += 64, d += 64) {
    np_v4u64 a;
    np_v4u64 b;
    memcpy(&a, p, sizeof a);
    memcpy(&b, p + 32, sizeof b);
    memcpy(d, &a, sizeof a);
    memcpy(d + 32, &b, sizeof b);
    low += (a & 0xffffffffu) + (b & 0xffffffffu);
    high += (a >> 32) + (b >> 32);
  }
  low += high;
  return np_cksum_add64(sum, low[0] + low[1] + low[2] + low[3]);
}

uint64_t np_cksum_copy(uint64_t sum, void *dst, const void *src, size_t len) {
  const uint8_t *p = src;
  uint8_t *d = dst;
  size_t wide = len & ~(size_t)63;
  if (wide != 0) sum = copy_wide(sum, d, p, wide / 64);
  memcpy(d + wide, p + wide, len - wide);
  return np_cksum_add(sum, p + wide, len - wide); /* the last bytes are in a register or the nearest cache */
}
