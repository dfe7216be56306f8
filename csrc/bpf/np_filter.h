/* What np_xdp.bpf.c may do with a frame by its source, before it reaches a core:
 * deny and allow lists, limits of packets and of SYNs for each source, and ports of
 * own addresses that stay with the kernel. Off, it costs the look at one flag word.
 *
 * - Lists: the longest prefix that holds the source decides, IPv4 and IPv6 apart;
 *   no entry means allowed. What an allow entry let in is not limited either.
 * - Limits: one token bucket of packets and one of SYNs for each IPv4 address and
 *   each IPv6 /64, in an LRU map: a new source may push out the one unseen longest,
 *   whose buckets are full again when it returns.
 * - ARP, and neighbor and router discovery from the link itself (hop limit 255), are
 *   never denied nor limited: a list must not cut the link it stands on.
 * - A SYN is a TCP segment with SYN and without ACK. What hides that counts as one: a
 *   first fragment that ends before the flags, one that begins behind them but before
 *   the data (RFC 3128), extension headers past the bounds. The stack refuses
 *   all of these; nobody honest sends them.
 * - Fragments have no ports, or not all of them have: those to own addresses belong to
 *   the appliance, whatever ports the kernel has.
 *
 * Only for np_xdp.bpf.c. Each loop has a constant bound; each read is checked
 * against the end of the frame. */
#ifndef NP_FILTER_H
#define NP_FILTER_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LIST_MAX 16384 /* twice what lists may hold: new entries come before old ones go */
#define SOURCES_MAX 65536

#define NEXT_HOP_BY_HOP 0
#define NEXT_TCP 6
#define NEXT_UDP 17
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_DEST 60
#define NEXT_ICMPV6 58
#define NEXT_ICMP 1
#define ND_HOPS 255
#define ND_FIRST 133 /* router solicitation ... */
#define ND_LAST 137  /* ... redirect */
#define ND_TOLD 136  /* neighbor advertisement */
#define ARP_REPLY 2

#define L3_MAX 18       /* Ethernet and one tag */
#define EXT_MAX 8       /* extension headers followed, and all of them together, as csrc/wire has it */
#define EXT_BYTES 512
#define TCP_FLAGS 13    /* offset in the header */
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define BOTH_ENDS 1024 /* a port of the kernel's below it is so at the peer's end too */
#define PORT_WORDS 1024 /* 64 ports each */

/* Bits of settings.flags; all clear: none of this file runs. */
enum {
  LIST4 = 1,         /* np_list4 has entries */
  LIST6 = 2,
  LIMIT_PACKETS = 4,
  LIMIT_SYNS = 8,
  ALL_TRAFFIC = 16,  /* lists and limits hold for what goes to the kernel, too */
  KERNEL_PORTS = 32, /* np_kernel_ports has some */
  LIMIT_PASSED = 64, /* what goes to the kernel has a rate, all sources together */
  BEHIND = 128,      /* the appliance has copies of what the kernel gets (AF_PACKET): nothing is redirected */
};

struct settings {
  __u32 flags;
  __u32 pad;
  __u64 packet_ns;       /* one packet's share of the time */
  __u64 packet_slack_ns; /* what a burst may be ahead of it */
  __u64 syn_ns;
  __u64 syn_slack_ns;
  __u64 pass_ns; /* of all frames to the kernel together */
  __u64 pass_slack_ns;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct settings);
} np_settings SEC(".maps");

struct list4_key {
  __u32 bits;
  __be32 addr;
};
struct list6_key {
  __u32 bits;
  __be32 addr[4];
};
/* hits counts in np_hits, which is by CPU: a flood from one prefix must not make the
 * queues share a cache line. */
struct entry {
  __u32 allow;
  __u32 hits;
};

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, LIST_MAX);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct list4_key);
  __type(value, struct entry);
} np_list4 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, LIST_MAX);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct list6_key);
  __type(value, struct entry);
} np_list6 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, LIST_MAX);
  __type(key, __u32);
  __type(value, __u64);
} np_hits SEC(".maps");

