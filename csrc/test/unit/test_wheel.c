#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/wheel.h"
#include "test/unit/cmocka_np.h"

#define TICK NP_WHEEL_TICK_NS
#define TIMERS 200u

struct timed {
  struct np_timer timer;
  bool set;
  uint64_t due_tick;
  uint32_t fired;
};

struct model {
  struct np_wheel wheel;
  struct np_rng rng;
  struct timed t[TIMERS];
  uint64_t now_ns;
  uint32_t fired; /* in this advance */
  bool churn;     /* handlers set and cancel others */
  bool lags; /* a budget or a handler can set timers while the wheel is behind the clock */
};

static uint64_t random_wait_ns(struct model *m) {
  /* A wheel that lags behind the clock cuts waits from where it is: stay inside its range then. */
  uint32_t bits = np_rng_below(&m->rng, m->lags ? 32 : 33);
  uint64_t ticks = bits == 0 ? 0 : np_rng_u64(&m->rng) >> (64 - bits);
  return ticks * TICK + np_rng_below(&m->rng, (uint32_t)TICK);
}

static void model_set(struct model *m, struct timed *t, uint64_t due_ns) {
  uint64_t range_ns = (UINT64_C(255) << 24) * TICK;
  if (due_ns > m->now_ns && due_ns - m->now_ns > range_ns) due_ns = m->now_ns + range_ns;
  np_timer_set(&m->wheel, &t->timer, NP_TIMER_CORE, due_ns);
  uint64_t due = due_ns / TICK + (due_ns % TICK != 0);
  /* Never in the tick that is over, nor in the advance that runs. */
  uint64_t first = m->now_ns / TICK + 1;
  t->due_tick = due < first ? first : due;
  t->set = true;
}

static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct model *m = ctx;
  struct timed *t = NP_CONTAINER_OF(timer, struct timed, timer);
  assert_true(t->set);
  assert_false(np_timer_is_set(timer));
  assert_true(t->due_tick <= now_ns / TICK);
  t->set = false;
  t->fired++;
  m->fired++;
  if (!m->churn) return;
  struct timed *other = &m->t[np_rng_below(&m->rng, TIMERS)];
  switch (np_rng_below(&m->rng, 4)) {
    case 0: model_set(m, t, now_ns + random_wait_ns(m)); break;
    case 1: model_set(m, other, now_ns - now_ns % TICK); break; /* due already, yet not in this advance */
    case 2:
      np_timer_cancel(&m->wheel, &other->timer);
      other->set = false;
      break;
    default: break;
  }
}

static void check(struct model *m, bool all_due_fired) {
  uint32_t set = 0;
  uint64_t earliest = UINT64_MAX;
  for (uint32_t i = 0; i < TIMERS; i++) {
    struct timed *t = &m->t[i];
    assert_int_equal(t->set, np_timer_is_set(&t->timer));
    if (!t->set) continue;
    set++;
    if (t->due_tick < earliest) earliest = t->due_tick;
    if (all_due_fired) assert_true(t->due_tick > m->now_ns / TICK);
  }
  assert_int_equal(m->wheel.count, set);
  uint64_t next = np_wheel_next_ns(&m->wheel);
  if (set == 0) {
    assert_true(next == UINT64_MAX);
  } else {
    assert_true(next <= earliest * TICK);
    /* Never so low that an idle core would spin: ahead of now unless something is due. */
    if (all_due_fired) assert_true(next > m->now_ns - m->now_ns % TICK);
  }
}

static void run_model(uint64_t seed, bool churn, bool small_budget) {
  struct model *m = calloc(1, sizeof *m);
  np_rng_init(&m->rng, seed);
  m->churn = churn;
  m->lags = small_budget || churn;
  m->now_ns = np_rng_u64(&m->rng) >> (8 + np_rng_below(&m->rng, 40));
  np_wheel_init(&m->wheel, m->now_ns);
  np_wheel_handle(&m->wheel, NP_TIMER_CORE, on_timer, m);
  for (uint32_t step = 0; step < 4000; step++) {
    uint32_t op = np_rng_below(&m->rng, 10);
    struct timed *t = &m->t[np_rng_below(&m->rng, TIMERS)];
    if (op < 6) {
      model_set(m, t, m->now_ns + random_wait_ns(m));
    } else if (op < 7) {
      np_timer_cancel(&m->wheel, &t->timer);
      t->set = false;
    } else {
      uint32_t shift = np_rng_below(&m->rng, 52);
      m->now_ns += np_rng_u64(&m->rng) >> ((m->lags ? 22 : 12) + shift % 42);
      uint32_t budget = small_budget ? 1 + np_rng_below(&m->rng, 4) : UINT32_MAX;
      m->fired = 0;
      uint32_t fired = np_wheel_advance(&m->wheel, m->now_ns, budget);
      assert_int_equal(fired, m->fired);
      assert_true(fired <= budget);
      check(m, !small_budget);
    }
  }
  /* What a small budget left over fires in the calls after it. */
  m->churn = false;
  for (uint32_t i = 0; i < 40 * TIMERS && small_budget; i++) np_wheel_advance(&m->wheel, m->now_ns, 1);
  np_wheel_advance(&m->wheel, m->now_ns, UINT32_MAX);
  check(m, true);
  for (uint32_t i = 0; i < TIMERS; i++) np_timer_cancel(&m->wheel, &m->t[i].timer);
  assert_int_equal(m->wheel.count, 0);
  for (uint32_t l = 0; l < NP_WHEEL_LEVELS; l++)
    for (uint32_t w = 0; w < NP_WHEEL_SLOTS / 64; w++) assert_true(m->wheel.occupied[l][w] == 0);
  free(m);
}

