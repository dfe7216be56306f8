#include <string.h>

#include "base/cksum.h"
#include "base/hash.h"
#include "base/rng.h"
#include "test/unit/cmocka_np.h"

/* RFC 1071 §1, word by word in network order. */
static uint16_t naive_be(const uint8_t *p, size_t len) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < len; i += 2) sum += (uint32_t)p[i] << 8 | p[i + 1];
  if (len & 1) sum += (uint32_t)p[len - 1] << 8;
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

static uint16_t ours_be(const uint8_t *p, size_t len) {
  uint8_t out[2];
  np_store_16(out, np_cksum_finish(np_cksum_add(0, p, len)));
  return np_load_be16(out);
}

static void test_rfc1071_example(void **state) {
  (void)state;
  static const uint8_t data[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  assert_int_equal(ours_be(data, sizeof data), 0x220d);
}

static void test_all_lengths(void **state) {
  (void)state;
  struct np_rng rng;
  np_rng_init(&rng, 1);
  uint8_t data[2100];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)np_rng_u32(&rng);
  for (size_t len = 0; len <= 2048; len++) {
    size_t off = len % 9;
    assert_int_equal(ours_be(data + off, len), naive_be(data + off, len));
  }
  /* All ones: every addition carries. */
  memset(data, 0xff, sizeof data);
  for (size_t len = 1; len <= 2048; len++) assert_int_equal(ours_be(data, len), naive_be(data, len));
}

static void test_copy(void **state) {
  (void)state;
  struct np_rng rng;
  np_rng_init(&rng, 3);
  uint8_t data[2100];
  uint8_t copy[2112];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)np_rng_u32(&rng);
  for (size_t len = 0; len <= 2048; len++) {
    size_t from = len % 9;
    size_t to = len % 7;
    memset(copy, 0xa5, sizeof copy);
    assert_int_equal(np_cksum_fold(np_cksum_copy(77, copy + to, data + from, len)), np_cksum_fold(np_cksum_add(77, data + from, len)));
    assert_memory_equal(copy + to, data + from, len);
    for (size_t i = 0; i < to; i++) assert_int_equal(copy[i], 0xa5);
    for (size_t i = to + len; i < sizeof copy; i++) assert_int_equal(copy[i], 0xa5);
  }
}

static void test_pieces(void **state) {
  (void)state;
  struct np_rng rng;
  np_rng_init(&rng, 2);
  uint8_t data[1500];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)np_rng_u32(&rng);
  uint16_t whole = np_cksum_finish(np_cksum_add(0, data, sizeof data));
  for (size_t cut = 0; cut <= sizeof data; cut += 2) {
    uint64_t sum = np_cksum_add(0, data, cut);
    sum = np_cksum_add(sum, data + cut, sizeof data - cut);
    assert_int_equal(np_cksum_finish(sum), whole);
  }
}

static void test_pseudo(void **state) {
  (void)state;
  /* The IPv4 pseudo header written out (RFC 9293 §3.1) against the 16-byte form. */
  static const uint8_t v4[] = {198, 18, 0, 1, 198, 18, 0, 2, 0, 6, 0x12, 0x34};
  struct np_addr a = np_addr_from_v4_be(v4);
  struct np_addr b = np_addr_from_v4_be(v4 + 4);
  assert_int_equal(np_cksum_finish(np_cksum_pseudo(&a, &b, 6, 0x1234)), np_cksum_finish(np_cksum_add(0, v4, sizeof v4)));
  uint8_t v6[40] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1, [16] = 0x20, [17] = 0x01, [18] = 0x0d, [19] = 0xb8, [31] = 2};
  v6[34] = 0x05;
  v6[35] = 0xdc;
  v6[39] = 58;
  a = np_addr_from_v6(v6);
  b = np_addr_from_v6(v6 + 16);
  assert_int_equal(np_cksum_finish(np_cksum_pseudo(&a, &b, 58, 1500)), np_cksum_finish(np_cksum_add(0, v6, sizeof v6)));
}

static void test_ip4_header(void **state) {
  (void)state;
  uint8_t h[20] = {0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 192, 168, 0, 1, 192, 168, 0, 199};
  np_store_16(h + 10, np_cksum_finish(np_cksum_ip4(h)));
  assert_int_equal(np_load_be16(h + 10), 0xb861);
  assert_int_equal(np_cksum_fold(np_cksum_ip4(h)), 0xffff);
}

static void test_update(void **state) {
  (void)state;
  struct np_rng rng;
  np_rng_init(&rng, 3);
  uint8_t data[64];
  for (uint32_t round = 0; round < 2000; round++) {
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)np_rng_u32(&rng);
    size_t at = 2 * (size_t)np_rng_below(&rng, 32);
    uint16_t before = np_cksum_finish(np_cksum_add(0, data, sizeof data));
    uint16_t from = np_load_16(data + at);
    uint16_t to = (uint16_t)(round % 3 == 0 ? 0 : round % 3 == 1 ? 0xffff : np_rng_u32(&rng));
    np_store_16(data + at, to);
    assert_int_equal(np_cksum_update16(before, from, to), np_cksum_finish(np_cksum_add(0, data, sizeof data)));
  }
}

static void test_siphash(void **state) {
  (void)state;
  /* Reference output of SipHash-2-4 for key 00..0f and messages 00.., of length 0, 1, 8 and 15. */
  uint8_t key[16];
  uint8_t msg[15];
  for (uint8_t i = 0; i < 16; i++) key[i] = i;
  for (uint8_t i = 0; i < 15; i++) msg[i] = i;
  assert_true(np_siphash(key, msg, 0) == UINT64_C(0x726fdb47dd0e0e31));
  assert_true(np_siphash(key, msg, 1) == UINT64_C(0x74f839c593dc67fd));
  assert_true(np_siphash(key, msg, 8) == UINT64_C(0x93f5f5799a932462));
  assert_true(np_siphash(key, msg, 15) == UINT64_C(0xa129ca6149be45e5));
}

static void test_flow_hash_spreads(void **state) {
  (void)state;
  /* Flows that differ in one port, one address bit, or by exchange of the ends. */
  struct np_hash_key key = {{UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210)}};
  struct np_flow f = {.local_port = 80};
  static const uint8_t local[4] = {198, 18, 0, 1};
  f.local = np_addr_from_v4_be(local);
  uint32_t bucket[1024] = {0};
  for (uint32_t i = 0; i < 64 * 1024; i++) {
    uint8_t remote[4] = {198, 18, (uint8_t)(i >> 14), (uint8_t)(i >> 8 & 0x3f)};
    f.remote = np_addr_from_v4_be(remote);
    f.remote_port = (uint16_t)(40000 + (i & 0xff));
    bucket[np_hash_flow(&f, &key) & 1023]++;
  }
  /* Mean 64, standard deviation 8. */
  for (uint32_t i = 0; i < 1024; i++) assert_in_range(bucket[i], 20, 120);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rfc1071_example), cmocka_unit_test(test_all_lengths),
      cmocka_unit_test(test_copy),
      cmocka_unit_test(test_pieces),          cmocka_unit_test(test_pseudo),
      cmocka_unit_test(test_ip4_header),      cmocka_unit_test(test_update),
      cmocka_unit_test(test_siphash),         cmocka_unit_test(test_flow_hash_spreads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
