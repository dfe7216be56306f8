/* The epoll engine. Connections are registered once, edge-triggered for input: a stream whose
 * session consumes nothing is just not read, which costs no call either way. Output is asked
 * for only while the kernel takes nothing: on a Unix socket every read of the peer would
 * report it. Listeners are level-triggered, so that a budget forgets nobody.
 *
 * A connection known to have input waits in a list (rx_next) for its turn to be read. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io/sock/internal.h"

#define EVENTS_PER_CALL 128u
#define READS_PER_POLL 256u
#define LISTENER_BIT (UINT64_C(1) << 31) /* of data.u64's low half */

/* engine flags of a connection */
#define RX_READY (1u << NP_SK_ENGINE_SHIFT) /* the kernel has input, as far as is known */
#define RX_HUP (2u << NP_SK_ENGINE_SHIFT)   /* its end or an error is behind the input */

struct np_epoll {
  struct np_sock sock;
  int fd;
  struct np_sock_list rx; /* those with input to be read */
  struct epoll_event ev[EVENTS_PER_CALL];
};

static struct np_epoll *epoll_of(struct np_sock *s) { return NP_CONTAINER_OF(s, struct np_epoll, sock); }

static uint64_t conn_data(const struct np_sock *s, const struct np_sock_conn *c) {
  return (uint64_t)c->generation << 32 | np_sock_slot(s, c);
}
static uint64_t listener_data(const struct np_sock *s, const struct np_sock_listener *l) {
  return (uint64_t)l->generation << 32 | LISTENER_BIT | (uint64_t)(l - s->listener);
}

static int control(struct np_epoll *e, int op, int fd, uint32_t events, uint64_t data) {
  struct epoll_event ev = {.events = events, .data.u64 = data};
  return epoll_ctl(e->fd, op, fd, &ev) == 0 ? 0 : errno;
}

#define CONN_EVENTS ((uint32_t)EPOLLIN | (uint32_t)EPOLLRDHUP | (uint32_t)EPOLLET)

/* ---- receiving ---- */

static void rx_list(struct np_epoll *e, struct np_sock_conn *c) { np_sock_list_add(&e->sock, &e->rx, c); }

/* Buffers for a read of at most *bytes. Return: how many, with their room in iov; that of all in *bytes. */
static uint32_t take_bufs(struct np_sock *s, struct np_buf **bufs, struct iovec *iov, uint32_t pieces, uint32_t *bytes) {
  uint32_t room = s->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t left = *bytes;
  uint32_t n = 0;
  for (; n < pieces && left > 0; n++) {
    struct np_buf *b = np_pool_get(s->env.pool);
    if (b == NULL) break;
    uint32_t len = np_min_u32(room, left);
    bufs[n] = b;
    iov[n] = (struct iovec){.iov_base = np_buf_data(b), .iov_len = len};
    left -= len;
  }
  *bytes -= left;
  return n;
}

/* Bytes that the read brought go into the first buffers, the others go back. Return: buffers used. */
static uint32_t use_bufs(struct np_sock *s, struct np_sock_conn *c, struct np_buf **bufs, uint32_t n, uint32_t bytes) {
  uint32_t room = s->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t used = 0;
  for (uint32_t left = bytes; left > 0; used++) { /* bound: n buffers */
    uint32_t len = np_min_u32(left, room);
    bufs[used]->len = len;
    left -= len;
    if (used > 0) bufs[used - 1]->next = bufs[used];
  }
  for (uint32_t i = n; i > used; i--) np_buf_put(bufs[i - 1]);
  if (used > 0) np_sock_received(s, c, bufs[0], bufs[used - 1], used, bytes);
  return used;
}

/* A read of a Unix socket ends behind descriptors that the peer sent along (cut); nobody here wants them. */
static ssize_t recv_unix(int fd, struct iovec *iov, uint32_t n, bool *cut) {
  struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
  ssize_t got = recvmsg(fd, &msg, 0);
  *cut = got > 0 && (msg.msg_flags & MSG_CTRUNC) != 0;
  return got;
}

