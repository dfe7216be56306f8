/* Out-of-order data: runs of touching pieces in order of sequence. A new piece
 * looks at runs, not pieces. What is there stays; only what is missing is taken
 * from a new piece, except where it covers whole runs.
 *
 * A queue that overflows on a long path leaves thousands of runs. They are a skip list, whose levels come
 * from a keyed hash of where a run begins, so that no peer can make its search long. */
#include "tcp/tcp_int.h"

/* Levels above the list of all that a run which begins at seq is in, unless it is the first: that is in each. */
static uint32_t levels_of(const struct np_tcp *tcp, np_seq seq) {
  uint64_t h = np_mix64(seq.v ^ tcp->flow_key.k[0], tcp->flow_key.k[1] ^ UINT64_C(0x9e3779b97f4a7c15));
  if ((h & 15u) != 0) return 0;
  return (h & 255u) == 0 ? 2 : 1;
}

/* Where a run is in its levels: the last of each that begins no later. */
struct place {
  struct np_buf *at[NP_TCP_OOO_SKIPS];
};

/* Return: the last run that begins at or before seq, NULL: none; then p says nothing. */
static struct np_buf *find(const struct np_tcp_conn *c, np_seq seq, struct place *p) {
  struct np_buf *b = c->ooo_head;
  if (b == NULL || np_seq_gt(np_rxseg(b)->seq, seq)) return NULL;
  struct np_buf *n;
  for (uint32_t l = NP_TCP_OOO_SKIPS; l-- > 0;) { /* bound: ooo_runs; some dozen steps */
    while ((n = np_rxseg(b)->skip[l]) != NULL && np_seq_le(np_rxseg(n)->seq, seq)) b = n;
    p->at[l] = b;
  }
  while ((n = np_rxseg(b)->run_next) != NULL && np_seq_le(np_rxseg(n)->seq, seq)) b = n;
  return b;
}

/* Takes run x, the one behind prev (NULL: it is the first), out of all levels. */
static void unlink_run(struct np_tcp_conn *c, struct np_buf *prev, const struct place *p, struct np_buf *x) {
  const struct np_tcp_rxseg *r = np_rxseg(x);
  if (prev != NULL) {
    np_rxseg(prev)->run_next = r->run_next;
    for (uint32_t l = 0; l < NP_TCP_OOO_SKIPS; l++) {
      struct np_tcp_rxseg *a = np_rxseg(p->at[l]);
      if (a->skip[l] == x) a->skip[l] = r->skip[l];
    }
    return;
  }
  struct np_buf *head = r->run_next;
  c->ooo_head = head;
  for (uint32_t l = 0; head != NULL && l < NP_TCP_OOO_SKIPS; l++) {
    if (r->skip[l] != head) np_rxseg(head)->skip[l] = r->skip[l];
  }
}

/* Puts run b, whose seq is set, behind prev; NULL: in front. p is b's place afterwards. */
static void link_run(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *prev, struct place *p, struct np_buf *b) {
  struct np_tcp_rxseg *s = np_rxseg(b);
  memset(s->skip, 0, sizeof s->skip);
  if (prev == NULL) {
    struct np_buf *old = c->ooo_head;
    uint32_t levels = old != NULL ? levels_of(tcp, np_rxseg(old)->seq) : 0;
    for (uint32_t l = 0; l < NP_TCP_OOO_SKIPS; l++) {
      p->at[l] = b;
      if (old == NULL) continue;
      s->skip[l] = l < levels ? old : np_rxseg(old)->skip[l];
      if (l >= levels) np_rxseg(old)->skip[l] = NULL;
    }
    s->run_next = old;
    c->ooo_head = b;
    return;
  }
  uint32_t levels = levels_of(tcp, s->seq);
  if (levels != 0) find(c, np_rxseg(prev)->seq, p); /* what came at the end was not looked for */
  for (uint32_t l = 0; l < levels; l++) {
    s->skip[l] = np_rxseg(p->at[l])->skip[l];
    np_rxseg(p->at[l])->skip[l] = b;
    p->at[l] = b;
  }
  s->run_next = np_rxseg(prev)->run_next;
  np_rxseg(prev)->run_next = b;
}

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
  for (struct np_buf *r = c->ooo_head; r != NULL; r = r == run ? NULL : np_rxseg(r)->run_next) { /* bound: keep */
    for (uint32_t l = 0; l < NP_TCP_OOO_SKIPS; l++) {
      struct np_buf *n = np_rxseg(r)->skip[l];
      if (n != NULL && np_seq_gt(np_rxseg(n)->seq, np_rxseg(run)->seq)) np_rxseg(r)->skip[l] = NULL;
    }
  }
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

