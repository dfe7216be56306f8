/* Kernel sockets as streams: TCP and Unix stream sockets on a poll core, driven by epoll.
 * io/uring is the same with another engine. Both are carriers (base/carrier.h).
 *
 * Owner: one core, in memory that the caller took. Thread: the core's; init and fini run
 * while no thread does. */
#ifndef NP_IO_SOCK_SOCK_H
#define NP_IO_SOCK_SOCK_H

#include "base/carrier.h"

#define NP_SOCK_LISTENERS_MAX 64u

/* Bytes that np_epoll_init needs, cache-line aligned. */
size_t np_epoll_bytes(const struct np_carrier_config *config);
/* Opens the epoll descriptor. Errors: NP_ERR_SYS with *sys the errno. The carrier's fini undoes it. */
enum np_err np_epoll_init(void *mem, const struct np_carrier_config *config, const struct np_carrier_env *env,
                          uint64_t now_ns, struct np_carrier **out, int *sys);

#endif
