/* Making and ending what the carrier works with: libraries, devices, queue pairs, registered
 * memory, and the connection manager. device.c, cm.c and lib.c are the only files with the
 * headers of verbs; a build without those has none.c in their place.
 *
 * Thread: control, one at a time per np_rdma_ctl. May block for system calls. */
#ifndef NP_IO_RDMA_SETUP_H
#define NP_IO_RDMA_SETUP_H

#include "base/pool.h"
#include "io/rdma/rdma.h"
#include "np/rdma.h"

struct np_rdma_ctl;  /* the connection manager of a plane */
struct np_rdma_dev;  /* one device as one core uses it */
struct np_rdma_qp;   /* a queue pair with its ring's registration */
struct np_rdma_mr;   /* other registered memory */

/* Fills detail: "action: strerror(sys)", without the last part when sys is 0. */
void np_rdma_explain(struct np_err_detail *detail, int sys, const char *format, ...) NP_PRINTF(3, 4);
/* What an errno of the libraries means. */
enum np_err np_rdma_err_of(int sys);

enum np_err np_rdma_ctl_open(struct np_rdma_ctl **out, int32_t *out_fd, struct np_err_detail *detail);
/* Every id, queue pair and device is gone. */
void np_rdma_ctl_close(struct np_rdma_ctl *ctl);

/* ---- ids: owner is handed back with their events ---- */

struct np_rdma_id;
struct np_rdma_addr {
  uint8_t local[16];
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
};
enum np_err np_rdma_id_listen(struct np_rdma_ctl *ctl, uint64_t owner, const struct np_rdma_addr *addr, uint32_t backlog,
                              struct np_rdma_id **out, struct np_err_detail *detail);
enum np_err np_rdma_id_resolve(struct np_rdma_ctl *ctl, uint64_t owner, const struct np_rdma_addr *addr,
                               uint32_t timeout_ms, struct np_rdma_id **out, struct np_err_detail *detail);
enum np_err np_rdma_id_route(struct np_rdma_id *id, uint32_t timeout_ms, struct np_err_detail *detail);
enum np_err np_rdma_id_connect(struct np_rdma_id *id, const struct np_hello *own, struct np_err_detail *detail);
enum np_err np_rdma_id_accept(struct np_rdma_id *id, const struct np_hello *own, struct np_err_detail *detail);
void np_rdma_id_reject(struct np_rdma_id *id);
void np_rdma_id_disconnect(struct np_rdma_id *id);
/* Its queue pair is gone. */
void np_rdma_id_free(struct np_rdma_id *id);
void np_rdma_id_own(struct np_rdma_id *id, uint64_t owner);
void np_rdma_id_addr(const struct np_rdma_id *id, struct np_rdma_addr *out);
/* "" while it has none. */
const char *np_rdma_id_device(const struct np_rdma_id *id);

struct np_rdma_cm_event {
  enum np_rdma_event_op op;
  enum np_err err; /* also of the hello, for REQUEST and ESTABLISHED */
  int32_t arg;
  uint64_t owner;              /* of the id; of a REQUEST, of its listener */
  struct np_rdma_id *request;  /* REQUEST: the new id, the caller's */
  struct np_hello hello;
  bool has_hello;              /* the side that accepted gets none with ESTABLISHED */
};
/* Errors: NP_ERR_NOTFOUND (none now), NP_ERR_SYS. */
enum np_err np_rdma_cm_next(struct np_rdma_ctl *ctl, struct np_rdma_cm_event *out, struct np_err_detail *detail);

/* ---- devices and queue pairs ---- */

bool np_rdma_dev_is(const struct np_rdma_dev *dev, const struct np_rdma_id *id);
/* The device that id goes by, for a core whose pool this is. */
enum np_err np_rdma_dev_open(struct np_rdma_ctl *ctl, const struct np_rdma_id *id, struct np_pool *pool,
                             struct np_rdma_dev **out, struct np_err_detail *detail);
/* Its queue pairs and regions are gone. */
void np_rdma_dev_close(struct np_rdma_dev *dev);
void *np_rdma_dev_channel(const struct np_rdma_dev *dev);

struct np_rdma_qp_args {
  uint8_t *ring;
  uint32_t ring_bytes;
  uint64_t wr_recv;
};
/* Fills ops, qp, ring, pool_lkey, sge_max, inline_bytes of conn; own is what to tell the peer. *out_cq is filled when a
 * completion queue had to be made for it (cq->cq NULL: none): the core has to know it before the connection is made. */
enum np_err np_rdma_qp_make(struct np_rdma_dev *dev, struct np_rdma_id *id, const struct np_rdma_qp_args *args,
                            struct np_rdma_qp **out, struct np_rdma_conn_args *conn, struct np_hello *own,
                            struct np_rdma_cq_args *out_cq, struct np_err_detail *detail);
/* When it returns the device touches neither the ring nor any buffer. */
void np_rdma_qp_end(struct np_rdma_qp *qp);

/* access: NP_RDMA_REMOTE_*. */
enum np_err np_rdma_mr_make(struct np_rdma_dev *dev, void *mem, uint64_t bytes, uint32_t access, struct np_rdma_mr **out,
                            uint64_t *out_addr, uint32_t *out_rkey, uint32_t *out_lkey, struct np_err_detail *detail);
void np_rdma_mr_end(struct np_rdma_mr *mr);

#endif
