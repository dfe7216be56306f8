/* Opening and ending an AF_XDP socket: control thread, may block. */
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "io/afxdp/internal.h"

#define BIND_TRY_NS UINT64_C(2000000000)
#define BIND_PAUSE_NS_MIN UINT64_C(1000000)
#define BIND_PAUSE_NS_MAX UINT64_C(100000000)

static NP_PRINTF(3, 4) void explain(struct np_err_detail *detail, int sys, const char *format, ...) {
  if (detail == NULL) return;
  detail->sys = sys;
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(detail->text, sizeof detail->text, format, ap);
  va_end(ap);
  if (n < 0 || sys == 0 || (size_t)n >= sizeof detail->text) return;
  char buf[96];
  snprintf(detail->text + n, sizeof detail->text - (size_t)n, ": %s", strerror_r(sys, buf, sizeof buf));
}

/* What a failed call means to the operator. */
static enum np_err failed(const struct np_afxdp_args *a, int sys, const char *action, struct np_err_detail *detail) {
  switch (sys) {
    case EPERM:
    case EACCES:
      explain(detail, sys, "%s for %s queue %u (needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF)", action, a->ifname,
              a->queue);
      return NP_ERR_PERM;
    case ENOBUFS:
      explain(detail, sys, "%s for %s queue %u (needs CAP_IPC_LOCK or a higher memlock limit)", action, a->ifname,
              a->queue);
      return NP_ERR_PERM;
    case ENODEV:
    case ENXIO:
      explain(detail, sys, "%s for %s queue %u", action, a->ifname, a->queue);
      return NP_ERR_NODEV;
    case EBUSY:
      explain(detail, sys, "%s for %s queue %u (another program uses it)", action, a->ifname, a->queue);
      return NP_ERR_BUSY;
    case EOPNOTSUPP:
      explain(detail, sys, "%s for %s queue %u", action, a->ifname, a->queue);
      return NP_ERR_UNSUPPORTED;
    default:
      explain(detail, sys, "%s for %s queue %u", action, a->ifname, a->queue);
      return NP_ERR_SYS;
  }
}

/* Whether the interface's frames take several buffers. */
static bool in_pieces(const struct np_afxdp_args *a, const struct np_pool *pool) {
  return a->mtu_bytes > (pool->chunk_bytes == 2048 ? NP_AFXDP_MTU_2048 : NP_AFXDP_MTU_4096);
}

static enum np_err check(const struct np_afxdp_args *a, const struct np_pool *pool, struct np_err_detail *detail) {
  if (memchr(a->ifname, '\0', sizeof a->ifname) == NULL || a->ifname[0] == '\0') {
    explain(detail, 0, "ifname is empty or not terminated");
  } else if (a->ring < 64 || a->ring > 65536 || (a->ring & (a->ring - 1)) != 0) {
    explain(detail, 0, "ring of %s is %u, must be a power of two, 64 to 65536", a->ifname, a->ring);
  } else if (a->mtu_bytes < 1280 || a->mtu_bytes > NP_AFXDP_MTU_MAX) {
    explain(detail, 0, "mtu of %s is %u, must be 1280 to %u", a->ifname, a->mtu_bytes, NP_AFXDP_MTU_MAX);
  } else if (a->native == 0 && in_pieces(a, pool)) {
    explain(detail, 0, "mtu of %s is %u: frames in several buffers need the XDP program in native mode", a->ifname, a->mtu_bytes);
    return NP_ERR_UNSUPPORTED;
  } else if (a->zero_copy > 2) {
    explain(detail, 0, "zero_copy of %s is %u, must be 0 to 2", a->ifname, a->zero_copy);
  } else if (a->zero_copy == 1 && a->native == 0) {
    explain(detail, 0, "zero-copy on %s needs the XDP program in native mode", a->ifname);
    return NP_ERR_UNSUPPORTED;
  } else {
    return NP_ERR_OK;
  }
  return NP_ERR_INVALID;
}

static int set_size(int fd, int option, uint32_t count) {
  int value = (int)count;
  return setsockopt(fd, SOL_XDP, option, &value, sizeof value);
}

