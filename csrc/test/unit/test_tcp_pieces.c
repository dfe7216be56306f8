/* Segments that come in several buffers: the first holds the headers, the others only payload. */
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

static bool both_closed(struct tp *tp, void *ctx) {
  (void)ctx;
  const struct tp_sess *a = tp->end[0].last;
  const struct tp_sess *b = tp->end[1].last;
  return a != NULL && b != NULL && a->closed && b->closed;
}

static void transfer(struct tp *tp, uint64_t bytes) {
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.to_send = bytes, .close_at_end = true};
  struct tp_sess like = {.to_send = bytes, .close_at_end = true};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  assert_true(tp_run_until(tp, 3600 * TP_S, both_closed, NULL));
  struct tp_sess *b = tp->end[1].last;
  assert_int_equal(a->received, bytes);
  assert_int_equal(b->received, bytes);
  assert_int_equal(a->wrong + b->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  assert_int_equal(b->err, NP_ERR_EOF);
}

/* Whatever the pieces, over wires that lose, repeat, turn round and damage. */
static void test_transfers(void **state) {
  (void)state;
  const struct {
    uint32_t first;
    uint32_t piece;
  } cut[] = {{0, 1448}, {0, 100}, {1, 500}, {1000, 300}, {700, 1}};
  for (uint32_t i = 0; i < NP_COUNT_OF(cut); i++) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
      struct tp_args args;
      tp_args_default(&args);
      args.seed = seed;
      args.v6 = seed % 2 != 0;
      args.bufs = 16384;
      for (uint32_t k = 0; k < 2; k++) {
        args.config[k].user_timeout_ms = 3600000;
        args.config[k].sack = seed != 3;
        args.config[k].ooo_segs_max = seed == 4 ? 16 : 512;
      }
      struct tp *tp = tp_new(&args);
      tp->rx_first = cut[i].first;
      tp->rx_piece = cut[i].piece;
      if (seed != 1) {
        tp->loss = 200;
        tp->dup = 300;
        tp->reorder = 500;
        tp->corrupt = 100;
        tp->jitter_ns = 3 * TP_MS;
      }
      transfer(tp, cut[i].piece == 1 ? 64 << 10 : 1 << 20);
      tp_free(tp);
    }
  }
}

static struct tp *open_pair(struct tp_sess **a, struct tp_sess **b) {
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  tp_establish(tp, a, b);
  tp->rx_piece = 10;
  tp->rx_first = 5;
  tp->cut = true; /* only what is put in by hand */
  return tp;
}

static uint8_t expected(uint64_t pos) { return (uint8_t)((pos * 31 + (pos >> 8) * 17 + (pos >> 16) * 7) ^ 1u * 0x5b); }

static void inject(struct tp *tp, const struct tp_sess *to, uint32_t from, uint32_t end) {
  uint8_t data[256];
  struct tp_seg s = tp_peer_seg(to, NP_TCP_ACK);
  s.seq = tp_conn(to)->irs.v + 1 + from;
  s.len = end - from;
  for (uint32_t i = 0; i < s.len; i++) data[i] = expected(from + i);
  tp_inject(tp, 1, &s, data);
}

/* Runs out of order that overlap at either side, and one that covers others. */
static void test_overlaps(void **state) {
  (void)state;
  struct tp_sess *a;
  struct tp_sess *b;
  struct tp *tp = open_pair(&a, &b);
  struct np_tcp_conn *c = tp_conn(b);
  inject(tp, b, 100, 150);
  assert_int_equal(c->ooo_segs, 6); /* 5 bytes, four times 10, 5 */
  inject(tp, b, 120, 180);
  assert_int_equal(c->ooo_bytes, 80);
  inject(tp, b, 80, 110);
  assert_int_equal(c->ooo_bytes, 100);
  inject(tp, b, 60, 200); /* covers all of it */
  assert_int_equal(c->ooo_bytes, 140);
  assert_int_equal(c->ooo_segs, 15);
  inject(tp, b, 0, 33);
  inject(tp, b, 20, 70); /* old in front, joins the run behind */
  tp_run(tp, TP_MS);
  assert_int_equal(b->received, 200);
  assert_int_equal(b->wrong, 0);
  assert_int_equal(c->ooo_segs, 0);
  tp_free(tp);
}

/* One packet, one drop, and no buffer left behind. */
static void test_drops_count_once(void **state) {
  (void)state;
  struct tp_sess *a;
  struct tp_sess *b;
  struct tp *tp = open_pair(&a, &b);
  inject(tp, b, 0, 100);
  tp_run(tp, TP_MS);
  uint32_t free_count = tp->end[1].pool.free_count;
  uint64_t segs = tp_counter(tp, 1, NP_C_TCP_SEGS_RX);
  inject(tp, b, 0, 100);
  inject(tp, b, 40, 90);
  tp_run(tp, TP_MS);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_DUP), 2);
  assert_int_equal(tp->end[1].pool.free_count, free_count);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_SEGS_RX), segs + 2);
  tp_conn(b)->rcv_adv = np_seq_add(tp_conn(b)->rcv_nxt, 50); /* half of it fits the window */
  inject(tp, b, 100, 200);
  tp_run(tp, TP_MS);
  assert_int_equal(b->received, 150);
  assert_int_equal(b->wrong, 0);
  assert_int_equal(tp->end[1].pool.free_count, free_count);
  tp_free(tp);
}

/* A packet whose buffers hold less than its headers say is dropped. */
static void test_short_chain(void **state) {
  (void)state;
  struct tp_sess *a;
  struct tp_sess *b;
  struct tp *tp = open_pair(&a, &b);
  struct tp_end *e = &tp->end[1];
  struct np_tcp_conn *c = tp_conn(b);
  struct np_buf *first = np_pool_get(&e->pool);
  struct np_buf *second = np_pool_get(&e->pool);
  memset(np_buf_append(first, 74), 0, 74);
  memset(np_buf_append(second, 10), 0, 10);
  first->next = second;
  struct np_pkt pkt = {.buf = first, .flow = c->flow, .l4_proto = NP_PROTO_TCP, .l4_off = 54, .payload_off = 74, .l4_len = 20 + 11};
  pkt.tcp_flags = NP_TCP_ACK;
  np_tcp_input(e->tcp, &pkt, tp->now_ns);
  e->injected++;
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_SHORT), 1);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_transfers),
      cmocka_unit_test(test_overlaps),
      cmocka_unit_test(test_drops_count_once),
      cmocka_unit_test(test_short_chain),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
