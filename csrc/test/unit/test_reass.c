/* Reassembly and fragments of ours: what is put together, what is refused, and that every
 * fragment and every buffer is accounted for. */
#include "base/port.h"
#include "ip/internal.h"
#include "test/unit/ip_rig.h"

#define BIG 65535u

struct datagram {
  uint8_t b[BIG];
  uint32_t len;
  uint8_t proto;
  bool v6;
  uint8_t tos;
};

static struct np_addr us(bool v6) { return v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1); }
static struct np_addr peer(bool v6) { return v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2); }

static uint16_t l4_sum(const struct datagram *d) {
  struct np_addr src = peer(d->v6);
  struct np_addr dst = us(d->v6);
  uint32_t sum = 0;
  if (d->proto != 1) {
    sum = d->v6 ? frame_sum(frame_sum(0, src.b, 16), dst.b, 16) : frame_sum(frame_sum(0, src.b + 12, 4), dst.b + 12, 4);
    sum += d->proto + d->len;
  }
  return (uint16_t)~frame_sum(sum, d->b, d->len);
}

static void ping(struct datagram *d, bool v6, uint32_t bytes) {
  memset(d, 0, sizeof *d);
  d->v6 = v6;
  d->proto = v6 ? 58 : 1;
  d->b[0] = v6 ? 128 : 8;
  d->len = 8 + bytes;
  for (uint32_t i = 4; i < d->len; i++) d->b[i] = (uint8_t)(i * 7 + i / 251);
  np_store_be16(d->b + 2, l4_sum(d));
}

static void udp(struct datagram *d, bool v6, uint16_t port, uint32_t bytes) {
  memset(d, 0, sizeof *d);
  d->v6 = v6;
  d->proto = 17;
  d->len = 8 + bytes;
  np_store_be16(d->b, 40000);
  np_store_be16(d->b + 2, port);
  np_store_be16(d->b + 4, (uint16_t)d->len);
  for (uint32_t i = 8; i < d->len; i++) d->b[i] = (uint8_t)(i * 3 + i / 253);
  np_store_be16(d->b + 6, l4_sum(d));
}

static void tcp(struct datagram *d, bool v6, uint32_t bytes) {
  memset(d, 0, sizeof *d);
  d->v6 = v6;
  d->proto = 6;
  d->len = 20 + bytes;
  np_store_be16(d->b, 40000);
  np_store_be16(d->b + 2, 80);
  d->b[12] = 5 << 4;
  d->b[13] = 0x10;
  for (uint32_t i = 20; i < d->len; i++) d->b[i] = (uint8_t)(i * 5);
  np_store_be16(d->b + 16, l4_sum(d));
}

static void frag_from(struct frame *f, const struct datagram *d, const struct np_addr *src, uint32_t id, uint32_t off, uint32_t len, bool more) {
  struct np_addr dst = us(d->v6);
  frame_eth(f, RIG_US, RIG_PEER, 0, d->v6 ? 0x86dd : 0x0800);
  frame_ip(f, src, &dst, d->v6 ? 44 : d->proto, 64);
  if (d->v6) {
    uint8_t h[8] = {d->proto};
    np_store_be16(h + 2, (uint16_t)(off | (more ? 1u : 0u)));
    np_store_be32(h + 4, id);
    frame_add(f, h, 8);
    f->b[f->l3] |= d->tos >> 4;
    f->b[f->l3 + 1] = (uint8_t)(d->tos << 4);
  } else {
    np_store_be16(f->b + f->l3 + 4, (uint16_t)id);
    np_store_be16(f->b + f->l3 + 6, (uint16_t)(off / 8 | (more ? 0x2000u : 0u)));
    f->b[f->l3 + 1] = d->tos;
  }
  assert_true(f->len + len <= sizeof f->b);
  frame_add(f, d->b + off, len);
  frame_finish(f, 0);
}

static uint32_t frag(struct rig *r, const struct datagram *d, uint32_t id, uint32_t off, uint32_t len, bool more) {
  struct frame f;
  struct np_addr src = peer(d->v6);
  frag_from(&f, d, &src, id, off, len, more);
  return rig_rx(r, 3, &f);
}

