/* np-relay: two interfaces joined by a wire that delays, limits, loses, reorders,
 * duplicates, corrupts and marks as it is told. README.md has the command line.
 *
 * One thread: it spins while there is traffic or a packet is due soon, sleeps in
 * ppoll otherwise, and ends at its time limit or by SIGINT or SIGTERM. */
#include <errno.h>
#include <getopt.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "attach.h"
#include "base/bytes.h"
#include "io/afxdp/afxdp.h"
#include "link.h"
#include "spec.h"

#define SPIN_NS UINT64_C(100000)       /* without work this long: sleep */
#define SLEEP_NS_MAX UINT64_C(100000000)
#define WAKE_EARLY_NS UINT64_C(60000)  /* waking up takes this long: the rest is spun */
#define CHECK_NS UINT64_C(100000000)   /* is the device still there, have we been told to end */
#define DOWN_NS_MAX UINT64_C(5000000000)
#define TIME_S_MAX 86400u
#define BUFS_MIN 1024u
#define BUFS_MAX 262144u
#define MTU_ONE_CHUNK 3506u /* above, a frame comes in pieces, if csrc/io/afxdp can have it so */

struct options {
  const char *ifname[2];
  struct np_relay_params params[2]; /* of what comes in on that interface */
  uint64_t seed;
  uint32_t time_s;
  uint32_t bufs;
  int cpu;
};

/* One interface: its socket, and the way from it to the other. */
struct side {
  struct np_afxdp *xsk;
  struct np_port_queue *port;
  struct np_relay_xdp xdp;
  struct np_relay_link link;
  struct np_relay_entry *heap;
  struct np_buf *wait[NP_BURST]; /* due, not yet taken by the other port */
  uint32_t wait_count;
  uint64_t down_since_ns;
};

struct relay {
  struct side side[2];
  struct np_pool pool;
  struct np_counters counters;
  void *stack;
  void *mem;
  size_t mem_bytes;
  int signals;
};

static uint64_t clock_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static _Noreturn void usage(const char *what) {
  fprintf(stderr,
          "np-relay: %s\n"
          "usage: np-relay --a IF --b IF [--ab WIRE] [--ba WIRE] [--seed N] [--time SECONDS] [--cpu N] [--buffers N]\n"
          "WIRE: delay=TIME,jitter=TIME,rate=RATE,queue=SIZE,mark=SIZE,loss=PART,burst=PART[:PACKETS],\n"
          "      reorder=PART[:TIME],duplicate=PART,corrupt=PART,ce=PART, in any order; none: a perfect wire\n"
          "      10ms, 100mbit, 64kib, 0.1%% or 1000ppm\n",
          what);
  exit(2);
}

static uint64_t count_arg(const char *name, const char *text, uint64_t min, uint64_t max) {
  char *end = NULL;
  errno = 0;
  unsigned long long v = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || v < min || v > max) {
    char line[160];
    snprintf(line, sizeof line, "--%s %.40s: want %llu to %llu", name, text, (unsigned long long)min, (unsigned long long)max);
    usage(line);
  }
  return v;
}

static void wire_arg(const char *name, const char *text, struct np_relay_params *out) {
  char error[160];
  char line[224];
  if (np_relay_parse(text, out, error, sizeof error)) return;
  snprintf(line, sizeof line, "--%s: %s", name, error);
  usage(line);
}

