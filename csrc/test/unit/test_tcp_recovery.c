/* Loss recovery over a wire: what a script cannot say, because it takes many segments or chance.
 * Invariants of the scoreboard are looked at as the simulation does (test/sim/invariants.h). */
#include "tcp/cc.h"
#include "test/sim/invariants.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define MSS 1448u

struct wire {
  struct tp *tp;
  struct tp_sess *a;
  struct tp_sess *b;
  struct np_tcp_conn *c; /* a's */
};

/* A connection that has sent warm bytes, with so much delay each way. */
static struct wire wired(uint64_t delay_ns, uint32_t warm) {
  struct tp_args args;
  tp_args_default(&args);
  args.bufs = 16384;
  args.config[0].autotune = args.config[1].autotune = false;
  args.config[0].snd_buf_bytes = 8u << 20;
  args.config[1].rcv_buf_bytes = 8u << 20;
  args.config[1].ooo_segs_max = 8192; /* what is dropped there is lost */
  struct wire w = {.tp = tp_new(&args)};
  w.tp->delay_ns = delay_ns;
  tp_establish(w.tp, &w.a, &w.b);
  tp_write(w.a, warm);
  tp_run(w.tp, 2 * TP_S);
  assert_int_equal(w.b->received, warm);
  w.c = tp_conn(w.a);
  return w;
}

static void check(struct wire *w) {
  uint32_t slot;
  const char *wrong = np_inv_tcp(w->tp->end[0].tcp, &slot);
  if (wrong != NULL) print_error("connection %u: %s\n", slot, wrong);
  assert_null(wrong);
}

static uint64_t count(const struct wire *w, enum np_counter which) { return tp_counter(w->tp, 0, which); }

/* The segments from seq on are lost, the first times of each. */
struct loser {
  uint32_t from;
  uint32_t to;
  uint32_t times;
  uint32_t hit[64];
};

static bool lose(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  struct loser *l = tp->drop_ctx;
  if (from != 0 || seg->len == 0 || (int32_t)(seg->seq - l->from) < 0 || (int32_t)(seg->seq - l->to) >= 0) return false;
  uint32_t i = (seg->seq - l->from) / MSS;
  assert_true(i < NP_COUNT_OF(l->hit));
  return l->hit[i]++ < l->times;
}

static void lose_range(struct wire *w, struct loser *l, uint32_t first, uint32_t n, uint32_t times) {
  uint32_t at = w->c->snd_nxt.v + first * MSS;
  *l = (struct loser){.from = at, .to = at + n * MSS, .times = times};
  w->tp->drop = lose;
  w->tp->drop_ctx = l;
}

/* RFC 8985 §7: the end of a flight is lost, one segment or several; it is there in a few round
 * trips, without a timeout, and cwnd was reduced once. */
static void test_tail_loss(void **state) {
  (void)state;
  for (uint32_t n = 1; n <= 5; n++) {
    struct wire w = wired(10 * TP_MS, 200 * MSS);
    struct loser l;
    uint32_t cwnd = w.c->cwnd;
    lose_range(&w, &l, 20 - n, n, 1);
    tp_write(w.a, 20 * MSS);
    tp_run(w.tp, (n == 1 ? 300 : 200) * TP_MS); /* one alone may have its ACK delayed: probed for when the RTO is due */
    assert_int_equal(w.b->received, 220 * MSS);
    assert_int_equal(count(&w, NP_C_TCP_RTO), 0);
    assert_int_equal(count(&w, NP_C_TCP_TLP), 1);
    tp_write(w.a, MSS);
    tp_run(w.tp, 100 * TP_MS);
    assert_true(w.c->ssthresh < cwnd);
    assert_int_equal(w.c->ca_state, NP_CA_OPEN);
    check(&w);
    tp_free(w.tp);
  }
}

/* RFC 8985 §6: whatever is lost twice, or three times, is sent again without a timeout as long
 * as other data flows. */
static void test_lost_retransmissions(void **state) {
  (void)state;
  for (uint32_t times = 2; times <= 4; times++) {
    struct wire w = wired(10 * TP_MS, 200 * MSS);
    struct loser l;
    lose_range(&w, &l, 5, 3, times);
    tp_write(w.a, 600 * MSS);
    tp_run(w.tp, 2 * TP_S);
    assert_int_equal(w.b->received, 800 * MSS);
    assert_int_equal(count(&w, NP_C_TCP_RTO), 0);
    assert_int_equal(count(&w, NP_C_TCP_LOST_RETRANS), 3 * (times - 1));
    assert_int_equal(count(&w, NP_C_TCP_RETRANS), 3 * times);
    check(&w);
    tp_free(w.tp);
  }
}

