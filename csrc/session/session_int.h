/* Inside of the session layer: nothing outside this folder includes it.
 *
 * One struct np_sess per connection whatever its kind. What an NPRO session
 * holds while idle is this struct and nothing else (README.md has the sum). */
#ifndef NP_SESSION_INT_H
#define NP_SESSION_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "base/hash.h"
#include "codec/body.h"
#include "codec/compress.h"
#include "codec/frame.h"
#include "np/code.h"
#include "session/session.h"

#define NP_NIL UINT32_MAX

/* Named budgets and bounds. */
#define NP_SESS_DRAINS_PER_RUN 256u
#define NP_SESS_LINGER_BUCKETS 1024u
#define NP_SESS_RUN_ROUNDS 4u              /* batches one session may fill per run, then the others' turn */
#define NP_SESS_PUMP_BUDGET 64u           /* frames one session sends per run from its queues */
#define NP_NPRO_STAGE_BYTES (16u << 10)   /* answers staged while the stream has no room; beyond: stop reading */
#define NP_NPRO_SENDQ_BYTES (1u << 20)    /* bodies queued per session before SEND is refused */
#define NP_NPRO_SENDQ_ITEMS 1024u
#define NP_NPRO_FRAGMENT (16u << 10)      /* body bytes of one frame we cut */
#define NP_NPRO_ECHO_DIRECT (64u << 10)   /* larger echoes take the queue, so that priorities hold */
#define NP_NPRO_COPY_BYTES 1024u          /* answers up to this are packed by copying */
#define NP_NPRO_PACK_BYTES 1024u          /* what waits unread is held in pieces of about this and longer */
#define NP_NPRO_HELD 512u                 /* buffers that Go may have of one session, */
#define NP_NPRO_HELD_PRESSED 32u          /* when the pool is low, */
#define NP_NPRO_HELD_BYTES 512u           /* and one more for each of so many bytes of credit it has not returned */
#define NP_NPRO_PING_BYTES 64u
#define NP_NPRO_REASON_BYTES 1024u
#define NP_NPRO_RAW_BYTES (256u << 10)    /* longest raw size of one compressed frame */
#define NP_CHARGEN_PERIOD 7030u           /* 95 lines of 72 characters and CR LF */
#define NP_CHARGEN_BYTES (12u << 10)     /* a period of its lines and a segment more; whole cache lines */
#define NP_NPRO_WINDOW_MAX 0x7fffffffu
#define NP_NPRO_CLOSE_NS UINT64_C(3000000000) /* DISCONNECT that cannot leave: abort */
#define NP_NPRO_FRAME_NS UINT64_C(30000000000)   /* from a frame's first byte to its last, */
#define NP_NPRO_FRAME_BYTE_NS (UINT64_C(1000000000) >> 14) /* and this for each: 16 KiB/s is the slowest peer served */
#define NP_NPRO_DRAIN_CHECK_NS UINT64_C(50000000)
#define NP_PIPE_SENDQ_BYTES (1u << 20)    /* queued per pipe before SEND is refused: more than any writer's budget */
#define NP_PIPE_SENDQ_BUFS 1024u
#define NP_PIPE_CLOSE_STEP_NS UINT64_C(30000000000)  /* a close ends when nothing of the queue left for so long, */
#define NP_PIPE_CLOSE_NS UINT64_C(300000000000)      /* and when not all left within this */

/* flags of a session */
#define NP_SF_DIRTY 0x0001u
#define NP_SF_TXLIST 0x0002u
#define NP_SF_OUTGOING 0x0004u
#define NP_SF_OPEN_SENT 0x0008u   /* NP_EV_OPEN is out */
#define NP_SF_OPEN_DUE 0x0010u    /* NP_EV_OPEN waits for room */
#define NP_SF_ZOMBIE 0x0020u      /* gone; NP_EV_CLOSED waits for room */
#define NP_SF_EOF 0x0040u
#define NP_SF_PEER_GOAWAY 0x0080u
#define NP_SF_HS_STARTED 0x0100u
#define NP_SF_KEYED 0x0200u
#define NP_SF_CLIENT 0x0400u
#define NP_SF_UNSEALED 0x0800u    /* has records in the seal batch */
#define NP_SF_PARTIAL 0x1000u     /* the queue's rest is the beginning of a valid frame */
#define NP_SF_STALLED 0x2000u     /* whole frames wait for the event ring, buffers or room */
#define NP_SF_WINDOW_DUE 0x4000u  /* some WINDOW could not be staged */
#define NP_SF_REAP 0x8000u        /* freed during a run: slot comes back at its end */
#define NP_SF_HEARD 0x10000u      /* bytes came since the last run */
#define NP_SF_SHUT 0x20000u       /* pipe: nothing more is sent; FIN follows the queue */
#define NP_SF_CLOSING 0x40000u    /* pipe: Go reads no more, the stream goes once the queue left */
#define NP_SF_GONE 0x80000u       /* pipe: the stream is gone, what it brought still waits for Go */
#define NP_SF_EOF_TOLD 0x100000u  /* pipe */
#define NP_SF_LINGERS 0x200000u   /* its stream is gone and NP_EV_CLOSED is not out: counted in lingering */

