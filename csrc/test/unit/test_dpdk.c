/* DPDK's ports over virtual devices that need neither root nor huge pages: what is sent arrives, whoever owns
 * the memory, and every buffer is in its pool again when a device ends, whatever it held. */
#include <errno.h>
#include <pcap/pcap.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/chain.h"
#include "io/dpdk/dpdk.h"
#include "test/unit/cmocka_np.h"

#define BUFS 1024u
#define CHUNK 2048u
#define KILLS 6u

struct rig {
  struct np_counters counters;
  struct np_pool pool;
  void *mem;
  void *stack;
};

static int setup(void **state) {
  struct rig *r = calloc(1, sizeof *r);
  r->mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  r->stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&r->pool, r->mem, BUFS, CHUNK, r->stack, &r->counters);
  *state = r;
  return 0;
}

static int teardown(void **state) {
  struct rig *r = *state;
  assert_int_equal(r->pool.free_count, BUFS);
  assert_int_equal(r->pool.reserve_count, 0);
  free(r->stack);
  free(r->mem);
  free(r);
  return 0;
}

static struct np_dpdk_args args_of(const char *device, uint32_t queues) {
  struct np_dpdk_args a = {.name = "port", .queues = queues};
  snprintf(a.device, sizeof a.device, "%s", device);
  return a;
}

static enum np_err try_open(struct rig *r, const struct np_dpdk_args *a, struct np_dpdk_device **out, struct np_err_detail *detail) {
  const struct np_dpdk_core core[2] = {{.pool = &r->pool}, {.pool = &r->pool}};
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) CPU_SET(0, &cpus);
  return np_dpdk_open(a, &cpus, core, 2, out, detail);
}

/* False: this build has no DPDK, and the test is skipped. */
static bool have_dpdk(struct rig *r) {
  struct np_dpdk_args a = args_of("", 1);
  struct np_dpdk_device *d;
  return try_open(r, &a, &d, NULL) != NP_ERR_UNSUPPORTED;
}

static struct np_port_queue *open_args(struct rig *r, const struct np_dpdk_args *a, struct np_dpdk_info *info) {
  struct np_dpdk_device *d = NULL;
  struct np_err_detail detail;
  if (try_open(r, a, &d, &detail) != NP_ERR_OK) fail_msg("%s", detail.text);
  struct np_port_queue *q = np_dpdk_port(d, 0);
  np_dpdk_lend(d, 0);
  if (np_dpdk_run(d, info, &detail) != NP_ERR_OK) fail_msg("%s", detail.text);
  q->ops->flush(q);
  return q;
}

static struct np_port_queue *open_one(struct rig *r, const char *device, struct np_dpdk_info *info) {
  struct np_dpdk_args a = args_of(device, 1);
  return open_args(r, &a, info);
}

static void close_one(struct np_port_queue *q) {
  q->ops->shut(q);
  q->ops->reclaim(q);
  q->ops->free(q);
}

static struct np_buf *packet(struct rig *r, uint32_t bytes, uint8_t seed) {
  struct np_buf *b = np_pool_get(&r->pool);
  assert_non_null(b);
  uint8_t *p = np_buf_append(b, bytes);
  for (uint32_t i = 0; i < bytes; i++) p[i] = (uint8_t)(seed + i);
  return b;
}

static void check_packet(const struct np_buf *b, uint32_t bytes, uint8_t seed) {
  assert_int_equal(np_buf_total(b), bytes);
  for (uint32_t i = 0; i < bytes; b = b->next) {
    assert_non_null(b);
    for (uint32_t k = 0; k < b->len; k++, i++) assert_int_equal(np_buf_cdata(b)[k], (uint8_t)(seed + i));
  }
}

static uint64_t time_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void nap(void) {
  const struct timespec t = {.tv_nsec = 1000000};
  nanosleep(&t, NULL);
}

