/* One behaviour each: opening, closing, resets, and what RFC 9293 §3.10.7 says about
 * segments that do not fit. */
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

struct world {
  struct tp_args args;
  struct tp *tp;
  struct tp_sess *a;
  struct tp_sess *b;
};

static struct world make(void) {
  struct world w = {0};
  tp_args_default(&w.args);
  w.tp = tp_new(&w.args);
  return w;
}

static struct world established(void) {
  struct world w = make();
  tp_establish(w.tp, &w.a, &w.b);
  return w;
}

/* Opening. */

static void test_open_options(void **state) {
  (void)state;
  struct world w = established();
  const struct np_tcp_conn *c = tp_conn(w.b);
  assert_int_equal(c->flags & (NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE), NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE);
  assert_int_equal(c->rcv_wscale, 7);
  assert_int_equal(w.a->base.stream->seg_bytes, 1448);
  struct np_conn_info info;
  w.a->base.stream->ops->info(w.a->base.stream, &info);
  assert_int_equal(info.state, NP_TCP_ESTABLISHED);
  assert_int_equal(info.options, 0x0f);
  assert_int_equal(info.remote_port, TP_PORT);
  w.b->base.stream->ops->info(w.b->base.stream, &info);
  assert_int_equal(info.listener, 77);
  assert_int_equal(info.core, 1);
  tp_free(w.tp);
}

static void test_open_closed_port(void **state) {
  (void)state;
  struct world w = make();
  struct tp_sess *a = tp_connect(w.tp, 0, 81, NULL);
  tp_run(w.tp, TP_S);
  assert_true(a->closed);
  assert_int_equal(a->err, NP_ERR_REFUSED);
  const struct tp_seg *rst = tp_sent(w.tp, 1, 0);
  assert_int_equal(rst->flags, NP_TCP_RST | NP_TCP_ACK);
  assert_int_equal(rst->seq, 0);
  assert_int_equal(rst->ack, tp_sent(w.tp, 0, 0)->seq + 1);
  assert_int_equal(tp_drops(w.tp, 1, NP_DROP_TCP_NO_LISTENER), 1);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_OPEN_FAILED), 1);
  tp_free(w.tp);
}

static void test_open_refused_by_owner(void **state) {
  (void)state;
  struct world w = make();
  w.tp->end[1].refuse = true;
  tp_listen(w.tp, 1, TP_PORT);
  struct tp_sess *a = tp_connect(w.tp, 0, TP_PORT, NULL);
  tp_run(w.tp, TP_S);
  assert_true(a->closed);
  assert_int_equal(a->err, NP_ERR_RESET);
  assert_int_equal(np_tcp_conn_count(w.tp->end[1].tcp), 0);
  tp_free(w.tp);
}

/* RFC 6298 §5: 1 s, then doubled; syn_retries of them. */
static void test_open_timeout(void **state) {
  (void)state;
  struct world w = make();
  w.tp->cut = true;
  struct tp_sess *a = tp_connect(w.tp, 0, TP_PORT, NULL);
  tp_run(w.tp, 182 * TP_S); /* RFC 9293 §3.8.3: three minutes at least */
  assert_false(a->closed);
  assert_int_equal(w.tp->end[0].log_count, 8);
  uint64_t gap = tp_sent(w.tp, 0, 2)->at_ns - tp_sent(w.tp, 0, 3)->at_ns;
  assert_in_range(gap, 16 * TP_S, 16 * TP_S + 10 * TP_MS);
  tp_run(w.tp, 4 * TP_S);
  assert_true(a->closed);
  assert_int_equal(a->err, NP_ERR_TIMEDOUT);
  tp_free(w.tp);
}

static bool lose_first_two(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  (void)from;
  return (seg->flags & NP_TCP_SYN) != 0 && tp->end[from].log_count <= 2;
}

static void test_open_retries(void **state) {
  (void)state;
  struct world w = make();
  w.tp->drop = lose_first_two;
  tp_listen(w.tp, 1, TP_PORT);
  struct tp_sess *a = tp_connect(w.tp, 0, TP_PORT, NULL);
  tp_run(w.tp, 20 * TP_S);
  assert_true(a->established);
  assert_int_equal(tp_conn(a)->cwnd, tp_conn(a)->mss); /* RFC 5681 §3.1 */
  tp_free(w.tp);
}

static void test_open_simultaneous(void **state) {
  (void)state;
  struct world w = make();
  struct np_flow f = {.local = w.tp->end[0].addr, .remote = w.tp->end[1].addr, .local_port = 1000, .remote_port = 2000};
  struct np_flow g = {.local = f.remote, .remote = f.local, .local_port = 2000, .remote_port = 1000};
  struct tp_sess like = {.to_send = 10000, .close_at_end = true};
  struct tp_sess *a = tp_sess_new(&w.tp->end[0], &like);
  struct tp_sess *b = tp_sess_new(&w.tp->end[1], &like);
  struct np_stream *s;
  assert_int_equal(np_tcp_connect(w.tp->end[0].tcp, &f, &a->base, w.tp->now_ns, &s), NP_ERR_OK);
  assert_int_equal(np_tcp_connect(w.tp->end[1].tcp, &g, &b->base, w.tp->now_ns, &s), NP_ERR_OK);
  tp_run(w.tp, 10 * TP_S);
  assert_true(a->established && b->established);
  assert_int_equal(a->received, 10000);
  assert_int_equal(b->received, 10000);
  assert_int_equal(a->wrong + b->wrong, 0);
  assert_int_equal(a->err, NP_ERR_EOF);
  assert_int_equal(b->err, NP_ERR_EOF);
  tp_free(w.tp);
}

