/* The handshake's part on the core: frames in the clear, one at a time, to Go
 * and back; then the keys. No cryptography of the handshake happens here. */
#include "session/session_int.h"

static void started(struct np_sess *s) {
  if ((s->flags & NP_SF_HS_STARTED) != 0) return;
  s->flags |= NP_SF_HS_STARTED;
  s->owner->env.counters->counter[NP_C_NPRO_HS_STARTED]++;
}

void np_npro_handshake_frame(struct np_sess *s, const struct np_frame *f) {
  struct np_bufq body = {0};
  np_npro_rx_drop(s, NP_NPRO_HEADER);
  if (!np_npro_rx_take(s, f->length, &body)) {
    np_npro_frame_drop(s, NP_DROP_NPRO_NO_BUFFER);
    np_npro_abort(s, NP_ERR_NOBUF);
    return;
  }
  started(s);
  np_npro_frame_ok(s);
  s->state = NP_NPRO_AWAIT_CONTROL; /* nothing more is read until Go answers */
  struct np_event ev = {.op = NP_EV_HANDSHAKE, .type = f->type, .body = body.head, .body_bytes = body.bytes};
  np_sess_event(s, &ev);
}

enum np_err np_npro_cmd_handshake(struct np_sess *s, const struct np_cmd *cmd, const struct np_buf *body) {
  if (s->state != NP_NPRO_AWAIT_CONTROL || (s->flags & NP_SF_OPEN_SENT) == 0) return NP_ERR_STATE;
  if (cmd->type < NP_NPRO_HANDSHAKE_1 || cmd->type > NP_NPRO_HANDSHAKE_3) return NP_ERR_INVALID;
  if (cmd->body_bytes == 0 || cmd->body_bytes > s->owner->config.handshake_frame_bytes) return NP_ERR_INVALID;
  if (!np_npro_tx_clear(s, cmd->type, body, cmd->body_bytes)) return NP_ERR_NOBUF;
  started(s);
  if ((cmd->cmd_flags & NP_CMD_F_MORE) != 0) {
    s->state = NP_NPRO_AWAIT_HANDSHAKE;
    np_sess_dirty(s); /* it may be here already */
  }
  return NP_ERR_OK;
}

static bool keys_ok(const struct np_npro_keys *k) {
  const uint32_t frame_max = (16u << 20) + NP_RECORD_TAG;
  const uint32_t frame_min = 1024; /* the longest opcode and a context block of use fit */
  if (k->aead != NP_AEAD_XCHACHA20_POLY1305 && k->aead != NP_AEAD_AES_256_GCM) return false;
  if (k->compression > NP_COMPRESSION_ZSTD || k->compression_rx >= 1u << (NP_COMPRESSION_ZSTD + 1)) return false;
  if (k->max_frame_tx_bytes < frame_min || k->max_frame_tx_bytes > frame_max) return false;
  if (k->max_frame_rx_bytes < frame_min || k->max_frame_rx_bytes > frame_max) return false;
  if (k->stream_window_tx_bytes > NP_NPRO_WINDOW_MAX || k->conn_window_tx_bytes > NP_NPRO_WINDOW_MAX) return false;
  if (k->stream_window_rx_bytes > NP_NPRO_WINDOW_MAX || k->conn_window_rx_bytes > NP_NPRO_WINDOW_MAX) return false;
  return k->max_payload_bytes <= 16u << 20;
}

static void keep_limits(struct np_sess *s, const struct np_npro_keys *k) {
  int32_t level = k->compression_level;
  if (level < NP_COMPRESS_LEVEL_MIN) level = NP_COMPRESS_LEVEL_MIN;
  if (level > NP_COMPRESS_LEVEL_MAX) level = NP_COMPRESS_LEVEL_MAX;
  s->lim = (struct np_npro_limits){
      .max_frame_tx = k->max_frame_tx_bytes,
      .max_frame_rx = k->max_frame_rx_bytes,
      .stream_window_tx = k->stream_window_tx_bytes,
      .stream_window_rx = k->stream_window_rx_bytes,
      .conn_window_rx = k->conn_window_rx_bytes,
      .compression_threshold = k->compression_threshold_bytes,
      .max_streams = k->max_streams,
      .max_payload = k->max_payload_bytes,
      .heartbeat_ms = k->heartbeat_ms,
      .compression_level = (int16_t)level,
      .compression = k->compression,
      .compression_rx = k->compression_rx,
      .features = (uint8_t)k->features,
      /* 0 is the protocol's default: 2^24 records, 64 GiB, 1 h */
      .rekey_records = k->rekey_records != 0 ? k->rekey_records : UINT64_C(1) << 24,
      .rekey_bytes = k->rekey_bytes != 0 ? k->rekey_bytes : UINT64_C(64) << 30,
      .rekey_ns = k->rekey_ns != 0 ? k->rekey_ns : UINT64_C(3600) * 1000000000u,
  };
}

static enum np_err install(struct np_sess *s, const struct np_npro_keys *k) {
  struct np_sessions *ss = s->owner;
  if (!keys_ok(k)) return NP_ERR_INVALID;
  enum np_err err = np_record_dir_init(ss->env.crypto, &s->rx_dir, (enum np_aead)k->aead, k->rx_key);
  if (err == NP_ERR_OK) err = np_record_dir_init(ss->env.crypto, &s->tx_dir, (enum np_aead)k->aead, k->tx_key);
  if (err != NP_ERR_OK) return err;
  keep_limits(s, k);
  memcpy(s->conn_id, k->conn_id, sizeof s->conn_id);
  if (k->is_client != 0) s->flags |= NP_SF_CLIENT;
  s->flags |= NP_SF_KEYED;
  s->tx_window = k->conn_window_tx_bytes;
  s->rx_credit = k->conn_window_rx_bytes;
  s->key_ns = ss->now_ns;
  s->last_rx_ns = ss->now_ns;
  s->last_tx_ns = ss->now_ns;
  s->state = NP_NPRO_OPEN;
  ss->env.counters->counter[NP_C_NPRO_HS_DONE]++;
  np_npro_arm(s);
  np_sess_dirty(s); /* the peer's first records may be here already */
  return NP_ERR_OK;
}

enum np_err np_npro_cmd_keys(struct np_sess *s, const struct np_buf *body) {
  struct np_npro_keys keys;
  if (body == NULL || body->next != NULL || body->len != sizeof keys) return NP_ERR_INVALID;
  enum np_err err = NP_ERR_STATE;
  memcpy(&keys, np_buf_cdata(body), sizeof keys);
  if (s->state == NP_NPRO_AWAIT_CONTROL && (s->flags & NP_SF_OPEN_SENT) != 0) err = install(s, &keys);
  explicit_bzero(&keys, sizeof keys);
  return err;
}
