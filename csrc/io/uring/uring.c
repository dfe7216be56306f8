/* The io_uring engine. Of each connection the kernel has at most one request to receive and one to
 * send; ops counts them and the cancellations, and a slot is free only when there is none left, so
 * that no report meets a slot's next owner and no buffer is given back while the kernel may use it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "io/sock/internal.h"
#include "io/uring/ring.h"
#include "io/uring/uring.h"

#define SQ_ENTRIES 1024u
#define CQ_ENTRIES 4096u
#define REAPS_PER_POLL 2048u
#define BUFS_MAX 1024u          /* given to the ring */
#define BUF_GROUP 0u
#define DRAIN_CALLS 10000u      /* at the end: waits for what the kernel still works on, */
#define DRAIN_QUICK 64u         /* after so many for a millisecond each: one of its workers may have it, and no CPU */

/* engine flags of a connection */
#define RX_ARMED (1u << NP_SK_ENGINE_SHIFT)   /* a request to receive is out */
#define RX_CANCEL (2u << NP_SK_ENGINE_SHIFT)  /* and is being cancelled */
#define DROPPED (4u << NP_SK_ENGINE_SHIFT)    /* gone as soon as ops is 0 */
#define RX_BULK (8u << NP_SK_ENGINE_SHIFT)    /* comes in lots: one request for many buffers */

/* A request that goes on costs nothing per message, but each completion brings one buffer, and none can
 * be held to a length. Who fills so many buffers in a row is asked for lots instead, as everybody is at first;
 * who brings less than two buffers so often is not. (rx_pieces counts.) */
#define BULK_ENTER 16u
#define BULK_LEAVE 4u
#define BULK_BYTES (128u << 10)
/* Such a request is taken back, or not made, where its stream has room for fewer buffers than this: the
 * kernel fills 32 in one go, and may do so twice before it hears of it. */
#define MULTISHOT_PIECES 72u

#define CANCELS engine[0] /* of a connection: its cancellations that are out; ops counts them too */

/* user_data: what, which, and its generation */
enum what { ON_ACCEPT, ON_RECV, ON_SEND, ON_CONNECT, ON_CANCEL, ON_LISTEN_CANCEL };
static uint64_t tag_of(enum what what, uint32_t generation, uint32_t index) {
  return (uint64_t)what << 56 | (uint64_t)(generation & 0xffffffu) << 32 | index;
}

struct tx_scratch { /* stable until the kernel has taken the entry it belongs to */
  struct msghdr msg;
  struct iovec iov[NP_SOCK_PIECES];
};

struct np_uring {
  struct np_sock sock;
  struct np_uq q;
  struct tx_scratch *tx; /* one for each submission entry */
  struct np_buf **buf;   /* by place in the buffer ring; NULL: none is there */
  struct io_uring_buf_ring *ring;
  size_t ring_bytes;
  uint32_t ring_mask;
  uint16_t ring_tail;
  bool multishot_recv;
  bool multishot_accept;
  bool bundle;
  uint32_t multishot_bytes; /* room that a request which goes on needs */
  bool thirsty;          /* some request ended for want of a buffer */
  uint32_t holding;      /* connections whose request is being taken back */
  uint32_t inflight;     /* requests of all */
  int wake_fd;           /* what the core sleeps on; -1: it does not */
  bool asleep;           /* or was: completions are announced */
  struct np_sock_list dry; /* connections to be received from when there are buffers */
};

static struct np_uring *uring_of(struct np_sock *s) { return NP_CONTAINER_OF(s, struct np_uring, sock); }

/* ---- buffers for receiving ---- */

