/* Compressed bodies: between chains of buffers and the codec, which wants bytes
 * in a row. The scratch areas are the core's, one body at a time. */
#include "session/session_int.h"

enum np_drop np_npro_inflate(struct np_sess *s, const struct np_frame *f, struct np_bufq *out) {
  struct np_sessions *ss = s->owner;
  uint32_t wire = f->length - NP_RECORD_TAG;
  uint32_t raw;
  /* a body longer than the longest raw size would not have been compressed */
  if (wire > NP_NPRO_RAW_BYTES) return NP_DROP_NPRO_DECOMPRESS;
  np_bufq_copy(&s->rx, 0, ss->scratch_wire, wire);
  np_npro_rx_drop(s, wire);
  /* opcode and context come on top of a payload of the limit's size */
  uint32_t raw_max = np_min_u32(NP_NPRO_RAW_BYTES, s->lim.max_payload + NP_OPCODE_MAX + 1 + UINT16_MAX);
  enum np_drop why = np_decompress_size(ss->scratch_wire, wire, raw_max, &raw);
  if (why != NP_FRAME_OK) return why;
  enum np_compression which = (f->flags & NP_NPRO_F_LZ4) != 0 ? NP_COMPRESSION_LZ4 : NP_COMPRESSION_ZSTD;
  why = np_decompress(ss->compressor, which, ss->scratch_wire, wire, ss->scratch_raw, raw);
  if (why != NP_FRAME_OK) return why;
  uint32_t fit = ss->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  if (np_pool_avail(ss->env.pool) < raw / fit + 2 + 2 * ss->reserved) return NP_DROP_NPRO_NO_BUFFER;
  for (uint32_t done = 0; done < raw;) { /* bound: NP_NPRO_RAW_BYTES in pieces */
    struct np_buf *b = np_pool_get(ss->env.pool);
    np_assert(b != NULL);
    uint32_t step = np_min_u32(fit, raw - done);
    memcpy(np_buf_append(b, step), ss->scratch_raw + done, step);
    np_bufq_add(out, b);
    done += step;
  }
  return NP_FRAME_OK;
}

uint32_t np_npro_deflate(struct np_sess *s, uint32_t n, uint8_t *out_flag) {
  struct np_sessions *ss = s->owner;
  if (!np_compress_worth(ss->scratch_raw, n)) return 0;
  *out_flag = s->lim.compression == NP_COMPRESSION_LZ4 ? NP_NPRO_F_LZ4 : NP_NPRO_F_ZSTD;
  return np_compress(ss->compressor, (enum np_compression)s->lim.compression, s->lim.compression_level,
                     ss->scratch_raw, n, ss->scratch_wire, NP_NPRO_RAW_BYTES);
}
