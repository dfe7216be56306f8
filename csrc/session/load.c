/* The load generator. Messages are cut from one endless pattern, the lines of chargen,
 * so that whatever comes back is compared with memory at the place its offset names. */
#include "session/load.h"

#include <string.h>

#include "session/session_int.h"

#define OPENS_PER_RUN 64u  /* SYNs of one turn */
#define OPENING_MAX 512u   /* handshakes under way: less than a listener's backlog, */
#define OPENING_FIRST 4u   /* and few until one was answered: the neighbor's address is not known yet */
#define RETRY_NS UINT64_C(100000000) /* after a refusal */
#define SEGS_PER_PUMP 64u
#define PERIOD NP_CHARGEN_PERIOD

#define LF_DIRTY 0x1u /* on the list of those that wait for room or buffers */
#define LF_OPEN 0x2u
#define LF_ENDING 0x4u /* we closed it */
#define LF_DEAD 0x8u  /* closed while on the list: freed when taken off */

struct load {
  struct np_session base; /* first */
  struct np_loads *owner;
  struct load *next; /* in the free list or the waiting list */
  uint64_t tx_at;    /* bytes handed over so far */
  uint64_t rx_at;
  uint64_t opened_ns;
  uint32_t done;      /* messages that came back, modulo 2^32 */
  uint32_t begun;     /* messages begun, likewise */
  uint32_t cut_bytes; /* of the message being handed over: what is left */
  uint32_t flags;
};

struct np_loads {
  struct np_loads_env env;
  struct np_loads_config config;
  struct np_cmd_load args;
  uint64_t now_ns;
  uint64_t retry_ns;
  struct load *conn;
  struct load *free;
  struct load *wait_head;
  struct load *wait_tail;
  uint64_t *sent_ns; /* depth_max of each connection */
  uint8_t *pattern;
  uint32_t used;
  bool restarting; /* aborting everything: nothing is opened meanwhile */
  struct np_load_stats stats;
};

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }
static struct load *load_of(struct np_session *s) { return NP_CONTAINER_OF(s, struct load, base); }

size_t np_loads_bytes(const struct np_loads_config *config) {
  return align64(sizeof(struct np_loads)) + align64((size_t)config->conns_max * sizeof(struct load)) +
         align64((size_t)config->conns_max * config->depth_max * sizeof(uint64_t)) + align64(NP_CHARGEN_BYTES);
}

struct np_loads *np_loads_init(void *mem, const struct np_loads_config *config, const struct np_loads_env *env) {
  uint8_t *p = mem;
  struct np_loads *ls = mem;
  memset(mem, 0, np_loads_bytes(config));
  ls->env = *env;
  ls->config = *config;
  p += align64(sizeof *ls);
  ls->conn = (struct load *)(void *)p;
  p += align64((size_t)config->conns_max * sizeof(struct load));
  ls->sent_ns = (uint64_t *)(void *)p;
  p += align64((size_t)config->conns_max * config->depth_max * sizeof(uint64_t));
  ls->pattern = p;
  np_chargen_fill(p);
  for (uint32_t i = config->conns_max; i > 0; i--) {
    struct load *l = &ls->conn[i - 1];
    l->owner = ls;
    l->next = ls->free;
    ls->free = l;
  }
  return ls;
}

struct np_load_stats *np_loads_stats(struct np_loads *ls) { return &ls->stats; }

static void wait_for_room(struct load *l) {
  struct np_loads *ls = l->owner;
  if (l->flags & LF_DIRTY) return;
  l->flags |= LF_DIRTY;
  l->next = NULL;
  if (ls->wait_tail != NULL) {
    ls->wait_tail->next = l;
  } else {
    ls->wait_head = l;
  }
  ls->wait_tail = l;
}

static uint64_t *stamp(struct load *l, uint32_t message) {
  struct np_loads *ls = l->owner;
  size_t slot = (size_t)(l - ls->conn);
  return &ls->sent_ns[slot * ls->config.depth_max + message % ls->config.depth_max];
}

static void latency(struct np_loads *ls, uint64_t ns) {
  ls->stats.latency_ns_max = ns > ls->stats.latency_ns_max ? ns : ls->stats.latency_ns_max;
  uint32_t top = ns == 0 ? 0 : 63u - (uint32_t)__builtin_clzll(ns);
  uint64_t i = ns; /* dataplane/load.go turns it back */
  if (top >= NP_LOAD_SUB_BITS) {
    uint32_t shift = top - NP_LOAD_SUB_BITS;
    i = ((uint64_t)shift << NP_LOAD_SUB_BITS) + (ns >> shift);
  }
  ls->stats.latency[np_min_u64(i, NP_LOAD_BUCKETS - 1)]++;
}

