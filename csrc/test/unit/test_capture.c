/* Captures without a core around them: what matches, what is copied, what a full ring does. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/internal.h"
#include "test/unit/cmocka_np.h"
#include "test/unit/frame.h"

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0, 0xa};
static const uint8_t mac_b[6] = {2, 0, 0, 0, 0, 0xb};

static struct np_addr v4(uint8_t last) {
  const uint8_t b[4] = {198, 18, 0, last};
  return np_addr_from_v4_be(b);
}

static struct np_addr v6(uint8_t last) {
  struct np_addr a = {{0x20, 0x01, 0x0d, 0xb8}};
  a.b[15] = last;
  return a;
}

static void make_tcp(struct frame *f, struct np_addr src, uint16_t sport, struct np_addr dst, uint16_t dport, uint16_t vlan) {
  static const uint8_t data[100] = {1, 2, 3};
  frame_eth(f, mac_a, mac_b, vlan, np_addr_is_v4(&src) ? 0x0800 : 0x86dd);
  frame_ip(f, &src, &dst, 6, 64);
  frame_tcp(f, sport, dport, 0x10, data, sizeof data);
  frame_finish(f, 6);
}

static void make_udp(struct frame *f) {
  struct np_addr a = v4(1);
  struct np_addr b = v4(2);
  frame_eth(f, mac_a, mac_b, 0, 0x0800);
  frame_ip(f, &a, &b, 17, 64);
  frame_udp(f, 9, 7, "hello", 5);
  frame_finish(f, 17);
}

static struct np_capture_args all_args(void) {
  return (struct np_capture_args){.ring_bytes = 65536, .dirs = NP_CAPTURE_RX | NP_CAPTURE_TX | NP_CAPTURE_DROP, .iface = -1};
}

static struct np_capture *open_capture(const struct np_capture_args *args) {
  struct np_capture *c = NULL;
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  enum np_err err = np_capture_open(args, &c, &detail);
  if (err != NP_ERR_OK) fail_msg("open: %s", detail.text);
  return c;
}

static struct np_counters counters;

static void put(struct np_capture *c, enum np_capture_dir dir, uint16_t iface, enum np_drop why, const struct frame *f) {
  np_capture_packet(c, &counters, dir, iface, why, f->b, f->len, 1234);
}

static uint32_t records(struct np_capture *c, struct np_capture_rec *last) {
  static uint8_t out[1 << 20];
  uint32_t bytes = np_capture_read(c, out, sizeof out);
  uint32_t n = 0;
  for (uint32_t at = 0; at < bytes; n++) {
    memcpy(last, out + at, sizeof *last);
    assert_int_equal(last->bytes % 8, 0);
    assert_true(last->bytes >= sizeof *last + last->cap_bytes);
    at += last->bytes;
    assert_true(at <= bytes);
  }
  return n;
}

static void test_record(void **state) {
  (void)state;
  struct np_capture_args args = all_args();
  struct np_capture *c = open_capture(&args);
  struct frame f;
  make_udp(&f);
  put(c, NP_CAPTURE_DROP, 3, NP_DROP_UDP_PORT, &f);
  uint8_t out[512];
  assert_int_equal(np_capture_read(c, out, 16), 0); /* no half records */
  uint32_t n = np_capture_read(c, out, sizeof out);
  struct np_capture_rec rec;
  memcpy(&rec, out, sizeof rec);
  assert_int_equal(rec.bytes, n);
  assert_int_equal(rec.orig_bytes, f.len);
  assert_int_equal(rec.cap_bytes, f.len);
  assert_int_equal(rec.iface, 3);
  assert_int_equal(rec.dir, NP_CAPTURE_DROP);
  assert_int_equal(rec.drop, NP_DROP_UDP_PORT);
  assert_int_equal(rec.at_ns, 1234);
  assert_memory_equal(out + sizeof rec, f.b, f.len);
  assert_int_equal(np_capture_read(c, out, sizeof out), 0);
  np_capture_close(c);
}

static void test_snap(void **state) {
  (void)state;
  struct np_capture_args args = all_args();
  args.snap_bytes = 20;
  struct np_capture *c = open_capture(&args);
  struct frame f;
  make_udp(&f);
  put(c, NP_CAPTURE_RX, 0, NP_DROP_COUNT, &f);
  struct np_capture_rec rec;
  assert_int_equal(records(c, &rec), 1);
  assert_int_equal(rec.cap_bytes, 20);
  assert_int_equal(rec.orig_bytes, f.len);
  assert_int_equal(rec.bytes, 48);
  np_capture_close(c);
}

