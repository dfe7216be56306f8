/* ICMPv6 parameter problems about extension headers (RFC 8200 §4.2, RFC 4443
 * §3.4): parsing has refused the packet and named its reason; here it is looked
 * through once more for the byte to point at. Nothing of this is on the way of
 * a packet that is accepted. */
#include "ip/internal.h"

#define OPTION_SKIP 0x00u /* what an unknown option's first two bits ask for */
#define OPTION_DROP 0x40u
#define OPTION_MASK 0xc0u

struct problem {
  uint32_t at;    /* from the IP header; 0: nothing to point at */
  uint8_t code;
  uint8_t next;   /* upper layer at the end of the chain */
  uint32_t l4;    /* where it begins, from the frame's start */
};

/* The first option that asks for an answer, from the frame's start; 0 none. Parsing found every
 * length right up to the option it stopped at. */
static uint32_t bad_option(const uint8_t *data, uint32_t off, uint32_t len) {
  for (uint32_t i = 2; i < len;) { /* bound: each round moves on by one byte at least */
    uint8_t type = data[off + i];
    if (type == 0) {
      i++;
      continue;
    }
    if (len - i < 2 || len - i - 2 < data[off + i + 1]) return 0;
    if ((type & OPTION_MASK) == OPTION_DROP) return 0; /* asks for silence, and comes first */
    if ((type & OPTION_MASK) != OPTION_SKIP) return off + i;
    i += 2 + (uint32_t)data[off + i + 1];
  }
  return 0;
}

/* Walks the whole chain, bad parts and all. Return: false when it is cut short or too long, so that
 * nobody can say what it carries: an error perhaps, about which none is sent. */
static bool look(const uint8_t *data, uint32_t l3, uint32_t end, struct problem *out) {
  uint32_t off = l3 + NP_IP6_BYTES;
  uint32_t next_at = l3 + NP_IP6_NEXT;
  for (uint32_t i = 0; i <= NP_IP6_EXT_MAX; i++) {
    uint8_t next = data[next_at];
    bool options = next == NP_IP6_HOP || next == NP_IP6_DEST;
    bool fragment = next == NP_IP6_FRAGMENT;
    if (!options && !fragment && next != NP_IP6_ROUTING) {
      out->next = next;
      out->l4 = off;
      return off < end || next == NP_IP6_NONE;
    }
    if (end - off < 8) return false;
    uint32_t len = fragment ? NP_IP6_FRAGMENT_BYTES : ((uint32_t)data[off + 1] + 1) * 8;
    if (len > end - off) return false;
    if (fragment && (np_load_be16(data + off + 2) & 0xfff8) != 0) return false; /* a later fragment */
    uint32_t at = 0;
    if (next == NP_IP6_HOP && i != 0) {
      at = next_at;
      out->code = out->at == 0 ? NP_ICMP6_PARAM_NEXT : out->code;
    } else if (options) {
      at = bad_option(data, off, len);
      if (at != 0 && out->at == 0) out->code = NP_ICMP6_PARAM_OPTION;
    } else if (!fragment && data[off + 3] != 0) { /* RFC 8200 §4.4, RFC 5095 §3: the routing type */
      at = off + 2;
      if (out->at == 0) out->code = NP_ICMP6_PARAM_FIELD;
    }
    if (at != 0 && out->at == 0) out->at = at - l3;
    next_at = off;
    off += len;
  }
  return false;
}

void np_ip_problem(struct np_ip *ip, struct np_pkt *pkt, uint64_t now_ns) {
  const uint8_t *data = np_buf_cdata(pkt->buf);
  uint32_t l3 = pkt->l3_off;
  if (pkt->buf->len < l3 + NP_IP6_BYTES || data[l3] >> 4 != 6) return;
  uint32_t end = l3 + NP_IP6_BYTES + np_load_be16(data + l3 + NP_IP6_LEN);
  end = np_min_u32(end, pkt->buf->len);
  struct problem p = {0};
  if (!look(data, l3, end, &p) || p.at == 0) return;
  pkt->flow.remote = np_addr_from_v6(data + l3 + NP_IP6_SRC);
  pkt->flow.local = np_addr_from_v6(data + l3 + NP_IP6_DST);
  if (np_addr_is_v4(&pkt->flow.remote) || np_addr_is_v4(&pkt->flow.local)) return;
  const struct np_iface *ifc = np_iface_find(ip, pkt->buf->iface, pkt->vlan);
  /* Only about what was for us. Never about a packet to a group, though RFC 4443 §2.4 (e.3) would
   * allow it for one kind of option: every host of the link would answer. */
  if (ifc == NULL || !np_iface_has(ifc, &pkt->flow.local)) return;
  struct np_mac dst;
  memcpy(dst.b, data, sizeof dst.b);
  if (!np_mac_eq(&dst, &ifc->mac)) return;
  pkt->l4_proto = p.next;
  pkt->l4_off = (uint16_t)p.l4;
  np_icmp_send_error(ip, pkt, NP_ICMP6_PARAM, p.code, p.at, now_ns);
}
