/* The state machine of RFC 4861 §7.3.2 and appendix C, state by state and event by event, for IPv6 and,
 * where ARP has the event, for IPv4. */
#include "test/unit/ip_rig.h"

static const uint8_t OTHER[6] = {0x02, 0, 0, 0, 0, 0x33};
static const uint8_t ALL_NODES_MAC[6] = {0x33, 0x33, 0, 0, 0, 1};
static const struct np_addr ALL_NODES = {{0xff, 0x02, [15] = 1}};

enum event {
  NA_SOLICITED,          /* S=1 O=0, the MAC we have (or any, when we have none) */
  NA_SOLICITED_OTHER,    /* S=1 O=0, another */
  NA_SOLICITED_OVERRIDE, /* S=1 O=1, another */
  NA_PLAIN,              /* S=0 O=0, the same */
  NA_PLAIN_OTHER,        /* S=0 O=0, another */
  NA_OVERRIDE,           /* S=0 O=1, the same */
  NA_OVERRIDE_OTHER,     /* S=0 O=1, another */
  NA_NO_MAC,             /* S=1, no option */
  NS_SAME,               /* it asks us, naming the MAC we have */
  NS_OTHER,
  SENT,                  /* a packet of ours to it */
  CONFIRMED,             /* TCP's word */
  DOUBTED,
  EVENTS
};

#define I NP_NEIGH_INCOMPLETE
#define R NP_NEIGH_REACHABLE
#define S NP_NEIGH_STALE
#define D NP_NEIGH_DELAY
#define P NP_NEIGH_PROBE

/* What follows, by state before; mac: whether the entry then has the other one. */
static const struct {
  uint8_t after[NP_NEIGH_STATE_COUNT];
  bool takes_other;
} table[EVENTS] = {
    [NA_SOLICITED] = {{[I] = R, [R] = R, [S] = R, [D] = R, [P] = R}, false},
    [NA_SOLICITED_OTHER] = {{[I] = R, [R] = S, [S] = S, [D] = D, [P] = P}, false},
    [NA_SOLICITED_OVERRIDE] = {{[I] = R, [R] = R, [S] = R, [D] = R, [P] = R}, true},
    [NA_PLAIN] = {{[I] = D, [R] = R, [S] = S, [D] = D, [P] = P}, false},  /* from I: STALE, and what waits is sent */
    [NA_PLAIN_OTHER] = {{[I] = D, [R] = S, [S] = S, [D] = D, [P] = P}, false},
    [NA_OVERRIDE] = {{[I] = D, [R] = R, [S] = S, [D] = D, [P] = P}, false},
    [NA_OVERRIDE_OTHER] = {{[I] = D, [R] = S, [S] = S, [D] = S, [P] = S}, true},
    [NA_NO_MAC] = {{[I] = I, [R] = R, [S] = R, [D] = R, [P] = R}, false},
    [NS_SAME] = {{[I] = D, [R] = R, [S] = S, [D] = D, [P] = P}, false},
    [NS_OTHER] = {{[I] = D, [R] = S, [S] = S, [D] = S, [P] = S}, true},
    [SENT] = {{[I] = I, [R] = R, [S] = D, [D] = D, [P] = P}, false},
    [CONFIRMED] = {{[I] = I, [R] = R, [S] = R, [D] = R, [P] = R}, false},
    [DOUBTED] = {{[I] = I, [R] = P, [S] = P, [D] = P, [P] = P}, false},
};

struct world {
  struct rig *r;
  struct np_addr us;
  struct np_addr peer;
  struct np_path path;
};

static struct world world_in(enum np_neigh_state state, uint64_t seed) {
  struct np_ip_config config = {.seed = seed};
  struct world w = {.r = rig_usual(&config), .us = frame_v6(1), .peer = frame_v6(2)};
  struct frame f;
  rig_send(w.r, &w.us, &w.peer, &w.path);
  if (state == I) return w;
  rig_nd(&f, 136, RIG_US, RIG_PEER, &w.peer, &w.us, &w.peer, 0x60, 2);
  assert_int_equal(rig_rx(w.r, 3, &f), RIG_DONE);
  rig_send(w.r, &w.us, &w.peer, &w.path);
  rig_advance(w.r, state == R ? 6 * RIG_S : 46 * RIG_S);
  if (state == D || state == P) rig_send(w.r, &w.us, &w.peer, &w.path);
  if (state == P) rig_advance(w.r, 5100 * RIG_MS);
  assert_int_equal(rig_neigh(w.r, &w.peer, NULL), state);
  return w;
}

static void na(struct world *w, const uint8_t mac[6], uint8_t flags, bool option) {
  struct frame f;
  bool solicited = (flags & 0x40) != 0;
  rig_nd(&f, 136, solicited ? RIG_US : ALL_NODES_MAC, mac, &w->peer, solicited ? &w->us : &ALL_NODES, &w->peer, flags, option ? 2 : 0);
  assert_int_equal(rig_rx(w->r, 3, &f), RIG_DONE);
}

static void ns(struct world *w, const uint8_t mac[6]) {
  struct frame f;
  rig_nd(&f, 135, RIG_US, mac, &w->peer, &w->us, &w->us, 0, 1);
  assert_int_equal(rig_rx(w->r, 3, &f), RIG_DONE);
}

