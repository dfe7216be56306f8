/* UDP sockets: who gets a datagram, and sending. Whoever bound one gets its number with each
 * datagram (env->udp). The same sockets are bound on every core, because a datagram comes to whichever
 * the network chose. */
#include "base/chain.h"
#include "ip/internal.h"

#define UDP_PAYLOAD_MAX_V4 (65535u - NP_IP4_BYTES - NP_UDP_BYTES)
#define UDP_PAYLOAD_MAX_V6 (65535u - NP_UDP_BYTES)

void np_udp_init(struct np_ip *ip) {
  for (uint32_t i = 0; i < NP_UDP_BUCKETS; i++) ip->udp_bucket[i] = NP_UDP_NONE;
}

/* Any address of IPv4 alone, as 0.0.0.0 is written among IPv6 addresses. */
static bool any_v4(const struct np_addr *a) { return np_addr_is_v4(a) && np_load_32(a->b + 12) == 0; }
static bool any(const struct np_addr *a) { return np_addr_is_zero(a) || any_v4(a); }

static bool covers(const struct np_addr *bound, const struct np_addr *addr) {
  return np_addr_is_zero(bound) || np_addr_eq(bound, addr) || (any_v4(bound) && np_addr_is_v4(addr));
}

/* Two that would both be meant by some datagram. */
static bool overlap(const struct np_addr *a, const struct np_addr *b) { return covers(a, b) || covers(b, a); }

static uint16_t *bucket_of(struct np_ip *ip, uint16_t port) { return &ip->udp_bucket[port % NP_UDP_BUCKETS]; }

static bool taken(struct np_ip *ip, const struct np_addr *local, uint16_t port) {
  if (port == ip->config.udp_echo_port || port == ip->config.udp_discard_port) return true;
  for (uint16_t i = *bucket_of(ip, port); i != NP_UDP_NONE; i = ip->udp[i].next) { /* bound: NP_UDP_SOCKETS_MAX */
    if (ip->udp[i].port == port && overlap(&ip->udp[i].local, local)) return true;
  }
  return false;
}

/* RFC 6056 §3.3.1: from a random one on. 0: all are taken. */
static uint16_t choose_port(struct np_ip *ip, const struct np_addr *local) {
  uint32_t from = np_rng_below(&ip->rng, NP_PORT_EPHEMERAL_COUNT);
  for (uint32_t n = 0; n < NP_PORT_EPHEMERAL_COUNT; n++) {
    uint16_t port = (uint16_t)(NP_PORT_EPHEMERAL_MIN + (from + n) % NP_PORT_EPHEMERAL_COUNT);
    if (!taken(ip, local, port)) return port;
  }
  return 0;
}

enum np_err np_udp_bind(struct np_ip *ip, const struct np_addr *local, uint16_t port, uint8_t dscp, uint32_t *out_socket,
                        uint16_t *out_port) {
  if (dscp > 63) return NP_ERR_INVALID;
  if (!any(local) && !np_ip_is_local(ip, local)) return NP_ERR_ADDRNOTAVAIL;
  if (port != 0 && taken(ip, local, port)) return NP_ERR_ADDRINUSE;
  uint32_t at = 0;
  while (at < NP_UDP_SOCKETS_MAX && ip->udp[at].port != 0) at++; /* bound: NP_UDP_SOCKETS_MAX */
  if (at == NP_UDP_SOCKETS_MAX) return NP_ERR_FULL;
  if (port == 0) port = choose_port(ip, local);
  if (port == 0) return NP_ERR_ADDRINUSE;
  uint16_t *bucket = bucket_of(ip, port);
  ip->udp[at] = (struct np_udp_socket){.local = *local, .port = port, .next = *bucket, .dscp = dscp};
  *bucket = (uint16_t)at;
  ++*np_ip_counter(ip, NP_C_UDP_SOCKETS);
  *out_socket = at;
  *out_port = port;
  return NP_ERR_OK;
}

