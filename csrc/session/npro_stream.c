/* The table of NPRO streams of one core: pooled entries, hashed by session and
 * stream number, listed per session, and ringed by priority while they have
 * something to send. */
#include "session/session_int.h"

static uint32_t bucket_of(const struct np_sessions *ss, uint32_t slot, uint32_t id) {
  uint64_t word = (uint64_t)slot << 32 | id;
  return (uint32_t)np_mix64(word ^ ss->hash.k[0], ss->hash.k[1] | 1) & ss->bucket_mask;
}

static uint32_t index_of(const struct np_sessions *ss, const struct np_nstream *st) {
  ptrdiff_t d = st - ss->stream;
  np_assert(d >= 0);
  np_assert((uint64_t)d < ss->config.streams_max);
  return (uint32_t)d;
}

struct np_nstream *np_nstream_find(struct np_sess *s, uint32_t id) {
  struct np_sessions *ss = s->owner;
  if (s->streams == 0) return NULL;
  uint32_t i = ss->bucket[bucket_of(ss, s->slot, id)];
  while (i != NP_NIL) { /* bound: streams_max; keyed hash keeps chains short */
    struct np_nstream *st = &ss->stream[i];
    if (st->id == id && st->sess == s->slot) return st;
    i = st->hash_next;
  }
  return NULL;
}

struct np_nstream *np_nstream_open(struct np_sess *s, uint32_t id, bool local) {
  struct np_sessions *ss = s->owner;
  if (s->streams >= s->lim.max_streams) return NULL;
  if (ss->free_stream == NP_NIL) return NULL;
  uint32_t i = ss->free_stream;
  struct np_nstream *st = &ss->stream[i];
  ss->free_stream = st->hash_next;
  uint32_t bucket = bucket_of(ss, s->slot, id);
  *st = (struct np_nstream){
      .id = id,
      .sess = s->slot,
      .hash_next = ss->bucket[bucket],
      .list_prev = NP_NIL,
      .list_next = s->streams_head,
      .ready_next = NP_NIL,
      .tx_window = s->lim.stream_window_tx,
      .rx_window = s->lim.stream_window_rx,
      .flags = (uint16_t)(local ? NP_STF_LOCAL | NP_STF_UNOPENED : 0u),
  };
  ss->bucket[bucket] = i;
  if (s->streams_head != NP_NIL) ss->stream[s->streams_head].list_prev = i;
  s->streams_head = i;
  s->streams++;
  if (local) s->unopened++;
  ss->streams++;
  ss->env.counters->counter[NP_C_NPRO_STREAMS]++;
  return st;
}

static void unhash(struct np_sessions *ss, struct np_nstream *st, uint32_t i) {
  uint32_t *link = &ss->bucket[bucket_of(ss, st->sess, st->id)];
  while (*link != i) { /* bound: the chain it is in */
    np_assert(*link != NP_NIL);
    link = &ss->stream[*link].hash_next;
  }
  *link = st->hash_next;
}

void np_nstream_free(struct np_sess *s, struct np_nstream *st) {
  struct np_sessions *ss = s->owner;
  uint32_t i = index_of(ss, st);
  np_nstream_unready(s, st);
  while (st->q_head != NULL) { /* bound: NP_NPRO_SENDQ_ITEMS */
    struct np_buf *b = st->q_head;
    struct np_send_item *it = np_item_of(b);
    st->q_head = it->next;
    s->sendq_bytes -= it->left_bytes;
    s->sendq_items--;
    np_item_release(s, b);
  }
  st->q_tail = NULL;
  unhash(ss, st, i);
  if (st->list_prev != NP_NIL) ss->stream[st->list_prev].list_next = st->list_next;
  else s->streams_head = st->list_next;
  if (st->list_next != NP_NIL) ss->stream[st->list_next].list_prev = st->list_prev;
  np_nstream_opened(s, st);
  st->sess = NP_NIL;
  st->hash_next = ss->free_stream;
  ss->free_stream = i;
  s->streams--;
  ss->streams--;
  ss->env.counters->counter[NP_C_NPRO_STREAMS]--;
}

void np_nstream_opened(struct np_sess *s, struct np_nstream *st) {
  if ((st->flags & NP_STF_UNOPENED) == 0) return;
  st->flags &= (uint16_t)~NP_STF_UNOPENED;
  s->unopened--;
}

struct np_nstream *np_nstream_first_unopened(struct np_sess *s) {
  struct np_nstream *first = NULL;
  for (uint32_t i = s->streams_head; i != NP_NIL; i = s->owner->stream[i].list_next) { /* bound: max_streams */
    struct np_nstream *st = &s->owner->stream[i];
    if ((st->flags & NP_STF_UNOPENED) != 0 && (first == NULL || st->id < first->id)) first = st;
  }
  return first;
}

void np_nstream_maybe_free(struct np_sess *s, struct np_nstream *st) {
  if ((st->flags & (NP_STF_RX_END | NP_STF_TX_END)) == (NP_STF_RX_END | NP_STF_TX_END)) np_nstream_free(s, st);
}

void np_nstream_free_all(struct np_sess *s) {
  while (s->streams_head != NP_NIL) { /* bound: max_streams */
    np_nstream_free(s, &s->owner->stream[s->streams_head]);
  }
}

/* Into the ring of its first item's priority, at the end. */
void np_nstream_ready(struct np_sess *s, struct np_nstream *st) {
  if ((st->flags & NP_STF_READY) != 0 || st->q_head == NULL) return;
  struct np_sessions *ss = s->owner;
  uint32_t i = index_of(ss, st);
  uint8_t p = np_item_of(st->q_head)->priority & 7u;
  st->priority = p;
  st->flags |= NP_STF_READY;
  if ((s->ready_mask & (1u << p)) == 0) {
    st->ready_next = i;
  } else {
    struct np_nstream *tail = &ss->stream[s->ready_tail[p]];
    st->ready_next = tail->ready_next;
    tail->ready_next = i;
  }
  s->ready_tail[p] = i;
  s->ready_mask = (uint8_t)(s->ready_mask | 1u << p);
}

void np_nstream_unready(struct np_sess *s, struct np_nstream *st) {
  if ((st->flags & NP_STF_READY) == 0) return;
  struct np_sessions *ss = s->owner;
  uint32_t i = index_of(ss, st);
  uint8_t p = st->priority;
  st->flags &= (uint16_t)~NP_STF_READY;
  if (st->ready_next == i) {
    s->ready_mask = (uint8_t)(s->ready_mask & ~(1u << p));
    return;
  }
  uint32_t prev = s->ready_tail[p];
  while (ss->stream[prev].ready_next != i) prev = ss->stream[prev].ready_next; /* bound: the ring */
  ss->stream[prev].ready_next = st->ready_next;
  if (s->ready_tail[p] == i) s->ready_tail[p] = prev;
}
