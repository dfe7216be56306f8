/* BBR version 3 (draft-ietf-ccwg-bbr) between two stacks, over a bottleneck with a queue. */
#include "tcp/cc.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define MBPS UINT64_C(125000) /* bytes per second */

struct path {
  uint64_t rate;       /* bytes per second */
  uint64_t rtt_ns;
  uint32_t queue_bytes;
  uint32_t loss;       /* per 10,000, both ways */
  uint32_t mark_bytes;
  uint8_t ecn;
};

static uint64_t bdp(const struct path *p) { return p->rate * p->rtt_ns / TP_S; }

static struct tp *over(const struct path *p, uint8_t cc, uint64_t seed) {
  struct tp_args args;
  tp_args_default(&args);
  args.seed = seed;
  args.v6 = seed % 2 == 0;
  for (uint32_t i = 0; i < 2; i++) {
    args.config[i].congestion_control = cc;
    args.config[i].ecn = p->ecn;
    args.config[i].rcv_buf_bytes = 4 << 20;
    args.config[i].snd_buf_bytes = 4 << 20;
    args.config[i].ooo_segs_max = 4096;
  }
  struct tp *tp = tp_new(&args);
  tp->delay_ns = p->rtt_ns / 2;
  tp->rate_bytes_per_s = p->rate;
  tp->queue_bytes = p->queue_bytes;
  tp->mark_bytes = p->mark_bytes;
  tp->loss = p->loss;
  return tp;
}

/* A sender with more to send than it ever can. */
static struct tp_sess *pour(struct tp *tp) {
  struct tp_sess like = {.to_send = UINT64_C(1) << 40};
  struct tp_sess *s = tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, TP_S / 10);
  assert_true(s->established);
  return s;
}

static void start_queue_count(struct tp *tp) { tp->queue_most_bytes = 0, tp->queue_sum_bytes = 0, tp->queue_frames = 0; }

static struct np_tcp_bbr *bbr_of(const struct tp_sess *s) { return &tp_conn(s)->cc.bbr; }

/* Share of the link, in thousandths of what a payload of mss could get, in ns from now on. */
static uint64_t share(struct tp *tp, struct tp_sess *from, const struct path *p, uint64_t ns) {
  struct tp_sess *to = tp->end[1].last;
  uint64_t before = to->received;
  tp_run(tp, ns);
  uint32_t mss = tp_conn(from)->mss;
  uint64_t most = p->rate * (ns / TP_MS) / 1000 * mss / (mss + 32 + 20 + 14 + (tp->v6 ? 20 : 0));
  return (to->received - before) * 1000 / most;
}

/* STARTUP finds the bandwidth, DRAIN empties the queue, PROBE_BW keeps it short. */
static void test_fills_a_clean_link(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)(4 * bdp(&p));
  for (uint64_t seed = 1; seed <= 2; seed++) {
    struct tp *tp = over(&p, NP_CC_BBR, seed);
    tp_listen(tp, 1, TP_PORT);
    struct tp_sess *s = pour(tp);
    assert_int_equal(bbr_of(s)->phase, NP_BBR_STARTUP);
    tp_run(tp, TP_S);
    assert_true(np_tcp_bbr_full(tp_conn(s)));
    assert_in_range(bbr_of(s)->phase, NP_BBR_DOWN, NP_BBR_UP);
    assert_in_range(bbr_of(s)->min_rtt_us, 40000, 43000);
    start_queue_count(tp);
    assert_in_range(share(tp, s, &p, 8 * TP_S), 900, 1000);
    assert_true(tp->queue_sum_bytes / tp->queue_frames < bdp(&p) / 2);
    assert_true(tp->queue_most_bytes < 2 * bdp(&p));
    assert_int_equal(tp->queue_losses, 0);
    tp_free(tp);
  }
}

/* Random loss is no sign of congestion: 1 % of it costs BBR little, and CUBIC most (test_cubic). On a
 * path that holds many segments: where it holds few, 1 % comes above BBR.LossThresh by chance. */
static void test_random_loss(void **state) {
  (void)state;
  struct path p = {.rate = 100 * MBPS, .rtt_ns = 50 * TP_MS, .loss = 100};
  p.queue_bytes = (uint32_t)(4 * bdp(&p));
  uint64_t sum = 0;
  for (uint64_t seed = 1; seed <= 6; seed++) {
    struct tp *tp = over(&p, NP_CC_BBR, seed);
    tp_listen(tp, 1, TP_PORT);
    struct tp_sess *s = pour(tp);
    tp_run(tp, 2 * TP_S);
    start_queue_count(tp);
    uint64_t got = share(tp, s, &p, 10 * TP_S);
    assert_in_range(got, 800, 1000);
    sum += got;
    assert_true(tp->queue_most_bytes < 3 * bdp(&p));
    assert_int_equal(tp_conn(s)->rack.rtos, 0);
    tp_free(tp);
  }
  assert_in_range(sum / 6, 860, 1000);
}

