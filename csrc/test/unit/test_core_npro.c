/* NPRO through everything that is C: two cores joined by a link that loses packets, both
 * driven through their rings as Go drives them. Keys are made up instead of agreed on. */
#include "io/sim/sim.h"
#include "np/code.h"
#include "test/unit/core_rig.h"
#include "tcp/tcp.h"

#define CONNS 200u
#define STREAMS 9u
#define PARALLEL 3u
#define PORT 4433u
#define CLIENT 0u
#define SERVER 1u
#define JOBS 16384u
#define LIMIT_NS UINT64_C(600000000000)
#define PIECE 1400u
#define NOTHING UINT32_MAX

enum kind { ECHO, BULK, STREAM };
enum end { FINISHED, CLIENT_ABORTS, SERVER_CLOSES, SERVER_ABORTS };

/* One stream as the client sees it. */
struct flow {
  uint32_t total; /* bytes expected back behind the status */
  uint32_t got;
  bool status;    /* seen */
  bool ended;
};

struct conn {
  uint64_t handle[2];
  bool open[2];
  bool keyed[2];
  bool closed[2];
  bool asked;       /* to end: CLOSE or ABORT is on its way */
  bool rekeyed[2];
  uint32_t err[2];
  uint32_t code[2];
  uint32_t begun;   /* streams */
  uint32_t done;
  uint32_t served;  /* messages that reached the server's Go */
  struct flow flow[STREAMS];
};

struct job {
  struct np_cmd cmd;
  uint8_t *body;
};

struct queue {
  struct job *job;
  uint32_t head, tail;
};

/* Commands without a body pass those that wait for lent buffers: credit is what frees them. */
struct app {
  struct rig rig;
  struct queue bodies;
  struct queue bare;
};

struct world {
  struct app app[2];
  struct np_sim_link *link;
  uint64_t now_ns;
  uint64_t start_ns;
  struct conn conn[CONNS];
  uint32_t connected; /* CONNECTs asked for */
};

static enum end end_of(uint32_t i) {
  if (i % 4 == 0) return CLIENT_ABORTS;
  if (i % 4 == 1) return i % 8 == 1 ? SERVER_CLOSES : SERVER_ABORTS;
  return FINISHED;
}
static enum kind kind_of(uint32_t k) { return (enum kind)(k % 3); }
static uint32_t bytes_of(uint32_t i, uint32_t k) { return k == 3 ? 60000 : k == 4 ? 20000 : (i * 37 + k * 411) % 5000; }
static uint8_t pattern(uint32_t i, uint32_t stream, uint32_t at) {
  return (uint8_t)((at + i * 13) * 31 + stream * 7 + (at >> 8) * 3);
}

/* ---- commands: what finds no room waits, in order ---- */

static void job_add(struct app *a, const struct np_cmd *cmd, uint8_t *body, uint32_t bytes) {
  struct queue *q = bytes > 0 || cmd->op == NP_CMD_SEND ? &a->bodies : &a->bare;
  assert_true(q->tail - q->head < JOBS);
  struct job *j = &q->job[q->tail++ % JOBS];
  j->cmd = *cmd;
  j->cmd.body_bytes = bytes;
  j->body = body;
}

static void job_copy(struct app *a, const struct np_cmd *cmd, const void *body, uint32_t bytes) {
  uint8_t *copy = malloc(bytes + 1);
  assert_non_null(copy);
  if (bytes > 0) memcpy(copy, body, bytes);
  job_add(a, cmd, copy, bytes);
}

static bool submit(struct app *a, struct job *j) {
  struct rig *r = &a->rig;
  uint32_t pieces = (j->cmd.body_bytes + PIECE - 1) / PIECE;
  if (np_ring_room(r->s->cmd, 1) == 0) return false;
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  /* np_ring_avail may answer from its cache */
  r->s->loan->cons_cached_prod = __atomic_load_n(&r->s->loan->prod, __ATOMIC_ACQUIRE);
  if (np_ring_avail(r->s->loan) < pieces) return false;
  for (uint32_t i = 0; i < pieces; i++) {
    struct np_buf *b = ((struct np_loan *)np_ring_item(r->s->loan, i))->buf;
    b->len = np_min_u32(PIECE, j->cmd.body_bytes - i * PIECE);
    memcpy((uint8_t *)b + b->data_off, j->body + i * PIECE, b->len);
    b->next = NULL;
    if (tail != NULL) tail->next = b;
    else head = b;
    tail = b;
  }
  if (pieces > 0) np_ring_consume(r->s->loan, pieces);
  j->cmd.body = head;
  memcpy(np_ring_slot(r->s->cmd, 0), &j->cmd, sizeof j->cmd);
  np_ring_publish(r->s->cmd, 1);
  return true;
}

