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

/* What a row of the table below changes in both ends. */
struct wire {
  uint32_t loss;
  uint32_t dup;
  uint32_t reorder;
  uint32_t corrupt;
  uint64_t hold_ns;
  bool no_sack;
  bool no_ts;
  bool no_wscale;
  bool nagle;
};

static void over(const struct wire *w, uint64_t seed, uint64_t bytes) {
  struct tp_args args;
  tp_args_default(&args);
  args.seed = seed;
  args.v6 = seed % 2 != 0;
  for (uint32_t i = 0; i < 2; i++) {
    args.config[i].sack = !w->no_sack;
    args.config[i].timestamps = !w->no_ts;
    args.config[i].window_scaling = !w->no_wscale;
    args.config[i].nagle = w->nagle;
    args.config[i].user_timeout_ms = 3600000;
    args.config[i].secret[0] = (uint8_t)seed;
  }
  struct tp *tp = tp_new(&args);
  tp->loss = w->loss;
  tp->dup = w->dup;
  tp->reorder = w->reorder;
  tp->corrupt = w->corrupt;
  tp->hold_ns = w->hold_ns;
  tp->jitter_ns = 3 * TP_MS;
  transfer(tp, bytes, bytes / 2);
  tp_free(tp);
}

static void sweep(const struct wire *w, uint64_t bytes, uint64_t seeds) {
  for (uint64_t seed = 1; seed <= seeds; seed++) over(w, seed, bytes);
}

static void test_loss(void **state) {
  (void)state;
  sweep(&(struct wire){.loss = 10}, 10 << 20, 2);
  sweep(&(struct wire){.loss = 100}, 10 << 20, 2);
  sweep(&(struct wire){.loss = 500}, 2 << 20, 10);
}

static void test_reordering(void **state) {
  (void)state;
  sweep(&(struct wire){.reorder = 200}, 10 << 20, 2);
  sweep(&(struct wire){.reorder = 3000}, 2 << 20, 6);
}

static void test_everything_wrong(void **state) {
  (void)state;
  struct wire w = {.loss = 200, .dup = 300, .reorder = 500, .corrupt = 200, .hold_ns = 5 * TP_MS};
  sweep(&w, 2 << 20, 20);
}

static void test_without_sack(void **state) {
  (void)state;
  struct wire w = {.loss = 100, .dup = 100, .reorder = 100, .corrupt = 50, .no_sack = true};
  sweep(&w, 2 << 20, 8);
  w.no_ts = true;
  sweep(&w, 2 << 20, 8);
}

static void test_plain_1981(void **state) {
  (void)state;
  struct wire w = {.loss = 100, .reorder = 100, .no_sack = true, .no_ts = true, .no_wscale = true, .nagle = true};
  sweep(&w, 1 << 20, 8);
}

/* The port keeps sent buffers for longer than the retransmission timeout. */
static void test_port_holds_buffers(void **state) {
  (void)state;
  struct wire w = {.loss = 300, .hold_ns = 600 * TP_MS};
  sweep(&w, 1 << 20, 6);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_handshake),
      cmocka_unit_test(test_clean_10mib),
      cmocka_unit_test(test_loss),
      cmocka_unit_test(test_reordering),
      cmocka_unit_test(test_everything_wrong),
      cmocka_unit_test(test_without_sack),
      cmocka_unit_test(test_plain_1981),
      cmocka_unit_test(test_port_holds_buffers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
