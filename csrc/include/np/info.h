/* What the management plane shows of a connection, a neighbor and a port. Filled on the
 * core, read by Go. Durations in the unit their names end in; 0 is "none". */
#ifndef NP_INFO_H
#define NP_INFO_H

#include <stdint.h>

/* handle: generation 32 | core 8 | slot 24. 0 is never a handle. */
#define NP_HANDLE_SLOT_BITS 24
#define NP_HANDLE_CORE_BITS 8

/* Local ports of connections that we open, where nobody chose one. Of each run of as many ports
 * as the plane has cores each core has one, in order. */
#define NP_PORT_EPHEMERAL_MIN 32768
#define NP_PORT_EPHEMERAL_COUNT 28232 /* to 60999 */

enum np_conn_state { /* RFC 9293 §3.3.2, and the two of our own */
  NP_TCP_CLOSED,
  NP_TCP_LISTEN,
  NP_TCP_SYN_SENT,
  NP_TCP_SYN_RECEIVED,
  NP_TCP_ESTABLISHED,
  NP_TCP_FIN_WAIT_1,
  NP_TCP_FIN_WAIT_2,
  NP_TCP_CLOSE_WAIT,
  NP_TCP_CLOSING,
  NP_TCP_LAST_ACK,
  NP_TCP_TIME_WAIT,
  NP_TCP_STATE_COUNT
};

enum np_session_kind {
  NP_SESSION_NONE,
  NP_SESSION_ECHO,
  NP_SESSION_DISCARD,
  NP_SESSION_NPRO,
  NP_SESSION_CHARGEN,
  NP_SESSION_LOAD, /* nppktgen's; no listener has it */
  NP_SESSION_PIPE, /* bytes to Go and back: a net.Conn */
  NP_SESSION_KIND_COUNT
};

/* What brings a connection's bytes. */
enum np_carrier_kind {
  NP_CARRIER_STACK, /* our own TCP over ports */
  NP_CARRIER_EPOLL, /* kernel sockets, TCP or Unix */
  NP_CARRIER_URING, /* the same by io_uring */
  NP_CARRIER_RDMA,
  NP_CARRIER_COUNT
};

enum np_limited { /* what keeps the sender from sending more, as `ss -ti` says */
  NP_LIMITED_NONE,
  NP_LIMITED_APP,
  NP_LIMITED_RWND,
  NP_LIMITED_CWND
};

enum np_cc { /* congestion control */
  NP_CC_CUBIC, /* RFC 9438; the default */
  NP_CC_NEWRENO,
  NP_CC_BBR,     /* version 3, draft-ietf-ccwg-bbr */
  NP_CC_COUNT
};

enum np_ecn {     /* explicit congestion notification, RFC 3168 */
  NP_ECN_ACCEPT,  /* when the peer asks; the default */
  NP_ECN_REQUEST, /* ask in our SYNs too */
  NP_ECN_OFF,
  NP_ECN_MODE_COUNT
};

/* Finding out what a path carries where ICMP does not tell (RFC 4821). */
enum np_mtu_probing {
  NP_MTU_PROBING_BLACKHOLE, /* when full-sized segments seem to vanish; the default */
  NP_MTU_PROBING_OFF,       /* ICMP alone */
  NP_MTU_PROBING_ALWAYS,    /* from a small size up, on each connection */
  NP_MTU_PROBING_COUNT
};

/* Episodes of congestion. DISORDER: no episode, but ACKs have to be looked at closely: data is
 * SACKed, duplicate ACKs came or a tail probe is out. CWR: cwnd shrinks (the peer echoed ECN
 * marks, or a tail probe filled a hole); nothing is known to be lost. */
enum np_ca_state {
  NP_CA_OPEN,
  NP_CA_DISORDER,
  NP_CA_CWR,
  NP_CA_RECOVERY,
  NP_CA_LOSS,
  NP_CA_STATE_COUNT
};

