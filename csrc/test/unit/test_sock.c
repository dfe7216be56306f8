/* Kernel sockets on a core: the same table for each engine, over loopback TCP and Unix sockets. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io/uring/ring.h"
#include "test/unit/sock_rig.h"

#define MIB (1u << 20)

struct engine {
  enum np_carrier_kind carrier;
  uint32_t without;
};

static struct sock_rig *begin(void **state, const struct np_plane_config *config) {
  const struct engine *e = *state;
  struct np_plane_config c = *config;
  c.uring_without = e->without;
  struct sock_rig *t = calloc(1, sizeof *t);
  assert_non_null(t);
  sr_init(t, e->carrier, &c);
  return t;
}

static void finish(struct sock_rig *t) {
  rig_ledger(&t->r);
  sr_free(t);
  free(t);
}

/* Both kinds of socket, one after the other. */
static void each(void **state, void (*test)(struct sock_rig *t, bool is_unix)) {
  for (int i = 0; i < 2; i++) {
    struct np_plane_config c = sr_config();
    struct sock_rig *t = begin(state, &c);
    test(t, i == 1);
    finish(t);
  }
}

/* ---- bytes ---- */

static void pump_until(struct sock_rig *t, int fd, uint64_t *sent, uint64_t *got, uint64_t end) {
  for (uint32_t i = 0; i < 100000 && *got < end; i++) {
    uint64_t before = *sent + *got;
    sr_write(fd, sent, end);
    sr_turns(t, 1);
    assert_true(sr_read(fd, got));
    if (*sent + *got == before) usleep(200); /* the kernel's timers */
  }
  assert_int_equal(*got, end);
}

static void echo(struct sock_rig *t, bool is_unix) {
  sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  uint64_t sent = 0;
  uint64_t got = 0;
  for (uint64_t end = 1; end < 100; end++) pump_until(t, fd, &sent, &got, end);
  pump_until(t, fd, &sent, &got, 4 * MIB + 17);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_ACCEPTED), 1);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_CONNS), 1);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_BYTES_RX), got);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_BYTES_TX), got);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
}
static void test_echo(void **state) { each(state, echo); }

/* What was sent before the end of one side comes back, then the other side's end. */
static void half_close(struct sock_rig *t, bool is_unix) {
  sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  uint64_t sent = 0;
  uint64_t got = 0;
  sr_write(fd, &sent, 100000);
  assert_int_equal(shutdown(fd, SHUT_WR), 0);
  bool open = true;
  for (uint32_t i = 0; i < 1000 && open; i++) {
    sr_turns(t, 1);
    open = sr_read(fd, &got);
  }
  assert_false(open);
  assert_int_equal(got, sent);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
  close(fd);
}
static void test_half_close(void **state) { each(state, half_close); }

static int last_error(int fd) {
  uint8_t b;
  ssize_t n = recv(fd, &b, 1, MSG_DONTWAIT);
  return n < 0 ? errno : (int)-n;
}

static uint64_t only_conn(struct sock_rig *t, struct np_conn_info *out) {
  static const uint32_t most = 8;
  struct np_conn_info *info = calloc(most, sizeof *info);
  assert_non_null(info);
  struct np_cmd cmd = {.op = NP_CMD_CONNS, .handle = (uint64_t)(uintptr_t)info, .arg = most};
  struct np_event ev = rig_command(&t->r, cmd, NULL, 0);
  assert_int_equal(ev.err, NP_ERR_OK);
  assert_int_equal(ev.arg, 1);
  assert_int_equal(ev.stream, 0);
  *out = info[0];
  free(info);
  return out->handle;
}

static void abort_resets(struct sock_rig *t, bool is_unix) {
  sr_listen(t, NP_SESSION_DISCARD, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  sr_until(t, NP_C_SOCK_ACCEPTED, 1);
  struct np_conn_info info;
  uint64_t handle = only_conn(t, &info);
  rig_ok(&t->r, (struct np_cmd){.op = NP_CMD_ABORT, .handle = handle, .cmd_flags = NP_CMD_F_ACK}, NULL, 0);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  assert_int_equal(last_error(fd), is_unix ? 0 : ECONNRESET); /* a Unix socket has no reset */
  struct np_event ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_ABORT, .handle = handle}, NULL, 0);
  assert_int_equal(ev.err, NP_ERR_STALE);
  close(fd);
}
static void test_abort(void **state) { each(state, abort_resets); }

