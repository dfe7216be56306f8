/* The network layer alone: frames in by hand, frames out into a list, time by hand. */
#ifndef NP_TEST_IP_RIG_H
#define NP_TEST_IP_RIG_H

#include <stdlib.h>

#include "base/chain.h"
#include "ip/ip.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/frame.h"

#define RIG_BUFS 256u
#define RIG_CHUNK 2048u
#define RIG_SENT 512u
#define RIG_DONE NP_DROP_COUNT
#define RIG_TCP (NP_DROP_COUNT + 1)
#define RIG_HELD (NP_DROP_COUNT + 2)
#define RIG_MS UINT64_C(1000000)
#define RIG_S UINT64_C(1000000000)

static const uint8_t RIG_US[6] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t RIG_PEER[6] = {0x02, 0, 0, 0, 0, 2};
static const uint8_t RIG_ALL[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct rig_frame {
  uint8_t b[2048]; /* its first buffer */
  uint32_t len;
  uint32_t total;  /* all of them */
  uint32_t pieces;
  uint16_t port;
};

struct rig {
  struct np_pool pool;
  struct np_counters counters;
  struct np_wheel wheel;
  struct np_ip_env env;
  struct np_ip_config config;
  struct np_ip *ip;
  void *ip_mem;
  void *pool_mem;
  void *stack;
  uint64_t now_ns;
  struct rig_frame *sent;
  uint32_t sent_count;
  uint32_t drop_calls;
  struct np_flow error_flow;
  uint32_t error_seq;
  enum np_err error_err;
  bool error_soft;
  uint32_t error_mtu;
  uint32_t error_count;
  bool error_answer;
  bool (*udp)(void *udp_ctx, uint32_t socket, const struct np_pkt *pkt); /* NULL: no room */
  void *udp_ctx;
};

static inline void rig_xmit(void *ctx, uint16_t port, struct np_buf *frame) {
  struct rig *r = ctx;
  assert_true(r->sent_count < RIG_SENT);
  struct rig_frame *f = &r->sent[r->sent_count++];
  f->len = frame->len;
  f->total = np_buf_chain_len(frame);
  f->pieces = np_buf_pieces(frame);
  f->port = port;
  assert_true(frame->len <= sizeof f->b);
  memcpy(f->b, np_buf_data(frame), frame->len);
  np_buf_put_chain(frame);
}

static inline bool rig_l4_error(void *ctx, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft, uint32_t mtu_bytes) {
  struct rig *r = ctx;
  r->error_flow = *flow;
  r->error_seq = tcp_seq;
  r->error_err = err;
  r->error_soft = soft;
  r->error_mtu = mtu_bytes;
  r->error_count++;
  return r->error_answer;
}

static inline void rig_drop(void *ctx, struct np_buf *buf, enum np_drop why) {
  struct rig *r = ctx;
  (void)why;
  r->drop_calls++;
  /* At its IP header, the headroom before it untouched: an earlier sending may still be read there. */
  uint32_t version = np_buf_cdata(buf)[0] >> 4;
  assert_true(version == 4 || version == 6);
}

static inline bool rig_udp(void *ctx, uint32_t socket, const struct np_pkt *pkt) {
  struct rig *r = ctx;
  return r->udp != NULL && r->udp(r->udp_ctx, socket, pkt);
}

static inline struct rig *rig_new(const struct np_ip_config *config) {
  struct rig *r = calloc(1, sizeof *r);
  r->pool_mem = aligned_alloc(RIG_CHUNK, (size_t)RIG_BUFS * RIG_CHUNK);
  r->stack = malloc(np_pool_stack_bytes(RIG_BUFS));
  r->sent = calloc(RIG_SENT, sizeof *r->sent);
  np_pool_init(&r->pool, r->pool_mem, RIG_BUFS, RIG_CHUNK, r->stack, &r->counters);
  r->now_ns = 1000 * RIG_S;
  np_wheel_init(&r->wheel, r->now_ns);
  r->env = (struct np_ip_env){.pool = &r->pool, .wheel = &r->wheel, .counters = &r->counters, .xmit = rig_xmit,
                              .l4_error = rig_l4_error, .drop = rig_drop, .udp = rig_udp, .ctx = r};
  r->config = *config;
  r->error_answer = true;
  r->ip_mem = aligned_alloc(NP_CACHE_LINE, np_ip_bytes(config));
  r->ip = np_ip_init(r->ip_mem, config, &r->env, r->now_ns);
  return r;
}

/* Interface 0: port 3, 198.18.0.1/24 and 2001:db8::1/64, up, nothing sent so far. */
static inline struct rig *rig_mtu(const struct np_ip_config *config, uint32_t mtu_bytes) {
  struct rig *r = rig_new(config);
  struct np_iface_config c = {.port = 3, .mtu_bytes = mtu_bytes};
  memcpy(c.mac.b, RIG_US, 6);
  assert_int_equal(np_ip_iface_add(r->ip, 0, &c), NP_ERR_OK);
  struct np_addr a4 = frame_v4(198, 18, 0, 1);
  struct np_addr a6 = frame_v6(1);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a4, 24, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(r->ip, 0, &a6, 64, r->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(r->ip, 0, true, r->now_ns), NP_ERR_OK);
  r->sent_count = 0;
  return r;
}

static inline struct rig *rig_usual(const struct np_ip_config *config) { return rig_mtu(config, 1500); }

/* Every buffer is back and no timer is left. */
static inline void rig_free(struct rig *r) {
  np_ip_fini(r->ip);
  assert_int_equal(r->pool.free_count, r->pool.count);
  assert_int_equal(r->wheel.count, 0);
  assert_int_equal(r->counters.counter[NP_C_NEIGH_ENTRIES], 0);
  free(r->ip_mem);
  free(r->pool_mem);
  free(r->stack);
  free(r->sent);
  free(r);
}

static inline uint32_t rig_rx(struct rig *r, uint16_t port, const struct frame *f) {
  struct np_buf *b = np_pool_get(&r->pool);
  assert_non_null(b);
  memcpy(np_buf_append(b, f->len), f->b, f->len);
  b->iface = port;
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  if (why == NP_WIRE_OK) {
    switch (np_ip_input(r->ip, &pkt, r->now_ns, &why)) {
      case NP_IP_DONE: return RIG_DONE;
      case NP_IP_HELD: return RIG_HELD;
      case NP_IP_TCP: np_buf_put_chain(pkt.buf); return RIG_TCP;
      default: assert_true(why < NP_DROP_COUNT);
    }
    b = pkt.buf;
  }
  np_buf_put_chain(b);
  return why;
}

static inline void rig_advance(struct rig *r, uint64_t ns) {
  /* In steps, so that timers set by timers fire in time. */
  uint64_t end = r->now_ns + ns;
  while (r->now_ns < end) {
    uint64_t next = np_wheel_next_ns(&r->wheel);
    r->now_ns = next > r->now_ns && next < end ? next : end;
    np_wheel_advance(&r->wheel, r->now_ns, UINT32_MAX);
  }
}

/* A sent frame, parsed with all its checksums. */
static inline void rig_parse(const struct rig_frame *f, struct np_pkt *pkt) {
  static const uint32_t room = NP_BUF_DATA_OFF + 2048;
  struct np_buf *b = calloc(1, room);
  b->data_off = NP_BUF_DATA_OFF;
  b->cap_bytes = room;
  b->len = f->len;
  memcpy(np_buf_data(b), f->b, f->len);
  enum np_drop why = np_wire_parse(b, pkt);
  if (why != NP_WIRE_OK) print_error("sent frame: %s\n", np_drop_text(why));
  assert_int_equal(why, NP_WIRE_OK);
  assert_int_equal(b->len, f->len);
  free(b);
  pkt->buf = NULL;
}

/* Sends ten bytes of UDP-like payload through np_ip_output. */
static inline enum np_err rig_send(struct rig *r, const struct np_addr *src, const struct np_addr *dst, struct np_path *path) {
  struct np_buf *b = np_pool_get(&r->pool);
  assert_non_null(b);
  memset(np_buf_append(b, 10), 'x', 10);
  return np_ip_output(r->ip, b, src, dst, 253, 0, path, r->now_ns);
}

/* flags: of an advertisement; opt 0: none. */
static inline void rig_nd(struct frame *f, uint8_t type, const uint8_t eth_dst[6], const uint8_t mac[6], const struct np_addr *src,
                          const struct np_addr *dst, const struct np_addr *target, uint8_t flags, uint8_t opt) {
  uint8_t m[32] = {type};
  frame_eth(f, eth_dst, mac, 0, 0x86dd);
  frame_ip(f, src, dst, 58, 255);
  m[4] = flags;
  memcpy(m + 8, target->b, 16);
  m[24] = opt;
  m[25] = 1;
  memcpy(m + 26, mac, 6);
  frame_add(f, m, opt == 0 ? 24 : 32);
  frame_finish(f, 58);
}

static inline enum np_neigh_state rig_neigh(struct rig *r, const struct np_addr *addr, struct np_neigh_info *out) {
  struct np_neigh_info info[64];
  uint32_t cursor = 0;
  do {
    uint32_t n = np_ip_neighbors(r->ip, &cursor, info, 64, r->now_ns);
    for (uint32_t i = 0; i < n; i++) {
      if (memcmp(info[i].addr, addr->b, 16) != 0) continue;
      if (out != NULL) *out = info[i];
      return (enum np_neigh_state)info[i].state;
    }
  } while (cursor != 0);
  return NP_NEIGH_FREE;
}

#endif
