/* Records over an engine: keys and nonces of a direction, batches, tags that
 * straddle pieces. */
#include "crypto/record.h"

#include "base/bytes.h"
#include "crypto/derive.h"
#include "crypto/engine.h"
#include "crypto/keycache.h"
#include "crypto/stage.h"

#define KEY_CACHE_DEFAULT 4096u
#define ALIGN_UP(n) (((n) + (size_t)63) & ~(size_t)63)

struct np_crypto {
  const struct np_engine *engine;
  void *state;
  void *single;      /* slot for np_aead_*, outside the cache */
  void *mem;         /* as the caller gave it */
  size_t bytes;
  struct np_key_cache cache;
  struct np_aead_op ops[NP_RECORD_BATCH];
  uint8_t tags[NP_RECORD_BATCH][NP_RECORD_TAG]; /* those that do not lie in one piece */
};

static uint32_t cache_count(const struct np_crypto_config *config) {
  return config->key_cache_count > 0 ? config->key_cache_count : KEY_CACHE_DEFAULT;
}

static size_t bytes_with(const struct np_engine *engine, const struct np_crypto_config *config) {
  return ALIGN_UP(sizeof(struct np_crypto)) + ALIGN_UP(engine->state_bytes()) + engine->slot_bytes +
         np_key_cache_bytes(engine->slot_bytes, cache_count(config));
}

size_t np_crypto_bytes(const struct np_crypto_config *config) {
  size_t n = bytes_with(np_engine_portable(), config);
  if (!config->force_portable) {
    size_t m = bytes_with(np_engine_ipsecmb(), config);
    if (m > n) n = m;
  }
  return n + 64; /* to align within */
}

static struct np_crypto *start(void *mem, const struct np_crypto_config *config, const struct np_engine *engine) {
  uint8_t *p = (uint8_t *)ALIGN_UP((uintptr_t)mem);
  struct np_crypto *c = (struct np_crypto *)(void *)p;
  memset(c, 0, sizeof *c);
  p += ALIGN_UP(sizeof *c);
  c->engine = engine;
  c->mem = mem;
  c->bytes = np_crypto_bytes(config);
  c->state = p;
  p += ALIGN_UP(engine->state_bytes());
  c->single = p;
  p += engine->slot_bytes;
  if (!engine->init(c->state)) return NULL;
  if (engine->slot_open(c->state, c->single)) {
    if (np_key_cache_init(&c->cache, p, engine, c->state, cache_count(config))) return c;
    engine->slot_close(c->state, c->single);
  }
  engine->fini(c->state);
  return NULL;
}

struct np_crypto *np_crypto_init(void *mem, const struct np_crypto_config *config) {
  struct np_crypto *c = NULL;
  if (!config->force_portable) c = start(mem, config, np_engine_ipsecmb());
  return c != NULL ? c : start(mem, config, np_engine_portable());
}

void np_crypto_fini(struct np_crypto *crypto) {
  np_key_cache_fini(&crypto->cache);
  crypto->engine->slot_wipe(crypto->state, crypto->single);
  crypto->engine->slot_close(crypto->state, crypto->single);
  crypto->engine->fini(crypto->state);
  explicit_bzero(crypto, sizeof *crypto);
}

const char *np_crypto_engine(const struct np_crypto *crypto) { return crypto->engine->name(crypto->state); }

static void hkdf(const uint8_t key[32], const char *info, uint8_t *out, uint32_t out_bytes) {
  bool ok = np_hkdf_sha256(key, 32, NULL, 0, (const uint8_t *)info, (uint32_t)strlen(info), out, out_bytes);
  np_assert(ok);
}

/* Everything that follows from dir->key and dir->aead. */
static void derive(struct np_record_dir *dir) {
  hkdf(dir->key, "npro2 key", dir->record_key, sizeof dir->record_key);
  memset(dir->nonce, 0, sizeof dir->nonce);
  if (dir->aead == NP_AEAD_AES_256_GCM) {
    hkdf(dir->key, "npro2 iv", dir->nonce, 12);
  } else {
    hkdf(dir->key, "npro2 iv", dir->nonce, 24);
    np_hchacha20(dir->record_key, dir->nonce, dir->record_key);
  }
  dir->seq = 0;
}

