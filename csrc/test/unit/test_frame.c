/* NPRO frame headers: each field's bounds, each drop reason, and that nothing
 * but the header is looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "codec/frame.h"

#define LENGTH_MAX (16u * 1024 * 1024 + 16)

/* The layout as the format's document gives it, written out by hand. */
static const uint8_t good[16] = {'N', 'P', 'R', 'O', 2, 0x29, 0x00, 0x01, 0x02, 0x03, 0x20, 5, 0xde, 0xad, 0xbe, 0xef};

static void test_layout(void **state) {
  (void)state;
  struct np_frame f;
  assert_int_equal(np_frame_decode(good, LENGTH_MAX, &f), NP_FRAME_OK);
  assert_int_equal(f.flags, NP_NPRO_F_ENC | NP_NPRO_F_END | NP_NPRO_F_CTX);
  assert_int_equal(f.length, 0x010203);
  assert_int_equal(f.type, NP_NPRO_REQUEST);
  assert_int_equal(f.priority, 5);
  assert_true(f.stream == 0xdeadbeef);
  uint8_t out[16];
  np_frame_encode(&f, out);
  assert_memory_equal(out, good, 16);
}

struct change {
  int at;
  uint8_t to;
  enum np_drop want;
};

static void test_drop_reasons(void **state) {
  (void)state;
  static const struct change table[] = {
      {0, 'n', NP_DROP_NPRO_MAGIC},
      {1, 'p', NP_DROP_NPRO_MAGIC},
      {2, 0, NP_DROP_NPRO_MAGIC},
      {3, 0xff, NP_DROP_NPRO_MAGIC},
      {4, 0, NP_DROP_NPRO_VERSION},
      {4, 1, NP_DROP_NPRO_VERSION},
      {4, 3, NP_DROP_NPRO_VERSION},
      {5, 0x40, NP_DROP_NPRO_FLAGS},
      {5, 0x80, NP_DROP_NPRO_FLAGS},
      {5, 0x06, NP_DROP_NPRO_FLAGS},
      {5, 0x3f, NP_DROP_NPRO_FLAGS},
      {6, 0x02, NP_DROP_NPRO_LENGTH},
      {6, 0xff, NP_DROP_NPRO_LENGTH},
      {11, 8, NP_DROP_NPRO_RESERVED},
      {11, 0x80, NP_DROP_NPRO_RESERVED},
  };
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    uint8_t h[16];
    struct np_frame f;
    memcpy(h, good, 16);
    h[table[i].at] = table[i].to;
    assert_int_equal(np_frame_decode(h, LENGTH_MAX, &f), table[i].want);
  }
}

static void test_first_wrong_field_is_named(void **state) {
  (void)state;
  uint8_t h[16];
  struct np_frame f;
  memset(h, 0xff, 16);
  static const struct change fix[] = {
      {0, 'N', NP_DROP_NPRO_MAGIC},   {1, 'P', NP_DROP_NPRO_MAGIC},    {2, 'R', NP_DROP_NPRO_MAGIC},
      {3, 'O', NP_DROP_NPRO_MAGIC},   {4, 2, NP_DROP_NPRO_VERSION},    {5, 0, NP_DROP_NPRO_FLAGS},
      {10, 1, NP_DROP_NPRO_TYPE},     {11, 7, NP_DROP_NPRO_RESERVED},  {6, 0, NP_DROP_NPRO_LENGTH},
  };
  for (size_t i = 0; i < sizeof fix / sizeof fix[0]; i++) {
    assert_int_equal(np_frame_decode(h, LENGTH_MAX, &f), fix[i].want);
    h[fix[i].at] = fix[i].to;
  }
  assert_int_equal(np_frame_decode(h, LENGTH_MAX, &f), NP_FRAME_OK);
}

static void test_every_type(void **state) {
  (void)state;
  static const uint8_t known[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12, 0x20, 0x21, 0x22, 0x23};
  for (unsigned t = 0; t < 256; t++) {
    uint8_t h[16];
    struct np_frame f;
    memcpy(h, good, 16);
    h[10] = (uint8_t)t;
    int want = memchr(known, (int)t, sizeof known) != NULL ? (int)NP_FRAME_OK : (int)NP_DROP_NPRO_TYPE;
    assert_int_equal(np_frame_decode(h, LENGTH_MAX, &f), want);
  }
}

static void test_every_flag_byte(void **state) {
  (void)state;
  for (unsigned v = 0; v < 256; v++) {
    uint8_t h[16];
    struct np_frame f;
    memcpy(h, good, 16);
    h[5] = (uint8_t)v;
    int bad = v > 0x3f || (v & 0x06) == 0x06;
    assert_int_equal(np_frame_decode(h, LENGTH_MAX, &f), bad ? (int)NP_DROP_NPRO_FLAGS : (int)NP_FRAME_OK);
  }
}

static void test_length_limit(void **state) {
  (void)state;
  static const uint32_t limits[] = {0, 1, 255, 256, 65535, 65536, LENGTH_MAX, UINT32_MAX - 1};
  for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
    struct np_frame in = {.length = limits[i], .stream = 1, .type = NP_NPRO_DATA};
    struct np_frame f;
    uint8_t h[16];
    np_frame_encode(&in, h);
    assert_int_equal(np_frame_decode(h, limits[i], &f), NP_FRAME_OK);
    assert_true(f.length == limits[i]);
    in.length++;
    np_frame_encode(&in, h);
    assert_int_equal(np_frame_decode(h, limits[i], &f), NP_DROP_NPRO_LENGTH);
  }
}

static void test_precheck(void **state) {
  (void)state;
  for (uint32_t n = 0; n <= 16; n++) assert_int_equal(np_frame_precheck(good, n), NP_FRAME_OK);
  for (uint32_t at = 0; at < 5; at++) {
    uint8_t h[16];
    memcpy(h, good, 16);
    h[at] ^= 1;
    for (uint32_t n = 0; n <= 16; n++) {
      int want = n <= at ? (int)NP_FRAME_OK : at < 4 ? (int)NP_DROP_NPRO_MAGIC : (int)NP_DROP_NPRO_VERSION;
      assert_int_equal(np_frame_precheck(h, n), want);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_layout),       cmocka_unit_test(test_drop_reasons),
      cmocka_unit_test(test_first_wrong_field_is_named), cmocka_unit_test(test_every_type),
      cmocka_unit_test(test_every_flag_byte), cmocka_unit_test(test_length_limit),
      cmocka_unit_test(test_precheck),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
