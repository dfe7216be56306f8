/* BBR version 3, draft-ietf-ccwg-bbr: a model of the path (bandwidth, shortest round trip, what
 * fits in flight) sets rate and window. Names are the draft's, with hi and lo for its long-term
 * and short-term bounds. Fixed point: bandwidth in units of 16 bytes/s, gains in percent. The
 * samples are rate.c's; a turn of the core, not an ACK, is what time resolves.
 *
 * What the draft leaves open: an echoed ECN mark counts as loss (bbr_lost). */
#include "tcp/cc.h"

#define INF UINT32_MAX
#define LOSS_THRESH_PERCENT 2u
#define BETA_PERCENT 70u
#define HEADROOM_PERCENT 15u
#define MIN_PIPE_SEGS 4u
#define MARGIN_PERCENT 1u
#define MIN_RTT_MS 10000u
#define PROBE_RTT_MS 5000u
#define PROBE_RTT_FOR_MS 200u
#define FULL_BW_ROUNDS 3u
#define FULL_LOSS_COUNT 6u
#define DRAIN_ROUNDS 3u
#define EXTRA_ROUNDS 5u /* two halves: between 5 and 10 round trips are remembered */

enum ack_phase { ACKS_INIT, ACKS_REFILLING, ACKS_STARTING, ACKS_FEEDBACK, ACKS_STOPPING };

#define B_FULL 0x0001u          /* the pipe was filled once */
#define B_FULL_NOW 0x0002u      /* since looking for it last */
#define B_ROUND 0x0004u         /* this ACK begins a round */
#define B_LOSS_ROUND 0x0008u    /* and one of loss accounting */
#define B_LOSS 0x0010u          /* something was lost in this round */
#define B_PROBE_SAMPLE 0x0020u  /* samples are of segments sent while probing */
#define B_TOO_HIGH 0x0040u      /* the last probe ended by loss */
#define B_CAREFUL 0x0080u       /* it ended before it could */
#define B_IDLE 0x0100u          /* sending began again after idleness */
#define B_RTT_ROUND 0x0200u     /* a round passed in PROBE_RTT */
#define B_LIMITED 0x0400u       /* cwnd held the sender back in this round */
#define B_WAS_LIMITED 0x0800u   /* in the one before */
#define B_MARKED 0x1000u        /* an ECN mark was echoed in STARTUP */

static const uint16_t pacing_gain[NP_BBR_PHASE_COUNT] = {
    [NP_BBR_STARTUP] = 277, [NP_BBR_DRAIN] = 50, [NP_BBR_DOWN] = 90,       [NP_BBR_CRUISE] = 100,
    [NP_BBR_REFILL] = 100,  [NP_BBR_UP] = 125,   [NP_BBR_PROBE_RTT] = 100,
};
static const uint16_t cwnd_gain[NP_BBR_PHASE_COUNT] = {
    [NP_BBR_STARTUP] = 200, [NP_BBR_DRAIN] = 200, [NP_BBR_DOWN] = 200,     [NP_BBR_CRUISE] = 200,
    [NP_BBR_REFILL] = 200,  [NP_BBR_UP] = 225,    [NP_BBR_PROBE_RTT] = 50,
};

bool np_tcp_bbr_full(const struct np_tcp_conn *c) { return (c->cc.bbr.bits & B_FULL) != 0; }

static void bit(struct np_tcp_bbr *b, uint16_t which, bool on) { b->bits = (uint16_t)(on ? b->bits | which : b->bits & ~which); }
static bool is(const struct np_tcp_bbr *b, uint16_t which) { return (b->bits & which) != 0; }
static uint32_t percent(uint32_t v, uint32_t p) { return (uint32_t)np_min_u64((uint64_t)v * p / 100, INF - 1); }
/* Two bounds that may be infinite. */
static uint32_t raised(uint32_t v, uint32_t by) { return by > INF - 1 - v ? INF - 1 : v + by; }

static uint32_t max_bw(const struct np_tcp_bbr *b) { return np_max_u32(b->bw_max[0], b->bw_max[1]); }
static uint32_t bw_of(const struct np_tcp_bbr *b) { return np_min_u32(max_bw(b), b->bw_lo); }
static uint32_t extra_acked(const struct np_tcp_bbr *b) { return np_max_u32(b->extra_acked[0], b->extra_acked[1]); }
static uint32_t min_pipe(const struct np_tcp_conn *c) { return MIN_PIPE_SEGS * c->mss; }

