/* Episodes that prove spurious: by the timestamps of the first ACK (Eifel, RFC 3522), because every
 * retransmission was reported as a duplicate (RFC 2883), or by what is acknowledged after a
 * timeout (F-RTO, RFC 5682). The response is that of RFC 4015: what was reduced comes back. */
#include "tcp/cc.h"

#define STATE_FLAGS (NP_RK_UNDO | NP_RK_UNDO_RTO | NP_RK_EIFEL_ARM | NP_RK_EIFEL | NP_RK_FRTO | NP_RK_FRTO_NEW | NP_RK_FRTO_3)

/* An episode begins; recover is set. */
void np_tcp_undo_arm(struct np_tcp_conn *c) {
  np_tcp_undo_disarm(c);
  c->rack.flags |= NP_RK_UNDO | NP_RK_EIFEL_ARM;
  c->rack.undo_una = c->snd_una;
  c->rack.undo_rtx = 0;
}

void np_tcp_undo_disarm(struct np_tcp_conn *c) { c->rack.flags &= (uint16_t)~STATE_FLAGS; }

/* Reaching zero is what says that all was for nothing; told.dsack makes np_tcp_undo_ack look. */
void np_tcp_undo_dsack(struct np_tcp_conn *c, np_seq end, uint32_t segs) {
  struct np_tcp_rack *r = &c->rack;
  if (!(r->flags & NP_RK_UNDO) || !np_seq_gt(end, r->undo_una) || np_seq_gt(end, c->recover)) return;
  r->undo_rtx -= np_min_u32(segs, r->undo_rtx);
}

/* RFC 5682 §3.1 step 1; a second timeout goes on with what the first began. */
void np_tcp_frto_start(struct np_tcp_conn *c) { c->rack.flags |= NP_RK_FRTO | NP_RK_UNDO_RTO; }

/* RFC 4015 §3.3: the path is at least as slow as the late ACK says, if it surely was late (ack.c); else the
 * back-off stays as it was kept there. */
static void adapt_rto(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t rtt_us = tcp->told.rtt_us;
  if (rtt_us == 0) return;
  c->backoff = 0;
  c->srtt_us = np_max_u32(c->srtt_us, (uint32_t)np_min_u64((uint64_t)rtt_us * 8, UINT32_MAX));
  c->rttvar_us = np_max_u32(c->rttvar_us, (uint32_t)np_min_u64((uint64_t)rtt_us * 2, UINT32_MAX));
  np_tcp_rto_update(tcp, c);
}

static void undo(struct np_tcp *tcp, struct np_tcp_conn *c, bool timeout) {
  np_tcp_cc(c)->undo(tcp, c);
  /* RACK judges again, now that it knows better. Bound: lost_due, once an episode. */
  while (c->rack.due.head != 0) {
    struct np_buf *b = np_tcp_seg_at(c, c->rack.due.head);
    np_tcp_seg_unlink(c, b);
  }
  c->rack_next = NULL;
  c->rack.xmit_ns = 0; /* what it says may come from an ACK taken for a retransmission's */
  c->ca_state = NP_CA_DISORDER; /* recovery.c looks whether it is OPEN */
  c->dup_acks = 0;
  c->reno_bytes = 0;
  c->flags &= ~NP_TF_FORCE_RTX;
  np_tcp_undo_disarm(c);
  if (timeout) {
    adapt_rto(tcp, c);
  } else if (c->flags & NP_TF_SACK) {
    np_tcp_rack_reordered(tcp, c);
  }
  if (c->rack.undos < UINT16_MAX) c->rack.undos++;
  np_tcp_count(tcp, timeout ? NP_C_TCP_SPURIOUS_RTO : NP_C_TCP_UNDO);
}

/* RFC 3522 §3.2 steps 4 and 5: the first acceptable ACK echoes the original transmission. */
static bool eifel(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (!(c->rack.flags & NP_RK_EIFEL) || tcp->told.acked_bytes == 0) return false;
  c->rack.flags &= (uint16_t)~(NP_RK_EIFEL | NP_RK_EIFEL_ARM);
  return tcp->told.tsecr != 0 && (int32_t)(tcp->told.tsecr - c->rack.rtx_ts) < 0;
}

/* RFC 5682 §3.1 steps 2 and 3, without SACK §2.1. */
static bool frto(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_rack *r = &c->rack;
  const struct np_tcp_told *t = &tcp->told;
  if (!(r->flags & NP_RK_FRTO) || c->ca_state != NP_CA_LOSS) return false;
  r->flags &= (uint16_t)~NP_RK_FRTO_NEW;
  bool news = t->acked_bytes != 0 || t->sacked_segs != 0;
  if (!(r->flags & NP_RK_FRTO_3)) {
    if (t->acked_bytes == 0) return false; /* the first that acknowledges anew decides */
    bool more = c->sndq_next != NULL && c->snd_wnd > np_tcp_flight(c);
    if (np_seq_ge(c->snd_una, c->recover) || !more) { /* step 2a, or nothing to go on with */
      r->flags &= (uint16_t)~NP_RK_FRTO;
    } else {
      r->flags |= NP_RK_FRTO_3 | NP_RK_FRTO_NEW;
    }
    return false;
  }
  if (!news && !t->dup) return false;
  r->flags &= (uint16_t)~(NP_RK_FRTO | NP_RK_FRTO_3);
  if (t->orig && ((c->flags & NP_TF_SACK) || !t->again)) return true; /* step 3b */
  if (!np_tcp_cc(c)->owns_cwnd) c->cwnd = np_min_u32(np_max_u32(c->cwnd, 3 * c->mss), c->ssthresh); /* step 3a */
  return false;
}

bool np_tcp_undo_ack(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_rack *r = &c->rack;
  if (!(r->flags & NP_RK_UNDO)) return false;
  bool loss = (r->flags & NP_RK_UNDO_RTO) != 0;
  if (c->ca_state >= NP_CA_RECOVERY && (eifel(tcp, c) || frto(tcp, c))) {
    undo(tcp, c, loss);
    return true;
  }
  if (tcp->told.dsack && r->undo_rtx == 0 && !(r->flags & NP_RK_EIFEL_ARM)) {
    undo(tcp, c, loss);
    return true;
  }
  return false;
}
