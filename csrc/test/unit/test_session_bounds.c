/* What one peer may make a core hold: with keys, without, and when the pool is
 * short. Each of these was a way to take every buffer or to end the process. */
#include "session_peer.h"

/* A port that lacks buffers keeps the last ones of the pool for receiving: to a
 * session the pool is empty then, although buffers are free. */
static void reserved_buffers_are_not_there(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  rig_join(r, &c, &s);
  static uint8_t body[12000] = "\4BULK";
  for (uint32_t spare = 0; spare < 12; spare++) {
    r->pool.reserve_count = r->pool.free_count - spare;
    struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_MESSAGE, .flags = NP_NPRO_F_END};
    assert_int_equal(rig_cmd(r, 0, send, body, sizeof body, NULL), NP_ERR_OK);
    rig_run(r);
  }
  r->pool.reserve_count = 0;
  rig_settle(r, 100);
  uint32_t got = 0;
  for (uint32_t i = 0; i < r->event_count; i++) {
    if (r->events[i].ev.op == NP_EV_MESSAGE) got += r->events[i].ev.body_bytes;
  }
  assert_int_equal(got, 12 * sizeof body);
  rig_free(r);
}

static void reserved_buffers_and_chargen(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_session *s = rig_open(r, 1, NP_SESSION_CHARGEN, 0x77);
  r->pool.reserve_count = r->pool.free_count - 3;
  s->ops->established(s);
  for (uint32_t i = 0; i < 5; i++) rig_run(r);
  r->pool.reserve_count = 0;
  rig_free(r);
}

/* Streams beyond the limit are each answered with RESET. A peer that reads none of
 * them is not read either: what waits to be sent stays small. */
static void refusals_nobody_reads(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  k.max_streams = 2;
  struct peer p = peer_new(64, &k);
  struct rig *r = p.r;
  r->end[1].room_max = 0; /* the peer's window is closed */
  uint32_t before = r->pool.free_count;
  uint32_t fed = 0;
  for (uint32_t i = 0; i < 3000; i++, fed++) {
    peer_send(&p, NP_NPRO_DATA, 0, 2 * i + 1, NULL, 0);
    if (r->end[1].unconsumed > 64u << 10) break;
  }
  assert_true(fed < 3000); /* it closed its window in turn */
  assert_in_range(before - r->pool.free_count, 1, 200);
  r->end[1].room_max = 1u << 20;
  r->end[1].stream.session->ops->writable(r->end[1].stream.session);
  for (uint32_t i = 0; i < 100; i++) rig_run(r);
  assert_int_equal(r->end[1].unconsumed, 0);
  rig_free(r);
}

/* A frame that comes in segments of one byte is held in few buffers, with keys and
 * without, and is whole in the end. */
static void frames_byte_by_byte(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(64, &k);
  struct rig *r = p.r;
  static uint8_t body[1500] = "\4BULK";
  uint8_t out[1600];
  struct np_frame f = {.type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_ENC | NP_NPRO_F_END, .stream = 1};
  uint32_t bytes = peer_seal(&p, &f, body, sizeof body, out);
  uint32_t before = r->pool.free_count;
  r->piece_bytes = 1;
  for (uint32_t i = 0; i < bytes - 1; i++) {
    rig_feed(r, 1, out + i, 1);
    if (i % 7 == 0) rig_run(r);
  }
  assert_in_range(before - r->pool.free_count, 1, 32);
  rig_feed(r, 1, out + bytes - 1, 1);
  rig_run(r);
  struct rig_event *ev = rig_find(r, 1, NP_EV_MESSAGE);
  assert_non_null(ev);
  assert_int_equal(ev->ev.body_bytes, sizeof body);
  assert_memory_equal(ev->body, body, sizeof body);
  rig_free(r);
}

static void handshakes_byte_by_byte(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  rig_npro(r, 1);
  static uint8_t hs[16 + 8000] = {'N', 'P', 'R', 'O', 2, 0, 0, 0, 8000 >> 8, 8000 & 255, NP_NPRO_HANDSHAKE_1};
  uint32_t before = r->pool.free_count;
  r->piece_bytes = 1;
  for (uint32_t i = 0; i < sizeof hs - 1; i++) {
    rig_feed(r, 1, hs + i, 1);
    if (i % 7 == 0) rig_run(r);
  }
  assert_in_range(before - r->pool.free_count, 1, 32);
  rig_feed(r, 1, hs + sizeof hs - 1, 1);
  rig_run(r);
  struct rig_event *ev = rig_find(r, 1, NP_EV_HANDSHAKE);
  assert_non_null(ev);
  assert_memory_equal(ev->body, hs + 16, 8000);
  /* what comes while Go thinks is held in few buffers too */
  before = r->pool.free_count;
  for (uint32_t i = 0; i < 4000; i++) rig_feed(r, 1, hs + i, 1);
  assert_in_range(before - r->pool.free_count, 1, 16);
  rig_free(r);
}

