/* Bodies and the context block: every bound, cut at every byte, over chains of
 * pieces of any length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "codec/body.h"
#include "codec/frame.h"

/* data in pieces of `piece` bytes, each in its own memory. */
static struct np_buf *chain(const uint8_t *data, uint32_t n, uint32_t piece) {
  struct np_buf *first = NULL;
  struct np_buf **link = &first;
  do {
    uint32_t len = n < piece ? n : piece;
    struct np_buf *b = calloc(1, sizeof *b + len);
    assert_non_null(b);
    b->data_off = NP_BUF_HDR;
    b->len = len;
    b->cap_bytes = NP_BUF_HDR + len;
    if (len > 0) memcpy((uint8_t *)b + NP_BUF_HDR, data, len);
    data += len;
    n -= len;
    *link = b;
    link = &b->next;
  } while (n > 0);
  return first;
}
static void chain_free(struct np_buf *b) {
  while (b != NULL) {
    struct np_buf *next = b->next;
    free(b);
    b = next;
  }
}

static void test_request(void **state) {
  (void)state;
  uint8_t body[80];
  uint32_t head = np_build_request(body, sizeof body, (const uint8_t *)"ECHO", 4);
  assert_int_equal(head, 5);
  memcpy(body + head, "payload", 7);
  for (uint32_t piece = 1; piece <= 12; piece++) {
    struct np_buf *b = chain(body, head + 7, piece);
    struct np_cursor at = np_cursor_at(b, 0, head + 7);
    struct np_request r;
    assert_int_equal(np_body_request(&at, &r), NP_FRAME_OK);
    assert_true(np_request_is(&r, "ECHO"));
    assert_false(np_request_is(&r, "ECH"));
    assert_false(np_request_is(&r, "ECHOS"));
    assert_false(np_request_is(&r, ""));
    uint8_t rest[7];
    assert_int_equal(at.left, 7);
    assert_true(np_cursor_read(&at, rest, 7));
    assert_memory_equal(rest, "payload", 7);
    assert_false(np_cursor_read(&at, rest, 1));
    assert_false(np_cursor_skip(&at, 1));
    chain_free(b);
  }
}

static void test_request_bounds(void **state) {
  (void)state;
  uint8_t body[65];
  struct np_request r;
  memset(body, 'x', sizeof body);
  for (unsigned n = 0; n < 256; n++) {
    body[0] = (uint8_t)n;
    for (uint32_t have = 0; have <= sizeof body; have++) {
      struct np_buf *b = chain(body, have, 64);
      struct np_cursor at = np_cursor_at(b, 0, have);
      bool good = n >= 1 && n <= 63 && have >= 1 + n;
      assert_int_equal(np_body_request(&at, &r), good ? (int)NP_FRAME_OK : (int)NP_DROP_NPRO_BODY);
      chain_free(b);
    }
  }
  uint8_t out[64];
  assert_int_equal(np_build_request(out, sizeof out, body, 0), 0);
  assert_int_equal(np_build_request(out, sizeof out, body + 1, 64), 0);
  assert_int_equal(np_build_request(out, 63, body + 1, 63), 0);
  assert_int_equal(np_build_request(out, 64, body + 1, 63), 64);
  assert_int_equal(np_build_request(out, 64, (const uint8_t *)"\xff", 1), 0);
}

/* Left says where the body ends even when the chain goes on. */
static void test_left_rules(void **state) {
  (void)state;
  static const uint8_t bytes[] = {4, 'E', 'C', 'H', 'O', 'n', 'e', 'x', 't'};
  struct np_buf *b = chain(bytes, sizeof bytes, 3);
  struct np_cursor at = np_cursor_at(b, 0, 4);
  struct np_request r;
  assert_int_equal(np_body_request(&at, &r), NP_DROP_NPRO_BODY);
  chain_free(b);
}

