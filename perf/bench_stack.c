/* The stack alone: one core, no kernel, no other thread. A port in memory hands it
 * segments of N connections and takes what it sends; the clients behind it are a few
 * numbers each. Only the core's own work is timed.
 *
 *   bench_stack [--conns N] [--size BYTES] [--rounds R] [--hold N] [--depth D] [--discard 1] [--gro 0] [--ack 1] [--json]
 *   bench_stack --pipe 1 [--conns N] [--size BYTES] [--rounds R] [--depth D] [--json]
 *   bench_stack --send 1 [--conns N] [--rounds R] [--offload 1] [--json]
 *   bench_stack --idle SECONDS [--conns N] [--json]
 *
 * Default: 1,000 connections, 64 bytes echoed, 400 rounds. --hold opens N connections more
 * and says what an idle one costs. --depth: so many segments of a connection in a row. --discard: nothing is
 * echoed. --gro 0: segments are not joined.
 * --pipe 1: the echo is made by what stands for Go at the other end of the core's rings: an event, and commands to send,
 * credit and free for each; only the core's side is timed.
 * --send 1: the core sends chargen's lines on every connection; clients acknowledge every second segment. --offload 1:
 * by a port that gathers, cuts super-segments and sums. --idle SECONDS: what connections that say nothing cost, with
 * keep-alives after so long.
 * --ack: answers are acknowledged by segments of their own, which are not timed; without, by the connection's next
 * request, and so many buffers are held meanwhile that 16,000 connections are the most. Time: CLOCK_MONOTONIC around each turn of up to 64 segments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/chain.h"
#include "base/ring.h"
#include "core/core.h"
#include "ip/ip.h"
#include "session/session.h"
#include "tcp/tcp.h"
#include "wire/pkt.h"

#define BURST 64u
#define TX_MAX 4096u
#define PORTS_PER_IP 50000u
#define HDR 66u /* Ethernet 14, IPv4 20, TCP 20, timestamps 12 */

struct client {
  uint32_t snd_nxt;
  uint32_t rcv_nxt;
  uint32_t ts_recent;
  uint32_t acked; /* with --send */
  uint32_t due;   /* segments not acknowledged yet */
};

struct sent {
  struct np_buf *buf;
  uint32_t data_off;
  uint32_t len;
};

struct bench {
  struct np_port_queue q; /* first */
  struct np_core *core;
  struct client *client;
  uint32_t conns;
  struct np_buf *rx[BURST];
  uint32_t rx_count;
  struct sent tx[TX_MAX];
  uint32_t tx_count;
  uint64_t now_ns;
  uint64_t answers;
  uint64_t answer_bytes;
  uint32_t depth;
  bool ack;
  bool ack_probes; /* keep-alives are answered */
  uint64_t probes;
  uint32_t *probed; /* their connections, the last conns of them */
  uint64_t turn_ns; /* in settle */
  uint16_t port;
  uint32_t established;
  bool pipe;
};

static uint64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t port_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct bench *b = (struct bench *)(void *)q;
  uint32_t n = np_min_u32(max, b->rx_count);
  memcpy(out, b->rx, n * sizeof *out);
  memmove(b->rx, b->rx + n, (b->rx_count - n) * sizeof *out);
  b->rx_count -= n;
  return n;
}
static uint32_t port_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct bench *b = (struct bench *)(void *)q;
  uint32_t i = 0;
  for (; i < n && b->tx_count < TX_MAX; i++) b->tx[b->tx_count++] = (struct sent){bufs[i], bufs[i]->data_off, bufs[i]->len};
  return i;
}
static void port_flush(struct np_port_queue *q) { (void)q; }
static int port_fd(struct np_port_queue *q) {
  (void)q;
  return -1;
}
static bool port_busy(struct np_port_queue *q) { return ((struct bench *)(void *)q)->rx_count > 0; }
static const struct np_port_ops port_ops = {
    .name = "bench", .rx = port_rx, .tx = port_tx, .flush = port_flush, .fd = port_fd, .busy = port_busy};

