/* What the carrier's files share. Thread: the core's. */
#ifndef NP_IO_RDMA_INTERNAL_H
#define NP_IO_RDMA_INTERNAL_H

#include "io/rdma/rdma.h"

#define NP_RDMA_NIL UINT32_MAX
#define NP_RDMA_LISTENERS_MAX 64u
/* Budgets. */
#define NP_RDMA_POLL_BATCH 32u
#define NP_RDMA_POLL_PER_CQ 256u   /* completions taken of one queue in a turn */
#define NP_RDMA_MSGS_PER_FLUSH 32u /* messages sent by one connection in a flush */
#define NP_RDMA_BUFS_PER_FLUSH 64u /* buffers handed up by one connection in a flush */
#define NP_RDMA_SIGNAL_EVERY 16u   /* of messages that hold no buffer, one in so many is answered for */
#define NP_RDMA_HOLD_NS UINT64_C(40000000)
#define NP_RDMA_TICK_NS UINT64_C(1000000000)

enum np_rdma_state {
  NP_RDMA_FREE,
  NP_RDMA_SETUP,  /* attached; nobody reads it yet */
  NP_RDMA_OPEN,   /* has, or had, a session */
  NP_RDMA_CLOSED, /* over; its queue pair is still there */
};

/* flags */
#define NP_RF_DIRTY 0x0001u
#define NP_RF_EV_ACCEPT 0x0002u
#define NP_RF_EV_ESTABLISHED 0x0004u
#define NP_RF_EV_WRITABLE 0x0008u
#define NP_RF_EV_CLOSED 0x0010u
#define NP_RF_EOF_TOLD 0x0020u
#define NP_RF_ROOM_SAID_NO 0x0040u
#define NP_RF_FIN_QUEUED 0x0080u
#define NP_RF_DETACHED 0x0100u
#define NP_RF_GONE 0x0200u      /* the peer is; gone_err is why */
#define NP_RF_HELD 0x0400u      /* small pieces wait in the ring */
#define NP_RF_HOLD_DUE 0x0800u  /* they waited long enough */
#define NP_RF_PEER 0x1000u      /* the peer's ring is known */
#define NP_RF_ASKED 0x2000u     /* a keep-alive is out */
#define NP_RF_OUTGOING 0x4000u
#define NP_RF_STALLED 0x8000u   /* waits for the peer's room, counted */
#define NP_RF_FIN_ACKED 0x10000u /* the peer's device has our FIN, and so all before it */

/* A request in flight: what is given back when it is done. */
struct np_rdma_sq {
  struct np_buf *bufs; /* one reference each */
  uint32_t bytes;      /* of the stream, for those that hold buffers */
  uint32_t op;         /* one-sided operation, NP_RDMA_NIL none */
};

struct np_rdma_conn {
  struct np_stream stream;
  struct np_link link;
  const struct np_rv_ops *ops;
  void *qp;
  uint8_t *ring;
  uint64_t peer_addr;
  uint32_t peer_rkey;
  uint32_t pool_lkey;
  uint32_t slot;
  uint32_t generation;
  uint32_t flags;
  uint32_t dirty_next;
  uint32_t listener;
  uint32_t sge_max;
  uint32_t inline_bytes;
  uint16_t sq_head; /* oldest in flight */
  uint16_t sq_tail; /* next */
  uint16_t sq_signaled; /* position after the last signaled one */
  uint16_t fin_at;      /* position of our FIN, once sent */
  uint8_t state;
  uint8_t err;      /* enum np_err of closed */
  uint8_t gone_err;
  bool recv_dead;   /* the device takes no receives any more */
  bool head_split;  /* part of sendq_head is in an earlier message */
  struct np_buf *sendq_head;
  struct np_buf *sendq_tail;
  uint32_t sendq_bytes;
  uint32_t flight_bytes;  /* of buffers that requests hold */
  uint32_t handed_pieces; /* buffers handed up, estimate of those not consumed */
  uint32_t retired;       /* atomic: set by the core, taken by control */
  uint64_t hold_until_ns;
  uint64_t linger_ns;     /* when a detached one is given up */
  uint64_t progress_ns;   /* when a request was done, or one made with none in flight */
  uint32_t keepalive_ms;  /* 0: never */
  uint32_t user_timeout_ms; /* requests that are not done so long end it; 0: the device's own limits */
  uint64_t created_ns;
  uint64_t last_rx_ns;
  uint64_t last_tx_ns;
  uint64_t bytes_rx;
  uint64_t bytes_tx;
  uint64_t msgs_rx;
  uint64_t msgs_tx;
  uint8_t local[16];
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
  struct np_rdma_sq sq[NP_RDMA_SQ_DEPTH];
};

