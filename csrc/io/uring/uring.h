/* Kernel sockets by io_uring: io/sock with another engine. Connections are accepted and received by
 * requests that the kernel goes on serving, into buffers of the core's pool that were given to it
 * beforehand; what a turn sends leaves with one call.
 *
 * Owner: one core, in memory that the caller took. Thread: the core's; init and fini run while no
 * thread does. */
#ifndef NP_IO_URING_URING_H
#define NP_IO_URING_URING_H

#include "base/carrier.h"
#include "np/plane.h"

/* Bytes that np_uring_init needs, cache-line aligned. */
size_t np_uring_bytes(const struct np_carrier_config *config);
/* Makes the ring, disabled; the core's thread enables it with its first socket. without: NP_URING_NO_*.
 * Errors, with *sys the errno: NP_ERR_UNSUPPORTED when this kernel has no io_uring with what is needed or
 * does not let us have it, NP_ERR_NOMEM, NP_ERR_SYS. */
enum np_err np_uring_init(void *mem, const struct np_carrier_config *config, const struct np_carrier_env *env,
                          uint32_t without, uint64_t now_ns, struct np_carrier **out, int *sys);
/* Whether np_uring_init would work. Thread: any. Return: 0 or errno. */
int np_uring_probe(void);

#endif
