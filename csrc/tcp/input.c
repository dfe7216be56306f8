/* Segments: found, classified, and sent through the [state][event] table. What
 * the established fast path does not take comes here, in the order of RFC 9293
 * §3.10.7. Each handler says what became of the segment; one place counts it. */
#include "tcp/cc.h"

enum event { EV_RST, EV_SYN, EV_SYN_ACK, EV_ACK, EV_OTHER, EV_COUNT };

typedef enum np_drop (*handler)(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg);

static enum event classify(uint8_t flags) {
  if (flags & NP_TCP_RST) return flags & NP_TCP_SYN ? EV_OTHER : EV_RST;
  if (flags & NP_TCP_SYN) {
    if (flags & NP_TCP_FIN) return EV_OTHER;
    return flags & NP_TCP_ACK ? EV_SYN_ACK : EV_SYN;
  }
  return flags & NP_TCP_ACK ? EV_ACK : EV_OTHER;
}

static void drop(struct np_tcp *tcp, struct np_pkt *pkt, enum np_drop why) {
  tcp->env.counters->drop[why] += 1u + pkt->merged;
  if (tcp->drop_fn != NULL) tcp->drop_fn(tcp->drop_ctx, pkt->buf, why);
  np_buf_put_chain(pkt->buf);
}

/* RFC 5961 §7: a few in each window of time, per connection, so that no
 * connection's answers tell anything about another's. */
bool np_tcp_may_challenge(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->challenge_count == 0 || tcp->now_ms - c->challenge_ms >= NP_TCP_CHALLENGE_MS) {
    c->challenge_ms = tcp->now_ms;
    c->challenge_count = 0;
  }
  if (c->challenge_count >= NP_TCP_CHALLENGE_MAX || !np_tcp_guard_challenge(tcp)) {
    np_tcp_count(tcp, NP_C_TCP_CHALLENGE_LIMITED);
    return false;
  }
  c->challenge_count++;
  return true;
}

static void ack_now(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->flags |= NP_TF_ACK_NOW;
  np_tcp_dirty(tcp, c);
}

void np_tcp_challenge(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (!np_tcp_may_challenge(tcp, c)) return;
  np_tcp_count(tcp, NP_C_TCP_CHALLENGE);
  ack_now(tcp, c);
}

/* First check, with PAWS before it (RFC 7323 §5.3). */
static enum np_drop check_sequence(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  uint32_t seg_len = seg->len + (seg->flags & NP_TCP_FIN ? 1u : 0u);
  if ((c->flags & NP_TF_TS)) {
    if (!seg->opts.has_ts) return NP_DROP_TCP_PAWS;
    bool idle_long = tcp->now_ms - c->ts_recent_ms > 24u * 86400u * 1000u; /* RFC 7323 §5.5 */
    if ((int32_t)(seg->opts.tsval - c->ts_recent) < 0 && !idle_long) {
      if (seg_len != 0 || np_tcp_may_challenge(tcp, c)) ack_now(tcp, c);
      return NP_DROP_TCP_PAWS;
    }
  }
  np_seq end = np_seq_add(seg->seq, seg_len);
  bool starts_in = np_seq_ge(c->rcv_nxt, seg->seq) || np_seq_lt(seg->seq, c->rcv_adv);
  bool reaches = seg_len == 0 ? np_seq_ge(seg->seq, c->rcv_nxt) : np_seq_gt(end, c->rcv_nxt);
  /* At a closed window what begins at rcv_nxt is still good for its ACK (§3.10.7.4). */
  if (np_seq_eq(seg->seq, c->rcv_nxt) || (starts_in && reaches)) return NP_TCP_OK;
  if (seg_len == 0 && np_seq_eq(seg->seq, c->rcv_adv)) return NP_TCP_OK;
  bool old = np_seq_lt(seg->seq, c->rcv_nxt);
  if (old && seg->len != 0 && (c->flags & NP_TF_SACK)) c->dsack = (struct np_tcp_block){seg->seq, end};
  /* With nothing in it, it may be the answer to one of ours: limited, lest two of us
   * that disagree answer each other for ever. */
  if (seg->len != 0 || np_tcp_may_challenge(tcp, c)) ack_now(tcp, c);
  if (old) return seg->len != 0 ? NP_DROP_TCP_DUP : NP_DROP_TCP_SEQ;
  return seg->len != 0 && np_seq_lt(seg->seq, np_seq_add(c->rcv_adv, tcp->config.rcv_buf_bytes)) ? NP_DROP_TCP_WINDOW
                                                                                                 : NP_DROP_TCP_SEQ;
}