static bool in_probe_bw(const struct np_tcp_bbr *b) { return b->phase >= NP_BBR_DOWN && b->phase <= NP_BBR_UP; }
static bool probing(const struct np_tcp_bbr *b) {
  return b->phase == NP_BBR_STARTUP || b->phase == NP_BBR_REFILL || b->phase == NP_BBR_UP;
}

/* gain percent of what the path holds at bw. */
static uint32_t bdp_times(const struct np_tcp_conn *c, uint32_t bw, uint32_t gain) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  if (b->min_rtt_us == INF) return np_tcp_cc_initial_cwnd(c);
  uint64_t bdp = (uint64_t)bw * b->min_rtt_us / (1000000 / NP_TCP_BW_UNIT);
  return (uint32_t)np_min_u64(bdp * gain / 100, INF / 4);
}

/* The least that keeps sender and receiver busy although both work in bursts. */
static uint32_t quantized(const struct np_tcp_conn *c, uint32_t inflight) {
  inflight = np_max_u32(inflight, 3 * c->pace_quantum);
  inflight = np_max_u32(inflight, min_pipe(c));
  return c->cc.bbr.phase == NP_BBR_UP ? inflight + 2 * c->mss : inflight;
}

/* What we want in flight: the path's capacity, unless congestion cut cwnd. What a timeout makes
 * of cwnd says nothing of the path: the window before it does. */
static uint32_t target_inflight(const struct np_tcp_conn *c) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  uint32_t cwnd = c->cc_flags & NP_CCF_EPISODE ? np_max_u32(c->cwnd, b->prior_cwnd) : c->cwnd;
  return np_min_u32(bdp_times(c, bw_of(b), 100), cwnd);
}

static uint32_t with_headroom(const struct np_tcp_conn *c) {
  uint32_t hi = c->cc.bbr.inflight_hi;
  if (hi == INF) return INF;
  uint32_t head = np_max_u32(c->mss, percent(hi, HEADROOM_PERCENT));
  return np_max_u32(hi > head ? hi - head : 0, min_pipe(c));
}

/* ---- rounds and phases ---- */

static void start_round(struct np_tcp_conn *c) { c->cc.bbr.round_delivered = c->rate.delivered; }

static void reset_full_bw(struct np_tcp_bbr *b) {
  b->full_bw = 0;
  b->full_count = 0;
  bit(b, B_FULL_NOW, false);
}

static void reset_signals(struct np_tcp_bbr *b) {
  bit(b, B_LOSS, false);
  b->bw_latest = 0;
  b->inflight_latest = 0;
}

static void reset_short_term(struct np_tcp_bbr *b) {
  b->bw_lo = INF;
  b->inflight_lo = INF;
}

/* How long not to probe: 2 to 3 s, and as many rounds as Reno would take, less 0 or 1. Spread over
 * connections, so that those that share a path don't probe in step. */
static void pick_wait(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint64_t r = (tcp->now_ns ^ c->stream.handle << 32 ^ c->rate.delivered) * UINT64_C(0x9e3779b97f4a7c15);
  c->cc.bbr.rounds_since_up = (uint8_t)(r >> 63);
  c->cc.bbr.wait_ms = (uint16_t)(2000 + (r >> 40) % 1000);
}

static void start_down(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  reset_signals(b);
  b->up_per_inc = INF;
  pick_wait(tcp, c);
  b->phase_ms = tcp->now_ms;
  b->ack_phase = ACKS_STOPPING;
  start_round(c);
  b->phase = NP_BBR_DOWN;
}

static void start_refill(struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  reset_short_term(b);
  b->up_rounds = 0;
  b->up_acked = 0;
  bit(b, B_CAREFUL, false);
  b->ack_phase = ACKS_REFILLING;
  start_round(c);
  b->phase = NP_BBR_REFILL;
}

static void steeper(struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  b->up_per_inc = np_max_u32(c->cwnd >> b->up_rounds, c->mss);
  if (b->up_rounds < 30) b->up_rounds++;
}

static void start_up(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  b->ack_phase = ACKS_STARTING;
  start_round(c);
  reset_full_bw(b);
  b->full_bw = tcp->rs.bw;
  b->phase = NP_BBR_UP;
  steeper(c);
}

