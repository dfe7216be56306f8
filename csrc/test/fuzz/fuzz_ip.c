/* Frames through np_wire_parse and np_ip_input, with time passing and packets of
 * ours in between. Input: records of two bytes length, one byte mode, one byte
 * waiting time (quarter seconds), then the frame. Mode bit 0 vouches for the L4
 * checksum, bit 1 mends the IPv4 header's, bit 2 sends something to the frame's
 * source afterwards, bit 3 takes the interface down and up, bit 4 empties the pool meanwhile,
 * bit 5 says that the frame is a copy of one that somebody else got, bit 6 sends a datagram to the frame's source, as
 * long as the frame or, with bit 7, six times that. Refused frames are complained about. Sockets are bound to ports 53 and 5353.
 *
 * Checked: each packet ends once, addresses and neighbors stay within their limits, what is sent parses with right checksums, all
 * buffers and timers are gone at the end. */
#include <stdlib.h>

#include "base/chain.h"
#include "base/cksum.h"
#include "ip/ip.h"
#include "wire/hdr.h"

#define BUFS 48u
#define CHUNK 2048u
#define FRAME_MAX 1600u
#define PORT 3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct rig {
  struct np_pool pool;
  struct np_counters counters;
  struct np_wheel wheel;
  struct np_ip *ip;
  uint64_t now_ns;
  uint32_t error_count;
  uint32_t socket[2];
};

static void xmit(void *ctx, uint16_t port, struct np_buf *frame) {
  (void)ctx;
  np_assert(port == PORT);
  np_assert(frame->refs == 1);
  uint32_t len = frame->len;
  frame->flags = 0;
  struct np_pkt pkt;
  np_assert(np_wire_parse(frame, &pkt) == NP_WIRE_OK);
  np_assert(frame->len == len);
  np_buf_put(frame);
}

static bool l4_error(void *ctx, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft, uint32_t mtu_bytes) {
  struct rig *r = ctx;
  (void)tcp_seq;
  (void)soft;
  (void)mtu_bytes;
  np_assert(err != NP_ERR_OK);
  np_assert(np_ip_is_local(r->ip, &flow->local));
  return r->error_count++ % 2 == 0;
}

static bool udp(void *ctx, uint32_t socket, const struct np_pkt *pkt) {
  struct rig *r = ctx;
  np_assert(socket == r->socket[0] || socket == r->socket[1]);
  np_assert(np_ip_is_local(r->ip, &pkt->flow.local));
  np_assert(pkt->l4_len >= NP_UDP_BYTES && np_buf_total(pkt->buf) >= (uint32_t)pkt->l4_off + pkt->l4_len);
  if ((pkt->flow.remote_port & 3) == 3) return false; /* no room */
  np_buf_put_chain(pkt->buf);
  return true;
}

static void sockets(struct rig *r) {
  static const uint8_t a4[4] = {198, 18, 0, 1};
  struct np_addr any = {{0}};
  struct np_addr v4 = np_addr_from_v4_be(a4);
  uint16_t port;
  np_assert(np_udp_bind(r->ip, &any, 53, 46, &r->socket[0], &port) == NP_ERR_OK);
  np_assert(np_udp_bind(r->ip, &v4, 5353, 0, &r->socket[1], &port) == NP_ERR_OK);
}

static void datagram_to(struct rig *r, const struct np_addr *dst, uint32_t bytes) {
  struct np_buf *head = NULL;
  struct np_buf **at = &head;
  do { /* bound: bytes */
    struct np_buf *b = np_pool_get(&r->pool);
    if (b == NULL) {
      np_buf_put_chain(head);
      return;
    }
    uint32_t n = bytes < 1500 ? bytes : 1500;
    memset(np_buf_append(b, n), 0x5a, n);
    bytes -= n;
    *at = b;
    at = &b->next;
  } while (bytes > 0);
  struct np_udp_to to = {.addr = *dst, .port = 4000};
  (void)np_udp_send(r->ip, r->socket[0], &to, head, r->now_ns);
}

static void addresses(struct rig *r) {
  static const uint8_t a4[4] = {198, 18, 0, 1};
  static const uint8_t any4[4] = {0};
  static const uint8_t gw4[4] = {198, 18, 0, 254};
  struct np_addr v4 = np_addr_from_v4_be(a4);
  struct np_addr v6 = {{0x20, 0x01, 0x0d, 0xb8, [15] = 1}};
  struct np_addr vlan = {{0x20, 0x01, 0x0d, 0xb8, 5, [15] = 1}};
  struct np_addr any = np_addr_from_v4_be(any4);
  struct np_addr gw = np_addr_from_v4_be(gw4);
  struct np_iface_config c = {.port = PORT, .mtu_bytes = 1500, .accept_ra = true, .mld = true, .mac = {{2, 0, 0, 0, 0, 1}}};
  np_assert(np_ip_iface_add(r->ip, 0, &c) == NP_ERR_OK);
  c.vlan = 5; /* here everything is first looked for on the link */
  c.dad_transmits = 2;
  c.acd = true;
  c.announces = 2;
  c.opaque = true;
  np_assert(np_ip_iface_add(r->ip, 1, &c) == NP_ERR_OK);
  np_assert(np_ip_addr_add(r->ip, 0, &v4, 24, r->now_ns) == NP_ERR_OK);
  np_assert(np_ip_addr_add(r->ip, 0, &v6, 64, r->now_ns) == NP_ERR_OK);
  np_assert(np_ip_addr_add(r->ip, 1, &vlan, 64, r->now_ns) == NP_ERR_OK);
  np_assert(np_ip_route_add(r->ip, &any, 0, &gw, 0) == NP_ERR_OK);
  np_assert(np_ip_iface_up(r->ip, 0, true, r->now_ns) == NP_ERR_OK);
  np_assert(np_ip_iface_up(r->ip, 1, true, r->now_ns) == NP_ERR_OK);
}

