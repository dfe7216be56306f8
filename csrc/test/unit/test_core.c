/* The whole core: rings, layers and port joined, on a clock of the test's. */
#include "io/sim/sim.h"
#include "tcp/tcp_int.h"
#include "test/unit/core_rig.h"

static const uint8_t mac_us[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t mac_peer[6] = {2, 0, 0, 0, 0, 2};
static const uint8_t mac_other[6] = {2, 0, 0, 0, 0, 9};

static int setup(void **state) {
  struct rig *r = calloc(1, sizeof *r);
  struct np_plane_config c = rig_config();
  rig_init(r, &c, 0);
  rig_interface(r, &r->port.q, mac_us, 1);
  r->port.out_count = 0; /* gratuitous ARP and NA of the addresses */
  *state = r;
  return 0;
}

static int teardown(void **state) {
  struct rig *r = *state;
  rig_ledger(r);
  rig_free(r);
  free(r);
  return 0;
}

/* ---- frames ---- */

static struct frame arp_request(uint8_t target) {
  struct frame f;
  static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(target);
  frame_arp(&f, NP_ARP_REQUEST, all, mac_peer, &from, &to);
  return f;
}

static struct frame ping(const uint8_t dst_mac[6], bool v6, uint16_t seq) {
  struct frame f;
  struct np_addr from = v6 ? frame_v6(2) : rig_v4(2);
  struct np_addr to = v6 ? frame_v6(1) : rig_v4(1);
  uint8_t icmp[16] = {v6 ? 128 : 8, 0, 0, 0, 0x12, 0x34, (uint8_t)(seq >> 8), (uint8_t)seq, 'p', 'i', 'n', 'g'};
  frame_eth(&f, dst_mac, mac_peer, 0, v6 ? 0x86dd : 0x0800);
  frame_ip(&f, &from, &to, v6 ? 58 : 1, 64);
  frame_add(&f, icmp, sizeof icmp);
  frame_finish(&f, v6 ? 58 : 1);
  return f;
}

static struct frame udp(uint16_t dport) {
  struct frame f;
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  frame_eth(&f, mac_us, mac_peer, 0, 0x0800);
  frame_ip(&f, &from, &to, 17, 64);
  frame_udp(&f, 5000, dport, "datagram", 8);
  frame_finish(&f, 17);
  return f;
}

/* The peer asks for our address: we answer and know its own. */
static void meet(struct rig *r) {
  struct frame f = arp_request(1);
  rig_in(r, &f);
  rig_turn(r, 1000);
  r->port.out_count = 0;
}

/* ---- packets in, packets out ---- */

static void test_arp_and_ping(void **state) {
  struct rig *r = *state;
  struct frame f = arp_request(1);
  rig_in(r, &f);
  rig_turn(r, 1000);
  assert_int_equal(r->port.out_count, 1);
  const struct frame *reply = &r->port.out[0];
  assert_memory_equal(reply->b, mac_peer, 6);
  assert_int_equal(np_load_be16(reply->b + 12), 0x0806);
  assert_int_equal(np_load_be16(reply->b + 20), 2); /* ARP reply */
  assert_memory_equal(reply->b + 22, mac_us, 6);
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    f = ping(mac_us, v6 != 0, 7);
    rig_in(r, &f);
  }
  r->port.out_count = 0;
  rig_turn(r, 1000);
  assert_true(r->port.out_count >= 1); /* IPv6 has to ask for the neighbor first */
  assert_int_equal(r->port.out[0].b[34], 0); /* echo reply */
  assert_memory_equal(r->port.out[0].b + 42, "ping", 4);
  assert_int_equal(rig_counter(r, NP_C_ICMP_ECHO), 2);
  assert_int_equal(rig_counter(r, NP_C_RX_PKTS), 3);
  assert_int_equal(rig_counter(r, NP_C_DELIVERED_PKTS), 3);
}

static void test_udp_echo(void **state) {
  struct rig *r = *state;
  meet(r);
  struct frame f = udp(7);
  rig_in(r, &f);
  rig_turn(r, 1000);
  assert_int_equal(r->port.out_count, 1);
  assert_memory_equal(r->port.out[0].b + 42, "datagram", 8);
  rig_quiet(r);
}

static void test_drops_are_counted(void **state) {
  struct rig *r = *state;
  meet(r);
  struct frame f = ping(mac_other, false, 1);
  rig_in(r, &f);
  f = ping(mac_us, false, 1);
  f.b[24] ^= 1; /* IP header checksum */
  rig_in(r, &f);
  f = ping(mac_us, false, 1);
  f.b[f.len - 1] ^= 1; /* ICMP checksum */
  rig_in(r, &f);
  f = udp(4242);
  rig_in(r, &f);
  f = udp(7);
  f.len = 10;
  rig_in(r, &f);
  uint64_t before = rig_counter(r, NP_C_DELIVERED_PKTS);
  rig_turn(r, 1000);
  assert_int_equal(rig_drop(r, NP_DROP_LINK_DST), 1);
  assert_int_equal(rig_drop(r, NP_DROP_IP_CHECKSUM), 1);
  assert_int_equal(rig_drop(r, NP_DROP_ICMP_CHECKSUM), 1);
  assert_int_equal(rig_drop(r, NP_DROP_UDP_PORT), 1);
  assert_int_equal(rig_drop(r, NP_DROP_LINK_SHORT), 1);
  assert_int_equal(rig_counter(r, NP_C_DELIVERED_PKTS), before);
  rig_quiet(r);
}

