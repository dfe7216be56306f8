/* Connections alone: opened, used for one question and closed again, as fast as two cores in one thread get; and the
 * timer wheel with a million timers. No kernel, no other thread: a wire in memory copies each core's packets into the
 * other's buffers, outside what is timed.
 *
 *   bench_conns [--conns N] [--total N] [--timewait MS] [--timers N] [--json]
 *
 * Default: 512 connections at a time, 600,000 in all, TIME-WAIT 60 s in a table of 16,384 (so that most are evicted), 1,000,000 timers.
 * Each connection: SYN, SYN-ACK, ACK, 64 bytes, their echo, FIN both ways. The core that opens closes first and so has
 * the TIME-WAIT; the core that accepts has the session and its event to Go. Time: CLOCK_MONOTONIC around each turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/bytes.h"
#include "base/ring.h"
#include "core/core.h"
#include "core/internal.h"
#include "ip/ip.h"
#include "session/load.h"
#include "tcp/tcp.h"

#define WIRE 4096u
#define SIZE 64u

struct end {
  struct np_port_queue q; /* first */
  struct np_core *core;
  struct np_buf *tx[WIRE];
  uint32_t data_off[WIRE];
  uint32_t len[WIRE];
  uint32_t tx_count;
  struct np_buf *rx[WIRE];
  uint32_t rx_at;
  uint32_t rx_count;
  uint64_t ns;
};

struct bench {
  struct end end[2]; /* 0 opens, 1 accepts */
  uint64_t now_ns;
};

static uint64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t port_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  struct end *e = (struct end *)(void *)q;
  uint32_t n = np_min_u32(max, e->rx_count - e->rx_at);
  memcpy(out, e->rx + e->rx_at, n * sizeof(struct np_buf *));
  e->rx_at += n;
  if (e->rx_at == e->rx_count) e->rx_at = e->rx_count = 0;
  return n;
}
static uint32_t port_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct end *e = (struct end *)(void *)q;
  uint32_t i = 0;
  for (; i < n && e->tx_count < WIRE; i++) {
    e->data_off[e->tx_count] = bufs[i]->data_off;
    e->len[e->tx_count] = bufs[i]->len;
    e->tx[e->tx_count++] = bufs[i];
  }
  return i;
}
static void port_flush(struct np_port_queue *q) { (void)q; }
static int port_fd(struct np_port_queue *q) {
  (void)q;
  return -1;
}
static bool port_busy(struct np_port_queue *q) { return ((struct end *)(void *)q)->rx_count > 0; }
static const struct np_port_ops port_ops = {
    .name = "bench", .rx = port_rx, .tx = port_tx, .flush = port_flush, .fd = port_fd, .busy = port_busy};

/* What one end sent becomes what the other receives. Its buffers are touched here first, in cache as after a device's DMA. */
static void carry(struct end *from, struct end *to) {
  for (uint32_t i = 0; i < from->tx_count; i++) {
    struct np_buf *b = to->rx_count < WIRE ? np_pool_get(np_core_pool(to->core)) : NULL;
    if (b == NULL) {
      fprintf(stderr, "bench_conns: no buffer on the wire\n");
      exit(1);
    }
    memcpy(np_buf_append(b, from->len[i]), (const uint8_t *)from->tx[i] + from->data_off[i], from->len[i]);
    to->rx[to->rx_count++] = b;
    np_buf_put_chain(from->tx[i]);
  }
  from->tx_count = 0;
}

/* Go's part: events are taken off the ring, which would stop the sessions when full. */
static uint32_t take_events(struct end *e) {
  struct np_ring *ring = np_core_shared(e->core)->event;
  uint32_t n = np_ring_avail(ring);
  if (n > 0) np_ring_consume(ring, n);
  return n;
}

