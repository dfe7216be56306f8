/* Loss recovery: episodes, and what they do with what is found lost. With SACK it is found by RACK
 * (rack.c) and tail probes (tlp.c); without, by duplicate ACKs (RFC 6582, newreno.c turns them into
 * the same counts); by timeout either way (RFC 6298, 5681). cwnd in an episode is prr.c's. */
#include "tcp/cc.h"

/* RFC 6675 §4, SetPipe: what is likely still on the way. */
uint32_t np_tcp_pipe(const struct np_tcp_conn *c) {
  uint32_t flight = np_tcp_flight(c);
  uint32_t gone = c->sacked_bytes + c->lost_bytes + c->reno_bytes;
  return (flight > gone ? flight - gone : 0) + c->rtx_bytes;
}

void np_tcp_mark_lost(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if ((s->flags & NP_TXS_SACKED) || (s->flags & (NP_TXS_LOST | NP_TXS_RTX)) == NP_TXS_LOST) return;
  np_tcp_count(tcp, s->flags & NP_TXS_RTX ? NP_C_TCP_LOST_RETRANS : NP_C_TCP_LOST);
  np_tcp_seg_unlink(c, b);
  s->flags |= NP_TXS_LOST;
  c->lost_bytes += s->len;
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE)) np_tcp_rate_lost(c, s);
  c->lost_due++;
  np_tcp_due_add(c, b);
  tcp->told.lost_bytes += s->len;
}

void np_tcp_rtx_sent(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  uint32_t lost = s->flags & NP_TXS_LOST;
  bool sacked = (s->flags & NP_TXS_SACKED) != 0; /* a probe of what the peer says it has: nothing is awaited of it */
  np_tcp_seg_unlink(c, b);
  if (lost) c->lost_bytes += s->len;
  s->flags |= lost | (sacked ? 0 : NP_TXS_RTX) | NP_TXS_EVER;
  s->sent_ns = tcp->now_ns;
  if (b == c->sndq_head) c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c); /* it gets its whole time, as the first did */
  if (!sacked) {
    c->rtx_bytes += s->len;
    np_tcp_rtx_add(c, b);
  }
  c->rtx_segs++;
  c->bytes_rtx += s->len;
  np_tcp_count(tcp, NP_C_TCP_RETRANS);
  if (!(c->rack.flags & NP_RK_UNDO)) return;
  c->rack.undo_rtx++;
  if (!(c->rack.flags & NP_RK_EIFEL_ARM)) return;
  c->rack.flags ^= NP_RK_EIFEL_ARM;
  /* Behind what an episode before sent again, the next ACK echoes that, which left sooner: it would say that this
   * one was for nothing, whatever became of it. */
  if (b != c->sndq_head) return;
  c->rack.flags |= NP_RK_EIFEL;
  c->rack.rtx_ts = np_tcp_ts_now(tcp, c);
}

/* RFC 6675 §4, NextSeg rule 1. */
struct np_buf *np_tcp_recovery_next(struct np_tcp_conn *c) {
  if (c->lost_due == 0 || (c->rack.flags & NP_RK_FRTO_NEW)) return NULL;
  return np_tcp_seg_at(c, c->rack.due.head);
}

/* NextSeg rules 3 and 4: nothing is known to be lost and there is nothing new, yet the window is
 * open. Once per recovery, the first segment not judged that was sent once, if its ACK is
 * overdue: should the end of the flight be lost, this shows it without a timeout. */
struct np_buf *np_tcp_recovery_rescue(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->flags & NP_TF_RESCUED || c->sndq_next != NULL || np_tcp_pipe(c) + c->mss > c->cwnd) return NULL;
  struct np_buf *b = c->rack_next != NULL ? c->rack_next : c->sndq_head;
  for (uint32_t n = 0; b != NULL && n < NP_TCP_SACK_WALK; n++, b = np_txnext(b)) {
    if (np_txseg(b)->flags & (NP_TXS_SACKED | NP_TXS_RTX)) continue;
    if (tcp->now_ns < np_txseg(b)->sent_ns + (uint64_t)c->srtt_us / 8 * 1250) return NULL; /* 5/4 of a round trip */
    c->flags |= NP_TF_RESCUED;
    return b;
  }
  return NULL;
}

