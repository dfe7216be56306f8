/* Two NPRO sessions back to back: handshake, messages, streams, flow control,
 * priorities, rekeying, timers, ends. */
#include "session_rig.h"

static struct rig *joined(void) {
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  rig_join(r, &c, &s);
  return r;
}

static uint32_t request(uint8_t *out, const char *op, const void *payload, uint32_t n) {
  uint32_t len = (uint32_t)strlen(op);
  out[0] = (uint8_t)len;
  memcpy(out + 1, op, len);
  if (n > 0) memcpy(out + 1 + len, payload, n);
  return 1 + len + n;
}

static enum np_err send_msg(struct rig *r, uint32_t i, uint8_t type, uint8_t flags, uint32_t stream, const void *body,
                            uint32_t n, uint32_t *out) {
  struct np_cmd cmd = {.op = NP_CMD_SEND, .type = type, .flags = flags, .stream = stream};
  return rig_cmd(r, i, cmd, body, n, out);
}

static uint64_t count(const struct rig *r, enum np_counter c) { return r->counters.counter[c]; }

static void handshake_then_open(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  rig_npro(r, 1);
  rig_npro(r, 0);
  struct rig_event *open = rig_find(r, 1, NP_EV_OPEN);
  assert_non_null(open);
  assert_int_equal(open->ev.arg, 1);
  assert_int_equal(open->ev.listener, 0x77);
  struct np_conn_info info;
  assert_int_equal(open->ev.body_bytes, sizeof info);
  memcpy(&info, open->body, sizeof info);
  assert_int_equal(info.session_kind, NP_SESSION_NPRO);
  assert_int_equal(rig_find(r, 0, NP_EV_OPEN)->ev.arg, 0);
  /* the server may not speak first, nobody may send yet */
  struct np_cmd hs = {.op = NP_CMD_HANDSHAKE, .type = NP_NPRO_HANDSHAKE_2};
  assert_int_equal(rig_cmd(r, 1, hs, "x", 1, NULL), NP_ERR_STATE);
  assert_int_equal(send_msg(r, 1, NP_NPRO_DATA, 0, 0, "x", 1, NULL), NP_ERR_STATE);
  hs = (struct np_cmd){.op = NP_CMD_HANDSHAKE, .type = NP_NPRO_HANDSHAKE_1, .cmd_flags = NP_CMD_F_MORE};
  assert_int_equal(rig_cmd(r, 0, hs, "first", 5, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  struct rig_event *ev = rig_find(r, 1, NP_EV_HANDSHAKE);
  assert_non_null(ev);
  assert_int_equal(ev->ev.type, NP_NPRO_HANDSHAKE_1);
  assert_int_equal(ev->ev.body_bytes, 5);
  assert_memory_equal(ev->body, "first", 5);
  assert_int_equal(count(r, NP_C_NPRO_HS_STARTED), 2);
  struct np_npro_keys k = rig_keys(1);
  k.aead = 9;
  assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_KEYS}, &k, sizeof k, NULL), NP_ERR_INVALID);
  k = rig_keys(1);
  assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_KEYS}, &k, sizeof k, NULL), NP_ERR_OK);
  assert_int_equal(count(r, NP_C_NPRO_HS_DONE), 1);
  np_session_info(r->end[1].stream.session, &info);
  assert_int_equal(info.session_state, NP_NPRO_OPEN);
  assert_int_equal(info.aead, NP_AEAD_AES_256_GCM);
  rig_free(r);
}

static void handshake_takes_too_long(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  rig_npro(r, 1);
  rig_advance(r, 4900 * RIG_MS);
  assert_false(r->end[1].aborted);
  rig_advance(r, 200 * RIG_MS);
  assert_true(r->end[1].aborted);
  assert_int_equal(count(r, NP_C_NPRO_HS_FAILED), 1);
  struct rig_event *ev = rig_find(r, 1, NP_EV_CLOSED);
  assert_non_null(ev);
  assert_int_equal(ev->ev.err, NP_ERR_HANDSHAKE);
  rig_free(r);
}

static void outgoing_that_fails_says_closed(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  struct np_session *s = rig_open(r, 0, NP_SESSION_NPRO, 0);
  r->end[0].stream.session = NULL;
  s->ops->closed(s, NP_ERR_REFUSED);
  struct rig_event *ev = rig_find(r, 0, NP_EV_CLOSED);
  assert_non_null(ev);
  assert_int_equal(ev->ev.err, NP_ERR_REFUSED);
  assert_null(rig_find(r, 0, NP_EV_OPEN));
  rig_free(r);
}

