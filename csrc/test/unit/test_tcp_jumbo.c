/* Segments longer than a buffer: chains of pieces on a port that gathers, lost, sent again, found too large
 * for the path, probed for. Buffers here take 1,664 bytes of payload, the link 9,000 bytes of packet. */
#include "base/port.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define SG NP_PORT_SG
#define SUM (NP_PORT_SG | NP_PORT_TX_CSUM)
#define TSO (SUM | NP_PORT_TSO)
#define MSS4 8948u /* with timestamps */
#define MSS6 8928u

static const uint32_t way[] = {SG, SUM, TSO};

static bool both_closed(struct tp *tp, void *ctx) {
  (void)ctx;
  const struct tp_sess *a = tp->end[0].last;
  const struct tp_sess *b = tp->end[1].last;
  return a != NULL && b != NULL && a->closed && b->closed;
}

/* Largest payload seen from end 0, and what does not pass. */
struct seen {
  uint32_t largest;
  uint32_t limit; /* longer ones are lost; 0: none */
  uint32_t lost;
};
static bool look(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  struct seen *s = tp->drop_ctx;
  if (from != 0) return false;
  if (s->limit != 0 && seg->len > s->limit) {
    s->lost++;
    return true;
  }
  s->largest = np_max_u32(s->largest, seg->len);
  return false;
}

static struct tp *new_tp(struct tp_args *args, uint32_t caps, struct seen *seen) {
  struct tp *tp = tp_new(args);
  tp->mtu = 9000;
  tp->caps = caps;
  tp->tso_bytes_max = caps & NP_PORT_TSO ? 65535 : 0;
  tp->drop = look;
  tp->drop_ctx = seen;
  return tp;
}

/* bytes both ways, to the end. Return: segments with data that end 0 put on the wire. */
static uint64_t transfer(struct tp *tp, uint32_t piece, uint64_t bytes) {
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.to_send = bytes, .close_at_end = true, .piece = piece};
  struct tp_sess like = {.to_send = bytes, .close_at_end = true, .piece = piece};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  assert_true(tp_run_until(tp, 3600 * TP_S, both_closed, NULL));
  const struct tp_sess *b = tp->end[1].last;
  assert_int_equal(a->received, bytes);
  assert_int_equal(b->received, bytes);
  assert_int_equal(a->wrong + b->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  assert_int_equal(b->err, NP_ERR_EOF);
  return tp->end[0].data_segs;
}

static void test_full(void **state) {
  (void)state;
  static const uint32_t piece[] = {0, 700, 1000, 1448, 1664};
  for (uint32_t w = 0; w < NP_COUNT_OF(way); w++) {
    for (uint32_t i = 0; i < NP_COUNT_OF(piece); i++) {
      struct tp_args args;
      tp_args_default(&args);
      args.v6 = i % 2 != 0;
      struct seen seen = {0};
      struct tp *tp = new_tp(&args, way[w], &seen);
      uint64_t bytes = 4 << 20;
      uint64_t segs = transfer(tp, piece[i], bytes);
      uint32_t mss = args.v6 ? MSS6 : MSS4;
      assert_int_equal(seen.largest, mss);
      if (segs > bytes / mss + bytes / mss / 8 + 12) fail_msg("way %u, pieces of %u: %llu segments", w, piece[i], (unsigned long long)segs);
      assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS) + tp_counter(tp, 1, NP_C_TCP_RETRANS), 0);
      tp_free(tp);
    }
  }
}

/* What both ends say of the link, with and without a port that gathers; without, a segment is a buffer. */
static void test_announced(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 4; i++) {
    struct tp_args args;
    tp_args_default(&args);
    args.v6 = i % 2 != 0;
    struct seen seen = {0};
    struct tp *tp = new_tp(&args, i < 2 ? SG : 0, &seen);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    for (uint32_t end = 0; end < 2; end++) {
      const struct tp_seg *syn = &tp->end[end].log[0];
      assert_true(syn->flags & NP_TCP_SYN);
      assert_int_equal(syn->opts.mss, args.v6 ? 8940 : 8960);
    }
    uint32_t buffer = 2048 - NP_BUF_DATA_OFF;
    assert_int_equal(tp_conn(a)->mss, i < 2 ? (args.v6 ? MSS6 : MSS4) : buffer - NP_TCP_TS_BYTES);
    tp_write(a, 100000);
    tp_run(tp, TP_S);
    assert_int_equal(b->received, 100000);
    assert_int_equal(seen.largest, tp_conn(a)->mss);
    tp_free(tp);
  }
}

static void test_bad_wires(void **state) {
  (void)state;
  static const uint32_t piece[] = {0, 99, 1000, 1448};
  for (uint64_t seed = 1; seed <= 48; seed++) {
    struct tp_args args;
    tp_args_default(&args);
    args.seed = seed;
    args.v6 = seed % 2 != 0;
    for (uint32_t k = 0; k < 2; k++) {
      args.config[k].user_timeout_ms = 3600000;
      args.config[k].sack = seed % 5 != 0;
      args.config[k].timestamps = seed % 7 != 0;
      args.config[k].nagle = seed % 4 == 0;
      args.config[k].mtu_probing = (uint8_t)(seed % NP_MTU_PROBING_COUNT);
    }
    struct seen seen = {0};
    struct tp *tp = new_tp(&args, way[seed % NP_COUNT_OF(way)], &seen);
    tp->loss = 300;
    tp->dup = 200;
    tp->reorder = 400;
    tp->corrupt = 100;
    tp->jitter_ns = 3 * TP_MS;
    tp->hold_ns = seed % 3 != 0 ? 30 * TP_MS : 0;
    transfer(tp, piece[seed % NP_COUNT_OF(piece)], 300000);
    tp_free(tp);
  }
}

