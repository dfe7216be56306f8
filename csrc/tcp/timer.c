/* Timers. A deadline is a field; the wheel's timer is set no later than the
 * earliest deadline and, when it fires too early, set again. So a connection
 * that sends and is acknowledged a thousand times moves its timer once per RTO. */
#include "tcp/cc.h"

/* When the user timeout ends c, RFC 9293 §3.8.3; UINT64_MAX: never, as things are. What a window that shrank to
 * zero holds back is not overdue while the peer answers (§3.8.6, MUST-35, SHLD-17), unless nobody waits for
 * it any more; a window probe is answered as long as the peer lives (§3.8.6.1). */
static uint64_t gives_up_ns(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  bool persist = (c->flags & NP_TF_ZERO_WND) != 0;
  if (c->user_timeout_ms == 0 || c->state < NP_TCP_ESTABLISHED || (np_tcp_flight(c) == 0 && !persist)) return UINT64_MAX;
  uint32_t silent_ms = tcp->now_ms - c->rx_ms;
  uint64_t silence = tcp->now_ns + (c->user_timeout_ms - (uint64_t)np_min_u32(silent_ms, c->user_timeout_ms)) * NP_TCP_NS_PER_MS;
  uint64_t progress = c->progress_ns + c->user_timeout_ms * NP_TCP_NS_PER_MS;
  bool orphan = (c->flags & NP_TF_DETACHED) != 0;
  if (persist) return orphan ? np_min_u64(progress, silence) : silence;
  return c->snd_wnd == 0 && !orphan ? np_max_u64(progress, silence) : progress;
}

static bool gave_up(const struct np_tcp *tcp, const struct np_tcp_conn *c) { return tcp->now_ns >= gives_up_ns(tcp, c); }

void np_tcp_timer_arm(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint64_t due = c->rtx_due_ns;
  /* No user timeout is below a second, and it counts from where the first RTO does. */
  bool odd = c->backoff != 0 || c->ca_state != NP_CA_OPEN || due > tcp->now_ns + NP_TCP_NS_PER_S;
  if (due != 0 && NP_UNLIKELY(odd)) due = np_min_u64(due, gives_up_ns(tcp, c));
  if (due == 0 || (c->misc_due_ns != 0 && c->misc_due_ns < due)) due = c->misc_due_ns;
  uint64_t tlp = np_tcp_tlp_due_ns(c);
  if (tlp != 0 && tlp < due) due = tlp;
  if (NP_UNLIKELY(c->ca_state != NP_CA_OPEN) && c->rack.reo_due_ns != 0 && (due == 0 || c->rack.reo_due_ns < due)) {
    due = c->rack.reo_due_ns;
  }
  if (due == 0 || (c->timer_due_ns != 0 && c->timer_due_ns <= due)) return;
  c->timer_due_ns = due;
  np_timer_set(tcp->env.wheel, &c->timer, NP_TIMER_TCP, due);
}

/* A connection that speaks often leaves the timer where it is, for its next data: it fires once per RTO,
 * finds that nothing is due so early, and moves on. One that speaks rarely would have it fire after each
 * exchange, for nothing and from memory that is no longer in any cache. */
void np_tcp_timer_rest(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (NP_LIKELY(!c->rare) || c->timer_due_ns == 0 || c->rtx_due_ns != 0 || c->sndq_next != NULL) return;
  if (c->misc_due_ns != 0 && c->misc_due_ns <= c->timer_due_ns) return; /* set for that */
  np_timer_cancel(tcp->env.wheel, &c->timer);
  c->timer_due_ns = 0;
  np_tcp_timer_arm(tcp, c);
}

/* Sets the second timer when an ACK, or anything that found no buffer, waits. */
void np_tcp_delack_arm(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (np_timer_is_set(&c->ack_timer)) return;
  uint64_t wait_ms = c->flags & NP_TF_NO_BUF ? 2 : tcp->config.delack_ms;
  np_timer_set(tcp->env.wheel, &c->ack_timer, NP_TIMER_TCP_ACK, tcp->now_ns + wait_ms * NP_TCP_NS_PER_MS);
}

void np_tcp_timers_cancel(struct np_tcp *tcp, struct np_tcp_conn *c) {
  np_timer_cancel(tcp->env.wheel, &c->timer);
  np_timer_cancel(tcp->env.wheel, &c->ack_timer);
  c->rtx_due_ns = c->misc_due_ns = c->timer_due_ns = c->rack.reo_due_ns = 0;
}

