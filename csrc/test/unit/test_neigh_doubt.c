/* What other layers and floods do to neighbors: negative advice, and errors to one destination. */
#include "test/unit/ip_rig.h"

static const uint8_t MOVED[6] = {0x02, 0, 0, 0, 0, 0x22};

static struct rig *resolved(bool v6, struct np_addr *us, struct np_addr *peer, struct np_path *path) {
  struct np_ip_config config = {.seed = 51};
  struct rig *r = rig_usual(&config);
  *us = v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1);
  *peer = v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2);
  struct frame f;
  rig_send(r, us, peer, path);
  if (v6) {
    rig_nd(&f, 136, RIG_US, RIG_PEER, peer, us, peer, 0x60, 2);
  } else {
    frame_arp(&f, 2, RIG_US, RIG_PEER, peer, us);
  }
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  rig_send(r, us, peer, path);
  assert_int_equal(rig_neigh(r, peer, NULL), NP_NEIGH_REACHABLE);
  return r;
}

/* A neighbor whose MAC changed without a word: asked three times, then anew, and found within seconds. */
static void test_moved(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_addr us;
    struct np_addr peer;
    struct np_path path = {0};
    struct rig *r = resolved(v6, &us, &peer, &path);
    np_ip_doubt(r->ip, &path, r->now_ns); /* it answered a moment ago */
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_REACHABLE);
    rig_advance(r, 6 * RIG_S);
    r->sent_count = 0;
    for (uint32_t i = 0; i < 100; i++) np_ip_doubt(r->ip, &path, r->now_ns); /* many connections */
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_PROBE);
    assert_int_equal(r->sent_count, 1);
    assert_memory_equal(r->sent[0].b, RIG_PEER, 6);
    assert_int_equal(r->counters.counter[NP_C_NEIGH_DOUBTED], 1);
    rig_advance(r, 3100 * RIG_MS);
    assert_int_equal(r->sent_count, 3);
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_FAILED);
    rig_send(r, &us, &peer, &path); /* TCP's next try */
    assert_int_equal(r->sent_count, 4);
    assert_int_equal(r->sent[3].b[0] & 1, 1); /* to all now */
    struct frame f;
    if (v6) {
      rig_nd(&f, 136, RIG_US, MOVED, &peer, &us, &peer, 0x60, 2);
    } else {
      frame_arp(&f, 2, RIG_US, MOVED, &peer, &us);
    }
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    assert_memory_equal(r->sent[4].b, MOVED, 6);
    rig_free(r);
  }
}

/* One that is there and answers: nothing happens but a question, in every state that has a MAC. */
static void test_still_there(void **state) {
  (void)state;
  for (uint32_t how = 0; how < 3; how++) { /* reachable, stale, delay */
    struct np_addr us;
    struct np_addr peer;
    struct np_path path = {0};
    struct rig *r = resolved(true, &us, &peer, &path);
    rig_advance(r, how == 0 ? 6 * RIG_S : 46 * RIG_S);
    if (how == 2) rig_send(r, &us, &peer, &path);
    static const enum np_neigh_state before[] = {NP_NEIGH_REACHABLE, NP_NEIGH_STALE, NP_NEIGH_DELAY};
    assert_int_equal(rig_neigh(r, &peer, NULL), before[how]);
    uint32_t generation = path.generation;
    np_ip_doubt(r->ip, &path, r->now_ns);
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_PROBE);
    struct frame f;
    rig_nd(&f, 136, RIG_US, RIG_PEER, &peer, &us, &peer, 0x60, 2);
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_REACHABLE);
    rig_send(r, &us, &peer, &path);
    assert_int_equal(path.generation, generation);
    /* A path that is empty, or old, tells of nobody. */
    struct np_path none = {0};
    np_ip_doubt(r->ip, &none, r->now_ns);
    rig_advance(r, 6 * RIG_S);
    struct np_addr more = frame_v6(77);
    np_ip_addr_add(r->ip, 0, &more, 64, r->now_ns);
    np_ip_doubt(r->ip, &path, r->now_ns);
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_REACHABLE);
    rig_free(r);
  }
}

/* One destination gets its share of errors, another still gets one (RFC 4443 §2.4 (f)). */
static void test_error_rate_per_destination(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 52, .icmp_rate_per_s = 1000, .icmp_dest_per_s = 20};
  struct rig *r = rig_usual(&config);
  struct np_addr us = frame_v4(198, 18, 0, 1);
  uint32_t sent[3] = {0};
  for (uint32_t i = 0; i < 60; i++) {
    for (uint8_t who = 0; who < 3; who++) {
      struct frame f;
      struct np_addr src = frame_v4(198, 18, 0, (uint8_t)(2 + who));
      frame_eth(&f, RIG_US, RIG_PEER, 0, 0x0800);
      frame_ip(&f, &src, &us, 17, 64);
      frame_udp(&f, 40000, 5000, "abcd", 4);
      frame_finish(&f, 17);
      uint32_t before = r->sent_count;
      if (who == 0 || i >= 50) assert_int_equal(rig_rx(r, 3, &f), NP_DROP_UDP_PORT);
      sent[who] += r->sent_count - before;
    }
  }
  for (uint32_t who = 0; who < 3; who++) assert_in_range(sent[who], 1, 4);
  assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_TX], sent[0] + sent[1] + sent[2]);
  assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_LIMITED], 80 - r->counters.counter[NP_C_ICMP_ERR_TX]);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_moved), cmocka_unit_test(test_still_there),
                                     cmocka_unit_test(test_error_rate_per_destination)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
