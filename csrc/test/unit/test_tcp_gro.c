/* Joining received segments (tcp/gro.c): what is joined, what is not, and that TCP ends in the
 * same state as without. */
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

static bool both_closed(struct tp *tp, void *ctx) {
  (void)ctx;
  const struct tp_sess *a = tp->end[0].last;
  const struct tp_sess *b = tp->end[1].last;
  return a != NULL && b != NULL && a->closed && b->closed;
}

/* Return: segments joined. */
static uint64_t transfer(uint64_t seed, bool bad_wire, uint32_t rx_piece) {
  struct tp_args args;
  tp_args_default(&args);
  args.seed = seed;
  args.v6 = seed % 2 != 0;
  args.bufs = 16384;
  for (uint32_t k = 0; k < 2; k++) {
    args.config[k].user_timeout_ms = 3600000;
    args.config[k].sack = seed % 3 != 0;
    args.config[k].timestamps = seed % 4 != 0;
  }
  struct tp *tp = tp_new(&args);
  tp->bursts = true;
  tp->rx_piece = rx_piece;
  tp->rx_first = seed % 2 == 0 ? 100 : 0;
  if (bad_wire) {
    tp->loss = 200;
    tp->dup = 300;
    tp->reorder = 500;
    tp->corrupt = 100;
    tp->jitter_ns = 3 * TP_MS;
    tp->hold_ns = 2 * TP_MS;
  }
  uint64_t bytes = 2 << 20;
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.to_send = bytes / 2, .close_at_end = true};
  struct tp_sess like = {.to_send = bytes, .close_at_end = true, .piece = seed % 5 == 0 ? 100 : 0};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  assert_true(tp_run_until(tp, 3600 * TP_S, both_closed, NULL));
  struct tp_sess *b = tp->end[1].last;
  assert_int_equal(a->received, bytes / 2);
  assert_int_equal(b->received, bytes);
  assert_int_equal(a->wrong + b->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  assert_int_equal(b->err, NP_ERR_EOF);
  uint64_t joined = tp_counter(tp, 1, NP_C_TCP_GRO);
  if (!bad_wire) assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS), 0);
  tp_free(tp);
  return joined;
}

static void test_transfers(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 12; seed++) {
    assert_true(transfer(seed, false, 0) > 500);
    assert_true(transfer(seed, true, 0) > 50);
    transfer(seed, true, 400); /* in pieces, and headers in a buffer of their own */
  }
}

struct rig {
  struct tp *tp;
  struct tp_sess *b;
  struct np_pkt pkt[64];
  uint32_t count;
};

static struct rig open_rig(void) {
  struct tp_args args;
  tp_args_default(&args);
  struct rig r = {.tp = tp_new(&args)};
  struct tp_sess *a;
  tp_establish(r.tp, &a, &r.b);
  r.tp->cut = true;
  return r;
}

static void close_rig(struct rig *r) {
  tp_run(r->tp, TP_MS);
  tp_free(r->tp);
}

struct spec {
  uint32_t from; /* behind rcv_nxt */
  uint32_t len;
  uint32_t ack;  /* beyond snd_una */
  uint32_t ts;
  uint8_t flags; /* besides ACK */
  bool other;    /* of another flow */
  bool odd_opts; /* the same timestamps laid out unusually */
  uint32_t wnd;
};

static void add(struct rig *r, struct spec s) {
  struct np_tcp_conn *c = tp_conn(r->b);
  struct tp_seg g = tp_peer_seg(r->b, (uint8_t)(NP_TCP_ACK | s.flags));
  uint8_t data[1460];
  memset(data, 'x', sizeof data);
  g.seq = c->rcv_nxt.v + s.from;
  g.ack = c->snd_una.v + s.ack;
  g.len = s.len;
  if (s.wnd != 0) g.wnd = s.wnd;
  if (s.other) g.flow.local_port++;
  g.opt_bytes = (uint8_t)np_tcp_opts_put_ts(g.opt, c->ts_recent + s.ts, np_tcp_ts_now(r->tp->end[1].tcp, c));
  if (s.odd_opts) { /* TS NOP NOP */
    memmove(g.opt, g.opt + 2, 10);
    g.opt[10] = g.opt[11] = 1;
  }
  tp_packet(r->tp, 1, &g, data, &r->pkt[r->count++]);
}

static uint32_t gro(struct rig *r) {
  return np_tcp_gro(r->tp->end[1].tcp, r->pkt, r->count);
}

static void input(struct rig *r, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) np_tcp_input(r->tp->end[1].tcp, &r->pkt[i], r->tp->now_ns);
  r->tp->end[1].injected += r->count;
  r->count = 0;
}

