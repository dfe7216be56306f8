/* Attacks that need no place on the path, or a peer that lies: what they can do, and what they cost. */
#include "test/unit/cmocka_np.h"
#include "test/unit/tcp_pair.h"

/* A segment of host's, from port, to the listener of end 1. */
static struct tp_seg from_host(const struct tp *tp, uint32_t host, uint16_t port, uint8_t flags) {
  struct tp_seg s = {.flags = flags, .wnd = 65535};
  s.flow = (struct np_flow){.local = tp->end[0].addr, .remote = tp->end[1].addr, .local_port = port, .remote_port = TP_PORT};
  if (host != 0) {
    s.flow.local.b[13] = (uint8_t)(host >> 8);
    s.flow.local.b[14] = (uint8_t)host;
  }
  return s;
}

static struct np_tcp_conn *find(const struct tp *tp, const struct tp_seg *s) {
  struct np_flow at_us = {.local = s->flow.remote, .remote = s->flow.local, .local_port = s->flow.remote_port, .remote_port = s->flow.local_port};
  return np_tcp_find(tp->end[1].tcp, &at_us, np_tcp_flow_hash(tp->end[1].tcp, &at_us));
}

/* A connection to end 1 made by hand, without options but an MSS. Return: a segment that continues it. */
static struct tp_seg open_by_hand(struct tp *tp, uint32_t host, uint16_t port, uint32_t wnd) {
  struct tp_seg s = from_host(tp, host, port, NP_TCP_SYN);
  s.seq = 1000;
  s.wnd = wnd;
  s.opt_bytes = (uint8_t)np_tcp_opts_put_mss(s.opt, 1460);
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  s.opt_bytes = 0;
  s.flags = NP_TCP_ACK;
  s.seq = 1001;
  s.ack = tp_sent(tp, 1, 0)->seq + 1;
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  return s;
}

/* ---- SYN cookies ---- */

static struct tp *full_backlog(uint8_t ecn) {
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].backlog_default = 1;
  args.config[1].conns_max = 4096;
  args.config[1].ecn = ecn;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->cut = true;
  struct tp_seg s = from_host(tp, 77, 7, NP_TCP_SYN);
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  return tp;
}

/* What comes back of a SYN that a cookie answered. */
static const struct np_tcp_conn *by_cookie(struct tp *tp, struct tp_seg *syn) {
  uint64_t before = tp_counter(tp, 1, NP_C_TCP_COOKIE_OK);
  tp_inject(tp, 1, syn, NULL);
  tp_flush(tp);
  const struct tp_seg *sa = tp_sent(tp, 1, 0);
  assert_int_equal(sa->flags & (NP_TCP_SYN | NP_TCP_ACK), NP_TCP_SYN | NP_TCP_ACK);
  struct tp_seg ack = *syn;
  ack.flags = NP_TCP_ACK;
  ack.seq = syn->seq + 1;
  ack.ack = sa->seq + 1;
  ack.opt_bytes = sa->opts.has_ts ? (uint8_t)np_tcp_opts_put_ts(ack.opt, 5001, sa->opts.tsval) : 0;
  tp_inject(tp, 1, &ack, NULL);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), before + 1);
  return find(tp, syn);
}

/* Every MSS is taken as the next smaller of the table's, every combination of options as it was. */
static void test_cookie_keeps(void **state) {
  (void)state;
  static const uint16_t mss[][2] = {{536, 536}, {1023, 536}, {1024, 1024}, {1219, 1024}, {1220, 1220}, {1400, 1400}, {1439, 1400},
                                    {1440, 1440}, {1460, 1460}, {8959, 1460}, {8960, 8960}, {65535, 8960}, {100, 536}};
  struct tp *tp = full_backlog(NP_ECN_ACCEPT);
  uint16_t port = 100;
  for (uint32_t i = 0; i < NP_COUNT_OF(mss); i++) {
    struct tp_seg syn = from_host(tp, 5, port++, NP_TCP_SYN);
    syn.seq = i * 0x12345678u;
    syn.opt_bytes = (uint8_t)np_tcp_opts_put_mss(syn.opt, mss[i][0]);
    const struct np_tcp_conn *c = by_cookie(tp, &syn);
    assert_int_equal(c->mss_peer, mss[i][1]);
    assert_int_equal(c->flags & (NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE), 0);
  }
  for (uint32_t how = 0; how < 64; how++) {
    uint32_t ws = how >> 2;
    struct tp_seg syn = from_host(tp, 5, port++, NP_TCP_SYN);
    if (how & 2) syn.flags |= NP_TCP_ECE | NP_TCP_CWR;
    uint32_t n = np_tcp_opts_put_ts(syn.opt, 5000, 0);
    if (how & 1) n += np_tcp_opts_put_sack_ok(syn.opt + n);
    if (ws != 15) n += np_tcp_opts_put_wscale(syn.opt + n, (uint8_t)ws);
    syn.opt_bytes = (uint8_t)n;
    const struct np_tcp_conn *c = by_cookie(tp, &syn);
    uint32_t want = NP_TF_TS | (how & 1 ? NP_TF_SACK : 0u) | (ws != 15 ? NP_TF_WSCALE : 0u);
    assert_int_equal(c->flags & (NP_TF_TS | NP_TF_SACK | NP_TF_WSCALE), want);
    assert_int_equal(c->snd_wscale, ws == 15 ? 0 : ws);
    assert_int_equal(c->ecn & NP_ECN_OK, how & 2 ? NP_ECN_OK : 0);
    tp_run(tp, 7 * TP_MS);
  }
  tp_free(tp);
}