struct np_bufq {
  struct np_buf *head;
  struct np_buf *tail;
  uint32_t bytes;
};

/* What the handshake settled for a session, kept. */
struct np_npro_limits {
  uint32_t max_frame_tx;
  uint32_t max_frame_rx;
  uint32_t stream_window_tx;
  uint32_t stream_window_rx;
  uint32_t conn_window_rx;
  uint32_t compression_threshold;
  uint32_t max_streams;
  uint32_t max_payload;
  uint32_t heartbeat_ms;
  int16_t compression_level;
  uint8_t compression;
  uint8_t compression_rx;
  uint8_t features;
  uint64_t rekey_records;
  uint64_t rekey_bytes;
  uint64_t rekey_ns;
};

struct np_sess {
  /* One cache line: all that an echo touches. */
  struct np_session base;
  struct np_sessions *owner;
  struct np_bufq rx;          /* received, in order, not handled */
  uint64_t handle;            /* 0 until the stream is known */
  uint32_t flags;             /* NP_SF_* */
  uint8_t kind;               /* enum np_session_kind */
  uint8_t state;              /* enum np_npro_state */
  uint16_t close_err;         /* enum np_err, why we close */

  struct np_sess *dirty_next; /* also the free list's link */
  struct np_sess *tx_next;    /* also the reap list's link */
  uint64_t listener;
  uint32_t slot;
  uint32_t generation;        /* of the slot: who a buffer is charged to */
  uint32_t held;              /* buffers Go has */
  uint32_t rx_ahead;          /* bytes at rx's front the stream was already told of as consumed; pipe: with Go, no credit yet */
  uint32_t rx_due;            /* bytes to tell the stream of at the end of the run */
  uint32_t rx_batched;        /* frames of this session in the open batch */
  struct np_bufq out;         /* frames on their way to the stream */
  union {
    uint32_t chargen_at;      /* chargen: where in its lines the next byte lies */
    uint32_t sent_due;        /* pipe: bytes that left since Go was told last */
  };

  /* from here on NPRO only, but for what says so */
  uint32_t close_code;        /* what the peer's DISCONNECT said */
  union {
    uint32_t pings;           /* bit i: the i-th PING in flight came from Go */
    uint32_t close_left;      /* pipe: bytes queued when its close was last looked at */
  };
  uint8_t pings_count;
  struct np_timer timer;      /* pipe: the limit of a close */
  struct np_record_dir rx_dir;
  struct np_record_dir tx_dir;
  struct np_npro_limits lim;
  uint64_t last_rx_ns;
  uint64_t last_tx_ns;
  uint64_t part_due_ns;       /* when the frame at the front has to be whole; 0: none has begun */
  uint64_t armed_ns;          /* what the timer was set to */
  uint64_t key_ns;            /* when the sending key came into use */
  uint64_t key_records;
  uint64_t key_bytes;
  uint64_t deadline_ns;       /* handshake, drain or close limit; pipe's too */
  uint64_t frames_rx;
  uint64_t frames_tx;
  uint8_t conn_id[8];

  uint32_t tx_window;         /* connection credit the peer gave */
  uint32_t rx_credit;         /* connection credit the peer still has */
  uint32_t rx_freed;          /* returned by handlers, not announced */
  uint32_t peer_highest;      /* highest stream the peer opened */
  uint32_t local_highest;
  uint32_t streams;           /* open */
  uint32_t unopened;          /* of ours, whose first frame did not leave yet */
  uint32_t streams_head;      /* list of them, by index */
  uint32_t sendq_bytes;
  uint32_t sendq_items;       /* pipe: buffers queued, at least */
  uint8_t ready_mask;         /* bit p: ready_tail[p] is set */
  uint32_t ready_tail[8];     /* circular list per priority: streams with something to send */
};

