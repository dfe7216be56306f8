#include <stdlib.h>

#include "base/pool.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/frame.h"
#include "wire/build.h"
#include "wire/pkt.h"

static const uint8_t US[6] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t PEER[6] = {0x02, 0, 0, 0, 0, 2};

/* A buffer that ends exactly where the frame ends, so that a sanitizer sees any read past it. */
static struct np_buf *as_buf(const struct frame *f) {
  struct np_buf *b = calloc(1, NP_BUF_DATA_OFF + f->len);
  b->data_off = NP_BUF_DATA_OFF;
  b->cap_bytes = NP_BUF_DATA_OFF + f->len;
  b->len = f->len;
  memcpy(np_buf_data(b), f->b, f->len);
  return b;
}

static enum np_drop parse(const struct frame *f, struct np_pkt *pkt) {
  struct np_buf *b = as_buf(f);
  enum np_drop why = np_wire_parse(b, pkt);
  if (why == NP_WIRE_OK) {
    assert_true(b->len <= f->len);
    assert_true(pkt->l3_off <= pkt->l4_off);
    assert_true(pkt->l4_off <= pkt->payload_off);
    assert_true((uint32_t)pkt->l4_off + pkt->l4_len <= b->len);
    assert_int_equal(b->l3_off, NP_BUF_DATA_OFF + pkt->l3_off);
    assert_int_equal(b->l4_off, NP_BUF_DATA_OFF + pkt->l4_off);
  }
  pkt->buf = NULL;
  free(b);
  return why;
}

enum kind { TCP4, TCP6, UDP4, UDP6, ICMP4, ICMP6, ARP, KIND_COUNT };

static uint8_t proto_of(enum kind kind) {
  static const uint8_t proto[] = {6, 6, 17, 17, 1, 58, 0};
  return proto[kind];
}

static void start(struct frame *f, enum kind kind, uint16_t vlan) {
  bool v6 = kind == TCP6 || kind == UDP6 || kind == ICMP6;
  struct np_addr src = v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2);
  struct np_addr dst = v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1);
  frame_eth(f, US, PEER, vlan, kind == ARP ? 0x0806 : v6 ? 0x86dd : 0x0800);
  if (kind != ARP) frame_ip(f, &src, &dst, proto_of(kind), 64);
}

static void body(struct frame *f, enum kind kind) {
  static const uint8_t echo4[12] = {8, 0, 0, 0, 1, 2, 0, 1, 'p', 'i', 'n', 'g'};
  static const uint8_t echo6[12] = {128, 0, 0, 0, 1, 2, 0, 1, 'p', 'i', 'n', 'g'};
  static const uint8_t arp[28] = {0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 198, 18, 0, 2, 0, 0, 0, 0, 0, 0, 198, 18, 0, 1};
  switch (kind) {
    case TCP4:
    case TCP6: frame_tcp(f, 40000, 80, 0x18, "payload", 7); break;
    case UDP4:
    case UDP6: frame_udp(f, 40000, 7, "payload", 7); break;
    case ICMP4: frame_add(f, echo4, 12); break;
    case ICMP6: frame_add(f, echo6, 12); break;
    default: frame_add(f, arp, 28); return;
  }
  frame_finish(f, proto_of(kind));
}

static void make(struct frame *f, enum kind kind, uint16_t vlan) {
  start(f, kind, vlan);
  body(f, kind);
}