/* A request to Go and its response, both kinds of opcode holder. */
static void request_and_response(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[64];
  uint32_t n = request(body, "SUM", "12345", 5);
  uint32_t stream = 0;
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, &stream), NP_ERR_OK);
  assert_int_equal(stream, 1);
  rig_settle(r, 20);
  struct rig_event *ev = rig_find(r, 1, NP_EV_MESSAGE);
  assert_non_null(ev);
  assert_int_equal(ev->ev.type, NP_NPRO_REQUEST);
  assert_int_equal(ev->ev.flags, NP_NPRO_F_END);
  assert_int_equal(ev->ev.body_bytes, n);
  assert_memory_equal(ev->body, body, n);
  assert_int_equal(rig_find(r, 0, NP_EV_SENT)->ev.arg, n);
  assert_int_equal(np_sessions_streams(r->sessions), 2); /* one at each end */
  assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, 1, "\0ok", 3, NULL), NP_ERR_OK);
  rig_settle(r, 20);
  ev = rig_find(r, 0, NP_EV_MESSAGE);
  assert_non_null(ev);
  assert_int_equal(ev->ev.type, NP_NPRO_RESPONSE);
  assert_memory_equal(ev->body, "\0ok", 3);
  assert_int_equal(np_sessions_streams(r->sessions), 0);
  assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, 1, "\0ok", 3, NULL), NP_ERR_STALE);
  assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, 0, "\0ok", 3, NULL), NP_ERR_INVALID);
  rig_free(r);
}

/* ECHO never reaches Go; the answer's bytes are the request's, whatever the pieces. */
static void echo_with(uint32_t payload, uint32_t piece, uint8_t aead) {
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  c.aead = aead;
  s.aead = aead;
  rig_join(r, &c, &s);
  r->piece_bytes = piece;
  uint8_t *body = malloc(payload + 8);
  uint8_t *text = malloc(payload + 1);
  for (uint32_t i = 0; i < payload; i++) text[i] = (uint8_t)(i * 13 + i / 256);
  uint32_t n = request(body, "ECHO", text, payload);
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  rig_settle(r, 200);
  uint32_t got = 0;
  for (uint32_t k = 0; k < r->event_count; k++) {
    struct rig_event *ev = &r->events[k];
    assert_true(ev->ev.handle != r->end[1].stream.handle || ev->ev.op != NP_EV_MESSAGE || payload > 16000);
    if (ev->ev.op != NP_EV_MESSAGE || ev->ev.handle != r->end[0].stream.handle) continue;
    assert_int_equal(ev->ev.type, NP_NPRO_RESPONSE);
    uint32_t skip = got == 0 ? 1 : 0;
    if (got == 0) assert_int_equal(ev->body[0], NP_CODE_OK);
    assert_memory_equal(ev->body + skip, text + got, ev->ev.body_bytes - skip);
    got += ev->ev.body_bytes - skip;
  }
  if (n <= NP_RIG_FRAGMENT) assert_int_equal(got, payload);
  free(body);
  free(text);
  rig_free(r);
}

static void echo_on_the_core(void **state) {
  (void)state;
  const uint32_t sizes[] = {0, 1, 64, 1000, 1331, 1332, 1340, 1363, 1400, 3000, 16000};
  const uint32_t pieces[] = {1400, 0, 1, 17, 100};
  for (uint32_t i = 0; i < NP_COUNT_OF(sizes); i++) {
    for (uint32_t p = 0; p < NP_COUNT_OF(pieces); p++) {
      if (sizes[i] > 1400 && pieces[p] == 1) continue; /* more pieces than buffers */
      echo_with(sizes[i], pieces[p], (i + p) % 2 == 0 ? NP_AEAD_AES_256_GCM : NP_AEAD_XCHACHA20_POLY1305);
    }
  }
}

/* The benchmark's path takes no buffer beyond the received one. */
static void echo_in_place_takes_no_buffer(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[80];
  uint8_t text[64] = {1};
  uint32_t n = request(body, "ECHO", text, sizeof text);
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  rig_run(r);
  uint32_t before = r->pool.free_count;
  r->pool.low_count = before;
  rig_move(r, 0);
  rig_run(r);
  assert_int_equal(r->pool.low_count, before - 1);
  assert_int_equal(count(r, NP_C_NPRO_ECHOES), 1);
  rig_settle(r, 10);
  rig_free(r);
}

static void many_small_in_one_piece(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[80];
  for (uint32_t i = 0; i < 100; i++) {
    uint8_t text[40];
    memset(text, (int)i, sizeof text);
    uint32_t n = request(body, i % 3 == 0 ? "GO" : "ECHO", text, sizeof text);
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  }
  rig_settle(r, 50);
  uint32_t echoes = 0;
  uint32_t to_go = 0;
  for (uint32_t k = 0; k < r->event_count; k++) {
    const struct rig_event *ev = &r->events[k];
    if (ev->ev.op != NP_EV_MESSAGE) continue;
    uint8_t want = (uint8_t)((ev->ev.stream - 1) / 2);
    assert_int_equal(ev->body[ev->ev.body_bytes - 1], want);
    if (ev->ev.type == NP_NPRO_RESPONSE) echoes++;
    else to_go++;
  }
  assert_int_equal(echoes, 66);
  assert_int_equal(to_go, 34);
  rig_free(r);
}