/* RFC 7323 §4.3 (2): only from what covers the last ACK we sent. */
static void update_ts_recent(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  if (!(c->flags & NP_TF_TS) || !np_seq_le(seg->seq, c->last_ack)) return;
  c->ts_recent = seg->opts.tsval;
  c->ts_recent_ms = tcp->now_ms;
}

/* Second check: RST (RFC 9293 §3.10.7.4, RFC 5961 §3.2). */
static enum np_drop sync_rst(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (np_seq_eq(seg->seq, c->rcv_nxt)) {
    np_tcp_count(tcp, NP_C_TCP_RST_RX);
    enum np_err err = c->state == NP_TCP_SYN_RECEIVED ? NP_ERR_REFUSED : NP_ERR_RESET;
    if (c->state == NP_TCP_CLOSING || c->state == NP_TCP_LAST_ACK) err = NP_ERR_EOF;
    np_tcp_close(tcp, c, err);
    return NP_TCP_OK;
  }
  if (!np_seq_in(seg->seq, c->rcv_nxt, c->rcv_adv)) return NP_DROP_TCP_SEQ;
  np_tcp_challenge(tcp, c);
  return NP_DROP_TCP_RST_CHALLENGED;
}

/* Fourth check: SYN, whatever its sequence number (RFC 5961 §4.2). */
static enum np_drop sync_syn(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  (void)seg;
  np_tcp_challenge(tcp, c);
  return NP_DROP_TCP_RST_CHALLENGED;
}

/* What the handshake says of the path. A SYN or SYN-ACK that was sent again gives no sample but where the peer's
 * echo names one that was (RFC 7323 §4); RFC 6298 §5.7's three seconds stand for what was not measured. Return:
 * whether it was lost: that the first came through the echo says as well (RFC 3522); without timestamps one
 * that was sent again once may have been late (RFC 6928 §2). */
static bool opening_lost(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  uint64_t took_ns = tcp->now_ns - c->created_ns;
  if (c->flags & NP_TF_COOKIE) return false;
  if (c->probes == 0) {
    np_tcp_rtt_sample(tcp, c, (uint32_t)np_min_u64(took_ns / 1000, UINT32_MAX));
    return false;
  }
  c->rto_us = np_max_u32(c->rto_us, NP_TCP_RTO_UNKNOWN_US);
  if (!(c->flags & NP_TF_TS) || !seg->opts.has_ts || seg->opts.tsecr == 0) return c->probes > 1;
  uint32_t first_ts = (uint32_t)(c->created_ns / NP_TCP_NS_PER_MS) + c->ts_offset;
  uint32_t after_ms = seg->opts.tsecr - first_ts;
  uint32_t age_ms = np_tcp_ts_now(tcp, c) - seg->opts.tsecr;
  if (after_ms > took_ns / NP_TCP_NS_PER_MS) return c->probes > 1; /* neither: it means nothing */
  if (after_ms < NP_TCP_RTO_FIRST_US / 2000) {
    np_tcp_count(tcp, NP_C_TCP_SPURIOUS_RTO);
    return false;
  }
  np_tcp_rtt_sample(tcp, c, np_max_u32(age_ms, 1) * 1000);
  return true;
}

static void enter_established(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  bool lost = opening_lost(tcp, c, seg);
  np_tcp_set_state(tcp, c, NP_TCP_ESTABLISHED);
  c->snd_wl1 = seg->seq;
  c->snd_wl2 = seg->ack;
  c->recover = c->iss;
  c->probes = 0;
  c->backoff = 0;
  c->rtx_due_ns = 0;
  c->flags &= ~NP_TF_RTX_SYN;
  np_tcp_cc_start(tcp, c);
  np_tcp_tune_start(tcp, c);
  if (lost) c->cwnd = c->mss; /* RFC 5681 §3.1 */
  if (c->flags & NP_TF_OUTGOING) {
    c->flags |= NP_TF_EV_ESTABLISHED;
    np_tcp_count(tcp, NP_C_TCP_OPEN_ACTIVE);
  } else {
    c->flags |= NP_TF_EV_ACCEPT;
    np_tcp_listener_ready(tcp, c);
    np_tcp_guard_source(tcp, &c->flow.remote, 1);
  }
  np_tcp_keepalive_start(tcp, c);
  np_tcp_dirty(tcp, c);
}