static void test_good(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  for (enum kind kind = TCP4; kind < KIND_COUNT; kind++) {
    for (uint32_t tagged = 0; tagged < 2; tagged++) {
      make(&f, kind, tagged ? 0x2064 : 0);
      uint32_t len = f.len;
      f.len += 9; /* padding */
      assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
      assert_int_equal(pkt.vlan, tagged ? 100 : 0);
      assert_int_equal(pkt.l3_off, tagged ? 18 : 14);
      assert_int_equal(pkt.l4_proto, kind == ARP ? NP_PROTO_ARP : proto_of(kind));
      assert_int_equal(pkt.l4_off + pkt.l4_len, len);
      assert_int_equal(pkt.link_dst, NP_LINK_UNICAST);
      assert_memory_equal(pkt.src_mac.b, PEER, 6);
      bool v6 = kind == TCP6 || kind == UDP6 || kind == ICMP6;
      struct np_addr us = v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1);
      struct np_addr peer = v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2);
      assert_true(np_addr_eq(&pkt.flow.local, &us));
      assert_true(np_addr_eq(&pkt.flow.remote, &peer));
      bool ports = kind <= UDP6;
      assert_int_equal(pkt.flow.remote_port, ports ? 40000 : 0);
      assert_int_equal(pkt.flow.local_port, !ports ? 0 : kind <= TCP6 ? 80 : 7);
      if (kind <= TCP6) assert_int_equal(pkt.tcp_flags, 0x18);
      if (kind <= TCP6) assert_int_equal(pkt.payload_off, pkt.l4_off + 20);
    }
  }
}

/* Cut at every byte, with the Ethernet length the only thing that changed. */
static void test_truncated(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  for (enum kind kind = TCP4; kind < KIND_COUNT; kind++) {
    make(&f, kind, 5);
    uint32_t whole = f.len;
    for (uint32_t len = 0; len < whole; len++) {
      f.len = len;
      enum np_drop why = parse(&f, &pkt);
      if (len < 18) {
        assert_int_equal(why, NP_DROP_LINK_SHORT);
      } else if (kind == ARP) {
        assert_int_equal(why, NP_DROP_ARP_MALFORMED);
      } else {
        assert_int_equal(why, NP_DROP_IP_SHORT);
      }
    }
  }
}

/* Cut at every byte of the upper layer, with the IP lengths made to match. */
static void test_truncated_l4(void **state) {
  (void)state;
  static const struct {
    enum kind kind;
    uint32_t header;
    enum np_drop why;
  } row[] = {
      {TCP4, 20, NP_DROP_TCP_SHORT},  {TCP6, 20, NP_DROP_TCP_SHORT},  {UDP4, 15, NP_DROP_UDP_SHORT},
      {UDP6, 15, NP_DROP_UDP_SHORT},  {ICMP4, 8, NP_DROP_ICMP_SHORT}, {ICMP6, 8, NP_DROP_ICMP_SHORT},
  };
  struct frame f;
  struct np_pkt pkt;
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    for (uint32_t len = 0; len < row[i].header; len++) {
      make(&f, row[i].kind, 0);
      f.len = f.l4 + len;
      frame_finish(&f, 0);
      assert_int_equal(parse(&f, &pkt), row[i].why);
    }
  }
}

