#include "core/core.h"

#include <string.h>
#include <unistd.h>

#include "base/chain.h"
#include "core/internal.h"
#include "wire/hdr.h"

_Static_assert(sizeof(struct np_path) <= NP_TCP_PATH_BYTES, "TCP keeps room for the network layer's path");
_Static_assert(offsetof(struct np_path, flow_label) == offsetof(struct np_tcp_path, flow_label), "TCP sets the flow label of a path");
_Static_assert(_Alignof(struct np_path) <= 8, "np_tcp_path is aligned to 8");
_Static_assert(sizeof(struct np_counters) % 8 == 0, "counters are whole words");

/* ---- drops and captures ---- */

static void capture_drop(struct np_core *core, const struct np_buf *b, enum np_drop why, const uint8_t *data,
                         uint32_t bytes) {
  np_capture_packet(core->capture, core->counters, NP_CAPTURE_DROP, b->iface, why, data, bytes, core->now_ns);
}

/* Received frames whose headers may have been pulled meanwhile: shown as they came. A chain may
 * be several frames, each begun by a piece with a frame_len, or one frame in several pieces. */
static NP_COLD void capture_rx_drop(struct np_core *core, const struct np_buf *b, enum np_drop why) {
  while (b != NULL) { /* bound: the chain */
    const struct np_buf *end = b->next;
    while (end != NULL && end->frame_len == 0) end = end->next;
    struct np_capture_pkt p = {.head = (const uint8_t *)b + b->frame_off,
                               .head_bytes = b->frame_len,
                               .more = b->next,
                               .end = end,
                               .dir = NP_CAPTURE_DROP,
                               .iface = b->iface,
                               .why = why,
                               .now_ns = core->now_ns};
    np_capture_pieces(core->capture, core->counters, &p);
    b = end;
  }
}

static void capture_chain(struct np_core *core, enum np_capture_dir dir, const struct np_buf *b) {
  struct np_capture_pkt p = {.head = np_buf_cdata(b),
                             .head_bytes = b->len,
                             .more = b->next,
                             .dir = dir,
                             .iface = b->iface,
                             .why = NP_DROP_COUNT,
                             .now_ns = core->now_ns};
  np_capture_pieces(core->capture, core->counters, &p);
}

void np_core_drop_rx(struct np_core *core, struct np_buf *b, enum np_drop why) {
  core->counters->drop[why]++;
  if (NP_UNLIKELY(core->capture != NULL)) capture_rx_drop(core, b, why);
  np_buf_put_chain(b);
}

static NP_COLD void drop_tx(struct np_core *core, struct np_buf *b, enum np_drop why) {
  core->counters->drop[why]++;
  if (core->capture != NULL) {
    struct np_capture_pkt p = {.head = np_buf_cdata(b),
                               .head_bytes = b->len,
                               .more = b->next,
                               .dir = NP_CAPTURE_DROP,
                               .iface = b->iface,
                               .why = why,
                               .now_ns = core->now_ns};
    np_capture_pieces(core->capture, core->counters, &p);
  }
  np_buf_put_chain(b);
}

/* TCP, or the network layer for what it kept, counted a drop and is about to free the buffer. */
static void on_rx_drop(void *ctx, struct np_buf *b, enum np_drop why) {
  struct np_core *core = ctx;
  if (NP_UNLIKELY(core->capture != NULL)) capture_rx_drop(core, b, why);
}

/* The network layer gave up a packet of ours before it had an Ethernet header, some of
 * them before the IP header too. Captures are of Ethernet frames, so it gets one with
 * zero addresses, in a copy: an earlier sending of the same buffer may still be in the
 * port's ring with its headers in the headroom. Type 0xffff (reserved): no IP header. */
static NP_COLD void capture_ip_drop(struct np_core *core, const struct np_buf *b, enum np_drop why) {
  uint8_t frame[NP_ETH_BYTES + 4096] = {0};
  const uint8_t *data = np_buf_cdata(b);
  uint32_t len = b->len;
  uint16_t type = 0xffff;
  if (len >= NP_IP4_BYTES && data[0] == 0x45 && np_load_be16(data + NP_IP4_LEN) == len) type = NP_ETHERTYPE_IP4;
  if (len >= NP_IP6_BYTES && data[0] >> 4 == 6 && np_load_be16(data + NP_IP6_LEN) + NP_IP6_BYTES == len) {
    type = NP_ETHERTYPE_IP6;
  }
  np_assert(len <= sizeof frame - NP_ETH_BYTES);
  np_store_be16(frame + NP_ETH_TYPE, type);
  memcpy(frame + NP_ETH_BYTES, data, len);
  capture_drop(core, b, why, frame, NP_ETH_BYTES + len);
}