/* All of d in pieces of each bytes, in order. Return: what became of the last. */
static uint32_t all(struct rig *r, const struct datagram *d, uint32_t id, uint32_t each) {
  uint32_t out = RIG_HELD;
  for (uint32_t off = 0; off < d->len; off += each) {
    assert_int_equal(out, RIG_HELD);
    uint32_t n = np_min_u32(each, d->len - off);
    out = frag(r, d, id, off, n, off + n < d->len);
  }
  return out;
}

/* Fragment of a datagram with IPv4 options in its header. */
static uint32_t frag_options(struct rig *r, const struct datagram *d, uint32_t id, uint32_t off, uint32_t len, bool more, const uint8_t *opt,
                             uint32_t opt_len) {
  struct frame f;
  struct np_addr src = peer(false);
  frag_from(&f, d, &src, id, off, len, more);
  memmove(f.b + f.l3 + 20 + opt_len, f.b + f.l3 + 20, f.len - f.l3 - 20);
  memcpy(f.b + f.l3 + 20, opt, opt_len);
  f.len += opt_len;
  f.b[f.l3] = (uint8_t)(0x40 | (5 + opt_len / 4));
  np_store_be16(f.b + f.l3 + 2, (uint16_t)(f.len - f.l3));
  np_store_be16(f.b + f.l3 + 10, 0);
  np_store_be16(f.b + f.l3 + 10, (uint16_t)~frame_sum(0, f.b + f.l3, 20 + opt_len));
  return rig_rx(r, 3, &f);
}

/* Puts what was sent together; every packet's headers are checked. Return: bytes. */
static uint32_t collect(struct rig *r, bool v6, uint8_t *out, uint32_t mtu) {
  uint32_t len = 0;
  uint32_t id = 0;
  for (uint32_t i = 0; i < r->sent_count; i++) {
    const struct rig_frame *s = &r->sent[i];
    struct np_pkt pkt;
    rig_parse(s, &pkt);
    assert_true(s->len <= mtu + 14);
    if (r->sent_count == 1 && pkt.l4_proto != NP_PROTO_FRAGMENT) {
      memcpy(out, s->b + pkt.l4_off, pkt.l4_len);
      return pkt.l4_len;
    }
    assert_int_equal(pkt.l4_proto, NP_PROTO_FRAGMENT);
    const uint8_t *h = s->b + (v6 ? pkt.l4_off - 8 : 14);
    uint32_t off = v6 ? np_load_be16(h + 2) & 0xfff8u : (np_load_be16(h + 6) & 0x1fffu) * 8;
    bool more = v6 ? h[3] & 1 : (h[6] & 0x20) != 0;
    uint32_t this = v6 ? np_load_be32(h + 4) : np_load_be16(h + 4);
    assert_true(i == 0 || this == id);
    id = this;
    assert_int_equal(off, len);
    assert_int_equal(more, i + 1 < r->sent_count);
    if (more) assert_int_equal(pkt.l4_len % 8, 0);
    memcpy(out + off, s->b + pkt.l4_off, pkt.l4_len);
    len += pkt.l4_len;
  }
  return len;
}

static uint64_t held(const struct rig *r) { return r->counters.counter[NP_C_IP_FRAGS_HELD]; }
static uint64_t drops(const struct rig *r, enum np_drop d) { return r->counters.drop[d]; }

/* Nothing waits, and whoever counted has seen all (rx drops are only those of the layer itself here). */
static void idle(struct rig *r) {
  assert_int_equal(held(r), 0);
  assert_int_equal(r->pool.free_count, r->pool.count);
}

