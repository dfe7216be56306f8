#include "codec/frame.h"

#include <stdbool.h>

#include "base/bytes.h"

/* Types this version knows, one bit each: 0x01..0x07, 0x10..0x12, 0x20..0x23. */
#define TYPES_KNOWN \
  (UINT64_C(0xfe) | (UINT64_C(0x7) << NP_NPRO_HANDSHAKE_1) | (UINT64_C(0xf) << NP_NPRO_REQUEST))

_Static_assert(NP_NPRO_F_ALL == 0x3f && NP_NPRO_F_LZ4 == 2 && NP_NPRO_F_ZSTD == 4, "np_frame_decode has their bits");

#define MAGIC_LE 0x4f52504eu /* the bytes 'N' 'P' 'R' 'O' as a little-endian load sees them */

/* Rejected headers only: says what is wrong, first field first. */
static NP_COLD enum np_drop reason(uint64_t lo, uint64_t hi, uint32_t length_max) {
  if ((uint32_t)lo != MAGIC_LE) return NP_DROP_NPRO_MAGIC;
  if ((uint8_t)(lo >> 32) != NP_NPRO_VERSION) return NP_DROP_NPRO_VERSION;
  uint8_t flags = (uint8_t)(lo >> 40);
  const uint8_t both = NP_NPRO_F_LZ4 | NP_NPRO_F_ZSTD;
  if ((flags & ~NP_NPRO_F_ALL) != 0 || (flags & both) == both) return NP_DROP_NPRO_FLAGS;
  uint8_t type = (uint8_t)(hi >> 16);
  if (type > 63 || (TYPES_KNOWN >> type & 1) == 0) return NP_DROP_NPRO_TYPE;
  if ((uint8_t)(hi >> 24) > 7) return NP_DROP_NPRO_RESERVED;
  uint32_t length = __builtin_bswap32((uint32_t)(lo >> 48) | (uint32_t)(hi & 0xffff) << 16);
  return length > length_max ? NP_DROP_NPRO_LENGTH : NP_FRAME_OK;
}

enum np_drop np_frame_decode(const uint8_t header[16], uint32_t length_max, struct np_frame *out) {
  /* Both halves in registers; every field is a shift away and the payload stays untouched. */
  uint64_t lo = np_load_64(header);     /* magic 4, version 1, flags 1, length high 2 */
  uint64_t hi = np_load_64(header + 8); /* length low 2, type 1, priority 1, stream 4 */
  uint8_t type = (uint8_t)(hi >> 16);
  uint32_t length = __builtin_bswap32((uint32_t)(lo >> 48) | (uint32_t)hi << 16);
  /* Anything but zero is wrong: start and unknown flags, priority's and type's
   * high bits, both compressions, an unknown type. One branch for all. */
  uint64_t bad = (lo & UINT64_C(0xc0ffffffffff)) ^ (MAGIC_LE | (uint64_t)NP_NPRO_VERSION << 32);
  bad |= hi & UINT64_C(0xf8c00000);
  bad |= lo >> 41 & lo >> 42 & 1;
  bad |= ~(TYPES_KNOWN >> (type & 63)) & 1;
  bad |= length > length_max;
  if (NP_UNLIKELY(bad != 0)) return reason(lo, hi, length_max);
  out->length = length;
  out->stream = __builtin_bswap32((uint32_t)(hi >> 32));
  out->flags = (uint8_t)(lo >> 40);
  out->type = type;
  out->priority = (uint8_t)(hi >> 24);
  return NP_FRAME_OK;
}

enum np_drop np_frame_precheck(const uint8_t *bytes, uint32_t n) {
  static const uint8_t start[5] = {'N', 'P', 'R', 'O', NP_NPRO_VERSION};
  for (uint32_t i = 0; i < n && i < 4; i++) {
    if (bytes[i] != start[i]) return NP_DROP_NPRO_MAGIC;
  }
  return n > 4 && bytes[4] != start[4] ? NP_DROP_NPRO_VERSION : NP_FRAME_OK;
}

void np_frame_encode(const struct np_frame *frame, uint8_t header[16]) {
  uint32_t length = __builtin_bswap32(frame->length);
  uint64_t lo = MAGIC_LE | (uint64_t)NP_NPRO_VERSION << 32 | (uint64_t)frame->flags << 40 |
                (uint64_t)(length & 0xffff) << 48;
  uint64_t hi = (uint64_t)(length >> 16) | (uint64_t)frame->type << 16 | (uint64_t)frame->priority << 24 |
                (uint64_t)__builtin_bswap32(frame->stream) << 32;
  np_pair64 both = {lo, hi};
  memcpy(header, &both, sizeof both);
}