/* A path that reorders and loses nothing: what it costs ends once the window has adapted. */
static void test_reordering_only(void **state) {
  (void)state;
  struct wire w = wired(10 * TP_MS, 200 * MSS);
  w.tp->reorder = 500;
  w.tp->jitter_ns = 4 * TP_MS; /* below a quarter of the round trip */
  tp_write(w.a, 4000 * MSS);
  tp_run(w.tp, 20 * TP_S);
  assert_int_equal(w.b->received, 4200 * MSS);
  assert_int_equal(count(&w, NP_C_TCP_RTO), 0);
  assert_true(w.c->rack.flags & NP_RK_REORD);
  assert_true(count(&w, NP_C_TCP_RETRANS) <= 8); /* before the first was seen */
  uint64_t again = count(&w, NP_C_TCP_RETRANS);
  tp_write(w.a, 4000 * MSS);
  tp_run(w.tp, 20 * TP_S);
  assert_int_equal(w.b->received, 8200 * MSS);
  assert_int_equal(count(&w, NP_C_TCP_RETRANS), again);
  check(&w);
  tp_free(w.tp);
}

static void sack(struct wire *w, uint32_t ack, uint32_t n, const uint32_t *edges) {
  struct np_tcp_block none = {{0}, {0}};
  struct np_tcp_block k[4];
  for (uint32_t i = 0; i < n; i++) k[i] = (struct np_tcp_block){{edges[2 * i]}, {edges[2 * i + 1]}};
  struct tp_seg s = tp_peer_seg(w->a, NP_TCP_ACK);
  s.ack = ack;
  s.opt_bytes = 12;
  s.opt_bytes = (uint8_t)(s.opt_bytes + np_tcp_opts_put_sack(s.opt + s.opt_bytes, &none, k, n, 28));
  tp_inject(w->tp, 0, &s, NULL);
  tp_flush(w->tp);
}

/* Thousands in flight, every other one missing up to far beyond what one walk may pass: all that is
 * SACKed is known, because a run of it is one step; an ACK that brings one more is not a walk over all. */
static void test_many_in_flight(void **state) {
  (void)state;
  struct wire w = wired(10 * TP_MS, 200 * MSS);
  w.tp->cut = true;
  w.c->cwnd = 4000 * MSS;
  w.c->last_tx_ns = w.tp->now_ns; /* not idle */
  tp_write(w.a, 4000 * MSS);
  for (uint32_t i = 0; i < 80; i++) tp_flush(w.tp);
  uint32_t una = w.c->snd_una.v;
  uint32_t sent = np_tcp_flight(w.c) / MSS;
  assert_true(sent > 2000);
  /* From 600 on in runs of ten, each ACK adding one segment at the end of the run, and telling the two before again. Those
   * are known, though a walk would not reach them, and so they stay as long as they are told. */
  uint32_t expected = 0;
  for (uint32_t run = 600; run + 10 <= sent; run += 11) {
    for (uint32_t n = 1; n <= 10; n++) {
      uint32_t at = una + run * MSS;
      uint32_t edges[6] = {at, at + n * MSS, at - 11 * MSS, at - MSS, at - 22 * MSS, at - 12 * MSS};
      uint32_t blocks = np_min_u32((run - 600) / 11 + 1, 3);
      sack(&w, una, blocks, edges);
      expected++;
      for (uint32_t i = 0; i < blocks; i++) assert_int_equal(w.c->seen[i].end.v, edges[2 * i + 1]);
    }
  }
  assert_int_equal(w.c->sacked_segs, expected);
  /* Then a hole far behind the highest is filled: found though more than a walk's length lies before. */
  uint32_t hole = 600 + 11 * 60 + 10;
  uint32_t edges[2] = {una + (hole - 10) * MSS, una + (hole + 11) * MSS};
  sack(&w, una, 1, edges);
  assert_int_equal(w.c->sacked_segs, expected + 1);
  check(&w);
  w.tp->cut = false;
  tp_run(w.tp, 60 * TP_S);
  assert_true(w.a->closed || w.b->received > 0);
  tp_free(w.tp);
}

/* Slow start overflows the queue of a long, fast path: every other segment of thousands is lost, and each ACK reports
 * three of the runs between. What was SACKed is known all the time, so that what was lost goes out again and nothing else. */
