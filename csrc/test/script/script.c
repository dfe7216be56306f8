/* A packet script's clock, application and actions. */
#include "script.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "wire/pkt.h"

#define STEP_NS 1000000u /* time passes in steps of 1 ms */

static int fail(const struct script *s, const char *fmt, ...) NP_PRINTF(2, 3);
static int fail(const struct script *s, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "%s:%d (IPv%d): ", s->path, s->line, s->v6 ? 6 : 4);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
  return 1;
}

/* ---- the application ---- */

static void app_data(struct np_session *session, struct np_buf *chain, uint32_t bytes) {
  struct script *s = (struct script *)(void *)session;
  uint32_t n = 0;
  for (struct np_buf *b = chain; b; b = b->next)
    for (uint32_t i = 0; i < b->len; i++, n++)
      if (np_buf_cdata(b)[i] != script_pattern(s->got + n)) s->bad_data = true;
  if (n != bytes) s->bad_data = true;
  s->got += n;
  np_buf_put_chain(chain);
  if (s->consume_auto) session->stream->ops->consumed(session->stream, bytes);
  else s->unconsumed += bytes;
}
static void app_writable(struct np_session *session) { (void)session; }
static void app_eof(struct np_session *session) { ((struct script *)(void *)session)->eof = true; }
static void app_closed(struct np_session *session, enum np_err err) {
  struct script *s = (struct script *)(void *)session;
  s->closed = true;
  s->closed_err = err;
  session->stream = NULL;
}
static void app_established(struct np_session *session) { ((struct script *)(void *)session)->established = true; }

static const struct np_session_ops app_ops = {
    .data = app_data, .writable = app_writable, .eof = app_eof, .closed = app_closed, .established = app_established};

/* Connections beyond the first (option flow) get a session that only takes and frees. */
static void other_data(struct np_session *session, struct np_buf *chain, uint32_t bytes) {
  np_buf_put_chain(chain);
  session->stream->ops->consumed(session->stream, bytes);
}
static void other_event(struct np_session *session) { (void)session; }
static void other_closed(struct np_session *session, enum np_err err) {
  (void)err;
  free(session);
}
static const struct np_session_ops other_ops = {
    .data = other_data, .writable = other_event, .eof = other_event, .closed = other_closed, .established = other_event};

/* ---- the environment of TCP ---- */

static void env_output(void *ctx, struct np_buf *seg, const struct np_flow *flow, uint8_t tos,
                       struct np_tcp_path *path, uint64_t now_ns) {
  struct script *s = ctx;
  (void)path;
  (void)now_ns;
  if (s->out_count < SCRIPT_OUT_MAX) {
    struct out_seg *o = &s->out[(s->out_head + s->out_count++) % SCRIPT_OUT_MAX];
    o->at_ns = s->now_ns;
    o->tos = tos;
    o->len = 0;
    for (const struct np_buf *b = seg; b; b = b->next) {
      memcpy(o->bytes + o->len, np_buf_cdata(b), b->len);
      o->len += b->len;
    }
    if ((o->bytes[13] & 2) && flow->remote_port == 40000 && !(s->first_isn && s->our_isn_known)) {
      s->our_isn = np_load_be32(o->bytes + 4);
      s->our_isn_known = true;
      s->our_port = flow->local_port;
    }
    const uint8_t *t = o->bytes;
    for (uint32_t i = 20; i + 1 < (uint32_t)(t[12] >> 4) * 4;) {
      if (t[i] == 8) s->last_ts = np_load_be32(t + i + 2);
      i += t[i] <= 1 ? 1 : t[i + 1];
    }
    if (s->trace) seg_print(s, "out", o->bytes, o->len);
  }
  /* what a lower layer does: push headers, leave them, drop the reference */
  np_buf_push(seg, 54);
  np_buf_put(seg);
}
static uint32_t env_mtu(void *ctx, const struct np_addr *remote) {
  (void)remote;
  const struct script *s = ctx;
  return s->mtu_bytes + (s->v6 ? 20 : 0); /* same MSS for both families */
}
static uint32_t env_pmtu(void *ctx, const struct np_addr *remote) {
  const struct script *s = ctx;
  (void)remote;
  return s->pmtu_bytes == 0 ? 0 : s->pmtu_bytes + (s->v6 ? 20 : 0);
}
static enum np_err env_source(void *ctx, const struct np_addr *remote, struct np_addr *out) {
  (void)remote;
  const struct script *s = ctx;
  *out = s->v6 ? np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 1}) : np_addr_from_v4_be((uint8_t[]){198, 18, 0, 1});
  return NP_ERR_OK;
}
static void env_confirm(void *ctx, struct np_tcp_path *path, uint64_t now_ns) {
  (void)ctx;
  (void)path;
  (void)now_ns;
}
static struct np_session *env_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns) {
  struct script *s = ctx;
  (void)listener_ctx;
  (void)now_ns;
  if (s->session.stream || s->closed) {
    struct np_session *other = calloc(1, sizeof *other);
    other->ops = &other_ops;
    other->stream = stream;
    return other;
  }
  s->session.ops = &app_ops;
  s->session.stream = stream;
  s->handle = stream->handle;
  return &s->session;
}