enum np_pacing {
  NP_PACING_AUTO, /* algorithms that have a rate of their own; the default */
  NP_PACING_ON,   /* the others too, at a rate that follows cwnd */
  NP_PACING_OFF,  /* as auto: an algorithm that needs pacing gets it all the same */
  NP_PACING_COUNT
};

enum np_bbr_phase {
  NP_BBR_STARTUP,
  NP_BBR_DRAIN,
  NP_BBR_DOWN, /* PROBE_BW from here */
  NP_BBR_CRUISE,
  NP_BBR_REFILL,
  NP_BBR_UP,
  NP_BBR_PROBE_RTT,
  NP_BBR_PHASE_COUNT
};

struct np_conn_info {
  uint64_t handle;
  uint64_t listener; /* handle of the listener, 0 for outgoing */
  uint8_t local[16]; /* IPv4 as ::ffff:a.b.c.d */
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
  uint8_t state;         /* enum np_conn_state */
  uint8_t session_kind;  /* enum np_session_kind */
  uint8_t session_state; /* NPRO: enum np_npro_state */
  uint8_t aead;          /* enum np_aead, 0 none */
  uint8_t compression;   /* enum np_compression */
  uint8_t limited;       /* enum np_limited */
  uint8_t core;
  uint8_t wscale_snd;
  uint8_t wscale_rcv;
  uint8_t options; /* NP_CONN_OPT_* */
  uint8_t pad0[2];
  uint32_t mss_bytes;
  uint32_t cwnd_bytes;
  uint32_t ssthresh_bytes; /* UINT32_MAX: not set yet */
  uint32_t snd_wnd_bytes;
  uint32_t rcv_wnd_bytes;
  uint32_t srtt_us;
  uint32_t rttvar_us;
  uint32_t rto_us;
  uint32_t min_rtt_us;
  uint32_t inflight_bytes;
  uint32_t sacked_bytes;
  uint32_t lost_bytes;
  uint32_t sendq_bytes;
  uint32_t recvq_bytes; /* handed up, not consumed */
  uint32_t ooo_bytes;
  uint32_t retrans_segs_total;
  uint32_t rto_total;
  uint32_t streams; /* NPRO streams open */
  uint32_t pmtu_bytes; /* the largest packet that is sent: what the path is known or believed to carry */
  uint64_t created_ns; /* CLOCK_MONOTONIC */
  uint64_t last_rx_ns;
  uint64_t bytes_rx;
  uint64_t bytes_tx;
  uint64_t bytes_retrans;
  uint64_t segs_rx;
  uint64_t segs_tx;
  uint64_t frames_rx; /* NPRO */
  uint64_t frames_tx;
  uint8_t conn_id[8]; /* NPRO connection ID, zero before the handshake ends */
  uint8_t cc;         /* enum np_cc */
  uint8_t bbr_phase;  /* enum np_bbr_phase plus 1, 0: not BBR */
  uint8_t ecn;        /* NP_CONN_ECN_* */
  uint8_t paced;
  uint16_t bbr_pacing_gain_percent;
  uint16_t bbr_cwnd_gain_percent;
  uint64_t pacing_bytes_per_s;   /* 0: not paced */
  uint64_t delivery_bytes_per_s; /* 0: not measured */
  uint64_t bbr_bw_bytes_per_s;
  uint32_t bbr_min_rtt_us;
  uint32_t bbr_inflight_hi_bytes; /* UINT32_MAX: no bound */
  uint32_t bbr_inflight_lo_bytes;
  uint32_t pad2;
  uint32_t rcv_rtt_us;      /* as the receiver sees it, 0 not known */
  uint32_t rcv_space_bytes; /* consumed in the last round trip */
  uint32_t rcv_buf_bytes;   /* buffers as large as they are now */
  uint32_t snd_buf_bytes;
  uint32_t reo_wnd_us;        /* RACK's reordering window as it would be now */
  uint32_t dsacks_total;      /* duplicates that the peer reported */
  uint16_t reordering_total;  /* segments delivered after later ones; these three stop at 65,535 */
  uint16_t tail_probes_total;
  uint16_t undos_total;       /* recoveries and timeouts that were for nothing */
  uint8_t ca_state;           /* enum np_ca_state */
  uint8_t backoff;            /* times the RTO is doubled */
  uint32_t user_timeout_ms;   /* 0: none */
  uint32_t unacked_ms;        /* so long nothing of what is in flight was acknowledged */
  uint8_t carrier;            /* enum np_carrier_kind */
  uint8_t is_unix;            /* a Unix socket: addresses are zero, the three below are the peer's */
  uint8_t pad3[2];
  uint32_t peer_uid;
  uint32_t peer_gid;
  uint32_t peer_pid;
};