static void on_ip_drop(void *ctx, struct np_buf *b, enum np_drop why) {
  struct np_core *core = ctx;
  if (NP_UNLIKELY(core->capture != NULL)) capture_ip_drop(core, b, why);
}

/* ---- sending ---- */

/* One retry after a flush; when that finds no room either, the rest of the turn
 * does not kick the kernel once more for each packet. */
static bool tx_one(struct np_core *core, struct np_core_link *link, struct np_buf *frame) {
  struct np_port_queue *q = link->tx;
  if (NP_LIKELY(q->ops->tx(q, &frame, 1) == 1)) return true;
  if (link->full_turn == core->turn) return false;
  q->ops->flush(q);
  if (q->ops->tx(q, &frame, 1) == 1) return true;
  link->full_turn = core->turn;
  return false;
}

static NP_COLD void hold_chain(struct np_buf *b) {
  for (; b != NULL; b = b->next) b->refs++; /* bound: the pieces of a packet */
}

/* Frames go to the port at once, not in a burst at the end: TCP moves data_off
 * of a segment it keeps as soon as it was sent. Nothing leaves before the flush. */
static void xmit(void *ctx, uint16_t iface, struct np_buf *frame) {
  struct np_core *core = ctx;
  np_assert(iface < NP_IFACE_MAX);
  struct np_core_link *link = &core->link[iface];
  frame->iface = iface;
  if (NP_UNLIKELY(link->tx == NULL || link->tx->down)) {
    drop_tx(core, frame, NP_DROP_TX_PORT_DOWN);
    return;
  }
  uint32_t len = frame->len;
  if (NP_UNLIKELY(frame->next != NULL)) {
    len = np_buf_chain_len(frame);
    bool fits = (frame->flags & NP_BUF_GSO) != 0 || np_buf_pieces(frame) <= NP_PORT_PIECES_MAX;
    if ((link->tx->caps & NP_PORT_SG) == 0 || !fits) len = UINT32_MAX; /* too big for it, whatever its MTU says */
  }
  uint32_t most = link->tx->mtu_bytes + 18u; /* Ethernet 14, VLAN 4 */
  if (NP_UNLIKELY(frame->flags & NP_BUF_GSO)) most = link->tx->tso_bytes_max;
  if (NP_UNLIKELY(len > most)) {
    drop_tx(core, frame, NP_DROP_TX_TOO_BIG);
    return;
  }
  bool captured = core->capture != NULL;
  /* the port may free it, and what was not sent is no TX record */
  if (NP_UNLIKELY(captured)) hold_chain(frame);
  if (NP_UNLIKELY(!tx_one(core, link, frame))) {
    if (captured) np_buf_put_chain(frame);
    core->counters->counter[NP_C_TX_RING_FULL]++;
    drop_tx(core, frame, NP_DROP_TX_FULL);
    return;
  }
  core->counters->counter[NP_C_TX_PKTS]++;
  core->counters->counter[NP_C_TX_BYTES] += len;
  if (NP_UNLIKELY(captured)) {
    capture_chain(core, NP_CAPTURE_TX, frame);
    np_buf_put_chain(frame);
  }
}

void np_core_xmit(struct np_core *core, uint16_t iface, struct np_buf *frame) { xmit(core, iface, frame); }

/* ---- what the layers ask of each other ---- */

bool np_core_l4_error(struct np_core *core, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft,
                      uint32_t mtu_bytes) {
  if (!np_tcp_error(core->tcp, flow, tcp_seq, err, soft, mtu_bytes)) return false;
  /* TCP vouches for it: connections to come begin with it. */
  if (mtu_bytes != 0) np_ip_pmtu_learn(core->ip, &flow->remote, mtu_bytes, core->now_ns);
  return true;
}