/* Guesses at cookies open nothing, each is counted; while no cookie is out not even a right one does. */
static void test_cookie_guesses(void **state) {
  (void)state;
  struct tp *tp = full_backlog(NP_ECN_OFF);
  struct np_rng rng;
  np_rng_init(&rng, 11);
  struct tp_seg syn = from_host(tp, 5, 100, NP_TCP_SYN);
  tp_inject(tp, 1, &syn, NULL);
  tp_flush(tp);
  struct tp_seg right = syn;
  right.flags = NP_TCP_ACK;
  right.seq = 1;
  right.ack = tp_sent(tp, 1, 0)->seq + 1;
  for (uint32_t i = 0; i < 300000; i++) {
    struct tp_seg s = right;
    s.ack = np_rng_u32(&rng);
    if (i % 3 == 0) s.ack = right.ack ^ (1u << np_rng_below(&rng, 32)); /* near the right one */
    if (i % 3 == 1) s.seq = np_rng_u32(&rng);                          /* the right one for another SYN */
    if (i % 3 == 1) s.ack = right.ack;
    tp_inject(tp, 1, &s, NULL);
    if (i % 64 == 0) tp_flush(tp);
  }
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_COOKIE_OK), 0);
  /* one in 4,096 looks like a segment behind the first */
  uint64_t behind = tp_drops(tp, 1, NP_DROP_TCP_COOKIE_BEHIND);
  assert_in_range(behind, 1, 300);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_COOKIE) + behind, 300000);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 1);
  uint64_t out_ns = tp->end[1].tcp->cookie_ns;
  tp->end[1].tcp->cookie_ns = 0;
  tp_inject(tp, 1, &right, NULL);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_COOKIE) + behind, 300000);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_NO_CONN), 1);
  assert_null(find(tp, &right));
  tp->end[1].tcp->cookie_ns = out_ns;
  tp_inject(tp, 1, &right, NULL);
  assert_non_null(find(tp, &right));
  tp_free(tp);
}

/* Without cookies a flood of SYNs from everywhere pushes out its own: who answers sooner than the flood fills the
 * backlog gets in, and no more is kept than the backlog. */
static void test_flood_without_cookies(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].conns_max = 1024;
  struct tp *tp = tp_new(&args);
  struct np_tcp_listen l = {.port = TP_PORT, .backlog = 128};
  uint32_t id;
  assert_int_equal(np_tcp_listen(tp->end[1].tcp, &l, &id), NP_ERR_OK);
  struct tp_sess *good[20] = {NULL};
  uint32_t sent = 0;
  for (uint32_t ms = 0; ms < 400; ms++) { /* 20,000 SYNs a second */
    tp->cut = true;
    for (uint32_t i = 0; i < 20; i++, sent++) {
      struct tp_seg s = from_host(tp, 1 + sent % 5000, (uint16_t)(1000 + sent), NP_TCP_SYN);
      s.seq = sent * 7919;
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
    }
    tp->cut = false;
    if (ms % 20 == 0) good[ms / 20] = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, TP_MS);
  }
  for (uint32_t i = 0; i < NP_COUNT_OF(good); i++) assert_true(good[i]->established && !good[i]->closed);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 128 + NP_COUNT_OF(good));
  assert_int_equal(tp->end[1].tcp->listeners[id].backlog, 128);
  uint64_t n = tp_counter(tp, 1, NP_C_TCP_HALF_RECYCLED) + tp_drops(tp, 1, NP_DROP_TCP_BACKLOG);
  assert_in_range(n, sent - 128, sent - 128 + NP_COUNT_OF(good));
  assert_true(tp_counter(tp, 1, NP_C_TCP_HALF_RECYCLED) > sent / 2);
  tp_run(tp, 100 * TP_S);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), NP_COUNT_OF(good));
  tp_free(tp);
}