static uint32_t fold(const uint8_t *p, uint32_t n, uint32_t sum) {
  for (uint32_t i = 0; i + 1 < n; i += 2) sum += (uint32_t)p[i] << 8 | p[i + 1];
  if (n & 1) sum += (uint32_t)p[n - 1] << 8;
  return sum;
}
static uint16_t finish(uint32_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

static struct np_buf *segment(struct bench *b, uint32_t conn, uint8_t flags, uint32_t payload) {
  static const uint8_t head[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0};
  struct client *c = &b->client[conn];
  struct np_buf *buf = np_pool_get(np_core_pool(b->core));
  if (!buf) return NULL;
  uint8_t *p = np_buf_append(buf, HDR + payload);
  memset(p, 0, HDR);
  memcpy(p, head, sizeof head);
  uint8_t *ip = p + 14;
  uint8_t *t = ip + 20;
  np_store_be16(ip + 2, (uint16_t)(52 + payload));
  ip[8] = 64;
  ip[9] = 6;
  np_store_be32(ip + 12, 0xc6120002u + conn / PORTS_PER_IP);
  np_store_be32(ip + 16, 0xc6120001u);
  np_store_be16(ip + 10, finish(fold(ip, 20, 0)));
  np_store_be16(t, (uint16_t)(10000 + conn % PORTS_PER_IP));
  np_store_be16(t + 2, b->port);
  np_store_be32(t + 4, c->snd_nxt);
  np_store_be32(t + 8, c->rcv_nxt);
  t[12] = 0x80;
  t[13] = flags;
  np_store_be16(t + 14, 65535);
  t[20] = flags & 2 ? 4 : 1; /* SACK permitted, as everybody says; NOP NOP */
  t[21] = flags & 2 ? 2 : 1;
  t[22] = 8;
  t[23] = 10;
  np_store_be32(t + 24, (uint32_t)(b->now_ns / 1000000u));
  np_store_be32(t + 28, c->ts_recent);
  memset(t + 32, 'x', payload);
  np_store_be16(t + 16, finish(fold(t, 32 + payload, fold(ip + 12, 8, 6 + 32 + payload))));
  c->snd_nxt += payload + ((flags & 2) != 0);
  return buf;
}

static void answer_arp(struct bench *b, const uint8_t *ask) {
  struct np_buf *buf = np_pool_get(np_core_pool(b->core));
  if (!buf || b->rx_count == BURST) {
    if (buf) np_buf_put(buf);
    return;
  }
  uint8_t *p = np_buf_append(buf, 60);
  memset(p, 0, 60);
  memcpy(p, ask + 6, 6);
  memcpy(p + 6, (uint8_t[]){2, 0, 0, 0, 0, 2}, 6);
  memcpy(p + 12, (uint8_t[]){8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 2}, 16);
  memcpy(p + 28, ask + 38, 4);  /* the address asked for is the sender's now */
  memcpy(p + 32, ask + 22, 10); /* and the asker the target */
  b->rx[b->rx_count++] = buf;
}

/* What the clients make of what the core sent. */
static void take_sent(struct bench *b) {
  for (uint32_t i = 0; i < b->tx_count; i++) {
    const uint8_t *p = (const uint8_t *)b->tx[i].buf + b->tx[i].data_off;
    if (np_load_be16(p + 12) == 0x0806) {
      if (np_load_be16(p + 20) == 1 && memcmp(p + 28, p + 38, 4) != 0) answer_arp(b, p);
    } else if (np_load_be16(p + 12) == 0x0800 && p[23] == 6) {
      uint32_t conn = (np_load_be32(p + 30) - 0xc6120002u) * PORTS_PER_IP + np_load_be16(p + 36) - 10000u;
      const uint8_t *t = p + 34;
      uint32_t hdr = (uint32_t)(t[12] >> 4) * 4;
      uint32_t len = np_load_be16(p + 16) - 20u - hdr;
      if (conn < b->conns) {
        struct client *c = &b->client[conn];
        if (t[13] & 2) c->rcv_nxt = np_load_be32(t + 4) + 1;
        else c->rcv_nxt += len;
        if (hdr >= 32 && !(t[13] & 2)) c->ts_recent = np_load_be32(t + 24);
        b->answers += len > 0;
        b->answer_bytes += len;
        c->due += len > 0 ? (len - 1) / (1460u - (hdr - 20u)) + 1u : 0; /* more than one: a super-segment */
        if (b->ack_probes && len == 0 && !(t[13] & 2)) b->probed[b->probes++ % b->conns] = conn;
      }
    }
    np_buf_put_chain(b->tx[i].buf);
  }
  b->tx_count = 0;
}

static void command(struct np_core_shared *s, struct np_cmd cmd) {
  if (np_ring_room(s->cmd, 1) == 0) abort();
  memcpy(np_ring_slot(s->cmd, 0), &cmd, sizeof cmd);
  np_ring_publish(s->cmd, 1);
}

/* What Go would do with the events of a turn. */
static void serve(struct bench *b) {
  struct np_core_shared *s = np_core_shared(b->core);
  while (np_ring_avail(s->event) > 0) {
    struct np_event ev;
    memcpy(&ev, np_ring_item(s->event, 0), sizeof ev);
    np_ring_consume(s->event, 1);
    if (ev.op == NP_EV_DATA) {
      struct np_loan loan;
      if (np_ring_avail(s->loan) == 0 || ev.body_bytes > 1792) abort();
      memcpy(&loan, np_ring_item(s->loan, 0), sizeof loan);
      np_ring_consume(s->loan, 1);
      np_buf_copy(ev.body, 0, np_buf_append(loan.buf, ev.body_bytes), ev.body_bytes);
      loan.buf->next = NULL;
      command(s, (struct np_cmd){.op = NP_CMD_SEND, .handle = ev.handle, .body = loan.buf, .body_bytes = ev.body_bytes});
      command(s, (struct np_cmd){.op = NP_CMD_CREDIT, .handle = ev.handle, .arg = ev.body_bytes});
    }
    if (ev.body != NULL) command(s, (struct np_cmd){.op = NP_CMD_FREE, .body = ev.body});
  }
}

static void settle(struct bench *b) {
  for (uint32_t i = 0; i < 32; i++) {
    b->now_ns += 1000;
    uint64_t start = clock_ns();
    bool work = np_core_turn(b->core, b->now_ns);
    b->turn_ns += clock_ns() - start;
    take_sent(b);
    if (b->pipe) serve(b);
    if (!work && b->rx_count == 0) return;
  }
}

static void open_conns(struct bench *b, uint32_t from, uint32_t to) {
  for (uint32_t i = from; i < to; i++) {
    b->client[i].snd_nxt = i * 7919u;
    b->rx[b->rx_count++] = segment(b, i, 2, 0);
    if (b->rx_count < BURST && i + 1 < to) continue;
    uint32_t first = i + 1 - b->rx_count;
    settle(b);
    for (uint32_t k = first; k <= i; k++) b->rx[b->rx_count++] = segment(b, k, 16, 0);
    settle(b);
  }
  b->established = np_tcp_conn_count(np_core_tcp(b->core));
}

struct stages {
  uint64_t parse_ns, ip_ns, input_ns, session_ns, send_ns;
};

/* One burst through the core's turn, timed as a whole. */
static uint64_t turn_burst(struct bench *b) {
  uint64_t ns = 0;
  bool work;
  do {
    uint64_t start = clock_ns();
    work = np_core_turn(b->core, b->now_ns);
    ns += clock_ns() - start;
    if (b->pipe) serve(b);
  } while (work);
  return ns;
}

/* One burst by hand, stage by stage, as the turn does it. */
static void stage_burst(struct bench *b, struct stages *s) {
  struct np_pkt pkt[BURST];
  struct np_buf *in[BURST];
  uint32_t n = port_rx(&b->q, in, BURST);
  uint64_t t0 = clock_ns();
  for (uint32_t i = 0; i < n; i++) {
    if (i + 4 < n) NP_PREFETCH(np_buf_data(in[i + 4]));
    in[i]->iface = 0;
    if (np_wire_parse(in[i], &pkt[i]) != NP_WIRE_OK) abort();
  }
  uint64_t t1 = clock_ns();
  for (uint32_t i = 0; i < n; i++) {
    enum np_drop why;
    if (np_ip_input(np_core_ip(b->core), &pkt[i], b->now_ns, &why) != NP_IP_TCP) abort();
  }
  uint64_t t2 = clock_ns();
  n = np_tcp_gro(np_core_tcp(b->core), pkt, n);
  np_tcp_burst(np_core_tcp(b->core), pkt, n, b->now_ns);
  uint64_t t3 = clock_ns();
  np_sessions_run(np_core_sessions(b->core), b->now_ns);
  uint64_t t4 = clock_ns();
  np_tcp_flush(np_core_tcp(b->core), b->now_ns);
  np_sessions_run(np_core_sessions(b->core), b->now_ns);
  np_tcp_flush(np_core_tcp(b->core), b->now_ns);
  uint64_t t5 = clock_ns();
  s->parse_ns += t1 - t0;
  s->ip_ns += t2 - t1;
  s->input_ns += t3 - t2;
  s->session_ns += t4 - t3;
  s->send_ns += t5 - t4;
}

/* Turns, each timed, until all that the clients sent is taken. */
static uint64_t turns(struct bench *b) {
  uint64_t ns = 0;
  do {
    uint64_t start = clock_ns();
    (void)np_core_turn(b->core, b->now_ns);
    ns += clock_ns() - start;
  } while (b->rx_count > 0);
  return ns;
}

/* Connection after connection: an acknowledgment for every second segment it sent, until rounds are over. */
static double send_rounds(struct bench *b, uint32_t conns, uint32_t rounds) {
  uint64_t ns = 0;
  b->answer_bytes = 0;
  for (uint32_t r = 0; r < rounds; r++) {
    uint64_t took = 0;
    for (uint32_t i = 0; i < conns; i++) {
      struct client *c = &b->client[i];
      uint32_t acked = c->rcv_nxt;
      b->now_ns += 20000;
      uint32_t acks = np_min_u32((c->due + 1) / 2, BURST);
      uint32_t bytes = c->rcv_nxt - c->acked;
      for (uint32_t k = 1; k <= acks; k++) {
        c->rcv_nxt = c->acked + (uint32_t)((uint64_t)bytes * k / acks);
        b->rx[b->rx_count++] = segment(b, i, 16, 0);
      }
      c->rcv_nxt = c->acked = acked;
      c->due = 0;
      took += turns(b);
      take_sent(b);
    }
    ns += took;
  }
  return (double)b->answer_bytes * 8.0 / (double)ns;
}

struct idle {
  double spin_ns, busy_share, turns_per_s, probe_ns, probes_per_s;
};

/* Virtual time runs to the core's next deadline at once: what is left is what the core has to do. */
static struct idle idle_core(struct bench *b, uint64_t seconds) {
  struct idle out = {0};
  uint32_t spins = 2000000;
  uint64_t start = clock_ns();
  for (uint32_t i = 0; i < spins; i++) (void)np_core_turn(b->core, b->now_ns + i / 64);
  out.spin_ns = (double)(clock_ns() - start) / spins;
  take_sent(b);
  b->ack_probes = true;
  uint64_t from = b->now_ns;
  uint64_t ns = 0;
  uint64_t count = 0;
  while (b->now_ns - from < 2 * seconds * 1000000000u) {
    b->now_ns = np_max_u64(np_core_next_ns(b->core), b->now_ns + 1000);
    uint64_t seen = b->probes;
    ns += turns(b);
    count++;
    take_sent(b);
    while (seen < b->probes) { /* answers, a burst at a time */
      for (; seen < b->probes && b->rx_count < BURST; seen++) b->rx[b->rx_count++] = segment(b, b->probed[seen % b->conns], 16, 0);
      ns += turns(b);
      count++;
      take_sent(b);
    }
  }
  double took = (double)(b->now_ns - from);
  out.busy_share = (double)ns / took;
  out.turns_per_s = (double)count / took * 1e9;
  out.probes_per_s = (double)b->probes / took * 1e9;
  out.probe_ns = b->probes == 0 ? 0 : (double)ns / (double)b->probes;
  return out;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a;
  double y = *(const double *)b;
  return (x > y) - (x < y);
}

static double echo_rounds(struct bench *b, uint32_t conns, uint32_t size, uint32_t rounds, struct stages *stages) {
  double *per_pkt = malloc(rounds * sizeof *per_pkt);
  for (uint32_t r = 0; r < rounds; r++) {
    uint64_t ns = 0;
    uint32_t step = BURST / b->depth;
    for (uint32_t at = 0; at < conns; at += step) {
      uint32_t n = np_min_u32(step, conns - at);
      b->now_ns += 20000;
      for (uint32_t i = 0; i < n * b->depth; i++) b->rx[b->rx_count++] = segment(b, at + i / b->depth, 24, size);
      if (stages) stage_burst(b, stages);
      else ns += turn_burst(b);
      take_sent(b);
      if (!b->ack) continue;
      for (uint32_t i = 0; i < n; i++) b->rx[b->rx_count++] = segment(b, at + i, 16, 0);
      settle(b);
    }
    per_pkt[r] = (double)ns / conns / b->depth;
  }
  qsort(per_pkt, rounds, sizeof *per_pkt, by_value);
  double median = per_pkt[rounds / 2];
  free(per_pkt);
  return median;
}

static long rss_kib(void) {
  FILE *f = fopen("/proc/self/statm", "r");
  long pages = 0;
  if (f && fscanf(f, "%*s %ld", &pages) != 1) pages = 0;
  if (f) fclose(f);
  return pages * sysconf(_SC_PAGESIZE) / 1024;
}

static uint64_t option(int argc, char **argv, const char *name, uint64_t otherwise) {
  for (int i = 1; i + 1 < argc; i++)
    if (strcmp(argv[i], name) == 0) return strtoull(argv[i + 1], NULL, 0);
  return otherwise;
}

/* As the plane takes its memory: huge pages where the kernel gives them. */
static void *zeroed(size_t bytes) {
  size_t huge = (size_t)2 << 20;
  bytes = (bytes + huge - 1) & ~(huge - 1);
  void *p = aligned_alloc(huge, bytes);
  if (!p) abort();
  (void)madvise(p, bytes, MADV_HUGEPAGE);
  memset(p, 0, bytes);
  return p;
}

static void set_up(struct bench *b, uint32_t conns, bool gro, bool offload, uint64_t idle_s, struct np_plane_config *config) {
  np_plane_config_default(config);
  config->cores = 1;
  config->no_gro = !gro;
  config->tcp_keepalive_idle_ms = (uint32_t)(idle_s * 1000);
  config->conns_max = conns;
  config->bufs_per_core = 16384;
  void *mem = zeroed(np_core_bytes(config));
  void *pool = zeroed((size_t)config->bufs_per_core * config->chunk_bytes);
  struct np_err_detail detail;
  b->now_ns = 1000000000;
  if (np_core_init(mem, pool, config, 0, b->now_ns, &b->core, &detail)) {
    fprintf(stderr, "bench_stack: %s\n", detail.text);
    exit(1);
  }
  b->q = (struct np_port_queue){.ops = &port_ops, .mtu_bytes = 1500, .mac = {{2, 0, 0, 0, 0, 1}}};
  if (offload) {
    b->q.caps = NP_PORT_SG | NP_PORT_TSO | NP_PORT_TX_CSUM;
    b->q.tso_bytes_max = 65535;
  }
  struct np_iface_config iface = {.mtu_bytes = 1500, .mac = b->q.mac};
  struct np_addr addr = np_addr_from_v4_be((uint8_t[]){198, 18, 0, 1});
  struct np_ip *ip = np_core_ip(b->core);
  struct np_cmd_listen echo = {.port = 7, .session_kind = NP_SESSION_ECHO, .backlog = 4096};
  struct np_cmd_listen discard = {.port = 9, .session_kind = NP_SESSION_DISCARD, .backlog = 4096};
  struct np_cmd_listen chargen = {.port = 19, .session_kind = NP_SESSION_CHARGEN, .backlog = 4096};
  struct np_cmd_listen pipe = {.port = 10, .session_kind = NP_SESSION_PIPE, .backlog = 4096};
  uint64_t handle;
  if (np_ip_iface_add(ip, 0, &iface) || np_core_attach(b->core, &b->q, 0) || np_ip_iface_up(ip, 0, true, b->now_ns) ||
      np_ip_addr_add(ip, 0, &addr, 16, b->now_ns) || np_core_listen(b->core, &echo, &handle) ||
      np_core_listen(b->core, &discard, &handle) || np_core_listen(b->core, &chargen, &handle) ||
      np_core_listen(b->core, &pipe, &handle))
    abort();
  b->client = calloc(conns, sizeof *b->client);
  b->probed = calloc(conns, sizeof *b->probed);
  b->conns = conns;
  settle(b);
}

static void print_drops(struct bench *b) {
  static const char *const reason[] = {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, layer, help) reason,
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
  };
  const uint64_t *drop = np_core_shared(b->core)->counters->drop;
  for (uint32_t i = 0; i < NP_DROP_COUNT; i++)
    if (drop[i] != 0) fprintf(stderr, "  %s: %llu\n", reason[i], (unsigned long long)drop[i]);
}