static void queue_run(struct app *a, struct queue *q) {
  while (q->head != q->tail && submit(a, &q->job[q->head % JOBS])) free(q->job[q->head++ % JOBS].body);
}

/* Buffers go back at once, before anything that may have to wait. */
static void give_back(struct app *a, struct np_buf *chain) {
  struct np_cmd cmd = {.op = NP_CMD_FREE, .body = chain};
  assert_true(np_ring_room(a->rig.s->cmd, 1) > 0);
  memcpy(np_ring_slot(a->rig.s->cmd, 0), &cmd, sizeof cmd);
  np_ring_publish(a->rig.s->cmd, 1);
}

/* ---- the client ---- */

static void send_body(struct app *a, uint64_t handle, uint8_t type, uint8_t flags, uint32_t stream, uint8_t *body, uint32_t n) {
  struct np_cmd cmd = {.op = NP_CMD_SEND, .handle = handle, .type = type, .flags = flags, .stream = stream};
  cmd.priority = (uint8_t)(stream % 5);
  job_add(a, &cmd, body, n);
}

static void begin_flow(struct world *w, uint32_t i) {
  struct app *a = &w->app[CLIENT];
  struct conn *c = &w->conn[i];
  uint32_t k = c->begun++;
  uint32_t stream = 2 * k + 1;
  uint32_t n = bytes_of(i, k);
  c->flow[k].total = n;
  static const char *const opcode[] = {"\4ECHO", "\4BULK", "\4STRM"};
  uint32_t head = 5;
  uint8_t *body = malloc(head + n);
  assert_non_null(body);
  memcpy(body, opcode[kind_of(k)], head);
  for (uint32_t at = 0; at < n; at++) body[head + at] = pattern(i, stream, at);
  if (kind_of(k) != STREAM) {
    send_body(a, c->handle[CLIENT], NP_NPRO_REQUEST, NP_NPRO_F_END, stream, body, head + n);
    return;
  }
  struct np_cmd cmd = {.op = NP_CMD_SEND, .handle = c->handle[CLIENT], .type = NP_NPRO_REQUEST, .stream = stream};
  job_copy(a, &cmd, body, head);
  cmd.type = NP_NPRO_DATA;
  for (uint32_t at = 0; at <= n; at += 3000) {
    cmd.flags = n - at < 3000 ? NP_NPRO_F_END : 0; /* a bare END when the bytes are a multiple */
    job_copy(a, &cmd, body + head + at, np_min_u32(3000, n - at));
  }
  free(body);
}

static void end_conn(struct world *w, uint32_t i, uint32_t side, bool close) {
  struct conn *c = &w->conn[i];
  if (c->asked) return;
  c->asked = true;
  struct np_cmd cmd = {.op = close ? NP_CMD_CLOSE : NP_CMD_ABORT, .handle = c->handle[side]};
  if (close && side == SERVER) cmd.arg = NP_CODE_SHUTTING_DOWN;
  job_copy(&w->app[side], &cmd, "enough", close ? 6 : 0);
}

static void rekey(struct world *w, uint32_t i, uint32_t side) {
  struct conn *c = &w->conn[i];
  if (c->rekeyed[side]) return;
  c->rekeyed[side] = true;
  struct np_cmd cmd = {.op = NP_CMD_REKEY, .handle = c->handle[side]};
  job_add(&w->app[side], &cmd, NULL, 0);
}