static void test_queue_overflow(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.bufs = 65536;
  for (uint32_t i = 0; i < 2; i++) args.config[i].snd_buf_bytes = args.config[i].rcv_buf_bytes = 32u << 20;
  struct wire w = {.tp = tp_new(&args)};
  w.tp->delay_ns = 50 * TP_MS;
  w.tp->rate_bytes_per_s = 125000000;
  w.tp->queue_bytes = 1u << 20;
  tp_establish(w.tp, &w.a, &w.b);
  w.c = tp_conn(w.a);
  tp_write(w.a, 50000000);
  tp_run(w.tp, 3 * TP_S);
  assert_int_equal(w.b->received, 50000000);
  assert_true(w.tp->queue_losses > 1000);
  assert_int_equal(count(&w, NP_C_TCP_RETRANS), w.tp->queue_losses);
  assert_int_equal(tp_drops(w.tp, 1, NP_DROP_TCP_DUP) + tp_drops(w.tp, 1, NP_DROP_TCP_OOO_LIMIT), 0);
  assert_int_equal(count(&w, NP_C_TCP_RTO), 0);
  check(&w);
  tp_free(w.tp);
}

static bool lose_one_in_100(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  return from == 0 && seg->len != 0 && np_rng_below(&tp->rng, 100) == 0;
}

/* One segment in a hundred is lost on a path of 20 ms, for a minute: in its Reno-friendly region CUBIC then has
 * sqrt(3 / 2p) segments on the average (RFC 9438 §4.3, equation 4 and §5.1), 7.1 Mbit/s. Each episode is one: what an
 * episode before sent again, and is acknowledged in the next, does not prove the next one spurious. */
static void test_goodput_under_loss(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 3; seed++) {
    struct tp_args args;
    tp_args_default(&args);
    args.seed = seed;
    struct wire w = {.tp = tp_new(&args)};
    w.tp->delay_ns = 10 * TP_MS;
    w.tp->rate_bytes_per_s = 125000000;
    w.tp->queue_bytes = 1u << 20;
    tp_establish(w.tp, &w.a, &w.b);
    w.c = tp_conn(w.a);
    tp_write(w.a, UINT64_C(1) << 40);
    tp_run(w.tp, 2 * TP_S);
    w.tp->drop = lose_one_in_100;
    tp_run(w.tp, 2 * TP_S);
    uint64_t before = w.b->received;
    tp_run(w.tp, 60 * TP_S);
    uint64_t kbit_per_s = (w.b->received - before) * 8 / 60 / 1000;
    assert_in_range(kbit_per_s, 6400, 8500);
    assert_int_equal(tp_drops(w.tp, 1, NP_DROP_TCP_DUP), 0); /* nothing was sent again in vain */
    assert_int_equal(w.c->rack.undos + w.c->rack.reorders, 0);
    assert_int_equal(count(&w, NP_C_TCP_RTO), 0);
    tp_free(w.tp);
  }
}

/* Whatever blocks and acknowledgments a peer makes up: the counts stay right, and cwnd a segment or more. */
static void test_sack_chaos(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct wire w = wired(TP_MS, 100 * MSS);
    struct np_rng rng;
    np_rng_init(&rng, seed);
    w.tp->cut = true;
    tp_write(w.a, 3000 * MSS);
    tp_flush(w.tp);
    for (uint32_t i = 0; i < 600 && !w.a->closed; i++) {
      uint32_t flight = np_tcp_flight(w.c);
      uint32_t edges[6];
      for (uint32_t j = 0; j < 3; j++) {
        edges[2 * j] = w.c->snd_una.v + (flight == 0 ? 0 : np_rng_below(&rng, flight)) - np_rng_below(&rng, 3 * MSS);
        edges[2 * j + 1] = edges[2 * j] + 1 + np_rng_below(&rng, 8) * (np_rng_below(&rng, 2) ? MSS : 700);
      }
      uint32_t ack = w.c->snd_una.v;
      if (np_rng_below(&rng, 4) == 0 && flight != 0) ack += np_rng_below(&rng, np_min_u32(flight, 6 * MSS));
      sack(&w, ack, 1 + np_rng_below(&rng, 3), edges);
      check(&w);
      assert_true(w.c->cwnd >= w.c->mss);
      if (np_rng_below(&rng, 5) == 0) tp_run(w.tp, np_rng_below(&rng, 300) * TP_MS);
      check(&w);
    }
    tp_free(w.tp);
  }
}

/* RFC 8985 §6.2: the shortest round trip is one of the last minutes. A path that grew longer gets the
 * reordering window it needs. */
static void test_longer_path(void **state) {
  (void)state;
  struct wire w = wired(10 * TP_MS, 200 * MSS);
  assert_in_range(w.c->min_rtt_us, 20000, 21000);
  w.tp->delay_ns = 40 * TP_MS;
  for (uint32_t i = 0; i < 305; i++) {
    tp_write(w.a, 2 * MSS);
    tp_run(w.tp, TP_S);
    if (i == 200) assert_in_range(w.c->min_rtt_us, 20000, 21000);
  }
  assert_in_range(w.c->min_rtt_us, 80000, 90000);
  assert_int_equal(w.b->received, (200 + 610) * MSS);
  tp_free(w.tp);
}