/* Fills the ring's empty places from the pool. Return: buffers added. */
static uint32_t refill(struct np_uring *u) {
  struct np_sock *s = &u->sock;
  uint32_t room = s->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t added = 0;
  while (u->buf[u->ring_tail & u->ring_mask] == NULL && !np_sock_pool_low(s)) { /* bound: the ring's places */
    struct np_buf *b = np_pool_get(s->env.pool);
    if (b == NULL) break;
    uint32_t at = u->ring_tail & u->ring_mask;
    u->buf[at] = b;
    struct io_uring_buf *slot = &u->ring->bufs[at];
    slot->addr = (uint64_t)(uintptr_t)np_buf_data(b); /* not its last field, which in the first is the ring's tail */
    slot->len = room;
    slot->bid = (uint16_t)at;
    u->ring_tail++;
    added++;
  }
  if (added == 0) return 0;
  s->base.posted_count += added;
  __atomic_store_n(&u->ring->tail, u->ring_tail, __ATOMIC_RELEASE); /* pairs with the kernel's acquire */
  return added;
}

/* ---- requests ---- */

static struct io_uring_sqe *request(struct np_uring *u, struct np_sock_conn *c, uint8_t op, enum what what) {
  struct io_uring_sqe *sqe = np_uq_sqe(&u->q);
  if (sqe == NULL) return NULL;
  sqe->opcode = op;
  sqe->fd = c->fd;
  sqe->user_data = tag_of(what, c->generation, np_sock_slot(&u->sock, c));
  c->ops++;
  u->inflight++;
  return sqe;
}

/* Asks for c's input, unless its session is behind or the ring is empty. */
static void arm_recv(struct np_uring *u, struct np_sock_conn *c) {
  if (c->state != NP_SOCK_OPEN || (c->flags & (RX_ARMED | NP_SK_EOF))) return;
  uint32_t room = np_sock_rx_room(&u->sock, c);
  if (room == 0) return;
  struct io_uring_sqe *sqe = u->sock.base.posted_count == 0 ? NULL : request(u, c, IORING_OP_RECV, ON_RECV);
  if (sqe == NULL) {
    np_sock_list_add(&u->sock, &u->dry, c);
    u->thirsty = true;
    np_sock_need_tick(&u->sock);
    return;
  }
  sqe->flags = IOSQE_BUFFER_SELECT;
  sqe->buf_group = BUF_GROUP;
  if (c->flags & RX_BULK) {
    sqe->ioprio = IORING_RECVSEND_BUNDLE;
    sqe->len = np_min_u32(room, BULK_BYTES);
  } else if (u->multishot_recv && room >= u->multishot_bytes) {
    sqe->ioprio = IORING_RECV_MULTISHOT;
  } else {
    sqe->len = room;
  }
  c->flags |= RX_ARMED;
}

static struct io_uring_sqe *cancellation(struct np_uring *u, struct np_sock_conn *c) {
  struct io_uring_sqe *sqe = request(u, c, IORING_OP_ASYNC_CANCEL, ON_CANCEL);
  if (sqe != NULL) c->CANCELS++;
  return sqe;
}

static void cancel(struct np_uring *u, struct np_sock_conn *c, enum what target) {
  struct io_uring_sqe *sqe = cancellation(u, c);
  if (sqe == NULL) return; /* the caller's state asks again */
  sqe->fd = -1;
  sqe->addr = tag_of(target, c->generation, np_sock_slot(&u->sock, c));
  if (target != ON_RECV) return;
  c->flags |= RX_CANCEL;
  u->holding++;
}

static void arm_accept(struct np_uring *u, struct np_sock_listener *l) {
  if (l->ops != 0 || l->fd < 0 || l->paused) return;
  struct io_uring_sqe *sqe = np_uq_sqe(&u->q);
  if (sqe == NULL) { /* no memory in the kernel: as without descriptors */
    (void)np_sock_accept_failed(&u->sock, l, ENOMEM);
    return;
  }
  sqe->fd = l->fd;
  if (l->is_unix) {
    /* All cores share the socket. It stays nonblocking, so that a core that comes second is not held. */
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->poll32_events = POLLIN;
  } else {
    sqe->opcode = IORING_OP_ACCEPT;
    sqe->accept_flags = SOCK_CLOEXEC;
    if (u->multishot_accept) sqe->ioprio = IORING_ACCEPT_MULTISHOT;
  }
  sqe->user_data = tag_of(ON_ACCEPT, l->generation, (uint32_t)(l - u->sock.listener));
  l->ops++;
  u->inflight++;
}

