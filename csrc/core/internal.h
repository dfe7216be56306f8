/* What the files of csrc/core share: the core's own state. Nobody else includes it.
 * Thread: the core's own, except where a field says otherwise. */
#ifndef NP_CORE_INTERNAL_H
#define NP_CORE_INTERNAL_H

#include "base/carrier.h"
#include "base/ring.h"
#include "core/core.h"
#include "crypto/record.h"
#include "ip/ip.h"
#include "session/load.h"
#include "session/session.h"
#include "tcp/tcp.h"

#define NP_CORE_QUEUES_MAX 64u
#define NP_CORE_LISTENERS_MAX 64u
#define NP_SOCK_BUF_DEFAULT_BYTES (256u << 10)
/* Budgets of one turn. */
#define NP_CORE_CMDS_PER_TURN 256u
#define NP_CORE_TIMERS_PER_TURN 256u
#define NP_CORE_FLUSH_ROUNDS 4u
/* Housekeeping: looks at ports without traffic and publishes gauges. */
#define NP_CORE_TICK_NS UINT64_C(100000000)

/* A port queue that this core polls. */
struct np_core_queue {
  struct np_port_queue *port;
  bool was_down; /* as last told to Go */
  bool was_gone;
  bool kernels;  /* the TAP of an exception path */
  uint64_t poll_ns; /* of a TAP: when to look at it again */
};

/* How this core reaches one interface. */
struct np_core_link {
  struct np_port_queue *tx; /* the first queue attached; NULL none */
  uint64_t full_turn;       /* turn in which its ring was found full even after a flush */
};

/* An ip-level interface (a VLAN is one too) and the link below it. */
struct np_core_iface {
  bool used;
  uint16_t port;
};

/* Ways to the kernel, for interfaces whose devices the appliance owns. */
struct np_exception {
  uint32_t count;                          /* of tap; 0: there are none */
  uint32_t pad;
  uint64_t cost_ns;                        /* of a packet at the rate; 0: no limit */
  uint64_t due_ns;                         /* when all taken so far are paid for */
  struct np_port_queue *tap[NP_IFACE_MAX]; /* by the interface it stands in for; NULL: none */
  struct np_exception_config config;
};

struct np_core_listener {
  struct np_core *core;
  uint64_t handle; /* 0: free */
  uint32_t generation;
  uint32_t inner;  /* the listener's name in TCP or its carrier */
  uint8_t carrier; /* enum np_carrier_kind */
  enum np_session_kind kind;
};

/* Streams that do not come from TCP (base/carrier.h). */
struct np_core_carrier {
  struct np_carrier *c;
  uint8_t kind;      /* enum np_carrier_kind */
  uint32_t quiet_ns; /* nothing came: asked again so long after, when there are ports to poll */
  uint64_t next_ns;
};

struct np_core_carrier_parts {
  struct np_core_carrier_part {
    struct np_carrier_config config; /* conns_max 0: not wanted */
    size_t off;                      /* of its memory */
    uint32_t without;                /* NP_URING_NO_* */
  } part[NP_CARRIER_COUNT];
};

struct np_core_udp {
  uint64_t handle; /* 0: free */
  uint32_t generation;
  uint32_t held;   /* buffers with Go */
};

/* A function that the control thread wants run on this core's thread; it waits for done. */
struct np_core_call {
  void (*fn)(void *arg);
  void *arg;
  uint32_t done; /* atomic; release here pairs with the control thread's acquire */
};

/* On its way to every other core: what a neighbor or router says (frames longer than this are lost), or
 * an ICMP error, whose bytes are a struct np_mail_error. */
struct np_mail {
  uint16_t port;  /* interface it came in by; NP_MAIL_ERROR */
  uint16_t bytes;
  uint8_t frame[252];
};
#define NP_MAIL_ERROR UINT16_MAX
struct np_mail_error {
  struct np_flow flow;
  uint32_t tcp_seq;
  uint32_t mtu_bytes;
  uint16_t err; /* enum np_err */
  uint16_t soft;
};
_Static_assert(sizeof(struct np_mail_error) <= 252, "fits in np_mail");
/* A segment on its way round the cores, from each to the next. */
struct np_stray {
  uint16_t port;
  uint16_t flags; /* np_buf.flags */
  uint32_t bytes;
  uint32_t hops;  /* cores to go; 0: back where it came from */
  uint32_t pad;
  /* the frame follows, in one piece */
};
_Static_assert(sizeof(struct np_mail) == 256, "np_mail is four cache lines");