static void test_utf8(void **state) {
  (void)state;
  static const struct {
    const char *text;
    bool good;
  } table[] = {
      {"", true}, {"ECHO", true}, {"\xc3\xa9", true}, {"\xe2\x82\xac", true}, {"\xf0\x9f\x98\x80", true},
      {"\xf4\x8f\xbf\xbf", true}, {"\xed\x9f\xbf", true}, {"\xee\x80\x80", true},
      {"\x80", false}, {"\xc3", false}, {"\xc0\xaf", false}, {"\xc1\xbf", false}, {"\xe0\x9f\xbf", false},
      {"\xed\xa0\x80", false}, {"\xf0\x8f\xbf\xbf", false}, {"\xf4\x90\x80\x80", false}, {"\xf5\x80\x80\x80", false},
      {"\xe2\x82", false}, {"\xe2\x28\xa1", false}, {"a\xff", false},
  };
  for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
    assert_int_equal(np_utf8_valid((const uint8_t *)table[i].text, (uint32_t)strlen(table[i].text)), table[i].good);
  }
}

static uint32_t sample_context(uint8_t *out, uint32_t cap) {
  uint8_t trace[NP_TRACEPARENT_BYTES];
  uint8_t deadline[4];
  for (uint8_t i = 0; i < sizeof trace; i++) trace[i] = i;
  np_store_be32(deadline, 1500);
  uint32_t off = NP_CONTEXT_LEN;
  off += np_build_context_entry(out + off, cap - off, NP_CONTEXT_TRACEPARENT, trace, sizeof trace);
  off += np_build_context_entry(out + off, cap - off, 0x41, (const uint8_t *)"v", 1);
  off += np_build_context_entry(out + off, cap - off, 0x99, (const uint8_t *)"", 0); /* unknown key */
  off += np_build_context_entry(out + off, cap - off, NP_CONTEXT_DEADLINE, deadline, 4);
  return np_build_context_close(out, off);
}

static void test_context(void **state) {
  (void)state;
  uint8_t body[128];
  uint32_t block = sample_context(body, sizeof body);
  assert_int_equal(block, 2 + 28 + 3 + 2 + 6);
  memcpy(body + block, "after", 5);
  for (uint32_t piece = 1; piece <= 50; piece++) {
    struct np_buf *b = chain(body, block + 5, piece);
    struct np_cursor at = np_cursor_at(b, 0, block + 5);
    struct np_context c;
    assert_int_equal(np_body_context(&at, &c), NP_FRAME_OK);
    assert_true(c.has_deadline && c.deadline_ms == 1500 && c.has_traceparent);
    assert_int_equal(c.traceparent[25], 25);
    assert_int_equal(c.entries.left, block - 2);
    uint8_t kept[128];
    assert_true(np_cursor_read(&c.entries, kept, block - 2));
    assert_memory_equal(kept, body + 2, block - 2);
    uint8_t rest[5];
    assert_int_equal(at.left, 5);
    assert_true(np_cursor_read(&at, rest, 5));
    assert_memory_equal(rest, "after", 5);
    chain_free(b);
  }
}

static enum np_drop context_of(const uint8_t *bytes, uint32_t n) {
  struct np_buf *b = chain(bytes, n, 7);
  struct np_cursor at = np_cursor_at(b, 0, n);
  struct np_context c;
  enum np_drop d = np_body_context(&at, &c);
  chain_free(b);
  return d;
}

static void test_context_bad(void **state) {
  (void)state;
  uint8_t body[128];
  uint32_t block = sample_context(body, sizeof body);
  for (uint32_t n = 0; n < block; n++) assert_int_equal(context_of(body, n), NP_DROP_NPRO_BODY); /* cut anywhere */
  /* a block length that ends inside an entry */
  static const uint32_t ends[] = {28, 31, 33, 39};
  for (uint32_t len = 0; len < block - 2; len++) {
    np_store_be16(body, (uint16_t)len);
    bool whole = len == 0;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) whole = whole || len == ends[i];
    assert_int_equal(context_of(body, block), whole ? (int)NP_FRAME_OK : (int)NP_DROP_NPRO_BODY);
  }
  static const uint8_t short_trace[] = {0, 27, 1, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                        0, 0,  0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0};
  assert_int_equal(context_of(short_trace, sizeof short_trace), NP_DROP_NPRO_BODY);
  static const uint8_t long_deadline[] = {0, 7, 2, 5, 0, 0, 0, 0, 1};
  assert_int_equal(context_of(long_deadline, sizeof long_deadline), NP_DROP_NPRO_BODY);
  static const uint8_t twice[] = {0, 12, 2, 4, 0, 0, 0, 1, 2, 4, 0, 0, 0, 2};
  assert_int_equal(context_of(twice, sizeof twice), NP_DROP_NPRO_BODY);
  static const uint8_t none[] = {0, 0};
  assert_int_equal(context_of(none, sizeof none), NP_FRAME_OK);
}

