/* Extension headers: what is refused is answered as RFC 8200 §4.2 and §4.4 say, once in a while. */
#include "test/unit/ip_rig.h"

/* Builds the frame; rig_problem also asks the layer to complain, as the core does. */
static uint32_t rig_problem(struct rig *r, const struct frame *f) {
  struct np_buf *b = np_pool_get(&r->pool);
  memcpy(np_buf_append(b, f->len), f->b, f->len);
  b->iface = 3;
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  if (why == NP_WIRE_OK) { /* not what these tests send */
    if (np_ip_input(r->ip, &pkt, r->now_ns, &why) != NP_IP_DONE) np_buf_put(b);
    return RIG_DONE;
  }
  if (np_wire_has_problem(why)) np_ip_problem(r->ip, &pkt, r->now_ns);
  np_buf_put(b);
  return why;
}

static void build(struct frame *f, const struct np_addr *dst, uint8_t first, const uint8_t *ext, uint32_t len, uint8_t proto) {
  struct np_addr src = frame_v6(2);
  static const uint8_t data[8] = {128, 0, 0, 0, 1, 2, 3, 4};
  frame_eth(f, RIG_US, RIG_PEER, 0, 0x86dd);
  frame_ip(f, &src, dst, first, 64);
  frame_add(f, ext, len);
  f->l4 = f->len;
  frame_add(f, data, sizeof data);
  np_store_be16(f->b + 14 + 4, (uint16_t)(f->len - 14 - 40));
  if (proto == 58) frame_l4_sum(f, 58, true);
}

static void test_problems(void **state) {
  (void)state;
  static const struct {
    uint8_t first;
    uint8_t len;
    uint8_t ext[40];
    enum np_drop why;
    int code; /* -1: silence */
    uint32_t at;
  } row[] = {
      {60, 8, {58, 0, 0x7e, 4}, NP_DROP_IP_OPTIONS, -1, 0},             /* 01: discard in silence */
      {60, 8, {58, 0, 0xbe, 4}, NP_DROP_IP_OPTIONS, 2, 42},             /* 10 and 11: answer */
      {60, 8, {58, 0, 0xfe, 4}, NP_DROP_IP_OPTIONS, 2, 42},
      {0, 8, {58, 0, 0x1e, 0, 0xfe, 2}, NP_DROP_IP_OPTIONS, 2, 44},     /* behind one that is skipped */
      {0, 8, {58, 0, 0x7e, 0, 0xfe, 2}, NP_DROP_IP_OPTIONS, -1, 0},     /* silence was asked for first */
      {60, 16, {60, 0, 1, 4, 0, 0, 0, 0, 58, 0, 0xfe, 4}, NP_DROP_IP_OPTIONS, 2, 50},
      {43, 8, {58, 0, 0, 1}, NP_DROP_IP_ROUTING, 0, 42},                /* type 0 (RFC 5095) */
      {43, 8, {58, 0, 253, 1}, NP_DROP_IP_ROUTING, 0, 42},              /* unknown type, segments left */
      {60, 16, {0, 0, 1, 4, 0, 0, 0, 0, 58, 0, 1, 4}, NP_DROP_IP_HEADER, 1, 40}, /* hop-by-hop not first */
      {60, 8, {6, 0, 0xfe, 4}, NP_DROP_IP_OPTIONS, 2, 42},              /* whatever it carries */
      {60, 8, {58, 9, 0xfe, 4}, NP_DROP_IP_HEADER, -1, 0},              /* cut short: no telling */
      {60, 8, {44, 0, 0xfe, 4}, NP_DROP_IP_OPTIONS, -1, 0},             /* likewise, a fragment header for 8 bytes of data */
  };
  struct np_addr us = frame_v6(1);
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct np_ip_config config = {.seed = 1};
    struct rig *r = rig_usual(&config);
    struct frame f;
    build(&f, &us, row[i].first, row[i].ext, row[i].len, row[i].ext[row[i].len == 16 ? 8 : 0]);
    assert_int_equal(rig_problem(r, &f), row[i].why);
    if (row[i].code < 0) {
      if (r->sent_count != 0) print_error("row %zu\n", i);
      assert_int_equal(r->sent_count, 0);
    } else {
      struct np_pkt pkt;
      assert_int_equal(r->sent_count, 1);
      rig_parse(&r->sent[0], &pkt);
      const uint8_t *icmp = r->sent[0].b + 54;
      assert_memory_equal(r->sent[0].b, RIG_PEER, 6);
      assert_int_equal(icmp[0], 4);
      assert_int_equal(icmp[1], row[i].code);
      assert_int_equal(np_load_be32(icmp + 4), row[i].at);
      assert_memory_equal(icmp + 8, f.b + 14, f.len - 14);
      assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_TX], 1);
    }
    rig_free(r);
  }
}