/* ---- blind injection, RFC 5961 ---- */

static void intact(struct tp *tp, struct tp_sess *a, struct tp_sess *b) {
  uint64_t got[2] = {a->received, b->received};
  assert_false(a->closed || b->closed || a->eof || b->eof);
  assert_int_equal(tp_conn(b)->flags & NP_TF_RCV_FIN, 0);
  assert_int_equal(tp_conn(b)->ooo_segs, 0);
  tp->cut = false;
  tp_write(a, 30000);
  tp_write(b, 30000);
  tp_run(tp, TP_S);
  assert_int_equal(a->received, got[0] + 30000);
  assert_int_equal(b->received, got[1] + 30000);
  assert_int_equal(a->wrong + b->wrong, 0);
  tp->cut = true;
}

/* Who knows addresses and ports, and sends each kind of segment at numbers spread over all of the sequence space: a
 * connection lives, takes nothing, and answers no more than its limit of challenges. */
static void test_blind_attacker(void **state) {
  (void)state;
  static const uint8_t kinds[] = {NP_TCP_RST, NP_TCP_SYN, NP_TCP_SYN | NP_TCP_ACK, NP_TCP_RST | NP_TCP_ACK, NP_TCP_FIN | NP_TCP_ACK,
                                  NP_TCP_PSH | NP_TCP_ACK, NP_TCP_ACK};
  for (uint32_t ts = 0; ts < 2; ts++) {
    struct tp_args args;
    tp_args_default(&args);
    args.config[0].timestamps = ts != 0;
    struct tp *tp = tp_new(&args);
    struct np_rng rng;
    np_rng_init(&rng, 3 + ts);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    tp->cut = true;
    intact(tp, a, b);
    for (uint32_t k = 0; k < NP_COUNT_OF(kinds); k++) {
      tp_run(tp, 6 * TP_S);
      uint32_t sent = tp->end[1].log_count;
      uint64_t begin_ns = tp->now_ns;
      for (uint32_t i = 0; i < 1u << 15; i++) {
        struct np_tcp_conn *c = tp_conn(b);
        struct tp_seg s = tp_peer_seg(b, kinds[k]);
        s.seq = (i << 17) + np_rng_below(&rng, 1u << 17);
        if (s.seq == c->rcv_nxt.v) s.seq++; /* one chance in 2^32 each: not what is tested */
        do s.ack = np_rng_u32(&rng); /* as long a chance, times the window */
        while (c->snd_nxt.v - s.ack < 1u << 20);
        s.opt_bytes = ts != 0 ? (uint8_t)np_tcp_opts_put_ts(s.opt, c->ts_recent + 1, np_rng_u32(&rng)) : 0;
        s.len = kinds[k] & NP_TCP_PSH ? 100 : 0;
        tp_inject(tp, 1, &s, NULL);
        if (i % 16 == 15) tp_flush(tp);
        if (i % 1000 == 999) tp_run(tp, 100 * TP_MS);
      }
      uint64_t windows = (tp->now_ns - begin_ns) / (NP_TCP_CHALLENGE_MS * TP_MS) + 2;
      /* Data that begins outside the window is acknowledged, once a burst: as a peer's would be that was lost. */
      if (!(kinds[k] & NP_TCP_PSH)) assert_true(tp->end[1].log_count - sent <= windows * NP_TCP_CHALLENGE_MAX);
      assert_true(tp->end[1].log_count - sent <= (1u << 15) / 16 + windows * NP_TCP_CHALLENGE_MAX);
      intact(tp, a, b);
    }
    assert_true(tp_counter(tp, 1, NP_C_TCP_CHALLENGE) > 0);
    assert_true(tp_counter(tp, 1, NP_C_TCP_CHALLENGE_LIMITED) > 0);
    tp_free(tp);
  }
}

/* The right sequence number with every kind of acknowledgment. A window of 1 GiB makes no old one good that
 * acknowledges what was never sent; a mark in a segment that is somebody's guess slows nobody down. */
