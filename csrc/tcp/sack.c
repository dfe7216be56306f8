/* Selective acknowledgment, both ways: RFC 2018, RFC 2883. */
#include "tcp/tcp_int.h"

/* Sending side. The segments are the scoreboard: what is SACKed, lost or sent again is a flag of
 * theirs, so its memory is bounded by the send queue. Two lists run through them, in memory that
 * only they need: what has to be sent again, and retransmissions in flight. */

#define DUE_WALK 64u /* places an entry out of turn looks for: beyond that the order is a matter of taste */

#define RTX_WALK 64u /* retransmissions in flight that a block is compared with */

/* A buffer's number in its pool, 1 the first: half the room of a pointer. */
#define REF_SHIFT 11 /* chunks are 2,048 bytes at least */

static uint32_t ref_of(const struct np_buf *b) {
  return (uint32_t)((size_t)((const uint8_t *)b - b->pool->mem) >> REF_SHIFT) + 1;
}

struct np_buf *np_tcp_seg_at(const struct np_tcp_conn *c, uint32_t ref) {
  if (ref == 0) return NULL;
  return (struct np_buf *)(void *)(c->sndq_head->pool->mem + ((size_t)(ref - 1) << REF_SHIFT));
}

/* Puts b into list behind after, 0: in front. */
static void list_add(struct np_tcp_conn *c, struct np_tcp_seglist *list, struct np_buf *b, uint32_t after) {
  struct np_tcp_txseg *s = np_txseg(b);
  uint32_t ref = ref_of(b);
  struct np_buf *prev = np_tcp_seg_at(c, after);
  s->link_prev = after;
  s->link_next = prev == NULL ? list->head : np_txseg(prev)->link_next;
  if (prev == NULL) {
    list->head = ref;
  } else {
    np_txseg(prev)->link_next = ref;
  }
  struct np_buf *next = np_tcp_seg_at(c, s->link_next);
  if (next == NULL) {
    list->tail = ref;
  } else {
    np_txseg(next)->link_prev = ref;
  }
}

static void list_del(struct np_tcp_conn *c, struct np_tcp_seglist *list, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  struct np_buf *prev = np_tcp_seg_at(c, s->link_prev);
  struct np_buf *next = np_tcp_seg_at(c, s->link_next);
  if (prev == NULL) {
    list->head = s->link_next;
  } else {
    np_txseg(prev)->link_next = s->link_next;
  }
  if (next == NULL) {
    list->tail = s->link_prev;
  } else {
    np_txseg(next)->link_prev = s->link_prev;
  }
  s->link_prev = s->link_next = 0;
}

/* RFC 6675 §4, NextSeg rule 1, wants the lowest first. What is judged lost for the first time comes
 * in order and goes to the end; a lost retransmission is lower, and goes before what was not sent again yet. */
void np_tcp_due_add(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_seglist *list = &c->rack.due;
  np_seq seq = np_txseg(b)->seq;
  struct np_buf *tail = np_tcp_seg_at(c, list->tail);
  if (tail == NULL || np_seq_lt(np_txseg(tail)->seq, seq)) {
    list_add(c, list, b, list->tail);
    return;
  }
  struct np_buf *hint = np_tcp_seg_at(c, c->rack.due_hint);
  uint32_t after = hint != NULL && np_seq_lt(np_txseg(hint)->seq, seq) ? c->rack.due_hint : 0;
  for (uint32_t n = 0; n < DUE_WALK; n++) {
    uint32_t next = after == 0 ? list->head : np_txseg(np_tcp_seg_at(c, after))->link_next;
    if (next == 0 || np_seq_gt(np_txseg(np_tcp_seg_at(c, next))->seq, seq)) break;
    after = next;
  }
  list_add(c, list, b, after);
  c->rack.due_hint = ref_of(b);
}

void np_tcp_rtx_add(struct np_tcp_conn *c, struct np_buf *b) { list_add(c, &c->rack.rtx, b, c->rack.rtx.tail); }

void np_tcp_seg_unlink(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (s->flags & NP_TXS_RTX) {
    list_del(c, &c->rack.rtx, b);
    c->rtx_bytes -= s->len;
  } else if (s->flags & NP_TXS_LOST) {
    if (c->rack.due_hint == ref_of(b)) c->rack.due_hint = 0;
    list_del(c, &c->rack.due, b);
    c->lost_due--;
  }
  if (s->flags & NP_TXS_LOST) c->lost_bytes -= s->len;
  s->flags &= ~(NP_TXS_LOST | NP_TXS_RTX);
}

