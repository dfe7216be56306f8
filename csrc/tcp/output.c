/* What to send now: retransmissions, new data, FIN, acknowledgments, probes. */
#include "tcp/cc.h"

enum step { STEP_SENT, STEP_STOP };

/* What left in one packet and is lost, all of it, from b on, goes out again as one, as far as most bytes: otherwise
 * no retransmission would be as large as what got lost, and a path that carries no more never be noticed (pmtu.c). */
static bool send_packet_again(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, uint32_t most) {
  uint32_t bytes = 0;
  uint32_t n = 0;
  for (struct np_buf *p = b; p != NULL && p != c->sndq_next && n < NP_PORT_PIECES_MAX; p = np_txnext(p)) {
    struct np_tcp_txseg *s = np_txseg(p);
    bool lost = (s->flags & (NP_TXS_LOST | NP_TXS_RTX)) == NP_TXS_LOST;
    if ((p != b && !(s->flags & NP_TXS_WITH)) || !lost || p->refs != 1 || bytes + s->len > most) break;
    bytes += s->len;
    n++;
  }
  if (n < 2) return false;
  np_tcp_send_gathered(tcp, c, b, n, bytes, NP_TCP_GATHER_AGAIN);
  return true;
}

/* RFC 9293 §3.8.6.2.1 and RFC 6675 §5. */
static enum step send_retransmission(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = np_tcp_recovery_next(c);
  if (b == NULL || ((c->cc_flags & NP_CCF_PACED) && np_tcp_pace_hold(tcp, c))) return STEP_STOP;
  if (!(c->flags & NP_TF_FORCE_RTX) && np_tcp_pipe(c) + np_txseg(b)->len > np_max_u32(c->cwnd, np_txseg(b)->len)) {
    c->flags |= NP_TF_CWND_FULL;
    return STEP_STOP;
  }
  if (np_txseg(b)->len > c->mss) {
    b = np_tcp_sendq_cut(tcp, c, NULL, b, c->mss);
    if (b == NULL) {
      c->flags |= NP_TF_NO_BUF;
      return STEP_STOP;
    }
  }
  struct np_buf *next = np_txnext(b);
  bool packet = NP_UNLIKELY(tcp->tx_caps & NP_PORT_SG) && next != NULL && (np_txseg(next)->flags & NP_TXS_WITH) != 0;
  uint32_t pipe = np_tcp_pipe(c);
  uint32_t most = c->flags & NP_TF_FORCE_RTX ? c->mss : np_min_u32(c->mss, c->cwnd > pipe ? c->cwnd - pipe : 0);
  if ((!packet || !send_packet_again(tcp, c, b, most)) && !np_tcp_send_data(tcp, c, b, true)) return STEP_STOP;
  c->flags &= ~NP_TF_FORCE_RTX;
  return STEP_SENT;
}

/* RFC 5681 §4.1: after an idle RTO the old window says nothing about the path. */
static void restart_after_idle(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (np_tcp_flight(c) != 0 || c->last_tx_ns == 0) return;
  uint64_t idle_ns = tcp->now_ns - c->last_tx_ns;
  if (idle_ns <= (uint64_t)c->rto_us * 1000 || np_tcp_cc(c)->owns_cwnd) return;
  uint32_t initial = np_tcp_cc_initial_cwnd(c);
  if (c->cwnd == initial) return; /* it never grew, or begins again already */
  c->cwnd = np_min_u32(c->cwnd, initial);
  np_tcp_cc(c)->restart(tcp, c);
}

/* How much of what is queued from b on may go now as one segment; 0: nothing. */
static uint32_t sendable(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b) {
  uint32_t queued = (uint32_t)np_seq_diff(c->snd_end, np_txseg(b)->seq);
  uint32_t len = np_min_u32(queued, c->mss);
  uint32_t flight = np_tcp_flight(c);
  uint32_t pipe = np_tcp_pipe(c);
  if (pipe + len > c->cwnd && pipe != 0) {
    c->flags |= NP_TF_CWND_FULL;
    return 0;
  }
  uint32_t usable = c->snd_wnd > flight ? c->snd_wnd - flight : 0;
  if (usable < len) {
    /* Sender's silly-window avoidance: wait for a full segment or half the largest window, but that no
     * less than min_snd_mss: who never offers more gets what fits each time the persist timer fires. */
    uint32_t half = np_max_u32((c->max_wnd + 1) / 2, tcp->config.min_snd_mss);
    if (usable == 0 || usable < np_min_u32(c->mss, half)) {
      if (flight == 0 && !(c->flags & NP_TF_ZERO_WND)) {
        c->flags |= NP_TF_ZERO_WND;
        np_tcp_guard_shut(tcp, c);
      }
      return 0;
    }
    return usable;
  }
  bool last_short = len < c->mss && !(c->flags & NP_TF_FIN_QUEUED);
  if (last_short && ((NP_UNLIKELY(tcp->nagle_asked) && c->nagle && flight > 0) || (c->flags & NP_TF_MORE))) return 0;
  return len;
}

