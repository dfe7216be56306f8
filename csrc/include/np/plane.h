/* Making, running and ending the data plane: all that Go calls by cgo. None of
 * it is on a packet's or message's way. */
#ifndef NP_PLANE_H
#define NP_PLANE_H

#include <stdint.h>

#include "np/abi.h"

struct np_plane;

#define NP_CORES_MAX 64u
#define NP_RDMA_CONNS_MAX 4096u /* per core */
#define NP_SOCK_CONNS_MAX (1u << 20) /* per carrier and core */
/* What io_uring may be used without, to measure it or to stand in for an older kernel. */
#define NP_URING_NO_DEFER 0x1u     /* IORING_SETUP_DEFER_TASKRUN, Linux 6.1 */
#define NP_URING_NO_MULTISHOT 0x2u /* requests that go on, Linux 5.19 and 6.0 */
#define NP_URING_NO_BUNDLE 0x4u    /* several buffers a completion, Linux 6.10 */

/* What the kernel gets of devices that the appliance owns, whatever its address. Lists end with a zero. */
#define NP_EXCEPTION_PORTS_MAX 32u
#define NP_EXCEPTION_PROTOS_MAX 16u
#define NP_EXCEPTION_BOTH_ENDS 1024u /* a listed port below it is the kernel's at the peer's end too */
struct np_exception_config {
  uint32_t rate_per_s; /* packets to the kernel, all cores; 0: no limit */
  uint16_t tcp_port[NP_EXCEPTION_PORTS_MAX];
  uint16_t udp_port[NP_EXCEPTION_PORTS_MAX];
  uint8_t proto[NP_EXCEPTION_PROTOS_MAX]; /* IP protocols, neither TCP nor UDP */
  uint32_t pad;
};

/* What decides which core a flow's packets go to. */
enum np_steering {
  NP_STEERING_ANY,    /* the device, or cores with NP_CMD_F_STEER: there are rings for it */
  NP_STEERING_DEVICE, /* devices alone: no memory is taken for the other */
  NP_STEERING_COUNT
};

struct np_plane_config {
  uint32_t abi_version;      /* NP_ABI_VERSION, checked */
  uint32_t cores;            /* 1 to NP_CORES_MAX */
  int32_t cpu[NP_CORES_MAX]; /* CPU each poll thread is pinned to; -1: not pinned */
  uint32_t bufs_per_core;    /* default 16,384 */
  uint32_t chunk_bytes;      /* 2,048 (MTU to 1,536) or 4,096 */
  uint32_t loans_per_core;   /* buffers lent to Go, out of bufs_per_core; default 2,048 */
  uint32_t cmd_ring;         /* slots, power of two; default 4,096 */
  uint32_t event_ring;       /* default 8,192 */
  uint64_t idle_spin_ns;     /* without work this long, sleep; UINT64_MAX: never sleep */
  uint32_t conns_max;        /* per core */
  uint32_t streams_max;      /* NPRO streams per core */
  uint32_t handshake_ms;
  uint32_t neigh_max;
  uint8_t force_portable_crypto;
  uint8_t huge_pages;        /* 0 no, 1 when there are, 2 must */
  uint8_t pad[2];
  /* TCP; 0 means default */
  uint32_t tcp_rcv_buf_bytes;
  uint32_t tcp_snd_buf_bytes;
  uint32_t tcp_keepalive_idle_ms;
  uint32_t tcp_user_timeout_ms;
  uint32_t tcp_timewait_ms;
  uint32_t tcp_rto_ms_min;
  uint32_t tcp_delack_ms;
  uint8_t tcp_nagle;
  uint8_t tcp_no_sack;
  uint8_t tcp_no_timestamps;
  uint8_t tcp_no_wscale;
  uint8_t no_gro;            /* received segments are not joined */
  uint8_t tcp_congestion_control; /* enum np_cc */
  uint8_t tcp_ecn;                /* enum np_ecn */
  uint8_t tcp_pacing;             /* enum np_pacing */
  uint8_t tcp_mtu_probing;        /* enum np_mtu_probing */
  uint8_t pad1[3];
  uint16_t udp_echo_port;
  uint16_t udp_discard_port;
  uint32_t load_conns;       /* connections of the load generator per core; 0: there is none */
  uint32_t load_depth;       /* its messages in flight per connection at most */
  uint8_t tcp_no_autotune;
  uint8_t tcp_no_quick_acks;
  uint8_t pad_tcp[2];
  uint32_t tcp_persist_ms;       /* 0: a shut window may stay so as long as its owner answers */
  uint32_t tcp_challenge_per_s;  /* 0: default */
  uint32_t tcp_conns_per_source; /* 0: no limit */
  uint32_t tcp_min_snd_mss;      /* 0: default */
  uint32_t tcp_ttl;              /* 1 to 255; 0: 64, and for IPv6 what a router told */
  uint32_t tcp_mem_pressure_pct; /* of bufs_per_core held, from which they are short; 0: default */
  uint32_t tcp_mem_max_pct;      /* 0: default */
  uint32_t tcp_ooo_runs_max;     /* 0: default */
  uint32_t tcp_rcv_start_bytes;  /* 0: default */
  uint32_t tcp_quick_acks;       /* full segments at a connection's begin that are acknowledged each; 0: default */
  uint32_t tcp_reset_per_s;    /* resets to segments of no connection; 0: default */
  uint32_t carriers;           /* mask of 1 << enum np_carrier_kind: what beside our own TCP is wanted */
  uint32_t uring_without;      /* mask of NP_URING_NO_* */
  uint32_t sock_conns_max;     /* connections of each of them, per core */
  uint32_t sock_rcv_buf_bytes; /* received and not consumed, at most, per connection; 0: 256 KiB */
  uint32_t sock_snd_buf_bytes; /* queued and not yet the kernel's, at most, per connection; 0: 256 KiB */
  uint32_t rdma_conns_max;     /* per core: sessions for np_plane_rdma_open's connections */
  uint8_t secret[64];          /* random; wiped in the caller's copy by the caller */
  struct np_exception_config exception;
  uint32_t steering;           /* enum np_steering */
  uint32_t pad_end;
};