static void test_random_frames(void **state) {
  struct rig *r = *state;
  meet(r);
  uint32_t x = 12345;
  for (uint32_t round = 0; round < 200; round++) {
    for (uint32_t i = 0; i < 50; i++) {
      struct frame f = i % 3 == 0 ? udp(7) : ping(mac_us, i % 2 == 0, (uint16_t)i);
      for (uint32_t k = 0; k < 4; k++) {
        x = x * 1664525u + 1013904223u;
        f.b[(x >> 8) % f.len] = (uint8_t)(x >> 24);
      }
      x = x * 1664525u + 1013904223u;
      if ((x >> 28) == 0) f.len = (x >> 8) % f.len;
      rig_in(r, &f);
    }
    rig_turn(r, 1000000);
    r->port.out_count = 0;
  }
  assert_int_equal(rig_counter(r, NP_C_RX_PKTS), 200 * 50 + 1);
}

/* ---- ports ---- */

static void test_port_full(void **state) {
  struct rig *r = *state;
  meet(r);
  r->port.tx_room = 2;
  uint32_t flushes = r->port.flushes;
  for (uint16_t i = 0; i < 6; i++) {
    struct frame f = ping(mac_us, false, i);
    rig_in(r, &f);
  }
  rig_turn(r, 1000);
  assert_int_equal(r->port.out_count, 2);
  assert_int_equal(rig_drop(r, NP_DROP_TX_FULL), 4);
  assert_int_equal(rig_counter(r, NP_C_TX_RING_FULL), 4);
  assert_int_equal(r->port.flushes, flushes + 2); /* one try to make room, one at the end: not one per packet */
  rig_quiet(r);
}

static void test_port_down_and_back(void **state) {
  struct rig *r = *state;
  meet(r);
  struct np_event ev;
  r->port.q.down = true;
  rig_turn(r, 1000);
  assert_true(rig_event(r, &ev));
  assert_int_equal(ev.op, NP_EV_PORT);
  assert_int_equal(ev.arg, 0);
  assert_int_equal(ev.err, NP_ERR_PORTDOWN);
  rig_turn(r, 1000);
  assert_false(rig_event(r, &ev)); /* told once */
  struct frame f = arp_request(1);
  rig_in(r, &f);
  rig_turn(r, 1000);
  assert_int_equal(r->port.out_count, 0);
  r->port.q.down = false;
  rig_turn(r, 1000);
  assert_true(rig_event(r, &ev));
  assert_int_equal(ev.op, NP_EV_PORT);
  assert_int_equal(ev.err, NP_ERR_OK);
  r->port.out_count = 0;
  rig_in(r, &f);
  rig_turn(r, 1000);
  assert_int_equal(r->port.out_count, 1);
  rig_quiet(r);
}

static void test_detach(void **state) {
  struct rig *r = *state;
  assert_int_equal(rig_command(r, (struct np_cmd){.op = NP_CMD_PORT_DETACH, .arg = 5}, NULL, 0).err, NP_ERR_NOTFOUND);
  assert_int_equal(rig_command(r, (struct np_cmd){.op = NP_CMD_PORT_DETACH, .arg = 99}, NULL, 0).err, NP_ERR_INVALID);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_PORT_DETACH, .arg = 0}, NULL, 0);
  struct frame f = arp_request(1);
  rig_in(r, &f);
  rig_turn(r, 1000);
  assert_int_equal(rig_counter(r, NP_C_RX_PKTS), 0);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_PORT_ATTACH, .handle = (uint64_t)(uintptr_t)&r->port.q}, NULL, 0);
  assert_int_equal(
      rig_command(r, (struct np_cmd){.op = NP_CMD_PORT_ATTACH, .handle = (uint64_t)(uintptr_t)&r->port.q}, NULL, 0).err,
      NP_ERR_EXISTS);
  assert_int_equal(rig_counter(r, NP_C_RX_PKTS), 1);
}

static void test_check_runs_by_timer(void **state) {
  struct rig *r = *state;
  uint32_t before = r->port.checks;
  for (uint32_t i = 0; i < 1000; i++) rig_turn(r, 1000000); /* one second */
  assert_in_range(r->port.checks - before, 9, 11);
  assert_true(np_core_next_ns(r->core) <= r->now_ns + NP_CORE_TICK_NS + NP_WHEEL_TICK_NS);
}

/* ---- commands and events ---- */

