/* What core/rdma.c (connections) and core/rdma_io.c (regions, one-sided operations) share.
 * Thread: the control thread; what a core owns is changed by np_worker_call. */
#ifndef NP_CORE_RDMA_H
#define NP_CORE_RDMA_H

#include "core/plane.h"
#include "io/rdma/setup.h"

#define NP_PLANE_RDMA_REGIONS_MAX 256u

/* A device as one core uses it. */
struct np_rdma_use {
  struct np_rdma_dev *dev; /* NULL: free */
  uint32_t users;          /* queue pairs and regions */
  bool dead;               /* the device went away: closed with its last user */
};

struct np_rdma_core {
  struct np_rdma *carrier;
  void *mem;
  size_t mem_bytes;
  uint8_t *rings;      /* conns_max of ring_bytes */
  size_t rings_bytes;
  uint32_t *free_slot; /* stack */
  uint32_t free_count;
  uint64_t *slot_id;   /* id that has the slot, 0 none */
  struct np_rdma_use use[NP_RDMA_DEVICES_MAX];
};

/* What an id names. */
struct np_rdma_place {
  struct np_rdma_id *cm; /* NULL: free */
  struct np_rdma_qp *qp; /* NULL: not prepared */
  struct np_rdma_use *use;
  struct np_hello own;
  struct np_hello peer; /* of a REQUEST */
  uint64_t handle; /* of its stream */
  uint32_t generation;
  uint32_t core;
  uint32_t slot;
  bool outgoing;
  bool has_peer; /* the core knows what the peer said */
};

struct np_rdma_region_place {
  struct np_rdma_mr *mr; /* NULL: free */
  struct np_rdma_use *use;
  void *mem;
  uint64_t bytes;
  uint64_t addr;
  uint32_t lkey;
  uint32_t generation;
  uint32_t core;
  uint32_t busy; /* operations */
};

struct np_plane_rdma {
  struct np_plane *plane;
  struct np_rdma_ctl *ctl;
  struct np_rdma_args args;
  int32_t notify_fd;
  uint32_t place_count;
  struct np_rdma_place *place;
  struct np_rdma_region_place region[NP_PLANE_RDMA_REGIONS_MAX];
  uint16_t op_region[NP_CORES_MAX][NP_RDMA_OPS_MAX]; /* of an operation in flight */
  struct np_rdma_core core[NP_CORES_MAX];
};

/* NULL: stale. */
struct np_rdma_place *np_rdma_place_of(struct np_plane_rdma *r, uint64_t id);
struct np_worker *np_rdma_worker(struct np_plane_rdma *r, uint32_t core);
/* A user less; the last one of a device that went away closes it. */
void np_rdma_use_put(struct np_plane_rdma *r, uint32_t core, struct np_rdma_use *use);
void np_rdma_regions_free(struct np_plane_rdma *r);

#endif
