/* TCP under a hostile peer, and under one that is not: a listener, two connections opened by us and one
 * being opened, driven by steps that know where the windows are.
 *
 * Input: two bytes of configuration, then steps. A step is one byte: the low 4 bits say what, bit 7 that the
 * next one follows in the same burst (no flush between). Its arguments follow:
 *   0 segment near the windows: target, flags, seq and ack offsets (16 bits, signed), window, length, options, modifiers
 *   1 text in order, acknowledging what was sent up to a share of it     2 ACK of a share, with a window
 *   3 SACK: an ACK of snd_una with up to three blocks along the queue    4 text out of order
 *   5 time passes: 2^n us, or until the next timer                       6 the session writes
 *   7 the session shuts down, aborts, detaches, holds what it reads, takes what it held
 *   8 handshake: a SYN, or what answers the state the target is in        9 FIN or RST at rcv_nxt or near it
 *  10 ICMP error or path MTU about what is in flight                     11 buffers taken away or given back
 *  12 a burst of in-order segments through GRO                           13 another congestion control
 *  14 listener closed or opened, a connection opened                     15 window update, probe of zero windows
 *
 * Each byte of a stream is a function of its sequence number, whoever sends it: so what is handed up and what
 * leaves can be checked whatever was cut, joined, overlapped or sent again.
 * Checked: that; what test/sim/invariants.h says after each flush; of each segment that leaves its checksum,
 * its acknowledgment and that it lies within what was queued; every packet counted once; at the end a full
 * pool and an empty wheel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/invariants.h"

#define BUFS 256u
#define CONNS 8u
#define SESSIONS 64u
#define BURST 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct sess {
  struct np_session base;
  np_seq next; /* sequence number of the next byte handed up */
  bool hold, placed, eof;
  uint32_t unconsumed;
};

struct fuzz {
  struct np_tcp *tcp;
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_counters counters;
  struct sess sess[SESSIONS];
  uint32_t sess_count;
  uint64_t now_ns;
  uint64_t packets;
  uint32_t listener;
  uint32_t path_mtu;
  bool listening;
  struct np_flow listen_flow;
  struct np_buf *stolen[BUFS];
  uint32_t stolen_count;
  struct np_pkt burst[BURST];
  uint32_t burst_count;
  const uint8_t *data;
  size_t left;
};

static uint8_t byte_at(uint32_t seq) { return (uint8_t)(seq * 31u + (seq >> 8) * 7u + (seq >> 16)); }

static uint32_t take(struct fuzz *f, uint32_t bytes) {
  uint32_t v = 0;
  while (bytes-- > 0) {
    v <<= 8;
    if (f->left == 0) continue;
    v |= *f->data++;
    f->left--;
  }
  return v;
}

/* ---- what TCP asks of the world ---- */

static void check_sent(const struct fuzz *f, const struct np_buf *seg, const struct np_flow *flow) {
  const uint8_t *p = np_buf_cdata(seg);
  uint32_t len = seg->len;
  uint32_t hdr = (uint32_t)(p[12] >> 4) * 4;
  uint32_t seq = np_load_be32(p + 4);
  np_assert(seg->next == NULL || seg->refs > 1);
  np_assert(hdr >= 20 && hdr <= 60 && hdr <= len && len <= f->path_mtu - 20);
  np_assert(np_load_be16(p) == flow->local_port && np_load_be16(p + 2) == flow->remote_port);
  np_assert(np_cksum_fold(np_cksum_add(np_cksum_pseudo(&flow->local, &flow->remote, NP_PROTO_TCP, len), p, len)) == 0xffff);
  struct np_tcp_opts opts;
  np_assert(np_tcp_opts_parse(p + 20, hdr - 20, (p[13] & NP_TCP_SYN) != 0, &opts));
  for (uint32_t i = 0; i < len - hdr; i++) np_assert(p[hdr + i] == byte_at(seq + i));
  struct np_tcp_conn *c = np_tcp_find(f->tcp, flow, np_tcp_flow_hash(f->tcp, flow));
  if (c == NULL || (p[13] & NP_TCP_RST) || c->state == NP_TCP_SYN_SENT) return;
  if ((p[13] & NP_TCP_SYN) && c->state != NP_TCP_SYN_RECEIVED) return; /* a cookie for a SYN like an old one's */
  if (!(p[13] & NP_TCP_SYN) || (p[13] & NP_TCP_ACK)) np_assert(np_load_be32(p + 8) == c->rcv_nxt.v);
  if (len > hdr) np_assert(np_seq_le(np_seq_of(seq + len - hdr), c->snd_end) && np_seq_ge(np_seq_of(seq), c->iss));
  if (p[13] & NP_TCP_FIN) np_assert(seq + len - hdr == c->snd_end.v);
}