/* Bytes that congestion and peer's window allow now. */
static uint32_t send_room(const struct np_tcp_conn *c) {
  uint32_t flight = np_tcp_flight(c);
  uint32_t pipe = np_tcp_pipe(c);
  return np_min_u32(c->cwnd > pipe ? c->cwnd - pipe : 0, c->snd_wnd > flight ? c->snd_wnd - flight : 0);
}

/* Pieces from b on, none longer than a segment (recovery counts pieces), that make up at most so many
 * bytes. Return: how many, and where the last one is. */
static uint32_t pieces_within(const struct np_tcp_conn *c, struct np_buf *b, uint32_t most, uint32_t count_max, uint32_t *bytes,
                              struct np_buf **last) {
  uint32_t n = 0;
  *bytes = 0;
  while (b != NULL && n < count_max && b->refs == 1 && np_txseg(b)->len <= c->mss &&
         *bytes + np_txseg(b)->len <= most) {
    *bytes += np_txseg(b)->len;
    *last = b;
    n++;
    b = np_txnext(b);
  }
  return n;
}

/* A packet of several pieces, where the port gathers them: one full segment, or with TSO many, which the
 * port cuts wherever pieces end. False: none is to be had, and nothing was sent. */
static bool send_packet(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t room = send_room(c);
  if (room < c->mss || np_txnext(c->sndq_next) == NULL) return false;
  bool tso = (tcp->tx_caps & NP_PORT_TSO) != 0 && !(c->cc_flags & NP_CCF_PACED);
  uint32_t most = tso ? np_min_u32(room, np_min_u32(tcp->tx_bytes_max, NP_TCP_TX_BUDGET * c->mss)) : c->mss;
  struct np_buf *last = NULL;
  uint32_t bytes;
  uint32_t count_max = tso ? NP_TCP_GATHER_MAX : NP_PORT_PIECES_MAX;
  uint32_t n = pieces_within(c, c->sndq_next, most, count_max, &bytes, &last);
  if (n == 0) return false;
  struct np_buf *next = np_txnext(last);
  uint32_t over = bytes % c->mss;
  if (next == NULL) {
    bool wait = (NP_UNLIKELY(tcp->nagle_asked) && c->nagle && np_tcp_flight(c) > 0) || (c->flags & NP_TF_MORE);
    if (over != 0 && wait && !(c->flags & NP_TF_FIN_QUEUED)) return false;
  } else if (over != 0) { /* more is queued: it ends with a full segment, if need be inside a piece */
    if (bytes > c->mss && over < np_txseg(last)->len) {
      if (np_tcp_sendq_cut(tcp, c, NULL, last, np_txseg(last)->len - over) == NULL) return false;
      bytes -= over;
      if (n == 1) return false;
    } else if (bytes < c->mss) {
      uint32_t lack = c->mss - bytes;
      if (n == count_max || next->refs != 1 || np_txseg(next)->len <= lack) return false;
      if (np_tcp_sendq_cut(tcp, c, last, next, lack) == NULL) return false;
      bytes += lack;
      n++;
    }
  }
  if (n == 1) return false;
  np_tcp_send_gathered(tcp, c, c->sndq_next, n, bytes, NP_TCP_GATHER_NEW);
  return true;
}

bool np_tcp_send_whole(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t n) {
  struct np_buf *b;
  if (n <= np_tcp_piece_max(tcp)) {
    b = np_tcp_sendq_join(tcp, c, n);
    return b != NULL && np_tcp_send_data(tcp, c, b, false);
  }
  if ((tcp->tx_caps & NP_PORT_SG) == 0) return false;
  uint32_t bytes = 0;
  uint32_t count = 0;
  for (b = c->sndq_next; b != NULL && bytes + np_txseg(b)->len <= n; b = np_txnext(b)) {
    if (count++ == NP_PORT_PIECES_MAX || b->refs != 1) return false;
    bytes += np_txseg(b)->len;
  }
  if (bytes < n) {
    if (b == NULL || count++ == NP_PORT_PIECES_MAX || b->refs != 1 || np_tcp_sendq_cut(tcp, c, NULL, b, n - bytes) == NULL) return false;
  }
  np_tcp_send_gathered(tcp, c, c->sndq_next, count, n, NP_TCP_GATHER_WHOLE);
  return true;
}

