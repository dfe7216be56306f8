/* UDP sockets of the network layer: who gets a datagram, and what is sent. */
#include "test/unit/ip_rig.h"
#include "wire/build.h"

static struct np_addr us(bool v6) { return v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1); }
static struct np_addr peer(bool v6) { return v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2); }
static struct np_addr any_v4(void) { return frame_v4(0, 0, 0, 0); }

struct got {
  uint32_t count;
  uint32_t socket;
  struct np_flow flow;
  uint8_t data[2048];
  uint32_t bytes;
  bool full;
};

struct udp_rig {
  struct rig *r;
  struct got got;
};

static bool take(void *ctx, uint32_t socket, const struct np_pkt *pkt) {
  struct udp_rig *u = ctx;
  if (u->got.full) return false;
  u->got.count++;
  u->got.socket = socket;
  u->got.flow = pkt->flow;
  u->got.bytes = pkt->l4_len - 8u;
  np_buf_copy(pkt->buf, pkt->payload_off, u->got.data, np_min_u32(u->got.bytes, sizeof u->got.data));
  np_buf_put_chain(pkt->buf);
  return true;
}

static struct udp_rig *udp_new(uint32_t mtu_bytes) {
  struct np_ip_config config = {.seed = 6, .udp_echo_port = 7};
  struct udp_rig *u = calloc(1, sizeof *u);
  u->r = rig_mtu(&config, mtu_bytes);
  u->r->udp = take;
  u->r->udp_ctx = u;
  return u;
}

static void udp_free(struct udp_rig *u) {
  rig_free(u->r);
  free(u);
}

static uint32_t rx(struct udp_rig *u, bool v6, uint16_t sport, uint16_t dport, const void *data, uint32_t bytes) {
  struct frame f;
  struct np_addr src = peer(v6);
  struct np_addr dst = us(v6);
  frame_eth(&f, RIG_US, RIG_PEER, 0, v6 ? 0x86dd : 0x0800);
  frame_ip(&f, &src, &dst, 17, 64);
  frame_udp(&f, sport, dport, data, bytes);
  frame_finish(&f, 17);
  return rig_rx(u->r, 3, &f);
}

/* The peer's address is known. */
static void know_peer(struct udp_rig *u) {
  struct frame f;
  struct np_addr p4 = peer(false), p6 = peer(true), u4 = us(false), u6 = us(true);
  frame_arp(&f, 1, RIG_US, RIG_PEER, &p4, &u4);
  assert_int_equal(rig_rx(u->r, 3, &f), RIG_DONE);
  rig_nd(&f, 135, RIG_US, RIG_PEER, &p6, &u6, &u6, 0, 1);
  assert_int_equal(rig_rx(u->r, 3, &f), RIG_DONE);
  u->r->sent_count = 0;
}

static enum np_err bind_at(struct udp_rig *u, struct np_addr local, uint16_t port, uint32_t *socket) {
  uint16_t got = 0;
  enum np_err err = np_udp_bind(u->r->ip, &local, port, 0, socket, &got);
  if (err == NP_ERR_OK && port != 0) assert_int_equal(got, port);
  return err;
}

static struct np_buf *payload(struct udp_rig *u, uint32_t bytes) {
  struct np_buf *head = NULL;
  struct np_buf **at = &head;
  uint32_t done = 0;
  do {
    struct np_buf *b = np_pool_get(&u->r->pool);
    assert_non_null(b);
    uint32_t n = np_min_u32(bytes - done, 1700);
    uint8_t *p = np_buf_append(b, n);
    for (uint32_t i = 0; i < n; i++) p[i] = (uint8_t)((done + i) * 7 + (done + i) / 251);
    done += n;
    *at = b;
    at = &b->next;
  } while (done < bytes);
  return head;
}

static enum np_err send_to(struct udp_rig *u, uint32_t socket, struct np_addr dst, uint16_t port, uint32_t bytes) {
  struct np_udp_to to = {.addr = dst, .port = port};
  return np_udp_send(u->r->ip, socket, &to, payload(u, bytes), u->r->now_ns);
}

