/* TIME-WAIT: no buffers, no session, no timer of its own. All wait equally long,
 * so a list in order of arrival and one timer for its oldest entry do. */
#include "tcp/tcp_int.h"

static void link_last(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t slot = np_tcp_slot(tcp, c);
  c->tw_next = NP_TCP_NIL;
  c->tw_prev = tcp->tw_tail;
  if (tcp->tw_tail == NP_TCP_NIL) {
    tcp->tw_head = slot;
  } else {
    np_tcp_at(tcp, tcp->tw_tail)->tw_next = slot;
  }
  tcp->tw_tail = slot;
  tcp->tw_count++;
  c->misc_due_ns = tcp->now_ns + tcp->config.timewait_ms * NP_TCP_NS_PER_MS;
  if (!np_timer_is_set(&tcp->tw_timer)) np_timer_set(tcp->env.wheel, &tcp->tw_timer, NP_TIMER_TCP, c->misc_due_ns);
  tcp->env.counters->counter[NP_C_TCP_TIMEWAIT] = tcp->tw_count;
}

void np_tcp_time_wait_unlink(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->tw_prev == NP_TCP_NIL) {
    tcp->tw_head = c->tw_next;
  } else {
    np_tcp_at(tcp, c->tw_prev)->tw_next = c->tw_next;
  }
  if (c->tw_next == NP_TCP_NIL) {
    tcp->tw_tail = c->tw_prev;
  } else {
    np_tcp_at(tcp, c->tw_next)->tw_prev = c->tw_prev;
  }
  c->tw_prev = c->tw_next = NP_TCP_NIL;
  tcp->tw_count--;
  tcp->env.counters->counter[NP_C_TCP_TIMEWAIT] = tcp->tw_count;
  if (tcp->tw_count == 0) np_timer_cancel(tcp->env.wheel, &tcp->tw_timer);
}

void np_tcp_time_wait(struct np_tcp *tcp, struct np_tcp_conn *c) {
  np_tcp_set_state(tcp, c, NP_TCP_TIME_WAIT);
  np_tcp_timers_cancel(tcp, c);
  np_tcp_sendq_free(c);
  np_tcp_ooo_free(c);
  np_tcp_listener_left(tcp, c);
  link_last(tcp, c);
  if (c->stream.session != NULL) {
    c->err = NP_ERR_EOF;
    c->flags |= NP_TF_EV_CLOSED;
  }
  np_tcp_dirty(tcp, c);
}

/* RFC 9293 §3.10.7.4: a FIN sent again restarts the wait. */
void np_tcp_time_wait_touch(struct np_tcp *tcp, struct np_tcp_conn *c) {
  np_tcp_time_wait_unlink(tcp, c);
  link_last(tcp, c);
}

/* Frees the oldest that has nothing left to do, when the table is full: a new
 * connection is worth more than the end of an old one's wait. */
bool np_tcp_time_wait_evict(struct np_tcp *tcp) {
  uint32_t slot = tcp->tw_head;
  for (uint32_t n = 0; n < NP_TCP_REAP_BUDGET && slot != NP_TCP_NIL; n++) {
    struct np_tcp_conn *c = np_tcp_at(tcp, slot);
    if (!(c->flags & NP_TF_DIRTY)) {
      np_tcp_time_wait_unlink(tcp, c);
      np_tcp_table_del(tcp, c);
      np_tcp_set_state(tcp, c, NP_TCP_CLOSED);
      np_tcp_conn_free(tcp, c);
      return true;
    }
    slot = c->tw_next;
  }
  return false;
}
