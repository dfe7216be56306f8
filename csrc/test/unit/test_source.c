/* Source address selection (RFC 6724 §5), hosts of short prefixes (RFC 3021), limits of an interface. */
#include "test/unit/ip_rig.h"

static struct np_addr v6(uint16_t a, uint16_t b, uint16_t c, uint16_t last) {
  struct np_addr x = {{0}};
  np_store_be16(x.b, a);
  np_store_be16(x.b + 2, b);
  np_store_be16(x.b + 4, c);
  np_store_be16(x.b + 14, last);
  return x;
}

static void expect(struct rig *r, const struct np_addr *dst, const struct np_addr *want) {
  struct np_addr out;
  enum np_err err = np_ip_source(r->ip, dst, &out);
  if (want == NULL) {
    assert_int_equal(err, NP_ERR_NOROUTE);
    return;
  }
  assert_int_equal(err, NP_ERR_OK);
  assert_memory_equal(out.b, want->b, 16);
}

static void test_rules(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 81};
  struct rig *r = rig_usual(&config); /* 2001:db8::1/64 */
  struct np_addr any = {{0}};
  struct np_addr gw = frame_v6(0xfe);
  struct np_addr global = frame_v6(1);
  struct np_addr ula = v6(0xfd00, 1, 1, 1);
  struct np_addr sixto4 = v6(0x2002, 0xc612, 1, 1);
  assert_int_equal(np_ip_route_add(r->ip, &any, 0, &gw, 0), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &ula, 64, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &sixto4, 64, r->now_ns), NP_ERR_OK);
  /* Rule 6: like labels, whatever matches longer. */
  struct np_addr far = v6(0x3fff, 1, 1, 9);
  expect(r, &far, &global);
  far = v6(0xfdff, 9, 9, 9);
  expect(r, &far, &ula);
  far = v6(0x2002, 9, 9, 9);
  expect(r, &far, &sixto4);
  far = v6(0x2003, 9, 9, 9); /* shares 15 bits with 2002::/16, but is no 6to4 address */
  expect(r, &far, &global);
  /* Rule 2: a link-local destination gets a link-local source, and nothing else does. */
  struct np_addr link = v6(0xfe80, 0, 0, 0x99);
  struct np_addr own_link = {{0xfe, 0x80, [11] = 0xff, [12] = 0xfe, [15] = 1}};
  expect(r, &link, &own_link);
  /* Rule 8: the longest match, no further than the source's own prefix. */
  struct np_addr second = v6(0x2001, 0x0db8, 0x8000, 2);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &second, 48, r->now_ns), NP_ERR_OK);
  far = v6(0x2001, 0x0db8, 0x8000, 77);
  expect(r, &far, &second);
  far = v6(0x2001, 0x0db8, 0x0001, 77);
  expect(r, &far, &global);
  /* Without one of the family there is none. */
  assert_int_equal(np_ip_addr_del(r->ip, 0, &(struct np_addr){{[10] = 0xff, [11] = 0xff, 198, 18, 0, 1}}), NP_ERR_OK);
  struct np_addr v4 = frame_v4(198, 18, 0, 9);
  expect(r, &v4, NULL);
  /* Each that goes gives way to the next best. */
  assert_int_equal(np_ip_addr_del(r->ip, 0, &global), NP_ERR_OK);
  far = v6(0x3fff, 1, 1, 9);
  expect(r, &far, &second);
  rig_free(r);
}

/* Rule 5: the outgoing interface's address; another interface's only when that has none. */
static void test_interface(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 82};
  struct rig *r = rig_usual(&config);
  struct np_iface_config c = {.port = 4, .mtu_bytes = 1500, .mac = {{2, 0, 0, 0, 0, 9}}};
  assert_int_equal(np_ip_iface_add(r->ip, 1, &c), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 1, true, r->now_ns), NP_ERR_OK);
  struct np_addr net = v6(0x2001, 0x0db8, 9, 0);
  struct np_addr far = v6(0x2001, 0x0db8, 9, 5);
  struct np_addr on_link = {{0}};
  struct np_addr global = frame_v6(1);
  assert_int_equal(np_ip_route_add(r->ip, &net, 48, &on_link, 1), NP_ERR_OK);
  expect(r, &far, &global);
  struct np_addr own = v6(0xfd00, 0, 0, 1); /* another label and no match, but it is there */
  assert_int_equal(np_ip_addr_add(r->ip, 1, &own, 64, r->now_ns), NP_ERR_OK);
  expect(r, &far, &own);
  np_ip_iface_up(r->ip, 1, false, r->now_ns);
  expect(r, &far, NULL);
  rig_free(r);
}

/* /31 and /32: every address is a host's; /30: the first and the last are none. */
static void test_short_prefixes(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 83};
  struct rig *r = rig_usual(&config);
  struct np_addr a31 = frame_v4(198, 18, 9, 0);
  struct np_addr b31 = frame_v4(198, 18, 9, 1);
  struct np_addr a30 = frame_v4(198, 18, 8, 1);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a31, 31, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a30, 30, r->now_ns), NP_ERR_OK);
  expect(r, &b31, &a31);
  r->sent_count = 0;
  assert_int_equal(rig_send(r, &a31, &b31, NULL), NP_ERR_OK);
  assert_int_equal(r->sent_count, 1);
  static const bool host[4] = {false, true, true, false};
  for (uint8_t i = 0; i < 4; i++) {
    struct np_addr d = frame_v4(198, 18, 8, i);
    if (i == 1) continue; /* ourselves */
    assert_int_equal(rig_send(r, &a30, &d, NULL), host[i] ? NP_ERR_OK : NP_ERR_NOROUTE);
  }
  rig_free(r);
}

/* Sixteen addresses, of whatever origin; what goes makes room, and nothing of it stays. */
static void test_limits(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 84};
  struct rig *r = rig_usual(&config);
  for (uint32_t round = 0; round < 50; round++) {
    uint16_t n = 0;
    r->sent_count = 0;
    for (;; n++) {
      struct np_addr a = v6(0x2001, 0x0db8, (uint16_t)(100 + n), 1);
      enum np_err err = np_ip_addr_add(r->ip, 0, &a, 64, r->now_ns);
      if (err == NP_ERR_FULL) break;
      assert_int_equal(err, NP_ERR_OK);
    }
    assert_int_equal(n, NP_IFACE_ADDR_MAX - 3);
    for (uint16_t i = 0; i < n; i++) {
      struct np_addr a = v6(0x2001, 0x0db8, (uint16_t)(100 + i), 1);
      struct np_addr host = v6(0x2001, 0x0db8, (uint16_t)(100 + i), 2);
      assert_int_equal(np_ip_mtu(r->ip, &host), 1500);
      assert_int_equal(np_ip_addr_del(r->ip, 0, &a), NP_ERR_OK);
      assert_int_equal(np_ip_mtu(r->ip, &host), 0);
    }
  }
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules), cmocka_unit_test(test_interface), cmocka_unit_test(test_short_prefixes),
                                     cmocka_unit_test(test_limits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
