/* Lanes of a plane (lane.h). Control thread. */
#include <stdlib.h>

#include "core/lane.h"
#include "core/plane.h"

void np_lane_free(struct np_port_queue *q) { free(NP_CONTAINER_OF(q, struct np_lane, q)); }

enum np_err np_plane_lane_open(struct np_plane *plane, struct np_port_queue *queue, uint32_t core,
                               struct np_port_queue **out, struct np_err_detail *detail) {
  *out = NULL;
  if (np_plane_queue_pool(plane, core, detail) == NULL) return NP_ERR_INVALID;
  const struct np_plane_queue *pq = plane->queues;
  while (pq != NULL && pq->port != queue) pq = pq->next; /* bound: the queues opened */
  if (pq == NULL || pq->core == core) {
    np_err_detail_set(detail, 0, "open lane: the queue must be another core's than %u", core);
    return NP_ERR_INVALID;
  }
  struct np_core *from = plane->worker[core].core;
  struct np_core *to = plane->worker[pq->core].core;
  if (to->lane_in == NULL) {
    np_err_detail_set(detail, 0, "open lane: the plane was made for steering by devices alone");
    return NP_ERR_STATE;
  }
  struct np_lane *lane = malloc(sizeof *lane);
  if (lane == NULL) {
    np_err_detail_set(detail, 0, "open lane: out of memory");
    return NP_ERR_NOMEM;
  }
  np_lane_init(lane, from, to, queue);
  enum np_err err = np_plane_queue_own(plane, &lane->q, core, detail);
  if (err == NP_ERR_OK) *out = &lane->q;
  return err;
}
