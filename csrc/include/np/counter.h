/* Counters and drop reasons: one table, np_counter.def, declares them.
 *
 * Thread: the owning core writes with plain stores of aligned 64-bit words;
 * anybody may read with relaxed atomic loads. A reader can see two counters of
 * different turns; sums are exact once the core is quiet. */
#ifndef NP_COUNTER_H
#define NP_COUNTER_H

#include <stdint.h>

enum np_counter {
#define NP_COUNTER(sym, name, help) NP_C_##sym,
#define NP_DROP(sym, reason, layer, help)
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  NP_COUNTER_COUNT
};

enum np_drop {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, layer, help) NP_DROP_##sym,
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  NP_DROP_COUNT
};

struct np_counters {
  uint64_t counter[NP_COUNTER_COUNT];
  uint64_t drop[NP_DROP_COUNT];
};

/* The reason's text as `npctl drops` prints it, e.g. "tcp_bad_checksum".
 * Owner: static storage. Thread: any. */
const char *np_drop_text(enum np_drop drop);

#endif
