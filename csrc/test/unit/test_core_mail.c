/* Connections that we opened, whose segments come to another core than theirs; four cores. A pipe's
 * events and commands go through the rings of its core. */
#include "test/unit/core_rig.h"

#define CORES 4u

static const uint8_t US[6] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t PEER[6] = {0x02, 0, 0, 0, 0, 2};

static void four_cores(struct rig *r) {
  struct np_plane_config c = rig_config();
  struct np_core *cores[CORES];
  c.cores = CORES;
  for (uint32_t i = 0; i < CORES; i++) {
    rig_init(&r[i], &c, i);
    cores[i] = r[i].core;
  }
  np_mail_join(cores, CORES);
  for (uint32_t i = 0; i < CORES; i++) {
    rig_interface(&r[i], &r[i].port.q, US, 1);
    rig_meet(&r[i], US, PEER);
  }
}

static void four_free(struct rig *r) {
  for (uint32_t i = 0; i < CORES; i++) {
    rig_ledger(&r[i]);
    rig_free(&r[i]);
  }
}

static void turns(struct rig *r, uint32_t n) {
  for (uint32_t k = 0; k < n; k++) {
    for (uint32_t i = 0; i < CORES; i++) rig_turn(&r[i], 1000);
  }
}

static struct frame segment(uint16_t port, uint8_t flags, uint32_t seq, uint32_t ack, const void *data, uint32_t len) {
  struct frame f;
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  frame_eth(&f, US, PEER, 0, 0x0800);
  frame_ip(&f, &from, &to, 6, 64);
  frame_tcp(&f, 80, port, flags, data, len);
  np_store_be32(f.b + f.l4 + 4, seq);
  np_store_be32(f.b + f.l4 + 8, ack);
  np_store_be16(f.b + f.l4 + 14, 65535);
  frame_finish(&f, 6);
  return f;
}

struct conn {
  uint64_t handle;
  uint16_t port;
  uint32_t iss;
};

/* Core at opens a pipe to the peer. */
static struct conn open_pipe(struct rig *r, uint32_t at, uint16_t port) {
  struct np_cmd_connect args = {.remote_port = 80, .local_port = port, .session_kind = NP_SESSION_PIPE};
  struct np_addr peer = rig_v4(2);
  memcpy(args.remote, peer.b, 16);
  struct np_event ev = rig_command(&r[at], (struct np_cmd){.op = NP_CMD_CONNECT}, &args, sizeof args);
  assert_int_equal(ev.err, NP_ERR_OK);
  assert_int_equal(r[at].port.out_count, 1);
  const struct frame *syn = &r[at].port.out[0];
  struct conn c = {.handle = ev.handle, .port = np_load_be16(syn->b + 34), .iss = np_load_be32(syn->b + 38)};
  assert_int_equal(syn->b[34 + 13], 0x02);
  r[at].port.out_count = 0;
  return c;
}

static uint64_t handed(const struct rig *r) {
  uint64_t n = 0;
  for (uint32_t i = 0; i < CORES; i++) n += rig_counter(&r[i], NP_C_HANDED_ON);
  return n;
}

static void expect(struct rig *r, const struct conn *c, enum np_event_op op, struct np_event *ev) {
  assert_true(rig_event(r, ev));
  assert_int_equal(ev->op, op);
  assert_int_equal(ev->handle, c->handle);
  assert_int_equal(ev->kind, NP_SESSION_PIPE);
}

static void give_back(struct rig *r, struct np_event *ev) {
  struct np_cmd cmd = {.op = NP_CMD_FREE, .body = ev->body};
  rig_submit(r, &cmd, NULL, 0);
}

