/* Connections: memory, life and death, and the one setter of their state. */
#include "tcp/cc.h"

static size_t round_line(size_t n) { return (n + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1); }

void np_tcp_config_default(struct np_tcp_config *config) {
  *config = (struct np_tcp_config){
      .conns_max = 4096,
      .listeners_max = 64,
      .rcv_buf_bytes = 4096 * 1024,
      .rcv_start_bytes = NP_TCP_BUF_START,
      .snd_buf_bytes = 4096 * 1024,
      .ooo_segs_max = 512,
      .backlog_default = 1024,
      .rto_ms_min = 200,
      .rto_ms_max = 60000,
      .delack_ms = 40,
      .quick_acks = 16,
      .keepalive_idle_ms = 0,
      .keepalive_interval_ms = 75000,
      .keepalive_probes = 9,
      .user_timeout_ms = 120000,
      .persist_ms = 0,
      .challenge_per_s = 1000,
      .reset_per_s = 10000,
      .conns_per_source = 0,
      .min_snd_mss = 216,
      .mem_pressure_pct = 50,
      .mem_max_pct = 75,
      .ooo_runs_max = 128,
      .timewait_ms = 60000,
      .syn_retries = 7,
      .synack_retries = 5,
      .sack = true,
      .timestamps = true,
      .window_scaling = true,
      .gro = true,
      .autotune = true,
  };
}

/* np_tcp comes right before its connections, so that a connection finds it by
 * its own slot and needs no pointer. */
#define HEAD_BYTES round_line(sizeof(struct np_tcp))

struct np_tcp *np_tcp_owner(const struct np_tcp_conn *c) {
  size_t slot = (size_t)(c->stream.handle & ((1u << NP_HANDLE_SLOT_BITS) - 1));
  const uint8_t *p = (const uint8_t *)c - slot * NP_TCP_CONN_BYTES - HEAD_BYTES;
  return (struct np_tcp *)(uintptr_t)p;
}

size_t np_tcp_bytes(const struct np_tcp_config *config) {
  return HEAD_BYTES + (size_t)config->conns_max * NP_TCP_CONN_BYTES +
         (size_t)np_tcp_table_buckets(config->conns_max) * sizeof(struct np_tcp_bucket) +
         round_line((size_t)config->listeners_max * sizeof(struct np_tcp_listener)) +
         (size_t)np_tcp_guard_width(config) * NP_TCP_GUARD_ROWS * sizeof(uint32_t);
}

/* Keys for separate uses from one secret: SipHash as a key derivation. */
static void derive_keys(struct np_tcp *tcp) {
  const uint8_t *secret = tcp->config.secret;
  for (uint8_t i = 0; i < 6; i++) {
    uint8_t in[17];
    memcpy(in, secret + 16, 16);
    in[16] = i;
    uint64_t k = np_siphash(secret, in, sizeof in);
    uint8_t *out = i < 2 ? (uint8_t *)tcp->flow_key.k : i < 4 ? tcp->key_isn : tcp->key_cookie;
    memcpy(out + (i & 1u) * 8, &k, sizeof k);
  }
}

struct np_tcp *np_tcp_init(void *mem, const struct np_tcp_config *config, const struct np_tcp_env *env, uint64_t now_ns) {
  np_assert(config->congestion_control < NP_CC_COUNT);
  np_assert(config->conns_max > 0 && config->conns_max <= 1u << NP_HANDLE_SLOT_BITS);
  memset(mem, 0, np_tcp_bytes(config));
  uint8_t *p = mem;
  struct np_tcp *tcp = mem;
  tcp->env = *env;
  tcp->config = *config;
  tcp->nagle_asked = config->nagle;
  tcp->conns = p + HEAD_BYTES;
  p = tcp->conns + (size_t)config->conns_max * NP_TCP_CONN_BYTES;
  uint32_t buckets = np_tcp_table_buckets(config->conns_max);
  tcp->buckets = (struct np_tcp_bucket *)(void *)p;
  tcp->bucket_mask = buckets - 1;
  tcp->listeners = (struct np_tcp_listener *)(void *)(p + (size_t)buckets * sizeof(struct np_tcp_bucket));
  tcp->guard.width = np_tcp_guard_width(config);
  tcp->guard.open = (uint32_t *)(void *)((uint8_t *)tcp->listeners + round_line((size_t)config->listeners_max * sizeof(struct np_tcp_listener)));
  derive_keys(tcp);
  while (config->rcv_buf_bytes >> tcp->rcv_wscale > UINT16_MAX) tcp->rcv_wscale++;
  np_assert(tcp->rcv_wscale <= 14);
  tcp->dirty_head = tcp->dirty_tail = NP_TCP_NIL;
  tcp->tw_head = tcp->tw_tail = NP_TCP_NIL;
  tcp->leaving = (struct np_tcp_list){NP_TCP_NIL, NP_TCP_NIL};
  tcp->free_head = NP_TCP_NIL;
  for (uint32_t i = config->conns_max; i-- > 0;) {
    struct np_tcp_conn *c = np_tcp_at(tcp, i);
    c->tw_next = tcp->free_head;
    tcp->free_head = i;
  }
  np_tcp_set_now(tcp, now_ns);
  np_tcp_mem_init(tcp);
  tcp->snd_calm_bytes = np_tcp_snd_calm(tcp);
  np_tcp_timer_init(tcp);
  np_tcp_pace_init(tcp);
  return tcp;
}