static void test_who_gets_it(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  uint32_t wild, v4, six, own;
  struct np_addr zero = {{0}};
  assert_int_equal(bind_at(u, zero, 1000, &wild), NP_ERR_OK);
  assert_int_equal(bind_at(u, any_v4(), 2000, &v4), NP_ERR_OK);
  assert_int_equal(bind_at(u, us(true), 2000, &six), NP_ERR_OK); /* the two do not overlap */
  assert_int_equal(bind_at(u, us(false), 3000, &own), NP_ERR_OK);
  assert_int_equal(u->r->counters.counter[NP_C_UDP_SOCKETS], 4);
  const struct {
    bool v6;
    uint16_t port;
    uint32_t *socket; /* NULL: nobody */
  } cases[] = {{false, 1000, &wild}, {true, 1000, &wild}, {false, 2000, &v4}, {true, 2000, &six},
               {false, 3000, &own},  {true, 3000, NULL},  {false, 999, NULL}, {false, 1064, NULL}};
  uint32_t taken = 0;
  for (size_t i = 0; i < NP_COUNT_OF(cases); i++) {
    u->r->sent_count = 0;
    uint32_t v = rx(u, cases[i].v6, 40000, cases[i].port, "hello", 5);
    if (cases[i].socket == NULL) {
      assert_int_equal(v, NP_DROP_UDP_PORT);
      assert_int_equal(u->r->sent_count, 1); /* port unreachable */
      continue;
    }
    assert_int_equal(v, RIG_DONE);
    assert_int_equal(u->r->sent_count, 0);
    assert_int_equal(u->got.count, ++taken);
    assert_int_equal(u->got.socket, *cases[i].socket);
    assert_int_equal(u->got.flow.remote_port, 40000);
    assert_int_equal(u->got.bytes, 5);
    assert_memory_equal(u->got.data, "hello", 5);
  }
  assert_int_equal(u->r->counters.counter[NP_C_UDP_RX], taken);
  assert_int_equal(rx(u, false, 0, 1000, "", 0), RIG_DONE); /* source port 0 means no answer is wanted (RFC 768) */
  np_udp_unbind(u->r->ip, wild);
  assert_int_equal(rx(u, false, 40000, 1000, "hello", 5), NP_DROP_UDP_PORT);
  assert_int_equal(rx(u, false, 40000, 2000, "hello", 5), RIG_DONE);
  assert_int_equal(u->r->counters.counter[NP_C_UDP_SOCKETS], 3);
  udp_free(u);
}

static void test_bind_refused(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  uint32_t s, other;
  struct np_addr zero = {{0}};
  assert_int_equal(bind_at(u, us(false), 1000, &s), NP_ERR_OK);
  assert_int_equal(bind_at(u, us(false), 1000, &other), NP_ERR_ADDRINUSE);
  assert_int_equal(bind_at(u, zero, 1000, &other), NP_ERR_ADDRINUSE);
  assert_int_equal(bind_at(u, any_v4(), 1000, &other), NP_ERR_ADDRINUSE);
  assert_int_equal(bind_at(u, us(true), 1000, &other), NP_ERR_OK);
  assert_int_equal(bind_at(u, zero, 7, &other), NP_ERR_ADDRINUSE); /* the echo service's */
  assert_int_equal(bind_at(u, peer(false), 1001, &other), NP_ERR_ADDRNOTAVAIL);
  uint16_t port;
  assert_int_equal(np_udp_bind(u->r->ip, &zero, 1002, 64, &other, &port), NP_ERR_INVALID);
  uint32_t n = 2;
  for (; n < NP_UDP_SOCKETS_MAX; n++) {
    assert_int_equal(np_udp_bind(u->r->ip, &zero, 0, 0, &other, &port), NP_ERR_OK);
    assert_in_range(port, NP_PORT_EPHEMERAL_MIN, NP_PORT_EPHEMERAL_MIN + NP_PORT_EPHEMERAL_COUNT - 1);
  }
  assert_int_equal(np_udp_bind(u->r->ip, &zero, 0, 0, &other, &port), NP_ERR_FULL);
  for (uint32_t i = 0; i < NP_UDP_SOCKETS_MAX; i++) np_udp_unbind(u->r->ip, i);
  assert_int_equal(u->r->counters.counter[NP_C_UDP_SOCKETS], 0);
  assert_int_equal(bind_at(u, zero, 1000, &other), NP_ERR_OK);
  udp_free(u);
}