struct np_rdma_listener {
  void *ctx;
  uint64_t handle; /* 0: free */
  uint32_t conns_max;
  uint32_t conns;
  bool used;       /* connections of an ended one still count down */
};

struct np_rdma_cq {
  const struct np_rv_ops *ops;
  void *cq;
  const void *channel;
  bool armed;
};

struct np_rdma_channel {
  const struct np_rv_ops *ops;
  void *channel;
  int32_t fd;
};

struct np_rdma_op {
  uint32_t state; /* atomic: enum below; RELEASE by the core when DONE, ACQUIRE by control */
  uint32_t err;
};
enum { NP_RDMA_OP_FREE, NP_RDMA_OP_BUSY, NP_RDMA_OP_DONE };

struct np_rdma {
  struct np_carrier carrier;
  struct np_carrier_env env;
  struct np_rdma_config config;
  uint64_t now_ns;
  uint32_t dirty_head;
  uint32_t dirty_tail;
  uint32_t dirty_count;
  uint32_t conn_count; /* not free */
  uint32_t cq_count;
  uint32_t channel_count;
  int32_t epoll_fd;
  bool slept;      /* the core was told it may sleep: channels have to be drained */
  bool dry;        /* the last poll emptied every completion queue */
  bool held;       /* some connection holds small pieces back */
  struct np_timer tick;
  struct np_rdma_cq cq[NP_RDMA_CQS_MAX];
  struct np_rdma_channel channel[NP_RDMA_DEVICES_MAX];
  struct np_rdma_listener listener[NP_RDMA_LISTENERS_MAX];
  struct np_rdma_op op[NP_RDMA_OPS_MAX];
  struct np_rdma_conn conn[];
};

static inline void np_rdma_count(struct np_rdma *r, uint32_t counter) { r->env.counters->counter[counter]++; }

/* carrier.c */
void np_rdma_dirty(struct np_rdma *r, struct np_rdma_conn *c);
void np_rdma_op_end(struct np_rdma *r, uint32_t op, enum np_err err);
void np_rdma_tick_arm(struct np_rdma *r);
void np_rdma_notify(const struct np_rdma *r);

/* conn.c */
struct np_rdma_conn *np_rdma_of(struct np_stream *s);
struct np_rdma *np_rdma_owner(struct np_rdma_conn *c);
/* Ends it: what is queued is given up, closed is told at the next flush (or by abort itself). */
void np_rdma_fail(struct np_rdma *r, struct np_rdma_conn *c, enum np_err err);
void np_rdma_completed(struct np_rdma *r, struct np_rdma_conn *c, const struct np_rv_wc *wc);
/* Return: true when work is left that needs no event to find. */
bool np_rdma_flush_one(struct np_rdma *r, struct np_rdma_conn *c);
/* Tells its session closed if that is due. */
void np_rdma_tell_closed(struct np_rdma_conn *c);
void np_rdma_ask(struct np_rdma *r, struct np_rdma_conn *c);

/* output.c */
/* Messages for what is queued, FIN and credits. Return: as np_rdma_flush_one. */
bool np_rdma_output(struct np_rdma *r, struct np_rdma_conn *c);
uint32_t np_rdma_sq_room(const struct np_rdma_conn *c);
/* Takes a place in the send queue. */
uint64_t np_rdma_sq_take(struct np_rdma_conn *c, struct np_buf *bufs, uint32_t bytes, uint32_t op);
/* Gives back what requests up to and including position hold. */
void np_rdma_sq_done(struct np_rdma *r, struct np_rdma_conn *c, uint16_t position, enum np_err err);
/* All of it, however it ended. */
void np_rdma_sq_drop(struct np_rdma *r, struct np_rdma_conn *c, enum np_err err);
void np_rdma_sendq_free(struct np_rdma_conn *c);

/* stream.c */
extern const struct np_stream_ops np_rdma_stream_ops;

#endif