static void test_bad_commands(void **state) {
  struct rig *r = *state;
  const uint8_t junk[3] = {0};
  const struct {
    struct np_cmd cmd;
    enum np_err err;
  } cases[] = {
      {{.op = NP_CMD_NONE}, NP_ERR_INVALID},
      {{.op = NP_CMD_OP_COUNT}, NP_ERR_INVALID},
      {{.op = 0xffff}, NP_ERR_INVALID},
      {{.op = NP_CMD_IFACE_ADD}, NP_ERR_INVALID}, /* body too short, as all with a body */
      {{.op = NP_CMD_ADDR_ADD}, NP_ERR_INVALID},
      {{.op = NP_CMD_ROUTE_ADD}, NP_ERR_INVALID},
      {{.op = NP_CMD_LISTEN}, NP_ERR_INVALID},
      {{.op = NP_CMD_CONNECT}, NP_ERR_INVALID},
      {{.op = NP_CMD_IFACE_DEL, .arg = 77}, NP_ERR_NOTFOUND},
      {{.op = NP_CMD_PORT_ATTACH, .arg = 0}, NP_ERR_INVALID},
      {{.op = NP_CMD_UNLISTEN, .handle = 1}, NP_ERR_STALE},
      {{.op = NP_CMD_CONNS}, NP_ERR_INVALID},
      {{.op = NP_CMD_CONN_SET, .handle = 0x100000001, .arg = NP_CC_BBR}, NP_ERR_STALE},
      {{.op = NP_CMD_CONN_SET, .handle = 0x100000001, .arg = NP_CC_COUNT}, NP_ERR_INVALID},
      {{.op = NP_CMD_SEND, .handle = 0x100000001}, NP_ERR_STALE},
      {{.op = NP_CMD_ABORT, .handle = UINT64_MAX}, NP_ERR_STALE},
      {{.op = NP_CMD_CLOSE, .handle = 0}, NP_ERR_STALE},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(cases); i++) {
    struct np_event ev = rig_command(r, cases[i].cmd, junk, sizeof junk);
    if (ev.err != cases[i].err) fail_msg("case %u: %s", i, np_err_text((enum np_err)ev.err));
  }
  assert_int_equal(np_ring_avail(r->s->loan) > 0, 1);
  rig_quiet(r);
}

/* Every lent buffer comes back through the ring, however often it travels. */
static void test_loans_come_back(void **state) {
  struct rig *r = *state;
  for (uint32_t i = 0; i < 100; i++) {
    uint8_t body[64] = {0};
    rig_command(r, (struct np_cmd){.op = NP_CMD_PING, .handle = 1}, body, sizeof body);
  }
  uint32_t n = 0;
  struct np_buf *seen[16];
  while (np_ring_avail(r->s->loan) > 0) {
    assert_true(n < 16);
    struct np_loan *loan = np_ring_item(r->s->loan, 0);
    for (uint32_t i = 0; i < n; i++) assert_ptr_not_equal(seen[i], loan->buf);
    seen[n++] = loan->buf;
    np_ring_consume(r->s->loan, 1);
  }
  assert_int_equal(n, 16);
  rig_quiet(r);
  /* back as one chain in a command */
  for (uint32_t i = 0; i + 1 < n; i++) seen[i]->next = seen[i + 1];
  struct np_cmd cmd = {.op = NP_CMD_PING, .handle = 1, .body = seen[0]};
  rig_command(r, cmd, NULL, 0);
  uint32_t back = 0;
  for (; np_ring_avail(r->s->loan) > 0; back++) np_ring_consume(r->s->loan, 1);
  assert_int_equal(back, 16);
  for (uint32_t i = 0; i < n; i++) np_buf_put(seen[i]); /* this test kept them all */
}

static void test_full_event_ring_stops_commands(void **state) {
  struct rig *r = *state;
  uint32_t sent = 0;
  for (uint32_t turn = 0; turn < 6; turn++) {
    for (uint32_t i = 0; i < 16 && np_ring_room(r->s->cmd, 1) > 0; i++, sent++) {
      struct np_cmd cmd = {.op = NP_CMD_UNLISTEN, .handle = 1};
      rig_submit(r, &cmd, NULL, 0);
    }
    rig_turn(r, 1000);
  }
  struct np_event ev;
  uint32_t got = 0;
  for (uint32_t turn = 0; turn < 6; turn++) {
    for (; rig_event(r, &ev); got++) assert_int_equal(ev.token, r->token - sent + got + 1);
    rig_turn(r, 1000);
  }
  assert_true(sent > 64); /* more than the event ring holds */
  assert_int_equal(got, sent);
}

static void test_listen_and_drain(void **state) {
  struct rig *r = *state;
  struct np_cmd_listen args = {.port = 7001, .session_kind = NP_SESSION_ECHO};
  struct np_event ev = rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  assert_int_equal(ev.err, NP_ERR_OK);
  assert_int_not_equal(ev.handle, 0);
  struct np_event again = rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  assert_int_equal(again.err, NP_ERR_ADDRINUSE);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_UNLISTEN, .handle = ev.handle}, NULL, 0);
  again = rig_command(r, (struct np_cmd){.op = NP_CMD_UNLISTEN, .handle = ev.handle}, NULL, 0);
  assert_int_equal(again.err, NP_ERR_STALE);
  again = rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  assert_int_equal(again.err, NP_ERR_OK);
  assert_int_not_equal(again.handle, ev.handle);
  args.session_kind = 9;
  args.port = 7002;
  assert_int_equal(rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args).err, NP_ERR_INVALID);
  args.session_kind = NP_SESSION_ECHO;
  args.congestion_control = NP_CC_COUNT + 1;
  assert_int_equal(rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args).err, NP_ERR_INVALID);
  args.congestion_control = NP_CC_COUNT;
  assert_int_equal(rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args).err, NP_ERR_OK);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_DRAIN}, NULL, 0);
  args.session_kind = NP_SESSION_ECHO;
  assert_int_equal(rig_command(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args).err, NP_ERR_SHUTDOWN);
}