struct np_core {
  uint64_t now_ns; /* of this turn */
  uint64_t turn;
  struct np_counters *counters;
  struct np_tcp *tcp;
  struct np_ip *ip;
  struct np_sessions *sessions;
  struct np_loads *loads;      /* NULL: none */
  struct np_crypto *crypto;
  struct np_capture *capture; /* NULL: off */
  struct np_ring *cmd;
  struct np_ring *event;
  struct np_ring *loan;
  uint32_t event_pending;  /* written, not yet published */
  uint32_t event_reserve;  /* slots that sessions leave for answers to commands */
  uint32_t loan_pending;
  uint32_t caps_any;       /* for sending, of any port attached so far */
  uint32_t loans_out;      /* in the loan ring or with Go */
  uint32_t loans_owed;     /* given to streams, to be replaced from the pool */
  uint32_t idle_bufs;      /* posted by ports and lent, at the end of the last turn */
  uint32_t loans_max;      /* as configured: what loans_out is without debts and commands under way */
  uint32_t queue_count;
  uint32_t index;
  bool left;               /* the last turn left work that needs no event to find */
  bool draining;
  uint32_t mail;           /* atomic: a peer left something; set by them, cleared here */
  uint32_t peer_count;     /* cores of the plane; 0 or 1: alone */
  uint32_t addrs_dirty;    /* interfaces, a bit each, of whose addresses Go has to be told */
  uint32_t steer;          /* interfaces, a bit each, whose segments go to the core that their flow names */
  uint64_t lane_told;      /* cores, a bit each, that have frames of ours and were not told yet */
  struct np_core_call *call; /* atomic: set by the control thread, cleared here */
  uint32_t carrier_count;
  struct np_core_carrier carrier[NP_CARRIER_COUNT];
  struct np_core_queue queue[NP_CORE_QUEUES_MAX];
  struct np_core_link link[NP_IFACE_MAX];
  struct np_exception exc;
  struct np_pool pool;
  struct np_timer tick;
  struct np_core_shared shared;
  struct np_core_iface iface[NP_IFACE_MAX];
  struct np_core_listener listener[NP_CORE_LISTENERS_MAX];
  struct np_core_udp udp[NP_UDP_SOCKETS_MAX]; /* by the network layer's number */
  uint32_t udp_held;       /* buffers of all of them with Go */
  struct np_buf *burst[NP_BURST];
  struct np_pkt pkt[NP_BURST];
  struct np_wheel wheel;
  struct np_core **peer;    /* peer_count, by index; itself among them */
  struct np_ring *stray_in; /* struct np_stray, from the core before this one */
  uint32_t stray_hops;      /* of the segment in hand */
  struct np_ring **mail_in; /* from the core of that index; NULL for itself */
  struct np_ring **direct_in; /* struct np_stray, likewise: of connections opened here */
  uint64_t *claims;           /* atomic words, this core's part of the plane's (claim.c); NULL: one core */
  uint32_t claim_mask;
  bool stopped;               /* claims, which may lie in memory of cores that are gone, are left as they are */
  struct np_ring **lane_in;   /* frames, likewise (steer.c); NULL: the plane was made without */
  uint32_t ports_up;          /* atomic: interfaces, a bit each, that a queue of ours sends by; for the lanes of others */
};

/* Memory and configuration of the layers, for np_core_join. */
struct np_core_parts {
  void *ip_mem;
  void *tcp_mem;
  void *sessions_mem;
  void *loads_mem; /* NULL: no load generator */
  const struct np_ip_config *ip;
  const struct np_tcp_config *tcp;
  const struct np_sessions_config *sessions;
  const struct np_loads_config *loads;
};

/* core.c */

/* Makes the layers and tells each what it may ask of the others. */
void np_core_join(struct np_core *core, const struct np_core_parts *parts, uint64_t now_ns);

/* An ICMP error for TCP. Return: whether a connection here was meant. */
bool np_core_l4_error(struct np_core *core, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft,
                      uint32_t mtu_bytes);

/* A session for a stream that a listener (listener_ctx) brought; NULL refuses it. */
struct np_session *np_core_accept(void *ctx, void *listener_ctx, struct np_stream *stream, uint64_t now_ns);

/* Slots of the event ring that an answer to a command may use. */
uint32_t np_core_answer_room(struct np_core *core);
/* Slots that anybody else may use. */
uint32_t np_core_event_room(struct np_core *core);
/* Appends an event (room was asked for); published at the end of the turn. */
void np_core_event(struct np_core *core, const struct np_event *ev);
/* Makes what was written into the event and loan rings visible and wakes Go if it sleeps. */
void np_core_publish(struct np_core *core);
/* Gives a chain of lent buffers back to the loan ring. */
void np_core_loan_return(struct np_core *core, struct np_buf *chain);
/* Lends what is owed, as far as the pool can spare it; once a turn. */
void np_core_loan_repay(struct np_core *core);
/* True when a core that slept now would miss something. */
bool np_core_must_run(struct np_core *core);
/* Aborts every connection, sends what that makes and ends the capture: the last thing a poll thread does. */
void np_core_stop(struct np_core *core, uint64_t now_ns);

