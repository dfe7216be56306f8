/* The receive window: how much a connection may be sent, when the peer hears of
 * it, and how it stays out of silly windows (RFC 9293 §3.8.6). How large the
 * buffer behind it is at the moment is autotune.c's affair. */
#include "tcp/tcp_int.h"

/* Of a window that short buffers allow, what is worth to be said. Less than a segment is left of the old one: that
 * is no room at all, and an allowance of one segment must not wait for its rest. */
static uint32_t worth(const struct np_tcp_conn *c, uint32_t left, uint32_t step) { return left < c->mss ? step : left + step; }

/* What the window field says; moves rcv_adv. RFC 9293 §3.8.6.2.2: the right edge
 * moves by a worthwhile step or not at all, and never back. With scaling the
 * field may round down below rcv_adv, which stays what we accept (RFC 7323 §2.4).
 * Out-of-order data needs no deduction: it lies inside the offered window. While
 * buffers are short the edge stays where it is, but for the least that each may have. */
uint32_t np_tcp_window(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t buf = np_tcp_rcv_buf(tcp, c);
  uint32_t step = np_min_u32(buf / 2, c->mss);
  uint32_t held = c->unconsumed + c->rcvq_bytes;
  uint32_t free_bytes = held < buf ? buf - held : 0;
  int32_t left = np_seq_diff(c->rcv_adv, c->rcv_nxt);
  uint32_t wnd = left > 0 ? (uint32_t)left : 0;
  c->flags &= ~NP_TF_WND_HELD;
  if (free_bytes > wnd && free_bytes - wnd >= step) {
    uint32_t most = np_tcp_mem_window(tcp, c);
    if (NP_LIKELY(most >= worth(c, wnd, step))) {
      wnd = np_max_u32(wnd, np_min_u32(free_bytes, most));
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
  int32_t edge = np_seq_diff(c->rcv_adv, c->rcv_nxt);
  uint32_t offered = edge > 0 ? (uint32_t)edge : 0;
  if (NP_LIKELY(offered >= np_max_u32(2 * c->mss, buf / 16))) return false;
  uint32_t held = c->unconsumed + c->rcvq_bytes;
  uint32_t free_bytes = np_min_u32(held < buf ? buf - held : 0, (uint32_t)UINT16_MAX << c->rcv_wscale);
  uint32_t gain = offered < 2 * c->mss ? np_min_u32(c->mss, buf / 2) : buf / 4;
  return free_bytes >= offered + gain;
}

/* A window that stayed shut for want of buffers may open. */
bool np_tcp_window_released(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  int32_t left = np_seq_diff(c->rcv_adv, c->rcv_nxt);
  uint32_t step = np_min_u32(np_tcp_rcv_buf(tcp, c) / 2, c->mss);
  return np_tcp_mem_window(tcp, c) >= worth(c, left > 0 ? (uint32_t)left : 0, step);
}