void np_tcp_seg_cut(struct np_tcp_conn *c, struct np_buf *b, struct np_buf *nb) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (s->flags & NP_TXS_SACKED) { /* the run goes on where it went on */
    c->sacked_segs++;
    s->link_next = 0;
    if (c->sack_hint == b) c->sack_hint = nb;
  } else if (s->flags & NP_TXS_RTX) {
    list_add(c, &c->rack.rtx, nb, ref_of(b));
  } else if (s->flags & NP_TXS_LOST) {
    list_add(c, &c->rack.due, nb, ref_of(b));
    c->lost_due++;
  }
}

static void mark_sacked(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  np_tcp_rack_delivered(tcp, c, s, true);
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE)) np_tcp_rate_delivered(tcp, c, s);
  np_tcp_seg_unlink(c, b);
  s->flags |= NP_TXS_SACKED;
  c->sacked_segs++;
  c->sacked_bytes += s->len;
  tcp->told.sacked_segs++;
  if (c->sack_hint != NULL && np_seq_lt(s->seq, np_txseg(c->sack_hint)->seq)) return;
  if (c->rack.run_first != 0 && c->sack_hint != NULL && np_txnext(c->sack_hint) == b) {
    np_txseg(np_tcp_seg_at(c, c->rack.run_first))->link_next = ref_of(b);
  } else {
    c->rack.run_first = ref_of(b);
  }
  c->sack_hint = b;
}

/* b leaves the head of the queue. */
void np_tcp_sack_forget(struct np_tcp_conn *c, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  np_tcp_seg_unlink(c, b);
  if (s->flags & NP_TXS_SACKED) {
    c->sacked_segs--;
    c->sacked_bytes -= s->len;
  }
  if (c->rack_next == b) c->rack_next = NULL; /* the new head; nothing lies before it */
  if (c->sack_hint == b) c->sack_hint = NULL;
  if (c->rack.run_first == ref_of(b)) c->rack.run_first = 0;
}

/* The receiver went back on its word: believe nothing of it. */
void np_tcp_sack_clear(struct np_tcp_conn *c) {
  for (struct np_buf *b = c->sndq_head; b != NULL && b != c->sndq_next; b = np_txnext(b)) { /* bound: snd_segs */
    struct np_tcp_txseg *s = np_txseg(b);
    if (!(s->flags & NP_TXS_SACKED)) continue;
    s->flags &= ~NP_TXS_SACKED;
    s->link_next = 0;
  }
  c->sacked_segs = c->sacked_bytes = 0;
  c->sack_hint = c->rack_next = NULL;
  c->rack.run_first = 0;
  c->rack.fack = c->snd_una;
  memset(c->seen, 0, sizeof c->seen);
}

static bool was_seen(const struct np_tcp_conn *c, const struct np_tcp_block *k) {
  for (uint32_t i = 0; i < NP_COUNT_OF(c->seen); i++) {
    if (np_seq_eq(c->seen[i].start, k->start) && np_seq_eq(c->seen[i].end, k->end)) return true;
  }
  return false;
}

/* Each call leaves b knowing how far it got, so the next one jumps there. */
struct np_buf *np_tcp_sack_run_end(struct np_tcp_conn *c, struct np_buf *b, uint32_t *budget) {
  struct np_buf *e = b;
  while (*budget > 0) { /* bound: budget */
    uint32_t ref = np_txseg(e)->link_next;
    struct np_buf *n = ref != 0 ? np_tcp_seg_at(c, ref) : np_txnext(e);
    if (n == NULL || !(np_txseg(n)->flags & NP_TXS_SACKED)) break;
    (*budget)--;
    e = n;
  }
  if (e != b) np_txseg(b)->link_next = ref_of(e);
  return e;
}

/* Whole in the block. A part of a segment is not counted: the rest would have to be sent anyway. */
static bool inside(struct np_buf *b, const struct np_tcp_block *k) {
  return np_seq_ge(np_txseg(b)->seq, k->start) && np_seq_le(np_txend(b), k->end);
}

/* True when all of the block below the highest SACKed segment was taken in before: what it
 * tells is above, as with a block that grows, however many holes lie below. */
static bool grew(const struct np_tcp_conn *c, const struct np_tcp_block *k) {
  np_seq hint = np_txseg(c->sack_hint)->seq;
  struct np_buf *first = np_tcp_seg_at(c, c->rack.run_first);
  if (np_seq_ge(k->start, first != NULL ? np_txseg(first)->seq : hint)) return true;
  for (uint32_t i = 0; i < NP_COUNT_OF(c->seen); i++) {
    if (np_seq_eq(c->seen[i].start, k->start) && np_seq_gt(c->seen[i].end, hint)) return true;
  }
  return false;
}