/* cwnd is ours to reduce. */
static bool reduces(const struct np_tcp_conn *c) { return !np_tcp_cc(c)->owns_cwnd; }

static uint32_t out_there(const struct np_tcp_conn *c) {
  uint32_t flight = np_tcp_flight(c);
  uint32_t gone = c->sacked_bytes + c->reno_bytes;
  return flight > gone ? flight - gone : 0;
}

static void tlp_forget(struct np_tcp_conn *c) { c->rack.flags &= (uint16_t)~(NP_RK_TLP | NP_RK_TLP_RTX); }

static void enter_recovery(struct np_tcp *tcp, struct np_tcp_conn *c) {
  bool reduced = c->ca_state == NP_CA_CWR; /* for this window already: losses in it are no other sign */
  c->ca_state = NP_CA_RECOVERY;
  c->recover = c->snd_nxt;
  c->flags |= NP_TF_FORCE_RTX;
  c->flags &= ~NP_TF_RESCUED;
  np_tcp_count(tcp, NP_C_TCP_FAST_RETRANS);
  tlp_forget(c);
  if (!(c->flags & NP_TF_SACK)) {
    if (c->sndq_head != NULL && c->sndq_head != c->sndq_next) {
      np_tcp_mark_lost(tcp, c, c->sndq_head);
    } else if (c->flags & NP_TF_FIN_SENT) {
      c->flags |= NP_TF_FIN_RTX;
    }
  }
  if (reduced) {
    np_tcp_undo_disarm(c);
  } else {
    c->ssthresh = np_tcp_cc_lost(tcp, c, NP_CONG_LOSS);
    np_tcp_undo_arm(c);
    np_tcp_prr_start(c, tcp->told.flight0);
    if (reduces(c)) c->cwnd = np_tcp_pipe(c) + c->mss; /* the fast retransmit; ACKs say the rest */
  }
  np_tcp_dirty(tcp, c);
}

void np_tcp_enter_cwr_why(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t why) {
  if (c->ca_state >= NP_CA_CWR) return;
  c->ca_state = NP_CA_CWR;
  c->recover = c->snd_nxt;
  c->ssthresh = np_tcp_cc_lost(tcp, c, (enum np_tcp_cong)why);
  np_tcp_undo_disarm(c);
  tlp_forget(c);
  np_tcp_prr_start(c, out_there(c));
  if (reduces(c)) c->cwnd = np_min_u32(c->cwnd, np_tcp_pipe(c) + c->mss);
}

void np_tcp_enter_cwr(struct np_tcp *tcp, struct np_tcp_conn *c) { np_tcp_enter_cwr_why(tcp, c, NP_CONG_ECN); }

static void leave(struct np_tcp_conn *c) {
  /* RFC 6582 §3.2 step 3: no burst when little is in flight. */
  if (c->ca_state != NP_CA_LOSS && reduces(c)) {
    c->cwnd = np_min_u32(np_max_u32(c->ssthresh, c->mss), np_max_u32(np_tcp_pipe(c), c->mss) + NP_TCP_INIT_SEGS * c->mss);
  }
  if (c->ca_state != NP_CA_LOSS) c->flags &= ~NP_TF_CWND_FULL; /* the ACK that ends it lets nothing grow: RFC 5681 §3.2 step 6 */
  if (c->ca_state == NP_CA_RECOVERY) np_tcp_rack_recovered(c);
  c->rack.flags &= (uint16_t)~(NP_RK_FRTO | NP_RK_FRTO_NEW | NP_RK_FRTO_3 | NP_RK_EIFEL | NP_RK_EIFEL_ARM);
  c->ca_state = NP_CA_OPEN;
  c->dup_acks = 0;
  c->reno_bytes = 0;
  c->flags &= ~NP_TF_FORCE_RTX;
}