void np_tcp_set_now(struct np_tcp *tcp, uint64_t now_ns) {
  if (now_ns == tcp->now_ns) return; /* one division a turn, not one a packet */
  tcp->now_ns = now_ns;
  tcp->now_ms = (uint32_t)(now_ns / NP_TCP_NS_PER_MS);
}

void np_tcp_on_drop(struct np_tcp *tcp, void (*fn)(void *ctx, struct np_buf *buf, enum np_drop why), void *ctx) {
  tcp->drop_fn = fn;
  tcp->drop_ctx = ctx;
}

#define S(x) (1u << NP_TCP_##x)
/* RFC 9293 §3.3.2, Figure 5, with the ways to CLOSED that resets, timeouts and aborts add. */
static const uint16_t legal[NP_TCP_STATE_COUNT] = {
    [NP_TCP_CLOSED] = S(SYN_SENT) | S(SYN_RECEIVED),
    [NP_TCP_LISTEN] = 0,
    [NP_TCP_SYN_SENT] = S(CLOSED) | S(SYN_RECEIVED) | S(ESTABLISHED),
    [NP_TCP_SYN_RECEIVED] = S(CLOSED) | S(ESTABLISHED) | S(FIN_WAIT_1),
    [NP_TCP_ESTABLISHED] = S(CLOSED) | S(FIN_WAIT_1) | S(CLOSE_WAIT),
    [NP_TCP_FIN_WAIT_1] = S(CLOSED) | S(FIN_WAIT_2) | S(CLOSING) | S(TIME_WAIT),
    [NP_TCP_FIN_WAIT_2] = S(CLOSED) | S(TIME_WAIT),
    [NP_TCP_CLOSE_WAIT] = S(CLOSED) | S(LAST_ACK),
    [NP_TCP_CLOSING] = S(CLOSED) | S(TIME_WAIT),
    [NP_TCP_LAST_ACK] = S(CLOSED),
    [NP_TCP_TIME_WAIT] = S(CLOSED),
};
#undef S

void np_tcp_set_state(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_conn_state to) {
  np_assert((legal[c->state] & 1u << to) != 0);
  c->state = (uint8_t)to;
  np_tcp_leaving(tcp, c);
}

struct np_tcp_conn *np_tcp_conn_new(struct np_tcp *tcp, const struct np_flow *flow, uint32_t hash) {
  if (tcp->free_head == NP_TCP_NIL && !np_tcp_time_wait_evict(tcp) && !np_tcp_leaving_evict(tcp)) return NULL;
  uint32_t slot = tcp->free_head;
  struct np_tcp_conn *c = np_tcp_at(tcp, slot);
  uint32_t generation = (uint32_t)(c->stream.handle >> 32) + 1;
  tcp->free_head = c->tw_next;
  memset(c, 0, sizeof *c);
  c->flow = *flow;
  c->listener = NP_TCP_NIL;
  c->tw_prev = c->tw_next = c->dirty_next = NP_TCP_NIL;
  c->stream.ops = &np_tcp_stream_ops;
  c->stream.handle = (uint64_t)(generation == 0 ? 1 : generation) << 32 | (uint64_t)tcp->config.core_index << NP_HANDLE_SLOT_BITS | slot;
  c->csum_base = np_cksum_fold(np_cksum_pseudo(&flow->local, &flow->remote, NP_PROTO_TCP, 0));
  uint64_t secret = np_tcp_flow_secret(tcp, flow);
  c->iss = np_tcp_isn(tcp, secret);
  c->ts_offset = np_tcp_ts_offset(secret);
  c->path.flow_label = np_tcp_flow_label(tcp, flow);
  c->cc_id = tcp->config.congestion_control;
  c->pacing = tcp->config.pacing;
  c->rto_us = NP_TCP_RTO_FIRST_US;
  c->rcv_mss = NP_TCP_MSS_V4;
  c->created_ns = c->progress_ns = tcp->now_ns;
  c->rx_ms = tcp->now_ms;
  c->confirm_ms = c->rack.min_rtt_ms = tcp->now_ms;
  c->user_timeout_ms = tcp->config.user_timeout_ms;
  c->keepalive_idle_ms = tcp->config.keepalive_idle_ms;
  c->nagle = tcp->config.nagle;
  np_tcp_tune_init(tcp, c);
  np_tcp_table_add(tcp, c, hash);
  tcp->conn_count++;
  tcp->env.counters->counter[NP_C_TCP_CONNS] = tcp->conn_count;
  return c;
}