/* Return: whether all of the block was looked at. Below the highest SACKed: retransmissions that arrived, the oldest first, which is where they are
 * found soonest; then from the head, where runs of SACKed segments are one step, so that what is
 * left to walk over is what is missing. */
static bool sack_block(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_block *k, uint32_t *budget) {
  struct np_buf *b = c->sndq_head;
  if (c->sack_hint != NULL) {
    if (grew(c, k)) {
      b = c->sack_hint;
    } else {
      struct np_buf *r = np_tcp_seg_at(c, c->rack.rtx.head);
      for (uint32_t n = 0; r != NULL && n < RTX_WALK; n++) {
        struct np_buf *next = np_tcp_seg_at(c, np_txseg(r)->link_next);
        if (inside(r, k)) mark_sacked(tcp, c, r);
        r = next;
      }
    }
  }
  for (; b != NULL && b != c->sndq_next && np_seq_lt(np_txseg(b)->seq, k->end); b = np_txnext(b)) { /* bound: budget */
    if (*budget == 0) return false;
    (*budget)--;
    if (np_txseg(b)->flags & NP_TXS_SACKED) {
      b = np_tcp_sack_run_end(c, b, budget);
    } else if (inside(b, k)) {
      mark_sacked(tcp, c, b);
    }
  }
  return true;
}

/* RFC 2883 §4: the first block, when it lies below the acknowledgment or within the second. One
 * that is older than a window may be left from long ago and says nothing. */
static bool is_dsack(const struct np_tcp_conn *c, const struct np_tcp_opts *opts, np_seq ack) {
  const struct np_tcp_block *k = &opts->sack[0];
  if (!np_seq_lt(k->start, k->end) || np_seq_lt(k->start, np_seq_sub(ack, c->max_wnd))) return false;
  if (np_seq_le(k->end, ack)) return true;
  return opts->sack_count > 1 && np_seq_ge(k->start, opts->sack[1].start) && np_seq_le(k->end, opts->sack[1].end);
}

static void dsack_in(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_block *k) {
  uint32_t segs = ((uint32_t)np_seq_diff(k->end, k->start) + c->mss - 1) / c->mss;
  np_seq fin_end = c->flags & NP_TF_FIN_SENT ? np_seq_add(k->end, 1) : k->end; /* a FIN may not be counted */
  np_tcp_count(tcp, NP_C_TCP_DSACK);
  c->rack.dsacks++;
  bool probe = (c->rack.flags & NP_RK_TLP_RTX) && (np_seq_eq(k->end, c->rack.tlp_end) || np_seq_eq(fin_end, c->rack.tlp_end));
  if (probe) {
    tcp->told.dsack_tlp = true;
  } else {
    tcp->told.dsack = true;
    np_tcp_undo_dsack(c, k->end, segs);
  }
}

/* A block is advice: when the walk is used up, the rest is not looked at, and counts as not seen. */
void np_tcp_sack_in(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_opts *opts, np_seq ack) {
  uint32_t budget = NP_TCP_SACK_WALK;
  struct np_tcp_block seen[NP_COUNT_OF(c->seen)] = {0};
  uint32_t n = 0;
  bool dsack = is_dsack(c, opts, ack);
  if (dsack) dsack_in(tcp, c, &opts->sack[0]);
  for (uint32_t i = dsack ? 1 : 0; i < opts->sack_count; i++) {
    const struct np_tcp_block *k = &opts->sack[i];
    if (!np_seq_lt(k->start, k->end) || np_seq_gt(k->end, c->snd_nxt)) continue;
    if (np_seq_lt(k->start, ack)) continue; /* old, or a lie: what it holds would be acknowledged */
    if ((was_seen(c, k) || sack_block(tcp, c, k, &budget)) && n < NP_COUNT_OF(seen)) seen[n++] = *k;
  }
  memcpy(c->seen, seen, sizeof seen);
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

void np_tcp_sack_cut(struct np_tcp_conn *c, np_seq edge) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < c->sack_count; i++) {
    struct np_tcp_block k = c->sack[i];
    if (!np_seq_lt(k.start, edge)) continue;
    if (np_seq_gt(k.end, edge)) k.end = edge;
    c->sack[n++] = k;
  }
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
