/* What peers may do to us, and what we run out of: windows, floods, bombs, pools. */
#include "test/sim/invariants.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

static struct tp *fresh(void) {
  struct tp_args args;
  tp_args_default(&args);
  return tp_new(&args);
}

/* Windows. */

static void test_zero_window(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  b->hold = true;
  tp_write(a, 2 << 20);
  tp_run(tp, 5 * TP_S);
  /* All the receiver has room for, to the last worthwhile segment, and not a byte more. */
  assert_in_range(b->received, NP_TCP_BUF_START - 1448, NP_TCP_BUF_START);
  assert_true(tp_counter(tp, 0, NP_C_TCP_PROBE) >= 3);
  uint32_t n = 0;
  while (tp_sent(tp, 0, n)->len == 0) n++;
  assert_int_equal(tp_sent(tp, 0, n)->len, 1); /* RFC 9293 §3.8.6.1: an octet of new data */
  struct np_conn_info info;
  a->base.stream->ops->info(a->base.stream, &info);
  assert_int_equal(info.limited, NP_LIMITED_RWND);
  /* The peer answers, so it may stay closed longer than the user timeout. */
  tp_run(tp, 400 * TP_S);
  assert_false(a->closed);
  /* RFC 9293 §3.8.6.2.2: a few bytes are no news... */
  uint32_t before = tp->end[1].log_count;
  tp_consume(b, 100);
  tp_flush(tp);
  assert_int_equal(tp->end[1].log_count, before);
  /* ...a segment is. */
  tp_consume(b, 3000);
  tp_flush(tp);
  assert_int_equal(tp->end[1].log_count, before + 1);
  b->hold = false;
  tp_consume(b, b->unconsumed);
  tp_run(tp, 60 * TP_S);
  assert_int_equal(b->received, 2 << 20);
  assert_int_equal(b->wrong, 0);
  tp_free(tp);
}

/* Everything but the receive reserve is held: acknowledgments, which give the peer its buffers back, still leave. */
static void test_ack_from_reserve(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct np_pool *pool = &tp->end[1].pool;
  pool->reserve_count = pool->free_count;
  assert_null(np_pool_get(pool));
  const struct np_tcp_conn *c = tp_conn(b);
  struct tp_seg again = {.flow = tp_conn(a)->flow, .flags = NP_TCP_ACK, .seq = c->rcv_nxt.v - 100, .ack = c->snd_nxt.v, .len = 100, .wnd = 1000};
  again.opt_bytes = (uint8_t)np_tcp_opts_put_ts(again.opt, c->ts_recent, c->ts_recent);
  uint8_t data[100] = {0};
  uint32_t before = tp->end[1].log_count;
  tp_inject(tp, 1, &again, data);
  tp_flush(tp);
  pool->reserve_count = 0;
  assert_int_equal(tp->end[1].log_count, before + 1);
  assert_int_equal(tp_sent(tp, 1, 0)->ack, c->rcv_nxt.v);
  tp_free(tp);
}

static bool lose_window_update(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  return from == 1 && seg->wnd != 0 && *(bool *)tp->drop_ctx;
}

/* The update that opens the window is lost: a probe finds out. */
static void test_lost_window_update(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  bool lose = false;
  tp_establish(tp, &a, &b);
  b->hold = true;
  tp->drop = lose_window_update;
  tp->drop_ctx = &lose;
  tp_write(a, 1 << 20);
  tp_run(tp, TP_S);
  lose = true;
  b->hold = false;
  tp_consume(b, b->unconsumed);
  tp_flush(tp);
  lose = false;
  tp_run(tp, 10 * TP_S);
  assert_int_equal(b->received, 1 << 20);
  tp_free(tp);
}

/* A window that could not open for want of buffers opens when they are back, not when the
 * peer's persist timer, by then slow, asks. */
static void test_window_waits_for_pool(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  b->hold = true;
  tp_write(a, 1 << 20);
  tp_run(tp, 30 * TP_S);
  struct np_pool *pool = &tp->end[1].pool;
  struct np_buf *taken = NULL;
  while (!np_tcp_mem_below(tp->end[1].tcp, NP_TCP_MEM_HARD)) {
    struct np_buf *n = np_pool_get(pool);
    n->next = taken;
    taken = n;
  }
  uint64_t before = b->received;
  b->hold = false;
  tp_consume(b, b->unconsumed);
  tp_run(tp, 100 * TP_MS);
  assert_int_equal(b->received, before);
  np_buf_put_chain(taken);
  tp_run(tp, 100 * TP_MS);
  assert_true(b->received > before);
  tp_run(tp, 10 * TP_S);
  assert_int_equal(b->received, 1 << 20);
  tp_free(tp);
}

