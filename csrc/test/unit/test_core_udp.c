/* UDP sockets as Go drives them: through the rings of one core. */
#include "test/unit/core_rig.h"

static const uint8_t US[6] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t PEER[6] = {0x02, 0, 0, 0, 0, 2};

static void up(struct rig *r, const struct np_plane_config *c) {
  rig_init(r, c, 0);
  rig_interface(r, &r->port.q, US, 1);
  rig_turn(r, 1000);
  r->port.out_count = 0;
}

static uint64_t bind_udp(struct rig *r, uint16_t port, uint32_t *out_port) {
  struct np_cmd_udp args = {.port = port};
  struct np_event ev = rig_command(r, (struct np_cmd){.op = NP_CMD_UDP_BIND}, &args, sizeof args);
  assert_int_equal(ev.err, NP_ERR_OK);
  *out_port = ev.arg;
  return ev.handle;
}

static void datagram(struct rig *r, bool v6, uint16_t sport, uint16_t dport, const void *data, uint32_t bytes) {
  struct frame f;
  struct np_addr src = v6 ? frame_v6(2) : rig_v4(2);
  struct np_addr dst = v6 ? frame_v6(1) : rig_v4(1);
  frame_eth(&f, US, PEER, 0, v6 ? 0x86dd : 0x0800);
  frame_ip(&f, &src, &dst, 17, 64);
  frame_udp(&f, sport, dport, data, bytes);
  frame_finish(&f, 17);
  rig_in(r, &f);
}

static void give_back(struct rig *r, struct np_event *ev) {
  struct np_cmd free_cmd = {.op = NP_CMD_FREE, .body = ev->body};
  rig_submit(r, &free_cmd, NULL, 0);
}

static void test_datagram(void **state) {
  (void)state;
  struct np_plane_config c = rig_config();
  struct rig r;
  up(&r, &c);
  uint32_t port;
  uint64_t socket = bind_udp(&r, 5000, &port);
  assert_int_equal(port, 5000);
  for (int v6 = 0; v6 < 2; v6++) {
    for (uint32_t bytes = 0; bytes <= 900; bytes += 450) {
      uint8_t data[900];
      memset(data, 'a' + v6, sizeof data);
      datagram(&r, v6, 40000, 5000, data, bytes);
      rig_turn(&r, 1000);
      struct np_event ev;
      assert_true(rig_event(&r, &ev));
      assert_int_equal(ev.op, NP_EV_DATAGRAM);
      assert_int_equal(ev.handle, socket);
      assert_int_equal(ev.kind, NP_SESSION_PIPE);
      assert_int_equal(ev.body_bytes, sizeof(struct np_udp_meta) + bytes);
      struct np_udp_meta meta;
      memcpy(&meta, np_buf_cdata(ev.body), sizeof meta);
      struct np_addr from = v6 ? frame_v6(2) : rig_v4(2);
      struct np_addr to = v6 ? frame_v6(1) : rig_v4(1);
      assert_memory_equal(meta.remote, from.b, 16);
      assert_memory_equal(meta.local, to.b, 16);
      assert_int_equal(meta.remote_port, 40000);
      assert_int_equal(meta.local_port, 5000);
      assert_memory_equal(np_buf_cdata(ev.body) + sizeof meta, data, bytes);
      give_back(&r, &ev);
      rig_turn(&r, 1000);
      rig_ledger(&r);
      rig_quiet(&r);
    }
  }
  rig_ok(&r, (struct np_cmd){.op = NP_CMD_UDP_CLOSE, .handle = socket}, NULL, 0);
  assert_int_equal(rig_command(&r, (struct np_cmd){.op = NP_CMD_UDP_CLOSE, .handle = socket}, NULL, 0).err, NP_ERR_STALE);
  datagram(&r, false, 40000, 5000, "x", 1);
  rig_turn(&r, 1000);
  assert_int_equal(rig_drop(&r, NP_DROP_UDP_PORT), 1);
  uint64_t again = bind_udp(&r, 5000, &port);
  assert_true(again != socket);
  rig_free(&r);
}

/* A reader that takes nothing: drops with a reason, the ledger whole, and it goes on afterwards. */
static void test_slow_reader(void **state) {
  (void)state;
  struct np_plane_config c = rig_config();
  c.event_ring = 1024;
  struct rig r;
  up(&r, &c);
  uint32_t port;
  (void)bind_udp(&r, 5000, &port);
  uint32_t sent = 0;
  for (; sent < 400; sent++) {
    datagram(&r, false, 40000, 5000, "hello", 5);
    rig_turn(&r, 1000);
  }
  assert_int_equal(r.core->udp_held, 256); /* a quarter of the pool */
  assert_int_equal(rig_drop(&r, NP_DROP_UDP_FULL), sent - 256);
  rig_ledger(&r);
  struct np_event ev;
  uint32_t got = 0;
  while (rig_event(&r, &ev)) {
    assert_int_equal(ev.op, NP_EV_DATAGRAM);
    give_back(&r, &ev);
    rig_turn(&r, 1000);
    got++;
  }
  assert_int_equal(got, 256);
  assert_int_equal(r.core->udp_held, 0);
  rig_quiet(&r);
  datagram(&r, false, 40000, 5000, "hello", 5);
  rig_turn(&r, 1000);
  assert_true(rig_event(&r, &ev));
  give_back(&r, &ev);
  rig_free(&r);
}

