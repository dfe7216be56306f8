/* Peers that want more than their share: what they get, and that others are served meanwhile. */
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

#define CONNS 400u

static struct tp_seg syn_from(struct tp *tp, uint32_t host, uint16_t port, uint32_t seq) {
  struct tp_seg s = {.flags = NP_TCP_SYN, .wnd = 65535, .seq = seq};
  s.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = port, .remote_port = TP_PORT};
  s.flow.local.b[13] = (uint8_t)(host >> 8);
  s.flow.local.b[14] = (uint8_t)host;
  return s;
}

/* RFC 5961 §7 over all connections: resets in the window of each of many get no more answers
 * than the core's limit, which is another one each second, and every connection lives. */
static void test_challenges_of_all(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].conns_max = args.config[1].conns_max = 1024;
  args.config[1].challenge_per_s = 400;
  struct tp *tp = tp_new(&args);
  struct tp_sess *a[CONNS];
  struct np_tcp_conn *c[CONNS];
  tp_listen(tp, 1, TP_PORT);
  for (uint32_t i = 0; i < CONNS; i++) {
    a[i] = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 2 * TP_MS);
    c[i] = tp_conn(tp->end[1].last);
  }
  tp->cut = true;
  uint64_t before = 0;
  uint64_t got[6];
  for (uint32_t second = 0; second < NP_COUNT_OF(got); second++) {
    tp_run(tp, TP_S - tp->now_ns % TP_S);
    for (uint32_t i = 0; i < 4 * CONNS; i++) {
      struct np_tcp_conn *v = c[i % CONNS];
      struct tp_seg s = {.flags = NP_TCP_RST, .seq = v->rcv_nxt.v + 1000 + i};
      s.flow = (struct np_flow){.local = v->flow.remote, .remote = v->flow.local, .local_port = v->flow.remote_port, .remote_port = TP_PORT};
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
    }
    got[second] = tp_counter(tp, 1, NP_C_TCP_CHALLENGE) - before;
    before += got[second];
    assert_in_range(got[second], 200, 600);
  }
  uint32_t same = 0;
  for (uint32_t i = 1; i < NP_COUNT_OF(got); i++) same += got[i] == got[0] ? 1 : 0;
  assert_true(same < NP_COUNT_OF(got) - 1);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_CHALLENGE) + tp_counter(tp, 1, NP_C_TCP_CHALLENGE_LIMITED), NP_COUNT_OF(got) * 4 * CONNS);
  tp->cut = false;
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), CONNS);
  tp_write(a[7], 100000);
  tp_run(tp, TP_S);
  assert_int_equal(c[7]->bytes_rx, 100000);
  tp_free(tp);
}

/* What belongs to no connection gets no more resets than the core's limit, another one each second; a client is
 * opened meanwhile, and with the limit of the next second a stranger hears no again. */
static void test_resets_to_strangers(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].reset_per_s = 100;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  uint64_t before = 0;
  for (uint32_t second = 0; second < 4; second++) {
    tp->cut = true; /* the answers go to nobody */
    tp_run(tp, TP_S - tp->now_ns % TP_S);
    for (uint32_t i = 0; i < 1000; i++) {
      struct tp_seg s = syn_from(tp, i, (uint16_t)(2000 + i), i);
      if (i % 2 == 0) s.flow.remote_port = TP_PORT + 1; /* nobody listens there */
      if (i % 2 != 0) s.flags = NP_TCP_ACK;
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
    }
    uint64_t got = tp_counter(tp, 1, NP_C_TCP_RST_TX) - before;
    before += got;
    assert_in_range(got, 50, 150);
    tp->cut = false;
    struct tp_sess *a = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    assert_int_equal(tp_conn(a)->state, NP_TCP_ESTABLISHED);
  }
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_RST_TX) + tp_counter(tp, 1, NP_C_TCP_RST_LIMITED), 4000);
  tp_free(tp);
}

/* One source sends SYNs and nothing else: it gets its share of the backlog and then cookies;
 * a client from elsewhere is opened with all its options kept, without one. */
