/* Streams that are not our own TCP's: the carriers of a core, beside the stack in each turn. */
#include <errno.h>

#include "core/internal.h"
#include "io/sock/sock.h"
#include "io/uring/uring.h"

#define NS_PER_US UINT64_C(1000)
/* With ports to poll as well, a carrier that had nothing is asked again only after this: asking may
 * be a system call, which a packet's way must not pay for each turn. */
#define QUIET_NS_MIN (4 * NS_PER_US)
#define QUIET_NS_MAX (32 * NS_PER_US)

/* ---- making and ending ---- */

void np_core_carriers_lay_out(const struct np_plane_config *c, uint32_t index, struct np_core_carrier_parts *parts,
                              size_t *at) {
  uint32_t slot = c->conns_max;
  for (uint32_t kind = 0; kind < NP_CARRIER_COUNT; kind++) {
    struct np_core_carrier_part *p = &parts->part[kind];
    if ((c->carriers & 1u << kind) == 0) continue;
    p->config = (struct np_carrier_config){
        .conns_max = c->sock_conns_max,
        .slot_base = slot,
        .rcv_buf_bytes = c->sock_rcv_buf_bytes != 0 ? c->sock_rcv_buf_bytes : NP_SOCK_BUF_DEFAULT_BYTES,
        .snd_buf_bytes = c->sock_snd_buf_bytes != 0 ? c->sock_snd_buf_bytes : NP_SOCK_BUF_DEFAULT_BYTES,
        .core_index = (uint8_t)index,
    };
    slot += p->config.conns_max;
    p->without = c->uring_without;
    p->off = *at;
    if (kind == NP_CARRIER_EPOLL) *at += np_epoll_bytes(&p->config);
    if (kind == NP_CARRIER_URING) *at += np_uring_bytes(&p->config);
    *at = (*at + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
  }
}

uint32_t np_core_carrier_sessions(const struct np_plane_config *c) {
  return (c->carriers != 0 ? c->sock_conns_max : 0) + c->rdma_conns_max;
}

/* Why there is no io_uring, and what would help. */
static void explain_uring(int sys, struct np_err_detail *detail) {
  const char *why = "open io_uring";
  switch (sys) {
    case ENOSYS:
      why = "open io_uring: this kernel was built without it, or a container's seccomp profile hides it (allow io_uring_setup, io_uring_enter, io_uring_register)";
      break;
    case EPERM:
    case EACCES:
      why = "open io_uring: refused by policy (sysctl kernel.io_uring_disabled=0; in a container allow io_uring_setup in its seccomp profile)";
      break;
    case EINVAL:
      why = "open io_uring: this kernel's lacks what is needed (Linux 5.19 or later; 6.1 is better)";
      break;
    case ENOMEM:
      why = "open io_uring: no memory to lock (kernels before 5.12 need LimitMEMLOCK=infinity)";
      break;
    default:
      break;
  }
  np_err_detail_set(detail, sys, "%s", why);
}

enum np_err np_plane_uring_probe(struct np_err_detail *detail) {
  int sys = np_uring_probe();
  if (sys == 0) return NP_ERR_OK;
  explain_uring(sys, detail);
  if (sys == ENOMEM) return NP_ERR_NOMEM;
  return sys == ENOSYS || sys == EPERM || sys == EACCES || sys == EINVAL ? NP_ERR_UNSUPPORTED : NP_ERR_SYS;
}

enum np_err np_core_carriers_init(struct np_core *core, uint8_t *base, const struct np_core_carrier_parts *parts,
                                  struct np_err_detail *detail) {
  const struct np_carrier_env env = {
      .pool = &core->pool,
      .wheel = &core->wheel,
      .counters = core->counters,
      .accept = np_core_accept,
      .ctx = core,
  };
  for (uint32_t kind = 0; kind < NP_CARRIER_COUNT; kind++) {
    const struct np_core_carrier_part *p = &parts->part[kind];
    if (p->config.conns_max == 0) continue;
    int sys = 0;
    enum np_err err = NP_ERR_UNSUPPORTED;
    struct np_carrier *carrier = NULL;
    if (kind == NP_CARRIER_EPOLL) err = np_epoll_init(base + p->off, &p->config, &env, core->now_ns, &carrier, &sys);
    if (kind == NP_CARRIER_URING) {
      err = np_uring_init(base + p->off, &p->config, &env, p->without, core->now_ns, &carrier, &sys);
    }
    if (err != NP_ERR_OK) {
      if (kind == NP_CARRIER_URING) {
        explain_uring(sys, detail);
      } else {
        np_err_detail_set(detail, sys, "open kernel sockets of core %u", core->index);
      }
      np_core_carriers_fini(core);
      return err;
    }
    core->carrier[core->carrier_count++] = (struct np_core_carrier){.c = carrier, .kind = (uint8_t)kind};
  }
  return NP_ERR_OK;
}

int np_core_carriers_wake_by(struct np_core *core, int wake_fd) {
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    struct np_carrier *c = core->carrier[i].c;
    int sys = c->ops->wake_by == NULL ? 0 : c->ops->wake_by(c, wake_fd);
    if (sys != 0) return sys;
  }
  return 0;
}

