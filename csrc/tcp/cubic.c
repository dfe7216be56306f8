/* CUBIC, RFC 9438, in fixed point: bytes, milliseconds, C = 0.4, beta = 0.7. */
#include "tcp/cc.h"

#define GAP_MS 50u /* beyond two round trips without growth: not limited by cwnd meanwhile */
#define CUBIC_T_MS_MAX 300000 /* keeps the cube within 64 bits; growth is long unbounded by then */

/* Bit by bit: 22 rounds, no division. */
uint32_t np_tcp_cbrt(uint64_t v) {
  uint64_t y = 0;
  for (int s = 63; s >= 0; s -= 3) {
    y <<= 1;
    uint64_t b = 3 * y * (y + 1) + 1;
    if (v >> s >= b) {
      v -= b << s;
      y++;
    }
  }
  return (uint32_t)y;
}

static void cubic_init(struct np_tcp *tcp, struct np_tcp_conn *c) {
  (void)tcp;
  c->cc.cubic = (struct np_tcp_cubic){0};
  np_tcp_hystart_init(c, &c->cc.cubic.hystart);
}

static uint32_t ms_of(uint64_t ns) { return (uint32_t)(ns / NP_TCP_NS_PER_MS); }

/* RFC 9438 §4.2 and §5.8: time in which cwnd was not what limited us does not count as t.
 * The epoch never moves beyond now, however often this is called. */
static void skip_gap(struct np_tcp_cubic *q, uint32_t now_ms) {
  q->epoch_ms += now_ms - q->grown_ms;
  if (q->epoch_ms == 0) q->epoch_ms = 1;
  q->grown_ms = now_ms;
}

/* RFC 9438 §4.2: K = cbrt((W_max - cwnd_epoch) / C), in segments and seconds. */
static void epoch_start(struct np_tcp_conn *c, uint32_t now_ms) {
  struct np_tcp_cubic *q = &c->cc.cubic;
  q->epoch_ms = now_ms == 0 ? 1 : now_ms;
  q->grown_ms = q->epoch_ms;
  q->acked_bytes = 0;
  q->est_frac = 0;
  q->w_est = c->cwnd;
  if (c->cwnd < q->w_max) {
    uint64_t segs_milli = (uint64_t)(q->w_max - c->cwnd) * 1000 / c->mss;
    q->k_ms = np_tcp_cbrt(segs_milli * UINT64_C(2500000)); /* segments / 0.4 * 10^9 */
  } else {
    q->k_ms = 0;
    q->w_max = c->cwnd;
  }
}

/* W_cubic at t ms after the epoch began (RFC 9438 §4.2), bytes. */
static uint64_t w_cubic(const struct np_tcp_conn *c, uint64_t t_ms) {
  int64_t d = (int64_t)t_ms - (int64_t)c->cc.cubic.k_ms;
  if (d > CUBIC_T_MS_MAX) d = CUBIC_T_MS_MAX;
  if (d < -CUBIC_T_MS_MAX) d = -CUBIC_T_MS_MAX;
  int64_t grow = d * d * d / 100000 * 4 * (int64_t)c->mss / 100000; /* 0.4 * d^3 / 10^9 segments */
  int64_t w = (int64_t)c->cc.cubic.w_max + grow;
  return w < 0 ? 0 : (uint64_t)w;
}

/* RFC 9438 §4.3: what Reno would have, with alpha 3 (1 - beta) / (1 + beta) = 9/17
 * until it passes the old window and 1 from there. */
static void reno_estimate(struct np_tcp_conn *c, uint32_t acked_bytes) {
  struct np_tcp_cubic *q = &c->cc.cubic;
  uint64_t grow = (uint64_t)acked_bytes * c->mss;
  if (q->w_est < q->cwnd_prior) grow = grow * 9 / 17;
  grow += q->est_frac;
  q->w_est = (uint32_t)np_min_u64(q->w_est + grow / c->cwnd, UINT32_MAX / 2);
  q->est_frac = (uint32_t)(grow % c->cwnd);
}

