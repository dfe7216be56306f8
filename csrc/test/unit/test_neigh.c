/* ARP, neighbor discovery and the table behind them. */
#include "test/unit/ip_rig.h"

struct family {
  bool v6;
  struct np_addr us;
  struct np_addr peer;
};

static struct family family(bool v6) {
  return (struct family){v6, v6 ? frame_v6(1) : frame_v4(198, 18, 0, 1), v6 ? frame_v6(2) : frame_v4(198, 18, 0, 2)};
}

/* The peer's answer to our question. */
static uint32_t answer(struct rig *r, const struct family *f, const uint8_t mac[6]) {
  struct frame fr;
  if (f->v6) {
    rig_nd(&fr, 136, RIG_US, mac, &f->peer, &f->us, &f->peer, 0x60, 2);
  } else {
    frame_arp(&fr, 2, RIG_US, mac, &f->peer, &f->us);
  }
  return rig_rx(r, 3, &fr);
}

static bool is_question(const struct rig_frame *s, const struct family *f, bool unicast) {
  struct np_pkt pkt;
  rig_parse(s, &pkt);
  if (unicast != (memcmp(s->b, RIG_PEER, 6) == 0)) return false;
  if (!f->v6) return pkt.l4_proto == NP_PROTO_ARP && s->b[21] == 1 && memcmp(s->b + 38, f->peer.b + 12, 4) == 0;
  return pkt.l4_proto == 58 && pkt.ttl == 255 && s->b[54] == 135 && memcmp(s->b + 62, f->peer.b, 16) == 0 && s->b[78] == 1;
}

static void resolve(struct rig *r, const struct family *f, struct np_path *path) {
  assert_int_equal(rig_send(r, &f->us, &f->peer, path), NP_ERR_OK);
  assert_int_equal(r->sent_count, 1);
  assert_true(is_question(&r->sent[0], f, false));
  assert_int_equal(answer(r, f, RIG_PEER), RIG_DONE);
  assert_int_equal(rig_neigh(r, &f->peer, NULL), NP_NEIGH_REACHABLE);
  r->sent_count = 0;
}

/* All else is held by what waits to be sent: the question for its way takes of the reserve. */
static void test_question_from_reserve(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_ip_config config = {.seed = 1};
    struct rig *r = rig_usual(&config);
    struct family f = family(v6);
    struct np_path path = {0};
    r->pool.reserve_count = r->pool.free_count - 1; /* one is what is to be sent */
    assert_int_equal(rig_send(r, &f.us, &f.peer, &path), NP_ERR_OK);
    assert_null(np_pool_get(&r->pool));
    assert_int_equal(r->sent_count, 1);
    assert_true(is_question(&r->sent[0], &f, false));
    r->pool.reserve_count = 0;
    rig_free(r);
  }
}

static void test_resolve_queue(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_ip_config config = {.seed = 1, .neigh_queue_pkts = 3};
    struct rig *r = rig_usual(&config);
    struct family f = family(v6);
    struct np_path path = {0};
    for (uint32_t i = 0; i < 5; i++) assert_int_equal(rig_send(r, &f.us, &f.peer, &path), NP_ERR_OK);
    assert_int_equal(r->sent_count, 1); /* one question */
    assert_true(is_question(&r->sent[0], &f, false));
    assert_int_equal(r->sent[0].port, 3);
    static const uint8_t group[6] = {0x33, 0x33, 0xff, 0, 0, 2};
    assert_memory_equal(r->sent[0].b, v6 ? group : RIG_ALL, 6);
    assert_int_equal(path.link_len, 0);
    assert_int_equal(r->counters.drop[NP_DROP_NEIGH_QUEUE], 2); /* the oldest two */
    assert_int_equal(r->drop_calls, 2);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_INCOMPLETE);
    assert_int_equal(answer(r, &f, RIG_PEER), RIG_DONE);
    assert_int_equal(r->sent_count, 4);
    for (uint32_t i = 1; i < 4; i++) {
      struct np_pkt pkt;
      rig_parse(&r->sent[i], &pkt);
      assert_memory_equal(r->sent[i].b, RIG_PEER, 6);
      assert_memory_equal(r->sent[i].b + 6, RIG_US, 6);
      assert_true(np_addr_eq(&pkt.flow.local, &f.peer));
      assert_int_equal(pkt.l4_len, 10);
    }
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_REACHABLE);
    rig_free(r);
  }
}

