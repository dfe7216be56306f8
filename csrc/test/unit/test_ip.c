/* The network layer apart from its neighbor table. */
#include "ip/internal.h"
#include "test/unit/ip_rig.h"
#include "wire/build.h"

static struct np_addr us(bool v6) { return v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1); }
static struct np_addr peer(bool v6) { return v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2); }

static void packet(struct frame *f, const uint8_t eth_dst[6], uint16_t vlan, const struct np_addr *src, const struct np_addr *dst,
                   uint8_t proto) {
  frame_eth(f, eth_dst, RIG_PEER, vlan, np_addr_is_v4(src) ? 0x0800 : 0x86dd);
  frame_ip(f, src, dst, proto, 64);
}

static void ping(struct frame *f, const uint8_t eth_dst[6], uint16_t vlan, const struct np_addr *src, const struct np_addr *dst,
                 uint32_t bytes) {
  bool v6 = !np_addr_is_v4(src);
  uint8_t m[1500] = {v6 ? 128 : 8, 0, 0, 0, 0x12, 0x34, 0, 7};
  for (uint32_t i = 8; i < 8 + bytes; i++) m[i] = (uint8_t)i;
  packet(f, eth_dst, vlan, src, dst, v6 ? 58 : 1);
  frame_add(f, m, 8 + bytes);
  frame_finish(f, v6 ? 58 : 1);
}

static void udp(struct frame *f, bool v6, uint16_t sport, uint16_t dport, uint32_t bytes) {
  struct np_addr src = peer(v6);
  struct np_addr dst = us(v6);
  uint8_t data[1500] = {'d', 'a', 't', 'a'};
  packet(f, RIG_US, 0, &src, &dst, 17);
  frame_udp(f, sport, dport, data, bytes);
  frame_finish(f, 17);
}

static void test_echo(void **state) {
  (void)state;
  static const uint32_t size[] = {0, 1, 56, 1400};
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    for (size_t i = 0; i < NP_COUNT_OF(size); i++) {
      struct np_addr src = peer(v6);
      struct np_addr dst = us(v6);
      struct frame f;
      ping(&f, RIG_US, 0, &src, &dst, size[i]);
      r->sent_count = 0;
      assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
      assert_int_equal(r->sent_count, 1);
      struct np_pkt pkt;
      const struct rig_frame *s = &r->sent[0];
      rig_parse(s, &pkt);
      assert_int_equal(s->len, f.len);
      assert_memory_equal(s->b, RIG_PEER, 6);
      assert_memory_equal(s->b + 6, RIG_US, 6);
      assert_true(np_addr_eq(&pkt.flow.local, &src));
      assert_true(np_addr_eq(&pkt.flow.remote, &dst));
      assert_int_equal(s->b[f.l4], v6 ? 129 : 0);
      assert_memory_equal(s->b + f.l4 + 4, f.b + f.l4 + 4, 4 + size[i]);
    }
  }
  assert_int_equal(r->counters.counter[NP_C_ICMP_ECHO], 8);
  rig_free(r);
}

/* To all nodes: answered from our own address. Behind extension headers: answered without them. */
static void test_echo_v6_special(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 2};
  struct rig *r = rig_usual(&config);
  struct np_addr all_nodes = {{0xff, 0x02, [15] = 1}};
  static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
  struct np_addr src = peer(true);
  struct np_addr dst = us(true);
  struct frame f;
  struct np_pkt pkt;
  ping(&f, all_nodes_mac, 0, &src, &all_nodes, 8);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  rig_parse(&r->sent[0], &pkt);
  assert_true(np_addr_eq(&pkt.flow.remote, &dst));
  static const uint8_t ext[8] = {58, 0, 1, 4};
  static const uint8_t echo[12] = {128};
  packet(&f, RIG_US, 0, &src, &dst, 60);
  frame_add(&f, ext, 8);
  f.l4 = f.len;
  frame_add(&f, echo, 12);
  frame_finish(&f, 0);
  frame_l4_sum(&f, 58, true);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  rig_parse(&r->sent[1], &pkt);
  assert_int_equal(r->sent[1].len, 14 + 40 + 12);
  struct np_addr unheard = {{0xff, 0x02, [15] = 2}}; /* all routers */
  ping(&f, all_nodes_mac, 0, &src, &unheard, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
  rig_free(r);
}

static void test_echo_rate(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 3, .icmp_echo_per_s = 20};
  struct rig *r = rig_usual(&config);
  struct np_addr src = peer(false);
  struct np_addr dst = us(false);
  struct frame f;
  ping(&f, RIG_US, 0, &src, &dst, 8);
  uint32_t done = 0;
  for (uint32_t i = 0; i < 100; i++) done += rig_rx(r, 3, &f) == RIG_DONE;
  assert_in_range(done, 2, 4); /* a tenth of a second's worth */
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ICMP_LIMITED);
  done = 0;
  for (uint32_t i = 0; i < 1000; i++) { /* ten seconds */
    rig_advance(r, 10 * RIG_MS);
    done += rig_rx(r, 3, &f) == RIG_DONE;
  }
  assert_in_range(done, 195, 205);
  rig_free(r);
}

