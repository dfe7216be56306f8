/* ARP (RFC 826) in the form of neighbor discovery: a request is a solicitation,
 * a reply an advertisement. */
#include "ip/internal.h"

static const struct np_mac broadcast = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

static void put_arp(uint8_t *p, uint16_t op, const struct np_mac *sender_mac, const struct np_addr *sender,
                    const struct np_mac *target_mac, const struct np_addr *target) {
  struct np_arp_pkt a = {
      .htype_be = __builtin_bswap16(1),
      .ptype_be = __builtin_bswap16(NP_ETHERTYPE_IP4),
      .hlen = 6,
      .plen = 4,
      .op_be = __builtin_bswap16(op),
  };
  memcpy(a.sender_mac, sender_mac->b, 6);
  memcpy(a.sender_ip, sender->b + 12, 4);
  memcpy(a.target_mac, target_mac->b, 6);
  memcpy(a.target_ip, target->b + 12, 4);
  memcpy(p, &a, sizeof a);
}

static void send_new(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *sender, const struct np_addr *target,
                     const struct np_mac *to) {
  static const struct np_mac none = {{0}};
  if (!ifc->up) return;
  struct np_buf *buf = np_pool_get_control(ip->env.pool);
  if (buf == NULL) return; /* asked again by the timer */
  put_arp(np_buf_append(buf, NP_ARP_BYTES), NP_ARP_REQUEST, &ifc->mac, sender, to == NULL ? &none : to, target);
  np_ip_send_frame(ip, ifc, buf, to == NULL ? &broadcast : to, NP_ETHERTYPE_ARP);
}

void np_arp_request(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *target, const struct np_mac *to) {
  struct np_addr sender;
  if (np_iface_source(ifc, target, &sender)) send_new(ip, ifc, &sender, target, to);
}

/* RFC 5227 §2.3: a request for our own address. */
void np_arp_announce(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  send_new(ip, ifc, addr, addr, NULL);
}

/* Nothing else carries the unspecified sender, so that no table learns what is not ours yet. */
void np_arp_probe(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  static const struct np_addr none = {{[10] = 0xff, [11] = 0xff}};
  send_new(ip, ifc, &none, addr, NULL);
}

/* Whether the message says that somebody else has, or is about to take, an address of ours
 * (RFC 5227 §2.1.1, §2.4). */
static bool conflicts(struct np_ip *ip, struct np_iface *ifc, const struct np_pkt *pkt, bool probe, const struct np_mac *mac,
                      uint64_t now_ns) {
  if (np_mac_eq(mac, &ifc->mac)) return false; /* the same card: the kernel's, or our own come back */
  uint32_t at = np_addr_index(ifc, probe ? &pkt->flow.local : &pkt->flow.remote);
  if (at == NP_ADDR_NONE || ifc->addr[at].state == NP_ADDR_DUPLICATE) return false;
  if (probe && ifc->addr[at].state != NP_ADDR_TENTATIVE) return false; /* answered, and they go away */
  np_addr_conflict(ip, ifc, at, mac, now_ns);
  return true;
}

/* Answers in the buffer that asked. */
static void reply(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt) {
  struct np_buf *buf = pkt->buf;
  struct np_addr ours = pkt->flow.local;
  struct np_addr peer = pkt->flow.remote;
  struct np_mac peer_mac;
  uint8_t *arp = np_buf_pull(buf, pkt->l3_off);
  memcpy(peer_mac.b, arp + offsetof(struct np_arp_pkt, sender_mac), 6);
  put_arp(arp, NP_ARP_REPLY, &ifc->mac, &ours, &peer_mac, &peer);
  struct np_mac to = pkt->src_mac;
  np_ip_send_frame(ip, ifc, buf, &to, NP_ETHERTYPE_ARP);
}

enum np_drop np_arp_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  const uint8_t *arp = np_buf_cdata(pkt->buf) + pkt->l3_off;
  bool request = np_load_be16(arp + offsetof(struct np_arp_pkt, op_be)) == NP_ARP_REQUEST;
  struct np_mac mac;
  memcpy(mac.b, arp + offsetof(struct np_arp_pkt, sender_mac), 6);
  const struct np_addr *sender = &pkt->flow.remote;
  bool for_us = np_iface_has(ifc, &pkt->flow.local);
  bool probe = np_load_32(sender->b + 12) == 0; /* RFC 5227 §2.1.1: asks whether the address is taken */
  if (!np_mac_is_station(&mac) || (!probe && !np_addr_is_host(sender))) return NP_DROP_ARP_MALFORMED;
  if (conflicts(ip, ifc, pkt, probe, &mac, now_ns)) {
    ++*np_ip_counter(ip, NP_C_ARP_RX);
    np_buf_put(pkt->buf);
    return NP_WIRE_OK;
  }
  /* Somebody who claims our address is never learned. */
  bool believe = !probe && !np_ip_is_local(ip, sender) && np_route_on_link(ip, sender, ifc->index);
  struct np_neigh *n = believe ? np_neigh_find(ip, ifc->index, sender) : NULL;
  if (n != NULL) {
    bool asked = !request && for_us && (n->state == NP_NEIGH_INCOMPLETE || n->state == NP_NEIGH_PROBE);
    np_neigh_advert(ip, n, &mac, asked, true, now_ns);
  } else if (believe && request && for_us) {
    np_neigh_learn(ip, ifc, sender, &mac, now_ns);
  }
  if (!for_us && n == NULL) return NP_DROP_ARP_NOT_FOR_US;
  ++*np_ip_counter(ip, NP_C_ARP_RX);
  if (request && for_us && (pkt->buf->flags & NP_BUF_COPY) == 0) {
    reply(ip, ifc, pkt);
  } else {
    np_buf_put(pkt->buf);
  }
  return NP_WIRE_OK;
}