/* Whatever core its segments come to, one hop brings them home. */
static void test_one_hop(void **state) {
  (void)state;
  struct rig r[CORES];
  four_cores(r);
  struct conn c = open_pipe(r, 2, 0);
  assert_int_equal((c.port - NP_PORT_EPHEMERAL_MIN) % CORES, 2);
  struct frame f = segment(c.port, 0x12, 5000, c.iss + 1, "", 0);
  rig_in(&r[3], &f); /* round would be 3, 0, 1, 2 */
  turns(r, 2);
  assert_int_equal(handed(r), 1);
  struct np_event ev;
  expect(&r[2], &c, NP_EV_OPEN, &ev);
  assert_int_equal(ev.arg, 0);
  give_back(&r[2], &ev);
  f = segment(c.port, 0x18, 5001, c.iss + 1, "hello", 5);
  rig_in(&r[1], &f);
  turns(r, 2);
  assert_int_equal(handed(r), 2);
  expect(&r[2], &c, NP_EV_DATA, &ev);
  assert_int_equal(ev.body_bytes, 5);
  assert_memory_equal(np_buf_cdata(ev.body), "hello", 5);
  give_back(&r[2], &ev);
  struct np_cmd cmd = {.op = NP_CMD_CREDIT, .handle = c.handle, .arg = 5};
  rig_submit(&r[2], &cmd, NULL, 0);
  cmd = (struct np_cmd){.op = NP_CMD_SEND, .handle = c.handle};
  rig_submit(&r[2], &cmd, "world", 5);
  r[2].port.out_count = 0;
  turns(r, 1);
  assert_int_equal(r[2].port.out_count, 1);
  assert_memory_equal(r[2].port.out[0].b + r[2].port.out[0].len - 5, "world", 5);
  expect(&r[2], &c, NP_EV_SENT, &ev);
  assert_int_equal(ev.arg, 5);
  f = segment(c.port, 0x11, 5006, c.iss + 6, "", 0); /* FIN, by a third core */
  rig_in(&r[0], &f);
  turns(r, 2);
  expect(&r[2], &c, NP_EV_EOF, &ev);
  cmd = (struct np_cmd){.op = NP_CMD_CLOSE, .handle = c.handle};
  rig_submit(&r[2], &cmd, NULL, 0);
  turns(r, 1);
  expect(&r[2], &c, NP_EV_CLOSED, &ev);
  assert_int_equal(ev.err, NP_ERR_OK);
  f = segment(c.port, 0x10, 5007, c.iss + 7, "", 0);
  rig_in(&r[1], &f);
  turns(r, 2);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(r[2].core)), 0);
  for (uint32_t i = 0; i < CORES; i++) rig_quiet(&r[i]);
  four_free(r);
}

/* A port that somebody asked for on a core that does not own it: by the owner and round. */
static void test_port_of_another(void **state) {
  (void)state;
  struct rig r[CORES];
  four_cores(r);
  struct conn c = open_pipe(r, 2, NP_PORT_EPHEMERAL_MIN + 4 * 1000 + 1);
  struct frame f = segment(c.port, 0x12, 5000, c.iss + 1, "", 0);
  rig_in(&r[3], &f);
  turns(r, 4);
  assert_int_equal(handed(r), 2); /* 3 to 1, the owner, and that to 2 */
  struct np_event ev;
  expect(&r[2], &c, NP_EV_OPEN, &ev);
  give_back(&r[2], &ev);
  four_free(r);
}

/* Nobody's: one reset, however many cores looked. */
static void test_nobodys(void **state) {
  (void)state;
  struct rig r[CORES];
  four_cores(r);
  for (uint32_t k = 0; k < CORES; k++) {
    uint64_t before = handed(r);
    struct frame f = segment((uint16_t)(NP_PORT_EPHEMERAL_MIN + 4 * 77 + k), 0x10, 1, 99, "x", 1);
    rig_in(&r[3], &f);
    turns(r, 2 * CORES);
    assert_int_equal(handed(r) - before, CORES);
  }
  uint32_t out = 0;
  for (uint32_t i = 0; i < CORES; i++) out += r[i].port.out_count;
  assert_int_equal(out, CORES);
  four_free(r);
}

/* The way to the owner is full: round, as if nobody were known to own it, and then no answer. */
static void test_full(void **state) {
  (void)state;
  struct rig r[CORES];
  four_cores(r);
  for (uint32_t k = 0; k < 200; k++) {
    struct frame f = segment(NP_PORT_EPHEMERAL_MIN + 1, 0x10, k, 99, "x", 1);
    rig_in(&r[3], &f);
    if (k % 64 == 63) rig_turn(&r[3], 1000);
  }
  rig_turn(&r[3], 1000);
  assert_int_equal(rig_counter(&r[3], NP_C_HANDED_ON), 32 + 64);
  turns(r, 3 * CORES);
  uint32_t out = 0;
  for (uint32_t i = 0; i < CORES; i++) out += r[i].port.out_count;
  assert_true(out > 0 && out <= 32 + 64);
  for (uint32_t i = 0; i < CORES; i++) assert_false(np_core_must_run(r[i].core));
  four_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_hop),
      cmocka_unit_test(test_port_of_another),
      cmocka_unit_test(test_nobodys),
      cmocka_unit_test(test_full),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