/* A connection that ends while the kernel still works on its bytes leaves a slot that the next one takes at once. */
static void reuse(struct sock_rig *t, bool is_unix) {
  enum { N = 3 };
  sr_listen(t, NP_SESSION_CHARGEN, is_unix, 0);
  int full = sr_dial(t, is_unix); /* does not read */
  sr_until(t, NP_C_SOCK_ACCEPTED, 1);
  sr_turns(t, 100);
  struct np_conn_info info;
  uint64_t handle = only_conn(t, &info);
  assert_true(info.sendq_bytes > 0);
  sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  struct np_carrier *c = np_core_carrier_of(t->r.core, t->kind);
  struct np_stream *stream = c->ops->stream(c, handle);
  stream->ops->abort(stream);
  int fd[N];
  uint64_t sent[N] = {0};
  uint64_t got[N] = {0};
  (void)c->ops->flush(c, t->r.core->now_ns); /* it lets go: the kernel begins to give back what it had */
  for (uint32_t i = 0; i < N; i++) {
    fd[i] = sr_dial(t, is_unix);
    (void)c->ops->poll(c, t->r.core->now_ns); /* before the next flush */
  }
  for (uint64_t end = 1; end < 30; end++) {
    for (uint32_t i = 0; i < N; i++) pump_until(t, fd[i], &sent[i], &got[i], end);
  }
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_ACCEPTED), 1 + N);
  close(full);
  for (uint32_t i = 0; i < N; i++) close(fd[i]);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
}
static void test_reuse(void **state) { each(state, reuse); }

/* A connection that is aborted in the turn in which it was held back: io_uring has two cancellations of it out. */
static void abort_held(struct sock_rig *t, bool is_unix) {
  sr_listen(t, NP_SESSION_DISCARD, is_unix, 0);
  struct np_carrier *c = np_core_carrier_of(t->r.core, t->kind);
  for (uint32_t round = 1; round <= 32; round++) {
    int fd = sr_dial(t, is_unix);
    uint64_t sent = 0;
    sr_until(t, NP_C_SOCK_ACCEPTED, round);
    for (uint32_t i = 0; i < 8; i++) { /* small messages: it is asked by a request that goes on */
      sr_write(fd, &sent, sent + 10);
      sr_turns(t, 2);
    }
    struct np_conn_info info;
    struct np_stream *stream = c->ops->stream(c, only_conn(t, &info)); /* takes a turn */
    sr_write(fd, &sent, sent + 2 * SR_RCV_BYTES);
    for (uint32_t i = 0; i < round % 8u; i++) (void)c->ops->poll(c, t->r.core->now_ns); /* one brings more than may be held */
    stream->ops->abort(stream);
    (void)c->ops->flush(c, t->r.core->now_ns);
    sr_until(t, NP_C_SOCK_CONNS, 0);
    close(fd);
  }
  rig_quiet(&t->r);
}
static void test_abort_held(void **state) { each(state, abort_held); }

static void test_peer_resets(void **state) {
  struct np_plane_config c = sr_config();
  struct sock_rig *t = begin(state, &c);
  sr_listen(t, NP_SESSION_ECHO, false, 0);
  int fd = sr_dial(t, false);
  uint64_t sent = 0;
  sr_write(fd, &sent, 1000);
  sr_until(t, NP_C_SOCK_ACCEPTED, 1);
  struct linger now = {.l_onoff = 1};
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_RESETS), 1);
  rig_quiet(&t->r);
  finish(t);
}

/* ---- backpressure ---- */

/* A window below loopback's segment size goes by the kernel's timers. */
static void widen(int fd) {
  int large = 4 << 20;
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof large), 0);
}

/* Buffers with data. */
static uint32_t held(const struct sock_rig *t) {
  const struct np_pool *pool = np_core_pool(t->r.core);
  return pool->count - pool->free_count - t->r.core->loans_out - np_core_carriers_posted(t->r.core);
}