static void test_connect_errors(void **state) {
  (void)state;
  struct world w = make();
  struct np_tcp *tcp = w.tp->end[0].tcp;
  struct tp_sess *s = tp_sess_new(&w.tp->end[0], NULL);
  struct np_stream *st;
  struct np_flow f = {.local = w.tp->end[0].addr, .remote = w.tp->end[1].addr, .local_port = 1000};
  assert_int_equal(np_tcp_connect(tcp, &f, &s->base, w.tp->now_ns, &st), NP_ERR_INVALID);
  f.remote_port = 80;
  const struct np_addr groups[] = {/* RFC 9293 §3.9.2.3, MUST-46 */
                                   np_addr_from_v4_be((uint8_t[]){224, 0, 0, 1}), np_addr_from_v4_be((uint8_t[]){255, 255, 255, 255}),
                                   np_addr_from_v4_be((uint8_t[]){0, 0, 0, 0}), np_addr_from_v6((uint8_t[16]){0xff, 2, [15] = 1})};
  for (size_t i = 0; i < NP_COUNT_OF(groups); i++) {
    struct np_flow g = f;
    g.remote = groups[i];
    assert_int_equal(np_tcp_connect(tcp, &g, &s->base, w.tp->now_ns, &st), NP_ERR_INVALID);
  }
  assert_int_equal(np_tcp_connect(tcp, &f, &s->base, w.tp->now_ns, &st), NP_ERR_OK);
  assert_int_equal(np_tcp_connect(tcp, &f, &s->base, w.tp->now_ns, &st), NP_ERR_ADDRINUSE);
  w.tp->mtu = 0;
  f.local_port = 0;
  assert_int_equal(np_tcp_connect(tcp, &f, &s->base, w.tp->now_ns, &st), NP_ERR_NOROUTE);
  w.tp->mtu = 1500;
  for (uint32_t i = 1; i < w.args.config[0].conns_max; i++) tp_connect(w.tp, 0, 80, NULL);
  assert_int_equal(np_tcp_connect(tcp, &f, &s->base, w.tp->now_ns, &st), NP_ERR_FULL);
  w.tp->cut = true;
  np_tcp_abort_all(tcp, w.tp->now_ns);
  tp_free(w.tp);
}

static void test_icmp_errors(void **state) {
  (void)state;
  struct world w = make();
  w.tp->cut = true;
  struct tp_sess *a = tp_connect(w.tp, 0, TP_PORT, NULL);
  tp_flush(w.tp);
  struct np_flow f = tp_conn(a)->flow;
  struct np_tcp *tcp = w.tp->end[0].tcp;
  assert_false(np_tcp_error(tcp, &f, tp_conn(a)->iss.v + 5000, NP_ERR_UNREACHABLE, false, 0));
  assert_true(np_tcp_error(tcp, &f, tp_conn(a)->iss.v, NP_ERR_UNREACHABLE, true, 0));
  tp_run(w.tp, TP_S);
  assert_false(a->closed); /* soft (RFC 5461) */
  assert_true(np_tcp_error(tcp, &f, tp_conn(a)->iss.v, NP_ERR_REFUSED, false, 0));
  tp_flush(w.tp);
  assert_true(a->closed);
  assert_int_equal(a->err, NP_ERR_REFUSED);
  f.remote_port = 9;
  assert_false(np_tcp_error(tcp, &f, 0, NP_ERR_REFUSED, false, 0));
  tp_free(w.tp);
}

/* Closing. */

static void test_half_close(void **state) {
  (void)state;
  struct world w = established();
  w.a->base.stream->ops->shutdown(w.a->base.stream);
  tp_run(w.tp, TP_S);
  assert_true(w.b->eof);
  assert_int_equal(tp_conn(w.a)->state, NP_TCP_FIN_WAIT_2);
  assert_int_equal(tp_conn(w.b)->state, NP_TCP_CLOSE_WAIT);
  assert_int_equal(w.a->base.stream->ops->room(w.a->base.stream), 0);
  tp_write(w.b, 300000); /* the other way goes on */
  tp_run(w.tp, TP_S);
  assert_int_equal(w.a->received, 300000);
  w.b->base.stream->ops->shutdown(w.b->base.stream);
  tp_run(w.tp, TP_S);
  assert_true(w.a->closed && w.b->closed);
  assert_int_equal(w.a->err, NP_ERR_EOF);
  assert_int_equal(w.b->err, NP_ERR_EOF);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_TIMEWAIT), 1);
  assert_int_equal(np_tcp_conn_count(w.tp->end[1].tcp), 0);
  tp_run(w.tp, 61 * TP_S);
  assert_int_equal(np_tcp_conn_count(w.tp->end[0].tcp), 0);
  tp_free(w.tp);
}

