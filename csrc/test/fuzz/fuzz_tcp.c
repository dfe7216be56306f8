/* TCP under a hostile peer: two live connections, a listener and a connection being
 * opened, fed with segments whose sequence numbers lie near the windows.
 *
 * Input: steps. Each begins with a byte whose low 3 bits say what happens:
 *   0..4  a segment: target, flags, seq and ack offsets (16 bits each, signed, about
 *         rcv_nxt and snd_nxt), window, payload length, option bytes and the options
 *   5     time passes (one byte: 2^n microseconds)
 *   6     the session writes
 *   7     the session shuts down, aborts, detaches, or holds back what it reads
 * Checked: what test/sim/invariants.h says after each flush, every packet counted once, and at the end a full pool and an empty wheel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/invariants.h"

#define BUFS 256u
#define CONNS 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct sess {
  struct np_session base;
  bool hold;
  uint32_t unconsumed;
};

struct fuzz {
  struct np_tcp *tcp;
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_counters counters;
  struct sess sess[64];
  uint32_t sess_count;
  uint64_t now_ns;
  uint64_t packets;
  struct np_flow listen_flow;
  const uint8_t *data;
  size_t left;
};

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

static void out(void *ctx, struct np_buf *seg, const struct np_flow *flow, uint8_t tos, struct np_tcp_path *path, uint64_t now_ns) {
  (void)ctx;
  (void)flow;
  (void)tos;
  (void)path;
  (void)now_ns;
  np_assert(seg->len >= 20 && seg->len <= 1480);
  np_buf_push(seg, 54);
  np_buf_put(seg);
}
static uint32_t mtu(void *ctx, const struct np_addr *remote) {
  (void)ctx;
  (void)remote;
  return 1500;
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
  np_assert(np_buf_chain_len(chain) == bytes);
  np_buf_put_chain(chain);
  if (s->hold) {
    s->unconsumed += bytes;
  } else {
    base->stream->ops->consumed(base->stream, bytes);
  }
}
static void on_nothing(struct np_session *base) { (void)base; }
static void on_closed(struct np_session *base, enum np_err err) {
  (void)err;
  base->stream = NULL;
}
static const struct np_session_ops ops = {on_data, on_nothing, on_nothing, on_closed, NULL};

static struct np_session *session(struct fuzz *f) {
  if (f->sess_count == NP_COUNT_OF(f->sess)) return NULL;
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

static void flush(struct fuzz *f) {
  for (uint32_t i = 0; i < 8 && np_tcp_flush(f->tcp, f->now_ns); i++) {
  }
  uint32_t slot;
  const char *wrong = np_inv_tcp(f->tcp, &slot);
  if (wrong != NULL) fprintf(stderr, "connection %u: %s\n", slot, wrong);
  np_assert(wrong == NULL);
}

static void input(struct fuzz *f, const struct np_flow *flow, uint32_t seq, uint32_t ack, uint8_t flags, uint32_t wnd,
                  uint32_t len, const uint8_t *opt, uint32_t opt_bytes) {
  struct np_buf *b = np_pool_get(&f->pool);
  if (b == NULL) return;
  uint32_t hdr = 20 + opt_bytes;
  uint8_t *p = np_buf_append(b, 54 + hdr + len) + 54;
  memset(p, 0, hdr + len);
  np_store_be32(p + 4, seq);
  np_store_be32(p + 8, ack);
  np_store_be16(p + 14, (uint16_t)wnd);
  memcpy(p + 20, opt, opt_bytes);
  struct np_pkt pkt = {.buf = b, .flow = *flow, .l4_proto = NP_PROTO_TCP, .l4_off = 54};
  pkt.payload_off = (uint16_t)(54 + hdr);
  pkt.l4_len = (uint16_t)(hdr + len);
  pkt.tcp_flags = flags;
  f->packets++;
  np_tcp_input(f->tcp, &pkt, f->now_ns);
}

static void step_segment(struct fuzz *f) {
  uint32_t target = take(f, 1);
  uint8_t flags = (uint8_t)take(f, 1);
  int32_t seq_off = (int16_t)take(f, 2);
  int32_t ack_off = (int16_t)take(f, 2);
  uint32_t wnd = take(f, 2);
  uint32_t len = take(f, 2) % 1461;
  uint32_t how = take(f, 1);
  uint8_t opt[40] = {0};
  uint32_t opt_bytes = 0;
  struct np_tcp_conn *c = np_tcp_at(f->tcp, target % CONNS);
  struct np_flow flow = f->listen_flow;
  uint32_t seq = (uint32_t)seq_off;
  uint32_t ack = (uint32_t)ack_off;
  if (c->state != NP_TCP_CLOSED && target < 192) {
    flow = c->flow;
    seq += c->rcv_nxt.v;
    ack += c->snd_nxt.v;
    if ((c->flags & NP_TF_TS) && how < 224) opt_bytes = np_tcp_opts_put_ts(opt, c->ts_recent + (how & 1), np_tcp_ts_now(f->tcp, c));
    if ((how & 6) == 6 && how < 224) {
      struct np_tcp_block none = {{0}, {0}};
      struct np_tcp_block k[2];
      for (uint32_t i = 0; i < 2; i++) {
        k[i].start = np_seq_add(c->snd_una, take(f, 2));
        k[i].end = np_seq_add(k[i].start, take(f, 2));
      }
      opt_bytes += np_tcp_opts_put_sack(opt + opt_bytes, &none, k, 2, 28);
    }
  } else {
    flow.remote_port = (uint16_t)(1 + target % 16);
    if (how < 128) opt_bytes = np_tcp_opts_put_ts(opt, take(f, 4), take(f, 4));
  }
  if (how >= 224) { /* anything at all */
    opt_bytes = how % 11 * 4;
    for (uint32_t i = 0; i < opt_bytes; i++) opt[i] = (uint8_t)take(f, 1);
  }
  if (54 + 20 + opt_bytes + len > 2048 - NP_BUF_DATA_OFF) len = 0;
  input(f, &flow, seq, ack, flags, wnd, len, opt, opt_bytes);
}

