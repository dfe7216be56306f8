#include "test/unit/tcp_pair.h"

#include <stdlib.h>

#include "test/unit/cmocka_np.h"
#include "io/sim/offload.h"
#include "wire/build.h"
#include "wire/pkt.h"

static uint8_t pattern(uint8_t kind, uint64_t pos) {
  return (uint8_t)((pos * 31 + (pos >> 8) * 17 + (pos >> 16) * 7) ^ (uint64_t)kind * 0x5b);
}

/* The wire: a heap of frames by time. */

static bool before(const struct tp_frame *a, const struct tp_frame *b) {
  return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->order < b->order);
}

static void swap(struct tp_frame *a, struct tp_frame *b) {
  struct tp_frame t = *a;
  *a = *b;
  *b = t;
}

static void heap_push(struct tp *tp, struct tp_frame f) {
  if (tp->frame_count == tp->frame_cap) {
    tp->frame_cap = tp->frame_cap == 0 ? 256 : tp->frame_cap * 2;
    tp->heap = realloc(tp->heap, tp->frame_cap * sizeof *tp->heap);
    assert_non_null(tp->heap);
  }
  uint32_t i = tp->frame_count++;
  tp->heap[i] = f;
  while (i > 0 && before(&tp->heap[i], &tp->heap[(i - 1) / 2])) {
    swap(&tp->heap[i], &tp->heap[(i - 1) / 2]);
    i = (i - 1) / 2;
  }
}

static struct tp_frame heap_pop(struct tp *tp) {
  struct tp_frame top = tp->heap[0];
  tp->heap[0] = tp->heap[--tp->frame_count];
  uint32_t i = 0;
  for (;;) {
    uint32_t l = 2 * i + 1;
    uint32_t m = i;
    if (l < tp->frame_count && before(&tp->heap[l], &tp->heap[m])) m = l;
    if (l + 1 < tp->frame_count && before(&tp->heap[l + 1], &tp->heap[m])) m = l + 1;
    if (m == i) break;
    swap(&tp->heap[i], &tp->heap[m]);
    i = m;
  }
  return top;
}

static void wire_send(struct tp *tp, uint32_t to, const uint8_t *bytes, uint32_t len, uint64_t extra_ns) {
  struct tp_frame f = {.due_ns = tp->now_ns + tp->delay_ns + extra_ns, .order = tp->order++, .to = to, .len = len};
  f.bytes = malloc(len);
  assert_non_null(f.bytes);
  memcpy(f.bytes, bytes, len);
  heap_push(tp, f);
}

static bool chance(struct tp *tp, uint32_t per_10000) { return per_10000 != 0 && np_rng_below(&tp->rng, 10000) < per_10000; }

/* Congestion Experienced, with the IPv4 checksum put right (RFC 1624: one bit more in the sum). */
static void mark(uint8_t *ip) {
  if (ip[0] >> 4 == 6) {
    ip[1] |= 0x30;
    return;
  }
  uint32_t sum = np_load_be16(ip + 10);
  uint32_t add = 3u - (ip[1] & 3u);
  ip[1] |= 3;
  sum = sum > add ? sum - add : sum + 0xffff - add;
  np_store_be16(ip + 10, (uint16_t)sum);
}

static uint8_t ecn_bits(const uint8_t *ip) { return ip[0] >> 4 == 6 ? (ip[1] >> 4) & 3 : ip[1] & 3; }

/* Return: false when the queue has no room; else *left_ns is how long until the last byte left. */
static bool bottleneck(struct tp *tp, uint32_t to, uint8_t *bytes, uint32_t len, uint64_t *left_ns) {
  *left_ns = 0;
  if (tp->rate_bytes_per_s == 0) return true;
  uint64_t start = np_max_u64(tp->now_ns, tp->wire_free_ns[to]);
  uint32_t waiting = (uint32_t)((start - tp->now_ns) * tp->rate_bytes_per_s / TP_S);
  if (waiting + len > tp->queue_bytes) {
    tp->queue_losses++;
    return false;
  }
  tp->queue_most_bytes = np_max_u32(tp->queue_most_bytes, waiting + len);
  tp->queue_sum_bytes += waiting;
  tp->queue_frames++;
  if (tp->mark_bytes != 0 && waiting > tp->mark_bytes && ecn_bits(bytes + 14) != 0) {
    mark(bytes + 14);
    tp->marks++;
  }
  tp->wire_free_ns[to] = start + (uint64_t)len * TP_S / tp->rate_bytes_per_s;
  *left_ns = tp->wire_free_ns[to] - tp->now_ns;
  return true;
}

