/* Bodies of REQUEST, MESSAGE and RESPONSE, and the context block, read from and
 * written into chains of buffers. README.md in this folder is the description.
 *
 * Thread: any; nothing is kept. Everything read is hostile: what a parser
 * accepts has exactly the form described, and a parser never reads past left. */
#ifndef NP_CODEC_BODY_H
#define NP_CODEC_BODY_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/frame.h"
#include "np/buf.h"
#include "np/counter.h"
#include "np/npro.h"

/* A place in a chain and how many bytes of the body still follow. */
struct np_cursor {
  const struct np_buf *buf;
  uint32_t off;  /* into the data of buf */
  uint32_t left; /* bytes of the body from here */
};

/* The chain must hold off + bytes bytes of data. */
struct np_cursor np_cursor_at(const struct np_buf *buf, uint32_t off, uint32_t bytes);
/* Copies the next n bytes and moves on. Return: false, nothing done, when fewer are left. */
bool np_cursor_read(struct np_cursor *at, void *out, uint32_t n);
bool np_cursor_skip(struct np_cursor *at, uint32_t n);

#define NP_OPCODE_MAX 63u

enum np_context_key {
  NP_CONTEXT_TRACEPARENT = 0x01, /* 26 bytes */
  NP_CONTEXT_DEADLINE = 0x02,    /* u32 ms left */
  NP_CONTEXT_TENANT = 0x03,
  NP_CONTEXT_SESSION = 0x04,
  NP_CONTEXT_APP_FIRST = 0x40,
  NP_CONTEXT_APP_LAST = 0x7f,
};
#define NP_TRACEPARENT_BYTES 26u

struct np_context {
  struct np_cursor entries; /* the block as it came, length field left out: what is forwarded */
  struct np_cursor tenant;  /* left: 0 to 255 bytes of UTF-8 */
  struct np_cursor session;
  uint32_t deadline_ms;
  bool has_deadline;
  bool has_traceparent;
  bool has_tenant;
  bool has_session;
  uint8_t traceparent[NP_TRACEPARENT_BYTES];
};

struct np_request {
  uint8_t opcode_bytes; /* 1 to NP_OPCODE_MAX */
  uint8_t opcode[NP_OPCODE_MAX];
};

/* Reads the block that CTX announces and leaves at behind it. Keys 01 to 04 come
 * once at most, with the sizes and text given; others may repeat and are kept in
 * entries. Return: NP_FRAME_OK or NP_DROP_NPRO_BODY. */
enum np_drop np_body_context(struct np_cursor *at, struct np_context *out);
/* REQUEST and MESSAGE: reads the opcode and leaves at on the payload (at->left bytes). */
enum np_drop np_body_request(struct np_cursor *at, struct np_request *out);
/* RESPONSE: reads the status and leaves at on the payload. */
enum np_drop np_body_response(struct np_cursor *at, uint8_t *out_status);
/* DISCONNECT: u32 code, then a UTF-8 reason of which out gets at most reason_max bytes. */
enum np_drop np_body_disconnect(struct np_cursor *at, uint32_t *out_code, uint8_t *reason, uint32_t reason_max,
                                uint32_t *out_reason_bytes);
/* GOAWAY, WINDOW, RESET: exactly one u32. */
enum np_drop np_body_u32(struct np_cursor *at, uint32_t *out);

/* Whether op is the opcode that text (no longer than NP_OPCODE_MAX) names. */
bool np_request_is(const struct np_request *request, const char *text);

/* Builders write at out and return the bytes written, 0 when cap is too small
 * or what they are given breaks the format's bounds. */
uint32_t np_build_request(uint8_t *out, uint32_t cap, const uint8_t *opcode, uint32_t opcode_bytes);
uint32_t np_build_disconnect(uint8_t *out, uint32_t cap, uint32_t code, const char *reason, uint32_t reason_bytes);
/* One entry appended at out; np_build_context_close writes the length in front.
 * Use: off = NP_CONTEXT_LEN; off += np_build_context_entry(out + off, ...); np_build_context_close(out, off). */
#define NP_CONTEXT_LEN 2u
uint32_t np_build_context_entry(uint8_t *out, uint32_t cap, uint8_t key, const uint8_t *value, uint32_t value_bytes);
uint32_t np_build_context_close(uint8_t *out, uint32_t block_bytes);

/* Strict UTF-8 (RFC 3629 §3): shortest forms, no surrogates, at most U+10FFFF. */
bool np_utf8_valid(const uint8_t *text, uint32_t n);

#endif