static void cancel_accept(struct np_uring *u, struct np_sock_listener *l) {
  if (l->ops == 0) return;
  struct io_uring_sqe *sqe = np_uq_sqe(&u->q);
  if (sqe == NULL) return;
  uint32_t index = (uint32_t)(l - u->sock.listener);
  sqe->opcode = IORING_OP_ASYNC_CANCEL;
  sqe->fd = -1;
  sqe->addr = tag_of(ON_ACCEPT, l->generation, index);
  sqe->user_data = tag_of(ON_LISTEN_CANCEL, l->generation, index);
  l->ops++;
  u->inflight++;
}

/* All that is out of c, which is being let go of. */
static void cancel_all(struct np_uring *u, struct np_sock_conn *c) {
  struct io_uring_sqe *sqe = cancellation(u, c);
  if (sqe == NULL) { /* no memory: the requests end when the socket does */
    (void)shutdown(c->fd, SHUT_RDWR);
    return;
  }
  sqe->cancel_flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL;
}

/* ---- completions ---- */

static void op_done(struct np_uring *u, struct np_sock_conn *c) {
  np_assert(c->ops > 0);
  c->ops--;
  u->inflight--;
  if (c->ops != 0 || !(c->flags & DROPPED)) return;
  np_sock_list_del(&u->sock, &u->dry, c);
  np_sock_gone(&u->sock, c);
}

/* The buffers that a completion of bytes brings, from place first on, as a chain. */
static void take_received(struct np_uring *u, struct np_sock_conn *c, uint32_t first, uint32_t bytes) {
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  uint32_t pieces = 0;
  uint32_t room = u->sock.env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  for (uint32_t left = bytes; left > 0; pieces++) { /* bound: the ring's places */
    uint32_t at = (first + pieces) & u->ring_mask;
    struct np_buf *b = u->buf[at];
    np_assert(b != NULL);
    u->buf[at] = NULL;
    b->len = np_min_u32(left, room);
    left -= b->len;
    if (tail != NULL) tail->next = b;
    if (head == NULL) head = b;
    tail = b;
  }
  u->sock.base.posted_count -= pieces;
  np_sock_received(&u->sock, c, head, tail, pieces, bytes);
}

static void on_recv_error(struct np_uring *u, struct np_sock_conn *c, int sys) {
  switch (sys) {
    case ECANCELED:
    case EINTR:
      break;
    case ENOBUFS:
      np_sock_count(&u->sock, NP_C_SOCK_NO_BUFFER, 1);
      u->thirsty = true;
      np_sock_list_add(&u->sock, &u->dry, c);
      break;
    case EINVAL: /* a kernel that knows less than this */
      if (c->flags & RX_BULK) {
        u->bundle = false;
        c->flags &= ~RX_BULK;
      } else if (u->multishot_recv) {
        u->multishot_recv = false;
      } else {
        np_sock_end(&u->sock, c, NP_ERR_SYS);
      }
      break;
    default:
      np_sock_end(&u->sock, c, np_sock_err(sys));
  }
}

/* How c is asked from now on, by what it brought. Return: whether that changed. */
static bool judge_bulk(struct np_uring *u, struct np_sock_conn *c, uint32_t bytes) {
  uint32_t room = u->sock.env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  if (c->flags & RX_BULK) {
    c->rx_pieces = bytes > room ? 0 : (uint8_t)(c->rx_pieces + 1u);
    if (c->rx_pieces < BULK_LEAVE) return false;
    c->flags &= ~RX_BULK;
  } else {
    c->rx_pieces = bytes < room ? 0 : (uint8_t)(c->rx_pieces + 1u);
    if (c->rx_pieces < BULK_ENTER || !u->bundle) {
      c->rx_pieces = (uint8_t)np_min_u32(c->rx_pieces, BULK_ENTER);
      return false;
    }
    c->flags |= RX_BULK;
  }
  c->rx_pieces = 0;
  return true;
}

