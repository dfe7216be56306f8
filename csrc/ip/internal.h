/* What the files of this folder share. Nobody else includes it. */
#ifndef NP_IP_INTERNAL_H
#define NP_IP_INTERNAL_H

#include "base/bytes.h"
#include "base/chain.h"
#include "base/cksum.h"
#include "base/hash.h"
#include "base/rng.h"
#include "ip/ip.h"
#include "wire/build.h"
#include "wire/hdr.h"

/* RFC 4861 §10, for ARP as well. */
#define NP_NEIGH_REACHABLE_NS (UINT64_C(30) * 1000000000)
#define NP_NEIGH_RETRANS_NS (UINT64_C(1) * 1000000000)
#define NP_NEIGH_DELAY_NS (UINT64_C(5) * 1000000000)
#define NP_NEIGH_PROBES_MAX 3u
/* Ours: how long an unused and a failed entry are kept. */
#define NP_NEIGH_STALE_NS (UINT64_C(600) * 1000000000)
#define NP_NEIGH_FAILED_NS (UINT64_C(20) * 1000000000)

#define NP_NEIGH_NONE UINT32_MAX
#define NP_CONNECTED_MAX (NP_IFACE_MAX * NP_IFACE_ADDR_MAX)

/* Where an entry may be taken from when the table is full: FREE, then LOOSE
 * (its owner never answered us), then FIRM when idle. A flood of made-up
 * neighbors therefore only ever pushes out other made-up neighbors. */
enum np_neigh_list { NP_NEIGH_LIST_FREE, NP_NEIGH_LIST_LOOSE, NP_NEIGH_LIST_FIRM, NP_NEIGH_LIST_COUNT };

struct np_neigh {
  struct np_timer timer;
  struct np_addr addr;
  struct np_mac mac;
  uint16_t iface;
  uint8_t state;      /* enum np_neigh_state */
  uint8_t probes;     /* sent in this state */
  uint8_t list;       /* enum np_neigh_list */
  bool confirmed;     /* answered us once */
  bool cached;        /* a np_path may hold its MAC */
  uint32_t hash_next; /* index or NP_NEIGH_NONE */
  uint32_t prev;      /* in its list, most recently used first */
  uint32_t next;
  uint32_t queue_count;
  struct np_buf *queue_head; /* packets with their IP header, nobody else's */
  struct np_buf *queue_tail;
  uint64_t confirmed_ns;
  uint64_t reachable_ns; /* this entry's ReachableTime */
};

struct np_iface_addr {
  struct np_addr addr;
  uint8_t bits;   /* prefix, of 128 */
  uint8_t state;  /* enum np_addr_state */
  uint8_t origin; /* enum np_addr_origin */
};

/* The rest of it, which is not looked at for each packet. Times are absolute. */
struct np_addr_life {
  uint64_t due_ns;      /* next probe, end of the wait, or next announcement; 0 none */
  uint64_t conflict_ns; /* the last one defended against, 0 none */
  uint64_t preferred_ns; /* until then; UINT64_MAX for ever */
  uint64_t valid_ns;
  uint32_t conflicts;
  uint8_t sent;         /* probes while tentative, announcements afterwards */
  struct np_mac rival;
};

/* What routers may make here at most: a flood of advertisements changes nothing beyond it. */
#define NP_ROUTERS_MAX 4u
#define NP_PREFIXES_MAX 8u
#define NP_SLAAC_MAX 8u
#define NP_LEARNED_MAX (NP_IFACE_MAX * (1u + NP_PREFIXES_MAX))

struct np_router {
  struct np_addr addr;  /* link-local */
  uint64_t until_ns;    /* 0: free slot */
  int8_t preference;    /* -1, 0, 1 (RFC 4191 §2.1) */
};
struct np_prefix { /* on link, learned */
  struct np_addr prefix;
  uint64_t until_ns; /* 0: free slot; UINT64_MAX for ever */
  uint8_t bits;
};
/* What router discovery has found out on an interface (RFC 4861 §6.3.2). */
struct np_ra {
  bool on;
  uint8_t hops;            /* 0: none told */
  uint16_t mtu_bytes;      /* for IPv6; 0: none told */
  uint32_t current;        /* the router in use, NP_ROUTERS_MAX none */
  uint64_t reachable_ns;   /* 0: ours */
  uint64_t retrans_ns;
  uint64_t solicit_ns;     /* next solicitation, 0 none */
  uint64_t solicit_gap_ns; /* after the next one */
  struct np_router router[NP_ROUTERS_MAX];
  struct np_prefix prefix[NP_PREFIXES_MAX];
};