static void test_close_simultaneous(void **state) {
  (void)state;
  struct world w = established();
  w.a->base.stream->ops->shutdown(w.a->base.stream);
  w.b->base.stream->ops->shutdown(w.b->base.stream);
  tp_run(w.tp, 50000);
  assert_int_equal(tp_conn(w.a)->state, NP_TCP_FIN_WAIT_1);
  tp_run(w.tp, TP_S);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_TIMEWAIT), 1);
  assert_int_equal(tp_counter(w.tp, 1, NP_C_TCP_TIMEWAIT), 1);
  assert_true(w.a->closed && w.b->closed);
  tp_free(w.tp);
}

static bool lose_fins(struct tp *tp, uint32_t from, const struct tp_seg *seg) {
  (void)from;
  return (seg->flags & NP_TCP_FIN) != 0 && (*(uint32_t *)tp->drop_ctx)-- > 0;
}

static void test_lost_fins(void **state) {
  (void)state;
  struct world w = established();
  uint32_t lose = 3;
  w.tp->drop = lose_fins;
  w.tp->drop_ctx = &lose;
  w.b->close_on_eof = true;
  w.a->base.stream->ops->shutdown(w.a->base.stream);
  tp_run(w.tp, 30 * TP_S);
  lose = 0;
  w.tp->drop = NULL;
  tp_run(w.tp, 30 * TP_S);
  assert_true(w.a->closed && w.b->closed);
  assert_int_equal(w.a->err, NP_ERR_EOF);
  tp_free(w.tp);
}

/* The last ACK is lost: TIME-WAIT answers the FIN that comes again. */
static void test_time_wait_answers(void **state) {
  (void)state;
  struct world w = established();
  w.b->close_on_eof = true;
  w.a->base.stream->ops->shutdown(w.a->base.stream);
  tp_run(w.tp, TP_S);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_TIMEWAIT), 1);
  uint32_t before = w.tp->end[0].log_count;
  struct tp_seg fin = *tp_sent(w.tp, 1, 0);
  assert_true(fin.flags & NP_TCP_FIN);
  tp_inject(w.tp, 0, &fin, NULL);
  tp_flush(w.tp);
  assert_int_equal(w.tp->end[0].log_count, before + 1);
  assert_int_equal(tp_sent(w.tp, 0, 0)->flags, NP_TCP_ACK);
  struct tp_seg rst = fin; /* RFC 1337: no assassination */
  rst.flags = NP_TCP_RST;
  rst.seq++;
  tp_inject(w.tp, 0, &rst, NULL);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_TIMEWAIT), 1);
  tp_free(w.tp);
}

/* RFC 6191: the same four-tuple again while the old one waits. */
static void test_time_wait_reuse(void **state) {
  (void)state;
  for (uint32_t ts = 0; ts < 2; ts++) {
    struct world w = {0};
    tp_args_default(&w.args);
    w.args.config[0].timestamps = ts != 0;
    w.tp = tp_new(&w.args);
    tp_listen(w.tp, 1, TP_PORT);
    struct np_flow f = {.remote = w.tp->end[1].addr, .remote_port = TP_PORT, .local_port = 5000};
    w.tp->end[1].accept_as.close_at_end = true;
    w.tp->end[1].accept_as.to_send = 1;
    for (uint32_t i = 0; i < 2; i++) {
      struct tp_sess *a = tp_sess_new(&w.tp->end[0], NULL);
      a->close_on_eof = true;
      struct np_stream *st;
      assert_int_equal(np_tcp_connect(w.tp->end[0].tcp, &f, &a->base, w.tp->now_ns, &st), NP_ERR_OK);
      tp_run(w.tp, 2 * TP_S);
      assert_true(a->closed);
      assert_int_equal(a->err, NP_ERR_EOF);
      assert_int_equal(tp_counter(w.tp, 1, NP_C_TCP_TIMEWAIT), 1);
    }
    assert_int_equal(tp_counter(w.tp, 1, NP_C_TCP_OPEN_PASSIVE), 2);
    tp_free(w.tp);
  }
}

/* RFC 9293 §3.9.1.1, MUST-42: a port from which a connection is being opened can be listened on. */
static void test_listen_beside_open(void **state) {
  (void)state;
  struct world w = make();
  struct np_flow f = {.local = w.tp->end[0].addr, .remote = w.tp->end[1].addr, .remote_port = 4444, .local_port = TP_PORT};
  struct tp_sess *a = tp_sess_new(&w.tp->end[0], NULL);
  struct np_stream *st;
  w.tp->cut = true; /* it stays in SYN-SENT */
  assert_int_equal(np_tcp_connect(w.tp->end[0].tcp, &f, &a->base, w.tp->now_ns, &st), NP_ERR_OK);
  tp_run(w.tp, 100 * TP_MS);
  w.tp->cut = false;
  tp_listen(w.tp, 0, TP_PORT);
  struct tp_sess like = {.to_send = 100};
  struct tp_sess *b = tp_connect(w.tp, 1, TP_PORT, &like);
  tp_run(w.tp, 500 * TP_MS);
  assert_true(b->established);
  assert_false(a->established);
  tp_free(w.tp);
}

/* RFC 6191 §2, RFC 7323 §5.5: our own TIME-WAIT is no hindrance to opening the same four-tuple again once
 * timestamps have moved on; without timestamps it is. */
