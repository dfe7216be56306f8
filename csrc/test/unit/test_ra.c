/* Router discovery (RFC 4861 §6.3, RFC 4191, RFC 7559) and addresses from prefixes (RFC 4862 §5.5). */
#include "test/unit/ip_rig.h"

static const uint8_t ALL_NODES_MAC[6] = {0x33, 0x33, 0, 0, 0, 1};
static const struct np_addr ALL_NODES = {{0xff, 0x02, [15] = 1}};
static const struct np_addr FAR = {{0x20, 0x01, 0x0d, 0xb8, 0xff, [15] = 1}};

static struct np_addr router(uint8_t n) { return (struct np_addr){{0xfe, 0x80, [14] = 1, [15] = n}}; }
static struct np_addr prefix(uint8_t n) { return (struct np_addr){{0x20, 0x01, 0x0d, 0xb8, 7, n}}; }
/* The prefix with the modified EUI-64 of 02:00:00:00:00:01. */
static struct np_addr own(uint8_t n) {
  struct np_addr a = prefix(n);
  a.b[11] = 0xff;
  a.b[12] = 0xfe;
  a.b[15] = 1;
  return a;
}

struct ra {
  struct frame f;
  uint8_t icmp[512];
  uint32_t len;
  uint8_t from;
};

static void ra_begin(struct ra *m, uint8_t from, uint16_t lifetime_s, uint8_t flags) {
  memset(m, 0, sizeof *m);
  m->from = from;
  m->icmp[0] = 134;
  m->icmp[5] = flags;
  np_store_be16(m->icmp + 6, lifetime_s);
  m->len = 16;
}

static void ra_prefix(struct ra *m, const struct np_addr *p, uint8_t bits, uint8_t flags, uint32_t valid_s, uint32_t preferred_s) {
  uint8_t *o = m->icmp + m->len;
  o[0] = 3;
  o[1] = 4;
  o[2] = bits;
  o[3] = flags;
  np_store_be32(o + 4, valid_s);
  np_store_be32(o + 8, preferred_s);
  memcpy(o + 16, p->b, 16);
  m->len += 32;
}

static void ra_option(struct ra *m, uint8_t type, const uint8_t six[6]) {
  uint8_t *o = m->icmp + m->len;
  o[0] = type;
  o[1] = 1;
  memcpy(o + 2, six, 6);
  m->len += 8;
}

static uint32_t ra_send(struct rig *r, struct ra *m) {
  uint8_t mac[6] = {2, 0, 0, 0, 0x77, m->from};
  struct np_addr src = router(m->from);
  frame_eth(&m->f, ALL_NODES_MAC, mac, 0, 0x86dd);
  frame_ip(&m->f, &src, &ALL_NODES, 58, 255);
  frame_add(&m->f, m->icmp, m->len);
  frame_finish(&m->f, 58);
  return rig_rx(r, 3, &m->f);
}

static void ra_usual(struct rig *r, uint8_t from, uint16_t lifetime_s, uint8_t flags) {
  struct ra m;
  ra_begin(&m, from, lifetime_s, flags);
  const uint8_t mac[6] = {2, 0, 0, 0, 0x77, from};
  ra_option(&m, 1, mac);
  assert_int_equal(ra_send(r, &m), RIG_DONE);
}

/* Interface 0 without a configured IPv6 address, up; nothing cleared. */
static struct rig *start_with(bool accept, uint8_t dad, const struct np_ip_config *config) {
  struct rig *r = rig_new(config);
  struct np_iface_config c = {.port = 3, .mtu_bytes = 1500, .accept_ra = accept, .dad_transmits = dad};
  memcpy(c.mac.b, RIG_US, 6);
  assert_int_equal(np_ip_iface_add(r->ip, 0, &c), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 0, true, r->now_ns), NP_ERR_OK);
  return r;
}

static struct rig *start(bool accept, uint8_t dad, uint64_t seed) {
  struct np_ip_config config = {.seed = seed, .neigh_max = 16};
  return start_with(accept, dad, &config);
}