static void wire_impair(struct tp *tp, uint32_t to, uint8_t *bytes, uint32_t len) {
  tp->frames++;
  if (chance(tp, tp->loss)) return;
  uint64_t left_ns;
  if (!bottleneck(tp, to, bytes, len, &left_ns)) return;
  uint64_t extra = left_ns + (chance(tp, tp->reorder) ? np_rng_u64(&tp->rng) % (tp->jitter_ns + 1) : 0);
  if (chance(tp, tp->dup)) wire_send(tp, to, bytes, len, extra + np_rng_u64(&tp->rng) % (tp->jitter_ns + 1));
  if (chance(tp, tp->corrupt)) bytes[14 + np_rng_below(&tp->rng, len - 14)] ^= (uint8_t)(1u << np_rng_below(&tp->rng, 8));
  wire_send(tp, to, bytes, len, extra);
}

/* Lower layers of the sender. */

static uint32_t put_lower(uint8_t *p, const struct np_flow *flow, uint32_t l4_len, uint8_t tos) {
  static const struct np_mac mac = {{2, 0, 0, 0, 0, 1}};
  bool v4 = np_addr_is_v4(&flow->local);
  uint32_t n = np_wire_put_eth(p, &mac, &mac, 0, v4 ? 0x0800 : 0x86dd);
  if (v4) {
    np_wire_put_ip4(p + n, &flow->local, &flow->remote, NP_PROTO_TCP, tos, 1, (uint16_t)(20 + l4_len));
    return n + 20;
  }
  np_wire_put_ip6(p + n, &flow->local, &flow->remote, NP_PROTO_TCP, tos, 64, (uint16_t)l4_len);
  return n + 40;
}

/* p: a segment from its TCP header on. */
static void log_segment(struct tp_end *e, const uint8_t *p, uint32_t len, const struct np_flow *flow) {
  struct tp_seg *s = &e->log[e->log_count++ % TP_LOG];
  uint32_t hdr = (uint32_t)(p[12] >> 4) * 4;
  *s = (struct tp_seg){.flow = *flow, .at_ns = e->tp->now_ns};
  s->seq = np_load_be32(p + 4);
  s->ack = np_load_be32(p + 8);
  s->flags = p[13];
  s->wnd = np_load_be16(p + 14);
  s->len = len - hdr;
  s->opt_bytes = (uint8_t)(hdr - 20);
  memcpy(s->opt, p + 20, hdr - 20);
  if (s->len != 0) e->data_segs++;
  assert_true(np_tcp_opts_parse(p + 20, hdr - 20, (s->flags & NP_TCP_SYN) != 0, &s->opts));
  assert_true(len <= e->tp->mtu - (np_addr_is_v4(&flow->local) ? 20u : 40u));
}

/* Keeps the reference as a port's ring would, at most as many as there are places. */
static void hold(struct tp_end *e, struct np_buf *b) {
  if (e->tp->hold_ns == 0 || e->held_count == NP_COUNT_OF(e->held)) {
    np_buf_put(b);
    return;
  }
  uint32_t i = (e->held_head + e->held_count++) % NP_COUNT_OF(e->held);
  e->held[i] = b;
  e->held_until[i] = e->tp->now_ns + e->tp->hold_ns;
}

static void release(struct tp_end *e) {
  while (e->held_count > 0 && e->held_until[e->held_head] <= e->tp->now_ns) {
    np_buf_put(e->held[e->held_head]);
    e->held_head = (e->held_head + 1) % NP_COUNT_OF(e->held);
    e->held_count--;
  }
}

