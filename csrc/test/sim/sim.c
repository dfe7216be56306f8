/* A simulated run: two cores, a link, clients, and what must hold at the end. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "invariants.h"
#include "ip/ip.h"

#define START_NS UINT64_C(1000000000)
#define LIMIT_NS UINT64_C(3600000000000) /* an hour of virtual time */
#define QUIET_TURNS 64u                  /* turns a core may take at one instant before that is a fault */
#define SECOND UINT64_C(1000000000)

static bool fail(struct sim *s, const char *what) {
  if (!s->what[0]) snprintf(s->what, sizeof s->what, "%s", what);
  return false;
}

static void draw_link(struct sim *s) {
  struct np_sim_params *p = &s->params;
  struct np_rng *r = &s->rng;
  memset(p, 0, sizeof *p);
  if (s->bytes) {
    *p = (struct np_sim_params){.delay_ns = 1000000, .loss_ppm = 10000, .reorder_ppm = 10000, .queue_bytes = 4000000};
    return;
  }
  p->delay_ns = np_rng_below(r, 50) * 1000000u + np_rng_below(r, 1000000);
  if (np_rng_below(r, 2)) p->jitter_ns = np_rng_below(r, 5000000);
  if (np_rng_below(r, 2)) p->rate_bps = UINT64_C(1000000) * (5 + np_rng_below(r, 1000));
  p->queue_bytes = 20000 + np_rng_below(r, 500000);
  if (np_rng_below(r, 3)) p->loss_ppm = np_rng_below(r, 50000);
  if (np_rng_below(r, 4) == 0) p->burst_loss_ppm = np_rng_below(r, 3000);
  if (np_rng_below(r, 2)) p->reorder_ppm = np_rng_below(r, 50000);
  p->reorder_ns = 1 + np_rng_below(r, 10000000);
  if (np_rng_below(r, 2)) p->duplicate_ppm = np_rng_below(r, 20000);
  if (np_rng_below(r, 3) == 0) p->corrupt_ppm = np_rng_below(r, 10000);
}

static bool open_host(struct sim *s, uint32_t i) {
  struct host *h = &s->host[i];
  struct np_plane_config config;
  np_plane_config_default(&config);
  config.cores = 1;
  config.conns_max = 256;
  config.streams_max = 64;
  config.loans_per_core = 64;
  config.bufs_per_core = np_rng_below(&s->rng, 5) == 0 && !s->bytes ? 512 : 4096;
  config.tcp_timewait_ms = 1000;
  config.tcp_keepalive_idle_ms = 5000;
  config.tcp_user_timeout_ms = 120000;
  for (uint32_t k = 0; k < sizeof config.secret; k++) config.secret[k] = (uint8_t)np_rng_u32(&s->rng);
  h->mem = aligned_alloc(64, (np_core_bytes(&config) + 63) & ~(size_t)63);
  h->pool_mem = aligned_alloc(config.chunk_bytes, (size_t)config.bufs_per_core * config.chunk_bytes);
  if (!h->mem || !h->pool_mem) return fail(s, "out of memory");
  memset(h->mem, 0, np_core_bytes(&config));
  memset(h->pool_mem, 0, (size_t)config.bufs_per_core * config.chunk_bytes);
  struct np_err_detail detail = {{0}, 0};
  if (np_core_init(h->mem, h->pool_mem, &config, 0, s->now_ns, &h->core, &detail)) return fail(s, detail.text);
  h->mac = (struct np_mac){{2, 0, 0, 0, 0, (uint8_t)(2 - i)}};
  h->queue = np_sim_end(s->link, i, np_core_pool(h->core), &h->mac, 0);
  struct np_ip *ip = np_core_ip(h->core);
  struct np_iface_config iface = {.port = 0, .mtu_bytes = 1500, .mac = h->mac};
  uint8_t last = (uint8_t)(2 - i); /* server .1, client .2 */
  struct np_addr v4 = np_addr_from_v4_be((uint8_t[]){198, 18, 0, last});
  struct np_addr v6 = np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = last});
  if (np_ip_iface_add(ip, 0, &iface) || np_core_attach(h->core, h->queue, 0) || np_ip_iface_up(ip, 0, true, s->now_ns) ||
      np_ip_addr_add(ip, 0, &v4, 24, s->now_ns) || np_ip_addr_add(ip, 0, &v6, 64, s->now_ns))
    return fail(s, "interface set-up");
  return true;
}

