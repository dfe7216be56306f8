/* The engine over libcrypto's EVP, for CPUs that libipsec-mb does not serve.
 * Contexts are made at start, one for each key slot and one for ChaCha20:
 * EVP_CIPHER_CTX_new allocates, setting a key or a nonce does not. */
#include <openssl/evp.h>
#include <string.h>

#include "crypto/engine.h"
#include "crypto/record.h"

struct portable {
  EVP_CIPHER *gcm;
  EVP_CIPHER *chacha;
  EVP_CIPHER_CTX *chacha_ctx;
};

struct slot {
  EVP_CIPHER_CTX *ctx;
};
#define SLOT_BYTES 64

static const char *name(const void *state) {
  (void)state;
  return "libcrypto";
}

static size_t state_bytes(void) { return (sizeof(struct portable) + 63) & ~(size_t)63; }

static void fini(void *state) {
  struct portable *s = state;
  EVP_CIPHER_CTX_free(s->chacha_ctx);
  EVP_CIPHER_free(s->gcm);
  EVP_CIPHER_free(s->chacha);
  memset(s, 0, sizeof *s);
}

static EVP_CIPHER_CTX *new_ctx(const EVP_CIPHER *cipher) {
  EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
  if (ctx == NULL) return NULL;
  /* Key and nonce of zeros once: whatever libcrypto allocates late, it does now. */
  static const uint8_t zero[32] = {0};
  if (EVP_CipherInit_ex2(ctx, cipher, zero, zero, 1, NULL) == 1 &&
      EVP_CIPHER_CTX_get_iv_length(ctx) == 12) return ctx;
  EVP_CIPHER_CTX_free(ctx);
  return NULL;
}

static bool init(void *state) {
  struct portable *s = state;
  memset(s, 0, sizeof *s);
  s->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
  s->chacha = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
  if (s->gcm != NULL && s->chacha != NULL) s->chacha_ctx = new_ctx(s->chacha);
  if (s->chacha_ctx != NULL) return true;
  fini(s);
  return false;
}

static bool slot_open(void *state, void *slot) {
  struct portable *s = state;
  struct slot *k = slot;
  memset(slot, 0, SLOT_BYTES);
  k->ctx = new_ctx(s->gcm);
  return k->ctx != NULL;
}

static void slot_close(void *state, void *slot) {
  (void)state;
  EVP_CIPHER_CTX_free(((struct slot *)slot)->ctx); /* libcrypto wipes what it frees */
  memset(slot, 0, SLOT_BYTES);
}

static void set_key(EVP_CIPHER_CTX *ctx, const uint8_t key[32]) {
  int rc = EVP_CipherInit_ex2(ctx, NULL, key, NULL, -1, NULL);
  np_assert(rc == 1);
}

static void slot_expand(void *state, void *slot, const uint8_t key[32]) {
  (void)state;
  set_key(((struct slot *)slot)->ctx, key);
}

/* The round keys lie in libcrypto's own memory: a key of zeros overwrites them. */
static void slot_wipe(void *state, void *slot) {
  static const uint8_t zero[32] = {0};
  slot_expand(state, slot, zero);
}

static void update(EVP_CIPHER_CTX *ctx, uint8_t *out, const uint8_t *in, uint32_t n) {
  np_assert(n <= INT32_MAX);
  int wrote = 0;
  int rc = EVP_CipherUpdate(ctx, out, &wrote, in, (int)n);
  np_assert(rc == 1);
  np_assert(wrote == (int)n);
}

static void run(EVP_CIPHER_CTX *ctx, struct np_aead_op *op, bool seal) {
  int rc = EVP_CipherInit_ex2(ctx, NULL, NULL, op->nonce, seal ? 1 : 0, NULL);
  np_assert(rc == 1);
  if (op->aad_bytes > 0) update(ctx, NULL, op->aad, op->aad_bytes);
  struct np_buf *b = op->buf;
  uint32_t off = op->off;
  if (op->body != NULL) {
    if (op->bytes > 0) update(ctx, op->body, op->body, op->bytes);
  } else {
    for (uint32_t left = op->bytes; left > 0;) {
      uint8_t *p;
      uint32_t n = np_chain_next(&b, &off, left, &p);
      update(ctx, p, p, n);
      left -= n;
    }
  }
  uint8_t none[16];
  int tail = 0;
  if (seal) {
    rc = EVP_CipherFinal_ex(ctx, none, &tail);
    np_assert(rc == 1);
    rc = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, NP_RECORD_TAG, op->tag);
    np_assert(rc == 1);
    return;
  }
  rc = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, NP_RECORD_TAG, op->tag);
  np_assert(rc == 1);
  op->ok = EVP_CipherFinal_ex(ctx, none, &tail) == 1; /* compares in constant time */
}

static void gcm(void *state, const void *slot, struct np_aead_op *op, bool seal) {
  (void)state;
  run(((const struct slot *)slot)->ctx, op, seal);
}

static void chacha(void *state, struct np_aead_op *ops, uint32_t n, bool seal) {
  struct portable *s = state;
  for (uint32_t i = 0; i < n; i++) {
    set_key(s->chacha_ctx, ops[i].key);
    run(s->chacha_ctx, &ops[i], seal);
  }
  static const uint8_t zero[32] = {0};
  set_key(s->chacha_ctx, zero);
}

const struct np_engine *np_engine_portable(void) {
  static const struct np_engine engine = {
      .name = name,
      .state_bytes = state_bytes,
      .slot_bytes = SLOT_BYTES,
      .init = init,
      .fini = fini,
      .slot_open = slot_open,
      .slot_close = slot_close,
      .slot_expand = slot_expand,
      .slot_wipe = slot_wipe,
      .gcm = gcm,
      .chacha = chacha,
  };
  return &engine;
}