/* A source: an IPv4 address, or the network half of an IPv6 one. */
struct source {
  __be32 net[2];
  __u32 family;
};
/* Buckets as the time at which each is full again (virtual scheduling: one word to
 * read, one to write). Two CPUs that take from one at the same moment may lose one of the two
 * takings; a lock would cost every packet more than that is worth. */
struct buckets {
  __u64 packets_ns;
  __u64 syns_ns;
  __u64 packets_over; /* dropped; about, like the above */
  __u64 syns_over;
};

/* By size, not by type: clang 14 leaves the types of an inner map incomplete. */
struct sources {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, SOURCES_MAX);
  __uint(key_size, sizeof(struct source));
  __uint(value_size, sizeof(struct buckets));
};

/* Holds the map of sources while there is a limit: an LRU map takes all its memory
 * when it is made, and none should go where nothing is limited. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 1);
  __type(key, __u32);
  __array(values, struct sources);
} np_sources SEC(".maps");

/* Bit by port: TCP's words, then UDP's. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 2 * PORT_WORDS + 4); /* TCP's, UDP's, and IP protocols */
  __type(key, __u32);
  __type(value, __u64);
} np_kernel_ports SEC(".maps");

/* When the bucket of what goes to the kernel is full again. CPUs race for it: the rate is about right. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} np_pass SEC(".maps");

struct ip4 {
  __u8 ihl; /* and version */
  __u8 tos;
  __be16 len;
  __be16 id;
  __be16 frag;
  __u8 ttl;
  __u8 proto;
  __be16 sum;
  __be32 src;
  __be32 dst;
};
struct ip6 {
  __u8 head[6];
  __u8 next;
  __u8 hops;
  __be32 src[4];
  __be32 dst[4];
};
struct ext {
  __u8 next;
  __u8 len;
  __be16 frag; /* of a fragment header: offset and M */
  __be32 rest;
};
_Static_assert(sizeof(struct ip4) == 20 && sizeof(struct ip6) == 40 && sizeof(struct ext) == 8, "layouts");
_Static_assert(sizeof(struct settings) == 56 && sizeof(struct buckets) == 32 && sizeof(struct source) == 12 &&
                 sizeof(struct entry) == 8,
               "dataplane/xdp writes and reads these");

enum { NO_PACKET = 0, ARP = 1, IP4 = 4, IP6 = 6 };

/* Where the packet begins in the frame; its fixed header is all there. */
struct packet {
  const void *at;
  __u32 off;
  __u32 family;
};

/* What of the upper layer matters here. */
struct upper {
  __u32 proto; /* whose port it is, TCP or UDP; another protocol, without one; ICMP: an answer to an echo; 0: none */
  __be16 port; /* ours: the destination, or, in an ICMP error, the source of the packet it is about */
  __u16 syn;   /* a SYN, or what might be one */
};

/* Whether the kernel has a port, or a protocol that has none. */
static __always_inline int kernel_has(__u32 proto, __be16 port) {
  __u32 n = bpf_ntohs(port);
  __u32 word = n >> 6;
  __u64 *bits;
  if (proto == NEXT_UDP) {
    word += PORT_WORDS;
  } else if (proto != NEXT_TCP) {
    n = proto & 0xff;
    word = 2 * PORT_WORDS + (n >> 6);
  }
  bits = bpf_map_lookup_elem(&np_kernel_ports, &word);
  return bits && *bits >> (n & 63) & 1;
}

/* An ICMP error about a packet that we sent, or an answer to an echo: the appliance asks for none. */
static __always_inline void read_icmp(const __u8 *icmp, const void *end, int v6, struct upper *up) {
  const __u8 *in = icmp + 8;
  __u32 proto;
  if ((const void *)in > end) return;
  if (icmp[0] == (v6 ? 129 : 0)) {
    up->proto = NEXT_ICMP;
    return;
  }
  if (!v6) {
    const struct ip4 *ip = (const void *)in;
    if (icmp[0] != 3 && icmp[0] != 11 && icmp[0] != 12) return;
    if ((const void *)(ip + 1) > end || (ip->frag & bpf_htons(0x1fff))) return;
    proto = ip->proto;
    in += (__u32)(ip->ihl & 15) * 4;
  } else {
    const struct ip6 *ip = (const void *)in;
    if (icmp[0] < 1 || icmp[0] > 4 || (const void *)(ip + 1) > end) return;
    proto = ip->next;
    in += sizeof(*ip);
  }
  if ((const void *)(in + sizeof(up->port)) > end) return;
  __builtin_memcpy(&up->port, in, sizeof(up->port));
  up->proto = proto == NEXT_ICMP ? 0 : proto;
}