static bool ip_l4_error(void *ctx, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft,
                        uint32_t mtu_bytes) {
  struct np_core *core = ctx;
  if (np_core_l4_error(core, flow, tcp_seq, err, soft, mtu_bytes)) return true;
  if (core->peer_count <= 1) return false;
  struct np_mail_error e = {
      .flow = *flow, .tcp_seq = tcp_seq, .mtu_bytes = mtu_bytes, .err = (uint16_t)err, .soft = soft};
  np_mail_error(core, &e);
  return true;
}

static void ip_addr_changed(void *ctx, uint16_t iface) {
  struct np_core *core = ctx;
  core->addrs_dirty |= 1u << iface;
}

static enum np_tcp_stray tcp_stray(void *ctx, const struct np_pkt *pkt) {
  struct np_core *core = ctx;
  return core->peer_count > 1 ? np_mail_stray(core, pkt) : NP_TCP_STRAY_OURS;
}

static enum np_tcp_stray tcp_claim(void *ctx, const struct np_pkt *pkt, bool take) {
  struct np_core *core = ctx;
  if (core->peer_count <= 1) return NP_TCP_STRAY_OURS;
  uint32_t owner = take ? np_claim_take(core, &pkt->flow) : np_claim_look(core, &pkt->flow);
  return owner == core->index || owner == NP_CLAIM_NONE ? NP_TCP_STRAY_OURS : np_mail_give(core, pkt, owner);
}

static void tcp_unclaim(void *ctx, const struct np_flow *flow) {
  struct np_core *core = ctx;
  if (core->peer_count > 1 && !core->stopped) np_claim_drop(core, flow);
}

static void tcp_output(void *ctx, struct np_buf *seg, const struct np_flow *flow, uint8_t tos, struct np_tcp_path *path,
                       uint64_t now_ns) {
  struct np_core *core = ctx;
  /* No route or a dead port is counted there; TCP's timers notice the loss. */
  (void)np_ip_output(core->ip, seg, &flow->local, &flow->remote, NP_PROTO_TCP, tos, (struct np_path *)(void *)path,
                     now_ns);
}

static uint32_t tcp_path_caps(void *ctx, const struct np_tcp_path *path, uint32_t *tso_bytes_max) {
  struct np_core *core = ctx;
  int32_t port = np_ip_path_port(core->ip, (const struct np_path *)(const void *)path);
  if (port < 0 || core->link[port].tx == NULL) return 0;
  *tso_bytes_max = core->link[port].tx->tso_bytes_max;
  return core->link[port].tx->caps;
}

static uint32_t tcp_mtu(void *ctx, const struct np_addr *remote) {
  struct np_core *core = ctx;
  return np_ip_mtu(core->ip, remote);
}

static uint32_t tcp_route_caps(void *ctx, const struct np_addr *remote) {
  struct np_core *core = ctx;
  int32_t port = np_ip_route_port(core->ip, remote);
  return port < 0 || core->link[port].tx == NULL ? 0 : core->link[port].tx->caps;
}

static uint32_t tcp_pmtu(void *ctx, const struct np_addr *remote) {
  struct np_core *core = ctx;
  return np_ip_pmtu(core->ip, remote, core->now_ns);
}

static enum np_err tcp_source(void *ctx, const struct np_addr *remote, struct np_addr *out) {
  struct np_core *core = ctx;
  return np_ip_source(core->ip, remote, out);
}

static void tcp_confirm(void *ctx, struct np_tcp_path *path, uint64_t now_ns) {
  struct np_core *core = ctx;
  np_ip_confirm(core->ip, (const struct np_path *)(const void *)path, now_ns);
}

static enum np_err load_connect(void *ctx, const struct np_flow *flow, struct np_session *s) {
  struct np_core *core = ctx;
  struct np_stream *stream = NULL;
  if (core->draining) return NP_ERR_SHUTDOWN;
  return np_tcp_connect(core->tcp, flow, s, core->now_ns, &stream);
}

static void tcp_doubt(void *ctx, struct np_tcp_path *path, uint64_t now_ns) {
  struct np_core *core = ctx;
  np_ip_doubt(core->ip, (const struct np_path *)(const void *)path, now_ns);
}

