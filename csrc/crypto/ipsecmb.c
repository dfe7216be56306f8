/* The engine over libipsec-mb. AES-256-GCM goes through its direct calls, one
 * after the other: GCM there is not multi-buffer, the vectors run across the
 * blocks of one record, so a burst would add only its own bookkeeping.
 * ChaCha20-Poly1305 of records in one piece goes in bursts of jobs. Records in
 * several pieces take init, update and finalize for both.
 *
 * The manager sits in the core's memory (imb_set_pointers_mb_mgr), so even the
 * start allocates nothing. */
#include <intel-ipsec-mb.h>
#include <string.h>

#include "crypto/engine.h"
#include "crypto/keycache.h"
#include "crypto/record.h"
#include "crypto/stage.h"

struct ipsecmb {
  IMB_MGR *mgr;
  struct gcm_context_data gcm_ctx;
  struct chacha20_poly1305_context_data chacha_ctx;
  IMB_JOB *jobs[NP_RECORD_BATCH];
};

#define STATE_BYTES ((sizeof(struct ipsecmb) + 63) & ~(size_t)63)
#define SLOT_BYTES ((sizeof(struct gcm_key_data) + 63) & ~(size_t)63)

static const char *name(const void *state) {
  const struct ipsecmb *s = state;
  switch (s->mgr->used_arch) {
    case IMB_ARCH_AVX512: return "ipsec-mb avx512";
    case IMB_ARCH_AVX2: return "ipsec-mb avx2";
    case IMB_ARCH_AVX: return "ipsec-mb avx";
    default: return "ipsec-mb sse";
  }
}

static size_t state_bytes(void) { return STATE_BYTES + imb_get_mb_mgr_size(); }

static bool init(void *state) {
  struct ipsecmb *s = state;
  uint64_t have = imb_get_feature_flags();
  /* Below this the library's AES is table look-ups in software: slow and not constant in time. */
  if ((have & IMB_CPUFLAGS_SSE) != IMB_CPUFLAGS_SSE) return false;
  memset(s, 0, sizeof *s);
  s->mgr = imb_set_pointers_mb_mgr((uint8_t *)state + STATE_BYTES, 0, 1);
  if (s->mgr == NULL) return false;
  init_mb_mgr_auto(s->mgr, NULL);
  if (imb_get_errno(s->mgr) != 0) return false;
  uint64_t f = s->mgr->features;
  return (f & IMB_FEATURE_SELF_TEST) == 0 || (f & IMB_FEATURE_SELF_TEST_PASS) != 0;
}

static void fini(void *state) { explicit_bzero(state, state_bytes()); }

static bool slot_open(void *state, void *slot) {
  (void)state;
  memset(slot, 0, SLOT_BYTES);
  return true;
}

static void slot_wipe(void *state, void *slot) {
  (void)state;
  explicit_bzero(slot, SLOT_BYTES);
}

static void slot_expand(void *state, void *slot, const uint8_t key[32]) {
  struct ipsecmb *s = state;
  IMB_AES256_GCM_PRE(s->mgr, key, (struct gcm_key_data *)slot);
}

static void gcm_chain(struct ipsecmb *s, const struct gcm_key_data *key, struct np_aead_op *op, bool seal) {
  struct np_buf *b = op->buf;
  uint32_t off = op->off;
  IMB_AES256_GCM_INIT(s->mgr, key, &s->gcm_ctx, op->nonce, op->aad, op->aad_bytes);
  for (uint32_t left = op->bytes; left > 0;) {
    uint8_t *p;
    uint32_t n = np_chain_next(&b, &off, left, &p);
    if (seal) {
      IMB_AES256_GCM_ENC_UPDATE(s->mgr, key, &s->gcm_ctx, p, p, n);
    } else {
      IMB_AES256_GCM_DEC_UPDATE(s->mgr, key, &s->gcm_ctx, p, p, n);
    }
    left -= n;
  }
  if (seal) {
    IMB_AES256_GCM_ENC_FINALIZE(s->mgr, key, &s->gcm_ctx, op->tag, NP_RECORD_TAG);
  } else {
    IMB_AES256_GCM_DEC_FINALIZE(s->mgr, key, &s->gcm_ctx, op->calc, NP_RECORD_TAG);
  }
}

static void gcm_one(struct ipsecmb *s, const void *slot, struct np_aead_op *op, bool seal) {
  if (op->body == NULL) {
    gcm_chain(s, slot, op, seal);
  } else {
    aes_gcm_enc_dec_t one = seal ? s->mgr->gcm256_enc : s->mgr->gcm256_dec;
    one(slot, &s->gcm_ctx, op->body, op->body, op->bytes, op->nonce, op->aad, op->aad_bytes, seal ? op->tag : op->calc,
        NP_RECORD_TAG);
  }
  if (!seal) op->ok = np_tag_equal(op->calc, op->tag);
}

static void gcm(void *state, const void *slot, struct np_aead_op *op, bool seal) {
  struct ipsecmb *s = state;
  gcm_one(s, slot, op, seal);
  explicit_bzero(&s->gcm_ctx, sizeof s->gcm_ctx);
}

static void gcm_pieces(struct ipsecmb *s, const void *key, struct np_record *r, np_pair64 nonce, bool seal) {
  struct np_aead_op op;
  uint8_t scratch[NP_RECORD_TAG];
  np_op_stage(&op, r, nonce, scratch, seal);
  gcm_one(s, key, &op, seal);
  if (seal) {
    np_op_place_tag(&op, r, scratch);
  } else {
    np_record_judge(r, op.ok);
  }
}

/* 64 bytes take the library 29 ns. Here: nonces of the whole batch first, so that
 * they have left the store buffer when they are read; then key by key, since with
 * few slots a later record may push out an earlier one's key. */
