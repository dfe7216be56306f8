/* io/rdma/link.h: credits, immediates, private data. */
#include <string.h>

#include "base/rng.h"
#include "io/rdma/link.h"
#include "test/unit/cmocka_np.h"

#define RING 4096u
#define DEPTH 128u

static void join(struct np_link *a, struct np_link *b) {
  struct np_hello h = {.ring_bytes = RING, .depth = DEPTH};
  np_link_init(a, RING, DEPTH);
  np_link_init(b, RING, DEPTH);
  np_link_peer(a, &h);
  np_link_peer(b, &h);
}

static void test_hello(void **state) {
  (void)state;
  struct np_hello h = {.ring_bytes = 65536, .depth = 256, .addr = UINT64_C(0x123456789abcdef0), .rkey = 0xdeadbeef};
  uint8_t wire[56] = {0};
  np_hello_put(&h, wire);
  static const uint8_t want[NP_HELLO_BYTES] = {'N', 'P', 'R', 'D', 1,    0,    1,    0,    0,    1,    0,    0,
                                               0xde, 0xad, 0xbe, 0xef, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0};
  assert_memory_equal(wire, want, sizeof want);
  struct np_hello got;
  assert_int_equal(np_hello_get(wire, sizeof wire, &got), NP_ERR_OK); /* padded, as the connection manager does */
  assert_int_equal(got.ring_bytes, h.ring_bytes);
  assert_int_equal(got.depth, h.depth);
  assert_int_equal(got.rkey, h.rkey);
  assert_true(got.addr == h.addr);
  assert_int_equal(np_hello_get(wire, NP_HELLO_BYTES - 1, &got), NP_ERR_PROTOCOL);
  assert_int_equal(np_hello_get(wire, 0, &got), NP_ERR_PROTOCOL);
  wire[4] = 2;
  assert_int_equal(np_hello_get(wire, sizeof wire, &got), NP_ERR_UNSUPPORTED);
  wire[4] = 1;
  wire[5] = 1;
  assert_int_equal(np_hello_get(wire, sizeof wire, &got), NP_ERR_PROTOCOL);
}

static void test_hello_ranges(void **state) {
  (void)state;
  static const struct {
    uint32_t ring, depth;
    uint64_t addr;
    enum np_err err;
  } rows[] = {
      {NP_LINK_RING_BYTES_MIN, NP_LINK_DEPTH_MIN, 0, NP_ERR_OK},
      {NP_LINK_RING_BYTES_MAX, NP_LINK_DEPTH_MAX, UINT64_MAX - NP_LINK_RING_BYTES_MAX, NP_ERR_OK},
      {NP_LINK_RING_BYTES_MAX, NP_LINK_DEPTH_MAX, UINT64_MAX - NP_LINK_RING_BYTES_MAX + 1, NP_ERR_PROTOCOL},
      {NP_LINK_RING_BYTES_MIN - 1, 256, 0, NP_ERR_PROTOCOL},
      {NP_LINK_RING_BYTES_MAX + 1, 256, 0, NP_ERR_PROTOCOL},
      {UINT32_MAX, 256, 0, NP_ERR_PROTOCOL},
      {65536, NP_LINK_DEPTH_MIN - 1, 0, NP_ERR_PROTOCOL},
      {65536, NP_LINK_DEPTH_MAX + 1, 0, NP_ERR_PROTOCOL},
      {65536, 0, 0, NP_ERR_PROTOCOL},
  };
  for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct np_hello h = {.ring_bytes = rows[i].ring, .depth = rows[i].depth, .addr = rows[i].addr};
    uint8_t wire[NP_HELLO_BYTES];
    np_hello_put(&h, wire);
    struct np_hello got;
    assert_int_equal(np_hello_get(wire, sizeof wire, &got), rows[i].err);
  }
}

static void test_wraps_and_returns(void **state) {
  (void)state;
  struct np_link a, b;
  join(&a, &b);
  uint32_t at = 0;
  for (uint32_t round = 0; round < 100; round++) {
    uint32_t n = np_link_span(&a);
    if (n > 1000) n = 1000;
    assert_true(n > 0);
    uint32_t imm = np_link_sent(&a, n, false);
    assert_int_equal(np_link_input(&b, imm, n), NP_ERR_OK);
    assert_int_equal(b.rcv_at, at);
    assert_int_equal(np_link_ready(&b), n);
    np_link_taken(&b, n);
    np_link_posted(&b, 1);
    np_link_consumed(&b, n);
    at = (at + n) % RING;
    assert_int_equal(a.snd_at, at);
    while (np_link_must_tell(&b)) assert_int_equal(np_link_input(&a, np_link_sent(&b, 0, false), 0), NP_ERR_OK);
    if (a.unposted_msgs > 0) np_link_posted(&a, a.unposted_msgs);
  }
}

/* Nothing is sent beyond the peer's ring, nor with the last receives but credits and FIN. */
static void test_limits_of_sending(void **state) {
  (void)state;
  struct np_link a, b;
  join(&a, &b);
  (void)np_link_sent(&a, RING, false);
  assert_int_equal(np_link_span(&a), 0);
  join(&a, &b);
  for (uint32_t i = 0; i < DEPTH - NP_LINK_MSGS_RESERVE; i++) {
    assert_true(np_link_span(&a) > 0);
    (void)np_link_sent(&a, 1, false);
  }
  assert_int_equal(np_link_span(&a), 0);
  for (uint32_t i = 0; i < NP_LINK_MSGS_RESERVE; i++) {
    assert_true(np_link_can_tell(&a));
    (void)np_link_sent(&a, 0, false);
  }
  assert_false(np_link_can_tell(&a));
  a.owed_bytes = RING;
  assert_false(np_link_must_tell(&a));
}