static int register_umem(struct np_afxdp *x, uint32_t ring) {
  struct xdp_umem_reg reg;
  memset(&reg, 0, sizeof reg);
  reg.addr = (uint64_t)(uintptr_t)x->pool->mem;
  reg.len = (uint64_t)x->pool->count * x->pool->chunk_bytes;
  reg.chunk_size = x->pool->chunk_bytes;
  reg.headroom = NP_BUF_HDR; /* the descriptor at the start of each chunk is ours */
  if (setsockopt(x->fd, SOL_XDP, XDP_UMEM_REG, &reg, sizeof reg) != 0) return errno;
  if (set_size(x->fd, XDP_UMEM_FILL_RING, ring) != 0) return errno;
  if (set_size(x->fd, XDP_UMEM_COMPLETION_RING, ring) != 0) return errno;
  if (set_size(x->fd, XDP_RX_RING, ring) != 0) return errno;
  if (set_size(x->fd, XDP_TX_RING, ring) != 0) return errno;
  return 0;
}

static int map_ring(int fd, struct np_afxdp_ring *r, const struct xdp_ring_offset *off, uint32_t count, size_t item_bytes,
                    uint64_t pgoff) {
  r->map_bytes = (size_t)off->desc + (size_t)count * item_bytes;
  void *map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)pgoff);
  if (map == MAP_FAILED) return errno;
  uint8_t *base = map;
  r->map = map;
  r->prod = (uint32_t *)(void *)(base + off->producer);
  r->cons = (uint32_t *)(void *)(base + off->consumer);
  r->flags = (uint32_t *)(void *)(base + off->flags);
  r->desc = base + off->desc;
  r->count = count;
  r->mask = count - 1;
  r->cached_prod = *r->prod;
  r->cached_cons = *r->cons;
  return 0;
}

static int map_rings(struct np_afxdp *x, uint32_t ring) {
  struct xdp_mmap_offsets off;
  socklen_t len = sizeof off;
  if (getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &len) != 0) return errno;
  if (len != sizeof off) return EPROTO;
  int sys = map_ring(x->fd, &x->fill, &off.fr, ring, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING);
  if (sys == 0) sys = map_ring(x->fd, &x->comp, &off.cr, ring, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING);
  if (sys == 0) sys = map_ring(x->fd, &x->rx, &off.rx, ring, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING);
  if (sys == 0) sys = map_ring(x->fd, &x->tx, &off.tx, ring, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
  return sys;
}

static uint64_t clock_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* One mode; EBUSY with growing pauses, because the kernel ends a closed socket later. */
static int bind_mode(const struct np_afxdp *x, uint32_t ifindex, uint32_t queue, uint16_t mode) {
  struct sockaddr_xdp addr = {
      .sxdp_family = AF_XDP,
      .sxdp_flags = (uint16_t)(mode | XDP_USE_NEED_WAKEUP | (x->sg ? NP_XDP_USE_SG : 0)),
      .sxdp_ifindex = ifindex,
      .sxdp_queue_id = queue,
  };
  uint64_t end = clock_ns() + BIND_TRY_NS;
  uint64_t pause = BIND_PAUSE_NS_MIN;
  for (;;) { /* bound: BIND_TRY_NS */
    if (bind(x->fd, (const struct sockaddr *)&addr, sizeof addr) == 0) return 0;
    if (errno != EBUSY || clock_ns() >= end) return errno;
    const struct timespec ts = {.tv_nsec = (long)pause};
    nanosleep(&ts, NULL);
    pause = np_min_u64(2 * pause, BIND_PAUSE_NS_MAX);
  }
}

static int bind_queue(struct np_afxdp *x, const struct np_afxdp_args *a, uint32_t ifindex) {
  if (a->zero_copy != 0 && a->native != 0) {
    int sys = bind_mode(x, ifindex, a->queue, XDP_ZEROCOPY);
    x->zero_copy = sys == 0;
    if (sys == 0 || a->zero_copy == 1 || (sys != EOPNOTSUPP && sys != EINVAL)) return sys;
  }
  return bind_mode(x, ifindex, a->queue, XDP_COPY);
}

