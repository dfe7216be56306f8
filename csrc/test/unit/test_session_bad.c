/* WIRE's table of limits: each breach is counted under its own reason and ends
 * the connection, and nothing stays behind. */
#include "session_peer.h"

/* ---- before the handshake: raw bytes ---- */

static void raw(const void *bytes, uint32_t n, enum np_drop why) {
  for (uint32_t piece = 1; piece < 32; piece += 30) { /* byte by byte, and at once */
    struct rig *r = rig_new(2, 16);
    rig_npro(r, 1);
    r->piece_bytes = piece;
    rig_feed(r, 1, bytes, n);
    rig_run(r);
    assert_int_equal(r->counters.drop[why], 1);
    assert_int_equal(rig_npro_drops(r), 1);
    assert_true(r->end[1].aborted);
    struct rig_event *ev = rig_find(r, 1, NP_EV_CLOSED);
    assert_non_null(ev);
    assert_int_equal(ev->ev.err, NP_ERR_PROTOCOL);
    rig_free(r);
  }
}

static void header(uint8_t out[16], uint8_t flags, uint32_t length, uint8_t type, uint8_t priority, uint32_t stream) {
  memcpy(out, "NPRO\2", 5);
  out[5] = flags;
  np_store_be32(out + 6, length);
  out[10] = type;
  out[11] = priority;
  np_store_be32(out + 12, stream);
}

static void first_bytes(void **state) {
  (void)state;
  uint8_t h[16];
  raw("G", 1, NP_DROP_NPRO_MAGIC);
  raw("GET / HTTP/1.1\r\n\r\n", 18, NP_DROP_NPRO_MAGIC);
  raw("NPRX", 4, NP_DROP_NPRO_MAGIC);
  raw("NPRO\1", 5, NP_DROP_NPRO_VERSION);
  raw("NPRO\3", 5, NP_DROP_NPRO_VERSION);
  header(h, 0x40, 4, NP_NPRO_HANDSHAKE_1, 0, 0);
  raw(h, 16, NP_DROP_NPRO_FLAGS);
  header(h, NP_NPRO_F_ENC, 4, NP_NPRO_HANDSHAKE_1, 0, 0);
  raw(h, 16, NP_DROP_NPRO_FLAGS);
  header(h, 0, 4, 0x13, 0, 0);
  raw(h, 16, NP_DROP_NPRO_TYPE);
  header(h, 0, 4, NP_NPRO_HANDSHAKE_1, 8, 0);
  raw(h, 16, NP_DROP_NPRO_RESERVED);
  header(h, 0, 8193, NP_NPRO_HANDSHAKE_1, 0, 0);
  raw(h, 16, NP_DROP_NPRO_LENGTH);
  header(h, 0, 0xffffffff, NP_NPRO_HANDSHAKE_1, 0, 0);
  raw(h, 16, NP_DROP_NPRO_LENGTH);
  header(h, 0, 0, NP_NPRO_HANDSHAKE_1, 0, 0);
  raw(h, 16, NP_DROP_NPRO_LENGTH);
  header(h, 0, 4, NP_NPRO_HANDSHAKE_1, 0, 1);
  raw(h, 16, NP_DROP_NPRO_STREAM);
  header(h, 0, 4, NP_NPRO_PING, 0, 0);
  raw(h, 16, NP_DROP_NPRO_EARLY);
  header(h, NP_NPRO_F_ENC, 40, NP_NPRO_REQUEST, 0, 1);
  raw(h, 16, NP_DROP_NPRO_EARLY);
}

/* A header in pieces waits, holding what came, until the handshake's limit. */
static void half_a_header_waits(void **state) {
  (void)state;
  struct rig *r = rig_new(2, 16);
  rig_npro(r, 1);
  uint32_t before = r->pool.free_count;
  rig_feed(r, 1, (const uint8_t *)"NPRO\2\0\0", 7);
  rig_run(r);
  assert_int_equal(before - r->pool.free_count, 1);
  assert_false(r->end[1].aborted);
  rig_advance(r, 5100 * RIG_MS);
  assert_true(r->end[1].aborted);
  assert_int_equal(r->pool.free_count, before);
  rig_free(r);
}

