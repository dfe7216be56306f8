/* Proportional rate reduction, RFC 9937 (RFC 6937 with the safe variant of its reduction bound):
 * while an episode lasts, what may leave follows what was delivered, so that cwnd reaches ssthresh
 * at its end without a pause and without a burst. */
#include "tcp/cc.h"

static uint32_t sent_ever(const struct np_tcp_conn *c) { return (uint32_t)(c->bytes_tx + c->bytes_rtx); }

/* flight_bytes: in flight when the episode began, less what was SACKed before. */
void np_tcp_prr_start(struct np_tcp_conn *c, uint32_t flight_bytes) {
  c->rack.prr_delivered = 0;
  c->rack.prr_sent0 = sent_ever(c);
  c->rack.prr_flight = np_max_u32(flight_bytes, c->mss);
}

void np_tcp_prr_ack(struct np_tcp *tcp, struct np_tcp_conn *c) {
  const struct np_tcp_told *t = &tcp->told;
  struct np_tcp_rack *r = &c->rack;
  if (t->delivered == 0) return;
  r->prr_delivered = (uint32_t)np_min_u64((uint64_t)r->prr_delivered + t->delivered, UINT32_MAX);
  uint32_t out = sent_ever(c) - r->prr_sent0;
  uint32_t pipe = np_tcp_pipe(c);
  uint64_t may;
  if (pipe > c->ssthresh) {
    may = ((uint64_t)r->prr_delivered * c->ssthresh + r->prr_flight - 1) / r->prr_flight;
    may = may > out ? may - out : 0;
  } else {
    may = np_max_u32(r->prr_delivered > out ? r->prr_delivered - out : 0, t->delivered);
    if (t->acked_bytes != 0 && t->lost_bytes == 0) may += c->mss; /* SafeACK */
    may = np_min_u64(may, c->ssthresh - pipe);
  }
  if (out == 0 && may == 0) may = c->mss; /* the fast retransmit itself */
  c->cwnd = np_max_u32((uint32_t)np_min_u64(pipe + may, UINT32_MAX / 2), c->mss);
}