static bool open_services(struct sim *s) {
  const struct {
    uint16_t port;
    enum np_session_kind kind;
  } services[] = {{7, NP_SESSION_ECHO}, {9, NP_SESSION_DISCARD}};
  for (size_t i = 0; i < NP_COUNT_OF(services); i++) {
    struct np_cmd_listen l = {.port = services[i].port, .session_kind = (uint8_t)services[i].kind, .backlog = 128, .cookies = 1};
    uint64_t handle;
    if (np_core_listen(s->host[1].core, &l, &handle)) return fail(s, "listen");
  }
  return true;
}

static void tap(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t now_ns, bool lost) {
  struct sim *s = ctx;
  wire_note(&s->wire, bytes, len, now_ns, dir << 1 | (lost ? 1u : 0u));
  wire_frame(&s->wire, bytes, len);
  if (s->pcap) pcap_write(s->pcap, bytes, len, now_ns, lost ? "lost on the link" : NULL);
}

/* What must hold at every instant. */
static bool sound(struct sim *s) {
  for (uint32_t i = 0; i < 2; i++) {
    const struct np_tcp *tcp = np_core_tcp(s->host[i].core);
    uint32_t slot = 0;
    const char *wrong = np_inv_tcp(tcp, &slot);
    if (!wrong) continue;
    uint16_t port = slot == UINT32_MAX ? 0 : np_tcp_at(tcp, slot)->flow.remote_port;
    snprintf(s->what, sizeof s->what, "host %u: connection %u (to port %u, state %u) at %.6f s: %s", i, slot, port,
             slot == UINT32_MAX ? 0 : np_tcp_at(tcp, slot)->state, (double)s->now_ns / 1e9, wrong);
    return false;
  }
  return !s->wire.what[0] || fail(s, s->wire.what);
}

static bool settle(struct sim *s) {
  for (uint32_t turn = 0; turn < QUIET_TURNS; turn++) {
    bool work = false;
    for (uint32_t i = 0; i < s->clients; i++) client_poll(&s->client[i], s->now_ns);
    for (uint32_t i = 0; i < 2; i++) work |= np_core_turn(s->host[i].core, s->now_ns);
    if (!work) return true;
  }
  return true; /* busy: time goes on, the rest happens in the next instant */
}

static uint64_t next_event(const struct sim *s) {
  uint64_t next = np_sim_next_ns(s->link);
  for (uint32_t i = 0; i < 2; i++) next = np_min_u64(next, np_core_next_ns(s->host[i].core));
  for (uint32_t i = 0; i < s->clients; i++) next = np_min_u64(next, client_next_ns(&s->client[i]));
  return next;
}

static bool all_done(const struct sim *s) {
  for (uint32_t i = 0; i < s->clients; i++)
    if (!s->client[i].closed) return false;
  return np_tcp_conn_count(np_core_tcp(s->host[0].core)) == 0 && np_tcp_conn_count(np_core_tcp(s->host[1].core)) == 0 &&
         np_sim_next_ns(s->link) == UINT64_MAX;
}

static bool ledger(struct sim *s, uint32_t i) {
  static const char *const layer[] = {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, where, help) where,
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  };
  const struct np_counters *c = np_core_shared(s->host[i].core)->counters;
  uint64_t sum = c->counter[NP_C_DELIVERED_PKTS] + c->counter[NP_C_IP_FRAGS_HELD];
  for (uint32_t d = 0; d < NP_DROP_COUNT; d++)
    if (strcmp(layer[d], "tx") != 0 && strcmp(layer[d], "npro") != 0) sum += c->drop[d];
  if (sum == c->counter[NP_C_RX_PKTS]) return true;
  snprintf(s->what, sizeof s->what, "host %u: ledger: received %llu, accounted %llu", i,
           (unsigned long long)c->counter[NP_C_RX_PKTS], (unsigned long long)sum);
  return false;
}