static struct np_addr_info info_of(struct rig *r, const struct np_addr *addr) {
  struct np_addr_info info[32];
  uint32_t cursor = 0;
  uint32_t n = np_ip_addresses(r->ip, &cursor, info, 32, r->now_ns);
  for (uint32_t i = 0; i < n; i++) {
    if (memcmp(info[i].addr, addr->b, 16) == 0) return info[i];
  }
  return (struct np_addr_info){.state = NP_ADDR_STATE_COUNT};
}

/* Which MAC a packet to a far host goes to: the router's number, 0 when there is no route. */
static uint8_t way_out(struct rig *r) {
  struct np_addr src;
  if (np_ip_source(r->ip, &FAR, &src) != NP_ERR_OK) return 0;
  r->sent_count = 0;
  if (rig_send(r, &src, &FAR, NULL) != NP_ERR_OK) return 0;
  assert_int_equal(r->sent_count, 1);
  return r->sent[0].b[5];
}

static void give_prefix(struct rig *r, uint8_t n, uint8_t flags, uint32_t valid_s, uint32_t preferred_s) {
  struct ra m;
  struct np_addr p = prefix(n);
  ra_begin(&m, 1, 1800, 0);
  ra_prefix(&m, &p, 64, flags, valid_s, preferred_s);
  assert_int_equal(ra_send(r, &m), RIG_DONE);
}

