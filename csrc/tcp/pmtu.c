/* The path's MTU, as one connection sees it: packet-too-big messages (RFC 1191, 8201, as careful as RFC
 * 5927 asks), and probing where they are lost (RFC 4821, RFC 8899).
 *
 * mss is what is sent: known to pass, or believed to. mss_max is what link, peer and buffers allow, high
 * the largest that may still pass. While mss is below mss_max the connection has NP_CCF_MTU, which alone
 * makes the ordinary path look here. A probe is a segment of queued data; its loss says something about
 * its size and nothing about congestion (RFC 4821 §7.6), so that it starts no episode.
 *
 * A black hole is seen by a full-sized segment that timed out twice in a row: mss falls to a base that
 * passes nearly everywhere and is searched upwards from there. */
#include "tcp/cc.h"

#define BASE_V4 1024u          /* RFC 4821 §7.2 */
#define BASE_V6 1220u          /* 1,280 bytes of packet */
#define MTU_MIN_V4 576u
#define MTU_MIN_V6 1280u
#define STEP_BYTES 32u         /* closer than this is close enough */
#define SEARCH_MS (600u * 1000u) /* RFC 8201 §4, RFC 8899 §5.1.1: until larger ones are tried again */
#define FOLLOW_SEGS 3u         /* RFC 4821 §7.4: behind a probe, so that its loss is seen without a timeout */
#define BLACKHOLE_RTOS 2u

enum phase { PMTU_IDLE, PMTU_WAIT, PMTU_SEARCH };

/* Bytes of a packet that are not payload. */
static uint32_t overhead(const struct np_tcp_conn *c) {
  return NP_TCP_HDR_BYTES + (np_addr_is_v4(&c->flow.remote) ? 20u : 40u) + (c->flags & NP_TF_TS ? NP_TCP_TS_BYTES : 0u);
}

static uint32_t base_mss(const struct np_tcp_conn *c) {
  return (np_addr_is_v4(&c->flow.remote) ? BASE_V4 : BASE_V6) - (c->flags & NP_TF_TS ? NP_TCP_TS_BYTES : 0u);
}

uint32_t np_tcp_pmtu_bytes(const struct np_tcp_conn *c) { return c->mss + overhead(c); }

static void set_mss(struct np_tcp_conn *c, uint32_t mss) {
  c->mss = mss;
  c->stream.seg_bytes = mss;
  if (c->cwnd != 0) { /* one segment at least may always leave, and two stay of a reduction (RFC 5681 §3.1) */
    c->cwnd = np_max_u32(c->cwnd, mss);
    c->ssthresh = np_max_u32(c->ssthresh, 2 * mss);
  }
  if (mss < c->pmtu.mss_max) {
    c->cc_flags |= NP_CCF_MTU;
  } else {
    c->cc_flags &= (uint8_t)~NP_CCF_MTU;
    c->pmtu.phase = PMTU_IDLE;
  }
}

/* Nothing larger is tried for a while. */
static void rest(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->mss >= c->pmtu.mss_max) return;
  c->pmtu.phase = PMTU_WAIT;
  c->pmtu.search_ms = tcp->now_ms + SEARCH_MS;
}

static void search(struct np_tcp_conn *c, uint32_t high) {
  c->pmtu.phase = PMTU_SEARCH;
  c->pmtu.high = (uint16_t)np_min_u32(high, c->pmtu.mss_max);
}

void np_tcp_pmtu_init(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_pmtu *p = &c->pmtu;
  *p = (struct np_tcp_pmtu){.mss_max = (uint16_t)np_min_u32(c->mss, UINT16_MAX)};
  p->high = p->mss_max;
  uint32_t path = tcp->env.pmtu != NULL ? tcp->env.pmtu(tcp->env.ctx, &c->flow.remote) : 0;
  uint32_t mss = c->mss;
  if (path > overhead(c)) mss = np_min_u32(mss, path - overhead(c));
  set_mss(c, mss);
  p->high = (uint16_t)np_min_u32(mss, UINT16_MAX);
  rest(tcp, c);
  if (tcp->config.mtu_probing != NP_MTU_PROBING_ALWAYS || mss <= base_mss(c)) return;
  set_mss(c, base_mss(c));
  search(c, mss);
}

/* ---- probes ---- */

/* The next size to try: what would be best first, then halves. */
static uint32_t next_size(const struct np_tcp_conn *c) {
  const struct np_tcp_pmtu *p = &c->pmtu;
  if (p->tries == 0) return p->high;
  return (c->mss + p->high + 1) / 2;
}

static bool narrow(const struct np_tcp_conn *c) { return c->pmtu.high < c->mss + STEP_BYTES; }