struct np_session *np_core_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns) {
  struct np_core *core = ctx;
  const struct np_core_listener *l = listener_ctx;
  if (core->draining || l->handle == 0) return NULL;
  return np_session_new(core->sessions, l->kind, stream, l->handle, now_ns);
}

/* ---- rings to Go ---- */

static uint32_t room(struct np_core *core, uint32_t reserve, uint32_t n) {
  uint32_t used = core->event_pending + reserve;
  uint32_t have = np_ring_room(core->event, used + n);
  return have > used ? have - used : 0;
}

static uint32_t session_event_room(void *ctx, uint32_t n) {
  struct np_core *core = ctx;
  uint32_t have = room(core, core->event_reserve, n);
  if (NP_UNLIKELY(have < n)) core->counters->counter[NP_C_EVENT_RING_FULL]++;
  return have;
}

uint32_t np_core_event_room(struct np_core *core) { return room(core, core->event_reserve, 1); }

uint32_t np_core_answer_room(struct np_core *core) { return room(core, 0, 1); }

void np_core_event(struct np_core *core, const struct np_event *ev) {
  np_assert(room(core, 0, 1) > 0);
  struct np_event *slot = np_ring_slot(core->event, core->event_pending++);
  *slot = *ev;
  slot->at_ns = core->now_ns;
}

static void session_event(void *ctx, const struct np_event *ev) {
  struct np_core *core = ctx;
  np_core_event(core, ev);
}

void np_core_loan_return(struct np_core *core, struct np_buf *chain) {
  /* bound: the ring has a slot for every lent buffer */
  while (chain != NULL) {
    struct np_buf *b = chain;
    chain = b->next;
    np_assert(b->pool == &core->pool);
    np_assert(b->refs == 1);
    np_assert(core->loans_out < core->loan->count);
    b->next = NULL;
    b->data_off = NP_LOAN_DATA_OFF;
    b->len = 0;
    b->flags = 0;
    struct np_loan *slot = np_ring_slot(core->loan, core->loan_pending++);
    slot->buf = b;
    core->loans_out++;
  }
}

static void session_loan_return(void *ctx, struct np_buf *chain) {
  struct np_core *core = ctx;
  np_core_loan_return(core, chain);
}

static void session_loan_replace(void *ctx, uint32_t n) {
  struct np_core *core = ctx;
  core->loans_owed += n;
}

/* What must be free for more to be lent than a few: lending stops before TCP is at its maximum (tcp/mem.c)
 * and refuses connections. */
static uint32_t lending_floor(const struct np_core *core) {
  uint32_t quarter = core->pool.count / 4;
  return np_max_u32(quarter - np_min_u32(quarter, core->idle_bufs), quarter / 2) + quarter / 4;
}

/* What Go may send is the pool's, and what comes in needs it more. When that is short Go gets a few, so that it can
 * still command and somebody moves, down to a sixteenth of the pool. Whoever sends waits, and what is freed lets it go on. */
void np_core_loan_repay(struct np_core *core) {
  struct np_pool *pool = &core->pool;
  uint32_t most = lending_floor(core);
  while (core->loans_owed > 0) { /* bound: loans_max */
    uint32_t floor = core->loans_out < core->loans_max / 8 ? pool->count / 16 : most;
    if (pool->free_count <= floor || np_pool_avail(pool) == 0) break;
    struct np_buf *b = np_pool_get(pool);
    np_core_loan_return(core, b);
    core->loans_owed--;
  }
  core->counters->counter[NP_C_LOANS_OWED] = core->loans_owed;
}

/* Full fence between publishing and looking at the flag: pairs with the reader,
 * which sets the flag, fences and looks at the ring once more before it sleeps.
 * One of the two sees the other. */
static bool take_sleeper(struct np_ring *ring) {
  if (NP_LIKELY(__atomic_load_n(&ring->cons_sleeping, __ATOMIC_RELAXED) == 0)) return false;
  __atomic_store_n(&ring->cons_sleeping, 0, __ATOMIC_RELAXED); /* one wake-up per sleep */
  return true;
}

