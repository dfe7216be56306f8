/* Congestion control by itself: NewReno, HyStart++, pacing, delivery-rate samples, against
 * figures that follow from the RFCs. BBR over a bottleneck is test_bbr.c, CUBIC's curve
 * test_tcp_parts.c. */
#include "tcp/cc.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define MSS 1000u

struct rig {
  struct np_counters counters;
  struct np_tcp tcp;
  struct np_tcp_conn c;
};

static void rig_start(struct rig *r, enum np_cc cc) {
  memset(r, 0, sizeof *r);
  r->tcp.env.counters = &r->counters;
  r->tcp.now_ns = NP_TCP_NS_PER_S;
  r->c.mss = MSS;
  r->c.cc_id = (uint8_t)cc;
  np_tcp_cc_start(&r->tcp, &r->c);
}

/* bytes acknowledged at once, with flight out before. */
static void acked(struct rig *r, uint32_t bytes, uint32_t flight, uint32_t rtt_us) {
  r->c.snd_una = np_seq_add(r->c.snd_una, bytes);
  if (np_seq_lt(r->c.snd_nxt, r->c.snd_una)) r->c.snd_nxt = r->c.snd_una;
  struct np_tcp_cc_ack a = {.acked_bytes = bytes, .flight_bytes = flight, .rtt_us = rtt_us, .cwnd_limited = true};
  np_tcp_cc(&r->c)->acked(&r->tcp, &r->c, &a);
}

/* RFC 5681 §3.1, RFC 3465: a window acknowledged is one segment more, in however many ACKs. */
static void test_newreno_avoidance(void **state) {
  (void)state;
  for (uint32_t per_ack = 1; per_ack <= 50; per_ack *= 7) {
    struct rig r;
    rig_start(&r, NP_CC_NEWRENO);
    r.c.cwnd = r.c.ssthresh = 50 * MSS;
    uint32_t left = 50 * MSS;
    while (left > 0) {
      uint32_t n = np_min_u32(left, per_ack * MSS);
      acked(&r, n, 50 * MSS, 0);
      left -= n;
    }
    assert_in_range(r.c.cwnd, 51 * MSS - 25, 51 * MSS);
    for (uint32_t i = 0; i < 40; i++) acked(&r, r.c.cwnd, r.c.cwnd, 0); /* 40 round trips */
    assert_in_range(r.c.cwnd, 91 * MSS - 25, 91 * MSS);
  }
}

/* RFC 5681 §3.1 (4): half of what was in flight, two segments at least; unused windows earn nothing. */
static void test_newreno_loss(void **state) {
  (void)state;
  struct rig r;
  rig_start(&r, NP_CC_NEWRENO);
  r.c.cwnd = 40 * MSS;
  r.c.snd_nxt = np_seq_add(r.c.snd_una, 40 * MSS);
  assert_int_equal(np_tcp_cc_lost(&r.tcp, &r.c, NP_CONG_LOSS), 20 * MSS);
  r.c.cwnd = r.c.ssthresh = 20 * MSS;
  np_tcp_cc(&r.c)->undo(&r.tcp, &r.c);
  assert_int_equal(r.c.cwnd, 40 * MSS);
  assert_int_equal(r.c.ssthresh, UINT32_MAX);
  r.c.snd_nxt = np_seq_add(r.c.snd_una, 10 * MSS);
  assert_int_equal(np_tcp_cc_lost(&r.tcp, &r.c, NP_CONG_LOSS), 5 * MSS);
  r.c.snd_nxt = np_seq_add(r.c.snd_una, MSS);
  assert_int_equal(np_tcp_cc_lost(&r.tcp, &r.c, NP_CONG_RTO), 2 * MSS);
  uint32_t before = r.c.cwnd;
  struct np_tcp_cc_ack a = {.acked_bytes = MSS, .flight_bytes = MSS};
  np_tcp_cc(&r.c)->acked(&r.tcp, &r.c, &a);
  assert_int_equal(r.c.cwnd, before);
}