static void test_one_source_of_syns(void **state) {
  (void)state;
  for (uint32_t v6 = 0; v6 < 2; v6++) {
    struct tp_args args;
    tp_args_default(&args);
    args.v6 = v6 != 0;
    args.config[1].backlog_default = 128;
    struct tp *tp = tp_new(&args);
    tp_listen(tp, 1, TP_PORT);
    tp->cut = true;
    for (uint32_t i = 0; i < 5000; i++) {
      struct tp_seg s = syn_from(tp, 9, (uint16_t)(1000 + i), i * 7919);
      if (v6) {
        s.flow.local.b[7] = 9; /* another network, any host of it */
        s.flow.local.b[12] = (uint8_t)i;
      }
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
    }
    tp->cut = false;
    assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 32);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_TX), 5000 - 32);
    struct tp_sess like = {.to_send = 50000};
    tp_connect(tp, 0, TP_PORT, &like);
    tp_run(tp, 100 * TP_MS);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), 0);
    assert_int_equal(tp->end[1].last->received, 50000);
    tp_run(tp, 300 * TP_S); /* the half-open ones time out: the source may have others */
    tp->cut = true;
    struct tp_seg s = syn_from(tp, 9, 7, 1);
    if (v6) s.flow.local.b[7] = 9;
    tp_inject(tp, 1, &s, NULL);
    tp_flush(tp);
    assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_TX), 5000 - 32);
    assert_int_equal(tp->end[1].tcp->listeners[0].backlog, 1);
    tp_free(tp);
  }
}

/* Its half-open connections are forged in its name: the source itself gets in, by a cookie. */
static void test_forged_source_not_locked_out(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].backlog_default = 128;
  args.config[1].conns_per_source = 3;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->cut = true;
  for (uint32_t i = 0; i < 5000; i++) {
    struct tp_seg s = {.flags = NP_TCP_SYN, .wnd = 65535, .seq = i};
    s.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = (uint16_t)(1000 + i), .remote_port = TP_PORT};
    tp_inject(tp, 1, &s, NULL);
    tp_flush(tp);
  }
  tp->cut = false;
  struct tp_sess like = {.to_send = 50000};
  tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, 100 * TP_MS);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), 1);
  assert_int_equal(tp->end[1].last->received, 50000);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_SOURCE_LIMIT), 0);
  tp_free(tp);
}

static void test_no_cookies_source_dropped(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].conns_max = 1024;
  struct tp *tp = tp_new(&args);
  struct np_tcp_listen l = {.port = TP_PORT, .backlog = 128};
  uint32_t id;
  assert_int_equal(np_tcp_listen(tp->end[1].tcp, &l, &id), NP_ERR_OK);
  tp->cut = true;
  for (uint32_t i = 0; i < 1000; i++) {
    struct tp_seg s = syn_from(tp, 9, (uint16_t)(1000 + i), i);
    tp_inject(tp, 1, &s, NULL);
  }
  tp_flush(tp);
  tp->cut = false;
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_SOURCE_LIMIT), 1000 - 112);
  struct tp_sess *a = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 100 * TP_MS);
  assert_true(a->established);
  tp_free(tp);
}

/* Open connections of one source, counted until they end, however they end. */
static void test_conns_per_source(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].conns_per_source = 10;
  args.config[1].timewait_ms = 100;
  struct tp *tp = tp_new(&args);
  uint32_t listener = tp_listen(tp, 1, TP_PORT);
  struct tp_sess *a[12];
  for (uint32_t i = 0; i < NP_COUNT_OF(a); i++) {
    a[i] = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    assert_int_equal(a[i]->established, i < 10);
  }
  assert_int_equal(a[10]->err, NP_ERR_REFUSED);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_SOURCE_LIMIT), 2);
  /* Others are not concerned: a SYN of theirs is answered. */
  tp->cut = true;
  struct tp_seg s = syn_from(tp, 9, 7, 1);
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  assert_int_equal(tp_sent(tp, 1, 0)->flags, NP_TCP_SYN | NP_TCP_ACK);
  tp->cut = false;
  a[0]->base.stream->ops->abort(a[0]->base.stream);
  a[1]->base.stream->ops->shutdown(a[1]->base.stream);
  tp->end[1].last->close_on_eof = true;
  tp_run(tp, 10 * TP_MS);
  struct tp_sess *b = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 10 * TP_MS);
  assert_true(b->established);
  /* The listener's end does not forget what is still open, nor count it for ever. */
  assert_int_equal(np_tcp_unlisten(tp->end[1].tcp, listener), NP_ERR_OK);
  np_tcp_abort_all(tp->end[1].tcp, tp->now_ns);
  uint32_t left = 0;
  for (uint32_t i = 0; i < NP_TCP_GUARD_ROWS * tp->end[1].tcp->guard.width; i++) left += tp->end[1].tcp->guard.open[i];
  for (uint32_t i = 0; i < NP_COUNT_OF(tp->end[1].tcp->guard.half); i++) left += tp->end[1].tcp->guard.half[i];
  assert_int_equal(left, 0);
  tp_free(tp);
}