static void test_neighbors_snapshot(void **state) {
  struct rig *r = *state;
  meet(r);
  struct np_neigh_info info[8];
  struct np_event ev = rig_command(
      r, (struct np_cmd){.op = NP_CMD_NEIGHBORS, .handle = (uint64_t)(uintptr_t)info, .arg = 8}, NULL, 0);
  assert_int_equal(ev.err, NP_ERR_OK);
  assert_int_equal(ev.arg, 1);
  assert_int_equal(ev.stream, 0); /* no more */
  assert_memory_equal(info[0].mac, mac_peer, 6);
}

/* ---- several cores ---- */

static struct frame arp_reply(void) {
  struct frame f = arp_request(1);
  memcpy(f.b, mac_us, 6);
  f.b[21] = 2; /* operation: reply */
  memcpy(f.b + 32, mac_us, 6);
  return f;
}

/* A SYN to a closed port: the RST needs the neighbor's address. */
static struct frame syn(bool v6) {
  struct frame f;
  struct np_addr from = v6 ? frame_v6(2) : rig_v4(2);
  struct np_addr to = v6 ? frame_v6(1) : rig_v4(1);
  frame_eth(&f, mac_us, mac_peer, 0, v6 ? 0x86dd : 0x0800);
  frame_ip(&f, &from, &to, 6, 64);
  frame_tcp(&f, 5000, 81, 2, "", 0);
  frame_finish(&f, 6);
  return f;
}

static struct frame nd_advert(void) {
  struct frame f;
  struct np_addr from = frame_v6(2);
  struct np_addr to = frame_v6(1);
  uint8_t na[32] = {136, 0, 0, 0, 0x60}; /* solicited, override */
  memcpy(na + 8, from.b, 16);
  na[24] = 2; /* target link-layer address */
  na[25] = 1;
  memcpy(na + 26, mac_peer, 6);
  frame_eth(&f, mac_us, mac_peer, 0, 0x86dd);
  frame_ip(&f, &from, &to, 58, 255);
  frame_add(&f, na, sizeof na);
  frame_finish(&f, 58);
  return f;
}

/* Core 1 asks for the neighbor; the answer reaches core 0. */
static void test_neighbor_answer_reaches_other_core(void **state) {
  (void)state;
  struct rig r[2];
  struct np_plane_config c = rig_config();
  c.cores = 2;
  for (uint32_t i = 0; i < 2; i++) rig_init(&r[i], &c, i);
  struct np_core *cores[2] = {r[0].core, r[1].core};
  np_mail_join(cores, 2);
  for (uint32_t i = 0; i < 2; i++) rig_interface(&r[i], &r[i].port.q, mac_us, 1);
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    struct frame ask = syn(v6 != 0);
    rig_in(&r[1], &ask);
    rig_turn(&r[1], 1000);
    r[1].port.out_count = 0; /* its question */
    struct frame answer = v6 != 0 ? nd_advert() : arp_reply();
    rig_in(&r[0], &answer);
    rig_turn(&r[0], 1000);
    assert_true(np_core_must_run(r[1].core));
    rig_turn(&r[1], 1000);
    assert_int_equal(r[1].port.out_count, 1); /* what waited for the address */
    assert_memory_equal(r[1].port.out[0].b, mac_peer, 6);
    rig_turn(&r[1], 1000);
    assert_false(np_core_must_run(r[1].core));
  }
  assert_int_equal(rig_counter(&r[0], NP_C_RX_PKTS), 2);
  assert_int_equal(rig_counter(&r[1], NP_C_RX_PKTS), 2);
  /* more than the ring holds: the rest is lost, nothing else happens */
  for (uint32_t i = 0; i < 100; i++) {
    struct frame answer = arp_reply();
    rig_in(&r[0], &answer);
  }
  rig_turn(&r[0], 1000);
  rig_turn(&r[0], 1000);
  rig_turn(&r[1], 1000);
  for (uint32_t i = 0; i < 2; i++) {
    rig_ledger(&r[i]);
    rig_quiet(&r[i]);
    rig_free(&r[i]);
  }
}

