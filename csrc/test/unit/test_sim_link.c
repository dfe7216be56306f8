/* The simulated link keeps its promises: order, delay, rate, loss and replay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cksum.h"
#include "io/sim/sim.h"
#include "wire/build.h"
#include "wire/pkt.h"

#define BUFS 256u
#define CHUNK 2048u

struct world {
  struct np_counters counters;
  struct np_pool pool;
  void *mem;
  void *stack;
  struct np_sim_link *link;
  struct np_port_queue *end[2];
};

static void open_world(struct world *w, const struct np_sim_config *config) {
  memset(w, 0, sizeof *w);
  w->mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  w->stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&w->pool, w->mem, BUFS, CHUNK, w->stack, &w->counters);
  w->link = np_sim_new(config);
  assert_non_null(w->link);
  struct np_mac mac = {{2, 0, 0, 0, 0, 1}};
  for (uint32_t i = 0; i < 2; i++) w->end[i] = np_sim_end(w->link, i, &w->pool, &mac, 0);
}

static void close_world(struct world *w) {
  assert_int_equal(w->pool.free_count, BUFS);
  np_sim_free(w->link);
  free(w->mem);
  free(w->stack);
}

static void send_number(struct world *w, uint32_t n, uint32_t len) {
  struct np_buf *b = np_pool_get(&w->pool);
  assert_non_null(b);
  uint8_t *p = np_buf_append(b, len);
  memset(p, 0, len);
  memcpy(p + 14, &n, sizeof n);
  assert_int_equal(w->end[0]->ops->tx(w->end[0], &b, 1), 1);
}

static uint32_t receive(struct world *w, uint32_t *out, uint32_t max) {
  struct np_buf *bufs[NP_BURST];
  uint32_t n = w->end[1]->ops->rx(w->end[1], bufs, max < NP_BURST ? max : NP_BURST);
  for (uint32_t i = 0; i < n; i++) {
    memcpy(&out[i], np_buf_data(bufs[i]) + 14, 4);
    np_buf_put(bufs[i]);
  }
  return n;
}

/* A packet that the port cuts: every segment is well formed, and they are the packet's bytes. */
static void cuts_segments(void **state) {
  (void)state;
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    struct world w;
    open_world(&w, &(struct np_sim_config){.seed = 1, .caps = NP_PORT_SG | NP_PORT_TX_CSUM | NP_PORT_TSO});
    uint32_t l4 = v6 ? 54 : 34;
    uint32_t payload = 1000 + 1700;
    struct np_buf *b = np_pool_get(&w.pool);
    struct np_buf *more = np_pool_get(&w.pool);
    uint8_t *p = np_buf_append(b, l4 + 32 + 1000);
    memset(p, 0, l4 + 32);
    for (uint32_t i = 0; i < 1000; i++) p[l4 + 32 + i] = (uint8_t)(i * 7 + (i >> 8));
    uint8_t *q = np_buf_append(more, payload - 1000);
    for (uint32_t i = 1000; i < payload; i++) q[i - 1000] = (uint8_t)(i * 7 + (i >> 8));
    struct np_mac mac = {{2, 0, 0, 0, 0, 1}};
    struct np_addr from = np_addr_from_v4_be((uint8_t[]){198, 18, 0, 1});
    struct np_addr to = np_addr_from_v4_be((uint8_t[]){198, 18, 0, 2});
    struct np_addr from6 = np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 1});
    struct np_addr to6 = np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 2});
    np_wire_put_eth(p, &mac, &mac, 0, v6 ? 0x86dd : 0x0800);
    if (v6) np_wire_put_ip6(p + 14, &from6, &to6, 6, 0, 64, (uint16_t)(32 + payload));
    else np_wire_put_ip4(p + 14, &from, &to, 6, 0, 100, (uint16_t)(52 + payload));
    np_store_be16(p + l4, 1);
    np_store_be16(p + l4 + 2, 2);
    np_store_be32(p + l4 + 4, 0xfffffe00u);
    p[l4 + 12] = 0x80;
    p[l4 + 13] = 0x99; /* CWR, ACK, PSH, FIN */
    b->next = more;
    b->flags = NP_BUF_GATHERED | NP_BUF_TX_CSUM | NP_BUF_GSO;
    b->l4_off = (uint16_t)(b->data_off + l4);
    b->gso_bytes = 1448;
    assert_int_equal(w.end[0]->ops->tx(w.end[0], &b, 1), 1);
    struct np_buf *in[4];
    assert_int_equal(w.end[1]->ops->rx(w.end[1], in, 4), 2);
    static const uint32_t size[] = {1448, 1252};
    for (uint32_t k = 0, at = 0; k < 2; at += size[k++]) {
      struct np_pkt pkt;
      assert_int_equal(np_wire_parse(in[k], &pkt), NP_WIRE_OK);
      assert_int_equal(pkt.l4_len, 32 + size[k]);
      const uint8_t *t = np_buf_cdata(in[k]) + pkt.l4_off;
      assert_int_equal(np_load_be32(t + 4), 0xfffffe00u + at);
      assert_int_equal(t[13], k == 0 ? 0x90 : 0x19);
      if (!v6) assert_int_equal(np_load_be16(np_buf_cdata(in[k]) + 18), 100 + k);
      for (uint32_t i = 0; i < size[k]; i++) assert_int_equal(t[32 + i], (uint8_t)((at + i) * 7 + ((at + i) >> 8)));
      np_buf_put(in[k]);
    }
    close_world(&w);
  }
}