/* A router says what it carries: of all that is too large nothing waits for a timer, whether the pieces fit or not. */
static void test_too_big(void **state) {
  (void)state;
  static const uint32_t mtu[] = {1500, 3000, 8000};
  for (uint32_t w = 0; w < NP_COUNT_OF(way); w++) {
    for (uint32_t i = 0; i < NP_COUNT_OF(mtu); i++) {
      struct tp_args args;
      tp_args_default(&args);
      struct seen seen = {.limit = mtu[i] - 52};
      struct tp *tp = new_tp(&args, way[w], &seen);
      struct tp_sess *a;
      struct tp_sess *b;
      tp_establish(tp, &a, &b);
      struct np_tcp_conn *c = tp_conn(a);
      tp_write(a, 200000);
      tp_flush(tp);
      assert_true(seen.lost > 0);
      assert_true(np_tcp_error(tp->end[0].tcp, &c->flow, c->snd_una.v, NP_ERR_UNREACHABLE, true, mtu[i]));
      assert_int_equal(c->mss, mtu[i] - 52);
      tp_run(tp, 150 * TP_MS);
      assert_int_equal(b->received, 200000);
      assert_int_equal(b->wrong, 0);
      assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RTO), 0);
      assert_int_equal(tp_counter(tp, 0, NP_C_TCP_TLP), 0);
      assert_true(seen.largest <= mtu[i] - 52);
      tp_free(tp);
    }
  }
}

/* Nobody says it: two timeouts of a whole packet, then a search from below. */
static void test_black_hole(void **state) {
  (void)state;
  static const uint32_t mtu[] = {1500, 3000, 8000};
  for (uint32_t w = 0; w < 2; w++) {
    for (uint32_t i = 0; i < NP_COUNT_OF(mtu); i++) {
      struct tp_args args;
      tp_args_default(&args);
      for (uint32_t k = 0; k < 2; k++) args.config[k].mtu_probing = NP_MTU_PROBING_BLACKHOLE;
      struct seen seen = {.limit = mtu[i] - 52};
      struct tp *tp = new_tp(&args, way[w], &seen);
      struct tp_sess *a;
      struct tp_sess *b;
      tp_establish(tp, &a, &b);
      tp_write(a, 3000000);
      tp_run(tp, 30 * TP_S);
      assert_int_equal(b->received, 3000000);
      assert_int_equal(b->wrong, 0);
      assert_int_equal(tp_counter(tp, 0, NP_C_TCP_PMTU_BLACKHOLES), 1);
      assert_in_range(tp_conn(a)->mss, mtu[i] - 52 - 40, mtu[i] - 52);
      tp_free(tp);
    }
  }
}

/* From a base that passes everywhere to the link's own size, by a probe of several pieces. */
static void test_probe(void **state) {
  (void)state;
  for (uint32_t w = 0; w < NP_COUNT_OF(way); w++) {
    struct tp_args args;
    tp_args_default(&args);
    for (uint32_t k = 0; k < 2; k++) args.config[k].mtu_probing = NP_MTU_PROBING_ALWAYS;
    struct seen seen = {0};
    struct tp *tp = new_tp(&args, way[w], &seen);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    assert_int_equal(tp_conn(a)->mss, 1012);
    tp_write(a, 1000000);
    tp_run(tp, 2 * TP_S);
    assert_int_equal(b->received, 1000000);
    assert_int_equal(b->wrong, 0);
    assert_int_equal(tp_conn(a)->mss, MSS4);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_PMTU_PROBES_OK), 1);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS), 0);
    tp_free(tp);
  }
}

/* One segment overtakes another: six pieces are SACKed, which is one segment and no sign of loss. */
static bool late(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  uint32_t *nth = tp->drop_ctx;
  if (from != 0 || seg->len == 0) return false;
  return ++*nth == 3;
}

static void test_one_sacked(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct seen seen = {0};
  struct tp *tp = new_tp(&args, SG, &seen);
  tp->delay_ns = 20 * TP_MS;
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct np_tcp_conn *c = tp_conn(a);
  tp_write(a, 2 * MSS4);
  tp_run(tp, 200 * TP_MS);
  assert_int_equal(b->received, 2 * MSS4);
  uint32_t nth = 2;
  tp->drop = late;
  tp->drop_ctx = &nth;
  tp_write(a, 2 * MSS4); /* the first of these is lost, the second SACKed */
  tp_flush(tp);
  tp_run(tp, 41 * TP_MS);
  assert_true(c->sacked_segs >= 5);
  assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS), 0);
  tp_run(tp, 200 * TP_MS);
  assert_int_equal(b->received, 4 * MSS4);
  assert_int_equal(tp->end[0].data_segs, 5); /* as one packet again */
  assert_int_equal(tp_sent(tp, 0, 0)->len, MSS4);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_full),      cmocka_unit_test(test_announced),  cmocka_unit_test(test_bad_wires), cmocka_unit_test(test_too_big),
      cmocka_unit_test(test_black_hole), cmocka_unit_test(test_probe),     cmocka_unit_test(test_one_sacked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
