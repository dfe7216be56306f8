/* Settings of a live connection (enum np_conn_setting) on a kernel socket: a system call or
 * two each, when somebody asks. */
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "io/sock/internal.h"
#include "np/abi.h"

static enum np_err set_int(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value) == 0 ? NP_ERR_OK : NP_ERR_SYS;
}

/* idle_ms of silence before a probe, and no longer between probes than that; 0 none. */
static enum np_err set_keepalive(int fd, uint32_t idle_ms) {
  if (idle_ms == 0) return set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
  int seconds = (int)((idle_ms + 999) / 1000);
  enum np_err err = set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds);
  if (err == NP_ERR_OK) err = set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds < 75 ? seconds : 75);
  return err == NP_ERR_OK ? set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1) : err;
}

/* Unix sockets never delay and tell of the peer's end at once: what asks for that is granted. */
static enum np_err set_unix(uint32_t what, uint32_t value) {
  if (what == NP_CONN_SET_KEEPALIVE || (what == NP_CONN_SET_NAGLE && value == 0)) return NP_ERR_OK;
  return NP_ERR_UNSUPPORTED;
}

static bool in_range(uint32_t what, uint32_t value) {
  switch (what) {
    case NP_CONN_SET_KEEPALIVE:
    case NP_CONN_SET_USER_TIMEOUT: return value == 0 || (value >= 1000 && value <= 86400000);
    case NP_CONN_SET_NAGLE: return value <= 1;
    case NP_CONN_SET_CC: return value < NP_CC_COUNT;
    default: return false;
  }
}

enum np_err np_sock_set(struct np_carrier *base, uint64_t handle, uint32_t what, uint32_t value) {
  struct np_stream *stream = np_sock_stream(base, handle);
  if (stream == NULL) return NP_ERR_STALE;
  struct np_sock_conn *c = NP_CONTAINER_OF(stream, struct np_sock_conn, stream);
  if (!in_range(what, value)) return NP_ERR_INVALID;
  if (c->fd < 0) return NP_ERR_STALE;
  if (c->flags & NP_SK_UNIX) return set_unix(what, value);
  switch (what) {
    case NP_CONN_SET_KEEPALIVE: return set_keepalive(c->fd, value);
    case NP_CONN_SET_USER_TIMEOUT: return set_int(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)value);
    case NP_CONN_SET_NAGLE: return set_int(c->fd, IPPROTO_TCP, TCP_NODELAY, value == 0);
    default: return NP_ERR_UNSUPPORTED; /* the kernel's congestion controls are chosen when the socket is made */
  }
}
