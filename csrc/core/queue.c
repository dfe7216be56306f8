/* Port queues of a plane: opened and closed on the control thread, polled by a core in between. */
#include <stdlib.h>

#include "core/plane.h"
#include "io/afxdp/afxdp.h"

struct np_pool *np_plane_queue_pool(struct np_plane *plane, uint32_t core, struct np_err_detail *detail) {
  if (core < plane->config.cores) return np_core_pool(plane->worker[core].core);
  np_err_detail_set(detail, 0, "core is %u, must be 0 to %u", core, plane->config.cores - 1);
  return NULL;
}

enum np_err np_plane_queue_own(struct np_plane *plane, struct np_port_queue *port, uint32_t core,
                               struct np_err_detail *detail) {
  struct np_plane_queue *pq = calloc(1, sizeof *pq);
  if (pq == NULL) {
    port->ops->shut(port); /* it holds no buffer yet */
    port->ops->free(port);
    np_err_detail_set(detail, 0, "open queue: out of memory");
    return NP_ERR_NOMEM;
  }
  *pq = (struct np_plane_queue){.next = plane->queues, .port = port, .core = core};
  plane->queues = pq;
  return NP_ERR_OK;
}

enum np_err np_plane_afxdp_open(struct np_plane *plane, const struct np_afxdp_args *args, struct np_port_queue **out,
                                int32_t *out_fd, uint8_t *out_zero_copy, struct np_err_detail *detail) {
  *out = NULL;
  struct np_pool *pool = np_plane_queue_pool(plane, args->core, detail);
  if (pool == NULL) return NP_ERR_INVALID;
  struct np_afxdp *x = NULL;
  enum np_err err = np_afxdp_open(args, pool, &x, detail);
  if (err != NP_ERR_OK) return err;
  int fd = np_afxdp_fd(x);
  bool zero_copy = np_afxdp_is_zero_copy(x);
  err = np_plane_queue_own(plane, np_afxdp_port(x), args->core, detail);
  if (err != NP_ERR_OK) return err;
  *out = np_afxdp_port(x);
  *out_fd = fd;
  *out_zero_copy = zero_copy ? 1 : 0;
  return NP_ERR_OK;
}

static struct np_plane_queue **find(struct np_plane *plane, const struct np_port_queue *queue) {
  struct np_plane_queue **at = &plane->queues;
  while (*at != NULL && (*at)->port != queue) at = &(*at)->next; /* bound: the queues opened */
  return at;
}

static void reclaim(void *arg) {
  struct np_port_queue *port = arg;
  port->ops->reclaim(port);
}

/* The socket ends first, so that the kernel holds nothing any more; then the core,
 * which owns the pool, takes the buffers back; then the rest is freed. */
static void close_queue(struct np_plane *plane, struct np_plane_queue **at) {
  struct np_plane_queue *pq = *at;
  struct np_port_queue *port = pq->port;
  *at = pq->next;
  port->ops->shut(port);
  np_worker_call(&plane->worker[pq->core], reclaim, port);
  port->ops->free(port);
  free(pq);
}

void np_plane_queue_close(struct np_plane *plane, struct np_port_queue *queue) {
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
  if (*at != NULL) queue->ops->statistics(queue, out);
}
