/* Setting RDMA connections up and ending them: what Go calls by cgo. The connection manager
 * (librdmacm) and the verbs (libibverbs) are loaded when a plane asks for them, so that
 * programs start where they are absent. Data goes by the cores alone (csrc/io/rdma).
 *
 * Connections being made are named by id: generation and place. Each function takes its own
 * time and none waits for the peer: what takes longer is told by np_plane_rdma_event.
 *
 * Thread: any, one at a time per np_plane_rdma. Blocks: for system calls, those of making and
 * ending a queue pair, completion queue or registration take milliseconds on some devices.
 * detail: filled on errors. */
#ifndef NP_RDMA_H
#define NP_RDMA_H

#include <stdint.h>

#include "np/plane.h"

struct np_plane_rdma;

#define NP_RDMA_NAME_BYTES 64u

struct np_rdma_args {
  uint32_t conns_max;    /* per core, 1 to 4,096 */
  uint32_t ring_bytes;   /* of each connection's receive ring, power of two, 4 KiB to 4 MiB */
  uint32_t snd_buf_bytes; /* queued or in flight, at most, per connection */
  uint32_t keepalive_ms; /* idle so long: the peer's device is asked whether it is there; 0 never */
  char device[NP_RDMA_NAME_BYTES]; /* connections over other devices are refused; "" any */
};

/* Takes the memory of all rings and gives each core its carrier. *out_event_fd becomes readable when
 * np_plane_rdma_event has something, *out_notify_fd (an eventfd) when retired or op_take may; both stay the
 * plane's. Errors: NP_ERR_UNSUPPORTED (built without, or a library is absent), NP_ERR_NODEV (no device, or the
 * kernel has no connection manager), NP_ERR_PERM, NP_ERR_NOMEM, NP_ERR_INVALID, NP_ERR_EXISTS, NP_ERR_SYS. */
enum np_err np_plane_rdma_open(struct np_plane *plane, const struct np_rdma_args *args, struct np_plane_rdma **out,
                               int32_t *out_event_fd, int32_t *out_notify_fd, struct np_err_detail *detail);
/* Ends every connection and frees everything. After np_plane_stop, before np_plane_destroy. NULL: nothing. */
void np_plane_rdma_close(struct np_plane_rdma *r);

enum np_rdma_event_op {
  NP_RDMA_EV_NONE,
  NP_RDMA_EV_ADDRESS,      /* resolved: the device is known */
  NP_RDMA_EV_ROUTE,
  NP_RDMA_EV_REQUEST,      /* somebody connects to listener: id is new. err: what it says of itself is no good */
  NP_RDMA_EV_ESTABLISHED,  /* err: what the peer says of itself is no good */
  NP_RDMA_EV_REFUSED,      /* arg: the peer's reason */
  NP_RDMA_EV_FAILED,       /* resolving or connecting: err, arg: errno or the manager's status */
  NP_RDMA_EV_DISCONNECTED, /* the core was told; the session ends and the id is retired */
  NP_RDMA_EV_DEVICE,       /* its device went away; the core was told. A listener's: it is no more */
  NP_RDMA_EV_OP_COUNT
};

struct np_rdma_event {
  uint8_t op; /* enum np_rdma_event_op */
  uint8_t pad[3];
  uint32_t err; /* enum np_err */
  int32_t arg;
  uint16_t local_port;
  uint16_t remote_port;
  uint64_t id;
  uint64_t listener;
  uint8_t local[16]; /* IPv4 as ::ffff:a.b.c.d */
  uint8_t remote[16];
  char device[NP_RDMA_NAME_BYTES];
};

/* The next event. Return: NP_ERR_OK, NP_ERR_NOTFOUND (none now), NP_ERR_SYS. */
enum np_err np_plane_rdma_event(struct np_plane_rdma *r, struct np_rdma_event *out, struct np_err_detail *detail);

/* port 0: chosen, *out_port is it. Errors: NP_ERR_ADDRINUSE, NP_ERR_ADDRNOTAVAIL, NP_ERR_NODEV, NP_ERR_FULL, NP_ERR_SYS. */
enum np_err np_plane_rdma_listen(struct np_plane_rdma *r, const uint8_t local[16], uint16_t port, uint32_t backlog,
                                 uint64_t *out_id, uint16_t *out_port, struct np_err_detail *detail);