_Static_assert(offsetof(struct np_sess, dirty_next) == NP_CACHE_LINE && sizeof(struct np_sess) % NP_CACHE_LINE == 0,
               "what an echo touches is one line");

/* flags of a stream */
#define NP_STF_LOCAL 0x01u
#define NP_STF_RX_END 0x02u
#define NP_STF_TX_END 0x04u    /* END left */
#define NP_STF_TX_ENDQ 0x08u   /* END queued: nothing more is taken */
#define NP_STF_READY 0x10u     /* in a ready list */
#define NP_STF_RX_MORE 0x20u   /* the next frame continues a message */
#define NP_STF_TX_MORE 0x40u   /* what was queued last continues */
#define NP_STF_WINDOW_DUE 0x80u
#define NP_STF_ONE_WAY 0x100u  /* opened by a MESSAGE: its END ends both directions */
#define NP_STF_UNOPENED 0x200u /* ours, and the peer does not know of it */

struct np_nstream {
  uint32_t id;
  uint32_t sess;      /* slot; NP_NIL when free */
  uint32_t hash_next; /* also the free list's link */
  uint32_t list_prev;
  uint32_t list_next;
  uint32_t ready_next;
  uint32_t tx_window;
  uint32_t rx_window; /* credit the peer still has */
  uint32_t rx_freed;
  uint32_t turn_bytes; /* sent since it came to the front of its ring */
  uint16_t flags;
  uint8_t priority;   /* of the ready list it is in */
  struct np_buf *q_head; /* items: struct np_send_item in the first piece's priv */
  struct np_buf *q_tail;
};
_Static_assert(sizeof(struct np_nstream) == 64, "an NPRO stream is one cache line");

/* One body to send. Lives in priv of the first buffer of its chain and moves on
 * with it as pieces are used up. */
struct np_send_item {
  struct np_buf *next; /* next item of the stream */
  uint32_t left_bytes;
  uint32_t head_bytes; /* context block and opcode, which no fragment may cut */
  uint32_t credit;     /* connection credit of the peer to return when it is done */
  uint8_t type;
  uint8_t flags;       /* END MORE CTX; CTX is cleared once the first fragment left */
  uint8_t priority;
  bool lent;           /* pieces go to the loan ring, else to the pool */
  bool from_go;        /* NP_EV_SENT tells Go */
};
_Static_assert(sizeof(struct np_send_item) <= sizeof(((struct np_buf *)0)->priv), "item fits in priv");

struct np_rx_slot {
  struct np_sess *sess;
  struct np_frame frame;
};

struct np_sessions {
  struct np_sessions_env env;
  struct np_sessions_config config;
  uint64_t now_ns;
  struct np_sess *sess;
  struct np_sess *free_sess;
  struct np_sess *dirty_head;
  struct np_sess *dirty_tail;
  struct np_sess *tx_list;
  struct np_sess *reap;
  struct np_nstream *stream;
  uint32_t *bucket;
  uint32_t bucket_mask;
  uint32_t free_stream;
  uint32_t count;
  uint32_t streams;
  uint32_t pipe_queued;  /* buffers in the queues of all pipes */
  /* Sessions that outlived their streams, by the slot of their handle. Go knows connections by slot: the next
   * one that has it is told of when the last one's NP_EV_CLOSED is out. */
  uint32_t lingering[NP_SESS_LINGER_BUCKETS];
  struct np_hash_key hash;
  bool running;
  bool pressure;         /* pool below an eighth: windows stay as they are */
  bool work_left;
  bool draining;         /* NP_CMD_DRAIN came: every session gets its GOAWAY, also one that opens later */
  uint32_t drain_at;     /* sessions told so far */
  uint32_t ev_known;     /* room in the event ring seen and not used since */
  uint32_t reserved;     /* events the unhandled frames of the batch may need */
  uint32_t rx_n;
  uint32_t tx_n;
  struct np_record rx_rec[NP_RECORD_BATCH];
  struct np_rx_slot rx_slot[NP_RECORD_BATCH];
  struct np_record tx_rec[NP_RECORD_BATCH];
  struct np_sess *tx_sess[NP_RECORD_BATCH];
  uint8_t *scratch_raw;  /* NP_NPRO_RAW_BYTES */
  uint8_t *scratch_wire;
  const uint8_t *chargen; /* NP_CHARGEN_BYTES of its lines */
  struct np_compressor *compressor;
};

