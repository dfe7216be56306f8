/* What stands in for DPDK where it was not there at build time. */
#include <stdio.h>

#include "io/dpdk/dpdk.h"

bool np_dpdk_built(void) { return false; }

enum np_err np_dpdk_open(const struct np_dpdk_args *args, const cpu_set_t *control, const struct np_dpdk_core *core,
                         uint32_t cores, struct np_dpdk_device **out, struct np_err_detail *detail) {
  (void)control;
  (void)core;
  (void)cores;
  *out = NULL;
  if (detail != NULL) {
    detail->sys = 0;
    snprintf(detail->text, sizeof detail->text, "device %.64s: built without DPDK (install dpdk-dev and build again)", args->device);
  }
  return NP_ERR_UNSUPPORTED;
}

/* Nobody calls the rest: no device was opened. */
uint32_t np_dpdk_queues(const struct np_dpdk_device *d) {
  (void)d;
  return 0;
}
struct np_port_queue *np_dpdk_port(struct np_dpdk_device *d, uint32_t queue) {
  (void)d;
  (void)queue;
  return NULL;
}
void np_dpdk_lend(struct np_dpdk_device *d, uint32_t queue) {
  (void)d;
  (void)queue;
}
enum np_err np_dpdk_run(struct np_dpdk_device *d, struct np_dpdk_info *info, struct np_err_detail *detail) {
  (void)d;
  (void)info;
  (void)detail;
  return NP_ERR_UNSUPPORTED;
}