/* May another message begin? */
static bool may_begin(const struct load *l) {
  const struct np_cmd_load *a = &l->owner->args;
  if (l->flags & LF_ENDING) return false;
  switch (a->mode) {
    case NP_LOAD_SEND: return true;
    case NP_LOAD_ECHO: return l->begun - l->done < a->depth;
    case NP_LOAD_CONNECT: return l->begun == 0;
    default: return false;
  }
}

/* Hands over what may be sent, in pieces of one segment. */
static void pump(struct load *l) {
  struct np_loads *ls = l->owner;
  struct np_stream *stream = l->base.stream;
  struct np_pool *pool = ls->env.pool;
  if (stream == NULL || !(l->flags & LF_OPEN)) return;
  uint32_t most = np_min_u32(stream->seg_bytes, pool->chunk_bytes - NP_BUF_DATA_OFF);
  uint32_t reserve = pool->count / 4;
  uint32_t room = stream->ops->room(stream);
  struct np_bufq out = {0};
  for (uint32_t i = 0; i < SEGS_PER_PUMP && (l->cut_bytes != 0 || may_begin(l)); i++) {
    uint32_t piece = np_min_u32(l->cut_bytes != 0 ? l->cut_bytes : ls->args.size_bytes, most);
    if (room < piece || np_pool_avail(pool) <= reserve) break;
    if (l->cut_bytes == 0) {
      l->cut_bytes = ls->args.size_bytes;
      *stamp(l, l->begun++) = ls->now_ns;
      if (ls->args.mode == NP_LOAD_SEND) ls->stats.messages++;
    }
    struct np_buf *b = np_pool_get(pool);
    memcpy(np_buf_append(b, piece), ls->pattern + l->tx_at % PERIOD, piece);
    np_bufq_add(&out, b);
    room -= piece;
    l->tx_at += piece;
    l->cut_bytes -= piece;
    ls->stats.bytes_tx += piece;
  }
  if (out.head != NULL && stream->ops->send(stream, out.head, 0) != NP_ERR_OK) return;
  if (l->cut_bytes != 0 || may_begin(l)) wait_for_room(l);
}

static void complete(struct load *l) {
  struct np_loads *ls = l->owner;
  uint32_t size = ls->args.size_bytes;
  while (l->done != l->begun && l->rx_at >= ((uint64_t)l->done + 1) * size) { /* bound: depth */
    latency(ls, ls->now_ns - (ls->args.mode == NP_LOAD_CONNECT ? l->opened_ns : *stamp(l, l->done)));
    l->done++;
    ls->stats.messages++;
  }
  if (ls->args.mode != NP_LOAD_CONNECT || l->done == 0 || (l->flags & LF_ENDING)) return;
  l->flags |= LF_ENDING;
  l->base.stream->ops->shutdown(l->base.stream);
}

static void load_data(struct np_session *s, struct np_buf *chain, uint32_t bytes) {
  struct load *l = load_of(s);
  struct np_loads *ls = l->owner;
  bool compare = ls->args.no_compare == 0 &&
                 (ls->args.mode == NP_LOAD_ECHO || ls->args.mode == NP_LOAD_CONNECT || ls->args.mode == NP_LOAD_RECEIVE);
  ls->stats.bytes_rx += bytes;
  for (struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: bytes */
    if (compare && memcmp(np_buf_cdata(b), ls->pattern + l->rx_at % PERIOD, b->len) != 0) ls->stats.mismatches++;
    l->rx_at += b->len;
  }
  np_buf_put_chain(chain);
  s->stream->ops->consumed(s->stream, bytes);
  if (ls->args.mode != NP_LOAD_ECHO && ls->args.mode != NP_LOAD_CONNECT) return;
  complete(l);
  pump(l);
}

static void load_writable(struct np_session *s) { pump(load_of(s)); }

static void load_eof(struct np_session *s) {
  load_of(s)->flags |= LF_ENDING;
  s->stream->ops->shutdown(s->stream);
}

static void give_back(struct load *l) {
  struct np_loads *ls = l->owner;
  l->flags = 0;
  l->next = ls->free;
  ls->free = l;
  ls->used--;
}

