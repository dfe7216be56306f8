/* Rings and state of one AF_XDP socket, shared by open.c and port.c. */
#ifndef NP_IO_AFXDP_INTERNAL_H
#define NP_IO_AFXDP_INTERNAL_H

#include <linux/if_xdp.h>

#include "io/afxdp/afxdp.h"

/* Debian's kernel headers may be older than the running kernel. */
#ifndef SOL_XDP
#define SOL_XDP 283
#endif
#ifndef AF_XDP
#define AF_XDP 44
#endif

/* Frames in several buffers (Linux 6.6): a bind flag, and a descriptor's option. */
#define NP_XDP_USE_SG (1u << 4)
#define NP_XDP_PKT_CONTD (1u << 0) /* the next descriptor goes on with this frame */
#define NP_AFXDP_PIECES_MAX 18u    /* of a frame: what the kernel's own packets can hold */
_Static_assert(NP_PORT_PIECES_MAX <= NP_AFXDP_PIECES_MAX, "what a packet may have");
/* The largest MTU whose frames fit one buffer, by its size. 3,506: XDP's own limit of a page. */
#define NP_AFXDP_MTU_2048 1536u
#define NP_AFXDP_MTU_4096 3506u
#define NP_AFXDP_MTU_MAX 9000u

/* The kernel places a received frame behind this much room for XDP programs. */
#define NP_AFXDP_KERNEL_HEADROOM 256u
/* Where a received frame starts in its chunk: np_buf, then the kernel's room. */
#define NP_AFXDP_RX_OFF (NP_BUF_HDR + NP_AFXDP_KERNEL_HEADROOM)
#define NP_AFXDP_LINK_BYTES 18u /* Ethernet header and one VLAN tag */

/* One of the four rings. The kernel is the other side of prod or cons. */
struct np_afxdp_ring {
  uint32_t *prod;
  uint32_t *cons;
  uint32_t *flags;
  void *desc;
  uint32_t mask;
  uint32_t count;
  uint32_t cached_prod; /* our own index, or the last seen of the kernel's */
  uint32_t cached_cons;
  void *map;
  size_t map_bytes;
};

/* What the kernel holds of a buffer: one byte per buffer of the pool, so that all
 * come back when the socket ends in the middle of traffic. */
#define NP_AFXDP_POSTED 0x80u /* in the fill ring, or handed out of it and not seen in RX */
#define NP_AFXDP_TX_MAX 0x7fu /* times in TX; a buffer may be there twice (retransmission) */

struct np_afxdp {
  struct np_port_queue port;
  struct np_pool *pool;
  struct np_afxdp_ring rx;
  struct np_afxdp_ring fill;
  struct np_afxdp_ring tx;
  struct np_afxdp_ring comp;
  uint8_t *held;
  int fd;
  uint32_t spare_count;   /* free buffers that refilling leaves in the pool */
  uint32_t post_max;      /* buffers posted for receiving at most */
  uint32_t post_min;      /* and as many whatever others need */
  uint32_t lack_count;    /* of the pool's reserve: what posted_count lacks to post_min */
  uint32_t tx_held;       /* references the kernel holds for sending */
  struct np_buf *rx_head; /* frame of which more pieces are to come; NULL: none */
  struct np_buf *rx_tail;
  uint32_t rx_pieces;
  bool rx_bad;            /* the rest of a frame that had a bad piece is thrown away */
  bool sg;                /* frames in several buffers */
  bool zero_copy;
  bool gone;              /* the device is unregistered: this socket never works again */
};

extern const struct np_port_ops np_afxdp_ops;

/* Shares the pool between receiving and the rest. ring: slots of each ring. */
void np_afxdp_plan(struct np_afxdp *x, struct np_pool *pool, uint32_t ring);

#endif
