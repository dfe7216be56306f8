/* One timer per session, armed for the earliest thing that could be due and armed
 * again when it fires too early: traffic moves times by plain stores. */
#include "session/session_int.h"

#define MS UINT64_C(1000000)

static uint64_t next_due(const struct np_sess *s) {
  if (s->state == NP_NPRO_AWAIT_HANDSHAKE || s->state == NP_NPRO_AWAIT_CONTROL || s->state == NP_NPRO_CLOSING) {
    return s->deadline_ns;
  }
  uint64_t due = s->key_ns + s->lim.rekey_ns;
  if (s->lim.heartbeat_ms > 0) {
    uint64_t beat = s->lim.heartbeat_ms * MS;
    due = np_min_u64(due, np_min_u64(s->last_tx_ns + beat, s->last_rx_ns + 3 * beat));
  }
  if (s->part_due_ns != 0) due = np_min_u64(due, s->part_due_ns);
  if (s->state == NP_NPRO_DRAINING) {
    due = np_min_u64(due, np_min_u64(s->deadline_ns, s->owner->now_ns + NP_NPRO_DRAIN_CHECK_NS));
  }
  return due;
}

void np_npro_arm(struct np_sess *s) {
  s->armed_ns = next_due(s);
  np_timer_set(s->owner->env.wheel, &s->timer, NP_TIMER_SESSION, s->armed_ns);
}

void np_npro_frame_began(struct np_sess *s, uint32_t bytes) {
  s->part_due_ns = s->owner->now_ns + NP_NPRO_FRAME_NS + bytes * NP_NPRO_FRAME_BYTE_NS;
  if (NP_UNLIKELY(s->armed_ns > s->part_due_ns)) np_npro_arm(s); /* once in 30 s at most: it moves on when it fires */
}

/* What is half here is held, and a peer that goes on byte by byte is never silent.
 * Return: false when the session ended. */
static bool frame_in_time(struct np_sess *s, uint64_t now_ns) {
  if (s->part_due_ns == 0 || now_ns < s->part_due_ns) return true;
  np_npro_close(s, NP_CODE_TIMEOUT, NP_ERR_TIMEDOUT);
  return false;
}

/* Return: false when the session ended. */
static bool heartbeat(struct np_sess *s, uint64_t now_ns) {
  uint64_t beat = s->lim.heartbeat_ms * MS;
  if (beat == 0) return true;
  /* what we do not read for lack of room of our own says nothing about the peer; answers that
   * wait because it reads none do */
  if ((s->flags & NP_SF_STALLED) != 0 && np_npro_stage_ok(s)) s->last_rx_ns = now_ns;
  if (now_ns - s->last_rx_ns >= 3 * beat) {
    np_npro_abort(s, NP_ERR_DEAD); /* a word would wait for somebody who is not there */
    return false;
  }
  if (now_ns - s->last_tx_ns < beat) return true;
  s->last_tx_ns = now_ns; /* also when it cannot be staged: once per interval */
  if (s->pings_count < 32 && np_npro_stage_ok(s) && np_npro_tx_control(s, NP_NPRO_PING, 0, NULL, 0)) {
    s->pings &= ~(1u << s->pings_count);
    s->pings_count++;
  }
  return true;
}

static bool drain(struct np_sess *s, uint64_t now_ns) {
  if (s->state != NP_NPRO_DRAINING) return true;
  bool idle = s->streams == 0 && s->sendq_items == 0 && s->rx.bytes == 0;
  if (!idle && now_ns < s->deadline_ns) return true;
  np_npro_close(s, NP_CODE_SHUTTING_DOWN, NP_ERR_SHUTDOWN);
  return false;
}

static void fire(struct np_sess *s, uint64_t now_ns) {
  switch (s->state) {
    case NP_NPRO_AWAIT_HANDSHAKE:
    case NP_NPRO_AWAIT_CONTROL:
      if (now_ns < s->deadline_ns) break;
      s->flags |= NP_SF_HS_STARTED; /* one that never began has failed too */
      np_npro_abort(s, NP_ERR_HANDSHAKE);
      return;
    case NP_NPRO_CLOSING:
      if (now_ns < s->deadline_ns) break;
      np_npro_abort(s, (enum np_err)s->close_err);
      return;
    case NP_NPRO_OPEN:
    case NP_NPRO_DRAINING:
      if (!heartbeat(s, now_ns)) return;
      if (!frame_in_time(s, now_ns)) return;
      if (!drain(s, now_ns)) return;
      if (now_ns - s->key_ns >= s->lim.rekey_ns && !np_npro_rekey_tx(s)) s->key_ns = now_ns - s->lim.rekey_ns + 1000 * MS;
      break;
    default: return;
  }
  np_npro_arm(s);
}

void np_npro_timer(struct np_sess *s, uint64_t now_ns) {
  fire(s, now_ns);
  np_npro_send_all(s->owner); /* timers come after the turn's run */
}