static void put_out(void *ctx, uint32_t lower, const uint8_t *frame, uint32_t len) {
  struct tp_end *e = ctx;
  log_segment(e, frame + lower, len - lower, e->out_flow);
  e->log[(e->log_count - 1) % TP_LOG].tos = e->out_tos;
  const struct tp_seg *s = &e->log[(e->log_count - 1) % TP_LOG];
  if (e->tp->cut || (e->tp->drop != NULL && e->tp->drop(e->tp, e->index, s))) return;
  uint8_t copy[9100];
  memcpy(copy, frame, len);
  wire_impair(e->tp, 1 - e->index, copy, len);
}

/* A packet of several pieces, or one that the port has to finish: as a NIC does. */
static void end_offload(struct tp_end *e, struct np_buf *seg, uint32_t lower) {
  static const uint32_t max = 65535;
  uint8_t *flat = malloc(max);
  uint32_t len = np_buf_chain_len(seg);
  assert_non_null(flat);
  assert_true(len <= max);
  uint32_t at = 0;
  uint32_t pieces = 0;
  for (const struct np_buf *b = seg; b != NULL; b = b->next) {
    assert_true(++pieces <= ((seg->flags & NP_BUF_GSO) ? NP_TCP_GATHER_MAX : NP_PORT_PIECES_MAX));
    memcpy(flat + at, np_buf_cdata(b), b->len);
    at += b->len;
  }
  struct np_sim_offload o = {.l4_off = lower, .dir = lower, .send = put_out, .ctx = e};
  if (seg->flags & NP_BUF_TX_CSUM) assert_int_equal(seg->l4_off, seg->data_off + lower);
  if (seg->flags & NP_BUF_GSO) {
    assert_true(e->tp->caps & NP_PORT_TSO);
    np_sim_segment(&o, flat, len, seg->gso_bytes);
  } else {
    if (seg->flags & NP_BUF_TX_CSUM) np_sim_fill_sum(&o, flat, len);
    put_out(e, lower, flat, len);
  }
  free(flat);
}

static void end_output(void *ctx, struct np_buf *seg, const struct np_flow *flow, uint8_t tos, struct np_tcp_path *path,
                       uint64_t now_ns) {
  struct tp_end *e = ctx;
  assert_int_equal(now_ns, e->tp->now_ns);
  path->opaque[0] = 1;
  e->out_flow = flow;
  e->out_tos = tos;
  uint32_t lower = np_addr_is_v4(&flow->local) ? 34 : 54;
  bool gathered = (seg->flags & NP_BUF_GATHERED) != 0;
  uint32_t l4_len = np_buf_chain_len(seg);
  assert_true(gathered || seg->next == NULL);
  assert_true((seg->next == NULL || (e->tp->caps & NP_PORT_SG)) &&
              (!(seg->flags & NP_BUF_TX_CSUM) || (e->tp->caps & NP_PORT_TX_CSUM)));
  uint8_t *p = np_buf_push(seg, lower);
  put_lower(p, flow, l4_len, tos);
  if (gathered || (seg->flags & NP_BUF_TX_CSUM)) {
    end_offload(e, seg, lower);
  } else {
    put_out(e, lower, p, seg->len);
  }
  while (seg != NULL) {
    struct np_buf *next = gathered ? seg->next : NULL;
    seg->next = NULL;
    hold(e, seg);
    seg = next;
  }
}

static uint32_t end_caps(void *ctx, const struct np_tcp_path *path, uint32_t *tso_bytes_max) {
  const struct tp *tp = ((struct tp_end *)ctx)->tp;
  (void)path;
  *tso_bytes_max = tp->tso_bytes_max;
  return tp->caps;
}

static uint32_t end_route_caps(void *ctx, const struct np_addr *remote) {
  (void)remote;
  return ((struct tp_end *)ctx)->tp->caps;
}

static uint32_t end_mtu(void *ctx, const struct np_addr *remote) {
  (void)remote;
  return ((struct tp_end *)ctx)->tp->mtu;
}

