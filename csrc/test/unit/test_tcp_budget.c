/* The budget of buffers (mem.c): who loses first when they are short, that nobody stalls, and that all of them
 * come back. */
#include <stdlib.h>

#include "test/sim/invariants.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/flow_rig.h"
#include "test/unit/tcp_pair.h"

#define PEERS 1000u
#define GOOD_BYTES 2000000u

static struct np_plane_config plane(void) {
  struct np_plane_config c;
  np_plane_config_default(&c);
  c.conns_max = 2048;
  c.streams_max = 64;
  c.loans_per_core = 64;
  return c;
}

static const struct np_sim_params near = {.delay_ns = FLOW_MS, .rate_bps = 10000000000, .queue_bytes = 8u << 20};

static void healthy(const struct flow *f) {
  for (uint32_t end = 0; end < 2; end++) {
    uint32_t slot;
    const char *wrong = np_inv_tcp(flow_tcp(f, end), &slot);
    if (wrong != NULL) fail_msg("end %u connection %u: %s", end, slot, wrong);
  }
}

static const struct np_tcp_mem *mem(const struct flow *f, uint32_t end) { return &flow_tcp(f, end)->mem; }

static void open_many(struct flow *f) {
  for (uint32_t i = 0; i < PEERS; i++) {
    flow_connect(f, i, FLOW_CHARGEN, 0, true);
    if (i % 50 == 49) flow_run(f, 2 * FLOW_MS);
  }
}

/* All that was kept is consumed; what was held comes back, and the pressure ends. */
static void drain(struct flow *f, uint32_t end, uint32_t clients) {
  for (uint32_t i = 0; i < clients; i++) flow_release(&f->client[i]);
  for (uint32_t i = 0; i < clients; i++) {
    if (!f->client[i].closed) f->client[i].session.stream->ops->abort(f->client[i].session.stream);
  }
  flow_run(f, 100 * FLOW_MS);
  healthy(f);
  assert_int_equal(mem(f, end)->send + mem(f, end)->ooo + mem(f, end)->handed, 0);
  assert_int_equal(mem(f, end)->level, NP_TCP_MEM_EASY);
  assert_int_equal(flow_counter(f, end, NP_C_TCP_MEM_LEVEL), NP_TCP_MEM_EASY);
  assert_int_equal(flow_counter(f, end, NP_C_TCP_MEM_SEND) + flow_counter(f, end, NP_C_TCP_MEM_RECV), 0);
}

/* A thousand peers send, their sessions consume nothing: five times the pool was promised to them. They
 * lose what is above their share; one whose session reads gets its two megabytes. */
static void test_nobody_consumes(void **state) {
  (void)state;
  struct np_plane_config config = plane();
  const uint32_t bufs[2] = {8192, 131072};
  struct flow *f = flow_new_pools(&config, &near, PEERS + 1, bufs);
  open_many(f);
  flow_run(f, 2000 * FLOW_MS);
  healthy(f);
  assert_true(mem(f, 0)->level >= NP_TCP_MEM_PRESSURE);
  assert_in_range(mem(f, 0)->handed, bufs[0] / 2, bufs[0]);
  assert_int_equal(flow_counter(f, 0, NP_C_TCP_MEM_RECV), (uint64_t)mem(f, 0)->handed * 2048);
  struct flow_client *good = flow_connect(f, PEERS, FLOW_CHARGEN, 0, false);
  flow_run(f, 3000 * FLOW_MS);
  assert_true(good->got >= GOOD_BYTES);
  const struct np_pool *pool = np_core_pool(f->host[0].core);
  assert_true(pool->low_count >= pool->count / 16 - NP_BURST);
  assert_int_equal(flow_counter(f, 0, NP_C_TCP_MEM_PRESSURES), 1);
  assert_true(flow_counter(f, 0, NP_C_TCP_MEM_PRESSURE_NS) > 4000 * FLOW_MS);
  /* Who consumes again gets on, though all the others still hold theirs: at once when its window was shut, with the
   * peer's next retransmission when data was dropped. */
  uint64_t before[20];
  for (uint32_t i = 0; i < NP_COUNT_OF(before); i++) {
    before[i] = f->client[i * 50].got;
    flow_release(&f->client[i * 50]);
  }
  flow_run(f, 20000 * FLOW_MS);
  for (uint32_t i = 0; i < NP_COUNT_OF(before); i++) assert_true(f->client[i * 50].got > before[i] + 100000);
  drain(f, 0, PEERS + 1);
  flow_free(f);
}

