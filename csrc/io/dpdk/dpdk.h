/* Ports on DPDK's drivers: NICs by PCI address, and its virtual devices (memif, af_packet, vhost, ...).
 * A device has one or more queues; each is a port of its own on the core that polls it.
 *
 * Thread: all of this on the control thread, one call at a time in the process, but for
 * np_dpdk_lend; the ports' vtables as base/port.h says.
 * Without DPDK at build time none.c stands in for it. */
#ifndef NP_IO_DPDK_H
#define NP_IO_DPDK_H

#include <sched.h>

#include "base/pool.h"
#include "base/port.h"
#include "np/plane.h"

struct np_dpdk_device;

/* The memory that a queue's packets live in: the pool of its core. */
struct np_dpdk_core {
  struct np_pool *pool;
  uint64_t page_bytes; /* of the pool's memory; 0: ordinary pages */
};

/* False: none.c stands in. Any thread. */
bool np_dpdk_built(void);
/* Finds or makes the device and configures its queues, queue i on core[i modulo cores]; nothing is received yet.
 * args->queues 0: as many as cores on a NIC that has so many, one on a virtual device.
 * The first call in a process starts DPDK: with huge pages when enough are free, else without; its threads
 * run on control, which is to say not on the poll cores' CPUs. The first device decides how NICs address memory.
 * Errors: NP_ERR_INVALID, NP_ERR_NODEV, NP_ERR_BUSY (a kernel driver or another interface has it), NP_ERR_STATE
 * (somebody else runs DPDK here), NP_ERR_UNSUPPORTED (built without DPDK; the driver can't), NP_ERR_PERM, NP_ERR_NOMEM,
 * NP_ERR_SYS. Blocks: a fifth of a second for DPDK, then as the driver does, up to seconds. */
enum np_err np_dpdk_open(const struct np_dpdk_args *args, const cpu_set_t *control, const struct np_dpdk_core *core,
                         uint32_t cores, struct np_dpdk_device **out, struct np_err_detail *detail);
uint32_t np_dpdk_queues(const struct np_dpdk_device *d);
struct np_port_queue *np_dpdk_port(struct np_dpdk_device *d, uint32_t queue);
/* On the core's own thread: sets aside the buffers that the device fills its receive ring with. */
void np_dpdk_lend(struct np_dpdk_device *d, uint32_t queue);
/* After np_dpdk_lend for each queue: the device runs. On error the caller closes every queue as
 * base/port.h says. info is filled. */
enum np_err np_dpdk_run(struct np_dpdk_device *d, struct np_dpdk_info *info, struct np_err_detail *detail);

#endif