static int report_send(struct bench *b, uint32_t conns, uint32_t rounds, bool offload, bool json) {
  for (uint32_t i = 0; i < conns; i++) b->client[i].acked = b->client[i].rcv_nxt;
  (void)send_rounds(b, conns, rounds / 4 + 1); /* warm */
  const uint64_t *counter = np_core_shared(b->core)->counters->counter;
  uint64_t again = counter[NP_C_TCP_RETRANS];
  double gbit = send_rounds(b, conns, rounds);
  if (counter[NP_C_TCP_RETRANS] != again || b->answer_bytes == 0) {
    fprintf(stderr, "bench_stack: %llu bytes sent, %llu segments sent again\n", (unsigned long long)b->answer_bytes,
            (unsigned long long)(counter[NP_C_TCP_RETRANS] - again));
    return 1;
  }
  if (json) printf("{\"bench\":\"stack-send\",\"conns\":%u,\"offload\":%d,\"gbit_per_s\":%.2f}\n", conns, offload, gbit);
  else printf("stack alone, chargen to %u connections, one core, %s: %.2f Gbit/s of payload\n", conns, offload ? "port gathers, cuts and sums" : "no offloads", gbit);
  return 0;
}

static int report_idle(struct bench *b, uint32_t conns, uint64_t idle_s, const struct np_plane_config *config, bool json) {
  struct np_tcp_config one;
  np_tcp_config_default(&one);
  struct np_tcp_config two = one;
  one.conns_max = conns;
  two.conns_max = 2 * conns;
  struct np_plane_config more = *config;
  more.conns_max += conns;
  double tcp_bytes = (double)(np_tcp_bytes(&two) - np_tcp_bytes(&one)) / conns;
  double all_bytes = (double)(np_core_bytes(&more) - np_core_bytes(config)) / conns;
  struct idle i = idle_core(b, idle_s);
  uint32_t left = np_tcp_conn_count(np_core_tcp(b->core));
  if (left != conns || b->probes < conns) {
    fprintf(stderr, "bench_stack: %u of %u connections left, %llu probes\n", left, conns, (unsigned long long)b->probes);
    print_drops(b);
    return 1;
  }
  if (json)
    printf("{\"bench\":\"stack-idle\",\"conns\":%u,\"keepalive_s\":%llu,\"tcp_bytes\":%.0f,\"session_bytes\":%.0f,\"spin_turn_ns\":%.1f,\"turns_per_s\":%.1f,"
           "\"probes_per_s\":%.1f,\"probe_ns\":%.0f,\"core_ns_per_s\":%.0f}\n",
           conns, (unsigned long long)idle_s, tcp_bytes, all_bytes - tcp_bytes, i.spin_ns, i.turns_per_s, i.probes_per_s, i.probe_ns, i.busy_share * 1e9);
  else
    printf("%u idle connections on one core, keep-alives after %llu s, answered\n"
           "  memory of each: %.0f B of TCP, its table included, and %.0f B of session (NPRO's included)\n"
           "  a turn that finds nothing: %.1f ns\n"
           "  a core that sleeps in between: %.0f turns and %.0f probes a second, %.0f ns a probe and its answer, %.3f %% of the core\n",
           conns, (unsigned long long)idle_s, tcp_bytes, all_bytes - tcp_bytes, i.spin_ns, i.turns_per_s, i.probes_per_s, i.probe_ns, i.busy_share * 100);
  return 0;
}