/* In SYN-RECEIVED an ACK of what was never sent. A SYN that was sent again may have found room where
 * the first one got a cookie, and the peer may answer either: what brings a cookie back takes the place
 * of what is half open, and what follows it in the stream is left for the peer to send again. */
static enum np_drop ack_of_another(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  struct np_tcp_listener *l = c->flags & NP_TF_PASSIVE ? &tcp->listeners[c->listener] : NULL;
  uint32_t ahead = l == NULL ? UINT32_MAX : np_tcp_cookie_ahead(tcp, l, seg);
  if (ahead == 0) {
    np_tcp_close(tcp, c, NP_ERR_REFUSED);
    return np_tcp_listen_input(tcp, l, seg);
  }
  if (ahead <= UINT16_MAX) return NP_DROP_TCP_COOKIE_BEHIND;
  np_tcp_reply_rst(tcp, seg);
  return NP_DROP_TCP_ACK;
}

/* SYN-RECEIVED to ESTABLISHED, the first half of the fifth check. */
static enum np_drop ack_of_syn(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  enum np_drop why;
  if ((c->flags & NP_TF_PASSIVE) && np_tcp_listener_full(tcp, &tcp->listeners[c->listener], &c->flow, &why)) {
    np_tcp_send_rst(tcp, c); /* others were faster */
    np_tcp_close(tcp, c, NP_ERR_FULL);
    return why;
  }
  /* The window of what is not a SYN is scaled. */
  c->snd_wnd = seg->wnd << c->snd_wscale;
  c->max_wnd = np_max_u32(c->max_wnd, c->snd_wnd);
  c->snd_una = np_seq_add(c->iss, 1);
  c->progress_ns = tcp->now_ns;
  enter_established(tcp, c, seg);
  if (c->flags & NP_TF_FIN_QUEUED) np_tcp_set_state(tcp, c, NP_TCP_FIN_WAIT_1);
  return NP_TCP_OK;
}

/* Our FIN was acknowledged. Return: false when the connection is gone. */
static bool fin_acked(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (!(c->flags & NP_TF_FIN_SENT) || !np_seq_gt(c->snd_una, c->snd_end)) return true;
  switch (c->state) {
    case NP_TCP_FIN_WAIT_1:
      np_tcp_set_state(tcp, c, NP_TCP_FIN_WAIT_2);
      c->flags &= ~NP_TF_FIN_QUEUED;
      if (c->flags & NP_TF_DETACHED) {
        /* Nobody reads: a peer that never closes does not keep us (RFC 9293 has no limit here). */
        c->misc_due_ns = tcp->now_ns + tcp->config.timewait_ms * NP_TCP_NS_PER_MS;
        np_tcp_timer_arm(tcp, c);
      }
      return true;
    case NP_TCP_CLOSING:
      np_tcp_time_wait(tcp, c);
      return false;
    case NP_TCP_LAST_ACK:
      np_tcp_close(tcp, c, NP_ERR_EOF);
      return false;
    default:
      return true;
  }
}

/* Eighth check. rcv_nxt stands at the FIN. */
void np_tcp_fin(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->rcv_nxt = np_seq_add(c->rcv_nxt, 1);
  c->rcv_adv = np_seq_max(c->rcv_adv, c->rcv_nxt);
  c->flags |= NP_TF_EV_EOF;
  ack_now(tcp, c);
  np_tcp_ooo_free(c);
  switch (c->state) {
    case NP_TCP_ESTABLISHED:
      np_tcp_set_state(tcp, c, NP_TCP_CLOSE_WAIT);
      return;
    case NP_TCP_FIN_WAIT_1:
      np_tcp_set_state(tcp, c, NP_TCP_CLOSING); /* our own FIN is not acknowledged: fin_acked came first */
      return;
    case NP_TCP_FIN_WAIT_2:
      np_tcp_time_wait(tcp, c);
      return;
    default:
      return;
  }
}

