/* io/rdma: streams over a device in memory (rdma_fake.h). */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/rdma_fake.h"

#define START_NS UINT64_C(1000000000)

/* A session that sends numbered bytes and checks those that come. */
struct peer {
  struct np_session base;
  struct np_pool *pool;
  uint64_t to_send, sent, got;
  struct np_buf *kept; /* received and not consumed, when it is slow */
  uint32_t kept_bytes;
  bool slow, echo_eof, saw_eof, saw_established, is_closed;
  enum np_err err;
  uint32_t writables;
};

struct rig {
  struct fake_end a, b;
  struct peer pa[FAKE_CONNS], pb[FAKE_CONNS];
  uint32_t accepted;
  uint64_t now_ns;
};

static struct peer *of(struct np_session *s) { return NP_CONTAINER_OF(s, struct peer, base); }

static uint8_t byte_at(uint64_t n) { return (uint8_t)(n * 31 + (n >> 8)); }

static void check(struct peer *p, const struct np_buf *chain) {
  for (const struct np_buf *b = chain; b != NULL; b = b->next) {
    const uint8_t *d = np_buf_cdata(b);
    for (uint32_t i = 0; i < b->len; i++) assert_int_equal(d[i], byte_at(p->got++));
  }
}

static void p_data(struct np_session *s, struct np_buf *chain, uint32_t bytes) {
  struct peer *p = of(s);
  assert_int_equal(np_buf_chain_len(chain), bytes);
  check(p, chain);
  if (!p->slow) {
    np_buf_put_chain(chain);
    s->stream->ops->consumed(s->stream, bytes);
    return;
  }
  struct np_buf **tail = &p->kept;
  while (*tail != NULL) tail = &(*tail)->next;
  *tail = chain;
  p->kept_bytes += bytes;
}

static void pump(struct peer *p, uint32_t piece) {
  struct np_stream *s = p->base.stream;
  while (s != NULL && p->sent < p->to_send) {
    uint32_t n = np_min_u32(s->ops->room(s), piece);
    n = (uint32_t)np_min_u64(n, p->to_send - p->sent);
    if (n == 0) return;
    struct np_buf *b = np_pool_get(p->pool);
    if (b == NULL) return;
    uint8_t *d = np_buf_append(b, n);
    for (uint32_t i = 0; i < n; i++) d[i] = byte_at(p->sent + i);
    p->sent += n;
    assert_int_equal(s->ops->send(s, b, 0), NP_ERR_OK);
  }
}

static void p_writable(struct np_session *s) { of(s)->writables++; }
static void p_eof(struct np_session *s) {
  of(s)->saw_eof = true;
  if (of(s)->echo_eof) s->stream->ops->shutdown(s->stream);
}
static void p_closed(struct np_session *s, enum np_err err) {
  struct peer *p = of(s);
  assert_false(p->is_closed);
  p->is_closed = true;
  p->err = err;
  s->stream = NULL;
}
static void p_established(struct np_session *s) { of(s)->saw_established = true; }

static const struct np_session_ops peer_ops = {
    .data = p_data, .writable = p_writable, .eof = p_eof, .closed = p_closed, .established = p_established};

static void peer_init(struct peer *p, struct np_pool *pool) {
  *p = (struct peer){.base = {.ops = &peer_ops}, .pool = pool, .echo_eof = true};
}

static struct np_session *on_accept(void *ctx, struct np_stream *stream) {
  struct rig *r = ctx;
  (void)stream;
  return &r->pb[r->accepted++].base;
}

static int setup(void **state) {
  struct rig *r = calloc(1, sizeof *r);
  r->now_ns = START_NS;
  fake_open(&r->a, r->now_ns);
  fake_open(&r->b, r->now_ns);
  r->b.accept = on_accept;
  r->b.accept_ctx = r;
  for (uint32_t i = 0; i < FAKE_CONNS; i++) {
    peer_init(&r->pa[i], &r->a.pool);
    peer_init(&r->pb[i], &r->b.pool);
  }
  struct np_carrier *c = np_rdma_carrier(r->b.rdma);
  uint32_t listener;
  struct np_carrier_listen args = {.fd = -1, .conns_max = 4, .handle = 99};
  assert_int_equal(c->ops->listen(c, &args, &listener), NP_ERR_OK);
  *state = r;
  return 0;
}