static void parse_args(int argc, char **argv, struct options *o) {
  static const struct option names[] = {{"a", 1, NULL, 'a'},    {"b", 1, NULL, 'b'},   {"ab", 1, NULL, 'A'},
                                        {"ba", 1, NULL, 'B'},   {"seed", 1, NULL, 's'}, {"time", 1, NULL, 't'},
                                        {"cpu", 1, NULL, 'c'},  {"buffers", 1, NULL, 'n'}, {NULL, 0, NULL, 0}};
  *o = (struct options){.seed = 1, .time_s = 600, .bufs = 32768, .cpu = -1};
  opterr = 0;
  for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    switch (c) {
      case 'a': o->ifname[0] = optarg; break;
      case 'b': o->ifname[1] = optarg; break;
      case 'A': wire_arg("ab", optarg, &o->params[0]); break;
      case 'B': wire_arg("ba", optarg, &o->params[1]); break;
      case 's': o->seed = count_arg("seed", optarg, 0, UINT64_MAX); break;
      case 't': o->time_s = (uint32_t)count_arg("time", optarg, 1, TIME_S_MAX); break;
      case 'c': o->cpu = (int)count_arg("cpu", optarg, 0, CPU_SETSIZE - 1); break;
      case 'n': o->bufs = (uint32_t)count_arg("buffers", optarg, BUFS_MIN, BUFS_MAX); break;
      default: usage(optind > 0 && optind <= argc ? argv[optind - 1] : "unknown option");
    }
  }
  if (optind != argc) usage(argv[optind]);
  for (uint32_t i = 0; i < 2; i++) {
    if (o->ifname[i] == NULL) usage("--a and --b must be given");
    if (strlen(o->ifname[i]) >= IFNAMSIZ) usage("interface name too long");
  }
  if (strcmp(o->ifname[0], o->ifname[1]) == 0) usage("--a and --b are the same interface");
}

static NP_PRINTF(1, 2) bool fail(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  fputs("np-relay: ", stderr);
  vfprintf(stderr, format, ap);
  va_end(ap);
  fputc('\n', stderr);
  return false;
}

static bool mtu_of(const char *ifname, uint32_t *mtu) {
  struct ifreq r;
  memset(&r, 0, sizeof r);
  memcpy(r.ifr_name, ifname, strlen(ifname));
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail("socket: %s", strerror(errno));
  int bad = ioctl(fd, SIOCGIFMTU, &r) != 0 ? errno : 0;
  close(fd);
  if (bad != 0) return fail("interface %s: %s", ifname, strerror(bad));
  *mtu = (uint32_t)r.ifr_mtu;
  return true;
}

static bool take_memory(struct relay *r, const struct options *o, uint32_t mtu) {
  uint32_t chunk = mtu <= 1536 ? 2048 : 4096;
  r->mem_bytes = (size_t)o->bufs * chunk;
  void *mem = mmap(NULL, r->mem_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mem == MAP_FAILED) return fail("%zu bytes of packet memory: %s", r->mem_bytes, strerror(errno));
  r->mem = mem;
  r->stack = malloc(np_pool_stack_bytes(o->bufs));
  if (r->stack == NULL) return fail("out of memory");
  np_pool_init(&r->pool, mem, o->bufs, chunk, r->stack, &r->counters);
  uint64_t seed = o->seed;
  for (uint32_t i = 0; i < 2; i++) {
    struct side *s = &r->side[i];
    uint32_t max = o->bufs / 2; /* both ways; the rest is for receiving and sending */
    s->heap = malloc(max * sizeof *s->heap);
    if (s->heap == NULL) return fail("out of memory");
    np_relay_init(&s->link, &o->params[i], np_splitmix64(&seed), s->heap, max);
  }
  return true;
}

static bool open_side(struct relay *r, struct side *s, const char *ifname, uint32_t mtu) {
  uint32_t ifindex = if_nametoindex(ifname);
  const char *what = NULL;
  int sys = np_relay_attach(&s->xdp, ifindex, mtu > MTU_ONE_CHUNK, &what);
  if (sys != 0) return fail("%s on %s: %s", what, ifname, strerror(sys));
  struct np_afxdp_args a = {.ifindex = ifindex, .mtu_bytes = mtu, .native = 1};
  memcpy(a.ifname, ifname, strlen(ifname));
  struct np_err_detail detail = {.text = ""};
  enum np_err err = np_afxdp_open(&a, &r->pool, &s->xsk, &detail);
  if (err != NP_ERR_OK) return fail("%s", detail.text[0] != '\0' ? detail.text : np_err_text(err));
  s->port = np_afxdp_port(s->xsk);
  s->port->ops->flush(s->port); /* posts the first buffers, before frames come */
  sys = np_relay_steer(&s->xdp, np_afxdp_fd(s->xsk));
  return sys == 0 || fail("steer %s: %s", ifname, strerror(sys));
}