/* Turns until all that came is taken. */
static void turns(struct bench *b, uint32_t i) {
  struct end *e = &b->end[i];
  do {
    uint64_t start = clock_ns();
    np_core_turn(e->core, b->now_ns);
    e->ns += clock_ns() - start;
    take_events(e);
    carry(e, &b->end[1 - i]);
  } while (e->rx_count > 0);
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

static struct np_addr address(uint32_t i) { return np_addr_from_v4_be((uint8_t[]){198, 18, 0, (uint8_t)(i + 1)}); }

static void set_up(struct bench *b, uint32_t i, uint32_t conns, uint32_t timewait_ms) {
  struct end *e = &b->end[i];
  struct np_plane_config c;
  struct np_err_detail detail;
  np_plane_config_default(&c);
  c.cores = 1;
  c.conns_max = 16384;
  c.bufs_per_core = 16384;
  c.tcp_timewait_ms = timewait_ms;
  memset(c.secret, (int)i + 1, sizeof c.secret);
  if (i == 0) {
    c.load_conns = conns;
    c.load_depth = 1;
  }
  void *mem = zeroed(np_core_bytes(&c));
  void *pool = zeroed((size_t)c.bufs_per_core * c.chunk_bytes);
  if (np_core_init(mem, pool, &c, 0, b->now_ns, &e->core, &detail)) {
    fprintf(stderr, "bench_conns: %s\n", detail.text);
    exit(1);
  }
  e->q = (struct np_port_queue){.ops = &port_ops, .mtu_bytes = 1500, .mac = {{2, 0, 0, 0, 0, (uint8_t)(i + 1)}}};
  struct np_iface_config iface = {.mtu_bytes = 1500, .mac = e->q.mac};
  struct np_addr addr = address(i);
  struct np_cmd_listen echo = {.port = 7, .session_kind = NP_SESSION_ECHO, .backlog = 4096};
  uint64_t handle;
  if (np_ip_iface_add(np_core_ip(e->core), 0, &iface) || np_core_attach(e->core, &e->q, 0) ||
      np_ip_iface_up(np_core_ip(e->core), 0, true, b->now_ns) || np_ip_addr_add(np_core_ip(e->core), 0, &addr, 24, b->now_ns) ||
      np_core_listen(e->core, &echo, &handle))
    abort();
}

struct churn {
  double opens_ns, accepts_ns, accepts_segs, evicted;
  uint64_t total;
};

static struct churn churn(uint32_t conns, uint64_t total, uint32_t timewait_ms) {
  struct bench *b = calloc(1, sizeof *b);
  b->now_ns = 1000000000;
  for (uint32_t i = 0; i < 2; i++) set_up(b, i, conns, timewait_ms);
  for (uint32_t i = 0; i < 4000; i++) { /* addresses are in use after that */
    b->now_ns += 1000000;
    turns(b, 0);
    turns(b, 1);
  }
  struct np_cmd_load args = {.remote_port = 7, .mode = NP_LOAD_CONNECT, .conns = conns, .size_bytes = SIZE, .depth = 1};
  struct np_addr to = address(1);
  memcpy(args.remote, to.b, sizeof args.remote);
  if (np_loads_start(b->end[0].core->loads, &args, b->now_ns)) abort();
  const struct np_load_stats *s = np_core_shared(b->end[0].core)->load;
  const uint64_t *server = np_core_shared(b->end[1].core)->counters->counter;
  uint64_t from = 0;
  uint64_t segs = 0;
  uint64_t budget = total * 20 + 1000000;
  while (s->closed < total && budget-- > 0) {
    b->now_ns += 20000;
    turns(b, 0);
    turns(b, 1);
    if (from == 0 && s->closed >= total / 10) { /* warm: what follows counts */
      from = s->closed;
      segs = server[NP_C_TCP_SEGS_RX];
      b->end[0].ns = b->end[1].ns = 0;
    }
  }
  if (s->closed < total || s->failed != 0 || s->mismatches != 0) {
    fprintf(stderr, "bench_conns: %llu of %llu connections, %llu failed, %llu mismatches\n", (unsigned long long)s->closed,
            (unsigned long long)total, (unsigned long long)s->failed, (unsigned long long)s->mismatches);
    exit(1);
  }
  uint64_t n = s->closed - from;
  struct churn out = {.opens_ns = (double)b->end[0].ns / (double)n, .accepts_ns = (double)b->end[1].ns / (double)n,
                      .accepts_segs = (double)(server[NP_C_TCP_SEGS_RX] - segs) / (double)n, .total = n};
  uint64_t waiting = np_core_shared(b->end[0].core)->counters->counter[NP_C_TCP_TIMEWAIT];
  out.evicted = s->closed > waiting ? (double)(s->closed - waiting) / (double)s->closed : 0;
  return out;
}

/* ---- the wheel ---- */

struct wheel_ns {
  double set, reset, cancel, advance_idle, advance_spread;
};

struct fired {
  uint64_t count;
  struct np_wheel *wheel;
};
/* A keep-alive of two hours, set again when it fires. */
static void on_fire(void *ctx, struct np_timer *t, uint64_t now_ns) {
  struct fired *f = ctx;
  f->count++;
  np_timer_set(f->wheel, t, NP_TIMER_TCP, now_ns + 7200ull * 1000000000u);
}

static struct wheel_ns wheel(uint32_t timers) {
  struct np_wheel *w = zeroed(sizeof *w);
  size_t stride = 1024; /* as far apart as connections are */
  uint8_t *mem = zeroed((size_t)timers * stride);
  uint64_t now = 1000000000;
  struct wheel_ns out = {0};
  np_wheel_init(w, now);
  struct fired fired = {.wheel = w};
  np_wheel_handle(w, NP_TIMER_TCP, on_fire, &fired);
  struct np_timer *probe = zeroed(64 * sizeof *probe);
  for (uint32_t pass = 0; pass < 2; pass++) { /* pass 0: an empty wheel, for the cost of a turn's look */
    if (pass == 1) {
      uint64_t start = clock_ns();
      for (uint32_t i = 0; i < timers; i++) { /* spread over two hours */
        uint64_t due = now + 1000000000u + (uint64_t)i * (7200ull * 1000000000u / timers);
        np_timer_set(w, (struct np_timer *)(void *)(mem + i * stride), NP_TIMER_TCP, due);
      }
      out.set = (double)(clock_ns() - start) / timers;
    }
    uint32_t turns = 4000000;
    uint64_t start = clock_ns();
    uint32_t any = 0;
    for (uint32_t i = 0; i < turns; i++) any += np_wheel_advance(w, now + i, 256);
    out.advance_idle = (double)(clock_ns() - start) / turns;
    if (any != 0) abort();
  }
  uint32_t rounds = 200000;
  uint64_t start = clock_ns();
  for (uint32_t i = 0; i < rounds; i++) np_timer_set(w, &probe[i & 63], NP_TIMER_TCP, now + (200ull + (i & 1023)) * 1000000u);
  out.reset = (double)(clock_ns() - start) / rounds;
  start = clock_ns();
  for (uint32_t i = 0; i < rounds; i++) {
    np_timer_set(w, &probe[i & 63], NP_TIMER_TCP, now + 40000000u);
    np_timer_cancel(w, &probe[i & 63]);
  }
  out.cancel = (double)(clock_ns() - start) / rounds;
  start = clock_ns();
  uint64_t end = now + 7200ull * 1000000000u;
  while (now < end) { /* a turn each millisecond */
    now += 1000000;
    np_wheel_advance(w, now, 256);
  }
  out.advance_spread = (double)(clock_ns() - start) / (double)np_max_u64(fired.count, 1);
  if (fired.count < timers - timers / 1000) abort();
  return out;
}

static uint64_t option(int argc, char **argv, const char *name, uint64_t otherwise) {
  for (int i = 1; i + 1 < argc; i++)
    if (strcmp(argv[i], name) == 0) return strtoull(argv[i + 1], NULL, 0);
  return otherwise;
}

int main(int argc, char **argv) {
  uint64_t conns = option(argc, argv, "--conns", 512);
  uint64_t total = option(argc, argv, "--total", 600000);
  uint64_t timewait = option(argc, argv, "--timewait", 60000);
  uint64_t timers = option(argc, argv, "--timers", 1000000);
  bool json = false;
  for (int i = 1; i < argc; i++) json |= strcmp(argv[i], "--json") == 0;
  if (conns == 0 || conns > 8192 || total < 1000 || timewait == 0 || timewait > 600000 || timers > 4000000) {
    fprintf(stderr, "bench_conns: --conns 1..8192, --total 1000.., --timewait 1..600000 ms, --timers 0..4000000\n");
    return 2;
  }
  struct churn c = churn((uint32_t)conns, total, (uint32_t)timewait);
  struct wheel_ns w = timers == 0 ? (struct wheel_ns){0} : wheel((uint32_t)timers);
  if (json)
    printf("{\"bench\":\"conns\",\"conns\":%llu,\"total\":%llu,\"accepts_ns\":%.0f,\"accepts_per_s\":%.0f,\"opens_ns\":%.0f,"
           "\"opens_per_s\":%.0f,\"segments\":%.2f,\"evicted\":%.3f,\"timers\":%llu,\"timer_set_ns\":%.1f,\"timer_move_ns\":%.1f,"
           "\"timer_set_cancel_ns\":%.1f,\"advance_ns\":%.2f,\"fire_ns\":%.1f}\n",
           (unsigned long long)conns, (unsigned long long)c.total, c.accepts_ns, 1e9 / c.accepts_ns, c.opens_ns, 1e9 / c.opens_ns,
           c.accepts_segs, c.evicted, (unsigned long long)timers, w.set, w.reset, w.cancel, w.advance_idle, w.advance_spread);
  else
    printf("connections alone, one question of %u B each, %llu at a time, %llu in all\n"
           "  the core that accepts: %.0f ns a connection, %.0f a second (%.2f segments received each)\n"
           "  the core that opens, closes first and waits: %.0f ns, %.0f a second; %.1f %% of TIME-WAITs over when it ended\n"
           "timer wheel, %llu timers set over two hours\n"
           "  set (cold): %.1f ns  move: %.1f ns  set and cancel: %.1f ns\n"
           "  a turn's look when nothing is due: %.2f ns  each that fires, moves down the levels included: %.1f ns\n",
           SIZE, (unsigned long long)conns, (unsigned long long)c.total, c.accepts_ns, 1e9 / c.accepts_ns, c.accepts_segs,
           c.opens_ns, 1e9 / c.opens_ns, c.evicted * 100, (unsigned long long)timers, w.set, w.reset, w.cancel, w.advance_idle,
           w.advance_spread);
  return 0;
}
