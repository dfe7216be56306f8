/* Compressed bodies: u32 raw size, then one LZ4 block or one zstd frame.
 * README.md in this folder is the description.
 *
 * A compressor is one core's: contexts of both algorithms in memory the caller
 * took at start. Input and output are contiguous; who holds chains copies. */
#ifndef NP_CODEC_COMPRESS_H
#define NP_CODEC_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "np/counter.h"
#include "np/npro.h"

#define NP_COMPRESS_PREFIX 4u    /* the raw size */
#define NP_COMPRESS_LEVEL_MAX 3  /* zstd; higher ones take tens of MiB a core and too long for a poll loop */
#define NP_COMPRESS_LEVEL_MIN (-7)

struct np_compressor;

/* Bytes for bodies of raw_max_bytes at most, 64-byte aligned. About 1.4 MiB. */
size_t np_compressor_bytes(uint32_t raw_max_bytes);
/* Owner: caller keeps mem. Return: NULL when zstd takes the memory for too small. */
struct np_compressor *np_compressor_init(void *mem, uint32_t raw_max_bytes);

/* Whether trying is worth it: looks at 512 bytes at most, spread over the body.
 * Random, encrypted and already compressed data says no. */
bool np_compress_worth(const uint8_t *body, uint32_t n);
/* Bytes np_compress may need at out for a body of n, prefix included, when it must not give up for room. */
uint32_t np_compress_bound(uint32_t n);

/* Compresses n bytes of body (1 to raw_max_bytes) into out, prefix included.
 * level: zstd's, clamped to the range above; LZ4 takes it as acceleration when
 * negative. Return: bytes written, 0 when it would not be shorter than n or does
 * not fit into cap: then the body goes as it is. */
uint32_t np_compress(struct np_compressor *compressor, enum np_compression algorithm, int32_t level,
                     const uint8_t *body, uint32_t n, uint8_t *out, uint32_t cap);

/* The raw size a compressed body claims. Return: NP_FRAME_OK, or
 * NP_DROP_NPRO_DECOMPRESS when the prefix is cut, 0, or over raw_max. Take
 * memory for the result only after this. */
enum np_drop np_decompress_size(const uint8_t *body, uint32_t n, uint32_t raw_max, uint32_t *out_raw);
/* Decompresses to out, which holds raw bytes: what np_decompress_size said.
 * Return: NP_FRAME_OK when the result has exactly that size and nothing of the
 * body is left over, else NP_DROP_NPRO_DECOMPRESS. */
enum np_drop np_decompress(struct np_compressor *compressor, enum np_compression algorithm, const uint8_t *body,
                           uint32_t n, uint8_t *out, uint32_t raw);

#endif