static enum step send_new(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_next;
  if (b == NULL) return STEP_STOP;
  uint32_t n = sendable(tcp, c, b);
  if (n == 0) return STEP_STOP;
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_PACED) && np_tcp_pace_hold(tcp, c)) {
    /* A rate that follows cwnd: it is cwnd that holds it back. */
    if (!np_tcp_cc(c)->owns_cwnd) c->flags |= NP_TF_CWND_FULL;
    return STEP_STOP;
  }
  if (NP_UNLIKELY(tcp->tx_caps & NP_PORT_SG) && n >= np_txseg(b)->len && send_packet(tcp, c)) return STEP_SENT;
  if (n > np_txseg(b)->len) np_tcp_sendq_fill(c, b, n);
  if (n < np_txseg(b)->len) {
    b = np_tcp_sendq_cut(tcp, c, NULL, b, n);
    if (b == NULL) {
      c->flags |= NP_TF_NO_BUF;
      return STEP_STOP;
    }
  }
  return np_tcp_send_data(tcp, c, b, false) ? STEP_SENT : STEP_STOP;
}

static void send_fin(struct np_tcp *tcp, struct np_tcp_conn *c) {
  bool first = (c->flags & NP_TF_FIN_QUEUED) && !(c->flags & NP_TF_FIN_SENT) && c->sndq_next == NULL;
  if (!first && !(c->flags & NP_TF_FIN_RTX)) return;
  if (!np_tcp_send_empty(tcp, c, NP_TCP_FIN | NP_TCP_ACK, c->snd_end)) return;
  if (c->rtx_due_ns == 0) np_tcp_rto_start(tcp, c);
  if (first) {
    if (np_tcp_flight(c) == 0) c->progress_ns = tcp->now_ns;
    c->snd_nxt = np_seq_add(c->snd_end, 1);
  } else {
    c->rtx_segs++;
    np_tcp_count(tcp, NP_C_TCP_RETRANS);
  }
  c->flags |= NP_TF_FIN_SENT;
  c->flags &= ~NP_TF_FIN_RTX;
}

/* RFC 9293 §3.8.6.1: at least one octet of new data, the same again until it is
 * taken; when there is a little room, what fits (§3.8.6.2.1, the override). It counts
 * as sent, so that our ACKs stay acceptable to a peer that took it. */
static bool send_window_probe(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  bool again = b != c->sndq_next;
  if (b == NULL) return false;
  if (!again) {
    uint32_t n = np_max_u32(1, np_min_u32(c->snd_wnd, c->mss));
    if (n < np_txseg(b)->len) b = np_tcp_sendq_cut(tcp, c, NULL, b, n);
  }
  if (b == NULL || !np_tcp_send_data(tcp, c, b, again)) return false;
  c->flags |= NP_TF_ZERO_WND;
  if (again) { /* a probe is no recovery: when the window opens it is sent once more */
    np_tcp_seg_unlink(c, b);
  }
  return true;
}

/* owed: an ACK had to be sent before data went out. */
static void send_acks(struct np_tcp *tcp, struct np_tcp_conn *c, bool owed) {
  /* Without SACK each duplicate counts for the peer (RFC 5681 §4.2). */
  uint32_t dups = 0;
  if (owed && !(c->flags & NP_TF_SACK)) {
    dups = c->dup_acks_due;
    c->dup_acks_due = 0;
  }
  while (dups > 1) { /* bound: a burst */
    if (!np_tcp_send_empty(tcp, c, NP_TCP_ACK, c->snd_nxt)) break;
    dups--;
    if (dups == 1) c->flags |= NP_TF_ACK_NOW;
  }
  if (c->flags & NP_TF_PROBE) {
    c->flags &= ~NP_TF_PROBE;
    if (!(c->flags & NP_TF_ZERO_WND) || !send_window_probe(tcp, c)) {
      np_tcp_send_empty(tcp, c, NP_TCP_ACK, np_seq_sub(c->snd_una, 1)); /* RFC 9293 §3.8.4: keep-alive */
    }
  }
  if (!(c->flags & NP_TF_ACK_NOW)) return;
  /* While a probe is out we can't know whether the peer took it, and an ACK beyond a
   * closed window, or before what was received, is not acceptable to it. Both may be
   * probing each other: only one that is acceptable ends that, so say it both ways. */
  if ((c->flags & NP_TF_ZERO_WND) && np_tcp_flight(c) != 0) np_tcp_send_empty(tcp, c, NP_TCP_ACK, c->snd_una);
  np_tcp_send_empty(tcp, c, NP_TCP_ACK, c->snd_nxt);
}

