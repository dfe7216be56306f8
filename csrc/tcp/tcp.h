/* TCP of one core: RFC 9293 and the extensions that README.md lists. Both
 * roles. Streams come out of it (base/stream.h); packets and time come in.
 *
 * Owner: one core. Thread: that core. No system call, no allocation after
 * np_tcp_init, no clock. Nothing goes out but through env->output; received
 * data reaches sessions in np_tcp_flush, once per burst, never from inside
 * np_tcp_input, so that a burst for one connection is handed up as one chain. */
#ifndef NP_TCP_TCP_H
#define NP_TCP_TCP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/pool.h"
#include "base/stream.h"
#include "base/wheel.h"
#include "np/counter.h"
#include "np/err.h"
#include "np/info.h"
#include "wire/pkt.h"

struct np_tcp;
struct np_tcp_conn;

/* Room for the network layer's cached path in each connection; core asserts that
 * struct np_path fits. TCP never looks inside. */
#define NP_TCP_PATH_BYTES 40u
struct np_tcp_path {
  _Alignas(8) uint8_t opaque[NP_TCP_PATH_BYTES - 4];
  uint32_t flow_label; /* but for this, which TCP sets once (np_path.flow_label) */
};

/* What became of a segment that belongs to no connection here. */
enum np_tcp_stray {
  NP_TCP_STRAY_OURS,  /* nobody else's: to be answered as RFC 9293 §3.10.7.1 says */
  NP_TCP_STRAY_TAKEN, /* another core has a copy and answers */
  NP_TCP_STRAY_LOST   /* perhaps another's, who could not be told: no answer, the peer sends it again */
};

struct np_tcp_env {
  struct np_pool *pool;
  struct np_wheel *wheel;
  struct np_counters *counters;
  /* Sends one segment: data at the TCP header, checksum filled or left to the port (np_buf.flags), in
   * pieces where the port gathers. Takes over one reference of each piece. Lower headers are pushed into the headroom and left there. */
  void (*output)(void *ctx, struct np_buf *seg, const struct np_flow *flow, uint8_t tos, struct np_tcp_path *path, uint64_t now_ns);
  /* Capabilities (NP_PORT_*) that some port has; NULL: none. When not 0, path_caps says what the port has that a
   * packet sent now would leave by, 0 while that is not known; *tso_bytes_max: see np_port_queue. */
  const uint32_t *caps_any;
  uint32_t (*path_caps)(void *ctx, const struct np_tcp_path *path, uint32_t *tso_bytes_max);
  /* Bytes of IP packet the way to remote carries; 0: no route. */
  uint32_t (*mtu)(void *ctx, const struct np_addr *remote);
  /* Capabilities of the port that the way to remote leaves by, as far as routes say. NULL: none. */
  uint32_t (*route_caps)(void *ctx, const struct np_addr *remote);
  /* What the path to remote is known to carry, at most that. NULL: not known. */
  uint32_t (*pmtu)(void *ctx, const struct np_addr *remote);
  enum np_err (*source)(void *ctx, const struct np_addr *remote, struct np_addr *out);
  /* New data was acknowledged: the neighbor is alive. */
  void (*confirm)(void *ctx, struct np_tcp_path *path, uint64_t now_ns);
  /* Two timeouts in a row went unanswered: is the neighbor still who it was? May be NULL. */
  void (*doubt)(void *ctx, struct np_tcp_path *path, uint64_t now_ns);
  /* A passive connection reached ESTABLISHED. Return its session, already tied
   * to stream, or NULL to refuse (RST). */
  struct np_session *(*accept)(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns);
  /* A segment other than a SYN found neither connection nor cookie. Where a host has several cores,
   * its connection may be another's. pkt is as np_tcp_input got it. NULL: always ours. */
  enum np_tcp_stray (*stray)(void *ctx, const struct np_pkt *pkt);
  /* A peer opens a connection, and its flow may have one on another core, which gets a copy of pkt then (TAKEN,
   * or LOST). take: the flow is this core's from now on if it is nobody's, until unclaim. NULL: always ours. */
  enum np_tcp_stray (*claim)(void *ctx, const struct np_pkt *pkt, bool take);
  /* A connection that a peer opened is gone, or did not come to be. With claim. */
  void (*unclaim)(void *ctx, const struct np_flow *flow);
  void *ctx;
};