static void happen(struct world *w, enum event e) {
  switch (e) {
    case NA_SOLICITED: na(w, RIG_PEER, 0x40, true); return;
    case NA_SOLICITED_OTHER: na(w, OTHER, 0x40, true); return;
    case NA_SOLICITED_OVERRIDE: na(w, OTHER, 0x60, true); return;
    case NA_PLAIN: na(w, RIG_PEER, 0x00, true); return;
    case NA_PLAIN_OTHER: na(w, OTHER, 0x00, true); return;
    case NA_OVERRIDE: na(w, RIG_PEER, 0x20, true); return;
    case NA_OVERRIDE_OTHER: na(w, OTHER, 0x20, true); return;
    case NA_NO_MAC: na(w, RIG_PEER, 0x40, false); return;
    case NS_SAME: ns(w, RIG_PEER); return;
    case NS_OTHER: ns(w, OTHER); return;
    case SENT: rig_send(w->r, &w->us, &w->peer, &w->path); return;
    case CONFIRMED: np_ip_confirm(w->r->ip, &w->path, w->r->now_ns); return;
    case DOUBTED: np_ip_doubt(w->r->ip, &w->path, w->r->now_ns); return;
    default: fail();
  }
}

static void test_table(void **state) {
  (void)state;
  static const enum np_neigh_state from[] = {I, R, S, D, P};
  for (size_t i = 0; i < NP_COUNT_OF(from); i++) {
    for (uint32_t e = 0; e < EVENTS; e++) {
      struct world w = world_in(from[i], 60 + e);
      w.r->sent_count = 0;
      happen(&w, (enum event)e);
      struct np_neigh_info info;
      enum np_neigh_state after = rig_neigh(w.r, &w.peer, &info);
      if (after != table[e].after[from[i]]) print_error("state %d, event %u\n", (int)from[i], (unsigned)e);
      assert_int_equal(after, table[e].after[from[i]]);
      if (from[i] != I) assert_memory_equal(info.mac, table[e].takes_other ? OTHER : RIG_PEER, 6);
      /* What waited leaves once there is a MAC, and to that one. */
      if (from[i] == I && after != I) {
        bool sent = false;
        for (uint32_t k = 0; k < w.r->sent_count; k++) sent |= memcmp(w.r->sent[k].b, info.mac, 6) == 0 && w.r->sent[k].b[20] == 253;
        assert_true(sent);
        assert_int_equal(w.r->pool.free_count, w.r->pool.count);
      }
      rig_free(w.r);
    }
  }
}

/* What time does in each state: appendix C's timeouts. */
static void test_timeouts(void **state) {
  (void)state;
  static const struct {
    enum np_neigh_state from;
    uint64_t ms;
    enum np_neigh_state after;
    uint32_t questions;
  } row[] = {
      {I, 900, I, 0}, {I, 1100, I, 1}, {I, 2900, I, 2}, {I, 3100, NP_NEIGH_FAILED, 2}, {I, 24000, NP_NEIGH_FREE, 2},
      {R, 45000, S, 0}, {S, 560000, S, 0}, {S, 610000, NP_NEIGH_FREE, 0}, {D, 4900, D, 0}, {D, 5100, P, 1},
      {P, 800, P, 0}, {P, 2000, P, 2}, {P, 3100, NP_NEIGH_FAILED, 2}, {P, 24000, NP_NEIGH_FREE, 2},
  };
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct world w = world_in(row[i].from, 90);
    w.r->sent_count = 0;
    rig_advance(w.r, row[i].ms * RIG_MS);
    if (rig_neigh(w.r, &w.peer, NULL) != row[i].after) print_error("row %zu\n", i);
    assert_int_equal(rig_neigh(w.r, &w.peer, NULL), row[i].after);
    uint32_t questions = 0;
    for (uint32_t k = 0; k < w.r->sent_count; k++) questions += w.r->sent[k].b[54] == 135;
    if (questions != row[i].questions) print_error("row %zu\n", i);
    assert_int_equal(questions, row[i].questions);
    rig_free(w.r);
  }
}

/* A failed entry: each kind of message brings it back, and so does a packet of ours. */
static void test_from_failed(void **state) {
  (void)state;
  for (uint32_t how = 0; how < 4; how++) {
    struct world w = world_in(I, 95);
    rig_advance(w.r, 3100 * RIG_MS);
    assert_int_equal(rig_neigh(w.r, &w.peer, NULL), NP_NEIGH_FAILED);
    static const struct {
      enum event e;
      enum np_neigh_state after;
    } row[] = {{NA_SOLICITED, R}, {NA_OVERRIDE_OTHER, S}, {NS_OTHER, S}, {SENT, I}};
    happen(&w, row[how].e);
    assert_int_equal(rig_neigh(w.r, &w.peer, NULL), row[how].after);
    rig_free(w.r);
  }
}

/* One that is gone while its address is taken away under it: nothing is left behind. */
static void test_address_goes(void **state) {
  (void)state;
  static const enum np_neigh_state from[] = {I, R, S, D, P};
  for (size_t i = 0; i < NP_COUNT_OF(from); i++) {
    struct world w = world_in(from[i], 97);
    assert_int_equal(np_ip_addr_del(w.r->ip, 0, &w.us), NP_ERR_OK);
    assert_true(rig_send(w.r, &w.us, &w.peer, &w.path) != NP_ERR_OK);
    rig_advance(w.r, 20 * RIG_S);
    assert_int_equal(w.r->pool.free_count, w.r->pool.count);
    rig_free(w.r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_timeouts), cmocka_unit_test(test_from_failed),
                                     cmocka_unit_test(test_address_goes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
