/* Flow control: credit that handlers return, and credit that the peer gives.
 * Credit counts bytes of body before compression, so that what a peer may make
 * us hold is bounded whatever it compresses (csrc/codec/README.md). */
#include "session/session_int.h"

static bool send_window(struct np_sess *s, uint32_t stream, uint32_t credit) {
  uint8_t body[4];
  np_store_be32(body, credit);
  return np_npro_stage_ok(s) && np_npro_tx_control(s, NP_NPRO_WINDOW, stream, body, sizeof body);
}

/* Half of the window: fewer frames than a WINDOW per message, and the peer never
 * waits for credit while more than half of its window is unused. */
static bool conn_due(const struct np_sess *s) { return s->rx_freed >= s->lim.conn_window_rx / 2 && s->rx_freed > 0; }

void np_npro_credit_conn(struct np_sess *s, uint32_t bytes) {
  s->rx_freed += bytes;
  if (!conn_due(s) || !np_npro_is_open(s)) return;
  if (send_window(s, 0, s->rx_freed)) {
    s->rx_credit += s->rx_freed;
    s->rx_freed = 0;
  } else {
    s->flags |= NP_SF_WINDOW_DUE;
    np_sess_dirty(s);
  }
}

void np_npro_credit_stream(struct np_sess *s, struct np_nstream *st, uint32_t bytes) {
  st->rx_freed += bytes;
  if ((st->flags & NP_STF_RX_END) != 0) return; /* nobody will use it */
  if (st->rx_freed == 0 || st->rx_freed < s->lim.stream_window_rx / 2) return;
  if (send_window(s, st->id, st->rx_freed)) {
    st->rx_window += st->rx_freed;
    st->rx_freed = 0;
    st->flags &= (uint16_t)~NP_STF_WINDOW_DUE;
  } else {
    st->flags |= NP_STF_WINDOW_DUE;
    s->flags |= NP_SF_WINDOW_DUE;
    np_sess_dirty(s);
  }
}

void np_npro_windows(struct np_sess *s) {
  if ((s->flags & NP_SF_WINDOW_DUE) == 0 || !np_npro_stage_ok(s)) return;
  s->flags &= ~NP_SF_WINDOW_DUE;
  np_npro_credit_conn(s, 0);
  for (uint32_t i = s->streams_head; i != NP_NIL; i = s->owner->stream[i].list_next) { /* bound: max_streams */
    struct np_nstream *st = &s->owner->stream[i];
    if ((st->flags & NP_STF_WINDOW_DUE) != 0) np_npro_credit_stream(s, st, 0);
  }
}

bool np_npro_window_rx(struct np_sess *s, uint32_t stream, uint32_t credit) {
  if (stream == 0) {
    if (credit > NP_NPRO_WINDOW_MAX - s->tx_window) return false;
    s->tx_window += credit;
    return true;
  }
  struct np_nstream *st = np_nstream_find(s, stream);
  if (st == NULL) return true; /* it ended while the credit was on its way */
  if (credit > NP_NPRO_WINDOW_MAX - st->tx_window) return false;
  st->tx_window += credit;
  np_nstream_ready(s, st);
  return true;
}
