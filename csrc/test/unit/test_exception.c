/* The exception path: what of a device that is ours goes to the kernel, and what of the kernel's leaves. A second
 * port of the rig's stands for the TAP. */
#include "test/unit/core_rig.h"

static const uint8_t mac_us[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t mac_peer[6] = {2, 0, 0, 0, 0, 2};
static const uint8_t mac_other[6] = {2, 0, 0, 0, 0, 9};
static const uint8_t mac_all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t mac_nodes[6] = {0x33, 0x33, 0, 0, 0, 1};
static const uint8_t mac_ospf[6] = {1, 0, 0x5e, 0, 0, 5};

#define US 1
#define PEER 2
#define KERNEL 50

struct world {
  struct rig r;
  struct rig_port tap;
};

static void port_init(struct rig_port *p, const struct rig *r) {
  memset(p, 0, sizeof *p);
  p->q.ops = &rig_ops;
  p->q.mtu_bytes = 1500;
  memcpy(p->q.mac.b, mac_us, 6);
  p->pool = r->port.pool;
  p->tx_room = UINT32_MAX;
  p->in = calloc(RIG_FRAMES, sizeof *p->in);
  p->out = calloc(RIG_FRAMES, sizeof *p->out);
}

static void port_free(struct rig_port *p) {
  free(p->in);
  free(p->out);
}

static void world_init(struct world *w, const struct np_exception_config *x) {
  struct np_plane_config c = rig_config();
  if (x != NULL) c.exception = *x;
  rig_init(&w->r, &c, 0);
  rig_interface(&w->r, &w->r.port.q, mac_us, US);
  port_init(&w->tap, &w->r);
  struct np_cmd cmd = {.op = NP_CMD_PORT_ATTACH, .cmd_flags = NP_CMD_F_KERNEL, .handle = (uint64_t)(uintptr_t)&w->tap.q};
  rig_ok(&w->r, cmd, NULL, 0);
  assert_int_equal(rig_command(&w->r, cmd, NULL, 0).err, NP_ERR_EXISTS);
  struct np_cmd_listen listen = {.port = 7001, .session_kind = NP_SESSION_ECHO};
  uint64_t handle;
  assert_int_equal(np_core_listen(w->r.core, &listen, &handle), NP_ERR_OK);
  rig_turn(&w->r, 1000);
  w->r.port.out_count = 0;
}

static void world_free(struct world *w) {
  struct np_event ev;
  rig_ledger(&w->r);
  while (rig_event(&w->r, &ev)) continue; /* conflicts, for one */
  rig_ok(&w->r, (struct np_cmd){.op = NP_CMD_PORT_DETACH}, NULL, 0);
  assert_int_equal(w->r.core->queue_count, 0);
  assert_int_equal(w->r.core->exc.count, 0);
  rig_free(&w->r);
  port_free(&w->tap);
}

static struct frame udp4(const struct np_addr *dst, const uint8_t mac[6], uint16_t sport, uint16_t dport) {
  struct frame f;
  struct np_addr src = rig_v4(PEER);
  frame_eth(&f, mac, mac_peer, 0, 0x0800);
  frame_ip(&f, &src, dst, 17, 64);
  frame_udp(&f, sport, dport, "for whom", 8);
  frame_finish(&f, 17);
  return f;
}

static struct frame tcp4(const struct np_addr *dst, uint16_t sport, uint16_t dport) {
  struct frame f;
  struct np_addr src = rig_v4(PEER);
  frame_eth(&f, mac_us, mac_peer, 0, 0x0800);
  frame_ip(&f, &src, dst, 6, 64);
  frame_tcp(&f, sport, dport, 2, "", 0);
  frame_finish(&f, 6);
  return f;
}

static struct frame raw4(const struct np_addr *dst, const uint8_t mac[6], uint8_t proto) {
  struct frame f;
  struct np_addr src = rig_v4(PEER);
  frame_eth(&f, mac, mac_peer, 0, 0x0800);
  frame_ip(&f, &src, dst, proto, 1);
  frame_add(&f, "sixteen bytes of", 16);
  frame_finish(&f, 0);
  return f;
}

static struct frame arp(uint16_t op, const uint8_t to[6], uint8_t sender, uint8_t target) {
  struct frame f;
  struct np_addr s = rig_v4(sender);
  struct np_addr t = rig_v4(target);
  frame_arp(&f, op, to, mac_peer, &s, &t);
  return f;
}

static struct frame icmp6(const struct np_addr *dst, const uint8_t mac[6], uint8_t type, const struct np_addr *target, uint8_t hops) {
  struct frame f;
  struct np_addr src = frame_v6(PEER);
  uint8_t h[8] = {type};
  if (type == 136) h[4] = 0x20;
  frame_eth(&f, mac, mac_peer, 0, 0x86dd);
  frame_ip(&f, &src, dst, 58, hops);
  frame_add(&f, h, 8);
  if (target != NULL) frame_add(&f, target->b, 16);
  if (target != NULL) { /* source or target link-layer address */
    const uint8_t lla[8] = {type == 136 ? 2 : 1, 1, 2, 0, 0, 0, 0, 2};
    frame_add(&f, lla, 8);
  }
  frame_finish(&f, 58);
  return f;
}

/* Receives one frame. Return: whether the kernel got it, exactly as it came. */
static bool passed(struct world *w, const struct frame *f) {
  uint64_t before = rig_counter(&w->r, NP_C_PASSED_PKTS);
  w->tap.out_count = 0;
  rig_in(&w->r, f);
  rig_turn(&w->r, 1000);
  rig_ledger(&w->r);
  uint64_t n = rig_counter(&w->r, NP_C_PASSED_PKTS) - before;
  assert_int_equal(n, w->tap.out_count);
  if (n == 0) return false;
  assert_int_equal(n, 1);
  assert_int_equal(w->tap.out[0].len, f->len);
  assert_memory_equal(w->tap.out[0].b, f->b, f->len);
  return true;
}

#define PASSED(w, ...)            \
  do {                            \
    struct frame f_ = __VA_ARGS__; \
    assert_true(passed(w, &f_));  \
  } while (0)
#define KEPT(w, ...)               \
  do {                             \
    struct frame f_ = __VA_ARGS__; \
    assert_false(passed(w, &f_));  \
  } while (0)

static void test_addresses(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  struct np_addr us = rig_v4(US);
  struct np_addr kernel = rig_v4(KERNEL);
  PASSED(&w, udp4(&kernel, mac_us, 5000, 7));
  PASSED(&w, tcp4(&kernel, 5000, 22));
  PASSED(&w, raw4(&kernel, mac_us, 47));
  assert_int_equal(w.r.port.out_count, 0); /* nobody but the kernel answers */
  KEPT(&w, udp4(&us, mac_us, 5000, 7));
  assert_int_equal(w.r.port.out_count, 1);
  KEPT(&w, tcp4(&us, 5000, 22)); /* reset by the stack: no exception is configured */
  assert_int_equal(rig_counter(&w.r, NP_C_TCP_RST_TX), 1);
  KEPT(&w, tcp4(&us, 5000, 7001));
  assert_int_equal(rig_counter(&w.r, NP_C_TCP_CONNS), 1);
  KEPT(&w, udp4(&kernel, mac_other, 5000, 7));
  assert_int_equal(rig_drop(&w.r, NP_DROP_LINK_DST), 1);
  /* padding stays */
  struct frame f = tcp4(&kernel, 5000, 22);
  f.len = 60;
  assert_true(passed(&w, &f));
  /* a packet whose sums are wrong is nobody's */
  f.b[f.l4 + 16] ^= 1;
  assert_false(passed(&w, &f));
  world_free(&w);
}

/* Groups, broadcasts, other protocols than IP, and VLANs that the stack does not have. */
static void test_groups(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  struct np_addr ospf = frame_v4(224, 0, 0, 5);
  struct np_addr all = frame_v4(255, 255, 255, 255);
  struct np_addr us = rig_v4(US);
  PASSED(&w, raw4(&ospf, mac_ospf, 89));
  PASSED(&w, udp4(&all, mac_all, 67, 68));
  KEPT(&w, udp4(&us, mac_all, 5000, 7)); /* RFC 1122 §3.3.6: nobody's */
  struct frame f;
  static const uint8_t lldp[6] = {1, 0x80, 0xc2, 0, 0, 0x0e};
  frame_eth(&f, lldp, mac_peer, 0, 0x88cc);
  frame_add(&f, "0123456789012345678901234567890123456789012345", 46);
  assert_true(passed(&w, &f));
  frame_eth(&f, mac_other, mac_peer, 0, 0x88cc);
  frame_add(&f, "0123456789012345678901234567890123456789012345", 46);
  assert_false(passed(&w, &f));
  struct np_addr src = rig_v4(PEER);
  frame_eth(&f, mac_us, mac_peer, 77, 0x0800);
  frame_ip(&f, &src, &us, 17, 64);
  frame_udp(&f, 5000, 7, "x", 1);
  frame_finish(&f, 17);
  assert_true(passed(&w, &f));
  memcpy(f.b, mac_other, 6);
  assert_false(passed(&w, &f));
  f.len = 13;
  assert_false(passed(&w, &f));
  world_free(&w);
}

static bool knows_peer(struct world *w) {
  struct np_neigh_info n[16];
  uint32_t cursor = 0;
  return np_ip_neighbors(np_core_ip(w->r.core), &cursor, n, 16, w->r.now_ns) > 0;
}

static void test_arp(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  KEPT(&w, arp(1, mac_all, PEER, US));
  assert_int_equal(w.r.port.out_count, 1);
  assert_true(knows_peer(&w));
  uint64_t used = rig_counter(&w.r, NP_C_ARP_RX);
  PASSED(&w, arp(1, mac_all, PEER, KERNEL));
  PASSED(&w, arp(2, mac_us, PEER, KERNEL)); /* the answer to the kernel, of a neighbor that the stack knows too */
  assert_int_equal(rig_counter(&w.r, NP_C_ARP_RX), used);
  PASSED(&w, arp(2, mac_us, PEER, US)); /* and one to an address that both have */
  assert_int_equal(rig_counter(&w.r, NP_C_ARP_RX), used + 1);
  PASSED(&w, arp(1, mac_all, PEER, PEER)); /* announced to all */
  assert_int_equal(rig_counter(&w.r, NP_C_ARP_RX), used + 2);
  PASSED(&w, arp(1, mac_all, US, PEER)); /* somebody claims our address: both hear it */
  assert_int_equal(rig_counter(&w.r, NP_C_ADDR_CONFLICT), 1);
  KEPT(&w, arp(2, mac_other, PEER, KERNEL));
  world_free(&w);
}

static void test_nd(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  struct np_addr us = frame_v6(US);
  struct np_addr kernel = frame_v6(KERNEL);
  struct np_addr peer = frame_v6(PEER);
  struct np_addr nodes = {{0xff, 2, [15] = 1}};
  struct np_addr group = {{0xff, 2, [11] = 1, [12] = 0xff, [15] = US}};
  struct np_addr group_kernel = {{0xff, 2, [11] = 1, [12] = 0xff, [15] = KERNEL}};
  static const uint8_t mac_group[6] = {0x33, 0x33, 0xff, 0, 0, US};
  static const uint8_t mac_group_kernel[6] = {0x33, 0x33, 0xff, 0, 0, KERNEL};
  KEPT(&w, icmp6(&group, mac_group, 135, &us, 255));
  KEPT(&w, icmp6(&us, mac_us, 135, &us, 255));
  assert_true(w.r.port.out_count >= 2);
  PASSED(&w, icmp6(&group_kernel, mac_group_kernel, 135, &kernel, 255));
  PASSED(&w, icmp6(&kernel, mac_us, 135, &kernel, 255));
  uint64_t used = rig_counter(&w.r, NP_C_ND_RX);
  PASSED(&w, icmp6(&kernel, mac_us, 136, &peer, 255)); /* to the kernel; the stack learns from it */
  PASSED(&w, icmp6(&nodes, mac_nodes, 136, &peer, 255));
  PASSED(&w, icmp6(&us, mac_us, 136, &peer, 255));
  assert_true(rig_counter(&w.r, NP_C_ND_RX) > used);
  PASSED(&w, icmp6(&nodes, mac_nodes, 128, NULL, 64));
  KEPT(&w, icmp6(&us, mac_us, 128, NULL, 64));
  PASSED(&w, icmp6(&kernel, mac_us, 128, NULL, 64));
  /* too short to name a target */
  PASSED(&w, icmp6(&group, mac_group, 135, NULL, 255));
  world_free(&w);
}

/* Ports and protocols that stay with the kernel on every address. */
static void test_listed(void **state) {
  (void)state;
  struct world w;
  const struct np_exception_config x = {.tcp_port = {22, 5060}, .udp_port = {161}, .proto = {89, 112}};
  world_init(&w, &x);
  struct np_addr us = rig_v4(US);
  PASSED(&w, tcp4(&us, 5000, 22));
  PASSED(&w, tcp4(&us, 22, 5000)); /* the kernel's own connection */
  PASSED(&w, tcp4(&us, 5000, 5060));
  KEPT(&w, tcp4(&us, 5060, 7001)); /* any client may happen to have that port */
  KEPT(&w, tcp4(&us, 5000, 23));
  KEPT(&w, tcp4(&us, 5000, 161));
  PASSED(&w, udp4(&us, mac_us, 5000, 161));
  KEPT(&w, udp4(&us, mac_us, 5000, 22));
  KEPT(&w, udp4(&us, mac_other, 5000, 161));
  PASSED(&w, raw4(&us, mac_us, 89));
  PASSED(&w, raw4(&us, mac_us, 112));
  KEPT(&w, raw4(&us, mac_us, 47));
  assert_int_equal(rig_drop(&w.r, NP_DROP_IP_PROTO), 1);
  /* errors about what the kernel sent from there, and about what we did */
  static const struct {
    uint8_t type, proto;
    uint16_t from, to;
    uint32_t bytes;
    bool kernels;
  } errors[] = {
      {3, 6, 22, 5000, 8, true},   {11, 6, 22, 5000, 8, true},  {12, 17, 161, 9, 8, true}, {3, 6, 5000, 22, 8, true},
      {3, 6, 5000, 5060, 8, false}, {3, 6, 7001, 5000, 8, false}, {3, 89, 0, 0, 8, true},    {3, 6, 22, 5000, 3, false},
      {0, 6, 7001, 5000, 8, true}, /* an answer to an echo */
      {8, 6, 22, 5000, 8, false},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(errors); i++) {
    struct frame f;
    struct np_addr src = rig_v4(PEER);
    uint8_t icmp[36] = {errors[i].type, [8] = 0x45, [17] = errors[i].proto};
    np_store_be16(icmp + 28, errors[i].from);
    np_store_be16(icmp + 30, errors[i].to);
    frame_eth(&f, mac_us, mac_peer, 0, 0x0800);
    frame_ip(&f, &src, &us, 1, 64);
    frame_add(&f, icmp, 28 + errors[i].bytes);
    frame_finish(&f, 1);
    if (passed(&w, &f) != errors[i].kernels) fail_msg("error %u", i);
  }
  struct frame f;
  struct np_addr src6 = frame_v6(PEER);
  struct np_addr us6 = frame_v6(US);
  uint8_t icmp6_error[52] = {2, [8] = 0x60, [14] = 6, [49] = 22};
  frame_eth(&f, mac_us, mac_peer, 0, 0x86dd);
  frame_ip(&f, &src6, &us6, 58, 64);
  frame_add(&f, icmp6_error, sizeof icmp6_error);
  frame_finish(&f, 58);
  assert_true(passed(&w, &f));
  world_free(&w);
}

/* A sum that the port vouched for is in the packet that the kernel gets. */
static void test_sums(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  struct np_addr kernel = rig_v4(KERNEL);
  struct frame want[2] = {tcp4(&kernel, 5000, 22), udp4(&kernel, mac_us, 5000, 53)};
  static const uint32_t at[2] = {16, 6};
  for (uint32_t i = 0; i < 2; i++) {
    struct frame f = want[i];
    f.b[f.l4 + at[i]] ^= 0xa5; /* unfinished */
    struct np_buf *b = np_pool_get(w.r.port.pool);
    memcpy(np_buf_append(b, f.len), f.b, f.len);
    b->flags = NP_BUF_L4_CSUM_OK;
    b->frame_off = (uint16_t)b->data_off;
    b->frame_len = (uint16_t)b->len;
    struct np_core *core = w.r.core;
    assert_int_equal(np_wire_parse(b, &core->pkt[0]), NP_WIRE_OK);
    core->counters->counter[NP_C_RX_PKTS]++;
    w.tap.out_count = 0;
    assert_true(np_exception_refused(core, &core->pkt[0], NP_DROP_IP_DST));
    assert_int_equal(w.tap.out_count, 1);
    assert_memory_equal(w.tap.out[0].b, want[i].b, want[i].len);
  }
  world_free(&w);
}

/* The rate bites, is counted, and forgives with time. */
static void test_rate(void **state) {
  (void)state;
  struct world w;
  const struct np_exception_config x = {.rate_per_s = 100};
  world_init(&w, &x);
  struct np_addr kernel = rig_v4(KERNEL);
  struct frame f = udp4(&kernel, mac_us, 5000, 7);
  uint32_t n = 0;
  for (uint32_t i = 0; i < 50; i++) n += passed(&w, &f);
  assert_in_range(n, 10, 12); /* a tenth of a second's worth at once */
  assert_int_equal(rig_drop(&w.r, NP_DROP_EXC_RATE), 50 - n);
  n = 0;
  for (uint32_t i = 0; i < 200; i++) { /* a second, twice as many as may pass */
    w.r.now_ns += 5000000;
    n += passed(&w, &f);
  }
  assert_in_range(n, 98, 102);
  world_free(&w);
}

static void test_full_and_down(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  struct np_addr kernel = rig_v4(KERNEL);
  struct frame f = udp4(&kernel, mac_us, 5000, 7);
  w.tap.tx_room = 1;
  assert_true(passed(&w, &f));
  assert_false(passed(&w, &f));
  assert_int_equal(rig_drop(&w.r, NP_DROP_EXC_FULL), 1);
  w.tap.tx_room = UINT32_MAX;
  w.tap.q.down = true;
  assert_false(passed(&w, &f));
  assert_int_equal(rig_drop(&w.r, NP_DROP_EXC_DOWN), 1);
  struct np_event ev;
  while (rig_event(&w.r, &ev)) assert_int_not_equal(ev.op, NP_EV_PORT); /* the port is not down */
  w.tap.q.down = false;
  assert_true(passed(&w, &f));
  rig_quiet(&w.r);
  world_free(&w);
}

/* What the kernel sends leaves as it is, by the port or into its counters. */
static void test_kernel_sends(void **state) {
  (void)state;
  struct world w;
  world_init(&w, NULL);
  struct np_addr kernel = rig_v4(KERNEL);
  struct frame f = udp4(&kernel, mac_peer, 5000, 7);
  for (uint32_t i = 0; i < 100; i++) w.tap.in[w.tap.in_tail++ % RIG_FRAMES] = f;
  uint64_t rx = rig_counter(&w.r, NP_C_RX_PKTS);
  for (uint32_t i = 0; i < 4; i++) rig_turn(&w.r, 50000);
  assert_int_equal(w.r.port.out_count, 100);
  for (uint32_t i = 0; i < 100; i++) assert_memory_equal(w.r.port.out[i].b, f.b, f.len);
  assert_int_equal(rig_counter(&w.r, NP_C_KERNEL_TX), 100);
  assert_int_equal(rig_counter(&w.r, NP_C_RX_PKTS), rx);
  w.r.port.tx_room = 0;
  w.tap.in[w.tap.in_tail++ % RIG_FRAMES] = f;
  rig_turn(&w.r, 50000);
  assert_int_equal(rig_drop(&w.r, NP_DROP_TX_FULL), 1);
  w.r.port.tx_room = UINT32_MAX;
  rig_quiet(&w.r);
  world_free(&w);
}

/* Two devices with a TAP each: one that is silent does not hold the other's packets back. */
static void test_two_taps(void **state) {
  (void)state;
  struct world w;
  struct rig_port port;
  struct rig_port tap;
  world_init(&w, NULL);
  port_init(&port, &w.r);
  port_init(&tap, &w.r);
  struct np_cmd cmd = {.op = NP_CMD_PORT_ATTACH, .arg = 1, .handle = (uint64_t)(uintptr_t)&port.q};
  rig_ok(&w.r, cmd, NULL, 0);
  cmd.cmd_flags = NP_CMD_F_KERNEL;
  cmd.handle = (uint64_t)(uintptr_t)&tap.q;
  rig_ok(&w.r, cmd, NULL, 0);
  struct np_addr kernel = rig_v4(KERNEL);
  struct frame f = udp4(&kernel, mac_peer, 5000, 7);
  for (uint32_t i = 0; i < 10; i++) tap.in[tap.in_tail++] = f;
  for (uint32_t i = 0; i < 3; i++) rig_turn(&w.r, 50000);
  assert_int_equal(port.out_count, 10);
  assert_int_equal(w.r.port.out_count, 0);
  rig_ok(&w.r, (struct np_cmd){.op = NP_CMD_PORT_DETACH, .arg = 1}, NULL, 0);
  world_free(&w);
  port_free(&port);
  port_free(&tap);
}

static void test_attach(void **state) {
  (void)state;
  struct np_plane_config c = rig_config();
  struct rig r;
  rig_init(&r, &c, 0);
  struct np_cmd cmd = {.op = NP_CMD_PORT_ATTACH, .cmd_flags = NP_CMD_F_KERNEL, .handle = (uint64_t)(uintptr_t)&r.port.q};
  assert_int_equal(rig_command(&r, cmd, NULL, 0).err, NP_ERR_INVALID); /* no port yet */
  cmd.arg = 99;
  assert_int_equal(rig_command(&r, cmd, NULL, 0).err, NP_ERR_INVALID);
  rig_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_addresses), cmocka_unit_test(test_groups),        cmocka_unit_test(test_arp),
      cmocka_unit_test(test_nd),        cmocka_unit_test(test_listed),        cmocka_unit_test(test_sums),
      cmocka_unit_test(test_rate),      cmocka_unit_test(test_full_and_down), cmocka_unit_test(test_kernel_sends),
      cmocka_unit_test(test_two_taps),  cmocka_unit_test(test_attach),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
