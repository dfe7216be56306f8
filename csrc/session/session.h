/* Sessions: what is done with a stream's bytes. One per connection; echo,
 * discard, chargen, npro and pipe. They know streams (base/stream.h), never TCP. */
#ifndef NP_SESSION_SESSION_H
#define NP_SESSION_SESSION_H

#include "base/pool.h"
#include "base/ring.h"
#include "base/stream.h"
#include "base/wheel.h"
#include "crypto/record.h"
#include "np/abi.h"
#include "np/npro.h"

struct np_sessions; /* all sessions of one core */

struct np_sessions_env {
  struct np_pool *pool;
  struct np_wheel *wheel;
  struct np_counters *counters;
  struct np_crypto *crypto;
  /* Room in the event ring for n events: a session asks before it takes work that
   * would need them, and stops reading its stream when there is none. */
  uint32_t (*event_room)(void *ctx, uint32_t n);
  /* Appends one event (room was asked for). ev->body's chain passes to Go. */
  void (*event)(void *ctx, const struct np_event *ev);
  /* Gives a chain of lent buffers (they came with a command) back to Go's loan ring:
   * the session has copied their bytes or given them up. Cannot fail: the ring holds
   * as many slots as there are lent buffers. */
  void (*loan_return)(void *ctx, struct np_buf *chain);
  /* n lent buffers that came with a command became a stream's: others from the pool are to be lent
   * in their place, as soon as it can spare them. */
  void (*loan_replace)(void *ctx, uint32_t n);
  void *ctx;
};

struct np_sessions_config {
  uint32_t sessions_max;      /* memory is taken for all; equals TCP's conns_max */
  uint32_t streams_max;       /* NPRO streams of the whole core; default 65,536 */
  uint32_t handshake_ms;      /* limit from accept to keys; default 5,000 */
  uint32_t handshake_frame_bytes; /* longest handshake frame; default 8,192 */
  uint32_t goaway_ms;
  uint64_t seed;
};

size_t np_sessions_bytes(const struct np_sessions_config *config);
struct np_sessions *np_sessions_init(void *mem, const struct np_sessions_config *config,
                                     const struct np_sessions_env *env, uint64_t now_ns);

/* A session for a stream that was just accepted, or (listener 0) is being opened:
 * then stream may still be NULL; it is tied (session->stream) before established is called.
 * listener: handle, goes into events. Return: NULL when none is free. */
struct np_session *np_session_new(struct np_sessions *sessions, enum np_session_kind kind, struct np_stream *stream,
                                  uint64_t listener, uint64_t now_ns);

/* Once per turn after streams delivered: opens collected records as one batch,
 * handles frames, seals answers as one batch, sends. now_ns is the turn's.
 * Return: true when work is left (budget, event ring full). */
bool np_sessions_run(struct np_sessions *sessions, uint64_t now_ns);

/* Commands from Go (np/abi.h) addressed to a session: CLOSE, ABORT, HANDSHAKE,
 * KEYS, SEND, RESET, PING, CREDIT, REKEY, GOAWAY, SHUTDOWN. Takes over body (lent buffers;
 * each piece's len and data_off within its chunk is the caller's to have checked)
 * and returns them through env->loan_return when done, on errors too (what a pipe sends is kept and
 * told to env->loan_replace).
 * out_stream: the stream a SEND went to (picked here when cmd->stream is 0); for
 * NP_EV_DONE, which is the caller's to emit. May be NULL.
 * Errors: NP_ERR_STALE, NP_ERR_STATE, NP_ERR_INVALID, NP_ERR_FULL, NP_ERR_NOBUF, NP_ERR_UNSUPPORTED. */
enum np_err np_sessions_command(struct np_sessions *sessions, struct np_session *session, const struct np_cmd *cmd,
                                struct np_buf *body, uint64_t now_ns, uint32_t *out_stream);

/* NP_CMD_FREE, before the chain goes back to the pool: its buffers are no longer charged to the
 * session that brought them to Go, which is read on if it had brought too many. */
void np_sessions_returned(struct np_sessions *sessions, struct np_buf *chain);

/* Wipes what an NP_CMD_KEYS carries, for a caller that has no session to give it to: before its
 * buffers go back to Go. No effect on other commands. */
void np_sessions_wipe(const struct np_cmd *cmd);

/* NP_CMD_DRAIN: GOAWAY on every NPRO session of the core, also on those whose handshake ends later.
 * The runs from now on say it, to a part of the sessions each; for good. */
void np_sessions_drain(struct np_sessions *sessions, uint64_t now_ns);

/* Gives back what sessions hold whose stream is gone already; after that none is used. The others' ends
 * came before, by their streams. */
void np_sessions_fini(struct np_sessions *sessions);

/* Adds what only the session knows to out (kind, state, aead, streams, frames). */
void np_session_info(const struct np_session *session, struct np_conn_info *out);
uint32_t np_sessions_count(const struct np_sessions *sessions);
uint32_t np_sessions_streams(const struct np_sessions *sessions);

#endif
