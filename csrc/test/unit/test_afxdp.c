/* The hot side of an AF_XDP queue against a kernel played by the test: the rings lie in
 * ordinary memory, and no need_wakeup flag means that no system call is made. */
#include <stdlib.h>
#include <string.h>

#include "io/afxdp/internal.h"
#include "test/unit/cmocka_np.h"

#define BUFS 512u
#define CHUNK 2048u
#define RING 64u

struct rings {
  uint32_t index[4][3]; /* producer, consumer, flags */
  uint64_t fill[RING];
  uint64_t comp[RING];
  struct xdp_desc rx[RING];
  struct xdp_desc tx[RING];
};

struct rig {
  struct np_counters counters;
  struct np_pool pool;
  struct np_afxdp x;
  struct rings *k;
  void *pool_mem;
  void *stack;
  struct np_buf *kept[BUFS];
  uint32_t kept_count;
};

static void ring_init(struct np_afxdp_ring *r, uint32_t index[3], void *desc) {
  *r = (struct np_afxdp_ring){
      .prod = &index[0], .cons = &index[1], .flags = &index[2], .desc = desc, .mask = RING - 1, .count = RING};
}

static int setup(void **state) {
  struct rig *r = calloc(1, sizeof *r);
  r->k = calloc(1, sizeof *r->k);
  r->pool_mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  r->stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&r->pool, r->pool_mem, BUFS, CHUNK, r->stack, &r->counters);
  r->x.fd = -1;
  np_afxdp_plan(&r->x, &r->pool, RING);
  r->x.port.ops = &np_afxdp_ops;
  r->x.held = calloc(BUFS, 1);
  ring_init(&r->x.fill, r->k->index[0], r->k->fill);
  ring_init(&r->x.comp, r->k->index[1], r->k->comp);
  ring_init(&r->x.rx, r->k->index[2], r->k->rx);
  ring_init(&r->x.tx, r->k->index[3], r->k->tx);
  *state = r;
  return 0;
}

/* However the test left it, ending the socket brings every buffer back. */
static int teardown(void **state) {
  struct rig *r = *state;
  while (r->kept_count > 0) np_buf_put(r->kept[--r->kept_count]);
  np_afxdp_reclaim(&r->x);
  assert_int_equal(r->pool.free_count, BUFS);
  assert_int_equal(r->pool.reserve_count, 0);
  free(r->x.held);
  free(r->stack);
  free(r->pool_mem);
  free(r->k);
  free(r);
  return 0;
}

static struct np_port_queue *q_of(struct rig *r) { return &r->x.port; }

/* The kernel receives n frames of 60 bytes into what was posted. Return: how many it could. */
static uint32_t receive(struct rig *r, uint32_t n) {
  uint32_t *fill = r->k->index[0];
  uint32_t *rx = r->k->index[2];
  uint32_t done = 0;
  for (; done < n && fill[1] != fill[0] && rx[0] - rx[1] < RING; done++) {
    uint64_t addr = r->k->fill[fill[1]++ % RING];
    r->k->rx[rx[0]++ % RING] = (struct xdp_desc){.addr = addr + NP_AFXDP_RX_OFF, .len = 60};
  }
  return done;
}

/* The kernel sends what is in the ring, and says so in the order given. */
static uint32_t send_all(struct rig *r, bool backwards) {
  uint32_t *tx = r->k->index[3];
  uint32_t *comp = r->k->index[1];
  uint32_t n = tx[0] - tx[1];
  for (uint32_t i = 0; i < n; i++) {
    uint32_t at = tx[1] + (backwards ? n - 1 - i : i);
    r->k->comp[comp[0]++ % RING] = r->k->tx[at % RING].addr;
  }
  tx[1] = tx[0];
  return n;
}

static void keep(struct rig *r, struct np_buf *b) { r->kept[r->kept_count++] = b; }

/* Everybody else takes what the pool gives. */
static void starve(struct rig *r) {
  for (struct np_buf *b = np_pool_get(&r->pool); b != NULL; b = np_pool_get(&r->pool)) keep(r, b);
}

static void test_receive(void **state) {
  struct rig *r = *state;
  struct np_buf *out[NP_BURST];
  q_of(r)->ops->flush(q_of(r));
  assert_int_equal(q_of(r)->posted_count, RING);
  assert_int_equal(receive(r, 5), 5);
  assert_true(q_of(r)->ops->busy(q_of(r)));
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out, 3), 3);
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out + 3, NP_BURST), 2);
  assert_false(q_of(r)->ops->busy(q_of(r)));
  for (uint32_t i = 0; i < 5; i++) {
    assert_int_equal(out[i]->data_off, NP_AFXDP_RX_OFF);
    assert_int_equal(out[i]->len, 60);
    assert_int_equal(out[i]->refs, 1);
    np_buf_put(out[i]);
  }
  assert_int_equal(q_of(r)->posted_count + r->pool.free_count, BUFS);
}