static void out(void *ctx, struct np_buf *seg, const struct np_flow *flow, uint8_t tos, struct np_tcp_path *path, uint64_t now_ns) {
  (void)tos;
  (void)path;
  (void)now_ns;
  check_sent(ctx, seg, flow);
  np_buf_push(seg, 54);
  np_buf_put(seg);
}
static uint32_t mtu(void *ctx, const struct np_addr *remote) {
  (void)remote;
  return ((const struct fuzz *)ctx)->path_mtu;
}
static enum np_err source(void *ctx, const struct np_addr *remote, struct np_addr *addr) {
  (void)ctx;
  *addr = *remote;
  return NP_ERR_OK;
}
static void confirm(void *ctx, struct np_tcp_path *path, uint64_t now_ns) {
  (void)ctx;
  (void)path;
  (void)now_ns;
}

static void on_data(struct np_session *base, struct np_buf *chain, uint32_t bytes) {
  struct sess *s = (struct sess *)base;
  np_assert(np_buf_chain_len(chain) == bytes && bytes > 0 && !s->eof);
  if (!s->placed) s->next = np_seq_add(np_tcp_of(base->stream)->irs, 1);
  s->placed = true;
  for (const struct np_buf *b = chain; b != NULL; b = b->next) {
    for (uint32_t i = 0; i < b->len; i++) np_assert(np_buf_cdata(b)[i] == byte_at(s->next.v + i));
    s->next = np_seq_add(s->next, b->len);
  }
  np_buf_put_chain(chain);
  if (s->hold) {
    s->unconsumed += bytes;
  } else {
    base->stream->ops->consumed(base->stream, bytes);
  }
}
static void on_nothing(struct np_session *base) { (void)base; }
static void on_eof(struct np_session *base) {
  struct sess *s = (struct sess *)base;
  np_assert(!s->eof);
  s->eof = true;
}
static void on_closed(struct np_session *base, enum np_err err) {
  np_assert(err == NP_ERR_EOF || err == NP_ERR_ABORTED || base->stream != NULL);
  base->stream = NULL;
}
static const struct np_session_ops ops = {on_data, on_nothing, on_eof, on_closed, NULL};

static struct np_session *session(struct fuzz *f) {
  if (f->sess_count == SESSIONS) return NULL;
  struct sess *s = &f->sess[f->sess_count++];
  s->base.ops = &ops;
  return &s->base;
}

static struct np_session *on_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns) {
  (void)listener_ctx;
  (void)now_ns;
  struct np_session *s = session(ctx);
  if (s != NULL) s->stream = stream;
  return s;
}

/* ---- the peer ---- */

static void deliver(struct fuzz *f) {
  uint32_t n = np_tcp_gro(f->tcp, f->burst, f->burst_count);
  np_tcp_burst(f->tcp, f->burst, n, f->now_ns);
  f->burst_count = 0;
}

static void flush(struct fuzz *f) {
  deliver(f);
  for (uint32_t i = 0; i < 8 && np_tcp_flush(f->tcp, f->now_ns); i++) {
  }
  uint32_t slot;
  const char *wrong = np_inv_tcp(f->tcp, &slot);
  if (wrong != NULL) fprintf(stderr, "connection %u: %s\n", slot, wrong);
  np_assert(wrong == NULL);
}