static void test_full(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  uint32_t s;
  struct np_addr zero = {{0}};
  assert_int_equal(bind_at(u, zero, 1000, &s), NP_ERR_OK);
  u->got.full = true;
  u->r->sent_count = 0;
  assert_int_equal(rx(u, false, 40000, 1000, "hello", 5), NP_DROP_UDP_FULL);
  assert_int_equal(u->r->sent_count, 0); /* somebody is there: no port unreachable */
  udp_free(u);
}

/* Checksum, addresses, TOS and DF of what leaves; parsed with all sums by the rig. */
static void test_send(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  know_peer(u);
  for (int v6 = 0; v6 < 2; v6++) {
    uint32_t s;
    uint16_t port = 0;
    struct np_addr zero = {{0}};
    assert_int_equal(np_udp_bind(u->r->ip, &zero, (uint16_t)(1000 + v6), 46, &s, &port), NP_ERR_OK);
    for (uint32_t bytes = 0; bytes <= (v6 ? 1452u : 1472u); bytes += 363) {
      u->r->sent_count = 0;
      struct np_udp_to to = {.addr = peer(v6), .port = 53, .ecn = 1};
      assert_int_equal(np_udp_send(u->r->ip, s, &to, payload(u, bytes), u->r->now_ns), NP_ERR_OK);
      assert_int_equal(u->r->sent_count, 1);
      const struct rig_frame *f = &u->r->sent[0];
      struct np_pkt pkt;
      rig_parse(f, &pkt);
      struct np_addr p = peer(v6), o = us(v6);
      assert_true(np_addr_eq(&pkt.flow.local, &p) && np_addr_eq(&pkt.flow.remote, &o));
      assert_int_equal(pkt.flow.local_port, 53);
      assert_int_equal(pkt.flow.remote_port, 1000 + v6);
      assert_int_equal(pkt.tos, 46 << 2 | 1);
      assert_int_equal(pkt.l4_len, bytes + 8);
      assert_true(np_load_16(f->b + pkt.l4_off + 6) != 0);
      if (!v6) assert_int_equal(np_load_be16(f->b + 14 + 6), 0); /* a router may cut it */
    }
  }
  assert_int_equal(u->r->counters.counter[NP_C_UDP_TX], 2 * 5 - 0);
  udp_free(u);
}

/* A sum of 0 is sent as all ones, because 0 means none. */
static void test_checksum_zero(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  know_peer(u);
  uint32_t s;
  assert_int_equal(bind_at(u, us(false), 1000, &s), NP_ERR_OK);
  struct np_addr from = us(false), to_addr = peer(false);
  uint64_t sum = np_cksum_pseudo(&from, &to_addr, NP_PROTO_UDP, 10);
  uint8_t head[8] = {1000 >> 8, 1000 & 0xff, 0, 53, 0, 10, 0, 0};
  uint16_t rest = np_cksum_finish(np_cksum_add(sum, head, 8)); /* as payload it makes the whole sum 0 */
  struct np_buf *b = np_pool_get(&u->r->pool);
  memcpy(np_buf_append(b, 2), &rest, 2);
  struct np_udp_to to = {.addr = peer(false), .port = 53};
  assert_int_equal(np_udp_send(u->r->ip, s, &to, b, u->r->now_ns), NP_ERR_OK);
  assert_int_equal(np_load_16(u->r->sent[0].b + 14 + 20 + 6), 0xffff);
  struct np_pkt pkt;
  rig_parse(&u->r->sent[0], &pkt);
  udp_free(u);
}

