/* Duplicate address detection (RFC 4862 §5.4, RFC 7527), IPv4 conflict detection (RFC 5227),
 * announcements and defence. */
#include "test/unit/ip_rig.h"

static const uint8_t THIEF[6] = {0x02, 0, 0, 0, 0, 0x66};
static const struct np_addr NONE4 = {{[10] = 0xff, [11] = 0xff}};
static const struct np_addr NONE6 = {{0}};
static const struct np_addr ALL_NODES = {{0xff, 0x02, [15] = 1}};
static const uint8_t ALL_NODES_MAC[6] = {0x33, 0x33, 0, 0, 0, 1};

static uint32_t changes;

static void on_change(void *ctx, uint16_t iface) {
  (void)ctx;
  assert_int_equal(iface, 0);
  changes++;
}

/* Interface 0 with an address of each family, up at the rig's time; nothing cleared. */
static struct rig *start(uint8_t transmits, bool acd, uint64_t seed) {
  struct np_ip_config config = {.seed = seed, .nonce = 77};
  struct rig *r = rig_new(&config);
  changes = 0;
  np_ip_fini(r->ip);
  r->env.addr_changed = on_change;
  r->ip = np_ip_init(r->ip_mem, &config, &r->env, r->now_ns);
  struct np_iface_config c = {.port = 3, .mtu_bytes = 1500, .dad_transmits = transmits, .acd = acd, .announces = 2};
  memcpy(c.mac.b, RIG_US, 6);
  assert_int_equal(np_ip_iface_add(r->ip, 0, &c), NP_ERR_OK);
  struct np_addr a4 = frame_v4(198, 18, 0, 1);
  struct np_addr a6 = frame_v6(1);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a4, 24, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a6, 64, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 0, true, r->now_ns), NP_ERR_OK);
  return r;
}

static struct np_addr_info info_of(struct rig *r, const struct np_addr *addr) {
  struct np_addr_info info[3];
  uint32_t cursor = 0;
  do { /* by threes, so that the cursor is used */
    uint32_t n = np_ip_addresses(r->ip, &cursor, info, 3, r->now_ns);
    for (uint32_t i = 0; i < n; i++) {
      if (memcmp(info[i].addr, addr->b, 16) == 0) return info[i];
    }
  } while (cursor != 0);
  fail();
  return info[0];
}

static bool is_probe6(const struct rig_frame *f, const struct np_addr *addr) {
  struct np_pkt pkt;
  rig_parse(f, &pkt);
  const uint8_t *icmp = f->b + 54;
  if (pkt.l4_proto != 58 || icmp[0] != 135 || memcmp(icmp + 8, addr->b, 16) != 0) return false;
  uint8_t group[6] = {0x33, 0x33, 0xff, addr->b[13], addr->b[14], addr->b[15]};
  assert_true(np_addr_is_zero(&pkt.flow.remote));
  assert_int_equal(pkt.ttl, 255);
  assert_memory_equal(f->b, group, 6);
  assert_int_equal(icmp[24], 14); /* nonce, and no link-layer address (RFC 4861 §4.3) */
  assert_int_equal(pkt.l4_len, 32);
  return true;
}

static bool is_arp(const struct rig_frame *f, const struct np_addr *sender, const struct np_addr *target) {
  if (f->b[12] != 8 || f->b[13] != 6) return false;
  return f->b[21] == 1 && memcmp(f->b, RIG_ALL, 6) == 0 && memcmp(f->b + 28, sender->b + 12, 4) == 0 &&
         memcmp(f->b + 38, target->b + 12, 4) == 0;
}

static uint32_t count(struct rig *r, bool (*is)(const struct rig_frame *, const struct np_addr *), const struct np_addr *a) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->sent_count; i++) n += is(&r->sent[i], a);
  return n;
}
static bool is_probe4(const struct rig_frame *f, const struct np_addr *a) { return is_arp(f, &NONE4, a); }
static bool is_announce4(const struct rig_frame *f, const struct np_addr *a) { return is_arp(f, a, a); }
static bool is_announce6(const struct rig_frame *f, const struct np_addr *a) {
  return f->b[12] == 0x86 && f->b[54] == 136 && memcmp(f->b + 62, a->b, 16) == 0 && memcmp(f->b, ALL_NODES_MAC, 6) == 0;
}

