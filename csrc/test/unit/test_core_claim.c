/* Claims: a flow has one core, whichever cores its segments come to. */
#include <pthread.h>

#include "test/unit/core_rig.h"

#define CORES 4u

static const uint8_t US[6] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t PEER[6] = {0x02, 0, 0, 0, 0, 2};

static void join(struct rig *r, uint32_t count, const struct np_plane_config *config) {
  struct np_plane_config c = *config;
  struct np_core *cores[CORES];
  c.cores = count;
  for (uint32_t i = 0; i < count; i++) {
    rig_init(&r[i], &c, i);
    cores[i] = r[i].core;
  }
  np_mail_join(cores, count);
}

/* Four cores with a listener on port 7 each, and one on port 9 that never has room but for cookies. */
static void start(struct rig *r) {
  struct np_plane_config c = rig_config();
  join(r, CORES, &c);
  for (uint32_t i = 0; i < CORES; i++) {
    rig_interface(&r[i], &r[i].port.q, US, 1);
    rig_meet(&r[i], US, PEER);
    struct np_cmd_listen args = {.port = 7, .session_kind = NP_SESSION_ECHO, .backlog = 16, .conns_max = 64};
    rig_ok(&r[i], (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
    args = (struct np_cmd_listen){.port = 9, .session_kind = NP_SESSION_ECHO, .backlog = 1, .conns_max = 64, .cookies = 1};
    rig_ok(&r[i], (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
    r[i].port.out_count = 0;
  }
}

static void end(struct rig *r, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) rig_ledger(&r[i]);
  for (uint32_t i = 0; i < count; i++) rig_free(&r[i]);
}

static void turns(struct rig *r, uint32_t n) {
  for (uint32_t k = 0; k < n; k++) {
    for (uint32_t i = 0; i < CORES; i++) rig_turn(&r[i], 1000);
  }
}

static struct frame segment(uint16_t from, uint16_t to, uint8_t flags, uint32_t seq, uint32_t ack, const char *data) {
  struct frame f;
  struct np_addr src = rig_v4(2);
  struct np_addr dst = rig_v4(1);
  frame_eth(&f, US, PEER, 0, 0x0800);
  frame_ip(&f, &src, &dst, 6, 64);
  frame_tcp(&f, from, to, flags, data, (uint32_t)strlen(data));
  np_store_be32(f.b + f.l4 + 4, seq);
  np_store_be32(f.b + f.l4 + 8, ack);
  np_store_be16(f.b + f.l4 + 14, 65535);
  frame_finish(&f, 6);
  return f;
}

static void in(struct rig *r, uint16_t from, uint16_t to, uint8_t flags, uint32_t seq, uint32_t ack, const char *data) {
  struct frame f = segment(from, to, flags, seq, ack, data);
  rig_in(r, &f);
}

/* Connections of all cores, and where the only one is. */
static uint32_t conns(const struct rig *r, uint32_t *where) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < CORES; i++) {
    uint32_t here = np_tcp_conn_count(np_core_tcp(r[i].core));
    if (here != 0) *where = i;
    n += here;
  }
  return n;
}

/* The one frame that left by any core; its core's output is empty then. */
static struct frame only_frame(struct rig *r) {
  struct frame f;
  uint32_t n = 0;
  for (uint32_t i = 0; i < CORES; i++) {
    for (uint32_t k = 0; k < r[i].port.out_count; k++) {
      f = r[i].port.out[k];
      n++;
    }
    r[i].port.out_count = 0;
  }
  assert_int_equal(n, 1);
  return f;
}

static uint8_t flags_of(const struct frame *f) { return f->b[34 + 13]; }
static uint32_t seq_of(const struct frame *f) { return np_load_be32(f->b + 38); }

static uint64_t claimed(const struct rig *r) {
  uint64_t n = 0;
  for (uint32_t i = 0; i < CORES; i++) {
    for (uint32_t k = 0; k < (r[i].core->claim_mask + 1) * 16; k++) n += r[i].core->claims[k] != 0;
  }
  return n;
}

/* The SYN again, its ACK, data and FIN each come to another core than the first SYN. */
static void test_one_core(void **state) {
  (void)state;
  struct rig r[CORES];
  start(r);
  uint32_t where = CORES;
  in(&r[2], 5000, 7, 0x02, 100, 0, "");
  turns(r, 2);
  struct frame first = only_frame(r);
  assert_int_equal(flags_of(&first), 0x12);
  in(&r[0], 5000, 7, 0x02, 100, 0, "");
  turns(r, 3);
  struct frame again = only_frame(r);
  assert_int_equal(flags_of(&again), 0x12);
  assert_int_equal(seq_of(&again), seq_of(&first));
  assert_int_equal(conns(r, &where), 1);
  assert_int_equal(where, 2);
  uint32_t iss = seq_of(&first);
  in(&r[0], 5000, 7, 0x10, 101, iss + 1, "");
  turns(r, 3);
  uint64_t handed = rig_counter(&r[0], NP_C_HANDED_ON) + rig_counter(&r[1], NP_C_HANDED_ON) + rig_counter(&r[3], NP_C_HANDED_ON);
  assert_int_equal(handed, 2); /* at once, not round */
  in(&r[1], 5000, 7, 0x18, 101, iss + 1, "hello");
  turns(r, 3);
  struct frame echo = only_frame(r);
  assert_memory_equal(echo.b + echo.len - 5, "hello", 5);
  in(&r[3], 5000, 7, 0x11, 106, iss + 6, "");
  turns(r, 3);
  struct frame fin = only_frame(r);
  assert_int_equal(flags_of(&fin) & 0x01, 0x01);
  in(&r[0], 5000, 7, 0x10, 107, iss + 7, "");
  turns(r, 3);
  assert_int_equal(conns(r, &where), 0);
  assert_int_equal(claimed(r), 0);
  in(&r[1], 5000, 7, 0x02, 900, 0, ""); /* another one, which begins where its SYN comes to */
  turns(r, 2);
  assert_int_equal(conns(r, &where), 1);
  assert_int_equal(where, 1);
  end(r, CORES);
}

/* What does not become a connection holds no claim. */
static void test_none_left(void **state) {
  (void)state;
  struct rig r[CORES];
  start(r);
  uint32_t where;
  in(&r[0], 5000, 9, 0x02, 100, 0, ""); /* takes the only place */
  turns(r, 1);
  (void)only_frame(r);
  assert_int_equal(claimed(r), 1);
  in(&r[0], 5001, 9, 0x02, 200, 0, ""); /* a cookie */
  turns(r, 1);
  struct frame cookie = only_frame(r);
  assert_int_equal(claimed(r), 1);
  in(&r[0], 5001, 9, 0x10, 201, seq_of(&cookie) + 1, "");
  turns(r, 1);
  assert_int_equal(claimed(r), 2);
  in(&r[1], 5000, 9, 0x04, 101, 0, ""); /* resets, by another core */
  in(&r[1], 5001, 9, 0x04, 201, 0, "");
  turns(r, 3);
  assert_int_equal(conns(r, &where), 0);
  assert_int_equal(claimed(r), 0);
  end(r, CORES);
}

/* A cookie from one core, then the SYN again to another, which has room for it: the peer may answer either,
 * and to any core. */
static void test_cookie_and_half_open(void **state) {
  (void)state;
  for (uint32_t answers = 0; answers < 2; answers++) {
    struct rig r[CORES];
    start(r);
    uint32_t where;
    in(&r[0], 5000, 9, 0x02, 100, 0, "");
    turns(r, 1);
    (void)only_frame(r);
    in(&r[0], 5001, 9, 0x02, 200, 0, "");
    turns(r, 1);
    struct frame cookie = only_frame(r);
    in(&r[3], 5001, 9, 0x02, 200, 0, "");
    turns(r, 2);
    struct frame half = only_frame(r);
    assert_int_not_equal(seq_of(&half), seq_of(&cookie));
    assert_int_equal(conns(r, &where), 2);
    uint32_t iss = seq_of(answers == 0 ? &cookie : &half);
    in(&r[0], 5001, 9, 0x18, 201, iss + 1, "hi");
    turns(r, 4);
    struct frame echo = only_frame(r);
    assert_int_equal(flags_of(&echo) & 0x04, 0);
    assert_memory_equal(echo.b + echo.len - 2, "hi", 2);
    assert_int_equal(conns(r, &where), 2);
    assert_int_equal(claimed(r), 2);
    assert_int_equal(np_tcp_conn_count(np_core_tcp(r[3].core)), 1);
    end(r, CORES);
  }
}

/* Where there is no room for a claim the flow goes without, and is counted. */
static void test_no_room(void **state) {
  (void)state;
  struct rig r[CORES];
  start(r);
  for (uint32_t i = 0; i < CORES; i++) memset(r[i].core->claims, 0xff, (r[i].core->claim_mask + 1) * 16 * sizeof(uint64_t));
  uint32_t where = CORES;
  in(&r[2], 5000, 7, 0x02, 100, 0, "");
  turns(r, 2);
  (void)only_frame(r);
  assert_int_equal(conns(r, &where), 1);
  assert_int_equal(where, 2);
  for (uint32_t i = 0; i < CORES; i++) assert_int_equal(r[i].core->counters->counter[NP_C_UNCLAIMED], i == 2);
  end(r, CORES);
}

#define FLOWS 8u /* and one more of each core's own: all would fit 16 slots */
#define ROUNDS 3000u

struct racer {
  struct np_core *core;
  pthread_barrier_t *barrier;
  uint32_t got[FLOWS];
  const uint32_t *other; /* what the other one got */
  uint32_t both, index;
};

static struct np_flow flow_of(uint32_t i) {
  struct np_flow f = {.local = rig_v4(1), .remote = rig_v4(2), .local_port = 7, .remote_port = (uint16_t)(1000 + i)};
  return f;
}

/* Both take the same flows at once. Claims that each has besides come and go, so that the slots which they find empty are not the same. */
static void *race(void *arg) {
  struct racer *me = arg;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    pthread_barrier_wait(me->barrier);
    for (uint32_t i = 0; i < FLOWS; i++) {
      struct np_flow own = flow_of(100 + 100 * me->index + (round + i) % 64);
      struct np_flow f = flow_of(i);
      (void)np_claim_take(me->core, &own);
      if ((round + me->index) % 2 == 0) np_claim_drop(me->core, &own);
      me->got[i] = np_claim_take(me->core, &f);
      np_claim_drop(me->core, &own);
    }
    pthread_barrier_wait(me->barrier);
    for (uint32_t i = 0; i < FLOWS; i++) me->both += me->got[i] == me->index && me->other[i] == 1 - me->index;
    pthread_barrier_wait(me->barrier);
    for (uint32_t i = 0; i < FLOWS; i++) {
      struct np_flow f = flow_of(i);
      np_claim_drop(me->core, &f);
    }
  }
  return NULL;
}

