/* A port: packets in and out in bursts. Each implementation (io/afxdp, io/sim, ...) fills
 * one vtable; layers above ask for capabilities and never for a kind. One np_port_queue
 * belongs to one core.
 *
 * Thread: the owning core, but for what the vtable says is the control thread's: that
 * happens before attach and after detach. */
#ifndef NP_BASE_PORT_H
#define NP_BASE_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "np/buf.h"
#include "np/err.h"
#include "np/info.h"

#define NP_BURST 64u /* packets a stage handles at once */

/* Capabilities */
#define NP_PORT_RX_CSUM 0x1u /* L4 checksum verified on receive (NP_BUF_L4_CSUM_OK) */
#define NP_PORT_TX_CSUM 0x2u /* port fills TCP checksums (NP_BUF_TX_CSUM) */
#define NP_PORT_TSO 0x4u     /* cuts TCP payload into segments (NP_BUF_GSO); comes with TX_CSUM and SG */
#define NP_PORT_SG 0x8u      /* chained buffers */

/* Pieces that every port with NP_PORT_SG takes of one packet. One that the port cuts (NP_BUF_GSO) may have more. */
#define NP_PORT_PIECES_MAX 16u

struct np_port_queue;

struct np_port_ops {
  const char *name;
  /* Up to max packets, data at the Ethernet header, refs 1. With NP_PORT_SG a packet may be a chain
   * (np_buf.next): its first piece holds every header up to TCP's options, the others only
   * payload. Never blocks. 0 also when the port is down. */
  uint32_t (*rx)(struct np_port_queue *q, struct np_buf **out, uint32_t max);
  /* Takes the first n' <= n packets, keeping the caller's reference of each
   * until it left; the caller keeps the rest. Nothing need leave before flush,
   * but data_off and len are read now: TCP moves them again for a buffer it
   * keeps for retransmission. Chains only with NP_PORT_SG: their links are read now as well,
   * and each piece has a reference of its own, dropped piece by piece when it left, so that
   * the same piece may be part of another chain before that. */
  uint32_t (*tx)(struct np_port_queue *q, struct np_buf **bufs, uint32_t n);
  /* Once a turn: reclaims sent buffers, refills the receive side, kicks the kernel. */
  void (*flush)(struct np_port_queue *q);
  /* Descriptor an idle core may poll(2) for input, -1 when there is none. */
  int (*fd)(struct np_port_queue *q);
  /* True when work is pending that needs no event to find (idle would be wrong). */
  bool (*busy)(struct np_port_queue *q);
  /* About ten times a second: looks whether the device is still (or again) there and sets
   * down accordingly. NULL when it cannot vanish. May make one system call. */
  void (*check)(struct np_port_queue *q);

  /* The rest is for ports that a plane opened (core/queue.c); NULL in others. */

  /* Control thread, also while the core polls: the counters, the kernel's or device's own included. */
  void (*statistics)(struct np_port_queue *q, struct np_queue_stats *out);
  /* Closing, in three steps. First, control thread: the device touches no buffer from now on. */
  void (*shut)(struct np_port_queue *q);
  /* Second, the core's thread: gives back every buffer that the device held. */
  void (*reclaim)(struct np_port_queue *q);
  /* Third, control thread: frees the rest, q included. */
  void (*free)(struct np_port_queue *q);
};

struct np_port_queue {
  const struct np_port_ops *ops;
  uint32_t caps;
  uint16_t iface;     /* index of the interface it belongs to */
  uint16_t queue;     /* index on that interface */
  uint32_t mtu_bytes; /* of the IP packet */
  uint32_t tso_bytes_max; /* with NP_PORT_TSO: of a packet before it is cut, Ethernet header included; at most 65,535 */
  struct np_mac mac;
  bool down;          /* set by the port itself when it finds its device gone, cleared when it is back */
  bool gone;          /* set before down: the port can't come back by itself, it must be closed and another opened */
  uint32_t posted_count; /* buffers it holds for receiving, empty */
  uint32_t idle_poll_us; /* without a descriptor: longest that an idle core may sleep between two looks; 0: any time */
  struct np_queue_stats stats;
};

/* Adds to one of stats. The core's thread; others read it meanwhile. */
NP_INLINE void np_port_count(uint64_t *counter, uint64_t n) { __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED); }

/* What the port itself has counted so far. Any thread. */
NP_INLINE struct np_queue_stats np_port_counted(const struct np_port_queue *q) {
  const struct np_queue_stats *s = &q->stats;
  return (struct np_queue_stats){
      .rx_pkts = __atomic_load_n(&s->rx_pkts, __ATOMIC_RELAXED),
      .rx_bytes = __atomic_load_n(&s->rx_bytes, __ATOMIC_RELAXED),
      .tx_pkts = __atomic_load_n(&s->tx_pkts, __ATOMIC_RELAXED),
      .tx_bytes = __atomic_load_n(&s->tx_bytes, __ATOMIC_RELAXED),
      .rx_dropped = __atomic_load_n(&s->rx_dropped, __ATOMIC_RELAXED),
      .rx_ring_full = __atomic_load_n(&s->rx_ring_full, __ATOMIC_RELAXED),
      .fill_empty = __atomic_load_n(&s->fill_empty, __ATOMIC_RELAXED),
      .tx_invalid = __atomic_load_n(&s->tx_invalid, __ATOMIC_RELAXED),
      .wakeups = __atomic_load_n(&s->wakeups, __ATOMIC_RELAXED),
  };
}

#endif
