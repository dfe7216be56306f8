/* SYN cookies, RFC 4987 §3.6: a listener whose backlog is full keeps nothing and
 * puts what it has to know into its sequence number:
 *
 *   | minute 5 | MSS index 3 | MAC 24 |   plus a keyed line of the flow at the peer's first number
 *
 * and, where the peer sent timestamps, window scale, SACK and ECN into the low bits of ours:
 *
 *   | clock ... | ECN 1 | SACK 1 | window scale 4 |                                     */
#include "base/rng.h"
#include "tcp/tcp_int.h"

#define COOKIE_PERIOD_SHIFT 36 /* about 69 s; a cookie lives one to two of them */
#define TS_BITS 6u
#define TS_MASK ((1u << TS_BITS) - 1)
#define WSCALE_NONE 15u
#define ECN_BIT 32u

static const uint16_t mss_table[8] = {536, 1024, 1220, 1360, 1400, 1440, 1460, 8960};

static uint64_t mac(const struct np_tcp *tcp, const struct np_flow *flow, uint32_t period) {
  uint8_t in[sizeof *flow + 4];
  memcpy(in, flow, sizeof *flow);
  np_store_be32(in + sizeof *flow, period);
  return np_siphash(tcp->key_cookie, in, sizeof in);
}

/* Hides the plain bits, which are a clock, and ties them to the peer's first number, on a line that nobody
 * else knows the slope of: a segment further on in the peer's stream is told by how far it is off, one
 * whose both numbers went on by the same is not. */
struct veil {
  uint32_t base, slope; /* slope is odd */
};

static struct veil veil_of(const struct np_tcp *tcp, const struct np_flow *flow) {
  uint64_t h = mac(tcp, flow, UINT32_MAX);
  return (struct veil){(uint32_t)h, (uint32_t)(h >> 32) | 1u};
}

static uint32_t veil_at(const struct veil *v, np_seq irs) { return v->base + v->slope * irs.v; }

/* What times the slope is 1 modulo 2^32: each step doubles the bits that are right, and an odd number is
 * its own inverse in the lowest three. */
static uint32_t inverse(uint32_t slope) {
  uint32_t x = slope;
  for (uint32_t bits = 3; bits < 32; bits *= 2) x *= 2u - slope * x;
  return x;
}

static uint32_t period_now(const struct np_tcp *tcp) { return (uint32_t)(tcp->now_ns >> COOKIE_PERIOD_SHIFT); }

/* m is the MAC of the period. Another index has another 24 bits, without a MAC of its own: a stranger's
 * number is held against all of them. */
static uint32_t plain_of(uint64_t m, uint32_t period, uint32_t index) {
  uint64_t x = m + index;
  return (period & 31u) << 27 | index << 24 | (uint32_t)(np_splitmix64(&x) >> 40);
}

/* A timestamp not ahead of the clock whose low bits are ours to use. */
static uint32_t ts_with(uint32_t ts, uint32_t bits) {
  uint32_t v = (ts & ~TS_MASK) | bits;
  return (int32_t)(v - ts) > 0 ? v - (TS_MASK + 1) : v;
}

/* What a peer sends first at most (RFC 6928). It must be the same when the ACK comes, so buffers have no say. */
static uint32_t window_of(const struct np_tcp *tcp, uint32_t index) {
  return np_min_u32(NP_TCP_INIT_SEGS * (uint32_t)mss_table[index], np_min_u32(np_tcp_rcv_start(tcp), UINT16_MAX));
}

enum np_drop np_tcp_cookie_send(struct np_tcp *tcp, const struct np_tcp_seg *seg) {
  const struct np_flow *flow = &seg->pkt->flow;
  const struct np_tcp_config *cfg = &tcp->config;
  struct veil veil = veil_of(tcp, flow);
  uint32_t period = period_now(tcp);
  uint32_t index = 0;
  for (uint32_t i = 0; i < NP_COUNT_OF(mss_table); i++) {
    if (seg->opts.mss >= mss_table[i]) index = i;
  }
  const uint8_t asks = NP_TCP_ECE | NP_TCP_CWR;
  bool ts = cfg->timestamps && seg->opts.has_ts;
  bool wscale = ts && cfg->window_scaling && seg->opts.has_wscale;
  uint32_t mss = np_tcp_mss_local(tcp, &flow->remote);
  struct np_tcp_synack a = {
      .seq = np_seq_of(plain_of(mac(tcp, flow, period), period, index) + veil_at(&veil, seg->seq)),
      .ack = np_seq_add(seg->seq, 1),
      .tsecr = seg->opts.tsval,
      .mss = (uint16_t)(mss == 0 ? NP_TCP_MSS_V4 : mss),
      .wnd = (uint16_t)window_of(tcp, index),
      .wscale = wscale ? tcp->rcv_wscale : 0xff,
      .sack = ts && cfg->sack && seg->opts.sack_ok,
      .ts = ts,
      .ece = ts && cfg->ecn != NP_ECN_OFF && (seg->flags & asks) == asks, /* without timestamps it would be forgotten */
  };
  if (ts) {
    uint32_t bits = (a.ece ? ECN_BIT : 0) | (a.sack ? 16u : 0) | (wscale ? seg->opts.wscale : WSCALE_NONE);
    a.tsval = ts_with(tcp->now_ms + np_tcp_ts_offset(np_tcp_flow_secret(tcp, flow)), bits);
  }
  np_tcp_send_synack_raw(tcp, flow, &a);
  np_tcp_count(tcp, NP_C_TCP_COOKIE_TX);
  tcp->cookie_ns = tcp->now_ns;
  return NP_TCP_OK;
}