/* A peer that does not read: what the core holds is bound, and every byte comes when it reads again. */
static void stalled_reader(struct sock_rig *t, bool is_unix) {
  sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  int small = 16384;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  uint64_t sent = 0;
  uint64_t got = 0;
  uint64_t end = 64 * MIB;
  uint32_t still = 0;
  for (uint32_t i = 0; i < 5000 && (still < 20 || np_core_must_run(t->r.core)); i++) {
    uint64_t before = sent;
    sr_write(fd, &sent, end);
    sr_turns(t, 4);
    if (before != sent) still = 0;
    if (before == sent && still++ > 0) usleep(500);
  }
  assert_true(sent < end);
  assert_false(np_core_must_run(t->r.core)); /* it may sleep */
  struct np_conn_info info;
  only_conn(t, &info);
  /* A request of io_uring's that goes on may fill what is in the buffer ring before it is taken back. */
  uint32_t over = t->kind == NP_CARRIER_URING ? 128u * 1792u : 0u;
  if (info.recvq_bytes > SR_RCV_BYTES + over) fail_msg("%u bytes are held", info.recvq_bytes);
  assert_true(held(t) <= 384);
  assert_true(rig_counter(&t->r, NP_C_SOCK_RX_PAUSED) > 0);
  end = sent;
  widen(fd);
  pump_until(t, fd, &sent, &got, end);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
}
static void test_stalled_reader(void **state) { each(state, stalled_reader); }

/* A sender of single bytes to a session that holds them must not hold a buffer for each. */
static void test_small_pieces(void **state) {
  struct np_plane_config c = sr_config();
  struct sock_rig *t = begin(state, &c);
  sr_listen(t, NP_SESSION_ECHO, false, 0);
  int fd = sr_dial(t, false);
  int small = 16384;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  uint64_t sent = 0;
  uint64_t got = 0;
  for (uint32_t i = 0; i < 200 && rig_counter(&t->r, NP_C_SOCK_RX_PAUSED) == 0; i++) { /* until echo can send no more */
    sr_write(fd, &sent, sent + 200000);
    sr_turns(t, 120);
  }
  for (uint32_t i = 0; i < 3000; i++) {
    sr_write(fd, &sent, sent + 1);
    rig_turn(&t->r, 1000);
  }
  assert_true(held(t) <= 640);
  uint64_t end = sent;
  widen(fd);
  pump_until(t, fd, &sent, &got, end);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
  finish(t);
}

static void chargen(struct sock_rig *t, bool is_unix) {
  sr_listen(t, NP_SESSION_CHARGEN, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  uint64_t got = 0;
  for (uint32_t i = 0; i < 10000 && got < 8 * MIB; i++) {
    sr_turns(t, 1);
    char in[65536];
    ssize_t n = recv(fd, in, sizeof in, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) {
      usleep(100);
      continue;
    }
    assert_true(n > 0);
    for (ssize_t k = 0; k < n; k++) {
      uint64_t at = (got + (uint64_t)k) % 7030u;
      uint64_t column = at % 74u;
      char want = column == 72 ? '\r' : column == 73 ? '\n' : (char)(' ' + (at / 74u + column) % 95u);
      if (in[k] != want) fail_msg("byte %llu is wrong", (unsigned long long)got + (unsigned long long)k);
    }
    got += (uint64_t)n;
  }
  assert_true(got >= 8 * MIB);
  close(fd); /* with much on the way */
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
}
static void test_chargen(void **state) { each(state, chargen); }

/* ---- many ---- */

static void test_thousand(void **state) {
  enum { N = 1000 };
  struct rlimit lim;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
  struct rlimit more = lim;
  more.rlim_cur = lim.rlim_max < 8192 ? lim.rlim_max : 8192;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &more), 0);
  struct np_plane_config c = sr_config();
  c.sock_conns_max = N;
  c.bufs_per_core = 4096;
  struct sock_rig *t = begin(state, &c);
  sr_listen(t, NP_SESSION_ECHO, false, 0);
  int *fd = calloc(N, sizeof *fd);
  uint64_t *sent = calloc(N, sizeof *sent);
  uint64_t *got = calloc(N, sizeof *got);
  for (uint32_t i = 0; i < N; i++) {
    fd[i] = sr_dial(t, false);
    if (i % 50 == 0) sr_turns(t, 1);
  }
  sr_until(t, NP_C_SOCK_CONNS, N);
  uint64_t end = 3000;
  for (uint32_t i = 0; i < N; i++) sr_write(fd[i], &sent[i], end);
  for (uint32_t round = 0; round < 2000; round++) {
    uint64_t least = end;
    sr_turns(t, 1);
    for (uint32_t i = 0; i < N; i++) {
      sr_read(fd[i], &got[i]);
      if (got[i] < least) least = got[i];
    }
    if (least == end) break;
  }
  for (uint32_t i = 0; i < N; i++) assert_int_equal(got[i], end);
  for (uint32_t i = 0; i < N; i += 2) close(fd[i]);
  sr_until(t, NP_C_SOCK_CONNS, N / 2);
  rig_quiet(&t->r);
  t->fds_before += N / 2u; /* the peers' */
  finish(t); /* with half of them open */
  for (uint32_t i = 1; i < N; i += 2) close(fd[i]);
  free(fd);
  free(sent);
  free(got);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
}

