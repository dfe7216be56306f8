/* Control frames: PING to REKEY. Their sizes were checked before they were
 * waited for, their tags before they came here. */
#include "session/session_int.h"

bool np_npro_control_size_ok(uint8_t type, uint32_t body_bytes) {
  switch (type) {
    case NP_NPRO_PING:
    case NP_NPRO_PONG: return body_bytes <= NP_NPRO_PING_BYTES;
    case NP_NPRO_DISCONNECT: return body_bytes >= 4 && body_bytes <= 4 + NP_NPRO_REASON_BYTES;
    case NP_NPRO_GOAWAY:
    case NP_NPRO_WINDOW:
    case NP_NPRO_RESET: return body_bytes == 4;
    case NP_NPRO_REKEY: return body_bytes == 0;
    default: return false;
  }
}

static void ping(struct np_sess *s, const uint8_t *body, uint32_t n) {
  if (!np_npro_tx_control(s, NP_NPRO_PONG, 0, body, n)) {
    np_npro_frame_drop(s, NP_DROP_NPRO_NO_BUFFER);
    return;
  }
  s->owner->env.counters->counter[NP_C_NPRO_PINGS]++;
  np_npro_frame_ok(s);
}

/* PONGs come in the order of our PINGs; Go hears of its own only. */
static void pong(struct np_sess *s, const uint8_t *body, uint32_t n) {
  np_npro_frame_ok(s);
  if (s->pings_count == 0) return;
  bool from_go = (s->pings & 1u) != 0;
  s->pings >>= 1;
  s->pings_count--;
  if (!from_go) return;
  struct np_buf *b = np_pool_get(s->owner->env.pool);
  if (b == NULL) return; /* lost as if by the network: Go's call runs into its limit */
  if (n > 0) memcpy(np_buf_append(b, n), body, n);
  struct np_event ev = {.op = NP_EV_PONG, .body = b, .body_bytes = n};
  np_sess_event(s, &ev);
}

static void reset(struct np_sess *s, uint32_t stream, uint32_t code) {
  struct np_nstream *st = np_nstream_find(s, stream);
  if (st == NULL) {
    bool peer = np_npro_peer_id(s, stream);
    if (stream > (peer ? s->peer_highest : s->local_highest)) {
      np_npro_violation(s, NP_DROP_NPRO_STREAM);
      return;
    }
    np_npro_frame_drop(s, NP_DROP_NPRO_CLOSED); /* it ended while this was on its way */
    return;
  }
  np_npro_frame_ok(s);
  np_nstream_free(s, st);
  struct np_event ev = {.op = NP_EV_RESET, .stream = stream, .arg = code};
  np_sess_event(s, &ev);
}

static void window(struct np_sess *s, uint32_t stream, uint32_t credit) {
  if (credit == 0) {
    np_npro_violation(s, NP_DROP_NPRO_BODY);
  } else if (!np_npro_window_rx(s, stream, credit)) {
    np_npro_violation(s, NP_DROP_NPRO_FLOW);
  } else {
    np_npro_frame_ok(s);
  }
}

static void goaway(struct np_sess *s, uint32_t last) {
  np_npro_frame_ok(s);
  s->flags |= NP_SF_PEER_GOAWAY;
  struct np_event ev = {.op = NP_EV_GOAWAY, .arg = last};
  np_sess_event(s, &ev);
}

static void disconnect(struct np_sess *s, uint32_t code) {
  np_npro_frame_ok(s);
  s->close_code = code;
  np_npro_close(s, NP_CODE_NORMAL, NP_ERR_EOF);
}

static void rekey(struct np_sess *s) {
  np_record_dir_rekey(s->owner->env.crypto, &s->rx_dir);
  s->owner->env.counters->counter[NP_C_NPRO_REKEYS]++;
  np_npro_frame_ok(s);
}

void np_npro_control(struct np_sess *s, const struct np_frame *f) {
  uint8_t body[NP_NPRO_PING_BYTES];
  uint32_t n = f->length - NP_RECORD_TAG;
  uint32_t kept = np_min_u32(n, sizeof body); /* a reason's text is not kept */
  np_bufq_copy(&s->rx, NP_NPRO_HEADER, body, kept);
  np_npro_rx_drop(s, NP_NPRO_HEADER + f->length);
  switch (f->type) {
    case NP_NPRO_PING: ping(s, body, n); break;
    case NP_NPRO_PONG: pong(s, body, n); break;
    case NP_NPRO_DISCONNECT: disconnect(s, np_load_be32(body)); break;
    case NP_NPRO_GOAWAY: goaway(s, np_load_be32(body)); break;
    case NP_NPRO_WINDOW: window(s, f->stream, np_load_be32(body)); break;
    case NP_NPRO_RESET: reset(s, f->stream, np_load_be32(body)); break;
    case NP_NPRO_REKEY: rekey(s); break;
    default: np_npro_violation(s, NP_DROP_NPRO_TYPE); break;
  }
}