static void test_blind_ack(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].ecn = NP_ECN_REQUEST;
  args.config[1].ecn = NP_ECN_ACCEPT;
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  tp_write(b, 10000);
  tp_run(tp, TP_S);
  struct np_tcp_conn *c = tp_conn(b);
  c->max_wnd = 65535u << 14;
  tp->cut = true;
  for (uint32_t i = 0; i < 1u << 16; i++) {
    struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK | NP_TCP_PSH);
    s.len = 10;
    s.tos = NP_ECN_CE;
    s.ack = i == 0 ? c->iss.v : i == 1 ? c->snd_una.v - 10001 : c->snd_nxt.v + 1 + (i << 16 | (i & 0xff));
    if (c->snd_nxt.v - s.ack <= 10000) continue;
    tp_inject(tp, 1, &s, NULL);
    if (i % 64 == 0) tp_flush(tp);
  }
  assert_int_equal(b->received, 0);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_ACK), 1u << 16);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_CE_RX), 0);
  assert_int_equal(c->ecn & NP_ECN_ECHO, 0);
  struct tp_seg s = tp_peer_seg(b, NP_TCP_ACK | NP_TCP_PSH);
  s.ack = c->iss.v + 1; /* the oldest that was ever good */
  s.tos = NP_ECN_CE;
  s.len = 10;
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  assert_int_equal(b->received, 10);
  assert_int_equal(c->ecn & NP_ECN_ECHO, NP_ECN_ECHO);
  tp_free(tp);
}

/* How well the best threshold tells hits from misses, in percent. */
static uint32_t best_guess(const uint32_t *hit, const uint32_t *miss, uint32_t n) {
  uint32_t best = 0;
  for (uint32_t t = 0; t < 200; t++) {
    uint32_t right = 0;
    for (uint32_t i = 0; i < n; i++) right += (hit[i] <= t ? 1u : 0u) + (miss[i] > t ? 1u : 0u);
    best = np_max_u32(best, np_max_u32(right, 2 * n - right));
  }
  return 100 * best / (2 * n);
}

/* The attack on a limit of all connections (CVE-2016-5696): use it up on connections of one's own, count what
 * came, and see from one less that a guess at somebody else's connection was right. */
#define SPIES 40u
static void test_no_side_channel(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].challenge_per_s = 40;
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  struct tp_sess *spy[SPIES];
  for (uint32_t i = 0; i < SPIES; i++) {
    tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 10 * TP_MS);
    spy[i] = tp->end[1].last;
  }
  tp->cut = true;
  uint32_t got[2][150];
  for (uint32_t n = 0; n < 300; n++) {
    tp_run(tp, TP_S - tp->now_ns % TP_S);
    if (n % 2 == 0) { /* a guess that is right: in the window, it is challenged */
      struct tp_seg s = tp_peer_seg(b, NP_TCP_RST);
      s.seq += 100;
      uint64_t before = tp_counter(tp, 1, NP_C_TCP_CHALLENGE);
      tp_inject(tp, 1, &s, NULL);
      assert_int_equal(tp_counter(tp, 1, NP_C_TCP_CHALLENGE), before + 1);
    }
    uint64_t before = tp_counter(tp, 1, NP_C_TCP_CHALLENGE);
    for (uint32_t i = 0; i < 3 * SPIES; i++) {
      struct tp_seg s = tp_peer_seg(spy[i % SPIES], NP_TCP_RST);
      s.seq += 100;
      tp_conn(spy[i % SPIES])->challenge_count = 0; /* an attacker would have more of them */
      tp_inject(tp, 1, &s, NULL);
    }
    tp_flush(tp);
    got[n % 2][n / 2] = (uint32_t)(tp_counter(tp, 1, NP_C_TCP_CHALLENGE) - before);
    assert_in_range(got[n % 2][n / 2], 19, 60);
  }
  assert_true(best_guess(got[0], got[1], 150) < 65); /* a fixed limit: 100 */
  tp_free(tp);
}

/* A peer that is gone stays gone, whatever somebody else sends in its name: keep-alive and the probes of a
 * shut window are answered by none of it. */