/* One read. Return: bytes; 0 when there is nothing more now. */
static uint32_t read_once(struct np_sock *s, struct np_sock_conn *c, uint32_t room) {
  struct np_buf *bufs[NP_SOCK_PIECES];
  struct iovec iov[NP_SOCK_PIECES];
  uint32_t asked = room;
  uint32_t n = np_sock_pool_low(s) ? 0 : take_bufs(s, bufs, iov, c->rx_pieces, &asked);
  if (n == 0) {
    s->starved = true;
    np_sock_count(s, NP_C_SOCK_NO_BUFFER, 1);
    np_sock_need_tick(s);
    return 0;
  }
  bool cut = false;
  ssize_t got = c->flags & NP_SK_UNIX ? recv_unix(c->fd, iov, n, &cut)
                : n == 1              ? recv(c->fd, iov[0].iov_base, iov[0].iov_len, 0)
                                      : readv(c->fd, iov, (int)n);
  int sys = got < 0 ? errno : 0;
  uint32_t used = use_bufs(s, c, bufs, n, got > 0 ? (uint32_t)got : 0);
  if (got < 0) {
    if (sys == EINTR) return 0; /* still ready */
    c->flags &= ~RX_READY;
    if (sys != EAGAIN) np_sock_end(s, c, np_sock_err(sys));
    return 0;
  }
  if (got == 0) {
    c->flags &= ~RX_READY;
    np_sock_eof(s, c);
    return 0;
  }
  if ((uint32_t)got == asked) {
    c->rx_pieces = (uint8_t)np_min_u32(2u * n, NP_SOCK_PIECES);
  } else {
    /* It brought less than there was room for, so there is no more: what comes later is a new edge. */
    if (!(c->flags & RX_HUP) && !cut) c->flags &= ~RX_READY;
    if (used < n / 2u) c->rx_pieces = (uint8_t)(n / 2u);
  }
  return (uint32_t)got;
}

/* What c has, within its budget. */
static void read_conn(struct np_epoll *e, struct np_sock_conn *c) {
  struct np_sock *s = &e->sock;
  uint32_t budget = NP_SOCK_TURN_BYTES;
  /* bound: the budget; each read but the last brings at least a byte */
  while (c->state == NP_SOCK_OPEN && (c->flags & RX_READY) && budget > 0) {
    uint32_t room = np_sock_rx_room(s, c);
    if (room == 0) return;
    uint32_t got = read_once(s, c, room);
    if (got == 0) break;
    budget -= np_min_u32(budget, got);
  }
  if (c->state == NP_SOCK_OPEN && (c->flags & RX_READY)) rx_list(e, c);
}

static void read_list(struct np_epoll *e) {
  if (e->sock.starved) return;
  uint32_t n = np_min_u32(e->rx.count, READS_PER_POLL);
  for (; n > 0 && !e->sock.starved; n--) {
    struct np_sock_conn *c = np_sock_list_pop(&e->sock, &e->rx);
    if (e->rx.head != NP_SOCK_NIL) NP_PREFETCH_W(&e->sock.conn[e->rx.head]);
    read_conn(e, c);
  }
}

/* ---- events ---- */

static void on_listener(struct np_epoll *e, struct np_sock_listener *l) {
  struct np_sock *s = &e->sock;
  for (uint32_t i = 0; i < NP_SOCK_ACCEPTS; i++) {
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (!np_sock_accept_failed(s, l, errno)) return;
      continue;
    }
    struct np_sock_conn *c = np_sock_accepted(s, l, fd);
    if (c == NULL) continue;
    c->flags |= RX_READY; /* who connects usually speaks at once; if not, one read too many */
    rx_list(e, c);
  }
}

/* An outgoing connection is there, or failed. */
static void on_connecting(struct np_epoll *e, struct np_sock_conn *c) {
  int sys = 0;
  socklen_t len = sizeof sys;
  if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &sys, &len) != 0) sys = errno;
  np_sock_connected(&e->sock, c, sys);
  if (sys == 0) (void)control(e, EPOLL_CTL_MOD, c->fd, CONN_EVENTS, conn_data(&e->sock, c)); /* its input again */
}

static void on_conn(struct np_epoll *e, struct np_sock_conn *c, uint32_t events) {
  struct np_sock *s = &e->sock;
  if (c->state == NP_SOCK_CONNECTING) {
    if (events & ((uint32_t)EPOLLOUT | (uint32_t)EPOLLERR | (uint32_t)EPOLLHUP)) on_connecting(e, c);
    if (c->state != NP_SOCK_OPEN) return;
  }
  if ((events & (uint32_t)EPOLLOUT) && (c->flags & NP_SK_TX_WAIT)) {
    c->flags &= ~NP_SK_TX_WAIT;
    np_sock_dirty(s, c);
  }
  if (events & ((uint32_t)EPOLLRDHUP | (uint32_t)EPOLLHUP | (uint32_t)EPOLLERR)) c->flags |= RX_HUP;
  if (events & ((uint32_t)EPOLLIN | (uint32_t)EPOLLRDHUP | (uint32_t)EPOLLHUP | (uint32_t)EPOLLERR)) {
    c->flags |= RX_READY;
    if (!(c->flags & NP_SK_PAUSED)) {
      rx_list(e, c);
    } else if (events & (uint32_t)EPOLLERR) {
      np_sock_linger(s, c); /* what is unread may still be wanted, but not for ever */
    }
  }
}

