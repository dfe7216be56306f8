/* XDP program of an interface that the appliance speaks by: frames for the
 * appliance's own addresses go to the AF_XDP socket of their queue, all others
 * to the kernel, whose own addresses on the same interface keep working.
 *
 * Ours are: IPv4 and IPv6 packets to an own address (ICMP and unicast neighbor
 * discovery among them), ARP whose target is an own address (requests for us,
 * replies to us), and neighbor solicitations for an own address sent to its
 * solicited-node group (RFC 4861 §7.2.2). Multicast and broadcast otherwise
 * belong to the kernel. Only what the choice needs is read; a bad packet to us
 * is redirected, so that the stack drops it and counts why.
 *
 * What concerns both goes to the kernel, and a copy by np_copies to the control
 * plane, which shows it to the stack: ARP announcements (a neighbor's MAC changed),
 * ARP whose sender claims an own address, neighbor and router advertisements,
 * multicast listener queries. A redirect cannot do that: it gives a frame away.
 *
 * Before that verdict is carried out a frame may be dropped by its source: the
 * lists and limits of np_filter.h. dataplane/xdp loads the object and fills the
 * maps. */
#define QUEUES_MAX 64
#define COPY_WORDS 64                /* of eight bytes: frames up to 512 bytes are copied */
#define COPY_RING_BYTES (1 << 17)    /* some 240 of them; a full ring loses further ones */

/* Indices of counters; dataplane/xdp names them. A frame counts in exactly one
 * of them, but that COPIED and COPY_LOST count copies of frames passed. */
enum counter { REDIRECTED, PASSED, NO_SOCKET, MALFORMED, COPIED, COPY_LOST, DENIED, LIMITED, SYN_LIMITED, STEERED, PASS_LIMITED, COUNTERS };

#include "np_own.h"

#include "np_filter.h"

struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, QUEUES_MAX);
  __type(key, __u32);
  __type(value, __u32);
} np_xsks SEC(".maps");

/* A frame that went to the kernel and concerns us. */
struct copy {
  __u32 bytes;
  __u32 pad;
  __u64 frame[COPY_WORDS];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, COPY_RING_BYTES);
} np_copies SEC(".maps");

/* Wire layouts, byte arrays where the field is not naturally aligned. */
struct arp4 {
  __be16 htype;
  __be16 ptype;
  __u8 hlen;
  __u8 plen;
  __be16 op;
  __u8 sender_mac[6];
  __u8 sender[4];
  __u8 target_mac[6];
  __u8 target[4];
};
struct nd_solicit {
  __u8 type;
  __u8 head[7];
  __be32 target[4];
};
_Static_assert(sizeof(struct arp4) == 28 && sizeof(struct nd_solicit) == 24 && sizeof(struct own) == 20, "layouts");

enum verdict { TO_KERNEL, OURS, SHORT, TO_BOTH, DROP };

static __always_inline enum verdict look_up(const struct own *key) {
  return bpf_map_lookup_elem(&np_own, key) ? OURS : TO_KERNEL;
}

static __always_inline enum verdict look_up4(struct own *key, __be32 addr) {
  key->addr[2] = bpf_htonl(0xffff);
  key->addr[3] = addr;
  return look_up(key);
}

static __always_inline enum verdict look_up6(struct own *key, const __be32 *addr) {
  key->addr[0] = addr[0];
  key->addr[1] = addr[1];
  key->addr[2] = addr[2];
  key->addr[3] = addr[3];
  return look_up(key);
}

static __always_inline enum verdict choose_arp(struct own *key, const void *at, const void *end) {
  const struct arp4 *arp = at;
  __be32 target;
  __be32 sender;
  if ((const void *)(arp + 1) > end) return SHORT;
  if (arp->htype != bpf_htons(1) || arp->ptype != bpf_htons(ETH_P_IP) || arp->hlen != 6 || arp->plen != 4)
    return TO_KERNEL;
  __builtin_memcpy(&target, arp->target, sizeof(target));
  __builtin_memcpy(&sender, arp->sender, sizeof(sender));
  if (look_up4(key, target) == OURS) return OURS;
  if (sender == target) return TO_BOTH; /* RFC 5227 §2.3 */
  return look_up4(key, sender) == OURS ? TO_BOTH : TO_KERNEL;
}

