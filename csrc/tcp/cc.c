/* What the congestion control algorithms have in common: choosing one, starting it,
 * telling it of ACKs. */
#include "tcp/cc.h"

const struct np_tcp_cc_ops *const np_tcp_cc_table[NP_CC_COUNT] = {
    [NP_CC_CUBIC] = &np_tcp_cc_cubic,
    [NP_CC_NEWRENO] = &np_tcp_cc_newreno,
    [NP_CC_BBR] = &np_tcp_cc_bbr,
};

uint32_t np_tcp_cc_initial_cwnd(const struct np_tcp_conn *c) {
  /* RFC 6928 §2 */
  return np_min_u32(NP_TCP_INIT_SEGS * c->mss, np_max_u32(2 * c->mss, 14600));
}

static void set_up(struct np_tcp *tcp, struct np_tcp_conn *c) {
  const struct np_tcp_cc_ops *ops = np_tcp_cc(c);
  bool rate = (c->cc_flags & NP_CCF_RATE) != 0;
  c->cc_flags &= (uint8_t)~(NP_CCF_RATE | NP_CCF_PACED);
  c->cc_flags |= NP_CCF_STARTED;
  if (ops->models) {
    c->cc_flags |= NP_CCF_RATE;
    if (!rate) np_tcp_rate_start(tcp, c);
  }
  if (ops->models || c->pacing == NP_PACING_ON) c->cc_flags |= NP_CCF_PACED;
  np_tcp_pace_set(c, 0);
  ops->init(tcp, c);
  if ((c->cc_flags & NP_CCF_PACED) && !ops->owns_cwnd) np_tcp_pace_by_cwnd(c); /* the first window too */
}

void np_tcp_cc_start(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->cwnd = np_tcp_cc_initial_cwnd(c);
  c->ssthresh = UINT32_MAX;
  set_up(tcp, c);
  if (c->ecn & NP_ECN_OK) np_tcp_count(tcp, NP_C_TCP_ECN);
}

void np_tcp_cc_change(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_cc id) {
  if (c->cc_id == id) return;
  /* What a model found is where another goes on from, not where it starts searching. */
  if ((c->cc_flags & NP_CCF_STARTED) && np_tcp_cc(c)->owns_cwnd && np_tcp_bbr_full(c)) c->ssthresh = c->cwnd;
  c->cc_id = (uint8_t)id;
  c->cc_flags &= (uint8_t)~NP_CCF_EPISODE;
  if (c->cc_flags & NP_CCF_STARTED) set_up(tcp, c);
}

/* Out of line: what only a sender that cwnd, a model or the pacer holds back has to do. */
void np_tcp_cc_ack(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t acked, uint32_t flight) {
  const struct np_tcp_cc_ops *ops = np_tcp_cc(c);
  struct np_tcp_cc_ack a = {
      .acked_bytes = acked,
      .flight_bytes = flight,
      .rtt_us = tcp->ack_rtt_us,
      .cwnd_limited = (c->flags & NP_TF_CWND_FULL) != 0,
  };
  if (c->cc_flags & NP_CCF_RATE) np_tcp_rate_make(tcp, c);
  bool grows = c->ca_state != NP_CA_RECOVERY && c->ca_state != NP_CA_CWR;
  if (ops->owns_cwnd || (grows && acked != 0)) ops->acked(tcp, c, &a);
  if (c->cc_flags & NP_CCF_RATE) {
    tcp->rs = (struct np_tcp_rate_sample){0};
    np_tcp_rate_idle(c); /* nothing to send now: what comes later follows a bubble */
  }
  if ((c->cc_flags & NP_CCF_PACED) && !ops->owns_cwnd) np_tcp_pace_by_cwnd(c);
}

static uint32_t bound(uint64_t cwnd) { return (uint32_t)np_min_u64(cwnd, UINT32_MAX / 2); }

uint32_t np_tcp_reno_growth(uint32_t cwnd, uint64_t acked_times_mss, uint32_t *frac) {
  uint64_t grow = acked_times_mss + *frac;
  *frac = (uint32_t)(grow % cwnd);
  return bound(cwnd + grow / cwnd);
}
