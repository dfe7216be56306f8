/* Congestion control behind one table. An algorithm sets cwnd, ssthresh and, if it
 * paces, the pacing rate of its connection; it keeps its state in conn->cc. What is
 * lost, and when, is recovery's business (recovery.c); it says so here.
 *
 * Who calls what: ack.c and established.c tell of each ACK (np_tcp_cc_told), recovery.c of
 * losses, of episodes that ended and of those that proved spurious, output.c of a start
 * after idleness, ecn.c of echoed marks. Time is tcp->now_ns; nothing here reads a clock. */
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
  uint32_t flight_bytes;  /* snd_nxt - snd_una before it */
  uint32_t rtt_us;        /* of a segment sent once that it acknowledges; 0: none */
  bool cwnd_limited;      /* cwnd, not the session or the peer's window, held the sender back */
};

struct np_tcp_cc_ops {
  const char *name;
  uint8_t id; /* enum np_cc */
  /* Recovery leaves cwnd alone: no reduction of its own, no PRR (the algorithm models the path). */
  bool owns_cwnd;
  /* Takes delivery-rate samples, hears of every ACK, paces whatever the configuration says. */
  bool models;
  /* The algorithm's state from nothing. cwnd and ssthresh are set: to their first values in a new
   * connection, to what the algorithm before left in one that changed its mind. */
  void (*init)(struct np_tcp *tcp, struct np_tcp_conn *c);
  /* An ACK that acknowledged or SACKed something; c->ca_state says whether an episode is on. Those
   * that do not own cwnd are not called during NP_CA_RECOVERY and NP_CA_CWR, where PRR sets it. */
  void (*acked)(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_cc_ack *ack);
  /* An episode begins: call it by np_tcp_cc_lost. Keeps what undo needs. Return: the new ssthresh in bytes. */
  uint32_t (*lost)(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_tcp_cong why);
  /* The episode was spurious (RFC 4015, RFC 5682, RFC 2883): cwnd and ssthresh as they were before. */
  void (*undo)(struct np_tcp *tcp, struct np_tcp_conn *c);
  /* Sending goes on after an idle time: growth must not count it. */
  void (*restart)(struct np_tcp *tcp, struct np_tcp_conn *c);
  /* s was judged lost; only of those that model. May come before lost tells of the episode. */
  void (*seg_lost)(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_txseg *s);
  /* For people: fills the fields of this algorithm. NULL: none. */
  void (*info)(const struct np_tcp_conn *c, struct np_conn_info *out);
};

extern const struct np_tcp_cc_ops np_tcp_cc_cubic;
extern const struct np_tcp_cc_ops np_tcp_cc_newreno;
extern const struct np_tcp_cc_ops np_tcp_cc_bbr;
extern const struct np_tcp_cc_ops *const np_tcp_cc_table[NP_CC_COUNT];

/* The algorithm of a connection. */
NP_INLINE const struct np_tcp_cc_ops *np_tcp_cc(const struct np_tcp_conn *c) { return np_tcp_cc_table[c->cc_id]; }

/* An episode begins. Return: the new ssthresh. RFC 3168 §6.1.2: whatever the reason, the
 * peer hears with the next new data that the window was reduced. */
NP_INLINE uint32_t np_tcp_cc_lost(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_tcp_cong why) {
  if (c->ecn & NP_ECN_OK) c->ecn |= NP_ECN_CWR_DUE;
  return np_tcp_cc(c)->lost(tcp, c, why);
}

/* cc.c */
/* Sets cwnd, ssthresh and the algorithm of a connection that becomes ESTABLISHED. */
void np_tcp_cc_start(struct np_tcp *tcp, struct np_tcp_conn *c);
/* Changes the algorithm, before or while the connection is ESTABLISHED. */
void np_tcp_cc_change(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_cc id);
/* The flight that a reduction goes by: now's, or the larger one that the loss was among. */
NP_INLINE uint32_t np_tcp_cc_flight(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return np_max_u32(np_tcp_flight(c), tcp->told.lost_flight);
}
uint32_t np_tcp_cc_initial_cwnd(const struct np_tcp_conn *c);
void np_tcp_cc_ack(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t acked, uint32_t flight);

/* An ACK that acknowledged acked bytes, or SACKed something, with flight bytes out before it. An
 * ordinary connection that cwnd does not hold back has nothing to learn from it. */
NP_INLINE void np_tcp_cc_told(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t acked, uint32_t flight) {
  if ((c->flags & NP_TF_CWND_FULL) || NP_UNLIKELY(c->cc_flags & (NP_CCF_RATE | NP_CCF_PACED))) {
    np_tcp_cc_ack(tcp, c, acked, flight);
  }
}

/* Slow start, RFC 5681 §3.1 with HyStart++, RFC 9406 (hystart.c). */
void np_tcp_hystart_init(struct np_tcp_conn *c, struct np_tcp_hystart *h);
/* Return: bytes of acked that slow start did not use, because it is over. */
uint32_t np_tcp_slow_start(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_hystart *h,
                           const struct np_tcp_cc_ack *ack);
/* cwnd += acked / cwnd segments, as Reno; *frac keeps what is less than a byte (RFC 3465 §2.1). */
uint32_t np_tcp_reno_growth(uint32_t cwnd, uint64_t acked_times_mss, uint32_t *frac);

/* Integer cube root, for tests. */
uint32_t np_tcp_cbrt(uint64_t v);

#endif
