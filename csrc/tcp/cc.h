/* Congestion control behind one table. An algorithm sets cwnd, ssthresh and, if it
 * paces, the pacing rate of its connection; it keeps its state in conn->cc. What is
 * lost, and when, is recovery's business (recovery.c); it says so here.
 *
 * Who calls what: ack.c tells of each ACK, recovery.c of losses, of episodes that ended
 * and of those that proved spurious, output.c of a start after idleness. Time is
 * tcp->now_ns; nothing here reads a clock. */
#ifndef NP_TCP_CC_H
#define NP_TCP_CC_H

#include "tcp/tcp_int.h"

/* Why the sender has to slow down. */
enum np_tcp_cong {
  NP_CONG_LOSS, /* loss found by SACK, RACK or duplicate ACKs */
  NP_CONG_ECN,  /* the peer echoed congestion (RFC 3168 §6.1.2) */
  NP_CONG_RTO   /* the retransmission timer expired */
};

/* What one ACK told, after the send queue and the scoreboard took it in. */
struct np_tcp_cc_ack {
  uint32_t acked_bytes;   /* cumulatively acknowledged by it */
  uint32_t sacked_bytes;  /* newly selectively acknowledged by it */
  uint32_t lost_bytes;    /* newly judged lost because of it */
  uint32_t flight_bytes;  /* snd_nxt - snd_una before it */
  uint32_t rtt_us;        /* of a segment sent once that it acknowledges; 0: none */
  bool ece;               /* it carried ECE on a connection with ECN */
  bool cwnd_limited;      /* cwnd, not the session or the peer's window, held the sender back */
};

struct np_tcp_cc_ops {
  const char *name;
  uint8_t id; /* enum np_cc */
  /* Recovery leaves cwnd alone: no reduction of its own, no PRR (the algorithm models the path). */
  bool owns_cwnd;
  /* ESTABLISHED: cwnd, ssthresh and state from nothing. */
  void (*init)(struct np_tcp *tcp, struct np_tcp_conn *c);
  /* An ACK that acknowledged or SACKed something; c->ca_state says whether an episode is on. Those
   * that do not own cwnd are not called during NP_CA_RECOVERY and NP_CA_CWR, where PRR sets it. */
  void (*acked)(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_cc_ack *ack);
  /* An episode begins. Keeps what undo needs. Return: the new ssthresh in bytes. */
  uint32_t (*lost)(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_tcp_cong why);
  /* The episode was spurious (RFC 4015, RFC 5682, RFC 2883): cwnd and ssthresh as they were before. */
  void (*undo)(struct np_tcp *tcp, struct np_tcp_conn *c);
  /* Sending goes on after an idle time: growth must not count it. */
  void (*restart)(struct np_tcp *tcp, struct np_tcp_conn *c);
};

extern const struct np_tcp_cc_ops np_tcp_cc_cubic;

/* The algorithm of a connection. */
NP_INLINE const struct np_tcp_cc_ops *np_tcp_cc(const struct np_tcp_conn *c) {
  (void)c;
  return &np_tcp_cc_cubic;
}

uint32_t np_tcp_cc_initial_cwnd(const struct np_tcp_conn *c);
/* Integer cube root, for tests. */
uint32_t np_tcp_cbrt(uint64_t v);

#endif
