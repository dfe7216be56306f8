/* libibverbs and librdmacm, loaded when a plane asks for RDMA, and what the files with their headers
 * share. Loaded rather than linked: the program starts where they are absent, and the providers
 * that a host's libibverbs picks belong to its version, kernel and devices (README.md). */
#ifndef NP_IO_RDMA_LIB_H
#define NP_IO_RDMA_LIB_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "io/rdma/setup.h"

#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define NP_RDMA_SYMBOLS_VERBS(F) \
  F(struct ibv_pd *, ibv_alloc_pd, (struct ibv_context *)) \
  F(int, ibv_dealloc_pd, (struct ibv_pd *)) \
  F(struct ibv_mr *, ibv_reg_mr, (struct ibv_pd *, void *, size_t, int)) \
  F(struct ibv_mr *, ibv_reg_mr_iova, (struct ibv_pd *, void *, size_t, uint64_t, int)) \
  F(int, ibv_dereg_mr, (struct ibv_mr *)) \
  F(struct ibv_comp_channel *, ibv_create_comp_channel, (struct ibv_context *)) \
  F(int, ibv_destroy_comp_channel, (struct ibv_comp_channel *)) \
  F(struct ibv_cq *, ibv_create_cq, (struct ibv_context *, int, void *, struct ibv_comp_channel *, int)) \
  F(int, ibv_destroy_cq, (struct ibv_cq *)) \
  F(int, ibv_get_cq_event, (struct ibv_comp_channel *, struct ibv_cq **, void **)) \
  F(void, ibv_ack_cq_events, (struct ibv_cq *, unsigned int)) \
  F(int, ibv_query_device, (struct ibv_context *, struct ibv_device_attr *)) \
  F(const char *, ibv_get_device_name, (struct ibv_device *))

#define NP_RDMA_SYMBOLS_CM(F) \
  F(struct rdma_event_channel *, rdma_create_event_channel, (void)) \
  F(void, rdma_destroy_event_channel, (struct rdma_event_channel *)) \
  F(int, rdma_create_id, (struct rdma_event_channel *, struct rdma_cm_id **, void *, enum rdma_port_space)) \
  F(int, rdma_destroy_id, (struct rdma_cm_id *)) \
  F(int, rdma_bind_addr, (struct rdma_cm_id *, struct sockaddr *)) \
  F(int, rdma_set_option, (struct rdma_cm_id *, int, int, void *, size_t)) \
  F(int, rdma_resolve_addr, (struct rdma_cm_id *, struct sockaddr *, struct sockaddr *, int)) \
  F(int, rdma_resolve_route, (struct rdma_cm_id *, int)) \
  F(int, rdma_create_qp, (struct rdma_cm_id *, struct ibv_pd *, struct ibv_qp_init_attr *)) \
  F(void, rdma_destroy_qp, (struct rdma_cm_id *)) \
  F(int, rdma_connect, (struct rdma_cm_id *, struct rdma_conn_param *)) \
  F(int, rdma_listen, (struct rdma_cm_id *, int)) \
  F(int, rdma_accept, (struct rdma_cm_id *, struct rdma_conn_param *)) \
  F(int, rdma_reject, (struct rdma_cm_id *, const void *, uint8_t)) \
  F(int, rdma_disconnect, (struct rdma_cm_id *)) \
  F(int, rdma_get_cm_event, (struct rdma_event_channel *, struct rdma_cm_event **)) \
  F(int, rdma_ack_cm_event, (struct rdma_cm_event *))

#define NP_RDMA_FIELD(ret, name, args) ret(*name) args;
struct np_rdma_lib {
  NP_RDMA_SYMBOLS_VERBS(NP_RDMA_FIELD)
  NP_RDMA_SYMBOLS_CM(NP_RDMA_FIELD)
};
#undef NP_RDMA_FIELD

struct np_rdma_ctl {
  struct np_rdma_lib lib;
  struct rdma_event_channel *channel;
};

struct np_rdma_id {
  struct np_rdma_ctl *ctl;
  struct rdma_cm_id *cm;
  uint64_t owner;
};

/* Errors: NP_ERR_UNSUPPORTED; detail names the library or the symbol that is missing. */
enum np_err np_rdma_lib_load(struct np_rdma_lib *lib, struct np_err_detail *detail);

#endif
