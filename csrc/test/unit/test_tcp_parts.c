/* The pieces below a connection: options, the flow table, the cube root, cookies' timestamps. */
#include <stdlib.h>

#include "tcp/cc.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

static void test_options_bounds(void **state) {
  (void)state;
  struct np_tcp_opts o;
  struct np_rng rng;
  np_rng_init(&rng, 3);
  for (uint32_t i = 0; i < 200000; i++) { /* exact size, so that ASan sees a read too far */
    uint32_t n = np_rng_below(&rng, 41);
    uint8_t *p = malloc(n + 1);
    for (uint32_t j = 0; j < n; j++) p[j] = (uint8_t)(np_rng_below(&rng, 3) ? np_rng_below(&rng, 12) : np_rng_below(&rng, 256));
    uint8_t *exact = malloc(n == 0 ? 1 : n);
    memcpy(exact, p, n);
    np_tcp_opts_parse(exact, n, (i & 1) != 0, &o);
    assert_true(o.sack_count <= 4);
    free(exact);
    free(p);
  }
}

static void test_options_round_trip(void **state) {
  (void)state;
  uint8_t p[40];
  struct np_tcp_opts o;
  uint32_t n = np_tcp_opts_put_mss(p, 1460);
  n += np_tcp_opts_put_sack_ok(p + n);
  n += np_tcp_opts_put_ts(p + n, 0x11223344, 0x55667788);
  n += np_tcp_opts_put_wscale(p + n, 7);
  assert_int_equal(n, 24);
  assert_true(np_tcp_opts_parse(p, n, true, &o));
  assert_int_equal(o.mss, 1460);
  assert_true(o.sack_ok && o.has_ts && o.has_wscale);
  assert_int_equal(o.tsval, 0x11223344);
  assert_int_equal(o.tsecr, 0x55667788);
  assert_int_equal(o.wscale, 7);
  assert_true(np_tcp_opts_parse(p, n, false, &o)); /* outside a SYN only timestamps count */
  assert_false(o.sack_ok || o.has_wscale);
  assert_int_equal(o.mss, 0);
  struct np_tcp_block dup = {{1}, {2}};
  struct np_tcp_block blocks[4] = {{{10}, {20}}, {{30}, {40}}, {{50}, {60}}, {{70}, {80}}};
  n = np_tcp_opts_put_sack(p, &dup, blocks, 4, 28); /* beside timestamps: three in all */
  assert_int_equal(n, 28);
  assert_true(np_tcp_opts_parse(p, n, false, &o));
  assert_int_equal(o.sack_count, 3);
  assert_int_equal(o.sack[0].start.v, 1);
  assert_int_equal(o.sack[2].end.v, 40);
  p[2] = 3;
  p[3] = 3;
  uint8_t wide[3] = {3, 3, 200}; /* RFC 7323 §2.3: more than 14 counts as 14 */
  assert_true(np_tcp_opts_parse(wide, 3, true, &o));
  assert_int_equal(o.wscale, 14);
}

static void test_cube_root(void **state) {
  (void)state;
  assert_int_equal(np_tcp_cbrt(0), 0);
  for (uint64_t i = 1; i < 200000; i += 37) {
    assert_int_equal(np_tcp_cbrt(i * i * i), i);
    assert_int_equal(np_tcp_cbrt(i * i * i - 1), i - 1);
  }
  assert_int_equal(np_tcp_cbrt(UINT64_MAX), 2642245);
}

/* A connection of its own, with as much in flight as its window allows. */
struct cubic_rig {
  struct np_tcp tcp;
  struct np_tcp_conn c;
};

static void cubic_start(struct cubic_rig *r) {
  memset(r, 0, sizeof *r);
  r->c.mss = 1000;
  np_tcp_cc_start(&r->tcp, &r->c);
}
static void cubic_lost(struct cubic_rig *r, enum np_tcp_cong why, uint64_t t) {
  r->tcp.now_ns = t;
  r->c.snd_nxt = np_seq_add(r->c.snd_una, r->c.cwnd);
  r->c.ssthresh = np_tcp_cc_cubic.lost(&r->tcp, &r->c, why);
}
static void cubic_acked(struct cubic_rig *r, uint64_t t) {
  struct np_tcp_cc_ack ack = {.acked_bytes = 1000, .flight_bytes = r->c.cwnd, .cwnd_limited = true};
  r->tcp.now_ns = t;
  np_tcp_cc_cubic.acked(&r->tcp, &r->c, &ack);
}

