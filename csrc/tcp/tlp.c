/* Tail loss probe, RFC 8985 §7: when no ACK came for two round trips, one segment goes out whose
 * ACK shows RACK what was lost, instead of waiting for the retransmission timer. The probe's
 * time is not kept: it follows from when data last left or was acknowledged (np_tcp_tlp_due_ns). */
#include "tcp/cc.h"


/* New data as far as the window allows, whatever cwnd and Nagle say. Return: false when there is none. */
static bool probe_new(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_next;
  uint32_t flight = np_tcp_flight(c);
  if (b == NULL) return false;
  uint32_t len = np_min_u32(np_txseg(b)->len, c->mss);
  if (c->snd_wnd < flight || c->snd_wnd - flight < len) return false;
  if (len < np_txseg(b)->len) b = np_tcp_sendq_cut(tcp, c, NULL, b, len);
  return b != NULL && np_tcp_send_data(tcp, c, b, false);
}

/* The highest segment once more, or the FIN when it is alone. */
static bool probe_again(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  if (b == NULL || b == c->sndq_next) {
    if (!(c->flags & NP_TF_FIN_SENT)) return false;
    c->flags |= NP_TF_FIN_RTX;
    np_tcp_dirty(tcp, c);
    return true;
  }
  if (c->sndq_next == NULL) {
    b = c->sndq_tail;
  } else {
    while (np_txnext(b) != c->sndq_next) b = np_txnext(b); /* bound: snd_segs, once in two round trips at most */
  }
  return np_tcp_send_data(tcp, c, b, true);
}

/* §7.3. */
void np_tcp_tlp_fire(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_rack *r = &c->rack;
  bool again = !probe_new(tcp, c);
  if (again && !probe_again(tcp, c)) return; /* no buffer: tried again, or the RTO comes */
  r->flags |= again ? NP_RK_TLP | NP_RK_TLP_RTX : NP_RK_TLP;
  r->tlp_end = c->snd_nxt;
  r->prr_flight = np_tcp_flight(c);
  if (r->tlps < UINT16_MAX) r->tlps++;
  if (c->ca_state == NP_CA_OPEN) c->ca_state = NP_CA_DISORDER;
  c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  np_tcp_count(tcp, NP_C_TCP_TLP);
}

/* §7.4.2: was the probe's range lost, so that the probe was what filled it? */
void np_tcp_tlp_ack(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_tcp_rack *r = &c->rack;
  const struct np_tcp_told *t = &tcp->told;
  if (!(r->flags & NP_RK_TLP) || np_seq_lt(c->snd_una, r->tlp_end)) return;
  bool again = (r->flags & NP_RK_TLP_RTX) != 0;
  bool filled = again && !t->dsack_tlp && np_seq_gt(c->snd_una, r->tlp_end);
  bool pure_dup = t->pure && t->sacked_segs == 0; /* of a peer that sends no DSACK */
  if (again && !t->dsack_tlp && !filled && !pure_dup) return;
  r->flags &= (uint16_t)~(NP_RK_TLP | NP_RK_TLP_RTX);
  if (!filled) return;
  np_tcp_count(tcp, NP_C_TCP_TLP_RECOVERY);
  tcp->told.lost_flight = r->prr_flight;
  np_tcp_enter_cwr_why(tcp, c, NP_CONG_LOSS);
  tcp->told.lost_flight = 0;
}
