/* Buffers as large as the path needs, and no larger.
 *
 * Receiving: the buffer begins at rcv_start_bytes and grows to twice what the
 * session consumed in one round trip, which is what lets a sender in congestion
 * avoidance grow by one more; four times while that still doubles, so that slow
 * start is not held up. It shrinks under pressure only, to what is used: what was offered
 * stays offered. A round trip is over when data comes back that echoes a timestamp of ours which left
 * after it began (RFC 7323 §4); without timestamps when data fills the window that
 * was offered as it began.
 *
 * Sending: the queue holds twice the congestion window, what was SACKed above a hole
 * and a little, so that an ACK always finds something to send, and a slow peer does not
 * make us keep megabytes; under pressure once the window must do. */
#include "tcp/tcp_int.h"

#define SLACK_SEGS 16u
#define FAR_US 4000u
#define FINE_MS 2u /* at most so much, the millisecond clock of timestamps says little */

/* About microseconds; wraps after 73 minutes. */
static uint32_t clock_us(const struct np_tcp *tcp) { return (uint32_t)(tcp->now_ns >> 10); }

/* In order and done with by the session, in all; wraps. */
static uint32_t consumed_total(const struct np_tcp_conn *c) { return (uint32_t)c->bytes_rx - c->unconsumed - c->rcvq_bytes; }

static void begin(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  c->tune_at_us = clock_us(tcp);
  c->tune_bytes = consumed_total(c);
  c->tune_edge = c->rcv_adv;
  /* An ACK that left in this millisecond may have left before: on a near path that would
   * end one round trip after the other, on a far one waiting for the next costs a whole one. */
  c->stream.own[NP_TCP_OWN_TUNE_TS] = (uint16_t)(np_tcp_ts_now(tcp, c) + (c->rcv_rtt_us < FAR_US ? 1u : 0u));
}

/* The least limit of a send queue, less what nearly_full wants free. */
uint32_t np_tcp_snd_calm(const struct np_tcp *tcp) {
  uint32_t least = np_min_u32(NP_TCP_BUF_START, tcp->config.snd_buf_bytes);
  return least - np_min_u32(np_max_u32(least / 4, tcp->env.pool->chunk_bytes), least);
}

void np_tcp_tune_init(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t start = np_tcp_rcv_start(tcp);
  c->stream.own[NP_TCP_OWN_SPACE] = (uint16_t)np_min_u32((start + NP_TCP_SPACE_BYTES - 1) / NP_TCP_SPACE_BYTES, UINT16_MAX);
}

void np_tcp_tune_start(const struct np_tcp *tcp, struct np_tcp_conn *c) { begin(tcp, c); }

/* A round trip of rtt_us is over. */
static void adjust(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t rtt_us) {
  uint32_t elapsed_us = clock_us(tcp) - c->tune_at_us;
  uint64_t bytes = consumed_total(c) - c->tune_bytes;
  if (elapsed_us > rtt_us) bytes = bytes * rtt_us / elapsed_us;
  begin(tcp, c);
  uint64_t most = tcp->config.rcv_buf_bytes;
  uint64_t want = bytes * (bytes > c->tune_last + (uint64_t)c->tune_last / 2 ? 4 : 2) + SLACK_SEGS * c->mss;
  c->tune_last = (uint32_t)np_min_u64(bytes, UINT32_MAX);
  if (!tcp->config.autotune) return;
  if (NP_UNLIKELY(np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE))) {
    want = np_min_u64(np_max_u64(want, tcp->config.rcv_start_bytes), np_tcp_rcv_buf(tcp, c));
  } else if (want <= np_tcp_rcv_buf(tcp, c)) {
    return;
  }
  want = (np_min_u64(want, most) + NP_TCP_SPACE_BYTES - 1) / NP_TCP_SPACE_BYTES;
  c->stream.own[NP_TCP_OWN_SPACE] = (uint16_t)np_min_u64(want, UINT16_MAX);
}

/* Smaller ones count at once, larger ones slowly: data that had to wait for its
 * sender looks like a long way. */
static void rtt_sample(struct np_tcp_conn *c, uint32_t rtt_us) {
  if (c->rcv_rtt_us == 0 || rtt_us < c->rcv_rtt_us) {
    c->rcv_rtt_us = rtt_us;
  } else {
    c->rcv_rtt_us += (rtt_us - c->rcv_rtt_us) / 8;
  }
}