static void give_kept(struct peer *p) {
  np_buf_put_chain(p->kept);
  p->kept = NULL;
  p->kept_bytes = 0;
}

static int teardown(void **state) {
  struct rig *r = *state;
  for (uint32_t i = 0; i < FAKE_CONNS; i++) {
    give_kept(&r->pa[i]);
    give_kept(&r->pb[i]);
  }
  fake_close(&r->a);
  fake_close(&r->b);
  free(r);
  return 0;
}

static void turn_one(struct fake_end *e, uint64_t now_ns) {
  struct np_carrier *c = np_rdma_carrier(e->rdma);
  np_wheel_advance(&e->wheel, now_ns, 100);
  c->ops->poll(c, now_ns);
  c->ops->flush(c, now_ns);
}

/* Whole turns of both ends with n requests of each queue pair carried over in between. */
static void turns(struct rig *r, uint32_t count, uint32_t n) {
  for (uint32_t i = 0; i < count; i++) {
    r->now_ns += 10000;
    turn_one(&r->a, r->now_ns);
    fake_deliver(&r->a, &r->b, n);
    turn_one(&r->b, r->now_ns);
    fake_deliver(&r->a, &r->b, n);
  }
}

static struct np_stream *open_one(struct rig *r, uint32_t slot) {
  struct np_carrier *c = np_rdma_carrier(r->a.rdma);
  struct np_stream *s = NULL;
  fake_join(&r->a, &r->b, slot, 99, r->now_ns);
  assert_int_equal(c->ops->connect(c, (int32_t)slot, &r->pa[slot].base, r->now_ns, &s), NP_ERR_OK);
  turns(r, 3, 8);
  assert_true(r->pa[slot].saw_established);
  assert_ptr_equal(c->ops->stream(c, s->handle), s);
  return s;
}

static void finish(struct rig *r, uint32_t slot) {
  struct np_stream *s = r->pa[slot].base.stream;
  s->ops->shutdown(s);
  turns(r, 10, 8);
  assert_true(r->pb[slot].saw_eof);
  assert_true(r->pa[slot].is_closed);
  assert_true(r->pb[slot].is_closed);
  assert_int_equal(r->pa[slot].err, NP_ERR_EOF);
  assert_int_equal(r->pb[slot].err, NP_ERR_EOF);
  assert_int_equal(fake_reap(&r->a, r->now_ns) + fake_reap(&r->b, r->now_ns), 2);
  assert_int_equal(fake_reap(&r->a, r->now_ns) + fake_reap(&r->b, r->now_ns), 0);
}

static void test_both_ways(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  r->pa[0].to_send = r->pb[0].to_send = 1 << 20;
  for (uint32_t i = 0; i < 4000 && (r->pb[0].got < 1 << 20 || r->pa[0].got < 1 << 20); i++) {
    pump(&r->pa[0], 1 + i * 37 % 1700);
    pump(&r->pb[0], 1 + i * 53 % 1700);
    turns(r, 1, 1 + i % 5);
  }
  assert_int_equal(r->pb[0].got, 1 << 20);
  assert_int_equal(r->pa[0].got, 1 << 20);
  assert_true(r->pa[0].writables > 0);
  assert_true(r->a.counters.counter[NP_C_RDMA_STALLS] > 0);
  finish(r, 0);
}

/* A reader that stops stops the writer, with no more buffers than the ring's worth; what it keeps is
 * returned and all goes on. */
static void test_backpressure(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  r->pb[0].slow = true;
  r->pa[0].to_send = 200000;
  for (uint32_t i = 0; i < 200; i++) {
    pump(&r->pa[0], 1500);
    turns(r, 1, 8);
  }
  assert_int_equal(r->pb[0].kept_bytes, FAKE_RING);
  assert_true(r->pa[0].sent <= FAKE_RING + FAKE_SND_BUF);
  assert_int_equal(r->pa[0].base.stream->ops->room(r->pa[0].base.stream) < 1500, 1);
  assert_true(FAKE_POOL_COUNT - r->b.pool.free_count <= 2 * (FAKE_RING / 1700) + 16);
  for (uint32_t i = 0; i < 400 && r->pb[0].got < 200000; i++) {
    uint32_t n = r->pb[0].kept_bytes;
    give_kept(&r->pb[0]);
    r->pb[0].base.stream->ops->consumed(r->pb[0].base.stream, n);
    pump(&r->pa[0], 1500);
    turns(r, 1, 8);
  }
  assert_int_equal(r->pb[0].got, 200000);
  uint32_t n = r->pb[0].kept_bytes;
  give_kept(&r->pb[0]);
  r->pb[0].base.stream->ops->consumed(r->pb[0].base.stream, n);
  finish(r, 0);
}

