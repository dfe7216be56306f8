/* One simulated run. */
#ifndef NP_TEST_SIM_H
#define NP_TEST_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/rng.h"
#include "core/core.h"
#include "io/sim/sim.h"
#include "tcp/tcp.h"
#include "wire.h"

#define SIM_CLIENTS_MAX 64u

struct sim;

enum behaviour { B_ECHO, B_HALF_CLOSE, B_ABORT, B_SLOW, B_DISCARD, B_REFUSED, B_COUNT };

struct client {
  struct np_session session; /* first */
  struct sim *sim;
  enum behaviour behaviour;
  bool v6;
  uint64_t start_ns;
  uint64_t next_ns;  /* slow reader's next sip */
  uint32_t total;    /* bytes to send */
  uint32_t sent;
  uint32_t got;
  uint32_t held;     /* received, not consumed */
  uint32_t abort_at; /* got bytes at which it aborts */
  uint32_t key;      /* of its byte pattern */
  bool started, established, eof, shut, closed, bad;
  enum np_err err;
};

struct host {
  struct np_core *core;
  void *mem;
  void *pool_mem;
  struct np_mac mac;
  struct np_port_queue *queue;
};

struct sim {
  uint64_t seed;
  uint64_t now_ns;
  struct np_rng rng;
  struct np_sim_link *link;
  struct np_sim_params params;
  struct host host[2]; /* 0 client, 1 server */
  struct client client[SIM_CLIENTS_MAX];
  uint32_t clients;
  uint32_t bytes; /* of the one big transfer, 0: a drawn run */
  FILE *pcap;
  struct wire wire;
  char what[256]; /* why it failed */
};

/* bytes: 0 draws link and clients from the seed; else one client sends so many bytes through an echo and closes
 * its half, over a link with 1 ms delay, 1 % loss and 1 % reordering each way.
 * Return: true when everything held; else sim->what says what did not. */
bool sim_run(struct sim *s, uint64_t seed, uint32_t bytes, const char *pcap_path, bool verbose);

/* clients.c */
void client_init(struct client *c, struct sim *s, uint32_t index);
void client_poll(struct client *c, uint64_t now_ns);
uint64_t client_next_ns(const struct client *c);
/* NULL when it ended as its behaviour allows, else what is wrong. */
const char *client_verdict(const struct client *c);

/* pcap.c */
FILE *pcap_open(const char *path);
void pcap_write(FILE *f, const uint8_t *bytes, uint32_t len, uint64_t at_ns, const char *comment);

#endif