/* Two cores that listen, as a plane has them. */
static void two_cores(struct rig r[2]) {
  struct np_plane_config c = rig_config();
  c.cores = 2;
  for (uint32_t i = 0; i < 2; i++) rig_init(&r[i], &c, i);
  struct np_core *cores[2] = {r[0].core, r[1].core};
  np_mail_join(cores, 2);
  struct np_cmd_listen args = {.port = 7001, .session_kind = NP_SESSION_ECHO};
  for (uint32_t i = 0; i < 2; i++) {
    rig_interface(&r[i], &r[i].port.q, mac_us, 1);
    rig_ok(&r[i], (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
    meet(&r[i]);
  }
}

static void two_free(struct rig r[2]) {
  for (uint32_t i = 0; i < 2; i++) {
    rig_turn(&r[i], 1000);
    rig_ledger(&r[i]);
    rig_free(&r[i]);
  }
}

static void two_turns(struct rig r[2]) {
  for (uint32_t i = 0; i < 8; i++) rig_turn(&r[i % 2], 1000);
}

static struct frame segment(uint8_t flags, uint32_t seq, uint32_t ack, const void *data, uint32_t len) {
  struct frame f;
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  frame_eth(&f, mac_us, mac_peer, 0, 0x0800);
  frame_ip(&f, &from, &to, 6, 64);
  frame_tcp(&f, 5000, 7001, flags, data, len);
  np_store_be32(f.b + 14 + 20 + 4, seq);
  np_store_be32(f.b + 14 + 20 + 8, ack);
  frame_finish(&f, 6);
  return f;
}

/* A SYN to core 0. Return: our first sequence number. */
static uint32_t half_open(struct rig r[2]) {
  struct frame f = segment(0x02, 1000, 0, "", 0);
  rig_in(&r[0], &f);
  rig_turn(&r[0], 1000);
  assert_int_equal(r[0].port.out_count, 1);
  const uint8_t *tcp = r[0].port.out[0].b + 14 + 20;
  assert_int_equal(tcp[13] & 0x3f, 0x12);
  r[0].port.out_count = 0;
  return np_load_be32(tcp + 4);
}

/* The peer's segments come to core 1 from now on; its connection is core 0's. */
static void test_segment_for_other_core(void **state) {
  (void)state;
  struct rig r[2];
  two_cores(r);
  uint32_t iss = half_open(r);
  struct frame f = segment(0x18, 1001, iss + 1, "hello", 5);
  rig_in(&r[1], &f);
  two_turns(r);
  assert_int_equal(r[1].port.out_count, 0); /* no reset */
  assert_int_equal(rig_counter(&r[1], NP_C_HANDED_ON), 1);
  assert_int_equal(rig_counter(&r[0], NP_C_HANDED_ON), 0);
  assert_int_equal(rig_counter(&r[0], NP_C_TCP_OPEN_PASSIVE), 1);
  assert_int_equal(r[0].port.out_count, 1); /* the echo */
  assert_memory_equal(r[0].port.out[0].b + r[0].port.out[0].len - 5, "hello", 5);
  f = segment(0x14, 1006, iss + 6, "", 0); /* and a reset finds it too */
  rig_in(&r[1], &f);
  two_turns(r);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(r[0].core)), 0);
  two_free(r);
}

/* All buffers of the connection's core hold what waits for an acknowledgment: which comes by the other core. */
static void test_segment_for_core_without_buffers(void **state) {
  (void)state;
  struct rig r[2];
  two_cores(r);
  (void)half_open(r);
  struct np_pool *pool = np_core_pool(r[0].core);
  pool->reserve_count = pool->free_count;
  assert_null(np_pool_get(pool));
  struct frame f = segment(0x04, 1001, 0, "", 0);
  rig_in(&r[1], &f);
  two_turns(r);
  pool->reserve_count = 0;
  assert_int_equal(rig_counter(&r[1], NP_C_HANDED_ON), 1);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(r[0].core)), 0);
  two_free(r);
}

/* Behind the segment that brings core 0's cookie back: core 1, which knows of no cookie, answers it no more than core 0. */
static void test_behind_cookie(void **state) {
  (void)state;
  struct rig r[2];
  two_cores(r);
  for (uint32_t i = 0; i < 2; i++) {
    struct np_tcp_listen *l = &np_core_tcp(r[i].core)->listeners[0].args;
    l->backlog = 1;
    l->cookies = true;
  }
  (void)half_open(r);
  struct frame f = segment(0x02, 1000, 0, "", 0);
  np_store_be16(f.b + 14 + 20, 5001);
  frame_finish(&f, 6);
  rig_in(&r[0], &f);
  rig_turn(&r[0], 1000);
  assert_int_equal(rig_counter(&r[0], NP_C_TCP_COOKIE_TX), 1);
  uint32_t ack = np_load_be32(r[0].port.out[0].b + 14 + 20 + 4) + 1;
  r[0].port.out_count = 0;
  f = segment(0x18, 1006, ack, "world", 5);
  np_store_be16(f.b + 14 + 20, 5001);
  frame_finish(&f, 6);
  rig_in(&r[0], &f);
  two_turns(r);
  assert_int_equal(rig_counter(&r[0], NP_C_HANDED_ON), 1);
  assert_int_equal(r[0].port.out_count + r[1].port.out_count, 0);
  f = segment(0x18, 1001, ack, "hello", 5);
  np_store_be16(f.b + 14 + 20, 5001);
  frame_finish(&f, 6);
  rig_in(&r[0], &f);
  two_turns(r);
  assert_int_equal(rig_counter(&r[0], NP_C_TCP_COOKIE_OK), 1);
  two_free(r);
}

