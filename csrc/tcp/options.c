#include "tcp/options.h"

#include "base/bytes.h"

enum { OPT_END = 0, OPT_NOP = 1, OPT_MSS = 2, OPT_WSCALE = 3, OPT_SACK_OK = 4, OPT_SACK = 5, OPT_TS = 8 };

#define WSCALE_MAX 14u /* RFC 7323 §2.3 */

static void parse_sack(const uint8_t *p, uint32_t bytes, struct np_tcp_opts *out) {
  uint32_t n = np_min_u32(bytes / 8, NP_COUNT_OF(out->sack));
  for (uint32_t i = 0; i < n; i++) {
    out->sack[i].start = np_seq_of(np_load_be32(p + 8 * i));
    out->sack[i].end = np_seq_of(np_load_be32(p + 8 * i + 4));
  }
  out->sack_count = (uint8_t)n;
}

/* One option of right or wrong length; a known kind of wrong length is an error
 * of the whole segment, because what follows can't be trusted either. */
static bool parse_one(const uint8_t *p, uint32_t olen, bool syn, struct np_tcp_opts *out) {
  switch (p[0]) {
    case OPT_MSS:
      if (olen != 4) return false;
      if (syn) out->mss = np_load_be16(p + 2);
      return true;
    case OPT_WSCALE:
      if (olen != 3) return false;
      out->has_wscale = syn;
      out->wscale = p[2] > WSCALE_MAX ? WSCALE_MAX : p[2];
      return true;
    case OPT_SACK_OK:
      if (olen != 2) return false;
      out->sack_ok = syn;
      return true;
    case OPT_SACK:
      if (olen < 10 || (olen - 2) % 8 != 0) return false;
      parse_sack(p + 2, olen - 2, out);
      return true;
    case OPT_TS:
      if (olen != 10) return false;
      out->has_ts = true;
      out->tsval = np_load_be32(p + 2);
      out->tsecr = np_load_be32(p + 6);
      return true;
    default:
      return true;
  }
}

bool np_tcp_opts_parse(const uint8_t *p, uint32_t len, bool syn, struct np_tcp_opts *out) {
  out->mss = 0;
  out->sack_count = 0;
  out->has_wscale = false;
  out->has_ts = false;
  out->sack_ok = false;
  uint32_t i = 0;
  while (i < len) {
    if (p[i] == OPT_END) return true;
    if (p[i] == OPT_NOP) {
      i++;
      continue;
    }
    if (len - i < 2) return false;
    uint32_t olen = p[i + 1];
    if (olen < 2 || olen > len - i) return false;
    if (!parse_one(p + i, olen, syn, out)) return false;
    i += olen;
  }
  return true;
}

uint32_t np_tcp_opts_put_ts(uint8_t *p, uint32_t tsval, uint32_t tsecr) {
  np_store_be32(p, (uint32_t)OPT_NOP << 24 | OPT_NOP << 16 | OPT_TS << 8 | 10);
  np_store_be32(p + 4, tsval);
  np_store_be32(p + 8, tsecr);
  return 12;
}

uint32_t np_tcp_opts_put_mss(uint8_t *p, uint16_t mss) {
  np_store_be32(p, (uint32_t)OPT_MSS << 24 | 4 << 16 | mss);
  return 4;
}

uint32_t np_tcp_opts_put_wscale(uint8_t *p, uint8_t wscale) {
  np_store_be32(p, (uint32_t)OPT_NOP << 24 | OPT_WSCALE << 16 | 3 << 8 | wscale);
  return 4;
}

uint32_t np_tcp_opts_put_sack_ok(uint8_t *p) {
  np_store_be32(p, (uint32_t)OPT_NOP << 24 | OPT_NOP << 16 | OPT_SACK_OK << 8 | 2);
  return 4;
}

uint32_t np_tcp_opts_put_sack(uint8_t *p, const struct np_tcp_block *dsack, const struct np_tcp_block *blocks,
                              uint32_t count, uint32_t room) {
  bool dup = !np_seq_eq(dsack->start, dsack->end);
  uint32_t n = count + (dup ? 1u : 0u);
  if (n > 4) n = 4;
  while (n > 0 && 4 + 8 * n > room) n--;
  if (n == 0) return 0;
  np_store_be32(p, (uint32_t)OPT_NOP << 24 | OPT_NOP << 16 | OPT_SACK << 8 | (2 + 8 * n));
  uint32_t i = 0;
  if (dup) { /* RFC 2883 §4: the duplicate comes first */
    np_store_be32(p + 4, dsack->start.v);
    np_store_be32(p + 8, dsack->end.v);
    i = 1;
  }
  for (uint32_t j = 0; i < n; i++, j++) {
    np_store_be32(p + 4 + 8 * i, blocks[j].start.v);
    np_store_be32(p + 8 + 8 * i, blocks[j].end.v);
  }
  return 4 + 8 * n;
}