void np_tcp_conn_free(struct np_tcp *tcp, struct np_tcp_conn *c) {
  np_assert(c->state == NP_TCP_CLOSED && c->stream.session == NULL);
  np_assert(c->sndq_head == NULL && c->ooo_head == NULL);
  np_assert(!np_timer_is_set(&c->timer) && !np_timer_is_set(&c->ack_timer));
  c->tw_next = tcp->free_head;
  np_tcp_mem_consumed_all(tcp, c); /* its session gave back what it had */
  tcp->free_head = np_tcp_slot(tcp, c);
  tcp->conn_count--;
  tcp->env.counters->counter[NP_C_TCP_CONNS] = tcp->conn_count;
}

void np_tcp_dirty(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->flags & NP_TF_DIRTY) return;
  c->flags |= NP_TF_DIRTY;
  uint32_t slot = np_tcp_slot(tcp, c);
  c->dirty_next = NP_TCP_NIL;
  if (tcp->dirty_tail == NP_TCP_NIL) {
    tcp->dirty_head = slot;
  } else {
    np_tcp_at(tcp, tcp->dirty_tail)->dirty_next = slot;
  }
  tcp->dirty_tail = slot;
  tcp->dirty_count++;
}

void np_tcp_rcvq_free(struct np_tcp_conn *c) {
  if (c->rcvq_head != NULL) np_buf_put_chain(c->rcvq_head);
  c->rcvq_head = c->rcvq_tail = NULL;
  c->rcvq_bytes = c->rcvq_segs = 0;
}

/* Takes c out of everything but the dirty list. */
void np_tcp_let_go(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->state == NP_TCP_SYN_SENT || c->state == NP_TCP_SYN_RECEIVED) np_tcp_count(tcp, NP_C_TCP_OPEN_FAILED);
  if (c->state == NP_TCP_TIME_WAIT) np_tcp_time_wait_unlink(tcp, c);
  np_tcp_listener_left(tcp, c);
  np_tcp_table_del(tcp, c);
  if (!(c->flags & NP_TF_OUTGOING)) np_tcp_unclaim(tcp, &c->flow);
  np_tcp_timers_cancel(tcp, c);
  np_tcp_pace_drop(tcp, c);
  np_tcp_sendq_free(c);
  np_tcp_ooo_free(c);
  np_tcp_set_state(tcp, c, NP_TCP_CLOSED);
}

void np_tcp_close(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_err err) {
  if (c->state == NP_TCP_CLOSED) return;
  np_tcp_let_go(tcp, c);
  /* Closed in good order: what came before the end is still handed up. */
  if (err != NP_ERR_EOF || c->stream.session == NULL) np_tcp_rcvq_free(c);
  c->flags &= ~(NP_TF_ACK_NOW | NP_TF_ACK_LATER | NP_TF_EV_WRITABLE | NP_TF_EV_ACCEPT | NP_TF_PROBE | NP_TF_RTX_SYN);
  if (err != NP_ERR_EOF) c->flags &= ~(NP_TF_EV_EOF | NP_TF_EV_ESTABLISHED);
  if (c->stream.session != NULL && !(c->flags & NP_TF_EV_CLOSED)) {
    c->err = (uint8_t)err;
    c->flags |= NP_TF_EV_CLOSED;
  }
  np_tcp_dirty(tcp, c);
}

uint32_t np_tcp_mss_local(struct np_tcp *tcp, const struct np_addr *remote) {
  uint32_t mtu = tcp->env.mtu(tcp->env.ctx, remote);
  uint32_t hdr = NP_TCP_HDR_BYTES + (np_addr_is_v4(remote) ? 20u : 40u);
  if (mtu <= hdr) return 0;
  return np_min_u32(mtu - hdr, UINT16_MAX);
}

