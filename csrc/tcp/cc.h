/* Congestion control behind one small table, so that BBR can come beside CUBIC.
 * An algorithm sees the connection's cwnd, ssthresh and round-trip times and
 * keeps its state in conn->cc. A pacing rate would be one more function here,
 * asked by output before each segment. */
#ifndef NP_TCP_CC_H
#define NP_TCP_CC_H

#include "tcp/tcp_int.h"

struct np_tcp_cc_ops {
  const char *name;
  void (*init)(struct np_tcp_conn *c);
  /* acked bytes were acknowledged while cwnd was what limited us. */
  void (*acked)(struct np_tcp_conn *c, uint32_t acked_bytes, uint64_t now_ns);
  /* Loss found: return the new ssthresh in bytes. */
  uint32_t (*lost)(struct np_tcp_conn *c, uint32_t flight_bytes, uint64_t now_ns);
  /* The loss showed by a timeout; right after lost. */
  void (*timed_out)(struct np_tcp_conn *c);
  /* Sending goes on after an idle time: growth must not count it. */
  void (*restart)(struct np_tcp_conn *c, uint64_t now_ns);
};

extern const struct np_tcp_cc_ops np_tcp_cc_cubic;

/* The algorithm of a connection: one today. */
NP_INLINE const struct np_tcp_cc_ops *np_tcp_cc(const struct np_tcp_conn *c) {
  (void)c;
  return &np_tcp_cc_cubic;
}

uint32_t np_tcp_cc_initial_cwnd(const struct np_tcp_conn *c);
/* Integer cube root, for tests. */
uint32_t np_tcp_cbrt(uint64_t v);

#endif
