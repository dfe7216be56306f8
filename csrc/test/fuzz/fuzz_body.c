/* Bodies: any bytes in pieces of any size. First byte: how the chain is cut and
 * which parser runs; the rest is the body. */
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "codec/body.h"
#include "codec/frame.h"
#include "fuzz_chain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_request(struct np_cursor *at, uint32_t n) {
  struct np_request r;
  if (np_body_request(at, &r) != NP_FRAME_OK) return;
  np_assert(r.opcode_bytes >= 1);
  np_assert(r.opcode_bytes <= NP_OPCODE_MAX);
  np_assert(at->left == n - 1 - r.opcode_bytes);
  uint8_t back[1 + NP_OPCODE_MAX];
  np_assert(np_build_request(back, sizeof back, r.opcode, r.opcode_bytes) == 1u + r.opcode_bytes);
}

static void read_context(struct np_cursor *at, uint32_t n) {
  struct np_context c;
  if (np_body_context(at, &c) != NP_FRAME_OK) return;
  np_assert(c.entries.left <= UINT16_MAX);
  np_assert(at->left == n - 2 - c.entries.left);
  np_assert(np_cursor_skip(&c.entries, c.entries.left));
  read_request(at, at->left);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || size > 70000) return 0;
  uint32_t n = (uint32_t)size - 1;
  struct np_buf *b = fuzz_chain(data + 1, n, data[0] >> 3, 1 + (data[0] >> 5));
  struct np_cursor at = np_cursor_at(b, 0, n);
  uint32_t code;
  uint32_t got;
  uint8_t status;
  uint8_t reason[32];
  switch (data[0] & 7) {
    case 0: read_request(&at, n); break;
    case 1: read_context(&at, n); break;
    case 2: np_assert((np_body_response(&at, &status) == NP_FRAME_OK) == (n > 0)); break;
    case 3: np_assert((np_body_u32(&at, &code) == NP_FRAME_OK) == (n == 4)); break;
    default:
      if (np_body_disconnect(&at, &code, reason, sizeof reason, &got) == NP_FRAME_OK) {
        np_assert(got <= sizeof reason);
        np_assert(np_utf8_valid(reason, got));
      }
  }
  np_assert(at.left <= n);
  np_assert(np_cursor_skip(&at, at.left));
  fuzz_chain_free(b);
  return 0;
}
