#include "test/unit/rdma_fake.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "test/unit/cmocka_np.h"

static void complete(struct fake_end *e, const struct np_rv_wc *wc) {
  np_assert(e->cq_tail - e->cq_head < FAKE_QUEUE);
  e->cq[e->cq_tail++ % FAKE_QUEUE] = *wc;
  if (e->armed) e->event = true;
  e->armed = false;
}

void fake_complete(struct fake_end *e, const struct np_rv_wc *wc) { complete(e, wc); }

static uint32_t fake_post(void *arg, const struct np_rv_post *posts, uint32_t n) {
  struct fake_qp *q = arg;
  for (uint32_t i = 0; i < n; i++) {
    if (q->tail - q->head == NP_RDMA_SQ_DEPTH) return i;
    struct np_rv_post *p = &q->queue[q->tail % NP_RDMA_SQ_DEPTH];
    *p = posts[i];
    if (p->is_inline) {
      uint8_t *at = q->inlined[q->tail % NP_RDMA_SQ_DEPTH];
      uint32_t bytes = 0;
      for (uint32_t s = 0; s < p->sge_count; s++) {
        np_assert(bytes + p->sge[s].bytes <= FAKE_INLINE);
        memcpy(at + bytes, (void *)(uintptr_t)p->sge[s].addr, p->sge[s].bytes);
        bytes += p->sge[s].bytes;
      }
      p->sge_count = bytes > 0 ? 1 : 0;
      p->sge[0] = (struct np_rv_sge){.addr = (uint64_t)(uintptr_t)at, .bytes = bytes};
    }
    q->tail++;
  }
  return n;
}

static uint32_t fake_recv(void *arg, uint64_t wr_id, uint32_t n) {
  struct fake_qp *q = arg;
  q->wr_recv = wr_id;
  q->posted += n;
  np_assert(q->posted <= NP_RDMA_DEPTH);
  return n;
}

static uint32_t fake_poll(void *arg, struct np_rv_wc *out, uint32_t max) {
  struct fake_end *e = arg;
  uint32_t n = 0;
  while (n < max && e->cq_head != e->cq_tail) out[n++] = e->cq[e->cq_head++ % FAKE_QUEUE];
  return n;
}

static bool fake_arm(void *arg) {
  struct fake_end *e = arg;
  e->armed = true;
  return true;
}

static void fake_drain(void *arg) {
  struct fake_end *e = arg;
  e->event = false;
}

static const struct np_rv_ops fake_ops = {
    .post = fake_post, .recv = fake_recv, .poll = fake_poll, .arm = fake_arm, .drain = fake_drain};

static struct np_session *on_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns) {
  struct fake_end *e = ctx;
  (void)listener_ctx;
  (void)now_ns;
  return e->accept == NULL ? NULL : e->accept(e->accept_ctx, stream);
}

void fake_open(struct fake_end *e, uint64_t now_ns) {
  memset(e, 0, sizeof *e);
  e->pool_mem = aligned_alloc(FAKE_CHUNK, FAKE_POOL_COUNT * FAKE_CHUNK);
  e->stack = malloc(np_pool_stack_bytes(FAKE_POOL_COUNT));
  np_pool_init(&e->pool, e->pool_mem, FAKE_POOL_COUNT, FAKE_CHUNK, e->stack, &e->counters);
  np_wheel_init(&e->wheel, now_ns);
  e->rings = calloc(FAKE_CONNS, 2 * FAKE_RING);
  struct np_rdma_config config = {
      .base = {.conns_max = FAKE_CONNS, .slot_base = 4096, .rcv_buf_bytes = FAKE_RING, .snd_buf_bytes = FAKE_SND_BUF},
      .keepalive_ms = 10000,
      .notify_fd = -1,
  };
  struct np_carrier_env env = {
      .pool = &e->pool, .wheel = &e->wheel, .counters = &e->counters, .accept = on_accept, .ctx = e};
  e->mem = aligned_alloc(64, (np_rdma_bytes(&config) + 63) / 64 * 64);
  assert_int_equal(np_rdma_init(e->mem, &config, &env, now_ns, &e->rdma), NP_ERR_OK);
  struct np_rdma_cq_args cq = {.ops = &fake_ops, .cq = e, .channel = e, .channel_fd = -1, .channel_new = true};
  assert_int_equal(np_rdma_add_cq(e->rdma, &cq), NP_ERR_OK);
}

void fake_close(struct fake_end *e) {
  struct np_carrier *c = np_rdma_carrier(e->rdma);
  c->ops->abort_all(c, 0);
  c->ops->fini(c);
  assert_int_equal(e->pool.free_count, FAKE_POOL_COUNT);
  assert_int_equal(e->counters.counter[NP_C_RDMA_CONNS], 0);
  for (uint32_t i = 0; i < FAKE_CONNS; i++) assert_int_equal(e->qp[i].rnr, 0);
  free(e->pool_mem);
  free(e->stack);
  free(e->mem);
  free(e->rings);
}

