/* Compressed bodies: both algorithms, every size a window boundary is near, and
 * everything a peer can claim falsely. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zstd.h>

#include "base/bytes.h"
#include "codec/compress.h"
#include "codec/frame.h"

#define RAW_MAX (1u << 20)
static const enum np_compression algorithms[] = {NP_COMPRESSION_LZ4, NP_COMPRESSION_ZSTD};

static int setup(void **state) {
  /* exactly what was asked for, so that the sanitizer sees a byte too far */
  void *mem = aligned_alloc(64, np_compressor_bytes(RAW_MAX));
  assert_non_null(mem);
  *state = np_compressor_init(mem, RAW_MAX);
  assert_non_null(*state);
  return 0;
}
static int teardown(void **state) {
  free(*state);
  return 0;
}

static uint64_t random_next(uint64_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 7;
  *s ^= *s << 17;
  return *s;
}
static void fill_random(uint8_t *p, uint32_t n, uint64_t seed) {
  uint64_t s = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  for (uint32_t i = 0; i < n; i++) p[i] = (uint8_t)(random_next(&s) >> 32);
}
/* Log lines: compressible, with numbers that differ. */
static void fill_text(uint8_t *p, uint32_t n, uint64_t seed) {
  uint64_t s = seed + 1;
  char line[128];
  for (uint32_t at = 0; at < n;) {
    int len = snprintf(line, sizeof line, "level=info conn=%u stream=%u opcode=ECHO took_us=%u\n",
                       (unsigned)(random_next(&s) % 100000), (unsigned)(random_next(&s) % 512), (unsigned)(random_next(&s) % 9000));
    uint32_t m = np_min_u32((uint32_t)len, n - at);
    memcpy(p + at, line, m);
    at += m;
  }
}

static uint8_t *compressed(struct np_compressor *c, enum np_compression a, int level, const uint8_t *raw, uint32_t n,
                           uint32_t *out_bytes) {
  uint8_t *out = malloc(np_compress_bound(n));
  assert_non_null(out);
  *out_bytes = np_compress(c, a, level, raw, n, out, np_compress_bound(n));
  assert_true(*out_bytes > 4 && *out_bytes < n);
  assert_true(np_load_be32(out) == n);
  return out;
}

static void test_round_trip(void **state) {
  static const uint32_t sizes[] = {512, 513, 1000, 4096, 16384, 16385, 65535, 65536, 131072, 131073, 262144, 262145, RAW_MAX};
  for (int a = 0; a < 2; a++) {
    for (int level = NP_COMPRESS_LEVEL_MIN - 1; level <= NP_COMPRESS_LEVEL_MAX + 1; level++) {
      for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint32_t n = sizes[i], m, raw;
        uint8_t *plain = malloc(n), *back = malloc(n);
        fill_text(plain, n, n);
        assert_true(np_compress_worth(plain, n));
        uint8_t *packed = compressed(*state, algorithms[a], level, plain, n, &m);
        assert_int_equal(np_decompress_size(packed, m, RAW_MAX, &raw), NP_FRAME_OK);
        assert_int_equal(raw, n);
        assert_int_equal(np_decompress(*state, algorithms[a], packed, m, back, raw), NP_FRAME_OK);
        assert_memory_equal(back, plain, n);
        free(plain), free(back), free(packed);
      }
    }
  }
}

/* What does not shrink is refused, at any cap, and no byte past cap is written. */
static void test_does_not_pay(void **state) {
  uint8_t body[600], out[700];
  fill_random(body, sizeof body, 1);
  for (int a = 0; a < 2; a++) {
    assert_int_equal(np_compress(*state, algorithms[a], 1, body, sizeof body, out, sizeof out), 0);
    for (uint32_t n = 0; n <= 6; n++) assert_int_equal(np_compress(*state, algorithms[a], 1, body, n, out, sizeof out), 0);
    assert_int_equal(np_compress(*state, algorithms[a], 1, body, RAW_MAX + 1, out, sizeof out), 0);
    uint8_t text[600];
    fill_text(text, sizeof text, 2);
    uint32_t whole = np_compress(*state, algorithms[a], 1, text, sizeof text, out, sizeof out);
    assert_true(whole > 0);
    for (uint32_t cap = 0; cap < whole; cap += 7) {
      uint8_t *tight = malloc(cap + 1);
      uint32_t got = np_compress(*state, algorithms[a], 1, text, sizeof text, tight, cap);
      assert_true(got <= cap);
      free(tight);
    }
  }
  assert_int_equal(np_compress(*state, NP_COMPRESSION_NONE, 1, body, sizeof body, out, sizeof out), 0);
}

static void test_worth(void **state) {
  (void)state;
  static const uint32_t sizes[] = {512, 600, 5000, 100000};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    uint32_t n = sizes[i];
    uint8_t *p = malloc(n);
    for (uint64_t seed = 0; seed < 300; seed++) {
      fill_random(p, n, seed);
      assert_false(np_compress_worth(p, n));
    }
    fill_text(p, n, 1);
    assert_true(np_compress_worth(p, n));
    memset(p, 0, n);
    assert_true(np_compress_worth(p, n));
    free(p);
  }
  assert_false(np_compress_worth(NULL, 0));
}

static void test_size_claims(void **state) {
  (void)state;
  uint8_t body[8] = {0};
  uint32_t raw;
  for (uint32_t n = 0; n <= 4; n++) assert_int_equal(np_decompress_size(body, n, 100, &raw), NP_DROP_NPRO_DECOMPRESS);
  static const struct {
    uint32_t claim, max;
    bool good;
  } table[] = {{0, 100, false}, {1, 100, true}, {100, 100, true}, {101, 100, false}, {UINT32_MAX, 100, false},
               {UINT32_MAX, UINT32_MAX, false}, {0x80000000u, UINT32_MAX, false}, {1, 0, false}};
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    np_store_be32(body, table[i].claim);
    assert_int_equal(np_decompress_size(body, 8, table[i].max, &raw), table[i].good ? (int)NP_FRAME_OK : (int)NP_DROP_NPRO_DECOMPRESS);
  }
}

