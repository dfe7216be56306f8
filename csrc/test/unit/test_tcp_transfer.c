/* Whole transfers between two stacks: every byte, both ways, over wires of all kinds. */
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

static bool both_closed(struct tp *tp, void *ctx) {
  (void)ctx;
  const struct tp_sess *a = tp->end[0].last;
  const struct tp_sess *b = tp->end[1].last;
  return a != NULL && b != NULL && a->closed && b->closed;
}

static void transfer(struct tp *tp, uint64_t a_bytes, uint64_t b_bytes) {
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.to_send = b_bytes, .close_at_end = true};
  struct tp_sess like = {.to_send = a_bytes, .close_at_end = true};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  assert_true(tp_run_until(tp, 3600 * TP_S, both_closed, NULL));
  struct tp_sess *b = tp->end[1].last;
  assert_int_equal(a->received, b_bytes);
  assert_int_equal(b->received, a_bytes);
  assert_int_equal(a->wrong, 0);
  assert_int_equal(b->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  assert_int_equal(b->err, NP_ERR_EOF);
}

static void test_handshake(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  assert_int_equal(tp_conn(a)->state, NP_TCP_ESTABLISHED);
  assert_int_equal(tp_conn(b)->state, NP_TCP_ESTABLISHED);
  assert_int_equal(tp_conn(a)->mss, 1448);
  tp_free(tp);
}

static void test_clean_10mib(void **state) {
  (void)state;
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    struct tp_args args;
    tp_args_default(&args);
    args.v6 = v6 != 0;
    struct tp *tp = tp_new(&args);
    transfer(tp, 10 << 20, 10 << 20);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS) + tp_counter(tp, 1, NP_C_TCP_RETRANS), 0);
    tp_free(tp);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_handshake),
      cmocka_unit_test(test_clean_10mib),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
