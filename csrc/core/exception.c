/* The exception path of a device that the appliance owns: what is not its own goes to the kernel by a TAP that
 * stands in for the device (same MAC, same MTU), and what the kernel sends there leaves by the device. Each packet
 * received is delivered, passed or dropped, never two of these.
 *
 * Passed are packets of the protocols and to the ports that the configuration leaves to the kernel, whatever their
 * address, and what the network layer refused because it is for nobody here. What concerns both, such as what a
 * router tells everybody, goes to the kernel and in a copy to the stack, which learns from it and answers nothing. */
#include <string.h>

#include "base/chain.h"
#include "base/cksum.h"
#include "core/internal.h"
#include "wire/hdr.h"

#define BURST_NS UINT64_C(100000000) /* of the rate, may come at once */
#define POLL_NS UINT64_C(20000)      /* between looks at a TAP that had nothing: a look is a system call */
#define ND_HOPS 255u
#define MLD_QUERY 130u

void np_exception_init(struct np_core *core, const struct np_plane_config *config) {
  struct np_exception *x = &core->exc;
  _Static_assert(sizeof x->config == sizeof config->exception, "copied whole");
  x->config = config->exception;
  if (x->config.rate_per_s == 0) return;
  uint32_t share = np_max_u32(x->config.rate_per_s / np_max_u32(config->cores, 1), 1);
  x->cost_ns = UINT64_C(1000000000) / share;
}

/* One more packet within the rate? */
static bool take(struct np_exception *x, uint64_t now_ns) {
  if (x->cost_ns == 0) return true;
  x->due_ns = np_max_u64(x->due_ns, now_ns);
  if (x->due_ns - now_ns > np_max_u64(BURST_NS, x->cost_ns)) return false;
  x->due_ns += x->cost_ns;
  return true;
}

/* bound: NP_EXCEPTION_PORTS_MAX; a zero ends the list */
static bool lists_port(const uint16_t *list, const struct np_flow *flow) {
  for (uint32_t i = 0; i < NP_EXCEPTION_PORTS_MAX && list[i] != 0; i++) {
    if (flow->local_port == list[i]) return true;
    /* The kernel's own connection to such a service (BGP opens from either side). */
    if (list[i] < NP_EXCEPTION_BOTH_ENDS && flow->remote_port == list[i]) return true;
  }
  return false;
}

static bool lists_proto(const struct np_exception_config *c, uint16_t proto) {
  for (uint32_t i = 0; i < NP_EXCEPTION_PROTOS_MAX && c->proto[i] != 0; i++) {
    if (c->proto[i] == proto) return true;
  }
  return false;
}

static bool lists(const struct np_exception_config *c, uint16_t proto, const struct np_flow *flow) {
  if (proto == NP_PROTO_TCP) return lists_port(c->tcp_port, flow);
  if (proto == NP_PROTO_UDP) return lists_port(c->udp_port, flow);
  return lists_proto(c, proto);
}

/* Of an address that both have: an ICMP error about a packet that the kernel sent, or an answer to its echo, since
 * the stack asks for none. */
static bool about_kernels(const struct np_exception_config *c, const struct np_pkt *pkt) {
  const uint8_t *icmp = np_buf_cdata(pkt->buf) + pkt->l4_off; /* eight bytes: parsed */
  uint32_t len = np_min_u32(pkt->l4_len, pkt->buf->len - pkt->l4_off);
  const uint8_t *in = icmp + NP_ICMP_BYTES;
  struct np_flow flow = {.remote_port = 0};
  uint32_t header = NP_IP6_BYTES;
  uint16_t proto = 0;
  if (c->tcp_port[0] == 0 && c->udp_port[0] == 0 && c->proto[0] == 0) return false;
  if (icmp[0] == (pkt->l4_proto == NP_PROTO_ICMP ? NP_ICMP_ECHO_REPLY : NP_ICMP6_ECHO_REPLY)) return true;
  if (pkt->l4_proto == NP_PROTO_ICMP) {
    bool error = icmp[0] == NP_ICMP_UNREACH || icmp[0] == NP_ICMP_TIME_EXCEEDED || icmp[0] == NP_ICMP_PARAM;
    if (!error || len < NP_ICMP_BYTES + NP_IP4_BYTES) return false;
    if ((np_load_be16(in + NP_IP4_FRAG) & NP_IP4_OFFSET_MASK) != 0) return false;
    header = (uint32_t)(in[0] & 15) * 4;
    proto = in[NP_IP4_PROTO];
  } else {
    if (icmp[0] < NP_ICMP6_UNREACH || icmp[0] > NP_ICMP6_PARAM || len < NP_ICMP_BYTES + NP_IP6_BYTES) return false;
    proto = in[NP_IP6_NEXT];
  }
  if (len < NP_ICMP_BYTES + header + 4) return false;
  flow.local_port = np_load_be16(in + header);
  flow.remote_port = np_load_be16(in + header + 2);
  return lists(c, proto, &flow);
}