static void test_blind_life_support(void **state) {
  (void)state;
  for (uint32_t shut = 0; shut < 2; shut++) {
    struct tp_args args;
    tp_args_default(&args);
    args.config[1].keepalive_idle_ms = shut ? 0 : 10000;
    args.config[1].keepalive_interval_ms = 5000;
    args.config[1].keepalive_probes = 3;
    args.config[1].user_timeout_ms = 30000;
    struct tp *tp = tp_new(&args);
    struct tp_sess *a;
    struct tp_sess *b;
    tp_establish(tp, &a, &b);
    a->hold = true;
    if (shut) tp_write(b, 1 << 20);
    tp_run(tp, 5 * TP_S);
    if (shut) assert_true(tp_conn(b)->flags & NP_TF_ZERO_WND);
    tp->cut = true;
    for (uint32_t i = 0; i < 1000 && !b->closed; i++) {
      static const uint8_t kinds[] = {NP_TCP_RST, NP_TCP_SYN, NP_TCP_ACK, NP_TCP_ACK | NP_TCP_PSH, NP_TCP_ACK | NP_TCP_FIN, 0};
      struct tp_seg s = tp_peer_seg(b, kinds[i % NP_COUNT_OF(kinds)]);
      s.seq += i & 64 ? 1u << 30 : 0u - (1u << 20);
      if (s.flags & NP_TCP_PSH) s.len = 1;
      tp_inject(tp, 1, &s, NULL);
      s = tp_peer_seg(b, NP_TCP_ACK | NP_TCP_PSH);
      s.ack += 1u << 29;
      s.len = 1;
      tp_inject(tp, 1, &s, NULL);
      tp_run(tp, 100 * TP_MS);
    }
    assert_true(b->closed);
    assert_int_equal(b->err, NP_ERR_TIMEDOUT);
    tp_free(tp);
  }
}

/* ---- ends that disagree ---- */

/* Each end thinks that the other has sent a million bytes less: every segment of one is outside the other's
 * window and answered by an ACK, which is outside again. */
static void test_desynchronised(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *s[2];
  tp_establish(tp, &s[0], &s[1]);
  for (uint32_t i = 0; i < 2; i++) {
    struct np_tcp_conn *c = tp_conn(s[i]);
    c->snd_una = c->snd_nxt = c->snd_end = np_seq_add(c->snd_nxt, 1000000);
  }
  uint64_t before = tp->frames;
  tp_write(s[0], 100);
  tp_run(tp, 60 * TP_S);
  /* Twelve windows of time, ten answers in each from each end, and what a timer sends again. */
  assert_in_range(tp->frames - before, 20, 2 * 13 * NP_TCP_CHALLENGE_MAX + 40);
  tp_free(tp);
}

/* ---- acknowledgments that lie ---- */

/* A segment acknowledged byte by byte makes the window grow no more than one acknowledged at once (RFC 3465). */
static void test_ack_division(void **state) {
  (void)state;
  for (uint32_t cc = 0; cc < 2; cc++) {
    uint32_t grown[2];
    for (uint32_t by = 0; by < 2; by++) {
      struct tp_args args;
      tp_args_default(&args);
      args.config[0].congestion_control = cc == 0 ? NP_CC_CUBIC : NP_CC_NEWRENO;
      struct tp *tp = tp_new(&args);
      struct tp_sess *a;
      struct tp_sess *b;
      tp_establish(tp, &a, &b);
      tp->cut = true;
      tp_write(a, 40 * 1448);
      tp_flush(tp);
      struct np_tcp_conn *c = tp_conn(a);
      uint32_t cwnd = c->cwnd;
      uint32_t una = c->snd_una.v;
      for (uint32_t i = by == 0 ? 1448 : 1; i <= 1448; i++) {
        struct tp_seg s = tp_peer_seg(a, NP_TCP_ACK);
        s.wnd = 65535;
        s.ack = una + i;
        tp_inject(tp, 0, &s, NULL);
        tp_flush(tp);
      }
      grown[by] = c->cwnd - cwnd;
      tp_free(tp);
    }
    assert_in_range(grown[0], 1, 1448);
    assert_true(grown[1] <= grown[0]);
  }
}

/* Duplicates made up, without SACK: they let out what waits, a segment for two at most, never more than
 * window and queue hold; when they end so does it, and the transfer goes on. */
static void test_false_duplicates(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].sack = false;
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  tp->cut = true;
  tp_write(a, 1000 * 1448);
  tp_flush(tp);
  struct np_tcp_conn *c = tp_conn(a);
  uint32_t wnd = c->snd_wnd;
  uint64_t before = tp->end[0].data_segs;
  uint32_t cwnd = c->cwnd;
  for (uint32_t i = 0; i < 5000; i++) {
    struct tp_seg s = tp_peer_seg(a, NP_TCP_ACK);
    s.ack = c->snd_una.v;
    tp_inject(tp, 0, &s, NULL);
    tp_flush(tp);
    assert_true(c->cwnd <= cwnd + 3 * c->mss);
    assert_true(np_tcp_flight(c) <= wnd);
    assert_true(tp->end[0].data_segs - before <= 4 + i);
  }
  assert_true(tp->end[0].data_segs - before <= wnd / 1448 + 8);
  tp->cut = false;
  tp_run(tp, 60 * TP_S);
  assert_int_equal(b->received, 1000 * 1448);
  tp_free(tp);
}