/* Three questions a second apart, then TCP is told and the packets are gone. */
static void test_resolve_fails(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_ip_config config = {.seed = 2};
    struct rig *r = rig_usual(&config);
    struct family f = family(v6);
    struct np_buf *b = np_pool_get(&r->pool);
    memset(np_buf_append(b, 20), 0, 20);
    np_store_be16(np_buf_data(b), 1234);
    np_store_be16(np_buf_data(b) + 2, 80);
    np_store_be32(np_buf_data(b) + 4, 0xabcdef01);
    assert_int_equal(np_ip_output(r->ip, b, &f.us, &f.peer, NP_PROTO_TCP, 0, NULL, r->now_ns), NP_ERR_OK);
    rig_advance(r, 2500 * RIG_MS);
    assert_int_equal(r->sent_count, 3);
    for (uint32_t i = 0; i < 3; i++) assert_true(is_question(&r->sent[i], &f, false));
    assert_int_equal(r->error_count, 0);
    rig_advance(r, 600 * RIG_MS);
    assert_int_equal(r->sent_count, 3);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_FAILED);
    assert_int_equal(r->error_count, 1);
    assert_int_equal(r->error_err, NP_ERR_UNREACHABLE);
    assert_true(r->error_soft);
    assert_int_equal(r->error_flow.local_port, 1234);
    assert_int_equal(r->error_seq, 0xabcdef01);
    assert_true(np_addr_eq(&r->error_flow.remote, &f.peer));
    assert_int_equal(r->counters.drop[NP_DROP_NEIGH_QUEUE], 1);
    assert_int_equal(r->pool.free_count, r->pool.count);
    /* A new packet asks again; without one the entry goes. */
    rig_send(r, &f.us, &f.peer, NULL);
    assert_int_equal(r->sent_count, 4);
    rig_advance(r, 30 * RIG_S);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_FREE);
    rig_free(r);
  }
}

/* TCP keeps a reference and changes the buffer while the first sending waits. */
static void test_queue_copies_shared(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 3};
  struct rig *r = rig_usual(&config);
  struct family f = family(false);
  struct np_buf *b = np_pool_get(&r->pool);
  memset(np_buf_append(b, 10), 'x', 10);
  b->refs++;
  b->next = b; /* TCP's list: not to be touched */
  np_ip_output(r->ip, b, &f.us, &f.peer, 253, 0, NULL, r->now_ns);
  assert_int_equal(b->refs, 1);
  assert_ptr_equal(b->next, b);
  memset(np_buf_data(b), 'y', b->len);
  b->next = NULL;
  np_buf_put(b);
  answer(r, &f, RIG_PEER);
  assert_int_equal(r->sent_count, 2);
  assert_int_equal(r->sent[1].b[34], 'x');
  rig_free(r);
}