enum whose { OURS, KERNELS, BOTHS };

static enum whose whose_arp(const struct np_core *core, const struct np_pkt *pkt) {
  const struct np_addr *target = &pkt->flow.local;
  const struct np_addr *sender = &pkt->flow.remote;
  const uint8_t *arp = np_buf_cdata(pkt->buf) + pkt->l3_off;
  if (np_ip_owns(core->ip, target)) {
    /* A reply may be to the kernel's question, where it has the same address. */
    return np_load_be16(arp + offsetof(struct np_arp_pkt, op_be)) == NP_ARP_REPLY ? BOTHS : OURS;
  }
  if (np_addr_eq(sender, target)) return BOTHS; /* RFC 5227 §2.3 */
  return np_ip_owns(core->ip, sender) ? BOTHS : KERNELS;
}

static enum whose whose_icmp6(const struct np_core *core, const struct np_pkt *pkt) {
  const uint8_t *icmp = np_buf_cdata(pkt->buf) + pkt->l4_off; /* eight bytes: parsed */
  bool own = np_ip_owns(core->ip, &pkt->flow.local);
  if (pkt->ttl == ND_HOPS && (icmp[0] == NP_ICMP6_NA || icmp[0] == NP_ICMP6_RA)) return BOTHS;
  if (icmp[0] == MLD_QUERY) return BOTHS;
  if (own) return about_kernels(&core->exc.config, pkt) ? KERNELS : OURS;
  if (icmp[0] != NP_ICMP6_NS || pkt->l4_len < NP_ICMP_BYTES + 16u) return KERNELS;
  /* To the group of the address that is asked for. */
  if (pkt->buf->len < (uint32_t)pkt->l4_off + NP_ICMP_BYTES + 16u) return KERNELS;
  struct np_addr target = np_addr_from_v6(icmp + NP_ICMP_BYTES);
  return np_ip_owns(core->ip, &target) ? OURS : KERNELS;
}

/* Frames to somebody else's MAC are left to the network layer, which counts them. The TAP has the interface's. */
static bool to_us(const struct np_port_queue *tap, const struct np_pkt *pkt) {
  if (pkt->link_dst != NP_LINK_UNICAST) return true;
  return memcmp(np_buf_cdata(pkt->buf), tap->mac.b, sizeof tap->mac.b) == 0;
}

static enum whose whose(const struct np_core *core, const struct np_port_queue *tap, const struct np_pkt *pkt) {
  const struct np_exception_config *c = &core->exc.config;
  bool kernels = false;
  switch (pkt->l4_proto) {
    case NP_PROTO_ICMP:
      kernels = about_kernels(c, pkt);
      break;
    case NP_PROTO_ARP:
      return to_us(tap, pkt) ? whose_arp(core, pkt) : OURS;
    case NP_PROTO_ICMPV6:
      return to_us(tap, pkt) ? whose_icmp6(core, pkt) : OURS;
    default:
      kernels = lists(c, pkt->l4_proto, &pkt->flow);
      break;
  }
  return NP_UNLIKELY(kernels) && to_us(tap, pkt) ? KERNELS : OURS;
}

/* A port vouched for a sum that may not be in the packet; the kernel would look at it. Offsets are those of parsing,
 * from where the frame began. */
static void finish_sum(const struct np_pkt *pkt) {
  struct np_buf *b = pkt->buf;
  if ((b->flags & NP_BUF_L4_CSUM_OK) == 0) return;
  uint32_t at = 0;
  if (pkt->l4_proto == NP_PROTO_TCP) at = NP_TCP_CKSUM;
  if (pkt->l4_proto == NP_PROTO_UDP) at = NP_UDP_CKSUM;
  if (at == 0) return;
  uint8_t *p = np_buf_data(b) + pkt->l4_off;
  np_store_16(p + at, 0);
  uint64_t sum = np_cksum_pseudo(&pkt->flow.remote, &pkt->flow.local, (uint8_t)pkt->l4_proto, pkt->l4_len);
  uint16_t cksum = np_cksum_finish(np_buf_cksum(sum, b, pkt->l4_off, pkt->l4_len));
  np_store_16(p + at, cksum == 0 && pkt->l4_proto == NP_PROTO_UDP ? 0xffff : cksum);
}