/* Takes a request that goes on back when c's session is behind, or when c is to be asked otherwise. */
static void hold_back(struct np_uring *u, struct np_sock_conn *c, bool changed) {
  const struct np_sock *s = &u->sock;
  bool full = c->unconsumed_bytes + c->rcvq_bytes + u->multishot_bytes > s->config.rcv_buf_bytes ||
              c->held_pieces + c->rcvq_pieces >= s->rx_pieces_max;
  if ((full || changed) && !(c->flags & RX_CANCEL) && c->state == NP_SOCK_OPEN) cancel(u, c, ON_RECV);
}

/* A cancellation does not find what is being worked on at that moment. */
static void on_cancel(struct np_uring *u, struct np_sock_conn *c, int32_t res) {
  if (res < 0 && (c->flags & RX_ARMED) && (c->flags & RX_CANCEL)) {
    c->flags &= ~RX_CANCEL;
    u->holding--;
    hold_back(u, c, false);
  }
  c->CANCELS--;
  /* What is left now, this one apart, is on its way or was not found. By the last of them only: two would ask for each other's sake for ever. */
  if ((c->flags & DROPPED) && c->CANCELS == 0 && c->ops > 1) cancel_all(u, c);
  op_done(u, c);
}

static void on_recv(struct np_uring *u, struct np_sock_conn *c, const struct io_uring_cqe *cqe) {
  struct np_sock *s = &u->sock;
  bool changed = false;
  if (cqe->res > 0) {
    np_assert(cqe->flags & IORING_CQE_F_BUFFER);
    take_received(u, c, cqe->flags >> IORING_CQE_BUFFER_SHIFT, (uint32_t)cqe->res);
    changed = judge_bulk(u, c, (uint32_t)cqe->res);
  }
  bool more = (cqe->flags & IORING_CQE_F_MORE) != 0;
  if (!more) {
    if (c->flags & RX_CANCEL) u->holding--;
    c->flags &= ~(RX_ARMED | RX_CANCEL);
  }
  if (cqe->res == 0) np_sock_eof(s, c);
  if (cqe->res < 0) on_recv_error(u, c, -cqe->res);
  if (more) {
    hold_back(u, c, changed);
    return;
  }
  if (cqe->res != -ENOBUFS) arm_recv(u, c);
  op_done(u, c);
}

static void on_send(struct np_uring *u, struct np_sock_conn *c, int32_t res) {
  c->flags &= ~NP_SK_TX_WAIT;
  if (res >= 0) {
    np_sock_sent(&u->sock, c, (uint32_t)res);
  } else if (res != -ECANCELED && res != -EINTR) {
    np_sock_end(&u->sock, c, np_sock_err(-res));
  }
  if (c->sndq_head != NULL || (c->flags & NP_SK_FIN_QUEUED)) np_sock_dirty(&u->sock, c);
  op_done(u, c);
}

static void on_connect(struct np_uring *u, struct np_sock_conn *c, int32_t res) {
  int sys = res < 0 ? -res : 0;
  socklen_t len = sizeof sys;
  if (res >= 0 && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &sys, &len) != 0) sys = errno;
  np_sock_connected(&u->sock, c, sys);
  arm_recv(u, c);
  op_done(u, c);
}

/* Takes who waits at a Unix socket; another core may have been quicker. */
static void accept_unix(struct np_uring *u, struct np_sock_listener *l) {
  for (uint32_t i = 0; i < NP_SOCK_ACCEPTS; i++) {
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
      (void)np_sock_accepted(&u->sock, l, fd);
    } else if (!np_sock_accept_failed(&u->sock, l, errno)) {
      return;
    }
  }
}

static void on_accept(struct np_uring *u, struct np_sock_listener *l, uint32_t generation, const struct io_uring_cqe *cqe) {
  struct np_sock *s = &u->sock;
  np_assert((l->generation & 0xffffffu) == generation);
  bool more = (cqe->flags & IORING_CQE_F_MORE) != 0;
  if (!more) {
    l->ops--;
    u->inflight--;
  }
  if (l->fd < 0) { /* nobody listens there any more */
    if (cqe->res >= 0 && !l->is_unix) close(cqe->res);
    return;
  }
  if (cqe->res >= 0 && l->is_unix) {
    accept_unix(u, l);
  } else if (cqe->res >= 0) {
    (void)np_sock_accepted(s, l, cqe->res);
  } else if (cqe->res == -EINVAL && u->multishot_accept) {
    u->multishot_accept = false;
  } else if (cqe->res != -ECANCELED) {
    (void)np_sock_accept_failed(s, l, -cqe->res);
  }
  arm_accept(u, l);
}

