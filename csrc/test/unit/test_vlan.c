/* Several VLAN sub-interfaces of one port: addresses in different and in the same subnet, MTU, neighbors
 * and routers of their own, what may come by which. */
#include "test/unit/ip_rig.h"

#define VLANS 3u
static const uint16_t VID[VLANS] = {0, 10, 20};

static void tag(struct frame *f, uint16_t vlan) {
  if (vlan == 0) return;
  memmove(f->b + 16, f->b + 12, f->len - 12);
  np_store_be16(f->b + 12, 0x8100);
  np_store_be16(f->b + 14, vlan);
  f->len += 4;
}

static struct np_addr own4(uint8_t i) { return frame_v4(198, 18, i, 1); }
static struct np_addr peer4(uint8_t i) { return frame_v4(198, 18, i, 2); }
/* The subnet that all three share. */
static struct np_addr shared(uint8_t i) { return frame_v4(198, 19, 0, (uint8_t)(1 + i)); }
static const struct np_addr SHARED_PEER = {{[10] = 0xff, [11] = 0xff, [12] = 198, [13] = 19, [14] = 0, [15] = 99}};

static struct rig *start(void) {
  struct np_ip_config config = {.seed = 71, .udp_echo_port = 7};
  struct rig *r = rig_new(&config);
  for (uint8_t i = 0; i < VLANS; i++) {
    struct np_iface_config c = {.port = 3, .vlan = VID[i], .mtu_bytes = 1500 - 100u * i, .accept_ra = true};
    memcpy(c.mac.b, RIG_US, 6);
    struct np_addr a = own4(i);
    struct np_addr s = shared(i);
    assert_int_equal(np_ip_iface_add(r->ip, i, &c), NP_ERR_OK);
    assert_int_equal(np_ip_addr_add(r->ip, i, &a, 24, r->now_ns), NP_ERR_OK);
    assert_int_equal(np_ip_addr_add(r->ip, i, &s, 24, r->now_ns), NP_ERR_OK);
    assert_int_equal(np_ip_iface_up(r->ip, i, true, r->now_ns), NP_ERR_OK);
  }
  r->sent_count = 0;
  return r;
}

/* The tag of a sent frame, 0 none. */
static uint16_t tag_of(const struct rig_frame *f) { return f->b[12] == 0x81 ? np_load_be16(f->b + 14) : 0; }

static void arp_answer(struct rig *r, uint16_t vlan, const struct np_addr *who, const struct np_addr *us, uint8_t last) {
  const uint8_t mac[6] = {2, 0, 0, 0, 1, last};
  struct frame f;
  frame_arp(&f, 2, RIG_US, mac, who, us);
  tag(&f, vlan);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
}

static void test_apart(void **state) {
  (void)state;
  struct rig *r = start();
  for (uint8_t i = 0; i < VLANS; i++) {
    struct np_path path = {0};
    struct np_addr a = own4(i);
    struct np_addr b = peer4(i);
    assert_int_equal(np_ip_mtu(r->ip, &b), 1500 - 100u * i);
    rig_send(r, &a, &b, &path);
    arp_answer(r, VID[i], &b, &a, i);
    r->sent_count = 0;
    rig_send(r, &a, &b, &path);
    assert_int_equal(tag_of(&r->sent[0]), VID[i]);
    assert_int_equal(r->sent[0].b[5], i);
    assert_int_equal(path.mtu_bytes, 1500 - 100u * i);
    /* Its own MTU holds for what is sent. */
    struct np_buf *buf = np_pool_get(&r->pool);
    memset(np_buf_append(buf, path.mtu_bytes - 19u), 0, path.mtu_bytes - 19u);
    assert_int_equal(np_ip_output(r->ip, buf, &a, &b, 253, 0, &path, r->now_ns), NP_ERR_LIMIT);
  }
  rig_free(r);
}