static void test_not_for_us(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 4};
  struct rig *r = rig_usual(&config);
  static const uint8_t other[6] = {0x02, 0, 0, 0, 0, 0x77};
  struct np_addr src = peer(false);
  struct np_addr dst = us(false);
  struct np_addr broadcast = frame_v4(198, 18, 0, 255);
  struct np_addr limited = frame_v4(255, 255, 255, 255);
  struct np_addr group = frame_v4(224, 0, 0, 1);
  struct np_addr elsewhere = frame_v6(0x99);
  struct np_addr src6 = peer(true);
  struct frame f;
  ping(&f, other, 0, &src, &dst, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_LINK_DST);
  ping(&f, RIG_US, 0, &src, &dst, 8);
  assert_int_equal(rig_rx(r, 4, &f), NP_DROP_LINK_VLAN); /* a port without an interface */
  ping(&f, RIG_US, 9, &src, &dst, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_LINK_VLAN);
  ping(&f, RIG_ALL, 0, &src, &dst, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_LINK_DST);
  ping(&f, RIG_ALL, 0, &src, &broadcast, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_LINK_DST);
  ping(&f, RIG_US, 0, &src, &broadcast, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
  ping(&f, RIG_US, 0, &src, &limited, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
  ping(&f, RIG_US, 0, &src, &group, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
  ping(&f, RIG_US, 0, &src6, &elsewhere, 8);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

/* Sources that are ours, or nobody's: refused before TCP and before any answer. */
static void test_bad_sources(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 4};
  struct rig *r = rig_usual(&config);
  struct np_addr second4 = frame_v4(198, 18, 0, 7);
  struct np_addr second6 = frame_v6(7);
  struct np_iface_config other = {.port = 3, .vlan = 9, .mtu_bytes = 1500};
  memcpy(other.mac.b, RIG_US, 6);
  assert_int_equal(np_ip_iface_add(r->ip, 1, &other), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 1, &second4, 31, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &second6, 64, r->now_ns), NP_ERR_OK);
  r->sent_count = 0;
  const struct np_addr bad[] = {
      frame_v4(198, 18, 0, 1),   /* land */
      frame_v4(198, 18, 0, 7),   /* another interface's */
      frame_v4(198, 18, 0, 255), frame_v4(198, 18, 0, 0), /* broadcast, new and old */
      frame_v4(255, 255, 255, 255), frame_v4(224, 0, 0, 1), frame_v4(127, 0, 0, 1), frame_v4(0, 0, 0, 0), frame_v4(0, 1, 2, 3),
      frame_v6(1), frame_v6(7), {{0xff, 0x02, [15] = 1}}, {{[15] = 1}}, {{0}},
  };
  static const uint8_t flags[] = {0x02, 0x12, 0x04, 0x14, 0x11, 0x10, 0x18, 0x29, 0x00, 0xc2};
  struct frame f;
  for (size_t i = 0; i < NP_COUNT_OF(bad); i++) {
    bool v6 = !np_addr_is_v4(&bad[i]);
    struct np_addr dst = us(v6);
    for (size_t k = 0; k < NP_COUNT_OF(flags); k++) {
      packet(&f, RIG_US, 0, &bad[i], &dst, 6);
      frame_tcp(&f, 40000, 80, flags[k], "", 0);
      frame_finish(&f, 6);
      /* A bare ACK from an address of ours goes on: no connection can be with it. */
      bool bare = (flags[k] & 0x37) == 0x10 && (i == 1 || i == 2 || i == 3 || i == 10);
      assert_int_equal(rig_rx(r, 3, &f), bare ? RIG_TCP : NP_DROP_IP_SRC);
    }
    packet(&f, RIG_US, 0, &bad[i], &dst, 17);
    frame_udp(&f, 40000, 9, "data", 4);
    frame_finish(&f, 17);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_SRC);
    ping(&f, RIG_US, 0, &bad[i], &dst, 8);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_SRC);
  }
  assert_int_equal(r->sent_count, 0);
  /* Neighbors of them, and of a network that has no broadcast address (RFC 3021). */
  const struct np_addr good[] = {frame_v4(198, 18, 0, 254), frame_v4(198, 18, 0, 6), frame_v4(198, 18, 1, 255), frame_v6(8)};
  for (size_t i = 0; i < NP_COUNT_OF(good); i++) {
    struct np_addr dst = us(!np_addr_is_v4(&good[i]));
    packet(&f, RIG_US, 0, &good[i], &dst, 6);
    frame_tcp(&f, 40000, 80, 0x02, "", 0);
    frame_finish(&f, 6);
    assert_int_equal(rig_rx(r, 3, &f), RIG_TCP);
  }
  rig_free(r);
}

static void test_tcp_comes_back(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 5};
  struct rig *r = rig_usual(&config);
  struct frame f;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_addr src = peer(v6);
    struct np_addr dst = us(v6);
    packet(&f, RIG_US, 0, &src, &dst, 6);
    frame_tcp(&f, 40000, 80, 2, "", 0);
    frame_finish(&f, 6);
    assert_int_equal(rig_rx(r, 3, &f), RIG_TCP);
    memcpy(f.b, RIG_ALL, 6);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_LINK_DST);
  }
  rig_free(r);
}

static void test_udp_services(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 6, .udp_echo_port = 7, .udp_discard_port = 9};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    struct frame f;
    struct np_pkt pkt;
    udp(&f, v6, 40000, 7, 33);
    r->sent_count = 0;
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    assert_int_equal(r->sent_count, 1);
    rig_parse(&r->sent[0], &pkt);
    assert_int_equal(pkt.flow.local_port, 40000);
    assert_int_equal(pkt.flow.remote_port, 7);
    assert_int_equal(r->sent[0].len, f.len);
    assert_memory_equal(r->sent[0].b + f.l4 + 8, f.b + f.l4 + 8, 33);
    udp(&f, v6, 7, 7, 4); /* echo to echo would never end */
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_UDP_PORT);
    udp(&f, v6, 40000, 9, 4);
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    assert_int_equal(r->sent_count, 1);
  }
  assert_int_equal(r->counters.counter[NP_C_UDP_RX], 4);
  assert_int_equal(r->counters.counter[NP_C_UDP_TX], 2);
  rig_free(r);
}

