/* What the clients of a simulated run do, each as its seed drew. */
#include <string.h>

#include "base/bytes.h"
#include "sim.h"
#include "tcp/tcp_int.h"

#define SIP_NS 20000000u /* a slow reader reads every 20 ms */

static uint8_t pattern(const struct client *c, uint32_t i) { return wire_byte(c->key, i); }

static void fill(struct client *c) {
  struct np_stream *stream = c->session.stream;
  struct np_pool *pool = np_core_pool(c->sim->host[0].core);
  while (stream && !c->closed && c->sent < c->total) {
    uint32_t room = stream->ops->room(stream);
    uint32_t n = np_min_u32(np_min_u32(room, c->total - c->sent), 1 + np_rng_below(&c->sim->rng, stream->seg_bytes));
    /* as sessions do: a quarter of the pool stays for what comes in */
    if (n == 0 || pool->free_count < pool->count / 4) return;
    struct np_buf *b = np_pool_get(pool);
    if (!b) return;
    uint8_t *p = np_buf_append(b, n);
    for (uint32_t i = 0; i < n; i++) p[i] = pattern(c, c->sent + i);
    c->sent += n;
    if (stream->ops->send(stream, b, 0) != NP_ERR_OK) return;
  }
  if (stream && c->sent == c->total && !c->shut && (c->behaviour == B_HALF_CLOSE || c->behaviour == B_DISCARD)) {
    c->shut = true;
    stream->ops->shutdown(stream);
  }
}

static void on_data(struct np_session *session, struct np_buf *chain, uint32_t bytes) {
  struct client *c = (struct client *)(void *)session;
  uint32_t n = 0;
  for (const struct np_buf *b = chain; b; b = b->next)
    for (uint32_t i = 0; i < b->len; i++, n++)
      if (np_buf_cdata(b)[i] != pattern(c, c->got + n)) c->bad = true;
  if (n != bytes || c->got + n > c->sent) c->bad = true;
  c->got += n;
  np_buf_put_chain(chain);
  if (c->behaviour == B_SLOW) c->held += n;
  else session->stream->ops->consumed(session->stream, n);
  if (c->behaviour == B_ABORT && c->got >= c->abort_at) {
    session->stream->ops->abort(session->stream);
    return;
  }
  if (c->got == c->total && !c->shut && (c->behaviour == B_ECHO || c->behaviour == B_SLOW)) {
    c->shut = true;
    session->stream->ops->shutdown(session->stream);
  }
}
static void on_writable(struct np_session *session) { fill((struct client *)(void *)session); }
static void on_eof(struct np_session *session) { ((struct client *)(void *)session)->eof = true; }
static void on_closed(struct np_session *session, enum np_err err) {
  struct client *c = (struct client *)(void *)session;
  c->closed = true;
  c->err = err;
  session->stream = NULL;
}
static void on_established(struct np_session *session) {
  struct client *c = (struct client *)(void *)session;
  c->established = true;
  fill(c);
}

static const struct np_session_ops ops = {
    .data = on_data, .writable = on_writable, .eof = on_eof, .closed = on_closed, .established = on_established};

void client_init(struct client *c, struct sim *s, uint32_t index) {
  memset(c, 0, sizeof *c);
  c->sim = s;
  c->session.ops = &ops;
  c->behaviour = (enum behaviour)np_rng_below(&s->rng, B_COUNT);
  c->v6 = index & 1;
  c->start_ns = s->now_ns + (uint64_t)np_rng_below(&s->rng, 3000) * 1000000u;
  c->next_ns = UINT64_MAX;
  /* most transfers are small, some fill every window there is */
  c->total = 1 + np_rng_below(&s->rng, np_rng_below(&s->rng, 4) == 0 ? 400000 : 5000);
  c->abort_at = 1 + np_rng_below(&s->rng, c->total);
}

static void open_client(struct client *c) {
  struct np_flow flow = {.remote_port = 0};
  c->started = true;
  flow.remote = c->v6 ? np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 1}) : np_addr_from_v4_be((uint8_t[]){198, 18, 0, 1});
  flow.remote_port = c->behaviour == B_REFUSED ? 99 : c->behaviour == B_DISCARD ? 9 : 7;
  struct np_stream *stream = NULL;
  enum np_err err = np_tcp_connect(np_core_tcp(c->sim->host[0].core), &flow, &c->session, c->sim->now_ns, &stream);
  if (err) {
    c->closed = true;
    c->err = err;
    return;
  }
  c->session.stream = stream;
  const struct np_flow *f = &np_tcp_of(stream)->flow;
  c->key = wire_key(&f->local, f->local_port, &f->remote, f->remote_port);
  if (c->behaviour == B_SLOW) c->next_ns = c->sim->now_ns + SIP_NS;
}

void client_poll(struct client *c, uint64_t now_ns) {
  if (!c->started && now_ns >= c->start_ns) open_client(c);
  if (c->closed || !c->session.stream) return;
  if (c->established) fill(c);
  if (now_ns < c->next_ns) return;
  c->next_ns = now_ns + SIP_NS;
  uint32_t sip = np_min_u32(c->held, 1 + np_rng_below(&c->sim->rng, 20000));
  if (sip) {
    c->held -= sip;
    c->session.stream->ops->consumed(c->session.stream, sip);
  }
}

uint64_t client_next_ns(const struct client *c) {
  if (!c->started) return c->start_ns;
  return c->closed ? UINT64_MAX : c->next_ns;
}

const char *client_verdict(const struct client *c) {
  if (c->bad) return "bytes differ from what was sent";
  if (!c->closed) return "did not end";
  switch (c->behaviour) {
    case B_ABORT: return c->err == NP_ERR_ABORTED ? NULL : "abort ended otherwise";
    case B_REFUSED: return c->err == NP_ERR_REFUSED ? NULL : "closed port was not refused";
    case B_DISCARD: return c->err == NP_ERR_EOF && c->sent == c->total ? NULL : "one-way transfer did not end in good order";
    default:
      if (c->err != NP_ERR_EOF) return "did not end in good order";
      return c->got == c->total ? NULL : "echo is short";
  }
}
