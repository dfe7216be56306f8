/* DPDK devices of a plane. Apart from queue.c, so that only programs that may open one link DPDK. */
#include <sched.h>
#include <string.h>

#include "core/plane.h"
#include "io/dpdk/dpdk.h"

/* The CPUs of this process that no core polls on; all, when none is left. */
static void control_cpus(const struct np_plane *plane, cpu_set_t *out) {
  CPU_ZERO(out);
  if (sched_getaffinity(0, sizeof *out, out) != 0) CPU_SET(0, out); /* a machine with more CPUs than the set holds */
  cpu_set_t all = *out;
  for (uint32_t i = 0; i < plane->config.cores; i++) {
    if (plane->config.cpu[i] >= 0) CPU_CLR((unsigned)plane->config.cpu[i], out);
  }
  if (CPU_COUNT(out) == 0) *out = all;
}

uint8_t np_plane_has_dpdk(void) { return np_dpdk_built() ? 1 : 0; }

struct lend {
  struct np_dpdk_device *device;
  uint32_t queue;
};

static void lend(void *arg) {
  const struct lend *l = arg;
  np_dpdk_lend(l->device, l->queue);
}

/* The plane has it from here on: whatever fails later, np_plane_queue_close ends it. */
static enum np_err own_all(struct np_plane *plane, struct np_dpdk_device *d, uint32_t queues, struct np_port_queue **out,
                           struct np_err_detail *detail) {
  uint32_t n = 0;
  enum np_err err = NP_ERR_OK;
  for (; n < queues; n++) out[n] = np_dpdk_port(d, n);
  for (n = 0; err == NP_ERR_OK && n < queues; n++) err = np_plane_queue_own(plane, out[n], n % plane->config.cores, detail);
  if (err == NP_ERR_OK) return NP_ERR_OK;
  /* out[n - 1] is freed; those behind it are nobody's */
  for (uint32_t i = n; i < queues; i++) out[i]->ops->free(out[i]);
  for (uint32_t i = 0; i + 1 < n; i++) np_plane_queue_close(plane, out[i]);
  return err;
}

enum np_err np_plane_dpdk_open(struct np_plane *plane, const struct np_dpdk_args *args, struct np_port_queue **out,
                               struct np_dpdk_info *info, struct np_err_detail *detail) {
  cpu_set_t control;
  control_cpus(plane, &control);
  struct np_dpdk_core core[NP_CORES_MAX];
  for (uint32_t i = 0; i < plane->config.cores; i++) {
    const struct np_worker *w = &plane->worker[i];
    core[i] = (struct np_dpdk_core){.pool = np_core_pool(w->core), .page_bytes = w->pool_map.page_bytes};
  }
  struct np_dpdk_device *d = NULL;
  enum np_err err = np_dpdk_open(args, &control, core, plane->config.cores, &d, detail);
  if (err != NP_ERR_OK) return err;
  uint32_t queues = np_dpdk_queues(d);
  err = own_all(plane, d, queues, out, detail);
  if (err != NP_ERR_OK) return err;
  for (uint32_t i = 0; i < queues; i++) {
    struct lend l = {.device = d, .queue = i};
    np_worker_call(&plane->worker[i % plane->config.cores], lend, &l);
  }
  err = np_dpdk_run(d, info, detail);
  if (err == NP_ERR_OK) return NP_ERR_OK;
  for (uint32_t i = 0; i < queues; i++) np_plane_queue_close(plane, out[i]);
  return err;
}
