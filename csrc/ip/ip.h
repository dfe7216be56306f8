/* The network layer of one core: interfaces, addresses, routes, neighbors (ARP
 * and ND as one table), ICMP and ICMPv6, UDP sockets, echo and discard, and output.
 *
 * Owner: one core. Thread: that core. No system call, no allocation after
 * np_ip_init, no clock: now_ns comes in. What leaves goes to env->xmit with the
 * Ethernet header in place. */
#ifndef NP_IP_IP_H
#define NP_IP_IP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/pool.h"
#include "base/wheel.h"
#include "np/counter.h"
#include "np/err.h"
#include "np/info.h"
#include "wire/pkt.h"

#define NP_IFACE_MAX 32u
#define NP_IFACE_ADDR_MAX 16u
#define NP_ROUTE_MAX 256u

struct np_ip;

struct np_ip_env {
  struct np_pool *pool;
  struct np_wheel *wheel;
  struct np_counters *counters;
  /* Sends a finished frame by interface; takes over one reference. */
  void (*xmit)(void *ctx, uint16_t iface, struct np_buf *frame);
  /* Tells TCP of an ICMP error for a flow of ours (local = our end). mtu_bytes
   * is set for packet-too-big, else 0. soft: not to end a synchronised connection
   * (RFC 5461). Return: false when no connection matches (counted as unmatched). */
  bool (*l4_error)(void *ctx, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err,
                   bool soft, uint32_t mtu_bytes);
  /* Called for each packet the layer drops on its own on the way out (neighbor queue, no route,
   * ...), data at its IP header, already counted under why, before it is freed. Others may hold
   * buf, and the port may still read what lies before the data. May be NULL, as l4_error may. */
  void (*drop)(void *ctx, struct np_buf *buf, enum np_drop why);
  /* Addresses of the interface changed by themselves (state, conflict, a router's prefix):
   * np_ip_addresses tells. Not called for what np_ip_addr_add and _del did. May be NULL. */
  void (*addr_changed)(void *ctx, uint16_t iface);
  /* Called for each received packet that the layer kept (a fragment) and drops later, already
   * counted, before it is freed; frame_off and frame_len still name its frame. May be NULL. */
  void (*rx_drop)(void *ctx, struct np_buf *buf, enum np_drop why);
  /* A datagram for a socket of np_udp_bind, checksum verified; takes over pkt->buf and returns true, or
   * false when there is no room for it (the layer counts the drop). May be NULL without sockets. */
  bool (*udp)(void *ctx, uint32_t socket, const struct np_pkt *pkt);
  void *ctx;
};

struct np_ip_config {
  /* 0 in one of the first four means its default. */
  uint32_t neigh_max;          /* entries, 16 to 65,536; default 1,024 */
  uint32_t neigh_queue_pkts;   /* packets held per unresolved neighbor, default 8 */
  uint32_t icmp_rate_per_s;    /* errors sent per second, default 1,000; bursts of a tenth of it */
  uint32_t icmp_dest_per_s;    /* of the errors, to one destination (a hash of it); 0: no limit of its own */
  uint32_t icmp_echo_per_s;    /* echo requests answered per second, default 10,000; likewise */
  uint16_t udp_echo_port;      /* 0 off */
  uint16_t udp_discard_port;   /* 0 off */
  uint8_t ttl;                 /* TTL and hop limit of what np_ip_output sends; 0: 64, and for IPv6 what a router told */
  uint64_t nonce;              /* random, the same on all cores: knows our own probes when they come back (RFC 7527) */
  bool silent;                 /* another core with this interface announces, probes and reports; here only listened */
  uint16_t reass_max;          /* datagrams put together at a time, 16 to 4,096; default 256 */
  uint16_t reass_source_max;   /* of them from one source, default 16 */
  uint32_t reass_bufs_max;     /* buffers they hold at most; default an eighth of the pool */
  uint64_t seed;               /* random: hash keys, identifications */
};

struct np_iface_config {
  uint16_t vlan;      /* 0 untagged; the sub-interface's VID otherwise */
  uint16_t port;      /* interface index handed to xmit and found in buf->iface */
  uint32_t mtu_bytes; /* of the IP packet, 1,280 to 9,000 */
  struct np_mac mac;
  uint8_t dad_transmits; /* probes before an IPv6 address is used (RFC 4862 §5.1); 0: used at once */
  uint8_t announces;     /* announcements of an address that came up; 0 means 1 */
  bool acd;              /* probe before an IPv4 address is used (RFC 5227 §2.1) */
  bool accept_ra;        /* take prefixes and default routes from routers (RFC 4861 §6.3, RFC 4862 §5.5) */
  bool mld;              /* report the groups of our addresses (RFC 3810) */
  bool opaque;           /* IPv6 addresses of our own making get an identifier that is not the MAC's modified EUI-64,
                          * for where the kernel makes those from the same MAC (RFC 8064) */
};