struct np_mld {
  bool on;
  uint8_t changes;  /* times the change is still to be told */
  uint64_t due_ns;  /* next report, 0 none */
  uint64_t sent_ns; /* the last one */
};

struct np_iface {
  uint16_t index;
  uint16_t vlan;
  uint16_t port;
  uint16_t mtu_bytes;
  struct np_mac mac;
  bool used;
  bool up;
  uint32_t addr_count;
  struct np_iface_addr addr[NP_IFACE_ADDR_MAX];
  struct np_addr_life life[NP_IFACE_ADDR_MAX]; /* by the same index */
  struct np_timer timer; /* the earliest of all that is due here */
  uint8_t dad_transmits;
  uint8_t announces;
  bool acd;
  bool opaque; /* addresses of our own making are not the kernel's */
  struct np_ra ra;
  struct np_mld mld;
};

struct np_route {
  struct np_addr prefix;
  struct np_addr via; /* all zero: on link */
  uint16_t iface;
  uint8_t bits; /* of 128 */
  bool connected;
  bool learned; /* from a router */
};

/* One per kind of answer that strangers can ask for. */
struct np_rate {
  uint64_t gap_ns;   /* between two at the full rate */
  uint64_t burst_ns; /* how far ahead of the clock full_ns may run */
  uint64_t full_ns;  /* when all that was allowed has been paid for */
};

/* Ours: limits of a datagram in fragments (the bytes are the IP header's 65,535). */
#define NP_REASS_FRAGS_MAX 64u
#define NP_REASS_NS_V4 (UINT64_C(30) * 1000000000) /* RFC 1122 §3.3.2 asks for 60 to 120 s; see README */
#define NP_REASS_NS_V6 (UINT64_C(60) * 1000000000) /* RFC 8200 §4.5 */
#define NP_REASS_NONE UINT32_MAX
#define NP_FRAG_COUNTERS 16u

/* A datagram of which fragments have come. */
struct np_reass {
  struct np_timer timer;
  struct np_addr src;
  struct np_addr dst;
  uint32_t id;
  uint16_t iface;     /* index of the interface: the same numbers on another are another datagram */
  uint8_t proto;      /* IPv4 only, else 0 */
  uint8_t ecn;        /* bit per codepoint seen */
  bool used;
  bool dead;          /* takes nothing any more, until its time is up */
  uint8_t why;        /* enum np_drop of what it no longer takes */
  bool first;         /* offset 0 came; pkt is of it */
  uint16_t frags;
  uint32_t bytes;     /* held */
  uint32_t end;       /* of the data, 0 while the last fragment is missing */
  uint32_t hash_next; /* index or NP_REASS_NONE */
  uint32_t prev;      /* by age, oldest first */
  uint32_t next;
  struct np_buf *head; /* by offset, data at the fragment's payload */
  struct np_buf *tail;
  struct np_pkt pkt;
};

struct np_reass_table {
  uint32_t mask; /* of bucket */
  uint32_t free; /* linked by next */
  uint32_t oldest;
  uint32_t newest;
  uint32_t held;     /* buffers */
  uint32_t held_max;
  uint32_t *bucket;
  struct np_reass *entry;
};

#define NP_ERROR_DESTS 64u

/* pmtu.c */
#define NP_PMTU_SETS 64u
#define NP_PMTU_WAYS 4u
#define NP_PMTU_AGE_NS (UINT64_C(600) * 1000000000)
#define NP_PMTU_MIN_V4 576u  /* ours: less would only help an attacker (RFC 1191 §3 allows 68) */
#define NP_PMTU_MIN_V6 1280u /* RFC 8201 §4 */
struct np_pmtu {
  struct np_addr dst;
  uint32_t mtu_bytes; /* 0: free */
  uint64_t learned_ns;
};

/* socket.c */
#define NP_UDP_BUCKETS 64u
#define NP_UDP_NONE UINT16_MAX
struct np_udp_socket {
  struct np_addr local; /* all zero: any */
  uint16_t port;        /* 0: free */
  uint16_t next;        /* of the same bucket */
  uint8_t dscp;
  struct np_addr path_dst; /* what path is for */
  struct np_addr path_src;
  struct np_path path;
};