/* A tentative address is neither used nor answered for; after the probes and the wait it is. */
static void test_dad_passes(void **state) {
  (void)state;
  for (uint8_t transmits = 1; transmits <= 3; transmits++) {
    struct rig *r = start(transmits, false, 20 + transmits);
    struct np_addr us = frame_v6(1);
    struct np_addr peer = frame_v6(2);
    struct np_addr group = {{0xff, 0x02, [11] = 1, [12] = 0xff, [15] = 1}};
    static const uint8_t group_mac[6] = {0x33, 0x33, 0xff, 0, 0, 1};
    struct np_addr out;
    struct frame f;
    assert_int_equal(count(r, is_probe6, &us), 0); /* a random delay first */
    assert_false(np_ip_is_local(r->ip, &us));
    assert_int_equal(info_of(r, &us).state, NP_ADDR_TENTATIVE);
    assert_int_equal(np_ip_source(r->ip, &peer, &out), NP_ERR_NOROUTE);
    assert_int_equal(rig_send(r, &us, &peer, NULL), NP_ERR_ADDRNOTAVAIL);
    assert_int_equal(r->counters.drop[NP_DROP_TX_SOURCE], 1);
    rig_nd(&f, 135, group_mac, RIG_PEER, &peer, &group, &us, 0, 1);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ND_NOT_FOR_US);
    assert_int_equal(rig_neigh(r, &peer, NULL), NP_NEIGH_FREE);
    rig_advance(r, 1002 * RIG_MS);
    assert_int_not_equal(count(r, is_probe6, &us), 0);
    frame_eth(&f, RIG_US, RIG_PEER, 0, 0x86dd);
    frame_ip(&f, &peer, &us, 6, 64);
    frame_tcp(&f, 9, 80, 2, "", 0);
    frame_finish(&f, 6);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
    rig_advance(r, (uint64_t)(transmits - 1) * RIG_S);
    assert_int_equal(count(r, is_probe6, &us), transmits);
    rig_advance(r, 1002 * RIG_MS);
    assert_int_equal(count(r, is_probe6, &us), transmits);
    assert_true(np_ip_is_local(r->ip, &us));
    assert_int_equal(info_of(r, &us).state, NP_ADDR_PREFERRED);
    assert_int_equal(count(r, is_announce6, &us), 1);
    assert_int_equal(rig_rx(r, 3, &f), RIG_TCP);
    assert_int_equal(np_ip_source(r->ip, &peer, &out), NP_ERR_OK);
    rig_advance(r, 10 * RIG_S);
    assert_int_equal(count(r, is_announce6, &us), 2);
    /* The link goes and comes: known to be ours, announced, not looked for again. */
    r->sent_count = 0;
    np_ip_iface_up(r->ip, 0, false, r->now_ns);
    assert_int_equal(r->wheel.count, 0);
    np_ip_iface_up(r->ip, 0, true, r->now_ns);
    rig_advance(r, 10 * RIG_S);
    assert_int_equal(count(r, is_probe6, &us), 0);
    assert_int_equal(count(r, is_announce6, &us), 2);
    rig_free(r);
  }
}

/* 0 transmits: used at once, as without detection. */
static void test_dad_off(void **state) {
  (void)state;
  struct rig *r = start(0, false, 30);
  struct np_addr us6 = frame_v6(1);
  struct np_addr us4 = frame_v4(198, 18, 0, 1);
  assert_true(np_ip_is_local(r->ip, &us6));
  assert_true(np_ip_is_local(r->ip, &us4));
  assert_int_equal(count(r, is_announce6, &us6), 1);
  assert_int_equal(count(r, is_announce4, &us4), 1);
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(count(r, is_probe6, &us6), 0);
  assert_int_equal(count(r, is_probe4, &us4), 0);
  assert_int_equal(count(r, is_announce6, &us6), 2);
  assert_int_equal(count(r, is_announce4, &us4), 2);
  rig_free(r);
}

static void claim6(struct frame *f, uint32_t how, const struct np_addr *us) {
  struct np_addr group = {{0xff, 0x02, [11] = 1, [12] = 0xff, [15] = 1}};
  static const uint8_t group_mac[6] = {0x33, 0x33, 0xff, 0, 0, 1};
  if (how == 0) { /* the owner answers our probe */
    rig_nd(f, 136, ALL_NODES_MAC, THIEF, us, &ALL_NODES, us, 0x20, 2);
  } else { /* somebody else looks for the same address; with a nonce of theirs in the second form */
    rig_nd(f, 135, group_mac, THIEF, &NONE6, &group, us, 0, how == 1 ? 0 : 14);
  }
}