static NP_COLD void ask_caps(struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint32_t most = 0;
  tcp->tx_caps = tcp->env.path_caps(tcp->env.ctx, &c->path, &most);
  most = np_min_u32(most, UINT16_MAX);
  if (most < 2 * c->mss + NP_TCP_LOWER_BYTES) {
    tcp->tx_caps &= ~NP_PORT_TSO;
  } else {
    tcp->tx_bytes_max = (most - NP_TCP_LOWER_BYTES) / c->mss * c->mss;
  }
}

static void send_queue(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t budget = NP_TCP_TX_BUDGET;
  if (NP_UNLIKELY(tcp->env.caps_any != NULL && *tcp->env.caps_any != 0)) ask_caps(tcp, c);
  if (c->lost_due != 0) {
    while (budget > 0 && send_retransmission(tcp, c) == STEP_SENT) budget--;
  }
  if (c->sndq_next != NULL) {
    c->flags &= ~NP_TF_CWND_FULL;
    restart_after_idle(tcp, c);
    if (NP_UNLIKELY(c->cc_flags & NP_CCF_MTU)) np_tcp_pmtu_output(tcp, c);
    while (budget > 0 && send_new(tcp, c) == STEP_SENT) budget--;
  }
  if (c->ca_state == NP_CA_RECOVERY && budget == NP_TCP_TX_BUDGET) {
    struct np_buf *b = np_tcp_recovery_rescue(tcp, c);
    if (b != NULL) np_tcp_send_data(tcp, c, b, true);
  }
  tcp->tx_caps = 0; /* ACKs are summed here */
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE)) np_tcp_rate_idle(c);
  send_fin(tcp, c);
  if ((c->flags & NP_TF_ZERO_WND) && c->rtx_due_ns == 0) {
    c->backoff = 0;
    c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  }
  if (budget == 0) c->flags |= NP_TF_AGAIN;
}

/* Known at a glance, for one that just sent: the timer fires no later than any deadline. Only a tail probe's
 * counts from now, and its wait is this long at least. */
NP_INLINE bool timer_set(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint64_t wait_ns = c->snd_segs == 1 ? NP_TCP_TLP_ALONE_NS : NP_TCP_TLP_FLOOR_NS;
  return c->timer_due_ns - 1 < c->rtx_due_ns && c->timer_due_ns <= tcp->now_ns + wait_ns && c->last_tx_ns == tcp->now_ns &&
         c->ca_state == NP_CA_OPEN;
}

void np_tcp_output(struct np_tcp *tcp, struct np_tcp_conn *c) {
  bool owed = (c->flags & NP_TF_ACK_NOW) != 0;
  c->flags &= ~NP_TF_NO_BUF;
  if (c->flags & NP_TF_ROOM_SAID_NO) {
    /* What memory left is looked at again when an ACK came or the timer fired: at each turn the answer would be
     * the same, and a session that does nothing with it would be called for ever. */
    if (NP_UNLIKELY(c->ecn & NP_EB_ROOM_MEM)) {
      c->flags |= NP_TF_NO_BUF;
    } else {
      np_tcp_wake_writer(tcp, c);
    }
  }
  if (c->state == NP_TCP_SYN_SENT || c->state == NP_TCP_SYN_RECEIVED) {
    if (c->flags & NP_TF_RTX_SYN) {
      if (np_tcp_send_syn(tcp, c)) c->flags &= ~NP_TF_RTX_SYN;
    } else if (c->flags & NP_TF_ACK_NOW) {
      np_tcp_send_empty(tcp, c, NP_TCP_ACK, c->snd_nxt);
    }
  } else {
    if (c->sndq_next != NULL || c->lost_due != 0 || (c->flags & (NP_TF_FIN_QUEUED | NP_TF_FIN_RTX)) ||
        c->ca_state == NP_CA_RECOVERY) {
      send_queue(tcp, c);
    }
    if ((c->flags & NP_TF_WND_HELD) && np_tcp_window_released(tcp, c)) c->flags |= NP_TF_ACK_NOW;
    send_acks(tcp, c, owed);
  }
  if (c->rtx_due_ns != 0 && !timer_set(tcp, c)) np_tcp_timer_arm(tcp, c);
  if (c->flags & (NP_TF_ACK_LATER | NP_TF_NO_BUF | NP_TF_WND_HELD)) np_tcp_delack_arm(tcp, c);
}
