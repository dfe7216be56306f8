/* AF_XDP socket of one queue as a port: own ring code over the kernel's headers.
 * The UMEM is the whole pool of the core that polls it, registered once per
 * socket, so that any of the core's buffers can leave by any of its queues.
 *
 * Thread: open, stats and close on the control thread; everything that the port's
 * vtable holds, and reclaim, on the core's. */
#ifndef NP_IO_AFXDP_H
#define NP_IO_AFXDP_H

#include "base/pool.h"
#include "base/port.h"
#include "np/plane.h"

struct np_afxdp;

/* Opens, maps and binds; takes no buffer yet (its first flush does, on the core).
 * EBUSY is tried again for two seconds: a socket just closed keeps its queue for a moment.
 * pool: only its memory and sizes are read here.
 * Return: NP_ERR_OK, NP_ERR_INVALID, NP_ERR_NODEV, NP_ERR_PERM (detail names the
 * capabilities), NP_ERR_BUSY, NP_ERR_UNSUPPORTED (zero-copy must be and cannot), NP_ERR_SYS.
 * Blocks: two seconds at most. */
enum np_err np_afxdp_open(const struct np_afxdp_args *args, struct np_pool *pool, struct np_afxdp **out,
                          struct np_err_detail *detail);
struct np_port_queue *np_afxdp_port(struct np_afxdp *x);
int np_afxdp_fd(const struct np_afxdp *x);
bool np_afxdp_is_zero_copy(const struct np_afxdp *x);
/* Adds the kernel's own counters to the port's. */
void np_afxdp_stats(struct np_afxdp *x, struct np_queue_stats *out);
/* First of three steps: ends the socket; the kernel touches no buffer of it afterwards. */
void np_afxdp_shut(struct np_afxdp *x);
/* Second, on the core's thread: gives back every buffer that the kernel held. */
void np_afxdp_reclaim(struct np_afxdp *x);
/* Third: frees the rest. */
void np_afxdp_free(struct np_afxdp *x);

#endif
