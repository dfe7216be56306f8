/* The carrier: completion queues, listeners, slots, and once a turn the dirty connections. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/rdma/internal.h"

/* wr_id: receive 1 | generation 31 | slot 16 | position in the send queue 16 */
#define WR_RECV (UINT64_C(1) << 63)
#define GENERATION_MASK 0x7fffffffu

static uint64_t wr_of(const struct np_rdma_conn *c) {
  return (uint64_t)(c->generation & GENERATION_MASK) << 32 | (uint64_t)c->slot << 16;
}

uint64_t np_rdma_wr_recv(const struct np_rdma *r, uint32_t slot) {
  np_assert(slot < r->config.base.conns_max);
  return WR_RECV | wr_of(&r->conn[slot]);
}

size_t np_rdma_bytes(const struct np_rdma_config *config) {
  return sizeof(struct np_rdma) + (size_t)config->base.conns_max * sizeof(struct np_rdma_conn);
}

static struct np_rdma *of(struct np_carrier *c) { return NP_CONTAINER_OF(c, struct np_rdma, carrier); }

void np_rdma_dirty(struct np_rdma *r, struct np_rdma_conn *c) {
  if (c->flags & NP_RF_DIRTY) return;
  c->flags |= NP_RF_DIRTY;
  c->dirty_next = NP_RDMA_NIL;
  if (r->dirty_tail == NP_RDMA_NIL) {
    r->dirty_head = c->slot;
  } else {
    r->conn[r->dirty_tail].dirty_next = c->slot;
  }
  r->dirty_tail = c->slot;
  r->dirty_count++;
}

void np_rdma_notify(const struct np_rdma *r) {
  if (r->config.notify_fd < 0) return;
  uint64_t one = 1;
  ssize_t n = write(r->config.notify_fd, &one, sizeof one);
  (void)n; /* EAGAIN: already far from 0 */
}

/* ---- listeners and openings ---- */

static enum np_err carrier_listen(struct np_carrier *carrier, const struct np_carrier_listen *args, uint32_t *out) {
  struct np_rdma *r = of(carrier);
  if (args->fd >= 0) close(args->fd); /* the connection manager listens, on the control side */
  for (uint32_t i = 0; i < NP_RDMA_LISTENERS_MAX; i++) {
    struct np_rdma_listener *l = &r->listener[i];
    if (l->used) continue;
    *l = (struct np_rdma_listener){.ctx = args->ctx, .handle = args->handle, .conns_max = args->conns_max, .used = true};
    *out = i;
    return NP_ERR_OK;
  }
  return NP_ERR_FULL;
}

static void listener_maybe_free(struct np_rdma_listener *l) {
  if (l->handle == 0 && l->conns == 0) l->used = false;
}

static enum np_err carrier_unlisten(struct np_carrier *carrier, uint32_t listener) {
  struct np_rdma *r = of(carrier);
  if (listener >= NP_RDMA_LISTENERS_MAX || r->listener[listener].handle == 0) return NP_ERR_STALE;
  r->listener[listener].handle = 0;
  r->listener[listener].ctx = NULL;
  listener_maybe_free(&r->listener[listener]);
  return NP_ERR_OK;
}

/* fd: the slot of a connection that the control side made and attached. */
static enum np_err carrier_connect(struct np_carrier *carrier, int32_t fd, struct np_session *session, uint64_t now_ns,
                                   struct np_stream **out) {
  struct np_rdma *r = of(carrier);
  r->now_ns = now_ns;
  if (fd < 0 || (uint32_t)fd >= r->config.base.conns_max) return NP_ERR_STALE;
  struct np_rdma_conn *c = &r->conn[fd];
  if (c->state != NP_RDMA_SETUP || (c->flags & NP_RF_OUTGOING) == 0) return NP_ERR_STALE;
  c->state = NP_RDMA_OPEN;
  c->stream.session = session;
  session->stream = &c->stream;
  c->flags |= NP_RF_EV_ESTABLISHED;
  np_rdma_dirty(r, c);
  *out = &c->stream;
  return NP_ERR_OK;
}

/* ---- completions ---- */