void np_tcp_keepalive_start(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->keepalive_idle_ms == 0) return;
  c->misc_due_ns = tcp->now_ns + c->keepalive_idle_ms * NP_TCP_NS_PER_MS;
  np_tcp_timer_arm(tcp, c);
}

static enum np_err timeout_err(const struct np_tcp_conn *c) {
  return c->soft_err != 0 && np_seq_eq(c->soft_una, c->snd_una) ? (enum np_err)c->soft_err : NP_ERR_TIMEDOUT; /* RFC 1122 §4.2.3.9 */
}

/* The second timeout in a row, SYN or data: a neighbor with another MAC than before would explain it,
 * and the network layer would else find that out much later. */
#define DOUBT_AT 2u
static void doubt(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t timeouts) {
  if (timeouts == DOUBT_AT && tcp->env.doubt != NULL) tcp->env.doubt(tcp->env.ctx, &c->path, tcp->now_ns);
}

static void on_syn_timeout(struct np_tcp *tcp, struct np_tcp_conn *c) {
  /* A SYN cookie's connection has nothing to send again: the peer has to speak. */
  uint32_t most = c->flags & NP_TF_OUTGOING ? tcp->config.syn_retries : tcp->config.synack_retries;
  if (c->probes >= most) {
    np_tcp_close(tcp, c, timeout_err(c));
    return;
  }
  c->probes++;
  c->backoff++;
  doubt(tcp, c, c->probes);
  c->flags |= NP_TF_RTX_SYN;
  c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  np_tcp_count(tcp, NP_C_TCP_RTO);
  np_tcp_dirty(tcp, c);
}

/* RFC 9293 §3.8.6.1: as long as the peer answers, a closed window is no reason
 * to give up (MUST-35..37); silence is, and so is a session that has gone. */
static void on_persist(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (gave_up(tcp, c) || np_tcp_guard_persist(tcp, c)) {
    np_tcp_send_rst(tcp, c);
    np_tcp_close(tcp, c, timeout_err(c));
    return;
  }
  if (c->backoff < 30) c->backoff++;
  c->flags |= NP_TF_PROBE;
  c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  np_tcp_count(tcp, NP_C_TCP_PROBE);
  np_tcp_dirty(tcp, c);
}

static void on_rtx_timeout(struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->rtx_due_ns = 0;
  if (c->state == NP_TCP_SYN_SENT || c->state == NP_TCP_SYN_RECEIVED) {
    on_syn_timeout(tcp, c);
    return;
  }
  if (c->flags & NP_TF_ZERO_WND) {
    on_persist(tcp, c);
    return;
  }
  if (np_tcp_flight(c) == 0) return;
  if (gave_up(tcp, c)) {
    np_tcp_close(tcp, c, timeout_err(c)); /* RFC 9293 §3.10.8, USER TIMEOUT */
    return;
  }
  np_tcp_count(tcp, NP_C_TCP_RTO);
  c->rack.rtos++;
  np_tcp_pmtu_rto(tcp, c);
  np_tcp_recovery_rto(tcp, c);
  if (c->backoff < 30) c->backoff++;
  if (c->rack.vain < UINT8_MAX) c->rack.vain++;
  doubt(tcp, c, c->rack.vain);
  c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  np_tcp_dirty(tcp, c);
}

/* RFC 9293 §3.8.4. The probe is a segment just left of the window, without data. */
static void on_keepalive(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint64_t idle_ms = tcp->now_ms - c->rx_ms;
  const struct np_tcp_config *cfg = &tcp->config;
  uint32_t limit_ms = c->keepalive_idle_ms;
  c->misc_due_ns = 0;
  if (limit_ms == 0) return;
  if (idle_ms < limit_ms || np_tcp_flight(c) > 0) {
    uint64_t wait_ms = idle_ms < limit_ms ? limit_ms - idle_ms : limit_ms;
    c->probes = 0;
    c->misc_due_ns = tcp->now_ns + wait_ms * NP_TCP_NS_PER_MS;
    return;
  }
  if (!(c->flags & NP_TF_KEEPALIVE)) c->probes = 0; /* the last one was answered, however long ago */
  if (c->probes >= cfg->keepalive_probes) {
    np_tcp_send_rst(tcp, c);
    np_tcp_close(tcp, c, timeout_err(c));
    return;
  }
  c->probes++;
  c->flags |= NP_TF_PROBE | NP_TF_KEEPALIVE;
  /* A connection's own time is the longest between probes too: who asks for seconds does not mean minutes. */
  bool own = limit_ms != cfg->keepalive_idle_ms;
  uint32_t gap_ms = own ? np_min_u32(cfg->keepalive_interval_ms, limit_ms) : cfg->keepalive_interval_ms;
  c->misc_due_ns = tcp->now_ns + gap_ms * NP_TCP_NS_PER_MS;
  np_tcp_count(tcp, NP_C_TCP_KEEPALIVE);
  np_tcp_dirty(tcp, c);
}