/* Detail of a failure, filled in the same call that failed. */
struct np_err_detail {
  char text[192]; /* action and object, lower case: "mmap 64 MiB: Cannot allocate memory" */
  int32_t sys;    /* errno, 0 none */
};

void np_plane_config_default(struct np_plane_config *config);

/* Takes all memory, makes rings; no thread yet.
 * Owner: caller destroys. Thread: any, one at a time per plane (all of this file).
 * Blocks: for page faults. Return: NP_ERR_OK, NP_ERR_INVALID, NP_ERR_NOMEM, NP_ERR_SYS. */
enum np_err np_plane_create(const struct np_plane_config *config, struct np_plane **out, struct np_err_detail *detail);
/* Starts the poll threads: pinned, all signals blocked. */
enum np_err np_plane_start(struct np_plane *plane, struct np_err_detail *detail);
/* Stops and joins the threads; every connection is aborted. Idempotent. */
void np_plane_stop(struct np_plane *plane);
/* Frees everything; queues must have been closed. */
void np_plane_destroy(struct np_plane *plane);

/* Whether NP_CARRIER_URING would work here and now. Thread: any.
 * Return: NP_ERR_OK, or NP_ERR_UNSUPPORTED, NP_ERR_NOMEM, NP_ERR_SYS with cause and cure in detail. */
enum np_err np_plane_uring_probe(struct np_err_detail *detail);
/* Owner: the plane. Valid until destroy. */
struct np_core_shared *np_plane_core(struct np_plane *plane, uint32_t core);
const char *np_plane_crypto_engine(struct np_plane *plane);
/* 0 ordinary pages, else bytes per huge page in use. */
uint64_t np_plane_huge_page_bytes(struct np_plane *plane);

/* AF_XDP: opens the socket of one queue on one core's memory and binds it. Not yet polled:
 * attach with NP_CMD_PORT_ATTACH, which posts the first buffers for receiving. The caller puts the fd
 * into the XSKMAP after that. queue belongs to the plane until np_plane_queue_close.
 * Blocks: two seconds at most, while a socket closed before still holds the queue.
 * Errors: NP_ERR_NODEV, NP_ERR_PERM (detail names the capabilities), NP_ERR_BUSY, NP_ERR_SYS. */
struct np_afxdp_args {
  char ifname[16];
  uint32_t ifindex;
  uint32_t queue;
  uint32_t core;
  uint32_t ring;      /* descriptors per ring, power of two; 0: 4,096, at most a quarter of the pool */
  uint32_t mtu_bytes;
  uint8_t mac[6];
  uint8_t zero_copy;  /* 0 copy, 1 zero-copy, 2 try zero-copy then copy */
  uint8_t native;     /* bind needs the program's mode: 1 native, 0 generic */
};
struct np_port_queue;
enum np_err np_plane_afxdp_open(struct np_plane *plane, const struct np_afxdp_args *args, struct np_port_queue **out,
                                int32_t *out_fd, uint8_t *out_zero_copy, struct np_err_detail *detail);
/* AF_PACKET and TAP: opens one queue of a device over the kernel's packet interfaces. Not yet polled, like above;
 * packets that come meanwhile wait. What the caller leaves open is filled in (ifindex, fanout, a TAP's mac), so the
 * same args, with another queue, open the next: queue 0 first.
 * Blocks: while the kernel makes the ring. Errors: NP_ERR_INVALID, NP_ERR_NODEV, NP_ERR_PERM, NP_ERR_BUSY, NP_ERR_EXISTS (the
 * name is that of another kind of device), NP_ERR_UNSUPPORTED, NP_ERR_NOMEM, NP_ERR_SYS. */
