/* Fragments. Input: records of eight bytes: flags (bit 0 IPv6, 1 more fragments, 2 other bytes than the
 * datagram's, 3 interface down and up, 4 pool short, 5 another source, 6 no L4 header in front), datagram number
 * (of eight), offset / 8 (two bytes), length (two bytes, to 1,600), ECN and protocol (two bits each), seconds / 4 that pass.
 *
 * The bytes of a datagram are a function of its number and their place, so that an echo of UDP can be checked
 * against them wherever bit 2 never was set. Checked besides: each packet ends once, what is sent parses,
 * the gauge of held fragments is right, all buffers and timers are gone at the end. */
#include <stdlib.h>

#include "base/cksum.h"
#include "ip/ip.h"
#include "wire/hdr.h"

#define BUFS 160u
#define CHUNK 2048u
#define PORT 3u
#define LEN_MAX 1600u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct rig {
  struct np_pool pool;
  struct np_counters counters;
  struct np_wheel wheel;
  struct np_ip *ip;
  uint64_t now_ns;
  uint64_t rx_count;
  uint64_t dropped;   /* by the caller, that is here */
  uint64_t done;
  uint64_t late;      /* by the layer */
  bool wild;          /* some bytes were not the datagram's */
};

static uint8_t byte_at(uint32_t id, uint32_t at) {
  static const uint8_t udp[8] = {0x9c, 0x40, 0, 7, 0, 0, 0, 0};
  static const uint16_t size[8] = {40, 800, 1480, 1481, 3000, 9000, 30000, 65515};
  if (at == 4) return (uint8_t)(size[id] >> 8);
  if (at == 5) return (uint8_t)size[id];
  return at < 8 ? udp[at] : (uint8_t)(id * 131 + at * 7 + at / 256);
}

static void xmit(void *ctx, uint16_t port, struct np_buf *frame) {
  struct rig *r = ctx;
  np_assert(port == PORT && frame->refs == 1 && frame->next == NULL);
  np_assert(frame->len <= 1500 + NP_ETH_BYTES);
  struct np_pkt pkt;
  np_assert(np_wire_parse(frame, &pkt) == NP_WIRE_OK);
  const uint8_t *p = np_buf_cdata(frame);
  bool v4 = np_addr_is_v4(&pkt.flow.local);
  /* An echo: whole, or a first fragment. IPv6's have a checksum and do not get here but by luck. */
  bool first = pkt.l4_proto == NP_PROTO_UDP;
  if (pkt.l4_proto == NP_PROTO_FRAGMENT && v4) first = (np_load_be16(p + pkt.l3_off + 6) & NP_IP4_OFFSET_MASK) == 0;
  if (v4 && first && !r->wild && p[pkt.l3_off + NP_IP4_PROTO] == NP_PROTO_UDP && pkt.l4_len > 9) {
    uint32_t id = 0; /* told by the first byte behind the header */
    while (id < 8 && byte_at(id, 8) != p[pkt.l4_off + 8]) id++;
    np_assert(id < 8);
    for (uint32_t i = 8; i < pkt.l4_len; i++) np_assert(p[pkt.l4_off + i] == byte_at(id, i));
  }
  np_buf_put(frame);
}

static void rx_drop(void *ctx, struct np_buf *buf, enum np_drop why) {
  struct rig *r = ctx;
  np_assert(why < NP_DROP_COUNT && buf->refs == 1);
  r->late++;
}

static void addresses(struct rig *r) {
  static const uint8_t a4[4] = {198, 18, 0, 1};
  struct np_addr v4 = np_addr_from_v4_be(a4);
  struct np_addr v6 = {{0x20, 0x01, 0x0d, 0xb8, [15] = 1}};
  struct np_iface_config c = {.port = PORT, .mtu_bytes = 1500, .mac = {{2, 0, 0, 0, 0, 1}}};
  np_assert(np_ip_iface_add(r->ip, 0, &c) == NP_ERR_OK);
  np_assert(np_ip_addr_add(r->ip, 0, &v4, 24, r->now_ns) == NP_ERR_OK);
  np_assert(np_ip_addr_add(r->ip, 0, &v6, 64, r->now_ns) == NP_ERR_OK);
  np_assert(np_ip_iface_up(r->ip, 0, true, r->now_ns) == NP_ERR_OK);
}

static uint8_t *put_ip(uint8_t *p, const uint8_t *rec, uint32_t len, uint8_t proto) {
  uint8_t src[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = (rec[0] & 32) ? 9 : 2};
  uint8_t dst[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};
  uint16_t off8 = np_load_be16(rec + 2) & NP_IP4_OFFSET_MASK;
  bool more = (rec[0] & 2) != 0;
  if (rec[0] & 1) {
    np_store_be32(p, UINT32_C(6) << 28 | (uint32_t)(rec[6] & 3) << 20);
    np_store_be16(p + NP_IP6_LEN, (uint16_t)(len + 8));
    p[NP_IP6_NEXT] = NP_IP6_FRAGMENT;
    p[NP_IP6_HOPS] = 64;
    memcpy(p + NP_IP6_SRC, src, 16);
    memcpy(p + NP_IP6_DST, dst, 16);
    p += NP_IP6_BYTES;
    memset(p, 0, 8);
    p[0] = proto;
    np_store_be16(p + 2, (uint16_t)(off8 << 3 | (more ? 1 : 0)));
    p[7] = rec[1] & 7;
    return p + 8;
  }
  memset(p, 0, NP_IP4_BYTES);
  p[0] = 0x45;
  p[NP_IP4_TOS] = rec[6] & 3;
  np_store_be16(p + NP_IP4_LEN, (uint16_t)(len + NP_IP4_BYTES));
  p[5] = rec[1] & 7;
  np_store_be16(p + NP_IP4_FRAG, (uint16_t)(off8 | (more ? NP_IP4_MF : 0)));
  p[NP_IP4_TTL] = 64;
  p[NP_IP4_PROTO] = proto;
  memcpy(p + NP_IP4_SRC, (const uint8_t[]){198, 18, 0, (rec[0] & 32) ? 9 : 2}, 4);
  memcpy(p + NP_IP4_DST, (const uint8_t[]){198, 18, 0, 1}, 4);
  np_store_16(p + NP_IP4_CKSUM, np_cksum_finish(np_cksum_ip4(p)));
  return p + NP_IP4_BYTES;
}

