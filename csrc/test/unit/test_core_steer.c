/* A device with one queue under four cores: the core that has the queue gives segments to the core that their flow
 * names, and the others send by it. */
#include "core/lane.h"
#include "test/unit/core_rig.h"

#define CORES 4u
#define FLOWS 32u
#define HIGH_PORT 40001u /* a listener among the ports of outgoing connections */

static const uint8_t US[6] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t PEER[6] = {0x02, 0, 0, 0, 0, 2};

/* What left by the device, but for ARP, which is answered. */
struct wire {
  struct frame f[RIG_FRAMES];
  uint32_t count;
};

struct world {
  struct rig r[CORES];
  struct np_lane lane[CORES];
  uint64_t fed; /* frames that the device received */
  struct wire wire;
};

static void listen_at(struct rig *r, uint16_t port) {
  struct np_cmd_listen args = {.port = port, .session_kind = NP_SESSION_ECHO, .backlog = 64, .conns_max = 64};
  rig_ok(r, (struct np_cmd){.op = NP_CMD_LISTEN}, &args, sizeof args);
}

/* Every core knows the peer: no packet waits for its address. */
static void meet(struct np_core *core) {
  struct frame f;
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  frame_arp(&f, NP_ARP_REQUEST, US, PEER, &from, &to);
  np_mail_observe(core, 0, f.b, f.len);
}

/* queues: cores that have one; each of the others has a lane to the first. */
static struct world *start(uint32_t queues, uint32_t bufs) {
  struct world *w = calloc(1, sizeof *w);
  assert_non_null(w);
  struct np_plane_config c = rig_config();
  struct np_core *cores[CORES];
  c.cores = CORES;
  if (bufs != 0) c.bufs_per_core = bufs;
  for (uint32_t i = 0; i < CORES; i++) {
    rig_init(&w->r[i], &c, i);
    cores[i] = w->r[i].core;
  }
  np_mail_join(cores, CORES);
  for (uint32_t i = 0; i < CORES; i++) {
    struct np_port_queue *q = &w->r[i].port.q;
    if (i >= queues) {
      np_lane_init(&w->lane[i], cores[i], cores[0], &w->r[0].port.q);
      q = &w->lane[i].q;
    }
    rig_interface(&w->r[i], q, US, 1);
    if (i < queues) np_steer_attach(cores[i], 0);
    listen_at(&w->r[i], 7);
    listen_at(&w->r[i], HIGH_PORT);
    meet(cores[i]);
  }
  return w;
}

static void feed_at(struct world *w, uint32_t core, const struct frame *f) {
  rig_in(&w->r[core], f);
  w->fed++;
}

static void feed(struct world *w, const struct frame *f) { feed_at(w, 0, f); }

static void arp_reply(struct world *w) {
  struct np_addr from = rig_v4(2);
  struct np_addr to = rig_v4(1);
  struct frame f;
  frame_arp(&f, NP_ARP_REPLY, US, PEER, &from, &to);
  memcpy(f.b + f.l3 + offsetof(struct np_arp_pkt, target_mac), US, 6);
  feed(w, &f);
}

static void collect(struct world *w, struct rig_port *p) {
  for (uint32_t i = 0; i < p->out_count; i++) {
    const struct frame *f = &p->out[i];
    if (np_load_be16(f->b + 12) == 0x0806) {
      if (np_load_be16(f->b + 20) == 1 && f->b[41] == 2) arp_reply(w);
      continue;
    }
    if (np_load_be16(f->b + 12) != 0x0800) continue; /* neighbor discovery's */
    assert_true(w->wire.count < RIG_FRAMES);
    w->wire.f[w->wire.count++] = *f;
  }
  p->out_count = 0;
}

static void turns(struct world *w, uint32_t n) {
  for (uint32_t k = 0; k < n; k++) {
    for (uint32_t i = 0; i < CORES; i++) rig_turn(&w->r[i], 1000);
    for (uint32_t i = 0; i < CORES; i++) collect(w, &w->r[i].port);
  }
}

