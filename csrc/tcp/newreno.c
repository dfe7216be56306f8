/* Without SACK: RFC 6582 in the terms of recovery.c. Each duplicate ACK says that
 * one segment has left the network, which segment we don't know. Taking it out of
 * the pipe is what RFC 5681 calls inflating the window, and gives limited transmit
 * (RFC 3042) for the first two. */
#include "tcp/tcp_int.h"

void np_tcp_reno_dup(struct np_tcp_conn *c) {
  uint32_t flight = np_tcp_flight(c);
  /* No more than what can have arrived: all but the one that is missing. A receiver
   * that sends more duplicates gains nothing (RFC 5681 §3.2, ACK division). */
  uint32_t most = flight > c->mss ? flight - c->mss : 0;
  c->reno_bytes = np_min_u32(c->reno_bytes + c->mss, most);
}

/* A partial ACK of acked bytes: the retransmission and what followed it. */
void np_tcp_reno_acked(struct np_tcp_conn *c, uint32_t acked) {
  uint32_t others = acked > c->mss ? acked - c->mss : 0;
  c->reno_bytes = c->reno_bytes > others ? c->reno_bytes - others : 0;
}
