/* Out-of-order data: runs of touching pieces in order of sequence. A new piece
 * looks at runs, not pieces. What is there stays; only what is missing is taken
 * from a new piece, except where it covers whole runs. */
#include "tcp/tcp_int.h"

static void forget_run(struct np_tcp_conn *c, struct np_buf *first) {
  struct np_tcp_rxseg *r = np_rxseg(first);
  c->ooo_bytes -= (uint32_t)np_seq_diff(r->run_end, r->seq);
  c->ooo_segs = (uint16_t)(c->ooo_segs - r->run_segs);
  c->ooo_runs--;
  if (c->ooo_last == first) c->ooo_last = NULL;
}

void np_tcp_ooo_free(struct np_tcp_conn *c) {
  uint32_t before = c->ooo_segs;
  struct np_buf *run = c->ooo_head;
  while (run != NULL) { /* bound: ooo_segs_max */
    struct np_buf *next = np_rxseg(run)->run_next;
    np_buf_put_chain(run);
    run = next;
  }
  c->ooo_head = NULL;
  c->ooo_last = NULL;
  c->ooo_bytes = 0;
  c->ooo_segs = c->ooo_runs = 0;
  c->sack_count = 0;
  if (before != 0) np_tcp_mem_ooo(np_tcp_owner(c), c, before);
}

/* Cuts run, which has more, down to its first n buffers: n > 0. */
static void cut_run(struct np_tcp_conn *c, struct np_buf *run, uint32_t n) {
  struct np_tcp_rxseg *r = np_rxseg(run);
  struct np_buf *last = run;
  np_seq end = np_seq_add(r->seq, run->len);
  for (uint32_t i = 1; i < n; i++) { /* bound: n */
    last = last->next;
    end = np_seq_add(end, last->len);
  }
  np_buf_put_chain(last->next);
  last->next = NULL;
  c->ooo_bytes -= (uint32_t)np_seq_diff(r->run_end, end);
  c->ooo_segs = (uint16_t)(c->ooo_segs - (r->run_segs - n));
  r->run_end = end;
  r->run_tail = last;
  r->run_segs = n;
}

/* What is nearest to rcv_nxt stays: it is of use soonest. A peer that relies on what we reported sees
 * its acknowledgments stop at something SACKed, and sends it again after a timeout. */
uint32_t np_tcp_ooo_shed(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t keep) {
  uint32_t before = c->ooo_segs;
  if (before <= keep || keep == 0) return 0;
  struct np_buf *run = c->ooo_head;
  uint32_t left = keep;
  while (np_rxseg(run)->run_segs < left) { /* bound: keep */
    left -= np_rxseg(run)->run_segs;
    run = np_rxseg(run)->run_next;
  }
  if (np_rxseg(run)->run_segs > left) cut_run(c, run, left);
  struct np_buf *gone = np_rxseg(run)->run_next;
  np_rxseg(run)->run_next = NULL;
  while (gone != NULL) { /* bound: ooo_runs_max */
    struct np_buf *next = np_rxseg(gone)->run_next;
    forget_run(c, gone);
    np_buf_put_chain(gone);
    gone = next;
  }
  c->ooo_last = run;
  np_tcp_sack_cut(c, np_rxseg(run)->run_end);
  np_tcp_mem_ooo(tcp, c, before);
  return before - c->ooo_segs;
}

static uint32_t pieces(const struct np_buf *b) {
  uint32_t n = 0;
  for (; b != NULL; b = b->next) n++; /* bound: the pieces of a segment */
  return n;
}

/* A small piece goes into the last buffer of the run it continues: segments of a
 * few bytes must not each hold a buffer. */
static bool copied_into(struct np_buf *tail, const struct np_buf *b) {
  if (tail->refs != 1 || b->next != NULL || b->len > np_buf_tailroom(tail)) return false;
  memcpy(np_buf_append(tail, b->len), np_buf_cdata(b), b->len);
  return true;
}

static void join_runs(struct np_tcp_conn *c, struct np_buf *first, struct np_buf *second) {
  struct np_tcp_rxseg *a = np_rxseg(first);
  struct np_tcp_rxseg *z = np_rxseg(second);
  a->run_tail->next = second;
  a->run_tail = z->run_tail;
  a->run_end = z->run_end;
  a->run_segs += z->run_segs;
  a->run_next = z->run_next;
  c->ooo_runs--;
  if (c->ooo_last == second) c->ooo_last = first;
}

/* Adds chain b, [seq, end), behind run prev when it continues it, else as a run of its own.
 * Return: the run it is in now, and in *kept whether b itself is. */
static struct np_buf *place(struct np_tcp_conn *c, struct np_buf *prev, struct np_buf *b, np_seq seq, np_seq end, bool *kept) {
  struct np_tcp_rxseg *s = np_rxseg(b);
  uint32_t n = pieces(b);
  c->ooo_bytes += (uint32_t)np_seq_diff(end, seq);
  if (prev != NULL && np_seq_eq(np_rxseg(prev)->run_end, seq)) {
    struct np_tcp_rxseg *r = np_rxseg(prev);
    r->run_end = end;
    *kept = !copied_into(r->run_tail, b);
    if (*kept) {
      r->run_tail->next = b;
      r->run_tail = np_tcp_last_piece(b);
      r->run_segs += n;
      c->ooo_segs = (uint16_t)(c->ooo_segs + n);
    }
    return prev;
  }
  *kept = true;
  s->seq = seq;
  s->run_end = end;
  s->run_tail = np_tcp_last_piece(b);
  s->run_segs = n;
  c->ooo_segs = (uint16_t)(c->ooo_segs + n);
  s->run_next = prev != NULL ? np_rxseg(prev)->run_next : c->ooo_head;
  if (s->run_next == NULL) c->ooo_last = b;
  c->ooo_runs++;
  if (prev != NULL) {
    np_rxseg(prev)->run_next = b;
  } else {
    c->ooo_head = b;
  }
  return b;
}

