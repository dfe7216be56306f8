#include "codec/body.h"

#include <string.h>

#include "base/bytes.h"
#include "base/pool.h"

struct np_cursor np_cursor_at(const struct np_buf *buf, uint32_t off, uint32_t bytes) {
  return (struct np_cursor){.buf = buf, .off = off, .left = bytes};
}

/* Contiguous bytes at the cursor, at most n, at least 1. n is at most left, and
 * the chain holds left bytes: that is the caller's guarantee, not the peer's. */
static uint32_t span(struct np_cursor *at, uint32_t n, const uint8_t **p) {
  np_assert(at->buf != NULL);
  while (at->off >= at->buf->len) {
    at->off -= at->buf->len;
    at->buf = at->buf->next;
    np_assert(at->buf != NULL);
  }
  uint32_t m = np_min_u32(n, at->buf->len - at->off);
  *p = np_buf_cdata(at->buf) + at->off;
  at->off += m;
  at->left -= m;
  return m;
}

bool np_cursor_read(struct np_cursor *at, void *out, uint32_t n) {
  if (n > at->left) return false;
  uint8_t *o = out;
  while (n > 0) {
    const uint8_t *p;
    uint32_t m = span(at, n, &p);
    memcpy(o, p, m);
    o += m;
    n -= m;
  }
  return true;
}

bool np_cursor_skip(struct np_cursor *at, uint32_t n) {
  if (n > at->left) return false;
  while (n > 0) {
    const uint8_t *p;
    n -= span(at, n, &p);
  }
  return true;
}

/* A text entry of n bytes: once, and UTF-8. */
static bool context_text(struct np_cursor *at, uint32_t n, struct np_cursor *out, bool *has) {
  uint8_t text[UINT8_MAX];
  if (*has) return false;
  *has = true;
  *out = *at;
  out->left = n;
  return np_cursor_read(at, text, n) && np_utf8_valid(text, n);
}

static bool context_entry(struct np_cursor *at, struct np_context *out) {
  uint8_t head[2]; /* key, length */
  if (!np_cursor_read(at, head, sizeof head)) return false;
  switch (head[0]) {
    case NP_CONTEXT_TRACEPARENT:
      if (head[1] != NP_TRACEPARENT_BYTES || out->has_traceparent) return false;
      out->has_traceparent = true;
      return np_cursor_read(at, out->traceparent, NP_TRACEPARENT_BYTES);
    case NP_CONTEXT_DEADLINE: {
      uint8_t v[4];
      if (head[1] != sizeof v || out->has_deadline || !np_cursor_read(at, v, sizeof v)) return false;
      out->has_deadline = true;
      out->deadline_ms = np_load_be32(v);
      return true;
    }
    case NP_CONTEXT_TENANT:
      return context_text(at, head[1], &out->tenant, &out->has_tenant);
    case NP_CONTEXT_SESSION:
      return context_text(at, head[1], &out->session, &out->has_session);
    default:
      return np_cursor_skip(at, head[1]);
  }
}

enum np_drop np_body_context(struct np_cursor *at, struct np_context *out) {
  uint8_t len[2];
  memset(out, 0, sizeof *out);
  if (!np_cursor_read(at, len, sizeof len)) return NP_DROP_NPRO_BODY;
  uint32_t bytes = np_load_be16(len);
  if (bytes > at->left) return NP_DROP_NPRO_BODY;
  struct np_cursor block = *at;
  block.left = bytes;
  out->entries = block;
  /* Bound: each entry takes two bytes at least. */
  while (block.left > 0) {
    if (!context_entry(&block, out)) return NP_DROP_NPRO_BODY;
  }
  np_cursor_skip(at, bytes);
  return NP_FRAME_OK;
}

enum np_drop np_body_request(struct np_cursor *at, struct np_request *out) {
  uint8_t n;
  memset(out, 0, sizeof *out);
  if (!np_cursor_read(at, &n, 1) || n < 1 || n > NP_OPCODE_MAX) return NP_DROP_NPRO_BODY;
  if (!np_cursor_read(at, out->opcode, n) || !np_utf8_valid(out->opcode, n)) return NP_DROP_NPRO_BODY;
  out->opcode_bytes = n;
  return NP_FRAME_OK;
}

enum np_drop np_body_response(struct np_cursor *at, uint8_t *out_status) {
  return np_cursor_read(at, out_status, 1) ? NP_FRAME_OK : NP_DROP_NPRO_BODY;
}