/* Where in the peer's stream a segment with these numbers begins that a cookie of the last two periods
 * allowed. Return: 0: it is the first and brings the cookie back, *index is the MSS index in it; to 65,535,
 * the most that a SYN's window allows: there is one before it; else: it knows no cookie of ours. */
static uint32_t check(const struct np_tcp *tcp, const struct np_flow *flow, np_seq irs, np_seq iss, uint32_t *index) {
  struct veil veil = veil_of(tcp, flow);
  uint32_t plain = iss.v - veil_at(&veil, irs);
  uint32_t per_octet = inverse(veil.slope);
  uint32_t least = UINT32_MAX;
  for (uint32_t age = 0; age < 2; age++) {
    uint32_t period = period_now(tcp) - age;
    uint64_t m = mac(tcp, flow, period);
    for (uint32_t i = 0; i < NP_COUNT_OF(mss_table); i++) {
      uint32_t ahead = (plain_of(m, period, i) - plain) * per_octet;
      if (ahead < least) *index = i;
      least = np_min_u32(least, ahead);
    }
  }
  return least;
}

/* The options the SYN must have carried. */
static void recall(const struct np_tcp *tcp, const struct np_tcp_seg *seg, uint32_t index, struct np_tcp_opts *opts) {
  *opts = (struct np_tcp_opts){.mss = mss_table[index]};
  if (!seg->opts.has_ts || !tcp->config.timestamps) return;
  uint32_t bits = seg->opts.tsecr & TS_MASK;
  opts->has_ts = true;
  opts->tsval = seg->opts.tsval;
  opts->sack_ok = (bits & 16u) != 0;
  opts->has_wscale = (bits & 15u) != WSCALE_NONE;
  opts->wscale = (uint8_t)(bits & 15u);
}

/* Nobody guesses at cookies while none are out; but for one that another core found good, and that is this core's to take. */
static bool awaited(const struct np_tcp *tcp, const struct np_tcp_listener *l, const struct np_tcp_seg *seg) {
  if (l->args.cookies && (seg->pkt->buf->flags & NP_BUF_COOKIE) != 0) return true;
  return l->args.cookies && tcp->cookie_ns != 0 && tcp->now_ns - tcp->cookie_ns < UINT64_C(2) << COOKIE_PERIOD_SHIFT;
}

uint32_t np_tcp_cookie_ahead(const struct np_tcp *tcp, const struct np_tcp_listener *l, const struct np_tcp_seg *seg) {
  uint32_t index = 0;
  if (!awaited(tcp, l, seg)) return UINT32_MAX;
  return check(tcp, &seg->pkt->flow, np_seq_sub(seg->seq, 1), np_seq_sub(seg->ack, 1), &index);
}

struct np_tcp_conn *np_tcp_cookie_accept(struct np_tcp *tcp, struct np_tcp_listener *l, struct np_tcp_seg *seg,
                                         enum np_drop *why) {
  if (!awaited(tcp, l, seg)) return NULL;
  *why = NP_DROP_TCP_COOKIE;
  const struct np_flow *flow = &seg->pkt->flow;
  np_seq irs = np_seq_sub(seg->seq, 1);
  np_seq iss = np_seq_sub(seg->ack, 1);
  uint32_t index = 0;
  uint32_t ahead = check(tcp, flow, irs, iss, &index);
  if (ahead != 0) {
    if (ahead <= UINT16_MAX) *why = NP_DROP_TCP_COOKIE_BEHIND;
    return NULL;
  }
  if (np_tcp_listener_full(tcp, l, flow, why)) return NULL;
  seg->pkt->buf->flags |= NP_BUF_COOKIE;
  bool elsewhere = np_tcp_elsewhere(tcp, seg, true, why); /* half open, of another SYN */
  seg->pkt->buf->flags &= (uint16_t)~NP_BUF_COOKIE;
  if (elsewhere) return NULL;
  /* However short buffers are: it costs none, and without it what the peer sends next would be nobody's. */
  *why = NP_DROP_TCP_CONN_LIMIT;
  struct np_tcp_conn *c = np_tcp_conn_new(tcp, flow, seg->pkt->hash);
  if (c == NULL) {
    np_tcp_unclaim(tcp, flow);
    return NULL;
  }
  struct np_tcp_opts opts;
  recall(tcp, seg, index, &opts);
  c->listener = (uint32_t)(l - tcp->listeners);
  l->conns++;
  c->flags |= NP_TF_COOKIE;
  c->iss = c->snd_una = iss;
  c->snd_nxt = c->snd_end = seg->ack;
  c->irs = irs;
  c->rcv_nxt = c->last_ack = seg->seq;
  c->rcv_adv = np_seq_add(seg->seq, window_of(tcp, index));
  c->snd_wl1 = irs;
  np_tcp_agree(tcp, c, &opts);
  if (opts.has_ts && tcp->config.ecn != NP_ECN_OFF && (seg->opts.tsecr & ECN_BIT)) c->ecn |= NP_ECN_OK;
  if (l->args.congestion_control != 0) c->cc_id = l->args.congestion_control - 1;
  c->tos = (uint8_t)(l->args.dscp << 2);
  np_tcp_set_state(tcp, c, NP_TCP_SYN_RECEIVED);
  np_tcp_count(tcp, NP_C_TCP_COOKIE_OK);
  c->segs_rx++;
  return c;
}
