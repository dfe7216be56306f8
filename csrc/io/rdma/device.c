/* One device as one core uses it: protection domain, the pool's registration, completion
 * queues, queue pairs; and the verbs behind the carrier's table (verbs.h). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/rdma/lib.h"

#define CQ_ENTRIES 32767u /* soft-RoCE's most; a device that takes fewer says so */
#define QP_ENTRIES (NP_RDMA_DEPTH + NP_RDMA_SQ_DEPTH) /* completions that one queue pair may leave */
#define INLINE_BYTES 192u /* wished */
#define DEV_CQS_MAX 16u
#define EVENTS_MAX 64u    /* of a channel, taken at once */

struct cq {
  struct ibv_cq *cq;
  uint32_t entries;
  uint32_t taken; /* by queue pairs */
};

struct np_rdma_dev {
  struct np_rdma_ctl *ctl;
  struct ibv_context *verbs;
  struct ibv_pd *pd;
  struct ibv_mr *pool_mr;
  struct ibv_comp_channel *channel;
  struct channel_view {
    const struct np_rdma_lib *lib;
    struct ibv_comp_channel *channel;
  } view; /* what the core gets of the channel */
  uint32_t entries_max;
  uint32_t sge_max;
  uint32_t cq_count;
  struct cq cq[DEV_CQS_MAX];
};

struct np_rdma_qp {
  struct np_rdma_dev *dev;
  struct np_rdma_id *id;
  struct cq *cq;
  struct ibv_mr *ring_mr;
};

struct np_rdma_mr {
  struct np_rdma_dev *dev;
  struct ibv_mr *mr;
};

/* ---- the core's side ---- */

static uint32_t dev_post(void *arg, const struct np_rv_post *posts, uint32_t n) {
  static const enum ibv_wr_opcode opcode[] = {[NP_RV_WRITE_IMM] = IBV_WR_RDMA_WRITE_WITH_IMM,
                                              [NP_RV_WRITE] = IBV_WR_RDMA_WRITE,
                                              [NP_RV_READ] = IBV_WR_RDMA_READ};
  struct ibv_send_wr wr[NP_RV_POSTS_MAX];
  struct ibv_sge sge[NP_RV_POSTS_MAX][NP_RV_SGE_MAX];
  np_assert(n > 0 && n <= NP_RV_POSTS_MAX);
  for (uint32_t i = 0; i < n; i++) {
    const struct np_rv_post *p = &posts[i];
    for (uint32_t s = 0; s < p->sge_count; s++) {
      sge[i][s] = (struct ibv_sge){.addr = p->sge[s].addr, .length = p->sge[s].bytes, .lkey = p->sge[s].lkey};
    }
    uint32_t flags = (p->signaled ? (uint32_t)IBV_SEND_SIGNALED : 0u) | (p->is_inline ? (uint32_t)IBV_SEND_INLINE : 0u);
    wr[i] = (struct ibv_send_wr){
        .wr_id = p->wr_id,
        .next = i + 1 < n ? &wr[i + 1] : NULL,
        .sg_list = sge[i],
        .num_sge = (int)p->sge_count,
        .opcode = opcode[p->op],
        .send_flags = flags,
        .imm_data = __builtin_bswap32(p->imm),
        .wr.rdma = {.remote_addr = p->remote_addr, .rkey = p->rkey},
    };
  }
  struct ibv_send_wr *bad = NULL;
  if (ibv_post_send(arg, wr, &bad) == 0) return n;
  for (uint32_t i = 0; i < n; i++) {
    if (bad == &wr[i]) return i;
  }
  return 0;
}

static uint32_t dev_recv(void *arg, uint64_t wr_id, uint32_t n) {
  struct ibv_recv_wr wr[32];
  uint32_t done = 0;
  while (done < n) { /* bound: n, the depth at most */
    uint32_t step = np_min_u32(n - done, NP_COUNT_OF(wr));
    for (uint32_t i = 0; i < step; i++) {
      wr[i] = (struct ibv_recv_wr){.wr_id = wr_id, .next = i + 1 < step ? &wr[i + 1] : NULL};
    }
    struct ibv_recv_wr *bad = NULL;
    if (ibv_post_recv(arg, wr, &bad) != 0) {
      for (uint32_t i = 0; i < step; i++) {
        if (bad == &wr[i]) return done + i;
      }
      return done;
    }
    done += step;
  }
  return done;
}

