/* A driver whose peers may die at any time, and would take us with them.
 *
 * memif's driver unmaps the shared rings on DPDK's interrupt thread as soon as its peer is gone, while a poll
 * core may be reading them: the process would die of its peer's death. So the build gives that driver our
 * munmap and close (see dpdk.mk): they wait until no core is inside a burst of a guarded queue. The
 * driver has cleared its own "connected" before, so a burst that begins later does not touch the memory. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "io/dpdk/internal.h"

int np_dpdk_munmap(void *addr, size_t bytes);
int np_dpdk_close(int fd);
ssize_t np_dpdk_sendmsg(int fd, const struct msghdr *msg, int flags);

void np_dpdk_guard(struct np_dpdk_queue *q) {
  struct np_dpdk_process *p = np_dpdk_process();
  np_assert(p != NULL);
  pthread_mutex_lock(&p->lock);
  q->guard = true;
  q->next_guarded = p->guarded;
  p->guarded = q;
  pthread_mutex_unlock(&p->lock);
}

void np_dpdk_unguard(struct np_dpdk_queue *q) {
  struct np_dpdk_process *p = np_dpdk_process();
  if (p == NULL || !q->guard) return;
  pthread_mutex_lock(&p->lock);
  struct np_dpdk_queue **at = &p->guarded;
  while (*at != NULL && *at != q) at = &(*at)->next_guarded; /* bound: the queues open */
  if (*at != NULL) *at = q->next_guarded;
  pthread_mutex_unlock(&p->lock);
}

/* The fence pairs with the one in port.c behind setting in_burst: either this thread sees the burst, or
 * the burst sees what the driver cleared. */
static void wait_for_bursts(void) {
  struct np_dpdk_process *p = np_dpdk_process();
  if (p == NULL) return;
  pthread_mutex_lock(&p->lock);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  for (struct np_dpdk_queue *q = p->guarded; q != NULL; q = q->next_guarded) { /* bound: the queues open */
    /* bound: a burst, microseconds unless the core's thread lost its CPU */
    while (__atomic_load_n(&q->in_burst, __ATOMIC_ACQUIRE) != 0) {
      const struct timespec pause = {.tv_nsec = 20000};
      nanosleep(&pause, NULL);
    }
  }
  pthread_mutex_unlock(&p->lock);
}

int np_dpdk_munmap(void *addr, size_t bytes) {
  wait_for_bursts();
  return munmap(addr, bytes);
}

/* A closed descriptor's number may be another file's a moment later, and a burst writes to the peer's eventfd. */
int np_dpdk_close(int fd) {
  wait_for_bursts();
  return close(fd);
}

/* A client that connects and is gone before it was greeted: the driver would close the socket and leave it registered
 * with DPDK's interrupt thread, which then ends the process. So what is sent to nobody counts as sent;
 * the driver hears of the end when it receives, and has that under control. */
ssize_t np_dpdk_sendmsg(int fd, const struct msghdr *msg, int flags) {
  ssize_t n = sendmsg(fd, msg, flags | MSG_NOSIGNAL);
  if (n >= 0 || (errno != EPIPE && errno != ECONNRESET)) return n;
  size_t bytes = 0;
  for (size_t i = 0; i < msg->msg_iovlen; i++) bytes += msg->msg_iov[i].iov_len;
  return (ssize_t)bytes;
}
