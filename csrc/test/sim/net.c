/* The network: a link from each core to a switch that knows where each address is. A host of two
 * cores has two links and one address; which of them a flow arrives by is the switch's choice, as
 * it is a card's by its hash. */
#include <stdlib.h>
#include <string.h>

#include "base/cksum.h"
#include "sim.h"
#include "wire/build.h"

#define SWITCH_BUFS 256u
#define CHUNK 4096u
#define ICMP_QUOTE 64u

static void draw_trouble(struct sim *s, struct np_rng *r, struct np_sim_params *p) {
  if (sim_once_in(s, F_LOSS, r, 2)) p->loss_ppm = 1000;
  p->loss_ppm *= 1 + np_rng_below(r, 40);
  bool burst = sim_once_in(s, F_BURST, r, 3);
  uint32_t chance = np_rng_below(r, 3000);
  uint32_t pkts = 2 + np_rng_below(r, 30);
  if (burst) {
    p->burst_loss_ppm = chance;
    p->burst_pkts = pkts;
  }
  bool bad = sim_once_in(s, F_BURST, r, 3);
  uint32_t enter = 100 + np_rng_below(r, 5000);
  uint32_t leave = 100000 + np_rng_below(r, 400000);
  uint32_t loss = 200000 + np_rng_below(r, 500000);
  if (bad) {
    p->bad_enter_ppm = enter;
    p->bad_leave_ppm = leave;
    p->bad_loss_ppm = loss;
  }
  if (sim_once_in(s, F_REORDER, r, 2)) p->reorder_ppm = 1000;
  p->reorder_ppm *= 1 + np_rng_below(r, np_rng_below(r, 4) == 0 ? 300 : 40);
  p->reorder_ns = 1 + np_rng_below(r, 10000000);
  if (sim_once_in(s, F_DUPLICATE, r, 2)) p->duplicate_ppm = 1000;
  p->duplicate_ppm *= 1 + np_rng_below(r, 30);
  if (sim_once_in(s, F_CORRUPT, r, 2)) p->corrupt_ppm = 1000;
  p->corrupt_ppm *= 1 + np_rng_below(r, 10);
  if (sim_once_in(s, F_CORRUPT, r, 2)) p->garble_ppm = 1000;
  p->garble_ppm *= 1 + np_rng_below(r, 10);
  if (sim_once_in(s, F_CORRUPT, r, 3)) p->truncate_ppm = 3000;
  if (sim_once_in(s, F_ECN, r, 2)) p->mark_bytes = 3000;
  p->mark_bytes *= 1 + np_rng_below(r, 20);
  if (sim_once_in(s, F_ECN, r, 2)) p->mark_ppm = 1000;
  p->mark_ppm *= 1 + np_rng_below(r, 100);
}

void net_draw(struct sim *s, struct np_rng *r, struct np_sim_params *p, bool to_host) {
  memset(p, 0, sizeof *p);
  p->delay_ns = sim_draw(s, F_DELAY, r, 15) * SIM_MS;
  p->delay_ns += sim_draw(s, F_DELAY, r, 1000000);
  if (sim_once_in(s, F_JITTER, r, 2)) p->jitter_ns = 1;
  p->jitter_ns *= np_rng_below(r, 5000000);
  if (sim_once_in(s, F_RATE, r, 2)) p->rate_bps = UINT64_C(1000000);
  p->rate_bps *= 3 + np_rng_below(r, np_rng_below(r, 2) == 0 ? 20 : 1000);
  p->queue_bytes = 8000 + np_rng_below(r, np_rng_below(r, 2) == 0 ? 30000 : 500000);
  draw_trouble(s, r, p);
  /* Only on the way to a host: what is spoiled once shows in a checksum, twice the changes may cancel. */
  if (!to_host) p->corrupt_ppm = p->garble_ppm = p->truncate_ppm = 0;
  if (s->args.bytes) *p = (struct np_sim_params){.delay_ns = 500000, .loss_ppm = 5000, .reorder_ppm = 5000, .queue_bytes = 4000000};
}

static struct core_rig *rig_at(struct sim *s, uint32_t at) { return &s->host[at / SIM_CORES_MAX].core[at % SIM_CORES_MAX]; }

static void tap(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t now_ns, bool lost, const char *fate) {
  const struct core_rig *c = ctx;
  struct sim *s = c->host->sim;
  uint32_t host = c->host->index;
  char text[96];
  wire_note(&s->wire, bytes, len, now_ns, host << 8 | c->index << 4 | dir << 1 | (lost ? 1u : 0u));
  if (fate) wire_note(&s->wire, fate, (uint32_t)strlen(fate), now_ns, dir);
  if (dir == 0) {
    wire_frame(&s->wire, bytes, len);
    attack_hear(s, bytes, len, host);
  }
  if (!s->pcap || (dir == 1 && !fate)) return;
  if (fate) snprintf(text, sizeof text, "%s %s host %u", fate, dir == 0 ? "leaving" : "on the way to", host);
  pcap_write(s->pcap, bytes, len, now_ns, fate ? text : NULL);
}