static enum np_err end_source(void *ctx, const struct np_addr *remote, struct np_addr *out) {
  (void)remote;
  *out = ((struct tp_end *)ctx)->addr;
  return NP_ERR_OK;
}

static void end_confirm(void *ctx, struct np_tcp_path *path, uint64_t now_ns) {
  (void)ctx;
  (void)path;
  (void)now_ns;
}

static void end_doubt(void *ctx, struct np_tcp_path *path, uint64_t now_ns) {
  struct tp_end *e = ctx;
  (void)path;
  (void)now_ns;
  e->doubts++;
}

static struct np_session *end_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns) {
  struct tp_end *e = ctx;
  (void)listener_ctx;
  (void)now_ns;
  if (e->refuse) return NULL;
  struct tp_sess *s = tp_sess_new(e, &e->accept_as);
  s->established = true;
  s->base.stream = stream;
  stream->session = &s->base;
  tp_write(s, 0);
  return &s->base;
}

/* Sessions. */

static void fill(struct tp_sess *s) {
  struct np_stream *st = s->base.stream;
  while (s->sent < s->to_send) {
    uint32_t room = st->ops->room(st);
    uint32_t n = s->piece != 0 ? s->piece : st->seg_bytes;
    if (n > s->to_send - s->sent) n = (uint32_t)(s->to_send - s->sent);
    if (room < n) return;
    struct np_buf *b = np_pool_get(&s->end->pool);
    if (b == NULL) return; /* poked again by tp_run */
    if (n > np_buf_tailroom(b)) n = np_buf_tailroom(b);
    uint8_t *p = np_buf_append(b, n);
    for (uint32_t i = 0; i < n; i++) p[i] = pattern(s->pattern_tx, s->sent + i);
    s->sent += n;
    assert_int_equal(st->ops->send(st, b, 0), NP_ERR_OK);
  }
  if (s->close_at_end) st->ops->shutdown(st);
}

void tp_write(struct tp_sess *s, uint64_t bytes) {
  s->to_send += bytes;
  if (s->to_send != 0 || s->close_at_end) fill(s);
}

static void echo_some(struct tp_sess *s) {
  struct np_stream *st = s->base.stream;
  while (s->echo_head != NULL && st->ops->room(st) >= s->echo_head->len) {
    struct np_buf *b = s->echo_head;
    s->echo_head = b->next;
    if (s->echo_head == NULL) s->echo_tail = NULL;
    b->next = NULL;
    uint32_t n = b->len;
    st->ops->consumed(st, n);
    assert_int_equal(st->ops->send(st, b, 0), NP_ERR_OK);
  }
  if (s->echo_head == NULL && s->eof && s->close_on_eof) st->ops->shutdown(st);
}

static void sess_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  struct tp_sess *s = (struct tp_sess *)base;
  assert_int_equal(np_buf_chain_len(chain), bytes);
  assert_false(s->eof);
  for (struct np_buf *b = chain; b != NULL; b = b->next) {
    const uint8_t *p = np_buf_cdata(b);
    for (uint32_t i = 0; i < b->len; i++) {
      if (s->mode == TP_SINK && p[i] != pattern(s->pattern_rx, s->received + i)) s->wrong++;
    }
    s->received += b->len;
  }
  struct np_stream *st = base->stream;
  if (s->mode == TP_ECHO) {
    struct np_buf *last = chain;
    while (last->next != NULL) last = last->next;
    if (s->echo_tail == NULL) {
      s->echo_head = chain;
    } else {
      s->echo_tail->next = chain;
    }
    s->echo_tail = last;
    echo_some(s);
    return;
  }
  np_buf_put_chain(chain);
  if (s->hold) {
    s->unconsumed += bytes;
  } else {
    st->ops->consumed(st, bytes);
  }
  if (s->abort_on_data) {
    st->ops->abort(st);
  } else if (s->detach_on_data) {
    st->ops->detach(st);
  }
}

void tp_consume(struct tp_sess *s, uint32_t bytes) {
  assert_true(bytes <= s->unconsumed);
  s->unconsumed -= bytes;
  s->base.stream->ops->consumed(s->base.stream, bytes);
}

