/* All sessions of one core: memory, the dirty list, one run per turn. */
#include "session/load.h"
#include "session/session_int.h"

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static uint32_t pow2_at_least(uint32_t n) {
  uint32_t p = 64;
  while (p < n) p <<= 1; /* bound: 32 */
  return p;
}

size_t np_sessions_bytes(const struct np_sessions_config *config) {
  return align64(sizeof(struct np_sessions)) + align64((size_t)config->sessions_max * sizeof(struct np_sess)) +
         align64((size_t)config->streams_max * sizeof(struct np_nstream)) +
         align64((size_t)pow2_at_least(config->streams_max) * sizeof(uint32_t)) + 2 * (size_t)NP_NPRO_RAW_BYTES +
         align64(np_compressor_bytes(NP_NPRO_RAW_BYTES)) + NP_CHARGEN_BYTES;
}

static void init_lists(struct np_sessions *ss) {
  uint32_t n = ss->config.sessions_max;
  for (uint32_t i = n; i > 0; i--) {
    struct np_sess *s = &ss->sess[i - 1];
    s->slot = i - 1;
    s->owner = ss;
    s->dirty_next = ss->free_sess;
    ss->free_sess = s;
  }
  ss->free_stream = NP_NIL;
  for (uint32_t i = ss->config.streams_max; i > 0; i--) {
    ss->stream[i - 1] = (struct np_nstream){.sess = NP_NIL, .hash_next = ss->free_stream};
    ss->free_stream = i - 1;
  }
  memset(ss->bucket, 0xff, ((size_t)ss->bucket_mask + 1) * sizeof(uint32_t));
}

static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_sessions *ss = ctx;
  struct np_sess *s = NP_CONTAINER_OF(timer, struct np_sess, timer);
  ss->now_ns = now_ns;
  if (s->kind == NP_SESSION_PIPE) np_pipe_timer(s, now_ns);
  else np_npro_timer(s, now_ns);
}

struct np_sessions *np_sessions_init(void *mem, const struct np_sessions_config *config,
                                     const struct np_sessions_env *env, uint64_t now_ns) {
  uint8_t *p = mem;
  struct np_sessions *ss = mem;
  memset(ss, 0, sizeof *ss);
  p += align64(sizeof *ss);
  ss->env = *env;
  ss->config = *config;
  ss->now_ns = now_ns;
  ss->sess = (struct np_sess *)(void *)p;
  memset(ss->sess, 0, (size_t)config->sessions_max * sizeof(struct np_sess));
  p += align64((size_t)config->sessions_max * sizeof(struct np_sess));
  ss->stream = (struct np_nstream *)(void *)p;
  p += align64((size_t)config->streams_max * sizeof(struct np_nstream));
  uint32_t buckets = pow2_at_least(config->streams_max);
  ss->bucket = (uint32_t *)(void *)p;
  ss->bucket_mask = buckets - 1;
  p += align64((size_t)buckets * sizeof(uint32_t));
  ss->scratch_raw = p;
  p += NP_NPRO_RAW_BYTES;
  ss->scratch_wire = p;
  p += NP_NPRO_RAW_BYTES;
  ss->compressor = np_compressor_init(p, NP_NPRO_RAW_BYTES);
  np_assert(ss->compressor != NULL); /* it got the bytes it asked for */
  p += align64(np_compressor_bytes(NP_NPRO_RAW_BYTES));
  np_chargen_fill(p);
  ss->chargen = p;
  ss->hash.k[0] = config->seed;
  ss->hash.k[1] = np_mix64(config->seed ^ UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xd1342543de82ef95));
  init_lists(ss);
  np_wheel_handle(env->wheel, NP_TIMER_SESSION, on_timer, ss);
  return ss;
}

