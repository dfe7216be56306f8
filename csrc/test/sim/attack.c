/* A third party on the network: it knows addresses and ports, and hears some frames, but
 * what it sends must not do harm. Each kind of forgery is one that the stacks can tell. */
#include <string.h>

#include "base/cksum.h"
#include "sim.h"
#include "wire/build.h"

enum kind { K_SYN_FLOOD, K_RST, K_SYN, K_ACK, K_TEXT, K_REPLAY, K_STALE, K_ICMP, K_STRAY, K_NOISE, K_COUNT };

void attack_draw(struct sim *s) {
  struct attack *a = &s->attack;
  struct np_rng *r = &a->rng;
  uint64_t at = s->now_ns + (uint64_t)np_rng_below(r, 5000) * SIM_MS;
  uint64_t lasts = (100 + np_rng_below(r, 5000)) * SIM_MS;
  a->every_ns = (1 + np_rng_below(r, 40)) * SIM_MS;
  a->kinds = np_rng_below(r, 1u << K_COUNT);
  a->kinds |= 1u << np_rng_below(r, K_COUNT);
  a->next_ns = sim_has(s, F_ATTACK) ? at : UINT64_MAX;
  a->until_ns = at + lasts;
  if (!sim_has(s, F_ATTACK)) return;
  /* a flood fills the backlog of whoever has a small one: without cookies SYNs are lost until it
   * has passed; with them, who waits for the other to speak first may wait in vain (RFC 4987 §3.6).
   * Short of buffers a host has an eighth of it, which without cookies each new SYN takes from the one before */
  bool flood = (a->kinds & 1u << K_SYN_FLOOD) != 0;
  for (uint32_t i = 0; i < s->pairs; i++) {
    struct pair *p = &s->pair[i];
    const struct host *h = &s->host[p->end[1].host];
    if (h->backlog < 128 && (flood || (sim_has(s, F_POOL) && !h->cookies))) p->may_fail = true;
  }
}

void attack_hear(struct sim *s, const uint8_t *frame, uint32_t len, uint32_t from) {
  struct attack *a = &s->attack;
  if (a->next_ns == UINT64_MAX || len > SIM_FRAME_BYTES || len < 54) return;
  uint32_t to = frame[5] - 1u; /* see host_draw */
  if (np_load_be16(frame + NP_ETH_TYPE) == NP_ETHERTYPE_ARP || (frame[0] & 1) || to >= s->hosts || to == from) return;
  struct heard *h = &a->heard[np_rng_below(&a->rng, SIM_HEARD)];
  memcpy(h->bytes, frame, len);
  h->len = len;
  h->to = to;
}

struct forged {
  struct np_flow flow; /* local: the victim's end */
  uint32_t seq, ack, len;
  uint16_t wnd;
  uint8_t flags;
  bool ts, sack;
};

