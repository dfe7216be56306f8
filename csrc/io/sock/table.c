/* Connections and listeners of kernel sockets: their tables, beginnings and ends. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/sock/internal.h"

size_t np_sock_conns_bytes(const struct np_carrier_config *config) {
  return (size_t)config->conns_max * sizeof(struct np_sock_conn);
}

static void on_tick(void *ctx, struct np_timer *timer, uint64_t now_ns);

void np_sock_init(struct np_sock *s, const struct np_sock_engine *engine, const struct np_carrier_ops *ops,
                  enum np_carrier_kind kind, void *conn, const struct np_carrier_config *config,
                  const struct np_carrier_env *env, uint64_t now_ns) {
  memset(s, 0, sizeof *s);
  s->base = (struct np_carrier){.ops = ops, .slot_base = config->slot_base, .slot_count = config->conns_max};
  s->engine = engine;
  s->env = *env;
  s->config = *config;
  s->conn = conn;
  s->kind = (uint8_t)kind;
  s->now_ns = now_ns;
  s->dirty_head = s->dirty_tail = s->linger_head = s->linger_tail = NP_SOCK_NIL;
  s->free_head = NP_SOCK_NIL;
  /* Bytes are bound by rcv_buf_bytes; small pieces must not hold many times that in buffers. */
  s->rx_pieces_max = np_max_u32(4u * (config->rcv_buf_bytes / env->pool->chunk_bytes), 2u * NP_SOCK_PIECES);
  memset(conn, 0, np_sock_conns_bytes(config));
  for (uint32_t i = config->conns_max; i > 0; i--) {
    s->conn[i - 1].sock = s;
    s->conn[i - 1].fd = -1;
    s->conn[i - 1].free_next = s->free_head;
    s->free_head = i - 1;
  }
  for (uint32_t i = 0; i < NP_SOCK_LISTENERS_MAX; i++) s->listener[i].fd = -1;
  np_wheel_handle(env->wheel, NP_TIMER_SOCK, on_tick, NULL);
}

/* ---- lists ---- */

void np_sock_dirty(struct np_sock *s, struct np_sock_conn *c) {
  if (c->flags & NP_SK_DIRTY) return;
  c->flags |= NP_SK_DIRTY;
  c->dirty_next = NP_SOCK_NIL;
  uint32_t slot = np_sock_slot(s, c);
  if (s->dirty_tail == NP_SOCK_NIL) {
    s->dirty_head = slot;
  } else {
    s->conn[s->dirty_tail].dirty_next = slot;
  }
  s->dirty_tail = slot;
  s->dirty_count++;
}

void np_sock_list_init(struct np_sock_list *list) { *list = (struct np_sock_list){.head = NP_SOCK_NIL, .tail = NP_SOCK_NIL}; }

void np_sock_list_add(struct np_sock *s, struct np_sock_list *list, struct np_sock_conn *c) {
  if (c->flags & NP_SK_LISTED) return;
  c->flags |= NP_SK_LISTED;
  c->rx_next = NP_SOCK_NIL;
  uint32_t slot = np_sock_slot(s, c);
  if (list->tail == NP_SOCK_NIL) {
    list->head = slot;
  } else {
    s->conn[list->tail].rx_next = slot;
  }
  list->tail = slot;
  list->count++;
}

struct np_sock_conn *np_sock_list_pop(struct np_sock *s, struct np_sock_list *list) {
  struct np_sock_conn *c = &s->conn[list->head];
  list->head = c->rx_next;
  if (list->head == NP_SOCK_NIL) list->tail = NP_SOCK_NIL;
  list->count--;
  c->flags &= ~NP_SK_LISTED;
  return c;
}

