/* Loss recovery: RFC 6675 with SACK, RFC 6582 without (newreno.c turns duplicate
 * ACKs into the same counts), RFC 5681 and 6298 after a timeout. Segments are
 * marked lost, sacked or sent again one by one; the counts make the pipe. */
#include "tcp/cc.h"

/* RFC 6675 §4, SetPipe: what is likely still on the way. */
uint32_t np_tcp_pipe(const struct np_tcp_conn *c) {
  uint32_t flight = np_tcp_flight(c);
  uint32_t gone = c->sacked_bytes + c->lost_bytes + c->reno_bytes;
  return (flight > gone ? flight - gone : 0) + c->rtx_bytes;
}

void np_tcp_mark_lost(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (s->flags & (NP_TXS_LOST | NP_TXS_SACKED)) return;
  s->flags |= NP_TXS_LOST;
  c->lost_bytes += s->len;
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE)) np_tcp_rate_lost(c, s);
  if (!(s->flags & NP_TXS_RTX)) c->lost_due++;
  if (c->rtx_next == NULL || np_seq_lt(s->seq, np_txseg(c->rtx_next)->seq)) c->rtx_next = b;
}

/* RFC 6675 §4, NextSeg rule 1. Each segment is passed once per recovery. */
struct np_buf *np_tcp_recovery_next(struct np_tcp_conn *c) {
  if (c->lost_due == 0) return NULL;
  struct np_buf *b = c->rtx_next != NULL ? c->rtx_next : c->sndq_head;
  while (b != NULL && b != c->sndq_next) { /* bound: snd_segs */
    if ((np_txseg(b)->flags & (NP_TXS_LOST | NP_TXS_RTX | NP_TXS_SACKED)) == NP_TXS_LOST) {
      c->rtx_next = b;
      return b;
    }
    b = np_txnext(b);
  }
  return NULL;
}

/* NextSeg rules 3 and 4: nothing is known to be lost and there is nothing new, yet
 * the window is open. Once per recovery, the first segment not judged that was
 * sent once: if the end of the flight was lost, its ACK shows it without a timeout. */
struct np_buf *np_tcp_recovery_rescue(struct np_tcp_conn *c) {
  if (c->flags & NP_TF_RESCUED || c->sndq_next != NULL || np_tcp_pipe(c) + c->mss > c->cwnd) return NULL;
  struct np_buf *b = c->lost_next != NULL ? c->lost_next : c->sndq_head;
  for (uint32_t n = 0; b != NULL && n < NP_TCP_SACK_WALK; n++, b = np_txnext(b)) {
    if (np_txseg(b)->flags & (NP_TXS_SACKED | NP_TXS_RTX)) continue;
    c->flags |= NP_TF_RESCUED;
    return b;
  }
  return NULL;
}

static void enter_recovery(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->ca_state = NP_CA_RECOVERY;
  c->recover = c->snd_nxt;
  c->ssthresh = np_tcp_cc_lost(tcp, c, NP_CONG_LOSS);
  if (!np_tcp_cc(c)->owns_cwnd) c->cwnd = c->ssthresh;
  c->flags |= NP_TF_FORCE_RTX;
  c->flags &= ~NP_TF_RESCUED;
  np_tcp_count(tcp, NP_C_TCP_FAST_RETRANS);
  if (c->sndq_head != NULL && c->sndq_head != c->sndq_next) {
    np_tcp_mark_lost(c, c->sndq_head);
  } else if (c->flags & NP_TF_FIN_SENT) {
    c->flags |= NP_TF_FIN_RTX;
  }
  np_tcp_dirty(tcp, c);
}

void np_tcp_enter_cwr(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->ca_state = NP_CA_CWR;
  c->recover = c->snd_nxt;
  c->ssthresh = np_tcp_cc_lost(tcp, c, NP_CONG_ECN);
  if (!np_tcp_cc(c)->owns_cwnd) c->cwnd = np_min_u32(c->cwnd, c->ssthresh);
}

