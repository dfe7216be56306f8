/* Memory of a core: one block cut into parts whose sizes depend on the
 * configuration, the rings that Go sees among them. Nothing is allocated later. */
#include <string.h>

#include "core/internal.h"

struct layout {
  size_t counters;
  size_t cmd;
  size_t event;
  size_t loan;
  size_t pool_stack;
  size_t mail;
  size_t steer;
  size_t claims;
  size_t crypto;
  size_t ip;
  size_t tcp;
  size_t sessions;
  size_t loads;
  struct np_core_carrier_parts carriers;
  size_t bytes;
  uint32_t loan_count;
  struct np_crypto_config crypto_config;
  struct np_ip_config ip_config;
  struct np_tcp_config tcp_config;
  struct np_sessions_config sessions_config;
  struct np_loads_config loads_config;
};

static size_t take(size_t *at, size_t bytes) {
  size_t off = *at;
  *at = (off + bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
  return off;
}

static uint32_t or_default(uint32_t value, uint32_t otherwise) { return value != 0 ? value : otherwise; }

/* Each core gets the same secret, so that a SYN cookie is valid on whichever core its ACK
 * arrives; what is not seen by peers gets a seed of its own. */
static uint64_t seed_of(const struct np_plane_config *config, uint32_t off, uint32_t index) {
  uint64_t seed = np_load_64(config->secret + off);
  return (seed ^ (index + 1u)) * UINT64_C(0x9e3779b97f4a7c15) ^ seed;
}

static void derive(const struct np_plane_config *c, uint32_t index, struct layout *l) {
  l->crypto_config = (struct np_crypto_config){
      .key_cache_count = c->conns_max < 2048u ? np_max_u32(2u * c->conns_max, 64u) : 4096u,
      .force_portable = c->force_portable_crypto != 0,
  };
  l->ip_config = (struct np_ip_config){
      .neigh_max = c->neigh_max,
      .neigh_queue_pkts = 8,
      .icmp_rate_per_s = 1000,
      .icmp_dest_per_s = 100,
      .icmp_echo_per_s = 10000,
      .udp_echo_port = c->udp_echo_port,
      .udp_discard_port = c->udp_discard_port,
      .ttl = (uint8_t)c->tcp_ttl,
      .seed = seed_of(c, 32, index),
      .nonce = np_load_64(c->secret + 48), /* shared by all cores, used for nothing else */
      .silent = index != 0, /* queue 0 of every interface is core 0's */
  };
  struct np_tcp_config *t = &l->tcp_config;
  np_tcp_config_default(t);
  t->conns_max = c->conns_max;
  t->listeners_max = NP_CORE_LISTENERS_MAX;
  t->rcv_buf_bytes = or_default(c->tcp_rcv_buf_bytes, t->rcv_buf_bytes);
  t->snd_buf_bytes = or_default(c->tcp_snd_buf_bytes, t->snd_buf_bytes);
  t->keepalive_idle_ms = or_default(c->tcp_keepalive_idle_ms, t->keepalive_idle_ms);
  t->user_timeout_ms = or_default(c->tcp_user_timeout_ms, t->user_timeout_ms);
  t->timewait_ms = or_default(c->tcp_timewait_ms, t->timewait_ms);
  t->rto_ms_min = or_default(c->tcp_rto_ms_min, t->rto_ms_min);
  t->delack_ms = or_default(c->tcp_delack_ms, t->delack_ms);
  t->quick_acks = c->tcp_no_quick_acks ? 0 : or_default(c->tcp_quick_acks, t->quick_acks);
  t->core_index = (uint8_t)index;
  t->cores = (uint8_t)c->cores;
  t->nagle = c->tcp_nagle != 0;
  t->sack = c->tcp_no_sack == 0;
  t->timestamps = c->tcp_no_timestamps == 0;
  t->window_scaling = c->tcp_no_wscale == 0;
  t->gro = c->no_gro == 0;
  t->congestion_control = c->tcp_congestion_control;
  t->ecn = c->tcp_ecn;
  t->pacing = c->tcp_pacing;
  t->autotune = c->tcp_no_autotune == 0;
  t->mtu_probing = c->tcp_mtu_probing;
  t->persist_ms = c->tcp_persist_ms;
  t->reset_per_s = or_default(c->tcp_reset_per_s, t->reset_per_s);
  t->challenge_per_s = or_default(c->tcp_challenge_per_s, t->challenge_per_s);
  t->conns_per_source = c->tcp_conns_per_source;
  t->min_snd_mss = or_default(c->tcp_min_snd_mss, t->min_snd_mss);
  t->mem_pressure_pct = or_default(c->tcp_mem_pressure_pct, t->mem_pressure_pct);
  t->mem_max_pct = or_default(c->tcp_mem_max_pct, t->mem_max_pct);
  t->ooo_runs_max = or_default(c->tcp_ooo_runs_max, t->ooo_runs_max);
  t->rcv_start_bytes = or_default(c->tcp_rcv_start_bytes, t->rcv_start_bytes);
  memcpy(t->secret, c->secret, sizeof t->secret);
  l->sessions_config = (struct np_sessions_config){
      .sessions_max = c->conns_max + np_core_carrier_sessions(c),
      .streams_max = c->streams_max,
      .handshake_ms = c->handshake_ms,
      .handshake_frame_bytes = 8192,
      .goaway_ms = 5000,
      .seed = seed_of(c, 40, index),
  };
}

static void lay_out(const struct np_plane_config *c, uint32_t index, struct layout *l) {
  memset(l, 0, sizeof *l);
  derive(c, index, l);
  l->loan_count = 2; /* a ring's size is a power of two that holds every lent buffer */
  while (l->loan_count < c->loans_per_core) l->loan_count *= 2;
  size_t at = 0;
  take(&at, sizeof(struct np_core));
  l->counters = take(&at, sizeof(struct np_counters));
  l->cmd = take(&at, np_ring_bytes(c->cmd_ring, sizeof(struct np_cmd)));
  l->event = take(&at, np_ring_bytes(c->event_ring, sizeof(struct np_event)));
  l->loan = take(&at, np_ring_bytes(l->loan_count, sizeof(struct np_loan)));
  l->pool_stack = take(&at, np_pool_stack_bytes(c->bufs_per_core));
  l->mail = take(&at, np_mail_bytes(c->cores));
  l->steer = take(&at, np_steer_bytes(c));
  l->claims = take(&at, np_claim_bytes(c));
  l->crypto = take(&at, np_crypto_bytes(&l->crypto_config));
  l->ip = take(&at, np_ip_bytes(&l->ip_config));
  l->tcp = take(&at, np_tcp_bytes(&l->tcp_config));
  l->sessions = take(&at, np_sessions_bytes(&l->sessions_config));
  l->loads_config = (struct np_loads_config){.conns_max = c->load_conns, .depth_max = c->load_depth};
  l->loads = take(&at, c->load_conns == 0 ? 0 : np_loads_bytes(&l->loads_config));
  np_core_carriers_lay_out(c, index, &l->carriers, &at);
  l->bytes = at;
}

size_t np_core_bytes(const struct np_plane_config *config) {
  struct layout l;
  lay_out(config, 0, &l);
  return l.bytes;
}

static void init_rings(struct np_core *core, uint8_t *base, const struct np_plane_config *c, const struct layout *l) {
  core->cmd = (struct np_ring *)(void *)(base + l->cmd);
  core->event = (struct np_ring *)(void *)(base + l->event);
  core->loan = (struct np_ring *)(void *)(base + l->loan);
  np_ring_init(core->cmd, c->cmd_ring, sizeof(struct np_cmd));
  np_ring_init(core->event, c->event_ring, sizeof(struct np_event));
  np_ring_init(core->loan, l->loan_count, sizeof(struct np_loan));
  core->event_reserve = c->event_ring / 8u;
  core->shared = (struct np_core_shared){
      .cmd = core->cmd,
      .event = core->event,
      .loan = core->loan,
      .counters = core->counters,
      .chunk_bytes = c->chunk_bytes,
      .event_fd = -1, /* set by the plane; a simulation has none */
      .wake_fd = -1,
      .core = core->index,
  };
  core->loans_max = c->loans_per_core;
  for (uint32_t i = 0; i < c->loans_per_core; i++) {
    struct np_buf *b = np_pool_get(&core->pool);
    np_assert(b != NULL); /* checked: loans are at most half of the pool */
    np_core_loan_return(core, b);
  }
  np_ring_publish(core->loan, core->loan_pending);
  core->loan_pending = 0;
}

enum np_err np_core_init(void *mem, void *pool_mem, const struct np_plane_config *config, uint32_t index,
                         uint64_t now_ns, struct np_core **out, struct np_err_detail *detail) {
  *out = NULL;
  enum np_err err = np_plane_config_check(config, detail);
  if (err != NP_ERR_OK) return err;
  struct layout l;
  lay_out(config, index, &l);
  uint8_t *base = mem;
  struct np_core *core = mem;
  memset(core, 0, sizeof *core);
  core->now_ns = now_ns;
  core->index = index;
  core->counters = (struct np_counters *)(void *)(base + l.counters);
  memset(core->counters, 0, sizeof *core->counters);
  np_pool_init(&core->pool, pool_mem, config->bufs_per_core, config->chunk_bytes, base + l.pool_stack, core->counters);
  core->counters->counter[NP_C_BUF_TOTAL] = config->bufs_per_core;
  core->counters->counter[NP_C_BUF_FREE] = config->bufs_per_core;
  np_wheel_init(&core->wheel, now_ns);
  np_exception_init(core, config);
  core->crypto = np_crypto_init(base + l.crypto, &l.crypto_config);
  if (core->crypto == NULL) {
    np_err_detail_set(detail, 0, "start crypto engine of core %u: neither libipsec-mb nor libcrypto works", index);
    return NP_ERR_UNSUPPORTED;
  }
  init_rings(core, base, config, &l);
  np_mail_init(core, base + l.mail, config->cores);
  np_steer_init(core, base + l.steer, config);
  np_claim_init(core, base + l.claims, config);
  struct np_core_parts parts = {
      .ip_mem = base + l.ip,
      .tcp_mem = base + l.tcp,
      .sessions_mem = base + l.sessions,
      .loads_mem = config->load_conns == 0 ? NULL : base + l.loads,
      .ip = &l.ip_config,
      .tcp = &l.tcp_config,
      .sessions = &l.sessions_config,
      .loads = &l.loads_config,
  };
  np_core_join(core, &parts, now_ns);
  memset(l.tcp_config.secret, 0, sizeof l.tcp_config.secret);
  err = np_core_carriers_init(core, base, &l.carriers, detail);
  if (err != NP_ERR_OK) {
    np_crypto_fini(core->crypto);
    return err;
  }
  *out = core;
  return NP_ERR_OK;
}

/* Bodies of events that nobody read, bodies of commands that nobody ran, and loans
 * that Go never took. What Go holds is gone with the memory. */
static void reclaim_rings(struct np_core *core) {
  for (uint32_t n = np_ring_avail(core->event); n > 0; n = np_ring_avail(core->event)) {
    for (uint32_t i = 0; i < n; i++) {
      const struct np_event *ev = np_ring_item(core->event, i);
      np_buf_put_chain(ev->body);
    }
    np_ring_consume(core->event, n);
  }
  for (uint32_t n = np_ring_avail(core->cmd); n > 0; n = np_ring_avail(core->cmd)) {
    for (uint32_t i = 0; i < n; i++) {
      const struct np_cmd *cmd = np_ring_item(core->cmd, i);
      np_core_cmd_drop(cmd);
      np_buf_put_chain(cmd->body); /* lent or brought by an event: one reference either way */
    }
    np_ring_consume(core->cmd, n);
  }
  for (uint32_t n = np_ring_avail(core->loan); n > 0; n = np_ring_avail(core->loan)) {
    for (uint32_t i = 0; i < n; i++) {
      const struct np_loan *loan = np_ring_item(core->loan, i);
      np_buf_put(loan->buf);
    }
    np_ring_consume(core->loan, n);
  }
}

void np_core_fini(struct np_core *core, uint64_t now_ns) {
  np_core_stop(core, now_ns);
  core->queue_count = 0;
  np_core_carriers_fini(core);
  np_sessions_fini(core->sessions);
  np_ip_fini(core->ip);
  reclaim_rings(core);
  np_crypto_fini(core->crypto);
  core->crypto = NULL;
}