/* RFC 5681 §3.1: slow start ends at ssthresh exactly, and what is left of the ACK goes by avoidance. */
static void test_slow_start_ends(void **state) {
  (void)state;
  struct rig r;
  rig_start(&r, NP_CC_NEWRENO);
  assert_int_equal(r.c.cwnd, 10 * MSS);
  r.c.ssthresh = 12 * MSS;
  acked(&r, 4 * MSS, 10 * MSS, 0);
  assert_in_range(r.c.cwnd, 12 * MSS + 160, 12 * MSS + 170); /* 2 of 12 segments' worth of one */
}

/* RFC 9406 §4.2, L: one late ACK for much adds eight segments, or half the flight where ACKs are few. */
static void test_slow_start_limit(void **state) {
  (void)state;
  struct rig r;
  rig_start(&r, NP_CC_CUBIC);
  r.c.cwnd = 100 * MSS;
  acked(&r, 100 * MSS, 100 * MSS, 0);
  assert_int_equal(r.c.cwnd, 150 * MSS);
  acked(&r, 10 * MSS, 12 * MSS, 0);
  assert_int_equal(r.c.cwnd, 158 * MSS);
  r.c.cc_flags |= NP_CCF_PACED; /* makes no burst: no limit */
  acked(&r, 100 * MSS, 100 * MSS, 0);
  assert_int_equal(r.c.cwnd, 258 * MSS);
}

/* A round trip of n ACKs, one segment each. */
static void round_trip(struct rig *r, uint32_t n, uint32_t rtt_us) {
  r->c.snd_nxt = np_seq_add(r->c.snd_una, n * MSS);
  r->c.cc.cubic.hystart.round_end = r->c.snd_nxt;
  for (uint32_t i = 0; i < n; i++) acked(r, MSS, n * MSS, rtt_us);
}

/* RFC 9406 §4.2: a round trip longer by an eighth (4 to 16 ms) slows growth to a quarter; five rounds
 * of that end slow start. */
static void test_hystart_exit(void **state) {
  (void)state;
  struct rig r;
  rig_start(&r, NP_CC_CUBIC);
  round_trip(&r, 10, 40000);
  assert_int_equal(r.c.cwnd, 20 * MSS);
  round_trip(&r, 20, 44900); /* under 40 + 5 ms */
  assert_int_equal(r.c.cwnd, 40 * MSS);
  round_trip(&r, 40, 50600); /* over 44.9 + 44.9 / 8 */
  assert_in_range(r.c.cwnd, 54 * MSS, 57 * MSS); /* whole until eight samples, then a quarter */
  assert_int_equal(r.c.cc.cubic.hystart.css_base_us, 50600);
  for (uint32_t i = 0; i < 3; i++) round_trip(&r, 16, 52000);
  assert_int_equal(r.c.ssthresh, UINT32_MAX);
  assert_in_range(r.c.cwnd, 66 * MSS, 69 * MSS);
  assert_int_equal(r.counters.counter[NP_C_TCP_HYSTART], 0);
  round_trip(&r, 16, 52000); /* the fifth round, the one it began in counted */
  assert_in_range(r.c.ssthresh, 70 * MSS, 73 * MSS);
  assert_int_equal(r.counters.counter[NP_C_TCP_HYSTART], 1);
}

/* RFC 9406 §4.2: it was jitter: round trips are short again, and growth is whole. */
static void test_hystart_false_alarm(void **state) {
  (void)state;
  struct rig r;
  rig_start(&r, NP_CC_NEWRENO);
  round_trip(&r, 10, 40000);
  round_trip(&r, 20, 40000);
  round_trip(&r, 40, 60000);
  assert_int_equal(r.c.cc.reno.hystart.css_base_us, 60000);
  round_trip(&r, 20, 41000);
  assert_int_equal(r.c.cc.reno.hystart.css_base_us, UINT32_MAX);
  uint32_t before = r.c.cwnd;
  round_trip(&r, 20, 41000);
  assert_int_equal(r.c.cwnd, before + 20 * MSS);
  assert_int_equal(r.c.ssthresh, UINT32_MAX);
}