/* The packet as it came, to the kernel. Taken over, and counted, whatever becomes of it. */
static void pass(struct np_core *core, struct np_port_queue *tap, const struct np_pkt *pkt) {
  struct np_buf *b = pkt->buf;
  if (!take(&core->exc, core->now_ns)) {
    np_core_drop_rx(core, b, NP_DROP_EXC_RATE);
    return;
  }
  if (tap->down) {
    np_core_drop_rx(core, b, NP_DROP_EXC_DOWN);
    return;
  }
  np_assert(b->data_off >= b->frame_off);
  np_buf_push(b, b->data_off - b->frame_off);
  finish_sum(pkt);
  if (b->next == NULL) b->len = b->frame_len; /* with the padding that parsing cut */
  uint32_t sent = tap->ops->tx(tap, &b, 1);
  if (sent == 0) {
    tap->ops->flush(tap);
    sent = tap->ops->tx(tap, &b, 1);
  }
  if (sent == 0) {
    np_core_drop_rx(core, b, NP_DROP_EXC_FULL);
    return;
  }
  core->counters->counter[NP_C_PASSED_PKTS]++;
}

uint32_t np_exception_burst(struct np_core *core, struct np_port_queue *port, uint32_t n) {
  struct np_port_queue *tap = core->exc.tap[port->iface];
  if (tap == NULL) return n;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i++) {
    struct np_pkt *pkt = &core->pkt[i];
    enum whose w = whose(core, tap, pkt);
    if (NP_LIKELY(w == OURS)) {
      if (kept != i) core->pkt[kept] = *pkt;
      kept++;
      continue;
    }
    if (w == BOTHS) {
      if (core->peer_count > 1) np_mail_send(core, pkt);
      np_mail_observe(core, port->iface, np_buf_cdata(pkt->buf), pkt->buf->len);
    }
    pass(core, tap, pkt);
  }
  return kept;
}

bool np_exception_refused(struct np_core *core, const struct np_pkt *pkt, enum np_drop why) {
  struct np_port_queue *tap = core->exc.tap[pkt->buf->iface];
  if (tap == NULL || pkt->buf->len < NP_ETH_BYTES || !to_us(tap, pkt)) return false;
  switch (why) {
    case NP_DROP_LINK_TYPE:
    case NP_DROP_LINK_VLAN:
    case NP_DROP_ARP_NOT_FOR_US:
    case NP_DROP_IP_DST:
    case NP_DROP_ND_NOT_FOR_US:
      break;
    case NP_DROP_LINK_DST: /* groups and broadcasts: the kernel's DHCP, mDNS, OSPF */
      if (pkt->link_dst == NP_LINK_UNICAST || np_ip_owns(core->ip, &pkt->flow.local)) return false;
      break;
    default:
      return false;
  }
  pass(core, tap, pkt);
  return true;
}

uint32_t np_exception_rx(struct np_core *core, struct np_core_queue *cq) {
  struct np_port_queue *tap = cq->port;
  if (core->now_ns < cq->poll_ns) return 0;
  uint32_t n = tap->ops->rx(tap, core->burst, NP_BURST);
  if (n == 0) {
    cq->poll_ns = core->now_ns + POLL_NS;
    return 0;
  }
  core->counters->counter[NP_C_KERNEL_TX] += n;
  for (uint32_t i = 0; i < n; i++) {
    struct np_buf *b = core->burst[i];
    b->flags = 0;
    b->rx_ns = core->now_ns;
    b->frame_off = (uint16_t)b->data_off;
    b->frame_len = (uint16_t)b->len;
    np_core_xmit(core, tap->iface, b);
  }
  return n;
}

enum np_err np_exception_attach(struct np_core *core, struct np_port_queue *tap, uint16_t iface) {
  if (tap == NULL || iface >= NP_IFACE_MAX || core->link[iface].tx == NULL) return NP_ERR_INVALID;
  if (core->exc.tap[iface] != NULL) return NP_ERR_EXISTS;
  if (core->queue_count == NP_CORE_QUEUES_MAX) return NP_ERR_FULL;
  tap->iface = iface;
  core->queue[core->queue_count++] = (struct np_core_queue){.port = tap, .kernels = true};
  core->exc.tap[iface] = tap;
  core->exc.count++;
  tap->ops->flush(tap);
  return NP_ERR_OK;
}

void np_exception_detach(struct np_core *core, uint16_t iface) {
  if (core->exc.tap[iface] == NULL) return;
  core->exc.tap[iface] = NULL;
  core->exc.count--;
}