/* RFC 9438: back to the old window after K = cbrt(W_max (1 - beta) / C) seconds, slower around it. */
static void test_cubic_curve(void **state) {
  (void)state;
  struct cubic_rig r;
  cubic_start(&r);
  struct np_tcp_conn *c = &r.c;
  assert_int_equal(c->cwnd, 10000);
  c->cwnd = 1000000;
  c->srtt_us = 8 * 100000;
  cubic_lost(&r, NP_CONG_LOSS, 0);
  assert_int_equal(c->ssthresh, 700000);
  c->cwnd = c->ssthresh;
  uint64_t t = NP_TCP_NS_PER_S;
  uint64_t start = t;
  uint32_t at_k = 0;
  for (; t < start + 20 * NP_TCP_NS_PER_S; t += 100 * NP_TCP_NS_PER_MS) { /* one window a round trip */
    for (uint32_t sent = c->cwnd; sent >= 1000; sent -= 1000) cubic_acked(&r, t);
    if (at_k == 0 && t - start >= UINT64_C(9086) * NP_TCP_NS_PER_MS) at_k = c->cwnd; /* cbrt(300 / 0.4) = 9.086 s */
  }
  assert_in_range(at_k, 980000, 1020000);
  assert_in_range(c->cwnd, 1350000, 1700000); /* 0.4 * (20 - 9.1)^3 = 518 segments more */
  uint32_t before = c->cc.cubic.w_max;
  c->cwnd = 900000; /* fast convergence: lost again below the last maximum */
  cubic_lost(&r, NP_CONG_LOSS, t);
  assert_int_equal(before, 1000000);
  assert_int_equal(c->cc.cubic.w_max, 765000);
}

/* A connection at 700 segments in congestion avoidance, its epoch begun at t. */
static void in_epoch(struct cubic_rig *r, uint64_t t) {
  cubic_start(r);
  r->c.cwnd = 1000000;
  r->c.srtt_us = 8 * 100000;
  cubic_lost(r, NP_CONG_LOSS, t);
  r->c.cwnd = r->c.ssthresh;
  cubic_acked(r, t);
}

static void one_window(struct cubic_rig *r, uint64_t t) {
  for (uint32_t sent = r->c.cwnd; sent >= 1000; sent -= 1000) cubic_acked(r, t);
}

/* RFC 9438 §4.2, §5.8: neither idle time, told of once or again and again while nothing can
 * be sent, nor time limited by the application makes the window leap afterwards. */
static void test_cubic_idle(void **state) {
  (void)state;
  const uint64_t start = NP_TCP_NS_PER_S;
  const uint64_t later = start + 60 * NP_TCP_NS_PER_S;
  for (uint32_t restarts = 0; restarts < 4; restarts++) {
    struct cubic_rig r;
    in_epoch(&r, start);
    for (uint32_t i = 0; i < restarts; i++) {
      r.tcp.now_ns = later - (restarts - i) * NP_TCP_NS_PER_S;
      np_tcp_cc_cubic.restart(&r.tcp, &r.c);
    }
    one_window(&r, later);
    assert_in_range(r.c.cwnd, 700000, 720000); /* at K's start: under 10 segments a round trip */
    one_window(&r, later + 100 * NP_TCP_NS_PER_MS);
    assert_in_range(r.c.cwnd, 700000, 740000);
  }
}

/* RFC 9438 §4.8: after a timeout the old maximum is forgotten. */
static void test_cubic_timeout(void **state) {
  (void)state;
  struct cubic_rig r;
  in_epoch(&r, NP_TCP_NS_PER_S);
  cubic_lost(&r, NP_CONG_RTO, 2 * NP_TCP_NS_PER_S);
  r.c.cwnd = r.c.ssthresh;
  cubic_acked(&r, 3 * NP_TCP_NS_PER_S);
  assert_int_equal(r.c.cc.cubic.k_ms, 0);
  assert_int_equal(r.c.cc.cubic.w_max, r.c.ssthresh);
}