static void test_solicits(void **state) {
  (void)state;
  struct rig *r = start(true, 0, 1);
  r->sent_count = 0;
  rig_advance(r, 1002 * RIG_MS);
  assert_int_equal(r->sent_count, 1);
  struct np_pkt pkt;
  rig_parse(&r->sent[0], &pkt);
  static const uint8_t routers_mac[6] = {0x33, 0x33, 0, 0, 0, 2};
  assert_memory_equal(r->sent[0].b, routers_mac, 6);
  assert_int_equal(r->sent[0].b[54], 133);
  assert_int_equal(pkt.ttl, 255);
  assert_int_equal(pkt.flow.remote.b[0], 0xfe);
  assert_int_equal(r->sent[0].b[62], 1); /* source link-layer address */
  assert_memory_equal(r->sent[0].b + 64, RIG_US, 6);
  /* Pauses double: 4, 8, 16 s, a tenth more or less. */
  rig_advance(r, 34 * RIG_S);
  assert_int_equal(r->sent_count, 4);
  rig_advance(r, 24 * 3600 * RIG_S);
  assert_in_range(r->sent_count, 31, 36); /* at last one an hour */
  /* A router that says so ends it; the link's return begins again. */
  ra_usual(r, 1, 1800, 0);
  r->sent_count = 0;
  rig_advance(r, 3 * 3600 * RIG_S);
  assert_int_equal(r->sent_count, 0);
  np_ip_iface_up(r->ip, 0, false, r->now_ns);
  np_ip_iface_up(r->ip, 0, true, r->now_ns);
  r->sent_count = 0;
  rig_advance(r, 2 * RIG_S);
  assert_int_equal(r->sent_count, 1);
  assert_int_equal(r->counters.counter[NP_C_ND_RS_TX] > 30, true);
  rig_free(r);
  /* A tentative link-local address is not its source. */
  r = start(true, 3, 2);
  rig_advance(r, 1002 * RIG_MS);
  uint32_t seen = 0;
  for (uint32_t i = 0; i < r->sent_count; i++) {
    if (r->sent[i].b[54] != 133) continue;
    rig_parse(&r->sent[i], &pkt);
    assert_true(np_addr_is_zero(&pkt.flow.remote));
    assert_int_equal(pkt.l4_len, 8);
    seen++;
  }
  assert_int_equal(seen, 1);
  rig_free(r);
  r = start(false, 0, 3);
  r->sent_count = 0;
  rig_advance(r, 60 * RIG_S);
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

/* An address from a prefix: made, looked for, used, deprecated, gone. */
static void test_slaac(void **state) {
  (void)state;
  struct rig *r = start(true, 1, 4);
  struct np_addr a = own(1);
  give_prefix(r, 1, 0xc0, 1000, 400);
  assert_int_equal(info_of(r, &a).state, NP_ADDR_TENTATIVE);
  assert_int_equal(info_of(r, &a).origin, NP_ADDR_SLAAC);
  assert_int_equal(info_of(r, &a).valid_s, 1000);
  assert_int_equal(way_out(r), 0);
  rig_advance(r, 2100 * RIG_MS);
  assert_int_equal(info_of(r, &a).state, NP_ADDR_PREFERRED);
  struct np_addr neighbor = prefix(1);
  neighbor.b[15] = 0x99;
  struct np_addr src;
  assert_int_equal(np_ip_source(r->ip, &neighbor, &src), NP_ERR_OK);
  assert_true(np_addr_eq(&src, &a));
  rig_advance(r, 398 * RIG_S);
  assert_int_equal(info_of(r, &a).state, NP_ADDR_DEPRECATED);
  assert_true(np_ip_is_local(r->ip, &a)); /* still good for what is there */
  /* A fresh one is preferred, whatever matches longer (RFC 6724 §5 rule 3). */
  give_prefix(r, 2, 0xc0, 9000, 9000);
  struct np_addr b = own(2);
  rig_advance(r, 3 * RIG_S);
  assert_int_equal(np_ip_source(r->ip, &neighbor, &src), NP_ERR_OK);
  assert_true(np_addr_eq(&src, &b));
  give_prefix(r, 1, 0xc0, 1000, 400); /* said again: preferred again */
  assert_int_equal(info_of(r, &a).state, NP_ADDR_PREFERRED);
  rig_advance(r, 1001 * RIG_S);
  assert_int_equal(info_of(r, &a).state, NP_ADDR_STATE_COUNT);
  assert_int_equal(info_of(r, &b).state, NP_ADDR_PREFERRED);
  assert_int_equal(np_ip_mtu(r->ip, &neighbor) != 0, true); /* by the router now */
  rig_free(r);
}

/* RFC 4862 §5.5.3 (e): a forged message cannot end an address before two hours. */
static void test_two_hours(void **state) {
  (void)state;
  static const struct {
    uint32_t left_s;
    uint32_t told_s;
    uint32_t after_s;
  } row[] = {
      {86400, 0, 7200}, {86400, 60, 7200}, {86400, 7201, 7201}, {3600, 0, 3600}, {3600, 60, 3600}, {3600, 3601, 3601}, {UINT32_MAX, 0, 7200},
      {3600, UINT32_MAX, UINT32_MAX},
  };
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct rig *r = start(true, 0, 5);
    struct np_addr a = own(1);
    give_prefix(r, 1, 0x40, row[i].left_s, row[i].left_s);
    give_prefix(r, 1, 0x40, row[i].told_s, 0);
    assert_int_equal(info_of(r, &a).valid_s, row[i].after_s);
    assert_int_equal(info_of(r, &a).state, NP_ADDR_DEPRECATED);
    rig_free(r);
  }
}

/* What makes no address, and no route. */
static void test_prefix_refused(void **state) {
  (void)state;
  static const struct {
    uint8_t first;
    uint8_t bits;
    uint8_t flags;
    uint32_t valid_s;
    uint32_t preferred_s;
  } row[] = {
      {0x20, 64, 0xc0, 100, 200}, /* preferred longer than valid */
      {0xfe, 64, 0xc0, 200, 100}, /* link-local */
      {0xff, 64, 0xc0, 200, 100}, /* group */
      {0x20, 129, 0xc0, 200, 100}, {0x20, 63, 0x40, 200, 100}, {0x20, 96, 0x40, 200, 100}, {0x20, 64, 0xc0, 0, 0},
      {0x20, 64, 0x00, 200, 100},  {0x20, 3, 0x80, 200, 100},
  };
  struct rig *r = start(true, 0, 6);
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct ra m;
    struct np_addr p = prefix(1);
    p.b[0] = row[i].first;
    if (p.b[0] == 0xfe) p.b[1] = 0x80;
    ra_begin(&m, 1, 0, 0);
    ra_prefix(&m, &p, row[i].bits, row[i].flags, row[i].valid_s, row[i].preferred_s);
    assert_int_equal(ra_send(r, &m), RIG_DONE);
    struct np_addr_info info[8];
    uint32_t cursor = 0;
    assert_int_equal(np_ip_addresses(r->ip, &cursor, info, 8, r->now_ns), 1);
    struct np_addr host = prefix(1);
    host.b[15] = 9;
    assert_int_equal(np_ip_mtu(r->ip, &host), 0);
  }
  rig_free(r);
}