void np_core_publish(struct np_core *core) {
  if (core->event_pending == 0 && core->loan_pending == 0) return;
  core->counters->counter[NP_C_EVENTS] += core->event_pending;
  uint32_t events = core->event_pending;
  uint32_t loans = core->loan_pending;
  if (events > 0) np_ring_publish(core->event, events);
  if (loans > 0) np_ring_publish(core->loan, loans);
  core->event_pending = 0;
  core->loan_pending = 0;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  bool wake = events > 0 && take_sleeper(core->event);
  if (loans > 0 && take_sleeper(core->loan)) wake = true;
  if (NP_LIKELY(!wake) || core->shared.event_fd < 0) return;
  core->counters->counter[NP_C_WAKEUPS]++;
  uint64_t one = 1;
  ssize_t n = write(core->shared.event_fd, &one, sizeof one);
  (void)n; /* EAGAIN: the counter is far from 0, so the reader wakes anyway */
}

/* ---- receiving ---- */

static void refuse(struct np_core *core, const struct np_pkt *pkt, enum np_drop why) {
  if (NP_UNLIKELY(core->exc.count != 0) && np_exception_refused(core, pkt, why)) return;
  np_core_drop_rx(core, pkt->buf, why);
}

/* Ethernet to transport, first the whole burst through one stage, then the next. */
static uint32_t parse_burst(struct np_core *core, uint32_t n) {
  struct np_buf **burst = core->burst;
  uint32_t parsed = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (i + 2 < n) NP_PREFETCH(np_buf_cdata(burst[i + 2]));
    enum np_drop why = np_wire_parse(burst[i], &core->pkt[parsed]);
    if (NP_LIKELY(why == NP_WIRE_OK)) {
      parsed++;
    } else {
      if (np_wire_has_problem(why)) np_ip_problem(core->ip, &core->pkt[parsed], core->now_ns);
      refuse(core, &core->pkt[parsed], why);
    }
  }
  return parsed;
}

/* Leaves TCP's packets at the front of core->pkt. Return: how many. */
static uint32_t ip_burst(struct np_core *core, uint32_t n) {
  uint32_t tcp = 0;
  for (uint32_t i = 0; i < n; i++) {
    enum np_drop why = NP_DROP_COUNT;
    if (core->peer_count > 1 && core->pkt[i].l4_proto != NP_PROTO_TCP) np_mail_send(core, &core->pkt[i]);
    switch (np_ip_input(core->ip, &core->pkt[i], core->now_ns, &why)) {
      case NP_IP_TCP:
        if (tcp != i) core->pkt[tcp] = core->pkt[i];
        tcp++;
        break;
      case NP_IP_DONE:
        core->counters->counter[NP_C_DELIVERED_PKTS]++;
        break;
      case NP_IP_HELD:
        break;
      case NP_IP_DROP:
        refuse(core, &core->pkt[i], why);
        break;
    }
  }
  return tcp;
}

static NP_COLD void capture_burst(struct np_core *core, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) capture_chain(core, NP_CAPTURE_RX, core->burst[i]);
}

/* Pieces behind a packet's first: part of the same frame. Return: their bytes. */
static NP_COLD uint32_t mark_pieces(const struct np_buf *first, struct np_buf *b) {
  uint32_t bytes = 0;
  for (; b != NULL; b = b->next) { /* bound: the pieces of a packet */
    b->iface = first->iface;
    b->rx_ns = first->rx_ns;
    b->frame_off = 0;
    b->frame_len = 0;
    bytes += b->len;
  }
  return bytes;
}

static uint32_t rx_queue(struct np_core *core, struct np_port_queue *q) {
  uint32_t n = q->ops->rx(q, core->burst, NP_BURST);
  if (n == 0) return 0;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < n; i++) {
    struct np_buf *b = core->burst[i];
    if (i + 2 < n) NP_PREFETCH_W(core->burst[i + 2]);
    b->iface = q->iface;
    b->rx_ns = core->now_ns;
    b->frame_off = (uint16_t)b->data_off;
    b->frame_len = (uint16_t)b->len;
    bytes += b->len;
    if (NP_UNLIKELY(b->next != NULL)) bytes += mark_pieces(b, b->next);
  }
  core->counters->counter[NP_C_RX_PKTS] += n;
  core->counters->counter[NP_C_RX_BYTES] += bytes;
  if (NP_UNLIKELY(core->capture != NULL)) capture_burst(core, n);
  uint32_t parsed = parse_burst(core, n);
  if (NP_UNLIKELY(core->exc.count != 0)) parsed = np_exception_burst(core, q, parsed);
  uint32_t tcp = ip_burst(core, parsed);
  if (NP_UNLIKELY((core->steer >> q->iface & 1u) != 0)) tcp = np_steer_burst(core, tcp);
  core->stray_hops = core->peer_count; /* once round, if need be */
  tcp = np_tcp_gro(core->tcp, core->pkt, tcp);
  np_tcp_burst(core->tcp, core->pkt, tcp, core->now_ns);
  return n;
}