static enum np_err err_of_wc(enum ibv_wc_status status) {
  switch (status) {
    case IBV_WC_SUCCESS: return NP_ERR_OK;
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR: return NP_ERR_TIMEDOUT;
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_INV_RD_REQ_ERR:
    case IBV_WC_BAD_RESP_ERR:
    case IBV_WC_LOC_LEN_ERR: /* a SEND with data: our receives have no memory */
    case IBV_WC_LOC_ACCESS_ERR: return NP_ERR_PROTOCOL;
    case IBV_WC_LOC_PROT_ERR: return NP_ERR_SYS; /* memory of our own that the device does not know */
    case IBV_WC_LOC_QP_OP_ERR: /* what a port that is down, or a peer without a route, comes to */
    case IBV_WC_FATAL_ERR:
    case IBV_WC_GENERAL_ERR: return NP_ERR_PORTDOWN;
    default: return NP_ERR_RESET; /* flushed: the queue pair ended before */
  }
}

static uint32_t dev_poll(void *arg, struct np_rv_wc *out, uint32_t max) {
  struct ibv_wc wc[32];
  int got = ibv_poll_cq(arg, (int)np_min_u32(max, NP_COUNT_OF(wc)), wc);
  if (got < 0) return 0; /* a device that is gone; the connection manager tells of it */
  for (int i = 0; i < got; i++) {
    struct np_rv_wc *o = &out[i];
    *o = (struct np_rv_wc){.wr_id = wc[i].wr_id, .err = (uint8_t)err_of_wc(wc[i].status)};
    if (wc[i].status != IBV_WC_SUCCESS) continue;
    if ((wc[i].opcode & IBV_WC_RECV) == 0) {
      o->kind = NP_RV_SENT;
    } else if (wc[i].opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
      o->kind = NP_RV_CAME;
      o->imm = __builtin_bswap32(wc[i].imm_data);
      o->bytes = wc[i].byte_len;
    } else {
      o->kind = NP_RV_ODD;
    }
  }
  return (uint32_t)got;
}

static bool dev_arm(void *arg) { return ibv_req_notify_cq(arg, 0) == 0; }

static void dev_drain(void *arg) {
  const struct channel_view *v = arg;
  for (uint32_t i = 0; i < EVENTS_MAX; i++) { /* bound: what is left makes the channel readable again */
    struct ibv_cq *cq = NULL;
    void *ctx;
    if (v->lib->ibv_get_cq_event(v->channel, &cq, &ctx) != 0) return;
    v->lib->ibv_ack_cq_events(cq, 1);
  }
}

static const struct np_rv_ops dev_ops = {
    .post = dev_post, .recv = dev_recv, .poll = dev_poll, .arm = dev_arm, .drain = dev_drain};

/* ---- the control side ---- */

bool np_rdma_dev_is(const struct np_rdma_dev *dev, const struct np_rdma_id *id) { return dev->verbs == id->cm->verbs; }
void *np_rdma_dev_channel(const struct np_rdma_dev *dev) { return (void *)(uintptr_t)&dev->view; }

static enum np_err failed(const struct np_rdma_id *id, int sys, const char *action, struct np_err_detail *detail) {
  np_rdma_explain(detail, sys, "%s on %s%s", action, np_rdma_id_device(id),
                  sys == ENOMEM ? " (limit of locked memory: ulimit -l, CAP_IPC_LOCK)" : "");
  return np_rdma_err_of(sys);
}

void np_rdma_dev_close(struct np_rdma_dev *dev) {
  if (dev == NULL) return;
  const struct np_rdma_lib *lib = &dev->ctl->lib;
  for (uint32_t i = 0; i < dev->cq_count; i++) lib->ibv_destroy_cq(dev->cq[i].cq);
  if (dev->channel != NULL) lib->ibv_destroy_comp_channel(dev->channel);
  if (dev->pool_mr != NULL) lib->ibv_dereg_mr(dev->pool_mr);
  if (dev->pd != NULL) lib->ibv_dealloc_pd(dev->pd);
  free(dev);
}

