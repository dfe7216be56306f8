/* What congestion control keeps in a connection, by algorithm. */
#ifndef NP_TCP_CC_STATE_H
#define NP_TCP_CC_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/seq.h"

/* RFC 9406; hystart.c */
struct np_tcp_hystart {
  np_seq round_end;
  uint32_t last_us;      /* shortest round trip of the last round, UINT32_MAX: none */
  uint32_t now_us;       /* of this one */
  uint32_t css_base_us;  /* that made growth slow down; UINT32_MAX: it has not */
  uint16_t samples;
  uint8_t css_rounds;
  bool on;
};

struct np_tcp_reno {
  struct np_tcp_hystart hystart;
  uint32_t frac;
  uint32_t undo_cwnd;
  uint32_t undo_ssthresh;
};

#define NP_TCP_BW_UNIT 16u    /* bytes per second */
#define NP_TCP_RATE_SHIFT 8u  /* rate samples' time is ns >> this */

/* bbr.c; bandwidths in NP_TCP_BW_UNIT, UINT32_MAX: no bound */
struct np_tcp_bbr {
  uint32_t bw_max[2];         /* of this probing cycle and of the one before */
  uint32_t bw_lo;
  uint32_t bw_latest;
  uint32_t full_bw;
  uint32_t min_rtt_us;
  uint32_t min_rtt_ms;        /* when it was measured */
  uint32_t probe_rtt_us;
  uint32_t probe_rtt_ms;
  uint32_t probe_rtt_done_ms; /* 0: not there yet */
  uint32_t inflight_hi;
  uint32_t inflight_lo;
  uint32_t inflight_latest;
  uint32_t round_delivered;
  uint32_t loss_round_delivered;
  uint32_t extra_acked[2];
  uint32_t extra_start;
  uint32_t extra_delivered;
  uint32_t phase_ms;
  uint32_t up_per_inc;        /* bytes acknowledged for each segment that inflight_hi grows by */
  uint32_t up_acked;
  uint32_t prior_cwnd;
  uint32_t undo_bw_lo;
  uint32_t undo_inflight_lo;
  uint32_t undo_inflight_hi;
  np_seq lost_end;
  uint16_t wait_ms;
  uint16_t bits;
  uint8_t phase;              /* enum np_bbr_phase */
  uint8_t undo_phase;
  uint8_t ack_phase;
  uint8_t up_rounds;
  uint8_t rounds_since_up;
  uint8_t full_count;
  uint8_t loss_events;
  uint8_t drain_rounds;
  uint8_t extra_rounds;
};

struct np_tcp_cubic {
  struct np_tcp_hystart hystart;
  uint32_t epoch_ms;     /* 0: no epoch */
  uint32_t grown_ms;     /* last ACK in it that cwnd was what limited us for */
  uint32_t w_max;        /* bytes */
  uint32_t k_ms;
  uint32_t w_est;        /* bytes: what Reno would have (RFC 9438 §4.3) */
  uint32_t cwnd_prior;   /* bytes before the last reduction */
  uint32_t acked_bytes;  /* not yet turned into growth */
  uint32_t est_frac;
  uint32_t undo_cwnd;    /* as they were before the running episode (RFC 9438 §4.9) */
  uint32_t undo_ssthresh;
  uint32_t undo_w_max;
  uint32_t undo_epoch_ms;
  uint32_t undo_k_ms;
};

/* Congestion control's own state; cc.h says which member is in use. */
union np_tcp_cc_state {
  struct np_tcp_cubic cubic;
  struct np_tcp_reno reno;
  struct np_tcp_bbr bbr;
};
_Static_assert(sizeof(union np_tcp_cc_state) <= 128, "an idle connection stays small");

#endif
