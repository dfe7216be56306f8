/* The load generator of a core (csrc/session/load.c): what Go asks of it and what it
 * measures. Only planes made with load_conns have one; npd has none. */
#ifndef NP_LOAD_H
#define NP_LOAD_H

#include <stdint.h>

enum np_load_mode {
  NP_LOAD_NONE,    /* stop: connections are aborted */
  NP_LOAD_ECHO,    /* closed loop: depth messages in flight on each connection, compared when they come back */
  NP_LOAD_SEND,    /* as fast as the stream takes it; what comes in is dropped */
  NP_LOAD_RECEIVE, /* takes chargen's lines (RFC 864) and compares them */
  NP_LOAD_CONNECT, /* open, one message and its echo, close in good order, open again */
  NP_LOAD_HOLD,    /* open and say nothing */
  NP_LOAD_MODE_COUNT
};

#define NP_LOAD_SIZE_MAX (1u << 20)
#define NP_LOAD_DEPTH_MAX 256u

/* Body of NP_CMD_LOAD. */
struct np_cmd_load {
  uint8_t local[16];   /* all zero: chosen */
  uint8_t remote[16];
  uint16_t remote_port;
  uint8_t mode;        /* enum np_load_mode */
  uint8_t no_compare;  /* what comes in is counted and dropped */
  uint32_t conns;      /* kept open at a time, at most load_conns of the plane */
  uint32_t size_bytes; /* of a message, 1 to NP_LOAD_SIZE_MAX */
  uint32_t depth;      /* messages in flight per connection, at most load_depth of the plane */
  uint32_t pad1;
};

/* Latencies: 32 buckets to each doubling, exact below 64 ns, up to 2^40 ns (18 minutes). */
#define NP_LOAD_SUB_BITS 5u
#define NP_LOAD_BUCKETS ((40u - NP_LOAD_SUB_BITS + 1u) << NP_LOAD_SUB_BITS)

/* Written by the core, read by Go word by word; only opening and open shrink. */
struct np_load_stats {
  uint64_t opening;
  uint64_t open;
  uint64_t opened;      /* reached ESTABLISHED */
  uint64_t failed;      /* did not, or ended without having been told to */
  uint64_t closed;      /* ended in good order by us */
  uint64_t messages;    /* echoed; with SEND: handed to the stream */
  uint64_t mismatches;  /* pieces that were not what was expected */
  uint64_t bytes_tx;    /* of payload handed to streams */
  uint64_t bytes_rx;
  uint64_t latency_ns_max;
  uint64_t latency[NP_LOAD_BUCKETS]; /* from handing over to the last byte's arrival, clock of the turn */
};

#endif