static void probe_failed(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t high) {
  struct np_tcp_pmtu *p = &c->pmtu;
  p->probe_len = 0;
  p->high = (uint16_t)np_max_u32(c->mss, np_min_u32(high, p->high));
  if (p->tries < UINT8_MAX) p->tries++;
  if (narrow(c)) rest(tcp, c);
}

/* Data, window and peace enough for one of n bytes (RFC 4821 §7.4). */
static bool may_probe(const struct np_tcp_conn *c, uint32_t n) {
  uint32_t need = n + FOLLOW_SEGS * c->mss;
  uint32_t unsent = (uint32_t)np_seq_diff(c->snd_end, c->snd_nxt);
  if (c->sndq_next == NULL || unsent < need || c->snd_wnd < np_tcp_flight(c) + need) return false;
  if (c->ca_state != NP_CA_OPEN || c->lost_due != 0 || (c->flags & NP_TF_ZERO_WND)) return false;
  return np_tcp_pipe(c) + n <= c->cwnd || np_tcp_pipe(c) == 0;
}

void np_tcp_pmtu_output(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_pmtu *p = &c->pmtu;
  if (p->phase == PMTU_WAIT && (int32_t)(tcp->now_ms - p->search_ms) >= 0) {
    if (tcp->config.mtu_probing == NP_MTU_PROBING_OFF) {
      set_mss(c, p->mss_max); /* RFC 8201 §4: believed again until a message says otherwise */
      return;
    }
    p->tries = 0;
    search(c, p->mss_max);
  }
  if (p->phase != PMTU_SEARCH || p->probe_len != 0) return;
  uint32_t n = next_size(c);
  if (n <= c->mss) {
    rest(tcp, c);
    return;
  }
  if (!may_probe(c, n) || ((c->cc_flags & NP_CCF_PACED) && np_tcp_pace_hold(tcp, c))) return;
  np_seq seq = np_txseg(c->sndq_next)->seq;
  if (!np_tcp_send_whole(tcp, c, n)) return;
  p->probe_seq = seq;
  p->probe_len = (uint16_t)n;
  np_tcp_count(tcp, NP_C_TCP_PMTU_PROBES);
}

void np_tcp_pmtu_acked(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_pmtu *p = &c->pmtu;
  if (p->probe_len == 0 || np_seq_lt(c->snd_una, np_seq_add(p->probe_seq, p->probe_len))) return;
  uint32_t n = p->probe_len;
  p->probe_len = 0;
  np_tcp_count(tcp, NP_C_TCP_PMTU_PROBES_OK);
  if (n > c->mss) set_mss(c, n);
  if (narrow(c)) rest(tcp, c);
}

/* ---- losses ---- */

/* Where the packet that b left in last ends; *bytes: its payload from b on. */
static struct np_buf *packet_end(const struct np_tcp_conn *c, struct np_buf *b, uint32_t *bytes) {
  *bytes = np_txseg(b)->len;
  for (b = np_txnext(b); b != NULL && b != c->sndq_next && (np_txseg(b)->flags & NP_TXS_WITH); b = np_txnext(b)) {
    *bytes += np_txseg(b)->len; /* bound: NP_TCP_GATHER_MAX */
  }
  return b;
}

/* Payload of the segment that begins with b, as it left; what a port cut, it cut to mss. */
static uint32_t sent_bytes(const struct np_tcp_conn *c, struct np_buf *b) {
  uint32_t bytes;
  (void)packet_end(c, b, &bytes);
  return np_max_u32(np_txseg(b)->len, np_min_u32(bytes, c->mss));
}

/* All that is to be sent again is the probe, which is one packet of perhaps several pieces. */
static bool probe_alone(const struct np_tcp_conn *c) {
  np_seq first = np_txseg(np_tcp_seg_at(c, c->rack.due.head))->seq;
  np_seq end = np_txend(np_tcp_seg_at(c, c->rack.due.tail));
  return np_seq_ge(first, c->pmtu.probe_seq) && np_seq_le(end, np_seq_add(c->pmtu.probe_seq, c->pmtu.probe_len));
}