/* Waits until the port is up, or down. */
static void wait_link(struct np_port_queue *q, bool down) {
  for (uint32_t i = 0; i < 5000; i++) {
    q->ops->check(q);
    q->ops->flush(q);
    if (q->down == down) return;
    nap();
  }
  fail_msg("the link did not go %s", down ? "down" : "up");
}

/* Receives n packets within two seconds, from a peer whose core turns as well. */
static void receive(struct np_port_queue *q, struct np_port_queue *peer, struct np_buf **out, uint32_t n) {
  uint32_t got = 0;
  for (uint32_t i = 0; i < 2000 && got < n; i++) {
    uint32_t k = q->ops->rx(q, out + got, n - got);
    got += k;
    q->ops->flush(q);
    peer->ops->flush(peer);
    if (k == 0) nap();
  }
  assert_int_equal(got, n);
}

static void test_bad(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  const struct {
    const char *device;
    uint32_t queues;
    uint32_t mtu;
    uint32_t ring;
    enum np_err err;
    const char *text;
  } cases[] = {
      {"", 1, 0, 0, NP_ERR_INVALID, "empty"},
      {"eth0", 1, 0, 0, NP_ERR_INVALID, "neither a PCI address"},
      {"0000:zz:00.0", 1, 0, 0, NP_ERR_INVALID, "neither a PCI address"},
      {"fffe:ff:1f.7", 1, 0, 0, NP_ERR_NODEV, "there is no PCI device fffe:ff:1f.7"},
      {"net_nonesuch0", 1, 0, 0, NP_ERR_SYS, "make device net_nonesuch0"},
      {"net_null0\nx", 1, 0, 0, NP_ERR_INVALID, "character"},
      {"net_null0,no=such", 1, 0, 0, NP_ERR_SYS, "make device net_null0,no=such"},
      {"net_tap0", 1, 0, 0, NP_ERR_UNSUPPORTED, "use backend \"tap\""},
      {"net_null0", 65, 0, 0, NP_ERR_INVALID, "queues of port is 65"},
      {"net_null0", 1, 100, 0, NP_ERR_INVALID, "mtu of port is 100"},
      {"net_null0", 1, 0, 7, NP_ERR_INVALID, "ring of port is 7"},
      {"net_pcap0,rx_pcap=/nonesuch/file", 1, 0, 0, NP_ERR_SYS, "net_pcap0"},
      {"net_pcap0,tx_pcap=/dev/null,rx_iface=nonesuch", 1, 0, 0, NP_ERR_SYS, "net_pcap0"},
  };
  for (size_t i = 0; i < NP_COUNT_OF(cases); i++) {
    struct np_dpdk_args a = args_of(cases[i].device, cases[i].queues);
    a.mtu_bytes = cases[i].mtu;
    a.ring = cases[i].ring;
    struct np_dpdk_device *d = NULL;
    struct np_err_detail detail;
    enum np_err err = try_open(r, &a, &d, &detail);
    if (err == NP_ERR_OK) fail_msg("%s was accepted", cases[i].device);
    if (err != cases[i].err || strstr(detail.text, cases[i].text) == NULL) {
      fail_msg("%s: error %d, \"%s\"", cases[i].device, err, detail.text);
    }
    assert_null(d);
  }
}

/* One device is one interface's, and can be had again when that ends. */
static void test_twice(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  for (uint32_t i = 0; i < 3; i++) {
    struct np_dpdk_info info;
    struct np_port_queue *q = open_one(r, "net_null0", &info);
    struct np_dpdk_args a = args_of("net_null0", 1);
    struct np_dpdk_device *d = NULL;
    struct np_err_detail detail;
    assert_int_equal(try_open(r, &a, &d, &detail), NP_ERR_BUSY);
    assert_non_null(strstr(detail.text, "another interface has it"));
    assert_string_equal(info.driver, "net_null");
    assert_int_equal(info.copies, 0);
    assert_true(info.link_up);
    close_one(q);
    assert_int_equal(r->pool.free_count, BUFS);
  }
}