static void test_silent_zero_window(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  b->hold = true;
  tp_write(a, 1 << 20);
  tp_run(tp, 5 * TP_S);
  tp->cut = true;
  tp_run(tp, 300 * TP_S);
  assert_true(a->closed);
  assert_int_equal(a->err, NP_ERR_TIMEDOUT);
  tp_free(tp);
}

/* Data beyond the window: cut at its edge, the rest never seen. */
static void test_window_overrun(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  b->hold = true;
  tp_write(a, 1 << 20);
  tp_run(tp, 5 * TP_S);
  struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
  s.len = 1000;
  uint64_t before = b->received;
  uint64_t drops = tp_drops(tp, 1, NP_DROP_TCP_WINDOW) + tp_drops(tp, 1, NP_DROP_TCP_DUP);
  uint32_t left = (uint32_t)np_seq_diff(tp_conn(b)->rcv_adv, tp_conn(b)->rcv_nxt);
  tp_inject(tp, 1, &s, NULL);
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  assert_int_equal(b->received, before + left);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_WINDOW) + tp_drops(tp, 1, NP_DROP_TCP_DUP), drops + (left == 0 ? 2 : 1));
  tp_free(tp);
}

static void test_writable(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  b->hold = true;
  tp_write(a, 4 << 20);
  assert_in_range(a->sent, NP_TCP_BUF_START - 1448, NP_TCP_BUF_START);
  tp_run(tp, 2 * TP_S);
  b->hold = false;
  tp_consume(b, b->unconsumed);
  tp_run(tp, 10 * TP_S);
  assert_true(a->writable_calls > 0);
  assert_int_equal(b->received, 4 << 20);
  tp_free(tp);
}

static void test_echo_backpressure(void **state) {
  (void)state;
  struct tp *tp = fresh();
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.mode = TP_ECHO, .close_on_eof = true};
  struct tp_sess like = {.to_send = 8 << 20, .close_at_end = true, .piece = 100, .hold = true};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  a->pattern_rx = a->pattern_tx;
  tp_run(tp, 30 * TP_S);
  assert_true(a->sent < 8 << 20); /* its own unread answers stop it */
  a->hold = false;
  tp_consume(a, a->unconsumed);
  tp_run(tp, 60 * TP_S);
  assert_int_equal(a->received, 8 << 20);
  assert_int_equal(a->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  tp_free(tp);
}

/* Small things that would each hold a buffer. */

static void test_small_writes_join(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  a->piece = 10;
  uint32_t before = tp->end[0].log_count;
  tp_write(a, 2000);
  tp_flush(tp);
  assert_int_equal(tp->end[0].log_count, before + 2);
  tp_run(tp, TP_S);
  assert_int_equal(b->received, 2000);
  assert_int_equal(b->wrong, 0);
  tp_free(tp);
}

/* A session that keeps chains and consumes nothing, a peer that sends bytes. */
struct keeper {
  struct np_session base;
  struct np_buf *head;
  uint32_t bufs;
  uint32_t bytes;
};

static void keep_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  struct keeper *k = (struct keeper *)base;
  k->bytes += bytes;
  while (chain != NULL) {
    struct np_buf *next = chain->next;
    chain->next = k->head;
    k->head = chain;
    k->bufs++;
    chain = next;
  }
}
static void keep_nothing(struct np_session *base) { (void)base; }
static void keep_closed(struct np_session *base, enum np_err err) {
  struct keeper *k = (struct keeper *)base;
  (void)err;
  if (k->head != NULL) np_buf_put_chain(k->head);
  k->head = NULL;
}