/* REACHABLE, STALE, DELAY, PROBE and what ends each (RFC 4861 §7.3.3). */
static void test_nud(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_ip_config config = {.seed = 4};
    struct rig *r = rig_usual(&config);
    struct family f = family(v6);
    struct np_path path = {0};
    resolve(r, &f, &path);
    rig_send(r, &f.us, &f.peer, &path);
    assert_int_not_equal(path.link_len, 0);
    rig_advance(r, 14 * RIG_S); /* less than any ReachableTime */
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_REACHABLE);
    for (uint32_t i = 0; i < 10; i++) { /* TCP confirms: stays so */
      np_ip_confirm(r->ip, &path, r->now_ns);
      rig_advance(r, 10 * RIG_S);
      assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_REACHABLE);
    }
    rig_advance(r, 46 * RIG_S);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_STALE);
    r->sent_count = 0;
    rig_send(r, &f.us, &f.peer, &path); /* with the path still valid */
    assert_int_equal(r->sent_count, 1);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_DELAY);
    np_ip_confirm(r->ip, &path, r->now_ns);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_REACHABLE);
    rig_advance(r, 46 * RIG_S);
    rig_send(r, &f.us, &f.peer, &path);
    r->sent_count = 0;
    rig_advance(r, 5100 * RIG_MS);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_PROBE);
    assert_int_equal(r->sent_count, 1);
    assert_true(is_question(&r->sent[0], &f, true));
    assert_int_equal(answer(r, &f, RIG_PEER), RIG_DONE);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_REACHABLE);
    rig_advance(r, 46 * RIG_S);
    rig_send(r, &f.us, &f.peer, &path);
    r->sent_count = 0;
    rig_advance(r, 7900 * RIG_MS);
    assert_int_equal(r->sent_count, 3);
    rig_advance(r, 300 * RIG_MS);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_FAILED);
    rig_send(r, &f.us, &f.peer, &path); /* the old path is not used */
    assert_int_equal(path.link_len, 0);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_INCOMPLETE);
    rig_free(r);
  }
}

static void test_stale_ages_out(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 5};
  struct rig *r = rig_usual(&config);
  struct family f = family(true);
  struct np_path path = {0};
  resolve(r, &f, &path);
  rig_advance(r, 700 * RIG_S);
  assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_FREE);
  rig_free(r);
}

static void test_arp_reply(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 6};
  struct rig *r = rig_usual(&config);
  struct family f = family(false);
  struct frame fr;
  frame_arp(&fr, 1, RIG_ALL, RIG_PEER, &f.peer, &f.us);
  fr.len += 18; /* padding to 60 bytes */
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  assert_int_equal(r->sent_count, 1);
  const uint8_t *s = r->sent[0].b;
  assert_int_equal(r->sent[0].len, 42);
  assert_memory_equal(s, RIG_PEER, 6);
  assert_memory_equal(s + 6, RIG_US, 6);
  assert_int_equal(s[21], 2);
  assert_memory_equal(s + 22, RIG_US, 6);
  assert_memory_equal(s + 28, f.us.b + 12, 4);
  assert_memory_equal(s + 32, RIG_PEER, 6);
  assert_memory_equal(s + 38, f.peer.b + 12, 4);
  assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_STALE); /* RFC 826 merges */
  assert_int_equal(r->counters.counter[NP_C_ARP_RX], 1);
  /* A probe is answered and not learned; others' business is not ours. */
  struct np_addr zero = frame_v4(0, 0, 0, 0);
  frame_arp(&fr, 1, RIG_ALL, RIG_PEER, &zero, &f.us);
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  assert_int_equal(r->sent_count, 2);
  struct np_addr third = frame_v4(198, 18, 0, 3);
  frame_arp(&fr, 1, RIG_ALL, RIG_PEER, &third, &f.peer);
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ARP_NOT_FOR_US);
  assert_int_equal(rig_neigh(r, &third, NULL), NP_NEIGH_FREE);
  /* A sender that is not on the link gets its answer and no entry. */
  struct np_addr far = frame_v4(198, 19, 0, 3);
  frame_arp(&fr, 1, RIG_ALL, RIG_PEER, &far, &f.us);
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  assert_int_equal(rig_neigh(r, &far, NULL), NP_NEIGH_FREE);
  /* A group as sender is nonsense. */
  struct np_addr group = frame_v4(224, 0, 0, 1);
  frame_arp(&fr, 1, RIG_ALL, RIG_PEER, &group, &f.us);
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ARP_MALFORMED);
  /* Nobody takes our address. */
  static const uint8_t thief[6] = {0x02, 0, 0, 0, 0, 0x66};
  for (uint16_t op = 1; op <= 2; op++) {
    frame_arp(&fr, op, op == 1 ? RIG_ALL : RIG_US, thief, &f.us, &f.us);
    assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  }
  assert_int_equal(rig_neigh(r, &f.us, NULL), NP_NEIGH_FREE);
  rig_free(r);
}