/* More handshakes under way than the limit allows: it is kept when they end. */
static void test_conns_per_source_at_once(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].conns_per_source = 3;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  struct tp_sess *a[8];
  for (uint32_t i = 0; i < NP_COUNT_OF(a); i++) a[i] = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 100 * TP_MS);
  uint32_t open = 0;
  for (uint32_t i = 0; i < NP_COUNT_OF(a); i++) open += a[i]->closed ? 0 : 1;
  assert_int_equal(open, 3);
  tp_free(tp);
}

/* Windows held shut ("sockstress"): while buffers are short they end after ten seconds, and
 * what they held serves others; while there is plenty they may stay. */
static void test_shut_windows_give_way(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.bufs = 2048;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.to_send = 1 << 20};
  struct tp_sess hold = {.hold = true};
  struct tp_sess *a[40];
  for (uint32_t i = 0; i < NP_COUNT_OF(a); i++) {
    a[i] = tp_connect(tp, 0, TP_PORT, &hold);
    tp_run(tp, 20 * TP_MS);
  }
  assert_true(np_tcp_mem_below(tp->end[1].tcp, NP_TCP_MEM_PRESSURE));
  tp_run(tp, 60 * TP_S);
  assert_true(tp_counter(tp, 1, NP_C_TCP_PERSIST_ENDED) > 0);
  assert_false(np_tcp_mem_below(tp->end[1].tcp, NP_TCP_MEM_PRESSURE));
  struct tp_sess *good = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 2 * TP_S);
  assert_int_equal(good->received, 1 << 20);
  uint64_t ended = tp_counter(tp, 1, NP_C_TCP_PERSIST_ENDED);
  assert_true(ended < NP_COUNT_OF(a));
  tp_run(tp, 300 * TP_S);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_PERSIST_ENDED), ended);
  tp_free(tp);
}

/* Acknowledging what has not come makes the sender faster, not unbounded: cwnd grows while it is
 * used only, and what is acknowledged beyond what was sent is challenged. */
static void test_optimistic_acks(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  tp->cut = true;
  tp_write(a, 1000 * 1448);
  tp_flush(tp);
  struct np_tcp_conn *c = tp_conn(a);
  for (uint32_t i = 0; i < 500 && np_seq_lt(c->snd_una, c->snd_end); i++) {
    struct tp_seg s = tp_peer_seg(a, NP_TCP_ACK);
    s.wnd = 65535;
    tp_inject(tp, 0, &s, NULL);
    tp_flush(tp);
    s.ack += 100000;
    tp_inject(tp, 0, &s, NULL);
    tp_flush(tp);
    tp_run(tp, TP_MS);
    assert_true(c->cwnd <= 2 * tp->end[0].config.snd_buf_bytes);
  }
  assert_true(tp_drops(tp, 0, NP_DROP_TCP_ACK) > 0);
  assert_in_range(tp_counter(tp, 0, NP_C_TCP_CHALLENGE), 1, NP_TCP_CHALLENGE_MAX);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_challenges_of_all),
      cmocka_unit_test(test_resets_to_strangers),
      cmocka_unit_test(test_one_source_of_syns),
      cmocka_unit_test(test_forged_source_not_locked_out),
      cmocka_unit_test(test_no_cookies_source_dropped),
      cmocka_unit_test(test_conns_per_source),
      cmocka_unit_test(test_conns_per_source_at_once),
      cmocka_unit_test(test_shut_windows_give_way),
      cmocka_unit_test(test_optimistic_acks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
