/* Connections that only wait for their peer: the session has gone or has nothing more to say or to hear,
 * and a FIN of ours is not acknowledged, or the peer's does not come. Each ends by a timer of its own
 * (user timeout, FIN-WAIT-2); until then it costs a slot, and peers that never close cost all of them. So
 * they are kept in a list, and the oldest gives way when a new connection finds the table full. */
#include "tcp/tcp_int.h"

#define LEAST_MS 2000u /* an honest peer has closed by then */
#define AT_ONCE 16u    /* looked at for a new connection */

static bool waits(const struct np_tcp_conn *c) {
  if (c->state == NP_TCP_LAST_ACK || c->state == NP_TCP_CLOSING) return true;
  return (c->flags & NP_TF_DETACHED) && (c->state == NP_TCP_FIN_WAIT_1 || c->state == NP_TCP_FIN_WAIT_2);
}

void np_tcp_list_add(struct np_tcp *tcp, struct np_tcp_list *list, struct np_tcp_conn *c) {
  uint32_t slot = np_tcp_slot(tcp, c);
  c->tw_next = NP_TCP_NIL;
  c->tw_prev = list->tail;
  if (list->tail == NP_TCP_NIL) {
    list->head = slot;
  } else {
    np_tcp_at(tcp, list->tail)->tw_next = slot;
  }
  list->tail = slot;
}

void np_tcp_list_del(struct np_tcp *tcp, struct np_tcp_list *list, struct np_tcp_conn *c) {
  if (c->tw_prev == NP_TCP_NIL) {
    list->head = c->tw_next;
  } else {
    np_tcp_at(tcp, c->tw_prev)->tw_next = c->tw_next;
  }
  if (c->tw_next == NP_TCP_NIL) {
    list->tail = c->tw_prev;
  } else {
    np_tcp_at(tcp, c->tw_next)->tw_prev = c->tw_prev;
  }
  c->tw_prev = c->tw_next = NP_TCP_NIL;
}

void np_tcp_leaving(struct np_tcp *tcp, struct np_tcp_conn *c) {
  bool now = waits(c);
  if (now == c->leaving) return;
  c->leaving = now;
  if (now) {
    c->leaving_ms = tcp->now_ms;
    np_tcp_list_add(tcp, &tcp->leaving, c);
  } else {
    np_tcp_list_del(tcp, &tcp->leaving, c);
  }
}

/* What has a session is told of the end by the next flush, and its slot is free after that. */
bool np_tcp_leaving_evict(struct np_tcp *tcp) {
  uint32_t slot = tcp->leaving.head;
  for (uint32_t n = 0; n < AT_ONCE && slot != NP_TCP_NIL; n++) { /* bound: AT_ONCE */
    struct np_tcp_conn *c = np_tcp_at(tcp, slot);
    slot = c->tw_next;
    if (tcp->now_ms - c->leaving_ms < LEAST_MS) return false; /* and so are those behind it */
    np_tcp_count(tcp, NP_C_TCP_LEAVING_ENDED);
    np_tcp_send_rst(tcp, c);
    if (c->stream.session != NULL || (c->flags & NP_TF_DIRTY)) {
      np_tcp_close(tcp, c, NP_ERR_TIMEDOUT);
      continue;
    }
    np_tcp_let_go(tcp, c);
    np_tcp_rcvq_free(c);
    np_tcp_conn_free(tcp, c);
    return true;
  }
  return false;
}
