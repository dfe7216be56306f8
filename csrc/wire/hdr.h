/* Header layouts as they lie on the wire. The structs exist for their sizes and
 * offsets and for building headers in a local variable; packet memory is read
 * with np_load_be* at these offsets and never cast. */
#ifndef NP_WIRE_HDR_H
#define NP_WIRE_HDR_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define NP_ETH_BYTES 14u
#define NP_VLAN_BYTES 4u
#define NP_ARP_BYTES 28u
#define NP_IP4_BYTES 20u
#define NP_IP6_BYTES 40u
#define NP_TCP_BYTES 20u
#define NP_UDP_BYTES 8u
#define NP_ICMP_BYTES 8u /* ICMP and ICMPv6: type, code, checksum, four bytes by type */

#define NP_ETHERTYPE_IP4 0x0800u
#define NP_ETHERTYPE_ARP 0x0806u
#define NP_ETHERTYPE_VLAN 0x8100u
#define NP_ETHERTYPE_IP6 0x86ddu

#define NP_IP4_DF 0x4000u
#define NP_IP4_MF 0x2000u
#define NP_IP4_OFFSET_MASK 0x1fffu
#define NP_IP_TTL 64u /* RFC 1122 §3.2.1.7, the number that RFC 1700 recommends */

/* IPv6 next header values that are extension headers (RFC 8200 §4), and none. */
#define NP_IP6_HOP 0u
#define NP_IP6_ROUTING 43u
#define NP_IP6_FRAGMENT 44u
#define NP_IP6_FRAGMENT_BYTES 8u
#define NP_IP6_NONE 59u
#define NP_IP6_DEST 60u
#define NP_IP6_EXT_MAX 8u /* extension headers followed before a packet is refused */
#define NP_IP6_EXT_BYTES_MAX 512u /* of all of them together */
#define NP_IP6_OPTIONS_MAX 8u /* in one of them, padding left out (RFC 8504 §5.3) */

/* IPv4 options that are looked at (RFC 791 §3.1); each other one has a length and is skipped. */
#define NP_IP4_OPT_END 0u
#define NP_IP4_OPT_NOP 1u
#define NP_IP4_OPT_LSRR 131u
#define NP_IP4_OPT_SSRR 137u

/* Offsets in fixed headers */
#define NP_ETH_SRC 6u
#define NP_ETH_TYPE 12u
#define NP_IP4_TOS 1u
#define NP_IP4_LEN 2u
#define NP_IP4_FRAG 6u
#define NP_IP4_TTL 8u
#define NP_IP4_PROTO 9u
#define NP_IP4_CKSUM 10u
#define NP_IP4_SRC 12u
#define NP_IP4_DST 16u
#define NP_IP6_LEN 4u
#define NP_IP6_NEXT 6u
#define NP_IP6_HOPS 7u
#define NP_IP6_SRC 8u
#define NP_IP6_DST 24u
#define NP_TCP_DOFF 12u
#define NP_TCP_FLAGS 13u
#define NP_TCP_CKSUM 16u
#define NP_UDP_LEN 4u
#define NP_UDP_CKSUM 6u
#define NP_ICMP_CKSUM 2u

struct np_eth_hdr {
  uint8_t dst[6];
  uint8_t src[6];
  uint16_t type_be;
};
struct np_ip4_hdr {
  uint8_t version_ihl;
  uint8_t tos;
  uint16_t len_be;
  uint16_t id_be;
  uint16_t frag_be;
  uint8_t ttl;
  uint8_t proto;
  uint16_t cksum; /* in the sum's own order, see base/cksum.h */
  uint8_t src[4];
  uint8_t dst[4];
};
struct np_ip6_hdr {
  uint32_t version_class_flow_be;
  uint16_t payload_len_be;
  uint8_t next;
  uint8_t hops;
  uint8_t src[16];
  uint8_t dst[16];
};
struct np_arp_pkt { /* RFC 826 for Ethernet and IPv4 */
  uint16_t htype_be;
  uint16_t ptype_be;
  uint8_t hlen;
  uint8_t plen;
  uint16_t op_be;
  uint8_t sender_mac[6];
  uint8_t sender_ip[4];
  uint8_t target_mac[6];
  uint8_t target_ip[4];
};