static bool verdict(struct sim *s) {
  for (uint32_t i = 0; i < s->clients; i++) {
    const struct client *c = &s->client[i];
    const char *wrong = client_verdict(c);
    if (!wrong) continue;
    snprintf(s->what, sizeof s->what, "client %u (behaviour %d, IPv%d): %s; total %u sent %u got %u err %d at %.3f s", i,
             (int)c->behaviour, c->v6 ? 6 : 4, wrong, c->total, c->sent, c->got, (int)c->err, (double)s->now_ns / 1e9);
    return false;
  }
  for (uint32_t i = 0; i < 2; i++) {
    uint32_t conns = np_tcp_conn_count(np_core_tcp(s->host[i].core));
    if (conns) {
      snprintf(s->what, sizeof s->what, "host %u: %u connections left", i, conns);
      return false;
    }
    if (!ledger(s, i)) return false;
  }
  return true;
}

static void close_host(struct sim *s, uint32_t i) {
  struct host *h = &s->host[i];
  if (h->core) {
    np_core_detach(h->core, 0);
    np_core_fini(h->core, s->now_ns);
    struct np_pool *pool = np_core_pool(h->core);
    if (pool->free_count != pool->count) {
      char text[96];
      snprintf(text, sizeof text, "host %u: %u buffers leaked", i, pool->count - pool->free_count);
      fail(s, text);
    }
  }
  free(h->mem);
  free(h->pool_mem);
}

bool sim_run(struct sim *s, uint64_t seed, uint32_t bytes, const char *pcap_path, bool verbose) {
  memset(s, 0, sizeof *s);
  s->seed = seed;
  s->bytes = bytes;
  s->now_ns = START_NS;
  np_rng_init(&s->rng, seed);
  draw_link(s);
  if (pcap_path) s->pcap = pcap_open(pcap_path);
  struct np_sim_config config = {.seed = np_rng_u64(&s->rng), .dir = {s->params, s->params}};
  s->link = np_sim_new(&config);
  np_sim_set_now(s->link, s->now_ns);
  np_sim_set_tap(s->link, tap, s);
  bool ok = open_host(s, 0) && open_host(s, 1) && open_services(s);
  s->clients = bytes ? 1 : 1 + np_rng_below(&s->rng, SIM_CLIENTS_MAX / 2);
  for (uint32_t i = 0; ok && i < s->clients; i++) client_init(&s->client[i], s, i);
  if (bytes) {
    s->client[0].behaviour = B_HALF_CLOSE;
    s->client[0].total = bytes;
  }
  while (ok && !all_done(s)) {
    settle(s);
    if (!sound(s)) break;
    uint64_t next = next_event(s);
    if (next == UINT64_MAX || s->now_ns > LIMIT_NS) break;
    s->now_ns = np_max_u64(next, s->now_ns + 1000);
    np_sim_set_now(s->link, s->now_ns);
  }
  ok = ok && !s->what[0] && verdict(s);
  close_host(s, 0);
  close_host(s, 1);
  np_sim_free(s->link);
  if (s->pcap) fclose(s->pcap);
  if (verbose)
    printf("seed %llu: %u clients, %.3f s of virtual time, delay %.1f ms, loss %.2f %%, rate %llu Mbit/s, hash %016llx\n",
           (unsigned long long)seed, s->clients, (double)(s->now_ns - START_NS) / 1e9, (double)s->params.delay_ns / 1e6,
           s->params.loss_ppm / 1e4, (unsigned long long)(s->params.rate_bps / 1000000u), (unsigned long long)s->wire.hash);
  return ok && !s->what[0];
}
