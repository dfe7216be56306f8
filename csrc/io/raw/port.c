/* The port's vtable, for both kinds. */
#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/raw/internal.h"

void np_raw_note_error(struct np_raw *r, int error) {
  if (error == ENXIO || error == ENODEV || error == EBADF || error == EBADFD) r->port.gone = true;
  if (r->port.gone || error == ENETDOWN || error == EIO) r->port.down = true;
}

void np_raw_take_vnet(struct np_buf *b, const struct virtio_net_hdr *h) {
  /* NEEDS_CSUM: never left this machine, the sum is unfinished. DATA_VALID: the device checked it. */
  if ((h->flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID)) != 0) b->flags |= NP_BUF_L4_CSUM_OK;
}

struct np_buf *np_raw_append(struct np_raw *r, struct np_buf *tail, const uint8_t *bytes, uint32_t len) {
  while (len > 0) { /* bound: NP_RAW_PIECES_MAX, each takes a buffer's room */
    struct np_buf *b = np_pool_get_rx(r->pool);
    if (b == NULL) return NULL;
    uint32_t n = np_min_u32(len, np_buf_tailroom(b));
    memcpy(np_buf_append(b, n), bytes, n);
    bytes += n;
    len -= n;
    tail->next = b;
    tail = b;
  }
  return tail;
}

static void raw_flush(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  if (NP_UNLIKELY(!r->reserved)) { /* the first, on the core */
    r->pool->reserve_count += r->reserve_count;
    r->reserved = true;
  }
  if (r->tx->head != r->tx->count) np_raw_send(r);
}

static int raw_fd(struct np_port_queue *q) { return np_raw_of(q)->fd; }

static bool packet_busy(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  return r->tx->head != r->tx->count || np_raw_packet_ready(r);
}

static bool tap_busy(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  return r->tx->head != r->tx->count; /* poll(2) finds what came */
}

/* Whether the device is up. By name: one that was renamed counts as up. */
static bool is_up(const struct np_raw *r) {
  struct ifreq ifr;
  memset(&ifr, 0, sizeof ifr);
  memcpy(ifr.ifr_name, r->ifname, sizeof r->ifname);
  if (ioctl(r->ctl >= 0 ? r->ctl : r->fd, SIOCGIFFLAGS, &ifr) != 0) return true;
  return (ifr.ifr_flags & IFF_UP) != 0;
}

/* Turns by turns: whether the device is still ours (an unregistered one of the same name may be back
 * already), and whether it is up. A socket's pending error, which ends each poll(2), is cleared by asking for it. */
static void packet_check(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  if (r->port.gone) return;
  int error = 0;
  socklen_t len = sizeof error;
  if ((r->check_tick++ & 1u) != 0) {
    q->down = !is_up(r);
    return;
  }
  if (getsockopt(r->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error == 0) return;
  struct sockaddr_ll ll;
  len = sizeof ll;
  if (getsockname(r->fd, (struct sockaddr *)&ll, &len) == 0 && ll.sll_ifindex == (int)r->ifindex) {
    q->down = !is_up(r);
  } else {
    np_raw_note_error(r, ENODEV);
  }
}

static void tap_check(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  if (r->port.gone) return;
  if ((r->check_tick++ & 1u) != 0) {
    q->down = !is_up(r);
    return;
  }
  struct ifreq ifr;
  memset(&ifr, 0, sizeof ifr);
  if (ioctl(r->fd, TUNGETIFF, &ifr) != 0) {
    np_raw_note_error(r, ENODEV);
  } else {
    memcpy(r->ifname, ifr.ifr_name, sizeof r->ifname); /* it may have been renamed */
  }
}

/* Reading the kernel's numbers sets them to zero, so they are added up. Any thread. */
static uint64_t kernel_drops(struct np_raw *r) {
  struct tpacket_stats k = {0};
  socklen_t len = sizeof k;
  bool ok = r->kind == NP_RAW_PACKET && r->fd >= 0 && getsockopt(r->fd, SOL_PACKET, PACKET_STATISTICS, &k, &len) == 0;
  return __atomic_add_fetch(&r->kernel_drops, ok ? k.tp_drops : 0, __ATOMIC_RELAXED);
}

static void raw_statistics(struct np_port_queue *q, struct np_queue_stats *out) {
  *out = np_port_counted(q);
  out->rx_ring_full = kernel_drops(np_raw_of(q));
}

/* The kernel holds no buffer of ours, so there is only the descriptor to close. */
static void raw_shut(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  if (r->ring != NULL) munmap(r->ring, r->ring_bytes);
  if (r->fd >= 0) close(r->fd);
  if (r->ctl >= 0) close(r->ctl);
  r->ring = NULL;
  r->fd = r->ctl = -1;
}

static void raw_reclaim(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  np_raw_tx_drop(r);
  if (r->reserved) r->pool->reserve_count -= r->reserve_count;
  r->reserved = false;
}

static void raw_free(struct np_port_queue *q) {
  struct np_raw *r = np_raw_of(q);
  raw_shut(q);
  free(r->scratch);
  free(r->tx);
  free(r);
}

void np_raw_free(struct np_raw *r) { raw_free(&r->port); }

const struct np_port_ops np_raw_packet_ops = {
    .name = "af_packet",
    .rx = np_raw_packet_rx,
    .tx = np_raw_tx,
    .flush = raw_flush,
    .fd = raw_fd,
    .busy = packet_busy,
    .check = packet_check,
    .statistics = raw_statistics,
    .shut = raw_shut,
    .reclaim = raw_reclaim,
    .free = raw_free,
};

const struct np_port_ops np_raw_tap_ops = {
    .name = "tap",
    .rx = np_raw_tap_rx,
    .tx = np_raw_tx,
    .flush = raw_flush,
    .fd = raw_fd,
    .busy = tap_busy,
    .check = tap_check,
    .statistics = raw_statistics,
    .shut = raw_shut,
    .reclaim = raw_reclaim,
    .free = raw_free,
};