/* ---- life ---- */

struct script *script_new(const char *path, bool v6, bool trace) {
  struct script *s = calloc(1, sizeof *s);
  s->path = path;
  s->v6 = v6;
  s->trace = trace;
  np_tcp_config_default(&s->config);
  s->config.conns_max = 64;
  s->mtu_bytes = 1500;
  s->consume_auto = true;
  s->tolerance_ns = 3000000;
  s->peer_isn = 0xfffffff0u; /* wraps early in every script */
  s->now_ns = 1000000000;
  return s;
}

static void start(struct script *s) {
  s->started = true;
  s->out = calloc(SCRIPT_OUT_MAX, sizeof *s->out);
  s->pool_mem = aligned_alloc(SCRIPT_CHUNK, (size_t)SCRIPT_BUFS * SCRIPT_CHUNK);
  s->pool_stack = malloc(np_pool_stack_bytes(SCRIPT_BUFS));
  np_pool_init(&s->pool, s->pool_mem, SCRIPT_BUFS, SCRIPT_CHUNK, s->pool_stack, &s->counters);
  np_wheel_init(&s->wheel, s->now_ns);
  struct np_tcp_env env = {.pool = &s->pool, .wheel = &s->wheel, .counters = &s->counters, .output = env_output,
                           .mtu = env_mtu, .pmtu = env_pmtu, .source = env_source, .confirm = env_confirm, .accept = env_accept, .ctx = s};
  size_t bytes = (np_tcp_bytes(&s->config) + 63) & ~(size_t)63;
  s->tcp_mem = aligned_alloc(64, bytes);
  memset(s->tcp_mem, 0, bytes);
  s->tcp = np_tcp_init(s->tcp_mem, &s->config, &env, s->now_ns);
}

static void flush(struct script *s) {
  for (uint32_t i = 0; i < 16 && np_tcp_flush(s->tcp, s->now_ns); i++) continue;
}

static void pass(struct script *s, uint64_t ns) {
  uint64_t until = s->now_ns + ns;
  while (s->now_ns < until) {
    s->now_ns = np_min_u64(until, s->now_ns + STEP_NS);
    np_wheel_advance(&s->wheel, s->now_ns, 1024);
    flush(s);
  }
}

int script_end(struct script *s) {
  if (!s->started) return fail(s, "the script does nothing");
  if (s->bad_data) return fail(s, "the application got bytes that the peer never sent");
  np_tcp_abort_all(s->tcp, s->now_ns);
  flush(s);
  if (s->pool.free_count != s->pool.count)
    return fail(s, "%u buffers leaked", s->pool.count - s->pool.free_count);
  if (np_tcp_conn_count(s->tcp) != 0) return fail(s, "%u connections leaked", np_tcp_conn_count(s->tcp));
  if (s->wheel.count != 0) return fail(s, "%u timers left", s->wheel.count);
  return 0;
}

void script_free(struct script *s) {
  free(s->tcp_mem);
  free(s->pool_mem);
  free(s->pool_stack);
  free(s->out);
  free(s);
}

/* ---- actions ---- */

static int act_in(struct script *s, char **w, int n) {
  struct seg_spec spec;
  const char *wrong = seg_parse(&spec, w, n);
  if (wrong) return fail(s, "in: %s", wrong);
  if (spec.has_isn && !spec.flow) s->peer_isn = spec.isn;
  struct np_buf *b = seg_build(s, &spec);
  if (!b) return fail(s, "in: segment does not fit");
  if (s->trace) seg_print(s, "in", np_buf_cdata(b) + (s->v6 ? 54 : 34), b->len - (s->v6 ? 54 : 34));
  struct np_pkt pkt;
  memset(&pkt, 0, sizeof pkt);
  enum np_drop why = np_wire_parse(b, &pkt);
  if (why != NP_WIRE_OK) {
    s->counters.drop[why]++;
    np_buf_put(b);
    return 0;
  }
  np_tcp_burst(s->tcp, &pkt, 1, s->now_ns);
  flush(s);
  return 0;
}

