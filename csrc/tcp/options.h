/* TCP options: parsing with every length checked, and the SACK blocks both
 * directions share. */
#ifndef NP_TCP_OPTIONS_H
#define NP_TCP_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/seq.h"

struct np_tcp_block {
  np_seq start;
  np_seq end;
};

struct np_tcp_opts {
  uint32_t tsval;
  uint32_t tsecr;
  uint16_t mss;    /* 0: absent */
  uint8_t wscale;  /* at most 14 */
  uint8_t sack_count;
  bool has_wscale;
  bool has_ts;
  bool sack_ok;
  struct np_tcp_block sack[4];
};

/* Parses len bytes of options (at most 40). What only a SYN may carry is
 * ignored elsewhere. Unknown kinds are skipped (RFC 9293 §3.1, MUST-6).
 * Return: false when a length is impossible; out is then incomplete. */
bool np_tcp_opts_parse(const uint8_t *p, uint32_t len, bool syn, struct np_tcp_opts *out);

/* Writers return the bytes written, a multiple of 4. */
uint32_t np_tcp_opts_put_ts(uint8_t *p, uint32_t tsval, uint32_t tsecr);
uint32_t np_tcp_opts_put_mss(uint8_t *p, uint16_t mss);
uint32_t np_tcp_opts_put_wscale(uint8_t *p, uint8_t wscale);
uint32_t np_tcp_opts_put_sack_ok(uint8_t *p);
uint32_t np_tcp_opts_put_sack(uint8_t *p, const struct np_tcp_block *dsack, const struct np_tcp_block *blocks,
                              uint32_t count, uint32_t room);

#endif
