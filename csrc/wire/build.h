/* Writes headers. Each takes where the header begins, with room for all of it. */
#ifndef NP_WIRE_BUILD_H
#define NP_WIRE_BUILD_H

#include "base/addr.h"
#include "base/bytes.h"
#include "base/cksum.h"
#include "wire/hdr.h"

/* Ethernet header, with an 802.1Q tag when vlan is not 0. Return: bytes written, 14 or 18. */
NP_INLINE uint32_t np_wire_put_eth(uint8_t *p, const struct np_mac *dst, const struct np_mac *src, uint16_t vlan, uint16_t type) {
  memcpy(p, dst->b, 6);
  memcpy(p + NP_ETH_SRC, src->b, 6);
  if (vlan == 0) {
    np_store_be16(p + NP_ETH_TYPE, type);
    return NP_ETH_BYTES;
  }
  np_store_be16(p + NP_ETH_TYPE, NP_ETHERTYPE_VLAN);
  np_store_be16(p + NP_ETH_BYTES, vlan);
  np_store_be16(p + NP_ETH_BYTES + 2, type);
  return NP_ETH_BYTES + NP_VLAN_BYTES;
}

/* IPv4 header without options, DF set, checksum filled. total_len: bytes, header included.
 * Put together in registers: a header built of small stores and then summed in wide loads
 * waits for each store to reach the cache, which cost more than all the rest. */
NP_INLINE void np_wire_put_ip4_ttl(uint8_t *p, const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t tos,
                                   uint8_t ttl, uint16_t id, uint16_t total_len) {
  uint64_t first = 0x45u | (uint64_t)tos << 8 | (uint64_t)__builtin_bswap16(total_len) << 16 |
                   (uint64_t)__builtin_bswap16(id) << 32 | (uint64_t)__builtin_bswap16(NP_IP4_DF) << 48;
  uint64_t second = ttl | (uint64_t)proto << 8 | (uint64_t)np_load_32(src->b + 12) << 32;
  uint32_t third = np_load_32(dst->b + 12);
  uint64_t sum = np_cksum_add64(np_cksum_add64(first, second), third);
  second |= (uint64_t)np_cksum_finish(sum) << 16;
  np_store_64(p, first);
  np_store_64(p + 8, second);
  np_store_32(p + 16, third);
}

/* The same with the usual TTL. */
NP_INLINE void np_wire_put_ip4(uint8_t *p, const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t tos,
                               uint16_t id, uint16_t total_len) {
  np_wire_put_ip4_ttl(p, src, dst, proto, tos, NP_IP_TTL, id, total_len);
}

/* IPv6 header, flow label 0: a caller with one adds it. payload_len: bytes behind it. */
NP_INLINE void np_wire_put_ip6(uint8_t *p, const struct np_addr *src, const struct np_addr *dst, uint8_t next, uint8_t tos,
                               uint8_t hops, uint16_t payload_len) {
  np_store_be32(p, UINT32_C(6) << 28 | (uint32_t)tos << 20);
  np_store_be16(p + NP_IP6_LEN, payload_len);
  p[NP_IP6_NEXT] = next;
  p[NP_IP6_HOPS] = hops;
  memcpy(p + NP_IP6_SRC, src->b, 16);
  memcpy(p + NP_IP6_DST, dst->b, 16);
}

#endif
