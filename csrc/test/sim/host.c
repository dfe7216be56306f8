/* Hosts: one or two whole cores, their configuration, their end and their return. */
#include <stdlib.h>
#include <string.h>

#include "ip/ip.h"
#include "sim.h"

#define RX_RESERVE 32u /* buffers for receiving, as a port with a ring has them: ACKs give back what else is held */

struct np_addr host_addr(uint32_t index, bool v6) {
  uint8_t last = (uint8_t)(1 + index);
  return v6 ? np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = last}) : np_addr_from_v4_be((uint8_t[]){198, 18, 0, last});
}

static uint32_t pick(struct sim *s, enum feature f, const uint32_t *of, uint32_t n) {
  uint32_t i = np_rng_below(&s->rng_host, n);
  return sim_has(s, f) ? of[i] : of[0];
}
#define PICK(s, f, ...) pick(s, f, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4u)

void host_draw(struct sim *s, uint32_t index) {
  struct host *h = &s->host[index];
  struct np_rng *r = &s->rng_host;
  struct np_plane_config *c = &h->config;
  h->sim = s;
  h->index = index;
  h->mac = (struct np_mac){{2, 0, 0, 0, 0, (uint8_t)(1 + index)}};
  h->cores = index == 0 && sim_once_in(s, F_CORES, r, 1) ? 2 : 1;
  h->salt = np_rng_u64(r);
  np_plane_config_default(c);
  c->cores = h->cores;
  c->cmd_ring = 16;
  c->event_ring = 64;
  c->loans_per_core = 1;
  c->streams_max = 16;
  c->neigh_max = 16;
  c->conns_max = sim_has(s, F_ATTACK) ? 1024 : 256; /* a flood may fill the backlog of each of six listeners */
  c->bufs_per_core = s->args.bytes ? 4096 : PICK(s, F_POOL, 2048, 2048, 1024, 512, 256);
  h->mtu_bytes = PICK(s, F_SIZES, 1500, 1500, 1500, 1280, 3500, SIM_MTU_MAX);
  if (h->mtu_bytes > 1536 && np_rng_below(r, 2)) {
    c->chunk_bytes = 4096;
    c->bufs_per_core = np_max_u32(c->bufs_per_core / 2, 256);
  }
  /* what TCP leaves free of a short pool is counted in segments, of which each may take six buffers */
  if (h->mtu_bytes > 1536) c->bufs_per_core = np_max_u32(c->bufs_per_core, 2048);
  c->tcp_rcv_buf_bytes = PICK(s, F_BUFFERS, 0, 0, 4096, 8192, 16384, 65535, 262144, 1048576);
  c->tcp_snd_buf_bytes = PICK(s, F_BUFFERS, 0, 0, 4096, 8192, 16384, 65535, 262144, 2097152);
  c->tcp_timewait_ms = PICK(s, F_TIMERS, 1000, 1000, 100, 5000);
  c->tcp_keepalive_idle_ms = PICK(s, F_TIMERS, 5000, 1000, 2000, 10000);
  c->tcp_user_timeout_ms = 120000;
  c->tcp_rto_ms_min = PICK(s, F_TIMERS, 0, 0, 0, 5, 50, 1000);
  c->tcp_delack_ms = PICK(s, F_TIMERS, 0, 0, 1, 10, 200, 500);
  c->tcp_nagle = sim_once_in(s, F_OPTIONS, r, 3);
  c->tcp_no_sack = sim_once_in(s, F_OPTIONS, r, 4);
  c->tcp_no_timestamps = sim_once_in(s, F_OPTIONS, r, 4);
  c->tcp_no_wscale = sim_once_in(s, F_OPTIONS, r, 5);
  c->tcp_congestion_control = (uint8_t)sim_draw(s, F_CONGESTION, r, NP_CC_COUNT);
  c->tcp_pacing = (uint8_t)sim_draw(s, F_CONGESTION, r, NP_PACING_COUNT);
  c->tcp_ecn = (uint8_t)sim_draw(s, F_ECN, r, NP_ECN_MODE_COUNT);
  c->tcp_mtu_probing = (uint8_t)PICK(s, F_MTU, NP_MTU_PROBING_BLACKHOLE, NP_MTU_PROBING_OFF, NP_MTU_PROBING_ALWAYS, NP_MTU_PROBING_BLACKHOLE);
  c->tcp_no_autotune = sim_once_in(s, F_BUFFERS, r, 3);
  c->no_gro = sim_once_in(s, F_OPTIONS, r, 3);
  h->backlog = PICK(s, F_ATTACK, 128, 128, 4, 16);
  h->cookies = np_rng_below(r, 4) != 0;
}

static bool open_core(struct host *h, uint32_t i) {
  struct sim *s = h->sim;
  struct core_rig *c = &h->core[i];
  size_t bytes = (np_core_bytes(&h->config) + 63) & ~(size_t)63;
  size_t pool_bytes = (size_t)h->config.bufs_per_core * h->config.chunk_bytes;
  c->mem = aligned_alloc(64, bytes);
  c->pool_mem = aligned_alloc(h->config.chunk_bytes, pool_bytes);
  if (!c->mem || !c->pool_mem) return sim_fail(s, "out of memory");
  memset(c->mem, 0, bytes);
  memset(c->pool_mem, 0, pool_bytes);
  struct np_err_detail detail = {{0}, 0};
  if (np_core_init(c->mem, c->pool_mem, &h->config, i, s->now_ns + h->clock_ns, &c->core, &detail)) return sim_fail(s, detail.text);
  np_core_tcp(c->core)->env.accept = app_accept;
  c->queue = np_sim_end(c->link, 0, np_core_pool(c->core), &h->mac, 0);
  np_core_pool(c->core)->reserve_count = RX_RESERVE;
  return true;
}

