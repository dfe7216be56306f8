/* Frames through the whole core: parsing, network layer, TCP, an echo session, a capture.
 * Input: records of mode, length (2 bytes, little-endian), frame. Mode bits make right what
 * a fuzzer cannot guess: 1 vouches for the L4 checksum, 2 mends the IPv4 header checksum,
 * 4 sets our MAC, 8 acknowledges the last segment we sent (so that connections get past
 * the handshake), 16 lets 50 ms pass; 32 in the first record: there is an exception path, whose
 * kernel sends back what it gets. After each input the ledger must sum and every buffer be back. */
#include <stdlib.h>
#include <string.h>

#include "base/cksum.h"
#include "core/internal.h"
#include "wire/hdr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t mac_us[6] = {2, 0, 0, 0, 0, 1};

struct fuzz {
  struct np_port_queue q; /* first: the vtable casts back */
  struct np_core *core;
  struct np_port_queue tap;
  struct np_buf *in;
  struct np_buf *kernel; /* on its way back from the TAP */
  uint32_t ack; /* what the next answer to our last segment acknowledges */
};

static uint32_t fuzz_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct fuzz *f = (struct fuzz *)(void *)q;
  if (f->in == NULL || max == 0) return 0;
  out[0] = f->in;
  f->in = NULL;
  return 1;
}

static uint32_t fuzz_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct fuzz *f = (struct fuzz *)(void *)q;
  for (uint32_t i = 0; i < n; i++) {
    const uint8_t *p = np_buf_cdata(bufs[i]);
    uint32_t len = bufs[i]->len;
    uint32_t l4 = 0;
    if (len >= 54 && np_load_be16(p + 12) == NP_ETHERTYPE_IP4 && p[23] == NP_PROTO_TCP) l4 = 34;
    if (len >= 74 && np_load_be16(p + 12) == NP_ETHERTYPE_IP6 && p[20] == NP_PROTO_TCP) l4 = 54;
    if (l4 != 0) {
      uint32_t payload = len - l4 - (uint32_t)(p[l4 + 12] >> 4) * 4u;
      f->ack = np_load_be32(p + l4 + 4) + payload + ((p[l4 + 13] & 3u) != 0 ? 1u : 0u); /* SYN, FIN */
    }
    np_buf_put(bufs[i]);
  }
  return n;
}

static void fuzz_flush(struct np_port_queue *q) { (void)q; }
static int fuzz_fd(struct np_port_queue *q) {
  (void)q;
  return -1;
}
static bool fuzz_busy(struct np_port_queue *q) { return ((struct fuzz *)(void *)q)->in != NULL; }

static const struct np_port_ops ops = {
    .name = "fuzz", .rx = fuzz_rx, .tx = fuzz_tx, .flush = fuzz_flush, .fd = fuzz_fd, .busy = fuzz_busy};

static struct fuzz *of_tap(struct np_port_queue *q) { return NP_CONTAINER_OF(q, struct fuzz, tap); }

static uint32_t tap_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct fuzz *f = of_tap(q);
  if (f->kernel == NULL || max == 0) return 0;
  out[0] = f->kernel;
  f->kernel = NULL;
  return 1;
}

static uint32_t tap_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct fuzz *f = of_tap(q);
  for (uint32_t i = 0; i < n; i++) {
    np_assert(bufs[i]->len <= 1514 && bufs[i]->next == NULL);
    if (f->kernel != NULL) np_buf_put(f->kernel);
    f->kernel = bufs[i];
  }
  return n;
}

static bool tap_busy(struct np_port_queue *q) { return of_tap(q)->kernel != NULL; }

static const struct np_port_ops tap_ops = {
    .name = "tap", .rx = tap_rx, .tx = tap_tx, .flush = fuzz_flush, .fd = fuzz_fd, .busy = tap_busy};

static void mend(struct fuzz *f, struct np_buf *b, uint8_t mode) {
  uint8_t *p = np_buf_data(b);
  uint32_t len = b->len;
  if ((mode & 4) != 0 && len >= 6) memcpy(p, mac_us, 6);
  uint32_t l4 = 0;
  if (len >= 54 && np_load_be16(p + 12) == NP_ETHERTYPE_IP4 && p[23] == NP_PROTO_TCP) l4 = 34;
  if (len >= 74 && np_load_be16(p + 12) == NP_ETHERTYPE_IP6 && p[20] == NP_PROTO_TCP) l4 = 54;
  if ((mode & 8) != 0 && l4 != 0) np_store_be32(p + l4 + 8, f->ack);
  if ((mode & 2) != 0 && len >= NP_ETH_BYTES + NP_IP4_BYTES) {
    uint8_t *ip = p + NP_ETH_BYTES;
    np_store_16(ip + NP_IP4_CKSUM, 0);
    np_store_16(ip + NP_IP4_CKSUM, np_cksum_finish(np_cksum_ip4(ip)));
  }
  if ((mode & 1) != 0) b->flags |= NP_BUF_L4_CSUM_OK;
}