/* Advertisements, to all nodes or to a link-local address that the kernel has too, and queries
 * for our groups; these carry a hop-by-hop header with the router alert (RFC 3810 §5). */
static __always_inline int told_all(const struct ip6 *ip, const void *end) {
  const __u8 *icmp = (const __u8 *)(ip + 1);
  if (ip->next == NEXT_ICMPV6) {
    if (ip->hops != ND_HOPS || (const void *)(icmp + 1) > end) return 0;
    return *icmp == ND_ADVERT || *icmp == ND_ROUTER;
  }
  if (ip->next != NEXT_HOP_BY_HOP || (const void *)(icmp + 9) > end) return 0;
  return icmp[0] == NEXT_ICMPV6 && icmp[1] == 0 && icmp[8] == MLD_QUERY;
}

static __always_inline enum verdict choose_ip6(struct own *key, const void *at, const void *end) {
  const struct ip6 *ip = at;
  const struct nd_solicit *nd = (const void *)(ip + 1);
  if ((const void *)(ip + 1) > end) return SHORT;
  if (look_up6(key, ip->dst) == OURS) return OURS;
  if (told_all(ip, end)) return TO_BOTH;
  /* ff02::1:ff00:0/104, RFC 4291 §2.7.1 */
  if (ip->dst[0] != bpf_htonl(0xff020000) || ip->dst[1] != 0 || ip->dst[2] != bpf_htonl(1) ||
      (ip->dst[3] & bpf_htonl(0xff000000)) != bpf_htonl(0xff000000))
    return TO_KERNEL;
  if (ip->next != NEXT_ICMPV6) return TO_KERNEL;
  if ((const void *)(nd + 1) > end) return SHORT;
  if (nd->type != ND_SOLICIT) return TO_KERNEL;
  return look_up6(key, nd->target);
}

/* p becomes where the packet begins, if the frame holds one of a kind known here. */
static __always_inline enum verdict choose(const void *data, const void *end, struct packet *p) {
  const struct ethhdr *eth = data;
  const void *at = eth + 1;
  struct own key = {0};
  __be16 proto;
  if (at > end) return SHORT;
  proto = eth->h_proto;
  if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
    const struct vlan_tag *tag = at;
    at = tag + 1;
    if (at > end) return SHORT;
    key.vlan = bpf_ntohs(tag->tci) & VLAN_ID_MASK;
    proto = tag->proto;
  }
  if (proto == bpf_htons(ETH_P_IP)) {
    const struct ip4 *h = at;
    if ((const void *)(h + 1) > end) return SHORT;
    p->at = at;
    p->off = (__u32)(at - data);
    p->family = IP4;
    return look_up4(&key, h->dst);
  }
  if (proto == bpf_htons(ETH_P_IPV6)) {
    if (at + sizeof(struct ip6) > end) return SHORT;
    p->at = at;
    p->off = (__u32)(at - data);
    p->family = IP6;
    return choose_ip6(&key, at, end);
  }
  if (proto == bpf_htons(ETH_P_ARP)) {
    if (at + sizeof(struct arp4) > end) return SHORT;
    p->at = at;
    p->off = (__u32)(at - data);
    p->family = ARP;
    return choose_arp(&key, at, end);
  }
  return TO_KERNEL;
}

static __always_inline void count(__u32 which) {
  __u64 *n = bpf_map_lookup_elem(&np_counters, &which);
  if (n) *n += 1; /* per CPU, and XDP does not nest on one CPU */
}

/* No copy is better than a cut one: what is too long is lost, and counted. A global function,
 * like np_find_upper, so that the verifier goes through its loop once. */
