/* A bench for sessions: two streams in memory joined back to back, one pool, one
 * event list, virtual time. What one end sends the other receives in pieces of a
 * chosen size, within a receive window of its own, like TCP's. */
#ifndef NP_TEST_SESSION_RIG_H
#define NP_TEST_SESSION_RIG_H

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
/* after the above: cmocka's header needs them */
#include <cmocka.h>

#include "base/bytes.h"
#include "base/rng.h"
#include "codec/frame.h"
#include "np/code.h"
#include "session/session.h"

#define RIG_MS UINT64_C(1000000)
#ifndef RIG_KEYS
#define RIG_KEYS 16u
#endif
#ifndef RIG_BUFS /* the fuzz target takes less */
#define RIG_EVENTS 65536u
#define RIG_BUFS 4096u
#define RIG_LOANS 256u
#endif
#define NP_RIG_FRAGMENT (16u << 10) /* bytes of body the sender cuts at */

struct rig;

struct rig_stream {
  struct np_stream stream;
  struct rig *rig;
  struct rig_stream *peer;
  uint8_t *wire; /* sent, not yet delivered */
  uint32_t wire_bytes;
  uint32_t wire_cap;
  uint32_t room_max;     /* send buffer */
  uint32_t window_max;   /* receive window */
  uint32_t unconsumed;
  uint32_t unconsumed_max;
  bool said_no;
  bool fin;              /* shutdown called */
  bool fin_told;
  bool aborted;
  bool detached;
  uint64_t sent_total;
};

struct rig_event {
  struct np_event ev;
  uint8_t *body;
};

struct rig {
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_counters counters;
  struct np_crypto *crypto;
  struct np_sessions *sessions;
  struct rig_stream end[2]; /* 0: client role, 1: server role */
  struct rig_event *events;
  uint32_t event_count;
  uint32_t event_room;   /* what the ring would take now */
  bool keep_bodies;      /* hold buffers like a slow handler */
  struct np_buf *held[RIG_EVENTS];
  uint32_t held_count;
  struct np_buf *loans[RIG_LOANS];
  uint32_t loan_count;
  uint32_t loans_owed;
  uint64_t now_ns;
  uint32_t piece_bytes;  /* 0: random 1 to 1,400 */
  struct np_rng rng;
  void *mem[4];
};

static inline struct rig_stream *rig_of(struct np_stream *s) { return (struct rig_stream *)(void *)s; }

static inline uint32_t rig_room(struct np_stream *s) {
  struct rig_stream *r = rig_of(s);
  if (r->fin || r->aborted) return 0;
  uint32_t room = r->room_max > r->wire_bytes ? r->room_max - r->wire_bytes : 0;
  if (room == 0) r->said_no = true;
  return room;
}

static inline void rig_put_bytes(struct rig_stream *r, const uint8_t *p, uint32_t n) {
  if (r->wire_bytes + n > r->wire_cap) {
    r->wire_cap = (r->wire_bytes + n) * 2;
    r->wire = realloc(r->wire, r->wire_cap);
  }
  if (n > 0) memcpy(r->wire + r->wire_bytes, p, n);
  r->wire_bytes += n;
  r->sent_total += n;
}

static inline enum np_err rig_send(struct np_stream *s, struct np_buf *chain, uint32_t flags) {
  struct rig_stream *r = rig_of(s);
  (void)flags;
  if (r->fin || r->aborted) {
    np_buf_put_chain(chain);
    return NP_ERR_STATE;
  }
  np_assert(np_buf_chain_len(chain) <= r->room_max - r->wire_bytes);
  for (struct np_buf *b = chain; b != NULL; b = b->next) {
    np_assert(b->refs == 1);
    np_assert(b->len > 0);
    np_assert(np_buf_headroom(b) >= NP_BUF_HEADROOM);
    rig_put_bytes(r, np_buf_cdata(b), b->len);
  }
  np_buf_put_chain(chain);
  return NP_ERR_OK;
}

static inline void rig_consumed(struct np_stream *s, uint32_t bytes) {
  struct rig_stream *r = rig_of(s);
  np_assert(bytes <= r->unconsumed);
  r->unconsumed -= bytes;
}
static inline void rig_shutdown(struct np_stream *s) { rig_of(s)->fin = true; }
static inline void rig_detach(struct np_stream *s) {
  rig_of(s)->detached = true;
  s->session = NULL;
}
static inline void rig_abort(struct np_stream *s) {
  struct rig_stream *r = rig_of(s);
  r->aborted = true;
  struct np_session *session = s->session;
  s->session = NULL;
  if (session != NULL) session->ops->closed(session, NP_ERR_ABORTED);
}
static inline void rig_info(const struct np_stream *s, struct np_conn_info *out) { out->handle = s->handle; }