static enum np_err make(struct np_afxdp *x, const struct np_afxdp_args *a, struct np_err_detail *detail) {
  uint32_t ifindex = a->ifindex != 0 ? a->ifindex : if_nametoindex(a->ifname);
  if (ifindex == 0) return failed(a, ENODEV, "find interface", detail);
  x->held = calloc(x->pool->count, 1);
  if (x->held == NULL) {
    explain(detail, 0, "open AF_XDP socket for %s queue %u: out of memory", a->ifname, a->queue);
    return NP_ERR_NOMEM;
  }
  x->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (x->fd < 0) return failed(a, errno, "open AF_XDP socket", detail);
  int sys = register_umem(x, a->ring);
  if (sys != 0) return failed(a, sys, "register packet memory", detail);
  sys = map_rings(x, a->ring);
  if (sys != 0) return failed(a, sys, "map AF_XDP rings", detail);
  /* In copy mode a frame counts against the send buffer until its receiver freed it; the
   * default of 208 KiB would stop sending before the ring is full. Without the right to
   * raise it, the ordinary limit stays. */
  int sndbuf = (int)np_min_u32(a->ring * x->pool->chunk_bytes, 64u << 20);
  if (setsockopt(x->fd, SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf, sizeof sndbuf) != 0) {
    (void)setsockopt(x->fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf);
  }
  sys = bind_queue(x, a, ifindex);
  if (x->sg && (sys == EINVAL || sys == EOPNOTSUPP)) {
    explain(detail, sys, "bind %s queue %u for an mtu of %u: frames in several buffers are refused by this kernel or driver (Linux 6.6 has them)",
            a->ifname, a->queue, a->mtu_bytes);
    return NP_ERR_UNSUPPORTED;
  }
  if (sys != 0) return failed(a, sys, "bind AF_XDP socket", detail);
  return NP_ERR_OK;
}

/* Room for a burst of whole windows (2,048 lost packets with 4 MiB in flight), and never
 * more than a quarter of the pool. */
static uint32_t default_ring(const struct np_pool *pool) {
  uint32_t ring = 4096;
  while (ring > 64 && ring > pool->count / 4) ring /= 2;
  return ring;
}

enum np_err np_afxdp_open(const struct np_afxdp_args *args, struct np_pool *pool, struct np_afxdp **out,
                          struct np_err_detail *detail) {
  *out = NULL;
  struct np_afxdp_args a = *args;
  if (a.ring == 0) a.ring = default_ring(pool);
  enum np_err err = check(&a, pool, detail);
  if (err != NP_ERR_OK) return err;
  struct np_afxdp *x = calloc(1, sizeof *x);
  if (x == NULL) {
    explain(detail, 0, "open AF_XDP socket: out of memory");
    return NP_ERR_NOMEM;
  }
  x->fd = -1;
  np_afxdp_plan(x, pool, a.ring);
  x->port.ops = &np_afxdp_ops;
  x->port.queue = (uint16_t)a.queue;
  x->port.mtu_bytes = a.mtu_bytes;
  x->sg = in_pieces(&a, pool);
  if (x->sg) x->port.caps |= NP_PORT_SG;
  memcpy(x->port.mac.b, a.mac, sizeof x->port.mac.b);
  err = make(x, &a, detail);
  if (err != NP_ERR_OK) {
    np_afxdp_free(x);
    return err;
  }
  *out = x;
  return NP_ERR_OK;
}

struct np_port_queue *np_afxdp_port(struct np_afxdp *x) { return &x->port; }
int np_afxdp_fd(const struct np_afxdp *x) { return x->fd; }
bool np_afxdp_is_zero_copy(const struct np_afxdp *x) { return x->zero_copy; }

void np_afxdp_stats(struct np_afxdp *x, struct np_queue_stats *out) {
  *out = np_port_counted(&x->port);
  struct xdp_statistics k;
  memset(&k, 0, sizeof k);
  socklen_t len = sizeof k;
  if (x->fd < 0 || getsockopt(x->fd, SOL_XDP, XDP_STATISTICS, &k, &len) != 0) return;
  out->rx_dropped += k.rx_dropped + k.rx_invalid_descs;
  out->rx_ring_full = k.rx_ring_full;
  out->fill_empty = k.rx_fill_ring_empty_descs;
  out->tx_invalid += k.tx_invalid_descs;
}

static void unmap_ring(struct np_afxdp_ring *r) {
  if (r->map != NULL) munmap(r->map, r->map_bytes);
  r->map = NULL;
}

void np_afxdp_shut(struct np_afxdp *x) {
  /* A mapped ring keeps the socket alive, so these go first; then close waits until
   * the kernel's receive side has let go. */
  unmap_ring(&x->fill);
  unmap_ring(&x->comp);
  unmap_ring(&x->rx);
  unmap_ring(&x->tx);
  if (x->fd >= 0) close(x->fd);
  x->fd = -1;
}

void np_afxdp_free(struct np_afxdp *x) {
  if (x == NULL) return;
  np_afxdp_shut(x);
  free(x->held);
  free(x);
}