static void sess_writable(struct np_session *base) {
  struct tp_sess *s = (struct tp_sess *)base;
  s->writable_calls++;
  if (s->mode == TP_ECHO) echo_some(s);
  fill(s);
}

static void sess_eof(struct np_session *base) {
  struct tp_sess *s = (struct tp_sess *)base;
  assert_false(s->eof);
  s->eof = true;
  if (s->mode == TP_ECHO) {
    echo_some(s);
  } else if (s->close_on_eof) {
    base->stream->ops->shutdown(base->stream);
  }
}

static void sess_closed(struct np_session *base, enum np_err err) {
  struct tp_sess *s = (struct tp_sess *)base;
  assert_false(s->closed);
  s->closed = true;
  s->err = err;
  base->stream = NULL;
  if (s->echo_head != NULL) np_buf_put_chain(s->echo_head);
  s->echo_head = s->echo_tail = NULL;
}

static void sess_established(struct np_session *base) {
  struct tp_sess *s = (struct tp_sess *)base;
  s->established = true;
  tp_write(s, 0);
}

static const struct np_session_ops sess_ops = {
    .data = sess_data,
    .writable = sess_writable,
    .eof = sess_eof,
    .closed = sess_closed,
    .established = sess_established,
};

struct tp_sess *tp_sess_new(struct tp_end *end, const struct tp_sess *like) {
  struct tp_sess *s = calloc(1, sizeof *s);
  assert_non_null(s);
  if (like != NULL) *s = *like;
  s->base.ops = &sess_ops;
  s->base.stream = NULL;
  s->end = end;
  s->pattern_tx = (uint8_t)(1 + end->index);
  s->pattern_rx = (uint8_t)(2 - end->index);
  s->next = end->sessions;
  end->sessions = s;
  end->last = s;
  return s;
}

/* Set-up and the passing of time. */

void tp_args_default(struct tp_args *args) {
  memset(args, 0, sizeof *args);
  args->seed = 1;
  args->bufs = 8192;
  args->start_ns = 10 * TP_S;
  for (uint32_t i = 0; i < 2; i++) {
    np_tcp_config_default(&args->config[i]);
    args->config[i].conns_max = 64;
    args->config[i].core_index = (uint8_t)i;
    for (uint32_t j = 0; j < 32; j++) args->config[i].secret[j] = (uint8_t)(j * 7 + i * 13 + 1);
  }
}

static void end_init(struct tp *tp, uint32_t i, const struct tp_args *args) {
  struct tp_end *e = &tp->end[i];
  e->tp = tp;
  e->index = i;
  e->config = args->config[i];
  uint8_t v4[4] = {198, 18, 0, (uint8_t)(i + 1)};
  uint8_t v6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = (uint8_t)(i + 1)};
  e->addr = args->v6 ? np_addr_from_v6(v6) : np_addr_from_v4_be(v4);
  uint32_t bufs = i == 1 && args->bufs_of_1 != 0 ? args->bufs_of_1 : args->bufs;
  e->pool_mem = aligned_alloc(2048, (size_t)bufs * 2048);
  e->pool_stack = malloc(np_pool_stack_bytes(bufs));
  size_t bytes = (np_tcp_bytes(&e->config) + 63) & ~(size_t)63;
  e->tcp_mem = aligned_alloc(64, bytes);
  assert_non_null(e->pool_mem);
  assert_non_null(e->pool_stack);
  assert_non_null(e->tcp_mem);
  np_pool_init(&e->pool, e->pool_mem, bufs, 2048, e->pool_stack, &e->counters);
  np_wheel_init(&e->wheel, tp->now_ns);
  struct np_tcp_env env = {
      .pool = &e->pool,
      .wheel = &e->wheel,
      .counters = &e->counters,
      .output = end_output,
      .mtu = end_mtu,
      .caps_any = &tp->caps,
      .path_caps = end_caps,
      .route_caps = end_route_caps,
      .source = end_source,
      .confirm = end_confirm,
      .doubt = end_doubt,
      .accept = end_accept,
      .ctx = e,
  };
  e->tcp = np_tcp_init(e->tcp_mem, &e->config, &env, tp->now_ns);
}

