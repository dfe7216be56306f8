/* pipe: bytes to Go and back over any stream. */
#include "session_rig.h"

#include "session/session_int.h"

#define LISTENER 0x77u

static struct rig *pipe_new(void) {
  struct rig *r = rig_new(4, 16);
  assert_non_null(rig_open(r, 1, NP_SESSION_PIPE, LISTENER));
  rig_run(r);
  return r;
}

/* One whose beginning Go knows of. */
static struct rig *pipe_open(void) {
  struct rig *r = pipe_new();
  rig_clear(r);
  return r;
}

/* What the stream tells its session. */
static void stream_writable(struct rig *r) { r->end[1].stream.session->ops->writable(r->end[1].stream.session); }
static void stream_eof(struct rig *r) { r->end[1].stream.session->ops->eof(r->end[1].stream.session); }
static void stream_closed(struct rig *r, enum np_err err) {
  struct np_session *s = r->end[1].stream.session;
  r->end[1].stream.session = NULL;
  s->ops->closed(s, err);
}

/* The peer takes what was sent. */
static void peer_reads(struct rig *r) {
  r->end[1].wire_bytes = 0;
  stream_writable(r);
}

/* Runs with room for one event each. */
static void run_one_by_one(struct rig *r, uint32_t runs) {
  for (uint32_t i = 0; i < runs; i++) {
    r->event_room = 1;
    rig_run(r);
  }
}

static enum np_err cmd(struct rig *r, uint16_t op, uint32_t arg) {
  return rig_cmd(r, 1, (struct np_cmd){.op = op, .arg = arg}, NULL, 0, NULL);
}

static enum np_err send_bytes(struct rig *r, const void *p, uint32_t n) {
  return rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_SEND}, p, n, NULL);
}

static uint32_t count(const struct rig *r, enum np_event_op op) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->event_count; i++) n += r->events[i].ev.op == op;
  return n;
}

static uint32_t sum(const struct rig *r, enum np_event_op op) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->event_count; i++) {
    const struct np_event *ev = &r->events[i].ev;
    if (ev->op == op) n += op == NP_EV_SENT ? ev->arg : ev->body_bytes;
  }
  return n;
}

/* All bytes of NP_EV_DATA, in order. */
static uint32_t gather(const struct rig *r, uint8_t *out, uint32_t max) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < r->event_count; i++) {
    if (r->events[i].ev.op != NP_EV_DATA) continue;
    assert_true(n + r->events[i].ev.body_bytes <= max);
    memcpy(out + n, r->events[i].body, r->events[i].ev.body_bytes);
    n += r->events[i].ev.body_bytes;
  }
  return n;
}

static void fill(uint8_t *p, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) p[i] = (uint8_t)(i * 7 + i / 251);
}

static void accepted_is_told(void **state) {
  (void)state;
  struct rig *r = pipe_new();
  assert_int_equal(r->event_count, 1);
  const struct np_event *ev = &r->events[0].ev;
  assert_int_equal(ev->op, NP_EV_OPEN);
  assert_int_equal(ev->arg, 1);
  assert_int_equal(ev->kind, NP_SESSION_PIPE);
  assert_int_equal(ev->listener, LISTENER);
  assert_int_equal(ev->stream, 1400); /* how long a piece is best */
  assert_int_equal(ev->body_bytes, sizeof(struct np_conn_info));
  struct np_conn_info info;
  memcpy(&info, r->events[0].body, sizeof info);
  assert_int_equal(info.handle, r->end[1].stream.handle);
  assert_int_equal(info.session_kind, NP_SESSION_PIPE);
  assert_int_equal(r->counters.counter[NP_C_PIPES], 1);
  rig_free(r);
}

