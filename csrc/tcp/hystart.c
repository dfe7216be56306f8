/* Slow start with HyStart++, RFC 9406: when round trips grow longer the queue is filling,
 * so growth slows down (conservative slow start) and, if that was no passing thing, ends
 * before the queue overflows. Only in a connection's first slow start (§4.3). */
#include "tcp/cc.h"

#define RTT_THRESH_MIN_US 4000u
#define RTT_THRESH_MAX_US 16000u
#define RTT_DIVISOR 8u
#define RTT_SAMPLES 8u
#define CSS_DIVISOR 4u
#define CSS_ROUNDS 5u
#define L_UNPACED 8u /* segments */

void np_tcp_hystart_init(struct np_tcp_conn *c, struct np_tcp_hystart *h) {
  *h = (struct np_tcp_hystart){
      .round_end = c->snd_nxt, .last_us = UINT32_MAX, .now_us = UINT32_MAX, .css_base_us = UINT32_MAX, .on = true};
}

/* §4.2: a round ends when what was sent last at its start is acknowledged. */
static void round_over(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_hystart *h) {
  h->round_end = c->snd_nxt;
  h->last_us = h->now_us;
  h->now_us = UINT32_MAX;
  h->samples = 0;
  if (h->css_base_us == UINT32_MAX) return;
  h->css_rounds++;
  if (h->css_rounds < CSS_ROUNDS) return;
  c->ssthresh = c->cwnd;
  h->on = false;
  np_tcp_count(tcp, NP_C_TCP_HYSTART);
}

static void judge(struct np_tcp_hystart *h) {
  if (h->samples < RTT_SAMPLES || h->now_us == UINT32_MAX) return;
  if (h->css_base_us != UINT32_MAX) {
    if (h->now_us < h->css_base_us) h->css_base_us = UINT32_MAX; /* it was a passing thing */
    return;
  }
  if (h->last_us == UINT32_MAX) return;
  uint32_t thresh = np_max_u32(RTT_THRESH_MIN_US, np_min_u32(h->last_us / RTT_DIVISOR, RTT_THRESH_MAX_US));
  if (h->now_us < h->last_us + thresh) return;
  h->css_base_us = h->now_us;
  h->css_rounds = 0;
}

static void listen_to(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_hystart *h, uint32_t rtt_us) {
  if (c->ssthresh != UINT32_MAX) {
    h->on = false; /* a loss or mark has said it */
    return;
  }
  if (rtt_us != 0) {
    h->now_us = np_min_u32(h->now_us, rtt_us);
    if (h->samples < UINT16_MAX) h->samples++;
  }
  judge(h);
  if (np_seq_ge(c->snd_una, h->round_end)) round_over(tcp, c, h);
}

/* RFC 3465 §2.3 limits what one ACK adds, lest a late one for much data make a burst. Where a
 * peer acknowledges whole bursts there are few ACKs in a round trip, so half the flight is
 * always allowed: growth stays between one and a half and two times. What is paced makes no
 * burst and needs no limit (RFC 9406 §4.3). */
static uint32_t limit(const struct np_tcp_conn *c, const struct np_tcp_cc_ack *ack) {
  if (c->cc_flags & NP_CCF_PACED) return ack->acked_bytes;
  return np_min_u32(ack->acked_bytes, np_max_u32(L_UNPACED * c->mss, ack->flight_bytes / 2));
}

uint32_t np_tcp_slow_start(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_hystart *h,
                           const struct np_tcp_cc_ack *ack) {
  if (c->cwnd >= c->ssthresh) return ack->acked_bytes;
  uint32_t grow = limit(c, ack);
  if (h->on) {
    listen_to(tcp, c, h, ack->rtt_us);
    if (h->on && h->css_base_us != UINT32_MAX) {
      grow /= CSS_DIVISOR;
      c->cwnd = np_min_u32(c->cwnd + grow, UINT32_MAX / 2);
      return 0;
    }
    if (c->cwnd >= c->ssthresh) return 0; /* it ends here */
  }
  uint32_t room = c->ssthresh - c->cwnd;
  if (grow <= room) {
    c->cwnd = np_min_u32(c->cwnd + grow, UINT32_MAX / 2);
    return 0;
  }
  c->cwnd += room;
  return grow - room;
}
