/* Packets through the port layer alone, no stack: what a core can take from and give to a kind of port.
 *
 *   bench_ports memif [BYTES] [SECONDS]    two processes, one CPU each, over a memif: one fills, one drains
 *   bench_ports null  [BYTES] [SECONDS]    receive and drop, on one CPU
 *   bench_ports echo  [BYTES] [SECONDS]    memif, and the other end sends everything back
 *   bench_ports turns [BYTES] [SECONDS]    both ends of a memif in one thread, in turns of 1,024 packets, each side timed
 *                                          by the CPU's time: says something on a busy machine too
 *
 * Prints one JSON line a figure; the rate is the receiving port's. Without DPDK it says so and exits with 0. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/pool.h"
#include "io/dpdk/dpdk.h"

#define BUFS 16384u
#define CHUNK 2048u

struct end {
  struct np_counters counters;
  struct np_pool pool;
  struct np_port_queue *q;
};

/* What the two processes share. */
struct shared {
  uint32_t ready;
  uint32_t go;
  uint32_t stop;
  uint64_t sent_pkts;
  uint64_t back_pkts;
};

static uint64_t now_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* To the first CPU that we may use, or the last: with one CPU both share it. */
static void pin(bool last) {
  cpu_set_t all;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET((unsigned)cpu, &all) || (!last && CPU_COUNT(&set) > 0)) continue;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
  }
  (void)sched_setaffinity(0, sizeof set, &set);
}