/* Seventh and eighth check for one that may still bring data. */
static enum np_drop text_and_fin(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (!np_tcp_receives(c->state)) {
    if (seg->len == 0) return NP_TCP_OK;
    ack_now(tcp, c);
    return NP_DROP_TCP_SEQ; /* behind the peer's own FIN */
  }
  if ((seg->flags & NP_TCP_FIN) && !(c->flags & NP_TF_RCV_FIN)) {
    np_seq at = np_seq_add(seg->seq, seg->len);
    if (np_seq_ge(at, c->rcv_nxt) && np_seq_le(at, c->rcv_adv)) {
      c->flags |= NP_TF_RCV_FIN;
      c->rcv_fin = at;
    }
  }
  enum np_drop out = seg->len != 0 ? np_tcp_text(tcp, c, seg) : NP_TCP_OK;
  if (c->flags & NP_TF_RCV_FIN) {
    if (np_seq_eq(c->rcv_nxt, c->rcv_fin)) {
      np_tcp_fin(tcp, c);
    } else if (seg->flags & NP_TCP_FIN) {
      ack_now(tcp, c);
    }
  }
  return out;
}

static enum np_drop sync_ack(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  enum np_drop out = check_sequence(tcp, c, seg);
  if (out != NP_TCP_OK) return out;
  if (c->state == NP_TCP_SYN_RECEIVED) {
    if (!np_seq_gt(seg->ack, c->snd_una) || np_seq_gt(seg->ack, c->snd_nxt)) return ack_of_another(tcp, c, seg);
    out = ack_of_syn(tcp, c, seg);
  } else {
    out = np_tcp_ack(tcp, c, seg);
  }
  if (out != NP_TCP_OK) return out;
  if (c->ecn & NP_ECN_OK) np_tcp_ecn_in(tcp, c, seg); /* its ACK is no guess: marks are believed */
  update_ts_recent(tcp, c, seg);
  if (seg->len != 0 && (c->flags & NP_TF_TS)) np_tcp_tune(tcp, c, seg->opts.tsecr);
  if (!fin_acked(tcp, c)) return NP_TCP_OK;
  return text_and_fin(tcp, c, seg);
}

/* A SYN again: our SYN-ACK was lost. Or the peer's half of a simultaneous open. */
static enum np_drop rcvd_syn(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (!np_seq_eq(seg->seq, c->irs)) return sync_syn(tcp, c, seg);
  if (seg->flags & NP_TCP_ACK) {
    seg->seq = np_seq_add(seg->seq, 1);
    seg->flags &= (uint8_t)~NP_TCP_SYN;
    /* The window of a SYN is never scaled. */
    seg->wnd >>= c->snd_wscale;
    return sync_ack(tcp, c, seg);
  }
  np_tcp_ecn_syn_in(tcp, c, seg->flags); /* asked no more when it went unanswered (RFC 3168 §6.1.1.1) */
  if (np_tcp_may_challenge(tcp, c)) {
    c->flags |= NP_TF_RTX_SYN;
    np_tcp_dirty(tcp, c);
  }
  return NP_DROP_TCP_DUP;
}

static bool sent_ack_ok(const struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  return np_seq_gt(seg->ack, c->iss) && np_seq_le(seg->ack, c->snd_nxt);
}

/* SYN-SENT, RFC 9293 §3.10.7.3. */
static enum np_drop sent_rst(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (!(seg->flags & NP_TCP_ACK) || !sent_ack_ok(c, seg)) return NP_DROP_TCP_ACK;
  np_tcp_count(tcp, NP_C_TCP_RST_RX);
  np_tcp_close(tcp, c, NP_ERR_REFUSED);
  return NP_TCP_OK;
}

static enum np_drop sent_ack(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  (void)c;
  np_tcp_reply_rst(tcp, seg); /* an ACK of an older connection */
  return NP_DROP_TCP_ACK;
}

