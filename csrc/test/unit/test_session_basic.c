/* echo, discard, chargen, and buffer queues. */
#include "session_rig.h"

#include "session/session_int.h"

static void echo_returns_every_byte(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  r->piece_bytes = 0;
  assert_non_null(rig_open(r, 1, NP_SESSION_ECHO, 0x77));
  r->end[1].room_max = 3000; /* less than what comes */
  uint8_t in[20000];
  for (uint32_t i = 0; i < sizeof in; i++) in[i] = (uint8_t)(i * 7 + i / 251);
  uint8_t out[sizeof in];
  uint32_t got = 0;
  assert_int_equal(rig_feed(r, 1, in, sizeof in), sizeof in);
  for (int turn = 0; turn < 1000 && got < sizeof in; turn++) {
    struct rig_stream *s = &r->end[1];
    memcpy(out + got, s->wire, s->wire_bytes);
    got += s->wire_bytes;
    s->wire_bytes = 0;
    if (s->said_no) {
      s->said_no = false;
      s->stream.session->ops->writable(s->stream.session);
    }
    rig_run(r);
    assert_true(s->wire_bytes <= 3000);
    /* only what was sent counts as consumed: that is the backpressure */
    assert_int_equal(s->unconsumed, sizeof in - s->sent_total);
  }
  assert_int_equal(got, sizeof in);
  assert_memory_equal(in, out, sizeof in);
  r->end[1].stream.session->ops->eof(r->end[1].stream.session);
  assert_true(r->end[1].fin);
  rig_free(r);
}

static void echo_sends_the_same_buffer(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  assert_non_null(rig_open(r, 1, NP_SESSION_ECHO, 0x77));
  uint32_t low = r->pool.free_count;
  r->pool.low_count = low;
  assert_int_equal(rig_feed(r, 1, (const uint8_t *)"hello", 5), 5);
  assert_int_equal(r->pool.low_count, low - 1); /* the received one, no copy */
  assert_int_equal(r->end[1].wire_bytes, 5);
  rig_free(r);
}

static void discard_takes_everything(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  assert_non_null(rig_open(r, 1, NP_SESSION_DISCARD, 0x77));
  uint8_t in[5000] = {0};
  assert_int_equal(rig_feed(r, 1, in, sizeof in), sizeof in);
  assert_int_equal(r->end[1].unconsumed, 0);
  assert_int_equal(r->end[1].sent_total, 0);
  r->end[1].stream.session->ops->eof(r->end[1].stream.session);
  assert_true(r->end[1].fin);
  rig_free(r);
}

/* RFC 864 §"Data Syntax": the n-th line begins with the n-th printable character. */
static void chargen_sends_lines(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  r->end[1].room_max = 20000;
  assert_non_null(rig_open(r, 1, NP_SESSION_CHARGEN, 0x77));
  (void)rig_run(r);
  assert_in_range(r->end[1].sent_total, 20000 - 1400, 20000);
  uint8_t line[74];
  uint32_t filled = 0;
  uint32_t lines = 0;
  for (int turn = 0; turn < 40; turn++) {
    struct rig_stream *s = &r->end[1];
    for (uint32_t i = 0; i < s->wire_bytes; i++) {
      line[filled++] = s->wire[i];
      if (filled < sizeof line) continue;
      for (uint32_t k = 0; k < 72; k++) assert_int_equal(line[k], ' ' + (lines + k) % 95);
      assert_memory_equal(line + 72, "\r\n", 2);
      filled = 0;
      lines++;
    }
    s->wire_bytes = 0;
    s->stream.session->ops->writable(s->stream.session);
    assert_in_range(s->wire_bytes, 20000 - 1400, 20000);
    uint8_t in[100] = {0};
    assert_int_equal(rig_feed(r, 1, in, sizeof in), sizeof in); /* ignored */
    assert_int_equal(s->unconsumed, 0);
  }
  assert_true(lines > 95 * 10);
  r->end[1].stream.session->ops->eof(r->end[1].stream.session);
  assert_true(r->end[1].fin);
  rig_free(r);
}

