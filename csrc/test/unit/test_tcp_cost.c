/* What a segment of each attack costs beside one that changes nothing: by the clock, the least of many rounds, so that only the
 * ratio is judged, and that with a wide margin. A loop over something that a peer can make long would show. */
#include <time.h>

#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define BATCH 200u
#define ROUNDS 25u
#define AT_MOST 25u /* times what a plain acknowledgment costs */

struct cost {
  struct tp *tp;
  struct tp_sess *a;
  struct tp_sess *b;
  uint32_t n; /* segments made */
};

static uint64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct tp_seg plain(struct cost *k) { return tp_peer_seg(k->b, NP_TCP_ACK); }

static struct tp_seg stranger(struct cost *k, uint16_t to, uint8_t flags) {
  struct tp_seg s = {.flags = flags, .wnd = 1000, .seq = k->n * 7919, .ack = k->n * 2654435761u};
  s.flow = (struct np_flow){.local = k->tp->end[0].addr, .remote = k->tp->end[1].addr, .local_port = (uint16_t)(1000 + k->n), .remote_port = to};
  s.flow.local.b[13] = (uint8_t)(k->n >> 16);
  s.flow.local.b[14] = (uint8_t)(k->n >> 8);
  return s;
}

static struct tp_seg bad_cookie(struct cost *k) { return stranger(k, TP_PORT, NP_TCP_ACK); }
static struct tp_seg syn_cookie(struct cost *k) { return stranger(k, TP_PORT, NP_TCP_SYN); }
static struct tp_seg syn_no_cookie(struct cost *k) { return stranger(k, TP_PORT + 1, NP_TCP_SYN); }
static struct tp_seg closed_port(struct cost *k) { return stranger(k, TP_PORT + 2, NP_TCP_SYN); }

static struct tp_seg rst_in_window(struct cost *k) {
  struct tp_seg s = tp_peer_seg(k->b, NP_TCP_RST);
  s.seq += 100;
  return s;
}

static struct tp_seg data_outside(struct cost *k) {
  struct tp_seg s = plain(k);
  s.seq -= 100000 + k->n;
  s.len = 1;
  return s;
}

static struct tp_seg ack_of_unsent(struct cost *k) {
  struct tp_seg s = plain(k);
  s.ack += 1 + k->n;
  return s;
}

static struct tp_seg byte_in_order(struct cost *k) {
  struct tp_seg s = plain(k);
  s.seq += k->n % BATCH;
  s.len = 1;
  return s;
}

static struct tp_seg urgent(struct cost *k) {
  struct tp_seg s = byte_in_order(k);
  s.flags |= NP_TCP_URG;
  return s;
}

/* As many runs with holes between as there may be; then each looks for its place behind all of them but the last. */
static struct tp_seg byte_with_holes(struct cost *k) {
  struct tp_seg s = plain(k);
  s.seq += tp_conn(k->b)->ooo_runs < 128 ? 30000 - 4 * (k->n % BATCH) : 30000 - 2;
  s.len = 1;
  return s;
}

static struct tp_seg bad_options(struct cost *k) {
  struct tp_seg s = plain(k);
  memset(s.opt, 1, sizeof s.opt);
  s.opt_bytes = 40;
  s.opt[39] = 254; /* a kind without a length, at the very end */
  return s;
}

static struct tp_seg many_options(struct cost *k) {
  struct tp_seg s = plain(k);
  for (uint32_t i = 12; i < 40; i += 2) {
    s.opt[i] = 254;
    s.opt[i + 1] = 2;
  }
  s.opt_bytes = 40;
  return s;
}

static const struct {
  const char *name;
  struct tp_seg (*make)(struct cost *k);
} kinds[] = {
    {"a plain ACK", plain},
    {"ACK without a valid cookie", bad_cookie},
    {"SYN answered by a cookie", syn_cookie},
    {"SYN that recycles a half-open connection", syn_no_cookie},
    {"SYN to a closed port", closed_port},
    {"RST in the window", rst_in_window},
    {"a byte outside the window", data_outside},
    {"ACK of what was not sent", ack_of_unsent},
    {"a byte in order", byte_in_order},
    {"an urgent byte", urgent},
    {"a byte among holes", byte_with_holes},
    {"options of impossible length", bad_options},
    {"options of every byte", many_options},
};

/* ns for one, the least of the batches. */
static uint64_t measure(struct cost *k, uint32_t kind) {
  struct tp *tp = k->tp;
  uint64_t best = UINT64_MAX;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    struct np_pkt pkt[BATCH];
    tp_run(tp, 3 * TP_MS);
    k->n -= k->n % BATCH;
    for (uint32_t i = 0; i < BATCH; i++, k->n++) {
      struct tp_seg s = kinds[kind].make(k);
      tp_packet(tp, 1, &s, NULL, &pkt[i]);
    }
    tp->end[1].injected += BATCH;
    uint64_t begin = clock_ns();
    for (uint32_t i = 0; i < BATCH; i++) np_tcp_input(tp->end[1].tcp, &pkt[i], tp->now_ns);
    np_tcp_flush(tp->end[1].tcp, tp->now_ns);
    if (round != 0) best = np_min_u64(best, (clock_ns() - begin) / BATCH); /* the first may find nothing in its way yet */
  }
  return best;
}

static void set_up(struct cost *k) {
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].conns_max = 2048;
  args.config[1].backlog_default = 16;
  k->tp = tp_new(&args);
  tp_establish(k->tp, &k->a, &k->b);
  struct np_tcp_listen l = {.port = TP_PORT + 1, .backlog = 512};
  uint32_t id;
  assert_int_equal(np_tcp_listen(k->tp->end[1].tcp, &l, &id), NP_ERR_OK);
  k->tp->cut = true;
  for (uint32_t i = 0; i < 1024; i++, k->n++) { /* both backlogs full */
    struct tp_seg s = stranger(k, TP_PORT + i % 2, NP_TCP_SYN);
    tp_inject(k->tp, 1, &s, NULL);
    tp_flush(k->tp);
  }
}

static void test_costs(void **state) {
  (void)state;
  struct cost k = {.n = 0};
  set_up(&k);
  uint64_t base = UINT64_MAX;
  for (uint32_t again = 0; again < 3; again++) base = np_min_u64(base, np_max_u64(measure(&k, 0), 10));
  for (uint32_t i = 0; i < NP_COUNT_OF(kinds); i++) {
    uint64_t ns = measure(&k, i);
    print_message("%5u ns  %s\n", (unsigned)ns, kinds[i].name);
    if (ns > AT_MOST * base) fail_msg("%s: %u ns, a plain ACK %u", kinds[i].name, (unsigned)ns, (unsigned)base);
  }
  struct tp *tp = k.tp;
  assert_false(k.b->closed);
  assert_true(tp_drops(tp, 1, NP_DROP_TCP_COOKIE) + tp_drops(tp, 1, NP_DROP_TCP_COOKIE_BEHIND) == ROUNDS * BATCH);
  assert_true(tp_counter(tp, 1, NP_C_TCP_HALF_RECYCLED) >= ROUNDS * BATCH / 2);
  assert_true(tp_drops(tp, 1, NP_DROP_TCP_OPTIONS) == ROUNDS * BATCH);
  assert_int_equal(tp_conn(k.b)->ooo_runs, 128);
  assert_true(tp->end[1].pool.free_count > tp->end[1].pool.count / 2);
  k.b->mode = TP_ECHO; /* the bytes were zeros, not the pattern */
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_costs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