/* In recovery without SACK, an ACK that stops short of recover says that the
 * segment it stops at is lost as well (RFC 6582 §3.2). */
static void partial_ack(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t acked) {
  np_tcp_reno_acked(c, acked);
  if (c->sndq_head != NULL && c->sndq_head != c->sndq_next) np_tcp_mark_lost(tcp, c, c->sndq_head);
}

/* RFC 6582 §4.1: after a timeout, duplicates may come from what was sent again in vain. They tell
 * of a loss when the ACK before them moved by a little: had it filled the hole of a window, it
 * would have moved by much. Without this a retransmission lost again waits for the next, doubled RTO. */
static void dups_after_rto(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  if (c->dup_acks != NP_TCP_DUP_THRESH || c->cwnd <= c->mss || c->rack.last_acked > 4 * c->mss) return;
  if (b == NULL || b == c->sndq_next || !(np_txseg(b)->flags & NP_TXS_RTX)) return;
  np_tcp_mark_lost(tcp, c, b);
  c->flags |= NP_TF_FORCE_RTX;
}

/* What duplicate ACKs say without SACK. */
static void reno_ack(struct np_tcp *tcp, struct np_tcp_conn *c) {
  const struct np_tcp_told *t = &tcp->told;
  if (c->ca_state == NP_CA_RECOVERY && t->acked_bytes != 0) partial_ack(tcp, c, t->acked_bytes);
  if (t->acked_bytes != 0) {
    c->rack.last_acked = t->acked_bytes;
    if (c->ca_state != NP_CA_RECOVERY) c->dup_acks = c->reno_bytes = 0;
  }
  if (!t->dup) return;
  if (c->ca_state != NP_CA_LOSS) np_tcp_reno_dup(c);
  if (c->dup_acks < UINT32_MAX) c->dup_acks++;
  if (c->ca_state == NP_CA_LOSS) dups_after_rto(tcp, c);
}

/* OPEN, or DISORDER while there is something that only a close look tells. */
static void settle(struct np_tcp_conn *c) {
  if (c->ca_state > NP_CA_DISORDER) return;
  bool odd = c->sacked_segs != 0 || c->dup_acks != 0 || c->rack.rtx.head != 0 || (c->rack.flags & NP_RK_TLP);
  c->ca_state = odd ? NP_CA_DISORDER : NP_CA_OPEN;
  if (!odd) c->rack.reo_due_ns = 0;
}

static void maybe_enter(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->ca_state >= NP_CA_RECOVERY || np_tcp_flight(c) == 0) return;
  /* RFC 6582 §3.2 step 2: without SACK not again for what a timeout already resent. */
  bool dups = !(c->flags & NP_TF_SACK) && c->dup_acks >= NP_TCP_DUP_THRESH && np_seq_ge(c->snd_una, c->recover);
  if (!dups && c->lost_due == 0) return;
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_MTU) && np_tcp_pmtu_excuses(tcp, c)) return;
  enter_recovery(tcp, c);
}

void np_tcp_recovery_ack(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_told *t = &tcp->told;
  uint32_t out = out_there(c); /* after what was acknowledged and SACKed */
  np_tcp_undo_ack(tcp, c);
  if (c->ca_state >= NP_CA_CWR && np_seq_ge(c->snd_una, c->recover)) leave(c);
  if (c->flags & NP_TF_SACK) {
    if (t->dsack) np_tcp_rack_dsack(c);
    if (c->ca_state != NP_CA_OPEN || c->sacked_segs != 0) np_tcp_rack_detect(tcp, c);
  } else {
    reno_ack(tcp, c);
  }
  /* Without SACK a duplicate delivers one, and an ACK what duplicates did not say before. */
  if (!(c->flags & NP_TF_SACK)) out = out_there(c);
  t->delivered = t->flight0 > out ? t->flight0 - out : 0;
  np_tcp_tlp_ack(tcp, c);
  if (c->ca_state == NP_CA_CWR && np_seq_ge(c->snd_una, c->recover)) leave(c);
  maybe_enter(tcp, c);
  settle(c);
  if ((c->ca_state == NP_CA_RECOVERY || c->ca_state == NP_CA_CWR) && reduces(c)) np_tcp_prr_ack(tcp, c);
  if (c->ca_state != NP_CA_OPEN || c->rtx_due_ns != 0) np_tcp_timer_arm(tcp, c);
}