static void take_syn(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  uint32_t offered = (uint32_t)np_seq_diff(c->rcv_adv, c->rcv_nxt); /* by our SYN */
  c->irs = seg->seq;
  c->rcv_nxt = np_seq_add(seg->seq, 1);
  c->last_ack = c->rcv_nxt;
  c->rcv_adv = np_seq_add(c->rcv_nxt, offered);
  c->snd_wl1 = seg->seq;
  c->snd_wnd = c->max_wnd = seg->wnd;
  np_tcp_agree(tcp, c, &seg->opts);
  np_tcp_ecn_syn_in(tcp, c, seg->flags);
}

static enum np_drop sent_syn_ack(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (!sent_ack_ok(c, seg)) {
    np_tcp_reply_rst(tcp, seg);
    return NP_DROP_TCP_ACK;
  }
  take_syn(tcp, c, seg);
  c->snd_una = seg->ack;
  c->progress_ns = tcp->now_ns;
  enter_established(tcp, c, seg);
  if (c->flags & NP_TF_FIN_QUEUED) np_tcp_set_state(tcp, c, NP_TCP_FIN_WAIT_1);
  ack_now(tcp, c);
  return NP_TCP_OK;
}

/* Simultaneous open. */
static enum np_drop sent_syn(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  take_syn(tcp, c, seg);
  np_tcp_set_state(tcp, c, NP_TCP_SYN_RECEIVED);
  c->flags |= NP_TF_RTX_SYN;
  np_tcp_dirty(tcp, c);
  return NP_TCP_OK;
}

/* TIME-WAIT: a FIN again is acknowledged; a reset is ignored (RFC 1337); a SYN that
 * is surely new goes to the listener (RFC 6191 §2, RFC 9293 §3.10.7.4). A FIN from
 * elsewhere, which the first check would refuse, must not keep us here. */
static enum np_drop wait_ack(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if ((seg->flags & NP_TCP_FIN) && np_seq_eq(np_seq_add(seg->seq, seg->len + 1), c->rcv_nxt)) {
    np_tcp_time_wait_touch(tcp, c);
    ack_now(tcp, c);
    return NP_DROP_TCP_DUP;
  }
  if (seg->len == 0 && np_seq_eq(seg->seq, c->rcv_nxt)) return NP_TCP_OK;
  np_tcp_challenge(tcp, c);
  return seg->len != 0 ? NP_DROP_TCP_DUP : NP_DROP_TCP_SEQ;
}

static enum np_drop wait_rst(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  (void)tcp;
  (void)c;
  (void)seg;
  return NP_DROP_TCP_NO_CONN;
}

static enum np_drop wait_syn(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  bool newer = np_seq_gt(seg->seq, c->rcv_nxt);
  if ((c->flags & NP_TF_TS) && seg->opts.has_ts) {
    int32_t d = (int32_t)(seg->opts.tsval - c->ts_recent);
    newer = d > 0 || (d == 0 && newer);
  }
  struct np_tcp_listener *l = np_tcp_listener_find(tcp, &seg->pkt->flow);
  if (!newer || l == NULL) {
    np_tcp_challenge(tcp, c);
    return NP_DROP_TCP_RST_CHALLENGED;
  }
  seg->retry = true;
  seg->iss_min = np_seq_add(c->snd_nxt, UINT16_MAX + 2u);
  np_tcp_close(tcp, c, NP_ERR_EOF);
  return np_tcp_listen_input(tcp, l, seg);
}

#define SYNCHRONIZED [EV_RST] = sync_rst, [EV_SYN] = sync_syn, [EV_SYN_ACK] = sync_syn, [EV_ACK] = sync_ack