/* Chosen losses: each every-th frame longer than an ACK, and each every-th of the others, in turn. */
static bool chosen(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len) {
  struct core_rig *c = ctx;
  (void)bytes;
  uint32_t n = c->nth;
  if (c->every == 0 || dir == 0 || (len > 100) == ((n / c->every) % 2 == 0)) return false;
  c->nth++;
  return (n + 1) % c->every == 0;
}

/* A router that nobody sees says that the packet was too long: RFC 1191 §4, RFC 4443 §3.2. */
static void too_big(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint32_t mtu) {
  const struct core_rig *c = ctx;
  struct sim *s = c->host->sim;
  if (dir == 0 || c->host->black_hole) return;
  bool v4 = np_load_be16(bytes + NP_ETH_TYPE) == NP_ETHERTYPE_IP4;
  const uint8_t *l3 = bytes + NP_ETH_BYTES;
  uint32_t quote = np_min_u32(ICMP_QUOTE, len - NP_ETH_BYTES);
  uint8_t f[NP_ETH_BYTES + NP_IP6_BYTES + 8 + ICMP_QUOTE] = {0};
  uint32_t host = bytes[NP_ETH_SRC + 5] - 1u;
  if (host >= s->hosts) return;
  struct np_mac router = {{2, 0, 0, 0, 0, 0xfe}};
  struct np_addr dst = v4 ? np_addr_from_v4_be(l3 + NP_IP4_SRC) : np_addr_from_v6(l3 + NP_IP6_SRC);
  struct np_addr src = v4 ? np_addr_from_v4_be((uint8_t[]){198, 18, 0, 254}) : np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 254});
  uint8_t *p = f + NP_ETH_BYTES + (v4 ? NP_IP4_BYTES : NP_IP6_BYTES);
  np_wire_put_eth(f, &s->host[host].mac, &router, 0, v4 ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
  if (v4) {
    np_wire_put_ip4(f + NP_ETH_BYTES, &src, &dst, 1, 0, 1, (uint16_t)(NP_IP4_BYTES + 8 + quote));
    p[0] = NP_ICMP_UNREACH;
    p[1] = NP_ICMP_UNREACH_FRAG;
    np_store_be16(p + 6, (uint16_t)mtu);
  } else {
    np_wire_put_ip6(f + NP_ETH_BYTES, &src, &dst, NP_PROTO_ICMPV6, 0, 64, (uint16_t)(8 + quote));
    p[0] = NP_ICMP6_TOO_BIG;
    np_store_be32(p + 4, mtu);
  }
  memcpy(p + 8, l3, quote);
  uint64_t sum = v4 ? 0 : np_cksum_pseudo(&src, &dst, NP_PROTO_ICMPV6, 8 + quote);
  np_store_16(p + NP_ICMP_CKSUM, np_cksum_finish(np_cksum_add(sum, p, 8 + quote)));
  net_inject(s, host, f, (uint32_t)(p + 8 + quote - f), "packet too big, from a router");
}

void net_apply(struct core_rig *c) {
  np_sim_set(c->link, 0, &c->params[0]);
  np_sim_set(c->link, 1, &c->params[1]);
}

bool net_open(struct sim *s) {
  s->switch_mem = aligned_alloc(CHUNK, SWITCH_BUFS * CHUNK);
  s->switch_stack = malloc(np_pool_stack_bytes(SWITCH_BUFS));
  if (!s->switch_mem || !s->switch_stack) return sim_fail(s, "out of memory");
  np_pool_init(&s->switch_pool, s->switch_mem, SWITCH_BUFS, CHUNK, s->switch_stack, &s->switch_counters);
  const struct np_mac mac = {{2, 0, 0, 0, 0, 0xff}};
  for (uint32_t h = 0; h < s->hosts; h++) {
    for (uint32_t i = 0; i < s->host[h].cores; i++) {
      struct core_rig *c = &s->host[h].core[i];
      net_draw(s, &s->rng_net, &c->params[0], false);
      net_draw(s, &s->rng_net, &c->params[1], true);
      c->host = &s->host[h];
      c->index = i;
      uint32_t every = 8 + np_rng_below(&s->rng_net, 60);
      if (sim_once_in(s, F_CHOSEN, &s->rng_net, 2)) c->every = every;
      /* A quarter of the hosts each: plain, gathering, with checksums, with segmentation. */
      static const uint32_t caps[] = {0, NP_PORT_SG, NP_PORT_SG | NP_PORT_TX_CSUM, NP_PORT_SG | NP_PORT_TX_CSUM | NP_PORT_TSO};
      struct np_sim_config config = {.seed = np_rng_u64(&s->rng_net),
                                     .inflight_max = 2048,
                                     .mtu_bytes = SIM_MTU_MAX,
                                     .caps = caps[(s->args.seed / 4 + h) % NP_COUNT_OF(caps)],
                                     .dir = {c->params[0], c->params[1]}};
      c->link = np_sim_new(&config);
      if (!c->link) return sim_fail(s, "out of memory");
      np_sim_end(c->link, 1, &s->switch_pool, &mac, (uint16_t)(h * SIM_CORES_MAX + i));
      np_sim_set_now(c->link, s->now_ns);
      np_sim_set_tap(c->link, tap, c);
      np_sim_set_filter(c->link, chosen, c);
      np_sim_set_too_big(c->link, too_big, c);
    }
  }
  return true;
}

