/* A stream is an ordered byte stream with backpressure, wherever it comes from
 * (userspace TCP today; kernel sockets, Unix sockets and RDMA later). A session
 * is what is done with its bytes. They meet here and know nothing else of each
 * other. Both belong to one core; every call happens on its thread.
 *
 * Receiving: the stream hands chains of buffers up with session->data; they
 * belong to the session, which frees them when it likes, and calls
 * stream->consumed for the bytes whose room may be offered to the peer again.
 * Sending: stream->send takes chains; stream->room says how much it takes now,
 * and session->writable tells when room came back after send or room said no.
 *
 * Re-entrancy: a session may call any stream operation from inside data,
 * writable or eof. A stream never calls session->data or session->writable
 * from inside a stream operation: it notes what is to be done and does it at
 * its next flush. session->closed is the last call a session gets and may come
 * from inside np_stream_abort only as documented there. */
#ifndef NP_BASE_STREAM_H
#define NP_BASE_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "np/buf.h"
#include "np/err.h"
#include "np/info.h"

struct np_stream;
struct np_session;

/* send flags */
#define NP_SEND_MORE 0x1u /* more follows in this turn: a short last segment may wait for it */

struct np_stream_ops {
  /* Bytes send would take now; 0 when closed for sending. */
  uint32_t (*room)(struct np_stream *s);
  /* Queues a chain (taken over, refs 1 each, freed when acknowledged). Pieces
   * keep NP_BUF_HEADROOM free in front and are at most seg_bytes long where the
   * caller can arrange it. More than room is an assertion: ask first. Nothing
   * leaves before the core's flush of this turn.
   * Return: NP_ERR_STATE when closed for sending (the chain is freed). */
  enum np_err (*send)(struct np_stream *s, struct np_buf *chain, uint32_t flags);
  /* bytes of received data done with: window may reopen. */
  void (*consumed)(struct np_stream *s, uint32_t bytes);
  /* No more will be sent: FIN after what is queued. Idempotent. */
  void (*shutdown)(struct np_stream *s);
  /* Ends at once (RST). The session's closed is called from inside with
   * NP_ERR_ABORTED, then the stream is gone. */
  void (*abort)(struct np_stream *s);
  /* The session lets go: no more calls to it; the stream closes in good order
   * by itself (what is queued is sent, received data is dropped and counted). */
  void (*detach)(struct np_stream *s);
  /* Fills addresses and transport fields. */
  void (*info)(const struct np_stream *s, struct np_conn_info *out);
};

struct np_session_ops {
  /* A chain of bytes in order; ownership passes. */
  void (*data)(struct np_session *s, struct np_buf *chain, uint32_t bytes);
  /* Room came back after the session saw none. */
  void (*writable)(struct np_session *s);
  /* The peer sent its last byte; sending may go on. */
  void (*eof)(struct np_session *s);
  /* The stream is gone: free everything. err is why (NP_ERR_EOF: in good order). */
  void (*closed)(struct np_session *s, enum np_err err);
  /* Outgoing connections: established. May be NULL for accept-only sessions. */
  void (*established)(struct np_session *s);
};

struct np_stream {
  const struct np_stream_ops *ops;
  struct np_session *session; /* NULL: none yet, or detached */
  uint64_t handle;            /* the connection's name outside: np_handle_make */
  uint32_t seg_bytes;         /* best piece size for send: MSS less options */
  uint16_t own[2];            /* whoever implements the stream keeps here what it likes */
};

struct np_session {
  const struct np_session_ops *ops;
  struct np_stream *stream; /* NULL once closed or detached */
};

#endif