enum np_drop np_body_disconnect(struct np_cursor *at, uint32_t *out_code, uint8_t *reason, uint32_t reason_max,
                                uint32_t *out_reason_bytes) {
  uint8_t code[4];
  *out_reason_bytes = 0;
  if (!np_cursor_read(at, code, sizeof code)) return NP_DROP_NPRO_BODY;
  *out_code = np_load_be32(code);
  uint32_t n = np_min_u32(at->left, reason_max);
  bool whole = n == at->left;
  np_cursor_read(at, reason, n);
  if (!whole) { /* cut between characters: continuation bytes at the end go with what they belong to */
    uint32_t keep = n;
    for (uint32_t i = 0; i < 4 && keep > 0 && !np_utf8_valid(reason, keep); i++) keep--;
    n = keep;
  }
  if (!np_utf8_valid(reason, n)) return NP_DROP_NPRO_BODY;
  *out_reason_bytes = n;
  return NP_FRAME_OK;
}

enum np_drop np_body_u32(struct np_cursor *at, uint32_t *out) {
  uint8_t v[4];
  if (at->left != sizeof v || !np_cursor_read(at, v, sizeof v)) return NP_DROP_NPRO_BODY;
  *out = np_load_be32(v);
  return NP_FRAME_OK;
}

bool np_request_is(const struct np_request *request, const char *text) {
  uint32_t n = request->opcode_bytes;
  for (uint32_t i = 0; i < n; i++) { /* never past text's end, which may come first */
    if (text[i] == 0 || (uint8_t)text[i] != request->opcode[i]) return false;
  }
  return text[n] == 0;
}

uint32_t np_build_request(uint8_t *out, uint32_t cap, const uint8_t *opcode, uint32_t opcode_bytes) {
  if (opcode_bytes < 1 || opcode_bytes > NP_OPCODE_MAX || cap < 1 + opcode_bytes) return 0;
  if (!np_utf8_valid(opcode, opcode_bytes)) return 0;
  out[0] = (uint8_t)opcode_bytes;
  memcpy(out + 1, opcode, opcode_bytes);
  return 1 + opcode_bytes;
}

uint32_t np_build_disconnect(uint8_t *out, uint32_t cap, uint32_t code, const char *reason, uint32_t reason_bytes) {
  if (cap < 4 || reason_bytes > cap - 4) return 0;
  if (!np_utf8_valid((const uint8_t *)reason, reason_bytes)) return 0;
  np_store_be32(out, code);
  if (reason_bytes > 0) memcpy(out + 4, reason, reason_bytes);
  return 4 + reason_bytes;
}

uint32_t np_build_context_entry(uint8_t *out, uint32_t cap, uint8_t key, const uint8_t *value, uint32_t value_bytes) {
  if (value_bytes > UINT8_MAX || cap < 2 + value_bytes) return 0;
  if (key == NP_CONTEXT_TRACEPARENT && value_bytes != NP_TRACEPARENT_BYTES) return 0;
  if (key == NP_CONTEXT_DEADLINE && value_bytes != 4) return 0;
  out[0] = key;
  out[1] = (uint8_t)value_bytes;
  if (value_bytes > 0) memcpy(out + 2, value, value_bytes);
  return 2 + value_bytes;
}

uint32_t np_build_context_close(uint8_t *out, uint32_t block_bytes) {
  if (block_bytes < NP_CONTEXT_LEN || block_bytes - NP_CONTEXT_LEN > UINT16_MAX) return 0;
  np_store_be16(out, (uint16_t)(block_bytes - NP_CONTEXT_LEN));
  return block_bytes;
}

/* Bytes of the sequence that starts at p, of which n are there; 0 when it is none. */
static uint32_t utf8_step(const uint8_t *p, uint32_t n) {
  uint8_t a = p[0];
  if (a < 0x80) return 1;
  uint32_t len = a >= 0xc2 && a <= 0xdf ? 2 : a >= 0xe0 && a <= 0xef ? 3 : a >= 0xf0 && a <= 0xf4 ? 4 : 0;
  if (len == 0 || len > n) return 0;
  for (uint32_t i = 1; i < len; i++) {
    if ((p[i] & 0xc0) != 0x80) return 0;
  }
  if (a == 0xe0 && p[1] < 0xa0) return 0; /* longer than needed */
  if (a == 0xed && p[1] > 0x9f) return 0; /* surrogates */
  if (a == 0xf0 && p[1] < 0x90) return 0;
  if (a == 0xf4 && p[1] > 0x8f) return 0; /* above U+10FFFF */
  return len;
}

bool np_utf8_valid(const uint8_t *text, uint32_t n) {
  for (uint32_t i = 0; i < n;) {
    uint32_t step = utf8_step(text + i, n - i);
    if (step == 0) return false;
    i += step;
  }
  return true;
}