/* Header and tag split at every byte. */
static void every_split(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[40];
  uint32_t n = request(body, "OP", "payload", 7);
  for (uint32_t cut = 1; cut < 16 + n + 16; cut++) {
    assert_int_equal(send_msg(r, 0, NP_NPRO_MESSAGE, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    rig_run(r);
    struct rig_stream *from = &r->end[0];
    assert_int_equal(from->wire_bytes, 16 + n + 16);
    rig_feed(r, 1, from->wire, cut);
    rig_run(r);
    assert_null(rig_find(r, 1, NP_EV_MESSAGE));
    rig_feed(r, 1, from->wire + cut, from->wire_bytes - cut);
    from->wire_bytes = 0;
    rig_run(r);
    struct rig_event *ev = rig_find(r, 1, NP_EV_MESSAGE);
    assert_non_null(ev);
    assert_int_equal(ev->ev.body_bytes, n);
    assert_memory_equal(ev->body, body, n);
    assert_int_equal(np_sessions_streams(r->sessions), 0); /* one way: ended at both ends */
    assert_int_equal(r->end[1].unconsumed, 0);
    assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_CREDIT, .stream = ev->ev.stream, .arg = n}, NULL, 0, NULL), NP_ERR_OK);
    rig_settle(r, 5);
    rig_clear(r);
  }
  rig_free(r);
}

static void ping_from_go_and_from_the_heartbeat(void **state) {
  (void)state;
  struct rig *r = joined();
  rig_advance(r, 15100 * RIG_MS); /* a heartbeat each */
  assert_int_equal(rig_cmd(r, 0, (struct np_cmd){.op = NP_CMD_PING}, "abc", 3, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  assert_int_equal(count(r, NP_C_NPRO_PINGS), 3);
  uint32_t pongs = 0;
  for (uint32_t k = 0; k < r->event_count; k++) pongs += r->events[k].ev.op == NP_EV_PONG;
  assert_int_equal(pongs, 1);
  struct rig_event *ev = rig_find(r, 0, NP_EV_PONG);
  assert_int_equal(ev->ev.body_bytes, 3);
  assert_memory_equal(ev->body, "abc", 3);
  rig_free(r);
}

static void a_silent_peer_is_dead(void **state) {
  (void)state;
  struct rig *r = joined();
  for (uint32_t i = 0; i < 44; i++) rig_advance(r, 1000 * RIG_MS); /* nothing is moved between the ends */
  assert_false(r->end[1].aborted);
  rig_advance(r, 1500 * RIG_MS);
  assert_true(r->end[1].aborted);
  assert_int_equal(rig_find(r, 1, NP_EV_CLOSED)->ev.err, NP_ERR_DEAD);
  rig_free(r);
}

static void an_answering_peer_lives(void **state) {
  (void)state;
  struct rig *r = joined();
  for (uint32_t i = 0; i < 200; i++) {
    rig_advance(r, 1000 * RIG_MS);
    rig_settle(r, 5);
  }
  assert_false(r->end[0].aborted || r->end[1].aborted);
  assert_true(count(r, NP_C_NPRO_PINGS) >= 20);
  rig_free(r);
}

/* More than the stream's window: the rest waits for credit, SENT says what left. */
static void stream_window_stops_and_returns(void **state) {
  (void)state;
  struct rig *r = joined();
  static uint8_t data[200000];
  for (uint32_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 31 + i / 997);
  uint32_t stream = 0;
  assert_int_equal(send_msg(r, 0, NP_NPRO_DATA, 0, 0, data, sizeof data, &stream), NP_ERR_OK);
  rig_settle(r, 100);
  assert_int_equal(send_msg(r, 0, NP_NPRO_DATA, NP_NPRO_F_END, stream, data, sizeof data, NULL), NP_ERR_OK);
  rig_settle(r, 100);
  uint32_t got = 0;
  uint32_t sent = 0;
  for (uint32_t round = 0; round < 2; round++) {
    uint32_t fresh = 0;
    for (uint32_t k = 0; k < r->event_count; k++) {
      const struct np_event *ev = &r->events[k].ev;
      if (ev->op == NP_EV_SENT) sent += ev->arg;
      if (ev->op != NP_EV_MESSAGE) continue;
      for (uint32_t i = 0; i < ev->body_bytes; i++) assert_int_equal(r->events[k].body[i], data[(got + i) % sizeof data]);
      got += ev->body_bytes;
      fresh += ev->body_bytes;
    }
    assert_int_equal(sent, got);
    if (round == 0) assert_int_equal(got, 256u << 10);
    rig_clear(r);
    if (round == 0) {
      assert_int_equal(r->loan_count + (2 * sizeof data - got + 1699) / 1700 + 1 >= RIG_LOANS, 1);
      assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_CREDIT, .stream = stream, .arg = fresh}, NULL, 0, NULL), NP_ERR_OK);
      /* more than was taken is refused */
      assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_CREDIT, .stream = stream, .arg = 1}, NULL, 0, NULL), NP_ERR_INVALID);
      rig_settle(r, 100);
    }
  }
  assert_int_equal(got, 2 * sizeof data);
  assert_int_equal(r->loan_count, RIG_LOANS);
  rig_free(r);
}

