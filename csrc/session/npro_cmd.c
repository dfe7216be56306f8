/* Commands from Go to one NPRO session. Bodies are lent buffers: every way out of
 * here gives them back, or leaves them queued on a stream. */
#include "session/session_int.h"


/* The stream a SEND goes to, opened when it is a new one of ours. */
static enum np_err send_stream(struct np_sess *s, const struct np_cmd *cmd, struct np_nstream **out) {
  bool opens = cmd->type != NP_NPRO_RESPONSE;
  uint32_t id = cmd->stream;
  if (id != 0) {
    *out = np_nstream_find(s, id);
    if (*out != NULL) {
      bool local = ((*out)->flags & NP_STF_LOCAL) != 0;
      if (cmd->type == (local ? NP_NPRO_RESPONSE : NP_NPRO_REQUEST)) return NP_ERR_INVALID;
      return ((*out)->flags & (NP_STF_TX_END | NP_STF_TX_ENDQ)) != 0 ? NP_ERR_STATE : NP_ERR_OK;
    }
    if (np_npro_peer_id(s, id) || id <= s->local_highest) return NP_ERR_STALE;
  }
  if (!opens) return NP_ERR_INVALID;
  if (s->state != NP_NPRO_OPEN || (s->flags & NP_SF_PEER_GOAWAY) != 0) return NP_ERR_SHUTDOWN;
  if (id == 0) {
    uint32_t first = (s->flags & NP_SF_CLIENT) != 0 ? 1 : 2;
    if (s->local_highest > UINT32_MAX - 2) return NP_ERR_FULL; /* numbers are never used again */
    id = s->local_highest == 0 ? first : s->local_highest + 2;
  }
  *out = np_nstream_open(s, id, true);
  if (*out == NULL) return NP_ERR_FULL;
  if (cmd->type == NP_NPRO_MESSAGE) (*out)->flags |= NP_STF_ONE_WAY;
  s->local_highest = id;
  return NP_ERR_OK;
}

static bool send_form_ok(const struct np_sess *s, const struct np_cmd *cmd, const struct np_buf *body) {
  if (cmd->type < NP_NPRO_REQUEST || cmd->type > NP_NPRO_DATA || cmd->priority > 7) return false;
  if ((cmd->flags & ~(NP_NPRO_F_END | NP_NPRO_F_MORE | NP_NPRO_F_CTX)) != 0) return false;
  if ((cmd->flags & NP_NPRO_F_END) != 0 && (cmd->flags & NP_NPRO_F_MORE) != 0) return false;
  uint32_t bytes = 0;
  uint32_t pieces = 0;
  for (; body != NULL; body = body->next) { /* bound: the pool's count */
    if (body->len == 0 || body->len > cmd->body_bytes - bytes) return false;
    if (++pieces > s->owner->env.pool->count) return false;
    bytes += body->len;
  }
  return bytes == cmd->body_bytes;
}