static void leave_recovery(struct np_tcp_conn *c) {
  /* RFC 6582 §3.2 step 3: no burst when little is in flight. */
  if (c->ca_state == NP_CA_RECOVERY && !np_tcp_cc(c)->owns_cwnd) {
    c->cwnd = np_min_u32(c->ssthresh, np_max_u32(np_tcp_pipe(c), c->mss) + NP_TCP_INIT_SEGS * c->mss);
  }
  c->ca_state = NP_CA_OPEN;
  c->dup_acks = 0;
  c->reno_bytes = 0;
  c->flags &= ~NP_TF_FORCE_RTX;
}

/* In recovery without SACK, an ACK that stops short of recover says that the
 * segment it stops at is lost as well (RFC 6582 §3.2). */
static void partial_ack(struct np_tcp_conn *c, uint32_t acked) {
  if (c->flags & NP_TF_SACK) return;
  np_tcp_reno_acked(c, acked);
  if (c->sndq_head != NULL && c->sndq_head != c->sndq_next) np_tcp_mark_lost(c, c->sndq_head);
}

void np_tcp_recovery_ack(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t acked, uint32_t newly_sacked, bool dup) {
  bool sack = (c->flags & NP_TF_SACK) != 0;
  if (c->ca_state != NP_CA_OPEN) {
    if (np_seq_ge(c->snd_una, c->recover)) {
      leave_recovery(c);
    } else if (acked != 0 && c->ca_state == NP_CA_RECOVERY) {
      partial_ack(c, acked);
    }
  }
  if (acked != 0 && c->ca_state == NP_CA_OPEN) {
    c->dup_acks = 0;
    c->reno_bytes = 0;
  }
  if (sack) {
    dup = newly_sacked != 0; /* RFC 6675 §2 */
    if (newly_sacked != 0) np_tcp_sack_update_lost(c);
  } else if (dup && c->ca_state != NP_CA_LOSS) {
    np_tcp_reno_dup(c);
  }
  if (dup && c->dup_acks < UINT32_MAX) c->dup_acks++;
  if (c->ca_state != NP_CA_OPEN || np_tcp_flight(c) == 0) return;
  /* RFC 6582 §3.2 step 2: without SACK not again for what a timeout already resent. */
  bool may = sack || np_seq_ge(c->snd_una, c->recover);
  if ((c->dup_acks >= NP_TCP_DUP_THRESH && may) || c->lost_due != 0) enter_recovery(tcp, c);
}

/* RFC 6298 §5.4 to §5.6, RFC 5681 §3.1: one segment, then slow start. */
void np_tcp_recovery_rto(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  /* Its own SACK of the first segment taken back: the receiver dropped what it had (RFC 2018 §8). */
  if (b != NULL && b != c->sndq_next && (np_txseg(b)->flags & NP_TXS_SACKED)) np_tcp_sack_clear(c);
  if (c->ca_state != NP_CA_LOSS) c->ssthresh = np_tcp_cc_lost(tcp, c, NP_CONG_RTO);
  c->ca_state = NP_CA_LOSS;
  c->cwnd = c->mss;
  c->recover = c->snd_nxt;
  c->dup_acks = 0;
  c->reno_bytes = 0;
  c->rtx_bytes = 0;
  c->lost_due = 0;
  c->lost_bytes = 0;
  c->rtx_next = NULL;
  c->flags |= NP_TF_FORCE_RTX;
  if (b == NULL || b == c->sndq_next) {
    if (c->flags & NP_TF_FIN_SENT) c->flags |= NP_TF_FIN_RTX;
    return;
  }
  for (; b != NULL && b != c->sndq_next; b = np_txnext(b)) { /* bound: snd_segs, once per timeout */
    np_txseg(b)->flags &= ~(NP_TXS_RTX | NP_TXS_LOST);
    np_tcp_mark_lost(c, b);
  }
}