static void test_model(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 25; seed++) {
    run_model(seed, false, false);
    run_model(seed, true, false);
    run_model(seed, false, true);
    run_model(seed, true, true);
  }
}

static void count_fire(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  (void)timer;
  (void)now_ns;
  ++*(uint32_t *)ctx;
}

/* Every due tick near the boundaries of all levels, from starts near boundaries. */
static void test_boundaries(void **state) {
  (void)state;
  static const uint64_t base[] = {0, 1, 255, 256, 65535, 65536, (UINT64_C(1) << 24) - 1, UINT64_C(1) << 24,
                                  (UINT64_C(1) << 32) - 1, UINT64_C(1) << 32};
  struct np_wheel *w = calloc(1, sizeof *w);
  for (size_t s = 0; s < NP_COUNT_OF(base); s++) {
    for (size_t d = 1; d < NP_COUNT_OF(base) - 2; d++) {
      uint32_t fired = 0;
      struct np_timer t = {0};
      np_wheel_init(w, base[s] * TICK);
      np_wheel_handle(w, NP_TIMER_CORE, count_fire, &fired);
      uint64_t due = (base[s] + base[d]) * TICK;
      np_timer_set(w, &t, NP_TIMER_CORE, due);
      np_wheel_advance(w, due - 1, 100);
      assert_int_equal(fired, 0);
      assert_true(np_wheel_next_ns(w) <= due);
      np_wheel_advance(w, due, 100);
      assert_int_equal(fired, 1);
      assert_true(np_wheel_next_ns(w) == UINT64_MAX);
    }
  }
  free(w);
}

static void test_range_and_past(void **state) {
  (void)state;
  struct np_wheel *w = calloc(1, sizeof *w);
  uint32_t fired = 0;
  struct np_timer far = {0};
  struct np_timer past = {0};
  uint64_t now = 1000 * TICK;
  np_wheel_init(w, now);
  np_wheel_handle(w, NP_TIMER_CORE, count_fire, &fired);
  np_timer_set(w, &far, NP_TIMER_CORE, UINT64_MAX);
  np_timer_set(w, &past, NP_TIMER_CORE, 5);
  np_wheel_advance(w, now, 10);
  assert_int_equal(fired, 0);
  np_wheel_advance(w, now + TICK, 10);
  assert_int_equal(fired, 1);
  uint64_t fifty_days = now + UINT64_C(50) * 86400 * UINT64_C(1000000000);
  np_wheel_advance(w, fifty_days, 10);
  assert_int_equal(fired, 1);
  np_wheel_advance(w, fifty_days + UINT64_C(2) * 86400 * UINT64_C(1000000000), 10);
  assert_int_equal(fired, 2);
  /* A clock that went backwards does nothing. */
  np_timer_set(w, &past, NP_TIMER_CORE, 5);
  assert_int_equal(np_wheel_advance(w, now, 10), 0);
  np_timer_cancel(w, &past);
  np_timer_cancel(w, &past);
  assert_int_equal(w->count, 0);
  free(w);
}

/* A crowd in one slot of a high level is moved down a budget at a time. */
static void test_crowd(void **state) {
  (void)state;
  enum { CROWD = 5000 };
  struct np_wheel *w = calloc(1, sizeof *w);
  struct np_timer *t = calloc(CROWD, sizeof *t);
  uint32_t fired = 0;
  np_wheel_init(w, 0);
  np_wheel_handle(w, NP_TIMER_TCP, count_fire, &fired);
  for (uint32_t i = 0; i < CROWD; i++) np_timer_set(w, &t[i], NP_TIMER_TCP, 1000 * TICK);
  uint32_t calls = 0;
  while (fired < CROWD) {
    assert_true(np_wheel_next_ns(w) <= 1000 * TICK);
    uint32_t n = np_wheel_advance(w, 1000 * TICK, 64);
    assert_true(n <= 64);
    calls++;
  }
  assert_in_range(calls, CROWD / 64, 2 * CROWD / 64);
  assert_true(np_wheel_next_ns(w) == UINT64_MAX);
  free(t);
  free(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_model),
      cmocka_unit_test(test_boundaries),
      cmocka_unit_test(test_range_and_past),
      cmocka_unit_test(test_crowd),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
