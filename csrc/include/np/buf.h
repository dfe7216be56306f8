/* np_buf: one fixed-size piece of memory that carries packet or message bytes.
 *
 * The descriptor sits at the start of the memory it describes, whatever the
 * port: a UMEM chunk on AF_XDP, what an mbuf points into on DPDK. Behind it
 * comes headroom for headers, then data.
 *
 *   |np_buf 128|      headroom      |      data (len)      |   tailroom   |
 *   ^ b        ^ b+NP_BUF_HDR       ^ b+data_off           ...            ^ b+cap_bytes
 *
 * Thread: the core that owns the pool. Go reads (never writes) a buffer that
 * an event handed to it, and writes into buffers it was lent, until it gives
 * them back. */
#ifndef NP_BUF_H
#define NP_BUF_H

#include <stdint.h>

#define NP_BUF_HDR 128u      /* bytes of descriptor */
#define NP_BUF_HEADROOM 128u /* Ethernet 14 + VLAN 4 + IPv6 40 + TCP 60, rounded */

struct np_pool;

/* flags */
#define NP_BUF_COPY 0x0002u /* of a packet that somebody else got as well: learned from, never answered */
#define NP_BUF_L4_CSUM_OK 0x0001u /* the port or the sender vouches for the L4 checksum */
#define NP_BUF_JOINED 0x0004u     /* begins a segment that tcp/gro.c joined to the one before it */
#define NP_BUF_NO_RESET 0x0080u   /* what belongs to no connection, but to a handshake perhaps: no reset answers it */
#define NP_BUF_COOKIE 0x0040u /* another core found that it brings back a SYN cookie */
/* Set for sending, in a packet's first piece: */
#define NP_BUF_TX_CSUM 0x0008u  /* the port fills TCP's checksum: from l4_off on, the field holds the pseudo header's sum */
#define NP_BUF_GSO 0x0010u      /* the port cuts TCP's payload into segments of gso_bytes; TX_CSUM is set too */
#define NP_BUF_GATHERED 0x0020u /* next links more pieces of it, which others may hold as well */

struct np_buf {
  struct np_buf *next;  /* next piece of the same data, NULL at the end */
  struct np_pool *pool; /* where it goes when refs falls to 0 */
  uint32_t data_off;    /* first data byte, from the start of this struct */
  uint32_t len;         /* data bytes in this piece */
  uint32_t cap_bytes;   /* whole chunk, this struct included */
  uint32_t index;       /* position in its pool; the name Go uses */
  uint16_t refs;        /* owners; a port's TX ring counts as one */
  uint16_t flags;       /* NP_BUF_* */
  uint16_t l3_off;      /* set by parsing, from the start of this struct */
  uint16_t l4_off;
  uint16_t iface;       /* interface it came from or leaves by */
  uint16_t l4_proto;
  uint16_t frame_off;   /* where the received frame began and how long it was, from the start of this
                         * struct; set by the core, so that a drop deep in the stack can be captured whole */
  union {
    uint16_t frame_len;
    uint16_t gso_bytes; /* with NP_BUF_GSO */
  };
  uint64_t rx_ns;       /* clock of the turn that received it */
  uint64_t charged;     /* the core's: which session it is charged to while Go has it, 0 none */

  /* Second cache line: belongs to whichever module holds the buffer now (TCP's
   * segment state while queued, a session's frame state). Not preserved. */
  uint64_t priv[8];
};

_Static_assert(sizeof(struct np_buf) == NP_BUF_HDR, "np_buf is two cache lines");

#endif