static void delays_and_keeps_order(void **state) {
  (void)state;
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = 1, .dir = {{.delay_ns = 5000, .jitter_ns = 3000}}});
  np_sim_set_now(w.link, 1000);
  for (uint32_t i = 0; i < 20; i++) send_number(&w, i, 60);
  uint32_t got[NP_BURST];
  np_sim_set_now(w.link, 5999);
  assert_int_equal(receive(&w, got, NP_BURST), 0);
  np_sim_set_now(w.link, 9000);
  assert_int_equal(receive(&w, got, NP_BURST), 20);
  for (uint32_t i = 0; i < 20; i++) assert_int_equal(got[i], i);
  assert_true(np_sim_next_ns(w.link) == UINT64_MAX);
  close_world(&w);
}

static void limits_the_rate(void **state) {
  (void)state;
  struct world w;
  /* 1,000 bytes at 8 Mbit/s take 1 ms; a queue of 3,000 bytes holds three */
  open_world(&w, &(struct np_sim_config){.seed = 1, .dir = {{.rate_bps = 8000000, .queue_bytes = 3000}}});
  for (uint32_t i = 0; i < 10; i++) send_number(&w, i, 1000);
  uint32_t got[NP_BURST];
  np_sim_set_now(w.link, 999999);
  assert_int_equal(receive(&w, got, NP_BURST), 0);
  np_sim_set_now(w.link, 2000000);
  assert_int_equal(receive(&w, got, NP_BURST), 2);
  np_sim_set_now(w.link, 20000000);
  assert_int_equal(receive(&w, got, NP_BURST), 1);
  struct np_sim_stats s;
  np_sim_stats(w.link, 0, &s);
  assert_int_equal(s.sent_pkts, 10);
  assert_int_equal(s.queue_pkts, 7);
  close_world(&w);
}

static uint64_t fate(uint64_t seed, struct np_sim_stats *stats) {
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = seed,
                                         .dir = {{.delay_ns = 1000,
                                                  .loss_ppm = 50000,
                                                  .burst_loss_ppm = 5000,
                                                  .reorder_ppm = 50000,
                                                  .duplicate_ppm = 50000,
                                                  .corrupt_ppm = 20000}}});
  uint64_t sum = 0;
  uint64_t count = 0;
  uint64_t now = 0;
  for (uint32_t i = 0; i < 4000; i++) {
    np_sim_set_now(w.link, now += 10000);
    send_number(&w, i, 100);
    uint32_t got[NP_BURST];
    uint32_t n = receive(&w, got, NP_BURST);
    for (uint32_t k = 0; k < n; k++) sum = sum * 31 + got[k];
    count += n;
  }
  np_sim_set_now(w.link, now + 10000000);
  uint32_t got[NP_BURST];
  for (uint32_t n; (n = receive(&w, got, NP_BURST)) > 0; count += n) continue;
  np_sim_stats(w.link, 0, stats);
  assert_int_equal(stats->delivered_pkts, count);
  assert_int_equal(stats->sent_pkts + stats->duplicated_pkts, stats->delivered_pkts + stats->lost_pkts);
  close_world(&w);
  return sum;
}