/* Peers that come, send, stop reading and leave in any order, in good order or not. */
static void churn(struct sock_rig *t, bool is_unix) {
  enum { N = 24 };
  sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd[N];
  uint64_t sent[N] = {0};
  for (uint32_t i = 0; i < N; i++) fd[i] = -1;
  uint32_t x = 4711;
  for (uint32_t i = 0; i < 6000; i++) {
    x = x * 1664525u + 1013904223u;
    uint32_t k = (x >> 8) % N;
    uint32_t what = (x >> 24) % 8;
    if (fd[k] < 0) {
      fd[k] = sr_dial(t, is_unix);
      sent[k] = 0;
    } else if (what < 4) {
      sr_write(fd[k], &sent[k], sent[k] + 1 + (x >> 12) % 20000);
    } else if (what == 4) {
      uint8_t in[30000];
      (void)!recv(fd[k], in, sizeof in, MSG_DONTWAIT);
    } else if (what == 5) {
      shutdown(fd[k], SHUT_WR);
    } else {
      struct linger now = {.l_onoff = what == 6};
      setsockopt(fd[k], SOL_SOCKET, SO_LINGER, &now, sizeof now);
      close(fd[k]);
      fd[k] = -1;
    }
    if (x % 3 == 0) sr_turns(t, 1);
  }
  for (uint32_t i = 0; i < N; i++) {
    if (fd[i] >= 0) close(fd[i]);
  }
  sr_until(t, NP_C_SOCK_CONNS, 0);
  rig_quiet(&t->r);
}
static void test_churn(void **state) { each(state, churn); }

/* ---- limits ---- */

static void test_limits(void **state) {
  struct np_plane_config c = sr_config();
  c.sock_conns_max = 6;
  struct sock_rig *t = begin(state, &c);
  sr_listen(t, NP_SESSION_ECHO, false, 4);
  int fd[6];
  for (uint32_t i = 0; i < 6; i++) fd[i] = sr_dial(t, false);
  sr_until(t, NP_C_SOCK_REFUSED, 2);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_ACCEPTED), 4);
  uint32_t reset = 0;
  for (uint32_t i = 0; i < 6; i++) reset += last_error(fd[i]) == ECONNRESET;
  assert_int_equal(reset, 2);
  sr_listen(t, NP_SESSION_ECHO, false, 0); /* now the table's limit */
  int other[3];
  for (uint32_t i = 0; i < 3; i++) other[i] = sr_dial(t, false);
  sr_until(t, NP_C_SOCK_REFUSED, 3);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_CONNS), 6);
  for (uint32_t i = 0; i < 6; i++) close(fd[i]);
  for (uint32_t i = 0; i < 3; i++) close(other[i]);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  finish(t);
}

