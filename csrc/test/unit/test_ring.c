#include <pthread.h>
#include <stdlib.h>

#include "base/ring.h"
#include "test/unit/cmocka_np.h"

static struct np_ring *make(uint32_t count) {
  struct np_ring *r = aligned_alloc(NP_CACHE_LINE, (np_ring_bytes(count, 8) + 63) & ~(size_t)63);
  np_ring_init(r, count, 8);
  return r;
}

static void test_fill_and_drain(void **state) {
  (void)state;
  struct np_ring *r = make(4);
  /* Indices that wrap at 2^32 in the middle of the test. */
  r->prod = r->prod_head = r->prod_cached_cons = UINT32_MAX - 5;
  r->cons = r->cons_head = r->cons_cached_prod = UINT32_MAX - 5;
  uint64_t next = 0;
  uint64_t want = 0;
  for (uint32_t round = 0; round < 10; round++) {
    assert_int_equal(np_ring_avail(r), 0);
    assert_int_equal(np_ring_room(r, 4), 4);
    for (uint32_t i = 0; i < 3; i++) np_store_64(np_ring_slot(r, i), next++);
    assert_int_equal(np_ring_avail(r), 0); /* nothing is seen before it is published */
    np_ring_publish(r, 3);
    assert_int_equal(np_ring_room(r, 4), 1);
    assert_int_equal(np_ring_avail(r), 3);
    for (uint32_t i = 0; i < 3; i++) assert_int_equal(np_load_64(np_ring_item(r, i)), want++);
    np_ring_consume(r, 3);
  }
  free(r);
}

#define ITEMS UINT64_C(200000)

static void *produce(void *arg) {
  struct np_ring *r = arg;
  uint64_t next = 0;
  while (next < ITEMS) {
    uint32_t n = np_ring_room(r, 7);
    if (n == 0) {
      NP_PAUSE();
      continue;
    }
    if (n > 7) n = 7;
    uint32_t i = 0;
    for (; i < n && next < ITEMS; i++) np_store_64(np_ring_slot(r, i), next++);
    np_ring_publish(r, i);
  }
  return NULL;
}

static void test_two_threads(void **state) {
  (void)state;
  struct np_ring *r = make(64);
  pthread_t producer;
  assert_int_equal(pthread_create(&producer, NULL, produce, r), 0);
  uint64_t want = 0;
  uint64_t wrong = 0;
  while (want < ITEMS) {
    uint32_t n = np_ring_avail(r);
    for (uint32_t i = 0; i < n; i++) wrong += np_load_64(np_ring_item(r, i)) != want++;
    np_ring_consume(r, n);
    if (n == 0) NP_PAUSE();
  }
  pthread_join(producer, NULL);
  assert_int_equal(wrong, 0);
  assert_int_equal(np_ring_avail(r), 0);
  free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fill_and_drain),
      cmocka_unit_test(test_two_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