static void test_dad_duplicate(void **state) {
  (void)state;
  for (uint32_t how = 0; how < 3; how++) {
    struct rig *r = start(1, false, 40 + how);
    struct np_addr us = frame_v6(1);
    struct np_addr peer = frame_v6(2);
    struct np_addr out;
    struct frame f;
    rig_advance(r, 1001 * RIG_MS);
    uint32_t before = changes;
    claim6(&f, how, &us);
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    assert_int_equal(changes, before + 1);
    struct np_addr_info info = info_of(r, &us);
    assert_int_equal(info.state, NP_ADDR_DUPLICATE);
    assert_int_equal(info.conflicts, 1);
    assert_int_equal(info.prefix_bits, 64);
    assert_memory_equal(info.rival, THIEF, 6);
    assert_int_equal(r->counters.counter[NP_C_ADDR_DUPLICATE], 1);
    rig_advance(r, 60 * RIG_S);
    assert_false(np_ip_is_local(r->ip, &us));
    assert_int_equal(count(r, is_announce6, &us), 0);
    assert_int_equal(np_ip_source(r->ip, &peer, &out), NP_ERR_NOROUTE);
    /* The owner can be spoken to, from an address that is ours. */
    struct np_addr more = {{0x20, 0x01, 0x0d, 0xb8, [15] = 9}};
    assert_int_equal(np_ip_addr_add(r->ip, 0, &us, 64, r->now_ns), NP_ERR_EXISTS);
    assert_int_equal(np_ip_addr_add(r->ip, 0, &more, 64, r->now_ns), NP_ERR_OK);
    rig_advance(r, 3 * RIG_S);
    assert_int_equal(rig_send(r, &more, &us, NULL), NP_ERR_OK);
    /* Down and up is another chance. */
    np_ip_iface_up(r->ip, 0, false, r->now_ns);
    np_ip_iface_up(r->ip, 0, true, r->now_ns);
    assert_int_equal(info_of(r, &us).state, NP_ADDR_TENTATIVE);
    rig_advance(r, 3 * RIG_S);
    assert_int_equal(info_of(r, &us).state, NP_ADDR_PREFERRED);
    rig_free(r);
  }
}

/* Our own probe comes back: no duplicate (RFC 7527). */
static void test_dad_loop(void **state) {
  (void)state;
  struct rig *r = start(1, false, 50);
  struct np_addr us = frame_v6(1);
  rig_advance(r, 1001 * RIG_MS);
  struct frame f = {.len = 0};
  for (uint32_t i = 0; i < r->sent_count; i++) {
    if (is_probe6(&r->sent[i], &us)) frame_add(&f, r->sent[i].b, r->sent[i].len);
  }
  assert_int_not_equal(f.len, 0);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ND_LOOPED);
  f.b[11] = 0x44; /* a bridge that rewrites the source: the nonce still says so */
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ND_LOOPED);
  rig_advance(r, 2 * RIG_S);
  assert_int_equal(info_of(r, &us).state, NP_ADDR_PREFERRED);
  assert_int_equal(info_of(r, &us).conflicts, 0);
  rig_free(r);
}

static void test_acd_passes(void **state) {
  (void)state;
  struct rig *r = start(0, true, 60);
  struct np_addr us = frame_v4(198, 18, 0, 1);
  struct np_addr peer = frame_v4(198, 18, 0, 2);
  struct frame f;
  assert_false(np_ip_is_local(r->ip, &us));
  frame_arp(&f, 1, RIG_ALL, RIG_PEER, &peer, &us);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ARP_NOT_FOR_US);
  rig_advance(r, 5 * RIG_S); /* at most 1 + 2 + 2 s of probes */
  assert_int_equal(count(r, is_probe4, &us), 3);
  rig_advance(r, 2001 * RIG_MS);
  assert_true(np_ip_is_local(r->ip, &us));
  rig_advance(r, 5 * RIG_S);
  assert_int_equal(count(r, is_probe4, &us), 3);
  assert_int_equal(count(r, is_announce4, &us), 2);
  rig_free(r);
}

/* A reply from the owner, any request of the owner's, a probe of a rival (RFC 5227 §2.1.1). */
static void test_acd_duplicate(void **state) {
  (void)state;
  struct np_addr us = frame_v4(198, 18, 0, 1);
  struct np_addr third = frame_v4(198, 18, 0, 3);
  for (uint32_t how = 0; how < 3; how++) {
    struct rig *r = start(0, true, 70 + how);
    struct frame f;
    rig_advance(r, 1500 * RIG_MS);
    if (how == 0) frame_arp(&f, 2, RIG_US, THIEF, &us, &NONE4);
    if (how == 1) frame_arp(&f, 1, RIG_ALL, THIEF, &us, &third);
    if (how == 2) frame_arp(&f, 1, RIG_ALL, THIEF, &NONE4, &us);
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    assert_int_equal(info_of(r, &us).state, NP_ADDR_DUPLICATE);
    uint32_t sent = count(r, is_probe4, &us);
    rig_advance(r, 30 * RIG_S);
    assert_int_equal(count(r, is_probe4, &us), sent);
    assert_int_equal(count(r, is_announce4, &us), 0);
    assert_false(np_ip_is_local(r->ip, &us));
    rig_free(r);
  }
  /* Our own probe come back is none. */
  struct rig *r = start(0, true, 79);
  struct frame f;
  rig_advance(r, 1500 * RIG_MS);
  frame_arp(&f, 1, RIG_ALL, RIG_US, &NONE4, &us);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ARP_NOT_FOR_US);
  assert_int_equal(info_of(r, &us).state, NP_ADDR_TENTATIVE);
  rig_free(r);
}