static void test_joined_or_not(void **state) {
  (void)state;
  const struct {
    struct spec s[3];
    uint32_t count;
    uint32_t left;
  } row[] = {
      {{{.from = 0, .len = 100}, {.from = 100, .len = 100}, {.from = 200, .len = 50}}, 3, 1},
      {{{.from = 0, .len = 100}, {.from = 100, .len = 100, .flags = NP_TCP_PSH}, {.from = 200, .len = 50}}, 3, 1},
      {{{.from = 0, .len = 100}, {.from = 101, .len = 100}}, 2, 2},                              /* a gap */
      {{{.from = 0, .len = 100}, {.from = 99, .len = 100}}, 2, 2},                               /* an overlap */
      {{{.from = 0, .len = 100}, {.from = 200, .len = 100}, {.from = 100, .len = 100}}, 3, 3},                  /* nobody is overtaken */
      {{{.from = 0, .len = 100}, {.from = 0, .len = 100, .other = true}, {.from = 100, .len = 100}}, 3, 3}, /* not side by side */
      {{{.from = 0, .len = 100}, {.from = 100, .len = 100, .flags = NP_TCP_FIN}}, 2, 2},
      {{{.from = 0, .len = 100}, {.from = 100, .len = 100, .flags = NP_TCP_URG}}, 2, 2},
      {{{.from = 0, .len = 100, .flags = 0x40}, {.from = 100, .len = 100, .flags = 0x40}}, 2, 2}, /* ECE */
      {{{.from = 0, .len = 100}, {.from = 100, .len = 0}}, 2, 2},                                /* a pure ACK */
      {{{.from = 0, .len = 0}, {.from = 0, .len = 100}}, 2, 2},
      {{{.from = 0, .len = 100, .ts = 5}, {.from = 100, .len = 100, .ts = 5}}, 2, 1},
      {{{.from = 0, .len = 100, .ts = 5}, {.from = 100, .len = 100, .ts = 6}}, 2, 1},
      {{{.from = 0, .len = 100, .ts = 5}, {.from = 100, .len = 100, .ts = 4}}, 2, 2},
      {{{.from = 0, .len = 100}, {.from = 100, .len = 100, .ack = (uint32_t)-1}}, 2, 2},
      {{{.from = 0, .len = 100}, {.from = 100, .len = 100, .odd_opts = true}}, 2, 2},
      {{{.from = 0, .len = 100, .odd_opts = true}, {.from = 100, .len = 100, .odd_opts = true}}, 2, 2},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct rig r = open_rig();
    for (uint32_t k = 0; k < row[i].count; k++) add(&r, row[i].s[k]);
    uint32_t left = gro(&r);
    if (left != row[i].left) fail_msg("row %u: %u left, want %u", i, left, row[i].left);
    input(&r, left);
    close_rig(&r);
  }
}

static void test_bounds(void **state) {
  (void)state;
  struct rig r = open_rig();
  for (uint32_t i = 0; i < 64; i++) add(&r, (struct spec){.from = i, .len = 1});
  assert_int_equal(gro(&r), 1);
  assert_int_equal(r.pkt[0].merged, 63);
  assert_int_equal(r.pkt[0].seg_bytes, 1);
  input(&r, 1);
  for (uint32_t i = 0; i < 64; i++) add(&r, (struct spec){.from = i * 1400, .len = 1400});
  assert_int_equal(gro(&r), 2); /* 64 KiB */
  assert_int_equal(r.pkt[0].merged, 45);
  input(&r, 2);
  tp_run(r.tp, TP_MS);
  assert_int_equal(r.b->received, 65535); /* the window offered */
  assert_int_equal(tp_counter(r.tp, 1, NP_C_TCP_GRO), 63 + 62);
  close_rig(&r);
}

