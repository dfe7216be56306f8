/* The core's budget of buffers. One policy, made of two marks in the configuration: how much of the pool may
 * be held before there is pressure, and how much at most. What is held is what counts, in buffers, since a
 * byte in a buffer holds all of it: the pool less what is free in it, posted by ports and lent. It is the truth
 * whatever sessions do; the counts by kind say whose it is.
 *
 * Under pressure connections above their share lose first, and the order in which things are taken away keeps
 * two ends with full queues from waiting for each other: sending stops before receiving does, receiving before
 * what brings no data. Each has the least in any case, so that everybody moves. */
#include "tcp/tcp_int.h"

#define SHED_BUDGET 8u /* connections looked at in one flush */

static uint32_t less(uint32_t a, uint32_t b) { return a > b ? a - b : 0; }

/* Marks on what is held, as marks on what is free in the pool. What ports have posted is free, but not for
 * sending, so that some must be left in the pool itself. */
static void set_floors(struct np_tcp *tcp) {
  struct np_tcp_mem *m = &tcp->mem;
  uint32_t count = tcp->env.pool->count;
  uint32_t reserve = count - m->max;
  m->floor[NP_TCP_MEM_PRESSURE] = np_max_u32(less(count - m->pressure, m->idle), reserve);
  m->floor[NP_TCP_MEM_MAX] = np_max_u32(less(reserve, m->idle), reserve / 2);
  m->floor[NP_TCP_MEM_HARD] = reserve / 4;
}

void np_tcp_mem_init(struct np_tcp *tcp) {
  struct np_tcp_mem *m = &tcp->mem;
  uint64_t count = tcp->env.pool->count;
  np_assert(tcp->config.mem_pressure_pct > 0 && tcp->config.mem_pressure_pct <= tcp->config.mem_max_pct && tcp->config.mem_max_pct < 100);
  m->pressure = (uint32_t)(count * tcp->config.mem_pressure_pct / 100);
  m->max = (uint32_t)(count * tcp->config.mem_max_pct / 100);
  for (uint32_t i = 0; i < NP_TCP_OOO_CLASSES; i++) m->ooo_list[i] = (struct np_tcp_list){NP_TCP_NIL, NP_TCP_NIL};
  set_floors(tcp);
}

void np_tcp_mem_turn(struct np_tcp *tcp, uint32_t idle_bufs) {
  struct np_tcp_mem *m = &tcp->mem;
  uint64_t *counter = tcp->env.counters->counter;
  uint64_t chunk = tcp->env.pool->chunk_bytes;
  if (idle_bufs != m->idle) {
    m->idle = idle_bufs;
    set_floors(tcp);
  }
  counter[NP_C_TCP_MEM_SEND] = m->send * chunk;
  counter[NP_C_TCP_MEM_RECV] = m->handed * chunk;
  counter[NP_C_TCP_MEM_OOO] = m->ooo * chunk;
}

static enum np_tcp_level level(const struct np_tcp *tcp) {
  enum np_tcp_level l = NP_TCP_MEM_EASY;
  while (l + 1 < NP_TCP_MEM_LEVELS && np_tcp_mem_below(tcp, l + 1)) l++;
  return l;
}

static uint32_t active(const struct np_tcp *tcp) { return np_max_u32(tcp->conn_count - tcp->tw_count, 1); }

/* Fewer where connections are so many that four each would be all there is. */
uint32_t np_tcp_mem_least(const struct np_tcp *tcp) {
  return np_min_u32(np_max_u32(tcp->env.pool->count / 8 / active(tcp), 1), NP_TCP_MEM_LEAST);
}

uint32_t np_tcp_mem_share(const struct np_tcp *tcp) {
  return np_max_u32(tcp->mem.pressure / active(tcp), np_tcp_mem_least(tcp));
}

/* ---- sending ---- */

/* Send queues together stay below the pressure mark, but for the least of each: the rest is for what comes in. */
static uint32_t send_quota(const struct np_tcp *tcp) {
  bool spent = np_tcp_mem_below(tcp, NP_TCP_MEM_MAX) || tcp->mem.send >= tcp->mem.pressure;
  return spent ? np_tcp_mem_least(tcp) : np_tcp_mem_share(tcp);
}

