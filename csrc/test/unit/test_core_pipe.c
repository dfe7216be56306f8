/* Pipes through everything that is C: two cores joined by a link that loses packets, both driven
 * through their rings as Go drives them. Clients send a pattern, the server sends it back; some end
 * early, some read slowly. What arrives is compared byte by byte, and in the end everything is back. */
#include "base/rng.h"
#include "io/sim/sim.h"
#include "tcp/tcp.h"
#include "test/unit/core_rig.h"

#define CONNS 60u
#define PORT 7000u
#define FIRST_PORT 20000u /* of clients: connection i connects from FIRST_PORT + i */
#define CLIENT 0u
#define SERVER 1u
#define BUDGET 32768u      /* a writer's */
#define LIMIT_NS UINT64_C(900000000000)
#define HELD 2048u

enum end { FINISHED, SLOW_CLIENT, CLIENT_ABORTS, SERVER_CLOSES, SERVER_ABORTS, ENDS };

/* One end of a connection. */
struct half {
  uint64_t handle;
  bool open, eof, shut, ending, closed;
  uint32_t err;
  uint32_t got;     /* bytes that came */
  uint32_t credit;  /* of them to be credited */
  uint32_t queued;  /* bytes of NP_CMD_SEND */
  uint32_t sent;    /* of them told as sent */
  uint32_t piece;   /* how long pieces are best */
};

struct app {
  struct rig rig;
  struct np_buf *held[HELD]; /* bodies of slow readers */
  uint32_t held_count;
};

struct world {
  struct app app[2];
  struct np_sim_link *link;
  struct np_rng rng;
  uint64_t now_ns;
  uint64_t start_ns;
  uint32_t connected;
  uint32_t turn;
  struct half half[2][CONNS];
};

static enum end end_of(uint32_t i) { return (enum end)(i % ENDS); }
static uint32_t total_of(uint32_t i) { return 3000u + i * 2500u; }
static uint8_t pattern(uint32_t i, uint32_t at) { return (uint8_t)((at + i * 13) * 31 + (at >> 8) * 3); }

static uint32_t room(const struct app *a) { return np_ring_room(a->rig.s->cmd, 8) >= 8 ? 8 : 0; }

static void submit(struct app *a, struct np_cmd cmd) { rig_submit(&a->rig, &cmd, NULL, 0); }

static void give_back(struct app *a, struct np_buf *body) { submit(a, (struct np_cmd){.op = NP_CMD_FREE, .body = body}); }

static uint32_t conn_of(const struct world *w, uint32_t side, uint64_t handle) {
  for (uint32_t i = 0; i < CONNS; i++) {
    if (w->half[side][i].handle == handle) return i;
  }
  fail_msg("no connection has handle %llx on side %u", (unsigned long long)handle, side);
  return 0;
}

/* ---- events ---- */

static void on_open(struct world *w, uint32_t side, const struct np_event *ev) {
  struct np_conn_info info;
  assert_int_equal(ev->body_bytes, sizeof info);
  memcpy(&info, np_buf_cdata(ev->body), sizeof info);
  uint32_t i = (side == CLIENT ? info.local_port : info.remote_port) - FIRST_PORT;
  assert_true(i < CONNS);
  struct half *h = &w->half[side][i];
  assert_false(h->open);
  if (side == CLIENT) assert_int_equal(h->handle, ev->handle);
  h->handle = ev->handle;
  h->open = true;
  h->piece = ev->stream;
  assert_in_range(h->piece, 1000, 1460);
}

static void on_data(struct world *w, uint32_t side, const struct np_event *ev) {
  uint32_t i = conn_of(w, side, ev->handle);
  struct half *h = &w->half[side][i];
  assert_true(h->open && !h->eof && !h->closed);
  for (const struct np_buf *b = ev->body; b != NULL; b = b->next) {
    for (uint32_t k = 0; k < b->len; k++, h->got++) {
      if (np_buf_cdata(b)[k] != pattern(i, h->got)) fail_msg("connection %u side %u: byte %u is wrong", i, side, h->got);
    }
  }
  h->credit += ev->body_bytes;
}