static void on_cqe(struct np_uring *u, const struct io_uring_cqe *cqe) {
  struct np_sock *s = &u->sock;
  uint32_t index = (uint32_t)cqe->user_data;
  uint32_t generation = (uint32_t)(cqe->user_data >> 32) & 0xffffffu;
  enum what what = (enum what)(cqe->user_data >> 56);
  if (what == ON_ACCEPT) {
    on_accept(u, &s->listener[index], generation, cqe);
    return;
  }
  if (what == ON_LISTEN_CANCEL) {
    struct np_sock_listener *l = &s->listener[index];
    l->ops--;
    u->inflight--;
    if (l->fd < 0) cancel_accept(u, l); /* was not found; nothing when it is gone */
    return;
  }
  struct np_sock_conn *c = &s->conn[index];
  np_assert((c->generation & 0xffffffu) == generation);
  np_assert(c->state != NP_SOCK_FREE);
  switch (what) {
    case ON_RECV: on_recv(u, c, cqe); break;
    case ON_SEND: on_send(u, c, cqe->res); break;
    case ON_CONNECT: on_connect(u, c, cqe->res); break;
    case ON_CANCEL: on_cancel(u, c, cqe->res); break;
    case ON_ACCEPT:
    case ON_LISTEN_CANCEL: break;
  }
}

static uint32_t reap(struct np_uring *u, uint32_t most) {
  uint32_t n = np_min_u32(np_uq_ready(&u->q), most);
  for (uint32_t i = 0; i < n; i++) {
    if (i + 1 < n) {
      uint32_t next = (uint32_t)np_uq_cqe(&u->q, i + 1)->user_data;
      if (next < u->sock.config.conns_max) NP_PREFETCH_W(&u->sock.conn[next]);
    }
    on_cqe(u, np_uq_cqe(&u->q, i));
  }
  if (n > 0) np_uq_seen(&u->q, n);
  return n;
}

/* New buffers for those that waited for some. Whose request is being taken back could fill them all, again
 * and again; so until that has come to its end there are only those that the ring has. */
static void water(struct np_uring *u) {
  if (NP_UNLIKELY(u->holding > 0)) {
    if (u->thirsty) np_sock_need_tick(&u->sock);
    return;
  }
  if (refill(u) == 0 && u->sock.base.posted_count == 0) {
    if (u->thirsty) np_sock_need_tick(&u->sock);
    return;
  }
  if (NP_LIKELY(!u->thirsty)) return;
  u->thirsty = false;
  for (uint32_t n = u->dry.count; n > 0; n--) arm_recv(u, np_sock_list_pop(&u->sock, &u->dry));
}

static uint32_t uring_poll(struct np_carrier *base, uint64_t now_ns) {
  struct np_sock *s = np_sock_of(base);
  struct np_uring *u = uring_of(s);
  s->now_ns = now_ns;
  if (NP_UNLIKELY(u->asleep)) {
    u->asleep = false;
    np_uq_announce(&u->q, false);
  }
  if (u->inflight == 0 && np_uq_pending(&u->q) == 0) return 0;
  /* EBUSY, EAGAIN: short of memory; what is pending stays so. */
  if (np_uq_wants_call(&u->q)) (void)np_uq_enter(&u->q, 0);
  uint32_t n = reap(u, REAPS_PER_POLL);
  if (n > 0 || u->thirsty) water(u);
  return n;
}

static bool uring_flush(struct np_carrier *base, uint64_t now_ns) {
  struct np_sock *s = np_sock_of(base);
  struct np_uring *u = uring_of(s);
  bool left = np_sock_flush(base, now_ns);
  if (np_uq_pending(&u->q) == 0) return left;
  (void)np_uq_enter(&u->q, 0);
  /* What was sent at once, which is the usual, is done with while its buffers are in the cache. */
  if (reap(u, REAPS_PER_POLL) > 0) water(u);
  return left || s->dirty_count > 0;
}