bool np_tcp_mem_send_full(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return NP_UNLIKELY(np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE)) && c->snd_segs >= send_quota(tcp);
}

uint32_t np_tcp_mem_send_bytes(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  bool pressed = np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE);
  uint32_t spare = less(tcp->env.pool->free_count, tcp->mem.floor[NP_TCP_MEM_PRESSURE]);
  uint32_t bufs = pressed ? send_quota(tcp) - c->snd_segs : np_max_u32(spare, NP_TCP_MEM_LEAST);
  return (uint32_t)np_min_u64((uint64_t)bufs * tcp->env.pool->chunk_bytes, UINT32_MAX); /* a piece of any size at least */
}

/* ---- receiving ---- */

/* Payload that a buffer of c's holds: one segment, or where segments are larger than buffers a piece of one. */
static uint32_t buffer_bytes(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return np_min_u32(np_max_u32(c->rcv_mss, c->mss), np_tcp_piece_max(tcp));
}

static uint32_t segment_bufs(const struct np_tcp *tcp, uint32_t mss) { return 1 + (np_max_u32(mss, 1) - 1) / np_tcp_piece_max(tcp); }

/* At the maximum: what is left above the floor is for all, one segment each in any case, so that those who keep
 * what they have can't take the last from those who give back what they get. */
static uint32_t part_of_rest(const struct np_tcp *tcp, uint32_t mss) {
  uint32_t rest = less(tcp->env.pool->free_count, tcp->mem.floor[NP_TCP_MEM_HARD]) / active(tcp);
  return np_max_u32(rest, segment_bufs(tcp, mss));
}

/* A window of less than a segment is none: it is one segment's buffers at least. */
static uint32_t receive_quota(const struct np_tcp *tcp, uint32_t mss) {
  uint32_t least = np_max_u32(np_tcp_mem_least(tcp), segment_bufs(tcp, mss));
  if (!np_tcp_mem_below(tcp, NP_TCP_MEM_MAX)) return np_max_u32(np_tcp_mem_share(tcp), least);
  return np_min_u32(part_of_rest(tcp, mss), least);
}

static uint64_t receive_bytes(const struct np_tcp *tcp, const struct np_tcp_conn *c, uint32_t quota) {
  return (uint64_t)less(quota, np_tcp_handed(c) + c->rcvq_segs) * buffer_bytes(tcp, c);
}

uint32_t np_tcp_mem_window(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  if (NP_LIKELY(!np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE))) return UINT32_MAX;
  if (np_tcp_mem_below(tcp, NP_TCP_MEM_HARD)) return 0;
  uint64_t bytes = receive_bytes(tcp, c, receive_quota(tcp, c->mss));
  if (bytes == 0) return 0;
  /* Scaled, it is rounded down, and what is less than a segment is none to a sender that avoids silly windows. */
  return (uint32_t)np_min_u64(bytes + (1u << c->rcv_wscale) - 1, UINT32_MAX);
}

uint32_t np_tcp_mem_syn_window(const struct np_tcp *tcp, uint32_t mss) {
  uint32_t most = np_min_u32(np_tcp_rcv_start(tcp), UINT16_MAX);
  if (NP_LIKELY(!np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE))) return most;
  uint32_t bytes = np_min_u32(np_max_u32(mss, NP_TCP_MSS_V4), np_tcp_piece_max(tcp));
  return (uint32_t)np_min_u64((uint64_t)receive_quota(tcp, mss) * bytes, most);
}

/* What was promised in better times is taken as far as there is room for it. */
uint32_t np_tcp_mem_takes(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  if (NP_LIKELY(!np_tcp_mem_below(tcp, NP_TCP_MEM_MAX))) return UINT32_MAX;
  if (np_tcp_mem_below(tcp, NP_TCP_MEM_HARD)) return 0;
  return (uint32_t)np_min_u64(receive_bytes(tcp, c, part_of_rest(tcp, c->mss)), UINT32_MAX);
}

void np_tcp_mem_hand(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t segs) {
  uint32_t n = np_min_u32(segs, UINT16_MAX - NP_TCP_HANDED_OLD - np_tcp_handed(c));
  c->handed = (uint16_t)(c->handed + n);
  tcp->mem.handed += n;
}