/* A thousand peers read nothing of what is queued for them. */
static void test_nobody_reads(void **state) {
  (void)state;
  struct np_plane_config config = plane();
  const uint32_t bufs[2] = {131072, 8192};
  struct flow *f = flow_new_pools(&config, &near, PEERS + 1, bufs);
  open_many(f);
  flow_run(f, 2000 * FLOW_MS);
  healthy(f);
  const struct np_tcp_mem *m = mem(f, 1);
  assert_true(m->send >= PEERS);
  assert_true(m->send <= m->pressure + NP_TCP_MEM_LEAST * PEERS);
  struct flow_client *good = flow_connect(f, PEERS, FLOW_ECHO, GOOD_BYTES, false);
  flow_run(f, 3000 * FLOW_MS);
  assert_int_equal(good->got, GOOD_BYTES);
  const struct np_pool *pool = np_core_pool(f->host[1].core);
  assert_true(pool->low_count >= pool->count / 16);
  for (uint32_t i = 0; i < PEERS; i++) assert_true(f->client[i].got >= 1448); /* each had something */
  drain(f, 1, PEERS + 1);
  flow_free(f);
}

/* ---- out of order ---- */

#define BOMBS 200u

struct holes {
  bool on;
  uint32_t first[65536]; /* by the sender's port: its first byte, which never arrives */
};

static bool drop_first(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  const struct holes *h = tp->drop_ctx;
  return h->on && from == 0 && seg->len != 0 && seg->seq == h->first[seg->flow.local_port];
}

static void tp_healthy(const struct tp *tp) {
  uint32_t slot;
  const char *wrong = np_inv_tcp(tp->end[1].tcp, &slot);
  if (wrong != NULL) fail_msg("connection %u: %s", slot, wrong);
}

/* Two hundred peers whose first segment never comes: the more they hold the more they lose of it, and what
 * was lost after it was reported is sent again once the hole is filled (RFC 2018 §8). */
static void test_out_of_order_bombs(void **state) {
  (void)state;
  for (uint32_t sack = 0; sack < 2; sack++) {
    struct tp_args args;
    tp_args_default(&args);
    args.bufs = 65536;
    args.bufs_of_1 = 1024;
    for (uint32_t i = 0; i < 2; i++) {
      args.config[i].conns_max = 512;
      args.config[i].sack = sack != 0;
    }
    struct tp *tp = tp_new(&args);
    struct holes *h = calloc(1, sizeof *h);
    struct tp_sess *a[BOMBS];
    struct tp_sess *b[BOMBS];
    tp_listen(tp, 1, TP_PORT);
    tp->delay_ns = TP_MS;
    tp->drop = drop_first;
    tp->drop_ctx = h;
    h->on = true;
    for (uint32_t i = 0; i < BOMBS; i++) {
      a[i] = tp_connect(tp, 0, TP_PORT, NULL);
      tp_run(tp, 4 * TP_MS);
      b[i] = tp->end[1].last;
      h->first[tp_conn(a[i])->flow.local_port] = tp_conn(a[i])->snd_nxt.v;
    }
    for (uint32_t i = 0; i < BOMBS; i++) {
      tp_write(a[i], 60000);
      if (i % 10 == 0) tp_run(tp, TP_MS);
      tp_healthy(tp);
    }
    tp_run(tp, TP_S);
    tp_healthy(tp);
    np_tcp_mem_turn(tp->end[1].tcp, 0);
    assert_true(tp_counter(tp, 1, NP_C_TCP_MEM_SHED) > 0);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_MEM_OOO), (uint64_t)tp->end[1].tcp->mem.ooo * 2048);
    assert_true(tp->end[1].pool.low_count >= 1024 / 16);
    for (uint32_t i = 0; i < BOMBS; i++) assert_int_equal(b[i]->received, 0);
    struct tp_sess *good = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    struct tp_sess *got = tp->end[1].last;
    tp_write(good, GOOD_BYTES);
    tp_run(tp, 10 * TP_S);
    assert_int_equal(got->received, GOOD_BYTES);
    assert_int_equal(got->wrong, 0);
    h->on = false;
    tp_run(tp, 120 * TP_S);
    for (uint32_t i = 0; i < BOMBS; i++) {
      assert_int_equal(b[i]->received, 60000);
      assert_int_equal(b[i]->wrong, 0);
    }
    tp_healthy(tp);
    assert_int_equal(tp->end[1].tcp->mem.ooo + tp->end[1].tcp->mem.handed, 0);
    assert_int_equal(tp->end[1].pool.free_count, 1024);
    tp_free(tp);
    free(h);
  }
}