/* ---- the engine's operations ---- */

/* Requests on a socket with O_NONBLOCK would end with EAGAIN instead of waiting. */
static int make_blocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return errno;
  if ((flags & O_NONBLOCK) == 0) return 0;
  return fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? errno : 0;
}

static enum np_err ready(struct np_uring *u, int fd) {
  if (np_uq_enable(&u->q) != 0) return NP_ERR_SYS;
  if (fd >= 0 && make_blocking(fd) != 0) return NP_ERR_SYS;
  (void)refill(u);
  return NP_ERR_OK;
}

static enum np_err uring_add(struct np_sock *s, struct np_sock_conn *c) {
  struct np_uring *u = uring_of(s);
  if (u->bundle) c->flags |= RX_BULK;
  if (c->state == NP_SOCK_OPEN) { /* accepted by a request: as it has to be */
    arm_recv(u, c);
    return NP_ERR_OK;
  }
  enum np_err err = ready(u, c->fd);
  if (err != NP_ERR_OK) return err;
  struct io_uring_sqe *sqe = request(u, c, IORING_OP_POLL_ADD, ON_CONNECT);
  if (sqe == NULL) return NP_ERR_NOMEM;
  sqe->poll32_events = POLLOUT;
  return NP_ERR_OK;
}

static void uring_resume(struct np_sock *s, struct np_sock_conn *c) { arm_recv(uring_of(s), c); }

static bool uring_tx(struct np_sock *s, struct np_sock_conn *c) {
  struct np_uring *u = uring_of(s);
  bool one = c->sndq_head->next == NULL;
  struct io_uring_sqe *sqe = request(u, c, one ? IORING_OP_SEND : IORING_OP_SENDMSG, ON_SEND);
  if (sqe == NULL) return true;
  c->flags |= NP_SK_TX_WAIT; /* one at a time, so that bytes keep their order */
  sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
  if (one) {
    sqe->addr = (uint64_t)(uintptr_t)np_buf_cdata(c->sndq_head);
    sqe->len = c->sndq_head->len;
    return false;
  }
  struct tx_scratch *t = &u->tx[(u->q.sq_next - 1u) & u->q.sq_mask];
  t->msg = (struct msghdr){.msg_iov = t->iov};
  for (const struct np_buf *b = c->sndq_head; b != NULL && t->msg.msg_iovlen < NP_SOCK_PIECES; b = b->next) {
    t->iov[t->msg.msg_iovlen++] = (struct iovec){.iov_base = (void *)(uintptr_t)np_buf_cdata(b), .iov_len = b->len};
  }
  sqe->addr = (uint64_t)(uintptr_t)&t->msg;
  sqe->len = 1;
  return false;
}

static void uring_drop(struct np_sock *s, struct np_sock_conn *c) {
  struct np_uring *u = uring_of(s);
  if (c->ops == 0) {
    np_sock_list_del(s, &u->dry, c);
    np_sock_gone(s, c);
    return;
  }
  c->flags |= DROPPED;
  cancel_all(u, c);
}

static enum np_err uring_listen(struct np_sock *s, struct np_sock_listener *l) {
  struct np_uring *u = uring_of(s);
  enum np_err err = ready(u, l->is_unix ? -1 : l->fd);
  if (err == NP_ERR_OK) arm_accept(u, l);
  return err;
}

static void uring_unlisten(struct np_sock *s, struct np_sock_listener *l) {
  struct np_uring *u = uring_of(s);
  /* The request holds the socket: it goes on accepting until it is cancelled, so that is done now. */
  cancel_accept(u, l);
  (void)np_uq_enter(&u->q, 0);
  close(l->fd);
}

static void uring_pause(struct np_sock *s, struct np_sock_listener *l, bool on) {
  if (!on) arm_accept(uring_of(s), l);
}

static void uring_tick(struct np_sock *s) {
  struct np_uring *u = uring_of(s);
  if (u->thirsty) water(u);
  for (uint32_t i = 0; s->crowded && i < s->config.conns_max; i++) {
    struct np_sock_conn *c = &s->conn[i];
    if (c->state != NP_SOCK_OPEN || !(c->flags & NP_SK_CROWDED)) continue;
    c->flags &= ~NP_SK_PAUSED; /* CROWDED stays: one request is allowed */
    arm_recv(u, c);
  }
  s->crowded = false;
}