static void test_byte_by_byte(void **state) {
  (void)state;
  static const struct np_session_ops ops = {keep_data, keep_nothing, keep_nothing, keep_closed, NULL};
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct keeper k = {.base = {.ops = &ops, .stream = b->base.stream}};
  b->base.stream->session = &k.base;
  b->base.stream = NULL;
  struct np_stream *st = k.base.stream;
  struct np_tcp_conn *c = np_tcp_of(st);
  struct tp_seg s = {.flags = NP_TCP_ACK, .len = 1, .wnd = 1000};
  s.flow = tp_conn(a)->flow;
  s.opt_bytes = (uint8_t)np_tcp_opts_put_ts(s.opt, c->ts_recent, 0);
  for (uint32_t i = 0; i < 50000; i++) {
    s.seq = c->rcv_nxt.v;
    s.ack = c->snd_nxt.v;
    tp_inject(tp, 1, &s, "x");
    np_tcp_flush(tp->end[1].tcp, tp->now_ns);
  }
  assert_true(k.bufs < 1200);
  tp_run(tp, TP_S); /* what was kept back comes all the same */
  assert_int_equal(k.bytes, 50000);
  tp_free(tp);
}

/* Out-of-order bombs. */

static void test_ooo_bounded(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  uint32_t free_before = tp->end[1].pool.free_count;
  struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
  uint32_t base = s.seq;
  s.len = 1;
  for (uint32_t i = 0; i < 20000; i++) {
    s.seq = base + 1 + 2 * i;
    tp_inject(tp, 1, &s, NULL);
    tp_flush(tp);
  }
  assert_int_equal(tp_conn(b)->ooo_segs, 128);
  assert_int_equal(tp->end[1].pool.free_count, free_before - 128);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_OOO_LIMIT), 20000 - 128);
  tp_free(tp);
}

/* RFC 6437: a connection's label is its own, its whole life, and that of what is sent for its flow without it. */
static void test_flow_labels(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.v6 = true;
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  uint32_t label = tp_conn(a)->path.flow_label;
  assert_in_range(label, 1, 0xfffff);
  assert_int_not_equal(label, tp_conn(b)->path.flow_label);
  assert_int_equal(label, np_tcp_flow_label(tp->end[0].tcp, &tp_conn(a)->flow));
  struct tp_sess *other = tp_connect(tp, 0, TP_PORT, NULL);
  tp_write(a, 100000);
  tp_run(tp, TP_S);
  assert_int_not_equal(tp_conn(other)->path.flow_label, label);
  assert_int_equal(tp_conn(a)->path.flow_label, label);
  tp_free(tp);
  args.v6 = false;
  tp = tp_new(&args);
  tp_establish(tp, &a, &b);
  assert_int_equal(tp_conn(a)->path.flow_label, 0);
  tp_free(tp);
}

/* Thousands of runs: pieces of the whole window in any order, some twice, some over several runs, now and then a few
 * shed. The levels of the list stay whole (invariants.h), and in the end all is there. */
static void test_ooo_thousands(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 6; seed++) {
    struct tp_args args;
    tp_args_default(&args);
    args.bufs = 16384;
    args.config[1].autotune = false;
    args.config[1].rcv_buf_bytes = 1u << 20;
    args.config[1].ooo_segs_max = 8192;
    args.config[1].ooo_runs_max = 8192;
    struct tp *tp = tp_new(&args);
    struct np_rng rng;
    np_rng_init(&rng, seed);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
    tp->cut = true;
    uint32_t base = s.seq;
    uint32_t most = 0;
    uint32_t slot;
    const uint32_t cell = 16;
    const uint32_t cells = 3900; /* within the SYN's window */
    for (uint32_t n = 0; n < 6000; n++) {
      uint32_t at = 1 + np_rng_below(&rng, cells - 1);
      uint32_t wide = np_rng_below(&rng, 1000) == 0 ? 1 + np_rng_below(&rng, 80) : 1;
      s.seq = base + at * cell + np_rng_below(&rng, 2);
      s.len = np_min_u32(wide * cell, (cells - at) * cell) - 4;
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
      struct np_tcp_conn *c = tp_conn(b);
      most = np_max_u32(most, c->ooo_runs);
      if (n % 1500 == 1499) np_tcp_ooo_shed(tp->end[1].tcp, c, c->ooo_segs - c->ooo_segs / 8);
      if (n % 50 == 0 || n % 1500 == 1499) {
        const char *wrong = np_inv_tcp(tp->end[1].tcp, &slot);
        if (wrong != NULL) fail_msg("seed %u piece %u: %s", (unsigned)seed, n, wrong);
      }
    }
    assert_true(most > 1000);
    for (uint32_t at = 0; at < cells; at += 64) { /* now in order, over all of it */
      s.seq = base + at * cell;
      s.len = np_min_u32(64, cells - at) * cell;
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
    }
    assert_int_equal(b->received, cells * cell);
    assert_int_equal(tp_conn(b)->ooo_runs + tp_conn(b)->ooo_segs + tp_conn(b)->ooo_bytes, 0);
    b->mode = TP_ECHO; /* the bytes were zeros, not the pattern */
    tp_free(tp);
  }
}