/* A frame far longer than TCP's window arrives; what is held stays within NPRO's. */
static void frame_longer_than_the_receive_window(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  c.stream_window_tx_bytes = 1u << 20;
  s.stream_window_rx_bytes = 1u << 20;
  rig_join(r, &c, &s);
  r->end[1].window_max = 8000;
  struct np_crypto *crypto = r->crypto;
  uint32_t n = 600000;
  struct np_record_dir dir;
  assert_int_equal(np_record_dir_init(crypto, &dir, NP_AEAD_AES_256_GCM, c.tx_key), NP_ERR_OK);
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  for (uint32_t done = 0; done < n + 16;) {
    struct np_buf *b = np_pool_get(&r->pool);
    uint32_t step = np_min_u32(1700, n + 16 - done);
    memset(np_buf_append(b, step), 0x5a, step);
    if (tail != NULL) tail->next = b;
    else head = b;
    tail = b;
    done += step;
  }
  struct np_frame f = {.type = NP_NPRO_DATA, .flags = NP_NPRO_F_ENC, .stream = 1, .length = n + 16};
  struct np_record rec = {.dir = &dir, .buf = head, .body_off = 0, .body_bytes = n};
  np_frame_encode(&f, rec.header);
  np_record_seal(crypto, &rec, 1);
  rig_put_bytes(&r->end[0], rec.header, 16);
  for (struct np_buf *b = head; b != NULL; b = b->next) rig_put_bytes(&r->end[0], np_buf_cdata(b), b->len);
  np_buf_put_chain(head);
  rig_settle(r, 1000);
  struct rig_event *ev = rig_find(r, 1, NP_EV_MESSAGE);
  assert_non_null(ev);
  assert_int_equal(ev->ev.body_bytes, n);
  assert_true(r->end[1].unconsumed_max <= 8000);
  assert_int_equal(r->end[1].unconsumed, 0);
  rig_free(r);
}

/* END alone: a frame without a body, told of like any other. */
static void bare_end(void **state) {
  (void)state;
  struct rig *r = joined();
  uint32_t stream = 0;
  assert_int_equal(send_msg(r, 0, NP_NPRO_DATA, 0, 0, "abc", 3, &stream), NP_ERR_OK);
  assert_int_equal(send_msg(r, 0, NP_NPRO_DATA, NP_NPRO_F_END, stream, NULL, 0, NULL), NP_ERR_OK);
  assert_int_equal(send_msg(r, 0, NP_NPRO_DATA, 0, stream, "late", 4, NULL), NP_ERR_STATE);
  rig_settle(r, 10);
  uint32_t sent = 0;
  const struct np_event *last = NULL;
  for (uint32_t k = 0; k < r->event_count; k++) {
    if (r->events[k].ev.op == NP_EV_SENT) sent++;
    if (r->events[k].ev.op == NP_EV_MESSAGE) last = &r->events[k].ev;
  }
  assert_int_equal(sent, 2);
  assert_non_null(last);
  assert_int_equal(last->body_bytes, 0);
  assert_int_equal(last->flags, NP_NPRO_F_END);
  assert_int_equal(send_msg(r, 1, NP_NPRO_DATA, NP_NPRO_F_END, stream, NULL, 0, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  assert_int_equal(np_sessions_streams(r->sessions), 0);
  rig_free(r);
}

static void high_priority_goes_first(void **state) {
  (void)state;
  struct rig *r = joined();
  r->end[0].room_max = 20000;
  static uint8_t data[100000];
  struct np_cmd bulk = {.op = NP_CMD_SEND, .type = NP_NPRO_DATA, .priority = 1};
  uint32_t low1 = 0;
  uint32_t low2 = 0;
  uint32_t high = 0;
  assert_int_equal(rig_cmd(r, 0, bulk, data, sizeof data, &low1), NP_ERR_OK);
  assert_int_equal(rig_cmd(r, 0, bulk, data, sizeof data, &low2), NP_ERR_OK);
  rig_run(r);
  bulk.priority = 6;
  assert_int_equal(rig_cmd(r, 0, bulk, data, 40000, &high), NP_ERR_OK);
  rig_settle(r, 200);
  uint32_t got[3] = {0};
  bool high_done = false;
  uint32_t low_after = 0;
  for (uint32_t k = 0; k < r->event_count; k++) {
    const struct np_event *ev = &r->events[k].ev;
    if (ev->op != NP_EV_MESSAGE) continue;
    uint32_t which = ev->stream == low1 ? 0 : ev->stream == low2 ? 1 : 2;
    got[which] += ev->body_bytes;
    if (which == 2) {
      high_done = got[2] == 40000;
      /* what left before it was queued is at most the room there was */
      assert_true(got[0] + got[1] <= 20000);
    } else if (high_done) {
      low_after++;
    }
    /* equals take turns */
    assert_true(got[0] <= got[1] + 2 * NP_RIG_FRAGMENT && got[1] <= got[0] + 2 * NP_RIG_FRAGMENT);
  }
  assert_int_equal(got[0], sizeof data);
  assert_int_equal(got[1], sizeof data);
  assert_true(high_done && low_after > 0);
  rig_free(r);
}

static void rekeying_under_load(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  c.rekey_records = 5;
  s.rekey_bytes = 1000;
  rig_join(r, &c, &s);
  r->piece_bytes = 0;
  uint8_t body[140];
  uint32_t answers = 0;
  for (uint32_t i = 0; i < 300; i++) {
    uint8_t text[100];
    memset(text, (int)i, sizeof text);
    uint32_t n = request(body, "ECHO", text, sizeof text);
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    if (i % 7 != 0) continue;
    rig_settle(r, 10);
    for (uint32_t k = 0; k < r->event_count; k++) answers += r->events[k].ev.op == NP_EV_MESSAGE;
    rig_clear(r);
  }
  assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_REKEY}, NULL, 0, NULL), NP_ERR_OK);
  rig_settle(r, 20);
  for (uint32_t k = 0; k < r->event_count; k++) answers += r->events[k].ev.op == NP_EV_MESSAGE;
  assert_int_equal(answers, 300);
  assert_true(count(r, NP_C_NPRO_REKEYS) > 2 * (55 + 28));
  rig_free(r);
}

