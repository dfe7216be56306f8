/* Frames for tests, built byte by byte from the RFCs' layouts and not by the
 * code under test: checksums are summed here in the plain way. */
#ifndef NP_TEST_FRAME_H
#define NP_TEST_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/addr.h"
#include "wire/hdr.h"

struct frame {
  uint8_t b[2048];
  uint32_t len;
  uint32_t l3;
  uint32_t l4;
};

static inline uint32_t frame_sum(uint32_t sum, const uint8_t *p, uint32_t len) {
  for (uint32_t i = 0; i < len; i++) sum += (i & 1) ? p[i] : (uint32_t)p[i] << 8;
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

static inline void frame_eth(struct frame *f, const uint8_t dst[6], const uint8_t src[6], uint16_t vlan, uint16_t type) {
  memset(f, 0, sizeof *f);
  memcpy(f->b, dst, 6);
  memcpy(f->b + 6, src, 6);
  f->len = 12;
  if (vlan != 0) {
    np_store_be16(f->b + 12, 0x8100);
    np_store_be16(f->b + 14, vlan);
    f->len = 16;
  }
  np_store_be16(f->b + f->len, type);
  f->len += 2;
  f->l3 = f->len;
}

static inline void frame_add(struct frame *f, const void *data, uint32_t len) {
  memcpy(f->b + f->len, data, len);
  f->len += len;
}

/* From mac, which has the sender's address; the target's MAC is zero. */
static inline void frame_arp(struct frame *f, uint16_t op, const uint8_t eth_dst[6], const uint8_t mac[6], const struct np_addr *sender,
                             const struct np_addr *target) {
  uint8_t a[28] = {0, 1, 8, 0, 6, 4};
  frame_eth(f, eth_dst, mac, 0, 0x0806);
  np_store_be16(a + 6, op);
  memcpy(a + 8, mac, 6);
  memcpy(a + 14, sender->b + 12, 4);
  memcpy(a + 24, target->b + 12, 4);
  frame_add(f, a, 28);
}

/* Length and checksum fields of IP, then the L4 checksum, after the last byte was added. */
static inline void frame_ip4_sum(struct frame *f) {
  uint8_t *ip = f->b + f->l3;
  np_store_be16(ip + 10, 0);
  np_store_be16(ip + 10, (uint16_t)~frame_sum(0, ip, 20));
}
static inline void frame_l4_sum(struct frame *f, uint8_t proto, bool v6) {
  static const uint32_t at[256] = {[1] = 2, [58] = 2, [6] = 16, [17] = 6};
  uint8_t *l4 = f->b + f->l4;
  uint32_t len = f->len - f->l4;
  uint32_t sum = 0;
  if (proto != 1) {
    sum = frame_sum(0, f->b + f->l3 + (v6 ? 8 : 12), v6 ? 32 : 8);
    sum = sum + proto + len;
  }
  np_store_be16(l4 + at[proto], 0);
  np_store_be16(l4 + at[proto], (uint16_t)~frame_sum(sum, l4, len));
}

static inline void frame_ip(struct frame *f, const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t hops) {
  uint8_t *ip = f->b + f->l3;
  if (np_addr_is_v4(src)) {
    ip[0] = 0x45;
    ip[8] = hops;
    ip[9] = proto;
    memcpy(ip + 12, src->b + 12, 4);
    memcpy(ip + 16, dst->b + 12, 4);
    f->len += 20;
  } else {
    ip[0] = 0x60;
    ip[6] = proto;
    ip[7] = hops;
    memcpy(ip + 8, src->b, 16);
    memcpy(ip + 24, dst->b, 16);
    f->len += 40;
  }
  f->l4 = f->len;
}

static inline void frame_finish(struct frame *f, uint8_t proto) {
  uint8_t *ip = f->b + f->l3;
  bool v6 = ip[0] >> 4 == 6;
  if (v6) {
    np_store_be16(ip + 4, (uint16_t)(f->len - f->l3 - 40));
  } else {
    np_store_be16(ip + 2, (uint16_t)(f->len - f->l3));
    frame_ip4_sum(f);
  }
  if (proto == 1 || proto == 6 || proto == 17 || proto == 58) frame_l4_sum(f, proto, v6);
}

static inline void frame_udp(struct frame *f, uint16_t sport, uint16_t dport, const void *data, uint32_t len) {
  uint8_t h[8] = {0};
  np_store_be16(h, sport);
  np_store_be16(h + 2, dport);
  np_store_be16(h + 4, (uint16_t)(8 + len));
  frame_add(f, h, 8);
  frame_add(f, data, len);
}

static inline void frame_tcp(struct frame *f, uint16_t sport, uint16_t dport, uint8_t flags, const void *data, uint32_t len) {
  uint8_t h[20] = {0};
  np_store_be16(h, sport);
  np_store_be16(h + 2, dport);
  np_store_be32(h + 4, 0x01020304);
  h[12] = 5 << 4;
  h[13] = flags;
  np_store_be16(h + 14, 65535);
  frame_add(f, h, 20);
  frame_add(f, data, len);
}

static inline struct np_addr frame_v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  uint8_t v[4] = {a, b, c, d};
  return np_addr_from_v4_be(v);
}
/* 2001:db8::last */
static inline struct np_addr frame_v6(uint16_t last) {
  struct np_addr a = {{0x20, 0x01, 0x0d, 0xb8}};
  np_store_be16(a.b + 14, last);
  return a;
}

#endif