void np_sock_list_del(struct np_sock *s, struct np_sock_list *list, struct np_sock_conn *c) {
  if (!(c->flags & NP_SK_LISTED)) return;
  uint32_t slot = np_sock_slot(s, c);
  uint32_t prev = NP_SOCK_NIL;
  uint32_t at = list->head;
  while (at != slot) { /* bound: conns_max; few wait at a time */
    prev = at;
    at = s->conn[at].rx_next;
  }
  if (prev == NP_SOCK_NIL) {
    list->head = c->rx_next;
  } else {
    s->conn[prev].rx_next = c->rx_next;
  }
  if (list->tail == slot) list->tail = prev;
  list->count--;
  c->flags &= ~NP_SK_LISTED;
}

void np_sock_linger(struct np_sock *s, struct np_sock_conn *c) {
  if (c->flags & NP_SK_LINGER) return;
  c->flags |= NP_SK_LINGER;
  c->linger_ns = s->now_ns + NP_SOCK_LINGER_NS;
  c->linger_next = NP_SOCK_NIL;
  c->linger_prev = s->linger_tail;
  uint32_t slot = np_sock_slot(s, c);
  if (s->linger_tail == NP_SOCK_NIL) {
    s->linger_head = slot;
  } else {
    s->conn[s->linger_tail].linger_next = slot;
  }
  s->linger_tail = slot;
  np_sock_need_tick(s);
}

static void unlinger(struct np_sock *s, struct np_sock_conn *c) {
  if (!(c->flags & NP_SK_LINGER)) return;
  c->flags &= ~NP_SK_LINGER;
  if (c->linger_prev == NP_SOCK_NIL) {
    s->linger_head = c->linger_next;
  } else {
    s->conn[c->linger_prev].linger_next = c->linger_next;
  }
  if (c->linger_next == NP_SOCK_NIL) {
    s->linger_tail = c->linger_prev;
  } else {
    s->conn[c->linger_next].linger_prev = c->linger_prev;
  }
}

/* ---- the tick: what no descriptor announces ---- */

void np_sock_need_tick(struct np_sock *s) {
  if (np_timer_is_set(&s->tick)) return;
  np_timer_set(s->env.wheel, &s->tick, NP_TIMER_SOCK, s->now_ns + NP_SOCK_TICK_NS);
}

static void on_tick(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  (void)ctx; /* epoll and io_uring share the kind */
  struct np_sock *s = NP_CONTAINER_OF(timer, struct np_sock, tick);
  s->now_ns = now_ns;
  /* bound: conns_max */
  while (s->linger_head != NP_SOCK_NIL && s->conn[s->linger_head].linger_ns <= now_ns) {
    struct np_sock_conn *c = &s->conn[s->linger_head];
    unlinger(s, c);
    c->flags |= NP_SK_RESET;
    np_sock_end(s, c, NP_ERR_TIMEDOUT);
  }
  for (uint32_t i = 0; i < NP_SOCK_LISTENERS_MAX; i++) {
    struct np_sock_listener *l = &s->listener[i];
    if (l->fd < 0 || !l->paused) continue;
    if (l->resume_ns > now_ns) {
      np_sock_need_tick(s);
      continue;
    }
    l->paused = false;
    s->engine->pause(s, l, false);
  }
  s->starved = false;
  s->engine->tick(s);
  if (s->linger_head != NP_SOCK_NIL) np_sock_need_tick(s);
}

/* ---- connections ---- */

static uint64_t handle_of(const struct np_sock *s, const struct np_sock_conn *c) {
  return (uint64_t)c->generation << 32 | (uint64_t)s->config.core_index << NP_HANDLE_SLOT_BITS |
         (s->config.slot_base + np_sock_slot(s, c));
}

/* A slot with everything but its engine's part. NULL: none is free. */
static struct np_sock_conn *conn_new(struct np_sock *s, int fd) {
  if (s->free_head == NP_SOCK_NIL) return NULL;
  struct np_sock_conn *c = &s->conn[s->free_head];
  s->free_head = c->free_next;
  uint32_t generation = c->generation + 1;
  if (generation == 0) generation = 1; /* handle 0 is never one */
  *c = (struct np_sock_conn){
      .sock = s,
      .fd = fd,
      .generation = generation,
      .state = NP_SOCK_OPEN,
      .rx_pieces = 1,
      .listener = NP_SOCK_NIL,
      .dirty_next = NP_SOCK_NIL,
      .rx_next = NP_SOCK_NIL,
      .created_ns = s->now_ns,
      .last_rx_ns = s->now_ns,
  };
  c->stream.ops = &np_sock_stream_ops;
  c->stream.handle = handle_of(s, c);
  c->stream.seg_bytes = s->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  s->conn_count++;
  s->env.counters->counter[NP_C_SOCK_CONNS]++;
  return c;
}

