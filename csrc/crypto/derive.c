/* HKDF-SHA-256 and HChaCha20.
 *
 * SHA-256 comes from libcrypto's low-level calls, which OpenSSL 3 marks as
 * deprecated: the EVP ones allocate a context in each init (3.0), and nothing
 * on a core may allocate once it runs. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "crypto/derive.h"

#include <openssl/sha.h>
#include <string.h>

#include "base/bytes.h"

#define BLOCK 64u
#define DIGEST 32u

struct hmac {
  SHA256_CTX inner;
  SHA256_CTX outer;
};

static void hmac_init(struct hmac *h, const uint8_t *key, uint32_t key_bytes) {
  uint8_t pad[BLOCK] = {0};
  if (key_bytes > BLOCK) {
    SHA256_CTX c;
    SHA256_Init(&c);
    SHA256_Update(&c, key, key_bytes);
    SHA256_Final(pad, &c);
    explicit_bzero(&c, sizeof c);
  } else if (key_bytes > 0) {
    memcpy(pad, key, key_bytes);
  }
  for (uint32_t i = 0; i < BLOCK; i++) pad[i] ^= 0x36;
  SHA256_Init(&h->inner);
  SHA256_Update(&h->inner, pad, BLOCK);
  for (uint32_t i = 0; i < BLOCK; i++) pad[i] ^= 0x36 ^ 0x5c;
  SHA256_Init(&h->outer);
  SHA256_Update(&h->outer, pad, BLOCK);
  explicit_bzero(pad, sizeof pad);
}

static void hmac_final(struct hmac *h, uint8_t out[DIGEST]) {
  SHA256_Final(out, &h->inner);
  SHA256_Update(&h->outer, out, DIGEST);
  SHA256_Final(out, &h->outer);
}

bool np_hkdf_sha256(const uint8_t *ikm, uint32_t ikm_bytes, const uint8_t *salt, uint32_t salt_bytes,
                    const uint8_t *info, uint32_t info_bytes, uint8_t *out, uint32_t out_bytes) {
  if (out_bytes > 255 * DIGEST) return false;
  struct hmac keyed;
  struct hmac h;
  uint8_t prk[DIGEST];
  uint8_t t[DIGEST];
  hmac_init(&h, salt, salt_bytes); /* HMAC pads with zeros: no salt and 32 zero bytes are the same */
  SHA256_Update(&h.inner, ikm, ikm_bytes);
  hmac_final(&h, prk);

  hmac_init(&keyed, prk, DIGEST);
  uint8_t counter = 0;
  for (uint32_t done = 0; done < out_bytes;) {
    h = keyed;
    if (counter > 0) SHA256_Update(&h.inner, t, DIGEST);
    counter++;
    SHA256_Update(&h.inner, info, info_bytes);
    SHA256_Update(&h.inner, &counter, 1);
    hmac_final(&h, t);
    uint32_t n = np_min_u32(DIGEST, out_bytes - done);
    memcpy(out + done, t, n);
    done += n;
  }
  explicit_bzero(&keyed, sizeof keyed);
  explicit_bzero(&h, sizeof h);
  explicit_bzero(prk, sizeof prk);
  explicit_bzero(t, sizeof t);
  return true;
}

static inline uint32_t rotl(uint32_t v, unsigned n) { return (v << n) | (v >> (32 - n)); }

static inline void quarter(uint32_t s[16], unsigned a, unsigned b, unsigned c, unsigned d) {
  s[a] += s[b];
  s[d] = rotl(s[d] ^ s[a], 16);
  s[c] += s[d];
  s[b] = rotl(s[b] ^ s[c], 12);
  s[a] += s[b];
  s[d] = rotl(s[d] ^ s[a], 8);
  s[c] += s[d];
  s[b] = rotl(s[b] ^ s[c], 7);
}

void np_hchacha20(const uint8_t key[32], const uint8_t nonce[16], uint8_t out[32]) {
  uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}; /* "expand 32-byte k" */
  for (unsigned i = 0; i < 8; i++) s[4 + i] = np_load_32(key + 4 * i);
  for (unsigned i = 0; i < 4; i++) s[12 + i] = np_load_32(nonce + 4 * i);
  for (unsigned round = 0; round < 10; round++) {
    quarter(s, 0, 4, 8, 12);
    quarter(s, 1, 5, 9, 13);
    quarter(s, 2, 6, 10, 14);
    quarter(s, 3, 7, 11, 15);
    quarter(s, 0, 5, 10, 15);
    quarter(s, 1, 6, 11, 12);
    quarter(s, 2, 7, 8, 13);
    quarter(s, 3, 4, 9, 14);
  }
  /* first and last row, without adding the input back: that is what makes it a hash */
  memcpy(out, &s[0], 16);
  memcpy(out + 16, &s[12], 16);
  explicit_bzero(s, sizeof s);
}
