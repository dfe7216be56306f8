/* The plane's own state, shared by plane.c (memory, threads) and queue.c (ports).
 * Thread: the control thread, one at a time; a worker's thread touches its worker only. */
#ifndef NP_CORE_PLANE_H
#define NP_CORE_PLANE_H

#include <pthread.h>

#include "core/internal.h"
#include "np/plane.h"

/* Memory mapped for a core. */
struct np_plane_map {
  void *base;
  size_t bytes;
  void *mem; /* inside base, aligned as asked for */
  uint64_t page_bytes; /* 0: ordinary pages */
};

struct np_worker {
  struct np_core *core;
  struct np_plane_map core_map;
  struct np_plane_map pool_map;
  pthread_t thread;
  uint64_t idle_spin_ns;
  uint64_t quiet_ns; /* last sleep between looks at ports without a descriptor; 0: work since */
  uint32_t stop; /* atomic; written by the control thread */
  uint32_t index;
  int32_t cpu;
  int32_t node;  /* NUMA node its memory is wanted from; -1: any */
  bool shared;   /* other cores run on its CPU: it yields */
  bool running;  /* control thread's view: to be joined */
};

/* A queue that was opened, in a list of the plane's. */
struct np_plane_queue {
  struct np_plane_queue *next;
  struct np_port_queue *port;
  uint32_t core;
};

struct np_plane {
  struct np_plane_config config; /* secret wiped after creation */
  struct np_plane_queue *queues;
  bool started;
  struct np_worker worker[NP_CORES_MAX];
};

/* Runs fn(arg) on the worker's thread and waits for it; here and now when that
 * thread does not run. */
void np_worker_call(struct np_worker *worker, void (*fn)(void *arg), void *arg);
/* CLOCK_MONOTONIC. */
uint64_t np_clock_ns(void);
/* Whoever opens a queue of a core hands it to the plane with this; np_plane_queue_close and
 * np_plane_queue_stats know it from then on. Return: NP_ERR_OK, NP_ERR_NOMEM (port is freed). */
enum np_err np_plane_queue_own(struct np_plane *plane, struct np_port_queue *port, uint32_t core,
                               struct np_err_detail *detail);
/* The pool of a core, for a port to be opened on it; NULL, with detail filled, when there is no such core. */
struct np_pool *np_plane_queue_pool(struct np_plane *plane, uint32_t core, struct np_err_detail *detail);
/* Closes what the caller left open. */
void np_plane_queues_close(struct np_plane *plane);

#endif