/* Buffers of the pool that somebody else has. */
static struct np_buf *take(struct tp_end *e, enum np_tcp_level until) {
  struct np_buf *taken = NULL;
  while (!np_tcp_mem_below(e->tcp, until)) {
    struct np_buf *b = np_pool_get(&e->pool);
    b->next = taken;
    taken = b;
  }
  return taken;
}

/* What is no longer held is no longer reported, and what is nearest stays. */
static void test_shed_takes_back_sack(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct np_tcp_conn *c = tp_conn(b);
  struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
  uint32_t base = s.seq;
  tp->cut = true;
  s.len = 100;
  static const uint32_t at[] = {1, 2, 3, 6, 7, 9, 10, 11, 14};
  for (uint32_t i = 0; i < NP_COUNT_OF(at); i++) {
    s.seq = base + at[i] * 1000;
    s.len = 1000;
    tp_inject(tp, 1, &s, NULL);
    tp_flush(tp);
  }
  assert_int_equal(c->ooo_segs, 9);
  assert_int_equal(tp_sent(tp, 1, 0)->opts.sack_count, 3);
  assert_int_equal(np_tcp_ooo_shed(tp->end[1].tcp, c, 4), 5);
  assert_int_equal(c->ooo_segs, 4);
  assert_int_equal(c->ooo_bytes, 4000);
  assert_int_equal(tp->end[1].tcp->mem.ooo, 4);
  tp_healthy(tp);
  for (uint32_t i = 0; i < c->sack_count; i++) assert_true(np_seq_le(c->sack[i].end, np_seq_of(base + 7000)));
  /* Short to the last, it keeps the least; what comes on top of that is not taken. */
  struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_MAX);
  s.seq = base + 9000;
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  assert_int_equal(c->ooo_segs, NP_TCP_MEM_LEAST);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_OOO_LIMIT), 1);
  np_buf_put_chain(taken);
  /* The hole filled, all that is there goes up. */
  s.seq = base;
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  assert_int_equal(b->received, 4000);
  assert_int_equal(tp->end[1].tcp->mem.ooo, 1); /* behind the next hole */
  tp_free(tp);
}

/* ---- marks ---- */

/* What ports and Go have is not held; but of the pool itself some is left for sending in any case. */
static void test_marks(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.bufs = 1000;
  args.config[1].mem_pressure_pct = 40;
  args.config[1].mem_max_pct = 80;
  struct tp *tp = tp_new(&args);
  struct np_tcp *tcp = tp->end[1].tcp;
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_PRESSURE], 600);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_MAX], 200);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_HARD], 50);
  np_tcp_mem_turn(tcp, 150);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_PRESSURE], 450);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_MAX], 100);
  np_tcp_mem_turn(tcp, 900);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_PRESSURE], 200);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_MAX], 100);
  assert_int_equal(tcp->mem.floor[NP_TCP_MEM_HARD], 50);
  np_tcp_mem_turn(tcp, 0);
  tp_free(tp);
}

/* The window of a connection above its share stays where it is under pressure, its edge never goes back,
 * and its buffer shrinks to what is used. */