/* ---- ports ---- */

/* Peers that do not read could have all that Go sends wait here. When it holds a quarter of what there is
 * to hold, each pipe may have its part of that quarter and no more, and the least when nothing can be lent; Go's
 * side sees to it before it sends. */
static void pipe_share(struct np_core *core) {
  uint64_t *counter = core->counters->counter;
  uint32_t most = (core->pool.count - core->idle_bufs) / 4;
  uint64_t share = 0;
  if (counter[NP_C_PIPE_QUEUED] > most) share = np_max_u64(most / np_max_u64(counter[NP_C_PIPES], 1), 1);
  if (core->loans_owed > 0 && core->pool.free_count <= lending_floor(core)) share = 1;
  counter[NP_C_PIPE_SHARE] = share;
}

static void gauges(struct np_core *core) {
  uint32_t idle = core->loans_out;
  for (uint32_t i = 0; i < core->queue_count; i++) idle += core->queue[i].port->posted_count;
  if (core->carrier_count > 0) idle += np_core_carriers_posted(core);
  core->counters->counter[NP_C_BUF_FREE] = core->pool.free_count + idle;
  np_tcp_mem_turn(core->tcp, idle);
  core->idle_bufs = idle;
  if (core->counters->counter[NP_C_PIPES] + core->counters->counter[NP_C_PIPE_SHARE] > 0) pipe_share(core);
}

static void ifaces_up(struct np_core *core, uint16_t port, bool up) {
  for (uint16_t i = 0; i < NP_IFACE_MAX; i++) {
    /* cannot fail: the interface exists */
    if (core->iface[i].used && core->iface[i].port == port) (void)np_ip_iface_up(core->ip, i, up, core->now_ns);
  }
}

/* Tells Go once of a device that vanished or came back. */
static void flush_ports(struct np_core *core) {
  for (uint32_t i = 0; i < core->queue_count; i++) {
    struct np_core_queue *cq = &core->queue[i];
    struct np_port_queue *q = cq->port;
    q->ops->flush(q);
    if (NP_LIKELY(q->down == cq->was_down && q->gone == cq->was_gone) || cq->kernels) continue;
    if (core->link[q->iface].tx == q) np_steer_port(core, q->iface, !q->down);
    if (np_core_answer_room(core) == 0) continue; /* told in a later turn */
    cq->was_down = q->down;
    cq->was_gone = q->gone;
    if (core->link[q->iface].tx == q) ifaces_up(core, q->iface, !q->down);
    struct np_event ev = {.op = NP_EV_PORT, .arg = q->iface, .err = q->down ? (q->gone ? NP_ERR_NODEV : NP_ERR_PORTDOWN) : NP_ERR_OK};
    np_core_event(core, &ev);
  }
}

/* Tells Go whose addresses changed; what finds no room is told in a later turn. */
static NP_COLD void tell_addrs(struct np_core *core) {
  for (uint16_t i = 0; i < NP_IFACE_MAX && np_core_answer_room(core) > 0; i++) {
    if ((core->addrs_dirty & 1u << i) == 0) continue;
    core->addrs_dirty &= ~(1u << i);
    struct np_event ev = {.op = NP_EV_ADDRS, .arg = i};
    np_core_event(core, &ev);
  }
}

static void on_tick(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_core *core = ctx;
  for (uint32_t i = 0; i < core->queue_count; i++) {
    struct np_port_queue *q = core->queue[i].port;
    if (q->ops->check != NULL) q->ops->check(q);
  }
  if (core->queue_count > 0) np_timer_set(&core->wheel, timer, NP_TIMER_CORE, now_ns + NP_CORE_TICK_NS);
}