static void test_port_unreachable(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 7};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    for (uint32_t bytes = 4; bytes < 1500; bytes += 1380) {
      struct frame f;
      struct np_pkt pkt;
      udp(&f, v6, 40000, 5000, bytes);
      r->sent_count = 0;
      assert_int_equal(rig_rx(r, 3, &f), NP_DROP_UDP_PORT);
      assert_int_equal(r->sent_count, 1);
      const struct rig_frame *s = &r->sent[0];
      rig_parse(s, &pkt);
      struct np_addr to = peer(v6);
      assert_true(np_addr_eq(&pkt.flow.local, &to));
      assert_int_equal(s->b[f.l4], v6 ? 1 : 3);
      assert_int_equal(s->b[f.l4 + 1], v6 ? 4 : 3);
      assert_true(s->len - 14 <= (v6 ? 1280 : 576));
      uint32_t quoted = s->len - f.l4 - 8;
      assert_true(quoted == f.len - 14 || s->len - 14 == (v6 ? 1280 : 576));
      assert_memory_equal(s->b + f.l4 + 8, f.b + 14, quoted);
    }
  }
  assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_TX], 4);
  rig_free(r);
}

static void test_unknown_protocol(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 8};
  struct rig *r = rig_usual(&config);
  struct frame f;
  struct np_pkt pkt;
  static const uint8_t junk[20] = {0};
  struct np_addr src = peer(false);
  struct np_addr dst = us(false);
  packet(&f, RIG_US, 0, &src, &dst, 132);
  frame_add(&f, junk, 20);
  frame_finish(&f, 0);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_PROTO);
  rig_parse(&r->sent[0], &pkt);
  assert_int_equal(r->sent[0].b[34], 3);
  assert_int_equal(r->sent[0].b[35], 2);
  src = peer(true);
  dst = us(true);
  packet(&f, RIG_US, 0, &src, &dst, 132);
  frame_add(&f, junk, 20);
  frame_finish(&f, 0);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_PROTO);
  rig_parse(&r->sent[1], &pkt);
  assert_int_equal(r->sent[1].b[54], 4);
  assert_int_equal(r->sent[1].b[55], 1);
  assert_int_equal(np_load_be32(r->sent[1].b + 58), 6); /* points at the next header field */
  static const uint8_t ext[8] = {132, 0, 1, 4};
  packet(&f, RIG_US, 0, &src, &dst, 60);
  frame_add(&f, ext, 8);
  frame_add(&f, junk, 20);
  frame_finish(&f, 0);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_PROTO);
  assert_int_equal(np_load_be32(r->sent[2].b + 58), 40);
  packet(&f, RIG_US, 0, &src, &dst, 59); /* no next header */
  frame_finish(&f, 0);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_PROTO);
  packet(&f, RIG_US, 0, &src, &dst, 1); /* ICMP of the other family */
  frame_add(&f, junk, 20);
  frame_finish(&f, 0);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_PROTO);
  assert_int_equal(r->sent_count, 4);
  rig_free(r);
}

static void test_error_rate(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 9, .icmp_rate_per_s = 10};
  struct rig *r = rig_usual(&config);
  struct frame f;
  udp(&f, false, 40000, 5000, 4);
  for (uint32_t i = 0; i < 50; i++) assert_int_equal(rig_rx(r, 3, &f), NP_DROP_UDP_PORT);
  assert_in_range(r->sent_count, 1, 3);
  assert_int_equal(r->counters.counter[NP_C_ICMP_ERR_LIMITED], 50 - r->sent_count);
  rig_advance(r, RIG_S);
  uint32_t before = r->sent_count;
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_UDP_PORT);
  assert_int_equal(r->sent_count, before + 1);
  rig_free(r);
}

/* An ICMP message of type and code about a TCP segment of ours. */
static void icmp_error(struct frame *f, bool v6, uint8_t type, uint8_t code, uint32_t rest, const struct np_addr *quoted_src) {
  struct np_addr src = peer(v6);
  struct np_addr dst = us(v6);
  struct frame q;
  packet(&q, RIG_PEER, 0, quoted_src, &src, 6);
  frame_tcp(&q, 1234, 80, 2, "", 0);
  np_store_be32(q.b + q.l4 + 4, 0xcafe0001);
  frame_finish(&q, 6);
  uint8_t h[8] = {type, code};
  np_store_be32(h + 4, rest);
  packet(f, RIG_US, 0, &src, &dst, v6 ? 58 : 1);
  frame_add(f, h, 8);
  frame_add(f, q.b + 14, q.len - 14);
  frame_finish(f, v6 ? 58 : 1);
}