NP_INLINE struct np_sess *np_sess_of(struct np_session *s) { return NP_CONTAINER_OF(s, struct np_sess, base); }
NP_INLINE struct np_send_item *np_item_of(struct np_buf *b) { return (struct np_send_item *)(void *)b->priv; }
NP_INLINE bool np_npro_is_open(const struct np_sess *s) { return s->state == NP_NPRO_OPEN || s->state == NP_NPRO_DRAINING; }

/* session.c */
void np_sess_dirty(struct np_sess *s);
/* Takes the stream's place as the end of a session: frees all it holds and says
 * NP_EV_CLOSED (at once or when there is room). */
void np_sess_end(struct np_sess *s, enum np_err err);
/* Room for one more event beside those the batch may need. */
bool np_sess_event_ok(struct np_sessions *ss);
void np_sess_event(struct np_sess *s, struct np_event *ev);
void np_sess_set_handle(struct np_sess *s);
/* Notes that a body's buffers are Go's until np_sessions_returned. */
void np_sess_charge(struct np_sess *s, struct np_buf *chain);
/* The stream is gone, and what Go is to hear of it has to wait. */
void np_sess_linger(struct np_sess *s);
/* NP_EV_OPEN with what is known of the connection. Return: false without room or a buffer. */
bool np_sess_send_open(struct np_sess *s);
/* True when Go has more buffers of this session than the bytes it has not given credit for explain:
 * a few bytes, each in a buffer of its own, and a reader that is slow. Credit counts bytes and would let
 * one peer fill the pool. */
NP_INLINE bool np_sess_holds_many(const struct np_sess *s, uint32_t bytes) {
  uint32_t base = s->owner->pressure ? NP_NPRO_HELD_PRESSED : NP_NPRO_HELD;
  return NP_UNLIKELY(s->held > base) && s->held - base > bytes / NP_NPRO_HELD_BYTES;
}

/* bufq.c: chains */
void np_bufq_add(struct np_bufq *q, struct np_buf *chain);
/* Drops n bytes from the front. */
void np_bufq_drop(struct np_bufq *q, uint32_t n);
/* Copies n bytes from offset off. */
void np_bufq_copy(const struct np_bufq *q, uint32_t off, void *dst, uint32_t n);
/* Cuts the first n bytes off as a chain of their own; a piece that two owners
 * want is split by copying its smaller side (at most one buffer is taken).
 * Return: false when the pool is empty; nothing changed. n > 0. */
bool np_bufq_take(struct np_bufq *q, uint32_t n, struct np_pool *pool, struct np_bufq *out);
void np_bufq_free(struct np_bufq *q);
/* The first piece of q to the end of out. */
void np_bufq_move(struct np_bufq *q, struct np_bufq *out);
/* Appends a chain the session was handed; pieces somebody else refers to are
 * replaced by copies, because records are opened in place. Short ones are copied into the
 * tail as long as that stays within pack_bytes (0: never). False: pool empty, chain freed. */
bool np_bufq_intake(struct np_bufq *q, struct np_buf *chain, struct np_pool *pool, uint32_t pack_bytes);

/* echo.c, discard.c, chargen.c */
extern const struct np_session_ops np_echo_ops;
extern const struct np_session_ops np_discard_ops;
extern const struct np_session_ops np_chargen_ops;
/* Writes NP_CHARGEN_BYTES of lines. */
void np_chargen_fill(uint8_t *lines);

/* pipe.c */
extern const struct np_session_ops np_pipe_ops;
void np_pipe_start(struct np_sess *s);
/* Frees what only a pipe holds; called once by np_sess_end. */
void np_pipe_release(struct np_sess *s);
void np_pipe_run(struct np_sess *s);
void np_pipe_timer(struct np_sess *s, uint64_t now_ns);
/* Takes body over. */
enum np_err np_pipe_command(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body);

