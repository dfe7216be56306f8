/* Opening a queue: control thread, may block. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/raw/internal.h"

/* Not in every kernel header that this builds with. */
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23 /* Linux 4.20 */
#endif
#ifndef PACKET_FANOUT_FLAG_UNIQUEID
#define PACKET_FANOUT_FLAG_UNIQUEID 0x2000
#endif

#define RING_DEFAULT 4096u
#define RING_MIN 64u
#define RING_MAX 65536u
#define BLOCK_BYTES (1u << 20)
#define SOCKET_BYTES (16 << 20) /* send and receive buffers; the latter is for frames longer than the ring's */
#define QUEUES_MAX 64u
/* What the kernel puts before a frame; TPACKET2_HDRLEN, whose macro mixes signs. */
#define HEAD_BYTES ((uint32_t)(32u + sizeof(struct sockaddr_ll)))
_Static_assert(sizeof(struct tpacket2_hdr) <= 32, "HEAD_BYTES");

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
static enum np_err failed(const struct np_raw *r, int sys, const char *action, struct np_err_detail *detail) {
  bool packet = r->kind == NP_RAW_PACKET;
  switch (sys) {
    case EPERM:
    case EACCES:
      explain(detail, sys, "%s for %s queue %u (needs %s)", action, r->ifname, r->port.queue,
              packet ? "CAP_NET_RAW" : "CAP_NET_ADMIN and /dev/net/tun");
      return NP_ERR_PERM;
    case ENODEV:
    case ENXIO:
      explain(detail, sys, "%s for %s queue %u", action, r->ifname, r->port.queue);
      return NP_ERR_NODEV;
    case EBUSY:
      explain(detail, sys, "%s for %s queue %u (another program uses it)", action, r->ifname, r->port.queue);
      return NP_ERR_BUSY;
    case EAFNOSUPPORT:
    case EPROTONOSUPPORT:
    case ENOENT:
      explain(detail, sys, "%s for %s queue %u (%s)", action, r->ifname, r->port.queue,
              packet ? "this kernel has no packet sockets" : "this kernel has no TAP devices: modprobe tun");
      return NP_ERR_UNSUPPORTED;
    case ENOMEM:
      explain(detail, sys, "%s for %s queue %u", action, r->ifname, r->port.queue);
      return NP_ERR_NOMEM;
    default:
      explain(detail, sys, "%s for %s queue %u", action, r->ifname, r->port.queue);
      return NP_ERR_SYS;
  }
}

static enum np_err check(const struct np_raw_args *a, struct np_err_detail *detail) {
  if (memchr(a->ifname, '\0', sizeof a->ifname) == NULL || a->ifname[0] == '\0') {
    explain(detail, 0, "ifname is empty or not terminated");
  } else if (a->kind != NP_RAW_PACKET && a->kind != NP_RAW_TAP) {
    explain(detail, 0, "kind of %s is %u, must be %u or %u", a->ifname, a->kind, NP_RAW_PACKET, NP_RAW_TAP);
  } else if (a->queues == 0 || a->queues > QUEUES_MAX || a->queue >= a->queues) {
    explain(detail, 0, "queue of %s is %u of %u, must be one of 1 to %u", a->ifname, a->queue, a->queues, QUEUES_MAX);
  } else if (a->ring < RING_MIN || a->ring > RING_MAX || (a->ring & (a->ring - 1)) != 0) {
    explain(detail, 0, "ring of %s is %u, must be a power of two, %u to %u", a->ifname, a->ring, RING_MIN, RING_MAX);
  } else if (a->mtu_bytes < 1280 || a->mtu_bytes > NP_RAW_MTU_MAX) {
    explain(detail, 0, "mtu of %s is %u, must be 1280 to %u", a->ifname, a->mtu_bytes, NP_RAW_MTU_MAX);
  } else {
    return NP_ERR_OK;
  }
  return NP_ERR_INVALID;
}

/* ---- AF_PACKET ---- */

static int set_int(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0 ? 0 : errno;
}

/* The larger of the two: more than the system's limit where we may. */
static void set_buffers(int fd) {
  if (set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BYTES) != 0) (void)set_int(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BYTES);
  if (set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BYTES) != 0) (void)set_int(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BYTES);
}

static uint32_t round16(uint32_t n) { return (n + TPACKET_ALIGNMENT - 1u) & ~(TPACKET_ALIGNMENT - 1u); }