static bool set_up(struct relay *r, const struct options *o) {
  uint32_t mtu[2];
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  r->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (r->signals < 0) return fail("signalfd: %s", strerror(errno));
  (void)prctl(PR_SET_TIMERSLACK, 1000ul);
  if (o->cpu >= 0) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)o->cpu, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) return fail("--cpu %d: %s", o->cpu, strerror(errno));
  }
  if (!mtu_of(o->ifname[0], &mtu[0]) || !mtu_of(o->ifname[1], &mtu[1])) return false;
  if (mtu[0] != mtu[1]) return fail("MTU of %s is %u, of %s %u: want the same", o->ifname[0], mtu[0], o->ifname[1], mtu[1]);
  if (!take_memory(r, o, mtu[0])) return false;
  return open_side(r, &r->side[0], o->ifname[0], mtu[0]) && open_side(r, &r->side[1], o->ifname[1], mtu[0]);
}

static void tear_down(struct relay *r) {
  for (uint32_t i = 0; i < 2; i++) {
    struct side *s = &r->side[i];
    np_relay_detach(&s->xdp);
    if (s->xsk != NULL) np_afxdp_shut(s->xsk);
  }
  for (uint32_t i = 0; i < 2; i++) {
    struct side *s = &r->side[i];
    if (s->xsk != NULL) np_afxdp_reclaim(s->xsk);
    if (s->xsk != NULL) np_afxdp_free(s->xsk);
    np_relay_drain(&s->link);
    for (uint32_t k = 0; k < s->wait_count; k++) np_buf_put_chain(s->wait[k]);
    free(s->heap);
  }
  if (r->stack != NULL) np_assert(r->pool.free_count == r->pool.count); /* every buffer came back */
  if (r->mem != NULL) munmap(r->mem, r->mem_bytes);
  free(r->stack);
  if (r->signals >= 0) close(r->signals);
}

/* Frames of one side in, and those whose time has come out of the other. Return: how many moved. */
static uint32_t carry(struct side *from, struct side *to, uint64_t now_ns) {
  struct np_buf *bufs[NP_BURST];
  uint32_t got = from->port->ops->rx(from->port, bufs, NP_BURST);
  for (uint32_t i = 0; i < got; i++) {
    NP_PREFETCH(np_buf_cdata(bufs[i]));
    np_relay_push(&from->link, bufs[i], now_ns);
  }
  from->wait_count += np_relay_pop(&from->link, from->wait + from->wait_count, NP_BURST - from->wait_count, now_ns);
  if (from->wait_count == 0) return got;
  uint32_t sent = to->port->ops->tx(to->port, from->wait, from->wait_count);
  from->wait_count -= sent;
  memmove(from->wait, from->wait + sent, from->wait_count * sizeof from->wait[0]);
  return got + sent;
}

static bool turn(struct relay *r, uint64_t now_ns) {
  uint32_t moved = carry(&r->side[0], &r->side[1], now_ns);
  moved += carry(&r->side[1], &r->side[0], now_ns);
  for (uint32_t i = 0; i < 2; i++) r->side[i].port->ops->flush(r->side[i].port);
  return moved > 0;
}

/* Ten times a second. Return: false when the relay must end. */
static bool look(struct relay *r, const struct options *o, uint64_t now_ns, bool *failed) {
  struct signalfd_siginfo info;
  if (read(r->signals, &info, sizeof info) == (ssize_t)sizeof info) return false;
  for (uint32_t i = 0; i < 2; i++) {
    struct side *s = &r->side[i];
    s->port->ops->check(s->port);
    if (!s->port->down) {
      s->down_since_ns = 0;
    } else if (s->down_since_ns == 0) {
      s->down_since_ns = now_ns;
    } else if (now_ns - s->down_since_ns > DOWN_NS_MAX) {
      *failed = true;
      return fail("interface %s is down or gone", o->ifname[i]);
    }
  }
  return true;
}