/* npro.c: lifecycle */
extern const struct np_session_ops np_npro_ops;
void np_npro_start(struct np_sess *s);
/* Says DISCONNECT when there are keys, then FIN, then lets the stream go. */
void np_npro_close(struct np_sess *s, uint32_t code, enum np_err err);
/* The same after a DISCONNECT that was staged already. */
void np_npro_close_quietly(struct np_sess *s, enum np_err err);
/* RST, no further word. */
void np_npro_abort(struct np_sess *s, enum np_err err);
/* Counts the frame at the front under why and closes as WIRE asks for it. */
void np_npro_violation(struct np_sess *s, enum np_drop why);
/* Frees what only an NPRO session holds; called once by np_sess_end. */
void np_npro_release(struct np_sess *s);
/* CLOSING: lets the stream go once everything staged has left. */
void np_npro_finish(struct np_sess *s);
bool np_npro_send_open(struct np_sess *s);
NP_INLINE void np_npro_frame_ok(struct np_sess *s) {
  s->frames_rx++;
  s->owner->env.counters->counter[NP_C_NPRO_FRAMES_RX]++;
  s->owner->env.counters->counter[NP_C_NPRO_FRAMES_DELIVERED]++;
}
NP_INLINE void np_npro_frame_drop(struct np_sess *s, enum np_drop why) {
  s->frames_rx++;
  s->owner->env.counters->counter[NP_C_NPRO_FRAMES_RX]++;
  s->owner->env.counters->drop[why]++;
}

/* npro_rx.c */
/* Puts whole frames into the open batch. Return: true when the batch has to be
 * handled before this session can go on. */
bool np_npro_collect(struct np_sess *s);
/* Opens the batch and handles its frames in order. */
void np_npro_open_batch(struct np_sessions *ss);
void np_npro_rx_drop(struct np_sess *s, uint32_t n);
/* Takes n bytes (more than 0) off the front as a chain. False: no buffer for a split. */
bool np_npro_rx_take(struct np_sess *s, uint32_t n, struct np_bufq *out);
void np_npro_tell_consumed(struct np_sess *s);

/* npro_body.c */
/* One opened REQUEST, RESPONSE, MESSAGE or DATA at the front of the queue. */
void np_npro_body(struct np_sess *s, const struct np_frame *f);

/* npro_echo.c */
/* Answers the frame when it is a whole ECHO request. Return: false when it is not. */
bool np_npro_echo(struct np_sess *s, const struct np_frame *f);
/* The same for one that came compressed, on the stream opened for it: body is its raw
 * form and taken over when the answer is true. */
bool np_npro_echo_raw(struct np_sess *s, struct np_nstream *st, const struct np_frame *f, struct np_bufq *body);
/* Refuses one stream with a code, the others go on. */
void np_npro_refuse(struct np_sess *s, uint32_t stream, uint32_t code);

/* npro_compress.c */
/* Decompresses the frame's body at the front of s->rx (header already dropped).
 * Return: NP_FRAME_OK, or the reason. NPRO_NO_BUFFER is no fault of the peer. */
enum np_drop np_npro_inflate(struct np_sess *s, const struct np_frame *f, struct np_bufq *out);
/* Compresses n bytes of scratch_raw into scratch_wire. Return: bytes, 0 when not worth it. */
uint32_t np_npro_deflate(struct np_sess *s, uint32_t n, uint8_t *out_flag);

/* npro_tx.c */
/* A frame whose body is contiguous and at most one piece long. Return: where the
 * caller writes body_bytes before anything else is staged; NULL when the pool is empty. */
uint8_t *np_npro_tx_small(struct np_sess *s, struct np_frame *f, uint32_t body_bytes);
bool np_npro_tx_control(struct np_sess *s, uint8_t type, uint32_t stream, const void *body, uint32_t body_bytes);
/* A frame in the clear (handshake). */
bool np_npro_tx_clear(struct np_sess *s, uint8_t type, const struct np_buf *body, uint32_t body_bytes);
/* A frame whose bytes are a chain already: header, body, room for the tag. */
void np_npro_tx_chain(struct np_sess *s, struct np_frame *f, struct np_bufq *chain, uint32_t body_bytes);
/* A frame whose body is the next n bytes of a queued item. */
bool np_npro_tx_fragment(struct np_sess *s, struct np_frame *f, struct np_buf *from, uint32_t n);
/* A frame whose body lies in contiguous memory of any length. */
bool np_npro_tx_copy(struct np_sess *s, struct np_frame *f, const uint8_t *body, uint32_t n);
bool np_npro_rekey_tx(struct np_sess *s);
void np_npro_seal_batch(struct np_sessions *ss);
/* Seals and hands every staged chain to its stream as far as there is room. */
void np_npro_send_all(struct np_sessions *ss);
/* Puts a session whose staged bytes did not all leave back in line. */
void np_npro_stage_again(struct np_sess *s);
/* Bytes the stream would take beyond what is staged. */
uint32_t np_npro_room(struct np_sess *s);
NP_INLINE bool np_npro_stage_ok(const struct np_sess *s) { return s->out.bytes <= NP_NPRO_STAGE_BYTES; }
NP_INLINE uint32_t np_sess_piece_bytes(const struct np_sess *s) {
  uint32_t cap = s->owner->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t seg = s->base.stream != NULL ? s->base.stream->seg_bytes : 0;
  return seg >= 128 && seg < cap ? seg : cap;
}