static const struct np_session_ops *ops_of(enum np_session_kind kind) {
  switch (kind) {
    case NP_SESSION_ECHO: return &np_echo_ops;
    case NP_SESSION_DISCARD: return &np_discard_ops;
    case NP_SESSION_NPRO: return &np_npro_ops;
    case NP_SESSION_CHARGEN: return &np_chargen_ops;
    case NP_SESSION_PIPE: return &np_pipe_ops;
    case NP_SESSION_NONE:
    case NP_SESSION_LOAD: /* made by the load generator alone */
    case NP_SESSION_KIND_COUNT: break;
  }
  return NULL;
}

struct np_session *np_session_new(struct np_sessions *ss, enum np_session_kind kind, struct np_stream *stream,
                                  uint64_t listener, uint64_t now_ns) {
  const struct np_session_ops *ops = ops_of(kind);
  if (ops == NULL || ss->free_sess == NULL) return NULL;
  struct np_sess *s = ss->free_sess;
  ss->free_sess = s->dirty_next;
  uint32_t slot = s->slot;
  uint32_t generation = s->generation + 1;
  *s = (struct np_sess){
      .base = {.ops = ops, .stream = stream},
      .owner = ss,
      .listener = listener,
      .slot = slot,
      .generation = generation,
      .kind = (uint8_t)kind,
      .streams_head = NP_NIL,
  };
  if (listener == 0) s->flags |= NP_SF_OUTGOING;
  ss->count++;
  ss->now_ns = now_ns;
  np_sess_set_handle(s);
  if (kind == NP_SESSION_NPRO) np_npro_start(s);
  if (kind == NP_SESSION_PIPE) np_pipe_start(s);
  if (kind == NP_SESSION_CHARGEN && stream != NULL) np_sess_dirty(s); /* it speaks first */
  return &s->base;
}

void np_sess_set_handle(struct np_sess *s) {
  if (s->base.stream != NULL) s->handle = s->base.stream->handle;
}

void np_sess_dirty(struct np_sess *s) {
  if ((s->flags & NP_SF_DIRTY) != 0) return;
  struct np_sessions *ss = s->owner;
  s->flags |= NP_SF_DIRTY;
  s->dirty_next = NULL;
  if (ss->dirty_tail != NULL) ss->dirty_tail->dirty_next = s;
  else ss->dirty_head = s;
  ss->dirty_tail = s;
}

bool np_sess_event_ok(struct np_sessions *ss) {
  uint32_t need = ss->reserved + 1;
  if (ss->ev_known < need || !ss->running) ss->ev_known = ss->env.event_room(ss->env.ctx, need);
  return ss->ev_known >= need;
}

void np_sess_event(struct np_sess *s, struct np_event *ev) {
  struct np_sessions *ss = s->owner;
  ev->handle = s->handle;
  ev->listener = s->listener;
  ev->kind = s->kind;
  ev->at_ns = ss->now_ns;
  if (ss->ev_known > 0) ss->ev_known--;
  ss->env.event(ss->env.ctx, ev);
}

static uint32_t *lingering(struct np_sess *s) {
  uint64_t slot = s->handle & ((1u << NP_HANDLE_SLOT_BITS) - 1u);
  return &s->owner->lingering[slot % NP_SESS_LINGER_BUCKETS];
}

void np_sess_linger(struct np_sess *s) {
  if ((s->flags & NP_SF_LINGERS) != 0) return;
  s->flags |= NP_SF_LINGERS;
  ++*lingering(s);
}

bool np_sess_send_open(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  if (NP_UNLIKELY(*lingering(s) != 0)) return false;
  if (!np_sess_event_ok(ss)) {
    ss->env.counters->counter[NP_C_EVENT_RING_FULL]++;
    return false;
  }
  struct np_buf *b = np_pool_get(ss->env.pool);
  if (b == NULL) return false;
  struct np_conn_info info = {0};
  if (s->base.stream != NULL) s->base.stream->ops->info(s->base.stream, &info);
  np_session_info(&s->base, &info);
  info.handle = s->handle;
  memcpy(np_buf_append(b, sizeof info), &info, sizeof info);
  s->flags = (s->flags & ~NP_SF_OPEN_DUE) | NP_SF_OPEN_SENT;
  struct np_event ev = {
      .op = NP_EV_OPEN,
      .arg = (s->flags & NP_SF_OUTGOING) != 0 ? 0 : 1,
      .stream = s->kind == NP_SESSION_PIPE ? np_sess_piece_bytes(s) : 0,
      .body = b,
      .body_bytes = sizeof info,
  };
  np_sess_event(s, &ev);
  return true;
}