static void outgoing_is_told_when_established(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  struct np_session *s = rig_open(r, 1, NP_SESSION_PIPE, 0);
  assert_non_null(s);
  rig_run(r);
  assert_int_equal(r->event_count, 0);
  s->ops->established(s);
  rig_run(r);
  assert_int_equal(r->event_count, 1);
  assert_int_equal(r->events[0].ev.op, NP_EV_OPEN);
  assert_int_equal(r->events[0].ev.arg, 0);
  rig_free(r);

  r = rig_new(4, 16); /* one that fails is told of by CLOSED alone */
  s = rig_open(r, 1, NP_SESSION_PIPE, 0);
  r->end[1].stream.session = NULL;
  s->ops->closed(s, NP_ERR_REFUSED);
  assert_int_equal(r->event_count, 1);
  assert_int_equal(r->events[0].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[0].ev.err, NP_ERR_REFUSED);
  rig_free(r);
}

/* Go gets the memory that the bytes arrived in, and only credit counts as consumed. */
static void data_in_place_and_credit(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->keep_bodies = true;
  uint8_t in[14000];
  fill(in, sizeof in);
  r->pool.low_count = r->pool.free_count;
  uint32_t free_before = r->pool.free_count;
  assert_int_equal(rig_feed(r, 1, in, sizeof in), sizeof in);
  rig_run(r);
  assert_int_equal(count(r, NP_EV_DATA), 1); /* one event for all of a turn */
  assert_int_equal(free_before - r->pool.low_count, 10); /* the received ones */
  assert_memory_equal(r->events[0].body, in, sizeof in);
  assert_int_equal(r->end[1].unconsumed, sizeof in);
  assert_int_equal(cmd(r, NP_CMD_CREDIT, 4000), NP_ERR_OK);
  assert_int_equal(r->end[1].unconsumed, 10000);
  assert_int_equal(cmd(r, NP_CMD_CREDIT, 10001), NP_ERR_INVALID); /* more than Go was given */
  assert_int_equal(cmd(r, NP_CMD_CREDIT, 10000), NP_ERR_OK);
  assert_int_equal(r->end[1].unconsumed, 0);
  rig_free(r);
}

/* Bytes one by one, a reader that holds them: buffers are bounded, nothing is lost. */
static void bytes_do_not_pin_buffers(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->keep_bodies = true;
  r->piece_bytes = 1;
  static uint8_t in[60000];
  static uint8_t out[sizeof in];
  fill(in, sizeof in);
  for (uint32_t i = 0; i < sizeof in; i++) {
    assert_int_equal(rig_feed(r, 1, in + i, 1), 1);
    rig_run(r);
  }
  uint32_t used = r->pool.count - r->pool.free_count - r->loan_count;
  assert_true(used <= NP_NPRO_HELD + 2 + 2 * sizeof in / NP_NPRO_PACK_BYTES + sizeof in / NP_NPRO_HELD_BYTES);
  assert_int_equal(r->end[1].unconsumed, sizeof in);
  for (uint32_t i = 0; i < 200 && sum(r, NP_EV_DATA) < sizeof in; i++) {
    rig_let_go(r); /* what it got it gives back, and is given the rest */
    rig_run(r);
  }
  assert_int_equal(gather(r, out, sizeof out), sizeof in);
  assert_memory_equal(in, out, sizeof in);
  rig_free(r);
}

static void full_ring_holds_back(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  r->event_room = 0;
  assert_non_null(rig_open(r, 1, NP_SESSION_PIPE, LISTENER));
  uint8_t in[5000];
  uint8_t out[sizeof in];
  fill(in, sizeof in);
  rig_feed(r, 1, in, 2000);
  stream_eof(r);
  assert_true(rig_run(r)); /* nothing would wake the core */
  assert_int_equal(r->event_count, 0);
  assert_int_equal(send_bytes(r, in, 3000), NP_ERR_OK);
  for (uint32_t i = 0; i < 8 && r->event_count < 4; i++) {
    r->event_room = 1;
    rig_run(r);
  }
  assert_int_equal(r->events[0].ev.op, NP_EV_OPEN);
  assert_int_equal(r->events[1].ev.op, NP_EV_DATA);
  assert_int_equal(r->events[2].ev.op, NP_EV_EOF);
  assert_int_equal(r->events[3].ev.op, NP_EV_SENT);
  assert_int_equal(gather(r, out, sizeof out), 2000);
  assert_memory_equal(in, out, 2000);
  assert_int_equal(r->events[3].ev.arg, 3000);
  r->event_room = RIG_EVENTS;
  rig_run(r);
  assert_int_equal(count(r, NP_EV_EOF), 1);
  rig_free(r);
}