static int act_out(struct script *s, char **w, int n) {
  struct seg_spec spec;
  const char *wrong = seg_parse(&spec, w, n);
  if (wrong) return fail(s, "out: %s", wrong);
  uint64_t waited = 0;
  while (s->out_count == 0 && waited < s->tolerance_ns) {
    pass(s, STEP_NS);
    waited += STEP_NS;
  }
  if (s->out_count == 0) return fail(s, "out: nothing left by %.4f s", (double)s->now_ns / 1e9);
  const struct out_seg *o = &s->out[s->out_head];
  if (s->now_ns - o->at_ns > s->tolerance_ns + waited) {
    seg_print(s, "out", o->bytes, o->len);
    return fail(s, "out: left at %.4f s, %.1f ms too early", (double)o->at_ns / 1e9, (double)(s->now_ns - o->at_ns) / 1e6);
  }
  char text[128];
  wrong = seg_match(s, &spec, o, text, sizeof text);
  if (wrong) return fail(s, "out: %s", wrong);
  s->out_head = (s->out_head + 1) % SCRIPT_OUT_MAX;
  s->out_count--;
  return 0;
}

static int act_listen(struct script *s) {
  struct np_tcp_listen l = {.port = 80, .backlog = s->backlog, .cookies = s->cookies, .dscp = (uint8_t)s->dscp, .handle = 1};
  uint32_t id;
  enum np_err err = np_tcp_listen(s->tcp, &l, &id);
  return err ? fail(s, "listen: %s", np_err_text(err)) : 0;
}

static int act_connect(struct script *s) {
  struct np_flow flow = {.remote_port = 40000};
  flow.remote = s->v6 ? np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 2}) : np_addr_from_v4_be((uint8_t[]){198, 18, 0, 2});
  s->session.ops = &app_ops;
  struct np_stream *stream = NULL;
  enum np_err err = np_tcp_connect(s->tcp, &flow, &s->session, s->now_ns, &stream);
  if (err) return fail(s, "connect: %s", np_err_text(err));
  s->session.stream = stream;
  s->handle = stream->handle;
  flush(s);
  return 0;
}

/* A packet-too-big message about the segment at seq. */
static int act_ptb(struct script *s, char **w, int n) {
  struct np_flow flow = {.local_port = s->our_port, .remote_port = 40000};
  flow.remote = s->v6 ? np_addr_from_v6((uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 2}) : np_addr_from_v4_be((uint8_t[]){198, 18, 0, 2});
  (void)env_source(s, &flow.remote, &flow.local);
  uint32_t seq = s->our_isn + (uint32_t)strtoul(w[1], NULL, 0);
  uint32_t mtu = (uint32_t)strtoul(w[2], NULL, 0) + (s->v6 ? 20 : 0);
  bool want = n == 3;
  bool took = np_tcp_error(s->tcp, &flow, seq, NP_ERR_UNREACHABLE, true, mtu);
  flush(s);
  return took == want ? 0 : fail(s, "ptb: %s", took ? "was believed" : "was refused");
}

static int act_write(struct script *s, uint32_t n) {
  struct np_stream *stream = s->session.stream;
  if (!stream) return fail(s, "write: no connection");
  if (stream->ops->room(stream) < n) return fail(s, "write: room for %u only", stream->ops->room(stream));
  struct np_buf *head = NULL;
  struct np_buf **tail = &head;
  while (n > 0) {
    struct np_buf *b = np_pool_get(&s->pool);
    uint32_t take = np_min_u32(n, stream->seg_bytes);
    uint8_t *p = np_buf_append(b, take);
    for (uint32_t i = 0; i < take; i++) p[i] = script_pattern(s->written++);
    *tail = b;
    tail = &b->next;
    n -= take;
  }
  enum np_err err = stream->ops->send(stream, head, 0);
  if (err) return fail(s, "write: %s", np_err_text(err));
  flush(s);
  return 0;
}

