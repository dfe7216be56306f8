/* Port queues of a plane: opened and closed on the control thread, polled by a core in between. */
#include <stdlib.h>

#include "core/plane.h"
#include "io/afxdp/afxdp.h"

enum np_err np_plane_afxdp_open(struct np_plane *plane, const struct np_afxdp_args *args, struct np_port_queue **out,
                                int32_t *out_fd, uint8_t *out_zero_copy, struct np_err_detail *detail) {
  *out = NULL;
  if (args->core >= plane->config.cores) {
    np_err_detail_set(detail, 0, "core is %u, must be 0 to %u", args->core, plane->config.cores - 1);
    return NP_ERR_INVALID;
  }
  struct np_plane_queue *pq = calloc(1, sizeof *pq);
  if (pq == NULL) {
    np_err_detail_set(detail, 0, "open queue %u of %.15s: out of memory", args->queue, args->ifname);
    return NP_ERR_NOMEM;
  }
  struct np_pool *pool = np_core_pool(plane->worker[args->core].core);
  enum np_err err = np_afxdp_open(args, pool, &pq->afxdp, detail);
  if (err != NP_ERR_OK) {
    free(pq);
    return err;
  }
  pq->core = args->core;
  pq->next = plane->queues;
  plane->queues = pq;
  *out = np_afxdp_port(pq->afxdp);
  *out_fd = np_afxdp_fd(pq->afxdp);
  *out_zero_copy = np_afxdp_is_zero_copy(pq->afxdp) ? 1 : 0;
  return NP_ERR_OK;
}

static struct np_plane_queue **find(struct np_plane *plane, const struct np_port_queue *queue) {
  struct np_plane_queue **at = &plane->queues;
  while (*at != NULL && np_afxdp_port((*at)->afxdp) != queue) at = &(*at)->next;
  return at;
}

static void reclaim(void *arg) { np_afxdp_reclaim(arg); }

/* The socket ends first, so that the kernel holds nothing any more; then the core,
 * which owns the pool, takes the buffers back; then the rest is freed. */
static void close_queue(struct np_plane *plane, struct np_plane_queue **at) {
  struct np_plane_queue *pq = *at;
  *at = pq->next;
  np_afxdp_shut(pq->afxdp);
  np_worker_call(&plane->worker[pq->core], reclaim, pq->afxdp);
  np_afxdp_free(pq->afxdp);
  free(pq);
}

void np_plane_afxdp_close(struct np_plane *plane, struct np_port_queue *queue) {
  struct np_plane_queue **at = find(plane, queue);
  if (*at != NULL) close_queue(plane, at);
}

void np_plane_queues_close(struct np_plane *plane) {
  for (uint32_t i = 0; i < plane->config.cores; i++) {
    /* threads are joined: nobody polls them any more */
    if (plane->worker[i].core != NULL) plane->worker[i].core->queue_count = 0;
  }
  while (plane->queues != NULL) close_queue(plane, &plane->queues);
}

void np_plane_queue_stats(struct np_plane *plane, struct np_port_queue *queue, struct np_queue_stats *out) {
  *out = (struct np_queue_stats){0};
  struct np_plane_queue **at = find(plane, queue);
  if (*at != NULL) np_afxdp_stats((*at)->afxdp, out);
}