/* Go's buffers are the stream's; others are lent in their place at once. */
static void lent_buffers_are_sent(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  uint8_t in[6800];
  fill(in, sizeof in);
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  assert_int_equal(r->loan_count, RIG_LOANS);
  r->pool.low_count = r->pool.free_count;
  rig_run(r);
  assert_int_equal(r->pool.low_count + 4, r->pool.free_count); /* four left with the stream, none was copied */
  assert_int_equal(r->end[1].wire_bytes, sizeof in);
  assert_memory_equal(r->end[1].wire, in, sizeof in);
  assert_int_equal(count(r, NP_EV_SENT), 1);
  assert_int_equal(sum(r, NP_EV_SENT), sizeof in);
  assert_int_equal(r->events[0].ev.stream, 1400);
  rig_free(r);
}

static void small_writes_are_joined(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  uint8_t in[64 * 20];
  fill(in, sizeof in);
  uint32_t before = r->pool.free_count;
  for (uint32_t i = 0; i < 20; i++) assert_int_equal(send_bytes(r, in + 64 * i, 64), NP_ERR_OK);
  assert_int_equal(before - r->pool.free_count, 1);
  rig_run(r);
  assert_memory_equal(r->end[1].wire, in, sizeof in);
  assert_int_equal(count(r, NP_EV_SENT), 1); /* one for all of a turn */
  assert_int_equal(sum(r, NP_EV_SENT), sizeof in);
  rig_free(r);
}

static void queue_is_bounded(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->end[1].room_max = 5000;
  static uint8_t in[100000];
  static uint8_t out[2 << 20];
  fill(in, sizeof in);
  uint32_t queued = 0;
  enum np_err err = NP_ERR_OK;
  for (uint32_t i = 0; i < 50 && err == NP_ERR_OK; i++) {
    err = send_bytes(r, in, sizeof in);
    if (err == NP_ERR_OK) queued += sizeof in;
  }
  assert_int_equal(err, NP_ERR_FULL);
  assert_int_equal(r->loan_count, RIG_LOANS);
  assert_in_range(queued, NP_PIPE_SENDQ_BYTES, NP_PIPE_SENDQ_BYTES + sizeof in);
  rig_run(r);
  assert_in_range(r->counters.counter[NP_C_PIPE_QUEUED], queued / 1700, queued / 1700 + 30);
  uint32_t got = 0;
  for (uint32_t turn = 0; turn < 5000 && got < queued; turn++) {
    struct rig_stream *s = &r->end[1];
    rig_run(r);
    assert_true(s->wire_bytes <= 5000);
    memcpy(out + got, s->wire, s->wire_bytes);
    got += s->wire_bytes;
    s->wire_bytes = 0;
    assert_int_equal(sum(r, NP_EV_SENT), got);
    if (s->said_no) {
      s->said_no = false;
      s->stream.session->ops->writable(s->stream.session);
    }
  }
  assert_int_equal(got, queued);
  rig_run(r);
  assert_int_equal(r->counters.counter[NP_C_PIPE_QUEUED], 0);
  for (uint32_t at = 0; at < got; at += sizeof in) assert_memory_equal(out + at, in, sizeof in);
  assert_int_equal(send_bytes(r, in, 10), NP_ERR_OK);
  rig_free(r);
}

