#include <stdlib.h>

#include "base/pool.h"
#include "test/unit/cmocka_np.h"

#define COUNT 8u
#define CHUNK 2048u

struct fixture {
  struct np_pool pool;
  struct np_counters counters;
  void *mem;
  void *stack;
};

static int setup(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  f->mem = aligned_alloc(CHUNK, COUNT * CHUNK);
  f->stack = malloc(np_pool_stack_bytes(COUNT));
  np_pool_init(&f->pool, f->mem, COUNT, CHUNK, f->stack, &f->counters);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  free(f->mem);
  free(f->stack);
  free(f);
  return 0;
}

static void test_take_all_and_back(void **state) {
  struct fixture *f = *state;
  struct np_buf *b[COUNT];
  for (uint32_t i = 0; i < COUNT; i++) {
    b[i] = np_pool_get(&f->pool);
    assert_non_null(b[i]);
    assert_int_equal(b[i]->index, i);
    assert_int_equal(b[i]->refs, 1);
    assert_int_equal(np_buf_headroom(b[i]), NP_BUF_HEADROOM);
    assert_int_equal(np_buf_tailroom(b[i]), CHUNK - NP_BUF_DATA_OFF);
  }
  assert_null(np_pool_get(&f->pool));
  assert_int_equal(f->counters.counter[NP_C_BUF_EMPTY], 1);
  assert_int_equal(f->pool.low_count, 0);
  for (uint32_t i = 0; i < COUNT; i++) np_buf_put(b[i]);
  assert_int_equal(f->pool.free_count, COUNT);
}

/* The reserve is for receiving, and what np_pool_avail promises can be had. */
static void test_reserve(void **state) {
  struct fixture *f = *state;
  struct np_buf *b[COUNT];
  uint32_t n = 0;
  f->pool.reserve_count = 3;
  assert_int_equal(np_pool_avail(&f->pool), COUNT - 3);
  for (struct np_buf *got = np_pool_get(&f->pool); got != NULL; got = np_pool_get(&f->pool)) b[n++] = got;
  assert_int_equal(n, COUNT - 3);
  assert_int_equal(np_pool_avail(&f->pool), 0);
  f->pool.reserve_count = COUNT + 1; /* more than there are */
  assert_int_equal(np_pool_avail(&f->pool), 0);
  for (struct np_buf *got = np_pool_get_rx(&f->pool); got != NULL; got = np_pool_get_rx(&f->pool)) b[n++] = got;
  assert_int_equal(n, COUNT);
  while (n > 0) np_buf_put(b[--n]);
}

static void test_refs(void **state) {
  struct fixture *f = *state;
  struct np_buf *b = np_pool_get(&f->pool);
  b->refs++;
  np_buf_put(b);
  assert_int_equal(f->pool.free_count, COUNT - 1);
  np_buf_put(b);
  assert_int_equal(f->pool.free_count, COUNT);
  assert_ptr_equal(np_pool_get(&f->pool), b); /* last in, first out */
  np_buf_put(b);
}

static void test_push_pull_append(void **state) {
  struct fixture *f = *state;
  struct np_buf *b = np_pool_get(&f->pool);
  uint8_t *tail = np_buf_append(b, 10);
  assert_ptr_equal(tail, np_buf_data(b));
  assert_ptr_equal(np_buf_push(b, 14), tail - 14);
  assert_int_equal(b->len, 24);
  assert_ptr_equal(np_buf_pull(b, 20), tail + 6);
  assert_int_equal(b->len, 4);
  np_buf_append(b, np_buf_tailroom(b));
  assert_int_equal(np_buf_tailroom(b), 0);
  np_buf_put(b);
}

static void test_chain(void **state) {
  struct fixture *f = *state;
  struct np_buf *head = NULL;
  for (uint32_t i = 1; i <= 3; i++) {
    struct np_buf *b = np_pool_get(&f->pool);
    np_buf_append(b, i * 100);
    b->next = head;
    head = b;
  }
  assert_int_equal(np_buf_chain_len(head), 600);
  assert_int_equal(np_buf_chain_len(NULL), 0);
  struct np_buf *kept = head->next;
  kept->refs++;
  np_buf_put_chain(head);
  np_buf_put_chain(NULL);
  assert_int_equal(f->pool.free_count, COUNT - 1);
  np_buf_put(kept);
  assert_int_equal(f->pool.free_count, COUNT);
}

static struct np_buf *of_pieces(struct fixture *f, const uint32_t *len, uint32_t n) {
  struct np_buf *head = NULL;
  uint8_t value = 0;
  for (uint32_t i = n; i-- > 0;) {
    struct np_buf *b = np_pool_get(&f->pool);
    np_buf_append(b, len[i]);
    b->next = head;
    head = b;
  }
  for (struct np_buf *b = head; b != NULL; b = b->next)
    for (uint32_t i = 0; i < b->len; i++) np_buf_data(b)[i] = value++;
  return head;
}

/* Every cut of a chain with an empty piece in it. */
static void test_chain_trim(void **state) {
  struct fixture *f = *state;
  const uint32_t len[] = {5, 1, 0, 7, 3};
  for (uint32_t off = 0; off < 16; off++) {
    for (uint32_t n = 1; off + n <= 16; n++) {
      struct np_buf *b = np_buf_chain_trim(of_pieces(f, len, 5), off, n);
      assert_int_equal(np_buf_chain_len(b), n);
      uint32_t at = off;
      for (const struct np_buf *p = b; p != NULL; p = p->next)
        for (uint32_t i = 0; i < p->len; i++) assert_int_equal(np_buf_cdata(p)[i], at++);
      np_buf_put_chain(b);
      assert_int_equal(f->pool.free_count, COUNT);
    }
  }
}

static void test_at(void **state) {
  struct fixture *f = *state;
  struct np_buf *b = np_pool_at(&f->pool, 3 * CHUNK + 777);
  assert_int_equal(b->index, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_take_all_and_back, setup, teardown),
      cmocka_unit_test_setup_teardown(test_reserve, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refs, setup, teardown),
      cmocka_unit_test_setup_teardown(test_push_pull_append, setup, teardown),
      cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
      cmocka_unit_test_setup_teardown(test_chain_trim, setup, teardown),
      cmocka_unit_test_setup_teardown(test_at, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