/* One byte changed, the IPv4 header checksum made right again: the reason. */
static void test_changed_byte(void **state) {
  (void)state;
  static const struct {
    enum kind kind;
    uint32_t at;
    uint8_t value;
    enum np_drop why;
  } row[] = {
      {TCP4, 6, 0x01, NP_DROP_LINK_SRC},
      {TCP4, 12, 0x88, NP_DROP_LINK_TYPE}, /* 0x8800 */
      {TCP4, 12, 0x05, NP_DROP_LINK_TYPE}, /* an 802.3 length */
      {TCP4, 14, 0x65, NP_DROP_IP_VERSION},
      {TCP4, 14, 0x44, NP_DROP_IP_HEADER},
      {TCP4, 14, 0x46, NP_DROP_IP_CHECKSUM}, /* it is of five words */
      {TCP4, 14, 0x4f, NP_DROP_IP_SHORT}, /* longer than the packet */
      {TCP4, 16, 0xff, NP_DROP_IP_SHORT},
      {TCP4, 17, 19, NP_DROP_IP_SHORT},
      {TCP4, 20, 0x40, NP_WIRE_OK}, /* DF */
      {TCP4, 26, 0, NP_DROP_IP_SRC},
      {TCP4, 26, 127, NP_DROP_IP_SRC},
      {TCP4, 26, 224, NP_DROP_IP_SRC},
      {TCP4, 26, 255, NP_DROP_IP_SRC},
      {TCP4, 29, 1, NP_DROP_IP_SRC}, /* source is the destination */
      {TCP4, 34 + 12, 0x40, NP_DROP_TCP_OFFSET},
      {TCP4, 34 + 12, 0x70, NP_DROP_TCP_OFFSET}, /* 28 bytes in 27 */
      {TCP4, 34 + 16, 0xee, NP_DROP_TCP_CHECKSUM},
      {TCP4, 34 + 26, 'X', NP_DROP_TCP_CHECKSUM},
      {TCP6, 14, 0x45, NP_DROP_IP_VERSION},
      {TCP6, 18, 0x01, NP_DROP_IP_SHORT},
      {TCP6, 22, 0xff, NP_DROP_IP_SRC},
      {TCP6, 37, 1, NP_DROP_IP_SRC},
      {TCP6, 54 + 12, 0x10, NP_DROP_TCP_OFFSET},
      {TCP6, 54 + 17, 0xee, NP_DROP_TCP_CHECKSUM},
      {UDP4, 34 + 5, 7, NP_DROP_UDP_SHORT},
      {UDP4, 34 + 5, 16, NP_DROP_UDP_SHORT},
      {UDP4, 34 + 8, 'X', NP_DROP_UDP_CHECKSUM},
      {UDP6, 54 + 8, 'X', NP_DROP_UDP_CHECKSUM},
      {ICMP4, 34 + 8, 'X', NP_DROP_ICMP_CHECKSUM},
      {ICMP6, 54 + 8, 'X', NP_DROP_ICMP_CHECKSUM},
      {ARP, 14, 1, NP_DROP_ARP_MALFORMED},     /* hardware type */
      {ARP, 16, 0x86, NP_DROP_ARP_MALFORMED},  /* protocol type */
      {ARP, 18, 8, NP_DROP_ARP_MALFORMED},     /* address lengths */
      {ARP, 19, 16, NP_DROP_ARP_MALFORMED},
      {ARP, 21, 3, NP_DROP_ARP_MALFORMED},     /* operation */
      {ARP, 22, 1, NP_DROP_ARP_MALFORMED},     /* sender is a group */
  };
  struct frame f;
  struct np_pkt pkt;
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    make(&f, row[i].kind, 0);
    assert_int_not_equal(f.b[row[i].at], row[i].value);
    f.b[row[i].at] = row[i].value;
    bool v4 = row[i].kind == TCP4 || row[i].kind == UDP4 || row[i].kind == ICMP4;
    if (v4) frame_ip4_sum(&f);
    enum np_drop why = parse(&f, &pkt);
    if (why != row[i].why) print_error("row %zu: got %s\n", i, np_drop_text(why));
    assert_int_equal(why, row[i].why);
  }
}

static void test_ip4_checksum(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  for (uint32_t bit = 0; bit < 160; bit++) {
    make(&f, UDP4, 0);
    f.b[14 + bit / 8] ^= (uint8_t)(1u << (bit % 8));
    enum np_drop why = parse(&f, &pkt);
    assert_int_not_equal(why, NP_WIRE_OK);
    if (bit / 8 >= 10) assert_int_equal(why, NP_DROP_IP_CHECKSUM);
  }
}

static void test_udp_zero_checksum(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  make(&f, UDP4, 0);
  np_store_be16(f.b + f.l4 + 6, 0);
  assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
  make(&f, UDP6, 0);
  np_store_be16(f.b + f.l4 + 6, 0);
  assert_int_equal(parse(&f, &pkt), NP_DROP_UDP_CHECKSUM);
}

static void test_checksum_vouched_for(void **state) {
  (void)state;
  struct np_pkt pkt;
  for (enum kind kind = TCP4; kind <= TCP6; kind++) {
    struct frame f;
    make(&f, kind, 0);
    f.b[f.l4 + 16] ^= 0xff;
    struct np_buf *b = as_buf(&f);
    b->flags = NP_BUF_L4_CSUM_OK;
    assert_int_equal(np_wire_parse(b, &pkt), NP_WIRE_OK);
    free(b);
  }
}

