/* What keeps one peer, or many with one mind, from taking more than their share: answers
 * per second of the whole core, half-open and open connections per source, windows held
 * shut. All of it is counted in memory of fixed size, under keys that nobody outside
 * knows, and a forged source address can be made to cost its owner nothing but a cookie. */
#include "tcp/tcp_int.h"

#define HALF_WIDTH 1024u
#define HALF_SHARE 4u      /* of a backlog, for one source */
#define HALF_LEAST 16u
#define PERSIST_PRESSED_MS 10000u

_Static_assert(sizeof(((struct np_tcp_guard *)0)->half) == NP_TCP_GUARD_ROWS * HALF_WIDTH * sizeof(uint32_t), "as wide as it says");

/* RFC 5961 §7 wants answers limited. A limit that a peer could know would tell it, by what is
 * left of it, whether a number it guessed was right for somebody else's connection: so it is
 * drawn anew each second. Return: true when one more may leave. */
static bool allow(struct np_tcp *tcp, struct np_tcp_allowance *a, uint32_t per_s) {
  if (per_s == 0) return true;
  uint32_t second = tcp->now_ms / 1000;
  if (second != a->second || a->drawn == 0) {
    uint64_t in[2] = {second, ++a->drawn};
    a->second = second;
    a->left = per_s / 2 + (uint32_t)(np_siphash(tcp->key_cookie, in, sizeof in) % (per_s + 1u));
  }
  if (a->left == 0) return false;
  a->left--;
  return true;
}

bool np_tcp_guard_challenge(struct np_tcp *tcp) { return allow(tcp, &tcp->guard.challenges, tcp->config.challenge_per_s); }

/* Resets to what belongs to no connection. Who sends in another's name must not make us flood that other. */
bool np_tcp_guard_reset(struct np_tcp *tcp) { return allow(tcp, &tcp->guard.resets, tcp->config.reset_per_s); }

/* IPv4 by address, IPv6 by the 64 bits that name a network: a host has all the rest to itself. */
static uint64_t source_hash(const struct np_tcp *tcp, const struct np_addr *remote) {
  return np_siphash(tcp->key_isn, remote->b, np_addr_is_v4(remote) ? sizeof remote->b : 8);
}

/* A count-min sketch: a cell per row, the least of them is never less than the true count. */
static uint32_t *cell(uint32_t *cells, uint32_t width, uint32_t row, uint64_t hash) {
  return &cells[row * width + ((uint32_t)(hash >> (32u * row)) & (width - 1))];
}

static uint32_t estimate(uint32_t *cells, uint32_t width, uint64_t hash) {
  return np_min_u32(*cell(cells, width, 0, hash), *cell(cells, width, 1, hash));
}

static void add(uint32_t *cells, uint32_t width, uint64_t hash, int32_t n) {
  for (uint32_t row = 0; row < NP_TCP_GUARD_ROWS; row++) {
    uint32_t *p = cell(cells, width, row, hash);
    np_assert(n > 0 || *p > 0);
    *p += (uint32_t)n;
  }
}

/* Cells for open connections: as many in a row as there may be connections, so that strangers rarely share both. */
uint32_t np_tcp_guard_width(const struct np_tcp_config *config) {
  if (config->conns_per_source == 0) return 0;
  uint32_t n = 256;
  while (n < config->conns_max) n *= 2;
  return n;
}

/* Half open. Anybody can send SYNs in another's name, so this does not refuse where it need not: beyond
 * its share of the backlog a source is answered with cookies; without them it leaves others an eighth. */
bool np_tcp_guard_half_full(struct np_tcp *tcp, const struct np_addr *remote, uint32_t backlog, bool cookies) {
  uint32_t share = np_max_u32(cookies ? backlog / HALF_SHARE : backlog - backlog / 8, HALF_LEAST);
  return backlog > share && estimate(tcp->guard.half, HALF_WIDTH, source_hash(tcp, remote)) >= share;
}

void np_tcp_guard_half(struct np_tcp *tcp, const struct np_addr *remote, int32_t n) {
  add(tcp->guard.half, HALF_WIDTH, source_hash(tcp, remote), n);
}

/* Open: the handshake has shown that the source is where it says. */
bool np_tcp_guard_source_full(struct np_tcp *tcp, const struct np_addr *remote) {
  const struct np_tcp_guard *g = &tcp->guard;
  return g->width != 0 && estimate(g->open, g->width, source_hash(tcp, remote)) >= tcp->config.conns_per_source;
}

void np_tcp_guard_source(struct np_tcp *tcp, const struct np_addr *remote, int32_t n) {
  if (tcp->guard.width != 0) add(tcp->guard.open, tcp->guard.width, source_hash(tcp, remote), n);
}

/* A window begins to hold c back. The time counts on from before when what has been taken since is
 * less than a segment, and not all that waited then: who opens a window by a few bytes, now and
 * then, holds as much of ours as who keeps it shut. */
void np_tcp_guard_shut(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->shut_counts && np_seq_lt(c->snd_una, c->shut_until)) return;
  c->shut_counts = true;
  c->shut_ms = tcp->now_ms;
  c->shut_until = np_seq_add(c->snd_una, np_min_u32(c->mss, (uint32_t)np_seq_diff(c->snd_end, c->snd_una)));
}

/* RFC 9293 §3.8.6.1 lets a window stay shut for ever as long as its owner answers; RFC 6429 §4 adds
 * that we need not keep what is queued for it for ever. Return: true when the connection ends. */
bool np_tcp_guard_persist(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t shut_ms = tcp->now_ms - c->shut_ms;
  uint32_t limit_ms = tcp->config.persist_ms;
  bool more = np_tcp_mem_below(tcp, NP_TCP_MEM_MAX) || c->snd_segs > np_tcp_mem_least(tcp);
  bool pressed = np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE) && more && shut_ms >= PERSIST_PRESSED_MS;
  if (!pressed && (limit_ms == 0 || shut_ms < limit_ms)) return false;
  np_tcp_count(tcp, NP_C_TCP_PERSIST_ENDED);
  return true;
}
