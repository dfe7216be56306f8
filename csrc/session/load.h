/* Load: sessions that open connections by themselves, send, and measure what comes back.
 * For nppktgen; npd makes none.
 *
 * Owner: one core. Thread: that core. No allocation after np_loads_init. */
#ifndef NP_SESSION_LOAD_H
#define NP_SESSION_LOAD_H

#include "base/pool.h"
#include "base/stream.h"
#include "np/load.h"

struct np_loads;

struct np_loads_env {
  struct np_pool *pool;
  /* Opens a connection whose session is s; it hears established or closed later.
   * Return: NP_ERR_OK, or why there is none (s hears nothing). */
  enum np_err (*connect)(void *ctx, const struct np_flow *flow, struct np_session *s);
  void *ctx;
};

struct np_loads_config {
  uint32_t conns_max;
  uint32_t depth_max; /* messages in flight per connection, 1 to NP_LOAD_DEPTH_MAX */
};

size_t np_loads_bytes(const struct np_loads_config *config);
struct np_loads *np_loads_init(void *mem, const struct np_loads_config *config, const struct np_loads_env *env);

/* Ends what runs (connections are aborted) and begins anew as args says; mode NP_LOAD_NONE only ends.
 * Errors: NP_ERR_INVALID with a field out of its range. */
enum np_err np_loads_start(struct np_loads *loads, const struct np_cmd_load *args, uint64_t now_ns);

/* Once per turn, after streams delivered: opens what is missing, sends what found no room.
 * Return: true when work is left that no event announces. */
bool np_loads_run(struct np_loads *loads, uint64_t now_ns);

struct np_load_stats *np_loads_stats(struct np_loads *loads);
bool np_session_is_load(const struct np_session *session);

#endif