enum np_err np_core_attach(struct np_core *core, struct np_port_queue *queue, uint16_t iface) {
  if (queue == NULL || iface >= NP_IFACE_MAX) return NP_ERR_INVALID;
  if (core->queue_count == NP_CORE_QUEUES_MAX) return NP_ERR_FULL;
  for (uint32_t i = 0; i < core->queue_count; i++) {
    if (core->queue[i].port == queue) return NP_ERR_EXISTS;
  }
  queue->iface = iface;
  core->queue[core->queue_count++] = (struct np_core_queue){.port = queue}; /* one that is down already is told of */
  core->caps_any |= queue->caps & (NP_PORT_SG | NP_PORT_TSO | NP_PORT_TX_CSUM);
  queue->ops->flush(queue); /* posts its first buffers */
  struct np_core_link *link = &core->link[iface];
  if (link->tx == NULL) {
    *link = (struct np_core_link){.tx = queue, .full_turn = UINT64_MAX};
    if (!queue->down) ifaces_up(core, iface, true);
    np_steer_port(core, iface, !queue->down);
  }
  if (!np_timer_is_set(&core->tick)) {
    np_timer_set(&core->wheel, &core->tick, NP_TIMER_CORE, core->now_ns + NP_CORE_TICK_NS);
  }
  return NP_ERR_OK;
}

enum np_err np_core_detach(struct np_core *core, uint16_t iface) {
  if (iface >= NP_IFACE_MAX) return NP_ERR_INVALID;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < core->queue_count; i++) {
    struct np_port_queue *q = core->queue[i].port;
    if (q->iface == iface) {
      q->ops->flush(q);
    } else {
      core->queue[kept++] = core->queue[i];
    }
  }
  if (kept == core->queue_count) return NP_ERR_NOTFOUND;
  core->queue_count = kept;
  core->link[iface].tx = NULL;
  core->steer &= ~(1u << iface);
  np_steer_port(core, iface, false);
  np_exception_detach(core, iface);
  ifaces_up(core, iface, false);
  return NP_ERR_OK;
}

void np_core_join(struct np_core *core, const struct np_core_parts *parts, uint64_t now_ns) {
  const struct np_ip_env ip = {
      .pool = &core->pool,
      .wheel = &core->wheel,
      .counters = core->counters,
      .xmit = xmit,
      .l4_error = ip_l4_error,
      .drop = on_ip_drop,
      .addr_changed = ip_addr_changed,
      .rx_drop = on_rx_drop,
      .udp = np_core_udp_input,
      .ctx = core,
  };
  const struct np_tcp_env tcp = {
      .pool = &core->pool,
      .wheel = &core->wheel,
      .counters = core->counters,
      .output = tcp_output,
      .mtu = tcp_mtu,
      .pmtu = tcp_pmtu,
      .route_caps = tcp_route_caps,
      .caps_any = &core->caps_any,
      .path_caps = tcp_path_caps,
      .source = tcp_source,
      .confirm = tcp_confirm,
      .doubt = tcp_doubt,
      .accept = np_core_accept,
      .stray = tcp_stray,
      .claim = tcp_claim,
      .unclaim = tcp_unclaim,
      .ctx = core,
  };
  const struct np_sessions_env sessions = {
      .pool = &core->pool,
      .wheel = &core->wheel,
      .counters = core->counters,
      .crypto = core->crypto,
      .event_room = session_event_room,
      .event = session_event,
      .loan_return = session_loan_return,
      .loan_replace = session_loan_replace,
      .ctx = core,
  };
  np_wheel_handle(&core->wheel, NP_TIMER_CORE, on_tick, core);
  core->ip = np_ip_init(parts->ip_mem, parts->ip, &ip, now_ns);
  core->tcp = np_tcp_init(parts->tcp_mem, parts->tcp, &tcp, now_ns);
  np_tcp_on_drop(core->tcp, on_rx_drop, core);
  core->sessions = np_sessions_init(parts->sessions_mem, parts->sessions, &sessions, now_ns);
  if (parts->loads_mem == NULL) return;
  const struct np_loads_env loads = {.pool = &core->pool, .connect = load_connect, .ctx = core};
  core->loads = np_loads_init(parts->loads_mem, parts->loads, &loads);
  core->shared.load = np_loads_stats(core->loads);
}