static void test_errors_in(void **state) {
  (void)state;
  static const struct {
    bool v6;
    uint8_t type;
    uint8_t code;
    uint32_t why;
    enum np_err err;
    bool soft;
    uint32_t mtu;
  } row[] = {
      {false, 3, 0, RIG_DONE, NP_ERR_UNREACHABLE, true, 0},  {false, 3, 1, RIG_DONE, NP_ERR_UNREACHABLE, true, 0},
      {false, 3, 2, RIG_DONE, NP_ERR_REFUSED, false, 0},     {false, 3, 3, RIG_DONE, NP_ERR_REFUSED, false, 0},
      {false, 3, 4, RIG_DONE, NP_ERR_UNREACHABLE, true, 1300}, {false, 11, 0, RIG_DONE, NP_ERR_UNREACHABLE, true, 0},
      {false, 12, 0, RIG_DONE, NP_ERR_UNREACHABLE, true, 0}, {false, 4, 0, NP_DROP_ICMP_TYPE, NP_ERR_OK, false, 0},
      {false, 5, 0, NP_DROP_ND_IGNORED, NP_ERR_OK, false, 0}, {false, 0, 0, NP_DROP_ICMP_TYPE, NP_ERR_OK, false, 0},
      {true, 1, 0, RIG_DONE, NP_ERR_UNREACHABLE, true, 0},   {true, 1, 4, RIG_DONE, NP_ERR_REFUSED, false, 0},
      {true, 2, 0, RIG_DONE, NP_ERR_UNREACHABLE, true, 1300}, {true, 3, 0, RIG_DONE, NP_ERR_UNREACHABLE, true, 0},
      {true, 4, 1, RIG_DONE, NP_ERR_REFUSED, false, 0},      {true, 129, 0, NP_DROP_ICMP_TYPE, NP_ERR_OK, false, 0},
      {true, 134, 0, NP_DROP_ND_MALFORMED, NP_ERR_OK, false, 0}, {true, 100, 0, NP_DROP_ICMP_TYPE, NP_ERR_OK, false, 0},
  };
  struct np_ip_config config = {.seed = 10};
  struct rig *r = rig_usual(&config);
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct frame f;
    struct np_addr own = us(row[i].v6);
    struct np_addr dst = peer(row[i].v6);
    icmp_error(&f, row[i].v6, row[i].type, row[i].code, 1300, &own);
    r->error_count = 0;
    assert_int_equal(rig_rx(r, 3, &f), row[i].why);
    assert_int_equal(r->error_count, row[i].why == RIG_DONE);
    if (row[i].why != RIG_DONE) continue;
    assert_int_equal(r->error_err, row[i].err);
    assert_int_equal(r->error_soft, row[i].soft);
    assert_int_equal(r->error_mtu, row[i].mtu);
    assert_int_equal(r->error_seq, 0xcafe0001);
    assert_int_equal(r->error_flow.local_port, 1234);
    assert_int_equal(r->error_flow.remote_port, 80);
    assert_true(np_addr_eq(&r->error_flow.local, &own));
    assert_true(np_addr_eq(&r->error_flow.remote, &dst));
  }
  assert_int_equal(r->sent_count, 0); /* no error about an error */
  rig_free(r);
}

static void test_errors_unmatched(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 11};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    struct frame f;
    struct np_addr own = us(v6);
    struct np_addr other = v6 ? frame_v6(0x77) : frame_v4(198, 18, 0, 77);
    r->error_answer = false;
    icmp_error(&f, v6, v6 ? 1 : 3, 0, 0, &own);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ICMP_UNMATCHED); /* TCP knows no such flow */
    r->error_answer = true;
    icmp_error(&f, v6, v6 ? 1 : 3, 0, 0, &other);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ICMP_UNMATCHED);
    /* The quote cut at every byte: matched once eight bytes of TCP are there. */
    icmp_error(&f, v6, v6 ? 1 : 3, 0, 0, &own);
    uint32_t quote = f.l4 + 8;
    for (uint32_t len = 0; len < (v6 ? 60u : 40u); len++) {
      f.len = quote + len;
      frame_finish(&f, v6 ? 58 : 1);
      bool enough = len >= (v6 ? 48u : 28u);
      assert_int_equal(rig_rx(r, 3, &f), enough ? RIG_DONE : NP_DROP_ICMP_UNMATCHED);
    }
    /* A header length of ours that lies. */
    if (!v6) {
      icmp_error(&f, v6, 3, 0, 0, &own);
      f.b[quote] = 0x4f;
      f.len = quote + 30;
      frame_finish(&f, 1);
      assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ICMP_UNMATCHED);
    }
  }
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

static void answer_arp(struct rig *r, uint16_t port, uint16_t vlan, const struct np_addr *who, const struct np_addr *asker,
                       const uint8_t mac[6]) {
  struct frame f;
  frame_arp(&f, 2, RIG_US, mac, who, asker);
  if (vlan != 0) {
    memmove(f.b + 16, f.b + 12, f.len - 12);
    np_store_be16(f.b + 12, 0x8100);
    np_store_be16(f.b + 14, vlan);
    f.len += 4;
  }
  assert_int_equal(rig_rx(r, port, &f), RIG_DONE);
}

static void test_vlan(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 12, .udp_echo_port = 7};
  struct rig *r = rig_usual(&config);
  struct np_iface_config c = {.port = 3, .vlan = 100, .mtu_bytes = 1400};
  memcpy(c.mac.b, RIG_US, 6);
  assert_int_equal(np_ip_iface_add(r->ip, 5, &c), NP_ERR_OK);
  assert_int_equal(np_ip_iface_add(r->ip, 6, &c), NP_ERR_EXISTS);
  struct np_addr a = frame_v4(198, 18, 1, 1);
  struct np_addr b = frame_v4(198, 18, 1, 2);
  assert_int_equal(np_ip_addr_add(r->ip, 5, &a, 24, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 5, true, r->now_ns), NP_ERR_OK);
  struct np_pkt pkt;
  rig_parse(&r->sent[0], &pkt);
  assert_int_equal(pkt.vlan, 100);
  r->sent_count = 0;
  struct frame f;
  ping(&f, RIG_US, 100, &b, &a, 8);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  rig_parse(&r->sent[0], &pkt);
  assert_int_equal(pkt.vlan, 100);
  assert_int_equal(r->sent[0].port, 3);
  /* Out through the sub-interface, tag in the cached path. */
  struct np_path path = {0};
  rig_send(r, &a, &b, &path);
  answer_arp(r, 3, 100, &b, &a, RIG_PEER);
  r->sent_count = 0;
  for (uint32_t i = 0; i < 2; i++) {
    rig_send(r, &a, &b, &path);
    assert_int_equal(path.link_len, 18);
    rig_parse(&r->sent[i], &pkt);
    assert_int_equal(pkt.vlan, 100);
    assert_true(np_addr_eq(&pkt.flow.local, &b));
  }
  assert_int_equal(np_ip_mtu(r->ip, &b), 1400);
  assert_int_equal(np_ip_iface_del(r->ip, 5), NP_ERR_OK);
  assert_int_equal(np_ip_iface_del(r->ip, 5), NP_ERR_NODEV);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_LINK_VLAN);
  assert_int_equal(np_ip_mtu(r->ip, &b), 0);
  rig_free(r);
}