struct tp *tp_new(const struct tp_args *args) {
  struct tp *tp = calloc(1, sizeof *tp);
  assert_non_null(tp);
  tp->now_ns = args->start_ns;
  tp->delay_ns = 100000;
  tp->mtu = 1500;
  tp->v6 = args->v6;
  np_rng_init(&tp->rng, args->seed);
  for (uint32_t i = 0; i < 2; i++) end_init(tp, i, args);
  return tp;
}

static uint64_t dropped(const struct tp_end *e) {
  uint64_t n = 0;
  for (uint32_t i = 0; i < NP_DROP_COUNT; i++) n += e->counters.drop[i];
  return n;
}

static void end_check(struct tp_end *e) {
  np_tcp_abort_all(e->tcp, e->tp->now_ns);
  assert_int_equal(np_tcp_conn_count(e->tcp), 0);
  for (struct tp_sess *s = e->sessions; s != NULL; s = s->next) {
    assert_null(s->base.stream);
  }
  uint64_t hold_ns = e->tp->hold_ns;
  e->tp->now_ns += hold_ns + 1;
  release(e);
  e->tp->now_ns -= hold_ns + 1;
  assert_int_equal(e->pool.free_count, e->pool.count);
  assert_int_equal(e->wheel.count, 0);
  assert_int_equal(e->injected, e->counters.counter[NP_C_DELIVERED_PKTS] + dropped(e));
  assert_int_equal(e->counters.counter[NP_C_TCP_CONNS], 0);
  assert_int_equal(e->counters.counter[NP_C_TCP_TIMEWAIT], 0);
}

static void end_free(struct tp_end *e) {
  while (e->sessions != NULL) {
    struct tp_sess *s = e->sessions;
    e->sessions = s->next;
    free(s);
  }
  free(e->tcp_mem);
  free(e->pool_mem);
  free(e->pool_stack);
}

void tp_free(struct tp *tp) {
  tp->cut = true;
  end_check(&tp->end[0]);
  end_check(&tp->end[1]);
  end_free(&tp->end[0]);
  end_free(&tp->end[1]);
  while (tp->frame_count > 0) free(heap_pop(tp).bytes);
  free(tp->heap);
  free(tp);
}

/* As a port does that receives into chains: payload behind the first rx_first bytes goes to
 * buffers of its own. What finds no buffer ends there, and so does the segment. */
static bool split(struct tp_end *e, struct np_pkt *pkt) {
  const struct tp *tp = e->tp;
  struct np_buf *b = pkt->buf;
  uint32_t keep = pkt->payload_off + tp->rx_first;
  if (tp->rx_piece == 0 || b->len <= keep || b->next != NULL) return true;
  uint32_t len = b->len;
  b->len = keep;
  struct np_buf *tail = b;
  for (uint32_t at = keep; at < len; at += tp->rx_piece) {
    struct np_buf *piece = np_pool_get_rx(&e->pool);
    if (piece == NULL) return false;
    uint32_t n = np_min_u32(tp->rx_piece, len - at);
    memcpy(np_buf_append(piece, n), np_buf_cdata(b) + at, n);
    tail->next = piece;
    tail = piece;
  }
  return true;
}

static void take_burst(struct tp_end *e) {
  uint32_t n = np_tcp_gro(e->tcp, e->burst, e->burst_count);
  np_tcp_burst(e->tcp, e->burst, n, e->tp->now_ns);
  e->burst_count = 0;
}