static void test_window_under_pressure(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp->delay_ns = 10 * TP_MS;
  tp_establish(tp, &a, &b);
  tp_write(a, 8u << 20);
  tp_run(tp, 2 * TP_S);
  struct np_tcp_conn *c = tp_conn(b);
  uint32_t large = np_tcp_rcv_buf(tp->end[1].tcp, c);
  assert_true(large > 4 * NP_TCP_BUF_START);
  struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_MAX);
  np_seq edge = c->rcv_adv;
  uint64_t before = b->received;
  tp_write(a, 100000);
  for (uint32_t i = 0; i < 100; i++) {
    tp_run(tp, 10 * TP_MS);
    assert_true(np_seq_ge(c->rcv_adv, edge));
    edge = c->rcv_adv;
  }
  assert_int_equal(b->received, before + 100000);
  assert_true(np_tcp_rcv_buf(tp->end[1].tcp, c) < large);
  /* Now with the least: beyond what was offered, it gets that much and goes on. */
  tp_write(a, large);
  tp_run(tp, 5 * TP_S);
  before = b->received;
  tp_write(a, 4u << 20);
  tp_run(tp, 5 * TP_S);
  assert_in_range(np_seq_diff(c->rcv_adv, c->rcv_nxt), 0, NP_TCP_MEM_LEAST * 1448 + 128);
  assert_true(b->received - before > 500000);
  np_buf_put_chain(taken);
  tp_run(tp, 30 * TP_S);
  assert_int_equal(b->received, before + (4u << 20));
  assert_int_equal(b->wrong, 0);
  tp_free(tp);
}

/* ---- accounting of what sessions have ---- */

/* Small buffers and large ones, consumed in part: what is counted is never less than what is there. */
static void test_handed_counts(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  b->hold = true;
  struct np_tcp_conn *c = tp_conn(b);
  uint32_t sizes[4000];
  uint32_t head = 0;
  uint32_t tail = 0;
  uint32_t off = 0; /* consumed of the head */
  for (uint32_t i = 0; i < 3000; i++) {
    struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK);
    uint32_t n = np_rng_below(&tp->rng, 3) == 0 ? 1400 : 300 + np_rng_below(&tp->rng, 50);
    if (b->unconsumed + n < 40000) {
      s.len = n;
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
      sizes[tail++] = n;
    }
    uint32_t eat = np_rng_below(&tp->rng, 1300);
    if (eat < b->unconsumed) {
      tp_consume(b, eat);
      for (off += eat; head < tail && off >= sizes[head]; head++) off -= sizes[head];
    }
    assert_true(np_tcp_handed(c) >= tail - head);
    assert_true(np_tcp_handed(c) <= 2 * (tail - head) + 200);
    assert_int_equal(tp->end[1].tcp->mem.handed, np_tcp_handed(c));
  }
  tp_consume(b, b->unconsumed);
  assert_int_equal(np_tcp_handed(c), 0);
  tp_free(tp);
}

/* ---- new connections ---- */

static void test_new_connections(void **state) {
  (void)state;
  for (uint32_t cookies = 0; cookies < 2; cookies++) {
    struct tp_args args;
    tp_args_default(&args);
    struct tp *tp = tp_new(&args);
    struct np_tcp_listen l = {.port = TP_PORT, .backlog = 16, .cookies = cookies != 0};
    uint32_t id;
    assert_int_equal(np_tcp_listen(tp->end[1].tcp, &l, &id), NP_ERR_OK);
    struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_PRESSURE);
    struct tp_sess *a = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    assert_true(a->established);
    struct np_buf *second = take(&tp->end[1], NP_TCP_MEM_MAX);
    struct tp_sess *m = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    assert_int_equal(m->established, cookies != 0);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), cookies);
    struct np_buf *more = take(&tp->end[1], NP_TCP_MEM_HARD);
    struct tp_sess *h = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    assert_false(h->established);
    assert_true(tp_drops(tp, 1, NP_DROP_TCP_MEMORY) > 0);
    np_buf_put_chain(taken);
    if (second != NULL) np_buf_put_chain(second);
    if (more != NULL) np_buf_put_chain(more);
    tp_run(tp, 10 * TP_S); /* asked again, and there is room */
    assert_true(m->established && h->established);
    tp_free(tp);
  }
}

static bool lose_first_data(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  uint32_t *left = tp->drop_ctx;
  if (from != 0 || seg->len == 0 || *left == 0) return false;
  --*left;
  return true;
}

/* The segments that bring the cookie back are lost, and what the peer sends next does not: no reset. */
static void test_cookie_comes_late(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  uint32_t left = 4;
  tp->delay_ns = 10 * TP_MS;
  tp->drop = lose_first_data;
  tp->drop_ctx = &left;
  tp_listen(tp, 1, TP_PORT);
  struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_MAX);
  struct tp_sess like = {.to_send = 8000};
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, 10 * TP_S);
  assert_false(a->closed);
  assert_int_equal(left, 0);
  assert_true(tp_drops(tp, 1, NP_DROP_TCP_COOKIE_BEHIND) > 0);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), 1);
  assert_int_equal(tp->end[1].last->received, 8000);
  np_buf_put_chain(taken);
  tp_free(tp);
}

