/* Receiving from an AF_PACKET socket: a mapped ring of frames of the size of the MTU (TPACKET_V2). A
 * longer frame, which the kernel's segment and receive offloads make, is announced there and read from the
 * socket in one call. */
#include <errno.h>

#include "io/raw/internal.h"

#define VLAN_BYTES 4u
#define MACS_BYTES 12u
#define ETH_BYTES 14u
#define TPID_8021Q 0x8100u

static struct tpacket2_hdr *frame_at(const struct np_raw *r, uint32_t i) {
  uint8_t *block = r->ring + (size_t)(i / r->frames_per_block) * r->block_bytes;
  return (struct tpacket2_hdr *)(void *)(block + (size_t)(i % r->frames_per_block) * r->frame_bytes);
}

/* acquire pairs with the kernel's barrier between filling a frame and giving it to us */
static uint32_t status_of(const struct tpacket2_hdr *h) { return __atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE); }

bool np_raw_packet_ready(const struct np_raw *r) {
  return (status_of(frame_at(r, r->head)) & TP_STATUS_USER) != 0;
}

/* The kernel takes a frame's VLAN tag out; the stack expects it where it was on the wire. */
static void put_vlan(struct np_buf *b, const struct tpacket2_hdr *h, uint32_t status) {
  uint32_t tpid = (status & TP_STATUS_VLAN_TPID_VALID) != 0 ? h->tp_vlan_tpid : TPID_8021Q;
  uint8_t *p = np_buf_push(b, VLAN_BYTES);
  memmove(p, p + VLAN_BYTES, MACS_BYTES);
  np_store_be16(p + MACS_BYTES, (uint16_t)tpid);
  np_store_be16(p + MACS_BYTES + 2, h->tp_vlan_tci);
}

static NP_COLD void give_back(struct np_buf *const *piece, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) np_buf_put(piece[i]);
}

/* Takes the next frame off the socket's queue, unread. */
static NP_COLD void skip_long(const struct np_raw *r) {
  uint8_t byte;
  ssize_t n = recv(r->fd, &byte, 1, MSG_DONTWAIT | MSG_TRUNC);
  (void)n; /* gone either way */
}

/* A frame longer than the ring's: its bytes wait in the socket, in the order of the ring. */
static NP_COLD struct np_buf *take_long(struct np_raw *r, uint32_t len) {
  struct np_buf *piece[NP_RAW_PIECES_MAX];
  struct iovec iov[NP_RAW_PIECES_MAX + 1];
  struct virtio_net_hdr vnet = {0};
  uint32_t room = 0;
  uint32_t n = 0;
  uint32_t k = 0;
  if (len > NP_RAW_FRAME_MAX) {
    skip_long(r);
    return NULL;
  }
  if (r->vnet) iov[k++] = (struct iovec){.iov_base = &vnet, .iov_len = NP_RAW_VNET_BYTES};
  while (room < len && n < NP_RAW_PIECES_MAX) {
    struct np_buf *b = np_pool_get_rx(r->pool);
    if (b == NULL) break;
    uint32_t part = np_buf_tailroom(b);
    iov[k++] = (struct iovec){.iov_base = np_buf_data(b), .iov_len = part};
    piece[n++] = b;
    room += part;
  }
  if (room < len) { /* not left for later: what would give buffers back may be behind it */
    give_back(piece, n);
    skip_long(r);
    return NULL;
  }
  struct msghdr m = {.msg_iov = iov, .msg_iovlen = k};
  ssize_t got = recvmsg(r->fd, &m, MSG_DONTWAIT);
  ssize_t head = r->vnet ? (ssize_t)NP_RAW_VNET_BYTES : 0;
  if (got < head + (ssize_t)ETH_BYTES || (m.msg_flags & MSG_TRUNC) != 0) {
    give_back(piece, n);
    return NULL;
  }
  uint32_t left = (uint32_t)(got - head);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t part = np_min_u32(left, np_buf_tailroom(piece[i]));
    piece[i]->len = part;
    left -= part;
    if (i > 0 && part > 0) piece[i - 1]->next = piece[i];
    if (part == 0) np_buf_put(piece[i]);
  }
  if (r->vnet) np_raw_take_vnet(piece[0], &vnet);
  return piece[0];
}

/* A frame of the ring into buffers; more than one only on links whose MTU needs it. */
static struct np_buf *take_short(struct np_raw *r, const struct tpacket2_hdr *h, uint32_t len, bool *wait) {
  const uint8_t *from = (const uint8_t *)h + h->tp_mac;
  struct np_buf *b = np_pool_get_rx(r->pool);
  if (NP_UNLIKELY(b == NULL)) {
    *wait = true;
    return NULL;
  }
  uint32_t n = np_min_u32(len, np_buf_tailroom(b));
  memcpy(np_buf_append(b, n), from, n);
  if (NP_UNLIKELY(n < len) && np_raw_append(r, b, from + n, len - n) == NULL) {
    np_buf_put_chain(b);
    return NULL;
  }
  if (r->vnet) {
    struct virtio_net_hdr vnet;
    memcpy(&vnet, from - NP_RAW_VNET_BYTES, sizeof vnet);
    np_raw_take_vnet(b, &vnet);
  }
  return b;
}

/* NULL: nothing came of it, counted, unless *wait says that it has to wait for a buffer. What the kernel wrote
 * is checked like a stranger's word: it is memory that others map. */
static struct np_buf *take(struct np_raw *r, const struct tpacket2_hdr *h, uint32_t status, bool *wait) {
  uint32_t len = h->tp_len;
  uint32_t have = h->tp_snaplen;
  uint32_t mac = h->tp_mac;
  struct np_buf *b = NULL;
  if (NP_UNLIKELY((status & TP_STATUS_COPY) != 0)) {
    b = take_long(r, len);
  } else if (NP_LIKELY(have == len && len >= ETH_BYTES && mac >= sizeof *h + NP_RAW_VNET_BYTES && mac <= r->frame_bytes &&
                       have <= r->frame_bytes - mac)) {
    b = take_short(r, h, len, wait);
  }
  if (NP_UNLIKELY(b == NULL)) {
    if (!*wait) np_port_count(&r->port.stats.rx_dropped, 1);
    return NULL;
  }
  if (NP_UNLIKELY((status & TP_STATUS_VLAN_VALID) != 0)) put_vlan(b, h, status);
  return b;
}

uint32_t np_raw_packet_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct np_raw *r = np_raw_of(q);
  uint32_t n = 0;
  uint64_t bytes = 0;
  for (uint32_t looked = 0; looked < max; looked++) {
    struct tpacket2_hdr *h = frame_at(r, r->head);
    uint32_t status = status_of(h);
    if ((status & TP_STATUS_USER) == 0) break;
    uint32_t next = r->head + 1 == r->frame_count ? 0 : r->head + 1;
    NP_PREFETCH(frame_at(r, next));
    bool wait = false;
    struct np_buf *b = take(r, h, status, &wait);
    if (NP_UNLIKELY(wait)) break;
    /* release: the frame was read before the kernel may fill it again */
    __atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    r->head = next;
    if (NP_UNLIKELY(b == NULL)) continue;
    bytes += NP_LIKELY(b->next == NULL) ? b->len : np_buf_chain_len(b);
    out[n++] = b;
  }
  if (n == 0) return 0;
  np_port_count(&q->stats.rx_pkts, n);
  np_port_count(&q->stats.rx_bytes, bytes);
  return n;
}