/* A peer that sends a byte at a time to a session that consumes nothing does not take a buffer each. */
static void test_crowded(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  r->pb[0].slow = true;
  for (uint32_t i = 0; i < 2000; i++) {
    r->pa[0].to_send = i + 1;
    pump(&r->pa[0], 1);
    turns(r, 1, 8);
  }
  assert_true(FAKE_POOL_COUNT - r->b.pool.free_count < 40);
  for (uint32_t i = 0; i < 10; i++) { /* what was held back comes with time alone */
    r->now_ns += 50000000;
    turns(r, 1, 8);
  }
  assert_int_equal(r->pb[0].got, 2000);
}

static void test_half_close(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pb[0].echo_eof = false;
  r->pa[0].to_send = 10;
  pump(&r->pa[0], 10);
  s->ops->shutdown(s);
  assert_int_equal(s->ops->room(s), 0);
  assert_int_equal(s->ops->send(s, np_pool_get(&r->a.pool), 0), NP_ERR_STATE);
  turns(r, 5, 8);
  assert_true(r->pb[0].saw_eof);
  assert_int_equal(r->pb[0].got, 10);
  assert_false(r->pb[0].is_closed);
  r->pb[0].to_send = 100000; /* the other way goes on */
  for (uint32_t i = 0; i < 500 && r->pa[0].got < 100000; i++) {
    pump(&r->pb[0], 1000);
    turns(r, 1, 8);
  }
  assert_int_equal(r->pa[0].got, 100000);
  r->pb[0].base.stream->ops->shutdown(r->pb[0].base.stream);
  turns(r, 5, 8);
  assert_true(r->pa[0].is_closed);
  assert_int_equal(r->pa[0].err, NP_ERR_EOF);
  assert_int_equal(r->pb[0].err, NP_ERR_EOF);
}

static void test_abort(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pa[0].to_send = 50000;
  pump(&r->pa[0], 1500);
  turns(r, 1, 2);
  s->ops->abort(s);
  assert_true(r->pa[0].is_closed);
  assert_int_equal(r->pa[0].err, NP_ERR_ABORTED);
  uint32_t held = FAKE_POOL_COUNT - r->a.pool.free_count;
  assert_true(held > 0); /* the device may still read them */
  turns(r, 1, 0);
  assert_int_equal(fake_reap(&r->a, r->now_ns), 1);
  assert_int_equal(r->a.pool.free_count, FAKE_POOL_COUNT);
  turns(r, 3, 8);
  assert_true(r->pb[0].is_closed);
  assert_int_equal(r->pb[0].err, NP_ERR_RESET);
  assert_int_equal(fake_reap(&r->b, r->now_ns), 1);
  peer_init(&r->pa[0], &r->a.pool);
  open_one(r, 0); /* the slot is as new */
}

/* Everything the peer sent before it disconnected is read, also when the news of that comes first. */
static void test_gone_after_fin(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pb[0].echo_eof = true;
  r->pa[0].to_send = 5000;
  pump(&r->pa[0], 1000);
  s->ops->shutdown(s);
  turn_one(&r->a, r->now_ns);
  fake_deliver(&r->a, &r->b, 8); /* in b's ring and queue, not seen by b */
  np_rdma_gone(r->b.rdma, 0, NP_ERR_RESET);
  turns(r, 3, 8);
  assert_int_equal(r->pb[0].got, 5000);
  assert_true(r->pb[0].saw_eof);
  assert_true(r->pb[0].is_closed);
}

/* The same when the core does not poll between the news and its flush: ports to poll may make it wait. */
static void test_gone_unpolled(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pa[0].to_send = 5000;
  pump(&r->pa[0], 1000);
  s->ops->shutdown(s);
  turn_one(&r->a, r->now_ns);
  fake_deliver(&r->a, &r->b, 8);
  np_rdma_gone(r->b.rdma, 0, NP_ERR_RESET);
  struct np_carrier *c = np_rdma_carrier(r->b.rdma);
  assert_true(c->ops->flush(c, r->now_ns)); /* it is not done */
  assert_false(r->pb[0].is_closed);
  turns(r, 3, 8);
  assert_int_equal(r->pb[0].got, 5000);
  assert_true(r->pb[0].saw_eof);
  assert_true(r->pb[0].is_closed);
}