/* Frames in the device, each received once and by as many cores more as it was given to. */
static void ledger(struct world *w) {
  uint64_t received = 0;
  uint64_t given = 0;
  for (uint32_t i = 0; i < CORES; i++) {
    rig_ledger(&w->r[i]);
    received += rig_counter(&w->r[i], NP_C_RX_PKTS);
    given += rig_counter(&w->r[i], NP_C_STEERED) + rig_counter(&w->r[i], NP_C_HANDED_ON);
  }
  assert_int_equal(received, w->fed + given);
}

static void end(struct world *w) {
  for (uint32_t i = 0; i < CORES; i++) assert_int_equal(w->r[i].core->lane_told, 0);
  ledger(w);
  for (uint32_t i = CORES; i-- > 0;) rig_free(&w->r[i]); /* lanes before whom they lead to */
  free(w);
}

static struct frame segment(uint16_t from, uint16_t to, uint8_t flags, uint32_t seq, uint32_t ack, const char *data) {
  struct frame f;
  struct np_addr src = rig_v4(2);
  struct np_addr dst = rig_v4(1);
  frame_eth(&f, US, PEER, 0, 0x0800);
  frame_ip(&f, &src, &dst, 6, 64);
  frame_tcp(&f, from, to, flags, data, (uint32_t)strlen(data));
  np_store_be32(f.b + f.l4 + 4, seq);
  np_store_be32(f.b + f.l4 + 8, ack);
  frame_finish(&f, 6);
  return f;
}

/* The frame to a port of the peer's with all of these flags. */
static const struct frame *sent_to(const struct world *w, uint16_t port, uint8_t flags) {
  for (uint32_t i = 0; i < w->wire.count; i++) {
    const struct frame *f = &w->wire.f[i];
    if (f->b[23] == 6 && np_load_be16(f->b + 36) == port && (f->b[47] & flags) == flags) return f;
  }
  return NULL;
}

static uint64_t sum(const struct world *w, enum np_counter c) {
  uint64_t n = 0;
  for (uint32_t i = 0; i < CORES; i++) n += rig_counter(&w->r[i], c);
  return n;
}

static uint32_t conns(const struct world *w, uint32_t core) { return np_tcp_conn_count(np_core_tcp(w->r[core].core)); }

/* Opens connections, has each echo a word, and ends them, each segment at another of the queues. */
static void echo_flows(struct world *w, uint16_t first, uint16_t port, uint32_t queues) {
  uint32_t isn[FLOWS];
  for (uint32_t k = 0; k < FLOWS; k++) {
    struct frame f = segment((uint16_t)(first + k), port, 0x02, 1000, 0, "");
    feed_at(w, k % queues, &f);
  }
  turns(w, 8);
  for (uint32_t k = 0; k < FLOWS; k++) {
    const struct frame *syn = sent_to(w, (uint16_t)(first + k), 0x12);
    assert_non_null(syn);
    isn[k] = np_load_be32(syn->b + 38);
    struct frame f = segment((uint16_t)(first + k), port, 0x18, 1001, isn[k] + 1, "hello");
    feed_at(w, (k + 1) % queues, &f);
  }
  w->wire.count = 0;
  turns(w, 8);
  for (uint32_t k = 0; k < FLOWS; k++) {
    const struct frame *f = sent_to(w, (uint16_t)(first + k), 0x10);
    assert_non_null(f);
    assert_memory_equal(f->b + f->len - 5, "hello", 5);
  }
  w->wire.count = 0;
  for (uint32_t i = 0; i < CORES; i++) assert_true(conns(w, i) > 0);
  ledger(w);
  for (uint32_t k = 0; k < FLOWS; k++) {
    struct frame f = segment((uint16_t)(first + k), port, 0x04, 1006, 0, "");
    feed_at(w, (k + 2) % queues, &f);
  }
  turns(w, 4);
  for (uint32_t i = 0; i < CORES; i++) assert_int_equal(conns(w, i), 0);
  assert_null(sent_to(w, (uint16_t)first, 0x04));
  w->wire.count = 0;
}