int main(int argc, char **argv) {
  uint32_t conns = (uint32_t)option(argc, argv, "--conns", 1000);
  uint32_t size = (uint32_t)option(argc, argv, "--size", 64);
  uint32_t rounds = (uint32_t)option(argc, argv, "--rounds", 400);
  uint32_t hold = (uint32_t)option(argc, argv, "--hold", 0);
  uint32_t depth = (uint32_t)option(argc, argv, "--depth", 1);
  bool discard = option(argc, argv, "--discard", 0) != 0;
  bool gro = option(argc, argv, "--gro", 1) != 0;
  bool json = false;
  for (int i = 1; i < argc; i++) json |= strcmp(argv[i], "--json") == 0;
  if (conns == 0 || size == 0 || size > 1400 || rounds == 0 || conns + hold > 2000000 ||
      depth == 0 || depth > BURST) {
    fprintf(stderr, "bench_stack: --conns 1.., --size 1..1400, --rounds 1.., --depth 1..64, conns + hold at most 2,000,000\n");
    return 2;
  }
  struct bench *b = calloc(1, sizeof *b);
  struct np_plane_config config;
  b->depth = depth;
  b->port = discard ? 9 : 7;
  b->ack = option(argc, argv, "--ack", 0) != 0;
  bool sends = option(argc, argv, "--send", 0) != 0;
  bool offload = option(argc, argv, "--offload", 0) != 0;
  uint64_t idle_s = option(argc, argv, "--idle", 0);
  if (idle_s > 86400) {
    fprintf(stderr, "bench_stack: --idle 1..86400 s\n");
    return 2;
  }
  if (sends) b->port = 19;
  b->pipe = option(argc, argv, "--pipe", 0) != 0;
  if (b->pipe) b->port = 10;
  set_up(b, conns + hold, gro, offload, idle_s, &config);
  long before = rss_kib();
  /* one connection of each client address first: a neighbor's queue holds only a few
   * packets while its address is asked for */
  uint32_t last = 0;
  for (uint32_t i = 0; i < conns + hold; i += PORTS_PER_IP) {
    open_conns(b, i, i + 1);
    last = i;
  }
  for (uint32_t i = 0; i <= last; i += PORTS_PER_IP) open_conns(b, i + 1, np_min_u32(i + PORTS_PER_IP, conns + hold));
  long after = rss_kib();
  double open_ns = (double)b->turn_ns / (conns + hold);
  if (b->established != conns + hold) {
    fprintf(stderr, "bench_stack: %u of %u connections established\n", b->established, conns + hold);
    return 1;
  }
  if (sends) return report_send(b, conns, rounds, offload, json);
  if (idle_s != 0) return report_idle(b, conns + hold, idle_s, &config, json);
  echo_rounds(b, conns, size, rounds / 4 + 1, NULL); /* warm */
  b->answers = b->answer_bytes = 0;
  const uint64_t *counter = np_core_shared(b->core)->counters->counter;
  uint64_t got = counter[NP_C_TCP_BYTES_RX];
  uint64_t fast = counter[NP_C_TCP_FAST_PATH];
  uint64_t segs = counter[NP_C_TCP_SEGS_RX];
  double ns = echo_rounds(b, conns, size, rounds, NULL);
  got = counter[NP_C_TCP_BYTES_RX] - got;
  double hit = (double)(counter[NP_C_TCP_FAST_PATH] - fast) / (double)(counter[NP_C_TCP_SEGS_RX] - segs);
  uint64_t want = (uint64_t)conns * rounds * depth * size;
  if (got != want || b->answer_bytes != (discard ? 0 : want)) {
    fprintf(stderr, "bench_stack: %llu bytes sent, %llu taken, %llu echoed\n", (unsigned long long)want,
            (unsigned long long)got, (unsigned long long)b->answer_bytes);
    print_drops(b);
    return 1;
  }
  struct stages s = {0};
  uint32_t staged = rounds / 2 + 1;
  if (!b->pipe) echo_rounds(b, conns, size, staged, &s);
  double per = 1.0 / ((double)conns * staged * depth);
  struct np_plane_config more = config;
  more.conns_max = config.conns_max + 100000;
  double idle_bytes = (double)(np_core_bytes(&more) - np_core_bytes(&config)) / 100000.0;
  if (json)
    printf("{\"bench\":\"%s\",\"conns\":%u,\"held\":%u,\"size_bytes\":%u,\"depth\":%u,\"discard\":%d,\"gro\":%d,\"fast_path\":%.4f,\"ns_per_segment\":%.1f,\"mpps\":%.2f,"
           "\"parse_ns\":%.1f,\"ip_ns\":%.1f,\"tcp_input_ns\":%.1f,\"deliver_echo_send_ns\":%.1f,\"open_ns\":%.0f,\"bytes_per_conn\":%.0f}\n",
           b->pipe ? "stack-pipe" : "stack", conns, hold, size, depth, discard, gro, hit, ns, 1e3 / ns, (double)s.parse_ns * per, (double)s.ip_ns * per, (double)s.input_ns * per,
           (double)(s.session_ns + s.send_ns) * per, open_ns, idle_bytes);
  else
    printf("stack alone, %u connections (%u held besides), %u B echo, one core\n"
           "  %.1f ns per received segment, answer included (median of %u rounds): %.2f Mpps in and as many out\n"
           "  header prediction took %.2f %% of them\n"
           "  by stage: parse %.1f  ip %.1f  tcp input %.1f  deliver, echo, send %.1f ns\n"
           "  accepting a connection: %.0f ns of the core's time, %.0f a second\n"
           "  memory per connection, TCP and session (NPRO's included): %.0f B; RSS grew %ld KiB while opening %u\n"
           "  pool: %u of %u buffers free while all are idle\n",
           conns, hold, size, ns, rounds, 1e3 / ns, hit * 100, (double)s.parse_ns * per, (double)s.ip_ns * per, (double)s.input_ns * per,
           (double)(s.session_ns + s.send_ns) * per, open_ns, 1e9 / open_ns, idle_bytes, after - before, conns + hold,
           np_core_pool(b->core)->free_count, np_core_pool(b->core)->count);
  return 0;
}