/* p: first's place. */
static void join_runs(struct np_tcp_conn *c, const struct place *p, struct np_buf *first, struct np_buf *second) {
  unlink_run(c, first, p, second);
  struct np_tcp_rxseg *a = np_rxseg(first);
  struct np_tcp_rxseg *z = np_rxseg(second);
  a->run_tail->next = second;
  a->run_tail = z->run_tail;
  a->run_end = z->run_end;
  a->run_segs += z->run_segs;
  c->ooo_runs--;
  if (c->ooo_last == second) c->ooo_last = first;
}

/* Adds chain b, [seq, end), behind run prev when it continues it, else as a run of its own.
 * Return: the run it is in now, p its place, and in *kept whether b itself is. */
static struct np_buf *add(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *prev, struct place *p, struct np_buf *b, np_seq seq, np_seq end, bool *kept) {
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
  link_run(tcp, c, prev, p, b);
  if (s->run_next == NULL) c->ooo_last = b;
  c->ooo_runs++;
  return b;
}

/* A window's worth of full segments, when the window is large; under pressure the pool is for what is in order. */
static uint32_t segs_max(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  uint32_t n = np_min_u32(np_max_u32(tcp->config.ooo_segs_max, np_tcp_rcv_buf(tcp, c) / 1024), UINT16_MAX / 2);
  return np_min_u32(n, np_tcp_mem_ooo_max(tcp));
}

/* More where a run holds a segment on the average: those are losses, and window and buffers bound them. */
static uint32_t runs_max(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return np_max_u32(tcp->config.ooo_runs_max, c->ooo_bytes / np_max_u32(c->rcv_mss, c->mss));
}

enum np_drop np_tcp_ooo_add(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  np_seq seq = seg->seq;
  np_seq end = np_seq_add(seq, seg->len);
  struct place p = {{NULL}};
  struct np_buf *prev = c->ooo_last;
  /* what comes behind all of it, the common case, needs no search */
  if (prev == NULL || np_seq_gt(np_rxseg(prev)->seq, seq)) prev = find(c, seq, &p);
  struct np_buf *next = prev != NULL ? np_rxseg(prev)->run_next : c->ooo_head;
  if (prev != NULL && np_seq_ge(np_rxseg(prev)->run_end, end)) {
    c->dsack = (struct np_tcp_block){seq, end};
    np_tcp_sack_report(c, np_rxseg(prev)->seq, np_rxseg(prev)->run_end);
    return NP_DROP_TCP_DUP;
  }
  if (c->ooo_segs + pieces(seg->buf) > segs_max(tcp, c)) return NP_DROP_TCP_OOO_LIMIT;
  bool extends = prev != NULL && np_seq_ge(np_rxseg(prev)->run_end, seq);
  if (!extends && c->ooo_runs >= runs_max(tcp, c)) return NP_DROP_TCP_OOO_LIMIT;
  uint32_t off = seg->off;
  if (prev != NULL && np_seq_gt(np_rxseg(prev)->run_end, seq)) {
    off += (uint32_t)np_seq_diff(np_rxseg(prev)->run_end, seq);
    seq = np_rxseg(prev)->run_end;
  }
  while (next != NULL && np_seq_le(np_rxseg(next)->run_end, end)) { /* bound: each run once */
    struct np_buf *covered = next;
    next = np_rxseg(next)->run_next;
    unlink_run(c, prev, &p, covered);
    forget_run(c, covered);
    np_buf_put_chain(covered);
  }
  if (next != NULL && np_seq_lt(np_rxseg(next)->seq, end)) end = np_rxseg(next)->seq;
  struct np_buf *b = np_tcp_cut(seg->buf, off, (uint32_t)np_seq_diff(end, seq));
  seg->kept = true;
  bool kept;
  struct np_buf *run = add(tcp, c, prev, &p, b, seq, end, &kept);
  if (next != NULL && np_seq_eq(np_rxseg(run)->run_end, np_rxseg(next)->seq)) join_runs(c, &p, run, next);
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
    unlink_run(c, NULL, NULL, b);
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