static void test_vlan(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  make(&f, TCP4, 0x6000); /* priority 3, VID 0: untagged */
  assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
  assert_int_equal(pkt.vlan, 0);
  make(&f, TCP4, 0x0fff);
  assert_int_equal(parse(&f, &pkt), NP_DROP_LINK_VLAN);
  make(&f, TCP4, 7);
  np_store_be16(f.b + 16, 0x8100); /* a tag in a tag */
  assert_int_equal(parse(&f, &pkt), NP_DROP_LINK_TYPE);
}

static void test_link_dst(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  make(&f, TCP4, 0);
  memset(f.b, 0xff, 6);
  assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
  assert_int_equal(pkt.link_dst, NP_LINK_BROADCAST);
  f.b[5] = 0;
  assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
  assert_int_equal(pkt.link_dst, NP_LINK_MULTICAST);
}

/* opt: the options' bytes; the header's length is set to words. */
static enum np_drop with_options(const uint8_t *opt, uint32_t len, uint8_t words, enum kind kind, struct np_pkt *pkt) {
  struct frame f;
  start(&f, kind, 0);
  frame_add(&f, opt, len);
  f.l4 = f.len;
  body(&f, kind);
  f.b[f.l3] = (uint8_t)(0x40 | words);
  np_store_be16(f.b + f.l3 + 10, 0);
  np_store_be16(f.b + f.l3 + 10, (uint16_t)~frame_sum(0, f.b + f.l3, 4u * words));
  return parse(&f, pkt);
}

/* RFC 1122 §3.2.1.8: known or not, options are skipped; RFC 7126: source routes are not. */
static void test_ip4_options(void **state) {
  (void)state;
  static const struct {
    uint8_t len;
    uint8_t opt[40];
    enum np_drop why;
  } row[] = {
      {4, {0, 0, 0, 0}, NP_WIRE_OK},
      {4, {1, 1, 1, 1}, NP_WIRE_OK},
      {4, {0, 131, 1, 0xff}, NP_WIRE_OK},                 /* what is behind the end is no option */
      {8, {1, 7, 7, 4, 0, 0, 0, 0}, NP_WIRE_OK},          /* record route */
      {8, {68, 8, 5, 0, 0, 0, 0, 0}, NP_WIRE_OK},         /* timestamp */
      {4, {148, 4, 0, 0}, NP_WIRE_OK},                    /* router alert (RFC 2113) */
      {12, {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, NP_WIRE_OK}, /* security (RFC 1108) */
      {4, {222, 4, 9, 9}, NP_WIRE_OK},                    /* unknown */
      {4, {222, 2, 30, 2}, NP_WIRE_OK},
      {40, {222, 40}, NP_WIRE_OK},
      {4, {222, 0, 0, 0}, NP_DROP_IP_OPTIONS},
      {4, {222, 1, 0, 0}, NP_DROP_IP_OPTIONS},
      {4, {222, 5, 0, 0}, NP_DROP_IP_OPTIONS},            /* into the next header */
      {4, {1, 1, 1, 7}, NP_DROP_IP_OPTIONS},              /* no room for a length */
      {4, {1, 1, 7, 3}, NP_DROP_IP_OPTIONS},
      {8, {131, 7, 4, 198, 18, 0, 9, 0}, NP_DROP_IP_SOURCE_ROUTE},
      {8, {137, 7, 8, 198, 18, 0, 9, 0}, NP_DROP_IP_SOURCE_ROUTE}, /* used up: seems to come from elsewhere */
      {8, {1, 131, 3, 4, 0, 0, 0, 0}, NP_DROP_IP_SOURCE_ROUTE},
      {8, {68, 4, 5, 0, 137, 3, 4, 0}, NP_DROP_IP_SOURCE_ROUTE},
      {4, {131, 9, 4, 0}, NP_DROP_IP_OPTIONS},
  };
  static const enum kind kinds[] = {TCP4, UDP4, ICMP4};
  struct np_pkt pkt;
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    for (size_t k = 0; k < NP_COUNT_OF(kinds); k++) {
      enum np_drop why = with_options(row[i].opt, row[i].len, (uint8_t)(5 + row[i].len / 4), kinds[k], &pkt);
      if (why != row[i].why) print_error("row %zu: got %s\n", i, np_drop_text(why));
      assert_int_equal(why, row[i].why);
      if (why == NP_WIRE_OK) assert_int_equal(pkt.l4_off, 34 + row[i].len);
    }
  }
  /* The header's checksum covers them. */
  struct frame f;
  start(&f, TCP4, 0);
  frame_add(&f, row[1].opt, 4);
  f.l4 = f.len;
  body(&f, TCP4);
  f.b[f.l3] = 0x46;
  frame_ip4_sum(&f);
  assert_int_equal(parse(&f, &pkt), NP_DROP_IP_CHECKSUM);
  /* Longer than the packet, and than the frame. */
  start(&f, TCP4, 0);
  frame_finish(&f, 0);
  f.b[f.l3] = 0x46;
  f.len += 4;
  frame_ip4_sum(&f);
  assert_int_equal(parse(&f, &pkt), NP_DROP_IP_SHORT);
  f.len -= 4;
  assert_int_equal(parse(&f, &pkt), NP_DROP_IP_SHORT);
}