struct np_ip {
  struct np_ip_env env;
  struct np_ip_config config;
  uint32_t generation; /* of every np_path; never 0 */
  uint8_t ttl;         /* of what np_ip_output sends; a path's hops come before it */
  uint32_t iface_key[NP_IFACE_MAX]; /* port << 16 | vlan of those in use, else IFACE_KEY_NONE */
  uint32_t iface_end; /* one past the last in use */
  struct np_iface iface[NP_IFACE_MAX];
  uint32_t route_count;
  struct np_route route[NP_ROUTE_MAX + NP_CONNECTED_MAX + NP_LEARNED_MAX]; /* longest prefix first, then connected, configured, learned */
  struct np_hash_key hash_key;
  struct np_rng rng;
  struct np_rate error_rate;
  struct np_rate error_dest[NP_ERROR_DESTS]; /* by hash of the destination (RFC 4443 §2.4 (f), RFC 1812 §4.3.2.8) */
  struct np_rate echo_rate;
  uint32_t frag_count[NP_FRAG_COUNTERS]; /* sent, by destination: identifications */
  struct np_reass_table reass;
  struct np_pmtu pmtu[NP_PMTU_SETS * NP_PMTU_WAYS];
  uint16_t udp_bucket[NP_UDP_BUCKETS]; /* by port */
  struct np_udp_socket udp[NP_UDP_SOCKETS_MAX];
  uint32_t neigh_mask; /* of bucket */
  uint32_t list_head[NP_NEIGH_LIST_COUNT];
  uint32_t list_tail[NP_NEIGH_LIST_COUNT];
  uint32_t *bucket;
  struct np_neigh *neigh;
};

#define NP_IFACE_KEY_NONE UINT32_MAX

NP_INLINE uint64_t *np_ip_counter(struct np_ip *ip, enum np_counter c) { return &ip->env.counters->counter[c]; }

NP_INLINE bool np_mac_eq(const struct np_mac *a, const struct np_mac *b) {
  return ((np_load_32(a->b) ^ np_load_32(b->b)) | (uint32_t)(np_load_16(a->b + 4) ^ np_load_16(b->b + 4))) == 0;
}
/* A station's own address: no group, not all zero. */
NP_INLINE bool np_mac_is_station(const struct np_mac *m) {
  return (m->b[0] & 1) == 0 && (np_load_32(m->b) | np_load_16(m->b + 4)) != 0;
}
NP_INLINE bool np_addr_is_multicast(const struct np_addr *a) {
  return np_addr_is_v4(a) ? (a->b[12] & 0xf0) == 0xe0 : a->b[0] == 0xff;
}
/* fe80::/10 (RFC 4291 §2.5.6) */
NP_INLINE bool np_addr_is_link_local(const struct np_addr *a) { return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80; }

/* ip.c: nobody else sends from src: it is an address of ours, or the broadcast address of a network of
 * ours (all ones or, as it once was, all zeros; RFC 1122 §3.2.1.3). What parsing sees alone it has refused. */
bool np_ip_source_bad(const struct np_ip *ip, const struct np_addr *src);

/* iface.c */
struct np_iface *np_iface_find(struct np_ip *ip, uint16_t port, uint16_t vlan);
/* Whether an address is the interface's and usable. */
bool np_iface_has(const struct np_iface *ifc, const struct np_addr *addr);
/* The interface's own address to tell a neighbor from; false when it has none of the family. */
bool np_iface_source(const struct np_iface *ifc, const struct np_addr *remote, struct np_addr *out);
/* The one to ask from (RFC 4861 §7.2.2 allows any): the link-local address is made from a MAC that we
 * may share with the kernel, and with it the address; the answer would go there. Last choice. */
bool np_iface_ask_source(const struct np_iface *ifc, const struct np_addr *target, struct np_addr *out);
/* A multicast group this interface listens to: all nodes, and solicited-node of each address. */
bool np_iface_joined(const struct np_iface *ifc, const struct np_addr *group);
uint32_t np_addr_common_bits(const struct np_addr *a, const struct np_addr *b);
/* Whether an address can be a single host's. */
bool np_addr_is_host(const struct np_addr *a);
/* Paths made before are no longer valid. */
void np_ip_invalidate(struct np_ip *ip);

/* addr.c: addresses and their states */
#define NP_ADDR_NONE UINT32_MAX
/* Index of an address of the interface in whatever state; NP_ADDR_NONE. */
uint32_t np_addr_index(const struct np_iface *ifc, const struct np_addr *addr);
NP_INLINE bool np_addr_is_usable(const struct np_iface_addr *a) { return a->state >= NP_ADDR_PREFERRED; }
void np_addr_init(struct np_ip *ip);
enum np_err np_addr_insert(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr, uint8_t bits,
                           enum np_addr_origin origin);