static void load_closed(struct np_session *s, enum np_err err) {
  struct load *l = load_of(s);
  struct np_loads *ls = l->owner;
  if (l->flags & LF_OPEN) {
    ls->stats.open--;
  } else {
    ls->stats.opening--;
  }
  bool ours = ls->restarting || ((l->flags & LF_ENDING) && ls->args.mode == NP_LOAD_CONNECT);
  if (ours && err != NP_ERR_RESET) {
    ls->stats.closed++;
  } else {
    ls->stats.failed++;
    ls->retry_ns = ls->now_ns + RETRY_NS;
  }
  s->stream = NULL;
  if (l->flags & LF_DIRTY) {
    l->flags |= LF_DEAD;
    return;
  }
  give_back(l);
}

static void load_established(struct np_session *s) {
  struct load *l = load_of(s);
  struct np_loads *ls = l->owner;
  l->flags |= LF_OPEN;
  ls->stats.opening--;
  ls->stats.open++;
  ls->stats.opened++;
  pump(l);
}

static const struct np_session_ops load_ops = {
    .data = load_data,
    .writable = load_writable,
    .eof = load_eof,
    .closed = load_closed,
    .established = load_established,
};

bool np_session_is_load(const struct np_session *session) { return session->ops == &load_ops; }

enum np_err np_loads_start(struct np_loads *ls, const struct np_cmd_load *args, uint64_t now_ns) {
  bool none = args->mode == NP_LOAD_NONE;
  if (args->mode >= NP_LOAD_MODE_COUNT) return NP_ERR_INVALID;
  if (!none && (args->conns == 0 || args->conns > ls->config.conns_max || args->remote_port == 0)) return NP_ERR_INVALID;
  if (!none && (args->size_bytes == 0 || args->size_bytes > NP_LOAD_SIZE_MAX)) return NP_ERR_INVALID;
  if (!none && (args->depth == 0 || args->depth > ls->config.depth_max)) return NP_ERR_INVALID;
  ls->now_ns = now_ns;
  ls->restarting = true;
  for (uint32_t i = 0; i < ls->config.conns_max; i++) { /* rare, and not on a packet's way */
    struct np_stream *stream = ls->conn[i].base.stream;
    if (stream != NULL) stream->ops->abort(stream);
  }
  ls->restarting = false;
  memset(&ls->stats, 0, sizeof ls->stats);
  ls->args = *args;
  ls->retry_ns = 0;
  return NP_ERR_OK;
}

static bool open_one(struct np_loads *ls) {
  struct load *l = ls->free;
  struct np_flow flow = {.remote_port = ls->args.remote_port};
  flow.local = np_addr_from_v6(ls->args.local);
  flow.remote = np_addr_from_v6(ls->args.remote);
  ls->free = l->next;
  *l = (struct load){.base = {.ops = &load_ops}, .owner = ls, .opened_ns = ls->now_ns};
  ls->used++;
  if (ls->env.connect(ls->env.ctx, &flow, &l->base) == NP_ERR_OK) {
    ls->stats.opening++;
    return true;
  }
  ls->stats.failed++;
  ls->retry_ns = ls->now_ns + RETRY_NS;
  give_back(l);
  return false;
}

bool np_loads_run(struct np_loads *ls, uint64_t now_ns) {
  ls->now_ns = now_ns;
  bool want = ls->args.mode != NP_LOAD_NONE && ls->used < ls->args.conns;
  if (!want && ls->wait_head == NULL) return false;
  uint32_t most = ls->stats.opened == 0 ? OPENING_FIRST : OPENING_MAX;
  for (uint32_t i = 0; want && i < OPENS_PER_RUN; i++) {
    want = ls->free != NULL && ls->used < ls->args.conns && ls->stats.opening < most && now_ns >= ls->retry_ns;
    if (want) want = open_one(ls);
  }
  struct load *last = ls->wait_tail;
  for (struct load *l = ls->wait_head; l != NULL;) { /* bound: those that waited when this began */
    ls->wait_head = l->next;
    if (ls->wait_head == NULL) ls->wait_tail = NULL;
    l->flags &= ~LF_DIRTY;
    if (l->flags & LF_DEAD) {
      give_back(l);
    } else {
      pump(l);
    }
    l = l == last ? NULL : ls->wait_head;
  }
  return true; /* it polls: a generator does not sleep while it has something to do */
}
