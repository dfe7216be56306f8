#include "base/chain.h"

#include <string.h>

#include "base/cksum.h"

uint64_t np_buf_cksum(uint64_t sum, const struct np_buf *b, uint32_t off, uint32_t len) {
  bool odd = false; /* the next byte is the second of its 16-bit word */
  for (; len != 0; b = b->next) {
    np_assert(b != NULL);
    if (off >= b->len) {
      off -= b->len;
      continue;
    }
    uint32_t n = np_min_u32(b->len - off, len);
    const uint8_t *p = np_buf_cdata(b) + off;
    if (!odd) {
      sum = np_cksum_add(sum, p, n);
    } else { /* the sum of what starts at an odd place is that of an even one, its bytes exchanged (RFC 1071 §2(B)) */
      uint16_t part = np_cksum_fold(np_cksum_add(0, p, n));
      sum = np_cksum_add64(sum, __builtin_bswap16(part));
    }
    if (n & 1) odd = !odd;
    len -= n;
    off = 0;
  }
  return sum;
}

void np_buf_trim(struct np_buf *b, uint32_t len) {
  while (b->next != NULL && len > b->len) { /* bound: the chain */
    len -= b->len;
    b = b->next;
  }
  np_assert(len <= b->len);
  b->len = len;
  np_buf_put_chain(b->next);
  b->next = NULL;
}

void np_buf_copy(const struct np_buf *b, uint32_t off, void *out, uint32_t len) {
  uint8_t *to = out;
  for (; len != 0; b = b->next) {
    np_assert(b != NULL);
    if (off >= b->len) {
      off -= b->len;
      continue;
    }
    uint32_t n = np_min_u32(b->len - off, len);
    memcpy(to, np_buf_cdata(b) + off, n);
    to += n;
    len -= n;
    off = 0;
  }
}

struct np_buf *np_buf_linear(struct np_buf *b) {
  if (b->next == NULL) return b;
  uint32_t total = np_buf_chain_len(b);
  uint32_t rest = total - b->len;
  if (b->refs == 1 && rest <= np_buf_tailroom(b)) {
    np_buf_copy(b->next, 0, np_buf_append(b, rest), rest);
    np_buf_put_chain(b->next);
    b->next = NULL;
    return b;
  }
  if (total > b->pool->chunk_bytes - NP_BUF_DATA_OFF) return b;
  struct np_buf *to = np_pool_get(b->pool);
  if (to == NULL) return b;
  np_buf_copy(b, 0, np_buf_append(to, total), total);
  to->flags = b->flags;
  to->iface = b->iface;
  to->l3_off = (uint16_t)(b->l3_off - b->data_off + to->data_off);
  to->l4_off = (uint16_t)(b->l4_off - b->data_off + to->data_off);
  to->l4_proto = b->l4_proto;
  to->frame_off = (uint16_t)to->data_off;
  to->frame_len = (uint16_t)to->len;
  to->rx_ns = b->rx_ns;
  np_buf_put_chain(b);
  return to;
}

struct np_buf *np_buf_pack(struct np_buf *b) {
  uint32_t room = b->pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t total = np_buf_chain_len(b);
  if (np_pool_avail(b->pool) < (total + room - 1) / room) return NULL;
  struct np_buf *head = NULL;
  struct np_buf *tail = NULL;
  for (uint32_t off = 0; off < total; off += room) {
    struct np_buf *to = np_pool_get(b->pool);
    uint32_t n = np_min_u32(room, total - off);
    np_assert(to != NULL); /* counted above */
    np_buf_copy(b, off, np_buf_append(to, n), n);
    if (tail != NULL) tail->next = to;
    if (head == NULL) head = to;
    tail = to;
  }
  np_buf_put_chain(b);
  return head;
}
