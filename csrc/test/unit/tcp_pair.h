/* Two TCP stacks, a wire between them that loses, delays, repeats and damages by a
 * seed, and a clock that only the test moves. Frames are real: what one stack
 * sends gets IP and Ethernet headers, is copied, parsed by np_wire_parse and
 * given to the other. A test may also put segments on the wire by hand and look
 * at what was sent. */
#ifndef NP_TEST_TCP_PAIR_H
#define NP_TEST_TCP_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"
#include "tcp/tcp_int.h"

#define TP_MS UINT64_C(1000000)
#define TP_S UINT64_C(1000000000)
#define TP_PORT 80u
#define TP_LOG 512u

/* A segment as it left, or one to be put on the wire. */
struct tp_seg {
  struct np_flow flow; /* of the sender */
  uint32_t seq;
  uint32_t ack;
  uint32_t wnd;
  uint32_t len;
  uint8_t flags;
  uint8_t tos;
  uint8_t opt_bytes;
  uint8_t opt[40];
  struct np_tcp_opts opts;
  uint64_t at_ns;
};

enum tp_mode { TP_SINK, TP_ECHO };

struct tp_end;

/* Sends to_send bytes of a pattern, checks what comes against the peer's. */
struct tp_sess {
  struct np_session base;
  struct tp_end *end;
  struct tp_sess *next;
  enum tp_mode mode;
  uint64_t to_send;
  uint64_t sent;
  uint64_t received;
  uint64_t wrong;      /* bytes that were not what was expected */
  uint32_t piece;      /* bytes per buffer sent; 0: the stream's best */
  uint32_t unconsumed;
  uint8_t pattern_tx;
  uint8_t pattern_rx;
  bool hold;           /* keep what comes unconsumed */
  bool close_at_end;   /* FIN behind the last byte */
  bool close_on_eof;
  bool abort_on_data;
  bool detach_on_data;
  bool established;
  bool eof;
  bool closed;
  enum np_err err;
  uint32_t writable_calls;
  struct np_buf *echo_head; /* waiting for room */
  struct np_buf *echo_tail;
};

struct tp_frame {
  uint64_t due_ns;
  uint64_t order;
  uint32_t to;
  uint32_t len;
  uint8_t *bytes;
};

struct tp_end {
  struct tp *tp;
  uint32_t index;
  struct np_tcp *tcp;
  struct np_tcp_config config;
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_counters counters;
  void *tcp_mem;
  void *pool_mem;
  void *pool_stack;
  struct np_addr addr;
  struct tp_sess *sessions; /* all ever made */
  struct tp_sess *last;     /* the latest */
  struct tp_sess accept_as; /* template for accepted ones */
  bool refuse;
  uint64_t injected;
  uint64_t parse_drops;
  uint64_t doubts; /* times TCP doubted the neighbor */
  struct tp_seg log[TP_LOG];
  uint32_t log_count;
  uint64_t data_segs;   /* on the wire, with payload */
  const struct np_flow *out_flow; /* of the packet being sent */
  uint8_t out_tos;
  struct np_buf *held[4096]; /* references the "port" keeps for a while */
  uint64_t held_until[4096];
  uint32_t held_head;
  uint32_t held_count;
  struct np_pkt burst[64]; /* with bursts: came in, not yet given to TCP */
  uint32_t burst_count;
};

struct tp {
  struct tp_end end[2];
  uint64_t now_ns;
  struct np_rng rng;
  /* per 10,000 frames */
  uint32_t loss;
  uint32_t dup;
  uint32_t reorder;
  uint32_t corrupt;
  uint64_t delay_ns;
  uint64_t jitter_ns;  /* of reordered frames */
  uint64_t hold_ns;    /* how long the port keeps a sent buffer */
  bool cut;            /* nothing arrives */
  bool bursts;         /* what arrives at one instant is one burst, joined by np_tcp_gro */
  /* A bottleneck in each direction, in front of the delay; 0: none. */
  uint64_t rate_bytes_per_s;
  uint32_t queue_bytes;      /* it holds at most; beyond that frames are lost */
  uint32_t mark_bytes;       /* beyond that, ECN-capable frames are marked; 0: never */
  uint64_t wire_free_ns[2];
  uint32_t queue_most_bytes; /* seen so far; a test may set it back */
  uint64_t queue_sum_bytes;  /* of what each frame found there */
  uint64_t queue_frames;
  uint64_t queue_losses;
  uint64_t marks;
  bool v6;
  uint32_t caps;       /* NP_PORT_*: what the port does for the sender */
  uint32_t tso_bytes_max;
  uint32_t mtu;
  uint32_t rx_first;   /* payload bytes in a received segment's first buffer when rx_piece is not 0 */
  uint32_t rx_piece;   /* and in each that follows */
  bool (*drop)(struct tp *tp, uint32_t from, const struct tp_seg *seg); /* true: lost */
  void *drop_ctx;
  struct tp_frame *heap;
  uint32_t frame_count;
  uint32_t frame_cap;
  uint64_t order;
  uint64_t frames;
};

struct tp_args {
  uint64_t seed;
  uint32_t bufs;        /* of each end's pool */
  uint32_t bufs_of_1;   /* of end 1's, when not 0 */
  bool v6;
  uint64_t start_ns;
  struct np_tcp_config config[2];
};

void tp_args_default(struct tp_args *args);
struct tp *tp_new(const struct tp_args *args);
/* Aborts what is left, checks that pools are full, wheels empty and every packet counted once, frees. */
void tp_free(struct tp *tp);

/* Lets events happen until now + ns. */
void tp_run(struct tp *tp, uint64_t ns);
/* As tp_run, but ends as soon as done says so. Return: what it said last. */
bool tp_run_until(struct tp *tp, uint64_t ns, bool (*done)(struct tp *tp, void *ctx), void *ctx);
/* Flushes both stacks without moving the clock. */
void tp_flush(struct tp *tp);

uint32_t tp_listen(struct tp *tp, uint32_t end, uint16_t port);
struct tp_sess *tp_sess_new(struct tp_end *end, const struct tp_sess *like);
/* end connects to the other end's port. */
struct tp_sess *tp_connect(struct tp *tp, uint32_t end, uint16_t port, const struct tp_sess *like);
/* Listens on 1, connects from 0, runs until both sessions are there. */
void tp_establish(struct tp *tp, struct tp_sess **a, struct tp_sess **b);
/* Sends more from a session's pattern. */
void tp_write(struct tp_sess *s, uint64_t bytes);
void tp_consume(struct tp_sess *s, uint32_t bytes);

struct np_tcp_conn *tp_conn(const struct tp_sess *s);
/* Puts seg on the wire towards end, with seg->len bytes of zeros, or data. Taken in at once. */
void tp_inject(struct tp *tp, uint32_t to, const struct tp_seg *seg, const void *data);
/* The same, parsed but not given to TCP; the caller owns out->buf. */
void tp_packet(struct tp *tp, uint32_t to, const struct tp_seg *seg, const void *data, struct np_pkt *out);
/* The n-th last segment that end sent, 0 the last. */
const struct tp_seg *tp_sent(const struct tp *tp, uint32_t end, uint32_t n);
/* A segment that end would take for one of its peer's next, for a connection. */
struct tp_seg tp_peer_seg(const struct tp_sess *s, uint8_t flags);
uint64_t tp_drops(const struct tp *tp, uint32_t end, enum np_drop why);
uint64_t tp_counter(const struct tp *tp, uint32_t end, enum np_counter which);

#endif
