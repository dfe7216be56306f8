/* Internal to this folder: from a record to what an engine runs on. */
#ifndef NP_CRYPTO_STAGE_H
#define NP_CRYPTO_STAGE_H

#include "crypto/engine.h"
#include "crypto/record.h"

/* Nonce (12 bytes) of the direction's next record, and the number moves on. gcm
 * says what dir->aead is. One 16-byte store: the engines load it whole, and a load
 * over several stores that are still on their way waits for the cache.
 * Numbers that are spent end a direction that opens; sealing there is our own mistake. */
NP_INLINE np_pair64 np_nonce_next(struct np_record_dir *dir, bool gcm, bool seal) {
  uint64_t n = dir->seq++;
  if (NP_UNLIKELY(n >= NP_RECORD_SEQ_MAX)) {
    np_assert(!seal);
    dir->failed = 1;
  }
  /* XChaCha: 4 zero bytes, as the base's first 16 went into the subkey. */
  uint64_t fixed = gcm ? np_load_32(dir->nonce) : 0;
  uint64_t low = np_load_64(dir->nonce + (gcm ? 4 : 16)) ^ __builtin_bswap64(n);
  np_pair64 nonce = {fixed | low << 32, low >> 32};
  return nonce;
}

/* Body and tag in the first piece: the usual record. */
NP_INLINE bool np_record_in_one_piece(const struct np_record *r) {
  return (uint64_t)r->body_off + r->body_bytes + NP_RECORD_TAG <= r->buf->len;
}

/* Fills in body and tag of a record in several pieces. A tag that straddles
 * pieces is gathered into scratch (open) or will be written there (seal). */
void np_op_stage_chain(struct np_aead_op *op, const struct np_record *r, uint8_t scratch[NP_RECORD_TAG], bool seal);
/* After sealing: a tag in scratch goes where it belongs. */
void np_op_place_tag(const struct np_aead_op *op, const struct np_record *r, uint8_t scratch[NP_RECORD_TAG]);

NP_INLINE void np_op_stage(struct np_aead_op *op, const struct np_record *r, np_pair64 nonce,
                           uint8_t scratch[NP_RECORD_TAG], bool seal) {
  op->key = r->dir->record_key;
  op->aad = r->header;
  op->aad_bytes = NP_NPRO_HEADER;
  op->bytes = r->body_bytes;
  memcpy(op->nonce, &nonce, sizeof op->nonce);
  if (NP_LIKELY(np_record_in_one_piece(r))) {
    op->body = np_buf_data(r->buf) + r->body_off;
    op->tag = op->body + r->body_bytes;
  } else {
    np_op_stage_chain(op, r, scratch, seal);
  }
}

/* The verdict on one record of a direction, in order: nothing after a failure counts. */
NP_INLINE void np_record_judge(struct np_record *r, bool opened) {
  r->ok = opened && !r->dir->failed;
  if (NP_UNLIKELY(!r->ok)) r->dir->failed = 1;
}

#endif