/* The same segments one by one: state and counters end the same. */
static void test_same_as_without(void **state) {
  (void)state;
  struct np_tcp_conn end[2];
  uint64_t segs[2];
  for (uint32_t k = 0; k < 2; k++) {
    struct rig r = open_rig();
    tp_write(r.b, 5000); /* something to be acknowledged */
    tp_run(r.tp, TP_MS);
    add(&r, (struct spec){.from = 0, .len = 700, .ack = 1000, .ts = 3, .wnd = 500});
    add(&r, (struct spec){.from = 700, .len = 700, .ack = 2000, .ts = 4, .wnd = 400});
    add(&r, (struct spec){.from = 1400, .len = 900, .ack = 2448, .ts = 5, .wnd = 300});
    uint32_t n = r.count;
    if (k == 0) {
      n = gro(&r);
      assert_int_equal(n, 1);
    }
    segs[k] = tp_conn(r.b)->segs_rx;
    input(&r, n);
    segs[k] = tp_conn(r.b)->segs_rx - segs[k];
    end[k] = *tp_conn(r.b);
    close_rig(&r);
  }
  assert_int_equal(segs[0], 3);
  assert_int_equal(segs[1], 3);
  assert_int_equal(end[0].rcv_nxt.v - end[0].irs.v, end[1].rcv_nxt.v - end[1].irs.v);
  assert_int_equal(end[0].snd_una.v - end[0].iss.v, end[1].snd_una.v - end[1].iss.v);
  assert_int_equal(end[0].snd_wnd, end[1].snd_wnd);
  assert_int_equal(end[0].ts_recent - end[0].irs.v, end[1].ts_recent - end[1].irs.v);
  assert_int_equal(end[0].rcv_mss, end[1].rcv_mss);
  assert_int_equal(end[0].rcv_mss, 900);
  assert_int_equal(end[0].ack_bytes, end[1].ack_bytes);
  assert_int_equal(end[0].flags | NP_TF_ACK_LATER, end[1].flags | NP_TF_ACK_LATER); /* with ACK_NOW it means nothing */
  assert_int_equal(end[0].bytes_rx, end[1].bytes_rx);
  assert_int_equal(end[0].cwnd, end[1].cwnd);
}

/* Several that all are old, or lie behind a gap: each counts. */
static void test_drops_and_gaps(void **state) {
  (void)state;
  struct rig r = open_rig();
  add(&r, (struct spec){.from = 0, .len = 100});
  add(&r, (struct spec){.from = 100, .len = 100});
  input(&r, gro(&r));
  tp_run(r.tp, TP_MS);
  for (uint32_t i = 0; i < 3; i++) add(&r, (struct spec){.from = (uint32_t)-150 + i * 50, .len = 50});
  input(&r, gro(&r));
  assert_int_equal(tp_drops(r.tp, 1, NP_DROP_TCP_DUP), 3);
  for (uint32_t i = 0; i < 4; i++) add(&r, (struct spec){.from = 100 + i * 50, .len = 50});
  input(&r, gro(&r));
  assert_int_equal(tp_conn(r.b)->ooo_bytes, 200);
  assert_int_equal(tp_conn(r.b)->ooo_segs, 4);
  assert_true((tp_conn(r.b)->flags & NP_TF_ACK_NOW) != 0);
  add(&r, (struct spec){.from = 0, .len = 60});
  add(&r, (struct spec){.from = 60, .len = 100});
  input(&r, gro(&r));
  tp_run(r.tp, TP_MS);
  assert_int_equal(r.b->received, 500);
  close_rig(&r);
}

/* Without a connection they are taken apart again: a reset for each, as each is owed one. */
static void test_no_connection(void **state) {
  (void)state;
  for (uint32_t piece = 0; piece < 50; piece += 40) {
    struct rig r = open_rig();
    struct tp_end *e = &r.tp->end[1];
    add(&r, (struct spec){.from = 0, .len = 100, .other = true});
    add(&r, (struct spec){.from = 100, .len = 200, .other = true});
    add(&r, (struct spec){.from = 300, .len = 300, .other = true, .flags = NP_TCP_PSH});
    for (uint32_t i = 0; piece != 0 && i < 3; i++) { /* the middle of the second is in a buffer of its own */
      struct np_buf *b = np_pool_get(&e->pool);
      memset(np_buf_append(b, piece), 'x', piece);
      r.pkt[i].buf->len -= piece;
      r.pkt[i].buf->next = b;
    }
    assert_int_equal(gro(&r), 1);
    uint32_t sent = e->log_count;
    uint64_t segs = tp_counter(r.tp, 1, NP_C_TCP_SEGS_RX);
    input(&r, 1);
    assert_int_equal(e->log_count, sent + 3);
    for (uint32_t i = 0; i < 3; i++) assert_true((tp_sent(r.tp, 1, i)->flags & NP_TCP_RST) != 0);
    assert_int_equal(tp_counter(r.tp, 1, NP_C_TCP_SEGS_RX), segs + 3); /* a listener's port: each reached it */
    close_rig(&r);
  }
}

static void test_switched_off(void **state) {
  (void)state;
  struct rig r = open_rig();
  tp_conn(r.b);
  struct np_tcp *tcp = r.tp->end[1].tcp;
  tcp->config.gro = false;
  add(&r, (struct spec){.from = 0, .len = 100});
  add(&r, (struct spec){.from = 100, .len = 100});
  assert_int_equal(gro(&r), 2);
  input(&r, 2);
  close_rig(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_transfers),        cmocka_unit_test(test_joined_or_not), cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_same_as_without),  cmocka_unit_test(test_drops_and_gaps), cmocka_unit_test(test_switched_off),
      cmocka_unit_test(test_no_connection),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