static const struct np_sock_engine engine = {
    .add = uring_add,
    .resume = uring_resume,
    .tx = uring_tx,
    .drop = uring_drop,
    .listen = uring_listen,
    .unlisten = uring_unlisten,
    .pause = uring_pause,
    .tick = uring_tick,
};

/* ---- the carrier's operations ---- */

static bool uring_busy(struct np_carrier *base) {
  struct np_sock *s = np_sock_of(base);
  struct np_uring *u = uring_of(s);
  return s->dirty_count > 0 || np_uq_ready(&u->q) > 0 || np_uq_wants_call(&u->q) || np_uq_pending(&u->q) > 0;
}

/* The core is about to sleep. What came since it last looked was not announced: then it sleeps for no time. */
static int uring_fd(struct np_carrier *base) {
  struct np_uring *u = uring_of(np_sock_of(base));
  if (u->inflight == 0 || u->wake_fd < 0) return -1;
  u->asleep = true;
  np_uq_announce(&u->q, true);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the kernel publishes, then looks at the flag */
  if (np_uq_ready(&u->q) > 0 || np_uq_wants_call(&u->q)) {
    uint64_t one = 1;
    ssize_t n = write(u->wake_fd, &one, sizeof one);
    (void)n; /* EAGAIN: far from 0 */
  }
  return -1; /* wake_fd tells */
}

static int uring_wake_by(struct np_carrier *base, int wake_fd) {
  struct np_uring *u = uring_of(np_sock_of(base));
  int sys = np_uq_eventfd(&u->q, wake_fd);
  if (sys == 0) u->wake_fd = wake_fd;
  return sys;
}

/* Nothing is in the kernel's hands afterwards. Here the core's thread is about to end, and
 * nobody else may ask the ring; so listeners end too. */
static void uring_abort_all(struct np_carrier *base, uint64_t now_ns) {
  struct np_sock *s = np_sock_of(base);
  struct np_uring *u = uring_of(s);
  s->now_ns = now_ns;
  for (uint32_t i = 0; i < NP_SOCK_LISTENERS_MAX; i++) {
    if (s->listener[i].fd >= 0) (void)np_sock_unlisten(base, i);
  }
  np_sock_abort_all(s);
  while (np_sock_flush(base, now_ns)) continue; /* bound: each flush ends connections, and none begins */
  const struct timespec pause = {.tv_nsec = 1000000};
  for (uint32_t i = 0; i < DRAIN_CALLS && u->inflight > 0; i++) {
    if (i >= DRAIN_QUICK) nanosleep(&pause, NULL);
    (void)np_uq_enter(&u->q, 1);
    (void)reap(u, UINT32_MAX);
    while (np_sock_flush(base, now_ns)) continue; /* bound: as above */
  }
  np_assert(u->inflight == 0);
  np_uq_leave(&u->q);
}

static void uring_fini(struct np_carrier *base) {
  struct np_sock *s = np_sock_of(base);
  struct np_uring *u = uring_of(s);
  uring_abort_all(base, s->now_ns);
  np_timer_cancel(s->env.wheel, &s->tick);
  np_uq_close(&u->q);
  for (uint32_t i = 0; i <= u->ring_mask; i++) {
    if (u->buf[i] != NULL) np_buf_put(u->buf[i]);
  }
  s->base.posted_count = 0;
  munmap(u->ring, u->ring_bytes);
}

static const struct np_carrier_ops ops = {
    .name = "io_uring",
    .listen = np_sock_listen,
    .unlisten = np_sock_unlisten,
    .connect = np_sock_connect,
    .poll = uring_poll,
    .flush = uring_flush,
    .busy = uring_busy,
    .fd = uring_fd,
    .wake_by = uring_wake_by,
    .stream = np_sock_stream,
    .connections = np_sock_connections,
    .set = np_sock_set,
    .abort_all = uring_abort_all,
    .fini = uring_fini,
};

