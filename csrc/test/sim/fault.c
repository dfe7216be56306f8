/* What goes wrong with hosts and links, and when. */
#include <string.h>

#include "sim.h"

#define LONG_NS (12 * SIM_SECOND) /* outages are shorter: whoever waits through them must not give up */

static void add(struct sim *s, uint64_t at_ns, enum event_kind kind, uint32_t host, uint32_t arg) {
  if (s->events == SIM_EVENTS_MAX) return;
  s->event[s->events++] = (struct event){at_ns, kind, host, arg};
}

/* Two events: something begins and ends. */
static void spell(struct sim *s, bool wanted, enum event_kind begin, enum event_kind end, uint32_t ms_max) {
  struct np_rng *r = &s->rng_fault;
  uint64_t at = s->now_ns + (uint64_t)np_rng_below(r, 8000) * SIM_MS;
  uint64_t left = at + (1 + np_rng_below(r, ms_max)) * SIM_MS;
  uint32_t host = np_rng_below(r, s->hosts);
  uint32_t arg = np_rng_u32(r) >> 1;
  if (!wanted) return;
  if (left - at > SIM_SECOND) arg |= 1u << 31; /* a long one */
  add(s, at, begin, host, arg);
  add(s, left, end, host, arg);
}

static void moment(struct sim *s, bool wanted, enum event_kind kind) {
  struct np_rng *r = &s->rng_fault;
  uint64_t at = s->now_ns + (uint64_t)np_rng_below(r, 8000) * SIM_MS;
  uint32_t host = np_rng_below(r, s->hosts);
  uint32_t arg = np_rng_u32(r);
  if (wanted) add(s, at, kind, host, arg);
}

/* A short spell or a long one. */
static void spell_of(struct sim *s, enum feature f, enum event_kind begin, enum event_kind end, uint32_t short_ms, uint32_t long_ms) {
  struct np_rng *r = &s->rng_fault;
  uint32_t ms_max = np_rng_below(r, 2) ? short_ms : long_ms;
  bool wanted = sim_once_in(s, f, r, 2);
  spell(s, wanted, begin, end, ms_max);
}

void faults_draw(struct sim *s) {
  struct np_rng *r = &s->rng_fault;
  const uint32_t long_ms = (uint32_t)(LONG_NS / SIM_MS);
  for (uint32_t i = 0; i < 4; i++) moment(s, sim_once_in(s, F_PHASES, r, 2), EV_PHASE);
  for (uint32_t i = 0; i < 2; i++) spell_of(s, F_CUT, EV_CUT, EV_MENDED, 500, long_ms);
  spell_of(s, F_RESTART, EV_OFF, EV_ON, 50, 5000);
  for (uint32_t i = 0; i < 2; i++) spell_of(s, F_STALL, EV_STALL, EV_RESUME, 300, long_ms);
  moment(s, sim_once_in(s, F_JUMP, r, 2), EV_JUMP);
  for (uint32_t i = 0; i < 2; i++) spell(s, sim_once_in(s, F_POOL, r, 2), EV_STEAL, EV_GIVE_BACK, 3000);
  moment(s, sim_once_in(s, F_UNLISTEN, r, 2), EV_UNLISTEN);
  spell(s, sim_once_in(s, F_MTU, r, 1), EV_MTU, EV_MTU_END, 10000);
  for (uint32_t i = 0; i < 2; i++) moment(s, sim_once_in(s, F_CORES, r, 2), EV_STEER);
}

/* Whoever has to do with host from now on, or already has, may fail. */
static void excuse(struct sim *s, uint32_t host, uint64_t until_ns) {
  for (uint32_t i = 0; i < s->pairs; i++) {
    struct pair *p = &s->pair[i];
    if (p->end[0].host != host && p->end[1].host != host) continue;
    if (p->start_ns <= until_ns && !pair_done(p)) p->may_fail = true;
  }
}

/* A host that is not there for some seconds, or whose clock jumps, makes a round trip that takes as long, and
 * time-outs of three times that: with losses besides, some connection may give up. */
static void may_be_late(struct sim *s, uint32_t host) {
  for (uint32_t i = 0; i < s->pairs; i++) {
    struct pair *p = &s->pair[i];
    if ((p->end[0].host == host || p->end[1].host == host) && !pair_done(p)) p->may_time_out = true;
  }
}

