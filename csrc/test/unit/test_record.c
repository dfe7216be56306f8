/* The record layer: both engines, both AEADs, chains cut anywhere, batches,
 * failure, REKEY, the key cache, wiping, and that nothing allocates after start. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/crypto.h>

#include "base/bytes.h"
#include "codec/frame.h"
#include "crypto/derive.h"
#include "crypto/record.h"

enum { ENGINES = 2, AEADS = 2 };
static const enum np_aead aeads[AEADS] = {NP_AEAD_XCHACHA20_POLY1305, NP_AEAD_AES_256_GCM};

struct engine {
  void *mem;
  size_t bytes;
  struct np_crypto *crypto;
};
struct fixture {
  struct engine e[ENGINES];
};

static struct engine engine_start(bool portable, uint32_t keys) {
  struct np_crypto_config config = {.key_cache_count = keys, .force_portable = portable};
  struct engine e = {.bytes = np_crypto_bytes(&config)};
  e.mem = malloc(e.bytes);
  assert_non_null(e.mem);
  e.crypto = np_crypto_init(e.mem, &config);
  assert_non_null(e.crypto);
  return e;
}
static void engine_stop(struct engine *e) {
  np_crypto_fini(e->crypto);
  free(e->mem);
}

static int setup(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  for (int i = 0; i < ENGINES; i++) f->e[i] = engine_start(i == 1, 4);
  *state = f;
  return 0;
}
static int teardown(void **state) {
  struct fixture *f = *state;
  for (int i = 0; i < ENGINES; i++) engine_stop(&f->e[i]);
  free(f);
  return 0;
}

static uint64_t random_next(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}
static void fill(uint8_t *p, size_t n, uint64_t seed) {
  uint64_t s = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(random_next(&s) >> 32);
}

/* A chain whose pieces have the lengths given, each in memory of its own so that
 * the sanitizer sees a byte too far. */
static struct np_buf *chain(const uint8_t *data, const uint32_t *lens, uint32_t n) {
  struct np_buf *first = NULL;
  struct np_buf **link = &first;
  for (uint32_t i = 0; i < n; i++) {
    struct np_buf *b = calloc(1, sizeof *b + lens[i]);
    assert_non_null(b);
    b->data_off = NP_BUF_HDR;
    b->len = lens[i];
    b->cap_bytes = NP_BUF_HDR + lens[i];
    if (lens[i] > 0) memcpy((uint8_t *)b + NP_BUF_HDR, data, lens[i]);
    data += lens[i];
    *link = b;
    link = &b->next;
  }
  return first;
}
static void chain_read(const struct np_buf *b, uint8_t *out) {
  for (; b != NULL; b = b->next) {
    memcpy(out, (const uint8_t *)b + b->data_off, b->len);
    out += b->len;
  }
}
static void chain_free(struct np_buf *b) {
  while (b != NULL) {
    struct np_buf *next = b->next;
    free(b);
    b = next;
  }
}

static void header_for(uint8_t header[16], uint32_t body_bytes) {
  struct np_frame f = {.length = body_bytes + NP_RECORD_TAG, .stream = 1, .flags = NP_NPRO_F_ENC, .type = NP_NPRO_DATA};
  np_frame_encode(&f, header);
}

static void start_dir(struct np_crypto *c, struct np_record_dir *d, enum np_aead aead, uint8_t seed) {
  uint8_t key[32];
  fill(key, sizeof key, seed);
  assert_int_equal(np_record_dir_init(c, d, aead, key), NP_ERR_OK);
}