/* Random overlapping pieces in random order make exactly the stream. */
static void test_ooo_overlaps(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 50; seed++) {
    struct tp *tp = fresh();
    struct np_rng rng;
    np_rng_init(&rng, seed);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    b->mode = TP_SINK;
    uint8_t bytes[20000];
    for (uint32_t i = 0; i < sizeof bytes; i++) {
      bytes[i] = (uint8_t)(((uint64_t)i * 31 + (i >> 8) * 17) ^ 0x5bu * b->pattern_rx);
    }
    struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
    uint32_t base = s.seq;
    for (uint32_t n = 0; n < 2000 && b->received < sizeof bytes; n++) {
      uint32_t at = np_rng_below(&rng, sizeof bytes);
      s.len = 1 + np_rng_below(&rng, np_rng_below(&rng, 4) == 0 ? 1400 : 300);
      if (s.len > sizeof bytes - at) s.len = (uint32_t)sizeof bytes - at;
      s.seq = base + at;
      tp_inject(tp, 1, &s, bytes + at);
      if (n % 3 == 0) tp_flush(tp);
    }
    for (uint32_t at = 0; at < sizeof bytes; at += 1000) {
      s.seq = base + at;
      s.len = 1000;
      tp_inject(tp, 1, &s, bytes + at);
    }
    tp_flush(tp);
    assert_int_equal(b->received, sizeof bytes);
    assert_int_equal(b->wrong, 0);
    assert_int_equal(tp_conn(b)->ooo_segs, 0);
    assert_int_equal(tp_conn(b)->ooo_bytes, 0);
    tp_free(tp);
  }
}

/* SACK, receiving side: latest first, grown by what touches, gone when passed. */
static void test_sack_blocks(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
  uint32_t base = s.seq;
  static const uint32_t order[] = {1, 3, 5, 7, 4};
  s.len = 100;
  for (uint32_t i = 0; i < NP_COUNT_OF(order); i++) {
    s.seq = base + order[i] * 100;
    tp_inject(tp, 1, &s, NULL);
    tp_flush(tp);
  }
  const struct tp_seg *ack = tp_sent(tp, 1, 0);
  assert_int_equal(ack->ack, base);
  assert_int_equal(ack->opts.sack_count, 3);
  assert_int_equal(ack->opts.sack[0].start.v, base + 300);
  assert_int_equal(ack->opts.sack[0].end.v, base + 600);
  assert_int_equal(ack->opts.sack[1].start.v, base + 700);
  assert_int_equal(ack->opts.sack[2].start.v, base + 100);
  s.seq = base;
  s.len = 300;
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  ack = tp_sent(tp, 1, 0);
  assert_int_equal(ack->ack, base + 600);
  tp_free(tp);
}

/* Sending side: exactly what is missing is sent again, at once, without a timeout. */
static bool lose_listed(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  uint32_t *list = tp->drop_ctx;
  if (from != 0 || seg->len == 0) return false;
  for (uint32_t i = 0; i < 4; i++) {
    if (list[i] == seg->seq) {
      list[i] = 0;
      return true;
    }
  }
  return false;
}