/* ---- one turn ---- */

static void run_call(struct np_core *core) {
  /* acquire pairs with the control thread's release when it posts the call */
  struct np_core_call *call = __atomic_load_n(&core->call, __ATOMIC_ACQUIRE);
  if (NP_LIKELY(call == NULL)) return;
  call->fn(call->arg);
  __atomic_store_n(&core->call, NULL, __ATOMIC_RELAXED);
  __atomic_store_n(&call->done, 1, __ATOMIC_RELEASE);
}

/* TCP and the carriers hand data up, sessions answer, TCP and the carriers send: until nothing
 * is left or the rounds are used up, in which case the next turn goes on. */
static bool flush_streams(struct np_core *core) {
  bool left = true;
  for (uint32_t i = 0; left && i < NP_CORE_FLUSH_ROUNDS; i++) {
    left = np_tcp_flush(core->tcp, core->now_ns);
    if (core->carrier_count > 0) left |= np_core_carriers_flush(core);
    left |= np_sessions_run(core->sessions, core->now_ns);
    left |= np_tcp_flush(core->tcp, core->now_ns);
    if (core->carrier_count > 0) left |= np_core_carriers_flush(core);
  }
  return left;
}

bool np_core_turn(struct np_core *core, uint64_t now_ns) {
  core->now_ns = now_ns;
  core->turn++;
  run_call(core);
  uint32_t found = np_core_commands(core);
  if (core->peer_count > 1) found += np_mail_receive(core);
  for (uint32_t i = 0; i < core->queue_count; i++) {
    struct np_core_queue *cq = &core->queue[i];
    found += NP_UNLIKELY(cq->kernels) ? np_exception_rx(core, cq) : rx_queue(core, cq->port);
  }
  if (core->carrier_count > 0) found += np_core_carriers_poll(core, core->queue_count == 0);
  /* Timers before the flush, so that what they queue leaves in this turn too. */
  found += np_wheel_advance(&core->wheel, now_ns, NP_CORE_TIMERS_PER_TURN);
  bool was_left = core->left;
  bool loads = core->loads != NULL && np_loads_run(core->loads, now_ns);
  core->left = flush_streams(core);
  core->left |= loads;
  flush_ports(core);
  if (NP_UNLIKELY(core->addrs_dirty != 0)) tell_addrs(core);
  if (core->loans_owed > 0) np_core_loan_repay(core);
  gauges(core);
  np_core_publish(core);
  core->counters->counter[NP_C_TURNS]++;
  return found > 0 || was_left || core->left;
}

uint64_t np_core_next_ns(const struct np_core *core) {
  return core->left ? core->now_ns : np_wheel_next_ns(&core->wheel);
}

bool np_core_must_run(struct np_core *core) {
  if (core->left || np_ring_avail(core->cmd) > 0) return true;
  if (__atomic_load_n(&core->call, __ATOMIC_ACQUIRE) != NULL || np_mail_waits(core)) return true;
  for (uint32_t i = 0; i < core->queue_count; i++) {
    struct np_port_queue *q = core->queue[i].port;
    if (!q->down && q->ops->busy(q)) return true;
  }
  return np_core_carriers_busy(core);
}

void np_core_stop(struct np_core *core, uint64_t now_ns) {
  core->now_ns = now_ns;
  core->turn++;
  core->draining = true;
  core->stopped = true;
  np_tcp_abort_all(core->tcp, now_ns);
  np_core_carriers_stop(core);
  core->left = flush_streams(core);
  flush_ports(core);
  gauges(core);
  np_core_publish(core);
  /* Its owner may close it as soon as the thread is joined: no command can end it any more. */
  if (core->capture != NULL) np_capture_stop(core->capture);
  core->capture = NULL;
}

struct np_core_shared *np_core_shared(struct np_core *core) { return &core->shared; }
struct np_pool *np_core_pool(struct np_core *core) { return &core->pool; }
struct np_tcp *np_core_tcp(struct np_core *core) { return core->tcp; }
struct np_ip *np_core_ip(struct np_core *core) { return core->ip; }
struct np_sessions *np_core_sessions(struct np_core *core) { return core->sessions; }