/* A segment from the peer. mods: low 2 bits the ECN field, bits 2 and 3 ECE and CWR. */
struct sent {
  uint32_t seq, ack, wnd, len;
  uint8_t flags, mods;
  uint8_t opt[40];
  uint32_t opt_bytes;
};

static void input(struct fuzz *f, const struct np_flow *flow, const struct sent *g) {
  struct np_buf *b = np_pool_get(&f->pool);
  if (b == NULL) return;
  uint32_t hdr = 20 + g->opt_bytes;
  uint8_t flags = (uint8_t)(g->flags | (g->mods & 4 ? NP_TCP_ECE : 0) | (g->mods & 8 ? NP_TCP_CWR : 0));
  uint8_t *p = np_buf_append(b, 54 + hdr + g->len) + 54;
  memset(p, 0, hdr);
  np_store_be16(p, flow->remote_port);
  np_store_be16(p + 2, flow->local_port);
  np_store_be32(p + 4, g->seq);
  np_store_be32(p + 8, g->ack);
  p[12] = (uint8_t)(hdr / 4 << 4);
  p[13] = flags;
  np_store_be16(p + 14, (uint16_t)g->wnd);
  memcpy(p + 20, g->opt, g->opt_bytes);
  uint32_t first = g->seq + (g->flags & NP_TCP_SYN ? 1u : 0u);
  for (uint32_t i = 0; i < g->len; i++) p[hdr + i] = byte_at(first + i);
  struct np_pkt pkt = {.buf = b, .flow = *flow, .l4_proto = NP_PROTO_TCP, .l3_off = 14, .l4_off = 54, .tos = g->mods & 3};
  pkt.payload_off = (uint16_t)(54 + hdr);
  pkt.l4_len = (uint16_t)(hdr + g->len);
  pkt.tcp_flags = flags;
  b->frame_off = (uint16_t)b->data_off;
  b->frame_len = (uint16_t)b->len;
  f->packets++;
  f->burst[f->burst_count++] = pkt;
  if (f->burst_count == BURST) deliver(f);
}

static struct np_tcp_conn *target(struct fuzz *f) {
  struct np_tcp_conn *c = np_tcp_at(f->tcp, take(f, 1) % CONNS);
  return c->state == NP_TCP_CLOSED ? NULL : c;
}

/* What a well-behaved peer of c would put into any segment. */
static struct sent from_peer(struct fuzz *f, const struct np_tcp_conn *c) {
  struct sent g = {.seq = c->rcv_nxt.v, .ack = c->snd_una.v, .wnd = np_min_u32(c->snd_wnd >> c->snd_wscale, UINT16_MAX), .flags = NP_TCP_ACK};
  if (c->flags & NP_TF_TS) g.opt_bytes = np_tcp_opts_put_ts(g.opt, c->ts_recent + 1, np_tcp_ts_now(f->tcp, c));
  return g;
}

static uint32_t share_of_flight(struct fuzz *f, const struct np_tcp_conn *c) {
  return (uint32_t)((uint64_t)np_tcp_flight(c) * take(f, 1) / 255u);
}

static uint32_t fitting(const struct sent *g, uint32_t len) {
  return np_min_u32(len, 2048 - NP_BUF_DATA_OFF - 54 - 20 - g->opt_bytes);
}