static void test_two_threads(void **state) {
  (void)state;
  struct rig r[2];
  struct np_plane_config c = rig_config();
  c.conns_max = 1; /* two times two buckets: they meet in few lines */
  join(r, 2, &c);
  pthread_barrier_t barrier;
  assert_int_equal(pthread_barrier_init(&barrier, NULL, 2), 0);
  struct racer racer[2] = {{.core = r[0].core, .barrier = &barrier, .index = 0}, {.core = r[1].core, .barrier = &barrier, .index = 1}};
  racer[0].other = racer[1].got;
  racer[1].other = racer[0].got;
  pthread_t thread[2];
  for (uint32_t i = 0; i < 2; i++) assert_int_equal(pthread_create(&thread[i], NULL, race, &racer[i]), 0);
  for (uint32_t i = 0; i < 2; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
  assert_int_equal(racer[0].both, 0);
  assert_int_equal(racer[1].both, 0);
  for (uint32_t i = 0; i < FLOWS; i++) {
    struct np_flow f = flow_of(i);
    assert_int_equal(np_claim_look(r[0].core, &f), NP_CLAIM_NONE);
  }
  pthread_barrier_destroy(&barrier);
  end(r, 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_core),
      cmocka_unit_test(test_none_left),
      cmocka_unit_test(test_cookie_and_half_open),
      cmocka_unit_test(test_no_room),
      cmocka_unit_test(test_two_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