/* What is not in the table is a combination that means nothing: dropped and counted. */
static const handler table[NP_TCP_STATE_COUNT][EV_COUNT] = {
    [NP_TCP_SYN_SENT] = {[EV_RST] = sent_rst, [EV_SYN] = sent_syn, [EV_SYN_ACK] = sent_syn_ack, [EV_ACK] = sent_ack},
    [NP_TCP_SYN_RECEIVED] = {[EV_RST] = sync_rst, [EV_SYN] = rcvd_syn, [EV_SYN_ACK] = rcvd_syn, [EV_ACK] = sync_ack},
    [NP_TCP_ESTABLISHED] = {SYNCHRONIZED},
    [NP_TCP_FIN_WAIT_1] = {SYNCHRONIZED},
    [NP_TCP_FIN_WAIT_2] = {SYNCHRONIZED},
    [NP_TCP_CLOSE_WAIT] = {SYNCHRONIZED},
    [NP_TCP_CLOSING] = {SYNCHRONIZED},
    [NP_TCP_LAST_ACK] = {SYNCHRONIZED},
    [NP_TCP_TIME_WAIT] = {[EV_RST] = wait_rst, [EV_SYN] = wait_syn, [EV_SYN_ACK] = sync_syn, [EV_ACK] = wait_ack},
};

enum np_drop np_tcp_dispatch(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  handler h = table[c->state][classify(seg->flags)];
  return h == NULL ? NP_DROP_TCP_FLAGS : h(tcp, c, seg);
}

enum np_drop np_tcp_stray(struct np_tcp *tcp, const struct np_tcp_seg *seg, enum np_drop why) {
  /* The segments before it are lost or late, and bring the cookie yet: a reset would end what has just
   * begun. So on every core that it is handed on to. */
  if (why == NP_DROP_TCP_COOKIE_BEHIND) seg->pkt->buf->flags |= NP_BUF_NO_RESET;
  bool reset = !(seg->flags & NP_TCP_RST) && !(seg->pkt->buf->flags & NP_BUF_NO_RESET);
  enum np_tcp_stray what = tcp->env.stray == NULL ? NP_TCP_STRAY_OURS : tcp->env.stray(tcp->env.ctx, seg->pkt);
  if (what == NP_TCP_STRAY_TAKEN) return NP_TCP_OK;
  if (what == NP_TCP_STRAY_OURS && reset) np_tcp_reply_rst(tcp, seg);
  return why;
}

/* No connection: a listener, or nobody (RFC 9293 §3.10.7.1). */
static enum np_drop no_conn(struct np_tcp *tcp, struct np_tcp_seg *seg) {
  enum event ev = classify(seg->flags);
  struct np_tcp_listener *l = np_tcp_listener_find(tcp, &seg->pkt->flow);
  if (l != NULL && (ev == EV_SYN || ev == EV_ACK)) {
    tcp->env.counters->counter[NP_C_TCP_SEGS_RX] += seg->segs;
    return np_tcp_listen_input(tcp, l, seg);
  }
  switch (ev) {
    case EV_RST:
      return np_tcp_stray(tcp, seg, NP_DROP_TCP_NO_CONN);
    case EV_OTHER: /* a listener has no use for it; for a closed port it is as good as any (§3.10.7.1) */
      if (l != NULL || seg->pkt->link_dst != NP_LINK_UNICAST) return NP_DROP_TCP_FLAGS;
      return np_tcp_stray(tcp, seg, NP_DROP_TCP_FLAGS);
    case EV_ACK:
    case EV_SYN_ACK:
      if (seg->pkt->link_dst != NP_LINK_UNICAST) return NP_DROP_TCP_NO_LISTENER;
      return np_tcp_stray(tcp, seg, l != NULL ? NP_DROP_TCP_NO_CONN : NP_DROP_TCP_NO_LISTENER);
    default:
      if (seg->pkt->link_dst != NP_LINK_UNICAST) return NP_DROP_TCP_NO_LISTENER;
      np_tcp_reply_rst(tcp, seg);
      return l != NULL ? NP_DROP_TCP_NO_CONN : NP_DROP_TCP_NO_LISTENER;
  }
}