static void test_routes(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 13};
  struct rig *r = rig_usual(&config);
  struct np_iface_config c = {.port = 4, .mtu_bytes = 9000, .mac = {{0x02, 0, 0, 0, 0, 9}}};
  assert_int_equal(np_ip_iface_add(r->ip, 1, &c), NP_ERR_OK);
  struct np_addr a = frame_v4(198, 19, 0, 1);
  assert_int_equal(np_ip_addr_add(r->ip, 1, &a, 16, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 1, true, r->now_ns), NP_ERR_OK);
  struct np_addr any4 = frame_v4(0, 0, 0, 0);
  struct np_addr any6 = {{0}};
  struct np_addr gw = frame_v4(198, 18, 0, 254);
  struct np_addr gw6 = frame_v6(0xfe);
  struct np_addr far = frame_v4(192, 0, 2, 1);
  struct np_addr far6 = {{0x20, 0x01, 0x0d, 0xb8, 1, [15] = 1}};
  struct np_addr narrow = frame_v4(198, 19, 7, 0);
  struct np_addr in_narrow = frame_v4(198, 19, 7, 7);
  struct np_addr out;
  assert_int_equal(np_ip_mtu(r->ip, &far), 0);
  assert_int_equal(np_ip_source(r->ip, &far, &out), NP_ERR_NOROUTE);
  struct np_addr own = us(false);
  assert_int_equal(rig_send(r, &own, &far, NULL), NP_ERR_NOROUTE);
  assert_int_equal(r->counters.drop[NP_DROP_NO_ROUTE], 1);
  assert_int_equal(np_ip_route_add(r->ip, &any6, 0, &gw6, 0), NP_ERR_OK);
  assert_int_equal(np_ip_mtu(r->ip, &far6), 1500);
  assert_int_equal(np_ip_mtu(r->ip, &far), 0); /* ::/0 is no default for IPv4 */
  assert_int_equal(np_ip_route_add(r->ip, &any4, 0, &gw, 0), NP_ERR_OK);
  assert_int_equal(np_ip_route_add(r->ip, &any4, 0, &gw, 0), NP_ERR_EXISTS);
  assert_int_equal(np_ip_route_add(r->ip, &far, 33, &gw, 0), NP_ERR_INVALID);
  assert_int_equal(np_ip_route_add(r->ip, &far, 32, &far, 0), NP_ERR_INVALID); /* gateway not on the link */
  assert_int_equal(np_ip_route_add(r->ip, &far, 32, &gw6, 0), NP_ERR_INVALID); /* other family */
  assert_int_equal(np_ip_route_add(r->ip, &far, 32, &own, 0), NP_ERR_INVALID); /* ourselves */
  assert_int_equal(np_ip_route_add(r->ip, &far, 32, &gw, 9), NP_ERR_NODEV);
  assert_int_equal(np_ip_mtu(r->ip, &far), 1500);
  assert_int_equal(np_ip_mtu(r->ip, &in_narrow), 9000);
  assert_int_equal(np_ip_route_add(r->ip, &narrow, 24, &gw, 0), NP_ERR_OK);
  assert_int_equal(np_ip_mtu(r->ip, &in_narrow), 1500); /* the longer prefix */
  assert_int_equal(np_ip_route_del(r->ip, &narrow, 24), NP_ERR_OK);
  assert_int_equal(np_ip_route_del(r->ip, &narrow, 24), NP_ERR_NOTFOUND);
  assert_int_equal(np_ip_mtu(r->ip, &in_narrow), 9000);
  /* The gateway is asked for, the packet names the far end. */
  r->sent_count = 0;
  rig_send(r, &own, &far, NULL);
  assert_memory_equal(r->sent[0].b + 38, gw.b + 12, 4);
  answer_arp(r, 3, 0, &gw, &own, RIG_PEER);
  struct np_pkt pkt;
  rig_parse(&r->sent[1], &pkt);
  assert_true(np_addr_eq(&pkt.flow.local, &far));
  /* No host: broadcast of a subnet, groups, ourselves. */
  struct np_addr none[] = {frame_v4(198, 18, 0, 255), frame_v4(198, 18, 0, 0), frame_v4(224, 0, 0, 5), frame_v4(198, 19, 0, 1)};
  for (size_t i = 0; i < NP_COUNT_OF(none); i++) assert_int_equal(rig_send(r, &own, &none[i], NULL), NP_ERR_NOROUTE);
  rig_free(r);
}