/* No answer: to groups, to others, to group frames, about errors; and not for ever. */
static void test_silence(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 2, .icmp_rate_per_s = 20};
  struct rig *r = rig_usual(&config);
  static const uint8_t bad[8] = {58, 0, 0xbe, 4};
  struct np_addr us = frame_v6(1);
  struct np_addr other = frame_v6(9);
  struct np_addr group = {{0xff, 0x02, [15] = 1}};
  struct frame f;
  build(&f, &group, 60, bad, 8, 58);
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  f.b[0] = 0x33;
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  build(&f, &other, 60, bad, 8, 58);
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  build(&f, &us, 60, bad, 8, 58);
  f.b[5] = 0x77; /* another station's frame */
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  memcpy(f.b, RIG_ALL, 6);
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  build(&f, &us, 60, bad, 8, 58);
  f.b[f.l4] = 1; /* destination unreachable: no error about an error */
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  build(&f, &us, 60, bad, 8, 58);
  memset(f.b + 14 + 8, 0, 16); /* from nobody */
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  f.b[14 + 8] = 0xff; /* from a group */
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  assert_int_equal(r->sent_count, 0);
  build(&f, &us, 60, bad, 8, 58);
  for (uint32_t i = 0; i < 100; i++) assert_int_equal(rig_problem(r, &f), NP_DROP_IP_OPTIONS);
  assert_in_range(r->sent_count, 1, 4);
  assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_LIMITED], 100 - r->sent_count);
  rig_free(r);
}

/* Every length of every chain: nothing is read past its end (the sanitizers look). */
static void test_cut(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 3};
  struct rig *r = rig_usual(&config);
  static const uint8_t ext[40] = {60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 0, 1, 0, 0, 0, 0, 58, 1, 0x1e, 4, 0, 0, 0, 0, 0xfe, 6};
  struct np_addr us = frame_v6(1);
  struct frame whole;
  build(&whole, &us, 0, ext, sizeof ext, 58);
  for (uint32_t len = 14; len <= whole.len; len++) {
    for (uint32_t said = 0; said < 2; said++) {
      struct frame f = whole;
      f.len = len;
      if (said && len >= 54) np_store_be16(f.b + 18, (uint16_t)(len - 54));
      assert_true(rig_problem(r, &f) < NP_DROP_COUNT);
    }
  }
  rig_free(r);
}

/* Limits: headers, their bytes, options in one of them. Each has its reason, none an answer. */
static void test_limits(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 4};
  struct rig *r = rig_usual(&config);
  struct np_addr us = frame_v6(1);
  struct frame f;
  uint8_t ext[1024] = {0};
  for (uint32_t i = 0; i < 9; i++) {
    ext[i * 8] = i == 8 ? 58 : 60;
    ext[i * 8 + 2] = 1;
    ext[i * 8 + 3] = 4;
  }
  build(&f, &us, 60, ext, 72, 58);
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_EXT_LIMIT);
  memset(ext, 0, sizeof ext); /* two headers, together over the limit, each of one long option */
  for (uint32_t i = 0; i < 2; i++) {
    uint8_t *h = ext + i * 264;
    h[0] = i == 1 ? 58 : 60;
    h[1] = 32;
    h[2] = 0x1e;
    h[3] = 255;
    h[259] = 1;
    h[260] = 3;
  }
  build(&f, &us, 60, ext + 264, 264, 58);
  assert_int_equal(rig_problem(r, &f), RIG_DONE);
  build(&f, &us, 60, ext, 528, 58);
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_EXT_LIMIT);
  memset(ext, 0, sizeof ext); /* many small options (RFC 8504 §5.3) */
  ext[0] = 58;
  ext[1] = 4;
  for (uint32_t i = 2; i < 40; i += 2) ext[i] = 0x1e;
  build(&f, &us, 60, ext, 40, 58);
  assert_int_equal(rig_problem(r, &f), NP_DROP_IP_EXT_LIMIT);
  assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_TX], 0);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_problems), cmocka_unit_test(test_silence), cmocka_unit_test(test_cut),
                                     cmocka_unit_test(test_limits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