/* ---- signals ---- */

static void latest_signals(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  const struct np_tcp_rate_sample *rs = &tcp->rs;
  b->bw_latest = np_max_u32(b->bw_latest, rs->bw);
  b->inflight_latest = np_max_u32(b->inflight_latest, rs->delivered);
  bool over = (int32_t)(rs->prior_delivered - b->loss_round_delivered) >= 0;
  bit(b, B_LOSS_ROUND, over);
  if (over) b->loss_round_delivered = c->rate.delivered;
}

static void update_round(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  bool begins = (int32_t)(tcp->rs.prior_delivered - b->round_delivered) >= 0;
  bit(b, B_ROUND, begins);
  if (!begins) return;
  start_round(c);
  if (b->rounds_since_up < UINT8_MAX) b->rounds_since_up++;
  if (b->drain_rounds < UINT8_MAX) b->drain_rounds++;
  bit(b, B_WAS_LIMITED, is(b, B_LIMITED));
  bit(b, B_LIMITED, false);
  /* The older half goes; before the pipe is full only this round counts. */
  if (++b->extra_rounds < EXTRA_ROUNDS && is(b, B_FULL)) return;
  b->extra_rounds = 0;
  b->extra_acked[1] = is(b, B_FULL) ? b->extra_acked[0] : 0;
  b->extra_acked[0] = 0;
}

static void update_max_bw(const struct np_tcp *tcp, struct np_tcp_bbr *b) {
  const struct np_tcp_rate_sample *rs = &tcp->rs;
  if (rs->bw == 0 || (rs->bw < max_bw(b) && rs->app_limited)) return;
  b->bw_max[0] = np_max_u32(b->bw_max[0], rs->bw);
}

/* Once per round trip with losses while not probing: the short-term bounds. */
static void adapt_lower(struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (!is(b, B_LOSS_ROUND)) return;
  if (is(b, B_LOSS) && !probing(b)) {
    if (b->bw_lo == INF) b->bw_lo = max_bw(b);
    if (b->inflight_lo == INF) b->inflight_lo = c->cwnd;
    b->bw_lo = np_max_u32(b->bw_latest, percent(b->bw_lo, BETA_PERCENT));
    b->inflight_lo = np_max_u32(b->inflight_latest, percent(b->inflight_lo, BETA_PERCENT));
  }
}

/* How much more than the bandwidth explains is acknowledged at once. */
static void update_aggregation(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  uint32_t now = (uint32_t)(tcp->now_ns >> NP_TCP_RATE_SHIFT);
  uint64_t expected = (uint64_t)bw_of(b) * (now - b->extra_start) * NP_TCP_BW_UNIT / 3906250;
  if (b->extra_delivered <= expected) {
    b->extra_delivered = 0;
    b->extra_start = now;
    expected = 0;
  }
  b->extra_delivered = raised(b->extra_delivered, tcp->rs.newly_bytes);
  uint32_t extra = np_min_u32((uint32_t)(b->extra_delivered - expected), c->cwnd);
  b->extra_acked[0] = np_max_u32(b->extra_acked[0], extra);
}

static void check_full_bw(const struct np_tcp *tcp, struct np_tcp_bbr *b) {
  const struct np_tcp_rate_sample *rs = &tcp->rs;
  if (is(b, B_FULL_NOW) || !is(b, B_ROUND) || rs->app_limited) return;
  if (rs->bw >= percent(b->full_bw, 125)) {
    reset_full_bw(b);
    b->full_bw = rs->bw;
    return;
  }
  if (++b->full_count < FULL_BW_ROUNDS) return;
  b->bits |= B_FULL_NOW | B_FULL;
}

static bool too_high(const struct np_tcp_conn *c, uint32_t lost, uint32_t in_flight) {
  return lost > percent(in_flight, LOSS_THRESH_PERCENT) || (lost != 0 && !(c->flags & NP_TF_SACK));
}