/* MUST-49: TCP's TTL can be set; answers of the layer itself keep the usual one. */
static void test_ttl(void **state) {
  (void)state;
  static const uint8_t ttl[] = {0, 1, 64, 200, 255};
  for (size_t i = 0; i < NP_COUNT_OF(ttl); i++) {
    struct np_ip_config config = {.seed = 14, .ttl = ttl[i]};
    struct rig *r = rig_usual(&config);
    uint8_t want = ttl[i] == 0 ? 64 : ttl[i];
    for (int v6 = 0; v6 < 2; v6++) {
      struct np_addr own = us(v6);
      struct np_addr other = peer(v6);
      struct np_path path = {0};
      struct np_pkt pkt;
      struct frame f;
      ping(&f, RIG_US, 0, &other, &own, 8);
      r->sent_count = 0;
      assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
      rig_parse(&r->sent[0], &pkt);
      assert_int_equal(pkt.ttl, 64);
      rig_send(r, &own, &other, &path); /* waits for the neighbor */
      if (v6) {
        rig_nd(&f, 136, RIG_US, RIG_PEER, &other, &own, &other, 0x60, 2);
        assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
      } else {
        frame_arp(&f, 2, RIG_US, RIG_PEER, &other, &own);
        assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
      }
      rig_send(r, &own, &other, &path); /* fills the path */
      rig_send(r, &own, &other, &path); /* by the path */
      assert_true(path.link_len != 0);
      assert_true(r->sent_count >= 5);
      for (uint32_t k = r->sent_count - 3; k < r->sent_count; k++) {
        rig_parse(&r->sent[k], &pkt);
        assert_int_equal(pkt.l4_proto, 253);
        assert_int_equal(pkt.ttl, want);
      }
    }
    rig_free(r);
  }
}

static void test_route_table_full(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 14};
  struct rig *r = rig_usual(&config);
  struct np_addr gw = frame_v4(198, 18, 0, 254);
  for (uint32_t i = 0; i < NP_ROUTE_MAX; i++) {
    struct np_addr p = frame_v4(10, (uint8_t)(i >> 8), (uint8_t)i, 0);
    assert_int_equal(np_ip_route_add(r->ip, &p, 24, &gw, 0), NP_ERR_OK);
  }
  struct np_addr more = frame_v4(10, 9, 9, 0);
  assert_int_equal(np_ip_route_add(r->ip, &more, 24, &gw, 0), NP_ERR_FULL);
  struct np_addr a = frame_v4(198, 18, 9, 1); /* addresses have room of their own */
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a, 24, r->now_ns), NP_ERR_OK);
  rig_free(r);
}

static void test_source(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 15};
  struct rig *r = rig_usual(&config);
  struct np_addr second = frame_v4(198, 18, 4, 1);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &second, 24, r->now_ns), NP_ERR_OK);
  struct np_addr out;
  struct np_addr near = frame_v4(198, 18, 4, 9);
  assert_int_equal(np_ip_source(r->ip, &near, &out), NP_ERR_OK);
  assert_true(np_addr_eq(&out, &second));
  struct np_addr peer4 = peer(false);
  struct np_addr own4 = us(false);
  assert_int_equal(np_ip_source(r->ip, &peer4, &out), NP_ERR_OK);
  assert_true(np_addr_eq(&out, &own4));
  struct np_addr peer6 = peer(true);
  struct np_addr own6 = us(true);
  assert_int_equal(np_ip_source(r->ip, &peer6, &out), NP_ERR_OK);
  assert_true(np_addr_eq(&out, &own6));
  /* 02:00:00:00:00:01 makes fe80::ff:fe00:1 */
  struct np_addr ll = {{0xfe, 0x80, [11] = 0xff, [12] = 0xfe, [15] = 1}};
  struct np_addr ll_peer = {{0xfe, 0x80, [15] = 2}};
  assert_true(np_ip_is_local(r->ip, &ll));
  assert_int_equal(np_ip_source(r->ip, &ll_peer, &out), NP_ERR_OK);
  assert_true(np_addr_eq(&out, &ll));
  rig_free(r);
}

/* A path is used as long as nothing changed that it depends on. */
static void test_path(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 16};
  struct rig *r = rig_usual(&config);
  struct np_addr a = us(false);
  struct np_addr b = peer(false);
  struct np_path path = {0};
  rig_send(r, &a, &b, &path);
  answer_arp(r, 3, 0, &b, &a, RIG_PEER);
  rig_send(r, &a, &b, &path);
  uint32_t generation = path.generation;
  assert_int_equal(path.link_len, 14);
  for (uint32_t i = 0; i < 10; i++) rig_send(r, &a, &b, &path);
  assert_int_equal(path.generation, generation);
  /* Another neighbor comes and is asked for: no business of this path. */
  struct np_addr third = frame_v4(198, 18, 0, 3);
  rig_send(r, &a, &third, NULL);
  rig_send(r, &a, &b, &path);
  assert_int_equal(path.generation, generation);
  struct np_addr more = frame_v4(198, 18, 7, 1);
  np_ip_addr_add(r->ip, 0, &more, 24, r->now_ns);
  rig_send(r, &a, &b, &path);
  assert_int_not_equal(path.generation, generation);
  generation = path.generation;
  struct np_addr host = b;
  struct np_addr gw = frame_v4(198, 18, 0, 254);
  np_ip_route_add(r->ip, &host, 32, &gw, 0);
  r->sent_count = 0;
  rig_send(r, &a, &b, &path);
  assert_int_equal(path.link_len, 0); /* now by the gateway, which is asked for */
  assert_memory_equal(r->sent[0].b + 38, gw.b + 12, 4);
  np_ip_route_del(r->ip, &host, 32);
  rig_send(r, &a, &b, &path);
  assert_int_equal(path.link_len, 14);
  np_ip_addr_del(r->ip, 0, &a);
  np_ip_confirm(r->ip, &path, r->now_ns); /* an old path confirms nobody */
  assert_int_equal(rig_send(r, &a, &b, &path), NP_ERR_NOROUTE);
  assert_int_equal(np_ip_addr_del(r->ip, 0, &a), NP_ERR_ADDRNOTAVAIL);
  rig_free(r);
}

