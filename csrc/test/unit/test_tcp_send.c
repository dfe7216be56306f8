/* Sending: full segments whatever sizes the session writes, pieces gathered, checksums and segmentation
 * left to the port. */
#include "base/port.h"
#include <time.h>

#include "test/sim/invariants.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define SG NP_PORT_SG
#define SUM (NP_PORT_SG | NP_PORT_TX_CSUM)
#define TSO (SUM | NP_PORT_TSO)

static bool both_closed(struct tp *tp, void *ctx) {
  (void)ctx;
  const struct tp_sess *a = tp->end[0].last;
  const struct tp_sess *b = tp->end[1].last;
  return a != NULL && b != NULL && a->closed && b->closed;
}

struct way {
  uint32_t caps;
  uint32_t tso_bytes_max;
  bool bad_wire;
  bool nagle;
};

/* Return: segments with data that end 0 put on the wire. */
static uint64_t transfer(uint64_t seed, const struct way *w, uint32_t piece, uint64_t bytes) {
  struct tp_args args;
  tp_args_default(&args);
  args.seed = seed;
  args.v6 = seed % 2 != 0;
  for (uint32_t k = 0; k < 2; k++) {
    args.config[k].user_timeout_ms = 3600000;
    args.config[k].sack = seed % 5 != 0;
    args.config[k].timestamps = seed % 3 != 0;
    args.config[k].nagle = w->nagle;
  }
  struct tp *tp = tp_new(&args);
  tp->caps = w->caps;
  tp->tso_bytes_max = w->tso_bytes_max;
  if (w->bad_wire) {
    tp->loss = 200;
    tp->dup = 200;
    tp->reorder = 400;
    tp->corrupt = 100;
    tp->jitter_ns = 3 * TP_MS;
    tp->hold_ns = seed % 2 != 0 ? 30 * TP_MS : 0;
  }
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.to_send = bytes, .close_at_end = true, .piece = piece};
  struct tp_sess like = {.to_send = bytes, .close_at_end = true, .piece = piece};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  assert_true(tp_run_until(tp, 3600 * TP_S, both_closed, NULL));
  struct tp_sess *b = tp->end[1].last;
  assert_int_equal(a->received, bytes);
  assert_int_equal(b->received, bytes);
  assert_int_equal(a->wrong + b->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  assert_int_equal(b->err, NP_ERR_EOF);
  if (!w->bad_wire) assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS) + tp_counter(tp, 1, NP_C_TCP_RETRANS), 0);
  uint64_t segs = tp->end[0].data_segs;
  tp_free(tp);
  return segs;
}

static const uint32_t piece[] = {1, 99, 300, 724, 1000, 1447, 1448, 1449, 1700};
static const struct way way[] = {{0, 0, false, false},     {SG, 0, false, false},        {SUM, 0, false, false},
                                 {TSO, 65535, false, false}, {TSO, 6000, false, false}, {TSO, 2000, false, false}};

/* On a clean wire nearly every segment is a full one: what the window cuts off is the exception. */
static void test_full_segments(void **state) {
  (void)state;
  for (uint32_t w = 0; w < NP_COUNT_OF(way); w++) {
    for (uint32_t i = 0; i < NP_COUNT_OF(piece); i++) {
      uint64_t bytes = piece[i] < 50 ? 100000 : 1 << 20;
      uint64_t segs = transfer(1 + i, &way[w], piece[i], bytes);
      uint64_t full = bytes / 1428 + 1; /* IPv6 with timestamps */
      if (segs > full + full / 12 + 8) {
        fail_msg("way %u, pieces of %u: %llu segments for %llu full ones", w, piece[i], (unsigned long long)segs, (unsigned long long)full);
      }
    }
  }
}

static void test_bad_wires(void **state) {
  (void)state;
  for (uint32_t w = 0; w < NP_COUNT_OF(way); w++) {
    for (uint32_t i = 0; i < NP_COUNT_OF(piece); i++) {
      struct way bad = way[w];
      bad.bad_wire = true;
      bad.nagle = i % 2 != 0;
      for (uint64_t seed = 1; seed <= 3; seed++) transfer(seed + i * 3, &bad, piece[i], piece[i] < 50 ? 30000 : 300000);
    }
  }
}

/* Of a packet that the port cuts one segment is lost: that one alone goes out again. */
static bool lose_one(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  uint32_t *left = tp->drop_ctx;
  if (from != 0 || seg->len != 1448 || *left == 0) return false;
  (*left)--;
  return *left == 0;
}

static void test_part_lost(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  tp->caps = TSO;
  tp->tso_bytes_max = 65535;
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  uint32_t left = 4;
  tp->drop = lose_one;
  tp->drop_ctx = &left;
  tp_write(a, 10 * 1448);
  tp_flush(tp);
  assert_int_equal(tp->end[0].log_count, 2 + 10); /* SYN, ACK, and one packet in ten segments */
  tp_run(tp, 100 * TP_MS);
  assert_int_equal(b->received, 10 * 1448);
  assert_int_equal(b->wrong, 0);
  assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS), 1);
  assert_int_equal(tp_conn(a)->segs_tx, 2 + 11);
  tp_free(tp);
}

static uint64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * TP_S + (uint64_t)t.tv_nsec;
}

/* Pieces longer than a segment, so that each is cut, and nothing acknowledged. What a segment costs must not
 * depend on what is in flight: times are printed, for people. */
static void test_cut_behind_a_flight(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.bufs = 32768;
  for (uint32_t k = 0; k < 2; k++) {
    args.config[k].autotune = false;
    args.config[k].snd_buf_bytes = args.config[k].rcv_buf_bytes = 16u << 20;
  }
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct np_tcp_conn *c = tp_conn(a);
  c->cwnd = c->snd_wnd = 64u << 20;
  a->piece = 1700;
  tp->cut = true;
  for (uint32_t i = 0; i < 9; i++) {
    uint64_t segs = c->segs_tx;
    uint32_t before = c->snd_segs;
    uint64_t began = clock_ns();
    tp_write(a, 1700 * 512);
    for (uint32_t n = 0; n < 20; n++) tp_flush(tp);
    uint64_t took = clock_ns() - began;
    assert_in_range(c->segs_tx - segs, 512, 1200);
    print_message("%u pieces in flight: %llu ns a segment\n", before, (unsigned long long)(took / (c->segs_tx - segs)));
  }
  assert_true(c->snd_segs > 4500);
  uint32_t slot;
  assert_null(np_inv_tcp(tp->end[0].tcp, &slot));
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_full_segments),
      cmocka_unit_test(test_bad_wires),
      cmocka_unit_test(test_part_lost),
      cmocka_unit_test(test_cut_behind_a_flight),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