/* The contrast to the test before: a loss-based algorithm. */
static void test_cubic(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)bdp(&p);
  struct tp *tp = over(&p, NP_CC_CUBIC, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *s = pour(tp);
  tp_run(tp, 2 * TP_S);
  assert_in_range(share(tp, s, &p, 10 * TP_S), 950, 1000); /* RFC 9438: a queue of one BDP keeps the link busy */
  tp->loss = 100;
  tp_run(tp, 2 * TP_S);
  assert_in_range(share(tp, s, &p, 5 * TP_S), 10, 500);
  tp_free(tp);
}

static struct tp_sess *peer_of(struct tp *tp, const struct tp_sess *s) {
  uint16_t port = tp_conn(s)->flow.local_port;
  for (struct tp_sess *o = tp->end[1].sessions; o != NULL; o = o->next) {
    if (o->base.stream != NULL && tp_conn(o)->flow.remote_port == port) return o;
  }
  fail_msg("no session for port %u", port);
  return NULL;
}

/* Two flows of one kind, the second a few seconds late: both get a fair part, and the link is full. */
static void fairness(uint8_t cc, uint64_t settle_ns) {
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)bdp(&p);
  struct tp *tp = over(&p, cc, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *a = pour(tp);
  tp_run(tp, 3 * TP_S);
  struct tp_sess *b = pour(tp);
  tp_run(tp, settle_ns);
  struct tp_sess *ra = peer_of(tp, a);
  struct tp_sess *rb = peer_of(tp, b);
  uint64_t a0 = ra->received;
  uint64_t b0 = rb->received;
  tp_run(tp, 20 * TP_S);
  uint64_t got_a = ra->received - a0;
  uint64_t got_b = rb->received - b0;
  assert_in_range((got_a + got_b) / 20 * 100 / p.rate, 85, 100);
  assert_in_range(got_b * 100 / (got_a + got_b), 25, 75);
  tp_free(tp);
}

static void test_two_bbr(void **state) {
  (void)state;
  fairness(NP_CC_BBR, 10 * TP_S);
}

static void test_two_cubic(void **state) {
  (void)state;
  fairness(NP_CC_CUBIC, 20 * TP_S);
}

/* RFC 3168: a link that marks loses nothing, whoever sends, and stays busy. */
static void test_marking_link(void **state) {
  (void)state;
  for (uint8_t cc = 0; cc < NP_CC_COUNT; cc++) {
    struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS, .ecn = NP_ECN_REQUEST};
    p.queue_bytes = (uint32_t)(8 * bdp(&p));
    p.mark_bytes = (uint32_t)bdp(&p);
    struct tp *tp = over(&p, cc, cc + 1u);
    tp_listen(tp, 1, TP_PORT);
    struct tp_sess *s = pour(tp);
    tp_run(tp, 3 * TP_S);
    assert_in_range(share(tp, s, &p, 10 * TP_S), 850, 1000);
    assert_int_equal(tp->queue_losses, 0);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS), 0);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_ECN), 1);
    uint64_t seen = tp_counter(tp, 1, NP_C_TCP_CE_RX);
    assert_true(seen <= tp->marks && seen + tp->frame_count >= tp->marks); /* some are on their way */
    if (cc != NP_CC_BBR) { /* BBR's queue need not reach the mark */
      assert_true(tp->marks > 0);
      assert_true(tp_counter(tp, 0, NP_C_TCP_ECE_CUTS) > 0);
    }
    tp_free(tp);
  }
}

/* Marks from half a BDP of queue on: BBR's STARTUP hears of it, and it stays busy. */
static void test_bbr_marked(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS, .ecn = NP_ECN_REQUEST};
  p.queue_bytes = (uint32_t)(8 * bdp(&p));
  p.mark_bytes = (uint32_t)(bdp(&p) / 4);
  struct tp *tp = over(&p, NP_CC_BBR, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *s = pour(tp);
  tp_run(tp, 2 * TP_S);
  assert_true(np_tcp_bbr_full(tp_conn(s)));
  assert_true(tp_counter(tp, 0, NP_C_TCP_ECE_CUTS) > 0);
  assert_true(bbr_of(s)->inflight_hi != UINT32_MAX);
  start_queue_count(tp);
  assert_in_range(share(tp, s, &p, 10 * TP_S), 800, 1000);
  assert_true(tp->queue_sum_bytes / tp->queue_frames < bdp(&p) / 4);
  tp_free(tp);
}

/* A shallow queue ends STARTUP by loss, bounds inflight_hi, and costs little afterwards. */
static void test_shallow_queue(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)(bdp(&p) / 5);
  struct tp *tp = over(&p, NP_CC_BBR, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *s = pour(tp);
  tp_run(tp, 3 * TP_S);
  assert_true(np_tcp_bbr_full(tp_conn(s)));
  assert_true(bbr_of(s)->inflight_hi < 2 * bdp(&p));
  uint64_t sent = tp_conn(s)->segs_tx;
  uint64_t lost = tp->queue_losses;
  assert_in_range(share(tp, s, &p, 15 * TP_S), 800, 1000);
  assert_true((tp->queue_losses - lost) * 100 <= (tp_conn(s)->segs_tx - sent) * 2); /* BBR.LossThresh */
  tp_free(tp);
}