static void test_connect_from_time_wait(void **state) {
  (void)state;
  for (uint32_t ts = 0; ts < 2; ts++) {
    struct world w = {0};
    tp_args_default(&w.args);
    w.args.config[0].timestamps = ts != 0;
    w.tp = tp_new(&w.args);
    tp_listen(w.tp, 1, TP_PORT);
    w.tp->end[1].accept_as.close_on_eof = true;
    struct np_flow f = {.local = w.tp->end[0].addr, .remote = w.tp->end[1].addr, .remote_port = TP_PORT, .local_port = 5000};
    struct tp_sess like = {.to_send = 100, .close_at_end = true};
    struct tp_sess *a = tp_sess_new(&w.tp->end[0], &like);
    struct np_stream *st;
    assert_int_equal(np_tcp_connect(w.tp->end[0].tcp, &f, &a->base, w.tp->now_ns, &st), NP_ERR_OK);
    tp_run(w.tp, 500 * TP_MS);
    assert_true(a->closed);
    assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_TIMEWAIT), 1);
    struct tp_sess *b = tp_sess_new(&w.tp->end[0], &like);
    assert_int_equal(np_tcp_connect(w.tp->end[0].tcp, &f, &b->base, w.tp->now_ns, &st), NP_ERR_ADDRINUSE);
    tp_run(w.tp, 2 * TP_S);
    assert_int_equal(np_tcp_connect(w.tp->end[0].tcp, &f, &b->base, w.tp->now_ns, &st), ts ? NP_ERR_OK : NP_ERR_ADDRINUSE);
    tp_run(w.tp, 500 * TP_MS);
    assert_int_equal(b->closed, ts != 0);
    if (ts) assert_int_equal(b->err, NP_ERR_EOF);
    assert_int_equal(tp_counter(w.tp, 1, NP_C_TCP_OPEN_PASSIVE), 1 + ts);
    tp_free(w.tp);
  }
}

/* A full table takes the oldest TIME-WAIT's place. */
static void test_time_wait_evicted(void **state) {
  (void)state;
  struct world w = {0};
  tp_args_default(&w.args);
  w.args.config[1].conns_max = 4;
  w.tp = tp_new(&w.args);
  tp_listen(w.tp, 1, TP_PORT);
  w.tp->end[1].accept_as.close_at_end = true;
  w.tp->end[1].accept_as.to_send = 1;
  struct tp_sess like = {.close_on_eof = true};
  for (uint32_t i = 0; i < 10; i++) {
    struct tp_sess *a = tp_connect(w.tp, 0, TP_PORT, &like);
    tp_run(w.tp, 100 * TP_MS);
    assert_true(a->closed);
    assert_int_equal(a->err, NP_ERR_EOF);
  }
  assert_int_equal(tp_counter(w.tp, 1, NP_C_TCP_TIMEWAIT), 4);
  tp_free(w.tp);
}

static void test_detach(void **state) {
  (void)state;
  struct world w = established();
  tp_write(w.a, 50000);
  w.a->base.stream->ops->detach(w.a->base.stream);
  assert_null(w.a->base.stream);
  w.b->close_on_eof = true;
  tp_write(w.b, 5000); /* arrives at nobody: taken and counted */
  tp_run(w.tp, TP_S);
  assert_int_equal(w.b->received, 50000);
  assert_true(w.b->closed);
  assert_int_equal(w.b->err, NP_ERR_EOF);
  assert_true(tp_drops(w.tp, 0, NP_DROP_TCP_CLOSED) > 0);
  assert_false(w.a->closed);
  tp_run(w.tp, 61 * TP_S);
  assert_int_equal(np_tcp_conn_count(w.tp->end[0].tcp), 0);
  tp_free(w.tp);
}

/* A peer that never closes does not keep a connection without a session. */
static void test_detach_peer_stays(void **state) {
  (void)state;
  struct world w = established();
  w.a->base.stream->ops->detach(w.a->base.stream);
  tp_run(w.tp, TP_S);
  assert_true(w.b->eof);
  assert_int_equal(np_tcp_conn_count(w.tp->end[0].tcp), 1);
  tp_run(w.tp, 61 * TP_S);
  assert_int_equal(np_tcp_conn_count(w.tp->end[0].tcp), 0);
  assert_true(w.b->closed);
  assert_int_equal(w.b->err, NP_ERR_RESET);
  tp_free(w.tp);
}

static void test_abort(void **state) {
  (void)state;
  struct world w = established();
  tp_write(w.a, 100000);
  uint64_t handle = w.a->base.stream->handle;
  assert_ptr_equal(np_tcp_stream(w.tp->end[0].tcp, handle), w.a->base.stream);
  w.a->base.stream->ops->abort(w.a->base.stream);
  assert_true(w.a->closed);
  assert_int_equal(w.a->err, NP_ERR_ABORTED);
  assert_null(np_tcp_stream(w.tp->end[0].tcp, handle));
  tp_run(w.tp, TP_S);
  assert_true(w.b->closed);
  assert_int_equal(w.b->err, NP_ERR_RESET);
  /* The slot's next owner has another name. */
  struct tp_sess *a2 = tp_connect(w.tp, 0, TP_PORT, NULL);
  assert_int_equal(a2->base.stream->handle & 0xffffff, handle & 0xffffff);
  assert_int_not_equal(a2->base.stream->handle, handle);
  assert_null(np_tcp_stream(w.tp->end[0].tcp, handle));
  assert_null(np_tcp_stream(w.tp->end[0].tcp, 0));
  assert_null(np_tcp_stream(w.tp->end[0].tcp, UINT64_MAX));
  tp_free(w.tp);
}

