/* Two whole cores on a simulated link (io/sim) and a clock of the test's, with any number of
 * clients on end 0 of services on end 1: for what only shows over long paths and many peers. */
#ifndef NP_TEST_FLOW_RIG_H
#define NP_TEST_FLOW_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "core/core.h"
#include "io/sim/sim.h"
#include "tcp/tcp_int.h"

#define FLOW_MS UINT64_C(1000000)
#define FLOW_ECHO 7u
#define FLOW_DISCARD 9u
#define FLOW_CHARGEN 19u

struct flow;

struct flow_client {
  struct np_session session; /* first */
  struct flow *f;
  uint32_t end;
  bool established;
  bool eof;
  bool closed;
  bool hold;         /* keep what comes, consume nothing */
  enum np_err err;
  uint64_t to_send;
  uint64_t sent;
  uint64_t got;
  struct np_buf *kept;
};

struct flow_host {
  struct np_core *core;
  void *mem;
  void *pool_mem;
  struct np_mac mac;
  struct np_port_queue *queue;
};

struct flow {
  uint64_t now_ns;
  uint64_t step_ns;          /* the clock moves at least so much */
  struct np_sim_link *link;
  struct flow_host host[2];
  struct flow_client *client; /* of end 0 */
  uint32_t clients;
};

/* config: both ends', end 0 with four times the buffers for more than 100 clients. clients: how many there may be. */
struct flow *flow_new(const struct np_plane_config *config, const struct np_sim_params *params, uint32_t clients);
/* The same with pools of so many buffers each. */
struct flow *flow_new_pools(const struct np_plane_config *config, const struct np_sim_params *params, uint32_t clients, const uint32_t bufs[2]);
/* Aborts, checks that pools are full again. */
void flow_free(struct flow *f);
void flow_run(struct flow *f, uint64_t ns);
/* Opens client i towards a service. to_send: bytes it sends then. */
struct flow_client *flow_connect(struct flow *f, uint32_t i, uint16_t port, uint64_t to_send, bool hold);
struct np_tcp_conn *flow_conn(const struct flow_client *c);
struct np_tcp *flow_tcp(const struct flow *f, uint32_t end);
uint64_t flow_counter(const struct flow *f, uint32_t end, enum np_counter which);
/* Consumes what was kept, and all that comes. */
void flow_release(struct flow_client *c);
/* The other end of a client's connection, on end 1. */
struct np_tcp_conn *flow_peer(const struct flow_client *c);

#endif