/* One frame into a stack, as the core does it. */
static void take_in(struct tp_end *e, const uint8_t *bytes, uint32_t len) {
  struct np_buf *b = np_pool_get_rx(&e->pool);
  if (b == NULL) return; /* the port would have had none to receive into */
  uint32_t first = np_min_u32(len, np_buf_tailroom(b));
  memcpy(np_buf_append(b, first), bytes, first);
  struct np_buf *tail = b;
  for (uint32_t at = first; at < len;) { /* a jumbo frame: of several buffers */
    struct np_buf *piece = np_pool_get_rx(&e->pool);
    if (piece == NULL) {
      np_buf_put_chain(b);
      return;
    }
    uint32_t n = np_min_u32(len - at, np_buf_tailroom(piece));
    memcpy(np_buf_append(piece, n), bytes + at, n);
    at += n;
    tail->next = piece;
    tail = piece;
  }
  struct np_pkt pkt;
  if (np_wire_parse(b, &pkt) != NP_WIRE_OK || pkt.l4_proto != NP_PROTO_TCP || !np_addr_eq(&pkt.flow.local, &e->addr)) {
    e->parse_drops++;
    np_buf_put_chain(b);
    return;
  }
  if (!split(e, &pkt)) {
    np_buf_put_chain(b);
    return;
  }
  e->injected++;
  if (e->tp->bursts) {
    e->burst[e->burst_count++] = pkt;
    if (e->burst_count == NP_COUNT_OF(e->burst)) take_burst(e);
    return;
  }
  if (e->injected % 2 == 0) np_tcp_burst(e->tcp, &pkt, 1, e->tp->now_ns);
  else np_tcp_input(e->tcp, &pkt, e->tp->now_ns);
}

void tp_flush(struct tp *tp) {
  for (uint32_t i = 0; i < 2; i++) {
    struct tp_end *e = &tp->end[i];
    release(e);
    for (uint32_t n = 0; n < 64 && np_tcp_flush(e->tcp, tp->now_ns); n++) {
    }
  }
}

/* A writer that found the pool empty tries again. */
static void poke(struct tp *tp) {
  for (uint32_t i = 0; i < 2; i++) {
    struct tp_sess *s = tp->end[i].last;
    if (s != NULL && s->base.stream != NULL && s->established && s->sent < s->to_send) fill(s);
  }
}

bool tp_run_until(struct tp *tp, uint64_t ns, bool (*done)(struct tp *tp, void *ctx), void *ctx) {
  uint64_t end_ns = tp->now_ns + ns;
  poke(tp);
  tp_flush(tp);
  for (;;) {
    if (done != NULL && done(tp, ctx)) return true;
    uint64_t next = tp->frame_count > 0 ? tp->heap[0].due_ns : UINT64_MAX;
    for (uint32_t i = 0; i < 2; i++) {
      next = np_min_u64(next, np_wheel_next_ns(&tp->end[i].wheel));
      if (tp->end[i].held_count > 0) next = np_min_u64(next, tp->end[i].held_until[tp->end[i].held_head]);
    }
    if (next > end_ns) break;
    tp->now_ns = np_max_u64(tp->now_ns, next);
    for (uint32_t n = 0; n < 64 && tp->frame_count > 0 && tp->heap[0].due_ns <= tp->now_ns; n++) {
      struct tp_frame f = heap_pop(tp);
      take_in(&tp->end[f.to], f.bytes, f.len);
      free(f.bytes);
    }
    for (uint32_t i = 0; i < 2; i++) take_burst(&tp->end[i]);
    for (uint32_t i = 0; i < 2; i++) np_wheel_advance(&tp->end[i].wheel, tp->now_ns, 1000000);
    poke(tp);
    tp_flush(tp);
  }
  tp->now_ns = end_ns;
  for (uint32_t i = 0; i < 2; i++) np_wheel_advance(&tp->end[i].wheel, tp->now_ns, 1000000);
  tp_flush(tp);
  return done != NULL && done(tp, ctx);
}

void tp_run(struct tp *tp, uint64_t ns) { tp_run_until(tp, ns, NULL, NULL); }

uint32_t tp_listen(struct tp *tp, uint32_t end, uint16_t port) {
  struct np_tcp_listen l = {.port = port, .cookies = true, .handle = 77};
  uint32_t id = 0;
  assert_int_equal(np_tcp_listen(tp->end[end].tcp, &l, &id), NP_ERR_OK);
  return id;
}

