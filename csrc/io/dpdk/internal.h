/* What the files of io/dpdk share. The only folder that knows DPDK's headers. */
#ifndef NP_IO_DPDK_INTERNAL_H
#define NP_IO_DPDK_INTERNAL_H

#include <pthread.h>
#include <rte_config.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <stdbool.h>

#include "io/dpdk/dpdk.h"

/* An mbuf's buffer begins behind np_buf, so that DPDK's headroom of 128 bytes ends where ours does. */
#define NP_DPDK_BUF_OFF NP_BUF_HDR
_Static_assert(RTE_PKTMBUF_HEADROOM == NP_BUF_HEADROOM, "a received packet starts at NP_BUF_DATA_OFF");

/* The mbufs that one queue's driver holds for one direction, each a header that shows the driver one of
 * the core's buffers. A header without a buffer lies in free[]; one that the driver has (or, for
 * sending, waits for it) holds one reference of its buffer. To the driver it is a mempool. */
struct np_dpdk_hdrs {
  struct np_pool *pool;
  struct rte_mempool *mp;
  uint8_t *mem;        /* the mbufs */
  struct rte_mbuf **free;
  uint32_t free_count;
  uint32_t count;
  uintptr_t chunk_mask; /* clears the place within a chunk */
  const uint64_t *page_iova; /* by page of page_bytes; NULL: a NIC's addresses are ours */
  uint32_t page_shift;
  uint32_t spare_count;     /* as in io/afxdp: free buffers left to others, */
  uint32_t post_min;        /* but so many are taken whatever they need */
  pthread_t owner;          /* the core's thread, once it polls, else 0; read by others */
  /* Threads other than the core's take headers from lent and leave what they free in back: the control
   * thread when it starts or stops the device, DPDK's own when a memif peer goes. */
  pthread_mutex_t lock;
  struct rte_mbuf **lent;
  struct rte_mbuf **back;
  uint32_t lent_count;
  uint32_t back_count;      /* atomic */
};

struct np_dpdk_device;

struct np_dpdk_queue {
  struct np_port_queue port;
  struct np_dpdk_hdrs rx;
  struct np_dpdk_hdrs tx;
  uint16_t port_id;
  uint16_t qid;
  bool guard;            /* the driver's own thread may take memory away: in_burst says when it must wait */
  bool bounce;           /* packets are copied at the border: see open.c */
  bool tx_cleanup;       /* the driver can be asked to give back what was sent */
  uint32_t in_burst;     /* atomic */
  uint32_t lack_count;   /* of the pool's reserve */
  uint32_t pend_count;
  uint32_t stash_count;  /* received by busy(), handed out by the next rx */
  uint32_t stash_at;
  uint64_t tx_seen;      /* tx_pkts at the last check */
  uint32_t down_ticks;   /* checks that found the link down, in a row */
  uint16_t pieces_max;   /* of a packet that the driver does not cut */
  uint16_t gso_pieces_max;
  uint16_t bounce_bytes; /* longest frame of its own mbufs */
  struct rte_mempool *own_mp; /* bounce: the device's own mbufs */
  struct np_dpdk_device *device;
  struct np_dpdk_queue *next_guarded; /* list of the process */
  struct rte_mbuf *pend[NP_BURST];
  struct rte_mbuf *stash[NP_BURST];
};

struct np_dpdk_device {
  uint16_t port_id;
  uint16_t queues;
  uint32_t refs;          /* queues not freed */
  bool made;              /* a virtual device that goes with us, or a NIC that was attached by us */
  bool probed;
  bool closed;
  bool gone;              /* atomic: the driver or the kernel said that it is removed */
  bool watched;           /* the kernel is listened to */
  bool mapped;
  bool redial;            /* a memif client, whose driver tries its server once, when it is started */
  uint32_t rx_desc;
  uint32_t tx_desc;
  uint32_t mtu_bytes;
  uint64_t tx_offloads;
  uint64_t rx_offloads;
  char name[16];
  char dev_name[RTE_ETH_NAME_MAX_LEN];
  char driver[32];
  struct np_dpdk_core core[NP_DPDK_QUEUES_MAX];
  uint64_t *page_iova[NP_DPDK_QUEUES_MAX]; /* see np_dpdk_hdrs */
  uint32_t page_shift[NP_DPDK_QUEUES_MAX];
  size_t map_step[NP_DPDK_QUEUES_MAX];     /* bytes that were mapped at a time */
  struct np_dpdk_queue *queue[NP_DPDK_QUEUES_MAX];
};

