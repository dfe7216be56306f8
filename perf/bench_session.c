/* NPRO sessions alone: ns per ECHO answered on the core, from received chain to
 * chain handed to the stream: header, open, handle, seal. No network below.
 *
 *   taskset -c 1 build/release/perf/bench_session [--rounds N]
 *
 * 64 connections, one request each per turn. The requests of a turn are sealed
 * before the clock starts; the figure is the median over the rounds. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define RIG_KEYS 4096u
#define RIG_BUFS 4096u
#define RIG_EVENTS 1024u
#define RIG_LOANS 64u
#include "test/unit/session_rig.h"

enum { CONNS = 64, TURNS = 200, ROUNDS_MAX = 101 };

struct sink {
  struct np_stream stream;
  struct np_session *session;
  struct np_record_dir tx;
  uint32_t next_id;
};

static uint64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t sink_room(struct np_stream *s) { return (void)s, 1u << 20; }
static enum np_err sink_send(struct np_stream *s, struct np_buf *chain, uint32_t flags) {
  (void)s;
  (void)flags;
  np_buf_put_chain(chain);
  return NP_ERR_OK;
}
static void sink_consumed(struct np_stream *s, uint32_t bytes) { (void)s, (void)bytes; }
static void sink_none(struct np_stream *s) { (void)s; }
static void sink_info(const struct np_stream *s, struct np_conn_info *out) { (void)s, (void)out; }
static const struct np_stream_ops sink_ops = {
    .room = sink_room, .send = sink_send, .consumed = sink_consumed, .shutdown = sink_none,
    .abort = sink_none, .detach = sink_none, .info = sink_info,
};

static void open_one(struct rig *r, struct sink *k, uint32_t i, uint8_t aead) {
  k->stream = (struct np_stream){.ops = &sink_ops, .handle = 0x100000000u + i, .seg_bytes = 1448};
  k->session = np_session_new(r->sessions, NP_SESSION_NPRO, &k->stream, 0x77, r->now_ns);
  k->stream.session = k->session;
  k->next_id = 1;
  rig_run(r);
  struct np_buf *b = np_pool_get(&r->pool);
  static const uint8_t hs[17] = {'N', 'P', 'R', 'O', 2, 0, 0, 0, 0, 1, NP_NPRO_HANDSHAKE_1, 0, 0, 0, 0, 0, 9};
  memcpy(np_buf_append(b, sizeof hs), hs, sizeof hs);
  k->session->ops->data(k->session, b, sizeof hs);
  rig_run(r);
  struct np_npro_keys keys = rig_keys(1);
  keys.aead = aead;
  keys.rekey_records = UINT64_C(1) << 40;
  keys.conn_window_tx_bytes = 0x7fffffff; /* nobody returns credit here */
  struct np_cmd cmd = {.op = NP_CMD_KEYS, .body_bytes = sizeof keys};
  struct np_buf *body = rig_lend(r, &keys, sizeof keys);
  np_assert(np_sessions_command(r->sessions, k->session, &cmd, body, r->now_ns, NULL) == NP_ERR_OK);
  np_assert(np_record_dir_init(r->crypto, &k->tx, (enum np_aead)aead, keys.rx_key) == NP_ERR_OK);
  rig_run(r);
  rig_clear(r);
  r->event_room = RIG_EVENTS;
}

/* A sealed ECHO request in one buffer. */
static struct np_buf *ask(struct rig *r, struct sink *k, uint32_t payload) {
  struct np_buf *b = np_pool_get(&r->pool);
  b->data_off += 66;
  uint32_t n = 5 + payload;
  uint8_t *p = np_buf_append(b, 16 + n + 16);
  memcpy(p + 16, "\4ECHO", 5);
  memset(p + 21, 0x5a, payload);
  struct np_frame f = {.type = NP_NPRO_REQUEST, .flags = NP_NPRO_F_ENC | NP_NPRO_F_END, .stream = k->next_id, .length = n + 16};
  k->next_id += 2;
  struct np_record rec = {.dir = &k->tx, .buf = b, .body_off = 16, .body_bytes = n};
  np_frame_encode(&f, rec.header);
  memcpy(p, rec.header, 16);
  np_record_seal(r->crypto, &rec, 1);
  return b;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static void measure(uint8_t aead, const char *name, uint32_t payload, uint32_t rounds) {
  struct rig *r = rig_new(CONNS, 64);
  static struct sink sinks[CONNS];
  double ns[ROUNDS_MAX];
  for (uint32_t i = 0; i < CONNS; i++) open_one(r, &sinks[i], i, aead);
  for (uint32_t round = 0; round < rounds; round++) {
    uint64_t spent = 0;
    for (uint32_t turn = 0; turn < TURNS; turn++) {
      struct np_buf *in[CONNS];
      for (uint32_t i = 0; i < CONNS; i++) in[i] = ask(r, &sinks[i], payload);
      uint64_t t0 = clock_ns();
      for (uint32_t i = 0; i < CONNS; i++) sinks[i].session->ops->data(sinks[i].session, in[i], in[i]->len);
      rig_run(r);
      spent += clock_ns() - t0;
    }
    ns[round] = (double)spent / (CONNS * TURNS);
  }
  uint64_t want = (uint64_t)rounds * TURNS * CONNS;
  np_assert(r->counters.counter[NP_C_NPRO_ECHOES] == want);
  qsort(ns, rounds, sizeof ns[0], by_value);
  printf("%-10s %5" PRIu32 " B  %8.1f ns/echo  (%.1f to %.1f)\n", name, payload, ns[rounds / 2], ns[0], ns[rounds - 1]);
  for (uint32_t i = 0; i < CONNS; i++) sinks[i].session->ops->closed(sinks[i].session, NP_ERR_EOF);
  rig_free(r);
}

int main(int argc, char **argv) {
  uint32_t rounds = 11;
  if (argc == 3 && strcmp(argv[1], "--rounds") == 0) rounds = (uint32_t)atoi(argv[2]);
  if (rounds < 1 || rounds > ROUNDS_MAX) {
    fprintf(stderr, "bench_session: --rounds 1 to %d\n", ROUNDS_MAX);
    return 2;
  }
  static const uint32_t sizes[] = {64, 256, 1400};
  for (uint32_t i = 0; i < NP_COUNT_OF(sizes); i++) measure(NP_AEAD_AES_256_GCM, "aes-gcm", sizes[i], rounds);
  for (uint32_t i = 0; i < NP_COUNT_OF(sizes); i++) measure(NP_AEAD_XCHACHA20_POLY1305, "xchacha", sizes[i], rounds);
  return 0;
}