static const struct np_stream_ops rig_ops = {
    .room = rig_room,
    .send = rig_send,
    .consumed = rig_consumed,
    .shutdown = rig_shutdown,
    .abort = rig_abort,
    .detach = rig_detach,
    .info = rig_info,
};

static inline uint32_t rig_event_room(void *ctx, uint32_t n) {
  (void)n;
  return ((struct rig *)ctx)->event_room;
}

static inline void rig_event(void *ctx, const struct np_event *ev) {
  struct rig *r = ctx;
  np_assert(r->event_room > 0);
  np_assert(r->event_count < RIG_EVENTS);
  r->event_room--;
  struct rig_event *e = &r->events[r->event_count++];
  e->ev = *ev;
  e->body = NULL;
  np_assert(np_buf_chain_len(ev->body) == ev->body_bytes);
  if (ev->body_bytes > 0) {
    e->body = malloc(ev->body_bytes);
    uint32_t at = 0;
    for (struct np_buf *b = ev->body; b != NULL; b = b->next) {
      memcpy(e->body + at, np_buf_cdata(b), b->len);
      at += b->len;
    }
  }
  if (ev->body != NULL && r->keep_bodies) {
    r->held[r->held_count++] = ev->body;
    return;
  }
  np_sessions_returned(r->sessions, ev->body);
  np_buf_put_chain(ev->body);
}

static inline void rig_loan_return(void *ctx, struct np_buf *chain) {
  struct rig *r = ctx;
  while (chain != NULL) {
    struct np_buf *next = chain->next;
    np_assert(r->loan_count < RIG_LOANS);
    r->loans[r->loan_count++] = chain;
    chain = next;
  }
}

static inline void rig_repay(struct rig *r) {
  while (r->loans_owed > 0 && np_pool_avail(&r->pool) > 0) {
    r->loans[r->loan_count++] = np_pool_get(&r->pool);
    r->loans_owed--;
  }
}

static inline void rig_loan_replace(void *ctx, uint32_t n) {
  struct rig *r = ctx;
  r->loans_owed += n;
  rig_repay(r);
}

static inline void rig_stream_init(struct rig *r, uint32_t i) {
  struct rig_stream *s = &r->end[i];
  *s = (struct rig_stream){
      .stream = {.ops = &rig_ops, .handle = 0x100000000u + i, .seg_bytes = 1400},
      .rig = r,
      .peer = &r->end[1 - i],
      .room_max = 1u << 20,
      .window_max = 512u << 10,
  };
}

static inline struct rig *rig_new(uint32_t sessions_max, uint32_t streams_max) {
  struct rig *r = calloc(1, sizeof *r);
  r->events = calloc(RIG_EVENTS, sizeof *r->events);
  r->now_ns = 1000 * RIG_MS;
  r->event_room = RIG_EVENTS;
  r->piece_bytes = 1400;
  np_rng_init(&r->rng, 7);
  r->mem[0] = aligned_alloc(2048, (size_t)RIG_BUFS * 2048);
  r->mem[1] = malloc(np_pool_stack_bytes(RIG_BUFS));
  np_pool_init(&r->pool, r->mem[0], RIG_BUFS, 2048, r->mem[1], &r->counters);
  np_wheel_init(&r->wheel, r->now_ns);
  struct np_crypto_config cc = {.key_cache_count = RIG_KEYS};
  r->mem[2] = aligned_alloc(64, (np_crypto_bytes(&cc) + 63) & ~(size_t)63);
  memset(r->mem[2], 0, np_crypto_bytes(&cc));
  r->crypto = np_crypto_init(r->mem[2], &cc);
  np_assert(r->crypto != NULL);
  struct np_sessions_config config = {
      .sessions_max = sessions_max,
      .streams_max = streams_max,
      .handshake_ms = 5000,
      .handshake_frame_bytes = 8192,
      .goaway_ms = 1000,
      .seed = 42,
  };
  struct np_sessions_env env = {
      .pool = &r->pool,
      .wheel = &r->wheel,
      .counters = &r->counters,
      .crypto = r->crypto,
      .event_room = rig_event_room,
      .event = rig_event,
      .loan_return = rig_loan_return,
      .loan_replace = rig_loan_replace,
      .ctx = r,
  };
  r->mem[3] = aligned_alloc(64, (np_sessions_bytes(&config) + 63) & ~(size_t)63);
  r->sessions = np_sessions_init(r->mem[3], &config, &env, r->now_ns);
  for (uint32_t i = 0; i < RIG_LOANS; i++) r->loans[r->loan_count++] = np_pool_get(&r->pool);
  rig_stream_init(r, 0);
  rig_stream_init(r, 1);
  return r;
}

/* Empties the event list. */
static inline void rig_clear(struct rig *r) {
  for (uint32_t i = 0; i < r->event_count; i++) free(r->events[i].body);
  r->event_count = 0;
}