/* Nobody's: it goes round, and the core it came to resets it, once. */
static void test_segment_for_no_core(void **state) {
  (void)state;
  struct rig r[2];
  two_cores(r);
  struct frame f = segment(0x10, 1, 77, "x", 1);
  rig_in(&r[1], &f);
  two_turns(r);
  assert_int_equal(r[0].port.out_count, 0);
  assert_int_equal(r[1].port.out_count, 1);
  assert_int_equal(r[1].port.out[0].b[14 + 20 + 13], 0x04);
  assert_int_equal(np_load_be32(r[1].port.out[0].b + 14 + 20 + 4), 77);
  f = segment(0x04, 1, 0, "", 0); /* a reset is never answered */
  rig_in(&r[1], &f);
  two_turns(r);
  assert_int_equal(r[1].port.out_count, 1);
  for (uint32_t i = 0; i < 200; i++) { /* more than the ring holds: those are not answered */
    f = segment(0x10, i, 77, "x", 1);
    rig_in(&r[1], &f);
  }
  for (uint32_t i = 0; i < 4; i++) rig_turn(&r[1], 1000); /* core 0 is busy elsewhere */
  two_turns(r);
  assert_int_equal(rig_counter(&r[1], NP_C_TCP_RST_TX), 1 + 64);
  assert_false(np_core_must_run(r[0].core));
  two_free(r);
}

/* Port unreachable about core 0's SYN-ACK, received by core 1. */
static void test_icmp_error_for_other_core(void **state) {
  (void)state;
  struct rig r[2];
  two_cores(r);
  uint32_t iss = half_open(r);
  struct frame f;
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  uint8_t m[8 + 28] = {3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6};
  memcpy(m + 8 + 12, to.b + 12, 4);
  memcpy(m + 8 + 16, from.b + 12, 4);
  np_store_be16(m + 8 + 20, 7001);
  np_store_be16(m + 8 + 22, 5000);
  np_store_be32(m + 8 + 24, iss);
  frame_eth(&f, mac_us, mac_peer, 0, 0x0800);
  frame_ip(&f, &from, &to, 1, 64);
  frame_add(&f, m, sizeof m);
  frame_finish(&f, 1);
  rig_in(&r[1], &f);
  two_turns(r);
  assert_int_equal(rig_counter(&r[1], NP_C_HANDED_ON), 1);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(r[0].core)), 0);
  two_free(r);
}

/* ---- captures ---- */

static uint32_t captured(struct np_capture *c, struct np_capture_rec *out, uint32_t max) {
  static uint8_t mem[1 << 16];
  uint32_t bytes = np_capture_read(c, mem, sizeof mem);
  uint32_t n = 0;
  for (uint32_t at = 0; at < bytes && n < max; n++) {
    memcpy(&out[n], mem + at, sizeof out[n]);
    at += out[n].bytes;
  }
  return n;
}

static void test_capture(void **state) {
  struct rig *r = *state;
  meet(r);
  struct np_capture_args args = {.filter = "icmp or udp", .ring_bytes = 65536, .dirs = 7, .iface = -1};
  struct np_capture *c = NULL;
  struct np_err_detail detail;
  assert_int_equal(np_capture_open(&args, &c, &detail), NP_ERR_OK);
  struct np_cmd on = {.op = NP_CMD_CAPTURE, .handle = (uint64_t)(uintptr_t)c};
  rig_ok(r, on, NULL, 0);
  assert_int_equal(rig_command(r, on, NULL, 0).err, NP_ERR_BUSY);
  struct frame f = arp_request(1);
  rig_in(r, &f); /* not wanted by the filter */
  f = ping(mac_us, false, 1);
  rig_in(r, &f);
  struct frame bad = udp(4242);
  rig_in(r, &bad);
  rig_turn(r, 1000);
  struct np_capture_rec rec[8];
  uint32_t n = captured(c, rec, 8);
  uint32_t rx = 0, tx = 0, drops = 0;
  for (uint32_t i = 0; i < n; i++) {
    assert_int_equal(rec[i].at_ns, r->now_ns);
    if (rec[i].dir == NP_CAPTURE_RX) rx++;
    if (rec[i].dir == NP_CAPTURE_TX) tx++;
    if (rec[i].dir != NP_CAPTURE_DROP) continue;
    drops++;
    assert_int_equal(rec[i].drop, NP_DROP_UDP_PORT);
    assert_int_equal(rec[i].orig_bytes, bad.len); /* whole, from the Ethernet header on */
  }
  assert_int_equal(rx, 2);
  assert_in_range(tx, 1, 2); /* the echo reply; port unreachable is ICMP too */
  assert_int_equal(drops, 1);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_CAPTURE}, NULL, 0);
  rig_in(r, &bad);
  rig_turn(r, 1000);
  assert_int_equal(captured(c, rec, 8), 0);
  np_capture_close(c);
  rig_quiet(r);
}

/* ---- TCP over two cores ---- */

#define ECHO_BYTES 200000u

struct client {
  struct np_session base;
  struct np_pool *pool;
  uint32_t sent;
  uint32_t received;
  bool stay; /* does not close when all is sent */
  bool established;
  bool wrong;
  bool eof;
  bool closed;
  enum np_err err;
};

static uint8_t pattern(uint32_t i) { return (uint8_t)(i * 31u + (i >> 8)); }

