/* The workload: connections, each with what its two ends do. What both ends send is known by its
 * place (wire_byte), so either can tell a wrong byte at once. */
#include <string.h>

#include "sim.h"

#define RETRY_NS (10 * SIM_MS) /* buffers were short: look again */

/* ---- what an end does ---- */

static struct np_stream *stream_of(const struct app *a) { return a->closed ? NULL : a->session.stream; }
static uint64_t local_now(const struct app *a) { return a->sim->now_ns + a->sim->host[a->host].clock_ns; }

/* Bytes it may have sent by now. */
static uint32_t allowed(const struct app *a) {
  if (a->ask == 0) return a->total;
  uint64_t n = (uint64_t)(a->got / a->ask + (a == &a->pair->end[0] ? 1 : 0)) * a->give;
  return (uint32_t)np_min_u64(n, a->total);
}

static void let_go(struct app *a) {
  struct np_stream *st = stream_of(a);
  a->detached = a->closed = true;
  a->err = NP_ERR_EOF;
  st->ops->detach(st);
  a->session.stream = NULL;
}

/* Ends its half, or all, when its time has come. */
static void maybe_end(struct app *a) {
  struct np_stream *st = stream_of(a);
  if (!st) return;
  bool all_sent = a->sent == a->total;
  bool over = all_sent && (a->eof || a->got >= a->expect);
  if (a->ends == E_ABORT && (a->got + a->sent >= a->abort_at || over)) {
    st->ops->abort(st);
    return;
  }
  if (a->shut || !all_sent) return;
  if (a->ends == E_DETACH) {
    let_go(a);
    return;
  }
  if (a->ends == E_SHUT_SENT || (a->ends == E_SHUT_GOT && a->got >= a->expect) || a->eof) {
    a->shut = true;
    st->ops->shutdown(st);
  }
}

/* One buffer of at most n bytes. NULL: buffers are short. */
static struct np_buf *piece(struct app *a, struct np_pool *pool, uint32_t n) {
  /* as sessions do: a quarter of the pool stays for what comes in */
  if (pool->free_count < pool->count / 4) return NULL;
  struct np_buf *b = np_pool_get(pool);
  if (!b) return NULL;
  n = np_min_u32(n, np_buf_tailroom(b));
  uint8_t *p = np_buf_append(b, n);
  for (uint32_t i = 0; i < n; i++) p[i] = wire_byte(a->key, a->sent + i);
  a->sent += n;
  return b;
}

/* One write. Return: false when it has to wait. */
static bool write_some(struct app *a, struct np_stream *st) {
  struct np_tcp *tcp = np_tcp_owner(np_tcp_of(st));
  struct np_rng *r = &a->pair->rng;
  uint32_t room = st->ops->room(st);
  uint32_t n = np_min_u32(np_min_u32(room, allowed(a) - a->sent), 1 + np_rng_below(r, a->write_max));
  if (n == 0) return false;
  struct np_buf *head = NULL;
  struct np_buf **at = &head;
  uint32_t most = np_rng_below(r, 8) == 0 ? 4096 : st->seg_bytes; /* pieces should be segments, but need not */
  for (uint32_t k = 0; n > 0 && k < 8; k++) {
    uint32_t before = a->sent;
    struct np_buf *b = piece(a, tcp->env.pool, np_min_u32(n, most));
    if (!b) break;
    n -= a->sent - before;
    *at = b;
    at = &b->next;
  }
  if (!head) {
    a->next_ns = a->sim->now_ns + RETRY_NS;
    return false;
  }
  bool more = np_rng_below(r, 8) == 0;
  if (st->ops->send(st, head, more ? NP_SEND_MORE : 0) != NP_ERR_OK) a->bad = true;
  return true;
}