/* RFC 9438 §4.9: a reduction for nothing is taken back whole. */
static void test_cubic_undo(void **state) {
  (void)state;
  struct cubic_rig r;
  in_epoch(&r, NP_TCP_NS_PER_S);
  one_window(&r, 2 * NP_TCP_NS_PER_S);
  struct np_tcp_conn before = r.c;
  cubic_lost(&r, NP_CONG_RTO, 3 * NP_TCP_NS_PER_S);
  r.c.cwnd = 1000;
  np_tcp_cc_cubic.undo(&r.tcp, &r.c);
  assert_int_equal(r.c.cwnd, before.cwnd);
  assert_int_equal(r.c.ssthresh, before.ssthresh);
  assert_int_equal(r.c.cc.cubic.w_max, before.cc.cubic.w_max);
  assert_int_equal(r.c.cc.cubic.k_ms, before.cc.cubic.k_ms);
}

static void test_table(void **state) {
  (void)state;
  enum { N = 5000 };
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].conns_max = N;
  struct tp *tp = tp_new(&args);
  tp->cut = true;
  struct np_tcp *tcp = tp->end[0].tcp;
  struct np_rng rng;
  np_rng_init(&rng, 9);
  struct np_flow f = {.local = tp->end[0].addr, .remote = tp->end[1].addr};
  static struct np_tcp_conn *c[N];
  for (uint32_t round = 0; round < 4; round++) {
    for (uint32_t i = 0; i < N; i++) {
      f.local_port = (uint16_t)(i + 1);
      f.remote_port = (uint16_t)(round + 1);
      if (c[i] == NULL) c[i] = np_tcp_conn_new(tcp, &f, np_tcp_flow_hash(tcp, &f));
      assert_non_null(c[i]);
    }
    f.local_port = 60000;
    assert_null(np_tcp_conn_new(tcp, &f, 1));
    for (uint32_t i = 0; i < N; i++) assert_ptr_equal(np_tcp_find(tcp, &c[i]->flow, np_tcp_flow_hash(tcp, &c[i]->flow)), c[i]);
    for (uint32_t i = 0; i < N; i++) {
      if (round < 3 && np_rng_below(&rng, 2) == 0) continue;
      struct np_flow gone = c[i]->flow;
      uint32_t hash = np_tcp_flow_hash(tcp, &gone);
      np_tcp_table_del(tcp, c[i]);
      np_tcp_conn_free(tcp, c[i]);
      c[i] = NULL;
      assert_null(np_tcp_find(tcp, &gone, hash));
    }
  }
  for (uint32_t i = 0; i <= tcp->bucket_mask; i++) assert_int_equal(tcp->buckets[i].overflow, 0);
  tp_free(tp);
}

/* RFC 6298 §2 and §3. */
static void test_rto(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct np_tcp *tcp = tp->end[0].tcp;
  struct np_tcp_conn c = {.rto_us = 1000000};
  np_tcp_rtt_sample(tcp, &c, 100000);
  assert_int_equal(c.rto_us, 300000); /* SRTT + 4 * R/2 */
  np_tcp_rtt_sample(tcp, &c, 100000);
  assert_int_equal(c.rto_us, 250000); /* RTTVAR = 3/4 of it */
  for (uint32_t i = 0; i < 50; i++) np_tcp_rtt_sample(tcp, &c, 100000);
  assert_int_equal(c.rto_us, 200000); /* the minimum */
  np_tcp_rtt_sample(tcp, &c, UINT32_MAX);
  assert_true(c.rto_us <= 60000000);
  c.backoff = 30;
  assert_int_equal(np_tcp_rto_ns(tcp, &c), 60 * NP_TCP_NS_PER_S);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_options_bounds), cmocka_unit_test(test_options_round_trip),
      cmocka_unit_test(test_cube_root),      cmocka_unit_test(test_cubic_curve),
      cmocka_unit_test(test_cubic_idle),     cmocka_unit_test(test_cubic_timeout),
      cmocka_unit_test(test_cubic_undo),
      cmocka_unit_test(test_table),          cmocka_unit_test(test_rto),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