/* What record n of a direction must be, by the single operation. */
static void reference(struct np_crypto *c, enum np_aead aead, uint8_t seed, uint64_t n, const uint8_t header[16],
                      uint8_t *body, uint32_t bytes) {
  uint8_t key[32];
  uint8_t record_key[32];
  uint8_t nonce[24];
  uint32_t nonce_bytes = aead == NP_AEAD_AES_256_GCM ? 12 : 24;
  fill(key, sizeof key, seed);
  assert_true(np_hkdf_sha256(key, 32, NULL, 0, (const uint8_t *)"npro2 key", 9, record_key, 32));
  assert_true(np_hkdf_sha256(key, 32, NULL, 0, (const uint8_t *)"npro2 iv", 8, nonce, nonce_bytes));
  for (uint32_t i = 0; i < 8; i++) nonce[nonce_bytes - 1 - i] ^= (uint8_t)(n >> (8 * i));
  assert_true(np_aead_seal(c, aead, record_key, nonce, header, 16, body, bytes, body + bytes));
}

static void unhex(const char *hex, uint8_t *out) {
  for (; hex[0] != 0 && hex[1] != 0; hex += 2) {
    char two[3] = {hex[0], hex[1], 0};
    *out++ = (uint8_t)strtoul(two, NULL, 16);
  }
}

/* draft-irtf-cfrg-xchacha-03 §2.2.1 */
static void test_hchacha20(void **state) {
  (void)state;
  uint8_t key[32], nonce[16], want[32], got[32];
  for (uint8_t i = 0; i < 32; i++) key[i] = i;
  unhex("000000090000004a0000000031415927", nonce);
  unhex("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc", want);
  np_hchacha20(key, nonce, got);
  assert_memory_equal(got, want, 32);
  np_hchacha20(key, nonce, key); /* in place */
  assert_memory_equal(key, want, 32);
}

/* draft-irtf-cfrg-xchacha-03 appendix A.3.1 */
static void test_xchacha_draft(void **state) {
  struct fixture *f = *state;
  static const char text[] =
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
  uint8_t key[32], nonce[24], aad[12], tag[16], want[16];
  for (uint8_t i = 0; i < 32; i++) key[i] = (uint8_t)(0x80 + i);
  for (uint8_t i = 0; i < 24; i++) nonce[i] = (uint8_t)(0x40 + i);
  unhex("50515253c0c1c2c3c4c5c6c7", aad);
  unhex("c0875924c1c7987947deafd8780acf49", want);
  for (int e = 0; e < ENGINES; e++) {
    uint8_t body[sizeof text - 1];
    memcpy(body, text, sizeof body);
    assert_true(np_aead_seal(f->e[e].crypto, NP_AEAD_XCHACHA20_POLY1305, key, nonce, aad, 12, body, sizeof body, tag));
    assert_memory_equal(tag, want, 16);
    uint8_t head[4] = {0xbd, 0x6d, 0x17, 0x9d};
    assert_memory_equal(body, head, 4);
    assert_true(np_aead_open(f->e[e].crypto, NP_AEAD_XCHACHA20_POLY1305, key, nonce, aad, 12, body, sizeof body, tag));
    assert_memory_equal(body, text, sizeof body);
  }
}

/* RFC 5869 appendix A.1 and A.3 */
static void test_hkdf(void **state) {
  (void)state;
  uint8_t ikm[22], salt[13], info[10], want[42], got[42];
  memset(ikm, 0x0b, sizeof ikm);
  unhex("000102030405060708090a0b0c", salt);
  unhex("f0f1f2f3f4f5f6f7f8f9", info);
  unhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865", want);
  assert_true(np_hkdf_sha256(ikm, 22, salt, 13, info, 10, got, 42));
  assert_memory_equal(got, want, 42);
  unhex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8", want);
  assert_true(np_hkdf_sha256(ikm, 22, NULL, 0, NULL, 0, got, 42));
  assert_memory_equal(got, want, 42);
  assert_false(np_hkdf_sha256(ikm, 22, NULL, 0, NULL, 0, got, 255 * 32 + 1));
}

static void test_unknown_aead(void **state) {
  struct fixture *f = *state;
  struct np_record_dir d;
  uint8_t key[32] = {0};
  assert_int_equal(np_record_dir_init(f->e[0].crypto, &d, NP_AEAD_NONE, key), NP_ERR_UNSUPPORTED);
  assert_int_equal(np_record_dir_init(f->e[0].crypto, &d, (enum np_aead)3, key), NP_ERR_UNSUPPORTED);
}