static enum np_err cmd_send(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body, uint32_t *out_stream) {
  if (!np_npro_is_open(s)) return NP_ERR_STATE;
  if (!send_form_ok(s, cmd, body)) return NP_ERR_INVALID;
  struct np_nstream *st = cmd->stream != 0 ? np_nstream_find(s, cmd->stream) : NULL;
  struct np_send_item item = {
      .left_bytes = cmd->body_bytes,
      .type = cmd->type,
      .flags = cmd->flags,
      .priority = cmd->priority,
      .lent = body != NULL,
      .from_go = true,
  };
  if (st == NULL || (st->flags & NP_STF_TX_MORE) == 0) {
    bool ok;
    item.head_bytes = np_npro_head_bytes(body, cmd->body_bytes, cmd->type, cmd->flags, &ok);
    uint32_t frame = np_min_u32(NP_NPRO_FRAGMENT, s->lim.max_frame_tx - NP_RECORD_TAG);
    if (!ok || item.head_bytes > frame || item.head_bytes > s->lim.stream_window_tx) return NP_ERR_INVALID;
  } else if ((cmd->flags & NP_NPRO_F_CTX) != 0) {
    return NP_ERR_INVALID;
  }
  if (s->sendq_items >= NP_NPRO_SENDQ_ITEMS || s->sendq_bytes >= NP_NPRO_SENDQ_BYTES) return NP_ERR_FULL;
  struct np_buf *holder = body;
  if (holder == NULL) { /* a bare END still needs a place in the queue */
    holder = np_pool_get(s->owner->env.pool);
    if (holder == NULL) return NP_ERR_NOBUF;
  }
  enum np_err err = send_stream(s, cmd, &st);
  if (err == NP_ERR_OK) err = np_npro_enqueue(s, st, &item, holder);
  if (err != NP_ERR_OK) {
    if (body == NULL) np_buf_put(holder);
    return err;
  }
  if ((cmd->flags & NP_NPRO_F_MORE) != 0) st->flags |= NP_STF_TX_MORE;
  else st->flags &= (uint16_t)~NP_STF_TX_MORE;
  if (out_stream != NULL) *out_stream = st->id;
  return NP_ERR_OK;
}

static enum np_err cmd_reset(struct np_sess *s, const struct np_cmd *cmd) {
  if (!np_npro_is_open(s)) return NP_ERR_STATE;
  struct np_nstream *st = np_nstream_find(s, cmd->stream);
  if (st == NULL) return NP_ERR_STALE;
  uint32_t id = st->id;
  bool known = (st->flags & NP_STF_UNOPENED) == 0; /* a RESET of a stream never opened is a breach */
  np_nstream_free(s, st);
  if (known) np_npro_refuse(s, id, cmd->arg);
  return NP_ERR_OK;
}

static enum np_err cmd_ping(struct np_sess *s, const struct np_cmd *cmd, const struct np_buf *body) {
  uint8_t text[NP_NPRO_PING_BYTES];
  if (!np_npro_is_open(s)) return NP_ERR_STATE;
  if (cmd->body_bytes > sizeof text || (body == NULL ? 0 : body->len) != cmd->body_bytes) return NP_ERR_INVALID;
  if (s->pings_count >= 32 || !np_npro_stage_ok(s)) return NP_ERR_FULL;
  if (cmd->body_bytes > 0) memcpy(text, np_buf_cdata(body), cmd->body_bytes);
  if (!np_npro_tx_control(s, NP_NPRO_PING, 0, text, cmd->body_bytes)) return NP_ERR_NOBUF;
  s->pings |= 1u << s->pings_count;
  s->pings_count++;
  return NP_ERR_OK;
}

static enum np_err cmd_credit(struct np_sess *s, const struct np_cmd *cmd) {
  if (!np_npro_is_open(s)) return NP_ERR_STATE;
  uint64_t after = (uint64_t)s->rx_credit + s->rx_freed + cmd->arg;
  if (after > s->lim.conn_window_rx) return NP_ERR_INVALID; /* more than was ever taken */
  struct np_nstream *st = np_nstream_find(s, cmd->stream);
  if (st != NULL && (uint64_t)st->rx_window + st->rx_freed + cmd->arg > s->lim.stream_window_rx) return NP_ERR_INVALID;
  np_npro_credit_conn(s, cmd->arg);
  if (st != NULL) np_npro_credit_stream(s, st, cmd->arg);
  return NP_ERR_OK;
}

void np_npro_begin_drain(struct np_sess *s) {
  s->state = NP_NPRO_DRAINING;
  s->deadline_ns = s->owner->now_ns + (uint64_t)s->owner->config.goaway_ms * 1000000u;
  np_npro_arm(s);
}

bool np_npro_goaway(struct np_sess *s) {
  uint8_t body[4];
  np_store_be32(body, s->peer_highest);
  if (!np_npro_tx_control(s, NP_NPRO_GOAWAY, 0, body, sizeof body)) return false;
  np_npro_begin_drain(s);
  return true;
}

