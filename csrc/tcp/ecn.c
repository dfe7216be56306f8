/* Explicit congestion notification, RFC 3168: agreed in the handshake, marks echoed to the
 * peer, echoes answered by a smaller window. Only data sent for the first time is marked as
 * capable (§6.1.4 to §6.1.6); ecn_tos in tcp_int.h. L4S (RFC 8311, 9331) is not spoken: a
 * mark counts as a loss does, and ECT(1) is never sent. */
#include "tcp/cc.h"

/* What the flags of our SYN or SYN-ACK say. RFC 3168 §6.1.1.1: a SYN sent again asks no more,
 * because some middleboxes drop those that do; from then on ECN is off whatever comes. */
uint8_t np_tcp_ecn_syn_out(struct np_tcp *tcp, struct np_tcp_conn *c, bool reply) {
  if (reply) return c->ecn & NP_ECN_OK ? NP_TCP_ECE : 0;
  if (tcp->config.ecn != NP_ECN_REQUEST) return 0;
  if (c->probes == 0) {
    c->ecn |= NP_ECN_ASKED;
    return NP_TCP_ECE | NP_TCP_CWR;
  }
  if (c->ecn & NP_ECN_ASKED) np_tcp_count(tcp, NP_C_TCP_ECN_FALLBACK);
  c->ecn &= (uint8_t)~NP_ECN_ASKED;
  return 0;
}

/* A SYN or SYN-ACK came. One with both flags set where one is right is a reflection of ours. */
void np_tcp_ecn_syn_in(struct np_tcp *tcp, struct np_tcp_conn *c, uint8_t flags) {
  uint8_t both = flags & (NP_TCP_ECE | NP_TCP_CWR);
  bool asked = (c->ecn & NP_ECN_ASKED) != 0;
  bool may = c->flags & NP_TF_OUTGOING ? asked : tcp->config.ecn != NP_ECN_OFF;
  bool ok = may && both == (flags & NP_TCP_ACK ? NP_TCP_ECE : (NP_TCP_ECE | NP_TCP_CWR));
  c->ecn &= (uint8_t)~NP_ECN_OK;
  if (ok) c->ecn |= NP_ECN_OK;
}

/* An acceptable segment of an ECN connection (RFC 3168 §6.1.3): CWR ends the echo, a mark begins
 * it again, also in the same segment. The first mark is told at once. */
void np_tcp_ecn_in(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  if (seg->flags & NP_TCP_CWR) c->ecn &= (uint8_t)~NP_ECN_ECHO;
  if ((seg->pkt->tos & NP_ECN_CE) != NP_ECN_CE || seg->len == 0) return;
  np_tcp_count(tcp, NP_C_TCP_CE_RX);
  if (!(c->ecn & NP_ECN_ECHO)) {
    c->flags |= NP_TF_ACK_NOW;
    np_tcp_dirty(tcp, c); /* the text itself may yet be dropped for want of a buffer */
  }
  c->ecn |= NP_ECN_ECHO | NP_ECN_CE_SEEN;
}

/* An ACK with ECE: once per window of data (§6.1.2), so not while an episode is on. */
void np_tcp_ecn_echoed(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->ecn |= NP_ECN_ECE_SEEN;
  if (c->ca_state > NP_CA_DISORDER || np_tcp_flight(c) == 0) return;
  np_tcp_count(tcp, NP_C_TCP_ECE_CUTS);
  np_tcp_enter_cwr(tcp, c);
}