/* Seals with engine a, opens with engine b, one record cut as lens says. */
static void round_trip(struct fixture *f, int a, int b, enum np_aead aead, uint32_t bytes, uint32_t off,
                       const uint32_t *lens, uint32_t pieces) {
  uint8_t plain[600];
  uint8_t want[600];
  uint8_t got[600];
  assert_true(off + bytes + 16 <= sizeof plain);
  fill(plain, sizeof plain, bytes + 77);
  memcpy(want, plain, sizeof want);
  struct np_record_dir tx, rx;
  start_dir(f->e[a].crypto, &tx, aead, 9);
  start_dir(f->e[b].crypto, &rx, aead, 9);
  struct np_record r = {.dir = &tx, .body_off = off, .body_bytes = bytes};
  header_for(r.header, bytes);
  reference(f->e[a].crypto, aead, 9, 0, r.header, want + off, bytes);
  r.buf = chain(plain, lens, pieces);
  np_record_seal(f->e[a].crypto, &r, 1);
  chain_read(r.buf, got);
  assert_memory_equal(got, want, off + bytes + 16);
  r.dir = &rx;
  np_record_open(f->e[b].crypto, &r, 1);
  assert_true(r.ok);
  chain_read(r.buf, got);
  assert_memory_equal(got, plain, off + bytes);
  chain_free(r.buf);
  np_record_dir_wipe(f->e[a].crypto, &tx);
  np_record_dir_wipe(f->e[b].crypto, &rx);
}

static void test_every_split(void **state) {
  struct fixture *f = *state;
  static const uint32_t sizes[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 130, 257};
  for (int a = 0; a < ENGINES; a++) {
    for (int k = 0; k < AEADS; k++) {
      for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint32_t whole = 3 + sizes[i] + 16; /* three bytes of something else before the body */
        for (uint32_t cut = 0; cut <= whole; cut++) {
          uint32_t lens[2] = {cut, whole - cut};
          round_trip(f, a, 1 - a, aeads[k], sizes[i], 3, lens, 2);
        }
      }
    }
  }
}

static void test_many_pieces(void **state) {
  struct fixture *f = *state;
  uint64_t seed = 5;
  for (int a = 0; a < ENGINES; a++) {
    for (int k = 0; k < AEADS; k++) {
      for (uint32_t piece = 1; piece <= 5; piece++) { /* the tag straddles up to 17 pieces */
        uint32_t lens[600];
        uint32_t n = 0;
        uint32_t left = 141 + 16;
        while (left > 0) {
          lens[n] = left < piece ? left : piece;
          left -= lens[n++];
        }
        round_trip(f, a, 1 - a, aeads[k], 141, 0, lens, n);
      }
      for (uint32_t round = 0; round < 200; round++) {
        uint32_t lens[600];
        uint32_t n = 0;
        uint32_t bytes = (uint32_t)(random_next(&seed) % 500);
        uint32_t left = bytes + 16;
        while (left > 0) { /* empty pieces too */
          uint32_t p = (uint32_t)(random_next(&seed) % 70);
          lens[n] = left < p ? left : p;
          left -= lens[n++];
        }
        round_trip(f, a, 1 - a, aeads[k], bytes, 0, lens, n);
      }
    }
  }
}