/* IPv4 addresses in IPv6 headers would be taken for IPv4 inside. */
static void test_mapped_on_wire(void **state) {
  (void)state;
  struct frame f;
  struct np_pkt pkt;
  struct np_addr mapped = frame_v4(198, 18, 0, 2);
  struct np_addr loopback = {{[15] = 1}};
  struct np_addr none = {{0}};
  struct np_addr us = frame_v6(1);
  const struct np_addr *bad[] = {&mapped, &loopback, &none};
  for (size_t i = 0; i < NP_COUNT_OF(bad); i++) {
    make(&f, TCP6, 0);
    memcpy(f.b + 22, bad[i]->b, 16);
    frame_l4_sum(&f, 6, true);
    assert_int_equal(parse(&f, &pkt), NP_DROP_IP_SRC);
  }
  make(&f, TCP6, 0);
  memcpy(f.b + 38, mapped.b, 16);
  frame_l4_sum(&f, 6, true);
  assert_int_equal(parse(&f, &pkt), NP_DROP_IP_DST);
  frame_eth(&f, US, PEER, 0, 0x86dd);
  frame_ip(&f, &none, &us, 58, 255);
  body(&f, ICMP6);
  assert_int_equal(parse(&f, &pkt), NP_WIRE_OK); /* duplicate address detection looks so */
}

/* ext: extension headers, whose last next-header byte (at `next_at`) is set to TCP. */
static enum np_drop with_ext(uint8_t first, const uint8_t *ext, uint32_t len, struct np_pkt *pkt) {
  struct frame f;
  start(&f, TCP6, 0);
  f.b[f.l3 + 6] = first;
  frame_add(&f, ext, len);
  f.l4 = f.len;
  frame_tcp(&f, 40000, 80, 0x10, "x", 1);
  frame_finish(&f, 0);
  /* The pseudo header counts the upper layer only (RFC 8200 §8.1). */
  frame_l4_sum(&f, 6, true);
  return parse(&f, pkt);
}