static void test_end_inside_data(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 2; i++) {
    struct world w = established();
    w.b->abort_on_data = i == 0;
    w.b->detach_on_data = i == 1;
    w.a->close_at_end = true;
    tp_write(w.a, 100000);
    tp_run(w.tp, 5 * TP_S);
    assert_true(w.a->closed);
    assert_int_equal(w.a->err, i == 0 ? NP_ERR_RESET : NP_ERR_EOF);
    tp_free(w.tp);
  }
}

/* Segments that do not fit. */

static void test_rst_exact_and_not(void **state) {
  (void)state;
  struct world w = established();
  struct tp_seg rst = tp_peer_seg(w.a, NP_TCP_RST);
  rst.seq += 100; /* in the window but not exact: RFC 5961 §3.2 */
  tp_inject(w.tp, 0, &rst, NULL);
  tp_flush(w.tp);
  assert_false(w.a->closed);
  assert_int_equal(tp_sent(w.tp, 0, 0)->flags, NP_TCP_ACK);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_CHALLENGE), 1);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_RST_CHALLENGED), 1);
  rst.seq -= 200; /* outside */
  tp_inject(w.tp, 0, &rst, NULL);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_SEQ), 1);
  rst.seq += 100;
  tp_inject(w.tp, 0, &rst, NULL);
  tp_flush(w.tp);
  assert_true(w.a->closed);
  assert_int_equal(w.a->err, NP_ERR_RESET);
  tp_free(w.tp);
}

static void test_challenge_limited(void **state) {
  (void)state;
  struct world w = established();
  uint32_t before = w.tp->end[0].log_count;
  for (uint32_t i = 0; i < 100; i++) {
    struct tp_seg syn = tp_peer_seg(w.a, NP_TCP_SYN);
    syn.seq += i * 1000;
    tp_inject(w.tp, 0, &syn, NULL);
    tp_flush(w.tp);
  }
  assert_int_equal(w.tp->end[0].log_count, before + NP_TCP_CHALLENGE_MAX);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_RST_CHALLENGED), 100);
  assert_int_equal(tp_conn(w.a)->state, NP_TCP_ESTABLISHED);
  tp_free(w.tp);
}

static void test_wild_ack(void **state) {
  (void)state;
  struct world w = established();
  struct tp_seg ack = tp_peer_seg(w.a, NP_TCP_ACK);
  ack.ack += 1; /* never sent */
  tp_inject(w.tp, 0, &ack, NULL);
  ack.ack -= 0x40000000;
  tp_inject(w.tp, 0, &ack, NULL);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_ACK), 2);
  assert_int_equal(tp_counter(w.tp, 0, NP_C_TCP_CHALLENGE), 2);
  tp_free(w.tp);
}

static void test_bad_flags(void **state) {
  (void)state;
  struct world w = established();
  static const uint8_t flags[] = {0, NP_TCP_FIN, NP_TCP_PSH | NP_TCP_URG | NP_TCP_FIN, NP_TCP_SYN | NP_TCP_FIN,
                                  NP_TCP_SYN | NP_TCP_RST, 0xff & ~NP_TCP_ACK};
  for (uint32_t i = 0; i < NP_COUNT_OF(flags); i++) {
    struct tp_seg s = tp_peer_seg(w.a, flags[i]);
    tp_inject(w.tp, 0, &s, NULL);
    s.flow.remote_port = 99; /* and to nobody */
    tp_inject(w.tp, 0, &s, NULL);
  }
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_FLAGS), 2 * NP_COUNT_OF(flags));
  assert_int_equal(tp_conn(w.a)->state, NP_TCP_ESTABLISHED);
  tp_free(w.tp);
}

static void test_bad_options(void **state) {
  (void)state;
  struct world w = established();
  static const uint8_t bad[][4] = {{8, 0, 0, 0}, {8, 1, 0, 0}, {8, 11, 0, 0}, {5, 3, 0, 0}, {2, 3, 0, 0}, {253, 0, 0, 0}};
  for (uint32_t i = 0; i < NP_COUNT_OF(bad); i++) {
    struct tp_seg s = tp_peer_seg(w.a, NP_TCP_ACK);
    s.opt_bytes = 4;
    memcpy(s.opt, bad[i], 4);
    tp_inject(w.tp, 0, &s, NULL);
  }
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_OPTIONS), NP_COUNT_OF(bad));
  tp_free(w.tp);
}

static void test_paws(void **state) {
  (void)state;
  struct world w = established();
  struct tp_seg s = tp_peer_seg(w.a, NP_TCP_ACK);
  s.len = 10;
  np_tcp_opts_put_ts(s.opt, tp_conn(w.a)->ts_recent - 1, 0);
  tp_inject(w.tp, 0, &s, NULL);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_PAWS), 1);
  tp_flush(w.tp);
  assert_int_equal(tp_sent(w.tp, 0, 0)->flags, NP_TCP_ACK);
  s.opt_bytes = 0; /* RFC 7323 §3.2: agreed, so it must be there */
  tp_inject(w.tp, 0, &s, NULL);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_PAWS), 2);
  assert_int_equal(w.a->received, 0);
  tp_free(w.tp);
}