/* Each five seconds without a shorter round trip, 200 ms at half a BDP; then on as before. */
static void test_probe_rtt(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)(4 * bdp(&p));
  struct tp *tp = over(&p, NP_CC_BBR, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *s = pour(tp);
  uint64_t in_ms = 0;
  uint64_t low_ms = 0;
  for (uint32_t i = 0; i < 1200; i++) { /* 12 s, looked at each 10 ms */
    tp_run(tp, 10 * TP_MS);
    if (bbr_of(s)->phase != NP_BBR_PROBE_RTT) continue;
    in_ms += 10;
    if (tp_conn(s)->cwnd <= bdp(&p) * 55 / 100) low_ms += 10;
  }
  assert_in_range(in_ms, 400, 800); /* twice: 200 ms and up to two round trips each */
  assert_in_range(low_ms, 380, 800);
  assert_in_range(tp_conn(s)->cwnd, bdp(&p), 4 * bdp(&p));
  assert_in_range(bbr_of(s)->min_rtt_us, 40000, 45000);
  tp_free(tp);
}

/* The path changes: the bandwidth filter forgets in two cycles, and finds what is new in some. */
static void test_rate_changes(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)(4 * bdp(&p));
  struct tp *tp = over(&p, NP_CC_BBR, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *s = pour(tp);
  tp_run(tp, 5 * TP_S);
  p.rate = tp->rate_bytes_per_s = 10 * MBPS;
  tp_run(tp, 10 * TP_S);
  start_queue_count(tp);
  assert_in_range(share(tp, s, &p, 10 * TP_S), 900, 1000);
  assert_true(tp->queue_sum_bytes / tp->queue_frames < 2 * bdp(&p));
  p.rate = tp->rate_bytes_per_s = 80 * MBPS;
  tp_run(tp, 15 * TP_S);
  assert_in_range(share(tp, s, &p, 10 * TP_S), 850, 1000);
  tp_free(tp);
}

/* A session that pauses: sending begins at the known rate, without a burst and without forgetting. */
static void test_restart_from_idle(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)(2 * bdp(&p));
  struct tp *tp = over(&p, NP_CC_BBR, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess like = {.to_send = 10 << 20};
  struct tp_sess *s = tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, 4 * TP_S);
  assert_int_equal(tp->end[1].last->received, 10 << 20);
  uint64_t bw = (uint64_t)np_max_u32(bbr_of(s)->bw_max[0], bbr_of(s)->bw_max[1]) * NP_TCP_BW_UNIT;
  assert_in_range(bw, p.rate * 90 / 100, p.rate);
  tp_run(tp, 8 * TP_S);
  start_queue_count(tp);
  tp_write(s, 2 << 20);
  tp_run(tp, TP_S / 5);
  assert_true(tp->queue_most_bytes < bdp(&p));
  assert_true(tp->end[1].last->received > (10 << 20) + p.rate / 10);
  uint64_t after = (uint64_t)np_max_u32(bbr_of(s)->bw_max[0], bbr_of(s)->bw_max[1]) * NP_TCP_BW_UNIT;
  assert_true(after >= bw * 90 / 100);
  tp_free(tp);
}

/* The draft's answer to a loss that was none. */
static void test_undo(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS};
  p.queue_bytes = (uint32_t)(4 * bdp(&p));
  struct tp *tp = over(&p, NP_CC_BBR, 1);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *s = pour(tp);
  tp_run(tp, 2 * TP_S);
  struct np_tcp_conn *c = tp_conn(s);
  struct np_tcp_bbr *b = bbr_of(s);
  uint32_t cwnd = c->cwnd;
  (void)np_tcp_cc_lost(tp->end[0].tcp, c, NP_CONG_RTO);
  assert_int_equal(c->cwnd, c->mss);
  b->bw_lo = 1000;
  b->inflight_lo = 5 * c->mss;
  b->inflight_hi = 6 * c->mss;
  np_tcp_cc_bbr.undo(tp->end[0].tcp, c);
  assert_int_equal(c->cwnd, cwnd);
  assert_int_equal(b->bw_lo, UINT32_MAX);
  assert_int_equal(b->inflight_lo, UINT32_MAX);
  assert_int_equal(b->inflight_hi, UINT32_MAX);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fills_a_clean_link), cmocka_unit_test(test_random_loss),
      cmocka_unit_test(test_cubic),              cmocka_unit_test(test_two_bbr),
      cmocka_unit_test(test_two_cubic),          cmocka_unit_test(test_marking_link),
      cmocka_unit_test(test_bbr_marked),         cmocka_unit_test(test_shallow_queue),
      cmocka_unit_test(test_probe_rtt),          cmocka_unit_test(test_rate_changes),
      cmocka_unit_test(test_restart_from_idle),  cmocka_unit_test(test_undo),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