static void client_goes_on(struct world *w, uint32_t i) {
  struct conn *c = &w->conn[i];
  if (!c->keyed[CLIENT] || c->closed[CLIENT] || c->asked) return;
  if (c->done >= 2 && end_of(i) == CLIENT_ABORTS) end_conn(w, i, CLIENT, false);
  while (c->begun < STREAMS && c->begun - c->done < PARALLEL) {
    begin_flow(w, i);
    if (c->begun == STREAMS / 2) rekey(w, i, CLIENT); /* with bodies queued before and behind it */
  }
  if (c->done == STREAMS) end_conn(w, i, CLIENT, true);
}

static void client_message(struct world *w, uint32_t i, const struct np_event *ev, const uint8_t *p, uint32_t n) {
  struct conn *c = &w->conn[i];
  uint32_t k = ev->stream / 2;
  assert_true(k < c->begun);
  struct flow *f = &c->flow[k];
  assert_false(f->ended);
  if (ev->type == NP_NPRO_RESPONSE && !f->status) {
    assert_true(n >= 1);
    assert_int_equal(p[0], NP_CODE_OK);
    f->status = true;
    p++;
    n--;
  }
  assert_true(f->status);
  assert_true(n <= f->total - f->got);
  uint8_t mask = kind_of(k) == BULK ? 0x5a : 0;
  for (uint32_t at = 0; at < n; at++) {
    assert_int_equal(p[at], pattern(i, ev->stream, f->got + at) ^ mask);
  }
  f->got += n;
  if ((ev->flags & NP_NPRO_F_END) == 0) return;
  assert_int_equal(f->got, f->total);
  f->ended = true;
  c->done++;
}

/* ---- the server ---- */

static bool is_opcode(const uint8_t *p, uint32_t n) {
  return n >= 5 && (memcmp(p, "\4BULK", 5) == 0 || memcmp(p, "\4STRM", 5) == 0 || memcmp(p, "\4ECHO", 5) == 0);
}

static void server_message(struct world *w, uint32_t i, const struct np_event *ev, const uint8_t *p, uint32_t n) {
  struct app *a = &w->app[SERVER];
  struct conn *c = &w->conn[i];
  enum kind kind = kind_of(ev->stream / 2); /* ECHO: one of several frames; others are answered on the core */
  if (++c->served == 3) rekey(w, i, SERVER);
  if (c->served >= 4 && (end_of(i) == SERVER_CLOSES || end_of(i) == SERVER_ABORTS)) {
    end_conn(w, i, SERVER, end_of(i) == SERVER_CLOSES);
  }
  bool first = ev->type == NP_NPRO_REQUEST && is_opcode(p, n);
  uint32_t skip = first ? 5 : 0;
  uint8_t *body = malloc(n + 1);
  assert_non_null(body);
  uint32_t out = 0;
  if (first) body[out++] = NP_CODE_OK;
  for (uint32_t at = skip; at < n; at++) body[out++] = kind == BULK ? p[at] ^ 0x5a : p[at];
  if (out == 0 && (ev->flags & NP_NPRO_F_END) == 0) {
    free(body);
    return;
  }
  uint8_t type = ev->type == NP_NPRO_REQUEST ? NP_NPRO_RESPONSE : NP_NPRO_DATA;
  send_body(a, c->handle[SERVER], type, ev->flags & (NP_NPRO_F_END | NP_NPRO_F_MORE), ev->stream, body, out);
}

/* ---- events ---- */

static void install(struct world *w, uint32_t i, uint32_t side) {
  struct np_npro_keys k = {
      .aead = i % 2 == 0 ? NP_AEAD_AES_256_GCM : NP_AEAD_XCHACHA20_POLY1305,
      .is_client = side == CLIENT,
      .max_frame_tx_bytes = 64u << 10,
      .max_frame_rx_bytes = 64u << 10,
      .stream_window_tx_bytes = 32u << 10, /* less than the longest body */
      .conn_window_tx_bytes = 64u << 10,
      .stream_window_rx_bytes = 32u << 10,
      .conn_window_rx_bytes = 64u << 10,
      .heartbeat_ms = 5000,
      .max_streams = 16,
      .max_payload_bytes = 1u << 20,
      .features = NP_NPRO_ALLOW_ECHO,
      .rekey_records = i % 5 == 0 ? 7 : 0,
      .compression = i % 3 == 0 ? NP_COMPRESSION_LZ4 : NP_COMPRESSION_NONE,
      .compression_rx = 1u << NP_COMPRESSION_LZ4,
      .compression_threshold_bytes = 512,
  };
  memset(side == CLIENT ? k.tx_key : k.rx_key, (int)(i + 1), 32);
  memset(side == CLIENT ? k.rx_key : k.tx_key, (int)(255 - i), 32);
  struct np_cmd cmd = {.op = NP_CMD_KEYS, .handle = w->conn[i].handle[side]};
  job_copy(&w->app[side], &cmd, &k, sizeof k);
  w->conn[i].keyed[side] = true;
}

