/* A hostile client of an NPRO session: it holds the keys and seals whatever it
 * likes, or sends bytes as they are. */
#ifndef NP_TEST_SESSION_PEER_H
#define NP_TEST_SESSION_PEER_H

#include "session_rig.h"

struct peer {
  struct rig *r;
  struct np_record_dir tx;
};

/* Server session with keys and no client session: end 0 is the test's own. */
static inline struct peer peer_new(uint32_t streams_max, const struct np_npro_keys *server) {
  struct peer p = {.r = rig_new(4, streams_max)};
  rig_npro(p.r, 1);
  static const uint8_t hs[16 + 1] = {'N', 'P', 'R', 'O', 2, 0, 0, 0, 0, 1, NP_NPRO_HANDSHAKE_1, 0, 0, 0, 0, 0, 9};
  rig_feed(p.r, 1, hs, sizeof hs);
  rig_run(p.r);
  enum np_err err = rig_cmd(p.r, 1, (struct np_cmd){.op = NP_CMD_KEYS}, server, sizeof *server, NULL);
  np_assert(err == NP_ERR_OK);
  rig_run(p.r);
  rig_clear(p.r);
  err = np_record_dir_init(p.r->crypto, &p.tx, (enum np_aead)server->aead, server->rx_key);
  np_assert(err == NP_ERR_OK);
  return p;
}

/* Seals one frame of at most 1,500 bytes into out. Return: bytes. */
static inline uint32_t peer_seal(struct peer *p, const struct np_frame *f, const void *body, uint32_t n, uint8_t *out) {
  /* memory of its own: the pool is the other side's */
  struct np_buf *b = calloc(1, 2048);
  np_assert(b != NULL && n <= 1500);
  b->data_off = NP_BUF_DATA_OFF;
  b->cap_bytes = 2048;
  if (n > 0) memcpy(np_buf_append(b, n), body, n);
  (void)np_buf_append(b, NP_RECORD_TAG);
  struct np_frame g = *f;
  g.length = n + NP_RECORD_TAG;
  struct np_record rec = {.dir = &p->tx, .buf = b, .body_off = 0, .body_bytes = n};
  np_frame_encode(&g, rec.header);
  np_record_seal(p->r->crypto, &rec, 1);
  memcpy(out, rec.header, 16);
  memcpy(out + 16, np_buf_cdata(b), n + NP_RECORD_TAG);
  free(b);
  return 16 + n + NP_RECORD_TAG;
}

static inline void peer_send(struct peer *p, uint8_t type, uint8_t flags, uint32_t stream, const void *body, uint32_t n) {
  uint8_t out[1600];
  struct np_frame f = {.type = type, .flags = (uint8_t)(flags | NP_NPRO_F_ENC), .stream = stream};
  uint32_t bytes = peer_seal(p, &f, body, n, out);
  if (p->r->end[1].stream.session == NULL) return;
  rig_feed(p->r, 1, out, bytes);
  rig_run(p->r);
}

#endif
