/* A port in memory: two ends joined by a link that delays, limits, loses,
 * reorders, duplicates and corrupts as it is told, from one seed, on a clock that
 * the caller owns. Tests, simulation and benchmarks run the real stack on it.
 *
 * Thread: one for both ends. The caller sets the time with np_sim_set_now before each
 * turn of a core; nothing here reads a clock. Same seed, same calls: same packets. */
#ifndef NP_IO_SIM_H
#define NP_IO_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/pool.h"
#include "base/port.h"

struct np_sim_link;

/* One direction of a link. Zero is a perfect wire. Chances are per million packets. */
struct np_sim_params {
  uint64_t delay_ns;      /* one way */
  uint64_t jitter_ns;     /* added, uniform in [0, jitter]; order is kept */
  uint64_t rate_bps;      /* bits per second, 0 unlimited */
  uint32_t queue_bytes;   /* waiting for the rate at most; 0: 256 KiB */
  uint32_t loss_ppm;
  uint32_t burst_loss_ppm; /* chance that a burst of losses begins */
  uint32_t burst_pkts;     /* its length; 0: 8; at most 100 ms long */
  uint32_t reorder_ppm;    /* packet overtaken by those within reorder_ns */
  uint64_t reorder_ns;     /* 0: 1 ms */
  uint32_t duplicate_ppm;
  uint32_t corrupt_ppm;    /* one bit flipped behind the Ethernet header; ARP is spared */
  /* Gilbert-Elliott: a bad state entered and left by chance, after 1 s at the latest, and the loss in it */
  uint32_t bad_enter_ppm;
  uint32_t bad_leave_ppm;
  uint32_t bad_loss_ppm;
  uint32_t garble_ppm;     /* two bytes at an even place anywhere, so that an Internet checksum shows it; ARP is spared */
  uint32_t truncate_ppm;   /* cut short, the Ethernet header stays */
  uint32_t mark_bytes;     /* CE on what is ECN-capable while more than this waits for the rate; 0 never */
  uint32_t mark_ppm;       /* CE by chance */
  uint32_t mtu_bytes;      /* longer IP packets are lost, the function set by np_sim_set_too_big hears of it; 0 no limit */
  bool cut;                /* nothing passes */
};

struct np_sim_stats {
  uint64_t sent_pkts;
  uint64_t delivered_pkts;
  uint64_t lost_pkts;      /* random, bursts, filter, cut, too long for the link */
  uint64_t queue_pkts;     /* lost because the queue was full */
  uint64_t duplicated_pkts;
  uint64_t corrupted_pkts;
  uint64_t reordered_pkts;
  uint64_t nobuf_pkts;     /* receiver's pool was empty */
  uint64_t marked_pkts;    /* set CE */
};

struct np_sim_config {
  uint64_t seed;
  uint32_t inflight_max;   /* packets on the wire, both directions; 0: 8,192 */
  uint32_t mtu_bytes;      /* of the IP packet; 0: 1,500; at most 9,000 */
  uint32_t caps;           /* NP_PORT_TX_CSUM, NP_PORT_TSO besides NP_PORT_SG: what both ends do for the sender */
  struct np_sim_params dir[2]; /* [0]: from end 0 to end 1 */
};

/* Return: NULL when memory is short. Owner: caller, np_sim_free after both ends detached. */
struct np_sim_link *np_sim_new(const struct np_sim_config *config);
void np_sim_free(struct np_sim_link *link);

/* End 0 or 1 as a port queue. pool: where received packets' buffers come from. */
struct np_port_queue *np_sim_end(struct np_sim_link *link, uint32_t end, struct np_pool *pool,
                                 const struct np_mac *mac, uint16_t iface);

/* The queue that np_sim_end made. */
struct np_port_queue *np_sim_queue(struct np_sim_link *link, uint32_t end);

/* now_ns never goes back. */
void np_sim_set_now(struct np_sim_link *link, uint64_t now_ns);
/* When the next packet arrives at either end; UINT64_MAX: none is on the wire. */
uint64_t np_sim_next_ns(const struct np_sim_link *link);
/* The same for end only. */
uint64_t np_sim_next_at_ns(const struct np_sim_link *link, uint32_t end);
/* Throws away what has arrived at end until now: nobody there. */
void np_sim_discard(struct np_sim_link *link, uint32_t end);
/* Puts a frame on the wire of direction dir, delay_ns from arriving; nothing else happens to it, no tap sees it. */
void np_sim_inject(struct np_sim_link *link, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t delay_ns);
void np_sim_set(struct np_sim_link *link, uint32_t dir, const struct np_sim_params *params);
void np_sim_stats(const struct np_sim_link *link, uint32_t dir, struct np_sim_stats *out);

/* Sees each packet as it is put on the wire, unspoiled, lost ones too. fate: what the link does
 * to it in a few words, NULL nothing. */
typedef void (*np_sim_tap)(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint64_t now_ns, bool lost, const char *fate);
void np_sim_set_tap(struct np_sim_link *link, np_sim_tap tap, void *ctx);
/* Hears of packets over params.mtu_bytes, after the tap: a router might answer them (np_sim_inject). */
typedef void (*np_sim_too_big)(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len, uint32_t mtu_bytes);
void np_sim_set_too_big(struct np_sim_link *link, np_sim_too_big fn, void *ctx);
/* Chooses losses: called for each packet before the random ones; true loses it. */
typedef bool (*np_sim_filter)(void *ctx, uint32_t dir, const uint8_t *bytes, uint32_t len);
void np_sim_set_filter(struct np_sim_link *link, np_sim_filter filter, void *ctx);

#endif