/* A device that has all packets of the world, and takes all. */
static void test_null(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  struct np_dpdk_info info;
  struct np_port_queue *q = open_one(r, "net_null0,size=100", &info);
  struct np_buf *got[NP_BURST];
  for (uint32_t round = 0; round < 50; round++) {
    uint32_t n = q->ops->rx(q, got, NP_BURST);
    assert_true(n > 0);
    for (uint32_t i = 0; i < n; i++) {
      assert_int_equal(got[i]->len, 100);
      assert_int_equal(got[i]->refs, 1);
      assert_int_equal(got[i]->data_off, NP_BUF_DATA_OFF);
      assert_null(got[i]->next);
    }
    uint32_t half = n / 2;
    assert_int_equal(q->ops->tx(q, got, half), half); /* what came goes out again, */
    for (uint32_t i = half; i < n; i++) np_buf_put(got[i]); /* or is dropped */
    q->ops->flush(q);
    assert_int_equal(r->pool.free_count, BUFS);
  }
  /* a buffer that somebody else holds as well stays his */
  struct np_buf *b = packet(r, 60, 1);
  b->refs++;
  assert_int_equal(q->ops->tx(q, &b, 1), 1);
  b->refs++;
  assert_int_equal(q->ops->tx(q, &b, 1), 1);
  assert_int_equal(b->refs, 3);
  q->ops->flush(q);
  assert_int_equal(b->refs, 1);
  np_buf_put(b);
  struct np_queue_stats s;
  q->ops->statistics(q, &s);
  assert_true(s.rx_pkts >= 50 && s.tx_pkts > 50);
  assert_int_equal(s.rx_bytes, 100 * s.rx_pkts);
  close_one(q);
}

/* All but the last buffers are held by others: receiving gets the reserve, nothing breaks, and it goes on. */
static void test_short_of_buffers(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  struct np_dpdk_info info;
  struct np_port_queue *q = open_one(r, "net_null0", &info);
  struct np_buf *held = NULL;
  for (struct np_buf *b = np_pool_get(&r->pool); b != NULL; b = np_pool_get(&r->pool)) {
    b->next = held;
    held = b;
  }
  assert_int_equal(r->pool.free_count, r->pool.reserve_count);
  assert_true(r->pool.free_count > 0);
  struct np_buf *got[NP_BURST];
  uint32_t all = 0;
  for (uint32_t i = 0; i < 10; i++) {
    uint32_t n = q->ops->rx(q, got, NP_BURST);
    for (uint32_t k = 0; k < n; k++) {
      got[k]->next = held;
      held = got[k];
    }
    all += n;
  }
  assert_true(all > 0 && all <= r->pool.reserve_count);
  np_buf_put_chain(held);
  assert_true(q->ops->rx(q, got, 1) == 1);
  np_buf_put(got[0]);
  close_one(q);
}

/* The driver passes on the mbuf itself: what arrives is a copy, and what was sent is free at once. */
static void test_ring(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  struct np_dpdk_info info;
  struct np_port_queue *q = open_one(r, "net_ring0", &info);
  assert_int_equal(info.copies, 1);
  for (uint32_t bytes = 60; bytes <= 1514; bytes += 97) {
    struct np_buf *b = packet(r, bytes, 3);
    struct np_buf *more = packet(r, 40, (uint8_t)(3 + bytes));
    b->next = more;
    assert_int_equal(q->ops->tx(q, &b, 1), 1);
    assert_int_equal(r->pool.free_count, BUFS);
    q->ops->flush(q);
    assert_true(q->ops->busy(q));
    receive(q, q, &b, 1);
    assert_false(q->ops->busy(q));
    check_packet(b, bytes + 40, 3);
    np_buf_put_chain(b);
  }
  /* what is on its way when the device ends is its own */
  struct np_buf *b = packet(r, 60, 1);
  assert_int_equal(q->ops->tx(q, &b, 1), 1);
  q->ops->flush(q);
  b = packet(r, 60, 1);
  assert_int_equal(q->ops->tx(q, &b, 1), 1);
  close_one(q);
}

