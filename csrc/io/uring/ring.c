#include "io/uring/ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sys_setup(uint32_t entries, struct io_uring_params *p) {
  long fd = syscall(__NR_io_uring_setup, entries, p);
  return fd < 0 ? -errno : (int)fd;
}

/* Task work, which finishes what waited for a socket, runs only inside our calls, and a flag in memory
 * says when there is some: so a turn that finds nothing makes no call. */
static int setup(uint32_t entries, struct io_uring_params *p, uint32_t cq_entries, bool no_defer) {
  static const uint32_t ways[] = {
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* Linux 6.1 */
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,                               /* Linux 5.19 */
  };
  int fd = -EINVAL;
  for (uint32_t i = no_defer ? 1 : 0; i < NP_COUNT_OF(ways) && fd == -EINVAL; i++) {
    *p = (struct io_uring_params){
        .cq_entries = cq_entries,
        .flags = ways[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
    };
    fd = sys_setup(entries, p);
  }
  return fd;
}

static uint32_t *at(const struct np_uq *q, uint32_t off) { return (uint32_t *)(void *)((uint8_t *)q->ring_mem + off); }

static int map(struct np_uq *q, const struct io_uring_params *p) {
  size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  q->ring_bytes = sq > cq ? sq : cq;
  q->sqe_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
  void *mem = mmap(NULL, q->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, q->fd, IORING_OFF_SQ_RING);
  if (mem == MAP_FAILED) return errno;
  q->ring_mem = mem;
  mem = mmap(NULL, q->sqe_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, q->fd, IORING_OFF_SQES);
  if (mem == MAP_FAILED) return errno;
  q->sqe_mem = mem;
  q->sqes = mem;
  q->sq_head = at(q, p->sq_off.head);
  q->sq_tail = at(q, p->sq_off.tail);
  q->sq_flags = at(q, p->sq_off.flags);
  q->sq_mask = *at(q, p->sq_off.ring_mask);
  q->sq_entries = p->sq_entries;
  q->cq_head = at(q, p->cq_off.head);
  q->cq_tail = at(q, p->cq_off.tail);
  q->cq_flags = at(q, p->cq_off.flags);
  q->cq_mask = *at(q, p->cq_off.ring_mask);
  q->cqes = (struct io_uring_cqe *)(void *)((uint8_t *)q->ring_mem + p->cq_off.cqes);
  uint32_t *array = at(q, p->sq_off.array);
  for (uint32_t i = 0; i < p->sq_entries; i++) array[i] = i; /* entry i is always place i */
  return 0;
}

int np_uq_open(struct np_uq *q, uint32_t sq_entries, uint32_t cq_entries, bool no_defer) {
  memset(q, 0, sizeof *q);
  struct io_uring_params p;
  int fd = setup(sq_entries, &p, cq_entries, no_defer);
  q->fd = q->enter_fd = fd;
  q->enter_flags = IORING_ENTER_GETEVENTS;
  if (fd < 0) return -fd;
  q->features = p.features;
  q->flags = p.flags;
  /* One mapping, submissions stable after the call, no completion lost: all older than what else is needed. */
  uint32_t need = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_NODROP;
  int sys = (p.features & need) == need ? map(q, &p) : EINVAL;
  if (sys != 0) np_uq_close(q);
  return sys;
}

void np_uq_close(struct np_uq *q) {
  if (q->sqe_mem != NULL) munmap(q->sqe_mem, q->sqe_bytes);
  if (q->ring_mem != NULL) munmap(q->ring_mem, q->ring_bytes);
  if (q->fd >= 0) close(q->fd);
  *q = (struct np_uq){.fd = -1};
}

int np_uq_register(const struct np_uq *q, unsigned op, const void *arg, unsigned n) {
  return syscall(__NR_io_uring_register, q->fd, op, arg, n) < 0 ? errno : 0;
}

int np_uq_eventfd(struct np_uq *q, int fd) {
  np_uq_announce(q, false);
  return np_uq_register(q, IORING_REGISTER_EVENTFD, &fd, 1);
}

/* Saves each call looking the ring's file up. Its place belongs to the thread. Linux 5.18. */
static void register_ring(struct np_uq *q) {
  struct io_uring_rsrc_update up = {.offset = UINT32_MAX, .data = (uint32_t)q->fd};
  if (syscall(__NR_io_uring_register, q->fd, IORING_REGISTER_RING_FDS, &up, 1) != 1) return;
  q->enter_fd = (int)up.offset;
  q->enter_flags |= IORING_ENTER_REGISTERED_RING;
}

void np_uq_leave(struct np_uq *q) {
  if (!(q->enter_flags & IORING_ENTER_REGISTERED_RING)) return;
  struct io_uring_rsrc_update up = {.offset = (uint32_t)q->enter_fd};
  (void)syscall(__NR_io_uring_register, q->fd, IORING_UNREGISTER_RING_FDS, &up, 1);
  q->enter_fd = q->fd;
  q->enter_flags = IORING_ENTER_GETEVENTS;
}

int np_uq_enable(struct np_uq *q) {
  if (q->enabled) return 0;
  int sys = np_uq_register(q, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
  q->enabled = sys == 0;
  if (sys == 0) register_ring(q);
  return sys;
}

int np_uq_enter(struct np_uq *q, uint32_t wait) {
  __atomic_store_n(q->sq_tail, q->sq_next, __ATOMIC_RELEASE); /* pairs with the kernel's acquire */
  long n = syscall(__NR_io_uring_enter, q->enter_fd, np_uq_pending(q), wait, q->enter_flags, NULL, 0);
  return n < 0 ? errno : 0;
}

struct io_uring_sqe *np_uq_sqe(struct np_uq *q) {
  if (NP_UNLIKELY(np_uq_pending(q) == q->sq_entries)) {
    (void)np_uq_enter(q, 0); /* what it could not do shows in the next line */
    if (np_uq_pending(q) == q->sq_entries) return NULL;
  }
  struct io_uring_sqe *sqe = &q->sqes[q->sq_next & q->sq_mask];
  q->sq_next++;
  memset(sqe, 0, sizeof *sqe);
  return sqe;
}