static void sleep_until(struct relay *r, uint64_t now_ns, uint64_t end_ns) {
  uint64_t due = np_min_u64(np_relay_next_ns(&r->side[0].link), np_relay_next_ns(&r->side[1].link));
  due = np_min_u64(due == UINT64_MAX ? due : due - np_min_u64(due, WAKE_EARLY_NS), np_min_u64(end_ns, now_ns + SLEEP_NS_MAX));
  if (due <= now_ns) return;
  struct pollfd fds[3] = {{.fd = np_afxdp_fd(r->side[0].xsk), .events = POLLIN},
                          {.fd = np_afxdp_fd(r->side[1].xsk), .events = POLLIN},
                          {.fd = r->signals, .events = POLLIN}};
  const struct timespec ts = {.tv_sec = (time_t)((due - now_ns) / UINT64_C(1000000000)),
                              .tv_nsec = (long)((due - now_ns) % UINT64_C(1000000000))};
  (void)ppoll(fds, 3, &ts, NULL); /* whatever it says, the next turn looks */
}

/* Return: false when an interface went away. bound: the time limit */
static bool run(struct relay *r, const struct options *o) {
  uint64_t now = clock_ns();
  uint64_t end = now + (uint64_t)o->time_s * UINT64_C(1000000000);
  uint64_t busy = now;
  uint64_t looked = 0;
  bool failed = false;
  for (; now < end; now = clock_ns()) {
    if (turn(r, now)) {
      busy = now;
    } else if (now - busy > SPIN_NS) {
      sleep_until(r, now, end);
      looked = 0;
    } else {
      NP_PAUSE();
    }
    if (now - looked < CHECK_NS) continue;
    looked = now;
    if (!look(r, o, now, &failed)) break;
  }
  return !failed;
}

static void report(struct relay *r, const struct options *o) {
  for (uint32_t i = 0; i < 2; i++) {
    struct side *s = &r->side[i];
    const struct np_relay_stats *t = &s->link.stats;
    struct np_queue_stats q;
    np_afxdp_stats(s->xsk, &q);
    printf("{\"from\":\"%s\",\"to\":\"%s\",\"in\":%llu,\"in_bytes\":%llu,\"out\":%llu,\"out_bytes\":%llu,\"lost\":%llu,"
           "\"queue_full\":%llu,\"slab_full\":%llu,\"reordered\":%llu,\"duplicated\":%llu,\"corrupted\":%llu,"
           "\"marked\":%llu,\"on_way\":%u,\"late_us_max\":%llu,\"rx_dropped\":%llu}\n",
           o->ifname[i], o->ifname[1 - i], (unsigned long long)t->in_pkts, (unsigned long long)t->in_bytes,
           (unsigned long long)t->out_pkts, (unsigned long long)t->out_bytes, (unsigned long long)t->lost_pkts,
           (unsigned long long)t->queue_full_pkts, (unsigned long long)t->slab_full_pkts,
           (unsigned long long)t->reordered_pkts, (unsigned long long)t->duplicated_pkts,
           (unsigned long long)t->corrupted_pkts, (unsigned long long)t->marked_pkts, s->link.count,
           (unsigned long long)(t->late_ns_max / 1000u), (unsigned long long)q.rx_dropped);
  }
  fflush(stdout);
}

int main(int argc, char **argv) {
  struct options o;
  parse_args(argc, argv, &o);
  struct relay *r = calloc(1, sizeof *r);
  if (r == NULL) return fail("out of memory") ? 0 : 1;
  r->signals = -1;
  for (uint32_t i = 0; i < 2; i++) r->side[i].xdp = (struct np_relay_xdp){-1, -1, -1};
  bool ok = set_up(r, &o);
  if (ok) {
    puts("ready");
    fflush(stdout);
    ok = run(r, &o);
    report(r, &o);
  }
  tear_down(r);
  free(r);
  return ok ? 0 : 1;
}