/* Without descriptors nothing is accepted, nothing spins, and it goes on when there are some again. */
static void test_no_descriptors(void **state) {
  struct np_plane_config c = sr_config();
  struct sock_rig *t = begin(state, &c);
  struct np_cmd_listen args = {.session_kind = NP_SESSION_ECHO, .carrier = (uint8_t)t->kind, .fd = sr_listen_fd(t, false)};
  int fd = sr_dial(t, false); /* the kernel has it already */
  int low = dup(fd);          /* the lowest free one */
  struct rlimit lim;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
  struct rlimit less = {.rlim_cur = (rlim_t)low, .rlim_max = lim.rlim_max};
  close(low);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &less), 0);
  rig_ok(&t->r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  sr_turns(t, 5);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_ACCEPT_PAUSED), 1);
  assert_int_equal(rig_counter(&t->r, NP_C_SOCK_CONNS), 0);
  assert_false(np_core_must_run(t->r.core));
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
  sr_turns(t, 150);
  sr_until(t, NP_C_SOCK_CONNS, 1);
  uint64_t sent = 0;
  uint64_t got = 0;
  pump_until(t, fd, &sent, &got, 1000);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  finish(t);
}

/* ---- listeners and outgoing ---- */

static void unlisten(struct sock_rig *t, bool is_unix) {
  uint64_t handle = sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  sr_until(t, NP_C_SOCK_CONNS, 1);
  rig_ok(&t->r, (struct np_cmd){.op = NP_CMD_UNLISTEN, .handle = handle}, NULL, 0);
  sr_turns(t, 2);
  uint64_t sent = 0;
  uint64_t got = 0;
  pump_until(t, fd, &sent, &got, 1000); /* its connections stay */
  int again = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in a;
  sr_loopback(&a, t->port);
  int rc = is_unix ? connect(again, (struct sockaddr *)&t->path, t->path_len) : connect(again, (struct sockaddr *)&a, sizeof a);
  assert_int_equal(rc, -1);
  assert_int_equal(errno, ECONNREFUSED);
  close(again);
  struct np_event ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_UNLISTEN, .handle = handle}, NULL, 0);
  assert_int_equal(ev.err, NP_ERR_STALE);
  rig_ok(&t->r, (struct np_cmd){.op = NP_CMD_DRAIN}, NULL, 0);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
}
static void test_unlisten(void **state) { each(state, unlisten); }

static struct np_event dial_out(struct sock_rig *t, bool is_unix, uint16_t port) {
  int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  struct sockaddr_in a;
  sr_loopback(&a, port);
  int rc = is_unix ? connect(fd, (struct sockaddr *)&t->path, t->path_len) : connect(fd, (struct sockaddr *)&a, sizeof a);
  assert_true(rc == 0 || errno == EINPROGRESS);
  struct np_cmd_connect args = {.session_kind = NP_SESSION_ECHO, .carrier = (uint8_t)t->kind, .fd = fd};
  return rig_command(&t->r, (struct np_cmd){.op = NP_CMD_CONNECT}, &args, sizeof args);
}

static void outgoing(struct sock_rig *t, bool is_unix) {
  int listener = sr_listen_fd(t, is_unix);
  struct np_event ev = dial_out(t, is_unix, t->port);
  assert_int_equal(ev.err, NP_ERR_OK);
  assert_true(ev.handle != 0);
  sr_until(t, NP_C_SOCK_CONNECTED, 1);
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  assert_true(fd >= 0);
  uint64_t sent = 0;
  uint64_t got = 0;
  pump_until(t, fd, &sent, &got, 300000);
  struct np_conn_info info;
  assert_int_equal(only_conn(t, &info), ev.handle);
  assert_int_equal(info.options & NP_CONN_OPT_OUTGOING, NP_CONN_OPT_OUTGOING);
  close(fd);
  close(listener);
  sr_until(t, NP_C_SOCK_CONNS, 0);
}
static void test_outgoing(void **state) { each(state, outgoing); }

static void test_outgoing_refused(void **state) {
  struct np_plane_config c = sr_config();
  struct sock_rig *t = begin(state, &c);
  int listener = sr_listen_fd(t, false);
  close(listener); /* its port has nobody now */
  assert_int_equal(dial_out(t, false, t->port).err, NP_ERR_OK);
  sr_until(t, NP_C_SOCK_CONNECT_FAILED, 1);
  sr_until(t, NP_C_SOCK_CONNS, 0);
  finish(t);
}