static void on_event(struct np_epoll *e, const struct epoll_event *ev) {
  struct np_sock *s = &e->sock;
  uint32_t at = (uint32_t)ev->data.u64;
  uint32_t generation = (uint32_t)(ev->data.u64 >> 32);
  if (at & LISTENER_BIT) {
    struct np_sock_listener *l = &s->listener[at & ~(uint32_t)LISTENER_BIT];
    if (l->fd >= 0 && l->generation == generation) on_listener(e, l);
    return;
  }
  struct np_sock_conn *c = &s->conn[at];
  if (c->generation == generation && (c->state == NP_SOCK_CONNECTING || c->state == NP_SOCK_OPEN)) {
    on_conn(e, c, ev->events);
  }
}

static uint32_t epoll_poll(struct np_carrier *base, uint64_t now_ns) {
  struct np_sock *s = np_sock_of(base);
  struct np_epoll *e = epoll_of(s);
  s->now_ns = now_ns;
  if (s->conn_count == 0 && s->listener_count == 0) return 0;
  int n = epoll_wait(e->fd, e->ev, EVENTS_PER_CALL, 0); /* fails with EINTR at most */
  for (int i = 0; i < n; i++) on_event(e, &e->ev[i]);
  uint32_t found = n > 0 ? (uint32_t)n : 0;
  if (e->rx.count > 0 && !s->starved) {
    found += e->rx.count;
    read_list(e);
  }
  return found;
}

/* ---- the engine's operations ---- */

static enum np_err epoll_add(struct np_sock *s, struct np_sock_conn *c) {
  uint32_t events = CONN_EVENTS;
  if (c->state == NP_SOCK_CONNECTING) events |= (uint32_t)EPOLLOUT;
  return control(epoll_of(s), EPOLL_CTL_ADD, c->fd, events, conn_data(s, c)) == 0 ? NP_ERR_OK : NP_ERR_SYS;
}

static void epoll_resume(struct np_sock *s, struct np_sock_conn *c) {
  if (c->flags & RX_READY) rx_list(epoll_of(s), c);
}

/* The kernel's queue is full: be told when it is not. */
static void wait_for_room(struct np_sock *s, struct np_sock_conn *c) {
  c->flags |= NP_SK_TX_WAIT;
  int sys = control(epoll_of(s), EPOLL_CTL_MOD, c->fd, CONN_EVENTS | (uint32_t)EPOLLOUT, conn_data(s, c));
  if (sys != 0) np_sock_end(s, c, NP_ERR_SYS);
}

static bool epoll_tx(struct np_sock *s, struct np_sock_conn *c) {
  uint32_t budget = NP_SOCK_TURN_BYTES;
  while (c->sndq_head != NULL && budget > 0) { /* bound: the budget */
    struct iovec iov[NP_SOCK_PIECES];
    struct msghdr msg = {.msg_iov = iov};
    uint32_t bytes = 0;
    for (const struct np_buf *b = c->sndq_head; b != NULL && msg.msg_iovlen < NP_SOCK_PIECES; b = b->next) {
      iov[msg.msg_iovlen++] = (struct iovec){.iov_base = (void *)(uintptr_t)np_buf_cdata(b), .iov_len = b->len};
      bytes += b->len;
    }
    ssize_t sent = msg.msg_iovlen == 1 ? send(c->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                                       : sendmsg(c->fd, &msg, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) return true;
      if (errno == EAGAIN) {
        wait_for_room(s, c);
      } else {
        np_sock_end(s, c, np_sock_err(errno));
      }
      return false;
    }
    np_sock_sent(s, c, (uint32_t)sent);
    budget -= np_min_u32(budget, (uint32_t)sent);
    if ((uint32_t)sent < bytes) {
      wait_for_room(s, c);
      return false;
    }
  }
  return c->sndq_head != NULL;
}

/* Nothing of it is in the kernel's hands: it can go at once. */
static void epoll_drop(struct np_sock *s, struct np_sock_conn *c) {
  struct np_epoll *e = epoll_of(s);
  np_sock_list_del(s, &e->rx, c);
  np_sock_gone(s, c);
}

#define LISTEN_EVENTS ((uint32_t)EPOLLIN | (uint32_t)EPOLLEXCLUSIVE) /* a Unix listener is shared by all cores */