/* On link and autonomous are two things (RFC 5942 §4). */
static void test_on_link(void **state) {
  (void)state;
  struct rig *r = start(true, 0, 7);
  struct np_addr host = prefix(1);
  host.b[15] = 9;
  struct np_addr src = own(1);
  give_prefix(r, 1, 0x40, 300, 300); /* an address, but its neighbors come by the router */
  r->sent_count = 0;
  rig_send(r, &src, &host, NULL);
  struct np_addr gw = router(1);
  assert_memory_equal(r->sent[0].b + 62, gw.b, 16);
  give_prefix(r, 1, 0xc0, 300, 300);
  r->sent_count = 0;
  rig_send(r, &src, &host, NULL);
  assert_memory_equal(r->sent[0].b + 62, host.b, 16);
  give_prefix(r, 1, 0x80, 0, 0); /* no longer on link, at once (RFC 4861 §6.3.4) */
  r->sent_count = 0;
  struct np_addr other = host;
  other.b[15] = 10;
  rig_send(r, &src, &other, NULL);
  assert_int_equal(r->sent_count, 0); /* waits for the router, which was asked for before */
  rig_free(r);
}

/* Lifetimes, preferences and reachability of default routers. */
static void test_routers(void **state) {
  (void)state;
  struct rig *r = start(true, 0, 8);
  give_prefix(r, 1, 0xc0, UINT32_MAX, UINT32_MAX);
  ra_usual(r, 1, 1800, 0);
  assert_int_equal(way_out(r), 1);
  ra_usual(r, 2, 1800, 0); /* as good: stays */
  assert_int_equal(way_out(r), 1);
  ra_usual(r, 3, 1800, 1 << 3); /* better */
  assert_int_equal(way_out(r), 3);
  ra_usual(r, 3, 1800, 3 << 3); /* now worse */
  assert_int_equal(way_out(r) < 3, true);
  ra_usual(r, 3, 1800, 1 << 3);
  /* The one in use stops answering: three probes after the delay, then another. */
  assert_int_equal(way_out(r), 3);
  rig_advance(r, 9 * RIG_S);
  struct np_addr gw3 = router(3);
  assert_int_equal(rig_neigh(r, &gw3, NULL), NP_NEIGH_FAILED);
  assert_int_equal(way_out(r) < 3, true);
  /* It says that it is gone; the last one's time runs out. */
  ra_usual(r, 3, 0, 0);
  ra_usual(r, 1, 0, 0);
  assert_int_equal(way_out(r), 2);
  ra_usual(r, 2, 10, 0);
  rig_advance(r, 11 * RIG_S);
  assert_int_equal(way_out(r), 0);
  /* An advertisement without the router flag takes one off (RFC 4861 §7.2.5). */
  ra_usual(r, 1, 1800, 0);
  assert_int_equal(way_out(r), 1);
  struct np_addr gw = router(1);
  struct np_addr us = own(1);
  struct frame f;
  const uint8_t mac[6] = {2, 0, 0, 0, 0x77, 1};
  rig_nd(&f, 136, RIG_US, mac, &gw, &us, &gw, 0xe0, 2);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(way_out(r), 1);
  rig_nd(&f, 136, RIG_US, mac, &gw, &us, &gw, 0x60, 2);
  assert_int_equal(rig_rx(r, 3, &f), RIG_DONE);
  assert_int_equal(way_out(r), 0);
  /* A configured default route comes first. */
  struct np_addr any = {{0}};
  struct np_addr via = prefix(1);
  via.b[15] = 0x77;
  ra_usual(r, 1, 1800, 1 << 3);
  assert_int_equal(np_ip_route_add(r->ip, &any, 0, &via, 0), NP_ERR_OK);
  r->sent_count = 0;
  rig_send(r, &us, &FAR, NULL);
  assert_memory_equal(r->sent[0].b + 62, via.b, 16);
  assert_int_equal(np_ip_route_del(r->ip, &any, 0), NP_ERR_OK);
  assert_int_equal(np_ip_route_del(r->ip, &any, 0), NP_ERR_NOTFOUND); /* the router's is not the operator's */
  assert_int_equal(way_out(r), 1);
  rig_free(r);
}