enum np_err np_record_dir_init(struct np_crypto *crypto, struct np_record_dir *dir, enum np_aead aead,
                               const uint8_t key[32]) {
  (void)crypto;
  if (aead != NP_AEAD_XCHACHA20_POLY1305 && aead != NP_AEAD_AES_256_GCM) return NP_ERR_UNSUPPORTED;
  memset(dir, 0, sizeof *dir);
  memcpy(dir->key, key, sizeof dir->key);
  dir->aead = (uint8_t)aead;
  derive(dir);
  return NP_ERR_OK;
}

void np_record_dir_rekey(struct np_crypto *crypto, struct np_record_dir *dir) {
  np_key_cache_drop(&crypto->cache, dir);
  uint8_t next[32];
  hkdf(dir->key, "npro2 rekey", next, sizeof next);
  memcpy(dir->key, next, sizeof next);
  explicit_bzero(next, sizeof next);
  derive(dir);
}

void np_record_dir_wipe(struct np_crypto *crypto, struct np_record_dir *dir) {
  np_key_cache_drop(&crypto->cache, dir);
  explicit_bzero(dir, sizeof *dir);
}

/* Where a record's tag goes or lies: in place when it is in one piece (return
 * value), else NULL and *buf, *off say where it begins. */
static uint8_t *tag_find(struct np_buf **buf, uint32_t *off) {
  struct np_buf *b = *buf;
  uint32_t o = *off;
  while (o >= b->len) {
    o -= b->len;
    b = b->next;
    np_assert(b != NULL);
  }
  *buf = b;
  *off = o;
  return b->len - o >= NP_RECORD_TAG ? np_buf_data(b) + o : NULL;
}

static void tag_copy(struct np_buf *b, uint32_t off, uint8_t tag[NP_RECORD_TAG], bool into_chain) {
  for (uint32_t done = 0; done < NP_RECORD_TAG;) {
    uint8_t *p;
    uint32_t n = np_chain_next(&b, &off, NP_RECORD_TAG - done, &p);
    if (into_chain) {
      memcpy(p, tag + done, n);
    } else {
      memcpy(tag + done, p, n);
    }
    done += n;
  }
}

void np_op_stage_chain(struct np_aead_op *op, const struct np_record *r, uint8_t scratch[NP_RECORD_TAG], bool seal) {
  struct np_buf *b = r->buf;
  op->body = NULL;
  op->buf = b;
  op->off = r->body_off;
  uint64_t tag_at = (uint64_t)r->body_off + r->body_bytes;
  np_assert(tag_at <= UINT32_MAX);
  uint32_t tag_off = (uint32_t)tag_at;
  op->tag = tag_find(&b, &tag_off);
  if (op->tag == NULL) {
    op->tag = scratch;
    if (!seal) tag_copy(b, tag_off, scratch, false);
  }
}

void np_op_place_tag(const struct np_aead_op *op, const struct np_record *r, uint8_t scratch[NP_RECORD_TAG]) {
  if (op->tag == scratch) tag_copy(r->buf, r->body_off + r->body_bytes, scratch, true);
}

static uint32_t gcm_each(struct np_crypto *crypto, struct np_record *records, uint32_t n, bool seal) {
  uint32_t i = 0;
  for (; i < n && records[i].dir->aead == NP_AEAD_AES_256_GCM; i++) {
    struct np_record *r = &records[i];
    struct np_aead_op *op = &crypto->ops[0];
    np_op_stage(op, r, np_nonce_next(r->dir, true, seal), crypto->tags[0], seal);
    crypto->engine->gcm(crypto->state, np_key_cache_get(&crypto->cache, r->dir), op, seal);
    if (seal) {
      np_op_place_tag(op, r, crypto->tags[0]);
    } else {
      np_record_judge(r, op->ok);
    }
  }
  return i;
}