/* ---- windows of nothing ---- */

#define MISERS 60u

/* Peers that take everything back but a byte: shut from the start, one byte for ever, one and none in turn. While
 * buffers are short they end, what they held serves others, and a byte is not sent more often than a timer fires. */
static void test_windows_of_a_byte(void **state) {
  (void)state;
  for (uint32_t kind = 0; kind < 3; kind++) {
    struct tp_args args;
    tp_args_default(&args);
    args.bufs = 2048;
    struct tp *tp = tp_new(&args);
    tp_listen(tp, 1, TP_PORT);
    tp->end[1].accept_as = (struct tp_sess){.to_send = 1 << 20};
    tp->cut = true;
    struct tp_seg miser[MISERS];
    for (uint32_t i = 0; i < MISERS; i++) miser[i] = open_by_hand(tp, 1 + i, (uint16_t)(100 + i), kind == 0 ? 0 : 1);
    assert_true(np_tcp_mem_below(tp->end[1].tcp, NP_TCP_MEM_PRESSURE));
    uint64_t before = tp->end[1].data_segs;
    for (uint32_t step = 0; step < 1200; step++) { /* two minutes */
      for (uint32_t i = 0; i < MISERS; i++) {
        const struct np_tcp_conn *c = find(tp, &miser[i]);
        if (c == NULL || np_tcp_flight(c) == 0) continue;
        miser[i].ack = kind == 0 ? c->snd_una.v : c->snd_nxt.v;
        miser[i].wnd = kind == 0 ? 0 : kind == 1 ? 1 : step & 1;
        tp_inject(tp, 1, &miser[i], NULL);
      }
      tp_run(tp, 100 * TP_MS);
    }
    assert_true(tp->end[1].data_segs - before <= 5 * 120 * MISERS);
    assert_true(tp_counter(tp, 1, NP_C_TCP_PERSIST_ENDED) > 0);
    assert_true(tp->end[1].pool.free_count >= tp->end[1].tcp->mem.floor[NP_TCP_MEM_PRESSURE] - MISERS);
    tp->cut = false;
    struct tp_sess *good = tp_connect(tp, 0, TP_PORT, NULL);
    tp_run(tp, 2 * TP_S);
    assert_int_equal(good->received, 1 << 20);
    tp_free(tp);
  }
}

/* ---- bytes one by one ---- */

/* Twenty peers that each send thousands of bytes out of order, one a segment, from behind and from the front: what
 * touches is joined or counted against limits, a good client is served, and at the end all of it is there. */
static void test_bytes_out_of_order(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.bufs = 16384; /* ten times 512 is less than half of it */
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->cut = true;
  struct tp_seg peer[20];
  const struct tp_sess *sess[20];
  for (uint32_t i = 0; i < NP_COUNT_OF(peer); i++) {
    peer[i] = open_by_hand(tp, 1 + i, (uint16_t)(100 + i), 60000);
    sess[i] = tp->end[1].last;
    peer[i].len = 1;
  }
  uint32_t base = peer[0].seq;
  for (uint32_t n = 0; n < 5000; n++) {
    for (uint32_t i = 0; i < NP_COUNT_OF(peer); i++) {
      peer[i].seq = base + (i % 2 == 0 ? 5000 - n : 1 + n);
      tp_inject(tp, 1, &peer[i], NULL);
      const struct np_tcp_conn *c = find(tp, &peer[i]);
      assert_true(c->ooo_segs <= 512 && (i % 2 == 0 || c->ooo_segs <= 4));
    }
    tp_flush(tp);
  }
  assert_in_range(tp->end[1].pool.low_count, 16384 - 10 * (512 + 4) - 2, 16384 - 10 * 512);
  assert_in_range(tp_drops(tp, 1, NP_DROP_TCP_OOO_LIMIT), 10 * 4400, 10 * 4500);
  tp->cut = false;
  struct tp_sess like = {.to_send = 300000};
  tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, 10 * TP_S);
  assert_int_equal(tp->end[1].last->received, 300000);
  tp->cut = true;
  for (uint32_t i = 1; i < NP_COUNT_OF(peer); i += 2) {
    peer[i].seq = base;
    tp_inject(tp, 1, &peer[i], NULL);
    tp_flush(tp);
    assert_int_equal(sess[i]->received, 5001);
  }
  tp_free(tp);
}

