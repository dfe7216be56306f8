/* Vectors of C2SP/wycheproof for the AEADs and HKDF, over both engines. They
 * come from outside the repository: scripts/test-c.sh flattens them where
 * NP_VECTORS names their folder, else these tests skip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "crypto/derive.h"
#include "crypto/engine.h"
#include "crypto/record.h"
#include "vectors.h"

static bool vectors_of(const char *name, struct vector_file *f) {
  const char *dir = getenv("NP_VECTORS_FLAT");
  if (dir == NULL) return false;
  char path[512];
  snprintf(path, sizeof path, "%s/wycheproof_%s_test.txt", dir, name);
  if (!vector_open(f, path)) fail_msg("cannot read %s", path);
  return true;
}

/* ChaCha20-Poly1305 without the X has no place in the protocol, so it is reached
 * a layer below. np_aead_* for the others. */
typedef bool aead_fn(void *ctx, bool seal, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                     uint32_t aad_bytes, uint8_t *body, uint32_t bytes, uint8_t tag[16]);

struct plain_chacha {
  const struct np_engine *engine;
  void *state;
};
static bool run_plain(void *ctx, bool seal, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                      uint32_t aad_bytes, uint8_t *body, uint32_t bytes, uint8_t tag[16]) {
  struct plain_chacha *p = ctx;
  struct np_aead_op op = {.key = key, .aad = aad, .aad_bytes = aad_bytes, .body = body, .bytes = bytes, .tag = tag};
  memcpy(op.nonce, nonce, 12);
  p->engine->chacha(p->state, &op, 1, seal);
  return seal || op.ok;
}

struct record_aead {
  struct np_crypto *crypto;
  enum np_aead aead;
};
static bool run_record(void *ctx, bool seal, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                       uint32_t aad_bytes, uint8_t *body, uint32_t bytes, uint8_t tag[16]) {
  struct record_aead *r = ctx;
  return seal ? np_aead_seal(r->crypto, r->aead, key, nonce, aad, aad_bytes, body, bytes, tag)
              : np_aead_open(r->crypto, r->aead, key, nonce, aad, aad_bytes, body, bytes, tag);
}

static void one_aead(const struct vector_block *b, aead_fn *run, void *ctx) {
  uint32_t n[6];
  uint8_t *key = vector_bytes(b, "key", &n[0]), *iv = vector_bytes(b, "iv", &n[1]);
  uint8_t *aad = vector_bytes(b, "aad", &n[2]), *msg = vector_bytes(b, "msg", &n[3]);
  uint8_t *ct = vector_bytes(b, "ct", &n[4]), *tag = vector_bytes(b, "tag", &n[5]);
  bool valid = strcmp(vector_text(b, "result"), "valid") == 0;
  int id = (int)vector_number(b, "tcId");
  assert_true(n[3] == n[4] && n[5] == 16);
  uint8_t got[16];
  if (valid) {
    uint8_t *body = malloc(n[3] > 0 ? n[3] : 1);
    if (n[3] > 0) memcpy(body, msg, n[3]);
    assert_true(run(ctx, true, key, iv, aad, n[2], body, n[3], got));
    if (memcmp(body, ct, n[4]) != 0 || memcmp(got, tag, 16) != 0) fail_msg("tcId %d: seal differs", id);
    free(body);
  }
  memcpy(got, tag, 16);
  bool opened = run(ctx, false, key, iv, aad, n[2], ct, n[4], got);
  if (opened != valid) fail_msg("tcId %d: opened %d, is valid %d", id, opened, valid);
  if (valid && n[3] > 0) assert_memory_equal(ct, msg, n[3]);
  free(key), free(iv), free(aad), free(msg), free(ct), free(tag);
}

/* Only the key and nonce sizes the protocol has; the others are refused by type. */
static void whole_file(const char *name, uint64_t nonce_bits, aead_fn *run, void *ctx) {
  struct vector_file f;
  struct vector_block b;
  int ran = 0;
  if (!vectors_of(name, &f)) skip();
  while (vector_next(&f, &b)) {
    if (vector_number(&b, "keySize") != 256 || vector_number(&b, "ivSize") != nonce_bits) continue;
    one_aead(&b, run, ctx);
    ran++;
  }
  vector_close(&f);
  print_message("%s: %d vectors\n", name, ran);
  assert_true(ran > 60);
}

static void each_engine(const char *name, uint64_t nonce_bits, enum np_aead aead) {
  for (int e = 0; e < 2; e++) {
    struct np_crypto_config config = {.key_cache_count = 1, .force_portable = e == 1};
    void *mem = malloc(np_crypto_bytes(&config));
    struct record_aead r = {.crypto = np_crypto_init(mem, &config), .aead = aead};
    assert_non_null(r.crypto);
    whole_file(name, nonce_bits, run_record, &r);
    np_crypto_fini(r.crypto);
    free(mem);
  }
}

static void test_aes_gcm(void **state) {
  (void)state;
  if (getenv("NP_VECTORS_FLAT") == NULL) skip();
  each_engine("aes_gcm", 96, NP_AEAD_AES_256_GCM);
}
static void test_xchacha(void **state) {
  (void)state;
  if (getenv("NP_VECTORS_FLAT") == NULL) skip();
  each_engine("xchacha20_poly1305", 192, NP_AEAD_XCHACHA20_POLY1305);
}
static void test_chacha(void **state) {
  (void)state;
  if (getenv("NP_VECTORS_FLAT") == NULL) skip();
  const struct np_engine *engines[2] = {np_engine_ipsecmb(), np_engine_portable()};
  for (int e = 0; e < 2; e++) {
    struct plain_chacha p = {.engine = engines[e]};
    p.state = aligned_alloc(64, (engines[e]->state_bytes() + 63) & ~(size_t)63);
    assert_non_null(p.state);
    if (engines[e]->init(p.state)) {
      whole_file("chacha20_poly1305", 96, run_plain, &p);
      engines[e]->fini(p.state);
    }
    free(p.state);
  }
}

static void test_hkdf(void **state) {
  (void)state;
  struct vector_file f;
  struct vector_block b;
  int ran = 0;
  if (!vectors_of("hkdf_sha256", &f)) skip();
  while (vector_next(&f, &b)) {
    uint32_t n[4];
    uint8_t *ikm = vector_bytes(&b, "ikm", &n[0]), *salt = vector_bytes(&b, "salt", &n[1]);
    uint8_t *info = vector_bytes(&b, "info", &n[2]), *okm = vector_bytes(&b, "okm", &n[3]);
    uint32_t size = (uint32_t)vector_number(&b, "size");
    uint8_t *got = malloc(size > 0 ? size : 1);
    bool ok = np_hkdf_sha256(ikm, n[0], salt, n[1], info, n[2], got, size);
    assert_int_equal(ok, strcmp(vector_text(&b, "result"), "valid") == 0);
    if (ok) {
      assert_int_equal(size, n[3]);
      assert_memory_equal(got, okm, size);
    }
    free(ikm), free(salt), free(info), free(okm), free(got);
    ran++;
  }
  vector_close(&f);
  print_message("hkdf_sha256: %d vectors\n", ran);
  assert_true(ran > 60);
}

int main(void) {
  if (getenv("NP_VECTORS_FLAT") == NULL) print_message("skipped: NP_VECTORS is not set, no outside vectors\n");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_aes_gcm),
      cmocka_unit_test(test_xchacha),
      cmocka_unit_test(test_chacha),
      cmocka_unit_test(test_hkdf),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