_Static_assert(sizeof(struct np_eth_hdr) == NP_ETH_BYTES, "Ethernet header");
_Static_assert(offsetof(struct np_eth_hdr, type_be) == NP_ETH_TYPE, "EtherType");
_Static_assert(sizeof(struct np_ip4_hdr) == NP_IP4_BYTES, "IPv4 header");
_Static_assert(offsetof(struct np_ip4_hdr, cksum) == NP_IP4_CKSUM, "IPv4 checksum");
_Static_assert(offsetof(struct np_ip4_hdr, dst) == NP_IP4_DST, "IPv4 destination");
_Static_assert(sizeof(struct np_ip6_hdr) == NP_IP6_BYTES, "IPv6 header");
_Static_assert(offsetof(struct np_ip6_hdr, next) == NP_IP6_NEXT, "IPv6 next header");
_Static_assert(offsetof(struct np_ip6_hdr, dst) == NP_IP6_DST, "IPv6 destination");
_Static_assert(sizeof(struct np_arp_pkt) == NP_ARP_BYTES, "ARP packet");
_Static_assert(offsetof(struct np_arp_pkt, target_ip) == 24, "ARP target address");

#define NP_ARP_REQUEST 1u
#define NP_ARP_REPLY 2u

/* ICMP types and codes (RFC 792, RFC 1122 §3.2.2) */
#define NP_ICMP_ECHO_REPLY 0u
#define NP_ICMP_UNREACH 3u
#define NP_ICMP_UNREACH_NET 0u
#define NP_ICMP_UNREACH_HOST 1u
#define NP_ICMP_UNREACH_PROTO 2u
#define NP_ICMP_UNREACH_PORT 3u
#define NP_ICMP_UNREACH_FRAG 4u
#define NP_ICMP_SOURCE_QUENCH 4u
#define NP_ICMP_REDIRECT 5u
#define NP_ICMP_ECHO 8u
#define NP_ICMP_TIME_EXCEEDED 11u
#define NP_ICMP_TIME_REASSEMBLY 1u /* code, ICMPv6 too */
#define NP_ICMP_PARAM 12u

/* ICMPv6 (RFC 4443) and neighbor discovery (RFC 4861 §4) */
#define NP_ICMP6_UNREACH 1u
#define NP_ICMP6_UNREACH_ADMIN 1u
#define NP_ICMP6_UNREACH_PORT 4u
#define NP_ICMP6_TOO_BIG 2u
#define NP_ICMP6_TIME_EXCEEDED 3u
#define NP_ICMP6_PARAM 4u
#define NP_ICMP6_PARAM_FIELD 0u
#define NP_ICMP6_PARAM_NEXT 1u
#define NP_ICMP6_PARAM_OPTION 2u
#define NP_ICMP6_PARAM_CHAIN 3u /* first fragment without the whole header chain (RFC 7112) */
#define NP_ICMP6_INFO 128u /* types from here on are no errors */
#define NP_ICMP6_ECHO 128u
#define NP_ICMP6_ECHO_REPLY 129u
#define NP_ICMP6_MLD_FIRST 130u /* query; reports and done of version 1 behind it (RFC 2710) */
#define NP_ICMP6_MLD_LAST 132u
#define NP_ICMP6_RS 133u
#define NP_ICMP6_RA 134u
#define NP_ICMP6_NS 135u
#define NP_ICMP6_NA 136u
#define NP_ICMP6_REDIRECT 137u
#define NP_ND_OPT_SLLA 1u
#define NP_ND_OPT_TLLA 2u
#define NP_ND_OPT_PREFIX 3u
#define NP_ND_OPT_MTU 5u
#define NP_ND_OPT_NONCE 14u /* RFC 3971 §5.3.2, RFC 7527 */
#define NP_ND_NA_ROUTER 0x80u
#define NP_ND_NA_SOLICITED 0x40u
#define NP_ND_NA_OVERRIDE 0x20u

#endif