/* What a driver must not hand back is neither used nor lost. */
static void test_bad_descriptors(void **state) {
  struct rig *r = *state;
  struct np_buf *out[NP_BURST];
  q_of(r)->ops->flush(q_of(r));
  uint32_t *rx = r->k->index[2];
  uint64_t posted = r->k->fill[0];
  r->k->rx[rx[0]++ % RING] = (struct xdp_desc){.addr = (uint64_t)BUFS * CHUNK + 384, .len = 60}; /* no such buffer */
  r->k->rx[rx[0]++ % RING] = (struct xdp_desc){.addr = posted + 64, .len = 60};                  /* inside np_buf */
  r->k->rx[rx[0]++ % RING] = (struct xdp_desc){.addr = posted + 384, .len = CHUNK};              /* over the end */
  r->k->rx[rx[0]++ % RING] = (struct xdp_desc){.addr = (BUFS - 1) * CHUNK + 384, .len = 60};     /* not posted */
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out, NP_BURST), 0);
  assert_int_equal(q_of(r)->stats.rx_dropped, 4);
  assert_int_equal(q_of(r)->posted_count, RING);
}

/* A retransmitted segment is in the ring twice; completions come in any order. */
static void test_sent_twice(void **state) {
  struct rig *r = *state;
  struct np_buf *a = np_pool_get(&r->pool);
  struct np_buf *b = np_pool_get(&r->pool);
  np_buf_append(a, 60);
  np_buf_append(b, 60);
  a->refs = 3; /* TCP's own and one for each sending */
  struct np_buf *bufs[3] = {a, b, a};
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs, 3), 3);
  assert_true(q_of(r)->ops->busy(q_of(r)));
  assert_int_equal(send_all(r, true), 3);
  q_of(r)->ops->flush(q_of(r));
  assert_int_equal(r->x.tx_held, 0);
  assert_int_equal(a->refs, 1);
  np_buf_put(a);
  /* said once more than it was sent */
  uint32_t *comp = r->k->index[1];
  r->k->comp[comp[0]++ % RING] = (uint64_t)a->index * CHUNK;
  bufs[0] = np_pool_get(&r->pool);
  np_buf_append(bufs[0], 60);
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs, 1), 1);
  send_all(r, false);
  q_of(r)->ops->flush(q_of(r));
  assert_int_equal(q_of(r)->stats.tx_invalid, 1);
  assert_int_equal(r->pool.free_count + q_of(r)->posted_count, BUFS);
}

static void test_tx_full(void **state) {
  struct rig *r = *state;
  struct np_buf *bufs[RING + 8];
  for (uint32_t i = 0; i < RING + 8; i++) {
    bufs[i] = np_pool_get(&r->pool);
    np_buf_append(bufs[i], 60);
  }
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs, RING + 8), RING);
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs + RING, 8), 0);
  assert_int_equal(send_all(r, false), RING);
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs + RING, 8), 8); /* room, although nothing was reaped yet */
  q_of(r)->ops->flush(q_of(r));
  assert_int_equal(r->x.tx_held, 8);
  q_of(r)->down = true;
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs, 1), 0);
  q_of(r)->down = false;
}

/* However hungry the others are, acknowledgments can be received: they are what gives buffers
 * back. Each received frame's buffer that is freed goes to receiving first. */
static void test_receiving_goes_on_when_starved(void **state) {
  struct rig *r = *state;
  struct np_buf *out[NP_BURST];
  q_of(r)->ops->flush(q_of(r));
  starve(r);
  for (uint32_t turn = 0; turn < 100; turn++) {
    if (receive(r, 8) == 0) fail_msg("nothing posted in turn %u", turn);
    uint32_t n = q_of(r)->ops->rx(q_of(r), out, NP_BURST);
    for (uint32_t i = 0; i < n; i++) np_buf_put(out[i]); /* acknowledgments: used and gone */
    starve(r);                                           /* TCP and sessions, before the flush */
    q_of(r)->ops->flush(q_of(r));
  }
  assert_true(q_of(r)->posted_count >= r->x.post_min);
}

/* Data that stays: what is kept for receiving comes back with the first buffers given up. */
static void test_recovers(void **state) {
  struct rig *r = *state;
  struct np_buf *out[NP_BURST];
  q_of(r)->ops->flush(q_of(r));
  starve(r);
  for (uint32_t n = 1; n > 0;) {
    receive(r, NP_BURST);
    n = q_of(r)->ops->rx(q_of(r), out, NP_BURST);
    for (uint32_t i = 0; i < n; i++) keep(r, out[i]);
    q_of(r)->ops->flush(q_of(r));
  }
  assert_int_equal(q_of(r)->posted_count, 0);
  for (uint32_t i = 0; i < r->x.post_min + 1; i++) np_buf_put(r->kept[--r->kept_count]);
  starve(r);
  assert_int_equal(r->pool.free_count, r->x.post_min);
  q_of(r)->ops->flush(q_of(r));
  assert_int_equal(q_of(r)->posted_count, r->x.post_min);
  assert_int_equal(r->pool.reserve_count, 0);
}