/* Both ends short, both full of what they want to send: neither waits for the other. */
static void test_both_full(void **state) {
  (void)state;
  for (uint32_t bufs = 256; bufs <= 1024; bufs *= 2) {
    struct tp_args args;
    tp_args_default(&args);
    args.bufs = bufs;
    args.config[0].conns_max = args.config[1].conns_max = 128;
    struct tp *tp = tp_new(&args);
    tp->delay_ns = TP_MS;
    tp->loss = 50;
    tp_listen(tp, 1, TP_PORT);
    tp->end[1].accept_as = (struct tp_sess){.to_send = 300000};
    struct tp_sess like = {.to_send = 300000};
    for (uint32_t i = 0; i < 60; i++) tp_connect(tp, 0, TP_PORT, &like);
    tp_run(tp, 300 * TP_S);
    for (uint32_t end = 0; end < 2; end++) {
      for (const struct tp_sess *s = tp->end[end].sessions; s != NULL; s = s->next) {
        assert_int_equal(s->received, 300000);
        assert_int_equal(s->wrong, 0);
      }
      assert_true(tp_counter(tp, end, NP_C_TCP_MEM_PRESSURES) > 0);
      assert_int_equal(tp->end[end].pool.free_count, bufs);
    }
    tp_free(tp);
  }
}

/* ---- room ---- */

/* Asks once, hands over what fits of its message in whole pieces, then waits to be told; what is less than all
 * of it is nothing to one that wants to send it as a whole. */
struct once {
  struct np_session base;
  struct np_pool *pool;
  uint32_t left;  /* bytes of the message */
  uint32_t piece;
  bool whole;
  uint32_t calls; /* of writable */
};

static void once_pump(struct once *o) {
  struct np_stream *st = o->base.stream;
  uint32_t room = o->left != 0 ? st->ops->room(st) : 0;
  struct np_buf *head = NULL;
  struct np_buf **end = &head;
  if (o->whole && room < o->left) return;
  while (room >= o->piece && o->left >= o->piece) {
    struct np_buf *b = np_pool_get(o->pool);
    if (b == NULL) break;
    memset(np_buf_append(b, o->piece), 0, o->piece);
    *end = b;
    end = &b->next;
    room -= o->piece;
    o->left -= o->piece;
  }
  if (head != NULL) assert_int_equal(st->ops->send(st, head, 0), NP_ERR_OK);
}

static void once_data(struct np_session *s, struct np_buf *chain, uint32_t bytes) {
  np_buf_put_chain(chain);
  s->stream->ops->consumed(s->stream, bytes);
}
static void once_writable(struct np_session *s) {
  struct once *o = NP_CONTAINER_OF(s, struct once, base);
  o->calls++;
  once_pump(o);
}
static void once_eof(struct np_session *s) { (void)s; }
static void once_closed(struct np_session *s, enum np_err err) {
  (void)err;
  s->stream = NULL;
}

static const struct np_session_ops once_ops = {
    .data = once_data, .writable = once_writable, .eof = once_eof, .closed = once_closed};

/* b's session asked for room while memory, not its queue, made the answer: whatever it did with that, it hears when
 * there is more, and not more often than anything can have changed. */