static void step_segment(struct fuzz *f) {
  uint32_t who = take(f, 1);
  struct sent g = {.flags = (uint8_t)take(f, 1)};
  g.seq = (uint32_t)(int32_t)(int16_t)take(f, 2);
  g.ack = (uint32_t)(int32_t)(int16_t)take(f, 2);
  g.wnd = take(f, 2);
  uint32_t len = take(f, 2) % 1461;
  uint32_t how = take(f, 1);
  g.mods = (uint8_t)((uint32_t)g.flags >> 6 << 2 | (how & 3));
  g.flags &= 0x3f;
  struct np_tcp_conn *c = np_tcp_at(f->tcp, who % CONNS);
  struct np_flow flow = f->listen_flow;
  if (c->state != NP_TCP_CLOSED && who < 192) {
    flow = c->flow;
    g.seq += c->rcv_nxt.v;
    g.ack += c->snd_nxt.v;
    if ((c->flags & NP_TF_TS) && how < 224) g.opt_bytes = np_tcp_opts_put_ts(g.opt, c->ts_recent + (how & 1), np_tcp_ts_now(f->tcp, c));
  } else {
    flow.remote_port = (uint16_t)(1 + who % 16);
    if (how < 128) g.opt_bytes = np_tcp_opts_put_ts(g.opt, take(f, 4), take(f, 4));
  }
  if (how >= 224) { /* anything at all */
    g.opt_bytes = how % 11 * 4;
    for (uint32_t i = 0; i < g.opt_bytes; i++) g.opt[i] = (uint8_t)take(f, 1);
  }
  g.len = fitting(&g, len);
  input(f, &flow, &g);
}

static void step_text(struct fuzz *f, bool in_order) {
  struct np_tcp_conn *c = target(f);
  if (c == NULL) return;
  struct sent g = from_peer(f, c);
  g.ack += share_of_flight(f, c);
  g.len = fitting(&g, take(f, 2) % 1461);
  g.mods = (uint8_t)take(f, 1) & 15;
  if (!in_order) g.seq += 1 + take(f, 2) % 8192;
  g.flags |= NP_TCP_PSH;
  input(f, &c->flow, &g);
}

static void step_ack(struct fuzz *f, bool window_only) {
  struct np_tcp_conn *c = target(f);
  if (c == NULL) return;
  struct sent g = from_peer(f, c);
  if (!window_only) g.ack += share_of_flight(f, c);
  uint32_t how = take(f, 1);
  g.mods = (uint8_t)(how & 12);
  g.wnd = window_only ? take(f, 2) : how & 1 ? g.wnd : UINT16_MAX;
  if (window_only && (how & 2)) g.wnd = how & 1; /* closed, or all but */
  input(f, &c->flow, &g);
}

static void step_sack(struct fuzz *f) {
  struct np_tcp_conn *c = target(f);
  if (c == NULL) return;
  struct sent g = from_peer(f, c);
  struct np_tcp_block blocks[3];
  struct np_tcp_block dsack = {{0}, {0}};
  uint32_t how = take(f, 1);
  uint32_t n = 1 + how % 3;
  uint32_t at = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t skip = take(f, 1);
    uint32_t most = take(f, 1);
    struct np_buf *b = c->sndq_head; /* along the edges of segments, as a receiver's would be */
    for (uint32_t k = 0; b != NULL && np_txnext(b) != NULL && k < at + skip % 16; k++) b = np_txnext(b);
    at += skip % 16 + 1;
    blocks[i].start = b != NULL ? np_txseg(b)->seq : np_seq_add(c->snd_una, skip);
    for (uint32_t k = 0; b != NULL && np_txnext(b) != NULL && k < most % 8; k++, at++) b = np_txnext(b);
    blocks[i].end = b != NULL ? np_txend(b) : np_seq_add(blocks[i].start, most);
    if (how & 64) blocks[i].end = np_seq_add(blocks[i].end, most); /* a liar's */
  }
  if (how & 32) dsack = (struct np_tcp_block){np_seq_sub(c->snd_una, 1 + take(f, 2)), c->snd_una};
  g.opt_bytes += np_tcp_opts_put_sack(g.opt + g.opt_bytes, &dsack, blocks, n, 40 - g.opt_bytes);
  g.mods = (uint8_t)(how >> 4 & 4);
  input(f, &c->flow, &g);
}

static void step_time(struct fuzz *f) {
  uint32_t how = take(f, 1);
  uint64_t next = np_wheel_next_ns(&f->wheel);
  deliver(f);
  if (how < 128 || next == UINT64_MAX) f->now_ns += UINT64_C(1000) << (how % 28);
  else f->now_ns = np_max_u64(next, f->now_ns);
  np_wheel_advance(&f->wheel, f->now_ns, 1000);
}