static void one(struct rig *r, const uint8_t *rec) {
  static const uint8_t protos[4] = {NP_PROTO_UDP, NP_PROTO_TCP, NP_PROTO_ICMPV6, NP_IP6_DEST};
  uint32_t len = np_min_u32(np_load_be16(rec + 4), LEN_MAX);
  uint32_t off = (uint32_t)(np_load_be16(rec + 2) & NP_IP4_OFFSET_MASK) * 8;
  struct np_buf *b = np_pool_get(&r->pool);
  if (b == NULL) return;
  uint8_t *p = np_buf_data(b);
  memcpy(p, (const uint8_t[]){2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, NP_ETH_BYTES);
  if (rec[0] & 1) np_store_be16(p + NP_ETH_TYPE, NP_ETHERTYPE_IP6);
  uint8_t *body = put_ip(p + NP_ETH_BYTES, rec, len, protos[rec[6] >> 2 & 3]);
  if (rec[0] & 0x44) r->wild = true;
  for (uint32_t i = 0; i < len; i++) body[i] = (uint8_t)(byte_at(rec[1] & 7, off + i) ^ ((rec[0] & 4) ? 0x5a : 0));
  b->len = (uint32_t)(body - p) + len;
  b->iface = PORT;
  b->frame_off = (uint16_t)b->data_off;
  b->frame_len = (uint16_t)b->len;
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  r->rx_count++;
  enum np_ip_verdict verdict = NP_IP_DROP;
  if (why == NP_WIRE_OK) {
    verdict = np_ip_input(r->ip, &pkt, r->now_ns, &why);
    b = pkt.buf;
  }
  if (verdict == NP_IP_DROP) np_assert(why < NP_DROP_COUNT);
  if (verdict == NP_IP_DROP) r->dropped++;
  if (verdict == NP_IP_TCP || verdict == NP_IP_DONE) r->done++;
  if (verdict == NP_IP_TCP || verdict == NP_IP_DROP) np_buf_put_chain(b);
}

static void ledger(const struct rig *r) {
  uint64_t held = r->counters.counter[NP_C_IP_FRAGS_HELD];
  np_assert(r->rx_count == r->counters.counter[NP_C_DELIVERED_PKTS] + r->done + r->dropped + r->late + held);
  np_assert(held <= 64 && r->pool.count - r->pool.free_count == held);
}

static void run(struct rig *r, const uint8_t *data, size_t size) {
  struct np_buf *taken[BUFS];
  for (; size >= 8; data += 8, size -= 8) { /* bound: the input */
    uint32_t n = 0;
    r->now_ns += data[7] * UINT64_C(250000000);
    np_wheel_advance(&r->wheel, r->now_ns, 1000);
    ledger(r);
    if (data[0] & 16) {
      while (r->pool.free_count > 30) taken[n++] = np_pool_get(&r->pool);
    }
    one(r, data);
    while (n > 0) np_buf_put(taken[--n]);
    ledger(r);
    if (data[0] & 8) {
      np_ip_iface_up(r->ip, 0, false, r->now_ns);
      np_ip_iface_up(r->ip, 0, true, r->now_ns);
      np_assert(r->counters.counter[NP_C_IP_FRAGS_HELD] == 0);
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct rig *r = calloc(1, sizeof *r);
  uint8_t *mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  void *stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&r->pool, mem, BUFS, CHUNK, stack, &r->counters);
  r->now_ns = UINT64_C(1000000000);
  np_wheel_init(&r->wheel, r->now_ns);
  struct np_ip_config config = {.neigh_max = 16, .udp_echo_port = 7, .reass_max = 16, .reass_source_max = 6, .seed = 1};
  struct np_ip_env env = {.pool = &r->pool, .wheel = &r->wheel, .counters = &r->counters, .xmit = xmit, .rx_drop = rx_drop, .ctx = r};
  void *ip_mem = aligned_alloc(NP_CACHE_LINE, np_ip_bytes(&config));
  r->ip = np_ip_init(ip_mem, &config, &env, r->now_ns);
  addresses(r);
  run(r, data, size);
  np_ip_fini(r->ip);
  ledger(r);
  np_assert(r->pool.free_count == r->pool.count);
  np_assert(r->wheel.count == 0);
  free(ip_mem);
  free(stack);
  free(mem);
  free(r);
  return 0;
}