/* Window scale 14 and all of the window: what is queued is our own limit's affair, not the peer's. */
static void test_window_of_a_gigabyte(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->cut = true;
  tp->end[1].accept_as = (struct tp_sess){.to_send = 64 << 20};
  struct tp_seg s = from_host(tp, 3, 100, NP_TCP_SYN);
  uint32_t n = np_tcp_opts_put_mss(s.opt, 1460);
  s.opt_bytes = (uint8_t)(n + np_tcp_opts_put_wscale(s.opt + n, 200)); /* RFC 7323 §2.3: taken as 14 */
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  s.opt_bytes = 0;
  s.flags = NP_TCP_ACK;
  s.seq = 1;
  s.ack = tp_sent(tp, 1, 0)->seq + 1;
  tp_inject(tp, 1, &s, NULL);
  tp_flush(tp);
  const struct np_tcp_conn *c = find(tp, &s);
  assert_int_equal(c->snd_wnd, 65535u << 14);
  assert_true(np_seq_diff(c->snd_end, c->snd_una) <= 256 * 1024);
  assert_true(tp->end[1].data_segs <= NP_TCP_INIT_SEGS);
  tp_free(tp);
}

/* ---- ends that never come ---- */

static uint32_t in_state(const struct tp *tp, enum np_conn_state st) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < tp->end[1].config.conns_max; i++) n += np_tcp_at(tp->end[1].tcp, i)->state == st ? 1u : 0u;
  return n;
}

/* Ten thousand peers that never close after us: a timer ends each. Until then they fill the table, and the oldest of
 * them gives way to who comes new. */
static void test_fin_wait_2_flood(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[0].conns_max = 10100;
  args.config[1].conns_max = args.config[1].backlog_default = 10000;
  args.bufs = 16384;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.detach_on_data = true};
  for (uint32_t i = 0; i < 10000; i++) {
    struct tp_sess like = {.to_send = 10};
    tp_connect(tp, 0, TP_PORT, &like);
    if (i % 500 == 499) tp_run(tp, 5 * TP_MS);
  }
  tp_run(tp, 3 * TP_S);
  assert_int_equal(in_state(tp, NP_TCP_FIN_WAIT_2), 10000);
  assert_int_equal(tp->end[1].pool.free_count, tp->end[1].pool.count);
  tp->end[1].accept_as = (struct tp_sess){.mode = TP_SINK};
  struct tp_sess *good[50];
  struct tp_sess like = {.to_send = 3000};
  for (uint32_t i = 0; i < NP_COUNT_OF(good); i++) good[i] = tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, 100 * TP_MS);
  for (uint32_t i = 0; i < NP_COUNT_OF(good); i++) assert_true(good[i]->established && !good[i]->closed);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_LEAVING_ENDED), NP_COUNT_OF(good));
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_CONN_LIMIT), 0);
  tp_run(tp, 61 * TP_S);
  assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), NP_COUNT_OF(good));
  tp_free(tp);
}

/* Peers that close, and never acknowledge that we do: LAST-ACK, or CLOSING where both began at once. Whoever comes
 * when they fill the table is let in when its SYN comes again, at the latest. */
static void test_fin_never_acked(void **state) {
  (void)state;
  for (uint32_t both = 0; both < 2; both++) {
    struct tp_args args;
    tp_args_default(&args);
    args.config[1].conns_max = 300;
    struct tp *tp = tp_new(&args);
    tp_listen(tp, 1, TP_PORT);
    tp->end[1].accept_as = (struct tp_sess){.close_on_eof = true, .close_at_end = both != 0};
    tp->cut = true;
    for (uint32_t i = 0; i < 300; i++) {
      struct tp_seg s = open_by_hand(tp, 1 + i / 50, (uint16_t)(100 + i), 60000);
      s.flags = NP_TCP_FIN | NP_TCP_ACK;
      tp_inject(tp, 1, &s, NULL);
      tp_flush(tp);
    }
    assert_int_equal(in_state(tp, both ? NP_TCP_CLOSING : NP_TCP_LAST_ACK), 300);
    tp_run(tp, 3 * TP_S);
    tp->cut = false;
    tp->end[1].accept_as = (struct tp_sess){.mode = TP_SINK};
    struct tp_sess like = {.to_send = 3000};
    struct tp_sess *good = tp_connect(tp, 0, TP_PORT, &like);
    tp_run(tp, 1200 * TP_MS);
    assert_true(good->established && !good->closed);
    assert_in_range(tp_counter(tp, 1, NP_C_TCP_LEAVING_ENDED), 1, 16);
    tp_run(tp, 200 * TP_S); /* the first timeout after the user timeout */
    assert_int_equal(np_tcp_conn_count(tp->end[1].tcp), 1);
    tp_free(tp);
  }
}