#define NP_CONN_OPT_TIMESTAMPS 0x01u
#define NP_CONN_OPT_SACK 0x02u
#define NP_CONN_OPT_WSCALE 0x04u
#define NP_CONN_OPT_OUTGOING 0x08u

#define NP_CONN_ECN_OK 0x01u       /* agreed */
#define NP_CONN_ECN_CE_SEEN 0x02u  /* marks came */
#define NP_CONN_ECN_ECE_SEEN 0x04u /* the peer echoed marks */

struct np_neigh_info {
  uint8_t addr[16];
  uint8_t mac[6];
  uint16_t iface;
  uint8_t state; /* enum np_neigh_state */
  uint8_t pad[7];
  uint64_t age_ns; /* since last confirmed */
};

enum np_neigh_state { /* RFC 4861 §7.3.2, used for IPv4 too */
  NP_NEIGH_FREE,
  NP_NEIGH_INCOMPLETE,
  NP_NEIGH_REACHABLE,
  NP_NEIGH_STALE,
  NP_NEIGH_DELAY,
  NP_NEIGH_PROBE,
  NP_NEIGH_FAILED,
  NP_NEIGH_STATE_COUNT
};

enum np_addr_state {
  NP_ADDR_TENTATIVE, /* being looked for on the link; not used, not answered for (RFC 4862 §5.4) */
  NP_ADDR_DUPLICATE, /* somebody else has it; not used */
  NP_ADDR_PREFERRED, /* usable states from here on */
  NP_ADDR_DEPRECATED, /* usable, but not chosen for what is new (RFC 4862 §5.5.4) */
  NP_ADDR_STATE_COUNT
};
enum np_addr_origin {
  NP_ADDR_CONFIGURED,
  NP_ADDR_LINK_LOCAL, /* made from the MAC (RFC 4291 appendix A) */
  NP_ADDR_SLAAC,      /* made from a router's prefix (RFC 4862 §5.5) */
  NP_ADDR_ORIGIN_COUNT
};

/* An address of ours. */
struct np_addr_info {
  uint8_t addr[16];
  uint8_t rival[6];    /* MAC that claimed it last, zero none */
  uint16_t iface;
  uint8_t prefix_bits; /* in the family's own width */
  uint8_t state;       /* enum np_addr_state */
  uint8_t origin;      /* enum np_addr_origin */
  uint8_t pad;
  uint32_t conflicts;  /* times somebody else claimed it */
  uint32_t valid_s;     /* left; UINT32_MAX for ever */
  uint32_t preferred_s;
};

/* One port queue as its core sees it. Counters only grow. */
struct np_queue_stats {
  uint64_t rx_pkts;
  uint64_t rx_bytes;
  uint64_t tx_pkts;
  uint64_t tx_bytes;
  uint64_t rx_dropped;    /* by the kernel: ring full, too big (XDP_STATISTICS) */
  uint64_t rx_ring_full;
  uint64_t fill_empty;
  uint64_t tx_invalid;
  uint64_t wakeups;       /* system calls that woke the kernel */
};

#endif
