/* Ending a device, and its counters. */
#include <rte_dev.h>
#include <rte_errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/dpdk/internal.h"

static struct np_dpdk_queue *of(struct np_port_queue *q) { return NP_CONTAINER_OF(q, struct np_dpdk_queue, port); }

/* The IOMMU's entries go with the last device: the others of this process share them. */
static void unmap_memory(struct np_dpdk_device *d, struct rte_device *dev) {
  if (!d->mapped || rte_eth_dev_count_avail() > 1) return;
  for (uint32_t i = 0; i < d->queues; i++) {
    const struct np_dpdk_core *c = &d->core[i];
    size_t bytes = np_dpdk_map_bytes(c);
    size_t step = d->map_step[i];
    for (size_t at = 0; step != 0 && at < bytes; at += step) { /* bound: the pool's pages */
      uint8_t *mem = c->pool->mem + at;
      uint64_t iova = d->page_iova[i] != NULL ? d->page_iova[i][at >> d->page_shift[i]] : (uint64_t)(uintptr_t)mem;
      (void)rte_dev_dma_unmap(dev, mem, iova, step); /* two queues on one core: unmapped before */
    }
    (void)rte_extmem_unregister(c->pool->mem, bytes);
  }
  d->mapped = false;
}

void np_dpdk_device_close(struct np_dpdk_device *d) {
  if (d->closed) return;
  d->closed = true;
  np_dpdk_forget_wanted(d);
  if (!d->probed) return;
  struct rte_eth_dev_info info;
  memset(&info, 0, sizeof info);
  bool known = rte_eth_dev_info_get(d->port_id, &info) == 0;
  (void)rte_eth_dev_stop(d->port_id); /* nothing more can be done about one that won't: close ends it */
  if (known) unmap_memory(d, info.device);
  (void)rte_eth_dev_close(d->port_id);
  if (known) (void)rte_dev_remove(info.device);
}

void np_dpdk_device_free(struct np_dpdk_device *d) {
  for (uint32_t i = 0; i < d->queues; i++) free(d->page_iova[i]);
  free(d);
}

/* The first queue's ends the device: it is detached from every core by then. */
void np_dpdk_shut(struct np_port_queue *q) { np_dpdk_device_close(of(q)->device); }

void np_dpdk_reclaim(struct np_port_queue *q) {
  struct np_dpdk_queue *x = of(q);
  if (x->bounce) {
    rte_pktmbuf_free_bulk(x->stash + x->stash_at, x->stash_count);
    rte_pktmbuf_free_bulk(x->pend, x->pend_count);
  } else {
    /* what waits in stash and pend is among the headers */
    np_dpdk_hdrs_reclaim(&x->rx);
    np_dpdk_hdrs_reclaim(&x->tx);
    x->rx.pool->reserve_count -= x->lack_count;
  }
  x->stash_count = x->pend_count = 0;
  x->lack_count = 0;
  q->posted_count = 0;
}

void np_dpdk_free(struct np_port_queue *q) {
  struct np_dpdk_queue *x = of(q);
  struct np_dpdk_device *d = x->device;
  np_dpdk_unguard(x);
  np_dpdk_hdrs_free(&x->rx);
  np_dpdk_hdrs_free(&x->tx);
  rte_mempool_free(x->own_mp);
  d->queue[x->qid] = NULL;
  free(x);
  if (--d->refs == 0) np_dpdk_device_free(d);
}

/* The driver's own counters are the device's: they stand with its first queue. */
void np_dpdk_statistics(struct np_port_queue *q, struct np_queue_stats *out) {
  struct np_dpdk_queue *x = of(q);
  *out = np_port_counted(q);
  struct rte_eth_stats device;
  if (x->qid != 0 || x->device->closed || rte_eth_stats_get(x->port_id, &device) != 0) return;
  out->rx_dropped += device.ierrors;
  out->rx_ring_full = device.imissed;
  out->fill_empty += device.rx_nombuf;
  out->tx_invalid += device.oerrors;
}
