/* Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation, taken up by the BBR draft):
 * each segment notes at transmission how much had been delivered, and when; its ACK then
 * shows how fast data arrived in between. Time counts in units of 256 ns modulo 2^32, which
 * is 18 minutes; bytes modulo 2^32. Only for algorithms that ask (NP_CCF_RATE). */
#include "tcp/cc.h"

static uint32_t ticks(uint64_t ns) { return (uint32_t)(ns >> NP_TCP_RATE_SHIFT); }

static void note(struct np_tcp_conn *c, struct np_tcp_txseg *s) {
  const struct np_tcp_rate *r = &c->rate;
  s->rate = (struct np_tcp_seg_rate){
      .delivered = r->delivered,
      .delivered_at = r->delivered_at,
      .first_sent_at = r->first_sent_at,
      .in_flight = np_tcp_pipe(c),
      .lost = r->lost,
  };
  s->flags &= ~NP_TXS_APP_LIMITED;
  if (r->app_limited != 0) s->flags |= NP_TXS_APP_LIMITED;
}

/* From now on samples are taken: what is in flight counts as if sent now. */
void np_tcp_rate_start(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t now = ticks(tcp->now_ns);
  c->rate = (struct np_tcp_rate){.delivered_at = now, .first_sent_at = now};
  tcp->rs = (struct np_tcp_rate_sample){0};
  for (struct np_buf *b = c->sndq_head; b != NULL && b != c->sndq_next; b = np_txnext(b)) { /* bound: snd_segs */
    note(c, np_txseg(b));
  }
}

/* s was just sent and accounted, for the first time or again. */
void np_tcp_rate_sent(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_txseg *s) {
  if (np_tcp_pipe(c) <= s->len) { /* nothing was in flight: what lies before says nothing of the path */
    c->rate.first_sent_at = c->rate.delivered_at = ticks(tcp->now_ns);
    if (c->rate.app_limited != 0) np_tcp_cc(c)->restart(tcp, c);
  }
  note(c, s);
}

/* s was acknowledged or SACKed, which is said once. The sample is that of the segment sent last. */
void np_tcp_rate_delivered(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_txseg *s) {
  struct np_tcp_rate *r = &c->rate;
  struct np_tcp_rate_sample *rs = &tcp->rs;
  uint32_t sent_at = ticks(s->sent_ns);
  r->delivered += s->len;
  r->delivered_at = ticks(tcp->now_ns);
  rs->newly_bytes += s->len;
  int32_t later = (int32_t)(sent_at - r->first_sent_at);
  if (rs->has && later <= 0 && !(later == 0 && np_seq_gt(s->seq, rs->seq))) return;
  rs->has = true;
  rs->app_limited = (s->flags & NP_TXS_APP_LIMITED) != 0;
  rs->seq = s->seq;
  rs->prior_delivered = s->rate.delivered;
  rs->send_elapsed = sent_at - s->rate.first_sent_at;
  rs->ack_elapsed = r->delivered_at - s->rate.delivered_at;
  rs->in_flight = s->rate.in_flight;
  rs->lost = r->lost - s->rate.lost;
  r->first_sent_at = sent_at;
}

/* The first bytes of a segment were acknowledged; the rest gives the sample. */
void np_tcp_rate_part(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t bytes) {
  c->rate.delivered += bytes;
  c->rate.delivered_at = ticks(tcp->now_ns);
  tcp->rs.newly_bytes += bytes;
}

void np_tcp_rate_lost(struct np_tcp_conn *c, const struct np_tcp_txseg *s) {
  c->rate.lost += s->len;
  np_tcp_cc(c)->seg_lost(np_tcp_owner(c), c, s);
}

/* Completes tcp->rs after an ACK was taken in. What it delivered over less than the shortest
 * round trip is no rate: its ACKs were compressed. */
void np_tcp_rate_make(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_rate *r = &c->rate;
  struct np_tcp_rate_sample *rs = &tcp->rs;
  if (r->app_limited != 0 && (int32_t)(r->delivered - r->app_limited) > 0) r->app_limited = 0;
  if (!rs->has) return;
  rs->delivered = r->delivered - rs->prior_delivered;
  uint32_t interval = np_max_u32(rs->send_elapsed, rs->ack_elapsed);
  uint64_t interval_ns = (uint64_t)interval << NP_TCP_RATE_SHIFT;
  uint32_t slack_ns = (1u << NP_TCP_RATE_SHIFT) + 1000; /* both clocks cut off what is below their unit */
  if (interval == 0 || (c->min_rtt_us != 0 && interval_ns + slack_ns < (uint64_t)c->min_rtt_us * 1000)) return;
  /* bytes * 10^9 / (256 * interval) / 16; 10^9 / 256 is 3906250 */
  rs->bw = (uint32_t)np_min_u64((uint64_t)rs->delivered * 3906250 / ((uint64_t)interval * NP_TCP_BW_UNIT), UINT32_MAX - 1);
  if (rs->bw != 0 && (!rs->app_limited || rs->bw > r->bw)) r->bw = rs->bw;
}

/* After output and after each ACK: the session, not the network, keeps us from sending more. */
void np_tcp_rate_idle(struct np_tcp_conn *c) {
  if (c->sndq_next != NULL || c->lost_due != 0 || np_tcp_pipe(c) >= c->cwnd) return;
  np_tcp_rate_app_limited(c);
}

void np_tcp_rate_app_limited(struct np_tcp_conn *c) {
  c->rate.app_limited = np_max_u32(c->rate.delivered + np_tcp_pipe(c), 1);
}