void np_addr_remove(struct np_ip *ip, struct np_iface *ifc, uint32_t at);
/* The interface is up: starts detection for what is not proven, announces the rest. */
void np_addr_start(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t now_ns);
void np_addr_stop(struct np_ip *ip, struct np_iface *ifc);
/* Somebody else claims address at: ends it when tentative, defends it otherwise. */
void np_addr_conflict(struct np_ip *ip, struct np_iface *ifc, uint32_t at, const struct np_mac *rival, uint64_t now_ns);
/* Lifetimes of an address from a router (absolute): changes its state when that follows from them. */
void np_addr_set_life(struct np_ip *ip, struct np_iface *ifc, uint32_t at, uint64_t preferred_ns, uint64_t valid_ns, uint64_t now_ns);
/* prefix with an interface identifier of the MAC's: modified EUI-64, or an opaque one. */
struct np_addr np_addr_make(const struct np_iface *ifc, const struct np_addr *prefix);
/* Sets the interface's timer to the earliest thing due. */
void np_iface_arm(struct np_ip *ip, struct np_iface *ifc);

/* route.c; routes over an interface that is down are passed over. */
const struct np_route *np_route_find(const struct np_ip *ip, const struct np_addr *dst);
/* The same for a packet from src: of connected routes that are equally good the one by src's own interface,
 * for where two interfaces (VLANs) have the same subnet. */
const struct np_route *np_route_find_from(const struct np_ip *ip, const struct np_addr *dst, const struct np_addr *src);
/* There would be a route if its interface were up. */
bool np_route_is_down(const struct np_ip *ip, const struct np_addr *dst);
enum np_err np_route_insert(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via,
                            uint16_t iface, bool connected);
/* One that a router told of: after all others of its length. NP_ERR_FULL cannot happen while each
 * interface keeps to its limits. */
enum np_err np_route_learn(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via, uint16_t iface);
void np_route_unlearn(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, const struct np_addr *via, uint16_t iface);
void np_route_remove_connected(struct np_ip *ip, const struct np_addr *prefix, uint8_t bits, uint16_t iface);
void np_route_remove_iface(struct np_ip *ip, uint16_t iface);
/* True when addr is a neighbor on that interface, not behind a router. */
bool np_route_on_link(const struct np_ip *ip, const struct np_addr *addr, uint16_t iface);

/* neigh.c */
void np_neigh_init(struct np_ip *ip);
struct np_neigh *np_neigh_find(struct np_ip *ip, uint16_t iface, const struct np_addr *addr);
/* The entry to send to addr, made INCOMPLETE and asked for when there is none. NULL: no room. */
struct np_neigh *np_neigh_resolve(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr, uint64_t now_ns);
/* What an unasked message tells of its sender: makes or changes an entry, STALE (RFC 4861 §7.2.3). */
void np_neigh_learn(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr, const struct np_mac *mac, uint64_t now_ns);
/* An advertisement or ARP reply about an entry (RFC 4861 §7.2.5). mac NULL: it named none. */
void np_neigh_advert(struct np_ip *ip, struct np_neigh *n, const struct np_mac *mac, bool solicited, bool override, uint64_t now_ns);
/* Something is sent to n, which is not REACHABLE. */
void np_neigh_used(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns);
void np_neigh_confirm(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns);
bool np_neigh_has_mac(const struct np_neigh *n);
/* Takes over a packet (data at the IP header) that waits for n's MAC. */
void np_neigh_queue(struct np_ip *ip, struct np_neigh *n, struct np_buf *buf);
void np_neigh_forget_iface(struct np_ip *ip, uint16_t iface);

/* arp.c */
enum np_drop np_arp_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns);
/* to NULL: broadcast. */
void np_arp_request(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *target, const struct np_mac *to);
void np_arp_announce(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);
/* RFC 5227 §2.1.1 */
void np_arp_probe(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);

/* nd.c */
enum np_drop np_nd_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns);
/* to NULL: to the solicited-node group. */
void np_nd_solicit(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *target, const struct np_mac *to);
void np_nd_announce(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);
/* RFC 4862 §5.4.2, with the nonce of RFC 7527 */
void np_nd_probe(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);
/* RFC 4861 §4.1; from the link-local address, or from none while there is none. */
void np_nd_router_solicit(struct np_ip *ip, struct np_iface *ifc);
struct np_addr np_nd_solicited_node(const struct np_addr *addr);

/* mld.c: reports of the solicited-node groups */
enum np_drop np_mld_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns);
/* Groups may have been added; the caller arms the interface's timer. */
void np_mld_joined(struct np_iface *ifc, uint64_t now_ns);
/* addr is gone already: its group is left unless another address needs it. */
void np_mld_left(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);
void np_mld_stop(struct np_iface *ifc);
void np_mld_timer(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns);