static void test_peer_death(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  r->b.qp[0].dead = true;
  r->pa[0].to_send = 100;
  pump(&r->pa[0], 100);
  turns(r, 3, 8);
  assert_false(r->pa[0].base.stream != NULL && !r->pa[0].is_closed && r->a.qp[0].dead && r->a.qp[0].head == 0);
  assert_true(r->pa[0].is_closed);
  assert_int_equal(r->pa[0].err, NP_ERR_TIMEDOUT);
  assert_int_equal(r->a.counters.counter[NP_C_RDMA_ERRORS], 1);
  turns(r, 1, 0);
  assert_int_equal(fake_reap(&r->a, r->now_ns), 1);
}

/* An idle connection whose peer vanished without a word is found by the keep-alive. */
static void test_keepalive(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  for (uint32_t i = 0; i < 15; i++) {
    r->now_ns += 1000000000;
    turns(r, 2, 8);
  }
  assert_int_equal(r->a.counters.counter[NP_C_RDMA_KEEPALIVES], 1);
  assert_false(r->pa[0].is_closed);
  r->b.qp[0].dead = true;
  for (uint32_t i = 0; i < 25; i++) {
    r->now_ns += 1000000000;
    turns(r, 2, 8);
  }
  assert_true(r->pa[0].is_closed);
  assert_int_equal(r->pa[0].err, NP_ERR_TIMEDOUT);
}

/* A user timeout is shorter than the device's own patience. */
static void test_user_timeout(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  struct np_carrier *c = np_rdma_carrier(r->a.rdma);
  assert_int_equal(c->ops->set(c, s->handle, NP_CONN_SET_USER_TIMEOUT, 2000), NP_ERR_OK);
  assert_int_equal(c->ops->set(c, s->handle, NP_CONN_SET_NAGLE, 0), NP_ERR_OK);
  assert_int_equal(c->ops->set(c, s->handle, NP_CONN_SET_NAGLE, 1), NP_ERR_UNSUPPORTED);
  assert_int_equal(c->ops->set(c, s->handle, NP_CONN_SET_CC, 0), NP_ERR_UNSUPPORTED);
  assert_int_equal(c->ops->set(c, s->handle + 1, NP_CONN_SET_NAGLE, 0), NP_ERR_STALE);
  for (uint32_t i = 0; i < 8; i++) { /* idle, and answered for: no reason to end */
    r->pa[0].to_send++;
    pump(&r->pa[0], 1);
    r->now_ns += 1000000000;
    turns(r, 2, 8);
  }
  assert_false(r->pa[0].is_closed);
  r->pa[0].to_send++;
  pump(&r->pa[0], 1);
  for (uint32_t i = 0; i < 4; i++) {
    r->now_ns += 1000000000;
    turn_one(&r->a, r->now_ns); /* nothing is carried over */
  }
  assert_true(r->pa[0].is_closed);
  assert_int_equal(r->pa[0].err, NP_ERR_TIMEDOUT);
}

/* A message whose immediate or length no honest peer sends. */
static void hostile(struct rig *r, uint32_t slot, uint8_t kind, uint32_t imm, uint32_t bytes, enum np_err err) {
  open_one(r, slot);
  struct np_rv_wc wc = {.kind = kind, .imm = imm, .bytes = bytes, .wr_id = np_rdma_wr_recv(r->b.rdma, slot)};
  fake_complete(&r->b, &wc);
  turns(r, 2, 8);
  assert_true(r->pb[slot].is_closed);
  assert_int_equal(r->pb[slot].err, err);
}

static void test_hostile(void **state) {
  struct rig *r = *state;
  hostile(r, 0, NP_RV_CAME, NP_LINK_IMM_ZERO, 0, NP_ERR_PROTOCOL);
  hostile(r, 1, NP_RV_CAME, 5, 0, NP_ERR_PROTOCOL);
  hostile(r, 2, NP_RV_CAME, 0, FAKE_RING + 1, NP_ERR_FLOW);
  hostile(r, 3, NP_RV_ODD, 0, 0, NP_ERR_PROTOCOL);
  assert_int_equal(r->b.counters.counter[NP_C_RDMA_PROTOCOL], 4);
  /* Completions that name nothing: other generations, slots and places. */
  struct np_rv_wc wc = {.kind = NP_RV_CAME, .bytes = 1, .wr_id = UINT64_MAX};
  fake_complete(&r->a, &wc);
  wc.kind = NP_RV_SENT;
  fake_complete(&r->a, &wc);
  wc.wr_id = np_rdma_wr_recv(r->a.rdma, 0) & ~(UINT64_C(1) << 63); /* a place not in flight */
  fake_complete(&r->a, &wc);
  turns(r, 1, 8);
}