static void client_send(struct client *c) {
  struct np_stream *s = c->base.stream;
  while (c->sent < ECHO_BYTES) {
    uint32_t n = np_min_u32(np_min_u32(s->seg_bytes, ECHO_BYTES - c->sent), s->ops->room(s));
    if (n == 0) return;
    struct np_buf *b = np_pool_get(c->pool);
    if (b == NULL) return;
    uint8_t *p = np_buf_append(b, n);
    for (uint32_t i = 0; i < n; i++) p[i] = pattern(c->sent + i);
    c->sent += n;
    assert_int_equal(s->ops->send(s, b, 0), NP_ERR_OK);
  }
  if (!c->stay) s->ops->shutdown(s);
}

static struct client *client_of(struct np_session *s) { return NP_CONTAINER_OF(s, struct client, base); }

static void client_data(struct np_session *s, struct np_buf *chain, uint32_t bytes) {
  struct client *c = client_of(s);
  for (const struct np_buf *b = chain; b != NULL; b = b->next) {
    for (uint32_t i = 0; i < b->len; i++) {
      if (np_buf_cdata(b)[i] != pattern(c->received++)) c->wrong = true;
    }
  }
  np_buf_put_chain(chain);
  s->stream->ops->consumed(s->stream, bytes);
}
static void client_writable(struct np_session *s) { client_send(client_of(s)); }
static void client_eof(struct np_session *s) { client_of(s)->eof = true; }
static void client_established(struct np_session *s) {
  client_of(s)->established = true;
  client_send(client_of(s));
}
static void client_closed(struct np_session *s, enum np_err err) {
  client_of(s)->closed = true;
  client_of(s)->err = err;
  s->stream = NULL;
}
static const struct np_session_ops client_ops = {.data = client_data,
                                                 .writable = client_writable,
                                                 .eof = client_eof,
                                                 .closed = client_closed,
                                                 .established = client_established};

struct pair {
  struct rig server;
  struct rig client;
  struct np_sim_link *link;
  uint64_t now_ns;
};

static void pair_turns(struct pair *p, uint32_t turns, uint64_t step_ns) {
  for (uint32_t i = 0; i < turns; i++) {
    p->now_ns += step_ns;
    np_sim_set_now(p->link, p->now_ns);
    p->server.now_ns = p->client.now_ns = p->now_ns;
    np_core_turn(p->server.core, p->now_ns);
    np_core_turn(p->client.core, p->now_ns);
  }
}

static void pair_init(struct pair *p, uint32_t loss_ppm) {
  struct np_plane_config c = rig_config();
  rig_init(&p->server, &c, 0);
  rig_init(&p->client, &c, 0);
  struct np_sim_config config = {.seed = 7};
  config.dir[0].delay_ns = config.dir[1].delay_ns = 50000;
  config.dir[0].loss_ppm = config.dir[1].loss_ppm = loss_ppm;
  p->link = np_sim_new(&config);
  assert_non_null(p->link);
  p->now_ns = p->server.now_ns;
  np_sim_set_now(p->link, p->now_ns);
  struct np_mac a, b;
  memcpy(a.b, mac_us, 6);
  memcpy(b.b, mac_peer, 6);
  rig_interface(&p->server, np_sim_end(p->link, 0, np_core_pool(p->server.core), &a, 0), mac_us, 1);
  rig_interface(&p->client, np_sim_end(p->link, 1, np_core_pool(p->client.core), &b, 0), mac_peer, 2);
  struct np_cmd_listen args = {.port = 7001, .session_kind = NP_SESSION_ECHO};
  rig_ok(&p->server, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
  p->now_ns = p->client.now_ns > p->server.now_ns ? p->client.now_ns : p->server.now_ns;
}

static void pair_free(struct pair *p) {
  rig_ledger(&p->server);
  rig_ledger(&p->client);
  rig_ok(&p->server, (struct np_cmd){.op = NP_CMD_PORT_DETACH}, NULL, 0);
  rig_ok(&p->client, (struct np_cmd){.op = NP_CMD_PORT_DETACH}, NULL, 0);
  rig_free(&p->server);
  rig_free(&p->client);
  np_sim_free(p->link);
}

static void echo_over(bool v6, uint32_t loss_ppm) {
  struct pair p;
  memset(&p, 0, sizeof p);
  pair_init(&p, loss_ppm);
  struct client c = {.base = {.ops = &client_ops}, .pool = np_core_pool(p.client.core)};
  struct np_flow flow = {.remote = v6 ? frame_v6(1) : rig_v4(1), .remote_port = 7001};
  struct np_stream *stream = NULL;
  assert_int_equal(np_tcp_connect(np_core_tcp(p.client.core), &flow, &c.base, p.now_ns, &stream), NP_ERR_OK);
  for (uint32_t i = 0; i < 400 && !(c.eof && c.sent == ECHO_BYTES); i++) pair_turns(&p, 1000, 20000);
  assert_true(c.established);
  assert_false(c.wrong);
  assert_int_equal(c.sent, ECHO_BYTES);
  assert_int_equal(c.received, ECHO_BYTES);
  assert_true(c.eof);
  pair_turns(&p, 2000, 1000000); /* TIME-WAIT ends, everything is quiet */
  assert_true(c.closed);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(p.server.core)), 0);
  assert_int_equal(np_tcp_conn_count(np_core_tcp(p.client.core)), 0);
  rig_quiet(&p.server);
  rig_quiet(&p.client);
  pair_free(&p);
}

