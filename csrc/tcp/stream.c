/* The stream side of a connection: what sessions call (base/stream.h). */
#include "tcp/cc.h"

static uint32_t queued_bytes(const struct np_tcp_conn *c) { return (uint32_t)np_seq_diff(c->snd_end, c->snd_una); }

/* Once the queue is three quarters full the session is told when it is no longer,
 * also when what room said was more than nothing: it may have been too little. */
static uint32_t stream_room(struct np_stream *s) {
  struct np_tcp_conn *c = np_tcp_of(s);
  struct np_tcp *tcp = np_tcp_owner(c);
  if (!np_tcp_sends(c->state) || (c->flags & NP_TF_FIN_QUEUED)) return 0;
  return np_tcp_room(tcp, c);
}

static enum np_err stream_send(struct np_stream *s, struct np_buf *chain, uint32_t flags) {
  struct np_tcp_conn *c = np_tcp_of(s);
  struct np_tcp *tcp = np_tcp_owner(c);
  if (!np_tcp_sends(c->state) || (c->flags & NP_TF_FIN_QUEUED)) {
    np_buf_put_chain(chain);
    return NP_ERR_STATE;
  }
  np_tcp_sendq_add(tcp, c, chain);
  np_assert(queued_bytes(c) <= tcp->config.snd_buf_bytes);
  np_tcp_queued(tcp, c);
  c->flags &= ~NP_TF_MORE;
  if (flags & NP_SEND_MORE) c->flags |= NP_TF_MORE;
  np_tcp_dirty(tcp, c);
  return NP_ERR_OK;
}

static void stream_consumed(struct np_stream *s, uint32_t bytes) {
  struct np_tcp_conn *c = np_tcp_of(s);
  struct np_tcp *tcp = np_tcp_owner(c);
  np_assert(bytes <= c->unconsumed);
  c->unconsumed -= bytes;
  if (NP_LIKELY(c->unconsumed == 0)) {
    np_tcp_mem_consumed_all(tcp, c);
  } else if (bytes != 0) {
    np_tcp_mem_partly_consumed(tcp, c);
  }
  if (!np_tcp_receives(c->state)) return;
  if (!(c->flags & NP_TF_TS) && np_seq_ge(c->rcv_nxt, c->tune_edge)) np_tcp_tune_filled(tcp, c);
  if (!np_tcp_window_update_due(tcp, c)) return;
  if (NP_UNLIKELY(c->flags & NP_TF_WND_HELD) && !np_tcp_window_released(tcp, c)) return; /* the timer looks again */
  c->flags |= NP_TF_ACK_NOW;
  np_tcp_dirty(tcp, c);
}

static void stream_shutdown(struct np_stream *s) {
  struct np_tcp_conn *c = np_tcp_of(s);
  struct np_tcp *tcp = np_tcp_owner(c);
  if (!np_tcp_sends(c->state) || (c->flags & NP_TF_FIN_QUEUED)) return;
  c->flags |= NP_TF_FIN_QUEUED;
  c->flags &= ~(NP_TF_ROOM_SAID_NO | NP_TF_EV_WRITABLE | NP_TF_MORE);
  /* Before ESTABLISHED the FIN waits for it (RFC 9293 §3.10.4). */
  if (c->state == NP_TCP_ESTABLISHED) np_tcp_set_state(tcp, c, NP_TCP_FIN_WAIT_1);
  if (c->state == NP_TCP_CLOSE_WAIT) np_tcp_set_state(tcp, c, NP_TCP_LAST_ACK);
  np_tcp_dirty(tcp, c);
}

static void stream_abort(struct np_stream *s) {
  struct np_tcp_conn *c = np_tcp_of(s);
  struct np_tcp *tcp = np_tcp_owner(c);
  struct np_session *session = c->stream.session;
  if (c->state != NP_TCP_CLOSED && c->state != NP_TCP_TIME_WAIT) {
    if (c->state != NP_TCP_SYN_SENT) np_tcp_send_rst(tcp, c);
    np_tcp_close(tcp, c, NP_ERR_ABORTED);
  }
  if (session == NULL) return;
  np_tcp_rcvq_free(c);
  c->stream.session = NULL;
  c->flags &= ~NP_TF_EV_CLOSED;
  session->ops->closed(session, NP_ERR_ABORTED);
}

