/* What the carrier asks of a device, behind one small table: device.c fills it with verbs, the
 * unit tests and the fuzzer with a fake. No header of verbs is needed to include this. */
#ifndef NP_IO_RDMA_VERBS_H
#define NP_IO_RDMA_VERBS_H

#include <stdbool.h>
#include <stdint.h>

#define NP_RV_SGE_MAX 16u   /* pieces of one message; devices may take fewer */
#define NP_RV_POSTS_MAX 8u  /* requests handed over at once */

enum np_rv_op {
  NP_RV_WRITE_IMM, /* RDMA WRITE with immediate: a message */
  NP_RV_WRITE,     /* without: one-sided, and the keep-alive of no bytes */
  NP_RV_READ
};

struct np_rv_sge {
  uint64_t addr;
  uint32_t bytes;
  uint32_t lkey;
};

struct np_rv_post {
  uint64_t wr_id;
  uint64_t remote_addr;
  uint32_t rkey;
  uint32_t imm;
  uint32_t sge_count;
  uint8_t op;       /* enum np_rv_op */
  bool signaled;    /* a completion is wanted also when all goes well */
  bool is_inline;   /* bytes are copied before post returns */
  struct np_rv_sge sge[NP_RV_SGE_MAX];
};

enum np_rv_kind {
  NP_RV_SENT, /* a request of ours is done, and all before it on that queue pair */
  NP_RV_CAME, /* a message: imm and bytes are set */
  NP_RV_ODD   /* something else came that used up a receive: the peer does not speak this protocol */
};

struct np_rv_wc {
  uint64_t wr_id;
  uint32_t imm;
  uint32_t bytes;
  uint8_t kind; /* enum np_rv_kind; unreliable when err is set */
  uint8_t err;  /* enum np_err */
};

/* Thread: the core's. None blocks. */
struct np_rv_ops {
  /* Takes the first n' <= n requests, in order. Fewer: the queue pair refuses more now. */
  uint32_t (*post)(void *qp, const struct np_rv_post *posts, uint32_t n);
  /* Posts n receives without memory. Return: how many it took. */
  uint32_t (*recv)(void *qp, uint64_t wr_id, uint32_t n);
  uint32_t (*poll)(void *cq, struct np_rv_wc *out, uint32_t max);
  /* The next completion makes cq's channel readable. Return: false when the device refused. */
  bool (*arm)(void *cq);
  /* Takes and acknowledges what made the channel readable; a system call or two. */
  void (*drain)(void *channel);
};

#endif
