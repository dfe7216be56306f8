/* A run: time goes from event to event; at each, everything that can happen does, and what must
 * hold is looked at. */
#include "sim.h"

#include <string.h>

#include "invariants.h"

#define START_NS SIM_SECOND
#define LIMIT_NS (3600 * SIM_SECOND)
#define QUIET_TURNS 64u /* turns a core may take at one instant before time goes on all the same */

const char *const sim_feature_name[F_COUNT] = {
#define X(sym, name) name,
    SIM_FEATURES(X)
#undef X
};

bool sim_fail(struct sim *s, const char *what) {
  if (!s->what[0]) snprintf(s->what, sizeof s->what, "%s", what);
  return false;
}

static bool core_sound(struct host *h, uint32_t i) {
  struct sim *s = h->sim;
  uint32_t slot = 0;
  const struct np_tcp *tcp = np_core_tcp(h->core[i].core);
  const char *wrong = np_inv_tcp(tcp, &slot);
  if (!wrong) return true;
  const struct np_tcp_conn *c = slot == UINT32_MAX ? NULL : np_tcp_at(tcp, slot);
  char text[256];
  snprintf(text, sizeof text, "host %u core %u: connection %u (port %u to %u, state %u): %s", h->index, i, slot,
           c ? c->flow.local_port : 0, c ? c->flow.remote_port : 0, c ? c->state : 0, wrong);
  return sim_fail(s, text);
}

/* What must hold at every instant. */
static bool sound(struct sim *s) {
  for (uint32_t h = 0; h < s->hosts; h++)
    for (uint32_t i = 0; s->host[h].on && i < s->host[h].cores; i++)
      if (!core_sound(&s->host[h], i)) return false;
  return !s->wire.what[0] || sim_fail(s, s->wire.what);
}

static bool turn_all(struct sim *s) {
  bool work = net_forward(s);
  for (uint32_t i = 0; i < s->pairs; i++) pair_poll(&s->pair[i]);
  for (uint32_t k = 0; k < s->hosts; k++) {
    struct host *h = &s->host[k];
    for (uint32_t i = 0; h->on && !h->stalled && i < h->cores; i++) {
      work |= np_core_turn(h->core[i].core, s->now_ns + h->clock_ns);
      s->turns++;
    }
  }
  return work;
}

static uint64_t next_event(const struct sim *s) {
  uint64_t next = np_min_u64(net_next_ns(s), np_min_u64(faults_next_ns(s), s->attack.next_ns));
  for (uint32_t k = 0; k < s->hosts; k++) {
    const struct host *h = &s->host[k];
    for (uint32_t i = 0; h->on && !h->stalled && i < h->cores; i++) {
      uint64_t at = np_core_next_ns(h->core[i].core);
      if (at != UINT64_MAX) next = np_min_u64(next, at > h->clock_ns ? at - h->clock_ns : 0);
    }
  }
  for (uint32_t i = 0; i < s->pairs; i++) next = np_min_u64(next, pair_next_ns(&s->pair[i]));
  return next;
}

static bool all_done(const struct sim *s) {
  for (uint32_t i = 0; i < s->pairs; i++)
    if (!pair_done(&s->pair[i])) return false;
  for (uint32_t k = 0; k < s->hosts; k++)
    if (host_has_conns(&s->host[k])) return false;
  return s->attack.next_ns == UINT64_MAX;
}

static void verdict(struct sim *s) {
  char text[256];
  for (uint32_t i = 0; i < s->pairs; i++) {
    const struct pair *p = &s->pair[i];
    const struct app *a = &p->end[0];
    const struct app *b = &p->end[1];
    const char *wrong = pair_verdict(p);
    if (!wrong) continue;
    snprintf(text, sizeof text, "connection %u (host %u port %u to host %u port %u, IPv%d): %s; sent %u/%u got %u/%u err %d, other end: sent %u/%u got %u/%u err %d",
             i, a->host, p->flow.local_port, b->host, p->port, p->v6 ? 6 : 4, wrong, a->sent, a->total, a->got, a->expect, (int)a->err,
             b->sent, b->total, b->got, b->expect, (int)b->err);
    sim_fail(s, text);
  }
  for (uint32_t k = 0; k < s->hosts; k++) {
    if (!host_has_conns(&s->host[k])) continue;
    snprintf(text, sizeof text, "host %u: connections left", k);
    sim_fail(s, text);
  }
}

