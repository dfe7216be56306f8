/* Two RDMA carriers joined by a device in memory: requests wait until fake_deliver carries them over, so
 * that a buffer given back too early shows. Memory that is written to is checked as a device does. */
#ifndef NP_TEST_RDMA_FAKE_H
#define NP_TEST_RDMA_FAKE_H

#include "io/rdma/rdma.h"

#define FAKE_POOL_COUNT 512u
#define FAKE_CHUNK 2048u
#define FAKE_QUEUE 1024u
#define FAKE_CONNS 8u
#define FAKE_RKEY 0x1234u

struct fake_end;

struct fake_region {
  uint8_t *mem;
  uint64_t addr; /* as the device knows it */
  uint32_t bytes;
  uint32_t rkey;
};

struct fake_qp {
  struct fake_end *end;
  struct fake_qp *peer;
  struct fake_region region[2]; /* ring, and one more for one-sided operations */
  struct np_rv_post queue[NP_RDMA_SQ_DEPTH];
  uint8_t inlined[NP_RDMA_SQ_DEPTH][256];
  uint32_t head, tail;
  uint32_t posted;  /* receives */
  uint64_t wr_recv;
  bool dead;        /* of itself or its peer: everything ends with an error */
  uint32_t rnr;     /* messages that found no receive: an honest pair has none */
};

struct fake_end {
  struct np_rdma *rdma;
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_counters counters;
  void *pool_mem, *stack, *mem;
  uint8_t *rings;
  struct np_rv_wc cq[FAKE_QUEUE];
  uint32_t cq_head, cq_tail;
  bool armed, event; /* of the completion queue */
  struct fake_qp qp[FAKE_CONNS];
  uint64_t handle[FAKE_CONNS];
  struct np_session *(*accept)(void *ctx, struct np_stream *stream);
  void *accept_ctx;
};

#define FAKE_RING 8192u
#define FAKE_SND_BUF 65536u
#define FAKE_INLINE 64u

void fake_open(struct fake_end *e, uint64_t now_ns);
/* Asserts that every buffer is back. */
void fake_close(struct fake_end *e);
/* A queue pair between slot of a and slot of b. b's is adopted by listener unless that is 0; a's waits for connect. */
void fake_join(struct fake_end *a, struct fake_end *b, uint32_t slot, uint64_t listener, uint64_t now_ns);
/* Carries over at most n requests of each queue pair. Return: how many. */
uint32_t fake_deliver(struct fake_end *a, struct fake_end *b, uint32_t n);
/* Puts a completion into the queue as it is: what no honest peer or device says. */
void fake_complete(struct fake_end *e, const struct np_rv_wc *wc);
/* The control side's part: ends the queue pairs of retired slots. Return: how many. */
uint32_t fake_reap(struct fake_end *e, uint64_t now_ns);

#endif
