/* The wheel keeps each timer in the level of the highest byte in which its due
 * tick differs from the next tick to be handled. So a level only ever holds
 * timers of the block that the level above is in, the first occupied slot of
 * the lowest occupied level is the earliest, and a jump over idle time costs
 * one look at each level's bitmap. */
#include "base/wheel.h"

#include "base/bytes.h"

#define LEVEL_BITS 8u
#define SLOT_MASK ((uint64_t)NP_WHEEL_SLOTS - 1)
/* 255 slots of the top level: one less than all, so that a far timer is never
 * in the slot the top level is in now. */
#define RANGE_TICKS ((uint64_t)(NP_WHEEL_SLOTS - 1) << (LEVEL_BITS * (NP_WHEEL_LEVELS - 1)))
/* Placing a timer again costs far less than a handler; so many per fired timer of the budget. */
#define MOVES_PER_FIRE 4u

_Static_assert(LEVEL_BITS * NP_WHEEL_LEVELS == 32, "due_tick holds the range");

/* The next tick to be handled. */
static uint64_t cur_tick(const struct np_wheel *w) { return w->tick + 1; }

static void mark(struct np_wheel *w, uint32_t level, uint32_t slot) {
  w->occupied[level][slot / 64] |= UINT64_C(1) << (slot % 64);
}

static void unmark(struct np_wheel *w, uint32_t level, uint32_t slot) {
  w->occupied[level][slot / 64] &= ~(UINT64_C(1) << (slot % 64));
}

static void push(struct np_timer **head, struct np_timer *t) {
  t->next = *head;
  t->pprev = head;
  if (t->next != NULL) t->next->pprev = &t->next;
  *head = t;
}

static void unlink_timer(struct np_wheel *w, struct np_timer *t) {
  struct np_timer **pprev = t->pprev;
  *pprev = t->next;
  if (t->next != NULL) t->next->pprev = pprev;
  t->next = NULL;
  t->pprev = NULL;
  if (*pprev != NULL) return;
  uintptr_t at = (uintptr_t)pprev;
  uintptr_t first = (uintptr_t)&w->slot[0][0];
  if (at < first || at >= first + sizeof w->slot) return;
  uint32_t i = (uint32_t)((at - first) / sizeof w->slot[0][0]);
  unmark(w, i / NP_WHEEL_SLOTS, i % NP_WHEEL_SLOTS);
}

/* Takes a whole slot's list to another head, which must be empty. */
static void take_slot(struct np_wheel *w, uint32_t level, uint32_t slot, struct np_timer **to) {
  np_assert(*to == NULL);
  struct np_timer *t = w->slot[level][slot];
  w->slot[level][slot] = NULL;
  unmark(w, level, slot);
  *to = t;
  if (t != NULL) t->pprev = to;
}

static void place(struct np_wheel *w, struct np_timer *t, uint64_t due) {
  uint64_t diff = due ^ cur_tick(w);
  uint32_t level = 0;
  if (diff >> LEVEL_BITS != 0) {
    level = (uint32_t)(63 - __builtin_clzll(diff)) / LEVEL_BITS;
    if (level >= NP_WHEEL_LEVELS) level = NP_WHEEL_LEVELS - 1;
  }
  uint32_t slot = (uint32_t)((due >> (LEVEL_BITS * level)) & SLOT_MASK);
  push(&w->slot[level][slot], t);
  mark(w, level, slot);
}

/* Distance from slot `from` to the next occupied one at or after it, going
 * round; NP_WHEEL_SLOTS when there is none. */
static uint32_t scan(const uint64_t occupied[NP_WHEEL_SLOTS / 64], uint32_t from) {
  uint32_t words = NP_WHEEL_SLOTS / 64;
  for (uint32_t i = 0; i <= words; i++) {
    uint32_t word = (from / 64 + i) % words;
    uint64_t bits = occupied[word];
    if (i == 0) bits &= ~UINT64_C(0) << (from % 64);
    if (i == words) bits &= ~(~UINT64_C(0) << (from % 64));
    if (bits == 0) continue;
    uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(bits);
    return (slot - from) % NP_WHEEL_SLOTS;
  }
  return NP_WHEEL_SLOTS;
}

/* The earliest tick at which a slot must be fired or moved down; UINT64_MAX none. */
static uint64_t next_tick(const struct np_wheel *w) {
  uint64_t cur = cur_tick(w);
  for (uint32_t level = 0; level < NP_WHEEL_LEVELS; level++) {
    uint32_t shift = LEVEL_BITS * level;
    uint64_t at = cur >> shift;
    uint32_t dist = scan(w->occupied[level], (uint32_t)(at & SLOT_MASK));
    if (dist < NP_WHEEL_SLOTS) return (at + dist) << shift;
  }
  return UINT64_MAX;
}

