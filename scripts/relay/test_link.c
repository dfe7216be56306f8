/* The relay's wire and its command line: order, delay, rate, marks, losses that a seed replays,
 * and every buffer given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cksum.h"
#include "link.h"
#include "spec.h"

#define BUFS 512u
#define CHUNK 2048u
#define SLOTS 256u

struct world {
  struct np_counters counters;
  struct np_pool pool;
  struct np_relay_link link;
  struct np_relay_entry heap[SLOTS];
  void *mem;
  void *stack;
};

static void open_world(struct world *w, struct np_relay_params params, uint64_t seed) {
  memset(w, 0, sizeof *w);
  w->mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  w->stack = malloc(np_pool_stack_bytes(BUFS));
  assert_true(w->mem != NULL && w->stack != NULL);
  np_pool_init(&w->pool, w->mem, BUFS, CHUNK, w->stack, &w->counters);
  np_relay_init(&w->link, &params, seed, w->heap, SLOTS);
}

static void close_world(struct world *w) {
  const struct np_relay_stats *s = &w->link.stats;
  assert_int_equal(s->in_pkts + s->duplicated_pkts,
                   s->out_pkts + s->lost_pkts + s->queue_full_pkts + s->slab_full_pkts + w->link.count);
  np_relay_drain(&w->link);
  assert_int_equal(w->pool.free_count, BUFS);
  free(w->mem);
  free(w->stack);
}

/* An IPv4 or IPv6 frame that carries its number. */
static struct np_buf *frame(struct world *w, uint16_t type, uint8_t ecn, uint32_t n, uint32_t len) {
  struct np_buf *b = np_pool_get(&w->pool);
  assert_non_null(b);
  uint8_t *p = np_buf_append(b, len);
  memset(p, 0, len);
  np_store_be16(p + 12, type);
  if (type == 0x0800) {
    p[14] = 0x45;
    p[15] = ecn;
    p[23] = 6;
    np_store_16(p + 24, np_cksum_finish(np_cksum_ip4(p + 14)));
  } else if (type == 0x86dd) {
    p[14] = 0x60;
    p[15] = (uint8_t)(ecn << 4);
    p[20] = 6;
  }
  np_store_32(p + 54, n);
  return b;
}

static void push(struct world *w, uint32_t n, uint64_t now_ns) {
  np_relay_push(&w->link, frame(w, 0x0800, 0, n, 100), now_ns);
}

static uint32_t pop(struct world *w, uint32_t *out, uint64_t now_ns) {
  struct np_buf *bufs[SLOTS];
  uint32_t n = np_relay_pop(&w->link, bufs, SLOTS, now_ns);
  for (uint32_t i = 0; i < n; i++) {
    out[i] = np_load_32(np_buf_data(bufs[i]) + 54);
    np_buf_put(bufs[i]);
  }
  return n;
}

static void delays_and_keeps_order(void **state) {
  (void)state;
  struct world w;
  uint32_t got[SLOTS];
  open_world(&w, (struct np_relay_params){.delay_ns = 5000, .jitter_ns = 3000}, 1);
  for (uint32_t i = 0; i < 20; i++) push(&w, i, 1000);
  assert_true(np_relay_next_ns(&w.link) >= 6000);
  assert_int_equal(pop(&w, got, 5999), 0);
  assert_int_equal(pop(&w, got, 9000), 20);
  for (uint32_t i = 0; i < 20; i++) assert_int_equal(got[i], i);
  assert_true(np_relay_next_ns(&w.link) == UINT64_MAX);
  assert_int_equal(w.link.stats.reordered_pkts, 0);
  close_world(&w);
}

static void loses_by_its_seed_alone(void **state) {
  (void)state;
  struct world w;
  uint32_t first[SLOTS];
  uint32_t got[SLOTS];
  uint32_t n = 0;
  /* the same packets are lost whatever else the wire does to them, and others with another seed */
  for (uint32_t run = 0; run < 4; run++) {
    struct np_relay_params p = {.loss_ppm = 100000};
    if (run == 2) p.jitter_ns = 10;
    open_world(&w, p, run == 3 ? 8 : 7);
    for (uint32_t i = 0; i < 200; i++) push(&w, i, i);
    uint32_t k = pop(&w, got, 1000000);
    assert_int_equal(w.link.stats.lost_pkts, 200 - k);
    if (run == 0) {
      n = k;
      memcpy(first, got, sizeof first);
      assert_in_range(n, 160, 195);
    } else if (run < 3) {
      assert_int_equal(k, n);
      assert_memory_equal(got, first, n * sizeof got[0]);
    } else {
      assert_true(k != n || memcmp(got, first, n * sizeof got[0]) != 0);
    }
    close_world(&w);
  }
}