static void replays_from_its_seed(void **state) {
  (void)state;
  struct np_sim_stats a;
  struct np_sim_stats b;
  uint64_t first = fate(7, &a);
  assert_true(first == fate(7, &b));
  assert_memory_equal(&a, &b, sizeof a);
  assert_true(first != fate(8, &b));
  /* 5 % and a little for bursts, of 4,000; wide bounds, the seeds are fixed */
  assert_in_range(a.lost_pkts, 200, 600);
  assert_in_range(a.duplicated_pkts, 100, 300);
  assert_in_range(a.reordered_pkts, 100, 300);
  assert_in_range(a.corrupted_pkts, 40, 160);
}

static void empty_pool_loses_packets(void **state) {
  (void)state;
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = 1});
  for (uint32_t i = 0; i < 4; i++) send_number(&w, i, 60);
  struct np_buf *held[BUFS];
  for (uint32_t i = 0; i < BUFS; i++) held[i] = np_pool_get(&w.pool);
  uint32_t got[NP_BURST];
  assert_int_equal(receive(&w, got, NP_BURST), 0);
  struct np_sim_stats s;
  np_sim_stats(w.link, 0, &s);
  assert_int_equal(s.nobuf_pkts, 4);
  for (uint32_t i = 0; i < BUFS; i++) np_buf_put(held[i]);
  close_world(&w);
}

static bool lose_third(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len) {
  uint32_t n;
  (void)ctx;
  (void)len;
  memcpy(&n, bytes + 14, sizeof n);
  return dir == 0 && n == 2;
}

static void chosen_losses_and_a_cut(void **state) {
  (void)state;
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = 1});
  uint32_t got[NP_BURST];
  np_sim_set_filter(w.link, lose_third, NULL);
  for (uint32_t i = 0; i < 4; i++) send_number(&w, i, 60);
  assert_int_equal(receive(&w, got, NP_BURST), 3);
  assert_int_equal(got[1], 1);
  assert_int_equal(got[2], 3);
  np_sim_set_filter(w.link, NULL, NULL);
  np_sim_set(w.link, 0, &(struct np_sim_params){.cut = true});
  send_number(&w, 5, 60);
  assert_int_equal(receive(&w, got, NP_BURST), 0);
  np_sim_set(w.link, 0, &(struct np_sim_params){0});
  send_number(&w, 6, 60);
  assert_int_equal(receive(&w, got, NP_BURST), 1);
  assert_int_equal(got[0], 6);
  struct np_sim_stats s;
  np_sim_stats(w.link, 0, &s);
  assert_int_equal(s.lost_pkts, 2);
  close_world(&w);
}

static void send_ip4(struct world *w, uint8_t tos, uint32_t len) {
  struct np_buf *b = np_pool_get(&w->pool);
  assert_non_null(b);
  uint8_t *p = np_buf_append(b, len);
  for (uint32_t i = 0; i < len; i++) p[i] = (uint8_t)(i * 7);
  np_store_be16(p + 12, 0x0800);
  p[15] = tos;
  np_store_16(p + 24, 0);
  np_store_16(p + 24, np_cksum_finish(np_cksum_ip4(p + 14)));
  assert_int_equal(w->end[0]->ops->tx(w->end[0], &b, 1), 1);
}

/* CE above the threshold, on ECN-capable packets only, and the header's sum stays right. */
static void marks_above_its_threshold(void **state) {
  (void)state;
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = 1, .dir = {{.rate_bps = 8000000, .mark_bytes = 2000}}});
  const uint8_t tos[8] = {2, 1, 0, 2, 1, 0, 3, 2};
  const uint8_t want[8] = {2, 1, 0, 3, 3, 0, 3, 3}; /* 1,000 bytes each: the fourth finds 3,000 waiting */
  for (uint32_t i = 0; i < 8; i++) send_ip4(&w, tos[i], 1000);
  np_sim_set_now(w.link, 1000000000);
  struct np_buf *got[NP_BURST];
  assert_int_equal(w.end[1]->ops->rx(w.end[1], got, NP_BURST), 8);
  for (uint32_t i = 0; i < 8; i++) {
    const uint8_t *p = np_buf_cdata(got[i]);
    assert_int_equal(p[15], want[i]);
    assert_int_equal(np_cksum_fold(np_cksum_ip4(p + 14)), 0xffff);
    np_buf_put(got[i]);
  }
  struct np_sim_stats s;
  np_sim_stats(w.link, 0, &s);
  assert_int_equal(s.marked_pkts, 3);
  close_world(&w);
}

