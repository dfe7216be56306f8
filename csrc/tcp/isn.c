/* What is derived from the secret and the flow: initial sequence numbers,
 * timestamp offsets and the start of the port search. */
#include "tcp/tcp_int.h"

/* Told apart by a byte, so that one key serves all three. */
static uint64_t keyed(const struct np_tcp *tcp, const struct np_flow *flow, uint8_t what) {
  uint8_t in[sizeof *flow + 1];
  memcpy(in, flow, sizeof *flow);
  in[sizeof *flow] = what;
  return np_siphash(tcp->key_isn, in, sizeof in);
}

/* RFC 6528 §3: ISN = M + F(four-tuple, secret), M a clock of about 4 us. */
np_seq np_tcp_isn(const struct np_tcp *tcp, const struct np_flow *flow) {
  return np_seq_of((uint32_t)keyed(tcp, flow, 1) + (uint32_t)(tcp->now_ns >> 12));
}

/* One offset per four-tuple, whenever it is used: a peer sees timestamps that grow
 * from one connection to the next (RFC 6191), and nobody sees our uptime (RFC 7323 §7.1). */
uint32_t np_tcp_ts_offset(const struct np_tcp *tcp, const struct np_flow *flow) {
  return (uint32_t)keyed(tcp, flow, 2);
}

/* RFC 6056 §3.3.3: the offset of algorithm 3 leaves the local port out. */
uint32_t np_tcp_port_offset(const struct np_tcp *tcp, const struct np_flow *flow) {
  struct np_flow f = *flow;
  f.local_port = 0;
  return (uint32_t)keyed(tcp, &f, 3);
}