/* The beginning of a frame whose rest never comes, or comes byte by byte, ends without
 * heartbeats too; the limit grows with the frame's length, and each frame has its own. */
static void unfinished_frames_end(void **state) {
  (void)state;
  for (uint32_t trickle = 0; trickle < 2; trickle++) {
    struct np_npro_keys k = rig_keys(1);
    k.heartbeat_ms = 0;
    struct peer p = peer_new(64, &k);
    struct rig *r = p.r;
    static const uint8_t body[1000] = "\4BULK";
    uint8_t out[1600];
    struct np_frame f = {.type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_ENC | NP_NPRO_F_END, .stream = 1};
    uint32_t bytes = peer_seal(&p, &f, body, sizeof body, out);
    rig_feed(r, 1, out, 500);
    rig_run(r);
    rig_advance(r, 25000 * RIG_MS);
    assert_false(r->end[1].fin);
    rig_feed(r, 1, out + 500, bytes - 500);
    rig_run(r);
    assert_non_null(rig_find(r, 1, NP_EV_MESSAGE));
    rig_advance(r, 60000 * RIG_MS); /* nothing half here: nothing ends */
    rig_run(r);
    assert_false(r->end[1].fin);
    f.stream = 3;
    (void)peer_seal(&p, &f, body, sizeof body, out);
    uint32_t fed = 20;
    rig_feed(r, 1, out, fed);
    rig_run(r);
    for (uint32_t i = 0; i < 29; i++) {
      rig_advance(r, 1000 * RIG_MS);
      if (trickle != 0) rig_feed(r, 1, out + fed++, 1);
      rig_run(r);
    }
    assert_false(r->end[1].fin);
    rig_advance(r, 2000 * RIG_MS);
    rig_run(r);
    struct rig_event *ev = rig_find(r, 1, NP_EV_CLOSED);
    assert_non_null(ev);
    assert_int_equal(ev->ev.err, NP_ERR_TIMEDOUT);
    assert_int_equal(r->counters.drop[NP_DROP_NPRO_CLOSED], 1);
    rig_free(r);
  }
}

/* WIRE: a response ends its stream, although the request's body never does. Otherwise each
 * would keep a place in the core's table for as long as the connection lasts. */
static void responses_end_streams(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  k.max_streams = 4;
  struct peer p = peer_new(64, &k);
  struct rig *r = p.r;
  for (uint32_t i = 0; i < 12; i++) {
    peer_send(&p, NP_NPRO_REQUEST, NP_NPRO_F_MORE, 2 * i + 1, "\4BULKx", 6);
    struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_RESPONSE, .flags = NP_NPRO_F_END, .stream = 2 * i + 1};
    assert_int_equal(rig_cmd(r, 1, send, "\5", 1, NULL), NP_ERR_OK);
    rig_run(r);
    assert_int_equal(np_sessions_streams(r->sessions), 0);
    /* what was on its way meanwhile is no breach, and its credit returns */
    peer_send(&p, NP_NPRO_REQUEST, NP_NPRO_F_END, 2 * i + 1, "rest", 4);
    assert_int_equal(r->counters.drop[NP_DROP_NPRO_CLOSED], i + 1);
  }
  assert_false(r->end[1].fin);
  rig_free(r);
}

/* At the other end: what was queued for the stream is given up, its buffers return. */
static void responses_end_streams_of_clients(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  c.stream_window_tx_bytes = 8; /* the rest of the body waits for credit */
  rig_join(r, &c, &s);
  uint32_t stream = 0;
  struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_END};
  assert_int_equal(rig_cmd(r, 0, send, "\4BULK and more", 14, &stream), NP_ERR_OK);
  rig_settle(r, 20);
  send = (struct np_cmd){.op = NP_CMD_SEND, .type = NP_NPRO_RESPONSE, .flags = NP_NPRO_F_END, .stream = stream};
  assert_int_equal(rig_cmd(r, 1, send, "\5", 1, NULL), NP_ERR_OK);
  rig_settle(r, 20);
  assert_int_equal(np_sessions_streams(r->sessions), 0);
  assert_int_equal(r->loan_count, RIG_LOANS);
  send = (struct np_cmd){.op = NP_CMD_SEND, .type = NP_NPRO_DATA, .stream = stream};
  assert_int_equal(rig_cmd(r, 0, send, "x", 1, NULL), NP_ERR_STALE);
  rig_free(r);
}