/* It takes three quarters of the pool at most, then waits without asking for turns. */
static void chargen_leaves_a_reserve(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  struct np_buf *held = NULL;
  uint32_t reserve = r->pool.count / 4;
  while (r->pool.free_count > reserve + 3) {
    struct np_buf *b = np_pool_get(&r->pool);
    b->next = held;
    held = b;
  }
  r->pool.low_count = r->pool.free_count;
  assert_non_null(rig_open(r, 1, NP_SESSION_CHARGEN, 0x77));
  bool more = true;
  for (int turn = 0; turn < 1000 && r->end[1].wire_bytes < r->end[1].room_max - 1400; turn++) more = rig_run(r);
  assert_int_equal(r->pool.low_count, reserve);
  assert_in_range(r->end[1].wire_bytes, r->end[1].room_max - 1399, r->end[1].room_max); /* the rig frees at once */
  assert_false(more);
  r->end[1].wire_bytes = 0;
  struct np_buf *three = held;
  for (int i = 0; i < 2; i++) three = three->next;
  struct np_buf *rest = three->next;
  three->next = NULL;
  while (r->pool.free_count > reserve) { /* now nothing is above the reserve */
    struct np_buf *b = np_pool_get(&r->pool);
    b->next = rest;
    rest = b;
  }
  uint64_t sent = r->end[1].sent_total;
  r->end[1].stream.session->ops->writable(r->end[1].stream.session);
  assert_false(rig_run(r));
  assert_int_equal(r->end[1].sent_total, sent);
  np_buf_put_chain(held); /* an ACK freed three */
  (void)rig_run(r);
  assert_true(r->end[1].sent_total > sent);
  np_buf_put_chain(rest);
  rig_free(r);
}

static void commands_close_plain_sessions(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 16);
  assert_non_null(rig_open(r, 1, NP_SESSION_DISCARD, 0x77));
  assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_PING}, "x", 1, NULL), NP_ERR_UNSUPPORTED);
  assert_int_equal(rig_cmd(r, 1, (struct np_cmd){.op = NP_CMD_CLOSE}, NULL, 0, NULL), NP_ERR_OK);
  assert_true(r->end[1].fin && r->end[1].detached);
  assert_int_equal(r->event_count, 0); /* Go never heard of it */
  rig_free(r);
}

static void sessions_run_out(void **state) {
  (void)state;
  struct rig *r = rig_new(2, 16);
  assert_non_null(rig_open(r, 0, NP_SESSION_ECHO, 0x77));
  assert_non_null(rig_open(r, 1, NP_SESSION_ECHO, 0x77));
  assert_null(np_session_new(r->sessions, NP_SESSION_ECHO, NULL, 0x77, r->now_ns));
  assert_null(np_session_new(r->sessions, NP_SESSION_NONE, NULL, 0x77, r->now_ns));
  rig_free(r);
}

/* Every cut of a chain of three pieces gives back the same bytes. */
static void take_cuts_anywhere(void **state) {
  (void)state;
  struct rig *r = rig_new(1, 16);
  for (uint32_t cut = 1; cut <= 90; cut++) {
    struct np_bufq q = {0};
    for (uint32_t p = 0; p < 3; p++) {
      struct np_buf *b = np_pool_get(&r->pool);
      uint8_t *d = np_buf_append(b, 30);
      for (uint32_t i = 0; i < 30; i++) d[i] = (uint8_t)(p * 30 + i);
      np_bufq_add(&q, b);
    }
    struct np_bufq front = {0};
    assert_true(np_bufq_take(&q, cut, &r->pool, &front));
    assert_int_equal(front.bytes, cut);
    assert_int_equal(q.bytes, 90 - cut);
    assert_int_equal(np_buf_chain_len(front.head), cut);
    assert_int_equal(np_buf_chain_len(q.head), 90 - cut);
    uint8_t all[90];
    np_bufq_copy(&front, 0, all, cut);
    if (cut < 90) np_bufq_copy(&q, 0, all + cut, 90 - cut);
    for (uint32_t i = 0; i < 90; i++) assert_int_equal(all[i], i);
    np_bufq_free(&front);
    np_bufq_free(&q);
  }
  rig_free(r);
}

static void intake_copies_what_is_shared(void **state) {
  (void)state;
  struct rig *r = rig_new(1, 16);
  struct np_buf *b = np_pool_get(&r->pool);
  memcpy(np_buf_append(b, 4), "abcd", 4);
  b->refs = 2; /* somebody else reads it */
  struct np_bufq q = {0};
  assert_true(np_bufq_intake(&q, b, &r->pool, 0));
  assert_ptr_not_equal(q.head, b);
  assert_memory_equal(np_buf_cdata(q.head), "abcd", 4);
  assert_int_equal(b->refs, 1);
  np_buf_put(b);
  np_bufq_free(&q);
  rig_free(r);
}

/* README.md's sum: an idle NPRO session beside TCP's connection. */
static void session_is_small(void **state) {
  (void)state;
  assert_true(sizeof(struct np_sess) <= 1200);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(echo_returns_every_byte),  cmocka_unit_test(echo_sends_the_same_buffer),
      cmocka_unit_test(discard_takes_everything), cmocka_unit_test(commands_close_plain_sessions),
      cmocka_unit_test(chargen_sends_lines),      cmocka_unit_test(chargen_leaves_a_reserve),
      cmocka_unit_test(sessions_run_out),         cmocka_unit_test(take_cuts_anywhere),
      cmocka_unit_test(intake_copies_what_is_shared), cmocka_unit_test(session_is_small),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