static void step_session(struct fuzz *f, bool write) {
  struct sess *s = &f->sess[take(f, 1) % SESSIONS];
  struct np_stream *st = s->base.stream;
  uint32_t arg = take(f, 1);
  if (st == NULL) return;
  struct np_tcp_conn *c = np_tcp_of(st);
  if (write) {
    for (uint32_t k = 0; k < 1 + (arg >> 5); k++) {
      uint32_t n = np_min_u32(1 + (arg & 31) * 50, st->seg_bytes);
      struct np_buf *b = st->ops->room(st) >= n ? np_pool_get(&f->pool) : NULL;
      if (b == NULL) return;
      uint8_t *p = np_buf_append(b, n);
      for (uint32_t i = 0; i < n; i++) p[i] = byte_at(c->snd_end.v + i);
      st->ops->send(st, b, arg & 1 ? NP_SEND_MORE : 0);
    }
    return;
  }
  switch (arg % 6) {
    case 0: st->ops->shutdown(st); return;
    case 1: st->ops->abort(st); return;
    case 2: st->ops->detach(st); return;
    case 3:
      st->ops->consumed(st, s->unconsumed);
      s->unconsumed = 0;
      return;
    default: s->hold = !s->hold;
  }
}

static uint32_t syn_options(struct fuzz *f, uint8_t *opt, uint32_t how) {
  uint32_t n = np_tcp_opts_put_mss(opt, (uint16_t)(how & 1 ? 1460 : 200 + how * 8));
  if (how & 2) n += np_tcp_opts_put_sack_ok(opt + n);
  if (how & 4) n += np_tcp_opts_put_wscale(opt + n, (uint8_t)(how >> 4));
  if (how & 8) n += np_tcp_opts_put_ts(opt + n, 1000 + (uint32_t)(f->now_ns / 1000000u), 0);
  return n;
}

static void step_handshake(struct fuzz *f) {
  struct np_tcp_conn *c = target(f);
  uint32_t how = take(f, 1);
  struct sent g = {.wnd = 65535, .mods = (uint8_t)(how >> 6 << 2)};
  if (c == NULL || (c->state != NP_TCP_SYN_SENT && c->state != NP_TCP_SYN_RECEIVED)) {
    struct np_flow flow = f->listen_flow;
    flow.remote_port = (uint16_t)(1 + how % 32);
    g.seq = 0xffffff00u + how * 977u;
    g.flags = NP_TCP_SYN;
    g.opt_bytes = syn_options(f, g.opt, how);
    input(f, &flow, &g);
    return;
  }
  if (c->state == NP_TCP_SYN_RECEIVED) {
    g = from_peer(f, c);
    g.ack = c->snd_nxt.v;
    g.wnd = 32768;
    if (how & 1) g.len = fitting(&g, how * 4);
  } else {
    g.seq = 0xffffff80u;
    g.ack = c->snd_nxt.v;
    g.flags = how & 16 ? NP_TCP_SYN : NP_TCP_SYN | NP_TCP_ACK;
    g.opt_bytes = syn_options(f, g.opt, how);
    if ((how & 8) && g.opt_bytes >= 8) np_store_be32(g.opt + g.opt_bytes - 4, np_tcp_ts_now(f->tcp, c));
  }
  input(f, &c->flow, &g);
}

static void step_end(struct fuzz *f) {
  struct np_tcp_conn *c = target(f);
  if (c == NULL) return;
  uint32_t how = take(f, 1);
  struct sent g = from_peer(f, c);
  g.ack += share_of_flight(f, c);
  g.flags |= how & 1 ? NP_TCP_RST : NP_TCP_FIN;
  if (how & 2) g.seq += take(f, 1);
  if (!(how & 1) && (how & 4)) g.len = fitting(&g, take(f, 2) % 1461);
  input(f, &c->flow, &g);
}

