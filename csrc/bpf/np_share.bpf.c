/* For a device that the appliance shares with the kernel by AF_PACKET, where both get every frame. Two programs
 * over the same own addresses as np_xdp.bpf.c's make of that what XDP makes by redirecting:
 *
 * np_share_socket, a filter of the packet sockets: of received frames only the appliance's come to it, and those that
 *   concern both. What is the kernel's costs the core nothing and fills no ring.
 * np_share_kernel, at the device's TCX ingress, behind the packet sockets: the kernel does not get the appliance's
 *   frames, which it would route on where it forwards.
 *
 * Whose a frame is, is said at the head of np_xdp.bpf.c. Only the fixed headers are looked at; a frame that is
 * too short for them is the kernel's. */
#define NEXT_HOP_BY_HOP 0
#define NEXT_ICMPV6 58
#define ND_HOPS 255

#define ALL_BYTES 0xffffffff /* of a frame, to the socket */
#define TC_NEXT (-1)
#define TC_DROP 2

/* Indices of counters; dataplane/xdp names them. Each frame counts in one, at the kernel's end. */
enum counter { REDIRECTED, PASSED, COUNTERS };

#include "np_own.h"

struct arp4 {
  __u8 fixed[6]; /* Ethernet, IPv4, six and four bytes of address */
  __be16 op;
  __u8 sender_mac[6];
  __u8 sender[4];
  __u8 target_mac[6];
  __u8 target[4];
};
struct ip6 {
  __u8 head[6];
  __u8 next;
  __u8 hops;
  __be32 src[4];
  __be32 dst[4];
};
_Static_assert(sizeof(struct arp4) == 28 && sizeof(struct ip6) == 40 && sizeof(struct own) == 20, "layouts");

enum verdict { KERNELS, OURS, BOTHS };

/* From the frame's first byte on, wherever a program's view of it begins. */
static __always_inline int load(const struct __sk_buff *skb, __u32 off, void *to, __u32 bytes) {
  return bpf_skb_load_bytes_relative(skb, off, to, bytes, BPF_HDR_START_MAC) == 0;
}

static __always_inline int is_own(const struct own *key) { return bpf_map_lookup_elem(&np_own, key) != 0; }

static __always_inline int is_own4(struct own *key, __be32 addr) {
  key->addr[0] = 0;
  key->addr[1] = 0;
  key->addr[2] = bpf_htonl(0xffff);
  key->addr[3] = addr;
  return is_own(key);
}

static __always_inline enum verdict choose_arp(struct __sk_buff *skb, __u32 off, struct own *key) {
  static const __u8 ether_ip4[6] = {0, 1, 8, 0, 6, 4};
  struct arp4 arp;
  __be32 target;
  __be32 sender;
  int i;
  if (!load(skb, off, &arp, sizeof(arp))) return KERNELS;
  for (i = 0; i < 6; i++) { /* bound: six bytes */
    if (arp.fixed[i] != ether_ip4[i]) return KERNELS;
  }
  __builtin_memcpy(&target, arp.target, sizeof(target));
  __builtin_memcpy(&sender, arp.sender, sizeof(sender));
  if (is_own4(key, target)) return OURS;
  if (sender == target) return BOTHS; /* RFC 5227 §2.3 */
  return is_own4(key, sender) ? BOTHS : KERNELS;
}

static __always_inline enum verdict choose_ip6(struct __sk_buff *skb, __u32 off, struct own *key) {
  struct ip6 ip;
  __u8 icmp[9];
  if (!load(skb, off, &ip, sizeof(ip))) return KERNELS;
  __builtin_memcpy(key->addr, ip.dst, sizeof(ip.dst));
  if (is_own(key)) return OURS;
  off += sizeof(ip);
  if (ip.next == NEXT_HOP_BY_HOP) { /* a query for our groups carries the router alert, RFC 3810 §5 */
    if (!load(skb, off, icmp, sizeof(icmp))) return KERNELS;
    return icmp[0] == NEXT_ICMPV6 && icmp[1] == 0 && icmp[8] == MLD_QUERY ? BOTHS : KERNELS;
  }
  if (ip.next != NEXT_ICMPV6 || ip.hops != ND_HOPS || !load(skb, off, icmp, 1)) return KERNELS;
  if (icmp[0] == ND_ADVERT || icmp[0] == ND_ROUTER) return BOTHS;
  if (icmp[0] != ND_SOLICIT || ip.dst[0] != bpf_htonl(0xff020000)) return KERNELS;
  if (!load(skb, off + 8, key->addr, sizeof(key->addr))) return KERNELS;
  return is_own(key) ? OURS : KERNELS;
}

static __always_inline enum verdict choose(struct __sk_buff *skb) {
  __u32 off = ETH_HLEN;
  struct own key = {0};
  __be16 proto;
  __be32 dst;
  if (!load(skb, off - 2, &proto, sizeof(proto))) return KERNELS;
  if (skb->vlan_present) { /* taken out of the frame */
    key.vlan = skb->vlan_tci & VLAN_ID_MASK;
  } else if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
    struct vlan_tag tag;
    if (!load(skb, off, &tag, sizeof(tag))) return KERNELS;
    key.vlan = bpf_ntohs(tag.tci) & VLAN_ID_MASK;
    proto = tag.proto;
    off += sizeof(tag);
  }
  if (proto == bpf_htons(ETH_P_IP)) {
    if (!load(skb, off + 16, &dst, sizeof(dst))) return KERNELS;
    return is_own4(&key, dst) ? OURS : KERNELS;
  }
  if (proto == bpf_htons(ETH_P_IPV6)) return choose_ip6(skb, off, &key);
  if (proto == bpf_htons(ETH_P_ARP)) return choose_arp(skb, off, &key);
  return KERNELS;
}

static __always_inline void count(__u32 which) {
  __u64 *n = bpf_map_lookup_elem(&np_counters, &which);
  if (n) *n += 1; /* per CPU */
}

SEC("socket")
int np_share_socket(struct __sk_buff *skb) { return choose(skb) == KERNELS ? 0 : (int)ALL_BYTES; }

SEC("tcx/ingress")
int np_share_kernel(struct __sk_buff *skb) {
  if (choose(skb) == OURS) {
    count(REDIRECTED);
    return TC_DROP;
  }
  count(PASSED);
  return TC_NEXT;
}

char LICENSE[] SEC("license") = "Apache-2.0";
