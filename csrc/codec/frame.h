/* NPRO version 2 frame headers: 16 bytes, big-endian. Decoding never looks at
 * the payload. README.md in this folder is the description. */
#ifndef NP_CODEC_FRAME_H
#define NP_CODEC_FRAME_H

#include <stdint.h>

#include "np/counter.h"
#include "np/npro.h"

struct np_frame {
  uint32_t length; /* bytes after the header */
  uint32_t stream;
  uint8_t flags;
  uint8_t type;
  uint8_t priority;
};

#define NP_FRAME_OK NP_DROP_COUNT

/* Return: NP_FRAME_OK or NP_DROP_NPRO_{MAGIC,VERSION,FLAGS,TYPE,RESERVED,LENGTH}.
 * length_max: largest length accepted. */
enum np_drop np_frame_decode(const uint8_t header[16], uint32_t length_max, struct np_frame *out);
/* Judges what has arrived of a header (0 to 16 bytes): a wrong magic or version shows
 * before the header is whole. Return: NP_FRAME_OK when nothing is wrong so far. */
enum np_drop np_frame_precheck(const uint8_t *bytes, uint32_t n);
void np_frame_encode(const struct np_frame *frame, uint8_t header[16]);

#endif