static void step_icmp(struct fuzz *f) {
  struct np_tcp_conn *c = target(f);
  if (c == NULL) return;
  deliver(f);
  if (c->state == NP_TCP_CLOSED) return;
  uint32_t how = take(f, 1);
  uint32_t seq = c->snd_una.v + (how & 1 ? share_of_flight(f, c) : 0);
  uint32_t size = how & 2 ? 500 + take(f, 2) % 1100 : 0;
  np_tcp_error(f->tcp, &c->flow, seq, size != 0 ? NP_ERR_LIMIT : NP_ERR_UNREACHABLE, (how & 4) != 0 || size != 0, size);
}

static void step_buffers(struct fuzz *f) {
  uint32_t leave = take(f, 1) % BUFS;
  while (f->stolen_count > 0) np_buf_put(f->stolen[--f->stolen_count]);
  if (leave & 1) return;
  while (f->pool.free_count > leave) f->stolen[f->stolen_count++] = np_pool_get(&f->pool);
}

static void step_burst(struct fuzz *f) {
  struct np_tcp_conn *c = target(f);
  if (c == NULL) return;
  uint32_t n = 2 + take(f, 1) % (BURST - 2);
  uint32_t len = 1 + take(f, 2) % 1400;
  uint32_t odd = take(f, 1);
  deliver(f);
  if (c->state == NP_TCP_CLOSED) return;
  struct sent g = from_peer(f, c);
  struct np_flow flow = c->flow;
  uint32_t flight = np_tcp_flight(c);
  for (uint32_t i = 0; i < n; i++) {
    g.len = fitting(&g, len);
    g.ack = c->snd_una.v + flight * i / n;
    g.flags = (uint8_t)(NP_TCP_ACK | (i == n - 1 ? NP_TCP_PSH : 0));
    g.mods = odd % n == i ? (uint8_t)(odd >> 4) : 0;
    if (odd % n == i && (odd & 128)) g.len = fitting(&g, len / 2 + 1);
    input(f, &flow, &g);
    g.seq += g.len;
  }
}

static void listen_again(struct fuzz *f, uint32_t how) {
  struct np_tcp_listen l = {.port = 80, .cookies = (how & 1) != 0, .conns_max = how & 2 ? 2 : 0};
  if (f->listening) np_assert(np_tcp_unlisten(f->tcp, f->listener) == NP_ERR_OK);
  f->listening = !f->listening && np_tcp_listen(f->tcp, &l, &f->listener) == NP_ERR_OK;
}

static void step_open(struct fuzz *f) {
  uint32_t how = take(f, 1);
  deliver(f);
  if (how < 64) {
    listen_again(f, how);
    return;
  }
  struct np_session *s = session(f);
  struct np_stream *st;
  if (s == NULL) return;
  struct np_flow flow = {.local = f->listen_flow.local, .remote = f->listen_flow.remote, .remote_port = (uint16_t)(1 + how % 32)};
  if (how & 32) flow.local_port = (uint16_t)(100 + how % 8);
  if (np_tcp_connect(f->tcp, &flow, s, f->now_ns, &st) == NP_ERR_OK) s->stream = st;
}

static void step_cc(struct fuzz *f) {
  struct np_tcp_conn *c = target(f);
  uint32_t which = take(f, 1) % NP_CC_COUNT;
  if (c != NULL) np_tcp_set_cc(f->tcp, c->stream.handle, which);
}

/* ---- a run ---- */