void np_udp_unbind(struct np_ip *ip, uint32_t socket) {
  np_assert(socket < NP_UDP_SOCKETS_MAX);
  np_assert(ip->udp[socket].port != 0);
  uint16_t *link = bucket_of(ip, ip->udp[socket].port);
  while (*link != socket) link = &ip->udp[*link].next; /* bound: NP_UDP_SOCKETS_MAX */
  *link = ip->udp[socket].next;
  ip->udp[socket].port = 0;
  --*np_ip_counter(ip, NP_C_UDP_SOCKETS);
}

uint32_t np_udp_find(struct np_ip *ip, const struct np_addr *local, uint16_t port) {
  for (uint16_t i = *bucket_of(ip, port); i != NP_UDP_NONE; i = ip->udp[i].next) { /* bound: NP_UDP_SOCKETS_MAX */
    if (ip->udp[i].port == port && covers(&ip->udp[i].local, local)) return i;
  }
  return NP_UDP_NONE;
}

/* Where it is sent from. A link-local destination is on the link of the source. */
static enum np_err source(struct np_ip *ip, const struct np_udp_socket *s, const struct np_addr *wanted, const struct np_addr *dst,
                          struct np_addr *out) {
  if (!covers(&s->local, dst) && any(&s->local)) return NP_ERR_INVALID; /* IPv6 from an IPv4 socket */
  *out = any(&s->local) ? *wanted : s->local;
  if (any(out)) return np_ip_source(ip, dst, out);
  if (!any(wanted) && !np_addr_eq(out, wanted)) return NP_ERR_INVALID;
  return np_ip_is_local(ip, out) ? NP_ERR_OK : NP_ERR_ADDRNOTAVAIL;
}

static void put_header(struct np_buf *buf, const struct np_addr *src, uint16_t sport, const struct np_addr *dst, uint16_t dport) {
  uint8_t *p = np_buf_push(buf, NP_UDP_BYTES);
  uint32_t len = np_buf_total(buf);
  np_store_be16(p, sport);
  np_store_be16(p + 2, dport);
  np_store_be16(p + NP_UDP_LEN, (uint16_t)len);
  np_store_16(p + NP_UDP_CKSUM, 0);
  uint16_t sum = np_cksum_finish(np_buf_cksum(np_cksum_pseudo(src, dst, NP_PROTO_UDP, (uint16_t)len), buf, 0, len));
  np_store_16(p + NP_UDP_CKSUM, sum == 0 ? 0xffff : sum); /* 0 would mean none (RFC 768) */
}

enum np_err np_udp_send(struct np_ip *ip, uint32_t socket, const struct np_udp_to *to, struct np_buf *buf, uint64_t now_ns) {
  np_assert(socket < NP_UDP_SOCKETS_MAX);
  struct np_udp_socket *s = &ip->udp[socket];
  np_assert(s->port != 0);
  bool v4 = np_addr_is_v4(&to->addr);
  struct np_addr src;
  enum np_err err = NP_ERR_INVALID;
  uint32_t most = v4 ? UDP_PAYLOAD_MAX_V4 : UDP_PAYLOAD_MAX_V6;
  if (to->port != 0 && np_addr_is_host(&to->addr) && np_buf_total(buf) <= most) err = source(ip, s, &to->from, &to->addr, &src);
  if (err == NP_ERR_OK && v4 != np_addr_is_v4(&src)) err = NP_ERR_INVALID;
  if (err != NP_ERR_OK) {
    ip->env.counters->drop[NP_DROP_UDP_TX_REFUSED]++;
    np_buf_put_chain(buf);
    return err;
  }
  put_header(buf, &src, s->port, &to->addr, to->port);
  if (!np_addr_eq(&s->path_dst, &to->addr) || !np_addr_eq(&s->path_src, &src)) {
    s->path = (struct np_path){0};
    s->path_dst = to->addr;
    s->path_src = src;
  }
  ++*np_ip_counter(ip, NP_C_UDP_TX);
  return np_ip_output_datagram(ip, buf, &src, &to->addr, NP_PROTO_UDP, (uint8_t)(s->dscp << 2 | (to->ecn & 3)), &s->path, now_ns);
}