static void send_to(struct rig *r, const struct np_addr *dst) {
  struct np_addr src;
  struct np_buf *b = np_pool_get(&r->pool);
  if (b == NULL) return;
  memset(np_buf_append(b, 20), 0, 20);
  if (np_ip_source(r->ip, dst, &src) != NP_ERR_OK) {
    np_buf_put(b);
    return;
  }
  struct np_path path = {0};
  /* Made-up checksums would not parse: an unknown protocol has none. */
  (void)np_ip_output(r->ip, b, &src, dst, 253, 0, &path, r->now_ns);
  np_ip_confirm(r->ip, &path, r->now_ns);
  np_ip_doubt(r->ip, &path, r->now_ns + UINT64_C(6000000000));
}

static void one_frame(struct rig *r, const uint8_t *frame, uint32_t len, uint8_t mode) {
  struct np_buf *b = np_pool_get(&r->pool);
  if (b == NULL) return;
  uint8_t *p = np_buf_append(b, len);
  memcpy(p, frame, len);
  b->iface = PORT;
  b->flags = (uint16_t)(((mode & 1) ? NP_BUF_L4_CSUM_OK : 0u) | ((mode & 32) ? NP_BUF_COPY : 0u));
  if ((mode & 2) && len >= NP_ETH_BYTES + NP_IP4_BYTES) {
    np_store_16(p + NP_ETH_BYTES + NP_IP4_CKSUM, 0);
    np_store_16(p + NP_ETH_BYTES + NP_IP4_CKSUM, np_cksum_finish(np_cksum_ip4(p + NP_ETH_BYTES)));
  }
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  struct np_addr source = {{0}};
  if (why == NP_WIRE_OK) {
    source = pkt.flow.remote;
    enum np_ip_verdict verdict = np_ip_input(r->ip, &pkt, r->now_ns, &why);
    if (verdict == NP_IP_DROP) np_assert(why < NP_DROP_COUNT);
    if (verdict == NP_IP_TCP) np_assert(np_ip_is_local(r->ip, &pkt.flow.local));
    if (verdict == NP_IP_TCP || verdict == NP_IP_DROP) np_buf_put_chain(pkt.buf);
  } else {
    if (np_wire_has_problem(why)) np_ip_problem(r->ip, &pkt, r->now_ns);
    np_buf_put(b);
  }
  if (mode & 4) send_to(r, &source);
  if (mode & 64) datagram_to(r, &source, mode & 128 ? 6 * len : len);
}

static void run(struct rig *r, const uint8_t *data, size_t size) {
  struct np_buf *held[BUFS];
  while (size >= 4) { /* bound: four bytes of input each */
    uint32_t len = np_load_be16(data);
    uint8_t mode = data[2];
    r->now_ns += data[3] * UINT64_C(250000000);
    np_wheel_advance(&r->wheel, r->now_ns, 1000);
    data += 4;
    size -= 4;
    len = len > size ? (uint32_t)size : len;
    if (len > FRAME_MAX) len = FRAME_MAX;
    uint32_t n = 0;
    if (mode & 16) {
      while (r->pool.free_count > 1) held[n++] = np_pool_get(&r->pool);
    }
    one_frame(r, data, len, mode);
    while (n > 0) np_buf_put(held[--n]);
    if (mode & 8) {
      np_ip_iface_up(r->ip, 0, false, r->now_ns);
      np_ip_iface_up(r->ip, 0, true, r->now_ns);
    }
    data += len;
    size -= len;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct rig *r = calloc(1, sizeof *r);
  uint8_t *mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  void *stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&r->pool, mem, BUFS, CHUNK, stack, &r->counters);
  r->now_ns = UINT64_C(1000000000);
  np_wheel_init(&r->wheel, r->now_ns);
  struct np_ip_config config = {.neigh_max = 16, .neigh_queue_pkts = 2, .udp_echo_port = 7, .udp_discard_port = 9, .seed = 1};
  struct np_ip_env env = {.pool = &r->pool, .wheel = &r->wheel, .counters = &r->counters, .xmit = xmit, .l4_error = l4_error, .udp = udp, .ctx = r};
  void *ip_mem = aligned_alloc(NP_CACHE_LINE, np_ip_bytes(&config));
  r->ip = np_ip_init(ip_mem, &config, &env, r->now_ns);
  addresses(r);
  sockets(r);
  run(r, data, size);
  struct np_addr_info info[64];
  uint32_t cursor = 0;
  np_assert(np_ip_addresses(r->ip, &cursor, info, 64, r->now_ns) <= 2u * NP_IFACE_ADDR_MAX && cursor == 0);
  np_assert(r->counters.counter[NP_C_NEIGH_ENTRIES] <= config.neigh_max);
  np_ip_fini(r->ip);
  np_assert(r->pool.free_count == r->pool.count);
  np_assert(r->wheel.count == 0);
  np_assert(r->counters.counter[NP_C_NEIGH_ENTRIES] == 0);
  free(ip_mem);
  free(stack);
  free(mem);
  free(r);
  return 0;
}