static void check_startup(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (b->phase != NP_BBR_STARTUP) return;
  /* Much loss over a whole round in recovery, in more than one place. */
  if (is(b, B_LOSS_ROUND)) {
    bool much = b->loss_events >= FULL_LOSS_COUNT && too_high(c, tcp->rs.lost, tcp->rs.in_flight);
    if (!is(b, B_FULL) && much && c->ca_state == NP_CA_RECOVERY) {
      bit(b, B_FULL, true);
      b->undo_phase = NP_BBR_STARTUP;
      b->inflight_hi = np_max_u32(bdp_times(c, bw_of(b), 100), b->inflight_latest);
    }
    b->loss_events = 0;
  }
  if (!is(b, B_FULL)) return;
  b->phase = NP_BBR_DRAIN;
  b->drain_rounds = 0;
}

static void check_drain(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (b->phase != NP_BBR_DRAIN) return;
  bool drained = np_tcp_pipe(c) <= quantized(c, bdp_times(c, bw_of(b), 100));
  if (drained || b->drain_rounds > DRAIN_ROUNDS) start_down(tcp, c);
}

/* ---- PROBE_BW ---- */

static void probe_hi_upward(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (!(b->bits & (B_LIMITED | B_WAS_LIMITED)) || c->cwnd < b->inflight_hi) return;
  b->up_acked = raised(b->up_acked, tcp->rs.newly_bytes);
  if (b->up_acked >= b->up_per_inc) {
    uint32_t delta = b->up_acked / b->up_per_inc;
    b->up_acked -= delta * b->up_per_inc;
    b->inflight_hi = raised(b->inflight_hi, delta * c->mss);
  }
  if (is(b, B_ROUND)) steeper(c);
}

/* Return: true when it decided on the next phase. */
static bool adapt_long_term(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  const struct np_tcp_rate_sample *rs = &tcp->rs;
  if (b->ack_phase == ACKS_STARTING && is(b, B_ROUND)) b->ack_phase = ACKS_FEEDBACK;
  if (b->ack_phase == ACKS_STOPPING && is(b, B_ROUND)) {
    bit(b, B_PROBE_SAMPLE, false);
    b->ack_phase = ACKS_INIT;
    if (in_probe_bw(b) && !rs->app_limited && b->bw_max[0] != 0) { /* the filter's next time slot */
      b->bw_max[1] = b->bw_max[0];
      b->bw_max[0] = 0;
    }
    if (in_probe_bw(b) && is(b, B_CAREFUL) && !is(b, B_TOO_HIGH)) {
      start_refill(c);
      return true;
    }
  }
  if (too_high(c, rs->lost, rs->in_flight) || b->inflight_hi == INF) return false;
  b->inflight_hi = np_max_u32(b->inflight_hi, rs->in_flight);
  if (b->phase == NP_BBR_UP) probe_hi_upward(tcp, c);
  return false;
}

static bool time_to_probe(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  if (tcp->now_ms - b->phase_ms > b->wait_ms) return true;
  return b->rounds_since_up >= np_min_u32(target_inflight(c) / c->mss, 63);
}

static bool time_to_cruise(const struct np_tcp_conn *c) {
  uint32_t pipe = np_tcp_pipe(c);
  return pipe <= with_headroom(c) && pipe <= quantized(c, bdp_times(c, max_bw(&c->cc.bbr), 100));
}

static bool time_to_go_down(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (is(b, B_TOO_HIGH) && np_tcp_pipe(c) >= b->inflight_hi) {
    bit(b, B_CAREFUL, true); /* that much was too much last time */
    return true;
  }
  if ((b->bits & (B_LIMITED | B_WAS_LIMITED)) && c->cwnd >= b->inflight_hi) {
    reset_full_bw(b); /* the bound holds the bandwidth back, not the path */
    b->full_bw = tcp->rs.bw;
    return false;
  }
  return is(b, B_FULL_NOW);
}

static void update_phase(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (!is(b, B_FULL) || adapt_long_term(tcp, c)) return;
  switch (b->phase) {
    case NP_BBR_DOWN:
      if (time_to_probe(tcp, c)) {
        start_refill(c);
      } else if (time_to_cruise(c)) {
        b->phase = NP_BBR_CRUISE;
      }
      return;
    case NP_BBR_CRUISE:
      if (time_to_probe(tcp, c)) start_refill(c);
      return;
    case NP_BBR_REFILL:
      if (!is(b, B_ROUND)) return;
      bit(b, B_PROBE_SAMPLE, true);
      start_up(tcp, c);
      return;
    case NP_BBR_UP:
      if (!time_to_go_down(tcp, c)) return;
      bit(b, B_TOO_HIGH, false);
      start_down(tcp, c);
      return;
    default:
      return;
  }
}