static int open_end(struct end *e, const char *device) {
  size_t bytes = (size_t)BUFS * CHUNK;
  uint8_t *mem = mmap(NULL, bytes + (2u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void *stack = malloc(np_pool_stack_bytes(BUFS));
  if (mem == MAP_FAILED || stack == NULL) return -1;
  mem += (2u << 20) - ((uintptr_t)mem & ((2u << 20) - 1));
  (void)madvise(mem, bytes, MADV_HUGEPAGE);
  memset(mem, 0, bytes);
  np_pool_init(&e->pool, mem, BUFS, CHUNK, stack, &e->counters);
  struct np_dpdk_args a = {.name = "bench", .queues = 1};
  snprintf(a.device, sizeof a.device, "%s", device);
  struct np_dpdk_core core = {.pool = &e->pool};
  struct np_dpdk_device *d = NULL;
  struct np_dpdk_info info;
  struct np_err_detail detail = {.text = ""};
  cpu_set_t cpus;
  sched_getaffinity(0, sizeof cpus, &cpus);
  enum np_err err = np_dpdk_open(&a, &cpus, &core, 1, &d, &detail);
  if (err == NP_ERR_OK) {
    np_dpdk_lend(d, 0);
    err = np_dpdk_run(d, &info, &detail);
  }
  if (err != NP_ERR_OK) {
    fprintf(stderr, "bench_ports: %s\n", detail.text);
    exit(err == NP_ERR_UNSUPPORTED ? 0 : 1);
  }
  e->q = np_dpdk_port(d, 0);
  e->q->ops->flush(e->q);
  return 0;
}

static void wait_up(struct end *e) {
  for (uint32_t i = 0; e->q->down && i < 5000; i++) {
    e->q->ops->check(e->q);
    e->q->ops->flush(e->q);
    usleep(1000);
  }
  if (e->q->down) {
    fprintf(stderr, "bench_ports: the peer did not come\n");
    exit(1);
  }
}

/* The sender: fresh buffers, as the stack would give. */
static uint32_t fill(struct end *e, uint32_t bytes) {
  struct np_buf *burst[32];
  uint32_t n = 0;
  for (; n < 32; n++) {
    struct np_buf *b = np_pool_get(&e->pool);
    if (b == NULL) break;
    memset(np_buf_append(b, 14), 2, 14);
    np_buf_append(b, bytes - 14);
    burst[n] = b;
  }
  uint32_t taken = e->q->ops->tx(e->q, burst, n);
  for (uint32_t i = taken; i < n; i++) np_buf_put(burst[i]);
  e->q->ops->flush(e->q);
  if (taken < n) NP_PAUSE();
  return taken;
}

static uint32_t drain(struct end *e, bool back) {
  struct np_buf *burst[NP_BURST];
  uint32_t n = e->q->ops->rx(e->q, burst, NP_BURST);
  uint32_t kept = back ? e->q->ops->tx(e->q, burst, n) : 0;
  for (uint32_t i = kept; i < n; i++) np_buf_put(burst[i]);
  e->q->ops->flush(e->q);
  if (n == 0) NP_PAUSE();
  return n;
}

static void child(struct shared *s, const char *device, uint32_t bytes, bool echo) {
  struct end e;
  memset(&e, 0, sizeof e);
  pin(true);
  if (open_end(&e, device) != 0) exit(1);
  wait_up(&e);
  __atomic_store_n(&s->ready, 1, __ATOMIC_RELEASE);
  while (__atomic_load_n(&s->go, __ATOMIC_ACQUIRE) == 0) drain(&e, false);
  uint64_t sent = 0;
  uint64_t back = 0;
  while (__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE) == 0) {
    sent += fill(&e, bytes);
    if (echo) back += drain(&e, false);
  }
  s->sent_pkts = sent;
  s->back_pkts = back;
  _exit(0);
}

static void report(const char *what, uint32_t bytes, uint64_t pkts, uint64_t ns) {
  printf("{\"bench\":\"ports\",\"what\":\"%s\",\"bytes\":%u,\"mpps\":%.2f,\"gbit_s\":%.2f,\"ns_per_pkt\":%.1f}\n", what, bytes,
         (double)pkts * 1e3 / (double)ns, (double)pkts * bytes * 8 / (double)ns, (double)ns / (double)(pkts + (pkts == 0)));
}

static int run_null(uint32_t bytes, uint64_t ns) {
  struct end e;
  memset(&e, 0, sizeof e);
  char device[64];
  snprintf(device, sizeof device, "net_null0,size=%u", bytes);
  pin(false);
  if (open_end(&e, device) != 0) return 1;
  uint64_t start = now_ns();
  uint64_t pkts = 0;
  while (now_ns() - start < ns) {
    for (uint32_t i = 0; i < 1000; i++) pkts += drain(&e, false);
  }
  report("null receive", bytes, pkts, now_ns() - start);
  return 0;
}

static uint64_t cpu_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int run_turns(uint32_t bytes, uint64_t ns) {
  struct end e[2];
  memset(e, 0, sizeof e);
  pin(false);
  const char *role[2] = {"server", "client"};
  for (uint32_t i = 0; i < 2; i++) {
    char device[160];
    snprintf(device, sizeof device, "net_memif%u,role=%s,socket-abstract=yes,socket=np-bench-%ld,rsize=11", i, role[i], (long)getpid());
    if (open_end(&e[i], device) != 0) return 1;
  }
  for (uint32_t i = 0; i < 2; i++) wait_up(&e[i]);
  uint64_t start = now_ns();
  uint64_t pkts[2] = {0, 0};
  uint64_t took[2] = {0, 0};
  while (now_ns() - start < ns) {
    uint64_t t0 = cpu_ns();
    for (uint32_t i = 0; i < 32; i++) pkts[0] += fill(&e[1], bytes);
    uint64_t t1 = cpu_ns();
    while (pkts[1] < pkts[0]) pkts[1] += drain(&e[0], false); /* bound: what was sent; memif loses nothing */
    uint64_t t2 = cpu_ns();
    took[0] += t1 - t0;
    took[1] += t2 - t1;
  }
  report("memif send, one thread", bytes, pkts[0], took[0]);
  report("memif receive, one thread", bytes, pkts[1], took[1]);
  return 0;
}

static int run_memif(uint32_t bytes, uint64_t ns, bool echo) {
  struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (s == MAP_FAILED) return 1;
  char device[2][160];
  const char *role[2] = {"server", "client"};
  for (uint32_t i = 0; i < 2; i++) {
    snprintf(device[i], sizeof device[i], "net_memif0,role=%s,socket-abstract=yes,socket=np-bench-%ld,rsize=11", role[i], (long)getpid());
  }
  pid_t pid = fork(); /* before DPDK starts: each process has its own */
  if (pid == 0) child(s, device[1], bytes, echo);
  struct end e;
  memset(&e, 0, sizeof e);
  pin(false);
  if (open_end(&e, device[0]) != 0) return 1;
  wait_up(&e);
  while (__atomic_load_n(&s->ready, __ATOMIC_ACQUIRE) == 0) drain(&e, false);
  __atomic_store_n(&s->go, 1, __ATOMIC_RELEASE);
  uint64_t start = now_ns();
  uint64_t pkts = 0;
  while (now_ns() - start < ns) {
    for (uint32_t i = 0; i < 100; i++) pkts += drain(&e, echo);
  }
  uint64_t took = now_ns() - start;
  __atomic_store_n(&s->stop, 1, __ATOMIC_RELEASE);
  while (waitpid(pid, NULL, WNOHANG) == 0) drain(&e, false);
  report(echo ? "memif echo" : "memif", bytes, pkts, took);
  return 0;
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "memif";
  uint32_t bytes = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 64;
  double seconds = argc > 3 ? strtod(argv[3], NULL) : 1;
  if (bytes < 60 || bytes > 1514 || seconds <= 0 || seconds > 60) {
    fprintf(stderr, "usage: bench_ports memif|echo|turns|null [BYTES 60..1514] [SECONDS]\n");
    return 2;
  }
  uint64_t ns = (uint64_t)(seconds * 1e9);
  if (strcmp(what, "null") == 0) return run_null(bytes, ns);
  if (strcmp(what, "turns") == 0) return run_turns(bytes, ns);
  return run_memif(bytes, ns, strcmp(what, "echo") == 0);
}