static void test_sack_recovery(void **state) {
  (void)state;
  for (uint32_t sack = 0; sack < 2; sack++) {
    struct tp_args args;
    tp_args_default(&args);
    args.config[0].sack = sack != 0;
    struct tp *tp = tp_new(&args);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    tp_write(a, 200 * 1448);
    tp_run(tp, TP_S);
    uint32_t una = tp_conn(a)->snd_una.v;
    uint32_t list[4] = {una, una + 3 * 1448, una + 4 * 1448, una + 9 * 1448};
    tp->drop = lose_listed;
    tp->drop_ctx = list;
    tp_write(a, 40 * 1448);
    tp_run(tp, 30 * TP_MS);
    assert_int_equal(b->received, 240 * 1448);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RETRANS), 4);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_FAST_RETRANS), 1);
    assert_int_equal(tp_counter(tp, 0, NP_C_TCP_RTO), 0);
    assert_int_equal(tp_conn(a)->ca_state, NP_CA_OPEN);
    assert_int_equal(tp_conn(a)->sacked_bytes + tp_conn(a)->lost_bytes + tp_conn(a)->rtx_bytes, 0);
    tp_free(tp);
  }
}

/* Nonsense in SACK blocks changes nothing and costs a bounded walk. */
static void test_sack_lies(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  tp->cut = true;
  tp_write(a, 10 * 1448);
  tp_flush(tp);
  struct np_tcp_conn *c = tp_conn(a);
  struct np_tcp_block lies[3] = {
      {np_seq_add(c->snd_nxt, 1), np_seq_add(c->snd_nxt, 5000)},
      {np_seq_sub(c->snd_una, 5000), np_seq_add(c->snd_una, 3000)},
      {np_seq_add(c->snd_una, 3000), np_seq_add(c->snd_una, 2000)},
  };
  struct np_tcp_block none = {{0}, {0}};
  struct tp_seg s = tp_peer_seg(a, NP_TCP_ACK);
  s.ack = c->snd_una.v;
  s.opt_bytes = (uint8_t)(s.opt_bytes + np_tcp_opts_put_sack(s.opt + s.opt_bytes, &none, lies, 3, 28));
  tp_inject(tp, 0, &s, NULL);
  assert_int_equal(c->sacked_segs, 0);
  /* Taken back: after the timeout everything is sent again (RFC 2018 §8). */
  struct np_tcp_block all = {c->snd_una, c->snd_nxt};
  s.opt_bytes = 12;
  s.opt_bytes = (uint8_t)(s.opt_bytes + np_tcp_opts_put_sack(s.opt + s.opt_bytes, &none, &all, 1, 28));
  all.start = np_seq_add(c->snd_una, 1448);
  np_tcp_opts_put_sack(s.opt + 12, &none, &all, 1, 28);
  tp_inject(tp, 0, &s, NULL);
  assert_int_equal(c->sacked_segs, 9);
  tp->cut = false;
  tp_run(tp, 20 * TP_S);
  assert_int_equal(b->received, 10 * 1448);
  tp_free(tp);
}

/* Floods. */

static void test_syn_flood(void **state) {
  (void)state;
  for (uint32_t ts = 0; ts < 2; ts++) {
    struct tp_args args;
    tp_args_default(&args);
    args.config[0].timestamps = ts != 0;
    args.config[1].conns_max = 1024;
    args.config[1].backlog_default = 16;
    struct tp *tp = tp_new(&args);
    tp_listen(tp, 1, TP_PORT);
    struct tp_seg syn = {.flags = NP_TCP_SYN, .wnd = 65535};
    syn.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .remote_port = TP_PORT};
    tp->cut = true;
    for (uint32_t i = 0; i < 5000; i++) {
      syn.flow.local.b[14] = (uint8_t)(i >> 8);
      syn.flow.local_port = (uint16_t)(1000 + i);
      syn.seq = i * 7919;
      tp_inject(tp, 1, &syn, NULL);
    }
    tp_flush(tp);
    tp->cut = false;
    assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 16);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_TX), 5000 - 16);
    tp->end[1].accept_as = (struct tp_sess){.to_send = 200000, .close_at_end = true};
    struct tp_sess like = {.to_send = 100000, .close_at_end = true};
    struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
    tp_run(tp, 200 * TP_MS);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), 1);
    assert_int_equal(a->received, 200000);
    assert_int_equal(tp->end[1].last->received, 100000);
    assert_int_equal(a->wrong + tp->end[1].last->wrong, 0);
    tp_run(tp, 100 * TP_S); /* the half-open ones time out */
    assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 0);
    tp_free(tp);
  }
}

