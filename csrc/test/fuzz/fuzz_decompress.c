/* Compressed bodies from the network, and that what we compress comes back.
 * First byte: bit 0 the algorithm, bit 1 compress first. */
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "codec/compress.h"
#include "codec/frame.h"
#include "fuzz_chain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAW_MAX (64u << 10)

static void there_and_back(struct np_compressor *c, enum np_compression a, int32_t level, const uint8_t *body, uint32_t n) {
  uint8_t *out = malloc(np_compress_bound(n));
  uint8_t *back = malloc(n > 0 ? n : 1);
  uint32_t m = np_compress(c, a, level, body, n, out, np_compress_bound(n));
  if (m > 0) {
    uint32_t raw;
    np_assert(m < n);
    np_assert(np_decompress_size(out, m, RAW_MAX, &raw) == NP_FRAME_OK);
    np_assert(raw == n);
    np_assert(np_decompress(c, a, out, m, back, raw) == NP_FRAME_OK);
    np_assert(memcmp(back, body, n) == 0);
  }
  np_compress_worth(body, n);
  free(out);
  free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct np_compressor *c;
  if (c == NULL) {
    c = np_compressor_init(aligned_alloc(64, np_compressor_bytes(RAW_MAX)), RAW_MAX);
    np_assert(c != NULL);
  }
  if (size < 1 || size > RAW_MAX) return 0;
  enum np_compression a = data[0] & 1 ? NP_COMPRESSION_ZSTD : NP_COMPRESSION_LZ4;
  uint32_t n = (uint32_t)size - 1;
  if (data[0] & 2) {
    there_and_back(c, a, (int32_t)(data[0] >> 2 & 15) - 8, data + 1, n);
    return 0;
  }
  uint32_t raw;
  if (np_decompress_size(data + 1, n, RAW_MAX, &raw) != NP_FRAME_OK) return 0;
  np_assert(raw >= 1);
  np_assert(raw <= RAW_MAX);
  uint8_t *out = malloc(raw);
  np_decompress(c, a, data + 1, n, out, raw);
  free(out);
  return 0;
}