static struct np_hello make_qp(struct fake_end *e, uint32_t slot, bool outgoing, uint64_t now_ns) {
  struct fake_qp *q = &e->qp[slot];
  memset(q, 0, sizeof *q);
  q->end = e;
  uint8_t *ring = e->rings + (size_t)slot * 2 * FAKE_RING;
  memset(ring, 0, 2 * FAKE_RING);
  q->region[0] = (struct fake_region){.mem = ring, .addr = 0x10000u * (slot + 1), .bytes = FAKE_RING, .rkey = FAKE_RKEY + slot};
  q->region[1] = (struct fake_region){.mem = ring + FAKE_RING, .addr = 0x990000u, .bytes = FAKE_RING, .rkey = 77};
  fake_recv(q, np_rdma_wr_recv(e->rdma, slot), NP_RDMA_DEPTH);
  struct np_rdma_conn_args args = {.ops = &fake_ops,
                                   .qp = q,
                                   .ring = ring,
                                   .sge_max = 4,
                                   .inline_bytes = FAKE_INLINE,
                                   .local_port = 1,
                                   .remote_port = 2,
                                   .outgoing = outgoing};
  assert_int_equal(np_rdma_attach(e->rdma, slot, &args, now_ns, &e->handle[slot]), NP_ERR_OK);
  return (struct np_hello){.ring_bytes = FAKE_RING, .depth = NP_RDMA_DEPTH, .addr = q->region[0].addr, .rkey = q->region[0].rkey};
}

void fake_join(struct fake_end *a, struct fake_end *b, uint32_t slot, uint64_t listener, uint64_t now_ns) {
  struct np_hello ha = make_qp(a, slot, true, now_ns);
  struct np_hello hb = make_qp(b, slot, false, now_ns);
  a->qp[slot].peer = &b->qp[slot];
  b->qp[slot].peer = &a->qp[slot];
  assert_int_equal(np_rdma_peer(a->rdma, slot, &hb), NP_ERR_OK);
  assert_int_equal(np_rdma_peer(b->rdma, slot, &ha), NP_ERR_OK);
  if (listener != 0) assert_int_equal(np_rdma_adopt(b->rdma, slot, listener), NP_ERR_OK);
}

static uint8_t *remote_mem(struct fake_qp *q, const struct np_rv_post *p, uint32_t bytes) {
  for (uint32_t i = 0; i < 2; i++) {
    struct fake_region *g = &q->region[i];
    if (p->rkey != g->rkey || p->remote_addr < g->addr) continue;
    uint64_t off = p->remote_addr - g->addr;
    if (off <= g->bytes && bytes <= g->bytes - off) return g->mem + off;
  }
  return NULL;
}

static void fail_qp(struct fake_qp *q, enum np_err err) {
  q->dead = true;
  struct np_rv_wc wc = {.kind = NP_RV_SENT, .err = (uint8_t)err, .wr_id = q->queue[q->head++ % NP_RDMA_SQ_DEPTH].wr_id};
  complete(q->end, &wc);
}

static void carry(struct fake_qp *q) {
  struct np_rv_post *p = &q->queue[q->head % NP_RDMA_SQ_DEPTH];
  struct fake_qp *to = q->peer;
  if (q->dead || to->dead) {
    fail_qp(q, q->dead ? NP_ERR_RESET : NP_ERR_TIMEDOUT);
    return;
  }
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < p->sge_count; i++) bytes += p->sge[i].bytes;
  uint8_t *mem = remote_mem(to, p, bytes);
  if (mem == NULL) {
    fail_qp(q, NP_ERR_PROTOCOL);
    return;
  }
  if (p->op == NP_RV_WRITE_IMM && to->posted == 0) {
    to->rnr++;
    return; /* tries again */
  }
  for (uint32_t i = 0; i < p->sge_count; i++) {
    void *local = (void *)(uintptr_t)p->sge[i].addr;
    if (p->op == NP_RV_READ) {
      memcpy(local, mem, p->sge[i].bytes);
    } else {
      memcpy(mem, local, p->sge[i].bytes);
    }
    mem += p->sge[i].bytes;
  }
  if (p->op == NP_RV_WRITE_IMM) {
    to->posted--;
    struct np_rv_wc wc = {.kind = NP_RV_CAME, .wr_id = to->wr_recv, .imm = p->imm, .bytes = bytes};
    complete(to->end, &wc);
  }
  struct np_rv_wc wc = {.kind = NP_RV_SENT, .wr_id = p->wr_id};
  if (p->signaled) complete(q->end, &wc);
  q->head++;
}

uint32_t fake_deliver(struct fake_end *a, struct fake_end *b, uint32_t n) {
  uint32_t done = 0;
  struct fake_end *end[2] = {a, b};
  for (uint32_t i = 0; i < 2; i++) {
    for (uint32_t s = 0; s < FAKE_CONNS; s++) {
      struct fake_qp *q = &end[i]->qp[s];
      for (uint32_t k = 0; k < n && q->head != q->tail; k++, done++) carry(q);
    }
  }
  return done;
}

uint32_t fake_reap(struct fake_end *e, uint64_t now_ns) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < FAKE_CONNS; s++) {
    if (!np_rdma_retired_take(e->rdma, s)) continue;
    struct fake_qp *q = &e->qp[s];
    q->dead = true;
    q->head = q->tail; /* no device touches what it names any more */
    np_rdma_release(e->rdma, s, now_ns);
    if (q->peer != NULL && !q->peer->dead) np_rdma_gone(q->peer->end->rdma, s, NP_ERR_RESET);
    n++;
  }
  return n;
}