/* Frames of the ring hold what the MTU allows, behind the kernel's header and ours. */
static int map_ring(struct np_raw *r, uint32_t ring) {
  uint32_t head = round16(HEAD_BYTES + 16u) + NP_RAW_VNET_BYTES;
  r->frame_bytes = round16(head + r->port.mtu_bytes + NP_RAW_LINK_BYTES);
  if (r->frame_bytes < 2048) r->frame_bytes = 2048; /* none crosses a page more than it must */
  r->block_bytes = BLOCK_BYTES;
  r->frames_per_block = BLOCK_BYTES / r->frame_bytes;
  uint32_t blocks = (ring + r->frames_per_block - 1) / r->frames_per_block;
  r->frame_count = blocks * r->frames_per_block;
  struct tpacket_req req = {
      .tp_block_size = BLOCK_BYTES,
      .tp_block_nr = blocks,
      .tp_frame_size = r->frame_bytes,
      .tp_frame_nr = r->frame_count,
  };
  if (setsockopt(r->fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof req) != 0) return errno;
  r->ring_bytes = (size_t)blocks * BLOCK_BYTES;
  void *map = mmap(NULL, r->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
  if (map == MAP_FAILED) return errno;
  r->ring = map;
  return 0;
}

static enum np_err bind_packet(struct np_raw *r, struct np_err_detail *detail) {
  struct sockaddr_ll ll = {
      .sll_family = AF_PACKET, .sll_protocol = __builtin_bswap16(ETH_P_ALL), .sll_ifindex = (int)r->ifindex};
  if (bind(r->fd, (const struct sockaddr *)&ll, sizeof ll) != 0) return failed(r, errno, "bind packet socket", detail);
  socklen_t len = sizeof ll;
  if (getsockname(r->fd, (struct sockaddr *)&ll, &len) != 0) return failed(r, errno, "ask for link type", detail);
  if (ll.sll_hatype == ARPHRD_ETHER || ll.sll_hatype == ARPHRD_LOOPBACK) return NP_ERR_OK;
  explain(detail, 0, "link type of %s is %u, only Ethernet (%u) is spoken", r->ifname, ll.sll_hatype, ARPHRD_ETHER);
  return NP_ERR_UNSUPPORTED;
}

/* Shares the device's flows between its queues by their hash. The first asks for a number that nobody
 * has, the others join it. */
static int join_fanout(const struct np_raw *r, struct np_raw_args *a) {
  if (a->queues == 1) return 0;
  uint32_t type = PACKET_FANOUT_HASH;
  if (a->queue == 0) {
    a->fanout = 0;
    type |= PACKET_FANOUT_FLAG_UNIQUEID;
  }
  int sys = set_int(r->fd, SOL_PACKET, PACKET_FANOUT, (int)(type << 16 | (a->fanout & 0xffffu)));
  if (sys != 0 || a->queue != 0) return sys;
  int id = 0;
  socklen_t len = sizeof id;
  if (getsockopt(r->fd, SOL_PACKET, PACKET_FANOUT, &id, &len) != 0) return errno;
  a->fanout = (uint32_t)id & 0xffffu;
  return 0;
}

static enum np_err open_packet(struct np_raw *r, struct np_raw_args *a, struct np_err_detail *detail) {
  r->ifindex = a->ifindex != 0 ? a->ifindex : if_nametoindex(a->ifname);
  if (r->ifindex == 0) return failed(r, ENODEV, "find interface", detail);
  a->ifindex = r->ifindex;
  r->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* protocol 0: nothing comes yet */
  if (r->fd < 0) return failed(r, errno, "open packet socket", detail);
  int sys = set_int(r->fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2);
  if (sys != 0) return failed(r, sys, "choose the ring's version", detail);
  r->vnet = set_int(r->fd, SOL_PACKET, PACKET_VNET_HDR, 1) == 0;
  /* From here on, frames longer than the ring's are kept for recv(2). */
  sys = set_int(r->fd, SOL_PACKET, PACKET_COPY_THRESH, 1);
  if (sys != 0) return failed(r, sys, "ask for long frames", detail);
  sys = set_int(r->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
  if (sys != 0) return failed(r, sys, "leave out what the kernel sends (Linux 4.20)", detail);
  set_buffers(r->fd);
  sys = map_ring(r, a->ring);
  if (sys != 0) return failed(r, sys, "make the receive ring", detail);
  enum np_err err = bind_packet(r, detail);
  if (err != NP_ERR_OK) return err;
  sys = join_fanout(r, a);
  if (sys != 0) return failed(r, sys, "join the queues' group", detail);
  /* TCP's offloads are the kernel's own code where the device has none. */
  r->port.caps = NP_PORT_SG | (r->vnet ? NP_PORT_TX_CSUM | NP_PORT_TSO : 0);
  return NP_ERR_OK;
}

/* ---- TAP ---- */

static int set_name(const struct np_raw *r, struct ifreq *ifr) {
  memset(ifr, 0, sizeof *ifr);
  memcpy(ifr->ifr_name, r->ifname, sizeof r->ifname);
  return r->ctl;
}

/* The kernel's end: its MAC, its MTU, and up. */
static int set_up_tap(struct np_raw *r, const struct np_raw_args *a) {
  struct ifreq ifr;
  if ((a->flags & NP_RAW_F_KERNEL_MAC) != 0) {
    set_name(r, &ifr);
    ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(ifr.ifr_hwaddr.sa_data, a->mac, sizeof a->mac);
    if (ioctl(r->ctl, SIOCSIFHWADDR, &ifr) != 0) return errno;
  }
  set_name(r, &ifr);
  ifr.ifr_mtu = (int)a->mtu_bytes;
  if (ioctl(r->ctl, SIOCSIFMTU, &ifr) != 0) return errno;
  set_name(r, &ifr);
  if (ioctl(r->ctl, SIOCGIFFLAGS, &ifr) != 0) return errno;
  ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP);
  return ioctl(r->ctl, SIOCSIFFLAGS, &ifr) == 0 ? 0 : errno;
}

/* The stack's MAC where the caller left it to us: the kernel's end has one of its own, and there are only two. */
static int learn_tap(struct np_raw *r, struct np_raw_args *a) {
  static const uint8_t none[6];
  struct ifreq ifr;
  set_name(r, &ifr);
  if (ioctl(r->ctl, SIOCGIFHWADDR, &ifr) != 0) return errno;
  if (memcmp(a->mac, none, sizeof none) == 0) {
    memcpy(a->mac, ifr.ifr_hwaddr.sa_data, sizeof a->mac);
    a->mac[5] ^= 1u;
  }
  if (ioctl(r->ctl, SIOCGIFINDEX, &ifr) != 0) return errno;
  a->ifindex = r->ifindex = (uint32_t)ifr.ifr_ifindex;
  return 0;
}

static enum np_err open_tap(struct np_raw *r, struct np_raw_args *a, struct np_err_detail *detail) {
  r->scratch = malloc(NP_RAW_FRAME_MAX);
  if (r->scratch == NULL) return failed(r, ENOMEM, "take memory", detail);
  r->ctl = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (r->ctl < 0) return failed(r, errno, "open a socket", detail);
  r->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (r->fd < 0) return failed(r, errno, "open /dev/net/tun", detail);
  struct ifreq ifr;
  set_name(r, &ifr);
  ifr.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (a->queues > 1 ? IFF_MULTI_QUEUE : 0));
  if (ioctl(r->fd, TUNSETIFF, &ifr) != 0) {
    if (errno == EINVAL) {
      explain(detail, EINVAL, "make TAP device %s: the name belongs to another kind of device, or to a TAP with another number of queues", r->ifname);
      return NP_ERR_EXISTS;
    }
    return failed(r, errno, "make TAP device", detail);
  }
  r->vnet = true;
  int size = (int)NP_RAW_VNET_BYTES;
  if (ioctl(r->fd, TUNSETVNETHDRSZ, &size) != 0) return failed(r, errno, "set TAP header size", detail);
  bool offload = (a->flags & NP_RAW_F_NO_OFFLOAD) == 0;
  unsigned long take = offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN : 0;
  if (ioctl(r->fd, TUNSETOFFLOAD, take) != 0) return failed(r, errno, "set TAP offloads", detail);
  int sys = a->queue == 0 ? set_up_tap(r, a) : 0;
  if (sys == 0) sys = learn_tap(r, a);
  if (sys != 0) return failed(r, sys, "set up TAP device", detail);
  r->port.caps = NP_PORT_SG | NP_PORT_TX_CSUM | NP_PORT_TSO;
  return NP_ERR_OK;
}