static void bad_bodies_are_refused(void **state) {
  (void)state;
  struct rig *r = pipe_new();
  assert_int_equal(send_bytes(r, "", 0), NP_ERR_INVALID);
  struct np_cmd c = {.op = NP_CMD_SEND, .handle = r->end[1].stream.handle, .body_bytes = 6};
  c.body = rig_lend(r, "hello", 5); /* shorter than it says */
  assert_int_equal(np_sessions_command(r->sessions, r->end[1].stream.session, &c, c.body, r->now_ns, NULL), NP_ERR_INVALID);
  c.body_bytes = 4;
  c.body = rig_lend(r, "hello", 5);
  assert_int_equal(np_sessions_command(r->sessions, r->end[1].stream.session, &c, c.body, r->now_ns, NULL), NP_ERR_INVALID);
  c.body_bytes = 5;
  c.body = rig_lend(r, "hello", 5);
  c.body->data_off -= 10; /* no room for headers */
  assert_int_equal(np_sessions_command(r->sessions, r->end[1].stream.session, &c, c.body, r->now_ns, NULL), NP_ERR_INVALID);
  assert_int_equal(r->loan_count, RIG_LOANS);
  assert_int_equal(cmd(r, NP_CMD_PING, 0), NP_ERR_UNSUPPORTED);
  assert_int_equal(cmd(r, NP_CMD_GOAWAY, 0), NP_ERR_UNSUPPORTED);
  rig_run(r);
  assert_int_equal(r->end[1].wire_bytes, 0);
  rig_free(r);
}

static void half_close_follows_the_queue(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->end[1].room_max = 2000;
  uint8_t in[5000];
  fill(in, sizeof in);
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_SHUTDOWN, 0), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_SHUTDOWN, 0), NP_ERR_STATE);
  assert_int_equal(send_bytes(r, in, 1), NP_ERR_STATE);
  rig_run(r);
  assert_false(r->end[1].fin);
  for (uint32_t i = 0; i < 20; i++) {
    peer_reads(r);
    rig_run(r);
  }
  assert_true(r->end[1].fin);
  assert_int_equal(r->end[1].sent_total, sizeof in);
  assert_false(r->end[1].detached);
  rig_feed(r, 1, in, 100); /* the other way goes on */
  rig_run(r);
  assert_int_equal(sum(r, NP_EV_DATA), 100);
  rig_free(r);
}

static void close_follows_the_queue(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->end[1].room_max = 2000;
  uint8_t in[5000];
  fill(in, sizeof in);
  rig_feed(r, 1, in, 3000);
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_CLOSE, 0), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_CLOSE, 0), NP_ERR_STATE);
  assert_int_equal(r->end[1].unconsumed, 0); /* nobody reads, and the peer is not kept from reading */
  rig_run(r);
  assert_false(r->end[1].fin);
  rig_feed(r, 1, in, 3000);
  assert_int_equal(r->end[1].unconsumed, 0);
  for (uint32_t i = 0; i < 20 && !r->end[1].detached; i++) {
    peer_reads(r);
    rig_run(r);
  }
  assert_true(r->end[1].fin);
  assert_true(r->end[1].detached);
  assert_int_equal(r->end[1].sent_total, sizeof in);
  assert_int_equal(count(r, NP_EV_DATA), 0);
  assert_int_equal(r->events[r->event_count - 1].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[r->event_count - 1].ev.err, NP_ERR_OK);
  rig_free(r);
}

static void close_has_a_limit(void **state) {
  (void)state;
  struct rig *r = pipe_new();
  r->end[1].room_max = 2000;
  uint8_t in[9000];
  fill(in, sizeof in);
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_CLOSE, 0), NP_ERR_OK);
  rig_run(r);
  peer_reads(r); /* a little leaves: that prolongs it */
  rig_run(r);
  rig_advance(r, NP_PIPE_CLOSE_STEP_NS + 10 * RIG_MS);
  assert_false(r->end[1].aborted);
  rig_clear(r);
  rig_advance(r, NP_PIPE_CLOSE_STEP_NS + 10 * RIG_MS);
  assert_true(r->end[1].aborted);
  assert_int_equal(r->event_count, 1);
  assert_int_equal(r->events[0].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[0].ev.err, NP_ERR_TIMEDOUT);
  rig_free(r);
}

