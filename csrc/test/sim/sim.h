/* One simulated run: hosts of whole stacks on a switch, a workload between them, and what goes wrong
 * meanwhile. Everything drawn comes from the seed, each part from a generator of its own, so that
 * leaving one part out changes nothing of the others. */
#ifndef NP_TEST_SIM_H
#define NP_TEST_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/rng.h"
#include "core/core.h"
#include "core/internal.h"
#include "io/sim/sim.h"
#include "tcp/tcp_int.h"
#include "wire.h"

#define SIM_HOSTS_MAX 4u
#define SIM_CORES_MAX 2u
#define SIM_PAIRS_MAX 64u
#define SIM_EVENTS_MAX 24u
#define SIM_STOLEN_MAX 4096u
#define SIM_HEARD 32u
#define SIM_FRAME_BYTES 4096u
#define SIM_MTU_MAX 9000u
#define SIM_MS UINT64_C(1000000)
#define SIM_SECOND UINT64_C(1000000000)
#define SIM_APP_PORTS 4u /* services whose both ends are ours: ports 80 and following */
#define SIM_APP_PORT 80u
#define SIM_REFUSED_PORT 99u

/* What a run may have, each drawn for a run as a whole, and each can be switched off. */
#define SIM_FEATURES(X) \
  X(DELAY, "delay")         /* up to 30 ms on each link and direction */ \
  X(JITTER, "jitter") \
  X(RATE, "rate")           /* limited, with a bounded queue */ \
  X(LOSS, "loss") \
  X(BURST, "burst")         /* bursts of losses, Gilbert-Elliott */ \
  X(CHOSEN, "chosen")       /* every n-th segment of a kind */ \
  X(REORDER, "reorder") \
  X(DUPLICATE, "duplicate") \
  X(CORRUPT, "corrupt")     /* bits flipped, bytes garbled, frames cut short */ \
  X(ECN, "ecn")             /* asked for or not, and CE marks */ \
  X(CONGESTION, "congestion") /* control and pacing */ \
  X(MTU, "mtu")             /* the path's MTU falls, with or without ICMP */ \
  X(SIZES, "sizes")         /* hosts whose own MTU is 1,280, 3,500 or 9,000 */ \
  X(PHASES, "phases")       /* link parameters change */ \
  X(CUT, "cut")             /* a link goes down for a while */ \
  X(RESTART, "restart")     /* a host loses all it knew */ \
  X(STALL, "stall")         /* a host does nothing for a while */ \
  X(JUMP, "jump")           /* a host's clock jumps forward */ \
  X(POOL, "pool")           /* small pools, and buffers taken away for a while */ \
  X(ATTACK, "attack")       /* forged segments, SYN floods, replays, false ICMP */ \
  X(CORES, "cores")         /* a host of two cores, its flows moving between them */ \
  X(OPTIONS, "options")     /* SACK, timestamps, window scale, Nagle off or on */ \
  X(BUFFERS, "buffers")     /* sizes of send and receive buffers */ \
  X(TIMERS, "timers")       /* delayed ACK, least RTO, keep-alive */ \
  X(ABORT, "abort")         /* aborts and detached sessions */ \
  X(SLOW, "slow")           /* slow and stalled readers */ \
  X(UNLISTEN, "unlisten")   /* a listener goes */ \
  X(IDLE, "idle")           /* pauses longer than keep-alive */ \
  X(CROSS, "cross")         /* simultaneous opens */

enum feature {
#define X(sym, name) F_##sym,
  SIM_FEATURES(X)
#undef X
  F_COUNT
};

struct sim;
struct pair;

enum reads { R_FAST, R_SLOW, R_STALL };
enum ends { E_SHUT_SENT, E_SHUT_GOT, E_SHUT_EOF, E_ABORT, E_DETACH };

/* One end of a connection. */
struct app {
  struct np_session session; /* first */
  struct sim *sim;
  struct pair *pair;
  uint32_t host;
  uint32_t key;        /* of the bytes it sends */
  uint32_t key_in;
  uint32_t total;      /* bytes to send */
  uint32_t expect;     /* bytes to come */
  uint32_t ask, give;  /* request and response: it sends up to give for every ask received; ask 0: all at once */
  uint32_t write_max;  /* bytes a write */
  uint64_t think_ns;   /* between writes; 0: as fast as it goes */
  enum reads reads;
  uint32_t sip_bytes;
  uint64_t sip_ns;
  uint32_t stall_at;   /* got bytes at which it stops reading */
  uint64_t stall_ns;
  enum ends ends;
  uint32_t abort_at;   /* got + sent at which it aborts */
  /* state */
  uint32_t sent, got, held;
  uint64_t next_ns;       /* looks again; UINT64_MAX: when called */
  uint64_t next_sip_ns;
  uint64_t stalled_until_ns;
  bool used, established, eof, shut, closed, detached, stalled, bad;
  enum np_err err;
};

/* A connection with both its ends. */
struct pair {
  struct app end[2]; /* [0] opens */
  struct np_rng rng;
  struct np_flow flow;
  uint32_t core;      /* of the opener */
  uint16_t port;
  bool v6, cross, started;
  bool may_time_out;  /* too much goes wrong to demand success */
  bool may_fail;      /* may end in any way, but end */
  uint64_t start_ns;
};

struct core_rig {
  struct host *host;
  uint32_t index;
  struct np_core *core;
  void *mem;
  void *pool_mem;
  struct np_port_queue *queue;
  struct np_sim_link *link;
  struct np_sim_params params[2]; /* [0] from the host, [1] to it */
  uint32_t nth, every;            /* chosen losses */
};

