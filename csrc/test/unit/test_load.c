/* The load generator: a core that opens connections by itself, against echo, discard and
 * chargen of another core, over a simulated link. */
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "io/sim/sim.h"
#include "session/session_int.h"
#include "test/unit/cmocka_np.h"

#define MS UINT64_C(1000000)

struct end {
  struct np_core *core;
  void *mem;
  void *pool_mem;
  struct np_port_queue *queue;
};

struct world {
  struct np_sim_link *link;
  struct end end[2]; /* 0 generator, 1 server */
  uint64_t now_ns;
};

static struct np_addr v4(uint8_t host) { return np_addr_from_v4_be((uint8_t[]){198, 18, 0, host}); }

static void open_end(struct world *w, uint32_t i) {
  struct end *e = &w->end[i];
  struct np_plane_config c;
  struct np_err_detail detail;
  np_plane_config_default(&c);
  c.bufs_per_core = 4096;
  c.conns_max = 128;
  c.streams_max = 64;
  c.loans_per_core = 16;
  c.tcp_timewait_ms = 50;
  if (i == 0) {
    c.load_conns = 100;
    c.load_depth = 8;
  }
  memset(c.secret, (int)i + 1, sizeof c.secret);
  size_t pool_bytes = (size_t)c.bufs_per_core * c.chunk_bytes;
  e->mem = aligned_alloc(NP_CACHE_LINE, (np_core_bytes(&c) + 63) & ~(size_t)63);
  e->pool_mem = aligned_alloc(c.chunk_bytes, pool_bytes);
  memset(e->mem, 0, np_core_bytes(&c));
  memset(e->pool_mem, 0, pool_bytes);
  memset(&detail, 0, sizeof detail);
  if (np_core_init(e->mem, e->pool_mem, &c, 0, w->now_ns, &e->core, &detail) != NP_ERR_OK) fail_msg("%s", detail.text);
  struct np_mac mac = {{2, 0, 0, 0, 0, (uint8_t)(i + 1)}};
  struct np_iface_config iface = {.mtu_bytes = 1500, .mac = mac};
  struct np_addr addr = v4((uint8_t)(i + 1));
  e->queue = np_sim_end(w->link, i, np_core_pool(e->core), &mac, 0);
  assert_int_equal(np_ip_iface_add(np_core_ip(e->core), 0, &iface), NP_ERR_OK);
  assert_int_equal(np_core_attach(e->core, e->queue, 0), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(np_core_ip(e->core), 0, true, w->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(np_core_ip(e->core), 0, &addr, 24, w->now_ns), NP_ERR_OK);
}

static void run(struct world *w, uint64_t ns) {
  uint64_t end = w->now_ns + ns;
  while (w->now_ns < end) {
    w->now_ns += 50000;
    np_sim_set_now(w->link, w->now_ns);
    np_core_turn(w->end[0].core, w->now_ns);
    np_core_turn(w->end[1].core, w->now_ns);
  }
}

static void world_open(struct world *w) {
  memset(w, 0, sizeof *w);
  w->now_ns = 1000 * MS;
  struct np_sim_params p = {.delay_ns = 100000, .queue_bytes = 4000000};
  struct np_sim_config config = {.seed = 7, .dir = {p, p}};
  w->link = np_sim_new(&config);
  np_sim_set_now(w->link, w->now_ns);
  open_end(w, 0);
  open_end(w, 1);
  const struct {
    uint16_t port;
    enum np_session_kind kind;
  } services[] = {{7, NP_SESSION_ECHO}, {9, NP_SESSION_DISCARD}, {19, NP_SESSION_CHARGEN}};
  for (size_t i = 0; i < NP_COUNT_OF(services); i++) {
    struct np_cmd_listen l = {.port = services[i].port, .session_kind = (uint8_t)services[i].kind, .backlog = 128};
    uint64_t handle;
    assert_int_equal(np_core_listen(w->end[1].core, &l, &handle), NP_ERR_OK);
  }
  run(w, 3000 * MS); /* addresses are in use */
}

/* Nothing stays behind: no buffer, no connection. */
static void world_close(struct world *w) {
  for (uint32_t i = 0; i < 2; i++) {
    struct end *e = &w->end[i];
    np_core_detach(e->core, 0);
    np_core_fini(e->core, w->now_ns);
    assert_int_equal(np_core_pool(e->core)->free_count, np_core_pool(e->core)->count);
    free(e->mem);
    free(e->pool_mem);
  }
  np_sim_free(w->link);
}

static struct np_load_stats *start(struct world *w, enum np_load_mode mode, uint16_t port, uint32_t conns, uint32_t size,
                                   uint32_t depth) {
  struct np_core *core = w->end[0].core;
  struct np_cmd_load args = {.remote_port = port, .mode = (uint8_t)mode, .conns = conns, .size_bytes = size, .depth = depth};
  struct np_addr to = v4(2);
  memcpy(args.remote, to.b, sizeof args.remote);
  assert_int_equal(np_loads_start(core->loads, &args, w->now_ns), NP_ERR_OK);
  return np_core_shared(core)->load;
}

static uint64_t latencies(const struct np_load_stats *s) {
  uint64_t n = 0;
  for (uint32_t i = 0; i < NP_LOAD_BUCKETS; i++) n += s->latency[i];
  return n;
}

static void test_echo(void **state) {
  (void)state;
  struct world w;
  world_open(&w);
  static const uint32_t sizes[] = {1, 64, 1448, 5000, 100000};
  for (size_t i = 0; i < NP_COUNT_OF(sizes); i++) {
    const struct np_load_stats *s = start(&w, NP_LOAD_ECHO, 7, 20, sizes[i], 4);
    run(&w, 300 * MS);
    assert_int_equal(s->open, 20);
    assert_int_equal(s->opened, 20);
    assert_int_equal(s->failed + s->mismatches, 0);
    assert_true(s->messages >= 20 * 4);
    assert_int_equal(latencies(s), s->messages);
    assert_true(s->bytes_rx <= s->bytes_tx);
    assert_true(s->bytes_tx - s->bytes_rx <= UINT64_C(20) * 4 * sizes[i]);
    assert_in_range(s->latency_ns_max, 200000, 300 * MS); /* of the longest ones some wait for a retransmission timer: the wire's queue overflows */
  }
  world_close(&w);
}

static void test_send_receive(void **state) {
  (void)state;
  struct world w;
  world_open(&w);
  const struct np_load_stats *s = start(&w, NP_LOAD_SEND, 9, 2, 1000, 1);
  run(&w, 200 * MS);
  assert_int_equal(s->open, 2);
  assert_true(s->bytes_tx > 1000000);
  assert_int_equal(s->failed, 0);
  s = start(&w, NP_LOAD_RECEIVE, 19, 2, 1, 1);
  run(&w, 200 * MS);
  assert_true(s->bytes_rx > 1000000);
  assert_int_equal(s->mismatches + s->failed, 0);
  world_close(&w);
}

/* What comes back wrong is counted. */
static void test_mismatch(void **state) {
  (void)state;
  struct world w;
  world_open(&w);
  const struct np_load_stats *s = start(&w, NP_LOAD_RECEIVE, 19, 1, 1, 1);
  run(&w, 50 * MS);
  assert_int_equal(s->mismatches, 0);
  ((uint8_t *)(uintptr_t)w.end[1].core->sessions->chargen)[100] ^= 1;
  run(&w, 50 * MS);
  assert_true(s->mismatches > 0);
  world_close(&w);
}

static void test_connect(void **state) {
  (void)state;
  struct world w;
  world_open(&w);
  const struct np_load_stats *s = start(&w, NP_LOAD_CONNECT, 7, 10, 64, 1);
  run(&w, 500 * MS);
  assert_true(s->closed > 100);
  assert_int_equal(s->failed + s->mismatches, 0);
  assert_true(s->opened - s->closed <= 10);
  world_close(&w);
}

static void test_refused(void **state) {
  (void)state;
  struct world w;
  world_open(&w);
  const struct np_load_stats *s = start(&w, NP_LOAD_ECHO, 12345, 5, 64, 1);
  run(&w, 1000 * MS);
  assert_int_equal(s->open, 0);
  assert_in_range(s->failed, 5, 60); /* it waits after a refusal */
  const struct np_load_stats *h = start(&w, NP_LOAD_HOLD, 7, 100, 1, 1);
  run(&w, 200 * MS);
  assert_int_equal(h->open, 100);
  assert_false(np_core_must_run(w.end[0].core)); /* all open: nothing keeps it awake */
  world_close(&w);
}

static void test_arguments(void **state) {
  (void)state;
  struct world w;
  world_open(&w);
  const struct np_cmd_load good = {.remote_port = 7, .mode = NP_LOAD_ECHO, .conns = 1, .size_bytes = 1, .depth = 1};
  struct np_cmd_load bad[] = {good, good, good, good, good, good, good};
  bad[0].mode = NP_LOAD_MODE_COUNT;
  bad[1].conns = 0;
  bad[2].conns = 101;
  bad[3].size_bytes = 0;
  bad[4].size_bytes = NP_LOAD_SIZE_MAX + 1;
  bad[5].depth = 9;
  bad[6].remote_port = 0;
  for (size_t i = 0; i < NP_COUNT_OF(bad); i++) {
    assert_int_equal(np_loads_start(w.end[0].core->loads, &bad[i], w.now_ns), NP_ERR_INVALID);
  }
  assert_null(np_core_shared(w.end[1].core)->load);
  world_close(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_echo),     cmocka_unit_test(test_send_receive), cmocka_unit_test(test_mismatch),
      cmocka_unit_test(test_connect),  cmocka_unit_test(test_refused),      cmocka_unit_test(test_arguments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
