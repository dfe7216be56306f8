/* The contract between Go and a core: 64-byte commands (Go to core), 64-byte
 * events (core to Go), and buffers lent both ways. All in memory that C
 * allocates and both sides read with atomics; no call crosses per message.
 *
 * Buffers. An event that carries a body hands Go a chain of buffers (first
 * piece at body, linked by np_buf.next). Go reads them in place and gives them
 * back with NP_CMD_FREE. For sending, a core lends Go a fixed number of
 * buffers; they travel to Go through the loan ring, come back inside a
 * command's body chain, and return to the loan ring when the core is done.
 * A lent buffer's data starts at NP_LOAN_DATA_OFF and holds chunk_bytes -
 * NP_LOAN_DATA_OFF bytes at most; Go sets data_off, len and next. */
#ifndef NP_ABI_H
#define NP_ABI_H

#include <stdint.h>

#include "np/buf.h"
#include "np/counter.h"
#include "np/err.h"
#include "np/info.h"
#include "np/load.h"
#include "np/npro.h"
#include "np/ring.h"

#define NP_ABI_VERSION 1u
#define NP_LOAN_DATA_OFF (NP_BUF_HDR + NP_BUF_HEADROOM)

enum np_cmd_op {
  NP_CMD_NONE,
  /* set-up; answered by NP_EV_DONE with the command's token */
  NP_CMD_IFACE_ADD,    /* body: struct np_cmd_iface */
  NP_CMD_IFACE_DEL,    /* arg: iface */
  NP_CMD_ADDR_ADD,     /* body: struct np_cmd_addr */
  NP_CMD_ADDR_DEL,
  NP_CMD_ROUTE_ADD,    /* body: struct np_cmd_route */
  NP_CMD_ROUTE_DEL,
  NP_CMD_PORT_ATTACH,  /* handle: struct np_port_queue pointer from np_plane_*_open; arg: iface. NP_CMD_F_KERNEL: the
                          TAP by which the kernel gets what is not ours of that interface, attached after its port.
                          NP_CMD_F_STEER: the core gives TCP segments that come by it to the cores that their flows name */
  NP_CMD_PORT_DETACH,  /* arg: iface; after DONE the control side may close the queue */
  NP_CMD_LISTEN,       /* body: struct np_cmd_listen; DONE.handle: listener */
  NP_CMD_UNLISTEN,     /* handle: listener */
  NP_CMD_CONNECT,      /* body: struct np_cmd_connect; DONE.handle: connection, then EV_OPEN or EV_CLOSED */
  NP_CMD_CAPTURE,      /* handle: struct np_capture pointer, 0 stops */
  NP_CMD_CONNS,        /* handle: struct np_conn_info *dst, arg: max, stream: cursor; DONE.arg: count, DONE.stream: next cursor */
  NP_CMD_NEIGHBORS,    /* likewise with struct np_neigh_info */
  NP_CMD_DRAIN,        /* stop accepting; GOAWAY on every NPRO session */
  NP_CMD_ADDRS,        /* as NP_CMD_CONNS, with struct np_addr_info */
  NP_CMD_OBSERVE,      /* arg: iface; body: a frame that the kernel got, ARP or ICMPv6: learned from, never answered */
  NP_CMD_LOAD,         /* body: struct np_cmd_load; NP_ERR_UNSUPPORTED without load_conns */
  NP_CMD_CONN_SET,     /* handle: connection, stream: enum np_conn_setting, arg: its value from now on */
  NP_CMD_UDP_BIND,     /* body: struct np_cmd_udp; DONE.handle: UDP socket, DONE.arg: its port. On each core, for datagrams come to any */
  NP_CMD_UDP_CLOSE,    /* handle: UDP socket */
  NP_CMD_UDP_SEND,     /* handle: UDP socket, body: struct np_udp_meta, then the datagram. DONE only on error */
  /* connections; DONE only on error, or when NP_CMD_F_ACK asks for it */
  NP_CMD_CLOSE,        /* handle: connection. arg: enum np_code; NPRO says DISCONNECT (body: reason text), then FIN.
                          A pipe: FIN after what is queued, and nothing is read any more */
  NP_CMD_ABORT,        /* handle: connection: RST */
  NP_CMD_HANDSHAKE,    /* handle, type: 0x10..0x12, body: frame body. NP_CMD_F_MORE: a further handshake frame is awaited */
  NP_CMD_KEYS,         /* handle, body: struct np_npro_keys; wiped by the core */
  NP_CMD_SEND,         /* a pipe: handle, body (its buffers become the stream's, others are lent later). NPRO: handle, stream, type REQUEST RESPONSE MESSAGE DATA, flags NP_NPRO_F_*, priority, body.
                          stream 0 with REQUEST/MESSAGE: the core picks one and tells it in DONE.stream */
  NP_CMD_RESET,        /* handle, stream, arg: code */
  NP_CMD_PING,         /* handle, body: 0 to 64 bytes; answered by NP_EV_PONG */
  NP_CMD_CREDIT,       /* handle, stream, arg: bytes of body the handler is done with: WINDOW may be sent. A pipe: of NP_EV_DATA */
  NP_CMD_FREE,         /* body: chain that an event brought; arg ignored */
  NP_CMD_REKEY,        /* handle */
  NP_CMD_GOAWAY,       /* handle: one connection */
  NP_CMD_SHUTDOWN,     /* handle, a pipe: no more will be sent; FIN after what is queued */
  NP_CMD_OP_COUNT
};