/* The upper layer at its beginning; part: in a first fragment, whose ports do not count. */
static __always_inline void read_upper(const __u8 *at, const void *end, __u32 proto, int part, struct upper *up) {
  __be16 peer;
  if (proto == NEXT_TCP) {
    if ((const void *)(at + TCP_FLAGS + 1) > end) {
      up->syn = part != 0;
      return;
    }
    up->syn = (at[TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
  }
  if (part) return;
  if (proto == NEXT_ICMP || proto == NEXT_ICMPV6) {
    read_icmp(at, end, proto == NEXT_ICMPV6, up);
    return;
  }
  up->proto = proto;
  if (proto != NEXT_TCP && proto != NEXT_UDP) return;
  if ((const void *)(at + 4) > end) {
    up->proto = 0;
    return;
  }
  __builtin_memcpy(&peer, at, sizeof(peer));
  __builtin_memcpy(&up->port, at + 2, sizeof(up->port));
  /* What the kernel opened to such a service itself. */
  if (bpf_ntohs(peer) < BOTH_ENDS && kernel_has(proto, peer)) up->port = peer;
}

static __always_inline void find_upper4(const void *at, const void *end, struct upper *up) {
  const struct ip4 *ip = at;
  __u32 frag;
  __u32 bytes;
  if ((const void *)(ip + 1) > end) return;
  frag = bpf_ntohs(ip->frag) & 0x3fff;
  bytes = (__u32)(ip->ihl & 15) * 4;
  if (bytes < sizeof(*ip)) return; /* the stack drops it */
  if (frag & 0x1fff) {
    up->syn = (frag & 0x1fff) == 1 && ip->proto == NEXT_TCP;
    return;
  }
  read_upper((const __u8 *)at + bytes, end, ip->proto, frag != 0, up);
}

static __always_inline void find_upper6(const void *at, const void *end, struct upper *up) {
  const struct ip6 *ip = at;
  __u32 off = sizeof(*ip);
  __u32 next;
  int part = 0;
  int i;
  if ((const void *)(ip + 1) > end) return;
  next = ip->next;
  for (i = 0; i <= EXT_MAX; i++) { /* bound: EXT_MAX headers */
    const struct ext *h = (const void *)((const __u8 *)at + off);
    if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING && next != NEXT_DEST && next != NEXT_FRAGMENT) {
      read_upper((const __u8 *)h, end, next, part, up);
      return;
    }
    if (i == EXT_MAX || (const void *)(h + 1) > end) break;
    if (next == NEXT_FRAGMENT) {
      __u32 frag = bpf_ntohs(h->frag) & 0xfff9; /* 0: an atomic fragment, RFC 6946 */
      if (frag & 0xfff8) {                      /* a later one: data comes here */
        up->syn = (frag & 0xfff8) == 8 && h->next == NEXT_TCP;
        return;
      }
      part |= frag != 0;
      off += sizeof(*h);
    } else {
      off += ((__u32)h->len + 1) * 8;
    }
    next = h->next;
    if (off > sizeof(*ip) + EXT_BYTES) break;
  }
  up->syn = 1;
}

/* A global function, so that the verifier goes through it once, and not once for each way to
 * get here and on from here: those multiply. It takes and gives scalars only. */
__attribute__((noinline)) __u32 np_find_upper(struct xdp_md *ctx, __u32 off, __u32 family) {
  const void *end = (const void *)(long)ctx->data_end;
  const void *at = (const void *)(long)ctx->data;
  struct upper up = {0};
  if (off > L3_MAX) return 0;
  at += off;
  if (family == IP4) find_upper4(at, end, &up);
  else if (family == IP6) find_upper6(at, end, &up);
  return (__u32)up.syn << 24 | up.proto << 16 | up.port;
}

static __always_inline void find_upper(struct xdp_md *ctx, const struct packet *p, struct upper *up) {
  __u32 found = np_find_upper(ctx, p->off, p->family);
  up->syn = (__u16)(found >> 24);
  up->proto = found >> 16 & 0xff;
  up->port = (__be16)found;
}

/* Neighbor and router discovery, from a host of this link: its type, or 0. */
static __always_inline __u32 discovery(const struct packet *p, const void *end) {
  const struct ip6 *ip = p->at;
  const __u8 *icmp = (const __u8 *)(ip + 1);
  if (p->family != IP6 || (const void *)(icmp + 1) > end) return 0;
  if (ip->next != NEXT_ICMPV6 || ip->hops != ND_HOPS || *icmp < ND_FIRST || *icmp > ND_LAST) return 0;
  return *icmp;
}

/* Whether a packet to an own address is for a port that the kernel has. */
static __always_inline int kernels(const struct upper *up) {
  if (up->proto == NEXT_ICMP) return 1;
  return up->proto && kernel_has(up->proto, up->port);
}

enum judgment { FINE, DENY_SOURCE, OVER_PACKETS, OVER_SYNS };

/* Takes one from a bucket that is full again at *full; no: it is empty. */
static __always_inline int take(__u64 *full, __u64 now, __u64 each, __u64 slack) {
  __u64 at = *full;
  if (at < now) at = now;
  if (at - now > slack) return 0;
  *full = at + each;
  return 1;
}

/* Whether the kernel may have one more frame. */
static __always_inline int may_pass(const struct settings *set) {
  const __u32 zero = 0;
  __u64 *full = bpf_map_lookup_elem(&np_pass, &zero);
  return !full || take(full, bpf_ktime_get_ns(), set->pass_ns, set->pass_slack_ns);
}

static __always_inline enum judgment limit(const struct settings *set, const struct source *key, int syn) {
  const __u32 zero = 0;
  void *sources = bpf_map_lookup_elem(&np_sources, &zero);
  struct buckets *b;
  __u64 now;
  if (!sources) return FINE;
  now = bpf_ktime_get_ns();
  b = bpf_map_lookup_elem(sources, key);
  if (!b) {
    struct buckets fresh = {.packets_ns = now + set->packet_ns, .syns_ns = syn ? now + set->syn_ns : 0};
    bpf_map_update_elem(sources, key, &fresh, BPF_ANY);
    return FINE;
  }
  if ((set->flags & LIMIT_PACKETS) && !take(&b->packets_ns, now, set->packet_ns, set->packet_slack_ns)) {
    b->packets_over++;
    return OVER_PACKETS;
  }
  if (syn && !take(&b->syns_ns, now, set->syn_ns, set->syn_slack_ns)) {
    b->syns_over++;
    return OVER_SYNS;
  }
  return FINE;
}

static __always_inline enum judgment judge(const struct settings *set, const struct packet *p, int syn, const void *end) {
  struct source key = {.family = p->family};
  struct entry *entry = 0;
  if (p->family == IP4) {
    const struct ip4 *ip = p->at;
    if ((const void *)(ip + 1) > end) return FINE;
    key.net[0] = ip->src;
    if (set->flags & LIST4) {
      struct list4_key lpm = {.bits = 32, .addr = ip->src};
      entry = bpf_map_lookup_elem(&np_list4, &lpm);
    }
  } else {
    const struct ip6 *ip = p->at;
    if ((const void *)(ip + 1) > end) return FINE;
    key.net[0] = ip->src[0];
    key.net[1] = ip->src[1];
    if (set->flags & LIST6) {
      struct list6_key lpm = {.bits = 128};
      __builtin_memcpy(lpm.addr, ip->src, sizeof(lpm.addr));
      entry = bpf_map_lookup_elem(&np_list6, &lpm);
    }
  }
  if (entry) {
    __u32 at = entry->hits;
    __u64 *hits = bpf_map_lookup_elem(&np_hits, &at);
    if (hits) *hits += 1;
    return entry->allow ? FINE : DENY_SOURCE;
  }
  syn = syn && (set->flags & LIMIT_SYNS);
  if (!syn && !(set->flags & LIMIT_PACKETS)) return FINE;
  return limit(set, &key, syn);
}

#endif
