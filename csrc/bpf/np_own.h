/* What both programs mean by an own address, and by frames. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ADDRS_MAX 4096
#define VLAN_ID_MASK 0x0fff
#define ND_SOLICIT 135
#define ND_ADVERT 136
#define ND_ROUTER 134
#define MLD_QUERY 130

/* An own address on an own VLAN. IPv4 as ::ffff:a.b.c.d, as everywhere else. */
struct own {
  __be32 addr[4];
  __u32 vlan; /* 0 untagged; host order */
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, ADDRS_MAX);
  __type(key, struct own);
  __type(value, __u32);
} np_own SEC(".maps");

/* Each program has its own enum counter before it includes this. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} np_counters SEC(".maps");

struct vlan_tag {
  __be16 tci;
  __be16 proto;
};