static void test_echo_sizes(void **state) {
  (void)state;
  static const uint32_t bytes[] = {9, 1000, 1472, 1473, 3000, 20000, 65507};
  static struct datagram d;
  static uint8_t out[BIG];
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    for (size_t i = 0; i < NP_COUNT_OF(bytes); i++) {
      uint32_t each = bytes[i] < 1400 ? 8 * ((bytes[i] / 16) + 1) : 1440;
      ping(&d, v6, v6 && bytes[i] == 65507 ? 65519 : bytes[i]);
      r->sent_count = 0;
      uint64_t before = r->counters.counter[NP_C_DELIVERED_PKTS];
      assert_int_equal(all(r, &d, 77 + (uint32_t)i, each), RIG_DONE);
      /* the last one is counted by the caller */
      assert_int_equal(r->counters.counter[NP_C_DELIVERED_PKTS] - before, (d.len + each - 1) / each - 1);
      d.b[0] = v6 ? 129 : 0;
      assert_int_equal(collect(r, v6, out, 1500), d.len);
      assert_memory_equal(out, d.b, 2);
      assert_memory_equal(out + 4, d.b + 4, d.len - 4);
      np_store_be16(d.b + 2, 0);
      struct np_addr a = us(v6);
      struct np_addr b = peer(v6);
      uint64_t pseudo = v6 ? np_cksum_pseudo(&a, &b, 58, d.len) : 0;
      assert_int_equal(np_cksum_fold(np_cksum_add(pseudo, out, d.len)), 0xffff);
      idle(r);
    }
  }
  assert_int_equal(r->counters.counter[NP_C_ICMP_ECHO], 2 * NP_COUNT_OF(bytes));
  assert_int_equal(r->counters.counter[NP_C_IP_REASSEMBLED], 2 * NP_COUNT_OF(bytes));
  assert_true(r->counters.counter[NP_C_IP_FRAGS_TX] > 100);
  rig_free(r);
}

/* Identification of the first fragment of the answer to a large ping. */
static uint32_t answer_id(struct rig *r, bool v6) {
  static struct datagram d;
  ping(&d, v6, 3000);
  r->sent_count = 0;
  assert_int_equal(all(r, &d, 5, 1440), RIG_DONE);
  assert_true(r->sent_count > 1);
  struct np_pkt pkt;
  rig_parse(&r->sent[0], &pkt);
  return v6 ? np_load_be32(r->sent[0].b + pkt.l4_off - 4) : np_load_be16(r->sent[0].b + 14 + 4);
}

/* RFC 7739 §5.3: identifications to one destination count up from where nobody outside can know. */
static void test_identifications(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    uint32_t first[4];
    uint32_t mask = v6 ? UINT32_MAX : UINT16_MAX;
    for (uint32_t seed = 0; seed < NP_COUNT_OF(first); seed++) {
      struct np_ip_config config = {.seed = 100 + seed};
      struct rig *r = rig_usual(&config);
      first[seed] = answer_id(r, v6);
      for (uint32_t i = 1; i < 4; i++) assert_int_equal(answer_id(r, v6), (first[seed] + i) & mask);
      for (uint32_t i = 0; i < seed; i++) assert_int_not_equal(first[i], first[seed]);
      idle(r);
      rig_free(r);
    }
  }
}

/* On a jumbo link an answer leaves whole, but in no more pieces than a port takes, however many fragments asked. */
static void test_jumbo_answers(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_mtu(&config, 9000);
  for (int v6 = 0; v6 < 2; v6++) {
    for (uint32_t each = 1440; each >= 240; each -= 120) {
      ping(&d, v6, 7000);
      r->sent_count = 0;
      assert_int_equal(all(r, &d, each, each), RIG_DONE);
      assert_int_equal(r->sent_count, 1);
      assert_int_equal(r->sent[0].total, 14u + (v6 ? 40u : 20u) + d.len);
      assert_in_range(r->sent[0].pieces, 2, NP_PORT_PIECES_MAX);
      idle(r);
    }
  }
  rig_free(r);
}

static void test_udp_echo(void **state) {
  (void)state;
  static struct datagram d;
  static uint8_t out[BIG];
  struct np_ip_config config = {.seed = 1, .udp_echo_port = 7, .udp_discard_port = 9};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    udp(&d, v6, 7, 5000);
    r->sent_count = 0;
    assert_int_equal(all(r, &d, 5, 1448), RIG_DONE);
    assert_int_equal(collect(r, v6, out, 1500), d.len);
    assert_int_equal(np_load_be16(out), 7);
    assert_memory_equal(out + 8, d.b + 8, d.len - 8);
    udp(&d, v6, 9, 5000);
    assert_int_equal(all(r, &d, 6, 1448), RIG_DONE);
    udp(&d, v6, 7, 3000);
    d.b[100] ^= 1;
    assert_int_equal(all(r, &d, 7, 1448), NP_DROP_UDP_CHECKSUM);
    idle(r);
  }
  rig_free(r);
}

