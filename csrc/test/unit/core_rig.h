/* A core on a clock of the test's, driven through its rings as Go drives it, with a
 * port that hands it frames one by one and keeps what it sends. */
#ifndef NP_TEST_CORE_RIG_H
#define NP_TEST_CORE_RIG_H

#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/frame.h"

#define RIG_FRAMES 256u

struct rig_port {
  struct np_port_queue q;
  struct np_pool *pool;
  struct frame *in;
  struct frame *out;
  uint32_t in_head, in_tail;
  uint32_t out_count;
  uint32_t tx_room;   /* frames it still takes */
  uint32_t flushes;
  uint32_t checks;
};

struct rig {
  struct np_core *core;
  struct np_core_shared *s;
  void *mem;
  void *pool_mem;
  uint64_t now_ns;
  uint32_t token;
  struct rig_port port;
};

static inline struct np_addr rig_v4(uint8_t host) { return frame_v4(198, 18, 0, host); }

static struct rig_port *rig_port_of(struct np_port_queue *q) { return NP_CONTAINER_OF(q, struct rig_port, q); }

static uint32_t rig_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct rig_port *p = rig_port_of(q);
  uint32_t n = 0;
  while (n < max && p->in_head != p->in_tail) {
    const struct frame *f = &p->in[p->in_head % RIG_FRAMES];
    struct np_buf *b = np_pool_get(p->pool);
    if (b == NULL) break;
    memcpy(np_buf_append(b, f->len), f->b, f->len);
    p->in_head++;
    out[n++] = b;
  }
  return n;
}

static uint32_t rig_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct rig_port *p = rig_port_of(q);
  uint32_t sent = 0;
  for (; sent < n && p->tx_room > 0; sent++, p->tx_room--) {
    if (p->out_count < RIG_FRAMES) {
      struct frame *f = &p->out[p->out_count++];
      f->len = bufs[sent]->len;
      memcpy(f->b, np_buf_cdata(bufs[sent]), f->len);
    }
    np_buf_put(bufs[sent]);
  }
  return sent;
}

static void rig_flush(struct np_port_queue *q) { rig_port_of(q)->flushes++; }
static int rig_fd(struct np_port_queue *q) {
  (void)q;
  return -1;
}
static bool rig_busy(struct np_port_queue *q) { return rig_port_of(q)->in_head != rig_port_of(q)->in_tail; }
static void rig_check(struct np_port_queue *q) { rig_port_of(q)->checks++; }

static const struct np_port_ops rig_ops = {
    .name = "rig", .rx = rig_rx, .tx = rig_tx, .flush = rig_flush, .fd = rig_fd, .busy = rig_busy, .check = rig_check};

static inline struct np_plane_config rig_config(void) {
  struct np_plane_config c;
  np_plane_config_default(&c);
  c.bufs_per_core = 1024;
  c.loans_per_core = 16;
  c.cmd_ring = 32;
  c.event_ring = 64;
  c.conns_max = 64;
  c.streams_max = 64;
  c.neigh_max = 16;
  c.udp_echo_port = 7;
  c.tcp_timewait_ms = 50;
  memset(c.secret, 0x5a, sizeof c.secret);
  return c;
}

static inline void rig_init(struct rig *r, const struct np_plane_config *c, uint32_t index) {
  memset(r, 0, sizeof *r);
  size_t bytes = np_core_bytes(c);
  size_t pool_bytes = (size_t)c->bufs_per_core * c->chunk_bytes;
  r->mem = aligned_alloc(NP_CACHE_LINE, bytes);
  r->pool_mem = aligned_alloc(c->chunk_bytes, pool_bytes);
  assert_non_null(r->mem);
  assert_non_null(r->pool_mem);
  memset(r->mem, 0, bytes);
  memset(r->pool_mem, 0, pool_bytes);
  r->now_ns = 5000000000u;
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  if (np_core_init(r->mem, r->pool_mem, c, index, r->now_ns, &r->core, &detail) != NP_ERR_OK) fail_msg("%s", detail.text);
  r->s = np_core_shared(r->core);
  r->port.q.ops = &rig_ops;
  r->port.q.mtu_bytes = 1500;
  r->port.pool = np_core_pool(r->core);
  r->port.tx_room = UINT32_MAX;
  r->port.in = calloc(RIG_FRAMES, sizeof *r->port.in);
  r->port.out = calloc(RIG_FRAMES, sizeof *r->port.out);
}

/* Every buffer is back once the core ended, the test having returned what it took. */
static inline void rig_free(struct rig *r) {
  np_core_fini(r->core, r->now_ns);
  const struct np_pool *pool = np_core_pool(r->core);
  assert_int_equal(pool->free_count, pool->count);
  free(r->port.in);
  free(r->port.out);
  free(r->mem);
  free(r->pool_mem);
}

static inline void rig_turn(struct rig *r, uint64_t step_ns) {
  r->now_ns += step_ns;
  np_core_turn(r->core, r->now_ns);
}