static void loses_in_bursts(void **state) {
  (void)state;
  struct world w;
  uint32_t got[SLOTS];
  open_world(&w, (struct np_relay_params){.burst_ppm = 20000, .burst_pkts = 5}, 3);
  for (uint32_t i = 0; i < 200; i++) push(&w, i, i);
  uint32_t n = pop(&w, got, 1000);
  uint32_t gaps = 0;
  for (uint32_t i = 1; i < n; i++) {
    if (got[i] == got[i - 1] + 1) continue;
    gaps++;
    assert_true((got[i] - got[i - 1] - 1) % 5 == 0);
  }
  assert_true(gaps > 0);
  close_world(&w);
  /* a burst ends in time, too */
  open_world(&w, (struct np_relay_params){.burst_ppm = 1000000, .burst_pkts = 1000}, 3);
  push(&w, 0, 0);
  w.link.params.burst_ppm = 0;
  push(&w, 1, 100000000);
  push(&w, 2, 100000001);
  assert_int_equal(w.link.stats.lost_pkts, 2);
  close_world(&w);
}

static void reorders(void **state) {
  (void)state;
  struct world w;
  uint32_t got[SLOTS];
  open_world(&w, (struct np_relay_params){.delay_ns = 100, .reorder_ppm = 100000, .reorder_ns = 50}, 5);
  uint32_t n = 0;
  for (uint32_t i = 0; i < 200; i++) {
    push(&w, i, i * 10);
    n += pop(&w, got + n, i * 10);
  }
  n += pop(&w, got + n, 10000);
  assert_int_equal(n, 200);
  uint32_t late = 0;
  uint32_t high = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (got[i] < high) late++;
    if (got[i] >= high) high = got[i] + 1;
  }
  assert_int_equal(w.link.stats.reordered_pkts, late);
  assert_in_range(late, 5, 40);
  close_world(&w);
}

static void limits_the_rate(void **state) {
  (void)state;
  struct world w;
  uint32_t got[SLOTS];
  /* 100 bytes at 8 Mbit/s: 100 us each; twenty of them wait at most */
  open_world(&w, (struct np_relay_params){.rate_bps = 8000000, .queue_bytes = 2000}, 1);
  for (uint32_t i = 0; i < 50; i++) push(&w, i, 0);
  assert_int_equal(w.link.stats.queue_full_pkts, 30);
  assert_int_equal(pop(&w, got, 99999), 0);
  assert_int_equal(pop(&w, got, 100000), 1);
  assert_int_equal(pop(&w, got, 1000000), 9);
  push(&w, 99, 1000000); /* half of the queue is free again */
  assert_int_equal(w.link.stats.queue_full_pkts, 30);
  assert_int_equal(pop(&w, got, 2100000), 11);
  assert_int_equal(got[10], 99);
  close_world(&w);
}

static void marks_above_its_threshold(void **state) {
  (void)state;
  struct world w;
  struct np_buf *b[4];
  open_world(&w, (struct np_relay_params){.rate_bps = 8000000, .queue_bytes = 20000, .mark_bytes = 150}, 1);
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    uint64_t now = v6 * 1000000;
    uint16_t type = v6 ? 0x86dd : 0x0800;
    np_relay_push(&w.link, frame(&w, type, 2, 0, 100), now);
    np_relay_push(&w.link, frame(&w, type, 1, 1, 100), now);
    np_relay_push(&w.link, frame(&w, type, 2, 2, 100), now); /* 200 bytes wait */
    np_relay_push(&w.link, frame(&w, type, 0, 3, 100), now); /* not ECN-capable */
    assert_int_equal(np_relay_pop(&w.link, b, 4, now + 400000), 4);
    for (uint32_t i = 0; i < 4; i++) {
      const uint8_t *p = np_buf_data(b[i]);
      uint8_t ecn = v6 ? (uint8_t)(p[15] >> 4) : p[15];
      assert_int_equal(ecn, i == 0 ? 2 : i == 1 ? 1 : i == 2 ? 3 : 0);
      if (!v6) assert_int_equal(np_cksum_fold(np_cksum_ip4(p + 14)), 0xffff);
      np_buf_put(b[i]);
    }
  }
  assert_int_equal(w.link.stats.marked_pkts, 2);
  close_world(&w);
}

static void duplicates_and_corrupts(void **state) {
  (void)state;
  struct world w;
  struct np_buf *b[4];
  open_world(&w, (struct np_relay_params){.duplicate_ppm = 1000000, .corrupt_ppm = 1000000}, 1);
  push(&w, 0, 0);
  assert_int_equal(np_relay_pop(&w.link, b, 4, 1), 2);
  struct np_buf *good = frame(&w, 0x0800, 0, 0, 100);
  uint32_t bits = 0;
  for (uint32_t i = 0; i < 100; i++)
    bits += (uint32_t)__builtin_popcount((unsigned)(np_buf_data(b[0])[i] ^ np_buf_data(good)[i]));
  assert_int_equal(bits, 1);
  assert_memory_equal(np_buf_data(b[0]), np_buf_data(good), 14);
  for (uint32_t i = 0; i < 2; i++) np_buf_put(b[i]);
  np_buf_put(good);
  close_world(&w);
}

