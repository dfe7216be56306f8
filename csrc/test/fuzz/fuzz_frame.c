/* Frame headers: any 16 bytes are decoded or refused; what is accepted encodes
 * back to the same bytes; precheck never refuses what decode accepts. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"
#include "codec/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint32_t n = size > 16 ? 16 : (uint32_t)size;
  enum np_drop early = np_frame_precheck(data, n);
  if (size < 20) return 0;
  uint32_t length_max;
  memcpy(&length_max, data + 16, 4);
  struct np_frame f;
  enum np_drop d = np_frame_decode(data, length_max, &f);
  if (d != NP_FRAME_OK) {
    np_assert(d >= NP_DROP_NPRO_MAGIC);
    np_assert(d <= NP_DROP_NPRO_LENGTH);
    np_assert(early == NP_FRAME_OK || early == d);
    return 0;
  }
  np_assert(early == NP_FRAME_OK);
  np_assert(f.length <= length_max);
  uint8_t back[16];
  np_frame_encode(&f, back);
  np_assert(memcmp(back, data, 16) == 0);
  return 0;
}