/* Gratuitous messages change what is known and make nothing new. */
static void test_gratuitous(void **state) {
  (void)state;
  static const uint8_t moved[6] = {0x02, 0, 0, 0, 0, 0x22};
  static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
  struct np_addr all_nodes = {{0xff, 0x02, [15] = 1}};
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_ip_config config = {.seed = 7};
    struct rig *r = rig_usual(&config);
    struct family f = family(v6);
    struct frame fr;
    if (v6) {
      rig_nd(&fr, 136, all_nodes_mac, moved, &f.peer, &all_nodes, &f.peer, 0x20, 2);
    } else {
      frame_arp(&fr, 1, RIG_ALL, moved, &f.peer, &f.peer);
    }
    assert_int_equal(rig_rx(r, 3, &fr), v6 ? NP_DROP_ND_NOT_FOR_US : NP_DROP_ARP_NOT_FOR_US);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_FREE);
    struct np_path path = {0};
    resolve(r, &f, &path);
    rig_send(r, &f.us, &f.peer, &path);
    uint32_t generation = path.generation;
    assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
    struct np_neigh_info info;
    assert_int_equal(rig_neigh(r, &f.peer, &info), NP_NEIGH_STALE);
    assert_memory_equal(info.mac, moved, 6);
    r->sent_count = 0;
    rig_send(r, &f.us, &f.peer, &path);
    assert_int_not_equal(path.generation, generation);
    assert_memory_equal(r->sent[0].b, moved, 6);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_DELAY);
    rig_free(r);
  }
}

/* The table of RFC 4861 §7.2.5 for an entry that is REACHABLE. */
static void test_na_rules(void **state) {
  (void)state;
  static const uint8_t other[6] = {0x02, 0, 0, 0, 0, 0x33};
  static const struct {
    uint8_t flags;
    bool same_mac;
    uint8_t opt;
    enum np_neigh_state after;
    bool takes;
  } row[] = {
      {0x00, true, 2, NP_NEIGH_REACHABLE, false},  {0x40, true, 2, NP_NEIGH_REACHABLE, false},
      {0x00, false, 2, NP_NEIGH_STALE, false},     {0x40, false, 2, NP_NEIGH_STALE, false},
      {0x20, false, 2, NP_NEIGH_STALE, true},      {0x60, false, 2, NP_NEIGH_REACHABLE, true},
      {0x40, false, 0, NP_NEIGH_REACHABLE, false}, {0x20, true, 2, NP_NEIGH_REACHABLE, false},
  };
  for (size_t i = 0; i < NP_COUNT_OF(row); i++) {
    struct np_ip_config config = {.seed = 8};
    struct rig *r = rig_usual(&config);
    struct family f = family(true);
    struct np_path path = {0};
    resolve(r, &f, &path);
    struct frame fr;
    rig_nd(&fr, 136, RIG_US, row[i].same_mac ? RIG_PEER : other, &f.peer, &f.us, &f.peer, row[i].flags, row[i].opt);
    assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
    struct np_neigh_info info;
    assert_int_equal(rig_neigh(r, &f.peer, &info), row[i].after);
    assert_memory_equal(info.mac, row[i].takes ? other : RIG_PEER, 6);
    rig_free(r);
  }
}

