/* AF_PACKET and TAP queues of a plane. Control thread. */
#include "core/plane.h"
#include "io/raw/raw.h"

enum np_err np_plane_raw_open(struct np_plane *plane, struct np_raw_args *args, struct np_port_queue **out,
                              int32_t *out_fd, struct np_err_detail *detail) {
  *out = NULL;
  struct np_pool *pool = np_plane_queue_pool(plane, args->core, detail);
  if (pool == NULL) return NP_ERR_INVALID;
  struct np_port_queue *port = NULL;
  int fd = -1;
  enum np_err err = np_raw_open(args, pool, &port, &fd, detail);
  if (err != NP_ERR_OK) return err;
  err = np_plane_queue_own(plane, port, args->core, detail);
  if (err != NP_ERR_OK) return err;
  *out = port;
  *out_fd = fd;
  return NP_ERR_OK;
}