static void handshake(struct world *w, uint32_t i, uint32_t side, uint8_t type) {
  struct np_cmd cmd = {.op = NP_CMD_HANDSHAKE, .handle = w->conn[i].handle[side], .type = type};
  if (type == NP_NPRO_HANDSHAKE_1) cmd.cmd_flags = NP_CMD_F_MORE;
  job_copy(&w->app[side], &cmd, &i, sizeof i);
}

static uint32_t conn_of(const struct world *w, uint32_t side, uint64_t handle) {
  for (uint32_t i = 0; i < CONNS; i++) {
    if (w->conn[i].handle[side] == handle) return i;
  }
  return NOTHING;
}

static void on_done(struct world *w, uint32_t side, const struct np_event *ev) {
  if (side == CLIENT && ev->token > 1000) { /* CONNECT */
    assert_int_equal(ev->err, NP_ERR_OK);
    w->conn[ev->token - 1001].handle[CLIENT] = ev->handle;
    return;
  }
  uint32_t i = conn_of(w, side, ev->handle);
  if (i == NOTHING) return; /* a connection whose end we took note of */
  struct conn *c = &w->conn[i];
  bool ending = c->asked || c->closed[0] || c->closed[1];
  if (!ending) fail_msg("connection %u side %u: %s", i, side, np_err_text((enum np_err)ev->err));
}

static void on_conn_event(struct world *w, uint32_t side, uint32_t i, const struct np_event *ev, const uint8_t *p, uint32_t n) {
  struct conn *c = &w->conn[i];
  assert_false(c->closed[side]); /* CLOSED is the last */
  switch (ev->op) {
    case NP_EV_OPEN:
      c->open[side] = true;
      assert_int_equal(ev->arg, side == SERVER ? 1 : 0);
      if (side == CLIENT) handshake(w, i, CLIENT, NP_NPRO_HANDSHAKE_1);
      break;
    case NP_EV_HANDSHAKE:
      if (side == SERVER) handshake(w, i, SERVER, NP_NPRO_HANDSHAKE_2);
      install(w, i, side);
      break;
    case NP_EV_MESSAGE: {
      assert_true(c->keyed[side]);
      if (side == CLIENT) client_message(w, i, ev, p, n);
      else server_message(w, i, ev, p, n);
      if (n == 0) break;
      struct np_cmd credit = {.op = NP_CMD_CREDIT, .handle = ev->handle, .stream = ev->stream, .arg = n};
      job_add(&w->app[side], &credit, NULL, 0);
      break;
    }
    case NP_EV_CLOSED:
      c->closed[side] = true;
      c->err[side] = ev->err;
      c->code[side] = ev->arg;
      break;
    case NP_EV_SENT: break;
    default: fail_msg("event %u", ev->op);
  }
}

static void on_event(struct world *w, uint32_t side, const struct np_event *ev) {
  uint8_t bytes[70000];
  uint32_t n = 0;
  for (const struct np_buf *b = ev->body; b != NULL; b = b->next) {
    assert_true(b->len <= sizeof bytes - n);
    memcpy(bytes + n, np_buf_cdata(b), b->len);
    n += b->len;
  }
  assert_int_equal(n, ev->body_bytes);
  if (ev->body != NULL) give_back(&w->app[side], ev->body);
  if (ev->op == NP_EV_DONE) {
    on_done(w, side, ev);
    return;
  }
  uint32_t i = conn_of(w, side, ev->handle);
  if (i == NOTHING) { /* the server learns from the handshake which one it is */
    assert_int_equal(side, SERVER);
    if (ev->op != NP_EV_HANDSHAKE) {
      assert_int_equal(ev->op, NP_EV_OPEN);
      return;
    }
    assert_int_equal(n, sizeof i);
    memcpy(&i, bytes, sizeof i);
    assert_true(i < CONNS && w->conn[i].handle[SERVER] == 0);
    w->conn[i].handle[SERVER] = ev->handle;
    w->conn[i].open[SERVER] = true;
  }
  on_conn_event(w, side, i, ev, bytes, n);
}