/* Sessions tell bytes, not buffers. What is there when a first part is consumed is consumed when so many bytes
 * are, and its buffers with it; what came meanwhile is the next such lot. So handed is never less than the truth,
 * and at most by one lot more. */
void np_tcp_mem_partly_consumed(struct np_tcp *tcp, struct np_tcp_conn *c) {
  np_seq end = np_seq_sub(c->rcv_nxt, c->rcvq_bytes); /* a FIN counts as a byte */
  np_seq at = np_seq_sub(end, c->unconsumed);
  if (c->handed & NP_TCP_HANDED_OLD) {
    if (np_seq_lt(at, c->old_edge)) return;
    uint32_t gone = np_min_u32(c->old_segs, np_tcp_handed(c) - 1u); /* something is not consumed, in one buffer at least */
    c->handed = (uint16_t)(np_tcp_handed(c) - gone);
    tcp->mem.handed -= gone;
  }
  c->old_edge = end;
  c->old_segs = (uint16_t)np_tcp_handed(c);
  c->handed |= NP_TCP_HANDED_OLD;
}

/* ---- out of order ---- */

uint32_t np_tcp_mem_ooo_max(const struct np_tcp *tcp) {
  if (NP_LIKELY(!np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE))) return UINT32_MAX;
  return np_tcp_mem_below(tcp, NP_TCP_MEM_MAX) ? np_tcp_mem_least(tcp) : np_tcp_mem_share(tcp);
}

static uint32_t class_of(uint32_t segs) { return 31u - (uint32_t)__builtin_clz(segs); }

/* Connections by how much they hold out of order: who holds most is found without looking at all of them. */
void np_tcp_mem_ooo(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t before) {
  uint32_t now = c->ooo_segs;
  if (now == before) return;
  tcp->mem.ooo += now - before;
  if (before != 0 && now != 0 && class_of(before) == class_of(now)) return;
  if (before != 0) {
    uint32_t at = class_of(before);
    np_tcp_list_del(tcp, &tcp->mem.ooo_list[at], c);
    if (tcp->mem.ooo_list[at].head == NP_TCP_NIL) tcp->mem.ooo_classes &= ~(1u << at);
  }
  if (now != 0) {
    np_tcp_list_add(tcp, &tcp->mem.ooo_list[class_of(now)], c);
    tcp->mem.ooo_classes |= 1u << class_of(now);
  }
}

/* Takes out-of-order data from those that have most of it until there is no pressure, or none has more than it may. */
static void shed(struct np_tcp *tcp) {
  struct np_tcp_mem *m = &tcp->mem;
  uint32_t keep = np_tcp_mem_ooo_max(tcp);
  uint32_t budget = SHED_BUDGET;
  for (uint32_t at = NP_TCP_OOO_CLASSES; at-- > 0 && (2u << at) > keep;) {
    uint32_t slot = m->ooo_classes & 1u << at ? m->ooo_list[at].head : NP_TCP_NIL;
    while (slot != NP_TCP_NIL) { /* bound: SHED_BUDGET */
      struct np_tcp_conn *c = np_tcp_at(tcp, slot);
      slot = c->tw_next;
      if (budget-- == 0) return;
      uint32_t n = np_tcp_ooo_shed(tcp, c, keep);
      tcp->env.counters->counter[NP_C_TCP_MEM_SHED] += (uint64_t)n * tcp->env.pool->chunk_bytes;
      if (!np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE)) return;
    }
  }
}

void np_tcp_mem_pressed(struct np_tcp *tcp) {
  struct np_tcp_mem *m = &tcp->mem;
  uint64_t *counter = tcp->env.counters->counter;
  uint8_t was = m->level;
  if (was != NP_TCP_MEM_EASY) counter[NP_C_TCP_MEM_PRESSURE_NS] += tcp->now_ns - m->since_ns;
  m->since_ns = tcp->now_ns;
  if (m->ooo_classes != 0 && np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE)) shed(tcp);
  m->level = (uint8_t)level(tcp);
  if (was == NP_TCP_MEM_EASY && m->level != NP_TCP_MEM_EASY) counter[NP_C_TCP_MEM_PRESSURES]++;
  counter[NP_C_TCP_MEM_LEVEL] = m->level;
}