static void rekey_by_time(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  c.rekey_ns = 2000 * RIG_MS;
  rig_join(r, &c, &s);
  for (uint32_t i = 0; i < 10; i++) {
    rig_advance(r, 1000 * RIG_MS);
    rig_settle(r, 5);
  }
  uint64_t n = count(r, NP_C_NPRO_REKEYS);
  assert_true(n >= 6 && n <= 10); /* sent and received counted */
  rig_free(r);
}

static void reset_ends_a_stream_at_both_ends(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[32];
  uint32_t n = request(body, "LONG", NULL, 0);
  uint32_t stream = 0;
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, &stream), NP_ERR_OK);
  rig_settle(r, 10);
  assert_int_equal(rig_cmd(r, 0, (struct np_cmd){.op = NP_CMD_RESET, .stream = stream, .arg = NP_CODE_CANCELED}, NULL, 0, NULL), NP_ERR_OK);
  /* the response is on its way while the reset is */
  assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, stream, "\0", 1, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  assert_int_equal(np_sessions_streams(r->sessions), 0);
  assert_true(r->counters.drop[NP_DROP_NPRO_CLOSED] == 2 || rig_find(r, 1, NP_EV_RESET) != NULL);
  assert_false(r->end[0].aborted || r->end[0].fin || r->end[1].aborted || r->end[1].fin);
  rig_free(r);
}

static void max_streams_is_refused_with_a_code(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  s.max_streams = 3;
  rig_join(r, &c, &s);
  uint8_t body[32];
  uint32_t n = request(body, "X", NULL, 0);
  for (uint32_t i = 0; i < 5; i++) assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  rig_settle(r, 20);
  assert_int_equal(r->counters.drop[NP_DROP_NPRO_STREAM_LIMIT], 2);
  uint32_t resets = 0;
  for (uint32_t k = 0; k < r->event_count; k++) {
    if (r->events[k].ev.op != NP_EV_RESET) continue;
    resets++;
    assert_int_equal(r->events[k].ev.arg, NP_CODE_STREAM_LIMIT);
  }
  assert_int_equal(resets, 2);
  assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, 1, "\0", 1, NULL), NP_ERR_OK);
  rig_settle(r, 20);
  assert_int_equal(np_sessions_streams(r->sessions), 4);
  rig_free(r);
}

static void goaway_refuses_new_and_drains(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[32];
  uint32_t n = request(body, "X", NULL, 0);
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  np_sessions_drain(r->sessions, r->now_ns);
  /* this one crosses the GOAWAY of the server */
  rig_run(r);
  rig_settle(r, 10);
  struct rig_event *ev = rig_find(r, 0, NP_EV_GOAWAY);
  assert_non_null(ev);
  assert_int_equal(ev->ev.arg, 1);
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_SHUTDOWN);
  rig_advance(r, 200 * RIG_MS);
  assert_false(r->end[1].fin); /* a stream is open */
  assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, 1, "\0", 1, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  rig_advance(r, 200 * RIG_MS);
  rig_settle(r, 20);
  assert_true(r->end[1].fin && r->end[0].fin);
  assert_non_null(rig_find(r, 0, NP_EV_CLOSED));
  assert_non_null(rig_find(r, 1, NP_EV_CLOSED));
  rig_free(r);
}

/* A handshake that ends after the drain began: that session is told too. */
static void drain_reaches_later_sessions(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  np_sessions_drain(r->sessions, r->now_ns);
  rig_join(r, &c, &s);
  for (uint32_t i = 0; i < 2; i++) {
    struct np_conn_info info;
    memset(&info, 0, sizeof info);
    np_session_info(r->end[i].stream.session, &info);
    assert_int_equal(info.session_state, NP_NPRO_DRAINING);
  }
  rig_free(r);
}

/* Many sessions: a part of them in each run, and the run says that there is more. */
static void drain_takes_several_runs(void **state) {
  (void)state;
  struct rig *r = rig_new(1000, 256);
  assert_false(rig_run(r));
  np_sessions_drain(r->sessions, r->now_ns);
  uint32_t runs = 1;
  for (; rig_run(r) && runs < 100; runs++) continue;
  assert_int_equal(runs, 4);
  assert_false(rig_run(r));
  rig_free(r);
}

static void drain_has_a_limit(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[32];
  uint32_t n = request(body, "X", NULL, 0);
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_GOAWAY}, NULL, 0, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  for (uint32_t i = 0; i < 12; i++) rig_advance(r, 100 * RIG_MS);
  rig_settle(r, 10);
  struct rig_event *ev = rig_find(r, 0, NP_EV_CLOSED);
  assert_non_null(ev);
  assert_int_equal(ev->ev.arg, NP_CODE_SHUTTING_DOWN);
  rig_free(r);
}