static void close_ends_at_its_deadline(void **state) {
  (void)state;
  struct rig *r = pipe_new();
  r->end[1].room_max = 1800;
  static uint8_t in[100000];
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_CLOSE, 0), NP_ERR_OK);
  uint64_t steps = NP_PIPE_CLOSE_NS / NP_PIPE_CLOSE_STEP_NS;
  for (uint64_t i = 0; i < 2 * steps + 4 && !r->end[1].aborted; i++) {
    rig_run(r);
    peer_reads(r);
    rig_advance(r, NP_PIPE_CLOSE_STEP_NS / 2);
  }
  assert_true(r->end[1].aborted);
  assert_true(r->end[1].sent_total < sizeof in);
  rig_free(r);
}

/* The peer's reset comes behind data that found no room in the ring: Go reads it first. */
static void reset_comes_after_data(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  uint8_t in[3000];
  fill(in, sizeof in);
  r->event_room = 0;
  rig_feed(r, 1, in, sizeof in);
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  rig_run(r);
  stream_closed(r, NP_ERR_RESET);
  assert_int_equal(r->event_count, 0);
  assert_int_equal(np_sessions_count(r->sessions), 1);
  run_one_by_one(r, 4);
  assert_int_equal(r->event_count, 2);
  assert_int_equal(r->events[0].ev.op, NP_EV_DATA);
  assert_memory_equal(r->events[0].body, in, sizeof in);
  assert_int_equal(r->events[1].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[1].ev.err, NP_ERR_RESET);
  assert_int_equal(np_sessions_count(r->sessions), 0);
  rig_free(r);
}

/* Both ends are through, and Go is not. */
static void end_comes_after_data(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  uint8_t in[3000];
  fill(in, sizeof in);
  r->event_room = 0;
  rig_feed(r, 1, in, sizeof in);
  stream_eof(r);
  assert_int_equal(cmd(r, NP_CMD_SHUTDOWN, 0), NP_ERR_OK);
  rig_run(r);
  assert_true(r->end[1].fin);
  stream_closed(r, NP_ERR_EOF);
  run_one_by_one(r, 6);
  assert_int_equal(r->event_count, 3);
  assert_int_equal(r->events[0].ev.op, NP_EV_DATA);
  assert_int_equal(r->events[1].ev.op, NP_EV_EOF);
  assert_int_equal(r->events[2].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[2].ev.err, NP_ERR_EOF);
  rig_free(r);
}

static void abort_ends_at_once(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  uint8_t in[3000];
  fill(in, sizeof in);
  r->event_room = 0;
  rig_feed(r, 1, in, sizeof in);
  assert_int_equal(send_bytes(r, in, sizeof in), NP_ERR_OK);
  assert_int_equal(cmd(r, NP_CMD_ABORT, 0), NP_ERR_OK);
  assert_true(r->end[1].aborted);
  r->event_room = 5;
  rig_run(r);
  assert_int_equal(r->event_count, 1);
  assert_int_equal(r->events[0].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[0].ev.err, NP_ERR_ABORTED);
  rig_free(r);
}

/* No buffer for NP_EV_OPEN: it waits, and so does what came behind it. */
static void empty_pool_delays(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  assert_non_null(rig_open(r, 1, NP_SESSION_PIPE, LISTENER));
  rig_feed(r, 1, (const uint8_t *)"hello", 5);
  r->pool.reserve_count = r->pool.free_count;
  assert_true(rig_run(r));
  assert_int_equal(r->event_count, 0);
  assert_int_equal(send_bytes(r, "abc", 3), NP_ERR_OK);
  assert_int_equal(r->loan_count, RIG_LOANS - 1); /* owed */
  r->pool.reserve_count = 0;
  rig_run(r);
  rig_repay(r);
  assert_int_equal(r->loan_count, RIG_LOANS);
  assert_int_equal(r->events[0].ev.op, NP_EV_OPEN);
  assert_int_equal(sum(r, NP_EV_DATA), 5);
  assert_int_equal(sum(r, NP_EV_SENT), 3);
  rig_free(r);
}

