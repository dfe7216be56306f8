/* The receive window: how much a connection may be sent, when the peer hears of
 * it, and how it stays out of silly windows (RFC 9293 §3.8.6). How large the
 * buffer behind it is at the moment is autotune.c's affair. */
#include "tcp/tcp_int.h"

/* What the window field says; moves rcv_adv. RFC 9293 §3.8.6.2.2: the right edge
 * moves by a worthwhile step or not at all, and never back. With scaling the
 * field may round down below rcv_adv, which stays what we accept (RFC 7323 §2.4).
 * Out-of-order data needs no deduction: it lies inside the offered window. While
 * buffers are short the edge stays where it is. */
uint32_t np_tcp_window(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t buf = np_tcp_rcv_buf(tcp, c);
  uint32_t held = c->unconsumed + c->rcvq_bytes;
  uint32_t free_bytes = held < buf ? buf - held : 0;
  int32_t left = np_seq_diff(c->rcv_adv, c->rcv_nxt);
  uint32_t wnd = left > 0 ? (uint32_t)left : 0;
  c->flags &= ~NP_TF_WND_HELD;
  if (free_bytes > wnd && free_bytes - wnd >= np_min_u32(buf / 2, c->mss)) {
    if (NP_LIKELY(!np_tcp_pool_below(tcp, NP_TCP_PARTS_WND))) {
      wnd = free_bytes;
    } else if (wnd < 2 * c->mss && np_tcp_receives(c->state)) {
      c->flags |= NP_TF_WND_HELD; /* the peer stops: nothing but us will bring this up again */
    }
  }
  uint32_t field = np_min_u32(wnd >> c->rcv_wscale, UINT16_MAX);
  c->rcv_adv = np_seq_max(c->rcv_adv, np_seq_add(c->rcv_nxt, field << c->rcv_wscale));
  return field;
}

/* RFC 9293 §3.8.6.2.2: an ACK only to show new room is sent when the peer is about
 * to stop for want of it, and the room is worth it; otherwise the next ACK shows it. */
bool np_tcp_window_update_due(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint32_t buf = np_tcp_rcv_buf(tcp, c);
  uint32_t held = c->unconsumed + c->rcvq_bytes;
  uint32_t free_bytes = np_min_u32(held < buf ? buf - held : 0, (uint32_t)UINT16_MAX << c->rcv_wscale);
  int32_t edge = np_seq_diff(c->rcv_adv, c->rcv_nxt);
  uint32_t offered = edge > 0 ? (uint32_t)edge : 0;
  uint32_t low = np_max_u32(2 * c->mss, buf / 16);
  uint32_t worth = offered < 2 * c->mss ? np_min_u32(c->mss, buf / 2) : buf / 4;
  return offered < low && free_bytes >= offered + worth;
}
