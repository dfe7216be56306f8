/* A build without the headers of verbs: RDMA says so when it is asked for, and nothing else of this
 * folder's control side is ever reached. */
#include "io/rdma/setup.h"

enum np_err np_rdma_ctl_open(struct np_rdma_ctl **out, int32_t *out_fd, struct np_err_detail *detail) {
  *out = NULL;
  *out_fd = -1;
  np_rdma_explain(detail, 0, "open RDMA: this program was built without it (libibverbs-dev and librdmacm-dev were absent)");
  return NP_ERR_UNSUPPORTED;
}

void np_rdma_ctl_close(struct np_rdma_ctl *ctl) { (void)ctl; }

enum np_err np_rdma_id_listen(struct np_rdma_ctl *ctl, uint64_t owner, const struct np_rdma_addr *addr, uint32_t backlog,
                              struct np_rdma_id **out, struct np_err_detail *detail) {
  (void)ctl, (void)owner, (void)addr, (void)backlog, (void)out, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

enum np_err np_rdma_id_resolve(struct np_rdma_ctl *ctl, uint64_t owner, const struct np_rdma_addr *addr,
                               uint32_t timeout_ms, struct np_rdma_id **out, struct np_err_detail *detail) {
  (void)ctl, (void)owner, (void)addr, (void)timeout_ms, (void)out, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

enum np_err np_rdma_id_route(struct np_rdma_id *id, uint32_t timeout_ms, struct np_err_detail *detail) {
  (void)id, (void)timeout_ms, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

enum np_err np_rdma_id_connect(struct np_rdma_id *id, const struct np_hello *own, struct np_err_detail *detail) {
  (void)id, (void)own, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

enum np_err np_rdma_id_accept(struct np_rdma_id *id, const struct np_hello *own, struct np_err_detail *detail) {
  (void)id, (void)own, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

void np_rdma_id_reject(struct np_rdma_id *id) { (void)id; }
void np_rdma_id_disconnect(struct np_rdma_id *id) { (void)id; }
void np_rdma_id_free(struct np_rdma_id *id) { (void)id; }
void np_rdma_id_own(struct np_rdma_id *id, uint64_t owner) { (void)id, (void)owner; }
void np_rdma_id_addr(const struct np_rdma_id *id, struct np_rdma_addr *out) {
  (void)id;
  *out = (struct np_rdma_addr){0};
}
const char *np_rdma_id_device(const struct np_rdma_id *id) {
  (void)id;
  return "";
}

enum np_err np_rdma_cm_next(struct np_rdma_ctl *ctl, struct np_rdma_cm_event *out, struct np_err_detail *detail) {
  (void)ctl, (void)out, (void)detail;
  return NP_ERR_NOTFOUND;
}

bool np_rdma_dev_is(const struct np_rdma_dev *dev, const struct np_rdma_id *id) {
  (void)dev, (void)id;
  return false;
}

enum np_err np_rdma_dev_open(struct np_rdma_ctl *ctl, const struct np_rdma_id *id, struct np_pool *pool,
                             struct np_rdma_dev **out, struct np_err_detail *detail) {
  (void)ctl, (void)id, (void)pool, (void)out, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

void np_rdma_dev_close(struct np_rdma_dev *dev) { (void)dev; }
void *np_rdma_dev_channel(const struct np_rdma_dev *dev) {
  (void)dev;
  return NULL;
}

enum np_err np_rdma_qp_make(struct np_rdma_dev *dev, struct np_rdma_id *id, const struct np_rdma_qp_args *args,
                            struct np_rdma_qp **out, struct np_rdma_conn_args *conn, struct np_hello *own,
                            struct np_rdma_cq_args *out_cq, struct np_err_detail *detail) {
  (void)dev, (void)id, (void)args, (void)out, (void)conn, (void)own, (void)out_cq, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

void np_rdma_qp_end(struct np_rdma_qp *qp) { (void)qp; }

enum np_err np_rdma_mr_make(struct np_rdma_dev *dev, void *mem, uint64_t bytes, uint32_t access, struct np_rdma_mr **out,
                            uint64_t *out_addr, uint32_t *out_rkey, uint32_t *out_lkey, struct np_err_detail *detail) {
  (void)dev, (void)mem, (void)bytes, (void)access, (void)out, (void)out_addr, (void)out_rkey, (void)out_lkey, (void)detail;
  return NP_ERR_UNSUPPORTED;
}

void np_rdma_mr_end(struct np_rdma_mr *mr) { (void)mr; }