/* carriers.c */

/* Memory for the carriers that the configuration asks for, cut from *at on. */
void np_core_carriers_lay_out(const struct np_plane_config *c, uint32_t index, struct np_core_carrier_parts *parts,
                              size_t *at);
/* Sessions that they may have in all. */
uint32_t np_core_carrier_sessions(const struct np_plane_config *c);
enum np_err np_core_carriers_init(struct np_core *core, uint8_t *base, const struct np_core_carrier_parts *parts,
                                  struct np_err_detail *detail);
void np_core_carriers_fini(struct np_core *core);
/* wake_fd is what the core will sleep on. Return: 0 or errno. */
int np_core_carriers_wake_by(struct np_core *core, int wake_fd);
/* quiet: nothing else is polled, so that asking costs nobody anything. */
uint32_t np_core_carriers_poll(struct np_core *core, bool quiet);
bool np_core_carriers_flush(struct np_core *core);
bool np_core_carriers_busy(const struct np_core *core);
uint32_t np_core_carriers_posted(const struct np_core *core);
void np_core_carriers_stop(struct np_core *core);
/* NULL: there is none of that kind. */
struct np_carrier *np_core_carrier_of(const struct np_core *core, uint32_t kind);
/* That whose slots handle's is among; NULL: our own TCP's. */
struct np_carrier *np_core_carrier_at(const struct np_core *core, uint64_t handle);
/* The stream a handle names, whatever carries it; NULL when stale. */
struct np_stream *np_core_stream(struct np_core *core, uint64_t handle);
/* As np_tcp_connections, over TCP and all carriers. */
uint32_t np_core_connections(struct np_core *core, uint32_t *cursor, struct np_conn_info *out, uint32_t max);
/* args->fd is the carrier's when they return NP_ERR_OK. */
enum np_err np_core_carrier_listen(struct np_core *core, const struct np_cmd_listen *args, struct np_core_listener *l);
enum np_err np_core_carrier_connect(struct np_core *core, const struct np_cmd_connect *args, struct np_session *session,
                                    struct np_stream **out);
/* Counts and frees a received packet. */
void np_core_drop_rx(struct np_core *core, struct np_buf *b, enum np_drop why);
/* Sends a finished frame by an interface, or drops and counts it; takes over one reference. */
void np_core_xmit(struct np_core *core, uint16_t iface, struct np_buf *frame);

/* exception.c */

void np_exception_init(struct np_core *core, const struct np_plane_config *config);
/* Takes what is the kernel's out of the first n parsed packets. Return: how many stay in core->pkt. */
uint32_t np_exception_burst(struct np_core *core, struct np_port_queue *port, uint32_t n);
/* Whether a packet that was refused for that reason went to the kernel instead. */
bool np_exception_refused(struct np_core *core, const struct np_pkt *pkt, enum np_drop why);
/* Sends what the kernel sent by a TAP. Return: packets. */
uint32_t np_exception_rx(struct np_core *core, struct np_core_queue *cq);
/* The interface's port is attached. Errors: NP_ERR_INVALID, NP_ERR_EXISTS, NP_ERR_FULL. */
enum np_err np_exception_attach(struct np_core *core, struct np_port_queue *tap, uint16_t iface);
/* Forgets the interface's TAP; the queue itself goes with the interface's others. */
void np_exception_detach(struct np_core *core, uint16_t iface);

/* cmd.c */

/* Runs what Go queued, at most NP_CORE_CMDS_PER_TURN. Return: commands taken. */
uint32_t np_core_commands(struct np_core *core);
/* Closes the descriptor of a command that is never run. */
void np_core_cmd_drop(const struct np_cmd *cmd);
enum np_err np_core_unlisten(struct np_core *core, uint64_t handle);

/* udp.c */

enum np_err np_core_udp_bind(struct np_core *core, const struct np_cmd_udp *args, uint64_t *out_handle, uint32_t *out_port);
enum np_err np_core_udp_close(struct np_core *core, uint64_t handle);
/* Takes over the command's body. */
enum np_err np_core_udp_send(struct np_core *core, const struct np_cmd *cmd);
/* np_ip_env.udp */
bool np_core_udp_input(void *ctx, uint32_t socket, const struct np_pkt *pkt);
/* NP_CMD_FREE: Go is done with them. */
void np_core_udp_returned(struct np_core *core, struct np_buf *chain);