static void test_cookie_options(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].backlog_default = 1;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  struct tp_seg syn = {.flags = NP_TCP_SYN, .wnd = 65535};
  syn.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = 7, .remote_port = TP_PORT};
  tp->cut = true;
  tp_inject(tp, 1, &syn, NULL);
  tp_flush(tp);
  tp->cut = false;
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 50 * TP_MS);
  assert_true(a->established);
  const struct np_tcp_conn *b = tp_conn(tp->end[1].last);
  assert_int_equal(b->flags & (NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE), NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE);
  assert_int_equal(b->snd_wscale, 7);
  assert_int_equal(b->mss, 1448);
  /* A forged ACK opens nothing. */
  struct tp_seg ack = syn;
  ack.flow.local_port = 8;
  ack.flags = NP_TCP_ACK;
  for (uint32_t i = 0; i < 1000; i++) {
    ack.ack = i * 2654435761u;
    tp_inject(tp, 1, &ack, NULL);
  }
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_COOKIE), 1000);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 2);
  tp_free(tp);
}

static void test_cookie_expires(void **state) {
  (void)state;
  for (uint32_t late = 0; late < 2; late++) {
    struct tp_args args;
    tp_args_default(&args);
    args.config[1].backlog_default = 1;
    struct tp *tp = tp_new(&args);
    tp_listen(tp, 1, TP_PORT);
    tp->cut = true;
    struct tp_seg syn = {.flags = NP_TCP_SYN, .wnd = 65535, .seq = 5};
    syn.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = 7, .remote_port = TP_PORT};
    tp_inject(tp, 1, &syn, NULL);
    tp_flush(tp);
    syn.flow.local_port = 8;
    tp_inject(tp, 1, &syn, NULL);
    struct tp_seg ack = syn;
    ack.flags = NP_TCP_ACK;
    ack.seq = 6;
    ack.ack = tp_sent(tp, 1, 0)->seq + 1;
    tp_run(tp, late ? 137 * TP_S : 30 * TP_S);
    tp_inject(tp, 1, &ack, NULL);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), late ? 0 : 1);
    tp_free(tp);
  }
}

static void test_listener_limits(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct np_tcp_listen l = {.port = TP_PORT, .conns_max = 2};
  struct np_tcp *tcp = tp->end[1].tcp;
  uint32_t id;
  assert_int_equal(np_tcp_listen(tcp, &l, &id), NP_ERR_OK);
  uint32_t other;
  assert_int_equal(np_tcp_listen(tcp, &l, &other), NP_ERR_ADDRINUSE);
  for (uint32_t i = 0; i < 3; i++) {
    tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
  }
  assert_int_equal(np_tcp_conn_count(tcp), 2);
  assert_true(tp_drops(tp, 1, NP_DROP_TCP_CONN_LIMIT) > 0);
  assert_int_equal(np_tcp_unlisten(tcp, id), NP_ERR_OK);
  assert_int_equal(np_tcp_unlisten(tcp, id), NP_ERR_NOTFOUND);
  assert_int_equal(np_tcp_conn_count(tcp), 2); /* those accepted stay */
  l.backlog = 1;
  l.conns_max = 0;
  assert_int_equal(np_tcp_listen(tcp, &l, &id), NP_ERR_OK);
  tp->cut = true;
  for (uint32_t i = 0; i < 3; i++) {
    struct tp_seg syn = {.flags = NP_TCP_SYN, .wnd = 1000};
    syn.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = (uint16_t)(1 + i),
                                .remote_port = TP_PORT};
    tp_inject(tp, 1, &syn, NULL);
  }
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_BACKLOG), 2);
  np_tcp_unlisten(tcp, id); /* the half-open one goes with it */
  tp_flush(tp);
  assert_int_equal(np_tcp_conn_count(tcp), 2);
  tp_free(tp);
}

/* SYNs from nowhere take no place among a listener's connections: its limit is for those
 * that are open, and is kept when more handshakes than it allows end at the same time. */