static inline void rig_let_go(struct rig *r) {
  for (uint32_t i = 0; i < r->held_count; i++) {
    np_sessions_returned(r->sessions, r->held[i]);
    np_buf_put_chain(r->held[i]);
  }
  r->held_count = 0;
}

static inline struct np_session *rig_open(struct rig *r, uint32_t i, enum np_session_kind kind, uint64_t listener) {
  struct np_session *s = np_session_new(r->sessions, kind, &r->end[i].stream, listener, r->now_ns);
  r->end[i].stream.session = s;
  return s;
}

static inline bool rig_run(struct rig *r) { return np_sessions_run(r->sessions, r->now_ns); }

/* Hands bytes to one end as a chain of pieces. */
static inline uint32_t rig_feed(struct rig *r, uint32_t i, const uint8_t *p, uint32_t n) {
  struct rig_stream *s = &r->end[i];
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  uint32_t done = 0;
  while (done < n) {
    uint32_t step = r->piece_bytes != 0 ? r->piece_bytes : 1 + np_rng_below(&r->rng, 1400);
    if (step > n - done) step = n - done;
    struct np_buf *b = np_pool_get(&r->pool);
    if (b == NULL) break;
    b->data_off += 66; /* where the headers were */
    memcpy(np_buf_append(b, step), p + done, step);
    if (tail != NULL) tail->next = b;
    else head = b;
    tail = b;
    done += step;
  }
  if (head == NULL) return 0;
  s->unconsumed += done;
  if (s->unconsumed > s->unconsumed_max) s->unconsumed_max = s->unconsumed;
  s->stream.session->ops->data(s->stream.session, head, done);
  return done;
}

/* Moves what end i sent to its peer, within the peer's window. */
static inline uint32_t rig_move(struct rig *r, uint32_t i) {
  struct rig_stream *from = &r->end[i];
  struct rig_stream *to = from->peer;
  if (from->aborted && to->stream.session != NULL) {
    struct np_session *session = to->stream.session;
    to->stream.session = NULL;
    session->ops->closed(session, NP_ERR_RESET);
    return 1;
  }
  uint32_t n = from->wire_bytes;
  if (to->stream.session == NULL) {
    from->wire_bytes = 0; /* nobody reads */
  } else {
    uint32_t room = to->window_max > to->unconsumed ? to->window_max - to->unconsumed : 0;
    if (n > room) n = room;
    if (n > 0) n = rig_feed(r, 1 - i, from->wire, n);
    if (n > 0) memmove(from->wire, from->wire + n, from->wire_bytes - n);
    from->wire_bytes -= n;
    if (from->fin && from->wire_bytes == 0 && !from->fin_told && to->stream.session != NULL) {
      from->fin_told = true;
      to->stream.session->ops->eof(to->stream.session);
      n++;
    }
  }
  if (from->said_no && from->wire_bytes < from->room_max && from->stream.session != NULL) {
    from->said_no = false;
    from->stream.session->ops->writable(from->stream.session);
    n++;
  }
  return n;
}

/* Turns until nothing moves any more (or max turns). */
static inline void rig_settle(struct rig *r, uint32_t max) {
  for (uint32_t turn = 0; turn < max; turn++) {
    uint64_t before = r->end[0].sent_total + r->end[1].sent_total;
    uint32_t moved = rig_move(r, 0) + rig_move(r, 1);
    bool more = rig_run(r);
    if (moved == 0 && !more && before == r->end[0].sent_total + r->end[1].sent_total) return;
  }
}

static inline void rig_advance(struct rig *r, uint64_t ns) {
  r->now_ns += ns;
  for (uint32_t i = 0; i < 64 && np_wheel_advance(&r->wheel, r->now_ns, 64) > 0; i++) continue;
}

/* A chain of lent buffers with a copy of n bytes. */
static inline struct np_buf *rig_lend(struct rig *r, const void *p, uint32_t n) {
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  uint32_t done = 0;
  while (done < n) {
    np_assert(r->loan_count > 0);
    struct np_buf *b = r->loans[--r->loan_count];
    uint32_t step = n - done < 1700 ? n - done : 1700;
    b->next = NULL;
    b->data_off = NP_LOAN_DATA_OFF;
    b->len = step;
    memcpy(np_buf_data(b), (const uint8_t *)p + done, step);
    if (tail != NULL) tail->next = b;
    else head = b;
    tail = b;
    done += step;
  }
  return head;
}

static inline enum np_err rig_cmd(struct rig *r, uint32_t i, struct np_cmd cmd, const void *body, uint32_t n, uint32_t *stream) {
  cmd.handle = r->end[i].stream.handle;
  cmd.body_bytes = n;
  cmd.body = rig_lend(r, body, n);
  return np_sessions_command(r->sessions, r->end[i].stream.session, &cmd, cmd.body, r->now_ns, stream);
}

