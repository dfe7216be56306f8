/* A carrier brings streams to a core that do not come from its own TCP: kernel sockets on
 * epoll or io_uring, RDMA queue pairs. One instance per kind and core. It lives beside the
 * TCP stack in the turn and looks like it from a session: base/stream.h.
 *
 * Descriptors are made by the control side (bind, mode, options, RDMA's connection manager)
 * and given to the carrier, which closes them. Its streams are named like all others
 * (np/info.h); the slots of its handles are slot_base to slot_base + conns_max - 1.
 *
 * Thread: the core's, except init and fini, which run while no thread does. */
#ifndef NP_BASE_CARRIER_H
#define NP_BASE_CARRIER_H

#include "base/pool.h"
#include "base/stream.h"
#include "base/wheel.h"

struct np_carrier;

struct np_carrier_env {
  struct np_pool *pool;
  struct np_wheel *wheel;
  struct np_counters *counters;
  /* A session for a stream that was accepted. listener_ctx: of np_carrier_listen. NULL: refuse it. */
  struct np_session *(*accept)(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns);
  void *ctx;
};

struct np_carrier_config {
  uint32_t conns_max; /* memory is taken for all */
  uint32_t slot_base;
  uint32_t rcv_buf_bytes; /* received and not consumed by the session, at most, per stream */
  uint32_t snd_buf_bytes; /* queued and not yet taken by the kernel or device, at most, per stream */
  uint8_t core_index;
};

struct np_carrier_listen {
  int32_t fd;         /* listening, nonblocking; the carrier's once it returned NP_ERR_OK */
  uint32_t conns_max;
  void *ctx;          /* handed to env->accept */
  uint64_t handle;    /* goes into np_conn_info.listener */
};

struct np_carrier_ops {
  const char *name; /* "epoll", "io_uring", "rdma" */
  /* Errors: NP_ERR_FULL, NP_ERR_SYS. */
  enum np_err (*listen)(struct np_carrier *c, const struct np_carrier_listen *args, uint32_t *out_listener);
  /* Its connections stay. */
  enum np_err (*unlisten)(struct np_carrier *c, uint32_t listener);
  /* fd: of RDMA, the slot of a connection that the control side made. Else a socket on which connect() was called (EINPROGRESS or done); the carrier's once it
   * returned NP_ERR_OK. The session's established or closed follows at a later flush. */
  enum np_err (*connect)(struct np_carrier *c, int32_t fd, struct np_session *session, uint64_t now_ns,
                         struct np_stream **out);
  /* Once a turn, before sessions run: takes what the kernel or device reports, within a budget.
   * Sessions are not called. Return: reports found. */
  uint32_t (*poll)(struct np_carrier *c, uint64_t now_ns);
  /* Hands data, eof, writable, established and closed up and sends what is queued; as np_tcp_flush.
   * Return: true when work is left that needs no event to find. */
  bool (*flush)(struct np_carrier *c, uint64_t now_ns);
  /* True when a core that slept now would miss something that fd does not announce. */
  bool (*busy)(struct np_carrier *c);
  /* Before the core sleeps: descriptor to poll(2) for input, -1 none. */
  int (*fd)(struct np_carrier *c);
  /* Once, before the core's thread begins: wake_fd is an eventfd that the core sleeps on and reads empty. A carrier that
   * writes it between fd and the next poll needs no descriptor of its own there. NULL: the carrier has one.
   * Return: 0 or errno. */
  int (*wake_by)(struct np_carrier *c, int wake_fd);
  /* NULL: stale. */
  struct np_stream *(*stream)(struct np_carrier *c, uint64_t handle);
  /* Snapshot as np_tcp_connections. */
  uint32_t (*connections)(struct np_carrier *c, uint32_t *cursor, struct np_conn_info *out, uint32_t max);
  /* Changes what (enum np_conn_setting, np/abi.h) of a live connection. NULL: nothing can be changed.
   * Errors: NP_ERR_STALE, NP_ERR_INVALID, NP_ERR_UNSUPPORTED, NP_ERR_SYS. */
  enum np_err (*set)(struct np_carrier *c, uint64_t handle, uint32_t what, uint32_t value);
  /* Ends every connection. On the core's thread: nothing of it is in the kernel's or a device's hands
   * afterwards; only RDMA's queue pairs keep buffers until the control side ends them. */
  void (*abort_all)(struct np_carrier *c, uint64_t now_ns);
  /* Closes all descriptors, gives every buffer back. */
  void (*fini)(struct np_carrier *c);
};

struct np_carrier {
  const struct np_carrier_ops *ops;
  uint32_t slot_base;    /* of its handles */
  uint32_t slot_count;
  uint32_t posted_count; /* buffers it holds for receiving, empty */
};

#endif
