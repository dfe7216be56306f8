/* The plane: memory of all cores, their threads, starting and stopping. */
#include "np/plane.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/numa.h"
#include "core/plane.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older C libraries lack it */
#endif

#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)
#define STACK_BYTES ((size_t)1 << 20)
#define IDLE_POLL_NS_MIN UINT64_C(50000)

uint64_t np_clock_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail: constant clock, valid pointer */
  return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* ---- memory ---- */

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

/* Every page is there from now on: a core never takes a page fault later. The kernel says
 * when there is not enough, where touching the pages would get the process killed. */
static int populate(void *mem, size_t bytes) {
  if (madvise(mem, bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno;
  volatile uint8_t *p = mem; /* a kernel before 5.14 */
  for (size_t at = 0; at < bytes; at += 4096) p[at] = 0;
  return 0;
}

static int map_huge(struct np_plane_map *map, size_t bytes, int32_t node) {
  size_t rounded = round_up(bytes, HUGE_PAGE_BYTES);
  void *mem = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (mem == MAP_FAILED) return errno;
  *map = (struct np_plane_map){.base = mem, .bytes = rounded, .mem = mem, .page_bytes = HUGE_PAGE_BYTES};
  if (node >= 0) (void)np_numa_prefer(mem, rounded, node); /* a wish */
  return populate(mem, rounded);
}

/* Aligned to 2 MiB, so that the kernel can use huge pages by itself where none are reserved. */
static int map_ordinary(struct np_plane_map *map, size_t bytes, int32_t node, bool advise) {
  size_t rounded = round_up(bytes, HUGE_PAGE_BYTES);
  size_t padded = rounded + HUGE_PAGE_BYTES;
  void *base = mmap(NULL, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return errno;
  void *mem = (void *)round_up((uint64_t)(uintptr_t)base, HUGE_PAGE_BYTES);
  *map = (struct np_plane_map){.base = base, .bytes = padded, .mem = mem};
  if (advise) (void)madvise(mem, rounded, MADV_HUGEPAGE); /* a wish: kernels without it refuse */
  if (node >= 0) (void)np_numa_prefer(mem, rounded, node);
  int sys = populate(mem, bytes);
  if (sys == 0) (void)mlock(mem, bytes); /* without the right to lock, swapping is the operator's choice */
  return sys;
}

static void unmap(struct np_plane_map *map) {
  if (map->base != NULL) munmap(map->base, map->bytes);
  map->base = NULL;
}

static enum np_err map_memory(struct np_worker *w, struct np_plane_map *map, size_t bytes, uint8_t huge, const char *what,
                              struct np_err_detail *detail) {
  int sys = huge != 0 ? map_huge(map, bytes, w->node) : ENOMEM;
  if (sys == 0) return NP_ERR_OK;
  unmap(map);
  if (huge == 2) {
    np_err_detail_set(detail, sys, "take %zu MiB of huge pages for core %u's %s (see nr_hugepages)",
                      (bytes >> 20) + 1, w->index, what);
    return NP_ERR_NOMEM;
  }
  sys = map_ordinary(map, bytes, w->node, huge != 0);
  if (sys == 0) return NP_ERR_OK;
  unmap(map);
  np_err_detail_set(detail, sys, "take %zu MiB for core %u's %s", (bytes >> 20) + 1, w->index, what);
  return NP_ERR_NOMEM;
}

static enum np_err create_worker(struct np_plane *plane, uint32_t index, struct np_err_detail *detail) {
  const struct np_plane_config *c = &plane->config;
  struct np_worker *w = &plane->worker[index];
  w->index = index;
  w->cpu = c->cpu[index];
  w->node = np_numa_node("/sys", w->cpu);
  w->idle_spin_ns = c->idle_spin_ns;
  enum np_err err = map_memory(w, &w->core_map, np_core_bytes(c), c->huge_pages, "tables", detail);
  if (err != NP_ERR_OK) return err;
  size_t pool_bytes = (size_t)c->bufs_per_core * c->chunk_bytes;
  err = map_memory(w, &w->pool_map, pool_bytes, c->huge_pages, "buffers", detail);
  if (err != NP_ERR_OK) return err;
  err = np_core_init(w->core_map.mem, w->pool_map.mem, c, index, np_clock_ns(), &w->core, detail);
  if (err != NP_ERR_OK) return err;
  struct np_core_shared *shared = np_core_shared(w->core);
  shared->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (shared->event_fd >= 0) shared->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (shared->event_fd < 0 || shared->wake_fd < 0) {
    np_err_detail_set(detail, errno, "eventfd for core %u", index);
    return NP_ERR_SYS;
  }
  int sys = np_core_carriers_wake_by(w->core, shared->wake_fd);
  if (sys != 0) {
    np_err_detail_set(detail, sys, "wake core %u by its kernel sockets", index);
    return NP_ERR_SYS;
  }
  return NP_ERR_OK;
}

static void destroy_worker(struct np_worker *w) {
  if (w->core != NULL) {
    struct np_core_shared *shared = np_core_shared(w->core);
    int event_fd = shared->event_fd;
    int wake_fd = shared->wake_fd;
    shared->event_fd = -1;
    np_core_fini(w->core, np_clock_ns());
    if (event_fd >= 0) close(event_fd);
    if (wake_fd >= 0) close(wake_fd);
    w->core = NULL;
  }
  if (w->core_map.base != NULL) explicit_bzero(w->core_map.mem, sizeof(struct np_core));
  unmap(&w->core_map);
  unmap(&w->pool_map);
}

/* Which cores have a CPU to themselves: not those whose CPU another core has, and none of the unpinned ones where all
 * cores are more than the CPUs that this process may use. */
static void find_shared(struct np_plane *plane) {
  const struct np_plane_config *c = &plane->config;
  cpu_set_t set;
  uint32_t cpus = UINT32_MAX;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = (uint32_t)CPU_COUNT(&set);
  for (uint32_t i = 0; i < c->cores; i++) {
    struct np_worker *w = &plane->worker[i];
    w->shared = w->cpu < 0 && c->cores > cpus;
    for (uint32_t k = 0; k < c->cores && w->cpu >= 0; k++) w->shared |= k != i && c->cpu[k] == w->cpu;
  }
}

enum np_err np_plane_create(const struct np_plane_config *config, struct np_plane **out, struct np_err_detail *detail) {
  *out = NULL;
  enum np_err err = np_plane_config_check(config, detail);
  if (err != NP_ERR_OK) return err;
  struct np_plane *plane = calloc(1, sizeof *plane);
  if (plane == NULL) {
    np_err_detail_set(detail, 0, "create plane: out of memory");
    return NP_ERR_NOMEM;
  }
  plane->config = *config;
  for (uint32_t i = 0; i < config->cores && err == NP_ERR_OK; i++) err = create_worker(plane, i, detail);
  explicit_bzero(plane->config.secret, sizeof plane->config.secret);
  if (err != NP_ERR_OK) {
    np_plane_destroy(plane);
    return err;
  }
  struct np_core *cores[NP_CORES_MAX];
  for (uint32_t i = 0; i < config->cores; i++) cores[i] = plane->worker[i].core;
  np_mail_join(cores, config->cores);
  find_shared(plane);
  *out = plane;
  return NP_ERR_OK;
}

void np_plane_destroy(struct np_plane *plane) {
  if (plane == NULL) return;
  np_plane_stop(plane);
  np_plane_queues_close(plane);
  for (uint32_t i = 0; i < plane->config.cores; i++) destroy_worker(&plane->worker[i]);
  free(plane);
}

/* ---- the poll thread ---- */

static void drain_eventfd(int fd) {
  uint64_t value;
  ssize_t n = read(fd, &value, sizeof value);
  (void)n; /* EAGAIN: nobody wrote, the timeout ended the sleep */
}

/* A port that no descriptor tells of is looked at again and again, less often the longer it is quiet. */
static uint64_t quiet_ns(struct np_worker *w, uint64_t wait) {
  const struct np_core *core = w->core;
  uint32_t most_us = 0;
  for (uint32_t i = 0; i < core->queue_count; i++) {
    const struct np_port_queue *q = core->queue[i].port;
    if (q->idle_poll_us != 0 && !q->down && (most_us == 0 || q->idle_poll_us < most_us)) most_us = q->idle_poll_us;
  }
  if (most_us == 0) return wait;
  w->quiet_ns = np_min_u64(w->quiet_ns == 0 ? IDLE_POLL_NS_MIN : 2 * w->quiet_ns, (uint64_t)most_us * 1000u);
  return np_min_u64(wait, w->quiet_ns);
}

/* Sleeps until a port, the control side or a timer needs this core. Setting the
 * flag, then a full fence, then looking once more: a producer that published before
 * is seen here, one that publishes later sees the flag and writes wake_fd. */
static void sleep_until_needed(struct np_worker *w) {
  struct np_core *core = w->core;
  struct np_ring *cmd = core->cmd;
  __atomic_store_n(&cmd->cons_sleeping, 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!np_core_must_run(core) && __atomic_load_n(&w->stop, __ATOMIC_ACQUIRE) == 0) {
    struct pollfd fds[NP_CORE_QUEUES_MAX + NP_CARRIER_COUNT + 1];
    nfds_t n = 0;
    fds[n++] = (struct pollfd){.fd = core->shared.wake_fd, .events = POLLIN};
    for (uint32_t i = 0; i < core->queue_count; i++) {
      struct np_port_queue *q = core->queue[i].port;
      int fd = q->down ? -1 : q->ops->fd(q); /* a dead socket would end each sleep with POLLERR */
      if (fd >= 0) fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    for (uint32_t i = 0; i < core->carrier_count; i++) {
      int fd = core->carrier[i].c->ops->fd(core->carrier[i].c);
      if (fd >= 0) fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
      core->carrier[i].next_ns = 0; /* asked right after the sleep */
    }
    uint64_t next = np_core_next_ns(core);
    uint64_t now = np_clock_ns();
    uint64_t wait = quiet_ns(w, next > now ? next - now : 0);
    struct timespec ts = {.tv_sec = (time_t)(wait / UINT64_C(1000000000)), .tv_nsec = (long)(wait % UINT64_C(1000000000))};
    core->counters->counter[NP_C_IDLE_SLEEPS]++;
    /* Fails only with EINTR (all signals are blocked) or ENOMEM: then the core spins one turn more. */
    (void)ppoll(fds, n, next == UINT64_MAX && w->quiet_ns == 0 ? NULL : &ts, NULL);
    if (fds[0].revents != 0) drain_eventfd(core->shared.wake_fd);
  }
  __atomic_store_n(&cmd->cons_sleeping, 0, __ATOMIC_RELAXED);
}

static uint64_t let_others(void) {
  sched_yield();
  return np_clock_ns();
}

static void *poll_thread(void *arg) {
  struct np_worker *w = arg;
  struct np_core *core = w->core;
  uint64_t now = np_clock_ns();
  uint64_t last_work = now;
  /* acquire pairs with the release in np_plane_stop */
  while (__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE) == 0) {
    bool work = np_core_turn(core, now);
    uint64_t after = np_clock_ns(); /* the next turn's clock too: one reading per turn */
    if (work) {
      core->counters->counter[NP_C_BUSY_NS] += after - now;
      last_work = after;
      w->quiet_ns = 0;
      if (NP_UNLIKELY(w->shared)) after = let_others(); /* each turn: nobody waits for a time slice */
    } else if (after - last_work >= w->idle_spin_ns) {
      sleep_until_needed(w);
      after = np_clock_ns();
    } else if (NP_UNLIKELY(w->shared)) {
      after = let_others();
    } else {
      NP_PAUSE();
    }
    now = after;
  }
  np_core_stop(core, np_clock_ns());
  return NULL;
}

/* ---- starting and stopping ---- */

static int set_affinity(pthread_attr_t *attr, int32_t cpu) {
  if (cpu < 0) return 0;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((unsigned)cpu, &set);
  return pthread_attr_setaffinity_np(attr, sizeof set, &set);
}

static enum np_err start_worker(struct np_worker *w, struct np_err_detail *detail) {
  pthread_attr_t attr;
  int sys = pthread_attr_init(&attr);
  if (sys == 0) sys = pthread_attr_setstacksize(&attr, STACK_BYTES);
  if (sys == 0) sys = set_affinity(&attr, w->cpu);
  __atomic_store_n(&w->stop, 0, __ATOMIC_RELEASE);
  /* The thread inherits the mask: no signal of the process is ever handled on a core. */
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  if (sys == 0) sys = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (sys == 0) {
    sys = pthread_create(&w->thread, &attr, poll_thread, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
  }
  pthread_attr_destroy(&attr);
  if (sys != 0) {
    if (w->cpu >= 0) {
      np_err_detail_set(detail, sys, "start core %u on CPU %d", w->index, w->cpu);
    } else {
      np_err_detail_set(detail, sys, "start core %u", w->index);
    }
    return sys == EINVAL && w->cpu >= 0 ? NP_ERR_INVALID : NP_ERR_SYS;
  }
  w->running = true;
  char name[16];
  snprintf(name, sizeof name, "np-core-%u", w->index & 0xffu);
  pthread_setname_np(w->thread, name); /* for top and perf only: failure changes nothing */
  return NP_ERR_OK;
}

enum np_err np_plane_start(struct np_plane *plane, struct np_err_detail *detail) {
  if (plane->started) {
    np_err_detail_set(detail, 0, "start plane: it was started before");
    return NP_ERR_STATE;
  }
  plane->started = true;
  for (uint32_t i = 0; i < plane->config.cores; i++) {
    enum np_err err = start_worker(&plane->worker[i], detail);
    if (err != NP_ERR_OK) {
      np_plane_stop(plane);
      return err;
    }
  }
  return NP_ERR_OK;
}

static void wake(const struct np_worker *w) {
  uint64_t one = 1;
  ssize_t n = write(w->core->shared.wake_fd, &one, sizeof one);
  (void)n; /* EAGAIN: already far from 0 */
}

void np_plane_stop(struct np_plane *plane) {
  for (uint32_t i = 0; i < plane->config.cores; i++) {
    struct np_worker *w = &plane->worker[i];
    if (!w->running) continue;
    __atomic_store_n(&w->stop, 1, __ATOMIC_RELEASE);
    wake(w);
  }
  for (uint32_t i = 0; i < plane->config.cores; i++) {
    struct np_worker *w = &plane->worker[i];
    if (!w->running) continue;
    pthread_join(w->thread, NULL);
    w->running = false;
  }
}

void np_worker_call(struct np_worker *w, void (*fn)(void *arg), void *arg) {
  if (!w->running) {
    fn(arg);
    return;
  }
  struct np_core_call call = {.fn = fn, .arg = arg};
  /* release pairs with the core's acquire in run_call */
  __atomic_store_n(&w->core->call, &call, __ATOMIC_RELEASE);
  wake(w);
  const struct timespec pause = {.tv_nsec = 50000};
  /* bound: a running core takes a call in its next turn */
  while (__atomic_load_n(&call.done, __ATOMIC_ACQUIRE) == 0) nanosleep(&pause, NULL);
}

/* ---- what it is ---- */

struct np_core_shared *np_plane_core(struct np_plane *plane, uint32_t core) {
  return core < plane->config.cores ? np_core_shared(plane->worker[core].core) : NULL;
}

const char *np_plane_crypto_engine(struct np_plane *plane) { return np_crypto_engine(plane->worker[0].core->crypto); }

uint64_t np_plane_huge_page_bytes(struct np_plane *plane) { return plane->worker[0].pool_map.page_bytes; }
