/* What holds of a connection and its owner at every instant between two turns. Looks at
 * TCP's own structures; simulation and fuzzing call it after each flush.
 * Return, of all: NULL, or what is wrong. Nothing is changed. */
#ifndef NP_TEST_INVARIANTS_H
#define NP_TEST_INVARIANTS_H

#include "tcp/tcp_int.h"

struct np_inv_counts {
  uint32_t segs, sacked_segs, sacked, lost, rtx, rtx_segs, due;
};

NP_INLINE const char *np_inv_seg(const struct np_tcp_conn *c, struct np_buf *b, np_seq expected, struct np_inv_counts *n) {
  const struct np_tcp_txseg *s = np_txseg(b);
  bool sent = np_seq_le(np_txend(b), c->snd_nxt);
  if (!np_seq_eq(s->seq, expected)) return "send queue has a gap";
  if (s->len == 0) return "empty segment in the send queue";
  if (s->off < NP_BUF_HDR || s->off + s->len > b->cap_bytes) return "queued payload outside its buffer";
  if (b->refs == 0) return "queued buffer without an owner";
  if ((s->flags & NP_TXS_SACKED) && (s->flags & NP_TXS_LOST)) return "segment both lost and selectively acknowledged";
  if (!sent && (s->flags & (NP_TXS_SACKED | NP_TXS_LOST | NP_TXS_RTX | NP_TXS_EVER))) return "unsent segment marked as if sent";
  n->segs++;
  if (s->flags & NP_TXS_SACKED) {
    n->sacked += s->len;
    n->sacked_segs++;
  }
  if (s->flags & NP_TXS_LOST) n->lost += s->len;
  if (s->flags & NP_TXS_RTX) {
    n->rtx += s->len;
    n->rtx_segs++;
  }
  if ((s->flags & (NP_TXS_LOST | NP_TXS_RTX)) == NP_TXS_LOST) n->due++;
  return NULL;
}

/* A list of recovery's: linked both ways, each segment marked as those in it are. */
NP_INLINE const char *np_inv_list(const struct np_tcp_conn *c, const struct np_tcp_seglist *list, uint32_t mask, uint32_t flags, uint32_t *count) {
  uint32_t prev = 0;
  *count = 0;
  for (uint32_t ref = list->head; ref != 0; ref = np_txseg(np_tcp_seg_at(c, ref))->link_next) {
    const struct np_tcp_txseg *s = np_txseg(np_tcp_seg_at(c, ref));
    if ((s->flags & mask) != flags) return "segment in a list that its flags do not say";
    if (s->link_prev != prev) return "list of segments is not linked both ways";
    if (++*count > c->snd_segs) return "list of segments has a loop";
    prev = ref;
  }
  return prev == list->tail ? NULL : "list's tail is not its last segment";
}

/* The send queue: without a gap from snd_una to snd_end, and its counts right. */
NP_INLINE const char *np_inv_sendq(const struct np_tcp_conn *c) {
  struct np_inv_counts n = {0, 0, 0, 0, 0, 0, 0};
  bool opening = c->state == NP_TCP_SYN_SENT || c->state == NP_TCP_SYN_RECEIVED;
  np_seq at = opening ? np_seq_add(c->snd_una, 1) : c->snd_una;
  const struct np_buf *last = NULL;
  bool seen_next = false;
  for (struct np_buf *b = c->sndq_head; b != NULL; b = np_txnext(b)) {
    if (b == c->sndq_next) {
      seen_next = true;
      if (!np_seq_eq(np_txseg(b)->seq, c->snd_nxt)) return "first unsent segment is not at snd_nxt";
    }
    const char *wrong = np_inv_seg(c, b, at, &n);
    if (wrong != NULL) return wrong;
    at = np_txend(b);
    last = b;
  }
  if (last != c->sndq_tail) return "send queue's tail is not its last segment";
  if (c->sndq_next != NULL && !seen_next) return "first unsent segment is not in the queue";
  if (c->sndq_head != NULL && !np_seq_eq(at, c->snd_end)) return "send queue does not end at snd_end";
  if (n.segs != c->snd_segs) return "snd_segs is wrong";
  if (n.sacked != c->sacked_bytes || n.sacked_segs != c->sacked_segs) return "count of selectively acknowledged is wrong";
  if (n.lost != c->lost_bytes) return "lost_bytes is wrong";
  if (n.rtx != c->rtx_bytes) return "rtx_bytes is wrong";
  if (n.due != c->lost_due) return "lost_due is wrong";
  uint32_t due;
  uint32_t rtx;
  const char *wrong = np_inv_list(c, &c->rack.due, NP_TXS_LOST | NP_TXS_RTX | NP_TXS_SACKED, NP_TXS_LOST, &due);
  if (wrong == NULL) wrong = np_inv_list(c, &c->rack.rtx, NP_TXS_RTX | NP_TXS_SACKED, NP_TXS_RTX, &rtx);
  if (wrong != NULL) return wrong;
  if (due != n.due || rtx != n.rtx_segs) return "a segment is missing in its list";
  return NULL;
}

