/* Multicast listener reports (RFC 3810): who hears of which groups, and when. */
#include "test/unit/ip_rig.h"

static const struct np_addr QUERIER = {{0xfe, 0x80, [15] = 0x99}};
static const struct np_addr ALL_NODES = {{0xff, 0x02, [15] = 1}};
static const uint8_t ALL_NODES_MAC[6] = {0x33, 0x33, 0, 0, 0, 1};
static const struct np_addr GROUP_1 = {{0xff, 0x02, [11] = 1, [12] = 0xff, [15] = 1}}; /* of ::1, and of the link-local one */
static const struct np_addr GROUP_7 = {{0xff, 0x02, [11] = 1, [12] = 0xff, [15] = 7}};

static struct rig *start(bool mld, uint8_t dad) {
  struct np_ip_config config = {.seed = 31};
  struct rig *r = rig_new(&config);
  struct np_iface_config c = {.port = 3, .mtu_bytes = 1500, .mld = mld, .dad_transmits = dad};
  memcpy(c.mac.b, RIG_US, 6);
  struct np_addr a6 = frame_v6(1);
  assert_int_equal(np_ip_iface_add(r->ip, 0, &c), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a6, 64, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 0, true, r->now_ns), NP_ERR_OK);
  return r;
}

/* The report's record of a group, 0 none; *records: how many there are in all. */
static uint8_t record_of(const struct rig_frame *f, const struct np_addr *group, uint32_t *records) {
  static const uint8_t mac[6] = {0x33, 0x33, 0, 0, 0, 0x16};
  struct np_pkt pkt;
  *records = 0;
  if (f->b[12] != 0x86 || f->b[14 + 6] != 0 || f->b[62] != 143) return 0;
  rig_parse(f, &pkt);
  assert_memory_equal(f->b, mac, 6);
  assert_int_equal(pkt.ttl, 1);
  assert_int_equal(f->b[54 + 2], 5); /* router alert */
  assert_int_equal(pkt.flow.local.b[15], 0x16);
  *records = np_load_be16(f->b + 68);
  assert_int_equal(pkt.l4_len, 8 + 20 * *records);
  for (uint32_t i = 0; i < *records; i++) {
    if (memcmp(f->b + 70 + 20 * i + 4, group->b, 16) == 0) return f->b[70 + 20 * i];
  }
  return 0;
}

static uint32_t reports(struct rig *r, const struct np_addr *group, uint8_t type, uint32_t want_records) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->sent_count; i++) {
    uint32_t records;
    if (record_of(&r->sent[i], group, &records) != type) continue;
    assert_int_equal(records, want_records);
    n++;
  }
  return n;
}

static uint32_t query(struct rig *r, uint16_t code, uint8_t hops, uint32_t len) {
  struct frame f;
  uint8_t m[36] = {58, 0, 5, 2, 0, 0, 1, 0, 130};
  frame_eth(&f, ALL_NODES_MAC, RIG_PEER, 0, 0x86dd);
  frame_ip(&f, &QUERIER, &ALL_NODES, 0, hops);
  np_store_be16(m + 12, code);
  frame_add(&f, m, 8 + len);
  np_store_be16(f.b + 14 + 4, (uint16_t)(8 + len));
  f.l4 += 8;
  frame_l4_sum(&f, 58, true);
  return rig_rx(r, 3, &f);
}

/* A change is told twice, all groups in one report, a shared group once. */
static void test_changes(void **state) {
  (void)state;
  struct rig *r = start(true, 0);
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(reports(r, &GROUP_1, 4, 1), 2);
  assert_int_equal(r->counters.counter[NP_C_MLD_TX], 2);
  r->sent_count = 0;
  struct np_addr more = frame_v6(7);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &more, 64, r->now_ns), NP_ERR_OK);
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(reports(r, &GROUP_7, 4, 2), 2);
  r->sent_count = 0;
  assert_int_equal(np_ip_addr_del(r->ip, 0, &more), NP_ERR_OK);
  assert_int_equal(reports(r, &GROUP_7, 3, 1), 1);
  struct np_addr shared = frame_v6(1); /* the link-local address still needs its group */
  r->sent_count = 0;
  assert_int_equal(np_ip_addr_del(r->ip, 0, &shared), NP_ERR_OK);
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

/* While addresses are tentative the group is joined already, and the report has no source (RFC 3590). */
static void test_before_dad(void **state) {
  (void)state;
  struct rig *r = start(true, 3);
  rig_advance(r, 20 * RIG_MS);
  assert_int_equal(r->sent_count > 0, true);
  struct np_pkt pkt;
  rig_parse(&r->sent[0], &pkt);
  assert_true(np_addr_is_zero(&pkt.flow.remote));
  assert_int_equal(reports(r, &GROUP_1, 4, 1), 1);
  rig_free(r);
}

static void test_queries(void **state) {
  (void)state;
  struct rig *r = start(true, 0);
  rig_advance(r, 10 * RIG_S);
  r->sent_count = 0;
  assert_int_equal(query(r, 4000, 1, 28), RIG_DONE);
  assert_int_equal(r->sent_count, 0);
  rig_advance(r, 4001 * RIG_MS);
  assert_int_equal(reports(r, &GROUP_1, 2, 1), 1);
  struct np_pkt pkt;
  rig_parse(&r->sent[0], &pkt);
  assert_true(pkt.flow.remote.b[0] == 0xfe);
  /* A flood of queries that want an answer at once gets two a second. */
  rig_advance(r, 10 * RIG_S);
  r->sent_count = 0;
  for (uint32_t i = 0; i < 1000; i++) {
    assert_int_equal(query(r, 0, 1, 28), RIG_DONE);
    rig_advance(r, 10 * RIG_MS);
  }
  assert_in_range(reports(r, &GROUP_1, 2, 1), 10, 22);
  assert_int_equal(r->counters.counter[NP_C_MLD_RX], 1001);
  /* The longest answer time the code can express does not overflow. */
  rig_advance(r, 10 * RIG_S);
  r->sent_count = 0;
  assert_int_equal(query(r, 0xffff, 1, 28), RIG_DONE);
  rig_advance(r, 8388 * RIG_S);
  assert_int_equal(reports(r, &GROUP_1, 2, 1), 1);
  assert_int_equal(query(r, 0, 2, 28), NP_DROP_ND_MALFORMED);
  assert_int_equal(query(r, 0, 1, 23), NP_DROP_ND_MALFORMED);
  rig_free(r);
}

static void test_off(void **state) {
  (void)state;
  struct rig *r = start(false, 0);
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(query(r, 0, 1, 28), NP_DROP_ND_IGNORED);
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(r->counters.counter[NP_C_MLD_TX], 0);
  rig_free(r);
  /* Down and up: told again. */
  r = start(true, 0);
  rig_advance(r, 10 * RIG_S);
  np_ip_iface_up(r->ip, 0, false, r->now_ns);
  r->sent_count = 0;
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(r->sent_count, 0);
  np_ip_iface_up(r->ip, 0, true, r->now_ns);
  rig_advance(r, 10 * RIG_S);
  assert_int_equal(reports(r, &GROUP_1, 4, 1), 2);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_changes), cmocka_unit_test(test_before_dad),
                                     cmocka_unit_test(test_queries), cmocka_unit_test(test_off)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