/* What the process has once: DPDK knows it under a name of ours (quiet.c). */
struct np_dpdk_process {
  pthread_mutex_t lock; /* of guarded; held while others wait for a burst to end */
  struct np_dpdk_queue *guarded;
  pthread_mutex_t said_lock; /* its own: a driver may log in a burst */
  char said[160]; /* the first warning or error of DPDK's log since it was cleared */
};

/* eal.c */
/* Starts DPDK unless it runs already. device: the first, see np_dpdk_open. */
enum np_err np_dpdk_start(const cpu_set_t *control, const char *device, struct np_err_detail *detail);
struct np_dpdk_process *np_dpdk_process(void); /* NULL: DPDK does not run, or not by us */
NP_PRINTF(3, 4) void np_dpdk_explain(struct np_err_detail *detail, int rc, const char *format, ...);
/* Forgets what DPDK's log said. */
void np_dpdk_said_clear(void);

/* hdrs.c */
enum np_err np_dpdk_hdrs_init(struct np_dpdk_hdrs *h, struct np_pool *pool, const char *name, uint32_t count, int socket,
                              struct np_err_detail *detail);
void np_dpdk_hdrs_free(struct np_dpdk_hdrs *h);
/* The rest of this on the core's thread. Sets n headers aside for threads that are not the core's. */
void np_dpdk_hdrs_lend(struct np_dpdk_hdrs *h, uint32_t n);
/* Takes back what other threads freed, and what was lent and not taken. */
void np_dpdk_hdrs_collect(struct np_dpdk_hdrs *h);
/* Gives every buffer back, whoever holds its header: the device is closed. */
void np_dpdk_hdrs_reclaim(struct np_dpdk_hdrs *h);
int np_dpdk_ops_register(void);

/* quiet.c */
void np_dpdk_guard(struct np_dpdk_queue *q);
void np_dpdk_unguard(struct np_dpdk_queue *q);

/* open.c */
void np_dpdk_forget_wanted(struct np_dpdk_device *d);

/* port.c */
extern const struct np_port_ops np_dpdk_ops;

/* close.c */
void np_dpdk_shut(struct np_port_queue *q);
void np_dpdk_reclaim(struct np_port_queue *q);
void np_dpdk_free(struct np_port_queue *q);
void np_dpdk_statistics(struct np_port_queue *q, struct np_queue_stats *out);
void np_dpdk_device_close(struct np_dpdk_device *d);
void np_dpdk_device_free(struct np_dpdk_device *d);

/* Bytes of a pool's memory in whole pages. */
NP_INLINE size_t np_dpdk_map_bytes(const struct np_dpdk_core *c) {
  size_t page = c->page_bytes != 0 ? c->page_bytes : 4096;
  return ((size_t)c->pool->count * c->pool->chunk_bytes + page - 1) / page * page;
}

/* The buffer that a header shows. */
NP_INLINE struct np_buf *np_dpdk_buf(const struct np_dpdk_hdrs *h, const struct rte_mbuf *m) {
  return (struct np_buf *)((uintptr_t)m->buf_addr & h->chunk_mask);
}

NP_INLINE rte_iova_t np_dpdk_iova(const struct np_dpdk_hdrs *h, const void *p) {
  if (NP_LIKELY(h->page_iova == NULL)) return (rte_iova_t)(uintptr_t)p;
  uint64_t off = (uint64_t)((const uint8_t *)p - h->pool->mem);
  return h->page_iova[off >> h->page_shift] + (off & ((UINT64_C(1) << h->page_shift) - 1));
}

NP_INLINE void np_dpdk_bind(const struct np_dpdk_hdrs *h, struct rte_mbuf *m, struct np_buf *b) {
  m->buf_addr = (uint8_t *)b + NP_DPDK_BUF_OFF;
  m->buf_iova = np_dpdk_iova(h, m->buf_addr);
}

#endif