NP_INLINE const char *np_inv_ooo(const struct np_tcp_conn *c) {
  uint32_t segs = 0;
  uint32_t bytes = 0;
  np_seq last = c->rcv_nxt;
  struct np_buf *skip[NP_TCP_OOO_SKIPS] = {NULL};
  if (c->ooo_head != NULL) memcpy(skip, np_rxseg(c->ooo_head)->skip, sizeof skip);
  for (struct np_buf *r = c->ooo_head; r != NULL; r = np_rxseg(r)->run_next) {
    for (uint32_t l = 0; l < NP_TCP_OOO_SKIPS; l++) {
      if (r == skip[l]) {
        skip[l] = np_rxseg(r)->skip[l];
      } else if (r != c->ooo_head && np_rxseg(r)->skip[l] != NULL) {
        return "out-of-order run has a next one in a level that it is not in";
      }
    }
    if (!np_seq_lt(last, np_rxseg(r)->seq)) return "out-of-order runs touch or overlap";
    last = np_rxseg(r)->run_end;
    if (!np_seq_lt(np_rxseg(r)->seq, last)) return "empty out-of-order run";
    if (np_buf_chain_len(r) != (uint32_t)np_seq_diff(last, np_rxseg(r)->seq)) return "out-of-order run's length is wrong";
    segs += np_rxseg(r)->run_segs;
    bytes += np_buf_chain_len(r);
  }
  for (uint32_t l = 0; l < NP_TCP_OOO_SKIPS; l++) {
    if (skip[l] != NULL) return "a level of the out-of-order runs leads out of them";
  }
  if (c->ooo_head != NULL && np_seq_gt(last, c->rcv_adv)) return "out-of-order data beyond the window offered";
  if (segs != c->ooo_segs || bytes != c->ooo_bytes) return "count of out-of-order data is wrong";
  for (uint32_t i = 0; i < c->sack_count; i++) {
    if (!np_seq_lt(c->sack[i].start, c->sack[i].end)) return "empty SACK block to report";
    if (!np_seq_gt(c->sack[i].start, c->rcv_nxt)) return "SACK block to report at or below rcv_nxt";
  }
  return NULL;
}

