/* Windows and buffers over paths: they grow to what the path needs and no further. */
#include "test/unit/cmocka_np.h"
#include "test/unit/flow_rig.h"

static struct np_plane_config large(void) {
  struct np_plane_config c;
  np_plane_config_default(&c);
  c.bufs_per_core = 65536;
  c.conns_max = 64;
  c.streams_max = 64;
  c.loans_per_core = 64;
  c.tcp_rcv_buf_bytes = 32u << 20;
  c.tcp_snd_buf_bytes = 32u << 20;
  return c;
}

static const struct np_sim_params far_gigabit = {.delay_ns = 50 * FLOW_MS, .rate_bps = 1000000000, .queue_bytes = 24u << 20};

/* Bytes of payload that a second carries at most. */
#define GOODPUT (1000000000 / 8)

static void test_far_gigabit_receiving(void **state) {
  (void)state;
  struct np_plane_config config = large();
  struct flow *f = flow_new(&config, &far_gigabit, 1);
  struct flow_client *c = flow_connect(f, 0, FLOW_CHARGEN, 0, false);
  flow_run(f, 200 * FLOW_MS);
  assert_true(np_tcp_rcv_buf(flow_tcp(f, 0), flow_conn(c)) < 1u << 20); /* began small */
  flow_run(f, 1800 * FLOW_MS);
  uint64_t before = c->got;
  flow_run(f, 1000 * FLOW_MS);
  assert_in_range(c->got - before, GOODPUT / 10 * 9, GOODPUT);
  assert_int_equal(flow_counter(f, 1, NP_C_TCP_RETRANS), 0);
  flow_free(f);
}

static void test_far_gigabit_sending(void **state) {
  (void)state;
  struct np_plane_config config = large();
  struct flow *f = flow_new(&config, &far_gigabit, 1);
  struct flow_client *c = flow_connect(f, 0, FLOW_DISCARD, UINT64_MAX, false);
  flow_run(f, 2000 * FLOW_MS);
  uint64_t before = flow_peer(c)->bytes_rx;
  flow_run(f, 1000 * FLOW_MS);
  assert_in_range(flow_peer(c)->bytes_rx - before, GOODPUT / 10 * 9, GOODPUT);
  flow_free(f);
}

/* Without timestamps a round trip is a window's worth. */
static void test_far_without_timestamps(void **state) {
  (void)state;
  struct np_plane_config config = large();
  config.tcp_no_timestamps = 1;
  struct np_sim_params path = far_gigabit;
  path.rate_bps = 100000000;
  struct flow *f = flow_new(&config, &path, 1);
  struct flow_client *c = flow_connect(f, 0, FLOW_CHARGEN, 0, false);
  flow_run(f, 2000 * FLOW_MS);
  uint64_t before = c->got;
  flow_run(f, 1000 * FLOW_MS);
  assert_in_range(c->got - before, GOODPUT / 100 * 9, GOODPUT / 10);
  flow_free(f);
}

/* What a near path or a slow one needs is little, and that is all it gets. */
static void test_near_stays_small(void **state) {
  (void)state;
  struct np_plane_config config = large();
  struct np_sim_params near = {.delay_ns = 50000, .rate_bps = 1000000000, .queue_bytes = 1u << 20};
  struct flow *f = flow_new(&config, &near, 1);
  struct flow_client *c = flow_connect(f, 0, FLOW_CHARGEN, 0, false);
  flow_run(f, 500 * FLOW_MS);
  assert_true(c->got > GOODPUT / 10 * 4);
  assert_true(np_tcp_rcv_buf(flow_tcp(f, 0), flow_conn(c)) <= 256 * 1024);
  flow_free(f);
  struct np_sim_params slow = {.delay_ns = 20 * FLOW_MS, .rate_bps = 10000000, .queue_bytes = 1u << 20};
  f = flow_new(&config, &slow, 1);
  c = flow_connect(f, 0, FLOW_CHARGEN, 0, false);
  flow_run(f, 5000 * FLOW_MS);
  assert_true(c->got > 5 * (GOODPUT / 1000) * 9);
  assert_true(np_tcp_rcv_buf(flow_tcp(f, 0), flow_conn(c)) <= 1024 * 1024);
  flow_free(f);
}

/* The session that reads nothing gets the first window and no more; the sender of what is
 * not read keeps no more than its queue's least. */
static void test_held_does_not_grow(void **state) {
  (void)state;
  struct np_plane_config config = large();
  struct flow *f = flow_new(&config, &far_gigabit, 1);
  struct flow_client *c = flow_connect(f, 0, FLOW_CHARGEN, 0, true);
  flow_run(f, 3000 * FLOW_MS);
  assert_in_range(c->got, NP_TCP_BUF_START - 1448, NP_TCP_BUF_START);
  const struct np_tcp_conn *p = flow_peer(c);
  assert_in_range(np_seq_diff(p->snd_end, p->snd_una), 1, 256 * 1024);
  flow_free(f);
}

/* The wait before a burst is no round trip: the window grows within it all the same. */
static void test_grows_after_idle(void **state) {
  (void)state;
  for (uint32_t idle_s = 1; idle_s <= 65; idle_s += 16) {
    struct np_plane_config config = large();
    struct np_sim_params path = {.delay_ns = 25 * FLOW_MS, .rate_bps = 200000000, .queue_bytes = 4u << 20};
    struct flow *f = flow_new(&config, &path, 1);
    struct flow_client *c = flow_connect(f, 0, FLOW_DISCARD, 100, false);
    flow_run(f, idle_s * 1000 * FLOW_MS);
    c->to_send = UINT64_MAX;
    c->session.ops->writable(&c->session);
    flow_run(f, 7000 * FLOW_MS);
    assert_true(np_tcp_rcv_buf(flow_tcp(f, 1), flow_peer(c)) >= 2 * 200000000 / 8 / 20);
    flow_free(f);
  }
}

/* A thousand peers that read nothing hold what their queues' least is and no more than the pool
 * spares; one that reads is served all the same, and what they held comes back. */
static void test_thousand_slow_readers(void **state) {
  (void)state;
  struct np_plane_config config = large();
  config.conns_max = 2048;
  struct np_sim_params path = {.delay_ns = FLOW_MS, .rate_bps = 10000000000, .queue_bytes = 8u << 20};
  const uint32_t bufs[2] = {131072, 16384}; /* the readers keep all that comes: the rig's client stops at a quarter */
  struct flow *f = flow_new_pools(&config, &path, 1001, bufs);
  for (uint32_t i = 0; i < 1000; i++) {
    flow_connect(f, i, FLOW_CHARGEN, 0, true);
    if (i % 50 == 49) flow_run(f, 2 * FLOW_MS);
  }
  flow_run(f, 3000 * FLOW_MS);
  const struct np_pool *pool = np_core_pool(f->host[1].core);
  assert_true(pool->low_count >= pool->count / 16);
  struct flow_client *good = flow_connect(f, 1000, FLOW_ECHO, 2000000, false);
  flow_run(f, 5000 * FLOW_MS);
  assert_int_equal(good->got, 2000000);
  assert_true(pool->low_count >= pool->count / 16);
  flow_free(f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_far_gigabit_receiving),
      cmocka_unit_test(test_far_gigabit_sending),
      cmocka_unit_test(test_far_without_timestamps),
      cmocka_unit_test(test_near_stays_small),
      cmocka_unit_test(test_held_does_not_grow),
      cmocka_unit_test(test_grows_after_idle),
      cmocka_unit_test(test_thousand_slow_readers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