/* Two bytes that a sum tells from what they were; and shorter than it was. */
static void garbles_and_truncates(void **state) {
  (void)state;
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = 3, .dir = {{.garble_ppm = 1000000}}});
  struct np_buf *got[NP_BURST];
  uint64_t clean = 0;
  for (uint32_t i = 0; i < 300; i++) {
    uint8_t sent[200];
    for (uint32_t k = 0; k < sizeof sent; k++) sent[k] = (uint8_t)(k * 7);
    send_ip4(&w, 0, 200);
    assert_int_equal(w.end[1]->ops->rx(w.end[1], got, NP_BURST), 1);
    const uint8_t *p = np_buf_cdata(got[0]);
    assert_int_equal(got[0]->len, 200);
    uint32_t differ = 0;
    for (uint32_t k = 26; k < 200; k++) differ += p[k] != sent[k];
    assert_in_range(differ, 0, 2);
    if (differ != 0) assert_int_not_equal(np_cksum_fold(np_cksum_add(0, p + 26, 174)), np_cksum_fold(np_cksum_add(0, sent + 26, 174)));
    clean += differ == 0;
    np_buf_put(got[0]);
  }
  assert_in_range(clean, 10, 90); /* in the headers */
  np_sim_set(w.link, 0, &(struct np_sim_params){.truncate_ppm = 1000000});
  for (uint32_t i = 0; i < 100; i++) {
    send_ip4(&w, 0, 200);
    assert_int_equal(w.end[1]->ops->rx(w.end[1], got, NP_BURST), 1);
    assert_in_range(got[0]->len, 14, 199);
    np_buf_put(got[0]);
  }
  close_world(&w);
}

struct told {
  uint32_t big, mtu, taps, lost;
};
static void hear_big(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint32_t mtu_bytes) {
  struct told *t = ctx;
  (void)bytes;
  assert_int_equal(dir, 0);
  assert_int_equal(len, 1415);
  t->big++;
  t->mtu = mtu_bytes;
}
static void hear_all(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t now_ns, bool lost, const char *fate) {
  struct told *t = ctx;
  (void)dir;
  (void)bytes;
  (void)len;
  (void)now_ns;
  t->taps++;
  t->lost += lost;
  assert_true(!lost || fate != NULL);
}

static void mtu_injection_and_discard(void **state) {
  (void)state;
  struct world w;
  struct told t = {0, 0, 0, 0};
  open_world(&w, &(struct np_sim_config){.seed = 1, .dir = {{.mtu_bytes = 1400, .delay_ns = 10}}});
  np_sim_set_too_big(w.link, hear_big, &t);
  np_sim_set_tap(w.link, hear_all, &t);
  send_ip4(&w, 0, 1414);
  send_ip4(&w, 0, 1415);
  assert_int_equal(t.big, 1);
  assert_int_equal(t.mtu, 1400);
  assert_int_equal(t.taps, 2);
  assert_int_equal(t.lost, 1);
  const uint8_t frame[60] = {1};
  np_sim_inject(w.link, 0, frame, sizeof frame, 1000);
  assert_int_equal(t.taps, 2);
  assert_int_equal(np_sim_next_at_ns(w.link, 1), 10);
  assert_true(np_sim_next_at_ns(w.link, 0) == UINT64_MAX);
  np_sim_set_now(w.link, 10);
  np_sim_discard(w.link, 1);
  assert_int_equal(np_sim_next_ns(w.link), 1000);
  np_sim_set_now(w.link, 1000);
  struct np_buf *got[NP_BURST];
  assert_int_equal(np_sim_queue(w.link, 1)->ops->rx(w.end[1], got, NP_BURST), 1);
  assert_int_equal(got[0]->len, 60);
  np_buf_put(got[0]);
  close_world(&w);
}