/* ARP and neighbor discovery pass a wire that loses everything. */
static void spares_neighbors(void **state) {
  (void)state;
  struct world w;
  struct np_buf *b[4];
  open_world(&w, (struct np_relay_params){.loss_ppm = 1000000, .corrupt_ppm = 1000000}, 1);
  np_relay_push(&w.link, frame(&w, 0x0806, 0, 0, 60), 0);
  struct np_buf *nd = frame(&w, 0x86dd, 0, 0, 90);
  np_buf_data(nd)[20] = 58;
  np_buf_data(nd)[54] = 135;
  np_relay_push(&w.link, nd, 0);
  np_relay_push(&w.link, frame(&w, 0x86dd, 0, 0, 90), 0);
  assert_int_equal(np_relay_pop(&w.link, b, 4, 0), 2);
  for (uint32_t i = 0; i < 2; i++) np_buf_put(b[i]);
  assert_int_equal(w.link.stats.lost_pkts, 1);
  assert_int_equal(w.link.stats.corrupted_pkts, 0);
  close_world(&w);
}

static void has_room_for_so_many(void **state) {
  (void)state;
  struct world w;
  open_world(&w, (struct np_relay_params){.delay_ns = 1000, .duplicate_ppm = 1000000}, 1);
  for (uint32_t i = 0; i < SLOTS / 2 + 3; i++) push(&w, i, 0);
  assert_int_equal(w.link.count, SLOTS);
  assert_int_equal(w.link.stats.slab_full_pkts, 6);
  close_world(&w);
}

static void reads_its_command_line(void **state) {
  (void)state;
  struct np_relay_params p;
  char error[160];
  assert_true(np_relay_parse("none", &p, error, sizeof error));
  assert_true(np_relay_parse("", &p, error, sizeof error));
  assert_true(np_relay_parse("delay=1.5ms,jitter=20us,rate=100mbit,queue=64kib,mark=16kib,loss=0.1%,burst=10ppm:4,"
                             "reorder=1%:2ms,duplicate=0.01%,corrupt=5%,ce=100%",
                             &p, error, sizeof error));
  assert_int_equal(p.delay_ns, 1500000);
  assert_int_equal(p.jitter_ns, 20000);
  assert_int_equal(p.rate_bps, 100000000);
  assert_int_equal(p.queue_bytes, 65536);
  assert_int_equal(p.mark_bytes, 16384);
  assert_int_equal(p.loss_ppm, 1000);
  assert_int_equal(p.burst_ppm, 10);
  assert_int_equal(p.burst_pkts, 4);
  assert_int_equal(p.reorder_ppm, 10000);
  assert_int_equal(p.reorder_ns, 2000000);
  assert_int_equal(p.duplicate_ppm, 100);
  assert_int_equal(p.corrupt_ppm, 50000);
  assert_int_equal(p.ce_ppm, 1000000);
}

static void refuses_what_is_wrong(void **state) {
  (void)state;
  static const char *const bad[][2] = {
      {"delay", "delay"},
      {"delay=", "delay"},
      {"delay=5", "0 to 10s"},
      {"delay=11s", "0 to 10s"},
      {"delay=-1ms", "delay"},
      {"delay=1.2345ms", "delay"},
      {"delay=99999999999999ms", "delay"},
      {"loss=101%", "0% to 100%"},
      {"loss=1", "loss"},
      {"burst=1%:0", "burst"},
      {"burst=1%:1001", "burst"},
      {"reorder=1%:11s", "reorder"},
      {"loss=1%:3", "loss"},
      {"rate=1bit", "8kbit"},
      {"rate=1mbit,queue=1b", "queue"},
      {"queue=64kib", "need a rate"},
      {"mark=64kib", "need a rate"},
      {"speed=1", "unknown 'speed'"},
      {"loss=1%,", "comma"},
      {",loss=1%", "NAME=VALUE"},
      {"loss=1%,,delay=1ms", "NAME=VALUE"},
  };
  struct np_relay_params p;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char error[160] = "";
    if (np_relay_parse(bad[i][0], &p, error, sizeof error)) fail_msg("accepted '%s'", bad[i][0]);
    if (strstr(error, bad[i][1]) == NULL) fail_msg("'%s': %s, want %s", bad[i][0], error, bad[i][1]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(delays_and_keeps_order), cmocka_unit_test(loses_by_its_seed_alone),
      cmocka_unit_test(loses_in_bursts),        cmocka_unit_test(reorders),
      cmocka_unit_test(limits_the_rate),        cmocka_unit_test(marks_above_its_threshold),
      cmocka_unit_test(duplicates_and_corrupts), cmocka_unit_test(spares_neighbors),
      cmocka_unit_test(has_room_for_so_many),   cmocka_unit_test(reads_its_command_line),
      cmocka_unit_test(refuses_what_is_wrong),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