static struct np_rdma_conn *conn_of_wr(struct np_rdma *r, uint64_t wr_id) {
  uint32_t slot = (uint32_t)(wr_id >> 16) & 0xffffu;
  if (slot >= r->config.base.conns_max) return NULL;
  struct np_rdma_conn *c = &r->conn[slot];
  /* What a queue pair that is gone left in the queue is not the slot's new owner's. */
  bool same = (uint32_t)(wr_id >> 32 & GENERATION_MASK) == (c->generation & GENERATION_MASK);
  return c->state != NP_RDMA_FREE && same ? c : NULL;
}

static void handle(struct np_rdma *r, struct np_rv_wc *wc) {
  struct np_rdma_conn *c = conn_of_wr(r, wc->wr_id);
  if (c == NULL) return;
  /* Of a failed request the kind is not told: which side it was for is. */
  if (wc->err != NP_ERR_OK) wc->kind = wc->wr_id & WR_RECV ? NP_RV_ODD : NP_RV_SENT;
  np_rdma_completed(r, c, wc);
}

/* Return: completions found; *dry is cleared when the budget ended it. */
static uint32_t poll_cq(struct np_rdma *r, const struct np_rdma_cq *cq, bool *dry) {
  struct np_rv_wc wc[NP_RDMA_POLL_BATCH];
  uint32_t found = 0;
  while (found < NP_RDMA_POLL_PER_CQ) { /* bound: the budget */
    uint32_t n = cq->ops->poll(cq->cq, wc, NP_RDMA_POLL_BATCH);
    for (uint32_t i = 0; i < n; i++) handle(r, &wc[i]);
    found += n;
    if (n < NP_RDMA_POLL_BATCH) return found;
  }
  *dry = false;
  return found;
}

static uint32_t poll_all(struct np_rdma *r) {
  uint32_t found = 0;
  r->dry = true;
  for (uint32_t i = 0; i < r->cq_count; i++) found += poll_cq(r, &r->cq[i], &r->dry);
  return found;
}

static uint32_t carrier_poll(struct np_carrier *carrier, uint64_t now_ns) {
  struct np_rdma *r = of(carrier);
  r->now_ns = now_ns;
  if (r->slept) {
    r->slept = false;
    for (uint32_t i = 0; i < r->channel_count; i++) r->channel[i].ops->drain(r->channel[i].channel);
    /* One that is still armed costs an early wake-up, one taken for armed that is not a lost one. */
    for (uint32_t i = 0; i < r->cq_count; i++) r->cq[i].armed = false;
  }
  return poll_all(r);
}

/* Arms, then looks once more: what completes after the look makes the channel readable. */
static bool carrier_busy(struct np_carrier *carrier) {
  struct np_rdma *r = of(carrier);
  r->slept = true;
  for (uint32_t i = 0; i < r->cq_count; i++) {
    struct np_rdma_cq *cq = &r->cq[i];
    if (!cq->armed) cq->armed = cq->ops->arm(cq->cq);
    if (!cq->armed) return true; /* a device that is gone: its connections end by other ways, the core spins till then */
  }
  return poll_all(r) != 0 || r->dirty_count != 0;
}

static int carrier_fd(struct np_carrier *carrier) { return of(carrier)->epoll_fd; }

/* ---- flush ---- */

static void retire(struct np_rdma *r, struct np_rdma_conn *c) {
  c->flags &= ~(NP_RF_EV_ACCEPT | NP_RF_EV_ESTABLISHED | NP_RF_EV_WRITABLE | NP_RF_HELD);
  __atomic_store_n(&c->retired, 1, __ATOMIC_RELEASE); /* pairs with np_rdma_retired_take */
  np_rdma_notify(r);
}

static bool carrier_flush(struct np_carrier *carrier, uint64_t now_ns) {
  struct np_rdma *r = of(carrier);
  r->now_ns = now_ns;
  uint32_t n = r->dirty_count; /* those noted while this runs wait for the next call */
  bool left = false;
  while (n-- > 0) {
    struct np_rdma_conn *c = &r->conn[r->dirty_head];
    r->dirty_head = c->dirty_next;
    if (r->dirty_head == NP_RDMA_NIL) r->dirty_tail = NP_RDMA_NIL;
    r->dirty_count--;
    bool again = np_rdma_flush_one(r, c);
    c->flags &= ~NP_RF_DIRTY;
    if (c->state == NP_RDMA_CLOSED) {
      if (__atomic_load_n(&c->retired, __ATOMIC_RELAXED) == 0) retire(r, c);
      continue;
    }
    if (!again) continue;
    left = true;
    np_rdma_dirty(r, c);
  }
  return left;
}