static bool open_iface(struct host *h, uint32_t i) {
  struct sim *s = h->sim;
  struct np_core *core = h->core[i].core;
  uint64_t now_ns = s->now_ns + h->clock_ns;
  struct np_ip *ip = np_core_ip(core);
  struct np_iface_config iface = {.port = 0, .mtu_bytes = h->mtu_bytes, .mac = h->mac};
  struct np_addr v4 = host_addr(h->index, false);
  struct np_addr v6 = host_addr(h->index, true);
  if (np_ip_iface_add(ip, 0, &iface) || np_core_attach(core, h->core[i].queue, 0) || np_ip_iface_up(ip, 0, true, now_ns) ||
      np_ip_addr_add(ip, 0, &v4, 24, now_ns) || np_ip_addr_add(ip, 0, &v6, 64, now_ns))
    return sim_fail(s, "interface set-up");
  return true;
}

static bool open_services(struct host *h, uint32_t i) {
  struct np_core *core = h->core[i].core;
  const uint8_t kind[2] = {NP_SESSION_ECHO, NP_SESSION_DISCARD};
  const uint16_t port[2] = {7, 9};
  for (uint32_t k = 0; k < 2; k++) {
    struct np_cmd_listen l = {.port = port[k], .session_kind = kind[k], .backlog = h->backlog, .cookies = h->cookies};
    uint64_t handle;
    if (np_core_listen(core, &l, &handle)) return sim_fail(h->sim, "listen");
  }
  for (uint32_t k = 0; k < SIM_APP_PORTS; k++) {
    struct listener *l = &h->listener[k];
    l->host = h;
    l->port = (uint16_t)(SIM_APP_PORT + k);
    l->open = true;
    struct np_tcp_listen args = {.port = l->port, .backlog = h->backlog, .cookies = h->cookies, .ctx = l};
    if (np_tcp_listen(np_core_tcp(core), &args, &l->id[i])) return sim_fail(h->sim, "listen");
  }
  return true;
}

bool host_on(struct sim *s, uint32_t index) {
  struct host *h = &s->host[index];
  struct np_core *cores[SIM_CORES_MAX];
  struct np_rng r; /* each life has another secret */
  np_rng_init(&r, s->args.seed * 64 + index * 8 + h->lives++);
  for (uint32_t k = 0; k < sizeof h->config.secret; k++) h->config.secret[k] = (uint8_t)np_rng_u32(&r);
  h->on = true;
  for (uint32_t i = 0; i < h->cores; i++) {
    if (!open_core(h, i)) return false;
    cores[i] = h->core[i].core;
  }
  if (h->cores > 1) np_mail_join(cores, h->cores);
  for (uint32_t i = 0; i < h->cores; i++)
    if (!open_iface(h, i) || !open_services(h, i)) return false;
  return true;
}

void host_unlisten(struct host *h, uint32_t listener) {
  struct listener *l = &h->listener[listener];
  if (!h->on || !l->open) return;
  l->open = false;
  for (uint32_t i = 0; i < h->cores; i++) np_tcp_unlisten(np_core_tcp(h->core[i].core), l->id[i]);
}

static void ledger(struct host *h, uint32_t i) {
  static const char *const layer[] = {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, where, help) where,
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  };
  const struct np_counters *c = np_core_shared(h->core[i].core)->counters;
  uint64_t sum = c->counter[NP_C_DELIVERED_PKTS] + c->counter[NP_C_PASSED_PKTS] + c->counter[NP_C_IP_FRAGS_HELD];
  for (uint32_t d = 0; d < NP_DROP_COUNT; d++)
    if (strcmp(layer[d], "tx") != 0 && strcmp(layer[d], "npro") != 0) sum += c->drop[d];
  if (sum == c->counter[NP_C_RX_PKTS]) return;
  char text[128];
  snprintf(text, sizeof text, "host %u core %u: ledger: received %llu, accounted %llu", h->index, i,
           (unsigned long long)c->counter[NP_C_RX_PKTS], (unsigned long long)sum);
  sim_fail(h->sim, text);
}

static void close_core(struct host *h, uint32_t i, bool quiet) {
  struct core_rig *c = &h->core[i];
  struct sim *s = h->sim;
  char text[128];
  if (c->core) {
    ledger(h, i);
    if (quiet) np_core_detach(c->core, 0);
    np_core_fini(c->core, s->now_ns + h->clock_ns);
    struct np_pool *pool = np_core_pool(c->core);
    if (pool->free_count != pool->count) {
      snprintf(text, sizeof text, "host %u core %u: %u buffers leaked", h->index, i, pool->count - pool->free_count);
      sim_fail(s, text);
    }
    uint32_t conns = np_tcp_conn_count(np_core_tcp(c->core));
    if (conns != 0) {
      snprintf(text, sizeof text, "host %u core %u: %u connections left after its end", h->index, i, conns);
      sim_fail(s, text);
    }
  }
  free(c->mem);
  free(c->pool_mem);
  c->core = NULL;
  c->mem = c->pool_mem = NULL;
}

void host_off(struct sim *s, uint32_t index, bool quiet) {
  struct host *h = &s->host[index];
  if (!h->on) return;
  while (h->stolen_count > 0) np_buf_put(h->stolen[--h->stolen_count]);
  for (uint32_t i = 0; i < h->cores; i++) close_core(h, i, quiet);
  h->on = false;
}

bool host_has_conns(const struct host *h) {
  for (uint32_t i = 0; h->on && i < h->cores; i++)
    if (np_tcp_conn_count(np_core_tcp(h->core[i].core)) != 0) return true;
  return false;
}