static void on_event(struct world *w, uint32_t side, const struct np_event *ev) {
  struct app *a = &w->app[side];
  bool keep = false;
  switch (ev->op) {
    case NP_EV_DONE:
      if (ev->err == NP_ERR_OK && ev->handle != 0) w->half[CLIENT][ev->token - 1].handle = ev->handle;
      else if (ev->err != NP_ERR_STALE && ev->err != NP_ERR_STATE) fail_msg("token %u: %s", ev->token, np_err_text((enum np_err)ev->err));
      return;
    case NP_EV_OPEN: on_open(w, side, ev); break;
    case NP_EV_DATA:
      on_data(w, side, ev);
      keep = side == CLIENT && end_of(conn_of(w, side, ev->handle)) == SLOW_CLIENT && a->held_count < HELD;
      break;
    case NP_EV_EOF: w->half[side][conn_of(w, side, ev->handle)].eof = true; break;
    case NP_EV_SENT: {
      struct half *h = &w->half[side][conn_of(w, side, ev->handle)];
      h->sent += ev->arg;
      h->piece = ev->stream;
      assert_true(h->sent <= h->queued);
      break;
    }
    case NP_EV_CLOSED: {
      struct half *h = &w->half[side][conn_of(w, side, ev->handle)];
      assert_false(h->closed);
      h->closed = true;
      h->err = ev->err;
      break;
    }
    default: fail_msg("event %u", ev->op);
  }
  if (keep) a->held[a->held_count++] = ev->body;
  else if (ev->body != NULL) give_back(a, ev->body);
}

/* ---- what the two programs do ---- */

/* One write of some pieces, as the budget and the lent buffers allow. */
static void write_some(struct world *w, uint32_t side, uint32_t i, uint32_t upto) {
  struct app *a = &w->app[side];
  struct half *h = &w->half[side][i];
  struct np_ring *loan = a->rig.s->loan;
  uint32_t left = np_min_u32(upto - h->queued, BUDGET - (h->queued - h->sent));
  uint32_t want = np_min_u32(left, np_rng_below(&w->rng, 4) == 0 ? 1 + np_rng_below(&w->rng, 100) : h->piece * 3);
  struct np_buf *head = NULL;
  struct np_buf **at = &head;
  uint32_t done = 0;
  while (done < want && np_ring_avail(loan) > 0) {
    struct np_loan *l = np_ring_item(loan, 0);
    struct np_buf *b = l->buf;
    np_ring_consume(loan, 1);
    b->next = NULL;
    b->len = np_min_u32(want - done, h->piece);
    for (uint32_t k = 0; k < b->len; k++) np_buf_data(b)[k] = pattern(i, h->queued + done + k);
    done += b->len;
    *at = b;
    at = &b->next;
  }
  if (done == 0) return;
  struct np_cmd cmd = {.op = NP_CMD_SEND, .handle = h->handle, .token = 0, .body = head, .body_bytes = done};
  memcpy(np_ring_slot(a->rig.s->cmd, 0), &cmd, sizeof cmd);
  np_ring_publish(a->rig.s->cmd, 1);
  h->queued += done;
}

static void go_on(struct world *w, uint32_t side, uint32_t i) {
  struct app *a = &w->app[side];
  struct half *h = &w->half[side][i];
  if (!h->open || h->closed || h->ending || room(a) == 0) return;
  enum end end = end_of(i);
  if (h->credit > 0 && !(side == CLIENT && end == SLOW_CLIENT && w->turn % 64 != i)) {
    submit(a, (struct np_cmd){.op = NP_CMD_CREDIT, .handle = h->handle, .arg = h->credit});
    h->credit = 0;
  }
  uint32_t total = total_of(i);
  uint16_t last = NP_CMD_NONE;
  if (side == CLIENT && end == CLIENT_ABORTS && h->got > total / 2) last = NP_CMD_ABORT;
  if (side == SERVER && end == SERVER_CLOSES && h->got > total / 2) last = NP_CMD_CLOSE;
  if (side == SERVER && end == SERVER_ABORTS && h->got > total / 2) last = NP_CMD_ABORT;
  if (side == CLIENT && h->eof && (h->shut || end == SERVER_CLOSES)) last = NP_CMD_CLOSE;
  if (last != NP_CMD_NONE) {
    submit(a, (struct np_cmd){.op = last, .handle = h->handle});
    h->ending = true;
    return;
  }
  uint32_t upto = side == CLIENT ? total : h->got;
  if (h->queued < upto) write_some(w, side, i, upto);
  if (h->shut || h->queued < upto || (side == SERVER && !h->eof)) return;
  submit(a, (struct np_cmd){.op = NP_CMD_SHUTDOWN, .handle = h->handle});
  h->shut = true;
}

