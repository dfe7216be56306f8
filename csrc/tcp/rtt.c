/* Round-trip time and retransmission timeout, RFC 6298. */
#include "tcp/tcp_int.h"

#define CLOCK_US 1000u /* G: what the timer wheel resolves */

/* RFC 6298 §2.2, §2.3. */
NP_INLINE void set_rto(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t rto = c->srtt_us / 8 + np_max_u32(CLOCK_US, c->rttvar_us);
  rto = np_max_u32(rto, tcp->config.rto_ms_min * 1000);
  c->rto_us = np_min_u32(rto, tcp->config.rto_ms_max * 1000);
}

/* srtt_us is kept times 8 and rttvar_us times 4, so that alpha 1/8 and beta 1/4
 * are shifts without loss. */
void np_tcp_rtt_sample(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t rtt_us) {
  if (rtt_us == 0) rtt_us = 1;
  if (rtt_us > 120000000u) rtt_us = 120000000u;
  if (c->min_rtt_us == 0 || rtt_us < c->min_rtt_us) c->min_rtt_us = rtt_us;
  if (c->srtt_us == 0) {
    c->srtt_us = rtt_us * 8;
    c->rttvar_us = rtt_us * 2;
  } else {
    int32_t err = (int32_t)rtt_us - (int32_t)(c->srtt_us / 8);
    uint32_t dev = (uint32_t)(err < 0 ? -err : err);
    c->rttvar_us = c->rttvar_us - c->rttvar_us / 4 + dev;
    c->srtt_us = (uint32_t)((int64_t)c->srtt_us + err);
  }
  set_rto(tcp, c);
}

void np_tcp_rto_update(const struct np_tcp *tcp, struct np_tcp_conn *c) { set_rto(tcp, c); }

/* With back-off (RFC 6298 §5.5). */
uint64_t np_tcp_rto_ns(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint64_t us = (uint64_t)c->rto_us << np_min_u32(c->backoff, 20);
  return np_min_u64(us, (uint64_t)tcp->config.rto_ms_max * 1000) * 1000;
}

/* RFC 6298 §5.1. RFC 8961 §4 (4b): a whole RTO in which nothing was lost ends the back-off; what is
 * sent after a pause does not wait for an outage that was before it. */
void np_tcp_rto_start(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint64_t rto_ns = np_tcp_rto_ns(tcp, c);
  if (NP_UNLIKELY(c->backoff != 0) && np_tcp_flight(c) == 0 && tcp->now_ns - c->progress_ns >= rto_ns) {
    c->backoff = 0;
    rto_ns = np_tcp_rto_ns(tcp, c);
  }
  c->rtx_due_ns = tcp->now_ns + rto_ns;
}