static void test_context_largest(void **state) {
  (void)state;
  uint8_t *body = malloc(2 + 65535 + 1);
  uint8_t value[255] = {0};
  uint32_t off = NP_CONTEXT_LEN;
  for (int i = 0; i < 255; i++) off += np_build_context_entry(body + off, 2 + 65535 - off, 0x40, value, 255);
  assert_int_equal(off, 2 + 65535);
  assert_int_equal(np_build_context_close(body, off), off);
  assert_int_equal(context_of(body, off), NP_FRAME_OK);
  assert_int_equal(np_build_context_close(body, off + 1), 0);
  assert_int_equal(np_build_context_entry(body, 100, 0x40, value, 256), 0);
  assert_int_equal(np_build_context_entry(body, 6, 0x40, value, 5), 0);
  assert_int_equal(np_build_context_entry(body, 100, NP_CONTEXT_DEADLINE, value, 3), 0);
  assert_int_equal(np_build_context_entry(body, 100, NP_CONTEXT_TRACEPARENT, value, 27), 0);
  free(body);
}

static void test_response_and_u32(void **state) {
  (void)state;
  static const uint8_t bytes[] = {9, 0, 1, 2, 3, 4};
  struct np_buf *b = chain(bytes, sizeof bytes, 2);
  struct np_cursor at = np_cursor_at(b, 0, sizeof bytes);
  uint8_t status = 0;
  assert_int_equal(np_body_response(&at, &status), NP_FRAME_OK);
  assert_int_equal(status, 9);
  assert_int_equal(at.left, 5);
  at = np_cursor_at(b, 0, 0);
  assert_int_equal(np_body_response(&at, &status), NP_DROP_NPRO_BODY);
  for (uint32_t n = 0; n <= 5; n++) {
    uint32_t v = 0;
    at = np_cursor_at(b, 1, n);
    assert_int_equal(np_body_u32(&at, &v), n == 4 ? (int)NP_FRAME_OK : (int)NP_DROP_NPRO_BODY);
    if (n == 4) assert_int_equal(v, 0x00010203);
  }
  chain_free(b);
}

static void test_disconnect(void **state) {
  (void)state;
  uint8_t body[64], reason[16];
  uint32_t code, n;
  uint32_t len = np_build_disconnect(body, sizeof body, 256, "bye \xe2\x82\xac", 7);
  assert_int_equal(len, 11);
  struct np_buf *b = chain(body, len, 3);
  struct np_cursor at = np_cursor_at(b, 0, len);
  assert_int_equal(np_body_disconnect(&at, &code, reason, sizeof reason, &n), NP_FRAME_OK);
  assert_int_equal(code, 256);
  assert_int_equal(n, 7);
  assert_memory_equal(reason, "bye \xe2\x82\xac", 7);
  at = np_cursor_at(b, 0, len);
  assert_int_equal(np_body_disconnect(&at, &code, reason, 6, &n), NP_FRAME_OK); /* no half character */
  assert_int_equal(n, 4);
  at = np_cursor_at(b, 0, 4);
  assert_int_equal(np_body_disconnect(&at, &code, reason, sizeof reason, &n), NP_FRAME_OK);
  assert_int_equal(n, 0);
  at = np_cursor_at(b, 0, 3);
  assert_int_equal(np_body_disconnect(&at, &code, reason, sizeof reason, &n), NP_DROP_NPRO_BODY);
  at = np_cursor_at(b, 0, len - 1);
  assert_int_equal(np_body_disconnect(&at, &code, reason, sizeof reason, &n), NP_DROP_NPRO_BODY);
  chain_free(b);
  assert_int_equal(np_build_disconnect(body, 10, 256, "1234567", 7), 0);
  assert_int_equal(np_build_disconnect(body, sizeof body, 256, "\xff", 1), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_request),          cmocka_unit_test(test_request_bounds),
      cmocka_unit_test(test_left_rules),       cmocka_unit_test(test_utf8),
      cmocka_unit_test(test_context),          cmocka_unit_test(test_context_bad),
      cmocka_unit_test(test_context_largest),  cmocka_unit_test(test_response_and_u32),
      cmocka_unit_test(test_disconnect),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