/* A carrier that is not there, or arguments that make no sense: an error, and the descriptor is closed. */
static void test_bad_commands(void **state) {
  struct np_plane_config c = sr_config();
  struct sock_rig *t = begin(state, &c);
  uint32_t fds = sr_open_fds();
  struct np_cmd_listen args = {.session_kind = NP_SESSION_ECHO, .carrier = NP_CARRIER_COUNT, .fd = sr_listen_fd(t, false)};
  struct np_event ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  assert_int_equal(ev.err, NP_ERR_UNSUPPORTED);
  args.carrier = (uint8_t)t->kind;
  args.session_kind = NP_SESSION_KIND_COUNT;
  args.fd = sr_listen_fd(t, false);
  ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  assert_int_equal(ev.err, NP_ERR_INVALID);
  struct np_cmd_connect out = {.session_kind = NP_SESSION_ECHO, .carrier = 77, .fd = sr_listen_fd(t, false)};
  ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_CONNECT}, &out, sizeof out);
  assert_int_equal(ev.err, NP_ERR_UNSUPPORTED);
  out.carrier = (uint8_t)t->kind;
  out.fd = -1;
  ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_CONNECT}, &out, sizeof out);
  assert_int_equal(ev.err, NP_ERR_INVALID);
  assert_int_equal(sr_open_fds(), fds);
  finish(t);
}

/* ---- what is told of a connection ---- */

static void info(struct sock_rig *t, bool is_unix) {
  uint64_t listener = sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  uint64_t sent = 0;
  uint64_t got = 0;
  pump_until(t, fd, &sent, &got, 50000);
  struct np_conn_info i;
  only_conn(t, &i);
  assert_int_equal(i.carrier, t->kind);
  assert_int_equal(i.listener, listener);
  assert_int_equal(i.session_kind, NP_SESSION_ECHO);
  assert_int_equal(i.state, NP_TCP_ESTABLISHED);
  assert_int_equal(i.bytes_rx, 50000);
  assert_int_equal(i.bytes_tx, 50000);
  assert_int_equal(i.is_unix, is_unix);
  if (is_unix) {
    assert_int_equal(i.peer_pid, getpid());
    assert_int_equal(i.peer_uid, getuid());
    assert_int_equal(i.peer_gid, getgid());
  } else {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(i.local_port, t->port);
    assert_int_equal(i.remote_port, ntohs(a.sin_port));
    struct np_addr lo = frame_v4(127, 0, 0, 1);
    assert_memory_equal(i.remote, lo.b, 16);
    assert_true(i.mss_bytes >= 536);
    assert_true(i.cwnd_bytes >= i.mss_bytes);
    assert_true(i.srtt_us > 0);
    assert_true(i.segs_rx > 0);
  }
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
}
static void test_info(void **state) { each(state, info); }

/* Settings of a live connection reach its socket; what Unix sockets lack is refused. */
static void settings(struct sock_rig *t, bool is_unix) {
  static const struct {
    uint32_t what;
    uint32_t value;
    enum np_err tcp;
    enum np_err local;
  } steps[] = {
      {NP_CONN_SET_KEEPALIVE, 5000, NP_ERR_OK, NP_ERR_OK},     {NP_CONN_SET_KEEPALIVE, 999, NP_ERR_INVALID, NP_ERR_INVALID},
      {NP_CONN_SET_KEEPALIVE, 0, NP_ERR_OK, NP_ERR_OK},        {NP_CONN_SET_NAGLE, 1, NP_ERR_OK, NP_ERR_UNSUPPORTED},
      {NP_CONN_SET_NAGLE, 0, NP_ERR_OK, NP_ERR_OK},            {NP_CONN_SET_NAGLE, 2, NP_ERR_INVALID, NP_ERR_INVALID},
      {NP_CONN_SET_USER_TIMEOUT, 5000, NP_ERR_OK, NP_ERR_UNSUPPORTED},
      {NP_CONN_SET_CC, NP_CC_CUBIC, NP_ERR_UNSUPPORTED, NP_ERR_UNSUPPORTED}, {77, 0, NP_ERR_INVALID, NP_ERR_INVALID},
  };
  sr_listen(t, NP_SESSION_ECHO, is_unix, 0);
  int fd = sr_dial(t, is_unix);
  uint64_t sent = 0;
  uint64_t got = 0;
  pump_until(t, fd, &sent, &got, 1000);
  struct np_conn_info i;
  only_conn(t, &i);
  for (size_t k = 0; k < NP_COUNT_OF(steps); k++) {
    struct np_cmd cmd = {.op = NP_CMD_CONN_SET, .handle = i.handle, .stream = steps[k].what, .arg = steps[k].value};
    assert_int_equal(rig_command(&t->r, cmd, NULL, 0).err, is_unix ? steps[k].local : steps[k].tcp);
  }
  struct np_cmd stale = {.op = NP_CMD_CONN_SET, .handle = i.handle + (UINT64_C(1) << 32), .stream = NP_CONN_SET_NAGLE};
  assert_int_equal(rig_command(&t->r, stale, NULL, 0).err, NP_ERR_STALE);
  pump_until(t, fd, &sent, &got, 2000);
  close(fd);
  sr_until(t, NP_C_SOCK_CONNS, 0);
}
static void test_settings(void **state) { each(state, settings); }

