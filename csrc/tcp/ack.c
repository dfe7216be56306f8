/* The fifth check of RFC 9293 §3.10.7.4: the ACK field, the send window, and
 * what follows from both. */
#include "tcp/cc.h"

#define RENEGE_US 10000u /* what a receiver that seems to have dropped SACKed data is waited for at least */

/* Takes b, the head, off the queue. */
static void remove_head(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (NP_UNLIKELY(s->flags & (NP_TXS_SACKED | NP_TXS_LOST | NP_TXS_RTX)) || c->rack_next != NULL || c->sack_hint != NULL) {
    np_tcp_sack_forget(c, b);
  }
  c->sndq_head = s->next;
  if (s->next == NULL) c->sndq_tail = NULL;
  c->snd_segs--;
  np_buf_put(b);
}

/* Part of the head was acknowledged. The buffer itself may still be with the
 * port: only our own notes move. */
static void trim_head(struct np_tcp_conn *c, struct np_buf *b, uint32_t n) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (s->flags & NP_TXS_LOST) c->lost_bytes -= n;
  if (s->flags & NP_TXS_RTX) c->rtx_bytes -= n;
  if (s->flags & NP_TXS_SACKED) c->sacked_bytes -= n;
  s->seq = np_seq_add(s->seq, n);
  s->off += n;
  s->len -= n;
  s->flags &= ~NP_TXS_SUM;
}

/* RFC 6298 §3: from a segment sent once; from the echoed timestamp when some were sent again, the
 * first of them at again_ns (RFC 7323 §4). An echo from before that belongs to the first transmission,
 * but a receiver that has the data answers what is sent again with the same: the first answer was late, or
 * it was lost. After a timeout only one that comes within half the shortest round trip (paths change a
 * little) is surely late, and a sample; before one, the wait was short and misleads nobody. Return:
 * whether there was one. */
static bool sample(struct np_tcp *tcp, struct np_tcp_conn *c, uint64_t sent_ns, uint64_t again_ns, uint32_t tsecr) {
  uint32_t us;
  if (again_ns == 0) {
    us = np_max_u32(1, (uint32_t)np_min_u64((tcp->now_ns - sent_ns) / 1000, UINT32_MAX));
    tcp->ack_rtt_us = us;
  } else {
    if (!(c->flags & NP_TF_TS) || tsecr == 0) return false;
    uint32_t again_ts = (uint32_t)(again_ns / NP_TCP_NS_PER_MS) + c->ts_offset;
    bool first = (int32_t)(tsecr - again_ts) < 0;
    if (first && c->backoff != 0 && tcp->now_ns - again_ns >= (uint64_t)c->min_rtt_us * 500) return false;
    uint32_t ms = np_tcp_ts_now(tcp, c) - tsecr;
    if (ms >= 120000) return false;
    us = ms == 0 ? 1000 : ms * 1000;
  }
  tcp->told.rtt_us = us;
  np_tcp_rtt_sample(tcp, c, us);
  return true;
}

/* SND.UNA moved, and no sample came of it. Karn's rule, RFC 6298 §5: what was backed off stays until there is
 * one, because the path may be slower than was known. It is when the ACK comes later than an RTO after
 * each transmission that it may answer. Else nothing speaks for it but an outage that is over, and four
 * times the RTO is enough; RFC 8961 §4 (4) has no more against it. */
static NP_COLD void keep_backoff(const struct np_tcp *tcp, struct np_tcp_conn *c, uint64_t again_ns) {
  c->rack.vain = 0;
  if (tcp->now_ns - again_ns <= (uint64_t)c->rto_us * 1000) c->backoff = (uint8_t)np_min_u32(c->backoff, NP_TCP_BACKOFF_KEPT);
}

