/* Ports over the kernel's own packet interfaces, for machines without AF_XDP or a poll-mode driver:
 * AF_PACKET sockets with a mapped receive ring on an existing device, and TAP devices that we make.
 * Packets are copied between the kernel and the pool's buffers.
 *
 * Thread: open, statistics, shut and free on the control thread; everything else of the port's
 * vtable on the core's. */
#ifndef NP_IO_RAW_H
#define NP_IO_RAW_H

#include "base/pool.h"
#include "base/port.h"
#include "np/plane.h"

/* Opens one queue; takes no buffer yet. args: see np_plane_raw_open. pool: only its sizes are read here.
 * Return: NP_ERR_OK, NP_ERR_INVALID, NP_ERR_NODEV, NP_ERR_PERM (detail names the capabilities), NP_ERR_BUSY,
 * NP_ERR_UNSUPPORTED (no such socket, device or link type here), NP_ERR_NOMEM, NP_ERR_SYS.
 * Blocks: while the kernel makes the ring. */
enum np_err np_raw_open(struct np_raw_args *args, struct np_pool *pool, struct np_port_queue **out, int *out_fd,
                        struct np_err_detail *detail);

#endif