/* ---- making ---- */

struct layout {
  size_t conns;
  size_t tx;
  size_t buf;
  size_t bytes;
};

static size_t take(size_t *at, size_t bytes) {
  size_t off = *at;
  *at = (off + bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
  return off;
}

static struct layout lay_out(const struct np_carrier_config *config) {
  struct layout l = {0};
  size_t at = 0;
  take(&at, sizeof(struct np_uring));
  l.conns = take(&at, np_sock_conns_bytes(config));
  l.tx = take(&at, SQ_ENTRIES * sizeof(struct tx_scratch));
  l.buf = take(&at, BUFS_MAX * sizeof(struct np_buf *));
  l.bytes = at;
  return l;
}

size_t np_uring_bytes(const struct np_carrier_config *config) { return lay_out(config).bytes; }

/* Registers n places for buffers as group 0. Return: 0 or errno. */
static int open_buffers(struct np_uring *u, uint32_t n) {
  u->ring_bytes = n * sizeof(struct io_uring_buf);
  void *mem = mmap(NULL, u->ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (mem == MAP_FAILED) return errno;
  u->ring = mem;
  u->ring_mask = n - 1;
  struct io_uring_buf_reg reg = {.ring_addr = (uint64_t)(uintptr_t)mem, .ring_entries = n, .bgid = BUF_GROUP};
  int sys = np_uq_register(&u->q, IORING_REGISTER_PBUF_RING, &reg, 1);
  if (sys != 0) munmap(mem, u->ring_bytes);
  return sys;
}

static enum np_err refusal(int sys) {
  switch (sys) {
    case ENOSYS: /* not built in, or hidden by seccomp */
    case EPERM:  /* kernel.io_uring_disabled, or seccomp */
    case EACCES:
    case EINVAL: /* too old */
      return NP_ERR_UNSUPPORTED;
    case ENOMEM:
      return NP_ERR_NOMEM;
    default:
      return NP_ERR_SYS;
  }
}

enum np_err np_uring_init(void *mem, const struct np_carrier_config *config, const struct np_carrier_env *env,
                          uint32_t without, uint64_t now_ns, struct np_carrier **out, int *sys) {
  struct layout l = lay_out(config);
  struct np_uring *u = mem;
  memset(mem, 0, l.bytes);
  np_sock_init(&u->sock, &engine, &ops, NP_CARRIER_URING, (uint8_t *)mem + l.conns, config, env, now_ns);
  u->tx = (struct tx_scratch *)(void *)((uint8_t *)mem + l.tx);
  u->buf = (struct np_buf **)(void *)((uint8_t *)mem + l.buf);
  np_sock_list_init(&u->dry);
  *sys = np_uq_open(&u->q, SQ_ENTRIES, CQ_ENTRIES, (without & NP_URING_NO_DEFER) != 0);
  if (*sys != 0) return refusal(*sys);
  u->multishot_recv = u->multishot_accept = (without & NP_URING_NO_MULTISHOT) == 0;
  u->bundle = (without & NP_URING_NO_BUNDLE) == 0 && (u->q.features & IORING_FEAT_RECVSEND_BUNDLE) != 0;
  u->multishot_bytes = np_min_u32(MULTISHOT_PIECES * (env->pool->chunk_bytes - NP_BUF_DATA_OFF), config->rcv_buf_bytes / 2u);
  uint32_t n = BUFS_MAX;
  while (n > 16 && n > env->pool->count / 16u) n /= 2; /* bound: its bits */
  u->wake_fd = -1;
  *sys = open_buffers(u, n);
  if (*sys != 0) {
    np_uq_close(&u->q);
    return refusal(*sys);
  }
  *out = &u->sock.base;
  return NP_ERR_OK;
}

int np_uring_probe(void) {
  struct np_uring u;
  memset(&u, 0, sizeof u);
  int sys = np_uq_open(&u.q, 8, 16, false);
  if (sys != 0) return sys;
  sys = open_buffers(&u, 16);
  np_uq_close(&u.q);
  if (sys == 0) munmap(u.ring, u.ring_bytes);
  return sys;
}