static void fill(struct app *a) {
  struct np_stream *st = stream_of(a);
  for (uint32_t n = 0; st && a->established && a->sent < allowed(a) && n < 64; n++) {
    if (a->think_ns != 0 && a->sim->now_ns < a->next_ns && a->next_ns != UINT64_MAX) break;
    if (!write_some(a, st)) break;
    if (a->think_ns != 0) {
      a->next_ns = a->sim->now_ns + a->think_ns;
      break;
    }
    if (n == 63) a->next_ns = a->sim->now_ns + 1000;
    maybe_end(a);
    st = stream_of(a);
  }
  maybe_end(a);
}

static void consume(struct app *a, uint32_t bytes) {
  struct np_stream *st = stream_of(a);
  if (st && bytes) st->ops->consumed(st, bytes);
}

static void on_data(struct np_session *session, struct np_buf *chain, uint32_t bytes) {
  struct app *a = (struct app *)(void *)session;
  uint32_t n = 0;
  for (const struct np_buf *b = chain; b; b = b->next)
    for (uint32_t i = 0; i < b->len; i++, n++)
      if (np_buf_cdata(b)[i] != wire_byte(a->key_in, a->got + n)) a->bad = true;
  if (n != bytes || a->got + n > a->expect || a->eof) a->bad = true;
  a->got += n;
  np_buf_put_chain(chain);
  if (a->reads == R_STALL && !a->stalled && a->got >= a->stall_at) {
    a->stalled = true;
    a->stalled_until_ns = a->sim->now_ns + a->stall_ns;
    a->next_sip_ns = a->stalled_until_ns;
  }
  bool keeps = a->reads == R_SLOW || (a->stalled && a->sim->now_ns < a->stalled_until_ns);
  if (keeps) a->held += n;
  else consume(a, n);
  fill(a);
}

static void on_writable(struct np_session *session) { fill((struct app *)(void *)session); }
static void on_eof(struct np_session *session) {
  struct app *a = (struct app *)(void *)session;
  if (a->eof) a->bad = true;
  a->eof = true;
  maybe_end(a);
}
static void on_closed(struct np_session *session, enum np_err err) {
  struct app *a = (struct app *)(void *)session;
  if (a->closed) a->bad = true;
  a->closed = true;
  a->err = err;
  session->stream = NULL;
  uint32_t note[4] = {(uint32_t)err, a->got, a->sent, a->pair->flow.local_port};
  wire_note(&a->sim->wire, note, sizeof note, a->sim->now_ns, 0x2000);
}
static void on_established(struct np_session *session) {
  struct app *a = (struct app *)(void *)session;
  if (a->established) a->bad = true;
  a->established = true;
  fill(a);
}

static const struct np_session_ops ops = {
    .data = on_data, .writable = on_writable, .eof = on_eof, .closed = on_closed, .established = on_established};

static void poll_app(struct app *a) {
  uint64_t now_ns = a->sim->now_ns;
  if (!stream_of(a) || a->sim->host[a->host].stalled) return;
  if (a->next_ns <= now_ns) {
    if (a->think_ns == 0) a->next_ns = UINT64_MAX;
    fill(a);
  }
  if (a->next_sip_ns > now_ns || !stream_of(a)) return;
  uint32_t sip = a->reads == R_SLOW ? np_min_u32(a->held, 1 + np_rng_below(&a->pair->rng, a->sip_bytes)) : a->held;
  a->held -= sip;
  a->next_sip_ns = a->reads == R_SLOW ? now_ns + a->sip_ns : UINT64_MAX;
  consume(a, sip);
}

/* ---- connections ---- */