/* One batch of many directions, sizes and both AEADs, longer than the inner batch. */
static void test_batches(void **state) {
  struct fixture *f = *state;
  enum { RECORDS = 101, DIRS = 7, BYTES = 300 };
  for (int a = 0; a < ENGINES; a++) {
    struct np_record_dir tx[DIRS], rx[DIRS];
    struct np_record r[RECORDS] = {0};
    uint8_t plain[RECORDS][BYTES + 16];
    for (uint8_t d = 0; d < DIRS; d++) {
      start_dir(f->e[a].crypto, &tx[d], aeads[d % 2], d);
      start_dir(f->e[1 - a].crypto, &rx[d], aeads[d % 2], d);
    }
    for (uint32_t i = 0; i < RECORDS; i++) {
      uint32_t bytes = i * 3 % BYTES;
      fill(plain[i], sizeof plain[i], i);
      uint32_t lens[2] = {bytes + 16, 0};
      if (i % 5 == 0) lens[0] -= i % 16, lens[1] = i % 16;
      r[i] = (struct np_record){.dir = &tx[i % DIRS], .buf = chain(plain[i], lens, lens[1] ? 2 : 1), .body_bytes = bytes};
      header_for(r[i].header, bytes);
    }
    np_record_seal(f->e[a].crypto, r, RECORDS);
    for (uint32_t i = 0; i < RECORDS; i++) {
      uint8_t want[BYTES + 16], got[BYTES + 16];
      memcpy(want, plain[i], sizeof want);
      reference(f->e[1 - a].crypto, aeads[i % DIRS % 2], (uint8_t)(i % DIRS), i / DIRS, r[i].header, want, r[i].body_bytes);
      chain_read(r[i].buf, got);
      assert_memory_equal(got, want, r[i].body_bytes + 16);
      r[i].dir = &rx[i % DIRS];
    }
    np_record_open(f->e[1 - a].crypto, r, RECORDS);
    for (uint32_t i = 0; i < RECORDS; i++) {
      uint8_t got[BYTES + 16];
      assert_true(r[i].ok);
      chain_read(r[i].buf, got);
      assert_memory_equal(got, plain[i], r[i].body_bytes);
      chain_free(r[i].buf);
    }
    for (uint8_t d = 0; d < DIRS; d++) {
      assert_true(tx[d].seq == rx[d].seq && tx[d].seq >= RECORDS / DIRS);
      np_record_dir_wipe(f->e[a].crypto, &tx[d]);
      np_record_dir_wipe(f->e[1 - a].crypto, &rx[d]);
    }
  }
}

/* Any changed bit of header, body or tag is seen, in one piece and in two. */
static void test_tamper(void **state) {
  struct fixture *f = *state;
  enum { BYTES = 20 };
  for (int e = 0; e < ENGINES; e++) {
    for (int k = 0; k < AEADS; k++) {
      for (uint32_t bit = 0; bit < (16 + BYTES + 16) * 8; bit++) {
        struct np_record_dir tx, rx;
        uint8_t plain[BYTES + 16] = {1};
        start_dir(f->e[e].crypto, &tx, aeads[k], 1);
        start_dir(f->e[e].crypto, &rx, aeads[k], 1);
        uint32_t lens[2] = {bit % 2 ? BYTES + 16 : BYTES + 7, bit % 2 ? 0 : 9};
        struct np_record r = {.dir = &tx, .buf = chain(plain, lens, bit % 2 ? 1 : 2), .body_bytes = BYTES};
        header_for(r.header, BYTES);
        np_record_seal(f->e[e].crypto, &r, 1);
        uint32_t at = bit / 8;
        if (at < 16) {
          r.header[at] ^= (uint8_t)(1u << bit % 8);
        } else if (at - 16 < lens[0]) {
          ((uint8_t *)r.buf + NP_BUF_HDR)[at - 16] ^= (uint8_t)(1u << bit % 8);
        } else {
          ((uint8_t *)r.buf->next + NP_BUF_HDR)[at - 16 - lens[0]] ^= (uint8_t)(1u << bit % 8);
        }
        r.dir = &rx;
        r.ok = true;
        np_record_open(f->e[e].crypto, &r, 1);
        assert_false(r.ok);
        assert_int_equal(rx.failed, 1);
        chain_free(r.buf);
        np_record_dir_wipe(f->e[e].crypto, &tx);
        np_record_dir_wipe(f->e[e].crypto, &rx);
      }
    }
  }
}

/* A failure stops its direction, in this batch and for good; others go on.
 * Replayed, dropped and swapped records fail like forged ones. */