/* ---- time ---- */

static bool app_turn(struct world *w, uint32_t side) {
  struct app *a = &w->app[side];
  bool work = false;
  struct np_event ev;
  while (np_ring_room(a->rig.s->cmd, 1) > 0 && rig_event(&a->rig, &ev)) { /* each may give a body back */
    on_event(w, side, &ev);
    work = true;
  }
  if (side == CLIENT) {
    for (uint32_t i = 0; i < w->connected; i++) client_goes_on(w, i);
  }
  queue_run(a, &a->bare);
  queue_run(a, &a->bodies);
  a->rig.now_ns = w->now_ns;
  return np_core_turn(a->rig.core, w->now_ns) || work;
}

static void connect_next(struct world *w) {
  if (w->connected == CONNS || w->now_ns < w->start_ns + w->connected * UINT64_C(2000000)) return;
  struct np_addr remote = w->connected % 2 == 0 ? rig_v4(1) : frame_v6(1);
  struct np_cmd_connect args = {.remote_port = PORT, .session_kind = NP_SESSION_NPRO};
  memcpy(args.remote, remote.b, sizeof args.remote);
  struct np_cmd cmd = {.op = NP_CMD_CONNECT, .token = 1001 + w->connected};
  job_copy(&w->app[CLIENT], &cmd, &args, sizeof args);
  w->connected++;
}

static bool over(const struct world *w) {
  for (uint32_t i = 0; i < CONNS; i++) {
    if (!w->conn[i].closed[CLIENT] || !w->conn[i].closed[SERVER]) return false;
  }
  for (uint32_t s = 0; s < 2; s++) {
    struct np_core *core = w->app[s].rig.core;
    if (np_tcp_conn_count(np_core_tcp(core)) != 0 || w->app[s].bodies.head != w->app[s].bodies.tail) return false;
  }
  return true;
}

static void advance(struct world *w) {
  uint64_t next = np_sim_next_ns(w->link);
  for (uint32_t s = 0; s < 2; s++) next = np_min_u64(next, np_core_next_ns(w->app[s].rig.core));
  if (w->connected < CONNS) next = np_min_u64(next, w->start_ns + w->connected * UINT64_C(2000000));
  w->now_ns = np_max_u64(next, w->now_ns + 1000);
  np_sim_set_now(w->link, w->now_ns);
}

static void run(struct world *w) {
  while (!over(w)) {
    connect_next(w);
    for (uint32_t turn = 0; turn < 64; turn++) {
      bool work = app_turn(w, CLIENT);
      work |= app_turn(w, SERVER);
      if (!work) break;
    }
    advance(w);
    if (w->now_ns - w->start_ns > LIMIT_NS) break;
  }
}

/* ---- set-up and verdict ---- */

static void world_init(struct world *w, const struct np_sim_params *params, uint64_t seed) {
  memset(w, 0, sizeof *w);
  struct np_plane_config config = rig_config();
  config.bufs_per_core = 8192;
  config.loans_per_core = 256;
  config.cmd_ring = 512;
  config.event_ring = 256;
  config.conns_max = CONNS + 8;
  config.streams_max = CONNS * PARALLEL;
  config.handshake_ms = 60000;
  struct np_sim_config sim = {.seed = seed, .dir = {*params, *params}};
  w->link = np_sim_new(&sim);
  assert_non_null(w->link);
  for (uint32_t s = 0; s < 2; s++) {
    struct rig *r = &w->app[s].rig;
    w->app[s].bodies.job = calloc(JOBS, sizeof(struct job));
    w->app[s].bare.job = calloc(JOBS, sizeof(struct job));
    rig_init(r, &config, 0);
    struct np_mac mac = {{2, 0, 0, 0, 0, (uint8_t)(2 - s)}};
    rig_interface(r, np_sim_end(w->link, s, np_core_pool(r->core), &mac, 0), mac.b, (uint8_t)(2 - s));
    w->now_ns = np_max_u64(w->now_ns, r->now_ns);
  }
  struct np_cmd_listen listen = {.port = PORT, .session_kind = NP_SESSION_NPRO, .backlog = 256, .cookies = 1};
  rig_ok(&w->app[SERVER].rig, (struct np_cmd){.op = NP_CMD_LISTEN}, &listen, sizeof listen);
  w->now_ns += 1000000;
  w->start_ns = w->now_ns;
  np_sim_set_now(w->link, w->now_ns);
}