/* The kernel receives one frame of n pieces; the last is short. */
static void receive_pieces(struct rig *r, uint32_t n, uint32_t bad) {
  uint32_t *fill = r->k->index[0];
  uint32_t *rx = r->k->index[2];
  for (uint32_t i = 0; i < n; i++) {
    uint64_t addr = r->k->fill[fill[1]++ % RING];
    uint32_t len = i + 1 < n ? CHUNK - NP_AFXDP_RX_OFF : 100;
    if (i + 1 == bad) len = CHUNK;
    memset(r->pool.mem + addr + NP_AFXDP_RX_OFF, (int)i + 1, np_min_u32(len, CHUNK - NP_AFXDP_RX_OFF));
    r->k->rx[rx[0]++ % RING] =
        (struct xdp_desc){.addr = addr + NP_AFXDP_RX_OFF, .len = len, .options = i + 1 < n ? NP_XDP_PKT_CONTD : 0};
  }
}

/* A frame in several buffers is one packet, whenever its pieces are seen; what has a bad piece, or too
 * many, is dropped whole and nothing else is. */
static void test_pieces(void **state) {
  struct rig *r = *state;
  struct np_buf *out[NP_BURST];
  r->x.sg = true;
  q_of(r)->ops->flush(q_of(r));
  receive_pieces(r, 6, 0);
  receive(r, 1);
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out, 4), 0); /* four pieces, no whole frame yet */
  assert_int_equal(q_of(r)->posted_count, RING - 4);
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out, NP_BURST), 2);
  assert_int_equal(np_buf_chain_len(out[0]), 5 * (CHUNK - NP_AFXDP_RX_OFF) + 100);
  uint32_t n = 0;
  for (const struct np_buf *b = out[0]; b != NULL; b = b->next) assert_int_equal(np_buf_cdata(b)[0], ++n);
  assert_int_equal(n, 6);
  assert_int_equal(out[1]->len, 60);
  assert_null(out[1]->next);
  np_buf_put_chain(out[0]);
  np_buf_put(out[1]);
  q_of(r)->ops->flush(q_of(r));
  for (uint32_t bad = 1; bad <= 4; bad++) {
    uint64_t dropped = q_of(r)->stats.rx_dropped;
    receive_pieces(r, 4, bad);
    receive(r, 1);
    assert_int_equal(q_of(r)->ops->rx(q_of(r), out, NP_BURST), 1);
    assert_int_equal(out[0]->len, 60);
    assert_int_equal(q_of(r)->stats.rx_dropped - dropped, 1);
    np_buf_put(out[0]);
    q_of(r)->ops->flush(q_of(r));
  }
  receive_pieces(r, NP_AFXDP_PIECES_MAX + 3, 0);
  receive(r, 1);
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out, NP_BURST), 1);
  np_buf_put(out[0]);
  receive_pieces(r, 3, 0); /* the socket ends in the middle of a frame */
  assert_int_equal(q_of(r)->ops->rx(q_of(r), out, 2), 0);
}

/* A chain takes a descriptor each, all or none, and comes back piece by piece. */
static void test_send_pieces(void **state) {
  struct rig *r = *state;
  struct np_buf *chain = NULL;
  r->x.sg = true;
  for (uint32_t i = 0; i < 5; i++) {
    struct np_buf *b = np_pool_get(&r->pool);
    np_buf_append(b, 1000 + i);
    b->next = chain;
    chain = b;
  }
  struct np_buf *one = np_pool_get(&r->pool);
  np_buf_append(one, 60);
  struct np_buf *bufs[2] = {one, chain};
  assert_int_equal(q_of(r)->ops->tx(q_of(r), bufs, 2), 2);
  uint32_t *tx = r->k->index[3];
  assert_int_equal(tx[0] - tx[1], 6);
  for (uint32_t i = 0; i < 6; i++) {
    assert_int_equal(r->k->tx[i].options, i >= 1 && i < 5 ? NP_XDP_PKT_CONTD : 0);
    assert_int_equal(r->k->tx[i].len, i == 0 ? 60 : 1005 - i);
  }
  assert_int_equal(q_of(r)->stats.tx_pkts, 2);
  assert_int_equal(q_of(r)->stats.tx_bytes, 60 + 5010);
  send_all(r, true);
  q_of(r)->ops->flush(q_of(r));
  assert_int_equal(r->x.tx_held, 0);
  /* three places are too few for four pieces */
  struct np_buf *fill[RING];
  for (uint32_t i = 0; i < RING - 3; i++) {
    fill[i] = np_pool_get(&r->pool);
    np_buf_append(fill[i], 60);
  }
  assert_int_equal(q_of(r)->ops->tx(q_of(r), fill, RING - 3), RING - 3);
  chain = NULL;
  for (uint32_t i = 0; i < 4; i++) {
    struct np_buf *b = np_pool_get(&r->pool);
    np_buf_append(b, 1000);
    b->next = chain;
    chain = b;
  }
  assert_int_equal(q_of(r)->ops->tx(q_of(r), &chain, 1), 0);
  send_all(r, false);
  assert_int_equal(q_of(r)->ops->tx(q_of(r), &chain, 1), 1); /* room, although nothing was reaped yet */
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(test_receive), T(test_bad_descriptors), T(test_sent_twice), T(test_tx_full),
      T(test_receiving_goes_on_when_starved), T(test_recovers), T(test_pieces), T(test_send_pieces),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
