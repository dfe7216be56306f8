/* Listeners and passive opens. */
#include "tcp/cc.h"

enum np_err np_tcp_listen(struct np_tcp *tcp, const struct np_tcp_listen *args, uint32_t *out_listener) {
  uint32_t slot = tcp->config.listeners_max;
  if (args->port == 0 || args->congestion_control > NP_CC_COUNT || args->dscp > 63) return NP_ERR_INVALID;
  for (uint32_t i = 0; i < tcp->config.listeners_max; i++) {
    struct np_tcp_listener *l = &tcp->listeners[i];
    if (!l->used) {
      if (slot == tcp->config.listeners_max) slot = i;
    } else if (l->args.port == args->port && np_addr_eq(&l->args.local, &args->local)) {
      return NP_ERR_ADDRINUSE;
    }
  }
  if (slot == tcp->config.listeners_max) return NP_ERR_FULL;
  struct np_tcp_listener *l = &tcp->listeners[slot];
  *l = (struct np_tcp_listener){.args = *args, .used = true, .half = {NP_TCP_NIL, NP_TCP_NIL}};
  if (l->args.backlog == 0) l->args.backlog = tcp->config.backlog_default;
  *out_listener = slot;
  return NP_ERR_OK;
}

enum np_err np_tcp_unlisten(struct np_tcp *tcp, uint32_t listener) {
  if (listener >= tcp->config.listeners_max || !tcp->listeners[listener].used) return NP_ERR_NOTFOUND;
  for (uint32_t i = 0; i < tcp->config.conns_max; i++) { /* rare, and not on a packet's way */
    struct np_tcp_conn *c = np_tcp_at(tcp, i);
    if (c->state == NP_TCP_CLOSED || c->listener != listener) continue;
    if (c->state == NP_TCP_SYN_RECEIVED || (c->flags & NP_TF_EV_ACCEPT)) {
      np_tcp_send_rst(tcp, c);
      np_tcp_close(tcp, c, NP_ERR_SHUTDOWN);
    } else {
      np_tcp_guard_source(tcp, &c->flow.remote, -1);
      c->listener = NP_TCP_NIL;
    }
  }
  tcp->listeners[listener].used = false;
  return NP_ERR_OK;
}

/* One bound to the address itself wins over one for any address. */
struct np_tcp_listener *np_tcp_listener_find(struct np_tcp *tcp, const struct np_flow *flow) {
  struct np_tcp_listener *any = NULL;
  for (uint32_t i = 0; i < tcp->config.listeners_max; i++) {
    struct np_tcp_listener *l = &tcp->listeners[i];
    if (!l->used || l->args.port != flow->local_port) continue;
    if (np_addr_eq(&l->args.local, &flow->local)) return l;
    if (np_addr_is_zero(&l->args.local)) any = l;
  }
  return any;
}

bool np_tcp_listens(struct np_tcp *tcp, const struct np_flow *flow) { return np_tcp_listener_find(tcp, flow) != NULL; }

/* c is no longer half open. */
void np_tcp_listener_ready(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (!(c->flags & NP_TF_PASSIVE)) return;
  c->flags &= ~NP_TF_PASSIVE;
  tcp->listeners[c->listener].backlog--;
  np_tcp_list_del(tcp, &tcp->listeners[c->listener].half, c);
  np_tcp_guard_half(tcp, &c->flow.remote, -1);
}

/* c ends, as far as its listener's limits go. */
void np_tcp_listener_left(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->listener == NP_TCP_NIL) return;
  if (c->state != NP_TCP_SYN_RECEIVED) np_tcp_guard_source(tcp, &c->flow.remote, -1);
  np_tcp_listener_ready(tcp, c);
  tcp->listeners[c->listener].conns--;
  c->listener = NP_TCP_NIL;
}

/* Its limit is for connections that are open: SYNs, which anybody can send from anywhere,
 * have the backlog, and cookies behind it. */
bool np_tcp_listener_full(struct np_tcp *tcp, const struct np_tcp_listener *l, const struct np_flow *flow, enum np_drop *why) {
  *why = NP_DROP_TCP_CONN_LIMIT;
  if (l->args.conns_max != 0 && l->conns - l->backlog >= l->args.conns_max) return true;
  *why = NP_DROP_TCP_SOURCE_LIMIT;
  return np_tcp_guard_source_full(tcp, &flow->remote);
}

/* What both SYNs allow. */
void np_tcp_agree(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_opts *opts) {
  const struct np_tcp_config *cfg = &tcp->config;
  uint32_t none = np_addr_is_v4(&c->flow.remote) ? NP_TCP_MSS_V4 : NP_TCP_MSS_V6;
  c->mss_peer = (uint16_t)np_max_u32(opts->mss == 0 ? none : opts->mss, tcp->config.min_snd_mss);
  c->flags &= ~(NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE);
  if (cfg->timestamps && opts->has_ts) {
    c->flags |= NP_TF_TS;
    c->ts_recent = opts->tsval;
    c->ts_recent_ms = tcp->now_ms;
  }
  if (cfg->sack && opts->sack_ok) c->flags |= NP_TF_SACK;
  if (cfg->window_scaling && opts->has_wscale) {
    c->flags |= NP_TF_WSCALE;
    c->snd_wscale = opts->wscale;
    c->rcv_wscale = tcp->rcv_wscale;
  }
  np_tcp_set_mss(tcp, c);
}

bool np_tcp_elsewhere(struct np_tcp *tcp, const struct np_tcp_seg *seg, bool take, enum np_drop *why) {
  if (tcp->env.claim == NULL) return false;
  enum np_tcp_stray what = tcp->env.claim(tcp->env.ctx, seg->pkt, take);
  *why = what == NP_TCP_STRAY_TAKEN ? NP_TCP_OK : NP_DROP_STEER_FULL;
  return what != NP_TCP_STRAY_OURS;
}

