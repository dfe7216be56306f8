/* A core with kernel sockets, and peers on the other end of loopback and Unix sockets. */
#ifndef NP_TEST_SOCK_RIG_H
#define NP_TEST_SOCK_RIG_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "test/unit/core_rig.h"

#define SR_CONNS 64u
#define SR_RCV_BYTES (192u << 10)

struct sock_rig {
  struct rig r;
  enum np_carrier_kind kind;
  uint32_t fds_before; /* descriptors of this process */
  uint16_t port;       /* of the last TCP listener */
  struct sockaddr_un path;
  socklen_t path_len;
};

static inline uint32_t sr_open_fds(void) {
  DIR *d = opendir("/proc/self/fd");
  assert_non_null(d);
  uint32_t n = 0;
  while (readdir(d) != NULL) n++; /* bound: the process's limit of descriptors */
  closedir(d);
  return n;
}

static inline void sr_init(struct sock_rig *t, enum np_carrier_kind kind, const struct np_plane_config *config) {
  struct np_plane_config c = *config;
  memset(t, 0, sizeof *t);
  t->fds_before = sr_open_fds();
  t->kind = kind;
  c.carriers = 1u << kind;
  rig_init(&t->r, &c, 0);
}

static inline struct np_plane_config sr_config(void) {
  struct np_plane_config c = rig_config();
  c.bufs_per_core = 2048;
  c.sock_conns_max = SR_CONNS;
  c.sock_rcv_buf_bytes = SR_RCV_BYTES;
  c.sock_snd_buf_bytes = 64u << 10;
  return c;
}

/* Ends the core; every buffer and descriptor is back. */
static inline void sr_free(struct sock_rig *t) {
  rig_free(&t->r);
  assert_int_equal(sr_open_fds(), t->fds_before);
}

static inline void sr_nonblock(int fd) { assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0); }

static inline void sr_loopback(struct sockaddr_in *a, uint16_t port) {
  *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
  a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

/* A listening socket; its address is left in t. */
static inline int sr_listen_fd(struct sock_rig *t, bool is_unix) {
  int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  if (is_unix) { /* an abstract name: nothing to clean up */
    t->path = (struct sockaddr_un){.sun_family = AF_UNIX};
    assert_int_equal(bind(fd, (struct sockaddr *)&t->path, sizeof(sa_family_t)), 0);
    t->path_len = sizeof t->path;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&t->path, &t->path_len), 0);
  } else {
    struct sockaddr_in a;
    sr_loopback(&a, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    socklen_t len = sizeof a;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    t->port = ntohs(a.sin_port);
  }
  assert_int_equal(listen(fd, 4096), 0);
  return fd;
}

static inline uint64_t sr_listen(struct sock_rig *t, enum np_session_kind kind, bool is_unix, uint32_t conns_max) {
  struct np_cmd_listen args = {
      .session_kind = (uint8_t)kind, .conns_max = conns_max, .carrier = (uint8_t)t->kind, .fd = sr_listen_fd(t, is_unix)};
  struct np_event ev = rig_command(&t->r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  if (ev.err != NP_ERR_OK) fail_msg("listen: %s", np_err_text((enum np_err)ev.err));
  return ev.handle;
}

/* A peer's connection, made but not accepted yet. */
static inline int sr_dial(struct sock_rig *t, bool is_unix) {
  int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  if (is_unix) {
    assert_int_equal(connect(fd, (struct sockaddr *)&t->path, t->path_len), 0);
  } else {
    struct sockaddr_in a;
    sr_loopback(&a, t->port);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
  }
  sr_nonblock(fd);
  return fd;
}

/* Turns of a millisecond of the core's clock each. */
static inline void sr_turns(struct sock_rig *t, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) rig_turn(&t->r, 1000000);
}

/* Turns until n connections are there; loopback needs a moment of the kernel's now and then. */
static inline void sr_until(struct sock_rig *t, enum np_counter what, uint64_t n) {
  for (uint32_t i = 0; i < 2000 && rig_counter(&t->r, what) != n; i++) {
    sr_turns(t, 1);
    if (i > 16) usleep(500);
  }
  assert_int_equal(rig_counter(&t->r, what), n);
}

static inline uint8_t sr_byte(uint64_t at) { return (uint8_t)(at * 2654435761u >> 7); }

/* Reads what fd has now, which has to be the bytes of sr_byte from *at on. Return: false at its end or error. */
static inline bool sr_read(int fd, uint64_t *at) {
  uint8_t in[16384];
  for (;;) {
    ssize_t n = recv(fd, in, sizeof in, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false;
    for (ssize_t i = 0; i < n; i++) {
      if (in[i] != sr_byte(*at)) fail_msg("byte %llu is wrong", (unsigned long long)*at);
      ++*at;
    }
  }
}

/* Writes from *at on, until end or the kernel takes no more. */
static inline void sr_write(int fd, uint64_t *at, uint64_t end) {
  uint8_t out[16384];
  while (*at < end) {
    size_t n = end - *at < sizeof out ? (size_t)(end - *at) : sizeof out;
    for (size_t i = 0; i < n; i++) out[i] = sr_byte(*at + i);
    ssize_t sent = send(fd, out, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) return;
    *at += (uint64_t)sent;
  }
}

#endif
