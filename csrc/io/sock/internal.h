/* What the engines of kernel sockets share: connections, listeners, queues, the stream's
 * operations. io/sock/epoll.c and io/uring are engines; nobody else includes this.
 *
 * A connection's life: CONNECTING or OPEN, then ENDING once its end is known and told, then
 * FREE when the engine has let go of the descriptor and of every buffer. A slot is reused
 * only then, and its generation tells reports that come late from its successor's. */
#ifndef NP_IO_SOCK_INTERNAL_H
#define NP_IO_SOCK_INTERNAL_H

#include "io/sock/sock.h"
#include "np/counter.h"

#define NP_SOCK_NIL UINT32_MAX

/* Named budgets and bounds. */
#define NP_SOCK_FLUSH_BUDGET 256u      /* connections one flush looks at */
#define NP_SOCK_PIECES 32u             /* buffers of one read or write */
#define NP_SOCK_TURN_BYTES (256u << 10) /* that one connection moves each way in a turn */
#define NP_SOCK_ACCEPTS 64u            /* of one listener in a turn */
#define NP_SOCK_TICK_NS UINT64_C(10000000)
#define NP_SOCK_CALM_NS UINT64_C(100000000)     /* without descriptors or memory, accepting waits so long */
#define NP_SOCK_LINGER_NS UINT64_C(60000000000) /* a stream that its session let go of waits so long for its peer */

enum np_sock_state { NP_SOCK_FREE, NP_SOCK_CONNECTING, NP_SOCK_OPEN, NP_SOCK_ENDING };

/* flags of a connection */
#define NP_SK_DIRTY 0x0001u       /* in the list that flush works off; or told closed, and never in it again */
#define NP_SK_EV_ACCEPT 0x0002u   /* to be told at the next flush: */
#define NP_SK_EV_ESTABLISHED 0x0004u
#define NP_SK_EV_EOF 0x0008u
#define NP_SK_EV_WRITABLE 0x0010u
#define NP_SK_EV_CLOSED 0x0020u
#define NP_SK_ROOM_NO 0x0040u     /* the session saw little room: tell it when there is more */
#define NP_SK_EOF 0x0080u         /* the peer sent its last byte */
#define NP_SK_FIN_QUEUED 0x0100u  /* nothing more will be queued */
#define NP_SK_FIN_SENT 0x0200u
#define NP_SK_DETACHED 0x0400u    /* no session any more: what comes is dropped */
#define NP_SK_RESET 0x0800u       /* the descriptor is to be closed so that the peer gets a RST */
#define NP_SK_PAUSED 0x1000u      /* not read until the session consumed */
#define NP_SK_CROWDED 0x2000u     /* PAUSED for many small pieces: read again at a tick */
#define NP_SK_TX_WAIT 0x4000u     /* the kernel takes no more until the engine hears so */
#define NP_SK_LINGER 0x8000u      /* in the list of those with a limit of time */
#define NP_SK_OUTGOING 0x10000u
#define NP_SK_UNIX 0x20000u
#define NP_SK_NAMED 0x40000u      /* local and remote are filled */
#define NP_SK_LISTED 0x80000u     /* in a list of its engine's */
/* the engine's own */
#define NP_SK_ENGINE_SHIFT 20

struct np_sock;

struct np_sock_conn {
  /* What each message touches comes first. */
  struct np_stream stream;
  struct np_sock *sock;
  struct np_buf *sndq_head; /* not yet taken by the kernel */
  struct np_buf *sndq_tail;
  struct np_buf *rcvq_head; /* received, not yet handed up */
  struct np_buf *rcvq_tail;
  uint32_t flags;           /* NP_SK_* */
  uint32_t sndq_bytes;
  uint32_t rcvq_bytes;
  uint32_t rcvq_pieces;
  uint32_t unconsumed_bytes; /* handed up */
  uint32_t held_pieces;      /* that the session may still hold of them */
  int32_t fd;
  uint8_t state;             /* enum np_sock_state */
  uint8_t rx_pieces;         /* the engine's: how many the next read asks for */
  uint16_t err;              /* enum np_err: why it ends */
  uint32_t dirty_next;
  uint32_t rx_next;          /* np_sock_list */
  uint32_t ops;              /* the engine's: what the kernel still works on */
  uint32_t tx_bytes;         /* the engine's: of sndq, in the kernel's hands */
  uint64_t engine[2];        /* the engine's */