/* Whatever waits has something that will end its waiting. */
NP_INLINE const char *np_inv_progress(struct np_tcp_conn *c) {
  if ((c->flags & NP_TF_DIRTY) || c->state == NP_TCP_TIME_WAIT) return NULL;
  bool timer = np_timer_is_set(&c->timer);
  bool late = np_timer_is_set(&c->ack_timer);
  bool cookie = (c->flags & NP_TF_COOKIE) != 0 && c->state == NP_TCP_SYN_RECEIVED;
  if (!np_seq_eq(c->snd_una, c->snd_nxt) && !cookie && c->rtx_due_ns == 0) return "sent and not acknowledged, but no retransmission is due";
  if (c->rtx_due_ns != 0 && (!timer || c->timer_due_ns > c->rtx_due_ns)) return "retransmission is due, but no timer comes that early";
  if (c->ca_state != NP_CA_OPEN && c->rack.reo_due_ns != 0 && (!timer || c->timer_due_ns > c->rack.reo_due_ns)) return "the reordering timer is due, but no timer comes that early";
  uint64_t tlp = np_tcp_tlp_due_ns(c);
  if (tlp != 0 && (!timer || c->timer_due_ns > tlp)) return "a tail probe is due, but no timer comes that early";
  if (c->misc_due_ns != 0 && (!timer || c->timer_due_ns > c->misc_due_ns)) return "a deadline is set, but no timer comes that early";
  if (c->sndq_next != NULL && !timer && !late) return "data waits to be sent, but nothing will send it";
  if ((c->flags & NP_TF_FIN_QUEUED) && !(c->flags & NP_TF_FIN_SENT) && !timer && !late) return "a FIN waits to be sent, but nothing will send it";
  if (c->flags & NP_TF_NO_BUF && !late) return "wants a buffer, but nothing looks again";
  if ((c->flags & NP_TF_ACK_NOW) && !(late && (c->flags & NP_TF_NO_BUF))) return "an ACK is due now, but nothing will send it";
  if ((c->flags & NP_TF_ACK_LATER) && !late) return "an ACK is due later, but no timer is set";
  if (c->rcvq_head != NULL && !late) return "data waits to be handed up, but nothing will";
  if (c->flags & (NP_TF_EV_ACCEPT | NP_TF_EV_ESTABLISHED | NP_TF_EV_EOF | NP_TF_EV_WRITABLE | NP_TF_EV_CLOSED)) return "the session is owed a call, but nothing will make it";
  bool room_waits = (c->flags & NP_TF_ROOM_SAID_NO) && c->stream.session != NULL && np_tcp_sends(c->state);
  if (room_waits && c->sndq_head == NULL && !late) return "the session waits for room, but nothing will wake it";
  return NULL;
}

NP_INLINE const char *np_inv_conn(struct np_tcp_conn *c) {
  bool opening = c->state == NP_TCP_SYN_SENT || c->state == NP_TCP_SYN_RECEIVED;
  if (!np_seq_le(c->snd_una, c->snd_nxt)) return "snd_una is beyond snd_nxt";
  if (c->state != NP_TCP_TIME_WAIT && np_seq_gt(c->snd_nxt, np_seq_add(c->snd_end, 1))) return "snd_nxt is beyond what was queued";
  if (c->state != NP_TCP_SYN_SENT) {
    if (!np_seq_le(c->rcv_nxt, c->rcv_adv)) return "rcv_nxt is beyond the window offered";
    if (!np_seq_le(c->last_ack, c->rcv_nxt)) return "acknowledged more than was received";
  }
  if (!opening && c->cwnd < c->mss) return "cwnd is less than a segment";
  if (c->mss == 0) return "mss is 0";
  if (c->sacked_bytes + c->lost_bytes > np_tcp_flight(c)) return "more marked than in flight";
  const char *wrong = np_inv_sendq(c);
  if (wrong == NULL) wrong = np_inv_ooo(c);
  return wrong != NULL ? wrong : np_inv_progress(c);
}

/* All connections of one core, and what counts them. *slot: which one is wrong, UINT32_MAX: none in particular. */
NP_INLINE const char *np_inv_tcp(const struct np_tcp *tcp, uint32_t *slot) {
  uint32_t conns = 0;
  uint32_t waiting = 0;
  uint32_t send = 0;
  uint32_t ooo = 0;
  for (uint32_t i = 0; i < tcp->config.conns_max && conns < tcp->conn_count; i++) {
    struct np_tcp_conn *c = np_tcp_at(tcp, i);
    /* closed and still dirty: freed, and counted off, in the next flush */
    if (c->state == NP_TCP_CLOSED) {
      if (c->flags & NP_TF_DIRTY) conns++;
      continue;
    }
    conns++;
    if (c->state == NP_TCP_TIME_WAIT) waiting++;
    send += c->snd_segs;
    ooo += c->ooo_segs;
    const char *wrong = np_inv_conn(c);
    if (wrong == NULL) continue;
    *slot = i;
    return wrong;
  }
  *slot = UINT32_MAX;
  if (conns != tcp->conn_count) return "count of connections is wrong";
  if (waiting != tcp->tw_count) return "count in TIME-WAIT is wrong";
  if (send != tcp->mem.send || ooo != tcp->mem.ooo) return "buffers are not accounted for";
  if ((ooo == 0) != (tcp->mem.ooo_classes == 0)) return "out-of-order data that is in no list";
  if (waiting != 0 && !np_timer_is_set(&tcp->tw_timer)) return "TIME-WAIT without a timer";
  return NULL;
}

#endif