/* ---- PROBE_RTT ---- */

static void save_cwnd(struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  bool lower = (c->cc_flags & NP_CCF_EPISODE) || b->phase == NP_BBR_PROBE_RTT;
  b->prior_cwnd = lower ? np_max_u32(b->prior_cwnd, c->cwnd) : c->cwnd;
}

static void restore_cwnd(struct np_tcp_conn *c) { c->cwnd = np_max_u32(c->cwnd, c->cc.bbr.prior_cwnd); }

static uint32_t probe_rtt_cwnd(const struct np_tcp_conn *c) {
  return np_max_u32(bdp_times(c, bw_of(&c->cc.bbr), cwnd_gain[NP_BBR_PROBE_RTT]), min_pipe(c));
}

static void check_probe_rtt_done(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (b->probe_rtt_done_ms == 0 || (int32_t)(tcp->now_ms - b->probe_rtt_done_ms) <= 0) return;
  b->probe_rtt_ms = tcp->now_ms;
  restore_cwnd(c);
  reset_short_term(b);
  if (is(b, B_FULL)) {
    start_down(tcp, c);
    b->phase = NP_BBR_CRUISE;
  } else {
    b->phase = NP_BBR_STARTUP;
  }
}

static void handle_probe_rtt(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  np_tcp_rate_app_limited(c); /* its samples are low and mean nothing */
  if (b->probe_rtt_done_ms == 0) {
    if (np_tcp_pipe(c) > probe_rtt_cwnd(c)) return;
    b->probe_rtt_done_ms = tcp->now_ms + PROBE_RTT_FOR_MS;
    if (b->probe_rtt_done_ms == 0) b->probe_rtt_done_ms = 1;
    bit(b, B_RTT_ROUND, false);
    start_round(c);
    return;
  }
  if (is(b, B_ROUND)) bit(b, B_RTT_ROUND, true);
  if (is(b, B_RTT_ROUND)) check_probe_rtt_done(tcp, c);
}

static void update_min_rtt(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t rtt_us) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  bool expired = tcp->now_ms - b->probe_rtt_ms > PROBE_RTT_MS;
  if (rtt_us != 0 && (rtt_us < b->probe_rtt_us || expired)) {
    b->probe_rtt_us = rtt_us;
    b->probe_rtt_ms = tcp->now_ms;
  }
  if (b->probe_rtt_us < b->min_rtt_us || tcp->now_ms - b->min_rtt_ms > MIN_RTT_MS) {
    b->min_rtt_us = b->probe_rtt_us;
    b->min_rtt_ms = b->probe_rtt_ms;
  }
  if (b->phase != NP_BBR_PROBE_RTT && expired && !is(b, B_IDLE)) {
    save_cwnd(c);
    b->phase = NP_BBR_PROBE_RTT;
    b->probe_rtt_done_ms = 0;
    b->ack_phase = ACKS_STOPPING;
    start_round(c);
  }
  if (b->phase == NP_BBR_PROBE_RTT) handle_probe_rtt(tcp, c);
  if (tcp->rs.delivered != 0) bit(b, B_IDLE, false);
}

/* ---- what comes of it ---- */

static void set_rate(struct np_tcp_conn *c, uint32_t gain) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  uint64_t rate = (uint64_t)bw_of(b) * NP_TCP_BW_UNIT * gain * (100 - MARGIN_PERCENT) / 10000;
  if (is(b, B_FULL) || rate > c->pace_rate) np_tcp_pace_set(c, np_max_u64(rate, 1));
}

static void bound_cwnd(struct np_tcp_conn *c) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  uint32_t cap = INF;
  if (b->phase == NP_BBR_PROBE_RTT || b->phase == NP_BBR_CRUISE) {
    cap = with_headroom(c);
  } else if (in_probe_bw(b)) {
    cap = b->inflight_hi;
  }
  cap = np_max_u32(np_min_u32(cap, b->inflight_lo), min_pipe(c));
  if (b->phase == NP_BBR_PROBE_RTT) cap = np_min_u32(cap, probe_rtt_cwnd(c));
  c->cwnd = np_min_u32(c->cwnd, cap);
}

