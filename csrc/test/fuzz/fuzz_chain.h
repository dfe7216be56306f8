/* Chains for fuzz targets: each piece in memory of exactly its size. */
#ifndef NP_FUZZ_CHAIN_H
#define NP_FUZZ_CHAIN_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "np/buf.h"

/* Pieces of first bytes, then of piece (at least 1) each. */
static inline struct np_buf *fuzz_chain(const uint8_t *data, uint32_t n, uint32_t first, uint32_t piece) {
  struct np_buf *head = NULL;
  struct np_buf **link = &head;
  uint32_t want = first;
  do {
    uint32_t len = n < want ? n : want;
    struct np_buf *b = calloc(1, sizeof *b + len);
    np_assert(b != NULL);
    b->data_off = NP_BUF_HDR;
    b->len = len;
    b->cap_bytes = NP_BUF_HDR + len;
    if (len > 0) memcpy((uint8_t *)b + NP_BUF_HDR, data, len);
    data += len;
    n -= len;
    *link = b;
    link = &b->next;
    want = piece;
  } while (n > 0);
  return head;
}

static inline void fuzz_chain_read(const struct np_buf *b, uint8_t *out) {
  for (; b != NULL; b = b->next) {
    memcpy(out, (const uint8_t *)b + b->data_off, b->len);
    out += b->len;
  }
}

static inline void fuzz_chain_free(struct np_buf *b) {
  while (b != NULL) {
    struct np_buf *next = b->next;
    free(b);
    b = next;
  }
}

#endif