enum np_err np_raw_open(struct np_raw_args *args, struct np_pool *pool, struct np_port_queue **out, int *out_fd,
                        struct np_err_detail *detail) {
  *out = NULL;
  if (args->ring == 0) args->ring = RING_DEFAULT;
  enum np_err err = check(args, detail);
  if (err != NP_ERR_OK) return err;
  struct np_raw *r = calloc(1, sizeof *r);
  if (r == NULL || (r->tx = calloc(1, sizeof *r->tx)) == NULL) {
    free(r);
    explain(detail, 0, "open queue %u of %s: out of memory", args->queue, args->ifname);
    return NP_ERR_NOMEM;
  }
  r->fd = r->ctl = -1;
  r->pool = pool;
  r->kind = args->kind;
  /* As the smallest share that an AF_XDP queue keeps posted: without it a core whose buffers all hold
   * unacknowledged data could receive no acknowledgment. */
  r->reserve_count = np_max_u32(pool->count / 64u, 8u);
  memcpy(r->ifname, args->ifname, sizeof r->ifname);
  r->port.ops = args->kind == NP_RAW_PACKET ? &np_raw_packet_ops : &np_raw_tap_ops;
  r->port.queue = (uint16_t)args->queue;
  r->port.mtu_bytes = args->mtu_bytes;
  r->port.tso_bytes_max = 65535;
  err = args->kind == NP_RAW_PACKET ? open_packet(r, args, detail) : open_tap(r, args, detail);
  if (err != NP_ERR_OK) {
    np_raw_free(r);
    return err;
  }
  memcpy(r->port.mac.b, args->mac, sizeof r->port.mac.b);
  *out = &r->port;
  *out_fd = r->fd;
  return NP_ERR_OK;
}