static enum np_drop open_passive(struct np_tcp *tcp, struct np_tcp_listener *l, struct np_tcp_seg *seg) {
  enum np_drop why;
  if (np_tcp_elsewhere(tcp, seg, true, &why)) return why;
  struct np_tcp_conn *c = np_tcp_conn_new(tcp, &seg->pkt->flow, seg->pkt->hash);
  if (c == NULL) {
    np_tcp_unclaim(tcp, &seg->pkt->flow);
    return NP_DROP_TCP_CONN_LIMIT;
  }
  c->listener = (uint32_t)(l - tcp->listeners);
  l->conns++;
  l->backlog++;
  np_tcp_list_add(tcp, &l->half, c);
  np_tcp_guard_half(tcp, &c->flow.remote, 1);
  c->flags |= NP_TF_PASSIVE | NP_TF_RTX_SYN;
  if (seg->retry) c->iss = np_seq_max(c->iss, seg->iss_min);
  c->snd_una = c->iss;
  c->snd_nxt = c->snd_end = np_seq_add(c->iss, 1);
  c->irs = seg->seq;
  c->rcv_nxt = c->rcv_adv = c->last_ack = np_seq_add(seg->seq, 1);
  c->snd_wl1 = seg->seq;
  c->snd_wnd = c->max_wnd = seg->wnd;
  np_tcp_agree(tcp, c, &seg->opts);
  np_tcp_ecn_syn_in(tcp, c, seg->flags);
  if (l->args.congestion_control != 0) c->cc_id = l->args.congestion_control - 1;
  c->tos = (uint8_t)(l->args.dscp << 2);
  np_tcp_set_state(tcp, c, NP_TCP_SYN_RECEIVED);
  c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  np_tcp_timer_arm(tcp, c);
  np_tcp_dirty(tcp, c);
  return NP_TCP_OK;
}

#define PRESSED_PARTS 8u /* of a backlog, while buffers are short */

#define RECYCLE_MS 2u /* what a near peer needs to answer */

/* A full backlog without cookies: the oldest half-open connection makes room for a new one (RFC 4987 §3.3),
 * so that in a flood everybody has as long to answer as the flood takes to fill the backlog, instead of
 * nobody getting in at all. Return: true when there is room. */
static bool recycle(struct np_tcp *tcp, struct np_tcp_listener *l) {
  if (l->half.head == NP_TCP_NIL) return false;
  struct np_tcp_conn *c = np_tcp_at(tcp, l->half.head);
  if (tcp->now_ns - c->created_ns < RECYCLE_MS * NP_TCP_NS_PER_MS) return false;
  np_tcp_count(tcp, NP_C_TCP_HALF_RECYCLED);
  np_tcp_close(tcp, c, NP_ERR_TIMEDOUT);
  return true;
}

static enum np_drop listen_syn(struct np_tcp *tcp, struct np_tcp_listener *l, struct np_tcp_seg *seg) {
  /* No connection with a group (RFC 9293 §3.9.2.3, MUST-57). */
  if (seg->pkt->link_dst != NP_LINK_UNICAST) return NP_DROP_TCP_NO_LISTENER;
  enum np_drop why;
  /* A SYN sent again belongs where the first one is, whatever there is room for here. */
  if (np_tcp_elsewhere(tcp, seg, false, &why)) return why;
  if (np_tcp_listener_full(tcp, l, &seg->pkt->flow, &why)) {
    np_tcp_reply_rst(tcp, seg); /* a quick no: who retries for minutes is served no better */
    return why;
  }
  /* Short of buffers, what may be somebody who never comes gets no state, or little. */
  if (np_tcp_mem_below(tcp, l->args.cookies ? NP_TCP_MEM_HARD : NP_TCP_MEM_MAX)) return NP_DROP_TCP_MEMORY;
  uint32_t backlog = np_min_u32(l->args.backlog, tcp->env.pool->count);
  if (np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE)) backlog = np_max_u32(backlog / PRESSED_PARTS, 1);
  if (np_tcp_mem_below(tcp, NP_TCP_MEM_MAX)) backlog = 0;
  bool crowd = np_tcp_guard_half_full(tcp, &seg->pkt->flow.remote, l->args.backlog, l->args.cookies);
  if (l->backlog < backlog && !crowd) return open_passive(tcp, l, seg);
  if (l->args.cookies) return np_tcp_cookie_send(tcp, seg);
  if (crowd) return NP_DROP_TCP_SOURCE_LIMIT;
  return recycle(tcp, l) ? open_passive(tcp, l, seg) : NP_DROP_TCP_BACKLOG;
}

/* RFC 9293 §3.10.7.2: LISTEN. An ACK may bring a cookie back. */
enum np_drop np_tcp_listen_input(struct np_tcp *tcp, struct np_tcp_listener *l, struct np_tcp_seg *seg) {
  if (!(seg->flags & NP_TCP_ACK)) return listen_syn(tcp, l, seg);
  enum np_drop why = NP_DROP_TCP_NO_CONN;
  struct np_tcp_conn *c = np_tcp_cookie_accept(tcp, l, seg, &why);
  if (c != NULL) {
    why = np_tcp_dispatch(tcp, c, seg);
    if (c->state == NP_TCP_SYN_RECEIVED) np_tcp_close(tcp, c, NP_ERR_PROTOCOL); /* it has no timer to end it */
    return why;
  }
  bool done = why == NP_TCP_OK || why == NP_DROP_STEER_FULL || why == NP_DROP_TCP_CONN_LIMIT || why == NP_DROP_TCP_SOURCE_LIMIT;
  return done ? why : np_tcp_stray(tcp, seg, why);
}