static void test_too_big(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 17};
  struct rig *r = rig_usual(&config);
  struct np_addr a = us(true);
  struct np_addr b = peer(true);
  struct np_path path = {0};
  for (uint32_t round = 0; round < 2; round++) {
    for (uint32_t over = 0; over < 2; over++) {
      struct np_buf *buf = np_pool_get(&r->pool);
      memset(np_buf_append(buf, 1460 + over), 0, 1460 + over);
      assert_int_equal(np_ip_output(r->ip, buf, &a, &b, 253, 0, &path, r->now_ns), over ? NP_ERR_LIMIT : NP_ERR_OK);
    }
    struct frame f;
    rig_nd(&f, 136, RIG_US, RIG_PEER, &b, &a, &b, 0x60, 2);
    assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
    rig_send(r, &a, &b, &path);
  }
  assert_int_equal(r->counters.drop[NP_DROP_TX_TOO_BIG], 2);
  rig_free(r);
}

/* RFC 6437 §3: the path's label is in each packet, also in one that waited for the neighbor, and in all fragments of one. */
static void test_flow_label(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 17};
  struct rig *r = rig_usual(&config);
  struct np_addr a = us(true);
  struct np_addr b = peer(true);
  struct np_path path = {.flow_label = 0xabcde};
  rig_send(r, &a, &b, &path); /* waits */
  r->sent_count = 0;
  struct frame f;
  rig_nd(&f, 136, RIG_US, RIG_PEER, &b, &a, &b, 0x60, 2);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  rig_send(r, &a, &b, &path);
  assert_true(path.link_len != 0);
  rig_send(r, &a, &b, &path); /* by the path */
  struct np_buf *big = NULL;
  for (uint32_t i = 0; i < 3; i++) {
    struct np_buf *piece = np_pool_get(&r->pool);
    memset(np_buf_append(piece, 1400), 0, 1400);
    piece->next = big;
    big = piece;
  }
  assert_int_equal(np_ip_output_datagram(r->ip, big, &a, &b, 253, 0xb8, &path, r->now_ns), NP_ERR_OK);
  path.flow_label = 0;
  rig_send(r, &a, &b, &path);
  assert_true(r->sent_count >= 3 + 3 + 1);
  for (uint32_t i = 0; i < r->sent_count; i++) {
    bool last = i + 1 == r->sent_count;
    bool fragment = i >= 3 && !last;
    assert_int_equal(np_load_be32(r->sent[i].b + 14), 0x60000000u | (fragment ? 0xb800000u : 0) | (last ? 0 : 0xabcdeu));
    assert_int_equal(r->sent[i].b[14 + 6], fragment ? NP_IP6_FRAGMENT : r->sent[0].b[14 + 6]);
  }
  rig_free(r);
}

/* TCP sends the same buffer again: it pulls the headers off and the second sending is whole. */
static void test_send_again(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 18};
  struct rig *r = rig_usual(&config);
  struct np_addr a = us(false);
  struct np_addr b = peer(false);
  struct np_path path = {0};
  rig_send(r, &a, &b, &path);
  answer_arp(r, 3, 0, &b, &a, RIG_PEER);
  r->sent_count = 0;
  struct np_buf *buf = np_pool_get(&r->pool);
  memset(np_buf_append(buf, 10), 'k', 10);
  for (uint32_t i = 0; i < 2; i++) {
    uint32_t off = buf->data_off;
    buf->refs++;
    assert_int_equal(np_ip_output(r->ip, buf, &a, &b, 253, 0x02, &path, r->now_ns), NP_ERR_OK);
    np_buf_pull(buf, off - buf->data_off);
    assert_int_equal(buf->len, 10);
    struct np_pkt pkt;
    rig_parse(&r->sent[i], &pkt);
    assert_int_equal(pkt.tos, 0x02);
    assert_int_equal(pkt.l4_len, 10);
    assert_int_equal(r->sent[i].b[34], 'k');
  }
  np_buf_put(buf);
  rig_free(r);
}

static void test_config_refused(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 19};
  struct rig *r = rig_usual(&config);
  struct np_iface_config good = {.port = 8, .mtu_bytes = 1500, .mac = {{2, 0, 0, 0, 0, 8}}};
  struct np_iface_config c = good;
  c.mtu_bytes = 1279;
  assert_int_equal(np_ip_iface_add(r->ip, 1, &c), NP_ERR_INVALID);
  c.mtu_bytes = 9001;
  assert_int_equal(np_ip_iface_add(r->ip, 1, &c), NP_ERR_INVALID);
  c = good;
  c.vlan = 4095;
  assert_int_equal(np_ip_iface_add(r->ip, 1, &c), NP_ERR_INVALID);
  c = good;
  c.mac.b[0] = 3;
  assert_int_equal(np_ip_iface_add(r->ip, 1, &c), NP_ERR_INVALID);
  assert_int_equal(np_ip_iface_add(r->ip, NP_IFACE_MAX, &good), NP_ERR_INVALID);
  assert_int_equal(np_ip_iface_add(r->ip, 0, &good), NP_ERR_EXISTS);
  struct np_addr bad[] = {frame_v4(127, 0, 0, 1), frame_v4(224, 0, 0, 1), frame_v4(0, 0, 0, 0), {{0}}, {{[15] = 1}}, {{0xff, 2, [15] = 1}}};
  for (size_t i = 0; i < NP_COUNT_OF(bad); i++) assert_int_equal(np_ip_addr_add(r->ip, 0, &bad[i], 24, r->now_ns), NP_ERR_INVALID);
  struct np_addr a = frame_v4(198, 18, 0, 1);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a, 24, r->now_ns), NP_ERR_EXISTS);
  assert_int_equal(np_ip_addr_add(r->ip, 7, &a, 24, r->now_ns), NP_ERR_NODEV);
  for (uint8_t i = 0; i < NP_IFACE_ADDR_MAX - 3; i++) {
    struct np_addr x = frame_v4(198, 18, 9, (uint8_t)(i + 1));
    assert_int_equal(np_ip_addr_add(r->ip, 0, &x, 32, r->now_ns), NP_ERR_OK);
  }
  struct np_addr x = frame_v4(198, 18, 9, 99);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &x, 32, r->now_ns), NP_ERR_FULL);
  rig_free(r);
}