static void ledger(const struct np_counters *c) {
  static const char *const layer[] = {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, layer, help) layer,
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  };
  uint64_t sum = c->counter[NP_C_DELIVERED_PKTS] + c->counter[NP_C_PASSED_PKTS] + c->counter[NP_C_IP_FRAGS_HELD];
  for (uint32_t d = 0; d < NP_DROP_COUNT; d++) {
    if (strcmp(layer[d], "tx") != 0 && strcmp(layer[d], "npro") != 0) sum += c->drop[d];
  }
  np_assert(sum == c->counter[NP_C_RX_PKTS]);
}

static void configure(struct fuzz *f, bool kernel, uint64_t now_ns) {
  struct np_ip *ip = np_core_ip(f->core);
  struct np_iface_config iface = {.mtu_bytes = 1500};
  memcpy(iface.mac.b, mac_us, 6);
  static const uint8_t us[4] = {198, 18, 0, 1};
  struct np_addr v4 = np_addr_from_v4_be(us);
  struct np_addr v6 = {{0x20, 0x01, 0x0d, 0xb8, [15] = 1}};
  np_assert(np_ip_iface_add(ip, 0, &iface) == NP_ERR_OK);
  np_assert(np_ip_iface_up(ip, 0, true, now_ns) == NP_ERR_OK);
  np_assert(np_ip_addr_add(ip, 0, &v4, 24, now_ns) == NP_ERR_OK);
  np_assert(np_ip_addr_add(ip, 0, &v6, 64, now_ns) == NP_ERR_OK);
  f->q.ops = &ops;
  f->q.mtu_bytes = 1500;
  np_assert(np_core_attach(f->core, &f->q, 0) == NP_ERR_OK);
  if (kernel) {
    f->tap.ops = &tap_ops;
    f->tap.mtu_bytes = 1500;
    memcpy(f->tap.mac.b, mac_us, 6);
    np_assert(np_exception_attach(f->core, &f->tap, 0) == NP_ERR_OK);
  }
  struct np_cmd_listen listen = {.port = 7001, .session_kind = NP_SESSION_ECHO};
  uint64_t handle;
  np_assert(np_core_listen(f->core, &listen, &handle) == NP_ERR_OK);
}

static void feed(struct fuzz *f, const uint8_t *data, size_t size, uint64_t now_ns) {
  while (size >= 3) {
    uint8_t mode = data[0];
    uint32_t len = data[1] | (uint32_t)data[2] << 8;
    data += 3;
    size -= 3;
    if (len > size) len = (uint32_t)size;
    if (len > 1514) len = 1514;
    struct np_buf *b = np_pool_get(np_core_pool(f->core));
    if (b != NULL) {
      memcpy(np_buf_append(b, len), data, len);
      mend(f, b, mode);
      f->in = b;
    }
    data += len;
    size -= len;
    now_ns += (mode & 16) != 0 ? 50000000u : 1000u;
    np_core_turn(f->core, now_ns);
    ledger(np_core_shared(f->core)->counters);
  }
  if (f->kernel != NULL) np_buf_put(f->kernel);
  np_core_fini(f->core, now_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct np_plane_config c;
  np_plane_config_default(&c);
  c.bufs_per_core = 256;
  c.loans_per_core = 2;
  c.cmd_ring = 16;
  c.event_ring = 64;
  c.conns_max = 8;
  c.streams_max = 8;
  c.neigh_max = 16;
  c.udp_echo_port = 7;
  c.force_portable_crypto = 1;
  memset(c.secret, 1, sizeof c.secret);
  bool kernel = size > 0 && (data[0] & 32) != 0;
  if (kernel) c.exception = (struct np_exception_config){.rate_per_s = 1000, .tcp_port = {22, 7002}, .udp_port = {161}, .proto = {89}};
  size_t bytes = np_core_bytes(&c);
  size_t pool_bytes = (size_t)c.bufs_per_core * c.chunk_bytes;
  void *mem = aligned_alloc(NP_CACHE_LINE, bytes);
  void *pool_mem = aligned_alloc(c.chunk_bytes, pool_bytes);
  memset(mem, 0, bytes);
  struct fuzz f = {0};
  uint64_t now_ns = 5000000000u;
  np_assert(np_core_init(mem, pool_mem, &c, 0, now_ns, &f.core, NULL) == NP_ERR_OK);
  configure(&f, kernel, now_ns);
  struct np_capture_args args = {.ring_bytes = 65536, .dirs = 7, .iface = -1, .listener_port = 7001};
  struct np_capture *capture = NULL;
  np_assert(np_capture_open(&args, &capture, NULL) == NP_ERR_OK);
  np_assert(np_capture_start(capture, f.core) == NP_ERR_OK);
  f.core->capture = capture;
  feed(&f, data, size, now_ns);
  const struct np_pool *pool = np_core_pool(f.core);
  np_assert(pool->free_count == pool->count);
  np_capture_close(capture);
  free(mem);
  free(pool_mem);
  return 0;
}
