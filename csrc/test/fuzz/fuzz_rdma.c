/* RDMA: private data, and a carrier whose completions are what the input says.
 *
 * Input: first 56 bytes are private data. Then steps, a byte each: the low 3 bits say what (a message with a 4-byte
 * immediate and 3-byte length, a completion of ours, one with an error, an odd one, the session consumes, the session
 * sends, shutdown/abort/detach, time), then its operands. Checked: the pool is whole at the end, bytes handed up are
 * those announced at most, the session's last call is closed. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "io/rdma/rdma.h"

#define POOL_COUNT 64u
#define CHUNK 2048u
#define RING 8192u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct rig {
  struct np_session session;
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_counters counters;
  struct np_rdma *rdma;
  struct np_rv_wc wc[64];
  uint32_t wc_count;
  uint16_t posted[NP_RDMA_SQ_DEPTH * 2]; /* positions of requests not completed yet */
  uint32_t posted_count;
  uint32_t held;
  uint64_t announced, handed;
  bool closed;
};

static uint32_t f_post(void *arg, const struct np_rv_post *posts, uint32_t n) {
  struct rig *r = arg;
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t s = 0; s < posts[i].sge_count; s++) { /* the memory is there */
      volatile const uint8_t *p = (const uint8_t *)(uintptr_t)posts[i].sge[s].addr;
      (void)p[0];
      (void)p[posts[i].sge[s].bytes - 1];
    }
    np_assert(r->posted_count < NP_RDMA_SQ_DEPTH);
    r->posted[r->posted_count++] = (uint16_t)posts[i].wr_id;
  }
  return n;
}
static uint32_t f_recv(void *arg, uint64_t wr_id, uint32_t n) {
  (void)arg, (void)wr_id;
  np_assert(n <= NP_RDMA_DEPTH);
  return n;
}
static uint32_t f_poll(void *arg, struct np_rv_wc *out, uint32_t max) {
  struct rig *r = arg;
  uint32_t n = np_min_u32(max, r->wc_count);
  memcpy(out, r->wc, n * sizeof *out);
  r->wc_count -= n;
  memmove(r->wc, r->wc + n, r->wc_count * sizeof *out);
  return n;
}
static bool f_arm(void *arg) {
  (void)arg;
  return true;
}
static void f_drain(void *arg) { (void)arg; }
static const struct np_rv_ops ops = {.post = f_post, .recv = f_recv, .poll = f_poll, .arm = f_arm, .drain = f_drain};

static void s_data(struct np_session *s, struct np_buf *chain, uint32_t bytes) {
  struct rig *r = NP_CONTAINER_OF(s, struct rig, session);
  np_assert(np_buf_chain_len(chain) == bytes && !r->closed);
  r->handed += bytes;
  np_assert(r->handed <= r->announced);
  r->held += bytes;
  np_buf_put_chain(chain);
}
static void s_none(struct np_session *s) { np_assert(!NP_CONTAINER_OF(s, struct rig, session)->closed); }
static void s_closed(struct np_session *s, enum np_err err) {
  struct rig *r = NP_CONTAINER_OF(s, struct rig, session);
  (void)err;
  np_assert(!r->closed);
  r->closed = true;
  s->stream = NULL;
}
static const struct np_session_ops session_ops = {
    .data = s_data, .writable = s_none, .eof = s_none, .closed = s_closed, .established = s_none};

static void complete(struct rig *r, const struct np_rv_wc *wc) {
  if (r->wc_count < 64) r->wc[r->wc_count++] = *wc;
}

static uint32_t take(const uint8_t **p, const uint8_t *end, uint32_t bytes) {
  uint32_t v = 0;
  for (; bytes > 0 && *p < end; bytes--) v = v << 8 | *(*p)++;
  return v;
}

static void use_session(struct rig *r, uint32_t what, uint32_t n) {
  struct np_stream *s = r->session.stream;
  if (s == NULL) return;
  if (what == 4) {
    n = np_min_u32(n * 32, r->held);
    r->held -= n;
    s->ops->consumed(s, n);
  } else if (what == 5) {
    struct np_buf *b = np_pool_get(&r->pool);
    if (b == NULL) return;
    np_buf_append(b, np_min_u32(n * 8, np_buf_tailroom(b)));
    if (b->len > s->ops->room(s)) {
      np_buf_put(b);
    } else {
      (void)s->ops->send(s, b, 0);
    }
  } else if ((n & 15u) == 1) {
    s->ops->abort(s);
  } else if ((n & 15u) == 2) {
    s->ops->detach(s);
  } else {
    s->ops->shutdown(s);
  }
}