static void test_out_of_window(void **state) {
  (void)state;
  struct world w = established();
  struct tp_seg s = tp_peer_seg(w.a, NP_TCP_ACK);
  s.len = 100;
  s.seq += 600 * 1024;
  tp_inject(w.tp, 0, &s, NULL);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_WINDOW), 1);
  s.seq -= 600 * 1024 + 200;
  tp_inject(w.tp, 0, &s, NULL);
  assert_int_equal(tp_drops(w.tp, 0, NP_DROP_TCP_DUP), 1);
  tp_flush(w.tp);
  assert_int_equal(tp_sent(w.tp, 0, 0)->opts.sack_count, 1); /* RFC 2883 */
  assert_int_equal(tp_sent(w.tp, 0, 0)->opts.sack[0].start.v, s.seq);
  tp_free(w.tp);
}

/* A listener takes no connection from an ACK, and ends what it does not know. */
static void test_stray_segments(void **state) {
  (void)state;
  struct world w = established();
  struct tp_seg s = tp_peer_seg(w.b, NP_TCP_ACK);
  s.flow.local_port = 12345;
  tp_inject(w.tp, 1, &s, NULL);
  assert_int_equal(tp_sent(w.tp, 1, 0)->flags, NP_TCP_RST);
  assert_int_equal(tp_sent(w.tp, 1, 0)->seq, s.ack);
  s.flags = NP_TCP_RST;
  uint32_t before = w.tp->end[1].log_count;
  tp_inject(w.tp, 1, &s, NULL);
  assert_int_equal(w.tp->end[1].log_count, before);
  assert_int_equal(tp_drops(w.tp, 1, NP_DROP_TCP_NO_CONN), 2);
  tp_free(w.tp);
}

/* Sequence numbers that pass 2^32 in the middle of a transfer. */
static void test_wrap(void **state) {
  (void)state;
  for (uint32_t i = 0; i < 4; i++) {
    struct world w = make();
    tp_listen(w.tp, 1, TP_PORT);
    w.tp->end[1].accept_as = (struct tp_sess){.to_send = 200000, .close_at_end = true};
    struct tp_sess like = {.to_send = 300000, .close_at_end = true};
    struct tp_sess *a = tp_connect(w.tp, 0, TP_PORT, &like);
    struct np_tcp_conn *c = tp_conn(a);
    c->iss = c->snd_una = np_seq_of(UINT32_MAX - i * 50000);
    c->snd_nxt = c->snd_end = np_seq_add(c->iss, 1);
    w.tp->loss = 100;
    tp_run(w.tp, 100 * TP_S);
    assert_true(a->closed);
    assert_int_equal(a->received, 200000);
    assert_int_equal(w.tp->end[1].last->received, 300000);
    assert_int_equal(a->wrong + w.tp->end[1].last->wrong, 0);
    tp_free(w.tp);
  }
}

/* Timers. */

static void test_user_timeout(void **state) {
  (void)state;
  struct world w = established();
  w.tp->cut = true;
  tp_write(w.a, 1000);
  tp_run(w.tp, 119 * TP_S);
  assert_false(w.a->closed);
  tp_run(w.tp, 90 * TP_S);
  assert_true(w.a->closed);
  assert_int_equal(w.a->err, NP_ERR_TIMEDOUT);
  tp_free(w.tp);
}

static void test_rto_backs_off(void **state) {
  (void)state;
  struct world w = established();
  w.tp->cut = true;
  uint32_t before = w.tp->end[0].log_count;
  tp_write(w.a, 1000);
  tp_run(w.tp, 10 * TP_S);
  /* A tail probe at 0.2 s, then 200 ms doubled: 0.4 0.8 1.6 3.2 6.4 */
  assert_int_equal(w.tp->end[0].log_count - before, 7);
  uint64_t gap = tp_sent(w.tp, 0, 0)->at_ns - tp_sent(w.tp, 0, 1)->at_ns;
  assert_in_range(gap, 3200 * TP_MS, 3210 * TP_MS);
  assert_int_equal(w.tp->end[0].doubts, 1); /* the neighbor, at the second in a row */
  w.tp->cut = false;
  tp_run(w.tp, 10 * TP_S);
  assert_int_equal(w.b->received, 1000);
  tp_free(w.tp);
}

static void test_keepalive(void **state) {
  (void)state;
  struct world w = {0};
  tp_args_default(&w.args);
  w.args.config[0].keepalive_idle_ms = 10000;
  w.args.config[0].keepalive_interval_ms = 1000;
  w.args.config[0].keepalive_probes = 3;
  w.tp = tp_new(&w.args);
  tp_establish(w.tp, &w.a, &w.b);
  tp_run(w.tp, 60 * TP_S);
  assert_in_range(tp_counter(w.tp, 0, NP_C_TCP_KEEPALIVE), 4, 6);
  assert_int_equal(tp_sent(w.tp, 0, 0)->seq, tp_conn(w.a)->snd_una.v - 1);
  assert_false(w.a->closed);
  w.tp->cut = true;
  tp_run(w.tp, 15 * TP_S);
  assert_true(w.a->closed);
  assert_int_equal(w.a->err, NP_ERR_TIMEDOUT);
  tp_free(w.tp);
}