/* What leaves in fragments is put together again by our own reassembly. */
static void test_fragments(void **state) {
  (void)state;
  static const uint32_t size[] = {1473, 3000, 20000, 65507};
  for (int v6 = 0; v6 < 2; v6++) {
    for (size_t i = 0; i < NP_COUNT_OF(size); i++) {
      struct udp_rig *u = udp_new(1500);
      know_peer(u);
      uint32_t s;
      struct np_addr zero = {{0}};
      assert_int_equal(bind_at(u, zero, 1000, &s), NP_ERR_OK);
      assert_int_equal(send_to(u, s, peer(v6), 1000, size[i]), NP_ERR_OK);
      uint32_t each = v6 ? 1448 : 1480;
      assert_int_equal(u->r->sent_count, (size[i] + 8 + each - 1) / each);
      assert_int_equal(u->r->counters.counter[NP_C_IP_FRAGS_TX], u->r->sent_count);
      /* the same packets as if the peer had sent them: addresses exchanged, which changes no sum */
      uint32_t verdict = 0;
      for (uint32_t k = 0; k < u->r->sent_count; k++) {
        struct frame f = {.len = u->r->sent[k].len};
        memcpy(f.b, u->r->sent[k].b, f.len);
        uint32_t at = 14 + (v6 ? 8u : 12u), len = v6 ? 16 : 4;
        uint8_t tmp[16];
        memcpy(tmp, f.b + at, len);
        memcpy(f.b + at, f.b + at + len, len);
        memcpy(f.b + at + len, tmp, len);
        memcpy(f.b, RIG_US, 6);
        memcpy(f.b + 6, RIG_PEER, 6);
        assert_true(f.len <= 1514);
        verdict = rig_rx(u->r, 3, &f);
        if (k + 1 < u->r->sent_count) assert_int_equal(verdict, RIG_HELD);
      }
      assert_int_equal(verdict, RIG_DONE);
      assert_int_equal(u->got.count, 1);
      assert_int_equal(u->got.bytes, size[i]);
      for (uint32_t k = 0; k < np_min_u32(size[i], 2048); k++) assert_int_equal(u->got.data[k], (uint8_t)(k * 7 + k / 251));
      udp_free(u);
    }
  }
}

/* What TCP found out about the path holds for datagrams too. */
static void test_path_mtu(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  know_peer(u);
  uint32_t s;
  struct np_addr zero = {{0}}, dst = peer(true);
  assert_int_equal(bind_at(u, zero, 1000, &s), NP_ERR_OK);
  np_ip_pmtu_learn(u->r->ip, &dst, 1300, u->r->now_ns);
  assert_int_equal(send_to(u, s, dst, 1000, 1252), NP_ERR_OK);
  assert_int_equal(u->r->sent_count, 1);
  assert_int_equal(send_to(u, s, dst, 1000, 1253), NP_ERR_OK);
  assert_int_equal(u->r->sent_count, 3);
  udp_free(u);
}

