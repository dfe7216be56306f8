/* NewReno's congestion avoidance, RFC 5681 §3.1 with bytes counted (RFC 3465), and half the
 * flight after a loss. Slow start is hystart.c's, loss recovery recovery.c's (RFC 6582). */
#include "tcp/cc.h"

static void reno_init(struct np_tcp *tcp, struct np_tcp_conn *c) {
  (void)tcp;
  c->cc.reno = (struct np_tcp_reno){0};
  np_tcp_hystart_init(c, &c->cc.reno.hystart);
}

static void reno_acked(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_cc_ack *ack) {
  struct np_tcp_reno *r = &c->cc.reno;
  if (!ack->cwnd_limited) return; /* RFC 2861 §3, RFC 7661 §4: an unused window earns nothing */
  uint32_t rest = np_tcp_slow_start(tcp, c, &r->hystart, ack);
  /* One segment for each window's worth, however many ACKs told of it. */
  if (rest != 0) c->cwnd = np_tcp_reno_growth(c->cwnd, (uint64_t)rest * c->mss, &r->frac);
}

static uint32_t reno_lost(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_tcp_cong why) {
  (void)why;
  c->cc.reno.undo_cwnd = c->cwnd;
  c->cc.reno.undo_ssthresh = c->ssthresh;
  c->cc.reno.frac = 0;
  uint32_t base = np_min_u32(c->cwnd, np_tcp_cc_flight(tcp, c));
  return np_max_u32(base / 2, 2 * c->mss); /* RFC 5681 §3.1, equation (4) */
}

static void reno_undo(struct np_tcp *tcp, struct np_tcp_conn *c) {
  (void)tcp;
  c->cwnd = np_max_u32(c->cwnd, c->cc.reno.undo_cwnd);
  c->ssthresh = c->cc.reno.undo_ssthresh;
}

static void reno_restart(struct np_tcp *tcp, struct np_tcp_conn *c) {
  (void)tcp;
  c->cc.reno.frac = 0;
}

const struct np_tcp_cc_ops np_tcp_cc_newreno = {
    .name = "newreno",
    .id = NP_CC_NEWRENO,
    .init = reno_init,
    .acked = reno_acked,
    .lost = reno_lost,
    .undo = reno_undo,
    .restart = reno_restart,
};