/* Keys are wiped from the buffer they came in whatever becomes of the command. */
static void keys_are_wiped(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_npro_keys k = rig_keys(1);
  uint8_t two[2 * sizeof k];
  memcpy(two, &k, sizeof k);
  memcpy(two + sizeof k, &k, sizeof k);
  struct np_cmd keys = {.op = NP_CMD_KEYS};
  rig_npro(r, 1);
  const struct np_buf *b = r->loans[r->loan_count - 1];
  const uint8_t *at = (const uint8_t *)b + NP_LOAN_DATA_OFF;
  for (uint32_t i = 0; i < 4; i++) {
    enum np_err want = i == 1 ? NP_ERR_INVALID : i == 2 ? NP_ERR_STALE : i == 3 ? NP_ERR_UNSUPPORTED : NP_ERR_STATE;
    struct np_session *s = r->end[1].stream.session;
    if (i == 2) { /* gone, waiting to be told of */
      r->event_room = 0;
      rig_abort(&r->end[1].stream);
      r->end[1].stream.session = s;
    }
    if (i == 3) {
      r->end[1].stream.session = NULL;
      r->event_room = RIG_EVENTS;
      rig_run(r);
      rig_stream_init(r, 1);
      (void)rig_open(r, 1, NP_SESSION_DISCARD, 0x77);
    }
    assert_int_equal(rig_cmd(r, 1, keys, two, i == 1 ? sizeof two : sizeof k, NULL), want);
    for (uint32_t x = 0; x < (i == 1 ? sizeof two : sizeof k); x++) assert_int_equal(at[x], 0);
  }
  rig_free(r);
}

/* Bodies of one byte, and a handler that gives none back: the session is read no further
 * than some hundred of them, and on when they come back. Nothing is lost. */
static void small_bodies_nobody_gives_back(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(64, &k);
  struct rig *r = p.r;
  r->keep_bodies = true;
  for (uint32_t i = 0; i < 2000; i++) peer_send(&p, NP_NPRO_DATA, 0, 1, "x", 1);
  assert_in_range(r->held_count, 300, 700);
  assert_true(r->end[1].unconsumed > 1000 * 33);
  for (uint32_t i = 0; i < 50; i++) {
    rig_let_go(r);
    rig_run(r);
  }
  assert_int_equal(r->end[1].unconsumed, 0);
  uint32_t got = 0;
  for (uint32_t i = 0; i < r->event_count; i++) got += r->events[i].ev.op == NP_EV_MESSAGE ? 1 : 0;
  assert_int_equal(got, 2000);
  /* a session that ends before its buffers come back: they are nobody's then */
  peer_send(&p, NP_NPRO_DATA, 0, 1, "x", 1);
  assert_int_equal(r->held_count, 1);
  rig_abort(&r->end[1].stream);
  rig_run(r);
  rig_stream_init(r, 1);
  rig_npro(r, 1);
  rig_let_go(r);
  rig_free(r);
}

/* Long bodies are held up to the windows as before. */
static void long_bodies_nobody_gives_back(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  rig_join(r, &c, &s);
  r->keep_bodies = true;
  static uint8_t body[250000] = "\4BULK";
  for (uint32_t i = 0; i < 8; i++) {
    struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_MESSAGE, .flags = NP_NPRO_F_END};
    assert_int_equal(rig_cmd(r, 0, send, body, sizeof body, NULL), NP_ERR_OK);
    rig_settle(r, 200);
  }
  uint32_t got = 0;
  for (uint32_t i = 0; i < r->event_count; i++) {
    if (r->events[i].ev.op == NP_EV_MESSAGE) got += r->events[i].ev.body_bytes;
  }
  assert_int_equal(got, 8 * sizeof body);
  rig_free(r);
}

/* One that asks and never reads: what it asked waits for room that only it can make, so its
 * silence counts, and what is held for it comes back. */
static void askers_that_do_not_read(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(64, &k);
  struct rig *r = p.r;
  uint32_t before = r->pool.free_count;
  r->end[1].room_max = 0;
  while (r->end[1].unconsumed < 32u << 10) peer_send(&p, NP_NPRO_PING, 0, 0, "x", 1);
  for (uint32_t i = 0; i < 44; i++) {
    rig_advance(r, 1000 * RIG_MS);
    rig_run(r);
  }
  assert_false(r->end[1].aborted);
  rig_advance(r, 15000 * RIG_MS);
  rig_run(r);
  assert_true(r->end[1].aborted);
  struct rig_event *ev = rig_find(r, 1, NP_EV_CLOSED);
  assert_non_null(ev);
  assert_int_equal(ev->ev.err, NP_ERR_DEAD);
  assert_int_equal(r->pool.free_count, before);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reserved_buffers_are_not_there),
      cmocka_unit_test(reserved_buffers_and_chargen),
      cmocka_unit_test(refusals_nobody_reads),
      cmocka_unit_test(frames_byte_by_byte),
      cmocka_unit_test(handshakes_byte_by_byte),
      cmocka_unit_test(unfinished_frames_end),
      cmocka_unit_test(responses_end_streams),
      cmocka_unit_test(responses_end_streams_of_clients),
      cmocka_unit_test(keys_are_wiped),
      cmocka_unit_test(small_bodies_nobody_gives_back),
      cmocka_unit_test(long_bodies_nobody_gives_back),
      cmocka_unit_test(askers_that_do_not_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
