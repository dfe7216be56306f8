/* Pacing: a connection may be ahead of its rate by one quantum, then it waits until the rate
 * has caught up. pace_ns is when that is. Those that wait hang on a ring of slots of 65 us,
 * which each flush looks at, so that a busy core releases them to within one slot; a core that
 * sleeps is woken by one timer of the wheel (about 1 ms), and what that was late by may be sent
 * at once. Nothing here costs a connection that is not paced. */
#include "tcp/cc.h"

#define SLOT_SHIFT 16u /* 65,536 ns */
#define SLOTS 64u
#define QUANTUM_BYTES_MAX 65536u
#define LATE_NS (2 * NP_WHEEL_TICK_NS) /* lateness of the timer that is made up for */
#define COST_SHIFT 12u

_Static_assert(SLOTS == NP_TCP_PACE_SLOTS && SLOTS == 64, "one bit of pace_mask each");

/* bytes_per_s 0: no rate known, no pacing. */
void np_tcp_pace_set(struct np_tcp_conn *c, uint64_t bytes_per_s) {
  if (bytes_per_s == c->pace_rate) return;
  c->pace_rate = bytes_per_s;
  c->pace_cost = 0;
  if (bytes_per_s == 0) return;
  uint64_t cost = (NP_TCP_NS_PER_S << COST_SHIFT) / bytes_per_s;
  c->pace_cost = (uint32_t)np_max_u64(1, np_min_u64(cost, UINT32_MAX));
  /* As the BBR draft's send quantum: a millisecond's worth, at most 64 KiB, at least two segments. */
  uint64_t quantum = np_min_u64(bytes_per_s / 1000, QUANTUM_BYTES_MAX);
  c->pace_quantum = (uint32_t)np_max_u64(quantum, 2 * c->mss); /* set again when the rate is */
}

/* For algorithms without a rate of their own: a window per round trip, twice that while slow
 * start doubles it, a fifth more after, so that pacing never holds back growth. */
void np_tcp_pace_by_cwnd(struct np_tcp_conn *c) {
  if (c->srtt_us == 0) return;
  uint64_t tenths = c->cwnd < c->ssthresh / 2 ? 20 : 12;
  np_tcp_pace_set(c, (uint64_t)c->cwnd * tenths * 800000 / c->srtt_us);
}

static void list(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->cc_flags & NP_CCF_LISTED) return;
  uint64_t now_slot = tcp->now_ns >> SLOT_SHIFT;
  if (tcp->pace_mask == 0) tcp->pace_slot = now_slot;
  uint64_t at = (c->pace_ns + (1u << SLOT_SHIFT) - 1) >> SLOT_SHIFT;
  /* Further away than the ring: looked at again when its last slot comes by. */
  at = np_min_u64(np_max_u64(at, tcp->pace_slot + 1), tcp->pace_slot + SLOTS - 1);
  uint32_t i = (uint32_t)at % SLOTS;
  c->pace_next = tcp->pace_mask >> i & 1 ? tcp->pace_head[i] : NP_TCP_NIL;
  tcp->pace_head[i] = np_tcp_slot(tcp, c);
  tcp->pace_mask |= UINT64_C(1) << i;
  c->cc_flags |= NP_CCF_LISTED;
  uint64_t due_ns = at << SLOT_SHIFT;
  if (np_timer_is_set(&tcp->pace_timer) && tcp->pace_due_ns <= due_ns) return;
  tcp->pace_due_ns = due_ns;
  np_timer_set(tcp->env.wheel, &tcp->pace_timer, NP_TIMER_TCP_PACE, due_ns);
}

/* Asked before each segment of a paced connection. Return: true when it has to wait; it is
 * then woken by itself. */
