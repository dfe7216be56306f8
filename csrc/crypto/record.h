/* AEAD records of NPRO version 2 (WIRE: "Records"), in batches, in place,
 * across chains of buffers. Two engines fill one vtable: libipsec-mb where the
 * CPU has what it needs, libcrypto otherwise; chosen once per core at run time.
 *
 * Thread: an engine belongs to one core. Nothing is allocated after
 * np_crypto_init. Keys are wiped when a direction ends. */
#ifndef NP_CRYPTO_RECORD_H
#define NP_CRYPTO_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "np/buf.h"
#include "np/err.h"
#include "np/npro.h"

struct np_crypto; /* one core's engine, with its cache of expanded keys */

struct np_crypto_config {
  uint32_t key_cache_count; /* expanded keys kept (1 to 2 KiB each); the rest expand on use; default 4,096 */
  bool force_portable;      /* libcrypto even where libipsec-mb would do */
};

size_t np_crypto_bytes(const struct np_crypto_config *config);
/* mem: np_crypto_bytes, any alignment. libcrypto's own contexts, where that engine
 * is taken, come from the heap here and nowhere later.
 * Return: NULL when no engine can start. */
struct np_crypto *np_crypto_init(void *mem, const struct np_crypto_config *config);
void np_crypto_fini(struct np_crypto *crypto);
/* "ipsec-mb avx512", "libcrypto", ...; static storage. */
const char *np_crypto_engine(const struct np_crypto *crypto);

/* One direction of one connection: small, so idle connections cost little; the
 * expanded key lives in the engine's cache while it is used. */
struct np_record_dir {
  uint8_t key[32];      /* Noise split key, or its successor after REKEY */
  uint8_t record_key[32]; /* HKDF(key, "npro2 key"); for XChaCha the HChaCha20 subkey */
  uint8_t nonce[24];    /* base; 12 used for GCM */
  uint64_t seq;         /* next record's n */
  uint32_t cache_slot;  /* hint into the key cache */
  uint32_t cache_stamp;
  uint8_t aead;         /* enum np_aead */
  uint8_t failed;       /* 1: a record did not open, and none will any more */
  uint8_t pad[6];
};

/* Derives record key and nonce base (HKDF-SHA-256), n = 0.
 * Errors: NP_ERR_UNSUPPORTED for an unknown aead. */
enum np_err np_record_dir_init(struct np_crypto *crypto, struct np_record_dir *dir, enum np_aead aead, const uint8_t key[32]);
/* REKEY: key = HKDF(key, "npro2 rekey"), n = 0. */
void np_record_dir_rekey(struct np_crypto *crypto, struct np_record_dir *dir);
void np_record_dir_wipe(struct np_crypto *crypto, struct np_record_dir *dir);

/* One record of a batch. The body runs from body_off (from the start of the
 * data of piece buf) through the chain for body_bytes, then the 16-byte tag in
 * the next bytes of the chain. Works in place. */
struct np_record {
  struct np_record_dir *dir;
  struct np_buf *buf;
  uint32_t body_off;
  uint32_t body_bytes;   /* without the tag */
  uint8_t header[16];    /* as sent: the associated data */
  bool ok;               /* out, for open */
};

#define NP_RECORD_TAG 16u
#define NP_RECORD_BATCH 32u /* records handled at a time inside; n may be more */
/* Numbers end here, far below the wrap. Senders rekey at 2^24; one that never
 * does fails to open, and our own is a broken invariant. */
#define NP_RECORD_SEQ_MAX (UINT64_C(1) << 48)

/* Encrypts n records in order and writes their tags; records of one direction
 * take consecutive numbers in the order given. Cannot fail.
 * The chain must already hold room for the tag (len counted). */
void np_record_seal(struct np_crypto *crypto, struct np_record *records, uint32_t n);
/* Decrypts n records in order; ok says which opened. After a direction's first
 * failure none of its later records counts as opened (ok false), in this batch
 * or later. A body whose record is not ok holds bytes that must not be used.
 * Tags are compared in constant time. */
void np_record_open(struct np_crypto *crypto, struct np_record *records, uint32_t n);

/* For tests with outside vectors: one AEAD operation with explicit key, nonce
 * (12 bytes for GCM, 24 for XChaCha), associated data of any length. */
bool np_aead_seal(struct np_crypto *crypto, enum np_aead aead, const uint8_t key[32], const uint8_t *nonce,
                  const uint8_t *aad, uint32_t aad_bytes, uint8_t *body, uint32_t body_bytes, uint8_t tag[16]);
bool np_aead_open(struct np_crypto *crypto, enum np_aead aead, const uint8_t key[32], const uint8_t *nonce,
                  const uint8_t *aad, uint32_t aad_bytes, uint8_t *body, uint32_t body_bytes, const uint8_t tag[16]);

#endif
