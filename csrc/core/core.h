/* One core: everything a poll thread touches, and one turn of its loop. The
 * thread (core/plane.c) calls np_core_turn with the clock; simulation calls it
 * with a clock of its own. No mutable globals anywhere. */
#ifndef NP_CORE_CORE_H
#define NP_CORE_CORE_H

#include "base/pool.h"
#include "base/port.h"
#include "base/wheel.h"
#include "np/abi.h"
#include "np/plane.h"

struct np_core;

/* Memory: np_core_bytes(config), cache-line aligned, and pool memory of
 * bufs_per_core * chunk_bytes aligned to chunk_bytes, both zeroed, both the
 * caller's until np_core_fini. */
size_t np_core_bytes(const struct np_plane_config *config);
enum np_err np_core_init(void *mem, void *pool_mem, const struct np_plane_config *config, uint32_t index,
                         uint64_t now_ns, struct np_core **out, struct np_err_detail *detail);
/* Aborts all connections, takes every buffer back. */
void np_core_fini(struct np_core *core, uint64_t now_ns);

/* One turn: commands, receive, sessions, timers, send, events. Bounded.
 * Return: true when it found work. */
bool np_core_turn(struct np_core *core, uint64_t now_ns);
/* When the next timer is due; UINT64_MAX none. */
uint64_t np_core_next_ns(const struct np_core *core);

struct np_core_shared *np_core_shared(struct np_core *core);
struct np_pool *np_core_pool(struct np_core *core);
struct np_tcp *np_core_tcp(struct np_core *core);
struct np_ip *np_core_ip(struct np_core *core);
struct np_sessions *np_core_sessions(struct np_core *core);

/* Direct forms of commands for tests and simulation, on the core's thread. */
enum np_err np_core_attach(struct np_core *core, struct np_port_queue *queue, uint16_t iface);
enum np_err np_core_detach(struct np_core *core, uint16_t iface);
enum np_err np_core_listen(struct np_core *core, const struct np_cmd_listen *args, uint64_t *out_handle);

#endif