static void test_failure_stops_direction(void **state) {
  struct fixture *f = *state;
  enum { N = 6, BYTES = 40 };
  for (int e = 0; e < ENGINES; e++) {
    for (int k = 0; k < AEADS; k++) {
      struct np_crypto *c = f->e[e].crypto;
      struct np_record_dir tx[2], rx[2];
      struct np_record r[N + 1] = {0};
      uint8_t plain[BYTES + 16] = {7};
      uint32_t len = BYTES + 16;
      for (uint8_t d = 0; d < 2; d++) {
        start_dir(c, &tx[d], aeads[k], d);
        start_dir(c, &rx[d], aeads[k], d);
      }
      for (uint32_t i = 0; i < N; i++) {
        r[i] = (struct np_record){.dir = &tx[i % 2], .buf = chain(plain, &len, 1), .body_bytes = BYTES};
        header_for(r[i].header, BYTES);
      }
      np_record_seal(c, r, N);
      ((uint8_t *)r[2].buf + NP_BUF_HDR)[0] ^= 1; /* second record of direction 0 */
      for (uint32_t i = 0; i < N; i++) r[i].dir = &rx[i % 2];
      np_record_open(c, r, N);
      static const bool want[N] = {true, true, false, true, false, true};
      for (uint32_t i = 0; i < N; i++) assert_int_equal(r[i].ok, want[i]);
      /* a later batch: direction 0 stays shut even for a good record */
      rx[0].seq = tx[0].seq;
      struct np_record again = {.dir = &tx[0], .buf = chain(plain, &len, 1), .body_bytes = BYTES};
      header_for(again.header, BYTES);
      np_record_seal(c, &again, 1);
      again.dir = &rx[0];
      np_record_open(c, &again, 1);
      assert_false(again.ok);
      /* a replay on direction 1: sealed as number 0, met as number 3 */
      uint8_t replay[BYTES + 16];
      struct np_record_dir first;
      start_dir(c, &first, aeads[k], 1);
      struct np_record rep = {.dir = &first, .buf = chain(plain, &len, 1), .body_bytes = BYTES};
      header_for(rep.header, BYTES);
      np_record_seal(c, &rep, 1);
      chain_read(rep.buf, replay);
      rep.dir = &rx[1];
      np_record_open(c, &rep, 1);
      assert_false(rep.ok);
      chain_free(rep.buf);
      chain_free(again.buf);
      for (uint32_t i = 0; i < N; i++) chain_free(r[i].buf);
      np_record_dir_wipe(c, &first);
      for (uint8_t d = 0; d < 2; d++) {
        np_record_dir_wipe(c, &tx[d]);
        np_record_dir_wipe(c, &rx[d]);
      }
    }
  }
}

static bool exchange(struct np_crypto *a, struct np_record_dir *tx, struct np_crypto *b, struct np_record_dir *rx) {
  uint8_t plain[64 + 16];
  uint8_t got[64 + 16];
  fill(plain, sizeof plain, tx->seq);
  uint32_t len = sizeof plain;
  struct np_record r = {.dir = tx, .buf = chain(plain, &len, 1), .body_bytes = 64};
  header_for(r.header, 64);
  np_record_seal(a, &r, 1);
  r.dir = rx;
  np_record_open(b, &r, 1);
  chain_read(r.buf, got);
  chain_free(r.buf);
  return r.ok && memcmp(got, plain, 64) == 0;
}

static void test_rekey(void **state) {
  struct fixture *f = *state;
  for (int k = 0; k < AEADS; k++) {
    struct np_crypto *a = f->e[0].crypto, *b = f->e[1].crypto;
    struct np_record_dir tx, rx;
    start_dir(a, &tx, aeads[k], 3);
    start_dir(b, &rx, aeads[k], 3);
    for (int round = 0; round < 4; round++) {
      for (int i = 0; i < 3; i++) assert_true(exchange(a, &tx, b, &rx));
      uint8_t old[32], next[32];
      memcpy(old, tx.key, 32);
      np_record_dir_rekey(a, &tx);
      np_record_dir_rekey(b, &rx);
      assert_true(np_hkdf_sha256(old, 32, NULL, 0, (const uint8_t *)"npro2 rekey", 11, next, 32));
      assert_memory_equal(tx.key, next, 32);
      assert_true(tx.seq == 0 && rx.seq == 0);
    }
    np_record_dir_rekey(a, &tx); /* one side alone: nothing opens */
    assert_false(exchange(a, &tx, b, &rx));
    np_record_dir_wipe(a, &tx);
    np_record_dir_wipe(b, &rx);
  }
}