enum np_raw_kind {
  NP_RAW_PACKET = 1, /* an existing device, which the kernel goes on using */
  NP_RAW_TAP         /* a device that is made, and goes when its last queue is closed; the kernel has the other end */
};
struct np_raw_args {
  char ifname[16];
  uint32_t ifindex;   /* NP_RAW_PACKET: 0 by name */
  uint32_t queue;
  uint32_t queues;    /* of the device in all; flows are shared between them by hash */
  uint32_t core;
  uint32_t ring;      /* NP_RAW_PACKET: frames of the receive ring, power of two; 0: 4,096 */
  uint32_t mtu_bytes;
  uint32_t fanout;    /* NP_RAW_PACKET: number of the queues' group */
  uint8_t mac[6];     /* the stack's; a TAP: 0 makes one from the kernel's end */
  uint8_t kind;       /* enum np_raw_kind */
  uint8_t flags;      /* NP_RAW_F_* */
};
#define NP_RAW_F_NO_OFFLOAD 0x1u /* a TAP whose kernel finishes checksums and segments itself */
#define NP_RAW_F_KERNEL_MAC 0x2u /* a TAP whose kernel's end gets mac: it stands in for a device of that address */
enum np_err np_plane_raw_open(struct np_plane *plane, struct np_raw_args *args, struct np_port_queue **out,
                              int32_t *out_fd, struct np_err_detail *detail);

/* DPDK: opens a device by its driver there, queue i on core i modulo cores, and starts it; each queue is then
 * attached and closed as any other. out has room for NP_DPDK_QUEUES_MAX, info says how many there are. The first call in a process starts DPDK itself, which ends with the process.
 * Thread: one call at a time in the process.
 * Blocks: a fifth of a second for DPDK, then as the driver does, seconds for some NICs.
 * Errors: NP_ERR_UNSUPPORTED (built without DPDK, or the driver can't), NP_ERR_INVALID, NP_ERR_NODEV,
 * NP_ERR_BUSY (a kernel driver or another interface has it), NP_ERR_NOMEM, NP_ERR_PERM, NP_ERR_SYS. */
#define NP_DPDK_QUEUES_MAX 64u
struct np_dpdk_args {
  char name[16];     /* the interface's, for errors */
  char device[256];  /* "0000:03:00.0", or a virtual one with its arguments: "net_memif0,role=client" */
  uint32_t queues;   /* 1 to 64; 0: as many as cores on a NIC that has so many, one on a virtual device */
  uint32_t ring;     /* descriptors per ring; 0: 1,024, at most a quarter of the pool */
  uint32_t mtu_bytes; /* 0: the device's */
};
struct np_dpdk_info {
  char driver[32];
  uint8_t mac[6];
  uint8_t link_up;
  uint8_t copies; /* packets are copied at the border: the driver wants its own memory */
  uint32_t mtu_bytes;
  uint32_t queues;
};
/* 0: built without DPDK. */
uint8_t np_plane_has_dpdk(void);
enum np_err np_plane_dpdk_open(struct np_plane *plane, const struct np_dpdk_args *args, struct np_port_queue **out,
                               struct np_dpdk_info *info, struct np_err_detail *detail);
/* A lane: core, which has no queue of a device, sends by queue, which is another core's. Attached, detached and closed
 * as a queue; nothing comes by it: the core of queue hands it what is its own (NP_CMD_F_STEER).
 * Errors: NP_ERR_INVALID, NP_ERR_STATE (NP_STEERING_DEVICE), NP_ERR_NOMEM. */
enum np_err np_plane_lane_open(struct np_plane *plane, struct np_port_queue *queue, uint32_t core,
                               struct np_port_queue **out, struct np_err_detail *detail);
/* Closes a queue, whatever opened it, that is not (or no longer) attached: after NP_CMD_PORT_DETACH was DONE, or after
 * np_plane_stop. Ends the socket or device queue, then has the core take back every buffer that was held
 * there: when it returns they are in the pool. Blocks: some milliseconds. queue is invalid afterwards. */
void np_plane_queue_close(struct np_plane *plane, struct np_port_queue *queue);
/* Copies a queue's statistics, the kernel's own included. */
void np_plane_queue_stats(struct np_plane *plane, struct np_port_queue *queue, struct np_queue_stats *out);

/* Capture. filter: tcpdump's language, compiled with libpcap; NULL or "" takes all.
 * ring_bytes: power of two, 64 KiB to 256 MiB. */
struct np_capture;
struct np_capture_args {
  const char *filter;
  uint32_t snap_bytes;
  uint32_t ring_bytes;
  uint32_t dirs;     /* mask of enum np_capture_dir */
  int32_t iface;     /* -1 all */
  uint64_t conn;     /* handle, 0 all */
  uint16_t listener_port; /* 0 all */
};
enum np_err np_capture_open(const struct np_capture_args *args, struct np_capture **out, struct np_err_detail *detail);
/* Moves whole records into out, at most out_bytes. Return: bytes moved. One
 * crossing for many packets. Thread: one reader per capture. Blocks: never. */
uint32_t np_capture_read(struct np_capture *capture, void *out, uint32_t out_bytes);
uint64_t np_capture_lost(struct np_capture *capture);
/* After NP_CMD_CAPTURE 0 was DONE on the core. */
void np_capture_close(struct np_capture *capture);

#endif