/* A bad state loses most of what comes in it, and ends in time as well. */
static void bad_states(void **state) {
  (void)state;
  struct world w;
  open_world(&w, &(struct np_sim_config){.seed = 5, .dir = {{.bad_enter_ppm = 10000, .bad_leave_ppm = 100000, .bad_loss_ppm = 1000000}}});
  uint64_t got_all = 0;
  uint32_t got[NP_BURST];
  for (uint32_t i = 0; i < 10000; i++) {
    send_number(&w, i, 60);
    got_all += receive(&w, got, NP_BURST);
  }
  /* of its steady state a packet in eleven is bad: 1 % in, 10 % out */
  assert_in_range(got_all, 8600, 9500);
  np_sim_set(w.link, 0, &(struct np_sim_params){.bad_enter_ppm = 1000000, .bad_loss_ppm = 1000000});
  send_number(&w, 1, 60);
  np_sim_set_now(w.link, 2000000000);
  np_sim_set(w.link, 0, &(struct np_sim_params){.bad_enter_ppm = 1, .bad_loss_ppm = 1000000});
  send_number(&w, 2, 60);
  assert_int_equal(receive(&w, got, NP_BURST), 1);
  assert_int_equal(got[0], 2);
  close_world(&w);
}

/* Packets longer than a buffer travel in pieces and arrive in pieces, with the same bytes; the tap sees
 * all of them; without buffers for all of it none comes. */
static void on_tap(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t now_ns, bool lost, const char *fate) {
  (void)dir;
  (void)now_ns;
  (void)fate;
  assert_false(lost);
  for (uint32_t i = 14; i < len; i++) assert_int_equal(bytes[i], (uint8_t)(i / 3));
  *(uint32_t *)ctx = len;
}

static void test_jumbo(void **state) {
  (void)state;
  struct world w;
  struct np_sim_config config = {.seed = 1, .mtu_bytes = 9000};
  open_world(&w, &config);
  uint32_t seen = 0;
  np_sim_set_tap(w.link, on_tap, &seen);
  assert_true((w.end[0]->caps & NP_PORT_SG) != 0);
  struct np_buf *head = NULL;
  struct np_buf **link = &head;
  uint32_t at = 0;
  for (uint32_t left = 9014; left > 0;) {
    struct np_buf *b = np_pool_get(&w.pool);
    uint32_t n = left < 1499 ? left : 1499;
    uint8_t *p = np_buf_append(b, n);
    for (uint32_t i = 0; i < n; i++, at++) p[i] = (uint8_t)(at / 3);
    left -= n;
    *link = b;
    link = &b->next;
  }
  assert_int_equal(w.end[0]->ops->tx(w.end[0], &head, 1), 1);
  assert_int_equal(seen, 9014);
  assert_int_equal(w.pool.free_count, BUFS);
  struct np_buf *out[2];
  assert_int_equal(w.end[1]->ops->rx(w.end[1], out, 2), 1);
  at = 0;
  for (const struct np_buf *b = out[0]; b != NULL; b = b->next) {
    for (uint32_t i = 0; i < b->len; i++, at++) assert_int_equal(np_buf_cdata(b)[i], (uint8_t)(at / 3));
  }
  assert_int_equal(at, 9014);
  struct np_buf *taken[BUFS];
  uint32_t n = 0;
  assert_int_equal(w.end[1]->ops->tx(w.end[1], out, 1), 1);
  while (w.pool.free_count > 3) taken[n++] = np_pool_get(&w.pool);
  assert_int_equal(w.end[0]->ops->rx(w.end[0], out, 2), 0);
  assert_int_equal(w.pool.free_count, 3);
  while (n > 0) np_buf_put(taken[--n]);
  close_world(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_jumbo),
      cmocka_unit_test(cuts_segments),
      cmocka_unit_test(delays_and_keeps_order),
      cmocka_unit_test(limits_the_rate),
      cmocka_unit_test(replays_from_its_seed),
      cmocka_unit_test(empty_pool_loses_packets),
      cmocka_unit_test(chosen_losses_and_a_cut),
      cmocka_unit_test(marks_above_its_threshold),
      cmocka_unit_test(garbles_and_truncates),
      cmocka_unit_test(mtu_injection_and_discard),
      cmocka_unit_test(bad_states),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