static void close_says_disconnect_then_fin(void **state) {
  (void)state;
  struct rig *r = joined();
  struct np_cmd cmd = {.op = NP_CMD_CLOSE, .arg = NP_CODE_NORMAL};
  assert_int_equal(send_msg(r, 0, NP_NPRO_MESSAGE, NP_NPRO_F_END, 0, "\1Xlast", 6, NULL), NP_ERR_OK);
  assert_int_equal(rig_cmd(r, 0, cmd, "bye", 3, NULL), NP_ERR_OK);
  rig_settle(r, 10);
  assert_true(r->end[0].fin && r->end[0].detached);
  assert_non_null(rig_find(r, 1, NP_EV_MESSAGE)); /* what was sent before it arrived */
  struct rig_event *ev = rig_find(r, 1, NP_EV_CLOSED);
  assert_non_null(ev);
  assert_int_equal(ev->ev.arg, NP_CODE_NORMAL);
  assert_int_equal(ev->ev.err, NP_ERR_EOF);
  assert_int_equal(rig_find(r, 0, NP_EV_CLOSED)->ev.err, NP_ERR_OK);
  assert_int_equal(r->events[r->event_count - 1].ev.op, NP_EV_CLOSED);
  rig_free(r);
}

static void close_that_cannot_leave_aborts(void **state) {
  (void)state;
  struct rig *r = joined();
  r->end[0].room_max = 0;
  assert_int_equal(rig_cmd(r, 0, (struct np_cmd){.op = NP_CMD_CLOSE}, NULL, 0, NULL), NP_ERR_OK);
  rig_run(r);
  assert_null(rig_find(r, 0, NP_EV_CLOSED));
  rig_advance(r, 3100 * RIG_MS);
  assert_true(r->end[0].aborted);
  assert_non_null(rig_find(r, 0, NP_EV_CLOSED));
  rig_free(r);
}

static void fin_without_a_word(void **state) {
  (void)state;
  struct rig *r = joined();
  uint8_t body[32];
  uint32_t n = request(body, "X", NULL, 0);
  assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
  rig_run(r);
  r->end[0].fin = true;
  rig_settle(r, 10);
  assert_non_null(rig_find(r, 1, NP_EV_MESSAGE));
  assert_int_equal(rig_find(r, 1, NP_EV_CLOSED)->ev.err, NP_ERR_EOF);
  rig_free(r);
}

/* A full event ring stops reading; the stream's window stays shut; then it goes on. */
static void event_ring_full_stops_reading(void **state) {
  (void)state;
  struct rig *r = joined();
  r->event_room = 3;
  uint8_t body[32];
  uint32_t n = request(body, "GO", "abcdef", 6);
  for (uint32_t i = 0; i < 20; i++) {
    r->event_room += 1; /* the sender's SENT */
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    rig_run(r);
  }
  rig_move(r, 0);
  assert_true(rig_run(r)); /* work is left */
  uint32_t got = 0;
  for (uint32_t k = 0; k < r->event_count; k++) got += r->events[k].ev.op == NP_EV_MESSAGE;
  assert_int_equal(got, 3);
  assert_true(r->end[1].unconsumed > 0);
  assert_true(count(r, NP_C_EVENT_RING_FULL) >= 1);
  r->event_room = 1000;
  rig_settle(r, 10);
  got = 0;
  for (uint32_t k = 0; k < r->event_count; k++) got += r->events[k].ev.op == NP_EV_MESSAGE;
  assert_int_equal(got, 20);
  assert_int_equal(r->end[1].unconsumed, 0);
  rig_free(r);
}

static void closed_waits_for_the_event_ring(void **state) {
  (void)state;
  struct rig *r = joined();
  r->event_room = 0;
  rig_abort(&r->end[1].stream);
  rig_run(r);
  assert_int_equal(r->event_count, 0);
  assert_int_equal(np_sessions_count(r->sessions), 2);
  r->event_room = 10;
  rig_run(r);
  assert_non_null(rig_find(r, 1, NP_EV_CLOSED));
  assert_int_equal(np_sessions_count(r->sessions), 1);
  rig_free(r);
}

/* No room to send: answers wait within their bound, then reading stops. */
static void no_room_for_answers(void **state) {
  (void)state;
  struct rig *r = joined();
  r->end[1].room_max = 0;
  uint8_t body[1100];
  static uint8_t text[1024];
  uint32_t sent = 0;
  for (uint32_t i = 0; i < 100; i++) {
    uint32_t n = request(body, "ECHO", text, sizeof text);
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    sent++;
    rig_settle(r, 5);
  }
  assert_int_equal(r->end[1].wire_bytes, 0);
  r->end[1].room_max = 5000;
  r->end[1].stream.session->ops->writable(r->end[1].stream.session);
  rig_settle(r, 200);
  uint32_t got = 0;
  for (uint32_t k = 0; k < r->event_count; k++) {
    got += r->events[k].ev.op == NP_EV_MESSAGE && (r->events[k].ev.flags & NP_NPRO_F_END) != 0;
  }
  assert_int_equal(got, sent);
  rig_free(r);
}