static inline void rig_submit(struct rig *r, struct np_cmd *cmd, const void *body, uint32_t bytes) {
  cmd->token = ++r->token;
  if (body != NULL) {
    assert_true(np_ring_avail(r->s->loan) > 0);
    struct np_loan *loan = np_ring_item(r->s->loan, 0);
    struct np_buf *b = loan->buf;
    np_ring_consume(r->s->loan, 1);
    assert_int_equal(b->data_off, NP_LOAN_DATA_OFF);
    memcpy((uint8_t *)b + b->data_off, body, bytes);
    b->len = bytes;
    b->next = NULL;
    cmd->body = b;
    cmd->body_bytes = bytes;
  }
  assert_true(np_ring_room(r->s->cmd, 1) > 0);
  memcpy(np_ring_slot(r->s->cmd, 0), cmd, sizeof *cmd);
  np_ring_publish(r->s->cmd, 1);
}

static inline bool rig_event(struct rig *r, struct np_event *out) {
  if (np_ring_avail(r->s->event) == 0) return false;
  memcpy(out, np_ring_item(r->s->event, 0), sizeof *out);
  np_ring_consume(r->s->event, 1);
  return true;
}

/* One command, one turn, its answer (which is the next event). */
static inline struct np_event rig_command(struct rig *r, struct np_cmd cmd, const void *body, uint32_t bytes) {
  rig_submit(r, &cmd, body, bytes);
  rig_turn(r, 1000);
  struct np_event ev;
  memset(&ev, 0, sizeof ev);
  assert_true(rig_event(r, &ev));
  assert_int_equal(ev.op, NP_EV_DONE);
  assert_int_equal(ev.token, r->token);
  assert_int_equal(ev.at_ns, r->now_ns);
  return ev;
}

static inline void rig_ok(struct rig *r, struct np_cmd cmd, const void *body, uint32_t bytes) {
  struct np_event ev = rig_command(r, cmd, body, bytes);
  if (ev.err != NP_ERR_OK) fail_msg("command %u: %s", cmd.op, np_err_text((enum np_err)ev.err));
}

/* Interface 0 over q with one address of each family. */
static inline void rig_interface(struct rig *r, struct np_port_queue *q, const uint8_t mac[6], uint8_t host) {
  struct np_cmd_iface iface = {.mtu_bytes = 1500};
  memcpy(iface.mac, mac, 6);
  memcpy(q->mac.b, mac, 6);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_IFACE_ADD}, &iface, sizeof iface);
  struct np_addr a4 = rig_v4(host);
  struct np_addr a6 = frame_v6(host);
  struct np_cmd_addr addr = {.prefix_bits = 24};
  memcpy(addr.addr, a4.b, 16);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_ADDR_ADD}, &addr, sizeof addr);
  addr.prefix_bits = 64;
  memcpy(addr.addr, a6.b, 16);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_ADDR_ADD}, &addr, sizeof addr);
  rig_ok(r, (struct np_cmd){.op = NP_CMD_PORT_ATTACH, .handle = (uint64_t)(uintptr_t)q}, NULL, 0);
}

static inline void rig_in(struct rig *r, const struct frame *f) {
  assert_true(r->port.in_tail - r->port.in_head < RIG_FRAMES);
  r->port.in[r->port.in_tail++ % RIG_FRAMES] = *f;
}

/* The peer, host 2, asks for our address, host 1, and is known then. */
static inline void rig_meet(struct rig *r, const uint8_t us[6], const uint8_t peer[6]) {
  struct frame f;
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  frame_arp(&f, NP_ARP_REQUEST, us, peer, &from, &to);
  rig_in(r, &f);
  rig_turn(r, 1000);
  r->port.out_count = 0;
}

static inline uint64_t rig_counter(const struct rig *r, enum np_counter c) { return r->s->counters->counter[c]; }
static inline uint64_t rig_drop(const struct rig *r, enum np_drop d) { return r->s->counters->drop[d]; }

/* RX_PKTS = DELIVERED_PKTS + PASSED_PKTS + fragments held + drops of layers link, ip, icmp, udp, tcp. */
static inline void rig_ledger(const struct rig *r) {
  static const char *const layer[] = {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, layer, help) layer,
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  };
  uint64_t sum = rig_counter(r, NP_C_DELIVERED_PKTS) + rig_counter(r, NP_C_PASSED_PKTS) + rig_counter(r, NP_C_IP_FRAGS_HELD);
  for (uint32_t d = 0; d < NP_DROP_COUNT; d++) {
    if (strcmp(layer[d], "tx") != 0 && strcmp(layer[d], "npro") != 0) sum += r->s->counters->drop[d];
  }
  assert_int_equal(rig_counter(r, NP_C_RX_PKTS), sum);
}

/* What a quiet core's gauge says: all buffers empty. */
static inline void rig_quiet(const struct rig *r) {
  assert_int_equal(rig_counter(r, NP_C_BUF_FREE), rig_counter(r, NP_C_BUF_TOTAL));
}

#endif