/* ---- time ---- */

void np_rdma_tick_arm(struct np_rdma *r) {
  uint64_t due = r->now_ns + (r->held ? NP_RDMA_HOLD_NS : NP_RDMA_TICK_NS);
  if (np_timer_is_set(&r->tick) && !r->held) return;
  np_timer_set(r->env.wheel, &r->tick, NP_TIMER_RDMA, due);
}

static void look_after(struct np_rdma *r, struct np_rdma_conn *c) {
  if (c->state != NP_RDMA_OPEN) return;
  if ((c->flags & NP_RF_HELD) && r->now_ns >= c->hold_until_ns) {
    c->flags &= ~NP_RF_HELD;
    c->flags |= NP_RF_HOLD_DUE;
    np_rdma_dirty(r, c);
  }
  if ((c->flags & NP_RF_DETACHED) && r->now_ns >= c->linger_ns) np_rdma_fail(r, c, NP_ERR_TIMEDOUT);
  uint64_t limit_ns = (uint64_t)c->user_timeout_ms * UINT64_C(1000000);
  if (limit_ns != 0 && c->sq_head != c->sq_tail && r->now_ns - c->progress_ns >= limit_ns) np_rdma_fail(r, c, NP_ERR_TIMEDOUT);
  uint64_t idle_ns = (uint64_t)c->keepalive_ms * UINT64_C(1000000);
  if (idle_ns == 0 || r->now_ns - c->last_rx_ns < idle_ns || r->now_ns - c->last_tx_ns < idle_ns) return;
  np_rdma_ask(r, c);
}

static void on_tick(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_rdma *r = ctx;
  (void)timer;
  r->now_ns = now_ns;
  r->held = false;
  if (r->conn_count == 0) return;
  for (uint32_t i = 0; i < r->config.base.conns_max; i++) {
    look_after(r, &r->conn[i]);
    r->held |= (r->conn[i].flags & NP_RF_HELD) != 0;
  }
  np_rdma_tick_arm(r);
}

/* ---- what the core asks ---- */

static struct np_stream *carrier_stream(struct np_carrier *carrier, uint64_t handle) {
  struct np_rdma *r = of(carrier);
  uint32_t slot = ((uint32_t)handle & ((1u << NP_HANDLE_SLOT_BITS) - 1)) - r->config.base.slot_base;
  if (slot >= r->config.base.conns_max) return NULL;
  struct np_rdma_conn *c = &r->conn[slot];
  return c->state == NP_RDMA_OPEN && c->stream.handle == handle ? &c->stream : NULL;
}

/* Of TCP's settings those that mean something here. */
static enum np_err carrier_set(struct np_carrier *carrier, uint64_t handle, uint32_t what, uint32_t value) {
  struct np_stream *s = carrier_stream(carrier, handle);
  if (s == NULL) return NP_ERR_STALE;
  struct np_rdma_conn *c = np_rdma_of(s);
  switch (what) {
    case NP_CONN_SET_KEEPALIVE: c->keepalive_ms = value; return NP_ERR_OK;
    case NP_CONN_SET_USER_TIMEOUT:
      c->user_timeout_ms = value;
      c->progress_ns = of(carrier)->now_ns;
      return NP_ERR_OK;
    case NP_CONN_SET_NAGLE: return value == 0 ? NP_ERR_OK : NP_ERR_UNSUPPORTED; /* what a turn queued leaves with it */
    default: return NP_ERR_UNSUPPORTED;
  }
}

static uint32_t carrier_connections(struct np_carrier *carrier, uint32_t *cursor, struct np_conn_info *out, uint32_t max) {
  struct np_rdma *r = of(carrier);
  uint32_t n = 0;
  uint32_t i = *cursor;
  for (; i < r->config.base.conns_max && n < max; i++) {
    struct np_rdma_conn *c = &r->conn[i];
    if (c->state == NP_RDMA_OPEN) np_rdma_stream_ops.info(&c->stream, &out[n++]);
  }
  *cursor = i < r->config.base.conns_max ? i : 0;
  return n;
}