struct tp_sess *tp_connect(struct tp *tp, uint32_t end, uint16_t port, const struct tp_sess *like) {
  struct np_flow flow = {.remote = tp->end[1 - end].addr, .remote_port = port};
  struct tp_sess *s = tp_sess_new(&tp->end[end], like);
  struct np_stream *st = NULL;
  assert_int_equal(np_tcp_connect(tp->end[end].tcp, &flow, &s->base, tp->now_ns, &st), NP_ERR_OK);
  assert_ptr_equal(s->base.stream, st);
  return s;
}

void tp_establish(struct tp *tp, struct tp_sess **a, struct tp_sess **b) {
  tp_listen(tp, 1, TP_PORT);
  *a = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 20 * TP_MS + (tp->delay_ns > TP_MS ? 4 * tp->delay_ns : 0));
  assert_true((*a)->established);
  *b = tp->end[1].last;
  assert_non_null(*b);
}

struct np_tcp_conn *tp_conn(const struct tp_sess *s) { return np_tcp_of(s->base.stream); }

static uint32_t make_frame(uint8_t *frame, const struct tp_seg *seg, const void *data) {
  uint32_t hdr = 20 + seg->opt_bytes;
  uint32_t n = put_lower(frame, &seg->flow, hdr + seg->len, seg->tos);
  uint8_t *p = frame + n;
  np_store_be16(p, seg->flow.local_port);
  np_store_be16(p + 2, seg->flow.remote_port);
  np_store_be32(p + 4, seg->seq);
  np_store_be32(p + 8, seg->ack);
  p[12] = (uint8_t)(hdr / 4 << 4);
  p[13] = seg->flags;
  np_store_be16(p + 14, (uint16_t)seg->wnd);
  memcpy(p + 20, seg->opt, seg->opt_bytes);
  if (data != NULL) memcpy(p + hdr, data, seg->len);
  uint64_t sum = np_cksum_pseudo(&seg->flow.local, &seg->flow.remote, NP_PROTO_TCP, hdr + seg->len);
  np_store_16(p + 16, np_cksum_finish(np_cksum_add(sum, p, hdr + seg->len)));
  return n + hdr + seg->len;
}

void tp_inject(struct tp *tp, uint32_t to, const struct tp_seg *seg, const void *data) {
  uint8_t frame[2048] = {0};
  uint32_t len = make_frame(frame, seg, data);
  take_in(&tp->end[to], frame, len);
  if (tp->bursts) take_burst(&tp->end[to]);
}

void tp_packet(struct tp *tp, uint32_t to, const struct tp_seg *seg, const void *data, struct np_pkt *out) {
  uint8_t frame[2048] = {0};
  uint32_t len = make_frame(frame, seg, data);
  struct np_buf *b = np_pool_get_rx(&tp->end[to].pool);
  assert_non_null(b);
  memcpy(np_buf_append(b, len), frame, len);
  assert_int_equal(np_wire_parse(b, out), NP_WIRE_OK);
}

const struct tp_seg *tp_sent(const struct tp *tp, uint32_t end, uint32_t n) {
  const struct tp_end *e = &tp->end[end];
  assert_true(n < e->log_count);
  return &e->log[(e->log_count - 1 - n) % TP_LOG];
}

struct tp_seg tp_peer_seg(const struct tp_sess *s, uint8_t flags) {
  const struct np_tcp_conn *c = tp_conn(s);
  struct tp_seg g = {.seq = c->rcv_nxt.v, .ack = c->snd_nxt.v, .flags = flags};
  g.wnd = np_min_u32(c->snd_wnd >> c->snd_wscale, UINT16_MAX);
  g.flow.local = c->flow.remote;
  g.flow.remote = c->flow.local;
  g.flow.local_port = c->flow.remote_port;
  g.flow.remote_port = c->flow.local_port;
  if (c->flags & NP_TF_TS) g.opt_bytes = (uint8_t)np_tcp_opts_put_ts(g.opt, c->ts_recent, np_tcp_ts_now(s->end->tcp, c));
  return g;
}

uint64_t tp_drops(const struct tp *tp, uint32_t end, enum np_drop why) { return tp->end[end].counters.drop[why]; }
uint64_t tp_counter(const struct tp *tp, uint32_t end, enum np_counter which) { return tp->end[end].counters.counter[which]; }