static void test_tcp_echo(void **state) {
  (void)state;
  echo_over(false, 0);
  echo_over(true, 0);
}

static void test_tcp_echo_with_loss(void **state) {
  (void)state;
  echo_over(false, 20000);
}

static void test_connections_snapshot(void **state) {
  (void)state;
  struct pair p;
  memset(&p, 0, sizeof p);
  pair_init(&p, 0);
  struct client c[3];
  for (uint32_t i = 0; i < 3; i++) {
    c[i] = (struct client){.base = {.ops = &client_ops}, .pool = np_core_pool(p.client.core), .stay = true};
    struct np_flow flow = {.remote = rig_v4(1), .remote_port = 7001};
    struct np_stream *stream = NULL;
    assert_int_equal(np_tcp_connect(np_core_tcp(p.client.core), &flow, &c[i].base, p.now_ns, &stream), NP_ERR_OK);
  }
  pair_turns(&p, 20, 20000);
  struct np_conn_info info[2];
  uint32_t cursor = 0;
  uint32_t total = 0;
  do {
    struct np_cmd cmd = {.op = NP_CMD_CONNS, .handle = (uint64_t)(uintptr_t)info, .arg = 2, .stream = cursor};
    struct np_event ev = rig_command(&p.server, cmd, NULL, 0);
    assert_int_equal(ev.err, NP_ERR_OK);
    for (uint32_t i = 0; i < ev.arg; i++) {
      assert_int_equal(info[i].local_port, 7001);
      assert_int_equal(info[i].session_kind, NP_SESSION_ECHO);
      assert_int_not_equal(info[i].listener, 0);
    }
    total += ev.arg;
    cursor = ev.stream;
  } while (cursor != 0);
  assert_int_equal(total, 3);
  pair_free(&p);
  for (uint32_t i = 0; i < 3; i++) assert_true(c[i].closed); /* ended with their core */
}

/* Go chooses and changes congestion control by commands. */
static void test_congestion_control(void **state) {
  (void)state;
  struct pair p;
  memset(&p, 0, sizeof p);
  pair_init(&p, 0);
  struct np_cmd_connect args = {.remote_port = 7001, .session_kind = NP_SESSION_DISCARD, .congestion_control = NP_CC_BBR + 1};
  struct np_addr to = rig_v4(1);
  memcpy(args.remote, to.b, sizeof args.remote);
  struct np_event ev = rig_command(&p.client, (struct np_cmd){.op = NP_CMD_CONNECT}, &args, sizeof args);
  assert_int_equal(ev.err, NP_ERR_OK);
  uint64_t handle = ev.handle;
  pair_turns(&p, 20, 20000);
  struct np_conn_info info;
  struct np_cmd conns = {.op = NP_CMD_CONNS, .handle = (uint64_t)(uintptr_t)&info, .arg = 1};
  assert_int_equal(rig_command(&p.client, conns, NULL, 0).arg, 1);
  assert_int_equal(info.handle, handle);
  assert_int_equal(info.cc, NP_CC_BBR);
  assert_int_equal(info.bbr_phase, NP_BBR_STARTUP + 1);
  assert_true(info.pacing_bytes_per_s > 0);
  rig_ok(&p.client, (struct np_cmd){.op = NP_CMD_CONN_SET, .handle = handle, .arg = NP_CC_NEWRENO}, NULL, 0);
  assert_int_equal(rig_command(&p.client, conns, NULL, 0).arg, 1);
  assert_int_equal(info.cc, NP_CC_NEWRENO);
  assert_int_equal(info.pacing_bytes_per_s, 0);
  args.congestion_control = NP_CC_COUNT + 1;
  assert_int_equal(rig_command(&p.client, (struct np_cmd){.op = NP_CMD_CONNECT}, &args, sizeof args).err, NP_ERR_INVALID);
  pair_free(&p);
}

int main(void) {
#define WITH_CORE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      WITH_CORE(test_arp_and_ping),
      WITH_CORE(test_udp_echo),
      WITH_CORE(test_drops_are_counted),
      WITH_CORE(test_random_frames),
      WITH_CORE(test_port_full),
      WITH_CORE(test_port_down_and_back),
      WITH_CORE(test_detach),
      WITH_CORE(test_check_runs_by_timer),
      WITH_CORE(test_bad_commands),
      WITH_CORE(test_loans_come_back),
      WITH_CORE(test_full_event_ring_stops_commands),
      WITH_CORE(test_listen_and_drain),
      WITH_CORE(test_neighbors_snapshot),
      WITH_CORE(test_capture),
      cmocka_unit_test(test_neighbor_answer_reaches_other_core),
      cmocka_unit_test(test_segment_for_other_core),
      cmocka_unit_test(test_segment_for_no_core),
      cmocka_unit_test(test_segment_for_core_without_buffers),
      cmocka_unit_test(test_behind_cookie),
      cmocka_unit_test(test_icmp_error_for_other_core),
      cmocka_unit_test(test_tcp_echo),
      cmocka_unit_test(test_tcp_echo_with_loss),
      cmocka_unit_test(test_connections_snapshot),
      cmocka_unit_test(test_congestion_control),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