static void carrier_abort_all(struct np_carrier *carrier, uint64_t now_ns) {
  struct np_rdma *r = of(carrier);
  r->now_ns = now_ns;
  for (uint32_t i = 0; i < r->config.base.conns_max; i++) {
    struct np_rdma_conn *c = &r->conn[i];
    if (c->state != NP_RDMA_SETUP && c->state != NP_RDMA_OPEN) continue;
    np_rdma_fail(r, c, NP_ERR_ABORTED);
    np_rdma_tell_closed(c);
  }
}

/* The control side ended every queue pair before: no device touches a buffer. */
static void carrier_fini(struct np_carrier *carrier) {
  struct np_rdma *r = of(carrier);
  for (uint32_t i = 0; i < r->config.base.conns_max; i++) {
    if (r->conn[i].state != NP_RDMA_FREE) np_rdma_release(r, i, r->now_ns);
  }
  np_timer_cancel(r->env.wheel, &r->tick);
  if (r->epoll_fd >= 0) close(r->epoll_fd);
  r->epoll_fd = -1;
}

static const struct np_carrier_ops carrier_ops = {
    .name = "rdma",
    .listen = carrier_listen,
    .unlisten = carrier_unlisten,
    .connect = carrier_connect,
    .poll = carrier_poll,
    .flush = carrier_flush,
    .busy = carrier_busy,
    .fd = carrier_fd,
    .stream = carrier_stream,
    .set = carrier_set,
    .connections = carrier_connections,
    .abort_all = carrier_abort_all,
    .fini = carrier_fini,
};

enum np_err np_rdma_init(void *mem, const struct np_rdma_config *config, const struct np_carrier_env *env,
                         uint64_t now_ns, struct np_rdma **out) {
  const struct np_carrier_config *b = &config->base;
  if (b->conns_max == 0 || b->conns_max > NP_RDMA_CONNS_MAX) return NP_ERR_INVALID;
  if (b->slot_base > (1u << NP_HANDLE_SLOT_BITS) - b->conns_max) return NP_ERR_INVALID;
  if (b->rcv_buf_bytes < NP_LINK_RING_BYTES_MIN || b->rcv_buf_bytes > NP_LINK_RING_BYTES_MAX) return NP_ERR_INVALID;
  struct np_rdma *r = mem;
  memset(r, 0, sizeof *r);
  r->carrier = (struct np_carrier){.ops = &carrier_ops, .slot_base = b->slot_base, .slot_count = b->conns_max};
  r->env = *env;
  r->config = *config;
  r->now_ns = now_ns;
  r->dirty_head = r->dirty_tail = NP_RDMA_NIL;
  r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (r->epoll_fd < 0) return NP_ERR_SYS;
  for (uint32_t i = 0; i < b->conns_max; i++) {
    struct np_rdma_conn *c = &r->conn[i];
    memset(c, 0, sizeof *c);
    c->slot = i;
    c->generation = 1;
  }
  np_wheel_handle(env->wheel, NP_TIMER_RDMA, on_tick, r);
  *out = r;
  return NP_ERR_OK;
}

struct np_carrier *np_rdma_carrier(struct np_rdma *r) { return &r->carrier; }

/* ---- what the control side hands over ---- */

enum np_err np_rdma_add_cq(struct np_rdma *r, const struct np_rdma_cq_args *args) {
  if (r->cq_count == NP_RDMA_CQS_MAX) return NP_ERR_FULL;
  if (args->channel_new) {
    if (r->channel_count == NP_RDMA_DEVICES_MAX) return NP_ERR_FULL;
    struct epoll_event ev = {.events = EPOLLIN};
    if (args->channel_fd >= 0 && epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, args->channel_fd, &ev) != 0) return NP_ERR_SYS;
    r->channel[r->channel_count++] = (struct np_rdma_channel){.ops = args->ops, .channel = args->channel, .fd = args->channel_fd};
  }
  r->cq[r->cq_count++] = (struct np_rdma_cq){.ops = args->ops, .cq = args->cq, .channel = args->channel};
  return NP_ERR_OK;
}

void np_rdma_drop_channel(struct np_rdma *r, const void *channel) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < r->cq_count; i++) {
    if (r->cq[i].channel != channel) r->cq[kept++] = r->cq[i];
  }
  r->cq_count = kept;
  kept = 0;
  for (uint32_t i = 0; i < r->channel_count; i++) {
    struct np_rdma_channel *c = &r->channel[i];
    if (c->channel != channel) {
      r->channel[kept++] = *c;
    } else if (c->fd >= 0) {
      (void)epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL); /* it was added */
    }
  }
  r->channel_count = kept;
}