static void set_up(struct fuzz *f, uint8_t how, uint8_t more) {
  struct np_tcp_config config;
  np_tcp_config_default(&config);
  config.conns_max = CONNS;
  config.backlog_default = 3;
  config.rcv_buf_bytes = how & 1 ? 16384 : 262144;
  config.snd_buf_bytes = 65536;
  config.nagle = (how & 2) != 0;
  config.sack = (how & 4) == 0;
  config.timestamps = (how & 8) == 0;
  config.window_scaling = (how & 16) == 0;
  config.gro = (how & 32) == 0;
  config.autotune = (how & 64) == 0;
  config.keepalive_idle_ms = 10000;
  config.congestion_control = (uint8_t)(more % NP_CC_COUNT);
  config.ecn = (uint8_t)(more / 4 % NP_ECN_MODE_COUNT);
  config.pacing = (uint8_t)(more / 16 % NP_PACING_COUNT);
  config.mtu_probing = (uint8_t)(more / 64 % NP_MTU_PROBING_COUNT);
  f->path_mtu = 1500;
  struct np_tcp_env env = {.pool = &f->pool, .wheel = &f->wheel, .counters = &f->counters, .output = out, .mtu = mtu,
                           .source = source, .confirm = confirm, .accept = on_accept, .ctx = f};
  np_wheel_init(&f->wheel, f->now_ns);
  f->tcp = np_tcp_init(aligned_alloc(64, (np_tcp_bytes(&config) + 63) & ~(size_t)63), &config, &env, f->now_ns);
  listen_again(f, 1);
  const uint8_t a[4] = {198, 18, 0, 1};
  const uint8_t b[4] = {198, 18, 0, 2};
  f->listen_flow = (struct np_flow){.local = np_addr_from_v4_be(a), .remote = np_addr_from_v4_be(b), .local_port = 80};
  struct np_stream *st;
  for (uint16_t port = 1; port <= 3; port++) {
    struct np_flow flow = {.local = f->listen_flow.local, .remote = f->listen_flow.remote, .local_port = 100, .remote_port = port};
    np_assert(np_tcp_connect(f->tcp, &flow, session(f), f->now_ns, &st) == NP_ERR_OK);
    if (port == 3) break; /* stays in SYN-SENT */
    struct sent g = {.seq = 0xfffffff0u * port, .wnd = 65535, .flags = NP_TCP_SYN | NP_TCP_ACK, .mods = 4};
    g.opt_bytes = syn_options(f, g.opt, 0x7f);
    flush(f);
    g.ack = np_tcp_of(st)->snd_nxt.v;
    np_store_be32(g.opt + g.opt_bytes - 4, np_tcp_ts_now(f->tcp, np_tcp_of(st)));
    input(f, &flow, &g);
    flush(f);
  }
}

static void step(struct fuzz *f) {
  uint32_t what = take(f, 1);
  switch (what & 15) {
    case 0: step_segment(f); break;
    case 1: step_text(f, true); break;
    case 2: step_ack(f, false); break;
    case 3: step_sack(f); break;
    case 4: step_text(f, false); break;
    case 5: step_time(f); break;
    case 6: step_session(f, true); break;
    case 7: step_session(f, false); break;
    case 8: step_handshake(f); break;
    case 9: step_end(f); break;
    case 10: step_icmp(f); break;
    case 11: step_buffers(f); break;
    case 12: step_burst(f); break;
    case 13: step_cc(f); break;
    case 14: step_open(f); break;
    default: step_ack(f, true); break;
  }
  if (!(what & 0x80)) flush(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 3 || size > 4096) return 0;
  struct fuzz *f = calloc(1, sizeof *f);
  void *mem = aligned_alloc(2048, BUFS * 2048);
  void *stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&f->pool, mem, BUFS, 2048, stack, &f->counters);
  f->now_ns = NP_TCP_NS_PER_S;
  f->data = data + 2;
  f->left = size - 2;
  set_up(f, data[0], data[1]);
  while (f->left > 0) step(f);
  flush(f);
  while (f->stolen_count > 0) np_buf_put(f->stolen[--f->stolen_count]);
  np_tcp_abort_all(f->tcp, f->now_ns);
  np_assert(np_tcp_conn_count(f->tcp) == 0 && f->pool.free_count == BUFS && f->wheel.count == 0);
  uint64_t sum = f->counters.counter[NP_C_DELIVERED_PKTS];
  for (uint32_t i = 0; i < NP_DROP_COUNT; i++) sum += f->counters.drop[i];
  np_assert(sum == f->packets);
  free(f->tcp);
  free(mem);
  free(stack);
  free(f);
  return 0;
}