static void stream_detach(struct np_stream *s) {
  struct np_tcp_conn *c = np_tcp_of(s);
  struct np_tcp *tcp = np_tcp_owner(c);
  if (c->stream.session != NULL) c->stream.session->stream = NULL;
  c->stream.session = NULL;
  c->flags |= NP_TF_DETACHED;
  c->flags &= ~NP_TF_EV_CLOSED;
  c->unconsumed = 0;
  np_tcp_mem_consumed_all(tcp, c);
  np_tcp_rcvq_free(c);
  np_tcp_ooo_free(c);
  np_tcp_dirty(tcp, c);
  if (c->state == NP_TCP_SYN_SENT) {
    np_tcp_close(tcp, c, NP_ERR_ABORTED);
    return;
  }
  stream_shutdown(s);
  np_tcp_leaving(tcp, c);
  if (c->state == NP_TCP_FIN_WAIT_2) {
    c->misc_due_ns = tcp->now_ns + tcp->config.timewait_ms * NP_TCP_NS_PER_MS;
    np_tcp_timer_arm(tcp, c);
  }
}

static enum np_limited limited_by(const struct np_tcp_conn *c) {
  if (c->flags & NP_TF_ZERO_WND) return NP_LIMITED_RWND;
  if (c->sndq_next == NULL) return NP_LIMITED_APP;
  return c->flags & NP_TF_CWND_FULL ? NP_LIMITED_CWND : NP_LIMITED_RWND;
}

static uint8_t options_of(const struct np_tcp_conn *c) {
  uint32_t o = 0;
  if (c->flags & NP_TF_TS) o |= NP_CONN_OPT_TIMESTAMPS;
  if (c->flags & NP_TF_SACK) o |= NP_CONN_OPT_SACK;
  if (c->flags & NP_TF_WSCALE) o |= NP_CONN_OPT_WSCALE;
  if (c->flags & NP_TF_OUTGOING) o |= NP_CONN_OPT_OUTGOING;
  return (uint8_t)o;
}

static void info_cc(const struct np_tcp_conn *c, struct np_conn_info *out) {
  out->cc = c->cc_id;
  if (c->ecn & NP_ECN_OK) out->ecn |= NP_CONN_ECN_OK;
  if (c->ecn & NP_ECN_CE_SEEN) out->ecn |= NP_CONN_ECN_CE_SEEN;
  if (c->ecn & NP_ECN_ECE_SEEN) out->ecn |= NP_CONN_ECN_ECE_SEEN;
  out->paced = (c->cc_flags & NP_CCF_PACED) != 0;
  out->pacing_bytes_per_s = out->paced ? c->pace_rate : 0;
  out->delivery_bytes_per_s = (uint64_t)c->rate.bw * NP_TCP_BW_UNIT;
  if ((c->cc_flags & NP_CCF_STARTED) && np_tcp_cc(c)->info != NULL) np_tcp_cc(c)->info(c, out);
}

static void info_recovery(const struct np_tcp *tcp, const struct np_tcp_conn *c, struct np_conn_info *out) {
  out->user_timeout_ms = c->user_timeout_ms;
  if (np_tcp_flight(c) != 0) out->unacked_ms = (uint32_t)((tcp->now_ns - c->progress_ns) / NP_TCP_NS_PER_MS);
  out->ca_state = c->ca_state;
  out->backoff = c->backoff;
  out->reo_wnd_us = c->flags & NP_TF_SACK ? np_tcp_rack_reo_wnd_us(c) : 0;
  out->dsacks_total = c->rack.dsacks;
  out->reordering_total = c->rack.reorders;
  out->tail_probes_total = c->rack.tlps;
  out->undos_total = c->rack.undos;
}

