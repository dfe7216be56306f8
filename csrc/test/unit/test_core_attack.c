/* Segments that no host sends, through a whole core: none opens anything, none is answered, each is counted
 * for its reason, and a connection that is there does not notice. */
#include "test/unit/core_rig.h"

static const uint8_t mac_us[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t mac_peer[6] = {2, 0, 0, 0, 0, 2};

#define PORT 7001u

static struct frame segment(const struct np_addr *from, const struct np_addr *to, uint16_t sport, uint8_t flags) {
  struct frame f;
  bool v4 = np_addr_is_v4(to);
  frame_eth(&f, mac_us, mac_peer, 0, v4 ? 0x0800 : 0x86dd);
  frame_ip(&f, from, to, 6, 64);
  frame_tcp(&f, sport, PORT, flags, "", 0);
  frame_finish(&f, 6);
  return f;
}

static struct rig *listening(void) {
  struct rig *r = calloc(1, sizeof *r);
  assert_non_null(r);
  struct np_plane_config c = rig_config();
  rig_init(r, &c, 0);
  rig_interface(r, &r->port.q, mac_us, 1);
  struct np_cmd_listen args = {.port = PORT, .session_kind = NP_SESSION_ECHO, .cookies = 1};
  rig_ok(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  r->now_ns += 3000000000u; /* duplicate address detection is over */
  rig_turn(r, 1000);
  rig_turn(r, 1000);
  r->port.out_count = 0;
  return r;
}

static void ended(struct rig *r) {
  rig_ledger(r);
  rig_free(r);
  free(r);
}

static uint32_t tcp_sent(const struct rig *r) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->port.out_count; i++) {
    const uint8_t *b = r->port.out[i].b;
    uint16_t type = np_load_be16(b + 12);
    n += (type == 0x0800 && b[14 + 9] == 6) || (type == 0x86dd && b[14 + 6] == 6) ? 1u : 0u;
  }
  return n;
}

/* From ourselves, from groups, from everybody, from nobody, from a host's inside. */
static void test_sources(void **state) {
  (void)state;
  struct np_addr us4 = rig_v4(1);
  struct np_addr us6 = frame_v6(1);
  static const uint8_t v4[][4] = {{198, 18, 0, 1}, {224, 0, 0, 1}, {239, 1, 2, 3}, {255, 255, 255, 255}, {198, 18, 0, 255},
                                  {0, 0, 0, 0},    {0, 1, 2, 3},   {127, 0, 0, 1}, {240, 0, 0, 1}};
  static const uint8_t v6[][16] = {{0x20, 0x01, 0x0d, 0xb8, [15] = 1}, {0xff, 0x02, [15] = 1}, {0xff, 0x0e, [15] = 9}, {0},
                                   {[15] = 1}, {[10] = 0xff, 0xff, 198, 18, 0, 9}};
  struct rig *r = listening();
  uint32_t sent = 0;
  for (uint32_t i = 0; i < NP_COUNT_OF(v4) + NP_COUNT_OF(v6); i++) {
    bool is4 = i < NP_COUNT_OF(v4);
    struct np_addr from = is4 ? np_addr_from_v4_be(v4[i]) : frame_v6(9);
    for (uint32_t same = 0; same < 2; same++, sent++) { /* "land" has the same port at both ends */
      struct frame f = segment(&from, is4 ? &us4 : &us6, same != 0 ? PORT : 5000, 0x02);
      if (!is4) memcpy(f.b + 14 + 8, v6[i - NP_COUNT_OF(v4)], 16);
      if (!is4) frame_finish(&f, 6);
      rig_in(r, &f);
    }
    rig_turn(r, 1000);
    if (rig_drop(r, NP_DROP_IP_SRC) != sent) fail_msg("source %u: %u of %u dropped", i, (unsigned)rig_drop(r, NP_DROP_IP_SRC), sent);
    assert_int_equal(np_tcp_conn_count(np_core_tcp(r->core)), 0);
  }
  assert_int_equal(tcp_sent(r), 0);
  ended(r);
}

/* No SYN is a SYN with FIN or RST, with or without others; without SYN, ACK and RST there is nothing to answer. */
static void test_flags(void **state) {
  (void)state;
  struct np_addr us = rig_v4(1);
  struct np_addr peer = rig_v4(2);
  struct rig *r = listening();
  uint32_t odd = 0;
  for (uint32_t flags = 0; flags < 256; flags++) {
    bool syn = (flags & 0x02) != 0;
    bool ack = (flags & 0x10) != 0;
    bool rst = (flags & 0x04) != 0;
    bool fin = (flags & 0x01) != 0;
    if ((syn && !fin && !rst) || (ack && !syn && !rst)) continue; /* those mean something */
    struct frame f = segment(&peer, &us, (uint16_t)(5000 + flags), (uint8_t)flags);
    rig_in(r, &f);
    odd++;
    rig_turn(r, 1000);
  }
  assert_int_equal(rig_drop(r, NP_DROP_TCP_FLAGS) + rig_drop(r, NP_DROP_TCP_NO_CONN), odd);
  assert_int_equal(tcp_sent(r), 0);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(r->core)), 0);
  struct frame f = segment(&peer, &us, 4000, 0x02);
  rig_in(r, &f);
  rig_turn(r, 1000);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(r->core)), 1);
  ended(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sources), cmocka_unit_test(test_flags)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