/* A connection's own keep-alive, on where the configuration has none, and off where it has. */
static void test_keepalive_own(void **state) {
  (void)state;
  for (uint32_t on = 0; on < 2; on++) {
    struct world w = {0};
    tp_args_default(&w.args);
    w.args.config[0].keepalive_idle_ms = on ? 0 : 10000;
    w.args.config[0].keepalive_probes = 3;
    w.tp = tp_new(&w.args);
    tp_establish(w.tp, &w.a, &w.b);
    struct np_tcp *tcp = w.tp->end[0].tcp;
    uint64_t handle = tp_conn(w.a)->stream.handle;
    assert_int_equal(np_tcp_set_keepalive(tcp, handle, 999), NP_ERR_INVALID);
    assert_int_equal(np_tcp_set_keepalive(tcp, handle, 86400001), NP_ERR_INVALID);
    assert_int_equal(np_tcp_set_keepalive(tcp, handle + (UINT64_C(1) << 32), 1000), NP_ERR_STALE);
    assert_int_equal(np_tcp_set_keepalive(tcp, handle, on ? 2000 : 0), NP_ERR_OK);
    tp_run(w.tp, 60 * TP_S);
    uint64_t probes = tp_counter(w.tp, 0, NP_C_TCP_KEEPALIVE);
    assert_in_range(probes, on ? 25 : 0, on ? 30 : 0);
    w.tp->cut = true;
    tp_run(w.tp, 9 * TP_S); /* idle, and three probes two seconds apart, not the configuration's 75 */
    assert_int_equal(w.a->closed, on != 0);
    if (on) assert_int_equal(w.a->err, NP_ERR_TIMEDOUT);
    tp_free(w.tp);
  }
}

static void test_delayed_ack(void **state) {
  (void)state;
  struct world w = established();
  tp_write(w.a, 10); /* the first data brings the whole window, which a SYN can't show */
  tp_run(w.tp, TP_S);
  uint32_t before = w.tp->end[1].log_count;
  tp_write(w.a, 10);
  tp_run(w.tp, 30 * TP_MS);
  assert_int_equal(w.tp->end[1].log_count, before);
  tp_run(w.tp, 30 * TP_MS);
  assert_int_equal(w.tp->end[1].log_count, before + 1);
  w.a->piece = 1448;
  tp_write(w.a, 2 * 1448); /* two full segments: at once */
  tp_run(w.tp, 2 * TP_MS);
  assert_int_equal(w.tp->end[1].log_count, before + 2);
  tp_free(w.tp);
}

/* Full segments that come alone wait for the timer once, then no more, until two come together. */
static void test_quick_acks(void **state) {
  (void)state;
  struct world w = established();
  w.tp->end[1].tcp->config.quick_acks = 1;
  w.a->piece = 1448;
  static const struct {
    uint32_t segs;
    uint32_t acks_at_once;
  } steps[] = {{1, 1}, {1, 0}, {1, 1}, {1, 1}, {2, 1}, {1, 0}, {1, 1}};
  for (size_t i = 0; i < NP_COUNT_OF(steps); i++) {
    uint32_t before = w.tp->end[1].log_count;
    tp_write(w.a, steps[i].segs * 1448);
    tp_run(w.tp, 5 * TP_MS);
    assert_int_equal(w.tp->end[1].log_count - before, steps[i].acks_at_once);
    tp_run(w.tp, TP_S);
    assert_int_equal(w.tp->end[1].log_count - before, 1);
  }
  tp_free(w.tp);
}

static void test_nagle(void **state) {
  (void)state;
  for (uint32_t nagle = 0; nagle < 2; nagle++) {
    struct world w = {0};
    tp_args_default(&w.args);
    w.args.config[0].nagle = nagle != 0;
    w.tp = tp_new(&w.args);
    tp_establish(w.tp, &w.a, &w.b);
    uint32_t before = w.tp->end[0].log_count;
    for (uint32_t i = 0; i < 5; i++) {
      tp_write(w.a, 10);
      tp_flush(w.tp);
    }
    assert_int_equal(w.tp->end[0].log_count - before, nagle ? 1 : 5);
    tp_run(w.tp, TP_S);
    assert_int_equal(w.b->received, 50);
    assert_int_equal(w.b->wrong, 0);
    tp_free(w.tp);
  }
}

/* A connection's own Nagle: switched on it gathers, switched off what it gathered leaves. */
static void test_nagle_own(void **state) {
  (void)state;
  struct world w = established();
  struct np_tcp *tcp = w.tp->end[0].tcp;
  uint64_t handle = tp_conn(w.a)->stream.handle;
  assert_int_equal(np_tcp_set_nagle(tcp, handle + (UINT64_C(1) << 32), true), NP_ERR_STALE);
  assert_int_equal(np_tcp_set_nagle(tcp, handle, true), NP_ERR_OK);
  uint32_t before = w.tp->end[0].log_count;
  for (uint32_t i = 0; i < 5; i++) {
    tp_write(w.a, 10);
    tp_flush(w.tp);
  }
  assert_int_equal(w.tp->end[0].log_count - before, 1);
  assert_int_equal(np_tcp_set_nagle(tcp, handle, false), NP_ERR_OK);
  tp_flush(w.tp);
  assert_true(w.tp->end[0].log_count - before > 1);
  tp_run(w.tp, TP_S);
  assert_int_equal(w.b->received, 50);
  assert_int_equal(w.b->wrong, 0);
  tp_free(w.tp);
}