/* A body whose claim is wrong either way, or that is cut or goes on. */
static void test_wrong_sizes(void **state) {
  enum { N = 3000 };
  uint8_t plain[N];
  fill_text(plain, N, 3);
  for (int a = 0; a < 2; a++) {
    uint32_t m;
    uint8_t *packed = compressed(*state, algorithms[a], 1, plain, N, &m);
    static const int32_t wrong[] = {-1, 1, -100, 100, -N + 1, 5000};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
      uint32_t claim = (uint32_t)(N + wrong[i]);
      uint8_t *back = malloc(claim);
      np_store_be32(packed, claim);
      assert_int_equal(np_decompress(*state, algorithms[a], packed, m, back, claim), NP_DROP_NPRO_DECOMPRESS);
      free(back);
    }
    np_store_be32(packed, N);
    uint8_t back[N];
    assert_int_equal(np_decompress(*state, algorithms[a], packed, m, back, N - 1), NP_DROP_NPRO_DECOMPRESS);
    for (uint32_t cut = 0; cut < m; cut++) {
      uint8_t *part = malloc(cut + 1);
      memcpy(part, packed, cut);
      assert_int_equal(np_decompress(*state, algorithms[a], part, cut, back, N), NP_DROP_NPRO_DECOMPRESS);
      free(part);
    }
    uint8_t *more = malloc(2 * m);
    memcpy(more, packed, m);
    memset(more + m, 0, m);
    assert_int_equal(np_decompress(*state, algorithms[a], more, m + 1, back, N), NP_DROP_NPRO_DECOMPRESS);
    /* two frames (or blocks) where one is due */
    memcpy(more + m, packed + 4, m - 4);
    np_store_be32(more, 2 * N);
    uint8_t *twice = malloc(2 * N);
    assert_int_equal(np_decompress(*state, algorithms[a], more, 2 * m - 4, twice, 2 * N), NP_DROP_NPRO_DECOMPRESS);
    free(twice), free(more);
    /* and the context is none the worse */
    assert_int_equal(np_decompress(*state, algorithms[a], packed, m, back, N), NP_FRAME_OK);
    assert_memory_equal(back, plain, N);
    /* the other algorithm does not take it for its own */
    assert_int_equal(np_decompress(*state, algorithms[1 - a], packed, m, back, N), NP_DROP_NPRO_DECOMPRESS);
    assert_int_equal(np_decompress(*state, NP_COMPRESSION_NONE, packed, m, back, N), NP_DROP_NPRO_DECOMPRESS);
    free(packed);
  }
}

/* A few bytes that unfold to a mebibyte: refused by the claim, or by the room
 * the claim gave. */
static void test_bombs(void **state) {
  uint8_t *zeros = calloc(1, RAW_MAX);
  for (int a = 0; a < 2; a++) {
    uint32_t m, raw;
    uint8_t *packed = compressed(*state, algorithms[a], 1, zeros, RAW_MAX, &m);
    assert_true(m < 5000);
    assert_int_equal(np_decompress_size(packed, m, RAW_MAX - 1, &raw), NP_DROP_NPRO_DECOMPRESS);
    np_store_be32(packed, 1000);
    uint8_t *back = malloc(1000);
    assert_int_equal(np_decompress_size(packed, m, RAW_MAX - 1, &raw), NP_FRAME_OK);
    assert_int_equal(np_decompress(*state, algorithms[a], packed, m, back, raw), NP_DROP_NPRO_DECOMPRESS);
    free(back), free(packed);
  }
  free(zeros);
}

static void test_zstd_forms(void **state) {
  uint8_t back[64];
  /* a skippable frame, alone and before a real one */
  uint8_t skip[4 + 8 + 3] = {0, 0, 0, 1, 0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3};
  assert_int_equal(np_decompress(*state, NP_COMPRESSION_ZSTD, skip, sizeof skip, back, 1), NP_DROP_NPRO_DECOMPRESS);
  uint8_t frame[64], both[4 + 11 + 64];
  size_t n = ZSTD_compress(frame, sizeof frame, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 32, 1);
  assert_false(ZSTD_isError(n));
  np_store_be32(both, 32);
  memcpy(both + 4, frame, n);
  assert_int_equal(np_decompress(*state, NP_COMPRESSION_ZSTD, both, (uint32_t)n + 4, back, 32), NP_FRAME_OK);
  memcpy(both + 4, skip + 4, 11);
  memcpy(both + 15, frame, n);
  assert_int_equal(np_decompress(*state, NP_COMPRESSION_ZSTD, both, (uint32_t)n + 15, back, 32), NP_DROP_NPRO_DECOMPRESS);
}

static void test_garbage(void **state) {
  uint8_t body[200], back[4096];
  for (uint64_t seed = 0; seed < 3000; seed++) {
    fill_random(body, sizeof body, seed);
    np_store_be32(body, 4096);
    if (seed % 2) memcpy(body + 4, "\x28\xb5\x2f\xfd", 4);
    for (int a = 0; a < 2; a++) np_decompress(*state, algorithms[a], body, sizeof body, back, 4096);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip), cmocka_unit_test(test_does_not_pay), cmocka_unit_test(test_worth),
      cmocka_unit_test(test_size_claims), cmocka_unit_test(test_wrong_sizes), cmocka_unit_test(test_bombs),
      cmocka_unit_test(test_zstd_forms), cmocka_unit_test(test_garbage),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