#define NP_CMD_F_ACK 0x1u
#define NP_CMD_F_MORE 0x2u
#define NP_CMD_F_KERNEL 0x4u
#define NP_CMD_F_STEER 0x8u

enum np_conn_setting {
  NP_CONN_SET_CC,          /* enum np_cc */
  NP_CONN_SET_USER_TIMEOUT, /* ms, 0 none (RFC 5482 §3.1's local side) */
  NP_CONN_SET_KEEPALIVE,   /* ms of silence before a probe, 0 none */
  NP_CONN_SET_NAGLE        /* 1: small writes wait while others are in flight, 0: they don't */
};

struct np_cmd {
  uint16_t op;         /* enum np_cmd_op */
  uint16_t cmd_flags;  /* NP_CMD_F_* */
  uint32_t token;      /* echoed in NP_EV_DONE */
  uint64_t handle;
  uint32_t stream;
  uint32_t arg;
  uint8_t type;        /* NPRO frame type */
  uint8_t flags;       /* NPRO flags */
  uint8_t priority;
  uint8_t pad0;
  uint32_t body_bytes; /* of the whole chain */
  struct np_buf *body; /* lent chain, or NULL */
  uint64_t arg64;
  uint64_t reserved[2];
};
_Static_assert(sizeof(struct np_cmd) == 64, "np_cmd is one cache line");

enum np_event_op {
  NP_EV_NONE,
  NP_EV_DONE,      /* token, err, handle, arg, stream as the command says */
  NP_EV_OPEN,      /* an accepted (arg: 1) or outgoing (arg: 0) NPRO or pipe session exists; handle, listener. body: one buffer holding struct np_conn_info.
                      stream: of a pipe, how long a piece of NP_CMD_SEND is best */
  NP_EV_CLOSED,    /* handle, err; the last event of a connection. arg: code the peer gave, 0 none */
  NP_EV_HANDSHAKE, /* handle, type, body: frame body in the clear */
  NP_EV_MESSAGE,   /* handle, stream, type REQUEST RESPONSE MESSAGE DATA, flags (END MORE CTX), priority, body (decrypted,
                      decompressed; starts with the context block when CTX). One event per frame; credit returns by NP_CMD_CREDIT */
  NP_EV_RESET,     /* handle, stream, arg: code: the peer gave the stream up */
  NP_EV_SENT,      /* handle, stream, arg: body bytes of NP_CMD_SEND that left the queue: budget returns. A pipe: once a turn,
                      stream as with NP_EV_OPEN */
  NP_EV_PONG,      /* handle, body */
  NP_EV_GOAWAY,    /* handle, arg: last stream the peer serves */
  NP_EV_PORT,      /* arg: iface; err: NP_ERR_PORTDOWN when its device is gone, 0 when it is back */
  NP_EV_DATA,      /* a pipe: handle, body: received bytes. Room returns to the peer by NP_CMD_CREDIT */
  NP_EV_EOF,       /* a pipe: handle: the peer sent its last byte; sending may go on */
  NP_EV_DATAGRAM,  /* handle: UDP socket (kind: NP_SESSION_PIPE), body: struct np_udp_meta, then the datagram */
  NP_EV_ADDRS,     /* arg: iface; its addresses changed by themselves (state, conflict): ask with NP_CMD_ADDRS */
  NP_EV_OP_COUNT
};

struct np_event {
  uint16_t op; /* enum np_event_op */
  uint8_t type;
  uint8_t flags;
  uint32_t token;
  uint64_t handle;
  uint32_t stream;
  uint32_t arg;
  uint32_t err; /* enum np_err */
  uint8_t priority;
  uint8_t kind;    /* enum np_session_kind of a connection's event */
  uint8_t pad0[2];
  uint64_t listener;
  struct np_buf *body;
  uint32_t body_bytes;
  uint32_t pad1;
  uint64_t at_ns; /* the turn's CLOCK_MONOTONIC */
};
_Static_assert(sizeof(struct np_event) == 64, "np_event is one cache line");