/* Every order of four fragments; TCP comes back in one piece. */
static void test_orders(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  uint32_t id = 0;
  for (int v6 = 0; v6 < 2; v6++) {
    tcp(&d, v6, 1436);
    for (uint32_t perm = 0; perm < 24; perm++) {
      uint32_t left[4] = {0, 1, 2, 3};
      uint32_t p = perm;
      id++;
      for (uint32_t n = 4; n > 0; n--) {
        uint32_t k = p % n;
        uint32_t at = left[k];
        p /= n;
        memmove(left + k, left + k + 1, (n - k - 1) * sizeof left[0]);
        uint32_t got = frag(r, &d, id, at * 400, at == 3 ? d.len - 1200 : 400, at != 3);
        assert_int_equal(got, n == 1 ? RIG_TCP : RIG_HELD);
      }
      idle(r);
    }
  }
  rig_free(r);
}

/* An exact copy changes nothing; anything else that overlaps kills the datagram and what comes later. */
static void test_overlaps(void **state) {
  (void)state;
  static const struct {
    uint32_t off, len;
    bool more;
  } bad[] = {
      {400, 400, true},  /* the tail of the first, the head of the second */
      {0, 808, true},    /* all of the first and more */
      {8, 8, true},      /* inside (teardrop) */
      {792, 8, true},    /* the last word */
      {0, 8, true},      /* the head again: rewrites a header */
      {800, 400, false}, /* ends within what is held */
      {0, 800, true},    /* the same place, other bytes */
  };
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    for (size_t i = 0; i < NP_COUNT_OF(bad); i++) {
      uint32_t id = 100 + (uint32_t)i;
      ping(&d, v6, 2392); /* three times 800 */
      assert_int_equal(frag(r, &d, id, 0, 800, true), RIG_HELD);
      assert_int_equal(frag(r, &d, id, 800, 800, true), RIG_HELD);
      assert_int_equal(frag(r, &d, id, 0, 800, true), NP_DROP_IP_FRAG_DUP);
      assert_int_equal(frag(r, &d, id, 800, 800, true), NP_DROP_IP_FRAG_DUP);
      assert_int_equal(held(r), 2);
      uint64_t n = drops(r, NP_DROP_IP_FRAG_OVERLAP);
      for (uint32_t k = 8; k < d.len; k++) d.b[k] ^= 0x55;
      assert_int_equal(frag(r, &d, id, bad[i].off, bad[i].len, bad[i].more), NP_DROP_IP_FRAG_OVERLAP);
      assert_int_equal(drops(r, NP_DROP_IP_FRAG_OVERLAP) - n, 2); /* the third is the caller's */
      assert_int_equal(held(r), 0);
      assert_int_equal(frag(r, &d, id, 1600, 800, false), NP_DROP_IP_FRAG_OVERLAP);
      assert_int_equal(r->pool.free_count, r->pool.count);
    }
  }
  assert_int_equal(r->sent_count, 0); /* silently (RFC 5722) */
  rig_advance(r, 61 * RIG_S);
  ping(&d, true, 2392);
  assert_int_equal(all(r, &d, 100, 800), RIG_DONE); /* the number is good again */
  rig_free(r);
}

static void test_ends(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    ping(&d, v6, 4000);
    /* two different ends, and data beyond the end */
    assert_int_equal(frag(r, &d, 1, 800, 400, false), RIG_HELD);
    assert_int_equal(frag(r, &d, 1, 1200, 400, false), NP_DROP_IP_FRAG_OVERLAP);
    assert_int_equal(frag(r, &d, 2, 800, 400, false), RIG_HELD);
    assert_int_equal(frag(r, &d, 2, 1600, 400, true), NP_DROP_IP_FRAG_OVERLAP);
    assert_int_equal(frag(r, &d, 3, 1600, 400, true), RIG_HELD);
    assert_int_equal(frag(r, &d, 3, 800, 400, false), NP_DROP_IP_FRAG_OVERLAP);
    /* up to the end exactly, and yet more to come */
    assert_int_equal(frag(r, &d, 4, 800, 400, false), RIG_HELD);
    assert_int_equal(frag(r, &d, 4, 400, 800, true), NP_DROP_IP_FRAG_OVERLAP);
    assert_int_equal(frag(r, &d, 5, 1200, 400, false), RIG_HELD);
    assert_int_equal(frag(r, &d, 5, 800, 800, true), NP_DROP_IP_FRAG_OVERLAP);
    assert_int_equal(held(r), 0);
  }
  rig_free(r);
}