/* A window's worth of full segments, when the window is large; under pressure the pool is for what is in order. */
static uint32_t segs_max(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint32_t n = np_min_u32(np_max_u32(tcp->config.ooo_segs_max, np_tcp_rcv_buf(tcp, c) / 1024), UINT16_MAX / 2);
  return np_min_u32(n, np_tcp_mem_ooo_max(tcp));
}

enum np_drop np_tcp_ooo_add(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  np_seq seq = seg->seq;
  np_seq end = np_seq_add(seq, seg->len);
  struct np_buf *prev = NULL;
  struct np_buf *next = c->ooo_head;
  if (c->ooo_last != NULL && np_seq_le(np_rxseg(c->ooo_last)->seq, seq)) { /* what comes behind all of it, the common case */
    prev = c->ooo_last;
    next = NULL;
  }
  while (next != NULL && np_seq_le(np_rxseg(next)->seq, seq)) { /* bound: ooo_runs_max */
    prev = next;
    next = np_rxseg(next)->run_next;
  }
  if (prev != NULL && np_seq_ge(np_rxseg(prev)->run_end, end)) {
    c->dsack = (struct np_tcp_block){seq, end};
    np_tcp_sack_report(c, np_rxseg(prev)->seq, np_rxseg(prev)->run_end);
    return NP_DROP_TCP_DUP;
  }
  if (c->ooo_segs + pieces(seg->buf) > segs_max(tcp, c)) return NP_DROP_TCP_OOO_LIMIT;
  bool extends = prev != NULL && np_seq_ge(np_rxseg(prev)->run_end, seq);
  if (!extends && c->ooo_runs >= tcp->config.ooo_runs_max) return NP_DROP_TCP_OOO_LIMIT;
  uint32_t off = seg->off;
  if (prev != NULL && np_seq_gt(np_rxseg(prev)->run_end, seq)) {
    off += (uint32_t)np_seq_diff(np_rxseg(prev)->run_end, seq);
    seq = np_rxseg(prev)->run_end;
  }
  while (next != NULL && np_seq_le(np_rxseg(next)->run_end, end)) { /* bound: ooo_runs_max */
    struct np_buf *covered = next;
    next = np_rxseg(next)->run_next;
    if (prev != NULL) {
      np_rxseg(prev)->run_next = next;
    } else {
      c->ooo_head = next;
    }
    forget_run(c, covered);
    np_buf_put_chain(covered);
  }
  if (next != NULL && np_seq_lt(np_rxseg(next)->seq, end)) end = np_rxseg(next)->seq;
  struct np_buf *b = np_tcp_cut(seg->buf, off, (uint32_t)np_seq_diff(end, seq));
  seg->kept = true;
  bool kept;
  struct np_buf *run = place(c, prev, b, seq, end, &kept);
  if (next != NULL && np_seq_eq(np_rxseg(run)->run_end, np_rxseg(next)->seq)) join_runs(c, run, next);
  np_tcp_sack_report(c, np_rxseg(run)->seq, np_rxseg(run)->run_end);
  np_tcp_count(tcp, NP_C_TCP_OOO);
  if (!kept) np_buf_put(b);
  return NP_TCP_OK;
}

/* rcv_nxt moved: hands over the runs it reached. */
void np_tcp_ooo_drain(struct np_tcp *tcp, struct np_tcp_conn *c) {
  uint32_t before = c->ooo_segs;
  while (c->ooo_head != NULL && np_seq_le(np_rxseg(c->ooo_head)->seq, c->rcv_nxt)) { /* bound: runs */
    struct np_buf *b = c->ooo_head;
    struct np_tcp_rxseg *r = np_rxseg(b);
    np_seq seq = r->seq;
    np_seq run_end = r->run_end;
    c->ooo_head = r->run_next;
    forget_run(c, b);
    while (b != NULL) { /* bound: run_segs */
      struct np_buf *next = b->next;
      uint32_t len = b->len;
      uint32_t skip = np_seq_lt(seq, c->rcv_nxt) ? (uint32_t)np_seq_diff(c->rcv_nxt, seq) : 0;
      seq = np_seq_add(seq, len);
      b->next = NULL;
      if (skip >= len) {
        np_buf_put(b);
      } else {
        np_buf_pull(b, skip);
        c->rcv_nxt = seq;
        c->bytes_rx += b->len;
        np_tcp_rcvq_add(c, b);
      }
      b = next;
    }
    np_assert(np_seq_ge(c->rcv_nxt, run_end));
  }
  np_tcp_mem_ooo(tcp, c, before);
  np_tcp_sack_trim(c);
}
