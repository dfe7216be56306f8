/* The kernel's TCP as the other side of a benchmark: an epoll echo, sink and source
 * server, and a load client that drives any server, ours included.
 *
 *   peer serve PORT [spin]               echo on PORT, discard on PORT+1, source on PORT+2; until SIGTERM;
 *                                        spin: never sleeps while it has connections
 *   peer echo ADDR PORT CONNS SIZE SECS  closed loop, one request in flight per connection
 *   peer send ADDR PORT SECS             one connection, as fast as it goes
 *   peer recv ADDR PORT SECS             one connection, reads as fast as it goes
 *   peer serve PATH                      echo on a Unix socket
 *   (ADDR "unix": PORT is a Unix socket's path)
 *   peer hold ADDR PORT CONNS SECS       opens connections and leaves them alone
 *
 * One thread, level-triggered epoll, TCP_NODELAY. Each run prints one line of
 * key=value pairs. serve answers a line on stdin with its CPU time and counts so far. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 65536u
#define CONNS_MAX 4096u
#define SAMPLES_MAX 4000000u

static uint64_t clock_ns(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what) {
  fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void nodelay(int fd) {
  int one = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_un unix_addr(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof a.sun_path) {
    fprintf(stderr, "peer: %s: want a path of at most %zu bytes\n", path, sizeof a.sun_path - 1);
    exit(2);
  }
  memcpy(a.sun_path, path, strlen(path) + 1);
  return a;
}

static int dial_unix(const char *path) {
  struct sockaddr_un a = unix_addr(path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) die("connect");
  return fd;
}

static int dial(const char *addr, const char *port) {
  if (strcmp(addr, "unix") == 0) return dial_unix(port);
  struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
  struct addrinfo *ai = NULL;
  if (getaddrinfo(addr, port, &hint, &ai) != 0) {
    fprintf(stderr, "peer: %s port %s: want a numeric address and port\n", addr, port);
    exit(2);
  }
  int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (connect(fd, ai->ai_addr, ai->ai_addrlen) != 0) die("connect");
  freeaddrinfo(ai);
  nodelay(fd);
  return fd;
}

/* ---- server ---- */

enum service { ECHO, SINK, SOURCE };

struct serve {
  int epoll;
  int listener[3];
  uint64_t requests;
  uint64_t bytes_in;
  uint64_t bytes_out;
  uint32_t conns;
  char buf[CHUNK];
};

/* epoll data: fd in the low half, service in bits 32-33, bit 40 marks a listener */
#define MARK_LISTEN (UINT64_C(1) << 40)

static void add(struct serve *s, int fd, enum service svc, uint32_t events, uint64_t mark) {
  struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)(uint32_t)fd | (uint64_t)svc << 32 | mark};
  if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) != 0) die("epoll_ctl");
}

static int listen_on(uint16_t port) {
  int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  int one = 1;
  int zero = 0;
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0) die("bind");
  if (listen(fd, 1024) != 0) die("listen");
  return fd;
}

static int listen_unix(const char *path) {
  struct sockaddr_un a = unix_addr(path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0) die("bind");
  if (listen(fd, 1024) != 0) die("listen");
  return fd;
}

/* Blocking-free echo: what the socket does not take is waited for, one peer at a time; loads
 * here never have more in flight than a socket buffer. */
static int write_all(int fd, const char *p, size_t n) {
  while (n > 0) {
    ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
    if (w < 0 && errno == EAGAIN) continue;
    if (w <= 0) return -1;
    p += w;
    n -= (size_t)w;
  }
  return 0;
}

static void hang_up(struct serve *s, int fd) {
  close(fd);
  s->conns--;
}

static void serve_one(struct serve *s, int fd, enum service svc, uint32_t events) {
  if (svc == SOURCE && (events & EPOLLOUT)) {
    ssize_t w = send(fd, s->buf, CHUNK, MSG_NOSIGNAL);
    if (w > 0) s->bytes_out += (uint64_t)w;
    if (w < 0 && errno != EAGAIN) hang_up(s, fd);
    return;
  }
  ssize_t r = recv(fd, s->buf, CHUNK, 0);
  if (r < 0 && errno == EAGAIN) return;
  if (r <= 0) {
    hang_up(s, fd);
    return;
  }
  s->bytes_in += (uint64_t)r;
  if (svc == ECHO) {
    if (write_all(fd, s->buf, (size_t)r) != 0) hang_up(s, fd);
    s->requests++;
    s->bytes_out += (uint64_t)r;
  }
}

static void report(const struct serve *s) {
  printf("cpu_ns=%llu requests=%llu bytes_in=%llu bytes_out=%llu\n",
         (unsigned long long)clock_ns(CLOCK_PROCESS_CPUTIME_ID), (unsigned long long)s->requests,
         (unsigned long long)s->bytes_in, (unsigned long long)s->bytes_out);
  fflush(stdout);
}

static int serve(const char *where, int spin) {
  struct serve *s = calloc(1, sizeof *s);
  if (!s) die("calloc");
  s->epoll = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < (where[0] == '/' ? 1 : 3); i++) {
    s->listener[i] = where[0] == '/' ? listen_unix(where) : listen_on((uint16_t)(atoi(where) + i));
    add(s, s->listener[i], (enum service)i, EPOLLIN, MARK_LISTEN);
  }
  struct epoll_event in = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
  (void)epoll_ctl(s->epoll, EPOLL_CTL_ADD, 0, &in);
  struct epoll_event ev[64];
  for (;;) {
    int n = epoll_wait(s->epoll, ev, 64, spin && s->conns > 0 ? 0 : -1);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) {
      uint64_t d = ev[i].data.u64;
      if (d == UINT64_MAX) {
        char line[64];
        if (read(0, line, sizeof line) <= 0) return 0;
        report(s);
        continue;
      }
      int fd = (int)(uint32_t)d;
      enum service svc = (enum service)(d >> 32 & 3);
      if (d & MARK_LISTEN) {
        int c = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (c < 0) continue;
        nodelay(c);
        s->conns++;
        add(s, c, svc, svc == SOURCE ? EPOLLOUT : EPOLLIN, 0);
        continue;
      }
      serve_one(s, fd, svc, ev[i].events);
    }
  }
}