uint32_t np_tcp_ack_queue(struct np_tcp *tcp, struct np_tcp_conn *c, np_seq ack, uint32_t tsecr) {
  uint32_t acked = (uint32_t)np_seq_diff(ack, c->snd_una);
  uint64_t sent_ns = 0;
  uint64_t again_ns = 0; /* when the first of those sent again was; 0: none */
  tcp->ack_rtt_us = 0;
  struct np_buf *b = c->sndq_head;
  uint32_t before = c->snd_segs;
  while (b != NULL && b != c->sndq_next && np_seq_le(np_txend(b), ack)) { /* bound: snd_segs */
    struct np_tcp_txseg *s = np_txseg(b);
    struct np_buf *next = s->next;
    if (NP_UNLIKELY(c->ca_state != NP_CA_OPEN) && !(s->flags & NP_TXS_SACKED)) np_tcp_rack_delivered(tcp, c, s, false);
    if (NP_UNLIKELY(s->flags & NP_TXS_EVER) && (again_ns == 0 || s->sent_ns < again_ns)) again_ns = s->sent_ns;
    if (!(s->flags & (NP_TXS_EVER | NP_TXS_SACKED))) sent_ns = s->sent_ns;
    if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE) && !(s->flags & NP_TXS_SACKED)) np_tcp_rate_delivered(tcp, c, s);
    remove_head(c, b);
    b = next;
  }
  if (b != NULL && b != c->sndq_next && np_seq_lt(np_txseg(b)->seq, ack)) {
    if (c->cc_flags & NP_CCF_RATE) np_tcp_rate_part(tcp, c, (uint32_t)np_seq_diff(ack, np_txseg(b)->seq));
    trim_head(c, b, (uint32_t)np_seq_diff(ack, np_txseg(b)->seq));
  }
  tcp->mem.send -= before - c->snd_segs;
  if (NP_UNLIKELY(again_ns != 0)) tcp->told.again = true;
  c->snd_una = ack;
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_MTU)) np_tcp_pmtu_acked(tcp, c);
  c->progress_ns = tcp->now_ns;
  if (sent_ns != 0 || again_ns != 0) {
    if (sample(tcp, c, sent_ns, again_ns, tsecr)) {
      if (NP_UNLIKELY(c->backoff != 0)) c->backoff = c->rack.vain = 0;
    } else if (c->backoff != 0) {
      keep_backoff(tcp, c, again_ns);
    }
  }
  return acked;
}

/* RFC 6298 §5.2 and §5.3; the wheel's timer stays where it is, unless what is due became due so
 * much sooner that it might come too late. */
void np_tcp_ack_timers(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (np_tcp_flight(c) == 0) {
    c->rtx_due_ns = 0;
  } else {
    c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
    uint64_t soonest = np_min_u64(c->rtx_due_ns, tcp->now_ns + np_tcp_tlp_wait_ns(c));
    if (NP_UNLIKELY(soonest < c->timer_due_ns)) np_tcp_timer_arm(tcp, c);
  }
  if (tcp->now_ms - c->confirm_ms >= 1000) {
    c->confirm_ms = tcp->now_ms;
    if (tcp->now_ms - c->rack.min_rtt_ms >= NP_TCP_MIN_RTT_MS) { /* the path may have grown longer */
      c->rack.min_rtt_ms = tcp->now_ms;
      c->min_rtt_us = c->srtt_us / 8;
    }
    tcp->env.confirm(tcp->env.ctx, &c->path, tcp->now_ns);
  }
}

/* RFC 9293 §3.10.7.4, with one more: what acknowledges something new is no older than what
 * we know, even if it is data sent again, whose number is old. Its window must be taken with
 * it: the old one, counted from the new SND.UNA, would reach beyond what was ever offered. */
static bool update_window(const struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  bool newer = np_seq_lt(c->snd_wl1, seg->seq) || (np_seq_eq(c->snd_wl1, seg->seq) && np_seq_le(c->snd_wl2, seg->ack));
  if (!newer && !np_seq_gt(seg->ack, c->snd_una)) return false;
  uint32_t wnd = seg->wnd << c->snd_wscale;
  bool changed = wnd != c->snd_wnd;
  /* While it was closed nothing could be acknowledged: the user timeout counts from here, but for
   * a connection that nobody waits for. */
  if (c->snd_wnd == 0 && changed && !(c->flags & NP_TF_DETACHED)) c->progress_ns = tcp->now_ns;
  c->snd_wnd = wnd;
  c->snd_wl1 = np_seq_max(c->snd_wl1, seg->seq);
  c->snd_wl2 = seg->ack;
  c->max_wnd = np_max_u32(c->max_wnd, wnd);
  return changed;
}

/* The window lets us send again. A probe's byte that it may have refused goes first. */
static void window_opened(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t flight = np_tcp_flight(c);
  if (c->snd_wnd <= flight) return;
  c->flags &= ~(NP_TF_ZERO_WND | NP_TF_PROBE);
  c->backoff = c->rack.vain = 0;
  c->rtx_due_ns = flight == 0 ? 0 : tcp->now_ns + np_tcp_rto_ns(tcp, c);
  if (flight != 0 && c->sndq_head != NULL && c->sndq_head != c->sndq_next) {
    np_tcp_mark_lost(tcp, c, c->sndq_head);
    c->flags |= NP_TF_FORCE_RTX;
  }
  np_tcp_dirty(tcp, c);
}