/* Bytes np_ip_init needs, cache-line aligned. */
size_t np_ip_bytes(const struct np_ip_config *config);
struct np_ip *np_ip_init(void *mem, const struct np_ip_config *config, const struct np_ip_env *env, uint64_t now_ns);
/* Deletes every interface: waiting packets go back to the pool, timers are cancelled. */
void np_ip_fini(struct np_ip *ip);

/* Interfaces are named by index 0..NP_IFACE_MAX-1, chosen by the caller. The
 * link-local IPv6 address is made from the MAC. */
enum np_err np_ip_iface_add(struct np_ip *ip, uint16_t iface, const struct np_iface_config *config);
enum np_err np_ip_iface_del(struct np_ip *ip, uint16_t iface);
/* Up sends gratuitous ARP and unsolicited NA for each address, those not yet proven unique after their
 * detection; down forgets neighbors. An address proven once is not probed again when the link returns. */
enum np_err np_ip_iface_up(struct np_ip *ip, uint16_t iface, bool up, uint64_t now_ns);
/* prefix_bits counts in the family's own width (24 for 198.18.0.1/24). */
enum np_err np_ip_addr_add(struct np_ip *ip, uint16_t iface, const struct np_addr *addr, uint8_t prefix_bits, uint64_t now_ns);
enum np_err np_ip_addr_del(struct np_ip *ip, uint16_t iface, const struct np_addr *addr);
/* Longest prefix wins. via all-zero: on link. */
enum np_err np_ip_route_add(struct np_ip *ip, const struct np_addr *prefix, uint8_t prefix_bits, const struct np_addr *via, uint16_t iface);
enum np_err np_ip_route_del(struct np_ip *ip, const struct np_addr *prefix, uint8_t prefix_bits);
/* An address of ours that is usable: neither tentative nor a duplicate. */
bool np_ip_is_local(const struct np_ip *ip, const struct np_addr *addr);
/* An address of ours, whatever its state. */
bool np_ip_owns(const struct np_ip *ip, const struct np_addr *addr);
/* Copies up to max addresses from *cursor on, whatever their state; *cursor 0 starts, 0 afterwards ends. */
uint32_t np_ip_addresses(const struct np_ip *ip, uint32_t *cursor, struct np_addr_info *out, uint32_t max, uint64_t now_ns);
/* The address of ours to use towards remote (RFC 6724 in small: same interface,
 * same scope, longest match). NP_ERR_NOROUTE when there is none. */
enum np_err np_ip_source(const struct np_ip *ip, const struct np_addr *remote, struct np_addr *out);

/* Handles one parsed packet. TCP comes back to the caller; everything else is
 * answered or dropped here. A fragment is kept until its datagram is whole, with which pkt is then
 * replaced: it may be a chain (base/chain.h) and begin in another buffer.
 * Owner: takes over pkt->buf when it returns NP_IP_DONE or NP_IP_HELD; it may by then have left as the
 * answer. Received buffers are nobody else's (refs 1).
 * Return: NP_IP_TCP (pkt is the caller's, verified to be for us; TCP counts it delivered or dropped),
 * NP_IP_DONE (the caller counts DELIVERED_PKTS), NP_IP_HELD (the caller counts nothing: the layer
 * does, IP_FRAGS_HELD meanwhile), or NP_IP_DROP with *why set (the caller
 * counts drop[*why] and still owns pkt->buf). So each packet is counted once. */
enum np_ip_verdict { NP_IP_TCP, NP_IP_DONE, NP_IP_HELD, NP_IP_DROP };
enum np_ip_verdict np_ip_input(struct np_ip *ip, struct np_pkt *pkt, uint64_t now_ns, enum np_drop *why);

/* Answers a packet that np_wire_parse refused (np_wire_has_problem), where RFC 8200 §4.2 wants it:
 * rate limited like all errors. pkt as parsing left it; the buffer stays the caller's. */
void np_ip_problem(struct np_ip *ip, struct np_pkt *pkt, uint64_t now_ns);

/* A connection's cached way out: valid while generation matches the layer's. Zeroed is empty. */
struct np_path {
  uint32_t generation;
  uint16_t iface;
  uint16_t mtu_bytes;
  uint8_t link_len; /* 0: unresolved; else bytes of link[] */
  uint8_t is_v4;
  uint8_t link[18]; /* Ethernet header, VLAN tag included */
  uint8_t hops;     /* of IPv6, as a router told; 0: the configured or usual one */
  uint32_t neigh;   /* index, to keep the neighbor fresh */
  uint32_t flow_label; /* of IPv6, 20 bits (RFC 6437 §3): whoever keeps the path sets it; 0: none */
};