/* ---- client ---- */

struct load_conn {
  int fd;
  uint32_t got;
  uint64_t sent_ns;
};

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a;
  uint32_t y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static int load_echo(const char *addr, const char *port, uint32_t conns, uint32_t size, double secs) {
  if (conns == 0 || conns > CONNS_MAX || size == 0 || size > CHUNK) {
    fprintf(stderr, "peer: CONNS 1..%u, SIZE 1..%u\n", CONNS_MAX, CHUNK);
    return 2;
  }
  static char out[CHUNK];
  static char in[CHUNK];
  struct load_conn *c = calloc(conns, sizeof *c);
  uint32_t *sample = malloc(SAMPLES_MAX * sizeof *sample);
  uint32_t samples = 0;
  int ep = epoll_create1(EPOLL_CLOEXEC);
  if (!c || !sample || ep < 0) die("set up");
  memset(out, 'x', sizeof out);
  for (uint32_t i = 0; i < conns; i++) {
    c[i].fd = dial(addr, port);
    (void)fcntl(c[i].fd, F_SETFL, O_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = i};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c[i].fd, &ev) != 0) die("epoll_ctl");
  }
  uint64_t start = clock_ns(CLOCK_MONOTONIC);
  uint64_t end = start + (uint64_t)(secs * 1e9);
  uint64_t done = 0;
  uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  for (uint32_t i = 0; i < conns; i++) {
    c[i].sent_ns = clock_ns(CLOCK_MONOTONIC);
    if (write_all(c[i].fd, out, size) != 0) die("send");
  }
  struct epoll_event ev[64];
  uint64_t now = start;
  while (now < end) {
    int n = epoll_wait(ep, ev, 64, conns == 1 ? 0 : 100);
    now = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < n; i++) {
      struct load_conn *k = &c[ev[i].data.u32];
      ssize_t r = recv(k->fd, in, size - k->got, 0);
      if (r < 0 && errno == EAGAIN) continue;
      if (r <= 0) die("recv");
      k->got += (uint32_t)r;
      if (k->got < size) continue;
      k->got = 0;
      done++;
      if (samples < SAMPLES_MAX) sample[samples++] = (uint32_t)(now - k->sent_ns);
      k->sent_ns = now;
      if (write_all(k->fd, out, size) != 0) die("send");
    }
  }
  cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  qsort(sample, samples, sizeof *sample, by_value);
  double s = (double)(now - start) / 1e9;
  printf("requests=%llu seconds=%.3f rps=%.0f p50_us=%.1f p99_us=%.1f cpu_ns=%llu\n", (unsigned long long)done, s,
         (double)done / s, samples ? sample[samples / 2] / 1e3 : 0.0, samples ? sample[samples - 1 - samples / 100] / 1e3 : 0.0,
         (unsigned long long)cpu);
  return 0;
}

static int bulk(const char *addr, const char *port, double secs, int sending) {
  static char buf[CHUNK];
  int fd = dial(addr, port);
  uint64_t start = clock_ns(CLOCK_MONOTONIC);
  uint64_t end = start + (uint64_t)(secs * 1e9);
  uint64_t bytes = 0;
  uint64_t now = start;
  while (now < end) {
    ssize_t n = sending ? send(fd, buf, CHUNK, MSG_NOSIGNAL) : recv(fd, buf, CHUNK, 0);
    if (n <= 0) die(sending ? "send" : "recv");
    bytes += (uint64_t)n;
    now = clock_ns(CLOCK_MONOTONIC);
  }
  double s = (double)(now - start) / 1e9;
  printf("bytes=%llu seconds=%.3f gbps=%.3f\n", (unsigned long long)bytes, s, (double)bytes * 8 / s / 1e9);
  close(fd);
  return 0;
}

static int hold(const char *addr, const char *port, uint32_t conns, double secs) {
  for (uint32_t i = 0; i < conns; i++) (void)dial(addr, port); /* they end with the process */
  struct timespec t = {.tv_sec = (time_t)secs};
  (void)nanosleep(&t, NULL);
  return 0;
}

int main(int argc, char **argv) {
  (void)signal(SIGPIPE, SIG_IGN);
  if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(argv[2], 0);
  if (argc == 4 && strcmp(argv[1], "serve") == 0 && strcmp(argv[3], "spin") == 0) return serve(argv[2], 1);
  if (argc == 7 && strcmp(argv[1], "echo") == 0)
    return load_echo(argv[2], argv[3], (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]), atof(argv[6]));
  if (argc == 5 && strcmp(argv[1], "send") == 0) return bulk(argv[2], argv[3], atof(argv[4]), 1);
  if (argc == 5 && strcmp(argv[1], "recv") == 0) return bulk(argv[2], argv[3], atof(argv[4]), 0);
  if (argc == 6 && strcmp(argv[1], "hold") == 0) return hold(argv[2], argv[3], (uint32_t)atoi(argv[4]), atof(argv[5]));
  fprintf(stderr, "usage: peer serve PORT|PATH [spin] | echo ADDR PORT CONNS SIZE SECS | send|recv ADDR PORT SECS | hold ADDR PORT CONNS SECS\n");
  return 2;
}
