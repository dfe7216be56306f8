/* State of one AF_PACKET or TAP queue, shared by the files of csrc/io/raw. */
#ifndef NP_IO_RAW_INTERNAL_H
#define NP_IO_RAW_INTERNAL_H

#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "io/raw/raw.h"

/* Both kinds carry this in front of each frame: what is left of the checksum and the segments. */
#define NP_RAW_VNET_BYTES ((uint32_t)sizeof(struct virtio_net_hdr))

#define NP_RAW_LINK_BYTES 18u /* Ethernet header and one VLAN tag */
#define NP_RAW_FRAME_MAX (65535u + NP_RAW_LINK_BYTES) /* the longest IP packet, which segment offload makes */
#define NP_RAW_MTU_MAX 9000u
/* Buffers of 2,048 bytes that the longest frame takes, and one more for a VLAN tag's shift. */
#define NP_RAW_PIECES_MAX 40u

/* Room for packets handed over and not yet sent. */
#define NP_RAW_TX_PKTS 512u
#define NP_RAW_TX_IOVS 4096u
#define NP_RAW_TX_PIECES_MAX 1000u /* of one packet: the kernel takes 1,024 at most, headers included */

/* Packets on their way out: filled by tx, given to the kernel by flush, in order. */
struct np_raw_tx {
  struct mmsghdr msg[NP_RAW_TX_PKTS];
  struct virtio_net_hdr hdr[NP_RAW_TX_PKTS];
  struct iovec iov[NP_RAW_TX_IOVS];
  struct np_buf *piece[NP_RAW_TX_IOVS]; /* of the iovec of that index; NULL: a header of ours */
  uint32_t head;      /* first message not yet sent */
  uint32_t count;     /* messages filled */
  uint32_t iov_count;
};

struct np_raw {
  struct np_port_queue port;
  struct np_pool *pool;
  struct np_raw_tx *tx;
  int fd;
  int ctl;               /* TAP: a socket to ask for the device's flags with; -1 with AF_PACKET, whose own serves */
  uint8_t kind;          /* enum np_raw_kind */
  bool vnet;             /* frames have a virtio header in front */
  bool reserved;         /* reserve_count is part of the pool's reserve */
  uint32_t reserve_count; /* buffers that only receiving may take */
  uint32_t ifindex;
  uint32_t check_tick;
  char ifname[16];
  /* AF_PACKET: the receive ring, frames of which belong to the kernel or to us by their status */
  uint8_t *ring;
  size_t ring_bytes;
  uint32_t frame_bytes;
  uint32_t frames_per_block;
  uint32_t block_bytes;
  uint32_t frame_count;
  uint32_t head;          /* next frame to look at */
  uint64_t kernel_drops;  /* atomic: what PACKET_STATISTICS said so far; reading it resets it */
  /* TAP */
  uint8_t *scratch;       /* the part of a long frame behind its first buffer */
};

NP_INLINE struct np_raw *np_raw_of(struct np_port_queue *q) { return NP_CONTAINER_OF(q, struct np_raw, port); }

extern const struct np_port_ops np_raw_packet_ops;
extern const struct np_port_ops np_raw_tap_ops;

/* packet.c */
uint32_t np_raw_packet_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max);
bool np_raw_packet_ready(const struct np_raw *r);
/* tap.c */
uint32_t np_raw_tap_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max);
/* send.c */
uint32_t np_raw_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n);
/* Gives the kernel what waits; what it does not take now stays. */
void np_raw_send(struct np_raw *r);
/* Gives back the buffers of what has not left. */
void np_raw_tx_drop(struct np_raw *r);
/* port.c */

/* A system call said that the device is down or gone. */
void np_raw_note_error(struct np_raw *r, int error);
/* What the header in front of a received frame says of its checksum. */
void np_raw_take_vnet(struct np_buf *b, const struct virtio_net_hdr *h);
/* Appends bytes to the chain that ends at tail, in new buffers. Return: its new end; NULL without
 * buffers, and what was appended stays. */
struct np_buf *np_raw_append(struct np_raw *r, struct np_buf *tail, const uint8_t *bytes, uint32_t len);
void np_raw_free(struct np_raw *r);

#endif