static void test_hostile_input(void **state) {
  (void)state;
  struct np_link a, b;
  join(&a, &b);
  struct np_link before = b;
  assert_int_equal(np_link_input(&b, NP_LINK_IMM_ZERO, 0), NP_ERR_PROTOCOL);
  assert_int_equal(np_link_input(&b, 1, 0), NP_ERR_PROTOCOL); /* a byte back that was never sent */
  assert_int_equal(np_link_input(&b, 1u << NP_LINK_IMM_MSGS_SHIFT, 0), NP_ERR_PROTOCOL);
  assert_int_equal(np_link_input(&b, 0, RING + 1), NP_ERR_FLOW);
  assert_int_equal(np_link_input(&b, 0, UINT32_MAX), NP_ERR_FLOW);
  assert_memory_equal(&before, &b, sizeof b);
  assert_int_equal(np_link_input(&b, 0, RING), NP_ERR_OK);
  assert_int_equal(np_link_input(&b, 0, 1), NP_ERR_FLOW);
  np_link_taken(&b, RING);
  assert_int_equal(np_link_input(&b, 0, 1), NP_ERR_FLOW); /* taken is not consumed */
  np_link_consumed(&b, RING);
  assert_int_equal(np_link_input(&b, 0, 1), NP_ERR_FLOW); /* consumed is not returned */
  assert_true(np_link_must_tell(&b));
  (void)np_link_sent(&b, 0, false);
  assert_int_equal(np_link_input(&b, NP_LINK_IMM_FIN, 1), NP_ERR_OK);
  assert_int_equal(np_link_input(&b, 0, 1), NP_ERR_PROTOCOL);
  assert_int_equal(np_link_input(&b, NP_LINK_IMM_FIN, 0), NP_ERR_PROTOCOL);
  assert_int_equal(np_link_input(&b, 0, 0), NP_ERR_OK); /* credits go on behind FIN */
}

/* Messages without data are free of ring room, not of receives. */
static void test_message_flood(void **state) {
  (void)state;
  struct np_link a, b;
  join(&a, &b);
  for (uint32_t i = 0; i < DEPTH; i++) assert_int_equal(np_link_input(&b, 0, 0), NP_ERR_OK);
  assert_int_equal(np_link_input(&b, 0, 0), NP_ERR_PROTOCOL);
  np_link_posted(&b, DEPTH);
  assert_int_equal(np_link_input(&b, 0, 0), NP_ERR_PROTOCOL); /* posted, but the peer can't know yet */
  assert_true(np_link_must_tell(&b));
  (void)np_link_sent(&b, 0, false);
  for (uint32_t i = 0; i < DEPTH; i++) assert_int_equal(np_link_input(&b, 0, 0), NP_ERR_OK);
}

/* Both ends send all they may, messages are under way for a random while, sessions consume by random
 * amounts: neither end ever stands still for good, and each always has a receive for what comes. */
static void test_no_deadlock(void **state) {
  (void)state;
  struct np_rng rng;
  np_rng_init(&rng, 7);
  for (uint32_t run = 0; run < 200; run++) {
    struct np_link l[2];
    join(&l[0], &l[1]);
    struct {
      uint32_t imm[DEPTH + 1], bytes[DEPTH + 1], head, tail;
    } wire[2] = {0};
    uint64_t got[2] = {0};
    uint64_t late[2] = {0};
    uint32_t piece = 1 + np_rng_below(&rng, RING / 2);
    for (uint32_t step = 0; step < 4000; step++) {
      if (step == 3000) memcpy(late, got, sizeof late);
      uint32_t i = np_rng_below(&rng, 2);
      struct np_link *me = &l[i];
      uint32_t span = np_link_span(me);
      bool data = span > 0 && np_rng_below(&rng, 3) > 0;
      if (data || np_link_must_tell(me)) {
        uint32_t n = data ? (span < piece ? span : piece) : 0;
        uint32_t slot = wire[i].tail++ % (DEPTH + 1);
        assert_true(wire[i].tail - wire[i].head <= DEPTH);
        wire[i].imm[slot] = np_link_sent(me, n, false);
        wire[i].bytes[slot] = n;
      }
      for (uint32_t k = np_rng_below(&rng, 4); k > 0 && wire[1 - i].head != wire[1 - i].tail; k--) {
        uint32_t slot = wire[1 - i].head++ % (DEPTH + 1);
        assert_int_equal(np_link_input(me, wire[1 - i].imm[slot], wire[1 - i].bytes[slot]), NP_ERR_OK);
      }
      if (np_rng_below(&rng, 4) == 0) np_link_posted(me, me->unposted_msgs);
      uint32_t ready = np_link_ready(me);
      if (ready > 0 && np_rng_below(&rng, 2) == 0) np_link_taken(me, ready);
      if (me->rcv_held > 0 && np_rng_below(&rng, 3) == 0) {
        uint32_t n = 1 + np_rng_below(&rng, me->rcv_held);
        np_link_consumed(me, n);
        got[i] += n;
      }
    }
    assert_true(got[0] > late[0]);
    assert_true(got[1] > late[1]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hello),         cmocka_unit_test(test_hello_ranges), cmocka_unit_test(test_wraps_and_returns),
      cmocka_unit_test(test_limits_of_sending), cmocka_unit_test(test_hostile_input), cmocka_unit_test(test_message_flood),
      cmocka_unit_test(test_no_deadlock),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
