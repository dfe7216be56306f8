/* The RDMA carrier of one core: streams over reliable-connected queue pairs (README.md).
 *
 * Queue pairs, completion queues and registered memory are made and ended by the control
 * side (setup.h), whose calls may block; the core only posts and polls. A connection is
 * handed to and fro by slot:
 *
 *   control: makes a queue pair for a free slot       np_rdma_attach   core: owns the slot
 *   core: session told closed, slot set aside  -> retired, notify_fd   control: ends the queue pair
 *   control: no device touches its buffers now        np_rdma_release  core: buffers back, slot free
 *
 * Thread: each function says its own; `core` functions are called with np_worker_call. */
#ifndef NP_IO_RDMA_RDMA_H
#define NP_IO_RDMA_RDMA_H

#include "base/carrier.h"
#include "io/rdma/link.h"
#include "io/rdma/verbs.h"
#include "np/plane.h"

#define NP_RDMA_CQS_MAX 64u       /* completion queues of one core */
#define NP_RDMA_DEVICES_MAX 8u    /* devices that one core uses */
#define NP_RDMA_SQ_DEPTH 64u      /* requests of ours in flight per connection */
#define NP_RDMA_DEPTH 256u        /* receives posted per connection */
#define NP_RDMA_OPS_MAX 256u      /* one-sided operations in flight per core */
#define NP_RDMA_LINGER_MS 10000u  /* a connection whose session left may take so long to close */

struct np_rdma;

struct np_rdma_config {
  struct np_carrier_config base; /* rcv_buf_bytes: of each ring */
  uint32_t keepalive_ms;         /* idle so long: ask whether the peer is there; 0 never */
  int32_t notify_fd;             /* eventfd: written when a slot retired or an operation ended; -1 none */
};

/* Memory: np_rdma_bytes, cache-line aligned, zeroed, the caller's until fini. */
size_t np_rdma_bytes(const struct np_rdma_config *config);
/* Errors: NP_ERR_INVALID, NP_ERR_SYS (epoll). */
enum np_err np_rdma_init(void *mem, const struct np_rdma_config *config, const struct np_carrier_env *env,
                         uint64_t now_ns, struct np_rdma **out);
struct np_carrier *np_rdma_carrier(struct np_rdma *r);

/* ---- core ---- */

/* A completion queue and the channel that tells of it. pool_lkey: the core's pool as that device knows it. */
struct np_rdma_cq_args {
  const struct np_rv_ops *ops;
  void *cq;
  void *channel;
  int32_t channel_fd;
  bool channel_new; /* the first of its channel */
};
enum np_err np_rdma_add_cq(struct np_rdma *r, const struct np_rdma_cq_args *args);

/* Its completion queues and the channel are about to be destroyed; no connection uses them. */
void np_rdma_drop_channel(struct np_rdma *r, const void *channel);

struct np_rdma_conn_args {
  const struct np_rv_ops *ops;
  void *qp;
  uint8_t *ring;           /* ring_bytes, zeroed */
  uint32_t pool_lkey;
  uint32_t sge_max;
  uint32_t inline_bytes;
  uint8_t local[16];
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
  bool outgoing;
};
/* The slot must be free. Its receives are posted already, with np_rdma_wr_recv. Out: the stream's handle. */
enum np_err np_rdma_attach(struct np_rdma *r, uint32_t slot, const struct np_rdma_conn_args *args, uint64_t now_ns,
                           uint64_t *out_handle);
/* The connection is made and this is what the peer said: sending may begin. Errors: NP_ERR_STALE. */
enum np_err np_rdma_peer(struct np_rdma *r, uint32_t slot, const struct np_hello *peer);
/* One that came in: its session is made at the next flush. listener: handle. Errors: NP_ERR_STALE,
 * NP_ERR_NOTFOUND (no such listener), NP_ERR_LIMIT (its conns_max). */
enum np_err np_rdma_adopt(struct np_rdma *r, uint32_t slot, uint64_t listener);
/* The connection manager said that the peer disconnected, or the device is gone. What came before is
 * handed up first. No effect on a slot that is not attached. */
void np_rdma_gone(struct np_rdma *r, uint32_t slot, enum np_err err);
/* The queue pair is no more. Every buffer goes back; the slot is free when this returns. */
void np_rdma_release(struct np_rdma *r, uint32_t slot, uint64_t now_ns);

/* One-sided operations. The memory is registered and stays so until the operation ended. */
struct np_rdma_op_args {
  uint32_t slot;
  bool is_read;
  uint32_t bytes;
  uint64_t local_addr;
  uint32_t lkey;
  uint32_t rkey;
  uint64_t remote_addr;
};
/* *out_op: index, for np_rdma_op_take. Errors: NP_ERR_STALE, NP_ERR_STATE, NP_ERR_FULL (ask again later). */
enum np_err np_rdma_op(struct np_rdma *r, const struct np_rdma_op_args *args, uint32_t *out_op);

/* ---- any thread ---- */

/* wr_id of a slot's receives, before it is attached. */
uint64_t np_rdma_wr_recv(const struct np_rdma *r, uint32_t slot);
/* True once for a slot that waits for its queue pair to end. */
bool np_rdma_retired_take(struct np_rdma *r, uint32_t slot);
/* True once for an operation that ended; *err is how. */
bool np_rdma_op_take(struct np_rdma *r, uint32_t op, enum np_err *err);

#endif
