/* Selective acknowledgment, both ways: RFC 2018, RFC 2883, RFC 6675. */
#include "tcp/tcp_int.h"

/* Sending side. */

static void mark_sacked(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE)) np_tcp_rate_delivered(np_tcp_owner(c), c, s);
  if (s->flags & NP_TXS_LOST) {
    c->lost_bytes -= s->len;
    if (!(s->flags & NP_TXS_RTX)) c->lost_due--;
  }
  if (s->flags & NP_TXS_RTX) c->rtx_bytes -= s->len;
  s->flags &= ~(NP_TXS_LOST | NP_TXS_RTX);
  s->flags |= NP_TXS_SACKED;
  c->sacked_segs++;
  c->sacked_bytes += s->len;
  if (c->lost_next != NULL && np_seq_lt(s->seq, np_txseg(c->lost_next)->seq)) c->sacked_below++;
  if (c->sack_hint == NULL || np_seq_gt(s->seq, np_txseg(c->sack_hint)->seq)) c->sack_hint = b;
}

/* b leaves the head of the queue. */
void np_tcp_sack_forget(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (s->flags & NP_TXS_LOST) {
    c->lost_bytes -= s->len;
    if (!(s->flags & NP_TXS_RTX)) c->lost_due--;
  }
  if (s->flags & NP_TXS_RTX) c->rtx_bytes -= s->len;
  if (s->flags & NP_TXS_SACKED) {
    c->sacked_segs--;
    c->sacked_bytes -= s->len;
    if (c->lost_next != NULL && c->lost_next != b) c->sacked_below--;
  }
  if (c->lost_next == b) {
    c->lost_next = NULL; /* the new head; nothing lies before it */
    c->sacked_below = 0;
  }
  if (c->rtx_next == b) c->rtx_next = NULL;
  if (c->sack_hint == b) c->sack_hint = NULL;
}

/* The receiver went back on its word: believe nothing of it. */
void np_tcp_sack_clear(struct np_tcp_conn *c) {
  for (struct np_buf *b = c->sndq_head; b != NULL && b != c->sndq_next; b = np_txnext(b)) { /* bound: snd_segs */
    np_txseg(b)->flags &= ~NP_TXS_SACKED;
  }
  c->sacked_segs = c->sacked_bytes = c->sacked_below = 0;
  c->sack_hint = c->lost_next = NULL;
  memset(c->seen, 0, sizeof c->seen);
}

static bool was_seen(const struct np_tcp_conn *c, const struct np_tcp_block *k) {
  for (uint32_t i = 0; i < NP_COUNT_OF(c->seen); i++) {
    if (np_seq_eq(c->seen[i].start, k->start) && np_seq_eq(c->seen[i].end, k->end)) return true;
  }
  return false;
}

/* Walks from the highest SACKed segment when the block begins there, which is
 * what new information does while loss is light; from the head otherwise. */
static void sack_block(struct np_tcp_conn *c, const struct np_tcp_block *k, uint32_t *budget) {
  struct np_buf *b = c->sndq_head;
  if (c->sack_hint != NULL && np_seq_ge(k->start, np_txseg(c->sack_hint)->seq)) b = c->sack_hint;
  for (; b != NULL && b != c->sndq_next && np_seq_lt(np_txseg(b)->seq, k->end); b = np_txnext(b)) {
    if (*budget == 0) return;
    (*budget)--;
    if (np_txseg(b)->flags & NP_TXS_SACKED) continue;
    if (np_seq_ge(np_txseg(b)->seq, k->start) && np_seq_le(np_txend(b), k->end)) mark_sacked(c, b);
  }
}

/* Return: segments newly SACKed. A block is advice: when the walk is used up,
 * the rest is not looked at. */
uint32_t np_tcp_sack_in(struct np_tcp_conn *c, const struct np_tcp_opts *opts, np_seq ack) {
  uint32_t before = c->sacked_segs;
  uint32_t budget = NP_TCP_SACK_WALK;
  for (uint32_t i = 0; i < opts->sack_count; i++) {
    const struct np_tcp_block *k = &opts->sack[i];
    if (!np_seq_lt(k->start, k->end) || np_seq_gt(k->end, c->snd_nxt)) continue;
    if (np_seq_lt(k->start, ack)) continue; /* a duplicate reported (RFC 2883), or old */
    if (was_seen(c, k)) continue;
    sack_block(c, k, &budget);
  }
  uint32_t n = np_min_u32(opts->sack_count, NP_COUNT_OF(c->seen));
  if (budget != 0) memcpy(c->seen, opts->sack, n * sizeof c->seen[0]);
  return c->sacked_segs - before;
}

/* RFC 6675 §4, IsLost: lost when DupThresh segments above it were SACKed. Counted in
 * segments, which for full-sized ones is the RFC's byte rule; goes on from where the
 * last call ended, because what was lost stays lost. */
void np_tcp_sack_update_lost(struct np_tcp_conn *c) {
  struct np_buf *b = c->lost_next != NULL ? c->lost_next : c->sndq_head;
  uint32_t above = c->sacked_segs - c->sacked_below;
  while (b != NULL && b != c->sndq_next && above >= NP_TCP_DUP_THRESH) { /* bound: each segment once */
    if (np_txseg(b)->flags & NP_TXS_SACKED) {
      above--;
      c->sacked_below++;
    } else if (!(np_txseg(b)->flags & NP_TXS_EVER)) {
      np_tcp_mark_lost(c, b);
    }
    b = np_txnext(b);
  }
  if (b != NULL) c->lost_next = b;
}

/* Receiving side: what we report. */

/* Puts [start, end), grown to its whole run, first (RFC 2018 §4). */
void np_tcp_sack_report(struct np_tcp_conn *c, np_seq start, np_seq end) {
  struct np_tcp_block keep[4];
  uint32_t n = 0;
  keep[n++] = (struct np_tcp_block){start, end};
  for (uint32_t i = 0; i < c->sack_count && n < NP_COUNT_OF(keep); i++) {
    bool apart = np_seq_lt(c->sack[i].end, start) || np_seq_gt(c->sack[i].start, end);
    if (apart) keep[n++] = c->sack[i];
  }
  memcpy(c->sack, keep, n * sizeof keep[0]);
  c->sack_count = (uint8_t)n;
}

/* rcv_nxt moved: what it passed is no news. */
void np_tcp_sack_trim(struct np_tcp_conn *c) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < c->sack_count; i++) {
    if (np_seq_gt(c->sack[i].end, c->rcv_nxt)) c->sack[n++] = c->sack[i];
  }
  c->sack_count = (uint8_t)n;
}
