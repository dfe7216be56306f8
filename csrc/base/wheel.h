/* Hierarchical timer wheel: O(1) set and cancel, work per tick bounded by a
 * budget. Time comes in as an argument; nothing here reads a clock.
 *
 * Resolution NP_WHEEL_TICK_NS (1,048,576 ns, about 1 ms). Range: 4 levels of
 * 256 slots, over 50 days; longer waits are cut to that. Due times are rounded up
 * to a tick: a timer fires in the first np_wheel_advance whose tick is at or past
 * its own, so at most one tick late and never early. One set for the past fires at the next tick.
 * Thread: the owning core. */
#ifndef NP_BASE_WHEEL_H
#define NP_BASE_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

#define NP_WHEEL_TICK_SHIFT 20
#define NP_WHEEL_TICK_NS (UINT64_C(1) << NP_WHEEL_TICK_SHIFT)
#define NP_WHEEL_SLOTS 256u
#define NP_WHEEL_LEVELS 4u

/* Embedded in what it times. Zeroed is "not set". */
struct np_timer {
  struct np_timer *next;
  struct np_timer **pprev; /* NULL when not set */
  uint32_t due_tick;
  uint32_t kind;           /* NP_TIMER_*: which handler */
};

/* Who handles an expiry. The owner registers one function per kind. */
enum np_timer_kind {
  NP_TIMER_TCP,     /* retransmit, persist, keep-alive, TIME-WAIT, delayed ACK */
  NP_TIMER_TCP_ACK, /* second timer of a connection */
  NP_TIMER_TCP_PACE, /* connections that wait for their rate */
  NP_TIMER_SESSION, /* handshake limit, heartbeat, rekey */
  NP_TIMER_NEIGH,   /* neighbor resolution and ageing */
  NP_TIMER_IFACE,   /* duplicate address detection, router discovery, reports of groups */
  NP_TIMER_REASS,   /* a datagram in fragments is given up */
  NP_TIMER_SOCK,    /* kernel sockets: what no descriptor announces */
  NP_TIMER_CORE,    /* the core's own housekeeping */
  NP_TIMER_RDMA,    /* RDMA connections: keep-alive, small pieces held back, lingering */
  NP_TIMER_KIND_COUNT
};

typedef void (*np_timer_fn)(void *ctx, struct np_timer *timer, uint64_t now_ns);

struct np_wheel {
  struct np_timer *slot[NP_WHEEL_LEVELS][NP_WHEEL_SLOTS];
  uint64_t occupied[NP_WHEEL_LEVELS][NP_WHEEL_SLOTS / 64]; /* bit per non-empty slot */
  uint64_t tick;            /* every timer due at or before it has fired or is in due */
  uint64_t floor_tick;      /* earliest tick a timer may be set to: after the running advance */
  struct np_timer *due;     /* taken from its slot, to be fired first */
  struct np_timer *moving;  /* taken from a higher slot, to be placed again first */
  uint32_t count;           /* timers set */
  struct {
    np_timer_fn fn;
    void *ctx;
  } handler[NP_TIMER_KIND_COUNT];
};

void np_wheel_init(struct np_wheel *wheel, uint64_t now_ns);
void np_wheel_handle(struct np_wheel *wheel, enum np_timer_kind kind, np_timer_fn fn, void *ctx);

NP_INLINE bool np_timer_is_set(const struct np_timer *t) { return t->pprev != NULL; }

/* Sets or moves a timer to fire at due_ns. */
void np_timer_set(struct np_wheel *wheel, struct np_timer *timer, enum np_timer_kind kind, uint64_t due_ns);
/* No effect on one that is not set. */
void np_timer_cancel(struct np_wheel *wheel, struct np_timer *timer);

/* Fires what is due, at most budget timers; the rest fire in the next call.
 * A handler may set or cancel any timer, its own included.
 * Return: timers fired. */
uint32_t np_wheel_advance(struct np_wheel *wheel, uint64_t now_ns, uint32_t budget);

/* Earliest time a timer could be due (exact on level 0, a lower bound above),
 * UINT64_MAX when none is set: how long an idle core may sleep. */
uint64_t np_wheel_next_ns(const struct np_wheel *wheel);

#endif