static enum np_drop parse(struct np_pkt *pkt, struct np_tcp_seg *seg) {
  uint32_t hdr_len = (uint32_t)pkt->payload_off - pkt->l4_off;
  if (pkt->payload_off < pkt->l4_off || hdr_len < NP_TCP_HDR_BYTES || hdr_len > pkt->l4_len) return NP_DROP_TCP_OFFSET;
  if (!np_tcp_whole(pkt)) return NP_DROP_TCP_SHORT;
  const uint8_t *p = np_buf_cdata(pkt->buf) + pkt->l4_off;
  seg->pkt = pkt;
  seg->buf = pkt->buf;
  seg->seq = np_seq_of(np_load_be32(p + 4));
  seg->ack = np_seq_of(np_load_be32(p + 8));
  seg->wnd = np_load_be16(p + 14);
  seg->flags = pkt->tcp_flags;
  seg->len = pkt->l4_len - hdr_len;
  seg->off = pkt->payload_off;
  seg->segs = 1u + pkt->merged;
  seg->largest = seg->len;
  seg->kept = false;
  seg->retry = false;
  bool syn = (seg->flags & NP_TCP_SYN) != 0;
  if (!np_tcp_opts_parse(p + NP_TCP_HDR_BYTES, hdr_len - NP_TCP_HDR_BYTES, syn, &seg->opts)) return NP_DROP_TCP_OPTIONS;
  if (pkt->merged != 0) { /* gro.c: no SYN, same options */
    const uint8_t *last = pkt->last_tcp;
    seg->ack = np_seq_of(np_load_be32(last + 8));
    seg->wnd = np_load_be16(last + 14);
    if (seg->opts.has_ts) seg->opts.tsecr = np_load_be32(last + 28);
    seg->largest = pkt->seg_bytes;
  }
  return NP_TCP_OK;
}

/* Was it the peer who sent it, as far as numbers can tell? Somebody who guesses must not keep a connection
 * that has lost its peer: keep-alive and window probes are answered by what is in order. */
static bool from_peer(enum np_drop out) {
  return out == NP_TCP_OK || out == NP_DROP_TCP_WINDOW || out == NP_DROP_NO_BUFFER || out == NP_DROP_TCP_OOO_LIMIT || out == NP_DROP_TCP_CLOSED;
}

static void input_slow(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_pkt *pkt) {
  struct np_tcp_seg seg;
  enum np_drop out = parse(pkt, &seg);
  if (out == NP_TCP_OK) {
    if (c != NULL) {
      tcp->env.counters->counter[NP_C_TCP_SEGS_RX] += seg.segs;
      c->segs_rx += seg.segs;
      out = np_tcp_dispatch(tcp, c, &seg);
      if (from_peer(out) || c->state == NP_TCP_TIME_WAIT) {
        c->rx_ms = tcp->now_ms;
        c->flags &= ~NP_TF_KEEPALIVE;
      }
    } else {
      out = no_conn(tcp, &seg);
    }
  } else {
    seg.kept = false;
  }
  if (out == NP_TCP_OK) {
    tcp->env.counters->counter[NP_C_DELIVERED_PKTS] += seg.segs;
    if (!seg.kept) np_buf_put_chain(pkt->buf);
    return;
  }
  np_assert(!seg.kept);
  drop(tcp, pkt, out);
}

static void input_one(struct np_tcp *tcp, struct np_pkt *pkt) {
  struct np_tcp_conn *c = np_tcp_find(tcp, &pkt->flow, pkt->hash);
  if (NP_LIKELY(c != NULL) && np_tcp_fast(tcp, c, pkt)) return;
  input_slow(tcp, c, pkt);
}

/* Joined segments of no connection are answered, or handed to another core, one by one. */
static NP_COLD void input_apart(struct np_tcp *tcp, struct np_pkt *pkt) {
  while (pkt->merged != 0) { /* bound: a burst */
    struct np_pkt first;
    np_tcp_gro_first(pkt, &first);
    input_one(tcp, &first);
  }
  input_one(tcp, pkt);
}

void np_tcp_input(struct np_tcp *tcp, struct np_pkt *pkt, uint64_t now_ns) {
  np_tcp_set_now(tcp, now_ns);
  if (NP_UNLIKELY(pkt->hash == 0)) {
    pkt->hash = np_tcp_flow_hash(tcp, &pkt->flow);
    pkt->slot = NP_TCP_NIL;
  }
  struct np_tcp_conn *c = np_tcp_expected(tcp, pkt);
  if (NP_LIKELY(c != NULL) && np_tcp_fast(tcp, c, pkt)) return;
  if (NP_UNLIKELY(pkt->merged != 0 && c == NULL)) {
    input_apart(tcp, pkt);
    return;
  }
  input_slow(tcp, c, pkt);
}
