/* A lane: how a core sends by a device whose queues belong to other cores (steer.c). */
#ifndef NP_CORE_LANE_H
#define NP_CORE_LANE_H

#include "core/internal.h"

struct np_lane {
  struct np_port_queue q;
  struct np_core *from; /* whose port it is */
  struct np_core *to;   /* which has a queue of the device, and sends */
};

/* like: the queue that to sends by. Its device may vanish and come back. */
void np_lane_init(struct np_lane *lane, struct np_core *from, struct np_core *to, const struct np_port_queue *like);
/* np_port_ops.free, of lanes that the plane opened. */
void np_lane_free(struct np_port_queue *q);

#endif