static void set_cwnd(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  uint32_t newly = tcp->rs.newly_bytes;
  uint32_t most = quantized(c, raised(bdp_times(c, bw_of(b), cwnd_gain[b->phase]), extra_acked(b)));
  if (is(b, B_FULL)) {
    c->cwnd = np_min_u32(raised(c->cwnd, newly), most);
  } else if (c->cwnd < most || c->rate.delivered < np_tcp_cc_initial_cwnd(c)) {
    c->cwnd = np_min_u32(raised(c->cwnd, newly), INF / 2);
  }
  c->cwnd = np_max_u32(c->cwnd, min_pipe(c));
  bound_cwnd(c);
}

/* ---- the table's functions ---- */

static void bbr_init(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  uint32_t srtt_us = c->srtt_us / 8;
  *b = (struct np_tcp_bbr){
      .bw_lo = INF,
      .inflight_lo = INF,
      .inflight_hi = INF,
      .up_per_inc = INF,
      .min_rtt_us = srtt_us != 0 ? srtt_us : INF,
      .probe_rtt_us = srtt_us != 0 ? srtt_us : INF,
      .min_rtt_ms = tcp->now_ms,
      .probe_rtt_ms = tcp->now_ms,
      .undo_phase = NP_BBR_PHASE_COUNT,
      .extra_start = (uint32_t)(tcp->now_ns >> NP_TCP_RATE_SHIFT),
      .round_delivered = c->rate.delivered,
      .loss_round_delivered = c->rate.delivered,
  };
  uint64_t nominal = (uint64_t)c->cwnd * 1000000 / (srtt_us != 0 ? srtt_us : 1000);
  np_tcp_pace_set(c, nominal * pacing_gain[NP_BBR_STARTUP] / 100);
}

static void bbr_acked(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_cc_ack *ack) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if ((c->cc_flags & NP_CCF_EPISODE) && c->ca_state <= NP_CA_DISORDER) {
    c->cc_flags &= (uint8_t)~NP_CCF_EPISODE;
    if (b->phase != NP_BBR_PROBE_RTT) restore_cwnd(c); /* bound_cwnd has the last word below */
  }
  if (!tcp->rs.has) return;
  if (ack->cwnd_limited) bit(b, B_LIMITED, true);
  latest_signals(tcp, c);
  update_round(tcp, c);
  update_max_bw(tcp, b);
  adapt_lower(c);
  update_aggregation(tcp, c);
  check_full_bw(tcp, b);
  check_startup(tcp, c);
  check_drain(tcp, c);
  update_phase(tcp, c);
  update_min_rtt(tcp, c, ack->rtt_us);
  if (is(b, B_LOSS_ROUND)) {
    bit(b, B_LOSS, false);
    b->bw_latest = tcp->rs.bw;
    b->inflight_latest = tcp->rs.delivered;
  }
  set_rate(c, pacing_gain[b->phase]);
  set_cwnd(tcp, c);
}

static void save_undo(struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  save_cwnd(c);
  b->undo_phase = NP_BBR_PHASE_COUNT;
  b->undo_bw_lo = b->bw_lo;
  b->undo_inflight_lo = b->inflight_lo;
  b->undo_inflight_hi = b->inflight_hi;
}

static void note_loss(struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  if (!is(b, B_LOSS)) {
    b->loss_round_delivered = c->rate.delivered;
    save_undo(c);
  }
  bit(b, B_LOSS, true);
}

/* One reaction to a probe that went too far. */
static void handle_too_high(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t in_flight, bool app_limited) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  b->bits |= B_TOO_HIGH;
  bit(b, B_PROBE_SAMPLE, false);
  if (!app_limited) b->inflight_hi = np_max_u32(in_flight, percent(target_inflight(c), BETA_PERCENT));
  if (b->phase != NP_BBR_UP) return;
  b->undo_phase = NP_BBR_UP;
  start_down(tcp, c);
}