static void test_extension_headers(void **state) {
  (void)state;
  static const struct {
    uint8_t first;
    uint8_t len;
    uint8_t ext[32];
    enum np_drop why;
  } row[] = {
      {0, 8, {6, 0, 1, 4}, NP_WIRE_OK},                              /* hop-by-hop, PadN */
      {60, 8, {6, 0, 0, 0, 0, 0, 0, 0}, NP_WIRE_OK},                 /* destination options, Pad1 */
      {60, 16, {6, 1, 1, 12}, NP_WIRE_OK},
      {43, 8, {6, 0, 0, 0}, NP_WIRE_OK},                             /* routing, nothing left */
      {43, 8, {6, 0, 0, 1}, NP_DROP_IP_ROUTING},
      {0, 24, {60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0, 6}, NP_WIRE_OK},
      {60, 16, {0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4}, NP_DROP_IP_HEADER}, /* hop-by-hop not first */
      {0, 8, {6, 9, 1, 4}, NP_DROP_IP_HEADER},                       /* longer than the packet */
      {0, 8, {6, 0, 1, 5}, NP_DROP_IP_HEADER},                       /* option longer than the header */
      {0, 8, {6, 0, 1, 3, 0, 0, 0, 1}, NP_DROP_IP_HEADER},           /* option without a length */
      {0, 8, {6, 0, 5, 2, 0, 0, 1, 0}, NP_WIRE_OK},                  /* router alert */
      {60, 8, {6, 0, 0x3e, 4}, NP_WIRE_OK},                          /* unknown: skip */
      {60, 8, {6, 0, 0x7e, 4}, NP_DROP_IP_OPTIONS},                  /* unknown: drop */
      {60, 8, {6, 0, 0xfe, 4}, NP_DROP_IP_OPTIONS},
      {44, 8, {6, 0x55, 0, 0, 1, 2, 3, 4}, NP_WIRE_OK},              /* an atomic fragment is a whole packet */
      {44, 16, {44, 0, 0, 0, 0, 0, 0, 0, 6}, NP_DROP_IP_HEADER},     /* two */
      {0, 16, {44, 0, 1, 4, 0, 0, 0, 0, 6}, NP_WIRE_OK},
  };
  struct np_pkt pkt;
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    enum np_drop why = with_ext(row[i].first, row[i].ext, row[i].len, &pkt);
    if (why != row[i].why) print_error("row %zu: got %s\n", i, np_drop_text(why));
    assert_int_equal(why, row[i].why);
    if (why == NP_WIRE_OK) assert_int_equal(pkt.l4_off, 54 + row[i].len);
  }
  /* Eight are followed, nine are not. */
  uint8_t many[9 * 8] = {0};
  for (uint32_t i = 0; i < 9; i++) {
    many[i * 8] = 60;
    many[i * 8 + 2] = 1;
    many[i * 8 + 3] = 4;
  }
  many[7 * 8] = 6;
  assert_int_equal(with_ext(60, many, 64, &pkt), NP_WIRE_OK);
  many[7 * 8] = 60;
  many[8 * 8] = 6;
  assert_int_equal(with_ext(60, many, 72, &pkt), NP_DROP_IP_EXT_LIMIT);
}

/* Fragments come out as such, with what they carry, and their upper layer is not looked at. */
static void test_fragments(void **state) {
  (void)state;
  static const uint8_t flags[][2] = {{0x20, 0}, {0, 1}, {0x3f, 0xff}};
  struct np_pkt pkt;
  struct frame f;
  for (size_t i = 0; i < NP_COUNT_OF(flags); i++) {
    make(&f, TCP4, 0);
    memcpy(f.b + f.l3 + 6, flags[i], 2);
    frame_ip4_sum(&f);
    f.b[f.l4 + 16] ^= 0xff;
    assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
    assert_int_equal(pkt.l4_proto, NP_PROTO_FRAGMENT);
    assert_int_equal(pkt.l4_off, f.l4);
    assert_int_equal(pkt.l4_len, f.len - f.l4);
    assert_int_equal(pkt.flow.local_port, 0);
  }
  static const uint8_t first[8] = {6, 0, 0, 1, 0, 0, 0, 9};
  static const uint8_t later[16] = {44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 8, 0, 0, 0, 9};
  assert_int_equal(with_ext(44, first, 8, &pkt), NP_WIRE_OK);
  assert_int_equal(pkt.l4_proto, NP_PROTO_FRAGMENT);
  assert_int_equal(pkt.l4_off, 54 + 8);
  assert_int_equal(pkt.fragmented, 1);
  assert_int_equal(with_ext(60, later, 16, &pkt), NP_WIRE_OK);
  assert_int_equal(pkt.l4_proto, NP_PROTO_FRAGMENT);
  assert_int_equal(pkt.l4_off, 54 + 16);
}