enum np_err np_rdma_attach(struct np_rdma *r, uint32_t slot, const struct np_rdma_conn_args *args, uint64_t now_ns,
                           uint64_t *out_handle) {
  if (slot >= r->config.base.conns_max || r->conn[slot].state != NP_RDMA_FREE) return NP_ERR_STATE;
  struct np_rdma_conn *c = &r->conn[slot];
  uint32_t generation = c->generation;
  uint32_t dirty = c->flags & NP_RF_DIRTY;
  uint32_t dirty_next = c->dirty_next;
  *c = (struct np_rdma_conn){
      .ops = args->ops,
      .qp = args->qp,
      .ring = args->ring,
      .pool_lkey = args->pool_lkey,
      .sge_max = np_max_u32(np_min_u32(args->sge_max, NP_RV_SGE_MAX), 1),
      .inline_bytes = args->inline_bytes,
      .slot = slot,
      .generation = generation,
      .listener = NP_RDMA_NIL,
      .flags = dirty | (args->outgoing ? NP_RF_OUTGOING : 0),
      .dirty_next = dirty_next,
      .state = NP_RDMA_SETUP,
      .keepalive_ms = r->config.keepalive_ms,
      .created_ns = now_ns,
      .last_rx_ns = now_ns,
      .last_tx_ns = now_ns,
      .local_port = args->local_port,
      .remote_port = args->remote_port,
  };
  memcpy(c->local, args->local, sizeof c->local);
  memcpy(c->remote, args->remote, sizeof c->remote);
  np_link_init(&c->link, r->config.base.rcv_buf_bytes, NP_RDMA_DEPTH);
  c->stream.ops = &np_rdma_stream_ops;
  c->stream.own[0] = (uint16_t)slot;
  c->stream.seg_bytes = r->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  c->stream.handle = (uint64_t)generation << 32 | (uint64_t)r->config.base.core_index << NP_HANDLE_SLOT_BITS |
                     (r->config.base.slot_base + slot);
  r->conn_count++;
  r->env.counters->counter[NP_C_RDMA_CONNS] = r->conn_count;
  r->now_ns = np_max_u64(r->now_ns, now_ns);
  np_rdma_tick_arm(r);
  *out_handle = c->stream.handle;
  return NP_ERR_OK;
}

static struct np_rdma_conn *attached(struct np_rdma *r, uint32_t slot) {
  if (slot >= r->config.base.conns_max) return NULL;
  struct np_rdma_conn *c = &r->conn[slot];
  return c->state == NP_RDMA_SETUP || c->state == NP_RDMA_OPEN ? c : NULL;
}

enum np_err np_rdma_peer(struct np_rdma *r, uint32_t slot, const struct np_hello *peer) {
  struct np_rdma_conn *c = attached(r, slot);
  if (c == NULL) return NP_ERR_STALE;
  np_assert((c->flags & NP_RF_PEER) == 0);
  np_link_peer(&c->link, peer);
  c->peer_addr = peer->addr;
  c->peer_rkey = peer->rkey;
  c->flags |= NP_RF_PEER;
  np_rdma_dirty(r, c);
  return NP_ERR_OK;
}

enum np_err np_rdma_adopt(struct np_rdma *r, uint32_t slot, uint64_t handle) {
  struct np_rdma_conn *c = attached(r, slot);
  if (c == NULL || c->state != NP_RDMA_SETUP) return NP_ERR_STALE;
  for (uint32_t i = 0; i < NP_RDMA_LISTENERS_MAX; i++) {
    struct np_rdma_listener *l = &r->listener[i];
    if (handle == 0 || l->handle != handle) continue;
    if (l->conns_max != 0 && l->conns >= l->conns_max) return NP_ERR_LIMIT;
    l->conns++;
    c->listener = i;
    c->state = NP_RDMA_OPEN;
    c->flags |= NP_RF_EV_ACCEPT;
    np_rdma_dirty(r, c);
    return NP_ERR_OK;
  }
  return NP_ERR_NOTFOUND;
}

void np_rdma_gone(struct np_rdma *r, uint32_t slot, enum np_err err) {
  struct np_rdma_conn *c = attached(r, slot);
  if (c == NULL || (c->flags & NP_RF_GONE)) return;
  c->flags |= NP_RF_GONE;
  c->gone_err = (uint8_t)err;
  r->dry = false; /* what came since the last poll came before this */
  np_rdma_dirty(r, c);
}