/* An address in use is kept and defended, with one announcement in ten seconds (RFC 5227 §2.4 (c)). */
static void test_defence(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct rig *r = start(0, false, 80);
    struct np_addr us = v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1);
    bool (*is)(const struct rig_frame *, const struct np_addr *) = v6 ? is_announce6 : is_announce4;
    rig_advance(r, 5 * RIG_S);
    r->sent_count = 0;
    struct frame f;
    if (v6) {
      claim6(&f, 0, &us);
    } else {
      frame_arp(&f, 2, RIG_ALL, THIEF, &us, &us);
    }
    for (uint32_t i = 0; i < 100; i++) { /* for 25 s */
      assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
      rig_advance(r, 250 * RIG_MS);
    }
    assert_int_equal(count(r, is, &us), 3);
    assert_int_equal(r->sent_count, 3);
    assert_int_equal(r->counters.counter[NP_C_ADDR_CONFLICT], 100);
    assert_int_equal(r->counters.counter[NP_C_ADDR_DEFENDED], 3);
    assert_int_equal(info_of(r, &us).conflicts, 100);
    assert_int_equal(info_of(r, &us).state, NP_ADDR_PREFERRED);
    assert_memory_equal(info_of(r, &us).rival, THIEF, 6);
    assert_int_equal(rig_neigh(r, &us, NULL), NP_NEIGH_FREE);
    rig_free(r);
  }
}

/* A core that another speaks for: the same states at the same time, and not a frame. */
static void test_silent(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 90, .silent = true};
  struct rig *r = rig_new(&config);
  struct np_iface_config c = {.port = 3, .mtu_bytes = 1500, .dad_transmits = 1, .acd = true, .mac = {{2, 0, 0, 0, 0, 1}}};
  struct np_addr a4 = frame_v4(198, 18, 0, 1);
  struct np_addr a6 = frame_v6(1);
  struct frame f;
  assert_int_equal(np_ip_iface_add(r->ip, 0, &c), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a4, 24, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a6, 64, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 0, true, r->now_ns), NP_ERR_OK);
  rig_advance(r, 8 * RIG_S);
  assert_true(np_ip_is_local(r->ip, &a4));
  assert_true(np_ip_is_local(r->ip, &a6));
  frame_arp(&f, 2, RIG_ALL, THIEF, &a4, &a4);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(info_of(r, &a4).conflicts, 1);
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

/* Addresses that come and go while others are being looked for. */
static void test_remove_while_tentative(void **state) {
  (void)state;
  struct rig *r = start(2, true, 91);
  struct np_addr us4 = frame_v4(198, 18, 0, 1);
  struct np_addr us6 = frame_v6(1);
  struct np_addr more = frame_v6(7);
  rig_advance(r, 700 * RIG_MS);
  assert_int_equal(np_ip_addr_del(r->ip, 0, &us4), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &more, 64, r->now_ns), NP_ERR_OK);
  rig_advance(r, 4 * RIG_S);
  assert_true(np_ip_is_local(r->ip, &us6));
  assert_true(np_ip_is_local(r->ip, &more));
  assert_int_equal(count(r, is_probe6, &more), 2);
  assert_int_equal(count(r, is_announce4, &us4), 0);
  assert_int_equal(np_ip_addr_del(r->ip, 0, &more), NP_ERR_OK);
  assert_int_equal(np_ip_iface_del(r->ip, 0), NP_ERR_OK);
  assert_int_equal(r->wheel.count, 0);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_dad_passes),    cmocka_unit_test(test_dad_off),       cmocka_unit_test(test_dad_duplicate),
      cmocka_unit_test(test_dad_loop),      cmocka_unit_test(test_acd_passes),    cmocka_unit_test(test_acd_duplicate),
      cmocka_unit_test(test_defence),       cmocka_unit_test(test_silent),        cmocka_unit_test(test_remove_while_tentative),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