/* The same packet in one piece and cut in two at every byte: the same answer, where the headers are in
 * the first piece; padding is cut off over the pieces. */
static void test_pieces(void **state) {
  (void)state;
  static const enum kind kinds[] = {TCP4, TCP6, UDP4, UDP6, ICMP4, ICMP6};
  for (size_t k = 0; k < NP_COUNT_OF(kinds); k++) {
    struct frame f;
    make(&f, kinds[k], 0);
    uint32_t len = f.len;
    memset(f.b + f.len, 0, 9);
    f.len += 9;
    uint32_t headers = f.l4 + (kinds[k] <= TCP6 ? 20 : 8);
    for (uint32_t cut = 14; cut < f.len; cut++) {
      struct np_counters counters;
      struct np_pool pool;
      struct np_buf *stack[2];
      uint8_t *mem = aligned_alloc(2048, 4096);
      np_pool_init(&pool, mem, 2, 2048, stack, &counters);
      struct np_buf *a = np_pool_get(&pool);
      struct np_buf *b = np_pool_get(&pool);
      memcpy(np_buf_append(a, cut), f.b, cut);
      memcpy(np_buf_append(b, f.len - cut), f.b + cut, f.len - cut);
      a->next = b;
      struct np_pkt pkt;
      enum np_drop why = np_wire_parse(a, &pkt);
      if (cut >= headers) {
        assert_int_equal(why, NP_WIRE_OK);
        assert_int_equal(np_buf_chain_len(a), len);
        assert_int_equal(pkt.l4_off + pkt.l4_len, len);
        if (cut < len - 1) { /* any changed byte of the second piece spoils the sum */
          a->next->len = len - cut;
          np_buf_data(a->next)[len - cut - 1] ^= 1;
          assert_int_not_equal(np_wire_parse(a, &pkt), NP_WIRE_OK);
        }
      } else {
        assert_int_not_equal(why, NP_WIRE_OK);
      }
      np_buf_put_chain(a);
      assert_int_equal(pool.free_count, 2);
      free(mem);
    }
  }
}

/* What build.h writes, parse.c takes. */
static void test_build(void **state) {
  (void)state;
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    struct frame f = {.len = 0};
    struct np_addr src = v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2);
    struct np_addr dst = v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1);
    struct np_mac us;
    struct np_mac peer;
    memcpy(us.b, US, 6);
    memcpy(peer.b, PEER, 6);
    f.l3 = np_wire_put_eth(f.b, &us, &peer, v6 ? 9 : 0, v6 ? 0x86dd : 0x0800);
    f.l4 = f.l3 + (v6 ? 40 : 20);
    if (v6) {
      np_wire_put_ip6(f.b + f.l3, &src, &dst, 17, 0xb9, 64, 12);
    } else {
      np_wire_put_ip4(f.b + f.l3, &src, &dst, 17, 0xb9, 0x1234, 32);
    }
    f.len = f.l4;
    frame_udp(&f, 1, 2, "abcd", 4);
    frame_l4_sum(&f, 17, v6);
    struct np_pkt pkt;
    assert_int_equal(parse(&f, &pkt), NP_WIRE_OK);
    assert_int_equal(pkt.tos, 0xb9);
    assert_int_equal(pkt.ttl, 64);
    assert_int_equal(pkt.vlan, v6 ? 9 : 0);
    assert_true(np_addr_eq(&pkt.flow.local, &dst));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),           cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_truncated_l4),   cmocka_unit_test(test_changed_byte),
      cmocka_unit_test(test_ip4_checksum),   cmocka_unit_test(test_udp_zero_checksum),
      cmocka_unit_test(test_checksum_vouched_for), cmocka_unit_test(test_vlan),
      cmocka_unit_test(test_link_dst),       cmocka_unit_test(test_mapped_on_wire),
      cmocka_unit_test(test_extension_headers), cmocka_unit_test(test_ip4_options), cmocka_unit_test(test_build), cmocka_unit_test(test_fragments), cmocka_unit_test(test_pieces),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