static void send_forged(struct sim *s, uint32_t victim, const struct forged *g, const char *comment) {
  struct np_rng *r = &s->attack.rng;
  uint8_t f[NP_ETH_BYTES + NP_IP6_BYTES + 60 + 1460] = {0};
  bool v4 = np_addr_is_v4(&g->flow.local);
  uint32_t l4 = NP_ETH_BYTES + (v4 ? NP_IP4_BYTES : NP_IP6_BYTES);
  uint32_t hdr = NP_TCP_BYTES + (g->ts ? 12u : 0) + (g->sack ? 12u : 0);
  uint32_t tcp = hdr + g->len;
  uint8_t *p = f + l4;
  const struct np_mac from = {{2, 0, 0, 0, 0, 0xee}};
  np_wire_put_eth(f, &s->host[victim].mac, &from, 0, v4 ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
  if (v4) np_wire_put_ip4(f + NP_ETH_BYTES, &g->flow.remote, &g->flow.local, 6, (uint8_t)np_rng_below(r, 4), 7, (uint16_t)(NP_IP4_BYTES + tcp));
  else np_wire_put_ip6(f + NP_ETH_BYTES, &g->flow.remote, &g->flow.local, 6, (uint8_t)np_rng_below(r, 4), 64, (uint16_t)tcp);
  np_store_be16(p, g->flow.remote_port);
  np_store_be16(p + 2, g->flow.local_port);
  np_store_be32(p + 4, g->seq);
  np_store_be32(p + 8, g->ack);
  p[NP_TCP_DOFF] = (uint8_t)(hdr / 4 << 4);
  p[NP_TCP_FLAGS] = g->flags;
  np_store_be16(p + 14, g->wnd);
  uint8_t *o = p + NP_TCP_BYTES;
  if (g->ts) {
    uint32_t tsecr = np_rng_u32(r);
    uint32_t tsval = np_rng_u32(r);
    o += np_tcp_opts_put_ts(o, tsval, tsecr);
  }
  struct np_tcp_block none = {{0}, {0}};
  struct np_tcp_block lie = {.start = np_seq_of(g->ack + np_rng_below(r, 5000))};
  lie.end = np_seq_of(g->ack + 5000 + np_rng_below(r, 5000));
  if (g->sack) o += np_tcp_opts_put_sack(o, &none, &lie, 1, 12);
  for (uint32_t i = 0; i < g->len; i++) p[hdr + i] = (uint8_t)(i ^ 0x5a);
  np_store_16(p + NP_TCP_CKSUM, np_cksum_finish(np_cksum_add(np_cksum_pseudo(&g->flow.local, &g->flow.remote, 6, tcp), p, tcp)));
  net_inject(s, victim, f, l4 + tcp, comment);
}

/* Either end of a connection that is established at both. Return: false when there is none. */
static bool pick_flow(struct sim *s, struct np_flow *flow, uint32_t *victim) {
  struct np_rng *r = &s->attack.rng;
  uint32_t first = np_rng_below(r, s->pairs);
  bool opener = np_rng_below(r, 2) != 0;
  for (uint32_t i = 0; i < s->pairs; i++) {
    const struct pair *p = &s->pair[(first + i) % s->pairs];
    if (!p->started || !p->end[0].established || p->end[0].closed || p->end[0].got == 0) continue;
    *victim = p->end[opener ? 0 : 1].host;
    *flow = p->flow;
    if (opener) return true;
    flow->local = p->flow.remote;
    flow->remote = p->flow.local;
    flow->local_port = p->flow.remote_port;
    flow->remote_port = p->flow.local_port;
    return true;
  }
  return false;
}

static void blind(struct sim *s, enum kind kind) {
  static const uint8_t flags[K_COUNT] = {[K_RST] = 0x04, [K_SYN] = 0x02, [K_ACK] = 0x10, [K_TEXT] = 0x18};
  static const char *const comment[K_COUNT] = {
      [K_RST] = "forged RST", [K_SYN] = "forged SYN", [K_ACK] = "forged ACK", [K_TEXT] = "forged text"};
  struct np_rng *r = &s->attack.rng;
  struct forged g = {.flags = flags[kind]};
  uint32_t victim;
  g.seq = np_rng_u32(r);
  g.ack = np_rng_u32(r);
  g.wnd = (uint16_t)np_rng_u32(r);
  g.len = kind == K_TEXT ? 1 + np_rng_below(r, 1400) : 0;
  g.ts = np_rng_below(r, 2) != 0;
  g.sack = np_rng_below(r, 4) == 0;
  if (kind == K_RST && np_rng_below(r, 2)) g.flags |= 0x10;
  if (kind == K_TEXT && np_rng_below(r, 4) == 0) g.flags |= 0x01;
  if (!pick_flow(s, &g.flow, &victim)) return;
  send_forged(s, victim, &g, comment[kind]);
}

/* From addresses where nobody is, and from hosts that will answer with RST. */
static void flood(struct sim *s, bool syn) {
  struct np_rng *r = &s->attack.rng;
  uint32_t victim = np_rng_below(r, s->hosts);
  bool v6 = np_rng_below(r, 2) != 0;
  uint32_t who = np_rng_below(r, 3) == 0 ? np_rng_below(r, s->hosts) : 100 + np_rng_below(r, 100);
  static const uint16_t ports[] = {7, 9, SIM_APP_PORT, SIM_APP_PORT + 1};
  struct forged g = {.seq = np_rng_u32(r), .wnd = 65535, .flags = 0x02};
  g.flow.local = host_addr(victim, v6);
  g.flow.remote = host_addr(who, v6);
  g.flow.local_port = ports[np_rng_below(r, 4)];
  g.flow.remote_port = (uint16_t)(1024 + np_rng_below(r, 18000)); /* below what hosts connect from */
  g.ts = np_rng_below(r, 2) != 0;
  if (!syn) {
    g.flags = (uint8_t)np_rng_below(r, 256);
    g.flags &= (uint8_t)~0x02u;
    g.ack = np_rng_u32(r);
    bool text = np_rng_below(r, 2) != 0;
    uint32_t len = np_rng_below(r, 1400);
    g.len = text ? len : 0;
  }
  if (who != victim) send_forged(s, victim, &g, syn ? "SYN of a flood" : "stray segment");
}

/* Whether some core of the host has the connection of a frame on its way there. */
static bool known(struct sim *s, uint32_t host, const uint8_t *f, uint32_t l4, bool v4) {
  struct np_flow flow = {.local_port = np_load_be16(f + l4 + 2), .remote_port = np_load_be16(f + l4)};
  const uint8_t *ip = f + NP_ETH_BYTES;
  flow.remote = v4 ? np_addr_from_v4_be(ip + NP_IP4_SRC) : np_addr_from_v6(ip + NP_IP6_SRC);
  flow.local = v4 ? np_addr_from_v4_be(ip + NP_IP4_DST) : np_addr_from_v6(ip + NP_IP6_DST);
  const struct host *h = &s->host[host];
  for (uint32_t i = 0; h->on && i < h->cores; i++) {
    struct np_tcp *tcp = np_core_tcp(h->core[i].core);
    if (np_tcp_find(tcp, &flow, np_tcp_flow_hash(tcp, &flow)) != NULL) return true;
  }
  return false;
}

/* What it heard once more, as it was; or so far from the window that it must be refused. */
static void again(struct sim *s, bool stale) {
  struct attack *a = &s->attack;
  const struct heard *h = &a->heard[np_rng_below(&a->rng, SIM_HEARD)];
  uint8_t f[SIM_FRAME_BYTES];
  if (h->len == 0) return;
  memcpy(f, h->bytes, h->len);
  bool v4 = np_load_be16(f + NP_ETH_TYPE) == NP_ETHERTYPE_IP4;
  uint32_t l4 = NP_ETH_BYTES + (v4 ? NP_IP4_BYTES : NP_IP6_BYTES);
  if (h->len < l4 + NP_TCP_BYTES || f[v4 ? NP_ETH_BYTES + NP_IP4_PROTO : NP_ETH_BYTES + NP_IP6_NEXT] != 6) return;
  if ((f[l4 + NP_TCP_FLAGS] & 0x02) != 0) return; /* a SYN again may open anew what has ended */
  if (stale) {
    /* While a SYN cookie is all that stands for a connection, its ACK with another sequence number is
     * anybody's: the reset that answers it (RFC 9293 §3.10.7.2) fits the other end. */
    if (!known(s, h->to, f, l4, v4)) return;
    uint16_t was = np_load_16(f + l4 + 4);
    uint32_t by = 0x20000000u + (np_rng_u32(&a->rng) & 0x3fff0000u);
    np_store_be32(f + l4 + 4, np_load_be32(f + l4 + 4) + by);
    np_store_16(f + l4 + NP_TCP_CKSUM, np_cksum_update16(np_load_16(f + l4 + NP_TCP_CKSUM), was, np_load_16(f + l4 + 4)));
    if (np_rng_below(&a->rng, 2)) { /* and a reset at that */
      was = np_load_16(f + l4 + NP_TCP_DOFF);
      f[l4 + NP_TCP_FLAGS] = 0x14;
      np_store_16(f + l4 + NP_TCP_CKSUM, np_cksum_update16(np_load_16(f + l4 + NP_TCP_CKSUM), was, np_load_16(f + l4 + NP_TCP_DOFF)));
    }
  }
  net_inject(s, h->to, f, h->len, stale ? "heard, far from the window" : "heard, once more");
}

/* Errors about segments that were never sent (RFC 5927 §4.1). */
static void false_icmp(struct sim *s) {
  struct np_rng *r = &s->attack.rng;
  uint32_t victim;
  struct np_flow flow;
  if (!pick_flow(s, &flow, &victim) || !np_addr_is_v4(&flow.local)) return;
  uint8_t f[NP_ETH_BYTES + NP_IP4_BYTES + 8 + NP_IP4_BYTES + 8] = {0};
  const struct np_mac from = {{2, 0, 0, 0, 0, 0xee}};
  struct np_addr router = np_addr_from_v4_be((uint8_t[]){198, 18, 0, 254});
  np_wire_put_eth(f, &s->host[victim].mac, &from, 0, NP_ETHERTYPE_IP4);
  np_wire_put_ip4(f + NP_ETH_BYTES, &router, &flow.local, 1, 0, 9, sizeof f - NP_ETH_BYTES);
  uint8_t *p = f + NP_ETH_BYTES + NP_IP4_BYTES;
  p[0] = NP_ICMP_UNREACH;
  p[1] = (uint8_t)np_rng_below(r, 16);
  if (p[1] == NP_ICMP_UNREACH_FRAG) np_store_be16(p + 6, (uint16_t)np_rng_below(r, 1500));
  np_wire_put_ip4(p + 8, &flow.local, &flow.remote, 6, 0, 9, 1400);
  np_store_be16(p + 28, flow.local_port);
  np_store_be16(p + 30, flow.remote_port);
  np_store_be32(p + 32, np_rng_u32(r));
  np_store_16(p + NP_ICMP_CKSUM, np_cksum_finish(np_cksum_add(0, p, sizeof f - NP_ETH_BYTES - NP_IP4_BYTES)));
  net_inject(s, victim, f, sizeof f, "false ICMP");
}

static void noise(struct sim *s) {
  struct np_rng *r = &s->attack.rng;
  uint8_t f[200];
  uint32_t len = 14 + np_rng_below(r, sizeof f - 14);
  uint32_t victim = np_rng_below(r, s->hosts);
  for (uint32_t i = 0; i < sizeof f; i++) f[i] = (uint8_t)np_rng_u32(r);
  memcpy(f, s->host[victim].mac.b, 6);
  f[6] &= 0xfe;
  np_store_be16(f + NP_ETH_TYPE, np_rng_below(r, 2) ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
  if (np_rng_below(r, 2)) f[14] = np_load_be16(f + NP_ETH_TYPE) == NP_ETHERTYPE_IP4 ? 0x45 : 0x60;
  net_inject(s, victim, f, len, "noise");
}

void attack_run(struct sim *s) {
  struct attack *a = &s->attack;
  if (a->next_ns > s->now_ns) return;
  enum kind kind = (enum kind)np_rng_below(&a->rng, K_COUNT);
  for (uint32_t i = 0; i < K_COUNT && !(a->kinds & 1u << kind); i++) kind = (enum kind)((kind + 1) % K_COUNT);
  a->sent++;
  switch (kind) {
    case K_SYN_FLOOD:
      for (uint32_t i = 0; i < 4; i++) flood(s, true);
      break;
    case K_STRAY: flood(s, false); break;
    case K_REPLAY: again(s, false); break;
    case K_STALE: again(s, true); break;
    case K_ICMP: false_icmp(s); break;
    case K_NOISE: noise(s); break;
    default: blind(s, kind); break;
  }
  a->next_ns = s->now_ns + a->every_ns > a->until_ns ? UINT64_MAX : s->now_ns + a->every_ns;
}