static void check_conn(const struct world *w, uint32_t i) {
  const struct conn *c = &w->conn[i];
  for (uint32_t s = 0; s < 2; s++) {
    if (!c->closed[s]) {
      fail_msg("connection %u side %u did not end: open %d keyed %d begun %u done %u served %u", i, s, c->open[s], c->keyed[s],
               c->begun, c->done, c->served);
    }
  }
  switch (end_of(i)) {
    case FINISHED:
      assert_int_equal(c->done, STREAMS);
      assert_int_equal(c->err[CLIENT], NP_ERR_OK);
      assert_int_equal(c->err[SERVER], NP_ERR_EOF);
      assert_int_equal(c->code[SERVER], NP_CODE_NORMAL);
      break;
    case CLIENT_ABORTS:
      assert_int_equal(c->err[CLIENT], NP_ERR_ABORTED);
      assert_int_not_equal(c->err[SERVER], NP_ERR_OK);
      break;
    case SERVER_CLOSES:
      assert_int_equal(c->err[SERVER], NP_ERR_OK);
      assert_int_equal(c->err[CLIENT], NP_ERR_EOF);
      assert_int_equal(c->code[CLIENT], NP_CODE_SHUTTING_DOWN);
      break;
    case SERVER_ABORTS:
      assert_int_equal(c->err[SERVER], NP_ERR_ABORTED);
      assert_int_not_equal(c->err[CLIENT], NP_ERR_OK);
      break;
  }
}

static void world_end(struct world *w) {
  for (uint32_t i = 0; i < CONNS; i++) check_conn(w, i);
  for (uint32_t s = 0; s < 2; s++) {
    struct app *a = &w->app[s];
    struct rig *r = &a->rig;
    assert_int_equal(np_sessions_count(np_core_sessions(r->core)), 0);
    assert_int_equal(np_sessions_streams(np_core_sessions(r->core)), 0);
    assert_int_equal(np_tcp_conn_count(np_core_tcp(r->core)), 0);
    rig_ledger(r);
    uint64_t drops = 0;
    for (uint32_t d = NP_DROP_NPRO_MAGIC; d <= NP_DROP_NPRO_NO_BUFFER; d++) {
      /* only what an ended connection leaves behind */
      if (d != NP_DROP_NPRO_CLOSED) assert_int_equal(rig_drop(r, (enum np_drop)d), 0);
      drops += rig_drop(r, (enum np_drop)d);
    }
    assert_int_equal(rig_counter(r, NP_C_NPRO_FRAMES_RX), rig_counter(r, NP_C_NPRO_FRAMES_DELIVERED) + drops);
    assert_true(rig_counter(r, NP_C_NPRO_REKEYS) > CONNS);
    np_core_detach(r->core, 0);
    rig_free(r); /* every buffer is back */
    free(a->bodies.job);
    free(a->bare.job);
  }
  np_sim_free(w->link);
}

static void everything(const struct np_sim_params *params, uint64_t seed) {
  struct world *w = malloc(sizeof *w);
  assert_non_null(w);
  world_init(w, params, seed);
  run(w);
  world_end(w);
  free(w);
}

static void on_a_clean_link(void **state) {
  (void)state;
  const struct np_sim_params params = {.delay_ns = 200000};
  everything(&params, 1);
}

static void on_a_link_that_loses(void **state) {
  (void)state;
  const struct np_sim_params params = {
      .delay_ns = 5000000, .jitter_ns = 1000000, .loss_ppm = 20000, .reorder_ppm = 10000, .duplicate_ppm = 5000};
  for (uint64_t seed = 1; seed <= 2; seed++) everything(&params, seed);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(on_a_clean_link),
      cmocka_unit_test(on_a_link_that_loses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