/* What the MTU allows fits the driver's own memory. */
static void test_ring_mtu(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  struct np_dpdk_args a = args_of("net_ring0", 1);
  struct np_dpdk_info info;
  a.mtu_bytes = 9000;
  struct np_port_queue *q = open_args(r, &a, &info);
  assert_int_equal(info.mtu_bytes, 9000);
  const uint32_t sizes[] = {1514, 2048, 2049, 9018};
  for (size_t i = 0; i < NP_COUNT_OF(sizes); i++) {
    struct np_buf *b = NULL;
    for (uint32_t left = sizes[i]; left > 0;) { /* from its end */
      uint32_t n = (left - 1) % 1500 + 1;
      struct np_buf *p = packet(r, n, (uint8_t)(11 + left - n));
      p->next = b;
      b = p;
      left -= n;
    }
    assert_int_equal(q->ops->tx(q, &b, 1), 1);
    q->ops->flush(q);
    receive(q, q, &b, 1);
    check_packet(b, sizes[i], 11);
    np_buf_put_chain(b);
  }
  close_one(q);
}

static void test_pcap(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  char in[] = "/tmp/np-test-dpdk-in-XXXXXX";
  char out[] = "/tmp/np-test-dpdk-out-XXXXXX";
  close(mkstemp(in));
  close(mkstemp(out));
  pcap_t *p = pcap_open_dead(DLT_EN10MB, 65535);
  pcap_dumper_t *w = pcap_dump_open(p, in);
  assert_non_null(w);
  uint8_t frame[4000];
  for (uint32_t i = 0; i < sizeof frame; i++) frame[i] = (uint8_t)(9 + i);
  const uint32_t sizes[] = {60, 1514, 3000};
  for (size_t i = 0; i < NP_COUNT_OF(sizes); i++) {
    struct pcap_pkthdr h = {.caplen = sizes[i], .len = sizes[i]};
    pcap_dump((u_char *)w, &h, frame);
  }
  pcap_dump_close(w);
  pcap_close(p);
  char device[200];
  snprintf(device, sizeof device, "net_pcap0,rx_pcap=%s,tx_pcap=%s", in, out);
  struct np_dpdk_info info;
  struct np_port_queue *q = open_one(r, device, &info);
  struct np_buf *got[3];
  receive(q, q, got, 3);
  for (uint32_t i = 0; i < 3; i++) check_packet(got[i], sizes[i], 9); /* the last one in two buffers */
  assert_non_null(got[2]->next);
  assert_int_equal(q->ops->tx(q, got, 3), 3);
  q->ops->flush(q);
  assert_int_equal(r->pool.free_count, BUFS);
  close_one(q);
  char why[PCAP_ERRBUF_SIZE];
  p = pcap_open_offline(out, why);
  assert_non_null(p);
  for (uint32_t i = 0; i < 3; i++) {
    struct pcap_pkthdr *h;
    const u_char *bytes;
    assert_int_equal(pcap_next_ex(p, &h, &bytes), 1);
    assert_int_equal(h->caplen, sizes[i]);
    assert_memory_equal(bytes, frame, sizes[i]);
  }
  pcap_close(p);
  unlink(in);
  unlink(out);
}

/* The two ends of a memif; number is the client's device, the server's has 0. */
struct pair {
  char server[160];
  char client[160];
};

static struct pair memif_pair(const char *name, uint32_t number) {
  struct pair p;
  static const char format[] = "net_memif%u,role=%s,socket-abstract=yes,socket=np-test-%s-%ld,rsize=9";
  snprintf(p.server, sizeof p.server, format, 0u, "server", name, (long)getpid());
  snprintf(p.client, sizeof p.client, format, number, "client", name, (long)getpid());
  return p;
}

