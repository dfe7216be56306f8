/* Receiving from a TAP device: one system call a frame, straight into a buffer; what a long frame has more goes
 * through memory of our own. */
#include <errno.h>

#include "io/raw/internal.h"

#define ETH_BYTES 14u

/* Return: the frame's bytes, 0 none there, -1: one that is too short. */
static int32_t read_frame(struct np_raw *r, struct np_buf *b, struct virtio_net_hdr *vnet) {
  struct iovec iov[3] = {
      {.iov_base = vnet, .iov_len = NP_RAW_VNET_BYTES},
      {.iov_base = np_buf_data(b), .iov_len = np_buf_tailroom(b)},
      {.iov_base = r->scratch, .iov_len = NP_RAW_FRAME_MAX},
  };
  ssize_t got = readv(r->fd, iov, 3);
  if (got < 0) {
    if (NP_UNLIKELY(errno != EAGAIN && errno != EINTR)) np_raw_note_error(r, errno);
    return 0;
  }
  if (got < (ssize_t)(NP_RAW_VNET_BYTES + ETH_BYTES)) return -1;
  return (int32_t)(got - (ssize_t)NP_RAW_VNET_BYTES);
}

uint32_t np_raw_tap_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct np_raw *r = np_raw_of(q);
  if (NP_UNLIKELY(r->port.gone)) return 0;
  uint32_t n = 0;
  uint64_t bytes = 0;
  for (uint32_t looked = 0; looked < max; looked++) {
    struct np_buf *b = np_pool_get_rx(r->pool);
    if (b == NULL) break; /* the device keeps them, and drops what is too much */
    struct virtio_net_hdr vnet = {0};
    int32_t got = read_frame(r, b, &vnet);
    if (got == 0) {
      np_buf_put(b);
      break;
    }
    uint32_t len = got < 0 ? 0 : (uint32_t)got;
    uint32_t first = np_min_u32(len, np_buf_tailroom(b));
    np_buf_append(b, first);
    if (NP_UNLIKELY(got < 0 || (len > first && np_raw_append(r, b, r->scratch, len - first) == NULL))) {
      np_port_count(&q->stats.rx_dropped, 1);
      np_buf_put_chain(b);
      continue;
    }
    np_raw_take_vnet(b, &vnet);
    bytes += len;
    out[n++] = b;
  }
  if (n == 0) return 0;
  np_port_count(&q->stats.rx_pkts, n);
  np_port_count(&q->stats.rx_bytes, bytes);
  return n;
}
