/* The way in of UDP: echo (RFC 862), discard (RFC 863), sockets, or nobody. */
#include "ip/internal.h"

/* Two services that answer everything would talk to each other for ever. */
static bool loops(const struct np_ip *ip, uint16_t port) {
  return port < 1024 || port == ip->config.udp_echo_port || port == ip->config.udp_discard_port;
}

/* Back to where it came from, in the buffer it came in. */
static void echo(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt) {
  struct np_buf *buf = pkt->buf;
  struct np_flow flow = pkt->flow;
  struct np_mac to = pkt->src_mac;
  uint8_t *udp = np_buf_pull(buf, pkt->l4_off);
  np_buf_trim(buf, pkt->l4_len);
  np_store_be16(udp, flow.local_port);
  np_store_be16(udp + 2, flow.remote_port);
  if ((buf->flags & NP_BUF_L4_CSUM_OK) != 0) {
    /* The port vouched for a sum that may not be in the packet. */
    np_store_16(udp + NP_UDP_CKSUM, 0);
    uint64_t sum = np_cksum_pseudo(&flow.local, &flow.remote, NP_PROTO_UDP, pkt->l4_len);
    uint16_t cksum = np_cksum_finish(np_buf_cksum(sum, buf, 0, pkt->l4_len));
    np_store_16(udp + NP_UDP_CKSUM, cksum == 0 ? 0xffff : cksum);
  } /* else: exchanging ports and addresses changes no sum */
  ++*np_ip_counter(ip, NP_C_UDP_TX);
  np_ip_send_to(ip, ifc, buf, &to, &flow.local, &flow.remote, NP_PROTO_UDP, 0, NP_IP_TTL);
}

enum np_drop np_udp_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  uint16_t port = pkt->flow.local_port;
  if (port != 0 && port == ip->config.udp_echo_port) {
    if (loops(ip, pkt->flow.remote_port)) return NP_DROP_UDP_PORT;
    ++*np_ip_counter(ip, NP_C_UDP_RX);
    echo(ip, ifc, pkt);
    return NP_WIRE_OK;
  }
  if (port != 0 && port == ip->config.udp_discard_port) {
    ++*np_ip_counter(ip, NP_C_UDP_RX);
    np_buf_put_chain(pkt->buf);
    return NP_WIRE_OK;
  }
  uint32_t socket = np_udp_find(ip, &pkt->flow.local, port);
  if (NP_LIKELY(socket != NP_UDP_NONE)) {
    if (ip->env.udp == NULL || !ip->env.udp(ip->env.ctx, socket, pkt)) return NP_DROP_UDP_FULL;
    ++*np_ip_counter(ip, NP_C_UDP_RX);
    return NP_WIRE_OK;
  }
  if (np_addr_is_v4(&pkt->flow.local)) {
    np_ip_send_error(ip, pkt, NP_ICMP_UNREACH, NP_ICMP_UNREACH_PORT, now_ns);
  } else {
    np_ip_send_error(ip, pkt, NP_ICMP6_UNREACH, NP_ICMP6_UNREACH_PORT, now_ns);
  }
  return NP_DROP_UDP_PORT;
}