static void test_detach(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pa[0].to_send = 3000;
  pump(&r->pa[0], 1500);
  s->ops->detach(s);
  assert_null(r->pa[0].base.stream);
  r->pb[0].to_send = 100000; /* dropped there, and does not stop */
  for (uint32_t i = 0; i < 300; i++) {
    if (r->pb[0].base.stream != NULL && !r->pb[0].saw_eof) pump(&r->pb[0], 1000);
    turns(r, 1, 8);
  }
  assert_int_equal(r->pb[0].got, 3000);
  assert_true(r->pb[0].is_closed);
  assert_int_equal(r->pb[0].err, NP_ERR_EOF);
  assert_false(r->pa[0].is_closed);
  assert_int_equal(fake_reap(&r->a, r->now_ns), 1);
}

/* A session that read nothing, said its last byte and left: its peer gets the room back at once, and comes to its end. */
static void test_detach_after_shutdown(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pa[0].slow = true;
  r->pb[0].echo_eof = false;
  r->pb[0].to_send = 50000;
  s->ops->shutdown(s);
  for (uint32_t i = 0; i < 100; i++) {
    pump(&r->pb[0], 1500);
    turns(r, 1, 8);
  }
  assert_int_equal(r->pa[0].kept_bytes, FAKE_RING);
  give_kept(&r->pa[0]);
  s->ops->detach(s);
  for (uint32_t i = 0; i < 100; i++) {
    pump(&r->pb[0], 1500);
    turns(r, 1, 8);
  }
  assert_int_equal(r->pb[0].sent, 50000);
  r->pb[0].base.stream->ops->shutdown(r->pb[0].base.stream);
  turns(r, 10, 8);
  assert_true(r->pb[0].is_closed);
  assert_int_equal(r->pb[0].err, NP_ERR_EOF);
  assert_int_equal(fake_reap(&r->a, r->now_ns), 1);
}

/* A peer that never ends its side is not waited for without end. */
static void test_linger(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  r->pb[0].echo_eof = false;
  s->ops->detach(s);
  for (uint32_t i = 0; i < NP_RDMA_LINGER_MS / 1000 + 3; i++) {
    r->now_ns += 1000000000;
    turns(r, 1, 8);
  }
  assert_int_equal(fake_reap(&r->a, r->now_ns), 1);
}

static void test_refused(void **state) {
  struct rig *r = *state;
  r->b.accept = NULL;
  fake_join(&r->a, &r->b, 0, 99, r->now_ns);
  turns(r, 2, 8);
  assert_int_equal(fake_reap(&r->b, r->now_ns), 1);
  turns(r, 2, 8);
  assert_int_equal(fake_reap(&r->a, r->now_ns), 1); /* nobody had taken it yet */
  r->b.accept = on_accept;
  for (uint32_t i = 0; i < 4; i++) open_one(r, i);
  fake_join(&r->a, &r->b, 5, 0, r->now_ns);
  assert_int_equal(np_rdma_adopt(r->b.rdma, 5, 99), NP_ERR_LIMIT);
  assert_int_equal(np_rdma_adopt(r->b.rdma, 5, 98), NP_ERR_NOTFOUND);
  assert_int_equal(np_rdma_adopt(r->b.rdma, 6, 99), NP_ERR_STALE);
  assert_int_equal(np_rdma_adopt(r->b.rdma, FAKE_CONNS, 99), NP_ERR_STALE);
}