/* ra.c: router discovery */
enum np_drop np_ra_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns);
/* The link is up, or down. */
void np_ra_start(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns);
void np_ra_stop(struct np_ip *ip, struct np_iface *ifc);
/* Earliest thing due here, UINT64_MAX none; and doing what is due. */
uint64_t np_ra_due(const struct np_iface *ifc);
void np_ra_timer(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns);
/* A neighbor stopped answering: another router is taken, if it was ours (RFC 4861 §6.3.6). */
void np_ra_neighbor_failed(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);
/* It says that it is no router (any more): RFC 4861 §7.2.5. */
void np_ra_no_router(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr);
/* The largest IP packet of a family by an interface. */
NP_INLINE uint32_t np_iface_mtu(const struct np_iface *ifc, bool v4) {
  return v4 || ifc->ra.mtu_bytes == 0 ? ifc->mtu_bytes : ifc->ra.mtu_bytes;
}

/* icmp.c; each input returns NP_WIRE_OK when it took the buffer over. */
enum np_drop np_icmp_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns);
/* A waiting packet (data at its IP header) was given up: tells TCP. */
void np_icmp_local_unreachable(struct np_ip *ip, const struct np_buf *buf);
/* np_ip_send_error with what stands in the four bytes behind the checksum (a pointer, an MTU). */
void np_icmp_send_error(struct np_ip *ip, const struct np_pkt *about, uint8_t type, uint8_t code, uint32_t info, uint64_t now_ns);
void np_rate_init(struct np_rate *rate, uint32_t per_s);
bool np_rate_take(struct np_rate *rate, uint64_t now_ns);
/* Charges n more than the one that was taken. */
void np_rate_charge(struct np_rate *rate, uint32_t n);

/* udp.c */
enum np_drop np_udp_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns);

/* socket.c */
void np_udp_init(struct np_ip *ip);
/* The socket that a datagram to local and port is for; NP_UDP_NONE. */
uint32_t np_udp_find(struct np_ip *ip, const struct np_addr *local, uint16_t port);

/* reass.c */
size_t np_reass_bytes(const struct np_ip_config *config);
void np_reass_init(struct np_ip *ip, void *mem);
/* A fragment for an address of ours. Return: NP_IP_HELD (taken over), NP_IP_DONE (its datagram is
 * whole and now in *pkt, not looked at yet), NP_IP_DROP with *why (pkt->buf stays the caller's). */
enum np_ip_verdict np_reass_input(struct np_ip *ip, const struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns, enum np_drop *why);
void np_reass_forget_iface(struct np_ip *ip, uint16_t iface);

/* frag.c */
/* An identification for something that may be cut. */
uint32_t np_frag_id(struct np_ip *ip, const struct np_addr *dst);
/* Where fragments go: straight back to a MAC, or by the routes. */
struct np_frag_to {
  const struct np_iface *ifc;
  const struct np_mac *mac; /* NULL: by the routes */
  struct np_path *path;
  uint64_t now_ns;
};
/* Sends a packet (chain, data at the upper layer's header) as fragments of at most mtu_bytes; takes it
 * over. Without buffers for all of them it is dropped and counted: NP_ERR_NOBUF. */
enum np_err np_frag_send(struct np_ip *ip, const struct np_frag_to *to, struct np_buf *buf, const struct np_addr *src,
                         const struct np_addr *dst, uint8_t proto, uint8_t tos, uint8_t hops, uint32_t mtu_bytes);

/* output.c */
/* Pushes an Ethernet header and transmits. Takes over one reference. */
void np_ip_send_frame(struct np_ip *ip, const struct np_iface *ifc, struct np_buf *buf, const struct np_mac *dst, uint16_t type);
/* The same with an IP header first. hops: for IPv6; IPv4 always leaves with NP_IP_TTL. buf may be a
 * chain; what the link does not carry whole leaves in fragments. */
void np_ip_send_to(struct np_ip *ip, const struct np_iface *ifc, struct np_buf *buf, const struct np_mac *mac,
                   const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t tos, uint8_t hops);
/* Sends or queues a packet with its IP header, as np_ip_output. */
enum np_err np_ip_output_pushed(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                                struct np_path *path, uint64_t now_ns);
/* np_ip_output for what nobody else holds and may be cut into fragments, here and (IPv4) on the way. */
enum np_err np_ip_output_datagram(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                                  uint8_t proto, uint8_t tos, struct np_path *path, uint64_t now_ns);
/* A packet on its way out, data at its IP header: counts, tells env->drop, frees. */
void np_ip_drop(struct np_ip *ip, struct np_buf *buf, enum np_drop why);

#endif