/* RFC 9406 §4.2: fewer than eight samples decide nothing, and a few milliseconds never do. */
static void test_hystart_bounds(void **state) {
  (void)state;
  struct rig r;
  rig_start(&r, NP_CC_CUBIC);
  round_trip(&r, 10, 1000);
  round_trip(&r, 10, 4900); /* 3.9 ms more, under the least of 4 */
  assert_int_equal(r.c.cc.cubic.hystart.css_base_us, UINT32_MAX);
  round_trip(&r, 7, 90000);
  assert_int_equal(r.c.cc.cubic.hystart.css_base_us, UINT32_MAX);
  rig_start(&r, NP_CC_CUBIC);
  round_trip(&r, 10, 400000);
  round_trip(&r, 10, 416000); /* 16 ms is the most that is needed */
  assert_int_equal(r.c.cc.cubic.hystart.css_base_us, 416000);
}

/* Between two stacks. */

static struct tp *pair(const struct tp_args *args, uint32_t delay_ms, struct tp_sess **a) {
  struct tp *tp = tp_new(args);
  tp->delay_ns = delay_ms * TP_MS;
  tp_listen(tp, 1, TP_PORT);
  *a = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, TP_S);
  assert_true((*a)->established);
  assert_non_null(tp->end[1].last);
  return tp;
}

/* Pacing: a window's worth takes most of a round trip to leave, in bursts of two segments here, and
 * the connection wakes by itself between them. */
static void test_paced_window(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].pacing = NP_PACING_ON;
  struct tp_sess *a;
  struct tp *tp = pair(&args, 50, &a); /* 100 ms: 2 * 10 segments a round trip, a segment each 5 ms */
  struct tp_end *e = &tp->end[0];
  uint32_t from = e->log_count;
  uint64_t start = tp->now_ns;
  tp_write(a, 10 * 1448);
  tp_run(tp, 80 * TP_MS);
  assert_int_equal(e->log_count - from, 10);
  for (uint32_t i = 0; i < 10; i++) {
    uint64_t after = e->log[(from + i) % TP_LOG].at_ns - start;
    uint64_t due = i / 2 * 10 * TP_MS;
    assert_in_range(after, due, due + 3 * TP_MS);
  }
  assert_true(tp_counter(tp, 0, NP_C_TCP_PACED) >= 4);
  assert_int_equal(tp_conn(a)->pace_rate / 1000, 289); /* 2 * 14,480 bytes in 0.1 s and a little */
  tp_free(tp);
}

/* One that ends while it waits for its rate leaves nothing behind (tp_free looks). */
static void test_paced_end(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].congestion_control = NP_CC_BBR;
  struct tp_sess *a;
  struct tp *tp = pair(&args, 50, &a);
  tp_write(a, 500000);
  for (uint32_t i = 0; i < 200 && !(tp_conn(a)->cc_flags & NP_CCF_LISTED); i++) tp_run(tp, TP_MS);
  assert_true((tp_conn(a)->cc_flags & NP_CCF_LISTED) != 0);
  a->base.stream->ops->abort(a->base.stream);
  tp_free(tp);
}

/* The rate of an unpaced CUBIC connection is nobody's business: no samples, no waits. */
static void test_cubic_unpaced(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp_sess *a;
  struct tp *tp = pair(&args, 5, &a);
  tp_write(a, 300000);
  tp_run(tp, TP_S);
  assert_int_equal(tp_conn(a)->cc_flags & (NP_CCF_RATE | NP_CCF_PACED), 0);
  assert_int_equal(tp_counter(tp, 0, NP_C_TCP_PACED), 0);
  struct np_conn_info info;
  a->base.stream->ops->info(a->base.stream, &info);
  assert_int_equal(info.cc, NP_CC_CUBIC);
  assert_int_equal(info.paced, 0);
  assert_int_equal(info.pacing_bytes_per_s, 0);
  tp_free(tp);
}