static void pool_runs_out(void **state) {
  (void)state;
  struct rig *r = joined();
  static struct np_buf *kept[RIG_BUFS];
  uint32_t n_kept = 0;
  while (r->pool.free_count > 40) kept[n_kept++] = np_pool_get(&r->pool);
  uint8_t body[600];
  static uint8_t text[512];
  uint32_t n = request(body, "ECHO", text, sizeof text);
  for (uint32_t i = 0; i < 60; i++) {
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    rig_settle(r, 4);
  }
  while (n_kept > 0) np_buf_put(kept[--n_kept]);
  rig_settle(r, 100);
  uint32_t got = 0;
  for (uint32_t k = 0; k < r->event_count; k++) got += r->events[k].ev.op == NP_EV_MESSAGE;
  assert_int_equal(got + r->counters.drop[NP_DROP_NPRO_NO_BUFFER], 60);
  assert_true(got > 0);
  assert_int_equal(r->end[1].unconsumed, 0);
  rig_free(r);
}

static void compressed_both_ways(void **state) {
  (void)state;
  for (uint8_t which = NP_COMPRESSION_LZ4; which <= NP_COMPRESSION_ZSTD; which++) {
    struct rig *r = rig_new(4, 256);
    struct np_npro_keys c = rig_keys(0);
    struct np_npro_keys s = rig_keys(1);
    c.compression = which;
    c.compression_rx = (uint8_t)(1u << which);
    s.compression = which;
    s.compression_rx = (uint8_t)(1u << which);
    rig_join(r, &c, &s);
    static uint8_t text[40000];
    memset(text, 'a', sizeof text);
    uint8_t *body = malloc(sizeof text + 8);
    uint32_t n = request(body, "OP", text, sizeof text);
    uint64_t before = r->end[0].sent_total;
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    rig_settle(r, 20);
    assert_true(r->end[0].sent_total - before < 2000);
    uint32_t got = 0;
    for (uint32_t k = 0; k < r->event_count; k++) {
      const struct rig_event *ev = &r->events[k];
      if (ev->ev.op != NP_EV_MESSAGE) continue;
      assert_memory_equal(ev->body, body + got, ev->ev.body_bytes);
      got += ev->ev.body_bytes;
    }
    assert_int_equal(got, n);
    /* ECHO that came compressed is answered here all the same */
    n = request(body, "ECHO", text, 5000);
    rig_clear(r);
    assert_int_equal(send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL), NP_ERR_OK);
    rig_settle(r, 20);
    assert_null(rig_find(r, 1, NP_EV_MESSAGE));
    assert_int_equal(rig_find(r, 0, NP_EV_MESSAGE)->ev.body_bytes, 5001);
    assert_int_equal(count(r, NP_C_NPRO_ECHOES), 1);
    free(body);
    rig_free(r);
  }
}

/* Random traffic in both directions, random pieces, small windows and rooms. */
static void mixed_traffic(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 256);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  c.stream_window_tx_bytes = s.stream_window_rx_bytes = 9000;
  c.conn_window_tx_bytes = s.conn_window_rx_bytes = 20000;
  c.rekey_records = 37;
  rig_join(r, &c, &s);
  r->piece_bytes = 0;
  r->end[0].room_max = 7000;
  r->end[1].room_max = 5000;
  r->end[0].window_max = 3000;
  r->end[1].window_max = 4000;
  uint64_t echoed = 0;
  uint64_t asked = 0;
  static uint8_t body[8192];
  for (uint32_t i = 0; i < 1500; i++) {
    uint32_t payload = np_rng_below(&r->rng, 3000);
    uint32_t n = request(body, np_rng_below(&r->rng, 4) == 0 ? "GO" : "ECHO", NULL, 0) + payload;
    memset(body + n - payload, (int)i, payload);
    enum np_err err = r->loan_count < 8 ? NP_ERR_FULL : send_msg(r, 0, NP_NPRO_REQUEST, NP_NPRO_F_END, 0, body, n, NULL);
    assert_true(err == NP_ERR_OK || err == NP_ERR_FULL);
    asked += err == NP_ERR_OK;
    rig_move(r, 0);
    rig_move(r, 1);
    rig_run(r);
    for (uint32_t k = 0; k < r->event_count; k++) {
      const struct np_event *ev = &r->events[k].ev;
      if (ev->op != NP_EV_MESSAGE) continue;
      uint32_t end = ev->handle == r->end[0].stream.handle ? 0 : 1;
      assert_int_equal(rig_cmd(r, end, (struct np_cmd){.op = NP_CMD_CREDIT, .stream = ev->stream, .arg = ev->body_bytes}, NULL, 0, NULL), NP_ERR_OK);
      if (end == 0 && (ev->flags & NP_NPRO_F_END) != 0) echoed++;
      if (end == 1 && (ev->flags & NP_NPRO_F_END) != 0) {
        err = send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, ev->stream, "\0done", 5, NULL);
        assert_int_equal(err, NP_ERR_OK);
      }
    }
    rig_clear(r);

  }
  for (uint32_t i = 0; i < 3000 && echoed < asked; i++) {
    rig_move(r, 0);
    rig_move(r, 1);
    rig_run(r);
    for (uint32_t k = 0; k < r->event_count; k++) {
      const struct np_event *ev = &r->events[k].ev;
      if (ev->op == NP_EV_RESET) echoed++; /* refused: too many at once */
      if (ev->op != NP_EV_MESSAGE) continue;
      uint32_t end = ev->handle == r->end[0].stream.handle ? 0 : 1;
      (void)rig_cmd(r, end, (struct np_cmd){.op = NP_CMD_CREDIT, .stream = ev->stream, .arg = ev->body_bytes}, NULL, 0, NULL);
      if ((ev->flags & NP_NPRO_F_END) == 0) continue;
      if (end == 0) echoed++;
      else assert_int_equal(send_msg(r, 1, NP_NPRO_RESPONSE, NP_NPRO_F_END, ev->stream, "\0done", 5, NULL), NP_ERR_OK);
    }
    rig_clear(r);
  }
  assert_int_equal(echoed, asked);
  assert_true(asked > 300);
  assert_int_equal(np_sessions_streams(r->sessions), 0);
  rig_free(r);
}