static void test_ns(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 9};
  struct rig *r = rig_usual(&config);
  struct family f = family(true);
  struct frame fr;
  static const uint8_t group_mac[6] = {0x33, 0x33, 0xff, 0, 0, 1};
  static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
  struct np_addr group = {{0xff, 0x02, [11] = 1, [12] = 0xff, [15] = 1}};
  struct np_addr none = {{0}};
  struct np_pkt pkt;
  rig_nd(&fr, 135, group_mac, RIG_PEER, &f.peer, &group, &f.us, 0, 1);
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  assert_int_equal(r->sent_count, 1);
  rig_parse(&r->sent[0], &pkt);
  const uint8_t *s = r->sent[0].b;
  assert_memory_equal(s, RIG_PEER, 6);
  assert_true(np_addr_eq(&pkt.flow.local, &f.peer));
  assert_true(np_addr_eq(&pkt.flow.remote, &f.us));
  assert_int_equal(pkt.ttl, 255);
  assert_int_equal(s[54], 136);
  assert_int_equal(s[58], 0x60);
  assert_memory_equal(s + 62, f.us.b, 16);
  assert_int_equal(s[78], 2);
  assert_memory_equal(s + 80, RIG_US, 6);
  assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_STALE);
  /* Somebody looks whether our address is taken: all nodes hear the answer. */
  rig_nd(&fr, 135, group_mac, RIG_PEER, &none, &group, &f.us, 0, 0);
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  rig_parse(&r->sent[1], &pkt);
  assert_memory_equal(r->sent[1].b, all_nodes_mac, 6);
  assert_int_equal(r->sent[1].b[58], 0x20);
  /* Without a source option the frame's source is answered, and nothing learned. */
  struct np_addr third = frame_v6(3);
  rig_nd(&fr, 135, RIG_US, RIG_PEER, &third, &f.us, &f.us, 0, 0);
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  assert_int_equal(rig_neigh(r, &third, NULL), NP_NEIGH_FREE);
  assert_int_equal(r->counters.counter[NP_C_ND_RX], 3);
  rig_free(r);
}

/* What RFC 4861 §7.1 forbids. */
static void test_nd_malformed(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 10};
  struct rig *r = rig_usual(&config);
  struct family f = family(true);
  struct np_addr none = {{0}};
  struct np_addr all_nodes = {{0xff, 0x02, [15] = 1}};
  static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
  struct frame fr;
  for (uint8_t type = 135; type <= 136; type++) {
    for (uint32_t how = 0; how < 6; how++) {
      rig_nd(&fr, type, RIG_US, RIG_PEER, &f.peer, &f.us, type == 135 ? &f.us : &f.peer, 0x40, type == 135 ? 1 : 2);
      switch (how) {
        case 0: fr.b[21] = 254; break;             /* hop limit: came through a router */
        case 1: fr.b[55] = 1; break;               /* code */
        case 2: fr.len -= 9; break;                /* cut: no whole target */
        case 3: fr.b[79] = 0; break;               /* option of length 0 */
        case 4: fr.b[79] = 2; break;               /* option longer than the packet */
        default: fr.b[62] = 0xff; break;           /* target is a group */
      }
      frame_finish(&fr, 58);
      assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ND_MALFORMED);
    }
  }
  /* No address, yet it names one, or asks one host. */
  rig_nd(&fr, 135, RIG_US, RIG_PEER, &none, &f.us, &f.us, 0, 0);
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ND_MALFORMED);
  struct np_addr group = {{0xff, 0x02, [11] = 1, [12] = 0xff, [15] = 1}};
  rig_nd(&fr, 135, all_nodes_mac, RIG_PEER, &none, &group, &f.us, 0, 1);
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ND_MALFORMED);
  rig_nd(&fr, 136, RIG_US, RIG_PEER, &none, &f.us, &f.peer, 0, 2);
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ND_MALFORMED);
  rig_nd(&fr, 136, all_nodes_mac, RIG_PEER, &f.peer, &all_nodes, &f.peer, 0x40, 2); /* "solicited" to all */
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ND_MALFORMED);
  rig_nd(&fr, 135, RIG_US, RIG_PEER, &f.peer, &f.us, &f.peer, 0, 1);
  assert_int_equal(rig_rx(r, 3, &fr), NP_DROP_ND_NOT_FOR_US);
  assert_int_equal(r->sent_count, 0);
  rig_free(r);
}

/* A flood of askers and of unresolvable destinations: the table stays its size and keeps who
 * answered us. */