static void test_one_queue(void **state) {
  (void)state;
  struct world *w = start(1, 0);
  echo_flows(w, 10000, 7, 1);
  echo_flows(w, 20000, HIGH_PORT, 1);
  assert_int_equal(sum(w, NP_C_HANDED_ON), 0); /* each by one hop, none astray */
  assert_true(rig_counter(&w->r[0], NP_C_STEERED) > 3 * FLOWS);
  assert_true(rig_counter(&w->r[0], NP_C_LANE_TX) > 2 * FLOWS);
  for (uint32_t i = 1; i < CORES; i++) {
    assert_int_equal(rig_counter(&w->r[i], NP_C_STEERED), 0);
    assert_int_equal(w->r[i].port.flushes, 0);
  }
  for (uint32_t i = 0; i < CORES; i++) rig_quiet(&w->r[i]);
  end(w);
}

/* Queues whose device steers as it likes: a SYN here, its data there. */
static void test_wrong_queues(void **state) {
  (void)state;
  struct world *w = start(3, 0);
  echo_flows(w, 10000, 7, 3);
  assert_int_equal(sum(w, NP_C_HANDED_ON), 0);
  assert_int_equal(sum(w, NP_C_TCP_OPEN_PASSIVE), FLOWS);
  end(w);
}

/* A connection that a core without a queue opens. */
static void test_outgoing(void **state) {
  (void)state;
  struct world *w = start(1, 0);
  for (uint32_t i = 0; i < CORES; i++) {
    struct np_cmd_connect args = {.remote_port = 80, .session_kind = NP_SESSION_PIPE};
    struct np_addr peer = rig_v4(2);
    memcpy(args.remote, peer.b, 16);
    struct np_event ev = rig_command(&w->r[i], (struct np_cmd){.op = NP_CMD_CONNECT}, &args, sizeof args);
    assert_int_equal(ev.err, NP_ERR_OK);
    turns(w, 4);
    const struct frame *syn = sent_to(w, 80, 0x02);
    assert_non_null(syn);
    uint16_t port = np_load_be16(syn->b + 34);
    assert_int_equal((port - NP_PORT_EPHEMERAL_MIN) % CORES, i);
    struct frame f = segment(80, port, 0x12, 5000, np_load_be32(syn->b + 38) + 1, "");
    w->wire.count = 0;
    feed(w, &f);
    turns(w, 2);
    assert_true(rig_event(&w->r[i], &ev));
    assert_int_equal(ev.op, NP_EV_OPEN);
    struct np_cmd cmd = {.op = NP_CMD_FREE, .body = ev.body};
    rig_submit(&w->r[i], &cmd, NULL, 0);
    assert_int_equal(conns(w, i), 1);
  }
  assert_int_equal(sum(w, NP_C_HANDED_ON), 0);
  assert_int_equal(rig_counter(&w->r[0], NP_C_STEERED), CORES - 1);
  turns(w, 1);
  end(w);
}

/* A core that does not turn: what finds no room is dropped by name, nothing else is. */
static void test_full(void **state) {
  (void)state;
  struct world *w = start(1, 0);
  uint32_t n = 0;
  for (; n < 40000 && rig_drop(&w->r[0], NP_DROP_STEER_FULL) == 0; n += 16) {
    for (uint32_t k = 0; k < 16; k++) {
      struct frame f = segment((uint16_t)(2000 + (n + k) % 1024), 7, 0x04, 1, 0, "");
      feed(w, &f);
    }
    rig_turn(&w->r[0], 1000);
    rig_ledger(&w->r[0]);
  }
  assert_true(rig_drop(&w->r[0], NP_DROP_STEER_FULL) > 0);
  assert_true(rig_counter(&w->r[0], NP_C_STEERED) >= 2048);
  turns(w, 4 + 2048 / NP_BURST);
  for (uint32_t i = 0; i < CORES; i++) assert_false(np_core_must_run(w->r[i].core));
  end(w);
}

/* Cores without buffers: the frame is received there, and dropped by name. */
static void test_no_buffers(void **state) {
  (void)state;
  struct world *w = start(1, 0);
  struct np_buf *held[CORES] = {0};
  for (uint32_t i = 1; i < CORES; i++) {
    for (struct np_buf *b = np_pool_get(np_core_pool(w->r[i].core)); b != NULL; b = np_pool_get(np_core_pool(w->r[i].core))) {
      b->next = held[i];
      held[i] = b;
    }
  }
  for (uint32_t k = 0; k < FLOWS; k++) {
    struct frame f = segment((uint16_t)(10000 + k), 7, 0x02, 1000, 0, "");
    feed(w, &f);
  }
  turns(w, 4);
  uint64_t dropped = 0;
  for (uint32_t i = 1; i < CORES; i++) {
    dropped += rig_drop(&w->r[i], NP_DROP_NO_BUFFER);
    np_buf_put_chain(held[i]);
  }
  assert_int_equal(dropped, rig_counter(&w->r[0], NP_C_STEERED));
  assert_true(dropped > 0);
  end(w);
}