/* A second frame behind the first stays unread while Go has the first. */
static void reading_pauses_in_the_handshake(void **state) {
  (void)state;
  struct rig *r = rig_new(2, 16);
  rig_npro(r, 1);
  uint8_t h[2 * 17];
  header(h, 0, 1, NP_NPRO_HANDSHAKE_1, 0, 0);
  h[16] = 'a';
  memcpy(h + 17, h, 17);
  rig_feed(r, 1, h, sizeof h);
  rig_run(r);
  rig_run(r);
  assert_int_equal(r->counters.counter[NP_C_NPRO_FRAMES_RX], 1);
  assert_int_equal(r->end[1].unconsumed, 17);
  rig_free(r);
}

/* ---- after it: sealed by somebody who has the keys ---- */

/* what: what to send. Expects one drop of that reason and a DISCONNECT with code. */
static void expect_end(struct peer *p, enum np_drop why, bool words) {
  struct rig *r = p->r;
  rig_run(r);
  if (r->counters.drop[why] != 1 || rig_npro_drops(r) != 1) {
    print_error("expected %d\n", why);
    for (uint32_t d = NP_DROP_NPRO_MAGIC; d <= NP_DROP_NPRO_NO_BUFFER; d++) {
      if (r->counters.drop[d] != 0) print_error("drop %u: %u\n", d, (unsigned)r->counters.drop[d]);
    }
    fail();
  }
  assert_non_null(rig_find(r, 1, NP_EV_CLOSED));
  assert_int_equal(r->end[1].aborted, !words);
  assert_int_equal(r->end[1].fin, words);
  if (words) assert_int_equal(r->end[1].wire_bytes, 16 + 4 + 16); /* one DISCONNECT */
  else assert_int_equal(r->end[1].wire_bytes, 0);
  rig_free(r);
}

static void breach(uint8_t type, uint8_t flags, uint32_t stream, const void *body, uint32_t n, enum np_drop why) {
  struct np_npro_keys k = rig_keys(1);
  k.compression_rx = 1u << NP_COMPRESSION_LZ4;
  struct peer p = peer_new(16, &k);
  peer_send(&p, type, flags, stream, body, n);
  expect_end(&p, why, true);
}

static void sealed_breaches(void **state) {
  (void)state;
  uint8_t big[200] = {0};
  breach(NP_NPRO_HANDSHAKE_1, 0, 0, "x", 1, NP_DROP_NPRO_TYPE);
  breach(NP_NPRO_PING, 0, 0, big, 65, NP_DROP_NPRO_LENGTH);
  breach(NP_NPRO_PING, 0, 3, NULL, 0, NP_DROP_NPRO_STREAM);
  breach(NP_NPRO_PING, NP_NPRO_F_END, 0, NULL, 0, NP_DROP_NPRO_FLAGS);
  breach(NP_NPRO_WINDOW, 0, 0, "\0\0\0", 3, NP_DROP_NPRO_LENGTH);
  breach(NP_NPRO_WINDOW, 0, 0, "\0\0\0\0", 4, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_WINDOW, 0, 0, "\x7f\xff\xff\xff", 4, NP_DROP_NPRO_FLOW);
  breach(NP_NPRO_RESET, 0, 0, "\0\0\0\1", 4, NP_DROP_NPRO_STREAM);
  breach(NP_NPRO_RESET, 0, 9, "\0\0\0\1", 4, NP_DROP_NPRO_STREAM);
  breach(NP_NPRO_REKEY, 0, 0, "x", 1, NP_DROP_NPRO_LENGTH);
  breach(NP_NPRO_DISCONNECT, 0, 0, "abc", 3, NP_DROP_NPRO_LENGTH);
  breach(NP_NPRO_GOAWAY, 0, 0, "abcde", 5, NP_DROP_NPRO_LENGTH);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END, 0, "\1X", 2, NP_DROP_NPRO_STREAM);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END, 2, "\1X", 2, NP_DROP_NPRO_STREAM);  /* our parity */
  breach(NP_NPRO_RESPONSE, NP_NPRO_F_END, 1, "\0", 1, NP_DROP_NPRO_STREAM);  /* to no request */
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END, 1, "", 0, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END, 1, "\0X", 2, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END, 1, "\5ECHO", 5, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_MESSAGE, NP_NPRO_F_END, 1, "\x40xxxxx", 6, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END | NP_NPRO_F_CTX, 1, "\0\5\1X", 4, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END | NP_NPRO_F_CTX, 1, "\xff\xff\4ECHO", 7, NP_DROP_NPRO_BODY);
  breach(NP_NPRO_REQUEST, NP_NPRO_F_END | NP_NPRO_F_MORE, 1, "\1X", 2, NP_DROP_NPRO_FLAGS);
  breach(NP_NPRO_DATA, NP_NPRO_F_ZSTD, 1, "\0\0\0\1xx", 6, NP_DROP_NPRO_FLAGS); /* not agreed on */
  breach(NP_NPRO_DATA, NP_NPRO_F_LZ4, 1, "\0\0", 2, NP_DROP_NPRO_DECOMPRESS);
  breach(NP_NPRO_DATA, NP_NPRO_F_LZ4, 1, "\xff\xff\xff\xff\0", 5, NP_DROP_NPRO_DECOMPRESS);
  breach(NP_NPRO_DATA, NP_NPRO_F_LZ4, 1, "\0\0\0\xff garbage", 12, NP_DROP_NPRO_DECOMPRESS);
}

