/* What a NIC does for the sender, in software: fills TCP's checksum, cuts a long packet into segments. */
#ifndef NP_IO_SIM_OFFLOAD_H
#define NP_IO_SIM_OFFLOAD_H

#include <stdint.h>

struct np_sim_offload {
  uint32_t l4_off; /* TCP header, from the frame's start */
  uint32_t dir;
  void (*send)(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len);
  void *ctx;
};

/* The checksum field holds the pseudo header's sum; len is the whole frame's. */
void np_sim_fill_sum(const struct np_sim_offload *o, uint8_t *frame, uint32_t len);
/* Hands each segment of at most gso_bytes payload to o->send, as a frame of its own. */
void np_sim_segment(const struct np_sim_offload *o, const uint8_t *frame, uint32_t len, uint32_t gso_bytes);

#endif