  uint32_t generation;
  uint32_t listener;         /* NP_SOCK_NIL: outgoing, or its listener is gone */
  uint32_t free_next;
  uint32_t linger_prev;
  uint32_t linger_next;
  uint64_t linger_ns;        /* when it is given up */
  uint64_t listener_handle;
  uint64_t created_ns;
  uint64_t last_rx_ns;
  uint64_t bytes_rx;
  uint64_t bytes_tx;
  struct np_addr local;
  struct np_addr remote;
  uint16_t local_port;
  uint16_t remote_port;
  uint32_t peer_uid;
  uint32_t peer_gid;
  uint32_t peer_pid;
};

struct np_sock_listener {
  struct np_carrier_listen args;
  int32_t fd;          /* -1: free */
  uint32_t generation;
  uint32_t conns;
  uint32_t ops;        /* the engine's: what the kernel still works on */
  bool is_unix;
  bool paused;         /* the process or the machine is short of descriptors or memory */
  uint64_t resume_ns;
  uint64_t engine;
};

/* Connections that wait for something of their engine's, first come first served; each in one at most. */
struct np_sock_list {
  uint32_t head;
  uint32_t tail;
  uint32_t count;
};

struct np_sock_engine {
  /* c's descriptor is open (state OPEN), or is being connected (CONNECTING: np_sock_connected follows). */
  enum np_err (*add)(struct np_sock *s, struct np_sock_conn *c);
  /* c may be read from again. */
  void (*resume)(struct np_sock *s, struct np_sock_conn *c);
  /* sndq is not empty, or FIN is to be sent. Return: true to be called again at the next flush. */
  bool (*tx)(struct np_sock *s, struct np_sock_conn *c);
  /* Lets go of descriptor and buffers, now or soon: then np_sock_gone. */
  void (*drop)(struct np_sock *s, struct np_sock_conn *c);
  enum np_err (*listen)(struct np_sock *s, struct np_sock_listener *l);
  /* Closes l's descriptor. */
  void (*unlisten)(struct np_sock *s, struct np_sock_listener *l);
  /* Accepting was paused; on: it goes on. */
  void (*pause)(struct np_sock *s, struct np_sock_listener *l, bool on);
  /* Every NP_SOCK_TICK_NS while there is somebody to look after. */
  void (*tick)(struct np_sock *s);
};

struct np_sock {
  struct np_carrier base;
  const struct np_sock_engine *engine;
  struct np_carrier_env env;
  struct np_carrier_config config;
  struct np_sock_conn *conn; /* conns_max */
  uint64_t now_ns;
  uint32_t free_head;
  uint32_t conn_count;       /* not FREE */
  uint32_t dirty_head;
  uint32_t dirty_tail;
  uint32_t dirty_count;
  uint32_t linger_head;      /* in order of linger_ns */
  uint32_t linger_tail;
  uint32_t listener_count;
  uint32_t rx_pieces_max;    /* a session may hold of one stream */
  uint8_t kind;              /* enum np_carrier_kind */
  bool starved;              /* no buffer to read into: again at a tick */
  bool crowded;              /* some connection is CROWDED */
  struct np_timer tick;
  struct np_sock_listener listener[NP_SOCK_LISTENERS_MAX];
};

NP_INLINE struct np_sock *np_sock_of(struct np_carrier *c) { return NP_CONTAINER_OF(c, struct np_sock, base); }
NP_INLINE uint32_t np_sock_slot(const struct np_sock *s, const struct np_sock_conn *c) {
  return (uint32_t)(c - s->conn);
}
NP_INLINE void np_sock_count(struct np_sock *s, enum np_counter what, uint64_t n) {
  s->env.counters->counter[what] += n;
}

/* table.c */