static void test_half_open_not_counted(void **state) {
  (void)state;
  struct tp *tp = fresh();
  struct np_tcp *tcp = tp->end[1].tcp;
  struct np_tcp_listen l = {.port = TP_PORT, .conns_max = 2, .backlog = 8, .cookies = true};
  uint32_t id;
  assert_int_equal(np_tcp_listen(tcp, &l, &id), NP_ERR_OK);
  tp->cut = true;
  for (uint32_t i = 0; i < 4; i++) {
    struct tp_seg syn = {.flags = NP_TCP_SYN, .wnd = 1000};
    syn.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = (uint16_t)(1 + i),
                                .remote_port = TP_PORT};
    tp_inject(tp, 1, &syn, NULL);
  }
  tp_flush(tp);
  tp->cut = false;
  struct tp_sess *s[3];
  for (uint32_t i = 0; i < 3; i++) s[i] = tp_connect(tp, 0, TP_PORT, NULL); /* all in one burst */
  tp_run(tp, 100 * TP_MS);
  assert_true(s[0]->established && !s[0]->closed);
  assert_true(s[1]->established && !s[1]->closed);
  assert_true(s[2]->closed);
  assert_int_equal(s[2]->err, NP_ERR_RESET);
  assert_int_equal(tcp->listeners[id].conns - tcp->listeners[id].backlog, 2);
  tp_run(tp, 100 * TP_S);
  assert_int_equal(tcp->listeners[id].backlog, 0);
  assert_int_equal(tcp->listeners[id].conns, 2);
  tp_free(tp);
}

/* Pools. */

static bool both_closed(struct tp *tp, void *ctx) {
  (void)ctx;
  const struct tp_sess *b = tp->end[1].last;
  return b != NULL && tp->end[0].last->closed && b->closed;
}

/* Too few buffers for the windows: slower, and never wrong. */
static void test_small_pool(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 6; seed++) {
    struct tp_args args;
    tp_args_default(&args);
    args.bufs = 96;
    args.seed = seed;
    struct tp *tp = tp_new(&args);
    tp->loss = 100;
    tp->hold_ns = TP_MS;
    tp_listen(tp, 1, TP_PORT);
    tp->end[1].accept_as = (struct tp_sess){.to_send = 500000, .close_at_end = true};
    struct tp_sess like = {.to_send = 500000, .close_at_end = true};
    struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
    assert_true(tp_run_until(tp, 1000 * TP_S, both_closed, NULL));
    assert_int_equal(a->err, NP_ERR_EOF);
    assert_int_equal(tp->end[1].last->err, NP_ERR_EOF);
    assert_int_equal(a->received, 500000);
    assert_int_equal(tp->end[1].last->received, 500000);
    assert_int_equal(a->wrong + tp->end[1].last->wrong, 0);
    assert_true(tp->end[0].pool.low_count < 96 / 4); /* it was short */
    tp_free(tp);
  }
}