static int act_state(struct script *s, const char *want) {
  static const char *const names[NP_TCP_STATE_COUNT] = {"CLOSED", "LISTEN", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED",
      "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT"};
  struct np_conn_info info[64];
  uint32_t cursor = 0;
  const char *have = "GONE";
  do {
    uint32_t n = np_tcp_connections(s->tcp, &cursor, info, 64);
    for (uint32_t i = 0; i < n; i++)
      if (info[i].remote_port == 40000) have = names[info[i].state];
  } while (cursor != 0);
  return strcmp(have, want) == 0 ? 0 : fail(s, "state is %s, not %s", have, want);
}

static int act_drop(struct script *s, const char *reason, uint32_t want) {
  for (uint32_t d = 0; d < NP_DROP_COUNT; d++)
    if (strcmp(np_drop_text((enum np_drop)d), reason) == 0)
      return s->counters.drop[d] == want ? 0 : fail(s, "drop %s is %llu, not %u", reason, (unsigned long long)s->counters.drop[d], want);
  return fail(s, "no drop reason '%s'", reason);
}

static int act_count(struct script *s, const char *name, uint32_t want) {
  static const char *const names[] = {
#define NP_COUNTER(sym, text, help) text,
#define NP_DROP(sym, reason, layer, help)
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  };
  for (uint32_t c = 0; c < NP_COUNTER_COUNT; c++)
    if (strcmp(names[c], name) == 0)
      return s->counters.counter[c] == want ? 0 : fail(s, "%s is %llu, not %u", name, (unsigned long long)s->counters.counter[c], want);
  return fail(s, "no counter '%s'", name);
}

static int act_closed(struct script *s, const char *name) {
  static const struct {
    const char *name;
    enum np_err err;
  } errs[] = {
#define NP_ERR(sym, value, severity, text) {#sym, NP_ERR_##sym},
#include "np/np_err.def"
#undef NP_ERR
  };
  if (!s->closed) return fail(s, "the connection has not ended for the application");
  for (size_t i = 0; i < NP_COUNT_OF(errs); i++)
    if (strcmp(errs[i].name, name) == 0)
      return s->closed_err == errs[i].err ? 0 : fail(s, "ended with \"%s\"", np_err_text(s->closed_err));
  return fail(s, "no error '%s'", name);
}

static int act_config(struct script *s, const char *key, const char *value) {
  uint32_t v = (uint32_t)strtoul(value, NULL, 0);
#define FIELD(f) {#f, &s->config.f}
  const struct {
    const char *name;
    uint32_t *p;
  } fields[] = {FIELD(conns_max), FIELD(rcv_buf_bytes), FIELD(snd_buf_bytes), FIELD(ooo_segs_max), FIELD(rto_ms_min),
                FIELD(rto_ms_max), FIELD(delack_ms), FIELD(quick_acks), FIELD(keepalive_idle_ms), FIELD(keepalive_interval_ms),
                FIELD(keepalive_probes), FIELD(user_timeout_ms), FIELD(timewait_ms), FIELD(syn_retries),
                FIELD(synack_retries), FIELD(persist_ms), FIELD(challenge_per_s), FIELD(reset_per_s), FIELD(min_snd_mss), FIELD(ooo_runs_max),
                {"mtu", &s->mtu_bytes}, {"pmtu", &s->pmtu_bytes}, {"backlog", &s->backlog},
                {"dscp", &s->dscp}, {"first_isn", &s->first_isn}};
  const struct {
    const char *name;
    bool *p;
  } flags[] = {FIELD(nagle), FIELD(sack), FIELD(timestamps), FIELD(window_scaling), {"cookies", &s->cookies}};
  const struct {
    const char *name;
    uint8_t *p;
  } bytes[] = {FIELD(congestion_control), FIELD(ecn), FIELD(pacing), FIELD(mtu_probing)};
#undef FIELD
  if (s->started) return fail(s, "config comes before the first timed line");
  for (size_t i = 0; i < NP_COUNT_OF(fields); i++)
    if (strcmp(fields[i].name, key) == 0) return *fields[i].p = v, 0;
  for (size_t i = 0; i < NP_COUNT_OF(flags); i++)
    if (strcmp(flags[i].name, key) == 0) return *flags[i].p = v != 0, 0;
  for (size_t i = 0; i < NP_COUNT_OF(bytes); i++)
    if (strcmp(bytes[i].name, key) == 0) return *bytes[i].p = (uint8_t)v, 0;
  if (strcmp(key, "family") == 0) return s->skip = v != (s->v6 ? 6u : 4u), 0;
  if (strcmp(key, "consume") == 0) return s->consume_auto = strcmp(value, "manual") != 0, 0;
  if (strcmp(key, "tolerance_ms") == 0) return s->tolerance_ns = (uint64_t)v * 1000000, 0;
  return fail(s, "config: no key '%s'", key);
}