/* Before an ACK is taken in. */
static void told_start(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  uint32_t flight = np_tcp_flight(c);
  uint32_t gone = c->sacked_bytes + c->reno_bytes;
  tcp->told = (struct np_tcp_told){
      .fack = c->rack.fack,
      .tsecr = seg->opts.has_ts ? seg->opts.tsecr : 0,
      .flight0 = flight > gone ? flight - gone : 0,
  };
}

/* The acknowledgment stops at what it once said to have SACKed: the receiver dropped that (RFC 2018
 * §8). Not believed at once, but sooner than after a whole RTO; the timeout forgets every SACK. */
static void reneging(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct np_buf *b = c->sndq_head;
  if (c->sacked_segs == 0 || b == NULL || b == c->sndq_next || !(np_txseg(b)->flags & NP_TXS_SACKED)) return;
  uint64_t wait_us = np_max_u32(c->srtt_us / 16, RENEGE_US);
  c->rtx_due_ns = np_min_u64(c->rtx_due_ns, tcp->now_ns + wait_us * 1000);
  np_tcp_timer_arm(tcp, c);
}

/* How far behind SND.UNA an ACK may be: the largest window that the peer ever offered (RFC 5961
 * §5.2), which with scaling may be a quarter of all numbers, but nothing that was never sent. */
static uint32_t oldest_ack(const struct np_tcp_conn *c) {
  if (NP_LIKELY(c->bytes_tx >= c->max_wnd)) return c->max_wnd;
  return np_min_u32(c->max_wnd, (uint32_t)np_seq_diff(c->snd_una, c->iss) - 1);
}

/* Return: NP_TCP_OK, or why the whole segment is dropped. */
enum np_drop np_tcp_ack(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (np_seq_gt(seg->ack, c->snd_nxt) || np_seq_lt(seg->ack, np_seq_sub(c->snd_una, oldest_ack(c)))) {
    np_tcp_challenge(tcp, c); /* RFC 5961 §5.2 */
    return NP_DROP_TCP_ACK;
  }
  if (np_seq_lt(seg->ack, c->snd_una)) return NP_TCP_OK; /* overtaken by a later one */
  bool window_moved = update_window(tcp, c, seg);
  uint32_t flight = np_tcp_flight(c);
  if (c->ca_state == NP_CA_OPEN) c->rack.fack = c->snd_una; /* not kept while header prediction takes the ACKs */
  /* Before anything leaves the flight, which is what the reduction goes by. */
  if ((seg->flags & NP_TCP_ECE) && (c->ecn & NP_ECN_OK)) np_tcp_ecn_echoed(tcp, c);
  told_start(tcp, c, seg);
  struct np_tcp_told *t = &tcp->told;
  if (np_seq_gt(seg->ack, c->snd_una)) t->acked_bytes = np_tcp_ack_queue(tcp, c, seg->ack, t->tsecr);
  if ((c->flags & NP_TF_SACK) && seg->opts.sack_count != 0) np_tcp_sack_in(tcp, c, &seg->opts, seg->ack);
  if (t->acked_bytes == 0) tcp->ack_rtt_us = 0;
  /* RFC 5681 §2 */
  t->pure = t->acked_bytes == 0 && seg->len == 0 && !window_moved && !(seg->flags & NP_TCP_FIN);
  t->dup = t->pure && flight != 0;
  /* What answers a window probe is no sign of loss. */
  if (!(c->flags & NP_TF_ZERO_WND) && (flight != 0 || c->ca_state != NP_CA_OPEN || t->dsack)) np_tcp_recovery_ack(tcp, c);
  if (c->sndq_head == NULL) c->flags &= ~NP_TF_ZERO_WND; /* all was taken: a FIN needs no window */
  if (c->flags & NP_TF_ZERO_WND) window_opened(tcp, c);
  if (t->acked_bytes != 0) {
    np_tcp_ack_timers(tcp, c);
    if (seg->len == 0) np_tcp_timer_rest(tcp, c);
    reneging(tcp, c);
    np_tcp_wake_writer(tcp, c);
  }
  if (t->acked_bytes != 0 || t->sacked_segs != 0) np_tcp_cc_told(tcp, c, t->acked_bytes, flight);
  if (c->sndq_next != NULL || c->lost_due != 0 || (c->flags & NP_TF_FIN_QUEUED) || c->ca_state == NP_CA_RECOVERY) {
    np_tcp_dirty(tcp, c);
  }
  return NP_TCP_OK;
}
