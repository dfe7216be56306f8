/* The XDP program of one relay port: each frame to the AF_XDP socket of its queue.
 * Five instructions, loaded as they are, so the relay needs no object file and no libbpf.
 * Thread: any; blocks in the kernel for milliseconds. */
#ifndef NP_RELAY_ATTACH_H
#define NP_RELAY_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

struct np_relay_xdp {
  int map;
  int prog;
  int link; /* the kernel detaches when it is closed, also when the process dies */
};

/* frags: frames longer than a page come in pieces. Return: 0, or an errno; what holds the name of the failed step. */
int np_relay_attach(struct np_relay_xdp *x, uint32_t ifindex, bool frags, const char **what);
/* Frames go to this socket from now on. Return: 0 or an errno. */
int np_relay_steer(const struct np_relay_xdp *x, int socket);
void np_relay_detach(struct np_relay_xdp *x);

#endif