static void bbr_seg_lost(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_txseg *s) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  note_loss(c);
  if (b->loss_events < UINT8_MAX && !np_seq_eq(s->seq, b->lost_end)) b->loss_events++;
  b->lost_end = np_seq_add(s->seq, s->len);
  if (!is(b, B_PROBE_SAMPLE)) return;
  uint32_t lost = c->rate.lost - s->rate.lost;
  if (!too_high(c, lost, s->rate.in_flight)) return;
  /* How much of the flight at its transmission fitted before losses passed the threshold. */
  uint32_t flight = s->rate.in_flight > s->len ? s->rate.in_flight - s->len : 0;
  uint32_t before = lost > s->len ? lost - s->len : 0;
  uint32_t allowed = percent(flight, LOSS_THRESH_PERCENT);
  if (allowed > before) flight += (allowed - before) * 100 / (100 - LOSS_THRESH_PERCENT);
  handle_too_high(tcp, c, flight, (s->flags & NP_TXS_APP_LIMITED) != 0);
}

/* ECN: the same response as to loss (RFC 3168 §5). While probing, the flight was too high;
 * in STARTUP a second marked window ends it. */
static void marked(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  note_loss(c);
  if (b->phase == NP_BBR_STARTUP && !is(b, B_FULL)) {
    if (is(b, B_MARKED)) {
      bit(b, B_FULL, true);
      b->inflight_hi = np_max_u32(bdp_times(c, bw_of(b), 100), b->inflight_latest);
    }
    bit(b, B_MARKED, true);
  } else if (is(b, B_PROBE_SAMPLE) || b->phase == NP_BBR_UP) {
    handle_too_high(tcp, c, np_tcp_pipe(c), false);
  }
}

static uint32_t bbr_lost(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_tcp_cong why) {
  save_undo(c);
  c->cc_flags |= NP_CCF_EPISODE;
  if (why == NP_CONG_ECN) marked(tcp, c);
  if (why == NP_CONG_RTO) c->cwnd = c->mss; /* all of the flight is taken for lost */
  return c->ssthresh;
}

static void bbr_undo(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  uint8_t was = b->undo_phase;
  (void)tcp;
  restore_cwnd(c);
  bit(b, B_LOSS, false);
  reset_full_bw(b);
  b->bw_lo = np_max_u32(b->bw_lo, b->undo_bw_lo);
  b->inflight_lo = np_max_u32(b->inflight_lo, b->undo_inflight_lo);
  b->inflight_hi = np_max_u32(b->inflight_hi, b->undo_inflight_hi);
  b->undo_phase = NP_BBR_PHASE_COUNT;
  if (was == NP_BBR_STARTUP && b->phase != NP_BBR_STARTUP) {
    bit(b, B_FULL, false);
    if (b->phase != NP_BBR_PROBE_RTT) b->phase = NP_BBR_STARTUP;
  } else if (was == NP_BBR_UP && b->phase != NP_BBR_UP && b->phase != NP_BBR_PROBE_RTT) {
    start_refill(c);
  }
}

/* Sending begins with nothing in flight after the session had nothing to say. */
static void bbr_restart(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_bbr *b = &c->cc.bbr;
  bit(b, B_IDLE, true);
  b->extra_start = (uint32_t)(tcp->now_ns >> NP_TCP_RATE_SHIFT);
  if (in_probe_bw(b)) {
    set_rate(c, 100);
  } else if (b->phase == NP_BBR_PROBE_RTT) {
    check_probe_rtt_done(tcp, c);
  }
}

static void bbr_info(const struct np_tcp_conn *c, struct np_conn_info *out) {
  const struct np_tcp_bbr *b = &c->cc.bbr;
  out->bbr_phase = (uint8_t)(b->phase + 1);
  out->bbr_bw_bytes_per_s = (uint64_t)bw_of(b) * NP_TCP_BW_UNIT;
  out->bbr_min_rtt_us = b->min_rtt_us == INF ? 0 : b->min_rtt_us;
  out->bbr_pacing_gain_percent = pacing_gain[b->phase];
  out->bbr_cwnd_gain_percent = cwnd_gain[b->phase];
  out->bbr_inflight_hi_bytes = b->inflight_hi;
  out->bbr_inflight_lo_bytes = b->inflight_lo;
}

const struct np_tcp_cc_ops np_tcp_cc_bbr = {
    .name = "bbr",
    .id = NP_CC_BBR,
    .owns_cwnd = true,
    .models = true,
    .init = bbr_init,
    .acked = bbr_acked,
    .lost = bbr_lost,
    .undo = bbr_undo,
    .restart = bbr_restart,
    .seg_lost = bbr_seg_lost,
    .info = bbr_info,
};