static uint32_t raw6(struct rig *r, uint8_t next, uint16_t frag_off, const uint8_t *body, uint32_t len) {
  struct frame f;
  struct np_addr src = peer(true);
  struct np_addr dst = us(true);
  uint8_t h[8] = {next, 0, 0, 0, 0, 0, 0, 42};
  np_store_be16(h + 2, frag_off);
  frame_eth(&f, RIG_US, RIG_PEER, 0, 0x86dd);
  frame_ip(&f, &src, &dst, 44, 64);
  frame_add(&f, h, 8);
  frame_add(&f, body, len);
  frame_finish(&f, 0);
  return rig_rx(r, 3, &f);
}

static void test_malformed(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    udp(&d, v6, 7, 1000);
    r->sent_count = 0;
    assert_int_equal(frag(r, &d, 1, 0, 12, true), NP_DROP_IP_FRAG_BAD); /* no multiple of eight */
    assert_int_equal(r->sent_count, v6 ? 1 : 0);
    if (v6) { /* parameter problem, code 0, at the payload length */
      assert_int_equal(r->sent[0].b[54], 4);
      assert_int_equal(r->sent[0].b[55], 0);
      assert_int_equal(np_load_be32(r->sent[0].b + 58), 4);
    }
    assert_int_equal(frag(r, &d, 1, 8, 0, false), NP_DROP_IP_FRAG_BAD);
    /* ping of death: ends behind 65,535 */
    r->sent_count = 0;
    struct frame f;
    struct np_addr src = peer(v6);
    frag_from(&f, &d, &src, 9, 0, 1000, false);
    np_store_be16(f.b + (v6 ? f.l4 + 2 : f.l3 + 6), v6 ? 0xfff8 : 0x1fff);
    if (!v6) frame_ip4_sum(&f);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_FRAG_BAD);
    assert_int_equal(r->sent_count, v6 ? 1 : 0);
    if (v6) assert_int_equal(np_load_be32(r->sent[0].b + 58), 42);
  }
  /* no answer when it may be an error itself */
  ping(&d, true, 1000);
  r->sent_count = 0;
  assert_int_equal(frag(r, &d, 1, 0, 12, true), NP_DROP_IP_FRAG_BAD);
  assert_int_equal(r->sent_count, 0);
  /* a fragment inside the whole */
  uint8_t inner[16] = {17, 0, 0, 1, 0, 0, 0, 1};
  assert_int_equal(raw6(r, 44, 1, inner, 16), NP_DROP_IP_FRAG_TINY);
  assert_int_equal(held(r), 0);
  rig_free(r);
}

/* RFC 1858, RFC 3128, RFC 7112. */
static void test_tiny(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    tcp(&d, v6, 600);
    r->sent_count = 0;
    assert_int_equal(frag(r, &d, 1, 0, 8, true), NP_DROP_IP_FRAG_TINY);
    assert_int_equal(frag(r, &d, 1, 0, 16, true), NP_DROP_IP_FRAG_TINY);
    assert_int_equal(r->sent_count, v6 ? 2 : 0);
    if (v6) assert_int_equal(r->sent[0].b[55], 3); /* RFC 7112 §6: code 3, pointer 0 */
    d.b[12] = 8 << 4; /* options beyond the fragment */
    assert_int_equal(frag(r, &d, 1, 0, 24, true), NP_DROP_IP_FRAG_TINY);
    d.b[12] = 5 << 4;
    assert_int_equal(frag(r, &d, 1, 0, 24, true), RIG_HELD);
    assert_int_equal(frag(r, &d, 2, 8, 16, true), v6 ? RIG_HELD : NP_DROP_IP_FRAG_TINY);
  }
  uint8_t options[16] = {17, 1}; /* destination options of 16 bytes, UDP behind them in the next fragment */
  assert_int_equal(raw6(r, 60, 1, options, 16), NP_DROP_IP_FRAG_TINY);
  uint8_t hop[16] = {17, 0, 1, 4};
  assert_int_equal(raw6(r, 60, 1, hop, 16), RIG_HELD);
  rig_free(r);
}