static void room_of_memory(uint32_t piece, bool whole, uint32_t spare) {
  struct tp_args args;
  tp_args_default(&args);
  args.bufs_of_1 = 1024;
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_PRESSURE);
  for (uint32_t i = 0; i < spare; i++) {
    struct np_buf *t = taken;
    taken = t->next;
    t->next = NULL;
    np_buf_put(t);
  }
  if (spare == 0) { /* the least is all that each may have */
    struct np_buf *more = take(&tp->end[1], NP_TCP_MEM_MAX);
    np_tcp_last_piece(more)->next = taken;
    taken = more;
  }
  struct np_stream *st = b->base.stream;
  struct once o = {.base = {.ops = &once_ops, .stream = st}, .pool = &tp->end[1].pool, .left = piece * (40000 / piece), .piece = piece, .whole = whole};
  uint32_t total = o.left;
  b->base.stream = NULL;
  st->session = &o.base;
  once_pump(&o);
  tp_run(tp, TP_S);
  tp_healthy(tp);
  assert_true(o.calls <= 600);
  if (whole) {
    assert_int_equal(o.left, total);
    np_buf_put_chain(taken);
    taken = NULL;
    tp_run(tp, 20 * TP_MS);
  }
  assert_int_equal(o.left, 0);
  assert_int_equal(a->received, total);
  if (taken != NULL) np_buf_put_chain(taken);
  uint32_t calls = o.calls;
  tp_run(tp, TP_S); /* nobody waits any more: nobody is called */
  assert_true(o.calls <= calls + 1);
  tp_free(tp);
}

static void test_room_of_memory(void **state) {
  (void)state;
  static const uint32_t pieces[] = {1000, 1448, 1700};
  for (uint32_t i = 0; i < NP_COUNT_OF(pieces); i++) {
    for (uint32_t spare = 0; spare <= 8; spare += 4) {
      room_of_memory(pieces[i], false, spare);
      room_of_memory(pieces[i], true, spare);
    }
  }
}

/* ---- jumbo segments ---- */

#define JUMBOS 8u

static struct tp *jumbo_pair(struct tp_args *args) {
  tp_args_default(args);
  args->bufs_of_1 = 1024;
  args->config[1].autotune = false;
  args->config[1].rcv_buf_bytes = 1u << 20;
  struct tp *tp = tp_new(args);
  tp->mtu = 9000;
  tp->caps = NP_PORT_SG;
  tp_listen(tp, 1, TP_PORT);
  return tp;
}

/* A segment of 8,948 bytes lies in six buffers: a share is so many buffers, not segments. */
static void test_jumbo_shares(void **state) {
  (void)state;
  struct tp_args args;
  struct tp *tp = jumbo_pair(&args);
  struct np_tcp *tcp = tp->end[1].tcp;
  struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_PRESSURE);
  struct tp_sess *a[JUMBOS];
  struct tp_sess *b[JUMBOS];
  tp->end[1].accept_as.hold = true;
  for (uint32_t i = 0; i < JUMBOS; i++) {
    a[i] = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    b[i] = tp->end[1].last;
    assert_int_equal(tp_conn(a[i])->mss, 8948);
  }
  uint32_t share = np_tcp_mem_share(tcp);
  for (uint32_t i = 0; i < JUMBOS; i++) tp_write(a[i], 1u << 20);
  tp_run(tp, 20 * TP_S);
  tp_healthy(tp);
  for (uint32_t i = 0; i < JUMBOS; i++) assert_in_range(np_tcp_handed(tp_conn(b[i])), share / 2, share + 40); /* the SYN's 64 KiB stay offered */
  assert_true(tcp->mem.handed <= tcp->mem.pressure + 40 * JUMBOS);
  np_buf_put_chain(taken);
  tp_free(tp);
}

/* However short buffers are, a jumbo segment fits: it must not wait for a window that holds one. */
static void test_jumbo_least(void **state) {
  (void)state;
  struct tp_args args;
  struct tp *tp = jumbo_pair(&args);
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 10 * TP_MS);
  struct tp_sess *b = tp->end[1].last;
  struct np_buf *taken = take(&tp->end[1], NP_TCP_MEM_MAX);
  tp_write(a, 3u << 20);
  tp_run(tp, 2 * TP_S);
  assert_int_equal(b->received, 3u << 20);
  assert_int_equal(b->wrong, 0);
  np_buf_put_chain(taken);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_marks),
      cmocka_unit_test(test_handed_counts),
      cmocka_unit_test(test_window_under_pressure),
      cmocka_unit_test(test_shed_takes_back_sack),
      cmocka_unit_test(test_room_of_memory),
      cmocka_unit_test(test_jumbo_shares),
      cmocka_unit_test(test_jumbo_least),
      cmocka_unit_test(test_new_connections),
      cmocka_unit_test(test_cookie_comes_late),
      cmocka_unit_test(test_both_full),
      cmocka_unit_test(test_out_of_order_bombs),
      cmocka_unit_test(test_nobody_consumes),
      cmocka_unit_test(test_nobody_reads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