/* Unlinks from a singly linked list through its field's accessor. */
static void undirty(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  if ((s->flags & NP_SF_DIRTY) == 0) return;
  struct np_sess *prev = NULL;
  struct np_sess *at = ss->dirty_head;
  while (at != s) { /* bound: sessions_max */
    np_assert(at != NULL);
    prev = at;
    at = at->dirty_next;
  }
  if (prev != NULL) prev->dirty_next = s->dirty_next;
  else ss->dirty_head = s->dirty_next;
  if (ss->dirty_tail == s) ss->dirty_tail = prev;
  s->flags &= ~NP_SF_DIRTY;
}

static void untx(struct np_sess *s) {
  if ((s->flags & NP_SF_TXLIST) == 0) return;
  struct np_sess **link = &s->owner->tx_list;
  while (*link != s) link = &(*link)->tx_next; /* bound: sessions with something staged */
  *link = s->tx_next;
  s->flags &= ~NP_SF_TXLIST;
}

static void slot_free(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  undirty(s);
  untx(s);
  if (NP_UNLIKELY((s->flags & NP_SF_LINGERS) != 0)) {
    s->flags &= ~NP_SF_LINGERS;
    --*lingering(s);
  }
  if (ss->running) { /* the run may still hold a pointer: the slot comes back when it ends */
    s->flags |= NP_SF_REAP;
    s->tx_next = ss->reap;
    ss->reap = s;
    return;
  }
  s->dirty_next = ss->free_sess;
  ss->free_sess = s;
  s->handle = 0;
  ss->count--;
}

/* NP_EV_CLOSED, as soon as there is room; then the slot is free. */
static void bury(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  if (!np_sess_event_ok(ss)) {
    if ((s->flags & NP_SF_ZOMBIE) == 0) ss->env.counters->counter[NP_C_EVENT_RING_FULL]++;
    s->flags |= NP_SF_ZOMBIE;
    np_sess_linger(s);
    np_sess_dirty(s);
    ss->work_left = true;
    return;
  }
  struct np_event ev = {.op = NP_EV_CLOSED, .err = s->close_err, .arg = s->close_code};
  np_sess_event(s, &ev);
  slot_free(s);
}

void np_sess_end(struct np_sess *s, enum np_err err) {
  np_assert((s->flags & (NP_SF_ZOMBIE | NP_SF_REAP)) == 0);
  if (s->handle == 0) np_sess_set_handle(s);
  s->base.stream = NULL;
  s->close_err = (uint16_t)err;
  if (s->kind == NP_SESSION_NPRO) np_npro_release(s);
  if (s->kind == NP_SESSION_PIPE) np_pipe_release(s);
  np_bufq_free(&s->rx);
  np_bufq_free(&s->out);
  s->state = NP_NPRO_CLOSED;
  /* an outgoing connection that failed is told of by CLOSED alone; one that never
   * got a stream was answered by its command's error */
  bool told_of = s->kind == NP_SESSION_NPRO || s->kind == NP_SESSION_PIPE;
  bool failed = told_of && (s->flags & NP_SF_OUTGOING) != 0 && s->handle != 0;
  bool told = (s->flags & NP_SF_OPEN_SENT) != 0 || failed;
  if (told) bury(s);
  else slot_free(s);
}

/* One that cannot be told for lack of room drains all the same: it has its limit of time. */
static void drain_one(struct np_sess *s) {
  if (s->kind != NP_SESSION_NPRO || s->handle == 0 || s->state != NP_NPRO_OPEN || np_npro_goaway(s)) return;
  np_npro_begin_drain(s);
}