static void draw_end(struct sim *s, struct pair *p, struct app *a, bool opener) {
  struct np_rng *r = &p->rng;
  a->sim = s;
  a->pair = p;
  a->session.ops = &ops;
  a->next_ns = a->next_sip_ns = UINT64_MAX;
  /* most transfers are small, some fill every window there is */
  a->total = np_rng_below(r, np_rng_below(r, 5) == 0 ? 400000 : 6000);
  if (np_rng_below(r, 6) == 0) a->total = 0;
  a->write_max = np_rng_below(r, 4) == 0 ? 1 + np_rng_below(r, 40) : 1 + np_rng_below(r, 8000);
  if (a->write_max < 40 && a->total > 6000) a->total = 6000;
  bool thinks = np_rng_below(r, 4) == 0;
  bool idles = sim_once_in(s, F_IDLE, r, 3);
  uint64_t think = (1 + np_rng_below(r, 60)) * SIM_MS;
  if (thinks) a->think_ns = idles ? think * 500 : think;
  if (a->think_ns != 0) a->next_ns = 0;
  uint32_t how = np_rng_below(r, 8);
  if (sim_has(s, F_SLOW)) a->reads = how == 0 ? R_SLOW : how == 1 ? R_STALL : R_FAST;
  a->sip_bytes = 200 + np_rng_below(r, 40000);
  a->sip_ns = (1 + np_rng_below(r, 40)) * SIM_MS;
  a->stall_at = np_rng_below(r, 20000);
  a->stall_ns = np_rng_below(r, np_rng_below(r, 4) == 0 ? 200000 : 5000) * SIM_MS;
  if (a->reads == R_SLOW) a->next_sip_ns = 0;
  how = np_rng_below(r, 3);
  a->ends = opener ? (how == 0 ? E_SHUT_SENT : E_SHUT_GOT) : how == 0 ? E_SHUT_SENT : E_SHUT_EOF;
  how = np_rng_below(r, 14);
  a->abort_at = np_rng_below(r, 8000);
  if (sim_has(s, F_ABORT) && how < 2) a->ends = how == 0 ? E_ABORT : E_DETACH;
}

/* All its pauses together stay below some minutes. */
static void limit_pauses(struct app *a) {
  uint64_t writes = 1 + 2 * (uint64_t)a->total / a->write_max + (a->ask ? a->total / np_max_u32(a->give, 1) : 0);
  a->think_ns = np_min_u64(a->think_ns, 200 * SIM_SECOND / writes);
}

static void draw_rounds(struct pair *p) {
  struct np_rng *r = &p->rng;
  struct app *c = &p->end[0];
  struct app *v = &p->end[1];
  uint32_t rounds = 1 + np_rng_below(r, 30);
  c->give = v->ask = 1 + np_rng_below(r, 2000);
  v->give = c->ask = 1 + np_rng_below(r, np_rng_below(r, 4) == 0 ? 20000 : 2000);
  c->total = rounds * c->give;
  v->total = rounds * v->give;
  if (c->ends == E_SHUT_SENT) c->ends = E_SHUT_GOT;
  if (v->ends == E_SHUT_SENT) v->ends = E_SHUT_EOF;
}

static void draw_service(struct sim *s, struct pair *p) {
  struct np_rng *r = &p->rng;
  struct app *c = &p->end[0];
  struct app *v = &p->end[1];
  uint32_t kind = np_rng_below(r, 10);
  if (s->args.bytes) kind = 3;
  if (kind < 5) return; /* both ends ours */
  if (kind < 6 && c->ends != E_ABORT && c->ends != E_DETACH) {
    p->port = SIM_REFUSED_PORT;
  } else if (kind < 7) {
    p->port = 9;
    v->total = 0;
  } else {
    p->port = 7;
    if (c->total == 0) c->total = 1;
    v->total = c->total;
  }
  c->ask = v->ask = 0;
  v->reads = R_FAST;
  v->ends = E_SHUT_EOF;
}