static void steal(struct host *h, uint32_t arg) {
  struct np_pool *pool = np_core_pool(h->core[0].core);
  uint32_t leave = arg % 3 == 0 ? 0 : pool->count / (arg % 60 + 4);
  while (pool->free_count > leave && h->stolen_count < SIM_STOLEN_MAX) {
    struct np_buf *b = np_pool_get(pool);
    if (!b) break;
    h->stolen[h->stolen_count++] = b;
  }
}

static void change_links(struct sim *s, struct host *h, const struct event *e) {
  struct np_rng r;
  np_rng_init(&r, s->args.seed ^ (uint64_t)e->arg << 20);
  for (uint32_t i = 0; i < h->cores; i++) {
    struct core_rig *c = &h->core[i];
    struct np_sim_params *to = &c->params[0];
    switch (e->kind) {
      case EV_PHASE: net_draw(s, &r, &c->params[e->arg & 1], (e->arg & 1) != 0); break;
      case EV_CUT: to[e->arg & 1].cut = to[0].cut = true; break;
      case EV_MENDED: to[0].cut = to[1].cut = false; break;
      case EV_MTU: to[1].mtu_bytes = e->arg % 5 == 0 ? 1280 : 1280 + (e->arg >> 4) % 200; break;
      default: to[1].mtu_bytes = 0; break;
    }
    net_apply(c);
  }
}

/* A path that stays narrow: somebody must say so, or every sender must look. */
static bool stays_narrow(const struct sim *s, const struct event *e) {
  bool probing = true;
  for (uint32_t i = 0; i < s->hosts; i++)
    if (s->host[i].config.tcp_mtu_probing == NP_MTU_PROBING_OFF) probing = false;
  return (e->arg & 2) != 0 && (probing || !s->host[e->host].black_hole);
}

static void happen(struct sim *s, const struct event *e) {
  struct host *h = &s->host[e->host];
  wire_note(&s->wire, &e->arg, sizeof e->arg, s->now_ns, 0x3000u | (uint32_t)e->kind);
  switch (e->kind) {
    case EV_CUT:
      /* nobody has buffers for what would free them, or a flood outlives a SYN's tries */
      if (e->arg >> 31 && (sim_has(s, F_POOL) || sim_has(s, F_ATTACK))) may_be_late(s, e->host);
      change_links(s, h, e);
      break;
    case EV_PHASE:
    case EV_MENDED: change_links(s, h, e); break;
    case EV_MTU_END:
      if (!stays_narrow(s, e)) change_links(s, h, e);
      break;
    case EV_MTU:
      h->black_hole = (e->arg >> 16 & 1) != 0;
      change_links(s, h, e);
      break;
    case EV_OFF:
      excuse(s, e->host, UINT64_MAX);
      host_off(s, e->host, (e->arg & 1) != 0);
      break;
    case EV_ON: host_on(s, e->host); break;
    case EV_STALL:
      if (e->arg >> 31) may_be_late(s, e->host);
      h->stalled = true;
      break;
    case EV_RESUME: h->stalled = false; break;
    case EV_JUMP:
      may_be_late(s, e->host);
      h->clock_ns += (1 + e->arg % 20000) * SIM_MS;
      break;
    case EV_STEAL:
      if (h->on) steal(h, e->arg);
      break;
    case EV_GIVE_BACK:
      while (h->stolen_count > 0) np_buf_put(h->stolen[--h->stolen_count]);
      break;
    case EV_UNLISTEN:
      excuse(s, e->host, UINT64_MAX);
      host_unlisten(h, e->arg % SIM_APP_PORTS);
      break;
    case EV_STEER: h->salt = e->arg; break;
  }
}

void faults_run(struct sim *s) {
  for (uint32_t i = 0; i < s->events; i++) {
    struct event e = s->event[i];
    if (e.at_ns > s->now_ns) continue;
    s->event[i].at_ns = UINT64_MAX;
    happen(s, &e);
  }
}

uint64_t faults_next_ns(const struct sim *s) {
  uint64_t next = UINT64_MAX;
  for (uint32_t i = 0; i < s->events; i++) next = np_min_u64(next, s->event[i].at_ns);
  return next;
}