static void step_session(struct fuzz *f, uint32_t what) {
  struct sess *s = &f->sess[take(f, 1) % NP_COUNT_OF(f->sess)];
  struct np_stream *st = s->base.stream;
  if (st == NULL) return;
  uint32_t arg = take(f, 1);
  if (what == 6) {
    uint32_t n = 1 + arg * 6;
    struct np_buf *b = st->ops->room(st) >= n ? np_pool_get(&f->pool) : NULL;
    if (b == NULL) return;
    memset(np_buf_append(b, n), 7, n);
    st->ops->send(st, b, arg & 1 ? NP_SEND_MORE : 0);
    return;
  }
  switch (arg % 6) {
    case 0:
      st->ops->shutdown(st);
      return;
    case 1:
      st->ops->abort(st);
      return;
    case 2:
      st->ops->detach(st);
      return;
    case 3:
      st->ops->consumed(st, s->unconsumed);
      s->unconsumed = 0;
      return;
    default:
      s->hold = !s->hold;
  }
}

static void set_up(struct fuzz *f, uint8_t how) {
  struct np_tcp_config config;
  np_tcp_config_default(&config);
  config.conns_max = CONNS;
  config.backlog_default = 3;
  config.rcv_buf_bytes = how & 1 ? 16384 : 262144;
  config.snd_buf_bytes = 65536;
  config.nagle = (how & 2) != 0;
  config.sack = (how & 4) == 0;
  config.keepalive_idle_ms = 10000;
  struct np_tcp_env env = {.pool = &f->pool, .wheel = &f->wheel, .counters = &f->counters, .output = out, .mtu = mtu,
                           .source = source, .confirm = confirm, .accept = on_accept, .ctx = f};
  np_wheel_init(&f->wheel, f->now_ns);
  f->tcp = np_tcp_init(aligned_alloc(64, (np_tcp_bytes(&config) + 63) & ~(size_t)63), &config, &env, f->now_ns);
  struct np_tcp_listen l = {.port = 80, .cookies = true};
  uint32_t id;
  np_assert(np_tcp_listen(f->tcp, &l, &id) == NP_ERR_OK);
  uint8_t a[4] = {198, 18, 0, 1};
  uint8_t b[4] = {198, 18, 0, 2};
  f->listen_flow = (struct np_flow){.local = np_addr_from_v4_be(a), .remote = np_addr_from_v4_be(b), .local_port = 80};
  struct np_stream *st;
  for (uint16_t port = 1; port <= 3; port++) {
    struct np_flow flow = {.local = f->listen_flow.local, .remote = f->listen_flow.remote, .local_port = 100, .remote_port = port};
    np_assert(np_tcp_connect(f->tcp, &flow, session(f), f->now_ns, &st) == NP_ERR_OK);
    if (port == 3) break; /* stays in SYN-SENT */
    uint8_t opt[40] = {2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7};
    uint32_t n = 12;
    if (how & 8) n += np_tcp_opts_put_ts(opt + n, 1000, 0);
    flush(f);
    input(f, &flow, 0xfffffff0u * port, np_tcp_of(st)->snd_nxt.v, NP_TCP_SYN | NP_TCP_ACK, 65535, 0, opt, n);
    flush(f);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  struct fuzz *f = calloc(1, sizeof *f);
  void *mem = aligned_alloc(2048, BUFS * 2048);
  void *stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&f->pool, mem, BUFS, 2048, stack, &f->counters);
  f->now_ns = NP_TCP_NS_PER_S;
  f->data = data + 1;
  f->left = size - 1;
  set_up(f, data[0]);
  while (f->left > 0) {
    uint32_t what = take(f, 1);
    if ((what & 7) <= 4) {
      step_segment(f);
    } else if ((what & 7) == 5) {
      f->now_ns += UINT64_C(1000) << (take(f, 1) % 26);
      np_wheel_advance(&f->wheel, f->now_ns, 1000);
    } else {
      step_session(f, what & 7);
    }
    if (what & 0x80) continue; /* several in one burst */
    flush(f);
  }
  flush(f);
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