static void conn_free(struct np_sock *s, struct np_sock_conn *c) {
  np_assert(c->fd < 0);
  c->state = NP_SOCK_FREE;
  c->free_next = s->free_head;
  s->free_head = np_sock_slot(s, c);
  s->conn_count--;
  s->env.counters->counter[NP_C_SOCK_CONNS]--;
}

/* The peer of a TCP connection gets a RST; a Unix socket knows none, its peer reads the end. */
static void close_with_reset(int fd) {
  struct linger now = {.l_onoff = 1};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(fd);
}

void np_sock_close_fd(struct np_sock_conn *c) {
  if (c->fd < 0) return;
  if (c->flags & NP_SK_RESET) {
    close_with_reset(c->fd);
  } else {
    close(c->fd);
  }
  c->fd = -1;
}

void np_sock_gone(struct np_sock *s, struct np_sock_conn *c) {
  np_assert(c->state == NP_SOCK_ENDING);
  np_assert(c->stream.session == NULL);
  np_sock_close_fd(c);
  unlinger(s, c);
  np_buf_put_chain(c->sndq_head);
  np_buf_put_chain(c->rcvq_head);
  c->sndq_head = c->sndq_tail = c->rcvq_head = c->rcvq_tail = NULL;
  if (c->listener != NP_SOCK_NIL) s->listener[c->listener].conns--;
  conn_free(s, c);
}

void np_sock_end(struct np_sock *s, struct np_sock_conn *c, enum np_err err) {
  if (c->state == NP_SOCK_ENDING || c->state == NP_SOCK_FREE) return;
  if (c->state == NP_SOCK_CONNECTING) np_sock_count(s, NP_C_SOCK_CONNECT_FAILED, 1);
  if (err == NP_ERR_RESET) np_sock_count(s, NP_C_SOCK_RESETS, 1);
  c->state = NP_SOCK_ENDING;
  c->err = (uint16_t)err;
  c->flags |= NP_SK_EV_CLOSED;
  c->flags &= ~(NP_SK_EV_ESTABLISHED | NP_SK_EV_WRITABLE | NP_SK_ROOM_NO);
  np_sock_dirty(s, c);
}

struct np_sock_conn *np_sock_accepted(struct np_sock *s, struct np_sock_listener *l, int fd) {
  bool full = l->args.conns_max != 0 && l->conns >= l->args.conns_max;
  struct np_sock_conn *c = full ? NULL : conn_new(s, fd);
  if (c == NULL) {
    np_sock_count(s, NP_C_SOCK_REFUSED, 1);
    close_with_reset(fd);
    return NULL;
  }
  c->listener = (uint32_t)(l - s->listener);
  c->listener_handle = l->args.handle;
  l->conns++;
  c->flags = NP_SK_EV_ACCEPT | (l->is_unix ? NP_SK_UNIX : 0u);
  if (s->engine->add(s, c) != NP_ERR_OK) {
    np_sock_count(s, NP_C_SOCK_REFUSED, 1);
    c->flags = (c->flags & NP_SK_UNIX) | NP_SK_RESET;
    c->state = NP_SOCK_ENDING;
    np_sock_gone(s, c);
    return NULL;
  }
  np_sock_dirty(s, c);
  return c;
}