void net_close(struct sim *s) {
  for (uint32_t at = 0; at < s->hosts * SIM_CORES_MAX; at++) np_sim_free(rig_at(s, at)->link);
  if (s->switch_mem && s->switch_pool.free_count != SWITCH_BUFS) sim_fail(s, "the switch lost a buffer");
  free(s->switch_mem);
  free(s->switch_stack);
}

void net_set_now(struct sim *s) {
  for (uint32_t h = 0; h < s->hosts; h++)
    for (uint32_t i = 0; i < s->host[h].cores; i++) np_sim_set_now(s->host[h].core[i].link, s->now_ns);
}

static bool is_syn(const uint8_t *f, uint32_t len) {
  bool v4 = np_load_be16(f + NP_ETH_TYPE) == NP_ETHERTYPE_IP4;
  uint32_t l4 = NP_ETH_BYTES + (v4 ? NP_IP4_BYTES : NP_IP6_BYTES);
  return len >= l4 + NP_TCP_BYTES && f[NP_ETH_BYTES + (v4 ? NP_IP4_PROTO : NP_IP6_NEXT)] == 6 && (f[l4 + NP_TCP_FLAGS] & 0x12) == 0x02;
}

/* Which of a host's cores a frame goes to: the same for all frames of a flow until salt changes, but that with half
 * of all salts each SYN goes anywhere, as that of a peer that was not answered soon. */
static uint32_t steer(const struct host *h, const uint8_t *f, uint32_t len) {
  if (h->cores == 1) return 0;
  uint64_t x = h->salt;
  if ((h->salt & 1) != 0 && is_syn(f, len)) x ^= h->sim->now_ns << 20;
  uint32_t l4 = np_load_be16(f + NP_ETH_TYPE) == NP_ETHERTYPE_IP4 ? NP_ETH_BYTES + NP_IP4_BYTES : NP_ETH_BYTES + NP_IP6_BYTES;
  if (len >= l4 + 4) x ^= np_load_be32(f + l4); /* ports; any bytes of what has none */
  if (len >= l4) x ^= np_load_be32(f + l4 - 8) ^ f[l4 - 1];
  return (uint32_t)(np_splitmix64(&x) >> 32) & 1u;
}

static void pass(struct sim *s, uint32_t host, struct np_buf *b) {
  struct host *h = &s->host[host];
  struct core_rig *c = &h->core[steer(h, np_buf_cdata(b), b->len)];
  struct np_port_queue *q = np_sim_queue(c->link, 1);
  for (struct np_buf *piece = b; piece; piece = piece->next) piece->refs++; /* bound: the pieces of a frame */
  q->ops->tx(q, &b, 1);
}

static void switch_one(struct sim *s, uint32_t from, struct np_buf *b) {
  const uint8_t *f = np_buf_cdata(b);
  bool known = b->len >= 14 && (f[0] & 1) == 0 && f[5] >= 1 && f[5] <= s->hosts;
  for (uint32_t h = 0; b->len >= 14 && h < s->hosts; h++) {
    if (h == from || (known && memcmp(f, s->host[h].mac.b, 6) != 0)) continue;
    pass(s, h, b);
  }
  np_buf_put_chain(b);
}

bool net_forward(struct sim *s) {
  bool any = false;
  for (uint32_t h = 0; h < s->hosts; h++) {
    for (uint32_t i = 0; i < s->host[h].cores; i++) {
      struct np_port_queue *q = np_sim_queue(s->host[h].core[i].link, 1);
      struct np_buf *burst[NP_BURST];
      for (uint32_t n; (n = q->ops->rx(q, burst, NP_BURST)) > 0; any = true)
        for (uint32_t k = 0; k < n; k++) switch_one(s, h, burst[k]);
      if (!s->host[h].on) np_sim_discard(s->host[h].core[i].link, 0);
    }
  }
  return any;
}

uint64_t net_next_ns(const struct sim *s) {
  uint64_t next = UINT64_MAX;
  for (uint32_t h = 0; h < s->hosts; h++) {
    for (uint32_t i = 0; i < s->host[h].cores; i++) {
      const struct np_sim_link *l = s->host[h].core[i].link;
      next = np_min_u64(next, np_sim_next_at_ns(l, 1));
      if (!s->host[h].stalled) next = np_min_u64(next, np_sim_next_at_ns(l, 0));
    }
  }
  return next;
}

void net_inject(struct sim *s, uint32_t host, const uint8_t *frame, uint32_t len, const char *comment) {
  struct host *h = &s->host[host];
  wire_note(&s->wire, frame, len, s->now_ns, 0x1000u | host);
  if (s->pcap) pcap_write(s->pcap, frame, len, s->now_ns, comment);
  np_sim_inject(h->core[steer(h, frame, len)].link, 1, frame, len, SIM_MS);
}