/* Makes cur the next tick to be handled. Nothing between the old one and it may be
 * occupied; the higher slot that begins with it, if any, is taken for placing again. */
static void set_cur(struct np_wheel *w, uint64_t cur) {
  w->tick = cur - 1;
  for (uint32_t level = NP_WHEEL_LEVELS - 1; level > 0; level--) {
    uint32_t slot = (uint32_t)((cur >> (LEVEL_BITS * level)) & SLOT_MASK);
    if (w->slot[level][slot] != NULL) take_slot(w, level, slot, &w->moving);
  }
}

void np_wheel_init(struct np_wheel *wheel, uint64_t now_ns) {
  memset(wheel, 0, sizeof *wheel);
  wheel->tick = now_ns >> NP_WHEEL_TICK_SHIFT;
  wheel->floor_tick = wheel->tick + 1;
}

void np_wheel_handle(struct np_wheel *wheel, enum np_timer_kind kind, np_timer_fn fn, void *ctx) {
  np_assert(kind < NP_TIMER_KIND_COUNT);
  wheel->handler[kind].fn = fn;
  wheel->handler[kind].ctx = ctx;
}

void np_timer_set(struct np_wheel *wheel, struct np_timer *timer, enum np_timer_kind kind, uint64_t due_ns) {
  if (timer->pprev != NULL) {
    unlink_timer(wheel, timer);
  } else {
    wheel->count++;
  }
  uint64_t due = (due_ns >> NP_WHEEL_TICK_SHIFT) + ((due_ns & (NP_WHEEL_TICK_NS - 1)) != 0);
  due = np_max_u64(due, wheel->floor_tick);
  due = np_min_u64(due, cur_tick(wheel) + RANGE_TICKS);
  timer->due_tick = (uint32_t)due;
  timer->kind = (uint32_t)kind;
  place(wheel, timer, due);
}

void np_timer_cancel(struct np_wheel *wheel, struct np_timer *timer) {
  if (timer->pprev == NULL) return;
  unlink_timer(wheel, timer);
  wheel->count--;
}

static void fire(struct np_wheel *w, uint64_t now_ns) {
  struct np_timer *t = w->due;
  unlink_timer(w, t);
  w->count--;
  np_assert(t->kind < NP_TIMER_KIND_COUNT);
  np_assert(w->handler[t->kind].fn != NULL);
  w->handler[t->kind].fn(w->handler[t->kind].ctx, t, now_ns);
}

static void move_down(struct np_wheel *w) {
  struct np_timer *t = w->moving;
  unlink_timer(w, t);
  uint64_t cur = cur_tick(w);
  place(w, t, cur + (uint32_t)(t->due_tick - (uint32_t)cur));
}

uint32_t np_wheel_advance(struct np_wheel *wheel, uint64_t now_ns, uint32_t budget) {
  uint64_t target = np_max_u64(now_ns >> NP_WHEEL_TICK_SHIFT, wheel->tick);
  uint64_t moves = (uint64_t)budget * MOVES_PER_FIRE;
  uint32_t fired = 0;
  /* What a handler sets now fires in a later call: none fires twice in one. */
  wheel->floor_tick = np_max_u64(wheel->floor_tick, target + 1);
  /* Bound: each round fires, moves, or empties a slot that has something to fire or move. */
  for (;;) {
    for (; wheel->due != NULL && fired < budget; fired++) fire(wheel, now_ns);
    for (; wheel->moving != NULL && moves > 0; moves--) move_down(wheel);
    if (wheel->due != NULL || wheel->moving != NULL || wheel->tick >= target) return fired;
    uint64_t next = next_tick(wheel);
    if (next > target) {
      set_cur(wheel, target + 1);
    } else if (next > cur_tick(wheel)) {
      set_cur(wheel, next);
    } else {
      take_slot(wheel, 0, (uint32_t)(next & SLOT_MASK), &wheel->due);
      set_cur(wheel, next + 1);
    }
  }
}

uint64_t np_wheel_next_ns(const struct np_wheel *wheel) {
  if (wheel->due != NULL) return wheel->tick << NP_WHEEL_TICK_SHIFT;
  if (wheel->moving != NULL) return cur_tick(wheel) << NP_WHEEL_TICK_SHIFT;
  uint64_t next = next_tick(wheel);
  return next == UINT64_MAX ? UINT64_MAX : next << NP_WHEEL_TICK_SHIFT;
}