void np_rdma_release(struct np_rdma *r, uint32_t slot, uint64_t now_ns) {
  if (slot >= r->config.base.conns_max || r->conn[slot].state == NP_RDMA_FREE) return;
  struct np_rdma_conn *c = &r->conn[slot];
  r->now_ns = np_max_u64(r->now_ns, now_ns);
  if (c->state != NP_RDMA_CLOSED) {
    np_rdma_fail(r, c, NP_ERR_ABORTED);
    np_rdma_tell_closed(c);
  }
  np_rdma_sq_drop(r, c, NP_ERR_ABORTED);
  if (c->listener != NP_RDMA_NIL) {
    r->listener[c->listener].conns--;
    listener_maybe_free(&r->listener[c->listener]);
  }
  c->state = NP_RDMA_FREE;
  c->generation = c->generation % GENERATION_MASK + 1; /* never 0, never above what wr_id holds */
  c->qp = NULL;
  c->ring = NULL;
  __atomic_store_n(&c->retired, 0, __ATOMIC_RELAXED);
  r->conn_count--;
  r->env.counters->counter[NP_C_RDMA_CONNS] = r->conn_count;
}

bool np_rdma_retired_take(struct np_rdma *r, uint32_t slot) {
  if (slot >= r->config.base.conns_max) return false;
  uint32_t one = 1;
  /* acquire pairs with the release in retire; 2: taken, so that nobody takes it twice */
  return __atomic_compare_exchange_n(&r->conn[slot].retired, &one, 2, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* ---- one-sided operations ---- */

static uint32_t op_free(struct np_rdma *r) {
  for (uint32_t i = 0; i < NP_RDMA_OPS_MAX; i++) {
    if (__atomic_load_n(&r->op[i].state, __ATOMIC_ACQUIRE) == NP_RDMA_OP_FREE) return i;
  }
  return NP_RDMA_NIL;
}

enum np_err np_rdma_op(struct np_rdma *r, const struct np_rdma_op_args *args, uint32_t *out_op) {
  struct np_rdma_conn *c = attached(r, args->slot);
  if (c == NULL) return NP_ERR_STALE;
  if ((c->flags & NP_RF_PEER) == 0 || c->link.fin_sent) return NP_ERR_STATE;
  uint32_t op = op_free(r);
  if (op == NP_RDMA_NIL || np_rdma_sq_room(c) < NP_RDMA_SQ_DEPTH / 4) return NP_ERR_FULL; /* the rest is for messages */
  struct np_rv_post post = {
      .wr_id = np_rdma_sq_take(c, NULL, 0, op),
      .remote_addr = args->remote_addr,
      .rkey = args->rkey,
      .sge_count = 1,
      .op = args->is_read ? NP_RV_READ : NP_RV_WRITE,
      .signaled = true,
      .sge = {{.addr = args->local_addr, .bytes = args->bytes, .lkey = args->lkey}},
  };
  r->op[op].err = NP_ERR_OK;
  __atomic_store_n(&r->op[op].state, NP_RDMA_OP_BUSY, __ATOMIC_RELAXED);
  *out_op = op;
  c->sq_signaled = c->sq_tail;
  if (c->ops->post(c->qp, &post, 1) != 1) np_rdma_fail(r, c, NP_ERR_SYS);
  return NP_ERR_OK;
}

void np_rdma_op_end(struct np_rdma *r, uint32_t op, enum np_err err) {
  r->op[op].err = (uint32_t)err;
  __atomic_store_n(&r->op[op].state, NP_RDMA_OP_DONE, __ATOMIC_RELEASE); /* pairs with np_rdma_op_take */
  np_rdma_notify(r);
}

bool np_rdma_op_take(struct np_rdma *r, uint32_t op, enum np_err *err) {
  if (op >= NP_RDMA_OPS_MAX || __atomic_load_n(&r->op[op].state, __ATOMIC_ACQUIRE) != NP_RDMA_OP_DONE) return false;
  *err = (enum np_err)r->op[op].err;
  __atomic_store_n(&r->op[op].state, NP_RDMA_OP_FREE, __ATOMIC_RELEASE);
  return true;
}