static void on_misc_timeout(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->state != NP_TCP_FIN_WAIT_2 || !(c->flags & NP_TF_DETACHED)) {
    on_keepalive(tcp, c);
    return;
  }
  /* Nobody is left to read what a peer that never closes might send: RFC 9293
   * §3.6.1 lets us end it with a reset. */
  c->misc_due_ns = 0;
  np_tcp_send_rst(tcp, c);
  np_tcp_close(tcp, c, NP_ERR_TIMEDOUT);
}

static void time_wait_expired(struct np_tcp *tcp) {
  for (uint32_t n = 0; n < NP_TCP_REAP_BUDGET && tcp->tw_head != NP_TCP_NIL; n++) {
    struct np_tcp_conn *c = np_tcp_at(tcp, tcp->tw_head);
    if (c->misc_due_ns > tcp->now_ns) break;
    np_tcp_close(tcp, c, NP_ERR_EOF);
  }
  if (tcp->tw_head != NP_TCP_NIL) {
    np_timer_set(tcp->env.wheel, &tcp->tw_timer, NP_TIMER_TCP, np_tcp_at(tcp, tcp->tw_head)->misc_due_ns);
  }
}

/* Reordering, tail probe, retransmission. A probe that is due comes before a timeout that is as well. */
static void on_send_timers(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->ca_state != NP_CA_OPEN && c->rack.reo_due_ns != 0 && c->rack.reo_due_ns <= tcp->now_ns) np_tcp_recovery_lost(tcp, c);
  uint64_t tlp = np_tcp_tlp_due_ns(c);
  if (tlp != 0 && tlp <= tcp->now_ns) np_tcp_tlp_fire(tcp, c);
  if (c->rtx_due_ns != 0 && (c->rtx_due_ns <= tcp->now_ns || gave_up(tcp, c))) on_rtx_timeout(tcp, c);
}

static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_tcp *tcp = ctx;
  np_tcp_set_now(tcp, now_ns);
  if (timer == &tcp->tw_timer) {
    time_wait_expired(tcp);
    return;
  }
  struct np_tcp_conn *c = NP_CONTAINER_OF(timer, struct np_tcp_conn, timer);
  c->timer_due_ns = 0;
  on_send_timers(tcp, c);
  if (c->misc_due_ns != 0 && c->misc_due_ns <= now_ns && c->state != NP_TCP_CLOSED) on_misc_timeout(tcp, c);
  if (c->state != NP_TCP_CLOSED) np_tcp_timer_arm(tcp, c);
}

static void on_ack_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_tcp *tcp = ctx;
  np_tcp_set_now(tcp, now_ns);
  struct np_tcp_conn *c = NP_CONTAINER_OF(timer, struct np_tcp_conn, ack_timer);
  if (c->flags & NP_TF_NO_BUF) {
    c->flags &= ~NP_TF_NO_BUF;
    c->ecn &= (uint8_t)~NP_EB_ROOM_MEM;
    np_tcp_dirty(tcp, c);
  }
  if (c->flags & NP_TF_WND_HELD) np_tcp_dirty(tcp, c);
  if (c->rcvq_head != NULL) { /* held back by a crowded session: long enough */
    c->rcvq_due = true;
    np_tcp_dirty(tcp, c);
  }
  if (!(c->flags & NP_TF_ACK_LATER)) return;
  if ((int32_t)(c->ack_due_ms - tcp->now_ms) > 0) {
    np_timer_set(tcp->env.wheel, timer, NP_TIMER_TCP_ACK,
                 now_ns + (uint64_t)(c->ack_due_ms - tcp->now_ms) * NP_TCP_NS_PER_MS);
    return;
  }
  if (c->ack_bytes >= c->rcv_mss && tcp->config.quick_acks != 0) c->ecn |= NP_EB_ONE_BY_ONE;
  c->flags |= NP_TF_ACK_NOW;
  np_tcp_dirty(tcp, c);
}

void np_tcp_timer_init(struct np_tcp *tcp) {
  np_wheel_handle(tcp->env.wheel, NP_TIMER_TCP, on_timer, tcp);
  np_wheel_handle(tcp->env.wheel, NP_TIMER_TCP_ACK, on_ack_timer, tcp);
}