static void step(struct rig *r, const uint8_t **p, const uint8_t *end, uint64_t *now_ns) {
  struct np_carrier *c = np_rdma_carrier(r->rdma);
  uint32_t what = take(p, end, 1);
  struct np_rv_wc wc = {.wr_id = np_rdma_wr_recv(r->rdma, 0)};
  switch (what & 7u) {
    case 0:
      wc.kind = NP_RV_CAME;
      wc.imm = take(p, end, 4);
      wc.bytes = take(p, end, 3);
      if (what & 8u) wc.imm &= 0x80000000u;
      if (what & 16u) wc.bytes &= 1023u;
      r->announced += wc.bytes;
      complete(r, &wc);
      break;
    case 1:
    case 2: {
      uint32_t i = r->posted_count == 0 ? 0 : take(p, end, 1) % r->posted_count;
      wc.wr_id = (wc.wr_id & ~(UINT64_C(1) << 63)) | (r->posted_count == 0 ? take(p, end, 2) : r->posted[i]);
      wc.kind = NP_RV_SENT;
      if ((what & 7u) == 2) wc.err = (uint8_t)(what >> 3);
      if (r->posted_count > 0) {
        r->posted_count -= i + 1;
        memmove(r->posted, r->posted + i + 1, r->posted_count * sizeof r->posted[0]);
      }
      complete(r, &wc);
      break;
    }
    case 3:
      wc.kind = NP_RV_ODD;
      wc.err = (uint8_t)(what >> 3);
      complete(r, &wc);
      break;
    case 7:
      *now_ns += (uint64_t)(what >> 3) * 50000000u;
      np_wheel_advance(&r->wheel, *now_ns, 16);
      break;
    default: use_session(r, what & 7u, what >> 3 | take(p, end, 1) << 5); break;
  }
  c->ops->poll(c, *now_ns);
  c->ops->flush(c, *now_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct np_hello hello;
  uint32_t head = (uint32_t)(size < 56 ? size : 56);
  bool good = np_hello_get(data, head, &hello) == NP_ERR_OK;
  if (!good) hello = (struct np_hello){.ring_bytes = 4096, .depth = NP_LINK_DEPTH_MIN, .addr = 1 << 20};
  static const struct np_rdma_config config = {
      .base = {.conns_max = 1, .rcv_buf_bytes = RING, .snd_buf_bytes = 65536}, .keepalive_ms = 1000, .notify_fd = -1};
  struct rig *r = calloc(1, sizeof *r);
  void *mem = aligned_alloc(64, (np_rdma_bytes(&config) + 63) / 64 * 64);
  void *pool_mem = aligned_alloc(CHUNK, POOL_COUNT * CHUNK);
  void *stack = malloc(np_pool_stack_bytes(POOL_COUNT));
  uint8_t *ring = calloc(1, RING);
  memset(pool_mem, 0, POOL_COUNT * CHUNK);
  np_pool_init(&r->pool, pool_mem, POOL_COUNT, CHUNK, stack, &r->counters);
  uint64_t now_ns = 1000000000;
  np_wheel_init(&r->wheel, now_ns);
  struct np_carrier_env env = {.pool = &r->pool, .wheel = &r->wheel, .counters = &r->counters};
  np_assert(np_rdma_init(mem, &config, &env, now_ns, &r->rdma) == NP_ERR_OK);
  struct np_carrier *c = np_rdma_carrier(r->rdma);
  struct np_rdma_cq_args cq = {.ops = &ops, .cq = r, .channel = r, .channel_fd = -1, .channel_new = true};
  struct np_rdma_conn_args conn = {.ops = &ops, .qp = r, .ring = ring, .sge_max = 3, .inline_bytes = 64, .outgoing = true};
  uint64_t handle;
  struct np_stream *stream;
  np_assert(np_rdma_add_cq(r->rdma, &cq) == NP_ERR_OK);
  np_assert(np_rdma_attach(r->rdma, 0, &conn, now_ns, &handle) == NP_ERR_OK);
  np_assert(np_rdma_peer(r->rdma, 0, &hello) == NP_ERR_OK);
  r->session.ops = &session_ops;
  np_assert(c->ops->connect(c, 0, &r->session, now_ns, &stream) == NP_ERR_OK);
  const uint8_t *p = data + head;
  while (p < data + size) step(r, &p, data + size, &now_ns); /* bound: the input */
  struct np_session *left = r->session.stream == NULL ? NULL : &r->session;
  c->ops->abort_all(c, now_ns);
  np_assert(left == NULL || r->closed);
  np_rdma_release(r->rdma, 0, now_ns);
  c->ops->fini(c);
  np_assert(r->pool.free_count == POOL_COUNT);
  free(ring);
  free(stack);
  free(pool_mem);
  free(mem);
  free(r);
  return 0;
}