bool np_tcp_pmtu_excuses(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_pmtu *p = &c->pmtu;
  const struct np_buf *b = np_tcp_seg_at(c, c->rack.due.head);
  struct np_buf *last = np_tcp_seg_at(c, c->rack.due.tail);
  if (b == NULL) { /* without SACK, by duplicates alone: it is the head that is missing */
    if ((c->flags & NP_TF_SACK) || p->probe_len == 0 || c->sndq_head == NULL || c->sndq_head == c->sndq_next) return false;
    if (!np_seq_eq(np_txseg(c->sndq_head)->seq, p->probe_seq)) return false;
    np_tcp_mark_lost(tcp, c, c->sndq_head);
    last = c->sndq_head;
  }
  const struct np_tcp_txseg *s = np_txseg(last);
  if (p->probe_len != 0 && np_seq_ge(s->seq, p->probe_seq) && np_seq_lt(s->seq, np_seq_add(p->probe_seq, p->probe_len))) {
    bool alone = probe_alone(c); /* with others gone too it is congestion, and the probe says nothing */
    if (alone) {
      p->excused = np_seq_add(p->probe_seq, p->probe_len);
      probe_failed(tcp, c, p->probe_len - 1u);
    } else {
      p->probe_len = 0;
    }
    if (!alone) return false;
  }
  if (!np_seq_lt(s->seq, p->excused) || (s->flags & NP_TXS_EVER)) return false;
  if (np_seq_lt(p->excused, c->snd_una)) return false;
  c->dup_acks = 0;
  c->recover = c->snd_nxt; /* RFC 6582 §3.2 step 2: the duplicates that follow are of the same loss */
  c->flags |= NP_TF_FORCE_RTX;
  np_tcp_dirty(tcp, c);
  return true;
}

void np_tcp_pmtu_rto(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_pmtu *p = &c->pmtu;
  const struct np_buf *b = c->sndq_head;
  if (p->probe_len != 0) probe_failed(tcp, c, p->probe_len - 1u);
  if (tcp->config.mtu_probing == NP_MTU_PROBING_OFF || b == NULL || b == c->sndq_next) return;
  if (c->rack.vain + 1u < BLACKHOLE_RTOS || c->mss <= base_mss(c) || sent_bytes(c, c->sndq_head) <= base_mss(c)) return;
  np_tcp_count(tcp, NP_C_TCP_PMTU_BLACKHOLES);
  uint32_t was = c->mss;
  set_mss(c, base_mss(c));
  p->tries = 0;
  search(c, was);
}

/* ---- messages ---- */

/* The segment sent that begins at seq; NULL: none, or the walk is used up. */
static struct np_buf *sent_at(struct np_tcp_conn *c, np_seq seq) {
  struct np_buf *b = c->sndq_head;
  for (uint32_t n = 0; b != NULL && b != c->sndq_next && n < NP_TCP_SACK_WALK; n++, b = np_txnext(b)) {
    if (np_seq_eq(np_txseg(b)->seq, seq)) return b;
  }
  return NULL;
}

/* What is too large is lost, all of it: it goes out again in pieces now, and no episode begins. */
static void resend(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  while (b != NULL && b != c->sndq_next) { /* bound: snd_segs, once a message */
    uint32_t bytes;
    struct np_buf *end = packet_end(c, b, &bytes);
    for (; b != end; b = np_txnext(b)) {
      if (bytes <= c->mss || (np_txseg(b)->flags & NP_TXS_SACKED)) continue;
      np_tcp_mark_lost(tcp, c, b);
      c->pmtu.excused = np_txend(b);
    }
  }
  if (c->ca_state <= NP_CA_CWR) c->recover = c->snd_nxt;
  c->flags |= NP_TF_FORCE_RTX;
  np_tcp_dirty(tcp, c);
}

bool np_tcp_pmtu_error(struct np_tcp *tcp, struct np_tcp_conn *c, np_seq seq, uint32_t mtu_bytes) {
  struct np_tcp_pmtu *p = &c->pmtu;
  mtu_bytes = np_max_u32(mtu_bytes, np_addr_is_v4(&c->flow.remote) ? MTU_MIN_V4 : MTU_MIN_V6);
  struct np_buf *b = c->state >= NP_TCP_ESTABLISHED ? sent_at(c, seq) : NULL;
  /* RFC 5927 §7.2: about something in flight, not yet acknowledged, that was indeed larger. */
  if (b == NULL || (np_txseg(b)->flags & NP_TXS_SACKED) || sent_bytes(c, b) + overhead(c) <= mtu_bytes) {
    np_tcp_count(tcp, NP_C_TCP_PMTU_REFUSED);
    return false;
  }
  np_tcp_count(tcp, NP_C_TCP_PMTU_ICMP);
  uint32_t mss = mtu_bytes - overhead(c);
  bool probe = p->probe_len != 0 && np_seq_eq(seq, p->probe_seq);
  if (probe) probe_failed(tcp, c, mss);
  if (mss < c->mss) {
    p->probe_len = 0;
    p->high = (uint16_t)mss;
    set_mss(c, mss);
    rest(tcp, c);
  } else if (probe && mss > c->mss) {
    p->tries = 0; /* the very size comes next */
  }
  resend(tcp, c);
  return true;
}