__attribute__((noinline)) int np_copy(struct xdp_md *ctx) {
  const void *data = (const void *)(long)ctx->data;
  const void *end = (const void *)(long)ctx->data_end;
  struct copy *c;
  __u32 bytes = (__u32)(end - data);
  const __u8 *p = data;
  __u32 i;
  if (bytes > sizeof(c->frame)) {
    count(COPY_LOST);
    return 0;
  }
  c = bpf_ringbuf_reserve(&np_copies, sizeof(*c), 0);
  if (!c) {
    count(COPY_LOST);
    return 0;
  }
  c->bytes = bytes;
  c->pad = 0;
  for (i = 0; i < COPY_WORDS; i++) {
    __u64 word = 0;
    if ((const void *)(p + 8) <= end) {
      __builtin_memcpy(&word, p, 8);
    } else { /* the last bytes, one by one: reading past the end is refused */
      if ((const void *)(p + 1) <= end) word |= (__u64)p[0];
      if ((const void *)(p + 2) <= end) word |= (__u64)p[1] << 8;
      if ((const void *)(p + 3) <= end) word |= (__u64)p[2] << 16;
      if ((const void *)(p + 4) <= end) word |= (__u64)p[3] << 24;
      if ((const void *)(p + 5) <= end) word |= (__u64)p[4] << 32;
      if ((const void *)(p + 6) <= end) word |= (__u64)p[5] << 40;
      if ((const void *)(p + 7) <= end) word |= (__u64)p[6] << 48;
      c->frame[i] = word;
      break;
    }
    c->frame[i] = word;
    p += 8;
  }
  bpf_ringbuf_submit(c, 0);
  count(COPIED);
  return 1;
}

/* The verdict on a frame once the settings have had their say. why, what it counts as unless
 * it is redirected, comes as PASSED. */
static __always_inline enum verdict filter(struct xdp_md *ctx, const struct settings *set, const struct packet *p, enum verdict v,
                                           enum counter *why) {
  const void *end = (const void *)(long)ctx->data_end;
  const int shared = v == OURS && (set->flags & KERNEL_PORTS); /* with the kernel, which may have asked for what is answered */
  struct upper up = {0};
  __u32 told;
  if (p->family == ARP) {
    const struct arp4 *arp = p->at;
    if (!shared || (const void *)(arp + 1) > end) return v;
    return arp->op == bpf_htons(ARP_REPLY) ? TO_BOTH : v;
  }
  told = discovery(p, end);
  if (told) return shared && told == ND_TOLD ? TO_BOTH : v;
  if (set->flags & (LIMIT_SYNS | KERNEL_PORTS)) find_upper(ctx, p, &up);
  if (shared && kernels(&up)) {
    v = TO_KERNEL;
    *why = STEERED;
  }
  if (v != OURS && !(set->flags & ALL_TRAFFIC)) return v;
  switch (judge(set, p, up.syn, end)) {
  case DENY_SOURCE:
    *why = DENIED;
    return DROP;
  case OVER_PACKETS:
    *why = LIMITED;
    return DROP;
  case OVER_SYNS:
    *why = SYN_LIMITED;
    return DROP;
  case FINE:
    break;
  }
  return v;
}

static __always_inline int run(struct xdp_md *ctx) {
  const void *data = (const void *)(long)ctx->data;
  const void *end = (const void *)(long)ctx->data_end;
  const __u32 zero = 0;
  struct settings *set = bpf_map_lookup_elem(&np_settings, &zero);
  struct packet p = {0};
  enum verdict v = choose(data, end, &p);
  enum counter why = v == SHORT ? MALFORMED : PASSED;
  long action;
  if (set && set->flags) {
    if (p.family != NO_PACKET && v != SHORT) v = filter(ctx, set, &p, v, &why);
    if (v != DROP && (set->flags & BEHIND)) v = TO_KERNEL;
  }
  if (v == DROP) {
    count(why);
    return XDP_DROP;
  }
  if (v != OURS) {
    if (set && (set->flags & LIMIT_PASSED) && !may_pass(set)) {
      count(PASS_LIMITED);
      return XDP_DROP;
    }
    if (v == TO_BOTH) np_copy(ctx);
    count(why);
    return XDP_PASS;
  }
  /* Without a socket on this queue the frame is dropped and counted: the kernel
   * does not own the address and, when it forwards, would send it out again. */
  action = bpf_redirect_map(&np_xsks, ctx->rx_queue_index, XDP_DROP);
  count(action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET);
  return (int)action;
}

SEC("xdp")
int np_xdp(struct xdp_md *ctx) {
  return run(ctx);
}

/* The same for an MTU whose frames do not fit one page: the kernel refuses the
 * plain one there. Headers always lie in the first, linear part. */
SEC("xdp.frags")
int np_xdp_frags(struct xdp_md *ctx) {
  return run(ctx);
}

/* No helper used here is reserved for GPL programs, so the file has the
 * licence of the rest of the repository. */
char LICENSE[] SEC("license") = "Apache-2.0";