static void info_numbers(const struct np_tcp *tcp, const struct np_tcp_conn *c, struct np_conn_info *out) {
  int32_t edge = np_seq_diff(c->rcv_adv, c->rcv_nxt);
  out->mss_bytes = c->mss;
  out->pmtu_bytes = np_tcp_pmtu_bytes(c);
  out->cwnd_bytes = c->cwnd;
  out->ssthresh_bytes = c->ssthresh;
  out->snd_wnd_bytes = c->snd_wnd;
  out->rcv_wnd_bytes = edge > 0 ? (uint32_t)edge : 0;
  out->srtt_us = c->srtt_us / 8;
  out->rttvar_us = c->rttvar_us / 4;
  out->rto_us = (uint32_t)np_min_u64((uint64_t)c->rto_us << np_min_u32(c->backoff, 20), UINT32_MAX);
  out->min_rtt_us = c->min_rtt_us;
  out->inflight_bytes = np_tcp_flight(c);
  out->sacked_bytes = c->sacked_bytes;
  out->lost_bytes = c->lost_bytes;
  out->sendq_bytes = queued_bytes(c);
  out->recvq_bytes = c->unconsumed + c->rcvq_bytes;
  out->ooo_bytes = c->ooo_bytes;
  out->retrans_segs_total = c->rtx_segs;
  out->rto_total = c->rack.rtos;
  out->created_ns = c->created_ns;
  /* Kept in milliseconds that wrap after 49 days. */
  out->last_rx_ns = tcp->now_ns - (uint64_t)(tcp->now_ms - c->rx_ms) * NP_TCP_NS_PER_MS;
  out->bytes_rx = c->bytes_rx;
  out->bytes_tx = c->bytes_tx;
  out->bytes_retrans = c->bytes_rtx;
  out->segs_rx = c->segs_rx;
  out->segs_tx = c->segs_tx;
  out->rcv_rtt_us = c->rcv_rtt_us;
  out->rcv_space_bytes = c->tune_last;
  out->rcv_buf_bytes = np_tcp_rcv_buf(tcp, c);
  out->snd_buf_bytes = np_tcp_snd_limit(tcp, c);
}

static void stream_info(const struct np_stream *s, struct np_conn_info *out) {
  const struct np_tcp_conn *c = (const struct np_tcp_conn *)(const void *)((const uint8_t *)s - offsetof(struct np_tcp_conn, stream));
  const struct np_tcp *tcp = np_tcp_owner(c);
  memset(out, 0, sizeof *out);
  out->handle = s->handle;
  out->listener = c->listener == NP_TCP_NIL ? 0 : tcp->listeners[c->listener].args.handle;
  memcpy(out->local, c->flow.local.b, sizeof out->local);
  memcpy(out->remote, c->flow.remote.b, sizeof out->remote);
  out->local_port = c->flow.local_port;
  out->remote_port = c->flow.remote_port;
  out->state = c->state;
  out->limited = (uint8_t)limited_by(c);
  out->core = tcp->config.core_index;
  out->wscale_snd = c->snd_wscale;
  out->wscale_rcv = c->rcv_wscale;
  out->options = options_of(c);
  info_numbers(tcp, c, out);
  info_cc(c, out);
  info_recovery(tcp, c, out);
}

const struct np_stream_ops np_tcp_stream_ops = {
    .room = stream_room,
    .send = stream_send,
    .consumed = stream_consumed,
    .shutdown = stream_shutdown,
    .abort = stream_abort,
    .detach = stream_detach,
    .info = stream_info,
};

uint32_t np_tcp_connections(struct np_tcp *tcp, uint32_t *cursor, struct np_conn_info *out, uint32_t max) {
  uint32_t n = 0;
  uint32_t i = *cursor;
  for (; i < tcp->config.conns_max && n < max; i++) {
    struct np_tcp_conn *c = np_tcp_at(tcp, i);
    if (c->state != NP_TCP_CLOSED) stream_info(&c->stream, &out[n++]);
  }
  *cursor = i < tcp->config.conns_max ? i : 0;
  return n;
}