/* Changing a live connection loses and repeats nothing; stale and unknown ones are told. */
static void test_change_live(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp_sess *a;
  struct tp *tp = pair(&args, 5, &a);
  tp->rate_bytes_per_s = 2500000;
  tp->queue_bytes = 50000;
  struct np_tcp *tcp = tp->end[0].tcp;
  uint64_t h = tp_conn(a)->stream.handle;
  static const uint8_t order[] = {NP_CC_BBR, NP_CC_NEWRENO, NP_CC_CUBIC, NP_CC_BBR, NP_CC_CUBIC, NP_CC_NEWRENO, NP_CC_BBR};
  a->to_send = 20 << 20;
  for (uint32_t i = 0; i < NP_COUNT_OF(order); i++) {
    tp_run(tp, TP_S);
    assert_int_equal(np_tcp_set_cc(tcp, h, order[i]), NP_ERR_OK);
    assert_int_equal(np_tcp_set_cc(tcp, h, order[i]), NP_ERR_OK);
    struct np_conn_info info;
    a->base.stream->ops->info(a->base.stream, &info);
    assert_int_equal(info.cc, order[i]);
    assert_int_equal(info.bbr_phase != 0, order[i] == NP_CC_BBR);
    assert_int_equal(info.paced != 0, order[i] == NP_CC_BBR);
  }
  assert_int_equal(np_tcp_set_cc(tcp, h, NP_CC_COUNT), NP_ERR_INVALID);
  assert_int_equal(np_tcp_set_cc(tcp, h + (UINT64_C(1) << 32), NP_CC_BBR), NP_ERR_STALE);
  tp_run(tp, 5 * TP_S);
  assert_int_equal(tp->end[1].last->received, 20 << 20);
  assert_int_equal(tp->end[1].last->wrong, 0);
  tp_free(tp);
}

/* A listener's choice wins over the stack's. */
static void test_listener_chooses(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].congestion_control = NP_CC_NEWRENO;
  struct tp *tp = tp_new(&args);
  struct np_tcp_listen l = {.port = TP_PORT, .congestion_control = NP_CC_BBR + 1, .handle = 1};
  struct np_tcp_listen other = {.port = TP_PORT + 1, .handle = 2};
  struct np_tcp_listen bad = {.port = TP_PORT + 2, .congestion_control = NP_CC_COUNT + 1, .handle = 3};
  uint32_t id;
  assert_int_equal(np_tcp_listen(tp->end[1].tcp, &l, &id), NP_ERR_OK);
  assert_int_equal(np_tcp_listen(tp->end[1].tcp, &other, &id), NP_ERR_OK);
  assert_int_equal(np_tcp_listen(tp->end[1].tcp, &bad, &id), NP_ERR_INVALID);
  tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, TP_S);
  assert_int_equal(tp_conn(tp->end[1].last)->cc_id, NP_CC_BBR);
  tp_connect(tp, 0, TP_PORT + 1, NULL);
  tp_run(tp, TP_S);
  assert_int_equal(tp_conn(tp->end[1].last)->cc_id, NP_CC_NEWRENO);
  tp_free(tp);
}

/* Delivery rate: what a link of 1 MB/s carries, and nothing from what the session held back. */
static void test_delivery_rate(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].congestion_control = NP_CC_BBR;
  struct tp_sess *a;
  struct tp *tp = pair(&args, 10, &a);
  tp->rate_bytes_per_s = 1000000;
  tp->queue_bytes = 100000;
  tp_write(a, 900000);
  tp_run(tp, TP_S / 2);
  struct np_conn_info info;
  a->base.stream->ops->info(a->base.stream, &info);
  assert_in_range(info.delivery_bytes_per_s, 850000, 960000); /* payload of 1,448 in frames of 1,514; 0.9 of it while a queue drains */
  tp_run(tp, TP_S);
  assert_int_equal(tp->end[1].last->received, 900000);
  uint32_t bw = tp_conn(a)->rate.bw;
  for (uint32_t i = 0; i < 20; i++) { /* a trickle says nothing of the path */
    tp_write(a, 100);
    tp_flush(tp);
    assert_true(np_txseg(tp_conn(a)->sndq_head)->flags & NP_TXS_APP_LIMITED);
    tp_run(tp, 50 * TP_MS);
  }
  assert_true(tp_conn(a)->rate.app_limited != 0);
  assert_true(tp_conn(a)->rate.bw >= bw);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_newreno_avoidance), cmocka_unit_test(test_newreno_loss),
      cmocka_unit_test(test_slow_start_ends),   cmocka_unit_test(test_slow_start_limit),
      cmocka_unit_test(test_hystart_exit),      cmocka_unit_test(test_hystart_false_alarm),
      cmocka_unit_test(test_hystart_bounds),    cmocka_unit_test(test_paced_window),
      cmocka_unit_test(test_paced_end),         cmocka_unit_test(test_cubic_unpaced),
      cmocka_unit_test(test_change_live),       cmocka_unit_test(test_listener_chooses),
      cmocka_unit_test(test_delivery_rate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