/* More keys than slots: every direction still opens, whoever was pushed out. */
static void test_cache_eviction(void **state) {
  struct fixture *f = *state; /* four slots */
  enum { DIRS = 23 };
  struct np_record_dir tx[DIRS], rx[DIRS];
  for (int e = 0; e < ENGINES; e++) {
    struct np_crypto *c = f->e[e].crypto;
    uint64_t seed = 99;
    for (uint8_t d = 0; d < DIRS; d++) {
      start_dir(c, &tx[d], NP_AEAD_AES_256_GCM, d);
      start_dir(c, &rx[d], NP_AEAD_AES_256_GCM, d);
    }
    for (int i = 0; i < 500; i++) {
      uint32_t d = (uint32_t)(random_next(&seed) % DIRS);
      assert_true(exchange(c, &tx[d], c, &rx[d]));
      if (i % 40 == 0) { /* a direction that ends and one that begins at its address */
        np_record_dir_wipe(c, &tx[d]);
        np_record_dir_wipe(c, &rx[d]);
        start_dir(c, &tx[d], NP_AEAD_AES_256_GCM, (uint8_t)(100 + i));
        start_dir(c, &rx[d], NP_AEAD_AES_256_GCM, (uint8_t)(100 + i));
      }
      if (i % 53 == 0) { /* begun again without a wipe: the old slot must not answer */
        start_dir(c, &tx[d], NP_AEAD_AES_256_GCM, (uint8_t)i);
        start_dir(c, &rx[d], NP_AEAD_AES_256_GCM, (uint8_t)i);
      }
      if (i % 61 == 0) { /* moved in memory */
        struct np_record_dir t = tx[d];
        tx[d] = tx[(d + 1) % DIRS];
        tx[(d + 1) % DIRS] = t;
        t = rx[d];
        rx[d] = rx[(d + 1) % DIRS];
        rx[(d + 1) % DIRS] = t;
      }
    }
    for (uint8_t d = 0; d < DIRS; d++) {
      np_record_dir_wipe(c, &tx[d]);
      np_record_dir_wipe(c, &rx[d]);
    }
  }
}

static bool holds(const void *mem, size_t bytes, const uint8_t needle[32]) {
  return memmem(mem, bytes, needle, 32) != NULL;
}

/* The first round keys of AES-256 are the key itself, so an expanded key that
 * stayed behind shows in the engine's memory. */
static void test_wipe(void **state) {
  (void)state;
  for (int k = 0; k < AEADS; k++) {
    struct engine e = engine_start(false, 2);
    struct np_record_dir d[3];
    uint8_t keys[3][32];
    for (uint8_t i = 0; i < 3; i++) {
      struct np_record_dir rx;
      start_dir(e.crypto, &d[i], aeads[k], i);
      start_dir(e.crypto, &rx, aeads[k], i);
      memcpy(keys[i], d[i].record_key, 32);
      assert_true(exchange(e.crypto, &d[i], e.crypto, &rx));
      np_record_dir_wipe(e.crypto, &rx);
    }
    for (uint8_t i = 0; i < 3; i++) np_record_dir_wipe(e.crypto, &d[i]);
    static const struct np_record_dir zero;
    for (uint8_t i = 0; i < 3; i++) {
      assert_memory_equal(&d[i], &zero, sizeof zero);
      assert_false(holds(e.mem, e.bytes, keys[i]));
    }
    struct np_record_dir last, rx;
    start_dir(e.crypto, &last, aeads[k], 9);
    start_dir(e.crypto, &rx, aeads[k], 9);
    assert_true(exchange(e.crypto, &last, e.crypto, &rx));
    if (aeads[k] == NP_AEAD_AES_256_GCM && strncmp(np_crypto_engine(e.crypto), "ipsec-mb", 8) == 0) {
      assert_true(holds(e.mem, e.bytes, last.record_key)); /* the search does find one */
    }
    np_crypto_fini(e.crypto);
    assert_false(holds(e.mem, e.bytes, last.record_key));
    free(e.mem);
  }
}

