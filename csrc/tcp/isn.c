/* What is derived from the secret and the flow: initial sequence numbers,
 * timestamp offsets, flow labels and the start of the port search. */
#include "tcp/tcp_int.h"

/* Told apart by a byte, so that one key serves both. */
static uint64_t keyed(const struct np_tcp *tcp, const struct np_flow *flow, uint8_t what) {
  uint8_t in[sizeof *flow + 1];
  memcpy(in, flow, sizeof *flow);
  in[sizeof *flow] = what;
  return np_siphash(tcp->key_isn, in, sizeof in);
}

/* One hash for both: its halves tell nothing of each other. The low one is F of RFC 6528 §3, ISN = M +
 * F(four-tuple, secret), M a clock of about 4 us. The high one offsets timestamps: the same whenever the
 * four-tuple is used, so that a peer sees them grow from one connection to the next (RFC 6191) and nobody
 * sees our uptime (RFC 7323 §7.1). */
uint64_t np_tcp_flow_secret(const struct np_tcp *tcp, const struct np_flow *flow) { return keyed(tcp, flow, 1); }

np_seq np_tcp_isn(const struct np_tcp *tcp, uint64_t flow_secret) {
  return np_seq_of((uint32_t)flow_secret + (uint32_t)(tcp->now_ns >> 12));
}

uint32_t np_tcp_ts_offset(uint64_t flow_secret) { return (uint32_t)(flow_secret >> 32); }

/* RFC 6437 §3: one label for all packets of a flow, which nobody outside can tell beforehand; never 0, which means
 * none. What is sent for no connection, or before there is one, has the same. IPv4 has none. */
uint32_t np_tcp_flow_label(const struct np_tcp *tcp, const struct np_flow *flow) {
  if (np_addr_is_v4(&flow->remote)) return 0;
  uint32_t label = (uint32_t)keyed(tcp, flow, 3) & 0xfffffu;
  return label != 0 ? label : 1;
}

/* RFC 6056 §3.3.3: the offset of algorithm 3 leaves the local port out. */
uint32_t np_tcp_port_offset(const struct np_tcp *tcp, const struct np_flow *flow) {
  struct np_flow f = *flow;
  f.local_port = 0;
  return (uint32_t)keyed(tcp, &f, 2);
}