static bool app_turn(struct world *w, uint32_t side) {
  struct app *a = &w->app[side];
  bool work = false;
  struct np_event ev;
  while (room(a) > 0 && rig_event(&a->rig, &ev)) {
    on_event(w, side, &ev);
    work = true;
  }
  for (uint32_t i = 0; i < CONNS; i++) go_on(w, side, i);
  if (w->turn % 32 == 0) {
    for (; a->held_count > 0 && room(a) > 0; a->held_count--) give_back(a, a->held[a->held_count - 1]);
  }
  a->rig.now_ns = w->now_ns;
  return np_core_turn(a->rig.core, w->now_ns) || work;
}

/* ---- time, set-up, verdict ---- */

static void connect_next(struct world *w) {
  if (w->connected == CONNS || w->now_ns < w->start_ns + w->connected * UINT64_C(3000000) || room(&w->app[CLIENT]) == 0) return;
  if (np_ring_avail(w->app[CLIENT].rig.s->loan) == 0) return;
  struct np_addr remote = w->connected % 2 == 0 ? rig_v4(1) : frame_v6(1);
  struct np_cmd_connect args = {
      .remote_port = PORT, .local_port = (uint16_t)(FIRST_PORT + w->connected), .session_kind = NP_SESSION_PIPE};
  memcpy(args.remote, remote.b, sizeof args.remote);
  struct np_cmd cmd = {.op = NP_CMD_CONNECT};
  w->app[CLIENT].rig.token = w->connected; /* rig_submit makes it one more */
  rig_submit(&w->app[CLIENT].rig, &cmd, &args, sizeof args);
  w->connected++;
}

static bool over(const struct world *w) {
  for (uint32_t i = 0; i < CONNS; i++) {
    if (!w->half[CLIENT][i].closed || !w->half[SERVER][i].closed) return false;
  }
  for (uint32_t s = 0; s < 2; s++) {
    if (np_tcp_conn_count(np_core_tcp(w->app[s].rig.core)) != 0 || w->app[s].held_count != 0) return false;
  }
  return true;
}

static void run(struct world *w) {
  while (!over(w) && w->now_ns - w->start_ns < LIMIT_NS) {
    connect_next(w);
    for (uint32_t k = 0; k < 64; k++) {
      w->turn++;
      bool work = app_turn(w, CLIENT);
      work |= app_turn(w, SERVER);
      if (!work) break;
    }
    uint64_t next = np_sim_next_ns(w->link);
    for (uint32_t s = 0; s < 2; s++) next = np_min_u64(next, np_core_next_ns(w->app[s].rig.core));
    if (w->connected < CONNS) next = np_min_u64(next, w->start_ns + w->connected * UINT64_C(3000000));
    w->now_ns = np_min_u64(np_max_u64(next, w->now_ns + 1000), w->now_ns + 10000000); /* the programs look often enough */
    np_sim_set_now(w->link, w->now_ns);
  }
}

static void world_init(struct world *w, const struct np_sim_params *params, uint64_t seed, uint32_t bufs) {
  memset(w, 0, sizeof *w);
  np_rng_init(&w->rng, seed);
  struct np_plane_config config = rig_config();
  config.bufs_per_core = bufs;
  config.loans_per_core = bufs / 16;
  config.cmd_ring = 256;
  config.event_ring = 128;
  config.conns_max = CONNS + 8;
  config.tcp_rcv_buf_bytes = 65536;
  struct np_sim_config sim = {.seed = seed, .dir = {*params, *params}};
  w->link = np_sim_new(&sim);
  assert_non_null(w->link);
  for (uint32_t s = 0; s < 2; s++) {
    struct rig *r = &w->app[s].rig;
    rig_init(r, &config, 0);
    struct np_mac mac = {{2, 0, 0, 0, 0, (uint8_t)(2 - s)}};
    rig_interface(r, np_sim_end(w->link, s, np_core_pool(r->core), &mac, 0), mac.b, (uint8_t)(2 - s));
    w->now_ns = np_max_u64(w->now_ns, r->now_ns);
  }
  struct np_cmd_listen listen = {.port = PORT, .session_kind = NP_SESSION_PIPE, .backlog = 256};
  rig_ok(&w->app[SERVER].rig, (struct np_cmd){.op = NP_CMD_LISTEN}, &listen, sizeof listen);
  w->now_ns += 1000000;
  w->start_ns = w->now_ns;
  np_sim_set_now(w->link, w->now_ns);
}