/* A core's worth of sessions at once would be a turn of many milliseconds. */
static void drain_some(struct np_sessions *ss) {
  uint32_t end = np_min_u32(ss->config.sessions_max - ss->drain_at, NP_SESS_DRAINS_PER_RUN) + ss->drain_at;
  for (; ss->drain_at < end; ss->drain_at++) drain_one(&ss->sess[ss->drain_at]);
  if (end < ss->config.sessions_max) ss->work_left = true;
}

/* One session's part of a run. */
static void run_one(struct np_sess *s) {
  struct np_sessions *ss = s->owner;
  if ((s->flags & NP_SF_ZOMBIE) != 0) {
    bury(s);
    return;
  }
  if (s->kind == NP_SESSION_PIPE) {
    np_pipe_run(s);
    return;
  }
  if (s->kind != NP_SESSION_NPRO) {
    if (s->kind != NP_SESSION_DISCARD) s->base.ops->writable(&s->base);
    return;
  }
  if (s->out.head != NULL || s->state == NP_NPRO_CLOSING) np_npro_stage_again(s);
  if ((s->flags & NP_SF_OPEN_DUE) != 0 && !np_npro_send_open(s)) {
    np_sess_dirty(s);
    ss->work_left = true;
    return;
  }
  if (NP_UNLIKELY(ss->draining)) drain_one(s); /* its handshake ended since */
  if ((s->flags & NP_SF_HEARD) != 0) {
    s->flags &= ~NP_SF_HEARD;
    s->last_rx_ns = ss->now_ns;
  }
  bool more = true;
  for (uint32_t i = 0; more && i < NP_SESS_RUN_ROUNDS; i++) {
    more = np_npro_collect(s);
    if (more) np_npro_open_batch(ss);
  }
  if (more) {
    np_sess_dirty(s);
    ss->work_left = true;
  }
  if (np_npro_is_open(s)) {
    np_npro_windows(s);
    np_npro_pump(s);
  }
  if (s->rx_due > 0) np_npro_tell_consumed(s);
}

static void reap(struct np_sessions *ss) {
  while (ss->reap != NULL) { /* bound: sessions_max */
    struct np_sess *s = ss->reap;
    ss->reap = s->tx_next;
    s->flags = 0;
    s->handle = 0;
    s->dirty_next = ss->free_sess;
    ss->free_sess = s;
    ss->count--;
  }
}

bool np_sessions_run(struct np_sessions *ss, uint64_t now_ns) {
  ss->now_ns = now_ns;
  ss->ev_known = 0;
  ss->work_left = false;
  ss->env.counters->counter[NP_C_PIPE_QUEUED] = ss->pipe_queued; /* again below: some may have ended since */
  bool drains = ss->draining && ss->drain_at < ss->config.sessions_max;
  if (ss->dirty_head == NULL && ss->tx_n == 0 && ss->tx_list == NULL && !drains) return false;
  ss->running = true;
  /* below an eighth no stream is told of consumed bytes: windows close, what is here is still handled */
  ss->pressure = ss->env.pool->free_count < ss->env.pool->count / 8;
  if (NP_UNLIKELY(drains)) drain_some(ss);
  struct np_sess *last = ss->dirty_tail;
  struct np_sess *s = ss->dirty_head;
  bool more = s != NULL;
  while (more) { /* bound: the sessions dirty when the run began */
    s = ss->dirty_head;
    if (s == NULL) break;
    more = s != last;
    ss->dirty_head = s->dirty_next;
    if (ss->dirty_head == NULL) ss->dirty_tail = NULL;
    s->dirty_next = NULL;
    s->flags &= ~NP_SF_DIRTY;
    run_one(s);
  }
  np_npro_open_batch(ss);
  np_npro_send_all(ss);
  ss->running = false;
  ss->env.counters->counter[NP_C_PIPE_QUEUED] = ss->pipe_queued;
  reap(ss);
  return ss->work_left;
}