/* Those that left a moment ago are left alone: an honest peer's last ACK is on its way. */
static void test_leaving_has_time(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  args.config[1].conns_max = 10;
  struct tp *tp = tp_new(&args);
  tp_listen(tp, 1, TP_PORT);
  tp->end[1].accept_as = (struct tp_sess){.detach_on_data = true};
  struct tp_sess like = {.to_send = 10};
  for (uint32_t i = 0; i < 10; i++) tp_connect(tp, 0, TP_PORT, &like);
  tp_run(tp, 100 * TP_MS);
  assert_int_equal(in_state(tp, NP_TCP_FIN_WAIT_2), 10);
  struct tp_sess *late = tp_connect(tp, 0, TP_PORT, NULL);
  tp_run(tp, 100 * TP_MS);
  assert_int_equal(tp_counter(tp, 1, NP_C_TCP_LEAVING_ENDED), 0);
  assert_int_equal(tp_drops(tp, 1, NP_DROP_TCP_CONN_LIMIT), 1);
  tp_run(tp, 4 * TP_S);
  assert_true(late->established && !late->closed);
  tp_free(tp);
}

/* ---- ICMP, RFC 5927 ---- */

static void test_blind_icmp(void **state) {
  (void)state;
  struct tp_args args;
  tp_args_default(&args);
  struct tp *tp = tp_new(&args);
  struct tp_sess *a;
  struct tp_sess *b;
  tp_establish(tp, &a, &b);
  tp->cut = true;
  tp_write(a, 5000);
  tp_flush(tp);
  struct tp_sess *opening = tp_connect(tp, 0, TP_PORT, NULL);
  tp_flush(tp);
  struct np_tcp *tcp = tp->end[0].tcp;
  const struct np_tcp_conn *c[2] = {tp_conn(a), tp_conn(opening)};
  uint32_t mss = c[0]->mss;
  for (uint32_t i = 0; i < 1u << 17; i++) {
    const struct np_tcp_conn *v = c[i & 1];
    uint32_t seq = (i << 15) + 7;
    if (seq - v->snd_una.v <= v->snd_nxt.v - v->snd_una.v) continue;
    assert_false(np_tcp_error(tcp, &v->flow, seq, NP_ERR_REFUSED, false, i % 3 == 0 ? 600 : 0));
  }
  assert_int_equal(c[0]->mss, mss);
  assert_int_equal(c[0]->soft_err, 0);
  assert_false(a->closed || opening->closed);
  /* One that is right ends an opening; one that is established only remembers it. */
  assert_true(np_tcp_error(tcp, &c[0]->flow, c[0]->snd_una.v, NP_ERR_REFUSED, false, 0));
  assert_true(np_tcp_error(tcp, &c[1]->flow, c[1]->snd_una.v, NP_ERR_REFUSED, false, 0));
  tp_flush(tp);
  assert_false(a->closed);
  assert_true(opening->closed);
  tp->cut = false;
  tp_run(tp, 5 * TP_S);
  assert_int_equal(b->received, 5000);
  tp_free(tp);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cookie_keeps),     cmocka_unit_test(test_cookie_guesses),   cmocka_unit_test(test_flood_without_cookies), cmocka_unit_test(test_blind_attacker),
      cmocka_unit_test(test_blind_ack),        cmocka_unit_test(test_no_side_channel),  cmocka_unit_test(test_blind_life_support), cmocka_unit_test(test_bytes_out_of_order), cmocka_unit_test(test_desynchronised),
      cmocka_unit_test(test_ack_division),     cmocka_unit_test(test_false_duplicates), cmocka_unit_test(test_windows_of_a_byte),
      cmocka_unit_test(test_window_of_a_gigabyte), cmocka_unit_test(test_fin_wait_2_flood), cmocka_unit_test(test_fin_never_acked),
      cmocka_unit_test(test_leaving_has_time), cmocka_unit_test(test_blind_icmp),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