/* MTU, hop limit, reachable and retransmission time, within reason. */
static void test_parameters(void **state) {
  (void)state;
  struct rig *r = start(true, 0, 9);
  give_prefix(r, 1, 0xc0, 9000, 9000);
  static const struct {
    uint32_t mtu;
    uint8_t hops;
    uint32_t mtu_after;
    uint8_t hops_after;
  } row[] = {{1400, 100, 1400, 100}, {1279, 31, 1400, 100}, {1501, 0, 1400, 100}, {1500, 255, 1500, 255}, {1280, 32, 1280, 32}};
  struct np_path path = {0};
  struct np_addr src = own(1);
  ra_usual(r, 1, 1800, 0);
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct ra m;
    uint8_t six[6] = {0, 0};
    np_store_be32(six + 2, row[i].mtu);
    ra_begin(&m, 1, 1800, 0);
    m.icmp[4] = row[i].hops;
    ra_option(&m, 5, six);
    assert_int_equal(ra_send(r, &m), RIG_DONE);
    assert_int_equal(np_ip_mtu(r->ip, &FAR), row[i].mtu_after);
    for (uint32_t k = 0; k < 2; k++) { /* without and with a path */
      r->sent_count = 0;
      assert_int_equal(rig_send(r, &src, &FAR, &path), NP_ERR_OK);
      assert_int_equal(r->sent[0].b[14 + 7], row[i].hops_after);
      assert_int_equal(path.mtu_bytes, row[i].mtu_after);
    }
  }
  rig_free(r);
}

/* The operator's hop limit comes before a router's. */
static void test_ra_hops_configured(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 9, .neigh_max = 16, .ttl = 77};
  struct rig *r = start_with(true, 0, &config);
  give_prefix(r, 1, 0xc0, 9000, 9000);
  struct np_addr src = own(1);
  struct np_path path = {0};
  struct ra m;
  ra_usual(r, 1, 1800, 0);
  ra_begin(&m, 1, 1800, 0);
  m.icmp[4] = 100;
  assert_int_equal(ra_send(r, &m), RIG_DONE);
  for (uint32_t k = 0; k < 2; k++) { /* without and with a path */
    r->sent_count = 0;
    assert_int_equal(rig_send(r, &src, &FAR, &path), NP_ERR_OK);
    assert_int_equal(r->sent[0].b[14 + 7], 77);
  }
  assert_true(path.link_len != 0);
  rig_free(r);
}

/* More routers and prefixes than are kept: the first ones stay, and nothing grows. */
static void test_flood(void **state) {
  (void)state;
  struct rig *r = start(true, 0, 10);
  uint32_t done = 0;
  for (uint32_t i = 1; i < 200; i++) {
    struct ra m;
    ra_begin(&m, (uint8_t)i, 1800, 0);
    for (uint8_t k = 0; k < 8; k++) {
      struct np_addr p = prefix((uint8_t)(i * 8 + k));
      p.b[6] = (uint8_t)i;
      ra_prefix(&m, &p, 64, 0xc0, 9000, 9000);
    }
    const uint8_t mac[6] = {2, 0, 0, 0, 0x77, (uint8_t)i};
    ra_option(&m, 1, mac);
    uint32_t why = ra_send(r, &m);
    assert_true(why == RIG_DONE || why == NP_DROP_ND_LIMIT);
    done += why == RIG_DONE;
  }
  assert_int_equal(done, 4);
  struct np_addr_info info[32];
  uint32_t cursor = 0;
  assert_int_equal(np_ip_addresses(r->ip, &cursor, info, 32, r->now_ns), 1 + 8);
  assert_in_range(r->counters.counter[NP_C_NEIGH_ENTRIES], 1, 4);
  assert_int_equal(way_out(r), 1);
  /* The operator's addresses still fit, and the same advertisement again makes no path stale. */
  for (uint8_t i = 1; i <= 7; i++) {
    struct np_addr a = frame_v4(198, 18, 3, i);
    assert_int_equal(np_ip_addr_add(r->ip, 0, &a, 24, r->now_ns), NP_ERR_OK);
  }
  rig_free(r);
}