static void test_atomic(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  ping(&d, true, 100);
  assert_int_equal(frag(r, &d, 42, 0, 56, true), RIG_HELD);
  assert_int_equal(frag(r, &d, 42, 0, 108, false), RIG_DONE); /* RFC 6946: apart from those with its number */
  assert_int_equal(r->sent_count, 1);
  assert_int_equal(held(r), 1);
  assert_int_equal(frag(r, &d, 42, 56, 52, false), RIG_DONE);
  assert_int_equal(r->sent_count, 2);
  /* RFC 6980: neighbor discovery is never in fragments, atomic ones included */
  ping(&d, true, 16);
  d.b[0] = 135;
  struct np_addr target = us(true);
  memcpy(d.b + 8, target.b, 16);
  np_store_be16(d.b + 2, 0);
  np_store_be16(d.b + 2, l4_sum(&d));
  struct frame f;
  struct np_addr src = peer(true);
  frag_from(&f, &d, &src, 1, 0, 24, false);
  f.b[f.l3 + 7] = 255;
  assert_int_equal(rig_rx(r, 3, &f), NP_DROP_ND_MALFORMED);
  rig_free(r);
}

/* RFC 3168 §5.3. */
static void test_ecn(void **state) {
  (void)state;
  static const struct {
    uint8_t a, b, out;
  } row[] = {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3}, {2, 3, 3}, {3, 1, 3}, {0, 2, 0}, {1, 0, 0}, {0, 3, 9}, {3, 0, 9}};
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
      ping(&d, v6, 1000);
      r->sent_count = 0;
      uint64_t n = drops(r, NP_DROP_IP_FRAG_ECN);
      d.tos = 0x48 | row[i].a;
      assert_int_equal(frag(r, &d, (uint32_t)i, 0, 800, true), RIG_HELD);
      d.tos = 0x48 | row[i].b;
      uint32_t got = frag(r, &d, (uint32_t)i, 800, 208, false);
      if (row[i].out == 9) {
        assert_int_equal(got, RIG_HELD);
        assert_int_equal(drops(r, NP_DROP_IP_FRAG_ECN) - n, 2);
      } else { /* echo sends the class it got */
        assert_int_equal(got, RIG_DONE);
        struct np_pkt pkt;
        rig_parse(&r->sent[0], &pkt);
        assert_int_equal(pkt.tos, 0x48 | row[i].out);
      }
      idle(r);
    }
  }
  rig_free(r);
}

static void test_expiry(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    uint64_t n = drops(r, NP_DROP_IP_FRAG_TIMEOUT);
    udp(&d, v6, 7, 3000);
    assert_int_equal(frag(r, &d, 1, 0, 1000, true), RIG_HELD);
    assert_int_equal(frag(r, &d, 2, 1000, 1000, true), RIG_HELD); /* no first fragment: silence */
    r->sent_count = 0;
    rig_advance(r, (v6 ? 59 : 29) * RIG_S);
    assert_int_equal(frag(r, &d, 1, 1000, 1000, true), RIG_HELD); /* does not prolong it */
    assert_int_equal(r->sent_count, 0);
    assert_int_equal(held(r), 3);
    rig_advance(r, 2 * RIG_S);
    assert_int_equal(drops(r, NP_DROP_IP_FRAG_TIMEOUT) - n, 3);
    idle(r);
    assert_int_equal(r->sent_count, 1);
    const struct rig_frame *s = &r->sent[0];
    struct np_pkt pkt;
    rig_parse(s, &pkt);
    assert_int_equal(s->b[pkt.l4_off], v6 ? 3 : 11);
    assert_int_equal(s->b[pkt.l4_off + 1], 1);
    /* quotes the first fragment as it came */
    struct frame f;
    struct np_addr src = peer(v6);
    frag_from(&f, &d, &src, 1, 0, 1000, true);
    assert_memory_equal(s->b + pkt.l4_off + 8, f.b + f.l3, pkt.l4_len - 8u);
  }
  /* an error message in fragments is not answered */
  ping(&d, false, 3000);
  d.b[0] = 3;
  r->sent_count = 0;
  assert_int_equal(frag(r, &d, 3, 0, 1000, true), RIG_HELD);
  rig_advance(r, 31 * RIG_S);
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