/* RFC 5482 §3.1: a connection's own user timeout. */
static void test_user_timeout_own(void **state) {
  (void)state;
  struct wire w = wired(TP_MS, MSS);
  struct np_tcp *tcp = w.tp->end[0].tcp;
  uint64_t handle = w.c->stream.handle;
  assert_int_equal(np_tcp_set_user_timeout(tcp, handle, 999), NP_ERR_INVALID);
  assert_int_equal(np_tcp_set_user_timeout(tcp, handle, 86400001), NP_ERR_INVALID);
  assert_int_equal(np_tcp_set_user_timeout(tcp, handle + (UINT64_C(1) << 32), 5000), NP_ERR_STALE);
  assert_int_equal(np_tcp_set_user_timeout(tcp, handle, 0), NP_ERR_OK);
  w.tp->cut = true;
  tp_write(w.a, MSS);
  tp_run(w.tp, 600 * TP_S);
  assert_false(w.a->closed);
  assert_int_equal(np_tcp_set_user_timeout(tcp, handle, 5000), NP_ERR_OK);
  tp_run(w.tp, 5 * TP_MS); /* over long ago, and the RTO, 60 s by now, is not waited for */
  assert_true(w.a->closed);
  assert_int_equal(w.a->err, NP_ERR_TIMEDOUT);
  tp_free(w.tp);
}

/* It ends when it is over, within a tick, and `conn show -i` says what it is and how far. */
static void test_user_timeout_exact(void **state) {
  (void)state;
  struct wire w = wired(TP_MS, MSS);
  struct np_conn_info info;
  assert_int_equal(np_tcp_set_user_timeout(w.tp->end[0].tcp, w.c->stream.handle, 20000), NP_ERR_OK);
  w.tp->cut = true;
  tp_write(w.a, MSS);
  tp_run(w.tp, 19990 * TP_MS);
  assert_false(w.a->closed);
  w.c->stream.ops->info(&w.c->stream, &info);
  assert_int_equal(info.user_timeout_ms, 20000);
  assert_in_range(info.unacked_ms, 10000, 20000);
  assert_true(info.backoff >= 5);
  tp_run(w.tp, 13 * TP_MS);
  assert_true(w.a->closed);
  assert_int_equal(w.a->err, NP_ERR_TIMEDOUT);
  tp_free(w.tp);
}

/* What `conn show -i` gets. */
static void test_info(void **state) {
  (void)state;
  struct wire w = wired(10 * TP_MS, 200 * MSS);
  struct np_conn_info info;
  struct loser l;
  lose_range(&w, &l, 3, 1, 1);
  tp_write(w.a, 20 * MSS);
  tp_run(w.tp, 25 * TP_MS);
  w.c->stream.ops->info(&w.c->stream, &info);
  assert_int_equal(info.ca_state, NP_CA_RECOVERY);
  assert_int_equal(info.reo_wnd_us, 0); /* in recovery, nothing was ever reordered */
  tp_run(w.tp, 500 * TP_MS);
  w.c->stream.ops->info(&w.c->stream, &info);
  assert_int_equal(info.ca_state, NP_CA_OPEN);
  assert_in_range(info.reo_wnd_us, 4900, 5300);
  assert_int_equal(info.tail_probes_total, 0);
  lose_range(&w, &l, 19, 1, 3);
  tp_write(w.a, 20 * MSS);
  tp_run(w.tp, 600 * TP_MS);
  w.c->stream.ops->info(&w.c->stream, &info);
  assert_int_equal(info.tail_probes_total, 1);
  assert_int_equal(info.ca_state, NP_CA_LOSS);
  assert_int_equal(info.backoff, 1);
  tp_run(w.tp, 2 * TP_S);
  assert_int_equal(w.b->received, 240 * MSS);
  tp_free(w.tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tail_loss),       cmocka_unit_test(test_lost_retransmissions),
      cmocka_unit_test(test_reordering_only), cmocka_unit_test(test_many_in_flight),
      cmocka_unit_test(test_sack_chaos),      cmocka_unit_test(test_info),
      cmocka_unit_test(test_longer_path),     cmocka_unit_test(test_user_timeout_own),
      cmocka_unit_test(test_user_timeout_exact), cmocka_unit_test(test_queue_overflow),
      cmocka_unit_test(test_goodput_under_loss),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