static enum np_err open_parts(struct np_rdma_dev *dev, const struct np_rdma_id *id, struct np_pool *pool,
                              struct np_err_detail *detail) {
  const struct np_rdma_lib *lib = &dev->ctl->lib;
  struct ibv_device_attr attr;
  memset(&attr, 0, sizeof attr);
  int sys = lib->ibv_query_device(dev->verbs, &attr);
  if (sys != 0) return failed(id, sys, "ask for the limits", detail);
  dev->entries_max = np_min_u32(CQ_ENTRIES, (uint32_t)attr.max_cqe);
  dev->sge_max = np_min_u32(NP_RV_SGE_MAX, (uint32_t)attr.max_sge);
  dev->pd = lib->ibv_alloc_pd(dev->verbs);
  if (dev->pd == NULL) return failed(id, errno, "make a protection domain", detail);
  /* Without any access flag: the device reads from it, for sending, and nobody writes. */
  dev->pool_mr = lib->ibv_reg_mr(dev->pd, pool->mem, (size_t)pool->count * pool->chunk_bytes, 0);
  if (dev->pool_mr == NULL) return failed(id, errno, "register the buffers", detail);
  dev->channel = lib->ibv_create_comp_channel(dev->verbs);
  if (dev->channel == NULL) return failed(id, errno, "make a completion channel", detail);
  int flags = fcntl(dev->channel->fd, F_GETFL);
  if (flags < 0 || fcntl(dev->channel->fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return failed(id, errno, "make the completion channel nonblocking", detail);
  }
  dev->view.lib = lib;
  dev->view.channel = dev->channel;
  return NP_ERR_OK;
}

enum np_err np_rdma_dev_open(struct np_rdma_ctl *ctl, const struct np_rdma_id *id, struct np_pool *pool,
                             struct np_rdma_dev **out, struct np_err_detail *detail) {
  *out = NULL;
  if (id->cm->verbs == NULL) {
    np_rdma_explain(detail, 0, "open RDMA device: the connection has none yet");
    return NP_ERR_STATE;
  }
  struct np_rdma_dev *dev = calloc(1, sizeof *dev);
  if (dev == NULL) {
    np_rdma_explain(detail, 0, "open RDMA device: out of memory");
    return NP_ERR_NOMEM;
  }
  dev->ctl = ctl;
  dev->verbs = id->cm->verbs;
  enum np_err err = open_parts(dev, id, pool, detail);
  if (err != NP_ERR_OK) {
    np_rdma_dev_close(dev);
    return err;
  }
  *out = dev;
  return NP_ERR_OK;
}

/* A completion queue with room for one queue pair more: an overrun would end every connection on it. */
static enum np_err cq_for(struct np_rdma_dev *dev, const struct np_rdma_id *id, struct cq **out, struct np_rdma_cq_args *made,
                          struct np_err_detail *detail) {
  made->cq = NULL;
  for (uint32_t i = 0; i < dev->cq_count; i++) {
    if (dev->cq[i].entries - dev->cq[i].taken < QP_ENTRIES) continue;
    *out = &dev->cq[i];
    return NP_ERR_OK;
  }
  if (dev->cq_count == DEV_CQS_MAX || dev->entries_max < QP_ENTRIES) {
    np_rdma_explain(detail, 0, "make a completion queue on %s: %u of %u entries each are all it may have",
                    np_rdma_id_device(id), dev->cq_count, dev->entries_max);
    return NP_ERR_FULL;
  }
  struct ibv_cq *cq = dev->ctl->lib.ibv_create_cq(dev->verbs, (int)dev->entries_max, NULL, dev->channel, 0);
  if (cq == NULL) return failed(id, errno, "make a completion queue", detail);
  struct cq *c = &dev->cq[dev->cq_count];
  *c = (struct cq){.cq = cq, .entries = dev->entries_max};
  *made = (struct np_rdma_cq_args){.ops = &dev_ops,
                                   .cq = cq,
                                   .channel = &dev->view,
                                   .channel_fd = dev->channel->fd,
                                   .channel_new = dev->cq_count == 0};
  dev->cq_count++;
  *out = c;
  return NP_ERR_OK;
}

/* An address for peers that can't be guessed: keys are handed out in order by many devices, and all
 * queue pairs of a core share its domain, so that a key alone must not open another's memory. */
static uint64_t random_iova(const void *mem) {
  uint64_t r = 0;
  uint8_t *p = (uint8_t *)&r;
  size_t got = 0;
  while (got < sizeof r) { /* bound: a few bytes are never partly given by a seeded kernel */
    ssize_t n = getrandom(p + got, sizeof r - got, 0);
    if (n > 0) got += (size_t)n;
  }
  /* 46 bits: devices and the kernel take user addresses; within 2 MiB as the memory lies, for large pages. */
  uint64_t low = (UINT64_C(1) << 21) - 1;
  return (r & ((UINT64_C(1) << 46) - 1) & ~low) | (UINT64_C(1) << 46) | ((uint64_t)(uintptr_t)mem & low);
}

static int make_qp(struct np_rdma_dev *dev, struct np_rdma_id *id, struct ibv_cq *cq, uint32_t inline_bytes,
                   struct ibv_qp_init_attr *attr) {
  *attr = (struct ibv_qp_init_attr){
      .send_cq = cq,
      .recv_cq = cq,
      .qp_type = IBV_QPT_RC,
      .cap = {.max_send_wr = NP_RDMA_SQ_DEPTH,
              .max_recv_wr = NP_RDMA_DEPTH,
              .max_send_sge = dev->sge_max,
              .max_recv_sge = 1,
              .max_inline_data = inline_bytes},
  };
  return dev->ctl->lib.rdma_create_qp(id->cm, dev->pd, attr) == 0 ? 0 : errno;
}

enum np_err np_rdma_qp_make(struct np_rdma_dev *dev, struct np_rdma_id *id, const struct np_rdma_qp_args *args,
                            struct np_rdma_qp **out, struct np_rdma_conn_args *conn, struct np_hello *own,
                            struct np_rdma_cq_args *out_cq, struct np_err_detail *detail) {
  *out = NULL;
  struct np_rdma_qp *q = calloc(1, sizeof *q);
  if (q == NULL) {
    np_rdma_explain(detail, 0, "make a queue pair: out of memory");
    return NP_ERR_NOMEM;
  }
  enum np_err err = cq_for(dev, id, &q->cq, out_cq, detail);
  if (err != NP_ERR_OK) {
    free(q);
    return err;
  }
  q->dev = dev;
  q->cq->taken += QP_ENTRIES;
  struct ibv_qp_init_attr attr;
  int sys = make_qp(dev, id, q->cq->cq, INLINE_BYTES, &attr);
  if (sys == EINVAL) sys = make_qp(dev, id, q->cq->cq, 0, &attr); /* fewer inline bytes than wished */
  if (sys != 0) {
    err = failed(id, sys, "make a queue pair", detail);
    np_rdma_qp_end(q);
    return err;
  }
  q->id = id;
  int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
  uint64_t iova = random_iova(args->ring);
  q->ring_mr = dev->ctl->lib.ibv_reg_mr_iova(dev->pd, args->ring, args->ring_bytes, iova, access);
  if (q->ring_mr == NULL) {
    err = failed(id, errno, "register a ring", detail);
    np_rdma_qp_end(q);
    return err;
  }
  if (dev_recv(id->cm->qp, args->wr_recv, NP_RDMA_DEPTH) != NP_RDMA_DEPTH) {
    err = failed(id, EIO, "post receives", detail);
    np_rdma_qp_end(q);
    return err;
  }
  conn->ops = &dev_ops;
  conn->qp = id->cm->qp;
  conn->ring = args->ring;
  conn->pool_lkey = dev->pool_mr->lkey;
  conn->sge_max = np_min_u32(attr.cap.max_send_sge, dev->sge_max);
  conn->inline_bytes = attr.cap.max_inline_data;
  *own = (struct np_hello){.ring_bytes = args->ring_bytes,
                           .depth = NP_RDMA_DEPTH,
                           .addr = iova,
                           .rkey = q->ring_mr->rkey};
  *out = q;
  return NP_ERR_OK;
}

void np_rdma_qp_end(struct np_rdma_qp *q) {
  if (q == NULL) return;
  if (q->id != NULL) q->dev->ctl->lib.rdma_destroy_qp(q->id->cm);
  if (q->ring_mr != NULL) q->dev->ctl->lib.ibv_dereg_mr(q->ring_mr);
  q->cq->taken -= QP_ENTRIES;
  free(q);
}

enum np_err np_rdma_mr_make(struct np_rdma_dev *dev, void *mem, uint64_t bytes, uint32_t access, struct np_rdma_mr **out,
                            uint64_t *out_addr, uint32_t *out_rkey, uint32_t *out_lkey, struct np_err_detail *detail) {
  *out = NULL;
  struct np_rdma_mr *m = calloc(1, sizeof *m);
  if (m == NULL) {
    np_rdma_explain(detail, 0, "register memory: out of memory");
    return NP_ERR_NOMEM;
  }
  int flags = IBV_ACCESS_LOCAL_WRITE;
  if (access & NP_RDMA_REMOTE_READ) flags |= IBV_ACCESS_REMOTE_READ;
  if (access & NP_RDMA_REMOTE_WRITE) flags |= IBV_ACCESS_REMOTE_WRITE;
  uint64_t iova = random_iova(mem);
  m->dev = dev;
  m->mr = dev->ctl->lib.ibv_reg_mr_iova(dev->pd, mem, bytes, iova, flags);
  if (m->mr == NULL) {
    int sys = errno;
    np_rdma_explain(detail, sys, "register %llu KiB of memory", (unsigned long long)(bytes >> 10));
    free(m);
    return np_rdma_err_of(sys);
  }
  *out_addr = iova;
  *out_rkey = m->mr->rkey;
  *out_lkey = m->mr->lkey;
  *out = m;
  return NP_ERR_OK;
}

void np_rdma_mr_end(struct np_rdma_mr *m) {
  if (m == NULL) return;
  m->dev->ctl->lib.ibv_dereg_mr(m->mr);
  free(m);
}