static void in_the_clear_after_the_handshake(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(16, &k);
  uint8_t h[16];
  header(h, 0, 0, NP_NPRO_PING, 0, 0);
  rig_feed(p.r, 1, h, 16);
  expect_end(&p, NP_DROP_NPRO_CLEAR, true);
}

static void length_over_the_limit(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  k.max_frame_rx_bytes = 2000;
  struct peer p = peer_new(16, &k);
  uint8_t h[16];
  header(h, NP_NPRO_F_ENC, 2001, NP_NPRO_DATA, 0, 1);
  rig_feed(p.r, 1, h, 16);
  expect_end(&p, NP_DROP_NPRO_LENGTH, true);
}

/* Over the connection's credit: refused by the header alone, nothing is waited for. */
static void length_over_the_credit(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  k.conn_window_rx_bytes = 5000;
  struct peer p = peer_new(16, &k);
  uint8_t h[16];
  header(h, NP_NPRO_F_ENC, 5017, NP_NPRO_DATA, 0, 1);
  rig_feed(p.r, 1, h, 16);
  expect_end(&p, NP_DROP_NPRO_FLOW, true);
}

static void over_the_stream_window(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  k.stream_window_rx_bytes = 1000;
  struct peer p = peer_new(16, &k);
  uint8_t body[900] = {0};
  peer_send(&p, NP_NPRO_DATA, 0, 1, body, 900);
  assert_int_equal(rig_npro_drops(p.r), 0);
  peer_send(&p, NP_NPRO_DATA, 0, 1, body, 101);
  expect_end(&p, NP_DROP_NPRO_FLOW, true);
}

/* A record that does not open: closed at once, not a word. */
static void bad_tag(void **state) {
  (void)state;
  for (uint32_t at = 11; at < 16 + 6 + 16; at += 3) {
    struct np_npro_keys k = rig_keys(1);
    struct peer p = peer_new(16, &k);
    uint8_t out[64];
    struct np_frame f = {.type = NP_NPRO_DATA, .flags = NP_NPRO_F_ENC, .stream = 1};
    uint32_t n = peer_seal(&p, &f, "abcdef", 6, out);
    out[at] ^= at == 11 ? 1 : 0x10; /* header bytes are authenticated too; 14 would change the stream only */
    rig_feed(p.r, 1, out, n);
    expect_end(&p, NP_DROP_NPRO_AUTH, false);
  }
}

static void replayed_record(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(16, &k);
  uint8_t out[64];
  struct np_frame f = {.type = NP_NPRO_PING, .flags = NP_NPRO_F_ENC};
  uint32_t n = peer_seal(&p, &f, "abcdef", 6, out);
  rig_feed(p.r, 1, out, n);
  rig_run(p.r);
  p.r->end[1].wire_bytes = 0;
  rig_feed(p.r, 1, out, n);
  expect_end(&p, NP_DROP_NPRO_AUTH, false);
}