void pair_draw(struct sim *s, uint32_t index) {
  struct pair *p = &s->pair[index];
  np_rng_init(&p->rng, s->args.seed * 1000 + index);
  struct np_rng *r = &p->rng;
  uint32_t from = np_rng_below(r, s->hosts);
  uint32_t to = (from + 1 + np_rng_below(r, s->hosts - 1)) % s->hosts;
  p->core = np_rng_below(r, s->host[from].cores);
  p->v6 = np_rng_below(r, 2) != 0;
  p->start_ns = s->now_ns + (uint64_t)np_rng_below(r, 3000) * SIM_MS;
  p->port = (uint16_t)(SIM_APP_PORT + np_rng_below(r, SIM_APP_PORTS));
  draw_end(s, p, &p->end[0], true);
  draw_end(s, p, &p->end[1], false);
  p->end[0].host = from;
  p->end[1].host = to;
  if (np_rng_below(r, 4) == 0) draw_rounds(p);
  draw_service(s, p);
  bool app = p->port >= SIM_APP_PORT && p->port < SIM_APP_PORT + SIM_APP_PORTS;
  if (sim_once_in(s, F_CROSS, r, 12) && app) {
    p->cross = true;
    p->port = (uint16_t)(20000 + index);
  }
  if (s->args.bytes) {
    p->end[0] = (struct app){.sim = s, .pair = p, .session.ops = &ops, .total = s->args.bytes, .write_max = 16000, .next_ns = UINT64_MAX,
                             .next_sip_ns = UINT64_MAX, .ends = E_SHUT_SENT};
    p->port = 7;
    p->end[1].host = 1;
    p->end[1].total = s->args.bytes;
  }
  limit_pauses(&p->end[0]);
  limit_pauses(&p->end[1]);
  p->end[0].expect = p->end[1].total;
  p->end[1].expect = p->end[0].total;
  /* who lets go, or stops sending first while the other still sends, makes it reset */
  if (p->end[0].ends >= E_ABORT || p->end[1].ends >= E_ABORT) p->may_fail = true;
}

static void remember_keys(struct app *a, const struct np_flow *f) {
  a->key = wire_key(&f->local, f->local_port, &f->remote, f->remote_port);
  a->key_in = wire_key(&f->remote, f->remote_port, &f->local, f->local_port);
}

static enum np_err open_end(struct pair *p, struct app *a, uint32_t core, const struct np_flow *flow) {
  struct np_stream *stream = NULL;
  struct np_tcp *tcp = np_core_tcp(a->sim->host[a->host].core[core].core);
  a->used = true;
  enum np_err err = np_tcp_connect(tcp, flow, &a->session, local_now(a), &stream);
  if (err) {
    a->closed = true;
    a->err = err;
    return err;
  }
  a->session.stream = stream;
  remember_keys(a, &np_tcp_of(stream)->flow);
  if (a == &p->end[0]) p->flow = np_tcp_of(stream)->flow;
  return NP_ERR_OK;
}

static void open_pair(struct pair *p) {
  struct app *a = &p->end[0];
  struct app *b = &p->end[1];
  struct sim *s = a->sim;
  p->started = true;
  struct np_flow flow = {.remote = host_addr(b->host, p->v6), .remote_port = p->port};
  if (p->cross) flow.local_port = (uint16_t)(p->port + 1000);
  if (!s->host[a->host].on || (p->cross && !s->host[b->host].on)) {
    p->may_fail = a->used = a->closed = true;
    a->err = NP_ERR_PORTDOWN;
    return;
  }
  open_end(p, a, p->core, &flow);
  if (!p->cross) return;
  struct np_flow back = {.remote = host_addr(a->host, p->v6), .remote_port = (uint16_t)(p->port + 1000), .local_port = p->port};
  open_end(p, b, 0, &back);
  /* half of it may have ended before the other half came: then it is refused */
  p->may_fail = true;
}

void pair_poll(struct pair *p) {
  struct sim *s = p->end[0].sim;
  if (!p->started && s->now_ns >= p->start_ns && !s->host[p->end[0].host].stalled) open_pair(p);
  poll_app(&p->end[0]);
  poll_app(&p->end[1]);
}

static uint64_t app_next_ns(const struct app *a) {
  if (!stream_of(a) || a->sim->host[a->host].stalled) return UINT64_MAX;
  uint64_t next = a->next_sip_ns;
  /* one that is past waits for room, and is called */
  bool writes = a->established && a->sent < allowed(a) && a->next_ns > a->sim->now_ns;
  if (writes) next = np_min_u64(next, a->next_ns);
  return next;
}