/* What completes between the last look and the sleep makes the channel readable. */
static void test_no_lost_wakeup(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  struct np_carrier *c = np_rdma_carrier(r->b.rdma);
  turns(r, 5, 8);
  assert_false(c->ops->busy(c));
  assert_true(r->b.armed);
  r->pa[0].to_send = 1;
  pump(&r->pa[0], 1);
  turn_one(&r->a, r->now_ns);
  fake_deliver(&r->a, &r->b, 8);
  assert_true(r->b.event);
  turn_one(&r->b, r->now_ns);
  assert_false(r->b.event);
  assert_int_equal(r->pb[0].got, 1);
  r->pa[0].to_send = 2; /* it comes before the core arms: found by looking once more */
  pump(&r->pa[0], 1);
  turn_one(&r->a, r->now_ns);
  fake_deliver(&r->a, &r->b, 8);
  assert_true(c->ops->busy(c));
  turn_one(&r->b, r->now_ns);
  assert_int_equal(r->pb[0].got, 2);
  turns(r, 2, 8);
  assert_false(c->ops->busy(c));
}

static void test_one_sided(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  uint8_t local[64];
  memset(local, 0xab, sizeof local);
  struct np_rdma_op_args args = {.slot = 0, .bytes = sizeof local, .local_addr = (uint64_t)(uintptr_t)local, .rkey = 77, .remote_addr = 0x990010};
  uint32_t op;
  enum np_err err;
  assert_int_equal(np_rdma_op(r->a.rdma, &args, &op), NP_ERR_OK);
  assert_false(np_rdma_op_take(r->a.rdma, op, &err));
  turns(r, 2, 8);
  assert_true(np_rdma_op_take(r->a.rdma, op, &err));
  assert_int_equal(err, NP_ERR_OK);
  assert_false(np_rdma_op_take(r->a.rdma, op, &err));
  assert_memory_equal(r->b.qp[0].region[1].mem + 0x10, local, sizeof local);
  memset(local, 0, sizeof local);
  args.is_read = true;
  assert_int_equal(np_rdma_op(r->a.rdma, &args, &op), NP_ERR_OK);
  turns(r, 2, 8);
  assert_true(np_rdma_op_take(r->a.rdma, op, &err));
  assert_int_equal(local[63], 0xab);
  args.remote_addr = 0x990000 + FAKE_RING - 63; /* a byte beyond: the device refuses, the connection ends */
  assert_int_equal(np_rdma_op(r->a.rdma, &args, &op), NP_ERR_OK);
  turns(r, 3, 8);
  assert_true(np_rdma_op_take(r->a.rdma, op, &err));
  assert_int_equal(err, NP_ERR_PROTOCOL);
  assert_true(r->pa[0].is_closed);
  assert_int_equal(np_rdma_op(r->a.rdma, &args, &op), NP_ERR_STALE);
}

/* No buffers for what came: it stays in the ring and is handed up later. */
static void test_pool_empty(void **state) {
  struct rig *r = *state;
  open_one(r, 0);
  struct np_buf *all = NULL;
  for (struct np_buf *b = np_pool_get(&r->b.pool); b != NULL; b = np_pool_get(&r->b.pool)) {
    b->next = all;
    all = b;
  }
  r->pa[0].to_send = 4000;
  pump(&r->pa[0], 1000);
  turns(r, 5, 8);
  assert_int_equal(r->pb[0].got, 0);
  np_buf_put_chain(all);
  turns(r, 1, 8);
  assert_int_equal(r->pb[0].got, 4000);
}

static void test_info(void **state) {
  struct rig *r = *state;
  struct np_stream *s = open_one(r, 0);
  struct np_carrier *c = np_rdma_carrier(r->a.rdma);
  struct np_conn_info info[2];
  uint32_t cursor = 0;
  assert_int_equal(c->ops->connections(c, &cursor, info, 2), 1);
  assert_int_equal(cursor, 0);
  assert_true(info[0].handle == s->handle);
  assert_int_equal(info[0].carrier, NP_CARRIER_RDMA);
  assert_int_equal(info[0].state, NP_TCP_ESTABLISHED);
  assert_int_equal(info[0].options, NP_CONN_OPT_OUTGOING);
  assert_int_equal(info[0].snd_wnd_bytes, FAKE_RING);
}

int main(void) {
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(test_both_ways), T(test_backpressure), T(test_crowded), T(test_half_close), T(test_abort), T(test_gone_after_fin),
      T(test_gone_unpolled),
      T(test_peer_death), T(test_keepalive), T(test_user_timeout), T(test_hostile), T(test_detach), T(test_detach_after_shutdown), T(test_linger), T(test_refused),
      T(test_no_lost_wakeup), T(test_one_sided), T(test_pool_empty), T(test_info),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