static inline struct np_npro_keys rig_keys(uint32_t i) {
  struct np_npro_keys k = {
      .aead = NP_AEAD_AES_256_GCM,
      .is_client = i == 0 ? 1 : 0,
      .max_frame_tx_bytes = (16u << 20) + 16,
      .max_frame_rx_bytes = (16u << 20) + 16,
      .stream_window_tx_bytes = 256u << 10,
      .conn_window_tx_bytes = 4u << 20,
      .stream_window_rx_bytes = 256u << 10,
      .conn_window_rx_bytes = 4u << 20,
      .heartbeat_ms = 15000,
      .compression_threshold_bytes = 512,
      .max_streams = 128,
      .max_payload_bytes = 16u << 20,
      .features = NP_NPRO_ALLOW_ECHO,
  };
  memset(i == 0 ? k.tx_key : k.rx_key, 0x11, 32);
  memset(i == 0 ? k.rx_key : k.tx_key, 0x22, 32);
  return k;
}

/* Opens end i as NPRO and brings it to where keys may be installed. */
static inline void rig_npro(struct rig *r, uint32_t i) {
  struct np_session *s = rig_open(r, i, NP_SESSION_NPRO, i == 0 ? 0 : 0x77);
  np_assert(s != NULL);
  if (i == 0) s->ops->established(s);
  rig_run(r);
}

/* Both ends through a handshake of two empty-meaning frames, then keys. */
static inline void rig_join(struct rig *r, const struct np_npro_keys *client, const struct np_npro_keys *server) {
  rig_npro(r, 1);
  rig_npro(r, 0);
  struct np_cmd hs = {.op = NP_CMD_HANDSHAKE, .type = NP_NPRO_HANDSHAKE_1, .cmd_flags = NP_CMD_F_MORE};
  np_assert(rig_cmd(r, 0, hs, "one", 3, NULL) == NP_ERR_OK);
  rig_settle(r, 10);
  hs = (struct np_cmd){.op = NP_CMD_HANDSHAKE, .type = NP_NPRO_HANDSHAKE_2};
  np_assert(rig_cmd(r, 1, hs, "two", 3, NULL) == NP_ERR_OK);
  np_assert(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_KEYS}, server, sizeof *server, NULL) == NP_ERR_OK);
  rig_settle(r, 10);
  np_assert(rig_cmd(r, 0, (struct np_cmd){.op = NP_CMD_KEYS}, client, sizeof *client, NULL) == NP_ERR_OK);
  rig_settle(r, 10);
  rig_clear(r);
}

static inline struct rig_event *rig_find(struct rig *r, uint32_t i, enum np_event_op op) {
  for (uint32_t k = 0; k < r->event_count; k++) {
    if (r->events[k].ev.op == op && r->events[k].ev.handle == r->end[i].stream.handle) return &r->events[k];
  }
  return NULL;
}

static inline uint64_t rig_npro_drops(const struct rig *r) {
  uint64_t n = 0;
  for (uint32_t d = NP_DROP_NPRO_MAGIC; d <= NP_DROP_NPRO_NO_BUFFER; d++) n += r->counters.drop[d];
  return n;
}

/* Ends both connections, checks that everything is back, frees the bench. */
static inline void rig_free(struct rig *r) {
  r->event_room = RIG_EVENTS;
  rig_clear(r);
  rig_let_go(r);
  for (uint32_t i = 0; i < 2; i++) {
    if (r->end[i].stream.session != NULL) rig_abort(&r->end[i].stream);
    free(r->end[i].wire);
  }
  rig_run(r);
  rig_run(r);
  np_assert(np_sessions_count(r->sessions) == 0);
  np_assert(np_sessions_streams(r->sessions) == 0);
  np_assert(r->counters.counter[NP_C_NPRO_SESSIONS] == 0);
  np_assert(r->counters.counter[NP_C_NPRO_STREAMS] == 0);
  np_assert(r->wheel.count == 0);
  rig_repay(r);
  np_assert(r->counters.counter[NP_C_PIPES] == 0);
  np_assert(r->counters.counter[NP_C_PIPE_QUEUED] == 0);
  np_assert(r->loan_count == RIG_LOANS);
  for (uint32_t i = 0; i < RIG_LOANS; i++) np_buf_put(r->loans[i]);
  np_assert(r->pool.free_count == r->pool.count);
  np_assert(r->counters.counter[NP_C_NPRO_FRAMES_RX] ==
            r->counters.counter[NP_C_NPRO_FRAMES_DELIVERED] + rig_npro_drops(r));
  np_crypto_fini(r->crypto);
  rig_clear(r);
  free(r->events);
  for (uint32_t i = 0; i < 4; i++) free(r->mem[i]);
  free(r);
}

#endif
