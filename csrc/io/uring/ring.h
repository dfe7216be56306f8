/* One io_uring: its two queues, straight over the kernel's interface.
 *
 * Owner: one carrier. Thread: np_uq_open and np_uq_close any; np_uq_enable and what follows it
 * the one thread that submits. */
#ifndef NP_IO_URING_RING_H
#define NP_IO_URING_RING_H

#include <linux/io_uring.h>
#include <stdbool.h>

#include "base/compiler.h"

/* What Debian's 6.1 headers lack. */
#ifndef IORING_FEAT_RECVSEND_BUNDLE
#define IORING_FEAT_RECVSEND_BUNDLE (1U << 14) /* Linux 6.10 */
#endif
#ifndef IORING_RECVSEND_BUNDLE
#define IORING_RECVSEND_BUNDLE (1U << 4)
#endif

struct np_uq {
  int fd;
  uint32_t features;   /* IORING_FEAT_* */
  uint32_t flags;      /* IORING_SETUP_* in force */
  uint32_t *sq_head;   /* the kernel's */
  uint32_t *sq_tail;
  uint32_t *sq_flags;
  uint32_t *cq_head;
  uint32_t *cq_tail;   /* the kernel's */
  uint32_t *cq_flags;
  struct io_uring_sqe *sqes;
  struct io_uring_cqe *cqes;
  uint32_t sq_mask;
  uint32_t sq_entries;
  uint32_t sq_next;    /* tail with what is not published yet */
  uint32_t cq_mask;
  uint32_t cq_next;    /* head with what is not given back yet */
  int enter_fd;        /* what calls name the ring by: fd, or its place among its thread's rings */
  uint32_t enter_flags;
  bool enabled;
  void *ring_mem;
  size_t ring_bytes;
  void *sqe_mem;
  size_t sqe_bytes;
};

/* Makes a disabled ring, with the best of the ways to run task work that the kernel has: deferred to our
 * own calls, else cooperative. no_defer leaves the first out. Return: 0 or errno. */
int np_uq_open(struct np_uq *q, uint32_t sq_entries, uint32_t cq_entries, bool no_defer);
void np_uq_close(struct np_uq *q);
/* The calling thread submits from now on, and no other. Return: 0 or errno. */
int np_uq_enable(struct np_uq *q);
/* The calling thread, which enabled the ring, submits no more. Else the ring lives as long as the thread does. */
void np_uq_leave(struct np_uq *q);
int np_uq_register(const struct np_uq *q, unsigned op, const void *arg, unsigned n);

/* An eventfd that is written for completions, and for work that would make some, while np_uq_announce is on:
 * with deferred task work the ring's own descriptor says nothing to poll(2). Return: 0 or errno. */
int np_uq_eventfd(struct np_uq *q, int fd);
NP_INLINE void np_uq_announce(const struct np_uq *q, bool on) {
  __atomic_store_n(q->cq_flags, on ? 0 : IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
}

/* Submits what is pending, runs task work and waits for wait completions. Return: 0 or errno. */
int np_uq_enter(struct np_uq *q, uint32_t wait);
/* A zeroed entry, submitted at the next np_uq_enter; submits first when there is no room.
 * NULL: the kernel takes nothing (no memory). */
struct io_uring_sqe *np_uq_sqe(struct np_uq *q);

NP_INLINE uint32_t np_uq_pending(const struct np_uq *q) {
  return q->sq_next - __atomic_load_n(q->sq_head, __ATOMIC_ACQUIRE); /* pairs with the kernel's release */
}
/* Whether the kernel has something that only a call brings out. */
NP_INLINE bool np_uq_wants_call(const struct np_uq *q) {
  return (__atomic_load_n(q->sq_flags, __ATOMIC_RELAXED) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}
/* Completions readable now. */
NP_INLINE uint32_t np_uq_ready(const struct np_uq *q) {
  return __atomic_load_n(q->cq_tail, __ATOMIC_ACQUIRE) - q->cq_next; /* pairs with the kernel's release */
}
NP_INLINE const struct io_uring_cqe *np_uq_cqe(const struct np_uq *q, uint32_t i) {
  return &q->cqes[(q->cq_next + i) & q->cq_mask];
}
/* Gives n completions back. */
NP_INLINE void np_uq_seen(struct np_uq *q, uint32_t n) {
  q->cq_next += n;
  __atomic_store_n(q->cq_head, q->cq_next, __ATOMIC_RELEASE);
}

#endif