void np_tcp_tune_echo(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t tsecr) {
  uint32_t ms = np_tcp_ts_now(tcp, c) - tsecr;
  if (ms > 60000) { /* no timestamp of ours, or one that says nothing any more */
    begin(tcp, c);
    return;
  }
  bool fine = ms <= FINE_MS && c->min_rtt_us != 0; /* the handshake's, or that of data we sent */
  rtt_sample(c, fine ? np_min_u32(c->min_rtt_us, (ms + 1) * 1000) : np_max_u32(ms, 1) * 1000);
  adjust(tcp, c, c->rcv_rtt_us);
}

void np_tcp_tune_filled(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t elapsed_us = clock_us(tcp) - c->tune_at_us;
  rtt_sample(c, np_max_u32(c->min_rtt_us != 0 ? np_min_u32(c->min_rtt_us, elapsed_us) : elapsed_us, 1));
  adjust(tcp, c, c->rcv_rtt_us);
}

uint32_t np_tcp_snd_limit(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint32_t most = tcp->config.snd_buf_bytes;
  if (!tcp->config.autotune) return most;
  uint64_t windows = NP_UNLIKELY(np_tcp_mem_below(tcp, NP_TCP_MEM_PRESSURE)) ? 1 : 2;
  uint64_t want = windows * c->cwnd + c->sacked_bytes + SLACK_SEGS * c->mss;
  return (uint32_t)np_min_u64(np_max_u64(want, NP_TCP_BUF_START), most);
}

/* Small segments each hold a whole buffer until acknowledged: bound those too. */
static uint32_t segs_limit(uint32_t limit) { return np_max_u32(64, limit / 512); }

/* The queue is nearly full: less than a quarter of it is free, or not enough for a piece of any size. */
static bool nearly_full(const struct np_tcp *tcp, const struct np_tcp_conn *c, uint32_t limit) {
  uint32_t gap = np_min_u32(np_max_u32(limit / 4, tcp->env.pool->chunk_bytes), limit);
  uint32_t queued = (uint32_t)np_seq_diff(c->snd_end, c->snd_una);
  return queued > limit - gap || c->snd_segs > segs_limit(limit) / 4 * 3;
}

/* So little is queued that whatever the limit is, the queue is not nearly full. */
NP_INLINE bool calm(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return (uint32_t)np_seq_diff(c->snd_end, c->snd_una) <= tcp->snd_calm_bytes && c->snd_segs <= 64 / 4 * 3;
}

void np_tcp_queued(const struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (NP_LIKELY(calm(tcp, c))) return;
  if (nearly_full(tcp, c, np_tcp_snd_limit(tcp, c))) c->flags |= NP_TF_ROOM_SAID_NO;
}

uint32_t np_tcp_room(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t limit = np_tcp_snd_limit(tcp, c);
  if (NP_UNLIKELY(!calm(tcp, c)) && nearly_full(tcp, c, limit)) c->flags |= NP_TF_ROOM_SAID_NO;
  /* Short of buffers, one that has little queued may still send: what it sends may be
   * what it received, and nothing else would ever free that. */
  if (np_tcp_mem_send_full(tcp, c)) {
    c->flags |= NP_TF_ROOM_SAID_NO | NP_TF_NO_BUF;
    np_tcp_dirty(tcp, c);
    return 0;
  }
  uint32_t queued = (uint32_t)np_seq_diff(c->snd_end, c->snd_una);
  if (queued >= limit || c->snd_segs >= segs_limit(limit)) return 0;
  uint32_t spare = np_tcp_mem_send_bytes(tcp, c);
  if (NP_LIKELY(spare >= limit - queued)) return limit - queued;
  /* Memory made the answer. It may be less than the session wants, and what the session does with it changes the
   * next one in ways that the queue does not tell: it is called in any case, but not before anything changed. */
  c->flags |= NP_TF_ROOM_SAID_NO | NP_TF_NO_BUF;
  c->ecn |= NP_EB_ROOM_MEM;
  np_tcp_dirty(tcp, c);
  return spare;
}

/* A session that saw little room, or none, hears of it when there is more. */
void np_tcp_wake_writer(struct np_tcp *tcp, struct np_tcp_conn *c) {
  if (!(c->flags & NP_TF_ROOM_SAID_NO) || c->stream.session == NULL || !np_tcp_sends(c->state)) return;
  if (nearly_full(tcp, c, np_tcp_snd_limit(tcp, c))) return;
  if (np_tcp_mem_send_full(tcp, c)) {
    c->flags |= NP_TF_NO_BUF; /* looks again by timer */
    np_tcp_dirty(tcp, c);
    return;
  }
  c->ecn &= (uint8_t)~NP_EB_ROOM_MEM;
  c->flags &= ~NP_TF_ROOM_SAID_NO;
  c->flags |= NP_TF_EV_WRITABLE;
  np_tcp_dirty(tcp, c);
}
