/* Records cut anywhere. Bytes 0 to 4: AEAD and engine, tamper position, first
 * piece, further pieces, records in the batch; the rest is body. Sealing with
 * one engine and opening with the other gives the body back, unless a byte was
 * changed: then nothing of the direction opens from there on. */
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "codec/frame.h"
#include "crypto/record.h"
#include "fuzz_chain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MAX = 40, BODY_MAX = 2000 };

static struct np_crypto *engine(bool portable) {
  struct np_crypto_config config = {.key_cache_count = 2, .force_portable = portable};
  struct np_crypto *c = np_crypto_init(malloc(np_crypto_bytes(&config)), &config);
  np_assert(c != NULL);
  return c;
}

static struct np_record record(struct np_record_dir *dir, const uint8_t *body, uint32_t n, uint32_t first, uint32_t piece) {
  uint8_t whole[BODY_MAX + NP_RECORD_TAG] = {0};
  if (n > 0) memcpy(whole, body, n);
  struct np_record r = {.dir = dir, .body_bytes = n, .buf = fuzz_chain(whole, n + NP_RECORD_TAG, first, piece)};
  struct np_frame f = {.length = n + NP_RECORD_TAG, .flags = NP_NPRO_F_ENC, .type = NP_NPRO_DATA, .stream = 1};
  np_frame_encode(&f, r.header);
  return r;
}

static void flip(struct np_buf *b, uint32_t at) {
  while (at >= b->len) {
    at -= b->len;
    b = b->next;
  }
  ((uint8_t *)b + b->data_off)[at] ^= 0x10;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct np_crypto *both[2];
  if (both[0] == NULL) {
    both[0] = engine(false);
    both[1] = engine(true);
  }
  if (size < 5 || size - 5 > BODY_MAX) return 0;
  uint32_t n = (uint32_t)size - 5;
  uint32_t records = 1 + data[4] % RECORDS_MAX;
  struct np_crypto *a = both[data[0] >> 1 & 1];
  struct np_crypto *b = both[data[0] >> 2 & 1];
  struct np_record_dir tx;
  struct np_record_dir rx;
  static const uint8_t key[32] = {7};
  enum np_aead aead = data[0] & 1 ? NP_AEAD_AES_256_GCM : NP_AEAD_XCHACHA20_POLY1305;
  np_assert(np_record_dir_init(a, &tx, aead, key) == NP_ERR_OK);
  np_assert(np_record_dir_init(b, &rx, aead, key) == NP_ERR_OK);
  struct np_record r[RECORDS_MAX];
  for (uint32_t i = 0; i < records; i++) r[i] = record(&tx, data + 5, n * (i + 1) / records, data[2], 1 + data[3]);
  np_record_seal(a, r, records);
  uint32_t bad = data[0] & 8 ? data[1] % records : records;
  if (bad < records) flip(r[bad].buf, data[1] % (r[bad].body_bytes + NP_RECORD_TAG));
  for (uint32_t i = 0; i < records; i++) r[i].dir = &rx;
  np_record_open(b, r, records);
  for (uint32_t i = 0; i < records; i++) {
    np_assert(r[i].ok == (i < bad));
    if (r[i].ok) {
      uint8_t got[BODY_MAX + NP_RECORD_TAG];
      fuzz_chain_read(r[i].buf, got);
      np_assert(memcmp(got, data + 5, r[i].body_bytes) == 0);
    }
    fuzz_chain_free(r[i].buf);
  }
  np_record_dir_wipe(a, &tx);
  np_record_dir_wipe(b, &rx);
  return 0;
}