static uint32_t chacha_batch(struct np_crypto *crypto, struct np_record *records, uint32_t n, bool seal) {
  uint32_t count = 0;
  for (; count < n && records[count].dir->aead == NP_AEAD_XCHACHA20_POLY1305; count++) {
    struct np_record *r = &records[count];
    np_op_stage(&crypto->ops[count], r, np_nonce_next(r->dir, false, seal), crypto->tags[count], seal);
  }
  crypto->engine->chacha(crypto->state, crypto->ops, count, seal);
  for (uint32_t i = 0; i < count; i++) {
    if (seal) {
      np_op_place_tag(&crypto->ops[i], &records[i], crypto->tags[i]);
    } else {
      np_record_judge(&records[i], crypto->ops[i].ok);
    }
  }
  return count;
}

/* n is NP_RECORD_BATCH at most. Runs of one AEAD: nearly always all of it. */
static void batch(struct np_crypto *crypto, struct np_record *records, uint32_t n, bool seal) {
  for (uint32_t i = 0; i < n;) {
    struct np_record *r = records + i;
    if (r->dir->aead == NP_AEAD_XCHACHA20_POLY1305) {
      i += chacha_batch(crypto, r, n - i, seal);
      continue;
    }
    np_assert(r->dir->aead == NP_AEAD_AES_256_GCM); /* np_record_dir_init was called, np_record_dir_wipe not */
    i += crypto->engine->gcm_batch != NULL ? crypto->engine->gcm_batch(crypto->state, &crypto->cache, r, n - i, seal)
                                           : gcm_each(crypto, r, n - i, seal);
  }
}

void np_record_seal(struct np_crypto *crypto, struct np_record *records, uint32_t n) {
  for (uint32_t i = 0; i < n; i += NP_RECORD_BATCH) {
    batch(crypto, records + i, np_min_u32(NP_RECORD_BATCH, n - i), true);
  }
}

void np_record_open(struct np_crypto *crypto, struct np_record *records, uint32_t n) {
  for (uint32_t i = 0; i < n; i += NP_RECORD_BATCH) {
    batch(crypto, records + i, np_min_u32(NP_RECORD_BATCH, n - i), false);
  }
}

/* One operation outside any direction. Return: false for open when the tag differs. */
static bool single(struct np_crypto *crypto, enum np_aead aead, const uint8_t key[32], const uint8_t *nonce,
                   struct np_aead_op *op, bool seal) {
  const struct np_engine *engine = crypto->engine;
  op->ok = false;
  if (aead == NP_AEAD_AES_256_GCM) {
    memcpy(op->nonce, nonce, 12);
    engine->slot_expand(crypto->state, crypto->single, key);
    engine->gcm(crypto->state, crypto->single, op, seal);
    engine->slot_wipe(crypto->state, crypto->single);
  } else {
    uint8_t subkey[32];
    np_hchacha20(key, nonce, subkey);
    op->key = subkey;
    memset(op->nonce, 0, 4);
    memcpy(op->nonce + 4, nonce + 16, 8);
    engine->chacha(crypto->state, op, 1, seal);
    explicit_bzero(subkey, sizeof subkey);
  }
  return op->ok;
}

bool np_aead_seal(struct np_crypto *crypto, enum np_aead aead, const uint8_t key[32], const uint8_t *nonce,
                  const uint8_t *aad, uint32_t aad_bytes, uint8_t *body, uint32_t body_bytes, uint8_t tag[16]) {
  if (aead != NP_AEAD_XCHACHA20_POLY1305 && aead != NP_AEAD_AES_256_GCM) return false;
  struct np_aead_op op = {.aad = aad, .aad_bytes = aad_bytes, .body = body, .bytes = body_bytes, .tag = tag};
  single(crypto, aead, key, nonce, &op, true);
  return true;
}

bool np_aead_open(struct np_crypto *crypto, enum np_aead aead, const uint8_t key[32], const uint8_t *nonce,
                  const uint8_t *aad, uint32_t aad_bytes, uint8_t *body, uint32_t body_bytes, const uint8_t tag[16]) {
  if (aead != NP_AEAD_XCHACHA20_POLY1305 && aead != NP_AEAD_AES_256_GCM) return false;
  uint8_t want[NP_RECORD_TAG];
  memcpy(want, tag, sizeof want);
  struct np_aead_op op = {.aad = aad, .aad_bytes = aad_bytes, .body = body, .bytes = body_bytes, .tag = want};
  return single(crypto, aead, key, nonce, &op, false);
}
