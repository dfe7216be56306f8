/* The stream side of a connection: what sessions call (base/stream.h). */
#include <string.h>

#include "base/bytes.h"
#include "io/rdma/internal.h"

static bool sends(const struct np_rdma_conn *c) {
  return c->state == NP_RDMA_OPEN && (c->flags & (NP_RF_FIN_QUEUED | NP_RF_GONE)) == 0;
}

static uint32_t stream_room(struct np_stream *s) {
  struct np_rdma_conn *c = np_rdma_of(s);
  if (!sends(c)) return 0;
  uint32_t limit = np_rdma_owner(c)->config.base.snd_buf_bytes;
  uint32_t used = c->sendq_bytes + c->flight_bytes;
  if (used >= limit - limit / 4) c->flags |= NP_RF_ROOM_SAID_NO; /* also when some is left: it may be too little */
  return used < limit ? limit - used : 0;
}

static enum np_err stream_send(struct np_stream *s, struct np_buf *chain, uint32_t flags) {
  struct np_rdma_conn *c = np_rdma_of(s);
  struct np_rdma *r = np_rdma_owner(c);
  (void)flags; /* MORE: all of a turn leaves in its flush */
  if (!sends(c)) {
    np_buf_put_chain(chain);
    return NP_ERR_STATE;
  }
  if (chain == NULL) return NP_ERR_OK;
  if (c->sendq_tail != NULL) {
    c->sendq_tail->next = chain;
  } else {
    c->sendq_head = chain;
  }
  for (struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: the pool's count */
    c->sendq_bytes += b->len;
    c->sendq_tail = b;
  }
  np_assert(c->sendq_bytes + c->flight_bytes <= r->config.base.snd_buf_bytes);
  np_rdma_dirty(r, c);
  return NP_ERR_OK;
}

static void stream_consumed(struct np_stream *s, uint32_t bytes) {
  struct np_rdma_conn *c = np_rdma_of(s);
  if (c->state == NP_RDMA_FREE || bytes == 0) return;
  uint32_t held = c->link.rcv_held;
  np_link_consumed(&c->link, bytes);
  uint64_t left = (uint64_t)c->handed_pieces * (held - bytes) / held;
  c->handed_pieces = (uint32_t)left;
  if (c->link.rcv_ready > 0 || np_link_must_tell(&c->link)) np_rdma_dirty(np_rdma_owner(c), c);
}

static void stream_shutdown(struct np_stream *s) {
  struct np_rdma_conn *c = np_rdma_of(s);
  if (c->flags & NP_RF_FIN_QUEUED) return;
  c->flags |= NP_RF_FIN_QUEUED;
  c->flags &= ~(NP_RF_ROOM_SAID_NO | NP_RF_EV_WRITABLE);
  np_rdma_dirty(np_rdma_owner(c), c);
}

static void stream_abort(struct np_stream *s) {
  struct np_rdma_conn *c = np_rdma_of(s);
  np_rdma_fail(np_rdma_owner(c), c, NP_ERR_ABORTED);
  c->err = NP_ERR_ABORTED;
  struct np_session *session = c->stream.session;
  c->flags &= ~NP_RF_EV_CLOSED;
  if (session == NULL) return;
  c->stream.session = NULL;
  session->ops->closed(session, NP_ERR_ABORTED);
}

static void stream_detach(struct np_stream *s) {
  struct np_rdma_conn *c = np_rdma_of(s);
  struct np_rdma *r = np_rdma_owner(c);
  if (c->stream.session != NULL) c->stream.session->stream = NULL;
  c->stream.session = NULL;
  c->flags |= NP_RF_DETACHED;
  c->flags &= ~NP_RF_EV_CLOSED;
  c->linger_ns = r->now_ns + (uint64_t)NP_RDMA_LINGER_MS * UINT64_C(1000000);
  np_link_consumed(&c->link, c->link.rcv_held);
  c->handed_pieces = 0;
  stream_shutdown(s);
  np_rdma_dirty(r, c); /* also when it was shut down before: what lies in the ring is dropped, its room returned */
}

static uint8_t state_of(const struct np_rdma_conn *c) {
  if (c->state != NP_RDMA_OPEN) return NP_TCP_CLOSED;
  bool out = (c->flags & NP_RF_FIN_QUEUED) != 0;
  if (c->link.fin_rcvd) return out ? NP_TCP_LAST_ACK : NP_TCP_CLOSE_WAIT;
  return out ? NP_TCP_FIN_WAIT_1 : NP_TCP_ESTABLISHED;
}

static void stream_info(const struct np_stream *s, struct np_conn_info *out) {
  struct np_rdma_conn *c = np_rdma_of((struct np_stream *)(uintptr_t)s); /* only looked at */
  const struct np_rdma *r = np_rdma_owner(c);
  memset(out, 0, sizeof *out);
  out->handle = s->handle;
  out->listener = c->listener == NP_RDMA_NIL ? 0 : r->listener[c->listener].handle;
  memcpy(out->local, c->local, sizeof out->local);
  memcpy(out->remote, c->remote, sizeof out->remote);
  out->local_port = c->local_port;
  out->remote_port = c->remote_port;
  out->state = state_of(c);
  out->carrier = NP_CARRIER_RDMA;
  out->core = r->config.base.core_index;
  out->options = c->flags & NP_RF_OUTGOING ? NP_CONN_OPT_OUTGOING : 0;
  out->limited = NP_LIMITED_APP;
  if (c->sendq_head != NULL) out->limited = np_link_span(&c->link) == 0 ? NP_LIMITED_RWND : NP_LIMITED_CWND;
  out->mss_bytes = s->seg_bytes;
  out->snd_wnd_bytes = c->link.snd_room;
  out->rcv_wnd_bytes = c->link.ring_bytes - c->link.rcv_ready - c->link.rcv_held;
  out->inflight_bytes = c->flight_bytes;
  out->sendq_bytes = c->sendq_bytes;
  out->recvq_bytes = c->link.rcv_ready + c->link.rcv_held;
  out->rcv_buf_bytes = c->link.ring_bytes;
  out->snd_buf_bytes = r->config.base.snd_buf_bytes;
  out->ssthresh_bytes = UINT32_MAX;
  out->user_timeout_ms = c->user_timeout_ms;
  if (c->sq_head != c->sq_tail) out->unacked_ms = (uint32_t)((r->now_ns - c->progress_ns) / UINT64_C(1000000));
  out->created_ns = c->created_ns;
  out->last_rx_ns = c->last_rx_ns;
  out->bytes_rx = c->bytes_rx;
  out->bytes_tx = c->bytes_tx;
  out->segs_rx = c->msgs_rx;
  out->segs_tx = c->msgs_tx;
}

const struct np_stream_ops np_rdma_stream_ops = {
    .room = stream_room,
    .send = stream_send,
    .consumed = stream_consumed,
    .shutdown = stream_shutdown,
    .abort = stream_abort,
    .detach = stream_detach,
    .info = stream_info,
};