/* Limits: by source, in all, fragments of one, buffers of all, the pool. */
static void test_limits(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1, .reass_max = 16, .reass_source_max = 4, .reass_bufs_max = 64};
  struct rig *r = rig_usual(&config);
  struct frame f;
  udp(&d, false, 7, 2000);
  for (uint32_t id = 0; id < 6; id++) assert_int_equal(frag(r, &d, id, 0, 800, true), RIG_HELD);
  assert_int_equal(held(r), 4);
  assert_int_equal(drops(r, NP_DROP_IP_FRAG_LIMIT), 2); /* the oldest of this source */
  assert_int_equal(frag(r, &d, 5, 800, 1208, false), NP_DROP_UDP_PORT); /* the newest are there */
  for (uint32_t i = 0; i < 40; i++) {
    struct np_addr src = frame_v4(198, 18, 0, (uint8_t)(10 + i));
    frag_from(&f, &d, &src, 1, 0, 800, true);
    assert_int_equal(rig_rx(r, 3, &f), RIG_HELD);
    assert_true(held(r) <= 16);
  }
  rig_advance(r, 31 * RIG_S);
  idle(r);
  /* one datagram of too many pieces dies */
  uint64_t n = drops(r, NP_DROP_IP_FRAG_LIMIT);
  for (uint32_t i = 0; i < 64; i++) assert_int_equal(frag(r, &d, 9, i * 24, 8, true), RIG_HELD);
  assert_int_equal(frag(r, &d, 9, 64 * 24, 8, true), NP_DROP_IP_FRAG_LIMIT);
  assert_int_equal(drops(r, NP_DROP_IP_FRAG_LIMIT) - n, 64);
  assert_int_equal(frag(r, &d, 9, 65 * 24, 8, true), NP_DROP_IP_FRAG_LIMIT);
  idle(r);
  /* the buffers of all: the oldest gives way */
  for (uint32_t i = 0; i < 60; i++) assert_int_equal(frag(r, &d, 10, i * 24, 8, true), RIG_HELD);
  for (uint32_t i = 0; i < 10; i++) assert_int_equal(frag(r, &d, 11, i * 24, 8, true), RIG_HELD);
  assert_int_equal(held(r), 10);
  rig_free(r);
}

static void test_pool_short(void **state) {
  (void)state;
  static struct datagram d;
  static uint8_t out[BIG];
  struct np_buf *taken[RIG_BUFS];
  uint32_t n = 0;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  ping(&d, false, 3000);
  assert_int_equal(frag(r, &d, 1, 0, 1400, true), RIG_HELD);
  while (r->pool.free_count > 20) taken[n++] = np_pool_get(&r->pool);
  assert_int_equal(frag(r, &d, 1, 1400, 1400, true), NP_DROP_NO_BUFFER);
  assert_int_equal(frag(r, &d, 2, 1400, 1400, true), NP_DROP_NO_BUFFER);
  assert_int_equal(held(r), 1);
  while (n > 0) np_buf_put(taken[--n]);
  assert_int_equal(frag(r, &d, 1, 1400, 1400, true), RIG_HELD);
  assert_int_equal(frag(r, &d, 1, 2800, 208, false), RIG_DONE);
  assert_int_equal(collect(r, false, out, 1500), d.len);
  /* whole, but no buffers for the answer's fragments: dropped and counted, nothing half sent */
  ping(&d, false, 60000);
  r->sent_count = 0;
  for (uint32_t off = 0; off + 1400 < d.len; off += 1400) assert_int_equal(frag(r, &d, 3, off, 1400, true), RIG_HELD);
  while (r->pool.free_count > 33) taken[n++] = np_pool_get(&r->pool);
  assert_int_equal(frag(r, &d, 3, d.len / 1400 * 1400, d.len % 1400, false), RIG_DONE);
  assert_int_equal(r->sent_count, 0);
  assert_int_equal(drops(r, NP_DROP_TX_NO_BUFFER), 1);
  while (n > 0) np_buf_put(taken[--n]);
  idle(r);
  rig_free(r);
}