static enum np_err epoll_listen(struct np_sock *s, struct np_sock_listener *l) {
  return control(epoll_of(s), EPOLL_CTL_ADD, l->fd, LISTEN_EVENTS, listener_data(s, l)) == 0 ? NP_ERR_OK : NP_ERR_SYS;
}

static void epoll_unlisten(struct np_sock *s, struct np_sock_listener *l) {
  (void)control(epoll_of(s), EPOLL_CTL_DEL, l->fd, 0, 0); /* not there while paused */
  close(l->fd);
}

static void epoll_pause(struct np_sock *s, struct np_sock_listener *l, bool on) {
  if (on) {
    (void)control(epoll_of(s), EPOLL_CTL_DEL, l->fd, 0, 0);
  } else if (epoll_listen(s, l) != NP_ERR_OK) { /* no memory: later */
    l->paused = true;
    l->resume_ns = s->now_ns + NP_SOCK_CALM_NS;
    np_sock_need_tick(s);
  }
}

static void epoll_tick(struct np_sock *s) {
  for (uint32_t i = 0; s->crowded && i < s->config.conns_max; i++) {
    struct np_sock_conn *c = &s->conn[i];
    if (c->state != NP_SOCK_OPEN || !(c->flags & NP_SK_CROWDED)) continue;
    c->flags &= ~NP_SK_PAUSED; /* CROWDED stays: one read is allowed */
    epoll_resume(s, c);
  }
  s->crowded = false;
}

static const struct np_sock_engine engine = {
    .add = epoll_add,
    .resume = epoll_resume,
    .tx = epoll_tx,
    .drop = epoll_drop,
    .listen = epoll_listen,
    .unlisten = epoll_unlisten,
    .pause = epoll_pause,
    .tick = epoll_tick,
};

/* ---- the carrier's operations ---- */

static bool epoll_busy(struct np_carrier *base) {
  struct np_sock *s = np_sock_of(base);
  return s->dirty_count > 0 || (epoll_of(s)->rx.count > 0 && !s->starved);
}

/* Without sockets there is nothing to wait for, and each descriptor makes falling asleep dearer. */
static int epoll_fd(struct np_carrier *base) {
  struct np_sock *s = np_sock_of(base);
  return s->conn_count == 0 && s->listener_count == 0 ? -1 : epoll_of(s)->fd;
}

static void epoll_abort_all(struct np_carrier *base, uint64_t now_ns) {
  struct np_sock *s = np_sock_of(base);
  s->now_ns = now_ns;
  np_sock_abort_all(s);
  while (np_sock_flush(base, now_ns)) continue; /* bound: each flush ends connections, and none begins */
}

static void epoll_fini(struct np_carrier *base) {
  struct np_sock *s = np_sock_of(base);
  epoll_abort_all(base, s->now_ns);
  for (uint32_t i = 0; i < NP_SOCK_LISTENERS_MAX; i++) {
    if (s->listener[i].fd >= 0) (void)np_sock_unlisten(base, i);
  }
  np_timer_cancel(s->env.wheel, &s->tick);
  close(epoll_of(s)->fd);
}

static const struct np_carrier_ops ops = {
    .name = "epoll",
    .listen = np_sock_listen,
    .unlisten = np_sock_unlisten,
    .connect = np_sock_connect,
    .poll = epoll_poll,
    .flush = np_sock_flush,
    .busy = epoll_busy,
    .fd = epoll_fd,
    .stream = np_sock_stream,
    .connections = np_sock_connections,
    .set = np_sock_set,
    .abort_all = epoll_abort_all,
    .fini = epoll_fini,
};

static size_t head_bytes(void) {
  return (sizeof(struct np_epoll) + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
}

size_t np_epoll_bytes(const struct np_carrier_config *config) { return head_bytes() + np_sock_conns_bytes(config); }

enum np_err np_epoll_init(void *mem, const struct np_carrier_config *config, const struct np_carrier_env *env,
                          uint64_t now_ns, struct np_carrier **out, int *sys) {
  struct np_epoll *e = mem;
  memset(e, 0, sizeof *e);
  np_sock_init(&e->sock, &engine, &ops, NP_CARRIER_EPOLL, (uint8_t *)mem + head_bytes(), config, env, now_ns);
  np_sock_list_init(&e->rx);
  e->fd = epoll_create1(EPOLL_CLOEXEC);
  if (e->fd < 0) {
    *sys = errno;
    return NP_ERR_SYS;
  }
  *out = &e->sock.base;
  return NP_ERR_OK;
}