void np_tcp_recovery_lost(struct np_tcp *tcp, struct np_tcp_conn *c) {
  tcp->told = (struct np_tcp_told){.flight0 = out_there(c), .fack = c->rack.fack};
  np_tcp_rack_detect(tcp, c);
  if (tcp->told.lost_bytes == 0) return;
  maybe_enter(tcp, c);
  np_tcp_dirty(tcp, c);
}

/* RFC 8985 §6.3: the first segment, and what was sent so long ago that it should have been
 * acknowledged; without SACK, everything. What is SACKed is not sent again. */
static void mark_timed_out(struct np_tcp *tcp, struct np_tcp_conn *c) {
  bool sack = (c->flags & NP_TF_SACK) != 0;
  uint32_t rtt_us = np_max_u32(c->rack.rtt_us, c->srtt_us / 8);
  uint64_t wait_ns = ((uint64_t)rtt_us + np_tcp_rack_reo_wnd_us(c)) * 1000;
  for (uint32_t pass = 0; pass < 2; pass++) { /* first out of every list, so that they come back in order */
    for (struct np_buf *b = c->sndq_head; b != NULL && b != c->sndq_next; b = np_txnext(b)) { /* bound: snd_segs, once per timeout */
      struct np_tcp_txseg *s = np_txseg(b);
      bool recent = sack && b != c->sndq_head && s->sent_ns + wait_ns > tcp->now_ns;
      if (recent && (s->flags & (NP_TXS_LOST | NP_TXS_RTX)) != NP_TXS_LOST) continue;
      if (s->flags & NP_TXS_SACKED) continue;
      if (pass == 0) {
        np_tcp_seg_unlink(c, b);
      } else {
        np_tcp_mark_lost(tcp, c, b);
      }
    }
  }
}

/* Which episodes may prove spurious. RFC 5682 §3.1: not one that follows another loss. */
static void rto_undo(struct np_tcp_conn *c) {
  if (c->ca_state < NP_CA_RECOVERY) {
    np_tcp_undo_arm(c);
    np_tcp_frto_start(c);
  } else if (c->ca_state == NP_CA_RECOVERY || (c->rack.flags & NP_RK_FRTO_3)) {
    np_tcp_undo_disarm(c);
  }
}

/* RFC 6298 §5.4 to §5.6, RFC 5681 §3.1: one segment, then slow start. */
void np_tcp_recovery_rto(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  /* Its own SACK of the first segment taken back: the receiver dropped what it had (RFC 2018 §8). */
  if (b != NULL && b != c->sndq_next && (np_txseg(b)->flags & NP_TXS_SACKED)) {
    np_tcp_sack_clear(c);
    np_tcp_count(tcp, NP_C_TCP_RENEGED);
  }
  c->recover = c->snd_nxt;
  rto_undo(c);
  if (c->ca_state != NP_CA_LOSS) c->ssthresh = np_tcp_cc_lost(tcp, c, NP_CONG_RTO);
  c->ca_state = NP_CA_LOSS;
  if (reduces(c)) c->cwnd = c->mss;
  c->dup_acks = 0;
  c->reno_bytes = 0;
  c->rack.reo_due_ns = 0;
  tlp_forget(c);
  c->flags |= NP_TF_FORCE_RTX;
  if (b != NULL && b != c->sndq_next) {
    mark_timed_out(tcp, c);
  } else if (c->flags & NP_TF_FIN_SENT) {
    c->flags |= NP_TF_FIN_RTX;
  }
}