static void check_conn(const struct world *w, uint32_t i) {
  const struct half *c = &w->half[CLIENT][i];
  const struct half *s = &w->half[SERVER][i];
  uint32_t total = total_of(i);
  if (!c->closed || !s->closed) {
    fail_msg("connection %u did not end: client open %d eof %d shut %d got %u queued %u sent %u; server open %d eof %d got %u queued %u sent %u",
             i, c->open, c->eof, c->shut, c->got, c->queued, c->sent, s->open, s->eof, s->got, s->queued, s->sent);
  }
  switch (end_of(i)) {
    case FINISHED:
    case SLOW_CLIENT:
      assert_int_equal(c->got, total);
      assert_int_equal(s->got, total);
      assert_int_equal(s->sent, total);
      assert_true(c->eof && s->eof);
      assert_true(c->err == NP_ERR_OK || c->err == NP_ERR_EOF);
      assert_int_equal(s->err, NP_ERR_EOF);
      break;
    case CLIENT_ABORTS:
      /* small ones are through, as far as TCP goes, before their program gives up */
      assert_true(c->err == NP_ERR_ABORTED || (c->err == NP_ERR_EOF && c->got == total));
      assert_true(s->err == NP_ERR_RESET || (s->err == NP_ERR_EOF && s->got == total));
      break;
    case SERVER_CLOSES: /* all that it had queued arrived, unless the client's bytes met a closed end before */
      assert_int_equal(s->err, NP_ERR_OK);
      if (c->err == NP_ERR_OK) assert_int_equal(c->got, s->queued);
      assert_true(c->got <= s->queued);
      break;
    case SERVER_ABORTS:
      assert_int_equal(s->err, NP_ERR_ABORTED);
      assert_int_equal(c->err, NP_ERR_RESET);
      break;
    case ENDS: break;
  }
}

static void world_end(struct world *w) {
  for (uint32_t i = 0; i < CONNS; i++) check_conn(w, i);
  for (uint32_t s = 0; s < 2; s++) {
    struct rig *r = &w->app[s].rig;
    rig_turn(r, 1000); /* what was given back last */
    rig_turn(r, 1000);
    assert_int_equal(np_sessions_count(np_core_sessions(r->core)), 0);
    assert_int_equal(rig_counter(r, NP_C_PIPES), 0);
    assert_int_equal(rig_counter(r, NP_C_PIPE_QUEUED), 0);
    assert_int_equal(r->core->loans_out, r->core->loans_max);
    assert_int_equal(r->core->loans_owed, 0);
    rig_ledger(r);
    rig_quiet(r);
    np_core_detach(r->core, 0);
    rig_free(r);
  }
  np_sim_free(w->link);
}

static void everything(const struct np_sim_params *params, uint64_t seed, uint32_t bufs) {
  struct world *w = malloc(sizeof *w);
  assert_non_null(w);
  world_init(w, params, seed, bufs);
  run(w);
  world_end(w);
  free(w);
}

static void on_a_clean_link(void **state) {
  (void)state;
  const struct np_sim_params params = {.delay_ns = 200000};
  everything(&params, 1, 8192);
}

static void on_a_link_that_loses(void **state) {
  (void)state;
  const struct np_sim_params params = {
      .delay_ns = 5000000, .jitter_ns = 1000000, .loss_ppm = 20000, .reorder_ppm = 10000, .duplicate_ppm = 5000};
  for (uint64_t seed = 1; seed <= 2; seed++) everything(&params, seed, 8192);
}

/* Eight buffers a connection: the pool is short all the time. */
static void with_few_buffers(void **state) {
  (void)state;
  const struct np_sim_params params = {.delay_ns = 200000, .loss_ppm = 1000};
  everything(&params, 3, 512);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(on_a_clean_link),
      cmocka_unit_test(on_a_link_that_loses),
      cmocka_unit_test(with_few_buffers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