/* What belongs to others, or to an interface that goes. */
static void test_apart(void **state) {
  (void)state;
  static struct datagram d;
  struct np_ip_config config = {.seed = 1};
  struct rig *r = rig_usual(&config);
  for (int v6 = 0; v6 < 2; v6++) {
    udp(&d, v6, 7, 1000);
    struct frame f;
    struct np_addr other = v6 ? frame_v6(7) : frame_v4(198, 18, 0, 7);
    assert_int_equal(frag(r, &d, 1, 0, 800, true), RIG_HELD);
    frag_from(&f, &d, &other, 1, 800, 208, false);
    assert_int_equal(rig_rx(r, 3, &f), RIG_HELD);
    assert_int_equal(frag(r, &d, 2, 800, 208, false), RIG_HELD);
    assert_int_equal(held(r), 3);
    struct np_addr far = v6 ? frame_v6(99) : frame_v4(198, 18, 0, 99);
    memcpy(f.b + f.l3 + (v6 ? 24 : 16), far.b + (v6 ? 0 : 12), v6 ? 16 : 4);
    if (!v6) frame_ip4_sum(&f);
    assert_int_equal(rig_rx(r, 3, &f), NP_DROP_IP_DST);
    uint64_t n = drops(r, NP_DROP_IP_FRAG_TIMEOUT);
    np_ip_iface_up(r->ip, 0, false, r->now_ns);
    assert_int_equal(drops(r, NP_DROP_IP_FRAG_TIMEOUT) - n, 3);
    idle(r);
    np_ip_iface_up(r->ip, 0, true, r->now_ns);
  }
  udp(&d, false, 7, 1000);
  assert_int_equal(frag(r, &d, 1, 0, 800, true), RIG_HELD);
  rig_free(r); /* the layer gives back what it holds */
}

/* Each fragment has options of its own (only some are copied, RFC 791 §3.1); the first one's are the whole's. */
static void test_options4(void **state) {
  (void)state;
  static const uint8_t first[12] = {7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  static const uint8_t later[4] = {148, 4, 0, 0};
  static const uint8_t route[8] = {131, 7, 4, 198, 18, 0, 9, 0};
  struct np_ip_config config = {.seed = 9, .udp_echo_port = 7};
  struct rig *r = rig_usual(&config);
  static struct datagram d;
  static uint8_t out[BIG];
  udp(&d, false, 7, 1992);
  assert_int_equal(frag_options(r, &d, 1, 800, 800, true, later, 4), RIG_HELD);
  assert_int_equal(frag_options(r, &d, 1, 0, 800, true, first, 12), RIG_HELD);
  assert_int_equal(frag_options(r, &d, 1, 1600, 400, false, route, 8), NP_DROP_IP_SOURCE_ROUTE);
  assert_int_equal(frag(r, &d, 1, 1600, 400, false), RIG_DONE);
  assert_int_equal(collect(r, false, out, 1500), d.len);
  assert_memory_equal(out + 8, d.b + 8, d.len - 8);
  /* With 12 bytes of options more, the first fragment makes the whole too long. */
  r->sent_count = 0;
  udp(&d, false, 7, BIG - 20 - 8);
  uint32_t got = RIG_HELD;
  for (uint32_t off = 0; off < d.len && got == RIG_HELD; off += 1400) {
    uint32_t n = np_min_u32(1400, d.len - off);
    got = off == 0 ? frag_options(r, &d, 2, off, n, true, first, 12) : frag(r, &d, 2, off, n, off + n < d.len);
  }
  assert_int_equal(got, NP_DROP_IP_FRAG_BAD);
  assert_int_equal(r->sent_count, 0);
  idle(r);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_options4),
      cmocka_unit_test(test_jumbo_answers),
      cmocka_unit_test(test_echo_sizes), cmocka_unit_test(test_identifications), cmocka_unit_test(test_udp_echo), cmocka_unit_test(test_orders),
      cmocka_unit_test(test_overlaps),   cmocka_unit_test(test_ends),     cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_tiny),       cmocka_unit_test(test_atomic),   cmocka_unit_test(test_ecn),
      cmocka_unit_test(test_expiry),     cmocka_unit_test(test_limits),   cmocka_unit_test(test_pool_short),
      cmocka_unit_test(test_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