/* An ICMP error about a TCP packet of ours: type, code, and the four bytes behind the checksum. */
static void error_about(struct frame *f, bool v6, uint8_t type, uint8_t code, uint32_t info, uint16_t quoted_len) {
  uint8_t m[8 + 60] = {type, code};
  struct np_addr a = us(v6);
  struct np_addr b = peer(v6);
  struct np_addr router = v6 ? frame_v6(99) : frame_v4(198, 18, 0, 99);
  uint8_t *q = m + 8;
  np_store_be32(m + 4, info);
  if (v6) {
    np_wire_put_ip6(q, &a, &b, 6, 0, 64, (uint16_t)(quoted_len - 40));
  } else {
    np_wire_put_ip4(q, &a, &b, 6, 0, 1, quoted_len);
  }
  q += v6 ? 40 : 20;
  np_store_be16(q, 80);
  np_store_be16(q + 2, 40000);
  np_store_be32(q + 4, 12345);
  packet(f, RIG_US, 0, &router, &a, v6 ? 58 : 1);
  frame_add(f, m, v6 ? 68 : 48);
  frame_finish(f, v6 ? 58 : 1);
}

/* RFC 1191, 8201: what TCP is told, and what is remembered when it vouches for it. */
static void test_pmtu(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  struct frame f;
  error_about(&f, false, 3, 4, 1400, 1500);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(r->error_mtu, 1400);
  error_about(&f, false, 3, 4, 0, 1500); /* a router older than RFC 1191: the plateau below */
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(r->error_mtu, 1492);
  error_about(&f, false, 3, 4, 0, 500);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(r->error_mtu, 576);
  error_about(&f, true, 2, 0, 1400, 1500);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(r->error_mtu, 1400);
  uint32_t told = r->error_count;
  error_about(&f, true, 2, 0, 1279, 1500);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ICMP_MTU);
  assert_int_equal(r->error_count, told);
  /* Nothing is remembered but by np_ip_pmtu_learn. */
  assert_int_equal(r->counters.counter[NP_C_PMTU_ENTRIES], 0);
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_addr dst = peer(v6);
    struct np_addr other = v6 ? frame_v6(3) : frame_v4(198, 18, 0, 3);
    assert_int_equal(np_ip_pmtu(r->ip, &dst, r->now_ns), 1500);
    np_ip_pmtu_learn(r->ip, &dst, 9000, r->now_ns); /* never up */
    assert_int_equal(np_ip_pmtu(r->ip, &dst, r->now_ns), 1500);
    np_ip_pmtu_learn(r->ip, &dst, 1400, r->now_ns);
    np_ip_pmtu_learn(r->ip, &dst, 1450, r->now_ns);
    assert_int_equal(np_ip_pmtu(r->ip, &dst, r->now_ns), 1400);
    assert_int_equal(np_ip_pmtu(r->ip, &other, r->now_ns), 1500);
    assert_int_equal(np_ip_mtu(r->ip, &dst), 1500); /* of the link */
    np_ip_pmtu_learn(r->ip, &other, 68, r->now_ns);
    assert_int_equal(np_ip_pmtu(r->ip, &other, r->now_ns), v6 ? 1280 : 576);
    rig_advance(r, 599 * RIG_S);
    assert_int_equal(np_ip_pmtu(r->ip, &dst, r->now_ns), 1400);
    rig_advance(r, 2 * RIG_S);
    assert_int_equal(np_ip_pmtu(r->ip, &dst, r->now_ns), 1500);
    assert_int_equal(np_ip_pmtu(r->ip, &other, r->now_ns), 1500);
    assert_int_equal(r->counters.counter[NP_C_PMTU_ENTRIES], 0);
  }
  /* The table is bounded, and the newest is there. */
  for (uint32_t i = 0; i < 5000; i++) {
    struct np_addr dst = frame_v6((uint16_t)(1000 + i));
    np_ip_pmtu_learn(r->ip, &dst, 1300, r->now_ns + i);
    assert_int_equal(np_ip_pmtu(r->ip, &dst, r->now_ns + i), 1300);
  }
  assert_true(r->counters.counter[NP_C_PMTU_ENTRIES] <= 256);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_echo),         cmocka_unit_test(test_echo_v6_special),
      cmocka_unit_test(test_echo_rate),    cmocka_unit_test(test_not_for_us), cmocka_unit_test(test_bad_sources), cmocka_unit_test(test_ttl),
      cmocka_unit_test(test_tcp_comes_back), cmocka_unit_test(test_udp_services),
      cmocka_unit_test(test_port_unreachable), cmocka_unit_test(test_unknown_protocol),
      cmocka_unit_test(test_error_rate),   cmocka_unit_test(test_errors_in),
      cmocka_unit_test(test_errors_unmatched), cmocka_unit_test(test_vlan),
      cmocka_unit_test(test_routes),       cmocka_unit_test(test_route_table_full),
      cmocka_unit_test(test_source),       cmocka_unit_test(test_path),
      cmocka_unit_test(test_too_big), cmocka_unit_test(test_flow_label),      cmocka_unit_test(test_send_again),
      cmocka_unit_test(test_config_refused), cmocka_unit_test(test_pmtu),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