/* Memory ends with sessions whose streams are gone still waiting for Go. */
static void fini_frees_what_waits(void **state) {
  (void)state;
  struct rig *r = pipe_new();
  uint8_t in[3000] = {0};
  r->event_room = 0;
  rig_feed(r, 1, in, sizeof in);
  stream_closed(r, NP_ERR_RESET);
  uint32_t before = r->pool.free_count;
  np_sessions_fini(r->sessions);
  assert_int_equal(r->pool.free_count, before + 3);
  rig_free(r);
}

/* A reader that has as much as it may have: what came before the reset is told all the same. Nothing comes any more,
 * and the slot's next connection must not wait for that reader. */
static void reset_does_not_wait_for_the_reader(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->keep_bodies = true;
  for (uint32_t i = 0; i < NP_NPRO_HELD + 50; i++) {
    rig_feed(r, 1, (const uint8_t *)"x", 1);
    rig_run(r);
  }
  assert_true(sum(r, NP_EV_DATA) < NP_NPRO_HELD + 50);
  stream_closed(r, NP_ERR_RESET);
  rig_run(r);
  assert_int_equal(sum(r, NP_EV_DATA), NP_NPRO_HELD + 50);
  assert_int_equal(r->events[r->event_count - 1].ev.op, NP_EV_CLOSED);
  assert_int_equal(np_sessions_count(r->sessions), 0);
  rig_free(r);
}

/* The next connection with the same slot is told of when the last one is over for Go too. */
static void slot_is_free_after_closed(void **state) {
  (void)state;
  struct rig *r = pipe_open();
  r->event_room = 0;
  rig_feed(r, 1, (const uint8_t *)"x", 1);
  stream_closed(r, NP_ERR_RESET);
  uint64_t before = r->end[1].stream.handle;
  rig_stream_init(r, 1);
  r->end[1].stream.handle = before + (UINT64_C(1) << 32);
  assert_non_null(rig_open(r, 1, NP_SESSION_PIPE, LISTENER));
  for (uint32_t i = 0; i < 4; i++) assert_true(rig_run(r));
  r->event_room = 1;
  rig_run(r); /* the data, and nothing of the new one */
  assert_int_equal(count(r, NP_EV_OPEN), 0);
  assert_int_equal(sum(r, NP_EV_DATA), 1);
  r->event_room = RIG_EVENTS;
  for (uint32_t i = 0; i < 4; i++) rig_run(r);
  assert_int_equal(r->event_count, 3);
  assert_int_equal(r->events[1].ev.op, NP_EV_CLOSED);
  assert_int_equal(r->events[1].ev.handle, before);
  assert_int_equal(r->events[2].ev.op, NP_EV_OPEN);
  assert_int_equal(r->events[2].ev.handle, r->end[1].stream.handle);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(accepted_is_told),
      cmocka_unit_test(outgoing_is_told_when_established),
      cmocka_unit_test(data_in_place_and_credit),
      cmocka_unit_test(bytes_do_not_pin_buffers),
      cmocka_unit_test(full_ring_holds_back),
      cmocka_unit_test(lent_buffers_are_sent),
      cmocka_unit_test(small_writes_are_joined),
      cmocka_unit_test(queue_is_bounded),
      cmocka_unit_test(bad_bodies_are_refused),
      cmocka_unit_test(half_close_follows_the_queue),
      cmocka_unit_test(close_follows_the_queue),
      cmocka_unit_test(close_has_a_limit),
      cmocka_unit_test(close_ends_at_its_deadline),
      cmocka_unit_test(reset_comes_after_data),
      cmocka_unit_test(end_comes_after_data),
      cmocka_unit_test(abort_ends_at_once),
      cmocka_unit_test(empty_pool_delays),
      cmocka_unit_test(fini_frees_what_waits),
      cmocka_unit_test(reset_does_not_wait_for_the_reader),
      cmocka_unit_test(slot_is_free_after_closed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