static void test_full_event_ring(void **state) {
  (void)state;
  struct np_plane_config c = rig_config();
  struct rig r;
  up(&r, &c);
  uint32_t port;
  (void)bind_udp(&r, 5000, &port);
  for (uint32_t i = 0; i < 100; i++) {
    datagram(&r, false, 40000, 5000, "hello", 5);
    rig_turn(&r, 1000);
  }
  assert_int_equal(np_ring_avail(r.s->event), 56); /* an eighth of 64 is for answers */
  assert_int_equal(rig_drop(&r, NP_DROP_UDP_FULL), 44);
  rig_ledger(&r);
  rig_free(&r); /* what nobody read is taken back */
}

static void send_datagram(struct rig *r, uint64_t socket, const struct np_addr *to, uint32_t bytes) {
  uint8_t body[sizeof(struct np_udp_meta) + 1500];
  struct np_udp_meta meta = {.remote_port = 53};
  memcpy(meta.remote, to->b, 16);
  memcpy(body, &meta, sizeof meta);
  memset(body + sizeof meta, 'z', bytes);
  struct np_cmd cmd = {.op = NP_CMD_UDP_SEND, .handle = socket};
  rig_submit(r, &cmd, body, (uint32_t)sizeof meta + bytes);
}

/* Lent buffers that left are replaced; errors are answered and give them back. */
static void test_send(void **state) {
  (void)state;
  struct np_plane_config c = rig_config();
  struct rig r;
  up(&r, &c);
  uint32_t port;
  uint64_t socket = bind_udp(&r, 0, &port);
  assert_in_range(port, NP_PORT_EPHEMERAL_MIN, 60999);
  struct np_addr p4 = rig_v4(2);
  rig_meet(&r, US, PEER);
  for (uint32_t i = 0; i < 40; i++) { /* more than there are loans */
    send_datagram(&r, socket, &p4, 1000 + i);
    rig_turn(&r, 1000);
    assert_int_equal(r.core->loans_out, c.loans_per_core);
  }
  assert_int_equal(r.port.out_count, 40);
  assert_int_equal(r.port.out[39].len, 14 + 20 + 8 + 1039);
  assert_int_equal(rig_counter(&r, NP_C_UDP_TX), 40);
  struct np_event ev;
  assert_false(rig_event(&r, &ev)); /* nothing is said of what went well */
  struct np_addr none = rig_v4(0);
  send_datagram(&r, socket + (UINT64_C(1) << 32), &p4, 10);
  rig_turn(&r, 1000);
  assert_true(rig_event(&r, &ev));
  assert_int_equal(ev.op, NP_EV_DONE);
  assert_int_equal(ev.err, NP_ERR_STALE);
  memset(none.b, 0, 16);
  send_datagram(&r, socket, &none, 10);
  rig_turn(&r, 1000);
  assert_true(rig_event(&r, &ev));
  assert_int_equal(ev.err, NP_ERR_INVALID);
  struct np_cmd cmd = {.op = NP_CMD_UDP_SEND, .handle = socket};
  rig_submit(&r, &cmd, "short", 5);
  rig_turn(&r, 1000);
  assert_true(rig_event(&r, &ev));
  assert_int_equal(ev.err, NP_ERR_INVALID);
  assert_int_equal(r.core->loans_out, c.loans_per_core);
  rig_quiet(&r);
  rig_ledger(&r);
  rig_free(&r);
}

/* The pool is short: loans are owed and made good later, and none are lost. */
static void test_loans_owed(void **state) {
  (void)state;
  struct np_plane_config c = rig_config();
  struct rig r;
  up(&r, &c);
  uint32_t port;
  uint64_t socket = bind_udp(&r, 0, &port);
  struct np_pool *pool = np_core_pool(r.core);
  struct np_buf *hog = NULL;
  while (pool->free_count > pool->count / 16) {
    struct np_buf *b = np_pool_get(pool);
    b->next = hog;
    hog = b;
  }
  struct np_addr peer = rig_v4(2);
  for (uint32_t i = 0; i < c.loans_per_core; i++) {
    send_datagram(&r, socket, &peer, 100);
    rig_turn(&r, 1000);
  }
  assert_true(r.core->loans_owed > 0);
  assert_int_equal(r.core->loans_out + r.core->loans_owed, c.loans_per_core);
  assert_int_equal(rig_counter(&r, NP_C_LOANS_OWED), r.core->loans_owed);
  np_buf_put_chain(hog);
  rig_turn(&r, 1000);
  assert_int_equal(r.core->loans_owed, 0);
  assert_int_equal(r.core->loans_out, c.loans_per_core);
  rig_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_datagram), cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_full_event_ring),
      cmocka_unit_test(test_send),     cmocka_unit_test(test_loans_owed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