struct listener {
  struct host *host;
  uint16_t port;
  uint32_t id[SIM_CORES_MAX];
  bool open;
};

struct host {
  struct sim *sim;
  struct np_plane_config config;
  uint32_t index, cores, backlog, mtu_bytes;
  bool cookies;
  struct np_mac mac;
  struct core_rig core[SIM_CORES_MAX];
  struct listener listener[SIM_APP_PORTS];
  bool on, stalled, black_hole; /* black hole: nobody says that a packet was too long on its way here */
  uint64_t clock_ns; /* ahead of the simulation's */
  uint64_t salt;     /* which core a flow goes to */
  struct np_buf *stolen[SIM_STOLEN_MAX];
  uint32_t stolen_count;
  uint32_t lives;
};

enum event_kind { EV_PHASE, EV_CUT, EV_MENDED, EV_OFF, EV_ON, EV_STALL, EV_RESUME, EV_JUMP, EV_STEAL, EV_GIVE_BACK, EV_UNLISTEN, EV_MTU, EV_MTU_END, EV_STEER };

struct event {
  uint64_t at_ns; /* UINT64_MAX: done */
  enum event_kind kind;
  uint32_t host;
  uint32_t arg;
};

struct heard {
  uint8_t bytes[SIM_FRAME_BYTES];
  uint32_t len;
  uint32_t to;
};

struct attack {
  struct np_rng rng;
  uint64_t next_ns, until_ns; /* next UINT64_MAX: over */
  uint64_t every_ns;
  uint32_t kinds; /* mask */
  struct heard heard[SIM_HEARD];
  uint32_t heard_count;
  uint32_t sent;
};

/* What is asked for beside the seed. */
struct sim_args {
  uint64_t seed;
  uint32_t bytes;     /* 0, or: one client sends so many through an echo, 1 ms delay, 1 % loss and reordering each way */
  uint32_t clients;   /* connections at most; 0: as drawn */
  uint32_t without;   /* mask of features switched off */
  uint32_t only;      /* the features, whatever the seed drew; used with has_only */
  bool has_only;
  const char *pcap;
  bool verbose;
};

struct sim {
  struct sim_args args;
  uint64_t now_ns;
  uint32_t features;
  struct np_rng rng_net, rng_host, rng_fault;
  struct host host[SIM_HOSTS_MAX];
  uint32_t hosts;
  struct pair pair[SIM_PAIRS_MAX];
  uint32_t pairs;
  struct event event[SIM_EVENTS_MAX];
  uint32_t events;
  struct attack attack;
  uint64_t turns;
  FILE *pcap;
  void *switch_mem, *switch_stack;
  struct np_pool switch_pool;
  struct np_counters switch_counters;
  struct wire wire;
  char what[256]; /* why it failed */
};

extern const char *const sim_feature_name[F_COUNT];

/* sim.c. Return: true when everything held; else s->what says what did not. */
bool sim_run(struct sim *s, const struct sim_args *args);
bool sim_fail(struct sim *s, const char *what);
static inline bool sim_has(const struct sim *s, enum feature f) { return (s->features & 1u << f) != 0; }
/* A number below n, drawn in any case; 0 without the feature. */
static inline uint32_t sim_draw(const struct sim *s, enum feature f, struct np_rng *r, uint32_t n) {
  uint32_t v = np_rng_below(r, n);
  return sim_has(s, f) ? v : 0;
}
/* True once in n. */
static inline bool sim_once_in(const struct sim *s, enum feature f, struct np_rng *r, uint32_t n) {
  return np_rng_below(r, n) == 0 && sim_has(s, f);
}

/* host.c */
void host_draw(struct sim *s, uint32_t index);
bool host_on(struct sim *s, uint32_t index);
/* quiet: as when the power goes, nothing is sent any more. */
void host_off(struct sim *s, uint32_t index, bool quiet);
void host_unlisten(struct host *h, uint32_t listener);
bool host_has_conns(const struct host *h);
struct np_addr host_addr(uint32_t index, bool v6);

/* net.c */
bool net_open(struct sim *s);
void net_close(struct sim *s);
void net_draw(struct sim *s, struct np_rng *r, struct np_sim_params *p, bool to_host);
void net_set_now(struct sim *s);
/* Frames that reached the switch go on. Return: whether there were any. */
bool net_forward(struct sim *s);
uint64_t net_next_ns(const struct sim *s);
void net_apply(struct core_rig *c);
/* Puts a frame on the way to a host, as if from somewhere else. */
void net_inject(struct sim *s, uint32_t host, const uint8_t *frame, uint32_t len, const char *comment);

/* app.c */
void pair_draw(struct sim *s, uint32_t index);
void pair_poll(struct pair *p);
uint64_t pair_next_ns(const struct pair *p);
bool pair_done(const struct pair *p);
/* NULL when it ended as it may, else what is wrong. */
const char *pair_verdict(const struct pair *p);
struct np_session *app_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns);

/* fault.c */
void faults_draw(struct sim *s);
void faults_run(struct sim *s);
uint64_t faults_next_ns(const struct sim *s);

/* attack.c */
void attack_draw(struct sim *s);
void attack_hear(struct sim *s, const uint8_t *frame, uint32_t len, uint32_t to);
void attack_run(struct sim *s);

/* pcap.c */
FILE *pcap_open(const char *path);
void pcap_write(FILE *f, const uint8_t *bytes, uint32_t len, uint64_t at_ns, const char *comment);

#endif
