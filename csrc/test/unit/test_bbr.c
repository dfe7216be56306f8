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

/* Random loss is no sign of congestion: 1 % of it costs BBR little, and CUBIC nearly all. */
static void test_random_loss(void **state) {
  (void)state;
  struct path p = {.rate = 40 * MBPS, .rtt_ns = 40 * TP_MS, .loss = 100};
  p.queue_bytes = (uint32_t)(4 * bdp(&p));
  for (uint64_t seed = 1; seed <= 3; seed++) {
    struct tp *tp = over(&p, NP_CC_BBR, seed);
    tp_listen(tp, 1, TP_PORT);
    struct tp_sess *s = pour(tp);
    tp_run(tp, 2 * TP_S);
    start_queue_count(tp);
    /* Seeds differ by a tenth, whatever holds the sender: 0.75 to 0.96 of the rate over eight of them. */
    assert_in_range(share(tp, s, &p, 10 * TP_S), 850, 1000);
    assert_true(tp->queue_most_bytes < 3 * bdp(&p));
    tp_free(tp);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fills_a_clean_link),
      cmocka_unit_test(test_random_loss),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