/* The device goes: cores with lanes know; what is under way is a drop by name. It comes back. */
static void test_down(void **state) {
  (void)state;
  struct world *w = start(1, 0);
  echo_flows(w, 10000, 7, 1);
  w->r[0].port.q.down = true;
  turns(w, 2);
  for (uint32_t i = 0; i < CORES; i++) {
    struct np_event ev;
    assert_true(rig_event(&w->r[i], &ev));
    assert_int_equal(ev.op, NP_EV_PORT);
    assert_int_equal(ev.err, NP_ERR_PORTDOWN);
    assert_int_equal(w->lane[i].q.down, i > 0);
  }
  w->r[0].port.q.down = false;
  turns(w, 2);
  for (uint32_t i = 0; i < CORES; i++) {
    struct np_event ev;
    assert_true(rig_event(&w->r[i], &ev));
    assert_int_equal(ev.op, NP_EV_PORT);
    assert_int_equal(ev.err, NP_ERR_OK);
  }
  turns(w, 2);
  for (uint32_t i = 0; i < CORES; i++) meet(w->r[i].core); /* forgotten with the link */
  echo_flows(w, 11000, 7, 1);
  /* Detached between a lane's sending and its own: counted there. */
  struct np_buf *b = np_pool_get(np_core_pool(w->r[2].core));
  memset(np_buf_append(b, 60), 0, 60);
  np_core_xmit(w->r[2].core, 0, b);
  rig_turn(&w->r[2], 1000);
  assert_int_equal(np_core_detach(w->r[0].core, 0), NP_ERR_OK);
  turns(w, 2);
  assert_int_equal(rig_drop(&w->r[0], NP_DROP_TX_PORT_DOWN), 1);
  assert_true(w->lane[2].q.down);
  assert_int_equal(w->r[0].core->steer, 0);
  end(w);
}

/* A segment in two IP fragments is put together where it comes in, and goes on whole. */
static void test_fragments(void **state) {
  (void)state;
  struct world *w = start(1, 0);
  static const char word[] = "0123456789abcdefghijklmnopqrstuv";
  uint32_t given = 0;
  for (uint16_t k = 0; k < 16; k++) {
    struct frame f = segment((uint16_t)(10000 + k), 7, 0x02, 1000, 0, word);
    struct frame a = f;
    struct frame b = f;
    uint32_t cut = 24; /* of the IP payload */
    a.len = a.l4 + cut;
    np_store_be16(a.b + a.l3 + 2, (uint16_t)(20 + cut));
    np_store_be16(a.b + a.l3 + 4, (uint16_t)(77 + k));
    np_store_be16(a.b + a.l3 + 6, 0x2000);
    frame_ip4_sum(&a);
    b.len = f.len - cut;
    memmove(b.b + b.l4, f.b + f.l4 + cut, f.len - f.l4 - cut);
    np_store_be16(b.b + b.l3 + 2, (uint16_t)(b.len - b.l3));
    np_store_be16(b.b + b.l3 + 4, (uint16_t)(77 + k));
    np_store_be16(b.b + b.l3 + 6, (uint16_t)(cut / 8));
    frame_ip4_sum(&b);
    feed(w, &b);
    feed(w, &a);
    turns(w, 4);
    assert_non_null(sent_to(w, (uint16_t)(10000 + k), 0x12));
  }
  for (uint32_t i = 1; i < CORES; i++) given += conns(w, i);
  assert_true(given > 0);
  assert_int_equal(given, rig_counter(&w->r[0], NP_C_STEERED));
  end(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_queue), cmocka_unit_test(test_wrong_queues), cmocka_unit_test(test_outgoing),
      cmocka_unit_test(test_full),      cmocka_unit_test(test_no_buffers),   cmocka_unit_test(test_down),
      cmocka_unit_test(test_fragments),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