static void avoidance(struct np_tcp_conn *c, uint32_t acked_bytes, uint64_t now_ns) {
  struct np_tcp_cubic *q = &c->cc.cubic;
  uint32_t now_ms = ms_of(now_ns);
  uint32_t rtt_ms = c->srtt_us / 8 / 1000;
  if (q->epoch_ms == 0) epoch_start(c, now_ms);
  if (now_ms - q->grown_ms > 2 * rtt_ms + GAP_MS) skip_gap(q, now_ms);
  q->grown_ms = now_ms;
  reno_estimate(c, acked_bytes);
  uint32_t t_ms = now_ms - q->epoch_ms;
  uint64_t target = w_cubic(c, (uint64_t)t_ms + rtt_ms);
  if (w_cubic(c, t_ms) < q->w_est) {
    c->cwnd = np_max_u32(c->cwnd, q->w_est); /* Reno-friendly region */
    return;
  }
  /* RFC 9438 §4.2: target within [cwnd, 1.5 cwnd], growth (target - cwnd) / cwnd per segment. */
  if (target < c->cwnd) target = c->cwnd;
  if (target > c->cwnd + (uint64_t)c->cwnd / 2) target = c->cwnd + (uint64_t)c->cwnd / 2;
  uint64_t grow = (target - c->cwnd) * acked_bytes + q->acked_bytes;
  q->acked_bytes = (uint32_t)(grow % c->cwnd);
  c->cwnd = (uint32_t)np_min_u64(c->cwnd + grow / c->cwnd, UINT32_MAX / 2);
}

static void cubic_acked(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_cc_ack *ack) {
  if (!ack->cwnd_limited) return; /* RFC 9438 §5.8: an unused window earns nothing */
  uint32_t rest = np_tcp_slow_start(tcp, c, &c->cc.cubic.hystart, ack); /* §4.10 */
  if (rest != 0) avoidance(c, rest, tcp->now_ns);
}

static uint32_t cubic_lost(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_tcp_cong why) {
  struct np_tcp_cubic *q = &c->cc.cubic;
  q->undo_cwnd = c->cwnd;
  q->undo_ssthresh = c->ssthresh;
  q->undo_w_max = q->w_max;
  q->undo_epoch_ms = q->epoch_ms;
  q->undo_k_ms = q->k_ms;
  q->epoch_ms = 0;
  q->cwnd_prior = c->cwnd;
  /* RFC 9438 §4.7, fast convergence: leave room for newcomers when the window shrank again. */
  q->w_max = c->cwnd < q->w_max ? (uint32_t)((uint64_t)c->cwnd * 17 / 20) : c->cwnd;
  /* RFC 9438 §4.6: from what is in flight, so that an unused window earns nothing. */
  uint32_t base = np_min_u32(c->cwnd, np_max_u32(np_tcp_cc_flight(tcp, c), c->mss));
  /* RFC 9438 §4.8: after a timeout the next epoch begins with K 0 and W_max what cwnd is then. */
  if (why == NP_CONG_RTO) q->w_max = 0;
  return np_max_u32((uint32_t)((uint64_t)base * 7 / 10), 2 * c->mss);
}

/* RFC 9438 §4.9.1, §4.9.2: what was reduced for nothing comes back. */
static void cubic_undo(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_cubic *q = &c->cc.cubic;
  (void)tcp;
  c->cwnd = np_max_u32(c->cwnd, q->undo_cwnd);
  c->ssthresh = q->undo_ssthresh;
  q->w_max = q->undo_w_max;
  q->epoch_ms = q->undo_epoch_ms;
  q->k_ms = q->undo_k_ms;
}

static void cubic_restart(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->cc.cubic.epoch_ms != 0) skip_gap(&c->cc.cubic, ms_of(tcp->now_ns));
}

const struct np_tcp_cc_ops np_tcp_cc_cubic = {
    .name = "cubic",
    .id = NP_CC_CUBIC,
    .init = cubic_init,
    .acked = cubic_acked,
    .lost = cubic_lost,
    .undo = cubic_undo,
    .restart = cubic_restart,
};