bool np_tcp_pace_hold(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (c->pace_cost == 0) return false;
  uint64_t now = tcp->now_ns;
  if (c->cc_flags & NP_CCF_WAITS) {
    if (c->pace_ns > now) {
      list(tcp, c);
      return true;
    }
    c->cc_flags &= (uint8_t)~NP_CCF_WAITS;
    c->pace_ns = np_max_u64(c->pace_ns, now - LATE_NS);
    c->cc_flags |= NP_CCF_LATE;
  } else if (c->pace_ns < now && !(c->cc_flags & NP_CCF_LATE)) {
    c->pace_ns = now; /* what was not used is no credit */
  }
  if (c->pace_ns < now) return false;
  c->cc_flags &= (uint8_t)~NP_CCF_LATE;
  uint32_t ahead = c->pace_quantum > c->mss ? c->pace_quantum - c->mss : 0; /* with room for one more */
  uint64_t ahead_ns = (uint64_t)ahead * c->pace_cost >> COST_SHIFT;
  if (c->pace_ns <= now + ahead_ns) return false;
  c->cc_flags |= NP_CCF_WAITS;
  np_tcp_count(tcp, NP_C_TCP_PACED);
  list(tcp, c);
  return true;
}

void np_tcp_pace_sent(struct np_tcp_conn *c, uint32_t bytes) { c->pace_ns += (uint64_t)bytes * c->pace_cost >> COST_SHIFT; }

static void timer_again(struct np_tcp *tcp) {
  if (tcp->pace_mask == 0) {
    np_timer_cancel(tcp->env.wheel, &tcp->pace_timer);
    return;
  }
  uint32_t from = (uint32_t)(tcp->pace_slot + 1) % SLOTS;
  uint64_t turned = from == 0 ? tcp->pace_mask : tcp->pace_mask >> from | tcp->pace_mask << (SLOTS - from);
  uint64_t due_ns = (tcp->pace_slot + 1 + (uint32_t)__builtin_ctzll(turned)) << SLOT_SHIFT;
  if (np_timer_is_set(&tcp->pace_timer) && due_ns == tcp->pace_due_ns) return;
  tcp->pace_due_ns = due_ns;
  np_timer_set(tcp->env.wheel, &tcp->pace_timer, NP_TIMER_TCP_PACE, due_ns);
}

/* Output of those whose time has come is due. Called while pace_mask is not 0. */
void np_tcp_pace_run(struct np_tcp *tcp) {
  uint64_t now_slot = tcp->now_ns >> SLOT_SHIFT;
  if (now_slot <= tcp->pace_slot) return;
  uint64_t passed = np_min_u64(now_slot - tcp->pace_slot, SLOTS);
  for (uint64_t n = 1; n <= passed; n++) { /* bound: SLOTS */
    uint32_t i = (uint32_t)(tcp->pace_slot + n) % SLOTS;
    if (!(tcp->pace_mask >> i & 1)) continue;
    tcp->pace_mask &= ~(UINT64_C(1) << i);
    for (uint32_t slot = tcp->pace_head[i]; slot != NP_TCP_NIL;) { /* bound: connections */
      struct np_tcp_conn *c = np_tcp_at(tcp, slot);
      slot = c->pace_next;
      c->cc_flags &= (uint8_t)~NP_CCF_LISTED;
      np_tcp_dirty(tcp, c); /* it lists itself again when its time is further away */
    }
  }
  tcp->pace_slot = now_slot;
  timer_again(tcp);
}

/* c ends while it waits. */
void np_tcp_pace_drop(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (!(c->cc_flags & NP_CCF_LISTED)) return;
  c->cc_flags &= (uint8_t)~NP_CCF_LISTED;
  uint32_t me = np_tcp_slot(tcp, c);
  for (uint32_t i = 0; i < SLOTS; i++) {
    if (!(tcp->pace_mask >> i & 1)) continue;
    uint32_t *link = &tcp->pace_head[i];
    while (*link != NP_TCP_NIL && *link != me) link = &np_tcp_at(tcp, *link)->pace_next; /* bound: connections */
    if (*link == NP_TCP_NIL) continue;
    *link = c->pace_next;
    if (tcp->pace_head[i] == NP_TCP_NIL) tcp->pace_mask &= ~(UINT64_C(1) << i);
    break;
  }
  timer_again(tcp);
}

static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_tcp *tcp = ctx;
  (void)timer;
  np_tcp_set_now(tcp, now_ns);
  if (tcp->pace_mask != 0) np_tcp_pace_run(tcp);
}

void np_tcp_pace_init(struct np_tcp *tcp) { np_wheel_handle(tcp->env.wheel, NP_TIMER_TCP_PACE, on_timer, tcp); }