/* Streams are opened in rising order whatever their priorities: a peer takes a lower number
 * for one that ended already. What is opened goes by priority. */
static void streams_open_in_order(void **state) {
  (void)state;
  struct rig *r = joined();
  struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_END};
  for (uint32_t i = 0; i < 8; i++) {
    send.priority = (uint8_t)i;
    assert_int_equal(rig_cmd(r, 0, send, "\4BULK", 5, NULL), NP_ERR_OK);
  }
  rig_settle(r, 20);
  uint32_t seen = 0;
  for (uint32_t i = 0; i < r->event_count; i++) {
    const struct np_event *ev = &r->events[i].ev;
    if (ev->op == NP_EV_MESSAGE) assert_int_equal(ev->stream, 2 * seen++ + 1);
  }
  assert_int_equal(seen, 8);
  assert_int_equal(rig_npro_drops(r), 0);
  rig_free(r);
}

/* A stream given up before its first frame left is nothing to the peer: a RESET of it would be
 * a breach. */
static void reset_before_the_first_frame(void **state) {
  (void)state;
  struct rig *r = joined();
  uint32_t stream = 0;
  r->end[0].room_max = 0;
  struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_END};
  assert_int_equal(rig_cmd(r, 0, send, "\4BULK", 5, &stream), NP_ERR_OK);
  rig_run(r);
  struct np_cmd reset = {.op = NP_CMD_RESET, .stream = stream, .arg = NP_CODE_CANCELED};
  assert_int_equal(rig_cmd(r, 0, reset, NULL, 0, NULL), NP_ERR_OK);
  r->end[0].room_max = 1u << 20;
  assert_int_equal(rig_cmd(r, 0, send, "\4NEXT", 5, &stream), NP_ERR_OK);
  rig_settle(r, 20);
  assert_non_null(rig_find(r, 1, NP_EV_MESSAGE));
  assert_null(rig_find(r, 1, NP_EV_CLOSED));
  assert_int_equal(rig_npro_drops(r), 0);
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(handshake_then_open),
      cmocka_unit_test(handshake_takes_too_long),
      cmocka_unit_test(outgoing_that_fails_says_closed),
      cmocka_unit_test(request_and_response),
      cmocka_unit_test(echo_on_the_core),
      cmocka_unit_test(echo_in_place_takes_no_buffer),
      cmocka_unit_test(many_small_in_one_piece),
      cmocka_unit_test(every_split),
      cmocka_unit_test(ping_from_go_and_from_the_heartbeat),
      cmocka_unit_test(a_silent_peer_is_dead),
      cmocka_unit_test(an_answering_peer_lives),
      cmocka_unit_test(stream_window_stops_and_returns),
      cmocka_unit_test(frame_longer_than_the_receive_window),
      cmocka_unit_test(bare_end),
      cmocka_unit_test(high_priority_goes_first),
      cmocka_unit_test(rekeying_under_load),
      cmocka_unit_test(rekey_by_time),
      cmocka_unit_test(reset_ends_a_stream_at_both_ends),
      cmocka_unit_test(max_streams_is_refused_with_a_code),
      cmocka_unit_test(goaway_refuses_new_and_drains),
      cmocka_unit_test(drain_reaches_later_sessions),
      cmocka_unit_test(drain_takes_several_runs),
      cmocka_unit_test(drain_has_a_limit),
      cmocka_unit_test(close_says_disconnect_then_fin),
      cmocka_unit_test(close_that_cannot_leave_aborts),
      cmocka_unit_test(fin_without_a_word),
      cmocka_unit_test(event_ring_full_stops_reading),
      cmocka_unit_test(closed_waits_for_the_event_ring),
      cmocka_unit_test(no_room_for_answers),
      cmocka_unit_test(pool_runs_out),
      cmocka_unit_test(compressed_both_ways),
      cmocka_unit_test(mixed_traffic),
      cmocka_unit_test(streams_open_in_order),
      cmocka_unit_test(reset_before_the_first_frame),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