void np_core_carriers_fini(struct np_core *core) {
  for (uint32_t i = 0; i < core->carrier_count; i++) core->carrier[i].c->ops->fini(core->carrier[i].c);
  core->carrier_count = 0;
}

/* ---- the turn ---- */

uint32_t np_core_carriers_poll(struct np_core *core, bool quiet) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    struct np_core_carrier *cc = &core->carrier[i];
    if (!quiet && core->now_ns < cc->next_ns) continue;
    uint32_t n = cc->c->ops->poll(cc->c, core->now_ns);
    if (n > 0 || quiet) {
      cc->quiet_ns = 0;
      cc->next_ns = 0;
    } else {
      cc->quiet_ns = (uint32_t)np_min_u64(cc->quiet_ns + QUIET_NS_MIN, QUIET_NS_MAX);
      cc->next_ns = core->now_ns + cc->quiet_ns;
    }
    found += n;
  }
  return found;
}

bool np_core_carriers_flush(struct np_core *core) {
  bool left = false;
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    struct np_carrier *c = core->carrier[i].c;
    left |= c->ops->flush(c, core->now_ns);
  }
  return left;
}

bool np_core_carriers_busy(const struct np_core *core) {
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    if (core->carrier[i].c->ops->busy(core->carrier[i].c)) return true;
  }
  return false;
}

uint32_t np_core_carriers_posted(const struct np_core *core) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < core->carrier_count; i++) n += core->carrier[i].c->posted_count;
  return n;
}

void np_core_carriers_stop(struct np_core *core) {
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    core->carrier[i].c->ops->abort_all(core->carrier[i].c, core->now_ns);
  }
}

/* ---- names ---- */

struct np_carrier *np_core_carrier_of(const struct np_core *core, uint32_t kind) {
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    if (core->carrier[i].kind == kind) return core->carrier[i].c;
  }
  return NULL;
}

struct np_carrier *np_core_carrier_at(const struct np_core *core, uint64_t handle) {
  uint32_t slot = (uint32_t)handle & ((1u << NP_HANDLE_SLOT_BITS) - 1u);
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    struct np_carrier *c = core->carrier[i].c;
    if (slot >= c->slot_base && slot - c->slot_base < c->slot_count) return c;
  }
  return NULL;
}

struct np_stream *np_core_stream(struct np_core *core, uint64_t handle) {
  struct np_carrier *c = np_core_carrier_at(core, handle);
  return c != NULL ? c->ops->stream(c, handle) : np_tcp_stream(core->tcp, handle);
}

/* The cursor counts slots: TCP's first, then each carrier's from its base on. */
uint32_t np_core_connections(struct np_core *core, uint32_t *cursor, struct np_conn_info *out, uint32_t max) {
  uint32_t n = 0;
  uint32_t at = *cursor;
  if (core->carrier_count == 0 || at < core->carrier[0].c->slot_base) {
    n = np_tcp_connections(core->tcp, &at, out, max);
    if (at == 0 && core->carrier_count > 0) at = core->carrier[0].c->slot_base;
  }
  for (uint32_t i = 0; at != 0 && i < core->carrier_count && n < max; i++) {
    struct np_carrier *c = core->carrier[i].c;
    if (at < c->slot_base || at - c->slot_base >= c->slot_count) continue;
    uint32_t local = at - c->slot_base;
    n += c->ops->connections(c, &local, out + n, max - n);
    at = c->slot_base + local;
    if (local == 0) at = i + 1 < core->carrier_count ? core->carrier[i + 1].c->slot_base : 0;
  }
  *cursor = at;
  return n;
}

/* ---- commands ---- */

enum np_err np_core_carrier_listen(struct np_core *core, const struct np_cmd_listen *args, struct np_core_listener *l) {
  struct np_carrier *c = np_core_carrier_of(core, args->carrier);
  if (c == NULL) return NP_ERR_UNSUPPORTED;
  if (args->fd < 0 && args->carrier != NP_CARRIER_RDMA) return NP_ERR_INVALID;
  const struct np_carrier_listen listen = {.fd = args->fd, .conns_max = args->conns_max, .ctx = l, .handle = l->handle};
  return c->ops->listen(c, &listen, &l->inner);
}

enum np_err np_core_carrier_connect(struct np_core *core, const struct np_cmd_connect *args, struct np_session *session,
                                    struct np_stream **out) {
  struct np_carrier *c = np_core_carrier_of(core, args->carrier);
  if (c == NULL) return NP_ERR_UNSUPPORTED;
  if (args->fd < 0) return NP_ERR_INVALID;
  return c->ops->connect(c, args->fd, session, core->now_ns, out);
}
