/* Internal to this folder: what an engine does for the record layer. An engine
 * knows keys, nonces and bytes; records, directions and numbers stay in
 * record.c. One instance per core, in memory the core gave. */
#ifndef NP_CRYPTO_ENGINE_H
#define NP_CRYPTO_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/pool.h"

/* One AEAD operation, in place. The body is body..body+bytes where it lies in
 * one piece; else body is NULL and it runs from off in buf through the chain. */
struct np_aead_op {
  const uint8_t *key;  /* 32 bytes; ChaCha20-Poly1305 only */
  const uint8_t *aad;
  uint8_t *body;
  struct np_buf *buf;
  uint8_t *tag;        /* 16 bytes; seal writes it, open compares with it in constant time */
  uint32_t off;
  uint32_t bytes;
  uint32_t aad_bytes;
  uint8_t nonce[16];   /* 12 used */
  uint8_t calc[16];    /* the engine's: tag computed by open */
  bool ok;             /* out, open only */
};

NP_INLINE bool np_tag_equal(const uint8_t a[16], const uint8_t b[16]) {
  return ((np_load_64(a) ^ np_load_64(b)) | (np_load_64(a + 8) ^ np_load_64(b + 8))) == 0;
}

struct np_key_cache;
struct np_record;

struct np_engine {
  const char *(*name)(const void *state);
  size_t (*state_bytes)(void);
  /* slot_bytes: of one expanded AES-256-GCM key, a multiple of 64. */
  size_t slot_bytes;
  /* mem: state_bytes, 64-byte aligned. Return: false when this CPU or library cannot. */
  bool (*init)(void *state);
  void (*fini)(void *state);
  /* Slots: slot_open once each at start (may allocate), slot_expand on every new
   * key (may not), slot_wipe when the key is dead, slot_close once at the end. */
  bool (*slot_open)(void *state, void *slot);
  void (*slot_close)(void *state, void *slot);
  void (*slot_expand)(void *state, void *slot, const uint8_t key[32]);
  void (*slot_wipe)(void *state, void *slot);
  /* One operation with an expanded key. What it leaves in scratch contexts it wipes. */
  void (*gcm)(void *state, const void *slot, struct np_aead_op *op, bool seal);
  /* n operations, NP_RECORD_BATCH at most; wipes as above. */
  void (*chacha)(void *state, struct np_aead_op *ops, uint32_t n, bool seal);
  /* Optional: the GCM records that records begins with (the first is one, and of n
   * NP_RECORD_BATCH at most), without an operation made of each. Return: how many
   * it did. Where NULL, record.c makes operations and calls gcm. */
  uint32_t (*gcm_batch)(void *state, struct np_key_cache *cache, struct np_record *records, uint32_t n, bool seal);
};

const struct np_engine *np_engine_ipsecmb(void);
const struct np_engine *np_engine_portable(void);

/* Next piece of a body that runs through a chain: sets *p, moves *buf and *off
 * on. left: bytes of the body still to come, at least 1. Return: bytes at *p.
 * Bound: pieces of the chain; the caller guarantees the chain holds left bytes. */
NP_INLINE uint32_t np_chain_next(struct np_buf **buf, uint32_t *off, uint32_t left, uint8_t **p) {
  struct np_buf *b = *buf;
  np_assert(b != NULL);
  while (*off >= b->len) {
    *off -= b->len;
    b = b->next;
    np_assert(b != NULL);
  }
  uint32_t n = np_min_u32(left, b->len - *off);
  *p = np_buf_data(b) + *off;
  *buf = b;
  *off += n;
  return n;
}

#endif