static void test_numbers_end(void **state) {
  struct fixture *f = *state;
  struct np_record_dir tx, rx;
  start_dir(f->e[0].crypto, &tx, NP_AEAD_AES_256_GCM, 1);
  start_dir(f->e[0].crypto, &rx, NP_AEAD_AES_256_GCM, 1);
  tx.seq = rx.seq = NP_RECORD_SEQ_MAX - 1;
  assert_true(exchange(f->e[0].crypto, &tx, f->e[0].crypto, &rx));
  assert_true(rx.seq == NP_RECORD_SEQ_MAX);
  tx.seq = 0;
  assert_false(exchange(f->e[0].crypto, &tx, f->e[0].crypto, &rx));
  np_record_dir_wipe(f->e[0].crypto, &tx);
  np_record_dir_wipe(f->e[0].crypto, &rx);
}

static size_t allocations;
static void *count_malloc(size_t n, const char *file, int line) {
  (void)file, (void)line;
  allocations++;
  return malloc(n);
}
static void *count_realloc(void *p, size_t n, const char *file, int line) {
  (void)file, (void)line;
  allocations++;
  return realloc(p, n);
}
static void count_free(void *p, const char *file, int line) {
  (void)file, (void)line;
  free(p);
}

/* libcrypto's heap is the only one either engine could reach. */
static void test_nothing_allocates_after_start(void **state) {
  struct fixture *f = *state;
  assert_true(allocations > 0); /* the portable engine's start: the counter works */
  for (int e = 0; e < ENGINES; e++) {
    struct np_crypto *c = f->e[e].crypto;
    size_t before = allocations;
    for (int k = 0; k < AEADS; k++) {
      struct np_record_dir tx, rx;
      start_dir(c, &tx, aeads[k], 1);
      start_dir(c, &rx, aeads[k], 1);
      for (int i = 0; i < 10; i++) assert_true(exchange(c, &tx, c, &rx));
      np_record_dir_rekey(c, &tx);
      np_record_dir_rekey(c, &rx);
      for (int i = 0; i < 10; i++) assert_true(exchange(c, &tx, c, &rx));
      rx.seq++;
      assert_false(exchange(c, &tx, c, &rx));
      np_record_dir_wipe(c, &tx);
      np_record_dir_wipe(c, &rx);
    }
    assert_true(allocations == before);
  }
}

static void test_engine_names(void **state) {
  struct fixture *f = *state;
  assert_string_equal(np_crypto_engine(f->e[1].crypto), "libcrypto");
  print_message("engine: %s\n", np_crypto_engine(f->e[0].crypto));
}

int main(void) {
  if (CRYPTO_set_mem_functions(count_malloc, count_realloc, count_free) != 1) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hchacha20),
      cmocka_unit_test(test_xchacha_draft),
      cmocka_unit_test(test_hkdf),
      cmocka_unit_test(test_unknown_aead),
      cmocka_unit_test(test_every_split),
      cmocka_unit_test(test_many_pieces),
      cmocka_unit_test(test_batches),
      cmocka_unit_test(test_tamper),
      cmocka_unit_test(test_failure_stops_direction),
      cmocka_unit_test(test_rekey),
      cmocka_unit_test(test_cache_eviction),
      cmocka_unit_test(test_wipe),
      cmocka_unit_test(test_numbers_end),
      cmocka_unit_test(test_nothing_allocates_after_start),
      cmocka_unit_test(test_engine_names),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
