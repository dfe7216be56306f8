/* One direction of the relay: what happens to each packet, and the packets on
 * their way in the order in which they arrive. Like csrc/io/sim, but without a
 * copy: the packets stay in the buffers they were received in.
 *
 * Thread: one. No clock, no system call, no allocation: time is an argument, the memory
 * the caller's. Each kind of impairment has a random sequence of its own, so whether the
 * k-th packet of a direction is lost depends on the seed and on nothing else. */
#ifndef NP_RELAY_LINK_H
#define NP_RELAY_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/pool.h"
#include "base/rng.h"

#define NP_RELAY_DELAY_NS_MAX UINT64_C(10000000000)
#define NP_RELAY_BURST_PKTS_MAX 1000u
#define NP_RELAY_RATE_BPS_MIN UINT64_C(8000)
#define NP_RELAY_RATE_BPS_MAX UINT64_C(100000000000)
#define NP_RELAY_QUEUE_BYTES_MIN 2000u
#define NP_RELAY_QUEUE_BYTES_MAX (1u << 30)

/* Zero is a perfect wire. Chances are per million packets. */
struct np_relay_params {
  uint64_t delay_ns;
  uint64_t jitter_ns;      /* added, uniform in 0 to jitter; order is kept */
  uint64_t rate_bps;       /* bits per second of whole frames; 0 unlimited */
  uint64_t reorder_ns;     /* how long a packet is held back at most, while others pass it; 0: 1 ms */
  uint32_t queue_bytes;    /* waiting for the rate at most; 0: 256 KiB */
  uint32_t mark_bytes;     /* waiting above this: CE on ECN-capable packets (RFC 3168); 0 never */
  uint32_t loss_ppm;
  uint32_t burst_ppm;      /* chance that a burst of losses begins */
  uint32_t burst_pkts;     /* its length; 0: 8; 100 ms at most */
  uint32_t reorder_ppm;
  uint32_t duplicate_ppm;
  uint32_t corrupt_ppm;    /* one bit behind the Ethernet header flipped */
  uint32_t ce_ppm;         /* CE at random on ECN-capable packets */
};

/* in + duplicated = out + lost + queue_full + slab_full + on the way */
struct np_relay_stats {
  uint64_t in_pkts;
  uint64_t in_bytes;
  uint64_t out_pkts;
  uint64_t out_bytes;
  uint64_t lost_pkts;       /* random and bursts */
  uint64_t queue_full_pkts;
  uint64_t slab_full_pkts;  /* more on the way than there is room for: the relay is too small */
  uint64_t reordered_pkts;  /* left after a packet that came later (RFC 4737 §3.3) */
  uint64_t duplicated_pkts;
  uint64_t corrupted_pkts;
  uint64_t marked_pkts;     /* CE set here */
  uint64_t late_ns_max;     /* how long after its time a packet left: the relay was busy */
};

struct np_relay_entry {
  uint64_t at_ns;
  uint64_t order;
  struct np_buf *buf;
};

enum np_relay_dice { NP_RELAY_LOSS, NP_RELAY_BURST, NP_RELAY_TIME, NP_RELAY_ORDER, NP_RELAY_COPY, NP_RELAY_BITS, NP_RELAY_CE, NP_RELAY_DICE };

struct np_relay_link {
  struct np_relay_params params;
  struct np_relay_stats stats;
  struct np_rng rng[NP_RELAY_DICE];
  uint64_t wire_free_ns; /* when the rate lets the next packet start */
  uint64_t last_at_ns;   /* arrival of the last packet kept in order */
  uint64_t burst_end_ns;
  uint64_t order;        /* of the next packet */
  uint64_t left_order;   /* 1 + the highest that left */
  uint32_t burst_left;
  uint32_t count;
  uint32_t max;
  struct np_relay_entry *heap;
};

/* heap: max entries, the caller's, as long as the link. */
void np_relay_init(struct np_relay_link *l, const struct np_relay_params *params, uint64_t seed,
                   struct np_relay_entry *heap, uint32_t max);
/* Takes the caller's reference of a received frame (a chain, when it is long). now_ns never goes back. */
void np_relay_push(struct np_relay_link *l, struct np_buf *b, uint64_t now_ns);
/* Up to max frames whose time has come, first first; the references are the caller's. */
uint32_t np_relay_pop(struct np_relay_link *l, struct np_buf **out, uint32_t max, uint64_t now_ns);
/* When the next one is due; UINT64_MAX: none is on its way. */
uint64_t np_relay_next_ns(const struct np_relay_link *l);
/* Gives back what is still on its way. Bound: max. */
void np_relay_drain(struct np_relay_link *l);

#endif