static void test_send_refused(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  know_peer(u);
  uint32_t own, v4;
  assert_int_equal(bind_at(u, us(false), 1000, &own), NP_ERR_OK);
  assert_int_equal(bind_at(u, any_v4(), 1001, &v4), NP_ERR_OK);
  assert_int_equal(send_to(u, own, peer(true), 53, 10), NP_ERR_INVALID);
  assert_int_equal(send_to(u, v4, peer(true), 53, 10), NP_ERR_INVALID);
  assert_int_equal(send_to(u, own, peer(false), 0, 10), NP_ERR_INVALID);
  assert_int_equal(send_to(u, own, frame_v4(224, 0, 0, 1), 53, 10), NP_ERR_INVALID);
  assert_int_equal(send_to(u, own, frame_v4(255, 255, 255, 255), 53, 10), NP_ERR_INVALID);
  struct np_udp_to to = {.addr = peer(false), .from = peer(false), .port = 53};
  assert_int_equal(np_udp_send(u->r->ip, own, &to, payload(u, 10), u->r->now_ns), NP_ERR_INVALID);
  assert_int_equal(np_udp_send(u->r->ip, v4, &to, payload(u, 10), u->r->now_ns), NP_ERR_ADDRNOTAVAIL);
  assert_int_equal(u->r->counters.drop[NP_DROP_UDP_TX_REFUSED], 7);
  assert_int_equal(send_to(u, own, frame_v4(203, 0, 113, 1), 53, 10), NP_ERR_NOROUTE);
  assert_int_equal(u->r->counters.drop[NP_DROP_NO_ROUTE], 1);
  u->r->pool.reserve_count = u->r->pool.free_count - 4; /* less than the fragments need */
  assert_int_equal(send_to(u, own, peer(false), 53, 3000), NP_ERR_NOBUF);
  assert_int_equal(u->r->counters.drop[NP_DROP_TX_NO_BUFFER], 1);
  u->r->pool.reserve_count = 0;
  assert_int_equal(u->r->sent_count, 0);
  udp_free(u);
}

/* A neighbor who does not answer: what waits is bounded, and comes back. */
static void test_unresolved(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  uint32_t s;
  struct np_addr zero = {{0}};
  assert_int_equal(bind_at(u, zero, 1000, &s), NP_ERR_OK);
  for (uint32_t i = 0; i < 20; i++) assert_int_equal(send_to(u, s, peer(false), 53, 100), NP_ERR_OK);
  assert_int_equal(send_to(u, s, peer(false), 53, 20000), NP_ERR_OK);
  assert_true(u->r->counters.drop[NP_DROP_NEIGH_QUEUE] >= 12);
  rig_advance(u->r, 10 * RIG_S);
  udp_free(u); /* every buffer is back */
}

static void icmp_about(struct udp_rig *u, bool v6, uint16_t sport, uint32_t expect) {
  struct frame f;
  struct np_addr from = peer(v6), own = us(v6);
  uint8_t m[8 + 48] = {v6 ? 1 : 3, v6 ? 4 : 3}; /* port unreachable */
  uint8_t *q = m + 8;
  uint32_t ip = v6 ? 40 : 20;
  if (v6) {
    np_wire_put_ip6(q, &own, &from, 17, 0, 64, 18);
  } else {
    np_wire_put_ip4(q, &own, &from, 17, 0, 1, 38);
  }
  np_store_be16(q + ip, sport);
  np_store_be16(q + ip + 2, 53);
  frame_eth(&f, RIG_US, RIG_PEER, 0, v6 ? 0x86dd : 0x0800);
  frame_ip(&f, &from, &own, v6 ? 58 : 1, 64);
  frame_add(&f, m, 8 + ip + 8);
  frame_finish(&f, v6 ? 58 : 1);
  assert_int_equal(rig_rx(u->r, 3, &f), expect);
}

static void test_icmp_errors(void **state) {
  (void)state;
  struct udp_rig *u = udp_new(1500);
  uint32_t s;
  struct np_addr zero = {{0}};
  assert_int_equal(bind_at(u, zero, 1000, &s), NP_ERR_OK);
  for (int v6 = 0; v6 < 2; v6++) {
    icmp_about(u, v6, 1000, RIG_DONE);
    icmp_about(u, v6, 1001, NP_DROP_ICMP_UNMATCHED);
  }
  assert_int_equal(u->r->counters.counter[NP_C_UDP_ERRORS], 2);
  assert_int_equal(u->r->error_count, 0); /* TCP hears nothing of it */
  udp_free(u);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_who_gets_it), cmocka_unit_test(test_bind_refused),  cmocka_unit_test(test_full),
      cmocka_unit_test(test_send),        cmocka_unit_test(test_checksum_zero), cmocka_unit_test(test_fragments),
      cmocka_unit_test(test_path_mtu),    cmocka_unit_test(test_send_refused),  cmocka_unit_test(test_unresolved),
      cmocka_unit_test(test_icmp_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