/* The same subnet on each: the source says by which, and one peer address is three neighbors. */
static void test_same_subnet(void **state) {
  (void)state;
  struct rig *r = start();
  for (uint8_t i = 0; i < VLANS; i++) {
    struct np_addr s = shared(i);
    r->sent_count = 0;
    rig_send(r, &s, &SHARED_PEER, NULL);
    assert_int_equal(r->sent_count, 1);
    assert_int_equal(tag_of(&r->sent[0]), VID[i]);
    arp_answer(r, VID[i], &SHARED_PEER, &s, i);
    assert_int_equal(r->sent[1].b[5], i);
    assert_int_equal(tag_of(&r->sent[1]), VID[i]);
  }
  assert_int_equal(r->counters.counter[NP_C_NEIGH_ENTRIES], 3);
  /* One that goes leaves the others as they are; its packets have no way. */
  assert_int_equal(np_ip_iface_del(r->ip, 1), NP_ERR_OK);
  for (uint8_t i = 0; i < VLANS; i++) {
    struct np_addr s = shared(i);
    r->sent_count = 0;
    assert_int_equal(rig_send(r, &s, &SHARED_PEER, NULL), i == 1 ? NP_ERR_ADDRNOTAVAIL : NP_ERR_OK);
    if (i != 1) assert_int_equal(tag_of(&r->sent[0]), VID[i]);
  }
  rig_free(r);
}

/* Answers to strangers go back where they came from, with that tag; unknown and reserved tags are dropped. */
static void test_input(void **state) {
  (void)state;
  struct rig *r = start();
  static const uint16_t vid[] = {0, 10, 20, 30, 4095};
  for (size_t i = 0; i < NP_COUNT_OF(vid); i++) {
    struct frame f;
    struct np_addr src = peer4((uint8_t)i);
    struct np_addr dst = own4(0); /* an address of the host's, whichever VLAN it comes by (RFC 1122 §3.3.4.2) */
    frame_eth(&f, RIG_US, RIG_PEER, vid[i], 0x0800);
    frame_ip(&f, &src, &dst, 17, 64);
    frame_udp(&f, 40000, 7, "abcd", 4);
    frame_finish(&f, 17);
    r->sent_count = 0;
    assert_int_equal(rig_rx(r, 3, &f), i < VLANS ? RIG_DONE : NP_DROP_LINK_VLAN);
    assert_int_equal(r->sent_count, i < VLANS ? 1 : 0);
    if (i < VLANS) assert_int_equal(tag_of(&r->sent[0]), vid[i]);
    /* ARP is each VLAN's own. */
    frame_arp(&f, 1, RIG_ALL, RIG_PEER, &src, &dst);
    tag(&f, vid[i]);
    assert_int_equal(rig_rx(r, 3, &f), i == 0 ? RIG_DONE : i < VLANS ? NP_DROP_ARP_NOT_FOR_US : NP_DROP_LINK_VLAN);
  }
  rig_free(r);
}

/* A router on one VLAN is no router on another. */
static void test_router_of_one(void **state) {
  (void)state;
  struct rig *r = start();
  static const uint8_t nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
  struct np_addr nodes = {{0xff, 0x02, [15] = 1}};
  struct np_addr router = {{0xfe, 0x80, [15] = 9}};
  struct np_addr far = {{0x20, 0x01, 0x0d, 0xb8, 0xff, [15] = 1}};
  uint8_t m[48] = {134, 0, 0, 0, 64, 0, 7, 8, [16] = 3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8, 7};
  struct frame f;
  frame_eth(&f, nodes_mac, RIG_PEER, 20, 0x86dd);
  frame_ip(&f, &router, &nodes, 58, 255);
  frame_add(&f, m, sizeof m);
  frame_finish(&f, 58);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  struct np_addr_info info[16];
  uint32_t cursor = 0;
  uint32_t n = np_ip_addresses(r->ip, &cursor, info, 16, r->now_ns);
  uint32_t made = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (info[i].origin != NP_ADDR_SLAAC) continue;
    assert_int_equal(info[i].iface, 2);
    made++;
  }
  assert_int_equal(made, 1);
  assert_int_equal(np_ip_mtu(r->ip, &far), 1300);
  struct np_addr src;
  assert_int_equal(np_ip_source(r->ip, &far, &src), NP_ERR_OK);
  r->sent_count = 0;
  rig_send(r, &src, &far, NULL);
  assert_int_equal(tag_of(&r->sent[0]), 20);
  assert_memory_equal(r->sent[0].b + 66, router.b, 16); /* the router is asked for */
  np_ip_iface_up(r->ip, 2, false, r->now_ns);
  assert_int_equal(np_ip_mtu(r->ip, &far), 0);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_apart), cmocka_unit_test(test_same_subnet), cmocka_unit_test(test_input),
                                     cmocka_unit_test(test_router_of_one)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