static enum np_err plain_command(struct np_sess *s, const struct np_cmd *cmd) {
  struct np_stream *stream = s->base.stream;
  if (stream == NULL) return NP_ERR_STALE;
  if (cmd->op == NP_CMD_ABORT) {
    stream->ops->abort(stream);
    return NP_ERR_OK;
  }
  if (cmd->op != NP_CMD_CLOSE) return NP_ERR_UNSUPPORTED;
  stream->ops->shutdown(stream);
  stream->ops->detach(stream);
  np_sess_end(s, NP_ERR_OK);
  return NP_ERR_OK;
}

void np_sess_charge(struct np_sess *s, struct np_buf *chain) {
  for (struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: the body's pieces */
    b->charged = (uint64_t)s->generation << 32 | (s->slot + 1u);
    s->held++;
  }
}

void np_sessions_returned(struct np_sessions *ss, struct np_buf *chain) {
  for (struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: the pool's count */
    if (b->charged == 0) continue;
    uint32_t slot = (uint32_t)b->charged - 1u;
    np_assert(slot < ss->config.sessions_max);
    struct np_sess *s = &ss->sess[slot];
    if (s->generation == (uint32_t)(b->charged >> 32)) s->held--;
    b->charged = 0;
  }
}

/* Keys do not stay in a buffer that goes back to Go, whatever becomes of the command. */
void np_sessions_wipe(const struct np_cmd *cmd) {
  if (NP_LIKELY(cmd->op != NP_CMD_KEYS)) return;
  for (struct np_buf *b = cmd->body; b != NULL; b = b->next) explicit_bzero(np_buf_data(b), b->len); /* bound: the pool's count */
}

enum np_err np_sessions_command(struct np_sessions *ss, struct np_session *session, const struct np_cmd *cmd,
                                struct np_buf *body, uint64_t now_ns, uint32_t *out_stream) {
  ss->now_ns = now_ns;
  if (NP_UNLIKELY(np_session_is_load(session))) {
    np_sessions_wipe(cmd);
    if (body != NULL) ss->env.loan_return(ss->env.ctx, body);
    return NP_ERR_UNSUPPORTED;
  }
  struct np_sess *s = np_sess_of(session);
  if (s->kind == NP_SESSION_NPRO) return np_npro_command(s, cmd, body, out_stream);
  if (s->kind == NP_SESSION_PIPE) return np_pipe_command(s, cmd, body);
  np_sessions_wipe(cmd);
  if (body != NULL) ss->env.loan_return(ss->env.ctx, body);
  return plain_command(s, cmd);
}

void np_sessions_fini(struct np_sessions *ss) {
  for (uint32_t i = 0; i < ss->config.sessions_max; i++) {
    struct np_sess *s = &ss->sess[i];
    if ((s->flags & NP_SF_GONE) != 0) np_bufq_free(&s->rx);
  }
}

void np_sessions_drain(struct np_sessions *ss, uint64_t now_ns) {
  ss->now_ns = now_ns;
  if (ss->draining) return;
  ss->draining = true;
  ss->drain_at = 0;
  ss->work_left = true;
}

void np_session_info(const struct np_session *session, struct np_conn_info *out) {
  if (np_session_is_load(session)) {
    out->session_kind = NP_SESSION_LOAD;
    return;
  }
  const struct np_sess *s = NP_CONTAINER_OF(session, struct np_sess, base);
  out->session_kind = s->kind;
  out->listener = s->listener;
  if (s->kind != NP_SESSION_NPRO) return;
  out->session_state = s->state;
  out->aead = s->rx_dir.aead;
  out->compression = s->lim.compression;
  out->streams = s->streams;
  out->frames_rx = s->frames_rx;
  out->frames_tx = s->frames_tx;
  memcpy(out->conn_id, s->conn_id, sizeof out->conn_id);
}

uint32_t np_sessions_count(const struct np_sessions *ss) { return ss->count; }
uint32_t np_sessions_streams(const struct np_sessions *ss) { return ss->streams; }