/* The port that np_ip_output would use for path now; -1: it has to look for one. */
int32_t np_ip_path_port(const struct np_ip *ip, const struct np_path *path);

/* Sends one L4 packet: prepends IP and Ethernet headers to buf (data at the
 * L4 header, checksum already right or left to the port) and transmits,
 * resolving route and neighbor when path is stale; an unresolved neighbor keeps
 * the packet in its bounded queue.
 * Owner: takes over one reference of buf in every case. The headers are pushed into
 * buf's headroom: a caller that keeps the buffer (retransmission) pulls them off again itself.
 * path may be NULL. buf->next is neither read nor written while somebody else holds buf; one that
 * nobody else holds may be a chain, for ports with NP_PORT_SG.
 * Return: NP_ERR_OK also when queued; NP_ERR_NOROUTE, NP_ERR_PORTDOWN, NP_ERR_LIMIT (over the
 * MTU), NP_ERR_FULL (no neighbor entry to be had): counted, freed. */
enum np_err np_ip_output(struct np_ip *ip, struct np_buf *buf, const struct np_addr *src, const struct np_addr *dst,
                         uint8_t proto, uint8_t tos, struct np_path *path, uint64_t now_ns);
/* The port that packets to dst leave by, as routes say; -1 without a route. */
int32_t np_ip_route_port(struct np_ip *ip, const struct np_addr *dst);
/* MTU towards dst and the MSS it allows; 0 without a route. */
uint32_t np_ip_mtu(struct np_ip *ip, const struct np_addr *dst);
/* The same, and no more than what a packet-too-big message told within the last ten minutes. */
uint32_t np_ip_pmtu(struct np_ip *ip, const struct np_addr *dst, uint64_t now_ns);
/* A packet-too-big message about data in flight to dst, as TCP made sure. Less than 576 (IPv6: 1,280) is
 * taken as that; it never raises what is known. */
void np_ip_pmtu_learn(struct np_ip *ip, const struct np_addr *dst, uint32_t mtu_bytes, uint64_t now_ns);
/* The neighbor of path answered (new data acknowledged): RFC 4861 §7.3.1 upper-layer confirmation. */
void np_ip_confirm(struct np_ip *ip, const struct np_path *path, uint64_t now_ns);
/* What went by path stays unanswered: its neighbor is asked now (RFC 4861 §7.3.1 leaves such advice to us),
 * at most once in a while however many connections complain. */
void np_ip_doubt(struct np_ip *ip, const struct np_path *path, uint64_t now_ns);

/* Copies up to max entries from *cursor on; *cursor 0 starts, 0 afterwards ends. */
uint32_t np_ip_neighbors(const struct np_ip *ip, uint32_t *cursor, struct np_neigh_info *out, uint32_t max, uint64_t now_ns);

/* UDP sockets. Numbers are 0 to NP_UDP_SOCKETS_MAX - 1. */
#define NP_UDP_SOCKETS_MAX 256u
/* local all zero: any address of ours; ::ffff:0.0.0.0: any of IPv4. port 0: chosen at random (RFC 6056 §3.3.1).
 * Errors: NP_ERR_INVALID, NP_ERR_ADDRINUSE (also for addresses that overlap), NP_ERR_ADDRNOTAVAIL (no usable
 * address of ours), NP_ERR_FULL. */
enum np_err np_udp_bind(struct np_ip *ip, const struct np_addr *local, uint16_t port, uint8_t dscp, uint32_t *out_socket,
                        uint16_t *out_port);
void np_udp_unbind(struct np_ip *ip, uint32_t socket);
struct np_udp_to {
  struct np_addr addr;
  struct np_addr from; /* all zero: the socket's, or as the route says */
  uint16_t port;
  uint8_t ecn;
};
/* Sends one datagram: buf's data (a chain nobody else holds, with NP_BUF_HEADROOM less 40 bytes in front at
 * least) is its payload. In fragments where it is larger than the link or, as TCP found out, the path carries;
 * over IPv4 routers may cut it as well.
 * Owner: takes over buf in every case. Return: as np_ip_output; NP_ERR_INVALID, NP_ERR_ADDRNOTAVAIL. */
enum np_err np_udp_send(struct np_ip *ip, uint32_t socket, const struct np_udp_to *to, struct np_buf *buf, uint64_t now_ns);

/* ICMP port unreachable etc. about a received packet, rate limited. Keeps no reference. */
void np_ip_send_error(struct np_ip *ip, const struct np_pkt *about, uint8_t type, uint8_t code, uint64_t now_ns);

#endif
