/* Sending: tx notes the pieces of each packet, flush hands all of them to the kernel, which copies. */
#include <errno.h>

#include "base/bytes.h"
#include "base/chain.h"
#include "io/raw/internal.h"

#define ETH_TYPE_OFF 12u
#define VLAN_BYTES 4u
#define TYPE_VLAN 0x8100u
#define TYPE_IP4 0x0800u
#define TCP_SUM_OFF 16u
#define TCP_DOFF_OFF 12u
#define TCP_FLAGS_OFF 13u
#define TCP_CWR 0x80u

/* What the kernel has to finish. */
static void fill_vnet(struct virtio_net_hdr *h, const struct np_buf *b) {
  memset(h, 0, sizeof *h);
  if (NP_LIKELY((b->flags & NP_BUF_TX_CSUM) == 0)) return;
  uint32_t l4 = (uint32_t)b->l4_off - b->data_off;
  np_assert(l4 + TCP_SUM_OFF + 2 <= b->len);
  h->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  h->csum_start = (uint16_t)l4;
  h->csum_offset = TCP_SUM_OFF;
  if ((b->flags & NP_BUF_GSO) == 0) return;
  const uint8_t *p = np_buf_cdata(b);
  uint32_t type = np_load_be16(p + ETH_TYPE_OFF);
  if (type == TYPE_VLAN) type = np_load_be16(p + ETH_TYPE_OFF + VLAN_BYTES);
  h->gso_type = type == TYPE_IP4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
  if ((p[l4 + TCP_FLAGS_OFF] & TCP_CWR) != 0) h->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
  h->gso_size = b->gso_bytes;
  h->hdr_len = (uint16_t)(l4 + (uint32_t)(p[l4 + TCP_DOFF_OFF] >> 4) * 4);
}

static void add_iov(struct np_raw_tx *t, void *base, uint32_t len, struct np_buf *piece) {
  t->iov[t->iov_count] = (struct iovec){.iov_base = base, .iov_len = len};
  t->piece[t->iov_count++] = piece;
}

uint32_t np_raw_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct np_raw *r = np_raw_of(q);
  struct np_raw_tx *t = r->tx;
  if (NP_UNLIKELY(q->down)) return 0;
  uint32_t sent = 0;
  uint64_t bytes = 0;
  for (; sent < n; sent++) {
    struct np_buf *b = bufs[sent];
    uint32_t pieces = NP_LIKELY(b->next == NULL) ? 1 : np_buf_pieces(b);
    if (NP_UNLIKELY(pieces > NP_RAW_TX_PIECES_MAX)) { /* crumbs: each goes alone when it is sent again */
      np_port_count(&q->stats.tx_invalid, 1);
      np_buf_put_chain(b);
      continue;
    }
    if (NP_UNLIKELY(t->count == NP_RAW_TX_PKTS || t->iov_count + pieces + 1 > NP_RAW_TX_IOVS)) break;
    uint32_t first = t->iov_count;
    if (r->vnet) {
      fill_vnet(&t->hdr[t->count], b);
      add_iov(t, &t->hdr[t->count], NP_RAW_VNET_BYTES, NULL);
    }
    for (struct np_buf *p = b; p != NULL; p = p->next) { /* bound: pieces */
      add_iov(t, np_buf_data(p), p->len, p);
      bytes += p->len;
    }
    t->msg[t->count++].msg_hdr = (struct msghdr){.msg_iov = &t->iov[first], .msg_iovlen = t->iov_count - first};
  }
  np_port_count(&q->stats.tx_pkts, sent);
  np_port_count(&q->stats.tx_bytes, bytes);
  return sent;
}

/* The first n messages have left, or never will. */
static void done(struct np_raw_tx *t, uint32_t n) {
  for (; n > 0; n--, t->head++) { /* bound: the messages, each of at most NP_RAW_TX_PIECES_MAX pieces */
    const struct msghdr *m = &t->msg[t->head].msg_hdr;
    ptrdiff_t at = m->msg_iov - t->iov;
    for (size_t i = 0; i < m->msg_iovlen; i++) {
      struct np_buf *piece = t->piece[(size_t)at + i];
      if (piece != NULL) np_buf_put(piece);
    }
  }
  if (t->head == t->count) t->head = t->count = t->iov_count = 0;
}

void np_raw_tx_drop(struct np_raw *r) { done(r->tx, r->tx->count - r->tx->head); }

/* Return: how many of the waiting messages the kernel took; -1 with errno. */
static int give(struct np_raw *r) {
  struct np_raw_tx *t = r->tx;
  np_port_count(&r->port.stats.wakeups, 1);
  if (r->kind == NP_RAW_PACKET) return sendmmsg(r->fd, &t->msg[t->head], t->count - t->head, MSG_DONTWAIT);
  const struct msghdr *m = &t->msg[t->head].msg_hdr;
  return writev(r->fd, m->msg_iov, (int)m->msg_iovlen) < 0 ? -1 : 1;
}

void np_raw_send(struct np_raw *r) {
  struct np_raw_tx *t = r->tx;
  while (t->head < t->count) { /* bound: each round takes a message off or returns */
    int n = give(r);
    if (NP_LIKELY(n > 0)) {
      done(t, (uint32_t)n);
      continue;
    }
    int error = n == 0 ? EAGAIN : errno;
    if (error == EAGAIN || error == EINTR) return; /* the socket's send buffer is full: the next turn goes on */
    np_raw_note_error(r, error);
    uint32_t lost = r->port.down ? t->count - t->head : 1; /* ENOBUFS and the like: the device's queue dropped it */
    np_port_count(&r->port.stats.tx_invalid, lost);
    done(t, lost);
  }
}