/* Two ends in one process: packets there and back, chains, a full ring, a peer that goes and returns. */
static void test_memif(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  const struct pair pair = memif_pair("pair", 1u);
  struct np_dpdk_info info;
  struct np_port_queue *a = open_one(r, pair.server, &info);
  assert_true(a->down);
  struct np_buf *got[NP_BURST];
  for (uint32_t life = 0; life < 3; life++) {
    struct np_port_queue *b = open_one(r, pair.client, &info);
    wait_link(a, false);
    wait_link(b, false);
    for (uint32_t i = 0; i < 40; i++) {
      struct np_buf *p = packet(r, 60 + 30 * i, (uint8_t)i);
      if (i % 3 == 0) p->next = packet(r, 50, (uint8_t)(i + 60 + 30 * i));
      struct np_port_queue *from = i % 2 == 0 ? a : b;
      assert_int_equal(from->ops->tx(from, &p, 1), 1);
      from->ops->flush(from);
      receive(i % 2 == 0 ? b : a, from, got, 1);
      check_packet(got[0], 60 + 30 * i + (i % 3 == 0 ? 50 : 0), (uint8_t)i);
      np_buf_put_chain(got[0]);
    }
    uint32_t sent = 0;
    for (;;) { /* until nothing more goes in */
      struct np_buf *p = packet(r, 60, 7);
      if (a->ops->tx(a, &p, 1) == 0) {
        np_buf_put(p);
        break;
      }
      sent++;
    }
    assert_true(sent >= 512 && sent <= 600);
    receive(b, a, got, 30);
    for (uint32_t i = 0; i < 30; i++) np_buf_put(got[i]);
    close_one(b); /* with packets in the ring and at a's */
    wait_link(a, true);
    struct np_buf *p = packet(r, 60, 7);
    assert_int_equal(a->ops->tx(a, &p, 1), 0);
    np_buf_put(p);
    assert_int_equal(a->ops->rx(a, got, NP_BURST), 0);
    a->ops->flush(a);
    assert_int_equal(r->pool.free_count, BUFS);
  }
  close_one(a);
}

/* The other process of test_memif_killed: sends what it can, drops what comes, until it is killed. */
NP_NORETURN static void peer(const char *device) {
  void *state = NULL;
  setup(&state);
  struct rig *r = state;
  struct np_dpdk_info info;
  struct np_port_queue *q = open_one(r, device, &info);
  uint64_t checked = 0;
  for (uint32_t i = 0;; i++) {
    struct np_buf *got[NP_BURST];
    uint32_t n = q->ops->rx(q, got, NP_BURST);
    while (n > 0) np_buf_put(got[--n]);
    struct np_buf *p = packet(r, 1000, (uint8_t)i);
    if (q->ops->tx(q, &p, 1) == 0) np_buf_put(p);
    q->ops->flush(q);
    if (i % 1000 != 0 || time_ms() - checked < 100) continue;
    checked = time_ms();
    q->ops->check(q);
  }
}

/* Sends and receives as fast as it goes. Return: packets received. */
static uint64_t exchange(struct rig *r, struct np_port_queue *q) {
  struct np_buf *got[NP_BURST];
  uint32_t n = q->ops->rx(q, got, NP_BURST);
  uint64_t all = n;
  while (n > 0) np_buf_put(got[--n]);
  for (uint32_t i = 0; i < 16; i++) {
    struct np_buf *p = packet(r, 1000, 3);
    if (q->ops->tx(q, &p, 1) == 0) np_buf_put(p);
  }
  q->ops->flush(q);
  return all;
}

static pid_t start_peer(const char *device) {
  pid_t pid = fork(); /* of a process with threads: it does nothing but become another program */
  if (pid == 0) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with us, and by itself */
    (void)alarm(30);
    execl("/proc/self/exe", "test_dpdk", "peer", device, (char *)NULL);
    _exit(127);
  }
  assert_true(pid > 0);
  return pid;
}