static void test_flood(void **state) {
  (void)state;
  for (int v6 = 0; v6 < 2; v6++) {
    struct np_ip_config config = {.seed = 11, .neigh_max = 16, .neigh_queue_pkts = 4};
    struct rig *r = rig_usual(&config);
    struct family f = family(v6);
    struct np_path path = {0};
    resolve(r, &f, &path);
    rig_send(r, &f.us, &f.peer, &path);
    uint32_t generation = path.generation;
    for (uint32_t i = 10; i < 250; i++) {
      uint8_t mac[6] = {0x02, 0, 0, 0, 1, (uint8_t)i};
      struct family from = f;
      from.peer = v6 ? frame_v6((uint16_t)i) : frame_v4(198, 18, 0, (uint8_t)i);
      struct frame fr;
      if (v6) {
        rig_nd(&fr, 135, RIG_US, mac, &from.peer, &f.us, &f.us, 0, 1);
      } else {
        frame_arp(&fr, 1, RIG_ALL, mac, &from.peer, &f.us);
      }
      assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
      from.peer.b[13] = v6 ? 1 : from.peer.b[13];
      if (i % 2) assert_int_equal(rig_send(r, &f.us, &from.peer, NULL), NP_ERR_OK);
      assert_true(r->counters.counter[NP_C_NEIGH_ENTRIES] <= 16);
      r->sent_count = 0;
    }
    assert_int_equal(r->counters.counter[NP_C_NEIGH_ENTRIES], 16);
    assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_REACHABLE);
    rig_send(r, &f.us, &f.peer, &path);
    assert_int_equal(path.generation, generation); /* the flood did not cost us our path either */
    rig_free(r);
  }
}

/* Sixteen that answered and one more: an idle one makes room, a busy one does not. */
static void test_full_of_friends(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 12, .neigh_max = 16};
  struct rig *r = rig_usual(&config);
  struct family f = family(false);
  for (uint8_t i = 0; i < 16; i++) {
    f.peer = frame_v4(198, 18, 0, (uint8_t)(100 + i));
    rig_send(r, &f.us, &f.peer, NULL);
    answer(r, &f, RIG_PEER);
  }
  struct np_addr late = frame_v4(198, 18, 0, 200);
  assert_int_equal(rig_send(r, &f.us, &late, NULL), NP_ERR_FULL);
  assert_int_equal(r->counters.drop[NP_DROP_NEIGH_QUEUE], 1);
  rig_advance(r, 46 * RIG_S); /* all STALE */
  assert_int_equal(rig_send(r, &f.us, &late, NULL), NP_ERR_OK);
  assert_int_equal(rig_neigh(r, &late, NULL), NP_NEIGH_INCOMPLETE);
  assert_int_equal(r->counters.counter[NP_C_NEIGH_ENTRIES], 16);
  rig_free(r);
}

static void test_empty_pool(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 13};
  struct rig *r = rig_usual(&config);
  struct family f = family(true);
  struct np_buf *taken[RIG_BUFS];
  uint32_t n = 0;
  struct np_buf *last = np_pool_get(&r->pool);
  while (r->pool.free_count > 0) taken[n++] = np_pool_get(&r->pool);
  memset(np_buf_append(last, 10), 'x', 10);
  last->refs++;
  /* No buffer for the question, none for the copy: counted, and nothing is lost. */
  assert_int_equal(np_ip_output(r->ip, last, &f.us, &f.peer, 253, 0, NULL, r->now_ns), NP_ERR_OK);
  assert_int_equal(r->counters.drop[NP_DROP_NEIGH_QUEUE], 1);
  assert_int_equal(r->counters.counter[NP_C_BUF_EMPTY], 2);
  np_buf_put(last);
  while (n > 0) np_buf_put(taken[--n]);
  rig_advance(r, 1100 * RIG_MS); /* the timer asks */
  assert_int_equal(r->sent_count, 1);
  rig_free(r);
}