static int on_stream(struct script *s, const char *verb, uint32_t n) {
  struct np_stream *stream = s->session.stream;
  if (!stream) return fail(s, "%s: no connection", verb);
  if (strcmp(verb, "close") == 0) stream->ops->shutdown(stream);
  else if (strcmp(verb, "abort") == 0) stream->ops->abort(stream);
  else if (strcmp(verb, "room") == 0) return stream->ops->room(stream) == n ? 0 : fail(s, "room is %u", stream->ops->room(stream));
  else if (n > s->unconsumed) return fail(s, "consume: %u are waiting", s->unconsumed);
  else {
    s->unconsumed -= n;
    stream->ops->consumed(stream, n);
  }
  flush(s);
  return 0;
}

static int act(struct script *s, char **w, int n) {
  uint32_t v = n > 1 ? (uint32_t)strtoul(w[1], NULL, 0) : 0;
  if (strcmp(w[0], "in") == 0) return act_in(s, w + 1, n - 1);
  if (strcmp(w[0], "out") == 0) return act_out(s, w + 1, n - 1);
  if (strcmp(w[0], "listen") == 0) return act_listen(s);
  if (strcmp(w[0], "connect") == 0) return act_connect(s);
  if (strcmp(w[0], "write") == 0 && n == 2) return act_write(s, v);
  if (strcmp(w[0], "ptb") == 0 && (n == 3 || (n == 4 && strcmp(w[3], "refused") == 0))) return act_ptb(s, w, n);
  if (strcmp(w[0], "none") == 0) {
    if (s->out_count == 0) return 0;
    seg_print(s, "out", s->out[s->out_head].bytes, s->out[s->out_head].len);
    return fail(s, "none: %u segments left", s->out_count);
  }
  if (strcmp(w[0], "skip") == 0 && n == 2) {
    if (s->out_count < v) return fail(s, "skip: %u segments left", s->out_count);
    s->out_head = (s->out_head + v) % SCRIPT_OUT_MAX;
    s->out_count -= v;
    return 0;
  }
  if (strcmp(w[0], "state") == 0 && n == 2) return act_state(s, w[1]);
  if (strcmp(w[0], "got") == 0 && n == 2) return s->got == v ? 0 : fail(s, "the application got %u bytes, not %u", s->got, v);
  if (strcmp(w[0], "eof") == 0) return s->eof ? 0 : fail(s, "the application saw no end");
  if (strcmp(w[0], "closed") == 0 && n == 2) return act_closed(s, w[1]);
  if (strcmp(w[0], "drop") == 0 && n == 3) return act_drop(s, w[1], (uint32_t)strtoul(w[2], NULL, 0));
  if (strcmp(w[0], "count") == 0 && n == 3) return act_count(s, w[1], (uint32_t)strtoul(w[2], NULL, 0));
  if (strcmp(w[0], "close") == 0 || strcmp(w[0], "abort") == 0 || ((strcmp(w[0], "consume") == 0 || strcmp(w[0], "room") == 0) && n == 2))
    return on_stream(s, w[0], v);
  return fail(s, "unknown action '%s', or its values are missing", w[0]);
}

int script_line(struct script *s, char *line) {
  char *hash = strchr(line, '#');
  if (hash) *hash = 0;
  char *words[48];
  int n = 0;
  char *save = NULL;
  for (char *w = strtok_r(line, " \t\r\n", &save); w && n < 48; w = strtok_r(NULL, " \t\r\n", &save)) words[n++] = w;
  if (n == 0) return 0;
  if (strcmp(words[0], "config") == 0) return n == 3 ? act_config(s, words[1], words[2]) : fail(s, "want config KEY VALUE");
  if (words[0][0] != '+' || n < 2) return fail(s, "want +SECONDS ACTION");
  if (!s->started) start(s);
  char *end = NULL;
  double secs = strtod(words[0] + 1, &end);
  if (*end || secs < 0 || secs > 100000) return fail(s, "'%s' is no time", words[0]);
  pass(s, (uint64_t)(secs * 1e9 + 0.5));
  return act(s, words + 1, n - 1);
}