static void test_filter(void **state) {
  (void)state;
  struct np_capture_args args = all_args();
  args.filter = "tcp port 7001 and host 198.18.0.9";
  struct np_capture *c = open_capture(&args);
  struct frame f;
  struct np_capture_rec rec;
  make_udp(&f);
  put(c, NP_CAPTURE_RX, 0, NP_DROP_COUNT, &f);
  assert_int_equal(records(c, &rec), 0);
  make_tcp(&f, v4(9), 4000, v4(1), 7001, 0);
  put(c, NP_CAPTURE_RX, 0, NP_DROP_COUNT, &f);
  assert_int_equal(records(c, &rec), 1);
  make_tcp(&f, v4(8), 4000, v4(1), 7001, 0);
  put(c, NP_CAPTURE_RX, 0, NP_DROP_COUNT, &f);
  assert_int_equal(records(c, &rec), 0);
  np_capture_close(c);
}

static void test_direction_and_iface(void **state) {
  (void)state;
  struct np_capture_args args = all_args();
  args.dirs = NP_CAPTURE_TX;
  args.iface = 2;
  struct np_capture *c = open_capture(&args);
  struct frame f;
  struct np_capture_rec rec;
  make_udp(&f);
  put(c, NP_CAPTURE_RX, 2, NP_DROP_COUNT, &f);
  put(c, NP_CAPTURE_TX, 1, NP_DROP_COUNT, &f);
  put(c, NP_CAPTURE_DROP, 2, NP_DROP_UDP_PORT, &f);
  assert_int_equal(records(c, &rec), 0);
  put(c, NP_CAPTURE_TX, 2, NP_DROP_COUNT, &f);
  assert_int_equal(records(c, &rec), 1);
  np_capture_close(c);
}

static void test_listener_port(void **state) {
  (void)state;
  struct np_capture_args args = all_args();
  args.listener_port = 7;
  struct np_capture *c = open_capture(&args);
  struct np_capture_rec rec;
  struct frame f;
  const struct {
    struct np_addr a, b;
    uint16_t sport, dport, vlan;
    uint32_t want;
  } cases[] = {
      {v4(1), v4(2), 5000, 7, 0, 1},   {v4(2), v4(1), 7, 5000, 0, 1}, {v4(1), v4(2), 5000, 8, 0, 0},
      {v6(1), v6(2), 5000, 7, 0, 1},   {v6(1), v6(2), 5000, 8, 0, 0}, {v4(1), v4(2), 5000, 7, 42, 1},
      {v6(1), v6(2), 7, 5000, 42, 1},
  };
  for (size_t i = 0; i < NP_COUNT_OF(cases); i++) {
    make_tcp(&f, cases[i].a, cases[i].sport, cases[i].b, cases[i].dport, cases[i].vlan);
    put(c, NP_CAPTURE_RX, 0, NP_DROP_COUNT, &f);
    assert_int_equal(records(c, &rec), cases[i].want);
  }
  /* every truncation of a frame that would match: no read past the end (ASan), no match without ports */
  make_tcp(&f, v6(1), 5000, v6(2), 7, 42);
  for (uint32_t len = 0; len < 62; len++) {
    uint8_t *cut = malloc(len + 1u);
    memcpy(cut, f.b, len);
    np_capture_packet(c, &counters, NP_CAPTURE_DROP, 0, NP_DROP_LINK_SHORT, cut, len, 0);
    free(cut);
    assert_int_equal(records(c, &rec), 0);
  }
  np_capture_close(c);
}