/* Snapshots in pieces name each connection once. */
static void test_snapshot(void **state) {
  enum { N = 40, STEP = 7 };
  struct np_plane_config c = sr_config();
  struct sock_rig *t = begin(state, &c);
  sr_listen(t, NP_SESSION_ECHO, false, 0);
  int fd[N];
  for (uint32_t i = 0; i < N; i++) fd[i] = sr_dial(t, false);
  sr_until(t, NP_C_SOCK_CONNS, N);
  struct np_conn_info *got = calloc(N + STEP, sizeof *got);
  uint32_t n = 0;
  uint32_t cursor = 0;
  do {
    struct np_cmd cmd = {.op = NP_CMD_CONNS, .handle = (uint64_t)(uintptr_t)&got[n], .arg = STEP, .stream = cursor};
    struct np_event ev = rig_command(&t->r, cmd, NULL, 0);
    assert_int_equal(ev.err, NP_ERR_OK);
    n += ev.arg;
    cursor = ev.stream;
    assert_true(n <= N);
  } while (cursor != 0);
  assert_int_equal(n, N);
  for (uint32_t i = 0; i < N; i++) {
    for (uint32_t k = 0; k < i; k++) assert_true(got[i].handle != got[k].handle);
    close(fd[i]);
  }
  free(got);
  finish(t);
}

/* ---- a kernel that refuses io_uring ---- */

/* In a child, because a filter stays: io_uring_setup fails with sys. Return: the probe's error, and its text in detail. */
static enum np_err probe_refused(uint32_t sys, struct np_err_detail *detail) {
  int fd[2];
  assert_int_equal(pipe(fd), 0);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | sys),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = NP_COUNT_OF(code), .filter = code};
    struct np_err_detail d;
    memset(&d, 0, sizeof d);
    int err = 255;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0) {
      err = (int)np_plane_uring_probe(&d);
    }
    ssize_t n = write(fd[1], &d, sizeof d);
    _exit(n == (ssize_t)sizeof d ? err : 254);
  }
  close(fd[1]);
  ssize_t n = read(fd[0], detail, sizeof *detail);
  close(fd[0]);
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(n, (ssize_t)sizeof *detail);
  assert_true(WIFEXITED(status));
  return (enum np_err)WEXITSTATUS(status);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    uint32_t sys;
    const char *cure;
  } table[] = {
      {EPERM, "kernel.io_uring_disabled=0"},
      {ENOSYS, "seccomp profile"},
      {EINVAL, "Linux 5.19"},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(table); i++) {
    struct np_err_detail detail;
    assert_int_equal(probe_refused(table[i].sys, &detail), NP_ERR_UNSUPPORTED);
    assert_int_equal(detail.sys, table[i].sys);
    if (strstr(detail.text, table[i].cure) == NULL) fail_msg("%u: %s", table[i].sys, detail.text);
  }
}

/* ---- a thread's registered rings ---- */