void np_tcp_set_mss(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t mss = np_tcp_mss_local(tcp, &c->flow.remote);
  if (mss == 0) mss = NP_TCP_MSS_V4;
  mss = np_min_u32(mss, c->mss_peer);
  if (mss > np_tcp_piece_max(tcp)) { /* jumbo frames: of several buffers, where the port gathers */
    uint32_t caps = tcp->env.route_caps == NULL ? 0 : tcp->env.route_caps(tcp->env.ctx, &c->flow.remote);
    if ((caps & NP_PORT_SG) == 0) mss = np_tcp_piece_max(tcp);
  }
  if (c->flags & NP_TF_TS) mss -= NP_TCP_TS_BYTES;
  c->mss = mss;
  np_tcp_pmtu_init(tcp, c);
}

struct np_stream *np_tcp_stream(struct np_tcp *tcp, uint64_t handle) {
  uint32_t slot = (uint32_t)handle & ((1u << NP_HANDLE_SLOT_BITS) - 1);
  if (slot >= tcp->config.conns_max) return NULL;
  struct np_tcp_conn *c = np_tcp_at(tcp, slot);
  if (c->stream.handle != handle || c->state == NP_TCP_CLOSED) return NULL;
  return &c->stream;
}

enum np_err np_tcp_set_cc(struct np_tcp *tcp, uint64_t handle, uint32_t cc) {
  if (cc >= NP_CC_COUNT) return NP_ERR_INVALID;
  struct np_stream *s = np_tcp_stream(tcp, handle);
  if (s == NULL) return NP_ERR_STALE;
  np_tcp_cc_change(tcp, np_tcp_of(s), (enum np_cc)cc);
  return NP_ERR_OK;
}

enum np_err np_tcp_set_user_timeout(struct np_tcp *tcp, uint64_t handle, uint32_t ms) {
  if (ms != 0 && (ms < 1000 || ms > 86400000)) return NP_ERR_INVALID;
  struct np_stream *s = np_tcp_stream(tcp, handle);
  if (s == NULL) return NP_ERR_STALE;
  struct np_tcp_conn *c = np_tcp_of(s);
  c->user_timeout_ms = ms;
  if (c->rtx_due_ns != 0) np_tcp_timer_arm(tcp, c);
  return NP_ERR_OK;
}

enum np_err np_tcp_set_keepalive(struct np_tcp *tcp, uint64_t handle, uint32_t idle_ms) {
  if (idle_ms != 0 && (idle_ms < 1000 || idle_ms > 86400000)) return NP_ERR_INVALID;
  struct np_stream *s = np_tcp_stream(tcp, handle);
  if (s == NULL) return NP_ERR_STALE;
  struct np_tcp_conn *c = np_tcp_of(s);
  c->keepalive_idle_ms = idle_ms;
  if (c->state < NP_TCP_ESTABLISHED || c->state > NP_TCP_CLOSE_WAIT || (c->flags & NP_TF_DETACHED)) {
    return NP_ERR_OK; /* begins later, or no more */
  }
  c->probes = 0;
  c->misc_due_ns = 0;
  np_tcp_keepalive_start(tcp, c);
  return NP_ERR_OK;
}

enum np_err np_tcp_set_nagle(struct np_tcp *tcp, uint64_t handle, bool on) {
  struct np_stream *s = np_tcp_stream(tcp, handle);
  if (s == NULL) return NP_ERR_STALE;
  struct np_tcp_conn *c = np_tcp_of(s);
  c->nagle = on;
  if (on) tcp->nagle_asked = true;
  else np_tcp_dirty(tcp, c); /* what waited goes out */
  return NP_ERR_OK;
}

uint32_t np_tcp_conn_count(const struct np_tcp *tcp) { return tcp->conn_count; }

void np_tcp_abort_all(struct np_tcp *tcp, uint64_t now_ns) {
  np_tcp_set_now(tcp, now_ns);
  for (uint32_t i = 0; i < tcp->config.conns_max; i++) {
    struct np_tcp_conn *c = np_tcp_at(tcp, i);
    if (c->state == NP_TCP_CLOSED) continue;
    if (c->state != NP_TCP_TIME_WAIT && c->state != NP_TCP_SYN_SENT) np_tcp_send_rst(tcp, c);
    np_tcp_close(tcp, c, NP_ERR_SHUTDOWN);
  }
  /* A session told of the end may abort others; each round frees all that is listed. */
  for (uint32_t i = 0; i <= tcp->config.conns_max / NP_TCP_FLUSH_BUDGET + 1; i++) {
    if (!np_tcp_flush(tcp, now_ns)) break;
  }
  np_timer_cancel(tcp->env.wheel, &tcp->tw_timer);
}