struct np_tcp_config {
  uint32_t conns_max;             /* connections, TIME-WAIT included; memory is taken for all */
  uint32_t listeners_max;         /* default 64 */
  uint32_t rcv_buf_bytes;         /* window offered at most per connection, to 256 MiB; default 4 MiB */
  uint32_t rcv_start_bytes;       /* what it begins with, to 64 KiB less one in the SYN; default 64 KiB */
  uint32_t snd_buf_bytes;         /* queued and unacknowledged at most; default 4 MiB */
  uint32_t ooo_segs_max;          /* out-of-order buffers held per connection, more where its window is larger; default 512 */
  uint32_t backlog_default;       /* SYN_RECEIVED per listener before cookies; default 1,024 */
  uint32_t rto_ms_min;            /* default 200 (RFC 6298 says 1 s; see README) */
  uint32_t rto_ms_max;            /* default 60,000 */
  uint32_t delack_ms;             /* default 40 */
  uint32_t quick_acks;            /* full segments at a connection's begin that are acknowledged each; default 16 */
  uint32_t keepalive_idle_ms;     /* 0 off */
  uint32_t keepalive_interval_ms;
  uint32_t keepalive_probes;
  uint32_t user_timeout_ms;       /* unacknowledged data that long ends it; default 120,000 */
  uint32_t persist_ms;            /* a window shut so long ends a connection though its peer answers; 0: never (default) */
  uint32_t challenge_per_s;       /* challenge ACKs of all connections, drawn from half to one and a half of it; default 1,000; 0: no limit */
  uint32_t reset_per_s;           /* resets to segments of no connection, drawn likewise; default 10,000; 0: no limit */
  uint32_t conns_per_source;      /* open ones accepted from one address (IPv6: /64); 0: no limit (default) */
  uint32_t min_snd_mss;           /* a peer that asks for less gets so much; default 216 */
  uint32_t ooo_runs_max;          /* pieces of out-of-order data with holes between them, per connection, more where each is a segment on the average; default 128 */
  uint32_t mem_pressure_pct;      /* of the pool held, from which buffers are short (mem.c); default 50 */
  uint32_t mem_max_pct;           /* at least that, below 100; default 75 */
  uint32_t timewait_ms;           /* default 60,000 */
  uint32_t syn_retries;           /* of a connection we open; default 7: three minutes, RFC 9293 §3.8.3 */
  uint32_t synack_retries;        /* of one that is opened to us; default 5: a minute */
  uint8_t core_index;             /* goes into handles */
  uint8_t cores;                  /* of the host, all with this secret: each connects from ports of its own; 0 counts as 1 */
  bool nagle;                     /* default false: NPRO writes whole messages */
  bool sack;
  bool timestamps;
  bool window_scaling;
  uint8_t congestion_control;     /* enum np_cc: where neither listener nor connect chooses */
  uint8_t ecn;                    /* enum np_ecn */
  uint8_t pacing;                 /* enum np_pacing */
  bool gro;                       /* join received segments of a burst; default true */
  bool autotune;                  /* buffers begin small and grow with the path; false: at their most from the start */
  uint8_t mtu_probing;            /* enum np_mtu_probing */
  uint8_t secret[32];             /* random: sequence numbers (RFC 6528), cookies, hash */
};

void np_tcp_config_default(struct np_tcp_config *config);

size_t np_tcp_bytes(const struct np_tcp_config *config);
struct np_tcp *np_tcp_init(void *mem, const struct np_tcp_config *config, const struct np_tcp_env *env, uint64_t now_ns);

/* One segment for an address of ours; takes over pkt->buf. Counts delivered or
 * dropped itself, exactly one of them. drop is told of each drop before the buffer is freed
 * (for captures); set it once with np_tcp_on_drop. */
void np_tcp_input(struct np_tcp *tcp, struct np_pkt *pkt, uint64_t now_ns);
/* Keyed by the configuration's secret: the same on every core of a plane. Never 0. */
uint32_t np_tcp_flow_hash(const struct np_tcp *tcp, const struct np_flow *flow);
/* Longer, and 0 like any other. */
uint64_t np_tcp_flow_hash64(const struct np_tcp *tcp, const struct np_flow *flow);
/* Whether a SYN of flow would find a listener. */
bool np_tcp_listens(struct np_tcp *tcp, const struct np_flow *flow);
/* The same for each segment of a burst, in order, with memory asked for ahead (burst.c). */
void np_tcp_burst(struct np_tcp *tcp, struct np_pkt *pkts, uint32_t n, uint64_t now_ns);
/* Optional stage before np_tcp_burst: joins segments that continue each other (gro.c). pkts: TCP's
 * packets of a burst, as parsed. Return: how many are left, at the front. */