/* What came whole before the bad one is delivered. */
static void good_frames_before_a_bad_one_count(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(16, &k);
  uint8_t out[256];
  struct np_frame f = {.type = NP_NPRO_DATA, .flags = NP_NPRO_F_ENC, .stream = 1};
  uint32_t n = peer_seal(&p, &f, "first", 5, out);
  n += peer_seal(&p, &f, "second", 6, out + n);
  memset(out + n, 'Z', 16);
  rig_feed(p.r, 1, out, n + 16);
  rig_run(p.r);
  uint32_t got = 0;
  for (uint32_t i = 0; i < p.r->event_count; i++) got += p.r->events[i].ev.op == NP_EV_MESSAGE;
  assert_int_equal(got, 2);
  expect_end(&p, NP_DROP_NPRO_MAGIC, true);
}

/* Tolerated: what a peer may have sent before it knew better. */
static void late_frames_are_dropped_quietly(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(16, &k);
  peer_send(&p, NP_NPRO_DATA, NP_NPRO_F_END, 3, "x", 1);
  peer_send(&p, NP_NPRO_DATA, 0, 3, "y", 1);       /* after its END */
  peer_send(&p, NP_NPRO_REQUEST, NP_NPRO_F_END, 1, "\1X", 2); /* below the highest */
  assert_int_equal(p.r->counters.drop[NP_DROP_NPRO_CLOSED], 2);
  assert_false(p.r->end[1].fin || p.r->end[1].aborted);
  rig_free(p.r);
}

/* The neighbours of a connection that misbehaves notice nothing. */
static void others_go_on(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  struct peer p = peer_new(16, &k);
  assert_non_null(rig_open(p.r, 0, NP_SESSION_ECHO, 0x77));
  uint8_t out[64];
  struct np_frame f = {.type = NP_NPRO_DATA, .flags = NP_NPRO_F_ENC, .stream = 1};
  uint32_t n = peer_seal(&p, &f, "abcdef", 6, out);
  out[20] ^= 1;
  rig_feed(p.r, 1, out, n);
  rig_feed(p.r, 0, (const uint8_t *)"still here", 10);
  rig_run(p.r);
  assert_true(p.r->end[1].aborted);
  assert_int_equal(p.r->end[0].wire_bytes, 10);
  rig_free(p.r);
}

/* Whole sessions torn down with frames in every stage leave nothing. */
static void truncated_at_every_byte(void **state) {
  (void)state;
  struct np_npro_keys k = rig_keys(1);
  for (uint32_t cut = 0; cut < 16 + 70 + 16; cut++) {
    struct peer p = peer_new(16, &k);
    uint8_t out[160];
    uint8_t body[70] = "\4ECHO";
    struct np_frame f = {.type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_ENC | NP_NPRO_F_END, .stream = 1};
    peer_seal(&p, &f, body, sizeof body, out);
    if (cut > 0) rig_feed(p.r, 1, out, cut);
    rig_run(p.r);
    struct np_session *s = p.r->end[1].stream.session;
    s->ops->eof(s);
    rig_run(p.r);
    assert_non_null(rig_find(p.r, 1, NP_EV_CLOSED));
    assert_int_equal(p.r->counters.drop[NP_DROP_NPRO_CLOSED], cut >= 16 ? 1 : 0);
    rig_free(p.r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_bytes),
      cmocka_unit_test(half_a_header_waits),
      cmocka_unit_test(reading_pauses_in_the_handshake),
      cmocka_unit_test(sealed_breaches),
      cmocka_unit_test(in_the_clear_after_the_handshake),
      cmocka_unit_test(length_over_the_limit),
      cmocka_unit_test(length_over_the_credit),
      cmocka_unit_test(over_the_stream_window),
      cmocka_unit_test(bad_tag),
      cmocka_unit_test(replayed_record),
      cmocka_unit_test(good_frames_before_a_bad_one_count),
      cmocka_unit_test(late_frames_are_dropped_quietly),
      cmocka_unit_test(others_go_on),
      cmocka_unit_test(truncated_at_every_byte),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