static uint32_t gcm_batch(void *state, struct np_key_cache *cache, struct np_record *records, uint32_t n, bool seal) {
  struct ipsecmb *s = state;
  aes_gcm_enc_dec_t one = seal ? s->mgr->gcm256_enc : s->mgr->gcm256_dec;
  np_pair64 nonce[NP_RECORD_BATCH];
  uint32_t count = 0;
  np_assert(n <= NP_RECORD_BATCH);
  for (; count < n && records[count].dir->aead == NP_AEAD_AES_256_GCM; count++) {
    nonce[count] = np_nonce_next(records[count].dir, true, seal);
    np_key_cache_prefetch(cache, records[count].dir);
    NP_PREFETCH(records[count].buf);
  }
  for (uint32_t i = 0; i < count; i++) {
    struct np_record *r = &records[i];
    const struct gcm_key_data *key = np_key_cache_get(cache, r->dir);
    if (NP_UNLIKELY(!np_record_in_one_piece(r))) {
      gcm_pieces(s, key, r, nonce[i], seal);
      continue;
    }
    uint8_t calc[NP_RECORD_TAG];
    uint8_t *body = np_buf_data(r->buf) + r->body_off;
    uint8_t *tag = body + r->body_bytes;
    one(key, &s->gcm_ctx, body, body, r->body_bytes, (const uint8_t *)&nonce[i], r->header, NP_NPRO_HEADER,
        seal ? tag : calc, NP_RECORD_TAG);
    if (!seal) np_record_judge(r, np_tag_equal(calc, tag));
  }
  explicit_bzero(&s->gcm_ctx, sizeof s->gcm_ctx);
  return count;
}

static void chacha_chain(struct ipsecmb *s, struct np_aead_op *op, bool seal) {
  struct np_buf *b = op->buf;
  uint32_t off = op->off;
  IMB_CHACHA20_POLY1305_INIT(s->mgr, op->key, &s->chacha_ctx, op->nonce, op->aad, op->aad_bytes);
  for (uint32_t left = op->bytes; left > 0;) {
    uint8_t *p;
    uint32_t n = np_chain_next(&b, &off, left, &p);
    if (seal) {
      IMB_CHACHA20_POLY1305_ENC_UPDATE(s->mgr, op->key, &s->chacha_ctx, p, p, n);
    } else {
      IMB_CHACHA20_POLY1305_DEC_UPDATE(s->mgr, op->key, &s->chacha_ctx, p, p, n);
    }
    left -= n;
  }
  if (seal) {
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(s->mgr, &s->chacha_ctx, op->tag, NP_RECORD_TAG);
  } else {
    IMB_CHACHA20_POLY1305_DEC_FINALIZE(s->mgr, &s->chacha_ctx, op->calc, NP_RECORD_TAG);
    op->ok = np_tag_equal(op->calc, op->tag);
  }
}

static void fill_job(IMB_JOB *j, struct np_aead_op *op, bool seal) {
  j->enc_keys = op->key;
  j->dec_keys = op->key;
  j->key_len_in_bytes = 32;
  j->src = op->body;
  j->dst = op->body;
  j->cipher_start_src_offset_in_bytes = 0;
  j->msg_len_to_cipher_in_bytes = op->bytes;
  j->hash_start_src_offset_in_bytes = 0;
  j->msg_len_to_hash_in_bytes = op->bytes;
  j->iv = op->nonce;
  j->iv_len_in_bytes = 12;
  j->auth_tag_output = seal ? op->tag : op->calc;
  j->auth_tag_output_len_in_bytes = NP_RECORD_TAG;
  j->u.CHACHA20_POLY1305.aad = op->aad;
  j->u.CHACHA20_POLY1305.aad_len_in_bytes = op->aad_bytes;
  j->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
  j->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
  j->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
  j->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
}

static void chacha(void *state, struct np_aead_op *ops, uint32_t n, bool seal) {
  struct ipsecmb *s = state;
  np_assert(n <= NP_RECORD_BATCH);
  uint32_t got = IMB_GET_NEXT_BURST(s->mgr, n, s->jobs);
  np_assert(got == n); /* the queue is empty between calls and holds 256 */
  uint32_t k = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (NP_UNLIKELY(ops[i].body == NULL)) {
      chacha_chain(s, &ops[i], seal);
      explicit_bzero(&s->chacha_ctx, sizeof s->chacha_ctx);
    } else {
      fill_job(s->jobs[k++], &ops[i], seal);
    }
  }
  if (k == 0) return;
  uint32_t done = IMB_SUBMIT_BURST_NOCHECK(s->mgr, k, s->jobs);
  /* This algorithm completes at submission; the loop holds should a later
   * library queue it. Bound: k, or the assertion. */
  while (done < k) {
    uint32_t more = IMB_FLUSH_BURST(s->mgr, k - done, s->jobs);
    np_assert(more > 0);
    done += more;
  }
  if (seal) return;
  for (uint32_t i = 0; i < n; i++) {
    if (NP_LIKELY(ops[i].body != NULL)) ops[i].ok = np_tag_equal(ops[i].calc, ops[i].tag);
  }
}

const struct np_engine *np_engine_ipsecmb(void) {
  static const struct np_engine engine = {
      .name = name,
      .state_bytes = state_bytes,
      .slot_bytes = SLOT_BYTES,
      .init = init,
      .fini = fini,
      .slot_open = slot_open,
      .slot_close = slot_wipe,
      .slot_expand = slot_expand,
      .slot_wipe = slot_wipe,
      .gcm = gcm,
      .gcm_batch = gcm_batch,
      .chacha = chacha,
  };
  return &engine;
}