/* npro_stream.c */
struct np_nstream *np_nstream_find(struct np_sess *s, uint32_t id);
/* NULL when a limit is reached. */
struct np_nstream *np_nstream_open(struct np_sess *s, uint32_t id, bool local);
void np_nstream_free(struct np_sess *s, struct np_nstream *st);
/* Frees it when both directions ended. */
void np_nstream_maybe_free(struct np_sess *s, struct np_nstream *st);
/* Its first frame left, or never will. */
void np_nstream_opened(struct np_sess *s, struct np_nstream *st);
/* The lowest stream of ours whose first frame did not leave; NULL: none. */
struct np_nstream *np_nstream_first_unopened(struct np_sess *s);
void np_nstream_free_all(struct np_sess *s);
void np_nstream_ready(struct np_sess *s, struct np_nstream *st);
void np_nstream_unready(struct np_sess *s, struct np_nstream *st);
NP_INLINE bool np_npro_peer_id(const struct np_sess *s, uint32_t id) {
  return (id & 1u) == ((s->flags & NP_SF_CLIENT) != 0 ? 0u : 1u);
}

/* npro_pump.c */
/* Queues one body (taken over). Return: NP_ERR_FULL (body not taken). */
enum np_err np_npro_enqueue(struct np_sess *s, struct np_nstream *st, const struct np_send_item *item, struct np_buf *body);
/* Sends from the queues as windows, room, priorities and the budget allow. */
void np_npro_pump(struct np_sess *s);
/* The first fragment's share that must stay whole: context block and opcode. 0 with
 * *ok false when the body does not have that form. */
uint32_t np_npro_head_bytes(const struct np_buf *body, uint32_t body_bytes, uint8_t type, uint8_t flags, bool *ok);
void np_item_release(struct np_sess *s, struct np_buf *chain);

/* npro_flow.c */
void np_npro_credit_conn(struct np_sess *s, uint32_t bytes);
void np_npro_credit_stream(struct np_sess *s, struct np_nstream *st, uint32_t bytes);
/* Sends WINDOW frames that were put off. */
void np_npro_windows(struct np_sess *s);
/* Peer's WINDOW. Return: false when it overflows. */
bool np_npro_window_rx(struct np_sess *s, uint32_t stream, uint32_t credit);

/* npro_control.c */
void np_npro_control(struct np_sess *s, const struct np_frame *f);
/* What a control type's body may be: true when bytes fits. */
bool np_npro_control_size_ok(uint8_t type, uint32_t body_bytes);

/* npro_handshake.c */
/* The handshake frame at the front goes to Go. */
void np_npro_handshake_frame(struct np_sess *s, const struct np_frame *f);
enum np_err np_npro_cmd_handshake(struct np_sess *s, const struct np_cmd *cmd, const struct np_buf *body);
enum np_err np_npro_cmd_keys(struct np_sess *s, const struct np_buf *body);

/* npro_cmd.c: takes body over. */
enum np_err np_npro_command(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body, uint32_t *out_stream);
bool np_npro_goaway(struct np_sess *s);
/* DRAINING from now on, for goaway_ms at most. */
void np_npro_begin_drain(struct np_sess *s);

/* npro_timer.c */
void np_npro_timer(struct np_sess *s, uint64_t now_ns);
void np_npro_arm(struct np_sess *s);
/* The beginning of a frame of bytes (0: not known yet) is here; starts its limit of time. */
void np_npro_frame_began(struct np_sess *s, uint32_t bytes);

#endif