/* mail.c */

/* Bytes of a core's mail rings and tables, and their making. */
size_t np_mail_bytes(uint32_t cores);
void np_mail_init(struct np_core *core, void *mem, uint32_t cores);
/* Makes the cores of a plane known to each other; before any thread starts. */
void np_mail_join(struct np_core *const *cores, uint32_t count);
/* If pkt is a neighbor's answer, copies it to every other core. */
void np_mail_send(struct np_core *core, const struct np_pkt *pkt);
/* An ICMP error that matched no connection here: to every other core. */
void np_mail_error(struct np_core *core, const struct np_mail_error *e);
/* A segment that matched none: to the next core, which hands it on likewise. */
enum np_tcp_stray np_mail_stray(struct np_core *core, const struct np_pkt *pkt);
/* A segment of a flow that another core has: to that one. */
enum np_tcp_stray np_mail_give(struct np_core *core, const struct np_pkt *pkt, uint32_t owner);
/* Takes what others sent. Return: how much of it. */
uint32_t np_mail_receive(struct np_core *core);
/* A copy of a frame that somebody else received: the network layer learns from it and answers nothing. */
void np_mail_observe(struct np_core *core, uint16_t port, const void *frame, uint32_t bytes);
bool np_mail_waits(struct np_core *core);
/* There is something in a ring of to's. */
void np_mail_tell(struct np_core *to);

/* claim.c */

#define NP_CLAIM_NONE UINT32_MAX
/* Bytes of a core's part, and its making; 0 where it is alone. */
size_t np_claim_bytes(const struct np_plane_config *config);
void np_claim_init(struct np_core *core, void *mem, const struct np_plane_config *config);
/* The core that has the flow; NP_CLAIM_NONE: nobody is known to. */
uint32_t np_claim_look(const struct np_core *core, const struct np_flow *flow);
/* The same, and if nobody has it this core does from now on. */
uint32_t np_claim_take(struct np_core *core, const struct np_flow *flow);
/* Gives up what this core has; no effect on another's. */
void np_claim_drop(struct np_core *core, const struct np_flow *flow);

/* steer.c */

/* Bytes of a core's rings for frames of other cores, and their making; 0 where only devices steer. */
size_t np_steer_bytes(const struct np_plane_config *config);
void np_steer_init(struct np_core *core, void *mem, const struct np_plane_config *config);
/* From now on what comes by the interface is given to the core that its flow names. */
void np_steer_attach(struct np_core *core, uint16_t iface);
/* Gives away TCP's packets, core->pkt[0] to [n - 1], that are other cores'. Return: how many are left, in front. */
uint32_t np_steer_burst(struct np_core *core, uint32_t n);
/* Takes what other cores gave. Return: frames. */
uint32_t np_steer_receive(struct np_core *core);
/* Whether a queue of ours sends by the interface, for lanes of other cores. */
void np_steer_port(struct np_core *core, uint16_t iface, bool up);

/* config.c */

/* Checks every field; detail names the field, its value and the range. */
enum np_err np_plane_config_check(const struct np_plane_config *config, struct np_err_detail *detail);
/* Fills detail: "action object: strerror(sys)", without the last part when sys is 0. */
void np_err_detail_set(struct np_err_detail *detail, int sys, const char *format, ...) NP_PRINTF(3, 4);

/* capture.c */

/* Called with the core's thread when a capture starts: conn's addresses are looked up once.
 * Errors: NP_ERR_BUSY when some core uses it, NP_ERR_STALE when its connection is gone. */
enum np_err np_capture_start(struct np_capture *capture, struct np_core *core);
void np_capture_stop(struct np_capture *capture);
/* A packet in pieces: head is at the Ethernet header; behind it the data of more up to end (NULL:
 * all). The filter sees head alone, which holds every header. */
struct np_capture_pkt {
  const uint8_t *head;
  uint32_t head_bytes;
  const struct np_buf *more;
  const struct np_buf *end;
  enum np_capture_dir dir;
  enum np_drop why;
  uint16_t iface;
  uint64_t now_ns;
};
/* Copies one packet if it matches. */
void np_capture_pieces(struct np_capture *capture, struct np_counters *counters, const struct np_capture_pkt *pkt);
/* The same for one piece. data is at the Ethernet header. */
void np_capture_packet(struct np_capture *capture, struct np_counters *counters, enum np_capture_dir dir,
                       uint16_t iface, enum np_drop why, const uint8_t *data, uint32_t bytes, uint64_t now_ns);

#endif