/* Begins a connection; ADDRESS or FAILED follows. local: zero lets the route choose. */
enum np_err np_plane_rdma_resolve(struct np_plane_rdma *r, const uint8_t local[16], const uint8_t remote[16], uint16_t port,
                                  uint32_t timeout_ms, uint64_t *out_id, struct np_err_detail *detail);
/* After ADDRESS; ROUTE or FAILED follows. */
enum np_err np_plane_rdma_route(struct np_plane_rdma *r, uint64_t id, uint32_t timeout_ms, struct np_err_detail *detail);
/* Queue pair, ring and place on a core, after ROUTE or REQUEST. *out_slot: dataplane's ConnectConfig.Socket.
 * Errors: NP_ERR_FULL (conns_max), NP_ERR_NODEV (another device than configured), NP_ERR_NOMEM, NP_ERR_SYS, NP_ERR_STALE. */
enum np_err np_plane_rdma_prepare(struct np_plane_rdma *r, uint64_t id, uint32_t core, uint32_t *out_slot,
                                  struct np_err_detail *detail);
/* After prepare; ESTABLISHED, REFUSED or FAILED follows. */
enum np_err np_plane_rdma_connect(struct np_plane_rdma *r, uint64_t id, struct np_err_detail *detail);
enum np_err np_plane_rdma_accept(struct np_plane_rdma *r, uint64_t id, struct np_err_detail *detail);
/* A request that is not wanted; its id is gone. */
void np_plane_rdma_reject(struct np_plane_rdma *r, uint64_t id);
/* The core that a prepared id is on, -1: none. */
int32_t np_plane_rdma_core(struct np_plane_rdma *r, uint64_t id);
/* The id of the connection that a stream's handle names. Errors: NP_ERR_STALE (gone, or not by RDMA). */
enum np_err np_plane_rdma_find(struct np_plane_rdma *r, uint64_t handle, uint64_t *out_id);
/* An established one that came in gets its session: listener is the handle of NP_CMD_LISTEN on its core. */
enum np_err np_plane_rdma_adopt(struct np_plane_rdma *r, uint64_t id, uint64_t listener);
/* Ends whatever id names, at once; it is gone. The queue pair's memory is nobody's afterwards. Stale: nothing. */
void np_plane_rdma_drop(struct np_plane_rdma *r, uint64_t id);
/* Ids whose session ended: to be dropped. Return: how many. */
uint32_t np_plane_rdma_retired(struct np_plane_rdma *r, uint64_t *out, uint32_t max);

/* Memory that peers of id's device and core, or we, read and write one-sided. access: NP_RDMA_REMOTE_*. */
#define NP_RDMA_REMOTE_READ 0x1u
#define NP_RDMA_REMOTE_WRITE 0x2u
#define NP_RDMA_REGION_BYTES_MAX (UINT64_C(1) << 30)
struct np_rdma_region {
  void *mem;      /* page-aligned, zeroed */
  uint64_t bytes;
  uint64_t addr;  /* as peers name it; random, so that a key alone opens nothing */
  uint64_t region; /* its name here */
  uint32_t rkey;
  uint32_t pad;
};
enum np_err np_plane_rdma_region(struct np_plane_rdma *r, uint64_t id, uint64_t bytes, uint32_t access,
                                 struct np_rdma_region *out, struct np_err_detail *detail);
/* Errors: NP_ERR_STALE, NP_ERR_BUSY (operations on it have not ended: wait for them, or drop their connection). */
enum np_err np_plane_rdma_region_free(struct np_plane_rdma *r, uint64_t region);
/* One operation on id's connection between offset of region and the peer's memory. Return: NP_ERR_OK and *out_op,
 * to be asked for with np_plane_rdma_op_take. Errors: NP_ERR_INVALID (beyond the region, or no bytes), NP_ERR_STALE,
 * NP_ERR_STATE, NP_ERR_FULL (ask again), NP_ERR_UNSUPPORTED (region of another core or device). */
struct np_rdma_io {
  uint64_t id;
  uint64_t region;
  uint64_t offset;
  uint64_t remote_addr;
  uint32_t rkey;
  uint32_t bytes;
  uint8_t is_read;
  uint8_t pad[7];
};
enum np_err np_plane_rdma_io(struct np_plane_rdma *r, const struct np_rdma_io *io, uint64_t *out_op);
/* NP_ERR_NOTFOUND: not ended yet. NP_ERR_OK: ended, *err is how. */
enum np_err np_plane_rdma_op_take(struct np_plane_rdma *r, uint64_t op, uint32_t *err);

#endif
