/* RACK, RFC 8985 §6: a segment is lost when one sent later was delivered, and a reordering window
 * has passed since that should have brought its own acknowledgment.
 *
 * What was sent once lies in the queue in order of transmission; what was sent again is in a list
 * of its own, in that order as well. Both are judged from their oldest on and only as far as the
 * first that is not lost yet, so that each transmission is passed once, however many are in flight. */
#include "tcp/cc.h"

#define REO_PERSIST 16u /* recoveries that a grown window outlives (§6.2 step 4) */
#define NS_PER_US 1000u

/* RACK_sent_after. */
static bool sent_after(uint64_t a_ns, np_seq a_end, uint64_t b_ns, np_seq b_end) {
  return a_ns > b_ns || (a_ns == b_ns && np_seq_gt(a_end, b_end));
}

void np_tcp_rack_reordered(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->rack.flags |= NP_RK_REORD;
  if (c->rack.reorders < UINT16_MAX) c->rack.reorders++;
  np_tcp_count(tcp, NP_C_TCP_REORDER);
}

/* §6.2 steps 1 to 3. What a SACK's ACK echoes is the time of the last segment in order, not of what
 * it SACKs (RFC 7323 §4.3): only a cumulative one's tells transmissions apart. */
void np_tcp_rack_delivered(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_txseg *s, bool sacked) {
  struct np_tcp_rack *r = &c->rack;
  np_seq end = np_seq_add(s->seq, s->len);
  uint32_t rtt_us = (uint32_t)np_min_u64((tcp->now_ns - s->sent_ns) / NS_PER_US, UINT32_MAX);
  r->fack = np_seq_max(r->fack, end);
  if (s->flags & NP_TXS_EVER) {
    /* Which of its transmissions? Not the last one if the echoed time is before it, or too little passed. */
    uint32_t sent_ts = (uint32_t)(s->sent_ns / NP_TCP_NS_PER_MS) + c->ts_offset;
    if (!sacked && (c->flags & NP_TF_TS) && tcp->told.tsecr != 0 && (int32_t)(tcp->told.tsecr - sent_ts) < 0) return;
    if (rtt_us < c->min_rtt_us) return;
  } else {
    if (np_seq_lt(end, tcp->told.fack)) np_tcp_rack_reordered(tcp, c);
    if (np_seq_le(end, c->recover)) tcp->told.orig = true;
  }
  if (!sent_after(s->sent_ns, end, r->xmit_ns, r->end_seq)) return;
  r->xmit_ns = s->sent_ns;
  r->end_seq = end;
  r->rtt_us = rtt_us;
}

/* Pieces that a full segment may lie in: so many are SACKed at once. */
static uint32_t pieces(const struct np_tcp_conn *c) { return 1 + (c->mss - 1) / np_tcp_piece_max(np_tcp_owner(c)); }

/* §6.2 step 4. Until reordering was seen, DupThresh segments above a hole, and any loss, do without
 * it. The byte rule of RFC 6675 stands beside the count of segments, which may differ in size. */
uint32_t np_tcp_rack_reo_wnd_us(const struct np_tcp_conn *c) {
  if (!(c->rack.flags & NP_RK_REORD)) {
    bool thresh = c->sacked_segs >= NP_TCP_DUP_THRESH * pieces(c) || c->sacked_bytes > (NP_TCP_DUP_THRESH - 1) * c->mss;
    if (c->ca_state >= NP_CA_RECOVERY || thresh) return 0;
  }
  uint64_t us = (uint64_t)c->min_rtt_us * (1u + c->rack.reo_more) / 4;
  return (uint32_t)np_min_u64(us, c->srtt_us / 8);
}

void np_tcp_rack_dsack(struct np_tcp_conn *c) {
  struct np_tcp_rack *r = &c->rack;
  if ((r->flags & NP_RK_DSACK_ROUND) && np_seq_ge(c->snd_una, r->dsack_round)) r->flags &= (uint16_t)~NP_RK_DSACK_ROUND;
  if (r->flags & NP_RK_DSACK_ROUND) return; /* once a round trip */
  r->flags |= NP_RK_DSACK_ROUND;
  r->dsack_round = c->snd_nxt;
  if (r->reo_more < UINT8_MAX) r->reo_more++;
  r->reo_persist = REO_PERSIST;
}

void np_tcp_rack_recovered(struct np_tcp_conn *c) {
  if (c->rack.reo_persist == 0) return;
  if (--c->rack.reo_persist == 0) c->rack.reo_more = 0;
}

/* 0: b may not be judged, nor what was sent after it. Else when it is lost. */
static uint64_t lost_at(const struct np_tcp_conn *c, struct np_buf *b, uint32_t reo_us) {
  const struct np_tcp_rack *r = &c->rack;
  const struct np_tcp_txseg *s = np_txseg(b);
  if (!sent_after(r->xmit_ns, r->end_seq, s->sent_ns, np_txend(b))) return 0;
  return s->sent_ns + ((uint64_t)r->rtt_us + reo_us) * NS_PER_US;
}

/* What was sent once. Return: when the first not lost yet is; 0: it may not be judged. */
static uint64_t detect_first(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t reo_us) {
  struct np_buf *b = c->rack_next != NULL ? c->rack_next : c->sndq_head;
  struct np_buf *last = b;
  uint64_t at = 0;
  while (b != NULL && b != c->sndq_next) { /* bound: each segment once, runs of SACKed ones in one step */
    struct np_tcp_txseg *s = np_txseg(b);
    last = b;
    if (s->flags & NP_TXS_SACKED) {
      uint32_t budget = NP_TCP_SACK_WALK;
      b = last = np_tcp_sack_run_end(c, b, &budget);
    } else if (!(s->flags & (NP_TXS_LOST | NP_TXS_EVER))) {
      at = lost_at(c, b, reo_us);
      if (at == 0 || at > tcp->now_ns) break;
      np_tcp_mark_lost(tcp, c, b);
      at = 0;
    }
    b = np_txnext(b);
  }
  c->rack_next = b != NULL ? b : last;
  return at;
}

/* What was sent again. */
static uint64_t detect_again(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t reo_us) {
  struct np_buf *b = np_tcp_seg_at(c, c->rack.rtx.head);
  while (b != NULL) { /* bound: each retransmission once: it leaves the list */
    uint64_t at = lost_at(c, b, reo_us);
    if (at == 0 || at > tcp->now_ns) return at;
    np_tcp_mark_lost(tcp, c, b);
    b = np_tcp_seg_at(c, c->rack.rtx.head);
  }
  return 0;
}

/* §6.2 step 5. The timer is set for the first that may be lost, not for the last as the RFC's
 * example does: so none waits for another's time. The wheel rounds up. */
void np_tcp_rack_detect(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->rack.reo_due_ns = 0;
  if (c->sndq_head == NULL || c->sndq_head == c->sndq_next) return;
  uint32_t reo_us = np_tcp_rack_reo_wnd_us(c);
  uint64_t first = detect_first(tcp, c, reo_us);
  uint64_t again = detect_again(tcp, c, reo_us);
  if (first == 0 || (again != 0 && again < first)) first = again;
  c->rack.reo_due_ns = first; /* the caller arms */
}