/* Nothing left at all for a while, in the middle. */
static void test_empty_pool(void **state) {
  (void)state;
  struct tp *tp = fresh();
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess like = {.to_send = 4 << 20, .close_at_end = true};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  tp->end[1].accept_as.close_on_eof = true;
  for (uint32_t round = 0; round < 20; round++) {
    struct np_buf *all[2] = {NULL, NULL};
    for (uint32_t i = 0; i < 2; i++) {
      for (struct np_buf *b; (b = np_pool_get(&tp->end[i].pool)) != NULL; all[i] = b) b->next = all[i];
    }
    tp_run(tp, 20 * TP_MS);
    for (uint32_t i = 0; i < 2; i++) {
      if (all[i] != NULL) np_buf_put_chain(all[i]);
    }
    tp_run(tp, 3 * TP_MS);
  }
  assert_true(tp_run_until(tp, 600 * TP_S, both_closed, NULL));
  assert_int_equal(tp->end[1].last->received, 4 << 20);
  assert_int_equal(tp->end[1].last->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  tp_free(tp);
}

/* Numbers. */

static void closed_noted(struct np_session *session, enum np_err err) {
  (void)err;
  session->stream = NULL;
}

/* Cores share addresses and secret: from which ports they connect must not. */
static void test_ports_of_cores(void **state) {
  (void)state;
  static const struct np_session_ops ops = {.closed = closed_noted};
  struct tp_args args;
  tp_args_default(&args);
  memcpy(args.config[1].secret, args.config[0].secret, sizeof args.config[1].secret);
  args.config[0].cores = args.config[1].cores = 2;
  args.config[0].conns_max = args.config[1].conns_max = 256;
  struct tp *tp = tp_new(&args);
  struct np_session session[2][200] = {{{0}}};
  bool taken[65536] = {false};
  for (uint32_t i = 0; i < 400; i++) {
    struct np_session *s = &session[i % 2][i / 2];
    struct np_flow flow = {.local = tp->end[0].addr, .remote = tp->end[1].addr, .remote_port = TP_PORT};
    struct np_stream *stream;
    s->ops = &ops;
    assert_int_equal(np_tcp_connect(tp->end[i % 2].tcp, &flow, s, tp->now_ns, &stream), NP_ERR_OK);
    uint16_t port = np_tcp_of(stream)->flow.local_port;
    assert_in_range(port, NP_TCP_PORT_MIN, NP_TCP_PORT_MIN + NP_TCP_PORT_COUNT - 1);
    assert_false(taken[port]);
    taken[port] = true;
  }
  np_tcp_abort_all(tp->end[0].tcp, tp->now_ns);
  np_tcp_abort_all(tp->end[1].tcp, tp->now_ns);
  tp_free(tp);
}

static void test_10000_connections(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].conns_max = args.config[1].conns_max = 10000;
  args.config[1].backlog_default = 10000;
  args.bufs = 16384;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.mode = TP_ECHO, .close_on_eof = true};
  for (uint32_t i = 0; i < 10000; i++) {
    struct tp_sess like = {.to_send = 64};
    tp_connect(tp, 0, TP_PORT, &like)->pattern_rx = 1;
    if (i % 500 == 499) tp_run(tp, 5 * TP_MS);
  }
  tp_run(tp, 5 * TP_S);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 10000);
  assert_int_equal(tp->end[0].pool.free_count, tp->end[0].pool.count); /* idle ones hold nothing */
  assert_int_equal(tp->end[1].pool.free_count, tp->end[1].pool.count);
  assert_int_equal(tp->end[0].wheel.count + tp->end[1].wheel.count, 0);
  uint32_t cursor = 0;
  uint32_t seen = 0;
  struct np_conn_info info[100];
  do {
    uint32_t n = np_tcp_connections(tp->end[1].tcp, &cursor, info, 100);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(info[i].bytes_rx, 64);
    seen += n;
  } while (cursor != 0);
  assert_int_equal(seen, 10000);
  for (struct tp_sess *s = tp->end[0].sessions; s != NULL; s = s->next) {
    assert_int_equal(s->received, 64);
    if ((s->base.stream->handle & 7) == 0) {
      s->base.stream->ops->abort(s->base.stream);
    } else {
      s->base.stream->ops->shutdown(s->base.stream);
    }
  }
  tp_run(tp, 70 * TP_S);
  assert_int_equal(np_tcp_conn_count(tp->end[0].tcp), 0);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 0);
  tp_free(tp);
}

static void test_memory_per_connection(void **state) {
  (void)state;
  struct np_tcp_config config;
  np_tcp_config_default(&config);
  config.conns_max = 100000;
  assert_true(np_tcp_bytes(&config) / config.conns_max < 1024);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_zero_window),       cmocka_unit_test(test_lost_window_update),
      cmocka_unit_test(test_window_waits_for_pool), cmocka_unit_test(test_silent_zero_window), cmocka_unit_test(test_window_overrun),
      cmocka_unit_test(test_writable),          cmocka_unit_test(test_echo_backpressure),
      cmocka_unit_test(test_small_writes_join), cmocka_unit_test(test_byte_by_byte),
      cmocka_unit_test(test_ooo_thousands), cmocka_unit_test(test_flow_labels),
      cmocka_unit_test(test_ooo_bounded),       cmocka_unit_test(test_ooo_overlaps),
      cmocka_unit_test(test_sack_blocks),       cmocka_unit_test(test_sack_recovery),
      cmocka_unit_test(test_sack_lies),         cmocka_unit_test(test_syn_flood),
      cmocka_unit_test(test_ack_from_reserve), cmocka_unit_test(test_cookie_options),    cmocka_unit_test(test_cookie_expires),
      cmocka_unit_test(test_listener_limits),   cmocka_unit_test(test_half_open_not_counted),
      cmocka_unit_test(test_small_pool),
      cmocka_unit_test(test_empty_pool),        cmocka_unit_test(test_10000_connections),
      cmocka_unit_test(test_ports_of_cores),
      cmocka_unit_test(test_memory_per_connection),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