/* RFC 4861 §6.1.2, and where the operator wants none. */
static void test_ra_malformed(void **state) {
  (void)state;
  struct rig *r = start(true, 0, 11);
  struct ra m;
  for (uint32_t how = 0; how < 7; how++) {
    struct np_addr p = prefix(1);
    ra_begin(&m, 1, 1800, 0);
    ra_prefix(&m, &p, 64, 0xc0, 900, 900);
    if (how == 0) m.icmp[1] = 1;
    if (how == 1) m.icmp[17] = 0;  /* an option of no length */
    if (how == 2) m.icmp[17] = 5;  /* longer than the message */
    if (how == 3) m.len = 15;
    if (how == 4) m.len = 44;      /* cut */
    (void)ra_send(r, &m);          /* builds the frame */
    if (how == 5) m.f.b[14 + 7] = 254;
    if (how == 6) { /* not from the link */
      m.f.b[14 + 8] = 0x20;
      frame_finish(&m.f, 58);
    }
    assert_int_equal(rig_rx(r, 3, &m.f), NP_DROP_ND_MALFORMED);
    if (how < 5) assert_int_equal(way_out(r), 0);
  }
  rig_free(r);
  r = start(false, 0, 12);
  ra_begin(&m, 1, 1800, 0);
  assert_int_equal(ra_send(r, &m), NP_DROP_ND_IGNORED);
  assert_int_equal(way_out(r), 0);
  /* Redirects are not followed. */
  struct np_addr src = router(1);
  struct np_addr ll = own(0);
  memset(ll.b, 0, 8);
  ll.b[0] = 0xfe;
  ll.b[1] = 0x80;
  const uint8_t mac[6] = {2, 0, 0, 0, 0x77, 1};
  struct frame f;
  rig_nd(&f, 137, RIG_US, mac, &src, &ll, &src, 0, 2);
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ND_IGNORED);
  rig_free(r);
}

/* Addresses of our own making that the kernel, with the same MAC, does not make. */
static void test_opaque(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 13};
  struct rig *r = rig_new(&config);
  for (uint16_t i = 0; i < 2; i++) {
    struct np_iface_config c = {.port = 3, .vlan = i, .mtu_bytes = 1500, .accept_ra = true, .opaque = true};
    memcpy(c.mac.b, RIG_US, 6);
    assert_int_equal(np_ip_iface_add(r->ip, i, &c), NP_ERR_OK);
    assert_int_equal(np_ip_iface_up(r->ip, i, true, r->now_ns), NP_ERR_OK);
  }
  give_prefix(r, 1, 0xc0, 900, 900);
  struct np_addr eui = own(1);
  struct np_addr_info info[8];
  uint32_t cursor = 0;
  assert_int_equal(np_ip_addresses(r->ip, &cursor, info, 8, r->now_ns), 3);
  assert_false(np_ip_is_local(r->ip, &eui));
  for (uint32_t i = 0; i < 3; i++) {
    assert_memory_not_equal(info[i].addr + 8, eui.b + 8, 8);
    for (uint32_t k = 0; k < i; k++) assert_memory_not_equal(info[i].addr + 8, info[k].addr + 8, 8);
  }
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_solicits), cmocka_unit_test(test_slaac),      cmocka_unit_test(test_two_hours),
      cmocka_unit_test(test_prefix_refused), cmocka_unit_test(test_on_link), cmocka_unit_test(test_routers),
      cmocka_unit_test(test_parameters), cmocka_unit_test(test_ra_hops_configured), cmocka_unit_test(test_flood),    cmocka_unit_test(test_ra_malformed),
      cmocka_unit_test(test_opaque),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