/* Traffic both ways with a peer that was started, which is then killed in the middle of it. */
static void live_and_kill(struct rig *r, struct np_port_queue *q, pid_t pid) {
  wait_link(q, false);
  uint64_t got = 0;
  for (uint32_t i = 0; got < 20000 && i < 20000000; i++) got += exchange(r, q);
  assert_true(got >= 20000);
  kill(pid, SIGKILL);
  while (!q->down) { /* bound: the kernel closes a dead process's sockets */
    for (uint32_t i = 0; i < 50; i++) exchange(r, q);
    q->ops->check(q);
  }
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  q->ops->flush(q);
  assert_int_equal(r->pool.free_count, BUFS);
}

/* A peer that is killed takes its memory with it, not us. Which instruction it hits is chance: many times. */
static void test_memif_killed(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  const struct pair pair = memif_pair("killed", 0u);
  struct np_dpdk_info info;
  struct np_port_queue *a = open_one(r, pair.server, &info);
  for (uint32_t life = 0; life < KILLS; life++) live_and_kill(r, a, start_peer(pair.client));
  close_one(a);
}

/* Clients that connect and go at once, or talk nonsense: the process stays, and the next one is served. */
static void test_memif_strangers(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  const struct pair pair = memif_pair("strangers", 1u);
  struct np_dpdk_info info;
  struct np_port_queue *a = open_one(r, pair.server, &info);
  struct sockaddr_un sun = {.sun_family = AF_UNIX};
  snprintf(sun.sun_path + 1, sizeof sun.sun_path - 1, "np-test-strangers-%ld", (long)getpid());
  for (uint32_t i = 0; i < 300; i++) {
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (const struct sockaddr *)&sun, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(sun.sun_path + 1))) == 0) {
      uint8_t noise[128];
      for (uint32_t k = 0; k < sizeof noise; k++) noise[k] = (uint8_t)(i * 7 + k * k);
      noise[0] = (uint8_t)(i % 9); /* the message's type */
      noise[1] = 0;
      if (i % 3 != 0) (void)send(fd, noise, i % 2 != 0 ? sizeof noise : i % sizeof noise, MSG_NOSIGNAL);
      if (i % 5 == 0) nap();
    } else {
      assert_int_equal(errno, ECONNREFUSED);
    }
    close(fd);
  }
  struct np_port_queue *b = open_one(r, pair.client, &info);
  wait_link(b, false);
  wait_link(a, false);
  struct np_buf *p = packet(r, 100, 5);
  assert_int_equal(b->ops->tx(b, &p, 1), 1);
  receive(a, b, &p, 1);
  check_packet(p, 100, 5);
  np_buf_put(p);
  close_one(b);
  close_one(a);
}

/* A client whose server comes late, is killed and comes back. */
static void test_memif_redial(void **state) {
  struct rig *r = *state;
  if (!have_dpdk(r)) skip();
  const struct pair pair = memif_pair("redial", 0u);
  struct np_dpdk_info info;
  struct np_port_queue *q = open_one(r, pair.client, &info);
  assert_true(q->down);
  assert_false(info.link_up);
  for (uint32_t i = 0; i < 25; i++) q->ops->check(q);
  assert_true(q->down);
  for (uint32_t life = 0; life < 3; life++) live_and_kill(r, q, start_peer(pair.server));
  close_one(q);
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "peer") == 0) peer(argv[2]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_bad, setup, teardown),   cmocka_unit_test_setup_teardown(test_twice, setup, teardown),
      cmocka_unit_test_setup_teardown(test_null, setup, teardown),  cmocka_unit_test_setup_teardown(test_short_of_buffers, setup, teardown),
      cmocka_unit_test_setup_teardown(test_ring, setup, teardown),  cmocka_unit_test_setup_teardown(test_ring_mtu, setup, teardown),
      cmocka_unit_test_setup_teardown(test_pcap, setup, teardown),
      cmocka_unit_test_setup_teardown(test_memif, setup, teardown), cmocka_unit_test_setup_teardown(test_memif_redial, setup, teardown),
      cmocka_unit_test_setup_teardown(test_memif_killed, setup, teardown), cmocka_unit_test_setup_teardown(test_memif_strangers, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