static void test_full_and_wrap(void **state) {
  (void)state;
  memset(&counters, 0, sizeof counters);
  struct np_capture_args args = all_args();
  struct np_capture *c = open_capture(&args);
  struct frame f;
  struct np_capture_rec rec;
  make_tcp(&f, v4(1), 1, v4(2), 2, 0);
  uint32_t each = (uint32_t)(sizeof rec + f.len + 7u) & ~7u;
  uint32_t fits = 65536 / each;
  for (uint32_t i = 0; i < fits + 5; i++) put(c, NP_CAPTURE_RX, 0, NP_DROP_COUNT, &f);
  assert_int_equal(np_capture_lost(c), 5);
  assert_int_equal(counters.counter[NP_C_CAPTURE_LOST], 5);
  assert_int_equal(counters.counter[NP_C_CAPTURED], fits);
  assert_int_equal(records(c, &rec), fits);
  /* 10 rounds at every phase of the ring's end: sizes vary, nothing is lost */
  uint32_t total = 0;
  for (uint32_t i = 0; i < 3000; i++) {
    np_capture_packet(c, &counters, NP_CAPTURE_TX, 0, NP_DROP_COUNT, f.b, 14 + i % (f.len - 14), i);
    if (i % 50 == 49) total += records(c, &rec);
  }
  total += records(c, &rec);
  assert_int_equal(total, 3000);
  assert_int_equal(np_capture_lost(c), 5);
  np_capture_close(c);
}

struct reader {
  struct np_capture *c;
  uint32_t want;
  uint32_t got;
  bool in_order;
};

static void *read_all(void *arg) {
  struct reader *r = arg;
  uint8_t out[8192];
  uint64_t next = 0;
  while (r->got < r->want) {
    uint32_t bytes = np_capture_read(r->c, out, sizeof out);
    for (uint32_t at = 0; at < bytes;) {
      struct np_capture_rec rec;
      memcpy(&rec, out + at, sizeof rec);
      if (rec.at_ns != next++) r->in_order = false;
      r->got++;
      at += rec.bytes;
    }
  }
  return NULL;
}

/* For TSan as much as for itself: one thread writes, one reads. */
static void test_two_threads(void **state) {
  (void)state;
  struct np_capture_args args = all_args();
  struct np_capture *c = open_capture(&args);
  struct reader r = {.c = c, .want = 20000, .in_order = true};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, read_all, &r), 0);
  struct frame f;
  make_udp(&f);
  memset(&counters, 0, sizeof counters);
  for (uint64_t i = 0; i < r.want;) {
    uint64_t before = counters.counter[NP_C_CAPTURED];
    np_capture_packet(c, &counters, NP_CAPTURE_RX, 0, NP_DROP_COUNT, f.b, f.len, i);
    if (counters.counter[NP_C_CAPTURED] != before) i++;
  }
  pthread_join(thread, NULL);
  assert_int_equal(r.got, r.want);
  assert_true(r.in_order);
  np_capture_close(c);
}

static void test_bad_args(void **state) {
  (void)state;
  const struct {
    struct np_capture_args args;
    const char *says;
  } cases[] = {
      {{.ring_bytes = 1000, .dirs = 1, .iface = -1}, "ring_bytes is 1000"},
      {{.ring_bytes = 65537, .dirs = 1, .iface = -1}, "ring_bytes is 65537"},
      {{.ring_bytes = 1u << 30, .dirs = 1, .iface = -1}, "ring_bytes is 1073741824"},
      {{.ring_bytes = 65536, .dirs = 0, .iface = -1}, "dirs is 0x0"},
      {{.ring_bytes = 65536, .dirs = 8, .iface = -1}, "dirs is 0x8"},
      {{.ring_bytes = 65536, .dirs = 1, .iface = -2}, "iface is -2"},
      {{.ring_bytes = 65536, .dirs = 1, .iface = 32}, "iface is 32"},
      {{.ring_bytes = 65536, .dirs = 1, .iface = -1, .snap_bytes = 70000}, "snap_bytes is 70000"},
      {{.ring_bytes = 65536, .dirs = 1, .iface = -1, .filter = "tcp prot 1"}, "compile capture filter tcp prot 1: "},
  };
  for (size_t i = 0; i < NP_COUNT_OF(cases); i++) {
    struct np_capture *c = NULL;
    struct np_err_detail detail;
    memset(&detail, 0, sizeof detail);
    assert_int_equal(np_capture_open(&cases[i].args, &c, &detail), NP_ERR_INVALID);
    assert_null(c);
    assert_non_null(strstr(detail.text, cases[i].says));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_record),        cmocka_unit_test(test_snap),
      cmocka_unit_test(test_filter),        cmocka_unit_test(test_direction_and_iface),
      cmocka_unit_test(test_listener_port), cmocka_unit_test(test_full_and_wrap),
      cmocka_unit_test(test_two_threads),   cmocka_unit_test(test_bad_args),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