static void test_down_forgets(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 14};
  struct rig *r = rig_usual(&config);
  struct family f = family(true);
  struct np_path path = {0};
  resolve(r, &f, &path);
  rig_send(r, &f.us, &f.peer, &path);
  assert_int_equal(np_ip_iface_up(r->ip, 0, false, r->now_ns), NP_ERR_OK);
  assert_int_equal(rig_neigh(r, &f.peer, NULL), NP_NEIGH_FREE);
  assert_int_equal(rig_send(r, &f.us, &f.peer, &path), NP_ERR_PORTDOWN);
  assert_int_equal(r->counters.drop[NP_DROP_TX_PORT_DOWN], 1);
  r->sent_count = 0;
  /* Up again: every address is announced. */
  assert_int_equal(np_ip_iface_up(r->ip, 0, true, r->now_ns), NP_ERR_OK);
  assert_int_equal(r->sent_count, 3);
  uint32_t arps = 0;
  for (uint32_t i = 0; i < 3; i++) {
    struct np_pkt pkt;
    rig_parse(&r->sent[i], &pkt);
    const uint8_t *s = r->sent[i].b;
    if (pkt.l4_proto == NP_PROTO_ARP) {
      arps++;
      assert_memory_equal(s + 28, s + 38, 4); /* sender is target */
    } else {
      assert_int_equal(s[54], 136);
      assert_int_equal(s[58], 0x20);
      assert_int_equal(pkt.ttl, 255);
    }
  }
  assert_int_equal(arps, 1);
  rig_free(r);
}

/* The link-local address is the kernel's too, on the same MAC: an answer sent there may go to
 * the kernel. So questions are asked from an address that is ours alone, while there is one. */
static void test_asks_from_own_address(void **state) {
  (void)state;
  struct np_ip_config config = {.seed = 31};
  struct rig *r = rig_usual(&config);
  struct np_addr us = frame_v6(1);
  struct np_addr ll = {{0xfe, 0x80, [11] = 0xff, [12] = 0xfe, [15] = 1}};
  struct np_addr router = {{0xfe, 0x80, [15] = 0x99}};
  struct np_addr far = {{0x20, 0x01, 0x0d, 0xb8, 0x99, [15] = 1}};
  assert_int_equal(np_ip_route_add(r->ip, &(struct np_addr){{0}}, 0, &router, 0), NP_ERR_OK);
  rig_send(r, &us, &far, NULL);
  assert_int_equal(r->sent_count, 1);
  assert_memory_equal(r->sent[0].b + 22, us.b, 16);
  assert_memory_equal(r->sent[0].b + 62, router.b, 16);
  struct frame fr;
  rig_nd(&fr, 136, RIG_US, RIG_PEER, &router, &us, &router, 0x60, 2);
  assert_int_equal(rig_rx(r, 3, &fr), RIG_DONE);
  assert_int_equal(rig_neigh(r, &router, NULL), NP_NEIGH_REACHABLE);
  assert_int_equal(np_ip_addr_del(r->ip, 0, &us), NP_ERR_OK);
  struct np_addr other = {{0xfe, 0x80, [15] = 0x98}};
  r->sent_count = 0;
  rig_send(r, &ll, &other, NULL);
  assert_int_equal(r->sent_count, 1);
  assert_memory_equal(r->sent[0].b + 22, ll.b, 16); /* better than nothing */
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_question_from_reserve), cmocka_unit_test(test_resolve_queue),  cmocka_unit_test(test_resolve_fails),
      cmocka_unit_test(test_queue_copies_shared), cmocka_unit_test(test_nud),
      cmocka_unit_test(test_stale_ages_out), cmocka_unit_test(test_arp_reply),
      cmocka_unit_test(test_gratuitous),     cmocka_unit_test(test_na_rules),
      cmocka_unit_test(test_ns),             cmocka_unit_test(test_nd_malformed),
      cmocka_unit_test(test_flood),          cmocka_unit_test(test_full_of_friends),
      cmocka_unit_test(test_empty_pool),     cmocka_unit_test(test_down_forgets),
      cmocka_unit_test(test_asks_from_own_address),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