/* One that speaks rarely takes its timer off the wheel when all is acknowledged; one that speaks often leaves it. */
static void test_timer_rests(void **state) {
  (void)state;
  struct world w = {0};
  tp_args_default(&w.args);
  w.args.config[0].keepalive_idle_ms = 0; /* which the timer would be set for */
  w.tp = tp_new(&w.args);
  tp_establish(w.tp, &w.a, &w.b);
  struct np_tcp_conn *c = tp_conn(w.a);
  tp_run(w.tp, TP_S);
  for (uint32_t i = 0; i < 3; i++) {
    tp_write(w.a, 10);
    tp_flush(w.tp);
    assert_true(np_timer_is_set(&c->timer));
    tp_run(w.tp, 100 * TP_MS); /* a delayed ACK came */
    assert_int_equal(np_tcp_flight(c), 0);
    assert_false(np_timer_is_set(&c->timer));
    assert_int_equal(c->timer_due_ns, 0);
    tp_run(w.tp, 30 * TP_MS);
  }
  for (uint32_t i = 0; i < 2; i++) {
    tp_write(w.a, 10);
    tp_run(w.tp, 60 * TP_MS);
    assert_int_equal(np_tcp_flight(c), 0);
  }
  assert_false(c->rare);
  assert_true(np_timer_is_set(&c->timer));
  tp_run(w.tp, TP_S);
  assert_false(np_timer_is_set(&c->timer));
  /* and what it took off comes back when it is needed */
  w.tp->cut = true;
  tp_write(w.a, 10);
  tp_run(w.tp, TP_S);
  assert_true(tp_counter(w.tp, 0, NP_C_TCP_RTO) + tp_counter(w.tp, 0, NP_C_TCP_TLP) > 0);
  w.tp->cut = false;
  tp_run(w.tp, 5 * TP_S);
  assert_int_equal(w.b->received, 60);
  assert_int_equal(w.b->wrong, 0);
  tp_free(w.tp);
}

/* What ICMP said is told when the connection gives up, unless the peer was heard since (RFC 1122 §4.2.3.9). */
static void test_icmp_error_forgotten(void **state) {
  (void)state;
  for (uint32_t heard = 0; heard < 2; heard++) {
    struct world w = established();
    w.tp->cut = true;
    tp_write(w.a, 10);
    tp_flush(w.tp);
    struct np_tcp_conn *c = tp_conn(w.a);
    struct np_flow f = c->flow;
    assert_true(np_tcp_error(w.tp->end[0].tcp, &f, c->snd_una.v, NP_ERR_UNREACHABLE, true, 0));
    if (heard) {
      w.tp->cut = false;
      tp_run(w.tp, 5 * TP_S);
      assert_int_equal(np_tcp_flight(c), 0);
      w.tp->cut = true;
      tp_write(w.a, 10);
    }
    tp_run(w.tp, 3600 * TP_S);
    assert_true(w.a->closed);
    assert_int_equal(w.a->err, heard ? NP_ERR_TIMEDOUT : NP_ERR_UNREACHABLE);
    tp_free(w.tp);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open_options),      cmocka_unit_test(test_open_closed_port),
      cmocka_unit_test(test_open_refused_by_owner), cmocka_unit_test(test_open_timeout),
      cmocka_unit_test(test_open_retries),      cmocka_unit_test(test_open_simultaneous),
      cmocka_unit_test(test_connect_errors),    cmocka_unit_test(test_icmp_errors),
      cmocka_unit_test(test_half_close),        cmocka_unit_test(test_close_simultaneous),
      cmocka_unit_test(test_lost_fins),         cmocka_unit_test(test_time_wait_answers),
      cmocka_unit_test(test_time_wait_reuse),   cmocka_unit_test(test_listen_beside_open), cmocka_unit_test(test_connect_from_time_wait), cmocka_unit_test(test_time_wait_evicted),
      cmocka_unit_test(test_detach),            cmocka_unit_test(test_detach_peer_stays),
      cmocka_unit_test(test_abort),             cmocka_unit_test(test_end_inside_data),
      cmocka_unit_test(test_rst_exact_and_not), cmocka_unit_test(test_challenge_limited),
      cmocka_unit_test(test_wild_ack),          cmocka_unit_test(test_bad_flags),
      cmocka_unit_test(test_bad_options),       cmocka_unit_test(test_paws),
      cmocka_unit_test(test_out_of_window),     cmocka_unit_test(test_stray_segments),
      cmocka_unit_test(test_wrap),              cmocka_unit_test(test_user_timeout),
      cmocka_unit_test(test_rto_backs_off),     cmocka_unit_test(test_keepalive),
      cmocka_unit_test(test_keepalive_own),     cmocka_unit_test(test_nagle_own),
      cmocka_unit_test(test_timer_rests),      cmocka_unit_test(test_icmp_error_forgotten),
      cmocka_unit_test(test_delayed_ack),       cmocka_unit_test(test_nagle),
      cmocka_unit_test(test_quick_acks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