bool np_sock_accept_failed(struct np_sock *s, struct np_sock_listener *l, int sys) {
  switch (sys) {
    case EAGAIN:
      return false;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      np_sock_count(s, NP_C_SOCK_ACCEPT_PAUSED, 1);
      l->paused = true;
      l->resume_ns = s->now_ns + NP_SOCK_CALM_NS;
      s->engine->pause(s, l, true);
      np_sock_need_tick(s);
      return false;
    default: /* one that its peer gave up, or an error of its network (accept(2)): the next is another's */
      return true;
  }
}

struct np_stream *np_sock_stream(struct np_carrier *base, uint64_t handle) {
  struct np_sock *s = np_sock_of(base);
  uint64_t at = (handle & ((1u << NP_HANDLE_SLOT_BITS) - 1u)) - s->config.slot_base;
  if (at >= s->config.conns_max) return NULL;
  struct np_sock_conn *c = &s->conn[at];
  return c->state != NP_SOCK_FREE && c->stream.handle == handle ? &c->stream : NULL;
}

/* ---- what core calls ---- */

static bool socket_is_unix(int fd) {
  int domain = 0;
  socklen_t len = sizeof domain;
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

enum np_err np_sock_listen(struct np_carrier *base, const struct np_carrier_listen *args, uint32_t *out) {
  struct np_sock *s = np_sock_of(base);
  for (uint32_t i = 0; i < NP_SOCK_LISTENERS_MAX; i++) {
    struct np_sock_listener *l = &s->listener[i];
    if (l->fd >= 0 || l->ops != 0) continue;
    uint32_t generation = l->generation + 1;
    *l = (struct np_sock_listener){.args = *args, .fd = args->fd, .generation = generation};
    l->is_unix = socket_is_unix(l->fd);
    int on = 1; /* accepted sockets inherit it, which saves each a call */
    if (!l->is_unix) (void)setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    enum np_err err = s->engine->listen(s, l);
    if (err != NP_ERR_OK) {
      l->fd = -1;
      return err;
    }
    s->listener_count++;
    *out = i;
    return NP_ERR_OK;
  }
  return NP_ERR_FULL;
}

enum np_err np_sock_unlisten(struct np_carrier *base, uint32_t listener) {
  struct np_sock *s = np_sock_of(base);
  if (listener >= NP_SOCK_LISTENERS_MAX || s->listener[listener].fd < 0) return NP_ERR_STALE;
  s->engine->unlisten(s, &s->listener[listener]);
  s->listener[listener].fd = -1;
  s->listener_count--;
  for (uint32_t i = 0; i < s->config.conns_max; i++) {
    if (s->conn[i].state != NP_SOCK_FREE && s->conn[i].listener == listener) s->conn[i].listener = NP_SOCK_NIL;
  }
  return NP_ERR_OK;
}

enum np_err np_sock_connect(struct np_carrier *base, int32_t fd, struct np_session *session, uint64_t now_ns,
                            struct np_stream **out) {
  struct np_sock *s = np_sock_of(base);
  s->now_ns = now_ns;
  struct np_sock_conn *c = conn_new(s, fd);
  if (c == NULL) return NP_ERR_FULL;
  c->state = NP_SOCK_CONNECTING;
  c->flags = NP_SK_OUTGOING;
  int on = 1;
  if (socket_is_unix(fd)) {
    c->flags |= NP_SK_UNIX;
  } else {
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  enum np_err err = s->engine->add(s, c);
  if (err != NP_ERR_OK) {
    c->state = NP_SOCK_ENDING;
    c->fd = -1; /* the caller's, as before */
    np_sock_gone(s, c);
    return err;
  }
  c->stream.session = session;
  session->stream = &c->stream;
  *out = &c->stream;
  return NP_ERR_OK;
}

void np_sock_abort_all(struct np_sock *s) {
  for (uint32_t i = 0; i < s->config.conns_max; i++) {
    struct np_sock_conn *c = &s->conn[i];
    if (c->state == NP_SOCK_FREE || c->state == NP_SOCK_ENDING) continue;
    c->flags |= NP_SK_RESET;
    np_sock_end(s, c, NP_ERR_ABORTED);
  }
}