struct np_cmd_iface {
  uint16_t iface;
  uint16_t vlan;
  uint16_t port;
  uint8_t dad_transmits; /* probes before an IPv6 address is used, 0 none */
  uint8_t announces;     /* announcements of an address that came up; 0 means 1 */
  uint32_t mtu_bytes;
  uint8_t mac[6];
  uint8_t flags;         /* NP_IFACE_F_* */
  uint8_t pad1;
};
#define NP_IFACE_F_ACD 0x1u    /* probe before an IPv4 address is used (RFC 5227) */
#define NP_IFACE_F_RA 0x2u     /* take addresses and default routes from routers */
#define NP_IFACE_F_MLD 0x8u    /* report the groups of IPv6 addresses to switches and routers */
#define NP_IFACE_F_OPAQUE 0x4u /* IPv6 addresses of our own making differ from the kernel's */
struct np_cmd_addr {
  uint8_t addr[16];
  uint16_t iface;
  uint8_t prefix_bits;
  uint8_t pad[5];
};
struct np_cmd_route {
  uint8_t prefix[16];
  uint8_t via[16];
  uint16_t iface;
  uint8_t prefix_bits;
  uint8_t pad[5];
};
struct np_cmd_listen {
  uint8_t local[16];
  uint16_t port;
  uint8_t session_kind; /* enum np_session_kind */
  uint8_t cookies;
  uint32_t backlog;
  uint32_t conns_max;
  uint8_t congestion_control; /* enum np_cc plus 1; 0: the plane's */
  uint8_t dscp;               /* 0 to 63 */
  uint8_t carrier;            /* enum np_carrier_kind; 0: our own TCP */
  uint8_t pad;
  int32_t fd;                 /* of another carrier: a listening socket, the core's from now on */
};
struct np_cmd_connect {
  uint8_t local[16];
  uint8_t remote[16];
  uint16_t local_port;
  uint16_t remote_port;
  uint8_t session_kind;
  uint8_t congestion_control; /* enum np_cc plus 1; 0: the plane's */
  uint8_t carrier;            /* enum np_carrier_kind; 0: our own TCP */
  uint8_t pad;
  int32_t fd;                 /* of another carrier: a socket that connects, the core's from now on */
};
struct np_cmd_udp {
  uint8_t local[16]; /* zero: any of ours; ::ffff:0.0.0.0: any of IPv4 */
  uint16_t port;     /* 0: chosen */
  uint8_t dscp;
  uint8_t pad[5];
};
/* In front of each datagram, either way. */
struct np_udp_meta {
  uint8_t local[16]; /* received: where it was sent to. To send: zero lets the route choose */
  uint8_t remote[16];
  uint16_t remote_port;
  uint16_t local_port;
  uint8_t ecn;  /* of the IP header */
  uint8_t pad[3];
};
_Static_assert(sizeof(struct np_udp_meta) == 40, "np_udp_meta has no holes");

/* Loan ring item: a buffer now Go's to write. Go's reader that waits for one sets
 * cons_sleeping of this ring too: event_fd is written for both. */
struct np_loan {
  struct np_buf *buf;
};

/* Everything of one core that Go touches. Allocated by np_plane_create. */
struct np_core_shared {
  struct np_ring *cmd;    /* struct np_cmd; Go produces */
  struct np_ring *event;  /* struct np_event; core produces */
  struct np_ring *loan;   /* struct np_loan; core produces */
  struct np_counters *counters;
  uint32_t chunk_bytes;
  int32_t event_fd;       /* eventfd Go sleeps on */
  int32_t wake_fd;        /* eventfd the core sleeps on; write when cmd->cons_sleeping */
  uint32_t core;
  struct np_load_stats *load; /* NULL without load_conns */
};

/* Capture: the core copies matching packets into a ring of variable-size
 * records; Go drains it. Made and freed by np_capture_open/close (plane.h). */
struct np_capture_rec {
  uint32_t bytes;      /* of this record, header included, multiple of 8 */
  uint32_t orig_bytes; /* of the packet */
  uint32_t cap_bytes;  /* copied */
  uint16_t iface;
  uint8_t dir;         /* enum np_capture_dir */
  uint8_t drop;        /* enum np_drop when dir is DROP */
  uint64_t at_ns;      /* CLOCK_MONOTONIC */
  /* packet bytes follow */
};
enum np_capture_dir { NP_CAPTURE_RX = 1, NP_CAPTURE_TX = 2, NP_CAPTURE_DROP = 4 };

#endif
