#include "base/seq.h"
#include "np/counter.h"
#include "np/err.h"
#include "test/unit/cmocka_np.h"

static void test_order(void **state) {
  (void)state;
  static const struct {
    uint32_t a, b;
    int order; /* of a against b */
  } row[] = {
      {0, 0, 0},
      {0, 1, -1},
      {1, 0, 1},
      {UINT32_MAX, 0, -1},
      {0, UINT32_MAX, 1},
      {0x7fffffff, 0, 1},
      {0xfffffff0, 0x10, -1},
      {0x80000001, 0, -1},
      {0x12345678, 0x92345677, -1},
  };
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    np_seq a = np_seq_of(row[i].a);
    np_seq b = np_seq_of(row[i].b);
    assert_int_equal(np_seq_eq(a, b), row[i].order == 0);
    assert_int_equal(np_seq_lt(a, b), row[i].order < 0);
    assert_int_equal(np_seq_le(a, b), row[i].order <= 0);
    assert_int_equal(np_seq_gt(a, b), row[i].order > 0);
    assert_int_equal(np_seq_ge(a, b), row[i].order >= 0);
    assert_int_equal(np_seq_max(a, b).v, row[i].order > 0 ? a.v : b.v);
    assert_int_equal(np_seq_min(a, b).v, row[i].order < 0 ? a.v : b.v);
  }
}

static void test_in(void **state) {
  (void)state;
  np_seq lo = np_seq_of(UINT32_MAX - 1);
  np_seq hi = np_seq_add(lo, 4);
  assert_int_equal(hi.v, 2);
  assert_true(np_seq_in(lo, lo, hi));
  assert_true(np_seq_in(np_seq_of(0), lo, hi));
  assert_true(np_seq_in(np_seq_of(1), lo, hi));
  assert_false(np_seq_in(hi, lo, hi));
  assert_false(np_seq_in(np_seq_sub(lo, 1), lo, hi));
  assert_false(np_seq_in(lo, lo, lo));
}

static void test_texts(void **state) {
  (void)state;
  assert_string_equal(np_err_text(NP_ERR_OK), "ok");
  assert_string_equal(np_err_text(NP_ERR_PORTDOWN), "port is down");
  assert_string_equal(np_err_text((enum np_err)9999), "unknown error");
  assert_string_equal(np_drop_text(NP_DROP_TCP_CHECKSUM), "tcp_bad_checksum");
  assert_string_equal(np_drop_text(NP_DROP_COUNT), "unknown reason");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order),
      cmocka_unit_test(test_in),
      cmocka_unit_test(test_texts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