uint32_t np_tcp_gro(struct np_tcp *tcp, struct np_pkt *pkts, uint32_t n);
void np_tcp_on_drop(struct np_tcp *tcp, void (*fn)(void *ctx, struct np_buf *buf, enum np_drop why), void *ctx);

/* Hands received data, room and ends to sessions, then sends what is due: data,
 * window updates, acknowledgments. Once or more per turn; cheap when idle.
 * Return: true when something is left for another call (budget used up). */
bool np_tcp_flush(struct np_tcp *tcp, uint64_t now_ns);

/* Once a turn: how many buffers are free though not in the pool (posted by ports, lent). Publishes gauges. */
void np_tcp_mem_turn(struct np_tcp *tcp, uint32_t idle_bufs);

/* An ICMP error for flow; see np_ip_env.l4_error. */
bool np_tcp_error(struct np_tcp *tcp, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft, uint32_t mtu_bytes);

struct np_tcp_listen {
  struct np_addr local;  /* all zero: any address of ours, both families */
  uint16_t port;
  uint32_t backlog;      /* 0: default */
  uint32_t conns_max;    /* of this listener, half open and TIME-WAIT left out; 0: no limit of its own */
  bool cookies;          /* SYN cookies when the backlog is full */
  uint8_t congestion_control; /* enum np_cc plus 1; 0: the configuration's */
  uint8_t dscp;          /* 0 to 63, of what its connections send (RFC 2474; RFC 9293 §3.9.1.8, MUST-48) */
  void *ctx;             /* handed to env->accept */
  uint64_t handle;       /* shown in np_conn_info */
};
enum np_err np_tcp_listen(struct np_tcp *tcp, const struct np_tcp_listen *args, uint32_t *out_listener);
/* Connections accepted before stay. */
enum np_err np_tcp_unlisten(struct np_tcp *tcp, uint32_t listener);

/* Opens. local all zero: chosen; local_port 0: chosen (RFC 6056 algorithm 3).
 * session is tied to the stream and told established or closed later.
 * Errors: NP_ERR_FULL, NP_ERR_NOROUTE, NP_ERR_ADDRINUSE, NP_ERR_ADDRNOTAVAIL. */
enum np_err np_tcp_connect(struct np_tcp *tcp, const struct np_flow *flow, struct np_session *session,
                           uint64_t now_ns, struct np_stream **out);

/* Changes the congestion control of a live connection.
 * Errors: NP_ERR_STALE, NP_ERR_INVALID when cc is no enum np_cc. */
enum np_err np_tcp_set_cc(struct np_tcp *tcp, uint64_t handle, uint32_t cc);
/* How long sent data may stay unacknowledged, or a closed window unanswered, before handle's connection
 * ends: 1 s to a day, 0 for ever. NP_ERR_INVALID, NP_ERR_STALE. Thread: the core's. */
enum np_err np_tcp_set_user_timeout(struct np_tcp *tcp, uint64_t handle, uint32_t ms);
/* When handle's connection probes a silent peer (RFC 9293 §3.8.4), instead of the configuration's idle time:
 * 1 s to a day, 0 never. NP_ERR_INVALID, NP_ERR_STALE. Thread: the core's. */
enum np_err np_tcp_set_keepalive(struct np_tcp *tcp, uint64_t handle, uint32_t idle_ms);
/* Whether its small writes wait while others are in flight (RFC 9293 §3.7.4), instead of the configuration's
 * word. NP_ERR_STALE. Thread: the core's. */
enum np_err np_tcp_set_nagle(struct np_tcp *tcp, uint64_t handle, bool on);

/* The stream a handle names; NULL when stale. */
struct np_stream *np_tcp_stream(struct np_tcp *tcp, uint64_t handle);
/* Copies up to max connections from *cursor on; *cursor 0 starts, 0 afterwards ends. */
uint32_t np_tcp_connections(struct np_tcp *tcp, uint32_t *cursor, struct np_conn_info *out, uint32_t max);
uint32_t np_tcp_conn_count(const struct np_tcp *tcp);
/* Aborts every connection (teardown): all buffers go back. */
void np_tcp_abort_all(struct np_tcp *tcp, uint64_t now_ns);

#endif