/* A thread has sixteen places for rings; who finds none calls by descriptor, and a place is free again for the next. */
static void test_ring_places(void **state) {
  (void)state;
  enum { PLACES = 16, RINGS = PLACES + 4 };
  struct np_uq *q = calloc(RINGS, sizeof *q);
  assert_non_null(q);
  uint32_t fds = sr_open_fds();
  for (uint32_t round = 0; round < 3; round++) {
    for (uint32_t i = 0; i < RINGS; i++) {
      assert_int_equal(np_uq_open(&q[i], 8, 16, false), 0);
      assert_int_equal(np_uq_enable(&q[i]), 0);
      assert_int_equal((q[i].enter_flags & IORING_ENTER_REGISTERED_RING) != 0, i < PLACES);
    }
    for (uint32_t i = 0; i < RINGS; i++) {
      struct io_uring_sqe *sqe = np_uq_sqe(&q[i]);
      assert_non_null(sqe);
      sqe->opcode = IORING_OP_NOP;
      sqe->user_data = 1000u + i;
      assert_int_equal(np_uq_enter(&q[i], 1), 0);
      assert_int_equal(np_uq_ready(&q[i]), 1);
      assert_int_equal(np_uq_cqe(&q[i], 0)->user_data, 1000u + i);
      np_uq_seen(&q[i], 1);
    }
    for (uint32_t i = 0; i < RINGS; i++) {
      np_uq_leave(&q[i]);
      np_uq_leave(&q[i]); /* once more changes nothing */
      assert_int_equal(np_uq_enter(&q[i], 0), 0);
      np_uq_close(&q[i]);
    }
  }
  assert_int_equal(sr_open_fds(), fds);
  free(q);
}

static int run(const char *name, enum np_carrier_kind carrier, uint32_t without) {
  struct engine kind = {carrier, without};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(test_echo, &kind),
      cmocka_unit_test_prestate(test_half_close, &kind),
      cmocka_unit_test_prestate(test_abort, &kind),
      cmocka_unit_test_prestate(test_reuse, &kind),
      cmocka_unit_test_prestate(test_abort_held, &kind),
      cmocka_unit_test_prestate(test_peer_resets, &kind),
      cmocka_unit_test_prestate(test_stalled_reader, &kind),
      cmocka_unit_test_prestate(test_small_pieces, &kind),
      cmocka_unit_test_prestate(test_chargen, &kind),
      cmocka_unit_test_prestate(test_thousand, &kind),
      cmocka_unit_test_prestate(test_churn, &kind),
      cmocka_unit_test_prestate(test_limits, &kind),
      cmocka_unit_test_prestate(test_no_descriptors, &kind),
      cmocka_unit_test_prestate(test_unlisten, &kind),
      cmocka_unit_test_prestate(test_outgoing, &kind),
      cmocka_unit_test_prestate(test_outgoing_refused, &kind),
      cmocka_unit_test_prestate(test_bad_commands, &kind),
      cmocka_unit_test_prestate(test_info, &kind),
      cmocka_unit_test_prestate(test_settings, &kind),
      cmocka_unit_test_prestate(test_snapshot, &kind),
  };
  return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) {
  const struct CMUnitTest refused[] = {cmocka_unit_test(test_refused)};
  int failed = cmocka_run_group_tests_name("refused", refused, NULL, NULL);
  failed += run("epoll", NP_CARRIER_EPOLL, 0);
  struct np_err_detail detail;
  if (np_plane_uring_probe(&detail) != NP_ERR_OK) {
    print_message("io_uring not tested: %s\n", detail.text);
    return failed;
  }
  const struct CMUnitTest places[] = {cmocka_unit_test(test_ring_places)};
  failed += cmocka_run_group_tests_name("ring places", places, NULL, NULL);
  failed += run("io_uring", NP_CARRIER_URING, 0);
  failed += run("io_uring of 6.1", NP_CARRIER_URING, NP_URING_NO_BUNDLE);
  failed += run("io_uring of 5.19", NP_CARRIER_URING, NP_URING_NO_DEFER | NP_URING_NO_MULTISHOT | NP_URING_NO_BUNDLE);
  return failed;
}