/* Each feature in two of three runs, those that excuse much in one of four: what hides in a mixture
 * shows when some of it is not there. */
static void draw_features(struct sim *s, struct np_rng *r) {
  const uint32_t rare = 1u << F_ATTACK | 1u << F_RESTART | 1u << F_UNLISTEN | 1u << F_MTU;
  for (uint32_t f = 0; f < F_COUNT; f++) {
    bool is_rare = (rare & 1u << f) != 0;
    if (np_rng_below(r, is_rare ? 4 : 3) < (is_rare ? 1 : 2)) s->features |= 1u << f;
  }
  if (s->args.has_only) s->features = s->args.only;
  s->features &= ~s->args.without;
  if (s->args.bytes) s->features = 0;
}

static void set_up(struct sim *s) {
  struct np_rng r;
  np_rng_init(&r, s->args.seed);
  draw_features(s, &r);
  np_rng_init(&s->rng_net, np_rng_u64(&r));
  np_rng_init(&s->rng_host, np_rng_u64(&r));
  np_rng_init(&s->rng_fault, np_rng_u64(&r));
  np_rng_init(&s->attack.rng, np_rng_u64(&r));
  uint32_t hosts = np_rng_below(&r, 8);
  s->hosts = s->args.bytes || hosts < 5 ? 2 : hosts < 7 ? 3 : 4;
  s->pairs = s->args.bytes ? 1 : 1 + np_rng_below(&r, np_rng_below(&r, 6) == 0 ? SIM_PAIRS_MAX : 20);
  if (s->args.clients && s->args.clients < s->pairs) s->pairs = s->args.clients;
  for (uint32_t i = 0; i < s->hosts; i++) host_draw(s, i);
  for (uint32_t i = 0; i < s->pairs; i++) pair_draw(s, i);
  faults_draw(s);
  attack_draw(s);
  s->wire.attacked = sim_has(s, F_ATTACK);
}

static void describe(const struct sim *s) {
  printf("seed %llu: %u hosts, %u connections, %.3f s of virtual time, %llu turns, %llu segments, hash %016llx\n  with",
         (unsigned long long)s->args.seed, s->hosts, s->pairs, (double)(s->now_ns - START_NS) / 1e9, (unsigned long long)s->turns,
         (unsigned long long)s->wire.segs, (unsigned long long)s->wire.hash);
  for (uint32_t f = 0; f < F_COUNT; f++)
    if (s->features & 1u << f) printf(" %s", sim_feature_name[f]);
  printf("\n");
}

static void run(struct sim *s) {
  while (!s->what[0] && !all_done(s)) {
    faults_run(s);
    attack_run(s);
    for (uint32_t n = 0; n < QUIET_TURNS && turn_all(s); n++) continue;
    if (!sound(s)) return;
    uint64_t next = next_event(s);
    if (next == UINT64_MAX || s->now_ns > LIMIT_NS) break;
    s->now_ns = np_max_u64(next, s->now_ns + 1000);
    net_set_now(s);
  }
}

bool sim_run(struct sim *s, const struct sim_args *args) {
  memset(s, 0, sizeof *s);
  s->args = *args;
  s->now_ns = START_NS;
  set_up(s);
  if (args->pcap && !(s->pcap = pcap_open(args->pcap))) sim_fail(s, "cannot write the capture");
  bool ok = !s->what[0] && net_open(s);
  for (uint32_t i = 0; ok && i < s->hosts; i++) ok = host_on(s, i);
  if (ok) {
    run(s);
    if (!s->what[0]) verdict(s);
  }
  for (uint32_t i = 0; i < s->hosts; i++) host_off(s, i, false);
  if (s->wire.what[0]) sim_fail(s, s->wire.what);
  net_close(s);
  if (s->pcap) fclose(s->pcap);
  if (args->verbose) describe(s);
  return !s->what[0];
}