uint64_t pair_next_ns(const struct pair *p) {
  if (!p->started) return p->end[0].sim->host[p->end[0].host].stalled ? UINT64_MAX : p->start_ns;
  return np_min_u64(app_next_ns(&p->end[0]), app_next_ns(&p->end[1]));
}

bool pair_done(const struct pair *p) {
  return p->started && p->end[0].closed && (!p->end[1].used || p->end[1].closed);
}

static bool same_flow(const struct np_flow *opener, const struct np_flow *acceptor) {
  return opener->local_port == acceptor->remote_port && opener->remote_port == acceptor->local_port &&
         np_addr_eq(&opener->local, &acceptor->remote) && np_addr_eq(&opener->remote, &acceptor->local);
}

struct np_session *app_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns) {
  struct np_core *core = ctx;
  const struct np_core_listener *cl = listener_ctx;
  if (core->draining) return NULL;
  if (cl->core == core) return np_session_new(core->sessions, cl->kind, stream, cl->handle, now_ns);
  const struct listener *l = listener_ctx;
  struct sim *s = l->host->sim;
  const struct np_flow *flow = &np_tcp_of(stream)->flow;
  for (uint32_t i = 0; i < s->pairs; i++) {
    struct pair *p = &s->pair[i];
    struct app *a = &p->end[1];
    if (!p->started || a->used || a->host != l->host->index || !same_flow(&p->flow, flow)) continue;
    a->used = a->established = true;
    remember_keys(a, flow);
    a->session.stream = stream;
    /* not from inside the call that makes it */
    if (a->next_ns == UINT64_MAX) a->next_ns = s->now_ns;
    return &a->session;
  }
  return NULL;
}

/* ---- what may have become of it ---- */

/* A host short of buffers ends connections whose peer has not read for ten seconds (RFC 6429 §4). */
static bool gave_up_on_reader(const struct pair *p) {
  if (p->end[0].reads == R_FAST && p->end[1].reads == R_FAST) return false;
  uint64_t n = 0;
  for (uint32_t k = 0; k < 2; k++) {
    const struct host *h = &p->end[0].sim->host[p->end[k].host];
    for (uint32_t i = 0; h->on && i < h->cores; i++) n += np_core_shared(h->core[i].core)->counters->counter[NP_C_TCP_PERSIST_ENDED];
  }
  return n != 0;
}

static bool failed_as_allowed(const struct pair *p, const struct app *a) {
  if (p->may_fail) return true;
  if ((a->err == NP_ERR_TIMEDOUT || a->err == NP_ERR_RESET) && gave_up_on_reader(p)) return true;
  return p->may_time_out && (a->err == NP_ERR_TIMEDOUT || a->err == NP_ERR_RESET || a->err == NP_ERR_UNREACHABLE);
}

static const char *end_verdict(const struct pair *p, const struct app *a, const struct app *peer) {
  if (a->bad) return "bytes differ from what was sent, or calls that make no sense";
  if (!a->closed) return "did not end";
  if (a->err == NP_ERR_ABORTED && a->ends == E_ABORT) return NULL;
  if (a->detached) return NULL;
  if (p->port == SIM_REFUSED_PORT) return a->err == NP_ERR_REFUSED || failed_as_allowed(p, a) ? NULL : "closed port was not refused";
  if (a->err != NP_ERR_EOF) return failed_as_allowed(p, a) ? NULL : "did not end in good order";
  if (a->got != peer->total && !p->may_fail) return "ended in good order, but not all has come";
  if (a->sent != a->total && !p->may_fail) return "ended in good order, but not all was sent";
  return NULL;
}

const char *pair_verdict(const struct pair *p) {
  const char *wrong = end_verdict(p, &p->end[0], &p->end[1]);
  if (wrong || !p->end[1].used) return wrong;
  return end_verdict(p, &p->end[1], &p->end[0]);
}