size_t np_sock_conns_bytes(const struct np_carrier_config *config);
/* conn: memory for the connections. */
void np_sock_init(struct np_sock *s, const struct np_sock_engine *engine, const struct np_carrier_ops *ops,
                  enum np_carrier_kind kind, void *conn, const struct np_carrier_config *config,
                  const struct np_carrier_env *env, uint64_t now_ns);
void np_sock_dirty(struct np_sock *s, struct np_sock_conn *c);
void np_sock_list_init(struct np_sock_list *list);
/* No effect on one that is in it. */
void np_sock_list_add(struct np_sock *s, struct np_sock_list *list, struct np_sock_conn *c);
/* The list is not empty. */
struct np_sock_conn *np_sock_list_pop(struct np_sock *s, struct np_sock_list *list);
/* No effect on one that is in none. */
void np_sock_list_del(struct np_sock *s, struct np_sock_list *list, struct np_sock_conn *c);
/* A descriptor that a listener brought: the connection it is now, or NULL (refused, counted, closed). */
struct np_sock_conn *np_sock_accepted(struct np_sock *s, struct np_sock_listener *l, int fd);
/* accept failed with sys. Return: whether the next one may be tried at once. */
bool np_sock_accept_failed(struct np_sock *s, struct np_sock_listener *l, int sys);
/* The engine let go of c: its buffers go back and its slot is free. */
void np_sock_gone(struct np_sock *s, struct np_sock_conn *c);
/* Closes with a RST when c's flags say so. */
void np_sock_close_fd(struct np_sock_conn *c);
/* c ends for err; told at the next flush. No effect on one that ends already. */
void np_sock_end(struct np_sock *s, struct np_sock_conn *c, enum np_err err);
/* c is given up NP_SOCK_LINGER_NS from now on. */
void np_sock_linger(struct np_sock *s, struct np_sock_conn *c);
/* The tick runs. */
void np_sock_need_tick(struct np_sock *s);

enum np_err np_sock_listen(struct np_carrier *base, const struct np_carrier_listen *args, uint32_t *out);
enum np_err np_sock_unlisten(struct np_carrier *base, uint32_t listener);
enum np_err np_sock_connect(struct np_carrier *base, int32_t fd, struct np_session *session, uint64_t now_ns,
                            struct np_stream **out);
struct np_stream *np_sock_stream(struct np_carrier *base, uint64_t handle);
/* Ends every connection; the engine's drop is called for each. */
void np_sock_abort_all(struct np_sock *s);

/* stream.c */

extern const struct np_stream_ops np_sock_stream_ops;
/* errno of a socket call as an error of ours. */
enum np_err np_sock_err(int sys);
/* Bytes that may be received now; 0: c is paused, and resume is called when that changed. */
uint32_t np_sock_rx_room(struct np_sock *s, struct np_sock_conn *c);
/* Nothing may be taken from the pool for receiving. */
bool np_sock_pool_low(const struct np_sock *s);
/* bytes in a chain of pieces came. */
void np_sock_received(struct np_sock *s, struct np_sock_conn *c, struct np_buf *first, struct np_buf *last,
                      uint32_t pieces, uint32_t bytes);
void np_sock_eof(struct np_sock *s, struct np_sock_conn *c);
/* connect ended: sys 0, or why not. */
void np_sock_connected(struct np_sock *s, struct np_sock_conn *c, int sys);
/* The kernel took bytes from sndq's front. */
void np_sock_sent(struct np_sock *s, struct np_sock_conn *c, uint32_t bytes);
/* sndq is empty and FIN_QUEUED: ends the sending side. */
void np_sock_send_fin(struct np_sock *s, struct np_sock_conn *c);
bool np_sock_flush(struct np_carrier *base, uint64_t now_ns);

/* info.c */

void np_sock_info(const struct np_stream *stream, struct np_conn_info *out);
uint32_t np_sock_connections(struct np_carrier *base, uint32_t *cursor, struct np_conn_info *out, uint32_t max);

/* set.c */

enum np_err np_sock_set(struct np_carrier *base, uint64_t handle, uint32_t what, uint32_t value);

#endif