/* DISCONNECT with a reason; what was queued and could not leave yet is given up. */
/* Before there are keys the code goes out in the clear: the peer can't trust it, but
 * it can tell its user why it was refused. */
static void refuse(struct np_sess *s, uint32_t code, const struct np_buf *reason) {
  struct np_buf *b = np_pool_get(s->owner->env.pool);
  if (b == NULL) return;
  np_store_be32(np_buf_append(b, 4), code);
  if (reason != NULL && reason->next == NULL && reason->len <= NP_NPRO_REASON_BYTES)
    memcpy(np_buf_append(b, reason->len), np_buf_cdata(reason), reason->len);
  (void)np_npro_tx_clear(s, NP_NPRO_DISCONNECT, b, b->len);
  np_buf_put(b);
}

static enum np_err cmd_close(struct np_sess *s, const struct np_cmd *cmd, const struct np_buf *body) {
  uint32_t code = cmd->arg != 0 ? cmd->arg : NP_CODE_NORMAL;
  if (s->state >= NP_NPRO_CLOSING) return NP_ERR_STATE;
  if (!np_npro_is_open(s)) refuse(s, code, body);
  if (np_npro_is_open(s)) np_npro_pump(s); /* what may leave goes before it */
  if (np_npro_is_open(s) && body != NULL && body->next == NULL && body->len <= NP_NPRO_REASON_BYTES) {
    struct np_frame f = {.type = NP_NPRO_DISCONNECT, .priority = 7};
    uint8_t *p = np_npro_tx_small(s, &f, 4 + body->len);
    if (p != NULL) {
      np_store_be32(p, code);
      memcpy(p + 4, np_buf_cdata(body), body->len);
      np_npro_close_quietly(s, NP_ERR_OK);
      return NP_ERR_OK;
    }
  }
  np_npro_close(s, code, NP_ERR_OK);
  return NP_ERR_OK;
}

static enum np_err dispatch(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body) {
  switch (cmd->op) {
    case NP_CMD_CLOSE: return cmd_close(s, cmd, body);
    case NP_CMD_ABORT: np_npro_abort(s, NP_ERR_ABORTED); return NP_ERR_OK;
    case NP_CMD_HANDSHAKE: return np_npro_cmd_handshake(s, cmd, body);
    case NP_CMD_KEYS: return np_npro_cmd_keys(s, body);
    case NP_CMD_RESET: return cmd_reset(s, cmd);
    case NP_CMD_PING: return cmd_ping(s, cmd, body);
    case NP_CMD_CREDIT: return cmd_credit(s, cmd);
    case NP_CMD_REKEY:
      if (!np_npro_is_open(s)) return NP_ERR_STATE;
      return np_npro_rekey_tx(s) ? NP_ERR_OK : NP_ERR_NOBUF;
    case NP_CMD_GOAWAY:
      if (s->state != NP_NPRO_OPEN) return NP_ERR_STATE;
      return np_npro_goaway(s) ? NP_ERR_OK : NP_ERR_NOBUF;
    default: return NP_ERR_UNSUPPORTED;
  }
}

enum np_err np_npro_command(struct np_sess *s, const struct np_cmd *cmd, struct np_buf *body, uint32_t *out_stream) {
  struct np_sessions *ss = s->owner;
  enum np_err err = NP_ERR_STALE;
  bool queued = false;
  if (s->state != NP_NPRO_CLOSED) {
    if (cmd->op == NP_CMD_SEND) {
      err = cmd_send(s, cmd, body, out_stream);
      queued = err == NP_ERR_OK;
    } else {
      err = dispatch(s, cmd, body);
    }
  }
  np_sessions_wipe(cmd);
  if (!queued && body != NULL) ss->env.loan_return(ss->env.ctx, body);
  return err;
}
